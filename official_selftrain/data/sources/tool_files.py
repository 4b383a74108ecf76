"""Annotation files of other tools, converted to the content of a COCO file.

Every function returns what `coco_files.checked` brings into one form: `images`,
`annotations` and `categories`, with `bbox` None where an object has no usable place.
"""

import collections
import os
import re
import urllib.parse
from xml.etree import ElementTree

import numpy as np

from official_selftrain.data import images as pictures
from official_selftrain.data import shapes
from official_selftrain.data.images import ENDINGS
from official_selftrain.data.sources import coco_files, voc_files

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
    if os.path.isdir(annotations):
        content = _of_folder(annotations, images)
    elif annotations.lower().endswith(".xml"):
        content = cvat(annotations)
    else:
        if not os.path.isfile(annotations):
            raise FileNotFoundError(
                f"Expected a COCO file. Received: annotations={annotations!r}"
            )
        content = coco_files.parsed(annotations)
        first = content[0] if isinstance(content, list) and content else None
        if isinstance(first, dict) and "data" in first:
            content = label_studio(content, annotations, images)
        elif isinstance(content, dict) and "shapes" in content:
            content = label_me({annotations: content})
    return coco_files.checked(content, annotations, images)


def _of_folder(folder, images):
    endings = collections.Counter(
        os.path.splitext(name)[1].lower()
        for _, _, names in os.walk(folder)
        for name in names
    )
    # A folder may hold a few files of another kind, such as a list of classes.
    kinds = {ending: endings[ending] for ending in (".xml", ".json", ".txt")}
    kind = max(kinds, key=kinds.get) if any(kinds.values()) else None
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
    """Collects images, objects and classes."""

    def __init__(self, names=()):
        self.images, self.annotations = [], []
        self._classes = {name: k for k, name in enumerate(names, 1)}

    def add_image(self, file_name, height, width):
        number = len(self.images) + 1
        size = {"height": height, "width": width}
        self.images.append({"id": number, "file_name": file_name, **size})

    def add(self, name, bbox, **more):
        """Add an object of the last image."""
        category_id = self._classes.setdefault(name, len(self._classes) + 1)
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
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": k, "name": n} for n, k in self._classes.items()],
        }


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
        dict, see the module.

    Raises:
        ValueError: for a line in another form, or without names of classes.

    Source: docs.ultralytics.com.
    """
    names, has_points = _yolo_names(folder)
    found = _Content(names)
    listed = set()
    for name in _image_names(images):
        size = pictures.upright_size(os.path.join(images, name)) or (None, None)
        found.add_image(name, *size)
        path = os.path.join(folder, f"{os.path.splitext(name)[0]}.txt")
        listed.add(os.path.normpath(path))
        if not os.path.isfile(path) or None in size:
            continue
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.split() for line in file]
        for number, values in enumerate(lines, 1):
            if values:
                where = f"line {number} of {path}: {' '.join(values)[:80]!r}"
                label, numbers = _yolo_values(values, names, where)
                numbers = numbers[:4] if has_points else numbers
                found.add(names[label], _yolo_box(numbers, size, where))
    for place, _, files in sorted(os.walk(folder)):
        for name in sorted(files):
            path = os.path.normpath(os.path.join(place, name))
            is_list = name.endswith(".txt") and name != "classes.txt"
            if is_list and path not in listed:  # its image is missing
                stem = os.path.splitext(os.path.relpath(path, folder))[0]
                found.add_image(stem, None, None)
    return found.content()


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
    path = os.path.join(folder, "classes.txt")
    if os.path.isfile(path):
        with open(path, encoding="utf-8-sig") as file:
            return file.read().rstrip().splitlines(), False
    place = os.path.abspath(folder)
    for _ in range(4):
        names = [n for n in os.listdir(place) if n.lower().endswith((".yaml", ".yml"))]
        for name in sorted(names, key=lambda name: (name != "data.yaml", name)):
            content = _yaml(os.path.join(place, name))
            names = content.get("names")
            if isinstance(names, dict) and set(names) == set(
                map(str, range(len(names)))
            ):
                names = [names[str(k)] for k in range(len(names))]
            if isinstance(names, list) and names:
                return [str(name) for name in names], "kpt_shape" in content
        place = os.path.dirname(place)
    raise ValueError(
        "Expected the names of YOLO's classes, in data.yaml above the folder or "
        f"classes.txt in it. Received: annotations={folder!r}"
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
    if len(numbers) > 5:
        points = np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2)
        return shapes.box((points * [width, height]).ravel().tolist())
    x, y, w, h = numbers[:4]
    return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]


def label_studio(tasks, path, images):
    """Convert the JSON export of Label Studio.

    Of several annotations of a task, the first that isn't canceled is taken. Rectangles
    (also turned ones: the box around them), ellipses and polygons have a place.

    Args:
        tasks: list of dicts, the file's content.
        path: str, the file, for messages.
        images: str, the folder of images. Uploaded files may have lost the characters
            that Label Studio puts before their name.

    Returns:
        dict, see the module.

    Raises:
        ValueError: for a task in another form.

    Source: labelstud.io.
    """
    found = _Content()
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


def _add_task(found, task, names):
    annotations = task.get("annotations") or task.get("completions") or []
    done = [a for a in annotations if not a.get("was_cancelled")]
    (source, *_) = [v for v in task["data"].values() if _is_image_name(v)]
    if not done:
        return  # not labeled
    name = names.find(urllib.parse.unquote(source.partition("?d=")[2] or source))
    if not names.has(name):
        folder, _, last = name.rpartition("/")
        short = names.find(f"{folder}/{_LABEL_STUDIO_HASH.sub('', last)}")
        name = short if names.has(short) else name
    results = [r for r in done[0]["result"] if "original_width" in r]
    size = (None, None)
    if results:
        size = results[0]["original_height"], results[0]["original_width"]
    found.add_image(name, *size)
    for result in results:
        kind, value = result["type"], result["value"]
        if kind.endswith("labels"):
            labels = value.get(kind) or value.get("labels") or []
            scale = result["original_width"], result["original_height"]
            if len(labels) != 1:
                raise ValueError(f"Expected one label of a region. Received: {labels}")
            found.add(str(labels[0]), _label_studio_box(value, scale))


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
        dict, see the module.

    Raises:
        ValueError: for a file in another form.

    Source: github.com/wkentaro/labelme.
    """
    found = _Content()
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
        points = np.array(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
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
        dict, see the module.

    Raises:
        ValueError: for a file in another format.

    Source: docs.cvat.ai.
    """
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "annotations":
            raise ValueError(f"<{root.tag}> instead of <annotations>")
        if root.find("track") is not None:
            raise ValueError('the format "for video"')
        found = _Content()
        for image in root.iter("image"):
            found.add_image(*(image.attrib[k] for k in ("name", "height", "width")))
            for shape in image:
                if "label" in shape.attrib and shape.tag != "tag":
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
