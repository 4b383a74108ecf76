"""AutoAugment and RandAugment: sampling, and consistent moves of images and labels."""

import collections
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.data.augmentation import color, operations, placement, policies
from official_selftrain.geometry import affine

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "augment.npz")
SIZE = (64, 48)
BOXES = GOLDEN["in/boxes"] * np.float32([*SIZE, *SIZE])


def seed_of(number):
    return tf.constant([number, 1], tf.int32)


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def corners_of(boxes):
    return placement.with_corners({"boxes": tf.constant(np.float32(boxes))})["corners"]


# The authors' operations


def published_boxes(name, magnitude, sign):
    """Return boxes by the authors' rules: whole pixels, clipped around the corners."""
    height, width = SIZE
    golden = []
    for box in GOLDEN["in/boxes"]:
        ymin, xmin, ymax, xmax = (box * [height, width, height, width]).astype(int)
        if name == "rotate":
            # About the center, y upwards.
            angle = np.deg2rad(3 * sign * magnitude)
            corners = np.array(
                [
                    (-int(height * (y - 0.5)), int(width * (x - 0.5)))
                    for y in box[::2]
                    for x in box[1::2]
                ]
            )
            turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
            corners = (corners @ np.array(turn).T).astype(int)
            moved = [
                -corners[:, 0].max() + height / 2,
                corners[:, 1].min() + width / 2,
                -corners[:, 0].min() + height / 2,
                corners[:, 1].max() + width / 2,
            ]
        elif name.startswith("translate"):
            shift = sign * 4 * magnitude
            rows, columns = (shift, 0) if name == "translate_y" else (0, shift)
            moved = [ymin - rows, xmin - columns, ymax - rows, xmax - columns]
        else:
            level = 0.03 * sign * magnitude
            y, x = np.array([ymin, ymin, ymax, ymax]), np.array([xmin, xmax] * 2)
            if name == "shear_x":
                x = (x - level * y).astype(int)
            else:
                y = (y - level * x).astype(int)
            moved = [y.min(), x.min(), y.max(), x.max()]
        golden.append(np.clip(moved, 0, [height, width] * 2))
    return np.float32(golden)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0, 2, 5, 8, 10])
@pytest.mark.parametrize(
    "key, name",
    [
        ("rotate", "Rotate"),
        ("shear_x", "ShearX"),
        ("shear_y", "ShearY"),
        ("translate_x", "TranslateX"),
        ("translate_y", "TranslateY"),
    ],
)
def test_moves_match_the_authors(key, name, magnitude, sign):
    move = operations.MOVES[name](sign * float(magnitude), SIZE, 40.0)
    (moved,) = affine.warp([GOLDEN["in/image"]], move, [128])
    case = f"{key}/m{magnitude}{'p' if sign > 0 else 'n'}"
    np.testing.assert_array_equal(moved, GOLDEN[f"{case}/image"])

    # Boxes: theirs are rounded to whole pixels before and after, ours are exact.
    theirs = GOLDEN[f"{case}/boxes"] * np.float32([*SIZE, *SIZE])
    by_rule = published_boxes(key, magnitude, sign)
    seen = ((by_rule[:, 2:] - by_rule[:, :2]) > 0).all(axis=1)
    np.testing.assert_allclose(by_rule[seen], theirs[seen], atol=1.01)
    corners = affine.move_corners(corners_of(BOXES), move).numpy()
    around = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    around = np.clip(around, 0, [*SIZE, *SIZE])
    np.testing.assert_allclose(around[seen], theirs[seen], atol=2.0)
    # If nothing is left of a box, they keep a strip of 5 %; ours drop it.
    boxes = placement.visible_boxes(tf.constant(corners), SIZE).numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    gone = ((around[:, 2:] - around[:, :2]) == 0).any(axis=1)
    assert (sides[gone].min(axis=1) == 0).all()
    kept = theirs[gone]
    assert ((kept[:, 2:] - kept[:, :2]) > 0).all()


