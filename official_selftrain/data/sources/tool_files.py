"""Annotation files of other tools, converted to the content of a COCO file.

Every function returns what `coco_files.checked` brings into one form: a dict of
`images`, `annotations` and `categories`, with `bbox` None where an object has no usable
place; and a `ledger.Ledger` of all that the files hold.
"""

import os
import re
import urllib.parse
from xml.etree import ElementTree

import numpy as np

from official_selftrain.data import images as pictures
from official_selftrain.data import ledger, shapes
from official_selftrain.data.images import ENDINGS
from official_selftrain.data.sources import coco_files, voc_files

# Label Studio's regions without a label of their own.
_LABEL_STUDIO_SHAPES = ("rectangle", "polygon", "ellipse", "brush", "keypoint")

# Files that tools put beside YOLO's labels.
_NO_LABELS = ("classes.txt", "notes.json")

# What Label Studio puts before the name of an uploaded file.
_LABEL_STUDIO_HASH = re.compile("^(?=[0-9a-f]{0,7}[a-f])[0-9a-f]{8}-")


def read(annotations, images):
    """Read annotations in any supported format, which their content shows.

    Args:
        annotations: str: a COCO file; the folder of PASCAL VOC's XML files; a folder
            of YOLO's text files; the JSON export of Label Studio; a file or folder of
            LabelMe's JSON files; CVAT's XML file "for images". Or a sequence of them.
        images: str, the folder of images, or as many as annotations.

    Returns:
        `(content, findings)`, as `coco_files.read`.

    Raises:
        FileNotFoundError: for a missing file or folder.
        ValueError: for a file in another format.

    Source: the tools' documentation.
    """
    if isinstance(annotations, (list, tuple)) or isinstance(images, (list, tuple)):
        return coco_files.several(read, annotations, images)
    book = None
    if os.path.isdir(annotations):
        content, book = _of_folder(annotations, images)
    elif annotations.lower().endswith(".xml"):
        content, book = cvat(annotations)
    else:
        if not os.path.isfile(annotations):
            raise FileNotFoundError(
                f"Expected a COCO file. Received: annotations={annotations!r}"
            )
        content = coco_files.parsed(annotations)
        first = content[0] if isinstance(content, list) and content else None
        if isinstance(first, dict) and {"image", "annotator"} <= set(first):
            raise ValueError(
                "Expected Label Studio's export JSON. Received: its JSON-MIN, "
                f"{annotations}"
            )
        if isinstance(first, dict) and "data" in first:
            content, book = label_studio(content, annotations, images)
        elif isinstance(content, dict) and "shapes" in content:
            content, book = label_me({annotations: content})
    return coco_files.checked(content, annotations, images, book)


def _of_folder(folder, images):
    found = [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in sorted(os.walk(folder))
        for name in sorted(names)
        if name not in _NO_LABELS
    ]
    kinds = {os.path.splitext(name)[1].lower(): name for name in found}
    kinds = {kind: kinds[kind] for kind in (".xml", ".json", ".txt") if kind in kinds}
    if len(kinds) > 1:
        raise ValueError(
            "Expected annotation files of one kind in a folder. Received: "
            f"annotations={folder!r} with {' and '.join(kinds.values())}"
        )
    kind = next(iter(kinds), None)
    deeper = [n for n in found if os.sep in n and n.lower().endswith(kind or ".xml")]
    if kind in (".xml", ".json") and deeper:
        raise ValueError(
            f"Expected {kind} files in one folder. Received: annotations={folder!r} "
            f"with {deeper[0]}; several folders may be given"
        )
    if kind == ".xml":
        return voc_files.boxes(folder, images)
    if kind == ".json":
        paths = [
            os.path.join(folder, name)
            for name in sorted(os.listdir(folder))
            if name.lower().endswith(".json")
        ]
        return label_me({path: _without_pixels(path) for path in paths})
    if kind == ".txt":
        return yolo(folder, images)
    raise FileNotFoundError(
        "Expected XML files of PASCAL VOC, text files of YOLO or JSON files of "
        f"LabelMe. Received: annotations={folder!r}"
    )


