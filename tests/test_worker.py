"""The worker: what it sends, and faults of engine, worker, temporary directory and machine."""

import _ctypes
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import ane_bench
from ane_bench import METHODS, Config, Job, Method, Settings, Worker
from tests import faults, support
from tests.faults import (
    BOTH,
    CALLED,
    CALLS,
    FAILED_IN,
    FIRST_TIMED,
    LAST_TIMED,
    NO_ERROR,
    SAID_NO,
    WITHOUT_RESULT,
    FaultCase,
    at_stage,
    in_every_form,
    some_of,
)
from tests.support import PATIENCE, ROUNDS, SMALL, Finished, Scene, Started

# The real clock, and evaluates so short that rounds take 0.05 s: for what takes time.
REAL = {"CLOCK": "real", "LATENCY": "fp16:2000,w8a16:2000,w8a8:1000"}


def job(variants: Sequence[str] = BOTH, config: str = "64x8x2", forms: Sequence[str] = faults.FORMS,
        **more: Any) -> Job:
    """Return a job of the Neural Engine; Job's own fields and settings may be given."""
    own = {name: more.pop(name) for name in Job._fields if name in more}
    defaults = ane_bench.ORIGINAL_SETTINGS if more.get("original") else Settings(seconds=0)
    return Job(**{"engine": "ane", "config": Config.parse(config), "variants": variants,
                  "settings": defaults._replace(**more), "forms": dict.fromkeys(variants, forms),
                  **own})


