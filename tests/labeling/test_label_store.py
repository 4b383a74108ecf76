"""Pseudo-labels: what is written and read back."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image

from official_selftrain.data import examples, masks, pipeline, sources
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.geometry.letterbox import letterbox_scale
from official_selftrain.inference import prediction
from official_selftrain.labeling import label_store, teachers
from official_selftrain.labeling.label_store import Storage
from official_selftrain.models import SemanticSegmenter, backbones
from official_selftrain.serving import signatures


class FixedTeacher(keras.Model):
    """Predicts one box in the middle of every image, and one without area."""

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


def boxes_teacher(class_names=("0", "1")):
    return teachers.keras_teacher(FixedTeacher(), class_names)


def test_stored_labels_equal_the_predictions(tmp_path):
    pool = digits.scenes("unlabeled", 5, 0, (32, 48), num_classes=2)
    manifest = label_store.write(boxes_teacher(), pool, str(tmp_path), Storage(3), 2)
    settings = manifest.pop("settings")
    assert manifest == {
        "class_names": ["0", "1"],
        "has_masks": False,
        "images": 5,
        "labeled": 5,
        "boxes": 5,
        "boxes_per_image": 1.0,
        "empty_images": 0,
        "score_histogram": [0] * 15 + [5] + [0] * 4,
        "class_histogram": {"0": 0, "1": 5},
        "boxes_per_image_histogram": {"1": 5},
        "shards": 2,
        "skipped": [],
        "ledger": {
            "images": {"held": 5, "taught": 5},
            "boxes": {
                "held": 10,
                "taught": 5,
                "left out": {"without area in their image": 5},
            },
        },
    }
    assert settings["teacher"] == {"kind": "keras"} and settings["score_floor"] == 0.05
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "manifest.json",
        "pseudo-00000-of-00002.json",
        "pseudo-00000-of-00002.tfrecord",
        "pseudo-00001-of-00002.json",
        "pseudo-00001-of-00002.tfrecord",
        "settings.json",
    ]
    stored = label_store.read(str(tmp_path), ("0", "1"))
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


class ManyTeacher(FixedTeacher):
    """Predicts 320 boxes in every image, with scores from 1.0 down to 0.2."""

    def predictions(self, outputs, sizes):
        ones = ops.ones_like(outputs["mean"])[:, None]
        corners = np.linspace(0.0, 20.0, 320, dtype=np.float32)
        boxes = np.stack([corners, corners, corners + 8.0, corners + 8.0], axis=-1)
        return {
            "boxes": ones[..., None] * boxes[None],
            "scores": ones * np.linspace(1.0, 0.2, 320, dtype=np.float32)[None],
            "classes": ops.cast(0.0 * ones + np.zeros((1, 320), np.float32), "int32"),
            "num_detections": ops.cast(320.0 * ones[:, 0], "int32"),
        }


def test_all_boxes_of_a_teacher_are_stored_and_taught(tmp_path):
    pool = digits.scenes("unlabeled", 3, 0, (32, 48), num_classes=2)
    teacher = teachers.keras_teacher(ManyTeacher(), ("0", "1"))
    manifest = label_store.write(teacher, pool, str(tmp_path / "all"))
    assert manifest["boxes_per_image_histogram"] == {"320": 3}
    assert manifest["settings"]["max_boxes"] is None
    stored = label_store.read(str(tmp_path / "all"))
    np.testing.assert_array_equal(stored.box_counts, [[320, 320]] * 3)
    # Scores from 0.5 on: 1.0 - 0.8 · k / 319 >= 0.5 for k up to 199; from 0.4 on: 239.
    taught = examples.apply_threshold(stored, 0.5, 0.4)
    np.testing.assert_array_equal(taught.box_counts, [[240, 200]] * 3)
    batches = pipeline.training_batches(taught, 2, (32, 32), augment.fit)
    assert next(iter(batches))["boxes"].shape == (2, 240, 4)
    manifest = label_store.write(
        teacher, pool, str(tmp_path / "best"), Storage(max_boxes=7)
    )
    assert manifest["boxes_per_image_histogram"] == {"7": 3}
    best = next(label_store.read(str(tmp_path / "best")).dataset.as_numpy_iterator())
    np.testing.assert_allclose(best["scores"], 1.0 - 0.8 * np.arange(7) / 319)
    with pytest.raises(ValueError, match="at least 1. Received: max_boxes=0"):
        Storage(max_boxes=0)


def test_images_in_files_are_referenced(tiny_coco, tmp_path):
    pool = sources.folder(str(tiny_coco.unlabeled))
    label_store.write(boxes_teacher(), pool, str(tmp_path))
    for example in label_store.read(str(tmp_path), ("0", "1")).dataset:
        assert example["encoded"] == b""
        assert str(tiny_coco.unlabeled) in example["path"].numpy().decode()


def test_finished_shards_are_kept_and_missing_ones_identical(tmp_path):
    pool = digits.scenes("unlabeled", 6, 0, (32, 32), num_classes=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    label_store.write(boxes_teacher(), pool, str(whole), Storage(2), 2)
    label_store.write(boxes_teacher(), pool, str(cut), Storage(2), 2)
    kept = cut / "pseudo-00000-of-00003.tfrecord"
    before = kept.stat().st_mtime_ns
    (cut / "pseudo-00001-of-00003.tfrecord").unlink()
    (cut / "pseudo-00002-of-00003.tfrecord.partial").write_bytes(b"cut off")
    (cut / "pseudo-00002-of-00003.tfrecord").unlink()
    (cut / "manifest.json").unlink()
    label_store.write(boxes_teacher(), pool, str(cut), Storage(2), 2)
    assert kept.stat().st_mtime_ns == before
    for path in whole.iterdir():
        assert path.read_bytes() == (cut / path.name).read_bytes()


def test_incomplete_labels_raise(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="manifest.json. Make it with the stage"
    ):
        label_store.read(str(tmp_path), ("a",))


def test_manifest_lists_skipped_files(tiny_coco, tmp_path):
    (tiny_coco.unlabeled / "broken.jpg").write_bytes(b"no image")
    pool = sources.folder(str(tiny_coco.unlabeled))
    label_store.write(boxes_teacher(), pool, str(tmp_path))
    (line,) = json.loads((tmp_path / "manifest.json").read_text())["skipped"]
    assert "broken.jpg" in line


class FixedMaskTeacher(keras.Model):
    """Predicts the same probabilities for every pixel except in one corner.

    What lies on an image's first quarter of the rows is class 2, with 0.8.
    """

    image_size = (64, 64)

    def __init__(self):
        super().__init__()
        self.built = True

    def multi_scale(self, scales=(1.0,), flip=False):
        def probabilities(images):
            fixed = np.tile(np.float32([0.1, 0.6, 0.3]), (1, 64, 64, 1))
            fixed[:, :16] = [0.1, 0.1, 0.8]
            return ops.ones_like(images) * fixed

        return probabilities


def masks_teacher(model=None, class_names=("background", "a", "b")):
    return teachers.keras_teacher(model or FixedMaskTeacher(), class_names)


def photographs(*sizes):
    return examples.from_records(
        [
            {
                "encoded": tf.io.encode_png(np.zeros((*size, 3), np.uint8)).numpy(),
                "id": index,
            }
            for index, size in enumerate(sizes)
        ],
        has_labels=False,
    )


def test_stored_masks_have_the_size_of_their_image(tmp_path):
    """Square, wide and tall images of odd sizes, smaller and larger than the frame."""
    sizes = [(64, 64), (1, 1), (33, 97), (211, 90), (128, 128)]
    pool = photographs(*sizes)
    manifest = label_store.write(masks_teacher(), pool, str(tmp_path), Storage(3), 2)
    assert manifest["has_masks"] and manifest["shards"] == 2
    stored = label_store.read(str(tmp_path), ("background", "a", "b"))
    assert stored.has_masks and stored.num_images == 5 and not stored.has_labels
    for example, size in zip(stored.dataset, sizes, strict=True):
        mask = examples.read_mask(example, tf.constant(size)).numpy()
        sure = masks.decode(example["confidence"]).numpy()
        assert mask.shape == sure.shape == size
        # The upper quarter of the frame, in pixels of the image.
        border = 16 * max(size) / 64
        rows = np.arange(size[0]) + 0.5
        assert (mask[rows < border - 2] == 2).all()
        assert (mask[rows > border + 2] == 1).all()
        assert (sure[rows < border - max(size) / 64] == 204).all()  # 255 · 0.8
        assert (sure[rows > border + max(size) / 64] == 153).all()  # 255 · 0.6
    # At 0.7 only the upper part is labeled; images without labels are left out.
    kept = examples.apply_threshold(stored, 0.7)
    (example, *_) = kept.dataset
    mask = masks.decode(example["mask"]).numpy()
    assert (mask[:16] == 2).all() and (mask[16:] == 255).all()


def test_stored_masks_equal_the_predictions(tmp_path):
    """Images of the frame's size aren't resized: labels equal predictions exactly."""
    model = small_segmenter()
    pool = digits.scenes("unlabeled", 3, 0, (128, 128))
    teacher = masks_teacher(model, tuple("abcd"))
    label_store.write(teacher, pool, str(tmp_path), batch_size=2)
    stored = label_store.read(str(tmp_path), tuple("abcd"))
    for example, image in zip(stored.dataset, pool.dataset, strict=True):
        frame, _, _ = augment.fit(examples.read_image(image), {}, (128, 128))
        batch = tf.stack([frame, frame])  # in batches of two, as written
        expected = model.predictions(model(batch, training=False), None)
        mask = examples.read_mask(example, tf.constant([128, 128]))
        same = (mask == expected["mask"][0]).numpy()
        assert same.mean() > 0.9999  # ties may fall either way
        sure = masks.decode(example["confidence"]).numpy()
        np.testing.assert_allclose(sure, 255 * expected["scores"][0], atol=0.51)


def small_segmenter():
    keras.utils.set_random_seed(0)
    backbone = backbones.resnet(50, blocks=(1, 1, 1, 1), filters=(16,) * 4)
    model = SemanticSegmenter(
        4, (128, 128), backbone, num_filters=16, num_repeats=1, num_head_convs=1
    )
    kernel = model.layers[-2].kernel
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    return model


def test_covered_size_matches_letterbox():
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 500, (200, 2)):
        for frame in ((64, 64), (128, 256)):
            _, _, covered = augment.fit(np.zeros((*size, 3), np.uint8), {}, frame)
            scale = letterbox_scale(size[None], frame).numpy()[0]
            assert (size * scale).round().tolist() == covered.numpy().tolist()


def test_scales_require_masks():
    with pytest.raises(ValueError, match=r"labels are boxes. Received: scales=\(0.5,"):
        prediction.labeler(FixedTeacher(), (0.5, 1.0))
    with pytest.raises(ValueError, match=r"labels are boxes. Received: .*flip=True"):
        prediction.labeler(FixedTeacher(), flip=True)


def test_refused_images_are_skipped(tiny_coco, tmp_path):
    """One of four images; a batch in which every image is refused raises."""

    def refusing(ids):
        def label(items):
            found = [int(item["id"]) for item in items]
            if set(found) & ids:
                raise signatures.Refused(f"no {found}")
            box = np.float32([[0, 0, 8, 8]])
            one = {"boxes": box, "scores": np.ones(1), "classes": np.zeros(1, int)}
            return [one] * len(items)

        return teachers.Teacher(
            lambda example, image: {"id": example["id"]}, label, ("a",), False, {}
        )

    pool = sources.folder(str(tiny_coco.unlabeled))
    manifest = label_store.write(refusing({2}), pool, str(tmp_path / "a"), batch_size=4)
    (line,) = manifest["skipped"]
    assert line.endswith("2.png: the teacher refuses it: no [2]")
    assert manifest["labeled"] == 3
    ids = [int(e["id"]) for e in label_store.read(str(tmp_path / "a")).dataset]
    assert ids == [0, 1, 3]
    with pytest.raises(signatures.Refused, match=r"no \[0, 1, 2, 3\]"):
        label_store.write(
            refusing({0, 1, 2, 3}), pool, str(tmp_path / "b"), batch_size=4
        )


def test_classes_of_read_labels_are_matched(tiny_coco, tmp_path):
    pool = sources.folder(str(tiny_coco.unlabeled))
    label_store.write(boxes_teacher(("a", "b")), pool, str(tmp_path))
    found = label_store.read(str(tmp_path), ("b", "a"))
    assert {int(e["classes"][0]) for e in found.dataset} == {0}  # it was 1, "b"
    with pytest.raises(
        ValueError, match=r"classes \['a', 'c'\]. Received: .*\['a', 'b'\]"
    ):
        label_store.read(str(tmp_path), ("a", "c"))


def test_a_folder_in_use_is_refused(tiny_coco, tmp_path):
    """Several workers share it, but not the index of one."""
    pool, teacher = sources.folder(str(tiny_coco.unlabeled)), boxes_teacher(("a",))
    place = str(tmp_path)
    two = [label_store.Worker(index, 2) for index in (0, 1)]
    with label_store._alone(place, two[0]):
        for worker in (label_store.Worker(), two[0]):
            with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
                label_store.write(teacher, pool, place, worker=worker)
        label_store.write(teacher, pool, place, worker=two[1])
    assert label_store.write(teacher, pool, place)["labeled"] == 4
    assert not [name for name in os.listdir(place) if "lock" in name]


def test_different_settings_raise(tiny_coco, tmp_path):
    pool = sources.folder(str(tiny_coco.unlabeled))
    label_store.write(boxes_teacher(("a", "b")), pool, str(tmp_path))
    with pytest.raises(
        ValueError, match=r"class_names=\['a', 'c'\], was \['a', 'b'\]; choose"
    ):
        label_store.write(boxes_teacher(("a", "c")), pool, str(tmp_path))
    with pytest.raises(ValueError, match="score_floor in 0…1. Received: score_floor=2"):
        Storage(score_floor=2)


@pytest.mark.parametrize("embed_images", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pixel_ranges_are_stored_with_labels(tmp_path, kind, embed_images):
    """12 bits: 0, 2,048 and 4,095 are 0, 128 and 255 for teacher and student."""
    values = np.array([[0, 2048, 4095]] * 4, np.uint16)
    (tmp_path / "pool").mkdir()
    Image.fromarray(values).save(tmp_path / "pool" / "a.tif", kind)
    pool = sources.folder(str(tmp_path / "pool"), (0, 4095))
    teacher = boxes_teacher()
    keras_prepare = teacher.prepare

    def prepared(example, image):
        check = tf.debugging.assert_equal(image[0, :, 0], np.uint8([0, 128, 255]))
        with tf.control_dependencies([check]):
            return keras_prepare(example, tf.identity(image))

    teacher = dataclasses.replace(teacher, prepare=prepared)
    storage = Storage(3, embed_images=embed_images)
    manifest = label_store.write(teacher, pool, str(tmp_path / "labels"), storage, 2)
    assert manifest["labeled"] == 1
    assert manifest["settings"]["source"]["pixel_range"] == [0, 4095]
    (example,) = label_store.read(str(tmp_path / "labels"), ("0", "1")).dataset
    image = examples.read_image(example).numpy()
    np.testing.assert_array_equal(image, np.stack([[[0, 128, 255]] * 4] * 3, -1))
