"""The same images and boxes in the formats of annotation tools."""

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40
# Class, and xmin, ymin, xmax, ymax in pixels, of two images.
OBJECTS = {
    "a.png": [("cat", (10, 5, 30, 25)), ("dog", (0, 0, 60, 40))],
    "b.jpg": [("dog", (1, 2, 4, 8))],
}


def write_images(place):
    """Write the images to a folder, and return it."""
    folder = place / "images"
    folder.mkdir()
    for seed, name in enumerate(OBJECTS):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def sides(box):
    left, top, right, bottom = box
    return left, top, right - left, bottom - top


def write_coco(place):
    images = [
        {"id": k, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for k, name in enumerate(OBJECTS)
    ]
    annotations = [
        {"image_id": k, "category_id": {"cat": 1, "dog": 2}[label], "bbox": sides(box)}
        for k, objects in enumerate(OBJECTS.values())
        for label, box in objects
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (place / "coco.json").write_text(json.dumps(content))
    return place / "coco.json"


def write_voc(place):
    (place / "xml").mkdir()
    for name, objects in OBJECTS.items():
        parts = ""
        for label, (left, top, right, bottom) in objects:
            corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
            box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
            parts += f"<object><name>{label}</name><bndbox>{box}</bndbox></object>"
        text = f"<annotation><filename>{name}</filename>{parts}</annotation>"
        (place / "xml" / name).with_suffix(".xml").write_text(text)
    return place / "xml"


def write_yolo(place):
    (place / "labels").mkdir()
    (place / "data.yaml").write_text("train: images\nnames:\n  0: cat\n  1: dog\n")
    for name, objects in OBJECTS.items():
        lines = []
        for label, box in objects:
            x, y, w, h = np.divide(sides(box), [WIDTH, HEIGHT] * 2)
            number = ["cat", "dog"].index(label)
            lines.append(f"{number} {x + w / 2} {y + h / 2} {w} {h}\n")
        (place / "labels" / name).with_suffix(".txt").write_text("".join(lines))
    return place / "labels"


def write_label_studio(place):
    tasks = []
    for name, objects in OBJECTS.items():
        result = []
        for label, box in objects:
            percent = 100.0 * np.divide(sides(box), [WIDTH, HEIGHT] * 2)
            value = dict(zip(("x", "y", "width", "height"), percent.tolist()))
            result.append(
                {
                    "type": "rectanglelabels",
                    "original_width": WIDTH,
                    "original_height": HEIGHT,
                    "value": {**value, "rotation": 0, "rectanglelabels": [label]},
                }
            )
        canceled = {"was_cancelled": True, "result": []}
        annotations = [canceled, {"result": result}]
        image = {"image": f"/data/upload/3/5f3a9c1d-{name}"}
        tasks.append({"data": image, "annotations": annotations})
    tasks.append({"data": {"image": "not_labeled.png"}, "annotations": []})
    (place / "export.json").write_text(json.dumps(tasks))
    return place / "export.json"


def write_label_me(place):
    (place / "label_me").mkdir()
    for name, objects in OBJECTS.items():
        shapes = [
            {
                "label": label,
                "points": [[right, top], [left, bottom]],
                "shape_type": "rectangle",
            }
            for label, (left, top, right, bottom) in objects
        ]
        content = {"imagePath": f"..\\images\\{name}", "shapes": shapes}
        path = (place / "label_me" / name).with_suffix(".json")
        path.write_text(json.dumps(content))
    return place / "label_me"


def write_cvat(place):
    parts = ""
    for name, objects in OBJECTS.items():
        size = f'width="{WIDTH}" height="{HEIGHT}"'
        parts += f'<image id="0" name="{name}" {size}><tag label="good"/>'
        for label, box in objects:
            corners = zip(("xtl", "ytl", "xbr", "ybr"), box)
            values = " ".join(f'{key}="{value}"' for key, value in corners)
            parts += f'<box label="{label}" occluded="0" {values}/>'
        parts += "</image>"
    path = place / "annotations.xml"
    path.write_text(f"<annotations><version>1.1</version>{parts}</annotations>")
    return path


WRITERS = [
    *(write_coco, write_voc, write_yolo),
    *(write_label_studio, write_label_me, write_cvat),
]
