"""One teacher as Keras model, SavedModel and server; boxes in every unit."""

import base64
import concurrent.futures
import http.server
import io
import json
import threading

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain import RetinaNet, backbones
from official_selftrain.data import examples, images
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.labeling import opening, served, teachers
from official_selftrain.serving import signatures

NAMES, IDS = ["0", "1"], {1: 0, 2: 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small detector and its SavedModel, which takes image files."""
    keras.utils.set_random_seed(0)
    backbone = backbones.resnet(50, blocks=(1, 1), filters=(16, 16))
    model = RetinaNet(
        2, (64, 64), backbone, max_level=3, num_filters=16, num_head_convs=1,
        score_threshold=0.005, max_detections=20,
    )  # fmt: skip

    def one(contents):
        image = images.decode(contents)
        return augment.fit(image, {}, (64, 64))[0], tf.shape(image)[:2]

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(self, image_bytes):
            frames, sizes = tf.map_fn(
                one, image_bytes, fn_output_signature=(tf.float32, tf.int32)
            )
            frames = tf.ensure_shape(frames, (None, 64, 64, 3))
            found = model.predictions(model(frames, training=False), sizes)
            return {
                "detection_boxes": found["boxes"],
                "detection_scores": found["scores"],
                "detection_classes": found["classes"] + 1,
                "num_detections": found["num_detections"],
            }

    path = tmp_path_factory.mktemp("saved") / "1"
    module = Module()
    tf.saved_model.save(module, str(path), module.serve)
    return model, str(path)


def rest_server(path):
    """TensorFlow Serving's REST interface around a SavedModel."""
    function = tf.saved_model.load(path).signatures["serving_default"]
    metadata = {
        "model_spec": {"name": "teacher", "version": "1"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {
                            "image_bytes": {
                                "dtype": "DT_STRING",
                                "tensor_shape": {"dim": [{"size": "-1"}]},
                            }
                        },
                        "outputs": {k: {} for k in function.structured_outputs},
                    }
                }
            }
        },
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        failures = 0

        def answer(self, code, content):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_GET(self):
            is_known = self.path == "/v1/models/teacher/metadata"
            self.answer(
                200 if is_known else 404, metadata if is_known else {"error": "no"}
            )

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if Handler.failures:
                Handler.failures -= 1
                self.answer(503, {"error": "not yet"})
                return
            values = [base64.b64decode(v["b64"]) for v in body["inputs"]["image_bytes"]]
            try:
                outputs = function(image_bytes=tf.constant(values))
            except tf.errors.InvalidArgumentError:
                self.answer(400, {"error": "no image"})
                return
            self.answer(
                200, {"outputs": {k: v.numpy().tolist() for k, v in outputs.items()}}
            )

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, Handler


def grpc_server(path):
    """TensorFlow Serving's PredictionService around a SavedModel."""
    loaded = tf.saved_model.load(path)
    function = loaded.signatures["serving_default"]
    messages = signatures._messages()

    def metadata(request, context):
        if request.model_spec.name != "teacher":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        content = messages["SignatureDefMap"]()
        entry = content.signature_def["serving_default"]
        entry.inputs["image_bytes"].dtype = tf.string.as_datatype_enum
        entry.inputs["image_bytes"].tensor_shape.dim.add(size=-1)
        for name in function.structured_outputs:
            entry.outputs[name].name = name
        answer = messages["GetModelMetadataResponse"]()
        answer.model_spec.version.value = 4
        answer.metadata["signature_def"].value = content.SerializeToString()
        return answer

    def predict(request, context):
        values = tf.make_ndarray(request.inputs["image_bytes"])
        try:
            outputs = function(image_bytes=tf.constant(values))
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        answer = messages["PredictResponse"]()
        for name, value in outputs.items():
            signatures._set(answer.outputs[name], tf.make_tensor_proto(value.numpy()))
        return answer

    def handler(function, request):
        return grpc.unary_unary_rpc_method_handler(
            function,
            messages[request].FromString,
            lambda answer: answer.SerializeToString(),
        )

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {
                    "GetModelMetadata": handler(metadata, "GetModelMetadataRequest"),
                    "Predict": handler(predict, "PredictRequest"),
                },
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def item(teacher, example):
    image = images.decode(example["encoded"])
    return {**teacher.prepare(example, image), "size": tf.shape(image)[:2]}


