"""Shared by all benchmarks: flags and the JSON line at the end of the output."""

import argparse
import json
import os
import pathlib
import platform

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


def parser(description):
    """Return a parser with `--quick` and `--record`.

    Args:
        description: str, a script's docstring, whose first line is shown.
    """
    result = argparse.ArgumentParser(description=description.split("\n")[0])
    result.add_argument("--quick", action="store_true")
    result.add_argument("--record", action="store_true")
    return result


def finish(benchmark, ratios, figures, versions, is_recorded):
    """Print a benchmark's JSON line; optionally append it to the results.

    Args:
        benchmark: str, name of the benchmark and of its results file.
        ratios: dict of name to a ratio of two measurements taken in turn.
        figures: dict of name to any other measurement.
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
