"""Fingerprints of sources: they are equal if images and labels are.

A fingerprint is a dict for JSON. `title` and `annotations` describe the source; what
else it holds is compared:

| key | meaning |
|---|---|
| `title` | the source in a few characters, such as the annotation file's name |
| `annotations` | SHA-256 of each annotation file by name |
| `images` | number of images |
| `objects` | number of boxes, those to ignore included |
| `classes` | the classes' names in order |
| `sha256` | hash of the images' names and sizes in bytes, and of their labels |
| `items` | size and hash of the labels by image name; for up to 10,000 images |

Names are relative to the images' folder, so that data may be moved. Images are never
opened: one that is replaced by another of the same size isn't noticed.
"""

import concurrent.futures
import hashlib
import os

import numpy as np

from official_selftrain.files import hashes

_MOST_ITEMS = 10_000
_LABELS = ("boxes", "classes", "scores", "ignore", "areas")


def of_examples(pictures, labels, counts, class_names, files=(), folder=None):
    """Return the fingerprint of examples in memory.

    Args:
        pictures: dict of arrays with an item per image: `encoded`, `path`, `id`,
            `mask`, `confidence`, optionally `stated_size`.
        labels: dict of arrays with a row per box: `boxes`, `classes`, `scores`,
            `ignore`, `areas`; empty for images without labels.
        counts: int `[n]`, the images' numbers of boxes.
        class_names: sequence of str.
        files: sequence of str, paths of the annotation files.
        folder: str or None, the images' folder; None: the one that contains all.

    Returns:
        dict, as described above.

    Raises:
        OSError: if an image's file is missing.
    """
    names, sizes = _names_and_sizes(pictures, folder)
    rows = np.concatenate(
        [_bytes_of_rows(labels[key]) for key in _LABELS if key in labels], axis=1
    )
    ends = np.cumsum(counts)
    digest, items = hashlib.sha256(), {}
    for index, (name, size) in enumerate(zip(names, sizes)):
        content = rows[ends[index] - counts[index] : ends[index]].tobytes()
        content += pictures["mask"][index] + pictures["confidence"][index]
        if "stated_size" in pictures:
            content += pictures["stated_size"][index].tobytes()
        of_labels = hashlib.sha256(content).hexdigest()[:16]
        digest.update(f"{name} {size} {of_labels}\n".encode())
        if len(names) <= _MOST_ITEMS:
            items[name] = [size, of_labels]
    return {
        "title": ", ".join(map(_base, files)),
        "annotations": {_base(path): hashes.sha256(path) for path in files},
        "images": len(names),
        "objects": int(np.sum(counts)),
        "classes": list(class_names),
        "sha256": digest.hexdigest(),
        "items": items,
    }


def _base(path):
    return os.path.basename(os.path.normpath(path))


def _bytes_of_rows(values):
    values = np.ascontiguousarray(values)
    width = values.itemsize * int(np.prod(values.shape[1:]))
    return values.view(np.uint8).reshape(len(values), width)


def _names_and_sizes(pictures, folder):
    """Return the images' names, and their sizes in bytes."""
    paths = [path.decode() for path in pictures["path"]]
    used = [path for path in paths if path]
    if folder is None:
        folders = {os.path.dirname(os.path.abspath(path)) for path in used}
        folder = os.path.commonpath(folders) if folders else "."
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sizes = iter(list(pool.map(os.path.getsize, used)))
    named = []
    for path, encoded, number in zip(paths, pictures["encoded"], pictures["id"]):
        if path:
            named.append((os.path.relpath(path, folder), next(sizes)))
        else:
            content = hashlib.sha256(encoded).hexdigest()[:16]
            named.append((f"id {number}", f"{len(encoded)} {content}"))
    return zip(*named)


def change(before, now):
    """Say how a source differs from what it was.

    Args:
        before: dict, a fingerprint.
        now: dict, a fingerprint.

    Returns:
        str, such as `"12 images more (first: a.jpg)"`; empty if they are equal.
    """
    described = ("title", "annotations", "items")
    keys = [key for key in {**before, **now} if key not in described]
    different = [key for key in keys if before.get(key) != now.get(key)]
    if not different:
        return ""
    texts = _of_items(before.get("items") or {}, now.get("items") or {})
    if "images" in different and not any("image" in text for text in texts):
        texts.insert(0, _more(now.get("images", 0) - before.get("images", 0), "image"))
    if "classes" in different:
        texts.append(f"classes {_list(now)}, were {_list(before)}")
    if not texts and "objects" in different:
        more = now.get("objects", 0) - before.get("objects", 0)
        texts.append(_more(more, "object"))
    for key in different:
        if key not in ("images", "objects", "classes", "sha256"):
            texts.append(f"{key} {now.get(key)}, was {before.get(key)}")
    return ", ".join(texts) or "other images or labels"


def told(name, before, now):
    """Return the line that says how a source differs, in a list; none if it doesn't.

    Args:
        name: str, what the source is to an experiment.
        before: dict, a fingerprint.
        now: dict, a fingerprint.
    """
    text, title = change(before, now), now.get("title")
    return [f"{name}{f' ({title})' if title else ''}: {text}"] if text else []


def _list(fingerprint):
    names = fingerprint.get("classes") or ["none"]
    return "/".join(names[:10]) + "/…" * (len(names) > 10)


def _more(count, noun):
    plural = "s" * (abs(count) != 1)
    return f"{abs(count)} {noun}{plural} {'more' if count > 0 else 'fewer'}"


def _of_items(before, now):
    """Return what changed image by image, if every image is listed."""
    if not before or not now:
        return []
    both = [name for name in now if name in before]
    new = [name for name in now if name not in before]
    gone = [name for name in before if name not in now]
    texts = [
        f"{len(names)} image{'s' * (len(names) > 1)} {text} (first: {names[0]})"
        for names, text in (
            (new, "more"),
            (gone, "fewer"),
            ([n for n in both if before[n][0] != now[n][0]], "replaced"),
            ([n for n in both if before[n][1] != now[n][1]], "labeled differently"),
        )
        if names
    ]
    is_ordered = list(before) == list(now)
    return texts if texts or is_ordered else ["the images in another order"]