class MessagesTest(support.StandinCase):
    """What a worker sends of a job, and what it does if it is asked to stop."""

    def sent(self, job: Job, act: Optional[Callable[[Worker, dict[str, Any]], None]] = None,
             **settings: Any) -> list[dict[str, Any]]:
        """Return all messages of a worker with this job but ticks; `act` hears each."""
        found = []
        with self.here(**settings), Worker(PATIENCE, "measure", *job) as worker:
            for message in worker.messages():
                if message["kind"] != "tick":
                    found.append(message)
                if act:
                    act(worker, message)
        return found

    def test_the_way_of_a_job(self) -> None:
        sent = self.sent(job())
        words = [message.get("stage") or message["kind"] for message in sent]
        of_one = ["generate", "descriptor", "model", "identifier", "files", "directory", "compile",
                  "load", "strides", "surface", "surface", "request", "surface"]
        self.assertEqual(words[0], "machine")
        self.assertEqual(words[1:27], of_one * 2)
        self.assertEqual(words[27:30], ["warm-up"] * 3)
        rounds = [message for message in sent if "number" in message]
        self.assertEqual((rounds[0]["number"], rounds[0]["variant"]), (1, "fp16,w8a8"))
        # Figures come before the check, and all cells before anything is unloaded.
        rest = [word for word in words[30:] if word != "evaluate"]
        self.assertEqual(rest, ["cell", "cell", "verify", "verify", "cell", "cell",
                                *["unload", "purge"] * 2])
        first, *_, last = (message["cell"] for message in sent
                           if message["kind"] == "cell" and message["variant"] == "w8a8")
        self.assertEqual((len(first["samples_ns"]), first.get("verified")), (ROUNDS, None))
        self.assertEqual((last["samples_ns"], last["verified"]["ok"]), (first["samples_ns"], True))

    def test_rounds_are_not_all_reported(self) -> None:
        sent = self.sent(job(seconds=1000.0))  # of a clock that jumps
        rounds = [message["number"] for message in sent if "number" in message]
        count = len(next(message for message in sent if message["kind"] == "cell")
                    ["cell"]["samples_ns"])
        self.assertGreater(count, 500)
        self.assertLess(len(rounds), count / 10)
        self.assertEqual(rounds, sorted(set(rounds)))

    def test_it_stops_after_its_round_and_checks_what_was_measured(self) -> None:
        def stop(worker: Worker, message: dict[str, Any]) -> None:
            if message.get("number", 0) > ROUNDS + 3 and not worker.stopping:
                with contextlib.suppress(KeyboardInterrupt):
                    worker._interrupt(signal.SIGINT, None)
        sent = self.sent(job(seconds=15.0), stop, **REAL)
        cells = {message["variant"]: message["cell"] for message in sent
                 if message["kind"] == "cell"}
        for cell in cells.values():
            self.assertEqual((cell["status"], cell["verified"]["ok"]), ("ok", True))
            self.assertEqual(len(cell["samples_ns"]) % 2, 0)
            self.assertTrue(ROUNDS < len(cell["samples_ns"]) < 100, "of 300 in 15 s")
        self.assertEqual(self.scene.models(), [])

    def test_it_stops_before_there_are_enough_rounds(self) -> None:
        def stop(worker: Worker, message: dict[str, Any]) -> None:
            if message.get("number") == 1:
                worker._write(b"\n")
        sent = self.sent(job(seconds=15.0), stop, **REAL)
        cells = [message["cell"] for message in sent if message["kind"] == "cell"]
        self.assertEqual({cell["status"] for cell in cells}, {"failed"})
        self.assertRegex(cells[0]["error"], f"^interrupted after [0-9]+ of {ROUNDS} rounds$")
        self.assertNotIn("samples_ns", cells[0])

    def test_variants_apart_are_loaded_one_after_the_other(self) -> None:
        for more in ({"apart": True}, {"original": True, "forms": ["original/1.3"]}):
            with self.subTest(more):
                self.log.unlink(missing_ok=True)
                sent = self.sent(job(config="64x32x2", **more))
                words = [call.split()[0] for call in self.calls()]
                loads = [word for word in words if word in ("load", "unload")]
                self.assertEqual(loads, ["load", "unload"] * 2)
                cells = [message["cell"] for message in sent if message["kind"] == "cell"]
                self.assertEqual({cell["status"] for cell in cells}, {"ok"})
                self.assertEqual({cell.get("apart") for cell in cells}, {more.get("apart")})

    def test_asked_to_stop_between_variants_it_loads_no_more(self) -> None:
        def stop(worker: Worker, message: dict[str, Any]) -> None:
            if message["kind"] == "cell":
                worker._write(b"\n")
        sent = self.sent(job(apart=True), stop, FAULT="fp16/unload:slow=0.5")
        self.assertEqual({message["variant"] for message in sent if message["kind"] == "cell"},
                         {"fp16"})
        self.assertEqual(sum(call.startswith("compile ") for call in self.calls()), 1)

    def test_it_cleans_up_when_its_parent_is_gone(self) -> None:
        cache = self.directory / "cache"
        cache.mkdir()
        with self.here(CACHE=cache, **REAL), \
                Worker(PATIENCE, "measure", *job(seconds=15.0)) as worker:
            for message in worker.messages():
                if message.get("number"):
                    break
            self.assertEqual(len(list(cache.iterdir())), 2)
            assert worker._process.stdin
            worker._process.stdin.close()
            self.assertEqual(worker._process.wait(PATIENCE), 128 + signal.SIGTERM)
        self.assertEqual(list(cache.iterdir()), [])
        self.assertEqual(sum(call.startswith("unload") for call in self.calls()), 2)
        self.assertEqual(self.scene.models(), [])

    def test_the_rest_after_a_refused_compile(self) -> None:
        """The wait is a stage, whose limit is what is left of it."""
        refusing = job(rest_s=0.4, refused_at=time.monotonic())
        sent = self.sent(refusing, REFUSE="w8a8/standard")
        rests = [message for message in sent if message.get("stage") == "rest"]
        self.assertEqual([message["variant"] for message in rests], ["fp16"] + ["w8a8"] * 3)
        for message in rests:
            self.assertTrue(0 < message["limit"] <= 0.4, message)
        self.assertEqual(sum(message["kind"] == "refused" for message in sent), 3)

    def test_it_does_not_send_what_a_library_prints(self) -> None:
        sent = self.sent(job(), FAULT="compile:rubbish;evaluate:rubbish")
        self.assertEqual([message["cell"]["status"] for message in sent
                          if message["kind"] == "cell"], ["ok"] * 4)

    def test_checks_are_sent_until_one_fails_that_all_need(self) -> None:
        for settings, last in (({}, None), ({"SYSCTL": "sysctl.proc_translated=1"}, "processor")):
            with self.here(**settings), Worker(PATIENCE, "examine") as worker:
                sent = list(worker.messages())
            found = [message["name"] for message in sent if message["kind"] == "check"]
            names = [check.name for check in ane_bench.checks()]
            self.assertEqual(found, names[:names.index(last) + 1] if last else names)
            begun = [message["stage"] for message in sent if message["kind"] == "stage"]
            self.assertEqual(begun, found, "each is told when it begins")


# --------------------------------------------------------------------------------------------------
# A fault in the first worker
# --------------------------------------------------------------------------------------------------

# The stages that have another name in the record.
RECORDED = {"localModelPath": "identifier", "surfaceobject": "request", "lock": "surface"}
# After the figures were taken.
LATE = ("unload", "purge")
# A load is tried again for two seconds in each form.
ONE_FORM = ("--form", "standard/1.3")


