"""Detection tile by tile: boxes in the image's own pixels, each object once."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain import RetinaNet, backbones
from official_selftrain.data import examples
from official_selftrain.geometry import letterbox
from official_selftrain.inference import evaluation, prediction, tiles
from official_selftrain.labeling import teachers
from official_selftrain.metrics import CocoMetric
from official_selftrain.models import inputs
from official_selftrain.serving import saved_models


class SquareFinder(tf.Module):
    """Finds what is white: a box around it in each row of 16 pixels of a frame."""

    image_size = (64, 64)
    max_detections = 4
    nms_threshold = 0.5
    num_classes = 2
    tile = (32, 32, 12)
    variables = ()

    def __call__(self, frames, training):
        return tf.reduce_mean(frames, axis=-1) > 128.0

    def predictions(self, is_white, sizes):
        """Return a box of class 0 of each quarter of the rows with something white."""
        boxes, scores = [], []
        for quarter in range(4):
            part = is_white[:, 16 * quarter : 16 * (quarter + 1)]
            rows, columns = tf.reduce_any(part, 2), tf.reduce_any(part, 1)
            low = [tf.argmax(rows, 1) + 16 * quarter, tf.argmax(columns, 1)]
            high = [
                16 * (quarter + 1) - tf.argmax(rows[:, ::-1], 1),
                64 - tf.argmax(columns[:, ::-1], 1),
            ]
            boxes.append(tf.cast(tf.stack([*low, *high], axis=1), tf.float32))
            scores.append(tf.where(tf.reduce_any(part, (1, 2)), 0.9, 0.0))
        scale = letterbox.letterbox_scale(sizes, self.image_size)
        boxes = tf.stack(boxes, axis=1) / tf.tile(scale, (1, 2))[:, None]
        scores = tf.stack(scores, axis=1)
        return {
            "boxes": boxes,
            "scores": scores,
            "classes": tf.where(scores > 0.0, 0, -1),
            "num_detections": tf.reduce_sum(tf.cast(scores > 0.0, tf.int32), 1),
        }

    def metric(self):
        return CocoMetric(self.num_classes)


# Squares of 4 pixels in an image of 52 x 92; some lie on the seams of the tiles, whose
# first pixels are 0 and 20, and 0, 20, 40 and 60.
SQUARES = [(2, 2), (2, 40), (28, 17), (28, 60), (44, 88)]


def picture():
    pixels = np.zeros((52, 92, 3), np.uint8)
    for top, left in SQUARES:
        pixels[top : top + 4, left : left + 4] = 255
    return pixels


def png():
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "PNG")
    return file.getvalue()


EXPECTED = [[top, left, top + 4, left + 4] for top, left in SQUARES]


def assert_found(boxes):
    boxes = np.asarray(boxes)
    np.testing.assert_allclose(boxes[np.lexsort(boxes.T[1::-1])], EXPECTED, atol=0.5)


def test_every_object_is_found_once():
    found = tiles.detector(SquareFinder())(picture())
    assert_found(found["boxes"])
    assert found["classes"].numpy().tolist() == [0] * 5
    np.testing.assert_allclose(found["scores"], np.full(5, 0.9))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_groups_of_tiles_change_nothing(batch_size):
    assert_found(tiles.detector(SquareFinder(), batch_size)(picture())["boxes"])


def test_an_image_no_larger_than_a_tile_is_one():
    found = tiles.detector(SquareFinder())(picture()[:32, :32])
    np.testing.assert_allclose(found["boxes"], [[2, 2, 6, 6], [28, 17, 32, 21]])


def test_evaluation_is_in_pixels_of_the_image():
    boxes = np.float32(EXPECTED) / [52, 92, 52, 92]
    record = {"encoded": png(), "id": 1, "boxes": boxes, "classes": np.zeros(5, int)}
    source = examples.from_records([record], ["white", "black"])
    assert evaluation.evaluate_model(SquareFinder(), source)["AP"] == 100.0
    whole = SquareFinder()
    whole.tile = None
    assert evaluation.evaluate_model(whole, source)["AP"] < 50.0


def test_labels_are_in_pixels_of_the_image():
    teacher = teachers.keras_teacher(SquareFinder(), ["white", "black"])
    image = tf.constant(picture())
    item = {**teacher.prepare({}, image), "size": tf.shape(image)[:2]}
    (labels,) = teacher.label([item])
    assert_found(labels["boxes"])
    assert_found(prediction.image_labeler(SquareFinder())(picture())["boxes"])


def test_served_boxes_are_in_pixels_of_the_image():
    small = tf.io.encode_png(picture()[:32, :32]).numpy()
    signature = saved_models.signatures_of(SquareFinder())["serving_default"]
    answer = signature(tf.constant([png(), small]))
    assert answer["num_detections"].numpy().tolist() == [5, 2]
    assert_found(answer["detection_boxes"][0])
    np.testing.assert_allclose(
        answer["detection_boxes"][1],
        [[2, 2, 6, 6], [28, 17, 32, 21], *[[0] * 4] * 3],
    )
    assert answer["detection_classes"].numpy().tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(
        answer["image_info"][0], [[52, 92], [52, 92], [1, 1], [0, 0]]
    )
    normalized = saved_models.signatures_of(SquareFinder(), normalized=True)
    answer = normalized["image_tensor"](picture()[None])
    assert_found(answer["detection_boxes"][0] * [52, 92, 52, 92])


def test_a_model_keeps_its_tile(tmp_path):
    model = RetinaNet(
        *(2, (64, 64), backbones.resnet(18)),
        **dict(max_level=5, num_filters=8, num_head_convs=1),
        tile=[48, 64, 16],
    )
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").tile == (48, 64, 16)
    config = {**model.get_config(), "backbone": model.backbone, "tile": (9, 9, 9)}
    config.pop("dtype_policy")
    with pytest.raises(ValueError, match=r"an overlap below both. Received: tile=\(9,"):
        RetinaNet(**config)


@pytest.mark.parametrize(
    "tile, received",
    [
        ((64, 64), r"tile=\(64, 64\)"),
        ((64, 32, 32), r"tile=\(64, 32, 32\)"),
        ((64, 64, -1), r"tile=\(64, 64, -1\)"),
        (64, "tile=64"),
        ((0, 64, 0), "height=0"),
    ],
)
def test_a_tile_has_two_sides_and_an_overlap(tile, received):
    with pytest.raises(ValueError, match=received):
        inputs.check_tile(tile)
