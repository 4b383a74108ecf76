"""A toy detector, toy scenes and a short training shared by several tests."""

import dataclasses
import functools

import keras
import numpy as np

from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.models import RetinaNet, backbones
from official_selftrain.training import (
    Loss,
    Machine,
    Monitoring,
    Optimization,
    Streams,
    fitting,
    schedules,
)


def tiny_model(filters=4):
    keras.utils.set_random_seed(0)
    return RetinaNet(
        num_classes=2,
        image_size=(32, 32),
        backbone=backbones.resnet(50, blocks=(1, 1), filters=(filters, filters)),
        min_level=3,
        max_level=3,
        num_filters=8,
        num_head_convs=1,
        anchor_size=2.0,
        max_detections=5,
    )


def scenes(pool, count=6):
    return digits.scenes(pool, count, 0, (32, 32), num_classes=2, max_digits=1)


def grouped(settings):
    """Return `fitting.fit`'s arguments, with each setting in its group."""
    settings, arguments = dict(settings), {}
    groups = {
        "streams": Streams,
        "optimization": Optimization,
        "loss": Loss,
        "monitoring": Monitoring,
        "machine": Machine,
    }
    for name, group in groups.items():
        fields = {field.name for field in dataclasses.fields(group)}
        own = {key: settings.pop(key) for key in fields & set(settings)}
        arguments[name] = group(**own)
    return {**arguments, **settings}


def fit(output_dir, steps=4, model=None, **kwargs):
    settings = {
        "batch_size": 2,
        "optimizer": functools.partial(keras.optimizers.SGD, momentum=0.9),
        "schedule": functools.partial(schedules.cosine, learning_rate=0.01),
        "augment": functools.partial(augment.flip_and_jitter, flip_probability=0.0),
        "log_every": 2,
        "max_boxes": 4,
        "num_pictures": 0,
        "labeled": scenes("labeled"),
        "pseudo": None,
        "steps": steps,
        **kwargs,
    }
    return fitting.fit(
        model or tiny_model(), output_dir=str(output_dir), **grouped(settings)
    )


def weights(model):
    return [w.numpy() for w in model.weights]


def assert_equal_weights(a, b):
    for x, y in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(x, y)
