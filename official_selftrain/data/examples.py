"""The example: one image with its labels, as every source yields it.

An example is a dict of tensors:

| key | type | meaning |
|---|---|---|
| `encoded` | string | the image file's bytes, or empty |
| `path` | string | path of the image file, or empty |
| `id` | int64 | unique within its source |
| `boxes` | float32 `[n, 4]` | ymin, xmin, ymax, xmax as fractions of height and width |
| `classes` | int32 `[n]` | from 0, in the order of the source's `class_names` |
| `scores` | float32 `[n]` | a teacher's confidence, 1.0 for human labels |
| `ignore` | bool `[n]` | neither object nor background, see below |
| `areas` | float32 `[n]` | area of the object in pixels, 0 if unknown |
| `mask` | string | class ids of the pixels as a PNG, see `masks`, or empty |
| `confidence` | string | a teacher's confidence per pixel as a PNG, or empty |

An ignored box with a score of 1.0 is a region, such as a crowd; one with a lower score
is a doubtful object (see `models.anchors.assign_targets`).

An example may also have `stated_size`, int32 `[2]`: the height and width of the image
for which its labels were made, 0 if unknown. And `pixel_range`, int32 `[2]`: the values
of an image of more than 8 bits that become 0 and 255, see `with_pixel_range`.

Exactly one of `encoded` and `path` is not empty. The examples of a source have
either boxes or masks; the keys of the other kind are empty. In TFRecord files an
example is a `tf.train.Example` with the feature names of the TF Model Garden, where
box classes start at 1 and mask classes at 0.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from official_selftrain.checks import progress
from official_selftrain.data import fingerprints, images, ledger, masks

_NO_LABELS = {
    "boxes": np.zeros((0, 4), np.float32),
    "classes": np.zeros((0,), np.int32),
    "scores": np.zeros((0,), np.float32),
    "ignore": np.zeros((0,), bool),
    "areas": np.zeros((0,), np.float32),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples and their metadata.

    Attributes:
        dataset: `tf.data.Dataset` of examples, one pass in a fixed order.
        class_names: tuple of str; a class is an index into it.
        num_images: int, number of examples in the dataset.
        has_labels: bool; False for unlabeled images.
        has_masks: bool; whether the labels are masks, with class 0 as the background,
            instead of boxes.
        skipped: tuple of str, one line per image that could not be used.
        notes: tuple of str, what the reader found in the files and changed.
        fingerprint: function () → dict, equal for equal images and labels, as described
            in `fingerprints`.
        account: function () → `(box_counts, ledger)`; None: all examples are read, and
            nothing was left out. Replace it with the dataset.
        is_counted: bool, whether `account` is known without reading the examples.
    """

    dataset: tf.data.Dataset
    class_names: tuple
    num_images: int
    has_labels: bool = True
    skipped: tuple = ()
    has_masks: bool = False
    notes: tuple = ()
    fingerprint: Callable | None = None
    account: Callable | None = None
    is_counted: bool = False

    def __post_init__(self):
        if self.fingerprint is None:
            object.__setattr__(self, "fingerprint", self._counts)

    def _counts(self):
        return {"images": self.num_images, "classes": list(self.class_names)}

    @functools.cached_property
    def _account(self):
        return self.account() if self.account is not None else _accounted(self)

    @property
    def box_counts(self):
        """The boxes of each image, int array `[num_images, 2]`: all, not ignored."""
        return self._account[0]

    @property
    def ledger(self):
        """Where the images and labels of the files went, a `ledger.Ledger`."""
        return self._account[1]

    @property
    def most_boxes(self):
        """The largest number of boxes of an image, at least 1."""
        return int(self.box_counts[:, 0].max(initial=1))


