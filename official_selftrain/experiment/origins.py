"""Records of origin: what each stage was made from, and what has changed since.

A stage's record holds the settings that bear on it, a fingerprint of each source, and
the hash of the teacher's weights. Places don't count: a folder of data or of an
experiment may be moved. A stage whose record differs is refused, unless it is to be
made again (`restart`), with all that follows from it, or kept (`keep`).
"""

import os

from official_selftrain.checks.arguments import check_choice
from official_selftrain.data import fingerprints
from official_selftrain.files import atomic, hashes
from official_selftrain.labeling import label_store

# What follows from a stage, and is made again with it.
FOLLOWING = {
    "teacher": ("teacher", "pseudo_labels", "student", "control"),
    "pseudo_labels": ("pseudo_labels", "student"),
    "student": ("student",),
    "control": ("control",),
}
# What a stage needs to be there.
NEEDED = {
    "teacher": ("teacher",),
    "pseudo_labels": ("teacher", "pseudo_labels"),
    "student": ("teacher", "pseudo_labels", "student"),
    "control": ("teacher", "control"),
    "evaluation": ("teacher", "pseudo_labels", "student", "control"),
}
_TITLES = {
    "teacher": "the teacher was trained",
    "pseudo_labels": "the pseudo-labels were made",
    "student": "the student was trained",
    "control": "the control was trained",
}
_NOT_THERE = "to be made"
# A control has no pseudo-labels to weigh.
_OF_PSEUDO_LABELS = ("loss.alpha", "loss.normalize", "loss.decay")


def of_training(work, name, number=1):
    """Return the record of a training.

    Args:
        work: `stages.Work`.
        name: `"teacher"`, `"student"` or `"control"`.
        number: int, the round.

    Returns:
        dict for JSON: `settings`, `sources`, `weights`.
    """
    experiment, data = work.experiment, work.experiment.data
    teaching, functions = experiment.teaching, work.described.functions
    settings = {
        "seed": experiment.seed,
        "image_size": list(data.image_size),
        "max_boxes": _limit(work, data.max_boxes),
        "precision": experiment.machine.precision or "float32",
        **functions["model"],
        **functions["teacher" if name == "teacher" else "student"],
    }
    sources = {"labeled": work.fingerprint("labeled")}
    if work.classified:
        sources["classified"] = work.fingerprint("classified")
    weights = {}
    if name != "teacher":
        settings["student_init"] = teaching.student_init
        if teaching.student_init == "teacher":
            teacher = work.folder.teacher(number)
            weights["teacher"] = _hash(teacher)
    if name == "student":
        settings["score_threshold"] = teaching.score_threshold
        settings["ignore_threshold"] = teaching.ignore_threshold
        labels = work.labels(number)
        if labels.is_finished:
            fingerprint = label_store.read(labels.path).fingerprint()
            sources["pseudo_labels"] = fingerprint
        elif not os.path.exists(labels.settings):  # else they are continued
            sources["pseudo_labels"] = _NOT_THERE
    if name == "control":
        settings = {
            name: value
            for name, value in settings.items()
            if not name.lower().endswith(_OF_PSEUDO_LABELS)
        }
    return {"settings": settings, "sources": sources, "weights": weights}


def _limit(work, max_boxes):
    """Return a limit of the boxes, or None if no image has more."""
    is_idle = max_boxes is None or max_boxes >= work.labeled.most_boxes
    return None if is_idle else max_boxes


def _stored(work, stage):
    """Return a training's stored record; earlier versions always set a limit."""
    record = atomic.read_json(stage.origin)
    if record is not None:
        settings = record["settings"]
        settings["max_boxes"] = _limit(work, settings.get("max_boxes"))
    return record


def of_metrics(work, stage):
    """Return the record of a model's metrics."""
    return {
        "settings": {
            "batch_size": work.experiment.labeling.batch_size,
        },
        "sources": {"validation": work.fingerprint("validation")},
        "weights": {stage.name: _hash(stage)},
    }


def _hash(stage):
    return hashes.sha256_of_model(stage.model) if stage.is_finished else _NOT_THERE


def changes(before, now):
    """Say how a record differs from a stored one.

    Args:
        before: dict, a record, or None.
        now: dict, a record.

    Returns:
        list of str, empty for equal records, or if there is none before.
    """
    if before is None:
        return []
    texts = []
    was, is_now = before["settings"], now["settings"]
    for name in sorted({*was, *is_now}):
        if was.get(name) != is_now.get(name):
            texts.append(f"{name}={_shown(is_now, name)}, was {_shown(was, name)}")
    for source, fingerprint in now["sources"].items():
        texts += _of_source(source, before["sources"].get(source), fingerprint)
    # Pseudo-labels that are continued aren't known yet.
    for source in sorted(set(before["sources"]) - {*now["sources"], "pseudo_labels"}):
        texts.append(f"{source}: no longer there")
    for name, value in now["weights"].items():
        if value == _NOT_THERE:
            texts.append(f"{name}: to be trained again")
        elif before["weights"].get(name) != value:
            texts.append(f"{name}: other weights")
    return texts


