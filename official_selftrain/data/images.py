"""Image files as pixels: upright, three channels, 8 bits.

Supports JPEG, PNG, BMP and GIF (first frame only), and in files, but not in requests to
an exported model, WebP, TIFF and AVIF, which Pillow decodes. Gray, palette and CMYK
images are converted to RGB. Values of more than 8 bits are divided by 256, or spread
over 0…255 by a pixel range. Transparent pixels of PNG, WebP, TIFF and AVIF are shown on
white, as viewers show them; of BMP and GIF transparency is dropped. A photograph is
rotated upright according to its EXIF orientation, as browsers and
annotation tools show it; its boxes and masks refer to the upright image. Sizes are
compared and labels read only after that: `header` says how a file's pixels are stored
and turned, `is_resized` whether labels were made for an image of its shape.
"""

import dataclasses
import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, features

# Of the files that are looked for in folders; the first ones need no Pillow.
COMMON_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
ENDINGS = (*COMMON_ENDINGS, ".webp", ".tif", ".tiff")
ENDINGS += (".avif",) if features.check("avif") else ()

# Cameras write EXIF data before the pixels.
_HEADER_BYTES = 2**16
EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_BITS_TAG = 258  # of TIFF
_JPEG = b"\xff\xd8"

# The orientations whose pixels are transposed, mirrored, and put upside down, in this
# order.
_TRANSPOSED, _MIRRORED, _FLIPPED = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)

# Why an image isn't of the shape that its labels state.
_TURNED_BY_EXIF = (
    "(the photograph is shown rotated, as its EXIF data says; if the boxes fit the "
    "image as shown, swap the stated height and width, else remove the EXIF rotation)"
)
_SWAPPED = "(swapped; if the boxes fit the image as shown, correct the stated size)"
_OTHER_SHAPE = "(another image, or one that was cropped after it was labeled)"


# The value of all channels behind transparent pixels.
_WHITE = 255