def counted(dataset, num_images, num_classes, more=None):
    """Count the labels of examples in one pass.

    Args:
        dataset: `tf.data.Dataset` of examples, or of anything that `more` knows.
        num_images: int.
        num_classes: int K.
        more: function (item) → `(example, counts)`: an example, and further numbers of
            it, a list of int64 scalars; None: the items are examples.

    Returns:
        `(rows, classes)`: int64 `[num_images, 2 + m]`, the boxes of each image: all,
        not ignored, and the further numbers; int64 `[K]`, the boxes of each class that
        aren't ignored.
    """

    def count(item):
        example, others = more(item) if more else (item, [])
        taught = tf.boolean_mask(example["classes"], ~example["ignore"])
        row = [tf.size(example["ignore"], tf.int64), tf.size(taught, tf.int64)]
        of_classes = tf.math.bincount(
            taught, minlength=num_classes, maxlength=num_classes, dtype=tf.int64
        )
        return tf.stack([*row, *others]), of_classes

    rows, classes = [], np.zeros(num_classes, np.int64)
    counts = dataset.map(count, tf.data.AUTOTUNE).as_numpy_iterator()
    for row, of_classes in progress.over(counts, num_images, "counting boxes", "image"):
        rows.append(row)
        classes += of_classes
    return np.array(rows, np.int64).reshape(len(rows), -1), classes


def _accounted(source):
    """Return the account of a source that holds all there is."""
    if source.has_masks or not source.class_names:
        counts = np.zeros((source.num_images, 2), np.int64)
        book = ledger.Ledger(source.num_images)
        if source.has_masks:  # each image has one
            book = ledger.Ledger(source.num_images, source.num_images, "masks")
            counts[:] = 1
            return counts, book.close("the masks", counts)
        return counts, book.close("the images", counts, has_labels=False)
    names = source.class_names
    rows, classes = counted(source.dataset, source.num_images, len(names))
    return rows, boxes_ledger(rows, dict(zip(names, classes)), source.has_labels)


def boxes_ledger(rows, taught, has_labels=True):
    """Return the ledger of boxes none of which were left out.

    Args:
        rows: int `[n, 2]`, the boxes of each image: all, not ignored.
        taught: dict of class name to its number of boxes that aren't ignored.
        has_labels: bool, as of `Source`.

    Returns:
        `ledger.Ledger`.
    """
    every, sure = rows.sum(axis=0)
    book = ledger.Ledger(len(rows), every, classes=taught)
    book.labels.put("crowd", every - sure)
    return book.close("the boxes", rows, taught, has_labels)


def whole_image(label):
    """Return the labels for an image-level class: one box that covers the image."""
    return {
        "boxes": np.array([[0.0, 0.0, 1.0, 1.0]], np.float32),
        "classes": np.array([label], np.int32),
        "scores": np.ones(1, np.float32),
        "ignore": np.zeros(1, bool),
        "areas": np.zeros(1, np.float32),
    }


def from_records(
    records,
    class_names=(),
    has_labels=True,
    skipped=(),
    notes=(),
    files=(),
    folder=None,
):
    """Create a source from examples in memory (images may be in files).

    Args:
        records: list of dicts with the keys of an example; `id` and one of
            `encoded` and `path` are required; without `boxes` there is no object,
            with them `classes` are required, too. If any record has a `mask`, the
            labels are masks.
        class_names: sequence of str.
        has_labels: bool, whether the labels are ground truth.
        skipped: sequence of str.
        notes: sequence of str.
        files: sequence of str, the annotation files that the records are from.
        folder: str or None, the images' folder; None: the one that contains all.

    Returns:
        `Source`.

    Raises:
        ValueError: if `records` is empty, or labels don't match their boxes.
    """
    if not records:
        raise ValueError(
            f"Expected at least one image. Received: 0 images, {len(skipped)} skipped"
        )
    for record in records:
        _check_path(record.get("path", ""))
    records = [_with_labels(record) for record in records]
    for record in records if class_names else ():
        _check_classes(record, len(class_names))
    counts = [len(record["boxes"]) for record in records]
    taught = [int(np.sum(~np.asarray(record["ignore"], bool))) for record in records]
    box_counts = np.stack([counts, taught], axis=1)
    has_masks = any(record.get("mask") for record in records)
    ends = tf.constant(np.cumsum(counts), tf.int64)
    counts = tf.constant(counts, tf.int64)
    pictures = {
        "encoded": tf.constant([record.get("encoded", b"") for record in records]),
        "path": tf.constant([record.get("path", "") for record in records]),
        "id": tf.constant([record["id"] for record in records], tf.int64),
        **{
            key: tf.constant([record.get(key, b"") for record in records])
            for key in ("mask", "confidence")
        },
    }
    if any("stated_size" in record for record in records):
        sizes = [record.get("stated_size", (0, 0)) for record in records]
        pictures["stated_size"] = tf.constant(sizes, tf.int32)
    labels = {
        key: tf.constant(
            np.concatenate([record[key] for record in records]).astype(empty.dtype)
        )
        for key, empty in _NO_LABELS.items()
    }

    def lookup(index):
        rows = tf.range(ends[index] - counts[index], ends[index])
        return {
            **{key: values[index] for key, values in pictures.items()},
            **{key: tf.gather(values, rows) for key, values in labels.items()},
        }

    def account():
        classes = labels["classes"].numpy()[~labels["ignore"].numpy()]
        totals = np.bincount(classes, minlength=len(class_names)).tolist()
        of_classes = dict(zip(class_names, totals))
        return box_counts, boxes_ledger(box_counts, of_classes, has_labels)

    dataset = tf.data.Dataset.range(len(records)).map(lookup)
    return Source(
        dataset,
        tuple(class_names),
        len(records),
        has_labels,
        tuple(skipped),
        has_masks,
        tuple(notes),
        functools.partial(
            _fingerprint, pictures, labels, counts, class_names, files, folder
        ),
        None if has_masks or not class_names else account,
        True,
    )


