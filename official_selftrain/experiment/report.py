"""The report of an experiment: one HTML file with embedded images."""

import html

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from official_selftrain.data import masks
from official_selftrain.inference import pictures
from official_selftrain.labeling import pages
from official_selftrain.metrics import headline

# Each model, and its moving average if it has one.
STAGES = tuple(
    stage + kind
    for stage in ("teacher", "student", "control")
    for kind in ("", "_average")
)
_TABLE = (
    *("AP", "AP50", "AP75", "AR100"),
    *("mIoU", "accuracy", "top1"),
    *("steps", "images", "seconds"),
)


def write(path, results, histories, truth, pseudo, class_names):
    """Write the report.

    Args:
        path: str, of the HTML file.
        results: dict, as in `results.json`.
        histories: dict of stage to list of rows, as in `fitting.read_history`.
        truth: list of `samples` of the validation images, with ground truth and
            predictions.
        pseudo: list of `samples` of the pseudo-labeled images.
        class_names: sequence of str.
    """
    body = [
        f"<h1>Self-training report</h1>{_summary(results)}{_results_table(results)}",
        *(f"<p>{html.escape(line)}</p>" for line in results.get("kept", ())),
        _rounds_table(results),
        _class_table(results, class_names),
        "<h2>Learning curves</h2>",
        pages.picture(_curves(histories)),
    ]
    quality = results.get("pseudo_labels")
    if quality:
        body += ["<h2>Pseudo-labels</h2>", _quality_table(quality)]
        body.append(pages.picture(_histogram(quality)))
    if pseudo:
        body += [
            "<h3>As the student sees them</h3>",
            pages.picture(pictures.grid(pseudo, class_names)),
            _legend(pseudo, class_names),
        ]
    body += ["<h2>Predictions on validation images</h2>"]
    body += [
        pages.picture(pictures.grid(truth, class_names)),
        _legend(truth, class_names),
    ]
    body += ["<h2>Settings</h2>", _definition_table(results["config"])]
    pages.write_page(path, "Self-training report", body)


def lines(results):
    """Return one line of metrics per stage.

    Args:
        results: dict, as in `results.json`.

    Returns:
        list of str.
    """
    figures = [_line(stage, results[stage]) for stage in STAGES if stage in results]
    return [*results.get("kept", ()), *figures]


def _line(stage, result):
    figures = ", ".join(
        f"{name} {result[name]:.2f}"
        for name in ("AP", "AP50", "AP75", "mIoU", "top1")
        if result.get(name) is not None
    )
    absent = result.get("class_IoU", []).count(None)
    note = f" ({absent} classes absent, left out of the mean)" if absent else ""
    return f"{stage}: {figures}{note}"


def _summary(results):
    if "student" not in results or "control" not in results:
        return ""
    name = headline(results["student"])
    student, control = results["student"][name], results["control"][name]
    if student is None or control is None:
        return ""
    return (
        f"<p>The pseudo-labels change {name} by <b>{student - control:+.2f}</b>: "
        f"student {student:.2f}, supervised control with the same initial weights, "
        f"steps and images per step {control:.2f}.</p>"
    )


def _results_table(results):
    stages = [s for s in STAGES if s in results]
    columns = [c for c in _TABLE if c in results[stages[0]]]
    rows = [[stage] + [_number(results[stage][c]) for c in columns] for stage in stages]
    return pages.table(["", *columns], rows)


def _rounds_table(results):
    """Return a table of each round's student."""
    rounds = results.get("rounds")
    if not rounds:
        return ""
    name = headline(results["student"])
    rows = [[str(r["round"]), _number(r["student"])] for r in rounds]
    return "<h2>Rounds</h2>" + pages.table(["round", f"student's {name}"], rows)


def _class_table(results, class_names):
    """Return a table of IoU per class, and the classes without one."""
    stages = [s for s in STAGES if "class_IoU" in results.get(s, {})]
    if not stages:
        return ""
    rows = [
        [name, *(_number(results[stage]["class_IoU"][label]) for stage in stages)]
        for label, name in enumerate(class_names)
    ]
    absent = [row[0] for row in rows if set(row[1:]) == {_number(None)}]
    note = html.escape(", ".join(absent))
    note = f"<p>Absent from labels and predictions, excluded from mIoU: {note}.</p>"
    return pages.table(["IoU", *stages], rows) + (note if absent else "")


def _quality_table(quality):
    columns = (
        *("images", "boxes", "boxes_per_image", "ignored", "empty_images"),
        *("score_threshold", "precision", "recall", "mIoU", "accuracy"),
    )
    names = [name for name in columns if name in quality]
    return pages.table(names, [[_number(quality[name]) for name in names]])


def _definition_table(values):
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        rows.append([name, str(value)])
    return pages.table(["", ""], rows)


def _number(value):
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}"


def _curves(histories):
    figure = Figure(figsize=(9, 3), layout="constrained")
    loss, scale = figure.subplots(1, 2)
    for stage, rows in histories.items():
        steps = [row["step"] for row in rows]
        loss.plot(
            steps, [row["labeled_loss"] for row in rows], label=f"{stage}, labeled"
        )
        if "pseudo_loss" in rows[0]:
            values = [row["pseudo_loss"] for row in rows]
            loss.plot(steps, values, "--", label=f"{stage}, pseudo")
            scale.plot(steps, [row["pseudo_scale"] for row in rows], label=stage)
    loss.set(xlabel="step", ylabel="loss", yscale="log")
    scale.set(xlabel="step", ylabel="pseudo_scale (mean L_h / mean L_p)")
    if histories:
        loss.legend(fontsize=8)
    return figure


def _histogram(quality):
    figure = Figure(figsize=(9, 2.5), layout="constrained")
    axes = figure.subplots()
    counts = quality["score_histogram"]
    edges = np.linspace(0.0, 1.0, len(counts) + 1)
    axes.bar(edges[:-1], counts, width=1 / len(counts), align="edge", edgecolor="white")
    axes.axvline(quality["score_threshold"], color="black", linestyle="--")
    what = "boxes" if "boxes" in quality else "pixels"
    ylabel = "boxes" if what == "boxes" else "fraction of the pixels"
    axes.set(
        xlabel=f"score of stored {what} (dashed: threshold)", ylabel=ylabel, xlim=(0, 1)
    )
    return figure


def _legend(drawn, class_names):
    """Return a legend of the classes in the drawn masks."""
    shown = set()
    for sample in drawn:
        for labels in sample["labels"].values():
            shown |= set(np.unique(labels.get("mask", 0)).tolist())
    shown -= {0, masks.IGNORE_CLASS}
    if not shown:
        return ""
    entries = [
        f'<span style="color:{to_hex(f"C{(label - 1) % 10}")}">■</span> '
        f"{html.escape(class_names[label])}"
        for label in sorted(shown)
    ]
    return f"<p>{', '.join(entries)}; hatched: ignored</p>"
