"""Folders in the layout of PASCAL VOC: images, masks and lists of names."""

import collections
import concurrent.futures
import dataclasses
import os
from xml.etree import ElementTree

import numpy as np

from official_selftrain.checks import progress
from official_selftrain.data import examples, ledger, masks
from official_selftrain.data import images as pictures
from official_selftrain.data.images import ENDINGS
from official_selftrain.data.sources import coco_files, mask_lists

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
    image_folder="JPEGImages",
    pixel_range=None,
):
    """Read images with masks from a folder in the layout of PASCAL VOC.

    `ROOT/ImageSets/Segmentation/SPLIT.txt` lists names, `ROOT/JPEGImages/` holds the
    images and `ROOT/SegmentationClass/NAME.png` the masks. A mask's pixels are class
    ids, stored as palette indices or gray values; 255, VOC's border around objects, is
    ignored. Every mask is read once and kept in memory as a compressed PNG (about 3 kB
    each for VOC).

    A line of a list is a name, with or without folders, ending, quotes or the flag of
    a class's list; or an image file and a mask file. Names may have spaces. Of several
    image files of one name, and none chosen by its ending, the first of `ENDINGS` whose
    size is that of the mask is read.

    Args:
        root: str, such as `"VOCdevkit/VOC2012"`.
        split: str, the list: `"train"`, `"val"`, or a custom one; or the path of a
            list, which ends with `.txt`.
        class_names: sequence of str by class id, the background first.
        mask_folder: str, the folder of masks in `root`, such as
            `"SegmentationClassAug"`; None reads the images without labels.
        mask_values: dict of a pixel's value to its class id, such as `{0: 0, 255: 1}`
            for white objects on black, or of its color: `{(0, 0, 0): 0, (128, 0, 0):
            1}`. 255 as class id is unknown. Or the path of a text file with a line
            `name:red,green,blue` per class. None: the values are class ids.
        image_folder: str, the folder of images in `root`.
        pixel_range: as of `examples.with_pixel_range`.

    Returns:
        `examples.Source`; ids number the lines of the list. Its `notes` name classes
        without a pixel, count pixels of other values, whose class is unknown, masks
        that were drawn on the stored pixels of a photograph and turned upright with it,
        images that are listed twice, masks that no list names, and say which of several
        image files of one name were read.

    Raises:
        FileNotFoundError: for a missing folder, list, image or mask.
        ValueError: for an empty list, an image that can't be read or has two masks, a
            mask whose size differs from its image's, masks of the background and
            unknown pixels only, ids that seem to count from 1, or palettes that
            contradict each other while the indices are to be class ids.

    Source: PASCAL VOC's development kit.
    """
    list_path = _list_path(root, split)
    folder = os.path.join(root, image_folder)
    place = None if mask_folder is None else os.path.join(root, mask_folder)
    lists = mask_lists.Lists(folder, place)
    lines = mask_lists.lines_of(list_path)
    if not lines:
        raise ValueError(f"Expected at least one name. Received: {list_path}, empty")
    entries, notes = lists.entries(lines, list_path)
    by_index = mask_values is None
    if isinstance(mask_values, str):
        mask_values = masks.read_palette(mask_values, class_names)

    def record(entry):
        index, image, mask_name = entry
        example = {"path": os.path.join(folder, image), "id": index}
        if place is None:
            return example, None
        path = os.path.join(place, mask_name)
        header = _header(example["path"])
        mask = masks.read_file(path, len(class_names), header, mask_values)
        return {**example, "mask": mask.png}, (path, mask)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        every = pool.map(record, entries)
        read = progress.over(every, len(entries), "masks", "image")
        records, found = zip(*read)
    unlisted = []
    if place is not None:
        if by_index:
            _check_palettes(found, len(class_names))
        unlisted = lists.unlisted(list_path)
        notes = [*_told(found, class_names, place), *notes]
        if unlisted:
            first = os.path.join(place, unlisted[0])
            notes.append(f"masks that no list names: {len(unlisted)} (first: {first})")
    source = examples.from_records(
        records,
        class_names,
        place is not None,
        notes=notes,
        files=[list_path],
        folder=folder,
    )
    source = examples.with_pixel_range(source, pixel_range)
    if place is None:
        return source
    book = ledger.Ledger(len(lines), len(entries) + len(unlisted), "masks")
    book.images.put("twice", len(lines) - len(entries))
    book.labels.put("unlisted", len(unlisted))
    counts = _counts([mask for _, mask in found], class_names, book, list_path)
    return dataclasses.replace(source, account=lambda: (counts, book))


