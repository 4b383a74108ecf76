"""Actions that run after each training step.

Each action is called with the completed `Step`. `fitting.fit` lists them in order.
"""

import dataclasses
import io
import math
import signal
import threading

import keras
import numpy as np
import tensorflow as tf

from official_selftrain.inference import pictures, prediction
from official_selftrain.training import checkpoints, distribution, history

# Exit codes of a process that is stopped by a signal and continues when run again.
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}

_MAX_OVERFLOWS = 20  # consecutive steps that float16 may skip


@dataclasses.dataclass(frozen=True)
class Step:
    """A completed training step.

    Attributes:
        number: int, counted from 1.
        steps: int, in the whole training.
        log_every: int, steps per row of the history.
        terms: dict of floats, with `loss` and `gradient_norm`.
        batch: dict of streams, with the parts of all replicas.
        is_stopped: bool, whether a worker was asked to stop.
        unknown: float, pixels of the batch's masks whose value is no class.
    """

    number: int
    steps: int
    log_every: int
    terms: dict
    batch: dict
    is_stopped: bool = False
    unknown: float = 0.0

    @classmethod
    def of(cls, number, steps, log_every, terms, batch):
        """Create a step from the output of the compiled step.

        Args:
            terms: dict of scalar tensors; `stop` is above 0 if a worker must stop,
                `unknown` counts pixels.
        """
        terms = {name: float(value) for name, value in terms.items()}
        is_stopped = terms.pop("stop") > 0.0
        unknown = terms.pop("unknown", 0.0)
        row = min(log_every, steps)
        return cls(number, steps, row, terms, batch, is_stopped, unknown)

    @property
    def is_last(self):
        """Whether this is the last step of the training."""
        return self.number == self.steps

    @property
    def ends_row(self):
        """Whether this step ends a row of the history."""
        return self.is_due(self.log_every)

    def is_due(self, every):
        """Return whether `every` divides the step number, or this is the last step."""
        return self.number % every == 0 or self.is_last

    @property
    def is_finite(self):
        """Whether the loss and the gradient norm are finite.

        A gradient that isn't finite would corrupt the weights.
        """
        return math.isfinite(self.terms["loss"] + self.terms["gradient_norm"])


class FiniteCheck:
    """Stop when the loss or the gradient isn't finite.

    With float16 the optimizer skips such steps and lowers its loss scale; training
    stops only after many in a row.

    Args:
        trainer: `SelfTrainer`, compiled.
        strategy: `tf.distribute.Strategy`.
        folder: `StageFolder`.
    """

    def __init__(self, trainer, strategy, folder):
        skips = isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
        self._allowed = _MAX_OVERFLOWS if skips else 0
        self._overflows = 0
        self._strategy = strategy
        self._folder = folder

    def __call__(self, step):
        """Check a step.

        Raises:
            ValueError: if the step isn't finite. The message lists the terms and the
                image ids of the streams whose loss isn't finite, or of all streams
                if only the sum isn't.
        """
        self._overflows = 0 if step.is_finite else self._overflows + 1
        if self._overflows <= self._allowed:
            return
        terms = step.terms
        text = ", ".join(f"{name}={terms[name]:g}" for name in sorted(terms))
        batch = distribution.whole_batch(self._strategy, step.batch)
        streams = [stream for stream in batch if f"{stream}_loss" in terms]
        bad = [s for s in streams if not math.isfinite(terms[f"{s}_loss"])]
        images = "; ".join(
            f"{stream} images {', '.join(map(str, np.asarray(batch[stream]['ids'])))}"
            for stream in bad or streams
        )
        raise ValueError(
            f"Expected a finite loss and gradient. Received: {text} at step "
            f"{step.number} of {self._folder.path} (the last checkpoint is kept); "
            f"{images}"
        )


