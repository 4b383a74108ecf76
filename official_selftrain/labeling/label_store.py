"""Write and read a teacher's labels.

A folder of labels holds shards `pseudo-00000-of-00004.tfrecord`, a JSON summary of the
same name for each, `settings.json`, and, once all shards exist, `manifest.json`.
"""

import collections
import contextlib
import dataclasses
import glob as globbing
import itertools
import json
import math
import os
import sys

import numpy as np
import tensorflow as tf

from official_selftrain.checks import progress
from official_selftrain.checks.arguments import check_counts
from official_selftrain.data import (
    examples,
    fingerprints,
    images,
    ledger,
    masks,
    problems,
    sources,
)
from official_selftrain.files import atomic, locks
from official_selftrain.files.run_folder import LabelFolder
from official_selftrain.serving import signatures

_HISTOGRAM_BINS = 20


@dataclasses.dataclass(frozen=True)
class Storage:
    """How labels are stored.

    Attributes:
        shard_size: int, images per shard.
        score_floor: float in 0…1, minimum score of stored boxes.
        max_boxes: int, maximum number of boxes per image, highest scores first; None:
            as many as the teacher finds.
        embed_images: bool, store the images in the shards (upright; rotated ones as
            PNG) instead of their paths. Images that aren't files are always stored.

    Raises:
        ValueError: for a `score_floor` outside 0…1, or counts below 1.
    """

    shard_size: int = 500
    score_floor: float = 0.05
    max_boxes: int | None = None
    embed_images: bool = False

    def __post_init__(self):
        if not 0.0 <= self.score_floor <= 1.0:
            raise ValueError(
                f"Expected score_floor in 0…1. Received: score_floor={self.score_floor}"
            )
        check_counts(shard_size=self.shard_size)
        if self.max_boxes is not None:
            check_counts(max_boxes=self.max_boxes)


@dataclasses.dataclass(frozen=True)
class Worker:
    """One of several workers that share the shards.

    Attributes:
        index: int in 0…count - 1.
        count: int, number of workers.

    Raises:
        ValueError: for an index out of range.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"Expected worker_index of 0 to worker_count - 1 = {self.count - 1}. "
                f"Received: worker_index={self.index}"
            )


def write(
    teacher,
    source,
    output_dir,
    storage=Storage(),
    batch_size=16,
    worker=Worker(),
    settings=None,
    on_images=None,
):
    """Label images and write the labels as TFRecord shards.

    Boxes are stored with their scores and masks with their confidence, so a threshold
    can be chosen when the labels are read. Memory use doesn't depend on the number of
    images. Images that can't be read, or that the teacher refuses, are skipped and
    listed in the manifest. Shards are written atomically. A second call keeps existing
    shards and writes the missing ones, byte for byte as an uninterrupted run would.

    Args:
        teacher: `teachers.Teacher`.
        source: `examples.Source`; its labels, if any, are ignored.
        output_dir: str.
        storage: `Storage`.
        batch_size: int.
        worker: `Worker` whose shards are written.
        settings: dict, what else to record, such as the place of the images.
        on_images: function (count), called when images are done, instead of showing a
            progress bar.

    Returns:
        dict, the manifest; None while other workers' shards are missing.
        `class_names`, `has_masks`, `images` (total), `labeled` (of these), `boxes`,
        `boxes_per_image`, `empty_images` (without a stored box), `score_histogram`
        (counts in 20 bins over 0…1; for masks, of pixels), `class_histogram` (by name),
        `boxes_per_image_histogram` (images by their number of boxes), `shards`,
        `skipped` (a line for each skipped image), `ledger` (where the teacher's boxes
        went) and `settings`.

    Raises:
        ValueError: if `output_dir` holds labels made from something else or is in use
            by another process, or if the teacher refuses every image of a batch.

    Source: own; file and feature names of the TF Model Garden.
    """
    names = teacher.class_names
    described = teacher.origin, names, teacher.has_masks, source, storage, batch_size
    settings = {**settings_of(*described), **(settings or {})}
    with _alone(output_dir, worker):
        _claim(output_dir, settings)
        _write(teacher, source, output_dir, storage, batch_size, worker, on_images)
        num_shards = math.ceil(source.num_images / storage.shard_size)
        return _finish(output_dir, source, num_shards, settings, teacher.left_out)


@contextlib.contextmanager
def _alone(output_dir, worker):
    """Lock the folder; several workers share it, but not a worker's index."""
    is_shared = worker.count > 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(locks.claimed(output_dir, is_shared))
        if is_shared:
            name = f"lock-{worker.index}-of-{worker.count}"
            stack.enter_context(locks.claimed(output_dir, name=name))
        yield


