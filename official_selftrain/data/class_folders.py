"""Images whose folders name their classes, as classification data sets have them."""

import os

from official_selftrain.data import examples, sources


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
        found = sources.folder(os.path.join(folder, name))
        skipped += found.skipped
        for example in found.dataset.as_numpy_iterator():
            path = example["path"].decode()
            whole = examples.whole_image(label)
            records.append({"path": path, "id": len(records), **whole})
    return examples.from_records(records, names, skipped=skipped)
