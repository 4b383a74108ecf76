"""Figures of images with their labels and predictions."""

import numpy as np
import tensorflow as tf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from official_selftrain.data import examples, masks
from official_selftrain.data.augmentation import augment

DRAWN_SCORE = 0.5  # predictions below it aren't drawn


def samples(source, count):
    """Return the first examples of a source, ready to draw.

    Args:
        source: `examples.Source`.
        count: int.

    Returns:
        list of dicts: `image` uint8 `[h, w, 3]` and `labels`, a dict of title to
        a dict of `boxes` (pixels), `classes`, `scores`, `ignore`, or of `mask`
        `[h, w]`. The source's labels have the title `"labels"`.
    """
    return [sample(example, source) for example in source.dataset.take(count)]


def sample(example, source):
    """Return a single example, as in `samples`.

    Args:
        example: dict of eager tensors.
        source: `examples.Source` of the example.
    """
    image = examples.read_image(example)
    labels = _labels_in_pixels(example, image.shape[:2], source)
    labels = {key: value.numpy() for key, value in labels.items()}
    return {"image": image.numpy(), "labels": {"labels": labels}}


def _labels_in_pixels(example, size, source):
    """Return the boxes or the mask of an example."""
    if source.has_masks:
        mask = examples.read_mask(example, tf.constant(size)).numpy()
        return {"mask": tf.constant(masks.known(mask, len(source.class_names)))}
    labels = {key: example[key] for key in ("classes", "scores", "ignore")}
    labels["boxes"] = example["boxes"] * [*size, *size]
    return labels


def contact_sheet(source, augmentations, image_size, count, seed=0):
    """Draw the first images of a source under several augmentations.

    Args:
        source: `examples.Source` with labels.
        augmentations: dict of title to augmentation (see `data.augmentation.augment`).
        image_size: (height, width) of the frame.
        count: int, number of images.
        seed: int.

    Returns:
        matplotlib `Figure`: one column per image; one row for the original image and
        one per augmentation, with boxes and masks. For box labels, masks are filled
        boxes.
    """
    rows = {"image": augment.fit, **augmentations}
    columns = list(source.dataset.take(count))
    figure = Figure(
        figsize=(1.8 * len(columns), 1.8 * len(rows) + 0.2), layout="constrained"
    )
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for column, example in enumerate(columns):
        image = examples.read_image(example)
        labels = _labels_in_pixels(example, image.shape[:2], source)
        if not source.has_masks:
            labels["mask"] = _painted(labels, image.shape[:2])
        for row, (title, function) in enumerate(rows.items()):
            item_seed = tf.constant([seed, column], tf.int64)
            frame, moved, _ = function(image, labels, tuple(image_size), item_seed)
            axes = grid[row][column]
            axes.imshow(frame.numpy().round().clip(0, 255).astype(np.uint8))
            axes.set(xticks=[], yticks=[])
            moved = {key: value.numpy() for key, value in moved.items()}
            _draw_labels(axes, moved, source.class_names)
            if column == 0:
                axes.set_ylabel(title)
    return figure


def _painted(labels, size):
    """Return a mask of filled boxes, with class ids counted from 1."""
    mask = np.zeros(size, np.int32)
    for box, label in zip(labels["boxes"].numpy(), labels["classes"].numpy()):
        top, left, bottom, right = box.round().clip(0).astype(int)
        mask[top:bottom, left:right] = label % (masks.IGNORE_CLASS - 1) + 1
    return tf.constant(mask)


def _mask_colors(mask):
    """Return RGBA: classes tinted, background clear, ignored pixels hatched."""
    colors = np.zeros((*mask.shape, 4))
    for label in np.unique(mask):
        if label not in (0, masks.IGNORE_CLASS):
            colors[mask == label] = (*to_rgb(f"C{(label - 1) % 10}"), 0.55)
    rows, columns = np.indices(mask.shape)
    period = max(4, max(mask.shape) // 40)
    hatched = (mask == masks.IGNORE_CLASS) & ((rows + columns) % period == 0)
    colors[hatched] = (1.0, 1.0, 1.0, 0.6)
    return colors


def grid(drawn, class_names):
    """Draw `samples`, one column per sample and one row per set of labels.

    Masks hide the image, so with masks the plain image gets a row too.

    Returns:
        matplotlib `Figure`.
    """
    titles = list(drawn[0]["labels"])
    if "mask" in drawn[0]["labels"][titles[0]]:
        titles = ["image", *titles]
    figure = Figure(
        figsize=(1.6 * len(drawn), 1.6 * len(titles) + 0.2), layout="constrained"
    )
    grid = figure.subplots(len(titles), len(drawn), squeeze=False)
    for column, sample in enumerate(drawn):
        for row, title in enumerate(titles):
            axes = grid[row][column]
            axes.imshow(sample["image"])
            axes.set(xticks=[], yticks=[])
            labels = dict(sample["labels"].get(title, {}))
            if "mask" in labels:
                labels["mask"] = masks.known(labels["mask"], len(class_names))
            _draw_labels(axes, labels, class_names)
            if column == 0:
                axes.set_ylabel(title)
    return figure


def _draw_labels(axes, labels, class_names):
    if "mask" in labels:
        axes.imshow(_mask_colors(labels["mask"]), interpolation="nearest")
    if "boxes" not in labels:
        return
    for box, label, score, ignore in zip(
        labels["boxes"], labels["classes"], labels["scores"], labels["ignore"]
    ):
        if label < 0:
            continue
        color = "gray" if ignore else f"C{label % 10}"
        ymin, xmin, ymax, xmax = box
        axes.add_patch(
            Rectangle(
                (xmin, ymin), xmax - xmin, ymax - ymin, fill=False, edgecolor=color
            )
        )
        text = (
            class_names[label] if score == 1.0 else f"{class_names[label]} {score:.2f}"
        )
        axes.text(
            xmin,
            ymin,
            text,
            color="white",
            fontsize=6,
            backgroundcolor=color,
            va="bottom",
        )
