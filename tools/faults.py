"""Small faults in Python source, made by editing it at the positions of its nodes.

Everything else in the source stays as it is. Left out are docstrings and other texts,
type annotations, decorators, imports, and what a raised error says.
"""

import ast
import dataclasses
import itertools
import random

_OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_OPPOSITES = {"min": "max", "minimum": "maximum", "any": "all", "floor": "ceil"}
_OPPOSITES |= {
    "argmin": "argmax",
    "reduce_min": "reduce_max",
    "reduce_any": "reduce_all",
}
_OPPOSITES |= {new: old for old, new in _OPPOSITES.items()}
# Swapped arguments of these make no difference, or nothing but an error.
_NOT_SWAPPED = {*_OPPOSITES, "add", "multiply", "equal", "logical_and", "logical_or"}
_NOT_SWAPPED |= {"isinstance", "issubclass", "getattr", "hasattr", "cast", "reshape"}
_NOT_SWAPPED |= {"expand_dims", "ensure_shape", "broadcast_to"}
_SKIPPED_NODES = (ast.Import, ast.ImportFrom, ast.JoinedStr)
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of one place in a file.

    `file` is relative to the root; `function` is the qualified name; `before` and
    `after` are the changed lines, without indentation; `first` and `last` are the lines
    that run the place; `start`, `end` and `new` are the edit, in bytes.
    """

    file: str
    function: str
    line: int
    before: str
    after: str
    first: int
    last: int
    start: int
    end: int
    new: str

    @property
    def identity(self):
        """What stays the same when lines are added above."""
        return self.file, self.function, self.before, self.after

    def applied(self, text):
        """Return a file's text with this fault."""
        code = text.encode()
        return (code[: self.start] + self.new.encode() + code[self.end :]).decode()


class _Source:
    """A file's text, addressed by nodes."""

    def __init__(self, text):
        self.code = text.encode()
        lengths = (len(line) for line in self.code.splitlines(keepends=True))
        self._starts = [0, *itertools.accumulate(lengths)]

    def start(self, node):
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node):
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node):
        return self.code[self.start(node) : self.end(node)].decode()

    def replace(self, node, new):
        return self.start(node), self.end(node), new

    def between(self, left, right, old, new):
        """Yield the edit of an operator between two nodes."""
        gap = self.code[self.end(left) : self.start(right)]
        if b"#" not in gap:
            start = self.end(left) + gap.index(old.encode())
            yield start, start + len(old), new

    def swap(self, first, second):
        """Yield the edit that swaps two nodes."""
        between = self.code[self.end(first) : self.start(second)].decode()
        if self.of(first) != self.of(second):
            new = self.of(second) + between + self.of(first)
            yield self.start(first), self.end(second), new

    def lines(self, start, end, new):
        """Return the lines of an edit before and after it, without indentation."""
        head = self.code.rfind(b"\n", 0, start) + 1
        tail = self.code.find(b"\n", end)
        before = self.code[head:tail].decode()
        after = (self.code[head:start] + new.encode() + self.code[end:tail]).decode()
        return " ".join(before.split()), " ".join(after.split())


def _of_operators(node, source):
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield from source.between(node.left, node.right, *_OPERATORS[type(node.op)])
    elif isinstance(node, ast.AugAssign) and type(node.op) in _OPERATORS:
        yield from source.between(node.target, node.value, *_OPERATORS[type(node.op)])
    elif isinstance(node, ast.BoolOp):
        for pair in itertools.pairwise(node.values):
            yield from source.between(*pair, *_OPERATORS[type(node.op)])
    elif isinstance(node, ast.Compare):
        for op, pair in zip(
            node.ops, itertools.pairwise([node.left, *node.comparators])
        ):
            yield from source.between(*pair, *_OPERATORS[type(op)])
    elif isinstance(node, ast.UnaryOp):
        operand = source.of(node)[len("not" if isinstance(node.op, ast.Not) else "-") :]
        yield source.replace(node, operand.lstrip())


def _of_constants(node, source):
    value = getattr(node, "value", None)
    if not isinstance(node, ast.Constant) or not isinstance(value, int | float):
        return
    if isinstance(value, bool):
        others = [not value]
    elif value in (0, 1):
        others = [1 - value, 2 * value] if value else [1 - value]
    else:
        others = [value + 1 if isinstance(value, int) else 2 * value]
    for other in others:
        yield source.replace(node, repr(other))


