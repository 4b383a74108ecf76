"""Boxes: by hand, and compared with the authors' coder and TensorFlow's NMS."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.geometry import boxes, suppression

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def array(*rows):
    return np.array(rows, np.float32)


def test_area_and_overlap_by_hand():
    a = array([0, 0, 4, 2], [0, 0, -1, 5], [1, 1, 1, 3])
    b = array([2, 1, 6, 4], [0, 0, 4, 2], [9, 9, 10, 10])
    np.testing.assert_allclose(boxes.area(a), [8, 0, 0])
    np.testing.assert_allclose(
        boxes.intersection(a, b), [[2, 8, 0], [0, 0, 0], [0, 0, 0]]
    )
    # 2 / (8 + 12 - 2); the same box; apart.
    np.testing.assert_allclose(boxes.iou(a, b)[0], [2 / 18, 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(boxes.iou(a[1:], b), np.zeros((2, 3)))
    np.testing.assert_allclose(boxes.coverage(a, b)[0], [0.25, 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(boxes.coverage(a[1:], b), np.zeros((2, 3)))


def test_gradients_of_iou_are_finite():
    """By hand: 2 w / (8 + 2 w - 2 w); nothing for boxes without area or overlap."""
    own = tf.constant(
        [[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0], [8.0, 8.0, 9.0, 9.0]]
    )
    with tf.GradientTape() as tape:
        tape.watch(own)
        overlaps = boxes.iou(own, array([0, 0, 2, 4], [1, 1, 1, 1]))
    np.testing.assert_allclose(overlaps, [[0.75, 0], [0, 0], [0, 0]])
    gradients = tape.gradient(overlaps, own).numpy()
    assert np.isfinite(gradients).all()
    np.testing.assert_allclose(gradients[0, 3], 0.25)
    np.testing.assert_array_equal(gradients[1:], np.zeros((2, 4)))


def test_batches_of_boxes():
    a = np.stack([array([0, 0, 2, 2]), array([0, 0, 4, 4])])
    b = np.stack([array([0, 0, 2, 1]), array([2, 2, 4, 4])])
    np.testing.assert_allclose(boxes.iou(a, b), [[[0.5]], [[0.25]]])


def test_batches_equal_their_members():
    """As many images as boxes, so that a wrong axis gives wrong values."""
    a, b = np.stack(
        [random_boxes(seed, 11)[0][3:].reshape(2, 4, 4) for seed in range(4)], axis=1
    )
    calls = [boxes.intersection, boxes.iou, boxes.coverage, boxes.encode, boxes.decode]
    for call in calls:
        got = np.array(call(a, b))
        for row, one, other in zip(got, a, b):
            np.testing.assert_allclose(row, call(one, other), rtol=1e-5, atol=1e-5)
    assert np.ptp(boxes.coverage(a, b)) > 0.1


def test_take_by_hand():
    two = np.stack([array([1, 2, 3, 4], [5, 6, 7, 8]), array([0, 0, 1, 1], [9] * 4)])
    got = boxes.take(two, np.array([[1, 0, 1], [0, 0, 1]]))
    np.testing.assert_array_equal(
        got,
        [
            [[5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8]],
            [[0, 0, 1, 1], [0, 0, 1, 1], [9, 9, 9, 9]],
        ],
    )


def test_clip_by_hand():
    got = boxes.clip(array([-1, 2, 30, 50])[None], np.array([[20, 40]]))
    np.testing.assert_array_equal(got, [[[0, 2, 20, 40]]])
    one_size = boxes.clip(array([-1, 2, 30, 50])[None], np.array([20, 40]))
    np.testing.assert_array_equal(one_size, got)
    half = boxes.clip(np.float16(got), np.array([20, 40], np.float32))
    np.testing.assert_array_equal(half, got)
    assert half.dtype == tf.float16


def test_coding_by_hand():
    """Anchor of height 4 and width 2 at (2, 1); box of 8 x 2 at (4, 2)."""
    anchor, box = array([0, 0, 4, 2]), array([0, 1, 8, 3])
    code = boxes.encode(box, anchor)
    np.testing.assert_allclose(code, [[0.5, 0.5, np.log(2), 0]], atol=1e-6)
    np.testing.assert_allclose(boxes.decode(code, anchor), box, atol=1e-5)


def test_code_of_an_anchor_without_area():
    """1e-8 is added: the anchor and a box of 2 x 2, one pixel away."""
    anchor = array([3, 3, 3, 3])
    np.testing.assert_array_equal(boxes.encode(anchor, anchor), [[0, 0, 0, 0]])
    code = boxes.encode(array([3, 3, 5, 5]), anchor)
    expected = [[1e8, 1e8, np.log(2e8), np.log(2e8)]]
    np.testing.assert_allclose(code, expected, rtol=1e-6)


def test_decoded_size_is_capped():
    anchor = array([0, 0, 16, 16])
    got = boxes.decode(array([0, 0, 10, 10]), anchor)
    # exp(log(1000 / 16)) · 16 = 1000, around 8.
    np.testing.assert_allclose(got, [[-492, -492, 508, 508]], rtol=1e-5)


def test_coding_matches_the_authors():
    golden = np.load(GOLDEN / "boxcoder.npz")
    code = boxes.encode(golden["boxes"], golden["anchors"])
    np.testing.assert_allclose(code, golden["encode_target"], rtol=1e-5, atol=1e-5)
    # Their decoder takes the last pixel as part of a box: anchors are one pixel
    # larger, and one is taken off the result.
    one = np.array([0, 0, 1, 1], np.float32)
    got = boxes.decode(golden["codes"], golden["anchors"] + one) - one
    np.testing.assert_allclose(got, golden["decode"], rtol=1e-5, atol=1e-3)
    # Their clip leaves out the last pixel.
    clipped = boxes.clip(got, golden["clip_image_shape"] - 1)
    np.testing.assert_allclose(clipped, golden["decode_clipped"], atol=1e-4)
    got = boxes.decode(code, golden["anchors"] + one) - one
    np.testing.assert_allclose(
        got, golden["decode_of_encode_target"], rtol=1e-5, atol=1e-3
    )
    back = boxes.decode(code, golden["anchors"])
    np.testing.assert_allclose(back, golden["boxes"], rtol=1e-5, atol=1e-3)
    # Boxes without area have finite codes.
    code = boxes.encode(np.zeros_like(golden["boxes"]), golden["anchors"])
    np.testing.assert_allclose(
        code, golden["encode_target_degenerate"], rtol=1e-5, atol=1e-5
    )


def random_boxes(seed, count):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 40, (count, 2))], axis=1)
    boxes[:3, 2:] = boxes[:3, :2]  # without area
    return boxes.astype(np.float32), rng.uniform(0, 1, count).astype(np.float32)


@pytest.mark.parametrize("soft_sigma", [0.0, 0.3])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_suppression_matches_tensorflow(soft_sigma, jit_compile):
    data = [random_boxes(seed, 80) for seed in range(2)]
    batch_boxes = np.stack([b for b, _ in data])
    batch_scores = np.stack([s for _, s in data])

    @tf.function(jit_compile=jit_compile)
    def suppress(b, s):
        return suppression.non_max_suppression(b, s, 40, 0.4, soft_sigma, 0.1)

    picked, scores = (np.array(x) for x in suppress(batch_boxes, batch_scores))
    assert np.isin(picked[scores > 0], [0, 1, 2]).any()  # some without area
    for row, (b, s) in enumerate(data):
        # With a sigma, TensorFlow suppresses softly and not by the threshold.
        expected, expected_scores = tf.image.non_max_suppression_with_scores(
            b, s, 40, 1.0 if soft_sigma else 0.4, 0.1, soft_sigma
        )
        count = len(expected)
        assert 10 < count
        np.testing.assert_array_equal(picked[row, :count], expected)
        np.testing.assert_allclose(scores[row, :count], expected_scores, rtol=1e-5)
        assert (scores[row, count:] == 0).all()


def test_suppression_by_hand():
    """Three boxes: the second overlaps the first by 2/3, the third not at all."""
    b = array([0, 0, 4, 5], [0, 0, 4, 3.3333], [0, 6, 4, 9])[None]
    s = array([0.9, 0.8, 0.3])
    picked, scores = suppression.non_max_suppression(b, s, 4, 0.5)
    np.testing.assert_array_equal(np.array(picked)[0, :2], [0, 2])
    np.testing.assert_allclose(scores, [[0.9, 0.3, 0, 0]])
    _, scores = suppression.non_max_suppression(b, s, 3, soft_sigma=0.5)
    decayed = 0.8 * np.exp(-((2 / 3) ** 2) / (2 * 0.5))
    np.testing.assert_allclose(scores, [[0.9, decayed, 0.3]], rtol=1e-4)


def test_suppression_at_its_thresholds():
    """A box with an IoU at the threshold is kept; a score at the threshold isn't."""
    b = array([0, 0, 2, 2], [0, 0, 2, 1], [5, 5, 6, 6])[None]
    s = array([0.9, 0.8, 0.5])
    picked, scores = suppression.non_max_suppression(b, s, 3, 0.5, score_threshold=0.5)
    np.testing.assert_array_equal(np.array(picked)[0, :2], [0, 1])
    np.testing.assert_allclose(scores, [[0.9, 0.8, 0]])


