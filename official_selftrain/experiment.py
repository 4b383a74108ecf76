"""An experiment: teacher, pseudo-labels, student, control and evaluation.

Everything lies in one `model_dir`. A stage that is finished is kept when the
experiment runs again; one that was interrupted continues from its last
checkpoint or shard.
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import platform

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from official_selftrain import label_quality, pseudo_labels, report, teachers
from official_selftrain.data import augment, examples, masks, pipeline, problems
from official_selftrain.fitting import check_counts, read_history

STAGES = ("teacher", "pseudo_labels", "student", "control", "evaluation")

_TRAINED = ("teacher", "student", "control")
_NUM_SAMPLES = 8
_DRAWN_SCORE = 0.5  # predictions below it aren't drawn
_PACKAGES = (
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "keras-cv",
    "pycocotools",
    "numpy",
    "gin-config",
)


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
            start, steps and images per step, but labelled images only.
        label_batch_size: int, for labelling and evaluation.
        shard_size: int, images per shard of pseudo-labels.
        max_boxes: int, slots for the labels of an image.
        label_scales: floats, scales that a teacher of masks averages over.
        label_flip: bool, whether it averages over mirror images too.
        labels_dir: str, a folder of labels that `pseudo_label` has made with
            whatever teacher; None: this experiment's teacher labels `unlabeled`.
        max_empty_share: float in 0…1; labels of which a larger share of the images
            has none at the threshold are refused.

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
        label_batch_size=label_batch_size, shard_size=shard_size, max_boxes=max_boxes
    )
    examples.check_thresholds(score_threshold, ignore_threshold)
    _check_choice("stages", stages, STAGES)
    _check_choice("student_init", [student_init], ("teacher", "random"))
    if np.ndim(label_scales) != 1 or not np.all(np.greater(label_scales, 0.0)):
        raise ValueError(
            "Expected label_scales, numbers above 0. "
            f"Received: label_scales={label_scales!r}"
        )
    labeled, unlabeled = functools.cache(labeled), functools.cache(unlabeled)
    makes_labels = labels_dir is None
    labels_dir = labels_dir or os.path.join(model_dir, "pseudo_labels")

    def train(stage, function, pseudo=None, **settings):
        if os.path.exists(_model_path(model_dir, stage)):
            print(f"{stage}: finished, kept", flush=True)
            return
        source = labeled()
        if not source.has_labels:
            raise ValueError("Expected labelled images. Received: no annotation at all")
        os.makedirs(model_dir, exist_ok=True)
        with open(os.path.join(model_dir, "labels.txt"), "w") as file:
            file.writelines(f"{name}\n" for name in source.class_names)
        if not source.has_masks and (tuple(label_scales) != (1.0,) or label_flip):
            raise ValueError(
                "Expected label_scales (1.0,), no label_flip where labels are boxes. "
                f"Received: label_scales={label_scales}, label_flip={label_flip}"
            )
        keras.utils.set_random_seed(seed)
        network = model(
            num_classes=len(source.class_names), image_size=tuple(image_size)
        )
        if stage != "teacher" and student_init == "teacher":
            network.set_weights(load_model(model_dir, "teacher").get_weights())
        with _unreadable_images_named(source):
            function(
                network,
                source,
                pseudo,
                os.path.join(model_dir, stage),
                # Student and control see the labelled images in the same order
                # and with the same augmentation, the teacher in another.
                seed=2 * seed + (stage != "teacher"),
                max_boxes=max_boxes,
                **settings,
            )

    def stored_labels():
        stored = pseudo_labels.read(labels_dir, labeled().class_names)
        known = unlabeled if makes_labels else None
        quality = _quality(model_dir, stored, score_threshold, known)
        return stored, quality

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

    if "teacher" in stages:
        if "evaluation" in stages and not os.path.exists(
            _model_path(model_dir, "teacher")
        ):
            checked_validation()  # a mistake in it shows before hours of training
        train("teacher", teacher)
    if "pseudo_labels" in stages:
        if os.path.exists(os.path.join(labels_dir, "manifest.json")):
            print("pseudo_labels: finished, kept", flush=True)
        elif not makes_labels:
            pseudo_labels.read_manifest(labels_dir)
        else:
            by = teachers.keras_teacher(
                load_model(model_dir, "teacher"),
                labeled().class_names,
                {
                    "kind": "keras",
                    "sha256": teachers.sha256(_model_path(model_dir, "teacher")),
                    "scales": list(label_scales),
                    "flip": label_flip,
                },
                label_scales,
                label_flip,
            )
            manifest = pseudo_labels.write(
                by,
                unlabeled(),
                labels_dir,
                label_batch_size,
                shard_size,
                score_floor=0.0,  # the model has its own
            )
            for line in manifest["skipped"]:
                print(f"skipped {line}", flush=True)
        label_quality.require_labels(stored_labels()[1], max_empty_share)
    if "student" in stages:
        stored, quality = stored_labels()
        label_quality.require_labels(quality, max_empty_share)
        taught = examples.apply_threshold(stored, score_threshold, ignore_threshold)
        train("student", student, taught)
    if "control" in stages and control:
        train("control", student, fill_with_labeled=True)
    if "evaluation" in stages:
        stored, quality = None, None
        if os.path.exists(os.path.join(labels_dir, "manifest.json")):
            stored, quality = stored_labels()
            stored = examples.apply_threshold(stored, score_threshold, ignore_threshold)
        return evaluate(
            model_dir,
            checked_validation,
            stored,
            quality,
            seed,
            label_batch_size,
            max_boxes,
        )
    return _read_json(os.path.join(model_dir, "results.json")) or {}


def load_model(model_dir, stage):
    """Load the finished model of a stage.

    Args:
        model_dir: str.
        stage: `"teacher"`, `"student"` or `"control"`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if the stage isn't finished.
    """
    path = _model_path(model_dir, stage)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"Expected {path}. Make it with the stage {stage}: "
            f"python -m official_selftrain.train … --stages={stage}"
        )
    return keras.saving.load_model(path)


def evaluate(
    model_dir,
    validation,
    stored=None,
    quality=None,
    seed=0,
    batch_size=16,
    max_boxes=100,
):
    """Evaluate the finished models of an experiment and write its report.

    Args:
        model_dir: str.
        validation: function () → `examples.Source` with labels.
        stored: `examples.Source` of confident pseudo-labels, or None.
        quality: dict of `label_quality.measure`, or None.
        seed: int, reported.
        batch_size: int.
        max_boxes: int, slots for the labels of an image.

    Returns:
        dict, as written to `results.json`.

    Raises:
        FileNotFoundError: if no model is finished.
    """
    stages = [s for s in _TRAINED if os.path.exists(_model_path(model_dir, s))]
    if not stages:
        load_model(model_dir, "teacher")
    path = os.path.join(model_dir, "results.json")
    results = _read_json(path) or {}
    if (
        set(stages) <= set(results)
        and results["pseudo_labels"] == quality
        and os.path.exists(os.path.join(model_dir, "report.html"))
    ):
        print("evaluation: finished, kept", flush=True)
        return results
    source = validation()
    samples = report.samples(source, _NUM_SAMPLES)
    histories = {}
    for stage in stages:
        stage_dir = os.path.join(model_dir, stage)
        network = load_model(model_dir, stage)
        metrics_path = os.path.join(stage_dir, "metrics.json")
        metrics = _read_json(metrics_path)
        if metrics is None:
            with _unreadable_images_named(source):
                metrics = evaluate_model(network, source, batch_size, max_boxes, stage)
            _write_json(metrics_path, metrics)
        summary = _read_json(os.path.join(stage_dir, "fit.json"))
        results[stage] = {**metrics, **summary}
        histories[stage] = read_history(stage_dir)
        _add_predictions(samples, stage, network)
    results["pseudo_labels"] = quality
    results["config"] = {
        "seed": seed,
        "alpha": results.get("student", {}).get("alpha"),
        "versions": _versions(),
    }
    report.write(
        os.path.join(model_dir, "report.html"),
        results,
        histories,
        samples,
        report.samples(stored, _NUM_SAMPLES) if stored else [],
        source.class_names,
    )
    _write_json(path, results)
    return results


def evaluate_model(model, source, batch_size=16, max_boxes=100, name="model"):
    """Evaluate a model on labelled images.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        source: `examples.Source` with labels.
        batch_size: int.
        max_boxes: int, slots for the labels of an image.
        name: str, shown with the progress.

    Returns:
        dict of the model's metrics; for detection COCO's twelve, for segmentation
        mean IoU, in percent.
    """
    predict = teachers.predictor(model)
    metric = model.metric()
    with tqdm(
        total=source.num_images, desc=f"evaluation of {name}", unit="image"
    ) as bar:
        for batch in pipeline.evaluation_batches(
            source, batch_size, model.image_size, max_boxes
        ):
            metric.update(predict(batch["images"], batch["sizes"]), batch)
            bar.update(len(batch["ids"]))
    return metric.result()


def _add_predictions(samples, title, model):
    """Add a model's labels to the samples of a report."""
    label = teachers.labeler(model)
    for sample in samples:
        image = sample["image"]
        frame, _, _ = augment.fit(image, {}, model.image_size)
        labels = label(frame[None], np.array([image.shape[:2]], np.int32))[0]
        if "mask" in labels:
            sample["labels"][title] = {"mask": masks.decode(labels["mask"]).numpy()}
        else:
            labels["ignore"] = np.zeros(len(labels["boxes"]), bool)
            drawn = labels["scores"] >= _DRAWN_SCORE
            sample["labels"][title] = {k: v[drawn] for k, v in labels.items()}


@contextlib.contextmanager
def _unreadable_images_named(source):
    """Turn a decoding error of the pipeline into one that names the file."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        lines = problems.unreadable_images(source)
        if not lines:
            raise
        raise ValueError(
            f"Expected readable images. Received: {lines[0]} "
            f"({len(lines)} of {source.num_images} images can't be read)"
        ) from None


def _quality(model_dir, stored, score_threshold, unlabeled):
    """Return the pseudo-labels' quality, measured once for a threshold."""
    path = os.path.join(model_dir, "quality.json")
    quality = _read_json(path)
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
        _write_json(path, quality)
    return quality


def _versions():
    versions = {"python": platform.python_version()}
    for package in ("official_selftrain", *_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _check_choice(name, values, known):
    unknown = [value for value in values if value not in known]
    if unknown:
        raise ValueError(
            f"Expected {name} among {', '.join(known)}. Received: {unknown[0]!r}"
        )


def _model_path(model_dir, stage):
    return os.path.join(model_dir, stage, "model.keras")


def _read_json(path):
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def _write_json(path, content):
    with open(path + ".partial", "w") as file:
        json.dump(content, file, indent=2)
    os.replace(path + ".partial", path)
