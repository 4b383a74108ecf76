"""The embedded scenes: seeds, pools, boxes, classes and masks."""

import numpy as np
import pytest

from official_selftrain.data import examples
from official_selftrain.data.sources import digits


def test_scenes_are_reproducible():
    first = digits.compose("labeled", 4, seed=3)
    for scene, again in zip(first, digits.compose("labeled", 4, seed=3)):
        for part, part_again in zip(scene, again):
            np.testing.assert_array_equal(part, part_again)
    for scene, other in zip(first, digits.compose("labeled", 4, seed=4)):
        assert (scene[0] != other[0]).mean() > 0.5


def test_a_scene_does_not_depend_on_the_number_of_scenes():
    for scene, again in zip(
        digits.compose("test", 2, seed=1), digits.compose("test", 5, seed=1)
    ):
        np.testing.assert_array_equal(scene[0], again[0])


def test_pools_show_different_scenes():
    scenes = [digits.compose(pool, 1)[0][0] for pool in digits.POOLS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (scenes[one] != scenes[other]).mean() > 0.5


@pytest.mark.parametrize(
    "num_classes, total, test, labeled",
    # scikit-learn has 901 digits below 5 and 1,797 in all; 28 % are for tests.
    [(5, 901, 252, 300), (10, 1797, 503, 300), (1, 178, 50, 64)],
)
def test_pools_share_no_digit(num_classes, total, test, labeled):
    pools = {
        pool: digits._pool_digits(pool, 0, num_classes)[0] for pool in digits.POOLS
    }
    scans = {pool: {scan.tobytes() for scan in pools[pool]} for pool in pools}
    assert len(pools["test"]) == test and len(pools["labeled"]) == labeled
    assert sum(map(len, pools.values())) == total
    # All scans differ, so bytes identify a scan.
    assert sum(map(len, scans.values())) == total
    assert len(set.union(*scans.values())) == total


def test_digits_belong_to_the_requested_classes():
    for num_classes in (1, 3):
        _, labels = digits._pool_digits("unlabeled", 0, num_classes)
        assert sorted(set(labels)) == list(range(num_classes))


@pytest.mark.parametrize("pool", digits.POOLS)
def test_test_scenes_show_other_columns_of_the_photographs(pool, monkeypatch):
    photograph = np.zeros((200, 400, 3), np.uint8)
    photograph[:, 240:260] = 120  # the gap from 60 to 65 %
    photograph[:, 260:] = 240
    monkeypatch.setattr(digits.datasets, "load_sample_image", lambda _: photograph)
    original, backgrounds = digits._background, []

    def recorded(*arguments):
        backgrounds.append(original(*arguments))
        return backgrounds[-1].copy()

    monkeypatch.setattr(digits, "_background", recorded)
    digits.compose(pool, 12)
    assert len(backgrounds) == 12
    for background in backgrounds:
        assert background.shape == (64, 64, 3)
        assert np.ptp(background) < 1e-3
        # Darkened to 35 to 75 %.
        low, high = (84, 180) if pool == "test" else (0, 0)
        assert low <= background.mean() <= high


def test_a_single_digit_fills_its_box():
    classes_seen = set()
    for image, boxes, classes, mask in digits.compose("labeled", 20, max_digits=1):
        assert boxes.shape == (1, 4) and classes.shape == (1,)
        assert image.dtype == np.uint8 and image.shape == (64, 64, 3)
        rows, columns = np.nonzero(mask)
        tight = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_array_equal(boxes[0], tight)
        assert set(np.unique(mask)) == {0, classes[0] + 1}
        classes_seen.add(int(classes[0]))
    assert len(classes_seen) >= 3


def test_boxes_and_classes_of_several_digits_match_the_ink():
    scenes = digits.compose("unlabeled", 30, seed=2, num_classes=10, max_digits=4)
    for _, boxes, classes, mask in scenes:
        uncovered = mask.copy()
        for box, label in zip(boxes.astype(int), classes):
            ink = mask[box[0] : box[2], box[1] : box[3]] == label + 1
            # Ink of the digit's class touches each of the four sides.
            assert ink[0].any() and ink[-1].any()
            assert ink[:, 0].any() and ink[:, -1].any()
            if list(classes).count(label) == 1:
                assert ink.sum() == (mask == label + 1).sum()
            uncovered[box[0] : box[2], box[1] : box[3]] = 0
        assert not uncovered.any()
        assert set(np.unique(mask)) - {0} == set(classes + 1)
    numbers = [len(scene[1]) for scene in scenes]
    assert set(numbers) == {1, 2, 3, 4}


def test_ink_is_brighter_than_its_surroundings():
    differences = [
        image[mask > 0].mean() - image[mask == 0].mean()
        for image, _, _, mask in digits.compose("labeled", 10)
    ]
    assert min(differences) > 0.0 and np.mean(differences) > 50.0


def test_digits_have_the_requested_heights():
    scenes = digits.compose("test", 40, image_size=(80, 100), digit_height=(20, 30))
    boxes = np.concatenate([scene[1] for scene in scenes])
    heights, widths = (boxes[:, 2:] - boxes[:, :2]).T
    # Ink can be a little less than the scan, the scan 0.75 to 1.1 times as wide.
    assert heights.max() <= 30 and heights.min() >= 20 * 6 / 8
    assert heights.max() > 27 and heights.min() < 23
    assert widths.max() <= 33
    assert boxes.min() >= 0 and (boxes[:, 2:] <= [80, 100]).all()


def test_a_scene_has_at_least_one_digit_of_image_size():
    for _, boxes, _, _ in digits.compose(
        "labeled", 30, image_size=(24, 24), digit_height=(24, 24)
    ):
        assert len(boxes) == 1


def test_scenes_match_the_composed_arrays():
    source = digits.scenes("labeled", 3, seed=5, image_size=(48, 64))
    composed = digits.compose("labeled", 3, seed=5, image_size=(48, 64))
    assert source.class_names == ("0", "1", "2", "3", "4")
    assert source.num_images == 3 and source.has_labels
    actual = list(source.dataset)
    assert [int(example["id"]) for example in actual] == [0, 1, 2]
    for example, (image, boxes, classes, _) in zip(actual, composed):
        np.testing.assert_array_equal(examples.read_image(example), image)
        pixels = example["boxes"] * [48.0, 64.0, 48.0, 64.0]
        np.testing.assert_allclose(pixels, boxes, atol=1e-4)
        np.testing.assert_array_equal(example["classes"], classes)
        np.testing.assert_array_equal(example["scores"], np.ones(len(boxes)))
        assert not example["ignore"].numpy().any()
        sides = boxes[:, 2:] - boxes[:, :2]
        np.testing.assert_array_equal(example["areas"], sides.prod(axis=1))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"pool": "train"},
            "Expected pool to be one of labeled, unlabeled, test. "
            "Received: pool='train'",
        ),
        (
            {"num_classes": 0},
            "Expected num_classes of 1 to 10. Received: num_classes=0",
        ),
        (
            {"num_classes": 11},
            "Expected num_classes of 1 to 10. Received: num_classes=11",
        ),
        (
            {"max_digits": 0},
            "Expected max_digits of at least 1. Received: max_digits=0",
        ),
        (
            {"digit_height": (7, 9)},
            "Expected 8 <= min <= max digit_height <= image_size. "
            "Received: digit_height=(7, 9), image_size=(64, 64)",
        ),
        (
            {"digit_height": (20, 14)},
            "Expected 8 <= min <= max digit_height <= image_size. "
            "Received: digit_height=(20, 14), image_size=(64, 64)",
        ),
        (
            {"digit_height": (14, 26), "image_size": (64, 25)},
            "Expected 8 <= min <= max digit_height <= image_size. "
            "Received: digit_height=(14, 26), image_size=(64, 25)",
        ),
    ],
)
def test_values_out_of_range_raise(arguments, message):
    arguments = {"pool": "test", "num_images": 1, **arguments}
    for function in (digits.scenes, digits.compose):
        with pytest.raises(ValueError) as error:
            function(**arguments)
        assert str(error.value) == message
