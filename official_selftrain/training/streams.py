"""The image streams of a training."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from official_selftrain.checks.arguments import check_counts
from official_selftrain.data import examples, pipeline
from official_selftrain.models.classifier import ImageClassifier


@dataclasses.dataclass(frozen=True)
class Streams:
    """The images that a model is trained on.

    Attributes:
        labeled: `examples.Source`.
        pseudo: `examples.Source` or None, the pseudo-labeled images.
        classified: `examples.Source` whose images have one class each, as a box that
            covers the image; or None. A step has as many of them as labeled ones.
        classifier: `models.ImageClassifier` on the model's backbone, for them.
        fill_with_labeled: bool; True adds as many labeled images as a student has
            pseudo-labeled ones.
        validate: function (model) → float, higher is better, or None.
        validate_every: int, steps between two validations, a multiple of
            `Monitoring.log_every`; None: at every row of the history.
        max_boxes: int, most boxes of an image that are taught: all but the largest
            ones are ignored. None: all are taught.
        seed: int, of order and augmentation.
        later: float, the work that follows the training, in images that are trained
            on; the progress bar shows the time left for both.

    Raises:
        ValueError: for counts below 1, `validate_every` without a `validate`, or
            classified images that don't match the classifier.
    """

    labeled: examples.Source
    pseudo: examples.Source | None = None
    classified: examples.Source | None = None
    classifier: ImageClassifier | None = None
    fill_with_labeled: bool = False
    validate: Callable | None = None
    validate_every: int | None = None
    max_boxes: int | None = None
    seed: int = 0
    later: float = 0.0

    def __post_init__(self):
        if self.max_boxes is not None:
            check_counts(max_boxes=self.max_boxes)
        if self.validate_every is not None:
            check_counts(validate_every=self.validate_every)
            if self.validate is None:
                raise ValueError(
                    "Expected validate, a function, with validate_every. Received: "
                    f"validate=None, validate_every={self.validate_every}"
                )
        if self.classified is not None:
            _check_classified(self.classified, self.classifier)

    def without_classified(self):
        """Return the streams without classified images."""
        return dataclasses.replace(self, classified=None, classifier=None)

    def surplus(self):
        """Say for how many images of each stream boxes are ignored, a list of str."""
        sources = {"labeled": self.labeled, "pseudo": self.pseudo}
        lines = []
        for stream, source in sources.items():
            if self.max_boxes is None or source is None or source.has_masks:
                continue
            counts = source.box_counts[:, 1]
            beyond = counts[counts > self.max_boxes]
            if len(beyond):
                lines.append(
                    f"{stream}: {len(beyond):,} of {len(counts):,} images have more "
                    f"than max_boxes={self.max_boxes} boxes (up to {beyond.max()}): "
                    "all but the largest are ignored"
                )
        return lines

    def images_per_step(self, batch_size):
        """Return the number of images per step over all streams."""
        detected = 2 if self.pseudo or self.fill_with_labeled else 1
        return (detected + (self.classified is not None)) * batch_size

    def batches(self, batch_size, image_size, augment, start_step, share):
        """Return an infinite dataset of training batches.

        Args:
            batch_size: int, images of each stream.
            image_size: (height, width) of the frame.
            augment: as described in `data.augmentation.augment`.
            start_step: int, batches to skip.
            share: `pipeline.Share`, this worker's part of every batch.

        Returns:
            `tf.data.Dataset` of dicts of the streams' batches: `labeled` and, if
            present, `pseudo` and `classified`.
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
    """Check that images have one class each, matching the classifier."""
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
