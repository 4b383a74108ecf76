"""Embedded data: scenes of real handwritten digits on real photographs.

The images are composites: scikit-learn's 1,797 scanned digits (8x8 pixels,
Alpaydin and Kaynak 1998) are pasted at random sizes, positions, colors and contrasts
onto darkened crops of scikit-learn's two photographs. Nothing is downloaded, and
everything depends on one seed.
"""

import io

import numpy as np
from PIL import Image
from sklearn import datasets

from official_selftrain.checks.arguments import check_choice
from official_selftrain.data import examples, masks

POOLS = ("labeled", "unlabeled", "test")

# Fractions of the photographs' columns: training scenes show the left part, test
# scenes the right part, with a gap between.
_TRAINING_COLUMNS = (0.0, 0.6)
_TEST_COLUMNS = (0.65, 1.0)

_TEST_FRACTION = 0.28  # of the digits

_INK = 0.5  # the minimum opacity of ink


def scenes(
    pool,
    num_images,
    seed=0,
    image_size=(64, 64),
    num_classes=5,
    max_digits=3,
    digit_height=(14, 26),
    has_masks=False,
):
    """Compose scenes with boxes, or with masks of the digits' ink.

    Args:
        pool: `"labeled"`, `"unlabeled"` or `"test"`. The pools share no digit:
            28 % of the digits are for test scenes, 300 for labeled scenes and the
            rest for unlabeled scenes. Test scenes also show another part of the
            photographs.
        num_images: int, number of scenes.
        seed: int.
        image_size: (height, width) of a scene in pixels.
        num_classes: int from 1 to 10: the digits 0 … num_classes - 1.
        max_digits: int, a scene has 1 to `max_digits` digits.
        digit_height: minimum and maximum height of a digit in pixels.
        has_masks: bool, whether the labels are masks: 0 for the background and
            digit + 1 for ink.

    Returns:
        `examples.Source` with the ground truth of every pool, including the unlabeled
        one: labeling doesn't read it, but the report compares the labels with it.

    Raises:
        ValueError: for an unknown pool or sizes out of range.

    Source: own.
    """
    composed = compose(
        pool, num_images, seed, image_size, num_classes, max_digits, digit_height
    )
    records = []
    for index, (image, boxes, classes, mask) in enumerate(composed):
        record = {"encoded": _png(image), "id": index}
        height, width = image.shape[:2]
        if has_masks:
            record["mask"] = masks.encode(mask)
        else:
            record |= {
                "boxes": boxes / np.float32([height, width, height, width]),
                "classes": classes,
                "scores": np.ones(len(boxes), np.float32),
                "ignore": np.zeros(len(boxes), bool),
                "areas": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            }
        records.append(record)
    names = [str(k) for k in range(num_classes)]
    return examples.from_records(records, ["background"] * has_masks + names)


def icons(
    num_images,
    seed=0,
    image_size=(48, 48),
    classes=(5, 6, 7, 8, 9),
    digit_height=(20, 40),
    pool="training",
):
    """Compose pictures of one digit each, for image classification.

    They are to the scenes what ImageNet is to COCO: iconic, with other classes and
    without boxes. A picture's class is that of a box that covers it.

    Args:
        num_images: int, number of pictures.
        seed: int.
        image_size: (height, width) of a picture in pixels.
        classes: ints in 0…9, the digits used as classes; scenes use 0 to 4 by default.
        digit_height: minimum and maximum height of a digit in pixels.
        pool: `"training"` or `"test"` (28 % of the digits, on another part of the
            photographs). The pools share no digit.

    Returns:
        `examples.Source`.

    Raises:
        ValueError: for an unknown pool, classes or sizes out of range.

    Source: own.
    """
    _check_icons(num_images, classes, image_size, digit_height, pool)
    digits, labels = _digits_of(classes, seed, pool)
    records = []
    stream = [seed, len(POOLS) + (pool == "test")]
    backgrounds = _backgrounds(num_images, stream, pool, image_size)
    for index, (rng, image) in enumerate(backgrounds):
        choice = rng.integers(len(digits))
        opacity = _resized_digit(rng, digits[choice], digit_height, image_size[1])
        place = _free_place(rng, opacity, np.zeros(image_size, np.uint8))
        _paste(rng, image, opacity, place)
        whole = examples.whole_image(labels[choice])
        records.append({"encoded": _png(_noisy(rng, image)), "id": index, **whole})
    return examples.from_records(records, [str(digit) for digit in classes])


def compose(
    pool,
    num_images,
    seed=0,
    image_size=(64, 64),
    num_classes=5,
    max_digits=3,
    digit_height=(14, 26),
):
    """Compose scenes as arrays.

    Args:
        pool: as in `scenes`, like the other arguments.
        num_images: int.
        seed: int.
        image_size: (height, width).
        num_classes: int from 1 to 10.
        max_digits: int.
        digit_height: minimum and maximum height of a digit in pixels.

    Returns:
        list of `(image, boxes, classes, mask)`: uint8 `[H, W, 3]`; float32
        `[n, 4]`, the tight box of each digit's ink in pixels; int32 `[n]`;
        uint8 `[H, W]`, 0 for background and class + 1 for ink.

    Raises:
        ValueError: for an unknown pool or sizes out of range.

    Source: own.
    """
    _check(pool, image_size, num_classes, max_digits, digit_height)
    digits, labels = _pool_digits(pool, seed, num_classes)
    composed = []
    stream = [seed, POOLS.index(pool)]
    for rng, image in _backgrounds(num_images, stream, pool, image_size):
        mask = np.zeros(image_size, np.uint8)
        boxes, classes = [], []
        for _ in range(rng.integers(1, max_digits + 1)):
            choice = rng.integers(len(digits))
            opacity = _resized_digit(rng, digits[choice], digit_height, image_size[1])
            place = _free_place(rng, opacity, mask)
            if place is None:
                continue
            _paste(rng, image, opacity, place)
            ink = opacity >= _INK
            mask[place][ink] = labels[choice] + 1
            boxes.append(_tight_box(ink, place))
            classes.append(labels[choice])
        composed.append(
            (
                _noisy(rng, image),
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(classes, np.int32),
                mask,
            )
        )
    return composed