def prepared(teacher):
    pool = digits.scenes("unlabeled", 5, 0, (50, 70), num_classes=2)
    return [item(teacher, example) for example in pool.dataset]


def assert_same(found, expected):
    assert len(found) == len(expected) == 5
    for labels, others in zip(found, expected):
        assert len(others["scores"]) == 20
        assert labels["classes"].tolist() == others["classes"].tolist()
        np.testing.assert_allclose(labels["boxes"], others["boxes"], atol=1e-4)
        np.testing.assert_allclose(labels["scores"], others["scores"], atol=1e-4)


def test_keras_saved_model_http_and_grpc_agree(saved):
    model, path = saved
    by_keras = teachers.keras_teacher(model, NAMES)
    expected = by_keras.label(prepared(by_keras))
    local = served.signature_teacher(signatures.saved_model(path), NAMES, IDS, {})
    assert_same(local.label(prepared(local)), expected)

    server, handler = rest_server(path)
    url = f"http://127.0.0.1:{server.server_port}/v1/models/teacher"
    found, version = signatures.server(url)
    assert (found.input_name, found.shape, version) == ("image_bytes", (None,), "1")
    remote = served.signature_teacher(found, NAMES, IDS, {})
    handler.failures = 1  # the request is repeated
    assert_same(remote.label(prepared(remote)), expected)
    with pytest.raises(signatures.Refused, match="no image"):
        remote.label([{"image": tf.constant(b"text"), "size": tf.constant([1, 1])}])
    with pytest.raises(ValueError, match="Expected a model. Received: .*other.*404"):
        signatures.server(url.replace("teacher", "other"))
    with pytest.raises(ValueError, match=r"signature from \['serving_default'\]"):
        signatures.server(url, "none")
    server.shutdown()

    server, port = grpc_server(path)
    found, version = signatures.server(f"grpc://127.0.0.1:{port}/teacher")
    assert version == "4"
    remote = served.signature_teacher(found, NAMES, IDS, {})
    assert_same(remote.label(prepared(remote)), expected)
    with pytest.raises(signatures.Refused, match="Unknown image file format"):
        remote.label([{"image": tf.constant(b"text"), "size": tf.constant([1, 1])}])
    with pytest.raises(ValueError, match="Expected a model. Received: .*no such model"):
        signatures.server(f"grpc://127.0.0.1:{port}/other")
    server.stop(None)


def test_unresponsive_servers(monkeypatch):
    monkeypatch.setattr(signatures.time, "sleep", lambda seconds: None)
    with pytest.raises(ConnectionError, match="Expected an answer from .*run the same"):
        signatures.server("http://127.0.0.1:9/v1/models/teacher")
    for url in ("ftp://a/b", "http://", "grpc://host:1"):
        with pytest.raises(
            ValueError, match="Expected http://host:port/v1/models/NAME"
        ):
            signatures.server(url)


def detector(outputs, dtype=tf.uint8, shape=(None, None, None, 3)):
    def call(batch):
        assert batch.dtype == dtype.as_numpy_dtype
        call.shapes.append(batch.shape)
        return {k: np.stack([np.float32(v)] * len(batch)) for k, v in outputs.items()}

    call.shapes = []
    signature = signatures.Signature("images", dtype, shape, tuple(outputs), call)
    return signature, call


def boxes(*rows):
    return {
        "detection_boxes": rows,
        "detection_scores": [0.9, 0.8, 0.7][: len(rows)],
        "detection_classes": [1, 2, 1][: len(rows)],
    }


