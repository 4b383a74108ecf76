"""The tutorials run, assert their claims, and show the pictures they draw."""

import importlib.util
import pathlib
import re

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
SPEC = importlib.util.spec_from_file_location(
    "render_tutorials", ROOT / "tools/render_tutorials.py"
)
render_tutorials = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(render_tutorials)

NAMES = sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
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


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_first_to_last_cell(name, tmp_path):
    notebook = render_tutorials.run(name, tmp_path)
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert set(render_tutorials.pictures(notebook)) == set(
        render_tutorials.tagged(notebook)
    )


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


def test_failure_shows_the_cell(tmp_path, monkeypatch):
    cells = [
        nbformat.v4.new_code_cell("total = 6 * 7"),
        nbformat.v4.new_code_cell("assert total == 41, f'not {total}'"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    (tmp_path / "tutorials").mkdir()
    nbformat.write(notebook, tmp_path / "tutorials" / "09_wrong.ipynb")
    monkeypatch.setattr(render_tutorials, "TUTORIALS", tmp_path / "tutorials")
    with pytest.raises(Exception, match="assert total == 41(.|\n)*not 42"):
        render_tutorials.run("09_wrong", tmp_path / "copy")


def test_tagged_cell_draws_one_picture():
    cell = nbformat.v4.new_code_cell("", metadata={"tags": ["picture:09_curve"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(ValueError, match="one picture from cell '09_curve'.*: 0"):
        render_tutorials.pictures(notebook)
