"""Self-training for detection and segmentation: teacher, pseudo-labels, student.

An implementation of "Rethinking Pre-training and Self-training" (Zoph et al.,
NeurIPS 2020, arXiv 2006.06882) for Keras 3 and TensorFlow.

- Run an experiment from gin files: `official_selftrain.train`. In Python: `run`, with
  the settings of the stages in `official_selftrain.experiment`.
- Look at your own data and get an experiment for it: `official_selftrain.init`.
- Train in Python: `SelfTrainer`, a Keras model. `official_selftrain.fitting` adds
  checkpoints, replicas and a history.
- Make a model: `RetinaNet`, `SemanticSegmenter`, `ImageClassifier` on
  `official_selftrain.models.backbones`, with weights of
  `official_selftrain.models.checkpoints`. The contract that a model of one's own obeys
  is in `official_selftrain.models`.
- Read images and labels: `official_selftrain.data.sources`,
  `official_selftrain.data.voc`, `official_selftrain.data.class_folders`, and the
  embedded `official_selftrain.data.digits`. All give the same
  `official_selftrain.data.examples`.
- Augment and batch them: `official_selftrain.data.augment`,
  `official_selftrain.data.pipeline`.
- Label images: `official_selftrain.pseudo_label`. In Python:
  `official_selftrain.teachers` and `official_selftrain.pseudo_labels`.
- Judge labels and models: `official_selftrain.label_report`,
  `official_selftrain.validate`, `official_selftrain.evaluation`.
- Serve a model: `official_selftrain.serving`.
- Compare settings over seeds: `official_selftrain.study`.
"""

from official_selftrain import models
from official_selftrain.data import augment, digits, examples, pipeline, sources
from official_selftrain.evaluation import evaluate_model
from official_selftrain.experiment import run
from official_selftrain.fitting import fit
from official_selftrain.models import (
    ImageClassifier,
    RetinaNet,
    SemanticSegmenter,
    backbones,
)
from official_selftrain.selftraining import SelfTrainer

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
