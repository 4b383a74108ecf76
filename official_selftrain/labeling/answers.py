"""The one reader of what a teacher answers about an image.

An answer holds arrays under names that tell who wrote it. Order and units of boxes,
and the id of the first class, follow from the names, or must be stated:

| names | from | boxes | first class |
|---|---|---|---|
| `detection_boxes`, `detection_scores`, `detection_classes` | TF Object Detection API, TF Serving | `rel_yxyx`, or `yxyx` | 1 |
| `boxes`, `confidence`, `classes` or `labels` | KerasCV, KerasHub | must be stated | 0 |
| `boxes`, `scores`, `labels` | torchvision, transformers | `xyxy` | must be stated |
| `boxes.xyxy`, `boxes.conf`, `boxes.cls`, `names` (attributes) | Ultralytics | `xyxy` | 0 |
| `boxes`, `scores`, `classes` | models of this package, and others | must be stated | 0 in a list, or must be stated |
| `mask`, `confidence` | models of this package | | 0 |

Other names beside these are ignored. Formats have the names of KerasCV's
`bounding_box_format`; those with `rel_` are fractions of the image's width and height.

Source: `object_detection/exporter_lib_v2.py` (adds 1 to the classes) and
`core/post_processing.py` of tensorflow/models; `NonMaxSuppression` and
`mask_invalid_detections` (padding of -1) of keras-cv; `decode_predictions` of
keras-hub's `DFineObjectDetector` and `RetinaNetObjectDetector`; `engine/results.py` of
ultralytics; docstrings of torchvision's `FasterRCNN` (class 0 is the background) and of
transformers' `post_process_object_detection` (ids from 0, fractions without
`target_sizes`).
"""  # noqa: E501  # a table

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from official_selftrain.checks import arguments
from official_selftrain.data import masks
from official_selftrain.geometry import letterbox
from official_selftrain.labeling import teachers

_ORDERS = {
    "yxyx": lambda a, b, c, d: (a, b, c, d),
    "xyxy": lambda a, b, c, d: (b, a, d, c),
    "xywh": lambda a, b, c, d: (b, a, b + d, a + c),
    "center_xywh": lambda a, b, c, d: (b - d / 2, a - c / 2, b + d / 2, a + c / 2),
}

BOX_FORMATS = ("auto", *_ORDERS, "rel_yxyx", "rel_xyxy", "rel_xywh")
BOX_UNITS = ("auto", "pixels", "normalized")

# Names in lists of classes that mark an id without a class.
_UNUSED = ("", "???", "N/A", "__background__")

# Fractions can exceed 1 where a box reaches beyond the image.
_MAX_FRACTION = 2.0

# How far a box may reach beyond the image, as a fraction of its side.
_MAX_BEYOND = 0.25


@dataclasses.dataclass(frozen=True)
class Convention:
    """Names of arrays, and what follows from them.

    Attributes:
        origin: str, whose names these are.
        boxes: str or None, the name of the boxes; None for masks.
        scores: str, the name of the scores, or of a mask's confidence.
        classes: str, the name of the class ids, or of a mask.
        order: str or None, order of a box's numbers: a format of `BOX_FORMATS`.
        first_id: int or None, id of the first class.
    """

    origin: str
    boxes: str | None
    scores: str
    classes: str
    order: str | None
    first_id: int | None

    @property
    def names(self):
        """The names of all its arrays."""
        return tuple(name for name in (self.boxes, self.scores, self.classes) if name)


DETECTION = Convention(
    "the TF Object Detection API",
    *("detection_boxes", "detection_scores", "detection_classes"),
    "yxyx",
    1,
)
RESULTS = Convention("COCO results", "bbox", "score", "category_id", "xywh", 1)
ULTRALYTICS = Convention("Ultralytics", "xyxy", "conf", "cls", "xyxy", 0)
MASKS = Convention("masks", None, "confidence", "mask", None, 0)
_CONVENTIONS = (
    MASKS,
    Convention("KerasCV", "boxes", "confidence", "classes", None, 0),
    Convention("KerasHub", "boxes", "confidence", "labels", None, 0),
    Convention("torchvision", "boxes", "scores", "labels", "xyxy", None),
    Convention("several tools", "boxes", "scores", "classes", None, None),
)


