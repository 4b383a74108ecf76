"""Exported models: files, use by other programs, and bad requests."""

import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from processes import call, python
from tensorflow.python.tools import saved_model_cli
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from official_selftrain import RetinaNet, SemanticSegmenter, backbones
from official_selftrain.data import images
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.files import hashes
from official_selftrain.geometry import letterbox
from official_selftrain.inference import prediction
from official_selftrain.labeling import opening
from official_selftrain.serving import saved_models, signatures

pytestmark = pytest.mark.process
ROOT = pathlib.Path(__file__).parents[2]
VERIFY = "export/verify_saved_model.py"
KINDS = ("detector", "segmenter")
NAMES = {"detector": ["one", "two"], "segmenter": ["background", "one", "two"]}
SIZES = ((50, 70), (64, 64), (31, 90), (120, 100))


def call_fresh(*arguments):
    """Run a script in a Python that has imported nothing yet."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )


def export(model_dir, export_dir, *flags):
    folders = (f"--model_dir={model_dir}", f"--export_dir={export_dir}")
    return call("export/export_saved_model.py", *folders, *flags)


def make_model(kind):
    """A model with well-separated scores, like a trained one."""
    keras.utils.set_random_seed(3)
    if kind == "detector":
        model = RetinaNet(
            2,
            (64, 64),
            backbones.resnet(50, blocks=(1, 1), filters=(16, 16)),
            max_level=3,
            num_filters=16,
            num_head_convs=1,
            max_detections=20,
        )
    else:
        model = SemanticSegmenter(
            3,
            (128, 128),
            backbones.resnet(50, blocks=(1, 1, 1, 1), filters=(16, 16, 16, 16)),
            num_filters=16,
            num_repeats=1,
        )
    draw = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if weight.name == "kernel":
            fan_in = np.prod(weight.shape[:-1])
            # Boxes near their anchors; well-separated scores.
            gain = {"box_predict": 0.01, "class_predict": 5.0}.get(
                weight.path.split("/")[0], 1.0
            )
            values = draw.normal(0.0, gain / np.sqrt(fan_in), weight.shape)
            weight.assign(values)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two model_dirs, their models, and the folder they are exported to."""
    folder = tmp_path_factory.mktemp("exported")
    models = {}
    for kind in KINDS:
        models[kind] = model = make_model(kind)
        stage = folder / kind / "student"
        stage.mkdir(parents=True)
        model.save(stage / "model.keras")
        names = "".join(f"{name}\n" for name in NAMES[kind])
        (folder / kind / "labels.txt").write_text(names)
        (folder / kind / "operative.gin").write_text("SEED = 0\n")
        done = export(folder / kind, folder / "served")
        assert done.returncode == 0, done.stderr
        assert f"export: {folder}/served/{kind}/1" in done.stdout
    photos = folder / "photos"
    photos.mkdir()
    for number, size in enumerate(SIZES):
        (example,) = digits.scenes("test", 1, number, size).dataset
        image = Image.fromarray(images.decode(example["encoded"]).numpy())
        image.save(photos / f"{number}.{'jpg' if number % 2 else 'png'}")
    return folder, models


def photos(folder):
    return sorted((folder / "photos").iterdir())


def expected(model, contents):
    """Return the labels of an image file, without the batch axis."""
    image = images.decode(tf.constant(contents))
    frame, _, _ = augment.fit(image, {}, model.image_size)
    size = tf.shape(image)[:2]
    if not hasattr(model, "multi_scale"):
        found = prediction.predictor(model)(frame[None], size[None])
        return {key: value.numpy()[0] for key, value in found.items()}
    covered = letterbox.letterbox_scale(size[None], model.image_size)[0]
    covered = tf.cast(tf.round(tf.cast(size, tf.float32) * covered), tf.int32)
    found = model.multi_scale()(frame[None])[0, : covered[0], : covered[1]]
    found = tf.image.resize(found, size).numpy()
    return {"mask": found.argmax(-1), "confidence": found.max(-1)}


