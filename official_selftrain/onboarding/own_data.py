"""Read custom images and boxes.

Problems are reported, and unusable data is left out; the files themselves are never
changed. Boxes here are COCO's `[x, y, width, height]` in pixels, as in the files.
"""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import re

import numpy as np
import tensorflow as tf

from official_selftrain.checks import progress
from official_selftrain.data import (
    copies,
    images,
    inspection,
    ledger,
    problems,
    sources,
    splits,
)
from official_selftrain.data.sources import coco_files, tool_files
from official_selftrain.files import hashes
from official_selftrain.geometry import array_boxes

_FOREIGN_ENDINGS = (".avif", ".heic", ".heif", ".jxl", ".jp2")

# The fraction of labeled images held out for validation.
_HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True)
class Places:
    """The locations of images and boxes.

    Args:
        images: str, the folder of the labeled images, or a tuple of as many as
            annotations; or a folder laid out like PASCAL VOC's, with masks.
        annotations: str, a file or folder that `tool_files.read` knows, or a tuple;
            None: the labels are masks.
        unlabeled: str, a folder or glob of unlabeled images.
        validation_images: str, the folder of the validation images; None: `images`.
        validation_annotations: str, like `annotations`; None: validation images are
            held out from the labeled ones.
        split_by: str, what is kept together when they are, as in `groups`.
        find_copies: bool; False: only the same files are the same image, not copies in
            another format.
        masks: str, the folder of the images' masks; None: boxes, or VOC's layout.
        classes: str, the classes of masks, as in `own_masks.read`; or None.
        pixel_range: (low, high), as of `examples.with_pixel_range`, or None.
    """

    images: str | tuple
    annotations: str | tuple | None
    unlabeled: str
    validation_images: str | None = None
    validation_annotations: str | None = None
    split_by: str = "auto"
    find_copies: bool = True
    masks: str | None = None
    classes: str | None = None
    pixel_range: tuple | None = None

    @property
    def has_masks(self):
        """Whether the labels are masks instead of boxes."""
        return self.annotations is None

    @property
    def folder(self):
        """The folder that contains all labeled images."""
        if self.has_masks and self.masks is None:
            return os.path.join(self.images, "JPEGImages")
        return coco_files.root(self.images)

    @property
    def mask_folder(self):
        """The folder of masks, or None."""
        if self.has_masks and self.masks is None:
            return os.path.join(self.images, "SegmentationClass")
        return self.masks

    @property
    def validation_folder(self):
        """The folder of the validation images."""
        return self.validation_images or self.folder


def read(
    annotations, folder, categories=None, labeled=copies.NOTHING, pixel_range=None
):
    """Read labeled images, leaving out unusable images and boxes.

    Args:
        annotations: str, a file or folder that `tool_files.read` knows, or a tuple.
        folder: str, the folder of the images, or a tuple of as many.
        categories: list of COCO's category entries, or None for the file's own. They
            are matched by name; boxes of other classes are left out.
        labeled: `copies.Looks` of images to exclude, also if they were renamed or saved
            in another format.
        pixel_range: (low, high), as of `examples.with_pixel_range`, or None.

    Returns:
        `(content, findings)`: a COCO file's content with the usable images and boxes
        and the classes that have boxes; `inspection.Findings`, whose `looks` are the
        usable images'.

    Raises:
        FileNotFoundError: for a missing file or folder.
        ValueError: for a file that isn't COCO, boxes that are normalized or corners, a
            duplicate category name, or if no box is left.

    Source: own.
    """
    for place in folder if isinstance(folder, (list, tuple)) else [folder]:
        if not os.path.isdir(place):
            raise FileNotFoundError(
                f"Expected a folder of images. Received: images={place!r}"
            )
    content, findings = tool_files.read(annotations, folder)
    folder = coco_files.root(folder)
    for kind in ("wrong", "absent"):
        findings[kind] = [m.split("Received: ", 1)[1] for m in findings[kind]]
    names = {c["id"]: c["name"] for c in content["categories"]}
    rows = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        rows[annotation["image_id"]].append(annotation)
    sizes, twins = usable_images(
        paths(content, folder),
        labeled,
        findings,
        [(image["height"], image["width"]) for image in content["images"]],
        pixel_range,
    )
    _settle(content["images"], sizes, twins, rows, findings.ledger)
    kept = [content["images"][index] for index in sizes]
    boxes = [
        box
        for image in kept
        for box in _usable_boxes(image, rows[image["id"]], names, findings)
    ]
    if categories is None:
        boxes, categories = _with_used_categories(boxes, names, content, findings)
    else:
        boxes = _with_categories(boxes, names, categories, findings)
    content = {"images": kept, "annotations": boxes, "categories": categories}
    if not objects(content):
        raise ValueError(
            f"Expected at least one box on a readable image. Received: {annotations}"
            f"{_listed(findings)}"
        )
    coco_files.close(findings.ledger, content, annotations)
    return content, findings


