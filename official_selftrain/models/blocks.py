"""Building blocks of backbones, pyramids and heads.

Strided convolutions pad explicitly, `(k - 1) // 2` before and the rest after, as in the
authors' code: "same" padding would not reproduce their features from their weights.
"""

import collections
import dataclasses

import keras
from keras import initializers, layers


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Settings shared by every batch normalization of a network.

    Args:
        momentum: float, momentum of the moving statistics.
        epsilon: float.
        sync: bool, whether to synchronize batch statistics across replicas.
    """

    momentum: float = 0.997
    epsilon: float = 1e-4
    sync: bool = False

    def layer(self, name):
        """Return a new layer with the given name."""
        return layers.BatchNormalization(
            momentum=self.momentum,
            epsilon=self.epsilon,
            synchronized=self.sync,
            name=name,
        )


@keras.saving.register_keras_serializable(package="official_selftrain")
class ResidualAdd(layers.Layer):
    """Add a block's residual branch to its shortcut, with stochastic depth.

    In training, each image's branch is dropped with probability `rate` and otherwise
    divided by `1 - rate`. It is a single node in a model's graph, which keeps Keras'
    recursion within limits for very deep models.

    Args:
        rate: float of at least 0 and below 1.

    Source: Huang et al. 2016.
    """

    def __init__(self, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(
                f"Expected a rate of at least 0 and below 1. Received: rate={rate!r}"
            )
        self.rate = rate
        self.drop = layers.Dropout(
            rate, noise_shape=(None, 1, 1, 1), dtype=self.dtype_policy
        )

    def call(self, inputs, training=False):
        """Return shortcut plus branch.

        Args:
            inputs: [branch, shortcut], both `[B, h, w, c]`.
            training: bool.
        """
        branch, shortcut = inputs
        return shortcut + self.drop(branch, training=training)

    def compute_output_shape(self, input_shape):
        """Return the shortcut's shape."""
        return input_shape[1]

    def get_config(self):
        """Return the constructor arguments."""
        return {**super().get_config(), "rate": self.rate}


def numbered(scope):
    """Return a function that numbers names: conv2d, conv2d_1, conv2d_2, …

    Args:
        scope: str, prefix of every name.

    Returns:
        function (kind) → `"{scope}_{kind}"`, with a number from the second call on. The
        authors' variables follow the same scheme, so `checkpoints` can map them.
    """
    counts = collections.Counter()

    def name(kind):
        number = counts[kind]
        counts[kind] += 1
        return f"{scope}_{kind}_{number}" if number else f"{scope}_{kind}"

    return name


def conv_bn(tensor, filters, kernel_size, name, bn, strides=1, activation=None):
    """Build convolution, batch normalization and activation.

    Args:
        tensor: `[B, h, w, c]`.
        filters: int.
        kernel_size: int.
        name: function returned by `numbered`.
        bn: `BatchNorm`.
        strides: int.
        activation: name of an activation, or None.

    Returns:
        `[B, ceil(h / strides), ceil(w / strides), filters]`, for even h and w.

    Source: the authors' building blocks (no bias; variance scaling by fan-in).
    """
    padding = "same"
    if strides > 1:
        before = (kernel_size - 1) // 2
        around = (before, kernel_size - 1 - before)
        tensor = layers.ZeroPadding2D((around, around), name=name("pad"))(tensor)
        padding = "valid"
    tensor = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=initializers.VarianceScaling(1.0, "fan_in"),
        name=name("conv2d"),
    )(tensor)
    tensor = bn.layer(name("batch_normalization"))(tensor)
    if activation is not None:
        tensor = layers.Activation(activation, name=name("activation"))(tensor)
    return tensor


def residual_group(
    tensor, filters, name, bn, *, strides, always_project=False, activation, rate=0.0
):
    """Build residual blocks; strided or widening blocks project their shortcut.

    Args:
        tensor: `[B, h, w, c]`.
        filters: ints, the filters of a block's convolutions: two 3x3, or the 1x1, 3x3,
            1x1 of a bottleneck. The first 3x3 has the stride.
        name: function returned by `numbered`.
        bn: `BatchNorm`.
        strides: sequence of int, one per block.
        always_project: bool, whether the first block projects its shortcut (1x1
            convolution and batch normalization) even if the shapes agree.
        activation: name of an activation.
        rate: float, the stochastic-depth rate.

    Returns:
        `[B, h / s, w / s, filters[-1]]`, s the product of `strides`.

    Source: He et al. 2016, in the form of the authors' code.
    """
    out = filters[-1]
    for index, stride in enumerate(strides):
        shortcut = tensor
        projects = always_project and index == 0
        if projects or stride > 1 or tensor.shape[-1] != out:
            shortcut = conv_bn(tensor, out, 1, name, bn, stride)
        if len(filters) == 3:
            branch = conv_bn(tensor, filters[0], 1, name, bn, 1, activation)
            branch = conv_bn(branch, filters[1], 3, name, bn, stride, activation)
            branch = conv_bn(branch, out, 1, name, bn)
        else:
            branch = conv_bn(tensor, filters[0], 3, name, bn, stride, activation)
            branch = conv_bn(branch, out, 3, name, bn)
        tensor = ResidualAdd(rate, name=name("add"))([branch, shortcut])
        tensor = layers.Activation(activation, name=name("activation"))(tensor)
    return tensor


def stem(tensor, name, bn, activation):
    """Build a 7x7 convolution with 64 filters and max pooling, both with stride 2.

    Args:
        tensor: `[B, h, w, c]`.
        name: function returned by `numbered`.
        bn: `BatchNorm`.
        activation: name of an activation.

    Returns:
        `[B, h / 4, w / 4, 64]`.

    Source: the authors' ResNet and SpineNet.
    """
    tensor = conv_bn(tensor, 64, 7, name, bn, 2, activation)
    return layers.MaxPooling2D(3, 2, padding="same", name=name("pool"))(tensor)


def resize_nearest(tensor, factor, name):
    """Build nearest-neighbor upsampling by an integer factor.

    Args:
        tensor: `[B, h, w, c]`.
        factor: int.
        name: str, name of the layer.

    Returns:
        `[B, h · factor, w · factor, c]`.
    """
    return layers.UpSampling2D(factor, name=name)(tensor)
