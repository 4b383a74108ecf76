"""Folders in the layout of PASCAL VOC: images, masks and lists of names."""

import collections
import concurrent.futures
import dataclasses
import os
import re
from xml.etree import ElementTree

import numpy as np

from official_selftrain.checks import progress
from official_selftrain.data import examples, ledger, masks
from official_selftrain.data import images as pictures
from official_selftrain.data.images import ENDINGS
from official_selftrain.data.sources import coco_files

# PASCAL VOC's classes in the order of their ids.
CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def voc(
    root,
    split,
    class_names=CLASS_NAMES,
    mask_folder="SegmentationClass",
    mask_values=None,
):
    """Read images with masks from a folder in the layout of PASCAL VOC.

    `ROOT/ImageSets/Segmentation/SPLIT.txt` lists names without extensions,
    `ROOT/JPEGImages/` holds the images and `ROOT/SegmentationClass/NAME.png` the
    masks. A mask's pixels are class ids, stored as palette indices or gray values;
    255, VOC's border around objects, is ignored. Every mask is read once and kept in
    memory as a compressed PNG (about 3 kB each for VOC).

    Args:
        root: str, such as `"VOCdevkit/VOC2012"`.
        split: str, the list: `"train"`, `"val"`, or a custom one.
        class_names: sequence of str by class id, the background first.
        mask_folder: str, the folder of masks in `root`, such as
            `"SegmentationClassAug"`; None reads the images without labels.
        mask_values: dict of a pixel's value to its class id, such as `{0: 0, 255: 1}`
            for white objects on black, or of its color: `{(0, 0, 0): 0, (128, 0, 0):
            1}`. 255 as class id is unknown. Or the path of a text file with a line
            `name:red,green,blue` per class. None: the values are class ids.

    Returns:
        `examples.Source`; ids number the lines of the list. Its `notes` name classes
        without a pixel, count pixels of other values, whose class is unknown, and masks
        that were drawn on the stored pixels of a photograph and turned upright with it.

    Raises:
        FileNotFoundError: for a missing folder, list, image or mask.
        ValueError: for an empty list, an image that can't be read, a mask whose size
            differs from its image's, masks of the background and unknown pixels only,
            or ids that seem to count from 1.

    Source: PASCAL VOC's development kit.
    """
    list_path = os.path.join(root, "ImageSets", "Segmentation", f"{split}.txt")
    if not os.path.isfile(list_path):
        lists = _stems(os.path.dirname(list_path), (".txt",))
        raise FileNotFoundError(
            f"Expected the list {list_path}; available lists: "
            f"{', '.join(sorted(lists)) or 'none'}. Received: split={split!r}"
        )
    folder = os.path.join(root, "JPEGImages")
    images = _stems(folder, ENDINGS)
    lines = [line.strip() for line in coco_files.read_text(list_path).splitlines()]
    lines = [line for line in lines if line]
    names = [_stem_of(line, images) for line in lines]
    # A line may name one of several files of the same stem.
    listed = {name: _last(line) for name, line in zip(names, lines)}
    present = set(os.listdir(folder))
    images |= {name: file for name, file in listed.items() if file in present}
    if not names:
        raise ValueError(f"Expected at least one name. Received: {list_path}, empty")
    missing = [name for name in names if name not in images]
    if missing:
        raise FileNotFoundError(
            f"Expected every image of {list_path} in {folder}. Received: "
            f"{len(missing)} of {len(names)} missing, first {missing[0]!r}"
        )

    if isinstance(mask_values, str):
        mask_values = masks.read_palette(mask_values, class_names)

    def record(index):
        name = names[index]
        example = {"path": os.path.join(folder, images[name]), "id": index}
        if mask_folder is None:
            return example, None
        path = os.path.join(root, mask_folder, f"{name}.png")
        header = _header(example["path"])
        mask = masks.read_file(path, len(class_names), header, mask_values)
        return {**example, "mask": mask.png}, (path, mask)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        every = pool.map(record, range(len(names)))
        read = progress.over(every, len(names), "masks", "image")
        records, found = zip(*read)
    has_labels, notes = mask_folder is not None, []
    if has_labels:
        place = os.path.join(root, mask_folder)
        notes = _told(found, class_names, place)
    source = examples.from_records(
        records,
        class_names,
        has_labels,
        notes=notes,
        files=[list_path],
        folder=folder,
    )
    if not has_labels:
        return source
    counts, book = _account(lines, [mask for _, mask in found], class_names, list_path)
    return dataclasses.replace(source, account=lambda: (counts, book))


