"""Teachers behind a serving signature (see `signatures`).

The signature has one input, images or image files. It returns `detection_boxes`,
`detection_scores` and `detection_classes` (optionally `num_detections` and
`image_info`), or `mask` and `confidence` of the image's size, or the arrays of another
convention of `answers`.
"""

import dataclasses
import functools
import types

import numpy as np
import tensorflow as tf

from official_selftrain.checks.arguments import check_choice
from official_selftrain.data import examples, images
from official_selftrain.geometry import letterbox
from official_selftrain.labeling import answers, teachers

# Their values aren't checked: boxes may reach beyond the image, where they are clipped.
_UNCHECKED = (answers.DETECTION, answers.MASKS)

# As `predict` of Ultralytics suppresses boxes, but for a lower minimum score.
_ULTRALYTICS_FLOOR = 0.01
_ULTRALYTICS_IOU = 0.7
_ULTRALYTICS_BOXES = 300


PIXEL_SCALES = ("0..255", "0..1", "-1..1")
CHANNELS = ("rgb", "bgr")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Which values the pixels of a model's input have.

    Attributes:
        pixel_scale: str, one of `PIXEL_SCALES`.
        channels: str, one of `CHANNELS`, their order.

    Raises:
        ValueError: for another one.
    """

    pixel_scale: str = "0..255"
    channels: str = "rgb"

    def __post_init__(self):
        check_choice("pixel_scale", self.pixel_scale, PIXEL_SCALES)
        check_choice("channels", self.channels, CHANNELS)

    def of(self, image):
        """Return an image's pixels.

        Args:
            image: `[..., 3]`, RGB of 0…255.

        Returns:
            the same, or float32 in another range.
        """
        if self.channels == "bgr":
            image = image[..., ::-1]
        if self.pixel_scale == "0..1":
            return tf.cast(image, tf.float32) / 255.0
        if self.pixel_scale == "-1..1":
            return tf.cast(image, tf.float32) / 127.5 - 1.0
        return image

    @property
    def stated(self):
        """Dict of what isn't the default."""
        default = dataclasses.asdict(Pixels())
        return {k: v for k, v in dataclasses.asdict(self).items() if v != default[k]}


def signature_teacher(
    signature,
    class_names,
    class_ids,
    origin,
    box_units="auto",
    box_format="auto",
    pixels=Pixels(),
):
    """Create a teacher from a signature.

    Args:
        signature: `signatures.Signature`.
        class_names: sequence of str.
        class_ids: dict of detection class id to class index.
        origin: dict, as in `Teacher`.
        box_units: `"pixels"` or `"normalized"` (fractions of height and width);
            `"auto"` decides by the first boxes: normalized if no coordinate exceeds
            2. Boxes in pixels of a resized frame are mapped back with `image_info`:
            (box + offset) / scale.
        box_format: str, as in `answers.stated_format`.
        pixels: `Pixels` of an input of images.

    Returns:
        `teachers.Teacher`.

    Raises:
        ValueError: for unsupported inputs or outputs, or an unknown format of boxes.
    """
    convention = answers.convention_of(signature.outputs)
    shape = signature.shape
    is_files, is_images = len(shape) == 1, len(shape) == 4 and shape[3] == 3
    if not (is_files if _takes_files(signature) else is_images):
        raise ValueError(
            "Expected an input of image files [B] or images [B, H, W, 3]. Received: "
            f"{signature.input_name} of shape {list(shape)}"
        )
    reading = answers.Reading(
        "of a SavedModel or server",
        convention,
        tuple(class_names),
        class_ids,
        answers.stated_format(convention, box_format, box_units),
        convention not in _UNCHECKED,
    )
    _check_pixels(pixels, signature)
    reader = answers.Reader(reading, _frame(signature))
    stated = {} if box_format == "auto" else {"box_format": box_format}

    def with_pixels(others):
        return signature_teacher(
            *(signature, class_names, class_ids, origin, box_units, box_format),
            others,
        )

    return teachers.Teacher(
        functools.partial(_prepare, signature, pixels),
        functools.partial(_label, signature, reader.read),
        tuple(class_names),
        convention is answers.MASKS,
        {**origin, **stated, **pixels.stated},
        _notes(_frame(signature)),
        with_pixels=None if _takes_files(signature) else with_pixels,
    )