def _settle(entries, sizes, twins, rows, book):
    """Join the boxes of twins, leave out those of unusable images, resize the others.

    Args:
        entries: list of dicts, the images.
        sizes, twins: as returned by `usable_images`.
        rows: dict of image id to its annotations; they are changed.
        book: `ledger.Ledger`.
    """
    for index, original in twins.items():
        _join(entries[index], entries[original], rows)
    for index, image in enumerate(entries):
        if index in sizes:
            _resize(image, rows[image["id"]], sizes[index])
        elif index not in twins:
            book.labels.leave_out("image", rows[image["id"]])


def _join(image, other, rows):
    """Move the annotations of an image to another one with the same bytes."""
    ratio = np.divide(
        (other["width"], other["height"]), (image["width"], image["height"])
    )
    for annotation in rows[image["id"]]:
        bbox = np.multiply(annotation["bbox"], np.tile(ratio, 2)).tolist()
        rows[other["id"]].append({**annotation, "image_id": other["id"], "bbox": bbox})


def _resize(image, annotations, size):
    """Make boxes fit an image that was resized after it was labeled."""
    scale = np.divide(size, (image["height"], image["width"]))[::-1]
    image["height"], image["width"] = size
    if np.all(scale == 1.0):
        return
    for annotation in annotations:
        sides = np.multiply(annotation["bbox"], np.tile(scale, 2))
        annotation["bbox"] = sides.tolist()
        annotation["area"] = annotation.get("area", 0.0) * float(scale.prod())
        annotation.pop("segmentation", None)  # in pixels of the other size


def _with_used_categories(annotations, names, content, findings):
    """Return the annotations and categories of the classes that have a box."""
    used = {a["category_id"] for a in objects({"annotations": annotations})}
    findings["unused"] = [name for key, name in names.items() if key not in used]
    # A region is ignored whatever its class, which must be one that is left.
    some = min(used, default=None)
    return (
        [
            a if a["category_id"] in used else {**a, "category_id": some}
            for a in annotations
        ],
        [c for c in content["categories"] if c["id"] in used],
    )


def _with_categories(annotations, names, categories, findings):
    """Return annotations with the ids of `categories`, matched by name."""
    ids = {category["name"]: category["id"] for category in categories}
    kept = []
    for annotation in annotations:
        name = names[annotation["category_id"]]
        if name in ids or annotation.get("iscrowd"):
            category_id = ids.get(name, categories[0]["id"])
            kept.append({**annotation, "category_id": category_id})
        else:
            findings["unknown"].append(name)
            findings.ledger.labels.leave_out("unknown", [annotation])
    return kept


