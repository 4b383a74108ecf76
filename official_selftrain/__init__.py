"""Self-training for detection: teacher, pseudo-labels, student.

An implementation of "Rethinking Pre-training and Self-training" (Zoph et al.,
NeurIPS 2020, arXiv 2006.06882) for Keras 3 and TensorFlow.
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
