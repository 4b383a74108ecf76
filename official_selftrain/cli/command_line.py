"""What all command lines share: mistakes as one line, exit codes."""

import sys

import tensorflow as tf
from absl import flags, logging

# What a mistake in the call, the settings or the data can raise.
_MISTAKES = (
    ValueError,
    TypeError,
    OSError,
    RuntimeError,
    ImportError,
    tf.errors.OpError,
)

TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show where an error arose, not just its text."
)


def exit_code(name, arguments, command):
    """Run a command; print a mistake as one line.

    Args:
        name: str, of the command line.
        arguments: list of str, what was given beside the flags.
        command: function (), which may return an exit code.

    Returns:
        What the command returns, or 0; 1 after a mistake, 130 when interrupted.
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
    """Return an error's text without the places gin adds to it."""
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return text.strip().split("\n")[0] or type(error).__name__


def _fail(name, text):
    print(f"{name}: {text}", file=sys.stderr)
    return 1
