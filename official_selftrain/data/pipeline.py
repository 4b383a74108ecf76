"""The input pipeline: from a source to batches.

The labels of a batch are boxes or masks, depending on the source.

Letters in shapes: B batch, H W pixels of the frame, M label slots.
"""

import dataclasses

import tensorflow as tf

from official_selftrain.checks.arguments import check_counts
from official_selftrain.data.augmentation import augment as augmentations
from official_selftrain.data.examples import read_image, read_mask
from official_selftrain.geometry import letterbox

_PADDING = {"boxes": 0.0, "classes": -1, "scores": 0.0, "ignore": False, "areas": 0.0}

# Size of the shuffle buffer in examples: enough for a full shuffle of COCO's labels
# if the images are in files, and of the embedded data. Images and masks within the
# examples take most of the memory.
_SHUFFLE_BUFFER = 200_000
_SHUFFLE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Share:
    """Define which part of every training batch a worker prepares.

    Args:
        num_replicas: int, pieces of a batch, a multiple of `num_workers`.
        num_workers: int, workers among which the pieces are divided evenly.
        worker: int, the index of this worker.

    Raises:
        ValueError: if the pieces can't be divided evenly or `worker` is out of range.
    """

    num_replicas: int = 1
    num_workers: int = 1
    worker: int = 0

    def __post_init__(self):
        uneven = self.num_workers < 1 or self.num_replicas % self.num_workers
        if uneven or self.num_replicas < 1:
            raise ValueError(
                "Expected num_replicas, a multiple of num_workers. Received: "
                f"num_replicas={self.num_replicas}, num_workers={self.num_workers}"
            )
        if not 0 <= self.worker < self.num_workers:
            raise ValueError(
                f"Expected worker in 0...{self.num_workers - 1}. Received: "
                f"worker={self.worker}"
            )


