"""Measure what targets, matching and loss add to a training step.

python benchmarks/train_step.py

ResNet-50 FPN RetinaNet at 256 x 256, a batch of 4. In turn are timed: the bare
network, forward and backward from the sum of its outputs; the same with targets,
matching and loss; and targets, matching and loss alone. The last line of the output
is JSON; `--record` appends it to benchmarks/results/. `--quick` takes fewer steps.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from official_selftrain import RetinaNet, anchors, backbones

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE, BATCH, SLOTS = 256, 4, 100


def main():
    """Time the steps and print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 15
    model = RetinaNet(80, (SIZE, SIZE), backbones.resnet(50))
    images, labels = batch()
    outputs = model(images, training=True)

    @tf.function
    def bare():
        with tf.GradientTape() as tape:
            total = sum(tf.reduce_sum(v) for v in model(images, training=True).values())
        return tape.gradient(total, model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = model.compute_losses(model(images, training=True), labels)["loss"]
        return tape.gradient(loss, model.trainable_variables)

    @tf.function
    def loss_alone():
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            loss = model.compute_losses(outputs, labels)["loss"]
        return tape.gradient(loss, outputs)

    times = time_in_turn({"bare": bare, "step": step, "loss": loss_alone}, rounds)
    ratios = {
        "step_over_bare": median_ratio(times["step"], times["bare"]),
        "loss_over_step": median_ratio(times["loss"], times["step"]),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    num_anchors = len(anchors.anchor_boxes((640, 640), 3, 7, 4.0, 3, (1.0, 2.0, 0.5)))
    figures = {
        **{f"{name}, s": statistics.median(values) for name, values in times.items()},
        "peak_memory_gb": peak,
        # One float32 overlap for each pair; the comparison's other tensors fuse.
        "matching_mb_per_image_at_640_with_100_boxes": num_anchors * 100 * 4 / 1e6,
    }
    for name, value in {**ratios, **figures}.items():
        print(f"{name:46s}{value:10.3f}")
    line = json.dumps(
        {
            "benchmark": "train_step",
            "ratios": ratios,
            "figures": figures,
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
            "device": f"{os.cpu_count()} cores, {platform.machine()}",
        }
    )
    print(line)
    if arguments.record:
        with open(ROOT / "benchmarks" / "results" / "train_step.jsonl", "a") as file:
            file.write(line + "\n")


def batch():
    """Return images and labels with 7 boxes each, in 100 slots."""
    rng = np.random.default_rng(0)
    boxes = np.zeros((BATCH, SLOTS, 4), np.float32)
    corners = np.sort(rng.uniform(0, SIZE, (BATCH, 7, 2, 2)), axis=2)
    boxes[:, :7] = corners.reshape(BATCH, 7, 4)
    classes = np.full((BATCH, SLOTS), -1)
    classes[:, :7] = rng.integers(0, 80, (BATCH, 7))
    labels = {
        "boxes": boxes,
        "classes": classes,
        "ignore": np.zeros((BATCH, SLOTS), bool),
    }
    images = rng.uniform(0, 255, (BATCH, SIZE, SIZE, 3)).astype("float32")
    return tf.constant(images), {k: tf.constant(v) for k, v in labels.items()}


def time_in_turn(functions, rounds):
    """Return seconds of each function, round by round, after two to warm up."""
    times = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            tf.nest.flatten(function())[0].numpy()  # waits for the device
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def median_ratio(first, second):
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(first, second))


if __name__ == "__main__":
    main()
