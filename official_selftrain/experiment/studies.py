"""Studies: grids of experiments, with a table and a figure of their results.

Several studies may share a `model_dir`. `pretraining/`, `teachers/` and `runs/` hold
experiments, each run in its own process, with `outcome.json` and `log.txt`; `NAME.md`,
`NAME.csv` and `NAME.png` hold a study's results. Experiments with the same teacher
settings share teacher and labels.
"""

import concurrent.futures
import contextlib
import csv
import os
import re
import signal
import subprocess
import sys

import numpy as np
from matplotlib.figure import Figure

from official_selftrain.checks import arguments
from official_selftrain.experiment import origins
from official_selftrain.files import atomic
from official_selftrain.files.run_folder import RunFolder
from official_selftrain.metrics import headline

_STAGES = ("teacher", "student", "control")
_PRETRAINING = "{pretraining}"
_COSTS = ("steps", "images", "seconds")

# The stages and settings of `official_selftrain.train` for each stage of a study.
# Labels are never rejected here: each student checks them at its own threshold.
_RUN = {
    "teacher": "teacher,evaluation",
    "labels": "pseudo_labels",
    "student": "pseudo_labels,student,evaluation",
    "control": "control,evaluation",
}
# The names of a study's stages in an experiment, where they differ.
_NAMES = {"labels": "pseudo_labels"}
_PARAMS = {
    "labels": ("experiment.Teaching.max_empty_share = 1.0",),
    "control": ("experiment.Teaching.control = True",),
}


def grid(
    experiment,
    rows,
    columns,
    seeds=(0,),
    settings=(),
    metric="AP",
    title="",
    pretraining=None,
):
    """Return the cells of a study; gin binds the arguments.

    Args:
        experiment: str, a gin file, relative to the study's file.
        rows: dict of name to (stage whose model is measured, setting, …); the first
            row is the baseline. A setting is a line of gin or a gin file to include;
            `{pretraining}` in it is replaced by the path of the pre-trained model.
        columns: dict of name to (setting, …).
        seeds: ints; every cell is run with each.
        settings: settings of all cells.
        metric: str, a key of a stage's results.
        title: str, of table and figure.
        pretraining: str or None, a gin file whose teacher is trained first, once for
            all cells.

    Returns:
        dict of the arguments.

    Raises:
        TypeError: for rows, columns, seeds or settings that aren't tuples.
        ValueError: for an unknown stage, a study without cells, or settings with
            `{pretraining}` where `pretraining` is None.
    """
    if not rows or not columns or not seeds:
        raise ValueError(
            "Expected rows, columns and seeds. Received: "
            f"rows={rows!r}, columns={columns!r}, seeds={seeds!r}"
        )
    lists = {"settings": settings, "seeds": seeds}
    lists |= {f"rows[{name!r}]": row for name, row in rows.items()}
    lists |= {f"columns[{name!r}]": column for name, column in columns.items()}
    for name, value in lists.items():
        if not isinstance(value, (tuple, list)):
            raise TypeError(
                f"Expected {name}, a tuple such as (x,). Received: {value!r}"
            )
    for stage, *_ in rows.values():
        arguments.check_choice("stage", stage, _STAGES)
    if pretraining is None and _PRETRAINING in repr([rows, columns, settings]):
        raise ValueError(
            f"Expected a pretraining for {_PRETRAINING}. Received: pretraining=None"
        )
    return {
        "experiment": experiment,
        "rows": rows,
        "columns": columns,
        "seeds": tuple(seeds),
        "settings": tuple(settings),
        "metric": metric,
        "title": title,
        "pretraining": pretraining,
    }


