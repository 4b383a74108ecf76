"""What pseudo-labels are worth: how many, how sure, and how right."""

import numpy as np
import tensorflow as tf

from official_selftrain import metrics
from official_selftrain.data import examples, masks
from official_selftrain.geometry import array_boxes

# IoU from which a pseudo-box counts as a true box found.
_MATCH_IOU = 0.5

_HISTOGRAM_BINS = 20

# At which `sweep` looks.
THRESHOLDS = tuple(step / 20 for step in range(1, 20))

# So fine that a threshold can be read off, so few that memory doesn't grow.
_FINE_BINS = 10_000


def measure(source, score_threshold, truth=None):
    """Count pseudo-labels, and compare them with the truth where it is known.

    A pseudo-box of at least `score_threshold` is right if it overlaps a true
    box of its class, not taken by a box of higher score, with IoU of 0.5 or
    more. True crowds are not objects to be found.

    Args:
        source: `examples.Source` of pseudo-labels with every score.
        score_threshold: float in 0…1.
        truth: `examples.Source` of the same images in the same order, or None; it
            may hold more images, whose ids tell them from those.

    Returns:
        dict: `images`, `boxes` (at or above the threshold), `boxes_per_image`,
        `empty_images` (without such a box), `score_threshold`, `precision` and
        `recall` (0…1, None where unknown), `score_histogram` (counts of all
        stored boxes in 20 bins over 0…1), `one_box_threshold` (the score, rounded
        down to 0.0001, at which there would be one box per image, None if too few are
        stored).

        For masks: `images`, `ignored` (share of the pixels below the threshold),
        `empty_images` (without another pixel), `score_threshold`, `mIoU` (percent)
        and `accuracy` (0…1) of the pixels that stay (None where the truth is
        unknown), `class_shares` (of each class among them), `score_histogram`
        (shares of all pixels), `median_score` (half of the pixels reach it).

    Source: own.
    """
    quality = _mask_quality if source.has_masks else _box_quality
    return quality(source, score_threshold, truth)


def _box_quality(source, score_threshold, truth):
    images = boxes = empty = found = true_boxes = 0
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
            found += _num_found(
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
        "precision": found / boxes if truth and boxes else None,
        "recall": found / true_boxes if truth and true_boxes else None,
        "score_histogram": histogram,
        "one_box_threshold": float(enough[-1] / _FINE_BINS) if len(enough) else None,
    }


def _pairs(source, truth):
    """Yield the examples of a source, each with the truth about its image or None."""
    targets = truth.dataset.as_numpy_iterator() if truth else None
    for example in source.dataset.as_numpy_iterator():
        target = None
        if targets is not None:
            target = next(targets, None)
            # Images that couldn't be labeled are missing among the pseudo-labels.
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
    shares, scores = np.zeros(256, np.int64), np.zeros(256, np.int64)
    metric = metrics.MeanIoU(num_classes)
    for example, target in _pairs(source, truth):
        mask = masks.decode(example["mask"])
        size = tf.shape(mask)
        confidence = examples.read_confidence(example, size)
        kept = masks.confident(mask, confidence, score_threshold).numpy()
        images += 1
        empty += bool((kept == masks.IGNORE_CLASS).all())
        shares += np.bincount(kept.ravel(), minlength=256)
        scores += np.bincount(confidence.numpy().ravel(), minlength=256)
        if truth is not None:
            known = examples.read_mask(target, size, num_classes).numpy()
            known = np.where(kept == masks.IGNORE_CLASS, kept, known)
            metric.update({"mask": kept}, {"mask": known})
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


