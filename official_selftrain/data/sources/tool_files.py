"""Annotation files of other tools, converted to the content of a COCO file.

Every function returns what `coco_files.checked` brings into one form: `images`,
`annotations` and `categories`, with `bbox` None where an object has no usable place.
"""

import os
import re
from xml.etree import ElementTree

import numpy as np

from official_selftrain.data import images as pictures
from official_selftrain.data import shapes
from official_selftrain.data.images import ENDINGS
from official_selftrain.data.sources import coco_files, voc_files

_LABEL_STUDIO_HASH = re.compile("^[0-9a-f]{6,}-")


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
    if isinstance(annotations, (list, tuple)):
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
    endings = {os.path.splitext(name)[1].lower() for name in os.listdir(folder)}
    if ".xml" in endings:
        return voc_files.boxes(folder, images)
    if ".json" in endings:
        paths = [
            os.path.join(folder, name)
            for name in sorted(os.listdir(folder))
            if name.lower().endswith(".json")
        ]
        return label_me({path: coco_files.parsed(path) for path in paths})
    if ".txt" in endings:
        return yolo(folder, images)
    raise FileNotFoundError(
        "Expected XML files of PASCAL VOC, text files of YOLO or JSON files of "
        f"LabelMe. Received: annotations={folder!r}"
    )


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
    polygon, as fractions of the image; a score may follow a box. The names of classes
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
    names = _yolo_names(folder)
    found = _Content(names)
    for name in _image_names(images):
        size = pictures.upright_size(os.path.join(images, name)) or (None, None)
        found.add_image(name, *size)
        path = os.path.join(folder, f"{os.path.splitext(name)[0]}.txt")
        if not os.path.isfile(path) or None in size:
            continue
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.split() for line in file]
        for number, values in enumerate(lines, 1):
            if not values:
                continue
            try:
                label, *numbers = [float(value) for value in values]
                name_of_class = names[int(label)]
                if label != int(label) or label < 0 or len(numbers) < 4:
                    raise ValueError
            except (ValueError, IndexError, OverflowError):
                raise ValueError(
                    f"Expected a class of 0 to {len(names) - 1} and a box or polygon. "
                    f"Received: line {number} of {path}: {' '.join(values)[:80]!r}"
                ) from None
            found.add(name_of_class, *_yolo_box(numbers, size))
    return found.content()


def _yolo_names(folder):
    import yaml

    path = os.path.join(folder, "classes.txt")
    if os.path.isfile(path):
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    place = os.path.abspath(folder)
    for _ in range(4):
        for name in sorted(os.listdir(place)):
            if not name.lower().endswith((".yaml", ".yml")):
                continue
            with open(os.path.join(place, name), encoding="utf-8-sig") as file:
                names = (yaml.safe_load(file) or {}).get("names")
            if isinstance(names, dict) and set(names) == set(range(len(names))):
                names = [names[k] for k in range(len(names))]
            if isinstance(names, list) and names:
                return [str(name) for name in names]
        place = os.path.dirname(place)
    raise ValueError(
        "Expected the names of YOLO's classes, in data.yaml above the folder or "
        f"classes.txt in it. Received: annotations={folder!r}"
    )


def _image_names(folder):
    """Return the images below a folder, relative to it, sorted."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    )


def _yolo_box(numbers, size):
    """Return a box in pixels from fractions: of a box, maybe with score, or polygon."""
    height, width = size
    if len(numbers) > 5:
        points = np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2)
        return (shapes.box((points * [width, height]).ravel().tolist()),)
    x, y, w, h = numbers[:4]
    if max(numbers[:4]) > 2.0:
        raise ValueError(
            "Expected YOLO's boxes as fractions of the image. Received: "
            f"{x:g} {y:g} {w:g} {h:g}"
        )
    return ([(x - w / 2) * width, (y - h / 2) * height, w * width, h * height],)


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
            sources = [v for v in task["data"].values() if _is_image_name(v)]
            annotations = task.get("annotations") or task.get("completions") or []
            done = [a for a in annotations if not a.get("was_cancelled")]
            results = done[0]["result"] if done else []
            name = names.find(sources[0].partition("?d=")[2] or sources[0])
            sizes = [r for r in results if r.get("original_width")]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(
                "Expected tasks of Label Studio, with data that names an image and "
                f"annotations with a result. Received: entry {index} of {path}"
            ) from error
        if not os.path.isfile(os.path.join(images, name)):
            folder, _, last = name.rpartition("/")
            short = names.find(f"{folder}/{_LABEL_STUDIO_HASH.sub('', last)}")
            if os.path.isfile(os.path.join(images, short)):
                name = short
        if not done:
            continue  # not labeled
        size = (None, None)
        if sizes:
            size = sizes[0]["original_height"], sizes[0]["original_width"]
        found.add_image(name, *size)
        for result in results:
            value = result.get("value", {})
            kind = result.get("type", "")
            labels = value.get(kind) or value.get("labels") or []
            if kind.endswith("labels") and labels:
                scale = result.get("original_width"), result.get("original_height")
                found.add(str(labels[0]), _label_studio_box(value, scale))
    return found.content()


def _is_image_name(value):
    if not isinstance(value, str):
        return False
    return value.partition("?")[0].lower().endswith(ENDINGS) or "?d=" in value


def _label_studio_box(value, size):
    """Return the box of percentages in pixels, or None."""
    if None in size:
        return None
    scale = np.array(size) / 100.0
    try:
        if "points" in value:
            points = np.array(value["points"], np.float64).reshape(-1, 2) * scale
        elif "radiusX" in value:
            center = np.array([value["x"], value["y"]], np.float64)
            radius = np.array([value["radiusX"], value["radiusY"]], np.float64)
            points = np.array([center - radius, center + radius]) * scale
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
            found.add(str(label), _label_me_box(points, shape.get("shape_type")))
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
        found = _Content()
        for image in root.iter("image"):
            found.add_image(*(image.attrib[k] for k in ("name", "height", "width")))
            for shape in image:
                if "label" in shape.attrib and shape.tag != "tag":
                    found.add(shape.attrib["label"], _cvat_box(shape))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
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
            points = np.array([center - radius, center + radius])
        else:
            low = np.array([value["xtl"], value["ytl"]], np.float64)
            half = (np.array([value["xbr"], value["ybr"]], np.float64) - low) / 2
            corners = half * [[-1, -1], [1, -1], [1, 1], [-1, 1]]
            points = low + half + _turned(corners, value)
    except (KeyError, ValueError):
        return None
    return shapes.box(points.ravel().tolist())
