"""What the tests share: the stand-in, built once; commands; what was left out."""

import atexit
import collections
import contextlib
import functools
import importlib
import json
import logging
import os
import py_compile
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

import ane_bench
from tests.standin import build as standin_build

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "ane_bench.py"

# A run that takes no time: each clock of the stand-in jumps on by what an evaluate is said to take,
# and so long an evaluate makes the shortest warm-up and rounds. Before its rounds each variant then
# makes 5 evaluates; in each of 12 rounds one that is not counted and 5 timed ones. A test that
# needs the stand-in's own speed sets CLOCK to real and LATENCY to the empty text.
SMALL = ("--config", "64x8x2", "--seconds", "0")
FAST = {"STANDIN_CLOCK": "virtual", "STANDIN_LATENCY": "fp16:140000,w8a16:140000,w8a8:70000"}
WARMING, ROUNDS, TIMED = 5, 12, 5
PATIENCE = 40  # seconds within which a run in a scene ends, whatever goes wrong in it
AT_A_TIME = 2  # runs, which take less time so: parent and worker wait for each other

# One directory for all that the tests build; removed when Python exits.
_holder = tempfile.TemporaryDirectory(prefix="ane_bench_tests_")
atexit.register(_holder.cleanup)
WORKSHOP = Path(_holder.name)


# What is left out.

ALL = os.environ.get("ANE_BENCH_TESTS") == "all"  # whether the long tests run, too
reductions: list[str] = []  # parts of tests that did not run, for the closing lines
long_test = unittest.skipUnless(ALL, "long; ANE_BENCH_TESTS=all runs it")


def reduced(whole: int, part: int, what: str) -> int:
    """Return how many of something to test: all, or usually a part, which is reported."""
    if ALL or part == whole:
        return whole
    reductions.append(f"{whole - part:,} of {whole:,} {what}: long; ANE_BENCH_TESTS=all runs them")
    return part


def closing_lines(skipped: Iterable[tuple[unittest.TestCase, str]]) -> list[str]:
    """Return lines that say what a test run left out, and why."""
    tests = collections.defaultdict(list)
    for test, reason in skipped:
        tests[reason].append(test.id())
    lines = []
    for reason, names in tests.items():
        part = slice(-2, None) if len(names) <= 8 else slice(1, 2)  # class and test, or the file
        shown = sorted({".".join(name.split(".")[part]) for name in names})
        count = f"{len(names)} test{'s' if len(names) > 1 else ''}"
        lines.append(f"{count}: {reason} ({', '.join(shown)})")
    lines += dict.fromkeys(reductions)
    return ["Left out:\n", *(f"  {line}\n" for line in lines)] if lines else []


# What is built, found or needed.

def own_python() -> list[str]:
    """Return this Python with the options for finding faults that it was started with."""
    options = [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, *(["-X", "dev"] if sys.flags.dev_mode else []), *options]


@functools.cache
def compiled_module() -> Path:
    """Return the module as bytecode, which starts in half the time."""
    target = WORKSHOP / "compiled" / "ane_bench.pyc"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        py_compile.compile(str(MODULE), str(target), doraise=True)
    return target


@functools.cache
def standin_library(defines: Sequence[str] = ()) -> Path:
    """Return the stand-in, built on first use; skip the test if it cannot be built."""
    directory = Path(tempfile.mkdtemp(prefix="standin_", dir=WORKSHOP))
    try:
        return standin_build.build(directory, defines=defines)
    except standin_build.Unavailable as reason:
        raise unittest.SkipTest(str(reason)) from None


def need(module: str) -> Any:
    """Return a module that need not be installed; skip the test if it is not."""
    logging.disable()  # coremltools warns of the parts that exist on a Mac only
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise unittest.SkipTest(f"{module} is not installed") from None
    finally:
        logging.disable(logging.NOTSET)


def environment(**variables: str) -> Any:
    """Set variables of this process for a while."""
    return unittest.mock.patch.dict(os.environ, variables)


@contextlib.contextmanager
def said_by_workers(output: bytes = b"", errors: bytes = b"", code: int = 0) -> Iterator[None]:
    """Let each worker of runs in this process write this, when it has its task, and exit."""
    with tempfile.NamedTemporaryFile(dir=WORKSHOP) as file:
        file.write(output + errors)
        file.flush()
        script = ("import sys; sys.stdin.readline()\n"
                  f"with open({file.name!r}, 'rb') as file:\n"
                  f"    sys.stdout.buffer.write(file.read({len(output)}))\n"
                  "    sys.stdout.flush()\n    sys.stderr.buffer.write(file.read())\n"
                  f"sys.exit({code})")
        with runs_as_worker(script):
            yield


