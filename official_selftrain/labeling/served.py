"""Teachers behind a serving signature (see `signatures`).

The signature has one input, images or image files. It returns `detection_boxes`,
`detection_scores` and `detection_classes` (optionally `num_detections` and
`image_info`), or `mask` and `confidence` of the image's size.
"""

import functools

import numpy as np
import tensorflow as tf

from official_selftrain.data import examples, images, masks
from official_selftrain.geometry import letterbox
from official_selftrain.labeling import teachers

BOX_UNITS = ("auto", "pixels", "normalized")

_DETECTION = ("detection_boxes", "detection_scores", "detection_classes")


def signature_teacher(signature, class_names, class_ids, origin, box_units="auto"):
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

    Returns:
        `teachers.Teacher`.

    Raises:
        ValueError: for unsupported inputs or outputs.
    """
    is_detector = set(_DETECTION) <= set(signature.outputs)
    if not is_detector and not {"mask", "confidence"} <= set(signature.outputs):
        raise ValueError(
            f"Expected outputs {', '.join(_DETECTION)}, or mask and confidence. "
            f"Received: {', '.join(sorted(signature.outputs))}"
        )
    shape = signature.shape
    is_files, is_images = len(shape) == 1, len(shape) == 4 and shape[3] == 3
    if not (is_files if _takes_files(signature) else is_images):
        raise ValueError(
            "Expected an input of image files [B] or images [B, H, W, 3]. Received: "
            f"{signature.input_name} of shape {list(shape)}"
        )
    decode = _mask_labels
    if is_detector:
        decode = functools.partial(
            _box_labels,
            frame=_frame(signature),
            class_names=class_names,
            class_ids=class_ids,
            box_units=box_units,
        )
    return teachers.Teacher(
        functools.partial(_prepare, signature),
        functools.partial(_label, signature, decode),
        tuple(class_names),
        not is_detector,
        {**origin},
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


def _box_labels(outputs, size, frame, class_names, class_ids, box_units):
    boxes = np.asarray(outputs["detection_boxes"], np.float32).reshape(-1, 4)
    scores = np.asarray(outputs["detection_scores"], np.float32).ravel()
    count = len(boxes)
    if "num_detections" in outputs:
        count = min(count, int(np.ravel(outputs["num_detections"])[0]))
    boxes, scores = boxes[:count], scores[:count]
    kept = scores > 0.0
    boxes, scores = boxes[kept], scores[kept]
    ids = np.ravel(outputs["detection_classes"])[:count][kept].astype(int).tolist()
    for class_id in ids:
        teachers.check_class_id(class_id, class_ids, class_names)
    input_size = np.float32(frame if frame else size)
    if box_units == "auto":
        is_normalized = bool(len(boxes)) and float(boxes.max()) <= 2.0
        box_units = "normalized" if is_normalized else "pixels"
    if box_units == "normalized":
        boxes = boxes * np.tile(input_size, 2)
    elif "image_info" in outputs:
        info = np.asarray(outputs["image_info"], np.float32).reshape(4, 2)
        boxes = (boxes + np.tile(info[3], 2)) / np.tile(info[2], 2)
    if frame:
        scale = letterbox.letterbox_scale(size[None], frame).numpy()[0]
        boxes = boxes / np.tile(scale, 2)
    classes = np.array([class_ids[class_id] for class_id in ids], np.int32)
    return {"boxes": boxes, "scores": scores, "classes": classes}


def _mask_labels(outputs, size):
    mask = np.asarray(outputs["mask"])
    confidence = np.asarray(outputs["confidence"])
    # Masks of images of different sizes are padded to one array.
    mask = mask.reshape(mask.shape[:2])[: size[0], : size[1]]
    confidence = confidence.reshape(confidence.shape[:2])[: size[0], : size[1]]
    if mask.shape != tuple(size):
        raise ValueError(
            f"Expected a mask of the image's size, {tuple(size)}. "
            f"Received: {mask.shape}"
        )
    if confidence.dtype.kind == "f":
        confidence = np.round(255.0 * np.clip(confidence, 0.0, 1.0))
    return {"mask": masks.encode(mask), "confidence": masks.encode(confidence)}
