"""Overlapping tiles of large images: where they lie, and whose box an object's is.

A tile is `(height, width, overlap)` in pixels of the image. An object that isn't longer
than the overlap lies completely in at least one of the tiles.
"""

import tensorflow as tf

# A box that ends within this fraction of a tile from its border, and a pixel, may be
# that of an object which the border cuts.
_MARGIN = 0.01


def windows(size, tile):
    """Return the tiles of an image: evenly spaced, to its borders.

    Args:
        size: int32 `[2]`, height and width of the image in pixels.
        tile: (height, width, overlap); neighbors overlap by at least that.

    Returns:
        int32 `[T, 4]`: top, left, height and width; one for an image that is no larger
        than a tile.

    Source: own.
    """
    size = tf.cast(size, tf.int32)
    tops, lefts = (_starts(size[axis], tile[axis], tile[2]) for axis in (0, 1))
    corners = tf.stack(tf.meshgrid(tops, lefts, indexing="ij"), axis=-1)
    corners = tf.reshape(corners, (-1, 2))
    sides = tf.minimum(size, tf.constant(tile[:2]))
    return tf.concat([corners, tf.broadcast_to(sides, tf.shape(corners))], axis=1)


def _starts(side, length, overlap):
    """Return the first pixels of tiles along one side, int32 `[n]`."""
    rest = tf.maximum(side - length, 0)
    step = length - overlap
    count = (rest + step - 1) // step + 1
    places = tf.cast(tf.range(count), tf.float64)
    distance = tf.cast(rest, tf.float64) / tf.cast(tf.maximum(count - 1, 1), tf.float64)
    return tf.cast(tf.round(places * distance), tf.int32)


def margin(side):
    """Return how near to a tile's border a box may be one that the border cuts.

    Args:
        side: int, the tile's height or width in pixels.
    """
    return 1.0 + _MARGIN * side


def at_borders(boxes, places, size, tile):
    """Return which boxes end at a tile's border inside the image, and are left out.

    A box ends at a border if it reaches into a margin beside it. If it is shorter than
    the overlap without the margins of both tiles, the tile beyond that border holds all
    of the object, outside its own margin: the box is left to that tile.

    Args:
        boxes: float32 `[T, D, 4]` (ymin, xmin, ymax, xmax), pixels of the tiles.
        places: int32 `[T, 4]`, as returned by `windows`.
        size: int32 `[2]`, height and width of the image.
        tile: (height, width, overlap).

    Returns:
        `(at_border, is_left)`, bool `[T, D]`.

    Source: own.
    """
    starts, sides = places[:, None, :2], places[:, None, 2:]
    margins = tf.constant([margin(side) for side in tile[:2]])
    low, high = boxes[..., :2], boxes[..., 2:]
    at_start = (low <= margins) & (starts > 0)
    at_end = high >= tf.cast(sides, tf.float32) - margins
    at_end &= starts + sides < tf.cast(size, tf.int32)
    # Near both borders of an overlap, neither tile would hold it.
    is_short = high - low < tile[2] - 2.0 * margins
    at_border = at_start | at_end
    return tf.reduce_any(at_border, -1), tf.reduce_any(at_border & is_short, -1)
