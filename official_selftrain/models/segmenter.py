"""SemanticSegmenter: per-pixel classification on a fused NAS-FPN.

Letters in shapes: B batch, H W pixels, K classes.
"""

import keras
from keras import ops

from official_selftrain import metrics
from official_selftrain.models import label_checks, losses
from official_selftrain.models.blocks import BatchNorm
from official_selftrain.models.heads import ResizeBilinear, segmentation_head
from official_selftrain.models.inputs import (
    PIXEL_MEAN,
    check_model,
    check_stride,
    from_config,
    level_features,
)
from official_selftrain.models.nasfpn import nasfpn

# The class id of pixels that are excluded from training and evaluation.
IGNORE_CLASS = 255

_LAST_LEVEL = 7
_STRIDE = 2**_LAST_LEVEL

# The stride of the logits.
_LABEL_STRIDE = 4


@keras.saving.register_keras_serializable(package="official_selftrain")
class SemanticSegmenter(keras.Model):
    """Classify every pixel with one head on a fused feature pyramid.

    A functional Keras model from images to raw outputs, with their loss and decoding;
    see `official_selftrain.models` for the contract.

    Args:
        num_classes: int K, including the background.
        image_size: (height, width) of the input in pixels, multiples of 128.
        backbone: `keras.Model` from normalized images to a dict of levels, see
            `backbones`.
        num_filters: int, channels of the pyramid and the head.
        num_repeats: int, cells of NAS-FPN.
        separable: bool, depthwise-separable convolutions in NAS-FPN.
        num_head_convs: int, convolutions of the head.
        bn_momentum: float, for pyramid and head.
        bn_epsilon: float, for pyramid and head.
        bn_sync: bool, whether to synchronize batch statistics across replicas.

    Raises:
        ValueError: if `image_size` doesn't fit the strides, or for fewer than 2 or
            more than 255 classes.

    Source: paper section 3; constants of the authors' segmentation code.
    """

    def __init__(  # noqa: PLR0913 -- a model's settings are its keywords
        self,
        num_classes,
        image_size,
        backbone,
        num_filters=256,
        num_repeats=7,
        separable=True,
        num_head_convs=3,
        bn_momentum=0.997,
        bn_epsilon=1e-3,
        bn_sync=False,
        name="segmenter",
    ):
        image_size = check_model(
            image_size,
            backbone,
            num_classes=num_classes,
            num_filters=num_filters,
            num_repeats=num_repeats,
            num_head_convs=num_head_convs,
        )
        check_stride(image_size, _LAST_LEVEL)
        if not 2 <= num_classes <= IGNORE_CLASS:
            raise ValueError(
                f"Expected 2 to {IGNORE_CLASS} classes: the background is one, and "
                f"id {IGNORE_CLASS} means ignored. Received: num_classes={num_classes}"
            )
        inputs = keras.Input((*image_size, 3), name="images")
        bn = BatchNorm(bn_momentum, bn_epsilon, bn_sync)
        features = nasfpn(
            level_features(backbone, inputs),
            num_filters,
            num_repeats,
            separable,
            bn=bn,
        )
        logits = segmentation_head(
            features,
            num_classes,
            num_convs=num_head_convs,
            num_filters=num_filters,
            bn=bn,
        )
        logits = keras.layers.Identity(name="mask_logits", dtype="float32")(logits)
        super().__init__(inputs=inputs, outputs={"mask_logits": logits}, name=name)
        self.num_classes = num_classes
        self.image_size = image_size
        self.backbone = backbone
        self.num_filters = num_filters
        self.num_repeats = num_repeats
        self.separable = separable
        self.num_head_convs = num_head_convs
        self.bn_momentum = bn_momentum
        self.bn_epsilon = bn_epsilon
        self.bn_sync = bn_sync
        self._policy = keras.config.dtype_policy().name

    def compute_losses(self, outputs, labels):
        """Return the mean cross-entropy of the labeled pixels.

        The label of an output cell is that of the mask's pixel in its top left
        corner, as in the authors' code: classes are never blended.

        Args:
            outputs: dict with `mask_logits` `[B, H / 4, W / 4, K]`.
            labels: dict with `mask` int `[B, H, W]`; pixels outside 0…K - 1, such as
                `IGNORE_CLASS`, are unlabeled. With `sample_weights` float `[B]`, the
                cells of an image count that many times.

        Returns:
            dict of a float32 scalar: `loss`, 0 if no pixel is labeled.

        Raises:
            ValueError: for labels without a mask, or of another shape; outside of
                graphs, for the first labels, as `check_labels` does.

        Source: the authors' segmentation code (labels at the logits' size).
        """
        total, count = self.loss_sum(outputs, labels)
        return {"loss": total / self.divisor(count)}

    def loss_sum(self, outputs, labels):
        """Return the loss of a part of a batch before normalization.

        Args:
            outputs: as in `compute_losses`.
            labels: as in `compute_losses`.

        Returns:
            `(sum, count)`, float32 scalars: the cross-entropy of the labeled cells, and
            their number.
        """
        mask, is_labeled = self._targets(labels)
        logits = ops.cast(outputs["mask_logits"], "float32")
        entropy = losses.cross_entropy(mask, logits)
        return ops.sum(entropy * is_labeled), ops.sum(is_labeled)

    def divisor(self, count):
        """Return the normalizer of the loss of a batch with `count` labeled cells."""
        return ops.maximum(count, 1.0)

    def check_labels(self, labels, where=""):
        """Check values that would train the model wrongly without an error.

        Args:
            labels: dict of arrays as in `compute_losses`, possibly with `images`.
            where: str, what they belong to, as `" of the stream labeled"`.

        Raises:
            ValueError: for a mask of another size or with classes counted from 1, and
                for images that aren't of 0…255.
        """
        label_checks.check_images(labels, self.image_size, where)
        label_checks.check_mask(labels, self.num_classes, self.image_size, where)

    def _targets(self, labels):
        """Return each output cell's label, and its weight: 0 if it is unlabeled."""
        if "mask" not in labels:
            raise ValueError(
                "Expected labels with a mask for a SemanticSegmenter. Received: "
                f"keys={sorted(labels)}"
            )
        mask = ops.cast(labels["mask"], "int32")
        if mask.ndim != 3 or tuple(mask.shape[1:]) != self.image_size:
            raise ValueError(
                f"Expected a mask [B, {self.image_size[0]}, {self.image_size[1]}]. "
                f"Received: shape={tuple(mask.shape)}"
            )
        label_checks.check_first(self, labels)
        mask = mask[:, ::_LABEL_STRIDE, ::_LABEL_STRIDE]
        is_labeled = ops.cast((mask >= 0) & (mask < self.num_classes), "float32")
        return mask, losses.weighted(is_labeled, labels)

    def predictions(self, outputs, sizes):
        """Decode outputs into masks.

        Args:
            outputs: dict with `mask_logits` `[B, H / 4, W / 4, K]`.
            sizes: int `[B, 2]`, unused: masks have the size of the model's frame.

        Returns:
            dict with `mask` int32 `[B, H, W]` and `scores` float32 `[B, H, W]`,
            the probability of the predicted class.

        Source: the authors' segmentation code: logits are upsampled bilinearly, with
            corners aligned like the labels'.
        """
        probabilities = _probabilities(outputs)
        return {
            "mask": ops.cast(ops.argmax(probabilities, axis=-1), "int32"),
            "scores": ops.max(probabilities, axis=-1),
        }

    def multi_scale(self, scales=(1.0,), flip=False):
        """Return a function that averages probabilities over scaled images.

        The frame is resized bilinearly and padded at the bottom and right to multiples
        of the stride; the outputs for the padding are cropped. The weights are shared
        with the model, not copied.

        Args:
            scales: floats above 0; `(1.0,)` without `flip` gives exactly the
                probabilities behind `predictions`.
            flip: bool, whether to average over flipped images too.

        Returns:
            function images `[B, H, W, 3]` → float32 `[B, H, W, K]`; the sum over K
            is 1.

        Raises:
            ValueError: for no scale, or one that isn't above 0.

        Source: paper section 3 (0.5 to 1.75 for pseudo-labels); own: averaging.
        """
        scales = tuple(scales)
        if not scales or not all(isinstance(s, (int, float)) and s > 0 for s in scales):
            raise ValueError(
                f"Expected scales, numbers above 0. Received: scales={scales!r}"
            )
        sizes = [tuple(max(round(s * n), 1) for n in self.image_size) for s in scales]
        models = [
            self._at_size(tuple(-(-n // _STRIDE) * _STRIDE for n in z)) for z in sizes
        ]

        def at_one_scale(images, size, model):
            if size != self.image_size:
                images = ops.image.resize(images, size, "bilinear")
            frame = model.input_shape[1:3]
            if frame != size:
                padding = ops.broadcast_to(
                    ops.convert_to_tensor(PIXEL_MEAN, images.dtype),
                    (ops.shape(images)[0], *frame, 3),
                )
                rows = ops.concatenate(
                    [images, padding[:, : size[0], size[1] :]], axis=2
                )
                images = ops.concatenate([rows, padding[:, size[0] :]], axis=1)
            outputs = model(images, training=False)
            scaled = _probabilities(outputs)[:, : size[0], : size[1]]
            if size != self.image_size:
                scaled = ops.image.resize(scaled, self.image_size, "bilinear")
            return scaled

        def probabilities(images):
            results = []
            for size, model in zip(sizes, models):
                results.append(at_one_scale(images, size, model))
                if flip:
                    flipped = at_one_scale(ops.flip(images, axis=2), size, model)
                    results.append(ops.flip(flipped, axis=2))
            return sum(results) / len(results)

        return probabilities

    def _at_size(self, image_size):
        """Return a model with the same layers for frames of another size."""
        if image_size == self.image_size:
            return self
        return keras.models.clone_model(
            self,
            input_tensors=keras.Input((*image_size, 3)),
            clone_function=lambda layer: layer,
        )

    def metric(self):
        """Return a new `metrics.MeanIoU`."""
        return metrics.MeanIoU(self.num_classes)

    def get_config(self):
        """Return the constructor arguments, with backbone and precision serialized."""
        return {
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_filters": self.num_filters,
            "num_repeats": self.num_repeats,
            "separable": self.separable,
            "num_head_convs": self.num_head_convs,
            "bn_momentum": self.bn_momentum,
            "bn_epsilon": self.bn_epsilon,
            "bn_sync": self.bn_sync,
            "name": self.name,
            "dtype_policy": self._policy,
        }

    @classmethod
    def from_config(cls, config):
        """Build a model from `get_config`'s result."""
        return from_config(cls, config)


def _probabilities(outputs):
    logits = ops.cast(outputs["mask_logits"], "float32")
    return ops.softmax(ResizeBilinear(_LABEL_STRIDE, dtype="float32")(logits), axis=-1)
