"""Toy images and TFDS items shared by several tests."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image


def picture(seed=0, height=40, width=60):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


BOXES = np.float32([[0.25, 0.25, 0.75, 0.75], [0.125, 0.5, 0.5, 1.0]])


# The features of each data set, with two objects of classes 4 and 0.
OBJECTS = {
    "coco/2017": {
        "objects": {
            "area": np.int64([300, 12]),
            "bbox": BOXES,
            "id": np.int64([1, 2]),
            "is_crowd": np.array([False, True]),
            "label": np.int64([4, 0]),
        }
    },
    "voc/2012": {
        "objects": {
            "bbox": BOXES,
            "is_difficult": np.array([False, True]),
            "is_truncated": np.array([True, False]),
            "label": np.int64([4, 0]),
            "pose": np.int64([0, 1]),
        }
    },
    "open_images_v4": {
        "objects": {"label": np.int64([1, 2, 3])},
        "bobjects": {
            "bbox": BOXES,
            "is_group_of": np.int8([0, 1]),
            "is_inside": np.int8([1, 0]),
            "label": np.int64([4, 0]),
        },
    },
    "imagenet2012": {"label": np.int64(4)},
}


def spec_of(value):
    value = np.asarray(value)
    shape = (None, *value.shape[1:]) if value.ndim else ()
    return tf.TensorSpec(shape, tf.as_dtype(value.dtype))
