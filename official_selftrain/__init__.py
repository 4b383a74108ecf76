"""Self-training for detection and segmentation: teacher, pseudo-labels, student.

An implementation of "Rethinking Pre-training and Self-training" (Zoph et al.,
NeurIPS 2020, arXiv 2006.06882) for Keras 3 and TensorFlow.

Modules at the top level are commands, such as `official_selftrain.train`; the
subpackages are:

- `official_selftrain.experiment`: the whole loop, teacher → pseudo-labels → student →
  evaluation; `run` and its settings.
- `official_selftrain.training`: `SelfTrainer`, a Keras model, implements the training
  step; `fit` is the training loop, with checkpoints, replicas and a history.
- `official_selftrain.models`: `RetinaNet`, `SemanticSegmenter` and `ImageClassifier` on
  `official_selftrain.models.backbones`, with weights from
  `official_selftrain.models.checkpoints`; the contract for custom models.
- `official_selftrain.data`: images and labels from `official_selftrain.data.sources`,
  including the bundled `official_selftrain.data.sources.digits`; all sources yield the
  same `official_selftrain.data.examples`, which
  `official_selftrain.data.augmentation.augment` and
  `official_selftrain.data.pipeline` turn into batches.
- `official_selftrain.labeling`: teachers, their labels and the quality of these.
- `official_selftrain.inference`: predictions, evaluation and figures.
- `official_selftrain.serving`: SavedModels for TF Serving.
- `official_selftrain.onboarding`: inspects your data and writes an experiment for it.
- `official_selftrain.metrics`, `official_selftrain.geometry`,
  `official_selftrain.files`, `official_selftrain.checks`, `official_selftrain.cli`:
  shared building blocks.
"""

import importlib
import typing

if typing.TYPE_CHECKING:  # what editors read
    from official_selftrain import models
    from official_selftrain.data import examples, pipeline, sources
    from official_selftrain.data.augmentation import augment
    from official_selftrain.data.sources import digits
    from official_selftrain.experiment import run
    from official_selftrain.inference.evaluation import evaluate_model
    from official_selftrain.models import (
        ImageClassifier,
        RetinaNet,
        SemanticSegmenter,
        backbones,
    )
    from official_selftrain.training import SelfTrainer, fit

__version__ = "0.1.0"

__all__ = [
    "ImageClassifier",
    "RetinaNet",
    "SelfTrainer",
    "SemanticSegmenter",
    "augment",
    "backbones",
    "digits",
    "evaluate_model",
    "examples",
    "fit",
    "models",
    "pipeline",
    "run",
    "sources",
]

# Public name to where it is defined: imported at its first use, so that a command
# answers before TensorFlow is imported.
_ORIGINS = {
    "ImageClassifier": "models",
    "RetinaNet": "models",
    "SelfTrainer": "training",
    "SemanticSegmenter": "models",
    "augment": "data.augmentation.augment",
    "backbones": "models.backbones",
    "digits": "data.sources.digits",
    "evaluate_model": "inference.evaluation",
    "examples": "data.examples",
    "fit": "training",
    "models": "models",
    "pipeline": "data.pipeline",
    "run": "experiment",
    "sources": "data.sources",
}


def __getattr__(name):
    origin = f"{__name__}.{_ORIGINS.get(name, name)}"
    try:
        module = importlib.import_module(origin)
    except ModuleNotFoundError as error:
        if error.name != origin:
            raise
        raise AttributeError(f"{__name__} has no attribute {name!r}") from None
    # A module is public itself, or defines the name.
    return vars(module).get(name, module)


def __dir__():
    return sorted({*globals(), *__all__})
