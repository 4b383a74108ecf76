"""Export a trained model as a SavedModel for TF Serving.

python export/export_saved_model.py \\
    --model_dir=runs/quickstart --stage=student --export_dir=exported

Writes `exported/quickstart/1/`, or the next version, with the signatures described in
export/README.md, and `models.config` and `batching_parameters.txt` for the server. Exit
codes: 0 done, 1 a mistake in the call.
"""

import json
import os
import shutil

import keras
import tensorflow as tf
from absl import app, flags

from official_selftrain.cli import command_line
from official_selftrain.experiment.results import load_model
from official_selftrain.files import hashes
from official_selftrain.files.run_folder import RunFolder
from official_selftrain.labeling import teachers
from official_selftrain.serving import saved_models

flags.adopt_module_key_flags(command_line)

_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "The folder of the experiment.", required=True
)
_STAGE = flags.DEFINE_enum(
    "stage", "student", ("teacher", "student", "control"), "The stage to export."
)
_AVERAGE = flags.DEFINE_bool("average", False, "Export the averaged weights.")
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "The model folder of the server.", required=True
)
_NAME = flags.DEFINE_string("name", None, "Model name; by default that of model_dir.")
_VERSION = flags.DEFINE_integer(
    "version", None, "By default the next one.", lower_bound=1
)
_BOXES = flags.DEFINE_enum(
    "boxes", "pixels", ("pixels", "normalized"), "Units of the boxes."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", saved_models.MAX_PIXELS, "Larger images are rejected.", lower_bound=1
)
_WARMUP_IMAGE = flags.DEFINE_string(
    "warmup_image",
    None,
    "An image file that the server warms up with; gray by default.",
)
# A detector's post-processing; by default as in training.
_SUPPRESSION = {
    "score_threshold": flags.DEFINE_float(
        "score_threshold", None, "Minimum score of detections.", 0.0, 1.0
    ),
    "nms_threshold": flags.DEFINE_float(
        "nms_threshold", None, "IoU above which boxes are suppressed.", 0.0, 1.0
    ),
    "soft_nms_sigma": flags.DEFINE_float(
        "soft_nms_sigma", None, "If above 0, use Soft-NMS instead.", 0.0
    ),
    "max_detections": flags.DEFINE_integer(
        "max_detections", None, "Maximum number of detections per image.", 1
    ),
}


def main(argv):
    """Run the command line."""
    return command_line.exit_code("export_saved_model", argv, _export)


def _export():
    model_dir, stage = os.path.normpath(_MODEL_DIR.value), _STAGE.value
    folder = RunFolder(model_dir).stage(stage)
    model, path = load_model(folder), folder.model
    if _AVERAGE.value:
        path = folder.average
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"Expected {path}. Train with EMA_DECAY to create it"
            )
        model = keras.saving.load_model(path)
    suppression = {
        name: flag.value
        for name, flag in _SUPPRESSION.items()
        if flag.value is not None
    }
    for name, value in suppression.items():
        if not hasattr(model, name):
            raise ValueError(
                f"Expected {name} for a detector only. Received: {name}={value} for a "
                f"{type(model).__name__}"
            )
        setattr(model, name, value)
    class_names, _ = teachers.read_classes(RunFolder(model_dir).class_names)
    with open(RunFolder(model_dir).operative_gin) as file:
        config = file.read()
    origin = {
        "model": os.path.abspath(path),
        "sha256": hashes.sha256(path),
        "boxes": _BOXES.value,
        "max_pixels": _MAX_PIXELS.value,
        **suppression,
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
    }
    name = _NAME.value or os.path.basename(os.path.abspath(model_dir))
    if name in ("models.config", "batching_parameters.txt"):
        raise ValueError(f"Expected another name, {name} is the server's file")
    written = saved_models.export(
        model,
        _EXPORT_DIR.value,
        name,
        class_names,
        _VERSION.value,
        {"operative.gin": config, "export.json": json.dumps(origin, indent=2)},
        _warmup(model.image_size),
        normalized=_BOXES.value == "normalized",
        max_pixels=_MAX_PIXELS.value,
    )
    batching = os.path.join(_EXPORT_DIR.value, "batching_parameters.txt")
    if not os.path.exists(batching):
        template = os.path.join(os.path.dirname(__file__), "batching_parameters.txt")
        shutil.copyfile(template, batching)
    saved_models.add_to_server(_EXPORT_DIR.value, name)
    print(f"export: {written}")


def _warmup(image_size):
    if _WARMUP_IMAGE.value:
        with open(_WARMUP_IMAGE.value, "rb") as file:
            return file.read()
    gray = tf.fill((*image_size, 3), tf.constant(128, tf.uint8))
    return tf.io.encode_jpeg(gray).numpy()


if __name__ == "__main__":
    app.run(main)