class Fault(NamedTuple):
    """A fault that the first worker meets, and what must come of it.

    `fault` is the stand-in's; `act` is called when the stand-in is `at` a call for the `times`-th
    time; `prepare` comes before all. The variants that `failed` do so in a stage (of `A|B` the
    first in A, the other in B), for a reason (a pattern); the others are measured. A second
    configuration follows if nothing else shows that the run goes on; `later` is the reason for
    which it fails, if it does. `warned` is a warning; `left` is what stays in the temporary
    directory. With `ends_badly` the worker cannot release what it holds; with `waits` the time
    limit is a short one.
    """

    name: str
    stage: str = ""
    reason: str = ""
    failed: Sequence[str] = BOTH
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
    options: Sequence[str] = ()

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Run with the fault in the first worker."""
        scene.drive({"STANDIN_FAULT": ""})
        if self.prepare:
            self.prepare(scene)
        if self.fault:
            scene.settings["FAULT"] = self.fault
        limit = ("--timeout", str(faults.SHORT)) if self.waits else ()
        configs = faults.BOTH_CONFIGS if self.has_second else SMALL
        run = scene.start(*configs, "--save", str(scene.saved), *limit, *self.options)
        if self.act:
            scene.await_call(run, self.at, self.times)
            self.act(scene, run)
        finished = scene.finish(run)
        self.check_cells(test, scene, finished)
        warnings = [warning["message"] for warning in scene.record()["warnings"]
                    if warning["code"] == "unload"]
        test.assertEqual(bool(warnings), bool(self.warned), warnings)
        test.assertRegex("\n".join(warnings), self.warned or "^$")
        if not self.ends_badly:
            test.check_balance(scene)
            said = [line for line in scene.workers_said().splitlines() if "NSData.m" not in line]
            test.assertEqual("rubbish" in self.name, "this is not JSON" in "".join(said))
            test.assertEqual(said if "rubbish" not in self.name else [], [])
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
        names = ["64x8x2", "32x8x2"][:1 + self.has_second]
        test.assertEqual([result["config"] for result in results], names)
        self.check_result(test, finished, results[0], self.failed, self.stage, self.reason)
        for second in results[1:]:
            self.check_result(test, finished, second, BOTH if self.later else (), "files",
                              self.later)
        failed = len(self.failed) + (2 if self.later else 0)
        test.assertEqual(finished.output.count(FAILED_IN), failed, finished.output)
        if self.fault.startswith("w8a8/evaluate:"):
            refused = sum(call.endswith("-> NO") for call in scene.calls())
            test.assertEqual(refused, 1, "it went on after a NO")

    def check_result(self, test: FaultCase, finished: Finished, result: Mapping[str, Any],
                     failed: Sequence[str], stage: str, reason: str) -> None:
        """Check the cells of a configuration."""
        test.assertEqual(tuple(result["variants"]), BOTH)
        for variant, cell in result["variants"].items():
            if variant in failed:
                expected = stage.split("|")[0 if variant == failed[0] else -1]
                test.assertEqual((cell["status"], cell["stage"]), ("failed", expected), cell)
                test.assertRegex(cell["error"], reason)
                test.assertLess(len(cell["error"]), 1000)
                test.assertNotIn("ms", cell)
                test.assertIn(f"{FAILED_IN}{cell['stage']}: {cell['error']}\n", finished.output)
            else:
                test.assertEqual((cell["status"], cell.get("error")), ("ok", None))
                test.assertEqual(len(cell["samples_ns"]), ROUNDS)
        test.assertEqual(set(result["ratio"]), {"w8a8"} if not failed else set())


# --------------------------------------------------------------------------------------------------
# The engine refuses
# --------------------------------------------------------------------------------------------------

def refused(fault: str, stage: str, reason: str, **more: Any) -> Fault:
    """Return a case in which W8A8 alone fails."""
    return Fault(fault, stage, reason, failed=("w8a8",), fault=fault, **more)


NIL, UNICODE = f"^{faults.NIL}", faults.TOLD_IN_UNICODE
REFUSALS = [
    refused("w8a8/descriptor:nil", "descriptor", in_every_form(faults.NIL)),
    refused("w8a8/model:nil", "model", in_every_form(faults.NIL)),
    refused("w8a8/identifier:nil", "identifier", "hexStringIdentifier is ''"),
    refused("w8a8/compile:no", "compile",
            in_every_form(r"com\.apple\.\S+ 1: .*, caused by com\.apple\.\S+ 1: .* refuse at co")),
    refused("w8a8/compile:silent", "compile", in_every_form(NO_ERROR)),
    refused("w8a8/compile:unicode", "compile", UNICODE),
    refused("w8a8/load:no", "load", r"^com\.apple\.\w+ 6: .* refuse at load", options=ONE_FORM),
    refused("w8a8/load:silent", "load", NO_ERROR, options=ONE_FORM),
    refused("w8a8/load:unicode", "load", UNICODE, options=ONE_FORM),
    Fault("load:once", fault="load:once", failed=()),
    refused("surface:nil@3", "surface", "IOSurfaceCreate failed for 65536 bytes"),
    refused("surface:nil@4", "surface", "IOSurfaceCreate failed for 65536 bytes"),
    refused("surfaceobject:nil@3", "request", NIL),
    refused("request:nil@2", "request", NIL),
    refused("w8a8/evaluate:no", "warm-up",
            rf"^{SAID_NO}com\.apple\.\w+ 8: .* refuse at evaluate$"),
    refused("w8a8/evaluate:silent", "warm-up", f"^{SAID_NO}{NO_ERROR}$"),
    refused("w8a8/evaluate:no@2", "warm-up", f"^{SAID_NO}com"),
    refused(f"w8a8/evaluate:no@{FIRST_TIMED - 1}", "evaluate", f"^{SAID_NO}com"),
    refused(f"w8a8/evaluate:silent@{FIRST_TIMED}", "evaluate", f"^{SAID_NO}{NO_ERROR}"),
    refused(f"w8a8/evaluate:no@{LAST_TIMED}", "evaluate", f"^{SAID_NO}com"),
    refused(f"w8a8/evaluate:unicode@{LAST_TIMED}", "evaluate", UNICODE),
    Fault("lock:no", "surface", "^IOSurfaceLock returned 0xe00002c2$", fault="lock:no"),
    # A run can do without it: the model's directory is then made from the identifier.
    Fault("localModelPath:nil", fault="localModelPath:nil", failed=()),
    Fault("unload:no", fault="unload:no", failed=(),
          warned=r"W8A8 .*\(com.apple.* 8: .*refuse at unload\)"),
    Fault("unload:silent", fault="unload:silent", failed=(), warned=rf"W8A8 .*\({NO_ERROR}\)"),
    Fault("unload:unicode", fault="unload:unicode", failed=(), warned=UNICODE),
    Fault("purge:nil", fault="purge:nil", failed=()),
]

# --------------------------------------------------------------------------------------------------
# The worker exits, is killed, or hangs
# --------------------------------------------------------------------------------------------------

# How a worker ends at each stage, and what is then told.
ENDS = {"raise": f"({faults.KILLED_BY}SIGABRT|{faults.EXITED_WITH}1): .*"
                 "reason: *the stand-in was told to raise at {stage}",
        "crash": f"{faults.KILLED_BY}SIGSEGV", "exit": WITHOUT_RESULT}
HUNG = f"{faults.HANGS}; {faults.SERVICE}|^{faults.NOT_MEASURED}"


def ending(stage: str, kind: str, told: str) -> Fault:
    """Return a case in which the worker exits at a stage, or hangs there."""
    fault, reason, waits = at_stage(stage, kind), told.format(stage=stage), kind == "hang"
    if waits and stage == "evaluate":  # the first, as the limit of a round is ten times its pace
        return Fault("evaluate:hang", "warm-up", "no progress for 4 s", fault="evaluate:hang",
                     failed=("fp16",), ends_badly=True, waits=True)
    if stage in LATE:
        warned = "" if kind == "exit" else f"^after the figures .*, in stage {stage}: .*{reason}"
        return Fault(fault, fault=fault, failed=(), ends_badly=True, warned=warned, waits=waits)
    if waits and stage in ("compile", "load"):
        return Fault(fault, f"{stage}|start", HUNG, fault=fault, ends_badly=True, waits=True)
    return Fault(fault, RECORDED.get(stage, stage), reason, fault=fault, failed=("fp16",),
                 ends_badly=True, waits=waits)


def sent(number: signal.Signals, stage: str, reason: str, seconds: float = PATIENCE) -> Fault:
    """Return a case in which somebody sends the worker a signal during a call that takes some
    seconds."""
    stops, ends_badly = number == signal.SIGSTOP, number != signal.SIGTERM
    stages = f"{stage}|start" if stops else RECORDED.get(stage, stage)
    return Fault(f"{stage}: {number.name} from outside", stages, reason, ends_badly=ends_badly,
                 failed=BOTH if stops else ("fp16",), waits=stops, at=CALLS[stage],
                 times=CALLED.get(stage, 1), fault=at_stage(stage, f"slow={seconds}"),
                 act=lambda scene, run: os.kill(run.worker(), number))


ENDINGS = some_of([ending(stage, kind, told) for stage in CALLS for kind, told in ENDS.items()],
                  "compile evaluate unload purge", "ends of a worker")
# SIGTERM is answered when the call returns: the worker cleans up.
KILLS = [sent(number, stage, f"^the worker {ending}", seconds)
         for stage in ("identifier", "compile", "evaluate")
         for number, ending, seconds in (
             (signal.SIGKILL, f"{faults.KILLED_BY}SIGKILL", PATIENCE),
             (signal.SIGTERM, f"{faults.EXITED_WITH}143", 1))]
HANGING = some_of([*(ending(stage, "hang", faults.HANGS) for stage in CALLS),
                   sent(signal.SIGSTOP, "compile", HUNG)],
                  "compile load evaluate unload SIGSTOP", "workers that hang")
RUBBISH = [Fault(f"{stage}:rubbish", fault=f"{stage}:rubbish", failed=())
           for stage in ("compile", "evaluate", "unload")]

# --------------------------------------------------------------------------------------------------
# The temporary directory, and the model's place in it
# --------------------------------------------------------------------------------------------------


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


# The record names the temporary directory by an ellipsis. One that is missing is made.
DIRECTORIES = [
    Fault("TMPDIR read-only", "files", "…/.*: (Permission denied|Read-only file system)$",
          prepare=make_read_only, later="Permission denied|Read-only"),
    Fault("TMPDIR full", "files",
          "/weights/weight.bin: (No space left on device|File too large)$", failed=("fp16",),
          prepare=make_full),
    Fault("TMPDIR missing", prepare=make_missing, failed=()),
    Fault("TMPDIR a file", "files", "…/.*: Not a directory$", prepare=make_file,
          later="Not a directory$"),
    *(Fault(f"TMPDIR deleted at {stage}", failed=(), fault=faults.slow(f"fp16/{stage}", 0.5),
            at=f"{stage} fp16", act=remove_temporary) for stage in ("compile", "load")),
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
    run = scene.start(*SMALL, settings={"FAULT": faults.slow("w8a8/load", 1)})
    scene.await_call(run, "load w8a8")
    name, = (path.name for path in scene.models()
             if "quantize(input" in (path / "model.mil").read_text())
    _identifiers.append(name)
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
        if left.startswith("directory"):
            test.assertEqual((path / "diary").exists(), left == "directory of somebody")
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
    target = scene.directory / "nowhere"
    (scene.temporary / identifier()).symlink_to(target, target_is_directory=True)


def make_inner_link(name: str) -> Callable[[Scene], None]:
    """Return what makes a part of the model's directory a link to somebody's."""
    def make(scene: Scene) -> None:
        (scene.temporary / identifier()).mkdir()
        (scene.temporary / identifier() / name).symlink_to(precious(scene) / name)
    return make


def make_file_of_name(scene: Scene) -> None:
    precious(scene)
    (scene.temporary / identifier()).write_text("precious")


def make_foreign(scene: Scene) -> None:
    shutil.copytree(precious(scene), scene.temporary / identifier())


def make_stale(scene: Scene) -> None:
    """As a run leaves it that died."""
    make_foreign(scene)
    (scene.temporary / identifier() / "diary").unlink()


LINK = r"/[0-9a-f_]+'?: expected a directory, not a link, in "
HOLDS = "/[0-9a-f_]+ holds {}, which is not of a program: move it away"
PLACES = [
    Fault("model directory a symbolic link", "files", LINK, failed=("w8a8",), prepare=make_link,
          left="link"),
    Fault("model directory a dangling link", "files", LINK, failed=("w8a8",),
          prepare=make_dangling_link, left="link"),
    Fault("its weights a symbolic link", "files", HOLDS.format("weights"), failed=("w8a8",),
          prepare=make_inner_link("weights"), left="directory"),
    Fault("its text a symbolic link", "files", HOLDS.format("model.mil"), failed=("w8a8",),
          prepare=make_inner_link("model.mil"), left="directory"),
    Fault("model directory a file", "files", "/[0-9a-f_]+(/weights)?: (Not a directory|File ex)",
          failed=("w8a8",), prepare=make_file_of_name, left="file"),
    Fault("model directory of somebody", "files", HOLDS.format("diary"), failed=("w8a8",),
          prepare=make_foreign, left="directory of somebody"),
    Fault("model directory of a run that died", failed=(), prepare=make_stale),
]

# --------------------------------------------------------------------------------------------------
# The machine lacks something
# --------------------------------------------------------------------------------------------------

NEEDED = [method for method in METHODS if method.needed]
OPTIONAL = [method for method in METHODS if not method.needed]
PRIVATE = [method for method in METHODS if method.class_name.startswith("_")]
NEEDED_CLASSES = tuple(dict.fromkeys(method.class_name for method in NEEDED))
# The runtime itself looks for the last two.
OTHER_CLASSES = tuple(dict.fromkeys(
    method.class_name for method in METHODS
    if method.class_name not in (*NEEDED_CLASSES, "NSObject", "_ANEModel")))
# GNUstep looks for these by the function that hides them here, and does not get as far as to say
# so; and the stand-in sends their messages itself.
GNUSTEPS_OWN = () if sys.platform == "darwin" else ("NSString", "NSData")
APART = [method for method in NEEDED if method.class_name not in GNUSTEPS_OWN]

# What of a run's calls and its record shows that a method was used.
TRACES = {"localModelPath": "localModelPath", "compiledModelExists": "compiled_before",
          "purgeCompiledModel": "purge", "aneSubType": "ane_subtype", "numANEs": "ane_count",
          "numANECores": "ane_cores", "processInfo": "thermal_state",
          "thermalState": "thermal_state",
          "isLowPowerModeEnabled": "low_power_mode", "aneArchitectureType": "ane_architecture",
          "beginActivityWithOptions:reason:": "beginActivity", "endActivity:": "endActivity",
          "_ANEDeviceInfo": "ane_subtype", "NSProcessInfo": "low_power_mode"}
# The two that are never recorded: the stand-in gives the answer with which there would be no run.
UNASKED = {"hasANE": {"DEVICE": "hasANE=0"}, "isVirtualMachine": {"DEVICE": "isVirtualMachine=1"}}


class Lack(NamedTuple):
    """A machine that lacks something.

    If `told` (a pattern) is given, the run exits with 3 and tells that; else it goes on, and
    neither its calls nor its record have the words `lost`, which they have if nothing is missing.
    `library` takes the stand-in's place.
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
            told = f"{FAILED_IN}start: the worker {faults.KILLED_BY}SIGABRT"
            test.assertRegex(finished.output, told)
        elif self.told:
            test.assertEqual((finished.code, finished.output), (3, ""), finished.errors)
            first, *others = finished.errors.splitlines()  # and no progress before it
            test.assertRegex(first, f"{faults.NO_ENGINE}.*{self.told}")
            test.assertRegex(others[0], "^Without one, ")
            test.assertFalse(scene.saved.exists())
            test.assertFalse([call for call in scene.calls()
                              if call.startswith(("descriptor", "compile"))])
        else:
            test.assertEqual(finished.code, 0, finished.errors)
            cells = scene.record()["results"][0]["variants"].values()
            test.assertEqual([cell["status"] for cell in cells], ["ok", "ok"])
            test.check_balance(scene)
            text = json.dumps(scene.record()) + "".join(scene.calls())
            test.assertEqual([word for word in self.lost if word in text], [])