def run(cells, jobs, lock, first=None, restart=None, keep=False):
    """Run the unfinished pre-training, teachers, labels, students and controls.

    Each of them is a process of `official_selftrain.train`. A folder is named by the
    hash of the settings that affect it. Its `outcome.json` records how each stage
    ended; only failed stages are run again.

    Args:
        cells: list of dicts: `row`, `column`, `seed`, `stage`; `command`, the flags of
            `official_selftrain.train`; `teacher_dir` and `run_dir`, equal for a cell
            that measures the teacher; `is_pretrained`, whether it starts from `first`;
            `sources`, function () → dict of a source's name to its fingerprint.
        jobs: int, number of parallel processes, which share the cores evenly.
        lock: int, descriptor of the lock file, inherited by the processes.
        first: the pre-training, a cell whose teacher is trained before all others, or
            None.
        restart: as in `experiment.run`, for all stages whose data has changed.
        keep: bool, whether to keep stages whose data has changed.

    Raises:
        ValueError: if data has changed, without `restart` or `keep`.
    """
    _settle([*([first] if first else []), *cells], restart, keep)
    trainings = _Trainings(jobs, lock, keep)
    teachers, students = _work(cells)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            if first:
                pool.submit(trainings.end, first, first["run_dir"], "teacher").result()
            _each(pool, _teach, [(trainings, first, *job) for job in teachers])
            _each(pool, _learn, [(trainings, *job) for job in students])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            trainings.stop()
            raise


def _settle(cells, restart, keep):
    """Compare finished stages with today's data; move those to be made again aside."""
    done, moved = set(), set()
    for cell in cells:
        teacher = cell.get("teacher_dir", cell["run_dir"])
        for folder, stage in _chain(cell, teacher):
            key = folder, stage
            if key not in done and os.path.exists(_path(*key)):
                _settle_stage(cell, key, teacher, moved, restart, keep)
            done.add(key)


def _chain(cell, teacher):
    """Yield the folders and stages that a cell consists of."""
    yield teacher, "teacher"
    if cell["stage"] == "student":
        yield teacher, "labels"
    if cell["stage"] != "teacher":
        yield cell["run_dir"], cell["stage"]


def _path(folder, stage):
    return os.path.join(folder, _NAMES.get(stage, stage))


def _settle_stage(cell, key, teacher, moved, restart, keep):
    folder, stage = key
    name = _NAMES.get(stage, stage)
    texts, measured = origins.of_data(RunFolder(folder), name, cell["sources"]())
    # What a stage is made from is made again.
    follows = any(
        name in origins.FOLLOWING[other] and name != other
        for where, other in moved
        if where == teacher
    )
    title = f"{cell['row']}, {cell['column']}, seed {cell['seed']}: {name}"
    if texts and not keep and name not in origins.FOLLOWING.get(restart, ()):
        raise ValueError(
            f"Expected the data of when {title} was made. Received: "
            f"{'; '.join(texts)}; --restart={name} makes it again and moves the old "
            "one aside, --keep keeps it"
        )
    if follows or (texts and not keep):
        names, target = RunFolder(folder).move_aside(
            *origins.replaced_paths(RunFolder(folder), name, alone=True)
        )
        print(f"study: {title}: moved {', '.join(names)} to {target}", flush=True)
        moved.add((teacher, name))
    elif not (measured and not keep):
        return
    outcomes = read_outcomes(folder)
    outcomes.pop(stage, None)
    atomic.write_json(RunFolder(folder).outcome, outcomes)


def _work(cells):
    """Return the arguments of `_teach` and `_learn`, one job per folder."""
    teachers, students = {}, {}
    for cell in cells:
        job = teachers.setdefault(cell["teacher_dir"], [cell, False])
        job[1] |= cell["stage"] == "student"
        if cell["stage"] != "teacher":
            students.setdefault(cell["run_dir"], {})[cell["stage"]] = cell
    return teachers.values(), students.items()


def _each(pool, function, work):
    """Call a function with the arguments of each item; wait for all calls."""
    for future in [pool.submit(function, *item) for item in work]:
        future.result()


