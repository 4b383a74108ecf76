"""Look at somebody's own images and boxes.

What is wrong with the data is reported and left out; the files themselves are never
changed. Boxes here are COCO's `[x, y, width, height]` in pixels, as in the files.
"""

import collections
import concurrent.futures
import os

import numpy as np
import tensorflow as tf

from official_selftrain.data import images, problems, sources, splits
from official_selftrain.data.sources import coco_files, voc_files
from official_selftrain.files import hashes
from official_selftrain.geometry import array_boxes

# What can be wrong with the data, and what becomes of it.
FINDINGS = {
    "missing": "images that aren't there, left out",
    "unreadable": "images that can't be read, left out",
    "size": "images of another size than the annotations say, left out",
    "wrong": "boxes that can't be used, left out",
    "flat": "boxes without area, left out",
    "beyond": "boxes outside of their image, left out",
    "outside": "boxes that leave their image, clipped",
    "repeated": "boxes drawn twice, the second left out",
    "contradictory": "boxes in the same place with different classes, kept",
    "crowd": "boxes of crowds or difficult objects, ignored in training",
    "whole": "boxes that cover their whole image, kept",
    "unknown": "boxes of classes that the labelled images don't have, left out",
    "unused": "classes without a box, left out",
    "labeled": "images that are among the labelled ones, left out",
    "double": "images that come twice, the second left out",
    "foreign": "images of kinds that aren't read, left out",
}

_FOREIGN_ENDINGS = (".avif", ".heic", ".tif", ".tiff", ".webp")

# From this IoU on two boxes are in the same place.
_SAME_PLACE = 0.95

# The share of labelled images that is held out for validation.
_HELD_OUT = 0.2


def read(annotations, folder, categories=None, labeled=()):
    """Read labelled images, and leave out what can't be used.

    Args:
        annotations: str, a COCO file, or a folder of PASCAL VOC's XML files.
        folder: str, the folder of the images.
        categories: list of COCO's category entries, or None for the file's own. They
            are matched by name; boxes of others are left out.
        labeled: paths of images that these must not repeat. Files of the same bytes
            are the same image.

    Returns:
        `(content, findings)`: a COCO file's content with the images and boxes that
        can be used and the classes that have some; dict of a name out of `FINDINGS`
        to a list of str, what was found.

    Raises:
        FileNotFoundError: for a missing file or folder.
        ValueError: for a file that isn't COCO's, boxes that are shares of the image or
            corners, a name of two categories, or if no box is left.

    Source: own.
    """
    if os.path.isdir(annotations):
        content = voc_files.boxes(annotations)
    else:
        content = coco_files.read(annotations)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"Expected a folder of images. Received: images={folder!r}"
        )
    names = {c["id"]: c["name"] for c in content["categories"]}
    for name, count in collections.Counter(names.values()).items():
        if count > 1:
            raise ValueError(
                f"Expected every category once. Received: {annotations} with "
                f"{count} of name={name!r}"
            )
    sizes = {image["id"]: image for image in content["images"]}
    rows = {image["id"]: [] for image in content["images"]}
    findings = collections.defaultdict(list)
    for annotation in content["annotations"]:
        fault = coco_files.fault(annotation, rows, names, annotations)
        if fault:
            findings["wrong"].append(fault.split("Received: ")[1])
        else:
            rows[annotation["image_id"]].append(annotation)
    _check_units(rows, sizes, annotations)
    kept = _usable_images(content["images"], folder, labeled, findings)
    found = []
    for image in kept:
        found += _usable_boxes(image, rows[image["id"]], names, findings)
    if categories is None:
        used = {a["category_id"] for a in objects({"annotations": found})}
        findings["unused"] = [n for key, n in names.items() if key not in used]
        found = [a for a in found if a["category_id"] in used]
        categories = [c for c in content["categories"] if c["id"] in used]
    else:
        found = _with_categories(found, names, categories, findings)
    if not objects({"annotations": found}):
        raise ValueError(
            f"Expected at least one box on a readable image. Received: {annotations}"
            f"{''.join('; ' + line for line in summary(findings))}"
        )
    content = {
        "images": kept,
        "annotations": found,
        "categories": categories,
    }
    return content, dict(findings)


def _with_categories(annotations, names, categories, findings):
    """Return annotations with the ids of other categories of the same names."""
    ids = {category["name"]: category["id"] for category in categories}
    kept = []
    for annotation in annotations:
        name = names[annotation["category_id"]]
        if name in ids:
            kept.append({**annotation, "category_id": ids[name]})
        else:
            findings["unknown"].append(name)
    return kept


