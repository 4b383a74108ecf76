"""The sweep over thresholds, and the report about a folder of labels."""

import json

import numpy as np
import pytest

from official_selftrain.data import examples, masks, sources
from official_selftrain.labeling import (
    label_quality,
    label_report,
    label_store,
    teachers,
)


def brute_force(predicted, target, threshold):
    """Count boxes and matches by class for one threshold, independently."""
    counts = np.zeros((2, 2), int)
    for example, truth in zip(predicted.dataset.as_numpy_iterator(), target):
        boxes = [
            (s, b, c)
            for s, b, c in zip(example["scores"], example["boxes"], example["classes"])
            if s >= np.float32(threshold)
        ]
        taken = set()
        for _, box, label in sorted(boxes, key=lambda item: -item[0]):
            counts[0, label] += 1
            best, best_iou = None, 0.5
            for index, (other, other_label) in enumerate(zip(truth[0], truth[1])):
                if index in taken or other_label != label:
                    continue
                height = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
                width = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
                iou = height * width / (sum(areas) - height * width)
                if iou >= best_iou:
                    best, best_iou = index, iou
            if best is not None:
                taken.add(best)
                counts[1, label] += 1
    return counts


def test_sweep_equals_brute_force(tmp_path):
    rng = np.random.default_rng(0)
    png = masks.encode(np.zeros((8, 8), np.uint8))
    truths, records, labeled = [], [], []
    for number in range(30):
        corners = rng.integers(0, 4, (rng.integers(0, 5), 2)) / 4
        true = np.concatenate([corners, corners + 0.25], axis=1)
        classes = rng.integers(0, 2, len(true))
        moved = np.repeat(true, 2, axis=0) + rng.normal(0, 0.03, (2 * len(true), 4))
        guess = np.where(
            rng.random(2 * len(true)) < 0.8, np.repeat(classes, 2), 0
        ).astype(int)
        truths.append((true, classes))
        record = {"id": number, "encoded": png}
        labeled.append(
            {**record, "boxes": true, "classes": classes,
             "scores": np.ones(len(true)), "ignore": np.zeros(len(true), bool),
             "areas": np.ones(len(true))}
        )  # fmt: skip
        records.append(
            {**record, "boxes": moved, "classes": guess,
             "scores": rng.random(len(moved)), "ignore": np.zeros(len(moved), bool),
             "areas": np.ones(len(moved))}
        )  # fmt: skip
    predicted = examples.from_records(records[:-1], ["a", "b"])
    swept = label_quality.sweep(predicted, examples.from_records(labeled, ["a", "b"]))
    assert len(swept["thresholds"]) == 19 and swept["images"] == 29
    for place, threshold in enumerate(swept["thresholds"]):
        counts = brute_force(predicted, truths, threshold)
        for label, name in enumerate("ab"):
            row = swept["classes"][name]
            assert row["predicted"][place] == counts[0, label]
            assert row["found"][place] == counts[1, label]
        row, (all_predicted, all_found) = swept["classes"]["all"], counts.sum(axis=1)
        assert row["precision"][place] == pytest.approx(all_found / all_predicted)
        assert row["recall"][place] == pytest.approx(all_found / row["true"])
        assert row["per_image"][place] == pytest.approx(all_predicted / 29)
        assert row["F1"][place] == pytest.approx(
            2 * all_found / (row["true"] + all_predicted)
        )
    row = swept["classes"]["all"]
    best = row["thresholds"] if "thresholds" in row else swept["thresholds"]
    assert row["F1"][best.index(row["suggested"])] == max(row["F1"])
    with pytest.raises(
        ValueError, match=r"classes \['a', 'b'\]. Received: \['b', 'a'\]"
    ):
        label_quality.sweep(predicted, examples.from_records(labeled, ["b", "a"]))


