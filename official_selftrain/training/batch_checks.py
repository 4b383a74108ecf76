"""Checks of a batch before the first step of Keras' own `fit`."""

import numpy as np

_IGNORED = 255


def check_streams(batch):
    """Check that a batch is a dict of streams.

    Args:
        batch: what `fit` got.

    Raises:
        ValueError: if it isn't one.
    """
    if not isinstance(batch, dict) or "labeled" not in batch:
        received = type(batch).__name__
        if isinstance(batch, dict):
            received = f"keys={sorted(batch)}"
        raise ValueError(
            'Expected a batch {"labeled": …} or {"labeled": …, "pseudo": …}. '
            f"Received: {received}"
        )


def check_batch(batch, trainer):
    """Check the classes of a batch of streams.

    Args:
        batch: dict of streams, as arrays or eager tensors.
        trainer: `SelfTrainer`.

    Raises:
        ValueError: for anything but streams, or a class that the model doesn't have.
    """
    check_streams(batch)
    for stream in trainer.streams(batch):
        model, labels = trainer.model_of(stream), batch[stream]
        if not isinstance(labels, dict) or "images" not in labels:
            keys = sorted(labels) if isinstance(labels, dict) else type(labels).__name__
            raise ValueError(
                f"Expected images and labels in the stream {stream}. Received: {keys}"
            )
        count = getattr(model, "num_classes", None)
        if count is None:
            continue
        for key, other in (("classes", -1), ("mask", _IGNORED)):
            if key not in labels:
                continue
            values = np.asarray(labels[key])
            wrong = values[((values < 0) | (values >= count)) & (values != other)]
            if wrong.size:
                padding = {-1: "-1 as padding", _IGNORED: "255 where it is unknown"}
                raise ValueError(
                    f"Expected {key} of 0 to {count - 1}, {padding[other]}. Received: "
                    f"{wrong[0]} in the stream {stream}"
                )