def _list_path(root, split):
    """Return the path of a list."""
    path = os.path.join(root, "ImageSets", "Segmentation", f"{split}.txt")
    path = split if split.endswith(".txt") else path
    if not os.path.isfile(path):
        lists = mask_lists.stems_of(os.path.dirname(path) or os.curdir, (".txt",))
        raise FileNotFoundError(
            f"Expected the list {path}; available lists: "
            f"{', '.join(sorted(lists)) or 'none'}. Received: split={split!r}"
        )
    return path


def _counts(found, class_names, book, list_path):
    """Close the ledger of masks: those with a pixel of known class are taught."""
    places = [mask.ids - {masks.IGNORE_CLASS} for mask in found]
    counts = np.array([(1, len(ids) > 0) for ids in places], np.int64)
    book.labels.put("empty", (counts[:, 1] == 0).sum())
    book.close(list_path, counts)
    with_class = collections.Counter(class_names[k] for ids in places for k in ids)
    book.held.update(with_class)
    book.taught.update(with_class)
    return counts


def _check_palettes(found, count):
    """Check that an index has one color, if the indices are class ids."""
    contradiction = masks.contradiction((path, mask.colors) for path, mask in found)
    if contradiction:
        index, path, color, other, other_color = contradiction
        same = {value: value for value in range(count)}
        raise ValueError(
            "Expected one palette in all masks. Received: index "
            f"{index}, which is {color} in {path}, {other_color} in {other}; "
            "mask_values decides: a dict of colors to class ids, or a file with a line "
            f"name:red,green,blue per class, or {same} if the indices are right"
        )


def _told(found, class_names, place):
    """Check what masks hold; return a line for each thing that the user should know.

    `found` is a list of (path, `masks.FileMask`).
    """
    ids = frozenset().union(*(mask.ids for _, mask in found))
    unknown = collections.Counter()
    for _, mask in found:
        unknown.update(mask.unknown)
    check_ids(ids, unknown, class_names, place)
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


def check_ids(ids, unknown, class_names, place):
    """Check that masks have usable pixels, and ids that don't count from 1.

    Args:
        ids: frozenset of int, the class ids that occur, and 255 if it does.
        unknown: dict of each other value to its number of pixels.
        class_names: sequence of str.
        place: str, the masks, for the message.

    Raises:
        ValueError: if not.
    """
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
    stems = mask_lists.stems_of(folder, (".xml",)) if os.path.isdir(folder) else {}
    if not stems:
        raise FileNotFoundError(f"Expected XML files. Received: annotations={folder!r}")
    found = _found_in(images) if images is not None and os.path.isdir(images) else None
    entries, annotations, held = [], [], 0
    for index, (stem, (name, *_)) in enumerate(stems.items(), start=1):
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
    names, stems = coco_files.FileNames(folder), mask_lists.stems_of(folder, ENDINGS)

    def found(name, stem):
        last = mask_lists.last_part(name)
        if os.path.splitext(last)[0] == stem and names.has(last):
            return last
        if stem in stems:  # a name inside the file may be older than the file's own
            return stems[stem][0]
        place = names.find(name) if name else stem
        if os.path.isfile(os.path.join(folder, place)):
            return place
        return stems.get(os.path.splitext(place)[0], [place])[0]

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


def _header(path):
    header = pictures.header(path)
    if header is None:
        raise ValueError(f"Expected an image. Received: {path}, which can't be read")
    return header
