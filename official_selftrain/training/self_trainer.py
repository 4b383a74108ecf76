"""The joint loss: labelled, pseudo-labelled and classified images in one step."""

import keras
import tensorflow as tf
from keras import ops

from official_selftrain.models.classifier import ImageClassifier
from official_selftrain.training import distribution
from official_selftrain.training.loss_normalizer import LossNormalizer

STREAMS = ("labeled", "pseudo", "classified")


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

    A third stream, `"classified"`, is for joint training: images with a class each go
    through `classifier`, which shares the model's backbone, in a pass of their own, and
    `classification_weight` times its loss is added to L. Each pass has its own batch
    statistics; the shared layers' moving averages follow both.

    It is a `keras.Model`: `compile(optimizer=…)`, `fit`, `evaluate` and `save`
    work as usual. The logs hold `loss` (all of L), `labeled_loss` (L_h) and, with a
    pseudo stream, `pseudo_loss` (L_p) and `pseudo_scale` (the ratio of the means), with
    a classified one `classified_loss`.
    Clipping is the optimizer's `global_clipnorm`.

    Under a `tf.distribute.Strategy` each replica has a part of the batch; positives,
    losses and gradients are summed over all replicas before anything is divided,
    averaged or clipped, so that the step is that of one device. `fitting.fit` drives
    it; Keras' own `fit` only on one replica. The same holds of the parts of a batch
    that `accumulation` takes one after the other, but for batch normalisation, which
    sees one part at a time. Accumulation goes backwards once for each stream: how they
    are weighed is known after the last part only.

    Args:
        model: `keras.Model` that obeys the contract of
            `official_selftrain.models`.
        alpha: float, at least 0, weight of the pseudo-labelled stream.
        normalize: bool; False gives the plain sum `L_h + alpha · L_p`.
        decay: float, of the moving averages.
        l2: float, factor of the L2 penalty.
        l2_names: endings of the names of the weights it covers.
        accumulation: int, parts of a batch that go through the model one after the
            other before the weights change: less memory for the same step.
        classifier: `models.ImageClassifier` on the model's backbone, or None.
        classification_weight: float, at least 0, weight of the classified stream; 0
            leaves it out of the step.

    Raises:
        TypeError: if `model` has no `compute_losses`, or `classifier` is none.
        ValueError: for a negative alpha, l2 or weight, an accumulation below 1, or a
            classifier on another backbone.

    Source: paper section 3.2 and appendix B, joint training of section 5 and appendix
    H; L2 of the authors' code.
    """

    def __init__(
        self,
        model,
        alpha=1.0,
        normalize=True,
        decay=0.9997,
        l2=0.0,
        l2_names=("kernel",),
        accumulation=1,
        classifier=None,
        classification_weight=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not hasattr(model, "compute_losses"):
            raise TypeError(
                "Expected a keras.Model with compute_losses(outputs, labels), see "
                f"official_selftrain.models. Received: model={type(model).__name__}"
            )
        factors = {
            "alpha": alpha,
            "l2": l2,
            "classification_weight": classification_weight,
        }
        for factor, value in factors.items():
            if not isinstance(value, (int, float)) or value < 0.0:
                raise ValueError(
                    f"Expected {factor} of at least 0. Received: {factor}={value!r}"
                )
        if not isinstance(accumulation, int) or accumulation < 1:
            raise ValueError(
                "Expected accumulation, an integer of at least 1. "
                f"Received: accumulation={accumulation!r}"
            )
        if not isinstance(classifier, ImageClassifier | None):
            raise TypeError(
                "Expected classifier, an ImageClassifier or None. "
                f"Received: classifier={classifier!r}"
            )
        shared = getattr(model, "backbone", None)
        if classifier is not None and classifier.backbone is not shared:
            raise ValueError(
                "Expected a classifier on the model's own backbone "
                "(backbone=model.backbone). Received: another, "
                f"classifier={classifier.name}, model={model.name}"
            )
        self.model = model
        self.classifier = classifier
        self.classification_weight = classification_weight
        self.accumulation = accumulation
        self.alpha = alpha
        self.normalize = normalize
        self.decay = decay
        self.l2 = l2
        self.l2_names = tuple(l2_names)
        self.normalizer = LossNormalizer(decay, name="normalizer")
        self.labeled_loss = keras.metrics.Mean(name="labeled_loss")
        self.pseudo_loss = keras.metrics.Mean(name="pseudo_loss")
        self.pseudo_scale = keras.metrics.Mean(name="pseudo_scale")
        self.classified_loss = keras.metrics.Mean(name="classified_loss")
        self.built = True

    def call(self, inputs, training=None):
        """Run the model.

        Args:
            inputs: images `[B, H, W, 3]`, or a batch of streams.
            training: bool.

        Returns:
            The model's outputs, or a dict of them with the streams' names.
        """
        if not isinstance(inputs, dict):
            return self.model(inputs, training=training)
        streams = [s for s in self._streams(inputs) if s != "classified"]
        images = [inputs[stream]["images"] for stream in streams]
        outputs = self.model(ops.concatenate(images), training=training)
        split = ops.shape(images[0])[0]
        parts = (slice(None, split), slice(split, None))
        found = {
            stream: {name: tensor[part] for name, tensor in outputs.items()}
            for stream, part in zip(streams, parts)
        }
        if "classified" in self._streams(inputs):
            found["classified"] = self.classifier(
                inputs["classified"]["images"], training=training
            )
        return found

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Return the joint loss of a batch, and in training update the averages.

        Args:
            x: a batch of streams.
            y: unused, labels are part of the batch.
            y_pred: `call`'s result for `x`.
            sample_weight: unused.
            training: bool; False leaves the averages as they are.

        Returns:
            float32 scalar.
        """
        shares = self._shares(x, y_pred, self._num_targets(x))
        loss, terms = self._joint_loss(shares, training)
        self._update_metrics(terms)
        return loss

    def train_step(self, *data):
        """Take a step, as Keras' `fit` asks for it, and return the logs."""
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*data)
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(*data)
        terms = self.step(batch)
        self._loss_tracker.update_state(terms["loss"])
        self._update_metrics(terms)
        return self.compute_metrics(batch, None, None)

    def step(self, batch):
        """Change the weights by one step, on one replica or in each of several.

        Args:
            batch: this replica's part of a batch of streams.

        Returns:
            dict of float32 scalars, the whole batch's: `loss`, `labeled_loss`,
            `gradient_norm` (before clipping), with a pseudo stream `pseudo_loss` and
            `pseudo_scale`, with a classified one `classified_loss`.

        Raises:
            ValueError: for an optimizer whose clipping or loss scaling isn't that of
                one device under several replicas.
        """
        self._check_optimizer()
        variables = [v.value for v in self.trainable_variables]
        before = self._non_trainable_values()
        counts = self._num_targets(batch)
        if self.accumulation == 1:
            with tf.GradientTape() as tape:
                shares = self._shares(batch, self(batch, training=True), counts)
                loss, terms = self._joint_loss(shares, training=True)
                loss = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(loss, variables)
        else:
            gradients, terms = self._accumulated(batch, variables, counts)
        gradients, terms["gradient_norm"] = self._clipped(gradients)
        self._restore_non_finite(before)
        self.optimizer.apply(gradients, variables)
        return terms

    def _accumulated(self, batch, variables, counts):
        """Return gradients and terms of a batch that is taken part by part."""
        streams = self._streams(batch)
        sums = {s: [tf.zeros_like(v) for v in variables] for s in streams}
        losses = dict.fromkeys(streams, 0.0)
        for number in range(self.accumulation):
            # A part waits for the one before it: that is what saves memory.
            with tf.control_dependencies(tf.nest.flatten(sums)):
                part = tf.nest.map_structure(
                    lambda v, number=number: tf.split(v, self.accumulation)[number],
                    batch,
                )
            with tf.GradientTape(persistent=True) as tape:
                shares = self._shares(part, self(part, training=True), counts)
                scaled = {s: self.optimizer.scale_loss(v) for s, v in shares.items()}
            for stream in streams:
                gradients = tape.gradient(
                    scaled[stream],
                    variables,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
                sums[stream] = [a + g for a, g in zip(sums[stream], gradients)]
                losses[stream] += shares[stream]
        factors, terms = self._factors(losses, training=True)
        with tf.GradientTape() as tape:
            penalty = self._penalty()
            scaled = self.optimizer.scale_loss(penalty)
        gradients = tape.gradient(
            scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        for stream in streams:
            gradients = [
                g + tf.cast(factors[stream], a.dtype) * a
                for g, a in zip(gradients, sums[stream])
            ]
        terms["loss"] += penalty * distribution.num_replicas()
        return gradients, terms

    def _num_targets(self, batch):
        """Return each stream's targets in the whole batch; None for a batch in one.

        Of models that can't tell: the number of parts.
        """
        parts = distribution.num_replicas() * self.accumulation
        if parts == 1:
            return dict.fromkeys(self._streams(batch))
        counts = {}
        for stream in self._streams(batch):
            model = self._model_of(stream)
            if hasattr(model, "num_targets"):
                counts[stream] = distribution.sum_over_replicas(
                    model.num_targets(batch[stream])
                )
            else:
                counts[stream] = float(parts)
        return counts

    def _shares(self, batch, outputs, counts):
        """Return what a part adds to the losses of the streams of its batch."""
        shares = {}
        for stream, count in counts.items():
            model = self._model_of(stream)
            if count is None:
                found = model.compute_losses(outputs[stream], batch[stream])
                shares[stream] = found["loss"]
            elif hasattr(model, "num_targets"):
                found = model.compute_losses(outputs[stream], batch[stream], count)
                shares[stream] = found["loss"]
            else:
                found = model.compute_losses(outputs[stream], batch[stream])
                shares[stream] = found["loss"] / count
        return shares

    def _factors(self, shares, training):
        """Return what each stream's loss counts, and the whole batch's terms."""
        losses = {
            stream: distribution.sum_over_replicas(ops.stop_gradient(share))
            for stream, share in shares.items()
        }
        terms = {f"{stream}_loss": loss for stream, loss in losses.items()}
        factors = {"labeled": ops.ones(())}
        if "pseudo" in losses:
            if training:
                self.normalizer.update(losses["labeled"], losses["pseudo"])
            scale = self.normalizer.scale()
            terms["pseudo_scale"] = scale
            factors["pseudo"] = self.alpha
            if self.normalize:
                total = 1.0 + self.alpha
                factors = {
                    "labeled": ops.ones(()) / total,
                    "pseudo": self.alpha * scale / total,
                }
        if "classified" in losses:
            factors["classified"] = self.classification_weight * ops.ones(())
        terms["loss"] = sum(factors[s] * loss for s, loss in losses.items())
        return factors, terms

    def _penalty(self):
        """Return this replica's share of the L2 penalty and the layers' losses."""
        total = sum(self.losses) + ops.zeros(())
        if self.l2:
            squares = [
                ops.sum(ops.square(ops.cast(weight, "float32")))
                for weight in self.trainable_weights
                if weight.name.endswith(self.l2_names)
            ]
            total = total + 0.5 * self.l2 * sum(squares)
        return total / distribution.num_replicas()

    def _joint_loss(self, shares, training):
        """Return this replica's share of the loss, and the whole batch's terms."""
        factors, terms = self._factors(shares, training)
        penalty = self._penalty()
        terms["loss"] += ops.stop_gradient(penalty) * distribution.num_replicas()
        return sum(factors[s] * share for s, share in shares.items()) + penalty, terms

    def _update_metrics(self, terms):
        self.labeled_loss.update_state(terms["labeled_loss"])
        if "pseudo_loss" in terms:
            self.pseudo_loss.update_state(terms["pseudo_loss"])
            self.pseudo_scale.update_state(terms["pseudo_scale"])
        if "classified_loss" in terms:
            self.classified_loss.update_state(terms["classified_loss"])

    def _check_optimizer(self):
        if distribution.num_replicas() == 1:
            return
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "Expected mixed_bfloat16 or float32 on several replicas. Received: "
                "mixed_float16, whose loss scaling isn't safe there"
            )
        if self.optimizer.clipnorm or self.optimizer.clipvalue:
            raise ValueError(
                "Expected global_clipnorm as the clipping on several replicas. "
                f"Received: clipnorm={self.optimizer.clipnorm}, "
                f"clipvalue={self.optimizer.clipvalue}"
            )

    def _clipped(self, gradients):
        """Clip by the norm of the whole batch's gradient; return that norm too.

        Keras would clip each replica's own gradient, before it adds them up.
        """
        replicas = distribution.num_replicas()
        present = [g for g in gradients if g is not None]
        present = distribution.sum_over_replicas(present)
        norm = tf.linalg.global_norm(present)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            norm /= self.optimizer.scale_loss(tf.ones(()))
        if replicas == 1:
            return gradients, norm
        if self.optimizer.global_clipnorm:
            limit = self.optimizer.global_clipnorm
            present, _ = tf.clip_by_global_norm(present, limit, norm)
        # Keras sums over the replicas once more.
        found = iter(present)
        gradients = [None if g is None else next(found) / replicas for g in gradients]
        return gradients, norm

    def _non_trainable_values(self):
        """Return what an overflow of float16 must not spoil, with its values."""
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            return []
        kept = [*self.model.non_trainable_variables, *self.normalizer.variables]
        return [(v, ops.copy(v)) for v in kept if "float" in v.dtype]

    def _restore_non_finite(self, before):
        for variable, value in before:
            finite = ops.all(ops.isfinite(variable))
            variable.assign(ops.where(finite, variable, value))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Return the logs, without the terms of streams that aren't there."""
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        absent = tuple(f"{s}_" for s in set(STREAMS) - set(self._streams(x)))
        return {k: v for k, v in logs.items() if not k.startswith(absent)}

    def _streams(self, batch):
        """Return the names of the streams that enter the step."""
        if "labeled" not in batch:
            raise ValueError(
                'Expected a batch {"labeled": …} or {"labeled": …, "pseudo": …}. '
                f"Received: keys={sorted(batch)}"
            )
        if "classified" in batch and self.classifier is None:
            raise ValueError(
                "Expected a classifier for the stream classified. "
                "Received: classifier=None"
            )
        weights = {
            "labeled": 1.0,
            "pseudo": self.alpha,
            "classified": self.classification_weight,
        }
        return [s for s in STREAMS if s in batch and weights[s]]

    def _model_of(self, stream):
        return self.classifier if stream == "classified" else self.model

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
            "accumulation": self.accumulation,
            "classifier": self.classifier
            and {**self.classifier.get_config(), "backbone": None},
            "classification_weight": self.classification_weight,
        }

    @classmethod
    def from_config(cls, config):
        """Build a trainer from `get_config`'s result."""
        config = dict(config)
        model = keras.saving.deserialize_keras_object(config["model"])
        config["model"] = model
        if config.get("classifier"):
            config["classifier"] = ImageClassifier.from_config(
                {**config["classifier"], "backbone": model.backbone}
            )
        return cls(**config)
