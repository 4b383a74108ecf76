"""Masks as PNG files: one class id per pixel, 255 where the class is unknown.

In memory, in TFRecord files and between the stages of an experiment, a mask is a
PNG with one 8-bit channel whose values are class ids. A confidence map is stored the
same way: its values are 255 times the probability of the mask's class, rounded.
"""

import collections
import dataclasses
import io
import os

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from official_selftrain.data import images

# The class id of mask pixels whose class is unknown.
IGNORE_CLASS = 255

# Names of unknown pixels in files with a color per class.
_UNKNOWN_NAMES = {"ignore": IGNORE_CLASS, "void": IGNORE_CLASS}

# Of red, green and blue, in the number that stands for a color.
_COLOR_WEIGHTS = np.array([2**16, 2**8, 1])


def encode(values):
    """Encode values as a PNG with one 8-bit channel.

    Args:
        values: uint8 `[h, w]`.

    Returns:
        bytes.
    """
    png = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(png, "PNG", compress_level=6)
    return png.getvalue()


def decode(png):
    """Decode a PNG with one 8-bit channel.

    Args:
        png: string tensor.

    Returns:
        uint8 tensor `[h, w]`.

    Raises:
        tf.errors.InvalidArgumentError: for anything else. Decoding a palette or
            another bit depth would change the ids.
    """
    # Bytes 24 and 25 of a PNG: bit depth and color type, 0 for gray.
    padded = tf.strings.join([png, b"\0" * 26])
    is_gray = (tf.strings.substr(padded, 1, 3) == b"PNG") & (
        tf.strings.substr(padded, 24, 2) == b"\x08\0"
    )
    check = tf.debugging.Assert(
        is_gray, ["Expected a mask as PNG of one 8-bit gray channel of class ids"]
    )
    with tf.control_dependencies([check]):
        return tf.io.decode_png(png, channels=1)[..., 0]


def known(mask, num_classes):
    """Set pixels outside the classes to `IGNORE_CLASS`: their class is unknown.

    Args:
        mask: int array.
        num_classes: int K; classes are 0 to K - 1.

    Returns:
        array of the mask's shape and dtype.
    """
    is_known = (mask >= 0) & (mask < num_classes)
    return np.where(is_known, mask, np.array(IGNORE_CLASS, mask.dtype))


@dataclasses.dataclass(frozen=True)
class FileMask:
    """A mask as read from a file.

    Attributes:
        png: bytes, the mask in the format of `encode`.
        ids: frozenset of int, the class ids that occur, and 255 if it does.
        unknown: dict of each value outside the classes, other than 255, to its number
            of pixels; they are 255 in `png`.
        is_turned: bool, whether it was turned upright with its image.
        colors: dict of each value that occurs to its color in the file's palette, as
            (red, green, blue); empty without a palette, or if values are mapped.
    """

    png: bytes
    ids: frozenset
    unknown: dict
    is_turned: bool = False
    colors: dict = dataclasses.field(default_factory=dict)