def inclusive_boxes():
    labels = {"corners": corners_of(BOXES)}
    return operations._pixel_boxes(labels, tf.constant(SIZE, tf.float32))


@pytest.mark.parametrize(
    "name, operation",
    [
        ("rotate", lambda size: affine.rotation(18.0, size)),
        ("shear_x", lambda size: affine.shear(0.18, 0.0)),
        ("shear_y", lambda size: affine.shear(0.0, -0.18)),
        ("translate_x", lambda size: affine.translation(6.0, 0.0)),
        ("translate_y", lambda size: affine.translation(0.0, -5.0)),
        ("flip", lambda content: tf.reverse(content, [1])),
        ("solarize", lambda content: color.solarize(content, 100)),
        ("equalize", color.equalize),
    ],
)
def test_contents_of_boxes_match_the_authors(name, operation):
    def change(contents, seed):
        if name in ("flip", "solarize", "equalize"):
            return [operation(contents[0])]
        return affine.warp(contents, operation(tf.shape(contents[0])[:2]), [128])

    boxes = inclusive_boxes()
    np.testing.assert_array_equal(boxes, GOLDEN_PIXELS)
    image = tf.constant(GOLDEN["in/image"])
    (changed,) = operations.within_boxes([image], boxes, change, seed_of(0), 1.0)
    np.testing.assert_array_equal(changed, GOLDEN[f"only_bboxes/{name}/image"])


# Boxes 3.2 to 25.6 by 4.8 to 21.6 and so on: first and last pixel.
GOLDEN_PIXELS = [[3, 4, 25, 21], [32, 26, 60, 43], [35, 2, 51, 19], [0, 24, 28, 47]]


@pytest.mark.parametrize(
    "name, center, half",
    [
        ("c20_30_p8", (20, 30), 8),
        ("c2_45_p10", (2, 45), 10),
        ("c63_0_p16", (63, 0), 16),
    ],
)
def test_cutout_matches_the_authors(name, center, half):
    image = tf.constant(GOLDEN["in/image"])
    changed = operations.cutout(image, tf.constant(center), half)
    np.testing.assert_array_equal(changed, GOLDEN[f"cutout/{name}/image"])


@pytest.mark.parametrize(
    "name, box, center, fraction",
    [("b0_c10_12_f75", 0, (10, 12), 0.75), ("b1_c58_40_f30", 1, (58, 40), 0.3)],
)
def test_box_cutout_matches_the_authors(name, box, center, fraction, monkeypatch):
    boxes = inclusive_boxes()[box : box + 1]
    monkeypatch.setattr(
        operations, "_pixel", lambda seed, size: tf.constant(center) - boxes[0, :2]
    )
    changed = operations._box_cutout(
        tf.constant(GOLDEN["in/image"]), boxes, seed_of(0), fraction
    )
    np.testing.assert_array_equal(changed, GOLDEN[f"bbox_cutout/{name}/image"])


# Policies


def test_v0_by_hand():
    assert policies.AUTOAUGMENT["v0"] == (
        (("TranslateX", 0.6, 4.0), ("Equalize", 0.8, 10.0)),
        (("TranslateY_Only_BBoxes", 0.2, 2.0), ("Cutout", 0.8, 8.0)),
        (("Sharpness", 0.0, 8.0), ("ShearX", 0.4, 0.0)),
        (("ShearY", 1.0, 2.0), ("TranslateY_Only_BBoxes", 0.6, 6.0)),
        (("Rotate", 0.6, 10.0), ("Color", 1.0, 6.0)),
    )