def _fingerprint(pictures, labels, counts, *described):
    arrays = ({k: v.numpy() for k, v in part.items()} for part in (pictures, labels))
    return fingerprints.of_examples(*arrays, counts.numpy(), *described)


def _check_path(path):
    try:
        if isinstance(path, str):
            path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Expected file names in UTF-8. Received: {path!a}") from error


def _with_labels(record):
    """Return a record with all labels: by default, objects that are sure."""
    count = len(record.get("boxes", ()))
    defaults = {
        "scores": np.ones(count, np.float32),
        "ignore": np.zeros(count, bool),
        "areas": np.zeros(count, np.float32),
    }
    record = {**_NO_LABELS, **defaults, **record}
    for key in ("classes", *defaults):
        if len(record[key]) != count:
            raise ValueError(
                f"Expected {key} for {count} boxes. Received: {len(record[key])} for "
                f"the image with id={record['id']}"
            )
    return record


def _check_classes(record, count):
    classes = np.asarray(record["classes"])
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise ValueError(
            f"Expected classes of 0 to {count - 1}, those of class_names. Received: "
            f"{wrong[0]} for the image with id={record['id']}"
        )


def from_paths(paths, ids, skipped=(), folder=None):
    """Create a source of unlabeled image files.

    Args:
        paths: sequence of str.
        ids: sequence of int.
        skipped: sequence of str.
        folder: str or None, the images' folder; None: the one that contains all.

    Returns:
        `Source`.
    """
    paths, ids = tf.constant(list(paths)), tf.constant(list(ids), tf.int64)
    empty = {key: tf.constant("") for key in ("encoded", "mask", "confidence")}
    empty |= {key: tf.constant(value) for key, value in _NO_LABELS.items()}

    def lookup(index):
        return {"path": paths[index], "id": ids[index], **empty}

    dataset = tf.data.Dataset.range(len(paths)).map(lookup)
    blank = tf.fill((len(paths),), "")
    pictures = {"path": paths, "id": ids}
    pictures |= {key: blank for key in ("encoded", "mask", "confidence")}
    labels = {key: tf.constant(value) for key, value in _NO_LABELS.items()}
    counts = tf.zeros((len(paths),), tf.int64)
    return Source(
        dataset,
        (),
        len(paths),
        has_labels=False,
        skipped=tuple(skipped),
        fingerprint=functools.partial(
            _fingerprint, pictures, labels, counts, (), (), folder
        ),
        is_counted=True,
    )


