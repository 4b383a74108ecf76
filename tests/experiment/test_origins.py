"""Records of origin: what changed is told, refused, made again or kept."""

import functools
import json
import os
import re
import shutil

import bound
import numpy as np
import pytest
from bound import own_data
from PIL import Image

from official_selftrain.experiment import origins, settings
from official_selftrain.files import locks
from official_selftrain.training.settings import Monitoring

SHORT = ("TEACHER_STEPS = 2", "STUDENT_STEPS = 2")
TRAINED = ("teacher", "student", "control")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished experiment."""
    model_dir = tmp_path_factory.mktemp("finished") / "run"
    bound.run_tiny(model_dir, *SHORT)
    return model_dir


@pytest.fixture
def run(finished, tmp_path):
    """Rerun a copy of the finished experiment; return its results."""
    model_dir = tmp_path / "run"
    shutil.copytree(finished, model_dir)
    return lambda *params, **options: bound.run_tiny(
        model_dir, *SHORT, *params, **options
    )


def made(model_dir):
    """Return when each stage was made."""
    paths = {name: model_dir / name / "model.keras" for name in TRAINED}
    paths["pseudo_labels"] = model_dir / "pseudo_labels" / "manifest.json"
    paths["evaluation"] = model_dir / "results.json"
    return {name: path.stat().st_mtime_ns for name, path in paths.items()}


ALL = {"teacher", "pseudo_labels", "student", "control", "evaluation"}
CHANGES = {
    "alpha": (
        "ALPHA = 2.0",
        "the student was trained. Received: training.Loss.alpha=2.0, was 1.0; --res",
        "student",
        {"student", "evaluation"},
    ),
    "threshold": (
        "SCORE_THRESHOLD = 0.009",
        "the student was trained. Received: score_threshold=0.009, was 0.01; --rest",
        "student",
        None,
    ),
    "seed": (
        "SEED = 1",
        "the teacher was trained. Received: seed=1, was 0; labeled: 8 images replaced",
        "teacher",
        ALL,
    ),
    "one labeled image more": (
        "labeled/digits.scenes.num_images = 9",
        r"the teacher was trained. Received: labeled: 1 image more \(first: id 8\); --",
        "teacher",
        None,
    ),
    "two unlabeled images fewer": (
        "unlabeled/digits.scenes.num_images = 10",
        r"the pseudo-labels were made. Received: unlabeled: 2 images fewer \(first: id "
        "10",
        "pseudo_labels",
        {"pseudo_labels", "student", "evaluation"},
    ),
    "labels' batches": (
        "experiment.Labeling.batch_size = 3",
        "the pseudo-labels were made. Received: batch_size=3, was 4; --restart=pseudo",
        "pseudo_labels",
        None,
    ),
    "learning rate of both": (
        "schedules.cosine.learning_rate = 0.02",
        "teacher was trained. Received: schedules.cosine.learning_rate=0.02, was 0.01",
        "teacher",
        None,
    ),
    "augmentation of student and control": (
        "student/augment.flip_and_jitter.flip_probability = 0.5",
        "student was trained. Received: augment.flip_and_jitter.flip_probability=0.5",
        "student",
        None,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_made_again_or_kept(run, tmp_path, capsys, name):
    param, text, stage, again = CHANGES[name]
    model_dir = tmp_path / "run"
    before = made(model_dir)
    with pytest.raises(ValueError, match=text):
        run(param)
    assert made(model_dir) == before
    if again is None:
        return
    capsys.readouterr()
    run(param, keep=True, check=True)
    assert re.search(f"{stage}: kept, although changed since the ", _out(capsys))
    results = run(param, restart=stage)
    after = made(model_dir)
    assert {key for key in after if after[key] != before[key]} == again
    old = model_dir / "replaced_1"
    moved = {p.name for p in old.iterdir() if p.is_dir()}
    assert moved == again - {"evaluation"} and (old / "results.json").exists()
    assert set(results) >= set(TRAINED) and "kept" not in results
    assert not (model_dir / "restart.json").exists()
    capsys.readouterr()
    run(param)
    assert "evaluation: finished, kept" in _out(capsys)


def _out(capsys):
    return capsys.readouterr().out


def test_what_is_kept_is_told_in_results_and_report(run, tmp_path):
    results = run("ALPHA = 2.0", keep=True)
    line = (
        "student: kept, although changed since the student was trained: "
        "training.Loss.alpha=2.0, was 1.0"
    )
    assert results["kept"] == [line]
    assert line in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ValueError, match="alpha=2.0"):  # it isn't forgotten
        run("ALPHA = 2.0")


def test_other_validation_images_are_evaluated_again(run, tmp_path, capsys):
    model_dir = tmp_path / "run"
    before, old = made(model_dir), (model_dir / "results.json").read_text()
    run("validation/digits.scenes.num_images = 9")
    told = _out(capsys)
    for name in TRAINED:
        text = f"{name}: evaluated again: validation: 1 image more (first: id 8)"
        assert text in told
    after = made(model_dir)
    assert {k for k in after if after[k] != before[k]} == {"evaluation"}
    assert (model_dir / "replaced_1" / "results.json").read_text() == old


def interrupt(run, monkeypatch, *params, **options):
    """Run an experiment that is interrupted after its student."""

    def stop(work):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("official_selftrain.experiment.stages.train_control", stop)
        with pytest.raises(KeyboardInterrupt):
            run(*params, **options)


def test_an_interrupted_restart_is_continued(run, finished, tmp_path, monkeypatch):
    """The second call of the same restart doesn't move the new student aside."""
    model_dir = tmp_path / "run"

    interrupt(run, monkeypatch, "ALPHA = 2.0", restart="student")
    student = made_student(model_dir)
    run("ALPHA = 2.0", restart="student")
    assert made_student(model_dir) == student
    assert not (model_dir / "replaced_2").exists()
    # A new restart, of the same stage, moves it again.
    run("ALPHA = 2.0", restart="student")
    assert made_student(model_dir) != student
    assert (model_dir / "replaced_2" / "student").exists()


