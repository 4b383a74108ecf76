"""Put small faults into the package, one at a time, and list those that no test finds.

python tools/mutants.py --rooms=geometry

Each fault runs the tests of its room that execute its line, fastest first, until one
fails; tests marked process, notebook or slow are left out. Processes are forked after
the import of TensorFlow and other packages. Results are kept in runs/mutants/, so that
a stopped run continues; a change of the package or of the room's tests starts anew,
but with `--keep_caught`, after adding tests, only survivors run again.
Faults that change nothing a test could see are listed in tools/equivalent_faults.json
with a reason each. The last line of the output is JSON; `--record` appends it to
benchmarks/results/.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import linecache
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
import traceback

import coverage
import faults
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "official_selftrain"
# Room to the files that get faults; its tests are in the folder of that name.
ROOMS = {
    "geometry": ["*.py"],
    "training": ["*.py"],
    "models": ["losses.py", "anchors.py", "retinanet.py", "segmenter.py"],
    "labeling": ["*.py"],
    "data/augmentation": ["*.py"],
}
PRELOADED = (
    "gin hypothesis.extra.numpy keras keras_cv matplotlib.pyplot PIL.Image "
    "pycocotools.cocoeval scipy.stats tensorflow tensorflow_datasets "
    "tensorflow.python.autograph.impl.api"
).split()
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
OPTIONS += ["-m", "not (process or notebook or slow)"]
MEMORY_LIMIT = 8 << 30  # a fault can ask for any amount


class _Faulty(importlib.machinery.SourceFileLoader):
    """Finds and loads one module from a changed text, which AutoGraph reads, too."""

    def __init__(self, name, path, text):
        super().__init__(name, path)
        self._text = text
        read = linecache.updatecache

        def updated(filename, module_globals=None):
            if filename != path:
                return read(filename, module_globals)
            lines = text.splitlines(keepends=True)
            linecache.cache[path] = (len(text), None, lines, path)
            return lines

        # AutoGraph refreshes the cache; without an override from the file.
        linecache.updatecache = updated
        updated(path)

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_source(self, fullname):
        return self._text

    def get_code(self, fullname):
        return compile(self._text, self.path, "exec", dont_inherit=True)


def install(root, fault):
    """Let the next import of the fault's module take the faulty text."""
    path = root / fault.file
    parts = pathlib.PurePath(fault.file).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    loader = _Faulty(name, str(path), fault.applied(path.read_text()))
    sys.meta_path.insert(0, loader)


class _Chosen:
    """Pytest plugin that runs the given tests in the given order."""

    def __init__(self, tests):
        self._place = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        chosen = [item for item in items if item.nodeid in self._place]
        items[:] = sorted(chosen, key=lambda item: self._place[item.nodeid])


class _Recorder:
    """Pytest plugin that records which test executes which line.

    What a fixture shared by several tests executes counts for each of them. AutoGraph
    runs copies of functions, which coverage doesn't see: all their lines count, for the
    test that traces them.
    """

    def __init__(self, files):
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[str(file) for file in files]
        )
        self._context, self._users = "", collections.defaultdict(set)
        self._seconds, self._failed = collections.Counter(), set()
        self._converted = set()

    @contextlib.contextmanager
    def _within(self, context):
        outer, self._context = self._context, context
        self._coverage.switch_context(context)
        try:
            yield
        finally:
            self._context = outer
            self._coverage.switch_context(outer)

    @contextlib.contextmanager
    def running(self):
        api = importlib.import_module("tensorflow.python.autograph.impl.api")
        convert = api._convert_actual

        def recorded(entity, context):
            self._converted.add((self._context, entity.__code__))
            return convert(entity, context)

        api._convert_actual = recorded
        self._coverage.start()
        yield
        self._coverage.stop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        for name in item.fixturenames:
            self._users[f"fixture {name}"].add(item.nodeid)
        with self._within(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        with self._within(f"fixture {fixturedef.argname}"):
            return (yield)

    def pytest_runtest_logreport(self, report):
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def result(self):
        """Return the seconds of each test, and {file: {line: tests}}."""
        lines = collections.defaultdict(lambda: collections.defaultdict(set))
        data = self._coverage.get_data()
        found = [
            (file, line, context)
            for file in data.measured_files()
            for line, contexts in data.contexts_by_lineno(file).items()
            for context in contexts
        ]
        for context, code in self._converted:
            for _, _, line in code.co_lines():
                found.append((code.co_filename, line, context))
        seconds = {test: s for test, s in self._seconds.items() if s}
        for file, line, context in found:
            of_fixture = self._users.get(context)
            # Neither a test nor its fixture: at import, which is for every test.
            of_test = {context} if context in seconds else set(seconds)
            lines[file][line] |= of_fixture or of_test
        return {
            "seconds": seconds,
            "failed": sorted(self._failed),
            "lines": {
                file: {line: sorted(tests) for line, tests in of_file.items()}
                for file, of_file in lines.items()
            },
        }


class _Fork:
    """A forked process, in a session of its own, that runs tests.

    Its seconds are those of the processor, so that a busy machine makes no difference;
    one that only waits gets ten times as many on the clock.
    """

    def __init__(self, root, arguments, prepare, seconds):
        self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folder = pathlib.Path(self._temporary.name)
        self._start, self._limit = time.monotonic(), int(seconds)
        self._pid = os.fork()
        if self._pid == 0:
            code = 70
            try:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._redirect()
                code = self._run(root, arguments, prepare)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def _redirect(self):
        log = os.open(self.folder / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)

    def _run(self, root, arguments, prepare):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CPU, (self._limit, self._limit + 5))
        os.chdir(root)
        sys.path.insert(0, str(root))
        for name in [n for n in sys.modules if n.split(".")[0] == PACKAGE]:
            del sys.modules[name]
        import hypothesis

        hypothesis.settings.register_profile("same", database=None, derandomize=True)
        hypothesis.settings.load_profile("same")
        own = [f"--rootdir={root}", f"--basetemp={self.folder / 'tmp'}"]
        with prepare(self.folder) as plugin:
            return int(pytest.main([*OPTIONS, *own, *arguments], plugins=[plugin]))

    @property
    def seconds(self):
        return time.monotonic() - self._start

    def poll(self):
        """Return the exit code, "timeout", or None while the process runs."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0 and self.seconds < 10 * self._limit:
            return None
        self.kill()
        if pid == 0:
            os.waitpid(self._pid, 0)
            return "timeout"
        code = os.waitstatus_to_exitcode(status)
        return "timeout" if code == -signal.SIGXCPU else code

    def kill(self):
        """Kill the process and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def close(self):
        self._temporary.cleanup()


