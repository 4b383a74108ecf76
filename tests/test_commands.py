"""The start of every command in a fresh Python: fast answers, and no log but ours."""

import ast
import os
import pathlib
import signal
import subprocess
import sys

import keras
import pytest
import toy_training
from PIL import Image

import official_selftrain
from official_selftrain import digits
from official_selftrain.files.run_folder import STAGES
from official_selftrain.training import schedules

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = sorted({path.stem for path in ROOT.glob("official_selftrain/[a-z]*.py")})
TINY = "--gin_file=tests/tiny.gin"

pytestmark = pytest.mark.process


def call(command, *arguments, options=(), path=()):
    """Run a command as a shell does, with the environment of a new user."""
    names = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "PYTHONWARNINGS")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    module = f"official_selftrain.{command}"
    return subprocess.run(
        [sys.executable, *options, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": ":".join(map(str, [ROOT, *path]))},
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
        "a glob that matches one. Received: annotations='none'",
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
    lines = done.stdout.splitlines()
    assert lines[0] == f"plan: {tmp_path / 'run'}"
    # Deeper lines are those of the ledger.
    names = [x.split()[0] for x in lines if x[:2] == "  " and x[2] != " "]
    sources, stages = ["labeled", "unlabeled", "validation"], list(STAGES)
    assert names == [*sources, *stages, "disk"]
    assert [line.split(":")[0] for line in lines if line[0] != " "] == [
        *("plan", "pseudo", "pseudo", "teacher", "student", "control", "report")
    ]
    assert done.stderr == ""  # a loop of a few seconds shows no progress in a log


def test_a_good_labeling_says_nothing_but_its_own_lines(tmp_path):
    """The saved teacher needs classes of `models` and `training`."""
    model = toy_training.tiny_model()
    model.score_threshold = 0.0  # untrained, it scores 0.01 everywhere
    model.compile(keras.optimizers.SGD(schedules.stepwise(10, 0.1, 2)))
    model.save(tmp_path / "teacher.keras")
    for number, (image, *_) in enumerate(digits.compose("test", 3, 0, (32, 32))):
        folder = tmp_path / "images" / ("deep/er" if number else ".")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    (tmp_path / "names.txt").write_text("zero\none\n")
    done = call(
        "pseudo_label",
        f"--teacher={tmp_path / 'teacher.keras'}",
        f"--images={tmp_path}/images/**/*.png",
        f"--labels={tmp_path / 'names.txt'}",
        f"--output_dir={tmp_path / 'labels'}",
        "--score_threshold=0",
        "--score_floor=0",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("labels: 3 of 3 images, 0 skipped")
    assert done.stderr == ""


def test_a_user_s_module_in_a_gin_file_imports_public_names(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from official_selftrain import augment, RetinaNet, fit\n"
        "def mine(): return augment.s1, RetinaNet, fit\n"
    )
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        f'include "{ROOT}/gin/quickstart.gin"\n'
        "import mine\n"
    )
    done = call("describe", f"--gin_file={tmp_path / 'mine.gin'}", path=[tmp_path])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("retinanet, 48 x 48, 80 classes")


TENSORFLOW = r"""
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\n")
os.write(2, b"I0000 00:00:17 7 port.cc:153] operations are on.\n")
os.write(2, b"W0000 00:00:17 7 gpu.cc:1] Cannot dlopen some libraries.\n")
level = os.environ["TF_CPP_MIN_LOG_LEVEL"]
"""
WARNING = "W0000 00:00:17 7 gpu.cc:1] Cannot dlopen some libraries.\n"


def import_stand_in(folder, text, **variables):
    """Import a stand-in for TensorFlow, whose libraries write to the process's log."""
    (folder / "tensorflow.py").write_text(text)
    quiet = str(ROOT / "official_selftrain" / "cli" / "quiet.py")
    code = (
        f"import runpy, sys; quiet = runpy.run_path({quiet!r}); "
        "quiet['import_tensorflow'](); print(sys.modules['tensorflow'].level)"
    )
    return subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"], **variables},
        cwd=folder,
    )


def test_notes_are_hidden_while_tensorflow_is_imported_and_warnings_shown(tmp_path):
    done = import_stand_in(tmp_path, TENSORFLOW)
    assert (done.stdout, done.stderr) == ("1\n", WARNING)
    done = import_stand_in(tmp_path, TENSORFLOW, TF_CPP_MIN_LOG_LEVEL="2")
    assert (done.stdout, done.stderr) == ("2\n", WARNING)
    done = import_stand_in(tmp_path, TENSORFLOW, TF_CPP_MIN_LOG_LEVEL="0")
    assert done.stdout == "0\n"
    assert len(done.stderr.splitlines()) == 3 and done.stderr.endswith(WARNING)


def test_what_ends_the_import_is_shown(tmp_path):
    done = import_stand_in(tmp_path, TENSORFLOW + "os.abort()\n")
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, WARNING)
    done = import_stand_in(tmp_path, TENSORFLOW + "raise ImportError('no library')\n")
    assert done.returncode == 1 and done.stderr.startswith(WARNING)
    assert done.stderr.endswith("ImportError: no library\n")


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
        "module": ["-m", "mine.train", "official_selftrain.yaml"],
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


def test_public_names_of_commands_are_those_of_users():
    tree = ast.parse((ROOT / "official_selftrain" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {alias.name for node in block.body for alias in node.names}
    assert names == set(official_selftrain.__all__) == set(official_selftrain._ORIGINS)
    for name in names:
        lazily = official_selftrain.__getattr__(name)
        assert lazily is getattr(official_selftrain, name), name
    with pytest.raises(AttributeError, match="official_selftrain' has no .* 'nothing'"):
        _ = official_selftrain.nothing
