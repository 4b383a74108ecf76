"""Fit a model to one, two or three streams, with checkpoints and a history."""

import contextlib
import dataclasses
import math
import os

import keras
import tensorflow as tf

from official_selftrain.data import masks as mask_files
from official_selftrain.data import pipeline
from official_selftrain.data.augmentation import augment as augmentations
from official_selftrain.files import atomic
from official_selftrain.files.run_folder import StageFolder
from official_selftrain.training import actions, distribution, gradients, history
from official_selftrain.training.actions import Step
from official_selftrain.training.checkpoints import Checkpoints, save_model
from official_selftrain.training.history import History
from official_selftrain.training.self_trainer import SelfTrainer
from official_selftrain.training.settings import Loss, Machine, Monitoring
from official_selftrain.training.weight_average import WeightAverage


def fit(
    model,
    streams,
    output_dir,
    optimization,
    loss=Loss(),
    augment=augmentations.flip_and_jitter,
    monitoring=Monitoring(),
    machine=Machine(),
):
    """Train a model with checkpoints, and save it at the end.

    After an interruption, call it again to continue from the last checkpoint. The
    final weights are the same, bit for bit, on the same CPU, or on the same GPUs
    without non-deterministic operations. On SIGTERM or SIGINT (Ctrl-C) it saves a
    checkpoint before the process exits.

    Without an `output_dir` it takes no step and writes nothing: it checks the settings
    and prepares a batch of every stream.

    `output_dir` is a `StageFolder`. It holds the model, the history, TensorBoard's
    files and the last five checkpoints; also the classifier (with classified images),
    the averaged model (with `ema_decay`) and the best model (with validation). With
    several workers only the first one writes.

    Args:
        model: model that obeys the contract of `official_selftrain.models`, created
            in the scope of the machine's strategy.
        streams: `Streams`, the images to train on.
        output_dir: str, or None to check the settings only.
        optimization: `Optimization`.
        loss: `Loss`.
        augment: as described in `data.augmentation.augment`, for all streams.
        monitoring: `Monitoring`.
        machine: `Machine`.

    Returns:
        The trained model; without `output_dir` an `Outline` of the training.

    Raises:
        ValueError: if settings don't fit together, or the loss isn't finite; the
            message then holds the step, the terms and the image ids.
        SystemExit: 143 after SIGTERM, 130 after SIGINT.

    Source: paper sections 3 and 4.
    """
    if output_dir is None:
        settings = optimization, loss, augment, monitoring, machine
        return _outline(model, streams, *settings)
    folder, strategy = StageFolder(output_dir), machine.open()
    steps, batch_size, rate = optimization.scaled(folder.name)
    distribution.per_replica_batch_size(batch_size, strategy, optimization.accumulation)
    _check(model, streams, monitoring, machine)
    if loss.classification_weight == 0.0:
        streams = streams.without_classified()
    with strategy.scope():
        trainer, average = _trainer(model, streams.classifier, loss, optimization, rate)
    kept = Checkpoints(folder, trainer, average)
    done = kept.restore()

    is_first = distribution.worker(strategy)[0] == 0
    for line in streams.surplus() if is_first else ():
        print(f"{folder.name}: {line}", flush=True)
    images_per_step = streams.images_per_step(batch_size)
    log = History(
        folder, steps, done, images_per_step, trainer.optimizer, is_first, streams.later
    )
    names, count = streams.labeled.class_names, monitoring.num_pictures
    preemption = actions.Preemption(log)
    beside = (
        actions.FiniteCheck(trainer, strategy, folder),
        log.add,
        actions.Pictures(trainer, strategy, log, names, count),
        actions.Validation(model, streams.validate, streams.validate_every, log),
        actions.Saving(kept, log),
        preemption,
        log.resume,
    )
    if done < steps:
        take_step = _compiled(trainer, average, strategy, machine.jit_compile)
        batches = iter(
            strategy.distribute_datasets_from_function(
                lambda context: streams.batches(
                    batch_size, model.image_size, augment, done, _share(context)
                )
            )
        )
        with log, preemption, distribution.synchronized_batch_norm(model, strategy):
            while done < steps:
                batch = next(batches)
                terms = take_step(batch, preemption.wish())
                done += 1
                step = Step.of(done, steps, monitoring.log_every, terms, batch)
                for action in beside:
                    action(step)
    if is_first:
        alpha = loss.alpha if streams.pseudo else None
        _finish(folder, trainer, average, steps, images_per_step, alpha)
    if preemption.code:
        raise SystemExit(preemption.code)
    return model


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a training will do.

    Attributes:
        steps: int.
        images_per_step: int, over all streams.
        weights: int, number of the weights that are trained and kept.
        state: int, bytes of a checkpoint: weights, their average, optimizer.
        batch: int, bytes of a batch of all streams.
    """

    steps: int
    images_per_step: int
    weights: int
    state: int
    batch: int


def _outline(model, streams, optimization, loss, augment, monitoring, machine):
    """Check the settings of a training, prepare a batch; return its `Outline`."""
    strategy = machine.open()
    steps, batch_size, rate = optimization.scaled(None)
    distribution.per_replica_batch_size(batch_size, strategy, optimization.accumulation)
    _check(model, streams, monitoring, machine)
    _check_rates(rate, steps)
    if loss.classification_weight == 0.0:
        streams = streams.without_classified()
    with strategy.scope():
        trainer, average = _trainer(
            model, streams.classifier, loss, optimization, rate, builds=False
        )
        slots = _slots(optimization.optimizer(learning_rate=rate))
    number, count = distribution.worker(strategy)
    replicas = strategy.num_replicas_in_sync
    share = pipeline.Share(replicas, count, number)
    batches = streams.batches(batch_size, model.image_size, augment, 0, share)
    parts = tf.nest.flatten(next(iter(batches.take(1))))
    trained = sum(v.shape.num_elements() for v in trainer.trainable_variables)
    kept = sum(v.shape.num_elements() for v in trainer.non_trainable_variables)
    averaged = 0 if average is None else trained + kept
    return Outline(
        steps,
        streams.images_per_step(batch_size),
        trained + kept,
        4 * (kept + averaged + round((1 + slots) * trained)),
        replicas * sum(t.dtype.size * t.shape.num_elements() for t in parts),
    )


def _check_rates(rate, steps):
    """Check learning rates at the start, in the middle and at the end."""
    for step in sorted({0, steps // 2, steps - 1}):
        value = float(rate(step) if callable(rate) else rate)
        if not 0.0 <= value < math.inf:
            raise ValueError(
                "Expected learning rates of at least 0. Received: learning_rate="
                f"{value:g} at step {step}"
            )


def _slots(optimizer):
    """Return an optimizer's number of variables per weight."""
    weight = keras.Variable(tf.zeros(1000))
    optimizer.build([weight])
    sizes = (variable.shape.num_elements() for variable in optimizer.variables)
    return sum(size for size in sizes if size >= 1000) / 1000


