"""The API reference covers every module and renders the docstrings correctly."""

import html
import pathlib
import re
import types

import processes
import pytest

import official_selftrain

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "official_selftrain"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Render the reference in a separate process, as it imports the commands."""
    folder = tmp_path_factory.mktemp("api")
    done = processes.call("tools/api_reference.py", folder)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "/pdoc/" in line]
    assert warnings == []
    return folder


def page_of(reference, module):
    return (reference / f"{module.replace('.', '/')}.html").read_text()


def text_of(page):
    """Return a page's text as one line, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_every_module_has_a_page(reference):
    files = {path.relative_to(ROOT) for path in PACKAGE.rglob("*.py")}
    modules = {path.parent if path.stem == "__init__" else path for path in files}
    pages = {path.relative_to(reference) for path in reference.rglob("*.html")}
    assert pages == {path.with_suffix(".html") for path in modules} | {
        pathlib.Path("index.html")
    }


def test_start_page_links_to_modules(reference):
    index = (reference / "index.html").read_text()
    assert "url=./official_selftrain.html" in index
    page = page_of(reference, "official_selftrain")
    overview = re.search(r'<div class="docstring">(.*?)</div>', page, re.DOTALL)[1]
    assert 'href="#SelfTrainer"' in overview
    for name in official_selftrain.__all__:
        public = getattr(official_selftrain, name)
        if isinstance(public, types.ModuleType):
            assert f'href="{public.__name__.replace(".", "/")}.html"' in overview, name
        else:
            assert f'<section id="{name}">' in page, name


def test_arguments_are_a_list(reference):
    page = page_of(reference, "official_selftrain.models.losses")
    section = re.search(
        r'<section id="focal_loss">.*?Arguments:</h6>\s*<ul>(.*?)</ul>', page, re.DOTALL
    )
    items = [text_of(item) for item in re.findall(r"<li>.*?</li>", section[1], re.S)]
    assert items == [
        "targets: float, 0 or 1, of the shape of logits .",
        "logits: float32.",
        "alpha: float in 0…1, weight of the positives.",
        "gamma: float, at least 0.",
    ]


def test_every_section_is_a_heading(reference):
    """An unrecognized section would remain plain text."""
    section = re.compile(r"\b(Args|Returns|Raises|Attributes|Yields):\s*\w")
    for path in reference.rglob("official_selftrain/**/*.html"):
        docstrings = re.findall(
            r'<div class="docstring">(.*?)</div>', path.read_text(), re.DOTALL
        )
        assert [text for text in docstrings if section.search(text)] == [], path


@pytest.mark.parametrize(
    "name",
    ["describe", "init", "preview", "pseudo_label", "study", "train", "validate"],
)
def test_command_lines_are_code(reference, name):
    page = page_of(reference, f"official_selftrain.{name}")
    assert re.search(rf"<code>python -m [^\n]*official_selftrain\.{name}", page)
