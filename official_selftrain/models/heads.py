"""Prediction heads on a feature pyramid."""

import math

from keras import initializers, layers


def retinanet_head(
    features,
    num_outputs,
    name,
    num_convs=4,
    num_filters=256,
    activation="relu",
    separable=False,
    prior=None,
    bn_momentum=0.997,
    bn_epsilon=1e-4,
):
    """Build one tower of RetinaNet's head over all levels.

    Convolutions are shared by the levels; batch normalisation is not: each
    level has its own after every convolution.

    Args:
        features: dict of level name to tensor `[B, h, w, c]`.
        num_outputs: int, channels of the prediction (anchors per cell times
            values per anchor).
        name: str, prefix of the layer names.
        num_convs: int, 3x3 convolutions before the prediction.
        num_filters: int, their channels.
        activation: name of an activation.
        separable: bool, depthwise-separable convolutions.
        prior: float in 0…1 or None. If given, the prediction's bias starts at
            `-log((1 - prior) / prior)`, so that every score starts at `prior`.
        bn_momentum: float, momentum of the moving statistics.
        bn_epsilon: float.

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
        if separable:
            return layers.SeparableConv2D(filters, 3, **kwargs)
        kernel = initializers.RandomNormal(stddev=stddev)
        return layers.Conv2D(filters, 3, kernel_initializer=kernel, **kwargs)

    shared = [conv(f"conv{i}", num_filters, 0.01) for i in range(num_convs)]
    bias = 0.0 if prior is None else -math.log((1.0 - prior) / prior)
    predict = conv("predict", num_outputs, 1e-5, bias)

    outputs = {}
    for level, tensor in features.items():
        for index, layer in enumerate(shared):
            suffix = f"{index}_{level.lower()}"
            tensor = layer(tensor)
            tensor = layers.BatchNormalization(
                momentum=bn_momentum,
                epsilon=bn_epsilon,
                name=f"{name}_bn{suffix}",
            )(tensor)
            tensor = layers.Activation(activation, name=f"{name}_act{suffix}")(tensor)
        outputs[level] = predict(tensor)
    return outputs
