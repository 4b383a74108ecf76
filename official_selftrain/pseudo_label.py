"""Label images with any teacher.

    python -m official_selftrain.pseudo_label \\
        --teacher=runs/quickstart --images=photos --output_dir=labels

The teacher is a model_dir or .keras file of this package, a .keras file or SavedModel
folder whose outputs have the names of a known convention, a model on a TF Serving
server (`http://host:port/v1/models/NAME`, `grpc://host:port/NAME`), a JSON file of COCO
results, or a function of your own (`python:my_module:my_teacher`).
Run the same command again to continue after an interruption. Exit codes: 0 done, 1 a
mistake in the call or the data, 3 too many images without a label, 130 interrupted
(Ctrl-C), 143 stopped by SIGTERM.
"""

import sys

from absl import app, flags

from official_selftrain.cli import command_line, quiet
from official_selftrain.files.run_folder import LabelFolder

flags.adopt_module_key_flags(command_line)

_FLAGS = flags.FLAGS

_REQUIRED = {
    "teacher": "A model_dir or .keras file, a SavedModel folder, a TF Serving URL "
    "(http://… or grpc://…), a COCO results .json, or a function of images, "
    "python:my_module:my_teacher.",
    "images": "A folder or glob of images, a COCO .json, .tfrecord files, or "
    "tfds:NAME:SPLIT.",
    "output_dir": "The folder to write the labels to.",
}
_OPTIONAL = {
    "image_dir": "The folder of a COCO file's images; by default the file's own.",
    "data_dir": "The data folder of TFDS.",
    "labels": "The teacher's classes: a text file with one name per line, the first of "
    "id 1 (??? marks an unused id), or a COCO .json with categories.",
    "classes": "The student's classes, a file like --labels or comma-separated names; "
    "the teacher's are matched by name.",
    "coco_json": "Also write the boxes to this COCO file.",
    "signature": "Signature of a SavedModel or server; serving_default by default.",
}
_NUMBERS = {
    "batch_size": (16, "Images per batch."),
    "shard_size": (500, "Images per shard."),
    "max_boxes": (
        None,
        "Maximum number of boxes per image, highest scores first; by default all.",
    ),
    "num_workers": (1, "Processes on this machine, one GPU each if available."),
    "worker_count": (1, "Number of machines that share the work."),
}
_FRACTIONS = {
    "score_floor": (0.05, "Boxes below it aren't stored."),
    "score_threshold": (0.5, "Minimum score of a label in the summary."),
    "max_empty_share": (
        0.95,
        "Exit with 3 if a larger fraction of the images is unlabeled.",
    ),
}
for _name, _help in _REQUIRED.items():
    flags.DEFINE_string(_name, None, _help, required=True)
for _name, _help in _OPTIONAL.items():
    flags.DEFINE_string(_name, None, _help)
for _name, (_default, _help) in _NUMBERS.items():
    flags.DEFINE_integer(_name, _default, _help, lower_bound=1)
for _name, (_default, _help) in _FRACTIONS.items():
    flags.DEFINE_float(_name, _default, _help, lower_bound=0.0, upper_bound=1.0)
flags.DEFINE_integer("worker_index", 0, "Index of this machine.", lower_bound=0)
flags.DEFINE_integer(
    "first_class_id",
    None,
    "The id of the first line of --labels; by default 1, or 0 for outputs named as "
    "those of KerasCV, KerasHub and Ultralytics.",
)
flags.DEFINE_enum(
    "box_units",
    "auto",
    ["auto", "pixels", "normalized"],
    "Units of a SavedModel's boxes.",
)
flags.DEFINE_enum(
    "box_format",
    "auto",
    [
        *("auto", "yxyx", "xyxy", "xywh", "center_xywh"),
        *("rel_yxyx", "rel_xyxy", "rel_xywh"),
    ],
    "Order and units of a SavedModel's, function's or results file's boxes, named as "
    "KerasCV's bounding_box_format: pixels, or with rel_ fractions of the image. auto: "
    "as the names of the outputs tell, xywh in a results file; needed for boxes with "
    "confidence, or with scores and classes.",
)
flags.DEFINE_enum(
    "score_scale",
    "1",
    ["1", "100"],
    "The score of a sure box in a results file: 1, or 100 for percent.",
)
flags.DEFINE_enum(
    "pixel_scale",
    "0..255",
    ["0..255", "0..1", "-1..1"],
    "Values of the pixels that a SavedModel, server or foreign .keras model gets.",
)
flags.DEFINE_enum("channels", "rgb", ["rgb", "bgr"], "Their order of channels.")
flags.DEFINE_list(
    "pixel_range",
    None,
    "LOW,HIGH: the values of images of more than 8 bits that become 0 and 255; by "
    "default they are divided by 256.",
)
flags.DEFINE_bool("drop_others", False, "Drop labels of other classes.")
flags.DEFINE_bool("embed_images", False, "Store the images in the shards.")
flags.DEFINE_list("scales", ["1.0"], "Scales that a Keras segmenter averages over.")
flags.DEFINE_bool("flip", False, "Also average over mirrored images.")
flags.DEFINE_bool(
    "report", False, "Write report.html, with a comparison to ground truth if any."
)
flags.DEFINE_bool(
    "beam", False, "Run on Apache Beam; its flags follow --, such as -- --runner=…"
)


