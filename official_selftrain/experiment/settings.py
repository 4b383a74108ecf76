"""Experiment settings, in groups that validate themselves."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import numpy as np

from official_selftrain.checks.arguments import check_choice, check_counts
from official_selftrain.data import examples
from official_selftrain.labeling import label_quality
from official_selftrain.training.settings import Machine, Monitoring


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of an experiment.

    Attributes:
        labeled: function () → `examples.Source` with labels.
        unlabeled: function () → `examples.Source`; its labels, if any, only
            measure the quality of the pseudo-labels.
        validation: function () → `examples.Source` with labels.
        image_size: (height, width) of the frame that images are fitted into.
        max_boxes: int, most boxes of an image that are taught: all but the largest
            ones are ignored, neither objects nor background. None: all are taught.
        classified: function () → `examples.Source` with one class per image, for joint
            training of the backbone (see `SelfTrainer`), or None.
        validate_every: int, steps between two validations during training, a multiple
            of `Monitoring.log_every`; None for no validation before the evaluation.

    Raises:
        ValueError: for an `image_size` that isn't a pair of sides, or counts below 1.
    """

    labeled: Callable
    unlabeled: Callable
    validation: Callable
    image_size: tuple
    max_boxes: int | None = None
    classified: Callable | None = None
    validate_every: int | None = None

    def __post_init__(self):
        size = self.image_size
        is_pair = np.shape(size) == (2,)
        if not (is_pair and all(n > 0 and n == int(n) for n in size)):
            raise ValueError(
                f"Expected image_size (height, width). Received: image_size={size!r}"
            )
        if self.max_boxes is not None:
            check_counts(max_boxes=self.max_boxes)
        if self.validate_every is not None:
            check_counts(validate_every=self.validate_every)


@dataclasses.dataclass(frozen=True)
class Labeling:
    """How the unlabeled images are labeled.

    Attributes:
        batch_size: int, for labeling and evaluation.
        shard_size: int, images per shard of pseudo-labels.
        scales: floats, test-time scales to average over (segmentation only).
        flip: bool, also average over mirrored images (segmentation only).
        labels_dir: str, a folder of labels written by `pseudo_label` with any
            teacher; None: the experiment's teacher labels the images.

    Raises:
        ValueError: for counts below 1, or scales that aren't above 0.
    """

    batch_size: int = 16
    shard_size: int = 500
    scales: tuple = (1.0,)
    flip: bool = False
    labels_dir: str | None = None

    def __post_init__(self):
        check_counts(batch_size=self.batch_size, shard_size=self.shard_size)
        if np.ndim(self.scales) != 1 or not np.all(np.greater(self.scales, 0.0)):
            raise ValueError(
                f"Expected scales, numbers above 0. Received: scales={self.scales!r}"
            )

    @property
    def averages(self):
        """Whether the teacher averages over several views of an image."""
        return tuple(self.scales) != (1.0,) or self.flip


@dataclasses.dataclass(frozen=True)
class Teaching:
    """How the student learns from the pseudo-labels, and what it is compared with.

    The first teacher and its labels don't depend on these settings.

    Attributes:
        score_threshold: float, minimum score of the pseudo-labels to train on.
        ignore_threshold: float or None; pseudo-labels between it and
            `score_threshold` are ignored, neither object nor background.
        max_empty_share: float in 0…1, maximum fraction of images without a label at
            the threshold; labels above it are rejected.
        student_init: `"teacher"`: student and control start from the teacher's
            weights; `"random"`: from the teacher's initial weights.
        control: bool, train a supervised control to compare with: the student's
            initial weights, steps and images per step, but no pseudo-labels.
        rounds: int, maximum number of rounds. The student of a round is the teacher of
            the next, which writes to `round_2` and so on. Rounds end when a student
            isn't better on the validation images than its teacher.

    Raises:
        ValueError: for a setting out of range.
    """

    score_threshold: float = 0.5
    ignore_threshold: float | None = None
    max_empty_share: float = 0.95
    student_init: str = "teacher"
    control: bool = True
    rounds: int = 1

    def __post_init__(self):
        check_counts(rounds=self.rounds)
        examples.check_thresholds(self.score_threshold, self.ignore_threshold)
        check_choice("student_init", self.student_init, ("teacher", "random"))
        check_choice("control", self.control, (True, False))
        label_quality.check_max_empty_share(self.max_empty_share)


@dataclasses.dataclass(frozen=True)
class Described:
    """An experiment's functions in words, for records of origin.

    Attributes:
        text: str, the whole configuration, written to the experiment's folder.
        functions: dict of `"model"`, `"teacher"` and `"student"` to a dict of setting
            to text.
    """

    text: str
    functions: dict


def described(experiment):
    """Describe the functions of an experiment that was made in Python.

    What a function does can't be seen: it is described by its name and, if it is a
    `functools.partial`, by its arguments. What is logged is left out.

    Args:
        experiment: `Experiment`.

    Returns:
        `Described`, without text.
    """
    functions = {
        name: dict(_settings(name, getattr(experiment, name)))
        for name in ("model", "teacher", "student")
    }
    return Described("", functions)


def _settings(name, value):
    """Yield the names and texts of what a value consists of."""
    if isinstance(value, Monitoring):
        return
    if isinstance(value, functools.partial):
        yield from _settings(name, value.func)
        for key, item in value.keywords.items():
            yield from _settings(f"{name}.{key}", item)
        yield from _settings(f"{name}.args", value.args)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _settings(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, (list, tuple, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _settings(f"{name}.{key}", item)
    elif isinstance(value, (bool, int, float, str, bytes, type(None))):
        yield name, repr(value)
    elif isinstance(value, (np.ndarray, np.generic)):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        yield name, f"{value.dtype}{list(value.shape)} of hash {digest[:12]}"
    else:  # a function, a class or an object, whose `repr` may hold its place in memory
        yield name, getattr(value, "__qualname__", type(value).__qualname__)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment: teacher, pseudo-labels, student, control and evaluation.

    Attributes:
        data: `Data`.
        model: function `(num_classes, image_size)` → model that obeys the
            contract of `official_selftrain.models`.
        teacher: `training.fit` with its settings bound.
        student: `training.fit` with its settings bound; also trains the control.
        labeling: `Labeling`.
        teaching: `Teaching`.
        machine: `Machine`.
        seed: int, of weights, order and augmentation.

    Raises:
        TypeError: for a group of another kind, or a function that is none.
        ValueError: for a seed below 0.
    """

    data: Data
    model: Callable
    teacher: Callable
    student: Callable
    labeling: Labeling = Labeling()
    teaching: Teaching = Teaching()
    machine: Machine = Machine()
    seed: int = 0

    def __post_init__(self):
        groups = {"data": Data, "labeling": Labeling, "teaching": Teaching}
        for name, group in {**groups, "machine": Machine}.items():
            value = getattr(self, name)
            if not isinstance(value, group):
                raise TypeError(
                    f"Expected {name}, a {group.__name__}: in gin files with "
                    f"parentheses, @….{group.__name__}(). Received: {name}={value!r}"
                )
        for name in ("model", "teacher", "student"):
            function = getattr(self, name)
            if not callable(function):
                raise TypeError(
                    f"Expected {name}, a function. Received: {name}={function!r}"
                )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(
                f"Expected seed of at least 0. Received: seed={self.seed!r}"
            )