def read_file(path, num_classes, image, values=None):
    """Read a mask from a file whose pixels may be palette indices.

    A mask is drawn on the upright image, as annotation tools show it. One that was
    drawn on the stored pixels of a photograph is turned with it; its size tells, if
    EXIF data exchange height and width. Where they don't, or in a square, a mask is
    taken as drawn on the upright image.

    Args:
        path: str, PNG with a palette, as in PASCAL VOC, or with one gray channel; with
            colors in `values` any image without loss.
        num_classes: int K; classes are 0 to K - 1, other values are unknown.
        image: `images.Header` of the image it belongs to.
        values: dict of a pixel's value to its class id: ints, or colors as (red,
            green, blue) of 0…255. None: the values are class ids.

    Returns:
        `FileMask`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for another file type, a size that is neither the upright nor the
            stored image's, colors or values that aren't in `values`, or invalid
            `values`; the message names the file.
    """
    if values is not None:
        _check_values(values, num_classes)
    pixels, palette = _read(path, _has_colors(values or {}))
    pixels, is_turned = _upright(pixels, image, path)
    if values is not None:
        pixels = _mapped(pixels, values, path)
    is_small = 0 <= pixels.min() and pixels.max() < 2**16
    if is_small:
        counts = np.bincount(pixels.ravel())
        ids = np.flatnonzero(counts)
        counts = counts[ids]
    else:
        ids, counts = np.unique(pixels, return_counts=True)
    is_unknown = (ids >= num_classes) & (ids != IGNORE_CLASS) | (ids < 0)
    unknown = dict(zip(ids[is_unknown].tolist(), counts[is_unknown].tolist()))
    if unknown:
        pixels = known(pixels, num_classes)
    colors = {} if values else {k: palette[k] for k in ids.tolist() if k in palette}
    ids = frozenset(ids[~is_unknown].tolist())
    return FileMask(encode(pixels), ids, unknown, is_turned, colors)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a mask file holds, whatever it means.

    Attributes:
        size: (height, width) of the stored pixels.
        counts: dict of each value that occurs to its number of pixels, or of each color
            (red, green, blue) where a pixel has several channels.
        palette: dict of each index that occurs to its color; empty without a palette.
    """

    size: tuple
    counts: dict
    palette: dict

    @property
    def has_values(self):
        """Whether pixels have values, not colors."""
        return not _has_colors(self.counts)

    @property
    def colors(self):
        """The colors that are seen, a dict to their number of pixels."""
        if not self.has_values:
            return self.counts
        colors = collections.Counter()
        for value, count in self.counts.items():
            colors[self.palette.get(value, (min(max(value, 0), 255),) * 3)] += count
        return dict(colors)


def survey(path):
    """Count the pixels of a mask file by value or color.

    Args:
        path: str.

    Returns:
        `Survey`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it can't be read.
    """
    pixels, palette = _read(path)
    size, has_colors = pixels.shape[:2], pixels.ndim == 3
    if has_colors:
        pixels = pixels @ _COLOR_WEIGHTS
    values, counts = np.unique(pixels, return_counts=True)
    values = values.tolist()
    palette = {k: palette[k] for k in values if k in palette}
    keys = map(_color, values) if has_colors else values
    return Survey(size, dict(zip(keys, counts.tolist())), palette)


def _color(number):
    return number >> 16, number >> 8 & 255, number & 255


def _has_colors(values):
    return any(isinstance(key, tuple) for key in values)


def _read(path, by_color=None):
    """Return a mask file's pixels as stored, and the palette of its indices.

    Colors instead, if `by_color`; if it is None, where there are several channels.
    """
    try:
        with Image.open(path) as file:
            has_values = file.mode in ("P", "L", "1", "I;16", "I")
            if by_color or (by_color is None and not has_values):
                return np.asarray(file.convert("RGB")), {}
            if has_values:
                return np.asarray(file).astype(np.int64), _palette(file)
            raise ValueError(
                "Expected a mask with a palette or one gray channel, or colors in "
                f"mask_values. Received: {path} of mode {file.mode}"
            )
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a mask. Received: {path!r}") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"Expected a mask. Received: {path}: {error}") from error


def _palette(file):
    """Return the palette of an open file, a dict of index to color."""
    colors = np.reshape(file.getpalette() or [], (-1, 3)) if file.mode == "P" else []
    return {k: tuple(map(int, color)) for k, color in enumerate(colors)}


def contradiction(palettes):
    """Find an index that means another color in one file than in another.

    A gray of an index's own value, above 0, is no color: it is how files without a
    palette are converted to files with one.

    Args:
        palettes: iterable of (path, dict of index to color).

    Returns:
        `(index, path, color, other path, other color)`, or None.
    """
    first = {}
    for path, colors in palettes:
        for index, color in colors.items():
            if index and color == (index,) * 3:
                continue
            other, expected = first.setdefault(index, (path, color))
            if color != expected:
                return index, other, expected, path, color
    return None


def _upright(pixels, image, path):
    """Return a mask's pixels as those of the upright image, and if they were turned."""
    size = pixels.shape[:2]
    if size == tuple(image.size):
        return pixels, False
    if size == tuple(image.stored_size):
        return images.upright(pixels, image.orientation), True
    raise ValueError(
        f"Expected a mask of its image's size, {tuple(image.size)} (height, "
        f"width). Received: {path} of {size}"
    )