def labels_of(signature, sizes=((40, 80),), ids=IDS, **settings):
    teacher = served.signature_teacher(signature, NAMES, ids, {}, **settings)
    examples = [
        {
            "encoded": tf.io.encode_png(np.zeros((*size, 3), np.uint8)),
            "path": tf.constant(""),
        }
        for size in sizes
    ]
    return teacher.label([item(teacher, example) for example in examples])


def test_units_of_boxes():
    """The same box normalized, in pixels, and in a frame described by image_info."""
    expected = [[10, 20, 30, 60]]
    (found,) = labels_of(detector(boxes([0.25, 0.25, 0.75, 0.75]))[0])
    assert found["boxes"].tolist() == expected and found["classes"].tolist() == [0]
    (found,) = labels_of(detector(boxes([10, 20, 30, 60]))[0])
    assert found["boxes"].tolist() == expected
    # Scaled by 2, cropped by 4 and 6 pixels: original and target size, scale, offset.
    framed = boxes([16, 34, 56, 114])
    framed["image_info"] = [[40, 80], [64, 64], [2, 2], [4, 6]]
    (found,) = labels_of(detector(framed)[0])
    assert found["boxes"].tolist() == expected
    # An input of fixed size, into which 40 x 80 fits with scale 0.8.
    signature, call = detector(boxes([8, 16, 24, 48]), tf.float32, (1, 64, 64, 3))
    (found, _) = labels_of(signature, [(40, 80)] * 2)
    np.testing.assert_allclose(found["boxes"], expected)
    assert call.shapes == [(1, 64, 64, 3)] * 2
    # Small boxes of a model that returns pixels.
    (found,) = labels_of(detector(boxes([0, 0, 1, 1]))[0], box_units="pixels")
    assert found["boxes"].tolist() == [[0, 0, 1, 1]]


def test_units_are_those_of_the_first_boxes():
    """Not of each image: a tiny box among pixels, a large one among fractions."""

    def teacher_of(*rows, **settings):
        found = iter(rows)

        def call(batch):
            parts = [next(found) for _ in batch]
            return {
                key: np.stack([np.float32(part[key]) for part in parts])
                for key in parts[0]
            }

        names = tuple(rows[0])
        shape = (None, None, None, 3)
        signature = signatures.Signature("images", tf.uint8, shape, names, call)
        teacher = served.signature_teacher(signature, NAMES, IDS, {}, **settings)
        example = {
            "encoded": tf.io.encode_png(np.zeros((40, 80, 3), np.uint8)),
            "path": tf.constant(""),
        }
        return teacher, item(teacher, example)

    def found(teacher, items):
        return [one["boxes"].tolist() for one in teacher.label(items)]

    tiny, large = boxes([0, 0, 1, 2]), boxes([10, 20, 30, 60])
    whole, empty = boxes([0, 0, 1, 1]), boxes([10, 20, 30, 60])
    empty["detection_scores"] = [0.0]
    teacher, one = teacher_of(empty, tiny, large, tiny)
    assert found(teacher, [one]) == [[]]
    assert found(teacher, [one, one]) == [[[0, 0, 1, 2]], [[10, 20, 30, 60]]]
    assert found(teacher, [one]) == [[[0, 0, 1, 2]]]
    teacher, one = teacher_of(whole, large)
    assert found(teacher, [one]) == [[[0, 0, 40, 80]]]
    text = "in the first answers with boxes. Received: a coordinate of 60; state --box_"
    with pytest.raises(ValueError, match=text):
        found(teacher, [one])
    teacher, one = teacher_of(whole, large, box_units="pixels")
    assert found(teacher, [one, one]) == [[[0, 0, 1, 1]], [[10, 20, 30, 60]]]


