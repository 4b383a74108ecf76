"""Augmentations: from an image with labels to a frame with labels.

An augmentation is a function `(image, labels, image_size, seed)` → `(image,
labels, size)`. A uint8 image `[h, w, 3]` and labels in its pixels go in; a
float32 frame `[H, W, 3]`, labels in pixels of the frame and the covered size
int32 `[2]` come out. Labels are a dict of

- `boxes` float32 `[n, 4]` and any other tensors with n rows, and, or,
- `mask` `[h, w]`, integer class ids.

Boxes outside the frame are dropped, none is added; mask pixels outside the image are
`placement.IGNORE_CLASS`, and values of no class stay as they are.

`s1` to `s4` are the paper's Augment-S1 to S4, for detection and segmentation.
"""

import tensorflow as tf

from official_selftrain.data.augmentation import color, placement, policies


def s1(image, labels, image_size, seed, scale_range=(0.8, 1.2), flip_probability=0.5):
    """Flip, scale and crop at random: Augment-S1.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict, see the module.
        image_size: (height, width) of the frame.
        seed: `[2]`, see `placement`.
        scale_range: the minimum and maximum scale.
        flip_probability: float in 0…1; 0 if a mirrored object changes its class, as
            a digit does.

    Returns:
        `(image, labels, size)`.

    Source: paper section 3 (flips and jitter 0.8 to 1.2).
    """
    return flip_and_jitter(
        image, labels, image_size, seed, scale_range, flip_probability
    )


def s2(
    image,
    labels,
    image_size,
    seed,
    scale_range=(0.8, 1.2),
    flip_probability=0.5,
    policy="v0",
    reference_size=None,
):
    """Apply AutoAugment, then flip, scale and crop at random: Augment-S2.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict, see the module.
        image_size: (height, width) of the frame.
        seed: `[2]`, see `placement`.
        scale_range: the minimum and maximum scale.
        flip_probability: float in 0…1.
        policy: as in `policies.auto_augment`. The paper doesn't name one; v0 is from
            the AutoAugment-detection paper it cites.
        reference_size: as in `policies.auto_augment`; with 640, the policy is as
            strong, relative to the image size, as on COCO.

    Returns:
        `(image, labels, size)`.

    Source: paper section 3 (AutoAugment with the jitter of S1).
    """
    policy_seed, seed = tf.unstack(tf.random.split(seed, 2))
    labels = placement.with_corners(labels)
    image, labels = policies.auto_augment(
        image, labels, policy_seed, policy, reference_size
    )
    return flip_and_jitter(
        image, labels, image_size, seed, scale_range, flip_probability
    )


def s3(
    image,
    labels,
    image_size,
    seed,
    scale_range=(0.5, 2.0),
    flip_probability=0.5,
    policy="v0",
    reference_size=None,
):
    """Apply AutoAugment, then flip, scale widely and crop at random: Augment-S3.

    Same arguments and return values as `s2`, except for the default scale range.

    Source: paper section 3 (AutoAugment with jitter 0.5 to 2.0).
    """
    return s2(
        image,
        labels,
        image_size,
        seed,
        scale_range,
        flip_probability,
        policy,
        reference_size,
    )


def s4(
    image,
    labels,
    image_size,
    seed,
    scale_range=(0.5, 2.0),
    flip_probability=0.5,
    rand_augment=policies.RandAugment(),
    reference_size=None,
):
    """Apply RandAugment, then flip, scale widely and crop at random: Augment-S4.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict, see the module.
        image_size: (height, width) of the frame.
        seed: `[2]`, see `placement`.
        scale_range: the minimum and maximum scale.
        flip_probability: float in 0…1.
        rand_augment: `policies.RandAugment`; the paper uses magnitude 15 for
            ResNet-101.
        reference_size: as in `policies.auto_augment`.

    Returns:
        `(image, labels, size)`.

    Source: paper section 3 (RandAugment with jitter 0.5 to 2.0, magnitude 10).
    """
    policy_seed, seed = tf.unstack(tf.random.split(seed, 2))
    labels = placement.with_corners(labels)
    image, labels = policies.rand_augment(
        image,
        labels,
        policy_seed,
        rand_augment.num_operations,
        rand_augment.magnitude,
        rand_augment.operations,
        reference_size,
    )
    return flip_and_jitter(
        image, labels, image_size, seed, scale_range, flip_probability
    )


def flip_and_jitter(
    image,
    labels,
    image_size,
    seed,
    scale_range=(0.8, 1.2),
    flip_probability=0.5,
    color_strength=0.0,
):
    """Flip, scale and crop at random, with optional color changes.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict, see the module; may contain `corners` (see `placement`) instead
            of `boxes`.
        image_size: (height, width) of the frame.
        seed: `[2]`, see `placement`.
        scale_range: the minimum and maximum scale.
        flip_probability: float in 0…1; 0 if a mirrored object changes its class, as
            a digit does.
        color_strength: float in 0…1; above 0, contrast and brightness vary by that
            fraction and the color channels are permuted.

    Returns:
        `(image, labels, size)`.

    Source: paper section 3; own: the color changes.
    """
    _check(scale_range, flip_probability)
    seeds = tf.unstack(tf.random.split(seed, 5))
    if color_strength > 0.0:
        low, high = 1.0 - color_strength, 1.0 + color_strength
        image = tf.cast(image, tf.float32)
        factor = tf.random.stateless_uniform((), seeds[0], low, high)
        image = color.contrast(image, factor)
        factor = tf.random.stateless_uniform((), seeds[1], low, high)
        image = color.brightness(image, factor)
        image = color.channel_order(image, seeds[2])
    labels = placement.with_corners(labels, 2)
    image, labels = placement.flip(image, labels, seeds[3], flip_probability)
    image, labels, size = placement.resize_and_crop(
        image, labels, image_size, seeds[4], scale_range
    )
    return image, placement.with_boxes(labels, size), size


def fit(image, labels, image_size, seed=(0, 0)):
    """Fit an image into the frame deterministically.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict, see the module.
        image_size: (height, width) of the frame.
        seed: unused.

    Returns:
        `(image, labels, size)`.

    Source: own.
    """
    labels = placement.with_corners(labels, 2)
    image, labels, size = placement.fit(image, labels, image_size)
    return image, placement.with_boxes(labels, size), size


def _check(scale_range, flip_probability):
    low, high = scale_range
    if not 0.0 < low <= high:
        raise ValueError(
            "Expected scale_range (minimum, maximum) above 0. Received: "
            f"scale_range={scale_range!r}"
        )
    if not 0.0 <= flip_probability <= 1.0:
        raise ValueError(
            "Expected flip_probability in 0...1. Received: "
            f"flip_probability={flip_probability!r}"
        )