def _write(teacher, source, output_dir, storage, batch_size, worker, on_images):
    """Write a worker's missing shards."""
    num_shards = math.ceil(source.num_images / storage.shard_size)
    own = range(worker.index, num_shards, worker.count)
    counts = {
        shard: min(storage.shard_size, source.num_images - shard * storage.shard_size)
        for shard in own
    }
    bases = {shard: _base(output_dir, shard, num_shards) for shard in own}
    kept = [n for n in own if os.path.exists(bases[n] + ".tfrecord")]
    pending = [n for n in own if n not in kept]
    with _progress(sum(counts.values()), on_images) as advance:
        for shard in kept:
            advance(counts[shard])
        shards = _labeled(teacher, source, pending, storage.shard_size, batch_size)
        for shard, labels in shards:
            _write_shard(bases[shard], teacher, labels, storage, advance)


def settings_of(origin, class_names, has_masks, source, storage, batch_size):
    """Return what a folder of labels is made from.

    Args:
        origin: dict, as in `teachers.Teacher`.
        class_names: sequence of str.
        has_masks: bool.
        source: `examples.Source`.
        storage: `Storage`.
        batch_size: int.

    Returns:
        dict for JSON.
    """
    settings = {
        "version": sys.modules["official_selftrain"].__version__,
        "teacher": origin,
        "class_names": class_names,
        "has_masks": has_masks,
        "source": source.fingerprint(),
        "batch_size": batch_size,
        **dataclasses.asdict(storage),
    }
    return json.loads(json.dumps(settings))


def changes(before, now):
    """Say how the settings of a folder of labels differ; places don't count.

    Args:
        before: dict, as returned by `settings_of`.
        now: dict, as returned by `settings_of`.

    Returns:
        list of str, empty if they are equal.
    """
    texts = []
    if "source" in before:  # not by earlier versions
        texts += fingerprints.told("unlabeled", before["source"], now["source"])
    flat = [_flat(settings) for settings in (before, now)]
    for name in sorted({*flat[0], *flat[1]}):
        was, value = (settings.get(name) for settings in flat)
        if was != value:
            texts.append(f"{name}={value!r}, was {was!r}")
    return texts


def _flat(settings):
    """Return the settings that count, those of the teacher as `teacher.NAME`."""
    ignored = ("source", "images", "image_dir", "num_images", "teacher")
    flat = {key: value for key, value in settings.items() if key not in ignored}
    for key, value in settings["teacher"].items():
        if key != "path":
            flat[f"teacher.{key}"] = value
    return flat


def read(output_dir, class_names=None):
    """Read the labels written by `write`, with all scores.

    Args:
        output_dir: str.
        class_names: sequence of str, the student's classes in order, or None for the
            teacher's.

    Returns:
        `examples.Source`.

    Raises:
        FileNotFoundError: if the labels aren't complete.
        ValueError: if the labels have different classes.
    """
    manifest = read_manifest(output_dir)
    names = manifest["class_names"]
    wanted = names if class_names is None else list(class_names)
    if sorted(names) != sorted(wanted):
        raise ValueError(
            f"Expected pseudo-labels of the classes {wanted}. Received: {output_dir} "
            f"of {names}"
        )
    if manifest["has_masks"] and names != wanted:
        raise ValueError(
            f"Expected masks whose classes are in the order {wanted}. Received: "
            f"{output_dir} of {names}"
        )
    return sources.tfrecord(
        LabelFolder(output_dir).shard_pattern,
        wanted,
        [names.index(name) + 1 for name in wanted],
        has_labels=False,
        has_masks=manifest["has_masks"],
    )


