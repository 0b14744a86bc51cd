"""The most likely failures, and the whole text that a person reads of each, in tests/golden/messages.txt.

`python3 -m tests.test_messages` writes that file anew; read what changed.
"""

import re
import signal
import sys
import tempfile
import unittest
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from tests import support
from tests.support import MODULE, ROOT, Scene

GOLDEN = ROOT / "tests" / "golden" / "messages.txt"
STEADY = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a8:1000"}
SMALL = ("--config", "64x32x2", "--iters", "10", "--rounds", "5", "--warmup", "2")
UNCHECKED = (*SMALL, "--verify", "0")
TWO = ("--config", "32x32x2", *UNCHECKED)
CHECKED = {"COMPUTE": "all"}
# Any file may stand in the way; these are made in the directory in which the command runs.
FILES = {"notes.json": '{"mine": true}\n', "notes.txt": "mine\n", "broken.json": '{"schema": "ane-bench/1"}\n',
         "other.json": '{"schema": "ane-bench/9"}\n'}


class Failure(NamedTuple):
    """What goes wrong: a name, the arguments of the command, settings of the stand-in, and what more is to be done."""

    name: str
    arguments: Sequence[str]
    settings: Mapping[str, str] = {}
    standin: Optional[str] = None
    prepare: Callable[[Scene], None] = lambda scene: None
    interrupt: str = ""


def without_ctypes(scene: Scene) -> None:
    """Let the module be one that cannot import ctypes; its workers run it, too."""
    scene.module = scene.directory / "ane_bench.py"
    poison = 'import sys\nsys.modules["ctypes"] = None\nimport signal\n'
    scene.module.write_text(MODULE.read_text(encoding="utf-8").replace("import signal\n", poison, 1), encoding="utf-8")


def small_files(scene: Scene) -> None:
    """Let no file become longer than some bytes, as on a full disk."""
    code = ("import os, resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (24000, 24000)); "
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])")
    scene.prefix = (sys.executable, "-I", "-c", code)


FAILURES = (
    # The machine.
    Failure("Python is translated by Rosetta", SMALL, {"SYSCTL": "sysctl.proc_translated=1"}),
    Failure("a virtual machine", SMALL, {"SYSCTL": "kern.hv_vmm_present=1"}),
    Failure("no Neural Engine", SMALL, {"DEVICE": "hasANE=0"}),
    Failure("macOS has another class", SMALL, {"MISSING": "_ANEInMemoryModel"}),
    Failure("macOS has another method", SMALL, {"ENCODING": "loadWithQoS:options:error:=B@:Q@^@"}),
    Failure("Python without ctypes", SMALL, prepare=without_ctypes),
    Failure("a stand-in that is not there", SMALL, standin="/nowhere/standin.so"),
    # The engine.
    Failure("no form of a program is accepted", UNCHECKED,
            {"FAULT": "w8a8/compile:no", "REASON": "compile:InvalidMILProgram"}),
    Failure("the same as the original does it", ("--config", "64x32x2", "--original"),
            {"FAULT": "w8a8/compile:no", "REASON": "compile:InvalidMILProgram"}),
    Failure("another form is accepted", UNCHECKED, {"REFUSE": "short"}),
    Failure("everything fails", TWO, {"FAULT": "compile:no", "REASON": "compile:CompilationFailure"}),
    Failure("another program holds the engine", UNCHECKED, {"FAULT": "w8a8/load:no", "REASON": "load:0x50004"}),
    Failure("evaluate refuses", UNCHECKED, {"FAULT": "w8a8/evaluate:no@4"}),
    Failure("a compile hangs", (*UNCHECKED, "--timeout", "2"), {"FAULT": "compile:hang"}),
    Failure("the library crashes", UNCHECKED, {"FAULT": "w8a8/evaluate:crash@4"}),
    # The figures.
    Failure("the engine does nothing", SMALL, {**CHECKED, "OUTPUT": "w8a8/noop"}),
    Failure("the output is wrong", SMALL, {**CHECKED, "OUTPUT": "w8a8/swapped"}),
    Failure("a size that an engine does not take", ("--config", "64x40x2", *SMALL[2:]),
            {**CHECKED, "OUTPUT": "w8a8/zeros"}),
    # The person.
    Failure("an option that does not exist", ("--iter", "50")),
    Failure("options that conflict", ("--original", "--iters", "20")),
    Failure("rounds that do not divide", ("--iters", "50", "--rounds", "7")),
    Failure("a configuration that is misspelt", ("--config", "512x64")),
    Failure("--save over something else", (*UNCHECKED, "--save", "notes.json")),
    Failure("--save as csv", (*UNCHECKED, "--save", "m4.csv")),
    Failure("chart as png", ("chart", "notes.json", "-o", "m4.png")),
    Failure("a file that is not a record", ("show", "notes.txt")),
    Failure("a record that lacks a part", ("show", "broken.json")),
    Failure("a record of another schema", ("compare", "other.json", "other.json")),
    Failure("the disk is full", (*UNCHECKED, "--iters", "2000", "--save", "m4.json"), prepare=small_files),
    Failure("Ctrl-C", (*TWO, "--save", "m4.json"), {"FAULT": "64x32x2/compile:hang"}, interrupt="compile fp16"),
)