def assert_same(answer, right):
    """Compare outputs of one image with `expected`."""
    if "mask" in right:
        height, width = right["mask"].shape
        mask, confidence = answer["mask"], answer["confidence"]
        np.testing.assert_array_equal(mask[:height, :width], right["mask"])
        np.testing.assert_allclose(
            confidence[:height, :width], right["confidence"], atol=1e-4
        )
        return
    assert right["num_detections"] >= 5  # so that something is compared
    assert answer["num_detections"] == right["num_detections"]
    np.testing.assert_allclose(answer["detection_boxes"], right["boxes"], atol=1e-3)
    np.testing.assert_allclose(answer["detection_scores"], right["scores"], atol=1e-4)
    np.testing.assert_array_equal(answer["detection_classes"], right["classes"] + 1)


def test_export_outputs(exported):
    folder, models = exported
    served = folder / "served"
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((served / "models.config").read_text(), config)
    assert [(c.name, c.base_path) for c in config.model_config_list.config] == [
        (kind, f"/models/{kind}") for kind in KINDS
    ]
    assert (
        "max_batch_size { value: 8 }"
        in (served / "batching_parameters.txt").read_text()
    )
    assert [path.name for path in (served / "detector").iterdir()] == ["1"]
    assets = served / "detector" / "1" / "assets"
    assert (assets / "labels.txt").read_text() == "one\ntwo\n"
    assert (assets / "operative.gin").read_text() == "SEED = 0\n"
    model = folder / "detector" / "student" / "model.keras"
    origin = json.loads((assets / "export.json").read_text())
    assert origin["model"] == str(model)
    assert origin["sha256"] == hashes.sha256(str(model))


def test_warmup_requests_match_tf_serving(exported):
    path = exported[0] / "served" / "detector" / "1"
    records = tf.data.TFRecordDataset(
        str(path / "assets.extra" / "tf_serving_warmup_requests")
    )
    found = {}
    for record in records.as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(
            record
        ).predict_log.request
        assert request.model_spec.name == "detector"
        ((key, value),) = request.inputs.items()
        found[request.model_spec.signature_name] = key, tf.make_ndarray(value)
    loaded = tf.saved_model.load(str(path))
    assert sorted(found) == ["image_tensor", "serving_default", "tf_example"]
    for name, (key, value) in found.items():
        outputs = loaded.signatures[name](**{key: tf.constant(value)})
        np.testing.assert_array_equal(outputs["image_info"][0, 0], [64, 64])


@pytest.fixture
def saves_little(monkeypatch):
    """Replace TensorFlow's part of an export, for tests of the folders around it."""

    def save(module, folder, functions):
        os.makedirs(os.path.join(folder, "assets"))
        with open(os.path.join(folder, "saved_model.pb"), "wb") as file:
            file.write(b"-")

    monkeypatch.setattr(saved_models.tf.saved_model, "save", save)


def test_versions_increase_and_are_never_overwritten(exported, saves_little, tmp_path):
    folder, models = exported
    paths = [
        saved_models.export(models["detector"], str(tmp_path), "m", ["a", "b"], version)
        for version in (None, None, 7, None)
    ]
    assert [os.path.basename(path) for path in paths] == ["1", "2", "7", "8"]
    done = export(folder / "detector", tmp_path, "--name=m", "--version=7")
    assert done.returncode == 1
    assert "Received: version=7" in done.stderr and "has 1, 2, 7, 8" in done.stderr
    assert sorted(os.listdir(tmp_path / "m")) == ["1", "2", "7", "8"]
    for name, names, text in (
        ("a/b", ["a", "b"], "Received: 'a/b'"),
        ('a "b"', ["a", "b"], "letters, digits"),
        ("m", ["a"], "2 classes. Received: 1 names"),
    ):
        with pytest.raises(ValueError, match=text):
            saved_models.export(models["detector"], str(tmp_path), name, names)


