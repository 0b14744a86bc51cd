"""Faults of the engine, the worker, the temporary directory and the machine."""

import _ctypes
import itertools
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import ane_bench
from tests import faults, support
from tests.faults import (
    BOTH,
    CALLED,
    CALLS,
    FIRST_TIMED,
    LAST_TIMED,
    METHODS,
    FaultCase,
    Method,
    Step,
    at_stage,
    in_every_form,
    some_of,
)
from tests.support import PATIENCE, SMALL, Finished, Scene, Started
from tests.terminal import Terminal

# The stages that have another name in the record.
RECORDED = {"localModelPath": "identifier", "surfaceobject": "request", "lock": "surface"}
# After the figures were taken.
LATE = ("unload", "purge")


class Fault(NamedTuple):
    """A fault that the first worker meets, and what must come of it.

    `fault` is the stand-in's; `act` is called when the stand-in is `at` a call for the `times`-th time; `prepare` comes
    before all. The variants that `failed` do so in a stage (of `A|B` the first in A, the other in B), for a reason (a
    pattern); the others are measured in another
    worker if `again`. A second configuration follows if nothing else shows that the run goes on; `later` is the reason
    for which it fails, if it does. `warned` is a warning; `left` is what stays in the temporary directory. With
    `ends_badly` the worker cannot release what it holds; with `waits` the time limit is a short one.
    """

    name: str
    stage: str = ""
    reason: str = ""
    failed: Sequence[str] = BOTH
    again: bool = False
    fault: str = ""
    at: str = ""
    times: int = 1
    act: Optional[Callable[[Scene, Started], None]] = None
    prepare: Optional[Callable[[Scene], None]] = None
    later: str = ""
    warned: str = ""
    ends_badly: bool = False
    left: str = ""
    waits: bool = False

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Run with the fault in the first worker."""
        scene.drive({"STANDIN_FAULT": ""})
        if self.prepare:
            self.prepare(scene)
        if self.fault:
            scene.settings["FAULT"] = self.fault
        limit = ("--timeout", str(faults.SHORT)) if self.waits else ()
        configs = faults.BOTH_CONFIGS if self.has_second else SMALL
        run = scene.start(*configs, "--save", str(scene.saved), *limit)
        if self.act:
            scene.await_call(run, self.at, self.times)
            self.act(scene, run)
        finished = scene.finish(run)
        self.check_cells(test, scene, finished)
        self.check_warning(test, scene, finished)
        if not self.ends_badly:
            test.check_balance(scene)
            self.check_what_workers_said(test, scene)
        check_precious(test, scene, self.left)
        test.check_clean(scene, finished)

    @property
    def has_second(self) -> bool:
        """Return whether a second configuration is measured."""
        return bool(self.later) or tuple(self.failed) == BOTH

    def check_cells(self, test: FaultCase, scene: Scene, finished: Finished) -> None:
        """Check which cells failed and why, by the record and by the table."""
        results = scene.record()["results"]
        test.assertEqual(finished.code, 1 if self.failed or self.later else 0, finished.errors)
        test.assertEqual([result["config"]["channels"] for result in results], [64, 32] if self.has_second else [64])
        self.check_result(test, finished, results[0], self.failed, self.stage, self.reason, self.again)
        for second in results[1:]:
            self.check_result(test, finished, second, BOTH if self.later else (), "files", self.later)
        test.assertEqual(finished.output.count(faults.FAILED_IN), len(self.failed) + (2 if self.later else 0))
        if self.fault.startswith("w8a8/evaluate:"):
            test.assertEqual(sum(call.endswith("-> NO") for call in scene.calls()), 1, "it went on after a NO")

    def check_result(self, test: FaultCase, finished: Finished, result: Mapping[str, Any], failed: Sequence[str],
                     stage: str, reason: str, again: bool = False) -> None:
        """Check the cells of a configuration."""
        test.assertEqual(tuple(result["variants"]), BOTH)
        for variant, cell in result["variants"].items():
            if variant in failed:
                test.assertEqual(cell["status"], "failed")
                test.assertEqual(cell["stage"], stage.split("|")[0 if variant == failed[0] else -1], cell)
                test.assertRegex(cell["error"], reason)
                test.assertLess(len(cell["error"]), 1000)
                test.assertEqual("ms" in cell, self.name == "cell: not verified")
                row = f"{faults.LABELS[variant]} 2x conv {result['config']['channels']}ch 8x8"
                row += " .*\n    " if "ms" in cell else ":"
                told = re.escape(f"{faults.FAILED_IN}{cell['stage']}: {cell['error']}")
                test.assertRegex(finished.output, f"\n{row} {told}\n")
            else:
                test.assertEqual((cell["status"], cell.get("error")), ("ok", None))
                test.assertEqual(len(cell["samples_ns"]), 2)
                test.assertEqual(cell.get("measured_again", False), again)
        test.assertEqual(set(result["ratio"]), {"w8a8"} if not failed else set())

    def check_warning(self, test: FaultCase, scene: Scene, finished: Finished) -> None:
        """Check what was warned of."""
        warnings = [warning["message"] for warning in scene.record()["warnings"] if warning["code"] == "unload"]
        if self.warned:
            test.assertRegex(warnings[0], self.warned)
            test.assertRegex(finished.errors, rf"(?m)^ane_bench: warning \(unload\) .*{self.warned}")
        else:
            test.assertEqual(warnings, [])

    def check_what_workers_said(self, test: FaultCase, scene: Scene) -> None:
        """Check that workers wrote nothing to standard error, but the rubbish that one was told to write."""
        if "rubbish" in self.name:
            test.assertIn("this is not JSON", scene.workers_said())
        else:
            test.assertEqual(scene.workers_said(), "")


# ----------------------------------------------------------------------------------------------------------------------
# The engine refuses
# ----------------------------------------------------------------------------------------------------------------------

def refused(fault: str, stage: str, reason: str, **more: Any) -> Fault:
    """Return a case in which W8A8 alone fails."""
    return Fault(fault, stage, reason, failed=("w8a8",), fault=fault, **more)


NIL, NO_ERROR, SAID_NO, UNICODE = f"^{faults.NIL}", faults.NO_ERROR, f"^{faults.SAID_NO}", faults.TOLD_IN_UNICODE
REFUSALS = [
    refused("w8a8/descriptor:nil", "descriptor", in_every_form(faults.NIL)),
    refused("w8a8/model:nil", "model", in_every_form(faults.NIL)),
    refused("w8a8/identifier:nil", "identifier", faults.NO_IDENTIFIER),
    refused("w8a8/compile:no", "compile",
            in_every_form(r"com\.apple\.\S+ 1: .*, caused by com\.apple\.\S+ 1: .* refuse at compile")),
    refused("w8a8/compile:silent", "compile", in_every_form(NO_ERROR)),
    refused("w8a8/compile:unicode", "compile", UNICODE),
    refused("w8a8/load:no", "load", in_every_form(r"com\.apple\.\w+ 6: .* refuse at load")),
    refused("w8a8/load:silent", "load", in_every_form(NO_ERROR)),
    refused("w8a8/load:unicode", "load", UNICODE),
    refused("surface:nil@3", "surface", faults.NO_SURFACE),
    refused("surface:nil@4", "surface", faults.NO_SURFACE),
    refused("surfaceobject:nil@3", "request", NIL),
    refused("surfaceobject:nil@4", "request", NIL),
    refused("request:nil@2", "request", NIL),
    refused("w8a8/evaluate:no", "warm-up", rf"{SAID_NO}com\.apple\.\w+ 8: .* refuse at evaluate$"),
    refused("w8a8/evaluate:silent", "warm-up", f"{SAID_NO}{NO_ERROR}$"),
    refused("w8a8/evaluate:no@2", "warm-up", f"{SAID_NO}com"),
    refused("w8a8/evaluate:silent@2", "warm-up", SAID_NO + NO_ERROR),
    refused("w8a8/evaluate:no@3", "evaluate", f"{SAID_NO}com"),
    refused(f"w8a8/evaluate:no@{FIRST_TIMED}", "evaluate", f"{SAID_NO}com"),
    refused(f"w8a8/evaluate:silent@{FIRST_TIMED}", "evaluate", SAID_NO + NO_ERROR),
    refused(f"w8a8/evaluate:no@{LAST_TIMED}", "evaluate", f"{SAID_NO}com"),
    refused(f"w8a8/evaluate:silent@{LAST_TIMED}", "evaluate", SAID_NO + NO_ERROR),
    refused(f"w8a8/evaluate:unicode@{LAST_TIMED}", "evaluate", UNICODE),
    Fault("lock:no", "surface", faults.NO_LOCK, fault="lock:no"),
    Fault("lock:no@4", "read|surface", faults.NO_LOCK, fault="lock:no@4"),
    # A run can do without it: the model's directory is then made from the identifier.
    Fault("localModelPath:nil", fault="localModelPath:nil", failed=()),
    Fault("unload:no", fault="unload:no", failed=(), warned=r"W8A8 .*\(com.apple.* 8: .*refuse at unload\)"),
    Fault("unload:silent", fault="unload:silent", failed=(), warned=rf"W8A8 .*\({NO_ERROR}\)"),
    Fault("unload:unicode", fault="unload:unicode", failed=(), warned=UNICODE),
    Fault("purge:nil", fault="purge:nil", failed=()),
]

# ----------------------------------------------------------------------------------------------------------------------
# The worker exits, is killed, or hangs
# ----------------------------------------------------------------------------------------------------------------------

# How a worker ends at each stage, and what is then told.
ENDS = {"raise": f"({faults.KILLED_BY}SIGABRT|{faults.EXITED_WITH}1): .*{faults.TOLD_TO_RAISE}{{stage}}",
        "crash": f"{faults.KILLED_BY}SIGSEGV", "exit": faults.WITHOUT_RESULT}


HUNG = f"{faults.HANGS}; {faults.SERVICE}|^{faults.NOT_MEASURED}"


def ending(stage: str, kind: str, told: str) -> Fault:
    """Return a case in which the worker exits at a stage, or hangs there."""
    fault = at_stage(stage, kind)
    reason, waits, serves = told.format(stage=stage), kind == "hang", kind == "hang" and stage in ("compile", "load")
    if stage in LATE:
        warned = "" if kind == "exit" else f"2x conv 64ch 8x8: {faults.AFTER_FIGURES}{stage}: .*{reason}"
        return Fault(fault, fault=fault, failed=(), ends_badly=True, warned=warned, waits=waits)
    if serves:
        return Fault(fault, f"{stage}|start", HUNG, fault=fault, ends_badly=True, waits=True)
    return Fault(fault, RECORDED.get(stage, stage), reason, fault=fault, failed=("fp16",), again=True, ends_badly=True,
                 waits=waits)


def sent(number: signal.Signals, stage: str, reason: str, seconds: float = PATIENCE) -> Fault:
    """Return a case in which somebody sends the worker a signal during a call that takes some seconds."""
    waits, ends_badly = number == signal.SIGSTOP, number != signal.SIGTERM
    stages = f"{stage}|start" if waits else RECORDED.get(stage, stage)
    return Fault(f"{stage}: {number.name} from outside", stages, reason, ends_badly=ends_badly,
                 failed=BOTH if waits else ("fp16",), again=not waits, fault=at_stage(stage, f"slow={seconds}"),
                 at=CALLS[stage], times=CALLED.get(stage, 1), waits=waits,
                 act=lambda scene, run: os.kill(run.worker(), number))


ENDINGS = some_of([ending(stage, kind, told) for stage in CALLS for kind, told in ENDS.items()],
                  "compile evaluate unload surface purge", "ends of a worker")
# SIGTERM is answered when the call returns: the worker cleans up.
KILLS = [sent(number, stage, f"^{faults.WORKER}{ending}", seconds) for stage in ("identifier", "compile", "evaluate")
         for number, ending, seconds in ((signal.SIGKILL, f"{faults.KILLED_BY}SIGKILL", PATIENCE),
                                         (signal.SIGTERM, f"{faults.EXITED_WITH}143", 1))]
HANGING = some_of([*(ending(stage, "hang", faults.HANGS) for stage in CALLS), sent(signal.SIGSTOP, "compile", HUNG)],
                  "descriptor compile load evaluate unload SIGSTOP", "workers that hang")
RUBBISH = [Fault(f"{stage}:rubbish", fault=f"{stage}:rubbish", failed=())
           for stage in ("compile", "evaluate", "unload")]

# ----------------------------------------------------------------------------------------------------------------------
# The compile service
# ----------------------------------------------------------------------------------------------------------------------

THREE_CONFIGS = (*faults.BOTH_CONFIGS, "--config", "16x8x2")


def errors_of(scene: Scene) -> list[tuple[str, str]]:
    """Return stage and error of each failed cell, in order."""
    cells = [cell for result in scene.record()["results"] for cell in result["variants"].values()]
    return [(cell["stage"], cell["error"]) for cell in cells if cell["status"] == "failed"]


def two_hangs(test: FaultCase, scene: Scene) -> None:
    """The second hang ends the run: what was not measured fails, and says so."""
    scene.settings.update(FAULT="64x8x2/compile:hang", DAEMON=scene.directory / "daemon")
    finished = scene.run(*THREE_CONFIGS, "--timeout", str(faults.SHORT), "--save", str(scene.saved))
    test.assertEqual(finished.code, 1, finished.errors)
    found = errors_of(scene)
    test.assertEqual([stage for stage, _ in found], ["compile", "start"] * 2 + ["start"] * 2)
    for number, (_, error) in enumerate(found):
        hung = f"{faults.HANGS}; {faults.SERVICE}"
        test.assertRegex(error, hung if number in (0, 2) else f"^{faults.NOT_MEASURED}")
    test.assertEqual(len([call for call in scene.calls() if call.startswith("compile fp16")]), 2)
    test.assertTrue(scene.record()["complete"])


def refused_for_good(test: FaultCase, scene: Scene) -> None:
    """Where a variant was refused in every form, later configurations try the first form only."""
    scene.settings["FAULT"] = "w8a8/compile:no"
    test.assertEqual(scene.run(*faults.BOTH_CONFIGS, "--save", str(scene.saved)).code, 1)
    first, second = (error for _, error in errors_of(scene))
    test.assertRegex(first, in_every_form(".* refuse at compile"))
    test.assertNotRegex(second, "|".join(map(re.escape, faults.FORMS)))
    test.assertEqual(len([call for call in scene.calls() if call.startswith("compile w8a8")]), len(faults.FORMS) + 1)


def service_restarts(test: FaultCase, scene: Scene) -> None:
    """After a refused compile the next one waits, also in the next worker; the wait is a stage."""
    scene.variables["ANE_BENCH_STANDIN_REST"] = "1.5"
    scene.settings.update(REFUSE="w8a8/short", RESTART="1", DAEMON=scene.directory / "daemon",
                          FAULT="w8a8/evaluate:crash")
    terminal = Terminal(scene, *SMALL, "--save", str(scene.saved), columns=100)
    test.assertEqual(terminal.finish().code, 1)
    (stage, error), = errors_of(scene)
    test.assertEqual(stage, "warm-up", error)
    test.assertRegex(error, f"{faults.KILLED_BY}SIGSEGV")
    test.assertTrue([line for line in terminal.screen.live if "W8A8 waiting for the compile service" in line.text])


SERVICE = [Step("two hangs end the run", two_hangs), Step("refused for good", refused_for_good),
           Step("the service restarts", service_restarts)]

# ----------------------------------------------------------------------------------------------------------------------
# The temporary directory, and the model's place in it
# ----------------------------------------------------------------------------------------------------------------------


def remove_temporary(scene: Scene, run: Started) -> None:
    shutil.rmtree(scene.temporary)


def make_file(scene: Scene) -> None:
    scene.temporary.rmdir()
    scene.temporary.write_text("no directory")


def make_missing(scene: Scene) -> None:
    scene.temporary.rmdir()


def make_read_only(scene: Scene) -> None:
    faults.read_only(scene, scene.temporary)


def make_full(scene: Scene) -> None:
    """Too small for the first configuration's fp16 weights of 16.2 KiB; all else fits."""
    faults.small_disk(scene, scene.temporary, 20 << 10, 16 << 10)


