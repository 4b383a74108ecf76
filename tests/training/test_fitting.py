"""Fitting: checkpoints, history, resuming, and stopping at a bad loss."""

import functools
import json
import os
import signal
import time
import types

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from toy_training import assert_equal_weights, fit, scenes, tiny_model, weights

from official_selftrain.data import examples, masks, sources
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.files.run_folder import StageFolder
from official_selftrain.models import RetinaNet, SemanticSegmenter, backbones
from official_selftrain.training import (
    Loss,
    Machine,
    Optimization,
    actions,
    fitting,
    history,
    schedules,
)


def test_fit_outputs(tmp_path):
    """5 steps with a row every 2: rows at 2, 4 and 5, with the schedule's rates."""
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


def test_interrupted_fit_equals_uninterrupted_fit(tmp_path, monkeypatch):
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
    add = fitting.history.History.add

    def count(self, terms):
        add(self, terms)
        steps.append(self.step)

    monkeypatch.setattr(fitting.history.History, "add", count)
    resumed = fit(tmp_path / "cut", steps=6, pseudo=scenes("unlabeled"))
    assert steps == [5, 6]
    assert_equal_weights(whole, resumed)
    rows = [fitting.read_history(str(tmp_path / name)) for name in ("whole", "cut")]
    assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]


def test_rewritten_row_counts_once(tmp_path):
    """This happens after a kill between a row and its checkpoint."""
    for row in ((2, 1.5), (4, 9.0), (6, 3.0), (4, 2.5)):
        path = str(tmp_path / "history.csv")
        history.append(path, dict(zip(("step", "seconds"), row)))
    assert fitting.read_history(str(tmp_path)) == [
        {"step": 2.0, "seconds": 1.5},
        {"step": 4.0, "seconds": 2.5},
    ]


def test_control_and_student_use_equal_images_per_step(tmp_path, monkeypatch):
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


def test_every_step_uses_its_own_learning_rate(tmp_path):
    """At rate 0 from step 1 on, weights stay those of step 0."""
    found = {}
    for steps in (1, 3):
        model = tiny_model()
        first = [np.array(v) for v in model.trainable_variables]
        fit(
            tmp_path / str(steps),
            steps=steps,
            model=model,
            optimizer=keras.optimizers.SGD,
            schedule=lambda steps: schedules.Stepwise(0.05, 0, 0.0, [[1, 0.0]]),
        )
        found[steps] = [np.array(v) for v in model.trainable_variables]
    assert not any(np.array_equal(a, b) for a, b in zip(first, found[1]))
    for one, three in zip(found[1], found[3]):
        np.testing.assert_array_equal(one, three)


def test_defaults_are_the_paper_s():
    """And no penalty, and classified images as they are."""
    assert Loss() == Loss(
        alpha=1.0,
        normalize=True,
        decay=0.9997,
        l2=0.0,
        l2_names=("kernel",),
        classification_weight=1.0,
    )


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision='float64'"):
        Machine(precision="float64")