def test_defaults_of_suppression():
    """An IoU above 0.5 suppresses, a score up to 0.05 isn't selected."""
    b = array([0, 0, 4, 4], [0, 0, 4, 2.1], [0, 0, 4, 1.9], [9, 9, 10, 10], [20] * 4)
    s = array([0.9, 0.8, 0.7, 0.06, 0.04])
    picked, scores = suppression.non_max_suppression(b[None], s, 4)
    np.testing.assert_array_equal(np.array(picked)[0, :3], [0, 2, 3])
    np.testing.assert_array_equal(scores, array([0.9, 0.7, 0.06, 0]))


def test_suppression_of_one_candidate():
    """Unused slots are 0, although its score is above 1."""
    b = array([0, 0, 2, 2])[None]
    picked, scores = suppression.non_max_suppression(b, array([2.5]), 3)
    np.testing.assert_array_equal(picked, [[0, 0, 0]])
    np.testing.assert_array_equal(scores, array([2.5, 0, 0]))


@pytest.mark.parametrize("soft_sigma", [0.0, 0.3])
def test_more_slots_than_candidates(soft_sigma):
    """Disjoint boxes are all selected once, including one without area."""
    b = array([0, 0, 2, 2], [4, 4, 4, 4], [6, 6, 8, 8])[None]
    s = array([0.3, 0.9, 0.6])
    picked, scores = suppression.non_max_suppression(b, s, 7, soft_sigma=soft_sigma)
    np.testing.assert_array_equal(np.array(picked)[0, :3], [1, 2, 0])
    np.testing.assert_allclose(scores, [[0.9, 0.6, 0.3, 0, 0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("soft_sigma", [0.0, 0.3])
def test_suppression_is_the_same_under_xla(soft_sigma):
    def suppress(b, s):
        return suppression.non_max_suppression(b, s, 40, 0.4, soft_sigma)

    b, s = random_boxes(2, 80)
    plain = suppress(b[None], s[None])
    compiled = tf.function(suppress, jit_compile=True)(b[None], s[None])
    np.testing.assert_array_equal(plain[0], compiled[0])
    np.testing.assert_allclose(plain[1], compiled[1], rtol=1e-6)
