"""Images whose folders name their classes, as classification data sets have them."""

import os

import numpy as np

from official_selftrain.data import examples, sources

# A box that covers its image, as shares of height and width.
_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)


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
        FileNotFoundError: if there is no folder, or one of a class without images.
        ValueError: for less than two classes.

    Source: own.
    """
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
        found = sources.folder(os.path.join(folder, name))
        skipped += found.skipped
        for example in found.dataset.as_numpy_iterator():
            records.append(
                {
                    "path": example["path"].decode(),
                    "id": len(records),
                    "boxes": _WHOLE,
                    "classes": np.array([label], np.int32),
                    "scores": np.ones(1, np.float32),
                    "ignore": np.zeros(1, bool),
                    "areas": np.zeros(1, np.float32),
                }
            )
    return examples.from_records(records, names, skipped=skipped)
