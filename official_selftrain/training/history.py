"""Training logs: progress bar, history file, TensorBoard and warnings."""

import csv
import os
import time

import tensorflow as tf
from tqdm import tqdm

from official_selftrain.checks import progress
from official_selftrain.files import atomic

_SCALES = (1e-3, 1e3)  # warn about a loss ratio outside this range
_MOSTLY = 0.5
# The time left is estimated at step 20, without the first five, and every 20 steps.
_SKIPPED, _MEASURED, _ESTIMATED = 5, 20, 20


class History:
    """Show progress; write `history.csv` and TensorBoard's files to a folder.

    Use it as a context manager.

    Args:
        folder: `StageFolder`.
        steps: int, in the whole training.
        step: int, steps already done.
        images_per_step: int.
        optimizer: `keras.optimizers.Optimizer`, whose learning rate is logged.
        writes: bool; False disables all output.
        later: float, the work of the experiment after this training, in images that
            are trained on.
    """

    def __init__(  # noqa: PLR0913 -- the facts of a training, each shown
        self, folder, steps, step, images_per_step, optimizer, writes=True, later=0
    ):
        self.folder = folder
        self.steps = steps
        self.step = step
        self.images_per_step = images_per_step
        self.optimizer = optimizer
        self.writes = writes
        self.later = later
        self._warned = set()
        self._shown = {}
        self._first = step
        self._writer = None

    def __enter__(self):
        if self.writes:
            self._writer = tf.summary.create_file_writer(self.folder.tensorboard)
        self._progress = progress.bar(
            self.steps, self.folder.name, "step", self.step, disable=not self.writes
        )
        self._begin()
        before = atomic.read_json(self.folder.unfinished_row)
        if before and before["step"] == self.step:
            self._sums, self._count = before["sums"], before["count"]
            self._start -= before["seconds"]
        return self

    def __exit__(self, *exception):
        self._progress.close()
        if self._writer is not None:
            self._writer.close()

    def _begin(self):
        self._sums, self._count, self._start = {}, 0, time.monotonic()

    def suspend(self):
        """Save the sums of an unfinished row, so that the next run continues it."""
        if self.writes:
            progress.note(
                f"{self.folder.name}: stopped at step {self.step} of {self.steps}, "
                "saved. Run the same command again to continue."
            )
            unfinished = {
                "step": self.step,
                "sums": self._sums,
                "count": self._count,
                "seconds": time.monotonic() - self._start,
            }
            atomic.write_json(self.folder.unfinished_row, unfinished)

    def resume(self, step):
        """Exclude the time between the end of a row and the next step."""
        if step.ends_row:
            self._start = time.monotonic()

    def add(self, step):
        """Add a step; write a row if the step ends one.

        Args:
            step: `actions.Step`.
        """
        self.step = step.number
        self._progress.update()
        self._estimate()
        if step.unknown:
            self.warn(
                "unknown",
                f"{step.unknown:,.0f} pixels of the batch's masks have a value that "
                "is no class; such pixels are ignored",
            )
        if step.is_finite:
            self._count += 1
            for name, value in step.terms.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        else:
            self.warn("overflow", "float16 overflowed; such steps are left out")
        if step.ends_row and self._count:
            self._end_row()

    def _estimate(self):
        """Show the time left for the whole experiment, from a few steps on."""
        steps = self.step - self._first
        if steps == _SKIPPED:  # the first ones take longer
            self._measured_from = time.monotonic()
        elif steps >= _MEASURED and (steps == _MEASURED or steps % _ESTIMATED == 0):
            seconds = (time.monotonic() - self._measured_from) / (steps - _SKIPPED)
            left = self.steps - self.step + self.later / self.images_per_step
            clock = tqdm.format_interval(seconds * left)
            self._shown["experiment"] = f"{clock} left"
            self._progress.set_postfix(self._shown)
            if steps == _MEASURED and self.later:
                progress.note(
                    f"{self.folder.name}: about {clock} for the whole experiment"
                )

    def _end_row(self):
        """Write the means over the steps since the previous row."""
        seconds = time.monotonic() - self._start
        means = {name: total / self._count for name, total in self._sums.items()}
        row = {
            "step": self.step,
            "seconds": seconds,
            "learning_rate": float(self.optimizer.learning_rate),
            **means,
        }
        speed = self._count * self.images_per_step / max(seconds, 1e-9)
        self._shown |= {"loss": f"{means['loss']:.3f}", "images/s": f"{speed:.0f}"}
        self._progress.set_postfix(self._shown)
        self._check(means)
        if self.writes:
            append(self.folder.history, row)
            scalars = {k: v for k, v in row.items() if k not in ("step", "seconds")}
            self.scalars({**scalars, "images_per_second": speed})
        self._begin()

    def scalars(self, values):
        """Write a dict of floats to TensorBoard."""
        if not self.writes:
            return
        with self._writer.as_default(step=self.step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def picture(self, name, image):
        """Write an image to TensorBoard.

        Args:
            name: str.
            image: uint8 `[h, w, 3]`.
        """
        with self._writer.as_default(step=self.step):
            tf.summary.image(name, image[None])

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
                "Expected pseudo-labeled images with labels. Received: "
                f"{100.0 * empty:.0f} % of the images without any",
            )

    def warn(self, kind, text):
        """Print a warning, once per kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            progress.note(f"warning: {self.folder.name}, step {self.step}: {text}")


def append(path, row):
    """Append a row to a CSV file, replacing rows of the same or a later step.

    A training that was killed repeats the steps since its last checkpoint.

    Args:
        path: str.
        row: dict of floats, with `step`.
    """
    rows = [r for r in _rows(path) if float(r["step"]) < row["step"]]
    with atomic.replacing(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, row, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, row])


def read(path):
    """Read a CSV file of floats.

    Args:
        path: str.

    Returns:
        list of dicts of floats; empty if the file doesn't exist.
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
