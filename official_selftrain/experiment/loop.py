"""An experiment: teacher, pseudo-labels, student, control and evaluation.

Everything lies in one `model_dir`. A stage that is finished is kept when the
experiment runs again; one that was interrupted continues from its last
checkpoint or shard.
"""

import contextlib
import functools
import os
import time

import keras
import numpy as np
import tensorflow as tf

from official_selftrain.checks import arguments
from official_selftrain.data import examples, problems
from official_selftrain.experiment import results
from official_selftrain.experiment.results import load_model, model_path
from official_selftrain.files import atomic, hashes
from official_selftrain.files.atomic import read_json
from official_selftrain.inference import evaluation
from official_selftrain.labeling import label_quality, label_store, teachers
from official_selftrain.metrics import headline
from official_selftrain.models.classifier import ImageClassifier
from official_selftrain.training import distribution
from official_selftrain.training.fitting import check_counts

_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

STAGES = ("teacher", "pseudo_labels", "student", "control", "evaluation")


def run(
    model_dir,
    labeled,
    unlabeled,
    validation,
    model,
    teacher,
    student,
    image_size,
    stages=STAGES,
    seed=0,
    score_threshold=0.5,
    ignore_threshold=None,
    student_init="teacher",
    control=True,
    label_batch_size=16,
    shard_size=500,
    max_boxes=100,
    label_scales=(1.0,),
    label_flip=False,
    labels_dir=None,
    max_empty_share=0.95,
    strategy=None,
    precision="float32",
    rounds=1,
    validate_every=None,
    classified=None,
):
    """Run an experiment, or some of its stages.

    Args:
        model_dir: str, where everything is kept.
        labeled: function () → `examples.Source` with labels.
        unlabeled: function () → `examples.Source`; its labels, if any, only
            tell what the pseudo-labels are worth.
        validation: function () → `examples.Source` with labels.
        model: function `(num_classes, image_size)` → model that obeys the
            contract of `official_selftrain.models`.
        teacher: `fitting.fit` with its settings bound.
        student: `fitting.fit` with its settings bound; trains the control too.
        image_size: (height, width) of the frame.
        stages: names out of `STAGES`.
        seed: int, of weights, order and augmentation.
        score_threshold: float, pseudo-labels from this score on are taught.
        ignore_threshold: float or None, pseudo-labels from it up to
            `score_threshold` are neither taught nor taken for background.
        student_init: `"teacher"`: student and control start from the teacher's
            weights; `"random"`: from the weights the teacher started from.
        control: bool, train a supervised control to compare with: the student's
            start, steps and images per step, but no pseudo-labels.
        label_batch_size: int, for labelling and evaluation.
        shard_size: int, images per shard of pseudo-labels.
        max_boxes: int, slots for the labels of an image.
        label_scales: floats, scales that a teacher of masks averages over.
        label_flip: bool, whether it averages over mirror images too.
        labels_dir: str, a folder of labels that `pseudo_label` has made with
            whatever teacher; None: this experiment's teacher labels `unlabeled`.
        max_empty_share: float in 0…1; labels of which a larger share of the images
            has none at the threshold are refused.
        strategy: function () → `tf.distribute.Strategy`, such as
            `distribution.strategy`, or None. Of several workers, which share
            `model_dir`, the first labels, evaluates and writes.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        rounds: int. The student of a round is the teacher of the next, whose labels
            and student lie in `model_dir/round_2` and so on; there is none after a
            student that isn't better on the validation images than its teacher.
        validate_every: int, steps between two validations in training (see
            `fitting.fit`), or None for no validation before the end.
        classified: function () → `examples.Source` whose images have a class each, for
            joint training of the backbone (see `SelfTrainer`), or None.

    Returns:
        dict, the content of `results.json`; empty before the first evaluation.

    Raises:
        ValueError: for bad settings or data, or a teacher that makes no label.
        FileNotFoundError: if a stage lacks the result of an earlier one.

    Source: paper section 3; the control is our own.
    """
    if not (len(np.shape(image_size)) == 1 and len(image_size) == 2):
        raise ValueError(
            f"Expected image_size (height, width). Received: image_size={image_size!r}"
        )
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"Expected seed of at least 0. Received: seed={seed!r}")
    check_counts(
        label_batch_size=label_batch_size,
        shard_size=shard_size,
        max_boxes=max_boxes,
        rounds=rounds,
    )
    if validate_every is not None:
        check_counts(validate_every=validate_every)
    examples.check_thresholds(score_threshold, ignore_threshold)
    for stage in stages:
        arguments.check_choice("stages", stage, STAGES)
    arguments.check_choice("student_init", student_init, ("teacher", "random"))
    if np.ndim(label_scales) != 1 or not np.all(np.greater(label_scales, 0.0)):
        raise ValueError(
            "Expected label_scales, numbers above 0. "
            f"Received: label_scales={label_scales!r}"
        )
    arguments.check_choice("precision", precision, _PRECISIONS)
    strategy = strategy() if strategy else tf.distribute.get_strategy()
    is_first = distribution.worker(strategy)[0] == 0
    labeled, unlabeled = functools.cache(labeled), functools.cache(unlabeled)
    classified = functools.cache(classified) if classified else None
    makes_labels = labels_dir is None

    def round_dir(number):
        return model_dir if number == 1 else os.path.join(model_dir, f"round_{number}")

    def teacher_dir(number):
        if number == 1:
            return os.path.join(model_dir, "teacher")
        return os.path.join(round_dir(number - 1), "student")

    def labels_of(number):
        if number == 1 and not makes_labels:
            return labels_dir
        return os.path.join(round_dir(number), "pseudo_labels")

    def load(folder):
        _await(os.path.join(folder, "model.keras"), is_first)
        return load_model(*os.path.split(folder))

    def train(stage, function, pseudo=None, number=1, **settings):
        stage_dir = os.path.join(round_dir(number), stage)
        if os.path.exists(os.path.join(stage_dir, "model.keras")):
            print(f"{stage}: finished, kept", flush=True)
            return
        source = labeled()
        if not source.has_labels:
            raise ValueError("Expected labelled images. Received: no annotation at all")
        if is_first:
            os.makedirs(model_dir, exist_ok=True)
            with open(os.path.join(model_dir, "labels.txt"), "w") as file:
                file.writelines(f"{name}\n" for name in source.class_names)
        if not source.has_masks and (tuple(label_scales) != (1.0,) or label_flip):
            raise ValueError(
                "Expected label_scales (1.0,), no label_flip where labels are boxes. "
                f"Received: label_scales={label_scales}, label_flip={label_flip}"
            )
        keras.utils.set_random_seed(seed)
        with strategy.scope():
            network = model(
                num_classes=len(source.class_names), image_size=tuple(image_size)
            )
        if stage != "teacher" and student_init == "teacher":
            network.set_weights(load(teacher_dir(number)).get_weights())
        if classified:
            settings["classified"] = classified()
            settings["classifier"] = classifier(network, stage, number)
        if validate_every:
            settings["validate"] = validated
            settings["validate_every"] = validate_every
        with contextlib.ExitStack() as named:
            for read in (source, settings.get("classified")):
                if read is not None:
                    named.enter_context(problems.unreadable_images_named(read))
            function(
                network,
                source,
                pseudo,
                stage_dir,
                # Student and control see the labelled images in the same order
                # and with the same augmentation, the teacher in another.
                seed=2 * seed + (stage != "teacher"),
                max_boxes=max_boxes,
                strategy=strategy,
                **settings,
            )

    def classifier(network, stage, number):
        """Return a classifier on a model's backbone, with the teacher's weights."""
        source = classified()
        if not hasattr(network, "backbone"):
            raise TypeError(
                "Expected a model with a backbone to share with a classifier. "
                f"Received: {type(network).__name__}"
            )
        with strategy.scope():
            # `fit` refuses images without classes.
            count = max(len(source.class_names), 2)
            made = ImageClassifier(count, network.image_size, network.backbone)
        if is_first:
            for line in source.skipped:
                print(f"skipped {line}", flush=True)
        known = os.path.join(model_dir, "classified_labels.txt")
        names = "".join(f"{name}\n" for name in source.class_names)
        if is_first and not os.path.exists(known):
            with open(known, "w") as file:
                file.write(names)
        _await(known, is_first)
        with open(known) as file:
            before = file.read()
        if before != names:
            raise ValueError(
                f"Expected the classified images' classes of {known}, "
                f"{before.splitlines()[:10]}. Received: {names.splitlines()[:10]}"
            )
        before = os.path.join(teacher_dir(number), "classifier.keras")
        starts_anew = stage == "teacher" or student_init != "teacher"
        if not starts_anew and os.path.exists(before):
            # The backbone's are the same as in the teacher's model.
            made.set_weights(keras.saving.load_model(before).get_weights())
        return made

    def validated(network):
        metrics = evaluation.evaluate_model(
            network, checked_validation(), label_batch_size, max_boxes, "validation"
        )
        return metrics[headline(metrics)] or 0.0

    def stored_labels(number=1):
        stored = label_store.read(labels_of(number), labeled().class_names)
        known = unlabeled if makes_labels else None
        quality = None
        if is_first:
            quality = _quality(round_dir(number), stored, score_threshold, known)
        return stored, quality

    def taught_labels(number=1):
        stored, quality = stored_labels(number)
        if is_first:
            label_quality.require_labels(quality, max_empty_share)
        return examples.apply_threshold(stored, score_threshold, ignore_threshold)

    def label(number):
        manifest = os.path.join(labels_of(number), "manifest.json")
        if not is_first:
            _await(manifest)
            return
        if os.path.exists(manifest):
            print("pseudo_labels: finished, kept", flush=True)
        elif number == 1 and not makes_labels:
            label_store.read_manifest(labels_dir)
        else:
            folder = teacher_dir(number)
            by = teachers.keras_teacher(
                load(folder),
                labeled().class_names,
                {
                    "kind": "keras",
                    "sha256": hashes.sha256(os.path.join(folder, "model.keras")),
                    "scales": list(label_scales),
                    "flip": label_flip,
                },
                label_scales,
                label_flip,
            )
            start = time.monotonic()
            written = label_store.write(
                by,
                unlabeled(),
                labels_of(number),
                # The model has its own floor.
                label_store.Storage(shard_size, score_floor=0.0),
                label_batch_size,
            )
            # Beside the labels, which are the same however long they took; of a run
            # that was interrupted, what came after.
            atomic.write_json(
                os.path.join(round_dir(number), "labelling.json"),
                {"seconds": time.monotonic() - start},
            )
            for line in written["skipped"]:
                print(f"skipped {line}", flush=True)
        taught_labels(number)

    def figure(folder):
        """Return what the model of a folder comes to on the validation images."""
        if not is_first:
            _await(os.path.join(folder, "metrics.json"))
        metrics = results.stored_metrics(
            folder, checked_validation(), label_batch_size, max_boxes, title=folder
        )
        return metrics[headline(metrics)] or 0.0

    def rises(number):
        """Return whether the student of a round is better than its teacher."""
        if number == 1 and not os.path.exists(model_path(model_dir, "teacher")):
            return True  # another teacher made the labels
        student = figure(os.path.join(round_dir(number), "student"))
        before = figure(teacher_dir(number))
        end = "" if student > before else ": no rise, no further round"
        print(
            f"round {number}: student {student:.2f}, teacher {before:.2f}{end}",
            flush=True,
        )
        return student > before

    @functools.cache
    def checked_validation():
        source = validation()
        if source.class_names != labeled().class_names:
            raise ValueError(
                "Expected the validation images to have the labelled ones' classes, "
                f"{list(labeled().class_names)}. Received: {list(source.class_names)}"
            )
        if not source.has_labels or source.has_masks != labeled().has_masks:
            kinds = {True: "masks", False: "boxes"}
            received = kinds[source.has_masks] if source.has_labels else "no label"
            raise ValueError(
                "Expected the validation images to have labels of the labelled ones' "
                f"kind, {kinds[labeled().has_masks]}. Received: {received}"
            )
        return source

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        if "teacher" in stages:
            if "evaluation" in stages and not os.path.exists(
                model_path(model_dir, "teacher")
            ):
                checked_validation()  # a mistake in it shows before hours of training
            train("teacher", teacher)
        for number in range(1, rounds + 1):
            if number > 1:
                if "student" not in stages or not rises(number - 1):
                    break
                os.makedirs(round_dir(number), exist_ok=True)
            if "pseudo_labels" in stages:
                label(number)
            if "student" in stages:
                train("student", student, taught_labels(number), number)
        if "control" in stages and control:
            train("control", student, fill_with_labeled=True)
    finally:
        keras.config.set_dtype_policy(policy)
    if "evaluation" in stages and is_first:
        stored, quality = None, None
        if os.path.exists(os.path.join(labels_of(1), "manifest.json")):
            stored, quality = stored_labels()
            stored = examples.apply_threshold(stored, score_threshold, ignore_threshold)
        folders = [os.path.join(round_dir(n), "student") for n in range(1, rounds + 1)]
        done = [f for f in folders if os.path.exists(os.path.join(f, "model.keras"))]
        figures = [
            {"round": number, "student": figure(folder)}
            for number, folder in enumerate(done if rounds > 1 else [], start=1)
        ]
        return results.evaluate(
            model_dir,
            checked_validation,
            stored,
            quality,
            seed,
            label_batch_size,
            max_boxes,
            figures,
        )
    return read_json(os.path.join(model_dir, "results.json")) or {}


def _await(path, is_there=False):
    """Wait for a file that another worker writes."""
    while not is_there and not os.path.exists(path):
        time.sleep(1.0)


def _quality(model_dir, stored, score_threshold, unlabeled):
    """Return the pseudo-labels' quality, measured once for a threshold."""
    path = os.path.join(model_dir, "quality.json")
    quality = read_json(path)
    if quality is None or quality["score_threshold"] != score_threshold:
        pool = unlabeled() if unlabeled else None
        # Labels of other classes say nothing about these.
        known = (
            pool is not None
            and pool.has_labels
            and pool.class_names == stored.class_names
            and pool.has_masks == stored.has_masks
        )
        quality = label_quality.measure(
            stored, score_threshold, pool if known else None
        )
        atomic.write_json(path, quality)
    return quality