def test_values_of_pixels():
    """Red of 0…255, in every range and order."""
    for pixel_scale, low, high in (
        ("0..255", 0.0, 255.0),
        ("0..1", 0.0, 1.0),
        ("-1..1", -1.0, 1.0),
    ):
        for channels, place in (("rgb", 0), ("bgr", 2)):
            pixels = served.Pixels(pixel_scale, channels)
            signature, _ = detector(boxes([0, 0, 1, 1]), tf.float32)
            teacher = served.signature_teacher(signature, NAMES, IDS, {}, pixels=pixels)
            image = tf.constant([[[255, 0, 0]]], tf.uint8)
            found = teacher.prepare({}, image)["image"].numpy()[0, 0]
            expected = [high if k == place else low for k in range(3)]
            assert found.tolist() == expected and found.dtype == np.float32
            stated = {"pixel_scale": pixel_scale, "channels": channels}
            default = {"pixel_scale": "0..255", "channels": "rgb"}
            assert teacher.origin == {
                k: v for k, v in stated.items() if v != default[k]
            }
    with pytest.raises(ValueError, match="0..1, -1..1 .* Received: pixel_scale='0..2'"):
        served.Pixels("0..2")
    with pytest.raises(ValueError, match=r"rgb, bgr .* Received: channels='grb'"):
        served.Pixels(channels="grb")


@pytest.mark.parametrize(
    ("dtype", "shape", "pixels", "text"),
    [
        (tf.uint8, (None, None, None, 3), ("0..1",), "pixel_scale=0..1. .* of uint8; "),
        (
            tf.string,
            (None,),
            ("0..255", "bgr"),
            "channels=bgr. .*of image files; ",
        ),
    ],
)
def test_inputs_without_a_choice_of_pixels(dtype, shape, pixels, text):
    signature, _ = detector(boxes([0, 0, 1, 1]), dtype, shape)
    with pytest.raises(ValueError, match=text):
        served.signature_teacher(
            signature, NAMES, IDS, {}, pixels=served.Pixels(*pixels)
        )
    teacher = served.signature_teacher(signature, NAMES, IDS, {})
    assert (teacher.with_pixels is None) == (dtype == tf.string)


def test_a_confidence_of_zeros_and_ones():
    outputs = {"mask": np.zeros((4, 6)), "confidence": np.ones((4, 6))}

    def call(batch):
        values = {key: value[None] for key, value in outputs.items()}
        return {**values, "confidence": values["confidence"].astype(np.uint8)}

    signature = signatures.Signature(
        "images", tf.uint8, (None, None, None, 3), tuple(outputs), call
    )
    text = "floats of 0 to 1, or uint8 .* Received: uint8 of 0 to 1; multiply it by 255"
    with pytest.raises(ValueError, match=text):
        labels_of(signature, [(4, 6)])


def test_outputs_of_other_tools():
    """Their formats must be stated; they are checked, and kept in the settings."""
    outputs = {"boxes": [[20, 10, 40, 20]], "confidence": [0.5], "classes": [1]}
    with pytest.raises(ValueError, match="Expected --box_format, .*as of KerasCV"):
        labels_of(detector(outputs)[0])
    (found,) = labels_of(detector(outputs)[0], box_format="xywh", ids={0: 0, 1: 1})
    assert found["boxes"].tolist() == [[10, 20, 30, 60]]
    assert found["classes"].tolist() == [1]
    outputs["confidence"] = [50.0]
    with pytest.raises(ValueError, match="confidence of 0 to 1. Received: 50.0; an im"):
        labels_of(detector(outputs)[0], box_format="xywh")
    signature, _ = detector(boxes([20, 10, 60, 30]))
    (found,) = labels_of(signature, box_format="xyxy")
    assert found["boxes"].tolist() == [[10, 20, 30, 60]]
    for box_format, origin in (("auto", {}), ("xyxy", {"box_format": "xyxy"})):
        teacher = served.signature_teacher(
            signature, NAMES, IDS, {}, box_format=box_format
        )
        assert teacher.origin == origin