def runs_as_worker(script: str) -> Any:
    """Let each worker of runs in this process be one that runs a script."""
    command = [sys.executable, "-I", "-S", "-c", script]
    return unittest.mock.patch.object(ane_bench, "worker_command", lambda code: command)


# Commands.

class Finished(NamedTuple):
    """A command that has exited."""

    code: int
    output: str
    errors: str


def processes() -> list[list[int]]:
    """Return the numbers of all processes of this machine that live, of their parents and groups;
    one that has exited is none of them, though nobody asked for its exit code."""
    lines = []
    if sys.platform == "darwin":
        command = ["ps", "-axo", "stat=,pid=,ppid=,pgid="]
        lines = subprocess.check_output(command, encoding="utf-8").splitlines()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, rest = (path / "stat").read_text().rpartition(") ")[2].split(maxsplit=1)
            lines.append(f"{state} {path.name} {rest}")
    return [[*map(int, line.split()[1:4])] for line in lines if line[0] != "Z"]


class Started:
    """A command in a process group of its own; its output is collected, or goes as options say."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str],
                 **options: Any) -> None:
        pipe = subprocess.PIPE
        options = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "encoding": "utf-8",
                   "errors": "replace", "start_new_session": True, **options}
        self.process: subprocess.Popen[str] = subprocess.Popen(command, env=environment, **options)

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until a condition holds; fail if the command exits before, or after PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {what}: {self.finish()}")
            time.sleep(0.01)

    def worker(self) -> int:
        """Return the process that measures, which is there since the stand-in was called."""
        number, = (number for number, parent, _ in processes() if parent == self.process.pid)
        return number

    def signal(self, number: int, to_group: bool = True) -> None:
        """Send a signal to all its processes, as a terminal does, or to the command alone."""
        (os.killpg if to_group else os.kill)(self.process.pid, number)

    def is_over(self, seconds: float = 0) -> bool:
        """Return whether no process of its group lives, or none will within some seconds."""
        deadline = time.monotonic() + seconds
        while any(group == self.process.pid for _, _, group in processes()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def end(self) -> None:
        """Kill what is left of it, if a test failed."""
        if self.process.returncode is None or not self.is_over():
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
        for stream in filter(None, (self.process.stdout, self.process.stderr)):
            stream.close()
        self.process.wait(PATIENCE)

    def finish(self, seconds: float = PATIENCE, alone: float = 0) -> Finished:
        """Return what it wrote when it has exited, and when no worker is left, seconds later."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError("it did not exit") from None
        if not self.is_over(alone):
            raise AssertionError("a worker is left")
        return Finished(self.process.returncode, output or "", errors or "")


def clean_environment(standin: Union[str, Path] = "") -> dict[str, str]:
    """Return this environment without variables that hide faults, such as PYTHONUNBUFFERED; the
    stand-in, if there is one, takes no time."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("STANDIN_", "PYTHON", "COLUMNS"))}
    return {**kept, "ANE_BENCH_STANDIN": str(standin), **(FAST if standin else {})}


def run_command(*arguments: str, environment: Optional[Mapping[str, str]] = None,
                module: Path = MODULE, **options: Any) -> Finished:
    """Run ane_bench.py as a user does, without a stand-in unless the environment names one."""
    command = [*own_python(), str(module), *arguments]
    started = Started(command, {**clean_environment(), **(environment or {})}, **options)
    try:
        return started.finish(seconds=3 * PATIENCE)
    finally:
        started.end()


# Runs against the stand-in.

class Scene:
    """A directory of its own for some runs against the stand-in, and what these are given:
    `settings` are the stand-in's variables without their prefix, `prefix` starts the command."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.temporary = directory, directory / "tmp"
        self.temporary.mkdir(parents=True)
        self.log, self.saved = directory / "log", directory / "record.json"
        self.workers_said = directory / "workers"  # to standard error, in a driven run
        self.standin: Union[str, Path] = standin_library()
        self.python: Sequence[str] = own_python()
        self.module = compiled_module()
        self.prefix: Sequence[str] = ()
        self.settings: dict[str, Any] = {}
        self.variables: dict[str, str] = {}
        self.closing = contextlib.ExitStack()
        self.finished: list[Finished] = []
        self._driver: Sequence[str] = ()

    def drive(self, afterwards: Mapping[str, str], first_command: Sequence[str] = ()) -> None:
        """Set variables once the first worker was started, which may be another command."""
        self._driver = (str(ROOT / "tests" / "driver.py"),)
        self.variables.update(AFTERWARDS=json.dumps(afterwards),
                              FIRST_COMMAND=json.dumps(first_command),
                              WORKERS_SAID=str(self.workers_said))

    def environment(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the environment of a run; these settings come on top of the scene's own."""
        standin = {f"STANDIN_{name}": str(value)
                   for name, value in {**self.settings, **settings}.items()}
        return {**clean_environment(self.standin), "TMPDIR": str(self.temporary),
                "STANDIN_LOG": str(self.log), **standin, **self.variables}

    def start(self, *arguments: str, settings: Mapping[str, Any] = {}, **options: Any) -> Started:
        """Start a run."""
        command = [*self.prefix, *self.python, *self._driver, str(self.module), *arguments]
        started = Started(command, self.environment(settings), **options)
        self.closing.callback(started.end)
        return started

    def run(self, *arguments: str, **options: Any) -> Finished:
        """Run from start to end."""
        return self.finish(self.start(*arguments, **options))

    def finish(self, started: Started, alone: float = 0) -> Finished:
        """Wait until a run exits; remember what it wrote."""
        self.finished.append(started.finish(alone=alone))
        return self.finished[-1]

    def await_call(self, run: Started, beginning: str, times: int = 1) -> None:
        """Wait until the stand-in's log has that many lines that begin so."""
        run.wait_until(lambda: sum(line.startswith(beginning) for line in self.calls()) >= times,
                       f"call {beginning}")

    def calls(self) -> list[str]:
        """Return the stand-in's log."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def record(self) -> dict[str, Any]:
        """Return the record that a run saved."""
        found: dict[str, Any] = json.loads(self.saved.read_text(encoding="utf-8"))
        return found

    def models(self) -> list[Path]:
        """Return what lies in the temporary directory: after a run, nothing."""
        return sorted(self.temporary.iterdir()) if self.temporary.is_dir() else []


class DirectoryCase(unittest.TestCase):
    """A test with a directory of its own."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory(prefix="ane_bench_")
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)


