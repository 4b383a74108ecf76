"""Feature pyramid network, P3 to P7, with batch normalization."""

from keras import layers


def fpn(
    features,
    min_level=3,
    max_level=7,
    num_filters=256,
    separable=False,
    *,
    bn,
):
    """Build a feature pyramid on the levels of a backbone.

    It has a 1x1 lateral convolution on each backbone level, a top-down path of nearest
    upsampling and addition, and a 3x3 convolution on each level. Levels above the
    backbone's come from strided 3x3 convolutions (with a ReLU before all but the
    first). Every output is batch-normalized, without activation.

    Args:
        features: dict of level name (`"P3"`) to tensor `[B, h, w, c]`; the
            levels from `min_level` on are used.
        min_level: int, first level of the pyramid.
        max_level: int, last level of the pyramid.
        num_filters: int, channels of every output.
        separable: bool, depthwise-separable convolutions.
        bn: `blocks.BatchNorm`.

    Returns:
        dict of level name to tensor `[B, h, w, num_filters]`.

    Raises:
        ValueError: if the backbone lacks `min_level`.

    Source: Lin et al. 2017, in the form of the authors' detection code.
    """
    if f"P{min_level}" not in features:
        raise ValueError(
            f"Expected a backbone with level P{min_level}, the pyramid's min_level. "
            f"Received: features={sorted(features)}"
        )
    top = min_level
    while f"P{top + 1}" in features and top < max_level:
        top += 1

    convolution = layers.SeparableConv2D if separable else layers.Conv2D

    def conv(name, kernel_size, strides=1):
        return convolution(
            num_filters, kernel_size, strides=strides, padding="same", name=name
        )

    pyramid = {}
    for level in range(top, min_level - 1, -1):
        lateral = conv(f"fpn_lateral_p{level}", 1)(features[f"P{level}"])
        if level < top:
            upsampled = layers.UpSampling2D(2, name=f"fpn_up_p{level}")(
                pyramid[level + 1]
            )
            lateral = layers.Add(name=f"fpn_sum_p{level}")([lateral, upsampled])
        pyramid[level] = lateral
    for level in range(min_level, top + 1):
        pyramid[level] = conv(f"fpn_output_p{level}", 3)(pyramid[level])
    for level in range(top + 1, max_level + 1):
        below = pyramid[level - 1]
        if level > top + 1:
            below = layers.ReLU(name=f"fpn_relu_p{level}")(below)
        pyramid[level] = conv(f"fpn_output_p{level}", 3, strides=2)(below)
    return {
        f"P{level}": bn.layer(f"fpn_bn_p{level}")(tensor)
        for level, tensor in sorted(pyramid.items())
    }
