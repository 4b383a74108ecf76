"""Measure what labelling adds to a teacher's forward pass.

python benchmarks/labelling.py

Photographs of 500 x 375, embedded as JPEG, are labelled and written as TFRecord: boxes
by a ResNet-18 RetinaNet, masks by a ResNet-18 segmenter of 21 classes at one and at six
scales. Beside it the same network is timed alone on a batch that lies in memory. Each
is timed in turn, in the same process. The last line of the output is JSON; `--record`
appends it to benchmarks/results/. `--quick` takes fewer images.
"""

import argparse
import io
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn import datasets

from official_selftrain import RetinaNet, SemanticSegmenter, backbones, pseudo_labels
from official_selftrain.data import examples

ROOT = pathlib.Path(__file__).resolve().parent.parent
FRAME, BATCH = (256, 256), 8
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def main():
    """Time labelling and print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    count, rounds = (16, 2) if arguments.quick else (64, 5)
    detector = RetinaNet(80, FRAME, backbones.resnet(18))
    segmenter = SemanticSegmenter(21, FRAME, backbones.resnet(18))
    source = photographs(count)
    batch = tf.random.uniform((BATCH, *FRAME, 3), 0.0, 255.0)
    jobs = {
        "bare_detector": bare(detector, batch, count),
        "boxes": labelling(detector, source),
        "bare_segmenter": bare(segmenter, batch, count),
        "masks": labelling(segmenter, source),
        "masks_six_scales": labelling(segmenter, source, scales=SCALES),
    }
    seconds = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            start = time.monotonic()
            job()
            if turn:  # the first one traces
                seconds[name].append(time.monotonic() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    line = {
        "benchmark": "labelling",
        "ratios": {
            "boxes_over_bare": median["boxes"] / median["bare_detector"],
            "masks_over_bare": median["masks"] / median["bare_segmenter"],
            "six_scales_over_bare": (
                median["masks_six_scales"] / median["bare_segmenter"]
            ),
            "six_scales_over_one": median["masks_six_scales"] / median["masks"],
            # A network's work grows with the padded area of its frame.
            "six_scales_area": sum(
                np.prod([-(-round(s * side) // 128) * 128 for side in FRAME])
                for s in SCALES
            )
            / np.prod(FRAME),
        },
        "figures": {
            f"{name}_images_per_second": count / value for name, value in median.items()
        },
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        "device": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    print(json.dumps(line))
    if arguments.record:
        with open(ROOT / "benchmarks" / "results" / "labelling.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")


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


def bare(model, batch, count):
    """Return a job: the network alone on as many images."""
    forward = tf.function(lambda images: model(images, training=False))

    def job():
        for _ in range(count // BATCH):
            forward(batch)

    return job


def labelling(model, source, **settings):
    """Return a job: label a source and write its shard."""
    label = pseudo_labels.labeler(model, **settings)

    def job():
        with tempfile.TemporaryDirectory() as folder:
            with tf.io.TFRecordWriter(os.path.join(folder, "shard")) as writer:
                for serialized in pseudo_labels.labeled_records(
                    label, source, BATCH, model.image_size
                ):
                    writer.write(serialized)

    return job


if __name__ == "__main__":
    main()
