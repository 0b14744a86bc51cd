"""Section 17: the most likely failures, and the whole text that a person reads of each.

They stand in tests/golden/messages.txt; `python3 -m tests.test_messages` writes it anew: read what
changed.
"""

import re
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import support
from tests.support import MODULE, ROOT, Scene

GOLDEN = ROOT / "tests" / "golden" / "messages.txt"
STEADY = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a8:1000"}
SMALL = ("--config", "64x32x2", "--seconds", "0")
UNCHECKED = (*SMALL, "--verify", "0")
TWO = ("--config", "32,64x32x2", *UNCHECKED[2:])
CHECKED = {"COMPUTE": "all"}


class Failure(NamedTuple):
    """What goes wrong: a name, the arguments of the command, settings of the stand-in, and what
    more is to be done."""

    name: str
    arguments: Sequence[str]
    settings: Mapping[str, str] = {}
    prepare: Callable[[Scene], None] = lambda scene: None
    interrupt: str = ""


def without_ctypes(scene: Scene) -> None:
    """Let the module be one that cannot import ctypes."""
    scene.module = scene.directory / "ane_bench.py"
    poison = 'import sys\nsys.modules["ctypes"] = None\nimport os\n'
    text = MODULE.read_text(encoding="utf-8").replace("import os\n", poison, 1)
    scene.module.write_text(text, encoding="utf-8")


def small_files(scene: Scene) -> None:
    """Let no file become longer than some bytes, as on a full disk."""
    code = ("import os, resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (24000, "
            "24000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "os.execv(sys.argv[1], sys.argv[1:])")
    scene.prefix = (sys.executable, "-I", "-c", code)


def missing_library(scene: Scene) -> None:
    """Let the stand-in be one that is not there."""
    scene.standin = "/nowhere/standin.so"


FAILURES = (
    # The machine.
    Failure("Python is translated by Rosetta", SMALL, {"SYSCTL": "sysctl.proc_translated=1"}),
    Failure("a virtual machine", SMALL, {"SYSCTL": "kern.hv_vmm_present=1"}),
    Failure("no Neural Engine", SMALL, {"DEVICE": "hasANE=0"}),
    Failure("macOS has another class", SMALL, {"MISSING": "_ANEInMemoryModel"}),
    Failure("macOS has another method", SMALL, {"ENCODING": "loadWithQoS:options:error:=B@:Q@^@"}),
    Failure("Python without ctypes", SMALL, prepare=without_ctypes),
    Failure("a stand-in that is not there", SMALL, prepare=missing_library),
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
    Failure("the engine does nothing", SMALL, {**CHECKED, "OUTPUT": "w8a8/noop"}),
    Failure("the output is wrong", SMALL, {**CHECKED, "OUTPUT": "w8a8/swapped"}),
    # The person.
    Failure("the disk is full", ("--config", "64x32x2", "--verify", "0", "--seconds", "9", "--save",
                                 "m4.json"), prepare=small_files),
    Failure("Ctrl-C", (*TWO, "--save", "m4.json"), {"FAULT": "64x32x2/compile:hang"},
            interrupt="compile fp16"),
)


def told(scene: Scene, failure: Failure) -> str:
    """Return the section of a failure: the command, its exit code, and what it writes."""
    failure.prepare(scene)
    settings = {**STEADY, **failure.settings}
    started = scene.start(*failure.arguments, settings=settings, cwd=scene.directory)
    if failure.interrupt:
        scene.await_call(started, failure.interrupt, 2)
        started.signal(signal.SIGINT)
    finished = scene.finish(started)
    # Progress depends on the speed of the machine, and so does how busy it is.
    errors = re.sub(r"(?m)^(\[.*|ane_bench: warning \(busy\).*)\n", "", finished.errors)
    errors = errors.replace("ane_bench.pyc", "ane_bench.py")
    command = " ".join(["ane_bench.py", *failure.arguments])
    parts = [f"## {failure.name}\n$ {command}\n", finished.output,
             "-- standard error\n" if errors else "", errors]
    return "".join([*parts, f"-- exit {finished.code}\n"])


class MessagesTest(support.StandinCase):
    """Each failure is told as the file says."""

    def test_each(self) -> None:
        golden = re.split(r"(?m)^(?=## )", GOLDEN.read_text(encoding="utf-8"))
        expected = {text.split("\n")[0]: text for text in golden}
        self.assertEqual(list(expected), ["", *(f"## {failure.name}" for failure in FAILURES)])

        def check(scene: Scene, failure: Failure) -> None:
            self.assertEqual(told(scene, failure), expected[f"## {failure.name}"])
            self.assertEqual(scene.models(), [])
        self.each(FAILURES, check, name=lambda failure: failure.name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        GOLDEN.write_text("".join(told(Scene(Path(directory) / str(number)), failure)
                                  for number, failure in enumerate(FAILURES)), encoding="utf-8")
