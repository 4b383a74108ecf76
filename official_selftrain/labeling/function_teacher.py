"""A Python function as teacher: any model, of any framework, in this process.

The function takes a list of images, uint8 `[h, w, 3]`, RGB, upright, of different
sizes, and returns a list with an answer for each, in a convention of `answers`. It may
have the attributes `class_names` (a list, or a dict of class id to name) and
`box_format` (one of `answers.BOX_FORMATS`).
"""

import dataclasses
import importlib
import os
import sys
import traceback

import numpy as np
import tensorflow as tf

from official_selftrain.files import hashes
from official_selftrain.labeling import answers, teachers

PREFIX = "python:"

# The function is first called with an image of this size, to learn its convention.
_TRIAL_SIZE = (96, 128)


def function_teacher(
    reference, classes=None, box_format="auto", box_units="auto", first_class_id=None
):
    """Create a teacher from a function that is imported by its name.

    Args:
        reference: str, `"my_module:my_function"`, a module in the current folder or on
            the Python path, and a function in it, or an attribute of an object in it.
        classes: `answers.Classes` as stated, or None for those of the function.
        box_format: str, one of `answers.BOX_FORMATS`.
        box_units: str, one of `answers.BOX_UNITS`.
        first_class_id: int, the id of the first name in a list, or None.

    Returns:
        `teachers.Teacher`.

    Raises:
        ValueError: if there is no such function; if its answer to a gray image can't
            be read in one way only; if statements contradict each other.
        RuntimeError: for an error in the module or the function; the message names the
            line.
    """
    reference = reference.removeprefix(PREFIX)
    function, file = _imported(reference)
    size = np.array(_TRIAL_SIZE)
    gray = np.full((*_TRIAL_SIZE, 3), 114, np.uint8)
    (answer,) = _answers(reference, function, file, [gray])
    convention = answers.convention_of(answer)
    named = _named_classes(reference, function, answer, classes, first_class_id)
    class_names, class_ids = answers.agreed_classes(named, convention)
    stated = _agreed_format(function, box_format, reference)
    reading = answers.Reading(
        reference,
        convention,
        class_names,
        class_ids,
        answers.stated_format(convention, stated, box_units),
    )
    answers.read(answer, size, reading, image="a gray image")

    names = getattr(answer, "names", None)
    reader = answers.Reader(reading)

    def label(items):
        images = [item["image"].numpy() for item in items]
        found = _answers(reference, function, file, images)
        for answer in found:
            if getattr(answer, "names", names) != names:
                raise ValueError(
                    f"Expected the names of the first result, {names}, from the "
                    f"teacher {reference}. Received: {answer.names}"
                )
        sizes = [item["size"].numpy() for item in items]
        paths = [item["name"].numpy().decode() for item in items]
        return reader.read(found, sizes, paths)

    origin = {
        "kind": "python",
        "function": reference,
        "sha256": hashes.sha256(file) if file and os.path.isfile(file) else None,
        "box_format": reading.box_format,
        "class_ids": list(reading.class_ids),
    }
    has_masks = convention is answers.MASKS
    return teachers.Teacher(_prepare, label, class_names, has_masks, origin)


def _prepare(example, image):
    """Return an image and its name, as `Teacher.prepare` does."""
    number = tf.strings.join(["id ", tf.strings.as_string(example["id"])])
    name = tf.where(example["path"] == "", number, example["path"])
    return {"image": tf.cast(image, tf.uint8), "name": name}


def _imported(reference):
    """Return a function and the file of its module."""
    name, _, path = reference.partition(":")
    if not name or not path:
        raise ValueError(
            f"Expected {PREFIX}my_module:my_function. Received: "
            f"teacher={PREFIX}{reference}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{name}.".startswith(f"{absent}."):
            raise ValueError(
                f"Expected a module {name}, in the current folder or on the Python "
                f"path. Received: teacher={PREFIX}{reference}; there is no {absent}"
            ) from None
        raise RuntimeError(f"the module {name} raised {_described(error)}") from error
    file = getattr(module, "__file__", None)
    function = module
    for part in path.split("."):
        if not hasattr(function, part):
            raise ValueError(
                f"Expected {path} in the module {name} of {file}. Received: "
                f"teacher={PREFIX}{reference}; there is no {part}"
            )
        function = getattr(function, part)
    if not callable(function):
        raise ValueError(
            "Expected a function of a list of images. Received: "
            f"teacher={PREFIX}{reference}, {type(function).__name__}"
        )
    return function, file


def _described(error, file=None):
    """Return an error's type, message, file and line; the line in `file` if known."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(frame.filename, frame.lineno) for frame in frames]
    places = [place for place in places if not place[0].startswith("<frozen")]
    if isinstance(error, SyntaxError):
        places, file = [(error.filename, error.lineno)], None
    inner = [place for place in places if place[0] == file]
    name, line = (inner or places)[-1]
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text} at {os.path.basename(name)}, line {line}"


def _answers(reference, function, file, images):
    """Return a function's answers, one for each image."""
    try:
        found = function(images)
    except (Exception, SystemExit) as error:
        raise RuntimeError(
            f"the teacher {reference} raised {_described(error, file)}"
        ) from error
    if not isinstance(found, list | tuple):
        names = f" of {', '.join(map(str, found))}" if isinstance(found, dict) else ""
        raise ValueError(
            f"Expected a list with an answer for each of {len(images)} images from the "
            f"teacher {reference}. Received: {type(found).__name__}{names}"
        )
    if len(found) != len(images):
        raise ValueError(
            f"Expected {len(images)} answers, one for each image, from the teacher "
            f"{reference}. Received: {len(found)}"
        )
    return found


def _named_classes(reference, function, answer, stated, first_class_id):
    """Return every list of the teacher's classes, by where it is from."""
    found = {"--labels": stated} if stated else {}
    names = getattr(function, "class_names", None)
    if names is not None:
        classes = answers.classes_of(names, f"class_names of {reference}")
        if classes.kind == "list" and first_class_id is not None:
            if classes.first_id not in (None, first_class_id):
                raise ValueError(
                    f"Expected --first_class_id={classes.first_id}, as class_names "
                    f"begin with {names[0]!r}. Received: {first_class_id}"
                )
            classes = dataclasses.replace(classes, first_id=first_class_id)
        found["class_names"] = classes
    if answers.convention_of(answer) is answers.ULTRALYTICS:
        found["names"] = answers.classes_of(answer.names, f"names of {reference}")
    if not found:
        raise ValueError(
            f"Expected class names: {reference}.class_names, or --labels=FILE. "
            "Received: neither"
        )
    for place, classes in found.items():
        has_ids = classes.kind == "ids" and first_class_id is not None
        if has_ids and classes.numbers[0] != first_class_id:
            raise ValueError(
                f"Expected no --first_class_id, as {place} has the ids "
                f"{classes.numbers}. Received: {first_class_id}"
            )
    return found


def _agreed_format(function, box_format, reference):
    given = str(getattr(function, "box_format", "auto")).lower()
    if "auto" not in (given, box_format) and given != box_format:
        raise ValueError(
            f"Expected one format of boxes. Received: --box_format={box_format} and "
            f"{reference}.box_format={given!r}"
        )
    return given if box_format == "auto" else box_format
