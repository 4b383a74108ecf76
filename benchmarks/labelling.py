"""Measure the overhead of labeling over a teacher's forward pass.

python benchmarks/labelling.py

Labels images and writes them as TFRecord: the quickstart's scenes with its detector,
and photographs of 500 x 375 (JPEG) with a ResNet-50 RetinaNet at 640 x 640 and a
ResNet-18 segmenter of 21 classes at 256 x 256, at one and at six scales. For comparison
the same network, with NMS for boxes, runs alone on decoded images in memory. All are
timed in turn, in the same process. The last line of the output is JSON; `--record`
appends it to benchmarks/results/. `--quick` uses fewer images.
"""

import io
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gin
import keras
import numpy as np
import record
import tensorflow as tf
from PIL import Image
from sklearn import datasets

from official_selftrain import RetinaNet, SemanticSegmenter, backbones
from official_selftrain.data import examples
from official_selftrain.data.sources import digits
from official_selftrain.inference import prediction
from official_selftrain.labeling import label_store, teachers

ROOT = pathlib.Path(__file__).resolve().parent.parent
FRAME, SCENE, BATCH = (256, 256), (48, 48), 8
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def main():
    """Time labeling and print a JSON line."""
    arguments = record.parser(__doc__).parse_args()
    count, rounds = (16, 2) if arguments.quick else (32, 3)
    scenes = digits.scenes("unlabeled", 16 * count, 0, SCENE)
    gin.add_config_file_search_path(str(ROOT / "gin"))
    gin.parse_config_file("quickstart.gin")
    small = gin.get_bindings("experiment.Experiment")["model"](
        num_classes=len(scenes.class_names), image_size=SCENE
    )
    detector = RetinaNet(80, (640, 640), backbones.resnet(50))
    segmenter = SemanticSegmenter(21, FRAME, backbones.resnet(18))
    source = photographs(count)
    jobs = {
        "bare_quickstart": bare(small, 16 * count),
        "quickstart": labeling(small, scenes, len(scenes.class_names)),
        "bare_detector": bare(detector, count),
        "boxes": labeling(detector, source, 80),
        "bare_segmenter": bare(segmenter, count),
        "masks": labeling(segmenter, source, 21),
        "masks_six_scales": labeling(segmenter, source, 21, scales=SCALES),
    }
    counts = {name: 16 * count if "quick" in name else count for name in jobs}
    seconds = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            start = time.monotonic()
            job()
            if turn:  # the first one traces
                seconds[name].append(time.monotonic() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    record.finish(
        "labelling",
        {
            # Images/s, end to end over bare.
            "quickstart_rate": median["bare_quickstart"] / median["quickstart"],
            "resnet50_rate": median["bare_detector"] / median["boxes"],
            "masks_over_bare": median["masks"] / median["bare_segmenter"],
            "six_scales_over_bare": (
                median["masks_six_scales"] / median["bare_segmenter"]
            ),
            "six_scales_over_one": median["masks_six_scales"] / median["masks"],
            # The cost of a network is proportional to the padded area of its frame.
            "six_scales_area": sum(
                np.prod([-(-round(s * side) // 128) * 128 for side in FRAME])
                for s in SCALES
            )
            / np.prod(FRAME),
        },
        {
            f"{name}_images_per_second": counts[name] / value
            for name, value in median.items()
        },
        {"keras": keras.__version__, "tensorflow": tf.__version__},
        arguments.record,
    )


def photographs(count):
    """Return a source of crops of scikit-learn's photographs, as JPEG."""
    rng = np.random.default_rng(0)
    originals = datasets.load_sample_images().images
    records = []
    for index in range(count):
        photograph = originals[index % len(originals)]
        top, left = rng.integers(0, photograph.shape[0] - 375), rng.integers(0, 140)
        crop = photograph[top : top + 375, left : left + 500]
        jpeg = io.BytesIO()
        Image.fromarray(crop).save(jpeg, "JPEG", quality=90)
        records.append({"encoded": jpeg.getvalue(), "id": index})
    return examples.from_records(records, has_labels=False)


def bare(model, count):
    """Return a job that runs the network alone on `count` images, NMS included."""
    batch = tf.random.uniform((BATCH, *model.image_size, 3), 0.0, 255.0)
    sizes = np.tile(np.int32([model.image_size]), (BATCH, 1))
    predict = prediction.predictor(model)

    def job():
        for _ in range(count // BATCH):
            for value in predict(batch, sizes).values():
                value.numpy()

    return job


def labeling(model, source, num_classes, **settings):
    """Return a job that labels a source and writes its shards."""
    names = [str(label) for label in range(num_classes)]
    teacher = teachers.keras_teacher(model, names, **settings)

    def job():
        with tempfile.TemporaryDirectory() as folder:
            label_store.write(
                teacher, source, folder, batch_size=BATCH, on_images=lambda count: None
            )

    return job


if __name__ == "__main__":
    main()