def _check(model, streams, monitoring, machine):
    """Check settings of different groups against each other."""
    every, log_every = streams.validate_every, monitoring.log_every
    if every is not None and every % log_every:
        raise ValueError(
            "Expected validate_every, a multiple of log_every. Received: "
            f"validate_every={every}, log_every={log_every}"
        )
    precision = model.dtype_policy.name
    if machine.precision not in (None, precision):
        raise ValueError(
            f"Expected a model of the machine's precision, {machine.precision}: create "
            "it after keras.config.set_dtype_policy. Received: a model of precision "
            f"{precision}"
        )


def _trainer(model, classifier, loss, optimization, learning_rate, builds=True):
    """Return a compiled `SelfTrainer`, and a `WeightAverage` or None.

    Without `builds` the optimizer has no variables.
    """
    # Averages over steps reach back over as many images with any batch size.
    own = {"decay": loss.decay**optimization.factor}
    trainer = SelfTrainer(
        model,
        **{**dataclasses.asdict(loss), **own},
        accumulation=optimization.accumulation,
        classifier=classifier,
        dtype=model.dtype_policy,
    )
    if trainer.positives is not None:
        trainer.positives.decay **= optimization.factor
    optimizer = optimization.optimizer(learning_rate=learning_rate)
    trainer.compile(optimizer=optimizer, jit_compile=False)
    if builds:
        trainer.optimizer.build(trainer.trainable_variables)
    decay = optimization.ema_decay
    if decay is None:
        return trainer, None
    return trainer, WeightAverage(model, decay**optimization.factor)