def _teach(trainings, first, cell, has_student):
    """Train a teacher once its pre-training is done; label for its students."""
    if cell["is_pretrained"] and not _is_done(first["run_dir"], "teacher"):
        return
    if trainings.end(cell, cell["teacher_dir"], "teacher") and has_student:
        trainings.end(cell, cell["teacher_dir"], "labels")


def _learn(trainings, folder, cells_of_stages):
    """Train the student, the control or both of a folder, given their teacher."""
    for stage, cell in cells_of_stages.items():
        needed = ("teacher", "labels") if stage == "student" else ("teacher",)
        if not all(_is_done(cell["teacher_dir"], name) for name in needed):
            continue
        os.makedirs(folder, exist_ok=True)
        own, teacher = RunFolder(folder), RunFolder(cell["teacher_dir"])
        shared = ((teacher.teacher(), own.teacher()), (teacher.labels, own.labels))
        for source, link in shared:
            if os.path.exists(source.path) and not os.path.lexists(link.path):
                os.symlink(os.path.relpath(source.path, folder), link.path)
        trainings.end(cell, folder, stage)


class _Trainings:
    """Processes of `official_selftrain.train` that are stopped together."""

    def __init__(self, jobs, lock, keep):
        threads = str(max((os.cpu_count() or 1) // jobs, 1))
        self._environment = {"TF_NUM_INTRAOP_THREADS": threads, **os.environ}
        self._lock = lock
        self._flags = ("--keep",) if keep else ()
        self._processes = set()
        self._is_stopped = False

    def end(self, cell, folder, stage):
        """Run a stage of a cell unless it has ended; return whether it succeeded."""
        outcomes = read_outcomes(folder)
        if outcomes.get(stage, {}).get("status", "failed") != "failed":
            return _is_done(folder, stage)
        if self._is_stopped:
            return False
        os.makedirs(folder, exist_ok=True)
        # The folder's name identifies the settings that matter here. Others, such as a
        # student's in its teacher's folder, may differ from the last call.
        with contextlib.suppress(FileNotFoundError):
            os.remove(RunFolder(folder).operative_gin)
        title = f"{cell['row']}, {cell['column']}, seed {cell['seed']}"
        print(f"study: {title}: {stage}", flush=True)
        command = (*_command(cell, folder, stage), *self._flags)
        code, start = self._run(command, folder)
        if code in (130, 143, -signal.SIGTERM, -signal.SIGKILL):
            return False  # stopped from outside: continue on the next run
        outcomes = {**read_outcomes(folder), stage: _outcome(folder, code, start)}
        atomic.write_json(RunFolder(folder).outcome, outcomes)
        return code == 0

    def _run(self, command, folder):
        """Run a process; return its exit code and the start of its log output."""
        with open(RunFolder(folder).log, "a") as log:
            start = log.tell()
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock,),
                env=self._environment,
            )
            self._processes.add(process)
            code = process.wait()
            self._processes.discard(process)
        return code, start

    def stop(self):
        """Terminate all processes; each training saves a checkpoint."""
        self._is_stopped = True
        for process in list(self._processes):
            process.terminate()


def _command(cell, folder, stage):
    return [
        *(sys.executable, "-m", "official_selftrain.train", *cell["command"]),
        *(f"--gin_param={line}" for line in _PARAMS.get(stage, ())),
        *(f"--model_dir={folder}", f"--stages={_RUN[stage]}"),
    ]


def _is_done(folder, stage):
    return read_outcomes(folder).get(stage, {}).get("status") == "done"


def read_outcomes(folder):
    """Return the outcomes of a folder: dict of stage to `status` and `text`."""
    return atomic.read_json(RunFolder(folder).outcome) or {}


def _outcome(folder, code, start):
    """Return the outcome of a process: done, diverged or failed, with one line."""
    if code == 0:
        return {"status": "done", "text": ""}
    with open(RunFolder(folder).log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("train: ")]
    text = (errors or lines or ["no output"])[-1]
    diverged = re.search(r"a finite loss and gradient.* at step (\d+)", text)
    if diverged:
        return {"status": "diverged", "text": f"NaN at step {diverged[1]}"}
    return {"status": "failed", "text": text[:300] or f"exit code {code}"}


