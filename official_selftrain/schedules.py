"""Learning-rate schedules of the paper."""

import keras


def cosine(steps, learning_rate, warmup_steps=0, warmup_learning_rate=0.0):
    """Return a cosine schedule with linear warm-up that ends at 0.

    Args:
        steps: int, length of the training, warm-up included.
        learning_rate: float, the peak, reached after `warmup_steps`.
        warmup_steps: int, at least 0 and below `steps`.
        warmup_learning_rate: float, where the warm-up starts.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: if the warm-up is as long as the training.

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