# The record names the temporary directory by an ellipsis, if it was one when the run began.
NOWHERE = "(tmp|…)/[0-9a-f_]+: No such file or directory($|; no form )"
DIRECTORIES = [
    Fault("TMPDIR read-only", "files", "…/.*: (Permission denied|Read-only file system)$", prepare=make_read_only,
          later="Permission denied|Read-only"),
    Fault("TMPDIR full", "files", "/weights/weight.bin: (No space left on device|File too large)$", failed=("fp16",),
          prepare=make_full),
    Fault("TMPDIR missing", "files", NOWHERE, prepare=make_missing, later=NOWHERE),
    Fault("TMPDIR a file", "files", "…/.*: Not a directory$", prepare=make_file, later="Not a directory$"),
    Fault("TMPDIR deleted at compile", "files", NOWHERE, fault=faults.slow("fp16/compile", 1), at="compile fp16",
          act=remove_temporary, later=NOWHERE),
    Fault("TMPDIR deleted at load", "files", NOWHERE, failed=("w8a8",), fault=faults.slow("fp16/load", 1),
          at="load fp16", act=remove_temporary, later=NOWHERE),
    Fault("TMPDIR deleted at evaluate", failed=(), fault=faults.slow("fp16/evaluate", 0.1), at="evaluate fp16",
          act=remove_temporary, later=NOWHERE),
    refused("w8a8/compile:killdir", "compile", in_every_form(".*InvalidMILProgram")),
    *(Fault(f"{stage}:killdir", fault=f"{stage}:killdir", failed=())
      for stage in ("load", "evaluate", "unload", "purge")),
]

