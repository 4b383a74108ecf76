"""The stages of an experiment.

Each docstring names the stage's inputs and outputs. Finished stages are kept.
"""

import contextlib
import dataclasses
import functools
import os
import time

import keras

from official_selftrain.data import examples, problems
from official_selftrain.experiment import origins, results, settings
from official_selftrain.files import atomic, hashes
from official_selftrain.files.run_folder import LabelFolder, RunFolder
from official_selftrain.inference.evaluation import evaluate_model
from official_selftrain.labeling import label_quality, label_store, teachers
from official_selftrain.metrics import headline
from official_selftrain.models.classifier import ImageClassifier
from official_selftrain.training import distribution
from official_selftrain.training.streams import Streams


class Work:
    """State shared by the stages: settings, folder, devices and data.

    Args:
        experiment: `Experiment`.
        model_dir: str.
        described: `settings.Described`, or None to describe the experiment's objects.
        keep: bool, whether to keep stages that were made from something else; `kept`
            lists them.
    """

    def __init__(self, experiment, model_dir, described=None, keep=False):
        self.experiment = experiment
        self.folder = RunFolder(model_dir)
        self.described = described or settings.described(experiment)
        self.keep = keep
        self.kept = []
        # The work after the current training, in images that are trained on.
        self.later = {}
        # Where the labels of the sources went, by the names of their properties.
        self.books = {}
        self._fingerprints = {}
        self.strategy = experiment.machine.open()
        # Opened once: models are created in its scope.
        self.machine = dataclasses.replace(
            experiment.machine, strategy=lambda: self.strategy
        )
        self.is_first = distribution.worker(self.strategy)[0] == 0

    @functools.cached_property
    def labeled(self):
        """The labeled images, an `examples.Source`."""
        return self._told("labeled", self.experiment.data.labeled())

    @functools.cached_property
    def unlabeled(self):
        """The unlabeled images, an `examples.Source`."""
        return self._told("unlabeled", self.experiment.data.unlabeled())

    @functools.cached_property
    def classified(self):
        """The classified images, an `examples.Source`, or None."""
        classified = self.experiment.data.classified
        return self._told("classified", classified()) if classified else None

    @functools.cached_property
    def validation(self):
        """The validation images, an `examples.Source`.

        Raises:
            ValueError: if classes or kind of labels differ from the labeled images'.
        """
        source = self._told("validation", self.experiment.data.validation())
        labeled = self.labeled
        if source.class_names != labeled.class_names:
            raise ValueError(
                "Expected the validation images to have the labeled ones' classes, "
                f"{list(labeled.class_names)}. Received: {list(source.class_names)}"
            )
        if not source.has_labels or source.has_masks != labeled.has_masks:
            kinds = {True: "masks", False: "boxes"}
            received = kinds[source.has_masks] if source.has_labels else "no label"
            raise ValueError(
                "Expected the validation images to have labels of the labeled ones' "
                f"kind, {kinds[labeled.has_masks]}. Received: {received}"
            )
        return source

    def fingerprint(self, name):
        """Return the fingerprint of a source, by the name of its property."""
        if name not in self._fingerprints:
            self._fingerprints[name] = getattr(self, name).fingerprint()
        return self._fingerprints[name]

    def _told(self, title, source):
        """Print what a source's reader changed, and return the source."""
        if self.is_first:
            for note in source.notes:
                print(f"{title}: {note}", flush=True)
        return source

    @property
    def makes_labels(self):
        """Whether the experiment's teacher makes the labels of the first round."""
        return self.experiment.labeling.labels_dir is None

    def makes(self, number):
        """Whether the labels of a round are made here, not given."""
        return number > 1 or self.makes_labels

    def origin_of_labels(self, number):
        """Return the origin of the labels of a round: its teacher."""
        labeling, teacher = self.experiment.labeling, self.folder.teacher(number)
        return {
            "kind": "keras",
            "sha256": hashes.sha256_of_model(teacher.model)
            if teacher.is_finished
            else None,
            "scales": list(labeling.scales),
            "flip": labeling.flip,
        }

    @property
    def storage(self):
        """How labels are stored."""
        # The model has its own limits: score_threshold and max_detections.
        shard_size = self.experiment.labeling.shard_size
        return label_store.Storage(shard_size, score_floor=0.0)

    def label_changes(self, number):
        """Return how the labels of a round differ from what would be made now."""
        before = atomic.read_json(self.labels(number).settings)
        now = label_store.settings_of(
            self.origin_of_labels(number),
            self.labeled.class_names,
            self.labeled.has_masks,
            self.unlabeled,
            self.storage,
            self.experiment.labeling.batch_size,
        )
        if self.labels(number).is_finished:  # by another version, too
            now["version"] = before.get("version")
            limit, most = before.get("max_boxes"), self._most_labels(number)
            if limit is not None and most < limit:  # earlier versions always had one
                now["max_boxes"] = limit
        return label_store.changes(before, now)

    def _most_labels(self, number):
        """Return the largest number of stored boxes of an image."""
        manifest = label_store.read_manifest(self.labels(number).path)
        return max(map(int, manifest["boxes_per_image_histogram"]), default=0)

    def labels(self, number):
        """Return the `LabelFolder` of a round."""
        if number == 1 and not self.makes_labels:
            return LabelFolder(self.experiment.labeling.labels_dir)
        return self.folder.round(number).labels

    @contextlib.contextmanager
    def precision(self):
        """Temporarily set the dtype policy to the machine's precision."""
        policy = keras.config.dtype_policy()
        if self.experiment.machine.precision is not None:
            keras.config.set_dtype_policy(self.experiment.machine.precision)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(policy)

    def wait_for(self, path):
        """Wait for a file that the first worker writes."""
        while not self.is_first and not os.path.exists(path):
            time.sleep(1.0)

    def model(self, stage):
        """Return the finished model of a `StageFolder`."""
        self.wait_for(stage.model)
        return results.load_model(stage)

    def figure(self, stage):
        """Return the validation headline metric of a `StageFolder`'s model.

        The first worker stores the metrics in the folder.
        """
        self.wait_for(stage.metrics)
        metrics = results.stored_metrics(
            stage.path,
            self.validation,
            self.experiment.labeling.batch_size,
            title=stage.path,
            origin=self.origin_of_metrics(stage),
        )
        return metrics[headline(metrics)] or 0.0

    def origin_of_metrics(self, stage):
        """Return what metrics of a stage are measured with."""
        return origins.of_metrics(self, stage)


