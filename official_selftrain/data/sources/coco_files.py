"""COCO annotation files, in the forms in which tools and scripts write them.

`read` brings every entry into one form and tells what it changed. What can be read in
more than one way is refused, with the entry, the field and its value.
"""

import collections
import dataclasses
import difflib
import json
import os
import re
import urllib.parse

import numpy as np

from official_selftrain.data import examples, images, inspection, ledger, shapes

# Required fields of the entries of a COCO file.
_FIELDS = {
    "images": ("id", "file_name"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id"),
}
_ENCODINGS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig"))

# Annotation tools round: half a pixel is fine.
_ROUNDING = 0.5

# Boxes in another form are found although some are different.
_MOST = 0.9
_TOLERANCE = 1e-3

# With at most this fraction of boxes beyond their image, they aren't corners.
_FEW_BEYOND = 0.1

# How the findings of `coco` are told, where it does something else than `init`.
_TOLD = {**inspection.KINDS, "unused": "classes without a box"}


def coco(annotations, images, class_names=None, pixel_range=None):
    """Read a COCO annotation file and its folder of images.

    Crowd regions are ignored in training, not treated as background, and so is all but
    the objects of an image with an object whose box can't be used. An image without
    annotations is a valid image without objects. A `score`, present in a teacher's
    annotations, is kept.

    Args:
        annotations: str, path of the JSON file, or a sequence of several.
        images: str, the folder that its `file_name`s are relative to, or as many
            folders as files.
        class_names: sequence of str or None: the categories to use, in this order.
            None uses all categories by ascending id.
        pixel_range: as of `examples.with_pixel_range`.

    Returns:
        `examples.Source`; a file without any annotation gives a source without labels.
        Its `notes` tell what was changed, see `read`.

    Raises:
        FileNotFoundError: for a missing file, folder or image.
        ValueError: for a file in another format, an annotation with an unknown image
            or category, or boxes in other units.

    Source: format of cocodataset.org.
    """
    content, findings = read(annotations, images)
    files = annotations if isinstance(annotations, (list, tuple)) else [annotations]
    annotations = ", ".join(map(str, files))
    images = root(images)
    for kind in ("wrong", "absent"):
        if findings.get(kind):
            raise ValueError(findings[kind][0])
    categories = {c["id"]: c["name"] for c in content["categories"]}
    names = [categories[key] for key in sorted(categories)]
    if class_names is not None:
        _check_names(class_names, names, annotations)
        names = list(class_names)
    class_of = {key: names.index(n) for key, n in categories.items() if n in names}
    _check_files(images, [image["file_name"] for image in content["images"]])

    rows = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["category_id"] in class_of:
            rows[annotation["image_id"]].append(annotation)
        else:
            findings.ledger.labels.leave_out("unknown", [annotation])
    records = [
        _record(image, rows[image["id"]], class_of, images, annotations)
        for image in content["images"]
    ]
    has_labels = bool(content["annotations"])
    if has_labels:
        objects = [a for a in content["annotations"] if not a.get("iscrowd")]
        used = {class_of.get(a["category_id"]) for a in objects}
        findings["unused"] = [n for k, n in enumerate(names) if k not in used]
    source = examples.from_records(
        records,
        names,
        has_labels,
        notes=inspection.summary(findings, _TOLD),
        files=files,
        folder=images,
    )
    kept = [annotation for row in rows.values() for annotation in row]
    taught = collections.Counter(
        names[label] for r in records for label in r["classes"][~r["ignore"]]
    )
    counts = source.box_counts
    book = closed(findings.ledger, annotations, kept, counts, taught, has_labels)
    source = examples.with_pixel_range(source, pixel_range)
    return dataclasses.replace(source, account=lambda: (counts, book))


def closed(book, where, annotations, counts, taught, has_labels=True):
    """Close the ledger of a COCO file whose kept annotations are given.

    Args:
        book: `ledger.Ledger`.
        where: str, the files.
        annotations: list of dicts, those that are taught or ignored.
        counts: as of `ledger.Ledger.close`.
        taught: dict of class name to its number of taught boxes.
        has_labels: bool.

    Returns:
        `ledger.Ledger`.
    """
    for annotation in annotations:
        for place, count in ledger.places_of(annotation).items():
            if place != ledger.TAUGHT:
                book.labels.put(place, count)
    return book.close(where, counts, taught, has_labels)


def _record(image, objects, class_of, folder, path):
    height, width = image["height"], image["width"]
    if objects and not height:
        raise ValueError(
            "Expected height and width, or an image to read them from. Received: "
            f"{image['file_name']} in {path}, which can't be read"
        )
    corners = [
        (
            a["bbox"][1],
            a["bbox"][0],
            a["bbox"][1] + a["bbox"][3],
            a["bbox"][0] + a["bbox"][2],
        )
        for a in objects
    ]
    return {
        "path": os.path.join(folder, image["file_name"]),
        "id": image["id"],
        "boxes": np.array(corners, np.float64).reshape(-1, 4)
        / [height or 1, width or 1, height or 1, width or 1],
        "classes": np.array([class_of[a["category_id"]] for a in objects]),
        # A crowd isn't one object that a score could be about.
        "scores": np.array(
            [1.0 if a.get("iscrowd") else a.get("score", 1.0) for a in objects],
            np.float32,
        ),
        "ignore": np.array([a.get("iscrowd", 0) for a in objects], bool),
        "areas": np.array([a.get("area", 0.0) for a in objects]),
        "stated_size": (height or 0, width or 0),
    }


def close(book, content, where):
    """Close the ledger of a COCO file's content, all of which is taught or ignored.

    Args:
        book: `ledger.Ledger`.
        content: dict, as returned by `read`; it no longer tells where labels went.
        where: str, the files.

    Returns:
        `ledger.Ledger`.
    """
    names = {c["id"]: c["name"] for c in content["categories"]}
    objects = [a for a in content["annotations"] if not a.get("iscrowd")]
    taught = collections.Counter(names[a["category_id"]] for a in objects)
    every = collections.Counter(a["image_id"] for a in content["annotations"])
    sure = collections.Counter(a["image_id"] for a in objects)
    counts = [(every[i["id"]], sure[i["id"]]) for i in content["images"]]
    closed(book, where, content["annotations"], counts, taught)
    for annotation in content["annotations"]:
        annotation.pop(ledger.STANDS_FOR, None)
    return book


def read(annotations, folder=None):
    """Read a COCO annotation file.

    - Ids may be numbers or text, also one in one list and the other in another. If the
      images' or categories' aren't all whole numbers, they are numbered from 1.
    - Numbers may be text.
    - `bbox` may be missing or empty where `segmentation` has polygons or a mask.
    - A box with a negative width or height has its corners exchanged.
    - A box extends at most to the border of its image. An object without a box, with
      one without area or outside its image has an unknown place: instead it gets a
      crowd region that covers the image.
    - Categories whose names differ only in surrounding space are the same.
    - `file_name` may have backslashes, be a URL or start with other folders, if the
      rest is found in the folder of images.
    - A missing height or width is that of the image.
    - Of several files, images and categories are numbered from 1. Categories of the
      same name are the same, and so are images of the same path.

    Args:
        annotations: str, path of the JSON file, or a sequence of several.
        folder: str or None, the folder of images, or as many as files; `file_name` is
            relative to `root(folder)`.

    Returns:
        `(content, findings)`: dict with the lists `images`, `categories` and
        `annotations`, the latter two empty in a file of unlabeled images; `height` and
        `width` are None where the image can't be read. Dict of a kind of
        `inspection.KINDS` to list of str; those of `"wrong"` are the error messages of
        annotations that are left out.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file in another format, duplicate ids, or boxes that are
            corners or fractions of the image.

    Source: format of cocodataset.org.
    """
    if isinstance(annotations, (list, tuple)) or isinstance(folder, (list, tuple)):
        return several(read, annotations, folder)
    if not os.path.isfile(annotations):
        raise FileNotFoundError(
            f"Expected a COCO file. Received: annotations={annotations!r}"
        )
    return checked(parsed(annotations), annotations, folder)


def root(folders):
    """Return the folder that contains all of one or several folders."""
    if not isinstance(folders, (list, tuple)):
        return folders
    if len(set(folders)) == 1:
        return folders[0]
    return os.path.commonpath([os.path.abspath(folder) for folder in folders])


def several(read, paths, folders):
    """Read several files, each by a function like `read`, and join their contents.

    Args:
        read: function (path, folder) → `(content, findings)`.
        paths: str, or a sequence of several.
        folders: str, or a sequence of as many.

    Returns:
        `(content, findings)`, as `read`.

    Raises:
        ValueError: for another number of folders, or an image of two shapes.
    """
    if not isinstance(paths, (list, tuple)):
        paths = [paths]
    if not isinstance(folders, (list, tuple)):
        folders = [folders] * len(paths)
    if not paths or len(folders) != len(paths):
        raise ValueError(
            "Expected one folder of images, or as many as annotation files. Received: "
            f"{len(folders)} folders, {len(paths)} files"
        )
    parts = [read(path, folder) for path, folder in zip(paths, folders)]
    start = root(folders)
    images, categories, annotations, present = {}, {}, [], set()
    together = _together([found for _, found in parts])
    book = together.ledger
    for (content, _), folder in zip(parts, folders):
        ids, names = {}, {}
        for image in content["images"]:
            name = os.path.normpath(image["file_name"])
            if folder != start:
                name = os.path.relpath(os.path.join(folder, name), start)
            if name in images:
                together["shared"].append(name)
                book.images.put("shared")
            entry = {**image, "file_name": name, "id": len(images) + 1}
            ids[image["id"]] = images.setdefault(name, entry)["id"]
            names[image["id"]] = name
        labels = {}
        for category in content["categories"]:
            name, entry = category["name"], {**category, "id": len(categories) + 1}
            labels[category["id"]] = categories.setdefault(name, entry)["id"]
        scales = {
            image["id"]: _scale(image, images[names[image["id"]]])
            for image in content["images"]
        }
        moved = [
            {
                **_without_outline(annotation, scales[annotation["image_id"]]),
                "image_id": ids[annotation["image_id"]],
                "category_id": labels[annotation["category_id"]],
                "bbox": (annotation["bbox"] * scales[annotation["image_id"]]).tolist(),
            }
            for annotation in content["annotations"]
        ]
        repeated = [a for a in moved if _place(a) in present]
        listed = list(images)  # by number
        together["repeated"] += [
            f"{listed[a['image_id'] - 1]}: {a['bbox']}" for a in repeated
        ]
        book.labels.leave_out("repeated", repeated)
        annotations += [a for a in moved if _place(a) not in present]
        present.update(map(_place, moved))
    together["similar"] = _similar(categories)
    content = {
        "images": list(images.values()),
        "categories": list(categories.values()),
        "annotations": annotations,
    }
    return content, together


def _without_outline(annotation, scale):
    """Return an annotation without its outline if that isn't the box's any more."""
    if np.all(scale == 1.0):
        return annotation
    return {k: v for k, v in annotation.items() if k != "segmentation"}


def _together(findings):
    """Return the findings of several files as those of one."""
    together = inspection.Findings(ledger.Ledger(0))
    for found in findings:
        together.ledger.add(found.ledger)
        for kind, lines in found.items():
            together[kind] += lines
    return together


def _place(annotation):
    """Return what two annotations of the same object in several files share."""
    fields = ("image_id", "category_id", "iscrowd")
    sides = np.round(annotation["bbox"], 2)
    return *(annotation.get(field) or 0 for field in fields), *sides


def _scale(image, other):
    """Return what turns x, y, width and height of an image into those of another."""
    size, stated = ((entry["height"], entry["width"]) for entry in (other, image))
    if None in (*size, *stated) or size == stated:
        return np.ones(4)
    if not images.is_resized(size, stated):
        raise ValueError(
            "Expected one shape of an image in several files. Received: "
            f"{image['file_name']} with height and width {stated} and {size}"
        )
    ratios = other["width"] / image["width"], other["height"] / image["height"]
    return np.tile(ratios, 2)


def parsed(path):
    """Return the content of a JSON file in UTF-8 or UTF-16.

    Args:
        path: str.

    Raises:
        ValueError: if it isn't JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON. Received: {path}: {error}") from error


def read_text(path):
    """Return the content of a text file in UTF-8 or UTF-16.

    Args:
        path: str.

    Raises:
        ValueError: if it has another encoding.
    """
    with open(path, "rb") as file:
        contents = file.read()
    encoding = next(name for start, name in _ENCODINGS if contents.startswith(start))
    try:
        return contents.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected text in UTF-8 or UTF-16. Received: {path}: {error}"
        ) from error


def checked(content, path, folder=None, book=None):
    """Bring the content of a COCO file into one form, see `read`.

    Args:
        content: what the JSON file holds; it is changed.
        path: str, the file, for messages.
        folder: str or None, the folder of images.
        book: `ledger.Ledger` of the file that the content was converted from, or None.

    Returns:
        `(content, findings)`, as `read`.
    """
    if isinstance(content, dict) and not content.get("annotations"):
        # Files of unlabeled images may have neither.
        content = {"categories": [], **content, "annotations": []}
    for kind in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or kind not in content:
            raise ValueError(
                "Expected a COCO file with images, categories and annotations. "
                f"Received: {path} without {kind}"
            )
    for kind, fields in _FIELDS.items():
        _check_fields(content[kind], kind, fields, path)
    findings = inspection.Findings(_ledger(content) if book is None else book)
    image_ids = numbered(content["images"], "images", path, findings)
    category_ids = numbered(content["categories"], "categories", path, findings)
    owners = _read_images(content["images"], path, folder, findings)
    image_ids = {key: owners[number] for key, number in image_ids.items()}
    kept = set(owners.values())
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    same = _read_categories(content, path, findings)
    category_ids = {key: same[number] for key, number in category_ids.items()}
    kept = _listed(content["annotations"], image_ids, category_ids, path, findings)
    sizes = {
        image["id"]: (image["width"], image["height"]) for image in content["images"]
    }
    content["annotations"] = _placed(kept, sizes, path, findings)
    findings["outlines"] = inspection.compare_outlines(content)
    return content, findings


def _ledger(content):
    """Return a ledger of what a COCO file holds."""
    names = {key_of(c["id"]): str(c["name"]).strip() for c in content["categories"]}
    classes = collections.Counter(
        names.get(key_of(a["category_id"]), "") for a in content["annotations"]
    )
    annotations = len(content["annotations"])
    return ledger.Ledger(len(content["images"]), annotations, classes=classes)


def _check_fields(entries, kind, fields, path):
    if not isinstance(entries, list):
        raise ValueError(
            f"Expected a list of {kind}. Received: {path} with {type(entries).__name__}"
        )
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(
                f"Expected {', '.join(fields)} in every entry. Received: "
                f"{kind}[{index}] in {path}, {_short(entry)}"
            )
        for field in fields:
            if field not in entry:
                raise ValueError(
                    f"Expected {', '.join(fields)} in every entry. Received: "
                    f"{kind}[{index}] in {path} without {field}"
                )


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def key_of(value):
    """Return an id in one form, or None: 7, 7.0 and "7" are the same.

    Args:
        value: an id as it stands in a file.

    Returns:
        int or str; None for anything but a number or text.
    """
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and value.strip():
        text = value.strip()
        return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text
    return None


def numbered(entries, kind, path, findings):
    """Give entries whole numbers as ids.

    Args:
        entries: list of dict with an `id`, which is changed.
        kind: str, what they are, for messages.
        path: str, their file, for messages.
        findings: dict of list, where changes are told as `"renumbered"`.

    Returns:
        dict of the file's ids (see `key_of`) to the numbers.

    Raises:
        ValueError: for ids that are no ids, or that occur twice.
    """
    numbers = {}
    for index, entry in enumerate(entries):
        key = key_of(entry["id"])
        where = f"{kind}[{index}] in {path} with id={_short(entry['id'])}"
        if key is None:
            raise ValueError(f"Expected ids, numbers or text. Received: {where}")
        if key in numbers:
            raise ValueError(f"Expected unique ids. Received: {where}")
        numbers[key] = key
    if all(type(key) is int and abs(key) < 2**63 for key in numbers):
        for entry, number in zip(entries, numbers):
            entry["id"] = number
        return numbers
    for number, (key, entry) in enumerate(zip(numbers, entries), 1):
        findings["renumbered"].append(f"{kind}: {_short(entry['id'])} is {number}")
        entry["id"] = numbers[key] = number
    return numbers


def _read_images(entries, path, folder, findings):
    """Check the images' names and sizes."""
    place = FileNames(folder) if folder is not None and os.path.isdir(folder) else None
    first, owners = {}, {}
    for index, image in enumerate(entries):
        where = f"images[{index}] in {path}"
        name = image["file_name"]
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(
                f"Expected file_name, text. Received: {where} with file_name="
                f"{_short(name)}"
            )
        stated = image.pop("stated_name", name)
        if place is not None:
            image["file_name"] = place.find(name)
        is_there = place is None or place.has(image["file_name"])
        if image["file_name"] != stated and is_there:
            findings["moved"].append(f"{stated} is {image['file_name']}")
        _read_size(image, where, folder)
        found = os.path.normpath(image["file_name"])
        other, listed = first.setdefault(found, (image, name))
        owners[image["id"]] = other["id"]
        if other is image:
            continue
        if os.path.normpath(listed) != os.path.normpath(name):
            raise ValueError(
                f"Expected one image per file of {folder}. Received: {path} with "
                f"{listed!r} and {name!r}, both only found as {image['file_name']!r}"
            )
        sizes = [(entry["height"], entry["width"]) for entry in (other, image)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"Expected one size of an image that is listed twice. Received: {where}"
                f", file_name={name!r}, with height and width {sizes[1]} after "
                f"{sizes[0]}"
            )
        findings["twice"].append(name)
        findings.ledger.images.put("twice")
    return owners


def _read_size(image, where, folder):
    """Set an image's height and width: those of the file, or of the image itself."""
    stated = [image.get("height"), image.get("width")]
    sides = [0.0 if side is None else number_of(side) for side in stated]
    if None in sides or not all(0.0 <= side < 2.0**31 for side in sides):
        raise ValueError(
            f"Expected height and width in pixels. Received: {where} with "
            f"height={_short(stated[0])}, width={_short(stated[1])}"
        )
    if min(sides) >= 1.0:
        if type(stated[0]) is not int or type(stated[1]) is not int:
            image["height"], image["width"] = (round(side) for side in sides)
        return
    size = None
    if folder is not None:
        size = images.upright_size(os.path.join(folder, image["file_name"]))
    for side, found in zip(sides, size or sides):
        if side and found != round(side):
            raise ValueError(
                f"Expected height and width of the image, {size}. Received: {where} "
                f"with height={_short(stated[0])}, width={_short(stated[1])}"
            )
    image["height"], image["width"] = size or (None, None)


def number_of(value):
    """Return a number, also one that is text.

    Args:
        value: a number as it stands in a file.

    Returns:
        float, which may be infinite or NaN; None for anything else.
    """
    if type(value) in (int, float, str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def parts_of(name):
    """Return the parts of a path as an annotation tool wrote it.

    Args:
        name: str, with slashes or backslashes, also a URL.

    Returns:
        list of str, folders and the file's name; without what leads out of a folder.
    """
    path = name
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name):
        path = urllib.parse.unquote(name.partition("://")[2].partition("?")[0])
    parts = path.replace("\\", "/").split("/")
    start = max((k + 1 for k, p in enumerate(parts) if p in ("", "..")), default=0)
    return [part for part in parts[start:] if part != "."]


class FileNames:
    """Finds the files of annotation entries in a folder.

    Args:
        folder: str.
    """

    def __init__(self, folder):
        self._folder = folder

    def find(self, name):
        """Return a file's name in the folder.

        Args:
            name: str, a path as an annotation tool wrote it: with backslashes, as URL,
                or of another machine.

        Returns:
            str, relative to the folder: the name itself, or the longest ending of the
            path that exists. The name's last part, if none does.
        """
        if self._is_inside(name) and self.has(name):
            return name
        parts = parts_of(name)
        for first in range(len(parts)):
            ending = "/".join(parts[first:])
            if self.has(ending):
                return ending
        return "/".join(parts) or os.path.basename(name) or "unnamed"

    def has(self, name):
        """Return whether the folder has a file of this name."""
        return os.path.isfile(os.path.join(self._folder, name))

    def size(self, name):
        """Return a file's (height, width) in pixels, or None."""
        return images.upright_size(os.path.join(self._folder, name))

    def _is_inside(self, name):
        return not os.path.isabs(name) and ".." not in name.split("/")


def _read_categories(content, path, findings):
    """Check and join categories; return a dict of each id to that it is joined to."""
    first, same = {}, {}
    for index, category in enumerate(content["categories"]):
        name = category["name"]
        name = str(name) if type(name) is int else name
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"Expected names of categories, text. Received: categories[{index}] in "
                f"{path} with name={_short(name)}"
            )
        category["name"] = name.strip()
    for category in sorted(content["categories"], key=lambda entry: entry["id"]):
        name, number = category["name"], category["id"]
        same[number] = first.setdefault(name, number)
        if same[number] != number:
            findings["joined"].append(f"{name!r}, ids {same[number]} and {number}")
    findings["similar"] = _similar(first)
    kept = set(same.values())
    content["categories"] = [c for c in content["categories"] if c["id"] in kept]
    return same


