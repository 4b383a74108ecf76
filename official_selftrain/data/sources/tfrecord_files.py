"""TFRecord files with the feature names of the TF Model Garden."""

import glob as globbing
import os
import struct

import tensorflow as tf

from official_selftrain.data import examples

_READ_BUFFER = 2**20  # bytes


def tfrecord(pattern, class_names, class_ids=None, has_labels=True, has_masks=False):
    """Read TFRecord files with the feature names of the TF Model Garden.

    Args:
        pattern: str, path or glob of the files.
        class_names: sequence of str, length K; if empty, the files' labels are
            ignored.
        class_ids: the files' label of each class; None means 1 … K. (COCO's
            ids have gaps.) Masks hold the class itself.
        has_labels: bool, whether the labels are ground truth.
        has_masks: bool, whether the labels are the masks instead of the boxes.

    Returns:
        `examples.Source`.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: for a file that isn't a TFRecord, or if class ids and names
            differ in number.

    Source: feature names of the TF Model Garden.
    """
    paths = sorted(globbing.glob(pattern))
    if not paths:
        raise FileNotFoundError(
            f"Expected TFRecord files. Received: pattern={pattern!r}"
        )
    if class_ids is None:
        class_ids = range(1, len(class_names) + 1)
    class_ids = [int(class_id) for class_id in class_ids]
    if len(class_ids) != len(class_names):
        raise ValueError(
            "Expected as many class_ids as class_names. Received: "
            f"{len(class_ids)} ids, {len(class_names)} names"
        )
    num_images = sum(_count_records(path) for path in paths)
    if num_images == 0:
        raise ValueError(f"Expected at least one example. Received: 0 in {paths[0]}")
    dataset = tf.data.TFRecordDataset(paths, buffer_size=_READ_BUFFER).map(
        lambda serialized: examples.parse(serialized, class_ids)
    )
    return examples.Source(
        dataset,
        tuple(class_names),
        num_images,
        has_labels and len(class_names) > 0,
        has_masks=has_masks,
    )


def _count_records(path):
    """Count the records of a TFRecord file by their headers."""
    count, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        position = 0
        while position < size:
            file.seek(position)
            header = file.read(8)
            # A record is its length, a checksum, the data, and another checksum.
            position += 16 + (struct.unpack("<Q", header)[0] if len(header) == 8 else 0)
            if len(header) < 8 or position > size:
                raise ValueError(
                    f"Expected complete TFRecord entries. Received: {path}, truncated "
                    f"or not a TFRecord at entry {count}"
                )
            count += 1
    return count
