"""A quiet start: nothing is logged when all is well, warnings and errors stay."""

import os
import re
import sys
import tempfile

# What TensorFlow's libraries write while they are loaded, whatever the log level.
_NOTE = re.compile(r"I\d{4} |WARNING: All log messages before absl::InitializeLog")


def import_tensorflow():
    """Import TensorFlow, and hide its notes from now on.

    `TF_CPP_MIN_LOG_LEVEL` is respected if it is set; processes that this one starts
    inherit it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            sys.stderr.writelines(line for line in log if not _NOTE.match(line))
