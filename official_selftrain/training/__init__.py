"""The training step that teacher and student share, and its training loop."""

from official_selftrain.training.fitting import fit
from official_selftrain.training.self_trainer import SelfTrainer
from official_selftrain.training.settings import (
    Loss,
    Machine,
    Monitoring,
    Optimization,
)
from official_selftrain.training.streams import Streams

__all__ = [
    "Loss",
    "Machine",
    "Monitoring",
    "Optimization",
    "SelfTrainer",
    "Streams",
    "fit",
]
