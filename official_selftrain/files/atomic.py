"""Atomic file writing: a file is written completely or not at all."""

import contextlib
import json
import os
import socket


@contextlib.contextmanager
def replacing(path, ending="", shared=False):
    """Yield a temporary path that is renamed to `path` on success.

    The temporary path is unique to the process, so that concurrent writers don't
    collide. An error leaves `path` unchanged and removes the temporary file; only a
    killed process leaves a `*.partial` file behind.

    Args:
        path: str.
        ending: str, extension of the temporary path, for writers that depend on it.
        shared: bool, whether other processes write the same content to `path`: one that
            is finished may remove the others' temporary files.

    Raises:
        OSError: if `path` can't be written; it names `path`.
    """
    partial = f"{path}.{socket.gethostname()}-{os.getpid()}.partial{ending}"
    try:
        yield partial
        try:
            os.replace(partial, path)
        except FileNotFoundError:
            if not (shared and os.path.exists(path)):
                raise
    except OSError as error:
        if error.filename not in (partial, None):
            raise
        if error.errno is None and type(error) is not OSError:
            raise
        if error.errno is None:  # from a library that writes by itself
            reason = str(error).strip().splitlines()[0]
            text = f"Expected to write {path}. Received: {reason}"
            raise OSError(text) from error
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def write_text(path, text, shared=False):
    """Write a text file atomically; `shared` as in `replacing`."""
    with replacing(path, shared=shared) as partial:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)


def write_json(path, content, shared=False):
    """Write a JSON file atomically; `shared` as in `replacing`."""
    write_text(path, json.dumps(content, indent=2) + "\n", shared)


def read_json(path):
    """Return the content of a JSON file, or None if it doesn't exist.

    Raises:
        ValueError: for a file that isn't JSON.
    """
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)