def exported(folder, output, task="detect", names=("cat", "dog")):
    """An export of Ultralytics whose scores are the frame's largest value."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1, 64, 64, 3], tf.float32)])
        def serve(self, images):
            return {"output_0": tf.constant(output, tf.float32) * tf.reduce_max(images)}

    module = Module()
    tf.saved_model.save(module, str(folder), module.serve)
    text = f"author: Ultralytics\ntask: {task}\nnames:\n"
    text += "".join(f"  {index}: {name}\n" for index, name in enumerate(names))
    (folder / "metadata.yaml").write_text(text)
    return str(folder)


def raw_output():
    """A dog twice, a cat in the same place and another dog, as [1, 4 + 2, 84]."""
    output = np.zeros((1, 6, 84), np.float32)
    output[0, :, 7] = [32, 32, 32, 16, 0.25, 0.75]
    output[0, :, 8] = [32, 32, 32, 17, 0.1, 0.5]  # an IoU of 16 / 17
    output[0, :, 9] = [32, 32, 32, 16, 0.625, 0.1]
    output[0, :, 83] = [60, 44, 8, 8, 0.0, 0.25]
    return output


def fractions(output):
    return output / np.float32([64, 64, 64, 64, 1, 1])[:, None]


FINAL = [[[16, 24, 48, 40, 0.75, 1], [16, 24, 48, 40, 0.625, 0], [0] * 6]]


@pytest.mark.parametrize(
    ("output", "count"),
    [
        (raw_output(), 3),
        (fractions(raw_output()), 3),
        (np.float32(FINAL), 2),
        (np.float32(FINAL) / np.float32([64, 64, 64, 64, 1, 1]), 2),
    ],
)
def test_exports_of_ultralytics(output, count, tmp_path):
    """40 x 80 fits with scale 0.8, between borders of 16 rows."""
    path = exported(tmp_path, output)
    teacher = opening.open_teacher(opening.TeacherSettings(path))
    assert teacher.class_names == ("cat", "dog") and not teacher.has_masks
    example = {"path": tf.constant(""), "id": tf.constant(1)}
    image = tf.fill((40, 80, 3), tf.constant(255, tf.uint8))
    inputs = tf.data.Dataset.from_tensors((example, image)).map(teacher.prepare)
    prepared = {**next(iter(inputs)), "size": tf.constant([40, 80])}
    frame = prepared["image"].numpy()
    assert (frame[16:48] == 1.0).all() and frame.shape == (64, 64, 3)
    np.testing.assert_array_equal(frame[:16], np.float32(114) / 255)
    np.testing.assert_array_equal(frame[48:], np.float32(114) / 255)
    for found in teacher.label([prepared, prepared]):
        assert found["scores"].tolist() == [0.75, 0.625, 0.25][:count]
        assert found["classes"].tolist() == [1, 0, 1][:count]
        boxes = [[10, 20, 30, 60], [10, 20, 30, 60], [30, 70, 40, 80]][:count]
        np.testing.assert_allclose(found["boxes"], boxes, atol=1e-4)


def test_other_exports_of_ultralytics(tmp_path):
    def opened(name, *args, **settings):
        path = exported(tmp_path / name, *args)
        return opening.open_teacher(opening.TeacherSettings(path, **settings))

    with pytest.raises(
        ValueError, match="task: detect, .* Received: task: segment, im"
    ):
        opened("segment", raw_output(), "segment")
    with pytest.raises(
        ValueError, match="Expected box_format=xyxy, that of results of"
    ):
        opened("format", raw_output(), box_format="yxyx")
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    with pytest.raises(
        ValueError, match="same classes .* in metadata.yaml and --labels"
    ):
        opened("labels", raw_output(), labels=str(tmp_path / "labels.txt"))
    teacher = opened("more", raw_output(), "detect", ("a", "b", "c"))
    example = {"path": tf.constant(""), "id": tf.constant(1)}
    image = tf.fill((40, 80, 3), tf.constant(255, tf.uint8))
    prepared = {**teacher.prepare(example, image), "size": tf.constant([40, 80])}
    with pytest.raises(ValueError, match=r"\[7, N\] or \[N, 6\] .*: \[6, 84\]"):
        teacher.label([prepared])


def test_images_of_equal_size_are_batched():
    signature, call = detector(boxes([10, 20, 30, 60]))
    found = labels_of(signature, [(40, 80), (30, 80), (40, 80)])
    assert sorted(call.shapes) == [(1, 30, 80, 3), (2, 40, 80, 3)] and len(found) == 3


def test_num_detections_and_padding():
    outputs = boxes([10, 20, 30, 60], [0, 0, 10, 10], [5, 5, 9, 9])
    outputs["num_detections"] = 2
    (found,) = labels_of(detector(outputs)[0])
    assert found["classes"].tolist() == [0, 1]
    outputs = boxes([10, 20, 30, 60])
    outputs["detection_classes"] = [17]
    with pytest.raises(ValueError, match=r"ids among \{1: '0', 2: '1'\}. Received: 17"):
        labels_of(detector(outputs)[0])


def test_unsupported_signatures():
    with pytest.raises(ValueError, match="Expected outputs detection_boxes.*: logits"):
        labels_of(detector({"logits": [1.0]})[0])
    with pytest.raises(ValueError, match=r"Received: images of shape \[None, 3\]"):
        labels_of(detector(boxes([0, 0, 1, 1]), shape=(None, 3))[0])


def test_frame_of_a_signature_without_a_batch_size():
    """40 x 80 fits into 64 x 64 with scale 0.8; any number of images at once."""
    signature, call = detector(boxes([8, 16, 24, 48]), tf.float32, (None, 64, 64, 3))
    found = labels_of(signature, [(40, 80), (40, 80)])
    for labels in found:
        np.testing.assert_allclose(labels["boxes"], [[10, 20, 30, 60]])
    assert call.shapes == [(2, 64, 64, 3)]


def test_a_fixed_batch_is_filled_with_its_last_image():
    signature, call = detector(boxes([8, 16, 24, 48]), tf.float32, (3, 64, 64, 3))
    assert len(labels_of(signature, [(40, 80)] * 4)) == 4
    assert call.shapes == [(3, 64, 64, 3)] * 2


def test_gifs_are_sent_as_png():
    """Other images of files are sent as they are."""
    signature, _ = detector(boxes([10, 20, 30, 60]), tf.string, (None,))
    teacher = served.signature_teacher(signature, NAMES, IDS, {})
    pixels = np.zeros((4, 6, 3), np.uint8)
    for kind, start in (("GIF", b"\x89PNG"), ("JPEG", b"\xff\xd8"), ("BMP", b"BM")):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        example = {"encoded": tf.constant(file.getvalue()), "path": tf.constant("")}
        sent = teacher.prepare(example, tf.constant(pixels))["image"].numpy()
        assert sent.startswith(start), kind
        assert (sent == file.getvalue()) == (kind != "GIF")


@pytest.mark.parametrize("kind", ["transparent", "deep", "plain"])
def test_pixels_that_a_server_might_see_differently_are_sent_as_they_are_seen(kind):
    signature, _ = detector(boxes([10, 20, 30, 60]), tf.string, (None,))
    teacher = served.signature_teacher(signature, NAMES, IDS, {})
    file, image = io.BytesIO(), Image.new("RGB", (6, 4), (9, 9, 9))
    image.putalpha(0 if kind == "transparent" else 255)
    image = image.convert("RGB") if kind == "plain" else image
    image = Image.new("I;16", (6, 4), 2048) if kind == "deep" else image
    image.save(file, "PNG")
    example = {"encoded": tf.constant(file.getvalue()), "path": tf.constant("")}
    if kind == "deep":
        example["pixel_range"] = tf.constant([0, 4095])
    seen = examples.read_image(example)
    sent = teacher.prepare(example, seen)["image"].numpy()
    expected = {"transparent": 255, "deep": 128, "plain": 9}[kind]
    assert (images.decode(tf.constant(sent)).numpy() == expected).all()
    assert tf.io.decode_image(sent, channels=3).numpy().max() == expected
    assert (sent == file.getvalue()) == (kind == "plain")
