"""Open any teacher by its path or address."""

import dataclasses
import os

import keras
import yaml

from official_selftrain import models, training  # noqa: F401  # registers what Keras loads
from official_selftrain.data.sources import pools
from official_selftrain.files import hashes
from official_selftrain.files.run_folder import RunFolder, StageFolder
from official_selftrain.labeling import (
    answers,
    function_teacher,
    results_files,
    served,
    teachers,
)
from official_selftrain.serving import signatures


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
    """Which teacher, and how it labels.

    Attributes:
        path: str, a model_dir or `.keras` file of this package, a `.keras` file whose
            outputs have the names of `answers`, a SavedModel folder, a model on a TF
            Serving server (`http://…`, `grpc://…`), a JSON file of COCO results, or a
            function (`python:my_module:my_teacher`).
        labels: str or None, a file of the teacher's classes (see
            `teachers.read_classes`); None: the one next to the teacher.
        first_class_id: int or None, the id of the first line of `labels`; None: it
            follows from the names of the teacher's outputs (see `answers`); 1 for COCO
            results.
        signature: str, signature of a SavedModel or server.
        box_units: str, as in `answers.stated_format`.
        scales: floats, as in `teachers.keras_teacher`.
        flip: bool, as in `teachers.keras_teacher`.
        classes: str or None, the student's classes: a file like `labels`, or
            comma-separated names; None: the teacher's.
        drop_others: bool, as in `teachers.for_classes`.
        box_format: str, as in `answers.stated_format`.
        score_scale: int, as in `results_files.results_teacher`.
        pixel_scale: str, as in `served.Pixels`.
        channels: str, as in `served.Pixels`.
    """

    path: str
    labels: str | None = None
    first_class_id: int | None = None
    signature: str = "serving_default"
    box_units: str = "auto"
    scales: tuple = (1.0,)
    flip: bool = False
    classes: str | None = None
    drop_others: bool = False
    box_format: str = "auto"
    score_scale: int = 1
    pixel_scale: str = "0..255"
    channels: str = "rgb"


def open_teacher(settings, images="", source=None):
    """Open a teacher.

    Args:
        settings: `TeacherSettings`.
        images: str, the images to label (see `pools.open_pool`), with which COCO
            results are matched.
        source: `examples.Source` of these images, or None to open them.

    Returns:
        `teachers.Teacher`, with the student's classes if given.

    Raises:
        FileNotFoundError: if there is no such teacher.
        ValueError: if the teacher doesn't match the settings.
    """
    path = settings.path
    model_path = _model_path(path)
    if model_path:
        teacher = _keras(settings, model_path)
    elif path.startswith(function_teacher.PREFIX):
        teacher = _function(settings)
    elif "://" in path:
        teacher = _server(settings)
    elif os.path.isfile(os.path.join(path, "saved_model.pb")):
        teacher = _saved_model(settings)
    elif path.endswith(".json") and os.path.isfile(path):
        teacher = _results(settings, images, source)
    else:
        raise FileNotFoundError(
            "Expected a model_dir with teacher/model.keras, a .keras file, a "
            "SavedModel folder, http://…, grpc://…, a COCO results .json or "
            f"{function_teacher.PREFIX}my_module:my_function. "
            f"Received: teacher={path!r}"
        )
    _check_used(settings, teacher.origin)
    if settings.classes:
        text = settings.classes
        wanted = _classes(text).names if os.path.isfile(text) else text.split(",")
        teacher = teachers.for_classes(teacher, wanted, settings.drop_others)
    return teacher


def _check_used(settings, origin):
    """Check that settings of other kinds of teachers aren't stated."""
    for name in ("score_scale", "pixel_scale", "channels"):
        value = getattr(settings, name)
        if value != getattr(TeacherSettings, name) and name not in origin:
            raise ValueError(
                f"Expected --{name} only of a teacher that "
                f"{'is a results file' if name == 'score_scale' else 'gets pixels'}. "
                f"Received: {name}={value}, teacher={settings.path!r}"
            )


def _model_path(path):
    for file in (path, StageFolder(path).model, RunFolder(path).teacher().model):
        if file.endswith(".keras") and os.path.isfile(file):
            return file
    return None


