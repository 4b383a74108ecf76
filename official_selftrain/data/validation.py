"""Find every violation in label files: TFRecord shards or a COCO file.

The rules are those of the TF Model Garden's readers and common sense; see `VIOLATIONS`.
"""

import collections
import glob as globbing
import json
import os

import numpy as np
import tensorflow as tf

from official_selftrain.checks import progress
from official_selftrain.data import images, ledger, masks
from official_selftrain.data.sources import coco_files
from official_selftrain.files.run_folder import LabelFolder

VIOLATIONS = {
    "file": "the file is truncated or corrupt",
    "missing": "a required field is missing",
    "id": "an image id is not an integer",
    "duplicate": "an image id occurs more than once",
    "lengths": "an image's boxes, classes and scores differ in number",
    "number": "a coordinate or score is not finite",
    "outside": "a box extends beyond its image",
    "area": "a box has no area",
    "score": "a score is outside 0…1",
    "class": "a class is unknown",
    "image_id": "an annotation refers to an unlisted image",
    "unreadable": "an image can't be read",
    "size": "an image's size differs from the stored size",
    "mask": "a mask doesn't match its image",
    "joined": "two categories have the same name",
    "similar": "names of categories differ in case only",
    "twice": "an image is listed twice",
    "outlines": "a box doesn't match its polygon or mask",
    "refused": "the file can't be trained on",
    "clipped": "scores look clipped to 1",
    "tiny": "boxes look like fractions of their image that were taken for pixels",
    "corners": "boxes look like corners that were taken for width and height",
}

# How many boxes it takes to judge them together.
_FEWEST = 8
# Corners that were taken for width and height: nearly every box reaches twice as far as
# its start, many to the right or lower border, few to the other ones.
_MOST, _MANY, _TIMES = 0.9, 0.3, 3
_ROUNDING = 1e-6

# Of the findings of `coco_files.read`, those that no other rule covers.
_READ = ("joined", "similar", "twice", "outlines")


def validate(labels, class_names=None, image_dir=None, open_images=True):
    """Return the violations in TFRecord shards or a COCO file.

    Args:
        labels: str: a folder of labels, a path or glob of TFRecord files, or a COCO
            `.json`.
        class_names: sequence of str, or None for those of the folder's manifest or the
            COCO file; without any, TFRecord classes are only required to be above 0.
        image_dir: str, the folder of a COCO file's images; None: the file's folder.
        open_images: bool, whether to decode every image too.

    Returns:
        dict of a key of `VIOLATIONS` to a list, the number of violations and the
        location of the first; and the `ledger.Ledger` of all images and labels.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: for a file that is neither.

    Source: own; field rules of the TF Model Garden.
    """
    findings = _Findings()
    if os.path.isdir(labels):
        manifest = LabelFolder(labels).manifest
        if class_names is None and os.path.exists(manifest):
            with open(manifest) as file:
                class_names = json.load(file)["class_names"]
        labels = os.path.join(globbing.escape(labels), "*.tfrecord")
    if labels.endswith(".json"):
        if not os.path.isfile(labels):
            raise FileNotFoundError(f"Expected a COCO file. Received: {labels!r}")
        _check_coco(labels, class_names, image_dir, open_images, findings)
    else:
        paths = sorted(globbing.glob(labels))
        if not paths:
            raise FileNotFoundError(f"Expected TFRecord files. Received: {labels!r}")
        for path in progress.over(paths, len(paths), "validate", "file"):
            _check_tfrecord(path, class_names, open_images, findings)
    findings.add_together(labels)
    if not findings.num_images and "file" not in findings.violations:
        findings.add("missing", f"{labels}: any image")
    return dict(findings.violations), findings.ledger(labels)