def test_failed_export_leaves_no_files(exported, saves_little, tmp_path, monkeypatch):
    def fail(path, *_):
        assert os.path.exists(os.path.join(path, "saved_model.pb"))
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_models, "_write_warmup", fail)
    with pytest.raises(KeyboardInterrupt):
        saved_models.export(
            exported[1]["detector"], str(tmp_path), "m", ["a", "b"], warmup=b"-"
        )
    assert os.listdir(tmp_path / "m") == []


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--stage=teacher"], "teacher/model.keras. Make it with the stage teacher"),
        (["--average"], "average.keras. Train with EMA_DECAY to create it"),
        (["--warmup_image=none.jpg"], "none.jpg"),
    ],
)
def test_invalid_exports(exported, tmp_path, flags, text):
    done = export(exported[0] / "detector", tmp_path, *flags)
    assert done.returncode == 1 and text in done.stderr
    assert "Traceback" not in done.stderr


def test_suppression_flags_require_a_detector(exported, tmp_path):
    done = export(exported[0] / "segmenter", tmp_path, "--soft_nms_sigma=0.3")
    assert done.returncode == 1
    assert "Received: soft_nms_sigma=0.3 for a SemanticSegmenter" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_signature_equals_the_keras_model(exported, kind):
    """Files of several sizes in one batch, examples, and pixels, image by image."""
    folder, models = exported
    loaded = tf.saved_model.load(str(folder / "served" / kind / "1")).signatures
    files = [path.read_bytes() for path in photos(folder)]
    by_file = loaded["serving_default"](image_bytes=tf.constant(files))
    records = []
    for contents in files:
        example = tf.train.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(contents)
        records.append(example.SerializeToString())
    by_example = loaded["tf_example"](examples=tf.constant(records))
    for number, contents in enumerate(files):
        right = expected(models[kind], contents)
        pixels = images.decode(tf.constant(contents))[None]
        by_pixels = loaded["image_tensor"](images=tf.repeat(pixels, 2, axis=0))
        for found, row in ((by_file, number), (by_example, number), (by_pixels, 1)):
            assert_same({k: v.numpy()[row] for k, v in found.items()}, right)
    if kind == "segmenter":  # padding
        assert by_file["mask"].shape == (4, 120, 100)
        assert np.all(by_file["mask"][0, 50:] == 255)
        assert np.all(by_file["confidence"][0, :, 70:] == 0.0)
    else:
        info = [[[h, w], [h, w], [1, 1], [0, 0]] for h, w in SIZES]
        np.testing.assert_array_equal(by_file["image_info"], info)


def test_serving_resizes_like_labeling():
    """Resized files and pixels equal `augment.fit` exactly."""
    draw = np.random.default_rng(0)
    for height, width in ((50, 70), (64, 64), (200, 30), (7, 65), (300, 301)):
        image = draw.integers(0, 256, (height, width, 3), np.uint8)
        found = tf.function(letterbox.fit)(tf.constant(image[None]), (64, 96))
        right, _, _ = augment.fit(image, {}, (64, 96))
        np.testing.assert_array_equal(found[0], right)


def test_raw_outputs(exported):
    """Boxes and scores of all anchors, computed from the model's outputs."""
    folder, models = exported
    frames = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    loaded = tf.saved_model.load(str(folder / "served" / "detector" / "1"))
    found = loaded.signatures["raw"](frames=tf.constant(frames))
    model = models["detector"]
    outputs = {k: v.numpy() for k, v in model(frames, training=False).items()}
    scores = 1.0 / (1.0 + np.exp(-outputs["class_logits"].astype(np.float64)))
    np.testing.assert_allclose(found["raw_detection_scores"], scores, atol=1e-6)
    anchors = np.asarray(model.anchors, np.float64)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    sizes = anchors[:, 2:] - anchors[:, :2]
    deltas = outputs["box_deltas"].astype(np.float64)
    centers = centers + deltas[..., :2] * sizes
    sizes = sizes * np.exp(np.minimum(deltas[..., 2:], np.log(1000 / 16)))
    right = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1)
    np.testing.assert_allclose(
        found["raw_detection_boxes"], right, rtol=1e-4, atol=1e-3
    )
    frames = np.float32(frames[:, :1, :1] + np.zeros((1, 128, 128, 1), np.float32))
    loaded = tf.saved_model.load(str(folder / "served" / "segmenter" / "1"))
    found = loaded.signatures["raw"](frames=tf.constant(frames))
    right = models["segmenter"](frames, training=False)["mask_logits"]
    np.testing.assert_allclose(found["mask_logits"], right, atol=1e-4)


