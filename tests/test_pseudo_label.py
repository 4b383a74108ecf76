"""The labeling command: broken files, kills, workers, empty labels."""

import functools
import io
import json
import random
import re
import signal
import time

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain import RetinaNet, backbones, digits
from official_selftrain.data import sources
from official_selftrain.labeling import answers, label_store, results_files, served

pytestmark = pytest.mark.process

# A slow teacher that predicts one box per image, from the image's mean.
STUB = """
import sys, time
import numpy as np, tensorflow as tf
from official_selftrain.data import sources
from official_selftrain.labeling import label_store, teachers

def prepare(example, image):
    return {"mean": tf.reduce_mean(tf.cast(image, tf.float32))}

def label(items):
    time.sleep(0.02)
    means = [item["mean"].numpy() for item in items]
    ones = np.ones(1, np.float32)
    return [
        {"boxes": np.float32([[0, 0, 8, 1 + m / 64]]), "scores": ones * m / 256,
         "classes": np.zeros(1, int)} for m in means
    ]

teacher = teachers.Teacher(prepare, label, ("a",), False, {"kind": "stub"})
label_store.write(
    teacher, sources.folder(sys.argv[1]), sys.argv[2],
    label_store.Storage(10, score_floor=0.0), 4,
    label_store.Worker(int(sys.argv[3]), int(sys.argv[4])), on_images=lambda n: None)
"""


@pytest.fixture
def stub(tmp_path):
    script = tmp_path / "stub.py"
    script.write_text(STUB)
    return functools.partial(processes.start, script)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, (image, *_) in enumerate(
        digits.compose("unlabeled", 100, image_size=(32, 32), num_classes=2)
    ):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    (folder / "050.png").write_bytes(b"broken")
    return folder


def has_files(folder, count, delay):
    found = len(list(folder.glob("*.json"))) >= count
    time.sleep(delay if found else 0.0)
    return found


