"""House rules checked on the source: layers, names and docstrings."""

import ast
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "official_selftrain"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A room imports from lower floors only, and its modules from each other without a
# cycle. A file at the package's root is a command, the top layer.
FLOORS = {
    "checks": 0,
    "files": 0,
    "geometry": 0,
    "cli": 1,
    "data": 1,
    "metrics": 1,
    "models": 2,
    "inference": 3,
    "training": 4,
    "serving": 5,
    "labeling": 6,
    "experiment": 7,
    "onboarding": 7,
    "": 8,
}

# Packages that only these rooms or modules may import.
OWNERS = {
    "keras_cv": ("models.backbones",),
    "tensorflow_datasets": ("data.sources.tfds_datasets",),
    "pycocotools": ("metrics.coco",),
    "gin": ("cli", ""),
    "absl": ("cli", ""),
}

# Functions that only one module, the owner, may call. Exceptions are listed next to the
# owner, each with its reason.
OWNED_CALLS = {
    "os.replace": {
        "files.atomic": "owner: files that are written whole or not at all",
    },
    "os.rename": {
        "files.run_folder": "owner: a stage's folder that is moved aside",
        "serving.saved_models": "a version's folder, which must not replace another",
    },
    "hashlib.file_digest": {"files.hashes": "owner: hashes of files"},
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


def room_of(module):
    """Return the room of a module; "" is the root: commands and public names."""
    return module.split(".")[0] if "." in module or module in FLOORS else ""


def violations(module, source):
    """Return the violations in a module's imports, one line each."""
    room = room_of(module)
    if room not in FLOORS:
        return [f"{module} has no floor: add its room to FLOORS"]
    found = []
    for name in imports_of(source):
        first, _, rest = name.partition(".")
        if name.startswith("."):
            found.append(f"{module} imports {name}: write the full name")
        if first == "official_selftrain":
            target = room_of(rest)
            if target != room and FLOORS[target] >= FLOORS[room]:
                found.append(f"{module} imports {rest}, whose room is not below it")
            if {room, target} == {"data", "models"}:
                found.append(f"{module} imports {rest}: data and models stay apart")
        owners = OWNERS.get(first)
        if owners is not None and module not in owners and room not in owners:
            found.append(f"{module} imports {name}, only {list(owners)} may")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_floors(path):
    assert violations(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "text"),
    [
        ("geometry.boxes", "from official_selftrain import experiment", "not below"),
        ("labeling.teachers", "import official_selftrain.experiment.loop", "not below"),
        ("models.fpn", "from official_selftrain.data import images", "stay apart"),
        ("geometry.boxes", "from . import affine", "write the full name"),
        ("geometry.boxes", "from ..models import fpn", "write the full name"),
        ("training.fitting", "import gin", "only ['cli', ''] may"),
        ("models.losses", "import keras_cv.models", "only ['models.backbones'] may"),
        ("helpers.strings", "", "has no floor"),
    ],
)
def test_import_check_finds_violations(module, source, text):
    assert any(text in line for line in violations(module, source))


def owned_calls(source):
    """Return the functions of `OWNED_CALLS` used in a source text."""
    nodes = ast.walk(ast.parse(source))
    named = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    return set(OWNED_CALLS) & (named | set(imports_of(source)))


def test_facts_have_one_owner():
    callers = {name: set() for name in OWNED_CALLS}
    for path in MODULES:
        for name in owned_calls(path.read_text()):
            callers[name].add(name_of(path))
    assert callers == {name: set(owners) for name, owners in OWNED_CALLS.items()}


@pytest.mark.parametrize(
    "source",
    ["import os\nos.replace(a, b)", "from os import replace", "f = os.replace"],
)
def test_owner_check_finds_calls(source):
    assert owned_calls(source) == {"os.replace"}
    assert owned_calls("text.replace(a, b)\nos.path.exists(a)") == set()


def test_modules_of_a_room_import_each_other_without_a_cycle():
    names = {name_of(path) for path in MODULES}
    needs = {}
    for path in MODULES:
        found = {n.partition(".")[2] for n in imports_of(path.read_text())}
        # A name that isn't a module is defined in its module.
        found = {n if n in names else n.rpartition(".")[0] for n in found}
        needs[name_of(path)] = found & names - {name_of(path), ""}
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError


def test_only_commands_at_the_package_root():
    commands = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    for name in commands:
        assert "app.run(main)" in (PACKAGE / f"{name}.py").read_text(), name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_well_named(path):
    names = {*path.relative_to(PACKAGE).parts[:-1], path.stem}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


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
            folders = {path.parent, ROOT / "gin"}  # as gin searches
            files = {(folder / included).resolve() for folder in folders}
            assert sum(file.is_file() for file in files) == 1, (path, included)


def strings_of(source):
    """Return the strings of a source text, except docstrings."""
    tree = ast.parse(source)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    documented = [n for n in ast.walk(tree) if isinstance(n, kinds)]
    docstrings = {id(n.body[0].value) for n in documented if ast.get_docstring(n)}
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return {n.value for n in constants if id(n) not in docstrings}


def test_names_of_a_run_folder_are_written_once():
    owner = PACKAGE / "files" / "run_folder.py"
    names = {
        n for n in strings_of(owner.read_text()) if re.fullmatch(r".+\.\w+", str(n))
    }
    assert {"model.keras", "results.json", "manifest.json", "operative.gin"} < names
    found = {
        (name_of(path), name)
        for path in MODULES
        if path != owner
        for name in strings_of(path.read_text()) & names
    }
    # A SavedModel's own list of classes.
    assert found == {("serving.saved_models", "labels.txt")}