def _check_values(values, num_classes):
    kinds = {
        len(key) if isinstance(key, tuple) else 0 if type(key) is int else -1
        for key in values
    }
    ids = values.values() if isinstance(values, dict) else ["none"]
    if kinds not in ({0}, {3}) or not all(type(number) is int for number in ids):
        raise ValueError(
            "Expected mask_values, a dict of pixel values, or of colors (red, green, "
            f"blue), to class ids. Received: mask_values={values!r}"
        )
    wrong = set(ids) - {*range(num_classes), IGNORE_CLASS}
    if wrong:
        raise ValueError(
            f"Expected class ids of 0 to {num_classes - 1}, or {IGNORE_CLASS} for "
            f"unknown, in mask_values. Received: {min(wrong)}"
        )


def read_palette(path, class_names):
    """Read the colors of classes from a text file, such as CVAT's `labelmap.txt`.

    Args:
        path: str; a line is `name:red,green,blue`, more after another colon is
            ignored, as are lines that start with `#`.
        class_names: sequence of str; `ignore` and `void` are unknown pixels.

    Returns:
        dict of color to class id, as `read_file` takes it.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for a line in another form, or an unknown class.
    """
    ids = dict(_UNKNOWN_NAMES) | {name: k for k, name in enumerate(class_names)}
    values = {}
    for number, line, name, color in _color_lines(path):
        if name not in ids:
            raise ValueError(
                f"Expected classes among {', '.join(class_names)}. Received: line "
                f"{number} of {path}: {name!r}"
            )
        if values.setdefault(color, ids[name]) != ids[name]:
            raise ValueError(
                f"Expected one class per color. Received: line {number} of {path}: "
                f"{line[:80]!r}"
            )
    return values


def palette_names(path):
    """Return the classes of a text file as read by `read_palette`.

    Args:
        path: str.

    Returns:
        list of str in the file's order, but `background` first.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for a line in another form.
    """
    names = dict.fromkeys(name for _, _, name, _ in _color_lines(path))
    named = [name for name in names if name not in _UNKNOWN_NAMES]
    return sorted(named, key=lambda name: name.lower() != "background")


def _color_lines(path):
    """Yield the number, text, name and color of each line of a file of colors."""
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"Expected a file with a color per class. Received: mask_values={path!r}"
        )
    with open(path, encoding="utf-8-sig") as file:
        lines = [line.strip() for line in file]
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            color = tuple(int(value) for value in rest.split(":")[0].split(","))
        except ValueError:
            color = ()
        if len(color) != 3 or not all(0 <= value <= 255 for value in color):
            raise ValueError(
                f"Expected name:red,green,blue. Received: line {number} of {path}: "
                f"{line[:80]!r}"
            )
        yield number, line, name, color


def _mapped(pixels, values, path):
    """Return the class ids of pixels with the given values or colors."""
    keys = np.array([np.dot(key, _COLOR_WEIGHTS) if isinstance(key, tuple) else key
                     for key in values])  # fmt: skip
    if pixels.ndim == 3:
        pixels = pixels @ _COLOR_WEIGHTS
    order = np.argsort(keys)
    places = order[np.minimum(np.searchsorted(keys[order], pixels), len(keys) - 1)]
    wrong = keys[places] != pixels
    if wrong.any():
        value = int(pixels[wrong][0])
        if _has_colors(values):
            value = _color(value)
        raise ValueError(
            f"Expected the values {', '.join(map(str, values))} of mask_values. "
            f"Received: {path} with {value}"
        )
    return np.array(list(values.values()))[places]


def confident(mask, confidence, score_threshold):
    """Set pixels below the confidence threshold to `IGNORE_CLASS`.

    Args:
        mask: uint8 `[h, w]`.
        confidence: uint8 `[h, w]`, 255 times a probability, rounded.
        score_threshold: float in 0…1. At 0.5, exactly the pixels with a probability
            of at least 0.5 are kept; other thresholds are exact to 1 / 510.

    Returns:
        uint8 `[h, w]`.

    Source: paper section 4 (pixels below 0.5 are ignored).
    """
    is_confident = tf.cast(confidence, tf.float32) >= 255.0 * score_threshold
    return tf.where(is_confident, mask, tf.constant(IGNORE_CLASS, mask.dtype))