@pytest.mark.parametrize(
    "kills", [2, pytest.param(10, marks=pytest.mark.slow)], ids=["two", "ten"]
)
def test_result_is_the_same_after_random_kills(stub, photographs, tmp_path, kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert stub(photographs, whole, 0, 1).finish().returncode == 0
    expected = contents(whole)
    assert len(expected) == 10 * 2 + 2
    rng = random.Random(0)
    # A shard takes 60 ms: a kill comes anywhere in one of the first ones.
    for files in sorted(rng.randint(0, 6) for _ in range(kills)):
        is_due = functools.partial(has_files, killed, files, rng.uniform(0.0, 0.1))
        done = stub(photographs, killed, 0, 1).kill_when(is_due)
        assert done.returncode == -signal.SIGKILL
        assert not (killed / "manifest.json").exists()
    assert stub(photographs, killed, 0, 1).finish().returncode == 0
    assert contents(killed) == expected
    manifest = json.loads(expected["manifest.json"])
    assert (manifest["images"], manifest["labeled"], manifest["shards"]) == (
        100,
        99,
        10,
    )
    (line,) = manifest["skipped"]
    assert line.startswith(f"{photographs / '050.png'}: Unknown image file format")


def test_two_concurrent_workers_equal_one(stub, photographs, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    workers = [stub(photographs, two, 0, 2), stub(photographs, two, 1, 2)]
    workers.append(stub(photographs, one, 0, 1))
    assert [worker.finish().returncode for worker in workers] == [0, 0, 0]
    assert contents(two) == contents(one)


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    keras.utils.set_random_seed(0)
    backbone = backbones.resnet(50, blocks=(1, 1), filters=(16, 16))
    model = RetinaNet(
        2, (32, 32), backbone, max_level=3, num_filters=16, num_head_convs=1,
        score_threshold=0.005, max_detections=5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("teacher") / "run"
    (folder / "teacher").mkdir(parents=True)
    model.save(folder / "teacher" / "model.keras")
    (folder / "labels.txt").write_text("a\nb\n")
    return folder


call = functools.partial(processes.call, "pseudo_label")


def test_mixed_folder_with_two_processes(teacher_dir, tmp_path):
    """Six kinds are labeled, four skipped with a reason; symlink loops are ignored."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(folder / "a.jpg")
    image.save(folder / "b.png")
    image.convert("L").save(folder / "c_gray.jpg")
    image.convert("CMYK").save(folder / "d_cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "e_turned.jpg", exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(folder / "f_16.png")
    whole = io.BytesIO()
    image.save(whole, "JPEG")
    (folder / "g_cut.jpg").write_bytes(whole.getvalue()[:400])
    (folder / "h_empty.png").write_bytes(b"")
    (folder / "i_text.jpg").write_text("text")
    (folder / "j_self.jpg").symlink_to(folder / "j_self.jpg")
    (folder / "loop").symlink_to(folder)
    settings = [
        *(f"--teacher={teacher_dir}", f"--images={folder}", "--shard_size=3"),
        *("--score_floor=0.005", "--score_threshold=0.005", "--embed_images"),
    ]
    for name, more in (("one", []), ("two", ["--num_workers=2"])):
        result = call(*settings, f"--output_dir={tmp_path / name}", *more)
        assert result.returncode == 0
        # The bar, libjpeg's line on the cut file and TensorFlow's on a file without an
        # image, although each of two processes imports TensorFlow.
        lines = result.stderr.replace("\r", "\n").splitlines()
        known = re.compile("pseudo_labels: |.*JPEG|.*Input is empty")
        assert [x for x in lines if x and not known.match(x)] == []
        assert "labels: 6 of 10 images, 4 skipped" in result.stdout
        for text in (
            "g_cut.jpg: ", "h_empty.png: Input is empty",
            "i_text.jpg: Unknown image file format",
            "j_self.jpg: a broken link",
        ):  # fmt: skip
            assert text in result.stdout
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    stored = label_store.read(str(tmp_path / "one"), ["b", "a"])
    assert [int(e["id"]) for e in stored.dataset] == [0, 1, 2, 3, 4, 5]
    # The rotated photograph is embedded upright, for readers without EXIF support.
    turned = list(stored.dataset)[4]["encoded"].numpy()
    with Image.open(io.BytesIO(turned)) as upright:
        assert upright.size == (20, 30) and upright.format == "PNG"
    # Different settings are rejected for these labels.
    result = call(*settings, f"--output_dir={tmp_path / 'one'}", "--max_boxes=3")
    assert result.returncode == 1 and result.stderr.count("Expected") == 1
    assert "max_boxes=3, was None; choose another output_dir" in result.stderr


def test_mostly_empty_labels_exit_with_3(teacher_dir, tiny_coco, tmp_path):
    result = call(
        f"--teacher={teacher_dir}",
        f"--images={tiny_coco.annotations}",
        f"--image_dir={tiny_coco.images}",
        f"--output_dir={tmp_path / 'labels'}",
        "--score_floor=0.005",
    )
    assert result.returncode == 3
    assert "0 boxes in 6 images, 100 % of the images empty" in result.stderr
    assert "would give one box per image" in result.stderr
    assert "Traceback" not in result.stderr
    # The labels exist; a lower threshold needs no second labeling.
    assert (
        sources.tfrecord(str(tmp_path / "labels" / "*.tfrecord"), "ab").num_images == 6
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--teacher={empty}"], "Expected a model_dir with teacher/model.keras"),
        (["--images={empty}"], "Expected images (.jpg"),
        (
            ["--images=tfds:coco"],
            "Expected tfds:NAME:SPLIT. Received: images='tfds:coco'",
        ),
        (["--classes=a,c"], "teacher of ['a', 'b']; missing: ['c'], others: ['b']"),
        (["--teacher={results}"], "images with the ids that the results name"),
        (["--score_scale=100"], "Expected --score_scale only of a teacher that"),
        (["--worker_index=2"], "Expected worker_index of 0 to worker_count - 1 = 0"),
        *(
            (
                [f"--{flag}=none.txt"],
                "Expected an existing file or folder, or a glob that matches one. "
                f"Received: {flag}='none.txt'",
            )
            for flag in ("teacher", "images", "image_dir", "labels")
        ),
    ],
)
def test_mistakes_are_one_line(arguments, text, teacher_dir, tiny_coco, tmp_path):
    places = {"results": tmp_path / "results.json", "empty": tmp_path / "empty"}
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    places["results"].write_text(json.dumps([entry]))
    places["empty"].mkdir()
    result = call(
        f"--teacher={teacher_dir}",
        f"--images={tiny_coco.unlabeled}",
        f"--output_dir={tmp_path / 'labels'}",
        *(argument.format(**places) for argument in arguments),
    )
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "pseudo_label:" in line]
    assert len(lines) == 1 and text in lines[0]
    assert "Traceback" not in result.stderr


def test_coco_results_as_teacher_with_report_and_export(tiny_coco, tmp_path):
    """Ground truth as COCO results: full recall, no uncertainty."""
    content = json.loads(tiny_coco.annotations.read_text())
    image = content["images"][0]
    image["file_name"] = f"elsewhere/{image['file_name']}"
    tiny_coco.annotations.write_text(json.dumps(content))
    results = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": 0.97}
        for entry in content["annotations"]
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    result = call(
        f"--teacher={path}",
        f"--images={tiny_coco.annotations}",
        f"--image_dir={tiny_coco.images}",
        f"--output_dir={tmp_path / 'labels'}",
        f"--coco_json={tmp_path / 'labels.json'}",
        "--report",
    )
    assert result.returncode == 0, result.stderr
    text = "images: file names that differ in their folder, found in the folder of "
    assert f"{text}images: 1 (first: {image['file_name']} is " in result.stdout
    report = json.loads((tmp_path / "labels" / "report.json").read_text())
    row = report["sweep"]["classes"]["all"]
    best = f"--gin_param='SCORE_THRESHOLD = {row['suggested']}'"
    assert f"threshold of the best F1, on 18 labels: {best}\n" in result.stdout
    assert row["precision"] == [1.0] * 19 and row["recall"] == [1.0] * 19
    assert row["suggested"] == 0.5  # all of 0.05 to 0.95 are as good
    # The original category ids are 1, 3 and 90.
    found = sources.coco(str(tmp_path / "labels.json"), "/")
    truth = sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))
    assert found.class_names == truth.class_names
    for example, target in zip(found.dataset, truth.dataset, strict=True):
        assert example["id"] == target["id"]
        np.testing.assert_allclose(example["boxes"], target["boxes"], atol=1e-6)
        np.testing.assert_array_equal(example["classes"], target["classes"])
        np.testing.assert_allclose(example["scores"], 0.97)


@pytest.mark.parametrize(
    ("flag", "choices"),
    [
        ("box_units", answers.BOX_UNITS),
        ("box_format", answers.BOX_FORMATS),
        ("score_scale", map(str, results_files.SCORE_SCALES)),
        ("pixel_scale", served.PIXEL_SCALES),
        ("channels", served.CHANNELS),
    ],
)
def test_choices_are_those_of_the_modules(flag, choices):
    """The command has its own list, as it checks flags before importing TensorFlow."""
    result = call(f"--{flag}=feet")
    assert result.returncode == 1
    text = f"flag --{flag}=feet: value should be one of <{'|'.join(choices)}>"
    assert text in result.stderr


def test_a_teacher_that_wants_other_pixels(tiny_coco, tmp_path):
    """What gives labels is told, and gives them."""

    class Bright(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
        def serve(self, images):
            largest = tf.reduce_max(images, axis=(1, 2, 3))
            score = tf.where((largest > 0.5) & (largest <= 1.0), 0.75, 0.0)[:, None]
            return {
                "detection_boxes": tf.ones_like(score)[..., None] * [0.0, 0.0, 0.5, 1],
                "detection_scores": score,
                "detection_classes": tf.ones_like(score),
            }

    module = Bright()
    tf.saved_model.save(module, str(tmp_path / "bright"), module.serve)
    (tmp_path / "labels.txt").write_text("bright\n")
    settings = [
        f"--teacher={tmp_path / 'bright'}",
        f"--images={tiny_coco.unlabeled}",
        f"--labels={tmp_path / 'labels.txt'}",
    ]
    result = call(*settings, f"--output_dir={tmp_path / 'none'}")
    assert result.returncode == 3
    lines = [line for line in result.stderr.splitlines() if "pseudo_label: " in line]
    assert lines[-1] == (
        "pseudo_label: a trial on 4 images gives 4 labels (mean score 0.75) with "
        "pixels of 0..1 in rgb, instead of 0 (mean score 0.00): label again with "
        "--pixel_scale=0..1 and another --output_dir"
    )
    place = f"--output_dir={tmp_path / 'labels'}"
    result = call(*settings, place, "--pixel_scale=0..1")
    assert result.returncode == 0, result.stderr
    stored = label_store.read(str(tmp_path / "labels")).dataset
    for example in stored:
        assert example["boxes"].numpy().tolist() == [[0.0, 0.0, 0.5, 1.0]]


# Finds the painted objects of `tiny_coco`: bright in red, green or blue.
PAINTED = """
import numpy as np

class Result:
    names = {0: "square", 1: "bar", 2: "post"}

    def __init__(self, image):
        found = []
        for k in range(3):
            y, x = np.nonzero(image[..., k] > 165)
            found.append((x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else ())
        rows = [(*box, 0.9, k) for k, box in enumerate(found) if box]
        rows = np.array(rows, np.float32).reshape(-1, 6)
        self.boxes, self.orig_shape = self, image.shape[:2]
        self.xyxy, self.conf, self.cls = rows[:, :4], rows[:, 4], rows[:, 5]

def painted(images):
    return [Result(image) for image in images]

def broken(images):
    if images[0].shape == (96, 128, 3):  # the first call
        return painted(images)
    return [image.absent for image in images]
"""


def test_a_function_as_teacher(tiny_coco, tmp_path):
    """From the current folder, in one process and two, on one machine and two."""
    (tmp_path / "my_module.py").write_text(PAINTED)
    settings = [
        "--teacher=python:my_module:painted",
        f"--images={tiny_coco.annotations}",
        f"--image_dir={tiny_coco.images}",
        "--shard_size=2",
        "--classes=post,square,bar",
        "--report",
        f"--coco_json={tmp_path / 'labels.json'}",
    ]
    for name, more in (
        ("one", [[]]),
        ("two", [["--num_workers=2"]]),
        ("machines", [["--worker_count=2", f"--worker_index={k}"] for k in range(2)]),
    ):
        for flags in more:
            place = f"--output_dir={tmp_path / name}"
            result = call(*settings, place, *flags, cwd=tmp_path)
            assert result.returncode == 0, result.stderr
        one, other = (
            # The report names its folder.
            {
                name: file
                for name, file in files.items()
                if name.endswith((".tfrecord", ".json"))
            }
            for files in (contents(tmp_path / "one"), contents(tmp_path / name))
        )
        assert one == other and len(one) == 3 * 2 + 3  # shards, summaries, others
        found = sources.coco(str(tmp_path / "labels.json"), "/")
        truth = sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))
        assert set(found.class_names) == {"post", "square", "bar"}
        for example, target in zip(found.dataset, truth.dataset, strict=True):
            boxes, wanted = (
                {source.class_names[k]: box for k, box in zip(e["classes"], e["boxes"])}
                for source, e in ((found, example), (truth, target))
            )
            assert set(boxes) == set(wanted)
            for class_name, box in wanted.items():  # JPEG blurs colors
                np.testing.assert_allclose(boxes[class_name], box, atol=0.04)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--teacher=python:my_module:broken"],
            "teacher my_module:broken raised AttributeError: 'numpy.ndarray' object "
            "has no attribute 'absent' at my_module.py, line 23\n",
        ),
        (
            ["--teacher=python:my_module:broken", "--num_workers=2"],
            "has no attribute 'absent' at my_module.py, line 23\n",
        ),
        (["--teacher=python:absent:painted"], "Expected a module absent, in the curre"),
        (
            ["--teacher=python:my_module:painted", "--box_format=yxyx"],
            "Expected box_format=xyxy, that of results of Ultralytics. Received: ",
        ),
        (
            ["--teacher=python:my_module:painted", "--classes=tree"],
            "missing: ['tree'], others: ['square', 'bar', 'post']",
        ),
    ],
)
def test_mistakes_in_a_function(flags, text, tiny_coco, tmp_path):
    (tmp_path / "my_module.py").write_text(PAINTED)
    place = f"--output_dir={tmp_path / 'labels'}"
    result = call(*flags, f"--images={tiny_coco.unlabeled}", place, cwd=tmp_path)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "pseudo_label:" in line]
    assert len(lines) == 1 and text in f"{lines[0]}\n"
    assert "Traceback" not in result.stderr
    result = call(*flags, f"--images={tiny_coco.unlabeled}", place, "--traceback")
    assert "Traceback" in result.stderr
