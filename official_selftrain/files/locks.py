"""Locks: one process at a time in a folder."""

import contextlib
import fcntl
import json
import os
import socket


@contextlib.contextmanager
def claimed(folder, shared=False, name="lock"):
    """Hold a folder's lock; another process is refused.

    The lock's file names the host and the process while the lock is held. The operating
    system releases the lock of a killed process, whose file stays and is taken over.

    Args:
        folder: str, created if it doesn't exist.
        shared: bool, whether other processes with `shared` may hold the lock, too.
        name: str, name of the lock's file.

    Yields:
        int, the file's descriptor: processes that inherit it hold the lock, too.

    Raises:
        ValueError: if another process holds the lock; it names host and process id.
        OSError: if the folder can't be written.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    while True:
        with open(path, "a+", encoding="utf-8") as file:
            _lock(file, folder, shared)
            if not _is_current(file):  # its last owner has just removed it
                continue
            owner = {"host": socket.gethostname(), "pid": os.getpid()}
            file.truncate(0)
            file.write(json.dumps(owner) + "\n")
            file.flush()
            try:
                yield file.fileno()
            finally:
                _release(file)
            return


def _lock(file, folder, shared):
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            "Expected a folder that no other process is using. Received: "
            f"{folder}, in use by {_owner(file)}"
        ) from None
    except OSError:  # a file system without locks
        _check_owner(file, folder)


def _is_current(file):
    """Return whether an open file is still the one of its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


def _release(file):
    """Remove a lock's file, unless another process shares the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:  # a file system without locks
        pass
    with contextlib.suppress(OSError):
        os.remove(file.name)


def _read(file):
    """Return the dict in a lock's file, empty if it is new or damaged."""
    file.seek(0)
    try:
        content = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _owner(file):
    owner = _read(file)
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"


def _check_owner(file, folder):
    """Check that the process named in a lock's file has ended, if it can be known."""
    owner = _read(file)
    if not owner or owner.get("pid") == os.getpid():
        return
    if owner.get("host") == socket.gethostname():
        try:
            os.kill(int(owner["pid"]), 0)
        except (ProcessLookupError, ValueError):
            return
        except PermissionError:
            pass  # a process of another user
    raise ValueError(
        "Expected a folder that no other process is using. Received: "
        f"{folder}, claimed by {_owner(file)}; if that has ended, remove {file.name}"
    )
