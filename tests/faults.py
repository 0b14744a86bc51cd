"""The fault table's form: whatever goes wrong, the rest is measured, the reason is told, nothing is
left behind. The cases stand in test_worker.py and test_parent.py: what goes wrong, and what must
come of it. With ANE_BENCH_TESTS=all they run a second time, under `python3 -X dev -W error`.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any, Callable

from tests import support
from tests.support import PATIENCE, ROUNDS, TIMED, WARMING, Finished, Scene

# Two configurations: a fault meets the first, and the second must not notice.
BOTH_CONFIGS = ("--config", "64,32x8x2", *support.SMALL[2:])
BOTH = ("fp16", "w8a8")
# The --timeout of cases that hang: a worker's start on a busy machine takes tenths of a second.
SHORT = 3

# The stages, as STANDIN_FAULT names them, and what a call's line in the stand-in's log begins with.
CALLS = {"descriptor": "descriptor fp16", "model": "model fp16", "identifier": "identifier",
         "localModelPath": "localModelPath", "compile": "compile fp16", "load": "load fp16",
         "surface": "IOSurfaceCreate", "surfaceobject": "surfaceobject", "request": "request",
         "evaluate": "evaluate fp16", "unload": "unload", "purge": "purge", "lock": "lock"}
# The numbers of a variant's timed evaluates in a small run.
FIRST_TIMED, LAST_TIMED = WARMING + 2, WARMING + ROUNDS * (TIMED + 1)
# How many lines the log has when a stage begins, if not 1: evaluates are logged when done.
CALLED = {"evaluate": FIRST_TIMED - 1}

# The module's own words, as patterns.
WITHOUT_RESULT = "^the worker exited with code 0: "
HANGS = (f"no progress for {SHORT} s, so the worker was killed; if this stage needs longer, raise "
         "--timeout")
SERVICE = "the system's compile service may hang for every program now"
NOT_MEASURED = "not measured, since a compile or load hung$"
FAILED_IN = "failed in stage "
CACHED = "warning (cache) "
WAITS = "ane_bench: waiting for another run on this machine to end (it holds the lock on "
# How a program is tried, one form after the other.
FORMS = ("standard/1.3", "standard/1.3-early", "standard/1.0", "original/1.3")


Case = tuple[str, Callable[["FaultCase", Scene], None]]


def in_every_form(reason: str) -> str:
    """Return the pattern of an error that tells a reason for each form that was tried."""
    return f"^{re.escape(', '.join(FORMS))}: {reason}"


class FaultCase(support.StandinCase):
    """A test of tables, with what holds for all cases: each has a name, and a function that makes
    the fault in a scene of its own, and fails unless what must come of it does."""

    options: Sequence[str] = ()  # of Python in the second pass

    def check_table(self, cases: Sequence[Case], usually: str = "",
                    at_a_time: int = support.AT_A_TIME) -> None:
        """Check all cases of a table, or usually those with such a name; whatever they ran must
        have left nothing behind."""
        def check(scene: Scene, case: Case) -> None:
            scene.python = [sys.executable, *self.options] if self.options else scene.python
            case[1](self, scene)
            for finished in scene.finished:
                self.check_clean(scene, finished)

        self.assertEqual(len(dict(cases)), len(cases), "two cases have the same name")
        few = [case for case in cases if re.search(usually, case[0])]
        if support.reduced(len(cases), len(few), f"cases of {self.id()}") == len(few):
            cases = few
        self.each(cases, check, name=lambda case: case[0], at_a_time=at_a_time)

    def check_clean(self, scene: Scene, finished: Finished) -> None:
        """Fail if standard error has more than the program's own lines, or if a file is left."""
        self.assertNotIn("Traceback", finished.errors)
        for line in finished.errors.splitlines():
            self.assertRegex(line, r"^(\[[0-9]+/[0-9]+\] |ane_bench: |Without one, |If this Mac )")
        self.assertEqual([path.name for path in scene.models()], [])
        self.assertEqual(list(scene.directory.rglob("*.partial")), [])

    def check_balance(self, scene: Scene) -> None:
        """Fail unless every object and every surface that was made is gone."""
        calls = [call.partition(" ") for call in scene.calls()]
        made, gone = (sorted(name for word, _, name in calls if word == own)
                      for own in ("alloc", "dealloc"))
        self.assertEqual(made, gone)


# With all that Python has to find faults in a program, nothing may have a word of warning to say.
STRICT = ("-X", "dev", "-W", "error")


def at_stage(stage: str, kind: str) -> str:
    """Return a fault at a stage; at evaluate it meets the first that is timed."""
    return f"{stage}:{kind}" + (f"@{FIRST_TIMED}" if stage == "evaluate" else "")


def slow(stage: str, seconds: Any = PATIENCE) -> str:
    """Return a fault that lets a call of a stage take so long."""
    return f"{stage}:slow={seconds}"


def rows(output: str) -> list[str]:
    """Return the variants of a printed table's rows that are right, in order."""
    return re.findall(r"^.*\b(FP16|W8A16|W8A8) .* ok\*?$", output, re.MULTILINE)


# Prefixes of commands, and machines that lack something.

def through(code: str) -> Sequence[str]:
    """Return a prefix that runs some Python before the command."""
    code = f"import ctypes, fcntl, os, resource, sys, termios\n{code}\n"
    return sys.executable, "-I", "-c", f"{code}os.execv(sys.argv[1], sys.argv[1:])"


def limited(longest_file: int) -> Sequence[str]:
    """Return a prefix for a command that cannot write a longer file."""
    return through(f"resource.setrlimit(resource.RLIMIT_FSIZE, ({longest_file}, {longest_file}))")


def shell(script: str) -> Sequence[str]:
    """Return a prefix that lets a shell start the command, which is "$@" there."""
    return "/bin/sh", "-c", script, "sh"
