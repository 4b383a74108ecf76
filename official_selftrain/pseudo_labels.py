"""A teacher's labels: from predictions to files, and what they are worth."""

import json
import math
import os

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from official_selftrain.data import examples, pipeline, sources

# IoU from which a pseudo-box counts as a true box found.
_MATCH_IOU = 0.5

_HISTOGRAM_BINS = 20


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


def write(model, source, output_dir, batch_size=16, shard_size=500):
    """Label images and write the labels as TFRecord shards.

    Every detection of the model is stored with its score, so that a threshold
    can be chosen when the labels are read. A shard appears under its final name
    only when it is whole; on a second call the shards that exist are kept.
    Images that lie in files are referenced by path, others are embedded.

    Args:
        model: the teacher.
        source: `examples.Source`; its labels, if any, aren't looked at.
        output_dir: str, gets `pseudo-00000-of-00004.tfrecord` and so on, and in
            the end `manifest.json`.
        batch_size: int.
        shard_size: int, images per shard.

    Returns:
        dict, the manifest: `images`, `shards`, `skipped`.

    Source: own; file and feature names of the TF Model Garden.
    """
    os.makedirs(output_dir, exist_ok=True)
    predict = predictor(model)
    num_shards = math.ceil(source.num_images / shard_size)
    with tqdm(total=source.num_images, desc="pseudo_labels", unit="image") as progress:
        for shard in range(num_shards):
            name = f"pseudo-{shard:05d}-of-{num_shards:05d}.tfrecord"
            path = os.path.join(output_dir, name)
            images = examples.part(source, shard * shard_size, shard_size)
            if not os.path.exists(path):
                with tf.io.TFRecordWriter(path + ".partial") as writer:
                    for serialized in _labeled(predict, model, images, batch_size):
                        writer.write(serialized)
                os.replace(path + ".partial", path)
            progress.update(images.num_images)
    manifest = {
        "images": source.num_images,
        "shards": num_shards,
        "skipped": list(source.skipped),
    }
    with open(os.path.join(output_dir, "manifest.json.partial"), "w") as file:
        json.dump(manifest, file, indent=2)
    os.replace(file.name, os.path.join(output_dir, "manifest.json"))
    return manifest


def _labeled(predict, model, source, batch_size):
    """Yield the serialised examples of a source with the model's labels."""
    images = source.dataset.as_numpy_iterator()
    # The truth isn't looked at, so one slot for it is enough.
    batches = pipeline.evaluation_batches(source, batch_size, model.image_size, 1)
    for batch in batches:
        predictions = predict(batch["images"], batch["sizes"])
        predictions = {key: value.numpy() for key, value in predictions.items()}
        for row, (height, width) in enumerate(batch["sizes"].numpy()):
            image = next(images)
            boxes = predictions["boxes"][row]
            sides = boxes[:, 2:] - boxes[:, :2]
            used = (predictions["classes"][row] >= 0) & (sides > 0.0).all(axis=1)
            record = {
                "encoded": image["encoded"],
                "path": image["path"],
                "id": image["id"],
                "boxes": boxes[used] / np.float32([height, width, height, width]),
                "classes": predictions["classes"][row][used],
                "scores": predictions["scores"][row][used],
                "ignore": np.zeros(used.sum(), bool),
                "areas": sides[used].prod(axis=1),
            }
            yield examples.serialize(record, height, width)


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
    pattern = os.path.join(output_dir, "pseudo-*-of-*.tfrecord")
    return sources.tfrecord(pattern, class_names, has_labels=False)


def report_quality(source, score_threshold, truth=None):
    """Count pseudo-labels, and compare them with the truth where it is known.

    A pseudo-box of at least `score_threshold` is right if it overlaps a true
    box of its class, not taken by a box of higher score, with IoU of 0.5 or
    more. True crowds are not objects to be found.

    Args:
        source: `examples.Source` of pseudo-labels with every score.
        score_threshold: float in 0…1.
        truth: `examples.Source` of the same images in the same order, or None.

    Returns:
        dict: `images`, `boxes` (at or above the threshold), `boxes_per_image`,
        `empty_images` (without such a box), `score_threshold`, `precision` and
        `recall` (0…1, None where unknown), `score_histogram` (counts of all
        stored boxes in 20 bins over 0…1), `one_box_threshold` (the score at
        which there would be one box per image, None if too few are stored).

    Source: own.
    """
    images = boxes = empty = found = true_boxes = 0
    all_scores = []
    truths = iter(truth.dataset.as_numpy_iterator()) if truth else None
    for example in source.dataset.as_numpy_iterator():
        images += 1
        confident = example["scores"] >= score_threshold
        all_scores.append(example["scores"])
        boxes += int(confident.sum())
        empty += not confident.any()
        if truths is not None:
            target = next(truths)
            counted = ~target["ignore"]
            true_boxes += int(counted.sum())
            found += _num_found(
                {
                    key: example[key][confident]
                    for key in ("boxes", "classes", "scores")
                },
                {key: target[key][counted] for key in ("boxes", "classes")},
            )
    scores = np.concatenate(all_scores)
    histogram = np.histogram(scores, _HISTOGRAM_BINS, (0.0, 1.0))[0].tolist()
    ranked = np.sort(scores)[::-1]
    return {
        "images": images,
        "boxes": boxes,
        "boxes_per_image": boxes / images,
        "empty_images": empty,
        "score_threshold": score_threshold,
        "precision": found / boxes if truth and boxes else None,
        "recall": found / true_boxes if truth and true_boxes else None,
        "score_histogram": histogram,
        "one_box_threshold": (
            float(ranked[images - 1]) if len(ranked) >= images else None
        ),
    }


def require_labels(quality):
    """Refuse pseudo-labels of which not one is confident.

    Args:
        quality: dict of `report_quality`.

    Raises:
        ValueError: if no box reaches the threshold, with the histogram and the
            threshold that would give one box per image.
    """
    if quality["boxes"]:
        return
    histogram = quality["score_histogram"]
    if quality["one_box_threshold"] is not None:
        advice = (
            f"score_threshold={quality['one_box_threshold']:.3f} would give one box "
            "per image"
        )
    elif sum(histogram):
        advice = f"the {sum(histogram)} boxes that are stored are too few for that"
    else:
        advice = "the teacher finds nothing at all: train it longer"
    counts = ", ".join(
        f"{index / _HISTOGRAM_BINS:.2f}: {count}"
        for index, count in enumerate(histogram)
        if count
    )
    raise ValueError(
        "Expected pseudo-labels with a score of at least "
        f"{quality['score_threshold']}. Received: 0 boxes in {quality['images']} "
        "images, 100 % of the images empty; scores by bin "
        f"({counts or 'none'}); {advice}"
    )


def _num_found(predicted, target):
    free = np.ones(len(target["boxes"]), bool)
    found = 0
    for row in np.argsort(-predicted["scores"], kind="stable"):
        box = predicted["boxes"][row]
        top_left = np.maximum(box[:2], target["boxes"][:, :2])
        bottom_right = np.minimum(box[2:], target["boxes"][:, 2:])
        shared = np.prod(np.maximum(bottom_right - top_left, 0.0), axis=1)
        areas = np.prod(target["boxes"][:, 2:] - target["boxes"][:, :2], axis=1)
        union = np.prod(box[2:] - box[:2]) + areas - shared
        overlap = np.where(
            free & (target["classes"] == predicted["classes"][row]), shared, 0
        )
        matches = overlap >= _MATCH_IOU * np.maximum(union, 1e-12)
        if matches.any():
            free[np.argmax(np.where(matches, overlap / union, -1.0))] = False
            found += 1
    return found
