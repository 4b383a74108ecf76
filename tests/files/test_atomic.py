"""Files are written completely or not at all."""

import os

import pytest

from official_selftrain.files import atomic


def test_round_trip(tmp_path):
    path = tmp_path / "a.json"
    assert atomic.read_json(str(path)) is None
    for content in ({"a": [1, None, "é"]}, []):
        atomic.write_json(str(path), content)
        assert atomic.read_json(str(path)) == content
    assert path.read_bytes() == b"[]\n"
    atomic.write_text(str(path), "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_keeps_the_previous_file(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error, match="in the middle"):
        with atomic.replacing(str(path)) as partial, open(partial, "w") as file:
            file.write("new")
            raise error("in the middle")
    assert os.listdir(tmp_path) == (["a.txt"] if old else [])
    assert not old or path.read_text() == old


def test_an_error_of_a_writing_library_names_the_file(tmp_path):
    """Such as h5py's, which has no number, and Python's own on a full disk."""
    path = tmp_path / "a.txt"
    for error, text in (
        (OSError("Can't write\nmore"), f"to write {path}. Received: Can't write"),
        (OSError(28, "No space left on device"), f"No space left.*: '{path}'"),
    ):
        with pytest.raises(OSError, match=text):
            with atomic.replacing(str(path)):
                raise error
    assert os.listdir(tmp_path) == []


def test_unserializable_content_keeps_the_previous_file(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_json(str(path), {"a": 1})
    with pytest.raises(TypeError, match="set is not JSON"):
        atomic.write_json(str(path), {"a": set()})
    assert atomic.read_json(str(path)) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_readers_never_see_a_partial_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic.replacing(str(path)) as partial:
        with open(partial, "w") as file:
            file.write("new")
            file.flush()
            assert path.read_text() == "old"
        assert path.read_text() == "old" and os.path.dirname(partial) == str(tmp_path)
    assert path.read_text() == "new"


def test_two_writers_do_not_collide(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    with atomic.replacing(str(path)) as first, open(first, "w") as file:
        file.write("first, ")
        monkeypatch.setattr(os, "getpid", lambda: -1)  # another process
        atomic.write_text(str(path), "second")
        assert path.read_text() == "second"
        file.write("whole")
    assert path.read_text() == "first, whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_partial_file_removed_by_another_process(tmp_path):
    """The other process has finished, so the file exists."""
    path = tmp_path / "a.txt"
    with atomic.replacing(str(path), shared=True):
        path.write_text("of the other")
    assert path.read_text() == "of the other"
    # Where nobody else writes, an older file must not pass for the new one.
    with pytest.raises(FileNotFoundError, match=r"a\.txt'$"):
        with atomic.replacing(str(path)) as partial:
            assert not os.path.exists(partial)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.txt'$"):
        with atomic.replacing(str(path)) as partial:
            assert not os.path.exists(partial)


def test_errors_name_the_file(tmp_path):
    missing = str(tmp_path / "nowhere" / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"directory: '.*nowhere/a\.txt'$"):
        atomic.write_text(missing, "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"directory: '.*folder'$"):
        atomic.write_text(str(tmp_path / "folder"), "text")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_unreadable_content(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expecting value|can't decode byte 0xff"):
        atomic.read_json(str(path))
