"""One process at a time in a folder."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from official_selftrain.files import locks

HOST = socket.gethostname()
_HOLDER = """
import sys, time
from official_selftrain.files import locks
with locks.claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_claim_is_refused_and_names_the_first(tmp_path):
    folder = tmp_path / "new" / "run"
    with locks.claimed(str(folder)):
        assert json.loads((folder / "lock").read_text()) == {
            "host": HOST,
            "pid": os.getpid(),
        }
        with pytest.raises(
            ValueError, match=f"{folder}, in use by process {os.getpid()} on {HOST}"
        ):
            with locks.claimed(str(folder)):
                pass
        # The refusal doesn't erase the owner.
        assert json.loads((folder / "lock").read_text())["pid"] == os.getpid()
    assert os.listdir(folder) == []
    with locks.claimed(str(folder)):
        pass


def test_shared_claims(tmp_path):
    folder = str(tmp_path)
    with locks.claimed(folder, shared=True):
        with locks.claimed(folder, shared=True):
            pass
        # The one that has ended leaves the other's lock alone.
        with pytest.raises(ValueError, match="in use by process"):
            with locks.claimed(folder):
                pass
    with locks.claimed(folder):
        with pytest.raises(ValueError, match="in use by process"):
            with locks.claimed(folder, shared=True):
                pass
        with locks.claimed(folder, name="other"):
            pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match=f"in use by process {holder.pid} on {HOST}"):
        with locks.claimed(str(tmp_path)):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == holder.pid
    with locks.claimed(str(tmp_path)):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_lock_that_its_owner_removes_meanwhile(tmp_path, monkeypatch):
    """The file was opened before it was removed: the lock is that of a new one."""
    flock, calls = fcntl.flock, []

    def remove_first(file, kind):
        if not calls:
            os.remove(tmp_path / "lock")
        calls.append(kind)
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locks.claimed(str(tmp_path)):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(ValueError, match="in use by process"):
            with locks.claimed(str(tmp_path)):
                pass
    assert len(calls) == 4 and os.listdir(tmp_path) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """The process named in the file decides, as far as it can be known."""

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = tmp_path / "lock"
    for ended in ("", "no JSON", json.dumps({"host": HOST, "pid": 999999999})):
        lock.write_text(ended)
        with locks.claimed(str(tmp_path)):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
    for owner in (
        {"host": HOST, "pid": os.getppid()},
        {"host": "elsewhere", "pid": 999999999},
    ):
        lock.write_text(json.dumps(owner))
        text = f"claimed by process {owner['pid']} on {owner['host']}; if .* remove"
        with pytest.raises(ValueError, match=text):
            with locks.claimed(str(tmp_path)):
                pass
