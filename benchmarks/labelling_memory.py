"""Measure the peak memory of labeling against the number of images.

python benchmarks/labelling_memory.py

Labels folders of 1,000 and 100,000 images (links to a few small files, each read and
decoded), each in its own process, with a teacher that returns ten constant boxes. The
last line of the output is JSON; `--record` appends it to benchmarks/results/. `--quick`
uses 1,000 and 10,000.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import record


def main():
    """Measure both and print a JSON line."""
    parser = record.parser(__doc__)
    parser.add_argument("--label", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.label:
        print(label(*arguments.label))
        return
    counts = (1_000, 10_000) if arguments.quick else (1_000, 100_000)
    peaks = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            images = os.path.join(folder, "images")
            make_images(images, count)
            command = [sys.executable, __file__, "--label", images, f"{folder}/labels"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            peaks[count] = int(output.stdout)
            print(f"{count} images: {peaks[count] / 2**20:.0f} MiB", file=sys.stderr)
    record.finish(
        "labelling_memory",
        {f"{counts[1]}_over_{counts[0]}": peaks[counts[1]] / peaks[counts[0]]},
        {f"{count}_peak_bytes": peak for count, peak in peaks.items()},
        {"python": platform.python_version()},
        arguments.record,
    )


def make_images(folder, count):
    """Write a few images and link to them under `count` names."""
    import numpy as np
    from PIL import Image

    os.makedirs(folder)
    rng = np.random.default_rng(0)
    for index in range(count):
        name = os.path.join(folder, f"{index:07d}.png")
        if index < 10:
            pixels = rng.integers(0, 255, (32, 48, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(name)
        else:
            os.link(os.path.join(folder, f"{index % 10:07d}.png"), name)


def label(images, output_dir):
    """Label a folder and return this process' peak memory in bytes."""
    import numpy as np

    from official_selftrain.data import sources
    from official_selftrain.labeling import label_store, teachers

    labels = {
        "boxes": np.tile(np.float32([1, 2, 20, 30]), (10, 1)),
        "scores": np.linspace(0.9, 0.1, 10, dtype=np.float32),
        "classes": np.zeros(10, np.int32),
    }
    teacher = teachers.Teacher(
        lambda *_: {},
        lambda items: [labels] * len(items),
        ("a",),
        False,
        {},
    )
    label_store.write(teacher, sources.folder(images), output_dir)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