def test_export_settings(exported, tmp_path):
    """Normalized boxes, Soft-NMS, another threshold, fewer boxes."""
    folder, models = exported
    done = export(
        folder / "detector",
        tmp_path,
        "--boxes=normalized",
        "--soft_nms_sigma=0.3",
        "--score_threshold=0.2",
        "--max_detections=7",
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "detector" / "1"
    contents = photos(folder)[0].read_bytes()
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = {
        k: v.numpy() for k, v in loaded(image_bytes=tf.constant([contents])).items()
    }
    model = keras.models.load_model(folder / "detector" / "student" / "model.keras")
    plain = expected(model, contents)
    model.soft_nms_sigma, model.score_threshold, model.max_detections = 0.3, 0.2, 7
    right = expected(model, contents)
    assert right["scores"].shape == (7,) and found["detection_scores"].shape == (1, 7)
    assert not np.allclose(right["scores"], plain["scores"][:7])
    np.testing.assert_allclose(found["detection_scores"][0], right["scores"], atol=1e-5)
    info = [[50, 70], [1, 1], [1 / 50, 1 / 70], [0, 0]]
    np.testing.assert_allclose(found["image_info"][0], info, rtol=1e-6)
    pixels = found["detection_boxes"][0] / np.tile(found["image_info"][0, 2], 2)
    np.testing.assert_allclose(pixels, right["boxes"], atol=1e-3)
    done = call(VERIFY, path, f"--images={folder / 'photos'}")
    assert done.returncode == 0 and "4 images: equal" in done.stdout, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_verification_in_a_fresh_process(exported, tmp_path, kind):
    folder, _ = exported
    path = folder / "served" / kind / "1"
    script, images_flag = (
        "export/verify_saved_model.py",
        f"--images={folder / 'photos'}",
    )
    command = [script, path, images_flag]
    done = call_fresh(*command)  # so that it has to import the models' classes itself
    assert done.returncode == 0 and "4 images: equal" in done.stdout, done.stderr
    other = make_model(kind)
    for weight in other.trainable_weights:
        weight.assign(weight * 1.01)
    other.save(tmp_path / "other.keras")
    done = call(*command, f"--model={tmp_path / 'other.keras'}")
    assert done.returncode == 1 and "NOT equal" in done.stdout
    moved = json.loads((path / "assets" / "export.json").read_text())
    shutil.copytree(path, tmp_path / "1")
    for changes, text in (
        ({"model": "gone.keras"}, "Pass --model=FILE if it was moved"),
        ({"sha256": "0"}, "Received: a different model; pass --model=FILE"),
    ):
        origin = json.dumps({**moved, **changes})
        (tmp_path / "1" / "assets" / "export.json").write_text(origin)
        done = call(script, tmp_path / "1", images_flag)
        assert done.returncode == 1 and text in done.stderr
    done = call(script, tmp_path, images_flag)
    assert done.returncode == 1 and "export.json" in done.stderr


def test_invalid_image_files_are_skipped(exported, tmp_path):
    folder, _ = exported
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "photos", mixed)
    (mixed / "0.jpg").write_bytes(b"no image")
    first = photos(folder)[0]
    (mixed / "broken.jpg").write_bytes(first.read_bytes()[:60])
    path = folder / "served" / "detector" / "1"
    command = [VERIFY, path]
    done = call(*command, f"--images={mixed}")
    assert done.returncode == 0 and "4 images: equal, 2 skipped" in done.stdout
    for name in ("0.jpg", "broken.jpg"):
        assert f"skipped {mixed / name}: can't be read" in done.stderr
    done = call(*command, f"--images={mixed / 'b*.jpg'}")
    assert done.returncode == 1
    assert "Expected an image that can be read. Received: none of 1" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_runs_with_tensorflow_alone(exported, tmp_path, kind):
    """Neither Keras nor this project can be imported."""
    folder, models = exported
    blocked = "import runpy, sys; sys.modules['keras'] = None; "
    blocked += "sys.modules['official_selftrain'] = None; sys.argv = sys.argv[1:]; "
    blocked += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = call_fresh(
        *("-c", blocked, "export/run_saved_model.py"),
        folder / "served" / kind / "1",
        *(f"--images={folder / 'photos'}", f"--output={tmp_path / 'out.npz'}"),
        "--batch_size=3",
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    for number, path in enumerate(photos(folder)):
        prefix = f"{number}/"
        outputs = {
            key.removeprefix(prefix): found[key] for key in found if prefix in key
        }
        assert_same(outputs, expected(models[kind], path.read_bytes()))


@pytest.mark.parametrize("kind", KINDS)
def test_runs_with_saved_model_cli(exported, tmp_path, kind):
    folder, models = exported
    contents = photos(folder)[0].read_bytes()
    pixels = images.decode(tf.constant(contents))
    np.save(tmp_path / "pixels.npy", pixels.numpy()[None])
    done = call(
        saved_model_cli.__file__,
        *("run", "--dir", folder / "served" / kind / "1", "--tag_set", "serve"),
        *("--signature_def", "image_tensor", "--outdir", tmp_path),
        *("--inputs", f"images={tmp_path / 'pixels.npy'}"),
    )
    assert done.returncode == 0, done.stderr
    right = expected(models[kind], contents)
    names = serving_outputs(kind)
    assert_same({name: np.load(tmp_path / f"{name}.npy")[0] for name in names}, right)


def serving_outputs(kind):
    if kind == "segmenter":
        return ("mask", "confidence")
    return (
        "detection_boxes",
        "detection_scores",
        "detection_classes",
        "num_detections",
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["openvino", "onnx", "tflite"])
def test_converted_formats_give_equal_outputs(exported, tmp_path, kind, form):
    folder, _ = exported
    output = tmp_path / ("model.xml" if form == "openvino" else f"model.{form}")
    done = call(
        "export/convert_saved_model.py",
        folder / "served" / kind / "1",
        *(f"--format={form}", f"--output={output}", f"--images={folder / 'photos'}"),
    )
    assert done.returncode == 0 and "4 images: equal" in done.stdout, done.stderr
    assert output.stat().st_size > 1000


@pytest.fixture(scope="module")
def server(exported):
    """URLs of the two exported models, on TF Serving or our stand-in."""
    processes, urls = [], {}
    for kind in KINDS:
        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        folder = exported[0] / "served" / kind
        rest, grpc = ports
        if shutil.which("tensorflow_model_server"):
            command = ["tensorflow_model_server", f"--port={grpc}"]
            command += [f"--rest_api_port={rest}", f"--model_name={kind}"]
            command += [f"--model_base_path={folder}"]
        else:
            script = ROOT / "tests" / "prediction_server.py"
            command = [python(), script, folder, kind, rest, grpc]
        processes.append(subprocess.Popen([str(part) for part in command]))
        urls[kind] = {
            "http": f"http://127.0.0.1:{rest}/v1/models/{kind}",
            "grpc": f"grpc://127.0.0.1:{grpc}/{kind}",
        }
        deadline = time.monotonic() + 120
        while processes[-1].poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", rest)) == 0:
                    break
            time.sleep(0.1)
    yield urls
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("kind", KINDS)
def test_server_round_trip(exported, server, kind, scheme):
    folder, models = exported
    signature, version = signatures.server(server[kind][scheme])
    assert version == "1" and signature.input_name == "image_bytes"
    files = [path.read_bytes() for path in photos(folder)]
    outputs = signature.call(files)
    for number, contents in enumerate(files):
        row = {key: value[number] for key, value in outputs.items()}
        assert_same(row, expected(models[kind], contents))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("kind", KINDS)
def test_client_prints_and_draws(exported, server, tmp_path, kind, scheme):
    folder, models = exported
    photo = photos(folder)[3]
    command = ["export/client.py", f"--image={photo}"]
    command += [f"--url={server[kind][scheme]}", f"--output={tmp_path / 'drawn.png'}"]
    command += [f"--labels={folder / kind / 'labels.txt'}", "--score_threshold=0.3"]
    done = call(*command)
    assert done.returncode == 0, done.stderr
    right = expected(models[kind], photo.read_bytes())
    lines = done.stdout.splitlines()
    if kind == "detector":
        kept = np.sum(right["scores"] >= 0.3)
        assert 0 < kept == len(lines)
        name, score, *box = lines[0].split()
        assert name == NAMES[kind][right["classes"][0]]
        assert float(score) == pytest.approx(right["scores"][0], abs=6e-4)
        assert list(map(float, box)) == pytest.approx(right["boxes"][0], abs=0.06)
    else:
        shares = {line.split()[0]: float(line.split()[1]) for line in lines}
        for label, name in enumerate(NAMES[kind]):
            share = np.mean(right["mask"] == label)
            assert shares.get(name, 0.0) == pytest.approx(share, abs=6e-4)
    drawn = np.asarray(Image.open(tmp_path / "drawn.png"))
    plain = np.asarray(Image.open(photo).convert("RGB"))
    assert drawn.shape == plain.shape and np.any(drawn != plain)
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    done = call(command[0], f"--image={text}", *command[2:])
    assert done.returncode == 1 and "a JPEG, PNG or BMP file" in done.stderr
    done = call(*command, "--url=http://127.0.0.1:9/v1/models/none")
    assert done.returncode == 1 and "client: no response from" in done.stderr


def png(width, height, rows):
    """Return a gray PNG with a size in its header and some black rows."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows), 9)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(photo, size=None):
    """Return a photo as JPEG, optionally with a false size in its header."""
    image = tf.io.decode_image(photo, channels=3, expand_animations=False)
    contents = tf.io.encode_jpeg(image).numpy()
    if size:
        place = contents.index(b"\xff\xc0") + 5
        contents = contents[:place] + struct.pack(">HH", *size) + contents[place + 4 :]
    return contents


BAD = {
    "no image": (lambda photo: b"hello", "Expected a JPEG, PNG or BMP file"),
    "nothing": (lambda photo: b"", "Expected a JPEG, PNG or BMP file"),
    "a GIF": (lambda photo: b"GIF89a" + bytes(99), "Expected a JPEG, PNG or BMP file"),
    "a WebP": (
        lambda photo: b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(99),
        "Expected a JPEG, PNG or BMP file",
    ),
    "half a JPEG": (lambda photo: jpeg(photo)[:-400], "(?i)invalid jpeg"),
    "a JPEG's start": (lambda photo: jpeg(photo)[:20], "(?i)jpeg"),
    "a huge JPEG": (lambda photo: jpeg(photo, (60000, 60000)), "67,108,864 pixels"),
    "a huge PNG": (lambda photo: png(100000, 100000, 1), "67,108,864 pixels"),
    "a bomb": (lambda photo: png(20000, 20000, 20000), "67,108,864 pixels"),
    "a PNG without rows": (lambda photo: png(50, 50, 1), "(?i)png"),
}


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("bad", BAD)
def test_bad_requests_are_rejected_and_good_ones_answered(
    exported, server, scheme, bad
):
    folder, models = exported
    photo = photos(folder)[0].read_bytes()
    make, text = BAD[bad]
    contents = make(photo)
    assert len(contents) < 1_000_000
    signature, _ = signatures.server(server["detector"][scheme])
    with pytest.raises(signatures.Refused, match=text):
        signature.call([contents])
    with pytest.raises(signatures.Refused, match=text):
        signature.call([photo, contents])
    outputs = signature.call([photo])
    right = expected(models["detector"], photo)
    assert_same({key: value[0] for key, value in outputs.items()}, right)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_teacher_labels_like_the_keras_model(exported, server, kind):
    """Opens the teacher as `pseudo_label` does."""
    folder, models = exported
    stage = folder / kind / "student" / "model.keras"
    places = [str(stage), str(folder / "served" / kind / "1"), server[kind]["grpc"]]
    labels = str(folder / kind / "labels.txt")
    found = []
    for place in places:
        # A SavedModel contains its labels.
        settings = opening.TeacherSettings(
            place, labels=None if place.endswith("/1") else labels
        )
        teacher = opening.open_teacher(settings)
        assert list(teacher.class_names) == NAMES[kind]
        items = []
        for path in photos(folder):
            contents = tf.constant(path.read_bytes())
            image = images.decode(contents)
            prepared = teacher.prepare(
                {"encoded": contents, "path": tf.constant("")}, image
            )
            items.append({**prepared, "size": tf.shape(image)[:2]})
        found.append(teacher.label(items))
    for others in found[1:]:
        for labels_, right in zip(others, found[0], strict=True):
            if kind == "segmenter":
                for key, tolerance in (("mask", 0), ("confidence", 1)):
                    pngs = [tf.io.decode_png(x[key]) for x in (labels_, right)]
                    difference = np.subtract(*map(np.int32, pngs))
                    assert np.abs(difference).max() <= tolerance
                continue
            assert len(right["boxes"]) >= 5
            np.testing.assert_array_equal(labels_["classes"], right["classes"])
            np.testing.assert_allclose(labels_["boxes"], right["boxes"], atol=1e-3)
            np.testing.assert_allclose(labels_["scores"], right["scores"], atol=1e-4)


def test_requests_without_images_or_with_extreme_sizes(exported):
    folder, _ = exported
    for kind in KINDS:
        loaded = tf.saved_model.load(str(folder / "served" / kind / "1")).signatures
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="Expected at least one image"
        ):
            loaded["serving_default"](image_bytes=tf.constant([], tf.string))
    strips = [png(10000, 20, 20), png(20, 10000, 10000)]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"fit into 67,108,864 pixels.*10000 10000"
    ):
        loaded["serving_default"](image_bytes=tf.constant(strips))
    assert loaded["serving_default"](image_bytes=tf.constant(strips[:1]))[
        "mask"
    ].shape == (1, 20, 10000)


@pytest.mark.parametrize(
    ("text", "is_added"),
    [
        ("model_config_list {\n}\n# the end }\n", True),
        ("# name: 'new' later\nmodel_config_list { }\n", True),
        ("model_config_list { config { name: 'new' } }", False),
        ("", False),
    ],
)
def test_existing_server_config(tmp_path, capsys, text, is_added):
    (tmp_path / "models.config").write_text(text)
    saved_models.add_to_server(str(tmp_path), "new")
    found = (tmp_path / "models.config").read_text()
    if not is_added:
        assert found == text
        assert ("add this to its list" in capsys.readouterr().out) == (text == "")
        return
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(found, config)
    assert [c.name for c in config.model_config_list.config] == ["new"]


def test_nan_differences_are_infinite(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "export"))
    from run_saved_model import largest_difference

    assert largest_difference([1.0, 2.0], [1.5, 2.0]) == 0.5
    assert largest_difference([1.0, np.nan], [1.0, 2.0]) == np.inf
    assert largest_difference([1.0], [1.0, 1.0]) == np.inf
