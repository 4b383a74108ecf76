"""README's Python example runs unchanged."""

import json
import pathlib
import re

import processes
import pytest

from official_selftrain.data import sources

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.process
def test_model_fit_in_user_code(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    show = "\nimport json\nprint(json.dumps([first_loss, history.history]))\n"
    script.write_text(code + show)
    done = processes.call(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "student.keras").exists()
    first_loss, losses = json.loads(done.stdout.splitlines()[-1])
    assert set(losses) == {"loss", "labeled_loss", "pseudo_loss", "pseudo_scale"}
    assert losses["labeled_loss"][-1] < first_loss


def test_study_tables_match_the_recorded_ones():
    text = README.read_text()
    results = README.parent / "benchmarks" / "results" / "studies"
    names = {path.stem for path in results.glob("*.md")}
    studies = {path.stem for path in (README.parent / "gin/study").glob("digits_*.gin")}
    assert names == {"claims", *studies}
    for name in names:
        table = (results / f"{name}.md").read_text().split("\n\n")[name != "claims"]
        assert table.startswith("|") and table in text, name
        assert name == "claims" or (results / f"{name}.csv").exists()


def test_paths_in_readme_exist():
    root = README.parent
    for path in re.findall(
        r"`((?:gin|benchmarks|official_selftrain|tests)/[\w./]+)`", README.read_text()
    ):
        assert (root / path).exists(), path


def test_every_source_is_in_readme_s_table():
    text = README.read_text()
    for name in sources.__all__:
        assert f"`sources.{name}(" in text, name