def _keras(settings, path):
    near = RunFolder(os.path.dirname(os.path.dirname(path))).class_names
    labels = settings.labels or near
    classes = _classes(labels, settings.first_class_id)
    scales, flip = settings.scales, settings.flip
    digest = hashes.sha256_of_model(path)
    origin = {"kind": "keras", "path": path, "sha256": digest}
    model = _loaded(path)
    if not hasattr(model, "predictions"):
        signature = signatures.keras_model(model, path)
        try:
            return _signature(settings, signature, classes, origin)
        except ValueError as error:
            raise ValueError(f"{error}; {path} is no model of this package") from None
    origin |= {"scales": scales, "flip": flip}
    return teachers.keras_teacher(model, classes.names, origin, scales, flip)


def _loaded(path):
    try:
        return keras.saving.load_model(path, compile=False)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        # Around the reason are a layer's whole configuration and Keras' own advice.
        text = " ".join(str(error).rpartition("Exception encountered:")[2].split())
        raise ValueError(
            f"Expected a model that Keras loads without more code. Received: {path}: "
            f"{text[:120]}…; {signatures.OTHER_MODELS}"
        ) from error


def _server(settings):
    classes = _classes(settings.labels, settings.first_class_id)
    signature, version = signatures.server(settings.path, settings.signature)
    origin = {"kind": "server", "url": settings.path, "version": version}
    return _signature(settings, signature, classes, origin)


def _saved_model(settings):
    path = settings.path
    metadata = _ultralytics_metadata(path)
    if metadata:
        return _ultralytics(settings, metadata)
    labels = settings.labels or os.path.join(path, "assets/labels.txt")
    classes = _classes(labels, settings.first_class_id)
    origin = {"kind": "saved_model", "path": path, "sha256": hashes.sha256(path)}
    signature = signatures.saved_model(path, settings.signature)
    return _signature(settings, signature, classes, origin)


def _ultralytics_metadata(path):
    """Return what Ultralytics wrote next to a SavedModel, or None."""
    file = os.path.join(path, "metadata.yaml")
    if not os.path.isfile(file):
        return None
    with open(file, encoding="utf-8") as text:
        content = yaml.safe_load(text)
    is_theirs = isinstance(content, dict) and content.get("author") == "Ultralytics"
    return content if is_theirs else None


def _ultralytics(settings, metadata):
    first, path = settings.first_class_id, settings.path
    answers.stated_format(answers.ULTRALYTICS, settings.box_format, settings.box_units)
    stated = _classes(settings.labels, first) if settings.labels else None
    signature = signatures.saved_model(path, settings.signature)
    origin = {"kind": "ultralytics", "path": path, "sha256": hashes.sha256(path)}
    return served.ultralytics_teacher(signature, metadata, stated, origin)


def _signature(settings, signature, classes, origin):
    class_ids = classes.ids(answers.convention_of(signature.outputs))
    return served.signature_teacher(
        signature,
        *(classes.names, class_ids, origin),
        *(settings.box_units, settings.box_format),
        served.Pixels(settings.pixel_scale, settings.channels),
    )


def _function(settings):
    first = settings.first_class_id
    classes = _classes(settings.labels, first) if settings.labels else None
    return function_teacher.function_teacher(
        settings.path, classes, settings.box_format, settings.box_units, first
    )


def _results(settings, images, source):
    first, path = settings.first_class_id, settings.path
    if images.startswith("tfds:"):
        raise ValueError(
            "Expected images that the results name: a COCO .json, .tfrecord files or a "
            f"folder. Received: images={images!r}"
        )
    return results_files.results_teacher(
        path,
        images,
        source or pools.open_pool(images),
        _classes(settings.labels, first) if settings.labels else None,
        answers.stated_format(answers.RESULTS, settings.box_format, settings.box_units),
        settings.score_scale,
    )


def _classes(path, first=None):
    if path is None or not os.path.isfile(path):
        raise FileNotFoundError(
            "Expected the teacher's class names, --labels=FILE. "
            f"Received: labels={path!r}"
        )
    return answers.classes_of_file(path, first)