def serialize(record, height, width):
    """Serialize a record as a `tf.train.Example`.

    Args:
        record: dict with the keys of an example, as NumPy values; the box keys or
            the mask keys may be missing.
        height: int, image height in pixels.
        width: int, image width in pixels.

    Returns:
        bytes.

    Source: feature names of the TF Model Garden.
    """
    record = {**_NO_LABELS, **record}
    boxes = np.asarray(record["boxes"], np.float32)
    features = {
        "image/source_id": str(int(record["id"])).encode(),
        "image/height": [int(height)],
        "image/width": [int(width)],
        "image/object/bbox/ymin": boxes[:, 0],
        "image/object/bbox/xmin": boxes[:, 1],
        "image/object/bbox/ymax": boxes[:, 2],
        "image/object/bbox/xmax": boxes[:, 3],
        "image/object/bbox/confidence": np.asarray(record["scores"], np.float32),
        "image/object/class/label": np.asarray(record["classes"], np.int64) + 1,
        "image/object/is_crowd": np.asarray(record["ignore"], np.int64),
        "image/object/area": np.asarray(record["areas"], np.float32),
    }
    if record.get("encoded"):
        features["image/encoded"] = record["encoded"]
    if record.get("path"):
        features["image/filename"] = record["path"]
    if record.get("mask"):
        features["image/segmentation/class/encoded"] = record["mask"]
        features["image/segmentation/class/format"] = b"png"
    if record.get("confidence"):
        features["image/segmentation/class/confidence"] = record["confidence"]
    if np.any(record.get("pixel_range", 0)):
        features[_PIXEL_RANGE] = record["pixel_range"]
    return tf.train.Example(
        features=tf.train.Features(
            feature={key: _feature(value) for key, value in features.items()}
        )
    ).SerializeToString(deterministic=True)


def _feature(value):
    if isinstance(value, (str, bytes)):
        value = value.encode() if isinstance(value, str) else value
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if np.asarray(value).dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


@dataclasses.dataclass(frozen=True)
class RecordForm:
    """Define how TFRecord files store labels, where it differs from file to file.

    Args:
        labels: `"int"`, `"float"` or `"text"`: whether a class is its label as int64
            or float, or its name in `image/object/class/text`.
        has_integer_ids: bool, whether `image/source_id` is an int64.
        in_pixels: bool, whether boxes are in pixels of `image/height` and
            `image/width`, instead of fractions.
        has_names: bool, whether `image/object/class/text` has the classes' names, too;
            a record where they contradict the labels is refused.
        has_pixel_range: bool, whether `image/pixel_range` is the images' pixel range.
    """

    labels: str = "int"
    has_integer_ids: bool = False
    in_pixels: bool = False
    has_names: bool = False
    has_pixel_range: bool = False


_LABEL = "image/object/class/label"
_TEXT = "image/object/class/text"
# A box may extend beyond its image by this fraction of it.
_ROUNDING = 0.05

_PIXEL_RANGE = "image/pixel_range"

_FEATURES = {
    "image/height": tf.io.FixedLenFeature((), tf.int64, 0),
    "image/width": tf.io.FixedLenFeature((), tf.int64, 0),
    "image/encoded": tf.io.FixedLenFeature((), tf.string, ""),
    "image/filename": tf.io.FixedLenFeature((), tf.string, ""),
    "image/source_id": tf.io.FixedLenFeature((), tf.string, ""),
    "image/segmentation/class/encoded": tf.io.FixedLenFeature((), tf.string, ""),
    "image/segmentation/class/confidence": tf.io.FixedLenFeature((), tf.string, ""),
    **{
        f"image/object/bbox/{side}": tf.io.RaggedFeature(tf.float32)
        for side in ("ymin", "xmin", "ymax", "xmax", "confidence")
    },
    "image/object/class/label": tf.io.RaggedFeature(tf.int64),
    "image/object/is_crowd": tf.io.RaggedFeature(tf.int64),
    "image/object/area": tf.io.RaggedFeature(tf.float32),
}

# How the features of a record are stored.
KINDS = {
    key: {tf.int64: "int64", tf.float32: "float", tf.string: "bytes"}[feature.dtype]
    for key, feature in _FEATURES.items()
}


