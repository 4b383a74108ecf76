"""Read gin files, for all commands that run an experiment."""

import difflib
import inspect
import os
import re

import gin
from absl import flags, logging

from official_selftrain.cli import command_line, gin_folder, quiet
from official_selftrain.files import hashes

_ROOT = "experiment.Experiment"
# Settings that neither the first teacher nor its labels depend on.
_AFTER_LABELS = ("student", "teaching")
_TEACHING = "experiment.Teaching"

GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", None, "The experiment. Repeatable; later files override.", required=True
)
GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param",
    [],
    'A setting that overrides the files, such as "SEED = 3". Repeatable.',
)
flags.adopt_module_key_flags(command_line)


def load():
    """Parse the files and overrides of the command line; see `load_config`.

    Files of the command line that don't exist are reported before TensorFlow is
    imported.
    """
    for path in GIN_FILE.value:
        gin_folder.find(path)
    quiet.import_tensorflow()
    load_config(GIN_FILE.value, GIN_PARAM.value)


def load_config(files, params):
    """Parse gin files and overrides, with stricter checks than gin's.

    gin accepts unused macros and settings of unused functions; both are errors here.

    Args:
        files: list of str, as in `gin_folder.find`.
        params: list of str.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for anything that gin or the checks reject.
    """
    files = [gin_folder.find(path) for path in files]
    for path in files:
        gin.add_config_file_search_path(os.path.dirname(os.path.abspath(path)))
    # Files in other folders include "include/base.gin" too.
    gin.add_config_file_search_path(gin_folder.FOLDER)
    # gin logs every folder that lacks an included file.
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
    except NameError as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"Expected an import for every name of a gin file. Received: {reason}"
        ) from error
    except ValueError as error:
        raise ValueError(_nearest_name(str(error))) from error
    finally:
        logging.set_verbosity(verbosity)
    _check_references()
    _check_scopes()
    _check_overridden()
    _check_stages()
    gin.finalize()


def _nearest_name(text):
    """Return gin's message about an unknown name, with the nearest known one."""
    text = text.strip().split("\n")[0]
    unknown = re.match(r"No configurable matching '(.+)'", text)
    if unknown:
        names = {
            ".".join(name.split(".")[-2:]) for name, _ in gin.config._REGISTRY.items()
        }
        return _unknown("a name that a gin file imports", unknown[1], names)
    pattern = r"Configurable '(.+)' doesn't have a parameter named '(.+)'"
    unknown = re.match(pattern, text)
    if unknown:
        group = gin.config._REGISTRY.get_match(unknown[1])
        parameters = inspect.signature(group.wrapped).parameters
        return _unknown(f"a parameter of {unknown[1]}", unknown[2], parameters)
    return text


def _check_scopes():
    """Check that settings of a scope are applied where the scope is active.

    gin accepts `student/training.Machine.precision`, although a machine is created once
    for all stages.
    """
    config = gin.config._CONFIG
    applied = _applied(config)
    for scope, selector in sorted(config):
        parts = tuple(scope.split("/"))
        stacks = {stack for stack, name in applied if name == selector}
        is_applied = any(stack[: len(parts)] == parts for stack in stacks)
        if scope and selector != "gin.macro" and not is_applied:
            scopes = sorted("/".join(stack) or "none" for stack in stacks)
            raise ValueError(
                f"Expected settings of {selector} in a scope in which it is used "
                f"({', '.join(scopes)}). Received: {scope}"
            )


def _check_overridden():
    """Check that no setting is overridden wherever it would be applied.

    gin ignores `training.Loss.alpha = 3` without a word where
    `student/training.Loss.alpha` is set, too.
    """
    config = gin.config._CONFIG
    applied = _applied(config)
    for (scope, selector), settings in sorted(config.items()):
        parts = tuple(scope.split("/")) if scope else ()
        stacks = [s for s, n in applied if n == selector and s[: len(parts)] == parts]
        for name in settings if selector != "gin.macro" else ():
            # A teacher has no pseudo-labels to weigh.
            counted = [s for s in stacks if name != "alpha" or s[:1] != ("teacher",)]
            over = [_overriding(config, s, parts, selector, name) for s in counted]
            if over and all(over):
                setting = f"{selector}.{name}"
                raise ValueError(
                    f"Expected {over[0]}/{setting}, which overrides it. Received: "
                    f"{scope + '/' * bool(scope)}{setting}"
                )