@pytest.mark.parametrize(
    "name, count, lengths, sums",
    [
        # Sums of all probabilities and of all magnitudes, added up from the list.
        ("v0", 5, {2}, (6.0, 56.0)),
        ("v1", 20, {2}, (21.8, 250.0)),
        ("v2", 15, {2, 3}, (21.8, 272.0)),
        ("v3", 15, {2}, (18.6, 198.0)),
    ],
)
def test_published_policies(name, count, lengths, sums):
    policy = policies.AUTOAUGMENT[name]
    assert len(policy) == count and set(map(len, policy)) == lengths
    steps = [step for steps in policy for step in steps]
    assert {step[0] for step in steps} <= set(operations.OPERATIONS)
    np.testing.assert_allclose(
        [sum(s[1] for s in steps), sum(s[2] for s in steps)], sums
    )
    if name == "v1":
        assert policy[:5] == policies.AUTOAUGMENT["v0"]


def test_randaugment_has_17_operations():
    assert sorted(policies.RANDAUGMENT) == sorted(
        "Identity AutoContrast Equalize Invert Posterize Solarize SolarizeAdd Color "
        "Contrast Brightness Sharpness Cutout Rotate ShearX ShearY TranslateX "
        "TranslateY".split()
    )


ARGUMENTS = [
    # Operation, magnitude, the argument by the published rule.
    ("Posterize", 10, color.posterize, 4),
    ("Posterize", 7, color.posterize, 2),
    ("Posterize", 15, color.posterize, 6),
    ("Solarize", 4, color.solarize, 102),
    ("Solarize", 8, color.solarize, 204),
    ("SolarizeAdd", 4, color.solarize_add, 44),
    ("SolarizeAdd", 15, color.solarize_add, 165),
    ("Color", 6, color.color, 1.18),
    ("Contrast", 10, color.contrast, 1.9),
    ("Brightness", 2, color.brightness, 0.46),
    ("Sharpness", 8, color.sharpness, 1.54),
]


@pytest.mark.parametrize("name, magnitude, function, argument", ARGUMENTS)
def test_arguments_at_a_magnitude(name, magnitude, function, argument):
    image = tf.constant(noise(31, 40))
    changed, _ = policies.rand_augment(
        image, {}, seed_of(0), 1, float(magnitude), [name]
    )
    np.testing.assert_array_equal(changed, function(image, tf.constant(argument)))


def run(name, image, number, magnitude=10.0, **settings):
    """Run one operation on an image, the corners of a box and a mask of columns."""
    height, width = image.shape[:2]
    labels = {
        "corners": corners_of([[2, 3, height - 2, width - 3]]),
        "mask": tf.tile(tf.range(width)[None], [height, 1]) % 200,
    }
    return policies.rand_augment(
        image, labels, seed_of(number), 1, magnitude, [name], **settings
    )


@pytest.mark.parametrize(
    "name, magnitude, move",
    [
        ("Rotate", 10, lambda sign: affine.rotation(30.0 * sign, (40, 60))),
        ("Rotate", 15, lambda sign: affine.rotation(45.0 * sign, (40, 60))),
        ("ShearX", 8, lambda sign: affine.shear(0.24 * sign, 0.0)),
        ("ShearY", 2, lambda sign: affine.shear(0.0, 0.06 * sign)),
        ("TranslateX", 1, lambda sign: affine.translation(25.0 * sign, 0.0)),
        ("TranslateY", 0.5, lambda sign: affine.translation(0.0, 12.0 * sign)),
    ],
)
def test_moves_apply_to_image_corners_and_mask(name, magnitude, move):
    image = noise(40, 60)
    signs = collections.Counter()
    for number in range(12):
        moved, labels = run(name, image, number, float(magnitude))
        for sign in (1.0, -1.0):
            expected, mask = affine.warp(
                [image, np.tile(np.arange(60, dtype=np.int32), (40, 1))],
                move(sign),
                [placement.FILL_PIXEL, placement.IGNORE_CLASS],
            )
            if np.array_equal(moved, expected):
                signs[sign] += 1
                np.testing.assert_array_equal(labels["mask"], mask)
                corners = affine.move_corners(corners_of([[2, 3, 38, 57]]), move(sign))
                np.testing.assert_allclose(labels["corners"], corners, atol=1e-3)
    assert signs[1.0] + signs[-1.0] == 12 and min(signs.values()) >= 2


