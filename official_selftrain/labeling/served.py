"""Teachers behind a signature (see `signatures`).

The signature has one input, images or image files, and gives either `detection_boxes`,
`detection_scores` and `detection_classes` (with `num_detections` and `image_info` where
they are there), or `mask` and `confidence` of the image's size.
"""

import numpy as np
import tensorflow as tf

from official_selftrain.data import examples, images, masks
from official_selftrain.geometry import letterbox
from official_selftrain.labeling import teachers

BOX_UNITS = ("auto", "pixels", "normalized")

_DETECTION = ("detection_boxes", "detection_scores", "detection_classes")


def signature_teacher(signature, class_names, class_ids, origin, box_units="auto"):
    """Make a teacher of a signature.

    Args:
        signature: `signatures.Signature`.
        class_names: sequence of str.
        class_ids: dict of a detection class to its index.
        origin: dict, as of `Teacher`.
        box_units: `"pixels"` or `"normalized"` (shares of height and width); `"auto"`
            decides for each image: no box of pixels ends before 2, and none of shares
            behind it. Boxes in pixels of a resized frame are taken back with
            `image_info`: (box + offset) / scale.

    Returns:
        `teachers.Teacher`.

    Raises:
        ValueError: for a signature of another kind.
    """
    is_detector = set(_DETECTION) <= set(signature.outputs)
    if not is_detector and not {"mask", "confidence"} <= set(signature.outputs):
        raise ValueError(
            f"Expected outputs {', '.join(_DETECTION)}, or mask and confidence. "
            f"Received: {', '.join(sorted(signature.outputs))}"
        )
    takes_files = signature.dtype == tf.string
    shape = signature.shape
    if (len(shape) != 1) if takes_files else (len(shape) != 4 or shape[3] != 3):
        raise ValueError(
            "Expected an input of image files [B] or images [B, H, W, 3]. Received: "
            f"{signature.input_name} of shape {list(shape)}"
        )
    frame = None if takes_files or None in shape[1:3] else shape[1:3]

    def prepare(example, image):
        if takes_files:
            contents = examples.read_contents(example)
            # Served models may neither turn photographs nor take animations.
            plain = tf.equal(images.orientation(contents), 1)
            plain &= tf.strings.substr(contents, 0, 3) != "GIF"
            return {
                "image": tf.cond(
                    plain, lambda: contents, lambda: tf.io.encode_png(image)
                ),
            }
        if frame:
            image = tf.round(letterbox.fit(image, frame))
        return {"image": tf.cast(image, signature.dtype)}

    def label(items):
        found = [None] * len(items)
        # Only what has the same size fits into one array.
        sizes = {}
        for index, item in enumerate(items):
            key = () if takes_files or frame else tuple(item["size"].numpy())
            sizes.setdefault(key, []).append(index)
        for indices in sizes.values():
            step = shape[0] or len(indices)
            for start in range(0, len(indices), step):
                part = indices[start : start + step]
                filled = part + part[-1:] * ((shape[0] or 0) - len(part))
                batch = [items[index]["image"].numpy() for index in filled]
                outputs = signature.call(batch if takes_files else np.stack(batch))
                for row, index in enumerate(part):
                    size = items[index]["size"].numpy()
                    labels = {key: value[row] for key, value in outputs.items()}
                    found[index] = decode(labels, size)
        return found

    def decode(outputs, size):
        if not is_detector:
            return _mask_labels(outputs, size)
        return _box_labels(outputs, size, frame, class_names, class_ids, box_units)

    return teachers.Teacher(
        prepare, label, tuple(class_names), not is_detector, {**origin}
    )


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
        is_share = bool(len(boxes)) and float(boxes.max()) <= 2.0
        box_units = "normalized" if is_share else "pixels"
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
    # Images of several sizes come back in one array, padded.
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
