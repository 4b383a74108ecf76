"""Boxes in NumPy: values by hand, and compared with those of tensors."""

import hypothesis
import numpy as np
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from official_selftrain.geometry import array_boxes, boxes


def test_overlap_by_hand():
    a = np.array([[0, 0, 4, 2], [0, 0, -1, 5], [1, 1, 1, 3]])
    b = np.array([[2, 1, 6, 4], [0, 0, 4, 2], [9, 9, 10, 10], [4, 0, 8, 2]])
    np.testing.assert_array_equal(array_boxes.area(a), [8, 0, 0])
    shared = [[2, 8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(array_boxes.intersection(a, b), shared)
    # 2 / (8 + 12 - 2); the same box; apart; touching.
    np.testing.assert_array_equal(array_boxes.iou(a, b)[0], [2 / 18, 1, 0, 0])
    np.testing.assert_array_equal(array_boxes.iou(a[1:], b), np.zeros((2, 4)))
    assert array_boxes.iou(a, b[:0]).shape == (3, 0)
    assert array_boxes.iou(a.astype(np.float32), b).dtype == np.float64
    assert array_boxes.iou(*map(np.float32, (a, b))).dtype == np.float32


@strategies.composite
def any_boxes(draw):
    """Draw float32 boxes, some of them halves of others or without area."""
    # On few places, so that edges meet; or anywhere, in 64ths of a pixel.
    coarse = strategies.integers(-2, 6).map(float)
    fine = strategies.integers(-6400, 64000).map(lambda place: place / 64)
    drawn = draw(
        arrays.arrays(
            np.float32,
            strategies.tuples(strategies.integers(0, 5), strategies.just(4)),
            elements=draw(strategies.sampled_from((coarse, fine))),
        )
    )
    if draw(strategies.booleans()):  # valid ones, and others nested in them
        drawn = np.concatenate(
            [
                np.minimum(drawn[:, :2], drawn[:, 2:]),
                np.maximum(drawn[:, :2], drawn[:, 2:]),
            ],
            axis=1,
        )
        inner = drawn.copy()
        inner[:, 2:] = (drawn[:, :2] + drawn[:, 2:]) / 2
        drawn = np.concatenate([drawn, inner])
    return drawn


@hypothesis.given(any_boxes(), any_boxes())
@hypothesis.settings(deadline=None)
def test_arrays_match_tensors(a, b):
    others = np.concatenate([b, a])
    for name in ("intersection", "iou"):
        of_arrays = getattr(array_boxes, name)(a, others)
        of_tensors = getattr(boxes, name)(a, others)
        np.testing.assert_allclose(of_arrays, of_tensors, rtol=1e-6)
    np.testing.assert_allclose(array_boxes.area(a), boxes.area(a), rtol=1e-6)
    assert np.all((of_arrays >= 0) & (of_arrays <= 1 + 1e-6))
    has_area = array_boxes.area(a) > 0
    itself = array_boxes.iou(a, a).diagonal()
    np.testing.assert_allclose(itself, np.where(has_area, 1.0, 0.0), rtol=1e-6)