def _of_source(name, before, now):
    if now == _NOT_THERE:
        return [f"{name}: to be made again"]
    if before in (None, _NOT_THERE):
        return [f"{name}: not there before"]
    return fingerprints.told(name, before, now)


def of_data(folder, name, sources):
    """Say how the data of a finished stage differs, whatever its settings are.

    Args:
        folder: `RunFolder`.
        name: str, the stage.
        sources: dict of name to fingerprint.

    Returns:
        `(texts, measured)`: lists of str, about what the stage was made from and about
        what its metrics were measured with.
    """
    if name == "pseudo_labels":
        settings = atomic.read_json(folder.labels.settings) or {}
        before, measured = {"unlabeled": settings.get("source")}, {}
    else:
        stage = folder.stage(name)
        before, measured = (
            (atomic.read_json(path) or {"sources": {}})["sources"]
            for path in (stage.origin, stage.metrics_origin)
        )
    return [
        [
            text
            for source, was in stored.items()
            if was and source in sources
            for text in _of_source(source, was, sources[source])
        ]
        for stored in (before, measured)
    ]


def _shown(settings, name):
    return settings.get(name, "the default")


def settle(work, stage, name, number=1):
    """Check a training's record against the stored one; store that of a new training.

    Args:
        work: `stages.Work`.
        stage: `StageFolder`.
        name: str, the stage.
        number: int, the round.

    Raises:
        ValueError: if it was made from something else.
    """
    record, before = of_training(work, name, number), _stored(work, stage)
    check(work, name, changes(before, record))
    if work.is_first and before is None and (stage.is_started or stage.is_finished):
        print(f"{name}: kept, without a record of what it was made from", flush=True)
    elif work.is_first and before is None:
        os.makedirs(stage.path, exist_ok=True)
        atomic.write_json(stage.origin, record)


def check(work, name, texts):
    """Refuse a stage that was made from something else, or tell that it is kept."""
    if not texts:
        return
    text = "; ".join(texts)
    if not work.keep:
        raise ValueError(
            f"Expected the data and settings of when {_TITLES[name]}. Received: "
            f"{text}; --restart={name} makes it again and moves the old one aside, "
            "--keep keeps it"
        )
    line = f"{name}: kept, although changed since {_TITLES[name]}: {text}"
    if work.is_first and line not in work.kept:
        work.kept.append(line)
        print(line, flush=True)


def check_all(work, stages):
    """Check the records of all that stages need and that is there.

    Args:
        work: `stages.Work`.
        stages: names of the stages to run.

    Raises:
        ValueError: as `settle`.
    """
    needed = {name for stage in stages for name in NEEDED[stage]}
    for number in work.folder.rounds():
        for name in ("teacher", "pseudo_labels", "student", "control"):
            is_first_only = name in ("teacher", "control") and number > 1
            if name in needed and not is_first_only:
                _check_stage(work, name, number)


def _check_stage(work, name, number):
    if name == "pseudo_labels":
        labels = work.labels(number)
        if os.path.exists(labels.settings) and work.makes(number):
            check(work, name, work.label_changes(number))
        return
    stage = work.folder.round(number).stage(name)
    if stage.is_started or stage.is_finished:
        record = of_training(work, name, number)
        check(work, name, changes(_stored(work, stage), record))


def restart(work, name):
    """Move a stage and what follows from it aside, to be made again.

    A restart that was interrupted is continued, not begun again, if what it has made
    fits.

    Args:
        work: `stages.Work`.
        name: str, the stage.

    Returns:
        as `RunFolder.move_aside`.
    """
    check_choice("restart", name, tuple(FOLLOWING))
    folder = work.folder
    before = atomic.read_json(folder.restart) or {}
    if before.get("stage") == name and _fits(work, name):
        return [], None
    moved = folder.move_aside(*replaced_paths(folder, name))
    atomic.write_json(folder.restart, {"stage": name})
    return moved


def _fits(work, name):
    """Return whether a stage and what follows from it have fitting records."""
    try:
        for number in work.folder.rounds():
            for stage in FOLLOWING[name]:
                if number == 1 or stage in ("pseudo_labels", "student"):
                    _check_stage(work, stage, number)
    except ValueError:
        return False
    return True


def undo(folder, moved):
    """Move what a restart has moved back, as long as nothing is made again."""
    folder.move_back(*moved)
    complete_restart(folder)


def replaced_paths(folder, name, alone=False):
    """Return the paths to move aside for a stage that is made again.

    Args:
        folder: `RunFolder`.
        name: str, the stage.
        alone: bool, whether to leave out what follows from it, except for the results.

    Returns:
        list of str.
    """
    following = (name,) if alone else FOLLOWING[name]
    paths = [os.path.join(folder.path, stage) for stage in following]
    if "student" in following:
        paths += [folder.round(number).path for number in folder.rounds()[1:]]
    if "pseudo_labels" in following:
        paths += [folder.quality, folder.labeling_time]
    if "teacher" in following:
        paths += [folder.class_names, folder.classified_class_names]
    return [*paths, folder.results, folder.report]


def complete_restart(folder):
    """Forget a restart: all stages are made."""
    if os.path.exists(folder.restart):
        os.remove(folder.restart)
