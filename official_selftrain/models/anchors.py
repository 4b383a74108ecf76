"""Anchor boxes and the assignment of labels to them.

Letters in shapes: B batch, A anchors, M label slots.
"""

import functools
import math

import numpy as np
from keras import ops

from official_selftrain.geometry import boxes as box_ops

NEGATIVE = -1
IGNORED = -2

# An anchor of which more than this fraction lies inside an ignored region, such as a
# crowd, is neither object nor background.
IGNORE_COVERAGE = 0.5

# A level fits a region if its best anchor overlaps it at least this much, relative to
# the best anchor of all levels.
_FITTING = 0.5


def anchor_boxes(
    image_size,
    min_level=3,
    max_level=7,
    anchor_size=4.0,
    num_scales=3,
    aspect_ratios=(1.0, 2.0, 0.5),
):
    """Return the anchors of every level of a feature pyramid.

    At level l a cell's stride is `image_size / cells` (2^l where that divides),
    and an anchor of scale k and ratio r has the side
    `anchor_size · 2^(l + k / num_scales)`, width `side · √r` and height
    `side / √r`, centered on the cell.

    Args:
        image_size: (height, width) in pixels.
        min_level: int, first level.
        max_level: int, last level.
        anchor_size: float, side in strides.
        num_scales: int, scales per octave.
        aspect_ratios: width over height.

    Returns:
        float32 NumPy array `[A, 4]`, pixels, not clipped; ordered by level,
        row, column, scale, ratio.

    Source: RetinaNet; the order is that of the authors' detection code.
    """
    levels = []
    for level in range(min_level, max_level + 1):
        cells = [math.ceil(side / 2**level) for side in image_size]
        strides = [side / count for side, count in zip(image_size, cells)]
        # Float32 from here on, as in the authors' code: the last bit can decide which
        # of two anchors has the larger IoU.
        y, x = np.meshgrid(
            *(
                ((np.arange(count) + 0.5) * stride).astype(np.float32)
                for count, stride in zip(cells, strides)
            ),
            indexing="ij",
        )
        sides = (
            anchor_size * 2 ** (level + scale / num_scales)
            for scale in range(num_scales)
        )
        half = np.array(
            [
                (side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2)
                for side in sides
                for ratio in aspect_ratios
            ],
            np.float32,
        )
        center = np.stack([y, x], axis=-1)[:, :, None, :]
        levels.append(
            np.concatenate([center - half, center + half], axis=-1).reshape(-1, 4)
        )
    return np.concatenate(levels)


def anchors_per_level(image_size, min_level, max_level, anchors_per_cell):
    """Return the number of anchors of each level, in the order of `anchor_boxes`.

    Args:
        image_size: (height, width) in pixels.
        min_level: int, first level.
        max_level: int, last level.
        anchors_per_cell: int, scales times aspect ratios.

    Returns:
        tuple of int.
    """
    return tuple(
        math.prod(math.ceil(side / 2**level) for side in image_size) * anchors_per_cell
        for level in range(min_level, max_level + 1)
    )


