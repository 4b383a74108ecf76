"""The whole loop, teacher → pseudo-labels → student → evaluation, in one folder."""

from official_selftrain.experiment.loop import STAGES, run

__all__ = ["STAGES", "run"]
