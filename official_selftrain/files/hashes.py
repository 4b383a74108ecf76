"""Hashes of files and folders."""

import hashlib
import os


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