def assign_targets(
    anchors,
    labels,
    match_threshold=0.5,
    unmatched_threshold=0.5,
    image_size=None,
    level_counts=None,
):
    """Assign a class and a box to every anchor.

    An anchor whose best IoU is at least `match_threshold` is assigned that box; below
    `unmatched_threshold` it is negative, in between it is ignored. Each box is also
    assigned to its best anchor, however small the overlap (the first anchor and the
    first box win ties). Boxes without area count as padding.

    Ignored boxes are of two kinds:

    - A doubtful box, whose score is below 1, is one object that may be wrong. It is
      matched like the others, so at the size and place of every object; the anchors
      that would be assigned to it, or ignored beside it, are ignored unless another
      box is assigned to them.
    - A region, whose score is 1 (a crowd), may contain objects of any size. Anchors
      are ignored whose part in the frame lies mostly inside it; so is its best anchor
      of each level that overlaps it at least half as much as its best anchor of all.

    Args:
        anchors: float `[A, 4]`, pixels.
        labels: dict with `boxes` float `[B, M, 4]`, `classes` int `[B, M]`
            (-1 is padding), `ignore` bool `[B, M]` (an ignored box needs no
            class) and, if there are doubtful boxes, `scores` float `[B, M]`; M at
            least 1.
        match_threshold: float in 0…1.
        unmatched_threshold: float in 0…`match_threshold`.
        image_size: (height, width) of the frame in pixels; None: unlimited.
        level_counts: sequence of int, the number of anchors of each level; None: all
            are of one level.

    Returns:
        `(classes, deltas)`: int32 `[B, A]`, the class, `NEGATIVE` or `IGNORED`;
        float32 `[B, A, 4]`, encoded boxes, 0 where no class is assigned.

    Source: the authors' anchor labeler; own: ignored boxes.
    """
    anchors = ops.convert_to_tensor(anchors, dtype="float32")
    boxes = ops.cast(labels["boxes"], "float32")
    classes = ops.cast(labels["classes"], "int32")
    is_object, is_doubtful, is_region = _kinds(labels, boxes, classes)

    overlap = box_ops.iou(anchors[None], boxes)
    highest, best = _best_of_levels(overlap, level_counts or (anchors.shape[0],))
    best_anchor = _best_of_all(highest, best)
    of_objects = ops.where(is_object[:, None, :], overlap, -1.0)
    best_overlap = ops.max(of_objects, axis=2)
    match = ops.cast(ops.argmax(of_objects, axis=2), "int32")

    anchor_ids = ops.arange(anchors.shape[0], dtype="int32")
    forced = (anchor_ids[None, :, None] == best_anchor[:, None, :]) & is_object[:, None]
    is_forced = ops.any(forced, axis=2)
    forced_match = ops.argmax(ops.cast(forced, "int32"), axis=2)
    match = ops.where(is_forced, ops.cast(forced_match, "int32"), match)

    positive = is_forced | (best_overlap >= match_threshold)
    of_doubtful = ops.where(is_doubtful[:, None, :], overlap, -1.0)
    ignored = (best_overlap >= unmatched_threshold) | (
        ops.max(of_doubtful, axis=2) >= unmatched_threshold
    )
    claims = [is_region & fits for fits in _fitting(highest)]
    ignored |= _are_among(
        ops.concatenate([*best, best_anchor], axis=1),
        ops.concatenate([*claims, is_doubtful], axis=1),
        anchors.shape[0],
    )
    regions = ops.where(is_region[..., None], boxes, 0.0)
    ignored |= _lie_in(anchors, regions, image_size)

    matched_classes = ops.take_along_axis(classes, match, axis=1)
    class_targets = ops.where(
        positive, matched_classes, ops.where(ignored, IGNORED, NEGATIVE)
    )
    matched_boxes = box_ops.take(boxes, match)
    # Padding is encoded as the anchor itself to avoid logarithms of zero.
    matched_boxes = ops.where(positive[..., None], matched_boxes, anchors[None])
    deltas = box_ops.encode(matched_boxes, anchors)
    deltas = ops.where(positive[..., None], deltas, 0.0)
    return ops.cast(class_targets, "int32"), deltas


def _kinds(labels, boxes, classes):
    """Return which boxes are objects, doubtful ones and regions, bool `[B, M]`."""
    has_area = box_ops.area(boxes) > 0.0
    ignore = ops.cast(labels["ignore"], "bool")
    is_doubtful = ignore & has_area
    if "scores" in labels:
        is_doubtful &= ops.cast(labels["scores"], "float32") < 1.0
    else:
        is_doubtful = ops.zeros_like(ignore)
    is_object = (classes >= 0) & has_area & ops.logical_not(ignore)
    is_region = ignore & has_area & ops.logical_not(is_doubtful)
    return is_object, is_doubtful, is_region


def _best_of_levels(overlap, level_counts):
    """Return every box's highest overlap with each level, and its best anchor.

    Returns:
        `(highest, ids)`, lists of float32 and int32 `[B, M]`, by level.
    """
    highest, ids, start = [], [], 0
    for count in level_counts:
        of_level = overlap[:, start : start + count]
        highest.append(ops.max(of_level, axis=1))
        ids.append(ops.cast(ops.argmax(of_level, axis=1), "int32") + start)
        start += count
    return highest, ids


def _best_of_all(highest, ids):
    """Return the best anchor of every box, int32 `[B, M]`."""
    best, best_overlap = ids[0], highest[0]
    for overlap, of_level in zip(highest[1:], ids[1:]):
        is_better = overlap > best_overlap  # the first of equal ones wins
        best = ops.where(is_better, of_level, best)
        best_overlap = ops.where(is_better, overlap, best_overlap)
    return best


def _fitting(highest):
    """Return for each level whether it fits every box, bool `[B, M]`."""
    least = _FITTING * functools.reduce(ops.maximum, highest)
    return [(overlap >= least) & (overlap > 0.0) for overlap in highest]


def _are_among(ids, counts, num_anchors):
    """Return which anchors are among those ids that count, bool `[B, A]`.

    Args:
        ids: int32 `[B, N]`.
        counts: bool `[B, N]`.
        num_anchors: int A.
    """
    batch = ops.shape(ids)[0]
    places = ids + num_anchors * ops.arange(batch, dtype="int32")[:, None]
    hits = ops.scatter(
        ops.reshape(places, (-1, 1)),
        ops.reshape(ops.cast(counts, "int32"), (-1,)),
        (batch * num_anchors,),
    )
    return ops.reshape(hits, (batch, num_anchors)) > 0


def _lie_in(anchors, regions, image_size):
    """Return which anchors lie mostly inside a region, bool `[B, A]`."""
    visible = anchors if image_size is None else box_ops.clip(anchors, image_size)
    return ops.max(box_ops.coverage(visible[None], regions), axis=2) > IGNORE_COVERAGE
