"""Plan a study: the cells of its grid, each with settings and folders.

A folder is named by the hash of the settings that affect it. Cells with equal settings
share it, and a changed gin file never reuses the results of another one.
"""

import functools
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
    """Return the pre-training cell, which runs before all others.

    Args:
        path: str or None, a gin file, relative to the study's file.
        folder: str, folder of the study's file.
        model_dir: str, the output folder.

    Returns:
        dict, a cell as in `cells` but without `teacher_dir`; None if `path` is None.
    """
    if path is None:
        return None
    file = os.path.normpath(os.path.join(folder, path))
    name, _, sources = _hashes([file], [])
    run_dir = os.path.join(model_dir, "pretraining", name)
    return {
        "row": "pre-training",
        "column": os.path.basename(file),
        "seed": 0,
        "stage": "teacher",
        "command": [f"--gin_file={file}"],
        "run_dir": run_dir,
        "is_pretrained": False,
        "sources": sources,
    }


def cells(plan, folder, model_dir, first, params=()):
    """Return the cells of a study, one for every row, column and seed.

    Args:
        plan: dict, as returned by `studies.grid`.
        folder: str, folder of the study's file; its gin files are relative to it.
        model_dir: str, the output folder.
        first: dict, as returned by `pretraining`, or None.
        params: strs, settings of every cell.

    Returns:
        list of dicts, as expected by `studies.run`.
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
    # Identified by its settings, not its path, so that a study can be moved.
    name = first and os.path.basename(first["run_dir"])
    model = first and RunFolder(first["run_dir"]).teacher().model
    whole, teacher, sources = _hashes(files, _filled(lines, name))
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
        "sources": sources,
    }


def _hashes(files, params):
    """Return the hashes of an experiment's and its teacher's settings, and its data.

    The data is a function () → dict of a source's name to its fingerprint.
    """
    gin.clear_config()
    gin_files.load_config(files, params)
    texts = gin.config_str(), gin_files.teacher_settings()
    key = gin_files.data_settings()
    gin.clear_config()
    sources = functools.partial(_fingerprints, files, params, key)
    names = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]
    return *names, sources


# The fingerprints of an experiment's sources, by the settings of its data.
_found = {}


def _fingerprints(files, params, key):
    """Return the fingerprints of an experiment's sources, read once per settings."""
    if key not in _found:
        gin.clear_config()
        gin_files.load_config(files, params)
        data = gin.get_bindings("experiment.Data")
        sources = ("labeled", "unlabeled", "validation", "classified")
        _found[key] = {
            name: data[name]().fingerprint() for name in sources if data.get(name)
        }
        gin.clear_config()
    return _found[key]


def _filled(lines, pretraining):
    """Return settings with the pre-trained model's path filled in."""
    return [line.replace(_PRETRAINING, str(pretraining)) for line in lines]


def _is_file(line):
    return line.endswith(".gin") and "=" not in line
