"""Results of other tools as a teacher: COCO results, a list or a whole COCO file.

What the numbers of a file mean is decided once, over the whole file, before a label is
stored: which image and which class an id is, the form of the boxes and the scale of the
scores. Names decide where there are any, since every tool has its own numbering. What
can be read in more than one way is refused.
"""

import collections
import dataclasses
import os

import numpy as np
import tensorflow as tf

from official_selftrain.data import images as image_files
from official_selftrain.data.sources import coco_files
from official_selftrain.files import hashes
from official_selftrain.labeling import answers, teachers

SCORE_SCALES = (1, 100)

_FIELDS = ("image_id", "category_id", "bbox")

# A score in half precision may be a little over 1.
_ABOVE_ONE = 1.001

# Fractions can exceed 1 where a box reaches beyond the image.
_MAX_FRACTION = 2.0

# Detectors may not clip their boxes: up to this fraction of them may extend beyond
# their image, and all but a few by little.
_FEW_BEYOND, _FAR, _FEW_FAR = 0.1, 0.25, 0.02
# Boxes have another form if this fraction of them fits in it.
_MOST = 0.9


def results_teacher(
    path, images, source, stated=None, box_format="xywh", score_scale=1
):
    """Create a teacher from results that another tool has written.

    Images are matched by their file names if the file lists its images, if a result
    has a `file_name`, or if `image_id` is a name (with or without folders, or without
    its ending); otherwise by their ids. Classes are matched by the names of the file's
    own categories if it has any.

    Args:
        path: str, JSON: a list of `image_id`, `category_id`, `bbox` and `score`; or a
            COCO file with such `annotations`.
        images: str, the images to label, as named in `pools.open_pool`; a `.json` has
            the classes that its ids name.
        source: `examples.Source` of these images.
        stated: `answers.Classes` as stated, or None.
        box_format: str, one of `answers.BOX_FORMATS` but `"auto"`.
        score_scale: int, the score of a sure box: 1, or 100 for percent.

    Returns:
        `teachers.Teacher`; its note tells how the file is read.

    Raises:
        FileNotFoundError: if nothing names the classes.
        ValueError: for another format; for ids, boxes or scores that don't match the
            images, or can be read in several ways.

    Source: format of cocodataset.org; own.
    """
    content = coco_files.parsed(path)
    results = _results(content, path)
    scores = _scores(results, score_scale, path)
    bboxes = _bboxes(results, path)
    pool = _pool(images, source)
    own = content if isinstance(content, dict) else {}
    found, matched_by = _matched(own, results, pool, path)
    # Ids may have more digits than floats.
    places = {number: place for place, number in enumerate(pool.paths)}
    owners = np.array([places.get(number, -1) for number in found])
    names, class_ids, named_by = _classes(own, stated, pool, path)
    labels = [
        _class(result["category_id"], class_ids, names, path) for result in results
    ]
    rows = np.column_stack([owners, labels, bboxes, scores]).reshape(-1, 7)
    _, kept = np.unique(rows, axis=0, return_index=True)
    rows, is_outside = rows[np.sort(kept)], owners < 0
    note = _note(results, is_outside, len(kept), (matched_by, named_by))
    rows = rows[rows[:, 0] >= 0]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    _check_boxes(rows[:, 2:6], _limits(rows, pool), box_format, path)

    def label(items):
        return [
            _labels(rows, places.get(int(item["id"])), item["size"], box_format)
            for item in items
        ]

    origin = {
        "kind": "results",
        "path": str(path),
        "sha256": hashes.sha256(path),
        "matched_by": matched_by,
        "class_ids": [[str(key), index] for key, index in class_ids.items()],
        "box_format": box_format,
        "score_scale": score_scale,
    }
    note += f"; boxes as {box_format}; scores of 0 to {score_scale}"
    repeated = len(results) - len(kept)
    left_out = {"repeated": repeated, "unlisted": len(kept) - len(rows)}
    teacher = teachers.Teacher(_prepare, label, names, False, origin, (note,))
    return dataclasses.replace(teacher, left_out=left_out)


def _prepare(example, image):
    return {"id": example["id"]}


def _labels(rows, place, size, box_format):
    """Return an image's labels, as `Teacher.label` does."""
    place = -1 if place is None else place
    start, end = np.searchsorted(rows[:, 0], [place, place + 1])
    own = rows[start:end]
    boxes = answers.corners(own[:, 2:6], box_format, size.numpy().astype(np.float64))
    return {
        "boxes": boxes.astype(np.float32),
        "scores": own[:, 6].astype(np.float32),
        "classes": own[:, 1].astype(np.int32),
    }