def require_labels(quality, max_empty_share=0.95):
    """Refuse pseudo-labels that are missing in most of the images.

    Args:
        quality: dict of `measure`.
        max_empty_share: float in 0…1, the share of the images that may have no label
            at the threshold; 1 refuses only labels of which there is none at all.

    Raises:
        ValueError: if more images have no box that reaches the threshold, with the
            histogram and the threshold that would give one box per image; if no
            pixel of more masks does, or all are background.
    """
    if not 0.0 <= max_empty_share <= 1.0:
        raise ValueError(
            "Expected max_empty_share in 0…1. Received: "
            f"max_empty_share={max_empty_share!r}"
        )
    empty_share = quality["empty_images"] / quality["images"]
    too_empty = empty_share > max_empty_share
    if "class_shares" in quality:
        _require_masks(quality, too_empty)
        return
    if quality["boxes"] and not too_empty:
        return
    histogram = quality["score_histogram"]
    raise ValueError(
        "Expected pseudo-labels with a score of at least "
        f"{quality['score_threshold']}. Received: {quality['boxes']} boxes in "
        f"{quality['images']} images, {100.0 * empty_share:.4g} % of the images empty "
        f"(at most {100.0 * max_empty_share:.4g} % may be); scores by bin "
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
        return f"the {stored} boxes that are stored are too few for that"
    return "the teacher finds nothing at all: train it longer"


def _require_masks(quality, too_empty):
    if quality["ignored"] == 1.0:
        found = "every pixel below it"
    elif too_empty:
        found = f"every pixel below it in {quality['empty_images']}"
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
    return int((_matches(predicted, target) == 1).sum())


def _matches(predicted, target):
    """Return, for each predicted box, 1 if it is right, 0 if wrong, -1 if not judged.

    Not judged are boxes of which half lies in an ignored true region of their class.
    """
    free = ~target.get("ignore", np.zeros(len(target["boxes"]), bool))
    same = predicted["classes"][:, None] == target["classes"]
    shared = array_boxes.intersection(predicted["boxes"], target["boxes"])
    is_inside = shared >= 0.5 * array_boxes.area(predicted["boxes"])[:, None]
    iou = array_boxes.iou(predicted["boxes"], target["boxes"])
    found = np.zeros(len(predicted["scores"]), np.int64)
    for row in np.argsort(-predicted["scores"], kind="stable"):
        matches = free & same[row] & (iou[row] >= _MATCH_IOU)
        if matches.any():
            free[np.argmax(np.where(matches, iou[row], -1.0))] = False
            found[row] = 1
        elif "ignore" in target:
            unjudged = same[row] & target["ignore"] & is_inside[row]
            found[row] = -1 if unjudged.any() else 0
    return found


def sweep(source, truth, thresholds=THRESHOLDS):
    """Compare pseudo-labels with the truth at every threshold.

    Boxes as in `measure`, except that boxes in true crowds of their class aren't
    judged. For masks the pixels are counted that reach the threshold and whose truth
    is known.

    Args:
        source: `examples.Source` of pseudo-labels with every score.
        truth: `examples.Source` of the same images in the same order, or more, of the
            same classes.
        thresholds: floats in 0…1, ascending.

    Returns:
        dict: `thresholds`, `images`, and `classes`: for every class name, and `"all"`,
        a dict of `true` (count), and for each threshold `predicted` and `found`
        (counts), `precision`, `recall` (None without a count to divide by), `F1`,
        `per_image`; `suggested`, the middle threshold of the best F1 (None if
        nothing is found).

    Raises:
        ValueError: for other classes.

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
    found, true = np.zeros_like(predicted), np.zeros(num_classes, np.int64)
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
            found[:, place] += np.bincount(classes[kept & right], minlength=num_classes)
    rows = dict(zip(source.class_names, zip(true, predicted, found)))
    rows["all"] = true.sum(), predicted.sum(axis=0), found.sum(axis=0)
    return {
        "thresholds": [float(threshold) for threshold in thresholds],
        "images": images,
        "classes": {
            name: _rates(thresholds, images, *counts) for name, counts in rows.items()
        },
    }


def _rates(thresholds, images, true, predicted, found):
    both = [2.0 * f / (true + p) if true + p else 0.0 for f, p in zip(found, predicted)]
    best = max(both)
    # Of several, the middle one: the least near to those that are worse.
    places = [place for place, value in enumerate(both) if value == best]
    return {
        "true": int(true),
        "predicted": predicted.tolist(),
        "found": found.tolist(),
        "precision": [float(f / p) if p else None for f, p in zip(found, predicted)],
        "recall": [float(f / true) if true else None for f in found],
        "F1": [float(value) for value in both],
        "per_image": [float(p / images) for p in predicted],
        "suggested": float(thresholds[places[len(places) // 2]]) if best else None,
    }


def _pixels(example, target, num_classes):
    mask = masks.decode(example["mask"])
    scores = examples.read_confidence(example, tf.shape(mask)).numpy() / np.float32(255)
    known = examples.read_mask(target, tf.shape(mask), num_classes).numpy()
    mask = mask.numpy().astype(np.int64)
    judged = (known != masks.IGNORE_CLASS) & (mask != masks.IGNORE_CLASS)
    right = mask == known
    return mask[judged], scores[judged], right[judged], known[judged]


def doubt(example):
    """Return how unsure the teacher of an example was, 0…1.

    The mean of 4 s (1 - s) over its boxes: 1 where every score is 0.5, 0 where all are
    0 or 1 and where there is no box. For masks 1 less the mean confidence.

    Args:
        example: dict of NumPy values, out of a source of pseudo-labels.

    Returns:
        float.

    Source: own.
    """
    if example["confidence"]:
        return float(1.0 - masks.decode(example["confidence"]).numpy().mean() / 255.0)
    scores = example["scores"]
    return float((4.0 * scores * (1.0 - scores)).mean()) if len(scores) else 0.0
