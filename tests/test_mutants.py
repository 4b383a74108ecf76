"""Faults in the source, and the tool that looks which of them the tests find."""

import ast
import dataclasses
import importlib
import inspect
import json
import linecache
import pathlib
import sys

import processes
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
faults = importlib.import_module("faults")
mutants = importlib.import_module("mutants")
sys.path.remove(str(ROOT / "tools"))


# A line, and after a colon in its own line what becomes of it, one fault a line.
FAULTS = """
y = a + b * c - d
: y = a - b * c - d
: y = a + b / c - d
: y = a + b * c + d
y = a // b % -c**d
: y = a * b % -c**d
: y = a // b // -c**d
: y = a // b % c**d
: y = a // b % -c*d
y = m & n | k
: y = m | n | k
: y = m & n & k
y += z
: pass
: y -= z
y = a and b or not c
: y = a or b or not c
: y = a and b and not c
: y = a and b or c
y = a < b <= c
: y = a <= b <= c
: y = a < b < c
y = a > b, a >= b
: y = a >= b, a >= b
: y = a > b, a > b
y = a == b, a != b
: y = a != b, a != b
: y = a == b, a == b
y = a is b, a is not b
: y = a is not b, a is not b
: y = a is b, a is b
y = a in b, a not in b
: y = a not in b, a not in b
: y = a in b, a in b
y = 0, 1, 7
: y = 1, 1, 7
: y = 0, 0, 7
: y = 0, 2, 7
: y = 0, 1, 8
y = 0.0, 1.0, 0.25
: y = 1.0, 1.0, 0.25
: y = 0.0, 0.0, 0.25
: y = 0.0, 2.0, 0.25
: y = 0.0, 1.0, 0.5
y = True, None, ..., 'text'
: y = False, None, ..., 'text'
y = f(a, b, c=d)
: y = f(b, a, c=d)
y = f(a, a), f(*a, b), f(a)
y = np.where(a, b, c)
: y = np.where(a, c, b)
y = ops.maximum(a, b)
: y = ops.minimum(a, b)
y = min(a), all(b)
: y = max(a), all(b)
: y = min(a), any(b)
return a + b
: return a
: return b
: return a - b
return a and b and c
: return a
: return c
: return a or b and c
: return a and b or c
return a if b else c
: return a
: return c
: return a if not (b) else c
print(x)
: pass
x = f(x)
: pass
y = f(x)
self.y = f(x)
: pass
raise ValueError(1 + 2)
: pass
y: dict[str, 1] = {}
import a.b
y = f'{a + 1}'
'''Add 1 + 2.'''
y = 'ä²', 1 # ü
: y = 'ä²', 0 # ü
: y = 'ä²', 2 # ü
"""


def test_faults_by_hand():
    expected = {}
    for line in FAULTS.strip().split("\n"):
        if line.startswith(": "):
            expected[list(expected)[-1]].append(line.removeprefix(": "))
        else:
            expected[line] = []
    for line, faulty in expected.items():
        found = faults.faults_of(f"def function(x):\n    {line}\n", "a.py")
        assert {fault.before for fault in found} <= {line}
        assert sorted(fault.after for fault in found) == sorted(faulty)


TEXT = '''"""Module: 1 + 1."""

LIMIT = 3


class Box:
    @decorated(1)
    def fits(
        self,
        other: float = 0.5,
    ) -> "1 + 1":
        """Return 1."""
        if other and self:
            return (
                other
                + LIMIT
            )

        def inner():
            return other

        return inner() * 2
'''


def test_places_of_faults():
    found = faults.faults_of(TEXT, "a.py")
    rows = {(f.function, f.line, f.first, f.last, f.before, f.after) for f in found}
    assert rows == {
        ("(module)", 3, 3, 3, "LIMIT = 3", "LIMIT = 4"),
        # The default is used by what runs the body.
        ("Box.fits", 10, 12, 22, "other: float = 0.5,", "other: float = 1.0,"),
        ("Box.fits", 13, 13, 13, "if other and self:", "if other or self:"),
        ("Box.fits", 13, 13, 13, "if other and self:", "if not (other and self):"),
        ("Box.fits", 16, 14, 17, "+ LIMIT", "- LIMIT"),
        ("Box.fits", 15, 14, 17, "other + LIMIT", "other"),
        ("Box.fits", 15, 14, 17, "other + LIMIT", "LIMIT"),
        ("Box.fits", 22, 22, 22, "return inner() * 2", "return inner() / 2"),
        ("Box.fits", 22, 22, 22, "return inner() * 2", "return inner() * 3"),
        ("Box.fits", 22, 22, 22, "return inner() * 2", "return inner()"),
        ("Box.fits", 22, 22, 22, "return inner() * 2", "return 2"),
    }
    [fault] = [fault for fault in found if fault.after == "- LIMIT"]
    assert fault.applied(TEXT) == TEXT.replace("+ LIMIT", "- LIMIT")