class _Findings:
    def __init__(self):
        self.violations = collections.OrderedDict()
        self.num_images = 0
        self.ids = set()
        self.book = ledger.Ledger(0)
        self._counts = []
        self._boxes = collections.Counter()
        self._sure, self._unsure = collections.Counter(), collections.Counter()

    def add(self, kind, place, count=1):
        self.violations.setdefault(kind, [0, place])[0] += int(count)

    def add_id(self, value, place):
        if value in self.ids:
            self.add("duplicate", place)
        self.ids.add(value)

    def enter(self, labels, crowds, are_even, has_mask):
        """Enter the labels of a record in the ledger.

        Args:
            labels: `[n]`.
            crowds: flags `[n]`, or empty without any.
            are_even: bool; False: lists differ in length, the labels are invalid.
            has_mask: bool, whether it has a mask, too.
        """
        account, ignored = self.book.labels, int(np.count_nonzero(crowds))
        account.unit = "masks" if has_mask else account.unit
        account.held += len(labels) + has_mask
        if not are_even:
            ignored = len(labels)
        account.put("crowd" if are_even else "wrong", ignored)
        every = len(labels) + has_mask
        self._counts.append((every, every - ignored))

    def ledger(self, where):
        """Return the closed ledger; of images alone, if the file was refused."""
        if self._counts or not self.book.images.held:
            self.book.images.held = len(self._counts) or self.num_images
            left = np.zeros((self.num_images, 2), np.int64)
            self.book.close(where, self._counts or left)
        return self.book

    def count(self, image, boxes, scores, size):
        """Count what only all boxes together show.

        Args:
            image: hashable, the image that the boxes are in.
            boxes: `[n, 4]` as fractions of it.
            scores: `[n]`, or empty without any.
            size: (height, width) of the image in pixels, or None.
        """
        boxes = boxes[np.isfinite(boxes).all(axis=1)]
        start, end = boxes[:, :2], np.minimum(boxes[:, 2:], 1.0)
        is_last = end >= 1.0 - _ROUNDING
        is_far = is_last | (end >= 2.0 * start - _ROUNDING)
        self._boxes["all"] += len(boxes)
        if size is not None:
            sides = (boxes[:, 2:] - start) * size
            self._boxes["tiny"] += int((sides < 1.0).all(axis=1).sum())
        self._boxes["far"] += int(is_far.all(axis=1).sum())
        self._boxes["last"] += int(is_last.any(axis=1).sum())
        self._boxes["first"] += int((start <= _ROUNDING).any(axis=1).sum())
        self._sure[image] += int((scores == 1.0).sum())
        self._unsure[image] += int((scores < 1.0).sum())

    def add_together(self, place):
        """Add what all boxes together show."""
        # An image whose scores all are 1 has human labels.
        taught = [image for image, count in self._unsure.items() if count]
        sure = sum(self._sure[image] for image in taught)
        total = sure + sum(self._unsure[image] for image in taught)
        if sure >= _FEWEST and 2 * sure > total:
            self.add("clipped", f"{place}: {sure} of {total} scores are 1", sure)
        boxes, count = self._boxes, self._boxes["all"]
        if count < _FEWEST or "refused" in self.violations:
            return
        if 2 * boxes["tiny"] > count:
            text = f"{place}: {boxes['tiny']} of {count} boxes are smaller than a pixel"
            self.add("tiny", text, boxes["tiny"])
        is_many = boxes["last"] > max(_MANY * count, _TIMES * boxes["first"])
        if is_many and boxes["far"] > _MOST * count:
            text = (
                f"{place}: {boxes['last']} of {count} boxes end at the right or lower "
                f"border, {boxes['first']} start at the left or upper one"
            )
            self.add("corners", text, boxes["last"])


def _check_tfrecord(path, class_names, open_images, findings):
    records = iter(tf.data.TFRecordDataset(path))
    index = -1
    while True:
        index += 1
        place = f"{path}, entry {index}"
        try:
            example = tf.train.Example.FromString(next(records).numpy())
        except StopIteration:
            return
        except tf.errors.DataLossError:
            findings.add("file", place)
            return
        except Exception as error:  # protobuf's DecodeError has no public base class
            if type(error).__name__ != "DecodeError":
                raise
            findings.add("file", place)
            continue
        findings.num_images += 1
        _check_example(
            example.features.feature, place, class_names, open_images, findings
        )


