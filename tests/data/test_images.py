"""Image files become upright RGB of 8 bits."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, features

from official_selftrain.data import images

PIXELS = np.kron(
    np.random.default_rng(0).integers(0, 256, (4, 6, 3)), np.ones((16, 16, 1))
).astype(np.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(number, order):
    """Return an EXIF block by hand: two entries, the second the orientation."""
    mark = {"<": b"II", ">": b"MM"}[order]
    tiff = mark + struct.pack(order + "HIH", 42, 8, 2)
    tiff += struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0)
    tiff += struct.pack(order + "HHIHH", 0x0112, 3, 1, number, 0)
    return b"Exif\0\0" + tiff + b"\0" * 4


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("number", range(10))
def test_rotated_photographs_become_upright(number, order, tmp_path):
    """As Pillow rotates them; numbers outside 1 to 8 are ignored."""
    contents = saved(Image.fromarray(PIXELS), "JPEG", exif=exif(number, order))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
    assert expected.shape[:2] == ((96, 64) if number in (5, 6, 7, 8) else (64, 96))
    actual = images.decode(tf.constant(contents)).numpy().astype(int)
    assert np.abs(actual - expected).max() <= 3  # two decoders of JPEG
    # A mask is turned as the image is, and the header says the same.
    stored = np.asarray(Image.open(io.BytesIO(contents)))
    is_known = 1 <= number <= 8
    turned = images.upright(stored, number if is_known else 1)
    np.testing.assert_array_equal(turned, expected)
    path = tmp_path / "photo.jpg"
    path.write_bytes(contents)
    assert images.header(path) == images.Header((64, 96), number if is_known else 1)
    assert images.upright_size(path) == expected.shape[:2]
    assert int(images.orientation(tf.constant(contents))) == (number if is_known else 1)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, [[0, 1, 2], [3, 4, 5]]),
        (2, [[2, 1, 0], [5, 4, 3]]),
        (3, [[5, 4, 3], [2, 1, 0]]),
        (4, [[3, 4, 5], [0, 1, 2]]),
        (5, [[0, 3], [1, 4], [2, 5]]),
        (6, [[3, 0], [4, 1], [5, 2]]),
        (7, [[5, 2], [4, 1], [3, 0]]),
        (8, [[2, 5], [1, 4], [0, 3]]),
    ],
)
def test_orientations_by_hand(number, expected):
    stored = np.array([[0, 1, 2], [3, 4, 5]])
    assert images.upright(stored, number).tolist() == expected


def test_orientations_are_read_in_one_way(tmp_path):
    """XMP data, which Pillow reads and browsers don't, turn neither size nor pixels."""
    xmp = b'<x tiff:Orientation="6"/>'
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(Image.fromarray(PIXELS), "JPEG", xmp=xmp))
    with Image.open(path) as file:
        assert file.getexif()[0x0112] == 6
    assert images.decode(tf.constant(path.read_bytes())).shape == PIXELS.shape
    assert images.upright_size(path) == PIXELS.shape[:2]


@pytest.mark.parametrize(
    ("size", "stated", "expected"),
    [
        ((40, 60), (400, 600), True),
        ((33, 50), (667, 1000), True),
        ((40, 60), (40, 62), False),
        ((40, 41), (41, 40), False),  # within a pixel, but swapped
        ((100, 101), (101, 100), False),
        ((200, 201), (804, 800), False),  # swapped and resized
        ((201, 200), (804, 800), True),
        ((200, 200), (804, 800), True),
        ((50, 50), (50, 50), True),
    ],
)
def test_resized_images_by_hand(size, stated, expected):
    assert bool(images.is_resized(size, stated)) == expected


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["BMP", "PNG"])
def test_palettes_gray_and_transparency(mode, kind):
    image = Image.fromarray(PIXELS).convert(mode)
    actual = images.decode(tf.constant(saved(image, kind)))
    np.testing.assert_array_equal(actual, np.asarray(image.convert("RGB")))


def test_cmyk_and_sixteen_bits():
    cmyk = saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)
    difference = images.decode(tf.constant(cmyk)).numpy().astype(int) - PIXELS
    assert np.abs(difference).mean() < 8.0
    deep = PIXELS[..., 0].astype(np.uint16) * 256 + 77
    actual = images.decode(tf.constant(saved(Image.fromarray(deep), "PNG"))).numpy()
    np.testing.assert_array_equal(actual, np.repeat(PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"BM",
        b"BM" + b"\0" * 26 + b"\x08\0",
        b"text",
        b"\xff\xd8\xff\xe1\0\x08Exif\0\0",
        b"\xff\xd8Exif\0\0II*\0\xff\xff\xff\xff",
        saved(Image.fromarray(PIXELS), "JPEG")[:400],
        saved(Image.fromarray(PIXELS), "PNG")[:60],
    ],
)
def test_other_files_raise(contents):
    with pytest.raises(tf.errors.InvalidArgumentError):
        images.decode(tf.constant(contents))


