"""Augment-S1 to S4 as a whole: geometry, sampling and invariants."""

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data import examples, pipeline
from official_selftrain.data.augmentation import (
    augment,
    color,
    operations,
    placement,
    policies,
)
from official_selftrain.data.augmentation.policies import RandAugment

MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def seed_of(number):
    return tf.constant([number, 1], tf.int32)


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def labels_of(*rows):
    return {
        "boxes": tf.constant(np.float32(rows).reshape(-1, 4)),
        "classes": tf.range(len(rows)),
        "scores": tf.linspace(0.1, 0.9, len(rows)),
    }


# Flip and jitter


def test_nothing_changes_without_flip_and_jitter():
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


def test_color_strength_only_changes_colors():
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


def test_fit_is_the_letterbox_for_any_seed():
    arguments = noise(64, 96), labels_of([8, 16, 24, 40]), (48, 80)
    frame, labels, size = augment.fit(*arguments)
    np.testing.assert_array_equal(size, [48, 72])
    np.testing.assert_allclose(labels["boxes"], [[6, 12, 18, 30]], atol=1e-4)
    np.testing.assert_array_equal(frame, augment.fit(*arguments, seed=(5, 6))[0])


def test_images_without_boxes():
    _, labels, _ = augment.flip_and_jitter(
        noise(64, 96), labels_of(), (48, 80), seed_of(0), color_strength=0.3
    )
    assert labels["boxes"].shape == (0, 4) and labels["classes"].shape == (0,)


def test_color_jitter_varies_within_its_range(monkeypatch):
    factors = {"contrast": [], "brightness": []}
    for name, drawn in factors.items():
        original = getattr(color, name)

        def spy(image, factor, original=original, drawn=drawn):
            drawn.append(float(factor))
            return original(image, factor)

        monkeypatch.setattr(color, name, spy)
    for number in range(40):
        frame, _, _ = augment.flip_and_jitter(
            noise(8, 8), {}, (8, 8), seed_of(number), color_strength=0.4
        )
        assert frame.numpy().min() >= 0.0 and frame.numpy().max() <= 255.0
    for drawn in map(np.array, factors.values()):
        assert drawn.min() >= 0.6 - 1e-4 and drawn.max() <= 1.4 + 1e-4
        assert drawn.min() < 0.7 and drawn.max() > 1.3
    assert abs(np.corrcoef(*factors.values())[0, 1]) < 0.6


# S1 to S4: a painted rectangle is where its box says


def iou(first, second):
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    common = np.prod(np.maximum(high - low, 0.0))
    areas = [np.prod(box[2:] - box[:2]) for box in (first, second)]
    return common / (sum(areas) - common)


def extent(visible):
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def traced(function, image_size):
    """Trace an augmentation once for images of any size."""
    labels = {
        "boxes": tf.TensorSpec((None, 4), tf.float32),
        "mask": tf.TensorSpec((None, None), tf.int32),
        "ignore": tf.TensorSpec((None,), tf.bool),
    }
    signature = (
        tf.TensorSpec((None, None, 3), tf.uint8),
        labels,
        tf.TensorSpec((2,), tf.int32),
    )
    return tf.function(
        lambda image, labels, seed: function(image, labels, image_size, seed),
        input_signature=signature,
    )


# Whole pipelines whose pixels show the rectangle again: operations that move.
MOVING = {
    "S1": augment.s1,
    **{
        name: functools.partial(
            augment.s2, policy=[[(name, 1.0, 10.0)]], scale_range=(1.0, 1.0)
        )
        for name in MOVES
    },
    "S2": functools.partial(
        augment.s2, policy=[[("Rotate", 0.6, 10.0), ("ShearX", 0.8, 8.0)]]
    ),
    "S3": functools.partial(
        augment.s3, policy=[[("TranslateY", 0.8, 2.0), ("ShearY", 1.0, 10.0)]]
    ),
    "S4": functools.partial(augment.s4, rand_augment=RandAugment(operations=MOVES)),
    "S4, N = 3": functools.partial(
        augment.s4, rand_augment=RandAugment(3, operations=MOVES)
    ),
}
SIZES = [(64, 64), (65, 99), (127, 101), (333, 500), (480, 640), (1024, 1023)]


