"""A teacher's labels: from predictions to files and back."""

import concurrent.futures
import dataclasses
import functools
import json
import math
import os

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from official_selftrain.boxes import letterbox_scale
from official_selftrain.data import examples, pipeline, sources


def predictor(model):
    """Return a compiled function from images and sizes to predictions.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.

    Returns:
        function `(images, sizes)` → dict of predictions.
    """

    @tf.function(reduce_retracing=True)
    def predict(images, sizes):
        return model.predictions(model(images, training=False), sizes)

    return predict


def labeler(model, scales=(1.0,), flip=False):
    """Return a function that labels a batch as a model sees it.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        scales: floats, scales that the probabilities of masks are averaged over.
        flip: bool, average over mirror images too.

    Returns:
        function `(images, sizes)` → list with the labels of each image: `boxes`
        float32 `[n, 4]` in its pixels, `classes`, `scores`, `ignore`, `areas`; or
        `mask` and `confidence` of its size, PNGs of `data.masks`.

    Raises:
        ValueError: for scales or mirror images of a model whose labels are boxes.

    Source: paper section 3.
    """
    if not hasattr(model, "multi_scale"):
        if tuple(scales) != (1.0,) or flip:
            raise ValueError(
                "Expected scales (1.0,) and no flip where labels are boxes. Received: "
                f"scales={tuple(scales)}, flip={flip}"
            )
        return functools.partial(_boxes, predictor(model))
    probabilities = tf.function(model.multi_scale(scales, flip), reduce_retracing=True)
    # Traced here, once: threads would each trace it at the same time.
    return functools.partial(_masks, probabilities, _mask_pngs.get_concrete_function())


def _boxes(predict, images, sizes):
    predictions = {k: v.numpy() for k, v in predict(images, sizes).items()}
    labels = []
    for row in range(len(sizes)):
        boxes = predictions["boxes"][row]
        sides = boxes[:, 2:] - boxes[:, :2]
        used = (predictions["classes"][row] >= 0) & (sides > 0.0).all(axis=1)
        labels.append(
            {
                "boxes": boxes[used],
                "classes": predictions["classes"][row][used],
                "scores": predictions["scores"][row][used],
                "ignore": np.zeros(used.sum(), bool),
                "areas": sides[used].prod(axis=1),
            }
        )
    return labels


def _masks(probabilities, mask_pngs, images, sizes):
    found = probabilities(images)
    # The part of the frame that each image covers.
    covered = sizes * letterbox_scale(sizes, tuple(images.shape[1:3])).numpy()
    covered = covered.round().astype(np.int32)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pngs = pool.map(
            lambda row: mask_pngs(
                found[row], tf.constant(covered[row]), tf.constant(sizes[row])
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
    """Return mask and confidence of an image, as PNGs of its size.

    Class by class, so that a large photograph needs no tensor of all classes.
    """
    seen = probabilities[: covered[0], : covered[1]]
    mask = tf.zeros(size, tf.uint8)
    highest = tf.fill(size, -1.0)
    for label in tf.range(tf.shape(seen)[2]):
        score = tf.image.resize(seen[..., label, None], size)[..., 0]
        mask = tf.where(score > highest, tf.cast(label, tf.uint8), mask)
        highest = tf.maximum(score, highest)
    confidence = tf.cast(tf.round(255.0 * tf.minimum(highest, 1.0)), tf.uint8)
    return (
        tf.io.encode_png(mask[..., None]),
        tf.io.encode_png(confidence[..., None]),
    )


def write(
    model,
    source,
    output_dir,
    batch_size=16,
    shard_size=500,
    scales=(1.0,),
    flip=False,
):
    """Label images and write the labels as TFRecord shards.

    Every detection of the model is stored with its score, every pixel's class with
    its probability, so that a threshold can be chosen when the labels are read. A
    shard appears under its final name only when it is whole; on a second call the
    shards that exist are kept. Images that lie in files are referenced by path,
    others are embedded.

    Args:
        model: the teacher.
        source: `examples.Source`; its labels, if any, aren't looked at.
        output_dir: str, gets `pseudo-00000-of-00004.tfrecord` and so on, and in
            the end `manifest.json`.
        batch_size: int.
        shard_size: int, images per shard.
        scales: as in `labeler`.
        flip: as in `labeler`.

    Returns:
        dict, the manifest: `images`, `shards`, `skipped`, `has_masks`, `scales`,
        `flip`.

    Source: own; file and feature names of the TF Model Garden.
    """
    os.makedirs(output_dir, exist_ok=True)
    label = labeler(model, scales, flip)
    num_shards = math.ceil(source.num_images / shard_size)
    with tqdm(total=source.num_images, desc="pseudo_labels", unit="image") as progress:
        for shard in range(num_shards):
            name = f"pseudo-{shard:05d}-of-{num_shards:05d}.tfrecord"
            path = os.path.join(output_dir, name)
            images = examples.part(source, shard * shard_size, shard_size)
            if not os.path.exists(path):
                with tf.io.TFRecordWriter(path + ".partial") as writer:
                    for serialized in labeled_records(
                        label, images, batch_size, model.image_size
                    ):
                        writer.write(serialized)
                        progress.update()
                os.replace(path + ".partial", path)
            else:
                progress.update(images.num_images)
    manifest = {
        "images": source.num_images,
        "shards": num_shards,
        "skipped": list(source.skipped),
        "has_masks": hasattr(model, "multi_scale"),
        "scales": list(scales),
        "flip": flip,
    }
    with open(os.path.join(output_dir, "manifest.json.partial"), "w") as file:
        json.dump(manifest, file, indent=2)
    os.replace(file.name, os.path.join(output_dir, "manifest.json"))
    return manifest


def labeled_records(label, source, batch_size, image_size):
    """Yield the serialised examples of a source with a labeler's labels.

    Args:
        label: function of `labeler`.
        source: `examples.Source`; its labels, if any, aren't looked at.
        batch_size: int.
        image_size: (height, width) of the teacher's frame.

    Yields:
        bytes of a `tf.train.Example`, in the source's order.
    """
    images = source.dataset.as_numpy_iterator()
    # The truth isn't looked at: boxes, of which one slot is enough.
    source = dataclasses.replace(source, has_masks=False)
    for batch in pipeline.evaluation_batches(source, batch_size, image_size, 1):
        sizes = batch["sizes"].numpy()
        for size, labels in zip(sizes, label(batch["images"], sizes)):
            image = next(images)
            if "boxes" in labels:
                labels["boxes"] = labels["boxes"] / np.float32([*size, *size])
            record = {key: image[key] for key in ("encoded", "path", "id")}
            yield examples.serialize({**record, **labels}, *size)


def read(output_dir, class_names):
    """Read what `write` has written, with every score.

    Args:
        output_dir: str.
        class_names: sequence of str, the teacher's classes.

    Returns:
        `examples.Source`.

    Raises:
        FileNotFoundError: if the labels aren't complete.
    """
    path = os.path.join(output_dir, "manifest.json")
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"Expected {path}. Make it with the stage pseudo_labels: "
            "python -m official_selftrain.train … --stages=pseudo_labels"
        )
    with open(path) as file:
        has_masks = json.load(file).get("has_masks", False)
    pattern = os.path.join(output_dir, "pseudo-*-of-*.tfrecord")
    return sources.tfrecord(pattern, class_names, has_labels=False, has_masks=has_masks)
