"""The house rules that can be read off the source: floors, names, docstrings."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "official_selftrain"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module imports only from floors below its own. Command lines stand on top.
FLOORS = {
    "boxes": 0,
    "checks": 0,
    "distribution": 1,
    "losses": 0,
    "metrics": 0,
    "schedules": 0,
    "weight_average": 0,
    "anchors": 1,
    "data": 1,
    "data.color": 1,
    "data.class_folders": 4,
    "data.coco_files": 0,
    "data.digits": 3,
    "data.examples": 2,
    "data.geometry": 2,
    "data.images": 0,
    "data.masks": 1,
    "data.operations": 3,
    "data.policies": 4,
    "data.problems": 3,
    "data.sources": 3,
    "data.splits": 3,
    "data.validation": 3,
    "data.voc": 3,
    "data.augment": 5,
    "data.pipeline": 6,
    "data.pools": 4,
    "models.blocks": 1,
    "models.fpn": 1,
    "models.heads": 1,
    "models.inputs": 1,
    "models.torch_files": 1,
    "models.backbones": 2,
    "models.nasfpn": 2,
    "models.checkpoints": 2,
    "models.variable_names": 1,
    "models.sizes": 3,
    "models.spinenet": 2,
    "models.classifier": 3,
    "models.retinanet": 3,
    "models.segmenter": 3,
    "models": 4,
    "loss_normalizer": 0,
    "selftraining": 4,
    "label_quality": 7,
    "report": 7,
    "teachers": 7,
    "pseudo_labels": 8,
    "training_log": 8,
    "fitting": 9,
    "served": 8,
    "signatures": 8,
    "label_report": 9,
    "serving": 9,
    "coco_labels": 9,
    "evaluation": 10,
    "experiment": 11,
    "studies": 11,
    "own_data": 8,
    "proposals": 9,
    "command_line": 12,
    "configuration": 13,
    "train": 14,
    "preview": 14,
    "describe": 14,
    "init": 14,
    "study": 14,
    "pseudo_label": 14,
    "validate": 14,
    "": 14,
}
COMMAND_LINE = 12

# Packages that only these modules may import.
OWNERS = {
    "keras_cv": {"models.backbones"},
    "tensorflow_datasets": {"data.sources"},
    "pycocotools": {"metrics"},
    "gin": {"configuration", "describe", "preview", "study", "train"},
    "absl": {name for name, floor in FLOORS.items() if floor >= COMMAND_LINE and name},
}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source):
    """Return the full names of everything that a source text imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (f"{node.module}." if node.module else "")
            names += [origin + alias.name for alias in node.names]
    return names


def own_module(name):
    """Return which of our modules an imported name lies in, or None."""
    if name.split(".")[0] != "official_selftrain":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in FLOORS:
        parts.pop()
    return ".".join(parts)


def violations(module, source):
    """Return what is wrong with a module's imports, one line each."""
    if module not in FLOORS:
        return [f"{module} has no floor: add it to FLOORS"]
    found = []
    for name in imports_of(source):
        if name.startswith("."):
            found.append(f"{module} imports {name}: write the full name")
        target = own_module(name)
        if target is not None:
            if FLOORS[target] >= FLOORS[module]:
                found.append(f"{module} imports {target}, which is not below it")
            pair = {module.split(".")[0], target.split(".")[0]}
            if pair == {"data", "models"}:
                found.append(f"{module} imports {target}: data and models stay apart")
        owners = OWNERS.get(name.split(".")[0])
        if owners is not None and module not in owners:
            found.append(f"{module} imports {name}, only {sorted(owners)} may")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_floors(path):
    assert violations(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "text"),
    [
        ("boxes", "from official_selftrain import experiment", "not below it"),
        ("models.fpn", "from official_selftrain.data import color", "stay apart"),
        ("boxes", "from . import experiment", "write the full name"),
        ("boxes", "from ..models import fpn", "write the full name"),
        (
            "fitting",
            "import gin",
            "only ['configuration', 'describe', 'preview', 'study', 'train'] may",
        ),
        ("losses", "import keras_cv.models", "only ['models.backbones'] may"),
        ("helpers", "", "has no floor"),
    ],
)
def test_the_check_finds_what_it_looks_for(module, source, text):
    assert any(text in line for line in violations(module, source))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_small_and_well_named(path):
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}
    assert len(path.read_text().splitlines()) <= 450


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_is_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, kinds) and n.name[0] != "_"]
    for item in list(public):
        if isinstance(item, ast.ClassDef):
            public += [
                n for n in item.body if isinstance(n, kinds) and n.name[0] != "_"
            ]
    undocumented = [node.name for node in public if not ast.get_docstring(node)]
    assert undocumented == []


def test_names_of_the_package_exist_and_are_documented():
    import official_selftrain

    for name in official_selftrain.__all__:
        assert getattr(official_selftrain, name).__doc__, name


def test_no_absolute_paths():
    patterns = ["*.py", "*.gin", "*.md", "*.toml", "*.txt", "Makefile", "*.sh"]
    folders = "|".join(["work", "root", "tmp", "home", "Users"])
    pattern = re.compile(rf"(?:^|[\s\"'`=(\[,])/(?:{folders})/")
    made = {path.parent for path in ROOT.glob("*/pyvenv.cfg")} | {ROOT / "runs"}
    for path in (p for name in patterns for p in ROOT.rglob(name)):
        top = ROOT / path.relative_to(ROOT).parts[0]
        if top not in made and not top.name.startswith("."):
            assert not pattern.search(path.read_text()), path


def test_gin_files_include_files_that_exist():
    for path in [*ROOT.glob("gin/**/*.gin"), *ROOT.glob("tests/*.gin")]:
        for included in re.findall(r'^include "(.+)"', path.read_text(), re.MULTILINE):
            assert (path.parent / included).exists(), (path, included)
