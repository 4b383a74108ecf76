"""The train command: outputs, continuation and rejected input."""

import json
import os
import pathlib
import shutil

import bound
import gin
import numpy as np
import processes
import pytest
import tensorflow as tf

from official_selftrain.cli import command_line, gin_files
from official_selftrain.data import masks
from official_selftrain.experiment import results as stage_results
from official_selftrain.files import hashes
from official_selftrain.labeling import label_quality, label_store
from official_selftrain.training import fitting, history

ROOT = pathlib.Path(__file__).parent.parent
TINY = str(ROOT / "tests" / "tiny.gin")
STAGES = ("teacher", "pseudo_labels", "student", "control", "evaluation")


# Settings of the teacher that several tests copy.
SHORT = ("TEACHER_STEPS = 2", "STUDENT_STEPS = 2")


def flags(model_dir, gin_file=TINY):
    return f"--gin_file={gin_file}", f"--model_dir={model_dir}"


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def run(tmp_path):
    def run(*params, model_dir=tmp_path / "run", **kwargs):
        return bound.run_tiny(model_dir, *params, **kwargs)

    return run


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Return a folder whose teacher took two steps, and its results."""
    model_dir = tmp_path_factory.mktemp("taught") / "run"
    results = bound.run_tiny(model_dir, *SHORT, stages=["teacher"])
    return model_dir, results


@pytest.fixture(scope="module")
def labeled(taught, tmp_path_factory):
    """Return a folder with the teacher of `taught` and its labels."""
    model_dir = tmp_path_factory.mktemp("labeled") / "run"
    shutil.copytree(taught[0], model_dir)
    bound.run_tiny(model_dir, *SHORT, stages=["pseudo_labels"])
    return model_dir


@pytest.mark.process
def test_completes_without_repeated_work_after_kills(tmp_path):
    model_dir = tmp_path / "run"

    def stage_kill(pattern, unfinished):
        process = processes.start("train", *flags(model_dir))
        process.kill_when(lambda: any(model_dir.glob(pattern)))
        assert not (model_dir / unfinished).exists()

    finished = {}

    def remember(*patterns):
        for pattern in patterns:
            for path in model_dir.glob(pattern):
                finished[path] = path.stat().st_mtime_ns

    stage_kill("teacher/checkpoints/ckpt-6.index", "teacher/model.keras")
    remember("teacher/history.csv")
    # A row that was written after the last checkpoint is written again.
    checkpoint = tf.train.latest_checkpoint(model_dir / "teacher" / "checkpoints")
    kept = 1 + int(checkpoint.rsplit("-", 1)[1]) // 2  # the header, a row every 2 steps
    rows_before = (
        (model_dir / "teacher" / "history.csv").read_text().splitlines()[:kept]
    )
    assert kept >= 3 and len(rows_before) == kept
    stage_kill(
        "pseudo_labels/pseudo-00000-of-00003.tfrecord", "pseudo_labels/manifest.json"
    )
    rows = (model_dir / "teacher" / "history.csv").read_text().splitlines()
    assert rows[: len(rows_before)] == rows_before
    # Rows 2, 4, … 20: at most the one at the kill was written twice.
    assert len(rows) - 1 in (10, 11)
    finished.clear()
    remember("teacher/model.keras", "pseudo_labels/*.tfrecord")
    stage_kill("student/checkpoints/ckpt-4.index", "student/model.keras")
    remember("pseudo_labels/*")
    stage_kill("control/checkpoints/ckpt-4.index", "control/model.keras")
    remember("student/model.keras")
    stage_kill("teacher/metrics.json", "results.json")
    remember("control/model.keras", "teacher/metrics.json")

    last = processes.call("train", *flags(model_dir))
    assert last.returncode == 0, last.stderr
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    for stage in STAGES[:-1]:
        assert f"{stage}: finished, kept" in last.stdout

    results = json.loads((model_dir / "results.json").read_text())
    assert set(results) == {"teacher", "student", "control", "pseudo_labels", "config"}
    for stage, images in (("teacher", 80), ("student", 160), ("control", 160)):
        assert results[stage]["steps"] == 20
        assert results[stage]["images"] == images
        assert results[stage]["seconds"] > 0
        assert 0.0 <= results[stage]["AP"] <= results[stage]["AP50"] <= 100.0
    assert results["pseudo_labels"]["images"] == 12
    assert results["pseudo_labels"]["score_threshold"] == 0.01
    assert 0.0 <= results["pseudo_labels"]["precision"] <= 1.0
    assert results["config"]["seed"] == 0 and results["config"]["alpha"] == 1.0
    assert results["config"]["versions"]["keras"].startswith("3.")
    page = (model_dir / "report.html").read_text()
    assert f"{results['student']['AP']:.2f}" in page
    assert page.count("data:image/png;base64,") == 4 and "http" not in page
    operative = (model_dir / "operative.gin").read_text()
    assert (
        "SEED = 0" in operative
        and "training.Optimization.steps = %TEACHER_STEPS" in operative
    )

    # Rerun: nothing left to do, and the same results are printed.
    again = processes.call("train", *flags(model_dir))
    assert again.returncode == 0, again.stderr
    assert "evaluation: finished, kept" in again.stdout
    assert f"student: AP {results['student']['AP']:.2f}" in again.stdout
    # operative.gin holds the whole experiment.
    gin.clear_config()
    gin_files.load_config([str(model_dir / "operative.gin")], [])


def test_stages_one_by_one(run, taught, tmp_path):
    model_dir, results = taught
    assert results == {}
    assert not (model_dir / "pseudo_labels").exists()
    shutil.copytree(model_dir, tmp_path / "run")
    results = run(*SHORT, stages=["evaluation"])
    assert set(results) == {"teacher", "pseudo_labels", "config"}
    assert results["pseudo_labels"] is None
    run(*SHORT, stages=["pseudo_labels", "student"])
    results = run(*SHORT, stages=["evaluation"])
    assert {"teacher", "student", "pseudo_labels"} < set(results)
    assert results["pseudo_labels"]["boxes"] > 0


@pytest.mark.process
def test_help_and_a_user_s_mistake_on_the_command_line(tmp_path):
    shown = processes.call("train", "--help")
    for text in ("--model_dir", "--stages", "--gin_param", "gin/quickstart.gin"):
        assert text in shown.stdout
    mistaken = flags(tmp_path / "run", gin_file="gin/quikstart.gin")
    failed = processes.call("train", *mistaken)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    line = failed.stderr.strip().splitlines()[-1]
    assert line == (
        "train: Expected a gin file. Received: gin_file='gin/quikstart.gin'; "
        "nearest shipped file: gin/quickstart.gin"
    )


@pytest.mark.parametrize(
    ("param", "text"),
    [
        ("SEDE = 3", r"a macro that is used \(nearest: SEED\). Received: SEDE"),
        (
            "experiment.Experiment.seed = %SEDE",
            r"macro that is set \(nearest: SEED\). Received: SEDE",
        ),
        (
            "training.Optimization.stepps = 3",
            r"of training.Optimization \(nearest: steps\). Received: stepps",
        ),
        (
            "training.Los.alpha = 3",
            r"that a gin file imports \(nearest: training.Loss\). .*: training.Los",
        ),
        ("fitting.fitt.steps = 3", "fitting.fitt"),
        (
            'student/training.Machine.precision = "mixed_bfloat16"',
            r"training.Machine in a scope in which it is used \(none\). .*: student",
        ),
        (
            "control/training.Loss.alpha = 3.0",
            r"a scope that is used \(nearest: .*\). Received: control",
        ),
        ('training.fit.output_dir = "x"', "leaves open. .*: training.fit.output_dir"),
        (
            "training.Loss.alpha = 3.0",
            r"student/.*Loss.alpha, which overrides it. .*: official_.*Loss.alpha",
        ),
        (
            "training.Optimization.steps = 3",
            r"(teacher|student)/.*Optimization.steps, which overrides it",
        ),
        ("SEED = = 3", "in gin_param, line 1. Received: 'SEED = = 3'"),
        ("TEACHER_STEPS = 2*3", "Received: 'TEACHER_STEPS = 2[*]3'"),
        (
            "techer/training.Optimization.steps = 3",
            r"scope that is used \(nearest: teacher\). .*: techer",
        ),
        (
            "experiment.Experiment.model = None",
            "settings of a function that is used .*Received: official_selftrain.models",
        ),
    ],
)
def test_gin_mistakes_are_rejected(param, text):
    with pytest.raises(ValueError, match=text):
        gin_files.load_config([TINY], [param])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('include "nowhere.gin"\n', "Unable to open file: nowhere.gin"),
        ("from __gin__ import dynamic_registration\nimport nowhere\n", "'nowhere'"),
        (
            "from __gin__ import dynamic_registration\ndigits.scenes.seed = 1\n",
            "an import for every name of a gin file. Received: 'digits' was not",
        ),
    ],
)
def test_malformed_gin_files(tmp_path, content, text):
    """The command prints these errors as one line."""
    path = tmp_path / "bad.gin"
    path.write_text(content)
    with pytest.raises(command_line.mistakes(), match=text):
        gin_files.load_config([str(path)], [])
    with pytest.raises(FileNotFoundError, match="gin_file='.*/nowhere.gin'"):
        gin_files.load_config([str(tmp_path / "nowhere.gin")], [])


@pytest.mark.process
def test_model_dir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    done = processes.call("train", *flags(tmp_path / "run"))
    assert done.returncode == 1
    assert f"model_dir='{tmp_path / 'run'}', a file" in done.stderr


@pytest.mark.parametrize(
    ("params", "stages", "error", "text"),
    [
        ([], ["techer"], ValueError, "nearest: teacher.*Received: stages='techer'"),
        (
            ['experiment.Teaching.student_init = "scratch"'],
            STAGES,
            ValueError,
            "'scratch'",
        ),
        (
            [],
            ["pseudo_labels"],
            FileNotFoundError,
            r"teacher.model.keras.*--stages=teacher",
        ),
        ([], ["student"], FileNotFoundError, r"manifest.json.*--stages=pseudo_labels"),
        ([], ["control"], FileNotFoundError, r"teacher.model.keras.*--stages=teacher"),
        (
            [],
            ["evaluation"],
            FileNotFoundError,
            r"teacher.model.keras.*--stages=teacher",
        ),
        (["SEED = -1"], STAGES, ValueError, "Received: seed=-1"),
        (["SEED = 'a'"], STAGES, ValueError, "Received: seed='a'"),
        (["SCORE_THRESHOLD = 2"], STAGES, ValueError, "score_threshold=2"),
        (["SCORE_THRESHOLD = 'x'"], STAGES, ValueError, "score_threshold='x'"),
        (["experiment.Labeling.shard_size = 0"], STAGES, ValueError, "shard_size=0"),
        (["IMAGE_SIZE = 48"], ["teacher"], ValueError, "Received: image_size=48"),
        (["BATCH_SIZE = 0"], ["teacher"], ValueError, "Received: batch_size=0"),
        (
            ["IMAGE_SIZE = (32, 36)"],
            ["teacher"],
            ValueError,
            r"multiples of 8.*\(32, 36\)",
        ),
    ],
)
def test_invalid_runs(run, params, stages, error, text):
    with pytest.raises(error, match=text):
        run(*params, stages=stages)


def test_run_stops_without_confident_labels(run, taught, tmp_path):
    shutil.copytree(taught[0], tmp_path / "run")
    params = ("SCORE_THRESHOLD = 0.99", *SHORT)
    for _ in range(2):  # the second time the labels are there
        with pytest.raises(
            ValueError, match="0 boxes in 12 images.* would give one box"
        ):
            run(*params, stages=STAGES[:3])
    results = run(*params, stages=["evaluation"])
    assert results["pseudo_labels"]["boxes"] == 0
    assert results["pseudo_labels"]["one_box_threshold"] < 0.99


def test_unreadable_images_are_reported(run, tiny_coco, tmp_path):
    config = tmp_path / "own.gin"
    config.write_text(own_data(tiny_coco))
    broken = sorted(pathlib.Path(tiny_coco.images).iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{broken.name}.*1 of 6 images can't be read"):
        run(gin_file=config, stages=["teacher"])


def data_params(tiny_coco):
    """The overrides required by gin/include/coco_files.gin."""
    data = {
        "TRAIN_ANNOTATIONS": tiny_coco.annotations,
        "TRAIN_IMAGES": tiny_coco.images,
        "VALIDATION_ANNOTATIONS": tiny_coco.annotations,
        "VALIDATION_IMAGES": tiny_coco.images,
        "UNLABELED_IMAGES": tiny_coco.unlabeled,
    }
    return [f'{name} = "{path}"' for name, path in data.items()]


def own_data(tiny_coco):
    """The tiny experiment on COCO files and a folder."""
    text = pathlib.Path(TINY).read_text()
    text = text.replace("../gin/include", str(ROOT / "gin" / "include"))
    kept = [
        line
        for line in text.splitlines()
        if "digits." not in line
        and not line.startswith("from official_selftrain.data.sources import digits")
    ]
    kept.append(f'include "{ROOT}/gin/include/coco_files.gin"')
    kept += data_params(tiny_coco)
    return "\n".join(kept) + "\n"


def test_own_coco_files_and_a_folder_of_images(run, tiny_coco):
    """gin/own_data.gin; one broken file among the unlabeled ones is skipped."""
    (tiny_coco.unlabeled / "broken.jpg").write_bytes(b"no image")
    results = run(
        *data_params(tiny_coco),
        "TEACHER_STEPS = 4",
        "STUDENT_STEPS = 2",
        "WARMUP_STEPS = 1",
        "BATCH_SIZE = 2",
        "IMAGE_SIZE = (64, 64)",
        "backbones.resnet.blocks = (1, 1, 1)",
        "backbones.resnet.filters = (4, 4, 8)",
        "retinanet.RetinaNet.num_filters = 8",
        "retinanet.RetinaNet.max_level = 4",
        "retinanet.RetinaNet.num_head_convs = 1",
        "experiment.Teaching.control = False",
        "SCORE_THRESHOLD = 0.0",
        "experiment.Teaching.ignore_threshold = None",
        "retinanet.RetinaNet.score_threshold = 0.0",
        gin_file=ROOT / "gin" / "own_data.gin",
    )
    assert results["pseudo_labels"]["images"] == 4
    assert results["pseudo_labels"]["precision"] is None
    assert results["teacher"]["AP"] is not None
    assert results["student"]["images"] == 8


@pytest.mark.parametrize("stream", ["labeled", "both"])
def test_images_without_any_box(run, tiny_coco, tmp_path, stream):
    """No box in one stream or in both: the run ends with finite losses."""
    path = pathlib.Path(tiny_coco.annotations)
    content = json.loads(path.read_text())
    # One crowd, which isn't an object, so that the file counts as labeled.
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    config = tmp_path / "own.gin"
    config.write_text(own_data(tiny_coco))
    stages = (
        ["teacher"] if stream == "labeled" else ["teacher", "pseudo_labels", "student"]
    )
    run(
        "TEACHER_STEPS = 2",
        "STUDENT_STEPS = 2",
        "SCORE_THRESHOLD = 0.0",
        gin_file=config,
        stages=stages,
    )
    rows = fitting.read_history(str(tmp_path / "run" / stages[-1]))
    assert all(abs(row["loss"]) < 1e6 for row in rows)


def test_masks_are_labeled_once_for_all_thresholds(run, tmp_path, monkeypatch):
    """The segmentation quickstart, cut short; another threshold in another folder."""
    # After two steps a teacher predicts only background: accept that.
    monkeypatch.setattr(label_quality, "require_labels", lambda *_: None)
    params = [
        *("TEACHER_STEPS = 2", "STUDENT_STEPS = 2", "BATCH_SIZE = 4"),
        "schedules.cosine.warmup_steps = 1",
        "unlabeled/digits.scenes.num_images = 6",
        "validation/digits.scenes.num_images = 4",
        "experiment.Labeling.scales = (1.0,)",
    ]
    config = ROOT / "gin" / "quickstart_segmentation.gin"
    stages = ("teacher", "pseudo_labels", "evaluation")
    first = tmp_path / "first"
    results = run(
        *params,
        "SCORE_THRESHOLD = 0.0",
        model_dir=first,
        stages=stages,
        gin_file=config,
    )
    assert results["pseudo_labels"]["ignored"] == 0.0
    assert results["teacher"]["class_IoU"][0] > 0.0
    stored = label_store.read(str(first / "pseudo_labels")).dataset
    sure = np.stack([masks.decode(example["confidence"]) for example in stored])
    score = float(sure.max() / 255)
    second = tmp_path / "second"
    for folder in ("teacher", "pseudo_labels"):
        shutil.copytree(first / folder, second / folder)
    again = run(
        *params, f"SCORE_THRESHOLD = {score}", model_dir=second, gin_file=config
    )
    assert again["pseudo_labels"]["ignored"] == pytest.approx(
        (sure < sure.max()).mean()
    )
    empty = (sure < sure.max()).all(axis=(1, 2)).sum()
    assert again["pseudo_labels"]["empty_images"] == empty
    assert again["student"]["images"] == again["control"]["images"] == 16
    for path in (first / "pseudo_labels").glob("*.tfrecord"):
        copied = second / "pseudo_labels" / path.name
        assert copied.stat().st_mtime == path.stat().st_mtime
    page = (second / "report.html").read_text()
    assert "change mIoU by" in page and page.count("data:image/png;base64,") == 4


def test_student_with_labels_of_another_teacher(run, labeled, tmp_path):
    labels = tmp_path / "labels"
    shutil.copytree(labeled / "pseudo_labels", labels)
    results = run(
        f'experiment.Labeling.labels_dir = "{labels}"',
        "experiment.Teaching.control = False",
        'experiment.Teaching.student_init = "random"',
        "STUDENT_STEPS = 2",
        model_dir=tmp_path / "other",
        stages=["pseudo_labels", "student", "evaluation"],
    )
    assert set(results) == {"student", "pseudo_labels", "config"}
    assert results["pseudo_labels"]["images"] == 12
    assert results["pseudo_labels"]["precision"] is None  # no ground truth
    assert not (tmp_path / "other" / "pseudo_labels").exists()
    assert (tmp_path / "other" / "labels.txt").read_text() == "0\n1\n"
    with pytest.raises(FileNotFoundError, match="none/manifest.json. Make it with"):
        run(
            f'experiment.Labeling.labels_dir = "{tmp_path / "none"}"',
            model_dir=tmp_path / "third",
            stages=["pseudo_labels"],
        )


def test_rounds_continue_while_the_student_improves(
    run, labeled, tmp_path, monkeypatch
):
    """Teacher 1, students 3, 5 and 5: the third round is the last."""
    shutil.copytree(labeled, tmp_path / "run")
    values = {"teacher": 1.0, "student": 3.0}
    values.update({"round_2/student": 5.0, "round_3/student": 5.0})
    folder = tmp_path / "run"
    stored = stage_results.stored_metrics

    def metrics(stage_dir, *args, **kwargs):
        found = stored(stage_dir, *args, **kwargs)
        return {**found, "AP": values[os.path.relpath(stage_dir, folder)]}

    monkeypatch.setattr(stage_results, "stored_metrics", metrics)
    results = run("ROUNDS = 5", "experiment.Teaching.control = False", *SHORT)
    assert [(r["round"], r["student"]) for r in results["rounds"]] == [
        (1, 3.0),
        (2, 5.0),
        (3, 5.0),
    ]
    for name, teacher in (
        (".", "teacher"),
        ("round_2", "student"),
        ("round_3", "round_2/student"),
    ):
        manifest = label_store.read_manifest(str(folder / name / "pseudo_labels"))
        made_by = hashes.sha256_of_model(str(folder / teacher / "model.keras"))
        assert manifest["settings"]["teacher"]["sha256"] == made_by
        assert (folder / name / "student" / "model.keras").exists()
    assert not (folder / "round_4").exists()
    assert "Rounds" in (folder / "report.html").read_text()


def test_weight_averages_and_validation(run, tmp_path):
    results = run(
        "EMA_DECAY = 0.9",
        "VALIDATE_EVERY = 2",
        "TEACHER_STEPS = 2",
        "STUDENT_STEPS = 2",
        "experiment.Teaching.control = False",
    )
    assert {"teacher", "teacher_average", "student", "student_average"} <= set(results)
    assert "student_average" in (tmp_path / "run" / "report.html").read_text()
    for stage in ("teacher", "student"):
        (row,) = history.read(str(tmp_path / "run" / stage / "validation.csv"))
        assert row == {"step": 2.0, "value": results[stage]["AP"]}


def test_settings_that_may_change_between_runs(run, taught, tmp_path):
    """Devices, the number of rounds and what is logged."""
    shutil.copytree(taught[0], tmp_path / "run")
    free = ('TPU_ADDRESS = "x"', "ROUNDS = 2", "training.Monitoring.log_every = 1")
    run(*SHORT, *free, stages=["teacher"])
    with pytest.raises(ValueError, match=r"training.Optimization.steps=3, was 2; --re"):
        run("TEACHER_STEPS = 3", stages=["teacher"])


@pytest.mark.parametrize("value", ["0", "-1", "True", '"x"', "2.0"])
def test_invalid_validation_interval(run, value):
    with pytest.raises(ValueError, match="validate_every, an integer of at least 1"):
        run(f"VALIDATE_EVERY = {value}")


def test_invalid_precision(run):
    with pytest.raises(ValueError, match="nearest: float32.*'float16'"):
        run('PRECISION = "float16"')


@pytest.mark.slow
def test_bfloat16_learns_the_quickstart_like_float32(run, tmp_path):
    """Mean losses of the first 50 steps, the warm-up, agree within 2 %."""
    means = {}
    for precision in ("float32", "mixed_bfloat16"):
        run(
            f'PRECISION = "{precision}"',
            "TEACHER_STEPS = 60",
            "training.Monitoring.log_every = 10",
            "training.Monitoring.num_pictures = 0",
            model_dir=tmp_path / precision,
            stages=["teacher"],
            gin_file=ROOT / "gin" / "quickstart.gin",
        )
        rows = fitting.read_history(str(tmp_path / precision / "teacher"))
        means[precision] = np.mean([row["loss"] for row in rows if row["step"] <= 50])
    assert means["mixed_bfloat16"] == pytest.approx(means["float32"], rel=0.02)
