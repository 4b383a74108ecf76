"""Measure the overhead of a SavedModel over the network and its NMS.

python benchmarks/export.py

Exports a ResNet-50 RetinaNet at 640 x 640. In one process, it alternates between the
signatures `image_tensor` (pixels of 640 x 480, resized by the model) and
`serving_default` (the same as JPEG files), and the bare Keras forward pass with the
same NMS on frames in memory. Single images give median and 99th percentile of the
latency, batches of eight the throughput. The last line of the output is JSON;
`--record` appends it to benchmarks/results/. `--quick` runs fewer rounds.
"""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import record
import tensorflow as tf
from sklearn import datasets
from train_step import time_in_turn

from official_selftrain import RetinaNet, backbones
from official_selftrain.geometry import letterbox
from official_selftrain.inference import prediction
from official_selftrain.serving import saved_models

SIZE, CLASSES = (640, 640), 80


def main():
    """Time the signatures and print a JSON line."""
    arguments = record.parser(__doc__).parse_args()
    rounds = {1: 10, 8: 2} if arguments.quick else {1: 100, 8: 10}
    keras.utils.set_random_seed(0)
    model = RetinaNet(CLASSES, SIZE, backbones.resnet(50))
    with tempfile.TemporaryDirectory() as folder:
        names = [str(number) for number in range(CLASSES)]
        path = saved_models.export(model, folder, "model", names)
        loaded = tf.saved_model.load(path).signatures
        seconds = {
            count: time_in_turn(runs(model, loaded, count), rounds[count])
            for count in rounds
        }
    ratios, figures = {}, {}
    for name in ("image_tensor", "serving_default"):
        for quantile, values in (("p50", 50), ("p99", 99)):
            ratios[f"{name}_over_bare_{quantile}"] = quantile_of(
                seconds[1][name], values
            ) / quantile_of(seconds[1]["bare"], values)
        one, bare = (quantile_of(seconds[8][key], 50) for key in (name, "bare"))
        ratios[f"{name}_over_bare_batch_8"] = one / bare
    for name, values in seconds[1].items():
        for quantile in (50, 99):
            figures[f"{name}, ms p{quantile}"] = 1e3 * quantile_of(values, quantile)
    for name, values in seconds[8].items():
        figures[f"{name}, images/s batch 8"] = 8 / quantile_of(values, 50)
    for name, value in {**ratios, **figures}.items():
        print(f"{name:40s}{value:10.3f}")
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    record.finish("export", ratios, figures, versions, arguments.record)


def runs(model, loaded, count):
    """Return functions that predict `count` images."""
    photo = tf.image.resize(datasets.load_sample_image("china.jpg"), (480, 640))
    pixels = tf.cast(tf.repeat(photo[None], count, axis=0), tf.uint8)
    files = tf.constant([tf.io.encode_jpeg(image).numpy() for image in pixels])
    frames = tf.stack([letterbox.fit(image, SIZE) for image in pixels])
    sizes = tf.constant([[480, 640]] * count)
    predict = prediction.predictor(model)
    return {
        "bare": lambda: predict(frames, sizes),
        "image_tensor": lambda: loaded["image_tensor"](images=pixels),
        "serving_default": lambda: loaded["serving_default"](image_bytes=files),
    }


def quantile_of(values, percent):
    """Return a percentile of a list."""
    return float(np.percentile(values, percent))


if __name__ == "__main__":
    main()
