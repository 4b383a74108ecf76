"""Anchors and targets, by hand and compared with the authors' arrays."""

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from official_selftrain.geometry import boxes
from official_selftrain.models import anchors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LABELER = np.load(GOLDEN / "labeler.npz")
SETS = sorted({k.split("/")[0] for k in LABELER.files if "m50u50" in k})


@pytest.mark.parametrize(
    ("name", "image_size", "anchor_size"),
    [
        ("640", (640, 640), 4.0),
        ("512x640", (512, 640), 4.0),
        ("256_size3", (256, 256), 3.0),
        ("128", (128, 128), 4.0),
    ],
)
def test_anchors_match_the_authors(name, image_size, anchor_size):
    golden = np.load(GOLDEN / "anchors.npz")
    got = anchors.anchor_boxes(image_size, anchor_size=anchor_size)
    assert len(got) == golden[f"{name}/count_per_level"].sum()
    rows = golden[f"{name}/rows"]
    np.testing.assert_array_equal(got[rows], golden[f"{name}/anchors"])


def test_image_size_not_divisible_by_the_stride():
    """24 pixels at stride 16 are 2 cells of 12 pixels."""
    got = anchors.anchor_boxes((24, 32), 4, 4, 1.0, 1, (1.0,))
    centers = (got[:, :2] + got[:, 2:]) / 2
    np.testing.assert_allclose(centers, [[6, 8], [6, 24], [18, 8], [18, 24]])
    np.testing.assert_allclose(got[:, 2:] - got[:, :2], 16)


def labels_of(actual, classes, ignore=None, slots=None, scores=None):
    slots = slots or max(1, len(actual))
    padded = np.zeros((1, slots, 4), np.float32)
    padded_classes = np.full((1, slots), -1)
    padded_ignore = np.zeros((1, slots), bool)
    if len(actual):
        padded[0, : len(actual)] = actual
        padded_classes[0, : len(actual)] = classes
        padded_ignore[0, : len(actual)] = False if ignore is None else ignore
    labels = {"boxes": padded, "classes": padded_classes, "ignore": padded_ignore}
    if scores is not None:
        labels["scores"] = np.zeros((1, slots), np.float32)
        labels["scores"][0, : len(actual)] = scores
    return labels


@pytest.mark.parametrize("unmatched", [0.5, 0.4])
@pytest.mark.parametrize("name", SETS)
def test_targets_match_the_authors(name, unmatched):
    key = f"{name}/m50u{round(unmatched * 100)}"
    grid = anchors.anchor_boxes((256, 256))
    # Their classes count from 1.
    labels = labels_of(
        LABELER[f"{name}/gt_boxes"], LABELER[f"{name}/gt_classes"] - 1, slots=41
    )
    classes, deltas = anchors.assign_targets(grid, labels, 0.5, unmatched)
    classes, deltas = np.array(classes)[0], np.array(deltas)[0]
    theirs = LABELER[f"{key}/cls_targets"]
    np.testing.assert_array_equal(classes, np.where(theirs > 0, theirs - 1, theirs))
    np.testing.assert_allclose(deltas, LABELER[f"{key}/box_targets"], atol=1e-5)
    assert (classes >= 0).sum() == LABELER[f"{key}/num_positives"]


def test_targets_equal_the_authors_at_640():
    grid = anchors.anchor_boxes((640, 640))
    labels = labels_of(
        LABELER["size640/gt_boxes"], LABELER["size640/gt_classes"] - 1, slots=100
    )
    classes, deltas = (np.array(x)[0] for x in anchors.assign_targets(grid, labels))
    rows = np.flatnonzero(classes >= 0)
    np.testing.assert_array_equal(rows, LABELER["size640/positive_indices"])
    np.testing.assert_array_equal(
        classes[rows], LABELER["size640/positive_classes"] - 1
    )
    np.testing.assert_allclose(
        deltas[rows], LABELER["size640/positive_box_targets"], atol=1e-5
    )


# Four anchors of 10 x 10 side by side.
ROW = np.array([[0, 10 * k, 10, 10 * k + 10] for k in range(4)], np.float32)


def assigned(*args, **kwargs):
    classes, deltas = anchors.assign_targets(ROW, labels_of(*args, **kwargs))
    return np.array(classes)[0].tolist(), np.array(deltas)[0]


def test_a_box_is_assigned_its_best_anchor_at_any_overlap():
    """IoU of 4 / (100 + 4 - 4) with the third anchor: forced."""
    classes, deltas = assigned([[0, 22, 2, 24]], [7])
    assert classes == [-1, -1, 7, -1]
    np.testing.assert_allclose(
        deltas[2], [-0.4, -0.2, np.log(0.2), np.log(0.2)], atol=1e-6
    )
    assert not deltas[[0, 1, 3]].any()