def _notes(frame):
    """Return what the user is told of an input of fixed size."""
    if not frame:
        return ()
    return (
        f"images are fitted into its input of {frame[0]} x {frame[1]} (height x "
        "width), padded at the right and below; boxes are taken as pixels or fractions "
        "of it",
    )


def _check_pixels(pixels, signature):
    is_wrong = bool(pixels.stated) and _takes_files(signature)
    is_wrong |= pixels.pixel_scale != "0..255" and not signature.dtype.is_floating
    if is_wrong:
        stated = ", ".join(f"{name}={value}" for name, value in pixels.stated.items())
        kind = "image files" if _takes_files(signature) else signature.dtype.name
        raise ValueError(
            f"Expected an input of pixels that can be {stated}. Received: "
            f"{signature.input_name} of {kind}; leave out the flag"
        )


def ultralytics_teacher(signature, metadata, stated, origin):
    """Create a teacher from a detector that Ultralytics exported as SavedModel.

    Its input is RGB of 0…1 in the middle of a gray frame. It returns one array: for
    every anchor center, size and class scores, `[B, 4 + K, N]`; or, after suppression,
    corners, score and class, `[B, N, 6]`. Coordinates are pixels of the frame; in an
    export to TFLite, fractions of it.

    Args:
        signature: `signatures.Signature`.
        metadata: dict, the content of the export's `metadata.yaml`.
        stated: `answers.Classes` as stated, or None for those of the metadata.
        origin: dict, as in `Teacher`.

    Returns:
        `teachers.Teacher`.

    Raises:
        ValueError: for another task, input or output, or other classes.

    Source: `nn/modules/head.py`, `nn/backends/tensorflow.py`, `engine/exporter.py` and
    `cfg/default.yaml` (IoU 0.7, 300 boxes) of ultralytics.
    """
    frame = _frame(signature)
    task = metadata.get("task")
    is_image = len(signature.shape) == 4 and signature.shape[3] == 3 and frame
    if task != "detect" or len(signature.outputs) != 1 or not is_image:
        raise ValueError(
            "Expected an export of Ultralytics with task: detect, images [B, H, W, 3] "
            f"of a fixed size and one output. Received: task: {task}, images of "
            f"{list(signature.shape)}, {len(signature.outputs)} outputs; label with a "
            "function that calls the model, --teacher=python:my_module:my_teacher"
        )
    named = {
        "metadata.yaml": answers.classes_of(metadata.get("names"), "metadata.yaml")
    }
    named |= {"--labels": stated} if stated else {}
    names, class_ids = answers.agreed_classes(named, answers.ULTRALYTICS)
    reading = answers.Reading(
        "of Ultralytics", answers.ULTRALYTICS, names, class_ids, "xyxy"
    )

    def prepare(example, image):
        return {"image": letterbox.fit_centered(image, frame, 114.0) / 255.0}

    def decode(found, sizes):
        return [decode_one(*one) for one in zip(found, sizes)]

    def decode_one(outputs, size):
        (rows,) = outputs.values()
        boxes, scores, classes = _ultralytics_rows(rows, len(class_ids), frame)
        boxes = letterbox.from_centered(boxes[:, [1, 0, 3, 2]], size, frame)
        found = types.SimpleNamespace(
            xyxy=boxes[:, [1, 0, 3, 2]], conf=scores, cls=classes
        )
        result = types.SimpleNamespace(boxes=found, names=names)
        return answers.read(result, size, reading)

    label = functools.partial(_label, signature, decode)
    return teachers.Teacher(prepare, label, names, False, {**origin})


