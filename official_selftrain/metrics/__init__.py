"""Metrics of predictions: COCO's AP, mean IoU, accuracy."""

from official_selftrain.metrics.accuracy import Accuracy
from official_selftrain.metrics.coco import COCO_METRICS, CocoMetric
from official_selftrain.metrics.mean_iou import MeanIoU

__all__ = ["COCO_METRICS", "Accuracy", "CocoMetric", "MeanIoU", "headline"]

# The headline metric of a detector, a segmenter and a classifier.
HEADLINES = ("AP", "mIoU", "top1")


def headline(metrics):
    """Return the name of the headline metric among a model's metrics."""
    return next(name for name in HEADLINES if name in metrics)
