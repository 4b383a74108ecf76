"""The tutorials run, assert their claims, and show the pictures they draw."""

import ast
import importlib.util
import pathlib
import re
import sys

import nbformat
import processes
import pytest

ROOT = pathlib.Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
SPEC = importlib.util.spec_from_file_location(
    "render_tutorials", ROOT / "tools/render_tutorials.py"
)
render_tutorials = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(render_tutorials)

NAMES = sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
# Sizes at which a tutorial takes seconds. Too small for good models: the asserts that
# only hold at full size are left out.
TOY = {
    "01_teacher_to_student": {
        "NUM_LABELED": 8,
        "NUM_UNLABELED": 10,
        "NUM_TEST": 8,
        "TEACHER_STEPS": 4,
        "STUDENT_STEPS": 3,
        "WARMUP_STEPS": 1,
        "LOG_EVERY": 1,
    },
    "02_your_own_detector": {
        "NUM_VALIDATION": 6,
        "NUM_UNLABELED": 4,
        "TEACHER_STEPS": 70,
        "TEACHER_WARMUP_STEPS": 20,
        "STUDENT_STEPS": 2,
        "STUDENT_WARMUP_STEPS": 1,
        "LEAST_THRESHOLD": 0.06,
        "IGNORE_THRESHOLD": 0.05,
    },
    "03_segmentation": {
        "NUM_LABELED": 6,
        "NUM_UNLABELED": 6,
        "NUM_TEST": 4,
        "TEACHER_STEPS": 80,
        "STUDENT_STEPS": 2,
        "TEACHER_WARMUP_STEPS": 10,
        "STUDENT_WARMUP_STEPS": 1,
        "THRESHOLD": 0.3,
    },
    "04_inside_model_fit": {
        "NUM_LABELED": 8,
        "NUM_UNLABELED": 10,
        "NUM_TEST": 8,
        "TEACHER_EPOCHS": 1,
        "TEACHER_STEPS": 2,
        "STUDENT_EPOCHS": 2,
        "STUDENT_STEPS": 2,
    },
    "05_serving": {
        "NUM_LABELED": 60,
        "TEACHER_STEPS": 80,
        "NUM_PHOTOS": 3,
        "LEAST_SCORE": 0.05,
    },
}
IMAGE = re.compile(r"!\[[^\]]+\]\(images/([^)]+)\.png\)")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def read(name):
    notebook = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def check_run(notebook):
    """Check that every cell ran, in order, and that pictures were drawn."""
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert set(render_tutorials.pictures(notebook)) == set(
        render_tutorials.tagged(notebook)
    )


@pytest.mark.notebook
@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_runs_at_toy_size(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", processes.python())
    notebook = render_tutorials.run(name, tmp_path, TOY[name])
    check_run(notebook)
    left_out = render_tutorials.cells(read(name), "full-size")
    # One cell sets the toy sizes.
    assert len(notebook.cells) == len(read(name).cells) + 1 - len(left_out)


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_runs_from_first_to_last_cell(name, tmp_path):
    check_run(render_tutorials.run(name, tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_one_cell_sets_the_sizes_near_the_top(name):
    notebook = read(name)
    ((place, sizes),) = render_tutorials.cells(notebook, "parameters").items()
    assert place <= 3
    names = render_tutorials.assigned(sizes.source)
    assert set(TOY[name]) <= set(names)
    following = "\n".join(cell.source for cell in notebook.cells[place + 1 :])
    for parameter in names:  # used, and not set again
        assert re.search(rf"\b{parameter}\b", following), parameter
        assert not re.search(rf"^{parameter}\b.* = ", following, re.M), parameter


@pytest.mark.parametrize("name", NAMES)
def test_full_size_cells_only_assert(name):
    """A toy run leaves out claims about figures, and nothing that later cells need."""
    left_out = render_tutorials.cells(read(name), "full-size")
    assert left_out
    for cell in left_out.values():
        *others, last = ast.parse(cell.source).body
        assert isinstance(last, ast.Assert), cell.source
        assert all(isinstance(node, ast.Assert | ast.Assign) for node in others)


@pytest.mark.parametrize("name", NAMES)
def test_tags_are_known(name):
    for cell in read(name).cells:
        for tag in cell.metadata.get("tags", []):
            assert re.fullmatch(r"parameters|full-size|picture:\w+", tag), cell.source


@pytest.mark.parametrize("name", NAMES)
def test_stored_without_outputs(name):
    for cell in code(read(name)):
        assert cell.outputs == [], cell.source
        assert cell.execution_count is None, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_asserts_its_claims(name):
    lines = [line for cell in code(read(name)) for line in cell.source.splitlines()]
    assert any(line.lstrip().startswith("assert ") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_shown_after_the_cells_that_draw_them(name):
    notebook = read(name)
    drawn = render_tutorials.tagged(notebook)
    for picture, place in drawn.items():
        following = notebook.cells[place + 1]
        assert following.cell_type == "markdown", picture
        assert picture in IMAGE.findall(following.source)
        assert picture.startswith(name[:3])
    shown = [picture for source in text(notebook) for picture in IMAGE.findall(source)]
    assert sorted(shown) == sorted(drawn)


def test_stored_pictures_match_the_drawn_ones_and_are_small():
    files = {path.name: path for path in (TUTORIALS / "images").glob("*")}
    drawn = {
        f"{picture}.png"
        for name in NAMES
        for picture in render_tutorials.tagged(read(name))
    }
    assert set(files) == drawn
    for name, path in files.items():
        assert path.stat().st_size < 150_000, name


@pytest.mark.parametrize("name", NAMES)
def test_links_refer_to_files(name):
    for source in text(read(name)):
        for target in LINK.findall(source):
            assert (TUTORIALS / target).exists(), target


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes `09_own`, a notebook of pairs of code and tag."""

    def write(*cells):
        cells = [
            nbformat.v4.new_code_cell(code, metadata={"tags": [tag] if tag else []})
            for code, tag in cells
        ]
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, tmp_path / "tutorials" / "09_own.ipynb")

    (tmp_path / "tutorials").mkdir()
    monkeypatch.setattr(render_tutorials, "TUTORIALS", tmp_path / "tutorials")
    return write


@pytest.mark.notebook
@pytest.mark.process
def test_parameters_replace_the_published_ones(tmp_path, write):
    write(
        ("COUNT, STEPS = 40, 900", "parameters"),
        ("assert STEPS == 900", "full-size"),
        ("print(COUNT, STEPS)", None),
    )
    *_, cell = render_tutorials.run("09_own", tmp_path / "toy", {"STEPS": 2}).cells
    assert cell.outputs[0].text == "40 2\n"
    *_, cell = render_tutorials.run("09_own", tmp_path / "full").cells
    assert cell.outputs[0].text == "40 900\n"
    with pytest.raises(ValueError, match=r"\['COUNT', 'STEPS'\]. Received: \['STEP'\]"):
        render_tutorials.run("09_own", tmp_path / "wrong", {"STEP": 2})


@pytest.mark.notebook
@pytest.mark.process
def test_failure_shows_the_cell(tmp_path, write):
    write(("total = 6 * 7", None), ("assert total == 41, f'not {total}'", None))
    with pytest.raises(Exception, match="assert total == 41(.|\n)*not 42"):
        render_tutorials.run("09_own", tmp_path / "copy")


def test_tagged_cell_draws_one_picture():
    cell = nbformat.v4.new_code_cell("", metadata={"tags": ["picture:09_curve"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(ValueError, match="one picture from cell '09_curve'.*: 0"):
        render_tutorials.pictures(notebook)
