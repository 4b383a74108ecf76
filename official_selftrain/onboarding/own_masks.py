"""Read custom images and masks.

Problems are reported, and unusable data is left out; the files themselves are never
changed.
"""

import collections
import concurrent.futures
import dataclasses
import os
import re

from official_selftrain.checks import progress
from official_selftrain.data import copies, images, inspection, ledger, masks
from official_selftrain.data.sources import coco_files, mask_lists, voc_files
from official_selftrain.onboarding import own_data

# More values or colors are no classes, but edges that were blurred.
_MOST_CLASSES = 64

# A line of a file with a color per class.
_COLOR_LINE = re.compile(r"[^:#]+:\s*\d+\s*,\s*\d+\s*,\s*\d+\s*(:.*)?")


@dataclasses.dataclass(frozen=True)
class Classes:
    """How masks store classes.

    Attributes:
        names: tuple of str by class id.
        keys: dict of a pixel's value or color to its class id, 255 for unknown.
        values: the `mask_values` of `sources.voc`: a dict, a path, or None.
        reason: str, where the classes are from.
    """

    names: tuple
    keys: dict
    values: dict | str | None
    reason: str


def read(places):
    """Read labeled images and masks, leaving out unusable ones.

    An image and a mask belong together by their names without endings, or by the lists
    `train.txt` and `val.txt` of PASCAL VOC's layout.

    Args:
        places: `own_data.Places` of masks. Its `classes` are names separated by commas,
            a text file with one per line, by class id; or one with a line
            `name:red,green,blue` per class, such as CVAT's `labelmap.txt`, which is
            also looked for beside the folder of masks. None: `"background"`,
            `"class_1"` and so on.

    Returns:
        `(content, findings, classes)`: a dict like a COCO file's content, whose images
        also have `mask_name` and `part` (the name of the list, or None), and with an
        annotation for every class of a mask, with its number of `pixels`;
        `inspection.Findings`, whose `looks` are the usable images'; `Classes`.

    Raises:
        FileNotFoundError: for a missing folder or file.
        ValueError: if no mask is left, or for values or colors that can't be classes.

    Source: own.
    """
    pairs, findings = _pairs(places)
    surveys = _surveys(places, pairs, findings)
    classes = _classes(places, surveys) if surveys else None
    surveys = {
        image: survey
        for image, survey in surveys.items()
        if _has_known_colors(survey, classes, pairs[image][0], findings)
    }
    if not surveys:
        raise ValueError(
            "Expected an image with a mask of its name and size. Received: "
            f"images={places.folder!r}, masks={places.mask_folder!r}{_listed(findings)}"
        )
    files = [os.path.join(places.folder, image) for image in surveys]
    sizes, _ = own_data.usable_images(
        files, copies.NOTHING, findings, pixel_range=places.pixel_range
    )
    findings["copy"] = findings.pop("double", [])
    findings.ledger.labels.put("image", len(surveys) - len(sizes))
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": n} for k, n in enumerate(classes.names)],
    }
    every = list(surveys.items())
    for index, size in sizes.items():
        image, survey = every[index]
        mask, part = pairs[image]
        entry = {"id": index, "file_name": image, "mask_name": mask, "part": part}
        entry |= {"height": size[0], "width": size[1]}
        content["images"].append(entry)
        content["annotations"] += _annotations(entry, survey, classes, findings)
    if len({a["category_id"] for a in content["annotations"]}) < 2:
        values = sorted(
            {value for survey in surveys.values() for value in survey.counts}
        )
        raise ValueError(
            "Expected masks with pixels of at least two classes. Received: "
            f"masks={places.mask_folder!r}, whose pixels are {_shown(values)}"
            f"{_listed(findings)}"
        )
    _close(findings.ledger, content, places.mask_folder)
    return content, findings, classes


def _pairs(places):
    """Return a dict of each image to its mask and list, and the findings."""
    folder, place = places.folder, places.mask_folder
    for name, path in (("images", folder), ("masks", place)):
        if not os.path.isdir(path):
            raise FileNotFoundError(
                f"Expected a folder of {name}. Received: {name}={path!r}"
            )
    lists = mask_lists.Lists(folder, place)
    matched, unpaired, alone, several = lists.pairs()
    pairs = _of_lists(places, lists) or {image: (m, None) for image, m in matched}
    used = {mask for mask, _ in pairs.values()}
    unlisted = [i for i, mask in matched if i not in pairs and mask not in used]
    unpaired = [image for image in unpaired if image not in pairs]
    alone = [mask for mask in alone if mask not in used]
    counts = [len(pairs) + len(unlisted) + len(part) for part in (unpaired, alone)]
    findings = inspection.Findings(ledger.Ledger(*counts, "masks"))
    findings.update(
        {
            "unlisted": unlisted,
            "maskless": unpaired,
            "imageless": alone,
            "several": several,
        }
    )
    book = findings.ledger
    for account, other in ((book.images, "maskless"), (book.labels, "missing")):
        account.put("unlisted", len(unlisted))
        account.put(other, len(unpaired if other == "maskless" else alone))
    return pairs, findings


