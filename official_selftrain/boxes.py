"""Axis-aligned boxes: overlap, coding, letterbox geometry and suppression.

Boxes are `(ymin, xmin, ymax, xmax)` in continuous pixels: a box that covers
the whole of an image of height H and width W is `(0, 0, H, W)`. Letters in
shapes: B batch, A anchors, M label slots, N candidates, D detections.
"""

import math

from keras import ops

# Keeps the logarithm of a degenerate size finite.
_SIZE_EPSILON = 1e-8

# The largest growth exp(d) a decoded box may take over its anchor.
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
        float `[..., N, M]` in 0…1; 0 where nothing is shared.

    Source: reference labeler of the authors' detection code.
    """
    shared = intersection(boxes, others)
    union = (
        ops.expand_dims(area(boxes), -1) + ops.expand_dims(area(others), -2) - shared
    )
    return ops.where(shared > 0.0, shared / ops.where(union > 0.0, union, 1.0), 0.0)


def coverage(boxes, others):
    """Return the share of each box that lies inside each of the others.

    Args:
        boxes: float `[..., N, 4]`.
        others: float `[..., M, 4]`.

    Returns:
        float `[..., N, M]` in 0…1: intersection over the area of `boxes`.

    Source: own; the rule that COCO's evaluation applies to crowd regions.
    """
    own_area = ops.expand_dims(area(boxes), -1)
    return intersection(boxes, others) / ops.maximum(own_area, _SIZE_EPSILON)


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


def letterbox_scale(sizes, image_size):
    """Return the factors that fit images into a frame, aspect ratio kept.

    The scaled image has whole pixels, so the two axes' factors can differ by
    a rounding.

    Args:
        sizes: `[B, 2]`, height and width of the images in pixels.
        image_size: (height, width) of the frame.

    Returns:
        float32 `[B, 2]`: pixels of the frame per pixel of the image, by axis.

    Source: own; the authors' preprocessing rounds in the same way.
    """
    sizes = ops.cast(sizes, "float32")
    frame = ops.convert_to_tensor(image_size, dtype="float32")
    scale = ops.min(frame / sizes, axis=-1, keepdims=True)
    return ops.maximum(ops.round(sizes * scale), 1.0) / sizes


def covered_size(sizes, image_size):
    """Return the part of a frame that images fitted into it cover.

    Args:
        sizes: `[B, 2]`, height and width of the images in pixels.
        image_size: (height, width) of the frame.

    Returns:
        int32 `[B, 2]`, height and width in pixels of the frame.

    Source: see `letterbox_scale`.
    """
    scale = letterbox_scale(sizes, image_size)
    return ops.cast(ops.round(ops.cast(sizes, "float32") * scale), "int32")


def non_max_suppression(
    boxes,
    scores,
    max_detections,
    iou_threshold=0.5,
    soft_sigma=0.0,
    score_threshold=0.05,
):
    """Pick the best boxes greedily and suppress their neighbours.

    Shapes are static and the loop has a fixed length, so the function compiles
    under XLA. To keep classes apart, shift the boxes of each class by more
    than the size of the image before the call.

    Args:
        boxes: float `[B, N, 4]`.
        scores: float `[B, N]`, at least 0.
        max_detections: int D, how many boxes to pick from each image.
        iou_threshold: boxes that overlap a picked one by more are dropped.
        soft_sigma: if positive, Soft-NMS: instead of being dropped, scores
            decay by `exp(-iou² / (2 · soft_sigma))`, TensorFlow's convention
            (in the original paper's, sigma is twice as large).
        score_threshold: only scores above it are picked.

    Returns:
        `(indices, scores)`: int32 `[B, D]` into N, and float `[B, D]` in
        descending order, 0 in unused slots.

    Source: Bodla et al. 2017 for the soft form.
    """
    num_candidates = boxes.shape[1]
    slots = ops.arange(max_detections)
    candidates = ops.arange(num_candidates)
    batch_slots = ops.cast(ops.expand_dims(scores[:, 0] * 0.0, -1), "int32")

    def pick(step, state):
        scores, picked, picked_scores = state
        best_score = ops.max(scores, axis=1)
        # The first of the best, as argmax; Keras' own uses operations that OpenVINO
        # doesn't know.
        is_highest = scores == best_score[:, None]
        best = ops.min(ops.where(is_highest, candidates, num_candidates - 1), axis=1)
        best_box = ops.take_along_axis(boxes, best[:, None, None], axis=1)
        overlap = iou(best_box, boxes)[:, 0]
        if soft_sigma > 0.0:
            remaining = scores * ops.exp(-0.5 / soft_sigma * overlap**2)
        else:
            remaining = ops.where(overlap > iou_threshold, 0.0, scores)
        # A box without area does not overlap even itself.
        is_best = candidates[None, :] == ops.cast(best, candidates.dtype)[:, None]
        remaining = ops.where(is_best, 0.0, remaining)
        valid = best_score > score_threshold
        here = (slots == step)[None, :] & valid[:, None]
        picked = ops.where(here, ops.cast(best, "int32")[:, None], picked)
        picked_scores = ops.where(here, best_score[:, None], picked_scores)
        return remaining, picked, picked_scores

    state = (
        scores,
        batch_slots + ops.zeros((1, max_detections), dtype="int32"),
        ops.cast(batch_slots, scores.dtype)
        + ops.zeros((1, max_detections), dtype=scores.dtype),
    )
    _, picked, picked_scores = ops.fori_loop(0, max_detections, pick, state)
    return picked, picked_scores
