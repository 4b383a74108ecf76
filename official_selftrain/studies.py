"""Studies: grids of experiments, the table and the figure of what they come to.

A study lives in one `model_dir`, which several may share: `pretraining/`, `teachers/`
and `runs/` hold experiments, each run in a process of its own, with `outcome.json` and
`log.txt`; `NAME.md`, `NAME.csv` and `NAME.png` what they come to. Experiments whose
teachers follow from the same settings share teacher and labels.
"""

import concurrent.futures
import csv
import os
import re
import signal
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot

from official_selftrain import checks
from official_selftrain.evaluation import read_json, write_json

_STAGES = ("teacher", "student", "control")
_COSTS = ("steps", "images", "seconds")


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
        experiment: str, a gin file, relative to the study's.
        rows: dict of name to (stage whose model is measured, setting, …); the first
            row is what the others are compared with. A setting is a line of gin, or a
            gin file that is added; `{pretraining}` in it stands for the pre-trained
            model's file.
        columns: dict of name to (setting, …).
        seeds: ints; every cell is run with each.
        settings: of all cells.
        metric: str, a key of a stage's results.
        title: str, of table and figure.
        pretraining: str or None, a gin file whose teacher is trained first, once for
            all cells.

    Returns:
        dict of the arguments.

    Raises:
        ValueError: for a stage that is none, or a study without a cell.
    """
    if not rows or not columns or not seeds:
        raise ValueError(
            "Expected rows, columns and seeds. Received: "
            f"rows={rows!r}, columns={columns!r}, seeds={seeds!r}"
        )
    for stage, *_ in rows.values():
        checks.check_choice("stage", stage, _STAGES)
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


def run(cells, jobs, lock, first=None):
    """Run the experiments that aren't finished: teachers first, then what needs them.

    Args:
        cells: list of dicts: `row`, `column`, `seed`, `stage`; `command`, the flags of
            `official_selftrain.train`; `teacher_dir` and `run_dir`, the same for a cell
            that measures the teacher.
        jobs: int, processes at a time, which share the cores evenly.
        lock: int, an open file that the processes shall hold too.
        first: a cell whose teacher is trained before all others, the pre-training, or
            None.

    Raises:
        ValueError: for a pre-training that failed.
    """
    teachers, others = {}, {}
    for cell in cells:
        job = teachers.setdefault(cell["teacher_dir"], {**cell, "labels": False})
        job["labels"] |= cell["stage"] != "teacher"
        if cell["stage"] != "teacher":
            others.setdefault(cell["run_dir"], cell)
    processes = set()
    threads = str(max((os.cpu_count() or 1) // jobs, 1))
    environment = {"TF_NUM_INTRAOP_THREADS": threads, **os.environ}

    def train(folder, job, stages):
        path = os.path.join(folder, "outcome.json")
        outcome = read_json(path)
        if outcome and outcome["stages"] == stages and outcome["status"] != "failed":
            return
        os.makedirs(folder, exist_ok=True)
        command = [sys.executable, "-m", "official_selftrain.train", *job["command"]]
        command += [f"--model_dir={folder}", f"--stages={','.join(stages)}"]
        print(f"study: {job['row']}, {job['column']}, seed {job['seed']}", flush=True)
        with open(os.path.join(folder, "log.txt"), "a") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, pass_fds=(lock,), env=environment
            )
            processes.add(process)
            code = process.wait()
            processes.discard(process)
        if code in (130, 143, -signal.SIGTERM, -signal.SIGKILL):
            return  # stopped from outside: to be continued
        write_json(path, {"stages": stages, **_outcome(folder, code)})

    def student(folder, job):
        made = read_json(os.path.join(job["teacher_dir"], "outcome.json"))
        if not made:
            return
        os.makedirs(folder, exist_ok=True)
        if made["status"] != "done":
            write_json(
                os.path.join(folder, "outcome.json"),
                {"stages": [], **made, "text": f"teacher: {made['text']}"},
            )
            return
        for name in ("teacher", "pseudo_labels"):
            link = os.path.join(folder, name)
            if not os.path.lexists(link):
                source = os.path.join(job["teacher_dir"], name)
                os.symlink(os.path.relpath(source, folder), link)
        train(folder, job, ["teacher", "pseudo_labels", *_STAGES[1:], "evaluation"])

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            done = []
            if first:
                pool.submit(train, first["run_dir"], first, ["teacher"]).result()
                outcome = read_json(os.path.join(first["run_dir"], "outcome.json"))
                if outcome is None or outcome["status"] != "done":
                    raise ValueError(
                        "Expected a pre-training to start from. Received: "
                        f"{outcome['text'] if outcome else 'one that was stopped'}, "
                        f"{first['run_dir']}"
                    )
            for folder, job in teachers.items():
                labels = ["pseudo_labels"] if job["labels"] else []
                stages = ["teacher", *labels, "evaluation"]
                done.append(pool.submit(train, folder, job, stages))
            concurrent.futures.wait(done)
            done += [pool.submit(student, *item) for item in others.items()]
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):
                process.terminate()  # saves a checkpoint
            raise


def _outcome(folder, code):
    """Return how a process ended: done, diverged or failed, and a line about it."""
    if code == 0:
        return {"status": "done", "text": ""}
    with open(os.path.join(folder, "log.txt")) as file:
        lines = [line.strip() for line in file if line.strip()]
    errors = [line for line in lines if line.startswith("train: ")]
    text = (errors or lines or ["no output"])[-1]
    diverged = re.search(r"a finite loss and gradient.* at step (\d+)", text)
    if diverged:
        return {"status": "diverged", "text": f"NaN at step {diverged[1]}"}
    return {"status": "failed", "text": text[:300] or f"exit code {code}"}


def report(path, plan, cells, first=None):
    """Write the cells, the table and the figure of a study.

    Args:
        path: str, of the files, without an ending.
        plan: dict of `grid`.
        cells: as of `run`.
        first: as of `run`.

    Returns:
        int, how many cells failed.
    """
    metric = plan["metric"]
    found = {}
    for cell in cells:
        results = read_json(os.path.join(cell["run_dir"], "results.json")) or {}
        outcome = read_json(os.path.join(cell["run_dir"], "outcome.json")) or {
            "status": "failed",
            "text": "not finished",
        }
        measured = results.get(cell["stage"], {})
        is_done = outcome["status"] == "done"
        labelling = read_json(os.path.join(cell["teacher_dir"], "labelling.json")) or {}
        # A cell's experiment holds no more than the stage that it measures needs.
        costs = {
            f"{stage}_{key}": results.get(stage, {}).get(key)
            for stage in _STAGES
            for key in (metric, *_COSTS)
        }
        seconds = [costs["teacher_seconds"]]
        if cell["stage"] != "teacher":
            costs["labelling_seconds"] = labelling.get("seconds")
            seconds.append(costs[f"{cell['stage']}_seconds"])
        if cell["stage"] == "student":
            seconds.append(costs["labelling_seconds"])
        known = is_done and None not in seconds
        costs["seconds"] = sum(seconds) if known else None
        found[cell["row"], cell["column"], cell["seed"]] = {
            **{key: cell[key] for key in ("row", "column", "seed", "stage")},
            "status": outcome["status"],
            "text": outcome["text"],
            metric: measured.get(metric) if is_done else None,
            "labelling_seconds": None,
            **costs,
        }
    with open(path + ".csv.partial", "w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(found.values())))
        writer.writeheader()
        writer.writerows(found.values())
    os.replace(path + ".csv.partial", path + ".csv")
    text = table(plan, found)
    if first:
        made = read_json(os.path.join(first["run_dir"], "teacher", "fit.json"))
        costs = ", ".join(f"{made[key]:,.0f} {key}" for key in _COSTS)
        text += f"\nThe pre-training, once for all cells: {costs}.\n"
    with open(path + ".md", "w") as file:
        file.write(text)
    _draw(plan, found, path + ".png")
    return sum(cell["status"] == "failed" for cell in found.values())


def table(plan, found):
    """Return a study's table as Markdown, in the paper's form.

    Args:
        plan: dict of `grid`.
        found: dict of (row, column, seed) to a dict with the metric, `status`, `text`
            and the costs.

    Returns:
        str: means ± standard deviations over the seeds; in brackets the mean gain
        over the first row, seed by seed; then what the rows cost.
    """
    rows, columns = list(plan["rows"]), list(plan["columns"])
    lines = [
        f"{plan['title']} ({plan['metric']}, {len(plan['seeds'])} seeds)".strip(),
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row in rows:
        texts = [_cell_text(plan, found, row, column) for column in columns]
        lines.append(f"| {row} | {' | '.join(texts)} |")
    lines += ["", _cost_text(plan, found)]
    return "\n".join(lines) + "\n"


def _values(plan, found, row, column):
    """Return a cell's values by seed; NaN where there is none."""
    values = [found[row, column, seed][plan["metric"]] for seed in plan["seeds"]]
    return np.array([np.nan if value is None else value for value in values], float)


