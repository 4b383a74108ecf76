"""The plan: everything that can be checked before the first step, and what it costs."""

import dataclasses
import os
import shutil

from official_selftrain.data import copies, ledger, pipeline, pixels, problems
from official_selftrain.experiment import origins, results, stages
from official_selftrain.files import atomic
from official_selftrain.files.run_folder import STAGES
from official_selftrain.labeling import label_store
from official_selftrain.training.checkpoints import KEPT
from official_selftrain.training.streams import Streams

_TRAINED = ("teacher", "student", "control")
# Of training on an image: labeling or evaluating one takes about a third.
_FORWARD = 1 / 3
# Bytes per image of stored labels: 100 boxes; a mask and its confidence per pixel.
_BOXES, _PER_PIXEL = 3_000, 0.2
# TensorBoard's pictures and the report.
_PICTURES = 10e6


def checked(work, names):
    """Check an experiment before its first step.

    Settings, model, optimizer and schedule of every stage to be trained are created, a
    batch of each stream is prepared, and finished stages are compared with their
    records of origin. Images are opened for these batches only, and the headers of the
    first ones.

    Args:
        work: `stages.Work`; the work that follows each stage is stored in `later`,
            where its labels went in `books`.
        names: the stages to run.

    Returns:
        list of str, the plan for the user.

    Raises:
        ValueError, TypeError, OSError: for whatever would stop a stage later.
    """
    stages.check_labeled(work)
    _check_names(work.labeled.class_names)
    _check_needed(work, names)
    origins.check_all(work, names)
    to_train = [name for name in _trained(work, names) if not _is_done(work, name)]
    if to_train:
        problems.check_sizes(work.labeled)
    outlines = _outlines(work, to_train)
    labels = "pseudo_labels" in names and not work.labels(1).is_finished
    if labels and work.makes(1):
        _check_readable(work)
    validates = "evaluation" in names or work.experiment.data.validate_every
    if to_train or labels:
        _check_pixels(work, labels, validates)
    if validates:
        _check_validation(work)
    if to_train or labels or not _is_done(work, "evaluation"):
        _check_overlaps(work, names)
    work.later = _later(work, names, outlines)
    disk = _disk(work, outlines, labels)
    _check_disk(work, disk)
    return _lines(work, names, outlines, disk)


def _trained(work, names):
    """Return the names of the stages to run that are trainings."""
    control = work.experiment.teaching.control
    return [n for n in _TRAINED if n in names and (n != "control" or control)]


def _is_done(work, name):
    if name in _TRAINED:
        return work.folder.stage(name).is_finished
    if name == "pseudo_labels":
        return work.labels(1).is_finished
    return os.path.exists(work.folder.results)


def _check_names(class_names):
    """Check that class names can be written to a list, a line each."""
    wrong = [n for n in class_names if n != n.strip() or not n or "\n" in n]
    if wrong:
        raise ValueError(
            "Expected class names of one line each, without surrounding space. "
            f"Received: {wrong[0]!r}"
        )


def _check_needed(work, names):
    """Check that what stages need is there, or made before them."""
    stage, labels = work.folder.stage, work.labels(1)
    starts = work.experiment.teaching.student_init == "teacher"
    makes_labels = "pseudo_labels" in names and work.makes_labels
    needs_labels = "student" in names and not stage("student").is_finished
    if (needs_labels or "pseudo_labels" in names) and not makes_labels:
        label_store.read_manifest(labels.path)
    if labels.is_finished:
        stored = label_store.read(labels.path, work.labeled.class_names)
        if "student" in names and not _is_done(work, "student"):
            problems.check_places(stored)
    needs_teacher = (makes_labels and not labels.is_finished) or any(
        starts and name in names and not stage(name).is_finished
        for name in ("student", "control")
    )
    evaluates = "evaluation" in names and not set(names) & set(_TRAINED)
    if evaluates and not any(stage(name).is_finished for name in _TRAINED):
        needs_teacher = True
    if needs_teacher and "teacher" not in names:
        results.check_finished(stage("teacher"))