def decode(contents, max_pixels=None, pixel_range=None):
    """Decode an image file.

    Without a pixel range, as in exported models, files should have 8 bits: of more, the
    upper 8 are seen.

    Args:
        contents: string tensor, the file's bytes.
        max_pixels: int; a file whose header states more pixels is rejected before
            decoding, as is one without a usable header: GIF and unknown formats.
            None: no limit.
        pixel_range: int32 `[2]`, the values of a PNG of 16 bits that become 0 and 255,
            linearly between, or (0, 0) or None for 0 to 65,535, rounded down.

    Returns:
        uint8 `[h, w, 3]`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: at run time, for anything else.
    """
    if max_pixels:
        pixels = tf.reduce_prod(tf.cast(size(contents), tf.int64))
        length = tf.strings.length(contents)
        kind = "Expected a JPEG, PNG or BMP file. Received: bytes of another kind:"
        least = f"Expected an image of at most {max_pixels:,} pixels. Received:"
        checks = [
            tf.debugging.Assert(pixels > 0, [kind, length]),
            tf.debugging.Assert(pixels <= max_pixels, [least, pixels]),
        ]
        with tf.control_dependencies(checks):
            contents = tf.identity(contents)
    image = tf.cond(
        _is_palette_bmp(contents),
        lambda: _decode_palette_bmp(contents),
        lambda: _decode_opaque_or_png(contents, pixel_range),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    number = orientation(contents)
    return tf.cond(number > 1, lambda: _upright(image, number), lambda: image)


def _decode_opaque_or_png(contents, pixel_range):
    def usual():
        return tf.cond(
            has_alpha(contents),
            lambda: _on_white(tf.io.decode_png(contents, channels=4)),
            lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
        )

    if pixel_range is None:
        return usual()
    low, high = tf.unstack(tf.cast(pixel_range, tf.float32))
    is_deep = _is_png(contents) & tf.equal(_bytes(contents, 24, 1), b"\x10")
    deep = is_deep & (high > low)
    return tf.cond(deep, lambda: _decode_deep(contents, low, high), usual)


def _decode_deep(contents, low, high):
    values = tf.io.decode_png(contents, channels=4, dtype=tf.uint16)
    colors = (tf.cast(values[..., :3], tf.float32) - low) * 255.0 / (high - low)
    colors = tf.round(tf.clip_by_value(colors, 0.0, 255.0))
    return _on_white(
        tf.concat(
            [tf.cast(colors, tf.int32), tf.cast(values[..., 3:], tf.int32) // 256], -1
        )
    )


def _on_white(rgba):
    """Return RGB; opaque pixels keep their values."""
    colors, alpha = tf.split(tf.cast(rgba, tf.int32), [3, 1], axis=-1)
    mixed = (colors * alpha + _WHITE * (255 - alpha) + 127) // 255
    return tf.cast(mixed, tf.uint8)


def has_alpha(contents):
    """Return whether a file is a PNG whose pixels may be transparent.

    Args:
        contents: string tensor, the file's bytes.

    Returns:
        bool scalar.

    Source: the PNG specification: color types 4 and 6, or a chunk tRNS.
    """

    def has_chunk():
        start = tf.strings.substr(contents, 0, _HEADER_BYTES)
        return tf.size(tf.strings.split(start, b"tRNS", maxsplit=1)) > 1

    def of_png():
        kind = _bytes(contents, 25, 1)
        has_channel = tf.equal(kind, b"\x04") | tf.equal(kind, b"\x06")
        return tf.cond(has_channel, lambda: tf.constant(True), has_chunk)

    return tf.cond(_is_png(contents), of_png, lambda: tf.constant(False))


def _is_png(contents):
    return tf.equal(_bytes(contents, 0, 8), b"\x89PNG\r\n\x1a\n")


def _bytes(contents, start, count):
    """Return some bytes of a file that may be shorter: zeros complete it."""
    padded = tf.strings.join([tf.strings.substr(contents, 0, 32), b"\0" * 32])
    return tf.strings.substr(padded, start, count)


def size(contents):
    """Return the size stated in an image file's header, without decoding the file.

    Args:
        contents: string tensor, the file's bytes.

    Returns:
        int32 `[2]`, height and width before the image is rotated upright; (0, 0) for
        anything but a JPEG, PNG or BMP. (A GIF's frames may exceed its stated size.)

    Raises:
        tf.errors.InvalidArgumentError: at run time, for a JPEG without a header.

    Source: the formats' specifications.
    """
    # Zeros complete the header of a shorter file.
    header = tf.strings.join([tf.strings.substr(contents, 0, 26), b"\0" * 26])
    values = tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int32)

    def starts_with(*magics):
        return tf.reduce_any([tf.equal(tf.strings.substr(header, 0, len(m)), m)
                              for m in magics])  # fmt: skip

    def numbers(start, weights):
        """Return two consecutive integers."""
        count = len(weights)
        parts = tf.reshape(values[start : start + 2 * count], (2, count))
        return tf.reduce_sum(parts * tf.constant(weights), axis=1)

    big, little = [2**24, 2**16, 2**8, 1], [1, 2**8, 2**16, 2**24]
    return tf.case(
        [
            (
                starts_with(_JPEG),
                lambda: tf.io.extract_jpeg_shape(contents)[:2],
            ),
            (starts_with(b"\x89PNG\r\n\x1a\n"), lambda: numbers(16, big)[::-1]),
            # A negative height means that a BMP stores its rows from top to bottom.
            (starts_with(b"BM"), lambda: tf.abs(numbers(18, little)[::-1])),
        ],
        default=lambda: tf.zeros(2, tf.int32),
    )


def decode_file(contents, pixel_range=None):
    """Decode an image file, also one that TensorFlow doesn't support.

    Args:
        contents: string tensor, the file's bytes.
        pixel_range: as of `decode`, also for TIFF.

    Returns:
        uint8 `[h, w, 3]`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: at run time, for anything else.
    """
    limits = tf.zeros(2, tf.int32) if pixel_range is None else pixel_range
    return tf.cond(
        needs_pillow(contents),
        lambda: _by_pillow(contents, tf.cast(limits, tf.int32)),
        lambda: decode(contents, pixel_range=pixel_range),
    )


@tf.function(
    input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((2,), tf.int32)],
    autograph=False,
)
def _by_pillow(contents, limits):
    """Decode with Pillow; in a graph, where its errors become TensorFlow's."""
    image = tf.numpy_function(
        _decode_by_pillow, [contents, limits], tf.uint8, stateful=False
    )
    return tf.ensure_shape(image, (None, None, 3))


def needs_pillow(contents):
    """Return whether a file is a WebP, TIFF or AVIF.

    Args:
        contents: string tensor, the file's bytes.

    Returns:
        bool scalar.
    """

    def at(place, *magics):
        starts = [tf.strings.substr(start, place, len(magic)) for magic in magics]
        return tf.reduce_any([tf.equal(s, m) for s, m in zip(starts, magics)])

    start = tf.strings.join([tf.strings.substr(contents, 0, 12), b"\0" * 12])
    is_webp = at(0, b"RIFF") & at(8, b"WEBP")
    is_tiff = at(0, b"II*\0", b"MM\0*")
    return is_webp | is_tiff | at(4, b"ftypavif", b"ftypavis")


