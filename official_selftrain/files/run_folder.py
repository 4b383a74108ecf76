"""All file names in a run folder, defined only here."""

import glob
import os

from official_selftrain.files import atomic

# An experiment's stages in their order; all but the last have a folder of that name.
STAGES = ("teacher", "pseudo_labels", "student", "control", "evaluation")


def _in_folder(name):
    """Return a property that gives the path of a name in the folder."""
    return property(lambda folder: os.path.join(folder.path, name))


class StageFolder:
    """The folder of one training, such as `RUN/teacher`.

    Args:
        path: str.
    """

    # Written last: it marks the training as finished.
    model = _in_folder("model.keras")
    average = _in_folder("average.keras")
    best = _in_folder("best.keras")
    classifier = _in_folder("classifier.keras")
    # What the training was made from.
    origin = _in_folder("origin.json")
    summary = _in_folder("fit.json")
    history = _in_folder("history.csv")
    validation = _in_folder("validation.csv")
    unfinished_row = _in_folder("stretch.json")
    metrics = _in_folder("metrics.json")
    average_metrics = _in_folder("average_metrics.json")
    # What the metrics were measured with.
    metrics_origin = _in_folder("metrics_origin.json")
    checkpoints = _in_folder("checkpoints")
    tensorboard = _in_folder("tensorboard")

    def __init__(self, path):
        self.path = str(path)

    @property
    def name(self):
        """The folder's base name: the stage."""
        return os.path.basename(self.path)

    @property
    def is_finished(self):
        """Whether the training has ended."""
        return os.path.exists(self.model)

    @property
    def is_started(self):
        """Whether there is anything of the training."""
        return os.path.exists(self.origin) or os.path.exists(self.checkpoints)


class LabelFolder:
    """A folder of pseudo-labels, such as `RUN/pseudo_labels`.

    Args:
        path: str.
    """

    # What the labels were made from.
    settings = _in_folder("settings.json")
    # Written last: it marks the labels as complete.
    manifest = _in_folder("manifest.json")
    report = _in_folder("report.html")
    report_json = _in_folder("report.json")

    def __init__(self, path):
        self.path = str(path)

    @property
    def is_finished(self):
        """Whether the labels are complete, every shard included."""
        content = atomic.read_json(self.manifest)
        return content is not None and len(self.shards) == content["shards"]

    @property
    def shard_pattern(self):
        """A glob of the shards."""
        return os.path.join(glob.escape(self.path), "pseudo-*-of-*.tfrecord")

    @property
    def shards(self):
        """The paths of the shards that there are, sorted."""
        return sorted(glob.glob(self.shard_pattern))


class RunFolder:
    """A `model_dir`: the output of an experiment or a study's cell.

    Args:
        path: str.
    """

    operative_gin = _in_folder("operative.gin")
    class_names = _in_folder("labels.txt")
    classified_class_names = _in_folder("classified_labels.txt")
    quality = _in_folder("quality.json")
    labeling_time = _in_folder("labelling.json")
    # Where every image and label went.
    ledger = _in_folder("ledger.json")
    results = _in_folder("results.json")
    report = _in_folder("report.html")
    # There until a restart is complete.
    restart = _in_folder("restart.json")
    # Of a cell of a study.
    outcome = _in_folder("outcome.json")
    log = _in_folder("log.txt")

    def __init__(self, path):
        self.path = str(path)

    @property
    def labels(self):
        """The `LabelFolder`."""
        return LabelFolder(os.path.join(self.path, "pseudo_labels"))

    def stage(self, name):
        """Return the `StageFolder` of `"teacher"`, `"student"` or `"control"`."""
        return StageFolder(os.path.join(self.path, name))

    def round(self, number):
        """Return the folder of a round; the first round uses this folder."""
        if number == 1:
            return self
        return RunFolder(os.path.join(self.path, f"round_{number}"))

    def teacher(self, number=1):
        """Return a round's teacher folder: the previous round's student folder."""
        if number == 1:
            return self.stage("teacher")
        return self.round(number - 1).stage("student")

    def rounds(self):
        """Return the numbers of the rounds that there are, the first included."""
        numbers = [1]
        while os.path.exists(self.round(numbers[-1] + 1).path):
            numbers.append(numbers[-1] + 1)
        return numbers

    def move_aside(self, *paths):
        """Move what is to be made again to a new folder, `replaced_1` and so on.

        Args:
            paths: strs; those that don't exist are left out.

        Returns:
            `(names, target)`: the names of what was moved; the folder, or None.
        """
        paths = [path for path in paths if os.path.lexists(path)]
        if not paths:
            return [], None
        number = 1
        while os.path.exists(target := os.path.join(self.path, f"replaced_{number}")):
            number += 1
        os.makedirs(target)
        for path in paths:
            os.rename(path, os.path.join(target, os.path.basename(path)))
        return [os.path.basename(path) for path in paths], target

    def move_back(self, names, target):
        """Undo `move_aside`, given what it returned."""
        for name in names:
            os.rename(os.path.join(target, name), os.path.join(self.path, name))
        if target is not None:
            os.rmdir(target)
