"""Stops in every stage: signals, a full disk, a folder that can't be written.

What is done is kept, one line tells the reason, and the experiment ends as an
undisturbed one.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess

import bound
import keras
import numpy as np
import pytest
from absl import flags

from official_selftrain import experiment
from official_selftrain.cli import command_line
from official_selftrain.experiment import results
from official_selftrain.labeling import label_store
from official_selftrain.training import history

SETTINGS = ("TEACHER_STEPS = 6", "STUDENT_STEPS = 6")
STAGES = experiment.STAGES


@pytest.fixture(scope="module", autouse=True)
def parsed_flags():
    """The command line prints no traceback, as by default."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def call(model_dir, stages=STAGES):
    """Run the experiment as the command does; return the exit code."""
    return command_line.exit_code(
        "train",
        ["train"],
        lambda: bound.run_tiny(model_dir, *SETTINGS, stages=stages) and None,
    )


def outcome(model_dir):
    """Return what an experiment made: weights, labels and metrics."""
    found = {}
    for name in ("teacher", "student", "control"):
        model = keras.saving.load_model(model_dir / name / "model.keras")
        weights = b"".join(np.asarray(w).tobytes() for w in model.get_weights())
        found[name] = hashlib.sha256(weights).hexdigest()
        rows = (model_dir / name / "history.csv").read_text().splitlines()
        found[f"{name} rows"] = [row.split(",")[0] for row in rows]
    for path in sorted((model_dir / "pseudo_labels").iterdir()):
        if path.suffix == ".tfrecord":
            found[path.name] = path.read_bytes()
    manifest = json.loads((model_dir / "pseudo_labels" / "manifest.json").read_text())
    # Keras numbers layers of the same kind in a process.
    found["manifest"] = {k: v for k, v in manifest.items() if k != "settings"}
    content = json.loads((model_dir / "results.json").read_text())
    for name in ("teacher", "student", "control"):
        found[f"{name} AP"] = content[name]["AP50"]
    return {**found, "quality": content["pseudo_labels"]}


def leftovers(model_dir):
    return [p for p in model_dir.rglob("*") if "partial" in p.name or "temp" in p.name]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert call(model_dir) == 0
    return outcome(model_dir)


# How each stage is stopped, and what is told. A training hears it one step later.
_CONTINUE = "Run the same command again to continue."
_SAVED = f"stopped at step 4 of 6, saved. {_CONTINUE}"
STOPS = {
    "teacher": (signal.SIGINT, 130, f"teacher: {_SAVED}"),
    "pseudo_labels": (signal.SIGTERM, 143, f"train: Terminated. {_CONTINUE}"),
    "student": (signal.SIGTERM, 143, f"student: {_SAVED}"),
    "control": (signal.SIGINT, 130, f"control: {_SAVED}"),
    "evaluation": (signal.SIGINT, 130, f"train: Interrupted. {_CONTINUE}"),
}


def send_in(monkeypatch, stage, number):
    """Send this process a signal in the middle of a stage."""

    def patch(owner, name, is_due):
        function = getattr(owner, name)

        def patched(*args, **kwargs):
            if is_due(*args, *kwargs.values()):
                os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, patched)

    if stage == "pseudo_labels":  # its second shard
        patch(label_store, "_write_shard", lambda base, *_: "00001-of" in base)
    elif stage == "evaluation":  # the second of three models
        path = "student"
        patch(results, "evaluate_model", lambda *args: args[-1] == path)
    else:
        patch(
            history.History,
            "add",
            lambda log, step: log.folder.name == stage and step.number == 3,
        )


def test_signals_in_every_stage(undisturbed, tmp_path, capsys, monkeypatch):
    for stage, (number, code, line) in STOPS.items():
        with monkeypatch.context() as patched:
            send_in(patched, stage, number)
            capsys.readouterr()
            assert call(tmp_path / "run") == code, stage
        assert capsys.readouterr().err == line + "\n", stage
        assert leftovers(tmp_path / "run") == [], stage
    assert call(tmp_path / "run") == 0
    assert outcome(tmp_path / "run") == undisturbed


@contextlib.contextmanager
def small_files(size):
    """Let every file end after some bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Files of a stage that are larger than those of the plan, and their stage's limits.
FULL = {
    "teacher": (40_000, "teacher/checkpoints/ckpt-2"),
    "pseudo_labels": (7_000, "pseudo_labels/pseudo-00000-of-00003.tfrecord"),
    "student": (40_000, "student/checkpoints/ckpt-2"),
    "control": (40_000, "control/checkpoints/ckpt-2"),
    "evaluation": (40_000, "report.html"),
}


def test_a_full_disk_in_every_stage(undisturbed, tmp_path, capsys):
    model_dir = tmp_path / "run"
    for stage, (size, path) in FULL.items():
        capsys.readouterr()
        with small_files(size):
            assert call(model_dir, [stage]) == 1, stage
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("train: ") and f"{model_dir}/{path}" in line, line
        assert "File too large" in line
        assert leftovers(model_dir) == [], stage
        assert call(model_dir, [stage]) == 0
    assert outcome(model_dir) == undisturbed


@contextlib.contextmanager
def read_only(folder):
    """Make a folder read-only, also for the superuser."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    mount = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("the superuser can write everywhere, and may not mount")
    try:
        again = ["mount", "-o", "remount,ro,bind", str(folder)]
        if subprocess.run(again, capture_output=True, check=False).returncode:
            pytest.skip("the superuser can write everywhere, and may not remount")
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_in_every_stage(undisturbed, tmp_path, capsys):
    """Nothing is written; the stage runs as soon as the folder is writable."""
    model_dir = tmp_path / "run"
    model_dir.mkdir()
    for stage in STAGES:
        capsys.readouterr()
        with read_only(model_dir):
            before = sorted(model_dir.rglob("*"))
            assert call(model_dir, [stage]) == 1, stage
            assert sorted(model_dir.rglob("*")) == before
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("train: ") and str(model_dir) in line, line
        assert call(model_dir, [stage]) == 0
    assert outcome(model_dir) == undisturbed


def test_a_folder_that_vanishes(undisturbed, tmp_path, capsys, monkeypatch):
    """Of a training: one line; the next call begins it again."""
    model_dir = tmp_path / "run"
    add = history.History.add

    def vanish(log, step):
        if step.number == 3:
            os.rename(model_dir / "teacher", tmp_path / "gone")
        add(log, step)

    with monkeypatch.context() as patched:
        patched.setattr(history.History, "add", vanish)
        assert call(model_dir, ["teacher"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: ") and f"{model_dir}/teacher" in line
    assert call(model_dir) == 0
    assert outcome(model_dir) == undisturbed