@pytest.mark.parametrize("name", MOVING)
def test_boxes_follow_painted_rectangles(name):
    function = MOVING[name]
    settings = {} if name == "S1" else {"reference_size": 640}

    run = traced(functools.partial(function, **settings), (512, 640))

    worst, num_checked = 1.0, 0
    for number in range(24):
        height, width = SIZES[number % len(SIZES)]
        rng = np.random.default_rng(number)
        top, left = rng.integers(0, (height // 2, width // 2))
        bottom, right = top + height // 2, left + width // 2
        image = np.zeros((height, width, 3), np.uint8)
        image[top:bottom, left:right] = 255
        mask = (image[..., 0] // 255).astype(np.int32)
        labels = {
            "boxes": tf.constant([[top, left, bottom, right]], tf.float32),
            "mask": tf.constant(mask),
            "ignore": tf.constant([False]),
        }
        frame, labels, covered = run(tf.constant(image), labels, seed_of(number))
        if not len(labels["boxes"]):
            assert not (labels["mask"].numpy() == 1).any()
            continue
        box = labels["boxes"].numpy()[0]
        if (box[2:] - box[:2]).min() < 40.0:
            continue
        painted = frame.numpy()[:, :, 0] > 192.0  # padding and fill have 128 at most
        in_mask = labels["mask"].numpy() == 1
        for shape in (painted, in_mask):
            worst = min(worst, iou(box, extent(shape)))
        # Mask and image move together, but for interpolation at the edges.
        both = (painted & in_mask).sum() / (painted | in_mask).sum()
        assert both > 0.95
        labeled = labels["mask"].numpy() != placement.IGNORE_CLASS
        outside = np.ones((512, 640), bool)
        outside[: covered[0], : covered[1]] = False
        assert not (labeled & outside).any()
        num_checked += 1
    assert num_checked >= 12 and worst >= 0.9, (num_checked, worst)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("s2", {}),
        ("s2", {"policy": "v1"}),
        ("s3", {"policy": "v2"}),
        ("s3", {"policy": "v3"}),
        ("s4", {}),
        ("s4", {"rand_augment": RandAugment(3, 15.0)}),
    ],
)
def test_boxes_follow_masks(name, settings):
    function = functools.partial(getattr(augment, name), reference_size=640, **settings)

    run = traced(function, (320, 320))

    worst, num_checked, changed = 1.0, 0, 0
    for number in range(40):
        height, width = SIZES[number % 5]
        rng = np.random.default_rng(number)
        top, left = rng.integers(0, (height // 2, width // 2))
        bottom, right = top + height // 2, left + width // 2
        mask = np.zeros((height, width), np.int32)
        mask[top:bottom, left:right] = 1
        labels = {
            "boxes": tf.constant([[top, left, bottom, right]], tf.float32),
            "mask": tf.constant(mask),
            # Operations within boxes leave ignored ones alone.
            "ignore": tf.constant([True]),
        }
        image = noise(height, width)
        _, labels, _ = run(tf.constant(image), labels, seed_of(number))
        in_mask = labels["mask"].numpy() == 1
        if not len(labels["boxes"]):
            assert not in_mask.any()
            continue
        box = labels["boxes"].numpy()[0]
        if (box[2:] - box[:2]).min() < 40.0:
            continue
        worst = min(worst, iou(box, extent(in_mask)))
        filled = in_mask.sum() / np.prod(box[2:] - box[:2])
        changed += filled < 0.95  # turned or sheared
        num_checked += 1
    assert num_checked >= 20 and changed >= 2 and worst >= 0.9, (
        num_checked,
        changed,
        worst,
    )


def test_s2_is_the_policy_followed_by_s1():
    image, labels = noise(60, 80), labels_of([10, 20, 40, 60])
    seeds = tf.unstack(tf.random.split(seed_of(3), 2))
    changed, moved = policies.auto_augment(
        image, placement.with_corners(labels), seeds[0], "v3"
    )
    expected = augment.s1(changed, moved, (64, 64), seeds[1])
    actual = augment.s2(image, labels, (64, 64), seed_of(3), policy="v3")
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_allclose(actual[1]["boxes"], expected[1]["boxes"], atol=1e-4)


@pytest.mark.parametrize(
    "name, low, high",
    [("s1", 0.8, 1.2), ("s2", 0.8, 1.2), ("s3", 0.5, 2), ("s4", 0.5, 2)],
)
def test_scales_and_flips_match_the_paper(name, low, high):
    settings = {
        "s2": {"policy": [[("Identity", 1.0, 0.0)]]},
        "s3": {"policy": [[("Identity", 1.0, 0.0)]]},
        "s4": {"rand_augment": RandAugment(operations=("Identity",))},
    }
    function = getattr(augment, name)
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50] = 250
    factors, flips = [], 0
    for number in range(60):
        frame, labels, _ = function(
            image,
            labels_of([49, 49, 51, 51]),
            (200, 200),
            seed_of(number),
            **settings.get(name, {}),
        )
        ymin, _, ymax, _ = labels["boxes"].numpy()[0]
        factors.append((ymax - ymin) / 4)
        flips += frame.numpy()[0, 0, 0] < 100
    assert low - 0.01 <= min(factors) < low + 0.15 * (high - low)
    assert high + 0.01 >= max(factors) > high - 0.15 * (high - low)
    assert 15 <= flips <= 45  # 4 standard deviations


# Invariants


def draws(count, images):
    """Yield images of 1 x 1 to 1500 x 900 with 0 to 100 boxes, some degenerate."""

    def generate():
        rng = np.random.default_rng(0)
        for number in range(count):
            height = int(np.exp(rng.uniform(0, np.log(900.99))))
            width = int(np.exp(rng.uniform(0, np.log(1500.99))))
            if number == 0:
                height, width = 900, 1500
            top, left = rng.integers(0, (901 - height, 1501 - width))
            boxes = rng.uniform(-0.2, 1.2, (rng.integers(0, 101), 4))
            kind = rng.integers(0, 6, len(boxes))
            ordered = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
            boxes = np.where((kind > 0)[:, None], ordered, boxes)  # 0: any order
            boxes[kind == 1, 2] = boxes[kind == 1, 0]  # a line
            boxes[kind == 2, 2:] = boxes[kind == 2, :2]  # a point
            boxes = boxes * [height, width, height, width]
            yield images[top : top + height, left : left + width], boxes, number

    return tf.data.Dataset.from_generator(
        generate,
        output_signature=(
            tf.TensorSpec((None, None, 3), tf.uint8),
            tf.TensorSpec((None, 4), tf.float32),
            tf.TensorSpec((), tf.int32),
        ),
    )


@pytest.mark.parametrize(
    "function",
    [
        augment.s1,
        functools.partial(augment.s2, policy="v1"),
        functools.partial(augment.s3, policy="v2", reference_size=640),
        functools.partial(augment.s3, policy="v3"),
        functools.partial(
            augment.s4,
            rand_augment=RandAugment(2, operations=tuple(operations.OPERATIONS)),
        ),
    ],
    ids=["S1", "S2 v1", "S3 v2", "S3 v3", "S4 with every operation"],
)
def test_2000_random_draws_are_valid(function):
    frame_size = (96, 128)

    def run(image, boxes, number):
        labels = {
            "boxes": boxes,
            "ignore": tf.range(tf.shape(boxes)[0]) % 7 == 0,
            "mask": tf.cast(image[..., 0], tf.int32) % 20,
        }
        frame, labels, size = function(image, labels, frame_size, [number, 5])
        return {
            "boxes": labels["boxes"],
            "rows": tf.shape(labels["ignore"])[0],
            "size": size,
            "range": tf.stack([tf.reduce_min(frame), tf.reduce_max(frame)]),
            "finite": tf.reduce_all(tf.math.is_finite(frame)),
            "mask": tf.unique(tf.reshape(labels["mask"], [-1])).y,
        }

    seen = 0
    stream = draws(2000, noise(900, 1500)).map(run, tf.data.AUTOTUNE)
    for result in stream.as_numpy_iterator():
        boxes, size = result["boxes"], result["size"]
        assert result["finite"] and np.isfinite(boxes).all()
        assert -1e-3 <= result["range"][0] and result["range"][1] <= 255.0 + 1e-3
        assert (1 <= size).all() and (size <= frame_size).all()
        assert (boxes >= 0.0).all() and (boxes[:, 2:] <= size).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and len(boxes) == result["rows"]
        assert set(result["mask"]) <= {*range(20), placement.IGNORE_CLASS}
        seen += 1
    assert seen == 2000


# The stream


def source(count=12):
    images = [noise(24 + number, 30, number) for number in range(count)]
    records = [
        {
            "id": number,
            "encoded": tf.io.encode_png(image).numpy(),
            # No box in every third image.
            "boxes": np.float32([[0.2, 0.2, 0.7, 0.8]])[: int(number % 3 > 0)],
            "classes": np.zeros(int(number % 3 > 0), np.int32),
            "scores": np.ones(int(number % 3 > 0), np.float32),
            "ignore": np.zeros(int(number % 3 > 0), bool),
            "areas": np.zeros(int(number % 3 > 0), np.float32),
        }
        for number, image in enumerate(images)
    ]
    return examples.from_records(records, ["object"])


S4 = functools.partial(
    augment.s4,
    rand_augment=RandAugment(
        2, operations=("Rotate", "TranslateX", "Cutout", "Brightness", "Invert")
    ),
    reference_size=640,
)


@functools.cache
def traced_stream(seed, **settings):
    """Return the stream of S4, traced once."""
    return pipeline.training_batches(source(), 4, (32, 32), S4, seed, **settings)


def batches(count, threads=None, **settings):
    dataset = traced_stream(**settings)
    if threads:
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.autotune.cpu_budget = threads
        dataset = dataset.with_options(options)
    return list(dataset.take(count).as_numpy_iterator())


def test_one_seed_reproduces_the_stream_for_any_parallelism():
    expected = batches(9, threads=1, seed=5)
    for other in (batches(9, threads=8, seed=5), batches(9, seed=5)):
        for first, second in zip(expected, other):
            assert sorted(first) == sorted(second)
            for key in first:
                np.testing.assert_array_equal(first[key], second[key])
    # From the middle on, too.
    later = batches(4, seed=5, start_step=5)
    for first, second in zip(expected[5:], later):
        np.testing.assert_array_equal(first["images"], second["images"])
    assert not np.array_equal(expected[0]["images"], batches(1, seed=6)[0]["images"])


def test_augmentation_differs_in_every_epoch():
    frames = collections.defaultdict(list)
    for batch in batches(9, seed=5):  # 3 epochs of 12
        assert batch["images"].shape == (4, 32, 32, 3)
        for number, frame in zip(batch["ids"], batch["images"]):
            frames[number].append(frame.tobytes())
    assert sorted(map(len, frames.values())) == [3] * 12
    assert all(len(set(versions)) == 3 for versions in frames.values())


def test_images_without_boxes_are_kept_in_the_stream():
    far = functools.partial(
        augment.s2, policy=[[("TranslateX", 1.0, 10.0)]], scale_range=(1.0, 1.0)
    )
    moved = pipeline.training_batches(source(), 4, (32, 32), far, seed=2)
    for dataset, without in ((traced_stream(5), 4), (moved, 12)):
        (images, boxes) = (0, 0)
        for batch in dataset.take(3).as_numpy_iterator():
            has_box = (batch["classes"] >= 0).any(axis=1)
            np.testing.assert_array_equal(has_box, (batch["boxes"] > 0).any((1, 2)))
            images += len(has_box)
            boxes += has_box.sum()
        # Some of the 8 images with a box may lose it; the 4 others never have one.
        assert images == 12 and boxes <= 12 - without


def test_batches_have_static_shapes():
    # One operation stands for all: what follows it gives the frame its shape.
    policy = [[("Rotate", 1.0, 10.0)]]
    for function in (
        augment.s1,
        functools.partial(augment.s2, policy=policy),
        functools.partial(augment.s3, policy=policy),
        functools.partial(augment.s4, rand_augment=RandAugment(operations=MOVES)),
    ):
        spec = pipeline.training_batches(source(), 4, (32, 40), function).element_spec
        assert spec["images"].shape == (4, 32, 40, 3)
        most = source().most_boxes
        assert spec["boxes"].shape == (4, most, 4)
        assert spec["sizes"].shape == (4, 2) and spec["classes"].shape == (4, most)
    frame, labels, size = augment.s4(
        noise(20, 30), {"mask": tf.zeros((20, 30), tf.int32)}, (32, 40), seed_of(0)
    )
    assert labels["mask"].shape == (32, 40) and labels["mask"].dtype == tf.int32


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"scale_range": (2.0, 0.5)}, r"minimum, maximum.*scale_range=\(2.0, 0.5\)"),
        ({"scale_range": (0.0, 0.0)}, r"above 0.*scale_range=\(0.0, 0.0\)"),
        ({"flip_probability": 5.0}, "in 0...1.*flip_probability=5.0"),
    ],
)
def test_invalid_ranges_raise(settings, text):
    with pytest.raises(ValueError, match=text):
        augment.s4(noise(4, 4), {}, (8, 8), seed_of(0), **settings)


def test_invalid_settings_raise_a_one_line_error_in_a_dataset():
    function = functools.partial(augment.s2, policy="v9")
    with pytest.raises(
        ValueError, match="^Expected policy to be one of v0, v1, v2, v3 "
    ):
        pipeline.training_batches(source(), 4, (32, 32), function)
