"""Export a folder of pseudo-labels as a COCO file."""

import json

import numpy as np
import tensorflow as tf

from official_selftrain.files import atomic
from official_selftrain.files.run_folder import LabelFolder
from official_selftrain.labeling import label_store


def write(output_dir, path):
    """Write the boxes of a folder of labels as one COCO file.

    `annotations` have a `score`; category ids start at 1. `file_name` is the image's
    original path. `sources.coco` reads the same labels from it as `label_store.read`
    does from the folder.

    Args:
        output_dir: str.
        path: str, of the JSON file.

    Raises:
        FileNotFoundError: if the labels aren't complete.
        ValueError: for masks.
    """
    manifest = label_store.read_manifest(output_dir)
    if manifest["has_masks"]:
        raise ValueError(f"Expected boxes. Received: {output_dir} with masks")
    categories = [
        {"id": index + 1, "name": name}
        for index, name in enumerate(manifest["class_names"])
    ]
    with atomic.replacing(path) as partial, open(partial, "w") as file:
        file.write('{"info": {}, "licenses": [],\n"categories": ')
        file.write(f'{json.dumps(categories)},\n"images": [')
        _write_items(file, (image for image, _ in _coco_items(output_dir)))
        file.write('],\n"annotations": [')
        boxes = (box for _, boxes in _coco_items(output_dir) for box in boxes)
        numbered = ({"id": n, **box} for n, box in enumerate(boxes, 1))
        _write_items(file, numbered)
        file.write("]}\n")


def _write_items(file, items):
    for index, item in enumerate(items):
        file.write(f"{',' if index else ''}\n{json.dumps(item)}")


def _coco_items(output_dir):
    """Yield the COCO image entry and the box entries of each stored image."""
    paths = LabelFolder(output_dir).shards
    for serialized in tf.data.TFRecordDataset(paths).as_numpy_iterator():
        features = tf.train.Example.FromString(serialized).features.feature
        height = features["image/height"].int64_list.value[0]
        width = features["image/width"].int64_list.value[0]
        image_id = int(features["image/source_id"].bytes_list.value[0])
        path = features["image/filename"].bytes_list.value
        boxes = [
            features[f"image/object/bbox/{side}"].float_list.value
            for side in ("ymin", "xmin", "ymax", "xmax", "confidence")
        ]
        labels = features["image/object/class/label"].int64_list.value
        areas = features["image/object/area"].float_list.value
        yield (
            {
                "id": image_id,
                "file_name": path[0].decode() if path else str(image_id),
                "height": height,
                "width": width,
            },
            [
                {
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": _coco_box(row[:4], height, width),
                    "area": area,
                    "iscrowd": 0,
                    "score": row[4],
                }
                for *row, label, area in zip(*boxes, labels, areas)
            ],
        )


def _coco_box(box, height, width):
    """Return x, y, width, height in pixels, rounded so that the box stays inside."""
    ymin, xmin, ymax, xmax = np.float64(box) * [height, width, height, width]
    sides = []
    for start, end, limit in ((xmin, xmax, width), (ymin, ymax, height)):
        side = end - start
        while start + side > limit:
            side = np.nextafter(side, 0.0)
        sides.append(float(side))
    return [float(xmin), float(ymin), *sides]
