"""The operations of AutoAugment and RandAugment, for images, boxes and masks.

Magnitudes usually range from 0 to 10; larger values are allowed:

| operation | argument at magnitude m |
|---|---|
| Rotate | 3 m degrees |
| ShearX, ShearY | 0.03 m |
| TranslateX, TranslateY | 25 m pixels (12 m within boxes) |
| Color, Contrast, Brightness, Sharpness | factor 0.1 + 0.18 m |
| Posterize | int(0.4 m) bits kept |
| Solarize | threshold int(25.6 m) |
| SolarizeAdd | int(11 m) added below 128 |
| Cutout | a square of twice int(10 m) pixels (int(5 m) within boxes) |
| BBox_Cutout | 0.075 m of a box's sides |
| AutoContrast, Equalize, Invert, Identity | none |

The sign of each rotation, shear and translation is random. Areas from outside the
image are filled with `placement.FILL_PIXEL` in images and `placement.IGNORE_CLASS` in
masks. Pixel operations, including cutouts, leave masks unchanged.

An operation with the suffix `_Only_BBoxes` changes the content of each box separately,
with a third of its probability and in random order; the boxes themselves don't move.
Without boxes it has no effect.

From magnitude 10 on, Solarize has no effect; Posterize is weaker at 15 than at 10; at
15, a shift of 375 pixels moves most objects out of an image of 640.

Source: the authors' AutoAugment code, whose pixel values are also used for RandAugment
(as in EfficientDet's RandAugment for detection). Their `Rotate_BBox`, `ShearX_BBox` and
so on are called `Rotate`, `ShearX` here, because every operation moves the boxes too.
"""

import dataclasses
import functools

import tensorflow as tf

from official_selftrain.data.augmentation import color, placement
from official_selftrain.geometry import affine

# Pixel operations: function (image, magnitude).
PIXELS = {
    "Identity": lambda image, m: image,
    "AutoContrast": lambda image, m: color.autocontrast(image),
    "Equalize": lambda image, m: color.equalize(image),
    "Invert": lambda image, m: color.invert(image),
    "Posterize": lambda image, m: color.posterize(image, _int(4.0 * m / 10.0)),
    "Solarize": lambda image, m: color.solarize(image, _int(256.0 * m / 10.0)),
    "SolarizeAdd": lambda image, m: color.solarize_add(image, _int(11.0 * m)),
    "Color": lambda image, m: color.color(image, _factor(m)),
    "Contrast": lambda image, m: color.contrast(image, _factor(m)),
    "Brightness": lambda image, m: color.brightness(image, _factor(m)),
    "Sharpness": lambda image, m: color.sharpness(image, _factor(m)),
}

# Moves: function (signed magnitude, (height, width), pixels at magnitude 10).
MOVES = {
    "Rotate": lambda m, size, pixels: affine.rotation(3.0 * m, size),
    "ShearX": lambda m, size, pixels: affine.shear(0.03 * m, 0.0),
    "ShearY": lambda m, size, pixels: affine.shear(0.0, 0.03 * m),
    "TranslateX": lambda m, size, pixels: affine.translation(
        _int(m * pixels / 10.0), 0.0
    ),
    "TranslateY": lambda m, size, pixels: affine.translation(
        0.0, _int(m * pixels / 10.0)
    ),
}

_ONLY = "_Only_BBoxes"
WITHIN_BOXES = ("Cutout", "Equalize", "Flip", "Solarize", *MOVES)

# Pixels at magnitude 10, for the whole image and within boxes.
_TRANSLATE, _TRANSLATE_ONLY = 250.0, 120.0
_CUTOUT, _CUTOUT_ONLY = 100.0, 50.0

OPERATIONS = (
    *PIXELS,
    *MOVES,
    "Cutout",
    "BBox_Cutout",
    *(name + _ONLY for name in WITHIN_BOXES),
)


