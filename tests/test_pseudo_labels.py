"""Pseudo-labels: what is written, read back, counted and refused."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from official_selftrain import pseudo_labels
from official_selftrain.data import digits, examples, sources


class FixedTeacher(keras.Model):
    """Finds, in every image, one box in the middle and one without area."""

    image_size = (32, 32)

    def __init__(self, score=0.75):
        super().__init__()
        self.score = score
        self.built = True

    def call(self, images, training=None):
        return {"mean": ops.mean(images, axis=(1, 2, 3))}

    def predictions(self, outputs, sizes):
        sizes = ops.cast(sizes, "float32")
        half = ops.concatenate([sizes * 0.25, sizes * 0.75], axis=-1)
        flat = half * ops.convert_to_tensor([1.0, 1.0, 0.0, 1.0])
        ones = ops.ones_like(outputs["mean"])
        return {
            "boxes": ops.stack([half, flat, half], axis=1),
            "scores": ops.stack([self.score * ones, 0.6 * ones, 0.0 * ones], axis=1),
            "classes": ops.cast(ops.stack([ones, ones, -ones], axis=1), "int32"),
            "num_detections": ops.cast(2 * ones, "int32"),
        }


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


def test_written_labels_are_the_predictions(tmp_path):
    pool = digits.scenes("unlabeled", 5, 0, (32, 48), num_classes=2)
    manifest = pseudo_labels.write(FixedTeacher(), pool, str(tmp_path), 2, shard_size=3)
    assert manifest == {"images": 5, "shards": 2, "skipped": []}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "manifest.json",
        "pseudo-00000-of-00002.tfrecord",
        "pseudo-00001-of-00002.tfrecord",
    ]
    stored = pseudo_labels.read(str(tmp_path), ("0", "1"))
    assert stored.num_images == 5 and not stored.has_labels
    for written, image in zip(stored.dataset, pool.dataset, strict=True):
        assert written["id"] == image["id"]
        assert written["encoded"] == image["encoded"]
        # The box without area is left out.
        np.testing.assert_allclose(
            written["boxes"], [[0.25, 0.25, 0.75, 0.75]], atol=1e-6
        )
        assert written["classes"].numpy().tolist() == [1]
        assert written["scores"].numpy().tolist() == [0.75]
        np.testing.assert_allclose(written["areas"], [16 * 24])


def test_images_in_files_are_referenced(tiny_coco, tmp_path):
    pool = sources.folder(str(tiny_coco.unlabeled))
    pseudo_labels.write(FixedTeacher(), pool, str(tmp_path))
    for example in pseudo_labels.read(str(tmp_path), ("a", "b")).dataset:
        assert example["encoded"] == b""
        assert str(tiny_coco.unlabeled) in example["path"].numpy().decode()


def test_finished_shards_are_kept_and_the_rest_is_identical(tmp_path):
    pool = digits.scenes("unlabeled", 6, 0, (32, 32), num_classes=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pseudo_labels.write(FixedTeacher(), pool, str(whole), 2, shard_size=2)
    pseudo_labels.write(FixedTeacher(), pool, str(cut), 2, shard_size=2)
    kept = cut / "pseudo-00000-of-00003.tfrecord"
    before = kept.stat().st_mtime_ns
    (cut / "pseudo-00001-of-00003.tfrecord").unlink()
    (cut / "pseudo-00002-of-00003.tfrecord.partial").write_bytes(b"cut off")
    (cut / "pseudo-00002-of-00003.tfrecord").unlink()
    (cut / "manifest.json").unlink()
    pseudo_labels.write(FixedTeacher(), pool, str(cut), 2, shard_size=2)
    assert kept.stat().st_mtime_ns == before
    for path in whole.iterdir():
        assert path.read_bytes() == (cut / path.name).read_bytes()


def test_incomplete_labels_are_not_read(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="manifest.json. Make it with the stage"
    ):
        pseudo_labels.read(str(tmp_path), ("a",))


def test_quality_by_hand():
    """Two of three confident boxes are right, two of four true ones are found."""
    box, near, far = [0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.3], [0.5, 0.5, 0.9, 0.9]
    predicted = source_of(
        [
            # Right (IoU 0.75); a second box on the same object is wrong.
            ([near, box], [0, 0], [0.9, 0.7]),
            # Wrong class below the threshold; another right one.
            ([far, box], [1, 1], [0.4, 0.6]),
            ([], [], []),
        ],
        has_labels=False,
    )
    truth = source_of(
        [([box, far], [0, 1], [1, 1]), ([box], [1], [1]), ([far], [0], [1])]
    )
    quality = pseudo_labels.report_quality(predicted, 0.5, truth)
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
    without_truth = pseudo_labels.report_quality(predicted, 0.5)
    assert without_truth["precision"] is None and without_truth["recall"] is None


def test_iou_of_exactly_one_half_counts():
    predicted = source_of([([[0.0, 0.0, 0.5, 0.5]], [0], [0.9])])
    truth = source_of([([[0.0, 0.0, 0.5, 0.25]], [0], [1.0])])
    assert pseudo_labels.report_quality(predicted, 0.5, truth)["precision"] == 1.0


@pytest.mark.parametrize(
    ("records", "text"),
    [
        (
            [([[0, 0, 1, 1]] * 2, [0, 0], [0.3, 0.2]), ([[0, 0, 1, 1]], [0], [0.1])],
            r"score of at least 0.5. Received: 0 boxes in 2 images, 100 % of the "
            r"images empty; scores by bin \(.*0.30: 1.*\); score_threshold=0.200 would",
        ),
        (
            [([[0, 0, 1, 1]], [0], [0.3]), ([], [], [])],
            "the 1 boxes that are stored are too few",
        ),
        ([([], [], []), ([], [], [])], r"\(none\); the teacher finds nothing at all"),
    ],
)
def test_a_teacher_without_labels_is_refused(records, text):
    quality = pseudo_labels.report_quality(source_of(records), 0.5)
    with pytest.raises(ValueError, match=text):
        pseudo_labels.require_labels(quality)


def test_manifest_names_skipped_files(tiny_coco, tmp_path):
    (tiny_coco.unlabeled / "broken.jpg").write_bytes(b"no image")
    pool = sources.folder(str(tiny_coco.unlabeled))
    pseudo_labels.write(FixedTeacher(), pool, str(tmp_path))
    (line,) = json.loads((tmp_path / "manifest.json").read_text())["skipped"]
    assert "broken.jpg" in line
