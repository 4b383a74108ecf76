"""The gradient of a whole batch that is split over parts and replicas.

Sums and counts are accumulated over the parts and divided once at the end, so the
result doesn't depend on the number of parts.
"""

import contextlib

import keras
import tensorflow as tf
from keras import ops

from official_selftrain.training import distribution


def part_loss(model, outputs, labels):
    """Return the summed loss of a part of a batch, and the count to divide it by.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        outputs: dict, the model's outputs for the part.
        labels: dict.

    Returns:
        `(sum, count)`, float32 scalars that add up over the parts. For a model without
        `loss_sum` every part has the same weight.
    """
    if hasattr(model, "loss_sum"):
        return model.loss_sum(outputs, labels)
    return model.compute_losses(outputs, labels)["loss"], ops.ones(())


def divisor(model, count):
    """Return the divisor of a model's summed loss.

    Args:
        model: as in `part_loss`.
        count: float32 scalar, the count of the whole batch.
    """
    return model.divisor(count) if hasattr(model, "loss_sum") else count


def of_batch(trainer, batch, variables):
    """Return the gradients of the joint loss, and its terms.

    Args:
        trainer: `SelfTrainer`, compiled.
        batch: this replica's part of a batch of streams.
        variables: list of the trainable variables.

    Returns:
        `(gradients, terms)`: list of this replica's gradients, multiplied by the
        optimizer's loss scale; dict of float32 scalars of the whole batch.
    """
    if trainer.accumulation > 1:
        return _accumulated(trainer, batch, variables)
    with tf.GradientTape() as tape:
        losses = trainer.stream_losses(batch, trainer(batch, training=True))
        loss, terms = trainer.joint_loss(losses, training=True)
        loss = trainer.optimizer.scale_loss(loss)
    return tape.gradient(loss, variables), terms


def _accumulated(trainer, batch, variables):
    """Return the gradients and terms of a batch that is processed in parts.

    Each stream has its own backward pass, because the streams' weights are known only
    after the last part.
    """
    models = {stream: trainer.model_of(stream) for stream in trainer.streams(batch)}
    sums = {s: [None] * len(variables) for s in models}
    losses, counts = dict.fromkeys(models, 0.0), dict.fromkeys(models, 0.0)
    for number in range(trainer.accumulation):
        # Each part waits for the previous one, which saves memory.
        waits_for = [g for g in tf.nest.flatten(sums) if g is not None]
        with tf.control_dependencies(waits_for):
            part = tf.nest.map_structure(
                lambda v, number=number: tf.split(v, trainer.accumulation)[number],
                batch,
            )
        with tf.GradientTape(persistent=True) as tape:
            outputs = trainer(part, training=True)
            parts = {s: part_loss(m, outputs[s], part[s]) for s, m in models.items()}
            # A scaled sum, unlike a mean, may overflow float16.
            own = {s: divisor(models[s], count) for s, (_, count) in parts.items()}
            scaled = {
                s: trainer.optimizer.scale_loss(loss / own[s])
                for s, (loss, _) in parts.items()
            }
        for stream, (loss, count) in parts.items():
            gradients = tape.gradient(scaled[stream], variables)
            sums[stream] = _weighted_sum(sums[stream], own[stream], gradients)
            losses[stream] += loss
            counts[stream] += count
    divisors = {s: trainer.divisor(s, count) for s, count in counts.items()}
    losses = {s: loss / divisors[s] for s, loss in losses.items()}
    factors, terms = trainer.factors(losses, training=True)
    with tf.GradientTape() as tape:
        penalty = trainer.penalty()
        scaled = trainer.optimizer.scale_loss(penalty)
    gradients = tape.gradient(scaled, variables)
    for stream, of_stream in sums.items():
        factor = factors[stream] / divisors[stream]
        gradients = _weighted_sum(gradients, factor, of_stream)
    terms["loss"] += penalty * distribution.num_replicas()
    return gradients, terms


