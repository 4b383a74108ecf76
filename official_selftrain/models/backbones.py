"""Backbones: a table for each family and one builder.

Every builder returns a `keras.Model` that maps normalized images `[B, H, W, 3]` to a
dict of levels: `"P3"` has stride 2^3. No network access is needed. This is the only
module that imports KerasCV. Its EfficientNets are corrected by rebuilding them as plain
functional models. Unlike KerasCV's classes, these are saved layer by layer, so a saved
model keeps the corrections.
"""

import sys

import keras
import keras_cv

from official_selftrain.checks.arguments import check_choice
from official_selftrain.models import blocks as residual

# Keras traverses a graph recursively on building and loading: EfficientNet-L2 gets
# close to Python's limit of 1,000 calls.
sys.setrecursionlimit(max(sys.getrecursionlimit(), 10_000))

# depth: (blocks of each stage, bottleneck blocks?)
_RESNETS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

# variant: (width coefficient, depth coefficient)
_EFFICIENTNETS = {
    "B0": (1.0, 1.0),
    "B1": (1.0, 1.1),
    "B2": (1.1, 1.2),
    "B3": (1.2, 1.4),
    "B4": (1.4, 1.8),
    "B5": (1.6, 2.2),
    "B6": (1.8, 2.6),
    "B7": (2.0, 3.1),
    "L2": (4.3, 5.3),
}
_EFFICIENTNET_LITES = {
    "Lite0": (1.0, 1.0),
    "Lite1": (1.0, 1.1),
    "Lite2": (1.1, 1.2),
    "Lite3": (1.2, 1.4),
    "Lite4": (1.4, 1.8),
}

_STAGES = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
}

_LOWER_LEVELS = ("P2", "P3", "P4")


def resnet(
    depth=50,
    blocks=None,
    filters=(64, 128, 256, 512),
    activation="relu",
    drop_connect_rate=0.0,
    bn_momentum=0.997,
    bn_epsilon=1e-4,
    bn_sync=False,
):
    """Build a ResNet.

    KerasCV's ResNet strides in a bottleneck's first 1x1 convolution and pads "same";
    this one strides in the 3x3 convolution and pads explicitly, so that the authors'
    weights reproduce their features. As in their code, basic blocks project the
    shortcut in the first block of every stage, including the first stage.

    Args:
        depth: int, one of 18, 34, 50, 101, 152; 18 and 34 have basic blocks,
            the others bottlenecks.
        blocks: blocks per stage; None uses those of `depth`. Fewer stages or blocks
            give a smaller network.
        filters: filters per stage, one entry per stage (a bottleneck's output has
            four times as many).
        activation: name of an activation.
        drop_connect_rate: float in 0…1; stage l = 2, 3, … has a stochastic-depth rate
            of this times l / 5.
        bn_momentum: float, momentum of the batch normalization statistics.
        bn_epsilon: float.
        bn_sync: bool, whether to synchronize batch statistics across replicas.

    Returns:
        `keras.Model` that maps images to a dict of `"P2"` up to `"P5"`.

    Raises:
        ValueError: for an unknown depth, or if `blocks` and `filters` differ in
            length.

    Source: He et al. 2016, in the form of the authors' detection code.
    """
    check_choice("depth", depth, _RESNETS)
    default_blocks, bottleneck = _RESNETS[depth]
    blocks = default_blocks if blocks is None else tuple(blocks)
    if not blocks or min(blocks) < 1 or len(blocks) != len(filters):
        raise ValueError(
            "Expected blocks of at least 1 and as many filters, one per stage. "
            f"Received: blocks={blocks}, filters={tuple(filters)}"
        )
    bn = residual.BatchNorm(bn_momentum, bn_epsilon, bn_sync)
    images = keras.Input((None, None, 3), name="pixels")
    name = residual.numbered("resnet")
    tensor = residual.stem(images, name, bn, activation)
    levels = {}
    for level, (repeats, width) in enumerate(zip(blocks, filters), start=2):
        tensor = residual.residual_group(
            tensor,
            (width, width, 4 * width) if bottleneck else (width, width),
            name,
            bn,
            strides=[1 if level == 2 else 2] + [1] * (repeats - 1),
            # Full-size bottlenecks change the channels in every stage anyway; reduced
            # ones with 16 filters keep the identity they were trained with.
            always_project=not bottleneck,
            activation=activation,
            rate=drop_connect_rate * level / 5,
        )
        levels[f"P{level}"] = tensor
    return keras.Model(images, levels, name="backbone")


def efficientnet(
    variant="B7",
    drop_connect_rate=0.2,
    bn_momentum=0.99,
    bn_epsilon=1e-3,
    bn_sync=False,
):
    """Build an EfficientNet or EfficientNet-Lite as published.

    KerasCV's final release differs from the paper in three ways that are corrected
    here: an extra swish after every projection (not in Lite), stochastic-depth rates
    that exceed the linear rule `rate · block / num_blocks`, and P5 taken after the
    classification convolution instead of the last block.

    Args:
        variant: str, `"B0"` to `"B7"`, `"L2"`, or `"Lite0"` to `"Lite4"`.
        drop_connect_rate: float in 0…1, the rate that the last block approaches.
        bn_momentum: float, momentum of the batch normalization statistics.
        bn_epsilon: float.
        bn_sync: bool, whether to synchronize batch statistics across replicas.

    Returns:
        `keras.Model` that maps images, with sides that are multiples of 32, to a dict
        of `"P2"` to `"P5"`.

    Raises:
        ValueError: for an unknown variant.

    Source: Tan and Le 2019; levels as in the authors' detection code.
    """
    check_choice("variant", variant, {**_EFFICIENTNETS, **_EFFICIENTNET_LITES})
    if variant in _EFFICIENTNETS:
        width, depth = _EFFICIENTNETS[variant]
        kerascv = keras_cv.models.EfficientNetV1Backbone
        stages = {**_STAGES, "stackwise_squeeze_and_excite_ratios": [0.25] * 7}
    else:
        width, depth = _EFFICIENTNET_LITES[variant]
        kerascv, stages = keras_cv.models.EfficientNetLiteBackbone, _STAGES
    backbone = kerascv(
        include_rescaling=False,
        width_coefficient=width,
        depth_coefficient=depth,
        drop_connect_rate=0.0,
        input_shape=(None, None, 3),
        **stages,
    )
    # One depthwise convolution per block: block1a_dwconv, block2a_dwconv, …
    names = [layer.name for layer in backbone.layers]
    ids = [name.split("_")[0] for name in names if name.endswith("_dwconv")]

    def corrected(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum, layer.epsilon = bn_momentum, bn_epsilon
            layer.synchronized = bn_sync
        if isinstance(layer, keras.layers.Add):
            block = ids.index(layer.name.split("_")[0])
            rate = drop_connect_rate * block / len(ids)
            return residual.ResidualAdd(rate, name=layer.name)
        return layer

    def called(layer, *arguments, **keywords):
        if layer.name.endswith("project_activation"):
            return arguments[0]
        return layer(*arguments, **keywords)

    taps = backbone.pyramid_level_inputs
    levels = {name: backbone.get_layer(taps[name]).output for name in _LOWER_LEVELS}
    levels["P5"] = backbone.get_layer("top_conv").input
    return keras.models.clone_model(
        keras.Model(backbone.input, levels, name="backbone"),
        clone_function=corrected,
        call_function=called,
    )