_identifiers: list[str] = []


def identifier() -> str:
    """Return the name of the model directory of the first configuration's W8A8."""
    return _identifiers[-1]


def find_identifier(scene: Scene) -> None:
    """Learn it from a run: in the middle of one it is the only directory whose text quantizes."""
    run = scene.start(*SMALL, settings={"FAULT": faults.slow("w8a8/load")})
    scene.await_call(run, "load w8a8")
    name, = (path.name for path in scene.models() if "quantize(input" in (path / "model.mil").read_text())
    _identifiers.append(name)
    run.signal(signal.SIGTERM)
    scene.finish(run)


def precious(scene: Scene, name: str = "precious") -> Path:
    """Make a directory that is somebody's."""
    path = scene.directory / name
    (path / "weights").mkdir(parents=True)
    for file in ("model.mil", "weights/weight.bin", "diary"):
        (path / file).write_text("precious")
    return path


def check_precious(test: FaultCase, scene: Scene, left: str) -> None:
    """Check that somebody's directory, and what is in a model directory's place, is as it was."""
    if left:
        path, = scene.models()
        test.assertEqual((path.name, path.is_symlink()), (identifier(), left == "link"))
        if left == "directory":
            shutil.rmtree(path)
        else:
            test.assertTrue(left == "link" or path.read_text() == "precious")
            path.unlink()
    files = [path for path in (scene.directory / "precious").rglob("*") if path.is_file()]
    test.assertEqual({path.read_text() for path in files}, {"precious"} if files else set())
    test.assertEqual(len(files), 3 if (scene.directory / "precious").exists() else 0)