def _overriding(config, stack, parts, selector, name):
    """Return the innermost scope of a stack that overrides a setting, or None."""
    for end in range(len(stack), len(parts), -1):
        scope = "/".join(stack[:end])
        if name in config.get((scope, selector), {}):
            return scope
    return None


def _applied(config):
    """Return the pairs of active scopes and selector whose settings are applied.

    A reference without a scope is resolved in the scopes of what holds it.
    """
    root = gin.config._REGISTRY.get_match(_ROOT)
    applied, queue = set(), [((), root.selector)]
    while queue:
        stack, selector = queue.pop()
        if (stack, selector) in applied:
            continue
        applied.add((stack, selector))
        for end in range(len(stack) + 1):
            settings = config.get(("/".join(stack[:end]), selector), {})
            queue += _held(config, settings, stack)
    return applied


def _held(config, settings, stack):
    """Return the pairs that settings refer to; macros are looked through."""
    pairs = []
    for reference in gin.config.iterate_references(settings):
        selector, scopes = reference.configurable.selector, tuple(reference.scopes)
        if selector == "gin.macro":
            value = config.get(("/".join(scopes), selector), {})
            pairs += _held(config, value, stack) + _held(config, value, scopes)
        else:
            pairs.append((scopes or stack, selector))
    return pairs


def _check_stages():
    """Check that gin doesn't bind what an experiment gives its trainings."""
    for (scope, selector), settings in gin.config._CONFIG.items():
        bound = {"model", "streams", "output_dir", "machine"} & set(settings)
        if bound and selector.endswith("training.fit"):
            raise ValueError(
                "Expected settings of training.fit that the experiment leaves open. "
                f"Received: {scope + '/' * bool(scope)}training.fit.{min(bound)}"
            )


def _check_references():
    """Check that every macro and setting is used, and every used macro is set."""
    # gin has no public access to its bindings: {(scope, selector): {name: value}}.
    config = gin.config._CONFIG
    uses, scopes = _uses(config)
    macros = {node for node in uses if node.startswith("%")}
    for node in sorted(set().union(*uses.values()) - set(uses)):
        if node.startswith("%"):
            raise ValueError(_unknown("a macro that is set", node[1:], macros))
    reached = _reached(uses)
    for node in sorted(set(uses) - reached):
        if node.startswith("%"):
            raise ValueError(
                _unknown("a macro that is used", node[1:], reached & macros)
            )
        raise ValueError(_unknown("settings of a function that is used", node, reached))
    for scope, selector in sorted(config):
        if selector != "gin.macro" and scope and scope not in scopes:
            raise ValueError(_unknown("a scope that is used", scope, scopes))


def _uses(config):
    """Return the references of every node's settings, and the used scopes."""
    uses, scopes = {}, set()
    for (scope, selector), settings in config.items():
        used = uses.setdefault(_node(scope, selector), set())
        for reference in gin.config.iterate_references(settings):
            node = _reference_node(reference)
            used.add(node)
            if not node.startswith("%"):
                scopes.update(reference.scopes)
    return uses, scopes


def _reached(uses):
    """Return the nodes that the experiment uses, directly or indirectly."""
    root = gin.config._REGISTRY.get_match(_ROOT)
    if root is None:
        raise ValueError(f"Expected an experiment. Received: gin files without {_ROOT}")
    reached, queue = set(), [root.selector]
    while queue:
        node = queue.pop()
        if node not in reached:
            reached.add(node)
            queue.extend(uses.get(node, ()))
    return reached


def _reference_node(reference):
    return _node("/".join(reference.scopes), reference.configurable.selector)


def _node(scope, selector):
    return f"%{scope}" if selector == "gin.macro" else selector