def test_two_moves_are_composed():
    # 30 degrees twice: a box around a box around would be a third too large.
    image, corners = noise(60, 60), corners_of([[25, 20, 35, 40]])
    policy = [[("Rotate", 1.0, 10.0), ("Rotate", 1.0, 10.0)]]
    seen = set()
    for number in range(12):
        moved, labels = policies.auto_augment(
            image, {"corners": corners}, seed_of(number), policy
        )
        matches = [
            degrees
            for degrees in (-60.0, 0.0, 60.0)
            if np.abs(
                labels["corners"]
                - affine.move_corners(corners, affine.rotation(degrees, (60, 60)))
            ).max()
            < 1e-3
        ]
        (degrees,) = matches
        (expected,) = affine.warp([image], affine.rotation(degrees, (60, 60)), [128])
        # The product of two matrices rounds differently at a few pixels.
        assert np.mean(moved.numpy() != expected.numpy()) < 0.01
        seen.add(degrees)
    assert seen == {-60.0, 0.0, 60.0}


def test_opposite_shifts_lose_no_content():
    image = noise(20, 40)
    policy = [[("TranslateX", 1.0, 1.0), ("TranslateX", 1.0, 1.0)]]
    shifts = set()
    for number in range(16):
        moved, labels = policies.auto_augment(image, {}, seed_of(number), policy)
        if np.array_equal(moved, image):
            shifts.add(0)
        else:
            assert (moved.numpy() == placement.FILL_PIXEL).all()
            shifts.add(50)
        assert labels == {}
    assert shifts == {0, 50}


@pytest.mark.parametrize(
    "name", [*operations.PIXELS, "Cutout", "BBox_Cutout", "Solarize_Only_BBoxes"]
)
def test_pixel_operations_keep_corners_and_masks(name):
    image = noise(40, 60)
    for number in range(3):
        changed, labels = run(name, image, number)
        assert changed.dtype == tf.uint8 and changed.shape == (40, 60, 3)
        np.testing.assert_array_equal(labels["corners"], corners_of([[2, 3, 38, 57]]))
        np.testing.assert_array_equal(labels["mask"], np.tile(np.arange(60), (40, 1)))


@pytest.mark.parametrize("name", operations.WITHIN_BOXES)
def test_operations_within_boxes_change_nothing_else(name):
    image = noise(50, 70)
    mask = tf.random.stateless_uniform((50, 70), (0, 1), 0, 20, tf.int32)
    corners = corners_of([[10.5, 20.5, 30.2, 50.9], [0, 0, 50, 10]])
    labels = {"corners": corners, "mask": mask, "ignore": tf.constant([False, True])}
    changes = 0
    for number in range(30):
        changed, after = policies.rand_augment(
            image, labels, seed_of(number), 1, 8.0, [name + "_Only_BBoxes"]
        )
        np.testing.assert_array_equal(after["corners"], corners)
        different = (changed.numpy() != image).any(-1)
        moved = after["mask"].numpy() != mask.numpy()
        outside = np.ones((50, 70), bool)
        outside[10:31, 20:51] = False
        assert not (different | moved)[outside].any()
        changes += different.any()
        if name in operations.MOVES and different.any():
            # Filled pixels of the image are unknown pixels of the mask.
            unknown = after["mask"].numpy() == placement.IGNORE_CLASS
            assert unknown.any() and (changed.numpy()[unknown] == 128).all()
        assert moved.any() == (
            different.any() and (name in operations.MOVES or name == "Flip")
        )
    # A third of 30, within 3 standard deviations.
    assert 3 <= changes <= 17


def test_operations_within_boxes_need_boxes():
    image = noise(20, 30)
    names = [name for name in operations.OPERATIONS if "Box" in name]
    assert len(names) == 10
    for labels in ({}, {"corners": tf.zeros((0, 4, 2))}):
        for name in names:
            for number in range(4):
                changed, _ = policies.rand_augment(
                    image, labels, seed_of(number), 1, 10.0, [name]
                )
                np.testing.assert_array_equal(changed, image)