def _weighted_sum(gradients, factor, others):
    """Return `gradients + factor · others`; None is the gradient of an unused weight.

    The optimizer leaves such a weight alone; with a gradient of zero it would decay.
    """
    sums = []
    for one, other in zip(gradients, others):
        if other is not None:
            other = tf.cast(factor, other.dtype) * other
        parts = [g for g in (one, other) if g is not None]
        sums.append(sum(parts[1:], parts[0]) if parts else None)
    return sums


def check_optimizer(optimizer):
    """Check that an optimizer behaves the same on several replicas as on one.

    Raises:
        ValueError: for clipping or loss scaling that would behave differently.
    """
    if distribution.num_replicas() == 1:
        return
    if scales(optimizer):
        raise ValueError(
            "Expected mixed_bfloat16 or float32 on several replicas. Received: "
            "mixed_float16, whose loss scaling isn't safe there"
        )
    if optimizer.clipnorm or optimizer.clipvalue:
        raise ValueError(
            "Expected global_clipnorm as the clipping on several replicas. "
            f"Received: clipnorm={optimizer.clipnorm}, "
            f"clipvalue={optimizer.clipvalue}"
        )


def scales(optimizer):
    """Return whether an optimizer scales the loss, and skips steps that overflow."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def clipped(gradients, optimizer):
    """Clip gradients by the global norm of the whole batch.

    Keras would clip each replica's gradient before summing them.

    Args:
        gradients: list, as returned by `of_batch`.
        optimizer: `keras.optimizers.Optimizer`, whose `global_clipnorm` is the limit;
            on one replica it does the clipping itself.

    Returns:
        `(gradients, norm)`: the gradients to apply; float32 scalar, the norm before
        clipping, without the loss scale.
    """
    replicas = distribution.num_replicas()
    present = [g for g in gradients if g is not None]
    present = distribution.sum_over_replicas(present)
    norm = tf.linalg.global_norm(present)
    if scales(optimizer):
        norm /= optimizer.scale_loss(tf.ones(()))
    if replicas == 1:
        return gradients, norm
    if optimizer.global_clipnorm:
        present, _ = tf.clip_by_global_norm(present, optimizer.global_clipnorm, norm)
    # Keras sums over the replicas again.
    summed = iter(present)
    gradients = [None if g is None else next(summed) / replicas for g in gradients]
    return gradients, norm


@contextlib.contextmanager
def unless_skipping(optimizer, variables):
    """Restore variables if the optimizer skips the step, as float16 overflows.

    A skipped step changes nothing: what a forward pass updates is one group with the
    weights and the optimizer's state.

    Args:
        optimizer: `keras.optimizers.Optimizer`; only one that scales losses skips.
        variables: all variables that the step changes, without those.
    """
    if not scales(optimizer):
        yield
        return
    before = [ops.copy(variable) for variable in variables]
    count = ops.copy(_counter(optimizer))
    yield
    is_skipped = _counter(optimizer) == count
    for variable, value in zip(variables, before):
        variable.assign(ops.where(is_skipped, value, variable))


def _counter(optimizer):
    """Return the variable that counts the steps that aren't skipped.

    `iterations` counts updates of the weights, which may take several steps.
    """
    return optimizer.inner_optimizer._iterations


def unless_skipped(optimizer, state, new_state):
    """Return the state after a step on JAX: as before it, if the optimizer skipped it.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        state: lists of arrays: trainable and other variables, the optimizer's, the
            metrics'.
        new_state: the same after the step.
    """
    if not scales(optimizer):
        return new_state
    place = [v is _counter(optimizer) for v in optimizer.variables].index(True)
    is_skipped = state[2][place] == new_state[2][place]

    def unless(before, after):
        return [ops.where(is_skipped, old, new) for old, new in zip(before, after)]

    trainable, others, own, measured = new_state
    return trainable, unless(state[1], others), own, unless(state[3], measured)
