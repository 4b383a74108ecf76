"""Actions beside the loop, each alone."""

import os
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy_training import tiny_model

from official_selftrain.files.run_folder import StageFolder
from official_selftrain.training import actions, history


def step(
    number, loss=1.0, steps=20, log_every=4, batch=None, is_stopped=False, **terms
):
    terms = {"loss": loss, "gradient_norm": 1.0, "labeled_loss": loss, **terms}
    return actions.Step(number, steps, log_every, terms, batch or {}, is_stopped)


def trainer_with(optimizer):
    return types.SimpleNamespace(optimizer=optimizer, model=None)


def log_of(folder, writes=True):
    """Return what actions ask of a history, and what they told it."""
    told = types.SimpleNamespace(scalars=[], suspended=0)
    told.writes, told.folder = writes, StageFolder(folder)
    log = types.SimpleNamespace(**vars(told))
    log.scalars = told.scalars.append
    log.told = told
    log.suspend = lambda: setattr(told, "suspended", told.suspended + 1)
    return log


def test_steps_know_when_rows_end():
    """18 steps with a row every 4: at 4, 8, 12, 16 and with the last."""
    ends = [n for n in range(1, 19) if step(n, steps=18).ends_row]
    assert ends == [4, 8, 12, 16, 18]
    terms = {"loss": tf.constant(2.0), "stop": tf.constant(1.0)}
    made = actions.Step.of(3, 3, 100, terms, {})
    assert made.terms == {"loss": 2.0} and made.is_stopped
    assert made.log_every == 3 and made.ends_row and made.is_last


def test_a_step_is_finite_if_loss_and_gradient_are():
    assert step(1).is_finite
    assert not step(1, loss=float("nan")).is_finite
    assert not step(1, gradient_norm=float("inf")).is_finite


def test_a_loss_that_is_not_finite_names_its_stream_and_images(tmp_path):
    check = actions.FiniteCheck(
        trainer_with(keras.optimizers.SGD()),
        tf.distribute.get_strategy(),
        StageFolder(tmp_path / "student"),
    )
    check(step(1))
    batch = {
        "labeled": {"ids": tf.constant([1, 2])},
        "pseudo": {"ids": tf.constant([7, 8])},
    }
    bad = step(2, float("inf"), batch=batch, labeled_loss=1.0, pseudo_loss=float("inf"))
    with pytest.raises(
        ValueError, match=r"loss=inf.* at step 2 of .*; pseudo images 7"
    ):
        check(bad)


def test_float16_may_skip_twenty_steps_in_a_row(tmp_path):
    check = actions.FiniteCheck(
        trainer_with(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())),
        tf.distribute.get_strategy(),
        StageFolder(tmp_path),
    )
    batch = {"labeled": {"ids": tf.constant([1])}}
    for number in range(20):
        check(step(number, float("nan"), batch=batch))
    check(step(20))  # a good one in between
    for number in range(20):
        check(step(number, float("nan"), batch=batch))
    with pytest.raises(ValueError, match="a finite loss and gradient"):
        check(step(20, float("nan"), batch=batch))


def test_validation_keeps_the_best_model(tmp_path):
    """1, 3 and 2: the best is the model of the second one."""
    model, values = tiny_model(), iter([1.0, 3.0, 2.0])
    bias = model.trainable_weights[-1]

    def validate(_):
        bias.assign(np.full(bias.shape, calls[-1], np.float32))
        return next(values)

    log, calls = log_of(tmp_path), []
    action = actions.Validation(model, validate, 8, log)
    for number in (4, 8, 12, 16, 20):
        calls.append(number)
        action(step(number))
    rows = history.read(log.folder.validation)
    assert rows == [
        {"step": 8.0, "value": 1.0},
        {"step": 16.0, "value": 3.0},
        {"step": 20.0, "value": 2.0},
    ]
    assert log.told.scalars == [{"validation": value} for value in (1.0, 3.0, 2.0)]
    best = keras.saving.load_model(log.folder.best)
    assert float(best.trainable_weights[-1][0]) == 16.0


@pytest.mark.parametrize(
    ("validate", "every", "writes"),
    [(None, 4, True), (None, None, True), (float, 4, False)],
)
def test_no_validation_where_none_is_asked_for(tmp_path, validate, every, writes):
    actions.Validation(None, validate, every, log_of(tmp_path, writes))(step(4))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("writes", "expected"), [(True, [4, 6, 20]), (False, [])])
def test_checkpoints_at_rows_and_before_a_stop(tmp_path, writes, expected):
    saved = []
    kept = types.SimpleNamespace(save=saved.append)
    action = actions.Saving(kept, log_of(tmp_path, writes))
    for number, is_stopped in ((1, False), (4, False), (6, True), (20, False)):
        action(step(number, is_stopped=is_stopped))
    assert saved == expected


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_heard_and_ends_after_a_step_that_tells_all(tmp_path, number, code):
    number = getattr(signal, number)
    before = signal.getsignal(number)
    log = log_of(tmp_path)
    with actions.Preemption(log) as preemption:
        assert float(preemption.wish()) == 0.0
        os.kill(os.getpid(), number)
        assert float(preemption.wish()) == 1.0
        preemption(step(1))  # the workers haven't agreed yet
        with pytest.raises(SystemExit) as ended:
            preemption(step(2, is_stopped=True))
    assert ended.value.code == code
    assert log.told.suspended == 1
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    with actions.Preemption(log_of(tmp_path)) as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_at_the_last_step_lets_the_training_finish(tmp_path):
    preemption = actions.Preemption(log_of(tmp_path))
    preemption(step(20, is_stopped=True))
    assert preemption.code == 143
