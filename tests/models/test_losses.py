"""Element-wise losses, by hand and compared with the authors' arrays."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.models import losses

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "losses.npz")


def golden(kind, level):
    return GOLDEN[f"in/{kind}/{level}"]


def one_hot(classes):
    """The authors' class 0 is the background; -1 and -2 are not classes."""
    return (
        np.eye(5, dtype=np.float32)[np.maximum(classes, 0)] * (classes >= 0)[..., None]
    )


def test_focal_loss_by_hand():
    # p = 1/2: 0.25 · 0.5^1.5 · ln 2 for a positive, 0.75 · … for a negative.
    got = losses.focal_loss(np.float32([1, 0]), np.float32([0, 0]))
    half = 0.5**1.5 * np.log(2)
    np.testing.assert_allclose(got, [0.25 * half, 0.75 * half], rtol=1e-6)
    # p = 0.9: a positive misses by 0.1.
    logit = np.float32([np.log(9)])
    got = losses.focal_loss(np.float32([1]), logit, alpha=0.5, gamma=2.0)
    np.testing.assert_allclose(got, [0.5 * 0.1**2 * -np.log(0.9)], rtol=1e-5)


def test_gamma_zero_gives_weighted_cross_entropy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20).astype(np.float32)
    targets = (rng.uniform(size=20) < 0.5).astype(np.float32)
    expected = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    got = losses.focal_loss(targets, logits, alpha=0.5, gamma=0.0)
    np.testing.assert_allclose(got, 0.5 * expected, rtol=1e-5)


def test_huber_loss_by_hand():
    got = losses.huber_loss(np.float32([0.0, 0.05, -0.1, 0.3, -2.0]))
    np.testing.assert_allclose(
        got, [0, 0.00125, 0.005, 0.1 * 0.3 - 0.005, 0.1 * 2 - 0.005], rtol=1e-5
    )
    # Just beyond the bend, and the bend elsewhere.
    got = losses.huber_loss(np.float32([0.12, -0.15]))
    np.testing.assert_allclose(got, [0.007, 0.01], rtol=1e-5)
    got = losses.huber_loss(np.float32([0.15, -3.0]), delta=1.0)
    np.testing.assert_allclose(got, [0.01125, 2.5], rtol=1e-5)


@pytest.mark.parametrize(("gamma", "key"), [(1.5, "g15"), (2.0, "g20")])
def test_focal_loss_matches_the_authors(gamma, key):
    logits = golden("cls", 4).reshape(2, 4, 4, 9, 5)
    targets = one_hot(golden("clst", 4))
    got = losses.focal_loss(targets, logits, 0.25, gamma)
    # Theirs is divided by a normalizer that their file leaves at one.
    expected = GOLDEN[f"out/focal_elem_{key}_level4"].reshape(got.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


def test_focal_gradient_matches_the_authors():
    logits = tf.constant(golden("cls", 4).reshape(2, 4, 4, 9, 5))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(losses.focal_loss(one_hot(golden("clst", 4)), logits))
    gradient = tape.gradient(total, logits).numpy()
    expected = GOLDEN["out/focal_grad_g15_level4"].reshape(gradient.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_extreme_logits_stay_finite(gamma, target):
    logits = tf.constant([-1e4, -100.0, 0.0, 100.0, 1e4])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.focal_loss(tf.fill(5, target), logits, gamma=gamma)
    assert np.isfinite(loss).all()
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all()
    # Sure and wrong: the weighted logit; sure and right: nothing.
    wrong, weight = ([0, 1], 0.25) if target else ([3, 4], 0.75)
    right = [4, 3] if target else [1, 0]
    size = np.abs(logits.numpy()[wrong])
    np.testing.assert_allclose(loss.numpy()[wrong], weight * size, rtol=1e-6)
    np.testing.assert_allclose(np.abs(gradient[wrong]), weight, rtol=1e-6)
    np.testing.assert_allclose(loss.numpy()[right], 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient[right], 0.0, atol=1e-6)


def test_terms_are_multiplied_by_their_image_weight():
    terms = np.float32([[[1, 2]], [[3, 4]]])
    found = losses.weighted(terms, {"sample_weights": np.array([2, 0])})
    np.testing.assert_array_equal(found, [[[2, 4]], [[0, 0]]])
    assert losses.weighted(terms, {}) is terms
    with pytest.raises(ValueError, match=r"each image. Received: shape=\(2, 1\)$"):
        losses.weighted(terms, {"sample_weights": np.ones((2, 1))})
