"""Joint geometry of images, boxes and masks.

A function takes and returns `(image, labels)`. `image` is `[h, w, c]`, uint8 or
float. Two entries of `labels` are transformed if present; the rest is passed through:

- `corners`: float32 `[n, k, 2]`, corners of the n boxes as (y, x) in pixels: all
  four in order around the box, or two opposite ones if there is no rotation or shear;
- `mask`: `[h, w]`, integer class ids.

Boxes are represented as corners because repeatedly boxing rotated boxes makes them
too large: `with_corners` converts boxes to corners first, and `with_boxes` computes
the tight boxes around what remains visible at the end. Pixel (0, 0) covers the square
from (0, 0) to (1, 1).

All randomness is stateless: the same seed gives the same result. Seeds are int32 or
int64 `[2]`; the two dtypes give different values, and the input pipeline uses int64.
"""

import tensorflow as tf

from official_selftrain.data.masks import IGNORE_CLASS
from official_selftrain.geometry import letterbox

# The value of pixels that a rotation or shift brings in from outside the image.
FILL_PIXEL = 128


def with_corners(labels, count=4):
    """Replace `boxes` by `corners`.

    Args:
        labels: dict with `boxes` float32 `[n, 4]` (ymin, xmin, ymax, xmax), or
            without boxes.
        count: 4, or 2 if the boxes will only be flipped, scaled and shifted.

    Returns:
        dict with `corners` float32 `[n, count, 2]`; unchanged if there are no `boxes`.
    """
    if "boxes" not in labels:
        return labels
    labels = dict(labels)
    # ymin, xmin, ymax, xmax
    order = {2: (0, 1, 2, 3), 4: (0, 1, 0, 3, 2, 3, 2, 1)}[count]
    corners = tf.gather(labels.pop("boxes"), order, axis=1)
    labels["corners"] = tf.reshape(corners, (-1, count, 2))
    return labels


def with_boxes(labels, size):
    """Replace `corners` by `boxes`.

    Args:
        labels: dict with `corners` float32 `[n, k, 2]` and any other tensors
            with n rows, or without corners.
        size: int32 `[2]`, height and width of the visible area.

    Returns:
        dict with `boxes` float32 `[m, 4]` within 0…`size`: the smallest boxes
        around the visible parts. Invisible objects are dropped from every
        entry but `mask`.
    """
    if "corners" not in labels:
        return labels
    labels = dict(labels)
    boxes = visible_boxes(labels.pop("corners"), size)
    labels["boxes"] = boxes
    rows = tf.where(tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1))[:, 0]
    return {
        key: value if key == "mask" else tf.gather(value, rows)
        for key, value in labels.items()
    }


def visible_boxes(corners, size):
    """Return the smallest boxes around the parts within an image.

    Args:
        corners: float32 `[n, k, 2]`, see the module; four corners must be those
            of a convex quadrangle.
        size: `[2]`, height and width.

    Returns:
        float32 `[n, 4]` within 0…`size`, with zero area where nothing is visible.

    Source: own; the authors clip the box around the corners, which is larger where a
        rotated box leaves the image.
    """
    size = tf.cast(size, tf.float32)
    if corners.shape[1] == 4:
        lowest, highest = _visible_extent(corners, size)
    else:
        lowest, highest = tf.reduce_min(corners, 1), tf.reduce_max(corners, 1)
    boxes = tf.concat([lowest, highest], axis=1)
    return tf.clip_by_value(boxes, 0.0, tf.tile(size, [2]))


def _visible_extent(corners, size):
    """Return the minimum and maximum (y, x) of quadrangles within 0…size.

    Edges are clipped by the Liang-Barsky algorithm.
    """
    after = tf.roll(corners, -1, axis=1)
    edges = after - corners
    # Each edge is corner * (1 - t) + after * t; inside for t in [start, end].
    parallel = edges == 0.0
    low = tf.math.divide_no_nan(-corners, edges)
    high = tf.math.divide_no_nan(size - corners, edges)
    within = (corners >= 0.0) & (corners <= size)
    start = tf.where(parallel, tf.where(within, 0.0, 2.0), tf.minimum(low, high))
    end = tf.where(parallel, 1.0, tf.maximum(low, high))
    start = tf.maximum(tf.reduce_max(start, axis=2, keepdims=True), 0.0)
    end = tf.minimum(tf.reduce_min(end, axis=2, keepdims=True), 1.0)
    crossed = tf.tile(start <= end, [1, 2, 1])
    ends = tf.concat(
        [corners * (1.0 - start) + after * start, corners * (1.0 - end) + after * end],
        axis=1,
    )
    # Corners of the image count if they lie inside a quadrangle.
    frame = tf.stack([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]) * size
    away = frame[None, :, None] - corners[:, None]  # [n, image corner, edge, 2]
    side = edges[:, None, :, 0] * away[..., 1] - edges[:, None, :, 1] * away[..., 0]
    covered = tf.reduce_all(side >= 0.0, axis=2) | tf.reduce_all(side <= 0.0, axis=2)

    diagonals = corners[:, 2:] - corners[:, :2]
    area = diagonals[:, 0, 0] * diagonals[:, 1, 1]
    area -= diagonals[:, 0, 1] * diagonals[:, 1, 0]
    points = tf.concat([ends, tf.broadcast_to(frame[None], tf.shape(corners))], axis=1)
    seen = tf.concat([crossed, covered[..., None]], axis=1) & (
        area[:, None, None] != 0.0
    )
    lowest = tf.reduce_min(tf.where(seen, points, float("inf")), axis=1)
    highest = tf.reduce_max(tf.where(seen, points, float("-inf")), axis=1)
    visible = tf.reduce_any(seen, axis=1)
    return tf.where(visible, lowest, 0.0), tf.where(visible, highest, 0.0)


