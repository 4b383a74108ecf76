"""Quality of pseudo-labels: counts, confidence and accuracy."""

import numpy as np
import tensorflow as tf

from official_selftrain import metrics
from official_selftrain.checks import progress
from official_selftrain.data import examples, masks
from official_selftrain.geometry import array_boxes
from official_selftrain.inference import evaluation

# Minimum IoU of a pseudo-box with a true box that it matches.
_MATCH_IOU = 0.5

_HISTOGRAM_BINS = 20

# The default thresholds of `sweep`.
THRESHOLDS = tuple(step / 20 for step in range(1, 20))

# Fine enough to read off a threshold, in constant memory.
_FINE_BINS = 10_000


def measure(source, score_threshold, truth=None):
    """Count pseudo-labels, and compare them with the ground truth if given.

    A pseudo-box with a score of at least `score_threshold` is correct if it overlaps a
    true box of its class with an IoU of at least 0.5, and no box of higher score
    matches that one. True crowds don't count as objects.

    Args:
        source: `examples.Source` of pseudo-labels with all scores.
        score_threshold: float in 0…1.
        truth: `examples.Source` of the same images in the same order, matched by id,
            or None; it may hold additional images.

    Returns:
        dict: `images`, `boxes` (at or above the threshold), `boxes_per_image`,
        `empty_images` (without such a box), `score_threshold`, `precision` and
        `recall` (0…1, None if unknown), `score_histogram` (counts of all
        stored boxes in 20 bins over 0…1), `one_box_threshold` (the score, rounded
        down to 0.0001, that gives one box per image; None if too few are stored).

        For masks: `images`, `ignored` (fraction of the pixels below the threshold),
        `empty_images` (with every pixel below it), `score_threshold`, `mIoU` (percent)
        and `accuracy` (0…1) of the remaining pixels (None without ground truth),
        `class_shares` (fraction of each class among them), `score_histogram`
        (fractions of all pixels), `median_score` (reached by half of the pixels).

    Source: own.
    """
    quality = _mask_quality if source.has_masks else _box_quality
    return quality(source, score_threshold, truth)


def _box_quality(source, score_threshold, truth):
    images = boxes = empty = correct = true_boxes = 0
    counts = np.zeros(_FINE_BINS, np.int64)
    for example, target in _pairs(source, truth):
        images += 1
        confident = example["scores"] >= score_threshold
        counts += np.histogram(example["scores"], _FINE_BINS, (0.0, 1.0))[0]
        boxes += int(confident.sum())
        empty += not confident.any()
        if target is not None:
            counted = ~target["ignore"]
            true_boxes += int(counted.sum())
            correct += _num_found(
                {
                    key: example[key][confident]
                    for key in ("boxes", "classes", "scores")
                },
                {key: target[key][counted] for key in ("boxes", "classes")},
            )
    histogram = counts.reshape(_HISTOGRAM_BINS, -1).sum(axis=1).tolist()
    at_least = np.cumsum(counts[::-1])[::-1]
    enough = np.flatnonzero(at_least >= images)
    return {
        "images": images,
        "boxes": boxes,
        "boxes_per_image": boxes / images,
        "empty_images": empty,
        "score_threshold": score_threshold,
        "precision": correct / boxes if truth and boxes else None,
        "recall": correct / true_boxes if truth and true_boxes else None,
        "score_histogram": histogram,
        "one_box_threshold": float(enough[-1] / _FINE_BINS) if len(enough) else None,
    }


def _pairs(source, truth):
    """Yield the examples of a source, each with its ground truth or None."""
    targets = truth.dataset.as_numpy_iterator() if truth else None
    every = source.dataset.as_numpy_iterator()
    for example in progress.over(every, source.num_images, "quality", "image"):
        target = None
        if targets is not None:
            target = next(targets, None)
            # The pseudo-labels lack images that couldn't be labeled.
            while target is not None and target["id"] != example["id"]:
                target = next(targets, None)
            if target is None:
                raise ValueError(
                    "Expected the truth about every image, in the same order. "
                    f"Received: none about id {example['id']}"
                )
        yield example, target


