"""Teachers: one protocol for everything that labels images.

A `Teacher` has two functions. `prepare` runs in the input pipeline and turns an example
into the teacher's inputs, a dict of tensors. `label` takes a list of such dicts and
returns the labels of each image, in pixels of that image.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from official_selftrain.data import masks
from official_selftrain.data.sources import coco_files
from official_selftrain.geometry import letterbox
from official_selftrain.inference import prediction, tiles


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Anything that labels images.

    Attributes:
        prepare: function (example, decoded image) → dict of tensors, traced by tf.data;
            the image's `size` is added to it.
        label: function (list of such dicts with eager tensors) → list of labels:
            `boxes` float32 `[n, 4]` in pixels of the upright image, `classes` int
            `[n]`, `scores` float32 `[n]`; or `mask` and `confidence`, PNGs of
            `data.masks` of the image's size. Raises `Refused` for images that it
            can't label.
        class_names: tuple of str; a class is an index into it.
        has_masks: bool.
        origin: dict that identifies the teacher in the settings: `kind`, and for
            example a hash of its files.
        notes: tuple of str, how its files are read.
        left_out: dict of a place of `data.ledger` to how many of its boxes are left out
            before any image is labeled.
        with_pixels: function (`served.Pixels`) → the same teacher, fed with other
            pixel values; None where they aren't a choice.
    """

    prepare: Callable
    label: Callable
    class_names: tuple
    has_masks: bool
    origin: dict
    notes: tuple = ()
    with_pixels: Callable | None = None
    left_out: dict = dataclasses.field(default_factory=dict)


def keras_teacher(model, class_names, origin=None, scales=(1.0,), flip=False):
    """Create a teacher from a Keras model.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        class_names: sequence of str.
        origin: dict, as in `Teacher`, or None.
        scales: as in `prediction.labeler`.
        flip: as in `prediction.labeler`.

    Returns:
        `Teacher`.

    Raises:
        ValueError: as in `prediction.labeler`, or if the number of names differs from
            the number of classes.
    """
    num_classes = getattr(model, "num_classes", len(class_names))
    if num_classes != len(class_names):
        raise ValueError(
            f"Expected a name for each of the teacher's {num_classes} classes. "
            f"Received: {len(class_names)} names, {list(class_names)}"
        )
    label, tile = prediction.labeler(model, scales, flip), getattr(model, "tile", None)
    detect = tiles.detector(model) if tile else None

    def prepare(example, image):
        frame = letterbox.fit(image, model.image_size)
        return {"image": frame, "pixels": image} if tile else {"image": frame}

    def label_batch(items):
        sizes = np.stack([item["size"].numpy() for item in items])
        if tile and (sizes > tile[:2]).any():
            found = [detect(item["pixels"]) for item in items]
            return [{k: v.numpy() for k, v in of_one.items()} for of_one in found]
        return label(tf.stack([item["image"] for item in items]), sizes)

    has_masks = hasattr(model, "multi_scale")
    return Teacher(
        prepare, label_batch, tuple(class_names), has_masks, origin or {"kind": "keras"}
    )


def read_classes(path, first_class_id=1):
    """Read a teacher's classes and their ids.

    Args:
        path: str, a text file with one name per line, where `???` marks an unused id;
            or a COCO file, whose categories have ids.
        first_class_id: int, the id of the first line.

    Returns:
        list of str, and dict of id to index.

    Raises:
        ValueError: for a file without names, or with a duplicate name.
    """
    if path.endswith(".json"):
        entries = coco_files.parsed(path)
        entries = entries.get("categories", []) if isinstance(entries, dict) else []
        entries = sorted((entry["id"], entry["name"]) for entry in entries)
    else:
        lines = coco_files.read_text(path).rstrip().split("\n")
        entries = [
            (index, line.strip())
            for index, line in enumerate(lines, first_class_id)
            if line.strip() not in ("", "???")
        ]
    names = [name for _, name in entries]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected class names, each once. Received: {path} with {names}"
        )
    return names, {class_id: index for index, (class_id, _) in enumerate(entries)}


def check_class_id(class_id, class_ids, class_names):
    """Check that a teacher's class id is among the expected ones.

    Raises:
        ValueError: for an unknown id; the message lists the valid ids and names.
    """
    if class_id not in class_ids:
        valid = {key: class_names[label] for key, label in class_ids.items()}
        raise ValueError(
            f"Expected class ids among {valid}. Received: {class_id}; name the "
            "teacher's ids with --labels"
        )


def for_classes(teacher, class_names, drop_others=False):
    """Map a teacher's classes to those of a student by name.

    Args:
        teacher: `Teacher`.
        class_names: sequence of str, the student's classes in order.
        drop_others: bool, drop labels of other classes (ignore pixels of masks)
            instead of raising an error.

    Returns:
        `Teacher`.

    Raises:
        ValueError: if a class is missing or left over; the message lists both sets.
    """
    names, wanted = list(teacher.class_names), list(class_names)
    missing = [name for name in wanted if name not in names]
    others = [name for name in names if name not in wanted]
    if missing or (others and not drop_others):
        advice = ", or drop the others with --drop_others" if others else ""
        raise ValueError(
            f"Expected the student's classes, {wanted}{advice if not missing else ''}. "
            f"Received: a teacher of {names}; missing: {missing}, others: {others}"
        )
    if names == wanted:
        return teacher
    new_class = [wanted.index(name) if name in wanted else -1 for name in names]
    table = np.full(256, masks.IGNORE_CLASS, np.uint8)
    if teacher.has_masks:
        table[: len(names)] = [
            masks.IGNORE_CLASS if label < 0 else label for label in new_class
        ]

    def renamed(labels):
        if "mask" in labels:
            mask = masks.decode(labels["mask"]).numpy()
            return {**labels, "mask": masks.encode(table[mask])}
        classes = np.array(new_class, np.int32)[labels["classes"]]
        kept = classes >= 0
        labels = {key: value[kept] for key, value in labels.items()}
        return {**labels, "classes": classes[kept]}

    def label(items):
        return [renamed(labels) for labels in teacher.label(items)]

    return dataclasses.replace(teacher, label=label, class_names=tuple(wanted))