def encoded(codes: str) -> str:
    """Return an encoding with codes of the result and the arguments, with offsets."""
    result, *arguments = [code + ("v" if code == "^" else "") for code in codes]
    places = "".join(f"{code}{16 + 8 * index}" for index, code in enumerate(arguments))
    return f"{result}{16 + 8 * len(arguments)}@0:8{places}"


def other_encodings(method: Method) -> Iterator[tuple[str, str]]:
    """Yield a method's encoding with another result, and with another or an additional argument."""
    result, arguments = method.kinds[0], method.kinds[1:]
    yield "another result", encoded(("@" if result != "@" else "Q") + arguments)
    if arguments:
        yield "another argument", encoded(result + arguments[:-1] + "i")
    else:
        yield "an argument", encoded(result + "@")


def doubled(number: "re.Match[str]") -> str:
    """Return another offset."""
    return str(2 * int(number[0]) + 1)


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "BOOL as c": lambda codes: encoded(codes.replace("B", "c")),
    "BOOL as C": lambda codes: encoded(codes.replace("B", "C")),
    "no offsets": lambda codes: re.sub("[0-9]", "", encoded(codes)),
    "other offsets": lambda codes: re.sub("[0-9]+", doubled, encoded(codes)),
    "qualifiers": lambda codes: "V" + re.sub(r"\^v", "r^{Name={Inner=^i[4c]}@?}", encoded(codes)),
    "class names": lambda codes: re.sub("@(?!0)", '@"NSDictionary"', encoded(codes)),
}


