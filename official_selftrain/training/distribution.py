"""Training on one device, several devices or several machines.

A batch is split evenly over the replicas of a `tf.distribute.Strategy`. Loss divisors
and loss averages are summed over the replicas, so a step's results don't depend on the
number of replicas.
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
    """Return the distribution strategy of a training.

    Call it before any other TensorFlow operation: it connects the machines.

    Args:
        name: `"one_device"`: the first accelerator, or the CPU; `"mirrored"`: all
            GPUs of this machine, or all its logical CPU devices where it has none;
            `"multi_worker"`: the machines listed in the variable TF_CONFIG;
            `"tpu"`: the cores of a TPU.
        tpu_address: str, the TPU's name or grpc:// address; "" uses the one from the
            environment, `"local"` the one of this machine.

    Returns:
        `tf.distribute.Strategy`; create models and optimizers in its `scope()`.

    Raises:
        ValueError: for an unknown name, or a missing or malformed TF_CONFIG.
        RuntimeError: if the TPU can't be reached.
    """
    arguments.check_choice("strategy", name, NAMES)
    if name == "one_device":
        return tf.distribute.get_strategy()
    return {"mirrored": _mirrored, "multi_worker": _multi_worker}.get(
        name, functools.partial(_tpu, tpu_address)
    )()


# TensorFlow can create each of these only once per process.
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
    """Sum a tensor, or each tensor of a nest, over all replicas.

    No gradient flows through. Outside a strategy the value is returned unchanged.
    """
    if keras.backend.backend() != "tensorflow":
        return value  # JAX arrays span all devices: nothing to sum
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    value = tf.nest.map_structure(tf.stop_gradient, value)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def num_replicas():
    """Return the number of replicas of the current strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def worker(strategy):
    """Return (index, count) of this worker among those of a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def local(strategy, value):
    """Return the first local replica's part of each tensor of a nest."""
    return tf.nest.map_structure(
        lambda v: strategy.experimental_local_results(v)[0], value
    )


def with_images(batch):
    """Return this replica's part of a batch, which must not be empty."""
    if num_replicas() == 1:
        return batch
    part = tf.nest.map_structure(lambda tensor: tf.shape(tensor)[0], batch)
    check = tf.debugging.Assert(
        tf.reduce_min(tf.nest.flatten(part)) > 0,
        ["Expected images of every stream for each of", num_replicas(), "replicas: "
         "batch(…, drop_remainder=True) drops a last batch that is too small. "
         "Received: none for one of them"],
    )  # fmt: skip
    with tf.control_dependencies([check]):
        return tf.nest.map_structure(tf.identity, batch)


def whole_batch(strategy, batch):
    """Concatenate the local replicas' parts of a batch, a nest of tensors."""
    return tf.nest.map_structure(
        lambda v: tf.concat(strategy.experimental_local_results(v), axis=0), batch
    )


def per_replica_batch_size(batch_size, strategy, accumulation=1):
    """Return the number of images of each stream per replica and forward pass.

    Args:
        batch_size: int, images of each stream in a step.
        strategy: `tf.distribute.Strategy`.
        accumulation: int, parts that a replica processes in turn.

    Raises:
        ValueError: if the batch doesn't divide evenly.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % (replicas * accumulation):
        raise ValueError(
            f"Expected batch_size, a multiple of {replicas * accumulation} ({replicas} "
            f"replicas, accumulation {accumulation}). Received: batch_size={batch_size}"
        )
    return batch_size // (replicas * accumulation)


def of_model(model):
    """Return the strategy in whose scope a `keras.Model` was created."""
    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def check_scope(variables):
    """Check that variables exist on every replica of a strategy.

    Args:
        variables: list of `keras.Variable`.

    Raises:
        ValueError: for one that was created outside of the strategy's scope.
    """
    for variable in variables:
        if not isinstance(variable.value, tf.distribute.DistributedValues):
            raise ValueError(
                "Expected model, trainer and optimizer created within "
                "strategy.scope(), on several replicas. "
                f"Received: {variable.path} created outside"
            )


@contextlib.contextmanager
def synchronized_batch_norm(model, strategy):
    """Synchronize batch statistics over the replicas; a no-op on one replica."""
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