def told(scene: Scene, failure: Failure) -> str:
    """Return the section of a failure: the command, its exit code, and what it writes."""
    scene.standin = failure.standin or scene.standin
    failure.prepare(scene)
    for name, text in FILES.items():
        (scene.directory / name).write_text(text)
    started = scene.start(*failure.arguments, settings={**STEADY, **failure.settings}, cwd=scene.directory)
    if failure.interrupt:
        scene.await_call(started, failure.interrupt, 2)
        started.signal(signal.SIGINT)
    finished = scene.finish(started)
    # Progress depends on the speed of the machine, and so does how busy it is.
    errors = re.sub(r"(?m)^(\[.*|ane_bench: warning \(busy\).*)\n", "", finished.errors)
    errors = errors.replace("ane_bench.pyc", "ane_bench.py")
    command = " ".join(["ane_bench.py", *failure.arguments])
    parts = [f"## {failure.name}\n$ {command}\n", finished.output, "-- standard error\n" if errors else "", errors]
    return "".join([*parts, f"-- exit {finished.code}\n"])


class MessagesTest(support.StandinCase):
    """Each failure is told as the file says."""

    def test_each(self) -> None:
        expected = {text.split("\n")[0]: text for text in re.split(r"(?m)^(?=## )", GOLDEN.read_text(encoding="utf-8"))}
        self.assertEqual(list(expected), ["", *(f"## {failure.name}" for failure in FAILURES)])

        def check(scene: Scene, failure: Failure) -> None:
            self.assertEqual(told(scene, failure), expected[f"## {failure.name}"])
            self.assertEqual(scene.models(), [])
        self.each(FAILURES, check, name=lambda failure: failure.name)

    def test_without_a_mac(self) -> None:
        if sys.platform == "darwin":
            raise unittest.SkipTest("this is a Mac")
        finished = support.run_command()
        self.assertEqual((finished.code, finished.output), (3, ""))
        self.assertEqual(finished.errors.splitlines()[1:], [
            "ane_bench: no usable Neural Engine: this is linux, and the engine is reached from macOS only; use a Mac "
            "with Apple silicon.",
            "Without one, --engine reference runs small programs in plain Python; emit, show, compare and chart work "
            "anywhere.",
            "If this machine has one, please send the output of python3 ane_bench.py doctor to the issues of the "
            "repository that this file came from."])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        GOLDEN.write_text("".join(told(Scene(Path(directory) / str(number)), failure)
                                  for number, failure in enumerate(FAILURES)), encoding="utf-8")
