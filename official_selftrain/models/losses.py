"""Element-wise losses, and the weights of images.

Reduction and normalization belong to the model that owns the loss.
"""

from keras import ops


def focal_loss(targets, logits, alpha=0.25, gamma=1.5):
    """Return the sigmoid focal loss of each element.

    `a · (1 - p_t)^gamma · cross_entropy` with `a = alpha` for positives and
    `1 - alpha` for negatives. The modulator is computed from log-sigmoids, so
    its gradient stays finite for every logit and for gamma below 1.

    Args:
        targets: float, 0 or 1, of the shape of `logits`.
        logits: float32.
        alpha: float in 0…1, weight of the positives.
        gamma: float, at least 0.

    Returns:
        float32 of the shape of `logits`.

    Source: Lin et al. 2017; alpha 0.25 and gamma 1.5 as in the authors' code.
    """
    log_one_minus_p = -ops.softplus(logits)
    log_p = -ops.softplus(-logits)
    cross_entropy = -targets * log_p - (1.0 - targets) * log_one_minus_p
    log_miss = targets * log_one_minus_p + (1.0 - targets) * log_p
    weights = targets * alpha + (1.0 - targets) * (1.0 - alpha)
    return weights * ops.exp(gamma * log_miss) * cross_entropy


def huber_loss(errors, delta=0.1):
    """Return the Huber loss of each element.

    `e² / 2` for `|e| <= delta`, else `delta · |e| - delta² / 2`.

    Args:
        errors: float32, any shape.
        delta: float above 0.

    Returns:
        float32 of the shape of `errors`.

    Source: Huber 1964; delta 0.1 as in the authors' code.
    """
    size = ops.abs(errors)
    return ops.where(
        size <= delta, 0.5 * errors * errors, delta * size - 0.5 * delta * delta
    )


def cross_entropy(classes, logits):
    """Return the softmax cross-entropy of each element.

    Args:
        classes: int `[...]`; the loss is 0 for a class outside 0…K - 1.
        logits: float32 `[..., K]`.

    Returns:
        float32 `[...]`.

    Source: own.
    """
    one_hot = ops.one_hot(classes, logits.shape[-1], dtype="float32")
    return -ops.sum(one_hot * ops.log_softmax(logits, axis=-1), axis=-1)


def weighted(terms, labels):
    """Multiply the terms of each image by the image's weight, if there are weights.

    Args:
        terms: float32 `[B, ...]`: losses, or 0 and 1 for what is counted.
        labels: dict, possibly with `sample_weights` float `[B]`.

    Returns:
        float32 `[B, ...]`.

    Raises:
        ValueError: for weights of another shape.

    Source: own.
    """
    if "sample_weights" not in labels:
        return terms
    weights = ops.convert_to_tensor(labels["sample_weights"])
    if len(weights.shape) != 1:
        raise ValueError(
            "Expected sample_weights [B], one for each image. Received: "
            f"shape={tuple(weights.shape)}"
        )
    ones = (1,) * (len(terms.shape) - 1)
    return terms * ops.reshape(ops.cast(weights, "float32"), (-1, *ones))
