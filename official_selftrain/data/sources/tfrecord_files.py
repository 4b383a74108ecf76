"""TFRecord files with the feature names of the TF Model Garden."""

import dataclasses
import glob as globbing
import hashlib
import os
import struct

import numpy as np
import tensorflow as tf

from official_selftrain.data import examples, ledger

_READ_BUFFER = 2**20  # bytes
_NUM_SAMPLED = 32
# Fractions of an image are smaller, pixels of a usual image larger.
_LEAST_PIXELS = 2.0
_LABEL = "image/object/class/label"
_TEXT = "image/object/class/text"
_SIDES = ("ymin", "xmin", "ymax", "xmax")


def tfrecord(pattern, class_names, class_ids=None, has_labels=True, has_masks=False):
    """Read TFRecord files with the feature names of the TF Model Garden.

    The first records show how labels, ids and boxes are stored: labels may be int64,
    float or names in `image/object/class/text`, ids bytes or int64, boxes fractions or
    pixels. An object whose box has no area has an unknown place: all of its image but
    the other objects is ignored.

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
        ValueError: for a file that isn't a TFRecord, if class ids and names differ in
            number, or if the first records don't have one of the forms above.

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
    checksums = {path: _checksums(path) for path in paths}
    num_images = sum(map(len, checksums.values()))
    if num_images == 0:
        raise ValueError(f"Expected at least one example. Received: 0 in {paths[0]}")
    dataset = tf.data.TFRecordDataset(paths, buffer_size=_READ_BUFFER)
    form, notes = examples.RecordForm(), []
    if class_ids:
        records = list(dataset.take(_NUM_SAMPLED).as_numpy_iterator())
        form, notes = _form(records, class_ids, class_names, paths[0])
    # Labels are stored with the range of their source, in every record.
    first = dataset.take(1).map(examples.has_pixel_range).ignore_errors()
    form = dataclasses.replace(form, has_pixel_range=any(map(bool, first)))

    def parse(serialized):
        return examples.parse(serialized, class_ids, class_names, form)

    def of_one(serialized):
        example = parse(serialized)
        placed = examples.with_places(example) if has_labels else example
        flat = tf.math.count_nonzero(placed["ignore"] & ~example["ignore"])
        return placed, [examples.held_labels(serialized, form), flat]

    def account():
        rows, classes = examples.counted(dataset, num_images, len(class_names), of_one)
        every, taught, held, flat = rows.sum(axis=0)
        book = ledger.Ledger(num_images, held)
        book.labels.put("flat", flat)
        book.labels.put("crowd", every - taught - flat)
        return rows[:, :2], book.close(pattern, rows[:, :2], has_labels=is_labeled)

    is_labeled = has_labels and len(class_names) > 0
    parsed = dataset.map(parse)
    if has_labels:
        parsed = parsed.map(examples.with_places)
    return examples.Source(
        parsed,
        tuple(class_names),
        num_images,
        is_labeled,
        has_masks=has_masks,
        notes=tuple(notes),
        fingerprint=lambda: {
            "title": os.path.basename(pattern),
            "images": num_images,
            "classes": list(class_names),
            "class_ids": class_ids,
            "sha256": _sha256(checksums),
        },
        account=account if class_names and not has_masks else None,
    )


def _sha256(checksums):
    """Return a hash of the files' names and records."""
    digest = hashlib.sha256()
    for path, values in checksums.items():
        digest.update(f"{os.path.basename(path)} {len(values)}\n".encode())
        digest.update(b"".join(values))
    return digest.hexdigest()


