"""Geometry: images, boxes and masks are transformed together."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data.augmentation import placement
from official_selftrain.geometry import affine, letterbox

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "preprocess.npz"


def seed_of(number):
    return tf.constant([number, 1], tf.int32)


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def boxes_of(*rows):
    return tf.constant(np.float32(rows).reshape(-1, 4))


def flip(image, boxes, seed, probability=0.5):
    """Flip an image and boxes."""
    labels = placement.with_corners({"boxes": boxes}, 2)
    image, labels = placement.flip(tf.constant(image), labels, seed, probability)
    size = tf.shape(image)[:2]
    return image, placement.visible_boxes(labels["corners"], size)


def resize_and_crop(image, boxes, *arguments):
    """Resize and crop an image and boxes without dropping any box."""
    image, labels, size = placement.resize_and_crop(
        tf.constant(image), placement.with_corners({"boxes": boxes}, 2), *arguments
    )
    return image, placement.visible_boxes(labels["corners"], size), size


def fix_draws(monkeypatch, fraction, offsets=(0.0, 0.0)):
    """Fix uniform numbers at `fraction` of their range, offsets at `offsets`."""

    def fixed(shape, seed, minval=0.0, maxval=1.0):
        if shape == (2,):
            return tf.constant(offsets, tf.float32)
        return tf.fill(
            shape, tf.cast(minval + fraction * (maxval - minval), tf.float32)
        )

    monkeypatch.setattr(tf.random, "stateless_uniform", fixed)


# Flip


def test_flip_by_hand():
    image, boxes = noise(2, 4), boxes_of([0, 1, 2, 4], [1, 0, 2, 0.5])
    flipped, moved = flip(image, boxes, seed_of(0), 1.0)
    for column in range(4):
        np.testing.assert_array_equal(flipped[:, column], image[:, 3 - column])
    np.testing.assert_array_equal(moved, [[0, 0, 2, 3], [1, 3.5, 2, 4]])
    again, back = flip(flipped, moved, seed_of(0), 1.0)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back, boxes)


def test_flip_follows_its_probability():
    image, boxes = noise(3, 5), boxes_of([0, 1, 2, 3])

    def fraction(probability):
        results = [flip(image, boxes, seed_of(k), probability) for k in range(64)]
        flips = [not np.array_equal(result[0], image) for result in results]
        moves = [not np.array_equal(result[1], boxes) for result in results]
        assert flips == moves
        return np.mean(flips)

    assert fraction(0.0) == 0.0 and fraction(1.0) == 1.0
    assert 0.25 < fraction(0.5) < 0.75  # 4 standard deviations


def test_flip_without_boxes():
    flipped, moved = flip(noise(3, 5), boxes_of(), seed_of(0), 1.0)
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
    frame, boxes, size = resize_and_crop(
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
            padding, np.broadcast_to(letterbox.PAD_PIXEL, padding.shape), atol=1e-4
        )


def test_an_image_of_frame_size_is_unchanged():
    image = noise(48, 80)
    frame, _, _ = resize_and_crop(image, boxes_of(), (48, 80), seed_of(3))
    np.testing.assert_allclose(frame, image, atol=1e-4)


@pytest.mark.parametrize(
    "size", [(64, 96), (96, 64), (1, 1), (2, 3), (1, 200), (300, 2), (333, 500)]
)
def test_letterbox_agrees_with_letterbox_scale(size):
    scale = np.array(letterbox.letterbox_scale(np.array([size]), (48, 80)))[0]
    _, boxes, covered = resize_and_crop(
        noise(*size), boxes_of([0, 0, *size]), (48, 80), seed_of(0)
    )
    np.testing.assert_allclose(scale * size, covered, atol=1e-3)
    np.testing.assert_allclose(boxes[0], [0, 0, *covered], atol=1e-3)


def test_a_one_pixel_line_stays_visible():
    # 0.4 of one row would round to none.
    _, boxes, covered = resize_and_crop(
        noise(1, 200), boxes_of([0, 50, 1, 100]), (48, 80), seed_of(0)
    )
    np.testing.assert_array_equal(covered, [1, 80])
    np.testing.assert_allclose(boxes, [[0, 20, 1, 40]], atol=1e-4)


def test_crop_by_hand(monkeypatch):
    # Twice the frame, so 48 rows and 80 columns are to be cropped.
    fix_draws(monkeypatch, 0.5, offsets=(0.5, 0.25))
    ramp = np.tile(2.0 * np.arange(80.0)[None, :, None], (48, 1, 3))
    frame, boxes, size = resize_and_crop(
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
    # Column x shows the ramp at (x + 20.5) / 2 - 0.5, half-pixel centers.
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
def test_boxes_follow_painted_rectangles(size, image_size, scale_range):
    num_checked = 0
    for number in range(12):
        rng = np.random.default_rng(number)
        top, left = rng.integers(0, np.array(size) - 12)
        bottom, right = rng.integers((top, left), np.array(size) - 9) + 10
        image = np.zeros((*size, 3), np.uint8)
        image[top:bottom, left:right] = 255
        frame, boxes, covered = resize_and_crop(
            *flip(image, boxes_of([top, left, bottom, right]), seed_of(number)),
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
        num_checked += 1
    assert num_checked >= 8


def test_boxes_outside_the_image_have_no_area():
    _, boxes, _ = resize_and_crop(
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


def test_no_box_extends_into_the_padding():
    _, boxes, covered = resize_and_crop(
        noise(48, 40), boxes_of([0, 0, 60, 60]), (48, 80), seed_of(0)
    )
    np.testing.assert_array_equal(covered, [48, 40])
    np.testing.assert_allclose(boxes, [[0, 0, 48, 40]])


def test_images_without_boxes_are_resized():
    frame, boxes, _ = resize_and_crop(
        noise(10, 20), boxes_of(), (48, 80), seed_of(0), (0.8, 1.2)
    )
    assert frame.shape == (48, 80, 3) and boxes.shape == (0, 4)


def test_factors_and_offsets_cover_their_ranges():
    # The covered height of a square image is round(100 * factor), at most 100,
    # and a box of 1 pixel shows factor and offset.
    factors, offsets = [], []
    for number in range(40):
        _, boxes, size = resize_and_crop(
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
def test_boxes_match_the_authors(case, image_size, factor, monkeypatch):
    # Pixels are not compared: the authors resize without half-pixel centers.
    golden = np.load(GOLDEN)
    image, info = golden["in/image"], golden[f"{case}/info"]
    height, width = image.shape[:2]
    scaled = info[2] * (height, width)
    room = np.maximum(scaled - image_size, 1.0)
    # The crop's offset is random: draw theirs.
    fix_draws(monkeypatch, 0.5, offsets=(info[3] + 0.5) / room)
    frame, boxes, covered = resize_and_crop(
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
        return resize_and_crop(
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


# Any kind of image, masks


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_of_any_dtype_and_channels(channels, dtype):
    image = np.random.default_rng(0).uniform(0, 255, (20, 30, channels)).astype(dtype)
    flipped, _ = placement.flip(image, {}, seed_of(0), 1.0)
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    frame, _, size = placement.resize_and_crop(
        image, {}, (16, 40), seed_of(0), pad_value=7.0
    )
    assert frame.shape == (16, 40, channels) and frame.dtype == tf.float32
    np.testing.assert_array_equal(size, [16, 24])
    np.testing.assert_array_equal(frame[:, 24:], np.full((16, 16, channels), 7.0))
    (moved,) = affine.warp([image], affine.translation(5.0, -2.0), [9])
    np.testing.assert_array_equal(moved[2:, :25], image[:18, 5:])
    assert (moved[:2].numpy() == 9).all() and (moved[:, 25:].numpy() == 9).all()


def test_masks_by_hand():
    image = noise(4, 6)
    mask = np.arange(24).reshape(4, 6)
    _, labels = placement.flip(image, {"mask": mask}, seed_of(0), 1.0)
    np.testing.assert_array_equal(labels["mask"], mask[:, ::-1])
    # Twice as large: every class in four pixels, the rest unknown.
    _, labels, _ = placement.resize_and_crop(
        image, {"mask": tf.constant(mask)}, (10, 12), seed_of(0)
    )
    np.testing.assert_array_equal(
        labels["mask"][:8], np.repeat(np.repeat(mask, 2, 0), 2, 1)
    )
    assert (labels["mask"][8:].numpy() == placement.IGNORE_CLASS).all()
    # Half as large: the pixel right below the center, as tf.image.resize does it.
    _, labels, _ = placement.resize_and_crop(
        image, {"mask": tf.constant(mask)}, (2, 3), seed_of(0)
    )
    np.testing.assert_array_equal(labels["mask"], mask[1::2, 1::2])


@pytest.mark.parametrize("size", [(33, 50), (64, 48), (7, 90)])
def test_masks_are_resized_to_the_nearest_pixel(size):
    mask = np.random.default_rng(0).integers(0, 20, size)
    for number in range(5):
        frame, labels, covered = placement.resize_and_crop(
            np.repeat(mask[..., None], 3, 2).astype(np.uint8),
            {"mask": tf.constant(mask, tf.uint8)},
            (40, 56),
            seed_of(number),
            (0.7, 0.99),
        )
        height, width = covered.numpy()
        expected = tf.image.resize(mask[..., None], (height, width), "nearest")
        np.testing.assert_array_equal(labels["mask"][:height, :width], expected[..., 0])
        assert labels["mask"].dtype == tf.uint8 and labels["mask"].shape == (40, 56)


# Visible boxes


def quadrangle(*points):
    return tf.constant(np.float32(points).reshape(-1, 4, 2))


@pytest.mark.parametrize(
    "points, box",
    [
        # A diamond around (10, 10) of radius 5, all inside.
        ([(5, 10), (10, 15), (15, 10), (10, 5)], (5, 5, 15, 15)),
        # Its left half leaves through x = 0: at x = 0 it is 2 * 3 high.
        ([(5, 2), (10, 7), (15, 2), (10, -3)], (5, 0, 15, 7)),
        # Only its right corner is left: rows 8 to 12.
        ([(5, -3), (10, 2), (15, -3), (10, -8)], (8, 0, 12, 2)),
        # The image lies within it.
        ([(-90, 10), (10, 110), (110, 10), (10, -90)], (0, 0, 20, 30)),
        # It passes the image's corner without touching it.
        ([(-6, -1), (-1, -6), (-8, -9), (-9, -8)], (0, 0, 0, 0)),
        # Its box overlaps the image, itself it does not.
        ([(-5, 4), (4, -5), (3, -6), (-6, 3)], (0, 0, 0, 0)),
        # No area.
        ([(3, 3), (3, 9), (3, 9), (3, 3)], (0, 0, 0, 0)),
        ([(4, 4), (4, 4), (4, 4), (4, 4)], (0, 0, 0, 0)),
        # Upright: cut.
        ([(-4, 20), (-4, 40), (9, 40), (9, 20)], (0, 20, 9, 30)),
    ],
)
def test_visible_boxes_by_hand(points, box):
    size = (20, 30)
    np.testing.assert_allclose(
        placement.visible_boxes(quadrangle(points), size)[0], box, atol=1e-4
    )
    # The other way around, and from another corner on.
    for other in (points[::-1], points[1:] + points[:1]):
        np.testing.assert_allclose(
            placement.visible_boxes(quadrangle(other), size)[0], box, atol=1e-4
        )


def test_visible_boxes_match_sampled_points():
    rng = np.random.default_rng(0)
    size = np.array([40, 60])
    y, x = np.mgrid[0:40:0.1, 0:60:0.1] + 0.05
    checked = 0
    for _ in range(60):
        center = rng.uniform(-10, 70, 2)
        angle, sides = rng.uniform(0, 7), rng.uniform(5, 40, 2)
        turn = np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        signs = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) / 2
        points = center + (signs * sides) @ turn.T
        box = placement.visible_boxes(quadrangle(points), size)[0].numpy()
        local = np.stack([y - center[0], x - center[1]], -1) @ turn
        inside = (np.abs(local) <= sides / 2).all(-1)
        if not inside.any():
            assert (box[2:] - box[:2]).min() < 0.2
            continue
        extent = [y[inside].min(), x[inside].min(), y[inside].max(), x[inside].max()]
        np.testing.assert_allclose(box, extent, atol=0.4)
        checked += 1
    assert checked > 30


def test_boxes_are_dropped_with_their_labels_but_not_the_mask():
    labels = placement.with_corners(
        {
            "boxes": boxes_of([1, 2, 3, 4], [30, 30, 40, 40], [5, 5, 9, 99]),
            "classes": tf.constant([7, 8, 9]),
            "mask": tf.zeros((5, 5)),
        }
    )
    assert "boxes" not in labels and labels["corners"].shape == (3, 4, 2)
    assert placement.with_corners(labels) is labels
    given = labels
    labels = placement.with_boxes(given, (20, 25))
    assert list(given) == ["classes", "mask", "corners"]  # not changed itself
    np.testing.assert_allclose(labels["boxes"], [[1, 2, 3, 4], [5, 5, 9, 25]])
    np.testing.assert_array_equal(labels["classes"], [7, 9])
    assert labels["mask"].shape == (5, 5) and "corners" not in labels
    only_mask = {"mask": tf.zeros((5, 5))}
    assert placement.with_boxes(placement.with_corners(only_mask), (5, 5)) == only_mask


# Moves


def test_corners_move_like_pixels():
    # One bright pixel; its square's corners must end up around it.
    size = (40, 60)
    for move in (
        affine.translation(7.0, -3.0),
        affine.rotation(90.0, (40, 40)),
        affine.rotation(180.0, size),
        affine.shear(0.5, 0.0),
        affine.shear(0.0, -0.25),
        affine.rotation(180.0, size) @ affine.translation(4.0, 5.0),
    ):
        image = np.zeros((*size, 1), np.uint8)
        image[16:18, 20:22] = 255
        (moved,) = affine.warp([image], move, [0])
        rows, columns = np.nonzero(moved.numpy()[..., 0])
        corners = placement.with_corners({"boxes": boxes_of([16, 20, 18, 22])})
        box = placement.visible_boxes(
            affine.move_corners(corners["corners"], move), size
        )[0].numpy()
        extent = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(box, extent, atol=0.76)


def test_moves_are_composed_in_order():
    image = noise(21, 33)
    first, second = affine.translation(4.0, 2.0), affine.rotation(180.0, (21, 33))
    (step,) = affine.warp([image], first, [0])
    (steps,) = affine.warp([step], second, [0])
    (once,) = affine.warp([image], first @ second, [0])
    np.testing.assert_array_equal(once, steps)
    (other,) = affine.warp([image], second @ first, [0])
    assert not np.array_equal(other, steps)


def test_rotation_is_counter_clockwise_and_exact_at_right_angles():
    image = noise(9, 9)
    for quarter in range(4):
        (moved,) = affine.warp([image], affine.rotation(90.0 * quarter, (9, 9)), [0])
        np.testing.assert_array_equal(moved, np.rot90(image, quarter))


def test_one_pixel_images_can_be_rotated():
    # 0.49999997 + 0.5 is 1 in float32, which is outside of one pixel.
    for size in ((2, 1), (1, 2), (1, 1), (3, 1)):
        for degrees in np.linspace(-180, 180, 97):
            image = np.full((*size, 3), 200, np.uint8)
            (moved,) = affine.warp([image], affine.rotation(degrees, size), [128])
            assert set(np.unique(moved)) <= {128, 200}


def test_scale_and_offset_are_independent():
    factors, offsets = [], []
    for number in range(60):
        _, boxes, _ = resize_and_crop(
            np.zeros((50, 50, 3), np.uint8),
            boxes_of([20, 20, 21, 21]),
            (50, 50),
            seed_of(number),
            (1.2, 2.0),
        )
        factor = float(boxes[0, 2] - boxes[0, 0])
        if factor > 0.0:
            factors.append(factor)
            room = 50 * factor - 50
            offsets.append((20 * factor - float(boxes[0, 0])) / room)
    assert len(factors) > 20
    assert abs(np.corrcoef(factors, offsets)[0, 1]) < 0.75
