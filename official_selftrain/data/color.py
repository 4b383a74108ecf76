"""Colour operations on images `[h, w, 3]`, 0…255, stateless like `geometry`."""

import tensorflow as tf


def contrast(image, seed, strength):
    """Scale the distance of every pixel from the image's mean grey.

    Args:
        image: `[h, w, 3]`, 0…255, any dtype.
        seed: int32 `[2]`.
        strength: float in 0…1; the factor is drawn from 1 ± strength.

    Returns:
        float32 `[h, w, 3]`, 0…255.

    Source: own.
    """
    image = tf.cast(image, tf.float32)
    factor = tf.random.stateless_uniform((), seed, 1.0 - strength, 1.0 + strength)
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
    return tf.clip_by_value(mean + factor * (image - mean), 0.0, 255.0)


def brightness(image, seed, strength):
    """Scale every pixel.

    Args:
        image: `[h, w, 3]`, 0…255, any dtype.
        seed: int32 `[2]`.
        strength: float in 0…1; the factor is drawn from 1 ± strength.

    Returns:
        float32 `[h, w, 3]`, 0…255.

    Source: own.
    """
    factor = tf.random.stateless_uniform((), seed, 1.0 - strength, 1.0 + strength)
    return tf.clip_by_value(tf.cast(image, tf.float32) * factor, 0.0, 255.0)


def channel_order(image, seed):
    """Put the colour channels in a random order.

    Args:
        image: `[h, w, 3]`, any dtype.
        seed: int32 `[2]`.

    Returns:
        `[h, w, 3]`, dtype of `image`.

    Source: own.
    """
    order = tf.argsort(tf.random.stateless_uniform((3,), seed))
    return tf.gather(image, order, axis=2)
