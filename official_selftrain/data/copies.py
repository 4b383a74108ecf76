"""Find the same image twice: as a copy, moved, renamed, or saved in another format.

An image's look is its thumbnail, `[16, 16, 3]`: each pixel is the mean of a part of
the image, which encoding it anew or resizing it hardly changes. Two frames of a video
differ where something moved, and are no copies; they are a clip if their names are
numbered.
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

_SIDE = 16

# Copies differ by at most this, on average and anywhere, of 255: measured on
# photographs and micrographs saved as JPEG with a quality of 40, or half as large (2.1
# and 13). Successive frames of a time-lapse differ by 24 somewhere.
_MEAN_DIFFERENCE = 2.5
_LARGEST_DIFFERENCE = 14.0

# Thumbnails of fewer gray levels, such as those of black images, are no look.
_LEAST_CONTRAST = 2.0

# Successive frames of a clip: correlation of the thumbnails, and mean difference.
_CLIP_CORRELATION = 0.9
_CLIP_DIFFERENCE = 20.0

# Images of a source whose looks are compared with those of others.
_COMPARED = 500

# Rows whose distances to all others are computed at once.
_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Looks:
    """Images by their contents.

    Attributes:
        paths: list of str, their names.
        thumbnails: uint8 `[n, 16, 16, 3]`.
        digests: list of str, the files' SHA-256; empty if unknown.
    """

    paths: list
    thumbnails: np.ndarray
    digests: list = dataclasses.field(default_factory=list)

    def __add__(self, other):
        return Looks(
            [*self.paths, *other.paths],
            np.concatenate([self.thumbnails, other.thumbnails]),
            [*self.digests, *other.digests],
        )

    def find(self, thumbnail, digest=None):
        """Return the name of the same image, or None.

        Args:
            thumbnail: uint8 `[16, 16, 3]`.
            digest: str, the file's SHA-256, or None.
        """
        if digest is not None and digest in self.digests:
            return self.paths[self.digests.index(digest)]
        index = int(matches(thumbnail[None], self.thumbnails)[0])
        return None if index < 0 else self.paths[index]


NOTHING = Looks([], np.zeros((0, _SIDE, _SIDE, 3), np.uint8))


def thumbnail(pixels):
    """Return the thumbnail of an image.

    Args:
        pixels: uint8 `[h, w, 3]`.

    Returns:
        uint8 `[16, 16, 3]`, the means of 16 x 16 parts.
    """
    small = Image.fromarray(np.asarray(pixels))
    return np.asarray(small.resize((_SIDE, _SIDE), Image.Resampling.BOX))


def matches(one, other, before=False):
    """Find each image of one set in another.

    Args:
        one: uint8 `[n, 16, 16, 3]`, thumbnails.
        other: uint8 `[m, 16, 16, 3]`, thumbnails.
        before: bool; True: both sets are the same one, and an image is only looked for
            among those before it.

    Returns:
        int `[n]`, the index of the same image in `other`, or -1.

    Source: own; thresholds by measurement, see above.
    """
    found = np.full(len(one), -1)
    if not len(one) or not len(other):
        return found
    one, other = (np.reshape(x, (len(x), -1)).astype(np.float32) for x in (one, other))
    coarse, coarse_other = _coarse(one), _coarse(other)
    # Of differences up to a largest one, with a given mean, the squares' mean is at
    # most their product; the means of parts don't differ by more.
    most = coarse.shape[1] * _MEAN_DIFFERENCE * _LARGEST_DIFFERENCE
    has_look = one.std(axis=1) >= _LEAST_CONTRAST
    for start in range(0, len(one), _CHUNK):
        distances = _squared_distances(coarse[start : start + _CHUNK], coarse_other)
        for row in np.flatnonzero((distances <= most).any(axis=1)):
            end = start + row if before else None
            candidates = np.flatnonzero(distances[row, :end] <= most)
            difference = np.abs(one[start + row] - other[candidates])
            is_same = difference.mean(axis=1) <= _MEAN_DIFFERENCE
            is_same &= difference.max(axis=1) <= _LARGEST_DIFFERENCE
            if is_same.any() and has_look[start + row]:
                found[start + row] = candidates[is_same.argmax()]
    return found


def _coarse(thumbnails):
    """Return the means of 4 x 4 parts, `[n, 48]`."""
    parts = thumbnails.reshape(-1, 4, _SIDE // 4, 4, _SIDE // 4, 3)
    return parts.mean(axis=(2, 4)).reshape(len(thumbnails), -1)


def _squared_distances(one, other):
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None]
    return squares - 2.0 * one @ other.T


def groups(names, thumbnails):
    """Group images that a split must keep together: copies, and frames of a clip.

    Frames of a clip have names that differ only in their last number, follow each
    other in its order, and look alike.

    Args:
        names: list of str, file names.
        thumbnails: uint8 `[n, 16, 16, 3]`.

    Returns:
        list of int, the index of the first image of each image's group.

    Source: own.
    """
    owners = list(range(len(names)))

    def owner(index):
        while owners[index] != index:
            owners[index] = index = owners[owners[index]]
        return index

    def join(one, other):
        one, other = sorted((owner(one), owner(other)))
        owners[other] = one

    for index, found in enumerate(matches(thumbnails, thumbnails, before=True)):
        if found >= 0:
            join(index, int(found))
    for frames in _numbered(names):
        for one, other in zip(frames, frames[1:]):
            if _follows(thumbnails[one], thumbnails[other]):
                join(one, other)
    return [owner(index) for index in range(len(names))]


def _numbered(names):
    """Return lists of indices of names that differ in their last number, in order."""
    series = collections.defaultdict(list)
    for index, name in enumerate(names):
        stem, ending = os.path.splitext(name)
        found = re.fullmatch(r"(.*?)(\d+)(\D*)", stem, re.DOTALL)
        if found:
            start, number, end = found.groups()
            series[start, end, ending.lower()].append((int(number), index))
    return [[index for _, index in sorted(frames)] for frames in series.values()]


def _follows(one, other):
    one, other = (np.ravel(x).astype(np.float32) for x in (one, other))
    if np.abs(one - other).mean() > _CLIP_DIFFERENCE:
        return False
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
    found = matches(one.thumbnails, other.thumbnails)
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
    """Return an example's name, thumbnail and digest; None if it can't be decoded."""
    name = problems.name(example)
    try:
        contents = example["encoded"] or tf.io.read_file(example["path"]).numpy()
        pixels = images.decode_file(contents, example.get("pixel_range")).numpy()
    except tf.errors.OpError:
        return None
    return name, thumbnail(pixels), hashlib.sha256(contents).hexdigest()