def _share(context):
    """Return the part of every batch that a worker produces."""
    return pipeline.Share(
        context.num_replicas_in_sync,
        context.num_input_pipelines,
        context.input_pipeline_id,
    )


def _compiled(trainer, average, strategy, jit_compile):
    """Return the compiled step, a function (batch, stop) → terms."""

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(batch, stop):
        averages = [] if average is None else [*average.averages, average.updates]
        with gradients.unless_skipping(trainer.optimizer, averages):
            with _one_learning_rate(trainer.optimizer):
                terms = strategy.run(_step, args=(trainer, batch, stop))
            if average is not None:
                average.update()
        return distribution.local(strategy, terms)

    return step


@contextlib.contextmanager
def _one_learning_rate(optimizer):
    """Compute a schedule's learning rate once per step.

    Keras computes it for every weight, which doubles the time until the first step.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    schedule, rate = optimizer._learning_rate, optimizer.learning_rate
    if not callable(schedule):
        yield
        return
    optimizer.learning_rate = lambda: rate
    try:
        yield
    finally:
        optimizer.learning_rate = schedule


def _step(trainer, batch, stop):
    """Take a step on a replica; a stop request reaches every worker."""
    terms = trainer.step(batch)
    terms["stop"] = distribution.sum_over_replicas(stop)
    if "pseudo" in batch:
        empty = tf.reduce_mean(_without_labels(batch["pseudo"], trainer.model))
        total = distribution.sum_over_replicas(empty)
        terms["pseudo_empty"] = total / distribution.num_replicas()
    masks = [labels["mask"] for labels in batch.values() if "mask" in labels]
    unknown = [_of_unknown_class(mask, trainer.model) for mask in masks]
    terms["unknown"] = distribution.sum_over_replicas(tf.add_n(unknown or [0.0]))
    return terms


def _without_labels(labels, model):
    """Return 1.0 for each image without labels, 0.0 for the others."""
    if "mask" in labels:
        is_labeled = tf.reduce_any(_is_class(labels["mask"], model), axis=[1, 2])
    else:
        is_labeled = tf.reduce_any((labels["classes"] >= 0) & ~labels["ignore"], axis=1)
    return 1.0 - tf.cast(is_labeled, tf.float32)


def _of_unknown_class(mask, model):
    """Return the number of pixels whose value is no class, without declared ones."""
    is_unknown = ~_is_class(mask, model) & (mask != mask_files.IGNORE_CLASS)
    return tf.reduce_sum(tf.cast(is_unknown, tf.float32))


def _is_class(mask, model):
    count = getattr(model, "num_classes", mask_files.IGNORE_CLASS)
    return (mask >= 0) & (mask < count)


def _finish(folder, trainer, average, steps, images_per_step, alpha):
    """Write the summary and the models."""
    os.makedirs(folder.path, exist_ok=True)
    if trainer.classifier is not None:
        save_model(trainer.classifier, folder.classifier)
    summary = {
        "steps": steps,
        "images": steps * images_per_step,
        "seconds": sum(row["seconds"] for row in history.read(folder.history)),
        "alpha": alpha,
    }
    atomic.write_json(folder.summary, summary)
    if average is not None:
        with average.in_use():
            save_model(trainer.model, folder.average)
    # Last: the model's file marks the training as finished.
    save_model(trainer.model, folder.model)


def read_history(output_dir):
    """Read the history of a training.

    Args:
        output_dir: str, as passed to `fit`.

    Returns:
        list of dicts of floats: `step`, `seconds`, `learning_rate` and the logs
        of `SelfTrainer`, averaged over the steps since the previous row.
    """
    return history.read(StageFolder(output_dir).history)
