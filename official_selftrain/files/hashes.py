"""Hashes of files and folders."""

import hashlib
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
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as file:
        for name in sorted(set(file.namelist()) - {"metadata.json"}):
            # Keras numbers shared objects by their place in memory.
            content = re.sub(rb'"shared_object_id": \d+', b"", file.read(name))
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