def training_batches(
    source,
    batch_size,
    image_size,
    augment=augmentations.flip_and_jitter,
    seed=0,
    start_step=0,
    max_boxes=None,
    share=Share(),
):
    """Create an infinite dataset of augmented batches.

    The source is reshuffled in every epoch. Batch n depends only on the source, the
    seed and n: a dataset started at step n yields the same batches as one started at
    0 that has reached step n. With several workers, each decodes and augments its own
    part of every batch and yields one piece per replica.

    Args:
        source: `examples.Source`.
        batch_size: int, images per step, a multiple of `share.num_replicas`.
        image_size: (height, width) of the frame.
        augment: function as described in `augment`.
        seed: int.
        start_step: int, the number of batches to skip.
        max_boxes: int, most boxes of an image that are taught: all but the largest
            ones are ignored as doubtful objects. None: all are taught.
        share: `Share`, this worker's part of every batch; B is
            `batch_size / share.num_replicas`.

    Returns:
        `tf.data.Dataset` of batches: `images` float32 `[B, H, W, 3]`, `sizes`
        int32 `[B, 2]`, `ids` int64 `[B]` and, in pixels of the frame, either
        `boxes` float32 `[B, M, 4]`, `classes` int32 `[B, M]`, `scores` float32
        `[B, M]`, `ignore` bool `[B, M]`, or `mask` int32 `[B, H, W]`, where a value
        outside the classes, such as 255, is unknown. M is the largest number of boxes
        of an image of the source. A `map` may add the `sample_weights` that models
        know, float32 `[B]`.

    Raises:
        ValueError: for a `max_boxes` below 1.

    Source: own.
    """
    slots = None if source.has_masks else source.most_boxes
    if max_boxes is not None:
        check_counts(max_boxes=max_boxes)

    # Without AutoGraph, an invalid setting raises a one-line error.
    @tf.autograph.experimental.do_not_convert
    def prepare(position, example):
        image, labels = _image_and_labels(example, source)
        if not source.has_masks and max_boxes is not None and max_boxes < slots:
            labels = _limited(labels, max_boxes)
        item_seed = tf.stack([tf.cast(seed, tf.int64), position])
        image, labels, size = augment(image, labels, image_size, item_seed)
        if not source.has_masks:
            labels = _pad(labels, slots)
            labels.pop("areas")
        return {"images": image, "sizes": size, "ids": example["id"], **labels}

    start = start_step * batch_size
    dataset = tf.data.Dataset.zip(
        (tf.data.Dataset.counter(start), _shuffled(source, seed, start))
    )
    if share.num_workers > 1:
        part = batch_size // share.num_workers
        dataset = dataset.filter(
            lambda position, _: (position % batch_size) // part == share.worker
        )
    dataset = dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size // share.num_replicas, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(source, batch_size, image_size):
    """Create a dataset of one pass over a source, in order, without augmentation.

    Args:
        source: `examples.Source`.
        batch_size: int; the last batch may be smaller.
        image_size: (height, width) of the frame; None, for batches of one image with
            boxes: `images` are uint8, as they are.

    Returns:
        `tf.data.Dataset` of batches as in training, with four differences:
        `boxes` are in pixels of the original images, `sizes` are those of the
        original images, `areas` float32 `[B, M]` (square pixels) is included, and M is
        the largest number of boxes of an image of the batch. A `mask` has the size of
        the frame.

    Source: own.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(example):
        image, labels = _image_and_labels(example, source)
        size = tf.shape(image)[:2]
        if source.has_masks:
            frame, labels, _ = augmentations.fit(image, labels, image_size)
        else:
            count = tf.maximum(tf.shape(labels["boxes"])[0], 1)
            frame = image if image_size is None else letterbox.fit(image, image_size)
            labels = _pad(labels, count)
        return {"images": frame, "sizes": size, "ids": example["id"], **labels}

    dataset = source.dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True)
    if source.has_masks:
        return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    fills = {
        key: tf.cast(_PADDING.get(key, 0), spec.dtype)
        for key, spec in dataset.element_spec.items()
    }
    batches = dataset.padded_batch(batch_size, padding_values=fills)
    return batches.prefetch(tf.data.AUTOTUNE)


def _shuffled(source, seed, start):
    """Return the infinite stream of shuffled epochs from position `start`."""
    sizes = [
        sum(len(example[key].numpy()) for key in ("encoded", "mask", "confidence"))
        for example in source.dataset.take(16)
    ]
    affordable = _SHUFFLE_BYTES * len(sizes) // max(sum(sizes), 1)
    buffer = min(source.num_images, _SHUFFLE_BUFFER, max(affordable, 1))
    first_epoch, offset = divmod(start, source.num_images)

    def epoch_examples(epoch):
        # A seed for this graph keeps the order independent of TensorFlow's global seed.
        tf.random.set_seed(1)
        return source.dataset.shuffle(
            buffer, seed=epoch * 2**20 + seed, reshuffle_each_iteration=False
        )

    epochs = tf.data.Dataset.counter(first_epoch)
    return epochs.flat_map(epoch_examples).skip(offset)


def _image_and_labels(example, source):
    image = read_image(example)
    size = tf.shape(image)[:2]
    if source.has_masks:
        return image, {"mask": read_mask(example, size)}
    labels = {key: example[key] for key in _PADDING}
    size = tf.cast(size, tf.float32)
    labels["boxes"] = labels["boxes"] * tf.tile(size, [2])
    if "stated_size" in example:  # the image may have been resized since
        stated = tf.cast(example["stated_size"], tf.float32)
        scale = tf.where(tf.reduce_min(stated) > 0.0, size / stated, tf.ones(2))
        labels["areas"] *= tf.reduce_prod(scale)
    return image, labels


def _limited(labels, max_boxes):
    """Ignore the smallest of more than `max_boxes` objects, as doubtful ones."""
    sides = labels["boxes"][:, 2:] - labels["boxes"][:, :2]
    sizes = tf.where(labels["ignore"], -1.0, tf.reduce_prod(sides, axis=1))
    order = tf.argsort(sizes, direction="DESCENDING", stable=True)
    surplus = ~labels["ignore"] & (tf.math.invert_permutation(order) >= max_boxes)
    scores = tf.where(surplus, 0.0, labels["scores"])
    return {**labels, "ignore": labels["ignore"] | surplus, "scores": scores}


def _pad(labels, slots):
    count = tf.shape(labels["boxes"])[0]
    check = tf.debugging.Assert(
        count <= slots,
        ["Expected at most", slots, "boxes on an image, as its source counts them (an "
         "augmentation may drop boxes, not add any). Received:", count],
    )  # fmt: skip
    with tf.control_dependencies([check] if check is not None else []):
        count = tf.identity(count)
    # Row `count` is the padding.
    rows = tf.minimum(tf.range(slots), count)
    padded = {}
    for key, fill in _PADDING.items():
        shape = labels[key].shape[1:]
        padding = tf.fill((1, *shape), tf.cast(fill, labels[key].dtype))
        values = tf.gather(tf.concat([labels[key], padding], axis=0), rows)
        padded[key] = tf.ensure_shape(
            values, (slots if isinstance(slots, int) else None, *shape)
        )
    return padded
