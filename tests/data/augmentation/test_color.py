"""Color operations: by hand, and compared with the authors' and Pillow's."""

import pathlib

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from official_selftrain.data.augmentation import color, operations

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "augment.npz")
MAGNITUDES = (0, 2, 5, 8, 10)


def photograph(height=60, width=81):
    image = sklearn.datasets.load_sample_image("flower.jpg")
    return image[100 : 100 + 3 * height : 3, 200 : 200 + 3 * width : 3].copy()


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


# The authors' operations


@pytest.mark.parametrize(
    "name, magnitude",
    [
        (name, magnitude)
        for name in (
            *("Color", "Brightness", "Sharpness"),
            *("Posterize", "Solarize", "SolarizeAdd"),
        )
        for magnitude in MAGNITUDES
        if (name, magnitude) != ("Solarize", 10)  # corrected, see below
    ],
)
def test_pixels_match_the_authors(name, magnitude):
    key = "solarize_add" if name == "SolarizeAdd" else name.lower()
    image = tf.constant(GOLDEN["in/image"])
    changed = operations.PIXELS[name](image, float(magnitude))
    assert changed.dtype == tf.uint8
    np.testing.assert_array_equal(changed, GOLDEN[f"{key}/m{magnitude}/image"])


def test_tables_match_the_authors():
    image = tf.constant(GOLDEN["in/image"])
    for name, changed in (
        ("solarize/t128", color.solarize(image, 128)),
        ("equalize", color.equalize(image)),
        ("autocontrast", color.autocontrast(image)),
        ("invert", color.invert(image)),
    ):
        np.testing.assert_array_equal(changed, GOLDEN[f"{name}/image"])


def test_solarize_at_the_largest_magnitude_keeps_the_image():
    image = GOLDEN["in/image"]
    np.testing.assert_array_equal(GOLDEN["solarize/m10/image"], 255 - image)
    for threshold in (256, 300, 384):
        np.testing.assert_array_equal(color.solarize(image, threshold), image)
    for magnitude in (10.0, 15.0):
        np.testing.assert_array_equal(
            operations.PIXELS["Solarize"](image, magnitude), image
        )


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_contrast_uses_the_mean_gray(magnitude):
    image, factor = GOLDEN["in/image"], 0.18 * magnitude + 0.1

    def blend(gray):
        return np.clip(gray + factor * (image.astype(float) - gray), 0, 255)

    # 64 * 48 pixels / 256 = 12 instead of the mean gray.
    theirs = GOLDEN[f"contrast/m{magnitude}/image"]
    np.testing.assert_allclose(theirs, np.floor(blend(12.0)), atol=1)
    mean = np.round((image @ [0.2989, 0.587, 0.114]).round().mean())
    assert mean > 100.0
    ours = color.contrast(tf.constant(image), factor)
    np.testing.assert_allclose(ours, np.floor(blend(mean)), atol=1)
    assert magnitude == 5 or np.abs(ours - theirs.astype(float)).mean() > 20.0


# Pillow's


def test_equalize_posterize_solarize_invert_match_pillow():
    for image in (photograph(), noise(9, 13), np.full((4, 5, 3), 77, np.uint8)):
        picture = Image.fromarray(image)
        for ours, theirs in (
            (color.equalize(image), ImageOps.equalize(picture)),
            (color.invert(tf.constant(image)), ImageOps.invert(picture)),
            (color.posterize(image, 3), ImageOps.posterize(picture, 3)),
            (color.posterize(image, 8), picture),
            (color.solarize(image, 90), ImageOps.solarize(picture, 90)),
        ):
            np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_autocontrast_matches_pillow():
    for image in (photograph() // 2 + 30, noise(9, 13) // 3 + 17):
        theirs = ImageOps.autocontrast(Image.fromarray(image))
        # Pillow multiplies in double precision.
        np.testing.assert_allclose(color.autocontrast(image), theirs, atol=1)


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.7, 1.0, 1.9])
def test_blends_match_pillow(factor):
    image = photograph()
    picture = Image.fromarray(image)
    for ours, theirs in (
        (color.color, ImageEnhance.Color),
        (color.contrast, ImageEnhance.Contrast),
        (color.brightness, ImageEnhance.Brightness),
    ):
        theirs = np.asarray(theirs(picture).enhance(factor)).astype(int)
        # Pillow rounds, and to gray with slightly other weights.
        np.testing.assert_allclose(ours(tf.constant(image), factor), theirs, atol=3)


def test_sharpness_smooths_like_pillow():
    image = photograph()
    theirs = np.asarray(Image.fromarray(image).filter(ImageFilter.SMOOTH)).astype(int)
    np.testing.assert_allclose(color.sharpness(image, 0.0), theirs, atol=1)
    np.testing.assert_array_equal(color.sharpness(image, 1.0), image)


# By hand


