"""The moving average of the weights: its formula, what it covers, its use."""

import keras
import numpy as np
import pytest

from official_selftrain.training.weight_average import WeightAverage


def small_model():
    inputs = keras.Input((2,))
    outputs = keras.layers.BatchNormalization()(keras.layers.Dense(1)(inputs))
    return keras.Model(inputs, outputs)


def test_two_updates_by_hand():
    """Decays min(0.15, 2/11) = 0.15 and min(0.15, 3/12) = 0.15 of 1, 5, 9."""
    model = small_model()
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    average = WeightAverage(model, 0.15)
    for value in (5.0, 9.0):
        for weight in model.weights:
            weight.assign(np.full(weight.shape, value))
        average.update()
    first = 0.15 * 1.0 + 0.85 * 5.0
    expected = 0.15 * first + 0.85 * 9.0
    assert len(average.averages) == 6  # moving mean and variance too
    for value in average.averages:
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_initial_weights_fade_quickly():
    """For any decay, the first update keeps 2/11 of the initial weights."""
    model = small_model()
    for weight in model.weights:
        weight.assign(np.ones(weight.shape))
    average = WeightAverage(model, 0.9999)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    average.update()
    np.testing.assert_allclose(average.averages[0], 2.0 / 11.0, rtol=1e-6)


def test_averages_are_used_temporarily():
    model = small_model()
    before = model.get_weights()
    average = WeightAverage(model, 0.5)
    for value in average.averages:
        value.assign_add(np.ones(value.shape, np.float32))
    with average.in_use():
        for a, b in zip(model.get_weights(), before):
            np.testing.assert_allclose(a, b + 1.0)
    for a, b in zip(model.get_weights(), before):
        np.testing.assert_array_equal(a, b)


def test_zero_decay_follows_the_weights():
    model = small_model()
    average = WeightAverage(model, 0)
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 3.0))
    average.update()
    np.testing.assert_array_equal(average.averages[0], np.full((2, 1), 3.0))


@pytest.mark.parametrize("decay", [1.0, -0.1, "slow"])
def test_invalid_decays(decay):
    with pytest.raises(ValueError, match=f"Received: ema_decay={decay!r}"):
        WeightAverage(small_model(), decay)
