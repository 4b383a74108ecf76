"""Run an experiment: teacher, pseudo-labels, student, control, evaluation.

    python -m official_selftrain.train \\
        --gin_file=gin/quickstart.gin --model_dir=runs/quickstart

Before the first step everything is checked that can be checked, and the plan is
printed; `--check` stops there. Run the same command again to continue after an
interruption: finished stages are kept. A stage whose settings or data have changed
since is refused, unless `--restart=STAGE` makes it again, with what follows from it, or
`--keep` keeps it. Exit codes: 0 done, 1 a mistake in the call or the data, 130
interrupted (Ctrl-C), 143 stopped by SIGTERM; a training saves a checkpoint first.
"""

import os

import gin
from absl import app, flags

from official_selftrain.checks.arguments import check_choice
from official_selftrain.cli import command_line, gin_files
from official_selftrain.files.run_folder import STAGES, RunFolder

flags.adopt_module_key_flags(gin_files)

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "The output folder.", required=True)
_STAGES = flags.DEFINE_list(
    "stages", list(STAGES), f"Stages to run, from {','.join(STAGES)}."
)

_CHECK = flags.DEFINE_bool("check", False, "Stop after the plan; write nothing.")
_RESTART = flags.DEFINE_enum(
    "restart",
    None,
    STAGES[:-1],
    "Make this stage again, and what follows from it; the old ones are moved to "
    "replaced_1 and so on in model_dir.",
)
_KEEP = flags.DEFINE_bool(
    "keep", False, "Keep stages although their settings or data have changed."
)


def main(argv):
    """Run the command line."""
    return command_line.exit_code("train", argv, _train)


def _train():
    for stage in _STAGES.value:
        check_choice("stages", stage, STAGES)
    if os.path.exists(_MODEL_DIR.value) and not os.path.isdir(_MODEL_DIR.value):
        raise ValueError(
            f"Expected a folder. Received: model_dir={_MODEL_DIR.value!r}, a file"
        )
    gin_files.load()
    from official_selftrain import experiment
    from official_selftrain.experiment import report

    settings = gin.get_configurable(experiment.Experiment)()
    results = experiment.run(
        settings,
        _MODEL_DIR.value,
        _STAGES.value,
        _RESTART.value,
        _KEEP.value,
        _CHECK.value,
        experiment.Described(*gin_files.described()),
    )
    if _CHECK.value:
        print("check: no mistake found, nothing was written")
        return
    for line in report.lines(results):
        print(line)
    if results:
        print(f"report: {RunFolder(_MODEL_DIR.value).report}")


if __name__ == "__main__":
    app.run(main)
