"""Read custom images and boxes.

Problems are reported, and unusable data is left out; the files themselves are never
changed. Boxes here are COCO's `[x, y, width, height]` in pixels, as in the files.
"""

import collections
import concurrent.futures
import dataclasses
import os

import numpy as np
import tensorflow as tf

from official_selftrain.data import images, problems, sources, splits
from official_selftrain.data.sources import coco_files, voc_files
from official_selftrain.files import hashes
from official_selftrain.geometry import array_boxes

# Problems of the data, and how each is handled.
FINDINGS = {
    "missing": "missing images, left out",
    "unreadable": "unreadable images, left out",
    "size": "images whose size differs from the annotations, left out",
    "wrong": "invalid boxes, left out",
    "flat": "boxes without area, left out",
    "beyond": "boxes outside their image, left out",
    "outside": "boxes that extend beyond their image, clipped",
    "repeated": "duplicate boxes, left out",
    "contradictory": "boxes in the same place with different classes, kept",
    "crowd": "boxes of crowds or difficult objects, ignored in training",
    "whole": "boxes that cover their whole image, kept",
    "unknown": "boxes of classes that the labeled images don't have, left out",
    "unused": "classes without a box, left out",
    "labeled": "images that are among the labeled ones, left out",
    "double": "duplicate images, left out",
    "foreign": "images in unsupported formats, left out",
}

_FOREIGN_ENDINGS = (".avif", ".heic", ".tif", ".tiff", ".webp")

# Boxes with at least this IoU are in the same place.
_SAME_PLACE = 0.95

# The fraction of labeled images held out for validation.
_HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True)
class Places:
    """The locations of images and boxes.

    Args:
        images: str, the folder of the labeled images.
        annotations: str, a COCO file, or a folder of PASCAL VOC's XML files.
        unlabeled: str, a folder or glob of unlabeled images.
        validation_images: str, the folder of the validation images; None: `images`.
        validation_annotations: str, like `annotations`; None: validation images are
            held out from the labeled ones.
    """

    images: str
    annotations: str
    unlabeled: str
    validation_images: str | None = None
    validation_annotations: str | None = None

    @property
    def validation_folder(self):
        """The folder of the validation images."""
        return self.validation_images or self.images


def read(annotations, folder, categories=None, labeled=()):
    """Read labeled images, leaving out unusable images and boxes.

    Args:
        annotations: str, a COCO file, or a folder of PASCAL VOC's XML files.
        folder: str, the folder of the images.
        categories: list of COCO's category entries, or None for the file's own. They
            are matched by name; boxes of other classes are left out.
        labeled: paths of images to exclude. Files with the same bytes are the same
            image.

    Returns:
        `(content, findings)`: a COCO file's content with the usable images and boxes
        and the classes that have boxes; dict of a name from `FINDINGS` to list of str.

    Raises:
        FileNotFoundError: for a missing file or folder.
        ValueError: for a file that isn't COCO, boxes that are normalized or corners, a
            duplicate category name, or if no box is left.

    Source: own.
    """
    content = _content(annotations)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"Expected a folder of images. Received: images={folder!r}"
        )
    names = _class_names(content, annotations)
    findings = collections.defaultdict(list)
    rows = _valid_rows(content, names, annotations, findings)
    _check_units(rows, content["images"], annotations)
    files = paths(content, folder)
    stated = [(image["height"], image["width"]) for image in content["images"]]
    sizes = _usable_images(files, labeled, findings, stated)
    kept = [content["images"][index] for index in sizes]
    boxes = [
        box
        for image in kept
        for box in _usable_boxes(image, rows[image["id"]], names, findings)
    ]
    if categories is None:
        boxes, categories = _with_used_categories(boxes, names, content, findings)
    else:
        boxes = _with_categories(boxes, names, categories, findings)
    content = {"images": kept, "annotations": boxes, "categories": categories}
    if not objects(content):
        raise ValueError(
            f"Expected at least one box on a readable image. Received: {annotations}"
            f"{_listed(findings)}"
        )
    return content, dict(findings)


def _content(annotations):
    if os.path.isdir(annotations):
        return voc_files.boxes(annotations)
    return coco_files.read(annotations)