def listed(encodings: Mapping[str, str]) -> dict[str, str]:
    """Return the stand-in's setting of these encodings."""
    return {"ENCODING": " ".join(f"{selector}={encoding}"
                                 for selector, encoding in encodings.items())}


def otherwise(methods: Sequence[Method], number: int = 0) -> dict[str, str]:
    """Return the setting with which methods have another result, or another argument (1)."""
    return listed({method.selector: list(other_encodings(method))[number][1]
                   for method in methods})


def traces(*names: str) -> list[str]:
    """Return what shows that these classes or methods are used."""
    return [TRACES[name] for name in names if name in TRACES]


def absent(method: Method) -> str:
    """Return the pattern of what is told of a method that is missing."""
    return re.escape(method.name) + " is absent; expected "


NO_SYSCTL = ("machdep.cpu.brand_string=;hw.model=;kern.osproductversion=;kern.osversion=;"
             "hw.memsize=;sysctl.proc_translated=;kern.hv_vmm_present=")
SELECTORS = [method.selector for method in OPTIONAL]
SPELLED = {method.selector: spell(method.kinds)
           for method, spell in zip(PRIVATE, itertools.cycle(SPELLINGS.values()))}
LACKS = [
    Lack("library missing", {}, told="cannot be opened: .*nowhere", library="/nowhere/library.so"),
    Lack("library a text file", {}, told=r"cannot be opened: .*\.py", library=__file__),
    Lack("library without the functions", {}, library=_ctypes.__file__,
         told="has no function (sysctlbyname|objc_getClass) here"),
    Lack("a class missing", {"MISSING": "_ANERequest"}, told="no class _ANERequest "),
    Lack("a class missing for Foundation, too", {"MISSING": "NSString"}, told="no class NSString "),
    Lack("a method missing", {"MISSING": APART[-1].selector}, told=absent(APART[-1])),
    Lack("a method with another result",
         listed({"loadWithQoS:options:error:": "@36@0:8I16@20^v28"}),
         told=re.escape("loadWithQoS:options:error:] has type @36@0:8I16@20^v28; expected ")),
    Lack("all optional classes missing", {"MISSING": " ".join(OTHER_CLASSES)},
         lost=traces(*OTHER_CLASSES)),
    Lack("all optional methods missing", {"MISSING": " ".join(SELECTORS)}, lost=traces(*SELECTORS)),
    Lack("all optional methods with another result", otherwise(OPTIONAL), lost=traces(*SELECTORS)),
    Lack("encodings in all spellings", listed(SPELLED)),
    Lack("no engine", {"DEVICE": "hasANE=0"}, told="this Mac has no Neural Engine"),
    Lack("a virtual machine, says the framework", {"DEVICE": "isVirtualMachine=1"},
         told="this is a virtual machine"),
    Lack("a virtual machine, says the kernel", {"SYSCTL": "kern.hv_vmm_present=1"},
         told="this is a virtual machine"),
    Lack("Rosetta", {"SYSCTL": "sysctl.proc_translated=1"}, told="translated by Rosetta"),
    Lack("no sysctl, and no power source", {"SYSCTL": NO_SYSCTL, "POWER": ""},
         lost=('"chip"', "power_source")),
]
# One at a time.
EACH_LACK = [
    *(Lack(f"class {name} missing", {"MISSING": name}, told=f"no class {name} ")
      for name in NEEDED_CLASSES),
    *(Lack(f"class {name} missing", {"MISSING": name}, lost=traces(name))
      for name in OTHER_CLASSES),
    *(Lack(f"{method.name} missing", {"MISSING": method.selector}, told=absent(method))
      for method in NEEDED),
    *(Lack(f"{method.name} missing", {"MISSING": method.selector,
                                      **UNASKED.get(method.selector, {})},
           lost=traces(method.selector)) for method in OPTIONAL),
    *(Lack(f"{method.name} with {what}", listed({method.selector: encoding}),
           told=f"{re.escape(f'{method.name} has type {encoding}')}; expected ")
      for method in PRIVATE if method.needed for what, encoding in other_encodings(method)),
    *(Lack(f"{method.name} with another result", lost=traces(method.selector),
           settings={**otherwise([method]), **UNASKED.get(method.selector, {})})
      for method in OPTIONAL),
    *(Lack(f"encodings with {name}",
           listed({method.selector: spell(method.kinds) for method in PRIVATE}))
      for name, spell in SPELLINGS.items()),
]


