"""The fault table's form: whatever goes wrong, the rest is measured, the reason is told, and nothing is left behind.

The cases stand in test_faults_engine.py, test_faults_signals.py and test_faults_streams.py as data: what goes wrong,
and what must come of it. With ANE_BENCH_TESTS=all they run a second time, under `python3 -X dev -W error`.
"""

import os
import re
import subprocess
import sys
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Protocol

from ane_bench import Cell, Config, Run, Settings
from tests import support
from tests.support import PATIENCE, Finished, Scene

# Two configurations: a fault meets the first, and the second must not notice.
BOTH_CONFIGS = ("--config", "64x8x2", "--config", "32x8x2", *support.SMALL[2:])
BOTH = ("fp16", "w8a8")
LABELS = {"fp16": "FP16", "w8a8": "W8A8"}
# The --timeout of cases that hang: a worker's start on a busy machine takes some tenths of a second.
SHORT = 4

# The stages of the stand-in, as STANDIN_FAULT names them, and what each call's line in its log begins with.
CALLS = {"descriptor": "descriptor fp16", "model": "model fp16", "identifier": "identifier",
         "localModelPath": "localModelPath", "compile": "compile fp16", "load": "load fp16",
         "surface": "IOSurfaceCreate", "surfaceobject": "surfaceobject", "request": "request",
         "evaluate": "evaluate fp16", "unload": "unload", "purge": "purge", "lock": "lock"}
# Evaluates of a variant: 1 and 2 warm up, 3 and 6 begin a round uncounted, 4, 5, 7, 8 are timed.
FIRST_TIMED, LAST_TIMED = 4, 8
# How many lines the log has when a stage begins, and when it is over, if not 1: evaluates are logged when done.
CALLED = {"evaluate": FIRST_TIMED - 1}
CALLED_IN_ALL = {"evaluate": LAST_TIMED}

# The module's own words, as patterns.
NIL = "the result is nil"
NO_ERROR = "no NSError was given"
SAID_NO = "evaluate returned NO: "
NO_SURFACE = "IOSurfaceCreate failed for 65536 bytes"
NO_LOCK = "^IOSurfaceLock returned 0xe00002c2$"
NO_IDENTIFIER = "hexStringIdentifier is ''"
TOLD_TO_RAISE = "reason: *the stand-in was told to raise at "
TOLD_IN_UNICODE = "le modèle « x » a été refusé — 失敗 ✗ 𝛑"
KILLED_BY = "was killed by "
EXITED_WITH = "exited with code "
WITHOUT_RESULT = "ended without a result"
WROTE_NOTHING = "it wrote nothing to standard error"
NOT_ENDED = "the worker did not exit"
WORKER = "the worker "
HANGS = f"no progress for {SHORT} s, so the worker was killed; if this stage needs longer, raise --timeout"
SERVICE = "the system's compile service may hang for every program now"
NOT_MEASURED = "not measured, since a compile or load hung$"
INVALID_MESSAGE = "^the worker sent an invalid message: b"
INVALID_CELL = "an impossible cell"
AFTER_FIGURES = "after its figures were taken, in stage "
FAILED_IN = "failed in stage "
SYMBOLIC_LINK = "is a symbolic link; expected a directory"
NOT_WRITTEN = "cannot be written: "
NO_ENGINE = "^ane_bench: no usable Neural Engine: "
NO_ENGINE_ADVICE = r"^Without one, .*\nIf this machine has one, please send the output of python3 ane_bench.py doctor "
NO_CLASS = "no class "
ABSENT = " is absent; expected "
OF_TYPE = " has type "
INTERRUPTED, TERMINATED = "interrupted", "terminated"
CACHED = "warning (cache) "
WAITS = "ane_bench: waiting for another run on this machine to end (it holds the lock on "
# Every line on standard error begins like this.
OWN_LINE = r"^(\[[0-9]+/[0-9]+\] |ane_bench: |Without one, |If this machine )"
# How a program is tried, one form after the other.
FORMS = ("standard/1.3", "standard/1.0", "standard/1.3-long", "original/1.3")


def in_every_form(reason: str) -> str:
    """Return the pattern of an error that tells a reason for each form that was tried."""
    return f"^{re.escape(', '.join(FORMS))}: {reason}"