def make_link(scene: Scene) -> None:
    (scene.temporary / identifier()).symlink_to(precious(scene), target_is_directory=True)


def make_dangling_link(scene: Scene) -> None:
    (scene.temporary / identifier()).symlink_to(scene.directory / "nowhere", target_is_directory=True)


def make_link_of_weights(scene: Scene) -> None:
    (scene.temporary / identifier()).mkdir()
    (scene.temporary / identifier() / "weights").symlink_to(precious(scene) / "weights", target_is_directory=True)


def make_link_of_text(scene: Scene) -> None:
    (scene.temporary / identifier()).mkdir()
    (scene.temporary / identifier() / "model.mil").symlink_to(precious(scene) / "model.mil")


def make_file_of_name(scene: Scene) -> None:
    precious(scene)
    (scene.temporary / identifier()).write_text("precious")


def make_stale(scene: Scene) -> None:
    shutil.copytree(precious(scene), scene.temporary / identifier())


LINK = r"/[0-9a-f_]+'?: expected a directory [0-9a-f_]+, not a link, in "
LINKED = f"/%s: ({faults.SYMBOLIC_LINK}|{os.strerror(62 if sys.platform == 'darwin' else 40)})$"
PLACES = [
    Fault("model directory a symbolic link", "files", LINK, failed=("w8a8",), prepare=make_link,
          left="link"),
    Fault("model directory a dangling link", "files", LINK, failed=("w8a8",),
          prepare=make_dangling_link, left="link"),
    Fault("its weights a symbolic link", "files", LINKED % "weights", failed=("w8a8",), prepare=make_link_of_weights,
          left="directory"),
    Fault("its text a symbolic link", "files", LINKED % "model.mil", failed=("w8a8",), prepare=make_link_of_text,
          left="directory"),
    Fault("model directory a file", "files", "/[0-9a-f_]+/model.mil: Not a directory$", failed=("w8a8",),
          prepare=make_file_of_name, left="file"),
    Fault("model directory of a run that died", failed=(), prepare=make_stale),
]