def usable_images(files, labeled, findings, stated=None, pixel_range=None):
    """Find the images that are readable, unique and of the stated size.

    Their looks are stored in the findings.

    Args:
        files: list of str, their paths.
        labeled: `copies.Looks` of images to exclude.
        findings: `inspection.Findings`, to which problems of the other images are
            added.
        stated: list of (height, width), or None.
        pixel_range: (low, high), as of `examples.with_pixel_range`, or None.

    Returns:
        `(usable, twins)`: dict of index in `files` to (height, width); dict of the
        index of a copy to that of the usable image with the same bytes.
    """
    seen, usable, twins, thumbnails = {}, {}, {}, []
    known = dict(zip(labeled.digests, labeled.paths))

    def leave_out(kind, line):
        findings[kind].append(line)
        findings.ledger.images.put(kind)

    for index, (path, (size, look)) in enumerate(
        zip(files, _looks(files, pixel_range))
    ):
        if not os.path.exists(path):
            leave_out("missing", path)
        elif size is None or stated and None in stated[index]:
            reason = look if size is None else "its size can't be read"
            leave_out("unreadable", f"{path}: {reason}")
        elif stated and not images.is_resized(size, stated[index]):
            contents = tf.io.read_file(path)
            advice = images.contradiction(size, stated[index], contents)
            text = f"{_misstated(size, stated[index])} {advice.numpy().decode()}"
            leave_out("size", f"{path}: {text}")
        elif (digest := hashes.sha256(path)) in known:
            leave_out("labeled", f"{path} is {known[digest]}")
        elif digest in seen:
            leave_out("double", path)
            twins[index] = seen[digest]
        else:
            seen[digest] = index
            usable[index] = size
            thumbnails.append(look)
            if stated and size != stated[index]:
                findings["resized"].append(f"{path}: {_misstated(size, stated[index])}")
    if usable:
        looks = copies.Looks(
            [files[index] for index in usable],
            np.stack(thumbnails),
            list(seen),
        )
        _leave_out_lookalikes(usable, looks, labeled, findings)
    return usable, twins


def _leave_out_lookalikes(usable, looks, labeled, findings):
    """Leave out images that look like labeled ones; store the looks of the others."""
    found = copies.matches(looks, labeled)
    for index, path, place in zip(list(usable), looks.paths, found):
        if place >= 0:
            findings["labeled"].append(f"{path} looks like {labeled.paths[place]}")
            findings.ledger.images.put("labeled")
            del usable[index]
    findings.looks = looks.part([k for k, place in enumerate(found) if place < 0])


def _misstated(size, stated):
    return f"{size[1]} x {size[0]}, stated {stated[1]} x {stated[0]}"


def _looks(paths, pixel_range):
    """Decode image files; return (height, width) and thumbnail, or None and why not."""

    def look(path):
        try:
            contents = tf.io.read_file(path)
            pixels = images.decode_file(contents, pixel_range).numpy()
        except tf.errors.OpError as error:
            return None, problems.reason(error)
        return pixels.shape[:2], copies.thumbnail(pixels)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(look, paths)
        return list(progress.over(looks, len(paths), "images", "image"))


def _usable_boxes(image, annotations, names, findings):
    kept, single, boxes = [], [], []
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        where = (
            f"{image['file_name']}: {names[annotation['category_id']]} "
            f"{[round(float(value), 2) for value in annotation['bbox']]}"
        )
        is_crowd = bool(annotation.get("iscrowd"))
        whole = inspection.SAME_PLACE * image["width"] * image["height"]
        if width * height >= whole and not is_crowd:
            findings["whole"].append(where)
        if is_crowd:
            if ledger.STANDS_FOR not in annotation:  # not a region of our own
                findings["crowd"].append(where)
            kept.append(annotation)
            continue
        box = (y, x, y + height, x + width)
        overlap = array_boxes.iou(np.array([box]), np.reshape(boxes, (-1, 4)))[0]
        double = next(
            (single[i] for i in np.flatnonzero(overlap >= inspection.SAME_PLACE)), None
        )
        if double and double["category_id"] == annotation["category_id"]:
            findings["repeated"].append(where)
            findings.ledger.labels.leave_out("repeated", [annotation])
            continue
        if double:
            other = names[double["category_id"]]
            findings["contradictory"].append(f"{where} and {other}")
        bbox = [float(value) for value in annotation["bbox"]]
        boxes.append(box)
        single.append({**annotation, "bbox": bbox})
        kept.append(single[-1])
    return kept


