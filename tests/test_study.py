"""Studies: the table by hand, sharing, divergence, continuing."""

import csv
import fcntl
import json
import os
import pathlib
import time

import gin
import keras
import numpy as np
import processes
import pytest
from PIL import Image

from official_selftrain.cli import gin_files, study_plan
from official_selftrain.experiment import studies

ROOT = pathlib.Path(__file__).parent.parent
TINY = ROOT / "tests" / "tiny.gin"


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def cell(value, text="", seconds=36.0):
    costs = {
        f"{stage}_{cost}": None
        for stage in ("teacher", "student", "control")
        for cost in ("steps", "images", "seconds")
    }
    costs |= {"teacher_seconds": 30.0, "labelling_seconds": 6.0, "seconds": seconds}
    return {"AP": value, "status": "done", "text": text, **costs}


def test_the_table_by_hand():
    """Rows 10, 14 and 11, 17: 12 ± 2.83, 14 ± 4.24 and a mean gain of 2.

    Costs: self-training takes 90 / 30, 45 / 30 and 60 / 30 of the teacher's seconds;
    the cell that has no teacher to compare with isn't counted.
    """
    rows = {"Rand": ("teacher",), "self-training": ("student",)}
    plan = studies.grid("x.gin", rows, {"S1": (), "S2": ()}, (0, 1), title="Table")
    nan = "NaN at step 7"
    found = {
        ("Rand", "S1", 0): cell(10.0, seconds=30.0),
        ("Rand", "S1", 1): cell(14.0, seconds=30.0),
        ("self-training", "S1", 0): cell(11.0, seconds=90.0),
        ("self-training", "S1", 1): cell(17.0, seconds=45.0),
        ("Rand", "S2", 0): cell(None, nan, seconds=None),
        ("Rand", "S2", 1): cell(None, nan, seconds=30.0),
        ("self-training", "S2", 0): cell(20.0, seconds=900.0),
        ("self-training", "S2", 1): cell(None, nan, seconds=60.0),
    }
    lines = studies.table(plan, found).splitlines()
    assert lines[:6] == [
        "Table (AP, 2 seeds)",
        "",
        "| | S1 | S2 |",
        "|---|---|---|",
        "| Rand | 12.0 ± 2.8 | NaN at step 7 |",
        "| self-training | 14.0 ± 4.2 (+2.0) | 20.0; 1 of 2: NaN at step 7 |",
    ]
    assert lines[-4].endswith("| control seconds | seconds | times Rand |")
    assert lines[-2] == "| Rand |  |  | 30 | 6 |  |  |  |  |  |  | 30 | 1.00 |"
    # (900 + 90 + 45 + 60) / 4 = 273.75 s.
    expected = "| self-training |  |  | 30 | 6 |  |  |  |  |  |  | 274 | 2.17 |"
    assert lines[-1] == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"rows": {"a": ("techer",)}}, "nearest: teacher.*stage='techer'"),
        ({"seeds": ()}, r"rows, columns and seeds.*seeds=\(\)"),
        ({"columns": {}}, r"columns=\{\}"),
        ({"rows": {"a": "teacher"}}, r"rows\['a'\], a tuple .* Received: 'teacher'"),
        ({"columns": {"b": "X = 1"}}, r"columns\['b'\], a tuple .* Received: 'X = 1'"),
        ({"seeds": 3}, "seeds, a tuple .* Received: 3"),
        ({"settings": "X = 1"}, "settings, a tuple .* Received: 'X = 1'"),
        ({"columns": {"b": ("C = '{pretraining}'",)}}, "Received: pretraining=None"),
    ],
)
def test_invalid_grids(arguments, text):
    grid = {"experiment": "x.gin", "rows": {"a": ("teacher",)}, "columns": {"b": ()}}
    with pytest.raises((ValueError, TypeError), match=text):
        studies.grid(**{**grid, **arguments})


@pytest.mark.parametrize(
    ("param", "is_same"),
    [
        ("ALPHA = 7.0", True),
        ("STUDENT_STEPS = 9", True),
        ("SCORE_THRESHOLD = 0.3", True),
        ("student/training.Loss.normalize = False", True),
        ("student/schedules.cosine.learning_rate = 2.0", True),
        ('experiment.Teaching.student_init = "random"', True),
        ("SEED = 1", False),
        ("TEACHER_STEPS = 9", False),
        ("schedules.cosine.learning_rate = 2.0", False),
        ("unlabeled/digits.scenes.num_images = 9", False),
        ("retinanet.RetinaNet.num_filters = 16", False),
        ("experiment.Labeling.batch_size = 2", False),
    ],
)
def test_settings_that_affect_a_teacher(param, is_same):
    found = []
    for params in ([], [param]):
        gin.clear_config()
        gin_files.load_config([str(TINY)], params)
        found.append(gin_files.teacher_settings())
    assert (found[0] == found[1]) is is_same


