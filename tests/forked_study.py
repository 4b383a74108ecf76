"""The study command whose trainings are forked instead of started in a fresh Python.

`processes.call` runs this file like a command. It has imported TensorFlow, and so have
its trainings, each of which is a process with its own settings, log and exit code.
"""

import os
import runpy
import sys
import traceback
import types

import gin
from absl import flags

from official_selftrain.experiment import studies


class Training:
    """What `studies` uses of `subprocess.Popen`."""

    def __init__(self, command, stdout, stderr, pass_fds, env):
        del stderr, pass_fds  # the log too; a forked process has all files
        python, option, module, *arguments = command
        assert (python, option) == (sys.executable, "-m")
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = _code_of(module, arguments, stdout, env)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _code_of(module, arguments, log, env):
    for number in (1, 2):
        os.dup2(log.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, closefd=False) for n in (1, 2))
    os.environ.update(env)
    # Flags and settings of the study.
    for name in ("model_dir", "jobs"):
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    gin.clear_config()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, None, "__main__", True)
    except SystemExit as error:
        return error.code or 0
    return 0


if __name__ == "__main__":
    studies.subprocess = types.SimpleNamespace(Popen=Training)
    runpy.run_module("official_selftrain.study", None, "__main__", True)