def main(argv):
    """Run the command line."""
    beam_flags = argv[1:] if _FLAGS.beam else []
    return command_line.exit_code(
        "pseudo_label",
        argv[: len(argv) - len(beam_flags)],
        lambda: _label(beam_flags) or _judge(),
    )


def _label(beam_flags):
    command_line.check_paths(
        teacher=_FLAGS.teacher,
        images=_FLAGS.images,
        image_dir=_FLAGS.image_dir,
        labels=_FLAGS.labels,
    )
    quiet.import_tensorflow()
    from official_selftrain.labeling import workers

    if _FLAGS.beam:
        workers.label_with_beam(_job(), beam_flags)
    elif _FLAGS.num_workers > 1:
        workers.label_in_processes(_job(), _FLAGS.num_workers)
    else:
        workers.label(_job())


def _job():
    """Return the `workers.Job` that the flags state."""
    from official_selftrain.labeling import label_store, opening, workers

    return workers.Job(
        opening.TeacherSettings(
            _FLAGS.teacher,
            labels=_FLAGS.labels,
            first_class_id=_FLAGS.first_class_id,
            signature=_FLAGS.signature or "serving_default",
            box_units=_FLAGS.box_units,
            scales=tuple(float(scale) for scale in _FLAGS.scales),
            flip=_FLAGS.flip,
            classes=_FLAGS.classes,
            drop_others=_FLAGS.drop_others,
            box_format=_FLAGS.box_format,
            score_scale=int(_FLAGS.score_scale),
            pixel_scale=_FLAGS.pixel_scale,
            channels=_FLAGS.channels,
        ),
        _pool(),
        _FLAGS.output_dir,
        label_store.Storage(
            _FLAGS.shard_size, _FLAGS.score_floor, _FLAGS.max_boxes, _FLAGS.embed_images
        ),
        _FLAGS.batch_size,
        label_store.Worker(_FLAGS.worker_index, _FLAGS.worker_count),
    )


def _pool():
    """Return the arguments of `pools.open_pool`."""
    pixel_range = command_line.pixel_range(_FLAGS.pixel_range)
    return _FLAGS.images, _FLAGS.image_dir, _FLAGS.data_dir, pixel_range


def _judge():
    """Summarize the labels; reject mostly empty ones."""
    from official_selftrain.labeling import (
        coco_export,
        judging,
        label_quality,
        probing,
    )

    if not LabelFolder(_FLAGS.output_dir).is_finished:
        print("labels: this worker's shards are done, others are missing")
        return 0
    quality = judging.describe(_FLAGS.output_dir, _FLAGS.score_threshold)
    if _FLAGS.coco_json:
        coco_export.write(_FLAGS.output_dir, _FLAGS.coco_json)
    if _FLAGS.report:
        judging.report(_FLAGS.output_dir, _pool())
    try:
        label_quality.require_labels(quality, _FLAGS.max_empty_share)
    except ValueError as error:
        print(f"pseudo_label: {error}", file=sys.stderr)
        advice = probing.advice(_job(), _FLAGS.score_threshold)
        if advice:
            print(f"pseudo_label: {advice}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    app.run(main)
