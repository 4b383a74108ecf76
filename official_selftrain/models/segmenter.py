"""SemanticSegmenter: a class for every pixel, on a fused NAS-FPN.

Letters in shapes: B batch, H W pixels, K classes.
"""

import keras
from keras import ops

from official_selftrain import losses, metrics
from official_selftrain.models.heads import segmentation_head
from official_selftrain.models.inputs import check_frame, normalized_pixels
from official_selftrain.models.nasfpn import nasfpn

# The mask's class of pixels that are neither taught nor judged.
IGNORE_CLASS = 255


@keras.saving.register_keras_serializable(package="official_selftrain")
class SemanticSegmenter(keras.Model):
    """Classify every pixel with one head on a fused feature pyramid.

    A functional Keras model from images to raw outputs, with the loss and the
    decoding that belong to them; see `official_selftrain.models` for the
    contract.

    Args:
        num_classes: int K, the background counted.
        image_size: (height, width) of the input in pixels, multiples of 128.
        backbone: `keras.Model` from normalised images to a dict of levels, see
            `backbones`.
        num_filters: int, channels of the pyramid and the head.
        num_repeats: int, cells of NAS-FPN.
        separable: bool, depthwise-separable convolutions in NAS-FPN.
        num_head_convs: int, convolutions of the head.
        bn_momentum: float, for pyramid and head.
        bn_epsilon: float, for pyramid and head.
        bn_sync: bool, whether replicas share their batch's statistics.

    Raises:
        ValueError: if `image_size` doesn't fit the strides.

    Source: paper section 3; constants of the authors' segmentation code.
    """

    def __init__(
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
        image_size = tuple(int(side) for side in image_size)
        check_frame(image_size, 128, num_classes=num_classes, num_repeats=num_repeats)
        inputs = keras.Input((*image_size, 3), name="images")
        bn = {
            "bn_momentum": bn_momentum,
            "bn_epsilon": bn_epsilon,
            "bn_sync": bn_sync,
        }
        features = nasfpn(
            backbone(normalized_pixels(inputs)),
            num_filters,
            num_repeats,
            separable,
            **bn,
        )
        logits = segmentation_head(
            features,
            num_classes,
            num_convs=num_head_convs,
            num_filters=num_filters,
            **bn,
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

    def compute_losses(self, outputs, labels):
        """Return the mean cross-entropy of the pixels that are known.

        The label of an output cell is that of the mask's pixel in its top left
        corner, as in the authors' code: classes are never blended.

        Args:
            outputs: dict with `mask_logits` `[B, H / 4, W / 4, K]`.
            labels: dict with `mask` int `[B, H, W]`, `IGNORE_CLASS` where nothing
                is known.

        Returns:
            dict of a float32 scalar: `loss`, 0 where no pixel is known.

        Source: the authors' segmentation code (labels at the logits' size).
        """
        logits = ops.cast(outputs["mask_logits"], "float32")
        stride = labels["mask"].shape[1] // logits.shape[1]
        mask = ops.cast(labels["mask"], "int32")[:, ::stride, ::stride]
        known = ops.cast(mask != IGNORE_CLASS, "float32")
        entropy = losses.cross_entropy(mask, logits)
        total = ops.sum(entropy * known)
        return {"loss": total / ops.maximum(ops.sum(known), 1.0)}

    def predictions(self, outputs, sizes):
        """Decode outputs into masks.

        Args:
            outputs: dict with `mask_logits` `[B, H / 4, W / 4, K]`.
            sizes: int `[B, 2]`, unused: masks are those of the model's frame.

        Returns:
            dict with `mask` int32 `[B, H, W]` and `scores` float32 `[B, H, W]`,
            the probability of the class chosen.

        Source: own; logits are enlarged linearly.
        """
        logits = ops.cast(outputs["mask_logits"], "float32")
        logits = ops.image.resize(logits, self.image_size, "bilinear")
        probabilities = ops.softmax(logits, axis=-1)
        return {
            "mask": ops.cast(ops.argmax(probabilities, axis=-1), "int32"),
            "scores": ops.max(probabilities, axis=-1),
        }

    def metric(self):
        """Return a fresh `metrics.MeanIoU`."""
        return metrics.MeanIoU(self.num_classes)

    def get_config(self):
        """Return the constructor's arguments, the backbone serialised."""
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
        }

    @classmethod
    def from_config(cls, config):
        """Build a model from `get_config`'s result."""
        config = dict(config)
        config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**config)
