"""Export trained models as SavedModels, for TF Serving and other loaders.

| signature | input | images |
|---|---|---|
| `serving_default` | `image_bytes` string `[B]` | JPEG, PNG or BMP files of any size |
| `image_tensor` | `images` uint8 `[B, H, W, 3]` | RGB, all of one size |
| `tf_example` | `examples` string `[B]` | in `tf.train.Example`s, `image/encoded` |
| `raw` | `frames` float32 `[B, H, W, 3]` | RGB of 0…255 in the model's frame |

Files have 8 bits: of more, the upper 8 are seen, whatever pixel range the model was
trained with; send such images as `image_tensor`. Transparent pixels of a PNG are white.

For a detector the first three return `detection_boxes` float32 `[B, D, 4]` (ymin, xmin,
ymax, xmax in pixels of the upright image), `detection_scores` float32 `[B, D]`,
`detection_classes` int32 `[B, D]` (from 1, 0 in unused slots), `num_detections` int32
`[B]` and `image_info` float32 `[B, 4, 2]`: the image's height and width, those of the
boxes' coordinates, and scale and offset between the two. For a segmenter they return
`mask` int32 `[B, H, W]` and `confidence` float32 `[B, H, W]`, padded at the bottom and
right with 255 and 0 if the images differ in size.

`raw` returns `raw_detection_boxes` `[B, A, 4]` in pixels of the frame and
`raw_detection_scores` `[B, A, K]`, before suppression, for a detector, and
`mask_logits` for a segmenter.
"""

import fcntl
import functools
import os
import re
import shutil
import tempfile

import tensorflow as tf

from official_selftrain.data import images
from official_selftrain.data.masks import IGNORE_CLASS
from official_selftrain.files import atomic
from official_selftrain.geometry import boxes as box_ops
from official_selftrain.geometry import letterbox
from official_selftrain.inference import prediction, tiles
from official_selftrain.models.classifier import ImageClassifier
from official_selftrain.serving import signatures

# Larger images are rejected before decoding: 200 MB of pixels.
MAX_PIXELS = 2**26


def export(
    model, export_dir, name, class_names, version=None, assets=(), warmup=None, **kwargs
):
    """Export a model to `export_dir/name/version`, where TF Serving expects it.

    The version is published atomically, so a running server can watch the folder.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        export_dir: str.
        name: str, name of the model.
        class_names: sequence of str, written to `assets/labels.txt`.
        version: int above 0, or None: the latest version plus 1.
        assets: dict of file name to text, also written to `assets/`.
        warmup: bytes, an image file that servers warm up with, or None.
        **kwargs: passed to `signatures_of`.

    Returns:
        str, the folder of the version.

    Raises:
        TypeError: for an `ImageClassifier`.
        ValueError: for an invalid name, an existing version, or a wrong number of
            class names.
    """
    _check(model, name, class_names, version)
    folder = os.path.join(export_dir, name)
    taken = versions(folder)
    if version in taken:
        raise ValueError(
            f"Expected a new version. Received: version={version}; "
            f"{folder} has {', '.join(map(str, taken))}"
        )
    os.makedirs(folder, exist_ok=True)
    # TF Serving ignores folders whose names aren't numbers.
    partial = tempfile.mkdtemp(prefix="partial-", dir=folder)
    os.chmod(partial, 0o755)
    try:
        # Saving the model itself would add a second copy of every variable, which only
        # TensorFlow's Python loader restores.
        module = tf.Module()
        module.weights = [variable.value for variable in model.variables]
        tf.saved_model.save(module, partial, signatures_of(model, **kwargs))
        labels = "".join(f"{class_name}\n" for class_name in class_names)
        for file_name, text in {"labels.txt": labels, **dict(assets)}.items():
            with open(os.path.join(partial, "assets", file_name), "w") as file:
                file.write(text)
        if warmup is not None:
            _write_warmup(partial, name, warmup, kwargs.get("max_pixels", MAX_PIXELS))
        return _publish(partial, folder, version)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(model, name, class_names, version):
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"Expected a name of letters, digits, '_', '-' and '.'. Received: {name!r}"
        )
    if isinstance(model, ImageClassifier):
        raise TypeError(
            "Expected a detector or segmenter. Received: "
            f"model={model.name}, a classifier of whole images"
        )
    if model.num_classes != len(class_names):
        raise ValueError(
            f"Expected a name for each of the model's {model.num_classes} classes. "
            f"Received: {len(class_names)} names, {list(class_names)}"
        )
    if version is not None and (not isinstance(version, int) or version < 1):
        raise ValueError(
            f"Expected version, an integer above 0. Received: version={version!r}"
        )