class StandinCase(DirectoryCase):
    """A test of runs against the stand-in, none of which may leave anything behind."""

    def setUp(self) -> None:
        # A shell in the background, or nohup, ignores these, and so would all that is started.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            if signal.getsignal(number) == signal.SIG_IGN:
                self.addCleanup(signal.signal, number, signal.signal(number, signal.SIG_DFL))
        super().setUp()
        self.scene = scene = Scene(self.directory)
        self.addCleanup(scene.closing.close)
        self.temporary, self.log, self.calls = scene.temporary, scene.log, scene.calls

    @property
    def module(self) -> Path:
        """The file that runs."""
        return self.scene.module

    @module.setter
    def module(self, path: Path) -> None:
        self.scene.module = path

    def environment(self, **settings: Any) -> dict[str, str]:
        """Return the variables of a run against the stand-in."""
        return self.scene.environment(settings)

    @contextlib.contextmanager
    def here(self, **settings: Any) -> Iterator[None]:
        """Let runs in this process find the stand-in, and their temporary directory."""
        with environment(**self.environment(**settings)), \
                unittest.mock.patch.object(tempfile, "tempdir", str(self.temporary)):
            yield

    def run_in(self, scene: Scene, *arguments: str, **settings: Any) -> Finished:
        """Run in a scene, and look for what must never be."""
        finished = scene.run(*arguments, settings=settings)
        self.assertEqual(scene.models(), [], "something was left behind")
        self.assertNotIn("Traceback", finished.errors)
        return finished

    def run_standin(self, *arguments: str, **settings: Any) -> Finished:
        """Run against the stand-in; settings are its variables without the prefix."""
        return self.run_in(self.scene, *arguments, **settings)

    def record_in(self, scene: Scene, *arguments: str, code: int = 0,
                  **settings: Any) -> dict[str, Any]:
        """Run in a scene, and return the record; the run must exit with a code."""
        finished = self.run_in(scene, *arguments, "--format", "json", **settings)
        self.assertEqual(finished.code, code, finished.errors)
        record: dict[str, Any] = json.loads(finished.output)
        return record

    def run_record(self, *arguments: str, **settings: Any) -> dict[str, Any]:
        """Run against the stand-in, and return the record."""
        return self.record_in(self.scene, *arguments, **settings)

    def new_scene(self) -> Scene:
        """Return another scene."""
        scene = Scene(Path(tempfile.mkdtemp(dir=self.directory)))
        self.addCleanup(scene.closing.close)
        return scene

    def each(self, items: Iterable[Any], check: Callable[[Scene, Any], None], *,
             name: Callable[[Any], str] = str, at_a_time: int = AT_A_TIME) -> None:
        """Check all items, each in a scene of its own, several at a time."""
        def checked(item: Any) -> None:
            scene = self.new_scene()
            with scene.closing:
                check(scene, item)

        with ThreadPoolExecutor(at_a_time) as pool:
            outcomes = [(name(item), pool.submit(checked, item)) for item in items]
        self.assertGreater(len(outcomes), 0)
        for named, outcome in outcomes:
            with self.subTest(named):
                outcome.result()
