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


def labels_of(actual, classes, ignore=None, slots=None):
    slots = slots or max(1, len(actual))
    padded = np.zeros((1, slots, 4), np.float32)
    padded_classes = np.full((1, slots), -1)
    padded_ignore = np.zeros((1, slots), bool)
    if len(actual):
        padded[0, : len(actual)] = actual
        padded_classes[0, : len(actual)] = classes
        padded_ignore[0, : len(actual)] = False if ignore is None else ignore
    return {"boxes": padded, "classes": padded_classes, "ignore": padded_ignore}


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