def flip(image, labels, seed, probability=0.5):
    """Flip an image and its labels horizontally at random.

    Args:
        image: `[h, w, c]`.
        labels: dict, see the module.
        seed: `[2]`, see the module.
        probability: float in 0…1.

    Returns:
        `(image, labels)`.

    Source: paper section 3.
    """
    width = tf.cast(tf.shape(image)[1], tf.float32)
    apply = tf.random.stateless_uniform((), seed) < probability

    def mirrored(pixels):
        return tf.cond(apply, lambda: tf.reverse(pixels, [1]), lambda: pixels)

    labels = dict(labels)
    if "mask" in labels:
        labels["mask"] = mirrored(labels["mask"])
    if "corners" in labels:
        y, x = tf.unstack(labels["corners"], axis=2)
        labels["corners"] = tf.stack([y, tf.where(apply, width - x, x)], axis=2)
    return mirrored(image), labels


def resize_and_crop(
    image,
    labels,
    image_size,
    seed,
    scale_range=(1.0, 1.0),
    pad_value=letterbox.PAD_PIXEL,
):
    """Fit an image into a frame, scaled by a random factor, cropped and padded.

    The image is scaled to fit into `image_size` times the factor, keeping its aspect
    ratio. It is then cropped to the frame at a random offset (the largest possible
    offset never occurs, as in the authors' code) and padded at the bottom and right. A
    factor of 1 gives the letterbox, as `fit` does. Images are resized bilinearly,
    masks by nearest neighbor.

    Args:
        image: `[h, w, c]`, 0…255.
        labels: dict, see the module.
        image_size: (height, width) of the frame.
        seed: `[2]`, see the module.
        scale_range: the minimum and maximum factor.
        pad_value: float, or one per channel.

    Returns:
        `(image, labels, size)`: float32 `[H, W, c]`; labels in pixels of the frame,
        where corners may lie outside and the mask is padded with `IGNORE_CLASS`;
        int32 `[2]`, the part of the frame that the image covers.

    Source: the authors' preprocessing (scale jitter of the paper's section 3).
    """
    scale_seed, offset_seed = tf.unstack(tf.random.split(seed, 2))
    factor = tf.random.stateless_uniform((), scale_seed, *map(float, scale_range))
    scaled_frame = tf.round(tf.constant(image_size, tf.float32) * factor)
    start = tf.random.stateless_uniform((2,), offset_seed)
    return _place(image, labels, image_size, scaled_frame, start, pad_value)


def fit(image, labels, image_size):
    """Fit an image and its labels into a frame by `letterbox.fit`.

    Args:
        image: `[h, w, 3]`, 0…255.
        labels: dict, see the module.
        image_size: (height, width) of the frame.

    Returns:
        `(image, labels, size)` as in `resize_and_crop`.

    Source: own.
    """
    return _place(image, labels, image_size, image_size, 0.0, letterbox.PAD_PIXEL)


def _place(image, labels, image_size, scaled_frame, start, pad_value):
    """Fit an image into `scaled_frame`, then crop and pad it to `image_size`.

    `start`, 0…1, is the relative offset of the crop.
    """
    scaled_image = letterbox.resize(image, scaled_frame)
    source_size = tf.shape(image)[:2]
    size = tf.cast(source_size, tf.float32)
    scaled = tf.cast(tf.shape(scaled_image)[:2], tf.float32)
    frame = tf.constant(image_size, tf.float32)
    offset = tf.floor(start * tf.maximum(scaled - frame, 0.0))
    covered = tf.cast(tf.minimum(scaled, frame), tf.int32)
    top, left = tf.unstack(tf.cast(offset, tf.int32))
    height, width = tf.unstack(covered)
    crop = scaled_image[top : top + height, left : left + width]

    labels = dict(labels)
    if "corners" in labels:
        labels["corners"] = labels["corners"] * (scaled / size) - offset
    if "mask" in labels:
        mask = labels["mask"]
        for axis in (0, 1):
            # Nearest as in the bilinear resize: the pixel that contains the center.
            centers = tf.range(covered[axis], dtype=tf.float32) + offset[axis] + 0.5
            nearest = tf.cast(centers * (size / scaled)[axis], tf.int32)
            nearest = tf.minimum(nearest, source_size[axis] - 1)
            mask = tf.gather(mask, nearest, axis=axis)
        missing = [[0, image_size[0] - height], [0, image_size[1] - width]]
        mask = tf.pad(mask, missing, constant_values=IGNORE_CLASS)
        labels["mask"] = tf.ensure_shape(mask, image_size)
    return letterbox.pad(crop, image_size, pad_value), labels, covered
