"""The plan: mistakes are refused before the first step; what it says is true."""

import json
import os
import shutil

import bound
import numpy as np
import pytest
from PIL import Image

from official_selftrain.data import sources
from official_selftrain.experiment import plan
from official_selftrain.labeling import label_store, teachers

MISTAKES = [
    # The student.
    ("ALPHA = -1", r"alpha=-1 \(settings of student\)"),
    ("STUDENT_STEPS = 0", r"steps=0"),
    (
        "student/schedules.cosine.warmup_steps = 30",
        r"warmup_steps=30, steps=20 \(settings of student\)",
    ),
    ("student/schedules.cosine.learning_rate = -0.1", "learning_rate=-0.1 at step 0"),
    ("student/training.Optimization.batch_size = 0", "batch_size=0"),
    (
        "student/training.Optimization.accumulation = 3",
        r"a multiple of 3 .* batch_size=4 \(settings of student\)",
    ),
    ("student/training.Optimization.ema_decay = 1.0", "ema_decay=1.0"),
    ("student/training.Optimization.optimizer = None", "optimizer=None"),
    (
        "student/training.Optimization.schedule = @keras.optimizers.SGD",
        r"not recognized: {'steps': 20} \(settings of student\)",
    ),
    (
        "student/training.Optimization.optimizer = @augment.flip_and_jitter",
        r"unexpected keyword argument 'learning_rate' \(settings of student\)",
    ),
    (
        "student/keras.optimizers.SGD.momentum = 2.0",
        r"momentum.* between \[0, 1\]. \(settings of student\)",
    ),
    ("student/training.Loss.decay = 1.0", "decay=1.0"),
    ("student/training.Loss.l2 = -1", "l2=-1"),
    ("student/training.Monitoring.log_every = 0", "log_every=0"),
    ("student/augment.flip_and_jitter.scale_range = (2.0, 1.0)", r"\(2.0, 1.0\)"),
    # Its labels.
    ("SCORE_THRESHOLD = 1.5", "score_threshold=1.5"),
    ("experiment.Teaching.ignore_threshold = 0.5", "ignore_threshold=0.5"),
    ('experiment.Teaching.student_init = "scratch"', "'scratch'"),
    ("experiment.Teaching.max_empty_share = 2", "max_empty_share=2"),
    ("experiment.Labeling.shard_size = 0", "shard_size=0"),
    ("experiment.Labeling.scales = (1.0, 2.0)", r"scales=\(1.0, 2.0\)"),
    ('experiment.Labeling.labels_dir = "none"', "none/manifest.json"),
    ("ROUNDS = 0", "rounds=0"),
    # The control.
    ("experiment.Teaching.control = 3", "control=3"),
    # The evaluation.
    ("validation/digits.scenes.num_classes = 3", r"Received: \['0', '1', '2'\]"),
    ("validation/digits.scenes.has_masks = True", r"\['background', '0', '1'\]"),
    ("VALIDATE_EVERY = 3", "validate_every=3, log_every=2"),
    ("experiment.Data.max_boxes = 0", "max_boxes=0"),
    # What is exported.
    ("retinanet.RetinaNet.max_detections = 0", "max_detections=0"),
    ("retinanet.RetinaNet.score_threshold = -0.1", "score_threshold=-0.1"),
    ("retinanet.RetinaNet.nms_threshold = 2.0", "nms_threshold=2.0"),
    ("retinanet.RetinaNet.soft_nms_sigma = -1.0", "soft_nms_sigma=-1.0"),
]


@pytest.fixture(scope="module")
def never(tmp_path_factory):
    return tmp_path_factory.mktemp("never") / "run"


@pytest.mark.parametrize(("param", "text"), MISTAKES, ids=[p for p, _ in MISTAKES])
def test_mistakes_are_refused_before_the_first_step(never, param, text):
    """Without `check`: a mistake that were found later would leave files."""
    with pytest.raises((ValueError, TypeError, OSError), match=text):
        bound.run_tiny(never, param)
    assert not never.exists() or os.listdir(never) == []


def test_class_names_that_an_export_could_not_list(tiny_coco, tmp_path):
    content = json.loads(tiny_coco.annotations.read_text())
    content["categories"][0]["name"] = "two\nlines"
    tiny_coco.annotations.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"one line each.*'two\\nlines'"):
        bound.run_tiny(tmp_path / "run", gin_file=bound.own_data(tiny_coco, tmp_path))


def test_a_broken_validation_image_is_named(tiny_coco, tmp_path):
    images = tmp_path / "validation"
    shutil.copytree(tiny_coco.images, images)
    (images / "001.png").write_bytes(b"no image")
    gin_file = bound.own_data(tiny_coco, tmp_path)
    with pytest.raises(ValueError, match="001.png.*1 of 6 images can't be read"):
        bound.run_tiny(
            tmp_path / "run", f'VALIDATION_IMAGES = "{images}"', gin_file=gin_file
        )


