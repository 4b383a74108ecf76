"""COCO annotation files: reading and checking them."""

import difflib
import json
import os

import numpy as np

from official_selftrain.data import examples

# Required fields of the entries of a COCO file.
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox"),
}


def read(annotations):
    """Read a COCO annotation file and check the fields of its entries.

    Args:
        annotations: str, path of the JSON file.

    Returns:
        dict with the lists `images`, `categories` and `annotations`; a file of
        unlabeled images may lack the latter two.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file in another format.

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
        # Files of unlabeled images may have neither.
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
        image_ids: the ids of the images, any container.
        categories: dict of categories by id.
        path: str, the file, for the message.

    Returns:
        str, an error message, or None if the annotation is valid. (A box without area
        or one that extends beyond its image is valid.)
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
    """Return whether `values` is a list of `count` finite numbers."""
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
                f"Expected unique integer ids. Received: {where} "
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


def coco(annotations, images, class_names=None):
    """Read a COCO annotation file and its folder of images.

    Crowd regions are ignored in training, not treated as background. An image without
    annotations is a valid image without objects. A box whose width or height is 0 is
    dropped and counted. A `score`, present in a teacher's annotations, is kept.

    Args:
        annotations: str, path of the JSON file.
        images: str, the folder that its `file_name`s are relative to.
        class_names: sequence of str or None: the categories to use, in this order.
            None uses all categories by ascending id.

    Returns:
        `examples.Source`; a file without any annotation gives a source without labels.

    Raises:
        FileNotFoundError: for a missing file, folder or image.
        ValueError: for a file in another format, an annotation with an unknown image
            or category, or a box of negative size.

    Source: format of cocodataset.org.
    """
    content = read(annotations)
    categories = {c["id"]: c["name"] for c in content["categories"]}
    names = [categories[key] for key in sorted(categories)]
    if class_names is not None:
        _check_names(class_names, names, annotations)
        names = list(class_names)
    class_of = {key: names.index(n) for key, n in categories.items() if n in names}
    _check_files(images, [image["file_name"] for image in content["images"]])

    rows = {image["id"]: [] for image in content["images"]}
    skipped = []
    for annotation in content["annotations"]:
        message = fault(annotation, rows, categories, annotations)
        if message:
            raise ValueError(message)
        x, y, width, height = annotation["bbox"]
        if width == 0 or height == 0:
            skipped.append(f"annotation {annotation.get('id')}: box without area")
        elif annotation["category_id"] in class_of:
            rows[annotation["image_id"]].append(annotation)
    records = []
    for image in content["images"]:
        objects = rows[image["id"]]
        height, width = image["height"], image["width"]
        corners = [
            (
                a["bbox"][1],
                a["bbox"][0],
                a["bbox"][1] + a["bbox"][3],
                a["bbox"][0] + a["bbox"][2],
            )
            for a in objects
        ]
        records.append(
            {
                "path": os.path.join(images, image["file_name"]),
                "id": image["id"],
                "boxes": np.array(corners, np.float64).reshape(-1, 4)
                / [height, width, height, width],
                "classes": np.array([class_of[a["category_id"]] for a in objects]),
                "scores": np.array([a.get("score", 1.0) for a in objects], np.float32),
                "ignore": np.array([a.get("iscrowd", 0) for a in objects], bool),
                "areas": np.array([a.get("area", 0.0) for a in objects]),
            }
        )
    return examples.from_records(
        records, names, has_labels=bool(content["annotations"]), skipped=skipped
    )


def _check_names(wanted, available, path):
    for name in wanted:
        if name not in available:
            near = difflib.get_close_matches(name, available, 1, 0.0)
            raise ValueError(
                f"Expected class_names among the {len(available)} categories of {path} "
                f"(nearest: {near[0] if near else 'none'}). Received: {name!r}"
            )


def _check_files(directory, names):
    if not os.path.isdir(directory):
        raise FileNotFoundError(
            f"Expected a folder of images. Received: images={directory!r}"
        )
    missing = [n for n in names if not os.path.exists(os.path.join(directory, n))]
    if missing:
        raise FileNotFoundError(
            f"Expected every image of the annotation file in {directory}. Received: "
            f"{len(missing)} of {len(names)} missing, first {missing[0]!r}"
        )