def _cell_outcome(cell, first):
    """Return the outcome of a cell: that of its first unfinished dependency."""
    chain = [("", cell["run_dir"], cell["stage"])]
    if cell["stage"] == "student":
        chain.insert(0, ("labels: ", cell["teacher_dir"], "labels"))
    if cell["stage"] != "teacher":
        chain.insert(0, ("teacher: ", cell["teacher_dir"], "teacher"))
    if cell["is_pretrained"]:
        chain.insert(0, ("pre-training: ", first["run_dir"], "teacher"))
    missing = {"status": "failed", "text": "not finished"}
    for name, folder, stage in chain:
        outcome = read_outcomes(folder).get(stage, missing)
        if outcome["status"] != "done":
            return outcome["status"], name + outcome["text"]
    return "done", ""


def report(path, plan, cells, first=None):
    """Write the cells, the table and the figure of a study.

    Args:
        path: str, of the files, without extension.
        plan: dict, as returned by `grid`.
        cells: as in `run`.
        first: as in `run`.

    Returns:
        int, the number of failed cells.
    """
    outcomes = {}
    for cell in cells:
        key = cell["row"], cell["column"], cell["seed"]
        outcomes[key] = _cell_result(plan["metric"], cell, first)
    with (
        atomic.replacing(path + ".csv") as partial,
        open(partial, "w", newline="") as file,
    ):
        writer = csv.DictWriter(file, next(iter(outcomes.values())))
        writer.writeheader()
        writer.writerows(outcomes.values())
    text = table(plan, outcomes)
    if first:
        text += f"\nThe pre-training, once for all cells and seeds: {_costs(first)}.\n"
    atomic.write_text(path + ".md", text)
    _draw(plan, outcomes, path + ".png")
    return sum(cell["status"] == "failed" for cell in outcomes.values())


def _cell_result(metric, cell, first):
    """Return the results and costs of a cell."""
    status, text = _cell_outcome(cell, first)
    results = {
        **(atomic.read_json(RunFolder(cell["teacher_dir"]).results) or {}),
        **(atomic.read_json(RunFolder(cell["run_dir"]).results) or {}),
    }
    figures = {
        f"{stage}_{key}": results.get(stage, {}).get(key)
        for stage in _STAGES
        for key in (metric, *_COSTS)
    }
    labeling = None
    if cell["stage"] == "student":
        path = RunFolder(cell["teacher_dir"]).labeling_time
        labeling = (atomic.read_json(path) or {}).get("seconds")
    parts = {
        "teacher": [figures["teacher_seconds"]],
        "student": [figures["teacher_seconds"], labeling, figures["student_seconds"]],
        "control": [figures["teacher_seconds"], figures["control_seconds"]],
    }[cell["stage"]]
    is_done = status == "done"
    return {
        **{key: cell[key] for key in ("row", "column", "seed", "stage")},
        "status": status,
        "text": text,
        metric: figures[f"{cell['stage']}_{metric}"] if is_done else None,
        **figures,
        "labelling_seconds": labeling,
        "seconds": sum(parts) if is_done and None not in parts else None,
    }


def _costs(first):
    """Return the result and cost of a pre-training, or its failure, as text."""
    outcome = read_outcomes(first["run_dir"]).get("teacher", {"status": "not finished"})
    if outcome["status"] != "done":
        return outcome.get("text") or outcome["status"]
    result = atomic.read_json(RunFolder(first["run_dir"]).results)["teacher"]
    name = headline(result)
    costs = ", ".join(f"{result[key]:,.0f} {key}" for key in _COSTS)
    return f"{name} {result[name]:.1f}, {costs}"