def execute(image, labels, seed, names, steps, reference_size=None):
    """Execute operations in sequence.

    Args:
        image: `[h, w, 3]`; other dtypes are rounded to uint8.
        labels: dict, optionally with `corners` and `mask` (see `placement`) and
            `ignore` bool `[n]`; the content of ignored boxes isn't changed.
        seed: `[2]`, see `placement`.
        names: sequence of names from `OPERATIONS`.
        steps: list of (index into names, probability, magnitude), numbers or
            scalar tensors.
        reference_size: int or None, the longer side of the images for which the pixel
            values are meant; they are scaled to the longer side of `image`.

    Returns:
        `(image, labels)`: uint8, of the same sizes; corners may lie outside.

    Raises:
        ValueError: if `reference_size` is not above 0.
    """
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8:
        image = tf.saturate_cast(tf.round(image), tf.uint8)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    if reference_size is None:
        unit = tf.constant(1.0, tf.float64)
    elif isinstance(reference_size, (int, float)) and reference_size > 0:
        unit = tf.cast(tf.reduce_max(size), tf.float64) / float(reference_size)
    else:
        raise ValueError(
            "Expected reference_size of more than 0 or None. Received: "
            f"reference_size={reference_size!r}"
        )
    boxes = _pixel_boxes(labels, size)
    arrays, fills = [image], [placement.FILL_PIXEL]
    if "mask" in labels:
        arrays.append(labels["mask"])
        fills.append(placement.IGNORE_CLASS)
    frame = _Frame(size, boxes, unit, fills)
    matrix = tf.eye(3)

    for index, probability, magnitude in steps:
        # Double precision matches the authors' Python floats.
        magnitude = tf.cast(magnitude, tf.float64)
        seeds = tf.random.split(seed, 3)
        seed = seeds[0]
        branches = [
            functools.partial(
                _step, name, arrays, matrix, frame, probability, magnitude, seeds[1:]
            )
            for name in names
        ]
        *arrays, matrix = tf.switch_case(index, branches)

    def moved():
        return affine.warp(arrays, matrix, fills)

    arrays = tf.cond(tf.reduce_all(matrix == tf.eye(3)), lambda: arrays, moved)
    labels = dict(labels)
    if "mask" in labels:
        labels["mask"] = arrays[1]
    if "corners" in labels:
        labels["corners"] = affine.move_corners(labels["corners"], matrix)
    return arrays[0], labels


@dataclasses.dataclass(frozen=True)
class _Frame:
    """State shared by all operations: size, boxes, pixels per unit, fill per array."""

    size: tf.Tensor
    boxes: tf.Tensor
    unit: tf.Tensor
    fills: list


def _step(name, arrays, matrix, frame, probability, magnitude, seeds):
    """Run one operation: arrays and move → [*arrays, move]."""
    chance_seed, seed = seeds[0], seeds[1]
    if name.endswith(_ONLY):
        # Decides separately for every box.
        inside = functools.partial(_inside, name[: -len(_ONLY)], frame, magnitude)
        arrays = within_boxes(arrays, frame.boxes, inside, seed, probability / 3.0)
        return [*arrays, matrix]

    def run():
        if name in MOVES:
            signed = magnitude * _sign(seed)
            move = MOVES[name](signed, frame.size, _TRANSLATE * frame.unit)
            return [*arrays, matrix @ move]
        if name == "Cutout":
            half = _int(_CUTOUT * frame.unit * magnitude / 10.0)
            changed = cutout(arrays[0], _pixel(seed, frame.size), half)
        elif name == "BBox_Cutout":
            changed = _box_cutout(arrays[0], frame.boxes, seed, 0.075 * magnitude)
        else:
            changed = PIXELS[name](arrays[0], magnitude)
        return [changed, *arrays[1:], matrix]

    applies = tf.random.stateless_uniform((), chance_seed) < probability
    return tf.cond(applies, run, lambda: [*arrays, matrix])


def _inside(name, frame, magnitude, arrays, seed):
    """Run one operation on the content of a box."""
    size = tf.cast(tf.shape(arrays[0])[:2], tf.float32)
    if name in MOVES:
        signed = magnitude * _sign(seed)
        move = MOVES[name](signed, size, _TRANSLATE_ONLY * frame.unit)
        return affine.warp(arrays, move, frame.fills)
    if name == "Flip":
        return [tf.reverse(array, [1]) for array in arrays]
    if name == "Cutout":
        half = _int(_CUTOUT_ONLY * frame.unit * magnitude / 10.0)
        changed = cutout(arrays[0], _pixel(seed, size), half)
    else:
        changed = PIXELS[name](arrays[0], magnitude)
    return [changed, *arrays[1:]]


