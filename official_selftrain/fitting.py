"""Fit a model to one or two streams, with checkpoints and a history."""

import csv
import json
import math
import os
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from official_selftrain.data import augment as augmentations
from official_selftrain.data import pipeline
from official_selftrain.selftraining import SelfTrainer


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
):
    """Train a model with checkpoints, and save it when it is done.

    Called again after an interruption, it continues from the last checkpoint.
    `output_dir` gets `model.keras`, `history.csv`, `fit.json`, checkpoints and
    TensorBoard's files.

    Args:
        model: model that obeys the contract of `official_selftrain.models`.
        labeled: `examples.Source`.
        pseudo: `examples.Source` or None.
        output_dir: str.
        steps: int.
        batch_size: int, images of each stream in a step.
        optimizer: function `(learning_rate)` → `keras.optimizers.Optimizer`.
        schedule: function `(steps)` → learning rate or schedule.
        seed: int, of order and augmentation.
        augment: as described in `data.augment`, for both streams.
        alpha: float, weight of the pseudo-labelled stream.
        normalize: bool, the paper's normalised loss instead of the plain sum.
        decay: float, of the loss averages.
        l2: float, factor of the L2 penalty.
        l2_names: endings of the names of the weights it covers.
        fill_with_labeled: bool; True takes as many labelled images more as a
            student has pseudo-labelled ones.
        log_every: int, steps between two checkpoints and lines of history.
        max_boxes: int, slots for the labels of an image.

    Returns:
        The trained model.

    Raises:
        TypeError: for an optimizer or schedule that isn't a function.
        ValueError: for counts below 1, or a loss that isn't finite.

    Source: paper sections 3 and 4.
    """
    check_counts(
        steps=steps, batch_size=batch_size, log_every=log_every, max_boxes=max_boxes
    )
    for name, function in (("optimizer", optimizer), ("schedule", schedule)):
        if not callable(function):
            raise TypeError(
                f"Expected {name}, a function. Received: {name}={function!r}"
            )
    trainer = SelfTrainer(model, alpha, normalize, decay, l2, l2_names)
    trainer.compile(optimizer=optimizer(learning_rate=schedule(steps=steps)))
    trainer.optimizer.build(trainer.trainable_variables)
    # Dropout's seeds aren't part of what Keras lets TensorFlow track.
    seeds = [v.value for v in model.variables if "seed_generator" in v.path]
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(trainer=trainer, optimizer=trainer.optimizer, seeds=seeds),
        os.path.join(output_dir, "checkpoints"),
        max_to_keep=2,
    )
    manager.restore_or_initialize()

    def streams(start):
        def batches(source, stream_seed, size):
            return pipeline.training_batches(
                source, size, model.image_size, augment, stream_seed, start, max_boxes
            )

        if not pseudo:
            return {"labeled": batches(labeled, 2 * seed, images_per_step)}
        return {
            "labeled": batches(labeled, 2 * seed, batch_size),
            "pseudo": batches(pseudo, 2 * seed + 1, batch_size),
        }

    images_per_step = batch_size * (2 if pseudo or fill_with_labeled else 1)
    log_every = min(log_every, steps)
    last_whole = steps - steps % log_every
    while (done := int(trainer.optimizer.iterations)) < steps:
        # To Keras, an epoch is the stretch between two checkpoints; the last
        # one may be shorter.
        end = last_whole if done < last_whole else steps
        keeper = _Keeper(output_dir, manager, steps)
        try:
            trainer.fit(
                tf.data.Dataset.zip(streams(done)),
                initial_epoch=done // log_every,
                epochs=math.ceil(end / log_every),
                steps_per_epoch=min(log_every, end - done),
                callbacks=[
                    keeper,
                    keras.callbacks.TensorBoard(
                        os.path.join(output_dir, "tensorboard"), write_graph=False
                    ),
                ],
                shuffle=False,
                verbose=0,
            )
        finally:
            keeper.close()
    summary = {
        "steps": steps,
        "images": steps * images_per_step,
        "seconds": sum(row["seconds"] for row in read_history(output_dir)),
        "alpha": alpha if pseudo else None,
    }
    with open(os.path.join(output_dir, "fit.json"), "w") as file:
        json.dump(summary, file, indent=2)
    # The model appears last and whole: it marks the training as finished.
    partial = os.path.join(output_dir, "partial.keras")
    model.save(partial)
    os.replace(partial, os.path.join(output_dir, "model.keras"))
    return model


def check_counts(**counts):
    """Check that every argument is an integer of at least 1.

    Raises:
        ValueError: for the first one that isn't.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"Expected {name}, an integer of at least 1. Received: {name}={value!r}"
            )


class _Keeper(keras.callbacks.Callback):
    """Show progress, keep history and checkpoints, stop at a non-finite loss."""

    def __init__(self, output_dir, manager, steps):
        super().__init__()
        self.output_dir = output_dir
        self.manager = manager
        self.steps = steps
        self.progress = None

    def on_train_begin(self, logs=None):
        self.progress = tqdm(
            total=self.steps,
            initial=self._step(),
            desc=os.path.basename(self.output_dir),
            unit="step",
            mininterval=1.0,
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self.progress.update()
        if not math.isfinite(logs["loss"]):
            terms = ", ".join(f"{name}={float(logs[name])}" for name in sorted(logs))
            raise ValueError(
                f"Expected a finite loss. Received: {terms} at step {self._step()} of "
                f"{self.output_dir} (means since the last checkpoint, which is kept)"
            )

    def on_epoch_end(self, epoch, logs=None):
        row = {
            "step": self._step(),
            "seconds": time.monotonic() - self.start,
            "learning_rate": float(self.model.optimizer.learning_rate),
            **{name: float(value) for name, value in logs.items()},
        }
        path = os.path.join(self.output_dir, "history.csv")
        is_new = not os.path.exists(path)
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        self.manager.save(checkpoint_number=self._step())
        self.progress.set_postfix(loss=f"{row['loss']:.3f}")

    def close(self):
        if self.progress is not None:
            self.progress.close()

    def _step(self):
        return int(self.model.optimizer.iterations)


def read_history(output_dir):
    """Read the history of a training.

    Args:
        output_dir: str, as given to `fit`.

    Returns:
        list of dicts of floats: `step`, `seconds`, `learning_rate` and the logs
        of `SelfTrainer`, means over the steps since the row before.
    """
    with open(os.path.join(output_dir, "history.csv"), newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    # A training killed between a row and its checkpoint writes that row twice.
    return list({row["step"]: row for row in rows}.values())
