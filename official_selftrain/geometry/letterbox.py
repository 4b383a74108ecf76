"""The letterbox: fitting images into a frame while keeping their aspect ratio.

An image is placed in the frame's top left corner; models of others that expect it in
the middle get `fit_centered`. Functions used in models are written
with `keras.ops`; pixels are resized by TensorFlow on any backend, because the input
pipeline is TensorFlow's.
"""

import numpy as np
import tensorflow as tf
from keras import ops

# ImageNet's mean color, so that padding is zero after normalization.
PAD_PIXEL = (123.675, 116.28, 103.53)


def letterbox_scale(sizes, image_size):
    """Return the factors that fit images into a frame, keeping their aspect ratio.

    The scaled size is rounded to whole pixels, so the factors of the two axes can
    differ slightly.

    Args:
        sizes: `[B, 2]`, height and width of the images in pixels.
        image_size: (height, width) of the frame.

    Returns:
        float32 `[B, 2]`: pixels of the frame per pixel of the image, by axis.

    Source: own; the authors' preprocessing rounds in the same way.
    """
    return _fitted_sizes(sizes, image_size, ops) / ops.cast(sizes, "float32")


def covered_size(sizes, image_size):
    """Return the part of a frame that images fitted into it cover.

    Args:
        sizes: `[B, 2]`, height and width of the images in pixels.
        image_size: (height, width) of the frame.

    Returns:
        int32 `[B, 2]`, height and width in pixels of the frame.

    Source: see `letterbox_scale`.
    """
    return ops.cast(_fitted_sizes(sizes, image_size, ops), "int32")


def _fitted_sizes(sizes, image_size, library):
    """Return float32 sizes in whole pixels; `library` is `keras.ops` or `tf`."""
    sizes = library.cast(sizes, "float32")
    ratios = library.convert_to_tensor(image_size, dtype="float32") / sizes
    scale = library.minimum(ratios[..., :1], ratios[..., 1:])
    return library.maximum(library.round(sizes * scale), 1.0)


def fit(images, image_size):
    """Fit images of one size into a frame: the letterbox.

    Args:
        images: `[..., h, w, 3]`, 0…255, of rank 3 or 4.
        image_size: (height, width) of the frame.

    Returns:
        float32 `[..., H, W, 3]`.

    Source: see `letterbox_scale`.
    """
    return pad(resize(images, image_size), image_size)


def resize(images, image_size):
    """Resize images of one size so that they just fit into a frame.

    The interpolation is bilinear.

    Args:
        images: `[..., h, w, c]`, 0…255, of rank 3 or 4.
        image_size: (height, width) of the frame; whole numbers of any type.

    Returns:
        float32 `[..., h', w', c]`, of the `covered_size`.

    Source: see `letterbox_scale`.
    """
    size = _fitted_sizes(tf.shape(images)[-3:-1], image_size, tf)
    return tf.image.resize(tf.cast(images, tf.float32), tf.cast(size, tf.int32))


def pad(images, image_size, value=PAD_PIXEL):
    """Pad images at the bottom and right.

    Args:
        images: float32 `[..., h, w, c]`, not larger than the frame.
        image_size: (height, width) of the frame.
        value: float, or one per channel.

    Returns:
        float32 `[..., H, W, c]`.

    Source: own.
    """
    value = tf.constant(value, tf.float32)
    channels = images.shape[-1]
    *batch, height, width, _ = tf.unstack(tf.shape(images))
    # Several times faster than tf.pad.
    right = (*batch, height, image_size[1] - width, channels)
    below = (*batch, image_size[0] - height, image_size[1], channels)
    frames = tf.concat([images, tf.broadcast_to(value, right)], axis=-2)
    frames = tf.concat([frames, tf.broadcast_to(value, below)], axis=-3)
    # TFLite doesn't support tf.ensure_shape.
    frames.set_shape((*images.shape[:-3], *image_size, channels))
    return frames


def fit_centered(image, image_size, value):
    """Fit an image into the middle of a frame, as other tools do.

    Args:
        image: `[h, w, 3]`, 0…255.
        image_size: (height, width) of the frame.
        value: float, the color of the border.

    Returns:
        float32 `[H, W, 3]`, rounded to whole numbers.

    Source: `LetterBox` of ultralytics.
    """
    size, start = _centered(tf.shape(image)[:2], image_size)
    resized = tf.round(tf.image.resize(tf.cast(image, tf.float32), size))
    end = tf.constant(image_size) - size - start
    borders = tf.pad(tf.stack([start, end], axis=1), [[0, 1], [0, 0]])
    frame = tf.pad(resized, borders, constant_values=value)
    return tf.ensure_shape(frame, (*image_size, 3))


def from_centered(boxes, size, image_size):
    """Map boxes from the frame of `fit_centered` to the image.

    Args:
        boxes: float array `[n, 4]` (ymin, xmin, ymax, xmax), pixels of the frame.
        size: (height, width) of the image.
        image_size: (height, width) of the frame.

    Returns:
        float32 array `[n, 4]`, pixels of the image, clipped to it.

    Source: `scale_boxes` of ultralytics.
    """
    _, start = _centered(tf.constant(size, tf.int32), image_size)
    height, width = (float(side) for side in size)
    scale = min(image_size[0] / height, image_size[1] / width)
    boxes = (boxes - np.tile(start.numpy(), 2)) / scale
    return np.clip(boxes, 0.0, [height, width] * 2).astype(np.float32)


def _centered(size, image_size):
    """Return the size in the frame, and top and left, int32 `[2]`."""
    size = tf.cast(size, tf.float64)
    frame = tf.constant(image_size, tf.float64)
    fitted = tf.maximum(tf.round(size * tf.reduce_min(frame / size)), 1.0)
    start = tf.round((frame - fitted) / 2.0 - 0.1)  # half a pixel goes below, right
    return tf.cast(fitted, tf.int32), tf.cast(start, tf.int32)