def _account(lines, found, class_names, list_path):
    """Return the account of masks: those with a pixel of known class are taught."""
    places = [mask.ids - {masks.IGNORE_CLASS} for mask in found]
    counts = np.array([(1, len(ids) > 0) for ids in places], np.int64)
    book = ledger.Ledger(len(lines), len(lines), "masks")
    book.labels.put("empty", (counts[:, 1] == 0).sum())
    book.close(list_path, counts)
    with_class = collections.Counter(class_names[k] for ids in places for k in ids)
    book.held.update(with_class)
    book.taught.update(with_class)
    return counts, book


def _stem_of(line, images):
    """Return the name in a line of a list, without the flag of a class's list."""
    for name in (line, re.sub(r"\s-?[01]$", "", line)):
        name = _last(name)
        stem, ending = os.path.splitext(name)
        if ending.lower() in ENDINGS:
            name = stem
        if name in images:
            break
    return name


def _last(path):
    """Return the last part of a path, also one of Windows or in quotes."""
    return path.strip().strip("\"'").replace("\\", "/").rpartition("/")[2]


def _told(found, class_names, place):
    """Check what masks hold; return a line for each thing that the user should know.

    `found` is a list of (path, `masks.FileMask`).
    """
    ids = frozenset().union(*(mask.ids for _, mask in found))
    unknown = collections.Counter()
    for _, mask in found:
        unknown.update(mask.unknown)
    _check_ids(ids, unknown, class_names, place)
    notes = []
    unused = [name for k, name in enumerate(class_names) if k not in ids]
    if unused:
        notes.append(f"classes without a pixel: {len(unused)} ({', '.join(unused)})")
    turned = [path for path, mask in found if mask.is_turned]
    if turned:
        notes.append(
            "masks drawn on the stored pixels of photographs that EXIF data rotate, "
            f"rotated with them: {len(turned)} (first: {turned[0]})"
        )
    strange = [path for path, mask in found if mask.unknown]
    if strange:
        notes.append(
            f"pixels of unknown class: {unknown.total():,} in {len(strange)} mask"
            f"{'s' * (len(strange) > 1)} "
            f"(values {_values(unknown)}; first: {strange[0]})"
        )
    return notes


def _check_ids(ids, unknown, class_names, place):
    """Check that masks have usable pixels, and ids that don't count from 1."""
    last = len(class_names)
    present = ids & set(range(last))
    if present and 0 not in present and list(unknown) == [last]:
        values = {value: value - 1 for value in range(1, last + 1)}
        raise ValueError(
            f"Expected class ids of 0 to {last - 1}. Received: {place}, with values of "
            f"1 to {last}; mask_values={values} if they count from 1, else "
            f"{last}: {masks.IGNORE_CLASS} in it for an unknown class"
        )
    others = {masks.IGNORE_CLASS: 0} if masks.IGNORE_CLASS in ids else {}
    others |= unknown
    if len(present) < 2 and others:
        value = max(others, key=others.get)
        raise ValueError(
            f"Expected masks with pixels of {', '.join(class_names[1:])}. Received: "
            f"{place}, where all others are {_values(others)}, which is no known "
            f"class; mask_values={{0: 0, {value}: 1}} takes {value} for class 1"
        )


def _values(values):
    """Return values as text, at most ten."""
    listed = sorted(values)
    return ", ".join(map(str, listed[:10])) + ", …" * (len(listed) > 10)


