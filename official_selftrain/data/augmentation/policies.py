"""AutoAugment for detection and RandAugment: which operations are applied to an image.

A policy samples a few of the `operations` for each image, and only those are
executed. Pixel operations run in the order in which they were sampled. Geometric
operations (rotate, shear, translate) are composed into a single transform, which is
applied last: pixels are interpolated once, no content is lost between two transforms,
and boxes stay tight. The authors apply each geometric operation in its turn.
"""

import dataclasses
import difflib

import tensorflow as tf

from official_selftrain.data.augmentation import operations as available

# RandAugment's 14 operations plus Invert, Cutout and SolarizeAdd.
RANDAUGMENT = (*available.PIXELS, *available.MOVES, "Cutout")


def _published(text):
    """Parse sub-policies, one per line: operation probability magnitude, …"""
    policy = []
    for line in text.strip().splitlines():
        steps = [step.split() for step in line.split(",")]
        policy.append(tuple((name, float(p), float(m)) for name, p, m in steps))
    return tuple(policy)


_V0 = """
TranslateX .6 4, Equalize .8 10
TranslateY_Only_BBoxes .2 2, Cutout .8 8
Sharpness 0 8, ShearX .4 0
ShearY 1 2, TranslateY_Only_BBoxes .6 6
Rotate .6 10, Color 1 6
"""

# Sub-policies of (operation, probability, magnitude), one of which is sampled
# uniformly. "v0" is the policy of the AutoAugment-detection paper.
AUTOAUGMENT = {
    "v0": _published(_V0),
    "v1": _published(
        _V0
        + """Color 0 0, ShearX_Only_BBoxes .8 4
ShearY_Only_BBoxes .8 2, Flip_Only_BBoxes 0 10
Equalize .6 10, TranslateX .2 2
Color 1 10, TranslateY_Only_BBoxes .4 6
Rotate .8 10, Contrast 0 10
Cutout .2 2, Brightness .8 10
Color 1 6, Equalize 1 2
Cutout_Only_BBoxes .4 6, TranslateY_Only_BBoxes .8 2
Color .2 8, Rotate .8 10
Sharpness .4 4, TranslateY_Only_BBoxes 0 4
Sharpness 1 4, SolarizeAdd .4 4
Rotate 1 8, Sharpness .2 8
ShearY .6 10, Equalize_Only_BBoxes .6 8
ShearX .2 6, TranslateY_Only_BBoxes .2 10
SolarizeAdd .6 8, Brightness .8 10
"""
    ),
    "v2": _published(
        """
Color 0 6, Cutout .6 8, Sharpness .4 8
Rotate .4 8, Sharpness .4 2, Rotate .8 10
TranslateY 1 8, AutoContrast .8 2
AutoContrast .4 6, ShearX .8 8, Brightness 0 10
SolarizeAdd .2 6, Contrast 0 10, AutoContrast .6 0
Cutout .2 0, Solarize .8 8, Color 1 4
TranslateY 0 4, Equalize .6 8, Solarize 0 10
TranslateY .2 2, ShearY .8 8, Rotate .8 8
Cutout .8 8, Brightness .8 8, Cutout .2 2
Color .8 4, TranslateY 1 6, Rotate .6 6
Rotate .6 10, BBox_Cutout 1 4, Cutout .2 8
Rotate 0 0, Equalize .6 6, ShearY .6 8
Brightness .8 8, AutoContrast .4 2, Brightness .2 2
TranslateY .4 8, Solarize .4 6, SolarizeAdd .2 10
Contrast 1 10, SolarizeAdd .2 8, Equalize .2 4
"""
    ),
    "v3": _published(
        """
Posterize .8 2, TranslateX 1 8
BBox_Cutout .2 10, Sharpness 1 8
Rotate .6 8, Rotate .8 10
Equalize .8 10, AutoContrast .2 10
SolarizeAdd .2 2, TranslateY .2 8
Sharpness 0 2, Color .4 8
Equalize 1 8, TranslateY 1 8
Posterize .6 2, Rotate 0 10
AutoContrast .6 0, Rotate 1 6
Equalize 0 4, Cutout .8 10
Brightness 1 2, TranslateY 1 6
Contrast 0 2, ShearY .8 0
AutoContrast .8 10, Contrast .2 10
Rotate 1 10, Cutout 1 10
SolarizeAdd .8 6, Equalize .8 8
"""
    ),
}


