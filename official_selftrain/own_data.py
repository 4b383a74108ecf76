"""Look at somebody's own images and boxes, and propose an experiment for them.

What is wrong with the data is reported and left out; the files themselves are never
changed. Boxes here are COCO's `[x, y, width, height]` in pixels, as in the files.
"""

import collections
import concurrent.futures
import hashlib
import math
import os

import numpy as np
import tensorflow as tf

from official_selftrain import anchors
from official_selftrain import boxes as box_ops
from official_selftrain.data import (
    coco_files,
    images,
    problems,
    sources,
    splits,
    voc,
)

# What can be wrong with the data, and what becomes of it.
FINDINGS = {
    "missing": "images that aren't there, left out",
    "unreadable": "images that can't be read, left out",
    "size": "images of another size than the annotations say, left out",
    "wrong": "boxes that can't be used, left out",
    "flat": "boxes without area, left out",
    "outside": "boxes that leave their image, clipped",
    "repeated": "boxes drawn twice, the second left out",
    "contradictory": "boxes in the same place with different classes, kept",
    "whole": "boxes that cover their whole image, kept",
    "unknown": "boxes of classes that the labelled images don't have, left out",
    "unused": "classes without a box, left out",
    "labeled": "unlabelled images that are labelled ones, left out",
    "double": "unlabelled images that come twice, the second left out",
}

# From this IoU on two boxes are in the same place.
_SAME_PLACE = 0.95

# The share of labelled images that is held out for validation.
_HELD_OUT = 0.2

# The small objects should be this large in the frame, in pixels: four cells of P3.
_SMALL_OBJECT = 32

# Pixels, without and with a GPU.
LARGEST_FRAME = (320, 640)

# Boxes that are compared with every anchor.
_MAX_COVERED_BOXES = 1000


def read(annotations, folder, categories=None):
    """Read labelled images, and leave out what can't be used.

    Args:
        annotations: str, a COCO file, or a folder of PASCAL VOC's XML files.
        folder: str, the folder of the images.
        categories: list of COCO's category entries, or None for the file's own. They
            are matched by name; boxes of others are left out.

    Returns:
        `(content, findings)`: a COCO file's content with the images and boxes that
        can be used and the classes that have some; dict of a name out of `FINDINGS`
        to a list of str, what was found.

    Raises:
        FileNotFoundError: for a missing file or folder.
        ValueError: for a file that isn't COCO's, boxes that are shares of the image,
            or if no box is left.

    Source: own.
    """
    if os.path.isdir(annotations):
        content = voc.boxes(annotations)
    else:
        content = coco_files.read(annotations)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"Expected a folder of images. Received: images={folder!r}"
        )
    bboxes = [a["bbox"] for a in content["annotations"]]
    if bboxes and max(max(bbox, default=0.0) for bbox in bboxes) <= 1.0:
        raise ValueError(
            "Expected boxes [x, y, width, height] in pixels. Received: "
            f"{annotations}, whose boxes lie within 0…1: shares of the image?"
        )
    findings = collections.defaultdict(list)
    kept = _usable_images(content["images"], folder, findings)
    names = {c["id"]: c["name"] for c in content["categories"]}
    rows = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        fault = coco_files.fault(annotation, rows, names, annotations)
        if fault:
            findings["wrong"].append(fault.split("Received: ")[1])
        else:
            rows[annotation["image_id"]].append(annotation)
    found = []
    for image in kept:
        found += _usable_boxes(image, rows[image["id"]], names, findings)
    if categories is None:
        used = {annotation["category_id"] for annotation in found}
        findings["unused"] = [n for key, n in names.items() if key not in used]
        categories = [c for c in content["categories"] if c["id"] in used]
    else:
        found = _with_categories(found, names, categories, findings)
    if not found:
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


def _usable_images(entries, folder, findings):
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
    kept = []
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
            findings["flat"].append(where)
            continue
        # Annotation tools round: half a pixel is no mistake.
        if max(-x, -y, x + width - right, y + height - bottom) > 0.5:
            findings["outside"].append(where)
        if area >= _SAME_PLACE * image["width"] * image["height"]:
            findings["whole"].append(where)
        box = (top, left, bottom, right)
        double = next(
            (other for other in kept if _iou(box, other[0]) >= _SAME_PLACE), None
        )
        if double and double[1]["category_id"] == annotation["category_id"]:
            findings["repeated"].append(where)
            continue
        if double:
            other = names[double[1]["category_id"]]
            findings["contradictory"].append(f"{where} and {other}")
        bbox = [float(value) for value in (left, top, right - left, bottom - top)]
        kept.append((box, {**annotation, "bbox": bbox}))
    return [annotation for _, annotation in kept]


