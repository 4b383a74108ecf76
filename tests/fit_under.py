"""Take five steps of a student under a strategy, in a process of its own.

python tests/fit_under.py STRATEGY OUTPUT_DIR [key=value …]

The settings are `fitting.fit`'s; `devices=2` splits the CPU, `frozen=1` keeps batch
normalization's statistics as they are, `dropout=0.3` drops features out, `clipnorm=1`
clips gradients one by one, `bad=3` makes the loss of image 3 infinite, `joint=1` adds
classified images. The last checkpoint holds what came out.
"""

import ast
import functools
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from toy_training import grouped

from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.models import ImageClassifier, RetinaNet, backbones
from official_selftrain.training import distribution, fitting, schedules


def main(name, output_dir, *settings):
    """Fit and leave checkpoints in `output_dir`."""
    settings = dict(setting.split("=", 1) for setting in settings)
    settings = {key: ast.literal_eval(value) for key, value in settings.items()}
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * settings.pop("devices", 1)
    tf.config.set_logical_device_configuration(cpu, parts)
    strategy = distribution.strategy(name)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(settings.pop("precision", "float32"))
    dropout = settings.pop("dropout", 0.0)
    with strategy.scope():
        backbone = backbones.resnet(50, blocks=(1, 1), filters=(16, 16))
        features = {
            level: keras.layers.Dropout(dropout)(feature)
            for level, feature in backbone.output.items()
        }
        kind = bad_for(settings.pop("bad")) if "bad" in settings else RetinaNet
        model = kind(
            num_classes=2,
            image_size=(32, 32),
            backbone=keras.Model(backbone.input, features, name="backbone"),
            min_level=3,
            max_level=3,
            num_filters=16,
            num_head_convs=1,
            anchor_size=2.0,
        )
        classifier = ImageClassifier(3, (32, 32), model.backbone)
    if settings.pop("frozen", False):
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False

    def scenes(pool):
        return digits.scenes(pool, 10, 0, (32, 32), num_classes=2, max_digits=3)

    if settings.pop("joint", False):
        settings["classifier"] = classifier
        settings["classified"] = digits.icons(10, 0, (32, 32), (5, 6, 7), (12, 24))
        settings["classification_weight"] = 0.5
    clip = {"clipnorm": settings.pop("clipnorm")} if "clipnorm" in settings else {}
    clip = clip or {"global_clipnorm": 0.5}
    sgd = functools.partial(keras.optimizers.SGD, momentum=0.9, **clip)
    arguments = {
        "steps": 5,
        "batch_size": 4,
        "optimizer": sgd,
        "schedule": functools.partial(schedules.cosine, learning_rate=0.05),
        "augment": functools.partial(augment.flip_and_jitter, flip_probability=0.0),
        "alpha": 2.0,
        "decay": 0.9,
        "l2": 1e-2,
        "max_boxes": 4,
        "num_pictures": 0,
        "ema_decay": 0.5,
        "strategy": lambda: strategy,
        **settings,
    }
    sources = {"labeled": scenes("labeled"), "pseudo": scenes("unlabeled")}
    settings = grouped({**sources, **arguments})
    fitting.fit(model, output_dir=output_dir, **settings)


def bad_for(image_id):
    """Return a detector whose loss is infinite where an image is in the batch."""

    class Bad(RetinaNet):
        def compute_losses(self, outputs, labels):
            losses = super().compute_losses(outputs, labels)
            return {"loss": worse(losses["loss"], labels)}

        def loss_sum(self, outputs, labels):
            total, count = super().loss_sum(outputs, labels)
            return worse(total, labels), count

    def worse(loss, labels):
        bad = keras.ops.any(labels["ids"] == image_id)
        return keras.ops.where(bad, float("inf"), loss)

    return Bad


if __name__ == "__main__":
    main(*sys.argv[1:])
