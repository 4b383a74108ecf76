"""Augmentations: from an image with labels to a frame with labels.

An augmentation is a function `(image, labels, image_size, seed)` → `(image,
labels, size)`: uint8 `[h, w, 3]` and boxes in its pixels go in, float32
`[H, W, 3]`, boxes in pixels of the frame and the covered size come out.
"""

import tensorflow as tf

from official_selftrain.data import color, geometry


def flip_and_jitter(
    image,
    labels,
    image_size,
    seed,
    scale_range=(0.8, 1.2),
    flip_probability=0.5,
    color_strength=0.0,
):
    """Flip, scale and crop at random: Augment-S1, with optional colour changes.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict with `boxes` float32 `[n, 4]` in pixels and any other
            tensors with n rows.
        image_size: (height, width) of the frame.
        seed: int32 `[2]`.
        scale_range: the least and greatest scale.
        flip_probability: float in 0…1; 0 where mirror images mean another
            class, as digits do.
        color_strength: float in 0…1; above 0, contrast and brightness vary by
            that share and the colour channels change places.

    Returns:
        `(image, labels, size)`; boxes that lie outside the crop are dropped.

    Source: paper section 3 (S1: flips and jitter 0.8 to 1.2).
    """
    seeds = tf.unstack(tf.random.split(seed, 5))
    if color_strength > 0.0:
        image = color.contrast(image, seeds[0], color_strength)
        image = color.brightness(image, seeds[1], color_strength)
        image = color.channel_order(image, seeds[2])
    boxes = labels["boxes"]
    image, boxes = geometry.flip(image, boxes, seeds[3], flip_probability)
    image, boxes, size = geometry.resize_and_crop(
        image, boxes, image_size, seeds[4], scale_range
    )
    return image, _drop_empty({**labels, "boxes": boxes}), size


def fit(image, labels, image_size, seed=(0, 0)):
    """Fit an image into the frame without any randomness.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict with `boxes` float32 `[n, 4]` in pixels.
        image_size: (height, width) of the frame.
        seed: unused.

    Returns:
        `(image, labels, size)`.

    Source: own.
    """
    image, boxes, size = geometry.resize_and_crop(
        image, labels["boxes"], image_size, tf.convert_to_tensor(seed)
    )
    return image, _drop_empty({**labels, "boxes": boxes}), size


def _drop_empty(labels):
    sides = labels["boxes"][:, 2:] - labels["boxes"][:, :2]
    rows = tf.where(tf.reduce_all(sides > 0.0, axis=1))[:, 0]
    return {key: tf.gather(values, rows) for key, values in labels.items()}
