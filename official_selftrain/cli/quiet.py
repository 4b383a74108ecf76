"""A quiet start: nothing is logged when all is well, warnings and errors stay."""

import os
import re
import signal
import sys

# What TensorFlow's libraries write while they are loaded, whatever the log level.
_NOTE = re.compile(rb"I\d{4} |WARNING: All log messages before absl::InitializeLog")


def import_tensorflow():
    """Import TensorFlow, and hide its notes from now on.

    Processes that this one starts inherit the level. A `TF_CPP_MIN_LOG_LEVEL` that is
    set is kept; with 0 nothing is hidden.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    if level == "0" or sys.stderr is None:
        import tensorflow  # noqa: F401
    else:
        _import_with_filter()


def _import_with_filter():
    """Import TensorFlow while another process passes on what isn't a note.

    It does so even if the import ends this process, on a processor that is too old.
    """
    sys.stderr.flush()
    source, sink = os.pipe()
    filtering = os.fork()
    if filtering == 0:
        os.close(sink)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process reports it
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                if not _NOTE.match(line):
                    os.write(2, line)
        os._exit(0)
    os.close(source)
    stderr = os.dup(2)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.waitpid(filtering, 0)