def enter(folder, books):
    """Write where labels went to a folder's `ledger.json`, beside what it has.

    Args:
        folder: `RunFolder`.
        books: dict of a source's name to its `ledger.Ledger`.
    """
    before = atomic.read_json(folder.ledger) or {}
    content = {**before, **{name: book.content() for name, book in books.items()}}
    if content != before:
        atomic.write_json(folder.ledger, content)


def restart(work, name):
    """Move a stage and what follows from it aside.

    Returns:
        as `RunFolder.move_aside`.

    Raises:
        ValueError: with several workers, which would find some of it still there.
    """
    if distribution.worker(work.strategy)[1] > 1:
        raise ValueError(f"Expected one worker for restart. Received: restart={name!r}")
    moved = names, target = origins.restart(work, name)
    if names:
        print(f"restart: moved {', '.join(names)} to {target}", flush=True)
    return moved


def train_teacher(work):
    """Train the teacher on the labeled images.

    Needs: the labeled images. Writes: `teacher/`, the class names.
    """
    _train(work, work.folder.stage("teacher"))


def label(work, number):
    """Label the unlabeled images with the teacher of a round; measure label quality.

    Needs: the teacher, or the labels in `labels_dir`. Writes: `pseudo_labels/`, the
    labeling time and the quality of the labels.
    """
    folder = work.labels(number)
    if not work.is_first:
        work.wait_for(folder.manifest)
        return
    if work.makes(number) and os.path.exists(folder.settings):
        origins.check(work, "pseudo_labels", work.label_changes(number))
    if folder.is_finished:
        print("pseudo_labels: finished, kept", flush=True)
    elif not work.makes(number):
        label_store.read_manifest(folder.path)  # raises if the labels are missing
    else:
        start = time.monotonic()
        manifest = _label(work, number, folder)
        # Not part of the labels, which don't depend on it; after an interruption, only
        # the time since then.
        atomic.write_json(
            work.folder.round(number).labeling_time,
            {"seconds": time.monotonic() - start},
        )
        for line in manifest["skipped"]:
            print(f"skipped {line}", flush=True)
    _taught(work, number)