def made_student(model_dir):
    return (model_dir / "student" / "model.keras").stat().st_mtime_ns


def test_models_made_again_by_hand_are_evaluated(run, tmp_path):
    """The stage's folder was removed, and with it the record of its metrics."""
    shutil.rmtree(tmp_path / "run" / "student")
    bound.run_tiny(tmp_path / "run", SHORT[0], "STUDENT_STEPS = 3", keep=True)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["student"]["steps"] == 3 and results["control"]["steps"] == 2
    assert (tmp_path / "run" / "student" / "metrics_origin.json").exists()


def test_metrics_without_a_record_are_measured_again(run, tmp_path, capsys):
    os.remove(tmp_path / "run" / "teacher" / "metrics_origin.json")
    metrics = tmp_path / "run" / "teacher" / "metrics.json"
    right = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({**right, "AP": 99.0}))
    assert run()["teacher"]["AP"] == right["AP"]
    assert "teacher: evaluated again: there is no record of the images" in _out(capsys)


def test_a_missing_shard_is_made_again(run, tmp_path):
    path = tmp_path / "run" / "pseudo_labels" / "pseudo-00001-of-00003.tfrecord"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match="3 shards in .*pseudo_labels. Received: 2"):
        run(stages=["student"])
    run()
    assert path.read_bytes() == content


def test_shards_without_settings_are_refused(run, tmp_path):
    for name in ("settings.json", "manifest.json"):
        os.remove(tmp_path / "run" / "pseudo_labels" / name)
    with pytest.raises(FileNotFoundError, match="settings.json, what the shards"):
        run(stages=["pseudo_labels"])


def test_the_quality_is_that_of_the_labels(run, finished, tmp_path):
    """Other labels of the same threshold are measured again."""
    path = tmp_path / "run" / "quality.json"
    right = json.loads(path.read_text())
    wrong = {**right, "boxes": 99, "labels_sha256": "of others"}
    path.write_text(json.dumps(wrong))
    assert run()["pseudo_labels"] == right


def test_a_mistake_leaves_what_is_to_be_restarted(run, tmp_path):
    model_dir = tmp_path / "run"
    before = sorted(model_dir.rglob("*"))
    with pytest.raises(ValueError, match="batch_size=-3"):
        run("student/training.Optimization.batch_size = -3", restart="teacher")
    with pytest.raises(ValueError, match="stages with the one to restart.*stages=stu"):
        run(restart="teacher", stages=["student"])
    assert sorted(model_dir.rglob("*")) == before


def test_an_interrupted_restart_may_have_other_settings(run, tmp_path, monkeypatch):
    interrupt(run, monkeypatch, "ALPHA = 2.0", restart="student")
    run("ALPHA = 3.0", restart="student", stages=["student"])
    record = json.loads((tmp_path / "run" / "student" / "origin.json").read_text())
    assert record["settings"]["training.Loss.alpha"] == "3.0"


def test_objects_of_python_in_words():
    """Without gin: names and arguments, no place in memory, nothing that is logged."""

    def g(x):
        return x

    array = np.arange(3000)
    described = functools.partial(g, x=(g, {"a": functools.partial(g, 1)}), y=array)
    texts = dict(settings._settings("f", described))
    assert texts.pop("f.y").startswith("int64[3000] of hash ")
    name = g.__qualname__
    assert texts == {"f": name, "f.x.0": name, "f.x.1.a": name, "f.x.1.a.args.0": "1"}
    assert dict(settings._settings("f", Monitoring())) == {}
    assert dict(settings._settings("f", object())) == {"f": "object"}


def test_a_student_without_its_teacher(run, tmp_path):
    """A teacher that was deleted would be trained anew; its student would stay."""
    shutil.rmtree(tmp_path / "run" / "teacher")
    shutil.rmtree(tmp_path / "run" / "pseudo_labels")
    with pytest.raises(ValueError, match="student was .*; teacher: to be trained ag"):
        run()


def test_a_stage_without_a_record_is_kept_and_told(run, tmp_path, capsys):
    os.remove(tmp_path / "run" / "control" / "origin.json")
    run("ALPHA = 1.0")
    assert "control: kept, without a record of what it was made from" in _out(capsys)


