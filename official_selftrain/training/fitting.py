"""Fit a model to one to three streams, with checkpoints and a history."""

import contextlib
import json
import math
import os
import signal
import threading

import keras
import tensorflow as tf

from official_selftrain.data import pipeline
from official_selftrain.data.augmentation import augment as augmentations
from official_selftrain.inference import prediction
from official_selftrain.training import distribution, schedules, training_log
from official_selftrain.training.self_trainer import SelfTrainer
from official_selftrain.training.weight_average import WeightAverage

# Exit code of a process that SIGTERM has stopped: run it again to continue.
PREEMPTED = 143

_KEPT_CHECKPOINTS = 5
_MAX_OVERFLOWS = 20  # steps in a row that float16 may skip


def fit(
    model,
    labeled,
    pseudo,
    output_dir,
    steps,
    batch_size,
    optimizer,
    schedule,
    seed=0,
    augment=augmentations.flip_and_jitter,
    alpha=1.0,
    normalize=True,
    decay=0.9997,
    l2=0.0,
    l2_names=("kernel",),
    fill_with_labeled=False,
    log_every=100,
    max_boxes=100,
    accumulation=1,
    ema_decay=None,
    scaled_batch_size=None,
    strategy=None,
    jit_compile=False,
    validate=None,
    validate_every=None,
    num_pictures=4,
    classified=None,
    classifier=None,
    classification_weight=1.0,
):
    """Train a model with checkpoints, and save it when it is done.

    Called again after an interruption, it continues from the last checkpoint and
    ends with the same weights: bit for bit, on the same CPU or GPUs without
    non-deterministic operations. SIGTERM saves a checkpoint before it ends the
    process.

    `output_dir` gets `model.keras`, with `classifier` also `classifier.keras`, with
    `ema_decay` also `average.keras`, with `validate` also `best.keras` and
    `validation.csv`; `history.csv`, `fit.json`, TensorBoard's files and the last five
    checkpoints. Only the first of several workers writes.

    Args:
        model: model that obeys the contract of `official_selftrain.models`, made in
            the scope of `strategy`.
        labeled: `examples.Source`.
        pseudo: `examples.Source` or None.
        output_dir: str.
        steps: int.
        batch_size: int, images of each stream in a step, on all replicas together.
        optimizer: function `(learning_rate)` → `keras.optimizers.Optimizer`.
        schedule: function `(steps)` → learning rate or schedule.
        seed: int, of order and augmentation.
        augment: as described in `data.augment`, for all streams.
        alpha: float, weight of the pseudo-labelled stream.
        normalize: bool, the paper's normalised loss instead of the plain sum.
        decay: float, of the loss averages.
        l2: float, factor of the L2 penalty.
        l2_names: endings of the names of the weights it covers.
        fill_with_labeled: bool; True takes as many labelled images more as a
            student has pseudo-labelled ones.
        log_every: int, steps between two checkpoints and lines of history.
        max_boxes: int, slots for the labels of an image.
        accumulation: int, parts of a batch that go through the model one after the
            other.
        ema_decay: float or None, of a moving average of the weights.
        scaled_batch_size: int or None; trains with this batch instead, and with steps
            and learning rate scaled to it.
        strategy: `tf.distribute.Strategy`; None: the current one.
        jit_compile: bool, compile the step with XLA (one replica only).
        validate: function (model) → float, higher is better, or None.
        validate_every: int, steps between two validations, a multiple of `log_every`;
            None: at every line of history.
        num_pictures: int, images of each stream that TensorBoard shows: at the first,
            the last and every tenth line of history.
        classified: `examples.Source` whose images have a class each, a box that covers
            the image; or None. `batch_size` of them join every step.
        classifier: `models.ImageClassifier` on the model's backbone, or None.
        classification_weight: float, weight of the classified images' loss; 0 leaves
            them out.

    Returns:
        The trained model.

    Raises:
        TypeError: for an optimizer or schedule that isn't a function.
        ValueError: for counts below 1, a batch that doesn't divide, or a loss that
            isn't finite: with the step, the terms and the ids of the images.
        SystemExit: `PREEMPTED`, after SIGTERM.

    Source: paper sections 3 and 4.
    """
    check_counts(
        steps=steps,
        batch_size=batch_size,
        log_every=log_every,
        max_boxes=max_boxes,
        accumulation=accumulation,
    )
    for name, function in (("optimizer", optimizer), ("schedule", schedule)):
        if not callable(function):
            raise TypeError(
                f"Expected {name}, a function. Received: {name}={function!r}"
            )
    rate = schedule(steps=steps)
    if scaled_batch_size is not None:
        check_counts(scaled_batch_size=scaled_batch_size)
        factor = scaled_batch_size / batch_size
        rate = schedules.linear_scaling(rate, factor)
        print(
            f"{os.path.basename(output_dir)}: batch size {batch_size} → "
            f"{scaled_batch_size}, {steps} → {math.ceil(steps / factor)} steps, "
            f"learning rate × {factor:g}",
            flush=True,
        )
        batch_size, steps = scaled_batch_size, math.ceil(steps / factor)
    joins = classified is not None and classification_weight != 0.0
    if joins:
        _check_classified(classified, classifier)
    streams = 2 if pseudo or fill_with_labeled else 1
    images_per_step = (streams + joins) * batch_size
    strategy = strategy or tf.distribute.get_strategy()
    distribution.per_replica_batch_size(batch_size, strategy, accumulation)
    if jit_compile and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Expected one replica for jit_compile. Received: "
            f"{strategy.num_replicas_in_sync} replicas, jit_compile=True"
        )
    validate_every = log_every if validate_every is None else validate_every
    check_counts(validate_every=validate_every)
    if validate is not None and validate_every % log_every:
        raise ValueError(
            "Expected validate_every, a multiple of log_every. Received: "
            f"validate_every={validate_every}, log_every={log_every}"
        )
    log_every = min(log_every, steps)

    with strategy.scope():
        trainer = SelfTrainer(
            model,
            alpha,
            normalize,
            decay,
            l2,
            l2_names,
            accumulation,
            classifier if joins else None,
            classification_weight,
            dtype=model.dtype_policy,
        )
        trainer.compile(optimizer=optimizer(learning_rate=rate), jit_compile=False)
        trainer.optimizer.build(trainer.trainable_variables)
        average = None if ema_decay is None else WeightAverage(model, ema_decay)

    worker, _ = distribution.worker(strategy)
    checkpoints = _Checkpoints(output_dir, trainer, average)
    done = checkpoints.restore()

    def batches(num_workers, worker):
        def stream(source, stream_seed, size):
            return pipeline.training_batches(
                source,
                size,
                model.image_size,
                augment,
                stream_seed,
                done,
                max_boxes,
                pipeline.Share(strategy.num_replicas_in_sync, num_workers, worker),
            )

        size = batch_size if pseudo else streams * batch_size
        found = {"labeled": stream(labeled, 2 * seed, size)}
        if pseudo:
            found["pseudo"] = stream(pseudo, 2 * seed + 1, batch_size)
        if joins:
            found["classified"] = stream(classified, 2**19 + seed, batch_size)
        return tf.data.Dataset.zip(found)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(batch, stop):
        terms = strategy.run(_step, args=(trainer, batch, stop))
        if average is not None:
            average.update()
        return distribution.local(strategy, terms)

    stopping = False
    if done < steps:
        log = training_log.TrainingLog(
            output_dir, steps, done, images_per_step, writes=worker == 0
        )
        predict = prediction.predictor(model)
        skips_overflows = isinstance(
            trainer.optimizer, keras.optimizers.LossScaleOptimizer
        )
        overflows = 0
        with (
            contextlib.closing(log),
            distribution.synchronized_batch_norm(model, strategy),
            _Termination() as termination,
        ):
            data = iter(
                strategy.distribute_datasets_from_function(
                    lambda context: batches(
                        context.num_input_pipelines, context.input_pipeline_id
                    )
                )
            )
            while done < steps:
                batch = next(data)
                stop = tf.constant(float(termination.asked))
                terms = {k: float(v) for k, v in step(batch, stop).items()}
                stopping = terms.pop("stop") > 0.0
                done += 1
                # The norm tells of weights that are about to be spoiled.
                is_finite = math.isfinite(terms["loss"] + terms["gradient_norm"])
                overflows = 0 if is_finite else overflows + 1
                if not skips_overflows or overflows > _MAX_OVERFLOWS:
                    training_log.check_finite(
                        terms,
                        distribution.whole_batch(strategy, batch),
                        f"step {done} of {output_dir} (the last checkpoint is kept)",
                    )
                log.add(terms if is_finite else None)
                if done % log_every and done < steps and not stopping:
                    continue
                if done % log_every == 0 or done == steps:
                    log.row(float(trainer.optimizer.learning_rate))
                    if num_pictures and _is_drawn(done, log_every, steps):
                        drawn = distribution.local(strategy, batch)
                        drawn.pop("classified", None)  # not the detector's
                        log.pictures(
                            drawn,
                            predict,
                            labeled.class_names,
                            num_pictures,
                        )
                    due = done % validate_every == 0 or done == steps
                    if validate and due and worker == 0:
                        _keep_best(model, output_dir, done, validate(model), log)
                if worker == 0:
                    checkpoints.save(done)
                if stopping and done < steps:
                    log.suspend()
                    raise SystemExit(PREEMPTED)
                log.resume()
            # The models' files are all that is missing.
            stopping = stopping or termination.asked
    if worker == 0:
        if joins:
            _save(classifier, output_dir, "classifier.keras")
        _finish(model, average, output_dir, steps, images_per_step, alpha, pseudo)
    if stopping:
        raise SystemExit(PREEMPTED)
    return model