def read_manifest(output_dir):
    """Return the manifest of a folder of labels.

    Raises:
        FileNotFoundError: if the labels aren't complete.
        ValueError: if a shard is missing.
    """
    path = LabelFolder(output_dir).manifest
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"Expected {path}. Make it with the stage pseudo_labels: "
            "python -m official_selftrain.train … --stages=pseudo_labels, or with "
            "python -m official_selftrain.pseudo_label"
        )
    with open(path) as file:
        manifest = json.load(file)
    found = len(LabelFolder(output_dir).shards)
    if found != manifest.get("shards", found):
        raise ValueError(
            f"Expected {manifest['shards']} shards in {output_dir}. Received: {found}; "
            "label again to make the missing ones"
        )
    return manifest


@contextlib.contextmanager
def _progress(total, on_images):
    """Yield `on_images`, or the update function of a progress bar."""
    if on_images is not None:
        yield on_images
        return
    with progress.bar(total, "pseudo_labels", "image") as bar:
        yield bar.update


def _labeled(teacher, source, shards, shard_size, batch_size):
    """Yield each shard with an iterator of its examples, sizes and labels.

    For images that can't be labeled, a str with the reason replaces the labels.
    """
    # One pass for all shards: a pass per shard would read all previous images again.
    pending = np.zeros(math.ceil(source.num_images / shard_size), bool)
    pending[shards] = True
    pending = tf.constant(pending)
    stream = source.dataset.enumerate().filter(
        lambda position, _: pending[position // shard_size]
    )
    items = _prepared(teacher, source, stream)
    for shard, group in itertools.groupby(items, lambda item: item[0] // shard_size):
        yield int(shard), _label_in_batches(teacher, group, batch_size)


def _prepared(teacher, source, stream):
    """Yield positions, examples and the teacher's prepared inputs.

    For images that can't be read, a str with the reason replaces the inputs.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(position, example):
        image = examples.read_image(example)
        item = teacher.prepare(example, image)
        return position, {**item, "size": tf.shape(image)[:2]}

    # Unreadable images are dropped here and detected by their position.
    prepared = stream.map(prepare, tf.data.AUTOTUNE, deterministic=True)
    prepared = iter(prepared.ignore_errors().prefetch(tf.data.AUTOTUNE))
    plain = dataclasses.replace(source, has_masks=False)
    ready = next(prepared, None)
    for position, example in stream.as_numpy_iterator():
        if ready is not None and int(ready[0]) == position:
            yield position, example, ready[1]
            ready = next(prepared, None)
        else:
            reason = problems.problem(example, plain)
            if reason is None:
                prepare(position, example)  # raises the actual error
                reason = "can't be prepared"
            yield position, example, reason


def _label_in_batches(teacher, items, batch_size):
    while batch := list(itertools.islice(items, batch_size)):
        yield from _label(teacher, [(example, item) for _, example, item in batch])


def _label(teacher, batch):
    items = [item for _, item in batch if not isinstance(item, str)]
    try:
        labels = teacher.label(items) if items else []
    except signatures.Refused as error:
        labels = [_label_alone(teacher, item) for item in items]
        if len(items) > 1 and all(isinstance(of_one, str) for of_one in labels):
            raise error
    labels = iter(labels)
    for example, item in batch:
        if isinstance(item, str):
            yield example, None, item
        else:
            yield example, item["size"].numpy(), next(labels)


def _label_alone(teacher, item):
    try:
        return teacher.label([item])[0]
    except signatures.Refused as error:
        return f"the teacher refuses it: {error}"


def _write_shard(base, teacher, labeled, storage, advance):
    """Write a shard and its summary, from an iterator of `_labeled`."""
    summary = _Summary(teacher)
    with atomic.replacing(base + ".tfrecord", shared=True) as partial:
        with tf.io.TFRecordWriter(partial) as writer:
            for example, size, labels in labeled:
                advance(1)
                if isinstance(labels, str):
                    summary.skipped.append(f"{problems.name(example)}: {labels}")
                    continue
                if not teacher.has_masks:
                    labels = _cleaned(labels, size, storage, summary.book)
                summary.add(labels)
                record = _image_record(example, storage.embed_images)
                writer.write(examples.serialize({**record, **labels}, *size))
        atomic.write_json(base + ".json", summary.content(), shared=True)


def _cleaned(labels, size, storage, book):
    """Return boxes as stored: normalized, clipped and sorted by score.

    What isn't stored is put into the `ledger.Account`.
    """
    limits = np.float32([*size, *size])
    # NaN becomes a box without area.
    pixels = np.nan_to_num(np.asarray(labels["boxes"], np.float32).reshape(-1, 4))
    boxes = np.clip(pixels, 0.0, limits) / limits
    scores = np.asarray(labels["scores"], np.float32)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    kept = has_area & (scores >= storage.score_floor)
    order = np.argsort(-scores[kept], kind="stable")[: storage.max_boxes]
    book.held += len(boxes)
    book.put("outside", (~has_area).sum())
    book.put("low", (has_area & ~kept).sum())
    book.put("surplus", kept.sum() - len(order))
    boxes, scores = boxes[kept][order], np.minimum(scores[kept][order], 1.0)
    return {
        "boxes": boxes,
        "scores": scores,
        "classes": np.asarray(labels["classes"], np.int32)[kept][order],
        "ignore": np.zeros(len(boxes), bool),
        "areas": ((boxes[:, 2:] - boxes[:, :2]) * limits[:2]).prod(axis=1),
    }


def _image_record(example, embed_images):
    keys = ("encoded", "path", "id", "pixel_range")
    record = {key: example[key] for key in keys if key in example}
    if example["encoded"] or embed_images:
        contents = example["encoded"]
        if not contents:
            contents = tf.io.read_file(example["path"]).numpy()
        is_turned = images.EXIF in contents and images.orientation(contents) > 1
        if is_turned or images.needs_pillow(contents):
            limits = record.get("pixel_range")  # without effect on 8 bits
            contents = tf.io.encode_png(images.decode_file(contents, limits)).numpy()
        record["encoded"] = contents
    return record


class _Summary:
    """Counts over the labels of a shard."""

    def __init__(self, teacher):
        self.skipped = []
        # Of the boxes that the teacher gave.
        self.book = ledger.Account("boxes")
        self._boxes_per_image = collections.Counter()
        self._scores = np.zeros(_HISTOGRAM_BINS, np.int64)
        self._classes = np.zeros(256, np.int64)
        self._names = teacher.class_names

    def add(self, labels):
        if "mask" in labels:
            mask = masks.decode(labels["mask"]).numpy().ravel()
            values = masks.decode(labels["confidence"]).numpy() / 255.0
            self._boxes_per_image[0] += 1
        else:
            mask, values = labels["classes"], labels["scores"]
            self._boxes_per_image[len(mask)] += 1
        self._scores += np.histogram(values, _HISTOGRAM_BINS, (0.0, 1.0))[0]
        counts = np.bincount(mask, minlength=256)
        if len(counts) > len(self._classes):
            self._classes = np.pad(self._classes, (0, len(counts) - len(self._classes)))
        self._classes[: len(counts)] += counts

    def content(self):
        counts = np.pad(self._classes, (0, len(self._names)))
        return {
            "score_histogram": self._scores.tolist(),
            "class_histogram": counts[: len(self._names)].tolist(),
            "boxes_per_image_histogram": dict(sorted(self._boxes_per_image.items())),
            "skipped": self.skipped,
            "given": self.book.held,
            "left_out": dict(self.book.went),
        }


def _finish(output_dir, source, num_shards, settings, left_out):
    """Write the manifest once every shard exists."""
    bases = [_base(output_dir, shard, num_shards) for shard in range(num_shards)]
    if not all(os.path.exists(base + ".tfrecord") for base in bases):
        return None
    scores, classes, boxes, skipped = 0, 0, collections.Counter(), []
    book = ledger.Ledger(source.num_images + len(source.skipped))
    for base in bases:
        with open(base + ".json") as file:
            summary = json.load(file)
        if book and "given" in summary:
            book.labels.add(ledger.Account("boxes", summary["given"]))
            book.labels.went.update(summary["left_out"])
        else:  # a shard of an earlier version
            book = None
        scores += np.array(summary["score_histogram"])
        classes += np.array(summary["class_histogram"])
        for number, count in summary["boxes_per_image_histogram"].items():
            boxes[int(number)] += count
        skipped += summary["skipped"]
    labeled = sum(boxes.values())
    num_boxes = sum(number * count for number, count in boxes.items())
    manifest = {
        "class_names": settings["class_names"],
        "has_masks": settings["has_masks"],
        "images": source.num_images + len(source.skipped),
        "labeled": labeled,
        "boxes": num_boxes,
        "boxes_per_image": num_boxes / max(labeled, 1),
        "empty_images": boxes[0],
        "score_histogram": scores.tolist(),
        "class_histogram": dict(zip(settings["class_names"], classes.tolist())),
        "boxes_per_image_histogram": dict(sorted(boxes.items())),
        "shards": num_shards,
        "skipped": [*source.skipped, *skipped],
        "settings": {**settings, "source": _without_items(settings["source"])},
    }
    manifest = json.loads(json.dumps(manifest))
    if labeled == 0:
        raise ValueError(
            "Expected at least one readable image. Received: "
            f"{manifest['skipped'][0]} ({len(manifest['skipped'])} skipped)"
        )
    if book is not None:
        book.labels.held += sum(left_out.values())
        book.labels.went.update(left_out)
        book.images.put("unreadable", len(manifest["skipped"]))
        manifest["ledger"] = _closed(book, boxes, manifest["has_masks"]).content()
    atomic.write_json(LabelFolder(output_dir).manifest, manifest, shared=True)
    for path in globbing.glob(os.path.join(globbing.escape(output_dir), "*.partial")):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    return manifest


def _closed(book, boxes, has_masks):
    """Return the closed ledger of labels, given the images by number of boxes."""
    numbers = np.repeat([*boxes], [*boxes.values()])
    if has_masks:
        numbers = np.ones(len(numbers), np.int64)
        book.labels = ledger.Account("masks", len(numbers))
    return book.close("the teacher's answers", np.stack([numbers, numbers], axis=1))


def _without_items(fingerprint):
    return {key: value for key, value in fingerprint.items() if key != "items"}


def _claim(output_dir, settings):
    """Record the settings, or check that they match those of an earlier run."""
    os.makedirs(output_dir, exist_ok=True)
    path = LabelFolder(output_dir).settings
    if not os.path.exists(path) and LabelFolder(output_dir).shards:
        raise FileNotFoundError(
            f"Expected {path}, what the shards beside it were made from. Received: "
            "none; choose another output_dir"
        )
    if not os.path.exists(path):
        atomic.write_json(path, settings, shared=True)
    texts = changes(atomic.read_json(path), settings)
    if texts:
        raise ValueError(
            f"Expected what {output_dir} was made from. Received: {'; '.join(texts)}; "
            "choose another output_dir"
        )


def _base(output_dir, shard, num_shards):
    return os.path.join(output_dir, f"pseudo-{shard:05d}-of-{num_shards:05d}")
