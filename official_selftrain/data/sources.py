"""Sources of real data: COCO files, TFDS, TFRecord, folders of images.

All of them give the same examples (see `examples`).
"""

import difflib
import glob as globbing
import os
import pathlib
import struct

import numpy as np
import tensorflow as tf

from official_selftrain.data import coco_files, examples

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")

_READ_BUFFER = 2**20  # bytes

# Where the data sets of TFDS keep their boxes, and which flag marks a region
# that holds many objects.
_TFDS_OBJECTS = {
    "coco": ("objects", "is_crowd"),
    "voc": ("objects", None),
    "open_images_v4": ("bobjects", "is_group_of"),
    "imagenet2012": (None, None),
}


def coco(annotations, images, class_names=None):
    """Read a COCO annotation file and its folder of images.

    Crowd regions are ignored in training rather than background. An image
    without annotations is a valid image without objects. A box whose width or
    height is 0 is left out and counted. A `score`, which a teacher's annotations
    have, is kept.

    Args:
        annotations: str, path of the JSON file.
        images: str, the folder that its `file_name`s lie in.
        class_names: sequence of str or None: the categories that are used, in
            this order. None takes all categories by ascending id.

    Returns:
        `examples.Source`; images listed without a single annotation in the
        whole file make a source without labels.

    Raises:
        FileNotFoundError: for a missing file, folder or image.
        ValueError: for a file that isn't COCO's, an annotation of an unknown
            image or category, or a box of negative size.

    Source: format of cocodataset.org.
    """
    content = coco_files.read(annotations)
    categories = {c["id"]: c["name"] for c in content["categories"]}
    names = [categories[key] for key in sorted(categories)]
    if class_names is not None:
        _check_names(class_names, names, annotations)
        names = list(class_names)
    class_of = {key: names.index(n) for key, n in categories.items() if n in names}
    _check_files(images, [image["file_name"] for image in content["images"]])

    rows = {image["id"]: [] for image in content["images"]}
    skipped = []
    for annotation in content["annotations"]:
        fault = coco_files.fault(annotation, rows, categories, annotations)
        if fault:
            raise ValueError(fault)
        x, y, width, height = annotation["bbox"]
        if width == 0 or height == 0:
            skipped.append(f"annotation {annotation.get('id')}: box without area")
        elif annotation["category_id"] in class_of:
            rows[annotation["image_id"]].append(annotation)
    records = []
    for image in content["images"]:
        found = rows[image["id"]]
        height, width = image["height"], image["width"]
        corners = [
            (
                a["bbox"][1],
                a["bbox"][0],
                a["bbox"][1] + a["bbox"][3],
                a["bbox"][0] + a["bbox"][2],
            )
            for a in found
        ]
        records.append(
            {
                "path": os.path.join(images, image["file_name"]),
                "id": image["id"],
                "boxes": np.array(corners, np.float64).reshape(-1, 4)
                / [height, width, height, width],
                "classes": np.array([class_of[a["category_id"]] for a in found]),
                "scores": np.array([a.get("score", 1.0) for a in found], np.float32),
                "ignore": np.array([a.get("iscrowd", 0) for a in found], bool),
                "areas": np.array([a.get("area", 0.0) for a in found]),
            }
        )
    return examples.from_records(
        records, names, has_labels=bool(content["annotations"]), skipped=skipped
    )


