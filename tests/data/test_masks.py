"""Masks: PNGs, thresholds by hand, TFRecord and the pipeline."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official_selftrain.data import (
    examples,
    images,
    masks,
    pipeline,
    problems,
    sources,
)
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits

RNG = np.random.default_rng(0)


def png_of(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def source_of(*pairs, size=(3, 4), names=("background", "a", "b")):
    """Return a source of masks, with confidences if given."""
    image = masks.encode(np.zeros(size, np.uint8))
    return examples.from_records(
        [
            {
                "encoded": image,
                "id": index,
                "mask": masks.encode(mask),
                "confidence": b"" if sure is None else masks.encode(sure),
            }
            for index, (mask, sure) in enumerate(pairs)
        ],
        names,
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 3)])
def test_round_trip_through_png_and_tfrecord(size, tmp_path):
    mask = RNG.integers(0, 256, size).astype(np.uint8)
    sure = RNG.integers(0, 256, size).astype(np.uint8)
    np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)
    record = {"path": "a.jpg", "id": 7}
    record |= {"mask": masks.encode(mask), "confidence": masks.encode(sure)}
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(examples.serialize(record, *size))
    source = sources.tfrecord(
        str(tmp_path / "a.tfrecord"), ["background", "a"], has_masks=True
    )
    (example,) = source.dataset
    np.testing.assert_array_equal(masks.decode(example["mask"]), mask)
    np.testing.assert_array_equal(masks.decode(example["confidence"]), sure)
    assert example["id"] == 7 and example["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "png",
    [
        png_of(Image.fromarray(np.zeros((2, 2), np.uint8)).convert("P")),
        png_of(Image.fromarray(np.zeros((2, 2, 3), np.uint8))),
        png_of(Image.fromarray(np.zeros((2, 2), np.uint16))),
        png_of(Image.fromarray(np.zeros((2, 2), np.uint8)).convert("1")),
        b"",
        b"no PNG at all",
    ],
    ids=["palette", "colors", "16 bits", "1 bit", "empty", "text"],
)
def test_unsupported_pngs_raise(png):
    with pytest.raises(tf.errors.InvalidArgumentError, match="one 8-bit gray channel"):
        masks.decode(tf.constant(png))


def test_threshold_by_hand():
    """127.5 lies between 127 and 128, so a threshold of 0.5 is exact."""
    mask = np.array([[0, 1, 2, 1]], np.uint8)
    probabilities = np.array([[0.4999, 0.5, 0.7, 0.2]])
    sure = np.round(255 * probabilities).astype(np.uint8)
    assert sure.tolist() == [[127, 128, 178, 51]]
    kept = {t: masks.confident(mask, sure, t).numpy().tolist() for t in (0, 0.5, 0.7)}
    assert kept == {
        0: [[0, 1, 2, 1]],
        0.5: [[255, 1, 2, 255]],
        0.7: [[255, 255, 255, 255]],  # 178 < 178.5: within 1 / 510
    }


def test_threshold_drops_pixels_and_images():
    mask = np.array([[1, 1, 0, 0], [2, 2, 0, 0], [2, 2, 0, 0]], np.uint8)
    sure = np.full((3, 4), 255, np.uint8)
    sure[0] = 100
    half = source_of((mask, sure), (mask, np.full((3, 4), 90, np.uint8)), (mask, sure))
    kept = examples.apply_threshold(half, 0.5)
    assert kept.num_images == 2 and kept.has_masks
    expected = mask.copy()
    expected[0] = 255
    actual = list(kept.dataset)
    assert [int(example["id"]) for example in actual] == [0, 2]
    for example in actual:
        np.testing.assert_array_equal(masks.decode(example["mask"]), expected)
    # Human-labeled masks, without a confidence, are unchanged.
    human = source_of((expected, None))
    (example,) = examples.apply_threshold(human, 1.0).dataset
    np.testing.assert_array_equal(masks.decode(example["mask"]), expected)
    # Another threshold needs no other labels.
    assert examples.apply_threshold(half, 0.3).num_images == 3
    with pytest.raises(ValueError, match=r"score_threshold=1.0. Received: none in 1"):
        examples.apply_threshold(source_of((mask, sure * 0)), 1.0)


@pytest.mark.parametrize("ending", ["P", "L"])
def test_files_are_read_as_class_ids(ending, tmp_path):
    mask = RNG.integers(0, 3, (5, 6)).astype(np.uint8)
    mask[0] = 255
    image = Image.fromarray(mask)
    if ending == "P":
        image = Image.new("P", (6, 5))
        image.putpalette(RNG.integers(0, 256, 768).tolist())
        image.putdata(mask.ravel().tolist())
    image.save(tmp_path / "a.png")
    read = masks.read_file(tmp_path / "a.png", 3, images.Header((5, 6)))
    np.testing.assert_array_equal(masks.decode(read.png), mask)
    assert read.ids == {0, 1, 2, 255} and read.unknown == {}


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "I;16"])
def test_values_and_colors_of_other_tools(mode, tmp_path):
    """White objects on black, or colors, instead of class ids."""
    mask = RNG.integers(0, 2, (5, 6)).astype(np.uint8)
    values, image = {0: 0, 255: 1}, Image.fromarray(255 * mask)
    if mode == "1":
        values, image = None, image.convert("1")
    elif mode == "P":
        values = {0: 0, 9: 1}
        image = Image.fromarray(9 * mask).convert("P")
        image.putdata((9 * mask).ravel().tolist())
    elif mode == "RGB":
        values = {(0, 0, 0): 0, (7, 0, 250): 1}
        image = Image.fromarray(mask[..., None] * np.array([7, 0, 250], np.uint8))
    elif mode == "I;16":
        values, image = {0: 0, 4000: 1}, Image.fromarray(mask.astype(np.uint16) * 4000)
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    read = masks.read_file(tmp_path / "a.png", 2, images.Header((5, 6)), values)
    np.testing.assert_array_equal(masks.decode(read.png), mask)
    assert read.ids == {0, 1}


@pytest.mark.parametrize("values", [{}, {"0": 0}, {(1, 2): 0}, {0: "a"}, [0, 1]])
def test_mappings_of_another_form(values, tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="to class ids. Received: mask_values="):
        masks.read_file(tmp_path / "a.png", 2, images.Header((4, 6)), values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({0: 0, 9: 1}, "values 0, 9 of mask_values. Received: .*a.png with 7"),
        ({(0, 0, 0): 0}, r"values \(0, 0, 0\) of .*a.png with \(7, 7, 7\)"),
        ({0: 0, 7: 2}, "ids of 0 to 1, or 255 for unknown, .*mask_values. Received: 2"),
        ({0: 0, 7: -1}, "in mask_values. Received: -1"),
    ],
)
def test_values_that_are_not_mapped(values, text, tmp_path):
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=text):
        masks.read_file(tmp_path / "a.png", 2, images.Header((4, 6)), values)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((5, 6), np.uint8), r"size, \(4, 6\).*a.png of \(5, 6\)"),
        (
            np.zeros((4, 6, 3), np.uint8),
            "in mask_values. .*a.png of mode RGB",
        ),
        (None, "Expected a mask. Received: .*a.png"),
    ],
)
def test_invalid_mask_files_are_named(image, text, tmp_path):
    path = tmp_path / "a.png"
    if image is None:
        path.write_bytes(b"text")
    else:
        Image.fromarray(image).save(path)
    with pytest.raises(ValueError, match=text):
        masks.read_file(path, 3, images.Header((4, 6)))
    with pytest.raises(FileNotFoundError, match="Expected a mask. Received: .*b.png"):
        masks.read_file(tmp_path / "b.png", 3, images.Header((4, 6)))


@pytest.mark.parametrize("mode", ["L", "I;16", "I"])
def test_values_outside_the_classes_are_unknown_and_counted(mode, tmp_path):
    """Of 3 classes: 3 and 7, 300 in 16 bits and -1 in 32 are none; 255 is declared."""
    values = np.array([[0, 1, 2, 3], [7, 7, 255, 0]], np.int32)
    unknown = {3: 1, 7: 2}
    expected = [[0, 1, 2, 255], [255, 255, 255, 0]]
    if mode != "L":
        values[0, 0] = 300 if mode == "I;16" else -1
        unknown = {int(values[0, 0]): 1, **unknown}
        expected[0][0] = 255
    kind = {"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]
    image = Image.fromarray(values.astype(kind))
    assert image.mode == mode
    image.save(tmp_path / "a", "TIFF")
    read = masks.read_file(tmp_path / "a", 3, images.Header((2, 4)))
    assert masks.decode(read.png).numpy().tolist() == expected
    assert (read.ids, read.unknown) == ({0, 1, 2, 255}, unknown)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (5, [[0, 3], [1, 4], [2, 5]]),  # along the other diagonal
        (6, [[3, 0], [4, 1], [5, 2]]),  # a quarter turn clockwise
        (7, [[5, 2], [4, 1], [3, 0]]),
        (8, [[2, 5], [1, 4], [0, 3]]),  # a quarter turn counterclockwise
    ],
)
def test_masks_of_stored_pixels_are_turned_with_their_image(number, expected, tmp_path):
    header = images.Header((2, 3), number)
    assert header.size == (3, 2)
    for name, mask, is_turned in (
        ("stored.png", [[0, 1, 2], [3, 4, 5]], True),
        ("upright.png", expected, False),
    ):
        Image.fromarray(np.array(mask, np.uint8)).save(tmp_path / name)
        read = masks.read_file(tmp_path / name, 6, header)
        assert masks.decode(read.png).numpy().tolist() == expected
        assert read.is_turned == is_turned
    Image.fromarray(np.zeros((2, 4), np.uint8)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"size, \(3, 2\) .*other.png of \(2, 4\)"):
        masks.read_file(tmp_path / "other.png", 6, header)


@pytest.mark.parametrize(("size", "number"), [((2, 3), 3), ((2, 2), 6)])
def test_masks_of_the_same_size_either_way_are_upright(size, number, tmp_path):
    mask = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)
    Image.fromarray(mask).save(tmp_path / "a.png")
    read = masks.read_file(tmp_path / "a.png", 6, images.Header(size, number))
    np.testing.assert_array_equal(masks.decode(read.png), mask)
    assert not read.is_turned


def test_values_outside_the_classes_stay_as_they_are_in_a_batch():
    """The loss and the metric take them as unknown, and count them."""
    mask = np.array([[0, 1, 9, 255], [1, 3, 2, 0]], np.uint8)
    source = source_of((mask, None), size=(2, 4))
    (batch,) = pipeline.evaluation_batches(source, 1, (2, 4))
    np.testing.assert_array_equal(batch["mask"], [mask])
    for name in ("fit", "s1", "s2", "s3", "s4"):
        augmented = getattr(augment, name)
        batches = pipeline.training_batches(source, 1, (8, 16), augmented)
        for batch in batches.take(3):
            assert set(np.unique(batch["mask"])) <= {0, 1, 2, 3, 9, 255}


def test_batches_contain_masks_of_frame_size():
    """A 2 x 4 image in an 8 x 8 frame: doubled, with the lower half padded."""
    mask = np.array([[0, 1, 2, 255], [1, 1, 2, 0]], np.uint8)
    source = source_of((mask, None), size=(2, 4))
    (batch,) = pipeline.evaluation_batches(source, 2, (8, 8))
    expected = np.full((8, 8), 255)
    expected[:4] = mask.repeat(2, 0).repeat(2, 1)
    assert batch["mask"].dtype == tf.int32
    np.testing.assert_array_equal(batch["mask"], [expected])
    assert set(batch) == {"images", "sizes", "ids", "mask"}
    assert batch["sizes"].numpy().tolist() == [[2, 4]]

    same = pipeline.training_batches(source, 1, (8, 8), augment.fit)
    (batch,) = same.take(1)
    np.testing.assert_array_equal(batch["mask"], [expected])
    assert set(batch) == {"images", "sizes", "ids", "mask"}


@pytest.mark.parametrize("name", ["s1", "s2", "s3", "s4"])
def test_augmented_masks_move_with_the_image(name):
    """Ink is paler than its surroundings, before and after."""
    source = digits.scenes("labeled", 4, 0, (64, 64), has_masks=True)
    batches = pipeline.training_batches(source, 4, (64, 64), getattr(augment, name))
    for batch in batches.take(3):
        assert set(np.unique(batch["mask"])) <= {*range(6), 255}
        assert (batch["mask"].numpy() > 0).any()
    if name == "s1":
        brightness = batch["images"].numpy().mean(-1)
        mask = batch["mask"].numpy()
        ink = (mask > 0) & (mask < 255)
        assert brightness[ink].mean() > brightness[mask == 0].mean() + 30


def test_scenes_have_masks_of_their_ink():
    source = digits.scenes("test", 2, 3, (32, 48), has_masks=True)
    assert source.has_masks and source.class_names == ("background", *"01234")
    for example, (_, _, classes, mask) in zip(
        source.dataset, digits.compose("test", 2, 3, (32, 48)), strict=True
    ):
        np.testing.assert_array_equal(masks.decode(example["mask"]), mask)
        assert set(np.unique(mask)) == {0, *(classes + 1)}


def test_mismatched_masks_are_named():
    good = np.zeros((3, 4), np.uint8)
    wrong_size = source_of((good, None), (good.T, None))
    (line,) = problems.unreadable_images(wrong_size)
    assert line == "id 1: Expected a mask of its image's size 3, 4 Received: 4, 3"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    photo = io.BytesIO()
    Image.fromarray(np.zeros((4, 3), np.uint8)).save(photo, "JPEG", exif=exif)
    record = {"encoded": photo.getvalue(), "id": 2, "mask": masks.encode(good.T)}
    (line,) = problems.unreadable_images(examples.from_records([record], "abc"))
    assert line == (
        "id 2: Expected a mask of its image's size 3, 4 Received: 4, 3 (the photograph "
        "is shown rotated, as its EXIF data says: rotate its mask, too)"
    )
    assert problems.unreadable_images(source_of((good + 3, None))) == []
    assert problems.unreadable_images(source_of((good + 255, None))) == []


def test_an_image_without_a_mask_is_fully_ignored():
    record = {"encoded": masks.encode(np.zeros((3, 4), np.uint8)), "id": 0}
    source = dataclasses.replace(examples.from_records([record], "ab"), has_masks=True)
    (batch,) = pipeline.evaluation_batches(source, 1, (4, 4))
    assert (batch["mask"].numpy() == 255).all()