def test_boxes_in_crowds_are_ignored():
    png = masks.encode(np.zeros((8, 8), np.uint8))

    def source(boxes, scores, ignore):
        count = len(boxes)
        record = {"id": 0, "encoded": png, "boxes": np.array(boxes), "scores": scores}
        zeros = np.zeros(count, int)
        record |= {"classes": zeros, "areas": zeros, "ignore": np.array(ignore)}
        return examples.from_records([record], ["a"])

    truth = source([[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]], [1, 1], [False, True])
    boxes = [[0, 0, 0.5, 0.5], [0.6, 0.1, 0.7, 0.2], [0.0, 0.6, 0.2, 0.9]]
    predicted = source(boxes, [0.9, 0.9, 0.9], [False] * 3)
    row = label_quality.sweep(predicted, truth, (0.5,))["classes"]["all"]
    assert (row["true"], row["predicted"], row["found"]) == (1, [2], [1])


def test_sweep_of_masks_by_hand():
    image = masks.encode(np.zeros((1, 4), np.uint8))

    def source(mask, sure):
        record = {"id": 0, "encoded": image, "mask": masks.encode(np.array([mask]))}
        record["confidence"] = masks.encode(np.array([sure]))
        return examples.from_records([record], ["background", "a"])

    predicted = source([1, 1, 0, 1], [255, 128, 204, 204])
    truth = source([1, 0, 0, 255], [255] * 4)
    swept = label_quality.sweep(predicted, truth, (0.5, 0.7))
    assert swept["classes"]["a"]["predicted"] == [2, 1]
    assert swept["classes"]["a"]["found"] == [1, 1]
    assert swept["classes"]["all"]["precision"] == pytest.approx([2 / 3, 1.0])
    assert swept["classes"]["all"]["recall"] == pytest.approx([2 / 3, 2 / 3])
    assert swept["classes"]["all"]["suggested"] == 0.7


def test_uncertainty_by_hand():
    def of(*scores):
        return label_quality.doubt({"confidence": b"", "scores": np.array(scores)})

    assert of() == 0.0 and of(0.5) == 1.0 and of(1.0, 1.0) == 0.0
    assert of(0.5, 1.0) == 0.5 and of(0.1) == pytest.approx(0.36)
    png = masks.encode(np.array([[255, 51]], np.uint8))
    assert label_quality.doubt({"confidence": png}) == pytest.approx(0.4)


def test_report_of_a_folder(tiny_coco, tmp_path):
    """A teacher that returns the ground truth, more confident for later images."""
    truth = sources.coco(str(tiny_coco.annotations), str(tiny_coco.images))
    known = {int(e["id"]): e for e in truth.dataset.as_numpy_iterator()}

    def label(items):
        found = []
        for item in items:
            example = known[int(item["id"])]
            score = 0.5 + (example["id"] - 100) / 12
            pixels = example["boxes"] * np.float32([64, 96, 64, 96])
            found.append(
                {
                    "boxes": pixels,
                    "classes": example["classes"],
                    "scores": np.full(len(pixels), score, np.float32),
                }
            )
        return found

    teacher = teachers.Teacher(
        lambda example, _: {"id": example["id"]},
        label,
        truth.class_names,
        False,
        {},
    )
    path = str(tmp_path / "labels")
    label_store.write(teacher, truth, path, batch_size=4)
    page = label_report.write(path, truth, num_images=3)
    with open(page) as file:
        text = file.read()
    # All of 0.05 to 0.5 have full recall: the sixth of ten.
    assert "Suggested (best F1): <b>0.300</b>" in text
    assert text.count("data:image/png") == 2
    with open(tmp_path / "labels" / "report.json") as file:
        content = json.load(file)
    assert [entry["id"] for entry in content["doubtful"]] == [100, 101, 102]
    assert content["doubtful"][0]["doubt"] == pytest.approx(1.0)
    assert content["sweep"]["classes"]["all"]["recall"][9] == 1.0
    assert content["sweep"]["classes"]["all"]["recall"][-1] == 0.0
    assert "Suggested" not in open(label_report.write(path)).read()