def _cell_text(plan, found, row, column):
    values = _values(plan, found, row, column)
    kept = values[~np.isnan(values)]
    missing = [
        found[row, column, seed]["text"] or "no value"
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
        gains = values - _values(plan, found, first, column)
        gains = gains[~np.isnan(gains)]
        if len(gains):
            text += f" ({gains.mean():+.1f})"
    if missing:
        text += (
            f"; {len(missing)} of {len(values)}: {'; '.join(dict.fromkeys(missing))}"
        )
    return text


def _cost_text(plan, found):
    """Return a table of what a cell of each row costs, means over its cells.

    `seconds` are what the measured model takes: those of the teacher, of labelling for
    a student, and of its own training; the last column is their mean ratio to the first
    row's, cell by cell.
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
        cells = [cell for key, cell in found.items() if key[0] == row]
        texts = []
        for name in names:
            values = [cell[name] for cell in cells if cell[name] is not None]
            texts.append(f"{np.mean(values):,.0f}" if values else "")
        ratios = [
            found[key]["seconds"] / found[first, *key[1:]]["seconds"]
            for key in found
            if key[0] == row
            and found[key]["seconds"]
            and found[first, *key[1:]]["seconds"]
        ]
        texts.append(f"{np.mean(ratios):.2f}" if ratios else "")
        lines.append(f"| {row} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _draw(plan, found, path):
    """Draw the rows as lines over the columns."""
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0))
    places = np.arange(len(plan["columns"]))
    for row in plan["rows"]:
        values = np.array([_values(plan, found, row, c) for c in plan["columns"]])
        known = ~np.isnan(values)
        counts = known.sum(axis=1)
        drawn = counts > 0
        means = np.array([v[k].mean() if k.any() else 0 for v, k in zip(values, known)])
        spread = np.array(
            [v[k].std(ddof=1) if k.sum() > 1 else 0 for v, k in zip(values, known)]
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
    pyplot.close(figure)
