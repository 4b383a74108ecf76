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
import os
import sys


def _is_of_a_command():
    """Return whether this process runs one of the package's commands.

    Python imports the package before the command. Commands answer a mistake before they
    import TensorFlow, so they import what they need themselves.
    """
    script = (sys.argv or [""])[0]
    if script == "-m":  # Python is looking for the module, the word before the others
        module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
        return module.startswith(f"{__name__}.")
    # A process that a command has started has the command's path.
    folder, _ = os.path.split(script)
    return os.path.isabs(script) and folder == os.path.dirname(__file__)


if not _is_of_a_command():
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

# Where the names above are, for a user's module that a command imports.
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
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_ORIGINS[name]}")
    return vars(module).get(name, module)  # a module is public itself, or has the name
