"""Folders in the layout of PASCAL VOC: images, masks and lists of names."""

import concurrent.futures
import os
from xml.etree import ElementTree

from PIL import Image, UnidentifiedImageError

from official_selftrain.data import examples, masks
from official_selftrain.data.images import ENDINGS

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


def voc(root, split, class_names=CLASS_NAMES, mask_folder="SegmentationClass"):
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

    Returns:
        `examples.Source`; ids number the lines of the list.

    Raises:
        FileNotFoundError: for a missing folder, list, image or mask.
        ValueError: for an empty list, an image that can't be read, a mask whose size
            differs from its image's, or class ids out of range.

    Source: PASCAL VOC's development kit.
    """
    list_path = os.path.join(root, "ImageSets", "Segmentation", f"{split}.txt")
    if not os.path.isfile(list_path):
        lists = _stems(os.path.dirname(list_path), (".txt",))
        raise FileNotFoundError(
            f"Expected the list {list_path}; available lists: "
            f"{', '.join(sorted(lists)) or 'none'}. Received: split={split!r}"
        )
    with open(list_path) as file:
        # A class's list has a 1 or -1 after each name.
        names = [line.split()[0] for line in file if line.strip()]
    if not names:
        raise ValueError(f"Expected at least one name. Received: {list_path}, empty")
    folder = os.path.join(root, "JPEGImages")
    images = _stems(folder, ENDINGS)
    missing = [name for name in names if name not in images]
    if missing:
        raise FileNotFoundError(
            f"Expected every image of {list_path} in {folder}. Received: "
            f"{len(missing)} of {len(names)} missing, first {missing[0]!r}"
        )

    def record(index):
        name = names[index]
        example = {"path": os.path.join(folder, images[name]), "id": index}
        if mask_folder is not None:
            example["mask"] = masks.read_file(
                os.path.join(root, mask_folder, f"{name}.png"),
                len(class_names),
                _size(example["path"]),
            )
        return example

    with concurrent.futures.ThreadPoolExecutor() as pool:
        records = list(pool.map(record, range(len(names))))
    return examples.from_records(records, class_names, mask_folder is not None)


def boxes(folder):
    """Convert the boxes of PASCAL VOC's XML files to the content of a COCO file.

    Classes are sorted by name. `difficult` objects become crowd regions, which are
    ignored in training, as VOC's evaluation ignores them.

    Args:
        folder: str, the folder of XML files, one per image, such as
            `"VOC2012/Annotations"`.

    Returns:
        dict with `images`, `annotations` and `categories`; a box is `[x, y, width,
        height]` in 0-based pixels, where the XML files are 1-based.

    Raises:
        FileNotFoundError: if there is no XML file.
        ValueError: for a file in another format.

    Source: PASCAL VOC's development kit.
    """
    stems = _stems(folder, (".xml",)) if os.path.isdir(folder) else {}
    if not stems:
        raise FileNotFoundError(f"Expected XML files. Received: annotations={folder!r}")
    images, annotations = [], []
    for index, name in enumerate(stems.values(), start=1):
        path = os.path.join(folder, name)
        try:
            image, objects = _read_xml(path)
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                "Expected an XML file of PASCAL VOC: filename, size with width and "
                "height, objects with name and bndbox of xmin, ymin, xmax, ymax. "
                f"Received: {path}: {error}"
            ) from error
        images.append({"id": index, **image})
        annotations += [{"image_id": index, **entry} for entry in objects]
    names = sorted({entry["name"] for entry in annotations})
    for number, entry in enumerate(annotations, start=1):
        entry.update(id=number, category_id=names.index(entry.pop("name")) + 1)
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _read_xml(path):
    """Return an XML file's image and objects."""
    root = ElementTree.parse(path).getroot()
    size = root.find("size")
    image = {
        "file_name": root.find("filename").text,
        "height": int(size.find("height").text),
        "width": int(size.find("width").text),
    }
    objects = []
    for item in root.findall("object"):
        box = item.find("bndbox")
        left, top, right, bottom = (
            float(box.find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        bbox = [left - 1.0, top - 1.0, right - left + 1.0, bottom - top + 1.0]
        difficult = item.findtext("difficult", "0").strip() == "1"
        name = item.find("name").text
        objects.append({"name": name, "bbox": bbox, "iscrowd": int(difficult)})
    return image, objects


def _stems(folder, endings):
    """Return a dict from stems to file names, for the given extensions."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"Expected a folder. Received: {folder!r}")
    parts = [(*os.path.splitext(name), name) for name in sorted(os.listdir(folder))]
    return {stem: name for stem, ending, name in parts if ending.lower() in endings}


def _size(path):
    try:
        with Image.open(path) as image:
            return image.size[::-1]
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"Expected an image. Received: {path}: {error}") from error
