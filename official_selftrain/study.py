"""Run a grid of experiments; write a table and a figure of the results.

    python -m official_selftrain.study \\
        --gin_file=gin/study/digits_table_2.gin --model_dir=runs/study --jobs=2

Every training runs in its own process; cells with the same teacher settings share
teacher and labels. `--gin_param` changes the grid (`"studies.grid.seeds = (0,)"`) or
every cell (`"TEACHER_STEPS = 10"`). Run the same command again after an interruption:
finished stages are kept. The table reports trainings that diverge and cells that fail;
failed cells are retried by the next call. `model_dir` gets `digits_table_2.md`, `.csv`
and `.png`, named after the gin file. Several studies may share a `model_dir`, and
thereby their teachers. Exit codes: 0 done, 1 a mistake in the call or a cell that
failed, 130 interrupted (Ctrl-C), 143 stopped by SIGTERM.
"""

import os

from absl import app, flags

from official_selftrain.cli import (
    command_line,
    gin_files,
    gin_folder,
    quiet,
    study_plan,
)
from official_selftrain.files import locks
from official_selftrain.files.run_folder import STAGES

flags.adopt_module_key_flags(gin_files)

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "The output folder.", required=True)
_RESTART = flags.DEFINE_enum(
    "restart",
    None,
    STAGES[:-1],
    "Make this stage again, and what follows from it, where its data has changed; the "
    "old ones are moved to replaced_1 and so on in the folder of each cell.",
)
_KEEP = flags.DEFINE_bool("keep", False, "Keep stages although their data has changed.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Number of parallel processes.", lower_bound=1)


def main(argv):
    """Run the command line."""
    return command_line.exit_code("study", argv, _study)


def _study():
    if len(gin_files.GIN_FILE.value) != 1:
        raise ValueError(
            f"Expected one gin file. Received: {len(gin_files.GIN_FILE.value)}"
        )
    (path,), params = gin_files.GIN_FILE.value, gin_files.GIN_PARAM.value
    path = gin_folder.find(path)
    quiet.import_tensorflow()
    from official_selftrain.experiment import studies

    of_grid = [line for line in params if line.startswith("studies.")]
    plan = studies.grid(**study_plan.read_grid(path, of_grid))
    model_dir = _MODEL_DIR.value
    folder = os.path.dirname(os.path.abspath(path))
    first = study_plan.pretraining(plan["pretraining"], folder, model_dir)
    others = [line for line in params if line not in of_grid]
    cells = study_plan.cells(plan, folder, model_dir, first, others)
    # The cells' processes inherit the lock: after a killed study none runs twice.
    with locks.claimed(model_dir) as lock:
        options = _RESTART.value, _KEEP.value
        studies.run(cells, _JOBS.value, lock, first, *options)
    name = os.path.join(model_dir, os.path.splitext(os.path.basename(path))[0])
    failed = studies.report(name, plan, cells, first)
    with open(name + ".md") as file:
        print(file.read())
    return 1 if failed else 0


if __name__ == "__main__":
    app.run(main)
