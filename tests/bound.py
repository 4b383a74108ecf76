"""Settings bound by gin, flattened for comparison in tests."""

import pathlib

import gin

from official_selftrain import experiment
from official_selftrain.cli import gin_files

TINY = str(pathlib.Path(__file__).parent / "tiny.gin")


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


def run(model_dir, stages=experiment.STAGES, keep=False, **settings):
    """Run the experiment bound by gin, with some settings overridden."""
    bound = gin.get_configurable(experiment.Experiment)(**settings)
    return experiment.run(bound, str(model_dir), stages, keep=keep)


def run_tiny(model_dir, *params, stages=experiment.STAGES, gin_file=TINY, **options):
    """Run the tiny experiment in this process as the command does."""
    gin.clear_config()
    gin_files.load_config([str(gin_file)], list(params))
    described = experiment.Described(*gin_files.described())
    settings = gin.get_configurable(experiment.Experiment)()
    try:
        return experiment.run(
            settings, str(model_dir), stages, described=described, **options
        )
    finally:
        gin.clear_config()


def own_data(tiny_coco, tmp_path):
    """The tiny experiment on COCO files, as a gin file."""
    root = pathlib.Path(TINY).parent.parent
    text = pathlib.Path(TINY).read_text()
    text = text.replace("../gin/include", str(root / "gin" / "include"))
    lines = [x for x in text.splitlines() if "digits" not in x]
    lines.append(f'include "{root}/gin/include/coco_files.gin"')
    for name, path in {
        "TRAIN_ANNOTATIONS": tiny_coco.annotations,
        "TRAIN_IMAGES": tiny_coco.images,
        "VALIDATION_ANNOTATIONS": tiny_coco.annotations,
        "VALIDATION_IMAGES": tiny_coco.images,
        "UNLABELED_IMAGES": tiny_coco.unlabeled,
    }.items():
        lines.append(f'{name} = "{path}"')
    path = tmp_path / "own.gin"
    path.write_text("\n".join(lines) + "\n")
    return path
