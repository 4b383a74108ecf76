"""Fitting: checkpoints, history, resuming, and stopping at a bad loss."""

import functools
import json
import os

import keras
import numpy as np
import pytest

from official_selftrain import fitting, schedules, training_log
from official_selftrain.data import augment, digits, sources
from official_selftrain.models import RetinaNet, backbones


def tiny_model():
    keras.utils.set_random_seed(0)
    return RetinaNet(
        num_classes=2,
        image_size=(32, 32),
        backbone=backbones.resnet(50, blocks=(1, 1), filters=(4, 4)),
        min_level=3,
        max_level=3,
        num_filters=8,
        num_head_convs=1,
        anchor_size=2.0,
        max_detections=5,
    )


def scenes(pool, count=6):
    return digits.scenes(pool, count, 0, (32, 32), num_classes=2, max_digits=1)


def fit(output_dir, steps=4, model=None, **kwargs):
    settings = {
        "batch_size": 2,
        "optimizer": functools.partial(keras.optimizers.SGD, momentum=0.9),
        "schedule": functools.partial(schedules.cosine, learning_rate=0.01),
        "augment": functools.partial(augment.flip_and_jitter, flip_probability=0.0),
        "log_every": 2,
        "max_boxes": 4,
        "num_pictures": 0,
        "labeled": scenes("labeled"),
        "pseudo": None,
        **kwargs,
    }
    return fitting.fit(
        model or tiny_model(), output_dir=str(output_dir), steps=steps, **settings
    )


def weights(model):
    return [w.numpy() for w in model.weights]


def assert_equal_weights(a, b):
    for x, y in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_a_fit_leaves(tmp_path):
    """5 steps with a line every 2: rows at 2, 4 and 5, the schedule's rates."""
    model = fit(tmp_path / "teacher", steps=5)
    rows = fitting.read_history(str(tmp_path / "teacher"))
    assert [row["step"] for row in rows] == [2.0, 4.0, 5.0]
    expected = [0.01 * 0.5 * (1 + np.cos(np.pi * step / 5)) for step in (2, 4, 5)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected, abs=1e-8)
    assert all(row["loss"] == row["labeled_loss"] for row in rows)
    summary = json.loads((tmp_path / "teacher" / "fit.json").read_text())
    assert summary["steps"] == 5
    assert summary["images"] == 10
    assert summary["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    loaded = keras.saving.load_model(tmp_path / "teacher" / "model.keras")
    assert_equal_weights(model, loaded)
    assert list((tmp_path / "teacher" / "tensorboard").rglob("events*"))


def test_an_interrupted_fit_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", steps=6, pseudo=scenes("unlabeled"))

    save = fitting.tf.train.CheckpointManager.save

    def save_and_die(self, checkpoint_number):
        save(self, checkpoint_number=checkpoint_number)
        if checkpoint_number == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting.tf.train.CheckpointManager, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", steps=6, pseudo=scenes("unlabeled"))
    assert not os.path.exists(tmp_path / "cut" / "model.keras")
    monkeypatch.undo()

    steps = []
    add = fitting.training_log.TrainingLog.add

    def count(self, terms):
        add(self, terms)
        steps.append(self.step)

    monkeypatch.setattr(fitting.training_log.TrainingLog, "add", count)
    resumed = fit(tmp_path / "cut", steps=6, pseudo=scenes("unlabeled"))
    assert steps == [5, 6]
    assert_equal_weights(whole, resumed)
    rows = [fitting.read_history(str(tmp_path / name)) for name in ("whole", "cut")]
    assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]


def test_a_row_that_is_written_again_counts_once(tmp_path):
    """As after a kill between a row and its checkpoint."""
    for row in ((2, 1.5), (4, 9.0), (6, 3.0), (4, 2.5)):
        path = str(tmp_path / "history.csv")
        training_log.append(path, dict(zip(("step", "seconds"), row)))
    assert fitting.read_history(str(tmp_path)) == [
        {"step": 2.0, "seconds": 1.5},
        {"step": 4.0, "seconds": 2.5},
    ]


def test_the_control_sees_as_many_images_a_step_as_the_student(tmp_path, monkeypatch):
    seen = {}

    def spy(name):
        batches = fitting.pipeline.training_batches

        def record(source, size, *args, **kwargs):
            dataset = batches(source, size, *args, **kwargs)
            seen.setdefault(name, []).append((source.num_images, size))
            return dataset

        return record

    for name, extra in (
        ("teacher", {}),
        ("student", {"pseudo": scenes("unlabeled", 7)}),
        ("control", {"fill_with_labeled": True}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(fitting.pipeline, "training_batches", spy(name))
            fit(tmp_path / name, steps=1, **extra)
    assert seen == {
        "teacher": [(6, 2)],
        "student": [(6, 2), (7, 2)],
        "control": [(6, 4)],
    }
    images = {
        name: json.loads((tmp_path / name / "fit.json").read_text())["images"]
        for name in seen
    }
    assert images == {"teacher": 2, "student": 4, "control": 4}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    schedule = functools.partial(schedules.cosine, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"loss=(nan|inf).* at step [2-9]"):
        fit(tmp_path / "bad", steps=8, log_every=1, schedule=schedule)
    assert (tmp_path / "bad" / "checkpoints" / "checkpoint").exists()
    assert not (tmp_path / "bad" / "model.keras").exists()


@pytest.mark.parametrize("name", ["optimizer", "schedule"])
def test_what_must_be_a_function(tmp_path, name):
    with pytest.raises(TypeError, match=f"a function. Received: {name}=None"):
        fit(tmp_path, **{name: None})


@pytest.mark.parametrize("value", [0, "many", 2.5])
@pytest.mark.parametrize("name", ["steps", "batch_size", "log_every", "max_boxes"])
def test_counts_that_are_none(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"at least 1. Received: {name}={value!r}"):
        fit(tmp_path, **{name: value})


def test_folder_of_images_can_be_the_pseudo_stream(tiny_coco, tmp_path):
    """Images without any box give a finite loss in their stream."""
    pool = sources.folder(str(tiny_coco.unlabeled))
    fit(tmp_path / "student", steps=2, pseudo=pool)
    (row,) = fitting.read_history(str(tmp_path / "student"))
    assert np.isfinite(row["pseudo_loss"]) and row["pseudo_loss"] > 0
