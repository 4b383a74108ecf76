"""Hashes of files and folders."""

import hashlib
import io
import zipfile

import h5py
import pytest

from official_selftrain.files import hashes


def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abc")
    # The first example of FIPS 180-2.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashes.sha256(str(tmp_path / "a")) == digest
    assert hashes.sha256(str(tmp_path / "b")) == digest


def test_hash_of_a_model(tmp_path):
    """Weights and settings count, not the time or process that saved them."""

    def written(name, weights=1.0, rate=1, place=7):
        layer = f'"name": "dropout_{place}", "shared_object_id": {place}'
        config = f'{{"rate": {rate}, {layer}}}'
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file["layers/dense/vars/0"] = [weights, 2.0]
            file["layers"].attrs["name"] = f"dropout_{place}"
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("metadata.json", f"saved as {name}")
            file.writestr("config.json", config)
            file.writestr("model.weights.h5", content.getvalue())
        return hashes.sha256_of_model(str(tmp_path / name))

    first = written("first")
    assert written("second", place=8) == first
    others = {first, written("third", weights=1.5), written("fourth", rate=2)}
    assert len(others) == 3


def test_hash_of_a_folder(tmp_path):
    for name in ("first", "second"):  # made in another order
        folder = tmp_path / name
        names = ["a", "b/c", "d"]
        for file in names if name == "first" else names[::-1]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(file)
    first, second = (hashes.sha256(str(tmp_path / n)) for n in ("first", "second"))
    assert first == second
    lines = [("a", "a"), ("d", "d"), ("b/c", "b/c")]  # a folder's files come first
    text = "".join(
        f"{name} {hashlib.sha256(content.encode()).hexdigest()}\n"
        for name, content in lines
    )
    assert first == hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "second" / "d").rename(tmp_path / "second" / "e")
    assert hashes.sha256(str(tmp_path / "second")) != first
    (tmp_path / "second" / "e").rename(tmp_path / "second" / "d")
    (tmp_path / "second" / "d").write_text("D")
    assert hashes.sha256(str(tmp_path / "second")) != first


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hashes.sha256(str(tmp_path / "nowhere"))