class Case(Protocol):
    """A case of a table; its check runs in a scene of its own."""

    @property
    def name(self) -> str:
        """The case's name, which no other has."""

    def check(self, test: "FaultCase", scene: Scene) -> None:
        """Make the fault, and fail unless what must come of it does."""


class Step(NamedTuple):
    """A case that is a function."""

    name: str
    run: Callable[["FaultCase", Scene], None]

    def check(self, test: "FaultCase", scene: Scene) -> None:
        """Run the function; whatever it ran must have left nothing behind."""
        self.run(test, scene)
        for finished in scene.finished:
            test.check_clean(scene, finished)


class FaultCase(support.StandinCase):
    """A test of tables, with what holds for all cases."""

    # What Python is started with for the second pass.
    options: Sequence[str] = ()

    def new_scene(self) -> Scene:
        """Return another scene, with the options of this pass."""
        scene = super().new_scene()
        if self.options:
            scene.python = [sys.executable, *self.options]
        return scene

    def check_table(self, cases: Sequence[Case], at_a_time: int = support.AT_A_TIME) -> None:
        """Check all cases of a table, several at a time; of a long one every fourth, if not all tests are to run."""
        self.assertEqual(len({case.name for case in cases}), len(cases))
        few = cases[::4]
        if len(few) > 2 and support.reduced(len(cases), len(few), f"cases of {self.id()}") == len(few):
            cases = few
        self.each(cases, lambda scene, case: case.check(self, scene), name=lambda case: case.name, at_a_time=at_a_time)

    def check_clean(self, scene: Scene, finished: Finished) -> None:
        """Fail if standard error has more than the program's own lines, or if a file is left behind."""
        self.assertNotIn("Traceback", finished.errors)
        for line in finished.errors.splitlines():
            self.assertRegex(line, OWN_LINE)
        self.assertEqual([path.name for path in scene.models()], [])
        self.assertEqual(list(scene.directory.rglob("*.partial")), [])

    def check_balance(self, scene: Scene) -> None:
        """Fail unless every object and every surface that was made is gone."""
        balance: dict[str, int] = {}
        for line in scene.calls():
            word, _, name = line.partition(" ")
            if word in ("alloc", "dealloc"):
                balance[name] = balance.get(name, 0) + (1 if word == "alloc" else -1)
        self.assertEqual({name: count for name, count in balance.items() if count}, {})


class SecondPass(FaultCase):
    """Beside another FaultCase: its tables once more, with everything on that Python has to find faults in a program.

    Neither parents nor workers may have a word of warning to say.
    """

    options = ("-X", "dev", "-W", "error")


def some_of(cases: Sequence[Any], words: str, what: str) -> list[Any]:
    """Return all cases with ANE_BENCH_TESTS=all, else those with one of some words in their names."""
    chosen = [case for case in cases if set(words.split()) & set(re.findall(r"\w+", case.name))]
    return list(cases) if support.reduced(len(cases), len(chosen), what) == len(cases) else chosen


def at_stage(stage: str, kind: str) -> str:
    """Return a fault at a stage; at evaluate it meets the first that is timed."""
    return f"{stage}:{kind}" + (f"@{FIRST_TIMED}" if stage == "evaluate" else "")


def is_table(output: str, results: int = 2) -> bool:
    """Return whether the whole table of the two configurations (or of the first alone) was printed."""
    return [len(re.findall(rf"^{label} 2x conv {channels}ch 8x8 .* ok[*]?$", output, re.MULTILINE))
            for channels in (64, 32)[:results] for label in LABELS.values()] == [1] * 2 * results


# ----------------------------------------------------------------------------------------------------------------------
# What the module calls
# ----------------------------------------------------------------------------------------------------------------------

class Method(NamedTuple):
    """A method that the module calls: codes of its result and its arguments, and whether a run can do without it."""

    sign: str
    class_name: str
    selector: str
    codes: str
    needed: bool

    @property
    def name(self) -> str:
        """The name, as in Objective-C."""
        return f"{self.sign}[{self.class_name} {self.selector}]"


