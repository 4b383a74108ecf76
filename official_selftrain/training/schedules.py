"""Learning-rate schedules from the paper."""

import math

import keras
from keras import ops


def cosine(steps, learning_rate, warmup_steps=0, warmup_learning_rate=0.0):
    """Return a cosine schedule with linear warm-up that ends at 0.

    Args:
        steps: int, length of the training, warm-up included.
        learning_rate: float, the peak, reached after `warmup_steps`.
        warmup_steps: int, at least 0 and below `steps`.
        warmup_learning_rate: float, at the start of the warm-up.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: if the warm-up isn't shorter than the training.

    Source: paper section 4 (cosine decay after a linear warm-up over 1,000
    steps from 0.0032 to 0.32).
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            "Expected warmup_steps of at least 0 and below steps. "
            f"Received: warmup_steps={warmup_steps}, steps={steps}"
        )
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=warmup_learning_rate,
        decay_steps=steps - warmup_steps,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )


def stepwise(
    steps,
    learning_rate,
    warmup_steps=0,
    warmup_learning_rate=0.0,
    drops=((0.94, 0.1), (0.98, 0.01)),
):
    """Return a step-decay schedule with linear warm-up.

    Args:
        steps: int, length of the training, warm-up included.
        learning_rate: float, reached after `warmup_steps`.
        warmup_steps: int, at least 0 and below `steps`.
        warmup_learning_rate: float, at the start of the warm-up.
        drops: pairs of (fraction of the training, factor of `learning_rate` from
            there on), in order.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: if the warm-up isn't shorter than the training, or drops are
            out of order.

    Source: the authors' SpineNet settings.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            "Expected warmup_steps of at least 0 and below steps. "
            f"Received: warmup_steps={warmup_steps}, steps={steps}"
        )
    fractions = [fraction for fraction, _ in drops]
    if fractions != sorted(fractions) or not all(0.0 < f < 1.0 for f in fractions):
        raise ValueError(
            f"Expected drops in order, each within 0...1. Received: drops={drops!r}"
        )
    return Stepwise(
        learning_rate,
        warmup_steps,
        warmup_learning_rate,
        [[round(fraction * steps), factor] for fraction, factor in drops],
    )


@keras.saving.register_keras_serializable(package="official_selftrain")
class Stepwise(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that warms up linearly and then drops at given steps.

    Args:
        learning_rate: float.
        warmup_steps: int.
        warmup_learning_rate: float.
        drops: list of [step, factor of `learning_rate` from there on].

    Source: the authors' SpineNet settings; see `stepwise`.
    """

    def __init__(self, learning_rate, warmup_steps, warmup_learning_rate, drops):
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.warmup_learning_rate = warmup_learning_rate
        self.drops = drops

    def __call__(self, step):
        """Return the learning rate of a step, counted from 0."""
        step = ops.cast(step, "float32")
        rate = ops.full_like(step, self.learning_rate)
        for start, factor in self.drops:
            rate = ops.where(step >= start, self.learning_rate * factor, rate)
        slope = (self.learning_rate - self.warmup_learning_rate) / max(
            self.warmup_steps, 1
        )
        warm = self.warmup_learning_rate + slope * step
        return ops.where(step < self.warmup_steps, warm, rate)

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "warmup_learning_rate": self.warmup_learning_rate,
            "drops": self.drops,
        }


def batch_scaling(schedule, factor, is_adaptive=False):
    """Adapt a schedule to a different batch size.

    Step t of the new training has seen as many images as step `factor · t` of the
    old one; warm-up and drops shift accordingly. The rate is `factor` times the old one
    for gradient descent, and `√factor` times for an optimizer that divides gradients by
    their size.

    Args:
        schedule: a `LearningRateSchedule` or a float.
        factor: float above 0, new batch size divided by the old one.
        is_adaptive: bool, whether the optimizer divides gradients by their size.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`, or a float.

    Source: Goyal et al. 2017 (linear scaling rule); Malladi et al. 2022 (square root).
    """
    rate_factor = math.sqrt(factor) if is_adaptive else factor
    if isinstance(schedule, (int, float)):
        return schedule * rate_factor
    return BatchScaling(schedule, factor, rate_factor)


@keras.saving.register_keras_serializable(package="official_selftrain")
class BatchScaling(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule scaled to `rate_factor` times the rate, `factor` times the speed.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        factor: float.
        rate_factor: float.

    Source: see `batch_scaling`.
    """

    def __init__(self, schedule, factor, rate_factor):
        self.schedule = schedule
        self.factor = factor
        self.rate_factor = rate_factor

    def __call__(self, step):
        """Return the learning rate of a step, counted from 0."""
        step = ops.cast(step, "float32") * self.factor
        return self.rate_factor * ops.cast(self.schedule(step), "float32")

    def get_config(self):
        """Return the constructor's arguments, the schedule serialized."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "factor": self.factor,
            "rate_factor": self.rate_factor,
        }

    @classmethod
    def from_config(cls, config):
        """Build a schedule from `get_config`'s result."""
        inner = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(inner, config["factor"], config["rate_factor"])