def teacher_settings():
    """Return the settings that determine a teacher and its labels.

    Two experiments with equal teacher settings can share both.

    Returns:
        str: all settings except those of the scope `student`, of `Teaching`, and of
        macros that only these use.
    """
    settings, macros = {}, {}
    for (scope, selector), values in gin.config._CONFIG.items():
        if selector == "gin.macro":
            macros[f"%{scope}"] = values["value"]
        elif scope.split("/")[0] != "student" and not selector.endswith(_TEACHING):
            is_root = selector.endswith(_ROOT)
            kept = {
                name: value
                for name, value in values.items()
                if not (is_root and name in _AFTER_LABELS)
            }
            settings[f"{scope}/{selector}"] = kept
    used, queue = set(), [settings]
    while queue:
        for reference in gin.config.iterate_references(queue.pop()):
            name = _reference_node(reference)
            if name in macros and name not in used:
                used.add(name)
                queue.append(macros[name])
    settings.update({name: macros[name] for name in used})
    return "\n".join(f"{name}: {settings[name]!r}" for name in sorted(settings))


def described():
    """Return the settings of what an experiment calls, for its records of origin.

    Returns:
        `(text, functions)`: the whole configuration; for the experiment's `model`,
        `teacher` and `student` a dict of setting to text. Files are described by name
        and hash, so that they may be moved.
    """
    config = gin.config._CONFIG
    root = config.get(("", gin.config._REGISTRY.get_match(_ROOT).selector), {})
    functions = {}
    for name in ("model", "teacher", "student"):
        functions[name] = _described(config, root.get(name))
    return gin.config_str(), functions


def data_settings():
    """Return the settings of an experiment's data: equal ones read equal data."""
    config = gin.config._CONFIG
    root = config.get(("", gin.config._REGISTRY.get_match(_ROOT).selector), {})
    return repr(_described(config, root.get("data"), repr))


def _described(config, reference, text_of=None):
    """Return the settings that apply where a function is called, as text.

    Args:
        config: dict, gin's bindings.
        reference: gin's reference of the function.
        text_of: function (value) → str for values that aren't references or
            collections; by default files by name and hash.
    """
    text_of = text_of or _text_of
    texts, done, queue = {}, set(), _held(config, {"": reference}, ())
    while queue:
        node = stack, selector = queue.pop()
        if node in done:
            continue
        done.add(node)
        settings = {}
        for end in range(len(stack) + 1):
            settings |= config.get(("/".join(stack[:end]), selector), {})
        # What is logged doesn't bear on what is learned.
        if not selector.endswith("training.Monitoring"):
            name = ".".join(selector.split(".")[-2:])
            for key, value in settings.items():
                place = "/".join(stack[1:]) + "/" * (len(stack) > 1)
                texts[f"{place}{name}.{key}"] = _value_text(config, value, text_of)
        queue += _held(config, settings, stack)
    return dict(sorted(texts.items()))


def _value_text(config, value, text_of):
    """Return a setting's value as text, macros replaced by theirs."""
    if isinstance(value, gin.config.ConfigurableReference):
        selector, scope = value.configurable.selector, "/".join(value.scopes)
        if selector == "gin.macro":
            value = config.get((scope, selector), {}).get("value")
            return _value_text(config, value, text_of)
        name = ".".join(selector.split(".")[-2:])
        return f"@{name}{'()' * value.evaluate}"
    if isinstance(value, (list, tuple)):
        items = (_value_text(config, item, text_of) for item in value)
        return f"({', '.join(items)})"
    if isinstance(value, dict):
        items = (f"{k!r}: {_value_text(config, v, text_of)}" for k, v in value.items())
        return f"{{{', '.join(items)}}}"
    return text_of(value)


def _text_of(value):
    """Return a value as text; files by name and hash, other places by name."""
    # TensorFlow's checkpoints are named without their endings.
    for path in (value, f"{value}.index") if isinstance(value, str) else ():
        if os.path.exists(path) and path:
            return f"{os.path.basename(value)} of hash {hashes.sha256(path)[:12]}"
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.basename(value)
    return repr(value)


def _unknown(expected, received, valid):
    near = difflib.get_close_matches(
        received, [name.lstrip("%") for name in valid], 1, 0
    )
    nearest = f" (nearest: {near[0]})" if near else ""
    return f"Expected {expected}{nearest}. Received: {received}"