STUDY = """
from __gin__ import dynamic_registration

from official_selftrain.experiment import studies

studies.grid.title = "Tiny"
studies.grid.experiment = "{experiment}"
studies.grid.settings = (
    "experiment.Teaching.control = False", "TEACHER_STEPS = 4", "STUDENT_STEPS = 4",
)
studies.grid.rows = {{
    "teacher": ("teacher",),
    "self-training": ("student", "other.gin"),
}}
studies.grid.columns = {{
    "small": ("ALPHA = 1.0",),
    "large": ("student/schedules.cosine.learning_rate = 1e30",),
}}
"""


def call(path, model_dir, *flags):
    """Run a study to its end."""
    settings = (f"--gin_file={path}", f"--model_dir={model_dir}", *flags)
    return processes.call("study", *settings)


@pytest.mark.process
def test_killed_study_continues(tmp_path):
    path, model_dir = tmp_path / "study.gin", tmp_path / "study"
    path.write_text(STUDY.format(experiment=os.path.relpath(TINY, tmp_path)))
    (tmp_path / "other.gin").write_text("SCORE_THRESHOLD = 0.005\n")
    flags = (f"--gin_file={path}", f"--model_dir={model_dir}")
    process = processes.start("study", *flags)
    process.kill_when(lambda: list(model_dir.glob("teachers/*/outcome.json")))
    teachers = list(model_dir.glob("teachers/*"))
    assert len(teachers) == 1  # all four cells share it
    made = (teachers[0] / "teacher" / "model.keras").stat().st_mtime_ns
    # Remaining processes of the killed study may still lock its folder.
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        done = call(path, model_dir, "--jobs=2")
        if "no other process is using" not in done.stderr:
            break
        assert done.returncode == 1
        time.sleep(1.0)
    assert done.returncode == 0, done.stderr
    assert (teachers[0] / "teacher" / "model.keras").stat().st_mtime_ns == made
    runs = sorted(model_dir.glob("runs/*/*"))
    assert len(runs) == 2
    assert all((run / "teacher").is_symlink() for run in runs)
    rows = {
        (row["row"], row["column"]): row
        for row in csv.DictReader((model_dir / "study.csv").read_text().splitlines())
    }
    large = rows["self-training", "large"]
    assert (large["status"], large["AP"]) == ("diverged", "")
    assert large["text"] in ("NaN at step 2", "NaN at step 3")
    small = rows["self-training", "small"]
    assert small["status"] == "done" and 0.0 <= float(small["AP"]) <= 100.0
    assert [small[f"teacher_{k}"] for k in ("steps", "images")] == ["4", "16"]
    assert [small[f"student_{k}"] for k in ("steps", "images")] == ["4", "32"]
    assert float(small["labelling_seconds"]) > 0.0
    parts = ("teacher_seconds", "labelling_seconds", "student_seconds")
    assert float(small["seconds"]) == pytest.approx(sum(float(small[k]) for k in parts))
    alone = rows["teacher", "small"]
    assert alone["seconds"] == alone["teacher_seconds"] and not alone["student_steps"]
    assert small["student_AP"] == small["AP"] and small["teacher_AP"] == alone["AP"]
    # The results of a diverged cell.
    assert (large["seconds"], large["teacher_AP"]) == ("", alone["AP"])
    assert large["text"] in done.stdout and done.stdout.startswith("study: ")
    assert len(np.unique(np.asarray(Image.open(model_dir / "study.png")))) > 10
    # Another study, with different students, order and one more teacher, shares the
    # teacher and its labels.
    other = path.with_name("other_students.gin")
    text = path.read_text().replace("STUDENT_STEPS = 4", "STUDENT_STEPS = 5")
    rows = text.index("studies.grid.rows")
    other.write_text(
        text[:rows]
        + """studies.grid.rows = {
    "strict": ("student", "SCORE_THRESHOLD = 0.99"),
    "teacher": ("teacher",),
    "control": ("control", "ALPHA = 1e38", "student/training.Loss.normalize = False"),
    "died": ("student", "ALPHA = 1e38", "student/training.Loss.normalize = False",
        "SCORE_THRESHOLD = 0.005"),
}
studies.grid.columns = {"all": ()}
"""
    )
    done = call(other, model_dir, "--gin_param=BATCH_SIZE = 4")
    assert done.returncode == 1 and ": teacher" not in done.stdout, done.stderr
    assert (teachers[0] / "teacher" / "model.keras").stat().st_mtime_ns == made
    found = csv.DictReader((model_dir / "other_students.csv").read_text().splitlines())
    found = {row["row"]: row for row in found}
    # A threshold without labels fails only the student.
    assert found["strict"]["status"] == "failed"
    assert found["strict"]["text"].startswith("train: Expected pseudo-labels with a sc")
    assert found["teacher"]["AP"] == alone["AP"]
    # A diverged student doesn't affect its control.
    assert found["died"]["status"] == "diverged"
    assert found["control"]["status"] == "done" and found["control"]["AP"] != ""
    assert found["control"]["control_steps"] == "5"
    parts = ("teacher_seconds", "control_seconds")
    expected = sum(float(found["control"][k]) for k in parts)
    assert float(found["control"]["seconds"]) == pytest.approx(expected)
    # Nothing left to do.
    stamps = {run: (run / "outcome.json").stat().st_mtime_ns for run in runs}
    with open(model_dir / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = call(path, model_dir)
        assert done.returncode == 1 and "no other process is using" in done.stderr
    done = call(path, model_dir)
    assert done.returncode == 0 and "study: " not in done.stdout, done.stderr
    assert stamps == {run: (run / "outcome.json").stat().st_mtime_ns for run in runs}


FOUND = {"images": 8, "classes": ["a"], "sha256": "x"}
OTHER = {**FOUND, "images": 9, "sha256": "y"}


@pytest.fixture
def grid_folder(tmp_path):
    """Two finished cells, a student and its control, as a study leaves them."""
    teacher, run = tmp_path / "teachers" / "t", tmp_path / "runs" / "t" / "r"

    def write(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def record(**sources):
        return {"settings": {}, "sources": sources, "weights": {}}

    for folder, stages in ((teacher, ["teacher"]), (run, ["student", "control"])):
        for stage in stages:
            write(folder / stage / "origin.json", record(labeled=FOUND))
            measured = record(validation=FOUND)
            write(folder / stage / "metrics_origin.json", measured)
        done = {stage: {"status": "done", "text": ""} for stage in stages}
        write(folder / "outcome.json", done)
        write(folder / "results.json", {})
    settings = {"teacher": {}, "source": FOUND}
    write(teacher / "pseudo_labels" / "settings.json", settings)
    outcomes = json.loads((teacher / "outcome.json").read_text())
    outcomes["labels"] = {"status": "done", "text": ""}
    write(teacher / "outcome.json", outcomes)

    def settle(restart=None, keep=False, **changed):
        names = ("labeled", "unlabeled", "validation")
        sources = {**dict.fromkeys(names, FOUND), **changed}
        cells = [
            {
                **{"row": stage, "column": "all", "seed": 0, "stage": stage},
                **{"teacher_dir": str(teacher), "run_dir": str(run)},
                "sources": lambda: sources,
            }
            for stage in ("student", "control")
        ]
        studies._settle(cells, restart, keep)
        left = {**studies.read_outcomes(teacher), **studies.read_outcomes(run)}
        folders = ("teacher", "pseudo_labels"), ("student", "control")
        moved = {
            name
            for folder, stages in zip((teacher, run), folders)
            for name in stages
            if not (folder / name).exists()
        }
        return set(left), moved

    return settle


EVERY = {"teacher", "labels", "student", "control"}


def test_equal_data_keeps_every_cell(grid_folder):
    assert grid_folder() == (EVERY, set())


def test_changed_data_is_refused_kept_or_made_again(grid_folder):
    text = r"student, all, seed 0: teacher was made. Received: labeled: 1 image more"
    for restart in (None, "student"):
        with pytest.raises(ValueError, match=text + ".*--restart=teacher"):
            grid_folder(restart, labeled=OTHER)
    assert grid_folder(keep=True, labeled=OTHER) == (EVERY, set())
    moved = {"teacher", "pseudo_labels", "student", "control"}
    assert grid_folder("teacher", labeled=OTHER) == (set(), moved)


def test_other_unlabeled_images_leave_teacher_and_control(grid_folder):
    with pytest.raises(ValueError, match="pseudo_labels was made.*unlabeled: 1 image"):
        grid_folder(unlabeled=OTHER)
    found = grid_folder("pseudo_labels", unlabeled=OTHER)
    assert found == ({"teacher", "control"}, {"pseudo_labels", "student"})


def test_other_validation_images_are_evaluated_again(grid_folder):
    assert grid_folder(validation=OTHER) == ({"labels"}, set())


@pytest.mark.process
def test_command_line_settings_apply_to_every_cell(tmp_path):
    path = tmp_path / "study.gin"
    path.write_text(STUDY.format(experiment=os.path.relpath(TINY, tmp_path)))
    (tmp_path / "other.gin").write_text("")
    done = call(path, tmp_path / "study", "--gin_param=TEECHER_STEPS = 2")
    assert done.returncode == 1
    text = "a macro that is used (nearest: TEACHER_STEPS). Received: TEECHER"
    assert text in done.stderr
    gin.clear_config()
    gin.parse_config_files_and_bindings([str(path)], [])
    plan = studies.grid(**gin.get_bindings("studies.grid"))
    params = ["TEACHER_STEPS = 2", "SEED = 7"]
    for cell in study_plan.cells(plan, str(tmp_path), "runs", None, params):
        assert cell["command"][-2:] == [f"--gin_param={line}" for line in params]


@pytest.mark.process
def test_failed_cell_is_reported(tmp_path):
    path = tmp_path / "study.gin"
    text = STUDY.format(experiment=os.path.relpath(TINY, tmp_path))
    path.write_text(text.replace("TEACHER_STEPS = 4", "BATCH_SIZE = 0"))
    (tmp_path / "other.gin").write_text("")
    done = call(path, tmp_path / "study")
    assert done.returncode == 1
    assert done.stdout.count("batch_size, an integer of at least 1") >= 4
    done = call(tmp_path / "none.gin", tmp_path / "study")
    assert "Expected a gin file. Received: gin_file=" in done.stderr


PRETRAINING = """
from __gin__ import dynamic_registration

from official_selftrain import experiment
from official_selftrain import training
from official_selftrain.training import schedules
from official_selftrain.data.sources import digits
from official_selftrain.models import backbones
from official_selftrain.models import classifier
import keras.optimizers

include "{root}/gin/include/base.gin"

IMAGE_SIZE = (32, 32)
BATCH_SIZE = 4
TEACHER_STEPS = 3
STUDENT_STEPS = 1
LABELED = @digits.icons
UNLABELED = @digits.icons
VALIDATION = @digits.icons
digits.icons.num_images = 8
digits.icons.image_size = %IMAGE_SIZE
digits.icons.digit_height = (12, 24)
experiment.Experiment.model = @classifier.ImageClassifier
classifier.ImageClassifier.backbone = @backbones.resnet()
backbones.resnet.blocks = (1, 1)
backbones.resnet.filters = (4, 4)
training.Optimization.optimizer = @keras.optimizers.SGD
training.Optimization.schedule = @schedules.cosine
schedules.cosine.learning_rate = {rate}
"""

WARM = """
from __gin__ import dynamic_registration

from official_selftrain.models import backbones
from official_selftrain.models import checkpoints
from official_selftrain.models import retinanet

retinanet.RetinaNet.backbone = @checkpoints.pretrained()
checkpoints.pretrained.model = @backbones.resnet()
checkpoints.pretrained.weights = %CHECKPOINT
checkpoints.pretrained.parts = ("backbone",)
"""


@pytest.mark.process
def test_cells_start_from_a_pretraining(tmp_path):
    """Cells report a diverged pre-training, and start from a successful one."""
    path, model_dir = tmp_path / "warm.gin", tmp_path / "study"
    text = STUDY.format(experiment=os.path.relpath(TINY, tmp_path))
    rows = text.index("studies.grid.rows")
    # With a rate of 0 the cell ends with its initial backbone.
    path.write_text(
        text[:rows]
        + """studies.grid.pretraining = "pretraining.gin"
studies.grid.rows = {
    "cold": ("teacher",),
    "warm": (
        "teacher",
        "warm_start.gin",
        'CHECKPOINT = "{pretraining}"',
        "schedules.cosine.learning_rate = 0.0",
    ),
}
studies.grid.columns = {"all": ()}
"""
    )
    (tmp_path / "warm_start.gin").write_text(WARM)
    for rate, status in (("1e30", "diverged"), ("0.01", "done")):
        pretraining = PRETRAINING.format(root=ROOT, rate=rate)
        (tmp_path / "pretraining.gin").write_text(pretraining)
        done = call(path, model_dir)
        assert done.returncode == 0, done.stderr
        found = csv.DictReader((model_dir / "warm.csv").read_text().splitlines())
        cold, warm = found
        assert (cold["status"], warm["status"]) == ("done", status)
        if status == "diverged":
            assert warm["text"].startswith("pre-training: NaN at step ")
            text = "once for all cells and seeds: NaN at step "
            assert text in done.stdout
    text = "The pre-training, once for all cells and seeds: top1 "
    assert text in done.stdout and ", 3 steps, 12 images, " in done.stdout
    (made,) = model_dir.glob("pretraining/*/teacher/model.keras")
    source = keras.saving.load_model(made).backbone
    stays = []
    for cell_dir in model_dir.glob("teachers/*"):
        found = keras.saving.load_model(cell_dir / "teacher" / "model.keras").backbone
        pairs = zip(source.trainable_weights, found.trainable_weights, strict=True)
        stays.append(all(np.array_equal(a, b) for a, b in pairs))
    assert sorted(stays) == [False, True]
