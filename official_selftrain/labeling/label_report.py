"""The report on a folder of labels: which threshold, which images to inspect."""

import heapq
import html

import tensorflow as tf
from matplotlib.figure import Figure

from official_selftrain.checks import progress
from official_selftrain.files import atomic
from official_selftrain.files.run_folder import LabelFolder
from official_selftrain.inference import pictures
from official_selftrain.labeling import label_quality, label_store, pages

_COLUMNS = 6


def write(output_dir, truth=None, num_images=24):
    """Write `report.html` and `report.json` into a folder of labels.

    Args:
        output_dir: str, a finished folder of labels.
        truth: `examples.Source` of the same images in the same order; if it has
            labels, the report shows precision, recall and F1 at every threshold.
        num_images: int, number of images to draw, most uncertain first.

    Returns:
        str, the path of the page.

    Raises:
        FileNotFoundError: if the labels aren't complete.
        ValueError: if the ground truth has different classes.
    """
    has_truth = truth is not None and truth.has_labels
    stored = label_store.read(output_dir, truth.class_names if has_truth else None)
    manifest = label_store.read_manifest(output_dir)
    body = [f"<h1>Pseudo-labels of {html.escape(output_dir)}</h1>"]
    body.append(
        f"<p>{manifest['labeled']} of {manifest['images']} images, "
        f"{len(manifest['skipped'])} skipped.</p>"
    )
    content = {"sweep": None, "doubtful": []}
    if has_truth:
        swept = label_quality.sweep(stored, truth)
        content["sweep"] = swept
        body += _thresholds(swept)
    unsure = _most_doubtful(stored, num_images)
    content["doubtful"] = [{"id": int(e["id"]), "doubt": d} for d, e in unsure]
    body += _pictures(unsure, stored)
    folder = LabelFolder(output_dir)
    atomic.write_json(folder.report_json, content)
    pages.write_page(folder.report, "Pseudo-labels", body)
    return folder.report


def _pictures(unsure, stored):
    """Return HTML figures of the examples of `_most_doubtful`, with their names."""
    drawn = []
    for _, example in unsure:
        example = {key: tf.constant(value) for key, value in example.items()}
        sample = pictures.sample(example, stored)
        drawn.append({**sample, "labels": {"": sample["labels"]["labels"]}})
    parts = ["<h2>Images by the teacher's uncertainty, most uncertain first</h2>"]
    for start in range(0, len(drawn), _COLUMNS):
        part = drawn[start : start + _COLUMNS]
        names = [
            f"{doubt:.2f}: {html.escape(e['path'].decode() or str(e['id']))}"
            for doubt, e in unsure[start : start + _COLUMNS]
        ]
        parts.append(pages.picture(pictures.grid(part, stored.class_names)))
        parts.append(f"<p>{'; '.join(names)}</p>")
    return parts


def _thresholds(swept):
    """Return the plot and tables of `label_quality.sweep` as HTML."""
    columns = ("precision", "recall", "F1", "per_image")
    everything = swept["classes"]["all"]
    rows = [
        [f"{threshold:.2f}", *(_number(everything[name][place]) for name in columns)]
        for place, threshold in enumerate(swept["thresholds"])
    ]
    by_class = []
    for name, row in swept["classes"].items():
        suggested = row["suggested"]
        place = None if suggested is None else swept["thresholds"].index(suggested)
        values = [None if place is None else row[column][place] for column in columns]
        by_class.append([name, _number(suggested), str(row["true"])])
        by_class[-1] += [_number(value) for value in values]
    best = _number(everything["suggested"])
    return [
        f"<h2>Threshold</h2><p>Suggested (best F1): <b>{best}</b></p>",
        pages.picture(_plot(swept)),
        pages.table(["threshold", *columns], rows),
        "<h2>By class, at each class's best F1</h2>",
        pages.table(["class", "threshold", "true", *columns], by_class),
    ]


def _plot(swept):
    everything = swept["classes"]["all"]
    figure = Figure(figsize=(9, 3), layout="constrained")
    rates, counts = figure.subplots(1, 2)
    for name in ("precision", "recall", "F1"):
        rates.plot(swept["thresholds"], everything[name], label=name)
    rates.set(xlabel="score threshold", ylim=(0, 1))
    rates.legend(fontsize=8)
    counts.plot(swept["thresholds"], everything["per_image"], label="pseudo-labels")
    counts.axhline(everything["true"] / swept["images"], color="black", linestyle="--")
    counts.set(
        xlabel="score threshold", ylabel="per image (dashed: truth)", ylim=(0, None)
    )
    return figure


def _number(value):
    return "–" if value is None else f"{value:.3f}"


def _most_doubtful(source, count):
    """Return the most uncertain examples first, in constant memory."""
    heap = []
    every = progress.over(
        source.dataset.as_numpy_iterator(), source.num_images, "report", "image"
    )
    for place, example in enumerate(every):
        item = (label_quality.doubt(example), -place, example)
        if len(heap) < count:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)
    return [(doubt, example) for doubt, _, example in sorted(heap, reverse=True)]
