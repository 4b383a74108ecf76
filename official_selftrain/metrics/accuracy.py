"""The accuracy of classes of whole images."""

import numpy as np


class Accuracy:
    """Compute the share of images whose class is right, over a stream of batches.

    Source: own.
    """

    def __init__(self):
        self._right, self._judged = 0, 0

    def update(self, predictions, labels):
        """Take in one batch.

        Args:
            predictions: dict with `classes` int `[B, 1]`.
            labels: dict with `classes` int `[B, M]`, of which the first is judged; -1
                isn't.
        """
        found = np.asarray(predictions["classes"])[:, 0]
        truth = np.asarray(labels["classes"])[:, 0]
        self._right += int(((found == truth) & (truth >= 0)).sum())
        self._judged += int((truth >= 0).sum())

    def result(self):
        """Return a dict with `top1`, percent; None without a judged image."""
        right, judged = self._right, self._judged
        return {"top1": 100.0 * right / judged if judged else None}
