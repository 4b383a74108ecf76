"""Measure what the checks of images and labels cost, relative to reading the images.

python benchmarks/label_checks.py --output_dir=runs/label_checks

Photographs of 640 x 480 are written once, then read and checked in turn in one process:

- `ledger`: the time for the ledger of a COCO file, over that of reading the file.
- `looks`: decoding every image and taking its thumbnail, over decoding it.
- `matches`: comparing all thumbnails with as many others, over decoding the images.
- `plan`: comparing three sources before training, over decoding all of their images.

The last line of the output is JSON; `--record` appends it to benchmarks/results/.
`--quick` uses 500 images instead of 10,000.
"""

import concurrent.futures
import importlib.metadata
import json
import os
import resource
import time

import numpy as np
import record
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from official_selftrain.data import copies, examples, images, sources
from official_selftrain.data.sources import coco_files

SIZE = (480, 640)
BOXES = 10


def main():
    """Measure, and print a JSON line."""
    parser = record.parser(__doc__)
    parser.add_argument("--output_dir", default="runs/label_checks")
    arguments = parser.parse_args()
    count = 500 if arguments.quick else 10_000
    folder = os.path.join(arguments.output_dir, str(count))
    paths = written(folder, count)
    before = peak()
    decoded, seconds_decoded = timed(lambda: of_all(paths, lambda pixels: None))
    looks, seconds_looks = timed(lambda: of_all(paths, copies.thumbnail))
    looks = copies.Looks(paths, np.stack(looks), paths)
    backwards = looks.part(range(count)[::-1])
    found, seconds_matches = timed(lambda: copies.matches(looks, backwards))
    assert len(decoded) == count and (found >= 0).all()
    memory = peak() - before
    ratios = {
        "ledger": ledger_cost(folder, paths),
        "looks": seconds_looks / seconds_decoded,
        "matches": seconds_matches / seconds_decoded,
        "plan": plan_cost(paths) / seconds_decoded,
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    figures = {
        "images": count,
        "seconds_decoded": seconds_decoded,
        "memory_of_looks_and_matches_mb": memory,
    }
    versions = {"pillow": importlib.metadata.version("pillow")}
    record.finish("label_checks", ratios, figures, versions, arguments.record)


def timed(function):
    """Return a function's result, and its seconds."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def peak():
    """Return the process's peak memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def written(folder, count):
    """Write different photographs, unless they are there; return their paths."""
    paths = [os.path.join(folder, f"{k:05d}.jpg") for k in range(count)]
    if os.path.exists(os.path.join(folder, "finished")):
        return paths
    os.makedirs(folder, exist_ok=True)
    whole = load_sample_images().images
    rng = np.random.default_rng(0)
    for index, path in enumerate(paths):
        photograph = Image.fromarray(whole[index % 2])
        width, height = rng.integers(160, 400), rng.integers(120, 300)
        left, top = rng.integers(0, 640 - width), rng.integers(0, 427 - height)
        part = photograph.crop((left, top, left + width, top + height))
        part.resize(SIZE[::-1]).save(path, quality=90)
    open(os.path.join(folder, "finished"), "w").close()
    return paths


def of_all(paths, function):
    """Decode all images, as `init` does, and apply a function to each."""

    def one(path):
        return function(images.decode_file(tf.io.read_file(path)).numpy())

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, paths))


def ledger_cost(folder, paths):
    """Return the time for the ledger of a COCO file, over that of reading it."""
    path = os.path.join(folder, "boxes.json")
    entries = [
        {"id": k, "file_name": os.path.basename(p), "height": SIZE[0], "width": SIZE[1]}
        for k, p in enumerate(paths)
    ]
    sides = np.random.default_rng(0).integers(1, 200, (len(paths) * BOXES, 4)).tolist()
    annotations = [
        {
            "id": k,
            "image_id": k // BOXES,
            "category_id": 1,
            "bbox": box,
            "iscrowd": k % 7 == 0,
        }
        for k, box in enumerate(sides)
    ]
    content = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    with open(path, "w") as file:
        json.dump(content, file)
    sources.coco(path, folder)  # warm
    spent = []

    def clocked(function):
        def call(*arguments, **options):
            result, seconds = timed(lambda: function(*arguments, **options))
            spent.append(seconds)
            return result

        return call

    kept = coco_files.closed, coco_files._ledger
    coco_files.closed, coco_files._ledger = map(clocked, kept)
    try:
        _, seconds = timed(lambda: sources.coco(path, folder))
    finally:
        coco_files.closed, coco_files._ledger = kept
    return sum(spent) / (seconds - sum(spent))


def plan_cost(paths):
    """Return the seconds of comparing three sources, each of a third of the images."""
    third = len(paths) // 3
    used = {
        name: examples.from_paths(paths[k * third : (k + 1) * third], range(third))
        for k, name in enumerate(("labeled", "unlabeled", "validation"))
    }
    return timed(lambda: copies.overlaps(used))[1]


if __name__ == "__main__":
    main()