def state_of(root, room):
    """Return hashes of the package and of a room's tests, joined by a hyphen."""
    tests = root / "tests"
    shared = [path for path in tests.glob("*.py") if path.name[:5] != "test_"]
    groups = (root / PACKAGE).rglob("*.py"), [*shared, *(tests / room).rglob("*.py")]
    return "-".join(
        hashlib.sha256(
            b"".join(str(p).encode() + p.read_bytes() for p in sorted(group))
        ).hexdigest()[:12]
        for group in groups
    )


def record_tests(root, room, files):
    """Run a room's tests without faults and return what `_Recorder.result` does."""
    print(f"{room}: recording which tests execute which lines", flush=True)

    @contextlib.contextmanager
    def prepare(folder):
        recorder = _Recorder(files)
        with recorder.running():
            yield recorder
        (folder / "result.json").write_text(json.dumps(recorder.result()))

    fork = _Fork(root, [f"tests/{room}"], prepare, seconds=3 * 3600)
    try:
        while (code := fork.poll()) is None:
            time.sleep(0.1)
    finally:
        fork.kill()
    if code not in (0, 1):
        raise SystemExit(f"mutants: tests/{room} ended with {code}.\n{fork.log()}")
    result = json.loads((fork.folder / "result.json").read_text())
    fork.close()
    for test in result["failed"]:
        print(f"left out, it fails without a fault: {test}")
    return result


def tests_of(fault, recorded, root):
    """Return the tests that execute a fault's line, fastest first."""
    lines = recorded["lines"].get(str(root / fault.file), {})
    tests = set()
    for line in range(fault.first, fault.last + 1):
        tests.update(lines.get(str(line), ()))
    tests -= set(recorded["failed"])
    return sorted(tests, key=lambda test: (recorded["seconds"].get(test, 0.0), test))


def start(root, fault, tests, seconds):
    """Start the tests of a fault, which end after a number of seconds."""

    @contextlib.contextmanager
    def prepare(folder):
        install(root, fault)
        yield _Chosen(tests)

    files = sorted({test.split("::")[0] for test in tests})
    return _Fork(root, ["-x", *files], prepare, seconds)


