"""ImageClassifier: image classification on a separate or shared backbone.

Letters in shapes: B batch, H W pixels, K classes, M label slots.
"""

import keras
from keras import ops

from official_selftrain import metrics
from official_selftrain.models import label_checks, losses
from official_selftrain.models.inputs import (
    check_model,
    check_stride,
    from_config,
    level_features,
)


@keras.saving.register_keras_serializable(package="official_selftrain")
class ImageClassifier(keras.Model):
    """Classify images with one dense layer on a backbone's last level.

    A functional Keras model; see `official_selftrain.models` for the contract. Trained
    alone, it pre-trains a backbone (`checkpoints.pretrained` loads it into another
    model). On the backbone of a detector or segmenter, it is the second task of joint
    training: `SelfTrainer(model, classifier=ImageClassifier(...,
    backbone=model.backbone))`.

    Args:
        num_classes: int K.
        image_size: (height, width) of the input in pixels, multiples of the stride
            of the backbone's last level.
        backbone: `keras.Model` from normalized images to a dict of levels, see
            `backbones`.

    Raises:
        TypeError: if `backbone` isn't such a model.
        ValueError: if `image_size` doesn't fit the strides, or for fewer than 2
            classes.

    Source: paper section 5 (joint training with ImageNet); global average pooling as
    in the backbones' papers.
    """

    def __init__(self, num_classes, image_size, backbone, name="classifier"):
        image_size = check_model(image_size, backbone, num_classes=num_classes)
        if num_classes < 2:
            raise ValueError(
                f"Expected at least 2 classes. Received: num_classes={num_classes}"
            )
        last = max(int(level[1:]) for level in backbone.output)
        check_stride(image_size, last)
        inputs = keras.Input((*image_size, 3), name="images")
        features = level_features(backbone, inputs)[f"P{last}"]
        pooled = keras.layers.GlobalAveragePooling2D(
            name="classification_pool", dtype="float32"
        )(features)
        logits = keras.layers.Dense(
            num_classes, name="classification_predict", dtype="float32"
        )(pooled)
        super().__init__(inputs=inputs, outputs={"image_logits": logits}, name=name)
        self.num_classes = num_classes
        self.image_size = image_size
        self.backbone = backbone
        self._policy = keras.config.dtype_policy().name

    def compute_losses(self, outputs, labels):
        """Return the mean cross-entropy of the classified images.

        Args:
            outputs: dict with `image_logits` `[B, K]`.
            labels: dict with `classes` int `[B, M]`: an image's class is its first,
                -1 if unknown. With `sample_weights` float `[B]`, an image counts that
                many times.

        Returns:
            dict with `loss`, float32 scalar, 0 if no class is known.

        Raises:
            ValueError: for classes of another shape; outside of graphs, for the first
                labels, as `check_labels` does.
        """
        total, count = self.loss_sum(outputs, labels)
        return {"loss": total / self.divisor(count)}

    def loss_sum(self, outputs, labels):
        """Return the loss of a part of a batch before normalization.

        Args:
            outputs: as in `compute_losses`.
            labels: as in `compute_losses`.

        Returns:
            `(sum, count)`, float32 scalars: the cross-entropy of the classified images,
            and their number.
        """
        classes = _classes(labels)
        label_checks.check_first(self, labels)
        is_labeled = losses.weighted(ops.cast(classes >= 0, "float32"), labels)
        entropy = losses.cross_entropy(
            ops.maximum(classes, 0), ops.cast(outputs["image_logits"], "float32")
        )
        return ops.sum(entropy * is_labeled), ops.sum(is_labeled)

    def check_labels(self, labels, where=""):
        """Check values that would train the model wrongly without an error.

        Args:
            labels: dict of arrays as in `compute_losses`, possibly with `images`.
            where: str, what they belong to, as `" of the stream classified"`.

        Raises:
            ValueError: for classes counted from 1 or out of range, and for images that
                aren't of 0…255.
        """
        label_checks.check_images(labels, self.image_size, where)
        label_checks.check_classes(labels, "classes", self.num_classes, where)

    def divisor(self, count):
        """Return the normalizer of the loss of a batch with `count` known classes."""
        return ops.maximum(count, 1.0)

    def predictions(self, outputs, sizes):
        """Return the most probable class of each image, as a box that covers it.

        Args:
            outputs: dict with `image_logits` `[B, K]`.
            sizes: int `[B, 2]`, height and width of the images.

        Returns:
            dict of a detector's predictions, one per image: `boxes` float32
            `[B, 1, 4]`; `scores` float32 `[B, 1]`, the class probability; `classes`
            int32 `[B, 1]`; `num_detections` int32 `[B]`, 1.
        """
        probabilities = ops.softmax(ops.cast(outputs["image_logits"], "float32"))
        sizes = ops.cast(sizes, "float32")
        return {
            "boxes": ops.concatenate([ops.zeros_like(sizes), sizes], axis=1)[:, None],
            "scores": ops.max(probabilities, axis=-1)[:, None],
            "classes": ops.cast(ops.argmax(probabilities, axis=-1), "int32")[:, None],
            "num_detections": ops.ones_like(sizes[:, 0], dtype="int32"),
        }

    def metric(self):
        """Return a new `metrics.Accuracy`."""
        return metrics.Accuracy()

    def get_config(self):
        """Return the constructor arguments, with backbone and precision serialized."""
        return {
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "name": self.name,
            "dtype_policy": self._policy,
        }

    @classmethod
    def from_config(cls, config):
        """Build a model from `get_config`'s result."""
        return from_config(cls, config)


def _classes(labels):
    """Return the class of each image."""
    classes = labels["classes"]
    if len(classes.shape) != 2:
        raise ValueError(
            "Expected classes [B, M], each image's class first. "
            f"Received: classes of shape {tuple(classes.shape)}"
        )
    return classes[:, 0]