def _mask_quality(source, score_threshold, truth):
    num_classes = len(source.class_names)
    images = empty = 0
    pixels, scores = np.zeros(256, np.int64), np.zeros(256, np.int64)
    metric = metrics.MeanIoU(num_classes)
    for example, target in _pairs(source, truth):
        mask = masks.known(masks.decode(example["mask"]).numpy(), num_classes)
        size = tf.shape(mask)
        confidence = examples.read_confidence(example, size)
        kept = masks.confident(mask, confidence, score_threshold).numpy()
        images += 1
        empty += bool((kept == masks.IGNORE_CLASS).all())
        pixels += np.bincount(kept.ravel(), minlength=256)
        scores += np.bincount(confidence.numpy().ravel(), minlength=256)
        if truth is not None:
            true = examples.read_mask(target, size).numpy()
            true = np.where(kept == masks.IGNORE_CLASS, kept, true)
            metric.update({"mask": kept}, {"mask": true})
    evaluation.tell(metric, "quality of pseudo-labels")
    num_kept = pixels[:num_classes].sum()
    result = metric.result()
    levels = np.arange(256) / 255.0
    histogram = np.histogram(levels, _HISTOGRAM_BINS, (0.0, 1.0), weights=scores)[0]
    at_least = np.cumsum(scores[::-1])[::-1]
    return {
        "images": images,
        "ignored": float(1.0 - num_kept / pixels.sum()),
        "empty_images": empty,
        "score_threshold": score_threshold,
        "mIoU": result["mIoU"],
        "accuracy": result["accuracy"],
        "class_shares": (pixels[:num_classes] / max(num_kept, 1)).tolist(),
        "score_histogram": (histogram / scores.sum()).tolist(),
        "median_score": float(levels[2 * at_least >= scores.sum()].max()),
    }


def check_max_empty_share(max_empty_share):
    """Check that a fraction of images without labels is one.

    Raises:
        ValueError: if it isn't in 0…1.
    """
    if not 0.0 <= max_empty_share <= 1.0:
        raise ValueError(
            "Expected max_empty_share in 0…1. Received: "
            f"max_empty_share={max_empty_share!r}"
        )


def require_labels(quality, max_empty_share=0.95):
    """Reject pseudo-labels if too many images are empty.

    Args:
        quality: dict, as returned by `measure`.
        max_empty_share: float in 0…1, maximum fraction of images without a label at
            the threshold; 1 rejects labels only if there are none at all.

    Raises:
        ValueError: if more images have no box or pixel at the threshold, or all pixels
            are background. The message holds the score histogram and a threshold that
            would give labels.
    """
    check_max_empty_share(max_empty_share)
    empty = quality["empty_images"] / quality["images"]
    too_empty = empty > max_empty_share
    if "class_shares" in quality:
        _require_masks(quality, too_empty)
        return
    if quality["boxes"] and not too_empty:
        return
    histogram = quality["score_histogram"]
    raise ValueError(
        "Expected pseudo-labels with a score of at least "
        f"{quality['score_threshold']}. Received: {quality['boxes']} boxes in "
        f"{quality['images']} images, {100.0 * empty:.4g} % of the images empty"
        f"{f' (at most {100.0 * max_empty_share:.4g} % may be)' * too_empty}; scores "
        "by bin "
        f"({_bins(histogram) or 'none'}); {_advice(quality)}"
    )


def _advice(quality):
    stored = sum(quality["score_histogram"])
    if quality["one_box_threshold"] is not None:
        return (
            f"score_threshold={quality['one_box_threshold']:.3f} would give one box "
            "per image"
        )
    if stored:
        return f"the {stored} stored boxes are too few for one box per image"
    return "the teacher detects nothing: train it longer"


def _require_masks(quality, too_empty):
    if quality["ignored"] == 1.0:
        reason = "every pixel below it"
    elif too_empty:
        reason = f"every pixel below it in {quality['empty_images']}"
    elif not any(quality["class_shares"][1:]):
        reason = "nothing but background"
    else:
        return
    histogram = [f"{value:.1%}" if value else 0 for value in quality["score_histogram"]]
    raise ValueError(
        "Expected pseudo-labels with a score of at least "
        f"{quality['score_threshold']}. Received: {reason} in {quality['images']} "
        f"images; pixels by score ({_bins(histogram)}); half of the pixels reach "
        f"score_threshold={quality['median_score']:.3f}; a teacher that predicts "
        "only background needs more training"
    )


def _bins(histogram):
    return ", ".join(
        f"{index / _HISTOGRAM_BINS:.2f}: {count}"
        for index, count in enumerate(histogram)
        if count
    )


def _num_found(predicted, target):
    return int((_matches(predicted, target) == 1).sum())


def _matches(predicted, target):
    """Return, for each predicted box, 1 if correct, 0 if wrong, -1 if ignored.

    A box is ignored if at least half of it lies in an ignored true region of its class.
    """
    free = ~target.get("ignore", np.zeros(len(target["boxes"]), bool))
    same = predicted["classes"][:, None] == target["classes"]
    shared = array_boxes.intersection(predicted["boxes"], target["boxes"])
    is_inside = shared >= 0.5 * array_boxes.area(predicted["boxes"])[:, None]
    iou = array_boxes.iou(predicted["boxes"], target["boxes"])
    result = np.zeros(len(predicted["scores"]), np.int64)
    for row in np.argsort(-predicted["scores"], kind="stable"):
        matches = free & same[row] & (iou[row] >= _MATCH_IOU)
        if matches.any():
            free[np.argmax(np.where(matches, iou[row], -1.0))] = False
            result[row] = 1
        elif "ignore" in target:
            is_ignored = same[row] & target["ignore"] & is_inside[row]
            result[row] = -1 if is_ignored.any() else 0
    return result


