"""Studies: grids of experiments, the table and the figure of what they come to.

A study lives in one `model_dir`: `teachers/` and `runs/` hold experiments, each in its
own process and with `outcome.json` and `log.txt`; `table.md`, `cells.csv` and
`figure.png` what they come to. Experiments whose teachers follow from the same settings
share teacher and labels.
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


def grid(experiment, rows, columns, seeds=(0,), settings=(), metric="AP", title=""):
    """Return the cells of a study; gin binds the arguments.

    Args:
        experiment: str, a gin file, relative to the study's.
        rows: dict of name to (stage whose model is measured, setting, …); the first
            row is what the others are compared with. A setting is a line of gin, or a
            gin file that is added.
        columns: dict of name to (setting, …).
        seeds: ints; every cell is run with each.
        settings: of all cells.
        metric: str, a key of a stage's results.
        title: str, of table and figure.

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
    }


def run(cells, jobs, lock):
    """Run the experiments that aren't finished: teachers first, then what needs them.

    Args:
        cells: list of dicts: `row`, `column`, `seed`, `stage`; `command`, the flags of
            `official_selftrain.train`; `teacher_dir` and `run_dir`, the same for a cell
            that measures the teacher.
        jobs: int, processes at a time.
        lock: int, an open file that the processes shall hold too.
    """
    teachers, others = {}, {}
    for cell in cells:
        job = teachers.setdefault(cell["teacher_dir"], {**cell, "labels": False})
        job["labels"] |= cell["stage"] != "teacher"
        if cell["stage"] != "teacher":
            others.setdefault(cell["run_dir"], cell)
    processes = set()

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
                command, stdout=log, stderr=log, pass_fds=(lock,)
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


def report(model_dir, plan, cells):
    """Write the cells, the table and the figure of a study.

    Args:
        model_dir: str.
        plan: dict of `grid`.
        cells: as of `run`.

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
        costs = {
            f"{stage}_{cost}": results.get(stage, {}).get(cost)
            for stage in _STAGES
            for cost in _COSTS
        }
        found[cell["row"], cell["column"], cell["seed"]] = {
            **{key: cell[key] for key in ("row", "column", "seed", "stage")},
            "status": outcome["status"],
            "text": outcome["text"],
            metric: measured.get(metric) if is_done else None,
            **costs,
            "labelling_seconds": labelling.get("seconds"),
        }
    path = os.path.join(model_dir, "cells.csv")
    with open(path + ".partial", "w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(found.values())))
        writer.writeheader()
        writer.writerows(found.values())
    os.replace(path + ".partial", path)
    with open(os.path.join(model_dir, "table.md"), "w") as file:
        file.write(table(plan, found))
    _draw(plan, found, os.path.join(model_dir, "figure.png"))
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
    """Return a table of what an experiment of each row costs, means over its cells."""
    names = [f"{stage}_{cost}" for stage in _STAGES for cost in _COSTS]
    names.insert(3, "labelling_seconds")
    lines = [
        f"| cost, mean of a cell | {' | '.join(n.replace('_', ' ') for n in names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for row in plan["rows"]:
        cells = [cell for key, cell in found.items() if key[0] == row]
        texts = []
        for name in names:
            values = [cell[name] for cell in cells if cell[name] is not None]
            texts.append(f"{np.mean(values):,.0f}" if values else "")
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