def _without_pixels(path):
    """Return LabelMe's content of a file without the copy of the image in it."""
    content = coco_files.parsed(path)
    if isinstance(content, dict):
        content.pop("imageData", None)
    return content


class _Content:
    """Collects images, objects and classes.

    Args:
        images: int, how many images the files name.
        labels: int, how many labels they hold.
        names: sequence of str, the classes, if they are known.
    """

    def __init__(self, images, labels, names=()):
        self.images, self.annotations = [], []
        self.book = ledger.Ledger(images, labels)
        self._classes = {name: k for k, name in enumerate(names, 1)}

    def add_image(self, file_name, height, width):
        number = len(self.images) + 1
        size = {"height": height, "width": width}
        self.images.append({"id": number, "file_name": file_name, **size})

    def add(self, name, bbox, **more):
        """Add an object of the last image."""
        category_id = self._classes.setdefault(name, len(self._classes) + 1)
        self.book.held[name.strip()] += 1
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": len(self.images),
                "category_id": category_id,
                "bbox": bbox,
                **more,
            }
        )

    def content(self):
        content = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": k, "name": n} for n, k in self._classes.items()],
        }
        return content, self.book


def yolo(folder, images):
    """Convert YOLO's text files.

    A line is a class and the center, width and height of a box, or the corners of a
    polygon, as fractions of the image; a score after a box is ignored, and so are the
    key points of pose files, whose YAML file has `kpt_shape`. The names of classes
    are those of a `data.yaml` (or another YAML file with `names`) in one of the
    folders above, or the lines of `classes.txt` beside the files.

    Args:
        folder: str, the folder of text files, one per image with objects.
        images: str, the folder of images. Every image counts as labeled.

    Returns:
        dict and ledger, see the module.

    Raises:
        ValueError: for a line in another form, or without names of classes.

    Source: docs.ultralytics.com.
    """
    names, has_points = _yolo_names(folder)
    labels, pictured = _label_files(folder), _image_names(images)
    lines_of = {stem: _lines(path) for stem, path in labels.items()}
    stems = {os.path.splitext(name)[0].casefold() for name in pictured}
    orphans = [stem for stem in labels if stem not in stems]
    held = sum(map(len, lines_of.values()))
    found = _Content(len(pictured) + len(orphans), held, names)
    owners = {}
    for name in pictured:
        size = pictures.upright_size(os.path.join(images, name)) or (None, None)
        found.add_image(name, *size)
        stem = os.path.splitext(name)[0].casefold()
        if stem not in labels or None in size:
            continue
        if stem in owners:
            raise ValueError(
                f"Expected one image of {labels[stem]}. Received: {owners[stem]} and "
                f"{name} in {images}"
            )
        owners[stem] = name
        for number, values in lines_of[stem]:
            where = f"line {number} of {labels[stem]}: {' '.join(values)[:80]!r}"
            label, numbers = _yolo_values(values, names, where)
            numbers = numbers[:4] if has_points else numbers
            found.add(names[label], _yolo_box(numbers, size, where))
    for stem in orphans:  # their images are missing
        name = os.path.splitext(os.path.relpath(labels[stem], folder))[0]
        found.add_image(name, None, None)
    ownerless = [lines for stem, lines in lines_of.items() if stem not in owners]
    found.book.labels.put("image", sum(map(len, ownerless)))
    return found.content()


def _lines(path):
    """Return the number and the words of each line of a file that isn't blank."""
    lines = map(str.split, coco_files.read_text(path).splitlines())
    return [(number, words) for number, words in enumerate(lines, 1) if words]


