"""The settings of an experiment, in groups that check themselves."""

import dataclasses
from collections.abc import Callable

import numpy as np

from official_selftrain.checks.arguments import check_choice, check_counts
from official_selftrain.data import examples
from official_selftrain.training.settings import Machine


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of an experiment.

    Attributes:
        labeled: function () → `examples.Source` with labels.
        unlabeled: function () → `examples.Source`; its labels, if any, only
            tell what the pseudo-labels are worth.
        validation: function () → `examples.Source` with labels.
        image_size: (height, width) of the frame that images are fitted into.
        max_boxes: int, slots for the labels of an image.
        classified: function () → `examples.Source` whose images have a class each, for
            joint training of the backbone (see `SelfTrainer`), or None.

    Raises:
        ValueError: for another kind of `image_size`, or no slot.
    """

    labeled: Callable
    unlabeled: Callable
    validation: Callable
    image_size: tuple
    max_boxes: int = 100
    classified: Callable | None = None

    def __post_init__(self):
        size = self.image_size
        if not (len(np.shape(size)) == 1 and len(size) == 2):
            raise ValueError(
                f"Expected image_size (height, width). Received: image_size={size!r}"
            )
        check_counts(max_boxes=self.max_boxes)


@dataclasses.dataclass(frozen=True)
class Labeling:
    """How the unlabeled images get their labels.

    Attributes:
        batch_size: int, for labeling and evaluation.
        shard_size: int, images per shard of pseudo-labels.
        scales: floats, scales that a teacher of masks averages over.
        flip: bool, whether it averages over mirror images too.
        labels_dir: str, a folder of labels that `pseudo_label` has made with
            whatever teacher; None: the experiment's teacher labels the images.

    Raises:
        ValueError: for counts below 1, or scales that aren't above 0.
    """

    batch_size: int = 16
    shard_size: int = 500
    scales: tuple = (1.0,)
    flip: bool = False
    labels_dir: str | None = None

    def __post_init__(self):
        check_counts(label_batch_size=self.batch_size, shard_size=self.shard_size)
        if np.ndim(self.scales) != 1 or not np.all(np.greater(self.scales, 0.0)):
            raise ValueError(
                "Expected label_scales, numbers above 0. "
                f"Received: label_scales={self.scales!r}"
            )

    @property
    def averages(self):
        """Whether a teacher of masks averages over several views of an image."""
        return tuple(self.scales) != (1.0,) or self.flip


@dataclasses.dataclass(frozen=True)
class Teaching:
    """What becomes of the labels: which are taught, to whom, and compared with whom.

    Neither a teacher nor its labels depend on it.

    Attributes:
        score_threshold: float, pseudo-labels from this score on are taught.
        ignore_threshold: float or None, pseudo-labels from it up to
            `score_threshold` are neither taught nor taken for background.
        max_empty_share: float in 0…1; labels of which a larger fraction of the images
            has none at the threshold are refused.
        student_init: `"teacher"`: student and control start from the teacher's
            weights; `"random"`: from the weights the teacher started from.
        control: bool, train a supervised control to compare with: the student's
            start, steps and images per step, but no pseudo-labels.
        rounds: int. The student of a round is the teacher of the next, whose labels
            and student lie in `round_2` and so on; there is none after a student that
            isn't better on the validation images than its teacher.

    Raises:
        ValueError: for thresholds, a start or a count out of range.
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


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment: teacher, pseudo-labels, student, control and evaluation.

    Attributes:
        data: `Data`.
        model: function `(num_classes, image_size)` → model that obeys the
            contract of `official_selftrain.models`.
        teacher: `training.fit` with its settings bound.
        student: `training.fit` with its settings bound; trains the control too.
        labeling: `Labeling`.
        teaching: `Teaching`.
        machine: `Machine`.
        seed: int, of weights, order and augmentation.

    Raises:
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
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(
                f"Expected seed of at least 0. Received: seed={self.seed!r}"
            )
