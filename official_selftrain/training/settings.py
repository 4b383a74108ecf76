"""Training settings, in groups that validate themselves."""

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from official_selftrain.checks.arguments import check_choice, check_counts, check_decay
from official_selftrain.training import schedules

NORMALIZERS = ("batch", "average")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How long a model is trained and how its weights are updated.

    Attributes:
        steps: int.
        batch_size: int, images of each stream per step, over all replicas.
        optimizer: function `(learning_rate)` → `keras.optimizers.Optimizer`.
        schedule: function `(steps)` → learning rate or schedule.
        accumulation: int, parts of a batch that go through the model in turn.
        ema_decay: float or None, decay of a moving average of the weights.
        scaled_batch_size: int or None; replaces `batch_size`, with steps, learning
            rate and the decays of averages scaled accordingly.

    Raises:
        TypeError: for an optimizer or schedule that isn't a function.
        ValueError: for counts below 1, or a decay outside 0…1.
    """

    steps: int
    batch_size: int
    optimizer: Callable
    schedule: Callable
    accumulation: int = 1
    ema_decay: float | None = None
    scaled_batch_size: int | None = None

    def __post_init__(self):
        check_counts(
            steps=self.steps,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
        )
        for name in ("optimizer", "schedule"):
            function = getattr(self, name)
            if not callable(function):
                raise TypeError(
                    f"Expected {name}, a function. Received: {name}={function!r}"
                )
        if self.scaled_batch_size is not None:
            check_counts(scaled_batch_size=self.scaled_batch_size)
        if self.ema_decay is not None:
            check_decay(ema_decay=self.ema_decay)

    @property
    def factor(self):
        """How much larger the batch is than the one that the settings are for.

        An average with the decay d per step has d to this power: it reaches back over
        as many images.
        """
        return (self.scaled_batch_size or self.batch_size) / self.batch_size

    def scaled(self, title):
        """Return the steps, batch size and learning rate to train with.

        Args:
            title: str, prefix of the line printed when they are scaled, or None.

        Returns:
            `(steps, batch_size, learning_rate)`: int, int, float or schedule.

        Source: see `schedules.batch_scaling`.
        """
        rate = self.schedule(steps=self.steps)
        if self.scaled_batch_size is None:
            return self.steps, self.batch_size, rate
        steps = math.ceil(self.steps / self.factor)
        optimizer = self.optimizer(learning_rate=1.0)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        is_adaptive = not isinstance(optimizer, keras.optimizers.SGD)
        if title is not None:
            times = schedules.batch_scaling(1.0, self.factor, is_adaptive)
            print(
                f"{title}: batch size {self.batch_size} → {self.scaled_batch_size}, "
                f"{self.steps} → {steps} steps, learning rate × {times:g}",
                flush=True,
            )
        rate = schedules.batch_scaling(rate, self.factor, is_adaptive)
        return steps, self.scaled_batch_size, rate


@dataclasses.dataclass(frozen=True)
class Loss:
    """How the joint loss is computed (see `SelfTrainer`).

    Attributes:
        alpha: float, at least 0, weight of the pseudo-labeled stream.
        normalize: bool, use the paper's normalized loss instead of the plain sum.
        decay: float in 0…1, below 1, decay of the loss averages.
        normalizer: `"batch"` or `"average"`, the positives that a stream's loss is
            divided by.
        l2: float, at least 0, factor of the L2 penalty.
        l2_names: suffixes of the names of the weights it covers.
        classification_weight: float, at least 0, weight of the classified images'
            loss; 0 drops them.

    Raises:
        ValueError: for a factor below 0, a decay outside 0…1, or an unknown normalizer.
    """

    alpha: float = 1.0
    normalize: bool = True
    decay: float = 0.9997
    normalizer: str = "batch"
    l2: float = 0.0
    l2_names: tuple = ("kernel",)
    classification_weight: float = 1.0

    def __post_init__(self):
        for name in ("alpha", "l2", "classification_weight"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
                raise ValueError(
                    f"Expected {name} of at least 0. Received: {name}={value!r}"
                )
        check_decay(decay=self.decay)
        check_choice("normalizer", self.normalizer, NORMALIZERS)


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """What is logged during training.

    Attributes:
        log_every: int, steps between checkpoints and between rows of the history.
        num_pictures: int, images of each stream shown in TensorBoard, at the first,
            the last and every tenth row of the history.

    Raises:
        ValueError: for counts out of range.
    """

    log_every: int = 100
    num_pictures: int = 4

    def __post_init__(self):
        check_counts(log_every=self.log_every)
        if self.num_pictures != 0:
            check_counts(num_pictures=self.num_pictures)


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices a training runs on, and its precision.

    Attributes:
        strategy: function () → `tf.distribute.Strategy`, such as
            `distribution.strategy`; None: the current one. Several workers share a
            folder, and the first one writes.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`, that of the
            models; None: whatever they have.
        jit_compile: bool, compile the step with XLA (one replica only).

    Raises:
        ValueError: for an unknown precision.
    """

    strategy: Callable | None = None
    precision: str | None = None
    jit_compile: bool = False

    def __post_init__(self):
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)

    def open(self):
        """Return the `tf.distribute.Strategy`.

        Raises:
            ValueError: for `jit_compile` with several replicas.
        """
        strategy = self.strategy() if self.strategy else tf.distribute.get_strategy()
        replicas = strategy.num_replicas_in_sync
        if self.jit_compile and replicas > 1:
            raise ValueError(
                "Expected one replica for jit_compile. Received: "
                f"{replicas} replicas, jit_compile=True"
            )
        return strategy
