"""What pseudo-labels are worth: how many, how sure, and how right."""

import numpy as np
import tensorflow as tf

from official_selftrain import metrics
from official_selftrain.data import examples, masks

# IoU from which a pseudo-box counts as a true box found.
_MATCH_IOU = 0.5

_HISTOGRAM_BINS = 20


def measure(source, score_threshold, truth=None):
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

        For masks: `images`, `ignored` (share of the pixels below the threshold),
        `empty_images` (without another pixel), `score_threshold`, `mIoU` (percent)
        and `accuracy` (0…1) of the pixels that stay (None where the truth is
        unknown), `class_shares` (of each class among them), `score_histogram`
        (shares of all pixels), `median_score` (half of the pixels reach it).

    Source: own.
    """
    if source.has_masks:
        return _mask_quality(source, score_threshold, truth)
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


def _mask_quality(source, score_threshold, truth):
    num_classes = len(source.class_names)

    def decoded(example, target):
        mask = masks.decode(example["mask"])
        confidence = examples.read_confidence(example, tf.shape(mask))
        kept = masks.confident(mask, confidence, score_threshold)
        if truth is None:
            return kept, confidence, kept
        return kept, confidence, examples.read_mask(target, tf.shape(mask), num_classes)

    pairs = tf.data.Dataset.zip(
        source.dataset, truth.dataset if truth else source.dataset
    )
    images = empty = 0
    shares, scores = np.zeros(256, np.int64), np.zeros(256, np.int64)
    metric = metrics.MeanIoU(num_classes)
    for kept, confidence, target in pairs.map(
        decoded, tf.data.AUTOTUNE
    ).as_numpy_iterator():
        images += 1
        empty += bool((kept == masks.IGNORE_CLASS).all())
        shares += np.bincount(kept.ravel(), minlength=256)
        scores += np.bincount(confidence.ravel(), minlength=256)
        if truth is not None:
            target = np.where(kept == masks.IGNORE_CLASS, kept, target)
            metric.update({"mask": kept}, {"mask": target})
    known = shares[:num_classes].sum()
    result = metric.result()
    levels = np.arange(256) / 255.0
    histogram = np.histogram(levels, _HISTOGRAM_BINS, (0.0, 1.0), weights=scores)[0]
    at_least = np.cumsum(scores[::-1])[::-1]
    return {
        "images": images,
        "ignored": float(1.0 - known / shares.sum()),
        "empty_images": empty,
        "score_threshold": score_threshold,
        "mIoU": result["mIoU"],
        "accuracy": result["accuracy"],
        "class_shares": (shares[:num_classes] / max(known, 1)).tolist(),
        "score_histogram": (histogram / scores.sum()).tolist(),
        "median_score": float(levels[2 * at_least >= scores.sum()].max()),
    }


def require_labels(quality):
    """Refuse pseudo-labels of which not one is confident.

    Args:
        quality: dict of `measure`.

    Raises:
        ValueError: if no box reaches the threshold, with the histogram and the
            threshold that would give one box per image; if no pixel of a mask does,
            or only background.
    """
    if "class_shares" in quality:
        _require_masks(quality)
        return
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
    raise ValueError(
        "Expected pseudo-labels with a score of at least "
        f"{quality['score_threshold']}. Received: 0 boxes in {quality['images']} "
        "images, 100 % of the images empty; scores by bin "
        f"({_bins(histogram) or 'none'}); {advice}"
    )


def _require_masks(quality):
    if quality["ignored"] == 1.0:
        found = "every pixel below it"
    elif not any(quality["class_shares"][1:]):
        found = "nothing but background"
    else:
        return
    histogram = [f"{share:.1%}" if share else 0 for share in quality["score_histogram"]]
    raise ValueError(
        "Expected pseudo-labels with a score of at least "
        f"{quality['score_threshold']}. Received: {found} in {quality['images']} "
        f"images; pixels by score ({_bins(histogram)}); half of the pixels reach "
        f"score_threshold={quality['median_score']:.3f}; a teacher that finds only "
        "background needs more training"
    )


def _bins(histogram):
    return ", ".join(
        f"{index / _HISTOGRAM_BINS:.2f}: {count}"
        for index, count in enumerate(histogram)
        if count
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
