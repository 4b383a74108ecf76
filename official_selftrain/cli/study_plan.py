"""What a study has to do: its grid's cells, each with its settings and its folders.

A folder is named after the hash of the settings that count in it, so that cells which
share them share it, and a changed gin file never meets what another one has made.
"""

import hashlib
import os

import gin

from official_selftrain.cli import gin_files
from official_selftrain.files.run_folder import RunFolder

_PRETRAINING = "{pretraining}"


def read_grid(path, params):
    """Read a study's gin file.

    Args:
        path: str.
        params: list of str, settings of the grid that override the file's.

    Returns:
        dict, the arguments of `studies.grid`.
    """
    gin.parse_config_files_and_bindings([path], params)
    return gin.get_bindings("studies.grid")


def pretraining(path, folder, model_dir):
    """Return what is to be done before all cells.

    Args:
        path: str or None, a gin file, relative to the study's.
        folder: str, the study's.
        model_dir: str, where everything is kept.

    Returns:
        dict, a cell as of `cells` without a teacher's folder; None without a file.
    """
    if path is None:
        return None
    file = os.path.normpath(os.path.join(folder, path))
    run_dir, _ = _hashes([file], [])
    return {
        "row": "pre-training",
        "column": os.path.basename(file),
        "seed": 0,
        "command": [f"--gin_file={file}"],
        "run_dir": os.path.join(model_dir, "pretraining", run_dir),
        "is_pretrained": False,
    }


def cells(plan, folder, model_dir, first, params=()):
    """Return what is to be done for every row, column and seed.

    Args:
        plan: dict of `studies.grid`.
        folder: str, the study's, which its gin files are relative to.
        model_dir: str, where everything is kept.
        first: dict of `pretraining` or None.
        params: strs, settings of every cell.

    Returns:
        list of dicts, as `studies.run` takes them.
    """
    return [
        _cell(plan, folder, model_dir, first, params, row, column, seed)
        for row in plan["rows"]
        for column in plan["columns"]
        for seed in plan["seeds"]
    ]


def _cell(plan, folder, model_dir, first, params, row, column, seed):
    stage, *of_row = plan["rows"][row]
    lines = [*plan["settings"], *plan["columns"][column], *of_row, f"SEED = {seed}"]
    lines += params
    files = [plan["experiment"], *(line for line in lines if _is_file(line))]
    files = [os.path.normpath(os.path.join(folder, file)) for file in files]
    lines = [line for line in lines if not _is_file(line)]
    # By its settings, not by where it lies, so that a study may move.
    name = first and os.path.basename(first["run_dir"])
    model = first and RunFolder(first["run_dir"]).teacher().model
    whole, teacher = _hashes(files, _filled(lines, name))
    teacher_dir = run_dir = os.path.join(model_dir, "teachers", teacher)
    if stage != "teacher":
        run_dir = os.path.join(model_dir, "runs", teacher, whole)
    return {
        "row": row,
        "column": column,
        "seed": seed,
        "stage": stage,
        "is_pretrained": any(_PRETRAINING in line for line in lines),
        "command": [
            *(f"--gin_file={file}" for file in files),
            *(f"--gin_param={line}" for line in _filled(lines, model)),
        ],
        "teacher_dir": teacher_dir,
        "run_dir": run_dir,
    }


def _hashes(files, params):
    """Return the hashes of an experiment's settings: of all, of its teacher's."""
    gin.clear_config()
    gin_files.load_config(files, params)
    texts = gin.config_str(), gin_files.teacher_settings()
    gin.clear_config()
    return [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]


def _filled(lines, pretraining):
    """Return settings in which the pre-trained model stands in its place."""
    return [line.replace(_PRETRAINING, str(pretraining)) for line in lines]


def _is_file(line):
    return line.endswith(".gin") and "=" not in line