def _results(content, path):
    """Return a file's results; check that they have the fields."""
    results = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(results, list):
        raise ValueError(f"Expected a list of COCO results. Received: {path}")
    for index, result in enumerate(results):
        is_entry = isinstance(result, dict)
        if not is_entry or any(field not in result for field in _FIELDS):
            raise ValueError(
                "Expected image_id, category_id, bbox of four numbers and score. "
                f"Received: result {index} in {path}: {str(result)[:80]}"
            )
        if "score" not in result:
            raise ValueError(
                "Expected a score in every result. Received: none in result "
                f"{index} in {path}: {str(result)[:80]}; annotations without scores "
                "are human labels, to train on as labeled images"
            )
        if result.get("iscrowd") not in (None, 0, "0", False):
            raise ValueError(
                f"Expected results, each of one object. Received: result {index} in "
                f"{path} with iscrowd={result['iscrowd']!r}; leave out crowds"
            )
    return results


def _bboxes(results, path):
    """Return the boxes as they stand in the file, float64 `[n, 4]`."""
    bboxes, _ = coco_files.quadruples([result["bbox"] for result in results])
    wrong = np.flatnonzero(~np.isfinite(bboxes).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"Expected bbox of four finite numbers. Received: result {wrong[0]} in "
            f"{path} with bbox={str(results[wrong[0]]['bbox'])[:80]} "
            f"({len(wrong)} of {len(results)})"
        )
    return bboxes


def _scores(results, scale, path):
    """Return the scores as float64 `[n]` in 0…1."""
    numbers = [coco_files.number_of(result["score"]) for result in results]
    scores = np.array(numbers, np.float64)  # None becomes NaN
    wrong = np.flatnonzero(
        ~np.isfinite(scores) | (scores < 0.0) | (scores > _ABOVE_ONE * scale)
    )
    if len(wrong):
        value = results[wrong[0]]["score"]
        advice = ""
        if scale == 1 and ((scores >= 0.0) & (scores <= 100.0)).all():
            value, advice = scores.max(), "; for percent state --score_scale=100"
        elif (scores < 0.0).any():
            advice = "; write probabilities instead of logits"
        raise ValueError(
            f"Expected scores of 0 to {scale}. Received: {path} with score="
            f"{value!s:.40} ({len(wrong)} of {len(results)} outside){advice}"
        )
    if scale != 1 and len(scores) and scores.max() <= _ABOVE_ONE:
        raise ValueError(
            f"Expected scores in percent, as score_scale={scale} says. Received: "
            f"{path}, none above {scores.max():g}; leave out --score_scale"
        )
    return np.minimum(scores / scale, 1.0)


def _entries(content, kind):
    """Return the entries of a list in a COCO file that have an id."""
    entries = content.get(kind)
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and "id" in entry]


def _named(content):
    """Return a dict of id to name of a COCO file's categories, by ascending id."""
    named = {
        coco_files.key_of(entry["id"]): entry["name"].strip()
        for entry in _entries(content, "categories")
        if isinstance(entry.get("name"), str) and entry["name"].strip()
    }
    named.pop(None, None)
    return dict(sorted(named.items(), key=lambda item: (type(item[0]) is str, item)))


def _classes(own, stated, pool, path):
    """Return the names, a dict of category id to index, and what names the ids.

    The names have the order of those that are stated, or of the images' file, if all
    of the file's own are among them.
    """
    named, of_pool = _named(own), pool.categories
    if named:
        names = tuple(dict.fromkeys(named.values()))
        wanted = stated.names if stated else tuple(dict.fromkeys(of_pool.values()))
        others = [name for name in names if name not in wanted]
        if stated and others:
            raise ValueError(
                f"Expected the classes of --labels, {list(wanted)}. Received: {path} "
                f"with categories of its own: {others}; leave out --labels"
            )
        names = names if others else wanted
        ids = {key: names.index(name) for key, name in named.items()}
        return names, ids, "its own categories"
    if stated:
        return stated.names, stated.ids(answers.RESULTS), "--labels"
    if of_pool:
        names = tuple(dict.fromkeys(of_pool.values()))
        ids = {key: names.index(name) for key, name in of_pool.items()}
        return names, ids, "the images' categories"
    raise FileNotFoundError(
        "Expected the teacher's class names, --labels=FILE. Received: labels=None, and "
        f"no categories in {path} or {pool.title}"
    )