def test_cutout_covers_a_square_around_any_pixel():
    image = np.zeros((60, 80, 3), np.uint8)
    centers = []
    for number in range(60):
        changed, _ = policies.rand_augment(
            image, {}, seed_of(number), 1, 1.0, ["Cutout"]
        )
        rows, columns = np.nonzero(changed.numpy()[..., 0])
        assert (changed.numpy()[rows, columns] == placement.FILL_PIXEL).all()
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        # 20 x 20, minus what lies outside the image.
        assert 10 <= height <= 20 and 10 <= width <= 20
        assert len(rows) == height * width
        if height == width == 20:
            centers.append((rows.min() + 10, columns.min() + 10))
    centers = np.array(centers)
    assert len(centers) > 15 and (np.ptp(centers, axis=0) > (20, 30)).all()


def test_pixels_are_scaled_to_the_reference():
    def shift(size, **settings):
        image = np.full((*size, 3), 7, np.uint8)
        moved, _ = policies.rand_augment(
            image, {}, seed_of(0), 1, 4.0, ["TranslateX"], **settings
        )
        return int((moved.numpy()[0, :, 0] == placement.FILL_PIXEL).sum())

    def square(size, **settings):
        image = np.full((*size, 3), 7, np.uint8)
        areas = []
        for number in range(20):
            changed, _ = policies.rand_augment(
                image, {}, seed_of(number), 1, 8.0, ["Cutout"], **settings
            )
            areas.append((changed.numpy()[..., 0] == placement.FILL_PIXEL).sum())
        return max(areas)

    # 25 * 4 = 100 pixels of 640, 160 of 640 for the square.
    assert shift((480, 640)) == shift((480, 640), reference_size=640) == 100
    assert shift((72, 96), reference_size=640) == 15
    assert shift((96, 72), reference_size=640) == 15
    assert shift((72, 96)) == 96
    assert square((480, 640)) == 160 * 160
    assert square((72, 96), reference_size=640) == 24 * 24


def test_probabilities_zero_and_one():
    image = noise(8, 9)
    for number in range(20):
        never, _ = policies.auto_augment(
            image, {}, seed_of(number), [[("Invert", 0.0, 5.0)]]
        )
        always, _ = policies.auto_augment(
            image, {}, seed_of(number), [[("Invert", 1.0, 5.0)]]
        )
        np.testing.assert_array_equal(never, image)
        np.testing.assert_array_equal(always, 255 - image)


def drawn_operations(count, function):
    """Return how often each of four operations was applied."""
    image = tf.constant(np.uint8([[[10, 20, 40], [90, 160, 200]]]))
    results = {
        name: bytes(operations.PIXELS[name](image, 6.0).numpy().tobytes())
        for name in ("Identity", "Invert", "Posterize", "Brightness")
    }
    assert len(set(results.values())) == 4
    names = {value: name for name, value in results.items()}
    stream = tf.data.Dataset.range(count).map(
        lambda k: function(image, {}, tf.stack([tf.cast(k, tf.int32), 7]))[0]
    )
    return collections.Counter(
        names.get(changed.tobytes(), "other") for changed in stream.as_numpy_iterator()
    )


def test_operations_are_sampled_uniformly():
    counts = drawn_operations(
        1200,
        lambda *arguments: policies.rand_augment(
            *arguments, 1, 6.0, ["Identity", "Invert", "Posterize", "Brightness"]
        ),
    )
    # 300 each, standard deviation 15.
    assert sum(counts.values()) == 1200 and counts["other"] == 0
    assert all(240 <= count <= 360 for count in counts.values())