def parse(serialized, class_ids, class_names=(), form=RecordForm()):
    """Parse a serialized `tf.train.Example` into an example.

    Missing scores default to 1.0, missing crowd flags and areas to 0. A non-numeric
    source id is hashed to 62 bits. Boxes end at the border of their image. Crowds
    have the score 1.0.

    Args:
        serialized: string tensor.
        class_ids: int list; `class_ids[k]` is the file's label of class k. If it is
            empty, the labels are ignored.
        class_names: sequence of str, needed where labels are text.
        form: `RecordForm`.

    Returns:
        dict, an example.

    Raises:
        tf.errors.InvalidArgumentError: at run time, naming the record, for an unknown
            label, lists of different lengths, or boxes far beyond their image or in
            other units.
    """
    record = tf.io.parse_single_example(serialized, _features(form))
    source_id = record["image/source_id"]
    if form.has_integer_ids:
        source_id = tf.strings.as_string(source_id)
    if not len(class_ids):
        for key in record:
            if key.startswith("image/object/"):
                record[key] = record[key][:0]
        record["image/segmentation/class/encoded"] = tf.constant("")
        class_ids, class_names = [1], [""]
    classes = _classes(record, source_id, class_ids, class_names, form)
    count = tf.shape(classes)[0]

    def optional(key, default, dtype):
        values = record[key]
        missing = tf.fill([count], tf.cast(default, values.dtype))
        values = tf.cond(tf.size(values) > 0, lambda: values, lambda: missing)
        return tf.cast(values, dtype)

    # A record holds its image or the image's path.
    encoded = record["image/encoded"]
    path = tf.where(tf.equal(encoded, ""), record["image/filename"], "")
    stated = tf.stack([record["image/height"], record["image/width"]])
    scores = optional("image/object/bbox/confidence", 1.0, tf.float32)
    ignore = optional("image/object/is_crowd", 0, tf.bool)
    more = {}
    if form.has_pixel_range:
        more["pixel_range"] = tf.cast(record[_PIXEL_RANGE], tf.int32)
    return {
        **more,
        "encoded": encoded,
        "path": path,
        "id": _integer_id(source_id),
        "boxes": _boxes(record, source_id, count, stated, form),
        "classes": classes,
        "scores": tf.where(ignore, 1.0, scores),
        "ignore": ignore,
        "areas": optional("image/object/area", 0.0, tf.float32),
        "mask": record["image/segmentation/class/encoded"],
        "confidence": record["image/segmentation/class/confidence"],
        "stated_size": tf.cast(stated, tf.int32),
    }


def has_pixel_range(serialized):
    """Return whether a serialized `tf.train.Example` has a pixel range.

    Args:
        serialized: string tensor.

    Returns:
        bool scalar.
    """
    feature = {_PIXEL_RANGE: tf.io.RaggedFeature(tf.int64)}
    record = tf.io.parse_single_example(serialized, feature)
    return tf.size(record[_PIXEL_RANGE]) > 0


def held_labels(serialized, form=RecordForm()):
    """Return how many labels a serialized `tf.train.Example` holds, as it stands.

    Args:
        serialized: string tensor.
        form: `RecordForm`.

    Returns:
        int64 scalar.
    """
    key = _TEXT if form.labels == "text" else _LABEL
    record = tf.io.parse_single_example(serialized, {key: _features(form)[key]})
    return tf.size(record[key], tf.int64)


def _features(form):
    features = dict(_FEATURES)
    if form.labels == "float":
        features[_LABEL] = tf.io.RaggedFeature(tf.float32)
    elif form.labels == "text":
        del features[_LABEL]
        features[_TEXT] = tf.io.RaggedFeature(tf.string)
    if form.has_names:
        features[_TEXT] = tf.io.RaggedFeature(tf.string)
    if form.has_pixel_range:
        features[_PIXEL_RANGE] = tf.io.FixedLenFeature((2,), tf.int64, (0, 0))
    if form.has_integer_ids:
        features["image/source_id"] = tf.io.FixedLenFeature((), tf.int64, 0)
    return features


def _classes(record, source_id, class_ids, class_names, form):
    labels = record[_TEXT if form.labels == "text" else _LABEL]
    dtype = {"int": tf.int64, "float": tf.float32, "text": tf.string}[form.labels]
    listed = list(class_names) if form.labels == "text" else class_ids
    matches = tf.equal(labels[:, None], tf.constant(listed, dtype)[None])
    check = tf.debugging.Assert(
        tf.reduce_all(tf.reduce_any(matches, axis=1)),
        ["Expected labels among", listed, "Received: labels", labels,
         "of record", source_id],
        summarize=100,
    )  # fmt: skip
    with tf.control_dependencies([check]):
        classes = tf.argmax(matches, axis=1, output_type=tf.int32)
    if not form.has_names:
        return classes
    texts, names = record[_TEXT], tf.gather(list(class_names), classes)
    is_same = tf.equal(tf.size(texts), 0) | (
        tf.equal(tf.size(texts), tf.size(names))
        & tf.reduce_all(tf.equal(texts[: tf.size(names)], names[: tf.size(texts)]))
    )
    check = tf.debugging.Assert(
        is_same,
        ["Expected the names of the labels,", names, "Received: class/text", texts,
         "of record", source_id],
        summarize=100,
    )  # fmt: skip
    with tf.control_dependencies([check]):
        return tf.identity(classes)


