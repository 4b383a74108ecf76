"""COCO's figures: by hand, and compared with pycocotools on files."""

import json

import numpy as np
import pytest
import tensorflow as tf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from official_selftrain.data import examples
from official_selftrain.inference import evaluation
from official_selftrain.metrics import COCO_METRICS, CocoMetric


def batch(ids, truth, detections, slots=8):
    """Create labels and predictions from lists of (box, class, …) per image."""
    labels = {
        "ids": np.array(ids),
        "boxes": np.zeros((len(ids), slots, 4), np.float32),
        "classes": np.full((len(ids), slots), -1),
        "ignore": np.zeros((len(ids), slots), bool),
        "areas": np.zeros((len(ids), slots), np.float32),
    }
    predictions = {
        "boxes": np.zeros((len(ids), slots, 4), np.float32),
        "classes": np.full((len(ids), slots), -1),
        "scores": np.zeros((len(ids), slots), np.float32),
    }
    for row, objects in enumerate(truth):
        for slot, (box, label, ignore) in enumerate(objects):
            labels["boxes"][row, slot] = box
            labels["classes"][row, slot] = label
            labels["ignore"][row, slot] = ignore
    for row, objects in enumerate(detections):
        for slot, (box, label, score) in enumerate(objects):
            predictions["boxes"][row, slot] = box
            predictions["classes"][row, slot] = label
            predictions["scores"][row, slot] = score
    return predictions, labels


SMALL, LARGE = [0, 0, 20, 20], [0, 0, 100, 100]


def result(ids, truth, detections, num_classes=2):
    metric = CocoMetric(num_classes)
    metric.update(*batch(ids, truth, detections))
    return metric.result()


def test_perfect_detections(capsys):
    got = result(
        [7, 9],
        [[(SMALL, 0, False)], [(LARGE, 1, False)]],
        [[(SMALL, 0, 0.9)], [(LARGE, 1, 0.8)]],
    )
    assert set(got) == set(COCO_METRICS)
    for name in ("AP", "AP50", "AP75", "AP_small", "AP_large", "AR1", "AR100"):
        assert got[name] == pytest.approx(100.0)
    # No label is of middle size.
    assert got["AP_medium"] is None and got["AR_medium"] is None
    assert capsys.readouterr().out == ""


def test_average_precision_by_hand():
    """Found, wrong, missed: precision 1 up to recall 1/2, nothing after it.

    COCO samples 101 recalls: those from 0 to 0.50 are 51 of them. The detected box
    overlaps by 0.8, so it counts at 7 of the 10 thresholds from 0.5 to 0.95.
    """
    truth = [[(LARGE, 0, False)], [(LARGE, 0, False)]]
    detections = [[([0, 0, 100, 80], 0, 0.9)], [([300, 300, 310, 310], 0, 0.5)]]
    got = result([1, 2], truth, detections, 1)
    assert got["AP50"] == pytest.approx(100 * 51 / 101)
    assert got["AP75"] == pytest.approx(100 * 51 / 101)
    assert got["AP"] == pytest.approx(0.7 * 100 * 51 / 101)
    assert got["AR100"] == pytest.approx(0.7 * 50.0)


def test_images_without_detections_count():
    truth = [[(LARGE, 0, False)]] * 3
    got = result([1, 2, 3], truth, [[(LARGE, 0, 0.9)], [], []], 1)
    assert got["AR100"] == pytest.approx(100 / 3)


def test_no_detections_give_zero():
    got = result([1], [[(LARGE, 0, False)]], [[]], 1)
    assert got["AP"] == 0.0 and got["AR100"] == 0.0


def test_detections_on_images_without_labels_are_false_positives():
    detections = [[(LARGE, 0, 0.5)], [(LARGE, 0, 0.9)]]
    got = result([1, 2], [[(LARGE, 0, False)], []], detections, 1)
    assert got["AP50"] == pytest.approx(50.0)


def test_crowds_are_ignored():
    """A detection inside a crowd is neither a true nor a false positive."""
    truth = [[(LARGE, 0, False), ([200, 200, 400, 400], 0, True)]]
    detections = [[([250, 250, 300, 300], 0, 0.95), (LARGE, 0, 0.9)]]
    assert result([1], truth, detections, 1)["AP"] == pytest.approx(100.0)


def test_areas_determine_the_size():
    """A large box whose mask is small counts as small, as in COCO's files."""
    predictions, labels = batch([1], [[(LARGE, 0, False)]], [[(LARGE, 0, 0.9)]])
    labels["areas"][0, 0] = 500.0
    metric = CocoMetric(1)
    metric.update(predictions, labels)
    got = metric.result()
    assert got["AP_small"] == pytest.approx(100.0) and got["AP_large"] is None


