"""The loop: teacher → pseudo-labels → student → evaluation."""

import contextlib

from official_selftrain.checks.arguments import check_choice
from official_selftrain.experiment import origins, plan
from official_selftrain.experiment import stages as steps
from official_selftrain.files import atomic, locks
from official_selftrain.files.run_folder import STAGES


def run(
    experiment,
    model_dir,
    stages=STAGES,
    restart=None,
    keep=False,
    check=False,
    described=None,
):
    """Run an experiment, or some of its stages.

    All output goes to `model_dir`, a `RunFolder`. Before the first step everything is
    checked that can be checked, and the plan is printed. On a rerun, finished stages
    are kept and interrupted ones continue from their last checkpoint or shard, if they
    were made from the same settings and data. Several workers share `model_dir`; the
    first one labels, evaluates and writes.

    Args:
        experiment: `Experiment`.
        model_dir: str, the output folder.
        stages: names from `STAGES`.
        restart: `"teacher"`, `"pseudo_labels"`, `"student"`, `"control"` or None: a
            stage to be made again, with what follows from it; the old ones are moved to
            `model_dir/replaced_1` and so on.
        keep: bool, whether to keep stages whose settings or data have changed since.
        check: bool, whether to stop after the plan; nothing is written then.
        described: `settings.Described`, or None to describe the experiment's objects.

    Returns:
        dict, the content of `results.json`; empty before the first evaluation.

    Raises:
        ValueError: for invalid settings or data, stages that were made from others, a
            `model_dir` in use, or a teacher that produces no label.
        FileNotFoundError: if a stage lacks the result of an earlier one.

    Source: paper section 3; the control is our own.
    """
    for stage in stages:
        check_choice("stages", stage, STAGES)
    if restart is not None and restart not in stages:
        check_choice("restart", restart, tuple(origins.FOLLOWING))
        raise ValueError(
            f"Expected stages with the one to restart. Received: {restart=}, "
            f"stages={','.join(stages)}"
        )
    if check and restart is not None:
        raise ValueError(
            f"Expected check without restart, which moves files. Received: {restart=}"
        )
    work = steps.Work(experiment, model_dir, described, keep)
    with work.precision(), _alone(work, check):
        lines = _planned(work, stages, restart)
        if work.is_first:
            print("\n".join(lines), flush=True)
        if check:
            return {}
        if work.is_first:
            plan.write(work)
        results = _run(work, stages)
        if work.is_first:
            origins.complete_restart(work.folder)
    return results


def _planned(work, stages, restart):
    """Return the plan; a mistake in it leaves what is to be restarted in place."""
    moved = steps.restart(work, restart) if restart is not None else ([], None)
    try:
        return plan.checked(work, stages)
    except BaseException:
        if moved[0]:
            origins.undo(work.folder, moved)
            print("restart: moved back", flush=True)
        raise


@contextlib.contextmanager
def _alone(work, check):
    """Lock the experiment's folder; other workers share the first one's lock."""
    if check or not work.is_first:
        yield
        return
    with locks.claimed(work.folder.path):
        yield


def _run(work, stages):
    teaching = work.experiment.teaching
    if "teacher" in stages:
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
