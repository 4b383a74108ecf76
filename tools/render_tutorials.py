"""Run the tutorials and store the pictures shown on their pages.

python tools/render_tutorials.py [NAME …]

Notebooks are stored without outputs. A cell tagged `picture:NAME` draws one picture,
which is saved to tutorials/images/NAME.png and shown by the next markdown cell. The
cell tagged `parameters` sets the sizes of the run. Cells tagged `full-size` assert what
holds at these sizes only.
"""

import ast
import base64
import io
import os
import pathlib
import shutil
import sys
import tempfile

import nbclient
import nbformat
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "tutorials"

# Files that the notebooks expect in their parent folder.
_BESIDE = ("README.md", "benchmarks", "export", "gin", "official_selftrain", "tests")

# Far more than needed, for busy machines.
_CELL_SECONDS = 900
_START_SECONDS = 300

_TAG = "picture:"


def run(name, folder, parameters=None):
    """Run a notebook in a copy of the folder layout.

    Args:
        name: str, such as `"01_teacher_to_student"`.
        folder: str, an empty folder for all output.
        parameters: dict of name to value, which replaces values of the cell tagged
            `parameters`. Cells tagged `full-size` are left out then.

    Returns:
        The notebook with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: with the source of the failed cell.
        ValueError: if the notebook doesn't have such parameters.
    """
    folder = pathlib.Path(folder)
    shutil.copytree(TUTORIALS, folder / "tutorials")
    for shared in _BESIDE:
        (folder / shared).symlink_to(ROOT / shared)
    notebook = nbformat.read(folder / "tutorials" / f"{name}.ipynb", as_version=4)
    if parameters is not None:
        _resize(notebook, parameters)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Ignore the user's IPython settings.
    env = {**os.environ, "PYTHONPATH": path, "IPYTHONDIR": str(folder / "ipython")}
    client = nbclient.NotebookClient(
        notebook,
        timeout=_CELL_SECONDS,
        startup_timeout=_START_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder / "tutorials")}},
    )
    return client.execute(env=env)


def _resize(notebook, parameters):
    """Set parameters after the cell that sets the published ones."""
    ((place, sizes),) = cells(notebook, "parameters").items()
    names = assigned(sizes.source)
    if not set(parameters) <= set(names):
        raise ValueError(
            f"Expected parameters among {names}. Received: {sorted(parameters)}"
        )
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    for place in reversed(cells(notebook, "full-size")):
        del notebook.cells[place]


def cells(notebook, tag):
    """Return a dict of index to cell, of the cells with a tag."""
    return {
        place: cell
        for place, cell in enumerate(notebook.cells)
        if tag in cell.metadata.get("tags", [])
    }


def assigned(source):
    """Return the names that Python code assigns, in order."""
    nodes = ast.walk(ast.parse(source))
    stored = [
        n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    return [node.id for node in sorted(stored, key=lambda n: (n.lineno, n.col_offset))]


def tagged(notebook):
    """Return a dict of picture name to index of the cell that draws it."""
    return {
        tag.removeprefix(_TAG): place
        for place, cell in enumerate(notebook.cells)
        for tag in cell.metadata.get("tags", [])
        if tag.startswith(_TAG)
    }


def pictures(notebook):
    """Return a dict of picture name to PNG bytes, from an executed notebook.

    Raises:
        ValueError: if a tagged cell didn't draw exactly one picture.
    """
    by_name = {}
    for name, place in tagged(notebook).items():
        outputs = notebook.cells[place].outputs
        drawn = [
            o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})
        ]
        if len(drawn) != 1:
            raise ValueError(
                f"Expected one picture from cell {name!r}. Received: {len(drawn)}"
            )
        by_name[name] = _small(base64.b64decode(drawn[0]))
    return by_name


def _small(png):
    """Reduce a PNG to 128 colors, about a quarter of the size."""
    file = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128)
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def main(names):
    """Render the named notebooks, or all of them."""
    images = TUTORIALS / "images"
    images.mkdir(exist_ok=True)
    for name in names or sorted(path.stem for path in TUTORIALS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            for picture, png in pictures(run(name, folder)).items():
                (images / f"{picture}.png").write_bytes(png)
                print(f"{name}: {picture}.png, {len(png) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
