"""Inspect your own images and labels, and write an experiment for them.

    python -m official_selftrain.init --images=photos --annotations=labels.json \\
        --unlabeled=more_photos --output=mine.gin

With masks instead of boxes, `--masks` is their folder, or `--images` a folder laid out
like PASCAL VOC's:

    python -m official_selftrain.init --images=photos --masks=masks \\
        --classes=labelmap.txt --unlabeled=more_photos --output=mine.gin

Prints a summary of the data and its problems, and writes `mine.gin`, each setting with
its reason. Next to it are `mine_train.json`, `mine_validation.json` and
`mine_unlabeled.json`, the usable images and boxes (for masks, lists of them that end
with `.txt`), `mine_findings.txt`, all problems, and `mine_ledger.json`, where every
image and label went. Your own files are never
changed. Exit codes: 0 done, 1 a mistake in the call or the data.
"""

import os

from absl import app, flags

from official_selftrain.cli import command_line, quiet

flags.adopt_module_key_flags(command_line)

_IMAGES = flags.DEFINE_multi_string(
    "images",
    None,
    "The folder of the labeled images; may be given for each of several annotations. "
    "Or one with JPEGImages and SegmentationClass, laid out like PASCAL VOC's.",
    required=True,
)
_ANNOTATIONS = flags.DEFINE_multi_string(
    "annotations",
    None,
    "Their boxes: a COCO file, a folder of PASCAL VOC's XML files or of YOLO's text "
    "files, a JSON file of Label Studio, a folder of LabelMe's JSON files, or CVAT's "
    "XML file; may be given several times.",
)
_MASKS = flags.DEFINE_string(
    "masks", None, "The folder of their masks, files of the images' names."
)
_CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "The classes of masks, the background first: names separated by commas, a file "
    "with one per line, or one with a line name:red,green,blue for each, such as "
    "CVAT's labelmap.txt.",
)
_UNLABELED = flags.DEFINE_string(
    "unlabeled", None, "A folder or glob of unlabeled images.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "The .gin file to write.", required=True)
_VALIDATION_IMAGES = flags.DEFINE_string(
    "validation_images", None, "The folder of the validation images; images if not set."
)
_VALIDATION_ANNOTATIONS = flags.DEFINE_string(
    "validation_annotations",
    None,
    "The validation images' boxes; a fifth of the labeled images if not set.",
)
_SPLIT_BY = flags.DEFINE_string(
    "split_by",
    "auto",
    "What a split keeps on one side: auto (copies of an image, and frames of a clip), "
    "image (nothing), folder, or a regular expression whose first group names an "
    "image's group, such as '(video\\d+)_'.",
)
_FIND_COPIES = flags.DEFINE_bool(
    "find_copies",
    True,
    "Leave out images that look like labeled ones; False: only the same files.",
)
_TILE = flags.DEFINE_bool(
    "tile",
    False,
    "Cut large photographs into overlapping tiles, in a folder next to the .gin file: "
    "small objects can be learned then.",
)


_PIXEL_RANGE = flags.DEFINE_list(
    "pixel_range",
    None,
    "LOW,HIGH: the values of images of more than 8 bits that become 0 and 255, such as "
    "0,4095 for 12 bits; by default they are divided by 256.",
)


def main(argv):
    """Run the command line."""
    return command_line.exit_code("init", argv, _init)


def _init():
    for images in _IMAGES.value:
        command_line.check_paths(images=images)
    for annotations in _ANNOTATIONS.value or ():
        command_line.check_paths(annotations=annotations)
    _check_kind()
    command_line.check_paths(
        masks=_MASKS.value,
        unlabeled=_UNLABELED.value,
        validation_images=_VALIDATION_IMAGES.value,
        validation_annotations=_VALIDATION_ANNOTATIONS.value,
    )
    quiet.import_tensorflow()
    from official_selftrain.onboarding import new_experiment, own_data

    places = own_data.Places(
        images=_one_or_all(_IMAGES.value),
        annotations=_one_or_all(_ANNOTATIONS.value or (None,)),
        unlabeled=_UNLABELED.value,
        validation_images=_VALIDATION_IMAGES.value,
        validation_annotations=_VALIDATION_ANNOTATIONS.value,
        split_by=_SPLIT_BY.value,
        find_copies=_FIND_COPIES.value,
        masks=_MASKS.value,
        classes=_CLASSES.value,
        pixel_range=command_line.pixel_range(_PIXEL_RANGE.value),
    )
    new_experiment.write(places, _OUTPUT.value, _TILE.value)


def _check_kind():
    """Check that the flags are those of boxes, or those of masks."""
    if _ANNOTATIONS.value:
        if _MASKS.value or _CLASSES.value:
            raise ValueError(
                "Expected annotations (boxes) or masks and classes. Received: "
                f"annotations={_ANNOTATIONS.value[0]!r}, masks={_MASKS.value!r}, "
                f"classes={_CLASSES.value!r}"
            )
        return
    (images, *more), folders = _IMAGES.value, ("JPEGImages", "SegmentationClass")
    is_voc = all(os.path.isdir(os.path.join(images, name)) for name in folders)
    if not _MASKS.value and not is_voc:
        raise ValueError(
            "Expected annotations (boxes), masks, or images with JPEGImages and "
            f"SegmentationClass, like PASCAL VOC's. Received: images={images!r}"
        )
    of_boxes = _VALIDATION_IMAGES.value or _VALIDATION_ANNOTATIONS.value
    if more or of_boxes:
        raise ValueError(
            "Expected one folder of images, part of which is held out or listed in "
            "ImageSets/Segmentation/val.txt, for masks. Received: "
            f"{', '.join([*more, *([of_boxes] if of_boxes else [])])}"
        )


def _one_or_all(values):
    return values[0] if len(values) == 1 else tuple(values)


if __name__ == "__main__":
    app.run(main)