def test_a_size_that_is_swapped_is_named_before_training(tiny_coco, tmp_path):
    content = json.loads(tiny_coco.annotations.read_text())
    content["images"][3].update(height=96, width=64)
    tiny_coco.annotations.write_text(json.dumps(content))
    gin_file = bound.own_data(tiny_coco, tmp_path)
    text = (
        r"labels state. Received: .*003.png: .* 96, 64 Received: 64, 96 \(swapped; .*"
    )
    with pytest.raises(ValueError, match=rf"{text} \(1 of the first 6 images\)"):
        bound.run_tiny(tmp_path / "run", gin_file=gin_file, check=True)


def test_the_plan_by_hand(tmp_path, capsys):
    assert bound.run_tiny(tmp_path / "run", "EMA_DECAY = 0.9", check=True) == {}
    assert not (tmp_path / "run").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"plan: {tmp_path / 'run'}"
    counted = "12 images, 19 objects, up to 2 on an image, 2 classes: 0, 1"
    assert lines[2].strip() == "8 images: 8 taught"
    assert lines[4] == f"  unlabeled     {counted}"
    assert lines[5].startswith("  validation    8 images, 11 objects, ")
    compared = ["8 images: 8 compared", "11 boxes: 11 compared"]
    assert [line.strip() for line in lines[6:8]] == compared
    # 4 images of the labeled stream; twice as many for the student and the control.
    assert lines[8:13] == [
        "  teacher       to do: 20 steps of 4 images; 17,929 weights",
        "  pseudo_labels to do: 12 images",
        "  student       to do: 20 steps of 8 images; 17,929 weights",
        "  control       to do: 20 steps of 8 images; 17,929 weights",
        "  evaluation    to do",
    ]
    assert lines[13].startswith("  disk          about ")


def test_images_in_two_sources_are_told(tiny_coco, tmp_path, capsys):
    """The labeled images are the validation images, and are in the pool."""
    gin_file = bound.own_data(tiny_coco, tmp_path)
    pool = f"UNLABELED_IMAGES = {str(tiny_coco.images)!r}"
    bound.run_tiny(tmp_path / "run", pool, gin_file=gin_file, check=True)
    told = [x for x in capsys.readouterr().out.splitlines() if x[:8] == "warning:"]
    assert told[0].startswith("warning: 6 of 6 validation images are unlabeled images")
    assert told[1].startswith("warning: 6 of 6 validation images are labeled images, ")
    assert told[1].endswith(": metrics on them are too high")
    assert told[2].endswith(": they are trained on twice")


def test_limits_are_told_before_training(tiny_coco, tmp_path, capsys):
    gin_file = bound.own_data(tiny_coco, tmp_path)
    limits = "experiment.Data.max_boxes = 1", "retinanet.RetinaNet.max_detections = 1"
    bound.run_tiny(tmp_path / "run", *limits, gin_file=gin_file, check=True)
    said = capsys.readouterr().out
    counts = [0] * 6
    for annotation in json.loads(tiny_coco.annotations.read_text())["annotations"]:
        counts[annotation["image_id"] % 6] += 1
    most, beyond = max(counts), sum(count > 1 for count in counts)
    assert (
        most > 1
        and (
            f"labeled: {beyond} of 6 images have more than max_boxes=1 boxes (up to "
            f"{most}): all but the largest are ignored"
        )
        in said
    )
    assert (
        f"warning: an image has {most} objects, but the model finds at most 1 "
        "(max_detections)"
    ) in said


def test_the_state_and_the_work_by_hand(tmp_path, monkeypatch):
    """SGD has one slot per weight; labeling and evaluation count a third."""
    found = {}

    def remember(work, names, outlines, disk):
        found.update(outlines, later=work.later)
        return []

    monkeypatch.setattr(plan, "_lines", remember)
    params = ("EMA_DECAY = 0.9", "student/keras.optimizers.SGD.momentum = 0.9")
    bound.run_tiny(tmp_path / "run", *params, check=True)
    teacher, student = found["teacher"], found["student"]
    assert teacher.weights == 17_929
    assert teacher.state == 4 * 2 * 17_929  # the weights and their average
    # The momentum of the trained weights: all but the moving statistics.
    assert 4 * 17_000 < student.state - teacher.state < 4 * 17_929
    images = 4 * 32 * 32 * 3 * 4
    assert images < teacher.batch < 1.1 * images
    assert images * 2 < student.batch < 2.2 * images
    evaluation, labels = 3 * 8 / 3, 12 / 3
    assert found["later"] == pytest.approx(
        {
            "teacher": labels + 20 * 8 + 20 * 8 + evaluation,
            "pseudo_labels": 20 * 8 + 20 * 8 + evaluation,
            "student": 20 * 8 + evaluation,
            "control": evaluation,
        }
    )


