"""The step on one device, on several, on several machines.

A batch is split evenly over the replicas of a `tf.distribute.Strategy`. What a
batch's loss is divided by, and the loss averages, are summed over the replicas, so
that every number of a step is the same however many there are.
"""

import contextlib
import functools
import json
import os

import keras
import tensorflow as tf

from official_selftrain.checks import arguments

NAMES = ("one_device", "mirrored", "multi_worker", "tpu")


def strategy(name="one_device", tpu_address=""):
    """Return the strategy that a training runs under.

    Call it before anything else of TensorFlow runs: machines find each other then.

    Args:
        name: `"one_device"`: the first accelerator, or the CPU; `"mirrored"`: all
            GPUs of this machine, or all its logical CPU devices where it has none;
            `"multi_worker"`: the machines that the environment's TF_CONFIG lists;
            `"tpu"`: the cores of a TPU.
        tpu_address: str, the TPU's name or grpc:// address; "" is the one that the
            environment knows, `"local"` that of this machine.

    Returns:
        `tf.distribute.Strategy`; models and optimizers are made in its `scope()`.

    Raises:
        ValueError: for another name, or a TF_CONFIG that is missing or not read.
        RuntimeError: if the TPU can't be reached.
    """
    arguments.check_choice("strategy", name, NAMES)
    if name == "one_device":
        return tf.distribute.get_strategy()
    return {"mirrored": _mirrored, "multi_worker": _multi_worker}.get(
        name, functools.partial(_tpu, tpu_address)
    )()


# TensorFlow can't make one of these twice in a process.
@functools.cache
def _mirrored():
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multi_worker():
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        index, kind = task["index"], task["type"]
        well_formed = kind == "worker" and 0 <= index < len(workers)
    except (ValueError, KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise ValueError(
            'Expected TF_CONFIG like {"cluster": {"worker": ["host:port", …]}, "task": '
            '{"type": "worker", "index": 0}} in the environment. '
            f"Received: TF_CONFIG={text!r}"
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


@functools.cache
def _tpu(address):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, tf.errors.OpError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise RuntimeError(
            f"Expected a TPU. Received: tpu_address={address!r} ({reason})"
        ) from error


def sum_over_replicas(value):
    """Return the sum of a tensor, or of each of a list, in every replica.

    No gradient passes through. Outside of a strategy it is the value itself.
    """
    if keras.backend.backend() != "tensorflow":
        return value  # JAX's arrays span its devices: nothing is left to sum
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    value = tf.nest.map_structure(tf.stop_gradient, value)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def num_replicas():
    """Return into how many parts the current strategy splits a batch."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def worker(strategy):
    """Return (index, number) of this process among those of a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def local(strategy, value):
    """Return this process' first replica's part of each tensor of a nest."""
    return tf.nest.map_structure(
        lambda v: strategy.experimental_local_results(v)[0], value
    )


def whole_batch(strategy, batch):
    """Return all that this process has of a batch, a nest of tensors."""
    return tf.nest.map_structure(
        lambda v: tf.concat(strategy.experimental_local_results(v), axis=0), batch
    )


def per_replica_batch_size(batch_size, strategy, accumulation=1):
    """Return how many images of each stream go through a replica at once.

    Args:
        batch_size: int, images of each stream in a step.
        strategy: `tf.distribute.Strategy`.
        accumulation: int, parts that a replica takes one after the other.

    Raises:
        ValueError: for a batch that doesn't divide.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % (replicas * accumulation):
        raise ValueError(
            f"Expected batch_size, a multiple of {replicas * accumulation} ({replicas} "
            f"replicas, accumulation {accumulation}). Received: batch_size={batch_size}"
        )
    return batch_size // (replicas * accumulation)


@contextlib.contextmanager
def synchronized_batch_norm(model, strategy):
    """Let the replicas share batch statistics; on one replica nothing changes."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.synchronized for layer in layers]
    try:
        if strategy.num_replicas_in_sync > 1:
            for layer in layers:
                layer.synchronized = True
        yield
    finally:
        for layer, value in zip(layers, before):
            layer.synchronized = value
