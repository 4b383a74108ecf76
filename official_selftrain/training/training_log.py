"""What a training tells while it runs: progress, history, TensorBoard, warnings."""

import csv
import io
import json
import math
import os
import sys
import time

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from official_selftrain.inference import pictures

_DRAWN_SCORE = 0.5  # predictions below it aren't drawn
_SCALES = (1e-3, 1e3)  # a ratio of the loss averages outside is warned about
_MOSTLY = 0.5


class TrainingLog:
    """Show progress; keep `history.csv` and TensorBoard's files in a folder.

    Args:
        output_dir: str.
        steps: int, of the whole training.
        step: int, done before.
        images_per_step: int.
        writes: bool; False shows and writes nothing.
    """

    def __init__(self, output_dir, steps, step, images_per_step, writes=True):
        self.output_dir = output_dir
        self.images_per_step = images_per_step
        self.writes = writes
        self.step = step
        self._warned = set()
        self._writer = None
        if writes:
            folder = os.path.join(output_dir, "tensorboard")
            self._writer = tf.summary.create_file_writer(folder)
        self._progress = tqdm(
            total=steps,
            initial=step,
            desc=os.path.basename(output_dir),
            unit="step",
            mininterval=1.0,
            disable=not writes,
        )
        self._begin()
        self._stretch = os.path.join(output_dir, "stretch.json")
        if os.path.exists(self._stretch):
            with open(self._stretch) as file:
                stretch = json.load(file)
            if stretch["step"] == step:
                self._sums, self._count = stretch["sums"], stretch["count"]
                self._start -= stretch["seconds"]

    def _begin(self):
        self._sums, self._count, self._start = {}, 0, time.monotonic()

    def suspend(self):
        """Keep what the next row needs of the steps since the last one."""
        self.warn("stop", "terminated, saved; run it again to continue")
        if self.writes:
            stretch = {
                "step": self.step,
                "sums": self._sums,
                "count": self._count,
                "seconds": time.monotonic() - self._start,
            }
            with open(self._stretch, "w") as file:
                json.dump(stretch, file)

    def resume(self):
        """Don't count the time since the last row: no step was taken in it."""
        self._start = time.monotonic()

    def add(self, terms):
        """Count a step in.

        Args:
            terms: dict of floats; None for a step that left the weights as they were.
        """
        self.step += 1
        self._progress.update()
        if terms is None:
            self.warn("overflow", "float16 overflowed; such steps are left out")
            return
        self._count += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def row(self, learning_rate):
        """End a stretch of steps: write its means.

        Args:
            learning_rate: float.

        """
        if not self._count:
            return
        seconds = time.monotonic() - self._start
        means = {name: total / self._count for name, total in self._sums.items()}
        row = {
            "step": self.step,
            "seconds": seconds,
            "learning_rate": learning_rate,
            **means,
        }
        speed = self._count * self.images_per_step / max(seconds, 1e-9)
        self._progress.set_postfix(
            {"loss": f"{means['loss']:.3f}", "images/s": f"{speed:.0f}"}
        )
        self._check(means)
        if self.writes:
            append(os.path.join(self.output_dir, "history.csv"), row)
            scalars = {k: v for k, v in row.items() if k not in ("step", "seconds")}
            self.scalars({**scalars, "images_per_second": speed})
        self._begin()

    def scalars(self, values):
        """Write a dict of floats for TensorBoard."""
        if not self.writes:
            return
        with self._writer.as_default(step=self.step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def pictures(self, batch, predict, class_names, count):
        """Draw images as the model sees them, with labels and predictions.

        Args:
            batch: dict of streams, each a dict of eager tensors.
            predict: function `(images, sizes)` → predictions.
            class_names: names.
            count: int, images of each stream.
        """
        if not self.writes:
            return
        with self._writer.as_default(step=self.step):
            for stream, labels in batch.items():
                labels = {key: value[:count] for key, value in labels.items()}
                images = labels["images"]
                # The frame's pixels are what labels are in.
                frame = tf.tile([images.shape[1:3]], [len(images), 1])
                found = predict(images, frame)
                figure = pictures.grid(_drawn(labels, found), class_names)
                png = io.BytesIO()
                figure.savefig(png, format="png", dpi=110)
                picture = tf.io.decode_png(png.getvalue(), channels=3)[None]
                tf.summary.image(stream, picture)

    def _check(self, means):
        scale = means.get("pseudo_scale")
        if scale is not None and not _SCALES[0] <= scale <= _SCALES[1]:
            self.warn(
                "scale",
                "Expected the losses' averages within a factor of 1,000 of each other. "
                f"Received: pseudo_scale={scale:.3g}",
            )
        empty = means.get("pseudo_empty", 0.0)
        if empty > _MOSTLY:
            self.warn(
                "empty",
                "Expected pseudo-labelled images with labels. Received: "
                f"{100.0 * empty:.0f} % of the images without any",
            )

    def warn(self, kind, text):
        """Print a warning, once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            name = os.path.basename(self.output_dir)
            tqdm.write(f"warning: {name}, step {self.step}: {text}", file=sys.stderr)

    def close(self):
        """End the progress bar and TensorBoard's files."""
        self._progress.close()
        if self._writer is not None:
            self._writer.close()


def append(path, row):
    """Add a row to a CSV file, in the place of one of the same or a later step.

    A training that was killed takes the steps since its last checkpoint again.

    Args:
        path: str.
        row: dict of floats, with `step`.
    """
    rows = [r for r in _rows(path) if float(r["step"]) < row["step"]]
    with open(path + ".partial", "w", newline="") as file:
        writer = csv.DictWriter(file, row, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, row])
    os.replace(path + ".partial", path)


