"""Affine transforms ("moves") of pixels and box corners.

A move maps the result back to the source, in (x, y, 1) of pixel centers. The product
first @ second is the move `first` followed by `second`.
"""

import tensorflow as tf


def translation(pixels_x, pixels_y):
    """Return the move that shifts content left and up.

    Args:
        pixels_x: float, to the left.
        pixels_y: float, upwards.

    Returns:
        float32 `[3, 3]`.
    """
    return _matrix(1.0, 0.0, pixels_x, 0.0, 1.0, pixels_y)


def shear(level_x, level_y):
    """Return the move that shows the source's (x + a · y, y + b · x) at (x, y).

    Args:
        level_x: float a.
        level_y: float b.

    Returns:
        float32 `[3, 3]`.
    """
    return _matrix(1.0, level_x, 0.0, level_y, 1.0, 0.0)


def rotation(degrees, size):
    """Return the move that rotates content about the image's center.

    Args:
        degrees: float, counter-clockwise.
        size: `[2]`, height and width.

    Returns:
        float32 `[3, 3]`.
    """
    angle = tf.cast(degrees, tf.float32) * (3.14159265358979 / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = tf.unstack((tf.cast(size, tf.float32) - 1.0) / 2.0)
    return _matrix(
        cos, -sin, x - (cos * x - sin * y), sin, cos, y - (sin * x + cos * y)
    )


def _matrix(*rows):
    rows = [tf.cast(value, tf.float32) for value in rows] + [0.0, 0.0, 1.0]
    return tf.reshape(tf.stack(rows), (3, 3))


def warp(arrays, matrix, fills):
    """Move the content of images and masks of one size, by nearest neighbor.

    Args:
        arrays: sequence of `[h, w, …]`.
        matrix: float32 `[3, 3]`, a move.
        fills: for each array, the value of areas from outside.

    Returns:
        list of `[h, w, …]`, of unchanged dtypes.

    Source: the authors' operations (nearest neighbor, constant fill).
    """
    height, width = tf.unstack(tf.shape(arrays[0])[:2])
    x = tf.range(width, dtype=tf.float32)[None, :]
    y = tf.range(height, dtype=tf.float32)[:, None]

    def source(row, size):
        # Added in the order of the authors' operation, for the same rounding:
        # halves away from zero, so that -0.5 lies outside.
        position = row[0] * x + row[1] * y + row[2]
        size = tf.cast(size, tf.float32)
        within = tf.abs(position - (size - 1.0) / 2.0) < size / 2.0
        # For a position just below a half, float32 rounds the sum up.
        nearest = tf.clip_by_value(tf.floor(position + 0.5), 0.0, size - 1.0)
        return tf.cast(nearest, tf.int32), within

    column, within_row = source(matrix[0], width)
    row, within_column = source(matrix[1], height)
    inside = within_row & within_column
    # Index 0 is the fill.
    index = (row * width + column + 1) * tf.cast(inside, tf.int32)

    def moved(array, fill):
        rest = array.shape[2:]
        flat = tf.reshape(array, (-1, *rest))
        fill = tf.fill((1, *rest), tf.cast(fill, array.dtype))
        result = tf.gather(tf.concat([fill, flat], axis=0), index)
        return tf.ensure_shape(result, array.shape)

    return [moved(array, fill) for array, fill in zip(arrays, fills)]


def move_corners(corners, matrix):
    """Move corners as `warp` moves pixels.

    Args:
        corners: float32 `[n, 4, 2]`, (y, x): all four.
        matrix: float32 `[3, 3]`, a move.

    Returns:
        float32 `[n, 4, 2]`.
    """
    forward = tf.linalg.inv(matrix)
    # The center of pixel 0 lies at 0.5.
    centers = corners[..., ::-1] - 0.5
    moved = tf.einsum("ij,nkj->nki", forward[:2, :2], centers) + forward[:2, 2]
    return moved[..., ::-1] + 0.5
