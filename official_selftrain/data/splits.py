"""Fixed parts of a data set: the 20 % and 50 % of labeled images of a study."""

import dataclasses
import hashlib
import json
import os

import tensorflow as tf

from official_selftrain.files import atomic


def fraction(source, share, seed=0, split_file=None):
    """Return a fixed part of a source.

    Which images it has follows from their ids, `share` and `seed` alone: those of the
    smallest hashes. A smaller share is a part of a larger one.

    Args:
        source: function () → `examples.Source`.
        share: float, above 0 and at most 1.
        seed: int.
        split_file: str or None, a JSON file that keeps the ids: written if it isn't
            there; else its ids are taken and checked.

    Returns:
        `examples.Source`.

    Raises:
        ValueError: for a share out of range, or a file that isn't of this split.

    Source: own; the paper doesn't say how its subsets were drawn.
    """
    if not isinstance(share, (int, float)) or not 0.0 < share <= 1.0:
        raise ValueError(
            f"Expected share above 0 and at most 1. Received: share={share!r}"
        )
    source = source()
    known = {"images": source.num_images, "share": share, "seed": seed}
    if split_file and os.path.exists(split_file):
        ids = _read(split_file, known)
    else:
        numbers = (example["id"] for example in source.dataset)
        ids = chosen(map(int, numbers), share, seed)
        if split_file:
            _write(split_file, known, ids)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(ids, tf.int64), tf.ones(len(ids), tf.int32)
        ),
        default_value=0,
    )
    dataset = source.dataset.filter(lambda example: table[example["id"]] > 0)
    return dataclasses.replace(source, dataset=dataset, num_images=len(ids))


def chosen(ids, share, seed=0):
    """Return the ids of a part, in ascending order.

    Args:
        ids: iterable of int.
        share: float in 0…1.
        seed: int.

    Returns:
        list of int, at least one.
    """
    shuffled = ordered(ids, seed)
    return sorted(shuffled[: max(round(share * len(shuffled)), 1)])


def ordered(ids, seed=0):
    """Return ids in the order of their hashes, which hangs on nothing but the seed.

    Args:
        ids: iterable of int.
        seed: int.

    Returns:
        list of int.
    """

    def place(number):
        return hashlib.sha256(f"{seed} {number}".encode()).digest()

    return sorted(ids, key=place)


def sha256(ids):
    """Return the hash of a list of ids, by which a split file is checked."""
    return hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()


def _write(path, known, ids):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    content = {**known, "sha256": sha256(ids), "ids": ids}
    atomic.write_text(path, json.dumps(content))


def _read(path, known):
    with open(path) as file:
        content = json.load(file)
    found = {key: content.get(key) for key in known}
    if found != known:
        raise ValueError(f"Expected a split of {known}. Received: {path} of {found}")
    if content["sha256"] != sha256(content["ids"]):
        raise ValueError(
            f"Expected ids of the hash {content['sha256']}. Received: {path} with "
            f"{len(content['ids'])} others; remove it to have it made again"
        )
    return content["ids"]
