"""Compare the package's image operations with those of TensorFlow Addons.

make parity

The reference results come from parity_reference.py, which runs in a separate
environment. Prints a table: operation, greatest and mean absolute difference in gray
levels, and the reason for any difference. `--record` writes the table to
benchmarks/results/parity.txt and the arrays to tests/golden/parity.npz for the tests.

python benchmarks/parity.py parity.npz
"""

import argparse
import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from official_selftrain.data.augmentation import color, operations, placement
from official_selftrain.geometry import affine

ROOT = pathlib.Path(__file__).resolve().parent.parent

TRANSFORM = [[0.913, 0.207, 3.1], [-0.107, 1.1, -2.3], [0.0, 0.0, 1.0]]
TENTHS = [[0.9, 0.2, 3.0], [-0.1, 1.1, -2.0], [0.0, 0.0, 1.0]]


def warp(image, move):
    """Return an image after an affine transform."""
    return affine.warp([image], move, [placement.FILL_PIXEL])[0]


def size(image):
    """Return height and width."""
    return tf.shape(image)[:2]


# Our counterpart of each operation.
OURS = {
    "rotate": lambda image: warp(image, affine.rotation(24.0, size(image))),
    "rotate_back": lambda image: warp(image, affine.rotation(-45.0, size(image))),
    "translate": lambda image: warp(image, affine.translation(7.0, -4.0)),
    "shear_x": lambda image: warp(image, affine.shear(0.18, 0.0)),
    "shear_y": lambda image: warp(image, affine.shear(0.0, -0.27)),
    "transform": lambda image: warp(image, tf.constant(TRANSFORM)),
    "transform_of_tenths": lambda image: warp(image, tf.constant(TENTHS)),
    "equalize": color.equalize,
    "sharpness": lambda image: color.sharpness(image, 1.54),
    "smooth": lambda image: color.sharpness(image, 0.1),
    "color": lambda image: color.color(image, 1.54),
    "grey": lambda image: color.color(image, 0.46),
    "brightness": lambda image: color.brightness(image, 1.18),
    "adjust_contrast": lambda image: color.contrast(image, 1.54),
    "adjust_saturation": lambda image: color.color(image, 1.54),
    "cutout": lambda image: operations.cutout(image, tf.constant([20, 25]), 8),
    "cutout_at_the_edge": lambda image: operations.cutout(
        image, tf.constant([2, 45]), 8
    ),
}

# Reasons for the operations that differ.
REASONS = {
    "transform_of_tenths": "single pixels halfway between two round the other way",
    "sharpness": "TensorFlow Addons rounds twice, the paper's authors and we cut off",
    "smooth": "TensorFlow Addons rounds twice, the paper's authors and we cut off",
    "color": "TensorFlow Addons rounds, the paper's authors and we cut off",
    "grey": "TensorFlow Addons rounds, the paper's authors and we cut off",
    "brightness": "TensorFlow Addons rounds, the paper's authors and we cut off",
    "adjust_contrast": "TensorFlow takes the mean of each channel, we of the gray",
    "adjust_saturation": "TensorFlow scales the saturation of HSV, we blend with gray",
}


def compare(arrays):
    """Return rows of (operation, greatest, mean difference) over all images."""
    names = sorted({key.split("/")[0] for key in arrays if key.endswith("/in")})
    rows = []
    for operation, function in OURS.items():
        differences = []
        for name in names:
            ours = function(tf.constant(arrays[f"{name}/in"])).numpy().astype(int)
            differences.append(np.abs(ours - arrays[f"{name}/{operation}"]).ravel())
        differences = np.concatenate(differences)
        rows.append((operation, differences.max(), differences.mean()))
    return rows


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", help="the output of parity_reference.py")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    with np.load(arguments.path) as file:
        arrays = dict(file)
    theirs = "TensorFlow {} and TensorFlow Addons {}".format(*arrays["versions"])
    lines = [
        f"TensorFlow {tf.__version__} against {theirs}",
        "",
        f"{'operation':20}{'greatest':>9}{'mean':>9}",
    ]
    for operation, greatest, mean in compare(arrays):
        verdict = "agrees" if greatest == 0 else REASONS.get(operation, "DISAGREES")
        lines.append(f"{operation:20}{greatest:9.0f}{mean:9.4f}  {verdict}")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.record:
        (ROOT / "benchmarks" / "results" / "parity.txt").write_text(text)
        shutil.copy(arguments.path, ROOT / "tests" / "golden" / "parity.npz")


if __name__ == "__main__":
    main()
