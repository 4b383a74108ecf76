"""The report of an experiment, one HTML file with its pictures inside; pictures."""

import base64
import html
import io

import numpy as np
import tensorflow as tf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from official_selftrain.data import augment, examples, geometry

_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } th, td { padding: .25em .8em; text-align: right }
th:first-child, td:first-child { text-align: left }
tr:nth-child(even) { background: #f3f3f3 } img { max-width: 100% }
"""

_TABLE = ("AP", "AP50", "AP75", "AR100", "steps", "images", "seconds")


def samples(source, count):
    """Return the first examples of a source, ready to be drawn.

    Args:
        source: `examples.Source`.
        count: int.

    Returns:
        list of dicts: `image` uint8 `[h, w, 3]` and `boxes`, a dict of a title
        to a dict of `boxes` (pixels), `classes`, `scores`, `ignore`. The
        source's own labels have the title `"labels"`.
    """
    drawn = []
    for example in source.dataset.take(count):
        image = examples.read_image(example).numpy()
        height, width = image.shape[:2]
        labels = {k: example[k].numpy() for k in ("classes", "scores", "ignore")}
        labels["boxes"] = example["boxes"].numpy() * [height, width, height, width]
        drawn.append({"image": image, "boxes": {"labels": labels}})
    return drawn


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
        is and one for each augmentation, with boxes and masks. Masks are painted
        from the boxes.
    """
    rows = {"image": augment.fit, **augmentations}
    columns = list(source.dataset.take(count))
    figure = Figure(
        figsize=(1.8 * len(columns), 1.8 * len(rows) + 0.2), layout="constrained"
    )
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for column, example in enumerate(columns):
        image = examples.read_image(example)
        height, width = image.shape[:2]
        labels = {key: example[key] for key in ("classes", "scores", "ignore")}
        labels["boxes"] = example["boxes"] * [height, width, height, width]
        labels["mask"] = _painted(labels, (height, width))
        for row, (title, function) in enumerate(rows.items()):
            item_seed = tf.constant([seed, column], tf.int64)
            frame, moved, _ = function(image, labels, tuple(image_size), item_seed)
            axes = grid[row][column]
            axes.imshow(frame.numpy().round().clip(0, 255).astype(np.uint8))
            axes.imshow(_mask_colors(moved.pop("mask").numpy()))
            axes.set(xticks=[], yticks=[])
            moved = {key: value.numpy() for key, value in moved.items()}
            _draw_boxes(axes, moved, source.class_names)
            if column == 0:
                axes.set_ylabel(title)
    return figure


def _painted(labels, size):
    """Return a mask, class ids counted from 1, with every box filled."""
    mask = np.zeros(size, np.int32)
    for box, label in zip(labels["boxes"].numpy(), labels["classes"].numpy()):
        top, left, bottom, right = box.round().clip(0).astype(int)
        mask[top:bottom, left:right] = label % (geometry.IGNORE_CLASS - 1) + 1
    return tf.constant(mask)


def _mask_colors(mask):
    """Return RGBA: classes tinted, background clear, ignored pixels hatched."""
    colors = np.zeros((*mask.shape, 4))
    for label in np.unique(mask):
        if label not in (0, geometry.IGNORE_CLASS):
            colors[mask == label] = (*to_rgb(f"C{(label - 1) % 10}"), 0.35)
    rows, columns = np.indices(mask.shape)
    period = max(4, max(mask.shape) // 40)
    hatched = (mask == geometry.IGNORE_CLASS) & ((rows + columns) % period == 0)
    colors[hatched] = (1.0, 1.0, 1.0, 0.6)
    return colors


def write(path, results, histories, truth, pseudo, class_names):
    """Write the report.

    Args:
        path: str, of the HTML file.
        results: dict, as in `results.json`.
        histories: dict of stage to list of rows of `fitting.read_history`.
        truth: list of `samples` of the validation images, with the boxes of the
            models beside the labels.
        pseudo: list of `samples` of the pseudo-labelled images.
        class_names: sequence of str.
    """
    body = [
        f"<h1>Self-training report</h1>{_summary(results)}{_results_table(results)}",
        "<h2>Learning curves</h2>",
        _picture(_curves(histories)),
    ]
    quality = results.get("pseudo_labels")
    if quality:
        body += ["<h2>Pseudo-labels</h2>", _quality_table(quality)]
        body.append(_picture(_histogram(quality)))
    if pseudo:
        body += [
            "<h3>As the student sees them</h3>",
            _picture(_grid(pseudo, class_names)),
        ]
    body += ["<h2>Predictions on validation images</h2>"]
    body += [_picture(_grid(truth, class_names))]
    body += ["<h2>Settings</h2>", _definition_table(results["config"])]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Self-training report</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}</body></html>"
    )
    with open(path, "w") as file:
        file.write(page)


def _summary(results):
    if "student" not in results or "control" not in results:
        return ""
    gain = results["student"]["AP"] - results["control"]["AP"]
    return (
        f"<p>The pseudo-labels change AP by <b>{gain:+.2f}</b>: student "
        f"{results['student']['AP']:.2f}, supervised control of the same start, steps "
        f"and images per step {results['control']['AP']:.2f}.</p>"
    )


def _results_table(results):
    stages = [s for s in ("teacher", "student", "control") if s in results]
    columns = [c for c in _TABLE if c in results[stages[0]]]
    rows = [[stage] + [_number(results[stage][c]) for c in columns] for stage in stages]
    return _table(["", *columns], rows)


def _quality_table(quality):
    names = (
        "images",
        "boxes",
        "boxes_per_image",
        "empty_images",
        "score_threshold",
        "precision",
        "recall",
    )
    return _table(names, [[_number(quality[name]) for name in names]])


def _definition_table(values):
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        rows.append([name, str(value)])
    return _table(["", ""], rows)


def _table(header, rows):
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


def _picture(figure):
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
    loss.legend(fontsize=8)
    return figure


def _histogram(quality):
    figure = Figure(figsize=(9, 2.5), layout="constrained")
    axes = figure.subplots()
    counts = quality["score_histogram"]
    edges = np.linspace(0.0, 1.0, len(counts) + 1)
    axes.bar(edges[:-1], counts, width=1 / len(counts), align="edge", edgecolor="white")
    axes.axvline(quality["score_threshold"], color="black", linestyle="--")
    axes.set(
        xlabel="score of stored boxes (dashed: threshold)", ylabel="boxes", xlim=(0, 1)
    )
    return figure


def _grid(drawn, class_names):
    """Draw one column for each sample and one row for each set of boxes."""
    titles = list(drawn[0]["boxes"])
    figure = Figure(
        figsize=(1.6 * len(drawn), 1.6 * len(titles) + 0.2), layout="constrained"
    )
    grid = figure.subplots(len(titles), len(drawn), squeeze=False)
    for column, sample in enumerate(drawn):
        for row, title in enumerate(titles):
            axes = grid[row][column]
            axes.imshow(sample["image"])
            axes.set(xticks=[], yticks=[])
            _draw_boxes(axes, sample["boxes"][title], class_names)
            if column == 0:
                axes.set_ylabel(title)
    return figure


def _draw_boxes(axes, labels, class_names):
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