def sweep(source, truth, thresholds=THRESHOLDS):
    """Compare pseudo-labels with the ground truth at every threshold.

    Boxes are matched as in `measure`, except that boxes in true crowds of their class
    are ignored. For masks, counts are of pixels that reach the threshold and have
    ground truth.

    Args:
        source: `examples.Source` of pseudo-labels with all scores.
        truth: `examples.Source` of the same classes and the same images in the same
            order; it may hold additional images.
        thresholds: floats in 0…1, ascending.

    Returns:
        dict: `thresholds`, `images`, and `classes`: for every class name, and `"all"`,
        a dict of `true` (count), and for each threshold `predicted` and `found`
        (counts), `precision`, `recall` (None if undefined), `F1`, `per_image`;
        `suggested`, the middle of the thresholds with the best F1 (None if no label
        is correct).

    Raises:
        ValueError: if the classes differ.

    Source: own.
    """
    if source.class_names != truth.class_names or source.has_masks != truth.has_masks:
        raise ValueError(
            f"Expected the truth about the classes {list(source.class_names)}. "
            f"Received: {list(truth.class_names)}"
        )
    num_classes = len(source.class_names)
    limits = np.asarray(thresholds, np.float32)
    predicted = np.zeros((num_classes, len(limits)), np.int64)
    correct, true = np.zeros_like(predicted), np.zeros(num_classes, np.int64)
    images = 0
    for example, target in _pairs(source, truth):
        images += 1
        if source.has_masks:
            classes, scores, right, true_classes = _pixels(example, target, num_classes)
        else:
            right = _matches(example, target)
            judged = right >= 0
            classes, scores = example["classes"][judged], example["scores"][judged]
            right = right[judged] == 1
            true_classes = target["classes"][~target["ignore"]]
        true += np.bincount(true_classes, minlength=num_classes)
        for place, limit in enumerate(limits):
            kept = scores >= limit
            predicted[:, place] += np.bincount(classes[kept], minlength=num_classes)
            correct[:, place] += np.bincount(
                classes[kept & right], minlength=num_classes
            )
    rows = dict(zip(source.class_names, zip(true, predicted, correct)))
    rows["all"] = true.sum(), predicted.sum(axis=0), correct.sum(axis=0)
    return {
        "thresholds": [float(threshold) for threshold in thresholds],
        "images": images,
        "classes": {
            name: _rates(thresholds, images, *counts) for name, counts in rows.items()
        },
    }


def _rates(thresholds, images, true, predicted, correct):
    both = [
        2.0 * f / (true + p) if true + p else 0.0 for f, p in zip(correct, predicted)
    ]
    best = max(both)
    # Of several, the middle one: the farthest from worse thresholds.
    places = [place for place, value in enumerate(both) if value == best]
    return {
        "true": int(true),
        "predicted": predicted.tolist(),
        "found": correct.tolist(),
        "precision": [float(f / p) if p else None for f, p in zip(correct, predicted)],
        "recall": [float(f / true) if true else None for f in correct],
        "F1": [float(value) for value in both],
        "per_image": [float(p / images) for p in predicted],
        "suggested": float(thresholds[places[len(places) // 2]]) if best else None,
    }


def _pixels(example, target, num_classes):
    mask = masks.known(masks.decode(example["mask"]).numpy(), num_classes)
    scores = examples.read_confidence(example, tf.shape(mask)).numpy() / np.float32(255)
    true = masks.known(examples.read_mask(target, tf.shape(mask)).numpy(), num_classes)
    mask = mask.astype(np.int64)
    judged = (true != masks.IGNORE_CLASS) & (mask != masks.IGNORE_CLASS)
    right = mask == true
    return mask[judged], scores[judged], right[judged], true[judged]


def doubt(example):
    """Return the teacher's uncertainty about an example, in 0…1.

    For boxes, the mean of 4 s (1 - s) over their scores: 1 if every score is 0.5, 0 if
    all are 0 or 1, or if there is no box. For masks, 1 minus the mean confidence.

    Args:
        example: dict of NumPy values, from a source of pseudo-labels.

    Returns:
        float.

    Source: own.
    """
    if example["confidence"]:
        return float(1.0 - masks.decode(example["confidence"]).numpy().mean() / 255.0)
    scores = example["scores"]
    return float((4.0 * scores * (1.0 - scores)).mean()) if len(scores) else 0.0
