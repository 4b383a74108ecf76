"""Geometry of images and boxes together: flip, scale jitter, crop and pad.

Images are `[h, w, 3]`, boxes float32 `[n, 4]` in pixels. All randomness is
stateless: the same int32 `[2]` seed gives the same result.
"""

import tensorflow as tf

# ImageNet's mean colour: what padding looks like after normalisation is zero.
PAD_PIXEL = (123.675, 116.28, 103.53)


def flip(image, boxes, seed, probability=0.5):
    """Mirror an image and its boxes from left to right at random.

    Args:
        image: `[h, w, 3]`, any dtype.
        boxes: float32 `[n, 4]`.
        seed: int32 `[2]`.
        probability: float in 0…1.

    Returns:
        `(image, boxes)`.

    Source: paper section 3.
    """
    width = tf.cast(tf.shape(image)[1], tf.float32)
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=1)
    flipped = tf.stack([ymin, width - xmax, ymax, width - xmin], axis=1)
    apply = tf.random.stateless_uniform((), seed) < probability
    return (
        tf.cond(apply, lambda: image[:, ::-1], lambda: image),
        tf.where(apply, flipped, boxes),
    )


def resize_and_crop(image, boxes, image_size, seed, scale_range=(1.0, 1.0)):
    """Fit an image into a frame, scaled by a random factor, cropped and padded.

    The image is scaled so that it would just fit into `image_size` times the
    factor, aspect ratio kept; what exceeds the frame is cropped at a random
    offset, what is missing is padded at the bottom and right. A factor of 1
    gives the letterbox of `boxes.letterbox_scale`.

    Args:
        image: `[h, w, 3]`, 0…255, any dtype.
        boxes: float32 `[n, 4]`.
        image_size: (height, width) of the frame.
        seed: int32 `[2]`.
        scale_range: the least and greatest factor.

    Returns:
        `(image, boxes, size)`: float32 `[H, W, 3]`; float32 `[n, 4]`, clipped
        to the frame, possibly without area; int32 `[2]`, the part of the frame
        that the image covers.

    Source: the authors' preprocessing (scale jitter of the paper's section 3).
    """
    scale_seed, offset_seed = tf.unstack(tf.random.split(seed, 2))
    factor = tf.random.stateless_uniform((), scale_seed, *map(float, scale_range))
    frame = tf.constant(image_size, tf.float32)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.reduce_min(tf.round(frame * factor) / size)
    scaled = tf.maximum(tf.round(size * scale), 1.0)
    room = tf.maximum(scaled - frame, 0.0)
    offset = tf.floor(tf.random.stateless_uniform((2,), offset_seed) * room)
    covered = tf.minimum(scaled, frame)
    image = tf.cast(image, tf.float32)
    crop = tf.image.resize(image, tf.cast(scaled, tf.int32))
    start, covered_int = tf.cast(offset, tf.int32), tf.cast(covered, tf.int32)
    crop = tf.slice(crop, [start[0], start[1], 0], [covered_int[0], covered_int[1], 3])
    missing = tf.constant(image_size, tf.int32) - covered_int
    pad = tf.constant(PAD_PIXEL)
    padded = tf.pad(crop - pad, [[0, missing[0]], [0, missing[1]], [0, 0]]) + pad
    padded = tf.ensure_shape(padded, (*image_size, 3))

    axis_scale = scaled / size
    boxes = boxes * tf.tile(axis_scale, [2]) - tf.tile(offset, [2])
    boxes = tf.clip_by_value(boxes, 0.0, tf.tile(covered, [2]))
    return padded, boxes, covered_int
