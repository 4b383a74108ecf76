"""The overlap of boxes in NumPy; `boxes` computes the same for tensors.

Boxes are `(ymin, xmin, ymax, xmax)`. Use it in loops over a few boxes at a time, where
the overhead of TensorFlow calls would dominate.
"""

import numpy as np


def area(boxes):
    """Return the area of each box.

    Args:
        boxes: array `[N, 4]`.

    Returns:
        array `[N]`; 0 for a box of negative height or width.

    Source: own.
    """
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sizes[:, 0] * sizes[:, 1]


def intersection(boxes, others):
    """Return the area shared by every pair of boxes.

    Args:
        boxes: array `[N, 4]`.
        others: array `[M, 4]`.

    Returns:
        array `[N, M]`.

    Source: own.
    """
    top_left = np.maximum(boxes[:, None, :2], others[:, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[:, 2:])
    sizes = np.maximum(bottom_right - top_left, 0)
    return sizes[..., 0] * sizes[..., 1]


def iou(boxes, others):
    """Return the intersection over union of every pair of boxes.

    Args:
        boxes: array `[N, 4]`.
        others: array `[M, 4]`.

    Returns:
        float array `[N, M]` in 0…1; 0 without overlap.

    Source: own.
    """
    shared = intersection(boxes, others)
    union = area(boxes)[:, None] + area(others) - shared
    return shared / np.where(shared > 0, union, 1)
