"""Axis-aligned boxes: overlap and coding.

Boxes are `(ymin, xmin, ymax, xmax)` in continuous pixels: a box that covers
the whole of an image of height H and width W is `(0, 0, H, W)`. Letters in
shapes: B batch, A anchors, N and M boxes.
"""

import math

from keras import ops

# Keeps the logarithm of a degenerate size finite.
_SIZE_EPSILON = 1e-8

# The largest logarithm of a decoded box's size relative to its anchor.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def area(boxes):
    """Return the area of each box.

    Args:
        boxes: float `[..., 4]`, pixels.

    Returns:
        float `[...]`, square pixels; 0 for a box of negative height or width.

    Source: own.
    """
    height = ops.maximum(boxes[..., 2] - boxes[..., 0], 0.0)
    width = ops.maximum(boxes[..., 3] - boxes[..., 1], 0.0)
    return height * width


def intersection(boxes, others):
    """Return the area shared by every pair of boxes.

    Args:
        boxes: float `[..., N, 4]`.
        others: float `[..., M, 4]`.

    Returns:
        float `[..., N, M]`, square pixels.

    Source: own.
    """
    boxes = ops.expand_dims(boxes, -2)
    others = ops.expand_dims(others, -3)
    top_left = ops.maximum(boxes[..., :2], others[..., :2])
    bottom_right = ops.minimum(boxes[..., 2:], others[..., 2:])
    sizes = ops.maximum(bottom_right - top_left, 0.0)
    return sizes[..., 0] * sizes[..., 1]


def iou(boxes, others):
    """Return the intersection over union of every pair of boxes.

    Args:
        boxes: float `[..., N, 4]`.
        others: float `[..., M, 4]`.

    Returns:
        float `[..., N, M]` in 0…1; 0 without overlap.

    Source: reference labeler of the authors' detection code.
    """
    shared = intersection(boxes, others)
    union = (
        ops.expand_dims(area(boxes), -1) + ops.expand_dims(area(others), -2) - shared
    )
    return ops.where(shared > 0.0, shared / ops.where(union > 0.0, union, 1.0), 0.0)


def coverage(boxes, others):
    """Return the fraction of each box that lies inside each of the others.

    Args:
        boxes: float `[..., N, 4]`.
        others: float `[..., M, 4]`.

    Returns:
        float `[..., N, M]` in 0…1: intersection over the area of `boxes`.

    Source: own; the rule that COCO's evaluation applies to crowd regions.
    """
    own_area = ops.expand_dims(area(boxes), -1)
    return intersection(boxes, others) / ops.maximum(own_area, _SIZE_EPSILON)


def take(boxes, indices):
    """Return the boxes at the given positions.

    Args:
        boxes: `[B, M, 4]`.
        indices: integer `[B, N]`, in 0…M - 1.

    Returns:
        `[B, N, 4]`, in the dtype of `boxes`.
    """
    # Along the last axis: along another one Keras transposes int64 indices, and oneDNN
    # logs an error.
    sides = ops.swapaxes(boxes, 1, 2)
    taken = ops.take_along_axis(sides, ops.expand_dims(indices, 1), axis=-1)
    return ops.swapaxes(taken, 1, 2)


def clip(boxes, sizes):
    """Clip boxes to their images.

    Args:
        boxes: float `[B, N, 4]`, pixels.
        sizes: `[B, 2]` or `[2]`, height and width in pixels.

    Returns:
        float `[B, N, 4]`.

    Source: own.
    """
    sizes = ops.cast(sizes, boxes.dtype)
    limits = ops.expand_dims(ops.concatenate([sizes, sizes], axis=-1), -2)
    return ops.minimum(ops.maximum(boxes, 0.0), limits)


def _centers_and_sizes(boxes):
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode(boxes, anchors):
    """Encode boxes relative to anchors.

    `((yc - yca) / ha, (xc - xca) / wa, log(h / ha), log(w / wa))`, without
    variance scaling; 1e-8 is added to all four sizes.

    Args:
        boxes: float `[..., A, 4]`.
        anchors: float `[A, 4]`.

    Returns:
        float `[..., A, 4]`: `(dy, dx, dh, dw)`.

    Source: Faster R-CNN's coding, as in the authors' training targets.
    """
    centers, sizes = _centers_and_sizes(boxes)
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors)
    sizes = sizes + _SIZE_EPSILON
    anchor_sizes = anchor_sizes + _SIZE_EPSILON
    return ops.concatenate(
        [(centers - anchor_centers) / anchor_sizes, ops.log(sizes / anchor_sizes)],
        axis=-1,
    )


def decode(deltas, anchors):
    """Decode box deltas; the inverse of `encode`.

    The authors' inference code counts a box's last pixel as inside it (+1);
    its training targets do not, and neither does this function.

    Args:
        deltas: float `[..., A, 4]`: `(dy, dx, dh, dw)`; `dh` and `dw` are
            capped at log(1000 / 16).
        anchors: float `[A, 4]`.

    Returns:
        float `[..., A, 4]`, pixels, not clipped.

    Source: Faster R-CNN's coding.
    """
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors)
    centers = deltas[..., :2] * anchor_sizes + anchor_centers
    sizes = ops.exp(ops.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * anchor_sizes
    return ops.concatenate([centers - 0.5 * sizes, centers + 0.5 * sizes], axis=-1)
