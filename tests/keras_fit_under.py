"""Take steps of Keras' own `fit` on one device and on two, in a process of its own.

python tests/keras_fit_under.py OUTPUT

OUTPUT, a JSON file, holds for every kind of data the largest difference between the
variables, relative to their size, the logs of both, and what is refused on two devices.
"""

import contextlib
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from toy_training import tiny_model

from official_selftrain.training import SelfTrainer


def arrays(count, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 16, (count, 3, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 16, (count, 3, 2))], -1)
    classes = rng.integers(0, 2, (count, 3))
    classes[::3, 1:] = -1
    return {
        "images": rng.uniform(0, 255, (count, 32, 32, 3)).astype("float32"),
        "boxes": boxes.astype("float32"),
        "classes": classes,
        "ignore": rng.uniform(size=(count, 3)) < 0.2,
        "sample_weights": rng.uniform(0, 2, count).astype("float32"),
    }


LABELED, PSEUDO = arrays(8, 0), arrays(16, 1)


def dataset(*sizes, **changes):
    streams = zip(("labeled", "pseudo"), (LABELED, PSEUDO), sizes)
    return tf.data.Dataset.zip(
        {
            stream: tf.data.Dataset.from_tensor_slices({**data, **changes}).batch(size)
            for stream, data, size in streams
        }
    )


def batches():
    for half in (slice(0, 4), slice(4, 8)):
        yield {"labeled": {key: value[half] for key, value in LABELED.items()}}


def generated():
    spec = tf.nest.map_structure(
        lambda value: tf.TensorSpec((None, *value.shape[1:]), value.dtype),
        {"labeled": LABELED},
    )
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def fitted(strategy, data, settings, **compiled):
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with scope:
        trainer = SelfTrainer(tiny_model(), alpha=2.0, l2=1e-2, **settings)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9, global_clipnorm=0.5)
        trainer.compile(optimizer=optimizer, **compiled)
    history = trainer.fit(data, shuffle=False, verbose=0).history
    if not isinstance(data, tf.data.Dataset):
        return trainer, history
    logs = trainer.evaluate(data, verbose=0, return_dict=True)
    return trainer, {**history, **{f"val_{name}": [v] for name, v in logs.items()}}


def differing(one, other):
    """Return the largest difference of variables, relative to the largest value."""
    largest = 0.0
    pairs = zip(
        [*one.variables, *one.optimizer.variables],
        [*other.variables, *other.optimizer.variables],
        strict=True,
    )
    for value, found in pairs:
        if "seed" in value.path or value.path.count("metric"):
            continue
        value, found = (np.asarray(v, "float64") for v in (value, found))
        # Biases that batch normalization cancels contain only rounding errors.
        scale = max(np.abs(value).max(), 1e-2)
        largest = max(largest, np.abs(value - found).max() / scale)
    return largest


def outside(strategy, what):
    """Fit with a model or an optimizer from outside of the strategy's scope."""
    model = tiny_model() if what == "model" else None
    optimizer = keras.optimizers.SGD(0.01) if what == "optimizer" else None
    with strategy.scope():
        trainer = SelfTrainer(model or tiny_model())
        trainer.compile(optimizer=optimizer or keras.optimizers.SGD(0.01))
    trainer.fit(dataset(4), verbose=0)


def main(output):
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found, images = {}, LABELED["images"].copy()
    integers = {"ignore": LABELED["ignore"].astype("int32")}
    for name, make, settings in (
        ("both", lambda: dataset(4, 8), {"normalizer": "average"}),
        ("uneven", lambda: dataset(5, **integers), {}),
        ("generated", generated, {}),
    ):
        one, logs = fitted(None, make(), settings)
        other, found_logs = fitted(strategy, make(), settings)
        found[name] = differing(one, other), logs, found_logs
    refused = {
        "model": lambda: outside(strategy, "model"),
        "optimizer": lambda: outside(strategy, "optimizer"),
        "execution": lambda: fitted(strategy, dataset(4), {}, steps_per_execution=2),
        "jit": lambda: fitted(strategy, dataset(4), {}, jit_compile=True),
        "small": lambda: fitted(strategy, dataset(7), {}),
        "evaluate": lambda: other.evaluate(dataset(7), verbose=0),
        "generator": lambda: fitted(strategy, batches(), {}),
        "on_batch": lambda: other.train_on_batch(next(batches())),
    }
    for name, call in refused.items():
        try:
            call()
        except ValueError as error:
            found[name] = str(error)
    found["images"] = bool((LABELED["images"] == images).all())
    with open(output, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
