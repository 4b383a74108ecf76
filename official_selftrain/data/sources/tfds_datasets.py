"""Data sets of TensorFlow Datasets."""

import functools

import numpy as np
import tensorflow as tf

from official_selftrain.data import examples, ledger

# The feature that holds a TFDS data set's boxes, and the flag of regions that contain
# many objects.
_TFDS_OBJECTS = {
    "coco": ("objects", "is_crowd"),
    "voc": ("objects", None),
    "open_images_v4": ("bobjects", "is_group_of"),
    "imagenet2012": (None, None),
}


def tfds(name, split, data_dir=None, has_image_classes=False):
    """Read a data set of TensorFlow Datasets.

    Args:
        name: `"coco/2017"`, `"voc/2012"`, `"open_images_v4"`,
            `"imagenet2012"` or another configuration of these.
        split: str, such as `"train"` or `"train[:20%]"`.
        data_dir: str or None, the TFDS data directory.
        has_image_classes: bool, whether to use image-level classes as labels, each as
            a box that covers its image. Only `imagenet2012` has them; if False, its
            images are unlabeled.

    Returns:
        `examples.Source`; ids number the images. The labels are boxes: TFDS has no
        masks of PASCAL VOC (see `voc`).

    Raises:
        ValueError: for an unsupported data set, or one without image-level classes.
        FileNotFoundError: if it hasn't been prepared.

    Source: tensorflow.org/datasets.
    """
    family = name.split("/")[0].split(":")[0]
    if family not in _TFDS_OBJECTS:
        raise ValueError(
            f"Expected one of {', '.join(_TFDS_OBJECTS)}. Received: name={name!r}"
        )
    builder = _builder(name, data_dir)
    features = builder.info.features
    objects, group_flag = _TFDS_OBJECTS[family]
    if has_image_classes and "label" not in features:
        raise ValueError(
            "Expected a data set with image-level classes: imagenet2012. "
            f"Received: name={name!r}"
        )
    if has_image_classes:
        class_names, labels_of = features["label"].names, _image_class
    elif objects is None:
        class_names, labels_of = (), _no_labels
    else:
        class_names = features[objects]["label"].names
        labels_of = functools.partial(_boxes, objects=objects, group_flag=group_flag)
    # COCO's test images come without annotations.
    has_labels = len(class_names) > 0 and not (
        family == "coco" and split.startswith("test")
    )

    def convert(index, item):
        labels = labels_of(item)
        return {
            "encoded": item["image"],
            "path": tf.constant(""),
            "id": index,
            **labels,
            "scores": tf.ones(tf.shape(labels["classes"])),
            "mask": tf.constant(""),
            "confidence": tf.constant(""),
        }

    dataset = _encoded(builder, name, split, data_dir).enumerate().map(convert)
    dataset = dataset.map(examples.with_places)
    num_images = int(dataset.cardinality())
    # An image has as many boxes as classes: one, or none.
    each = {_image_class: 1, _no_labels: 0}.get(labels_of)

    def account():
        counts = np.full((num_images, 2), each, np.int64)
        book = ledger.Ledger(num_images, counts[:, 0].sum())
        return counts, book.close(name, counts, has_labels=has_labels)

    described = {
        "title": split,
        "data set": builder.info.full_name,
        "split": split,
        "images": num_images,
        "classes": list(class_names),
    }
    return examples.Source(
        dataset,
        tuple(class_names),
        num_images,
        has_labels,
        fingerprint=lambda: described,
        account=None if each is None else account,
        is_counted=each is not None,
    )


def _builder(name, data_dir):
    import tensorflow_datasets

    try:
        return tensorflow_datasets.builder(name, data_dir=data_dir)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"Expected a data set of TFDS. Received: name={name!r}"
        ) from error


def _encoded(builder, name, split, data_dir):
    """Return the items of a split, images as files."""
    import tensorflow_datasets

    try:
        return builder.as_dataset(
            split=split,
            decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
            shuffle_files=False,
        )
    except AssertionError as error:
        raise FileNotFoundError(
            f"Expected {name} in {builder.data_dir}. Prepare it in Python with: "
            f"tensorflow_datasets.builder({name!r}, data_dir={data_dir!r})"
            ".download_and_prepare()"
        ) from error


def _image_class(item):
    """Return an item's class as a box that covers the image."""
    return {
        "boxes": tf.constant([[0.0, 0.0, 1.0, 1.0]]),
        "classes": tf.cast(item["label"], tf.int32)[None],
        "ignore": tf.zeros((1,), tf.bool),
        "areas": tf.zeros((1,)),
    }


def _no_labels(item):
    return {
        "boxes": tf.zeros((0, 4)),
        "classes": tf.zeros((0,), tf.int32),
        "ignore": tf.zeros((0,), tf.bool),
        "areas": tf.zeros((0,)),
    }


def _boxes(item, objects, group_flag):
    """Return an item's boxes; those flagged as groups are ignored."""
    item_objects = item[objects]
    classes = tf.cast(item_objects["label"], tf.int32)
    zeros = tf.zeros_like(classes)
    groups = item_objects[group_flag] if group_flag else zeros
    return {
        "boxes": tf.reshape(item_objects["bbox"], (-1, 4)),
        "classes": classes,
        "ignore": tf.cast(groups, tf.bool),
        "areas": tf.cast(item_objects.get("area", zeros), tf.float32),
    }
