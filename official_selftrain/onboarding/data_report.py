"""Summaries of a custom data set."""

import collections
import math

import numpy as np

from official_selftrain.data import inspection
from official_selftrain.onboarding import own_data, proposals

# With fewer boxes a class is hard to learn.
_FEW_BOXES = 10
# In fewer images a class of masks is hard to learn.
_FEW_MASKS = 5
# With fewer validation images metrics are mostly noise.
_FEW_IMAGES = 20


def labeled(title, content, findings):
    """Describe labeled images, their boxes and classes, and any problems.

    Args:
        title: str.
        content: dict, a COCO file's content with at least one box.
        findings: dict, as returned by `own_data.read`.

    Returns:
        str, several lines.
    """
    lines = [_images_line(title, content), _sizes_line(content)]
    return _text([*lines, *_class_table(content)], findings)


def labeled_masks(content, findings, classes):
    """Describe labeled images, their masks and classes, and any problems.

    Args:
        content, findings, classes: as returned by `own_masks.read`.

    Returns:
        str, several lines.
    """
    sizes = f"labeled: {_sizes(content)}"
    return _text([sizes, *_mask_table(content, classes)], findings)


def split(training, validation, group_of):
    """Describe how images are divided, and what is kept together.

    Args:
        training, validation: dicts, contents of COCO files.
        group_of: dict of image id to its group; empty: the user has divided them.

    Returns:
        str.
    """
    sizes = collections.Counter(group_of.values())
    together = [size for size in sizes.values() if size > 1]
    counts = [len(part["images"]) for part in (training, validation)]
    text = f"split: {counts[0]:,} images to train on, {counts[1]:,} to validate"
    if not together:
        return text
    sides = [{group_of[i["id"]] for i in p["images"]} for p in (training, validation)]
    kept = "each on one side"
    if sides[0] & sides[1]:
        kept = "whose end is held out, beside frames that are trained on"
    groups = f"{len(together)} group{'s' * (len(together) > 1)} of images that belong"
    return (
        f"{text}; {groups} together (the largest has {max(together)}), {kept} "
        "(--split_by says what belongs together)"
    )


def unlabeled(content, findings):
    """Describe unlabeled images, and any problems.

    Args:
        content: dict, a COCO file's content.
        findings: dict, as returned by `own_data.read_unlabeled`.

    Returns:
        str, several lines.
    """
    return _text([f"unlabeled: {len(content['images']):,} images"], findings)


def summary(training, validation, unlabeled):
    """Summarize the data of an experiment in one sentence.

    Args:
        training, validation, unlabeled: dicts, contents of COCO files.

    Returns:
        str.
    """
    classes = len(training["categories"])
    labels = f"{len(own_data.objects(training)):,} boxes"
    if "mask_name" in training["images"][0]:
        labels = "masks"
    return (
        f"{len(training['images']):,} images with {labels} of "
        f"{classes} class{'es' * (classes > 1)} to train on, "
        f"{len(validation['images']):,} to validate, "
        f"{len(unlabeled['images']):,} unlabeled."
    )


def all_findings(findings):
    """List all problems of the data.

    Args:
        findings: dict of title to dict of a name from `inspection.KINDS` to list of
            str.

    Returns:
        str, one line per problem.
    """
    return "".join(
        f"{title}: {inspection.KINDS[kind]}: {line}\n"
        for title, kinds in findings.items()
        for kind, lines in kinds.items()
        for line in lines
    )


def tiles(images, boxes, training, unlabeled, tile, folder):
    """Describe how photographs were cut into tiles.

    Args:
        images: int, the labeled photographs.
        boxes: int, their boxes.
        training, unlabeled: dicts, contents of COCO files of tiles.
        tile: (height, width, overlap).
        folder: str.

    Returns:
        str.
    """
    empty = len(training["images"]) - len(
        {a["image_id"] for a in training["annotations"]}
    )
    return (
        f"tiles: {tile[1]} x {tile[0]} pixels, overlapping by {tile[2]}, in {folder}: "
        f"{len(training['images']):,} of {images:,} labeled photographs ({empty:,} "
        f"without a box), with {boxes:,} boxes, {len(own_data.objects(training)):,} "
        f"counting those in several tiles; {len(unlabeled['images']):,} unlabeled"
    )