def _of_calls(node, source):
    if not isinstance(node, ast.Call):
        return
    name = source.of(node.func).rpartition(".")[2]
    if name in _OPPOSITES:
        end = source.end(node.func)
        yield end - len(name), end, _OPPOSITES[name]
    swapped = node.args[1:3] if name == "where" else node.args[:2]
    if len(swapped) == 2 and name not in _NOT_SWAPPED:
        if not any(isinstance(argument, ast.Starred) for argument in swapped):
            yield from source.swap(*swapped)


def _of_branches(node, source):
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        if not isinstance(node.test, ast.UnaryOp | ast.Compare):  # changed elsewhere
            yield source.replace(node.test, f"not ({source.of(node.test)})")
    value = node.value if isinstance(node, ast.Return) else None
    operands = []
    if isinstance(value, ast.BinOp):
        operands = [value.left, value.right]
    elif isinstance(value, ast.BoolOp):
        operands = [value.values[0], value.values[-1]]
    elif isinstance(value, ast.IfExp):
        operands = [value.body, value.orelse]
    for operand in operands:
        yield source.replace(value, source.of(operand))


def _of_statements(node, source):
    kinds = (ast.AugAssign, ast.Raise, ast.Break, ast.Continue, ast.Delete)
    is_deleted = isinstance(node, kinds)
    if isinstance(node, ast.Expr):
        is_deleted = not isinstance(node.value, ast.Constant)
    elif isinstance(node, ast.Assign):  # not the first one: that is a NameError
        used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        is_deleted = any(
            not isinstance(target, ast.Name | ast.Tuple) or source.of(target) in used
            for target in node.targets
        )
    if is_deleted:
        yield source.replace(node, "pass")


_KINDS = (_of_operators, _of_constants, _of_calls, _of_branches, _of_statements)


def _lines_of(node):
    """Return the first and last line of a statement; of a compound one, its head's."""
    body = getattr(node, "body", None)
    if isinstance(node, ast.FunctionDef):  # defaults of arguments show in the body
        return body[0].lineno, node.end_lineno
    if body:
        return node.lineno, max(node.lineno, body[0].lineno - 1)
    return node.lineno, node.end_lineno


def _walk(node, function="", lines=(1, 1)):
    """Yield the nodes that may hold a fault, each with its function and lines."""
    if isinstance(node, _SKIPPED_NODES):
        return
    if isinstance(node, ast.stmt | ast.excepthandler):
        lines = _lines_of(node)
    yield node, function or "(module)", lines
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED_FIELDS or isinstance(node, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child, function, lines)


def _runs_once(node):
    return any("cache" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))


def faults_of(text, file):
    """Return all faults of a file's text, in the order of their lines."""
    source = _Source(text)
    tree = ast.parse(text)
    once = [node for node in ast.walk(tree) if _runs_once(node)]
    found = {}
    for node, function, (first, last) in _walk(tree):
        edits = itertools.chain(*(kind(node, source) for kind in _KINDS))
        for start, end, new in edits:
            before, after = source.lines(start, end, new)
            line = source.code.count(b"\n", 0, start) + 1
            if any(f.lineno <= line <= f.end_lineno for f in once):
                first, last = 1, tree.body[-1].end_lineno  # every test of the file
            found[start, end, new] = Fault(
                file, function, line, before, after, first, last, start, end, new
            )
    return sorted(found.values(), key=lambda fault: (fault.start, fault.end, fault.new))


def _dealt(groups):
    """Return the members of groups, one of each in turn."""
    rows = itertools.zip_longest(*groups)
    return [member for row in rows for member in row if member is not None]


def sample(rooms, count, seed):
    """Draw faults evenly over the rooms, and in each over its functions.

    Args:
        rooms: dict of name to list of Fault.
        count: int; a smaller count gives the beginning of the same list.
        seed: int.

    Returns:
        list of (name of the room, Fault).
    """
    drawn = []
    for name, faults in rooms.items():
        rng = random.Random(f"{seed} {name}")
        groups = {}
        for fault in faults:
            groups.setdefault((fault.file, fault.function), []).append((name, fault))
        groups = list(groups.values())
        for group in [groups, *groups]:
            rng.shuffle(group)
        drawn.append(_dealt(groups))
    return _dealt(drawn)[:count]
