"""Non-maximum suppression, hard and soft."""

from keras import ops

from official_selftrain.geometry.boxes import iou, take


def non_max_suppression(
    boxes,
    scores,
    max_detections,
    iou_threshold=0.5,
    soft_sigma=0.0,
    score_threshold=0.05,
):
    """Select the highest-scoring boxes greedily and suppress overlapping ones.

    Shapes are static and the loop has a fixed length, so the function compiles
    under XLA. For per-class suppression, shift the boxes of each class by more than
    the size of the image before the call.

    Args:
        boxes: float `[B, N, 4]`.
        scores: float `[B, N]`, at least 0.
        max_detections: int D, the number of boxes to select from each image.
        iou_threshold: boxes with a larger IoU with a selected box are dropped.
        soft_sigma: if positive, Soft-NMS: instead of dropping boxes, their scores
            decay by `exp(-iou² / (2 · soft_sigma))`, TensorFlow's convention (the
            original paper's sigma is twice as large).
        score_threshold: only boxes with a score above it are selected.

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
        # The first maximum, like argmax, whose Keras version uses operations that
        # OpenVINO doesn't support.
        is_highest = scores == best_score[:, None]
        best = ops.min(ops.where(is_highest, candidates, num_candidates - 1), axis=1)
        best_box = take(boxes, best[:, None])
        overlap = iou(best_box, boxes)[:, 0]
        if soft_sigma > 0.0:
            remaining = scores * ops.exp(-0.5 / soft_sigma * overlap**2)
        else:
            remaining = ops.where(overlap > iou_threshold, 0.0, scores)
        # A box without area has no overlap with itself.
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