def test_thresholds_are_inclusive():
    """The box covers two anchors, each with an IoU of 1/2."""
    labels = labels_of([[0, 0, 10, 20]], [4])
    for thresholds, expected in (
        ((0.5, 0.5), [4, 4, -1, -1]),
        ((0.6, 0.5), [4, -2, -1, -1]),  # the first anchor is forced
        ((0.6, 0.51), [4, -1, -1, -1]),
    ):
        classes, _ = anchors.assign_targets(ROW, labels, *thresholds)
        np.testing.assert_array_equal(classes, [expected])


def test_the_first_box_wins_a_shared_anchor():
    classes, _ = assigned([[0, 1, 2, 3], [0, 4, 2, 6]], [5, 6])
    assert classes == [5, -1, -1, -1]


def test_a_crowd_is_neither_object_nor_background():
    """The crowd covers anchors 1 to 3; the object at anchor 2 is kept."""
    classes, deltas = assigned(
        [[0, 10, 10, 40], [0, 20, 10, 30]], [0, 3], ignore=[True, False]
    )
    assert classes == [-1, -2, 3, -2]
    assert not deltas[[0, 1, 3]].any()


def test_an_anchor_half_inside_a_crowd_is_background():
    classes, _ = assigned([[0, 5, 10, 20]], [0], ignore=[True])
    assert classes == [-1, -2, -1, -1]


def test_a_crowd_smaller_than_every_anchor_ignores_its_best_one():
    """IoU of 0.16 with the third anchor, less than half of which it covers."""
    assert assigned([[0, 22, 4, 26]], [0], ignore=[True])[0] == [-1, -1, -2, -1]


def test_a_crowd_ignores_the_best_anchor_of_each_level_that_fits():
    """Levels of anchors of 10, 20 and 80 pixels."""
    grid = np.array(
        [
            *([0, 10 * k, 10, 10 * k + 10] for k in range(2)),
            *([0, 20 * k, 20, 20 * k + 20] for k in range(2)),
            [0, 0, 80, 80],
        ],
        np.float32,
    )
    # 4 x 13 pixels in the first row: 40 / 112 and 12 / 140 of the small anchors,
    # 52 / 400 of the first of the middle ones, 52 / 6400 of the large one.
    labels = labels_of([[0, 0, 4, 13]], [0], ignore=[True])
    levels = {"level_counts": (2, 2, 1)}
    classes = np.array(anchors.assign_targets(grid, labels, **levels)[0])[0].tolist()
    assert classes == [-2, -1, -1, -1, -1]
    # 13 x 13 pixels: 100 / 169, 30 / 239; 169 / 400, at least half of 100 / 169.
    labels = labels_of([[0, 0, 13, 13]], [0], ignore=[True])
    classes = np.array(anchors.assign_targets(grid, labels, **levels)[0])[0].tolist()
    assert classes == [-2, -1, -2, -1, -1]


def test_only_the_part_of_an_anchor_in_the_frame_has_to_lie_in_a_crowd():
    """A quarter of the anchor is in the frame; the crowd covers 64 % of that."""
    grid = np.array([[-5, -5, 5, 5], [0, 2, 4, 6]], np.float32)
    labels = labels_of([[0, 0, 4, 4]], [0], ignore=[True])
    for image_size, expected in ((None, [-1, -2]), ((8, 8), [-2, -2])):
        classes, _ = anchors.assign_targets(grid, labels, image_size=image_size)
        np.testing.assert_array_equal(classes, [expected])


@pytest.mark.parametrize(
    ("size", "count"),
    [
        # A square of 24 pixels around the center of a cell of P3, whose smallest
        # anchors have 32² pixels: 576 / 1024 with the square one, 480 / 1120 with the
        # next cell's; 543 / 1057 with those of 45 x 23 and of 23 x 45 pixels, also of
        # the cells beside it along their longer side.
        ((24, 24), 7),
        # 484 / 1024 with the square one: forced, below the threshold.
        ((22, 22), 1),
        ((6, 6), 1),
        # 9 x 120: at most 9 · 45 of 32 · 32 pixels.
        ((9, 120), 1),
        ((120, 9), 1),
        ((90, 5), 1),
        ((6, 200), 1),
    ],
)
def test_a_doubtful_box_ignores_what_it_would_match(size, count):
    grid = anchors.anchor_boxes((640, 640))
    half = np.array(size) / 2
    box = [*(324 - half), *(324 + half)]
    certain, _ = anchors.assign_targets(grid, labels_of([box], [0]))
    doubtful, deltas = anchors.assign_targets(
        grid, labels_of([box], [0], ignore=[True], scores=[0.3])
    )
    np.testing.assert_array_equal(
        np.array(doubtful), np.where(np.array(certain) == 0, -2, -1)
    )
    assert (np.array(certain) == 0).sum() == count
    assert not np.array(deltas).any()