def _class_names(content, path):
    """Return the categories' names by id; reject duplicate names."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    for name, count in collections.Counter(names.values()).items():
        if count > 1:
            raise ValueError(
                f"Expected every category once. Received: {path} with "
                f"{count} of name={name!r}"
            )
    return names


def _valid_rows(content, names, path, findings):
    """Return the valid annotations of each image."""
    rows = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        fault = coco_files.fault(annotation, rows, names, path)
        if fault:
            findings["wrong"].append(fault.split("Received: ")[1])
        else:
            rows[annotation["image_id"]].append(annotation)
    return rows


def _with_used_categories(annotations, names, content, findings):
    """Return the annotations and categories of the classes that have a box."""
    used = {a["category_id"] for a in objects({"annotations": annotations})}
    findings["unused"] = [name for key, name in names.items() if key not in used]
    return (
        [a for a in annotations if a["category_id"] in used],
        [c for c in content["categories"] if c["id"] in used],
    )


def _with_categories(annotations, names, categories, findings):
    """Return annotations with the ids of `categories`, matched by name."""
    ids = {category["name"]: category["id"] for category in categories}
    kept = []
    for annotation in annotations:
        name = names[annotation["category_id"]]
        if name in ids:
            kept.append({**annotation, "category_id": ids[name]})
        else:
            findings["unknown"].append(name)
    return kept


def _check_units(rows, entries, path):
    """Reject boxes that aren't `[x, y, width, height]` in pixels."""
    bboxes = np.array([a["bbox"] for of_image in rows.values() for a in of_image])
    if not len(bboxes):
        return
    kind = "Expected boxes [x, y, width, height] in pixels. Received: "
    if bboxes.max() <= 1.0:
        raise ValueError(f"{kind}{path}, whose boxes lie within 0…1: normalized?")
    sizes = {image["id"]: (image["width"], image["height"]) for image in entries}
    limits = np.array([sizes[key] for key, of_image in rows.items() for _ in of_image])
    start, end = bboxes[:, :2], bboxes[:, 2:]
    leaving = np.any(start + end > limits + 1.0, axis=1)
    are_corners = np.all((end > start) & (end <= limits + 1.0))
    if np.mean(leaving) > 0.1 and are_corners:
        raise ValueError(
            f"{kind}{path}: {leaving.sum()} of {len(bboxes)} boxes extend beyond their "
            "image, but all fit as [xmin, ymin, xmax, ymax]"
        )


def _usable_images(files, labeled, findings, stated=None):
    """Return the images that are readable, unique and of the stated size.

    Args:
        files: list of str, their paths.
        labeled: paths of images to exclude.
        findings: dict of lists, to which problems of the other images are added.
        stated: list of (height, width), or None.

    Returns:
        dict of index in `files` to (height, width).
    """
    labeled, seen = {hashes.sha256(path) for path in labeled}, set()
    usable = {}
    for index, (path, (size, reason)) in enumerate(zip(files, _sizes(files))):
        if not os.path.exists(path):
            findings["missing"].append(path)
        elif size is None:
            findings["unreadable"].append(f"{path}: {reason}")
        elif stated and size != stated[index]:
            findings["size"].append(f"{path}: {_misstated(size, stated[index])}")
        elif (digest := hashes.sha256(path)) in labeled:
            findings["labeled"].append(path)
        elif digest in seen:
            findings["double"].append(path)
        else:
            seen.add(digest)
            usable[index] = size
    return usable


def _misstated(size, stated):
    is_turned = size == stated[::-1]
    return (
        f"{size[1]} x {size[0]}, stated {stated[1]} x {stated[0]}"
        f"{', swapped: rotated by its EXIF data?' * is_turned}"
    )


def _sizes(paths):
    """Decode image files; return (height, width) or None, and the reason, of each."""

    def size(path):
        try:
            pixels = images.decode(tf.io.read_file(path))
        except tf.errors.OpError as error:
            return None, problems.reason(error)
        return tuple(pixels.shape[:2]), None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(size, paths))