def _boxes(record, source_id, count, stated, form):
    """Return a record's boxes as fractions that end at the border of the image."""
    sides = [record[f"image/object/bbox/{s}"] for s in ("ymin", "xmin", "ymax", "xmax")]
    lengths = [tf.size(side) for side in sides]
    optional = ("bbox/confidence", "is_crowd", "area")
    others = [tf.size(record[f"image/object/{key}"]) for key in optional]
    is_even = [tf.equal(length, count) for length in lengths]
    is_even += [(length == 0) | tf.equal(length, count) for length in others]
    check = tf.debugging.Assert(
        tf.reduce_all(tf.stack(is_even)),
        ["Expected lists of one length. Received: ymin, xmin, ymax, xmax, confidence, "
         "is_crowd, area:", *lengths, *others, "for labels:", count, "of record",
         source_id],
    )  # fmt: skip
    with tf.control_dependencies([check]):
        boxes = tf.stack([tf.identity(side) for side in sides], axis=-1)
    if form.in_pixels:
        boxes /= tf.cast(tf.tile(stated, [2]), tf.float32)
    is_inside = tf.reduce_all((boxes >= -_ROUNDING) & (boxes <= 1.0 + _ROUNDING))
    check = tf.debugging.Assert(
        is_inside,
        ["Expected boxes as fractions of their image. Received: ymin, xmin, ymax, xmax",
         boxes, "of record", source_id],
    )  # fmt: skip
    with tf.control_dependencies([check]):
        return tf.clip_by_value(boxes, 0.0, 1.0)


def with_places(example):
    """Ignore all but the other objects of an image with a box without area.

    The place of such an object is unknown: it may not be taught as background.

    Args:
        example: dict, an example; a box whose corners are exchanged counts as one
            whose corners are in order.

    Returns:
        dict, an example.

    Source: own.
    """
    boxes = example["boxes"]
    low = tf.minimum(boxes[:, :2], boxes[:, 2:])
    high = tf.maximum(boxes[:, :2], boxes[:, 2:])
    is_flat = tf.reduce_any(low >= high, axis=1)
    whole = tf.constant([[0.0, 0.0, 1.0, 1.0]])
    boxes = tf.where(is_flat[:, None], whole, tf.concat([low, high], axis=1))
    ignore = example["ignore"] | is_flat
    scores = tf.where(is_flat, 1.0, example["scores"])
    areas = tf.where(is_flat, 0.0, example["areas"])
    placed = {"boxes": boxes, "scores": scores, "ignore": ignore, "areas": areas}
    return {**example, **placed}


def _integer_id(source_id):
    """Return a source id as an integer; a non-numeric id is hashed."""
    return tf.cond(
        tf.strings.regex_full_match(source_id, "[0-9]{1,18}"),
        lambda: tf.strings.to_number(source_id, tf.int64),
        lambda: tf.strings.to_hash_bucket_fast(source_id, 2**62),
    )


def with_pixel_range(source, pixel_range):
    """Set which values of images of more than 8 bits become 0 and 255.

    Args:
        source: `Source`.
        pixel_range: (low, high), values of the files' pixels, such as (0, 4095) for 12
            bits; between them it is linear, beyond them all is 0 or 255. Images of 8
            bits are left as they are. None: values are divided by 256.

    Returns:
        `Source`, whose fingerprint contains the range.

    Raises:
        ValueError: for anything but two integers, the smaller one first.

    Source: own.
    """
    if pixel_range is None:
        return source
    is_pair = np.shape(pixel_range) == (2,)
    is_pair = is_pair and all(type(value) is int for value in pixel_range)
    if not is_pair or not 0 <= pixel_range[0] < pixel_range[1] < 2**31:
        raise ValueError(
            "Expected pixel_range, two integers (low, high) such as (0, 4095). "
            f"Received: pixel_range={pixel_range!r}"
        )
    limits = tf.constant(pixel_range, tf.int32)
    return dataclasses.replace(
        source,
        dataset=source.dataset.map(lambda example: {**example, "pixel_range": limits}),
        fingerprint=lambda: {
            **source.fingerprint(),
            "pixel_range": list(pixel_range),
        },
    )