KINDS = ["WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 6])
def test_files_that_pillow_decodes(kind, number, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = number
    contents = saved(Image.fromarray(PIXELS), kind, exif=exif)
    with Image.open(io.BytesIO(contents)) as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    assert expected.shape[:2] == (PIXELS.shape[:2] if number == 1 else (96, 64))
    decode = tf.function(images.decode_file, input_signature=[TEXT])
    np.testing.assert_array_equal(decode(tf.constant(contents)), expected)
    assert bool(images.needs_pillow(tf.constant(contents)))
    path = tmp_path / "image"
    path.write_bytes(contents)
    assert images.upright_size(str(path)) == expected.shape[:2]
    for cut in (13, len(contents) // 2):
        with pytest.raises(tf.errors.InvalidArgumentError):
            images.decode_file(tf.constant(contents[:cut]))


TEXT = tf.TensorSpec((), tf.string)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_modes_of_tiff(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    actual = images.decode_file(tf.constant(saved(image, "TIFF")))
    np.testing.assert_array_equal(actual, np.asarray(image.convert("RGB")))


def test_sixteen_bits_of_tiff():
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256 + 77)
    actual = images.decode_file(tf.constant(saved(deep, "TIFF"))).numpy()
    np.testing.assert_array_equal(actual, np.repeat(PIXELS[..., :1], 3, axis=2))


def test_other_files_are_left_to_tensorflow():
    for kind in ("JPEG", "PNG", "BMP", "GIF"):
        contents = tf.constant(saved(Image.fromarray(PIXELS), kind))
        assert not bool(images.needs_pillow(contents))
        np.testing.assert_array_equal(
            images.decode_file(contents), images.decode(contents)
        )
    assert not bool(images.needs_pillow(tf.constant(b"RIFF....WAVE")))


# Red, half of green, none of blue, and an opaque gray: on white.
RGBA = np.array(
    [[(255, 0, 0, 255), (0, 255, 0, 128), (0, 0, 255, 0), (9, 9, 9, 255)]], np.uint8
)
SEEN = [[(255, 0, 0), (127, 255, 127), (255, 255, 255), (9, 9, 9)]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_are_white(kind):
    """Of an alpha of 128, 127 of 255 parts are white."""
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    contents = tf.constant(saved(Image.fromarray(RGBA), kind, **options))
    assert images.decode_file(contents).numpy().tolist() == np.array(SEEN).tolist()
    assert bool(images.has_alpha(contents)) == (kind == "PNG")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA"])
def test_transparent_colors_are_white(mode):
    image = Image.fromarray(RGBA[..., :3]).convert(mode if mode != "LA" else "L")
    color = np.asarray(image)[0, 2]
    expected = np.asarray(image.convert("RGB")).copy()
    expected[0, 2] = 255
    if mode == "LA":
        image.putalpha(Image.fromarray(np.uint8([[255, 255, 0, 255]])))
        contents = saved(image, "PNG")
    else:
        key = tuple(map(int, color)) if mode == "RGB" else int(color)
        contents = saved(image, "PNG", transparency=key)
    decode = tf.function(images.decode, input_signature=[TEXT])
    np.testing.assert_array_equal(decode(tf.constant(contents)), expected)
    opaque = saved(image.convert("RGB"), "PNG")
    assert not bool(images.has_alpha(tf.constant(opaque)))
    assert not bool(images.has_alpha(tf.constant(b"")))


def deep_png(values):
    """Return a PNG with channels of 16 bits."""
    height, width, channels = values.shape
    kind = {3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0, 4095), [0, 6, 128, 255, 255]),  # 100 · 255 / 4,095 = 6.2
        ((100, 2148), [0, 0, 243, 255, 255]),  # 1,950 · 255 / 2,048 = 242.8
        ((0, 0), [0, 0, 8, 15, 234]),
        (None, [0, 0, 8, 15, 234]),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "color", "TIFF"])
def test_pixel_ranges_by_hand(limits, expected, kind):
    values = np.array([[0, 100, 2050, 4095, 60000]], np.uint16)
    if kind == "color":
        contents = deep_png(np.stack([values] * 3, axis=-1))
    else:
        contents = saved(Image.fromarray(values), kind)
    image = images.decode_file(tf.constant(contents), limits)
    np.testing.assert_array_equal(image[0], np.stack([expected] * 3, axis=-1))
    # Files of 8 bits have no other range.
    usual = tf.constant(saved(Image.fromarray(PIXELS), "PNG"))
    np.testing.assert_array_equal(images.decode_file(usual, limits), PIXELS)


def test_deep_colors_with_transparency():
    values = np.array([[(4095, 0, 2048, 65535), (4095, 0, 2048, 0)]], np.uint16)
    contents = tf.constant(deep_png(values))
    image = images.decode(contents, pixel_range=(0, 4095)).numpy()
    assert image.tolist() == [[[255, 0, 128], [255, 255, 255]]]
    image = images.decode(contents).numpy()
    assert image.tolist() == [[[15, 0, 8], [255, 255, 255]]]


def test_deep_files_without_a_range_of_their_own():
    contents = saved(Image.fromarray(np.array([[0.5, 2.0]], np.float32)), "TIFF")
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="or a pixel range. Rec.*F"
    ):
        images.decode_file(tf.constant(contents))
    image = images.decode_file(tf.constant(contents), (0, 2)).numpy()
    assert image[0, :, 0].tolist() == [64, 255]
    with pytest.raises(ValueError, match="channel .*: a TIFF of 16 bits and mode RGB"):
        images._rgb(Image.fromarray(PIXELS), 16, 0, 4095)
