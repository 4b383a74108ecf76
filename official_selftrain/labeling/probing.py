"""What a teacher finds if it gets pixels of other values: why it may find nothing."""

import itertools

import numpy as np
import tensorflow as tf

from official_selftrain.data import examples, masks
from official_selftrain.data.sources import pools
from official_selftrain.labeling import opening, served


def advice(job, score_threshold, count=8):
    """Try a teacher on a few images, in every range of pixels and order of channels.

    Args:
        job: `workers.Job` whose labels are mostly empty.
        score_threshold: float in 0…1, minimum score of a label.
        count: int, number of images.

    Returns:
        str, what gives the most labels and the next step; None for a teacher whose
        pixel values aren't a choice.
    """
    source = pools.open_pool(*job.pool)
    teacher = opening.open_teacher(job.teacher, job.pool[0], source)
    if teacher.with_pixels is None:
        return None
    given = served.Pixels(job.teacher.pixel_scale, job.teacher.channels)
    pixels = [
        served.Pixels(*choice)
        for choice in itertools.product(served.PIXEL_SCALES, served.CHANNELS)
    ]
    found = {}
    for choice in [given, *(other for other in pixels if other != given)]:
        found[choice] = _found(teacher, choice, source, score_threshold, count)
    best = max(found, key=lambda choice: found[choice][0])
    labels, mean = found[best]
    if labels <= found[given][0]:
        return (
            f"a trial on {min(count, source.num_images)} images with other ranges of "
            "pixels and orders of channels gives no more labels"
        )
    before = f"{found[given][0]} (mean score {found[given][1]:.2f})"
    flags = " ".join(
        f"--{name}={getattr(best, name)}"
        for name in ("pixel_scale", "channels")
        if getattr(best, name) != getattr(given, name)
    )
    return (
        f"a trial on {min(count, source.num_images)} images gives {labels} labels "
        f"(mean score {mean:.2f}) with pixels of {best.pixel_scale} in "
        f"{best.channels}, instead of {before}: label again with {flags} "
        "and another --output_dir"
    )


def _found(teacher, pixels, source, score_threshold, count):
    """Return the number of labels at the threshold, and the mean of all scores."""
    try:
        variant = teacher.with_pixels(pixels)
        labels = variant.label(list(_items(variant, source, count)))
    # An input of another type, answers that can't be read, or no answer.
    except (ValueError, ConnectionError, tf.errors.OpError):
        return 0, 0.0
    scores = np.concatenate([_scores(one) for one in labels] or [np.zeros(0)])
    mean = float(scores.mean()) if len(scores) else 0.0
    return int((scores >= score_threshold).sum()), mean


def _scores(labels):
    """Return the scores of the boxes, or that of a mask's surest object."""
    if "mask" not in labels:
        return labels["scores"]
    mask = masks.decode(labels["mask"]).numpy()
    confidence = masks.decode(labels["confidence"]).numpy() / 255.0
    objects = confidence[(mask > 0) & (mask != masks.IGNORE_CLASS)]
    return np.array([objects.max(initial=0.0)])


def _items(teacher, source, count):
    """Yield the teacher's inputs of the first images that can be read."""
    for example in source.dataset.take(count):
        try:
            image = examples.read_image(example)
        except tf.errors.OpError:
            continue
        yield {**teacher.prepare(example, image), "size": tf.shape(image)[:2]}
