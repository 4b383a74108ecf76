"""The Python that tests start: arguments, files, exit codes and signals as Python's."""

import os
import signal
import subprocess
import time

import processes
import pytest

pytestmark = pytest.mark.process


def run(*arguments, **options):
    command = [processes.python(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("code", "returncode", "error"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('bye')", 1, "bye\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.abort()", -signal.SIGABRT, ""),
    ],
)
def test_exit_codes(code, returncode, error):
    done = run("-W", "ignore", "-c", code)
    assert done.returncode == returncode and error in done.stderr


def test_arguments_folder_environment_and_files(tmp_path):
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['X'], input())"
    environment = {**os.environ, "X": "y"}
    done = run("-c", code, "a", cwd=tmp_path, env=environment, input="line\n")
    assert done.stdout == f"['-c', 'a'] {tmp_path} y line\n", done.stderr
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, sys\natexit.register(print, 'end', *sys.argv[1:])\n"
    )
    assert run(script, "b").stdout == "end b\n"
    reader, writer = os.pipe()
    code = f"import os; os.write({writer}, b'through')"
    assert run("-c", code, pass_fds=[writer]).returncode == 0
    assert os.read(reader, 99) == b"through"
    os.close(reader), os.close(writer)


def test_it_starts_itself():
    code = (
        "import subprocess, sys; print(subprocess.run([sys.executable, '-c', '4/0']))"
    )
    assert "returncode=1" in run("-c", code).stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_signals(number):
    """The process ends with the program that stands for it."""
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    command = [processes.python(), "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(60) == -number
        deadline = time.monotonic() + 60
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
