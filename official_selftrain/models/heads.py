"""Prediction heads on a feature pyramid."""

import dataclasses
import math

import keras
from keras import initializers, layers, ops

from official_selftrain.models.blocks import BatchNorm


@dataclasses.dataclass(frozen=True)
class Tower:
    """Settings shared by both towers of RetinaNet's head.

    Args:
        num_convs: int, 3x3 convolutions before the prediction.
        num_filters: int, their channels.
        activation: name of an activation.
        separable: bool, depthwise-separable convolutions, including the prediction.
        bn: `blocks.BatchNorm`.
    """

    num_convs: int = 4
    num_filters: int = 256
    activation: str = "relu"
    separable: bool = False
    bn: BatchNorm = BatchNorm()


def retinanet_head(features, num_outputs, name, tower, prior=None):
    """Build one tower of RetinaNet's head over all levels.

    Convolutions are shared across levels; each level has its own batch normalization
    after every convolution.

    Args:
        features: dict of level name to tensor `[B, h, w, c]`.
        num_outputs: int, channels of the prediction (anchors per cell times
            values per anchor).
        name: str, prefix of the layer names.
        tower: `Tower`.
        prior: float in 0…1 or None. If given, the prediction's bias starts at
            `-log((1 - prior) / prior)`, so that every score starts at `prior`.

    Returns:
        dict of level name to tensor `[B, h, w, num_outputs]`.

    Source: Lin et al. 2017; initial values as in the authors' detection code.
    """

    def conv(layer_name, filters, stddev, bias=0.0):
        kwargs = {
            "padding": "same",
            "bias_initializer": initializers.Constant(bias),
            "name": f"{name}_{layer_name}",
        }
        if tower.separable:
            return layers.SeparableConv2D(filters, 3, **kwargs)
        kernel = initializers.RandomNormal(stddev=stddev)
        return layers.Conv2D(filters, 3, kernel_initializer=kernel, **kwargs)

    shared = [conv(f"conv{i}", tower.num_filters, 0.01) for i in range(tower.num_convs)]
    bias = 0.0 if prior is None else -math.log((1.0 - prior) / prior)
    predict = conv("predict", num_outputs, 1e-5, bias)

    outputs = {}
    for level, tensor in features.items():
        for index, layer in enumerate(shared):
            suffix = f"{index}_{level.lower()}"
            normalize = tower.bn.layer(f"{name}_bn{suffix}")
            activate = layers.Activation(tower.activation, name=f"{name}_act{suffix}")
            tensor = activate(normalize(layer(tensor)))
        outputs[level] = predict(tensor)
    return outputs


@keras.saving.register_keras_serializable(package="official_selftrain")
class ResizeBilinear(layers.Layer):
    """Upsample feature maps bilinearly by an integer factor, as TensorFlow 1 did.

    Output i lies at i / factor of the input: top left corners are aligned, and the last
    row and column are repeated. The authors' weights were trained with this convention;
    the half-pixel centers that are now common would give other features.

    Args:
        factor: int.

    Source: the authors' segmentation code.
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        """Upsample `[B, h, w, c]` to `[B, h · factor, w · factor, c]`."""
        for axis in (1, 2):
            size = inputs.shape[axis]
            here = ops.repeat(inputs, self.factor, axis)
            following = ops.take(inputs, [*range(1, size), size - 1], axis)
            following = ops.repeat(following, self.factor, axis)
            fraction = ops.arange(size * self.factor) % self.factor
            fraction = ops.cast(fraction, inputs.dtype) / self.factor
            shape = [1, 1, 1, 1]
            shape[axis] = size * self.factor
            inputs = here + (following - here) * ops.reshape(fraction, shape)
        return inputs

    def compute_output_shape(self, input_shape):
        """Return the upsampled shape."""
        batch, height, width, channels = input_shape
        return (batch, height * self.factor, width * self.factor, channels)

    def get_config(self):
        """Return the constructor arguments."""
        return {**super().get_config(), "factor": self.factor}


def segmentation_head(
    features,
    num_classes,
    level=2,
    num_convs=3,
    num_filters=256,
    activation="relu",
    *,
    bn,
):
    """Build a head that fuses a pyramid and classifies each cell of one level.

    Every level is upsampled bilinearly to the target level. Their sum passes 3x3
    convolutions with batch normalization, then a 1x1 convolution.

    Args:
        features: dict of level name to tensor `[B, h, w, c]`, with the same c and
            static heights and widths; levels below `level` are not used.
        num_classes: int K.
        level: int, the level of the output: 2 has the stride 4.
        num_convs: int, 3x3 convolutions before the prediction.
        num_filters: int, their channels.
        activation: name of an activation.
        bn: `blocks.BatchNorm`.

    Returns:
        `[B, H / 2^level, W / 2^level, K]`.

    Source: the authors' segmentation code (resizing in float32).
    """
    enlarged = []
    for name, tensor in features.items():
        factor = 2 ** (int(name[1:]) - level)
        if factor < 1:
            continue
        if factor > 1:
            layer = ResizeBilinear(
                factor, name=f"segmentation_resize_{name.lower()}", dtype="float32"
            )
            tensor = layer(tensor)
        enlarged.append(tensor)
    tensor = layers.Add(name="segmentation_fuse")(enlarged)
    normal = initializers.RandomNormal(stddev=0.01)
    for index in range(num_convs):
        tensor = layers.Conv2D(
            num_filters,
            3,
            padding="same",
            kernel_initializer=normal.clone(),
            name=f"segmentation_conv{index}",
        )(tensor)
        tensor = bn.layer(f"segmentation_bn{index}")(tensor)
        tensor = layers.Activation(activation, name=f"segmentation_act{index}")(tensor)
    return layers.Conv2D(
        num_classes, 1, kernel_initializer=normal, name="segmentation_predict"
    )(tensor)
