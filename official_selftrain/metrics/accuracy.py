"""The accuracy of image classification."""

import numpy as np


class Accuracy:
    """Compute the fraction of correctly classified images over a stream of batches.

    Source: own.
    """

    def __init__(self):
        self._correct, self._evaluated = 0, 0

    def update(self, predictions, labels):
        """Add one batch.

        Args:
            predictions: dict with `classes` int `[B, 1]`.
            labels: dict with `classes` int `[B, M]`; only the first is evaluated, and
                not if it is -1.
        """
        predicted = np.asarray(predictions["classes"])[:, 0]
        truth = np.asarray(labels["classes"])[:, 0]
        self._correct += int(((predicted == truth) & (truth >= 0)).sum())
        self._evaluated += int((truth >= 0).sum())

    def result(self):
        """Return a dict with `top1` in percent, None if no image was evaluated."""
        correct, evaluated = self._correct, self._evaluated
        return {"top1": 100.0 * correct / evaluated if evaluated else None}
