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

import os
import sys


def _is_of_a_command():
    """Return whether this process runs one of the package's commands.

    Python imports the package before the command. Commands answer a mistake before they
    import TensorFlow, so they import what they need themselves.
    """
    script = (sys.argv or [""])[0]
    if script == "-m":  # Python is still looking for the module to run
        return any(word.startswith(f"{__name__}.") for word in sys.orig_argv)
    # A process that a command has started.
    return os.path.dirname(os.path.abspath(script)) == os.path.dirname(__file__)


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