class WorkerFaultTest(FaultCase):
    """All of these tables."""

    def test_refusals(self) -> None:
        self.check_table(REFUSALS)

    def test_endings(self) -> None:
        # Those that hang leave the machine idle.
        self.check_table([*HANGING, *ENDINGS], len(HANGING) + support.AT_A_TIME)

    @support.long_test
    def test_kills(self) -> None:
        self.check_table(KILLS)

    def test_rubbish(self) -> None:
        self.check_table(RUBBISH[:1] if not support.ALL else RUBBISH)

    def test_directories(self) -> None:
        self.check_table(DIRECTORIES)

    def test_places(self) -> None:
        find_identifier(self.scene)
        self.check_table(PLACES)

    def test_lacks(self) -> None:
        self.check_table(LACKS)

    @support.long_test
    def test_each_lack(self) -> None:
        self.check_table(EACH_LACK)

    def test_what_lacks_take_away_is_there(self) -> None:
        """Otherwise its absence would mean nothing."""
        self.assertEqual(self.scene.run(*SMALL, "--save", str(self.scene.saved)).code, 0)
        text = json.dumps(self.scene.record()) + "".join(self.scene.calls())
        words = {word for lack in LACKS for word in lack.lost} | set(TRACES.values())
        self.assertEqual([word for word in words if word not in text], [])
        self.assertLessEqual({*TRACES, *UNASKED} - {*OTHER_CLASSES}, {*SELECTORS})


