"""COCO's box AP, computed by pycocotools."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# COCO's twelve figures, in the order of pycocotools.
COCO_METRICS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


# Of a class and an image, as in COCOeval.
_MAX_DETECTIONS = 100


class CocoMetric:
    """Compute COCO's box AP over a stream of batches.

    Predictions and labels are kept as compact arrays; images are not. Ignored labels
    count as crowds: detections on them are neither true nor false positives.

    Args:
        num_classes: int K.

    Attributes:
        crowded: int, images with more objects of a class than the 100 detections of
            each class and image that AP counts.

    Source: pycocotools.
    """

    def __init__(self, num_classes):
        self.num_classes = num_classes
        self.crowded = 0
        self._truth = []
        self._detections = []
        self._image_ids = set()

    def update(self, predictions, labels):
        """Add one batch.

        Args:
            predictions: dict with `boxes` `[B, D, 4]`, `scores` `[B, D]` and
                `classes` `[B, D]` (-1 in unused slots).
            labels: dict with `ids` `[B]`, `boxes` `[B, M, 4]` in the same
                pixels, `classes` `[B, M]` (-1 in unused slots), `ignore`
                `[B, M]` and `areas` `[B, M]` (square pixels; if 0, the area of the
                box is used).

        Raises:
            ValueError: for an image that was already added.
        """
        predictions = {key: np.asarray(predictions[key]) for key in _PREDICTIONS}
        labels = {key: np.asarray(labels[key]) for key in _LABELS}
        for row, source_id in enumerate(labels["ids"].tolist()):
            if source_id in self._image_ids:
                raise ValueError(
                    f"Expected every image once. Received: id={source_id} twice"
                )
            # Images are renumbered because rows of floats can't hold 64-bit ids.
            image_id = len(self._image_ids)
            self._image_ids.add(source_id)
            used = labels["classes"][row] >= 0
            counts = np.bincount(labels["classes"][row][used & ~labels["ignore"][row]])
            self.crowded += int(counts.max(initial=0) > _MAX_DETECTIONS)
            self._truth.append(
                _rows(image_id, [labels[key][row][used] for key in _LABELS[1:]])
            )
            used = predictions["classes"][row] >= 0
            self._detections.append(
                _rows(image_id, [predictions[key][row][used] for key in _PREDICTIONS])
            )

    def result(self):
        """Return COCO's twelve figures.

        Returns:
            dict of `COCO_METRICS` to float in 0…100, or None for a figure that is
            undefined because no label has that size.

        Raises:
            ValueError: if no batch was added.
        """
        if not self._image_ids:
            raise ValueError("Expected at least one image. Received: 0 images")
        with contextlib.redirect_stdout(io.StringIO()):
            sizes = (len(self._image_ids), self.num_classes)
            truth = _coco(*sizes, self._annotations())
            detections = _coco(*sizes, self._results())
            evaluation = COCOeval(truth, detections, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {
            name: None if value < 0.0 else float(100.0 * value)
            for name, value in zip(COCO_METRICS, evaluation.stats)
        }

    def _annotations(self):
        for image_id, ymin, xmin, ymax, xmax, label, ignore, area in _joined(
            self._truth
        ):
            box_area = (xmax - xmin) * (ymax - ymin)
            yield {
                "image_id": int(image_id),
                "category_id": int(label),
                "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
                "area": area if area > 0.0 else box_area,
                "iscrowd": int(ignore),
            }

    def _results(self):
        for image_id, ymin, xmin, ymax, xmax, score, label in _joined(self._detections):
            yield {
                "image_id": int(image_id),
                "category_id": int(label),
                "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
                "area": (xmax - xmin) * (ymax - ymin),
                "score": score,
                "iscrowd": 0,
            }


_PREDICTIONS = ("boxes", "scores", "classes")
_LABELS = ("ids", "boxes", "classes", "ignore", "areas")


def _rows(image_id, columns):
    """Return float64 rows `(image_id, *columns)`."""
    columns = [np.asarray(column, np.float64) for column in columns]
    columns = [c if c.ndim == 2 else c[:, None] for c in columns]
    return np.concatenate(
        [np.full((len(columns[0]), 1), image_id, np.float64), *columns], axis=1
    )


def _joined(rows):
    return np.concatenate(rows).tolist()


def _coco(num_images, num_classes, annotations):
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in range(num_images)],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": [{"id": i + 1, **a} for i, a in enumerate(annotations)],
    }
    coco.createIndex()
    return coco