def _decode_by_pillow(contents, limits):
    if isinstance(contents, np.ndarray):
        contents = contents.item()
    try:
        with Image.open(io.BytesIO(contents)) as file:
            bits = np.max(getattr(file, "tag_v2", {}).get(_BITS_TAG, 8))
            return _rgb(ImageOps.exif_transpose(file), bits, *limits.tolist())
    except (OSError, RuntimeError, SyntaxError, ValueError) as error:
        raise ValueError(str(error)) from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def _rgb(image, bits, low, high):
    """Return an image of Pillow as uint8 `[h, w, 3]`; see `decode`."""
    is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if is_deep and high > low:
        values = (np.asarray(image).astype(np.float32) - low) * 255.0 / (high - low)
        values = np.round(np.clip(values, 0.0, 255.0))
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"Expected 8 or 16 bits, or a pixel range. Received: mode {image.mode}"
        )
    elif is_deep:
        values = np.asarray(image) >> 8
    elif bits > 8 and high > low:
        raise ValueError(
            "Expected one gray channel of more than 8 bits, or a PNG, for a pixel "
            f"range. Received: a TIFF of {bits} bits and mode {image.mode}"
        )
    elif image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA")).astype(np.int32)
        colors, alpha = rgba[..., :3], rgba[..., 3:]
        mixed = (colors * alpha + _WHITE * (255 - alpha) + 127) // 255
        return mixed.astype(np.uint8)
    else:
        return np.asarray(image.convert("RGB"))
    return np.stack([values.astype(np.uint8)] * 3, axis=-1)


@dataclasses.dataclass(frozen=True)
class Header:
    """How an image file stores its pixels.

    Attributes:
        stored_size: (height, width) of the stored pixels.
        orientation: int, 1 to 8, the EXIF orientation.
    """

    stored_size: tuple
    orientation: int = 1

    @property
    def size(self):
        """The height and width of the upright image."""
        is_turned = self.orientation in _TRANSPOSED
        return self.stored_size[::-1] if is_turned else self.stored_size


def header(path):
    """Read an image file's header.

    Args:
        path: str.

    Returns:
        `Header`, or None if the file can't be read.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            width, height = image.size
            if image.format == "TIFF":  # some versions of Pillow turn it already
                width, height = image.tag_v2[256], image.tag_v2[257]
            number = 1
            if image.format in ("JPEG", "MPO"):
                file.seek(0)
                number = _orientation_of_jpeg(file.read(_HEADER_BYTES))
            elif image.format in ("WEBP", "TIFF", "AVIF"):
                number = image.getexif().get(_ORIENTATION_TAG, 1)
    except (KeyError, OSError, RuntimeError, ValueError, SyntaxError):
        return None
    except Image.DecompressionBombError:
        return None
    return Header((height, width), number if number in range(1, 9) else 1)


def _orientation_of_jpeg(contents):
    """Return the orientation of a JPEG's first bytes, as `decode` reads it."""
    return int(_compiled_orientation(contents)) if EXIF in contents else 1


def upright_size(path):
    """Return the size of an image file without decoding it.

    Args:
        path: str.

    Returns:
        `(height, width)` of the upright image in pixels, or None if the file can't be
        read.
    """
    found = header(path)
    return found and found.size


def is_resized(size, stated):
    """Return whether an image may be a resized one of another size.

    An image whose height and width are exchanged is none, however little they differ.

    Args:
        size: int32 tensor `[2]`, height and width.
        stated: int32 tensor `[2]`, the other size.

    Returns:
        bool scalar: whether both have the same ratio of height to width, to one pixel
        of the smaller one, and the exchanged one fits no better.
    """
    difference = _difference(size, stated)
    return (difference <= 1.0) & (difference <= _difference(size, stated[::-1]))


def _difference(size, stated):
    """Return how far a size is from another one that is scaled to it, in pixels."""
    size, stated = tf.cast(size, tf.float32), tf.cast(stated, tf.float32)
    scale = tf.reduce_max(size) / tf.reduce_max(stated)
    return tf.reduce_max(tf.abs(size - scale * stated) / tf.maximum(scale, 1.0))


def contradiction(size, stated, contents):
    """Return why an image isn't of the shape that its labels state.

    Where height and width are exchanged by an EXIF orientation, nothing tells whether
    the boxes are those of the stored pixels or of the upright image.

    Args:
        size: int32 tensor `[2]`, height and width of the upright image.
        stated: int32 tensor `[2]`, a size of which it is no resized one.
        contents: string tensor, the file's bytes.

    Returns:
        string scalar, the reason and the next step, in parentheses.
    """
    is_swapped = is_resized(size, stated[::-1])
    has_exif = orientation(contents) >= 5
    return tf.case(
        [
            (is_swapped & has_exif, lambda: tf.constant(_TURNED_BY_EXIF)),
            (is_swapped, lambda: tf.constant(_SWAPPED)),
        ],
        default=lambda: tf.constant(_OTHER_SHAPE),
    )


