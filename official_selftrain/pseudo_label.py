"""Label images with any teacher.

    python -m official_selftrain.pseudo_label \\
        --teacher=runs/quickstart --images=photos --output_dir=labels

The teacher is a model_dir or .keras file of this package, a SavedModel folder, a model
at a TF Serving server (`http://host:port/v1/models/NAME`, `grpc://host:port/NAME`) or a
JSON file of COCO results. Run the same command again to continue after an
interruption. Exit codes: 0 done, 1 a mistake in the call or the data, 3 too many
images without a label, 130 interrupted.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import sys

import keras
from absl import app, flags
from tqdm import tqdm

from official_selftrain.cli import command_line
from official_selftrain.data.sources import pools
from official_selftrain.files import hashes
from official_selftrain.labeling import (
    coco_export,
    label_quality,
    label_report,
    label_store,
    served,
    teachers,
)
from official_selftrain.serving import signatures

flags.adopt_module_key_flags(command_line)

_REQUIRED = {
    "teacher": "A model_dir or .keras file, a SavedModel folder, http://… or grpc://… "
    "of a TF Serving server, or a COCO results .json.",
    "images": "A folder or glob of images, a COCO .json, .tfrecord files, or "
    "tfds:NAME:SPLIT.",
    "output_dir": "Where the labels go.",
}
_OPTIONAL = {
    "image_dir": "The folder of a COCO file's images; by default the file's own.",
    "data_dir": "Where TFDS keeps its data.",
    "labels": "The teacher's classes: a text file, a name a line, whose first is id 1 "
    "(??? marks an id that isn't used), or a COCO .json with categories.",
    "classes": "The student's classes, in such a file or separated by commas; the "
    "teacher's are matched by name.",
    "coco_json": "Write the boxes as this COCO file too.",
    "signature": "Of a SavedModel or server; serving_default by default.",
}
_NUMBERS = {
    "batch_size": (16, "Images at a time."),
    "shard_size": (500, "Images per shard."),
    "max_boxes": (100, "Boxes an image keeps, those of highest score."),
    "num_workers": (1, "Processes on this machine; with GPUs, each takes one."),
    "worker_count": (1, "Machines that share the work."),
}
_SHARES = {
    "score_floor": (0.05, "Boxes below it aren't stored."),
    "score_threshold": (0.5, "What counts as a label in the figures."),
    "max_empty_share": (0.95, "Exit 3 if more images have no label."),
}
for _name, _help in _REQUIRED.items():
    flags.DEFINE_string(_name, None, _help, required=True)
for _name, _help in _OPTIONAL.items():
    flags.DEFINE_string(_name, None, _help)
for _name, (_default, _help) in _NUMBERS.items():
    flags.DEFINE_integer(_name, _default, _help, lower_bound=1)
for _name, (_default, _help) in _SHARES.items():
    flags.DEFINE_float(_name, _default, _help, lower_bound=0.0, upper_bound=1.0)
flags.DEFINE_integer("worker_index", 0, "Which machine this is.", lower_bound=0)
flags.DEFINE_integer("first_class_id", 1, "The id of the first line of --labels.")
flags.DEFINE_enum("box_units", "auto", served.BOX_UNITS, "Of a SavedModel's boxes.")
flags.DEFINE_bool("drop_others", False, "Leave labels of other classes away.")
flags.DEFINE_bool("embed_images", False, "Store the images in the shards.")
flags.DEFINE_list("scales", ["1.0"], "Scales that a Keras teacher of masks averages.")
flags.DEFINE_bool("flip", False, "Average over mirror images too.")
flags.DEFINE_bool(
    "report", False, "Write report.html: the labels against the images' own, if any."
)
flags.DEFINE_bool(
    "beam", False, "Run on Apache Beam; its flags follow --, such as -- --runner=…"
)
_NAMES = (
    *(*_REQUIRED, *_OPTIONAL, *_NUMBERS, *_SHARES),
    *("worker_index", "first_class_id", "box_units", "drop_others", "embed_images"),
    *("scales", "flip"),
)


def main(argv):
    """Run the command line."""
    settings = {name: flags.FLAGS[name].value for name in _NAMES}
    if flags.FLAGS.beam:
        command = functools.partial(_label_with_beam, settings, argv[1:])
        argv = argv[:1]
    else:
        command = functools.partial(_label, settings)
    return command_line.exit_code(
        "pseudo_label", argv, lambda: command() or _judge(settings)
    )


def open_teacher(settings):
    """Open the teacher that a command line asks for.

    Args:
        settings: dict of flags.

    Returns:
        `teachers.Teacher`, of the student's classes where they are given.

    Raises:
        FileNotFoundError: if there is no such teacher.
        ValueError: for one that doesn't fit.
    """
    path, labels = settings["teacher"], settings["labels"]
    first = settings["first_class_id"]
    signature = settings["signature"] or "serving_default"
    model_path = _model_path(path)
    if model_path:
        near = os.path.join(os.path.dirname(os.path.dirname(model_path)), "labels.txt")
        names, _ = _classes(labels or near, first)
        scales = tuple(float(scale) for scale in settings["scales"])
        origin = {
            "kind": "keras",
            "path": model_path,
            "sha256": hashes.sha256(model_path),
            "scales": scales,
            "flip": settings["flip"],
        }
        model = keras.saving.load_model(model_path)
        teacher = teachers.keras_teacher(model, names, origin, scales, settings["flip"])
    elif "://" in path:
        names, ids = _classes(labels, first)
        found, version = signatures.server(path, signature)
        origin = {"kind": "server", "url": path, "version": version}
        teacher = served.signature_teacher(
            found, names, ids, origin, settings["box_units"]
        )
    elif os.path.isfile(os.path.join(path, "saved_model.pb")):
        names, ids = _classes(labels or os.path.join(path, "assets/labels.txt"), first)
        origin = {"kind": "saved_model", "path": path, "sha256": hashes.sha256(path)}
        teacher = served.signature_teacher(
            signatures.saved_model(path, signature),
            names,
            ids,
            origin,
            settings["box_units"],
        )
    elif path.endswith(".json") and os.path.isfile(path):
        images = settings["images"]
        if not (images.endswith(".json") or ".tfrecord" in os.path.basename(images)):
            raise ValueError(
                "Expected images with the ids that the results name, a COCO .json or "
                f".tfrecord files. Received: images={images!r}"
            )
        near = images if images.endswith(".json") else path
        teacher = teachers.results_teacher(path, *_classes(labels or near, first))
    else:
        raise FileNotFoundError(
            "Expected a model_dir with teacher/model.keras, a .keras file, a "
            "SavedModel folder, http://…, grpc://… or a COCO results .json. "
            f"Received: teacher={path!r}"
        )
    if settings["classes"]:
        text = settings["classes"]
        wanted = _classes(text)[0] if os.path.isfile(text) else text.split(",")
        teacher = teachers.for_classes(teacher, wanted, settings["drop_others"])
    return teacher


def _model_path(path):
    for place in ("", "model.keras", os.path.join("teacher", "model.keras")):
        found = os.path.join(path, place) if place else path
        if found.endswith(".keras") and os.path.isfile(found):
            return found
    return None


def _classes(path, first=1):
    if path is None or not os.path.isfile(path):
        raise FileNotFoundError(
            "Expected the teacher's class names, --labels=FILE. "
            f"Received: labels={path!r}"
        )
    return teachers.read_classes(path, first)


def _label(settings, on_images=None):
    """Label this process' share, or start processes that do."""
    if settings["num_workers"] > 1 and on_images is None:
        return _label_in_processes(settings)
    source, described = pools.open_pool(
        settings["images"], settings["image_dir"], settings["data_dir"]
    )
    label_store.write(
        open_teacher(settings),
        source,
        settings["output_dir"],
        **{
            key: settings[key]
            for key in (
                *("batch_size", "shard_size", "score_floor", "max_boxes"),
                *("embed_images", "worker_index", "worker_count"),
            )
        },
        settings=described,
        on_images=on_images,
    )
    return 0