def _of_lists(places, lists):
    """Return the pairs of PASCAL VOC's lists, or None if there aren't both."""
    if places.masks is not None:
        return None
    pairs = {}
    for part in ("train", "val"):
        path = os.path.join(places.images, "ImageSets", "Segmentation", f"{part}.txt")
        if not os.path.isfile(path):
            return None
        entries, _ = lists.entries(mask_lists.lines_of(path), path)
        for _, image, mask in entries:
            if image in pairs:
                raise ValueError(
                    "Expected no image in both train.txt and val.txt. Received: "
                    f"{path} with {image}"
                )
            pairs[image] = mask, part
    return pairs


def _surveys(places, pairs, findings):
    """Return a dict of each image to the `masks.Survey` of its mask, if it has one."""

    def survey(pair):
        image, (mask, _) = pair
        header = images.header(os.path.join(places.folder, image))
        try:
            found = masks.survey(os.path.join(places.mask_folder, mask))
        except (FileNotFoundError, ValueError) as error:
            return None, str(error).partition("Received: ")[2]
        if header and found.size not in (header.size, header.stored_size):
            sizes = [
                f"{width} x {height}" for height, width in (found.size, header.size)
            ]
            return None, f"{sizes[0]} pixels, its image {image} has {sizes[1]}"
        return found, header is not None and found.size != header.size

    surveys = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        every = pool.map(survey, pairs.items())
        for image, (found, note) in zip(
            pairs, progress.over(every, len(pairs), "masks", "mask")
        ):
            if found is None:
                _leave_out(findings, f"{pairs[image][0]}: {note}")
            else:
                surveys[image] = found
                findings["turned"] += [pairs[image][0]] * note
    return surveys


def _leave_out(findings, line):
    """Leave out a mask that can't be used, and its image."""
    findings["mask"].append(line)
    findings.ledger.images.put("maskless")
    findings.ledger.labels.put("unreadable")


def _has_known_colors(survey, classes, mask, findings):
    """Return whether all colors have a class, if colors decide; else leave it out."""
    if not _by_color(classes):
        return True
    unknown = sorted(set(survey.colors) - set(classes.keys))
    if unknown:
        text = f"of {len(unknown)} colors without a class, such as {unknown[0]}"
        _leave_out(findings, f"{mask}: {text}")
    return not unknown


def _by_color(classes):
    return any(isinstance(key, tuple) for key in classes.keys)


def _annotations(entry, survey, classes, findings):
    """Return an entry for each class of a mask."""
    pixels = collections.Counter()
    counts = survey.colors if _by_color(classes) else survey.counts
    for value, count in counts.items():
        pixels[classes.keys.get(value, -1)] += count
    if pixels[-1]:
        strange = sorted(value for value in counts if value not in classes.keys)
        text = f"{pixels[-1]:,} of {_shown(strange)}"
        findings["strange"].append(f"{entry['mask_name']}: {text}")
    present = sorted(k for k in pixels if 0 <= k < len(classes.names) and pixels[k])
    if not present:
        findings["void"].append(entry["mask_name"])
    return [
        {"image_id": entry["id"], "category_id": k, "pixels": pixels[k]}
        for k in present
    ]