def verdict(code, log):
    """Return the result of a fault, and what caught it."""
    if code == "timeout":
        return "timeout", ""
    if code == 0:
        return "survived", ""
    lines = [line for line in log.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if code in (1, 2, 3):  # failed, interrupted, an error of pytest itself
        return "caught", lines[-1][:300] if lines else f"pytest ended with {code}"
    if code < 0:
        return "caught", f"ended by {signal.Signals(-code).name}"
    raise SystemExit(f"mutants: pytest ended with {code}.\n{log[-3000:]}")


def run(root, work, jobs, done):
    """Run faults in parallel.

    Args:
        root: pathlib.Path.
        work: sequence of (fault, its tests, the seconds they may take).
        jobs: int, how many at a time.
        done: called with the fault, the result and its reason, and the seconds.
    """
    waiting, running = collections.deque(work), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                fault, tests, seconds = waiting.popleft()
                if tests:
                    running.append((start(root, fault, tests, seconds), fault))
                else:
                    done(fault, "survived", "no test executes it", 0.0)
            time.sleep(0.05)
            for fork, fault in list(running):
                if (code := fork.poll()) is not None:
                    running.remove((fork, fault))
                    done(fault, *verdict(code, fork.log()), fork.seconds)
                    fork.close()
    finally:
        for fork, _ in running:
            fork.kill()


def recorded_tests(root, room, state, folder):
    """Return `record_tests` of a room, from its file if that is of this state."""
    path = folder / f"{room.replace('/', '_')}.json"
    if path.exists() and (known := json.loads(path.read_text()))["state"] == state:
        return known
    recorded = {"state": state, **record_tests(root, room, files_of(root, room))}
    path.write_text(json.dumps(recorded))
    return recorded


def files_of(root, room):
    folder = root / PACKAGE / room
    return sorted({path for glob in ROOMS[room] for path in folder.glob(glob)})


def faults_of(root, room):
    """Return all faults of a room."""
    return [
        fault
        for path in files_of(root, room)
        for fault in faults.faults_of(path.read_text(), str(path.relative_to(root)))
    ]


def results_of(path, states, keep_caught):
    """Return {fault: line} of a file's results that hold for the present states."""
    lines = path.read_text().splitlines() if path.exists() else []
    known = {}
    for line in map(json.loads, lines):
        state = states.get(line["room"], "")
        if keep_caught and line["result"] != "survived":  # of the same package
            state, line["state"] = (x.split("-")[0] for x in (state, line["state"]))
        if line["state"] == state:
            known[faults.Fault(**line["fault"])] = line
    return known


def equivalent_faults(root):
    """Return {identity: reason} of the faults that no test can find."""
    path = root / "tools" / "equivalent_faults.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    names = ("file", "function", "before", "after")
    return {tuple(entry[name] for name in names): entry["reason"] for entry in entries}


def main(argv=None):
    """Run the faults that have no result yet, and print all results."""
    arguments = _arguments(argv)
    root, rooms = arguments.root.resolve(), arguments.rooms.split(",")
    folder = root / "runs" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    states = {room: state_of(root, room) for room in rooms}
    every = {room: faults_of(root, room) for room in rooms}
    drawn = faults.sample(every, arguments.count, arguments.seed)
    equivalent = equivalent_faults(root)
    path = folder / "results.jsonl"
    known = results_of(path, states, arguments.keep_caught)
    room_of = {fault: room for room, fault in drawn}
    waiting = [f for f in room_of if f not in known and f.identity not in equivalent]
    for name in PRELOADED if waiting else ():
        importlib.import_module(name)
    work = []
    for room in rooms:
        new = [fault for fault in waiting if room_of[fault] == room]
        recorded = recorded_tests(root, room, states[room], folder) if new else None
        for fault in new:
            tests = tests_of(fault, recorded, root)
            seconds = sum(recorded["seconds"][test] for test in tests)
            work.append((fault, tests, arguments.patience + 5 * seconds))

    def done(fault, result, reason, seconds):
        room = room_of[fault]
        line = {"room": room, "state": states[room], "result": result}
        line |= {"reason": reason, "seconds": round(seconds, 1)}
        known[fault] = line = {**line, "fault": dataclasses.asdict(fault)}
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{result:8} {seconds:6.1f} s  {place(fault)}  {reason}", flush=True)

    run(root, work, arguments.jobs, done)
    report(room_of, known, equivalent, arguments)


def place(fault):
    return f"{fault.file}:{fault.line} {fault.function}"


def report(room_of, known, equivalent, arguments):
    """Print the faults that survive, and the figures of each room."""
    figures = {room: collections.Counter() for room in arguments.rooms.split(",")}
    for fault, room in room_of.items():
        is_known = fault.identity in equivalent
        result = "equivalent" if is_known else known[fault]["result"]
        figures[room].update({"faults": 1, result: 1})
        if result == "survived":
            print(f"\n{place(fault)}  {known[fault]['reason']}")
            print(f"  - {fault.before}\n  + {fault.after}")
    print()
    shares = {}
    total = sum(figures.values(), collections.Counter())
    for room, counts in [*figures.items(), ("all", total)]:
        caught = counts["caught"] + counts["timeout"]
        shares[room] = caught / max(1, counts["faults"] - counts["equivalent"])
        print(f"{room:20} {shares[room]:6.1%} caught  {dict(counts)}")
    versions = {
        name: importlib.import_module(name).__version__
        for name in ("tensorflow", "keras", "pytest")
    }
    figures = {"seed": arguments.seed, **figures}
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import record

    record.finish("mutants", shares, figures, versions, arguments.record)


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rooms", default=",".join(ROOMS))
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds, added to five times those of a fault's tests",
    )
    parser.add_argument(
        "--keep_caught", action="store_true", help="although tests have changed"
    )
    parser.add_argument("--root", type=pathlib.Path, default=ROOT)
    parser.add_argument("--record", action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ["COVERAGE_CORE"] = "ctrace"  # the only one that tells tests apart
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it started
    main()
