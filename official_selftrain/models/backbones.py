"""Backbones: a table for each family and one builder on top of KerasCV.

Every builder returns a `keras.Model` from normalised images `[B, H, W, 3]` to
a dict of levels: `"P3"` has the stride 2^3. They build without network access.
This is the only module that imports KerasCV.
"""

import difflib
import math

import keras
import keras_cv

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
}

_EFFICIENTNET_STAGES = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
}


def resnet(depth=50, blocks=None, filters=(64, 128, 256, 512), bn_momentum=0.997):
    """Build a ResNet.

    Args:
        depth: int, one of 18, 34, 50, 101, 152; 18 and 34 have basic blocks,
            the others bottlenecks.
        blocks: blocks of each stage; None takes those of `depth`. Fewer
            stages or blocks cut the network down.
        filters: filters of each stage, as many as there are stages (a
            bottleneck's output has four times as many). KerasCV's stem has 64,
            so the first stage of basic blocks must have 64 too.
        bn_momentum: float, momentum of batch normalisation's statistics.

    Returns:
        `keras.Model`: images to a dict of `"P2"` up to `"P5"`.

    Raises:
        ValueError: for an unknown depth, filters that don't fit, or if `blocks`
            and `filters` differ in length.

    Source: He et al. 2016; KerasCV's form (padding "same").
    """
    _check_choice("depth", depth, _RESNETS)
    default_blocks, bottleneck = _RESNETS[depth]
    blocks = default_blocks if blocks is None else tuple(blocks)
    if len(blocks) != len(filters):
        raise ValueError(
            "Expected as many filters as blocks, one of each a stage. "
            f"Received: blocks={blocks}, filters={tuple(filters)}"
        )
    if not bottleneck and filters[0] != 64:
        raise ValueError(
            "Expected filters of 64 in the first stage of basic blocks. "
            f"Received: depth={depth}, filters={tuple(filters)}"
        )
    backbone = keras_cv.models.ResNetBackbone(
        stackwise_filters=list(filters),
        stackwise_blocks=list(blocks),
        stackwise_strides=[1] + [2] * (len(blocks) - 1),
        block_type="block" if bottleneck else "basic_block",
        include_rescaling=False,
    )
    return _levels(backbone, backbone.pyramid_level_inputs, bn_momentum)


def efficientnet(variant="B7", drop_connect_rate=0.2, bn_momentum=0.99):
    """Build an EfficientNet as published.

    KerasCV's final release differs from the paper in three ways that are
    corrected here: an extra swish after every projection, drop-connect rates
    that grow past the linear rule `rate · block / num_blocks`, and P5 taken
    after the classification convolution instead of the last block.

    Args:
        variant: str, `"B0"` to `"B7"`.
        drop_connect_rate: float in 0…1, the rate the last block approaches.
        bn_momentum: float, momentum of batch normalisation's statistics.

    Returns:
        `keras.Model`: images to a dict of `"P2"` to `"P5"`.

    Raises:
        ValueError: for an unknown variant.

    Source: Tan and Le 2019; levels as in the authors' detection code.
    """
    _check_choice("variant", variant, _EFFICIENTNETS)
    width, depth = _EFFICIENTNETS[variant]
    repeats = _EFFICIENTNET_STAGES["stackwise_num_repeats"]
    num_blocks = sum(math.ceil(depth * count) for count in repeats)
    backbone = keras_cv.models.EfficientNetV1Backbone(
        include_rescaling=False,
        width_coefficient=width,
        depth_coefficient=depth,
        # KerasCV divides a block's index by the unscaled number of blocks.
        drop_connect_rate=drop_connect_rate * sum(repeats) / num_blocks,
        input_shape=(None, None, 3),
        **_EFFICIENTNET_STAGES,
    )
    for layer in backbone.layers:
        if layer.name.endswith("project_activation"):
            layer.activation = keras.activations.linear
    levels = dict(backbone.pyramid_level_inputs)
    last_block = backbone.get_layer("top_conv").input._keras_history.operation.name
    levels = {name: levels[name] for name in ("P2", "P3", "P4")} | {"P5": last_block}
    return _levels(backbone, levels, bn_momentum)


def _levels(backbone, level_layers, bn_momentum):
    """Return a plain functional model of the levels.

    Unlike KerasCV's class, whose configuration is its constructor's arguments,
    a functional model is saved layer by layer, with the changes made here.
    """
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = bn_momentum
    return keras.Model(
        backbone.input,
        {
            name: backbone.get_layer(layer).output
            for name, layer in level_layers.items()
        },
        name="backbone",
    )


def _check_choice(name, value, table):
    if value not in table:
        known = ", ".join(str(key) for key in table)
        near = difflib.get_close_matches(
            str(value), [str(key) for key in table], 1, 0.0
        )
        raise ValueError(
            f"Expected {name} to be one of {known} (nearest: {near[0]}). "
            f"Received: {name}={value!r}"
        )
