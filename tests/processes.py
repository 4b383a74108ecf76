"""Processes for tests of signals, exit codes and everything a command prints.

They are forked from a server that has imported TensorFlow, so that starting one takes
milliseconds instead of seconds. `tests/test_commands.py` tests what this skips: the
start of a command in a fresh Python.
"""

import atexit
import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import time

import forked_python

ROOT = pathlib.Path(__file__).parent.parent

# As `cli.quiet` sets it before a command imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    # Not `cli.gin_files`: its flags are required, but not known to all commands.
    [
        "gin",
        "official_selftrain.data.validation",
        "official_selftrain.experiment",
        "official_selftrain.experiment.studies",
        "official_selftrain.labeling.judging",
        "official_selftrain.labeling.workers",
        "official_selftrain.models.sizes",
        "official_selftrain.onboarding.new_experiment",
    ]
)


@functools.cache
def python():
    """Return the path of a Python whose processes are forked from the server, too."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return forked_python.install(folder.name, _SERVER)


@dataclasses.dataclass
class Done:
    """A process that has ended: its exit code, negative after a signal, and texts."""

    returncode: int
    stdout: str
    stderr: str


class Running:
    """A running process; `kill` and `finish` end it."""

    def __init__(self, target, arguments, cwd, env):
        self._files = [tempfile.NamedTemporaryFile() for _ in range(2)]
        names = [file.name for file in self._files]
        self._process = _SERVER.Process(
            target=_child,
            args=(names, str(cwd), env or {}, python(), target, arguments),
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def is_running(self):
        return self._process.is_alive()

    def send(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def kill_when(self, is_ready, seconds=300.0):
        """Kill the process as soon as `is_ready()`."""
        deadline = time.monotonic() + seconds
        while not is_ready() and self.is_running and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.is_running:
            self.send(signal.SIGKILL)
        done = self.finish()
        assert is_ready(), f"ended before it could be killed: {done.stderr[-2000:]}"
        return done

    def finish(self, seconds=600.0):
        """Wait for the end of the process."""
        self._process.join(seconds)
        if self.is_running:
            self._process.kill()
            raise AssertionError(f"still running after {seconds} seconds")
        texts = [pathlib.Path(f.name).read_text(errors="replace") for f in self._files]
        return Done(self._process.exitcode, *texts)


def start(command, *arguments, cwd=ROOT, env=None):
    """Start a command such as `"train"`, or a script by its path."""
    return Running(str(command), [str(argument) for argument in arguments], cwd, env)


def call(command, *arguments, cwd=ROOT, env=None):
    """Run a command, or a script by its path, to its end."""
    return start(command, *arguments, cwd=cwd, env=env).finish()


def apart(function, *arguments):
    """Return what a function returns in a process of its own, which frees its memory.

    TensorFlow keeps the memory of the largest model and of what XLA has compiled.
    """
    with concurrent.futures.ProcessPoolExecutor(1, _SERVER) as pool:
        return pool.submit(function, *arguments).result()


def _child(files, cwd, env, executable, target, arguments):
    for number, name in zip((1, 2), files):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, closefd=False) for n in (1, 2))
    os.chdir(cwd)
    os.environ.update(env)
    os.environ["PYTHONPATH"] = str(ROOT)  # of its own processes
    sys.executable = executable
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [target, *arguments]
    if target.endswith(".py"):
        sys.path.insert(0, os.path.dirname(os.path.join(ROOT, target)))
        runpy.run_path(os.path.join(ROOT, target), run_name="__main__")
    else:
        runpy.run_module(f"official_selftrain.{target}", None, "__main__", True)
