"""A moving average of a model's weights."""

import contextlib

import tensorflow as tf

from official_selftrain.checks.arguments import check_decay


class WeightAverage(tf.Module):
    """An exponential moving average of all weights that a model saves.

    Batch normalization's statistics are averaged too. After t updates the decay is
    `min(decay, (1 + t) / (10 + t))`, so the initial weights fade quickly.

    Create it in the scope of the model's strategy.

    Args:
        model: `keras.Model`, built.
        decay: float in 0…1, below 1.

    Raises:
        ValueError: for a decay outside 0…1.

    Source: `tf.train.ExponentialMovingAverage` with `num_updates`.
    """

    def __init__(self, model, decay):
        super().__init__()
        check_decay(ema_decay=decay)
        self.decay = float(decay)
        self._weights = [w.value for w in model.weights if "float" in w.dtype]
        self.averages = [tf.Variable(w, trainable=False) for w in self._weights]
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)

    def update(self):
        """Update the averages; call it outside the replicas' step."""
        self.updates.assign_add(1)
        count = tf.cast(self.updates, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + count) / (10.0 + count))
        for average, weight in zip(self.averages, self._weights):
            rate = tf.cast(1.0 - decay, average.dtype)
            average.assign(average - rate * (average - weight))

    @contextlib.contextmanager
    def in_use(self):
        """Temporarily replace the model's weights by the averages."""
        raw = [tf.identity(weight) for weight in self._weights]
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(raw)

    def _assign(self, values):
        for weight, value in zip(self._weights, values):
            weight.assign(tf.identity(value))