def orientation(contents):
    """Return a JPEG's EXIF orientation.

    Args:
        contents: string tensor, the file's bytes.

    Returns:
        int32 scalar, 1 (upright, or unknown) to 8.

    Source: Exif 2.3, tag 0x0112.
    """

    def read():
        header = tf.strings.substr(contents, 0, _HEADER_BYTES)
        parts = tf.strings.split(header, EXIF, maxsplit=1)
        # The part after the marker is a TIFF file; zeros replace what is truncated.
        tiff = tf.strings.join([parts[-1], b"\0" * 16])
        return tf.cond(
            tf.size(parts) > 1, lambda: _orientation_of_tiff(tiff), lambda: 1
        )

    is_jpeg = tf.equal(tf.strings.substr(contents, 0, 2), _JPEG)
    return tf.cond(is_jpeg, read, lambda: 1)


_compiled_orientation = tf.function(
    orientation, input_signature=[tf.TensorSpec((), tf.string)], autograph=False
)


def _orientation_of_tiff(tiff):
    values = tf.cast(tf.io.decode_raw(tiff, tf.uint8), tf.int32)
    size = tf.size(values)
    little = tf.equal(tf.strings.substr(tiff, 0, 2), "II")

    def number(positions, width):
        """Return the unsigned integers of `width` bytes at the given positions."""
        steps = tf.range(width)
        places = tf.clip_by_value(positions[..., None] + steps, 0, size - 1)
        weights = 256 ** tf.where(little, steps, width - 1 - steps)
        return tf.reduce_sum(tf.gather(values, places) * weights, axis=-1)

    # The two lower bytes suffice for the offset of the first directory.
    start = number(tf.where(little, 4, 6), 2)
    count = tf.minimum(number(start, 2), 256)
    entries = start + 2 + 12 * tf.range(count)
    tags = tf.boolean_mask(entries, tf.equal(number(entries, 2), _ORIENTATION_TAG))
    result = tf.cond(tf.size(tags) > 0, lambda: number(tags[0] + 8, 2), lambda: 1)
    return tf.where((result >= 1) & (result <= 8), result, 1)


def upright(pixels, number):
    """Turn stored pixels upright, as `decode` turns an image.

    Args:
        pixels: array `[h, w]` or `[h, w, c]`.
        number: int, 1 to 8, the EXIF orientation.

    Returns:
        array `[h, w, …]`, or `[w, h, …]` for 5 to 8.

    Source: Exif 2.3, tag 0x0112.
    """
    if number in _TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if number in _MIRRORED:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if number in _FLIPPED else pixels


def _upright(image, number):
    """Return `upright` of a tensor."""

    def turned(image, numbers, function):
        condition = tf.reduce_any(tf.equal(number, numbers))
        image = tf.cond(condition, lambda: function(image), lambda: image)
        return tf.ensure_shape(image, (None, None, 3))

    image = turned(image, _TRANSPOSED, _transposed)
    image = turned(image, _MIRRORED, lambda image: image[:, ::-1])
    return turned(image, _FLIPPED, lambda image: image[::-1])


def _transposed(image):
    """Return `tf.transpose(image, (1, 0, 2))`, which oneDNN logs as an error."""
    height, width = tf.unstack(tf.shape(image)[:2])
    places = tf.range(width)[:, None] + width * tf.range(height)
    return tf.gather(tf.reshape(image, (-1, 3)), places)


def _is_palette_bmp(contents):
    """Return whether a file is a BMP whose 8-bit pixels are palette indices."""
    padded = tf.strings.join([contents, b"\0" * 30])
    is_bmp = tf.equal(tf.strings.substr(padded, 0, 2), "BM")
    return is_bmp & tf.equal(tf.strings.substr(padded, 28, 2), b"\x08\0")


def _decode_palette_bmp(contents):
    indices = tf.io.decode_bmp(contents, channels=0)
    size = tf.io.decode_raw(tf.strings.substr(contents, 14, 4), tf.int32)[0]
    palette = tf.io.decode_raw(
        tf.strings.substr(contents, 14 + size, 4 * 256), tf.uint8
    )
    # Colors are blue, green, red and an unused byte; a palette may have fewer than 256.
    palette = tf.concat([palette, tf.zeros(1024, tf.uint8)], axis=0)[:1024]
    palette = tf.reshape(palette, (256, 4))
    return tf.gather(palette[:, 2::-1], tf.cast(indices[..., 0], tf.int32))
