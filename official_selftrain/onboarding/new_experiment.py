"""From custom images to an experiment: inspect, split, propose, write."""

import dataclasses
import json
import os
import typing

from official_selftrain.data import copies, pixels
from official_selftrain.files import atomic
from official_selftrain.onboarding import (
    data_report,
    experiment_file,
    own_data,
    own_masks,
    proposals,
    tiles,
)


class Files(typing.NamedTuple):
    """The paths of the files to write."""

    experiment: str
    training: str
    validation: str
    unlabeled: str
    findings: str
    ledger: str
    tiles: str


def write(places, output, tile=False):
    """Write an experiment for custom images, and print a summary of them.

    Next to the experiment it writes the usable images and boxes as COCO files, or lists
    of the usable images and masks; a list of all problems; and where everything went.

    Args:
        places: `own_data.Places`.
        output: str, the gin file; none of the files may exist.
        tile: bool, cut photographs into overlapping tiles to train on.

    Raises:
        FileNotFoundError: for a missing file or folder.
        ValueError: for existing files, or data without a usable box or mask.

    Source: own.
    """
    files = _new_files(output, "txt" if places.has_masks else "json")
    classes, machine = None, proposals.machine()
    if places.has_masks:
        training, validation, findings, classes = _labeled_masks(places)
    else:
        training, validation, findings = _labeled_images(places)
    unlabeled, findings["unlabeled"] = _unlabeled_images(places, findings)
    read_from = places
    if tile and places.has_masks:
        raise ValueError("Expected boxes with tile. Received: tile=True, with masks")
    if tile:
        read_from, training, unlabeled, tile = _tiled(
            places, files, (training, unlabeled), machine["num_gpus"]
        )
    # Validation images are cut in the same way: none has more boxes than a tile.
    settings = (
        proposals.propose_masks(training, **machine)
        if places.has_masks
        else proposals.propose(training, training if tile else validation, **machine)
    )
    settings["tile"] = tile or None

    write_labels = _write_list if places.has_masks else _write_coco
    write_labels(files.training, training)
    write_labels(files.validation, validation)
    _write_coco(files.unlabeled, unlabeled)
    atomic.write_text(files.findings, data_report.all_findings(findings))
    books = {title: found.ledger.content() for title, found in findings.items()}
    atomic.write_json(files.ledger, books)
    summary = data_report.summary(training, validation, unlabeled)
    experiment = experiment_file.text(
        places, read_from, files, settings, summary, classes
    )
    atomic.write_text(files.experiment, experiment)

    print(f"\n{files.experiment}: {summary}")
    print(f"all findings: {files.findings}")
    for warning in data_report.warnings(validation, settings):
        print(warning)
    print(f"next: {experiment_file.train_command(files.experiment)}")


def _tiled(places, files, contents, num_gpus):
    """Cut the training and the unlabeled images into tiles.

    Returns:
        `(places, training, unlabeled, tile)`: the places with the folders of the
        tiles, the contents of the COCO files of the tiles, and the tile.
    """
    training, unlabeled = contents
    tile = tiles.propose(training, proposals.LARGEST_FRAME[num_gpus > 0])
    folders = [os.path.join(files.tiles, name) for name in ("labeled", "unlabeled")]
    before = len(training["images"]), len(own_data.objects(training))
    training, lost = tiles.cut(
        training, places.folder, folders[0], tile, pixel_range=places.pixel_range
    )
    start = own_data.root(places.unlabeled)
    unlabeled, _ = tiles.cut(
        unlabeled,
        start,
        folders[1],
        tile,
        is_labeled=False,
        pixel_range=places.pixel_range,
    )
    print(data_report.tiles(*before, training, unlabeled, tile, files.tiles))
    if lost:
        print(
            f"tiles: {lost:,} boxes are larger than the overlap and whole in none: "
            "ignored in all"
        )
    changed = {"images": folders[0], "unlabeled": folders[1]}
    validation_images = places.validation_folder
    places = dataclasses.replace(places, **changed, validation_images=validation_images)
    return places, training, unlabeled, tile


def _new_files(output, kind):
    """Return the files to write, labels of a kind of file; none of them may exist."""
    stem, ending = os.path.splitext(output)
    if ending != ".gin":
        raise ValueError(f"Expected a .gin file. Received: output={output!r}")
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    files = Files(
        experiment=output,
        training=f"{stem}_train.{kind}",
        validation=f"{stem}_validation.{kind}",
        unlabeled=f"{stem}_unlabeled.json",
        findings=f"{stem}_findings.txt",
        ledger=f"{stem}_ledger.json",
        tiles=f"{stem}_tiles",
    )
    for path in files:
        if os.path.exists(path):
            raise ValueError(
                f"Expected a new output. Received: output={output!r}, "
                f"but {path} exists; remove it or choose another name"
            )
    return files


def _report(places, found, text):
    """Print a report of images, and what the network sees of them.

    Images of too few gray levels are refused here: they would seem to be copies.
    """
    print(text)
    for line in pixels.told(pixels.of_files(found.looks.paths), places.pixel_range):
        print(f"  {line}")


def _labeled_images(places):
    """Return the training and validation images, and the findings."""
    labeled, of_labeled = own_data.read(
        places.annotations, places.images, pixel_range=places.pixel_range
    )
    text = data_report.labeled("labeled", labeled, of_labeled)
    _report(places, of_labeled, text)
    findings = {"labeled": of_labeled}
    if not places.validation_annotations:
        group_of = own_data.groups(labeled, of_labeled.looks, places.split_by)
        parts = own_data.hold_out(labeled, group_of=group_of)
        print(data_report.split(*parts, group_of))
        return *parts, findings
    validation, of_validation = own_data.read(
        places.validation_annotations,
        places.validation_folder,
        labeled["categories"],
        of_labeled.looks if places.find_copies else of_labeled.looks.without_looks(),
        places.pixel_range,
    )
    text = data_report.labeled("validation", validation, of_validation)
    _report(places, of_validation, text)
    return labeled, validation, {**findings, "validation": of_validation}


def _labeled_masks(places):
    """Return the training and validation images, the findings, and the classes."""
    content, found, classes = own_masks.read(places)
    _report(places, found, data_report.labeled_masks(content, found, classes))
    is_stated = content["images"][0]["part"] is not None
    if is_stated:
        group_of = {}
        chosen = {i["id"] for i in content["images"] if i["part"] == "val"}
        parts = own_data.divided(content, chosen)
    else:
        group_of = own_data.groups(content, found.looks, places.split_by)
        parts = own_data.hold_out(content, group_of=group_of)
    print(data_report.split(*parts, group_of))
    return *parts, {"labeled": found}, classes


def _unlabeled_images(places, findings):
    """Return the unlabeled images, and what was found in them."""
    known = sum((found.looks for found in findings.values()), copies.NOTHING)
    known = known if places.find_copies else known.without_looks()
    unlabeled, found = own_data.read_unlabeled(
        places.unlabeled, known, places.mask_folder, places.pixel_range
    )
    _report(places, found, data_report.unlabeled(unlabeled, found))
    return unlabeled, found


def _write_list(path, content):
    lines = [f"{i['file_name']}\t{i['mask_name']}\n" for i in content["images"]]
    atomic.write_text(path, "".join(lines))


def _write_coco(path, content):
    atomic.write_text(path, json.dumps(content))
