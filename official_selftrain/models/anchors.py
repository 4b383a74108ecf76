"""Anchor boxes and the assignment of labels to them.

Letters in shapes: B batch, A anchors, M label slots.
"""

import math

import numpy as np
from keras import ops

from official_selftrain.geometry import boxes as box_ops

NEGATIVE = -1
IGNORED = -2

# An anchor of which more than this fraction lies inside an ignored region (a crowd, an
# uncertain pseudo-box) is neither object nor background.
IGNORE_COVERAGE = 0.5


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


def assign_targets(anchors, labels, match_threshold=0.5, unmatched_threshold=0.5):
    """Assign a class and a box to every anchor.

    An anchor whose best IoU is at least `match_threshold` is assigned that box; below
    `unmatched_threshold` it is negative, in between it is ignored. Each box is also
    assigned to its best anchor, however small the overlap (the first anchor and the
    first box win ties). Non-positive anchors that lie mostly inside an ignored box are
    ignored. Boxes without area count as padding.

    Args:
        anchors: float `[A, 4]`, pixels.
        labels: dict with `boxes` float `[B, M, 4]`, `classes` int `[B, M]`
            (-1 is padding) and `ignore` bool `[B, M]` (an ignored box needs no
            class); M at least 1.
        match_threshold: float in 0…1.
        unmatched_threshold: float in 0…`match_threshold`.

    Returns:
        `(classes, deltas)`: int32 `[B, A]`, the class, `NEGATIVE` or `IGNORED`;
        float32 `[B, A, 4]`, encoded boxes, 0 where no class is assigned.

    Source: the authors' anchor labeler; own: ignored regions.
    """
    anchors = ops.convert_to_tensor(anchors, dtype="float32")
    boxes = ops.cast(labels["boxes"], "float32")
    classes = ops.cast(labels["classes"], "int32")
    ignore = ops.cast(labels["ignore"], "bool")
    has_area = box_ops.area(boxes) > 0.0
    is_object = (classes >= 0) & has_area & ops.logical_not(ignore)

    overlap = box_ops.iou(anchors[None], boxes)
    overlap = ops.where(is_object[:, None, :], overlap, -1.0)
    best_overlap = ops.max(overlap, axis=2)
    match = ops.cast(ops.argmax(overlap, axis=2), "int32")

    anchor_ids = ops.arange(anchors.shape[0], dtype="int32")
    best_anchor = ops.cast(ops.argmax(overlap, axis=1), "int32")
    forced = (anchor_ids[None, :, None] == best_anchor[:, None, :]) & is_object[:, None]
    is_forced = ops.any(forced, axis=2)
    forced_match = ops.argmax(ops.cast(forced, "int32"), axis=2)
    match = ops.where(is_forced, ops.cast(forced_match, "int32"), match)

    positive = is_forced | (best_overlap >= match_threshold)
    uncertain = ops.logical_not(positive) & (best_overlap >= unmatched_threshold)
    region = ops.cast(ignore & has_area, "float32")
    covered = ops.max(
        box_ops.coverage(anchors[None], boxes) * region[:, None, :], axis=2
    )
    uncertain |= ops.logical_not(positive) & (covered > IGNORE_COVERAGE)

    matched_classes = ops.take_along_axis(classes, match, axis=1)
    class_targets = ops.where(
        positive, matched_classes, ops.where(uncertain, IGNORED, NEGATIVE)
    )
    matched_boxes = box_ops.take(boxes, match)
    # Padding is encoded as the anchor itself to avoid logarithms of zero.
    matched_boxes = ops.where(positive[..., None], matched_boxes, anchors[None])
    deltas = box_ops.encode(matched_boxes, anchors)
    deltas = ops.where(positive[..., None], deltas, 0.0)
    return ops.cast(class_targets, "int32"), deltas