# ----------------------------------------------------------------------------------------------------------------------
# The first worker is another program
# ----------------------------------------------------------------------------------------------------------------------


INVALID, IMPOSSIBLE, WITHOUT_RESULT = faults.INVALID_MESSAGE, faults.INVALID_CELL, faults.WITHOUT_RESULT


class Message(NamedTuple):
    """What a worker says that cannot be understood or believed, said by a process that is no more: both cells fail."""

    name: str
    reason: str
    lines: Sequence[Any]

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Run in this process."""
        with support.environment(TMPDIR=str(scene.temporary), ANE_BENCH_STANDIN=str(scene.standin)), \
                support.said_by_workers(written(*self.lines)):
            run = ane_bench.run(["64x8x2"], iters=4, rounds=2, warmup=2)
        for cell in run.cells:
            test.assertEqual(cell.stage, "message")
            test.assertRegex(str(cell.error), self.reason)
            test.assertEqual(cell.samples, [])


def invalid(name: str, *lines: Any) -> Message:
    """Return a message that cannot be understood."""
    return Message(f"message: {name}", INVALID, lines)


def impossible(name: str, told: str, **facts: Any) -> Message:
    """Return a message of a cell that cannot be believed."""
    return Message(f"cell: {name}", told, [cell(**facts)])


def written(*lines: Any) -> bytes:
    """Return what a worker writes: bytes as they are, objects as messages that want an answer, all else as JSON."""
    lines = tuple({"wait": True, **line} if isinstance(line, dict) else line for line in lines)
    return b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)


def sends(*lines: Any) -> Callable[[Scene], None]:
    """Let the first worker only write these."""
    return runs(f"import os, sys; sys.stdin.readline(); sys.stdout.buffer.write({written(*lines)!r})")


def runs(code: str) -> Callable[[Scene], None]:
    """Let the first worker run this."""
    return lambda scene: scene.drive({}, (sys.executable, "-I", "-c", code))


def diary(scene: Scene) -> Path:
    """Make a directory that holds no program."""
    path = precious(scene)
    (path / "model.mil").rename(path / "weights" / "model.mil")
    return path


def cell(variant: str = "fp16", samples: Any = ((1000.0, 1000.0), (1000.0, 1000.0)), **more: Any) -> dict[str, Any]:
    """Return a worker's message of a cell."""
    return {"kind": "cell", "variant": variant, "cell": {"status": "ok", "samples_ns": samples, **more}}


def stage(stage: Any, variant: Any, limit: Any, **more: Any) -> dict[str, Any]:
    """Return a worker's message of a stage."""
    return {"kind": "stage", "stage": stage, "variant": variant, "limit": limit, **more}


