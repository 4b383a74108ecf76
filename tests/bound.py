"""Settings bound by gin, flattened for comparison in tests."""

import gin

from official_selftrain import experiment


def of_experiment(**kwargs):
    """Return the settings of an experiment, without those of its trainings."""
    settings = dict(gin.get_bindings("experiment.Experiment", **kwargs))
    for group in ("experiment.Data", "experiment.Teaching", "training.Machine"):
        settings |= gin.get_bindings(group, **kwargs)
    for name, value in gin.get_bindings("experiment.Labeling", **kwargs).items():
        is_own = name in ("shard_size", "labels_dir")
        settings[name if is_own else f"label_{name}"] = value
    return settings


def of_training(stage, **kwargs):
    """Return the settings of a stage's training."""
    settings = {}
    with gin.config_scope(stage):  # groups are created as in the stage
        for group in ("fit", "Optimization", "Loss", "Monitoring"):
            settings |= gin.get_bindings(f"{stage}/training.{group}", **kwargs)
    return settings


def run(model_dir, stages=experiment.STAGES, **settings):
    """Run the experiment bound by gin, with some settings overridden."""
    bound = gin.get_configurable(experiment.Experiment)(**settings)
    return experiment.run(bound, str(model_dir), stages)