def _listed(findings):
    return "".join(f"; {line}" for line in inspection.summary(findings))


def objects(content):
    """Return the annotations that aren't crowds."""
    return [a for a in content["annotations"] if not a.get("iscrowd")]


def paths(content, folder):
    """Return the paths of a COCO file's images."""
    return [os.path.join(folder, image["file_name"]) for image in content["images"]]


def read_unlabeled(folder, labeled, masks=None, pixel_range=None):
    """List the readable unlabeled images that aren't among the labeled ones.

    Files with the same bytes are the same image, and so are labeled ones that were
    renamed or saved in another format.

    Args:
        folder: str, a folder or glob.
        labeled: `copies.Looks` of the labeled images.
        masks: str, a folder in it to leave out, that of the labeled images' masks, or
            None.
        pixel_range: (low, high), as of `examples.with_pixel_range`, or None.

    Returns:
        `(content, findings)`: the content of a COCO file without labels, whose file
        names are relative to `root(folder)`; dict of a name from `inspection.KINDS`
        to list of str.

    Raises:
        FileNotFoundError: if there is no image.
        ValueError: if none is left.
    """
    try:
        source = sources.folder(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Expected a folder or glob with images ({', '.join(images.ENDINGS)}). "
            f"Received: unlabeled={folder!r}"
        ) from error
    files = [e["path"].decode() for e in source.dataset.as_numpy_iterator()]
    findings = inspection.Findings(source.ledger.reopened())
    findings["unreadable"] += source.skipped
    findings["foreign"] += _foreign_files(folder)
    findings["masks"] = [path for path in files if masks and _is_in(path, masks)]
    findings.ledger.images.put("foreign", len(findings["masks"]))
    files = [path for path in files if path not in set(findings["masks"])]
    sizes, _ = usable_images(files, labeled, findings, pixel_range=pixel_range)
    start = root(folder)
    entries = [
        {
            "id": number,
            "file_name": os.path.relpath(files[index], start),
            "height": height,
            "width": width,
        }
        for number, (index, (height, width)) in enumerate(sizes.items(), 1)
    ]
    if not entries:
        raise ValueError(
            "Expected a readable image that isn't labeled. Received: "
            f"unlabeled={folder!r}{_listed(findings)}"
        )
    findings.ledger.close(folder, np.zeros((len(entries), 2)), has_labels=False)
    return {"images": entries}, findings


def _is_in(path, folder):
    return pathlib.Path(folder).resolve() in pathlib.Path(path).resolve().parents


def root(images):
    """Return the folder that contains all images of a folder or glob.

    Args:
        images: str, a folder or glob.
    """
    while not os.path.isdir(images):
        images = os.path.dirname(images) or os.curdir
    return images


def _foreign_files(folder):
    return [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in sorted(names)
        if name.lower().endswith(_FOREIGN_ENDINGS)
        and not name.lower().endswith(images.ENDINGS)
    ]


def groups(content, looks, split_by="auto"):
    """Group images that belong on one side of a split.

    Args:
        content: dict, a COCO file's content.
        looks: `copies.Looks` of its images.
        split_by: str: `"auto"` keeps copies and the frames of a clip together (see
            `copies.groups`), `"image"` nothing, `"folder"` the images of a folder;
            anything else is a regular expression whose first group, or the whole of
            it, names an image's group. The latter two keep copies together, too.

    Returns:
        dict of image id to a name or number of its group.

    Raises:
        ValueError: for an expression that is invalid or fits no part of a file name,
            or if all images are in one group.
    """
    names = {image["id"]: image["file_name"] for image in content["images"]}
    if split_by == "image":
        return {number: number for number in names}
    if split_by == "auto":
        return dict(zip(names, copies.groups(list(names.values()), looks)))
    if split_by == "folder":
        found = {number: os.path.dirname(name) for number, name in names.items()}
    else:
        found = {number: _group(name, split_by) for number, name in names.items()}
    if len(set(found.values())) < 2:
        raise ValueError(
            "Expected images of at least two groups, one of them for validation. "
            f"Received: split_by={split_by!r}, with which all {len(names)} are in one"
        )
    # Copies stay together, also those in several groups.
    same = copies.matches(looks, looks, before=True)
    pairs = [(index, int(k)) for index, k in enumerate(same) if k >= 0]
    return dict(zip(names, copies.joined(found.values(), pairs)))