def _label_in_processes(settings):
    count = settings["num_workers"]
    source, _ = pools.open_pool(
        settings["images"], settings["image_dir"], settings["data_dir"]
    )
    shares = [
        {
            **settings,
            "worker_index": settings["worker_index"] * count + index,
            "worker_count": settings["worker_count"] * count,
        }
        for index in range(count)
    ]
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    total = source.num_images // settings["worker_count"]
    with concurrent.futures.ProcessPoolExecutor(
        count, context, _start, (done, context.Value("i", 0))
    ) as pool:
        futures = [pool.submit(_label_share, share, os.getpid()) for share in shares]
        with tqdm(total=total, desc="pseudo_labels", unit="image") as bar:
            while concurrent.futures.wait(futures, 0.5).not_done:
                bar.update(done.value - bar.n)
                failed = [f for f in futures if f.done() and f.exception()]
                if failed:
                    pool.shutdown(cancel_futures=True)
            bar.update(done.value - bar.n)
        for future in futures:
            future.result()
    return 0


def _start(done, order):
    """Prepare a process: a counter it shares, and its own GPU if there are any."""
    global _done
    _done = done
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        with order.get_lock():
            tf.config.set_visible_devices(gpus[order.value % len(gpus)], "GPU")
            order.value += 1


def _label_share(settings, parent):
    def on_images(count):
        with _done.get_lock():
            _done.value += count
        if os.getppid() != parent:  # nobody waits any more
            os._exit(1)

    return _label(settings, on_images)


