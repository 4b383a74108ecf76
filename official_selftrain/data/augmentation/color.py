"""Color operations on images `[h, w, 3]`, 0…255.

A uint8 image gives uint8, with fractions truncated as in the authors' operations; a
float image gives float32. The boxes and masks of an image are unaffected. Operations
of AutoAugment and RandAugment follow the authors' code except for `solarize` and
`contrast`, which document the differences.
"""

import numpy as np
import tensorflow as tf


def autocontrast(image):
    """Stretch each channel to the range from 0 to 255.

    Args:
        image: uint8 `[h, w, 3]`.

    Returns:
        uint8 `[h, w, 3]`; a constant channel is unchanged.

    Source: the authors' operations.
    """
    low = tf.cast(tf.reduce_min(image, axis=(0, 1)), tf.float32)
    high = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.float32)
    scale = tf.where(high > low, tf.math.divide_no_nan(255.0, high - low), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    width = tf.shape(image)[1]
    values = _rows(tf.cast(image, tf.float32))
    values = values * tf.tile(scale, [width]) + tf.tile(offset, [width])
    return tf.reshape(_to_uint8(values), tf.shape(image))


def equalize(image):
    """Equalize the histogram of each channel.

    Args:
        image: uint8 `[h, w, 3]`.

    Returns:
        uint8 `[h, w, 3]`; a constant channel is unchanged.

    Source: the authors' operations, which match Pillow's.
    """
    # One histogram of 3 x 256 bins.
    values = _rows(tf.cast(image, tf.int32))
    values += tf.tile([0, 256, 512], tf.shape(image)[1:2])
    counts = tf.math.bincount(tf.reshape(values, [-1]), None, 768, 768)
    counts = tf.reshape(counts, (3, 256))
    # The step is the pixel count per output value, without the topmost value.
    top = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.int32)
    topmost = tf.gather(counts, top, batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1) - topmost)[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = (below + step // 2) // tf.maximum(step, 1)
    table = tf.where(step == 0, tf.range(256), tf.clip_by_value(table, 0, 255))
    table = tf.cast(tf.reshape(table, [-1]), tf.uint8)
    # A third faster than tf.gather.
    return tf.reshape(tf.gather_nd(table, values[..., None]), tf.shape(image))


def invert(image):
    """Return 255 minus the image, uint8 `[h, w, 3]`."""
    return 255 - image


def posterize(image, bits):
    """Keep the highest bits of each value.

    Args:
        image: uint8 `[h, w, 3]`.
        bits: int; clamped to at least 1, as in the authors' operation.

    Returns:
        uint8 `[h, w, 3]`.

    Source: the authors' operations.
    """
    lost = tf.cast(8 - tf.clip_by_value(bits, 1, 8), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, lost), lost)


def solarize(image, threshold):
    """Invert all values at or above a threshold.

    Difference: the authors compare in uint8, so the threshold of 256 at the largest
    magnitude becomes 0 and inverts every value; here it leaves the image unchanged.

    Args:
        image: uint8 `[h, w, 3]`.
        threshold: int, at least 0.

    Returns:
        uint8 `[h, w, 3]`.

    Source: the authors' operations, corrected.
    """
    inverted = image >= tf.cast(tf.minimum(threshold, 255), tf.uint8)
    inverted &= threshold <= 255
    return tf.bitwise.bitwise_xor(image, 255 * tf.cast(inverted, tf.uint8))


def solarize_add(image, addition, threshold=128):
    """Add to the values below a threshold.

    Args:
        image: uint8 `[h, w, 3]`.
        addition: int, at least 0.
        threshold: int in 0…255.

    Returns:
        uint8 `[h, w, 3]`, sums clipped at 255.

    Source: the authors' operations.
    """
    addition = tf.cast(tf.minimum(addition, 255), tf.uint8)
    added = tf.minimum(image, 255 - addition) + addition
    below = tf.cast(image < tf.cast(threshold, tf.uint8), tf.uint8)
    return image + below * (added - image)


def color(image, factor):
    """Scale the distance of every pixel from its gray.

    Args:
        image: `[h, w, 3]`, 0…255.
        factor: float, at least 0; 0 gives gray, 1 the image.

    Returns:
        `[h, w, 3]`, uint8 or float32.

    Source: the authors' operations.
    """
    # Tiled because TensorFlow broadcasts slowly along the last axis.
    return _blend(tf.tile(_gray(image), [1, 1, 3]), image, factor)


def contrast(image, factor):
    """Scale the distance of every pixel from the image's mean gray.

    Difference: the authors use the number of pixels divided by 256 (at most 255) as
    the mean gray, so a factor below 1 whitens any larger image.

    Args:
        image: `[h, w, 3]`, 0…255.
        factor: float, at least 0; 0 gives the mean gray, 1 the image.

    Returns:
        `[h, w, 3]`, uint8 or float32.

    Source: the authors' operations, corrected to match Pillow's.
    """
    mean = tf.reduce_mean(tf.cast(_gray(image), tf.float32))
    if image.dtype == tf.uint8:
        mean = tf.round(mean)
    return _blend(mean, image, factor)


def brightness(image, factor):
    """Scale every pixel.

    Args:
        image: `[h, w, 3]`, 0…255.
        factor: float, at least 0; 0 gives black, 1 the image.

    Returns:
        `[h, w, 3]`, uint8 or float32.

    Source: the authors' operations.
    """
    return _blend(0.0, image, factor)


def sharpness(image, factor):
    """Scale the distance of every pixel from a smoothed image.

    Args:
        image: uint8 `[h, w, 3]`.
        factor: float, at least 0; 0 gives the smoothed image, 1 the image.

    Returns:
        uint8 `[h, w, 3]`; border pixels are unchanged.

    Source: the authors' operations (weight 5 at the center, 1 elsewhere).
    """
    values = tf.cast(image, tf.float32)
    height, width = tf.unstack(tf.maximum(tf.shape(image)[:2] - 2, 0))
    # Summed in the order of the authors' convolution, for the same rounding.
    smooth = 0.0
    for row in range(3):
        for column in range(3):
            weight = 5.0 if row == column == 1 else 1.0
            shifted = values[row : row + height, column : column + width]
            smooth += shifted * (np.float32(weight) / np.float32(13.0))
    inner = _blend(_to_uint8(smooth), image[1:-1, 1:-1], factor)
    return paste(image, inner, 1, 1)


def channel_order(image, seed):
    """Permute the color channels at random.

    Args:
        image: `[h, w, 3]`, any dtype.
        seed: `[2]`, see `placement`.

    Returns:
        `[h, w, 3]`, dtype of `image`.

    Source: own.
    """
    order = tf.argsort(tf.random.stateless_uniform((3,), seed))
    return tf.gather(image, order, axis=2)


def paste(image, patch, top, left):
    """Return an image with a patch pasted onto it.

    Args:
        image: `[h, w, …]`.
        patch: `[a, b, …]`, within the image; may be empty.
        top: int, first row of the patch.
        left: int, first column of the patch.

    Returns:
        `[h, w, …]`.
    """
    bottom, right = top + tf.shape(patch)[0], left + tf.shape(patch)[1]
    rows = image[top:bottom]
    rows = tf.concat([rows[:, :left], patch, rows[:, right:]], axis=1)
    result = tf.concat([image[:top], rows, image[bottom:]], axis=0)
    return tf.ensure_shape(result, image.shape)


def _gray(image):
    """Return `[h, w, 1]`; uint8 is rounded as in tf.image.rgb_to_grayscale."""
    weights = np.float32([[0.2989], [0.587], [0.114]])
    if image.dtype == tf.uint8:
        weights *= np.float32(255.5 / 255.0)
    pixels = tf.reshape(tf.cast(image, tf.float32), (-1, 3))
    gray = tf.reshape(tf.cast(pixels @ weights, image.dtype), tf.shape(image)[:2])
    return gray[..., None]


def _blend(other, image, factor):
    """Return other + factor · (image - other) within 0…255, uint8 or float32."""
    other = tf.cast(other, tf.float32)
    result = other + factor * (tf.cast(image, tf.float32) - other)
    if image.dtype == tf.uint8:
        return _to_uint8(result)
    return tf.clip_by_value(result, 0.0, 255.0)


def _rows(image):
    """Return `[h, w * 3]`, where a row vector broadcasts several times faster."""
    return tf.reshape(image, (-1, tf.shape(image)[1] * 3))


def _to_uint8(values):
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)
