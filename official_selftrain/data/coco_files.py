"""COCO annotation files: what they hold, and what is wrong with it."""

import json
import os

import numpy as np

# What an entry of a COCO file needs.
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox"),
}


def read(annotations):
    """Return what a COCO annotation file says, its entries' fields checked.

    Args:
        annotations: str, path of the JSON file.

    Returns:
        dict with the lists `images`, `categories` and `annotations`; a file of
        unlabelled images needs neither of the latter.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that isn't COCO's.

    Source: format of cocodataset.org.
    """
    if not os.path.isfile(annotations):
        raise FileNotFoundError(
            f"Expected a COCO file. Received: annotations={annotations!r}"
        )
    with open(annotations) as file:
        try:
            content = json.load(file)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"Expected JSON. Received: {annotations}: {error}"
            ) from error
    if isinstance(content, dict) and not content.get("annotations"):
        # Files of unlabelled images may have neither.
        content = {"annotations": [], "categories": [], **content}
    for key in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(
                f"Expected a COCO file with images, categories and annotations. "
                f"Received: {annotations} without {key}"
            )
    for kind, fields in _FIELDS.items():
        _check_fields(content[kind], kind, fields, annotations)
    return content


def fault(annotation, image_ids, categories, path):
    """Return what is wrong with an annotation.

    Args:
        annotation: dict, an entry of `annotations`.
        image_ids: the ids of the images, anything with `in`.
        categories: dict of categories by id.
        path: str, the file, to name it.

    Returns:
        str, an error's text, or None if the annotation is right. (A box without area
        is, and one that leaves its image.)
    """
    where = f"annotation {annotation.get('id')} in {path}"
    image_id, category_id = annotation["image_id"], annotation["category_id"]
    if not isinstance(image_id, int) or image_id not in image_ids:
        return (
            f"Expected annotations of listed images. Received: {where} "
            f"with image_id={image_id!r}"
        )
    if not isinstance(category_id, int) or category_id not in categories:
        return (
            f"Expected annotations of listed categories "
            f"({', '.join(map(str, sorted(categories)))}). Received: {where} "
            f"with category_id={category_id!r}"
        )
    bbox = annotation["bbox"]
    if not _are_numbers(bbox, 4) or min(bbox[2:]) < 0:
        return (
            "Expected bbox [x, y, width, height], finite, width and height not "
            f"negative. Received: {where} with bbox={bbox}"
        )
    return None


def _are_numbers(values, count):
    """Return whether something is a list of finite numbers, as many as said."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, (int, float)) for value in values)
        and bool(np.all(np.isfinite(values)))
    )


def _check_fields(entries, kind, fields, path):
    if not isinstance(entries, list):
        raise ValueError(
            f"Expected a list of {kind}. Received: {path} with {type(entries).__name__}"
        )
    seen = set()
    for index, entry in enumerate(entries):
        where = f"{kind}[{index}] in {path}"
        if not isinstance(entry, dict):
            raise ValueError(
                f"Expected {', '.join(fields)} in every entry. Received: {where}, "
                f"{entry!r}"
            )
        missing = [field for field in fields if field not in entry]
        if missing:
            raise ValueError(
                f"Expected {', '.join(fields)} in every entry. Received: {where} "
                f"without {missing[0]}"
            )
        if kind == "annotations":
            continue
        if not isinstance(entry["id"], int) or entry["id"] in seen:
            raise ValueError(
                f"Expected integer ids, each once. Received: {where} "
                f"with id={entry['id']!r}"
            )
        seen.add(entry["id"])
        if kind != "images":
            continue
        size = [entry["height"], entry["width"]]
        if not _are_numbers(size, 2) or min(size) < 1:
            raise ValueError(
                f"Expected height and width of at least 1. Received: {where} with "
                f"height={size[0]!r}, width={size[1]!r}"
            )
