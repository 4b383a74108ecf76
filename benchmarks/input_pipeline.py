"""Measure the speed of augmentation, relative to decoding and resizing.

python benchmarks/input_pipeline.py

The package's pipeline with S1 to S4 produces batches of 640 x 640 from 640 x 480 JPEG
photographs, on 1 and 2 cores. It alternates with the floor, which only decodes, resizes
and batches the same files; the fastest floor casts to float32 before resizing, which is
twice as fast. The parts of an augmentation are also timed separately, one image at a
time on one core. The last line of the output is JSON; `--record` appends it to
benchmarks/results/. `--quick` uses fewer images.
"""

import functools
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import record
import sklearn.datasets
import tensorflow as tf

from official_selftrain.data import examples, pipeline
from official_selftrain.data.augmentation import (
    augment,
    operations,
    placement,
    policies,
)

IMAGE_SIZE = (640, 640)
BATCH_SIZE = 8
AUGMENTATIONS = {
    "S1": augment.s1,
    "S2": augment.s2,
    "S3": augment.s3,
    "S4": augment.s4,
    "S4, N = 2": functools.partial(
        augment.s4, rand_augment=policies.RandAugment(num_operations=2)
    ),
}


def main():
    """Time everything and print a table and a JSON line."""
    arguments = record.parser(__doc__).parse_args()
    batches, rounds = (6, 2) if arguments.quick else (25, 7)
    source = photographs(64)
    ratios, figures = {}, {}
    for cores in (1, 2):
        streams = {
            "floor": floor(source, cores, tf.uint8),
            "fastest floor": floor(source, cores, tf.float32),
        }
        for name, function in AUGMENTATIONS.items():
            streams[name] = augmented(source, function, cores)
        speeds = time_in_turn(streams, batches, rounds)
        for name in streams:
            figures[f"{name} on {cores}, images/s"] = statistics.median(speeds[name])
        for name in AUGMENTATIONS:
            for bare in ("floor", "fastest floor"):
                # Adjacent runs see the same load from other processes.
                pairs = zip(speeds[bare], speeds[name])
                ratios[f"{name}_over_{bare} on {cores}"] = statistics.median(
                    bare / full for bare, full in pairs
                )
    figures |= parts(source, 10 if arguments.quick else 200)
    for name, value in {**ratios, **figures}.items():
        print(f"{name:40s}{value:8.2f}")
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__}
    record.finish("input_pipeline", ratios, figures, versions, arguments.record)


def photographs(count):
    """Return a source of JPEG images with 7 boxes each, the average of COCO."""
    scenes = [
        tf.image.resize(image, (480, 640)).numpy().astype(np.uint8)
        for image in sklearn.datasets.load_sample_images().images
    ]
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        image = scenes[number % len(scenes)]
        corners = np.sort(rng.uniform(0.0, 1.0, (7, 2, 2)), axis=1)
        boxes = corners.reshape(7, 4).astype(np.float32)
        records.append(
            {
                "id": number,
                "encoded": tf.io.encode_jpeg(np.roll(image, 10 * number, 1)).numpy(),
                "boxes": boxes,
                "classes": np.zeros(7, np.int32),
                "scores": np.ones(7, np.float32),
                "ignore": np.zeros(7, bool),
                "areas": np.ones(7, np.float32),
            }
        )
    return examples.from_records(records, ["object"])


def on_cores(dataset, cores):
    """Return the dataset, limited to `cores` threads."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    options.threading.max_intra_op_parallelism = 1
    options.autotune.cpu_budget = cores
    return dataset.with_options(options)


def floor(source, cores, dtype):
    """Return batches of decoded and resized images."""

    def prepare(example):
        image = tf.cast(examples.read_image(example), dtype)
        return tf.image.resize(image, IMAGE_SIZE)

    dataset = source.dataset.repeat().map(prepare, tf.data.AUTOTUNE)
    dataset = dataset.batch(BATCH_SIZE, drop_remainder=True)
    return on_cores(dataset.prefetch(tf.data.AUTOTUNE), cores)


def augmented(source, function, cores):
    """Return training batches."""
    dataset = pipeline.training_batches(source, BATCH_SIZE, IMAGE_SIZE, function)
    return on_cores(dataset, cores)


def time_in_turn(streams, batches, rounds):
    """Return images per second of each stream, round by round."""
    speeds = {name: [] for name in streams}
    for _ in range(rounds):
        for name, dataset in streams.items():
            # A new iterator each time: an idle one would keep preparing batches.
            iterator = iter(dataset)
            for _ in range(4):
                next(iterator)
            start = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            seconds = time.perf_counter() - start
            speeds[name].append(batches * BATCH_SIZE / seconds)
            del iterator
    return speeds


def parts(source, repeats):
    """Return milliseconds per image of each part of the work, on one core."""
    example = next(iter(source.dataset))
    image = examples.read_image(example)
    labels = {"boxes": example["boxes"] * [480.0, 640.0, 480.0, 640.0]}
    corners = placement.with_corners(labels)

    def mean(function):
        stream = tf.data.Dataset.counter().map(
            lambda k: function(tf.stack([k, 1])), num_parallel_calls=1
        )
        iterator = iter(on_cores(stream, 1))
        next(iterator)
        start = time.perf_counter()
        for _ in range(repeats):
            next(iterator)
        return 1e3 * (time.perf_counter() - start) / repeats

    def alone(name):
        return lambda seed: policies.rand_augment(
            image, corners, seed, 1, 10.0, [name]
        )[0]

    figures = {
        "decode, ms": mean(lambda seed: examples.read_image(example)),
        "resize to the frame, ms": mean(
            lambda seed: tf.image.resize(
                tf.cast(image, tf.float32) + 0.0 * tf.cast(seed[0], tf.float32),
                IMAGE_SIZE,
            )
        ),
        "geometry of S1, ms": mean(
            lambda seed: augment.s1(image, labels, IMAGE_SIZE, seed)[0]
        ),
        "geometry of S4, ms": mean(
            lambda seed: augment.s1(image, labels, IMAGE_SIZE, seed, (0.5, 2.0))[0]
        ),
        "policy of S2 and S3, ms": mean(
            lambda seed: policies.auto_augment(image, corners, seed)[0]
        ),
        "policy of S4, ms": mean(
            lambda seed: policies.rand_augment(image, corners, seed)[0]
        ),
        "policy of S4, N = 2, ms": mean(
            lambda seed: policies.rand_augment(image, corners, seed, 2)[0]
        ),
    }
    for name in operations.OPERATIONS:
        figures[f"{name}, ms"] = mean(alone(name))
    return figures


if __name__ == "__main__":
    main()
