"""The cosine schedule, by hand and against the authors' arrays."""

import pathlib

import keras
import numpy as np
import pytest

from official_selftrain.training import schedules

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "learning_rates.npz")


@pytest.mark.parametrize(("name", "rate"), [("pascal_b7", 0.08), ("pascal_l2", 0.2)])
def test_cosine_matches_the_authors_schedule(name, rate):
    schedule = schedules.cosine(20000, rate, 500, 0.001)
    got = [float(schedule(step)) for step in GOLDEN[f"{name}_cosine_steps"]]
    np.testing.assert_allclose(got, GOLDEN[f"{name}_cosine"], rtol=1e-5, atol=1e-8)


def test_cosine_by_hand():
    schedule = schedules.cosine(300, 0.32, 100, 0.0032)
    rates = [float(schedule(step)) for step in (0, 50, 100, 200, 300)]
    # Start, middle of the warm-up, peak, middle of the decay, end.
    np.testing.assert_allclose(rates, [0.0032, 0.1616, 0.32, 0.16, 0], atol=1e-7)
    without = schedules.cosine(100, 1.0)
    assert [float(without(step)) for step in (0, 100)] == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("warmup", [-1, 100])
def test_invalid_warmup(warmup):
    with pytest.raises(ValueError, match=f"warmup_steps={warmup}, steps=100"):
        schedules.cosine(100, 0.1, warmup)


def test_stepwise_by_hand():
    schedule = schedules.stepwise(100, 0.2, 10, 0.1, drops=((0.5, 0.1), (0.8, 0.01)))
    steps = (0, 5, 9, 10, 49, 50, 79, 80, 200)
    expected = (0.1, 0.15, 0.19, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002)
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-5)
    again = type(schedule).from_config(schedule.get_config())
    np.testing.assert_allclose([again(step) for step in steps], expected, rtol=1e-5)
    assert float(schedules.stepwise(100, 0.3)(0)) == pytest.approx(0.3)
    with pytest.raises(
        ValueError, match="below steps. Received: warmup_steps=9, steps=9"
    ):
        schedules.stepwise(9, 0.1, 9)
    with pytest.raises(
        ValueError, match=r"drops in order.*drops=\(\(0.9, 0.1\), \(0.5"
    ):
        schedules.stepwise(9, 0.1, drops=((0.9, 0.1), (0.5, 0.01)))


def test_scaled_schedules_are_the_same_per_image():
    """A quarter of the batch: a quarter of the rate, four times the steps."""
    old = schedules.cosine(100, 0.8, warmup_steps=20, warmup_learning_rate=0.1)
    new = schedules.batch_scaling(old, 0.25)
    # In the middle of the warm-up and of the cosine.
    assert float(new(40)) == pytest.approx(0.25 * 0.45, rel=1e-5)
    assert float(new(4 * 60)) == pytest.approx(0.25 * 0.4, rel=1e-5)
    assert schedules.batch_scaling(0.5, 0.25) == 0.125
    # With the square root: half the rate.
    root = schedules.batch_scaling(old, 0.25, is_adaptive=True)
    assert float(root(4 * 60)) == pytest.approx(0.5 * 0.4, rel=1e-5)
    assert schedules.batch_scaling(0.5, 0.25, is_adaptive=True) == 0.25
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(new)
    )
    assert float(again(240)) == float(new(240))
