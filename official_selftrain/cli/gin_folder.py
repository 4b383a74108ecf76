"""Where a gin file lies: in the current folder, or among those that are shipped."""

import difflib
import os

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# An installation has the files in the package, a clone beside it.
_INSTALLED = os.path.join(_PACKAGE, "gin")
FOLDER = (
    _INSTALLED
    if os.path.isdir(_INSTALLED)
    else os.path.join(os.path.dirname(_PACKAGE), "gin")
)


def find(path):
    """Return where a gin file lies.

    Args:
        path: str, of a file, seen from the current folder; else the name of a shipped
            one, such as `gin/coco_s3.gin` or `coco_s3.gin`.

    Returns:
        str, `path` itself if it is a file.

    Raises:
        FileNotFoundError: for a file that is in neither place.
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
    """Return how like two paths are: first their last parts, then the whole."""
    pairs = map(os.path.basename, names), names
    return [difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs]