MACHINE = {"python": "3", "cpus": [], "load_average": "much", "memory_bytes": {}, "chip": 5}
MESSAGES = [
    invalid("not text", b"\xff\xfe\x80\n"),
    invalid("empty", b"\n"),
    invalid("half a line", b'{"kind": "stage", "stage": "co'),
    invalid("not an object", ["stage"]),
    invalid("of no kind", {"kind": "gossip"}),
    invalid("without its parts", {"kind": "stage", "stage": "compile"}),
    invalid("of other types", stage(1, [], "x")),
    invalid("a machine of other types", {"kind": "machine", "system": MACHINE, "tick_ns": 1.0}),
    invalid("a machine without its parts", {"kind": "machine", "system": {}, "tick_ns": 1.0}),
    invalid("nested deeply", b"[" * 100000 + b"\n"),
    invalid("5000 digits", b'{"kind": "stage", "limit": ' + b"9" * 5000 + b"}\n"),
    impossible("of another variant", f"{IMPOSSIBLE}: 'w8a16', 'ok'", variant="w8a16"),
    impossible("of no variant", f"{IMPOSSIBLE}: 'fp17', 'ok'", variant="fp17"),
    impossible("without samples", IMPOSSIBLE, samples=[]),
    impossible("with too few", IMPOSSIBLE, samples=[[1000.0, 1000.0]]),
    impossible("with none above 0", IMPOSSIBLE, samples=[[0.0, 1.0], [1.0, -1.0]]),
    impossible("with times that cannot be", f"{IMPOSSIBLE}|{INVALID}", samples=[[1e-320, 1.0], [1.0, 1e299]]),
    impossible("with NaN", INVALID, samples=[[float("nan"), 1.0], [1.0, 1.0]]),
    impossible("with infinity", INVALID, samples=[[float("inf"), 1.0], [1.0, 1.0]]),
    impossible("failed, with a number for its stage", INVALID, samples=[], status="failed", stage=5),
]
WORKERS = [
    Fault("message: not JSON", "message", INVALID, prepare=sends(b"{ this is not JSON\n")),
    Fault("message: a limit without end", "compile", WITHOUT_RESULT, failed=("fp16",), again=True,
          prepare=sends(stage("compile", "fp16", 1e299))),
    Fault("message: round 1 of 0", "evaluate", WITHOUT_RESULT, failed=("fp16",), again=True,
          prepare=sends(stage("evaluate", "fp16", 0, number=1, of=0))),
    Fault("message: a directory that is somebody's", "start", WITHOUT_RESULT,
          prepare=lambda scene: sends({"kind": "directory", "path": str(diary(scene))})(scene)),
    Fault("cell: one of two", "start", WITHOUT_RESULT, failed=("w8a8",),
          prepare=sends(cell(verified={"pixels": 1, "ok": True}))),
    Fault("cell: not verified", "start", WITHOUT_RESULT, prepare=sends(cell(), cell("w8a8"))),
    Fault("worker: says nothing and exits", "start", f"^{faults.WORKER}{WITHOUT_RESULT}: {faults.WROTE_NOTHING}$",
          prepare=runs("")),
    Fault("worker: exits with a code", "start", f"^{faults.WORKER}{faults.EXITED_WITH}5: last words$", ends_badly=True,
          prepare=runs("import sys; print('first words\\nlast words\\n', file=sys.stderr); sys.exit(5)")),
    Fault("worker: writes much to standard error", "start", f"^{faults.WORKER}{faults.EXITED_WITH}1: the end$",
          ends_badly=True, prepare=runs("import sys; sys.stderr.write('x' * 10000000 + '\\nthe end'); sys.exit(1)")),
    Fault("worker: a line that never ends", "message", f"{INVALID}'xxx",
          prepare=runs("import os\nfor _ in range(70 << 4): os.write(1, b'x' * (1 << 16))")),
    Fault("worker: closes its output and stays", "start", faults.NOT_ENDED, ends_badly=True, waits=True,
          prepare=runs(f"import os, time; os.close(1); os.close(2); time.sleep({PATIENCE})")),
    Fault("worker: cannot be started", "start", "/python[^/]*: No such file or directory",
          prepare=lambda scene: scene.drive({}, ("/nowhere/python",))),
]

# ----------------------------------------------------------------------------------------------------------------------
# The machine lacks something
# ----------------------------------------------------------------------------------------------------------------------

NEEDED_CLASSES = tuple(dict.fromkeys(method.class_name for method in METHODS if method.needed))
OTHER_CLASSES = tuple(dict.fromkeys(method.class_name for method in METHODS if method.class_name not in NEEDED_CLASSES))
# GNUstep looks for these by the function that hides them here, and does not get as far as to say so.
GNUSTEPS_OWN = () if sys.platform == "darwin" else ("NSString", "NSData")

# What of a run's calls and its record shows that a method was used. For the two that are never recorded the stand-in
# gives the answer with which there would be no run.
TRACES = {"localModelPath": "localModelPath", "compiledModelExists": "compiled", "purgeCompiledModel": "purge",
          "aneSubType": "ane_subtype", "numANEs": "ane_count", "numANECores": "ane_cores",
          "processInfo": "thermal_state", "thermalState": "thermal_state", "isLowPowerModeEnabled": "low_power_mode",
          "aneArchitectureType": "ane_architecture", "beginActivityWithOptions:reason:": "beginActivity",
          "endActivity:": "endActivity", "_ANEDeviceInfo": "ane_subtype", "NSProcessInfo": "low_power_mode"}
UNASKED = {"hasANE": {"DEVICE": "hasANE=0"}, "isVirtualMachine": {"DEVICE": "isVirtualMachine=1"}}
UNTRACED = {"userInfo", "objectForKey:"}  # asked of errors only


