"""Links and commands of all pages are valid.

Pages are the Markdown files, the notebooks and the headers of gin files. A command's
program, files and flags must exist; settings for an experiment are loaded into it.
"""

import ast
import json
import pathlib
import re
import shlex

import gin
import pytest

from official_selftrain.cli import gin_files

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "export").glob("*.md")),
    *sorted((ROOT / "gin").glob("*.md")),
    *sorted((ROOT / "tutorials").glob("*.md")),
    *sorted((ROOT / "tutorials").glob("*.ipynb")),
    *sorted((ROOT / "benchmarks" / "results" / "studies").glob("*.md")),
    *sorted((ROOT / "tests" / "golden").glob("*.md")),
    *sorted((ROOT / "gin").rglob("*.gin")),
]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

# Third-party programs that readers have or install.
OTHERS = {"cd", "curl", "docker", "git", "jupyter", "npm", "pip", "sed", "sh", "sort"}
OTHERS |= {"comm", "tensorboard", "saved_model_cli", "tensorflow_model_server", "."}
OTHERS |= {"row", "row()", "}"}  # a function that a page defines

LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:python|make) [^`]+)`")
FLAG = re.compile(r'(?:DEFINE_\w+|add_argument)\(\s*"(?:--)?(\w+)"')
TABLED_FLAG = re.compile(r'^    "(\w+)": (?:"|\(|flags)', re.MULTILINE)


def page(name):
    """Return a page's text and its code blocks of commands."""
    path = ROOT / name
    text = path.read_text()
    if path.suffix == ".gin":
        lines = [line[1:].strip() for line in text.splitlines() if line[:1] == "#"]
        found = "\n".join(lines).replace("\\\n", " ")
        return "", [line for line in found.splitlines() if line.startswith("python ")]
    blocks = []
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
        blocks = [s for s, kind in sources if kind == "code" and "{" not in s]
        blocks = re.findall(r"^!(.*(?:\\\n.*)*)", "\n".join(blocks), re.MULTILINE)
        text = "\n".join(s for s, kind in sources if kind == "markdown")
    blocks += [code for kind, code in FENCE.findall(text) if kind in ("sh", "bash")]
    inline = INLINE.findall(FENCE.sub("", text))
    return text, blocks + [" ".join(code.split()) for code in inline]


def commands(blocks):
    """Return the commands of blocks as lists of words."""
    found = []
    for block in blocks:
        block = re.sub(r"<<'(\w+)'\n.*?\n\1\n?", "\n", block, flags=re.DOTALL)
        block = re.sub(
            r"(^|\s)#.*$", "", block.replace("\\\n", " "), flags=re.MULTILINE
        )
        words = shlex.shlex(block, posix=True, punctuation_chars=";&|\n")
        words.whitespace, words.whitespace_split, words.commenters = " \t", True, ""
        command = []
        for word in [*words, "\n"]:
            if set(word) <= set(";&|\n"):
                if command:
                    found.append(command)
                command = []
            else:
                command.append(word)
    return found


def anchors(path):
    """Return the anchors of a Markdown file's or notebook's headings."""
    text, _ = page(path.relative_to(ROOT))
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def flags_of(path):
    """Return the flags of a script, including those of our modules it imports."""
    text = path.read_text()
    found = {*FLAG.findall(text), *TABLED_FLAG.findall(text)}
    for module in ("command_line", "gin_files"):
        if re.search(
            rf"^from official_selftrain.cli import .*{module}", text, re.M
        ) or (f"    {module},\n" in text):
            found |= flags_of(ROOT / "official_selftrain" / "cli" / f"{module}.py")
    if re.search(r"^import record$", text, re.MULTILINE):
        found |= flags_of(path.parent / "record.py")
    return found


@pytest.mark.parametrize("name", [n for n in NAMES if not n.endswith(".gin")])
def test_links_resolve(name):
    text, _ = page(name)
    for target in LINK.findall(FENCE.sub("", text)):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        path = ((ROOT / name).parent / place).resolve() if place else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def check(command):
    """Assert that a command is valid."""
    while re.fullmatch(r"[A-Z_]+=.*", command[0], re.DOTALL):
        command = command[1:]
        if not command:
            return
    program, *rest = command
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        targets = re.findall(
            r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE
        )
        for word in rest:
            assert "=" in word or word in targets, command
        return
    if program not in ("python", "python3"):
        assert program in OTHERS, command
        return
    if rest[0] in ("-", "-c"):
        if rest[0] == "-c":
            ast.parse(rest[1])
        return
    if rest[0] == "-m" and not rest[1].startswith("official_selftrain"):
        assert rest[1] in ("pip", "pytest", "venv"), command
        return
    if rest[0] == "-m":
        script, rest = ROOT / f"{rest[1].replace('.', '/')}.py", rest[2:]
    else:
        script, rest = ROOT / rest[0], rest[1:]
    assert script.is_file(), command
    if "--" in rest:  # what follows is another program's
        rest = rest[: rest.index("--")]
    known = flags_of(script)
    for word in rest:
        flag = re.fullmatch(r"--(?:no)?(\w+)(=.*)?", word, re.DOTALL)
        assert not word.startswith("--") or "..." in word or flag, command
        if flag and flag[1] not in ("help", "helpfull"):
            assert flag[1] in known or word[2:].split("=")[0] in known, word
    settings = experiment_of(rest)
    if settings and script.stem != "study" and "gin_files" in script.read_text():
        gin.clear_config()
        gin_files.load_config(*settings)
        gin.clear_config()


def experiment_of(words):
    """Return the gin files and settings of a command, or None without our files."""
    given = [word.partition("=")[::2] for word in words]
    files = [value for flag, value in given if flag == "--gin_file"]
    if not files or not all(file.startswith("gin/") for file in files):
        return None
    for file in files:
        if file == "gin/coco_s3_files.gin":  # that the page before makes
            return None
        assert (ROOT / file).is_file(), file
    params = [value for flag, value in given if flag == "--gin_param"]
    return [str(ROOT / file) for file in files], params


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_valid(name):
    _, blocks = page(name)
    for command in commands(blocks):
        check(command)


def test_python_of_pages_compiles():
    for path in PAGES:
        if path.suffix == ".md":
            for kind, code in FENCE.findall(path.read_text()):
                if kind in ("py", "python"):
                    ast.parse(code)


def test_checks_find_mistakes():
    for command in (
        "python -m official_selftrain.trian --gin_file=gin/quickstart.gin",
        "python -m official_selftrain.train --gin_flie=gin/quickstart.gin",
        "python -m official_selftrain.train --gin_file=gin/quickstrat.gin",
        "make quickstrat",
        "pyhton export/client.py",
        "python export/client.py --ulr=x",
    ):
        (words,) = commands([command])
        with pytest.raises(AssertionError):
            check(words)
    words = "python -m official_selftrain.train --gin_file=gin/quickstart.gin"
    with pytest.raises(ValueError, match="nearest: SEED"):
        check([*words.split(), "--gin_param=SEDE = 3"])
    assert "the-papers-claims-at-a-small-scale" in anchors(ROOT / "README.md")
    assert len(commands(page("README.md")[1])) > 30
    assert len(commands(page("gin/coco_s3.gin")[1])) == 1
