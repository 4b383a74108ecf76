"""Hashes of files and folders."""

import functools
import hashlib
import io
import os
import re
import zipfile


def sha256(path):
    """Return the hash of a file, or of all names and files in a folder."""
    digest = hashlib.sha256()
    if os.path.isdir(path):
        for place, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = os.path.join(place, name)
                digest.update(
                    f"{os.path.relpath(file, path)} {sha256(file)}\n".encode()
                )
        return digest.hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_model(path):
    """Return the hash of a `.keras` file's weights and configuration.

    It doesn't depend on the process that saved the file, nor on the time.
    """
    import h5py  # commands hash files before they import NumPy

    with zipfile.ZipFile(path) as file:
        config, weights = (file.read(f) for f in ("config.json", "model.weights.h5"))
    # Keras numbers layers in a process, and shared objects by their place in memory.
    config = re.sub(rb'"shared_object_id": \d+|"name": "\w*_\d+"', b"", config)
    digest = hashlib.sha256(config)
    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(functools.partial(_add_array, digest))
    return digest.hexdigest()


def _add_array(digest, name, item):
    if hasattr(item, "dtype"):  # not a group
        digest.update(f"{name} {item.dtype} {item.shape}\n".encode())
        digest.update(item[()].tobytes())
