"""The streams of images that a training sees."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from official_selftrain.checks.arguments import check_counts
from official_selftrain.data import examples, pipeline
from official_selftrain.models.classifier import ImageClassifier


@dataclasses.dataclass(frozen=True)
class Streams:
    """The images that a training sees.

    Attributes:
        labeled: `examples.Source`.
        pseudo: `examples.Source` or None, the pseudo-labeled images.
        classified: `examples.Source` whose images have a class each, a box that covers
            the image; or None. As many of them as labeled ones join every step.
        classifier: `models.ImageClassifier` on the model's backbone, for them.
        fill_with_labeled: bool; True takes as many labeled images more as a student
            has pseudo-labeled ones.
        validate: function (model) → float, higher is better, or None.
        max_boxes: int, slots for the labels of an image.
        seed: int, of order and augmentation.

    Raises:
        ValueError: without a slot, or for classified images that the classifier can't
            take.
    """

    labeled: examples.Source
    pseudo: examples.Source | None = None
    classified: examples.Source | None = None
    classifier: ImageClassifier | None = None
    fill_with_labeled: bool = False
    validate: Callable | None = None
    max_boxes: int = 100
    seed: int = 0

    def __post_init__(self):
        check_counts(max_boxes=self.max_boxes)
        if self.classified is not None:
            _check_classified(self.classified, self.classifier)

    def without_classified(self):
        """Return the streams without classified images."""
        return dataclasses.replace(self, classified=None, classifier=None)

    def images_per_step(self, batch_size):
        """Return how many images a step of `batch_size` takes from all streams."""
        detected = 2 if self.pseudo or self.fill_with_labeled else 1
        return (detected + (self.classified is not None)) * batch_size

    def batches(self, batch_size, image_size, augment, start_step, share):
        """Return the endless dataset of a training's batches.

        Args:
            batch_size: int, images of each stream.
            image_size: (height, width) of the frame.
            augment: as described in `data.augmentation.augment`.
            start_step: int, batches to leave out.
            share: `pipeline.Share`, this worker's part of every batch.

        Returns:
            `tf.data.Dataset` of dicts of the streams' batches: `labeled` and, where
            they are there, `pseudo` and `classified`.
        """
        is_filled = self.fill_with_labeled and self.pseudo is None
        own_size = 2 * batch_size if is_filled else batch_size
        wanted = {
            "labeled": (self.labeled, own_size, 2 * self.seed),
            "pseudo": (self.pseudo, batch_size, 2 * self.seed + 1),
            "classified": (self.classified, batch_size, 2**19 + self.seed),
        }
        return tf.data.Dataset.zip(
            {
                stream: pipeline.training_batches(
                    source,
                    size,
                    image_size,
                    augment,
                    seed,
                    start_step,
                    self.max_boxes,
                    share,
                )
                for stream, (source, size, seed) in wanted.items()
                if source is not None
            }
        )


def _check_classified(classified, classifier):
    """Check that images have a class each, of those that a classifier knows."""
    if classifier is None:
        raise ValueError(
            "Expected a classifier for classified images. Received: classifier=None"
        )
    if not classified.has_labels or classified.has_masks:
        kind = "masks" if classified.has_masks else "images without labels"
        raise ValueError(f"Expected images with a class each. Received: {kind}")
    if len(classified.class_names) != classifier.num_classes:
        raise ValueError(
            f"Expected classified images of {classifier.num_classes} classes. "
            f"Received: {len(classified.class_names)}"
        )