def _ultralytics_rows(rows, num_classes, frame):
    """Return boxes (x1, y1, x2, y2 in pixels of the frame), scores and classes."""
    is_final = rows.shape[-1] == 6
    if not is_final and rows.shape[0] != 4 + num_classes:
        raise ValueError(
            f"Expected an output of [{4 + num_classes}, N] or [N, 6] for "
            f"{num_classes} classes. Received: {list(rows.shape)}"
        )
    rows = rows if is_final else rows.T
    boxes, scores = rows[:, :4], rows[:, 4] if is_final else rows[:, 4:].max(axis=1)
    classes = rows[:, 5] if is_final else rows[:, 4:].argmax(axis=1)
    # Anchors cover the whole frame, so that fractions can't be mistaken for pixels.
    if np.abs(boxes).max(initial=0.0) <= 2.0:
        boxes = boxes * np.float32([*frame[::-1], *frame[::-1]])
    kept = scores >= _ULTRALYTICS_FLOOR
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    if is_final:
        return boxes, scores, classes
    centers, halves = boxes[:, :2], boxes[:, 2:] / 2.0
    boxes = np.concatenate([centers - halves, centers + halves], axis=1)
    chosen = []
    for label in np.unique(classes):
        (own,) = np.nonzero(classes == label)
        places = tf.image.non_max_suppression(
            boxes[own], scores[own], _ULTRALYTICS_BOXES, _ULTRALYTICS_IOU
        )
        chosen += own[places.numpy()].tolist()
    best = sorted(chosen, key=lambda place: -scores[place])[:_ULTRALYTICS_BOXES]
    return boxes[best], scores[best], classes[best]


def _takes_files(signature):
    return signature.dtype == tf.string


def _frame(signature):
    """Return the fixed input size of a signature, or None."""
    if _takes_files(signature) or None in signature.shape[1:3]:
        return None
    return signature.shape[1:3]


def _prepare(signature, pixels, example, image):
    """Return the signature's input for an image, as `Teacher.prepare` does."""
    frame = _frame(signature)
    if _takes_files(signature):
        contents = examples.read_contents(example)
        # Served models may neither apply EXIF rotation nor read animations, and drop
        # transparency and more than 8 bits.
        plain = tf.equal(images.orientation(contents), 1)
        plain &= ~images.needs_pillow(contents) & ~images.has_alpha(contents)
        plain &= tf.reduce_all(tf.equal(example.get("pixel_range", 0), 0))
        plain &= tf.strings.substr(contents, 0, 3) != "GIF"
        return {
            "image": tf.cond(plain, lambda: contents, lambda: tf.io.encode_png(image)),
        }
    if frame:
        image = tf.round(letterbox.fit(image, frame))
    return {"image": tf.cast(pixels.of(image), signature.dtype)}


def _label(signature, decode, items):
    """Return the labels of images, as `Teacher.label` does."""
    found = [None] * len(items)
    for indices in _alike(signature, items):
        step = signature.shape[0] or len(indices)
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            outputs = _call(signature, [items[index]["image"] for index in part])
            for row, index in enumerate(part):
                found[index] = {key: value[row] for key, value in outputs.items()}
    return decode(found, [item["size"].numpy() for item in items])


def _alike(signature, items):
    """Group the indices of images that can be stacked."""
    any_size = _takes_files(signature) or _frame(signature)
    groups = {}
    for index, item in enumerate(items):
        size = () if any_size else tuple(item["size"].numpy())
        groups.setdefault(size, []).append(index)
    return groups.values()


def _call(signature, batch):
    """Return a signature's outputs; pad the images to a fixed batch size."""
    batch = [image.numpy() for image in batch]
    batch += batch[-1:] * ((signature.shape[0] or 0) - len(batch))
    return signature.call(batch if _takes_files(signature) else np.stack(batch))