def convention_of(answer):
    """Return the convention of an answer.

    Args:
        answer: dict, or other collection, of names; or a result object of Ultralytics.

    Returns:
        `Convention`.

    Raises:
        ValueError: for other names, or those of several conventions.
    """
    if _is_result(answer):
        return ULTRALYTICS
    is_named = isinstance(answer, Mapping | tuple | list | set)
    names = {name for name in answer if isinstance(name, str)} if is_named else set()
    if set(DETECTION.names) <= names:
        return DETECTION
    fitting = [c for c in _CONVENTIONS if set(c.names) <= names]
    if len(fitting) == 1:
        return fitting[0]
    received = ", ".join(sorted(names)) or type(answer).__name__
    raise ValueError(
        f"Expected outputs {', '.join(DETECTION.names)}, or mask and confidence, or "
        "boxes with scores or confidence and classes or labels (one of each), or a "
        f"result of Ultralytics. Received: {received}; convert other outputs in a "
        "function, --teacher=python:my_module:my_teacher"
    )


def _is_result(answer):
    return hasattr(answer, "boxes") and hasattr(answer, "names")


@dataclasses.dataclass(frozen=True)
class Classes:
    """A teacher's classes, and how its answers number them.

    Attributes:
        names: tuple of str.
        numbers: tuple of int, the id of each name, or its place in a list, from 0.
        kind: `"ids"` if `numbers` are ids; `"coco"` if they are those of a COCO file;
            `"list"` or `"file"` if they are places.
        first_id: int or None, the id of place 0; None: it follows from the answers.
    """

    names: tuple
    numbers: tuple
    kind: str
    first_id: int | None = None

    def ids(self, convention):
        """Return a dict of class id to class index.

        Args:
            convention: `Convention` of the answers.

        Raises:
            ValueError: if the first id neither follows from the convention nor is
                stated, or contradicts it.
        """
        first = self._first_id(convention)
        if first is None:
            raise ValueError(
                "Expected --first_class_id, or class_names as a dict of id to name: "
                f"{convention.classes} count from 0 in some tools, from 1 in others. "
                f"Received: {', '.join(convention.names)} and the names "
                f"{_short(list(self.names))}"
            )
        ids = {first + number: index for index, number in enumerate(self.numbers)}
        is_from_zero = sorted(ids) == list(range(len(ids)))
        must_be = convention is MASKS
        must_be |= self.kind == "coco" and convention.first_id == 0
        if must_be and not is_from_zero:
            raise ValueError(
                f"Expected class ids of 0 to {len(ids) - 1}, as {convention.origin} "
                f"counts. Received: {_short(ids)}; name the classes in their order "
                "with --labels, a text file"
            )
        return ids

    def _first_id(self, convention):
        if self.kind in ("ids", "coco"):
            return 0
        if self.first_id is not None:
            return self.first_id
        # Classes that a function returns are indices of its list of names.
        is_own = self.kind == "list" and convention.classes == "classes"
        return 0 if is_own else convention.first_id


def classes_of(names, source):
    """Return classes listed in Python.

    Args:
        names: sequence of str, or dict of id to name. `"???"`, `"N/A"`,
            `"__background__"` and empty names mark an unused id.
        source: str, where they are from, for messages.

    Returns:
        `Classes`.

    Raises:
        ValueError: for other values, or a name that occurs twice.
    """
    is_dict = isinstance(names, Mapping)
    pairs = names.items() if is_dict else enumerate(_listed(names))
    try:
        pairs = [(float(number), name) for number, name in pairs]
        whole = {int(number) for number, _ in pairs if number.is_integer()}
        is_whole = len(whole) == len(pairs)
        pairs = sorted((int(n), name) for n, name in pairs) if is_whole else []
    except (TypeError, ValueError):
        pairs = []
    kept = [(number, name) for number, name in pairs if name not in _UNUSED]
    found = [name for _, name in kept]
    is_valid = all(isinstance(name, str) for name in found)
    if not found or not is_valid or len(set(found)) < len(found):
        raise ValueError(
            f"Expected class names, each once, in {source}: a list, or a dict of whole "
            f"id to name. Received: {_short(names)}"
        )
    first_id = 0 if pairs[0] == (0, "__background__") else None
    numbers = tuple(number for number, _ in kept)
    return Classes(tuple(found), numbers, "ids" if is_dict else "list", first_id)


def _listed(names):
    return names if isinstance(names, list | tuple) else ()