def test_brightness_by_hand():
    image = np.float32([[[0, 100, 200], [255, 10, 21]]])
    np.testing.assert_allclose(
        color.brightness(image, 0.5), [[[0, 50, 100], [127.5, 5, 10.5]]]
    )
    np.testing.assert_allclose(
        color.brightness(image, 1.5), [[[0, 150, 255], [255, 15, 31.5]]]
    )
    # uint8 loses its fractions.
    darker = color.brightness(tf.constant(image, tf.uint8), 0.5)
    assert darker.dtype == tf.uint8
    np.testing.assert_array_equal(darker, [[[0, 50, 100], [127, 5, 10]]])


def test_contrast_by_hand():
    # Grays 40 and 160: their mean is 100.
    image = np.float32([[[40] * 3, [160] * 3]])
    for factor, low, high in ((0.5, 70, 130), (1.5, 10, 190), (0.0, 100, 100)):
        np.testing.assert_allclose(
            color.contrast(image, factor), [[[low] * 3, [high] * 3]], atol=0.02
        )
    # Only the mean gray of pure red stays.
    np.testing.assert_allclose(
        color.contrast(np.float32([[[255, 0, 0]]]), 0.0),
        np.full((1, 1, 3), 0.299 * 255),
        atol=0.05,
    )


def test_color_by_hand():
    image = np.float32([[[255, 0, 0], [90, 90, 90]]])
    red = 0.2989 * 255
    np.testing.assert_allclose(
        color.color(image, 0.5),
        [[[red + (255 - red) / 2, red / 2, red / 2], [90] * 3]],
        atol=0.02,
    )


def test_posterize_keeps_at_least_one_bit():
    image = np.uint8([[[0, 127, 128], [200, 255, 64]]])
    for bits in (-1, 0, 1):
        np.testing.assert_array_equal(
            color.posterize(image, bits), [[[0, 0, 128], [128, 128, 0]]]
        )
    np.testing.assert_array_equal(
        color.posterize(image, 2), [[[0, 64, 128], [192, 192, 64]]]
    )
    np.testing.assert_array_equal(color.posterize(image, 11), image)


def test_solarize_and_solarize_add_by_hand():
    image = np.uint8([[[0, 127, 128], [200, 255, 64]]])
    np.testing.assert_array_equal(
        color.solarize(image, 128), [[[0, 127, 127], [55, 0, 64]]]
    )
    np.testing.assert_array_equal(color.solarize(image, 0), 255 - image)
    np.testing.assert_array_equal(
        color.solarize(image, 255), [[[0, 127, 128], [200, 0, 64]]]
    )
    np.testing.assert_array_equal(
        color.solarize_add(image, 100), [[[100, 227, 128], [200, 255, 164]]]
    )
    # 127 + 165 is cut.
    np.testing.assert_array_equal(
        color.solarize_add(image, 165), [[[165, 255, 128], [200, 255, 229]]]
    )
    np.testing.assert_array_equal(color.solarize_add(image, 0), image)


def test_equalize_and_autocontrast_by_hand():
    # 512 values, each of 0 … 127 four times: spread over twice the range.
    ramp = np.repeat(np.arange(128, dtype=np.uint8), 4).reshape(16, 32)
    image = np.stack([ramp, ramp, np.full_like(ramp, 9)], axis=-1)
    # Step (512 - 4) // 255 = 1; (4 v + 0) // 1, cut at 255.
    expected = np.minimum(4 * ramp.astype(int), 255)
    equalized = color.equalize(image).numpy()
    np.testing.assert_array_equal(equalized[..., 0], expected)
    np.testing.assert_array_equal(equalized[..., 2], 9)
    stretched = color.autocontrast(image).numpy()
    np.testing.assert_array_equal(
        stretched[..., 1], np.floor(ramp * np.float32(255 / 127))
    )
    np.testing.assert_array_equal(stretched[..., 2], 9)


def test_channel_order_covers_every_permutation():
    image = np.tile(np.uint8([10, 20, 30]), (4, 5, 1))
    seen = set()
    for number in range(60):
        changed = color.channel_order(image, tf.constant([number, 1])).numpy()
        assert changed.dtype == np.uint8 and changed.shape == (4, 5, 3)
        assert (changed == changed[0, 0]).all()
        assert sorted(changed[0, 0]) == [10, 20, 30]
        seen.add(tuple(changed[0, 0]))
    assert len(seen) == 6


def test_paste_by_hand():
    image = np.arange(12).reshape(3, 4)
    pasted = color.paste(tf.constant(image), np.array([[-1, -2]]), 1, 2)
    np.testing.assert_array_equal(
        pasted, [[0, 1, 2, 3], [4, 5, -1, -2], [8, 9, 10, 11]]
    )
    for corner in ((0, 0), (3, 4)):
        same = color.paste(tf.constant(image), tf.zeros((0, 0), tf.int64), *corner)
        np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (3, 3)])
@pytest.mark.parametrize("name", operations.PIXELS)
def test_smallest_images(name, size):
    image = tf.constant(noise(*size))
    for magnitude in (0.0, 10.0, 15.0):
        changed = operations.PIXELS[name](image, magnitude)
        assert changed.dtype == tf.uint8 and changed.shape == (*size, 3)
    if name == "Sharpness" and min(size) < 3:
        np.testing.assert_array_equal(changed, image)