class Lack(NamedTuple):
    """A machine that lacks something.

    If `told` (a pattern) is given, the run exits with 3 and tells that; else it goes on, and neither its calls nor its
    record have the words `lost`, which they have if nothing is missing. `library` takes the stand-in's place.
    """

    name: str
    settings: Mapping[str, str]
    told: str = ""
    lost: Sequence[str] = ()
    library: str = ""

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Run on that machine."""
        scene.settings.update(self.settings)
        if self.library:
            scene.standin = self.library
        finished = scene.run(*SMALL, "--save", str(scene.saved))
        test.check_clean(scene, finished)
        if self.told and self.settings.get("MISSING") in GNUSTEPS_OWN:
            test.assertEqual(finished.code, 1)
            test.assertRegex(finished.output, f"{faults.FAILED_IN}start: {faults.WORKER}{faults.KILLED_BY}SIGABRT")
        elif self.told:
            test.assertEqual((finished.code, finished.output), (3, ""), finished.errors)
            first, *others = (line for line in finished.errors.splitlines() if not line.startswith("["))
            test.assertRegex(first, f"{faults.NO_ENGINE}.*{self.told}")
            test.assertRegex("\n".join(others), faults.NO_ENGINE_ADVICE)
            test.assertFalse(scene.saved.exists())
            test.assertFalse([call for call in scene.calls() if call.startswith(("descriptor", "compile"))])
        else:
            test.assertEqual(finished.code, 0, finished.errors)
            cells = scene.record()["results"][0]["variants"].values()
            test.assertEqual([cell["status"] for cell in cells], ["ok", "ok"])
            test.check_balance(scene)
            for word in self.lost:
                test.assertNotIn(word, json.dumps(scene.record()) + "".join(scene.calls()))


def encoded(codes: str) -> str:
    """Return an encoding with codes of the result and the arguments, with offsets."""
    result, *arguments = [code + ("v" if code == "^" else "") for code in codes]
    places = "".join(f"{code}{16 + 8 * index}" for index, code in enumerate(arguments))
    return f"{result}{16 + 8 * len(arguments)}@0:8{places}"


def other_encodings(method: Method) -> Iterator[tuple[str, str]]:
    """Yield a method's encoding with another result, and with another or an additional argument."""
    result, arguments = method.codes[0], method.codes[1:]
    yield "another result", encoded(("@" if result != "@" else "Q") + arguments)
    if arguments:
        yield "another argument", encoded(result + arguments[:-1] + "i")
    else:
        yield "an argument", encoded(result + "@")


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "BOOL as c": lambda codes: encoded(codes.replace("B", "c")),
    "BOOL as C": lambda codes: encoded(codes.replace("B", "C")),
    "no offsets": lambda codes: re.sub("[0-9]", "", encoded(codes)),
    "other offsets": lambda codes: re.sub("[0-9]+", lambda number: str(2 * int(number[0]) + 1), encoded(codes)),
    "qualifiers": lambda codes: "V" + re.sub(r"\^v", "r^{Name={Inner=^i[4c]}@?}", encoded(codes)),
    "class names": lambda codes: re.sub("@(?!0)", '@"NSDictionary"', encoded(codes)),
}


def listed(encodings: Mapping[str, str]) -> dict[str, str]:
    """Return the stand-in's setting of these encodings."""
    return {"ENCODING": " ".join(f"{selector}={encoding}" for selector, encoding in encodings.items())}


def traces(*names: str) -> list[str]:
    """Return what shows that these classes or methods are used."""
    return [TRACES[name] for name in names if name in TRACES]


NEEDED = [method for method in METHODS if method.needed]
OPTIONAL = [method for method in METHODS if not method.needed]
PRIVATE = [method for method in METHODS if method.class_name.startswith("_")]
# Two methods share this name, and the stand-in asks for them itself.
APART = [method for method in NEEDED if method.class_name not in GNUSTEPS_OWN]
NO_SYSCTL = ("machdep.cpu.brand_string=;hw.model=;kern.osproductversion=;kern.osversion=;hw.memsize=;"
             "sysctl.proc_translated=;kern.hv_vmm_present=")