def _check_example(features, place, class_names, open_images, findings):
    def strings(key):
        return list(features[key].bytes_list.value) if key in features else []

    source_id = strings("image/source_id")
    text = source_id[0].decode(errors="replace") if source_id else ""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        findings.add("id", f"{place}: {text!r}")
    else:
        findings.add_id(int(text), place)
    size = []
    for key in ("image/height", "image/width"):
        size += features[key].int64_list.value[:1] if key in features else []
    encoded, path = strings("image/encoded"), strings("image/filename")
    if len(size) < 2 or min(size) < 1 or not any(encoded + path):
        findings.add("missing", f"{place}: height, width, image")
        size = None
    sides = [
        np.array(features[f"image/object/bbox/{side}"].float_list.value, np.float64)
        for side in ("ymin", "xmin", "ymax", "xmax")
    ]
    labels = np.array(features["image/object/class/label"].int64_list.value, np.int64)
    scores = np.array(
        features["image/object/bbox/confidence"].float_list.value, np.float64
    )
    lengths = {len(labels), *(len(side) for side in sides)}
    crowds = features["image/object/is_crowd"].int64_list.value
    areas = features["image/object/area"].float_list.value
    lengths |= {len(values) for values in (scores, crowds, areas) if len(values)}
    mask = strings("image/segmentation/class/encoded")
    findings.enter(labels, crowds, len(lengths) < 2, bool(mask and mask[0]))
    if len(lengths) > 1:
        findings.add("lengths", place)
    else:
        boxes = np.stack(sides, axis=-1)
        _check_boxes(boxes, scores, (1.0, 1.0), place, findings)
        objects = np.array(crowds) == 0 if len(crowds) else np.ones(len(boxes), bool)
        told = scores[objects] if len(scores) else scores
        findings.count(findings.num_images, boxes[objects], told, size)
        highest = len(class_names) if class_names else np.inf
        unknown = (labels < 1) | (labels > highest)
        if unknown.any():
            findings.add("class", f"{place}: {labels[unknown][0]}", unknown.sum())
    if mask and mask[0]:
        _check_mask(mask[0], size, class_names, place, findings)
    if open_images and size:
        _check_image((encoded + [b""])[0], (path + [b""])[0], size, place, findings)


def _check_boxes(boxes, scores, limits, place, findings):
    finite = np.isfinite(boxes).all(axis=1)
    if len(scores):
        finite &= np.isfinite(scores)
        wrong = finite & ((scores < 0.0) | (scores > 1.0))
        if wrong.any():
            findings.add("score", f"{place}: {scores[wrong][0]:g}", wrong.sum())
    if not finite.all():
        findings.add("number", place, (~finite).sum())
    outside = (boxes[:, :2] < 0.0).any(axis=1) | (boxes[:, 2:] > limits).any(axis=1)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    for kind, rows in (("outside", outside & finite), ("area", empty & finite)):
        if rows.any():
            box = ", ".join(f"{value:g}" for value in boxes[rows][0])
            findings.add(kind, f"{place}: {box}", rows.sum())


def _check_mask(png, size, class_names, place, findings):
    try:
        mask = masks.decode(tf.constant(png)).numpy()
    except tf.errors.InvalidArgumentError:
        findings.add("mask", place)
        return
    highest = len(class_names) if class_names else masks.IGNORE_CLASS
    unknown = (mask >= highest) & (mask != masks.IGNORE_CLASS)
    if (size and mask.shape != tuple(size)) or unknown.any():
        findings.add("mask", place)


def _check_image(encoded, path, size, place, findings):
    try:
        contents = tf.constant(encoded) if encoded else tf.io.read_file(path)
        shape = tuple(images.decode_file(contents).shape[:2])
    except tf.errors.OpError:
        findings.add(
            "unreadable", f"{place}: {path.decode(errors='replace')}".rstrip(": ")
        )
        return
    if shape != tuple(size):
        swapped = ", swapped" * (shape == tuple(size)[::-1])
        findings.add("size", f"{place}: {shape}, stored {tuple(size)}{swapped}")


def _check_coco(path, class_names, image_dir, open_images, findings):
    content = _read_coco(path)
    _check_reading(path, image_dir, findings)
    for key in ("annotations", "categories"):
        if not isinstance(content.get(key), list):
            findings.add("missing", f"{path}: {key}")
    image_dir = (image_dir or os.path.dirname(path)) if open_images else None
    images_of_file = _entries(content, "images", findings)
    sizes = _check_coco_images(images_of_file, image_dir, findings)
    names = {
        coco_files.key_of(entry.get("id")): entry["name"]
        for entry in _entries(content, "categories", findings)
        if isinstance(entry.get("name"), (str, int))
    }
    for name in sorted(set(class_names or ()) - set(names.values())):
        findings.add("class", f"{path}: no category {name!r}")
    if class_names:
        names = {key: name for key, name in names.items() if name in class_names}
    for index, annotation in enumerate(_entries(content, "annotations", findings)):
        _check_annotation(annotation, names, sizes, f"annotations[{index}]", findings)