def test_a_second_process_is_refused(run, tmp_path):
    with locks.claimed(str(tmp_path / "run")):
        with pytest.raises(ValueError, match=f"run, in use by process {os.getpid()} "):
            run()
        run(check=True)  # reads only


@pytest.fixture
def own(tiny_coco, tmp_path):
    """The teacher and labels of COCO files and a folder: function (…) → results."""
    model_dir = tmp_path / "run"

    def run(data=tiny_coco, model_dir=model_dir, **options):
        gin_file = own_data(data, tmp_path)
        stages = ["teacher", "pseudo_labels"]
        params = (*SHORT, "SCORE_THRESHOLD = 0.0", "EMA_DECAY = 0.5")
        return bound.run_tiny(
            model_dir, *params, gin_file=gin_file, stages=stages, **options
        )

    run()
    return run


def change_box(data):
    content = json.loads(data.annotations.read_text())
    content["annotations"][0]["bbox"][2] -= 1
    data.annotations.write_text(json.dumps(content))


def reformat(data):
    content = json.loads(data.annotations.read_text())
    data.annotations.write_text(json.dumps(content, indent=4))


def swap_image(data):
    Image.new("RGB", (96, 64)).save(data.images / "002.jpg")


def one_more(data):
    shutil.copy(data.unlabeled / "0.png", data.unlabeled / "9.png")


def three_quarters_less(data):
    content = json.loads(data.annotations.read_text())
    content["annotations"] = content["annotations"][::4]
    data.annotations.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (change_box, r"labeled \(annotations.json\): 1 image labeled differently \(fi"),
        (three_quarters_less, r"labeled \(annotations.json\): \d images labeled diff"),
        (
            swap_image,
            r"labeled \(annotations.json\): 1 image replaced \(first: 002.jpg",
        ),
        (one_more, r"pseudo-labels were .* unlabeled: 1 image more \(first: 9.png\); "),
        (reformat, None),
    ],
)
def test_changed_files_are_named(own, tiny_coco, capsys, change, text):
    change(tiny_coco)
    if text is None:
        capsys.readouterr()
        own()
        assert "teacher: finished, kept" in _out(capsys)
    else:
        with pytest.raises(ValueError, match=text):
            own()


def test_moved_folders_still_fit(own, tiny_coco, tmp_path, capsys):
    """Data and experiment are moved; the labels aren't made again."""
    moved = tmp_path / "else" / "where"
    moved.mkdir(parents=True)
    for name in ("annotations", "images", "unlabeled"):
        path = getattr(tiny_coco, name)
        setattr(tiny_coco, name, moved / path.name)
        shutil.move(path, moved)
    shutil.copytree(tmp_path / "run", moved / "run")
    capsys.readouterr()
    own(tiny_coco, moved / "run")
    told = _out(capsys)
    assert "teacher: finished, kept" in told
    assert "pseudo_labels: finished, kept" in told


def test_a_record_holds_what_it_is_compared_by(finished):
    record = json.loads((finished / "student" / "origin.json").read_text())
    assert record["settings"]["training.Optimization.steps"] == "2"
    assert record["settings"]["score_threshold"] == 0.01
    assert record["sources"]["labeled"]["images"] == 8
    assert record["sources"]["labeled"]["objects"] == 9
    assert record["sources"]["pseudo_labels"]["images"] == 12
    assert len(record["weights"]["teacher"]) == 64
    teacher = json.loads((finished / "teacher" / "origin.json").read_text())
    assert teacher["weights"] == {} and "student_init" not in teacher["settings"]
    control = json.loads((finished / "control" / "origin.json").read_text())
    assert set(control["sources"]) == {"labeled"}
    assert "training.Loss.alpha" not in control["settings"]


def test_a_source_that_is_no_longer_used():
    """Such as the classified images of joint training; pseudo-labels may be unknown."""
    fingerprint = {"images": 3, "classes": ["a"]}
    names = ("labeled", "classified", "pseudo_labels")
    before = {
        "settings": {},
        "sources": dict.fromkeys(names, fingerprint),
        "weights": {},
    }
    now = {**before, "sources": {"labeled": fingerprint}}
    assert origins.changes(before, now) == ["classified: no longer there"]
    assert origins.changes(now, before)[0] == "classified: not there before"


def test_restart_of_a_stage_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="nearest: student.*restart='studnt'"):
        bound.run_tiny(tmp_path, restart="studnt")


def test_a_limit_that_no_image_reaches_is_no_change(run, tmp_path, capsys):
    """Earlier versions always stored one; labels stored fewer boxes, too."""
    model_dir = tmp_path / "run"
    before = made(model_dir)
    records = [model_dir / name / "origin.json" for name in TRAINED]
    for path in (*records, model_dir / "pseudo_labels" / "settings.json"):
        content = json.loads(path.read_text())
        content.get("settings", content)["max_boxes"] = 100
        path.write_text(json.dumps(content))
    run("experiment.Data.max_boxes = 50")
    assert made(model_dir) == before
    with pytest.raises(ValueError, match="Received: max_boxes=1, was None; --restart"):
        run("experiment.Data.max_boxes = 1")
