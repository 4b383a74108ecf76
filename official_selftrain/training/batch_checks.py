"""Checks of the batches that Keras' own `fit` gets."""

import contextlib
import types

import keras
import numpy as np
import tensorflow as tf

from official_selftrain.checks import messages

# What labels may hold beside classes, and what it means.
_OTHER = {"classes": (-1, "-1 as padding"), "mask": (255, "255 where it is unknown")}
_START = "Expected labels of classes"


def check_streams(batch):
    """Check that a batch is a dict of streams.

    Args:
        batch: what `fit` got.

    Raises:
        ValueError: if it isn't one.
    """
    if not isinstance(batch, dict) or "labeled" not in batch:
        received = type(batch).__name__.removesuffix("Spec")
        if isinstance(batch, dict):
            received = f"keys={sorted(batch)}"
        raise ValueError(
            'Expected a batch {"labeled": …} or {"labeled": …, "pseudo": …}. '
            f"Received: {received}"
        )


def checked(data, trainer):
    """Return data whose batches are checked, one by one.

    Args:
        data: what `fit` got: a `tf.data.Dataset`, a generator, or a `PyDataset`, of
            which only the first batch is checked.
        trainer: `SelfTrainer`.

    Returns:
        The data to train on, whose iteration raises errors for a class that the
        model doesn't have; see `one_line_errors`.

    Raises:
        ValueError: for batches that aren't streams, as far as they are known.
    """
    if isinstance(data, tf.data.Dataset):
        _check_form(data.element_spec, trainer)
        return data.map(lambda batch: _asserted(batch, trainer))
    if isinstance(data, types.GeneratorType):
        # Keras wants tuples.
        return ((_eagerly_checked(batch, trainer),) for batch in data)
    if isinstance(data, keras.utils.PyDataset):
        _eagerly_checked(data[0], trainer)
    return data


@contextlib.contextmanager
def one_line_errors():
    """Turn errors that `checked` data raises in a graph into a `ValueError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        text = messages.readable(error.message)
        if _START not in text:
            raise
        raise ValueError(text) from None


def _eagerly_checked(batch, trainer):
    _check_form(batch, trainer)
    for stream, key, count in _labels(batch, trainer):
        values = np.asarray(batch[stream][key])
        wrong = values[_is_wrong(values, key, count)]
        if wrong.size:
            raise ValueError(f"{_expected(stream, key, count)} {wrong[0]}")
    return batch


def _asserted(batch, trainer):
    """Return a batch of tensors that depends on checks of its labels."""
    checks = []
    for stream, key, count in _labels(batch, trainer):
        values = tf.convert_to_tensor(batch[stream][key])
        wrong = tf.boolean_mask(values, _is_wrong(values, key, count))
        parts = [_expected(stream, key, count), tf.reduce_sum(wrong[:1])]
        checks.append(tf.debugging.Assert(tf.size(wrong) == 0, parts))
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, batch)


def _check_form(batch, trainer):
    check_streams(batch)
    for stream in trainer.streams(batch):
        labels = batch[stream]
        if not isinstance(labels, dict) or "images" not in labels:
            keys = sorted(labels) if isinstance(labels, dict) else type(labels).__name__
            raise ValueError(
                f"Expected images and labels in the stream {stream}. Received: {keys}"
            )


def _labels(batch, trainer):
    """Return the stream, the key and the number of classes of labels to check."""
    counts = {s: getattr(trainer.model_of(s), "num_classes", None) for s in batch}
    return [
        (stream, key, counts[stream])
        for stream in trainer.streams(batch)
        for key in _OTHER
        if counts[stream] is not None and key in batch[stream]
    ]


def _is_wrong(values, key, count):
    return ((values < 0) | (values >= count)) & (values != _OTHER[key][0])


def _expected(stream, key, count):
    return (
        f"{_START} 0 to {count - 1}, {_OTHER[key][1]}, in {key} of the stream "
        f"{stream}. Received:"
    )
