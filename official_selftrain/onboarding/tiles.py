"""Cut large photographs of a custom data set into overlapping tiles.

The tiles are image files in a folder of their own; photographs that are no larger than
a tile stay what they are.
"""

import collections
import concurrent.futures
import math
import os
import shutil

import numpy as np
import tensorflow as tf
from PIL import Image

from official_selftrain.checks import progress
from official_selftrain.data import images, splits
from official_selftrain.geometry import tiling
from official_selftrain.onboarding import own_data, proposals

# The side of a tile in pixels of the frame is that of the frame, at most this many
# times: smaller tiles would be enlarged.
_SMALLEST = 128

# JPEG files are cut into JPEG files of this quality, others into PNG files.
_QUALITY = 95

# A box of which less than this fraction is outside a tile is whole.
_WHOLE = 0.999


def propose(content, frame):
    """Propose tiles in which small objects are as large as they should be.

    Args:
        content: dict, a COCO file's content.
        frame: int, the largest side of the frame in pixels.

    Returns:
        (height, width, overlap) in pixels of the photographs: the overlap holds 95 % of
        the objects.

    Source: own; rules of thumb.
    """
    sides = np.array([a["bbox"][2:] for a in own_data.objects(content)], np.float64)
    small = np.quantile(np.sqrt(sides.prod(axis=1)), 0.1)
    side = frame * min(small / proposals.SMALL_OBJECT, 1.0)
    large = np.quantile(sides.max(axis=1), 0.95)
    side = max(32 * math.ceil(max(side, 2.2 * large) / 32), _SMALLEST)
    # Beside the objects it holds the margins of both tiles, see `tiling.at_borders`.
    overlap = 16 * math.ceil((large + 2.0 * tiling.margin(side)) / 16)
    return side, side, min(overlap, side // 2)


def cut(content, folder, target, tile, is_labeled=True, pixel_range=None):
    """Cut images and their boxes into tiles, and write them as files.

    A box that lies in a tile is that tile's object; one that a border cuts is ignored
    in it. Of tiles without an object as many are kept as there are with one.

    Args:
        content: dict, a COCO file's content; file names are relative to `folder`.
        folder: str.
        target: str, the folder to write to.
        tile: (height, width, overlap).
        is_labeled: bool; False: tiles without a box are all kept.
        pixel_range: as in `images.decode`; tiles have 8 bits.

    Returns:
        `(content, lost)`: the content of a COCO file whose file names are relative to
        `target`; int, the objects that no tile holds whole.

    Raises:
        ValueError: if no image is larger than a tile.

    Source: own.
    """
    annotations = collections.defaultdict(list)
    for annotation in content.get("annotations", ()):
        annotations[annotation["image_id"]].append(annotation)
    entries, boxes, lost = [], [], 0
    for image in content["images"]:
        size = image["height"], image["width"]
        places = tiling.windows(size, tile).numpy()
        first = len(entries) + 1
        for place in places.tolist():
            entries.append(
                {
                    "id": len(entries) + 1,
                    "file_name": _tile_name(image["file_name"], place, len(places)),
                    "height": place[2],
                    "width": place[3],
                    "place": (image["file_name"], place),
                }
            )
        for annotation in annotations[image["id"]]:
            parts = _in_tiles(annotation, places, first)
            boxes += parts
            is_whole = any(not part["iscrowd"] for part in parts)
            lost += not (is_whole or annotation.get("iscrowd"))
    if len(entries) == len(content["images"]):
        raise ValueError(
            f"Expected photographs larger than a tile of {tile[1]} x {tile[0]} pixels. "
            f"Received: none of {len(entries)} is; leave out --tile"
        )
    if is_labeled:
        entries = _with_some_empty(entries, boxes)
        kept = {entry["id"] for entry in entries}
        boxes = [box for box in boxes if box["image_id"] in kept]
    _write_tiles(entries, folder, target, pixel_range)
    described = [{k: v for k, v in e.items() if k != "place"} for e in entries]
    boxes = [{**box, "id": number} for number, box in enumerate(boxes, 1)]
    if not is_labeled:
        return {"images": described}, lost
    return {**content, "images": described, "annotations": boxes}, lost


def _tile_name(name, place, count):
    if count == 1:
        return name
    ending = ".jpg" if name.lower().endswith((".jpg", ".jpeg")) else ".png"
    return f"{name}_{place[0]}_{place[1]}{ending}"


def _in_tiles(annotation, places, first):
    """Return an annotation in each tile that holds some of it.

    Args:
        annotation: dict.
        places: int `[T, 4]`, the tiles.
        first: int, the id of the first tile.
    """
    x, y, width, height = annotation["bbox"]
    low = np.maximum([y, x], places[:, :2])
    high = np.minimum([y + height, x + width], places[:, :2] + places[:, 2:])
    seen = np.clip(high - low, 0.0, None).prod(axis=1)
    whole = seen >= _WHOLE * width * height
    found = []
    for index in np.flatnonzero(seen > 0.0):
        top, left = low[index] - places[index, :2]
        sides = (high - low)[index]
        part = {
            "image_id": first + int(index),
            "category_id": annotation["category_id"],
            "bbox": [float(left), float(top), float(sides[1]), float(sides[0])],
            "area": float(seen[index]),
            "iscrowd": int(bool(annotation.get("iscrowd")) or not whole[index]),
        }
        found.append(part)
    return found


def _with_some_empty(entries, boxes):
    """Leave out tiles without an object, so that there are no more than with one."""
    used = {box["image_id"] for box in boxes if not box["iscrowd"]}
    empty = [entry["id"] for entry in entries if entry["id"] not in used]
    kept = used | set(splits.ordered(empty)[: max(len(used), 1)])
    return [entry for entry in entries if entry["id"] in kept]


def _write_tiles(entries, folder, target, pixel_range):
    """Write the tiles of each photograph, which is read once."""
    of_file = collections.defaultdict(list)
    for entry in entries:
        name, place = entry["place"]
        of_file[name].append((entry["file_name"], place))

    def write(name):
        if of_file[name][0][0] == name:  # all of it is a tile
            os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
            shutil.copyfile(os.path.join(folder, name), os.path.join(target, name))
            return
        contents = tf.io.read_file(os.path.join(folder, name))
        pixels = images.decode_file(contents, pixel_range).numpy()
        for tile_name, (top, left, height, width) in of_file[name]:
            path = os.path.join(target, tile_name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            part = Image.fromarray(pixels[top : top + height, left : left + width])
            part.save(path, quality=_QUALITY, subsampling=0)

    # Large photographs: few at a time.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        written = pool.map(write, of_file)
        for _ in progress.over(written, len(of_file), "tiles", "image"):
            pass