def within_boxes(arrays, boxes, operation, seed, probability):
    """Run an operation on the content of randomly chosen boxes, in random order.

    Args:
        arrays: list of `[h, w, …]`, an image and possibly a mask.
        boxes: int32 `[n, 4]`, first and last row and column: ymin, xmin, ymax,
            xmax, all within the image.
        operation: function (list of contents, seed) → list of contents.
        seed: `[2]`, see `placement`.
        probability: float in 0…1, for each box.

    Returns:
        list of `[h, w, …]`.

    Source: the authors' operations.
    """
    order_seed, chance_seed, seed = tf.unstack(tf.random.split(seed, 3))
    count = tf.shape(boxes)[0]
    order = tf.argsort(tf.random.stateless_uniform((count,), order_seed))
    chances = tf.random.stateless_uniform((count,), chance_seed)
    chosen = tf.boolean_mask(order, chances < probability)

    def change(k, arrays):
        top, left, bottom, right = tf.unstack(tf.gather(boxes, chosen[k]))
        contents = [array[top : bottom + 1, left : right + 1] for array in arrays]
        item_seed = tf.random.fold_in(seed, k)
        return k + 1, [
            color.paste(array, content, top, left)
            for array, content in zip(arrays, operation(contents, item_seed))
        ]

    _, arrays = tf.while_loop(
        lambda k, arrays: k < tf.size(chosen), change, (0, list(arrays))
    )
    return arrays


def cutout(image, center, half):
    """Fill a square of an image with `placement.FILL_PIXEL`.

    Args:
        image: `[h, w, c]`.
        center: int32 `[2]`, row and column.
        half: int or int32 `[2]`, half of each side; the square covers the rows from
            `center - half` up to, but not including, `center + half`.

    Returns:
        `[h, w, c]`.

    Source: the authors' operations.
    """
    size = tf.shape(image)[:2]
    start = tf.clip_by_value(center - half, 0, size)
    end = tf.clip_by_value(center + half, start, size)
    shape = tf.concat([end - start, tf.shape(image)[2:]], axis=0)
    patch = tf.fill(shape, tf.cast(placement.FILL_PIXEL, image.dtype))
    return color.paste(image, patch, start[0], start[1])


def _box_cutout(image, boxes, seed, fraction):
    """Fill a fraction of a random box's sides, around a random pixel in it."""

    def cut():
        seeds = tf.unstack(tf.random.split(seed, 2))
        count = tf.shape(boxes)[0]
        chosen = tf.random.stateless_uniform((), seeds[0], 0, count, tf.int32)
        box = tf.gather(boxes, chosen)
        sides = tf.cast(box[2:] - box[:2] + 1, tf.float32)
        center = box[:2] + _pixel(seeds[1], sides)
        return cutout(image, center, _int(fraction * tf.cast(sides, tf.float64) / 2.0))

    return tf.cond(tf.shape(boxes)[0] > 0, cut, lambda: image)


def _pixel_boxes(labels, size):
    """Return the pixels of boxes: int32 first and last row and column.

    As in the authors' code, the last ones are those that contain the lower and right
    edges, even if an edge only touches them.
    """
    if "corners" not in labels:
        return tf.zeros((0, 4), tf.int32)
    corners = labels["corners"]
    if "ignore" in labels:
        corners = tf.boolean_mask(corners, ~labels["ignore"])
    boxes = placement.visible_boxes(corners, size)
    seen = tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1)
    boxes = tf.cast(tf.boolean_mask(boxes, seen), tf.int32)
    return tf.minimum(boxes, tf.cast(tf.tile(size, [2]), tf.int32) - 1)


def _pixel(seed, size):
    position = tf.random.stateless_uniform((2,), seed)
    return tf.cast(tf.floor(position * tf.floor(size)), tf.int32)


def _sign(seed):
    sign = tf.where(tf.random.stateless_uniform((), seed) < 0.5, -1.0, 1.0)
    return tf.cast(sign, tf.float64)


def _factor(magnitude):
    return tf.cast(1.8 * magnitude / 10.0 + 0.1, tf.float32)


def _int(value):
    return tf.cast(value, tf.int32)
