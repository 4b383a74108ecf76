"""Render the API reference from the docstrings.

Usage: python tools/api_reference.py FOLDER. The start page is FOLDER/index.html.
"""

import importlib
import pathlib
import pkgutil
import sys

import pdoc
from absl import flags

import official_selftrain


def main(folder):
    """Render a page for every module of the package.

    pdoc shows the names in a package's `__all__`; this adds every module to it.
    """
    for module in pkgutil.walk_packages(
        official_selftrain.__path__, official_selftrain.__name__ + "."
    ):
        importlib.import_module(module.name)
        package, _, name = module.name.rpartition(".")
        names = getattr(sys.modules[package], "__all__", None)
        if names is not None and name not in names:
            names.append(name)
        for flag in flags.FLAGS:  # two commands may define the same flag
            flags.FLAGS[flag].allow_override = True
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(official_selftrain.__name__, output_directory=pathlib.Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
