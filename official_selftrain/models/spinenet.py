"""SpineNet: a scale-permuted backbone with cross-scale connections; no decoder.

One table of nodes, one of sizes, one builder. A node adds two earlier nodes, each
resampled to its level, and runs residual blocks at that level.
"""

from keras import Input, Model, layers

from official_selftrain.checks.arguments import check_choice
from official_selftrain.models import blocks

# Nodes 2 to 16 after the stem's nodes 0 and 1:
# (level, bottleneck?, (first parent, second parent), is an output?)
_NODES = (
    (2, True, (0, 1), False),
    (4, False, (0, 1), False),
    (3, True, (2, 3), False),
    (4, True, (2, 4), False),
    (6, False, (3, 5), False),
    (4, True, (3, 5), False),
    (5, False, (6, 7), False),
    (7, False, (6, 8), False),
    (5, True, (8, 9), False),
    (5, True, (8, 10), False),
    (4, True, (5, 10), True),
    (3, True, (4, 10), True),
    (5, True, (7, 12), True),
    (7, True, (5, 14), True),
    (6, True, (12, 14), True),
)

_FILTERS = {2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}

# variant: (scale of the filters, fraction of channels kept in resampling, blocks per
# node, channels of the outputs)
_SPINENETS = {
    "49S": (0.65, 0.5, 1, 128),
    "49": (1.0, 0.5, 1, 256),
    "96": (1.0, 0.5, 2, 256),
    "143": (1.0, 1.0, 3, 256),
    "190": (1.3, 1.0, 4, 512),
}


def spinenet(
    variant="143",
    filter_scale=None,
    num_filters=None,
    activation="swish",
    drop_connect_rate=0.2,
    bn_momentum=0.997,
    bn_epsilon=1e-4,
    bn_sync=False,
):
    """Build a SpineNet.

    Args:
        variant: str, `"49S"`, `"49"`, `"96"`, `"143"` or `"190"`.
        filter_scale: float, multiplier of all filters; None uses the variant's.
        num_filters: int, channels of the outputs; None uses the variant's.
        activation: name of an activation.
        drop_connect_rate: float in 0…1, stochastic-depth rate of the last node; the
            rate grows linearly with depth. The authors use 0.16 for 143 and 0.2 for
            the others.
        bn_momentum: float, momentum of the batch normalization statistics.
        bn_epsilon: float.
        bn_sync: bool, whether to synchronize batch statistics across replicas.

    Returns:
        `keras.Model` that maps normalized images `[B, H, W, 3]`, H and W multiples of
        128, to a dict of `"P3"` to `"P7"`, `[B, H / 2^l, W / 2^l, num_filters]`.

    Raises:
        ValueError: for an unknown variant.

    Source: Du et al. 2020, in the form of the authors' detection code.
    """
    check_choice("variant", variant, _SPINENETS)
    scale, alpha, repeats, endpoint = _SPINENETS[variant]
    scale = scale if filter_scale is None else filter_scale
    endpoint = endpoint if num_filters is None else num_filters
    bn = blocks.BatchNorm(bn_momentum, bn_epsilon, bn_sync)
    images = Input((None, None, 3), name="pixels")
    name = blocks.numbered("spinenet")
    tensor = blocks.stem(images, name, bn, activation)
    # (level, bottleneck?) and output of every node so far
    nodes = []
    stem_filters = int(64 * scale)
    for _ in range(2):
        tensor = blocks.residual_group(
            tensor,
            (stem_filters, stem_filters, 4 * stem_filters),
            name,
            bn,
            strides=[1] * repeats,
            activation=activation,
        )
        nodes.append((2, True, tensor))
    joined = set()
    for index, (level, bottleneck, parents, is_output) in enumerate(_NODES):
        filters = int(_FILTERS[level] * scale)
        target = 4 * filters if bottleneck else filters
        tensors = [
            _resample(
                nodes[parent],
                level,
                target,
                alpha,
                blocks.numbered(f"resample_{index}_{side}"),
                bn,
                activation,
            )
            for side, parent in enumerate(parents)
        ]
        joined.update(parents)
        if is_output:
            # An unused node is added to the first output of its shape.
            for earlier, (other_level, _, other) in enumerate(nodes):
                if earlier not in joined and other_level == level:
                    if other.shape[-1] == target:
                        tensors.append(other)
                        joined.add(earlier)
        node = blocks.numbered(f"block_{index + 2}")
        tensor = layers.Add(name=node("sum"))(tensors)
        tensor = layers.Activation(activation, name=node("activation"))(tensor)
        tensor = blocks.residual_group(
            tensor,
            (filters, filters, target) if bottleneck else (filters, target),
            node,
            bn,
            strides=[1] * repeats,
            activation=activation,
            rate=drop_connect_rate * (index + 1) / len(_NODES),
        )
        nodes.append((level, bottleneck, tensor))
    outputs = {
        level: tensor
        for (level, _, _, is_output), (_, _, tensor) in zip(_NODES, nodes[2:])
        if is_output
    }
    return Model(
        images,
        {
            f"P{level}": blocks.conv_bn(
                outputs[level], endpoint, 1, name, bn, 1, activation
            )
            for level in sorted(outputs)
        },
        name="spinenet",
    )


def _resample(node, level, target, alpha, name, bn, activation):
    """Resample a node's output to another level and number of channels."""
    source, bottleneck, tensor = node
    channels = tensor.shape[-1] // 4 if bottleneck else tensor.shape[-1]
    channels = int(channels * alpha)
    tensor = blocks.conv_bn(tensor, channels, 1, name, bn, 1, activation)
    if level > source:
        tensor = blocks.conv_bn(tensor, channels, 3, name, bn, 2, activation)
        factor = 2 ** (level - source - 1)
        if factor > 1:
            tensor = layers.MaxPooling2D(
                3 if factor <= 2 else 5, factor, padding="same", name=name("pool")
            )(tensor)
    elif level < source:
        tensor = blocks.resize_nearest(tensor, 2 ** (source - level), name("up"))
    return blocks.conv_bn(tensor, target, 1, name, bn)
