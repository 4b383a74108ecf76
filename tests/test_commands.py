"""The start of every command in a fresh Python: fast answers, and no log but ours."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = sorted({path.stem for path in ROOT.glob("official_selftrain/[a-z]*.py")})
TINY = "--gin_file=tests/tiny.gin"

pytestmark = pytest.mark.process


def call(command, *arguments, options=()):
    """Run a command as a shell does, with the environment of a new user."""
    names = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "PYTHONWARNINGS")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    module = f"official_selftrain.{command}"
    return subprocess.run(
        [sys.executable, *options, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )


def answer(command, *arguments):
    """Return the exit code and all output of a command that may not take long."""
    done = call(command, *arguments, options=["-X", "importtime"])
    lines = done.stderr.splitlines()
    imports = [line for line in lines if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in imports}
    assert {"absl", "official_selftrain"} < imported
    # What takes longer than a tenth of a second to import.
    assert not imported & {"tensorflow", "keras", "matplotlib", "sklearn", "numpy"}
    said = [line for line in lines if not line.startswith("import time:")]
    return done.returncode, done.stdout, "\n".join(said)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_without_tensorflow(command):
    code, shown, errors = answer(command, "--help")
    assert (code, errors) == (1, "")  # absl's exit code of --help
    for text in ("Exit codes: 0", "--[no]traceback", "official_selftrain."):
        assert text in " ".join(shown.split())


# What every command needs, with one value that is wrong.
MISTAKES = {
    "train": ([TINY, "--model_dir=x", "--stages=techer"], "(nearest: teacher)"),
    "study": (["--gin_file=gin/stdy.gin", "--model_dir=x"], "gin_file='gin/stdy.gin'"),
    "preview": ([TINY, "--output=x.jpg"], "Expected a .png file. Received: output="),
    "describe": (["--gin_file=quickstrt.gin"], "nearest shipped file: gin/quickstart"),
    "init": (
        ["--images=tests", "--annotations=none", "--unlabeled=u", "--output=o.gin"],
        "Expected an existing file or folder. Received: annotations='none'",
    ),
    "validate": (["--labels=none"], "Received: labels='none'"),
    "pseudo_label": (
        ["--teacher=http://host/x", "--images=none/*.jpg", "--output_dir=o"],
        "Received: images='none/*.jpg'",
    ),
}


def test_every_command_has_a_mistake():
    assert sorted(MISTAKES) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_mistakes_without_tensorflow(command):
    arguments, text = MISTAKES[command]
    code, shown, errors = answer(command, *arguments)
    assert (code, shown) == (1, "")
    assert errors.startswith(f"{command}: ") and errors.count("\n") == 0
    assert text in errors
    code, shown, errors = answer(command, *arguments, "--bathc_size=3")
    assert (code, shown) == (1, "")
    text = "FATAL Flags parsing error: Unknown command line flag 'bathc_size'"
    assert errors.startswith(text)


def test_a_good_run_says_nothing_but_its_own_lines(tmp_path):
    params = ("TEACHER_STEPS = 2", "STUDENT_STEPS = 2")
    params = [f"--gin_param={param}" for param in params]
    done = call("train", TINY, f"--model_dir={tmp_path / 'run'}", *params)
    assert done.returncode == 0, done.stderr
    names = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert names == ["teacher", "student", "control", "report"]
    # Progress bars, drawn again and again in their line.
    bars = [line for line in re.split(r"[\r\n]+", done.stderr) if line]
    bar = r"(teacher|pseudo_labels|student|control|evaluation of \w+): +\d+%\|.*\].?"
    assert bars and [line for line in bars if not re.fullmatch(bar, line)] == []


def test_notes_are_hidden_while_tensorflow_is_imported_and_warnings_shown(tmp_path):
    """A stand-in for TensorFlow, whose libraries write to the process's stderr."""
    (tmp_path / "tensorflow.py").write_text(
        "import os\n"
        'os.write(2, b"WARNING: All log messages before absl::InitializeLog() is\\n")\n'
        'os.write(2, b"I0000 00:00:17 7 port.cc:153] operations are on.\\n")\n'
        'os.write(2, b"W0000 00:00:17 7 gpu.cc:1] Cannot dlopen some libraries.\\n")\n'
        'level = os.environ["TF_CPP_MIN_LOG_LEVEL"]\n'
    )
    code = (
        "import runpy, sys; "
        f"quiet = runpy.run_path({str(ROOT / 'official_selftrain/cli/quiet.py')!r}); "
        "quiet['import_tensorflow'](); print(sys.modules['tensorflow'].level)"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    for level in (None, "0"):
        if level:
            environment["TF_CPP_MIN_LOG_LEVEL"] = level
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        assert done.stdout == (level or "1") + "\n"
        assert done.stderr == (
            "W0000 00:00:17 7 gpu.cc:1] Cannot dlopen some libraries.\n"
        )


SCRIPT = """
import sys
import official_selftrain
assert official_selftrain.RetinaNet and official_selftrain.training
import keras
print(keras.saving.get_registered_object("official_selftrain>RetinaNet").__name__)
"""


@pytest.mark.parametrize("how", ["-c", "script", "module"])
def test_importing_the_package_registers_its_models_with_keras(tmp_path, how):
    """Only the package's own commands import less."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(SCRIPT)
    (tmp_path / "mine" / "train.py").write_text("")
    arguments = {
        "-c": ["-c", SCRIPT],
        "script": ["mine/__init__.py"],
        "module": ["-m", "mine.train"],
    }
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *arguments[how]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout == "RetinaNet\n", done.stderr