def test_sampling_of_sub_policies_and_their_steps():
    policy = [
        [("Invert", 1.0, 6.0)],
        [("Posterize", 0.5, 6.0)],
        [("Brightness", 0.25, 6.0), ("Invert", 0.0, 6.0)],
    ]
    counts = drawn_operations(
        1200, lambda *arguments: policies.auto_augment(*arguments, policy)
    )
    assert counts["other"] == 0
    # Expected 400, 200, 100, 500; standard deviations 16, 13, 10, 17.
    assert abs(counts["Invert"] - 400) < 66
    assert abs(counts["Posterize"] - 200) < 52
    assert abs(counts["Brightness"] - 100) < 40
    assert abs(counts["Identity"] - 500) < 70


def test_operations_run_in_sequence():
    image = tf.constant(np.uint8([[[10, 20, 40], [90, 160, 200]]]))
    steps = [("Invert", 1.0, 0.0), ("Posterize", 1.0, 3.0), ("SolarizeAdd", 1.0, 2.0)]
    changed, _ = policies.auto_augment(image, {}, seed_of(0), [steps])
    expected = color.solarize_add(color.posterize(255 - image, 1), 22)
    np.testing.assert_array_equal(changed, expected)
    # N operations with replacement: an even number of inversions is none.
    for count, expected in ((0, image), (1, 255 - image), (2, image), (3, 255 - image)):
        changed, _ = policies.rand_augment(
            image, {}, seed_of(0), count, 5.0, ["Invert"]
        )
        np.testing.assert_array_equal(changed, expected)


def test_float_images_are_rounded_first():
    image = np.float32([[[10.4, 20.6, -3.0], [254.7, 255.0, 300.0]]])
    changed, _ = policies.rand_augment(image, {}, seed_of(0), 1, 5.0, ["Invert"])
    np.testing.assert_array_equal(changed, [[[245, 234, 255], [0, 0, 0]]])


@pytest.mark.parametrize(
    "settings, text",
    [
        (
            {"policy": "v4"},
            r"policy to be one of v0, v1, v2, v3 .*Received: policy='v4'",
        ),
        (
            {"policy": [[("Rotat", 0.5, 3.0)]]},
            r"operation to be one of .*nearest: Rotate\)\. Received: operation='Rotat'",
        ),
        (
            {"policy": [[("Rotate", 1.5, 3.0)]]},
            r"probability in 0\.\.\.1\. Received: Rotate with probability=1\.5",
        ),
        (
            {"policy": [[("Rotate", 0.5, -1.0)]]},
            r"magnitude in 0\.\.\.100\. Received: Rotate with magnitude=-1\.0",
        ),
        ({"policy": [[("Rotate", 0.5)]]}, r"steps of \(operation.*\('Rotate', 0\.5\)"),
        ({"policy": []}, r"at least one operation\. Received: \[\]"),
        ({"reference_size": 0}, "reference_size of more than 0 or None.*=0"),
        ({"reference_size": "640"}, "reference_size of more than 0 or None.*='640'"),
    ],
)
def test_invalid_autoaugment_raises(settings, text):
    with pytest.raises(ValueError, match=text):
        policies.auto_augment(noise(4, 4), {}, seed_of(0), **settings)


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"num_operations": -1}, "an integer of at least 0.*num_operations=-1"),
        ({"num_operations": 1.5}, "an integer of at least 0.*num_operations=1.5"),
        ({"magnitude": -2.0}, "magnitude in 0...100.*magnitude=-2.0"),
        ({"operations": ["Blur"]}, "operation to be one of Identity.*operation='Blur'"),
        ({"operations": []}, "at least one operation"),
        ({"operations": "Rotate"}, "a sequence of operations.*operations='Rotate'"),
        ({"num_operations": True}, "an integer of at least 0.*num_operations=True"),
        ({"magnitude": "15"}, "magnitude in 0...100.*magnitude='15'"),
        ({"magnitude": float("inf")}, "magnitude in 0...100.*magnitude=inf"),
    ],
)
def test_invalid_randaugment_raises(settings, text):
    with pytest.raises(ValueError, match=text):
        policies.rand_augment(noise(4, 4), {}, seed_of(0), **settings)
    with pytest.raises(ValueError, match=text):
        policies.RandAugment(**settings)


