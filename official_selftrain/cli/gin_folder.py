"""Find gin files: in the current folder or among the shipped ones."""

import difflib
import os

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Installed packages contain the files; in a clone they are next to the package.
_INSTALLED = os.path.join(_PACKAGE, "gin")
FOLDER = (
    _INSTALLED
    if os.path.isdir(_INSTALLED)
    else os.path.join(os.path.dirname(_PACKAGE), "gin")
)


def find(path):
    """Return the path of a gin file.

    Args:
        path: str, path of a file, or the name of a shipped one, such as
            `gin/coco_s3.gin` or `coco_s3.gin`.

    Returns:
        str, `path` itself if it is a file.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if os.path.isfile(path):
        return path
    names = _names()
    name = path.removeprefix("gin/")
    if name in names:
        return os.path.join(FOLDER, name)
    nearest = max(names, key=lambda other: _likeness(name, other), default=None)
    hint = f"; nearest shipped file: gin/{nearest}" if nearest else ""
    raise FileNotFoundError(f"Expected a gin file. Received: gin_file={path!r}{hint}")


def _names():
    """Return the names of the shipped files, relative to their folder."""
    return sorted(
        os.path.relpath(os.path.join(folder, file), FOLDER).replace(os.sep, "/")
        for folder, _, files in os.walk(FOLDER)
        for file in files
        if file.endswith(".gin")
    )


def _likeness(*names):
    """Return the similarity of two paths: first of their basenames, then overall."""
    pairs = map(os.path.basename, names), names
    return [difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs]
