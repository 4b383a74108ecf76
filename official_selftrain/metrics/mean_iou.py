"""The mean intersection over union of masks."""

import numpy as np


class MeanIoU:
    """Compute the mean intersection over union over a stream of batches.

    Classes that occur neither in the ground truth nor in the predictions are excluded
    from the mean. Pixels whose true value is outside 0…K - 1 aren't evaluated: their
    class is unknown, as it is in the loss.

    Args:
        num_classes: int K.
        ignore_class: int, the ground-truth class that isn't evaluated.

    Attributes:
        unknown: int, the number of pixels whose true value is outside the classes and
            isn't `ignore_class`.

    Source: PASCAL VOC: TP / (TP + FP + FN) for each class.
    """

    def __init__(self, num_classes, ignore_class=255):
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.unknown = 0
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def update(self, predictions, labels):
        """Add one batch.

        Args:
            predictions: dict with `mask` int `[B, H, W]`.
            labels: dict with `mask` int `[B, H, W]`.

        Raises:
            ValueError: for masks of different sizes, or predicted classes outside
                0…K - 1 where the truth is evaluated.
        """
        predicted, truth = np.asarray(predictions["mask"]), np.asarray(labels["mask"])
        if predicted.shape != truth.shape:
            raise ValueError(
                "Expected masks of one size. Received: predicted "
                f"{predicted.shape}, true {truth.shape}"
            )
        is_class = (truth >= 0) & (truth < self.num_classes)
        kept = is_class & (truth != self.ignore_class)
        true, guessed = truth[kept].astype(np.int64), predicted[kept]
        wrong = (guessed < 0) | (guessed >= self.num_classes)
        if wrong.any():
            raise ValueError(
                f"Expected predicted classes of 0 to {self.num_classes - 1}. Received: "
                f"{guessed[wrong][0]}"
            )
        self.unknown += int((~is_class & (truth != self.ignore_class)).sum())
        pairs = true * self.num_classes + guessed
        counts = np.bincount(pairs, minlength=self.num_classes**2)
        self._confusion += counts.reshape(self._confusion.shape)

    def result(self):
        """Return the figures.

        Returns:
            dict: `mIoU` in percent (None if no pixel was evaluated); `class_IoU`, a
            list with one figure per class, None for absent classes; `accuracy`, the
            fraction of the evaluated pixels that are correct (or None).
        """
        correct = np.diag(self._confusion)
        union = self._confusion.sum(0) + self._confusion.sum(1) - correct
        figures = [
            100.0 * float(hit) / float(count) if count else None
            for hit, count in zip(correct, union)
        ]
        present = [figure for figure in figures if figure is not None]
        mean = sum(present) / len(present) if present else None
        evaluated = int(self._confusion.sum())
        accuracy = float(correct.sum()) / evaluated if evaluated else None
        return {"mIoU": mean, "class_IoU": figures, "accuracy": accuracy}
