"""What a network sees of images that aren't RGB of 8 bits.

A few files are looked at before anything is learned from them.
"""

import dataclasses
import io

import numpy as np
import tensorflow as tf
from PIL import Image

from official_selftrain.data import problems

# Files of a source that are looked at.
LOOKED_AT = 64

# With fewer gray levels, values of more than 8 bits are mostly lost.
_LEAST_LEVELS = 32

_GRAY = ("1", "L", "LA", "I", "F")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How an image file stores its pixels.

    Attributes:
        name: str, the file.
        mode: str, Pillow's.
        values: (least, greatest) of the pixels, if they have more than 8 bits; or None.
        is_transparent: bool, whether some pixels aren't opaque.
    """

    name: str
    mode: str
    values: tuple | None
    is_transparent: bool


def of_contents(name, contents):
    """Return the `Pixels` of an image file, or None if it can't be read.

    Args:
        name: str.
        contents: bytes.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            values = None
            if contents[1:4] == b"PNG" and contents[24] == 16:
                pixels = tf.io.decode_png(contents, channels=3, dtype=tf.uint16).numpy()
                values = int(pixels.min()), int(pixels.max())
            elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
                pixels = np.asarray(image)
                values = int(pixels.min()), int(pixels.max())
            is_transparent = False
            if image.format not in ("BMP", "GIF") and image.has_transparency_data:
                alpha = np.asarray(image.convert("RGBA"))[..., 3]
                is_transparent = bool(alpha.min() < 255)
            return Pixels(name, image.mode, values, is_transparent)
    except (OSError, RuntimeError, SyntaxError, ValueError, tf.errors.OpError):
        return None
    except Image.DecompressionBombError:
        return None


def of_files(paths):
    """Return the `Pixels` of some files at even distances, a list.

    Args:
        paths: sequence of str.
    """
    step = -(-len(paths) // LOOKED_AT) or 1
    found = []
    for path in paths[::step]:
        with open(path, "rb") as file:
            found.append(of_contents(path, file.read()))
    return [pixels for pixels in found if pixels]


def of_source(source):
    """Return the `Pixels` of a source's first images, and its pixel range or None.

    Args:
        source: `examples.Source`.
    """
    found, pixel_range = [], None
    for example in source.dataset.take(LOOKED_AT):
        limits = example.get("pixel_range")
        if limits is not None and int(limits[1]) > int(limits[0]):
            pixel_range = tuple(limits.numpy().tolist())
        contents = example["encoded"].numpy()
        try:
            contents = contents or tf.io.read_file(example["path"]).numpy()
        except tf.errors.OpError:
            continue
        found.append(of_contents(problems.name(example), contents))
    return [pixels for pixels in found if pixels], pixel_range


def told(found, pixel_range=None, with_gray=True):
    """Return a line for each kind of pixels that the network sees differently.

    Args:
        found: list of `Pixels`.
        pixel_range: (low, high), as of `examples.with_pixel_range`, or None.
        with_gray: bool, whether to tell of gray images, too.

    Returns:
        list of str.

    Raises:
        ValueError: if the network would see too few gray levels of values of more than
            8 bits.
    """
    deep = [pixels for pixels in found if pixels.values]
    kinds = [
        (
            [p for p in found if p.is_transparent],
            "images with transparent pixels",
            "the network sees white there",
        ),
        (
            [p for p in found if with_gray and _is_gray(p)],
            "gray images",
            "the network sees three equal channels",
        ),
        ([p for p in found if p.mode == "CMYK"], "CMYK images", "converted to RGB"),
    ]
    lines = [_of_deep(deep, len(found), pixel_range)] if deep else []
    lines += [
        f"{title}: {len(of_kind)} of {len(found)} looked at (first: "
        f"{of_kind[0].name}); {effect}"
        for of_kind, title, effect in kinds
        if of_kind
    ]
    return lines


def _is_gray(pixels):
    return pixels.mode in _GRAY or pixels.mode.startswith("I;16")


def _of_deep(deep, count, pixel_range):
    low = min(pixels.values[0] for pixels in deep)
    high = max(pixels.values[1] for pixels in deep)
    first, last = _seen(low, pixel_range), _seen(high, pixel_range)
    title = (
        f"images of more than 8 bits: {len(deep)} of {count} looked at (first: "
        f"{deep[0].name}), values {low:,} to {high:,}; the network sees {first} to "
        f"{last} of 255"
    )
    proposed = 0, 2 ** int(high).bit_length() - 1
    if _seen(high, proposed) - _seen(low, proposed) < 128:
        proposed = low, high
    flag = f"--pixel_range={proposed[0]},{proposed[1]}"
    setting = f"pixel_range = {proposed} of its source in a gin file"
    if low < high and last - first + 1 < _LEAST_LEVELS:
        raise ValueError(
            f"Expected at least {_LEAST_LEVELS} gray levels. Received: {title}; "
            f"{flag}, or {setting}, spreads them"
        )
    if pixel_range is not None:
        return f"{title} (pixel_range {pixel_range[0]:,} to {pixel_range[1]:,})"
    if last - first < 128:
        return f"warning: {title}; {flag}, or {setting}, spreads them"
    return title


def _seen(value, pixel_range):
    """Return what a value of more than 8 bits becomes."""
    if pixel_range is None:
        return min(max(value, 0) >> 8, 255)
    low, high = pixel_range
    return int(np.round(np.clip((value - low) * 255.0 / (high - low), 0.0, 255.0)))
