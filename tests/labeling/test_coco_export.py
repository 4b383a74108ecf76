"""Labels as TFRecord and as COCO file are the same; other readers accept them."""

import json

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data import examples, pipeline, sources, validation
from official_selftrain.labeling import coco_export, label_store, teachers


def random_teacher():
    """Boxes beyond the image, without area, not finite or unsorted, with any score."""
    rng = np.random.default_rng(0)

    def label(items):
        found = []
        for item in items:
            size = item["size"].numpy()
            count = int(rng.integers(0, 150))
            boxes = rng.normal(0.5, 0.5, (count, 4)) * np.tile(size, 2)
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.3)
            boxes[::9, 2] = boxes[::9, 0]
            boxes[::11, 3] = np.nan
            found.append(
                {
                    "boxes": boxes.astype(np.float32),
                    "scores": rng.random(count).astype(np.float32),
                    "classes": rng.integers(0, 3, count),
                }
            )
        return found

    return teachers.Teacher(lambda *_: {}, label, ("a", "b", "c"), False, {})


@pytest.fixture
def labels_dir(tiny_coco, tmp_path):
    path = str(tmp_path / "labels")
    pool = sources.folder(str(tiny_coco.images))
    label_store.write(random_teacher(), pool, path, label_store.Storage(4), 2)
    return path


def test_tfrecord_and_coco_batches_are_identical(labels_dir, tmp_path):
    coco_export.write(labels_dir, str(tmp_path / "labels.json"))
    by_record = label_store.read(labels_dir)
    by_coco = sources.coco(str(tmp_path / "labels.json"), "/")
    assert by_coco.class_names == by_record.class_names and by_coco.num_images == 6
    for source in (by_record, by_coco):
        assert sum(len(e["scores"]) for e in source.dataset) > 100
    for lower in (None, 0.3):
        first, second = (
            next(
                iter(
                    pipeline.training_batches(
                        examples.apply_threshold(source, 0.5, lower), 6, (64, 64)
                    )
                )
            )
            for source in (by_record, by_coco)
        )
        assert set(first) == set(second)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_tfrecord_features_follow_the_model_garden(labels_dir):
    """An independent reader, without our code, checks names, types and ranges."""
    features = {
        **{
            f"image/object/bbox/{side}": tf.io.VarLenFeature(tf.float32)
            for side in ("ymin", "xmin", "ymax", "xmax", "confidence")
        },
        "image/object/class/label": tf.io.VarLenFeature(tf.int64),
        "image/object/is_crowd": tf.io.VarLenFeature(tf.int64),
        "image/object/area": tf.io.VarLenFeature(tf.float32),
        "image/source_id": tf.io.FixedLenFeature((), tf.string),
        "image/filename": tf.io.FixedLenFeature((), tf.string),
        "image/height": tf.io.FixedLenFeature((), tf.int64),
        "image/width": tf.io.FixedLenFeature((), tf.int64),
    }
    ids = []
    for path in sorted(tf.io.gfile.glob(f"{labels_dir}/pseudo-*-of-*.tfrecord")):
        for record in tf.data.TFRecordDataset(path):
            parsed = tf.io.parse_single_example(record, features)
            values = {
                key: tf.sparse.to_dense(value).numpy()
                if isinstance(value, tf.SparseTensor)
                else value.numpy()
                for key, value in parsed.items()
            }
            ids.append(
                tf.strings.to_number(values["image/source_id"], tf.int64).numpy()
            )
            assert (values["image/height"], values["image/width"]) == (64, 96)
            ymin, xmin, ymax, xmax, score = (
                values[f"image/object/bbox/{side}"]
                for side in ("ymin", "xmin", "ymax", "xmax", "confidence")
            )
            count = len(score)
            assert count <= 100
            for value in values.values():
                assert not isinstance(value, np.ndarray) or len(value) == count
            assert (ymin >= 0).all() and (xmin >= 0).all()
            assert (ymax <= 1).all() and (xmax <= 1).all()
            assert (ymax > ymin).all() and (xmax > xmin).all()
            assert (score >= 0.05).all() and (np.diff(score) <= 0).all()
            assert set(values["image/object/class/label"]) <= {1, 2, 3}
            assert not values["image/object/is_crowd"].any()
            np.testing.assert_allclose(
                values["image/object/area"],
                (ymax - ymin) * (xmax - xmin) * 64 * 96,
                rtol=1e-4,
            )
            assert tf.io.gfile.exists(values["image/filename"].decode())
    assert ids == list(range(6))


def test_coco_boxes_lie_inside_their_image(labels_dir, tmp_path):
    """The Model Garden's converter skips a box that sticks out by any amount."""
    path = tmp_path / "labels.json"
    coco_export.write(labels_dir, str(path))
    content = json.loads(path.read_text())
    assert [entry["id"] for entry in content["categories"]] == [1, 2, 3]
    assert len(content["annotations"]) > 100
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert x + width <= 96 and y + height <= 64
    for labels in (labels_dir, str(path)):
        found, book = validation.validate(labels, image_dir="/")
        assert (found, book.images.held) == ({}, 6)


def test_masks_cannot_be_exported_to_coco(tmp_path):
    (tmp_path / "manifest.json").write_text('{"class_names": ["a"], "has_masks": true}')
    with pytest.raises(ValueError, match="Expected boxes. Received: .* with masks"):
        coco_export.write(str(tmp_path), str(tmp_path / "a.json"))
