"""One step for teacher and student, and the loop that takes it."""

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