def _usable_boxes(image, annotations, names, findings):
    kept, boxes = [], []
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        where = (
            f"{image['file_name']}: {names[annotation['category_id']]} "
            f"{[round(float(value), 2) for value in annotation['bbox']]}"
        )
        left, right = np.clip([x, x + width], 0, image["width"])
        top, bottom = np.clip([y, y + height], 0, image["height"])
        area = float((right - left) * (bottom - top))
        if area <= 0.0:
            kind = "beyond" if width > 0 and height > 0 else "flat"
            findings[kind].append(where)
            continue
        # Annotation tools round: half a pixel is fine.
        if max(-x, -y, x + width - right, y + height - bottom) > 0.5:
            findings["outside"].append(where)
        if area >= _SAME_PLACE * image["width"] * image["height"]:
            findings["whole"].append(where)
        if annotation.get("iscrowd"):
            findings["crowd"].append(where)
        box = (top, left, bottom, right)
        overlap = array_boxes.iou(np.array([box]), np.reshape(boxes, (-1, 4)))[0]
        double = next((kept[i] for i in np.flatnonzero(overlap >= _SAME_PLACE)), None)
        if double and double["category_id"] == annotation["category_id"]:
            findings["repeated"].append(where)
            continue
        if double:
            other = names[double["category_id"]]
            findings["contradictory"].append(f"{where} and {other}")
        bbox = [float(value) for value in (left, top, right - left, bottom - top)]
        boxes.append(box)
        kept.append({**annotation, "bbox": bbox})
    return kept


def summary(findings):
    """Return one line per kind of finding: its count, and the first one.

    Args:
        findings: dict, as returned by `read`.

    Returns:
        list of str.
    """
    return [
        f"{text}: {len(findings[kind])} (first: {findings[kind][0]})"
        for kind, text in FINDINGS.items()
        if findings.get(kind)
    ]


def _listed(findings):
    return "".join(f"; {line}" for line in summary(findings))


def objects(content):
    """Return the annotations that aren't crowds."""
    return [a for a in content["annotations"] if not a.get("iscrowd")]


def paths(content, folder):
    """Return the paths of a COCO file's images."""
    return [os.path.join(folder, image["file_name"]) for image in content["images"]]


def read_unlabeled(folder, labeled):
    """List the readable unlabeled images that aren't among the labeled ones.

    Files with the same bytes are the same image.

    Args:
        folder: str, a folder or glob.
        labeled: list of str, the paths of the labeled images.

    Returns:
        `(content, findings)`: the content of a COCO file without labels, whose file
        names are paths; dict of a name from `FINDINGS` to list of str.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if none is left.
    """
    try:
        source = sources.folder(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "Expected a folder or glob with images (.jpg, .jpeg, .png, .bmp, .gif). "
            f"Received: unlabeled={folder!r}"
        ) from error
    files = [e["path"].decode() for e in source.dataset.as_numpy_iterator()]
    findings = collections.defaultdict(
        list,
        unreadable=list(source.skipped),
        labeled=[],
        double=[],
        foreign=_foreign_files(folder),
    )
    sizes = _usable_images(files, labeled, findings)
    entries = [
        {"id": number, "file_name": files[index], "height": height, "width": width}
        for number, (index, (height, width)) in enumerate(sizes.items(), 1)
    ]
    if not entries:
        raise ValueError(
            "Expected a readable image that isn't labeled. Received: "
            f"unlabeled={folder!r}{_listed(findings)}"
        )
    return {"images": entries}, dict(findings)


def _foreign_files(folder):
    return [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in sorted(names)
        if name.lower().endswith(_FOREIGN_ENDINGS)
    ]


def hold_out(content, seed=0):
    """Split labeled images into training and validation.

    A fifth is held out, at least one image. Every class keeps at least one training
    image.

    Args:
        content: dict, a COCO file's content.
        seed: int.

    Returns:
        `(training, validation)`, contents of COCO files with the same categories.

    Raises:
        ValueError: if no image can be held out.
    """
    classes = {image["id"]: set() for image in content["images"]}
    for annotation in objects(content):
        classes[annotation["image_id"]].add(annotation["category_id"])
    left = collections.Counter(key for keys in classes.values() for key in keys)
    count = max(round(_HELD_OUT * len(classes)), 1)
    chosen = set()
    for number in splits.ordered(classes, seed):
        keys = classes[number]
        if len(chosen) < count and keys and all(left[key] > 1 for key in keys):
            chosen.add(number)
            left.subtract(keys)
    if not chosen:
        raise ValueError(
            "Expected every class on two images, one of them for validation. "
            f"Received: {len(classes)} images, none of which can be held out; set "
            "validation_annotations"
        )

    def part(is_in):
        return {
            "images": [i for i in content["images"] if is_in(i["id"])],
            "annotations": [a for a in content["annotations"] if is_in(a["image_id"])],
            "categories": content["categories"],
        }

    return part(lambda key: key not in chosen), part(lambda key: key in chosen)
