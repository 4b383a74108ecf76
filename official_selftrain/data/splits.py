"""Fixed subsets of a data set, such as 20 % and 50 % of the labeled images."""

import dataclasses
import hashlib
import json
import os

import tensorflow as tf

from official_selftrain.files import atomic


def fraction(source, share, seed=0, split_file=None):
    """Return a fixed subset of a source.

    The images with the smallest hashes are chosen, so the subset depends only on the
    ids, `share` and `seed`. A smaller subset is contained in a larger one.

    Args:
        source: function () → `examples.Source`.
        share: float, above 0 and at most 1, the fraction of the images.
        seed: int.
        split_file: str or None, a JSON file that stores the ids. It is written if it
            doesn't exist; otherwise its ids are checked and used.

    Returns:
        `examples.Source`.

    Raises:
        ValueError: for `share` out of range, or a file of another split.

    Source: own; the paper doesn't say how its subsets were drawn.
    """
    if not isinstance(share, (int, float)) or not 0.0 < share <= 1.0:
        raise ValueError(
            f"Expected share above 0 and at most 1. Received: share={share!r}"
        )
    source = source()
    settings = {"images": source.num_images, "share": share, "seed": seed}
    if split_file and os.path.exists(split_file):
        ids = _read(split_file, settings)
    else:
        numbers = (example["id"] for example in source.dataset)
        ids = chosen(map(int, numbers), share, seed)
        if split_file:
            _write(split_file, settings, ids)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(ids, tf.int64), tf.ones(len(ids), tf.int32)
        ),
        default_value=0,
    )
    dataset = source.dataset.filter(lambda example: table[example["id"]] > 0)
    return dataclasses.replace(
        source,
        dataset=dataset,
        num_images=len(ids),
        account=lambda: _account(source, dataset, len(ids)),
        is_counted=False,
        fingerprint=lambda: {
            **source.fingerprint(),
            "images": len(ids),
            "fraction": f"{share:g}",
            "ids": sha256(ids),
        },
    )


def _account(source, dataset, count):
    """Return the account of a part of a source: the other images are left out."""
    part = dataclasses.replace(source, dataset=dataset, num_images=count, account=None)
    counts, book = part.box_counts, part.ledger
    book.images.held += source.num_images - count
    book.images.put("part", source.num_images - count)
    return counts, book


def chosen(ids, share, seed=0):
    """Return the ids of a subset in ascending order.

    Args:
        ids: iterable of int.
        share: float in 0…1, the fraction of the ids.
        seed: int.

    Returns:
        list of int, at least one.
    """
    shuffled = ordered(ids, seed)
    return sorted(shuffled[: max(round(share * len(shuffled)), 1)])


def ordered(ids, seed=0):
    """Return ids in the order of their hashes, which depends only on the seed.

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
    """Return the hash of a list of ids, used to check a split file."""
    return hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()


def _write(path, settings, ids):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    content = {**settings, "sha256": sha256(ids), "ids": ids}
    atomic.write_text(path, json.dumps(content))


def _read(path, settings):
    with open(path) as file:
        content = json.load(file)
    stored = {key: content.get(key) for key in settings}
    if stored != settings:
        raise ValueError(
            f"Expected a split of {settings}. Received: {path} of {stored}"
        )
    if content["sha256"] != sha256(content["ids"]):
        raise ValueError(
            f"Expected ids with the hash {content['sha256']}. Received: {path} with "
            f"{len(content['ids'])} different ids; delete it to create it again"
        )
    return content["ids"]
