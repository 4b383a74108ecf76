"""Measure the benefit of pseudo-labels in the quickstart, over several seeds.

python benchmarks/quickstart_seeds.py --seeds=0,1,2,3,4 --output_dir=runs/seeds

Every seed is a run of gin/quickstart.gin, or of another --gin_file, in its own process,
with different digits, scenes, weights and orders; finished runs are kept. The last line
of the output is JSON; `--record` appends it to benchmarks/results/. `--quick` uses one
seed and a tenth of the steps.
"""

import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import record

from official_selftrain.files import atomic
from official_selftrain.files.run_folder import RunFolder

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = ("teacher", "control", "student")
QUALITY = ("precision", "recall", "ignored", "mIoU", "accuracy")


def main():
    """Run the seeds and print a table and a JSON line."""
    parser = record.parser(__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--gin_file", default=str(ROOT / "gin" / "quickstart.gin"))
    parser.add_argument("--output_dir", default="runs/quickstart_seeds")
    parser.add_argument("--gin_param", action="append", default=[])
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    params = list(arguments.gin_param)
    if arguments.quick:
        seeds = seeds[:1]
        params += [
            "TEACHER_STEPS = 300",
            "STUDENT_STEPS = 120",
            "SCORE_THRESHOLD = 0.2",
        ]
    gin_file = arguments.gin_file
    rows = [run(seed, gin_file, arguments.output_dir, params) for seed in seeds]
    for row in rows:
        worth = ", ".join(
            f"{k} {row[k]:.2f}" for k in QUALITY if row.get(k) is not None
        )
        print(
            "seed {seed}: teacher {teacher:.2f}, control {control:.2f}, student "
            "{student:.2f} {metric}; pseudo-labels: {worth}; {seconds:.0f} s, "
            "{peak_memory_gb:.2f} GB".format(worth=worth, **row)
        )
    record.finish(
        "quickstart_seeds",
        {
            "student_over_control": statistics.mean(
                row["student"] / row["control"] for row in rows
            )
        },
        {
            "seeds": [{k: v for k, v in r.items() if k != "versions"} for r in rows],
            "gin_file": pathlib.Path(gin_file).name,
            "gin_params": params,
            **{
                f"student_minus_{x}": gains_over(rows, x)
                for x in ("teacher", "control")
            },
        },
        rows[0]["versions"],
        arguments.record,
    )


def run(seed, gin_file, output_dir, params):
    """Run one seed and return its results."""
    model_dir = pathlib.Path(output_dir) / f"seed_{seed}"
    command = [
        sys.executable,
        "-m",
        "official_selftrain.train",
        f"--gin_file={gin_file}",
        f"--model_dir={model_dir}",
        f"--gin_param=SEED = {seed}",
        *(f"--gin_param={param}" for param in params),
    ]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start = time.monotonic()
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    seconds = time.monotonic() - start
    # Of all children so far, in kilobytes (bytes on macOS).
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1e9 if sys.platform == "darwin" else 1e6
    results = atomic.read_json(RunFolder(model_dir).results)
    metric = "AP" if "AP" in results["student"] else "mIoU"
    return {
        "seed": seed,
        **{stage: results[stage][metric] for stage in STAGES},
        "metric": metric,
        **{key: results["pseudo_labels"].get(key) for key in QUALITY},
        "alpha": results["config"]["alpha"],
        "seconds": seconds,
        "peak_memory_gb": peak / unit,
        "versions": results["config"]["versions"],
    }


def gains_over(rows, other):
    """Return the student's gain over another stage, with its standard error."""
    gains = [row["student"] - row[other] for row in rows]
    return {
        "mean": statistics.mean(gains),
        "standard_error": (
            statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
        ),
        "positive": sum(gain > 0.0 for gain in gains),
        "of": len(gains),
    }


if __name__ == "__main__":
    main()
