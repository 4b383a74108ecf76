"""Evaluation of the trained models, and the results of an experiment."""

import contextlib
import importlib.metadata
import os
import platform

import keras
import numpy as np

from official_selftrain.data import masks, problems
from official_selftrain.experiment import origins, report
from official_selftrain.files import atomic
from official_selftrain.files.run_folder import RunFolder, StageFolder
from official_selftrain.inference import pictures, prediction
from official_selftrain.inference.evaluation import evaluate_model
from official_selftrain.training.fitting import read_history

_TRAINED = ("teacher", "student", "control")
_NUM_SAMPLES = 8
_PACKAGES = (
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "keras-cv",
    "pycocotools",
    "numpy",
    "gin-config",
)


def load_model(stage):
    """Load the finished model of a stage.

    Args:
        stage: `StageFolder`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if the stage isn't finished.
    """
    check_finished(stage)
    return keras.saving.load_model(stage.model)


def check_finished(stage):
    """Check that a `StageFolder` has a model.

    Raises:
        FileNotFoundError: if the stage isn't finished.
    """
    if not stage.is_finished:
        raise FileNotFoundError(
            f"Expected {stage.model}. Make it with the stage {stage.name}: "
            f"python -m official_selftrain.train … --stages={stage.name}"
        )


def evaluate(
    model_dir,
    validation,
    experiment,
    stored=None,
    quality=None,
    rounds=(),
    kept=(),
    origin_of=lambda stage: None,
):
    """Evaluate the finished models of an experiment and write its report.

    Args:
        model_dir: str.
        validation: function () → `examples.Source` with labels.
        experiment: `Experiment`, for the seed and batch size.
        stored: `examples.Source` of confident pseudo-labels, or None.
        quality: dict, as returned by `label_quality.measure`, or None.
        rounds: list of dicts, the results of each round's student.
        kept: list of str, lines about stages that were made from something else.
        origin_of: function (`StageFolder`) → dict or None, what a model's metrics are
            measured with; stored ones that were measured with something else are
            measured again.

    Returns:
        dict, as written to `results.json`.

    Raises:
        FileNotFoundError: if no model is finished.
    """
    folder = RunFolder(model_dir)
    stages = [s for s in map(folder.stage, _TRAINED) if s.is_finished]
    if not stages:
        check_finished(folder.stage("teacher"))
    results = atomic.read_json(folder.results) or {}
    extra = {"rounds": list(rounds), "kept": list(kept)}
    extra = {key: value for key, value in extra.items() if value}
    found = {key: results[key] for key in ("rounds", "kept") if key in results}
    if (
        {stage.name for stage in stages} <= set(results)
        and results["pseudo_labels"] == quality
        and found == extra
        and os.path.exists(folder.report)
        and all(os.path.exists(stage.metrics) for stage in stages)
        and not any([_change(stage, origin_of(stage)) for stage in stages])
    ):
        print("evaluation: finished, kept", flush=True)
        return results
    folder.move_aside(folder.results, folder.report)
    results, source = {}, validation()
    settings = source, experiment.labeling.batch_size
    samples = pictures.samples(source, _NUM_SAMPLES)
    histories = {}
    for stage in stages:
        network = load_model(stage)
        results |= _stage_results(stage, network, settings, origin_of(stage))
        histories[stage.name] = read_history(stage.path)
        _add_predictions(samples, stage.name, network)
    results["pseudo_labels"] = quality
    results |= extra
    results["config"] = {
        "seed": experiment.seed,
        "alpha": results.get("student", {}).get("alpha"),
        "versions": _versions(),
    }
    report.write(
        folder.report,
        results,
        histories,
        samples,
        pictures.samples(stored, _NUM_SAMPLES) if stored else [],
        source.class_names,
    )
    atomic.write_json(folder.results, results)
    return results


def _change(stage, origin):
    """Return what a stage's stored metrics were measured with otherwise, as text."""
    before = atomic.read_json(stage.metrics_origin)
    stored = (stage.metrics, stage.average_metrics)
    if origin is None or not any(map(os.path.exists, stored)):
        return ""
    if before is None:
        return "there is no record of the images"
    return "; ".join(origins.changes(before, origin))


def _stage_results(stage, network, settings, origin):
    """Return metrics and costs of a stage's model and of its average."""
    summary = atomic.read_json(stage.summary)
    if summary is None:
        raise FileNotFoundError(
            f"Expected {stage.summary} next to model.keras. To recreate it, "
            f"remove {stage.path} and run the stage {stage.name} again"
        )
    by_title = {}
    if os.path.exists(stage.average):
        title = f"{stage.name}_average"
        metrics = stored_metrics(stage.path, *settings, "average", title, origin=origin)
        by_title[title] = {**metrics, **summary}
    metrics = stored_metrics(
        stage.path, *settings, "model", stage.name, network, origin
    )
    by_title[stage.name] = {**metrics, **summary}
    return by_title


def stored_metrics(
    stage_dir,
    source,
    batch_size=16,
    name="model",
    title="model",
    network=None,
    origin=None,
):
    """Evaluate a stage's model, or read its stored metrics.

    Stored metrics that were measured with something else are measured again.

    Args:
        stage_dir: str.
        source: `examples.Source` with labels.
        batch_size: int.
        name: `"model"`, or `"average"`: the moving average of its weights.
        title: str, shown in the progress bar.
        network: the model, if it is loaded already.
        origin: dict, what the metrics are measured with, or None to read stored ones
            whatever they were measured with.

    Returns:
        dict, as returned by `evaluate_model`; also stored in the stage's folder.
    """
    stage = StageFolder(stage_dir)
    model, path = {
        "model": (stage.model, stage.metrics),
        "average": (stage.average, stage.average_metrics),
    }[name]
    if text := _change(stage, origin):
        print(f"{title}: evaluated again: {text}", flush=True)
        for stale in (stage.metrics, stage.average_metrics, stage.metrics_origin):
            if os.path.exists(stale):
                os.remove(stale)
    if origin is not None:
        atomic.write_json(stage.metrics_origin, origin)
    metrics = atomic.read_json(path)
    if metrics is None:
        if network is None:
            network = keras.saving.load_model(model)
        with problems.unreadable_images_named(source):
            metrics = evaluate_model(network, source, batch_size, name=title)
        atomic.write_json(path, metrics)
    return metrics


def _add_predictions(samples, title, model):
    """Add a model's predictions to the samples of a report."""
    label = prediction.image_labeler(model)
    for sample in samples:
        labels = label(sample["image"])
        if "mask" in labels:
            sample["labels"][title] = {"mask": masks.decode(labels["mask"]).numpy()}
        else:
            labels["ignore"] = np.zeros(len(labels["boxes"]), bool)
            drawn = labels["scores"] >= pictures.DRAWN_SCORE
            sample["labels"][title] = {k: v[drawn] for k, v in labels.items()}


def _versions():
    versions = {"python": platform.python_version()}
    for package in ("official_selftrain", *_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
