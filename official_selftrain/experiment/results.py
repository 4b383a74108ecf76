"""Evaluating models, and the figures and the report of an experiment."""

import contextlib
import importlib.metadata
import os
import platform

import keras
import numpy as np

from official_selftrain.data import masks, problems
from official_selftrain.experiment import report
from official_selftrain.files import atomic
from official_selftrain.geometry import letterbox
from official_selftrain.inference import evaluation, pictures, prediction
from official_selftrain.training.fitting import read_history

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
    path = model_path(model_dir, stage)
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
    rounds=(),
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
        rounds: list of dicts, what the students of several rounds came to.

    Returns:
        dict, as written to `results.json`.

    Raises:
        FileNotFoundError: if no model is finished.
    """
    stages = [s for s in _TRAINED if os.path.exists(model_path(model_dir, s))]
    if not stages:
        load_model(model_dir, "teacher")
    path = os.path.join(model_dir, "results.json")
    results = atomic.read_json(path) or {}
    if (
        set(stages) <= set(results)
        and results["pseudo_labels"] == quality
        and results.get("rounds", []) == list(rounds)
        and os.path.exists(os.path.join(model_dir, "report.html"))
    ):
        print("evaluation: finished, kept", flush=True)
        return results
    source = validation()
    samples = pictures.samples(source, _NUM_SAMPLES)
    histories = {}
    for stage in stages:
        stage_dir = os.path.join(model_dir, stage)
        summary = atomic.read_json(os.path.join(stage_dir, "fit.json"))
        if summary is None:
            raise FileNotFoundError(
                f"Expected {stage_dir}/fit.json beside model.keras. Make it anew: "
                f"remove {stage_dir} and run the stage {stage} again"
            )
        for name in ("average", "model"):
            if os.path.exists(os.path.join(stage_dir, f"{name}.keras")):
                title = stage if name == "model" else f"{stage}_average"
                metrics = stored_metrics(
                    stage_dir, source, batch_size, max_boxes, name, title
                )
                results[title] = {**metrics, **summary}
        histories[stage] = read_history(stage_dir)
        _add_predictions(samples, stage, load_model(model_dir, stage))
    results["pseudo_labels"] = quality
    if rounds:
        results["rounds"] = list(rounds)
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
        pictures.samples(stored, _NUM_SAMPLES) if stored else [],
        source.class_names,
    )
    atomic.write_json(path, results)
    return results


def stored_metrics(
    stage_dir, source, batch_size=16, max_boxes=100, name="model", title="model"
):
    """Evaluate a stage's model, once.

    Args:
        stage_dir: str.
        source: `examples.Source` with labels.
        batch_size: int.
        max_boxes: int, slots for the labels of an image.
        name: `"model"`, or `"average"`: the moving average of its weights.
        title: str, shown with the progress.

    Returns:
        dict, as of `evaluate_model`; it is kept in the stage's folder.
    """
    prefix = "" if name == "model" else f"{name}_"
    path = os.path.join(stage_dir, f"{prefix}metrics.json")
    metrics = atomic.read_json(path)
    if metrics is None:
        network = keras.saving.load_model(os.path.join(stage_dir, f"{name}.keras"))
        with problems.unreadable_images_named(source):
            metrics = evaluation.evaluate_model(
                network, source, batch_size, max_boxes, title
            )
        atomic.write_json(path, metrics)
    return metrics


def _add_predictions(samples, title, model):
    """Add a model's labels to the samples of a report."""
    label = prediction.labeler(model)
    for sample in samples:
        image = sample["image"]
        frame = letterbox.fit(image, model.image_size)
        labels = label(frame[None], np.array([image.shape[:2]], np.int32))[0]
        if "mask" in labels:
            sample["labels"][title] = {"mask": masks.decode(labels["mask"]).numpy()}
        else:
            labels["ignore"] = np.zeros(len(labels["boxes"]), bool)
            drawn = labels["scores"] >= _DRAWN_SCORE
            sample["labels"][title] = {k: v[drawn] for k, v in labels.items()}


def _versions():
    versions = {"python": platform.python_version()}
    for package in ("official_selftrain", *_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def model_path(model_dir, stage):
    """Return where a finished stage's model lies."""
    return os.path.join(model_dir, stage, "model.keras")
