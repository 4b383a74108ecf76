"""Model predictions in the pixels of the original images."""

import concurrent.futures
import functools

import numpy as np
import tensorflow as tf

from official_selftrain.geometry import letterbox
from official_selftrain.inference import tiles


def predictor(model):
    """Return a compiled prediction function.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.

    Returns:
        function `(images, sizes)` → dict of predictions.
    """

    def predict(images, sizes):
        return model.predictions(model(images, training=False), sizes)

    return _compiled(predict)


def _compiled(function):
    """Return a function compiled for every shape of its arguments.

    Called through its graphs, since TensorFlow counts those of all models together and
    warns of retracing after a few.
    """
    # Models are written without control flow that AutoGraph would have to convert.
    traced = tf.function(function, autograph=False, reduce_retracing=True)
    return lambda *tensors: traced.get_concrete_function(*tensors)(*tensors)


def labeler(model, scales=(1.0,), flip=False):
    """Return a function that labels a batch of model inputs.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        scales: floats, scales to average mask probabilities over.
        flip: bool, also average over mirrored images.

    Returns:
        function `(images, sizes)` → list with the labels of each image, as in
        `Teacher`.

    Raises:
        ValueError: for scales or `flip` with a detection model.

    Source: paper section 3.
    """
    if not hasattr(model, "multi_scale"):
        if tuple(scales) != (1.0,) or flip:
            raise ValueError(
                "Expected scales (1.0,) and no flip where labels are boxes. Received: "
                f"scales={tuple(scales)}, flip={flip}"
            )
        return functools.partial(_boxes, predictor(model))
    probabilities = _compiled(model.multi_scale(scales, flip))
    # Trace once, here: otherwise every thread would trace it.
    return functools.partial(_masks, probabilities, _mask_pngs.get_concrete_function())


def image_labeler(model):
    """Return a function that labels one image, tile by tile if the model has a tile.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.

    Returns:
        function (image uint8 `[h, w, 3]`) → labels, as in `Teacher`.
    """
    if getattr(model, "tile", None):
        detect = tiles.detector(model)
        return lambda image: {k: v.numpy() for k, v in detect(image).items()}
    label = labeler(model)

    def of_image(image):
        frame = letterbox.fit(image, model.image_size)
        return label(frame[None], np.array([image.shape[:2]], np.int32))[0]

    return of_image


def _boxes(predict, images, sizes):
    predictions = {k: v.numpy() for k, v in predict(images, sizes).items()}
    labels = []
    for row in range(len(sizes)):
        used = predictions["classes"][row] >= 0
        labels.append(
            {key: predictions[key][row][used] for key in ("boxes", "classes", "scores")}
        )
    return labels


def _masks(probabilities, mask_pngs, images, sizes):
    predicted = probabilities(images)
    # The part of the frame that each image covers.
    covered = letterbox.covered_size(sizes, tuple(images.shape[1:3])).numpy()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pngs = pool.map(
            lambda row: mask_pngs(
                predicted[row], tf.constant(covered[row]), tf.constant(sizes[row])
            ),
            range(len(sizes)),
        )
        return [
            {"mask": mask.numpy(), "confidence": confidence.numpy()}
            for mask, confidence in pngs
        ]


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None, None), tf.float32),
        tf.TensorSpec((2,), tf.int32),
        tf.TensorSpec((2,), tf.int32),
    ]
)
def _mask_pngs(probabilities, covered, size):
    """Return mask and confidence as PNGs of the image's size."""
    mask, confidence = masks_of_size(probabilities[None], covered, size)
    confidence = tf.cast(tf.round(255.0 * confidence), tf.uint8)
    return (
        tf.io.encode_png(tf.cast(mask[0, ..., None], tf.uint8)),
        tf.io.encode_png(confidence[0, ..., None]),
    )


def masks_of_size(probabilities, covered, size):
    """Return the most probable class of every pixel, for images of one size.

    It resizes one class at a time, to avoid a full-size tensor of all classes.

    Args:
        probabilities: float32 `[B, H, W, K]`, of the model's frame.
        covered: int32 `[2]`, height and width of the frame that the images cover.
        size: int32 `[2]`, height h and width w of the images in pixels.

    Returns:
        int32 `[B, h, w]` and float32 `[B, h, w]` in 0…1, their probability.
    """
    seen = probabilities[:, : covered[0], : covered[1]]
    shape = tf.concat([tf.shape(seen)[:1], size], axis=0)
    mask = tf.zeros(shape, tf.int32)
    highest = tf.fill(shape, -1.0)
    for label in tf.range(seen.shape[3] or tf.shape(seen)[3]):
        score = tf.gather(seen, label[None], axis=3)
        score = tf.image.resize(score, size)[..., 0]
        mask = tf.where(score > highest, label, mask)
        highest = tf.maximum(score, highest)
    return mask, tf.minimum(highest, 1.0)