def _similar(names):
    """Return a line for each group of names that differ in case only."""
    folded = collections.defaultdict(list)
    for name in names:
        folded[name.casefold()].append(name)
    return [" and ".join(group) for group in folded.values() if len(group) > 1]


def _listed(annotations, image_ids, category_ids, path, findings):
    """Return the annotations of listed images and categories, with numbers as ids.

    An invalid one of a listed image becomes a crowd region of the commonest category.
    """
    kept, invalid = [], []
    listed = ", ".join(map(str, sorted(set(category_ids.values()))))
    for annotation in annotations:
        annotation.pop(ledger.STANDS_FOR, None)
        image_id = image_ids.get(key_of(annotation["image_id"]))
        category_id = category_ids.get(key_of(annotation["category_id"]))
        message = None
        if image_id is None:
            message = "annotations of listed images", "image_id"
        elif category_id is None:
            message = f"annotations of listed categories ({listed})", "category_id"
        else:
            message = _read_values(annotation)
        if message:
            expected, field = message
            findings["wrong" if image_id is not None else "absent"].append(
                f"Expected {expected}. Received: {_name(annotation)} in {path} with "
                f"{field}={_short(annotation[field])}"
            )
            if image_id is None:
                findings.ledger.labels.put("unlisted")
            else:
                fields = {"image_id": image_id, "iscrowd": 1, "score": 1.0, "area": 0.0}
                stands_for = {ledger.STANDS_FOR: {"wrong": 1}}
                invalid.append({**annotation, **fields, **stands_for})
            continue
        annotation["image_id"], annotation["category_id"] = image_id, category_id
        kept.append(annotation)
    if invalid and not category_ids:
        raise ValueError(findings["wrong"][0])
    if invalid:
        counts = collections.Counter(
            a["category_id"] for a in kept if not a.get("iscrowd")
        )
        commonest = max(counts, key=counts.get, default=min(category_ids.values()))
        kept += [{**annotation, "category_id": commonest} for annotation in invalid]
    return kept