def read(path):
    """Read a CSV file of floats.

    Args:
        path: str.

    Returns:
        list of dicts of floats; empty without the file.
    """
    return [
        {name: float(value) for name, value in row.items() if value != ""}
        for row in _rows(path)
    ]


def _rows(path):
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def check_finite(terms, batch, where):
    """Check that a step's loss and gradient are finite.

    Args:
        terms: dict of floats, with `loss` and `gradient_norm`.
        batch: dict of streams, of which `ids` are named.
        where: str, the step and what is kept.

    Raises:
        ValueError: with the terms and the images of the streams that aren't finite,
            or of all where only their sum isn't.
    """
    if math.isfinite(terms["loss"] + terms["gradient_norm"]):
        return
    text = ", ".join(f"{name}={terms[name]:g}" for name in sorted(terms))
    streams = [stream for stream in batch if f"{stream}_loss" in terms]
    bad = [s for s in streams if not math.isfinite(terms[f"{s}_loss"])]
    images = "; ".join(
        f"{stream} images {', '.join(map(str, np.asarray(batch[stream]['ids'])))}"
        for stream in bad or streams
    )
    raise ValueError(
        f"Expected a finite loss and gradient. Received: {text} at {where}; {images}"
    )


def _drawn(labels, found):
    """Return the samples that `pictures.grid` draws."""
    drawn = []
    for number, image in enumerate(np.asarray(labels["images"])):
        sample = {"image": image.round().clip(0, 255).astype(np.uint8), "labels": {}}
        if "mask" in labels:
            sample["labels"]["labels"] = {"mask": np.asarray(labels["mask"][number])}
            sample["labels"]["model"] = {"mask": np.asarray(found["mask"][number])}
        else:
            keys = ("boxes", "classes", "scores", "ignore")
            sample["labels"]["labels"] = {
                k: np.asarray(labels[k][number]) for k in keys
            }
            boxes = {k: np.asarray(found[k][number]) for k in keys[:3]}
            boxes["ignore"] = np.zeros(len(boxes["boxes"]), bool)
            count = int(found["num_detections"][number])
            kept = boxes["scores"] >= _DRAWN_SCORE
            kept[count:] = False
            sample["labels"]["model"] = {k: v[kept] for k, v in boxes.items()}
        drawn.append(sample)
    return drawn
