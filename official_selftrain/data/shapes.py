"""Outlines and masks of objects in COCO's forms."""

import numpy as np

from official_selftrain.data import images


def box(segmentation, size=(None, None)):
    """Return the box around an object's outline or mask.

    Args:
        segmentation: list of polygons, each a list of x and y in turn, or one such
            list; or a run-length encoded mask, dict of `size` and `counts`. Anything
            else is accepted, too.
        size: (width, height) of the image, if known; a mask of another size with the
            same ratio belongs to a resized image.

    Returns:
        list of x, y, width and height in pixels, or None without a usable shape.

    Source: format of cocodataset.org.
    """
    if isinstance(segmentation, dict):
        return _scaled(_box_of_mask(segmentation), segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        rows = [np.array(p, np.float64) for p in polygons]
        if any(row.ndim > 1 and row.shape[-1] != 2 for row in rows):
            return None  # x, y and another number
        points = np.concatenate([row.reshape(-1, 2) for row in rows])
    except (OverflowError, TypeError, ValueError):
        return None
    if len(points) < 2 or not np.isfinite(points).all():
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _scaled(box, encoded, size):
    """Return a mask's box in the pixels of the image; None for another image's."""
    if box is None or None in size or encoded["size"] == [size[1], size[0]]:
        return box
    if not images.is_resized(encoded["size"], size[::-1]):
        return None
    ratios = size[0] / encoded["size"][1], size[1] / encoded["size"][0]
    return [side * ratio for side, ratio in zip(box, ratios * 2)]


def _box_of_mask(encoded):
    size, counts = encoded.get("size"), encoded.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return None
    if not all(type(side) is int and 0 < side < 2**16 for side in size):
        return None
    counts = _counts(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(
        type(n) is int and n >= 0 for n in counts
    ):
        return None
    ends = np.cumsum(np.array(counts, np.float64))
    if not len(ends) or ends[-1] != size[0] * size[1]:
        return None
    # Pixels are counted along columns; the first run is background.
    start, end = ends[:-1:2].astype(np.int64), ends[1::2].astype(np.int64)
    start, end = start[end > start], end[end > start]
    if not len(start):
        return None
    (left, top), (right, bottom) = (
        np.divmod(start, size[0]),
        np.divmod(end - 1, size[0]),
    )
    if (left != right).any():  # from one column to the next
        top, bottom = np.zeros(1, np.int64), np.array([size[0] - 1])
    x, y = int(left.min()), int(top.min())
    return [x, y, int(right.max()) + 1 - x, int(bottom.max()) + 1 - y]


def _counts(text):
    """Decode the runs of COCO's compressed masks; None for anything else."""
    counts, value, shift = [], 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            return None
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:  # more follows
            continue
        if code & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    return None if shift else counts
