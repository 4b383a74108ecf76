"""What readers find in users' files, and what is done about it.

Findings are a dict of kind to list of str, a line for every case.
"""

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
    "wrong": "invalid annotations, left out",
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
    "double": "duplicate images, left out",
    "foreign": "images in unsupported formats, left out",
}


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