def _label(work, number, folder):
    """Label with the teacher of a round; return the manifest."""
    labeling, model = work.experiment.labeling, work.model(work.folder.teacher(number))
    teacher = teachers.keras_teacher(
        model,
        work.labeled.class_names,
        work.origin_of_labels(number),
        labeling.scales,
        labeling.flip,
    )
    return label_store.write(
        teacher, work.unlabeled, folder.path, work.storage, labeling.batch_size
    )


def train_student(work, number):
    """Train the student of a round on labeled and pseudo-labeled images.

    Needs: the round's labels, and its teacher if the student starts from it. Writes:
    `student/`.
    """
    folder, taught = work.folder.round(number), _taught(work, number)
    stage = folder.stage("student")
    if work.is_first and not stage.is_finished:
        for line in taught.ledger.lines():
            print(f"pseudo: {line}", flush=True)
        enter(folder, {"pseudo": taught.ledger})
    _train(work, stage, number, pseudo=taught)


def train_control(work):
    """Train the control: the student's training without pseudo-labels.

    Needs: the teacher, if the control starts from it. Writes: `control/`.
    """
    _train(work, work.folder.stage("control"), fill_with_labeled=True)


def was_worth_it(work, number):
    """Return whether the student of a round is better than its teacher.

    Always True before the first round, and when the labels came from another teacher.

    Needs: both models, the validation images. Writes: their metrics.
    """
    if number == 0 or (number == 1 and not work.folder.teacher().is_finished):
        return True
    student = work.figure(work.folder.round(number).stage("student"))
    before = work.figure(work.folder.teacher(number))
    end = "" if student > before else ": no rise, no further round"
    print(
        f"round {number}: student {student:.2f}, teacher {before:.2f}{end}", flush=True
    )
    return student > before


def evaluate(work):
    """Evaluate the finished models and write the report.

    Needs: at least one model, the validation images. Writes: `results.json`,
    `report.html`, and the metrics in each model's folder.

    Returns:
        dict, the content of `results.json`.
    """
    rounds = work.experiment.teaching.rounds
    taught, quality = None, None
    if work.labels(1).is_finished:
        taught, quality = _stored(work, 1)
    students = [work.folder.round(n).stage("student") for n in range(1, rounds + 1)]
    done = [stage for stage in students if stage.is_finished]
    figures = [
        {"round": number, "student": work.figure(stage)}
        for number, stage in enumerate(done if rounds > 1 else [], start=1)
    ]
    return results.evaluate(
        work.folder.path,
        lambda: work.validation,
        work.experiment,
        taught,
        quality,
        figures,
        work.kept,
        work.origin_of_metrics,
    )


def _train(work, stage, number=1, **streams):
    """Train a model in a `StageFolder`, from its teacher's weights if it has one."""
    origins.settle(work, stage, stage.name, number)
    if stage.is_finished:
        print(f"{stage.name}: finished, kept", flush=True)
        return
    check_labeled(work)
    if work.is_first:
        os.makedirs(work.folder.path, exist_ok=True)
        _write_names(work.folder.class_names, work.labeled.class_names)
    network = model_of(work)
    starts = work.experiment.teaching.student_init == "teacher"
    teacher = None
    if stage.name != "teacher" and starts:
        teacher = work.folder.teacher(number)
        network.set_weights(work.model(teacher).get_weights())
    if work.classified:
        streams["classified"] = work.classified
        streams["classifier"] = classifier_of(work, network)
        _settle_classes(work, streams["classifier"], teacher)
    train(work, stage.name, network, stage.path, **streams)


def model_of(work):
    """Return a new model: the same in every stage."""
    keras.utils.set_random_seed(work.experiment.seed)
    with work.strategy.scope():
        return work.experiment.model(
            num_classes=len(work.labeled.class_names),
            image_size=tuple(work.experiment.data.image_size),
        )


def train(work, name, network, output_dir, **streams):
    """Train a model as a stage does, or check the settings if `output_dir` is None.

    Args:
        work: `Work`.
        name: str, the stage.
        network: the model.
        output_dir: str or None.
        **streams: `pseudo`, `classified`, `classifier`, `fill_with_labeled`.

    Returns:
        as `training.fit`.
    """
    experiment, data = work.experiment, work.experiment.data
    fit = experiment.teacher if name == "teacher" else experiment.student
    with contextlib.ExitStack() as named:
        for source in filter(None, (work.labeled, work.classified)):
            named.enter_context(problems.unreadable_images_named(source))
        return fit(
            network,
            Streams(
                work.labeled,
                validate=data.validate_every and functools.partial(_validated, work),
                validate_every=data.validate_every,
                max_boxes=data.max_boxes,
                # Student and control use the same order and augmentation of the
                # labeled images; the teacher's differ.
                seed=2 * experiment.seed + (name != "teacher"),
                later=work.later.get(name, 0.0),
                **streams,
            ),
            output_dir,
            machine=work.machine,
        )