def test_matches_pycocotools_on_files(tmp_path, capsys):
    rng = np.random.default_rng(0)
    truth, detections = [], []
    for _ in range(20):
        objects = []
        for _ in range(rng.integers(0, 6)):
            corner = rng.integers(0, 200, 2)
            sides = rng.integers(8, 150, 2)
            crowd = bool(rng.uniform() < 0.2)
            objects.append(([*corner, *(corner + sides)], rng.integers(3), crowd))
        truth.append(objects)
        moved = [
            ([v + rng.normal(0, 6) for v in box], label, rng.uniform())
            for box, label, _ in objects
            if rng.uniform() < 0.8
        ]
        detections.append([*moved, ([5, 5, 60, 60], rng.integers(3), rng.uniform())])
    metric = CocoMetric(3)
    for start in range(0, 20, 6):
        part = slice(start, start + 6)
        metric.update(*batch(list(range(20))[part], truth[part], detections[part]))
    got = metric.result()

    def xywh(box):
        ymin, xmin, ymax, xmax = (float(np.float32(v)) for v in box)
        return [xmin, ymin, xmax - xmin, ymax - ymin]

    content = {
        "images": [{"id": index} for index in range(20)],
        "categories": [{"id": label} for label in range(3)],
        "annotations": [],
    }
    for index, objects in enumerate(truth):
        for box, label, crowd in objects:
            bbox = xywh(box)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": index,
                    "category_id": int(label),
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": int(crowd),
                }
            )
    (tmp_path / "truth.json").write_text(json.dumps(content))
    reference = COCO(str(tmp_path / "truth.json"))
    detections = [
        {
            "image_id": index,
            "category_id": int(label),
            "bbox": xywh(box),
            "score": float(np.float32(score)),
        }
        for index, objects in enumerate(detections)
        for box, label, score in objects
    ]
    evaluation = COCOeval(reference, reference.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    expected = {
        name: None if value < 0 else pytest.approx(100 * value)
        for name, value in zip(COCO_METRICS, evaluation.stats, strict=True)
    }
    assert got == expected
    assert 10 < got["AP"] < 90


def test_figures_without_labels_are_undefined():
    """Recall is undefined without labels and with only a crowd."""
    for truth in ([], [(LARGE, 0, True)]):
        got = result([1], [truth], [[(SMALL, 0, 0.9)]], 1)
        assert got == dict.fromkeys(COCO_METRICS)


def test_ids_may_have_64_bits():
    """Two ids that are one number in float64 are two images."""
    ids = [2**62, 2**62 + 1]
    truth = [[(LARGE, 0, False)], [(LARGE, 0, False)]]
    assert result(ids, truth, [[(LARGE, 0, 0.9)], []], 1)["AR100"] == pytest.approx(50)


def test_a_duplicate_image_raises():
    metric = CocoMetric(1)
    metric.update(*batch([4], [[]], [[]]))
    with pytest.raises(ValueError, match="Received: id=4 twice"):
        metric.update(*batch([4], [[]], [[]]))
    with pytest.raises(ValueError, match="Received: id=5 twice"):
        metric.update(*batch([5, 5], [[], []], [[], []]))


def test_no_images_raise():
    with pytest.raises(ValueError, match="Received: 0 images"):
        CocoMetric(1).result()


class Found:
    """A model that finds the given boxes in every image."""

    image_size = (32, 32)

    def __init__(self, boxes):
        self.boxes = np.float32(boxes)

    def __call__(self, images, training):
        return images

    def predictions(self, outputs, sizes):
        shape = (outputs.shape[0], len(self.boxes))
        return {
            "boxes": tf.tile(self.boxes[None], (shape[0], 1, 1)),
            "classes": tf.zeros(shape, tf.int32),
            "scores": tf.tile(tf.linspace(0.9, 0.5, shape[1])[None], (shape[0], 1)),
        }

    def metric(self):
        return CocoMetric(1)


@pytest.mark.parametrize(
    "found", [slice(0, 100), slice(50, 150)], ids=["first", "last"]
)
def test_an_evaluation_counts_every_object(found, capsys):
    """100 of 150 found: a precision of 1 up to a recall of 2 / 3, 67 of 101 points."""
    boxes = [[8 * (k // 15), 8 * (k % 15), 8 * (k // 15) + 6, 8 * (k % 15) + 6]
             for k in range(150)]  # fmt: skip
    record = {
        "encoded": tf.io.encode_png(np.zeros((120, 120, 3), np.uint8)).numpy(),
        "id": 1,
        "boxes": np.float32(boxes) / 120,
        "classes": np.zeros(150),
    }
    source = examples.from_records([record], ["a"])
    figures = evaluation.evaluate_model(Found(boxes[found]), source)
    assert figures["AP"] == pytest.approx(100 * 67 / 101, abs=1e-9)
    said = "evaluation of model: 1 images have more than 100 objects of a class"
    assert said in capsys.readouterr().out