def test_a_batch_that_cannot_be_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a multiple of 2 \(1 replicas.*batch_size=3"):
        fit(tmp_path, batch_size=3, accumulation=2)
    assert not list(tmp_path.iterdir())


def test_share_of_a_worker():
    context = types.SimpleNamespace(
        num_replicas_in_sync=6, num_input_pipelines=3, input_pipeline_id=2
    )
    share = fitting._share(context)
    assert (share.num_replicas, share.num_workers, share.worker) == (6, 3, 2)


def test_nonfinite_loss_stops_and_keeps_the_last_checkpoint(tmp_path):
    schedule = functools.partial(schedules.cosine, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"=(nan|inf).* at step [2-9]"):
        fit(tmp_path / "bad", steps=8, log_every=1, schedule=schedule)
    assert_finite_checkpoint(tmp_path / "bad")
    assert not (tmp_path / "bad" / "model.keras").exists()


def assert_finite_checkpoint(folder):
    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    for name, dtype in reader.get_variable_to_dtype_map().items():
        if dtype.is_floating:
            assert np.isfinite(reader.get_tensor(name)).all(), name


class BadGradient(RetinaNet):
    """The gradient of image 3's loss is NaN, the loss is finite."""

    def compute_losses(self, outputs, labels):
        losses = super().compute_losses(outputs, labels)
        bad = keras.ops.any(labels["ids"] == 3)

        @tf.custom_gradient
        def spoiled(loss):
            return tf.identity(loss), lambda gradient: tf.where(bad, np.nan, gradient)

        return {"loss": spoiled(losses["loss"])}


def test_nonfinite_gradient_stops_before_saving(tmp_path):
    model = BadGradient.from_config(tiny_model().get_config())
    with pytest.raises(ValueError, match="gradient_norm=nan") as error:
        fit(tmp_path / "teacher", steps=40, model=model, log_every=1)
    text = str(error.value)
    assert "a finite loss and gradient" in text and "labeled images" in text
    ids = text.split("labeled images ")[1].split(", ")
    assert "3" in ids and len(ids) == 2
    assert_finite_checkpoint(tmp_path / "teacher")


def test_unreadable_checkpoint_is_skipped(tmp_path, capsys):
    whole = fit(tmp_path / "teacher", steps=6)
    (tmp_path / "teacher" / "model.keras").unlink()
    for path in tmp_path.glob("teacher/checkpoints/ckpt-6.data*"):
        path.unlink()
    again = fit(tmp_path / "teacher", steps=6)
    assert "ckpt-6 can't be read" in capsys.readouterr().out
    assert_equal_weights(whole, again)
    for path in tmp_path.glob("teacher/checkpoints/ckpt-*.data*"):
        path.unlink()
    with pytest.raises(ValueError, match="Expected a checkpoint that can be read"):
        fit(tmp_path / "teacher", steps=6)


def test_sigterm_during_the_last_validation_ends_the_process(tmp_path):
    def validate(model):
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    with pytest.raises(SystemExit) as error:
        fit(tmp_path / "teacher", steps=2, validate=validate)
    assert error.value.code == 143
    assert (tmp_path / "teacher" / "model.keras").exists()


@pytest.mark.parametrize("name", ["optimizer", "schedule"])
def test_optimizer_and_schedule_must_be_functions(tmp_path, name):
    with pytest.raises(TypeError, match=f"a function. Received: {name}=None"):
        fit(tmp_path, **{name: None})


@pytest.mark.parametrize("value", [0, "many", 2.5])
@pytest.mark.parametrize("name", ["steps", "batch_size", "log_every", "max_boxes"])
def test_invalid_counts(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"at least 1. Received: {name}={value!r}"):
        fit(tmp_path, **{name: value})


def test_unlabeled_folder_as_pseudo_stream(tiny_coco, tmp_path):
    """Images without boxes give a finite loss."""
    pool = sources.folder(str(tiny_coco.unlabeled))
    fit(tmp_path / "student", steps=2, pseudo=pool)
    (row,) = fitting.read_history(str(tmp_path / "student"))
    assert np.isfinite(row["pseudo_loss"]) and row["pseudo_loss"] > 0


def test_scaled_batch_size_is_reported(tmp_path, capsys):
    """From 4 to 1 images: four times the steps, a quarter of the rate."""
    fit(tmp_path / "teacher", steps=2, batch_size=4, scaled_batch_size=1)
    said = "teacher: batch size 4 → 1, 2 → 8 steps, learning rate × 0.25"
    assert said in capsys.readouterr().out
    rows = fitting.read_history(str(tmp_path / "teacher"))
    assert [row["step"] for row in rows] == [2.0, 4.0, 6.0, 8.0]
    # A cosine from 0.01 over two steps, at its quarters.
    expected = [0.25 * 0.01 * 0.5 * (1 + np.cos(np.pi * t / 8)) for t in (2, 4, 6, 8)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected, abs=1e-8)
    summary = json.loads((tmp_path / "teacher" / "fit.json").read_text())
    assert summary["steps"] == 8 and summary["images"] == 8


def test_an_adaptive_optimizer_is_scaled_by_the_square_root(tmp_path, capsys):
    settings = {"steps": 2, "batch_size": 4, "scaled_batch_size": 1}
    fit(tmp_path / "teacher", optimizer=keras.optimizers.AdamW, **settings)
    assert "2 → 8 steps, learning rate × 0.5" in capsys.readouterr().out


def test_averages_reach_back_over_as_many_images_with_a_scaled_batch(monkeypatch):
    """From 4 to 1 images: the fourth root of the decays per step."""
    made = []
    monkeypatch.setattr(
        fitting, "WeightAverage", lambda model, decay: made.append(decay)
    )
    optimization = Optimization(
        8, 4, keras.optimizers.SGD, lambda steps: 0.1,
        ema_decay=0.9, scaled_batch_size=1,
    )  # fmt: skip
    loss = Loss(decay=0.99)
    settings = tiny_model(), None, loss, optimization, 0.1
    trainer, _ = fitting._trainer(*settings, builds=False)
    assert trainer.loss_averages.decay == pytest.approx(0.99**0.25)
    assert made == [pytest.approx(0.9**0.25)]


def test_boxes_beyond_the_limit_are_told(tmp_path, capsys):
    corners = np.float32([[0.0, 0.0, 0.5, 0.2 * k] for k in range(1, 4)])
    record = {"encoded": scene_png(), "boxes": corners, "classes": np.zeros(3)}
    records = [{**record, "id": 1}, {**record, "id": 2, "boxes": corners[:1],
                                     "classes": np.zeros(1)}]  # fmt: skip
    source = examples.from_records(records, ["a", "b"])
    fit(tmp_path / "teacher", steps=1, labeled=source, max_boxes=2)
    said = (
        "teacher: labeled: 1 of 2 images have more than max_boxes=2 boxes (up to 3): "
        "all but the largest are ignored"
    )
    assert capsys.readouterr().out.count(said) == 1
    fit(tmp_path / "all", steps=1, labeled=source)
    assert "max_boxes" not in capsys.readouterr().out


def scene_png():
    return tf.io.encode_png(np.full((32, 32, 3), 90, np.uint8)).numpy()


def test_a_checkpoint_of_other_settings_is_named(tmp_path):
    fit(tmp_path / "teacher", steps=2)
    os.remove(tmp_path / "teacher" / "model.keras")
    message = "a training with these settings. Received: .*ckpt-2: "
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "teacher", steps=4, normalizer="average")