def _class(value, class_ids, names, path):
    """Return the class index of a category id; its name is an id, too."""
    key = coco_files.key_of(value)
    if key not in class_ids and key in names:
        return names.index(key)
    teachers.check_class_id(key, class_ids, names)
    return class_ids[key]


@dataclasses.dataclass(frozen=True)
class _Pool:
    """What identifies the images to be labeled.

    Attributes:
        title: str, their name in messages.
        paths: dict of an example's id to the path of its image, or "".
        sizes: dict of an example's id to the stated height and width, 0 if unknown.
        numbers: dict of an id in the images' file to the example's.
        categories: dict of category id to name, of the images' file.
    """

    title: str
    paths: dict
    sizes: dict
    numbers: dict
    categories: dict

    def size(self, image_id):
        """Return an image's height and width, or None."""
        height, width = self.sizes[image_id]
        if min(height, width) >= 1:
            return height, width
        path = self.paths[image_id]
        return image_files.upright_size(path) if path else None


def _pool(images, source):
    def described(example):
        size = example.get("stated_size", tf.zeros(2, tf.int32))
        return example["id"], example["path"], size

    paths, sizes = {}, {}
    batches = source.dataset.map(described, tf.data.AUTOTUNE).batch(4096)
    for ids, names, stated in batches.as_numpy_iterator():
        paths |= zip(ids.tolist(), (name.decode() for name in names.tolist()))
        sizes |= zip(ids.tolist(), map(tuple, stated.tolist()))
    numbers, categories = {}, {}
    if images.endswith(".json"):
        content = coco_files.parsed(images)
        findings = collections.defaultdict(list)
        numbers = coco_files.numbered(content["images"], "images", images, findings)
        numbers = {key: number for key, number in numbers.items() if number in paths}
        categories = _named(content)
    elif ".tfrecord" in os.path.basename(images):
        numbers = {number: number for number in paths}
    return _Pool(images, paths, sizes, numbers, categories)


def _matched(own, results, pool, path):
    """Return the example's id of every result, None outside the pool, and by what."""
    values = [result["image_id"] for result in results]
    keys = [coco_files.key_of(value) for value in values]
    if None in keys:
        index = keys.index(None)
        raise ValueError(
            "Expected image_id, a number or text. Received: result "
            f"{index} in {path} with image_id={values[index]!r}"
        )
    listed = {
        coco_files.key_of(entry["id"]): entry for entry in _entries(own, "images")
    }
    names = {
        key: entry["file_name"]
        for key, entry in listed.items()
        if isinstance(entry.get("file_name"), str)
    }
    for key, result in zip(keys, results) if not names else ():
        if isinstance(result.get("file_name"), str):
            if names.setdefault(key, result["file_name"]) != result["file_name"]:
                raise ValueError(
                    f"Expected one file_name of an image_id. Received: {path} with "
                    f"{names[key]!r} and {result['file_name']!r} of {key!r}"
                )
    index = _index(pool.paths)
    if names and index:
        found = {key: _find(names.get(key), index, path) for key in dict.fromkeys(keys)}
        found = _nearest(found, names, pool)
        matched_by = "file name" + _moved(found, names, pool)
    else:
        found, matched_by = _by_id(dict(zip(keys, values)), index, pool, path)
    found = {key: number for key, number in found.items() if number is not None}
    if keys and not found:
        _refuse_all(names.get(keys[0], values[0]), pool, path)
    _check_images(found, listed, pool, path)
    return [found.get(key) for key in keys], matched_by


def _refuse_all(value, pool, path):
    """Raise the error for results none of which is of an image to label."""
    if not pool.numbers and type(value) is not str:
        raise ValueError(
            "Expected images with the ids that the results name, a COCO .json or "
            ".tfrecord files, or results that name files. Received: "
            f"images={pool.title!r}, image_id={value!r} in {path}"
        )
    some = next((path for path in pool.paths.values() if path), None)
    some = some or next(iter(pool.paths))
    raise ValueError(
        f"Expected results of the images to label, such as {some!r}. Received: "
        f"{path} with {value!r}, and no image of {pool.title}"
    )


def _index(paths):
    """Return a dict of every file name, and its stem, to the parts and ids of paths."""
    index = collections.defaultdict(list)
    for number, path in paths.items():
        *folders, name = coco_files.parts_of(path) or [""]
        for ending in {name, name.rpartition(".")[0]} - {""}:
            index[ending].append(([*folders, ending], number))
    return index


