"""Geometry, colours and augmentations: images and boxes move together."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain import boxes as box_geometry
from official_selftrain.data import augment, color, geometry

GOLDEN = pathlib.Path(__file__).parent / "golden" / "preprocess.npz"


def seed_of(number):
    return tf.constant([number, 1], tf.int32)


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def boxes_of(*rows):
    return tf.constant(np.float32(rows).reshape(-1, 4))


def fix_draws(monkeypatch, share, offsets=(0.0, 0.0)):
    """Let uniform numbers lie at `share` of their range, offsets at `offsets`."""

    def fixed(shape, seed, minval=0.0, maxval=1.0):
        if shape == (2,):
            return tf.constant(offsets, tf.float32)
        return tf.fill(shape, tf.cast(minval + share * (maxval - minval), tf.float32))

    monkeypatch.setattr(tf.random, "stateless_uniform", fixed)


# Flip


def test_flip_by_hand():
    image, boxes = noise(2, 4), boxes_of([0, 1, 2, 4], [1, 0, 2, 0.5])
    flipped, moved = geometry.flip(image, boxes, seed_of(0), 1.0)
    for column in range(4):
        np.testing.assert_array_equal(flipped[:, column], image[:, 3 - column])
    np.testing.assert_array_equal(moved, [[0, 0, 2, 3], [1, 3.5, 2, 4]])
    again, back = geometry.flip(flipped, moved, seed_of(0), 1.0)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back, boxes)


def test_flip_follows_its_probability():
    image, boxes = noise(3, 5), boxes_of([0, 1, 2, 3])

    def share(probability):
        results = [
            geometry.flip(image, boxes, seed_of(k), probability) for k in range(64)
        ]
        flips = [not np.array_equal(result[0], image) for result in results]
        moves = [not np.array_equal(result[1], boxes) for result in results]
        assert flips == moves
        return np.mean(flips)

    assert share(0.0) == 0.0 and share(1.0) == 1.0
    assert 0.25 < share(0.5) < 0.75  # 4 standard deviations


def test_flip_takes_images_without_boxes():
    flipped, moved = geometry.flip(noise(3, 5), boxes_of(), seed_of(0), 1.0)
    np.testing.assert_array_equal(flipped, noise(3, 5)[:, ::-1])
    assert moved.shape == (0, 4)


# Resize, crop and pad


@pytest.mark.parametrize(
    "image_size, covered, box",
    [
        # (8, 16, 24, 40) of each image, in a frame of 48 x 80.
        ((64, 96), (48, 72), (6, 12, 18, 30)),  # height decides: 0.75
        ((96, 64), (48, 32), (4, 8, 12, 20)),  # taller: 0.5
        ((60, 160), (30, 80), (4, 8, 12, 20)),  # wider: width decides: 0.5
        ((48, 80), (48, 80), (8, 16, 24, 40)),  # equal
        ((24, 40), (48, 80), (16, 32, 48, 80)),  # smaller: 2
    ],
)
def test_letterbox_by_hand(image_size, covered, box):
    image = noise(*image_size)
    frame, boxes, size = geometry.resize_and_crop(
        image, boxes_of([8, 16, 24, 40], [0, 0, *image_size]), (48, 80), seed_of(0)
    )
    assert frame.shape == (48, 80, 3) and frame.dtype == tf.float32
    np.testing.assert_array_equal(size, covered)
    np.testing.assert_allclose(boxes, [box, (0, 0, *covered)], atol=1e-4)
    np.testing.assert_allclose(
        frame[: covered[0], : covered[1]].numpy().mean(), image.mean(), atol=4.0
    )
    for padding in (frame[covered[0] :], frame[:, covered[1] :]):
        np.testing.assert_allclose(
            padding, np.broadcast_to(geometry.PAD_PIXEL, padding.shape), atol=1e-4
        )


def test_an_image_of_the_frame_keeps_its_pixels():
    image = noise(48, 80)
    frame, _, _ = geometry.resize_and_crop(image, boxes_of(), (48, 80), seed_of(3))
    np.testing.assert_allclose(frame, image, atol=1e-4)


@pytest.mark.parametrize(
    "size", [(64, 96), (96, 64), (1, 1), (2, 3), (1, 200), (300, 2), (333, 500)]
)
def test_letterbox_agrees_with_the_scale_that_takes_predictions_back(size):
    scale = np.array(box_geometry.letterbox_scale(np.array([size]), (48, 80)))[0]
    _, boxes, covered = geometry.resize_and_crop(
        noise(*size), boxes_of([0, 0, *size]), (48, 80), seed_of(0)
    )
    np.testing.assert_allclose(scale * size, covered, atol=1e-3)
    np.testing.assert_allclose(boxes[0], [0, 0, *covered], atol=1e-3)


def test_a_line_of_pixels_stays_visible():
    # 0.4 of one row would round to none.
    _, boxes, covered = geometry.resize_and_crop(
        noise(1, 200), boxes_of([0, 50, 1, 100]), (48, 80), seed_of(0)
    )
    np.testing.assert_array_equal(covered, [1, 80])
    np.testing.assert_allclose(boxes, [[0, 20, 1, 40]], atol=1e-4)


def test_crop_by_hand(monkeypatch):
    # Twice the frame, so 48 rows and 80 columns are to be cropped.
    fix_draws(monkeypatch, 0.5, offsets=(0.5, 0.25))
    ramp = np.tile(2.0 * np.arange(80.0)[None, :, None], (48, 1, 3))
    frame, boxes, size = geometry.resize_and_crop(
        ramp,
        boxes_of([20, 30, 40, 60], [0, 0, 10, 10], [30, 20, 70, 25], [12, 5, 13, 90]),
        (48, 80),
        seed_of(0),
        (1.5, 2.5),
    )
    np.testing.assert_array_equal(size, [48, 80])
    # Offset 24 rows, 20 columns: 2 * 20 - 24 = 16, 2 * 30 - 20 = 40, …
    np.testing.assert_allclose(
        boxes, [[16, 40, 48, 80], [0, 0, 0, 0], [36, 20, 48, 30], [0, 0, 2, 80]]
    )
    # Column x shows the ramp at (x + 20.5) / 2 - 0.5, half-pixel centres.
    np.testing.assert_allclose(
        frame, np.broadcast_to(np.arange(80.0)[None, :, None] + 19.5, (48, 80, 3))
    )


@pytest.mark.parametrize(
    "size, image_size, scale_range",
    [
        ((64, 96), (64, 64), (1.0, 1.0)),
        ((64, 96), (64, 96), (0.8, 1.2)),
        ((96, 64), (80, 112), (0.5, 2.0)),
        ((40, 30), (64, 64), (0.8, 1.2)),
        ((150, 200), (64, 64), (0.5, 2.0)),
    ],
)
def test_painted_rectangles_are_where_the_boxes_say(size, image_size, scale_range):
    found = 0
    for number in range(12):
        rng = np.random.default_rng(number)
        top, left = rng.integers(0, np.array(size) - 12)
        bottom, right = rng.integers((top, left), np.array(size) - 9) + 10
        image = np.zeros((*size, 3), np.uint8)
        image[top:bottom, left:right] = 255
        frame, boxes, covered = geometry.resize_and_crop(
            *geometry.flip(
                image, boxes_of([top, left, bottom, right]), seed_of(number)
            ),
            image_size,
            seed_of(number),
            scale_range,
        )
        box = boxes[0].numpy()
        assert (box[2:] <= covered.numpy()).all() and box.min() >= 0.0
        painted = frame.numpy()[:, :, 0] > 127.5  # padding has 123.7
        if (box[2:] - box[:2]).min() < 2.0:
            continue
        rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
        extent = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        np.testing.assert_allclose(box, extent, atol=1.0)
        found += 1
    assert found >= 8


def test_boxes_outside_the_image_lose_their_area():
    _, boxes, _ = geometry.resize_and_crop(
        noise(48, 80),
        boxes_of(
            [-10, -20, 24, 40], [40, 70, 60, 100], [10, 81, 20, 99], [-9, 1, -2, 5]
        ),
        (48, 80),
        seed_of(0),
    )
    np.testing.assert_allclose(
        boxes, [[0, 0, 24, 40], [40, 70, 48, 80], [10, 80, 20, 80], [0, 1, 0, 5]]
    )


def test_no_box_reaches_into_the_padding():
    _, boxes, covered = geometry.resize_and_crop(
        noise(48, 40), boxes_of([0, 0, 60, 60]), (48, 80), seed_of(0)
    )
    np.testing.assert_array_equal(covered, [48, 40])
    np.testing.assert_allclose(boxes, [[0, 0, 48, 40]])


def test_images_without_boxes_are_resized_too():
    frame, boxes, _ = geometry.resize_and_crop(
        noise(10, 20), boxes_of(), (48, 80), seed_of(0), (0.8, 1.2)
    )
    assert frame.shape == (48, 80, 3) and boxes.shape == (0, 4)


def test_factors_and_offsets_are_drawn_from_their_ranges():
    # The covered height of a square image is round(100 * factor), at most 100,
    # and a box of 1 pixel shows factor and offset.
    factors, offsets = [], []
    for number in range(40):
        _, boxes, size = geometry.resize_and_crop(
            np.zeros((100, 100, 3), np.uint8),
            boxes_of([50, 50, 51, 51]),
            (100, 100),
            seed_of(number),
            (0.5, 1.5),
        )
        ymin, xmin, ymax, xmax = boxes[0].numpy()
        factor = float(ymax - ymin)
        assert 0.5 <= factor <= 1.5
        np.testing.assert_allclose(size, 100 * min(factor, 1.0), atol=1e-3)
        for start in (ymin, xmin):
            offset = 50 * factor - start
            assert -1e-3 <= offset <= max(0.0, 100 * factor - 100) + 1e-3
            np.testing.assert_allclose(offset, round(offset), atol=1e-3)
        factors.append(factor)
        offsets.append((50 * factor - ymin, 50 * factor - xmin))
    assert min(factors) < 0.65 and max(factors) > 1.35
    # Rows and columns are cropped independently of each other.
    assert sum(abs(y - x) > 1.0 for y, x in offsets) > 5


@pytest.mark.parametrize(
    "case, image_size, factor",
    [
        ("fit128", (128, 128), 1.0),
        ("fit96x128", (96, 128), 1.0),
        ("x1.3", (128, 128), 1.3),
        ("x0.5", (128, 128), 0.5),
        ("x1.9", (96, 96), 1.9),
    ],
)
def test_boxes_agree_with_the_authors(case, image_size, factor, monkeypatch):
    # Pixels are not compared: the authors resize without half-pixel centres.
    golden = np.load(GOLDEN)
    image, info = golden["in/image"], golden[f"{case}/info"]
    height, width = image.shape[:2]
    scaled = info[2] * (height, width)
    room = np.maximum(scaled - image_size, 1.0)
    # The crop's offset is random: draw theirs.
    fix_draws(monkeypatch, 0.5, offsets=(info[3] + 0.5) / room)
    frame, boxes, covered = geometry.resize_and_crop(
        image,
        tf.constant(golden["in/boxes_norm"] * np.float32([height, width] * 2)),
        image_size,
        seed_of(0),
        (factor, factor),
    )
    np.testing.assert_array_equal(info[:2], [(height, width), image_size])
    np.testing.assert_array_equal(covered, np.minimum(np.round(scaled), image_size))
    # The authors clip to the frame's last pixel, which we let belong to a box.
    last = np.float32(image_size * 2) - 1.0
    np.testing.assert_allclose(
        np.minimum(boxes, last), golden[f"{case}/boxes"], atol=1e-4
    )
    sides = boxes.numpy()[:, 2:] - boxes.numpy()[:, :2]
    np.testing.assert_array_equal(
        np.flatnonzero((sides > 0).all(axis=1)), golden[f"{case}/keep"]
    )
    if case == "x0.5":  # Here the scale is 1: no resize, so pixels are the same.
        np.testing.assert_allclose(frame[:height, :width], image, atol=1e-4)


@pytest.mark.parametrize("scale_range", [(1.0, 1.0), (0.5, 2.0)])
def test_the_same_seed_gives_the_same_frame(scale_range):
    def frame(number):
        return geometry.resize_and_crop(
            noise(64, 96),
            boxes_of([3, 4, 30, 40]),
            (48, 48),
            seed_of(number),
            scale_range,
        )

    for value, again in zip(frame(5), frame(5)):
        np.testing.assert_array_equal(value, again)
    if scale_range != (1.0, 1.0):
        assert not np.array_equal(frame(5)[1], frame(6)[1])


# Colours


def test_brightness_by_hand(monkeypatch):
    image = np.uint8([[[0, 100, 200], [255, 10, 20]]])
    fix_draws(monkeypatch, 0.0)  # factor 1 - 0.5
    np.testing.assert_allclose(
        color.brightness(image, seed_of(0), 0.5), [[[0, 50, 100], [127.5, 5, 10]]]
    )
    fix_draws(monkeypatch, 1.0)  # factor 1 + 0.5
    np.testing.assert_allclose(
        color.brightness(image, seed_of(0), 0.5), [[[0, 150, 255], [255, 15, 30]]]
    )


def test_contrast_by_hand(monkeypatch):
    # Greys 40 and 160: their mean is 100.
    image = np.uint8([[[40] * 3, [160] * 3]])
    fix_draws(monkeypatch, 0.0)  # factor 0.5
    np.testing.assert_allclose(
        color.contrast(image, seed_of(0), 0.5), [[[70] * 3, [130] * 3]], atol=0.02
    )
    fix_draws(monkeypatch, 1.0)  # factor 1.5
    np.testing.assert_allclose(
        color.contrast(image, seed_of(0), 0.5), [[[10] * 3, [190] * 3]], atol=0.02
    )
    fix_draws(monkeypatch, 0.0)  # factor 0: only the mean grey of pure red stays
    np.testing.assert_allclose(
        color.contrast(np.uint8([[[255, 0, 0]]]), seed_of(0), 1.0),
        np.full((1, 1, 3), 0.299 * 255),
        atol=0.05,
    )


def test_factors_of_brightness_and_contrast_vary_within_their_range():
    grey = np.full((1, 2, 3), 100, np.uint8)
    halves = np.uint8([[[90] * 3, [110] * 3]])
    brightness, contrast = [], []
    for number in range(40):
        brightness.append(color.brightness(grey, seed_of(number), 0.4)[0, 0, 0] / 100)
        pair = color.contrast(halves, seed_of(number), 0.4)
        contrast.append((pair[0, 1, 0] - pair[0, 0, 0]) / 20)
    for factors in (np.array(brightness), np.array(contrast)):
        assert factors.min() >= 0.6 - 1e-4 and factors.max() <= 1.4 + 1e-4
        assert factors.min() < 0.7 and factors.max() > 1.3


def test_colours_stay_in_their_range():
    image = noise(8, 8)
    for number in range(20):
        for operation in (color.brightness, color.contrast):
            changed = operation(image, seed_of(number), 1.0).numpy()
            assert changed.dtype == np.float32
            assert changed.min() >= 0.0 and changed.max() <= 255.0
            np.testing.assert_array_equal(
                changed, operation(image, seed_of(number), 1.0)
            )


def test_channel_order_is_every_permutation():
    image = np.tile(np.uint8([10, 20, 30]), (4, 5, 1))
    seen = set()
    for number in range(60):
        changed = color.channel_order(image, seed_of(number)).numpy()
        assert changed.dtype == np.uint8 and changed.shape == (4, 5, 3)
        assert (changed == changed[0, 0]).all()
        assert sorted(changed[0, 0]) == [10, 20, 30]
        seen.add(tuple(changed[0, 0]))
    assert len(seen) == 6


# Augmentations


def labels_of(*rows):
    return {
        "boxes": boxes_of(*rows),
        "classes": tf.range(len(rows)),
        "scores": tf.linspace(0.1, 0.9, len(rows)),
    }


def test_nothing_moves_without_flip_and_jitter():
    image = noise(48, 80)
    frame, labels, size = augment.flip_and_jitter(
        image,
        labels_of([1, 2, 30, 40], [0, 0, 48, 80]),
        (48, 80),
        seed_of(0),
        scale_range=(1.0, 1.0),
        flip_probability=0.0,
    )
    np.testing.assert_allclose(frame, image, atol=1e-4)
    np.testing.assert_allclose(labels["boxes"], [[1, 2, 30, 40], [0, 0, 48, 80]])
    np.testing.assert_array_equal(size, [48, 80])


def test_boxes_outside_the_frame_are_dropped_with_their_labels():
    rows = [[1, 2, 30, 40], [10, 90, 20, 99], [40, 70, 60, 99], [5, 5, 5, 9]]
    for function in (
        augment.fit,
        lambda *arguments: augment.flip_and_jitter(
            *arguments, scale_range=(1.0, 1.0), flip_probability=0.0
        ),
    ):
        _, labels, _ = function(noise(48, 80), labels_of(*rows), (48, 80), seed_of(0))
        np.testing.assert_allclose(labels["boxes"], [[1, 2, 30, 40], [40, 70, 48, 80]])
        np.testing.assert_array_equal(labels["classes"], [0, 2])
        expected = np.linspace(0.1, 0.9, 4)[[0, 2]]
        np.testing.assert_allclose(labels["scores"], expected, rtol=1e-6)


def test_flip_and_jitter_flips_always_or_never():
    image = noise(48, 80)
    for probability, expected in ((1.0, image[:, ::-1]), (0.0, image)):
        for number in range(5):
            frame, labels, _ = augment.flip_and_jitter(
                image,
                labels_of([1, 2, 30, 40]),
                (48, 80),
                seed_of(number),
                scale_range=(1.0, 1.0),
                flip_probability=probability,
            )
            np.testing.assert_allclose(frame, expected, atol=1e-4)
            sides = [40, 78] if probability else [2, 40]
            np.testing.assert_allclose(labels["boxes"][0, 1::2], sides)


def test_flip_and_jitter_moves_boxes_with_a_painted_rectangle():
    image = np.zeros((64, 96, 3), np.uint8)
    image[20:40, 30:70] = 255
    moved = set()
    for number in range(15):
        frame, labels, _ = augment.flip_and_jitter(
            image, labels_of([20, 30, 40, 70]), (64, 96), seed_of(number)
        )
        painted = frame.numpy()[:, :, 0] > 127.5
        rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
        extent = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        np.testing.assert_allclose(labels["boxes"][0], extent, atol=1.0)
        moved.add(tuple(extent))
    assert len(moved) > 8


def test_colour_strength_changes_colours_only():
    image, labels = noise(48, 80), labels_of([1, 2, 30, 40])

    def augmented(strength, number=0):
        return augment.flip_and_jitter(
            image, labels, (48, 80), seed_of(number), color_strength=strength
        )

    plain, colored = augmented(0.0), augmented(0.5)
    assert np.abs(plain[0] - colored[0]).mean() > 5.0
    np.testing.assert_array_equal(plain[1]["boxes"], colored[1]["boxes"])
    np.testing.assert_array_equal(plain[2], colored[2])
    np.testing.assert_array_equal(colored[0], augmented(0.5)[0])
    assert not np.array_equal(colored[0], augmented(0.5, 1)[0])
    assert colored[0].numpy().min() >= 0.0
    assert colored[0].numpy().max() <= 255.0 + 1e-3


def test_fit_is_the_letterbox_whatever_the_seed():
    arguments = noise(64, 96), labels_of([8, 16, 24, 40]), (48, 80)
    frame, labels, size = augment.fit(*arguments)
    np.testing.assert_array_equal(size, [48, 72])
    np.testing.assert_allclose(labels["boxes"], [[6, 12, 18, 30]], atol=1e-4)
    np.testing.assert_array_equal(frame, augment.fit(*arguments, seed=(5, 6))[0])


def test_frames_without_any_box_stay_empty():
    _, labels, _ = augment.flip_and_jitter(
        noise(64, 96), labels_of(), (48, 80), seed_of(0), color_strength=0.3
    )
    assert labels["boxes"].shape == (0, 4) and labels["classes"].shape == (0,)