LACKS = [
    Lack("library missing", {}, told="cannot be opened: .*nowhere", library="/nowhere/library.so"),
    Lack("library a text file", {}, told=r"cannot be opened: .*\.py", library=__file__),
    Lack("library without the functions", {}, told="has no function (sysctlbyname|objc_getClass) here",
         library=_ctypes.__file__),
    Lack("a class missing", {"MISSING": "_ANERequest"}, told=f"{faults.NO_CLASS}_ANERequest "),
    Lack("a class missing for Foundation, too", {"MISSING": "NSString"}, told=f"{faults.NO_CLASS}NSString "),
    Lack("a method missing", {"MISSING": APART[-1].selector}, told=re.escape(APART[-1].name) + faults.ABSENT),
    Lack("a method with another result", listed({"loadWithQoS:options:error:": "@36@0:8I16@20^v28"}),
         told=re.escape(f"loadWithQoS:options:error:]{faults.OF_TYPE}@36@0:8I16@20^v28; expected ")),
    Lack("all optional classes missing", {"MISSING": " ".join(OTHER_CLASSES)}, lost=traces(*OTHER_CLASSES)),
    Lack("all optional methods missing", {"MISSING": " ".join(method.selector for method in OPTIONAL)},
         lost=traces(*(method.selector for method in OPTIONAL))),
    Lack("all optional methods with another result",
         listed({method.selector: next(other_encodings(method))[1] for method in OPTIONAL}),
         lost=traces(*(method.selector for method in OPTIONAL))),
    Lack("encodings in all spellings", listed({method.selector: spell(method.codes) for method, spell
                                              in zip(PRIVATE, itertools.cycle(SPELLINGS.values()))})),
    Lack("no engine", {"DEVICE": "hasANE=0"}, told="the framework says that this Mac has no Neural Engine"),
    Lack("a virtual machine, says the framework", {"DEVICE": "isVirtualMachine=1"}, told="this is a virtual machine"),
    Lack("a virtual machine, says the kernel", {"SYSCTL": "kern.hv_vmm_present=1"}, told="this is a virtual machine"),
    Lack("Rosetta", {"SYSCTL": "sysctl.proc_translated=1"},
         told="translated by Rosetta.*run the arm64 one: arch -arm64 /usr/bin/python3"),
    Lack("no sysctl, and no power source", {"SYSCTL": NO_SYSCTL, "POWER": ""}, lost=('"chip"', "power_source")),
]
# One at a time.
EACH_LACK = [
    *(Lack(f"class {name} missing", {"MISSING": name}, told=f"{faults.NO_CLASS}{name} ") for name in NEEDED_CLASSES),
    *(Lack(f"class {name} missing", {"MISSING": name}, lost=traces(name)) for name in OTHER_CLASSES),
    *(Lack(f"{method.name} missing", {"MISSING": method.selector}, told=re.escape(method.name) + faults.ABSENT)
      for method in NEEDED),
    *(Lack(f"{method.name} missing", {"MISSING": method.selector, **UNASKED.get(method.selector, {})},
           lost=traces(method.selector)) for method in OPTIONAL),
    *(Lack(f"{method.name} with {what}", listed({method.selector: encoding}),
           told=f"{re.escape(method.name)}{faults.OF_TYPE}{re.escape(encoding)}; expected ")
      for method in PRIVATE if method.needed for what, encoding in other_encodings(method)),
    *(Lack(f"{method.name} with another result", lost=traces(method.selector), settings={
        **listed({method.selector: next(other_encodings(method))[1]}), **UNASKED.get(method.selector, {})})
      for method in OPTIONAL),
    *(Lack(f"encodings with {name}", listed({method.selector: spell(method.codes) for method in PRIVATE}))
      for name, spell in SPELLINGS.items()),
]


class EngineFaultTest(FaultCase):
    """All of these tables."""

    def test_refusals(self) -> None:
        self.check_table(REFUSALS)

    def test_endings(self) -> None:
        # Those that hang leave the machine idle.
        cases: list[faults.Case] = [*SERVICE, *HANGING, *ENDINGS]
        self.check_table(cases, len(HANGING) + len(SERVICE) + support.AT_A_TIME)

    @support.long_test
    def test_kills(self) -> None:
        self.check_table(KILLS)

    def test_rubbish(self) -> None:
        self.check_table(RUBBISH)

    def test_directories(self) -> None:
        self.check_table(DIRECTORIES)

    def test_places(self) -> None:
        find_identifier(self.scene)
        self.check_table(PLACES)

    def test_messages(self) -> None:
        self.check_table(MESSAGES, at_a_time=1)

    @support.long_test
    def test_workers(self) -> None:
        self.check_table(WORKERS)

    def test_lacks(self) -> None:
        self.check_table(LACKS)

    @support.long_test
    def test_each_lack(self) -> None:
        self.check_table(EACH_LACK)

    def test_lacks_that_doctor_tells(self) -> None:
        """It tells all at once."""
        missing = {"MISSING": " ".join(method.selector for method in APART)}
        others = [listed({method.selector: list(other_encodings(method))[number][1] for method in PRIVATE})
                  for number in (0, -1)]
        for settings, methods in ((missing, APART), *((other, PRIVATE) for other in others)):
            report = json.loads(self.scene.run("doctor", "--format", "json", settings=settings).output)
            checks = {check["name"]: check for check in report["checks"]}
            for method in methods:
                self.assertEqual(checks[method.name]["state"], "FAIL" if method.needed else "note", method)
                self.assertIn(faults.ABSENT if settings is missing else faults.OF_TYPE, checks[method.name]["value"])

    def test_what_lacks_take_away_is_there(self) -> None:
        """Otherwise its absence would mean nothing."""
        self.assertEqual(self.scene.run(*SMALL, "--save", str(self.scene.saved)).code, 0)
        text = json.dumps(self.scene.record()) + "".join(self.scene.calls())
        for word in {word for lack in LACKS for word in lack.lost} | set(TRACES.values()):
            self.assertIn(word, text)
        self.assertEqual({method.selector for method in OPTIONAL}, {*TRACES, *UNASKED, *UNTRACED} - {*OTHER_CLASSES})

    def test_the_methods_are_those_that_doctor_looks_for(self) -> None:
        report = json.loads(self.scene.run("doctor", "--format", "json").output)
        names = [check["name"] for check in report["checks"]]
        self.assertEqual([name for name in names if name[0] in "+-"], [method.name for method in METHODS])


@support.long_test
class SecondPassTest(faults.SecondPass, EngineFaultTest):
    """The same under `-X dev -W error`."""
