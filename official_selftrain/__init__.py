"""Self-training for detection and segmentation: teacher, pseudo-labels, student.

An implementation of "Rethinking Pre-training and Self-training" (Zoph et al.,
NeurIPS 2020, arXiv 2006.06882) for Keras 3 and TensorFlow.

A file of this package is a command, a folder is a room:

- `experiment`: the whole loop, teacher → pseudo-labels → student → evaluation; `run`.
- `training`: the step and the loop that takes it; `SelfTrainer`, a Keras model, and
  `fit`, which adds checkpoints, replicas and a history.
- `models`: `RetinaNet`, `SemanticSegmenter`, `ImageClassifier`, their backbones and
  start values, and the contract that a model of one's own obeys.
- `data`: sources of images and labels, augmentation, the input pipeline.
- `labeling`: teachers, their labels, and what these are worth.
- `inference`: from images to predictions, evaluation, pictures.
- `serving`: SavedModels for TF Serving.
- `onboarding`: your own data, and an experiment for it.
- `metrics`, `geometry`, `files`, `checks`, `cli`: what these rest on.
"""

from official_selftrain import models
from official_selftrain.data import examples, pipeline, sources
from official_selftrain.data.augmentation import augment
from official_selftrain.data.sources import digits
from official_selftrain.experiment.loop import run
from official_selftrain.inference.evaluation import evaluate_model
from official_selftrain.models import (
    ImageClassifier,
    RetinaNet,
    SemanticSegmenter,
    backbones,
)
from official_selftrain.training.fitting import fit
from official_selftrain.training.self_trainer import SelfTrainer

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
