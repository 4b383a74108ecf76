"""Shared by all commands: one-line error messages and exit codes.

TensorFlow takes seconds to import. Commands import it, and the modules that need it,
inside the functions that run after flags and paths are checked.
"""

import contextlib
import glob as globbing
import os
import signal
import sys
import threading

from absl import flags, logging

from official_selftrain.checks import messages

# Exceptions caused by a mistake in the call, the settings or the data, beside
# TensorFlow's.
_MISTAKES = (ValueError, TypeError, OSError, RuntimeError, ImportError)

TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show the traceback of an error, not just its message."
)


class _Terminated(BaseException):
    """Raised where SIGTERM arrives, so that files are closed and locks released."""


@contextlib.contextmanager
def _terminable():
    """Raise `_Terminated` on SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(name, arguments, command):
    """Run a command; print an error as one line.

    Args:
        name: str, name of the command.
        arguments: list of str, the positional arguments.
        command: function (), which may return an exit code.

    Returns:
        The command's return value, or 0; 1 after an error, 130 after SIGINT (Ctrl-C),
        143 after SIGTERM.
    """
    logging.set_verbosity(logging.WARNING)
    if len(arguments) > 1:
        return _fail(name, f"Expected only flags. Received: {arguments[1]!r}")
    try:
        with _terminable():
            return command() or 0
    except KeyboardInterrupt:
        _fail(name, "Interrupted. Run the same command again to continue.")
        return 130
    except _Terminated:
        _fail(name, "Terminated. Run the same command again to continue.")
        return 143
    except SystemExit as stop:  # a training that saved a checkpoint and said so
        return stop.code
    except mistakes() as error:
        if TRACEBACK.value:
            raise
        return _fail(name, _first_line(error))


def pixel_range(values):
    """Return the numbers of a flag `--pixel_range=LOW,HIGH`.

    Args:
        values: list of str, or None.

    Returns:
        `(low, high)`, or None.

    Raises:
        ValueError: for anything else.
    """
    if values is None:
        return None
    try:
        low, high = (int(value) for value in values)
    except ValueError:
        raise ValueError(
            "Expected LOW,HIGH, such as 0,4095 for 12 bits. Received: pixel_range="
            f"{','.join(values)!r}"
        ) from None
    return low, high


def check_paths(**paths):
    """Check that files, folders and globs exist.

    Args:
        paths: str or None for every flag; None, and addresses such as `gs://…` and
            `tfds:…`, and names of functions (`python:…`), aren't checked.

    Raises:
        FileNotFoundError: for the first one that doesn't exist.
    """
    for flag, path in paths.items():
        if not path or "://" in path or path.startswith(("tfds:", "python:")):
            continue
        # A name with brackets isn't a glob.
        options = {"recursive": True, "include_hidden": True}
        if not os.path.exists(path) and not globbing.glob(path, **options):
            raise FileNotFoundError(
                "Expected an existing file or folder, or a glob that matches one. "
                f"Received: {flag}={path!r}"
            )


def mistakes():
    """Return the exceptions that are caused by the call, the settings or the data."""
    tensorflow = sys.modules.get("tensorflow")
    return (*_MISTAKES, tensorflow.errors.OpError) if tensorflow else _MISTAKES


def _first_line(error):
    """Return an error's message without the locations gin appends."""
    # TensorFlow's errors keep theirs in an attribute.
    text = str(getattr(error, "message", "") or error)
    if hasattr(error, "message"):
        text = messages.readable(text) or text
    return text.strip().split("\n")[0] or type(error).__name__


def _fail(name, text):
    print(f"{name}: {text}", file=sys.stderr)
    return 1