def _check(pool, image_size, num_classes, max_digits, digit_height):
    if pool not in POOLS:
        raise ValueError(
            f"Expected pool to be one of {', '.join(POOLS)}. Received: pool={pool!r}"
        )
    if not 1 <= num_classes <= 10:
        raise ValueError(
            f"Expected num_classes of 1 to 10. Received: num_classes={num_classes}"
        )
    if max_digits < 1:
        raise ValueError(
            f"Expected max_digits of at least 1. Received: max_digits={max_digits}"
        )
    _check_height(digit_height, image_size)


def _pool_digits(pool, seed, num_classes):
    """Return the digits of a pool, float32 `[n, 8, 8]` in 0…1, and their classes."""
    data = datasets.load_digits(n_class=num_classes)
    order = np.random.default_rng([seed, len(POOLS)]).permutation(len(data.target))
    num_test = round(_TEST_FRACTION * len(order))
    num_labeled = min(300, (len(order) - num_test) // 2)
    parts = np.split(order, [num_test, num_test + num_labeled])
    chosen = dict(zip(("test", "labeled", "unlabeled"), parts))[pool]
    return (data.images[chosen] / 16.0).astype(np.float32), data.target[chosen]


def _check_icons(num_images, classes, image_size, digit_height, pool):
    check_choice("pool", pool, ("training", "test"))
    if num_images < 1:
        raise ValueError(
            f"Expected num_images of at least 1. Received: num_images={num_images}"
        )
    if len(set(classes)) != len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(
            f"Expected distinct classes in 0...9. Received: classes={classes!r}"
        )
    _check_height(digit_height, image_size)


def _check_height(digit_height, image_size):
    low, high = digit_height
    if not 8 <= low <= high <= min(image_size):
        raise ValueError(
            "Expected 8 <= min <= max digit_height <= image_size. Received: "
            f"digit_height={tuple(digit_height)}, image_size={tuple(image_size)}"
        )


def _digits_of(classes, seed, pool):
    """Return digits of the given classes, float32 `[n, 8, 8]` in 0…1, and indices."""
    data = datasets.load_digits()
    chosen = np.flatnonzero(np.isin(data.target, classes))
    chosen = np.random.default_rng([seed, len(POOLS)]).permutation(chosen)
    test, training = np.split(chosen, [round(_TEST_FRACTION * len(chosen))])
    chosen = test if pool == "test" else training
    labels = [list(classes).index(digit) for digit in data.target[chosen]]
    return (data.images[chosen] / 16.0).astype(np.float32), labels


def _photographs():
    return [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]


def _noisy(rng, image):
    image = np.clip(image + rng.normal(0.0, 4.0, image.shape), 0, 255)
    return image.astype(np.uint8)


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _backgrounds(num_images, stream, pool, image_size):
    """Yield a random generator and a background for every image."""
    photographs = _photographs()
    columns = _TEST_COLUMNS if pool == "test" else _TRAINING_COLUMNS
    for index in range(num_images):
        rng = np.random.default_rng([*stream, index])
        yield rng, _background(rng, photographs, columns, image_size)


def _background(rng, photographs, columns, image_size):
    """Return a darkened crop of a photograph, float32 `[H, W, 3]`."""
    photograph = photographs[rng.integers(len(photographs))]
    height, width = photograph.shape[:2]
    left, right = (round(fraction * width) for fraction in columns)
    zoom = rng.uniform(1.0, 2.0)
    crop = [
        min(round(side * zoom), limit)
        for side, limit in zip(image_size, (height, right - left))
    ]
    top = rng.integers(height - crop[0] + 1)
    start = left + rng.integers(right - left - crop[1] + 1)
    patch = Image.fromarray(photograph[top : top + crop[0], start : start + crop[1]])
    patch = patch.resize(image_size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(patch, np.float32) * rng.uniform(0.35, 0.75)


def _resized_digit(rng, digit, digit_height, max_width):
    """Return a digit's opacity in 0…1 at a random height and aspect ratio."""
    height = rng.integers(digit_height[0], digit_height[1] + 1)
    width = min(round(height * rng.uniform(0.75, 1.1)), max_width)
    resized = Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized), 0.0, 1.0)


def _free_place(rng, opacity, mask, tries=20):
    """Return slices where the digit doesn't overlap other ink, or None."""
    height, width = opacity.shape
    for _ in range(tries):
        top = rng.integers(mask.shape[0] - height + 1)
        left = rng.integers(mask.shape[1] - width + 1)
        place = (slice(top, top + height), slice(left, left + width))
        if not mask[place].any():
            return place
    return None


def _paste(rng, image, opacity, place):
    """Blend light ink of a random color into the image, in place."""
    ink = rng.uniform(130.0, 255.0, 3)
    strength = rng.uniform(0.6, 1.0) * opacity[..., None]
    image[place] = image[place] * (1.0 - strength) + ink * strength


def _tight_box(ink, place):
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    top, left = place[0].start, place[1].start
    return (
        top + rows[0],
        left + columns[0],
        top + rows[-1] + 1,
        left + columns[-1] + 1,
    )