def check_labeled(work):
    """Check that the labeled images have labels that suit the labeling settings."""
    if not work.labeled.has_labels:
        raise ValueError(
            "Expected labeled images. Received: images without annotations"
        )
    labeling = work.experiment.labeling
    if not work.labeled.has_masks and labeling.averages:
        raise ValueError(
            "Expected scales (1.0,), no flip where labels are boxes. "
            f"Received: scales={labeling.scales}, flip={labeling.flip}"
        )


def classifier_of(work, network):
    """Return a classifier on a model's backbone.

    Raises:
        TypeError: for a model without a backbone.
    """
    if not hasattr(network, "backbone"):
        raise TypeError(
            "Expected a model with a backbone to share with a classifier. "
            f"Received: {type(network).__name__}"
        )
    with work.strategy.scope():
        # `Streams` rejects images without classes.
        count = max(len(work.classified.class_names), 2)
        return ImageClassifier(count, network.image_size, network.backbone)


def _settle_classes(work, classifier, teacher):
    """Store the classified images' classes; give a classifier a teacher's weights."""
    source = work.classified
    if work.is_first:
        for line in source.skipped:
            print(f"skipped {line}", flush=True)
    path = work.folder.classified_class_names
    if work.is_first and not os.path.exists(path):
        _write_names(path, source.class_names)
    work.wait_for(path)
    with open(path) as file:
        before = file.read().splitlines()
    if before != list(source.class_names):
        raise ValueError(
            f"Expected the classified images' classes of {path}, "
            f"{before[:10]}. Received: {list(source.class_names)[:10]}"
        )
    if teacher and os.path.exists(teacher.classifier):
        # The backbone's weights equal those of the teacher's model.
        classifier.set_weights(
            keras.saving.load_model(teacher.classifier).get_weights()
        )


def _write_names(path, names):
    atomic.write_text(path, "".join(f"{name}\n" for name in names))


def _validated(work, network):
    """Return the headline metric of a model on the validation images."""
    metrics = evaluate_model(
        network,
        work.validation,
        work.experiment.labeling.batch_size,
        name="validation",
    )
    return metrics[headline(metrics)] or 0.0


def _stored(work, number):
    """Return the labels of a round to train on, and their quality.

    Only the first worker measures the quality.
    """
    teaching = work.experiment.teaching
    stored = label_store.read(work.labels(number).path, work.labeled.class_names)
    quality = _quality(work, number, stored) if work.is_first else None
    taught = examples.apply_threshold(
        stored, teaching.score_threshold, teaching.ignore_threshold
    )
    return taught, quality


def _taught(work, number):
    """Return the labels of a round to train on; reject mostly empty ones."""
    taught, quality = _stored(work, number)
    if work.is_first:
        label_quality.require_labels(quality, work.experiment.teaching.max_empty_share)
    return taught


def _quality(work, number, stored):
    """Return the quality of the pseudo-labels, measured once per threshold."""
    path = work.folder.round(number).quality
    threshold = work.experiment.teaching.score_threshold
    quality, digest = atomic.read_json(path), stored.fingerprint()["sha256"]
    before = quality and (quality["score_threshold"], quality.get("labels_sha256"))
    if before != (threshold, digest):
        quality = label_quality.measure(stored, threshold, _truth(work, stored))
        quality["labels_sha256"] = digest
        os.makedirs(os.path.dirname(path), exist_ok=True)
        atomic.write_json(path, quality)
    return quality


def _truth(work, stored):
    """Return the unlabeled images' ground truth if it is comparable, or None.

    It must have the same classes and the same kind of labels.
    """
    if not work.makes_labels:
        return None
    pool = work.unlabeled
    is_comparable = (
        pool.has_labels
        and pool.class_names == stored.class_names
        and pool.has_masks == stored.has_masks
    )
    return pool if is_comparable else None
