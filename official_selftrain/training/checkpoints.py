"""Checkpoints from which an interrupted training continues."""

import glob
import os
import shutil

import tensorflow as tf

from official_selftrain.files import atomic

KEPT = 5


class Checkpoints:
    """The most recent checkpoints of a training.

    Args:
        folder: `StageFolder`.
        trainer: `SelfTrainer`, built.
        average: `WeightAverage` or None.
    """

    def __init__(self, folder, trainer, average):
        # Keras doesn't expose dropout's seeds to TensorFlow's tracking.
        model = trainer.model
        state = {
            "model": model,
            "normalizer": trainer.loss_averages,
            "optimizer": trainer.optimizer,
            "seeds": [v.value for v in model.variables if "seed_generator" in v.path],
        }
        if trainer.positives is not None:
            # Its variables are in dicts, which TensorFlow's tracking doesn't see.
            state["positives"] = [v.value for v in trainer.positives.variables]
        if trainer.classifier is not None:
            state["classifier"] = trainer.classifier
        if average is not None:
            state["average"] = average
        self._checkpoint = tf.train.Checkpoint(**state)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, folder.checkpoints, max_to_keep=KEPT
        )

    def restore(self):
        """Restore the latest readable checkpoint; return its step, or 0."""
        self._remove_partial()
        paths = self._manager.checkpoints[::-1]
        for path in paths:
            try:
                self._checkpoint.restore(path).assert_existing_objects_matched()
                return int(path.rsplit("-", 1)[1])
            except tf.errors.OpError as error:
                print(f"warning: {path} can't be read: {error.message}", flush=True)
            except AssertionError as error:  # of what must be matched
                reason = str(error).strip().splitlines()[0]
                raise ValueError(
                    "Expected a checkpoint of a training with these settings. "
                    f"Received: {path}: {reason}"
                ) from error
        if paths:
            raise ValueError(
                "Expected a checkpoint that can be read, or none. Received: "
                f"{', '.join(paths)}"
            )
        return 0

    def save(self, step):
        """Save the training state after a step.

        Args:
            step: int.
        """
        try:
            self._manager.save(checkpoint_number=step)
        except BaseException:
            self._remove_partial()
            raise

    def _remove_partial(self):
        """Remove what a save that didn't succeed has left."""
        folder = glob.escape(self._manager.directory)
        for path in glob.glob(os.path.join(folder, "ckpt-*_temp")):
            shutil.rmtree(path, ignore_errors=True)


def save_model(model, path):
    """Save a model atomically.

    Args:
        model: `keras.Model`.
        path: str, ending in `.keras`.
    """
    with atomic.replacing(path, ".keras") as partial:
        model.save(partial)
