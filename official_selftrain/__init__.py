"""Self-training for detection and segmentation: teacher, pseudo-labels, student.

An implementation of "Rethinking Pre-training and Self-training" (Zoph et al.,
NeurIPS 2020, arXiv 2006.06882) for Keras 3 and TensorFlow.

A file of this package is a command, such as `official_selftrain.train`; a folder is a
room:

- `official_selftrain.experiment`: the whole loop, teacher → pseudo-labels → student →
  evaluation; `run` and its groups of settings.
- `official_selftrain.training`: `SelfTrainer`, a Keras model, is the step; `fit` is the
  loop, with checkpoints, replicas and a history.
- `official_selftrain.models`: `RetinaNet`, `SemanticSegmenter` and `ImageClassifier` on
  `official_selftrain.models.backbones`, with weights of
  `official_selftrain.models.checkpoints`; the contract that a model of one's own obeys.
- `official_selftrain.data`: images and labels from `official_selftrain.data.sources`,
  the embedded ones from `official_selftrain.data.sources.digits`; all give the same
  `official_selftrain.data.examples`. `official_selftrain.data.augmentation.augment` and
  `official_selftrain.data.pipeline` make batches of them.
- `official_selftrain.labeling`: teachers, their labels, and what these are worth.
- `official_selftrain.inference`: from images to predictions; evaluation and pictures.
- `official_selftrain.serving`: SavedModels for TF Serving.
- `official_selftrain.onboarding`: your own data, and an experiment for it.
- `official_selftrain.metrics`, `official_selftrain.geometry`,
  `official_selftrain.files`, `official_selftrain.checks`, `official_selftrain.cli`:
  what these rest on.
"""

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