def _publish(partial, folder, version):
    """Rename a folder to its version, by default the next one; return its path."""
    while True:
        number = version or max(versions(folder), default=0) + 1
        path = os.path.join(folder, str(number))
        try:
            os.rename(partial, path)
            return path
        except OSError:  # another export took the version
            if version is not None or not os.path.exists(path):
                raise


def versions(folder):
    """Return the versions in a model's folder, sorted."""
    if not os.path.isdir(folder):
        return []
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())


def add_to_server(export_dir, name):
    """Add a model to TF Serving's `models.config`; existing entries are kept.

    A file that can't be parsed isn't changed; the entry to add is printed.

    Args:
        export_dir: str, `/models` for the server.
        name: str, name of the model.
    """
    path = os.path.join(export_dir, "models.config")
    entry = (
        f'  config {{\n    name: "{name}"\n    base_path: "/models/{name}"\n'
        '    model_platform: "tensorflow"\n  }\n'
    )
    with open(os.path.join(export_dir, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # exports of other models
        text = "model_config_list {\n}\n"
        if os.path.exists(path):
            with open(path) as file:
                text = file.read()
        # Blank out comments, so that offsets stay the same.
        code = re.sub("#.*", lambda comment: " " * len(comment[0]), text)
        if re.search(rf"""name:\s*["']{re.escape(name)}["']""", code):
            return
        end = code.rfind("}")
        if "model_config_list" not in code or end < 0:
            print(f"{path} can't be parsed; add this to its list:\n{entry}")
            return
        atomic.write_text(path, text[:end] + entry + text[end:])


def signatures_of(model, normalized=False, max_pixels=MAX_PIXELS):
    """Return a model's signatures, described in the module docstring.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        normalized: bool, return boxes as fractions of height and width, not in pixels.
        max_pixels: int, files of larger images are rejected.

    Returns:
        dict of name to `tf.function`.

    Source: names of TensorFlow's detection models; `raw` is our own.
    """
    frame = tuple(model.image_size)
    detect = tiles.detector(model) if getattr(model, "tile", None) else None
    if hasattr(model, "multi_scale"):
        probabilities = model.multi_scale()
        answer, raw = _segmentation(probabilities, frame, max_pixels), model
    else:
        answer, raw = _detection(model, normalized), _raw_detection(model)

    def of_files(image_bytes):
        def one(contents):
            image = images.decode(contents, max_pixels)
            return letterbox.fit(image, frame), tf.shape(image)[:2]

        check = tf.debugging.Assert(
            tf.size(image_bytes) > 0, ["Expected at least one image. Received: none"]
        )
        with tf.control_dependencies([check]):
            image_bytes = tf.identity(image_bytes)
        if detect:
            decode = functools.partial(images.decode, max_pixels=max_pixels)
            return _of_tiles(decode, image_bytes, detect, normalized)
        spec = (tf.TensorSpec((*frame, 3)), tf.TensorSpec((2,), tf.int32))
        frames, sizes = tf.map_fn(one, image_bytes, fn_output_signature=spec)
        return answer(frames, sizes, False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serving_default(image_bytes):
        return of_files(image_bytes)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def tf_example(examples):
        feature = {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
        return of_files(tf.io.parse_example(examples, feature)["image/encoded"])

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def image_tensor(images):
        if detect:
            return _of_tiles(tf.identity, images, detect, normalized)
        shape = tf.shape(images)
        sizes = tf.broadcast_to(shape[1:3], (shape[0], 2))
        return answer(letterbox.fit(images, frame), sizes, True)

    @tf.function(input_signature=[tf.TensorSpec([None, *frame, 3])])
    def raw_outputs(frames):
        return raw(frames, training=False)

    return {
        "serving_default": serving_default,
        "image_tensor": image_tensor,
        "tf_example": tf_example,
        "raw": raw_outputs,
    }


def _detection(model, normalized):
    def answer(frames, sizes, _):
        predictions = model.predictions(model(frames, training=False), sizes)
        return _detections(predictions, sizes, normalized)

    return answer


def _detections(predictions, sizes, normalized):
    """Return predictions of images of the given sizes as a signature does."""
    sizes = tf.cast(sizes, tf.float32)
    boxes = predictions["boxes"]
    if normalized:
        boxes /= tf.tile(sizes, [1, 2])[:, None]
    one, zero = tf.ones_like(sizes), tf.zeros_like(sizes)
    units = one if normalized else sizes
    return {
        "detection_boxes": boxes,
        "detection_scores": predictions["scores"],
        "detection_classes": predictions["classes"] + 1,
        "num_detections": predictions["num_detections"],
        "image_info": tf.stack([sizes, units, units / sizes, zero], axis=1),
    }


def _of_tiles(read, inputs, detect, normalized):
    """Return the detections of images that are cut into tiles, one after the other.

    Args:
        read: function (an item of `inputs`) → uint8 `[h, w, 3]`.
        inputs: tensor, files or images, batch first.
        detect: function, as returned by `tiles.detector`.
        normalized: bool, as of `signatures_of`.
    """

    def one(item):
        image = read(item)
        return {**detect(image), "size": tf.shape(image)[:2]}

    found = {
        "boxes": tf.RaggedTensorSpec((None, 4), tf.float32, ragged_rank=0),
        "scores": tf.RaggedTensorSpec((None,), tf.float32),
        "classes": tf.RaggedTensorSpec((None,), tf.int32),
        "size": tf.TensorSpec((2,), tf.int32),
    }
    found = tf.map_fn(one, inputs, fn_output_signature=found)
    sizes, counts = found.pop("size"), found["scores"].row_lengths()
    padded = {
        key: value.to_tensor(-1 if key == "classes" else 0)
        for key, value in found.items()
    }
    padded["num_detections"] = tf.cast(counts, tf.int32)
    return _detections(padded, sizes, normalized)


def _raw_detection(model):
    def raw(frames, training):
        outputs = model(frames, training=training)
        return {
            "raw_detection_boxes": box_ops.decode(outputs["box_deltas"], model.anchors),
            "raw_detection_scores": tf.sigmoid(outputs["class_logits"]),
        }

    return raw


def _segmentation(probabilities, frame, max_pixels):
    def answer(frames, sizes, have_one_size):
        of_frames = probabilities(frames)
        covered = letterbox.covered_size(sizes, frame)
        if have_one_size:
            mask, confidence = prediction.masks_of_size(of_frames, covered[0], sizes[0])
            return {"mask": mask, "confidence": confidence}
        largest = tf.reduce_max(sizes, axis=0)
        # A wide and a tall image together are padded to more pixels than either has.
        pixels = tf.reduce_prod(tf.cast(largest, tf.int64))
        expected = f"Expected images that fit into {max_pixels:,} pixels. Received:"
        check = tf.debugging.Assert(pixels <= max_pixels, [expected, largest])
        with tf.control_dependencies([check]):
            largest = tf.identity(largest)

        def one(inputs):
            of_frame, covered, size = inputs
            mask, confidence = prediction.masks_of_size(of_frame[None], covered, size)
            missing = largest - size
            padding = [[0, missing[0]], [0, missing[1]]]
            return (
                tf.pad(mask[0], padding, constant_values=IGNORE_CLASS),
                tf.pad(confidence[0], padding),
            )

        mask, confidence = tf.map_fn(
            one,
            (of_frames, covered, sizes),
            fn_output_signature=(tf.int32, tf.float32),
        )
        return {"mask": mask, "confidence": confidence}

    return answer


def _write_warmup(path, name, contents, max_pixels):
    """Write the requests that TF Serving warms a model up with.

    Source: TF Serving's SavedModel warm-up.
    """
    pixels = images.decode(tf.constant(contents), max_pixels).numpy()[None]
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(contents)
    folder = os.path.join(path, "assets.extra")
    os.makedirs(folder)
    requests = {
        "serving_default": ("image_bytes", [contents]),
        "image_tensor": ("images", pixels),
        "tf_example": ("examples", [example.SerializeToString()]),
    }
    file = os.path.join(folder, "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(file) as writer:
        for signature, (key, value) in requests.items():
            writer.write(signatures.prediction_log(name, signature, key, value))