def _check_units(rows, sizes, path):
    """Refuse boxes that aren't `[x, y, width, height]` in pixels."""
    bboxes = np.array([a["bbox"] for found in rows.values() for a in found])
    if not len(bboxes):
        return
    kind = "Expected boxes [x, y, width, height] in pixels. Received: "
    if bboxes.max() <= 1.0:
        raise ValueError(
            f"{kind}{path}, whose boxes lie within 0…1: shares of the image?"
        )
    limits = np.array(
        [
            (sizes[key]["width"], sizes[key]["height"])
            for key, found in rows.items()
            for _ in found
        ]
    )
    start, end = bboxes[:, :2], bboxes[:, 2:]
    leaving = np.any(start + end > limits + 1.0, axis=1)
    are_corners = np.all((end > start) & (end <= limits + 1.0))
    if np.mean(leaving) > 0.1 and are_corners:
        raise ValueError(
            f"{kind}{path}, of whose {len(bboxes)} boxes {leaving.sum()} leave their "
            "image and all fit as [xmin, ymin, xmax, ymax]"
        )


def _usable_images(entries, folder, labeled, findings):
    labeled, seen = {hashes.sha256(path) for path in labeled}, set()
    files = paths({"images": entries}, folder)
    kept = []
    for entry, path, (size, reason) in zip(entries, files, _sizes(files)):
        stated = (entry["height"], entry["width"])
        if not os.path.exists(path):
            findings["missing"].append(path)
        elif size is None:
            findings["unreadable"].append(f"{path}: {reason}")
        elif size != stated:
            turned = ", the other way round: by its EXIF data?"
            findings["size"].append(
                f"{path}: {size[1]} x {size[0]}, stated {stated[1]} x {stated[0]}"
                f"{turned if size == stated[::-1] else ''}"
            )
        else:
            digest = hashes.sha256(path)
            if digest in labeled or digest in seen:
                findings["labeled" if digest in labeled else "double"].append(path)
            else:
                seen.add(digest)
                kept.append(entry)
    return kept


def _sizes(paths):
    """Return (height, width) or None, and why, of image files; decodes them all."""

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
        # Annotation tools round: half a pixel is no mistake.
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
    """Return a line for each kind of finding: how many, and the first.

    Args:
        findings: dict as `read` returns it.

    Returns:
        list of str.
    """
    return [
        f"{text}: {len(findings[kind])} (first: {findings[kind][0]})"
        for kind, text in FINDINGS.items()
        if findings.get(kind)
    ]


def objects(content):
    """Return the annotations that aren't of crowds."""
    return [a for a in content["annotations"] if not a.get("iscrowd")]


def paths(content, folder):
    """Return the paths of a COCO file's images."""
    return [os.path.join(folder, image["file_name"]) for image in content["images"]]


def read_unlabeled(folder, labeled):
    """List the unlabelled images that can be read and aren't labelled ones.

    Files of the same bytes are the same image.

    Args:
        folder: str, a folder or glob.
        labeled: list of str, the paths of the labelled images.

    Returns:
        `(content, findings)`: the content of a COCO file without labels, whose file
        names are paths; dict of a name out of `FINDINGS` to a list of str.

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
    found = [e["path"].decode() for e in source.dataset.as_numpy_iterator()]
    labeled, seen = {hashes.sha256(path) for path in labeled}, set()
    findings = {"unreadable": list(source.skipped), "labeled": [], "double": []}
    findings["foreign"] = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in sorted(names)
        if name.lower().endswith(_FOREIGN_ENDINGS)
    ]
    entries = []
    for path, (size, reason) in zip(found, _sizes(found)):
        digest = size and hashes.sha256(path)
        if size is None:
            findings["unreadable"].append(f"{path}: {reason}")
        elif digest in labeled or digest in seen:
            findings["labeled" if digest in labeled else "double"].append(path)
        else:
            seen.add(digest)
            height, width = size
            entries.append(
                {
                    "id": len(entries) + 1,
                    "file_name": path,
                    "height": height,
                    "width": width,
                }
            )
    if not entries:
        raise ValueError(
            "Expected a readable image that isn't labelled. Received: "
            f"unlabeled={folder!r}{''.join('; ' + line for line in summary(findings))}"
        )
    return {"images": entries}, findings


def hold_out(content, seed=0):
    """Split labelled images into training and validation.

    A fifth is held out, at least one image. No image is held out that is the last one
    with a class.

    Args:
        content: dict, a COCO file's content.
        seed: int.

    Returns:
        `(training, validation)`, two such contents with the same categories.

    Raises:
        ValueError: if that leaves no image for one of them.
    """
    classes = {image["id"]: set() for image in content["images"]}
    for annotation in objects(content):
        classes[annotation["image_id"]].add(annotation["category_id"])
    left = collections.Counter(key for found in classes.values() for key in found)
    count = max(round(_HELD_OUT * len(classes)), 1)
    chosen = set()
    for number in splits.ordered(classes, seed):
        found = classes[number]
        if len(chosen) < count and found and all(left[key] > 1 for key in found):
            chosen.add(number)
            left.subtract(found)
    if not chosen:
        raise ValueError(
            "Expected every class on two images, one of them for validation. "
            f"Received: {len(classes)} images of which none can be spared; give "
            "validation_annotations"
        )

    def part(is_in):
        return {
            "images": [i for i in content["images"] if is_in(i["id"])],
            "annotations": [a for a in content["annotations"] if is_in(a["image_id"])],
            "categories": content["categories"],
        }

    return part(lambda key: key not in chosen), part(lambda key: key in chosen)