def warnings(validation, settings):
    """Return warnings about images and settings, a list of str.

    Args:
        validation: dict, a COCO file's content.
        settings: dict, as returned by `proposals.propose`.
    """
    found = []
    if _is_small(settings, "median"):
        advice = "" if settings["tile"] else "; cut the photographs into tiles: --tile"
        found.append(
            f"objects are {settings['median']:.1f} pixels large in the frame of "
            f"{settings['image_size'][0]} (median), too small to be learned{advice}"
        )
    elif not settings["tile"] and _is_small(settings, "small"):
        found.append(
            f"10 % of the objects are at most {settings['small']:.1f} pixels large in "
            f"the frame of {settings['image_size'][0]}, too small to be learned; "
            "--tile cuts large photographs into tiles"
        )
    count = len(validation["images"])
    if count < _FEW_IMAGES:
        found.append(
            f"few validation images ({count}): metrics, and a threshold chosen on "
            "them, are unreliable"
        )
    return found


def _is_small(settings, key):
    """Return whether a size of objects is too small; masks have none."""
    return settings.get(key, math.inf) < proposals.LEAST_OBJECT


def _text(lines, findings):
    found = [*findings.ledger.lines(), *inspection.summary(findings)]
    return "\n".join(["", *lines, *(f"  {line}" for line in found)])


def _images_line(title, content):
    per_image = collections.Counter(a["image_id"] for a in own_data.objects(content))
    without = len(content["images"]) - len(per_image)
    return (
        f"{title}: {_sizes(content)}, {without} without "
        f"boxes; {per_image.total():,} boxes, up to {max(per_image.values())} on an "
        "image"
    )


def _sizes(content):
    sizes = np.array([(i["width"], i["height"]) for i in content["images"]])
    least, greatest = sizes.min(axis=0), sizes.max(axis=0)
    return (
        f"{len(sizes):,} images, {least[0]} x {least[1]} to "
        f"{greatest[0]} x {greatest[1]} pixels"
    )


def _sizes_line(content):
    sides = np.sqrt(proposals.box_sides(content).prod(axis=1))
    low, median, high = 100 * np.quantile(sides, (0.1, 0.5, 0.9))
    return (
        f"  box sizes, of the image's longer side: median {median:.1f} %, 10 % of the "
        f"boxes below {low:.1f} %, 10 % above {high:.1f} %"
    )


def _class_table(content):
    objects = own_data.objects(content)
    images = collections.defaultdict(list)
    for annotation in objects:
        images[annotation["category_id"]].append(annotation["image_id"])
    lines = [f"  {'class':24}{'boxes':>8}{'percent':>8}{'images':>8}"]
    for category in content["categories"]:
        of_class = images[category["id"]]
        count = len(of_class)
        percent = f"{100 * count / len(objects):.1f} %"
        few = "  few boxes: expect a low AP" if count < _FEW_BOXES else ""
        lines.append(
            f"  {category['name']:24}{count:8,}{percent:>8}{len(set(of_class)):8,}{few}"
        )
    return lines


def _mask_table(content, classes):
    total = sum(image["height"] * image["width"] for image in content["images"])
    pixels, images = collections.Counter(), collections.Counter()
    for annotation in content["annotations"]:
        pixels[annotation["category_id"]] += annotation["pixels"]
        images[annotation["category_id"]] += 1
    values = collections.defaultdict(list)
    for value, number in classes.keys.items():
        values[number].append(str(value))
    lines = [f"  classes by {classes.reason}"]
    lines.append(f"  {'class':24}{'value':>16}{'pixels':>9}{'images':>8}")
    for category in content["categories"]:
        number, name = category["id"], category["name"]
        percent = f"{100 * pixels[number] / total:.1f} %"
        few = "  in few images: expect a low IoU" * (images[number] < _FEW_MASKS)
        value = " ".join(values[number])
        lines.append(f"  {name:24}{value:>16}{percent:>9}{images[number]:8,}{few}")
    unknown = total - pixels.total()
    lines += [f"  {'unknown':40}{100 * unknown / total:7.1f} %"] * (unknown > 0)
    return lines