def _outlines(work, names):
    """Check the settings of trainings; return an outline of each."""
    if not names:
        return {}
    network = stages.model_of(work)
    _check_detections(work, network)
    streams = {}
    if work.classified:
        streams["classified"] = work.classified
        streams["classifier"] = stages.classifier_of(work, network)
    outlines = {}
    for name in names:
        own = {}
        if name == "student":  # the labels, as long as there are none
            own["pseudo"] = work.labeled
        elif name == "control":
            own["fill_with_labeled"] = True
        try:
            outlines[name] = stages.train(work, name, network, None, **streams, **own)
        except (ValueError, TypeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            reason = str(error).strip().splitlines()[0]
            raise kind(f"{reason} (settings of {name})") from error
    return outlines


def _check_detections(work, network):
    """Warn of a model that can't find as many objects as there are on an image."""
    limit = getattr(network, "max_detections", None)
    if limit is None or work.labeled.has_masks:
        return
    most = work.labeled.box_counts[:, 1].max(initial=0)
    if most > limit:
        print(
            f"warning: an image has {most:,} objects, but the model finds at most "
            f"{limit:,} (max_detections)",
            flush=True,
        )


def _check_overlaps(work, names):
    """Warn of images that are in two sources."""
    used = {"labeled": work.labeled}
    if {"pseudo_labels", "student"} & set(names):
        if work.makes_labels:
            used["unlabeled"] = work.unlabeled
        elif work.labels(1).is_finished:
            used["pseudo-labeled"] = label_store.read(work.labels(1).path)
    if "evaluation" in names or work.experiment.data.validate_every:
        used["validation"] = work.validation
    for one, other, pairs, count in copies.overlaps(used):
        effect = "they are trained on twice"
        if one == "validation":
            effect = "metrics on them are too high"
        print(
            f"warning: {len(pairs):,} of {count:,} {one} images are {other} images, "
            f"too (first: {pairs[0][0]} is {pairs[0][1]}): {effect}",
            flush=True,
        )


def _check_pixels(work, labels, validates):
    """Tell what the network sees of the first images, if it isn't what they hold."""
    sources = {"labeled": work.labeled}
    if labels and work.makes_labels:
        sources["unlabeled"] = work.unlabeled
    if validates:
        sources["validation"] = work.validation
    for name, source in sources.items():
        found, pixel_range = pixels.of_source(source)
        for line in pixels.told(found, pixel_range, with_gray=False):
            print(f"{name}: {line}", flush=True)


def _check_readable(work):
    """Check that one of the first unlabeled images can be read."""
    size = work.experiment.labeling.batch_size
    reasons = []
    for example in work.unlabeled.dataset.take(size):
        reason = problems.problem(
            example, dataclasses.replace(work.unlabeled, has_masks=False)
        )
        if reason is None:
            return
        reasons.append(f"{problems.name(example)}: {reason}")
    print(
        f"warning: none of the first {len(reasons)} unlabeled images can be read, "
        f"such as {reasons[0]}",
        flush=True,
    )


def _check_validation(work):
    """Prepare a batch of the validation images."""
    data, source = work.experiment.data, work.validation
    problems.check_sizes(source)
    batches = pipeline.evaluation_batches(
        source,
        work.experiment.labeling.batch_size,
        tuple(data.image_size),
    )
    with problems.unreadable_images_named(source):
        next(iter(batches.take(1)))


def _work(work, name, outlines):
    """Return the work of a stage, in images that are trained on."""
    if name in outlines:
        return outlines[name].steps * outlines[name].images_per_step
    if name == "pseudo_labels":
        labeling = work.experiment.labeling
        views = len(labeling.scales) * (2 if labeling.flip else 1)
        return _FORWARD * views * work.unlabeled.num_images
    return 0.0


def _later(work, names, outlines):
    """Return the work that follows each training, in images that are trained on."""
    amounts = []
    for name in ("teacher", "pseudo_labels", "student", "control"):
        is_open = name in names and not _is_done(work, name)
        if is_open and (name != "pseudo_labels" or work.makes_labels):
            amounts.append((name, _work(work, name, outlines)))
    last = 0.0
    if "evaluation" in names:
        last = _FORWARD * work.validation.num_images * len(outlines)
    return {
        name: last + sum(amount for _, amount in amounts[index + 1 :])
        for index, (name, _) in enumerate(amounts)
    }


def _disk(work, outlines, labels):
    """Return the bytes that the stages will write, estimated."""
    total = 0.0
    for name, outline in outlines.items():
        models = 2 + (work.experiment.data.validate_every is not None)
        stage = (KEPT + 1) * outline.state + models * 4 * outline.weights + _PICTURES
        total += max(stage - _size(work.folder.stage(name).path), 0.0)
    if labels and work.makes_labels:
        pool, size = work.unlabeled, work.experiment.data.image_size
        per_image = _PER_PIXEL * size[0] * size[1] if work.labeled.has_masks else _BOXES
        example = next(iter(pool.dataset.take(1)))
        per_image += len(example["encoded"].numpy())
        total += pool.num_images * per_image
        total = max(total - _size(work.labels(1).path), 0.0)
    return total


def _size(folder):
    """Return the bytes that a folder holds."""
    files = (os.path.join(p, n) for p, _, names in os.walk(folder) for n in names)
    return sum(os.path.getsize(path) for path in files)


def _check_disk(work, needed):
    folder = os.path.abspath(work.folder.path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"Expected about {_bytes(needed)} of free disk space for "
            f"{work.folder.path}. Received: {_bytes(free)}"
        )


def _bytes(number):
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _lines(work, names, outlines, disk):
    lines = [f"plan: {work.folder.path}"]
    sources = [("labeled", work.labeled)]
    if {"pseudo_labels", "student"} & set(names) and work.makes_labels:
        sources.append(("unlabeled", work.unlabeled))
    if "evaluation" in names:
        sources.append(("validation", work.validation))
    if work.classified:
        sources.append(("classified", work.classified))
    for name, source in sources:
        text = _described(source, work.fingerprint(name), work.labeled)
        lines.append(f"  {name:14}{text}")
        if source.is_counted or source is work.labeled:
            book, is_pool = source.ledger, name == "unlabeled"
            work.books[name] = book = book.without_labels() if is_pool else book
            told = book.lines("compared" if name == "validation" else ledger.TAUGHT)
            lines += [f"  {'':14}{line}" for line in told]
    limit = work.experiment.data.max_boxes
    lines += [f"  {line}" for line in Streams(work.labeled, max_boxes=limit).surplus()]
    for name in (n for n in STAGES if n in names):
        if name != "control" or work.experiment.teaching.control:
            lines.append(f"  {name:14}{_task(work, name, outlines)}")
    if outlines:
        largest = max(outlines.values(), key=lambda o: o.state + o.batch)
        # Weights and optimizer, the gradient, and a batch that waits.
        memory = largest.state + 4 * largest.weights + 2 * largest.batch
        lines.append(
            f"  {'disk':14}about {_bytes(disk)}; memory: at least "
            f"{_bytes(memory)} beside the model's activations"
        )
    return lines


def _described(source, fingerprint, labeled):
    text = f"{source.num_images:,} images"
    if source.has_labels:
        if fingerprint.get("objects") and not source.has_masks:
            text += f", {fingerprint['objects']:,} objects"
        # Others than the labeled images' would be counted for this line only.
        if not source.has_masks and (source.is_counted or source is labeled):
            text += f", up to {source.most_boxes:,} on an image"
        names = source.class_names
        listed = ", ".join(names[:10]) + ", …" * (len(names) > 10)
        text += f", {len(names)} classes: {listed}"
    if source.skipped:
        text += f"; {len(source.skipped)} skipped"
    return text


def _task(work, name, outlines):
    """Return what a stage has to do, as text."""
    if _is_done(work, name):
        is_last = name == "evaluation"
        return "kept unless its models or images changed" if is_last else "finished"
    if name in outlines:
        outline = outlines[name]
        done = _steps_done(work.folder.stage(name))
        return (
            f"to do: {outline.steps:,} steps of {outline.images_per_step} images"
            f"{f', {done:,} done' if done else ''}; {outline.weights:,} weights"
        )
    if name == "pseudo_labels":
        return (
            f"to do: {work.unlabeled.num_images:,} images"
            if work.makes_labels
            else work.labels(1).path
        )
    return "to do"


def _steps_done(stage):
    """Return the step of a training's last checkpoint."""
    names = os.listdir(stage.checkpoints) if os.path.isdir(stage.checkpoints) else ()
    steps = [n.split("-")[1].split(".")[0] for n in names if n.endswith(".index")]
    return max(map(int, steps), default=0)


def write(work):
    """Write the configuration to the experiment's folder, before its first step."""
    os.makedirs(work.folder.path, exist_ok=True)
    stages.enter(work.folder, work.books)
    if work.described.text:
        atomic.write_text(work.folder.operative_gin, work.described.text)