def boxes(folder, images=None):
    """Convert the boxes of PASCAL VOC's XML files to the content of a COCO file.

    Classes are sorted by name. `difficult` objects become crowd regions, which are
    ignored in training, as VOC's evaluation ignores them. VOC's pixels count from 1; if
    any file of the folder has a 0, they count from 0 in all of them.

    Args:
        folder: str, the folder of XML files, one per image, such as
            `"VOC2012/Annotations"`.
        images: str or None, the folder of images: an image with the name of the
            XML file, or else the one that the file names.

    Returns:
        dict with `images`, `annotations` and `categories`, to be checked by
        `coco_files.checked`; a box is `[x, y, width, height]` in 0-based pixels, or
        None where the file has none, and so are an image's `height` and `width`. And a
        `ledger.Ledger` of what the files hold.

    Raises:
        FileNotFoundError: if there is no XML file.
        ValueError: for a file in another format.

    Source: PASCAL VOC's development kit.
    """
    stems = _stems(folder, (".xml",)) if os.path.isdir(folder) else {}
    if not stems:
        raise FileNotFoundError(f"Expected XML files. Received: annotations={folder!r}")
    found = _found_in(images) if images is not None and os.path.isdir(images) else None
    entries, annotations, held = [], [], 0
    for index, (stem, name) in enumerate(stems.items(), start=1):
        path = os.path.join(folder, name)
        try:
            root = ElementTree.parse(path).getroot()
            if root.tag.lower() != "annotation":
                raise ValueError(f"<{root.tag}> instead of <annotation>")
            for element in root.iter():
                element.tag = element.tag.lower()
                held += element.tag == "object"
            objects = [_object(item) for item in root.iter("object")]
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            raise ValueError(
                "Expected an XML file of PASCAL VOC: filename, size with width and "
                "height, objects with name and bndbox of xmin, ymin, xmax, ymax. "
                f"Received: {path}: {error}"
            ) from error
        stated = (root.findtext("filename") or "").strip()
        file_name = stated if found is None else found(stated, stem)
        size = {side: root.findtext(f"size/{side}") for side in ("height", "width")}
        file_name = file_name or stem
        named = {"file_name": file_name, "stated_name": stated or file_name}
        entries.append({"id": index, **named, **size})
        annotations += [{"image_id": index, **entry} for entry in objects]
    classes = collections.Counter(entry["name"] for entry in annotations)
    book, names = ledger.Ledger(len(stems), held, classes=classes), sorted(classes)
    given = [entry["corners"] for entry in annotations if entry["corners"]]
    first = 0.0 if any(min(corners) < 1.0 for corners in given) else 1.0
    for number, entry in enumerate(annotations, start=1):
        entry.update(id=number, category_id=names.index(entry.pop("name")) + 1)
        entry["bbox"] = _bbox(entry.pop("corners"), first)
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    return content, book


def _found_in(folder):
    """Return a function of a file's name, and its stem, to its name in a folder."""
    names, stems = coco_files.FileNames(folder), _stems(folder, ENDINGS)

    def found(name, stem):
        last = _last(name)
        if os.path.splitext(last)[0] == stem and names.has(last):
            return last
        if stem in stems:  # a name inside the file may be older than the file's own
            return stems[stem]
        place = names.find(name) if name else stem
        if os.path.isfile(os.path.join(folder, place)):
            return place
        return stems.get(os.path.splitext(place)[0]) or place

    return found


def _object(item):
    """Return the name and corners of an XML object; None for corners it lacks."""
    name = item.findtext("name")
    if not name or not name.strip():
        raise ValueError("an object without a name")
    if len(item.findall("bndbox")) > 1:
        raise ValueError(f"an object {name.strip()} with two boxes")
    sides = [item.findtext(f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax")]
    try:
        corners = [float(side) for side in sides]
    except (TypeError, ValueError):
        corners = None
    is_difficult = item.findtext("difficult", "").strip().lower() in ("1", "true")
    return {"name": name.strip(), "corners": corners, "iscrowd": int(is_difficult)}


def _bbox(corners, first):
    """Return `[x, y, width, height]` of corners that count from `first`."""
    if corners is None:
        return None
    starts, sides = [], []
    for low, high in zip(corners[:2], corners[2:]):
        is_exchanged = high < low
        starts.append(low - first * (not is_exchanged))
        # The last pixel of a box that counts from 1 is part of it.
        sides.append(high - low + first * (-1 if is_exchanged else 1))
    return starts + sides


def _stems(folder, endings):
    """Return a dict from stems to file names, for the given extensions."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"Expected a folder. Received: {folder!r}")
    parts = [(*os.path.splitext(name), name) for name in sorted(os.listdir(folder))]
    # The last of several files with the same stem is used: rather a PNG than a TIFF.
    parts.sort(key=lambda part: part[1].lower() in pictures.COMMON_ENDINGS)
    return {stem: name for stem, ending, name in parts if ending.lower() in endings}


def _header(path):
    header = pictures.header(path)
    if header is None:
        raise ValueError(f"Expected an image. Received: {path}, which can't be read")
    return header
