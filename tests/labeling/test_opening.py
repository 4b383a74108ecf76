"""Teachers by their path: models of this package, and Keras models of others."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.labeling import opening

NAMES = "cat\ndog\n"


def settings(tmp_path, model, **changes):
    model.save(tmp_path / "model.keras")
    labels = tmp_path / "labels.txt"
    labels.write_text(NAMES)
    path = str(tmp_path / "model.keras")
    return opening.TeacherSettings(path, labels=str(labels), **changes)


def detector(size=(64, 64), names=("boxes", "confidence", "classes"), brightest=1.0):
    """A model that finds a dog in the middle of its frame, as sure as it is bright."""
    images = keras.Input((*size, 3))
    score = keras.ops.max(images, axis=(1, 2, 3))[:, None] / brightest
    box = keras.ops.ones_like(score)[..., None] * np.float32([8, 16, 24, 32])
    arrays = box, score, keras.ops.ones_like(score)
    return keras.Model(images, dict(zip(names, arrays)))


def labels_of(teacher, value=255, size=(40, 80)):
    image = tf.fill((*size, 3), tf.constant(value, tf.uint8))
    example = {"path": tf.constant(""), "id": tf.constant(1)}
    item = {**teacher.prepare(example, image), "size": tf.constant(size)}
    (found,) = teacher.label([item])
    return found


def test_a_keras_model_of_others(tmp_path):
    """40 x 80 fits into 64 x 64 with scale 0.8; pixels as the model wants them."""
    stated = settings(tmp_path, detector(), box_format="yxyx", pixel_scale="0..1")
    teacher = opening.open_teacher(stated)
    assert teacher.class_names == ("cat", "dog") and not teacher.has_masks
    found = labels_of(teacher)
    np.testing.assert_allclose(found["boxes"], [[10, 20, 30, 40]])
    assert found["scores"].tolist() == [1.0] and found["classes"].tolist() == [1]
    np.testing.assert_allclose(
        labels_of(teacher, 51)["scores"], 124 / 255
    )  # of the border
    assert {"pixel_scale": "0..1", "box_format": "yxyx"}.items() < (
        teacher.origin.items()
    )
    teacher = opening.open_teacher(settings(tmp_path, detector(), box_format="yxyx"))
    with pytest.raises(ValueError, match="confidence of 0 to 1. Received: 255.0; an "):
        labels_of(teacher)
    assert "pixel_scale" not in teacher.origin


def test_a_keras_model_of_any_size(tmp_path):
    names = ("detection_boxes", "detection_scores", "detection_classes")
    model = detector((None, None), names, 255.0)
    teacher = opening.open_teacher(settings(tmp_path, model, first_class_id=0))
    found = labels_of(teacher)
    assert found["boxes"].tolist() == [[8, 16, 24, 32]]
    assert found["classes"].tolist() == [1] and found["scores"].tolist() == [1.0]


def test_a_keras_segmenter(tmp_path):
    images = keras.Input((None, None, 3))
    brightness = keras.ops.mean(images, axis=-1)
    outputs = {
        "mask": keras.ops.cast(brightness > 100.0, "int32"),
        "confidence": brightness / 255.0,
    }
    teacher = opening.open_teacher(settings(tmp_path, keras.Model(images, outputs)))
    assert teacher.has_masks
    found = labels_of(teacher, 204, (2, 3))
    mask, confidence = (
        tf.io.decode_png(found[key])[..., 0].numpy() for key in ("mask", "confidence")
    )
    assert mask.tolist() == [[1] * 3] * 2 and confidence.tolist() == [[204] * 3] * 2


def test_keras_models_that_are_no_teachers(tmp_path):
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    text = "Expected outputs detection_boxes, .* Received: output_0; convert .*is no mo"
    with pytest.raises(ValueError, match=text):
        opening.open_teacher(settings(tmp_path, plain))
    plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    text = r"images \[B, H, W, 3\]. Received: .*model.keras: Sequential with inputs of "
    with pytest.raises(ValueError, match=rf"{text}\[\[None, 8\]\]; call it in a func"):
        opening.open_teacher(settings(tmp_path, plain))


class Unknown(keras.layers.Layer):
    def call(self, inputs):
        return inputs


class Failing(keras.layers.Layer):
    def call(self, inputs):
        tf.debugging.assert_greater(inputs, 300.0)
        return inputs


def test_keras_models_that_need_more_code(tmp_path):
    images = keras.Input((8, 8, 3))
    stated = settings(tmp_path, keras.Model(images, Unknown()(images)))
    text = r"loads without more code. Received: .*keras: .*'Unknown'.*; call it in a fu"
    with pytest.raises(ValueError, match=text):
        opening.open_teacher(stated)
    stated = settings(tmp_path, keras.Model(images, Failing()(images)))
    text = "predicts from a batch of images. Received: .*: InvalidArgumentError: .*; ca"
    with keras.saving.custom_object_scope({"Failing": Failing}):
        with pytest.raises(ValueError, match=text):
            opening.open_teacher(stated)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"score_scale": 100}, "--score_scale only of a teacher that is a results fil"),
        ({"pixel_scale": "0..1"}, "--pixel_scale only of a teacher that gets pixels"),
        ({"channels": "bgr"}, "only of a teacher that gets pixels. .*: channels=bgr, "),
    ],
)
def test_settings_of_other_teachers(tmp_path, monkeypatch, change, text):
    (tmp_path / "my_teacher.py").write_text(
        "def none(images):\n"
        "    return [{'boxes': [], 'scores': [], 'labels': []} for _ in images]\n"
        "none.class_names = {1: 'cat'}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    stated = opening.TeacherSettings("python:my_teacher:none", **change)
    with pytest.raises(ValueError, match=text):
        opening.open_teacher(stated)
