"""Run a SavedModel on image files with TensorFlow alone.

python export/run_saved_model.py exported/quickstart/1 --images=photos --output=out.npz

The result holds an array `NUMBER/OUTPUT` for every output of every image, numbered by
file name. Unreadable files are reported and skipped. Needs neither Keras nor this
project.
"""

import argparse
import glob
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_model")
    parser.add_argument("--images", required=True, help="a folder or glob of images")
    parser.add_argument("--output", required=True, help="an .npz file")
    parser.add_argument("--batch_size", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        sys.exit(f"Expected batch_size above 0. Received: {arguments.batch_size}")
    try:
        run(arguments)
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        sys.exit(f"run_saved_model: {str(error).strip().splitlines()[0]}")


def run(arguments):
    """Run the model and write its outputs."""
    paths = image_paths(arguments.images)
    if not paths:
        sys.exit(f"Expected images. Received: images={arguments.images!r}, empty")
    loaded = tf.saved_model.load(arguments.saved_model)
    function = loaded.signatures["serving_default"]
    outputs, told = {}, time.monotonic()
    for start in range(0, len(paths), arguments.batch_size):
        if time.monotonic() - told > 30.0:
            print(f"{start} of {len(paths)} images", file=sys.stderr)
            told = time.monotonic()
        part = paths[start : start + arguments.batch_size]
        try:
            outputs.update(answers(function, part, start))
        except tf.errors.InvalidArgumentError:
            # One invalid file fails its whole batch.
            for number, path in enumerate(part, start):
                try:
                    outputs.update(answers(function, [path], number))
                except tf.errors.InvalidArgumentError:
                    print(f"skipped {path}: can't be read", file=sys.stderr)
    if not outputs:
        raise ValueError(
            f"Expected an image that can be read. Received: none of {len(paths)} files"
        )
    np.savez(arguments.output, **outputs)


def answers(function, paths, first_number):
    """Return a dict of `NUMBER/OUTPUT` to the model's outputs for some files."""
    outputs = function(image_bytes=tf.stack([tf.io.read_file(p) for p in paths]))
    return {
        f"{number}/{name}": value
        for name, values in outputs.items()
        for number, value in enumerate(values.numpy(), first_number)
    }


def largest_difference(values, others):
    """Return the largest difference; infinite for NaN or different shapes."""
    values, others = np.asarray(values, float), np.asarray(others, float)
    if values.shape != others.shape:
        return float("inf")
    difference = np.abs(values - others).max(initial=0.0)
    return float(np.nan_to_num(difference, nan=np.inf))


def image_paths(images):
    """Return the files of a folder or glob, sorted."""
    if os.path.isdir(images):
        images = os.path.join(images, "*")
    return sorted(path for path in glob.glob(images) if os.path.isfile(path))


if __name__ == "__main__":
    main()
