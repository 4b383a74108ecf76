"""The authors' variable names: one mapping from layers to scopes."""

import re

import keras

PARTS = ("backbone", "decoder", "head")

# Our layer names to the authors' scopes; `_scope` handles what needs more than a
# pattern.
_RULES = (
    (r"spinenet_(.+)", r"spinenet/\1"),
    (
        r"resample_(\d+)_(\d)_(.+)",
        r"spinenet/sub_policy\1/resample_with_alpha_resample_\1_\2/\3",
    ),
    (r"resnet_(.+)", r"RESNET/\1"),
    (r"fpn_lateral_p(\d)", r"fpn/l\1"),
    (r"fpn_output_p([345])", r"fpn/post_hoc_d\1"),
    (r"fpn_output_p([67])", r"fpn/p\1"),
    (r"fpn_bn_p(\d)", r"fpn/p\1-bn"),
    (r"nasfpn_resample_p(\d)_bn", r"resample_l\1/bn"),
    (r"(class|box)_conv(\d)", r"retinanet/\1_net/\1-\2"),
    (r"(class|box)_bn(\d)_p(\d)", r"retinanet/\1_net/\1-\2-\3"),
    (r"(class|box)_predict", r"retinanet/\1_net/\1-predict"),
    (r"segmentation_conv(\d)", r"segmentation/conv-\1"),
    (r"segmentation_bn(\d)", r"segmentation/conv-\1-bn"),
    (r"segmentation_predict", r"segmentation/conv2d"),
)


def part_of(layer):
    """Return the part, out of `PARTS`, to which a layer belongs by its name."""
    if re.match(r"(fpn|nasfpn)_", layer.name):
        return "decoder"
    if re.match(r"(class|box|segmentation|classification)_", layer.name):
        return "head"
    return "backbone"


def source_names(model):
    """Return the authors' names of a model's variables.

    Args:
        model: `RetinaNet`, `SemanticSegmenter` or a backbone of this package.

    Returns:
        dict of the authors' name to (variable, part). A ResNet's scope, which has
        its depth in the name, is `RESNET`; an EfficientNet's is `EFFICIENTNET`.

    Source: names of the authors' released models.
    """
    names = {}
    layers = leaves(model)
    blocks = [layer.name for layer in layers if layer.name.endswith("_dwconv")]
    blocks = [name.split("_")[0] for name in blocks]
    for layer in layers:
        scope = _scope(layer, blocks)
        for variable in layer.weights:
            kind = variable.name
            if isinstance(layer, keras.layers.DepthwiseConv2D) and kind == "kernel":
                kind = "depthwise_kernel"
            names[f"{scope}/{kind}"] = (variable, part_of(layer))
    return names


def leaves(model):
    """Return the layers with weights of a model and its nested models."""
    layers = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layers += leaves(layer)
        elif layer.weights:
            layers.append(layer)
    return layers


def _scope(layer, blocks):
    name = layer.name
    for pattern, replacement in _RULES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    match = re.fullmatch(r"block_(\d+)_(.+)", name)
    if match:
        node, rest = int(match[1]), match[2]
        return f"spinenet/sub_policy{node - 2}/scale_permuted_block_{node}/{rest}"
    match = re.fullmatch(r"nasfpn_resample_p(\d)_conv", name)
    if match:
        kind = "separable_conv2d" if _is_separable(layer) else "conv2d"
        return f"resample_l{match[1]}/{kind}"
    match = re.fullmatch(r"nasfpn_cell(\d+)_node(\d+)_(conv|bn)", name)
    if match:
        cell, node, kind = match[1], int(match[2]), match[3]
        return (
            f"fpn_cells/cell_{cell}/sub_policy{node - 5}/op_after_combine{node}/{kind}"
        )
    match = re.fullmatch(r"(stem|block\d+[a-z]+)_(.+)", name)
    if match:
        return f"EFFICIENTNET/{_efficientnet_scope(match[1], match[2], blocks)}"
    return name


def _is_separable(layer):
    return isinstance(layer, keras.layers.SeparableConv2D)


def _efficientnet_scope(block, kind, blocks):
    norm = "tpu_batch_normalization"
    if block == "stem":
        return "stem/" + {"conv": "conv2d", "bn": norm}[kind]
    # The first block doesn't expand, which shifts the numbers of the later layers.
    expands = not block.startswith("block1")
    scopes = {
        "expand_conv": "conv2d",
        "expand_bn": norm,
        "dwconv": "depthwise_conv2d",
        "dwconv_bn": f"{norm}_1" if expands else norm,
        "se_reduce": "se/conv2d",
        "se_expand": "se/conv2d_1",
        "project": "conv2d_1" if expands else "conv2d",
        "project_bn": f"{norm}_2" if expands else f"{norm}_1",
    }
    # EfficientNet-Lite.
    scopes |= {"bn": scopes["dwconv_bn"], "project_conv": scopes["project"]}
    return f"blocks_{blocks.index(block)}/{scopes[kind]}"