def apply_threshold(source, score_threshold, ignore_threshold=None):
    """Keep the confident pseudo-labels of a source.

    Args:
        source: `Source`.
        score_threshold: float in 0…1; boxes with at least this score are kept. Mask
            pixels below it are ignored; images without any pixel left are dropped.
        ignore_threshold: float below `score_threshold` or None. Boxes that score
            from `ignore_threshold` up to `score_threshold` are ignored instead of
            dropped, so that uncertain objects are not taught as background. It has
            no effect on masks, whose uncertain pixels are always ignored.

    Returns:
        `Source`.

    Raises:
        ValueError: for thresholds out of order, or if no mask has a pixel left.

    Source: paper section 4 (hard labels above 0.5); own: the ignored band.
    """
    check_thresholds(score_threshold, ignore_threshold)
    if source.has_masks:
        return _confident_masks(source, score_threshold)
    lower = score_threshold if ignore_threshold is None else ignore_threshold

    def keep(example):
        rows = tf.where(example["scores"] >= lower)[:, 0]
        kept = {key: tf.gather(example[key], rows) for key in _NO_LABELS}
        kept["ignore"] |= kept["scores"] < score_threshold
        return {**example, **kept}

    def of_one(example):
        kept, is_kept = keep(example), example["scores"] >= lower
        crowds = tf.math.count_nonzero(example["ignore"] & is_kept)
        low = tf.math.count_nonzero(~is_kept)
        return kept, [tf.size(is_kept, tf.int64), crowds, low]

    def account():
        names = source.class_names
        data, count = source.dataset, source.num_images
        rows, classes = counted(data, count, len(names), of_one)
        every, taught, held, crowds, low = rows.sum(axis=0)
        book = ledger.Ledger(count, held)
        book.labels.put("crowd", crowds)
        book.labels.put("doubtful", every - taught - crowds)
        book.labels.put("low", low)
        return rows[:, :2], book.close("the pseudo-labels", rows[:, :2])

    return dataclasses.replace(
        source, dataset=source.dataset.map(keep), account=account, is_counted=False
    )


def _confident_masks(source, score_threshold):
    def threshold(example):
        mask = masks.decode(example["mask"])
        confidence = read_confidence(example, tf.shape(mask))
        mask = masks.confident(mask, confidence, score_threshold)
        png = tf.io.encode_png(mask[..., None], compression=1)
        has_pixels = tf.reduce_any(mask < len(source.class_names))
        # The confidence is no longer needed and would only fill the shuffle buffer.
        return {**example, "mask": png, "confidence": tf.constant("")}, has_pixels

    def with_pixels(example, has_pixels):
        return has_pixels

    every = source.dataset.map(threshold, tf.data.AUTOTUNE, deterministic=True)
    kept = every.filter(with_pixels).map(lambda example, has_pixels: example)
    both = every.reduce(
        np.zeros(2, np.int64),
        lambda total, item: total + tf.stack([1, tf.cast(item[1], tf.int64)]),
    )
    held, count = both.numpy().tolist()
    if count == 0:
        raise ValueError(
            "Expected masks with a pixel that scores at least score_threshold="
            f"{score_threshold}. Received: none in {source.num_images} images"
        )

    def account():
        book, counts = ledger.Ledger(held, held, "masks"), np.ones((count, 2), np.int64)
        for part in (book.images, book.labels):
            part.put("empty", held - count)
        return counts, book.close("the pseudo-labels", counts)

    return dataclasses.replace(
        source, dataset=kept, num_images=count, account=account, is_counted=True
    )


def check_thresholds(score_threshold, ignore_threshold=None):
    """Check the thresholds of `apply_threshold`.

    Raises:
        ValueError: for thresholds that are not numbers or are out of order.
    """
    lower = score_threshold if ignore_threshold is None else ignore_threshold
    numbers = all(isinstance(value, (int, float)) for value in (lower, score_threshold))
    if not numbers or not 0.0 <= lower <= score_threshold <= 1.0:
        raise ValueError(
            "Expected 0 <= ignore_threshold <= score_threshold <= 1. Received: "
            f"ignore_threshold={ignore_threshold!r}, "
            f"score_threshold={score_threshold!r}"
        )