def test_skipped_steps_do_not_count_for_the_average(tmp_path):
    """The loss times a scale of 3e38 overflows until the scale is small enough."""

    def optimizer(learning_rate):
        return keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(learning_rate), initial_scale=3e38
        )

    fit(tmp_path / "teacher", steps=8, ema_decay=0.9, optimizer=optimizer)
    path = tf.train.latest_checkpoint(str(tmp_path / "teacher" / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    counts = {
        name.split("/.ATT")[0]: int(reader.get_tensor(name))
        for name in reader.get_variable_to_shape_map()
        if "inner_optimizer/_iterations" in name or "average/updates" in name
    }
    steps, updates = counts.values()
    assert 0 < steps == updates < 8


def test_pixels_of_no_class_are_told(tmp_path, capsys):
    """Two classes; a mask with 5 pixels of value 7, and 3 declared unknown."""
    mask = np.zeros((128, 128), np.uint8)
    mask[0, :5], mask[1, :3] = 7, 255
    record = {"mask": masks.encode(mask), "id": 1}
    record["encoded"] = tf.io.encode_png(np.zeros((128, 128, 3), np.uint8)).numpy()
    source = examples.from_records([record], ["a", "b"])
    settings = {"labeled": source, "batch_size": 1, "augment": augment.fit}
    fit(tmp_path / "teacher", 2, tiny_segmenter(), **settings)
    said = "5 pixels of the batch's masks have a value that is no class"
    assert capsys.readouterr().err.count(said) == 1
    assert "unknown" not in (tmp_path / "teacher" / "history.csv").read_text()


def test_averaged_model_is_saved(tmp_path):
    model = fit(tmp_path / "teacher", steps=3, ema_decay=0.999)
    raw = keras.saving.load_model(tmp_path / "teacher" / "model.keras")
    average = keras.saving.load_model(tmp_path / "teacher" / "average.keras")
    assert_equal_weights(model, raw)
    differing = [
        not np.array_equal(a, b) for a, b in zip(weights(raw), weights(average))
    ]
    names = [w.path for w, d in zip(raw.weights, differing, strict=True) if d]
    assert any("moving_mean" in name for name in names)
    assert any("kernel" in name for name in names)


def test_validation_saves_the_best_model(tmp_path):
    values, seen = iter([3.0, 7.0, 5.0]), []
    folder = tmp_path / "teacher"

    def validate(model):
        seen.append(weights(model))
        return next(values)

    fit(folder, steps=6, validate=validate)
    best = weights(keras.saving.load_model(folder / "best.keras"))
    for value, second in zip(best, seen[1], strict=True):
        np.testing.assert_array_equal(value, second)
    assert any(not np.array_equal(a, b) for a, b in zip(best, seen[2]))
    assert history.read(str(folder / "validation.csv")) == [
        {"step": 2.0, "value": 3.0},
        {"step": 4.0, "value": 7.0},
        {"step": 6.0, "value": 5.0},
    ]
    with pytest.raises(ValueError, match="validate_every=3, log_every=2"):
        fit(tmp_path / "other", steps=6, validate=float, validate_every=3)
    # Also if a training is shorter than a row of the history.
    fit(tmp_path / "short", steps=1, validate=lambda model: 1.0, validate_every=4)
    assert (tmp_path / "short" / "best.keras").exists()


def test_five_checkpoints_are_kept(tmp_path):
    fit(tmp_path / "teacher", steps=7, log_every=1)
    kept = {path.stem for path in tmp_path.glob("teacher/checkpoints/*.index")}
    assert kept == {"ckpt-3", "ckpt-4", "ckpt-5", "ckpt-6", "ckpt-7"}


def test_error_lists_the_images_of_the_nonfinite_batch(tmp_path):
    """The pseudo stream's loss is made infinite at step 2."""

    class Bad(RetinaNet):
        def compute_losses(self, outputs, labels):
            losses = super().compute_losses(outputs, labels)
            bad = keras.ops.any(labels["ids"] == 3) & keras.ops.any(labels["ids"] == 2)
            return {"loss": keras.ops.where(bad, np.inf, losses["loss"])}

    model = Bad.from_config(tiny_model().get_config())
    with pytest.raises(ValueError, match="labeled images (2, 3|3, 2)") as error:
        fit(tmp_path / "teacher", steps=40, model=model, log_every=1)
    text = str(error.value)
    assert "labeled_loss=inf" in text and "the last checkpoint is kept" in text


def test_warning_for_an_empty_pseudo_stream(tiny_coco, tmp_path, capsys):
    pool = sources.folder(str(tiny_coco.unlabeled))
    fit(tmp_path / "student", steps=2, pseudo=pool)
    assert "Received: 100 % of the images without any" in capsys.readouterr().err


def told(folder, steps, done, *terms, log_every=4, suspend=False):
    """Add steps with the given terms to a history."""
    optimizer = keras.optimizers.SGD(0.1)
    log = history.History(StageFolder(folder), steps, done, 2, optimizer)
    with log:
        for number, of_step in enumerate(terms, done + 1):
            of_step = {"gradient_norm": 0.0, **of_step}
            log.add(actions.Step(number, steps, log_every, of_step, {}))
        if suspend:
            time.sleep(0.1)
            log.suspend()


def test_row_includes_the_steps_before_an_interruption(tmp_path):
    """Losses 1 and 2, an interruption, losses 6 and 7: the mean is 4."""
    told(tmp_path, 4, 0, {"loss": 1.0}, {"loss": 2.0}, suspend=True)
    told(tmp_path, 4, 2, {"loss": 6.0}, {"loss": 7.0})
    (row,) = fitting.read_history(str(tmp_path))
    assert (row["step"], row["loss"]) == (4.0, 4.0) and row["seconds"] >= 0.1
    # A checkpoint of another step doesn't continue the unfinished row.
    told(tmp_path, 6, 4, {"loss": 9.0}, log_every=1)
    assert fitting.read_history(str(tmp_path))[-1]["loss"] == 9.0


def test_warning_for_losses_of_different_scale(capsys, tmp_path):
    scales = (999.0, 1001.0, 2000.0)
    terms = [{"loss": 1.0, "pseudo_scale": scale} for scale in scales]
    told(tmp_path / "student", 4, 0, *terms, log_every=1)
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1 and "step 2" in said[0] and "1e+03" in said[0]


def test_tensorboard_scalars_and_images(tmp_path):
    fit(tmp_path / "student", steps=2, pseudo=scenes("unlabeled"), num_pictures=2)
    (path,) = tmp_path.glob("student/tensorboard/events*")
    found = {
        value.tag: tf.make_ndarray(value.tensor)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    row = fitting.read_history(str(tmp_path / "student"))[-1]
    for name in ("loss", "labeled_loss", "pseudo_loss", "pseudo_scale"):
        assert float(found[name]) == pytest.approx(row[name], rel=1e-6)
    assert float(found["learning_rate"]) == pytest.approx(row["learning_rate"])
    for stream in ("labeled", "pseudo"):
        width, height, png = found[stream][0], found[stream][1], found[stream][2]
        picture = tf.io.decode_png(png)
        assert picture.shape == (int(height), int(width), 3)
        assert len(np.unique(picture)) > 10
    assert {"images_per_second", "pseudo_empty"} <= set(found)


def test_float16_overflow_is_skipped(tmp_path, capsys):
    """A loss scale beyond float16's range makes the first gradients infinite."""
    model = half_precision_model("mixed_float16")
    before = weights(model)

    def optimizer(learning_rate):
        sgd = keras.optimizers.SGD(learning_rate)
        return keras.optimizers.LossScaleOptimizer(sgd, initial_scale=2.0**30)

    fit(tmp_path / "teacher", steps=30, model=model, optimizer=optimizer, log_every=1)
    rates = [r["learning_rate"] for r in fitting.read_history(tmp_path / "teacher")]
    assert 3 <= 30 - len(rates) <= 20  # skipped steps have no line
    # The schedule doesn't advance in skipped steps.
    assert rates[0] == pytest.approx(0.01 * 0.5 * (1 + np.cos(np.pi / 30)))
    assert "float16 overflowed" in capsys.readouterr().err
    assert all(np.isfinite(w).all() for w in weights(model))
    assert any(not np.array_equal(a, b) for a, b in zip(before, weights(model)))


def test_persistent_float16_overflow_stops(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = BadGradient.from_config(tiny_model().get_config())
    finally:
        keras.config.set_dtype_policy(before)
    labeled = scenes("labeled", 4)  # ids 0 to 3, all in a batch of four
    with pytest.raises(ValueError, match="gradient_norm=nan.* at step 21 "):
        fit(tmp_path, steps=40, model=model, labeled=labeled, batch_size=4)


def half_precision_model(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return tiny_model()
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.process
@pytest.mark.parametrize("has_masks", [False, True], ids=["boxes", "masks"])
def test_step_compiles_with_xla(tmp_path, has_masks):
    """TPUs require this; the losses equal those of the uncompiled step."""
    plain, compiled = processes.apart(histories, tmp_path, has_masks)
    assert len(plain) == 2
    for expected, row in zip(plain, compiled, strict=True):
        for name in ("loss", "labeled_loss", "pseudo_loss", "pseudo_scale"):
            assert row[name] == pytest.approx(expected[name], rel=1e-3), name


def histories(folder, has_masks):
    """Return the histories of a training, without XLA and with it."""
    size = (128, 128) if has_masks else (32, 32)
    pools = [
        digits.scenes(
            pool, 6, 0, size, num_classes=2, max_digits=1, has_masks=has_masks
        )
        for pool in ("labeled", "unlabeled")
    ]
    rows = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        fit(
            folder / str(jit_compile),
            steps=2,
            model=tiny_segmenter() if has_masks else tiny_model(16),
            labeled=pools[0],
            pseudo=pools[1],
            log_every=1,
            l2=1e-3,
            accumulation=2,
            ema_decay=0.9,
            jit_compile=jit_compile,
        )
        rows.append(fitting.read_history(str(folder / str(jit_compile))))
    return rows


def tiny_segmenter():
    return SemanticSegmenter(
        num_classes=3,
        image_size=(128, 128),
        backbone=backbones.resnet(50, blocks=(1, 1, 1, 1), filters=(16, 16, 16, 16)),
        num_filters=16,
        num_repeats=1,
    )


def test_validation_settings_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="validate=None, validate_every=4"):
        fit(tmp_path, validate_every=4)


def test_a_model_of_another_precision_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="precision, mixed_bfloat16.* of precision float32"
    ):
        fit(tmp_path, precision="mixed_bfloat16")
