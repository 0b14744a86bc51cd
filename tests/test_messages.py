"""Section 17: the most likely failures, and the whole text that a person reads of each.

ANE_BENCH_GOLDEN=write writes tests/golden/messages.txt anew: read what changed.
"""

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests import faults, runs, support
from tests.support import Scene

STEADY = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a8:1000"}
SMALL = ("--config", "64x32x2", "--seconds", "0")
UNCHECKED = (*SMALL, "--verify", "0")
TWO = ("--config", "32,64x32x2", *UNCHECKED[2:])


class Failure(NamedTuple):
    """What goes wrong: a name, the arguments of the command, settings of the stand-in, what differs
    in the scene, and the call at which Ctrl-C comes."""

    name: str
    arguments: Sequence[str]
    settings: Mapping[str, str] = {}
    differs: Mapping[str, Any] = {}
    interrupt: str = ""


WITHOUT_CTYPES = ("import runpy, sys; sys.modules['ctypes'] = None; del sys.argv[0]; "
                  "runpy.run_path(sys.argv[0], run_name='__main__')")
FAILURES = (
    # The machine.
    Failure("Python is translated by Rosetta", SMALL, {"SYSCTL": "sysctl.proc_translated=1"}),
    Failure("a virtual machine", SMALL, {"SYSCTL": "kern.hv_vmm_present=1"}),
    Failure("no Neural Engine", SMALL, {"DEVICE": "hasANE=0"}),
    Failure("macOS has another class", SMALL, {"MISSING": "_ANEInMemoryModel"}),
    Failure("macOS has another method", SMALL, {"ENCODING": "loadWithQoS:options:error:=B@:Q@^@"}),
    Failure("Python without ctypes", SMALL,
            differs={"python": [sys.executable, "-c", WITHOUT_CTYPES]}),
    Failure("a stand-in that is not there", SMALL, differs={"standin": "/nowhere/standin.so"}),
    # The engine.
    Failure("no form of a program is accepted", UNCHECKED,
            {"FAULT": "w8a8/compile:no", "REASON": "compile:InvalidMILProgram"}),
    Failure("the same as the original does it", ("--config", "64x32x2", "--original"),
            {"FAULT": "w8a8/compile:no", "REASON": "compile:InvalidMILProgram"}),
    Failure("everything fails", TWO,
            {"FAULT": "compile:no", "REASON": "compile:CompilationFailure"}),
    Failure("evaluate refuses", UNCHECKED, {"FAULT": "w8a8/evaluate:no@4"}),
    Failure("a compile hangs", (*UNCHECKED, "--timeout", "2"), {"FAULT": "compile:hang"}),
    Failure("the library crashes", UNCHECKED, {"FAULT": "w8a8/evaluate:crash@4"}),
    # The figures.
    Failure("the engine does nothing", SMALL, {"COMPUTE": "all", "OUTPUT": "w8a8/noop"}),
    Failure("the output is wrong", SMALL, {"COMPUTE": "all", "OUTPUT": "w8a8/swapped"}),
    # The person.
    Failure("the disk is full", ("--config", "64x32x2", "--verify", "0", "--seconds", "9", "--save",
                                 "m4.json"), differs={"prefix": faults.limited(24000)}),
    Failure("Ctrl-C", (*TWO, "--save", "m4.json"), {"FAULT": "64x32x2/compile:hang"},
            interrupt="compile fp16"),
)


class MessagesTest(support.StandinCase):
    """Each failure is told as the file says."""

    maxDiff = None

    def test_each(self) -> None:
        told = dict.fromkeys((failure.name for failure in FAILURES), "")

        def check(scene: Scene, failure: Failure) -> None:
            """Note the command, what it writes, and its exit code."""
            vars(scene).update(failure.differs)
            settings = {**STEADY, **failure.settings}
            started = scene.start(*failure.arguments, settings=settings, cwd=scene.directory)
            if failure.interrupt:
                scene.await_call(started, failure.interrupt, 2)
                started.signal(signal.SIGINT, to_group=False)
            finished = scene.finish(started)
            # Progress depends on the speed of the machine, and so does how busy it is.
            errors = re.sub(r"(?m)^(\[.*|ane_bench: warning \(busy\).*)\n", "", finished.errors)
            errors = errors.replace("ane_bench.pyc", "ane_bench.py")
            told[failure.name] = "".join([
                f"## {failure.name}\n$ ane_bench.py {' '.join(failure.arguments)}\n",
                finished.output, "-- standard error\n" if errors else "", errors,
                f"-- exit {finished.code}\n"])
            self.assertEqual(scene.models(), [])
        self.each(FAILURES, check, name=lambda failure: failure.name)
        self.assertEqual(*runs.golden("messages.txt", "".join(told.values())))