def read_contents(example):
    """Return the bytes of an example's image file."""
    return tf.cond(
        tf.equal(example["path"], ""),
        lambda: example["encoded"],
        lambda: tf.io.read_file(example["path"]),
    )


def read_image(example):
    """Decode an example's image, and check that its boxes were made for it.

    Boxes are fractions, so that an image may have been resized since: its ratio of
    height to width is compared with that of the stated size, to a pixel.

    Args:
        example: dict.

    Returns:
        uint8 `[h, w, 3]`, RGB, upright.

    Raises:
        tf.errors.InvalidArgumentError: at run time, for a file that can't be decoded,
            or boxes that were made for an image of another shape.
    """
    contents = read_contents(example)
    image = images.decode_file(contents, example.get("pixel_range"))
    found = tf.shape(image)[:2]

    def refuse():
        stated = example["stated_size"]
        advice = images.contradiction(found, stated, contents)
        parts = ["Expected the stated height and width", stated, "Received:", found]
        return tf.debugging.Assert(False, [*parts, advice])

    if "stated_size" not in example:
        return image
    check = tf.cond(fits(example, found), tf.no_op, refuse)
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(image)


def fits(example, size):
    """Return whether an example's boxes may have been made for an image of a size.

    Args:
        example: dict.
        size: int32 `[2]`, height and width of the upright image.

    Returns:
        bool scalar, True where there is no box or no stated size.
    """
    if "stated_size" not in example:
        return tf.constant(True)
    stated = example["stated_size"]
    is_stated = (tf.size(example["boxes"]) > 0) & (tf.reduce_min(stated) > 0)
    return images.is_resized(size, stated) | ~is_stated


def read_mask(example, size):
    """Return an example's mask.

    Args:
        example: dict.
        size: int32 `[2]`, height and width of the upright image.

    Returns:
        int32 `[h, w]`, as stored: class ids, or values outside the classes, such as
        255, which are unknown; all 255 if there is no mask.

    Raises:
        tf.errors.InvalidArgumentError: at run time, for a mask of another size, or
            anything but a PNG with one 8-bit channel.
    """
    mask = tf.cond(
        tf.equal(example["mask"], ""),
        lambda: tf.fill(size, tf.constant(masks.IGNORE_CLASS, tf.uint8)),
        lambda: masks.decode(example["mask"]),
    )
    mask = tf.ensure_shape(tf.cast(mask, tf.int32), (None, None))
    found = tf.shape(mask)

    def refuse():
        is_swapped = tf.reduce_all(found == size[::-1])
        advice = tf.cond(
            is_swapped & (images.orientation(read_contents(example)) >= 5),
            lambda: tf.constant(_STORED_MASK),
            lambda: tf.constant(""),
        )
        parts = ["Expected a mask of its image's size", size, "Received:", found]
        return tf.debugging.Assert(False, [*parts, advice])

    check = tf.cond(tf.reduce_all(found == size), tf.no_op, refuse)
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(mask)


_STORED_MASK = (
    "(the photograph is shown rotated, as its EXIF data says: rotate its mask, too)"
)


def read_confidence(example, size):
    """Return the confidence map of an example's mask.

    Args:
        example: dict.
        size: int32 `[2]`, height and width of the mask.

    Returns:
        uint8 `[h, w]`, 255 times a probability; all 255 if none is stored, as for
        human-labeled masks.
    """
    confidence = tf.cond(
        tf.equal(example["confidence"], ""),
        lambda: tf.fill(size, tf.constant(255, tf.uint8)),
        lambda: masks.decode(example["confidence"]),
    )
    return tf.ensure_shape(confidence, (None, None))


def part(source, start, size):
    """Return the examples `start` … `start + size - 1` of a source."""
    dataset = source.dataset.skip(start).take(size)
    size = max(0, min(size, source.num_images - start))
    return dataclasses.replace(
        source,
        dataset=dataset,
        num_images=size,
        account=None,
        is_counted=False,
        fingerprint=lambda: {
            **source.fingerprint(),
            "images": size,
            "part": [start, size],
        },
    )