def chance(count, function):
    """Run a function of seeds in one graph and return the results."""
    stream = tf.data.Dataset.range(count).map(
        lambda k: function(tf.stack([tf.cast(k, tf.int32), 3]))
    )
    return np.array(list(stream.as_numpy_iterator()))


def test_signs_and_probabilities_are_independent():
    # Content moves by 25 pixels to either side; 0 where the step isn't applied.
    image = tf.constant(np.tile(np.arange(100, dtype=np.uint8)[:, None], (1, 3))[None])

    def shift(seed):
        policy = [[("TranslateX", 0.6, 1.0)], [("TranslateX", 0.6, 1.0)]]
        changed, _ = policies.auto_augment(image, {}, seed, policy)
        return tf.cast(changed[0, 50, 0], tf.int32) - 50

    shifts = chance(400, shift)
    assert set(shifts) == {-25, 0, 25}
    # 240 of 400 applied (standard deviation 10), half of them to each side (8).
    assert abs((shifts != 0).sum() - 240) < 45
    assert abs((shifts > 0).sum() - (shifts < 0).sum()) < 70


def test_signs_are_independent_of_sub_policies():
    image = tf.constant(np.tile(np.arange(100, dtype=np.uint8)[:, None], (1, 3))[None])
    policy = [[("TranslateX", 1.0, 1.0)], [("TranslateX", 1.0, 0.4)]]

    def shift(seed):
        changed, _ = policies.auto_augment(image, {}, seed, policy)
        return tf.cast(changed[0, 50, 0], tf.int32) - 50

    counts = collections.Counter(chance(400, shift))
    # 100 each, standard deviation 9.
    assert set(counts) == {-25, -10, 10, 25}
    assert all(60 < count < 140 for count in counts.values())


def boxes_changed(name, count, magnitude=8.0, size=(64, 96), **settings):
    """Return which of two boxes an operation changed, and the resulting image."""
    image = tf.constant(noise(*size))
    corners = corners_of([[8.5, 8.5, 40.5, 40.5], [8.5, 50.5, 40.5, 90.5]])

    def run_once(seed):
        changed, _ = policies.rand_augment(
            image, {"corners": corners}, seed, 1, magnitude, [name], **settings
        )
        different = tf.reduce_any(changed != image, axis=-1)
        halves = tf.stack([different[:, :45], different[:, 45:90]])
        return tf.reduce_any(halves, axis=(1, 2))

    return chance(count, run_once)


def test_boxes_change_independently_with_a_third_of_the_probability():
    changed = boxes_changed("Solarize_Only_BBoxes", 400)
    # 133 of 400 each (standard deviation 9), both 44 (6).
    assert all(abs(count - 133) < 45 for count in changed.sum(axis=0))
    assert abs(changed.all(axis=1).sum() - 44) < 30


def test_box_cutout_samples_any_box():
    changed = boxes_changed("BBox_Cutout", 100, magnitude=1.0)
    assert (changed.sum(axis=1) == 1).all()
    assert 25 < changed[:, 0].sum() < 75


@pytest.mark.parametrize(
    "name, size, reference_size, extent",
    [
        # 12 pixels per magnitude within boxes: 24 at 2, the rest is moved in.
        ("TranslateY_Only_BBoxes", (96, 96), None, 24),
        ("TranslateX_Only_BBoxes", (96, 96), None, 24),
        # As strong on a third of the size.
        ("TranslateY_Only_BBoxes", (96, 96), 288, 8),
        # A square of twice 5 pixels per magnitude.
        ("Cutout_Only_BBoxes", (96, 96), None, 20),
        ("Cutout_Only_BBoxes", (96, 96), 192, 10),
        # 0.075 per magnitude of the box's 80 pixels, half to either side.
        ("BBox_Cutout", (96, 96), None, 12),
    ],
)
def test_pixels_within_boxes(name, size, reference_size, extent):
    image = np.full((*size, 3), 7, np.uint8)
    corners = corners_of([[8.0, 8.0, 87.5, 87.5]])
    extents = set()
    for number in range(40):
        changed, _ = policies.rand_augment(
            image,
            {"corners": corners},
            seed_of(number),
            1,
            2.0,
            [name],
            reference_size=reference_size,
        )
        filled = changed.numpy()[..., 0] == placement.FILL_PIXEL
        if filled.any():
            rows, columns = filled.any(1).sum(), filled.any(0).sum()
            extents.add(int(min(rows, columns)))
    # Cut-outs may leave the image or the box; never are they larger.
    assert max(extents) == extent