def _form(records, class_ids, class_names, path):
    """Return the `RecordForm` of serialized records, and notes about it."""
    try:
        parsed = [tf.train.Example.FromString(r).features.feature for r in records]
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise ValueError(f"Expected tf.train.Example. Received: {path}") from error
    ids = _kind(parsed, "image/source_id", path)
    if ids == "float":
        raise ValueError(
            f"Expected image/source_id, bytes or int64. Received: float in {path}"
        )
    for key, kind in examples.KINDS.items():
        found = _kind(parsed, key, path)
        if key not in (_LABEL, "image/source_id") and found not in (None, kind):
            raise ValueError(f"Expected {key}, {kind}. Received: {found} in {path}")
    labels, notes = _label_form(parsed, class_ids, class_names, path)
    texts = {t.decode(errors="replace") for f in parsed for t in _values(f, _TEXT)}
    is_named = labels != "text" and bool(texts) and texts <= set(class_names)
    highest = [
        max(values)
        for features in parsed
        for values in zip(
            *(_values(features, f"image/object/bbox/{s}") for s in _SIDES)
        )
    ]
    # A box beyond its image, among fractions, is named when it is read.
    in_pixels = bool(highest) and np.mean(np.greater(highest, _LEAST_PIXELS)) > 0.5
    if in_pixels:
        notes.append("boxes in pixels, divided by image/height and image/width")
        for index, features in enumerate(parsed):
            for key in ("image/height", "image/width"):
                if not _values(features, key):
                    raise ValueError(
                        f"Expected {key}, since boxes are in pixels. Received: entry "
                        f"{index} of {path} without it"
                    )
    return examples.RecordForm(labels, ids == "int64", in_pixels, is_named), notes


def _label_form(parsed, class_ids, class_names, path):
    """Return how labels are stored, and notes about it."""
    kind = _kind(parsed, _LABEL, path)
    texts = [t.decode(errors="replace") for f in parsed for t in _values(f, _TEXT)]
    has_names = bool(texts) and set(texts) <= set(class_names)
    labels = {label for features in parsed for label in _values(features, _LABEL)}
    unknown = sorted(labels - set(class_ids)) if kind != "bytes" else sorted(labels)
    if kind in ("int64", "float") and not unknown and has_names:
        names = dict(zip(class_ids, class_names))
        pairs = [
            (names[label], text.decode(errors="replace"))
            for features in parsed
            for label, text in zip(_values(features, _LABEL), _values(features, _TEXT))
        ]
        wrong = [pair for pair in pairs if pair[0] != pair[1]]
        if wrong:
            note = f"{_LABEL} means {wrong[0][0]!r} where {_TEXT} is {wrong[0][1]!r}"
            return "text", [f"{note}; classes by their names"]
    if kind in ("int64", "float") and not unknown:
        return {"int64": "int", "float": "float"}[kind], []
    if has_names:
        return "text", [f"classes by their names in {_TEXT}"]
    if kind is None and not texts:
        return "int", []
    if unknown:
        received = f"{_LABEL} {unknown[0]!r} in {path}"
    else:
        strange = next(text for text in texts if text not in class_names)
        received = f"{_TEXT} {strange!r} in {path}"
    raise ValueError(
        f"Expected labels among class_ids, {_listed(class_ids)}, or names among "
        f"class_names, {_listed(class_names)}. Received: {received}"
    )


def _listed(values):
    texts = [str(value) for value in values]
    return ", ".join(texts if len(texts) <= 20 else [*texts[:19], "…", texts[-1]])


def _kind(parsed, key, path):
    """Return `"bytes"`, `"float"`, `"int64"` or None: how a feature is stored."""
    kinds = {f[key].WhichOneof("kind") for f in parsed if _values(f, key)}
    kinds = sorted(kind.removesuffix("_list") for kind in kinds)
    if len(kinds) > 1:
        raise ValueError(
            f"Expected one type of {key} in all records. Received: "
            f"{', '.join(kinds)} in {path}"
        )
    return kinds[0] if kinds else None


def _values(features, key):
    if key not in features:
        return []
    kind = features[key].WhichOneof("kind")
    return list(getattr(features[key], kind).value) if kind else []


def _checksums(path):
    """Return the checksum of every record of a TFRecord file; read no record."""
    checksums, size = [], os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        # A record is its length, a checksum, the data, and another checksum.
        position, header = 0, file.read(12)
        while position < size:
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            position += 16 + length
            if len(header) < 12 or position > size:
                raise ValueError(
                    f"Expected complete TFRecord entries. Received: {path}, truncated "
                    f"or not a TFRecord at entry {len(checksums)}"
                )
            file.seek(position - 4)
            ending = file.read(16)
            checksums.append(ending[:4])
            header = ending[4:]
    return checksums