def _find(name, index, path):
    """Return the id of the image whose path ends most like a name, or None."""
    parts = coco_files.parts_of(name) if name else ()
    candidates = index.get(parts[-1], ()) if parts else ()
    lengths = [_common(parts, others) for others, _ in candidates]
    best = [k for k, length in enumerate(lengths) if length == max(lengths)]
    if len(best) > 1:
        both = " and ".join("/".join(candidates[k][0]) for k in best[:2])
        raise ValueError(
            f"Expected names of one image each. Received: {path} with {name!r}, which "
            f"may be {both}; name their folders and endings"
        )
    return candidates[best[0]][1] if best else None


def _nearest(found, names, pool):
    """Return matches without those whose folder differs where another one's doesn't."""
    right = {
        number
        for key, number in found.items()
        if number is not None and not _is_moved(names.get(key), number, pool)
    }
    return {
        key: None
        if number in right and _is_moved(names.get(key), number, pool)
        else number
        for key, number in found.items()
    }


def _is_moved(name, number, pool):
    """Return whether the folder in a name isn't that of an image."""
    paths = name or "", pool.paths[number]
    folders = [coco_files.parts_of(path)[:-1] for path in paths]
    return all(folders) and folders[0][-1] != folders[1][-1]


def _moved(found, names, pool):
    """Return what the user is told of names whose folders differ from the images'."""
    moved = [
        f"{names[key]} is {pool.paths[number]}"
        for key, number in found.items()
        if number is not None and _is_moved(names.get(key), number, pool)
    ]
    if not moved:
        return ""
    return f" ({len(moved):,} in other folders, such as {moved[0]})"


def _common(parts, others):
    """Return how many parts two paths have in common, from their ends."""
    count = 0
    for one, other in zip(reversed(parts), reversed(others)):
        if one != other:
            break
        count += 1
    return count


def _by_id(values, index, pool, path):
    """Return a dict of key to example's id or None, and by what they are matched.

    A text may be a name, and so may a number if all of them are.
    """
    is_text = any(type(value) is str for value in values.values())
    by_id = {key: pool.numbers.get(key) for key in values}
    if is_text:
        named = (value if type(value) is str else None for value in values.values())
        by_name = dict(zip(values, (_find(name, index, path) for name in named)))
    else:
        by_name = _by_number(values, pool)
    is_complete = None not in by_id.values()
    for key, number in by_name.items():
        is_either = is_text or is_complete
        if is_either and None not in (number, by_id[key]) and number != by_id[key]:
            raise ValueError(
                f"Expected image_id that is an id or a name. Received: {values[key]!r} "
                f"in {path}, the id of {pool.paths[by_id[key]]!r} and the name of "
                f"{pool.paths[number]!r}; write a file_name into every result"
            )
    by_name = {key: number for key, number in by_name.items() if number is not None}
    if by_name and not is_complete:
        return {**by_id, **by_name}, "file name"
    _check_start(by_id, pool, path)
    return by_id, "id"


def _by_number(keys, pool):
    """Return a dict of numbers to the ids of the images whose names they are.

    Empty if some are no names, or if all would be others' after counting from another
    start.
    """
    stems = collections.defaultdict(list)
    for number, path in pool.paths.items():
        stem = (coco_files.parts_of(path) or [""])[-1].rpartition(".")[0]
        if stem.isdecimal():
            stems[int(stem)].append(number)
    starts = [
        shift for shift in (-1, 0, 1) if all(key + shift in stems for key in keys)
    ]
    if starts != [0] or any(len(stems[key]) > 1 for key in keys):
        return {}
    return {key: stems[key][0] for key in keys}


def _check_start(found, pool, path):
    """Refuse ids that match better when all of them are shifted by one."""
    matched = sum(number is not None for number in found.values())
    for shift in (1, -1) if matched < len(found) else ():
        shifted = sum(type(key) is int and key + shift in pool.numbers for key in found)
        is_from_zero = shift == 1 and found.get(0, 0) is None and shifted >= matched
        if shifted == len(found) or (is_from_zero and shifted):
            missing = next(key for key, number in found.items() if number is None)
            raise ValueError(
                f"Expected the image ids of {pool.title}. Received: {path} with "
                f"image_id={missing}, while {shifted} of {len(found)} ids are there "
                f"with {shift:+d}: counted from another start? Write its ids, or file "
                "names"
            )