def _name(annotation):
    return f"annotation {_short(annotation.get('id'))}"


def _read_values(annotation):
    """Check an annotation's other values; return what was expected of which."""
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        if crowd not in ("0", "1", None):
            return "iscrowd, 0 or 1", "iscrowd"
        annotation["iscrowd"] = int(crowd or 0)
    if "score" in annotation:
        score = number_of(annotation["score"])
        if score is None or not 0.0 <= score <= 1.0:
            return "score in 0…1", "score"
        annotation["score"] = score
    if "area" in annotation:
        area = number_of(annotation["area"])
        annotation["area"] = area if area is not None and 0.0 < area < np.inf else 0.0
    return None


def _placed(annotations, sizes, path, findings):
    """Return annotations with boxes inside their images."""
    bboxes, are_numbers = quadruples([a.get("bbox") for a in annotations])
    limits = [sizes[a["image_id"]] for a in annotations]
    limits = np.array(limits, np.float64).reshape(-1, 2)
    limits = np.where(np.isnan(limits), np.inf, limits)
    ends = np.stack([bboxes[:, :2], bboxes[:, :2] + bboxes[:, 2:]])
    low, high = np.clip(ends.min(axis=0), 0.0, None), ends.max(axis=0)
    is_given = (low < np.minimum(high, limits)).all(axis=1)  # part of the image
    for row in np.flatnonzero(~is_given):
        size = sizes[annotations[row]["image_id"]]
        box = shapes.box(annotations[row].get("segmentation"), size)
        if box is not None:
            bboxes[row] = box
            findings["shapes"].append(_name(annotations[row]))
    check_units(bboxes, limits, is_given, path)
    ends = np.stack([bboxes[:, :2], bboxes[:, :2] + bboxes[:, 2:]])
    low, high = ends.min(axis=0), ends.max(axis=0)
    start, end = np.clip(low, 0.0, limits), np.clip(high, 0.0, limits)
    rows_of = {
        "placeless": ~np.isfinite(bboxes).all(axis=1),
        "flat": (high <= low).any(axis=1),
        "beyond": (end <= start).any(axis=1),
    }
    beyond = np.maximum(-low, high - limits).max(axis=1, initial=-np.inf)
    changed = (bboxes[:, 2:] < 0.0).any(axis=1) | (beyond > 0.0) | ~is_given
    kept, regions = [], {}
    for row, annotation in enumerate(annotations):
        unusable = [kind for kind, rows in rows_of.items() if rows[row]]
        if not unusable and not changed[row]:
            if not are_numbers:
                annotation["bbox"] = bboxes[row].tolist()
            kept.append(annotation)
            continue
        where = f"{_name(annotation)}, bbox={_short(annotation.get('bbox'))}"
        if unusable:
            findings[unusable[0]].append(where)
            places = annotation.get(ledger.STANDS_FOR) or {unusable[0]: 1}
            size = sizes[annotation["image_id"]]
            kept += _regions(annotation, places, size, regions, findings.ledger)
            continue
        if (bboxes[row, 2:] < 0.0).any():
            findings["reversed"].append(where)
        if beyond[row] > _ROUNDING:
            findings["outside"].append(where)
        annotation["bbox"] = [*start[row].tolist(), *(end - start)[row].tolist()]
        kept.append(annotation)
    return kept


