"""Take two steps of every row of the paper; measure time and memory.

python benchmarks/smoke.py

Runs `tests/test_smoke.py` in two processes. The last line of the output is JSON: the
number of rows, seconds, and the peak memory of all processes together, where what they
share counts once; `--record` appends it to benchmarks/results/. `--quick` takes the
rows of Table 5 only.
"""

import contextlib
import pathlib
import re
import subprocess
import sys
import time

import keras
import psutil
import record
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS_BETWEEN = 2.0


def main():
    """Run the tests, print a JSON line, and end with the tests' exit code."""
    arguments = record.parser(__doc__).parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"]
    command += ["-m", "", "--durations=10", "tests/test_smoke.py"]
    if arguments.quick:
        command += ["-k", "spinenet"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    peak = 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=SECONDS_BETWEEN)
            break
        peak = max(peak, memory(process.pid))
    seconds = time.perf_counter() - start
    print(output, end="")
    passed = re.search(r"(\d+) passed", output)
    figures = {
        "rows": int(passed[1]) if passed else 0,
        "seconds": round(seconds),
        "peak_bytes": peak,
    }
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
    is_recorded = arguments.record and process.returncode == 0
    record.finish("smoke", {}, figures, versions, is_recorded)
    sys.exit(process.returncode)


def memory(pid):
    """Return the memory of a process and all that it has started, in bytes."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            if psutil.LINUX:
                total += process.memory_full_info().pss
            else:
                total += process.memory_info().rss
    return total


if __name__ == "__main__":
    main()
