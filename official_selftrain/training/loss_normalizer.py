"""Moving averages of losses and positives: what the joint loss is normalized by."""

import keras
from keras import ops

from official_selftrain.checks.arguments import check_decay


@keras.saving.register_keras_serializable(package="official_selftrain")
class LossNormalizer(keras.layers.Layer):
    """Keep moving averages that scale the pseudo loss to the labeled loss.

    Both averages start at zero and are divided by `1 - decay^t`, so the scale is
    already `L_h / L_p` at the first step. They are weights: they are saved, restored
    and, on several replicas, averaged.

    Args:
        decay: float in 0…1, below 1.

    Raises:
        ValueError: for a decay outside 0…1.

    Source: paper appendix B (decay 0.9997); the bias correction is our choice.
    """

    def __init__(self, decay=0.9997, **kwargs):
        super().__init__(**kwargs)
        check_decay(decay=decay)
        self.decay = decay
        weight = {"shape": (), "trainable": False, "aggregation": "mean"}
        self.labeled_sum = self.add_weight(
            name="labeled_sum", initializer="zeros", dtype="float32", **weight
        )
        self.pseudo_sum = self.add_weight(
            name="pseudo_sum", initializer="zeros", dtype="float32", **weight
        )
        self.remaining = self.add_weight(
            name="remaining", initializer="ones", dtype="float32", **weight
        )
        self.built = True

    def update(self, labeled_loss, pseudo_loss):
        """Update both averages; no gradient flows through."""
        weight = 1.0 - self.decay
        for average, value in (
            (self.labeled_sum, labeled_loss),
            (self.pseudo_sum, pseudo_loss),
        ):
            value = ops.stop_gradient(ops.cast(value, "float32"))
            average.assign(self.decay * average + weight * value)
        self.remaining.assign(self.decay * self.remaining)

    def averages(self):
        """Return the bias-corrected averages `(labeled, pseudo)`, initially 0."""
        weight = ops.maximum(1.0 - self.remaining, keras.config.epsilon())
        return self.labeled_sum / weight, self.pseudo_sum / weight

    def scale(self):
        """Return `average labeled loss / average pseudo loss`, a constant.

        It is 1 until a nonzero pseudo loss has been seen.
        """
        labeled, pseudo = self.averages()
        seen = pseudo > 0.0
        ratio = ops.where(seen, labeled / ops.where(seen, pseudo, 1.0), 1.0)
        return ops.stop_gradient(ratio)

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "decay": self.decay}


@keras.saving.register_keras_serializable(package="official_selftrain")
class PositivesAverage(keras.layers.Layer):
    """Keep a moving average of the positives of each stream.

    A small batch of pseudo-labeled images often has no positive. Divided by its own
    number of positives plus one, the loss of its background alone weighs many times
    as much as that of a batch with objects; divided by the average, it doesn't. The
    averages start at zero and are divided by `1 - decay^t`. They are weights, like
    those of `LossNormalizer`.

    Args:
        decay: float in 0…1, below 1.

    Raises:
        ValueError: for a decay outside 0…1.

    Source: RetinaNet of detectron2 (`_ema_update`); own: one average per stream,
    corrected for its start.
    """

    STREAMS = ("labeled", "pseudo", "classified")

    def __init__(self, decay=0.99, **kwargs):
        super().__init__(**kwargs)
        check_decay(decay=decay)
        self.decay = decay
        weight = {"shape": (), "dtype": "float32", "trainable": False}
        weight["aggregation"] = "mean"
        self.sums = {
            stream: self.add_weight(name=f"{stream}_sum", initializer="zeros", **weight)
            for stream in self.STREAMS
        }
        self.remaining = {
            stream: self.add_weight(
                name=f"{stream}_remaining", initializer="ones", **weight
            )
            for stream in self.STREAMS
        }
        self.built = True

    def update(self, stream, count):
        """Add a batch to a stream's average; return the average.

        Args:
            stream: str.
            count: float32 scalar, the positives of the whole batch.

        Returns:
            float32 scalar, a constant.
        """
        total, remaining = self.sums[stream], self.remaining[stream]
        count = ops.stop_gradient(ops.cast(count, "float32"))
        total.assign(self.decay * total + (1.0 - self.decay) * count)
        remaining.assign(self.decay * remaining)
        return ops.stop_gradient(total / (1.0 - remaining))

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "decay": self.decay}
