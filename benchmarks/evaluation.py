"""Measure COCO AP over a stream of batches against pycocotools on files.

python benchmarks/evaluation.py

Uses 5,000 random images of 80 classes, as many as in COCO's validation set, with 7 true
boxes and 100 detections each. `CocoMetric` takes them batch by batch; pycocotools reads
the same data from JSON files, as in typical use. The last line of the
output is JSON; `--record` appends it to benchmarks/results/. `--quick` uses 500.
"""

import contextlib
import importlib.metadata
import io
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import record
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from official_selftrain import metrics

NUM_CLASSES, NUM_TRUE, NUM_FOUND, BATCH_SIZE, SIDE = 80, 7, 100, 50, 640


def main():
    """Measure both and print a JSON line."""
    arguments = record.parser(__doc__).parse_args()
    count = 500 if arguments.quick else 5_000
    batches = [made_up(start) for start in range(0, count, BATCH_SIZE)]
    seconds = {}

    start = time.monotonic()
    metric = metrics.CocoMetric(NUM_CLASSES)
    for predictions, labels in batches:
        metric.update(predictions, labels)
    seconds["update"] = time.monotonic() - start
    ours = metric.result()["AP"]
    seconds["metric"] = time.monotonic() - start

    with tempfile.TemporaryDirectory() as folder:
        write_files(batches, folder)
        start = time.monotonic()
        theirs = read_and_evaluate(folder)
        seconds["pycocotools"] = time.monotonic() - start
    if abs(ours - theirs) > 1e-9:
        raise ValueError(f"Expected the same AP. Received: {ours}, {theirs}")
    record.finish(
        "evaluation",
        {
            "evaluation_over_pycocotools": seconds["metric"] / seconds["pycocotools"],
            "update_over_evaluation": seconds["update"] / seconds["metric"],
        },
        {"images": count, **{f"{k}, s": v for k, v in seconds.items()}},
        {"pycocotools": importlib.metadata.version("pycocotools")},
        arguments.record,
    )


def made_up(first_id):
    """Return a batch of detections, half of them near true boxes, and its labels."""
    rng = np.random.default_rng(first_id)
    corners = rng.uniform(0, SIDE / 2, (BATCH_SIZE, NUM_TRUE, 2))
    truth = np.concatenate(
        [corners, corners + rng.uniform(8, SIDE / 2, corners.shape)], axis=-1
    )
    classes = rng.integers(0, NUM_CLASSES, (BATCH_SIZE, NUM_TRUE))
    # Half of the detections are shifted true boxes, mostly with the correct class.
    source = rng.integers(0, NUM_TRUE, (BATCH_SIZE, NUM_FOUND))
    moved = np.take_along_axis(truth, source[..., None], axis=1)
    moved = moved + rng.normal(0, 8, moved.shape)
    moved[..., 2:] = np.maximum(moved[..., 2:], moved[..., :2] + 1)
    right = np.take_along_axis(classes, source, axis=1)
    other = rng.integers(0, NUM_CLASSES, right.shape)
    predictions = {
        "boxes": moved.astype(np.float32),
        "scores": rng.uniform(0.05, 1, right.shape).astype(np.float32),
        "classes": np.where(rng.uniform(size=right.shape) < 0.5, right, other),
    }
    labels = {
        "ids": np.arange(first_id, first_id + BATCH_SIZE),
        "boxes": truth.astype(np.float32),
        "classes": classes,
        "ignore": np.zeros(classes.shape, bool),
        "areas": np.zeros(classes.shape, np.float32),
    }
    return predictions, labels


def write_files(batches, folder):
    """Write labels as a COCO file and detections as a results file."""

    def bbox(box):
        ymin, xmin, ymax, xmax = box.astype(np.float64).tolist()
        return [xmin, ymin, xmax - xmin, ymax - ymin]

    images, truth, detections = [], [], []
    for predictions, labels in batches:
        for row, image_id in enumerate(labels["ids"].tolist()):
            images.append({"id": image_id})
            for box, label in zip(labels["boxes"][row], labels["classes"][row]):
                area = float(np.prod(bbox(box)[2:]))
                entry = {"image_id": image_id, "category_id": int(label)}
                entry |= {"bbox": bbox(box), "area": area, "iscrowd": 0}
                truth.append({"id": len(truth) + 1, **entry})
            columns = (predictions[key][row] for key in ("boxes", "classes", "scores"))
            for box, label, score in zip(*columns):
                entry = {"image_id": image_id, "category_id": int(label)}
                detections.append({**entry, "bbox": bbox(box), "score": float(score)})
    categories = [{"id": k, "name": str(k)} for k in range(NUM_CLASSES)]
    content = {"images": images, "annotations": truth, "categories": categories}
    pathlib.Path(folder, "truth.json").write_text(json.dumps(content))
    pathlib.Path(folder, "detections.json").write_text(json.dumps(detections))


def read_and_evaluate(folder):
    """Return the AP of the files, computed by pycocotools alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(os.path.join(folder, "truth.json"))
        detections = truth.loadRes(os.path.join(folder, "detections.json"))
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100.0 * evaluation.stats[0]


if __name__ == "__main__":
    main()
