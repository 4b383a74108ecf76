"""Teachers behind a serving signature (see `signatures`).

The signature has one input, images or image files. It returns `detection_boxes`,
`detection_scores` and `detection_classes` (optionally `num_detections` and
`image_info`), or `mask` and `confidence` of the image's size, or the arrays of another
convention of `answers`.
"""

import functools

import numpy as np
import tensorflow as tf

from official_selftrain.data import examples, images
from official_selftrain.geometry import letterbox
from official_selftrain.labeling import answers, teachers

# Their values aren't checked: boxes may reach beyond the image, where they are clipped.
_UNCHECKED = (answers.DETECTION, answers.MASKS)


def signature_teacher(
    signature, class_names, class_ids, origin, box_units="auto", box_format="auto"
):
    """Create a teacher from a signature.

    Args:
        signature: `signatures.Signature`.
        class_names: sequence of str.
        class_ids: dict of detection class id to class index.
        origin: dict, as in `Teacher`.
        box_units: `"pixels"` or `"normalized"` (fractions of height and width);
            `"auto"` decides for each image: normalized if no coordinate exceeds 2.
            Boxes in pixels of a resized frame are mapped back with `image_info`:
            (box + offset) / scale.
        box_format: str, as in `answers.stated_format`.

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
    decode = functools.partial(answers.read, reading=reading, frame=_frame(signature))
    return teachers.Teacher(
        functools.partial(_prepare, signature),
        functools.partial(_label, signature, decode),
        tuple(class_names),
        convention is answers.MASKS,
        origin if box_format == "auto" else {**origin, "box_format": box_format},
    )


def _takes_files(signature):
    return signature.dtype == tf.string


def _frame(signature):
    """Return the fixed input size of a signature, or None."""
    if _takes_files(signature) or None in signature.shape[1:3]:
        return None
    return signature.shape[1:3]


def _prepare(signature, example, image):
    """Return the signature's input for an image, as `Teacher.prepare` does."""
    frame = _frame(signature)
    if _takes_files(signature):
        contents = examples.read_contents(example)
        # Served models may neither apply EXIF rotation nor read animations.
        plain = tf.equal(images.orientation(contents), 1)
        plain &= ~images.needs_pillow(contents)
        plain &= tf.strings.substr(contents, 0, 3) != "GIF"
        return {
            "image": tf.cond(plain, lambda: contents, lambda: tf.io.encode_png(image)),
        }
    if frame:
        image = tf.round(letterbox.fit(image, frame))
    return {"image": tf.cast(image, signature.dtype)}


def _label(signature, decode, items):
    """Return the labels of images, as `Teacher.label` does."""
    results = [None] * len(items)
    for indices in _alike(signature, items):
        step = signature.shape[0] or len(indices)
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            outputs = _call(signature, [items[index]["image"] for index in part])
            for row, index in enumerate(part):
                labels = {key: value[row] for key, value in outputs.items()}
                results[index] = decode(labels, items[index]["size"].numpy())
    return results


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