def classes_of_file(path, first_class_id=None):
    """Return the classes of a file.

    Args:
        path: str, as in `teachers.read_classes`.
        first_class_id: int, the id of a text file's first line; None: it follows from
            the answers.

    Returns:
        `Classes`.
    """
    names, ids = teachers.read_classes(path, 0)
    kind = "coco" if path.endswith(".json") else "file"
    return Classes(tuple(names), tuple(ids), kind, first_class_id)


def agreed_classes(named, convention):
    """Return a teacher's classes, if everything that names them agrees.

    Args:
        named: dict of the place that names them, for messages, to `Classes`.
        convention: `Convention` of the answers.

    Returns:
        tuple of str, and dict of class id to class index.

    Raises:
        ValueError: for other names or ids in another place, or without ids.
    """
    ids, errors = {}, []
    for place, classes in named.items():
        try:
            ids[place] = classes.ids(convention)
        except ValueError as error:  # another list may tell
            errors.append(error)
    if not ids:
        raise errors[0]
    place, class_ids = next(iter(ids.items()))
    names = named[place].names
    for other, classes in named.items():
        if classes.names != names or ids.get(other, class_ids) != class_ids:
            first, second = (
                dict(zip(ids.get(key, class_ids), named[key].names))
                for key in (place, other)
            )
            raise ValueError(
                f"Expected the same classes in the same order in {place} and {other}. "
                f"Received: {first} and {second}"
            )
    return names, class_ids


