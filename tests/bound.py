"""The settings that gin has bound, as tests compare them: without their groups."""

import gin

from official_selftrain import experiment


def of_experiment(**kwargs):
    """Return the settings of an experiment, but its trainings'."""
    found = dict(gin.get_bindings("experiment.Experiment", **kwargs))
    for group in ("experiment.Data", "experiment.Teaching", "training.Machine"):
        found |= gin.get_bindings(group, **kwargs)
    for name, value in gin.get_bindings("experiment.Labeling", **kwargs).items():
        is_own = name in ("shard_size", "labels_dir")
        found[name if is_own else f"label_{name}"] = value
    return found


def of_training(stage, **kwargs):
    """Return the settings of a stage's training."""
    found = {}
    with gin.config_scope(stage):  # groups are made as the stage would
        for group in ("fit", "Optimization", "Loss", "Monitoring"):
            found |= gin.get_bindings(f"{stage}/training.{group}", **kwargs)
    return found


def run(model_dir, stages=experiment.STAGES, **settings):
    """Run the experiment that gin has bound, but for some settings."""
    bound = gin.get_configurable(experiment.Experiment)(**settings)
    return experiment.run(bound, str(model_dir), stages)