@support.long_test
class SecondPassTest(faults.SecondPass, WorkerFaultTest):
    """The same under `-X dev -W error`."""


# --------------------------------------------------------------------------------------------------
# What was measured survives, and what was not is seen
# --------------------------------------------------------------------------------------------------

def cells_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all cells of a record."""
    return [cell for result in record["results"] for cell in result["variants"].values()]


def patched_module(directory: Path, code: str) -> Path:
    """Return a copy of the module in which some code is run last, before anything is measured."""
    text = support.MODULE.read_text(encoding="utf-8")
    end = text.rindex('if __name__ == "__main__":')
    path = directory / "patched.py"
    path.write_text(f"{text[:end]}{code}\n\n\n{text[end:]}", encoding="utf-8")
    return path


class SurvivalTest(support.StandinCase):
    """The stage at work is told, and what was measured survives what fails after it."""

    def test_failures_while_verifying(self) -> None:
        def check(scene: Scene, code: str) -> None:
            scene.module = patched_module(scene.directory, f"def verify(*_):\n    {code}")
            record = self.record_in(scene, *SMALL, code=1)
            for cell, ms in zip(cells_of(record), (140, 70)):
                self.assertEqual((cell["status"], cell["stage"]), ("failed", "verify"), cell)
                self.assertAlmostEqual(cell["ms"]["value"], ms, delta=0.001)
            self.assertEqual(record["results"][0]["ratio"], {})

        self.each(("raise MemoryError", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"),
                  check)

    def test_an_output_that_cannot_be_read_in_the_end_costs_no_figures(self) -> None:
        """The last lock of a run is that for reading what the last variant computed."""
        calls = self.run_record(*SMALL) and sum(call.startswith("lock") for call in self.calls())
        assert calls
        fault = f"lock:no@{calls}-{calls}"
        record = self.record_in(self.new_scene(), *SMALL, code=1, FAULT=fault)
        failed, = (cell for cell in cells_of(record) if cell["status"] == "failed")
        self.assertEqual((failed["stage"], len(failed["samples_ns"])), ("read", ROUNDS))
        self.assertIn("IOSurfaceLock", failed["error"])

    def test_each_of_three_crashes(self) -> None:
        record = self.run_record(*SMALL, "--variants", "fp16,w8a16,w8a8", code=1,
                                 FAULT=f"evaluate:crash@{LAST_TIMED - 10}")
        self.assertEqual([cell["stage"] for cell in cells_of(record)], ["evaluate"] * 3)

    def test_an_engine_that_works_at_some_evaluates_only(self) -> None:
        def check(scene: Scene, works: str) -> None:
            record = self.record_in(scene, *SMALL, "--variants", "fp16", code=1, OUTPUT=works)
            cell, = cells_of(record)
            self.assertEqual((cell["stage"], cell["verified"]["ok"]), ("verify", False))
            self.assertIn("value", cell["ms"])

        # In the warm-up; uncounted in each round; at the end of the last; in the last round.
        self.each(("works:1-5", "every:6+0", f"works:{LAST_TIMED}",
                   f"works:{LAST_TIMED - 5}-{LAST_TIMED}"), check)

    @support.long_test
    def test_a_round_that_takes_longer_than_the_limit(self) -> None:
        record = self.run_record(*SMALL, "--variants", "fp16", "--timeout", "2", CLOCK="real",
                                 LATENCY="fp16:500000")
        cell, = cells_of(record)
        self.assertEqual(cell["status"], "ok", cell)
        self.assertGreater(sum(cell["samples_ns"][0]), 2e9)
