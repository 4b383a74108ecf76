"""The mean intersection over union of masks."""

import numpy as np


class MeanIoU:
    """Compute the mean intersection over union over a stream of batches.

    Classes that neither the truth nor a prediction holds are left out of the
    mean.

    Args:
        num_classes: int K.
        ignore_class: int, truth that isn't judged.

    Source: PASCAL VOC: TP / (TP + FP + FN) for each class.
    """

    def __init__(self, num_classes, ignore_class=255):
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def update(self, predictions, labels):
        """Take in one batch.

        Args:
            predictions: dict with `mask` int `[B, H, W]`.
            labels: dict with `mask` int `[B, H, W]`.

        Raises:
            ValueError: for masks of different sizes.
        """
        found, truth = np.asarray(predictions["mask"]), np.asarray(labels["mask"])
        if found.shape != truth.shape:
            raise ValueError(
                "Expected masks of one size. Received: predicted "
                f"{found.shape}, true {truth.shape}"
            )
        judged = truth != self.ignore_class
        pairs = truth[judged].astype(np.int64) * self.num_classes + found[judged]
        counts = np.bincount(pairs, minlength=self.num_classes**2)
        self._confusion += counts.reshape(self._confusion.shape)

    def result(self):
        """Return the figures.

        Returns:
            dict: `mIoU` in percent (None without a judged pixel); `class_IoU`, a
            list of one figure for each class, None where it is absent;
            `accuracy`, the share of the judged pixels that are right (or None).
        """
        correct = np.diag(self._confusion)
        union = self._confusion.sum(0) + self._confusion.sum(1) - correct
        figures = [
            100.0 * float(hit) / float(count) if count else None
            for hit, count in zip(correct, union)
        ]
        present = [figure for figure in figures if figure is not None]
        mean = sum(present) / len(present) if present else None
        judged = int(self._confusion.sum())
        accuracy = float(correct.sum()) / judged if judged else None
        return {"mIoU": mean, "class_IoU": figures, "accuracy": accuracy}
