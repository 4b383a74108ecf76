"""Checks of values that would train a model wrongly without an error.

They read arrays, so they cost nothing in graphs: a model checks the first labels that
it gets outside of one, and `SelfTrainer.fit` the first batch of its data.

Letters in shapes: B batch, H W pixels, M label slots.
"""

import weakref

import numpy as np

# What labels may hold beside classes, and what it means.
OTHER = {"classes": (-1, "-1 as padding"), "mask": (255, "255 where it is unknown")}

# Interpolation overshoots: by an eighth of the range in either direction, at most.
_HIGHEST_PIXEL = 320.0

# Boxes of fractions end at 1; rounding and augmentation may add a little.
_LARGEST_FRACTION = 2.0

# Pixels by which a box may reach out of the frame: annotations are rounded.
_BEYOND_FRAME = 1.0

_checked = weakref.WeakSet()


def check_first(model, labels):
    """Check the first labels that a model gets outside of graphs.

    Args:
        model: model with `check_labels`.
        labels: dict, as passed to `compute_losses`.

    Raises:
        ValueError: as `check_labels` does.
    """
    if model in _checked or not all(map(_has_values, labels.values())):
        return
    model.check_labels(labels)
    mark(model)


def mark(model):
    """Let `check_first` pass over a model, whose labels need no check."""
    _checked.add(model)


def _has_values(tensor):
    return isinstance(tensor, np.ndarray) or hasattr(tensor, "numpy")


def check_images(labels, image_size, where=""):
    """Check the scale of a batch's pixels, and the weights of its images.

    An image may be dark: values of 0 and 1 alone are those of a dark one, fractions of
    at most 1 aren't.

    Args:
        labels: dict, possibly with `images` `[B, H, W, 3]` and `sample_weights` `[B]`.
        image_size: (height, width) of the model's frame in pixels.
        where: str, what the labels belong to, as `" of the stream labeled"`.

    Raises:
        ValueError: for images of another shape or scale, or negative weights.
    """
    count = "B"
    if "images" in labels:
        images = _array(labels, "images", ("B", *image_size, 3), where)
        count = len(images)
        _check_scale(images, where)
    unused = [k for k in labels if "weight" in k and k != "sample_weights"]
    if unused:
        raise ValueError(
            f"Expected weights of images{where} as sample_weights, float [B]. "
            f"Received: {unused[0]}"
        )
    if "sample_weights" in labels:
        weights = _array(labels, "sample_weights", (count,), where).astype("float64")
        wrong = weights[~((weights >= 0.0) & (weights < np.inf))]
        if wrong.size:
            raise ValueError(
                f"Expected sample_weights{where} of at least 0. Received: {wrong[0]:g}"
            )


def _check_scale(images, where):
    if not images.size:
        return
    lowest, highest = float(images.min()), float(images.max())
    is_fraction = 0.0 < highest <= 1.0 and bool((images % 1 != 0).any())
    # Interpolation makes few values negative, normalization half of them.
    is_centered = lowest < min(-highest / 4.0, -0.01)
    is_finite = np.isfinite(lowest) and np.isfinite(highest)
    if is_fraction or is_centered or highest > _HIGHEST_PIXEL or not is_finite:
        raise ValueError(
            f"Expected images{where} of 0 to 255, RGB: the model normalizes them "
            f"itself. Received: values of {lowest:.4g} to {highest:.4g}"
        )


def check_classes(labels, key, num_classes, where=""):
    """Check the classes of boxes.

    Args:
        labels: dict with `key`, numbers of any shape.
        key: `"classes"` or `"mask"`.
        num_classes: int K.
        where: as in `check_images`.

    Raises:
        ValueError: for classes counted from 1, and for a class that isn't one.
    """
    values = np.asarray(labels[key])
    check_start(values, key, num_classes, where)
    wrong = values[is_wrong(values, key, num_classes)]
    if wrong.size:
        raise ValueError(f"{expected(key, num_classes, where)} {wrong[0]}")


def check_start(values, key, num_classes, where=""):
    """Check that classes are counted from 0.

    Args:
        values: array of numbers.
        key, num_classes, where: as in `check_classes`.

    Raises:
        ValueError: if class K occurs, and class 0 doesn't.
    """
    ids = values[values != OTHER[key][0]]
    if ids.size and ids.min() == 1 and ids.max() == num_classes:
        raise ValueError(
            f"{expected(key, num_classes, where)} 1 to {num_classes}, which are "
            "counted from 1: subtract 1"
        )


def is_wrong(values, key, num_classes):
    """Return which values are neither a class nor padding, bool.

    Args:
        values: array or tensor of numbers.
        key, num_classes: as in `check_classes`.
    """
    # Not a number isn't in the range.
    is_class = (values >= 0) & (values < num_classes)
    is_whole = values == values // 1
    return ~(is_class & is_whole) & (values != OTHER[key][0])


def expected(key, num_classes, where=""):
    """Return the start of the message about a wrong class, str."""
    return (
        f"Expected labels of classes 0 to {num_classes - 1}, {OTHER[key][1]}, in "
        f"{key}{where}. Received:"
    )