def _step(trainer, batch, stop):
    """Take a step in a replica; any worker's wish to stop reaches all of them."""
    terms = trainer.step(batch)
    terms["stop"] = distribution.sum_over_replicas(stop)
    if "pseudo" in batch:
        empty = tf.reduce_mean(_without_labels(batch["pseudo"]))
        total = distribution.sum_over_replicas(empty)
        terms["pseudo_empty"] = total / distribution.num_replicas()
    return terms


def _without_labels(labels):
    """Return 1.0 for each image that nothing is known of, 0.0 for the others."""
    if "mask" in labels:
        known = tf.reduce_any(labels["mask"] != 255, axis=[1, 2])
    else:
        known = tf.reduce_any((labels["classes"] >= 0) & ~labels["ignore"], axis=1)
    return 1.0 - tf.cast(known, tf.float32)


def _is_drawn(step, log_every, steps):
    return step in (log_every, steps) or step % (10 * log_every) == 0


def _finish(model, average, output_dir, steps, images_per_step, alpha, pseudo):
    """Write the summary and the models."""
    os.makedirs(output_dir, exist_ok=True)
    summary = {
        "steps": steps,
        "images": steps * images_per_step,
        "seconds": sum(row["seconds"] for row in read_history(output_dir)),
        "alpha": alpha if pseudo else None,
    }
    with open(os.path.join(output_dir, "fit.json"), "w") as file:
        json.dump(summary, file, indent=2)
    if average is not None:
        with average.in_use():
            _save(model, output_dir, "average.keras")
    # Comes last: it marks the training as finished.
    _save(model, output_dir, "model.keras")


