"""Checks of the batches that Keras' own `fit` gets."""

import contextlib
import types

import keras
import numpy as np
import tensorflow as tf

from official_selftrain.checks import messages
from official_selftrain.models import label_checks
from official_selftrain.training import distribution

STREAMS = ("labeled", "pseudo", "classified")

_RANKS = {"classes": 2, "mask": 3}
_FORMS = {2: "[B, M]", 3: "[B, H, W]"}
_RAGGED = (
    tf.RaggedTensor,
    tf.RaggedTensorSpec,
    tf.SparseTensor,
    tf.SparseTensorSpec,
)


def check_arguments(data, y=None, **others):
    """Check that Keras' arguments beside the data can be followed.

    Args:
        data: what `fit`, `evaluate` or their like got as `x`.
        y: None, since labels are part of the batches.
        **others: further arguments of Keras; those that it can follow are passed over.

    Raises:
        ValueError: for labels or weights beside the batches, or for settings of arrays
            beside batches.
    """
    beside = {"y": y, **{k: others.get(k) for k in ("class_weight", "sample_weight")}}
    for name, value in beside.items():
        if value is not None:
            raise ValueError(
                "Expected batches of streams, whose labels and sample_weights are part "
                "of them; classes have no weights. "
                f"Received: {name}, {type(value).__name__}"
            )
    split = others.get("validation_split")
    arrays = {
        "batch_size": data,
        "validation_split": data,
        "validation_batch_size": data if split else others.get("validation_data"),
    }
    for name, of in arrays.items():
        if others.get(name) and not isinstance(of, dict):
            raise ValueError(
                f"Expected {name} with arrays only: pass batched data, and "
                "validation_data for validation. "
                f"Received: {name}={others[name]!r} with {type(of).__name__}"
            )


def check_streams(batch):
    """Check that a batch is a dict of streams.

    Args:
        batch: what `fit` got.

    Raises:
        ValueError: if it isn't one.
    """
    unknown = not isinstance(batch, dict) or set(batch) - set(STREAMS)
    if unknown or "labeled" not in batch:
        received = type(batch).__name__.removesuffix("Spec")
        if isinstance(batch, dict):
            received = f"keys={sorted(batch)}"
        raise ValueError(
            'Expected a batch {"labeled": …} or {"labeled": …, "pseudo": …}, each with '
            "images, labels and, if wanted, sample_weights. "
            f"Received: {received}"
        )


def checked(data, trainer, validate=True):
    """Return data whose batches are checked, one by one.

    Args:
        data: what `fit` got: a `tf.data.Dataset`, a generator, a `PyDataset`, or a dict
            of streams of arrays.
        trainer: `SelfTrainer`.
        validate: bool, whether the values of the first batch are checked too, as far as
            the models know how (`check_labels`).

    Returns:
        The data to train on, whose iteration raises errors for a class that the
        model doesn't have; see `one_line_errors`.

    Raises:
        ValueError: for batches that aren't streams, as far as they are known; on
            several replicas, for data that TensorFlow doesn't make.
    """
    python_data = (types.GeneratorType, keras.utils.PyDataset)
    if distribution.of_model(trainer).num_replicas_in_sync > 1 and isinstance(
        data, python_data
    ):
        # TensorFlow would train on parts of the arrays in place, and overwrite them.
        raise ValueError(
            "Expected a tf.data.Dataset on several replicas, see its from_generator. "
            f"Received: {type(data).__name__}"
        )
    # Whether the next batch is the first one: whoever takes it checks it.
    first = [True] if validate else []
    if not validate:
        for model in filter(None, (trainer.model, trainer.classifier)):
            label_checks.mark(model)
    if isinstance(data, tf.data.Dataset):
        _check_form(data.element_spec, trainer)
        convert = tf.autograph.experimental.do_not_convert
        return data.map(convert(lambda batch: _asserted(batch, trainer, first)))
    if isinstance(data, types.GeneratorType):
        # Keras wants tuples.
        return ((eagerly_checked(batch, trainer, first),) for batch in data)
    if isinstance(data, keras.utils.PyDataset):
        return _Checked(data, trainer, first)
    if isinstance(data, (dict, tuple, list)):
        return eagerly_checked(data, trainer, first)
    return data