@pytest.mark.parametrize("side", [64, 128, 300])
def test_a_large_doubtful_box_ignores_what_it_would_match(side):
    """Counted by another formula; the smaller anchors inside it stay background."""
    grid = anchors.anchor_boxes((640, 640))
    box = np.float64([324 - side / 2, 324 - side / 2, 324 + side / 2, 324 + side / 2])
    low, high = np.maximum(grid[:, :2], box[:2]), np.minimum(grid[:, 2:], box[2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(grid[:, 2:].astype(np.float64) - grid[:, :2], axis=1)
    matching = shared / (areas + side**2 - shared) >= 0.5
    assert matching.sum() >= 20 and not matching[areas < side**2 / 4].any()
    labels = labels_of([box], [0], ignore=[True], scores=[0.3])
    classes, _ = anchors.assign_targets(grid, labels)
    np.testing.assert_array_equal(classes, [np.where(matching, -2, -1)])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 200), st.floats(0, 200), st.floats(6, 300), st.floats(6, 300)
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0.5, 0.4]),
)
def test_doubtful_boxes_are_matched_like_certain_ones(corners, unmatched):
    grid = anchors.anchor_boxes((256, 256))
    objects = [[y, x, min(y + h, 256), min(x + w, 256)] for y, x, h, w in corners]
    numbers = range(len(objects))
    certain = labels_of(objects, numbers)
    doubtful = labels_of(objects, numbers, ignore=True, scores=0.49)
    expected = np.array(anchors.assign_targets(grid, certain, 0.5, unmatched)[0])
    got = np.array(anchors.assign_targets(grid, doubtful, 0.5, unmatched)[0])
    np.testing.assert_array_equal(got, np.where(expected == -1, -1, -2))


def test_a_certain_box_claims_an_anchor_from_a_doubtful_one():
    """The doubtful box has the higher IoU with the second anchor, 0.8 to 0.6."""
    labels = labels_of(
        [[0, 14, 10, 20], [0, 12, 10, 20], [0, 0, 10, 10]],
        [4, 5, 6],
        ignore=[False, True, True],
        scores=[1.0, 0.4, 0.4],
    )
    classes, _ = anchors.assign_targets(ROW, labels)
    np.testing.assert_array_equal(classes, [[-2, 4, -1, -1]])


def test_a_large_doubtful_box_leaves_the_small_anchors_inside_it_alone():
    """They would be background beside a certain box, too."""
    labels = labels_of([[0, 0, 10, 40]], [0], ignore=[True], scores=[0.4])
    classes, _ = anchors.assign_targets(ROW, labels)
    np.testing.assert_array_equal(classes, [[-2, -1, -1, -1]])  # its best: the first
    labels["scores"][:] = 1.0
    classes, _ = anchors.assign_targets(ROW, labels)
    np.testing.assert_array_equal(classes, [[-2, -2, -2, -2]])


def test_boxes_without_area_count_as_padding():
    assert assigned([[3, 3, 3, 9], [0, 0, 10, 0]], [1, 1])[0] == [-1] * 4
    assert assigned([[3, 3, 3, 9]], [1], ignore=[True])[0] == [-1] * 4
    assert assigned([], [])[0] == [-1] * 4


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 30), st.floats(0, 30), st.floats(1, 30), st.floats(1, 30)
        ),
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_padding_changes_nothing(corners, extra):
    grid = anchors.anchor_boxes((32, 32), 3, 4, 2.0)
    objects = np.array([[y, x, y + h, x + w] for y, x, h, w in corners], np.float32)
    plain = labels_of(objects, range(len(objects)))
    padded = labels_of(objects, range(len(objects)), slots=max(1, len(objects)) + extra)
    for a, b in zip(
        anchors.assign_targets(grid, plain),
        anchors.assign_targets(grid, padded),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    classes = np.array(anchors.assign_targets(grid, plain)[0])[0]
    if len(objects):
        # Every box has an anchor, or shares its best one with an earlier box.
        best = {int(np.argmax(row)) for row in np.array(boxes.iou(objects, grid))}
        assert all(classes[index] >= 0 for index in best)
    else:
        assert (classes == -1).all()