def folder(images):
    """Read a folder, or a glob, of images that nobody has labelled.

    No file is opened: images that can't be read show when they are labelled. Folders
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


def tfrecord(pattern, class_names, class_ids=None, has_labels=True, has_masks=False):
    """Read TFRecord files with the feature names of the TF Model Garden.

    Args:
        pattern: str, path or glob of the files.
        class_names: sequence of str, length K; without any, the files' labels
            aren't looked at.
        class_ids: the files' label of each class; None means 1 … K. (COCO's
            ids have gaps.) Masks hold the class itself.
        has_labels: bool, False if the labels aren't the truth.
        has_masks: bool, take the masks, not the boxes, for labels.

    Returns:
        `examples.Source`.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: for a file that isn't a TFRecord, or if class ids and names
            differ in number.

    Source: feature names of the TF Model Garden.
    """
    paths = sorted(globbing.glob(pattern))
    if not paths:
        raise FileNotFoundError(
            f"Expected TFRecord files. Received: pattern={pattern!r}"
        )
    if class_ids is None:
        class_ids = range(1, len(class_names) + 1)
    class_ids = [int(class_id) for class_id in class_ids]
    if len(class_ids) != len(class_names):
        raise ValueError(
            "Expected as many class_ids as class_names. Received: "
            f"{len(class_ids)} ids, {len(class_names)} names"
        )
    num_images = sum(_count_records(path) for path in paths)
    if num_images == 0:
        raise ValueError(f"Expected at least one example. Received: 0 in {paths[0]}")
    dataset = tf.data.TFRecordDataset(paths, buffer_size=_READ_BUFFER).map(
        lambda serialized: examples.parse(serialized, class_ids)
    )
    return examples.Source(
        dataset,
        tuple(class_names),
        num_images,
        has_labels and len(class_names) > 0,
        has_masks=has_masks,
    )


def tfds(name, split, data_dir=None, has_image_classes=False):
    """Read a data set of TensorFlow Datasets.

    Args:
        name: `"coco/2017"`, `"voc/2012"`, `"open_images_v4"`,
            `"imagenet2012"` or another configuration of these.
        split: str, such as `"train"` or `"train[:20%]"`.
        data_dir: str or None, where TFDS keeps its data.
        has_image_classes: bool, take the images' own classes for labels, each a box
            that covers its image. Only `imagenet2012` has some; without, its images are
            unlabelled.

    Returns:
        `examples.Source`; ids count the images. Its labels are boxes: TFDS has no
        masks of PASCAL VOC (see `voc`).

    Raises:
        ValueError: for a data set of another kind, or one whose images have no class.
        FileNotFoundError: if it hasn't been prepared.

    Source: tensorflow.org/datasets.
    """
    import tensorflow_datasets

    family = name.split("/")[0].split(":")[0]
    if family not in _TFDS_OBJECTS:
        raise ValueError(
            f"Expected one of {', '.join(_TFDS_OBJECTS)}. Received: name={name!r}"
        )
    objects, group_flag = _TFDS_OBJECTS[family]
    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"Expected a data set that TFDS knows. Received: name={name!r}"
        ) from error
    features = builder.info.features
    if has_image_classes and "label" not in features:
        raise ValueError(
            "Expected a data set whose images have a class each, imagenet2012. "
            f"Received: name={name!r}"
        )
    if has_image_classes:
        class_names = features["label"].names
    else:
        class_names = () if objects is None else features[objects]["label"].names
    # COCO's test images come without annotations.
    has_labels = len(class_names) > 0 and not (
        family == "coco" and split.startswith("test")
    )
    try:
        encoded = builder.as_dataset(
            split=split,
            decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
            shuffle_files=False,
        )
    except AssertionError as error:
        raise FileNotFoundError(
            f"Expected {name} in {builder.data_dir}. Make it in Python with: "
            f"tensorflow_datasets.builder({name!r}, data_dir={data_dir!r})"
            ".download_and_prepare()"
        ) from error

    def convert(index, item):
        if has_image_classes:
            found = {
                "boxes": tf.constant([[0.0, 0.0, 1.0, 1.0]]),
                "classes": tf.cast(item["label"], tf.int32)[None],
                "ignore": tf.zeros((1,), tf.bool),
                "areas": tf.zeros((1,)),
            }
        elif objects is None:
            found = {
                "boxes": tf.zeros((0, 4)),
                "classes": tf.zeros((0,), tf.int32),
                "ignore": tf.zeros((0,), tf.bool),
                "areas": tf.zeros((0,)),
            }
        else:
            item_objects = item[objects]
            labels = tf.cast(item_objects["label"], tf.int32)
            areas = item_objects.get("area", tf.zeros_like(labels))
            found = {
                "boxes": tf.reshape(item_objects["bbox"], (-1, 4)),
                "classes": labels,
                "ignore": tf.cast(
                    item_objects[group_flag] if group_flag else tf.zeros_like(labels),
                    tf.bool,
                ),
                "areas": tf.cast(areas, tf.float32),
            }
        return {
            "encoded": item["image"],
            "path": tf.constant(""),
            "id": index,
            **found,
            "scores": tf.ones(tf.shape(found["classes"])),
            "mask": tf.constant(""),
            "confidence": tf.constant(""),
        }

    dataset = encoded.enumerate().map(convert)
    num_images = int(dataset.cardinality())
    return examples.Source(dataset, tuple(class_names), num_images, has_labels)


def _check_names(wanted, known, path):
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.0)
            raise ValueError(
                f"Expected class_names among the {len(known)} categories of {path} "
                f"(nearest: {near[0] if near else 'none'}). Received: {name!r}"
            )


def _check_files(directory, names):
    if not os.path.isdir(directory):
        raise FileNotFoundError(
            f"Expected a folder of images. Received: images={directory!r}"
        )
    missing = [n for n in names if not os.path.exists(os.path.join(directory, n))]
    if missing:
        raise FileNotFoundError(
            f"Expected every image of the annotation file in {directory}. Received: "
            f"{len(missing)} of {len(names)} missing, first {missing[0]!r}"
        )


def _count_records(path):
    """Count the records of a TFRecord file by their headers."""
    count, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        position = 0
        while position < size:
            file.seek(position)
            header = file.read(8)
            # A record is its length, a checksum of it, the data, a checksum.
            position += 16 + (struct.unpack("<Q", header)[0] if len(header) == 8 else 0)
            if len(header) < 8 or position > size:
                raise ValueError(
                    f"Expected whole TFRecord entries. Received: {path}, cut off or "
                    f"not a TFRecord at entry {count}"
                )
            count += 1
    return count
