"""The report of an experiment, one HTML file with its pictures inside; pictures."""

import base64
import html
import io

import numpy as np
import tensorflow as tf
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from official_selftrain.data import augment, examples, masks

_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } th, td { padding: .25em .8em; text-align: right }
th:first-child, td:first-child { text-align: left }
tr:nth-child(even) { background: #f3f3f3 } img { max-width: 100% }
"""

# The figure that sums up a detector and a segmenter.
HEADLINES = ("AP", "mIoU", "top1")

# A model's weights, and their moving average where there is one.
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


def samples(source, count):
    """Return the first examples of a source, ready to be drawn.

    Args:
        source: `examples.Source`.
        count: int.

    Returns:
        list of dicts: `image` uint8 `[h, w, 3]` and `labels`, a dict of a title to
        a dict of `boxes` (pixels), `classes`, `scores`, `ignore`, or of `mask`
        `[h, w]`. The source's own labels have the title `"labels"`.
    """
    return [sample(example, source) for example in source.dataset.take(count)]


def sample(example, source):
    """Return one of `samples`.

    Args:
        example: dict of eager tensors.
        source: `examples.Source` that it is from.
    """
    image = examples.read_image(example)
    labels = _labels_in_pixels(example, image.shape[:2], source)
    labels = {key: value.numpy() for key, value in labels.items()}
    return {"image": image.numpy(), "labels": {"labels": labels}}


def _labels_in_pixels(example, size, source):
    """Return the boxes or the mask of an example."""
    if source.has_masks:
        mask = examples.read_mask(example, tf.constant(size), len(source.class_names))
        return {"mask": mask}
    labels = {key: example[key] for key in ("classes", "scores", "ignore")}
    labels["boxes"] = example["boxes"] * [*size, *size]
    return labels


def contact_sheet(source, augmentations, image_size, count, seed=0):
    """Draw what augmentations make of the first images of a source.

    Args:
        source: `examples.Source` with labels.
        augmentations: dict of a title to an augmentation (see `data.augment`).
        image_size: (height, width) of the frame.
        count: int, how many images.
        seed: int.

    Returns:
        matplotlib `Figure`: a column for each image, a row for the image as it
        is and one for each augmentation, with boxes and masks. Where the labels
        are boxes, masks are painted from them.
    """
    rows = {"image": augment.fit, **augmentations}
    columns = list(source.dataset.take(count))
    figure = Figure(
        figsize=(1.8 * len(columns), 1.8 * len(rows) + 0.2), layout="constrained"
    )
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for column, example in enumerate(columns):
        image = examples.read_image(example)
        labels = _labels_in_pixels(example, image.shape[:2], source)
        if not source.has_masks:
            labels["mask"] = _painted(labels, image.shape[:2])
        for row, (title, function) in enumerate(rows.items()):
            item_seed = tf.constant([seed, column], tf.int64)
            frame, moved, _ = function(image, labels, tuple(image_size), item_seed)
            axes = grid[row][column]
            axes.imshow(frame.numpy().round().clip(0, 255).astype(np.uint8))
            axes.set(xticks=[], yticks=[])
            moved = {key: value.numpy() for key, value in moved.items()}
            _draw_labels(axes, moved, source.class_names)
            if column == 0:
                axes.set_ylabel(title)
    return figure


def _painted(labels, size):
    """Return a mask, class ids counted from 1, with every box filled."""
    mask = np.zeros(size, np.int32)
    for box, label in zip(labels["boxes"].numpy(), labels["classes"].numpy()):
        top, left, bottom, right = box.round().clip(0).astype(int)
        mask[top:bottom, left:right] = label % (masks.IGNORE_CLASS - 1) + 1
    return tf.constant(mask)


def _mask_colors(mask):
    """Return RGBA: classes tinted, background clear, ignored pixels hatched."""
    colors = np.zeros((*mask.shape, 4))
    for label in np.unique(mask):
        if label not in (0, masks.IGNORE_CLASS):
            colors[mask == label] = (*to_rgb(f"C{(label - 1) % 10}"), 0.55)
    rows, columns = np.indices(mask.shape)
    period = max(4, max(mask.shape) // 40)
    hatched = (mask == masks.IGNORE_CLASS) & ((rows + columns) % period == 0)
    colors[hatched] = (1.0, 1.0, 1.0, 0.6)
    return colors


def write(path, results, histories, truth, pseudo, class_names):
    """Write the report.

    Args:
        path: str, of the HTML file.
        results: dict, as in `results.json`.
        histories: dict of stage to list of rows of `fitting.read_history`.
        truth: list of `samples` of the validation images, with the labels of the
            models beside their own.
        pseudo: list of `samples` of the pseudo-labelled images.
        class_names: sequence of str.
    """
    body = [
        f"<h1>Self-training report</h1>{_summary(results)}{_results_table(results)}",
        _rounds_table(results),
        _class_table(results, class_names),
        "<h2>Learning curves</h2>",
        picture(_curves(histories)),
    ]
    quality = results.get("pseudo_labels")
    if quality:
        body += ["<h2>Pseudo-labels</h2>", _quality_table(quality)]
        body.append(picture(_histogram(quality)))
    if pseudo:
        body += [
            "<h3>As the student sees them</h3>",
            picture(grid(pseudo, class_names)),
            _legend(pseudo, class_names),
        ]
    body += ["<h2>Predictions on validation images</h2>"]
    body += [picture(grid(truth, class_names)), _legend(truth, class_names)]
    body += ["<h2>Settings</h2>", _definition_table(results["config"])]
    write_page(path, "Self-training report", body)


def write_page(path, title, body):
    """Write an HTML page.

    Args:
        path: str.
        title: str.
        body: list of str, HTML.
    """
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}</body></html>"
    )
    with open(path, "w") as file:
        file.write(page)


def _summary(results):
    if "student" not in results or "control" not in results:
        return ""
    name = headline(results["student"])
    student, control = results["student"][name], results["control"][name]
    if student is None or control is None:
        return ""
    return (
        f"<p>The pseudo-labels change {name} by <b>{student - control:+.2f}</b>: "
        f"student {student:.2f}, supervised control of the same start, steps and "
        f"images per step {control:.2f}.</p>"
    )


def headline(metrics):
    """Return the name of the figure that sums up a model's metrics."""
    return next(name for name in HEADLINES if name in metrics)


def _results_table(results):
    stages = [s for s in STAGES if s in results]
    columns = [c for c in _TABLE if c in results[stages[0]]]
    rows = [[stage] + [_number(results[stage][c]) for c in columns] for stage in stages]
    return table(["", *columns], rows)


def _rounds_table(results):
    """Return what the student of each round came to."""
    rounds = results.get("rounds")
    if not rounds:
        return ""
    name = headline(results["student"])
    rows = [[str(r["round"]), _number(r["student"])] for r in rounds]
    return "<h2>Rounds</h2>" + table(["round", f"student's {name}"], rows)


def _class_table(results, class_names):
    """Return the IoU of every class, and which classes have none."""
    stages = [s for s in STAGES if "class_IoU" in results.get(s, {})]
    if not stages:
        return ""
    rows = [
        [name, *(_number(results[stage]["class_IoU"][label]) for stage in stages)]
        for label, name in enumerate(class_names)
    ]
    absent = [row[0] for row in rows if set(row[1:]) == {_number(None)}]
    note = html.escape(", ".join(absent))
    note = f"<p>Neither true nor predicted, left out of mIoU: {note}.</p>"
    return table(["IoU", *stages], rows) + (note if absent else "")


def _quality_table(quality):
    known = (
        *("images", "boxes", "boxes_per_image", "ignored", "empty_images"),
        *("score_threshold", "precision", "recall", "mIoU", "accuracy"),
    )
    names = [name for name in known if name in quality]
    return table(names, [[_number(quality[name]) for name in names]])


def _definition_table(values):
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        rows.append([name, str(value)])
    return table(["", ""], rows)


def table(header, rows):
    """Return an HTML table of a list of str and a list of lists."""

    def cells(values, tag):
        return "".join(f"<{tag}>{html.escape(str(v))}</{tag}>" for v in values)

    lines = [f"<tr>{cells(header, 'th')}</tr>"]
    lines += [f"<tr>{cells(row, 'td')}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _number(value):
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}"


def picture(figure):
    """Return a matplotlib `Figure` as HTML, the picture inside."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<p><img alt="figure" src="data:image/png;base64,{data}"></p>'


def _curves(histories):
    figure = Figure(figsize=(9, 3), layout="constrained")
    loss, scale = figure.subplots(1, 2)
    for stage, rows in histories.items():
        steps = [row["step"] for row in rows]
        loss.plot(
            steps, [row["labeled_loss"] for row in rows], label=f"{stage}, labelled"
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
    ylabel = "boxes" if what == "boxes" else "share of the pixels"
    axes.set(
        xlabel=f"score of stored {what} (dashed: threshold)", ylabel=ylabel, xlim=(0, 1)
    )
    return figure


def grid(drawn, class_names):
    """Return a matplotlib `Figure` of `samples`.

    One column for each sample and one row for each set of labels.

    Masks cover what they label, so the image as it is has a row of its own.
    """
    titles = list(drawn[0]["labels"])
    if "mask" in drawn[0]["labels"][titles[0]]:
        titles = ["image", *titles]
    figure = Figure(
        figsize=(1.6 * len(drawn), 1.6 * len(titles) + 0.2), layout="constrained"
    )
    grid = figure.subplots(len(titles), len(drawn), squeeze=False)
    for column, sample in enumerate(drawn):
        for row, title in enumerate(titles):
            axes = grid[row][column]
            axes.imshow(sample["image"])
            axes.set(xticks=[], yticks=[])
            _draw_labels(axes, sample["labels"].get(title, {}), class_names)
            if column == 0:
                axes.set_ylabel(title)
    return figure


def _legend(drawn, class_names):
    """Return the colours of the classes that drawn masks hold."""
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


def _draw_labels(axes, labels, class_names):
    if "mask" in labels:
        axes.imshow(_mask_colors(labels["mask"]), interpolation="nearest")
    if "boxes" not in labels:
        return
    for box, label, score, ignore in zip(
        labels["boxes"], labels["classes"], labels["scores"], labels["ignore"]
    ):
        if label < 0:
            continue
        color = "gray" if ignore else f"C{label % 10}"
        ymin, xmin, ymax, xmax = box
        axes.add_patch(
            Rectangle(
                (xmin, ymin), xmax - xmin, ymax - ymin, fill=False, edgecolor=color
            )
        )
        text = (
            class_names[label] if score == 1.0 else f"{class_names[label]} {score:.2f}"
        )
        axes.text(
            xmin,
            ymin,
            text,
            color="white",
            fontsize=6,
            backgroundcolor=color,
            va="bottom",
        )
