"""The walkthrough: every file and name it refers to exists."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "official_selftrain"
TEXT = (ROOT / "docs" / "walkthrough.md").read_text()
FILE = re.compile(r"^[a-z_/]+\.py$")


def names_in(path):
    """Return the functions and classes of a file, including methods."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {
        n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, kinds)
    }


def names_by_file(text):
    """Return the names that a step of the text looks for in a file, in pairs.

    A name without a file before it is one of the last file's.
    """
    found = []
    for step in re.split(r"\n(?=\d+\. )", text)[1:]:
        file = None
        for name in re.findall(r"`([^`\n]+)`", step):
            if FILE.match(name):
                file = name
                found.append((file, None))
            elif file and re.fullmatch(r"_?[A-Za-z]+(_[a-z]+)*", name):
                found.append((file, name))
    return found


PAIRS = names_by_file(TEXT)

# Names in backticks that are neither a function nor a class.
OTHERS = {"pseudo"}


@pytest.mark.parametrize(("file", "name"), PAIRS)
def test_referenced_names_exist(file, name):
    path = PACKAGE / file
    assert path.is_file()
    if name is not None and name not in OTHERS:
        assert name in names_in(path)


def test_walkthrough_covers_command_to_weights_and_report():
    files = [file for file, _ in PAIRS]
    assert files[0] == "train.py" and files[-1] == "inference/pictures.py"
    assert {"training/fitting.py", "training/self_trainer.py"} < set(files)
    assert ("training/gradients.py", "of_batch") in PAIRS
    assert len(PAIRS) > 60


def test_missing_name_is_detected():
    text = "x\n1. `train.py` `main` and `gone`, then `cli/gin_files.py` `load_config`\n"
    assert names_by_file(text) == [
        ("train.py", None),
        ("train.py", "main"),
        ("train.py", "gone"),
        ("cli/gin_files.py", None),
        ("cli/gin_files.py", "load_config"),
    ]
    assert "gone" not in names_in(PACKAGE / "train.py")