class _Checked(keras.utils.PyDataset):
    """A `PyDataset` whose batches are checked."""

    def __init__(self, data, trainer, first):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.trainer, self.first = data, trainer, first
        self.on_epoch_begin, self.on_epoch_end = data.on_epoch_begin, data.on_epoch_end

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return eagerly_checked(self.data[index], self.trainer, self.first)


@contextlib.contextmanager
def one_line_errors():
    """Turn errors that `checked` data raises in a graph into a `ValueError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        _, start, text = messages.readable(error.message).partition("Expected ")
        if not start or " Received: " not in text:
            raise
        raise ValueError(start + text) from None


def eagerly_checked(batch, trainer, first):
    """Return a batch of arrays, checked.

    Args:
        batch: dict of streams.
        trainer: `SelfTrainer`.
        first: list, whose element says that the batch is the first one; it is taken
            out.

    Raises:
        ValueError: as `checked` does.
    """
    _check_form(batch, trainer)
    if first:
        first.clear()
        _check_values(batch, trainer)
    for stream, key, count in _labels(batch, trainer):
        where = f" of the stream {stream}"
        label_checks.check_classes(batch[stream], key, count, where)
    return batch


def _check_values(batch, trainer):
    """Check the first batch, as far as its models know how."""
    for stream in trainer.streams(batch):
        model = trainer.model_of(stream)
        if hasattr(model, "check_labels"):
            labels = {key: np.asarray(value) for key, value in batch[stream].items()}
            model.check_labels(labels, f" of the stream {stream}")
            label_checks.mark(model)


def _asserted(batch, trainer, first):
    """Return a batch of tensors that depends on checks of its labels."""
    checks = [_first_check(batch, trainer, first)] if first else []
    with tf.control_dependencies(checks):
        batch = tf.nest.map_structure(tf.identity, batch)
    checks = []
    for stream, key, count in _labels(batch, trainer):
        values = tf.reshape(batch[stream][key], [-1])
        wrong = tf.boolean_mask(values, label_checks.is_wrong(values, key, count))
        text = label_checks.expected(key, count, f" of the stream {stream}")
        parts = [text, tf.reduce_sum(wrong[:1])]
        checks.append(tf.debugging.Assert(tf.size(wrong) == 0, parts))
    with tf.control_dependencies(checks):
        if distribution.of_model(trainer).num_replicas_in_sync > 1:
            # Replicas work in place on parts of it: not on a generator's own arrays.
            return tf.nest.map_structure(lambda x: tf.raw_ops.DeepCopy(x=x), batch)
        return tf.nest.map_structure(tf.identity, batch)


def _first_check(batch, trainer, first):
    """Return an operation that checks the first batch that passes.

    Looking at a batch beforehand would draw from the seeds of the data's own shuffling.
    """

    def check(*arrays):
        _check_values(tf.nest.pack_sequence_as(batch, arrays), trainer)
        return True

    def check_now():
        return tf.numpy_function(check, tf.nest.flatten(batch), tf.bool)

    is_first = tf.numpy_function(lambda: bool(first) and first.pop(), [], tf.bool)
    return tf.cond(is_first, check_now, lambda: True)


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
        if hasattr(trainer.model_of(stream), "check_labels"):
            _check_dense(labels, stream)


def _check_dense(labels, stream):
    for key, values in labels.items():
        if isinstance(values, _RAGGED):
            raise ValueError(
                f"Expected {key} of the stream {stream}, padded to one shape (see "
                f"tf.data.Dataset.padded_batch). Received: {type(values).__name__}"
            )


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
        for key in label_checks.OTHER
        if counts[stream] is not None and key in batch[stream]
    ]