class Pictures:
    """Periodically draw images as the model sees them, with labels and predictions.

    Args:
        trainer: `SelfTrainer`.
        strategy: `tf.distribute.Strategy`.
        log: `history.History`, which writes them for TensorBoard.
        class_names: list of str.
        count: int, images per stream; 0 draws none.
    """

    def __init__(self, trainer, strategy, log, class_names, count):
        self._predict = prediction.predictor(trainer.model)
        self._strategy = strategy
        self._log = log
        self._class_names = class_names
        self._count = count

    def __call__(self, step):
        """Draw at the first, the last and every tenth row of the history."""
        is_due = step.number == step.log_every or step.is_due(10 * step.log_every)
        if not (self._count and self._log.writes and is_due):
            return
        batch = distribution.local(self._strategy, step.batch)
        for stream, labels in batch.items():
            if stream != "classified":  # not an input of the detector
                self._log.picture(stream, self._drawn(labels))

    def _drawn(self, labels):
        """Return a stream's picture, uint8 `[h, w, 3]`."""
        labels = {key: value[: self._count] for key, value in labels.items()}
        images = labels["images"]
        # Labels are in pixels of the frame.
        frame = tf.tile([images.shape[1:3]], [len(images), 1])
        samples = _samples(labels, self._predict(images, frame))
        figure = pictures.grid(samples, self._class_names)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        return tf.io.decode_png(png.getvalue(), channels=3)


def _samples(labels, predictions):
    """Return the samples that `pictures.grid` draws."""
    drawn = []
    for number, image in enumerate(np.asarray(labels["images"])):
        sample = {"image": image.round().clip(0, 255).astype(np.uint8), "labels": {}}
        if "mask" in labels:
            sample["labels"]["labels"] = {"mask": np.asarray(labels["mask"][number])}
            sample["labels"]["model"] = {
                "mask": np.asarray(predictions["mask"][number])
            }
        else:
            keys = ("boxes", "classes", "scores", "ignore")
            sample["labels"]["labels"] = {
                k: np.asarray(labels[k][number]) for k in keys
            }
            boxes = {k: np.asarray(predictions[k][number]) for k in keys[:3]}
            boxes["ignore"] = np.zeros(len(boxes["boxes"]), bool)
            count = int(predictions["num_detections"][number])
            kept = boxes["scores"] >= pictures.DRAWN_SCORE
            kept[count:] = False
            sample["labels"]["model"] = {k: v[kept] for k, v in boxes.items()}
        drawn.append(sample)
    return drawn


class Validation:
    """Periodically validate the model and keep the best one.

    Args:
        model: `keras.Model`.
        validate: function (model) → float, higher is better, or None.
        every: int, steps between validations, or None: at every row of the history.
        log: `history.History`; only the worker that writes it validates.
    """

    def __init__(self, model, validate, every, log):
        self._model = model
        self._validate = validate
        self._every = every
        self._log = log

    def __call__(self, step):
        """Validate if it is due."""
        is_due = step.is_due(self._every or step.log_every)
        if self._validate is None or not (self._log.writes and is_due):
            return
        value = self._validate(self._model)
        folder = self._log.folder
        path = folder.validation
        before = [r["value"] for r in history.read(path) if r["step"] < step.number]
        if not before or value > max(before):
            checkpoints.save_model(self._model, folder.best)
        history.append(path, {"step": step.number, "value": value})
        self._log.scalars({"validation": value})


class Saving:
    """Save a checkpoint at every row of the history, and before stopping.

    Args:
        kept: `checkpoints.Checkpoints`.
        log: `history.History`; only the worker that writes it saves checkpoints.
    """

    def __init__(self, kept, log):
        self._kept = kept
        self._log = log

    def __call__(self, step):
        """Save if it is due."""
        if self._log.writes and (step.ends_row or step.is_stopped):
            self._kept.save(step.number)


class Preemption:
    """Stop all workers after the current step once one receives SIGTERM or SIGINT.

    A second SIGINT (Ctrl-C) stops at once.

    Args:
        log: `history.History`.
    """

    def __init__(self, log):
        self.code = None
        self._log = log
        # Python handles signals only in its main thread.
        self._listens = threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self._listens:
            self._before = {n: signal.signal(n, self._ask) for n in EXIT_CODES}
        return self

    def _ask(self, number, frame):
        if number == signal.SIGINT and self.code == EXIT_CODES[number]:
            raise KeyboardInterrupt
        self.code = EXIT_CODES[number]

    def __exit__(self, *exception):
        if self._listens:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def wish(self):
        """Return 1.0 if this worker must stop; the step sums it over all workers."""
        return tf.constant(float(self.code is not None))

    def __call__(self, step):
        """End the process if a worker was asked to stop.

        Raises:
            SystemExit: a code of `EXIT_CODES`, unless this was the last step.
        """
        if step.is_stopped:
            self.code = self.code or EXIT_CODES[signal.SIGTERM]
            if not step.is_last:
                self._log.suspend()
                raise SystemExit(self.code)
