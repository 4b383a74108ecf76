"""A training that is killed, or told to stop, ends as if nothing had happened."""

import os
import random
import re
import signal
import time

import numpy as np
import processes
import pytest
import tensorflow as tf

pytestmark = pytest.mark.process

SETTINGS = ["steps=24", "log_every=1", "dropout=0.3", "ema_decay=0.9"]
SETTINGS += ["normalizer='average'"]


def start(folder):
    return processes.start("tests/fit_under.py", "one_device", folder, *SETTINGS)


def finish(folder):
    done = start(folder).finish(300)
    assert done.returncode == 0, done.stderr[-3000:]


def last_step(folder):
    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    return int(path.rsplit("-", 1)[1]) if path else 0


def assert_bit_identical(folder, expected):
    paths = [
        tf.train.latest_checkpoint(str(f / "checkpoints")) for f in (folder, expected)
    ]
    found, whole = [tf.train.load_checkpoint(path) for path in paths]
    names = [n for n in whole.get_variable_to_shape_map() if "VARIABLE_VALUE" in n]
    assert any("seeds" in name for name in names)
    for name in names:
        np.testing.assert_array_equal(
            found.get_tensor(name), whole.get_tensor(name), err_msg=name
        )
    rows = [
        [line.split(",")[2:] for line in (f / "history.csv").read_text().splitlines()]
        for f in (folder, expected)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 25


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return folder


@pytest.mark.parametrize(
    "kills", [2, pytest.param(10, marks=pytest.mark.slow)], ids=["two", "ten"]
)
def test_result_is_the_same_after_random_kills(kills, uninterrupted, tmp_path):
    """Every other kill happens while a checkpoint is written."""
    draw = random.Random(kills)
    killed, writing = 0, 0
    while killed < kills and not (tmp_path / "model.keras").exists():
        process, begun = start(tmp_path), last_step(tmp_path)
        while last_step(tmp_path) <= begun and process.is_running:
            time.sleep(0.01)
        deadline = time.monotonic() + draw.uniform(0.0, 0.15)
        while process.is_running:
            names = os.listdir(tmp_path / "checkpoints")
            is_writing = any("temp" in name for name in names)
            if is_writing if killed % 2 else time.monotonic() > deadline:
                break
        if process.is_running:
            process.send(signal.SIGKILL)
        process.finish()
        killed += 1
        writing += any("temp" in name for name in os.listdir(tmp_path / "checkpoints"))
    assert killed == kills
    assert writing > 0 or kills < 10  # a single write may end before its kill
    finish(tmp_path)
    assert_bit_identical(tmp_path, uninterrupted)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_and_a_rerun_continues(uninterrupted, tmp_path, number, code):
    process = start(tmp_path)
    while last_step(tmp_path) < 3 and process.is_running:
        time.sleep(0.01)
    process.send(getattr(signal, number))
    done = process.finish(120)
    assert done.returncode == code
    line = (
        r"\w+: stopped at step \d+ of 24, saved. Run the same command again to .*\.\n"
    )
    assert re.fullmatch(line, done.stderr)
    assert 3 <= last_step(tmp_path) < 24
    assert not (tmp_path / "model.keras").exists()
    finish(tmp_path)
    assert_bit_identical(tmp_path, uninterrupted)
