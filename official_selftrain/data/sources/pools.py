"""Images to be labeled, from any source, named by one string."""

import os

from official_selftrain.data import examples, sources


def open_pool(images, image_dir=None, data_dir=None, pixel_range=None):
    """Open images named on a command line.

    Args:
        images: str: a folder or glob of images; a COCO file (`.json`), with or without
            annotations; TFRecord files (a path or glob with `.tfrecord` in it); or
            `tfds:NAME:SPLIT`, such as `tfds:coco/2017:test`.
        image_dir: str, the folder of a COCO file's images; None: the file's folder.
        data_dir: str, the TFDS data directory.
        pixel_range: as of `examples.with_pixel_range`.

    Returns:
        `examples.Source`.

    Raises:
        FileNotFoundError: if there are no such images.
        ValueError: for a file of another type, or another pixel range.
    """
    source = _opened(images, image_dir, data_dir)
    return examples.with_pixel_range(source, pixel_range)


def _opened(images, image_dir, data_dir):
    if images.startswith("tfds:"):
        name, _, split = images.removeprefix("tfds:").rpartition(":")
        if not name:
            raise ValueError(f"Expected tfds:NAME:SPLIT. Received: images={images!r}")
        return sources.tfds(name, split, data_dir)
    if images.endswith(".json"):
        return sources.coco(images, image_dir or os.path.dirname(images) or ".")
    if ".tfrecord" in os.path.basename(images):
        return sources.tfrecord(images, ())
    if not os.path.isdir(images) and os.path.isfile(images):
        raise ValueError(
            "Expected a folder or glob of images, a COCO .json, .tfrecord files or "
            f"tfds:NAME:SPLIT. Received: images={images!r}, a file"
        )
    return sources.folder(images)