def _check_images(found, listed, pool, path):
    """Check that no two images are one, and that they have the sizes of the pool's."""
    owners = {}
    for key, number in found.items():
        if owners.setdefault(number, key) != key:
            raise ValueError(
                f"Expected results of different images. Received: {path} with "
                f"{owners[number]!r} and {key!r}, both {pool.paths[number]!r}"
            )
        entry = listed.get(key, {})
        stated = [coco_files.number_of(entry.get(side)) for side in ("height", "width")]
        if None in stated or not min(stated) >= 1.0:
            continue
        size = pool.size(number)
        if size and tuple(stated) != tuple(size):
            raise ValueError(
                f"Expected results of the images to label, in their size. Received: "
                f"{path} with {stated[0]:g} x {stated[1]:g} (height x width) of "
                f"{entry.get('file_name', key)!r}, whose image has {size[0]} x "
                f"{size[1]}; scale the boxes, and correct the size"
            )


def _limits(rows, pool):
    """Return height and width of every row's image, infinite where unknown."""
    numbers = list(pool.paths)
    sizes = {place: pool.size(numbers[int(place)]) for place in np.unique(rows[:, 0])}
    sizes = {place: size or (np.inf, np.inf) for place, size in sizes.items()}
    return np.array([sizes[place] for place in rows[:, 0]], np.float64).reshape(-1, 2)


def _check_boxes(values, limits, box_format, path):
    """Refuse boxes that are of another form than `box_format` says."""
    if not len(values):
        return
    if box_format.startswith("rel_"):
        if np.abs(values).max() > _MAX_FRACTION:
            raise ValueError(
                f"Expected fractions, as box_format={box_format} says. Received: "
                f"{path} with a coordinate of {np.abs(values).max():g}"
            )
        limits = np.where(np.isfinite(limits), limits, 1.0)
    boxes = answers.corners(values, box_format, limits)
    advice = "; state their form with --box_format"
    bboxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    try:
        coco_files.check_units(
            bboxes[:, [1, 0, 3, 2]], limits[:, ::-1], np.ones(len(boxes), bool), path
        )
    except ValueError as error:
        raise ValueError(f"{error}{advice}, such as rel_xywh or xyxy") from None
    fitting = _fit(boxes, limits)
    text = (
        f"Received: {path}: {(~fitting).sum()} of {len(boxes)} boxes, read as "
        f"{box_format}, extend beyond their image or have their ends before their "
        f"starts (first: {values[~fitting][:1].round(2).tolist()})"
    )
    if 1.0 - fitting.mean() > _FEW_BEYOND and (~fitting).sum() > 2:
        better = _better_format(values, limits, box_format)
        if better:
            raise ValueError(
                f"Expected boxes in their images. {text}, but most fit as "
                f"{better}{advice}={better}"
            )
    beyond = np.maximum(-boxes, boxes - np.tile(limits, 2)).max(axis=1)
    is_wrong = beyond > np.maximum(_FAR * limits.max(axis=1), 2.0)
    is_wrong |= (boxes[:, 2:] < boxes[:, :2] - 1.0).any(axis=1)
    if is_wrong.mean() > _FEW_FAR:
        raise ValueError(
            f"Expected boxes in their images. {text}: results of other images, or of "
            "another size?"
        )


def _fit(boxes, limits):
    """Return which boxes have an order of corners, and lie in their image."""
    is_inside = (boxes >= -1.0) & (boxes <= np.tile(limits, 2) + 1.0)
    return is_inside.all(axis=1) & (boxes[:, 2:] >= boxes[:, :2] - 1.0).all(axis=1)


def _better_format(values, limits, box_format):
    """Return the format of the same units in which most boxes fit, or None."""
    is_fraction = box_format.startswith("rel_")
    fractions = {
        name: _fit(answers.corners(values, name, limits), limits).mean()
        for name in answers.BOX_FORMATS[1:]
        if name.startswith("rel_") == is_fraction and name != box_format
    }
    best = max(fractions, key=fractions.get)
    return best if fractions[best] > _MOST else None


def _note(results, is_outside, kept, texts):
    """Return what the user is told about the matching."""
    matched_by, named_by = texts
    images = {str(r["image_id"]) for r, out in zip(results, is_outside) if not out}
    note = (
        f"results of {len(images):,} images, matched by {matched_by}; classes by "
        f"{named_by}"
    )
    if is_outside.any():
        others = {str(r["image_id"]) for r, out in zip(results, is_outside) if out}
        note += (
            f"; {is_outside.sum():,} results of {len(others):,} images that aren't to "
            "be labeled, left out"
        )
    if len(results) > kept:
        note += f"; {len(results) - kept:,} duplicate results, left out"
    return note