NEEDED = """
+NSString stringWithUTF8String: @*
-NSString UTF8String *
+NSNumber numberWithUnsignedLongLong: @Q
+NSArray arrayWithObjects:count: @^Q
-NSArray objectAtIndex: @Q
+NSDictionary dictionaryWithObjects:forKeys:count: @^^Q
-NSDictionary allKeys @
+NSData dataWithBytesNoCopy:length:freeWhenDone: @^QB
-NSError domain @
-NSError code q
-NSError localizedDescription @
+_ANEInMemoryModelDescriptor modelWithMILText:weights:optionsPlist: @@@@
+_ANEInMemoryModel inMemoryModelWithDescriptor: @@
-_ANEInMemoryModel hexStringIdentifier @
-_ANEInMemoryModel compileWithQoS:options:error: BI@^
-_ANEInMemoryModel loadWithQoS:options:error: BI@^
-_ANEInMemoryModel evaluateWithQoS:options:request:error: BI@@^
-_ANEInMemoryModel unloadWithQoS:error: BI^
+_ANEIOSurfaceObject objectWithIOSurface: @^
+_ANERequest requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex: @@@@@@@@
"""
OPTIONAL = """
-NSError userInfo @
-NSDictionary objectForKey: @@
-_ANEInMemoryModel localModelPath @
-_ANEInMemoryModel compiledModelExists B
-_ANEInMemoryModel purgeCompiledModel v
+_ANEDeviceInfo hasANE B
+_ANEDeviceInfo isVirtualMachine B
+_ANEDeviceInfo aneSubType @
+_ANEDeviceInfo aneArchitectureType @
+_ANEDeviceInfo numANEs I
+_ANEDeviceInfo numANECores I
+NSProcessInfo processInfo @
-NSProcessInfo thermalState q
-NSProcessInfo isLowPowerModeEnabled B
-NSProcessInfo beginActivityWithOptions:reason: @Q@
-NSProcessInfo endActivity: v@
"""
METHODS = [Method(line[0], *line[1:].split(), needed=text is NEEDED)  # type: ignore[misc,arg-type]
           for text in (NEEDED, OPTIONAL) for line in text.strip().splitlines()]


def save_record(path: Path) -> str:
    """Save a record as an earlier run might have left it, and return its text."""
    settings = Settings(iters=2, rounds=2, verify=0)
    run = Run("stand-in", settings, [Config(8, 2, 2)], ["fp16"])
    run.add([Cell(run.configs[0], "fp16", settings, samples_ns=[[1000.0], [1000.0]])])
    run.save(path)
    return path.read_text()


# ----------------------------------------------------------------------------------------------------------------------
# Machines that lack something
# ----------------------------------------------------------------------------------------------------------------------

def limited(longest_file: int) -> Sequence[str]:
    """Return a prefix for a command that cannot write a longer file."""
    code = (f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({longest_file}, {longest_file})); "
            "os.execv(sys.argv[1], sys.argv[1:])")
    return sys.executable, "-I", "-c", code


def shell(script: str) -> Sequence[str]:
    """Return a prefix that lets a shell start the command, which is "$@" there."""
    return "/bin/sh", "-c", script, "sh"


def small_disk(scene: Scene, path: Path, size: int, longest_file: int) -> None:
    """Make a directory a disk of that size or, if that is not permitted, let no file become longer."""
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if sys.platform == "linux" and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        # Lazily: another thread may just be starting a process that has a file there.
        scene.closing.callback(subprocess.run, ["umount", "-l", str(path)], check=True)
        return
    scene.prefix = limited(longest_file)


def read_only(scene: Scene, path: Path) -> None:
    """Make a directory one that cannot be written. Root can write everywhere, until it gives that right away."""
    path.mkdir(exist_ok=True)
    path.chmod(0o500)
    scene.closing.callback(path.chmod, 0o700)
    if os.geteuid() == 0:
        # prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)
        code = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
        scene.prefix = (sys.executable, "-I", "-c", code)
        probe = subprocess.run([*scene.prefix, sys.executable, "-I", "-c", f"import os; os.mkdir({str(path / 'x')!r})"],
                               capture_output=True, check=False)
        if probe.returncode != 1:
            raise unittest.SkipTest("root can write everywhere here")


def slow(stage: str, seconds: Any = PATIENCE) -> str:
    """Return a fault that lets a call of a stage take so long."""
    return f"{stage}:slow={seconds}"
