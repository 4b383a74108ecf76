"""What pseudo-labels are worth: counts, comparison with the truth, refusal."""

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data import examples, masks
from official_selftrain.labeling import label_quality


def source_of(records, has_labels=True):
    png = tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()
    return examples.from_records(
        [
            {
                "encoded": png,
                "id": index,
                "boxes": np.array(boxes, np.float32).reshape(-1, 4),
                "classes": np.array(classes, np.int32),
                "scores": np.array(scores, np.float32),
                "ignore": np.zeros(len(classes), bool),
                "areas": np.zeros(len(classes), np.float32),
            }
            for index, (boxes, classes, scores) in enumerate(records)
        ],
        ["a", "b"],
        has_labels,
    )


def test_quality_by_hand():
    """Two of three confident boxes are correct, and match two of four true ones."""
    box, near, far = [0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.3], [0.5, 0.5, 0.9, 0.9]
    predicted = source_of(
        [
            # Correct (IoU 0.75); a second box on the same object is wrong.
            ([near, box], [0, 0], [0.9, 0.7]),
            # Wrong class below the threshold; another correct one.
            ([far, box], [1, 1], [0.4, 0.6]),
            ([], [], []),
        ],
        has_labels=False,
    )
    truth = source_of(
        [([box, far], [0, 1], [1, 1]), ([box], [1], [1]), ([far], [0], [1])]
    )
    quality = label_quality.measure(predicted, 0.5, truth)
    histogram = quality.pop("score_histogram")
    # The third highest of the four scores.
    assert quality.pop("one_box_threshold") == pytest.approx(0.6)
    assert quality == {
        "images": 3,
        "boxes": 3,
        "boxes_per_image": 1.0,
        "empty_images": 1,
        "score_threshold": 0.5,
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 4),
    }
    # Scores .4, .6, .7 and .9 in bins of 0.05 (float32 rounds .7 and .9 down).
    assert sum(histogram) == 4 and histogram[8] == 1 and sum(histogram[11:]) == 3
    without_truth = label_quality.measure(predicted, 0.5)
    assert without_truth["precision"] is None and without_truth["recall"] is None


def test_iou_of_exactly_one_half_matches():
    predicted = source_of([([[0.0, 0.0, 0.5, 0.5]], [0], [0.9])])
    truth = source_of([([[0.0, 0.0, 0.5, 0.25]], [0], [1.0])])
    assert label_quality.measure(predicted, 0.5, truth)["precision"] == 1.0


@pytest.mark.parametrize(
    ("records", "text"),
    [
        (
            [([[0, 0, 1, 1]] * 2, [0, 0], [0.3, 0.2]), ([[0, 0, 1, 1]], [0], [0.1])],
            r"score of at least 0.5. Received: 0 boxes in 2 images, 100 % of the "
            r"images empty \(at most 95 % may be\); scores by bin "
            r"\(.*0.30: 1.*\); score_threshold=0.200 would",
        ),
        (
            [([[0, 0, 1, 1]], [0], [0.3]), ([], [], [])],
            "the 1 stored boxes are too few",
        ),
        ([([], [], []), ([], [], [])], r"\(none\); the teacher detects nothing"),
    ],
)
def test_empty_labels_are_rejected(records, text):
    quality = label_quality.measure(source_of(records), 0.5)
    with pytest.raises(ValueError, match=text):
        label_quality.require_labels(quality)


def mask_source(*pairs, num_classes=3):
    image = masks.encode(np.zeros((2, 4), np.uint8))
    records = [
        {
            "encoded": image,
            "id": index,
            "mask": masks.encode(np.array(mask)),
            "confidence": masks.encode(np.array(sure)),
        }
        for index, (mask, sure) in enumerate(pairs)
    ]
    return examples.from_records(records, ["background", "a", "b"][:num_classes])


def test_quality_of_masks_by_hand():
    predicted = mask_source(
        # Four of eight pixels are confident: 1 1 2 0.
        ([[1, 1, 2, 0], [0, 0, 0, 0]], [[255, 255, 204, 204], [51, 51, 51, 51]]),
        ([[1, 1, 1, 1], [0, 0, 0, 0]], [[51] * 4, [51] * 4]),
    )
    truth = mask_source(
        # Correct, wrong, correct, ignored.
        ([[1, 2, 2, 255], [0, 0, 0, 0]], [[0] * 4] * 2),
        ([[1, 1, 1, 1], [0, 0, 0, 0]], [[0] * 4] * 2),
    )
    quality = label_quality.measure(predicted, 0.5, truth)
    histogram = quality.pop("score_histogram")
    # 12 pixels of 0.2, 2 of 0.8, 2 of 1, which the last bin includes.
    assert sum(histogram) == pytest.approx(1.0)
    assert histogram[4] == 12 / 16 and histogram[16] == histogram[19] == 2 / 16
    assert quality == {
        "images": 2,
        "ignored": 12 / 16,
        "empty_images": 1,
        "score_threshold": 0.5,
        # Class 1: 1 of 2, class 2: 1 of 2; the background is ignored.
        "mIoU": pytest.approx(50.0),
        "accuracy": pytest.approx(2 / 3),
        "class_shares": [1 / 4, 2 / 4, 1 / 4],
        "median_score": pytest.approx(0.2),
    }
    alone = label_quality.measure(predicted, 0.5)
    assert alone["mIoU"] is None and alone["accuracy"] is None
    assert alone["ignored"] == 12 / 16
    label_quality.require_labels(quality)


def test_values_outside_the_classes_are_unknown(capsys):
    """Of 3 classes: true values 3 and 9, and a stored 7, are no class."""
    sure = [[255] * 4] * 2
    predicted = mask_source(([[1, 1, 2, 7], [0, 0, 0, 0]], sure))
    truth = mask_source(([[1, 3, 2, 1], [9, 0, 1, 255]], sure))
    quality = label_quality.measure(predicted, 0.5, truth)
    # Evaluated: 1 and 2, right; 0, right; 1 taken for 0. IoU 1/2, 1/2, 1.
    assert quality["mIoU"] == pytest.approx(200 / 3)
    assert quality["accuracy"] == pytest.approx(3 / 4)
    assert quality["ignored"] == pytest.approx(1 / 8)
    assert quality["class_shares"] == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    line = "quality of pseudo-labels: 2 pixels have a value outside the 3 classes and "
    assert capsys.readouterr().out == f"{line}count as unknown\n"
    found = label_quality.sweep(predicted, truth, (0.5,))["classes"]
    assert {k: (v["true"], v["predicted"], v["found"]) for k, v in found.items()} == {
        "background": (1, [2], [1]),
        "a": (2, [1], [1]),
        "b": (1, [1], [1]),
        "all": (4, [4], [3]),
    }


@pytest.mark.parametrize(
    ("mask", "score", "text"),
    [
        (
            1,
            102,
            r"0.5. Received: every pixel below it in 1 images; pixels by score "
            r"\(0.40: 100.0%\); half of the pixels reach score_threshold=0.400",
        ),
        (0, 255, r"Received: nothing but background in 1 images"),
    ],
)
def test_uninformative_masks_are_rejected(mask, score, text):
    pixels = np.ones((2, 4), np.uint8)
    quality = label_quality.measure(mask_source((mask * pixels, score * pixels)), 0.5)
    with pytest.raises(ValueError, match=text):
        label_quality.require_labels(quality)
