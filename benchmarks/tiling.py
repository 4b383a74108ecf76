"""Measure what cutting large photographs into tiles does for small objects.

python benchmarks/tiling.py --data=trees --output_dir=runs/tiling

`--data` is a folder with `labeled`, `unlabeled` and `validation`, each images of one
size with a COCO file of that name beside them. Large photographs are put together from
their images, `init` proposes an experiment for them, with and without `--tile`, and
both are run with the same number of steps. AP is on the large validation photographs,
in their own pixels. The last line of the output is JSON; `--record` appends it to
benchmarks/results/. `--quick` runs a tenth of the steps.
"""

import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import sys

import record
from PIL import Image

from official_selftrain.files import atomic
from official_selftrain.files.run_folder import RunFolder

# Photographs of a row and a column of images.
GRIDS = {"labeled": (3, 4), "unlabeled": (6, 6), "validation": (4, 5)}


def main():
    """Run both experiments, and print a JSON line."""
    parser = record.parser(__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", default="runs/tiling")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--stages", default="teacher,evaluation")
    arguments = parser.parse_args()
    steps = arguments.steps // 10 if arguments.quick else arguments.steps
    output = pathlib.Path(arguments.output_dir).absolute()
    sizes = {part: put_together(arguments.data, part, output) for part in GRIDS}
    title = os.path.basename(os.path.normpath(arguments.data))
    figures = {"data": title, "photographs": sizes, "steps": steps}
    for name, flags in (("whole", []), ("tiles", ["--tile"])):
        figures[name] = measured(output, name, flags, steps, arguments.stages)
        print(name, figures[name])
    ratios = {
        f"{stage}_tiles_over_whole": figures["tiles"][stage] / ap
        for stage, ap in figures["whole"].items()
        if ap
    }
    versions = {"keras": importlib.metadata.version("keras")}
    record.finish("tiling", ratios, figures, versions, arguments.record)


def put_together(data, part, output):
    """Write a large photograph and its boxes; return its width and height.

    The images are placed in the order of their names, row by row.
    """
    content = json.loads((pathlib.Path(data) / f"{part}.json").read_text())
    rows, columns = GRIDS[part]
    entries = sorted(content["images"], key=lambda entry: entry["file_name"])
    entries = entries[: rows * columns]
    height, width = entries[0]["height"], entries[0]["width"]
    photograph = Image.new("RGB", (columns * width, rows * height))
    places = {}
    for index, entry in enumerate(entries):
        left, top = index % columns * width, index // columns * height
        places[entry["id"]] = left, top
        image = Image.open(pathlib.Path(data) / part / entry["file_name"])
        photograph.paste(image, (left, top))
    (output / part).mkdir(parents=True, exist_ok=True)
    photograph.save(output / part / "photograph.png")
    annotations = []
    for annotation in content["annotations"]:
        if annotation["image_id"] in places:
            left, top = places[annotation["image_id"]]
            x, y, *sides = annotation["bbox"]
            bbox = [x + left, y + top, *sides]
            annotations.append({**annotation, "image_id": 1, "bbox": bbox})
    size = {"height": rows * height, "width": columns * width}
    whole = {
        "images": [{"id": 1, "file_name": "photograph.png", **size}],
        "annotations": annotations,
        "categories": content["categories"],
    }
    atomic.write_json(str(output / f"{part}.json"), whole)
    return [size["width"], size["height"]]


def measured(output, name, flags, steps, stages):
    """Return the AP of each stage of an experiment that `init` proposes."""
    gin_file, model_dir = output / f"{name}.gin", output / name
    if not gin_file.exists():
        init = [
            *("--images=labeled", "--annotations=labeled.json"),
            "--validation_images=validation",
            "--validation_annotations=validation.json",
            *("--unlabeled=unlabeled", f"--output={gin_file.name}", *flags),
        ]
        call(output, "init", init)
    warmup = math.ceil(steps / 10)
    params = [
        *(f"TEACHER_STEPS = {steps}", f"STUDENT_STEPS = {steps}"),
        *(f"TEACHER_WARMUP_STEPS = {warmup}", f"STUDENT_WARMUP_STEPS = {warmup}"),
        f"training.Monitoring.log_every = {warmup}",
    ]
    train = [f"--gin_file={gin_file.name}", f"--model_dir={model_dir}"]
    train += [f"--stages={stages}", *(f"--gin_param={param}" for param in params)]
    call(output, "train", train)
    results = atomic.read_json(RunFolder(str(model_dir)).results)
    stages = ("teacher", "student", "control")
    return {stage: results[stage]["AP"] for stage in stages if stage in results}


def call(output, command, flags):
    """Run a command in the output folder."""
    module = f"official_selftrain.{command}"
    subprocess.run([sys.executable, "-m", module, *flags], cwd=output, check=True)


if __name__ == "__main__":
    main()