def check_boxes(labels, num_classes, image_size, where=""):
    """Check a detector's labels: shapes, classes, and what boxes are in.

    Args:
        labels: dict with `boxes`, `classes`, `ignore` and possibly `scores`.
        num_classes: int K.
        image_size: (height, width) of the frame in pixels.
        where: as in `check_images`.

    Raises:
        ValueError: for the first fault that is found.
    """
    boxes = _array(labels, "boxes", ("B", "M", 4), where).astype("float64")
    if "images" in labels and len(labels["images"]) != len(boxes):
        raise ValueError(
            f"Expected boxes{where} for each image. Received: {len(boxes)} for "
            f"{len(labels['images'])} images"
        )
    slots = boxes.shape[:2]
    classes = _array(labels, "classes", slots, where)
    ignore = _array(labels, "ignore", slots, where)
    check_classes(labels, "classes", num_classes, where)
    wrong = ignore[~np.isin(ignore, (0, 1))]
    if wrong.size:
        raise ValueError(
            f"Expected ignore{where}, bool or 0 and 1. Received: {wrong[0]:g}"
        )
    is_empty = ~boxes.any(axis=-1)
    if (is_empty & (classes == 0) & (ignore == 0)).any():
        raise ValueError(
            f"Expected -1 as the class of a slot without a box, in classes{where}. "
            "Received: 0 for the box [0, 0, 0, 0]"
        )
    is_used = ((classes >= 0) | (ignore == 1)) & ~is_empty
    _check_places(boxes[is_used], image_size, where)
    if "scores" in labels:
        scores = _array(labels, "scores", slots, where).astype("float64")[is_used]
        wrong = scores[~((scores >= 0.0) & (scores <= 1.0))]
        if wrong.size:
            raise ValueError(
                f"Expected scores{where} of 0 to 1. Received: {wrong[0]:g}"
            )


def _check_places(boxes, image_size, where):
    """Check that boxes `[N, 4]` are corners in pixels of the frame."""
    start = (
        f"Expected boxes{where}, (ymin, xmin, ymax, xmax) in pixels of the frame of "
        f"{image_size[0]} x {image_size[1]}. Received:"
    )
    if len(boxes) and boxes.max() <= _LARGEST_FRACTION < min(image_size):
        raise ValueError(
            f"{start} coordinates of at most {boxes.max():g}, which are fractions of "
            "its size: multiply by it"
        )
    wrong = boxes[~_fit(boxes, image_size)]
    if not len(wrong):
        return
    y, x, third, fourth = boxes.T
    forms = {
        "(xmin, ymin, xmax, ymax)": (x, y, fourth, third),
        "(x, y, width, height)": (x, y, x + fourth, y + third),
    }
    fitting = [
        name
        for name, corners in forms.items()
        if _fit(np.stack(corners, axis=-1), image_size).all()
    ]
    as_form = f", where all boxes fit as {' and '.join(fitting)}" if fitting else ""
    first = ", ".join(f"{value:g}" for value in wrong[0])
    raise ValueError(f"{start} [{first}]{as_form}")


def _fit(boxes, image_size):
    """Return which boxes `[N, 4]` start before they end and lie in the frame."""
    starts, ends = boxes[:, :2], boxes[:, 2:]
    is_inside = (starts >= -_BEYOND_FRAME) & (ends <= np.add(image_size, _BEYOND_FRAME))
    return ((starts <= ends) & is_inside).all(axis=-1)


def check_mask(labels, num_classes, image_size, where=""):
    """Check a segmenter's labels: their size, and that classes are counted from 0.

    Args:
        labels: dict with `mask` `[B, H, W]`.
        num_classes: int K.
        image_size: (height, width) of the frame in pixels.
        where: as in `check_images`.

    Raises:
        ValueError: for the first fault that is found.
    """
    mask = _array(labels, "mask", ("B", *image_size), where)
    fractions = mask[mask != mask // 1]
    if fractions.size:
        raise ValueError(
            f"Expected mask{where}, whole numbers. Received: {fractions[0]:g}"
        )
    check_start(mask, "mask", num_classes, where)


def _array(labels, key, shape, where):
    """Return labels as an array of a shape, whose letters stand for any size."""
    form = f"numbers [{', '.join(map(str, shape))}]"
    if key not in labels:
        raise ValueError(
            f"Expected {key}{where}, {form}. Received: keys={sorted(labels)}"
        )
    values = np.asarray(labels[key])
    is_number = values.dtype.name.startswith(("int", "uint", "float", "bfloat"))
    is_number |= key == "ignore" and values.dtype == bool
    fits = values.ndim == len(shape) and all(
        isinstance(wanted, str) or wanted == size
        for wanted, size in zip(shape, values.shape)
    )
    if not fits or not is_number:
        raise ValueError(
            f"Expected {key}{where}, {form}. Received: {values.dtype.name} of shape "
            f"{values.shape}"
        )
    return values