def auto_augment(image, labels, seed, policy="v0", reference_size=None):
    """Apply a uniformly sampled sub-policy of AutoAugment.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict, optionally with `corners` and `mask` (see `placement`) and
            `ignore` bool `[n]`; the content of ignored boxes isn't changed.
        seed: `[2]`, see `placement`.
        policy: a key of `AUTOAUGMENT`, or sub-policies of (operation, probability,
            magnitude).
        reference_size: int or None, the longer side, in pixels, of the images for
            which the policy's pixel values are meant (640 for COCO); they are scaled
            to the longer side of `image`. None uses the pixel values unchanged.

    Returns:
        `(image, labels)`, of the same sizes; corners may lie outside.

    Raises:
        ValueError: for an invalid policy.

    Source: paper section 3; policies of the authors' code.
    """
    if isinstance(policy, str):
        _check_name("policy", policy, AUTOAUGMENT)
        policy = AUTOAUGMENT[policy]
    _check_policy(policy)
    # Pad sub-policies to the length of the longest, for a table lookup.
    length = max(map(len, policy))
    nothing = ("Identity", 1.0, 0.0)
    table = [[*steps, *[nothing] * (length - len(steps))] for steps in policy]
    names = sorted({step[0] for steps in table for step in steps})
    choice_seed, seed = tf.unstack(tf.random.split(seed, 2))
    choice = tf.random.stateless_uniform((), choice_seed, 0, len(table), tf.int32)
    indices = [[names.index(step[0]) for step in steps] for steps in table]
    drawn = tf.gather(tf.constant(indices, tf.int32), choice)
    numbers = [[step[1:] for step in steps] for steps in table]
    numbers = tf.gather(tf.constant(numbers, tf.float64), choice)
    chances = tf.cast(numbers[:, 0], tf.float32)
    steps = [(drawn[k], chances[k], numbers[k, 1]) for k in range(length)]
    return available.execute(image, labels, seed, names, steps, reference_size)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Settings of `rand_augment`.

    Attributes:
        num_operations: int N.
        magnitude: float M.
        operations: names from `operations.OPERATIONS`.
    """

    num_operations: int = 1
    magnitude: float = 10.0
    operations: tuple = RANDAUGMENT

    def __post_init__(self):
        _check_rand_augment(self.num_operations, self.magnitude, self.operations)


def rand_augment(
    image,
    labels,
    seed,
    num_operations=1,
    magnitude=10.0,
    operations=RANDAUGMENT,
    reference_size=None,
):
    """Apply operations of RandAugment, sampled uniformly with replacement.

    Args:
        image: uint8 `[h, w, 3]`.
        labels: dict, as in `auto_augment`.
        seed: `[2]`, see `placement`.
        num_operations: int N. The paper doesn't state it; RandAugment's authors
            used 1 for COCO.
        magnitude: float M, usually 0…10; larger values are allowed.
        operations: names from `operations.OPERATIONS`.
        reference_size: int or None, as in `auto_augment`.

    Returns:
        `(image, labels)`, of the same sizes; corners may lie outside.

    Raises:
        ValueError: for unknown operations or an invalid N or M.

    Source: paper section 3 (magnitude 10; 15 for ResNet-101); operations of the
        RandAugment paper plus Invert, Cutout and SolarizeAdd.
    """
    _check_rand_augment(num_operations, magnitude, operations)
    seeds = tf.random.split(seed, 2)
    choices = tf.random.stateless_uniform(
        (num_operations,), seeds[0], 0, len(operations), tf.int32
    )
    steps = [(choices[k], 1.0, float(magnitude)) for k in range(num_operations)]
    return available.execute(image, labels, seeds[1], operations, steps, reference_size)


def _check_rand_augment(num_operations, magnitude, operations):
    if isinstance(operations, str):
        raise ValueError(
            f"Expected a sequence of operations. Received: operations={operations!r}"
        )
    _check_policy([[(name, 1.0, magnitude) for name in operations]])
    if type(num_operations) is not int or num_operations < 0:
        raise ValueError(
            "Expected num_operations, an integer of at least 0. Received: "
            f"num_operations={num_operations!r}"
        )


def _check_policy(policy):
    for steps in policy:
        for step in steps:
            if len(step) != 3:
                raise ValueError(
                    "Expected steps of (operation, probability, magnitude). "
                    f"Received: {step!r}"
                )
            name, probability, magnitude = step
            _check_name("operation", name, available.OPERATIONS)
            if not 0.0 <= probability <= 1.0:
                raise ValueError(
                    "Expected a probability in 0...1. Received: "
                    f"{name} with probability={probability!r}"
                )
            number = isinstance(magnitude, (int, float))
            if not number or not 0.0 <= magnitude <= 100.0:
                raise ValueError(
                    "Expected a magnitude in 0...100. Received: "
                    f"{name} with magnitude={magnitude!r}"
                )
    if not policy or not all(policy):
        raise ValueError(f"Expected at least one operation. Received: {policy!r}")


def _check_name(what, name, choices):
    if name not in choices:
        near = difflib.get_close_matches(str(name), choices, 1, 0.0)
        raise ValueError(
            f"Expected {what} to be one of {', '.join(choices)} (nearest: {near[0]}). "
            f"Received: {what}={name!r}"
        )
