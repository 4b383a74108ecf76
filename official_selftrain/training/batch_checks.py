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

_RANKS = {"classes": 2, "mask": 3}
_FORMS = {2: "[B, M]", 3: "[B, H, W]"}
_RAGGED = (tf.RaggedTensor, tf.RaggedTensorSpec)


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
        data: what `fit` got: a `tf.data.Dataset`, a generator, or a `PyDataset`.
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
        return _Checked(data, trainer)
    return data


class _Checked(keras.utils.PyDataset):
    """A `PyDataset` whose batches are checked."""

    def __init__(self, data, trainer):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.trainer = data, trainer
        self.on_epoch_begin, self.on_epoch_end = data.on_epoch_begin, data.on_epoch_end

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return _eagerly_checked(self.data[index], self.trainer)


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
        values = tf.reshape(batch[stream][key], [-1])
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
        for key, rank in _RANKS.items():
            if key in labels:
                _check_array(labels[key], rank, f"{key} of the stream {stream}")


def _check_array(values, rank, title):
    """Check the rank and the type of labels, tensors or what specifies them."""
    values = values if hasattr(values, "dtype") else np.asarray(values)
    dtype = tf.as_dtype(values.dtype)
    is_number = dtype.is_integer or dtype.is_floating
    shape = tf.TensorShape(values.shape)  # its rank may be unknown
    if shape.rank not in (rank, None) or not is_number or isinstance(values, _RAGGED):
        raise ValueError(
            f"Expected {title}, numbers {_FORMS[rank]}. Received: {dtype.name}, "
            f"{type(values).__name__} of shape {shape}"
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
    # Not a number isn't in the range.
    is_class = (values >= 0) & (values < count)
    is_whole = values == values // 1
    return ~(is_class & is_whole) & (values != _OTHER[key][0])


def _expected(stream, key, count):
    return (
        f"{_START} 0 to {count - 1}, {_OTHER[key][1]}, in {key} of the stream "
        f"{stream}. Received:"
    )
