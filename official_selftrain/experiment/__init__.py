"""The whole loop, teacher → pseudo-labels → student → evaluation, in one folder."""

from official_selftrain.experiment.loop import STAGES, run
from official_selftrain.experiment.settings import (
    Data,
    Described,
    Experiment,
    Labeling,
    Teaching,
)

__all__ = ["STAGES", "Data", "Described", "Experiment", "Labeling", "Teaching", "run"]