def table(plan, results):
    """Return a study's table as Markdown, in the paper's layout.

    Args:
        plan: dict, as returned by `grid`.
        results: dict of (row, column, seed) to a dict with the metric, `status`, `text`
            and the costs.

    Returns:
        str: means ± standard deviations over the seeds; in parentheses the mean gain
        over the first row, seed by seed; then the costs of the rows.
    """
    rows, columns = list(plan["rows"]), list(plan["columns"])
    count = len(plan["seeds"])
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    lines = [
        f"{plan['title']} ({plan['metric']}, {seeds})".strip(),
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row in rows:
        texts = [_cell_text(plan, results, row, column) for column in columns]
        lines.append(f"| {row} | {' | '.join(texts)} |")
    lines += ["", _cost_text(plan, results)]
    return "\n".join(lines) + "\n"


def _values(plan, results, row, column):
    """Return a cell's values by seed; NaN if missing."""
    values = [results[row, column, seed][plan["metric"]] for seed in plan["seeds"]]
    return np.array([np.nan if value is None else value for value in values], float)


def _cell_text(plan, results, row, column):
    values = _values(plan, results, row, column)
    kept = values[~np.isnan(values)]
    missing = [
        results[row, column, seed]["text"] or "no value"
        for seed, value in zip(plan["seeds"], values)
        if np.isnan(value)
    ]
    if not len(kept):
        return "; ".join(dict.fromkeys(missing))
    text = f"{kept.mean():.1f}"
    if len(kept) > 1:
        text += f" ± {kept.std(ddof=1):.1f}"
    first = next(iter(plan["rows"]))
    if row != first:
        gains = values - _values(plan, results, first, column)
        gains = gains[~np.isnan(gains)]
        if len(gains):
            text += f" ({gains.mean():+.1f})"
    if missing:
        text += (
            f"; {len(missing)} of {len(values)}: {'; '.join(dict.fromkeys(missing))}"
        )
    return text


def _cost_text(plan, results):
    """Return a table of mean costs per cell for each row.

    `seconds` is the total for the measured model: teacher, labeling (for a student) and
    its own training. The last column is the mean ratio to the first row, cell by cell.
    """
    names = [f"{stage}_{cost}" for stage in _STAGES for cost in _COSTS]
    names.insert(3, "labelling_seconds")
    names.append("seconds")
    first = next(iter(plan["rows"]))
    lines = [
        f"| cost, mean of a cell | {' | '.join(n.replace('_', ' ') for n in names)} "
        f"| times {first} |",
        f"|---|{'---|' * (len(names) + 1)}",
    ]
    for row in plan["rows"]:
        cells = [cell for key, cell in results.items() if key[0] == row]
        texts = []
        for name in names:
            values = [cell[name] for cell in cells if cell[name] is not None]
            texts.append(f"{np.mean(values):,.0f}" if values else "")
        ratios = [
            results[key]["seconds"] / results[first, *key[1:]]["seconds"]
            for key in results
            if key[0] == row
            and results[key]["seconds"]
            and results[first, *key[1:]]["seconds"]
        ]
        texts.append(f"{np.mean(ratios):.2f}" if ratios else "")
        lines.append(f"| {row} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _draw(plan, results, path):
    """Plot one line per row over the columns."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    places = np.arange(len(plan["columns"]))
    for row in plan["rows"]:
        values = np.array([_values(plan, results, row, c) for c in plan["columns"]])
        present = ~np.isnan(values)
        counts = present.sum(axis=1)
        drawn = counts > 0
        means = np.array(
            [v[k].mean() if k.any() else 0 for v, k in zip(values, present)]
        )
        spread = np.array(
            [v[k].std(ddof=1) if k.sum() > 1 else 0 for v, k in zip(values, present)]
        )
        axes.errorbar(
            places[drawn], means[drawn], spread[drawn], marker="o", capsize=3, label=row
        )
    axes.set_xticks(places, list(plan["columns"]))
    axes.set_ylabel(plan["metric"])
    axes.set_title(plan["title"])
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
