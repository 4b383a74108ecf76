"""Run an experiment: teacher, pseudo-labels, student, control, evaluation.

    python -m official_selftrain.train \\
        --gin_file=gin/quickstart.gin --model_dir=runs/quickstart

Run the same command again to continue after an interruption: finished stages
are kept. Exit codes: 0 done, 1 a mistake in the call or the data, 130 interrupted,
143 stopped by SIGTERM; a training saves a checkpoint first.
"""

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


def main(argv):
    """Run the command line."""
    return command_line.exit_code("train", argv, _train)


def _train():
    for stage in _STAGES.value:
        check_choice("stages", stage, STAGES)
    gin_files.load()
    from official_selftrain import experiment
    from official_selftrain.experiment import report

    gin_files.claim_model_dir(_MODEL_DIR.value)
    settings = gin.get_configurable(experiment.Experiment)()
    results = experiment.run(settings, _MODEL_DIR.value, _STAGES.value)
    for line in report.lines(results):
        print(line)
    if results:
        print(f"report: {RunFolder(_MODEL_DIR.value).report}")


if __name__ == "__main__":
    app.run(main)
