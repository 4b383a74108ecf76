"""Run an experiment: teacher, pseudo-labels, student, control, evaluation.

python -m official_selftrain.train \\
    --gin_file=gin/quickstart.gin --model_dir=runs/quickstart

Run the same command again to continue after an interruption: what is finished
is kept. Exit codes: 0 done, 1 a mistake in the call or the data, 130
interrupted.
"""

import difflib
import os
import sys

import gin
import tensorflow as tf
from absl import app, flags, logging

from official_selftrain import experiment

_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", None, "The experiment. Repeatable; later files win.", required=True
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param",
    [],
    'A setting that wins over the files, such as "SEED = 3". Repeatable.',
)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Where everything is kept.", required=True
)
_STAGES = flags.DEFINE_list(
    "stages",
    list(experiment.STAGES),
    f"Stages to run, out of {','.join(experiment.STAGES)}.",
)
_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show where an error arose, not just its text."
)

_ROOT = "experiment.run"

# What a mistake in the call, the settings or the data can raise.
_MISTAKES = (
    ValueError,
    TypeError,
    OSError,
    RuntimeError,
    ImportError,
    tf.errors.OpError,
)


def main(argv):
    """Run the command line."""
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        return _fail(f"Expected only flags. Received: {argv[1]!r}")
    try:
        load_config(_GIN_FILE.value, _GIN_PARAM.value)
        claim_model_dir(_MODEL_DIR.value)
        run = gin.get_configurable(experiment.run)
        results = run(_MODEL_DIR.value, stages=_STAGES.value)
    except KeyboardInterrupt:
        _fail("Interrupted. Run the same command again to continue.")
        return 130
    except _MISTAKES as error:
        if _TRACEBACK.value:
            raise
        return _fail(_first_line(error))
    _print_results(results)
    return 0


def load_config(files, params):
    """Parse gin files and overrides and check what gin doesn't.

    gin accepts macros that nobody reads and settings of functions that nobody
    calls; both are mistakes here.

    Args:
        files: list of str.
        params: list of str.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for anything that gin or the checks refuse.
    """
    for path in files:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected a gin file. Received: gin_file={path!r}")
        gin.add_config_file_search_path(os.path.dirname(os.path.abspath(path)))
    # gin logs every folder in which an included file was not found.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        gin.parse_config_files_and_bindings(files, params, finalize_config=False)
    except SyntaxError as error:
        raise ValueError(
            f"Expected settings such as SEED = 3 in {error.filename or 'gin_param'}, "
            f"line {error.lineno}. Received: {(error.text or '').strip()!r}, "
            f"{error.msg}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    _check_references()
    gin.finalize()


def _check_references():
    """Check that every macro and every setting is used, and every macro set."""
    # gin has no public view of what it parsed: {(scope, selector): {name: value}}.
    config = gin.config._CONFIG
    uses, scopes = {}, set()
    for (scope, selector), settings in config.items():
        used = uses.setdefault(_node(scope, selector), set())
        for reference in gin.config.iterate_references(settings):
            node = _node("/".join(reference.scopes), reference.configurable.selector)
            used.add(node)
            if not node.startswith("%"):
                scopes.update(reference.scopes)
    macros = {node for node in uses if node.startswith("%")}
    for node in sorted(set().union(*uses.values()) - set(uses)):
        if node.startswith("%"):
            raise ValueError(_unknown("a macro that is set", node[1:], macros))
    reached, queue = set(), [gin.config._REGISTRY.get_match(_ROOT).selector]
    while queue:
        node = queue.pop()
        if node not in reached:
            reached.add(node)
            queue.extend(uses.get(node, ()))
    for node in sorted(set(uses) - reached):
        if node.startswith("%"):
            raise ValueError(
                _unknown("a macro that is used", node[1:], reached & macros)
            )
        raise ValueError(_unknown("settings of a function that is used", node, reached))
    for scope, selector in sorted(config):
        if selector != "gin.macro" and scope and scope not in scopes:
            raise ValueError(_unknown("a scope that is used", scope, scopes))


def _node(scope, selector):
    return f"%{scope}" if selector == "gin.macro" else selector


def claim_model_dir(model_dir):
    """Write `operative.gin` into `model_dir`, or check that it is the same.

    Args:
        model_dir: str.

    Raises:
        ValueError: if it is a file or belongs to another experiment.
    """
    if os.path.exists(model_dir) and not os.path.isdir(model_dir):
        raise ValueError(
            f"Expected a folder. Received: model_dir={model_dir!r}, a file"
        )
    config = gin.config_str()
    path = os.path.join(model_dir, "operative.gin")
    if os.path.exists(path):
        with open(path) as file:
            known = file.read().splitlines()
        changes = difflib.unified_diff(known, config.splitlines(), lineterm="", n=0)
        for line in list(changes)[2:]:
            if line[0] in "+-" and not line[1:].startswith("#") and line[1:].strip():
                there = "has" if line[0] == "-" else "lacks"
                raise ValueError(
                    f"Expected the settings that {model_dir} was made with (it {there} "
                    f"{line[1:].strip()!r}). Received: others; choose another model_dir"
                )
        return
    os.makedirs(model_dir, exist_ok=True)
    with open(path + ".partial", "w") as file:
        file.write(config)
    os.replace(file.name, path)


def _unknown(expected, received, known):
    near = difflib.get_close_matches(
        received, [name.lstrip("%") for name in known], 1, 0
    )
    nearest = f" (nearest: {near[0]})" if near else ""
    return f"Expected {expected}{nearest}. Received: {received}"


def _first_line(error):
    """Return an error's text without the places gin adds to it."""
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return text.strip().split("\n")[0] or type(error).__name__


def _fail(text):
    print(f"train: {text}", file=sys.stderr)
    return 1


def _print_results(results):
    for stage in ("teacher", "student", "control"):
        if stage in results:
            figures = ", ".join(
                f"{name} {results[stage][name]:.2f}"
                for name in ("AP", "AP50", "AP75")
                if results[stage].get(name) is not None
            )
            print(f"{stage}: {figures}")
    if results:
        print(f"report: {os.path.join(_MODEL_DIR.value, 'report.html')}")


if __name__ == "__main__":
    app.run(main)