def _group(name, expression):
    try:
        found = re.search(expression, name)
    except re.error as error:
        raise ValueError(
            "Expected split_by, auto, image, folder or a regular expression. Received: "
            f"split_by={expression!r}: {error}"
        ) from None
    if found is None:
        raise ValueError(
            f"Expected split_by to fit every file name. Received: "
            f"split_by={expression!r}, {name!r}"
        )
    return found[1] if found.re.groups else found[0]


def hold_out(content, seed=0, group_of=None):
    """Split labeled images into training and validation.

    A fifth is held out, at least one image. Every class keeps at least one training
    image. Groups stay together: if none is small enough, the smallest is held out; of
    a single one, the end.

    Args:
        content: dict, a COCO file's content.
        seed: int.
        group_of: dict of image id to its group, as returned by `groups`; None: each
            image is one of its own.

    Returns:
        `(training, validation)`, contents of COCO files with the same categories.

    Raises:
        ValueError: if no image can be held out.
    """
    classes = {image["id"]: set() for image in content["images"]}
    for annotation in objects(content):
        classes[annotation["image_id"]].add(annotation["category_id"])
    members = collections.defaultdict(list)
    for number in classes:
        members[group_of[number] if group_of else number].append(number)
    count = max(round(_HELD_OUT * len(classes)), 1)
    if len(members) == 1 and len(classes) > 1:
        (only,) = members.values()
        names = {image["id"]: image["file_name"] for image in content["images"]}
        only.sort(key=names.get)
        members = {"start": only[:-count], "end": only[-count:]}
    first = {numbers[0]: numbers for numbers in members.values()}
    order = [first[number] for number in splits.ordered(first, seed)]
    chosen = _chosen(order, classes, count)
    if not chosen:
        raise ValueError(
            "Expected every class on two images, one of them for validation. "
            f"Received: {len(classes)} images, none of which can be held out; set "
            "validation_annotations (boxes), or list them in ImageSets/Segmentation/"
            "val.txt (masks)"
        )

    return divided(content, chosen)


def divided(content, chosen):
    """Divide labeled images into training and validation.

    Args:
        content: dict, a COCO file's content.
        chosen: set of the ids of the validation images.

    Returns:
        `(training, validation)`, contents of COCO files with the same categories.

    Raises:
        ValueError: if one of them is empty.
    """

    def part(is_in):
        return {
            "images": [i for i in content["images"] if is_in(i["id"])],
            "annotations": [a for a in content["annotations"] if is_in(a["image_id"])],
            "categories": content["categories"],
        }

    parts = part(lambda key: key not in chosen), part(lambda key: key in chosen)
    if not all(content["images"] for content in parts):
        raise ValueError(
            "Expected usable images to train on and to validate. Received: "
            f"{len(parts[0]['images'])} and {len(parts[1]['images'])}"
        )
    return parts


def _chosen(order, classes, count):
    """Return the images to hold out: groups in the given order, up to a count.

    Args:
        order: list of lists of image ids, the groups.
        classes: dict of image id to the set of its classes.
        count: int.

    Returns:
        set of image ids; empty if every group is needed for training.
    """
    left = collections.Counter(key for keys in classes.values() for key in keys)
    chosen = set()

    def can_be_held_out(group):
        lost = collections.Counter(key for number in group for key in classes[number])
        return lost and all(left[key] > lost[key] for key in lost)

    for group in order:
        if len(chosen) + len(group) <= count and can_be_held_out(group):
            chosen.update(group)
            left.subtract(key for number in group for key in classes[number])
    if not chosen:
        fitting = [group for group in order if can_be_held_out(group)]
        chosen.update(min(fitting, key=len, default=()))
    return chosen