def _close(book, content, where):
    """Close the ledger: masks with a pixel of a class are taught."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    present = collections.Counter(a["image_id"] for a in content["annotations"])
    counts = [(1, present[image["id"]] > 0) for image in content["images"]]
    book.labels.put("empty", sum(not has_class for _, has_class in counts))
    book.close(where, counts)
    of_classes = collections.Counter(
        names[a["category_id"]] for a in content["annotations"]
    )
    book.held.update(of_classes)
    book.taught.update(of_classes)


def _classes(places, surveys):
    """Return the `Classes` of masks."""
    path = places.classes or _label_map(places)
    if path and os.path.isfile(path) and _has_colors(path):
        names = masks.palette_names(path)
        keys = masks.read_palette(path, names)
        return Classes(tuple(names), keys, path, f"colors of {path}")
    names = _names(places.classes)
    palettes = [(image, survey.palette) for image, survey in surveys.items()]
    differ = masks.contradiction(palettes)
    if differ is None and all(survey.has_values for survey in surveys.values()):
        totals = collections.Counter()
        for survey in surveys.values():
            totals.update(survey.counts)
        return _of_values(places.mask_folder, names, totals)
    reason = "colors of pixels"
    if differ:
        index, image, color, other, other_color = differ
        reason = (
            f"colors, as palettes differ: index {index} is {color} in the mask of "
            f"{image}, {other_color} in that of {other}"
        )
    totals = collections.Counter()
    for survey in surveys.values():
        totals.update(survey.colors)
    return _of_colors(places.mask_folder, names, totals, reason)


def _label_map(places):
    """Return the path of CVAT's label map beside the folder of masks, or None."""
    path = os.path.join(os.path.dirname(os.path.abspath(places.mask_folder)), "")
    path = os.path.relpath(os.path.join(path, "labelmap.txt"))
    return path if os.path.isfile(path) else None


def _has_colors(path):
    lines = [line.strip() for line in coco_files.read_text(path).splitlines()]
    return any(_COLOR_LINE.fullmatch(line) for line in lines)


def _names(given):
    """Return the names of classes, or None."""
    if not given:
        return None
    names = mask_lists.lines_of(given) if os.path.isfile(given) else given.split(",")
    names = [name.strip() for name in names]
    if len(set(names)) < len(names) or not all(names) or len(names) < 2:
        raise ValueError(
            "Expected the names of at least two classes, the background first, a file "
            f"of them, or of colors, name:red,green,blue. Received: classes={given!r}"
        )
    return names


def _of_values(where, names, totals):
    """Return classes by value: class ids, unless they are something else."""
    present = sorted(set(totals) - {masks.IGNORE_CLASS})
    values = None
    is_pair = len(totals) == 2 and (min(totals) == 0 or len(present) == 2)
    if is_pair and present != [0, 1] and (names is None or len(names) == 2):
        # Objects in one value, such as white, on a background of another.
        first, second = sorted(totals)
        values = {first: 0, second: 1}
        reason = f"two values, {first} and {second}"
    elif names is None and present != list(range(len(present))):
        values = {value: k for k, value in enumerate(present)}
        reason = "values in ascending order"
    else:
        reason = "values, which are class ids"
    if names is None:
        _check_number(len(present), "values", where)
        keys = values or {value: value for value in present}
        names = [
            "background" if value == 0 else f"class_{k if len(keys) == 2 else value}"
            for value, k in keys.items()
        ]
    if values is None:
        keys = {k: k for k in range(len(names))}
        unknown = {v: n for v, n in totals.items() if v not in keys and v != 255}
        ids = frozenset(totals) - frozenset(unknown)
        voc_files.check_ids(ids, unknown, names, where)
    else:
        keys = dict(values)
    keys.setdefault(masks.IGNORE_CLASS, masks.IGNORE_CLASS)
    if values is not None and masks.IGNORE_CLASS in totals:
        values = keys
    return Classes(tuple(names), keys, values, reason)


def _of_colors(where, names, totals, reason):
    """Return classes by color: black, or else the most frequent, is the background."""
    if names is not None:
        raise ValueError(
            "Expected classes, a file with a line name:red,green,blue for each, as "
            f"masks differ by {reason}. Received: classes={','.join(names)!r}; the "
            f"colors are {_shown(sorted(totals))}"
        )
    _check_number(len(totals), "colors", where)
    black = (0, 0, 0)
    background = black if black in totals else max(totals, key=totals.get)
    values = {background: 0}
    for color in sorted(set(totals) - {background}):
        values[color] = len(values)
    names = ["background", *(f"class_{k}" for k in range(1, len(values)))]
    return Classes(tuple(names), values, values, reason)


def _check_number(count, kind, where):
    if count > _MOST_CLASSES:
        raise ValueError(
            f"Expected masks of at most {_MOST_CLASSES} {kind}, one per class, saved "
            f"without loss. Received: masks={where!r} with {count:,}; state them with "
            "--classes, or save the masks as PNG, without smoothed edges"
        )


def _shown(values):
    return ", ".join(map(str, values[:10])) + ", …" * (len(values) > 10)


def _listed(findings):
    return "".join(f"; {line}" for line in inspection.summary(findings))