# Of the published lists: operation to (how often, sum of probabilities, sum of
# magnitudes), the second step of a sub-policy counted twice, the third three times.
COUNTED = {
    "v1": {
        "TranslateX": (2, 1.0, 8.0),
        "Equalize": (3, 4.2, 34.0),
        "TranslateY_Only_BBoxes": (6, 4.2, 58.0),
        "Cutout": (2, 1.8, 18.0),
        "Sharpness": (4, 1.8, 32.0),
        "ShearX": (2, 1.0, 6.0),
        "ShearY": (2, 1.6, 12.0),
        "Rotate": (4, 4.0, 48.0),
        "Color": (5, 4.2, 36.0),
        "ShearX_Only_BBoxes": (1, 1.6, 8.0),
        "ShearY_Only_BBoxes": (1, 0.8, 2.0),
        "Flip_Only_BBoxes": (1, 0.0, 20.0),
        "Contrast": (1, 0.0, 20.0),
        "Brightness": (2, 3.2, 40.0),
        "Cutout_Only_BBoxes": (1, 0.4, 6.0),
        "SolarizeAdd": (2, 1.4, 16.0),
        "Equalize_Only_BBoxes": (1, 1.2, 16.0),
    },
    "v2": {
        "Color": (3, 3.8, 22.0),
        "Cutout": (5, 3.4, 54.0),
        "Sharpness": (2, 2.0, 28.0),
        "Rotate": (6, 7.6, 90.0),
        "TranslateY": (5, 3.6, 34.0),
        "AutoContrast": (4, 4.6, 14.0),
        "ShearX": (1, 1.6, 16.0),
        "Brightness": (4, 3.0, 60.0),
        "SolarizeAdd": (3, 1.2, 52.0),
        "Contrast": (2, 1.0, 30.0),
        "Solarize": (3, 2.4, 58.0),
        "Equalize": (3, 3.0, 40.0),
        "ShearY": (2, 3.4, 40.0),
        "BBox_Cutout": (1, 2.0, 8.0),
    },
    "v3": {
        "Posterize": (2, 1.4, 4.0),
        "TranslateX": (1, 2.0, 16.0),
        "BBox_Cutout": (1, 0.2, 10.0),
        "Sharpness": (2, 2.0, 18.0),
        "Rotate": (5, 5.2, 70.0),
        "Equalize": (4, 3.4, 38.0),
        "AutoContrast": (3, 1.8, 30.0),
        "SolarizeAdd": (2, 1.0, 8.0),
        "TranslateY": (3, 4.4, 44.0),
        "Color": (1, 0.8, 16.0),
        "Cutout": (2, 3.6, 40.0),
        "Brightness": (1, 1.0, 2.0),
        "Contrast": (2, 0.4, 22.0),
        "ShearY": (1, 1.6, 0.0),
    },
}


def test_contents_of_published_policies():
    def counted(name):
        actual = collections.defaultdict(lambda: [0, 0.0, 0.0])
        for steps in policies.AUTOAUGMENT[name]:
            for position, (operation, probability, magnitude) in enumerate(steps):
                entry = actual[operation]
                entry[0] += 1
                entry[1] += probability * (position + 1)
                entry[2] += magnitude * (position + 1)
        return {key: tuple(np.round(value, 6)) for key, value in actual.items()}

    for name, expected in COUNTED.items():
        assert counted(name) == expected
