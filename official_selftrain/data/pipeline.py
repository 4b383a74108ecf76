"""From a source to batches.

Letters in shapes: B batch, H W pixels of the frame, M label slots.
"""

import tensorflow as tf

from official_selftrain.data import augment as augmentations
from official_selftrain.data.examples import read_image

_PADDING = {"boxes": 0.0, "classes": -1, "scores": 0.0, "ignore": False, "areas": 0.0}

# Examples in memory while shuffling: enough for a full shuffle of COCO's
# labels when the images lie in files, and for the embedded data.
_SHUFFLE_BUFFER = 200_000
_SHUFFLE_BUFFER_WITH_IMAGES = 4_096


def training_batches(
    source,
    batch_size,
    image_size,
    augment=augmentations.flip_and_jitter,
    seed=0,
    start_step=0,
    max_boxes=100,
):
    """Make an endless dataset of augmented batches.

    The source is shuffled anew in every epoch. Batch n depends only on the
    source, the seed and n: a dataset started at step n continues where one
    started at 0 would be.

    Args:
        source: `examples.Source`.
        batch_size: int B.
        image_size: (height, width) of the frame.
        augment: function as described in `augment`.
        seed: int.
        start_step: int, the number of batches to leave out.
        max_boxes: int M; an image keeps its first M boxes.

    Returns:
        `tf.data.Dataset` of batches: `images` float32 `[B, H, W, 3]`, `sizes`
        int32 `[B, 2]`, `ids` int64 `[B]`, `boxes` float32 `[B, M, 4]` in pixels
        of the frame, `classes` int32 `[B, M]`, `scores` float32 `[B, M]`,
        `ignore` bool `[B, M]`.

    Source: own.
    """

    # Without AutoGraph a mistake in a setting stays one line.
    @tf.autograph.experimental.do_not_convert
    def prepare(position, example):
        image, labels = _image_and_labels(example)
        item_seed = tf.stack([tf.cast(seed, tf.int64), position])
        image, labels, size = augment(image, labels, image_size, item_seed)
        labels = _pad(labels, max_boxes)
        labels.pop("areas")
        return {"images": image, "sizes": size, "ids": example["id"], **labels}

    start = start_step * batch_size
    dataset = tf.data.Dataset.zip(
        (tf.data.Dataset.counter(start), _shuffled(source, seed, start))
    )
    dataset = dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(source, batch_size, image_size, max_boxes=100):
    """Make one pass over a source, in order, without augmentation.

    Args:
        source: `examples.Source`.
        batch_size: int; the last batch may be smaller.
        image_size: (height, width) of the frame.
        max_boxes: int M.

    Returns:
        `tf.data.Dataset` of batches as in training, with three differences:
        `boxes` are in pixels of the original images, `sizes` are the original
        images', and `areas` float32 `[B, M]` (square pixels) is there too.

    Source: own.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(example):
        image, labels = _image_and_labels(example)
        frame, _, _ = augmentations.fit(image, labels, image_size)
        return {
            "images": frame,
            "sizes": tf.shape(image)[:2],
            "ids": example["id"],
            **_pad(labels, max_boxes),
        }

    dataset = source.dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _shuffled(source, seed, start):
    """Return the endless stream of shuffled epochs from position `start`."""
    in_files = any(example["path"] != "" for example in source.dataset.take(1))
    buffer = _SHUFFLE_BUFFER if in_files else _SHUFFLE_BUFFER_WITH_IMAGES
    buffer = min(buffer, source.num_images)
    first_epoch, offset = divmod(start, source.num_images)

    def epoch_examples(epoch):
        # Keeps TensorFlow's global seed out of the order: this graph has its own.
        tf.random.set_seed(1)
        return source.dataset.shuffle(
            buffer, seed=epoch * 2**20 + seed, reshuffle_each_iteration=False
        )

    epochs = tf.data.Dataset.counter(first_epoch)
    return epochs.flat_map(epoch_examples).skip(offset)


def _image_and_labels(example):
    image = read_image(example)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    labels = {key: example[key] for key in _PADDING}
    labels["boxes"] = labels["boxes"] * tf.tile(size, [2])
    return image, labels


def _pad(labels, max_boxes):
    count = tf.shape(labels["boxes"])[0]
    # Row `count` is the padding.
    rows = tf.minimum(tf.range(max_boxes), count)
    padded = {}
    for key, fill in _PADDING.items():
        shape = labels[key].shape[1:]
        padding = tf.fill((1, *shape), tf.cast(fill, labels[key].dtype))
        values = tf.gather(tf.concat([labels[key], padding], axis=0), rows)
        padded[key] = tf.ensure_shape(values, (max_boxes, *shape))
    return padded
