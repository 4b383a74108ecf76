"""Images to be labeled, from any source, named by one string."""

import glob as globbing
import hashlib
import os

from official_selftrain.data import sources
from official_selftrain.files import hashes


def open_pool(images, image_dir=None, data_dir=None):
    """Open images named on a command line.

    Args:
        images: str: a folder or glob of images; a COCO file (`.json`), with or without
            annotations; TFRecord files (a path or glob with `.tfrecord` in it); or
            `tfds:NAME:SPLIT`, such as `tfds:coco/2017:test`.
        image_dir: str, the folder of a COCO file's images; None: the file's folder.
        data_dir: str, the TFDS data directory.

    Returns:
        `examples.Source` and a dict that identifies these images.

    Raises:
        FileNotFoundError: if there are no such images.
        ValueError: for a file of another type.
    """
    if images.startswith("tfds:"):
        name, _, split = images.removeprefix("tfds:").rpartition(":")
        if not name:
            raise ValueError(f"Expected tfds:NAME:SPLIT. Received: images={images!r}")
        source = sources.tfds(name, split, data_dir)
        return source, {"images": images}
    if images.endswith(".json"):
        image_dir = image_dir or os.path.dirname(images) or "."
        source = sources.coco(images, image_dir)
        described = {"images": images, "image_dir": image_dir}
        return source, {**described, "sha256": hashes.sha256(images)}
    if ".tfrecord" in os.path.basename(images):
        paths = sorted(globbing.glob(images))
        return sources.tfrecord(images, ()), _described(images, paths)
    if not os.path.isdir(images) and os.path.isfile(images):
        raise ValueError(
            "Expected a folder or glob of images, a COCO .json, .tfrecord files or "
            f"tfds:NAME:SPLIT. Received: images={images!r}, a file"
        )
    source = sources.folder(images)
    paths = (example["path"].decode() for example in source.dataset.as_numpy_iterator())
    return source, _described(images, paths)


def _described(images, paths):
    """Return a dict that identifies a list of files and changes with them."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path} {os.path.getsize(path)}\n".encode())
    return {"images": images, "sha256": digest.hexdigest()}