def _label_files(folder):
    """Return the text files below a folder by their stem, in lower case."""
    files = {}
    for place, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            path = os.path.join(place, name)
            stem, ending = os.path.splitext(os.path.relpath(path, folder))
            if ending.lower() != ".txt" or name == "classes.txt":
                continue
            other = files.setdefault(stem.casefold(), path)
            if other != path:
                raise ValueError(
                    "Expected names that differ in more than case. Received: "
                    f"{other} and {path}"
                )
    return files


def _yolo_values(values, names, where):
    """Return the class and the other numbers of a line."""
    try:
        label, *numbers = [float(value) for value in values]
        if label != int(label) or not 0 <= label < len(names) or len(numbers) < 4:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            f"Expected a class of 0 to {len(names) - 1} and a box or polygon. "
            f"Received: {where}"
        ) from None
    return int(label), numbers


def _yolo_names(folder):
    """Return the names of the classes, and whether key points follow the boxes."""
    path, names = os.path.join(folder, "classes.txt"), None
    if os.path.isfile(path):
        names = coco_files.read_text(path).rstrip().splitlines()
    place, nameless = os.path.abspath(folder), []
    for _ in range(4):
        files = [n for n in os.listdir(place) if n.lower().endswith((".yaml", ".yml"))]
        for name in sorted(files, key=lambda name: (name != "data.yaml", name)):
            content = _yaml(os.path.join(place, name))
            listed = content.get("names")
            if isinstance(listed, dict) and set(listed) == set(
                map(str, range(len(listed)))
            ):
                listed = [listed[str(k)] for k in range(len(listed))]
            if isinstance(listed, list) and listed:
                return names or [str(n) for n in listed], "kpt_shape" in content
            nameless.append(os.path.join(place, name))
        place = os.path.dirname(place)
    if names:
        return names, False
    raise ValueError(
        "Expected the names of YOLO's classes, in data.yaml above the folder or "
        f"classes.txt in it. Received: annotations={folder!r}"
        + "".join(f", no list in names of {path}" for path in nameless)
    )


