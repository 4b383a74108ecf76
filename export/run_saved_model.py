"""Run a SavedModel on image files with TensorFlow alone.

python export/run_saved_model.py exported/quickstart/1 --images=photos --output=out.npz

The result holds an array `NUMBER/OUTPUT` for every output of every image, in the order
of their names. Neither Keras nor this project is needed.
"""

import argparse
import glob
import os
import sys

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
    paths = image_paths(arguments.images)
    if not paths:
        sys.exit(f"Expected images. Received: images={arguments.images!r}, empty")
    loaded = tf.saved_model.load(arguments.saved_model)
    function = loaded.signatures["serving_default"]
    found = {}
    for start in range(0, len(paths), arguments.batch_size):
        part = paths[start : start + arguments.batch_size]
        outputs = function(image_bytes=tf.stack([tf.io.read_file(p) for p in part]))
        for name, values in outputs.items():
            for number, value in enumerate(values.numpy(), start):
                found[f"{number}/{name}"] = value
    np.savez(arguments.output, **found)


def image_paths(images):
    """Return the files of a folder or glob, in order."""
    if os.path.isdir(images):
        images = os.path.join(images, "*")
    return sorted(path for path in glob.glob(images) if os.path.isfile(path))


if __name__ == "__main__":
    main()