def test_too_little_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="of free disk space .* Received: 1 MB"):
        bound.run_tiny(tmp_path / "run")


def test_unreadable_unlabeled_images_are_told(tiny_coco, tmp_path, capsys):
    for path in tiny_coco.unlabeled.iterdir():
        path.write_bytes(b"no image")
    bound.run_tiny(
        tmp_path / "run", gin_file=bound.own_data(tiny_coco, tmp_path), check=True
    )
    text = "warning: none of the first 4 unlabeled images can be read, such as "
    assert text in capsys.readouterr().out


def fixed_teacher(tiny_coco):
    """A teacher that finds the same box on every image."""
    labels = {
        "boxes": np.float32([[8, 8, 40, 40]]),
        "classes": np.array([1]),
        "scores": np.float32([0.75]),
    }
    return teachers.Teacher(
        lambda example, image: {},
        lambda items: [labels] * len(items),
        tuple(tiny_coco.class_names),
        False,
        {"kind": "fixed"},
    )


def test_labels_of_the_validation_images_are_told(tiny_coco, tmp_path, capsys):
    """Labels made of them for a report are no labels to learn from."""
    pool = sources.folder(str(tiny_coco.images))
    label_store.write(fixed_teacher(tiny_coco), pool, str(tmp_path / "labels"))
    gin_file = bound.own_data(tiny_coco, tmp_path)
    params = [f'experiment.Labeling.labels_dir = "{tmp_path / "labels"}"']
    bound.run_tiny(tmp_path / "run", *params, gin_file=gin_file, check=True)
    text = "warning: 6 of 6 validation images are pseudo-labeled images, too (first: "
    assert text in capsys.readouterr().out


def test_labels_whose_images_were_moved(tiny_coco, tmp_path, monkeypatch):
    """They are named before the teacher is trained; paths may be relative."""
    monkeypatch.chdir(tiny_coco.unlabeled.parent)
    pool = sources.folder("unlabeled")
    label_store.write(fixed_teacher(tiny_coco), pool, str(tmp_path / "labels"))
    options = {
        "gin_file": bound.own_data(tiny_coco, tmp_path),
        "check": True,
    }
    params = [f'experiment.Labeling.labels_dir = "{tmp_path / "labels"}"']
    bound.run_tiny(tmp_path / "run", *params, **options)
    (tiny_coco.unlabeled / "2.png").rename(tmp_path / "2.png")
    text = r"no 'unlabeled/2.png' \(1 of the first 4 images are missing\); start in the"
    with pytest.raises(FileNotFoundError, match=text):
        bound.run_tiny(tmp_path / "run", *params, **options)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(FileNotFoundError, match=r"no 'unlabeled/0.png' \(4 of the fir"):
        bound.run_tiny(tmp_path / "run", *params, **options)
    bound.run_tiny(tmp_path / "run", *params, stages=("teacher",), **options)


def test_check_and_restart_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="check without restart.*restart='student'"):
        bound.run_tiny(tmp_path / "run", check=True, restart="student")


def test_pixels_of_12_bits_are_refused_or_spread(tiny_coco, tmp_path, capsys):
    for path in [*tiny_coco.images.iterdir(), *tiny_coco.unlabeled.iterdir()]:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save(path, "PNG")
    gin_file = bound.own_data(tiny_coco, tmp_path)
    text = (
        "at least 32 gray levels. .*6 of 6 looked at .*--pixel_range=0,4095, or pixel"
    )
    with pytest.raises(ValueError, match=text):
        bound.run_tiny(tmp_path / "run", gin_file=gin_file, check=True)
    ranges = [f"sources.{name}.pixel_range = (0, 4095)" for name in ("coco", "folder")]
    bound.run_tiny(tmp_path / "run", *ranges, gin_file=gin_file, check=True)
    out = capsys.readouterr().out
    for title, count in (("labeled", 6), ("unlabeled", 4)):
        assert f"{title}: images of more than 8 bits: {count} of {count} looked" in out
    assert out.count("(pixel_range 0 to 4,095)") == 3  # and for validation


def test_transparent_images_are_told(tiny_coco, tmp_path, capsys):
    with Image.open(tiny_coco.images / "001.png") as image:
        image.putalpha(100)
        image.save(tiny_coco.images / "001.png")
    gin_file = bound.own_data(tiny_coco, tmp_path)
    bound.run_tiny(tmp_path / "run", gin_file=gin_file, check=True)
    text = "labeled: images with transparent pixels: 1 of 6 looked at (first: "
    assert text in capsys.readouterr().out