def _check_reading(path, image_dir, findings):
    """Add what the reader of COCO files finds, or why it refuses this one."""
    try:
        folder = image_dir or os.path.dirname(path) or "."
        content, found = coco_files.read(path, folder)
    except ValueError as error:
        findings.add("refused", str(error))
        return
    findings.book = coco_files.close(found.ledger, content, path)
    for line in [*found["wrong"], *found["absent"]][:1]:
        findings.add("refused", line)
    for kind in _READ:
        if found[kind]:
            findings.add(kind, found[kind][0], len(found[kind]))


def _entries(content, kind, findings):
    """Return the entries of a list; those that aren't objects are empty."""
    entries = content.get(kind)
    if not isinstance(entries, list):
        return []
    if kind == "categories":
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                findings.add("missing", f"{kind}[{index}]: {str(entry)[:40]}")
    return [entry if isinstance(entry, dict) else {} for entry in entries]


def _read_coco(path):
    content = coco_files.parsed(path)
    is_right = isinstance(content, dict) and isinstance(content.get("images"), list)
    if not is_right:
        raise ValueError(f"Expected a COCO file with images. Received: {path}")
    return content


def _check_coco_images(entries, image_dir, findings):
    """Check image entries, and their files unless image_dir is None; return sizes."""
    sizes = {}
    every = progress.over(entries, len(entries), "validate", "image")
    for index, image in enumerate(every):
        place = f"images[{index}]"
        findings.num_images += 1
        missing = {"id", "file_name", "height", "width"} - set(image)
        if missing:
            findings.add("missing", f"{place}: {', '.join(sorted(missing))}")
            continue
        number = coco_files.key_of(image["id"])
        if type(image["id"]) is not int:
            findings.add("id", f"{place}: {image['id']!r}")
        if number is None:
            continue
        findings.add_id(number, place)
        size = [coco_files.number_of(image[side]) for side in ("height", "width")]
        if None in size or not min(size) >= 1.0 or max(size) == np.inf:
            findings.add("missing", f"{place}: height and width of at least 1")
            sizes[number] = None
            continue
        sizes[number] = tuple(round(side) for side in size)
        if image_dir is not None:
            name = coco_files.FileNames(image_dir).find(str(image["file_name"]))
            path = os.path.join(image_dir, name).encode()
            _check_image(b"", path, sizes[number], place, findings)
    return sizes


def _check_annotation(annotation, names, sizes, place, findings):
    missing = {"image_id", "category_id", "bbox"} - set(annotation)
    bbox = annotation.get("bbox")
    if missing or not isinstance(bbox, list) or len(bbox) != 4:
        findings.add("missing", f"{place}: {', '.join(sorted(missing)) or 'bbox'}")
        return
    if names.get(coco_files.key_of(annotation["category_id"])) is None:
        findings.add("class", f"{place}: {annotation['category_id']}")
    image_id = coco_files.key_of(annotation["image_id"])
    if image_id not in sizes:
        findings.add("image_id", f"{place}: {annotation['image_id']}")
        return
    if sizes[image_id] is None:
        return
    numbers = [coco_files.number_of(value) for value in bbox]
    score = coco_files.number_of(annotation.get("score", 1.0))
    if None in [*numbers, score]:
        text = f"{bbox}, score {annotation.get('score')}"
        findings.add("number", f"{place}: {text:.80}")
        return
    x, y, width, height = numbers
    box = np.array([[y, x, y + height, x + width]])
    size = sizes[image_id]
    _check_boxes(box, np.array([score]), size, place, findings)
    if annotation.get("iscrowd") in (None, 0, "0"):
        scores = np.array([score] if "score" in annotation else [])
        findings.count(image_id, box / np.tile(size, 2), scores, size)