def _regions(annotation, places, size, regions, book):
    """Return the region that replaces an annotation, in a list; empty if it has one.

    Args:
        annotation: dict, one without a usable box.
        places: dict, where it goes in the ledger.
        size: the image's (width, height).
        regions: dict of (image, category) to the places of its region; it is updated.
        book: `ledger.Ledger`.
    """
    key, (width, height) = (annotation["image_id"], annotation["category_id"]), size
    if not width:
        book.labels.put("sizeless", sum(places.values()))
        return []
    if key in regions:
        regions[key].update(places)
        return []
    regions[key] = collections.Counter(places)
    whole = {"bbox": [0, 0, width, height], "iscrowd": 1, "area": 0.0}
    return [{**annotation, **whole, ledger.STANDS_FOR: regions[key]}]


def quadruples(values):
    """Return lists of four numbers as an array.

    Args:
        values: list of what stands in a file.

    Returns:
        float64 `[n, 4]`, NaN for anything but four finite numbers; and bool, whether
        all of them are numbers already.
    """
    if not values:
        return np.zeros((0, 4)), True
    try:
        array = np.array(values)
        if array.dtype.kind in "if" and array.shape == (len(values), 4):
            return array.astype(np.float64), True
    except ValueError:  # not all of four
        pass
    rows = np.full((len(values), 4), np.nan)
    for row, value in enumerate(values):
        if isinstance(value, list) and len(value) == 4:
            numbers = [number_of(number) for number in value]
            if None not in numbers and np.all(np.isfinite(numbers)):
                rows[row] = numbers
    return rows, False


