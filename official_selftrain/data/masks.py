"""Masks as PNG files: one class id for every pixel, 255 where nothing is known.

In memory, in TFRecord files and between the stages of an experiment a mask is a
PNG of one 8-bit channel whose values are the class ids. A confidence map is such
a PNG too: its values are 255 times the probability of the mask's class, rounded.
"""

import io

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

# The class of mask pixels that nothing is known about.
IGNORE_CLASS = 255


def encode(values):
    """Return values as the bytes of a PNG of one 8-bit channel.

    Args:
        values: uint8 `[h, w]`.

    Returns:
        bytes.
    """
    png = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(png, "PNG", compress_level=6)
    return png.getvalue()


def decode(png):
    """Return the values of a PNG of one 8-bit channel.

    Args:
        png: string tensor.

    Returns:
        uint8 tensor `[h, w]`.

    Raises:
        tf.errors.InvalidArgumentError: for anything else. A palette's colors, 16
            bits or a few bits would be turned into other numbers than the ids.
    """
    # Bytes 24 and 25 of a PNG: bits of a channel and kind of color, 0 for gray.
    padded = tf.strings.join([png, b"\0" * 26])
    is_gray = (tf.strings.substr(padded, 1, 3) == b"PNG") & (
        tf.strings.substr(padded, 24, 2) == b"\x08\0"
    )
    check = tf.debugging.Assert(
        is_gray, ["Expected a mask as PNG of one 8-bit gray channel of class ids"]
    )
    with tf.control_dependencies([check]):
        return tf.io.decode_png(png, channels=1)[..., 0]


def read_file(path, num_classes, image_size):
    """Read a mask from a file, whose pixels may be indices of a palette.

    Args:
        path: str, PNG with a palette, as PASCAL VOC's are, or one 8-bit channel.
        num_classes: int K: ids from 0 to K - 1 and 255 are known.
        image_size: (height, width) of the image it belongs to.

    Returns:
        bytes, as of `encode`.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: for another kind of file, a size that isn't the image's, or
            unknown ids; the text names the file.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L"):
                raise ValueError(
                    "Expected a mask with a palette or one 8-bit channel. Received: "
                    f"{path} of mode {file.mode}"
                )
            values = np.asarray(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a mask. Received: {path!r}") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"Expected a mask. Received: {path}: {error}") from error
    if values.shape != tuple(image_size):
        raise ValueError(
            f"Expected a mask of its image's size, {tuple(image_size)} (height, "
            f"width). Received: {path} of {values.shape}"
        )
    ids = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    unknown = ids[(ids >= num_classes) & (ids != IGNORE_CLASS)]
    if unknown.size:
        raise ValueError(
            f"Expected class ids of 0 to {num_classes - 1} and {IGNORE_CLASS}. "
            f"Received: {path} with {', '.join(map(str, unknown[:10]))}"
        )
    return encode(values)


def confident(mask, confidence, score_threshold):
    """Return a mask with `IGNORE_CLASS` where the teacher wasn't sure enough.

    Args:
        mask: uint8 `[h, w]`.
        confidence: uint8 `[h, w]`, 255 times a probability, rounded.
        score_threshold: float in 0…1. With 0.5 the pixels that stay are exactly
            those whose probability was at least 0.5; with other thresholds the
            border lies within 1 / 510 of it.

    Returns:
        uint8 `[h, w]`.

    Source: paper section 4 (pixels below 0.5 are ignored).
    """
    sure = tf.cast(confidence, tf.float32) >= 255.0 * score_threshold
    return tf.where(sure, mask, tf.constant(IGNORE_CLASS, mask.dtype))