def _yaml(path):
    """Return the dict in a YAML file, all values as text; empty for other files."""
    import yaml

    try:
        with open(path, encoding="utf-8-sig") as file:
            content = yaml.load(file, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _image_names(folder):
    """Return the images below a folder, relative to it, sorted."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    )


def _yolo_box(numbers, size, where):
    """Return a box in pixels from fractions: of a box, maybe with score, or polygon."""
    height, width = size
    if max(numbers[: len(numbers) // 2 * 2]) > 2.0:
        raise ValueError(
            "Expected boxes and polygons as fractions of the image, without other "
            f"numbers. Received: {where}"
        )
    is_track = len(numbers) == 6 and numbers[5] >= 1.0 and numbers[5].is_integer()
    if is_track or len(numbers) % 2 and len(numbers) > 5:
        raise ValueError(
            "Expected a box, a box and its score, or a polygon. Received: "
            f"{where}, {len(numbers)} numbers after the class (a track?)"
        )
    if len(numbers) > 5:
        points = np.array(numbers).reshape(-1, 2)
        return shapes.box((points * [width, height]).ravel().tolist())
    x, y, w, h = numbers[:4]
    return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]


def label_studio(tasks, path, images):
    """Convert the JSON export of Label Studio.

    Of several annotations of a task, the ground truth or else the first that isn't
    canceled is taken. Rectangles (also turned ones: the box around them), ellipses and
    polygons have a place.

    Args:
        tasks: list of dicts, the file's content.
        path: str, the file, for messages.
        images: str, the folder of images. Uploaded files may have lost the characters
            that Label Studio puts before their name.

    Returns:
        dict and ledger, see the module.

    Raises:
        ValueError: for a task in another form.

    Source: labelstud.io.
    """
    held = sum(len(result) for task in tasks for result in _results(task))
    found = _Content(len(tasks), held)
    names = coco_files.FileNames(images)
    for index, task in enumerate(tasks):
        try:
            _add_task(found, task, names)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                "Expected tasks of Label Studio, with data that names an image and "
                f"annotations with a result. Received: entry {index} of {path}: {error}"
            ) from error
    return found.content()


def _annotations(task):
    if not isinstance(task, dict):
        return []
    return task.get("annotations") or task.get("completions") or []


def _results(task):
    """Return the lists of results of all annotations of a task."""
    annotations = _annotations(task)
    annotations = annotations if isinstance(annotations, list) else []
    results = [a.get("result") for a in annotations if isinstance(a, dict)]
    return [result for result in results if isinstance(result, list)]


def _add_task(found, task, names):
    annotations = _annotations(task)
    done = [a for a in annotations if not a.get("was_cancelled")]
    done.sort(key=lambda annotation: not annotation.get("ground_truth"))
    pictured = [v for v in task["data"].values() if _is_image_name(v)]
    if len(pictured) != 1:
        raise ValueError(f"Expected one image of a task. Received: {pictured}")
    chosen = done[0]["result"] if done else []
    others = sum(map(len, _results(task))) - len(chosen)
    found.book.labels.put("canceled", others)
    if not done:
        found.book.images.put("open")
        return
    source = pictured[0]
    name = names.find(urllib.parse.unquote(source.partition("?d=")[2] or source))
    if not names.has(name):
        folder, _, last = name.rpartition("/")
        short = names.find(f"{folder}/{_LABEL_STUDIO_HASH.sub('', last)}")
        name = short if names.has(short) else name
    results = [r for r in chosen if r.get("type") != "relation"]
    found.book.labels.put("other", len(chosen) - len(results))
    if not all(isinstance(r["value"], dict) for r in results):
        raise ValueError("a result without value")
    sizes = [(r["original_height"], r["original_width"])
             for r in results if "original_width" in r]  # fmt: skip
    size = sizes[0] if sizes else names.size(name) or (None, None)
    found.add_image(name, *size)
    # A region may be labeled by another result of the same id.
    named = {r.get("id") for r in results if r["type"].endswith("labels")}
    choices = {
        r.get("id"): r["value"]["choices"] for r in results if r["type"] == "choices"
    }
    for result in results:
        kind, value, number = result["type"], result["value"], result.get("id")
        is_shape = kind in _LABEL_STUDIO_SHAPES and number not in named
        if not is_shape and not kind.endswith("labels"):
            found.book.labels.put("other")
            continue
        labels = value.get(kind) or value.get("labels") or choices.get(number) or []
        if len(labels) != 1:
            raise ValueError(f"Expected one label of a region. Received: {labels}")
        if result.get("image_rotation"):
            raise ValueError(
                "Expected an image that isn't turned. Received: image_rotation="
                f"{result['image_rotation']}"
            )
        box = None if None in size else _label_studio_box(value, size[::-1])
        found.add(str(labels[0]), box)


def _is_image_name(value):
    if not isinstance(value, str):
        return False
    return value.partition("?")[0].lower().endswith(ENDINGS) or "?d=" in value


def _label_studio_box(value, size):
    """Return the box of percentages in pixels, or None."""
    scale = np.array(size, np.float64) / 100.0
    try:
        if "points" in value:
            points = np.array(value["points"], np.float64).reshape(-1, 2) * scale
        elif "radiusX" in value:
            center = np.array([value["x"], value["y"]], np.float64) * scale
            radius = np.array([value["radiusX"], value["radiusY"]]) * scale
            half = _turned_half(radius, value)
            points = np.array([center - half, center + half])
        else:
            corner = np.array([value["x"], value["y"]], np.float64) * scale
            w, h = np.array([value["width"], value["height"]], np.float64) * scale
            points = corner + _turned([[0, 0], [w, 0], [w, h], [0, h]], value)
    except (KeyError, TypeError, ValueError):
        return None
    return shapes.box(points.ravel().tolist())


def _turned(points, value):
    """Turn points clockwise around the origin by `rotation` degrees."""
    angle = np.deg2rad(float(value.get("rotation") or 0.0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.array(points, np.float64) @ turn if angle else np.array(points)


def _turned_half(radius, value):
    """Return half the sides of the box around an ellipse turned by `rotation`."""
    angle = np.deg2rad(float(value.get("rotation") or 0.0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.sqrt(np.square(turn) @ np.square(radius))


def label_me(files):
    """Convert LabelMe's JSON files, one per image.

    Rectangles, polygons and circles have a place.

    Args:
        files: dict of path to a file's content.

    Returns:
        dict and ledger, see the module.

    Raises:
        ValueError: for a file in another form.

    Source: github.com/wkentaro/labelme.
    """
    shapes_of = [c.get("shapes") for c in files.values() if isinstance(c, dict)]
    held = sum(len(listed) for listed in shapes_of if isinstance(listed, list))
    found = _Content(len(files), held)
    for path, content in files.items():
        try:
            name = content["imagePath"]
            size = content.get("imageHeight"), content.get("imageWidth")
            objects = [(s["label"], s["points"], s) for s in content["shapes"]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                "Expected a JSON file of LabelMe: imagePath, and shapes with label and "
                f"points. Received: {path}"
            ) from error
        found.add_image(name, *size)
        for label, points, shape in objects:
            if not isinstance(label, str):
                raise ValueError(
                    f"Expected labels, text. Received: {path} with label={label!r}"
                )
            found.add(label, _label_me_box(points, shape.get("shape_type")))
    return found.content()


def _label_me_box(points, kind):
    try:
        points = np.array(points, np.float64)
    except (TypeError, ValueError):
        return None
    if points.ndim != 2 or points.shape[1] != 2:
        return None
    if kind == "circle" and len(points) == 2:  # its center, and a point on it
        radius = np.linalg.norm(points[1] - points[0])
        points = np.array([points[0] - radius, points[0] + radius])
    return shapes.box(points.ravel().tolist())


def cvat(path):
    """Convert CVAT's XML file "for images".

    Boxes (also turned ones: the box around them), polygons, ellipses and masks have a
    place.

    Args:
        path: str.

    Returns:
        dict and ledger, see the module.

    Raises:
        ValueError: for a file in another format.

    Source: docs.cvat.ai.
    """
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag == "annotation":
            raise ValueError("an image of PASCAL VOC; give the folder of such files")
        if root.tag != "annotations":
            raise ValueError(f"<{root.tag}> instead of <annotations>")
        if root.find("track") is not None:
            raise ValueError('the format "for video"')
        pictures = list(root.iter("image"))
        found = _Content(len(pictures), sum(map(len, pictures)))
        for image in pictures:
            found.add_image(*(image.attrib[k] for k in ("name", "height", "width")))
            for shape in image:
                if shape.tag == "tag":  # of the whole image
                    found.book.labels.put("other")
                else:
                    found.add(shape.attrib["label"], _cvat_box(shape))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(
            "Expected CVAT's XML file for images: annotations with image of name, "
            f"width and height. Received: {path}: {error}"
        ) from error
    return found.content()


def _cvat_box(shape):
    value = shape.attrib
    try:
        if "points" in value:
            pairs = [pair.split(",") for pair in value["points"].split(";")]
            points = np.array(pairs, np.float64)
        elif shape.tag == "mask":
            left, top, w, h = (
                float(value[k]) for k in ("left", "top", "width", "height")
            )
            return [left, top, w, h]
        elif shape.tag == "ellipse":
            center = np.array([value["cx"], value["cy"]], np.float64)
            radius = np.array([value["rx"], value["ry"]], np.float64)
            half = _turned_half(radius, value)
            points = np.array([center - half, center + half])
        else:
            low = np.array([value["xtl"], value["ytl"]], np.float64)
            half = (np.array([value["xbr"], value["ybr"]], np.float64) - low) / 2
            corners = half * [[-1, -1], [1, -1], [1, 1], [-1, 1]]
            points = low + half + _turned(corners, value)
    except (KeyError, ValueError):
        return None
    return shapes.box(points.ravel().tolist())
