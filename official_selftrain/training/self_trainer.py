"""The joint loss: labeled, pseudo-labeled and classified images in one step."""

import math

import keras
from keras import ops

from official_selftrain.checks.arguments import check_counts
from official_selftrain.models.classifier import ImageClassifier
from official_selftrain.training import (
    batch_checks,
    distribution,
    gradients,
    settings,
)
from official_selftrain.training.loss_normalizer import (
    LossNormalizer,
    PositivesAverage,
)


@keras.saving.register_keras_serializable(package="official_selftrain")
class SelfTrainer(keras.Model):
    """Train a model on labeled and, for a student, pseudo-labeled images.

    A batch is `{"labeled": batch}` for a teacher and `{"labeled": batch,
    "pseudo": batch}` for a student; the step is the same. With both, the loss is

        L = 1 / (1 + alpha) · (L_h + alpha · (mean L_h / mean L_p) · L_p) + L2

    where L_h and L_p are the model's loss on each stream, each normalized by
    its own positives (see `normalizer`), and the means are exponential moving averages
    through which no gradient flows. Both streams go through the model in one forward
    pass, so they share batch statistics. `alpha=0` drops the pseudo stream from the
    step.
    `L2 = l2 · Σ‖v‖² / 2`.

    A third stream, `"classified"`, is for joint training: images with one class each
    go through `classifier`, which shares the model's backbone, in a separate forward
    pass, and `classification_weight` times its loss is added to L. Each pass has its
    own batch statistics; the shared layers' moving averages are updated by both.

    A stream may have `sample_weights`, float `[B]`: an image of weight 2 counts as if
    it were in the stream twice, in the loss and among the positives that divide it;
    one of weight 0 as if it weren't there. Only batch statistics don't know of weights.

    It is a `keras.Model`: `compile(optimizer=…)`, `fit`, `evaluate`, `save`, and
    `predict` and `export` of the model's outputs work as usual. The logs hold `loss`
    (L), `labeled_loss` (L_h); with a pseudo stream, `pseudo_loss` (L_p) and
    `pseudo_scale` (the ratio of the means); with a classified stream,
    `classified_loss`. For clipping, set the optimizer's `global_clipnorm`.

    Under a `tf.distribute.Strategy` each replica processes a part of the batch.
    Positives, losses and gradients are summed over all replicas before anything is
    divided, averaged or clipped, so the step equals that of one device, in `fit` and
    in `fitting.fit`: create model, trainer and optimizer in the strategy's scope. The
    parts of `accumulation` are combined in the same way, except for batch
    normalization, which sees one part at a time. With accumulation each stream has its
    own backward pass, because the streams' weights are known only after the last part.

    Args:
        model: `keras.Model` that obeys the contract of
            `official_selftrain.models`.
        alpha: float, at least 0, weight of the pseudo-labeled stream.
        normalize: bool; False gives the plain sum `L_h + alpha · L_p`.
        decay: float, decay of the moving averages of the losses.
        normalizer: what a stream's summed loss is divided by in training: `"batch"`,
            the positives of the batch plus one, as the model's own loss is;
            `"average"`, their moving average over the steps plus one, which small
            batches without objects need (see `PositivesAverage`).
        l2: float, factor of the L2 penalty.
        l2_names: suffixes of the names of the weights it covers.
        accumulation: int, parts of a batch that go through the model in turn before
            the weights are updated: the same step with less memory.
        classifier: `models.ImageClassifier` on the model's backbone, or None.
        classification_weight: float, at least 0, weight of the classified stream; 0
            drops it from the step.

    Raises:
        TypeError: if `model` has no `compute_losses`, or `classifier` isn't an
            `ImageClassifier`.
        ValueError: for a negative alpha, l2 or weight, an accumulation below 1, or a
            classifier with a different backbone.

    Source: paper section 3.2 and appendix B, joint training of section 5 and appendix
    H; L2 of the authors' code.
    """

    def __init__(  # noqa: PLR0913 -- explicit keywords, as of all Keras models
        self,
        model,
        alpha=1.0,
        normalize=True,
        decay=0.9997,
        normalizer="batch",
        l2=0.0,
        l2_names=("kernel",),
        accumulation=1,
        classifier=None,
        classification_weight=1.0,
        **kwargs,
    ):
        # The model casts its own inputs, after normalizing pixels in float32.
        super().__init__(autocast=False, **kwargs)
        if not hasattr(model, "compute_losses"):
            raise TypeError(
                "Expected a keras.Model with compute_losses(outputs, labels), see "
                f"official_selftrain.models. Received: model={type(model).__name__}"
            )
        settings.Loss(
            alpha, normalize, decay, normalizer, l2, l2_names, classification_weight
        )
        check_counts(accumulation=accumulation)
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
        self.normalizer = normalizer
        self.loss_averages = LossNormalizer(decay, name="normalizer")
        self.positives = PositivesAverage() if normalizer == "average" else None
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
            The model's outputs, or for a batch a dict of them by stream.
        """
        if not isinstance(inputs, dict):
            return self.model(inputs, training=training)
        streams = [s for s in self.streams(inputs) if s != "classified"]
        images = [inputs[stream]["images"] for stream in streams]
        outputs = self.model(ops.concatenate(images), training=training)
        split = ops.shape(images[0])[0]
        parts = (slice(None, split), slice(split, None))
        by_stream = {
            stream: {name: tensor[part] for name, tensor in outputs.items()}
            for stream, part in zip(streams, parts)
        }
        if "classified" in self.streams(inputs):
            by_stream["classified"] = self.classifier(
                inputs["classified"]["images"], training=training
            )
        return by_stream

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Return the joint loss of a batch; in training, update the averages.

        Args:
            x: a batch of streams.
            y: unused; labels are part of the batch.
            y_pred: the output of `call` for `x`.
            sample_weight: unused.
            training: bool; False leaves the averages as they are.

        Returns:
            float32 scalar.
        """
        losses = self.stream_losses(x, y_pred, training)
        loss, terms = self.joint_loss(losses, training)
        self._update_metrics(terms)
        return loss

    def compile(self, optimizer="rmsprop", **kwargs):
        """Set the optimizer. The loss is the model's own.

        Args:
            optimizer: as of `keras.Model.compile`.
            **kwargs: of `keras.Model.compile`, without losses and metrics.

        Raises:
            ValueError: for a loss or a metric, which would not be used.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise ValueError(
                    "Expected an optimizer without losses or metrics: the model's own "
                    "loss is used, and its terms are logged. Received: "
                    f"{name}={kwargs[name]!r}"
                )
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config):
        """Compile a loaded trainer, which Keras does for its own `compile` only."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if hasattr(self, "optimizer") and self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *, validate=True, **kwargs):
        """Train, see `keras.Model.fit`. The classes in every batch are checked.

        Args:
            x: `tf.data.Dataset` of batches of streams, a generator or a `PyDataset` of
                them, or a dict of streams of arrays.
            y: None; labels are part of the batch.
            validate: bool; False skips a check of the first batch, which refuses
                images that aren't of 0…255 and boxes that aren't corners in pixels of
                the frame; see `check_labels` of the model.
            **kwargs: of `keras.Model.fit`, without weights of classes and examples.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: for labels or weights beside `x`, batches of another form, a
                class that the model doesn't have, or values that it can't learn from;
                for variables outside of the strategy's scope.
        """
        batch_checks.check_arguments(x, y, **kwargs)
        strategy = self._check_strategy()
        if kwargs.get("validation_data") is not None:
            data = batch_checks.checked(kwargs["validation_data"], self, validate)
            kwargs["validation_data"] = data
        data = batch_checks.checked(x, self, validate)
        with (
            batch_checks.one_line_errors(),
            distribution.synchronized_batch_norm(self, strategy),
        ):
            return super().fit(data, **kwargs)

    def evaluate(self, x=None, y=None, *, validate=True, **kwargs):
        """Return the losses, see `keras.Model.evaluate`.

        Args:
            x: as in `fit`.
            y: None; labels are part of the batch.
            validate: as in `fit`.
            **kwargs: of `keras.Model.evaluate`, without weights of examples.

        Returns:
            list of floats, or a dict of them with `return_dict=True`.

        Raises:
            ValueError: as `fit` does.
        """
        if kwargs.get("_use_cached_eval_dataset"):  # of `fit`, which has checked it
            return super().evaluate(x, y, **kwargs)
        batch_checks.check_arguments(x, y, **kwargs)
        self._check_strategy()
        data = batch_checks.checked(x, self, validate)
        with batch_checks.one_line_errors():
            return super().evaluate(data, **kwargs)

    def train_on_batch(self, x, y=None, **kwargs):
        """Take one step, see `keras.Model.train_on_batch`.

        Args:
            x: a batch of streams.
            y: None; labels are part of the batch.
            **kwargs: of `keras.Model.train_on_batch`, without weights.

        Raises:
            ValueError: as `fit` does, and on several replicas.
        """
        return super().train_on_batch(self._checked_batch(x, y, kwargs), **kwargs)

    def test_on_batch(self, x, y=None, **kwargs):
        """Return the losses of a batch, see `keras.Model.test_on_batch`.

        Args:
            x: a batch of streams.
            y: None; labels are part of the batch.
            **kwargs: of `keras.Model.test_on_batch`, without weights.

        Raises:
            ValueError: as `fit` does, and on several replicas.
        """
        return super().test_on_batch(self._checked_batch(x, y, kwargs), **kwargs)

    def export(self, filepath, **kwargs):
        """Export the model's outputs for images, see `keras.Model.export`.

        `serving.export` exports detections in the images' own pixels.

        Args:
            filepath: str.
            **kwargs: of `keras.Model.export`.
        """
        self.model.export(filepath, **kwargs)

    def _checked_batch(self, batch, y, kwargs):
        batch_checks.check_arguments(batch, y, **kwargs)
        replicas = self._check_strategy().num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "Expected fit and evaluate on several replicas, which divide a batch "
                f"among them. Received: one batch for {replicas} replicas"
            )
        return batch_checks.eagerly_checked(batch, self, [True])

    def _check_strategy(self):
        """Return the strategy of Keras' `fit`, checked."""
        strategy = distribution.of_model(self)
        if strategy.num_replicas_in_sync == 1:
            return strategy
        if self.steps_per_execution > 1 or self.jit_compile:
            raise ValueError(
                "Expected compile without steps_per_execution and jit_compile on "
                f"several replicas. Received: {strategy.num_replicas_in_sync} replicas,"
                f" steps_per_execution={self.steps_per_execution}, "
                f"jit_compile={self.jit_compile}"
            )
        optimizer = getattr(self, "optimizer", None)
        variables = optimizer.variables if optimizer else []
        distribution.check_scope([*self.variables, *variables])
        return strategy

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Build the optimizer.

        Keras would first average the batch over the replicas, which fails for bools.
        """
        if self._distribute_strategy is not None and self.optimizer is not None:
            with self._distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def train_step(self, *data):
        """Take a step in Keras' `fit` and return the logs."""
        if keras.backend.backend() == "jax":
            state, batch = data
            logs, new_state = super().train_step(state, batch)
            return logs, gradients.unless_skipped(self.optimizer, state, new_state)
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*data)
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(*data)
        batch = distribution.with_images(batch)
        with gradients.unless_skipping(self.optimizer, self.metrics_variables):
            terms = self.step(batch)
            self._loss_tracker.update_state(terms["loss"])
            self._update_metrics(terms)
        return self.compute_metrics(batch, None, None)

    def test_step(self, *data):
        """Return the logs of a batch in Keras' `evaluate`."""
        if keras.backend.backend() != "tensorflow":
            return super().test_step(*data)
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(*data)
        batch = distribution.with_images(batch)
        losses = self.stream_losses(batch, self(batch, training=False), training=False)
        _, terms = self.joint_loss(losses, training=False)
        count = ops.cast(ops.shape(keras.tree.flatten(batch)[0])[0], "float32")
        count = distribution.sum_over_replicas(count)
        self._loss_tracker.update_state(terms["loss"], sample_weight=count)
        self._update_metrics(terms)
        return self.compute_metrics(batch, None, None)

    def step(self, batch):
        """Update the weights once; call it on every replica.

        A step that a float16 overflow makes the optimizer skip changes nothing.

        Args:
            batch: this replica's part of a batch of streams.

        Returns:
            dict of float32 scalars of the whole batch: `loss`, `labeled_loss`,
            `gradient_norm` (before clipping); with a pseudo stream, `pseudo_loss` and
            `pseudo_scale`; with a classified stream, `classified_loss`.

        Raises:
            ValueError: for an optimizer whose clipping or loss scaling would behave
                differently on several replicas.
        """
        gradients.check_optimizer(self.optimizer)
        variables = [v.value for v in self.trainable_variables]
        # Statistics of batch normalization, averages, states of random generators.
        others = self.non_trainable_variables
        with gradients.unless_skipping(self.optimizer, others):
            grads, terms = gradients.of_batch(self, batch, variables)
            grads, terms["gradient_norm"] = gradients.clipped(grads, self.optimizer)
            self.optimizer.apply(grads, variables)
        return terms

    def stream_losses(self, batch, outputs, training=True):
        """Return this replica's part of the loss of each stream of a batch.

        Args:
            batch: this replica's part of a batch of streams.
            outputs: dict of the streams' outputs.
            training: bool; False divides by the positives of the batch.

        Returns:
            dict of float32 scalars that add up over the replicas.
        """
        losses = {}
        for stream in self.streams(batch):
            model, labels = self.model_of(stream), batch[stream]
            averages = training and self.positives is not None
            if distribution.num_replicas() == 1 and not averages:
                losses[stream] = model.compute_losses(outputs[stream], labels)["loss"]
            else:
                loss, count = gradients.part_loss(model, outputs[stream], labels)
                losses[stream] = loss / self.divisor(stream, count, training)
        return losses

    def divisor(self, stream, count, training=True):
        """Return the divisor of a stream's summed loss.

        Args:
            stream: str.
            count: float32 scalar, the positives of this replica's part of the batch.
            training: bool; True updates their average, if there is one.

        Returns:
            float32 scalar of the whole batch.
        """
        count = distribution.sum_over_replicas(count)
        if training and self.positives is not None:
            count = self.positives.update(stream, count)
        return gradients.divisor(self.model_of(stream), count)

    def factors(self, losses, training):
        """Return the weight of each stream's loss, and the terms of the whole batch.

        Args:
            losses: dict, as returned by `stream_losses`.
            training: bool; False leaves the averages as they are.

        Returns:
            `(factors, terms)`, dicts of float32 scalars, by stream and by name.
        """
        losses = {
            stream: distribution.sum_over_replicas(ops.stop_gradient(loss))
            for stream, loss in losses.items()
        }
        terms = {f"{stream}_loss": loss for stream, loss in losses.items()}
        factors = {"labeled": ops.ones(())}
        if "pseudo" in losses:
            if training:
                self.loss_averages.update(losses["labeled"], losses["pseudo"])
            scale = self.loss_averages.scale()
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
        if training and gradients.scales(getattr(self, "optimizer", None)):
            # The optimizer skips a step by its gradients, which may be finite although
            # a loss isn't.
            is_finite = ops.isfinite(sum(losses.values()))
            factors = {s: ops.where(is_finite, f, math.nan) for s, f in factors.items()}
        terms["loss"] = sum(factors[s] * loss for s, loss in losses.items())
        return factors, terms

    def penalty(self):
        """Return this replica's part of the L2 penalty and of the layers' losses."""
        total = sum(self.losses) + ops.zeros(())
        if self.l2:
            squares = [
                ops.sum(ops.square(ops.cast(weight, "float32")))
                for weight in self.trainable_weights
                if weight.name.endswith(self.l2_names)
            ]
            total = total + 0.5 * self.l2 * sum(squares)
        return total / distribution.num_replicas()

    def joint_loss(self, losses, training):
        """Return this replica's part of the joint loss, and the whole batch's terms.

        Args:
            losses: dict, as returned by `stream_losses`.
            training: bool; False leaves the averages as they are.

        Returns:
            `(loss, terms)`: float32 scalar; dict of float32 scalars.
        """
        factors, terms = self.factors(losses, training)
        penalty = self.penalty()
        terms["loss"] += ops.stop_gradient(penalty) * distribution.num_replicas()
        return sum(factors[s] * loss for s, loss in losses.items()) + penalty, terms

    def _update_metrics(self, terms):
        self.labeled_loss.update_state(terms["labeled_loss"])
        if "pseudo_loss" in terms:
            self.pseudo_loss.update_state(terms["pseudo_loss"])
            self.pseudo_scale.update_state(terms["pseudo_scale"])
        if "classified_loss" in terms:
            self.classified_loss.update_state(terms["classified_loss"])

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Return the logs, without the terms of absent streams."""
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        absent = tuple(
            f"{s}_" for s in set(batch_checks.STREAMS) - set(self.streams(x))
        )
        return {k: v for k, v in logs.items() if not k.startswith(absent)}

    def streams(self, batch):
        """Return the names of the streams used in the step."""
        batch_checks.check_streams(batch)
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
        return [s for s in batch_checks.STREAMS if s in batch and weights[s]]

    def model_of(self, stream):
        """Return the model that processes a stream."""
        return self.classifier if stream == "classified" else self.model

    def get_config(self):
        """Return the constructor's arguments, the model serialized."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "alpha": self.alpha,
            "normalize": self.normalize,
            "decay": self.decay,
            "normalizer": self.normalizer,
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
