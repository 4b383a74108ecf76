"""Find the same image twice: as a copy, moved, renamed, or saved in another format.

An image's look is its thumbnail, `[64, 64, 3]`: each pixel is the mean of a part of
the image, which saving it in another format hardly changes. Two frames of a video, or
two filled-in forms, differ somewhere, and are no copies.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import math
import os
import re

import numpy as np
import tensorflow as tf
from PIL import Image

from official_selftrain.data import images, problems
from official_selftrain.files import hashes

_SIDE, _COARSE = 64, 16

# Copies differ by at most this, of 255: on average in thumbnails of 16 x 16, and
# anywhere in gray ones of 64 x 64. Measured on photographs and micrographs that were
# saved as JPEG with a quality of 40, or half or twice as large (1.6 and 15).
_MEAN_DIFFERENCE = 2.0
_LARGEST_DIFFERENCE = 16.0

# Thumbnails of fewer levels, such as those of plain images, are no look.
_LEAST_CONTRAST = 2.0

# Successive frames of a clip: correlation of the thumbnails, and mean difference.
_CLIP_CORRELATION = 0.9
_CLIP_DIFFERENCE = 20.0

# Names that tools add to files of the same image or clip.
_HASH = re.compile(r"(\.rf)?[._-][0-9a-f]{16,}(?=[._-]|$)")

# Images of a source whose looks are compared with those of others.
_COMPARED = 300

# Rows whose distances to all others are computed at once.
_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Looks:
    """Images by their contents.

    Attributes:
        paths: list of str, their names.
        thumbnails: uint8 `[n, 64, 64, 3]`.
        digests: list of str, the files' SHA-256.
    """

    paths: list
    thumbnails: np.ndarray
    digests: list

    def __add__(self, other):
        return Looks(
            [*self.paths, *other.paths],
            np.concatenate([self.thumbnails, other.thumbnails]),
            [*self.digests, *other.digests],
        )

    def without_looks(self):
        """Return the images by their files only: copies in other formats differ."""
        return Looks(self.paths, NOTHING.thumbnails, self.digests)

    def part(self, rows):
        """Return the images of the given rows."""
        paths, digests = (
            [names[k] for k in rows] for names in (self.paths, self.digests)
        )
        return Looks(paths, self.thumbnails[list(rows)], digests)


NOTHING = Looks([], np.zeros((0, _SIDE, _SIDE, 3), np.uint8), [])


def thumbnail(pixels):
    """Return the thumbnail of an image.

    Args:
        pixels: uint8 `[h, w, 3]`.

    Returns:
        uint8 `[64, 64, 3]`, weighted means of parts that overlap by half.
    """
    # Parts without overlap would differ where an image was resized. Large images are
    # reduced by a whole number first, which is faster.
    image = Image.fromarray(np.asarray(pixels))
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)


def matches(one, other, before=False):
    """Find each image of one set in another, by its look.

    Args:
        one: `Looks` of n images.
        other: `Looks`.
        before: bool; True: both sets are the same one, and an image is only looked for
            among those before it.

    Returns:
        int `[n]`, the index of the same image in `other`, or -1.

    Source: own; thresholds by measurement, see above.
    """
    found = np.full(len(one.paths), -1)
    if not len(one.thumbnails) or not len(other.thumbnails):
        return found
    small, small_other = _means(one.thumbnails), _means(other.thumbnails)
    coarse, coarse_other = (
        _means(x, 4).reshape(len(x), -1) for x in (small, small_other)
    )
    # The squares of differences up to a largest one have a mean of at most it times
    # the differences' mean; the means of parts don't differ by more.
    most = coarse.shape[1] * _MEAN_DIFFERENCE * _LARGEST_DIFFERENCE
    has_look = _centered(small).std(axis=1) >= _LEAST_CONTRAST
    for start in range(0, len(small), _CHUNK):
        distances = _squared_distances(coarse[start : start + _CHUNK], coarse_other)
        for row in np.flatnonzero((distances <= most).any(axis=1)) + start:
            end = row if before else None
            candidates = np.flatnonzero(distances[row - start, :end] <= most)
            difference = np.abs(small[row] - small_other[candidates])
            is_same = difference.mean(axis=(1, 2, 3)) <= _MEAN_DIFFERENCE
            candidates = candidates[is_same]
            fine = one.thumbnails[row].mean(axis=-1)
            difference = np.abs(fine - other.thumbnails[candidates].mean(axis=-1))
            is_same = difference.max(axis=(1, 2)) <= _LARGEST_DIFFERENCE
            if is_same.any() and has_look[row]:
                found[row] = candidates[is_same.argmax()]
    return found


def _means(thumbnails, side=_COARSE):
    """Return the means of side x side parts, float32 `[n, side, side, 3]`."""
    count, size = thumbnails.shape[:2]
    parts = (count, side, size // side, side, size // side, 3)
    return thumbnails.reshape(parts).mean(axis=(2, 4), dtype=np.float32)


def _centered(thumbnails):
    """Return thumbnails `[n, pixels]` without the mean of each channel."""
    centered = thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True)
    return centered.reshape(len(thumbnails), -1)


def _squared_distances(one, other):
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None]
    return squares - 2.0 * one @ other.T


def groups(names, looks):
    """Group images that a split must keep together: copies, and frames of a clip.

    Frames of a clip have names that differ in one number only, follow each other in
    its order, and look alike.

    Args:
        names: list of str, file names.
        looks: `Looks` of the same images.

    Returns:
        list of int, the index of the first image of each image's group.

    Source: own.
    """
    pairs = [
        (index, int(found))
        for index, found in enumerate(matches(looks, looks, before=True))
        if found >= 0
    ]
    small = _means(looks.thumbnails)
    for frames in _numbered(names):
        pairs += [p for p in zip(frames, frames[1:]) if _follows(small[list(p)])]
    return joined(range(len(names)), pairs)


def joined(keys, pairs):
    """Join groups: return the group of each image after some pairs became one.

    Args:
        keys: list of the images' groups.
        pairs: list of pairs of indices whose groups are the same.

    Returns:
        list like `keys`.
    """
    keys = list(keys)
    owners = {key: key for key in keys}

    def owner(key):
        while owners[key] != key:
            owners[key] = key = owners[owners[key]]
        return key

    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    for one, other in pairs:
        first, second = sorted((owner(keys[one]), owner(keys[other])), key=order.get)
        owners[second] = first
    return [owner(key) for key in keys]


def _numbered(names):
    """Return lists of indices of names that differ in one number, in its order."""
    series = collections.defaultdict(list)
    for index, name in enumerate(names):
        stem, ending = os.path.splitext(name)
        parts = re.split(r"(\d+)", _HASH.sub("", stem))
        for place in range(1, len(parts), 2):
            others = (*parts[:place], None, *parts[place + 1 :])
            series[others, ending.lower()].append((int(parts[place]), index))
    return [[index for _, index in sorted(frames)] for frames in series.values()]


def _follows(pair):
    """Return whether two thumbnails `[2, 16, 16, 3]` may be frames of a clip."""
    if np.abs(pair[0] - pair[1]).mean() > _CLIP_DIFFERENCE:
        return False
    one, other = _centered(pair)
    if min(one.std(), other.std()) < _LEAST_CONTRAST:
        return False
    return np.corrcoef(one, other)[0, 1] >= _CLIP_CORRELATION


def shared(one, other):
    """Return the images of one set that are in another, too.

    Args:
        one: `Looks`.
        other: `Looks`.

    Returns:
        list of `(name, name in other)`.
    """
    places = {digest: name for digest, name in zip(other.digests, other.paths)}
    found = matches(one, other)
    pairs = []
    for name, digest, index in zip(one.paths, one.digests, found):
        if digest in places:
            pairs.append((name, places[digest]))
        elif index >= 0:
            pairs.append((name, other.paths[index]))
    return pairs


def same_files(one, other):
    """Return the image files of one source that are in another, byte for byte.

    Only files of one size are read.

    Args:
        one: `examples.Source`.
        other: `examples.Source`.

    Returns:
        list of `(path, path in other)`.
    """
    sizes = [_paths_by_size(source) for source in (one, other)]
    pairs = []
    for size in sizes[0].keys() & sizes[1].keys():
        places = {hashes.sha256(path): path for path in sizes[1][size]}
        for path in sizes[0][size]:
            digest = hashes.sha256(path)
            if digest in places:
                pairs.append((path, places[digest]))
    return sorted(pairs)


def overlaps(used, most=_COMPARED):
    """Find images that are in two of several sources.

    Files are compared by their bytes, all of them; looks for up to `most` images of
    each source.

    Args:
        used: dict of name to `examples.Source`, the last ones to be kept apart most.
        most: int.

    Returns:
        list of `(one, other, pairs, count)`: two names, the images of the first that
        are in the second, as of `shared`, and how many were looked for.
    """
    looks = {name: of_source(source, most) for name, source in used.items()}
    found = []
    for one, other in itertools.combinations(reversed(used), 2):
        pairs, count = shared(looks[one], looks[other]), len(looks[one].paths)
        sizes = [used[name].num_images for name in (one, other)]
        if max(sizes) > most and not pairs:
            pairs, count = same_files(used[one], used[other]), sizes[0]
        if pairs:
            found.append((one, other, pairs, count))
    return found


def _paths_by_size(source):
    paths = source.dataset.map(lambda example: example["path"]).as_numpy_iterator()
    by_size = collections.defaultdict(list)
    for path in (path.decode() for path in paths if path):
        if os.path.isfile(path):
            by_size[os.path.getsize(path)].append(path)
    return by_size


def of_source(source, most):
    """Return the looks of a source's images, or of some of them.

    Args:
        source: `examples.Source`.
        most: int; of more images in files those at even distances are taken, of others
            the first ones.

    Returns:
        `Looks` of the images that can be decoded.
    """
    dataset = source.dataset
    in_files = any(bool(e["path"].numpy()) for e in dataset.take(1))
    if in_files:
        dataset = dataset.shard(math.ceil(source.num_images / most) or 1, 0)
    keys = ("path", "encoded", "id", "pixel_range")
    taken = [
        {key: example[key].numpy() for key in keys if key in example}
        for example in dataset.take(most)
    ]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = [look for look in pool.map(_look, taken) if look]
    if not looks:
        return NOTHING
    names, thumbnails, digests = zip(*looks)
    return Looks(list(names), np.stack(thumbnails), list(digests))


def _look(example):
    """Return an example's name, thumbnail and digest; None if it's unreadable."""
    name = problems.name(example)
    try:
        contents = example["encoded"] or tf.io.read_file(example["path"]).numpy()
        pixels = images.decode_file(contents, example.get("pixel_range")).numpy()
    except tf.errors.OpError:
        return None
    digest = hashlib.sha256(contents).hexdigest()
    return name, thumbnail(pixels), digest
