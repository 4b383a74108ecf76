"""Measure the cost of a training step relative to simpler ones.

python benchmarks/train_step.py

Uses a ResNet-50 FPN RetinaNet at 256 x 256 and a batch of 4. It times in turn: the bare
network, forward and backward from the sum of its outputs; the same with targets,
matching and loss; and targets, matching and loss alone. Then a student's whole step
with 2 labeled and 2 pseudo-labeled images, and a supervised one with 4 labeled images.
Finally a step on the CPU split into two devices, and one on the whole CPU. Peak memory
is measured in a process that takes only one kind of step. The last line of the output
is JSON; `--record` appends it to benchmarks/results/. `--quick` takes fewer steps.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import record
import tensorflow as tf

from official_selftrain import RetinaNet, SelfTrainer, backbones
from official_selftrain.models import anchors
from official_selftrain.training import distribution

SIZE, BATCH, SLOTS = 256, 4, 100


def main():
    """Time the steps and print a JSON line."""
    parser = record.parser(__doc__)
    parser.add_argument(
        "--only", help="take only one kind of step and print its peak memory"
    )
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 15
    if arguments.only == "two_devices":
        return print(json.dumps(two_devices(rounds)))
    if arguments.only:
        step = whole_step(arguments.only)
        for _ in range(3):
            step()
        return print(peak_memory_gb())
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
    peak = peak_memory_gb()
    kinds = ("student", "supervised")
    whole = time_in_turn({kind: whole_step(kind) for kind in kinds}, rounds)
    ratios["student_over_supervised"] = median_ratio(*(whole[kind] for kind in kinds))
    memory = [json.loads(alone(kind, arguments.quick)) for kind in kinds]
    ratios["student_over_supervised_memory"] = memory[0] / memory[1]
    ratios["two_devices_over_one"] = json.loads(alone("two_devices", arguments.quick))
    num_anchors = len(anchors.anchor_boxes((640, 640), 3, 7, 4.0, 3, (1.0, 2.0, 0.5)))
    figures = {
        **{f"{name}, s": statistics.median(values) for name, values in times.items()},
        "peak_memory_gb": peak,
        **{f"{kind}'s peak_memory_gb": gb for kind, gb in zip(kinds, memory)},
        # One float32 overlap per pair; the other tensors of the matching are fused.
        "matching_mb_per_image_at_640_with_100_boxes": num_anchors * 100 * 4 / 1e6,
    }
    for name, value in {**ratios, **figures}.items():
        print(f"{name:46s}{value:10.3f}")
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    record.finish("train_step", ratios, figures, versions, arguments.record)


def whole_step(kind, strategy=None):
    """Return a function that takes a student or supervised step."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        trainer = SelfTrainer(RetinaNet(80, (SIZE, SIZE), backbones.resnet(50)))
        sgd = keras.optimizers.SGD(1e-4, momentum=0.9, global_clipnorm=10.0)
        trainer.compile(optimizer=sgd)
        trainer.optimizer.build(trainer.trainable_variables)
    images, labels = batch()
    labeled = {"images": images, **labels}
    data = {"labeled": labeled}
    if kind == "student":
        data = {
            "labeled": {key: value[: BATCH // 2] for key, value in labeled.items()},
            "pseudo": {key: value[BATCH // 2 :] for key, value in labeled.items()},
        }
    count = strategy.num_replicas_in_sync

    def part(context):
        number = context.replica_id_in_sync_group
        return tf.nest.map_structure(lambda t: tf.split(t, count)[number], data)

    parts = strategy.experimental_distribute_values_from_function(part)

    @tf.function(autograph=False)
    def step():
        return distribution.local(strategy, strategy.run(trainer.step, args=(parts,)))

    return step


def two_devices(rounds):
    """Return the time ratio of a step on two CPU devices to one on a single device."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)
    mirrored = whole_step("student", distribution.strategy("mirrored"))
    times = time_in_turn({"two": mirrored, "one": whole_step("student")}, rounds)
    return median_ratio(times["two"], times["one"])


def alone(kind, quick):
    """Return the last line of this script's output for one kind of step."""
    command = [
        sys.executable,
        __file__,
        "--only",
        kind,
        *(["--quick"] if quick else []),
    ]
    return subprocess.check_output(command, text=True).splitlines()[-1]


def peak_memory_gb():
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


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
    """Return seconds per round of each function, after two warm-up rounds."""
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
