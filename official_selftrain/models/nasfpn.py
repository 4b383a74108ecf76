"""NAS-FPN: a searched feature pyramid of repeated cells. One table, one builder."""

from keras import layers

from official_selftrain.models import blocks

# Nodes 5 to 11 of a cell after its inputs 0 to 4 (P3 to P7): (level, how its two
# parents are combined, parents, is an output?)
_NODES = (
    (4, "attention", (1, 3), False),
    (4, "sum", (1, 5), False),
    (3, "sum", (0, 6), True),
    (4, "sum", (6, 7), True),
    (5, "attention", (7, 8), True),
    (7, "attention", (6, 9), True),
    (6, "attention", (9, 10), True),
)
_LEVELS = (3, 4, 5, 6, 7)


def nasfpn(
    features,
    num_filters=256,
    num_repeats=5,
    separable=False,
    activation="relu",
    *,
    bn,
):
    """Build NAS-FPN on the levels of a backbone.

    Levels with another number of channels first pass a 1x1 convolution and batch
    normalization; levels above the backbone's are pooled. In a cell, each node combines
    two earlier nodes, resampled to its level: by a sum, or by global attention, which
    adds to the coarser node the finer one times the sigmoid of the coarser one's global
    maximum. Activation, 3x3 convolution and batch normalization follow.

    Args:
        features: dict of level name (`"P3"`) to tensor `[B, h, w, c]`, from P3 on.
        num_filters: int, channels of every output.
        num_repeats: int, cells: 5 as published, 7 in the paper's segmentation.
        separable: bool, depthwise-separable convolutions.
        activation: name of an activation.
        bn: `blocks.BatchNorm`.

    Returns:
        dict of `"P3"` to `"P7"` to tensor `[B, h, w, num_filters]`.

    Raises:
        ValueError: if the backbone lacks P3.

    Source: Ghiasi et al. 2019, in the form of the authors' detection code.
    """
    if "P3" not in features:
        raise ValueError(
            f"Expected a backbone with level P3. Received: features={sorted(features)}"
        )
    convolution = layers.SeparableConv2D if separable else layers.Conv2D

    def conv_bn(tensor, kernel_size, name):
        tensor = convolution(
            num_filters, kernel_size, padding="same", name=f"{name}_conv"
        )(tensor)
        return bn.layer(f"{name}_bn")(tensor)

    pyramid = []
    for level in _LEVELS:
        if f"P{level}" in features:
            tensor = features[f"P{level}"]
            if tensor.shape[-1] != num_filters:
                tensor = conv_bn(tensor, 1, f"nasfpn_resample_p{level}")
        else:
            tensor = _resample(pyramid[-1], level - 1, level, f"nasfpn_pool_p{level}")
        pyramid.append(tensor)
    for cell in range(num_repeats):
        pyramid = _cell(pyramid, f"nasfpn_cell{cell}", activation, conv_bn)
    return {f"P{level}": tensor for level, tensor in zip(_LEVELS, pyramid)}


def _cell(pyramid, prefix, activation, conv_bn):
    """Build a cell's nodes; takes and returns one tensor for each of `_LEVELS`."""
    nodes = list(zip(_LEVELS, pyramid))
    joined = set()
    outputs = {}
    for index, (level, join, parents, is_output) in enumerate(_NODES, start=5):
        name = f"{prefix}_node{index}"
        tensors = [
            _resample(nodes[parent][1], nodes[parent][0], level, f"{name}_in{side}")
            for side, parent in enumerate(parents)
        ]
        joined.update(parents)
        if join == "attention":
            if nodes[parents[1]][0] > nodes[parents[0]][0]:
                tensors.reverse()
            tensors = _gated(*tensors, name)
        if is_output:
            # Unused nodes are added to the output of their level.
            for earlier, (other_level, other) in enumerate(nodes):
                if earlier not in joined and other_level == level:
                    tensors.append(other)
                    joined.add(earlier)
        tensor = layers.Add(name=f"{name}_sum")(tensors)
        tensor = layers.Activation(activation, name=f"{name}_act")(tensor)
        tensor = conv_bn(tensor, 3, name)
        nodes.append((level, tensor))
        if is_output:
            outputs[level] = tensor
    return [outputs[level] for level in _LEVELS]


def _gated(coarse, fine, name):
    """Gate the finer of two parents by the global maximum of the coarser one."""
    gate = layers.GlobalMaxPooling2D(keepdims=True, name=f"{name}_max")(coarse)
    gate = layers.Activation("sigmoid", name=f"{name}_gate")(gate)
    return [coarse, layers.Multiply(name=f"{name}_gated")([fine, gate])]


def _resample(tensor, source, target, name):
    if target > source:
        factor = 2 ** (target - source)
        return layers.MaxPooling2D(factor, factor, padding="same", name=name)(tensor)
    if target < source:
        return blocks.resize_nearest(tensor, 2 ** (source - target), name)
    return tensor
