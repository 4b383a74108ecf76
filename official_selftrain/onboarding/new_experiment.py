"""From custom images to an experiment: inspect, split, propose, write."""

import dataclasses
import json
import os
import typing

from official_selftrain.data import copies
from official_selftrain.files import atomic
from official_selftrain.onboarding import (
    data_report,
    experiment_file,
    own_data,
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

    Next to the experiment it writes the usable images and boxes as COCO files, a
    list of all problems, and where every image and box went.

    Args:
        places: `own_data.Places`.
        output: str, the gin file; none of the files may exist.
        tile: bool, cut photographs into overlapping tiles to train on.

    Raises:
        FileNotFoundError: for a missing file or folder.
        ValueError: for existing files, or data without a usable box.

    Source: own.
    """
    files = _new_files(output)
    training, validation, findings = _labeled_images(places)
    unlabeled, findings["unlabeled"] = _unlabeled_images(places, findings)
    machine, read_from = proposals.machine(), places
    if tile:
        read_from, training, unlabeled, tile = _tiled(
            places, files, (training, unlabeled), machine["num_gpus"]
        )
    # Validation images are cut in the same way: none has more boxes than a tile.
    counted = training if tile else validation
    settings = proposals.propose(training, counted, **machine)
    settings["tile"] = tile or None

    _write_coco(files.training, training)
    _write_coco(files.validation, validation)
    _write_coco(files.unlabeled, unlabeled)
    atomic.write_text(files.findings, data_report.all_findings(findings))
    books = {title: found.ledger.content() for title, found in findings.items()}
    atomic.write_json(files.ledger, books)
    summary = data_report.summary(training, validation, unlabeled)
    experiment = experiment_file.text(places, read_from, files, settings, summary)
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
    training = tiles.cut(training, places.folder, folders[0], tile)
    start = own_data.root(places.unlabeled)
    unlabeled = tiles.cut(unlabeled, start, folders[1], tile, is_labeled=False)
    print(data_report.tiles(*before, training, unlabeled, tile, files.tiles))
    changed = {"images": folders[0], "unlabeled": folders[1]}
    validation_images = places.validation_folder
    places = dataclasses.replace(places, **changed, validation_images=validation_images)
    return places, training, unlabeled, tile


def _new_files(output):
    """Return the files to write; none of them may exist."""
    stem, ending = os.path.splitext(output)
    if ending != ".gin":
        raise ValueError(f"Expected a .gin file. Received: output={output!r}")
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    files = Files(
        experiment=output,
        training=f"{stem}_train.json",
        validation=f"{stem}_validation.json",
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


def _labeled_images(places):
    """Return the training and validation images, and the findings."""
    labeled, of_labeled = own_data.read(places.annotations, places.images)
    print(data_report.labeled("labeled", labeled, of_labeled))
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
        of_labeled.looks,
    )
    print(data_report.labeled("validation", validation, of_validation))
    return labeled, validation, {**findings, "validation": of_validation}


def _unlabeled_images(places, findings):
    """Return the unlabeled images, and what was found in them."""
    known = sum((found.looks for found in findings.values()), copies.NOTHING)
    unlabeled, found = own_data.read_unlabeled(places.unlabeled, known)
    print(data_report.unlabeled(unlabeled, found))
    return unlabeled, found


def _write_coco(path, content):
    atomic.write_text(path, json.dumps(content))
