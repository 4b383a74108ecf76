"""Find the images of a source that can't be used, and the reasons."""

import contextlib
import os

import tensorflow as tf

from official_selftrain.checks import messages, progress
from official_selftrain.data import examples, images


def unreadable_images(source):
    """Return one line for each image of a source that can't be used.

    Args:
        source: `examples.Source`.

    Returns:
        list of str: the file or id, and the reason.
    """
    every = progress.over(source.dataset, source.num_images, "search", "image")
    checked = ((example, problem(example, source)) for example in every)
    return [f"{name(example)}: {reason}" for example, reason in checked if reason]


@contextlib.contextmanager
def unreadable_images_named(source):
    """Convert a decoding error in the pipeline into one that names the image.

    Args:
        source: `examples.Source` that the pipeline reads.

    Raises:
        ValueError: naming the first image that can't be used, and their number.
    """
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        lines = unreadable_images(source)
        if not lines:
            raise
        raise ValueError(
            f"Expected readable images. Received: {lines[0]} "
            f"({len(lines)} of {source.num_images} images can't be read)"
        ) from None


def check_sizes(source, count=64):
    """Check that the first images have the shape that their labels state.

    Only headers are read; what is wrong with the other images is found when they are.

    Args:
        source: `examples.Source`.
        count: int, number of images.

    Raises:
        ValueError: naming the first image of another shape, and their number.
    """
    lines = []
    for example in source.dataset.take(count):
        path = example["path"].numpy()
        if "stated_size" not in example or not path:
            continue
        found = images.header(path)
        if found and not examples.fits(example, found.size):
            lines.append(f"{name(example)}: {problem(example, source)}")
    if lines:
        raise ValueError(
            "Expected images of the shape that their labels state. Received: "
            f"{lines[0]} ({len(lines)} of the first "
            f"{min(count, source.num_images)} images)"
        )


def check_places(source, count=10_000):
    """Check that the first images are where their source says.

    Args:
        source: `examples.Source` of images in files; nothing is checked if the first
            ones are stored in it.
        count: int, number of images.

    Raises:
        FileNotFoundError: naming the first image that isn't there, and their number.
    """
    places = source.dataset.map(lambda example: example["path"])
    if not any(places.take(64).as_numpy_iterator()):
        return
    paths = [path.decode() for path in places.take(count).as_numpy_iterator() if path]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(
            "Expected the images of the labels where they were when they were labeled. "
            f"Received: no {missing[0]!r} ({len(missing)} of the first {len(paths)} "
            "images are missing); start in the folder in which they were labeled, move "
            "the images back, or label again, with --embed_images to move labels alone"
        )


def name(example):
    """Return the path of an example's image, or its id if it has no path."""
    path = example["path"]
    path = path.numpy() if tf.is_tensor(path) else path
    return path.decode() or f"id {int(example['id'])}"


def problem(example, source):
    """Return why an image can't be used, or None if it can.

    Either the image can't be decoded, or its mask doesn't match it.

    Args:
        example: dict, an example of the source.
        source: `examples.Source`.

    Returns:
        str or None.
    """
    try:
        image = examples.read_image(example)
        if source.has_masks:
            size = tf.shape(image)[:2]
            examples.read_mask(example, size)
    except tf.errors.OpError as error:
        return reason(error)
    return None


def reason(error):
    """Return the readable part of a TensorFlow error's message.

    Args:
        error: `tf.errors.OpError`.

    Returns:
        str.
    """
    return messages.readable(error.message) or "can't be decoded"
