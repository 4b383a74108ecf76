"""Files that are written whole or not at all."""

import contextlib
import json
import os
import socket


@contextlib.contextmanager
def replacing(path, ending=""):
    """Give a name to write to that becomes `path` in the end.

    Each process has its own, so that two that do the same don't meet. An error leaves
    `path` as it was and nothing else; only a process that is killed leaves a file
    `*.partial` behind.

    Args:
        path: str.
        ending: str, of the name to write to, where what writes looks at it.

    Raises:
        OSError: if `path` can't be written; it names `path`.
    """
    partial = f"{path}.{socket.gethostname()}-{os.getpid()}.partial{ending}"
    try:
        yield partial
        _replace(partial, path)
    except OSError as error:
        if error.filename != partial:
            raise
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def _replace(partial, path):
    try:
        os.replace(partial, path)
    except FileNotFoundError:
        if not os.path.exists(path):  # else another process was faster
            raise


def write_text(path, text):
    """Write a text file, whole or not at all."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path, content):
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path):
    """Return the content of a JSON file, None without the file.

    Raises:
        ValueError: for another kind of file.
    """
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)
