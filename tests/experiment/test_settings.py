"""Groups of settings check themselves when they are made."""

import dataclasses

import keras
import pytest

from official_selftrain.experiment import Data, Experiment, Labeling, Teaching
from official_selftrain.training import Loss, Machine, Monitoring, Optimization

DATA = {"labeled": list, "unlabeled": list, "validation": list, "image_size": (64, 64)}
FIT = {
    "steps": 10,
    "batch_size": 4,
    "optimizer": keras.optimizers.SGD,
    "schedule": lambda steps: 0.1,
}


@pytest.mark.parametrize(
    ("group", "settings", "text"),
    [
        (Data, {**DATA, "image_size": 64}, "image_size=64"),
        (Data, {**DATA, "image_size": (64, 64, 3)}, r"image_size=\(64, 64, 3\)"),
        (Data, {**DATA, "image_size": (64, -3)}, r"image_size=\(64, -3\)"),
        (Data, {**DATA, "max_boxes": 0}, "max_boxes=0"),
        (Data, {**DATA, "validate_every": 0}, "validate_every=0"),
        (Labeling, {"batch_size": 0}, "batch_size=0"),
        (Labeling, {"shard_size": 1.5}, "shard_size=1.5"),
        (Labeling, {"scales": (1.0, -1.0)}, r"scales=\(1.0, -1.0\)"),
        (Teaching, {"rounds": 0}, "rounds=0"),
        (Teaching, {"max_empty_share": 7}, "max_empty_share=7"),
        (Teaching, {"control": "no"}, "control='no'"),
        (Teaching, {"score_threshold": 1.5}, "1.5"),
        (Teaching, {"ignore_threshold": 0.6}, "0.6"),
        (Teaching, {"student_init": "scratch"}, "student_init='scratch'"),
        (Machine, {"precision": "float16"}, "precision='float16'"),
        (Loss, {"alpha": -1.0}, "alpha=-1.0"),
        (Loss, {"alpha": float("nan")}, "alpha=nan"),
        (Loss, {"l2": "much"}, "l2='much'"),
        (Loss, {"decay": 1.5}, "decay=1.5"),
        (Loss, {"classification_weight": -0.5}, "classification_weight=-0.5"),
        (Monitoring, {"log_every": 0}, "log_every=0"),
        (Monitoring, {"num_pictures": -1}, "num_pictures=-1"),
        (Optimization, {**FIT, "steps": 0}, "steps=0"),
        (Optimization, {**FIT, "accumulation": True}, "accumulation=True"),
        (Optimization, {**FIT, "scaled_batch_size": 0}, "scaled_batch_size=0"),
        (Optimization, {**FIT, "ema_decay": 5}, "ema_decay=5"),
    ],
)
def test_settings_out_of_range(group, settings, text):
    with pytest.raises(ValueError, match=f"Expected .* Received: .*{text}"):
        group(**settings)


def test_an_optimizer_must_be_a_function():
    with pytest.raises(
        TypeError, match="Expected optimizer, a function. Received: .*sgd"
    ):
        Optimization(**{**FIT, "optimizer": "sgd"})


def test_a_seed_is_not_negative():
    parts = {"model": list, "teacher": list, "student": list}
    with pytest.raises(ValueError, match="seed of at least 0. Received: seed=-1"):
        Experiment(Data(**DATA), **parts, seed=-1)


def test_an_experiment_needs_its_groups_and_functions():
    parts = {"model": list, "teacher": list, "student": list}
    with pytest.raises(TypeError, match=r"data, a Data: .* with parentheses"):
        Experiment(Data, **parts)
    with pytest.raises(TypeError, match="Expected teacher, a function. .*teacher=3"):
        Experiment(Data(**DATA), **{**parts, "teacher": 3})


def test_groups_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Loss().alpha = 2.0


def test_a_scaled_batch_takes_more_steps_at_a_lower_rate(capsys):
    """A quarter of the batch: four times the steps at a quarter of the rate."""
    optimization = Optimization(**{**FIT, "batch_size": 8, "scaled_batch_size": 2})
    assert optimization.scaled("teacher") == (40, 2, 0.1 / 4)
    assert "teacher: batch size 8 → 2, 10 → 40 steps" in capsys.readouterr().out
    assert Optimization(**FIT).scaled("teacher") == (10, 4, 0.1)


def test_compiling_needs_one_replica():
    import types

    machine = Machine(
        strategy=lambda: types.SimpleNamespace(num_replicas_in_sync=2), jit_compile=True
    )
    with pytest.raises(ValueError, match="one replica for jit_compile. .* 2 replicas"):
        machine.open()
