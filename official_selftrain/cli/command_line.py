"""Shared by all commands: one-line error messages and exit codes."""

import sys

import tensorflow as tf
from absl import flags, logging

# Exceptions caused by a mistake in the call, the settings or the data.
_MISTAKES = (
    ValueError,
    TypeError,
    OSError,
    RuntimeError,
    ImportError,
    tf.errors.OpError,
)

TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show the traceback of an error, not just its message."
)


def exit_code(name, arguments, command):
    """Run a command; print an error as one line.

    Args:
        name: str, name of the command.
        arguments: list of str, the positional arguments.
        command: function (), which may return an exit code.

    Returns:
        The command's return value, or 0; 1 after an error, 130 after an interrupt.
    """
    logging.set_verbosity(logging.WARNING)
    if len(arguments) > 1:
        return _fail(name, f"Expected only flags. Received: {arguments[1]!r}")
    try:
        return command() or 0
    except KeyboardInterrupt:
        _fail(name, "Interrupted. Run the same command again to continue.")
        return 130
    except _MISTAKES as error:
        if TRACEBACK.value:
            raise
        return _fail(name, _first_line(error))


def _first_line(error):
    """Return an error's message without the locations gin appends."""
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return text.strip().split("\n")[0] or type(error).__name__


def _fail(name, text):
    print(f"{name}: {text}", file=sys.stderr)
    return 1
