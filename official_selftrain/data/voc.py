"""Folders laid out as PASCAL VOC's: images, masks and lists of names."""

import concurrent.futures
import os

from PIL import Image, UnidentifiedImageError

from official_selftrain.data import examples, masks

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

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def voc(root, split, class_names=CLASS_NAMES, mask_folder="SegmentationClass"):
    """Read images with masks from a folder laid out as PASCAL VOC's.

    `ROOT/ImageSets/Segmentation/SPLIT.txt` lists names without endings,
    `ROOT/JPEGImages/` holds the images and `ROOT/SegmentationClass/NAME.png` the
    masks. A mask's pixels are class ids, as indices of a palette or as grey values;
    255, VOC's border around objects, is ignored. Every mask is read once and kept in
    memory as a compressed PNG (about 3 kB each for VOC).

    Args:
        root: str, such as `"VOCdevkit/VOC2012"`.
        split: str, the list: `"train"`, `"val"`, or one of your own.
        class_names: sequence of str by class id, the background first.
        mask_folder: str, the folder of masks in `root`, such as
            `"SegmentationClassAug"`; None reads the images without labels.

    Returns:
        `examples.Source`; ids count the lines of the list.

    Raises:
        FileNotFoundError: for a missing folder, list, image or mask.
        ValueError: for an empty list, an image that can't be read, a mask whose size
            differs from its image's, or class ids out of range.

    Source: PASCAL VOC's development kit.
    """
    list_path = os.path.join(root, "ImageSets", "Segmentation", f"{split}.txt")
    if not os.path.isfile(list_path):
        known = _stems(os.path.dirname(list_path), (".txt",))
        raise FileNotFoundError(
            f"Expected the list {list_path}; lists found: "
            f"{', '.join(sorted(known)) or 'none'}. Received: split={split!r}"
        )
    with open(list_path) as file:
        # Lists of a class carry a 1 or -1 behind each name.
        names = [line.split()[0] for line in file if line.strip()]
    if not names:
        raise ValueError(f"Expected at least one name. Received: {list_path}, empty")
    folder = os.path.join(root, "JPEGImages")
    images = _stems(folder, _IMAGE_ENDINGS)
    missing = [name for name in names if name not in images]
    if missing:
        raise FileNotFoundError(
            f"Expected every image of {list_path} in {folder}. Received: "
            f"{len(missing)} of {len(names)} missing, first {missing[0]!r}"
        )

    def record(index):
        name = names[index]
        found = {"path": os.path.join(folder, images[name]), "id": index}
        if mask_folder is not None:
            found["mask"] = masks.read_file(
                os.path.join(root, mask_folder, f"{name}.png"),
                len(class_names),
                _size(found["path"]),
            )
        return found

    with concurrent.futures.ThreadPoolExecutor() as pool:
        records = list(pool.map(record, range(len(names))))
    return examples.from_records(records, class_names, mask_folder is not None)


def _stems(folder, endings):
    """Return a dict of file names without to those with their ending."""
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