def _label_with_beam(settings, beam_flags):
    """Run the shares of the work as elements of a Beam pipeline."""
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(
            "Expected Apache Beam: pip install official_selftrain[beam]. "
            f"Received: {error}"
        ) from error
    # Its workers may be other machines or processes: they need a common output_dir.
    shares = [
        {**settings, "worker_index": index} for index in range(settings["worker_count"])
    ]
    with apache_beam.Pipeline(options=PipelineOptions(list(beam_flags))) as pipeline:
        (
            pipeline
            | apache_beam.Create(shares)
            | apache_beam.Reshuffle()
            | apache_beam.Map(_label_quietly)
        )
    return 0


def _label_quietly(settings):
    return _label({**settings, "num_workers": 1}, lambda count: None)


def _judge(settings):
    """Say what the labels are worth; refuse those that are mostly empty."""
    output_dir = settings["output_dir"]
    if not os.path.exists(os.path.join(output_dir, "manifest.json")):
        print("labels: this share is done, others are missing")
        return 0
    manifest = label_store.read_manifest(output_dir)
    for line in manifest["skipped"][:20]:
        print(f"skipped {line}")
    stored = label_store.read(output_dir)
    quality = label_quality.measure(stored, settings["score_threshold"])
    print(
        f"labels: {manifest['labeled']} of {manifest['images']} images, "
        f"{len(manifest['skipped'])} skipped; {quality['empty_images']} without a "
        f"label of at least {settings['score_threshold']}; in {output_dir}"
    )
    if settings["coco_json"]:
        coco_export.write(output_dir, settings["coco_json"])
    if flags.FLAGS.report:
        truth, _ = pools.open_pool(
            settings["images"], settings["image_dir"], settings["data_dir"]
        )
        print(f"report: {label_report.write(output_dir, truth)}")
        with open(os.path.join(output_dir, "report.json")) as file:
            sweep = json.load(file)["sweep"]
        if sweep and sweep["classes"]["all"]["suggested"] is not None:
            best = sweep["classes"]["all"]
            score = best["suggested"]
            setting = f"--gin_param='SCORE_THRESHOLD = {score}'"
            if score < 0.2:  # the ignore_threshold of our own files
                lower = round(score / 2, 3)
                name = "experiment.Teaching.ignore_threshold"
                setting += f" --gin_param='{name} = {lower}'"
            print(f"threshold of the best F1, on {best['true']} labels: {setting}")
    try:
        label_quality.require_labels(quality, settings["max_empty_share"])
    except ValueError as error:
        print(f"pseudo_label: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    app.run(main)
