"""The letterbox: scales by hand, and pixels that agree with them."""

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.geometry import letterbox


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((100, 200), (64, 128)),  # as wide as the frame
        ((300, 100), (128, 43)),  # 42.67 is rounded
        ((128, 128), (128, 128)),
        ((1, 1000), (1, 128)),  # 0.128 pixels become 1
    ],
)
def test_letterbox_scale_by_hand(size, scaled):
    got = np.array(letterbox.letterbox_scale(np.array([size]), (128, 128)))[0]
    np.testing.assert_allclose(got * size, scaled, rtol=1e-6)


def test_covered_size_by_hand():
    """By hand: 50 x 70 into 64 x 64 is 45.7 x 64; 200 x 30 is 64 x 9.6."""
    actual = letterbox.covered_size(np.array([[50, 70], [200, 30], [1, 999]]), (64, 64))
    np.testing.assert_array_equal(actual, [[46, 64], [64, 10], [1, 64]])


@pytest.mark.parametrize("size", [(50, 70), (64, 96), (200, 30), (1, 999), (7, 5)])
def test_pixels_by_hand(size):
    """An image in the corner, resized by TensorFlow, and the mean color around it."""
    images = noise(2, *size, 3)
    height, width = np.array(letterbox.covered_size(np.array(size), (64, 96)))
    expected = np.empty((2, 64, 96, 3), np.float32)
    expected[...] = (123.675, 116.28, 103.53)
    resized = tf.image.resize(images.astype(np.float32), (height, width))
    expected[:, :height, :width] = resized
    np.testing.assert_array_equal(letterbox.fit(images, (64, 96)), expected)
    for image, frame in zip(images, expected):
        np.testing.assert_array_equal(letterbox.fit(image, (64, 96)), frame)


@pytest.mark.parametrize("channels, value", [(1, 7.0), (3, (1, 2, 3)), (4, 0)])
def test_padding_by_hand(channels, value):
    images = np.float32(noise(5, 6, channels))
    frames = letterbox.pad(images, (8, 6), value).numpy()
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames[:5], images)
    np.testing.assert_array_equal(frames[5:], np.zeros((3, 6, channels)) + value)


@pytest.mark.parametrize("batch", [(), (None,)])
def test_frames_have_a_static_shape(batch):
    spec = tf.TensorSpec((*batch, None, None, 3), tf.uint8)
    run = tf.function(lambda images: letterbox.fit(images, (16, 24)))
    frames = run.get_concrete_function(spec).outputs[0]
    assert frames.shape.as_list() == [*batch, 16, 24, 3]
    assert frames.dtype == tf.float32


def test_pixels_do_not_need_keras(monkeypatch):
    """The input pipeline uses TensorFlow with any Keras backend."""
    expected = letterbox.fit(noise(20, 30, 3), (16, 24))
    monkeypatch.setattr(letterbox, "ops", None)
    np.testing.assert_array_equal(letterbox.fit(noise(20, 30, 3), (16, 24)), expected)


@pytest.mark.parametrize(
    ("size", "fitted", "start"),
    [
        ((40, 80), (32, 64), (16, 0)),
        ((41, 80), (33, 64), (15, 0)),  # of 31 rows, the larger half is below
        ((80, 39), (64, 31), (0, 16)),
        ((64, 64), (64, 64), (0, 0)),
    ],
)
def test_a_frame_with_the_image_in_the_middle(size, fitted, start):
    """As Ultralytics fits images: round(31 / 2 - 0.1) = 15."""
    images = tf.data.Dataset.from_tensors(np.full((*size, 3), 7))
    frames = images.map(lambda image: letterbox.fit_centered(image, (64, 64), 114.0))
    (frame,) = frames.as_numpy_iterator()
    inside = np.zeros((64, 64), bool)
    inside[start[0] : start[0] + fitted[0], start[1] : start[1] + fitted[1]] = True
    assert (frame[inside] == 7).all() and (frame[~inside] == 114).all()
    scale = 64 / max(size)
    boxes = np.array([[10, 20, 30, 30], [-9, 3, 900, 9]])
    moved = boxes * scale + np.tile(start, 2)
    found = letterbox.from_centered(moved, size, (64, 64))
    expected = np.clip(boxes, 0, [*size, *size])
    np.testing.assert_allclose(found, expected, atol=1e-4)
