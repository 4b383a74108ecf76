"""What readers find in users' files, and what is done about it.

Findings are a dict of kind to list of str, a line for every case.
"""

import collections

import numpy as np

from official_selftrain.data import shapes

KINDS = {
    "missing": "missing images, left out",
    "unreadable": "unreadable images, left out",
    "size": "images of another shape than their labels state, left out",
    "resized": "images of another size than their labels state, boxes resized",
    "moved": "file names that differ in their folder, found in the folder of images",
    "shared": "images in several annotation files, their boxes joined",
    "twice": "images that are listed twice, their boxes joined",
    "renumbered": "ids that aren't whole numbers, renumbered",
    "joined": "categories of the same name, joined",
    "similar": "category names that differ in case only, kept apart",
    "wrong": "invalid annotations, ignored in training",
    "absent": "annotations of images that aren't listed, left out",
    "shapes": "boxes computed from polygons or masks",
    "outlines": "boxes that don't match their polygon or mask, kept",
    "reversed": "boxes whose corners were exchanged, put in order",
    "placeless": "objects without a usable box, rest of the image ignored in training",
    "flat": "boxes without area, rest of the image ignored in training",
    "beyond": "boxes outside their image, rest of it ignored in training",
    "outside": "boxes that extend beyond their image, clipped",
    "repeated": "duplicate boxes, left out",
    "contradictory": "boxes in the same place with different classes, kept",
    "crowd": "boxes of crowds or difficult objects, ignored in training",
    "whole": "boxes that cover their whole image, kept",
    "unknown": "boxes of classes that the labeled images don't have, left out",
    "unused": "classes without a box, left out",
    "labeled": "images that are among the labeled ones, left out",
    "double": "duplicate images, left out, their boxes joined",
    "foreign": "images in unsupported formats, left out",
    "maskless": "images without a mask, left out",
    "imageless": "masks without an image, left out",
    "mask": "masks that can't be used, left out with their images",
    "several": "images or masks of whose name there are several files",
    "unlisted": "images in neither train.txt nor val.txt, left out with their masks",
    "copy": "duplicate images, left out with their masks",
    "turned": "masks of the stored pixels of photographs, rotated with them",
    "strange": "masks with pixels of unknown class",
    "void": "masks without a known pixel, ignored in training",
    "masks": "masks among the unlabeled images, left out",
}


class Findings(collections.defaultdict):
    """What a reader found: lines by a key of `KINDS`.

    Args:
        book: `ledger.Ledger`, where the images and labels went.

    Attributes:
        looks: `copies.Looks` of the images that can be used, if they were decoded.
    """

    def __init__(self, book):
        super().__init__(list)
        self.ledger = book
        self.looks = None


# Boxes with at least this IoU are in the same place.
SAME_PLACE = 0.95

# A box and the outline of the same object have at least this IoU.
_SAME_OBJECT = 0.5

# Tools make the same mistake in every box: in larger files every n-th one is compared.
_COMPARED = 20_000


def summary(findings, texts=KINDS):
    """Return a line for each kind of finding: its number, and the first one.

    Args:
        findings: dict of a key of `texts` to list of str.
        texts: dict of kind to str.

    Returns:
        list of str.
    """
    return [
        f"{text}: {len(findings[kind])} (first: {findings[kind][0]})"
        for kind, text in texts.items()
        if findings.get(kind)
    ]


def compare_outlines(content):
    """Find boxes that contradict the polygon or mask of the same object.

    Args:
        content: dict, a COCO file's content, as returned by `coco_files.read`.

    Returns:
        list of str, a line for every such box.
    """
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    objects = [
        a
        for a in content["annotations"]
        if a.get("segmentation") and not a.get("iscrowd")
    ]
    rows = [
        (annotation, outline)
        for annotation in objects[:: len(objects) // _COMPARED + 1]
        if (outline := _outline(annotation, sizes)) is not None
    ]
    if not rows:
        return []
    boxes = np.array([a["bbox"] for a, _ in rows], np.float64)
    outlines = np.array([outline for _, outline in rows], np.float64)
    flipped, corners = boxes.copy(), boxes.copy()
    height = np.array([sizes[a["image_id"]][1] or np.nan for a, _ in rows], np.float64)
    flipped[:, 1] = height - boxes[:, 1] - boxes[:, 3]
    corners[:, 2:] -= boxes[:, :2]
    overlap = _iou_of_pairs(boxes, outlines)
    wrong, reason = overlap < _SAME_OBJECT, ""
    loose = overlap < SAME_PLACE
    for other, text in (
        (flipped, "; most fit if y counts from below"),
        (corners, "; most fit as [xmin, ymin, xmax, ymax]"),
    ):
        fits = _iou_of_pairs(other, outlines) > SAME_PLACE
        if loose.mean() > 0.1 and fits[loose].mean() > 0.5:
            wrong, reason = wrong | (loose & fits), text
    return [
        f"annotation {annotation.get('id')}, bbox={annotation['bbox']}, but the "
        f"outline spans {np.round(outline, 2).tolist()}; {wrong.sum()} of "
        f"{len(rows)} boxes with an outline{reason}"
        for (annotation, outline), is_wrong in zip(rows, wrong)
        if is_wrong
    ]


def _outline(annotation, sizes):
    return shapes.box(annotation["segmentation"], sizes[annotation["image_id"]])


def _iou_of_pairs(one, other):
    """Return the IoU of the n-th boxes of both, `[n, 4]` of x, y, width, height."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    common = np.clip(high - low, 0.0, None).prod(axis=1)
    total = one[:, 2:].prod(axis=1) + other[:, 2:].prod(axis=1) - common
    return common / np.maximum(total, 1e-9)