def _save(model, output_dir, name):
    """Save a model, whole or not at all."""
    partial = os.path.join(output_dir, "partial.keras")
    model.save(partial)
    os.replace(partial, os.path.join(output_dir, name))


def _keep_best(model, output_dir, step, value, log):
    """Keep the model if no validation before gave more; write what this one gave."""
    path = os.path.join(output_dir, "validation.csv")
    before = [r["value"] for r in training_log.read(path) if r["step"] < step]
    if not before or value > max(before):
        _save(model, output_dir, "best.keras")
    training_log.append(path, {"step": step, "value": value})
    log.scalars({"validation": value})


class _Checkpoints:
    """All that a training is, after a step."""

    def __init__(self, output_dir, trainer, average):
        # Dropout's seeds aren't part of what Keras lets TensorFlow track.
        model = trainer.model
        state = {
            "model": model,
            "normalizer": trainer.normalizer,
            "optimizer": trainer.optimizer,
            "seeds": [v.value for v in model.variables if "seed_generator" in v.path],
        }
        if trainer.classifier is not None:
            state["classifier"] = trainer.classifier
        if average is not None:
            state["average"] = average
        self._checkpoint = tf.train.Checkpoint(**state)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint,
            os.path.join(output_dir, "checkpoints"),
            max_to_keep=_KEPT_CHECKPOINTS,
        )

    def restore(self):
        """Go back to the last checkpoint that can be read; return its step, or 0."""
        paths = self._manager.checkpoints[::-1]
        for path in paths:
            try:
                self._checkpoint.restore(path).assert_existing_objects_matched()
                return int(path.rsplit("-", 1)[1])
            except tf.errors.OpError as error:
                print(f"warning: {path} can't be read: {error.message}", flush=True)
        if paths:
            raise ValueError(
                "Expected a checkpoint that can be read, or none. Received: "
                f"{', '.join(paths)}"
            )
        return 0

    def save(self, step):
        """Save what is needed to continue."""
        self._manager.save(checkpoint_number=step)


class _Termination:
    """Notice SIGTERM while a step runs, and leave it to the loop to stop."""

    def __init__(self):
        self.asked = False
        # Python hears signals in its main thread only.
        self._listens = threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def _ask(self, number, frame):
        self.asked = True

    def __exit__(self, *exception):
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)


def _check_classified(classified, classifier):
    """Check that images have a class each, of those that a classifier knows."""
    if classifier is None:
        raise ValueError(
            "Expected a classifier for classified images. Received: classifier=None"
        )
    if not classified.has_labels or classified.has_masks:
        kind = "masks" if classified.has_masks else "images without labels"
        raise ValueError(f"Expected images with a class each. Received: {kind}")
    if len(classified.class_names) != classifier.num_classes:
        raise ValueError(
            f"Expected classified images of {classifier.num_classes} classes. "
            f"Received: {len(classified.class_names)}"
        )


def check_counts(**counts):
    """Check that every argument is an integer of at least 1.

    Raises:
        ValueError: for the first one that isn't.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"Expected {name}, an integer of at least 1. Received: {name}={value!r}"
            )


def read_history(output_dir):
    """Read the history of a training.

    Args:
        output_dir: str, as given to `fit`.

    Returns:
        list of dicts of floats: `step`, `seconds`, `learning_rate` and the logs
        of `SelfTrainer`, means over the steps since the row before.
    """
    return training_log.read(os.path.join(output_dir, "history.csv"))
