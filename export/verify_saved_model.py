"""Compare a SavedModel with the Keras model it was exported from.

python export/verify_saved_model.py exported/quickstart/1 --images=photos

Runs the SavedModel in batches, in a fresh process that imports only TensorFlow, and the
Keras model image by image, as labeling does. Prints the largest differences. Exit
codes: 0 no box differs by more than 1e-3 pixels and no score by more than 1e-4, 1
otherwise or after a mistake in the call.
"""

import json
import os
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from run_saved_model import image_paths, largest_difference

from official_selftrain.cli import command_line
from official_selftrain.data import images
from official_selftrain.files import hashes
from official_selftrain.geometry import letterbox
from official_selftrain.inference import prediction, tiles

flags.adopt_module_key_flags(command_line)

_IMAGES = flags.DEFINE_string(
    "images", None, "A folder or glob of images.", required=True
)
_MODEL = flags.DEFINE_string(
    "model", None, "The .keras file; by default the one it was exported from."
)
LIMITS = {"boxes": 1e-3, "scores": 1e-4, "classes": 0.0, "mask": 0.0, "count": 0.0}


def main(argv):
    """Run the command line."""
    if len(argv) != 2:
        print("verify_saved_model: Expected one SavedModel folder.", file=sys.stderr)
        return 1
    return command_line.exit_code(
        "verify_saved_model", argv[:1], lambda: _verify(argv[1])
    )


def _verify(path):
    with open(os.path.join(path, "assets", "export.json")) as file:
        origin = json.load(file)
    paths = image_paths(_IMAGES.value)
    if not paths:
        raise FileNotFoundError(f"Expected images. Received: {_IMAGES.value!r}, empty")
    model = _exported_model(origin)
    answers = _answers_alone(path)
    if answers is None:
        return 1
    is_normalized = origin["boxes"] == "normalized"
    worst, compared = _largest_differences(model, paths, answers, is_normalized)
    for name, difference in worst.items():
        print(f"largest difference of {name}: {difference:.2g}")
    is_equal = all(worst[name] <= LIMITS[name] for name in worst)
    skipped = f", {len(paths) - compared} skipped" if compared < len(paths) else ""
    print(f"{compared} images: {'equal' if is_equal else 'NOT equal'}{skipped}")
    return 0 if is_equal else 1


def _exported_model(origin):
    """Return the exported Keras model, with the settings of the export."""
    path = _MODEL.value or origin["model"]
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"Expected {path}, the model that was exported. Pass "
            "--model=FILE if it was moved"
        )
    if not _MODEL.value and hashes.sha256(path) != origin["sha256"]:
        raise ValueError(
            f"Expected {path} as it was exported. Received: a different model; pass "
            "--model=FILE"
        )
    model = keras.saving.load_model(path)
    for name in ("score_threshold", "nms_threshold", "soft_nms_sigma"):
        if name in origin:
            setattr(model, name, origin[name])
    model.max_detections = origin.get(
        "max_detections", getattr(model, "max_detections", None)
    )
    return model


def _answers_alone(path):
    """Return a SavedModel's outputs by image number, computed in a fresh process.

    None if the process failed; it has printed the error.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "found.npz")
        script = os.path.join(os.path.dirname(__file__), "run_saved_model.py")
        command = [sys.executable, script, path, f"--images={_IMAGES.value}"]
        done = subprocess.run([*command, f"--output={output}"], check=False)
        if done.returncode:
            return None
        answers = {}
        with np.load(output) as file:
            for key, value in file.items():
                number, _, name = key.partition("/")
                answers.setdefault(int(number), {})[name] = value
    return answers


def _largest_differences(model, paths, answers, is_normalized):
    """Return the largest differences by name, and the number of compared images."""
    is_segmenter = hasattr(model, "multi_scale")
    expect = _expected_masks(model) if is_segmenter else prediction.predictor(model)
    compare = _masks if is_segmenter else _boxes
    worst = {}
    for number, outputs in sorted(answers.items()):  # without unreadable images
        image = images.decode(tf.io.read_file(paths[number]))
        frame = letterbox.fit(image, model.image_size)
        size = tf.shape(image)[:2]
        if getattr(model, "tile", None):
            expected = tiles.as_batch(tiles.detector(model)(image))
        else:
            expected = expect(frame[None], size[None])
        if is_normalized and not is_segmenter:
            outputs["detection_boxes"] *= np.tile(size.numpy(), 2)
        for name, difference in compare(outputs, expected, size.numpy()).items():
            worst[name] = max(worst.get(name, 0.0), difference)
    return worst, len(answers)


def _expected_masks(model):
    probabilities = tf.function(model.multi_scale())

    def expect(frames, sizes):
        covered = letterbox.covered_size(sizes, model.image_size)
        of_frames = probabilities(frames)
        return prediction.masks_of_size(of_frames, covered[0], sizes[0])

    return expect


def _masks(outputs, expected, size):
    height, width = size
    return {
        name: largest_difference(outputs[key][:height, :width], value[0])
        for name, key, value in zip(
            ("mask", "scores"), ("mask", "confidence"), expected
        )
    }


def _boxes(outputs, expected, size):
    return {
        "boxes": largest_difference(outputs["detection_boxes"], expected["boxes"][0]),
        "scores": largest_difference(
            outputs["detection_scores"], expected["scores"][0]
        ),
        "count": largest_difference(
            outputs["num_detections"], expected["num_detections"][0]
        ),
        "classes": largest_difference(
            outputs["detection_classes"], expected["classes"][0] + 1
        ),
    }


if __name__ == "__main__":
    app.run(main)
