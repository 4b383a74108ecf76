"""Run a grid of experiments; write the table and the figure of what they come to.

    python -m official_selftrain.study \\
        --gin_file=gin/study/digits_table_2.gin --model_dir=runs/study --jobs=2

Every training is a process of its own; cells whose teachers follow from the same
settings share teacher and labels. `--gin_param` changes the grid
(`"studies.grid.seeds = (0,)"`) or every cell (`"TEACHER_STEPS = 10"`). Run the same
command again after an interruption: what is finished is kept. A training that diverges
is a value of the table; a cell that fails is named there and tried again by the next
call. `model_dir` gets `digits_table_2.md`, `.csv` and `.png`, named after the gin file:
several studies may share it, and with it their teachers. Exit codes: 0 done, 1 a
mistake in the call or a cell that failed, 130 interrupted.
"""

import fcntl
import hashlib
import os

import gin
from absl import app, flags

from official_selftrain.cli import command_line, gin_files, gin_folder
from official_selftrain.experiment import studies

flags.adopt_module_key_flags(gin_files)

_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Where everything is kept.", required=True
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Cells at a time.", lower_bound=1)


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
    of_grid = [line for line in params if line.startswith("studies.")]
    gin.parse_config_files_and_bindings([path], of_grid)
    plan = studies.grid(**gin.get_bindings("studies.grid"))
    model_dir = _MODEL_DIR.value
    folder = os.path.dirname(os.path.abspath(path))
    first = _pretraining(plan["pretraining"], folder, model_dir)
    others = [line for line in params if line not in of_grid]
    cells = _cells(plan, folder, model_dir, first, others)
    os.makedirs(model_dir, exist_ok=True)
    with open(os.path.join(model_dir, "lock"), "w") as lock:
        # The cells' processes hold it too, so that none of a killed study is doubled.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Expected a model_dir that no study works in. Received: {model_dir!r}"
            ) from None
        studies.run(cells, _JOBS.value, lock.fileno(), first)
    name = os.path.join(model_dir, os.path.splitext(os.path.basename(path))[0])
    failed = studies.report(name, plan, cells, first)
    with open(name + ".md") as file:
        print(file.read())
    return 1 if failed else 0


def _pretraining(path, folder, model_dir):
    """Return what is to be done before all cells, or None."""
    if path is None:
        return None
    file = os.path.normpath(os.path.join(folder, path))
    gin.clear_config()
    gin_files.load_config([file], [])
    run_dir = os.path.join(model_dir, "pretraining", _hash(gin.config_str()))
    gin.clear_config()
    return {
        "row": "pre-training",
        "column": os.path.basename(file),
        "seed": 0,
        "command": [f"--gin_file={file}"],
        "run_dir": run_dir,
        "is_pretrained": False,
    }


def _cells(plan, folder, model_dir, first, params=()):
    """Return what is to be done for every row, column and seed."""
    cells = []
    # By its settings, not by where it lies, so that a study may move.
    name = first and os.path.basename(first["run_dir"])
    model = first and os.path.join(first["run_dir"], "teacher", "model.keras")
    for row, (stage, *of_row) in plan["rows"].items():
        for column, of_column in plan["columns"].items():
            for seed in plan["seeds"]:
                lines = [*plan["settings"], *of_column, *of_row, f"SEED = {seed}"]
                lines += params
                files = [plan["experiment"], *(x for x in lines if _is_file(x))]
                files = [os.path.normpath(os.path.join(folder, x)) for x in files]
                lines = [line for line in lines if not _is_file(line)]
                gin.clear_config()
                gin_files.load_config(files, _filled(lines, name))
                teacher = _hash(gin_files.teacher_settings())
                whole = _hash(gin.config_str())
                gin.clear_config()
                has_student = stage != "teacher"
                run = f"{teacher}/{whole}" if has_student else teacher
                cells.append(
                    {
                        "row": row,
                        "column": column,
                        "seed": seed,
                        "stage": stage,
                        "is_pretrained": any("{pretraining}" in x for x in lines),
                        "command": [
                            *(f"--gin_file={file}" for file in files),
                            *(f"--gin_param={x}" for x in _filled(lines, model)),
                        ],
                        "teacher_dir": os.path.join(model_dir, "teachers", teacher),
                        "run_dir": os.path.join(model_dir, "runs", run)
                        if has_student
                        else os.path.join(model_dir, "teachers", teacher),
                    }
                )
    return cells


def _filled(lines, pretraining):
    """Return settings in which the pre-trained model stands in its place."""
    return [line.replace("{pretraining}", str(pretraining)) for line in lines]


def _is_file(line):
    return line.endswith(".gin") and "=" not in line


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    app.run(main)
