"""The loop: teacher → pseudo-labels → student → evaluation."""

from official_selftrain.checks.arguments import check_choice
from official_selftrain.experiment import stages as steps
from official_selftrain.files import atomic
from official_selftrain.files.run_folder import STAGES


def run(experiment, model_dir, stages=STAGES):
    """Run an experiment, or some of its stages.

    All output goes to `model_dir`, a `RunFolder`. On a rerun, finished stages are kept
    and interrupted ones continue from their last checkpoint or shard. Several workers
    share `model_dir`; the first one labels, evaluates and writes.

    Args:
        experiment: `Experiment`.
        model_dir: str, the output folder.
        stages: names from `STAGES`.

    Returns:
        dict, the content of `results.json`; empty before the first evaluation.

    Raises:
        ValueError: for invalid settings or data, or a teacher that produces no label.
        FileNotFoundError: if a stage lacks the result of an earlier one.

    Source: paper section 3; the control is our own.
    """
    for stage in stages:
        check_choice("stages", stage, STAGES)
    work = steps.Work(experiment, model_dir)
    teaching = experiment.teaching
    with work.precision():
        if "teacher" in stages:
            if "evaluation" in stages and not work.folder.teacher().is_finished:
                _ = work.validation  # fails before hours of training
            steps.train_teacher(work)
        for number in range(1, teaching.rounds + 1):
            is_next = number == 1 or "student" in stages
            if not is_next or not steps.was_worth_it(work, number - 1):
                break
            if "pseudo_labels" in stages:
                steps.label(work, number)
            if "student" in stages:
                steps.train_student(work, number)
        if "control" in stages and teaching.control:
            steps.train_control(work)
    if "evaluation" in stages and work.is_first:
        return steps.evaluate(work)
    return atomic.read_json(work.folder.results) or {}
