"""Checks, pixel normalization and precision, shared by all models."""

import contextlib

import keras

from official_selftrain.checks.arguments import check_counts

# ImageNet's mean and standard deviation of RGB in 0…255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STDDEV = (58.395, 57.12, 57.375)


def normalized_pixels(images):
    """Normalize RGB in 0…255 by ImageNet's mean and standard deviation."""
    return keras.layers.Rescaling(
        scale=[1.0 / stddev for stddev in PIXEL_STDDEV],
        offset=[-m / s for m, s in zip(PIXEL_MEAN, PIXEL_STDDEV)],
        name="normalize_pixels",
        dtype="float32",  # bfloat16 can't distinguish all 256 gray levels
    )(images)


@contextlib.contextmanager
def dtype_policy(name):
    """Build layers under a dtype policy; None keeps the current one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def from_config(model_class, config):
    """Build a model from its `get_config`'s result, with its original precision.

    Args:
        model_class: class of a model with a backbone.
        config: dict; the backbone is serialized or, if shared, a model.

    Returns:
        an instance of `model_class`.
    """
    config = dict(config)
    if not isinstance(config["backbone"], keras.Model):
        config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"])
    with dtype_policy(config.pop("dtype_policy", None)):
        return model_class(**config)


def check_model(image_size, backbone, **counts):
    """Check a model's image size, backbone and counts.

    Returns:
        tuple of two int, the image size.

    Raises:
        TypeError: if `backbone` isn't a model from images to a dict of levels.
        ValueError: if the backbone's levels have other names or gaps, the image size
            isn't two whole numbers, or a count isn't an integer of at least 1.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"Expected {name}, an integer of at least 1. Received: {name}={value!r}"
            )
    _check_backbone(backbone)
    sides = image_size if isinstance(image_size, (tuple, list)) else ()
    if len(sides) != 2 or any(side != int(side) for side in sides):
        raise ValueError(
            "Expected image_size, (height, width) in pixels. "
            f"Received: image_size={image_size!r}"
        )
    return tuple(int(side) for side in sides)


def _check_backbone(backbone):
    """Check that a backbone is a model to a dict of levels, one after the other."""
    # A subclass that was never called has none.
    output = getattr(backbone, "output", None)
    if not isinstance(backbone, keras.Model) or not isinstance(output, dict):
        raise TypeError(
            'Expected backbone, a keras.Model from images to a dict {"P3": …, "P4": …, '
            '"P5": …} of levels of stride 8, 16, 32 (keras.Model(m.input, {"P3": '
            "m.get_layer(…).output, …}) takes them from a model m), such as "
            f"backbones.resnet(50). Received: backbone={backbone!r} with the output "
            f"{type(output).__name__}"
        )
    names = sorted(map(str, output), key=lambda name: (len(name), name))
    first = names[0][1:] if names else ""
    first = int(first) if first.isdecimal() else 0
    wanted = [f"P{first + i}" for i in range(len(names))]
    if names != wanted or set(names) != set(output):
        raise ValueError(
            'Expected backbone with levels one after the other, such as {"P3": …, '
            '"P4": …, "P5": …}. Received: backbone='
            f"{backbone.name} with keys={list(output)}"
        )


def level_features(backbone, images):
    """Return the levels of a backbone for images.

    Args:
        backbone: `keras.Model`, checked by `check_model`.
        images: `keras.Input` `[B, H, W, 3]`, RGB in 0…255.

    Returns:
        dict of level name to tensor `[B, H / 2^level, W / 2^level, c]`.

    Raises:
        ValueError: if a level has another stride than 2^level.
    """
    features = backbone(normalized_pixels(images))
    for name, feature in features.items():
        size = tuple(-(-side // 2 ** int(name[1:])) for side in images.shape[1:3])
        if feature.shape[1:-1] != size:
            raise ValueError(
                f"Expected level {name} of stride {2 ** int(name[1:])}, features of "
                f"{size[0]} x {size[1]} cells for images of {images.shape[1]} x "
                f"{images.shape[2]}. Received: backbone={backbone.name} with "
                f"{name} of shape {tuple(feature.shape)}"
            )
    return features


def check_stride(image_size, level):
    """Check that a level's cells fill the frame.

    Raises:
        ValueError: if a side isn't a multiple of the level's stride.
    """
    stride = 2**level
    if any(side < stride or side % stride for side in image_size):
        raise ValueError(
            f"Expected image_size in multiples of {stride}, the stride of level "
            f"P{level}. Received: image_size={image_size}"
        )


def check_tile(tile, soft_nms_sigma=0.0):
    """Return a tile as a tuple of ints, or None.

    Raises:
        ValueError: for anything but a height, a width and a smaller overlap, or with
            Soft-NMS.
    """
    if tile is None:
        return None
    is_given = isinstance(tile, tuple | list) and len(tile) == 3
    if is_given:
        check_counts(**dict(zip(("height", "width"), tile)))
    if not is_given or not isinstance(tile[2], int) or not 0 <= tile[2] < min(tile[:2]):
        raise ValueError(
            "Expected tile, (height, width, overlap) in pixels with an overlap below "
            f"both. Received: tile={tile!r}"
        )
    if soft_nms_sigma > 0.0:
        raise ValueError(
            "Expected soft_nms_sigma=0 with a tile: boxes of several tiles are put "
            f"together by hard suppression. Received: soft_nms_sigma={soft_nms_sigma}"
        )
    return tuple(tile)
