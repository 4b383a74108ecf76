"""Folders of images, unlabeled or with one folder per class."""

import dataclasses
import os
import pathlib

import numpy as np

from official_selftrain.data import examples, ledger
from official_selftrain.data.images import ENDINGS


def folder(images, pixel_range=None):
    """Read unlabeled images from a folder or glob.

    No file is opened: unreadable images are reported when they are labeled. Folders
    are searched recursively, following links and visiting each folder once; `**` in a
    glob does not follow links. Hidden files and files without an image extension are
    skipped.

    Args:
        images: str, path of a folder or a pattern such as `"photos/*.jpg"`.
        pixel_range: as of `examples.with_pixel_range`.

    Returns:
        `examples.Source` without labels; ids number the paths in sorted order. Broken
        links are listed in `skipped`.

    Raises:
        FileNotFoundError: if no image is found.

    Source: own.
    """
    ids, paths, skipped, others = image_paths(images)
    root = images if os.path.isdir(images) else None
    book = ledger.Ledger(len(paths) + len(skipped) + len(others))
    book.images.put("link", len(skipped))
    book.images.put("foreign", len(others))
    counts = np.zeros((len(paths), 2), np.int64)
    book.close(images, counts, has_labels=False)
    source = examples.from_paths(paths, ids, skipped, root)
    source = examples.with_pixel_range(source, pixel_range)
    return dataclasses.replace(source, account=lambda: (counts, book))


def image_paths(images):
    """Return the image files of a folder or glob.

    Args:
        images: as in `folder`.

    Returns:
        `(ids, paths, skipped, others)`: ints, the positions in sorted order; str; a
        line for each broken link; the files that aren't images by their names.

    Raises:
        FileNotFoundError: if no image is found.
    """
    found = sorted(_walk(images) if os.path.isdir(images) else _glob(images))
    paths = [path for path in found if path.lower().endswith(ENDINGS)]
    others = [path for path in found if not path.lower().endswith(ENDINGS)]
    others += [path for path in paths if os.path.isdir(path)]
    files = [(index, path) for index, path in enumerate(paths) if os.path.isfile(path)]
    if not files:
        raise FileNotFoundError(
            f"Expected images ({', '.join(ENDINGS)}). Received: images={images!r}"
        )
    skipped = [f"{path}: a broken link" for path in paths if not os.path.exists(path)]
    ids, paths = zip(*files)
    return ids, paths, skipped, others


def class_folders(folder):
    """Read classified images laid out as `FOLDER/CLASS/NAME.jpg`.

    An image's class is that of a box that covers it. The images can pre-train a
    backbone (`models.ImageClassifier`) or serve for joint training
    (`classified` of `experiment.Data`).

    Args:
        folder: str, path of the folder. Each subfolder that isn't hidden is a class and
            is searched recursively. The classes are sorted by name.

    Returns:
        `examples.Source`; ids number the images.

    Raises:
        TypeError: if `folder` is not a path.
        FileNotFoundError: if the folder doesn't exist, or a class has no images.
        ValueError: for fewer than two classes.

    Source: own.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"Expected folder, a path. Received: folder={folder!r}")
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"Expected a folder of class folders. Received: folder={folder!r}"
        )
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and entry.name[0] != "."
    )
    if len(names) < 2:
        raise ValueError(
            "Expected a folder for each of at least two classes. Received: "
            f"folder={folder!r} with {len(names)}"
        )
    records, skipped, others = [], [], []
    for label, name in enumerate(names):
        _, paths, broken, foreign = image_paths(os.path.join(folder, name))
        skipped += broken
        others += foreign
        for path in paths:
            whole = examples.whole_image(label)
            records.append({"path": path, "id": len(records), **whole})
    source = examples.from_records(records, names, skipped=skipped, folder=folder)

    def account():
        book = source.ledger
        book.images.held += len(skipped) + len(others)
        book.images.put("link", len(skipped))
        book.images.put("foreign", len(others))
        return source.box_counts, book

    return dataclasses.replace(source, account=account)


def _walk(folder):
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
        else:
            yield from (os.path.join(place, name) for name in names if name[0] != ".")
        seen.add(real)


def _glob(pattern):
    path = pathlib.Path(pattern)
    start = path.anchor or "."
    if pattern == "" or str(path) == start:
        return
    for match in pathlib.Path(start).glob(str(path.relative_to(path.anchor))):
        if match.name[0] != ".":
            yield str(match)
