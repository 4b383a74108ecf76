"""The student's loss: labelled and pseudo-labelled images in one step."""

import keras
from keras import ops

STREAMS = ("labeled", "pseudo")


@keras.saving.register_keras_serializable(package="official_selftrain")
class LossNormalizer(keras.layers.Layer):
    """Keep the moving averages that bring the pseudo loss to size.

    Both averages start at zero and are divided by `1 - decay^t`, so that the
    scale is already `L_h / L_p` at the first step. They are weights: saved,
    restored and, under several replicas, averaged.

    Args:
        decay: float in 0…1, below 1.

    Raises:
        ValueError: for a decay outside 0…1.

    Source: paper appendix B (decay 0.9997); the start is our decision.
    """

    def __init__(self, decay=0.9997, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= decay < 1.0:
            raise ValueError(
                f"Expected decay of at least 0 and below 1. Received: decay={decay}"
            )
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
        """Take one step of both averages; no gradient passes through."""
        share = 1.0 - self.decay
        for average, value in (
            (self.labeled_sum, labeled_loss),
            (self.pseudo_sum, pseudo_loss),
        ):
            value = ops.stop_gradient(ops.cast(value, "float32"))
            average.assign(self.decay * average + share * value)
        self.remaining.assign(self.decay * self.remaining)

    def averages(self):
        """Return the bias-corrected averages `(labeled, pseudo)`, 0 at first."""
        weight = ops.maximum(1.0 - self.remaining, keras.config.epsilon())
        return self.labeled_sum / weight, self.pseudo_sum / weight

    def scale(self):
        """Return `average labeled loss / average pseudo loss`, a constant.

        1 as long as no pseudo loss has been seen that isn't zero.
        """
        labeled, pseudo = self.averages()
        seen = pseudo > 0.0
        ratio = ops.where(seen, labeled / ops.where(seen, pseudo, 1.0), 1.0)
        return ops.stop_gradient(ratio)

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "decay": self.decay}


@keras.saving.register_keras_serializable(package="official_selftrain")
class SelfTrainer(keras.Model):
    """Train a model on labelled images, or on labelled and pseudo-labelled ones.

    A batch is `{"labeled": batch}` for a teacher and `{"labeled": batch,
    "pseudo": batch}` for a student; the step is the same. With both, the loss is

        L = 1 / (1 + alpha) · (L_h + alpha · (mean L_h / mean L_p) · L_p) + L2

    where L_h and L_p are the model's loss on each stream, each normalised by
    its own positives, and the means are exponential moving averages through
    which no gradient flows. Both streams go through the model in one pass and
    so share batch normalisation. `alpha=0` leaves the pseudo stream out of the
    step altogether. `L2 = l2 · Σ‖v‖² / 2`.

    It is a `keras.Model`: `compile(optimizer=…)`, `fit`, `evaluate` and `save`
    work as usual. The logs hold `loss` (all of L), `labeled_loss` (L_h) and,
    with a pseudo stream, `pseudo_loss` (L_p) and `pseudo_scale` (the ratio of
    the means). Clipping is the optimizer's `global_clipnorm`.

    Args:
        model: `keras.Model` that obeys the contract of
            `official_selftrain.models`.
        alpha: float, at least 0, weight of the pseudo-labelled stream.
        normalize: bool; False gives the plain sum `L_h + alpha · L_p`.
        decay: float, of the moving averages.
        l2: float, factor of the L2 penalty.
        l2_names: endings of the names of the weights it covers.

    Raises:
        TypeError: if `model` has no `compute_losses`.
        ValueError: for a negative alpha or l2.

    Source: paper section 3.2 and appendix B; L2 of the authors' code.
    """

    def __init__(
        self,
        model,
        alpha=1.0,
        normalize=True,
        decay=0.9997,
        l2=0.0,
        l2_names=("kernel",),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not hasattr(model, "compute_losses"):
            raise TypeError(
                "Expected a keras.Model with compute_losses(outputs, labels), see "
                f"official_selftrain.models. Received: model={type(model).__name__}"
            )
        for factor, value in (("alpha", alpha), ("l2", l2)):
            if not isinstance(value, (int, float)) or value < 0.0:
                raise ValueError(
                    f"Expected {factor} of at least 0. Received: {factor}={value!r}"
                )
        self.model = model
        self.alpha = alpha
        self.normalize = normalize
        self.decay = decay
        self.l2 = l2
        self.l2_names = tuple(l2_names)
        self.normalizer = LossNormalizer(decay, name="normalizer")
        self.labeled_loss = keras.metrics.Mean(name="labeled_loss")
        self.pseudo_loss = keras.metrics.Mean(name="pseudo_loss")
        self.pseudo_scale = keras.metrics.Mean(name="pseudo_scale")
        self.built = True

    def call(self, inputs, training=None):
        """Run the model.

        Args:
            inputs: images `[B, H, W, 3]`, or a batch of one or two streams.
            training: bool.

        Returns:
            The model's outputs, or a dict of them with the streams' names.
        """
        if not isinstance(inputs, dict):
            return self.model(inputs, training=training)
        streams = self._streams(inputs)
        images = [inputs[stream]["images"] for stream in streams]
        outputs = self.model(ops.concatenate(images), training=training)
        split = ops.shape(images[0])[0]
        parts = (slice(None, split), slice(split, None))
        return {
            stream: {name: tensor[part] for name, tensor in outputs.items()}
            for stream, part in zip(streams, parts)
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Return the joint loss of a batch, and in training update the averages.

        Args:
            x: a batch of one or two streams.
            y: unused, labels are part of the batch.
            y_pred: `call`'s result for `x`.
            sample_weight: unused.
            training: bool; False leaves the averages as they are.

        Returns:
            float32 scalar.
        """
        losses = {
            stream: self.model.compute_losses(y_pred[stream], x[stream])["loss"]
            for stream in self._streams(x)
        }
        total = losses["labeled"]
        self.labeled_loss.update_state(total)
        if "pseudo" in losses:
            if training:
                self.normalizer.update(losses["labeled"], losses["pseudo"])
            scale = self.normalizer.scale() if self.normalize else ops.ones(())
            total = total + self.alpha * scale * losses["pseudo"]
            if self.normalize:
                total = total / (1.0 + self.alpha)
            self.pseudo_loss.update_state(losses["pseudo"])
            self.pseudo_scale.update_state(scale)
        if self.l2:
            squares = [
                ops.sum(ops.square(ops.cast(weight, "float32")))
                for weight in self.model.trainable_weights
                if weight.name.endswith(self.l2_names)
            ]
            total = total + 0.5 * self.l2 * sum(squares)
        return total + sum(self.losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Return the logs; a teacher's have no pseudo terms."""
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if len(self._streams(x)) == 1:
            logs = {k: v for k, v in logs.items() if not k.startswith("pseudo")}
        return logs

    def _streams(self, batch):
        """Return the names of the streams that enter the step."""
        if "labeled" not in batch:
            raise ValueError(
                'Expected a batch {"labeled": …} or {"labeled": …, "pseudo": …}. '
                f"Received: keys={sorted(batch)}"
            )
        return [s for s in STREAMS if s in batch and (s == "labeled" or self.alpha)]

    def get_config(self):
        """Return the constructor's arguments, the model serialised."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "alpha": self.alpha,
            "normalize": self.normalize,
            "decay": self.decay,
            "l2": self.l2,
            "l2_names": self.l2_names,
        }

    @classmethod
    def from_config(cls, config):
        """Build a trainer from `get_config`'s result."""
        config = dict(config)
        config["model"] = keras.saving.deserialize_keras_object(config["model"])
        return cls(**config)