def stated_format(convention, box_format="auto", box_units="auto"):
    """Return the format of a teacher's boxes.

    Args:
        convention: `Convention` of its answers.
        box_format: str, one of `BOX_FORMATS`, as stated.
        box_units: str, one of `BOX_UNITS`, as stated.

    Returns:
        str, one of `BOX_FORMATS`; `"auto"`: `yxyx` in units that the first answers
        with boxes decide (see `Reader`). For masks `"auto"`, too.

    Raises:
        ValueError: for an unknown format; for two statements that contradict each
            other or the convention; if nothing tells the format.
    """
    box_format = str(box_format).lower()  # KerasCV's may be written with capitals
    arguments.check_choice("box_format", box_format, BOX_FORMATS)
    if convention.boxes is None:
        return "auto"
    stated = box_format
    if "auto" not in (box_format, box_units):
        if box_format.startswith("rel_") != (box_units == "normalized"):
            raise ValueError(
                "Expected a box_format of the stated units. Received: "
                f"box_format={box_format}, box_units={box_units}"
            )
    if box_format == "auto":
        if convention.order is None:
            raise ValueError(
                "Expected --box_format, or box_format of a function, one of "
                f"{', '.join(BOX_FORMATS[1:])}: the names don't tell the order and the "
                f"units. Received: {', '.join(convention.names)}, as of "
                f"{convention.origin}"
            )
        if convention is DETECTION and box_units == "auto":
            return "auto"
        stated = convention.order
        if box_units == "normalized":
            stated = f"rel_{stated}"
    if convention is ULTRALYTICS and stated != "xyxy":
        raise ValueError(
            "Expected box_format=xyxy, that of results of Ultralytics. Received: "
            f"box_format={box_format}, box_units={box_units}"
        )
    return stated


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a teacher's answers are read.

    Attributes:
        teacher: str, its name in messages.
        convention: `Convention` of its answers.
        class_names: tuple of str.
        class_ids: dict of class id to class index.
        box_format: str, as of `stated_format`.
        is_checked: bool, refuse answers whose values don't fit the image; False: only
            answers with unknown classes.
        is_decided: bool, whether earlier answers decided the format, see `Reader`.
    """

    teacher: str
    convention: Convention
    class_names: tuple
    class_ids: dict
    box_format: str
    is_checked: bool = True
    is_decided: bool = False


class Reader:
    """Reads a teacher's answers; units that nothing states are decided once.

    The first answers that have boxes decide: fractions if no coordinate exceeds 2. A
    later answer that contradicts them is refused.

    Args:
        reading: `Reading`.
        frame: as in `read`.
    """

    def __init__(self, reading, frame=None):
        self._reading = reading
        self._frame = frame

    def read(self, found, sizes, images=None):
        """Return the labels in the answers about several images.

        Args:
            found: list of answers.
            sizes: list of int arrays, height and width of each image.
            images: list of str, their names in messages, or None.

        Returns:
            list of dict, as of `Teacher.label`.

        Raises:
            ValueError: as `read`.
        """
        images = images or ["an image"] * len(found)
        labels = self._read(found, sizes, images)
        is_open = self._reading.box_format == "auto"
        if not is_open or not any(len(one.get("boxes", ())) for one in labels):
            return labels
        convention = self._reading.convention
        largest = [
            float(boxes.max())
            for boxes in (_used(answer, convention)[0] for answer in found)
            if len(boxes)
        ]
        box_format = "rel_yxyx" if max(largest) <= _MAX_FRACTION else "yxyx"
        self._reading = dataclasses.replace(
            self._reading, box_format=box_format, is_decided=True
        )
        return self._read(found, sizes, images)

    def _read(self, found, sizes, images):
        return [
            read(answer, size, self._reading, self._frame, image)
            for answer, size, image in zip(found, sizes, images)
        ]


def read(answer, size, reading, frame=None, image="an image"):
    """Return the labels in a teacher's answer about one image.

    Args:
        answer: dict of arrays, or a result object of Ultralytics. Rows with a score of
            0, of -1, or beyond `num_detections` are padding.
        size: int array, height and width of the image.
        reading: `Reading`.
        frame: height and width of the frame that the image was fitted into, whose
            pixels the boxes are in; None: the image itself.
        image: str, the image's name in messages.

    Returns:
        dict, as of `Teacher.label`.

    Raises:
        ValueError: for an answer that can't be read, or not in one way only; the
            message names the value, the image and the teacher.
    """
    try:
        if isinstance(answer, tuple | list | set):  # names without values
            raise ValueError(
                f"Expected a dict or a result. Received: {type(answer).__name__}"
            )
        if convention_of(answer) != reading.convention:
            raise ValueError(
                f"Expected answers of one kind, as of {reading.convention.origin}. "
                f"Received: one as of {convention_of(answer).origin}"
            )
        if reading.convention is MASKS:
            return _mask_labels(answer, size, reading)
        arrays = _result_arrays(answer, size) if _is_result(answer) else answer
        return _box_labels(arrays, size, reading, frame)
    except ValueError as error:
        if not reading.is_checked:
            raise
        raise ValueError(f"{error}; {image}, teacher {reading.teacher}") from None


def _result_arrays(result, size):
    """Return the arrays of a result object of Ultralytics."""
    boxes = result.boxes
    if not all(hasattr(boxes, name) for name in ULTRALYTICS.names):
        kinds = [k for k in ("obb", "probs") if getattr(result, k, None) is not None]
        raise ValueError(
            "Expected a result of Ultralytics with boxes.xyxy, .conf and .cls, as a "
            f"detector gives. Received: boxes={_short(boxes)}, {', '.join(kinds)}"
        )
    shape = tuple(getattr(result, "orig_shape", size))
    if shape != tuple(int(side) for side in size):
        raise ValueError(
            f"Expected a result for the image of {_shape(size)} (height x width). "
            f"Received: orig_shape={shape}"
        )
    return {name: getattr(boxes, name) for name in ULTRALYTICS.names}


def as_array(value, name):
    """Return a value as an array, also a tensor of TensorFlow or PyTorch.

    Args:
        value: array, tensor or nested list of numbers.
        name: str, its name in the message.

    Returns:
        array of numbers.

    Raises:
        ValueError: for anything else.
    """
    try:
        # TensorFlow's tensors have a deprecated `cpu`, which isn't needed.
        methods = ("numpy",) if tf.is_tensor(value) else ("detach", "cpu", "numpy")
        for method in methods:
            value = getattr(value, method)() if hasattr(value, method) else value
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        text = str(error).split("\n")[0]
        raise ValueError(f"Expected numbers as {name}. Received: {text}") from None
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"Expected numbers as {name}. Received: {_short(array.tolist())}"
        )
    return array


def _box_labels(arrays, size, reading, frame):
    convention = reading.convention
    if reading.is_checked:
        arrays = _checked_arrays(arrays, convention)
    boxes, scores, ids = _used(arrays, convention)
    for class_id in ids:
        teachers.check_class_id(class_id, reading.class_ids, reading.class_names)
    input_size = np.float32(frame if frame else size)
    box_format = reading.box_format
    if box_format == "auto":
        is_normalized = bool(len(boxes)) and float(boxes.max()) <= _MAX_FRACTION
        box_format = "rel_yxyx" if is_normalized else "yxyx"
    elif reading.is_decided:
        largest = float(boxes.max(initial=0.0))
        if box_format.startswith("rel_") and largest > _MAX_FRACTION:
            raise ValueError(
                "Expected fractions, as in the first answers with boxes. Received: a "
                f"coordinate of {largest:g}; state --box_units=pixels or normalized"
            )
    elif reading.is_checked:
        _check_units(boxes, box_format, input_size)
    boxes = corners(boxes, box_format, input_size)
    if "image_info" in arrays and not box_format.startswith("rel_"):
        info = np.asarray(arrays["image_info"], np.float32).reshape(4, 2)
        boxes = (boxes + np.tile(info[3], 2)) / np.tile(info[2], 2)
    if frame:
        scale = letterbox.letterbox_scale(size[None], frame).numpy()[0]
        boxes = boxes / np.tile(scale, 2)
    if reading.is_checked:
        _check_places(boxes, size, box_format)
    classes = np.array([reading.class_ids[class_id] for class_id in ids], np.int32)
    return {"boxes": boxes, "scores": scores, "classes": classes}


def _used(arrays, convention):
    """Return boxes, scores and class ids without padding."""
    boxes = np.asarray(arrays[convention.boxes], np.float32).reshape(-1, 4)
    scores = np.asarray(arrays[convention.scores], np.float32).ravel()
    count = len(boxes)
    if "num_detections" in arrays:
        count = min(count, int(np.ravel(arrays["num_detections"])[0]))
    boxes, scores = boxes[:count], scores[:count]
    kept = scores > 0.0
    ids = np.ravel(arrays[convention.classes])[:count][kept].astype(int).tolist()
    return boxes[kept], scores[kept], ids


def corners(boxes, box_format, size):
    """Return the corners of boxes.

    Args:
        boxes: float array `[n, 4]`.
        box_format: str, one of `BOX_FORMATS` but `"auto"`.
        size: float array `[2]`, or `[n, 2]` for every box: height and width that
            fractions refer to.

    Returns:
        float array `[n, 4]`: ymin, xmin, ymax, xmax in pixels.
    """
    boxes = np.stack(_ORDERS[box_format.removeprefix("rel_")](*boxes.T), axis=1)
    is_fraction = box_format.startswith("rel_")
    return boxes * np.tile(size, 2) if is_fraction else boxes


def _checked_arrays(arrays, convention):
    """Return arrays of numbers whose shapes and values fit each other."""
    names = {*convention.names, *({"num_detections", "image_info"} & set(arrays))}
    arrays = {name: as_array(arrays[name], name) for name in names}
    boxes, scores, ids = (arrays[name] for name in convention.names)
    if not boxes.size:  # an empty list has no second side
        boxes = arrays[convention.boxes] = boxes.reshape(0, 4)
    shapes = {name: arrays[name].shape for name in convention.names}
    if boxes.shape != (len(boxes), 4) or {scores.shape, ids.shape} != {boxes.shape[:1]}:
        expected = ", ".join(_expected_shapes(convention))
        received = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"Expected {expected} of an image. Received: {received}")
    count = len(boxes)
    if "num_detections" in arrays:
        number = arrays["num_detections"]
        is_whole = number.size == 1 and float(number.ravel()[0]).is_integer()
        if not is_whole or not 0 <= number.ravel()[0] <= count:
            raise ValueError(
                f"Expected num_detections of 0 to {count}. Received: {number.tolist()}"
            )
    if "image_info" in arrays and arrays["image_info"].size != 8:
        raise ValueError(
            "Expected image_info [4, 2]. Received: shape "
            f"{list(arrays['image_info'].shape)}"
        )
    if "num_detections" in arrays:
        count = int(number.ravel()[0])
    boxes, scores, ids = boxes[:count], scores[:count], ids[:count]
    is_padding = (scores == -1) & (ids == -1)
    # A score in half precision may be a little over 1.
    is_score = (scores >= 0.0) & (scores <= 1.001)
    if not (is_score | is_padding).all():
        wrong = scores[~(is_score | is_padding)][0]
        raise ValueError(f"Expected {convention.scores} of 0 to 1. Received: {wrong}")
    if not np.isfinite(boxes).all():
        wrong = boxes[~np.isfinite(boxes).all(axis=1)][0]
        raise ValueError(f"Expected finite boxes. Received: {wrong.tolist()}")
    if not (ids == np.round(ids)).all():
        wrong = ids[~(ids == np.round(ids))][0]
        raise ValueError(
            f"Expected whole numbers as {convention.classes}. Received: {wrong}"
        )
    return arrays


def _expected_shapes(convention):
    return [
        f"{name} (n, 4)" if name == convention.boxes else f"{name} (n,)"
        for name in convention.names
    ]


def _check_units(boxes, box_format, input_size):
    largest = float(np.abs(boxes).max(initial=0.0))
    if box_format.startswith("rel_"):
        if largest > _MAX_FRACTION:
            raise ValueError(
                f"Expected fractions, as box_format={box_format} says. Received: a "
                f"coordinate of {largest:g}"
            )
    elif boxes.size and largest <= _MAX_FRACTION < input_size.min() / 4:
        raise ValueError(
            f"Expected pixels, as box_format={box_format} says. Received: "
            f"{boxes[0].tolist()}, no coordinate above {largest:g}; for fractions "
            f"state --box_format=rel_{box_format.removeprefix('center_')}, or drop "
            "boxes of a single pixel"
        )


def _check_places(boxes, size, box_format):
    """Check that boxes have their corners in order and lie in the image."""
    limits = np.float32([*size, *size])
    is_turned = (boxes[:, 2:] < boxes[:, :2] - 0.5).any(axis=1)
    beyond = np.maximum(_MAX_BEYOND * limits, 2.0)
    is_beyond = ((boxes < -beyond) | (boxes > limits + beyond)).any(axis=1)
    is_beyond |= (boxes[:, 2:] < 0.0).any(axis=1) | (boxes > limits)[:, :2].any(axis=1)
    read_as = "yxyx" if box_format == "auto" else box_format
    for wrong, expected in (
        (is_turned, "boxes whose ends follow their starts"),
        (is_beyond, f"boxes in the image of {_shape(size)} (height x width)"),
    ):
        if wrong.any():
            raise ValueError(
                f"Expected {expected}. Received: {_short(boxes[wrong][0].round(2))} "
                f"(ymin, xmin, ymax, xmax in pixels), read as box_format={read_as}"
            )


def _mask_labels(answer, size, reading):
    mask, confidence = answer["mask"], answer["confidence"]
    if reading.is_checked:
        mask, confidence = as_array(mask, "mask"), as_array(confidence, "confidence")
        _check_mask(mask, confidence, size, reading.class_names)
    mask, confidence = np.asarray(mask), np.asarray(confidence)
    # Masks of images of different sizes are padded to one array.
    mask = mask.reshape(mask.shape[:2])[: size[0], : size[1]]
    confidence = confidence.reshape(confidence.shape[:2])[: size[0], : size[1]]
    if mask.shape != tuple(size):
        raise ValueError(
            f"Expected a mask of the image's size, {tuple(size)}. "
            f"Received: {mask.shape}"
        )
    if confidence.dtype.kind != "f" and confidence.max(initial=0) == 1:
        raise ValueError(
            "Expected a confidence of floats of 0 to 1, or uint8 of 0 to 255. "
            f"Received: {confidence.dtype} of 0 to 1; multiply it by 255, or return "
            "floats"
        )
    if confidence.dtype.kind == "f":
        confidence = np.round(255.0 * np.clip(confidence, 0.0, 1.0))
    return {"mask": masks.encode(mask), "confidence": masks.encode(confidence)}


def _check_mask(mask, confidence, size, class_names):
    if mask.shape != tuple(size) or confidence.shape != tuple(size):
        raise ValueError(
            f"Expected a mask and a confidence of the image's size, {_shape(size)} "
            f"(height x width). Received: {mask.shape} and {confidence.shape}"
        )
    ids = np.unique(mask)
    is_known = (ids == np.round(ids)) & (ids >= 0) & (ids < len(class_names))
    wrong = ids[~is_known & (ids != masks.IGNORE_CLASS)]
    if len(wrong):
        raise ValueError(
            f"Expected a mask of 0 to {len(class_names) - 1} or {masks.IGNORE_CLASS}, "
            f"for the classes {_short(list(class_names))}. Received: {wrong[0]}"
        )
    is_fraction = confidence.dtype.kind == "f"
    is_fraction &= bool(((confidence >= 0.0) & (confidence <= 1.001)).all())
    if not is_fraction and confidence.dtype != np.uint8:
        raise ValueError(
            "Expected a confidence of floats of 0 to 1, or uint8 of 0 to 255. "
            f"Received: {confidence.dtype} of {confidence.min()} to {confidence.max()}"
        )


def _shape(size):
    return f"{int(size[0])} x {int(size[1])}"


def _short(value):
    value = value.tolist() if isinstance(value, np.ndarray) else value
    text = str(value)
    return text if len(text) <= 160 else f"{text[:160]}…"
