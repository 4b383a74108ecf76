"""Progress: lines in a log, a bar on a terminal."""

import io
import re

import pytest

from official_selftrain.checks import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def use(stream):
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return use


def test_a_log_has_a_line_per_interval(stderr, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    log = stderr(io.StringIO())
    with progress.bar(12, "student", "step", done=2) as bar:
        bar.set_postfix({"loss": "0.500"})
        assert log.getvalue() == ""  # nothing done yet
        bar.update(4)
        progress.note("a warning")
        bar.update(6)
    first, warning, last = log.getvalue().splitlines()
    line = r"student: %s of 12 steps, +\S+step/s, 00:00 elapsed, 00:00 left, loss=0.500"
    assert re.fullmatch(line % 6, first)
    assert warning == "a warning"
    assert re.fullmatch(line % 12, last)


def test_a_short_loop_leaves_a_log_alone(stderr):
    log = stderr(io.StringIO())
    assert list(progress.over("abc", 3, "evaluation", "image")) == ["a", "b", "c"]
    with progress.bar(None, "reading", "file", disable=True) as bar:
        bar.update(100)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar(stderr):
    shown = stderr(Terminal())
    with progress.bar(4, "evaluation", "image") as bar:
        bar.update(4)
        progress.note("a warning")
    assert "\r" in shown.getvalue() and "a warning\n" in shown.getvalue()
    assert re.search(r"evaluation: 100%\|.*\| 4/4 \[.*image/s\]", shown.getvalue())