def test_a_cached_function_runs_for_every_test():
    text = "import functools\n\n\n@functools.cache\ndef one():\n    return 1\n"
    assert {(f.first, f.last) for f in faults.faults_of(text, "a.py")} == {(1, 6)}


@pytest.mark.parametrize("room", mutants.ROOMS)
def test_every_fault_is_valid_python(room):
    texts, found = {}, mutants.faults_of(ROOT, room)
    for fault in found[:: max(1, len(found) // 100)]:
        text = texts.setdefault(fault.file, (ROOT / fault.file).read_text())
        faulty = ast.dump(ast.parse(fault.applied(text)))
        assert faulty != ast.dump(ast.parse(text)), fault
    files = {pathlib.Path(fault.file).name for fault in found}
    if room == "models":
        assert files == {"anchors.py", "losses.py", "retinanet.py", "segmenter.py"}


def test_sample_is_even_and_the_same_for_a_seed():
    text = "def one(): return 1, 2, 3\n" + "".join(
        f"def f{index}(): return a + b\n" for index in range(5)
    )
    rooms = {
        "large": faults.faults_of(text, "large.py"),
        "small": faults.faults_of("def g(): return 1, 2\n", "small.py"),
    }
    drawn = faults.sample(rooms, 15, seed=0)
    assert drawn == faults.sample(rooms, 15, seed=0) != faults.sample(rooms, 15, 1)
    assert faults.sample(rooms, 9, seed=0) == drawn[:9]
    # The small room has three; the large one six functions, each once before any twice.
    assert [room for room, _ in drawn] == ["large", "small"] * 3 + ["large"] * 9
    large = [fault.function for room, fault in drawn if room == "large"]
    assert len(set(large[:6])) == len(set(large[6:12])) == 6
    assert len(set(fault for _, fault in drawn)) == 15


def test_autograph_reads_the_faulty_source(tmp_path, monkeypatch):
    text = "def sign(x):\n    if x > 0.0:\n        return 1.0\n    return -1.0\n"
    (tmp_path / "toy_of_faults.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(linecache, "updatecache", linecache.updatecache)
    [fault] = [f for f in faults.faults_of(text, "toy_of_faults.py") if ">=" in f.after]
    mutants.install(tmp_path, fault)
    module = importlib.import_module("toy_of_faults")
    assert module.sign(0.0) == 1.0 and "x >= 0.0" in inspect.getsource(module.sign)
    assert tf.function(module.sign)(tf.constant(0.0)) == 1.0
    assert (tmp_path / "toy_of_faults.py").read_text() == text
    del sys.modules["toy_of_faults"]


def test_equivalent_faults_exist():
    """An entry whose line has changed is to be looked at again."""
    found = {
        f.identity for room in mutants.ROOMS for f in mutants.faults_of(ROOT, room)
    }
    for identity, reason in mutants.equivalent_faults(ROOT).items():
        assert identity in found
        assert reason


TOY = """import tensorflow as tf


def larger(a, b):
    return a if a > b else b


def halvings(n):
    while n:
        n = n // 2


def made():
    return [4, 5]


def sign(x):
    if x > tf.constant(1.5):
        return 2.5
    return x


def forgotten():
    return 7
"""

TOY_TESTS = """import pytest
import tensorflow as tf
from official_selftrain.geometry import toy


def test_larger():
    assert toy.larger(2, 1) == 2 and toy.larger(1, 2) == 2


def test_halvings():
    toy.halvings(4)


@pytest.fixture(scope="module")
def made():
    return toy.made()


def test_length(made):
    assert len(made) == 2


def test_members(made):
    assert made[0] == 4


def test_sign():
    assert tf.function(toy.sign)(tf.constant(2.0)) == 2.5


@pytest.mark.slow
def test_forgotten():
    assert toy.forgotten() == 7


def test_fails_without_a_fault():
    assert toy.larger(1, 1) == 2
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Run the tool on a toy package; return its folder and output."""
    root = tmp_path_factory.mktemp("toy")
    for folder in ("official_selftrain/geometry", "tests/geometry", "tools"):
        (root / folder).mkdir(parents=True)
    (root / "official_selftrain" / "__init__.py").touch()
    (root / "official_selftrain" / "geometry" / "toy.py").write_text(TOY)
    (root / "tests" / "geometry" / "test_toy.py").write_text(TOY_TESTS)
    entry = {
        "file": "official_selftrain/geometry/toy.py",
        "function": "larger",
        "before": "return a if a > b else b",
        "after": "return a if a >= b else b",
        "reason": "equal ones are the same",
    }
    (root / "tools" / "equivalent_faults.json").write_text(json.dumps([entry]))
    return root, run(root)


def run(root, *more):
    flags = ["--rooms=geometry", f"--root={root}", "--patience=4", *more]
    done = processes.call("tools/mutants.py", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_results_on_a_toy_package(toy):
    root, output = toy
    lines = (root / "runs" / "mutants" / "results.jsonl").read_text().splitlines()
    results = {
        (line["fault"]["function"], line["fault"]["after"]): line["result"]
        for line in map(json.loads, lines)
    }
    assert results == {
        ("larger", "return a"): "caught",
        ("larger", "return b"): "caught",
        ("halvings", "while not (n):"): "survived",
        ("halvings", "n = n // 3"): "survived",
        ("halvings", "n = n * 2"): "timeout",
        ("halvings", "pass"): "timeout",
        # By the second test of a fixture.
        ("made", "return [5, 5]"): "caught",
        ("made", "return [4, 6]"): "survived",
        # In what AutoGraph makes of it.
        ("sign", "if x >= tf.constant(1.5):"): "survived",
        ("sign", "if x > tf.constant(3.0):"): "caught",
        ("sign", "return 5.0"): "caught",
        ("forgotten", "return 8"): "survived",
    }
    assert "left out, it fails without a fault: tests/geometry/test_toy.py::" in output
    assert (
        "toy.py:24 forgotten  no test executes it\n  - return 7\n  + return 8" in output
    )
    line = json.loads(output.splitlines()[-1])
    assert line["ratios"] == {"geometry": 7 / 12, "all": 7 / 12}
    assert line["figures"] == {
        "seed": 0,
        "geometry": {
            "faults": 13,
            "caught": 5,
            "timeout": 2,
            "survived": 5,
            "equivalent": 1,
        },
    }
    assert line["versions"]["tensorflow"] == tf.__version__


@pytest.mark.process
def test_a_second_run_keeps_the_results(toy):
    root, output = toy
    path = root / "runs" / "mutants" / "results.jsonl"
    lines = path.read_text().splitlines()
    # As if stopped before the last one.
    path.write_text("\n".join(lines[:-1]) + "\n")
    again = run(root)
    assert len(path.read_text().splitlines()) == len(lines)
    assert json.loads(again.splitlines()[-1]) == json.loads(output.splitlines()[-1])
    assert "recording" in output and "recording" not in again


def test_results_hold_for_their_state(tmp_path):
    fault = faults.faults_of("def f(): return 1, 2, 3\n", "a.py")
    lines = [
        ("caught", "a-b", fault[0]),
        ("survived", "a-b", fault[1]),
        ("survived", "a-c", fault[2]),
        ("timeout", "a-c", fault[2]),
    ]
    path = tmp_path / "results.jsonl"
    rows = [
        {"room": "geometry", "result": r, "state": s, "fault": dataclasses.asdict(f)}
        for r, s, f in lines
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def held(state, keep_caught):
        found = mutants.results_of(path, {"geometry": state}, keep_caught)
        return {fault: line["result"] for fault, line in found.items()}

    assert held("a-b", False) == {fault[0]: "caught", fault[1]: "survived"}
    assert held("a-c", False) == {fault[2]: "timeout"}
    assert held("a-d", False) == held("b-b", True) == {}
    assert held("a-d", True) == {fault[0]: "caught", fault[2]: "timeout"}


def test_state_follows_the_package_and_the_room_s_tests(tmp_path):
    package, tests = tmp_path / "official_selftrain", tmp_path / "tests"
    for folder in (package, tests / "geometry"):
        folder.mkdir(parents=True)
    seen = []
    for path in (
        package / "a.py",
        tests / "geometry" / "test_a.py",
        tests / "conftest.py",
        tests / "test_train.py",  # of no room
    ):
        path.write_text("1")
        seen.append(mutants.state_of(tmp_path, "geometry"))
    first, second, third, fourth = (state.split("-") for state in seen)
    assert first[0] == second[0] == third[0]
    assert len({first[1], second[1], third[1]}) == 3
    assert fourth == third
    (package / "a.py").write_text("2")
    assert mutants.state_of(tmp_path, "geometry").split("-")[0] != first[0]


def test_verdicts():
    failed = "1 failed\nFAILED tests/a.py::test_a - AssertionError"
    for code in (1, 2):
        assert mutants.verdict(code, failed) == ("caught", failed.split("\n")[1])
    assert mutants.verdict(2, "") == ("caught", "pytest ended with 2")
    assert mutants.verdict(0, "") == ("survived", "")
    assert mutants.verdict("timeout", "") == ("timeout", "")
    assert mutants.verdict(-11, "") == ("caught", "ended by SIGSEGV")
    with pytest.raises(SystemExit, match="pytest ended with 4.\nno such file"):
        mutants.verdict(4, "no such file")