def _iou(box, other):
    height = min(box[2], other[2]) - max(box[0], other[0])
    width = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(height, 0.0) * max(width, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return shared / (sum(areas) - shared)


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
    source = sources.folder(folder)
    found = [e["path"].decode() for e in source.dataset.as_numpy_iterator()]
    labeled, seen = {_digest(path) for path in labeled}, set()
    findings = {"unreadable": list(source.skipped), "labeled": [], "double": []}
    entries = []
    for path, (size, reason) in zip(found, _sizes(found)):
        digest = size and _digest(path)
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


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


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
    for annotation in content["annotations"]:
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


def box_sides(content):
    """Return the boxes' sizes as shares of their images' longer sides.

    Args:
        content: dict, a COCO file's content.

    Returns:
        float64 `[n, 2]`, height and width in 0…1.
    """
    longest = {i["id"]: max(i["height"], i["width"]) for i in content["images"]}
    sides = [
        np.array(a["bbox"][:1:-1]) / longest[a["image_id"]]
        for a in content["annotations"]
    ]
    return np.array(sides).reshape(-1, 2)


def propose(content, num_gpus=0, memory=16.0, has_weights=True):
    """Propose an experiment's settings for labelled images and a machine.

    Args:
        content: dict, the training images as a COCO file's content.
        num_gpus: int.
        memory: float, main memory in GiB.
        has_weights: bool, whether EfficientNet-Lite0's ImageNet weights are at hand.

    Returns:
        dict of settings: `image_size`, `anchor_size`, `max_level`, `aspect_ratios`,
        `coverage` (the share of boxes that have an anchor of an IoU of at least 0.5),
        `small`, `median`, `large` (sides in the frame in pixels which 10 %, 50 % and
        95 % of the boxes stay below), `batch_size`, `learning_rate`, `steps`,
        `epochs`, `bn_momentum`, `max_boxes`.

    Source: own; rules of thumb.
    """
    sides = box_sides(content)
    shares = np.sqrt(sides.prod(axis=1))
    longest = max(max(i["height"], i["width"]) for i in content["images"])
    # As many pixels as the small objects need; no more than the images have.
    needed = min(_SMALL_OBJECT / np.quantile(shares, 0.1), longest)
    side = np.clip(32 * math.ceil(needed / 32), 128, LARGEST_FRAME[num_gpus > 0])
    side = int(side)
    small, median, large = np.quantile(shares, (0.1, 0.5, 0.95)) * side
    # The smallest anchors, of level P3, are anchor_size · 8 pixels.
    anchor_size = float(np.clip(np.floor(small / 8 * 4) / 4, 1.0, 8.0))
    max_level = 5
    while max_level < 7 and anchor_size * 2 ** (max_level + 1) < large:
        max_level += 1
    aspect_ratios = _aspect_ratios(sides[:, 1] / sides[:, 0])
    per_device = 16 if num_gpus else 8 if memory >= 4.0 else 4
    batch_size = per_device * max(num_gpus, 1)
    most = 20000 if num_gpus else 2000
    steps = int(np.clip(100 * len(content["images"]) / batch_size, 400, most))
    steps = 100 * math.ceil(steps / 100)
    counts = collections.Counter(a["image_id"] for a in content["annotations"])
    settings = {
        "image_size": (side, side),
        "small": float(small),
        "median": float(median),
        "large": float(large),
        "anchor_size": anchor_size,
        "max_level": max_level,
        "aspect_ratios": aspect_ratios,
        "batch_size": batch_size,
        "learning_rate": 1e-3 * batch_size / 8,
        "steps": steps,
        "epochs": steps * batch_size / len(content["images"]),
        # The moving statistics forget the start within a tenth of the steps.
        "bn_momentum": float(min(0.99, round(1 - 10 / steps, 3))),
        "max_boxes": int(max(20, 2 * max(counts.values()))),
        "has_weights": has_weights,
        "num_gpus": num_gpus,
    }
    settings["coverage"] = _coverage(content, settings)
    return settings


def _aspect_ratios(ratios):
    """Return the medians of the thirds of width over height, without near doubles."""
    found = []
    for ratio in np.quantile(ratios, (1 / 2, 1 / 6, 5 / 6)):
        if all(max(ratio / other, other / ratio) > 1.2 for other in found):
            found.append(round(float(ratio), 2))
    return tuple(found)


def _coverage(content, settings):
    """Return the share of boxes that an anchor meets with an IoU of at least 0.5."""
    scales = {
        i["id"]: settings["image_size"][0] / max(i["height"], i["width"])
        for i in content["images"]
    }
    corners = np.array(
        [
            np.array([y, x, y + height, x + width]) * scales[a["image_id"]]
            for a in content["annotations"][:_MAX_COVERED_BOXES]
            for x, y, width, height in [a["bbox"]]
        ],
        np.float32,
    )
    grid = anchors.anchor_boxes(
        settings["image_size"],
        max_level=settings["max_level"],
        anchor_size=settings["anchor_size"],
        aspect_ratios=settings["aspect_ratios"],
    )
    best = [np.max(box_ops.iou(box[None], grid)) for box in corners]
    return float(np.mean(np.array(best) >= 0.5))