def check_units(bboxes, limits, is_given, path):
    """Reject boxes most of which aren't `[x, y, width, height]` in pixels.

    Args:
        bboxes: float64 `[n, 4]`, NaN where there is none.
        limits: float64 `[n, 2]`, width and height of each box's image in pixels,
            infinite where unknown.
        is_given: bool `[n]`, whether a box counts for its corners.
        path: str, the file, for the message.

    Raises:
        ValueError: for fractions of the images, or corners.
    """
    kind = "Expected boxes [x, y, width, height] in pixels. Received: "
    usable = np.isfinite(bboxes).all(axis=1) & (bboxes[:, 2:] != 0.0).all(axis=1)
    if not usable.any():
        return
    is_fraction = bboxes[usable].max(axis=1) <= 1.0 + _TOLERANCE
    if is_fraction.mean() > _MOST:
        raise ValueError(
            f"{kind}{path}, whose boxes lie within 0…1 ({is_fraction.sum()} of "
            f"{usable.sum()}): normalized?"
        )
    bboxes, limits = bboxes[usable & is_given], limits[usable & is_given]
    if not len(bboxes):
        return
    start, end = bboxes[:, :2], bboxes[:, 2:]
    leaving = np.any(start + end > limits + 1.0, axis=1)
    are_corners = np.all((end > start) & (end <= limits + 1.0), axis=1)
    if leaving.mean() > _FEW_BEYOND and are_corners.mean() > _MOST:
        fit = "all" if are_corners.all() else are_corners.sum()
        raise ValueError(
            f"{kind}{path}: {leaving.sum()} of {len(bboxes)} boxes extend beyond their "
            f"image, but {fit} fit as [xmin, ymin, xmax, ymax]"
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
    missing = [n for n in names if not os.path.isfile(os.path.join(directory, n))]
    if missing:
        raise FileNotFoundError(
            f"Expected every image of the annotation file in {directory}. Received: "
            f"{len(missing)} of {len(names)} missing, first {missing[0]!r}"
        )
