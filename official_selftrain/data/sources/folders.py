"""Folders of images, unlabeled or with a folder for each class."""

import os
import pathlib

from official_selftrain.data import examples

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def folder(images):
    """Read a folder, or a glob, of images that nobody has labeled.

    No file is opened: images that can't be read show when they are labeled. Folders
    are searched recursively and links to folders followed, each folder once; the `**`
    of a glob follows no links. Hidden files and those whose ending is no image's are
    passed over.

    Args:
        images: str, path of a folder or a pattern such as `"photos/*.jpg"`.

    Returns:
        `examples.Source` without labels; ids count the paths in sorted order. A link
        that leads nowhere is named in `skipped`.

    Raises:
        FileNotFoundError: if there is no image.

    Source: own.
    """
    return _read(images)


def _read(images):
    paths = _walk(images) if os.path.isdir(images) else _glob(images)
    paths = sorted(path for path in paths if path.lower().endswith(_IMAGE_ENDINGS))
    files = [(index, path) for index, path in enumerate(paths) if os.path.isfile(path)]
    if not files:
        raise FileNotFoundError(
            f"Expected images ({', '.join(_IMAGE_ENDINGS)}). "
            f"Received: images={images!r}"
        )
    skipped = [
        f"{path}: a link that leads to no file"
        for path in paths
        if not os.path.exists(path)
    ]
    ids, paths = zip(*files)
    return examples.from_paths(paths, ids, skipped)


def class_folders(folder):
    """Read images laid out as `FOLDER/CLASS/NAME.jpg`, with a class each.

    An image's class is that of a box that covers it: images to pre-train a backbone
    with (`models.ImageClassifier`) or for joint training (`experiment.run`'s
    `classified`).

    Args:
        folder: str, path of the folder; a class is each folder in it that isn't hidden,
            with all folders in that one. The classes are in the order of their names.

    Returns:
        `examples.Source`; ids count the images.

    Raises:
        TypeError: if `folder` is no path.
        FileNotFoundError: if there is no folder, or one of a class without images.
        ValueError: for less than two classes.

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
    records, skipped = [], []
    for label, name in enumerate(names):
        found = _read(os.path.join(folder, name))
        skipped += found.skipped
        for example in found.dataset.as_numpy_iterator():
            path = example["path"].decode()
            whole = examples.whole_image(label)
            records.append({"path": path, "id": len(records), **whole})
    return examples.from_records(records, names, skipped=skipped)


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
    for found in pathlib.Path(start).glob(str(path.relative_to(path.anchor))):
        if found.name[0] != ".":
            yield str(found)
