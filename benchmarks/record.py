"""What the benchmarks share: their flags, and the JSON line that ends their output."""

import argparse
import json
import os
import pathlib
import platform

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


def parser(description):
    """Return a parser of `--quick` and `--record`.

    Args:
        description: str, a script's docstring, whose first line is shown.
    """
    made = argparse.ArgumentParser(description=description.split("\n")[0])
    made.add_argument("--quick", action="store_true")
    made.add_argument("--record", action="store_true")
    return made


def finish(benchmark, ratios, figures, versions, is_recorded):
    """Print a benchmark's JSON line; append it to its results if that is wanted.

    Args:
        benchmark: str, its name and its results'.
        ratios: dict of name to a ratio of two things timed in turn.
        figures: dict of name to whatever else was measured.
        versions: dict of package to version.
        is_recorded: bool.
    """
    line = json.dumps(
        {
            "benchmark": benchmark,
            "ratios": ratios,
            "figures": figures,
            "versions": versions,
            "device": f"{os.cpu_count()} cores, {platform.machine()}",
        }
    )
    print(line)
    if is_recorded:
        with open(RESULTS / f"{benchmark}.jsonl", "a") as file:
            file.write(line + "\n")
