"""The worker: what it sends, and faults of engine, worker, temporary directory and machine."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import ane_bench
from ane_bench import Config, Job, Settings, Worker
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
                  "apart": bool(more.get("original")), **own})


class MessagesTest(support.StandinCase):
    """What a worker sends of a job, and what it does if it is asked to stop."""

    def sent(self, job: Job, act: Optional[Callable[[Worker, dict[str, Any]], None]] = None,
             **settings: Any) -> list[dict[str, Any]]:
        """Return all messages of a worker with this job but ticks; `act` hears each."""
        found = []
        with self.here(**settings), Worker(PATIENCE, job) as worker:
            for message in worker.messages():
                if message["kind"] != "tick":
                    found.append(message)
                if act:
                    act(worker, message)
        return found

    def test_the_way_of_a_job(self) -> None:
        sent = self.sent(job())
        words = [message.get("stage") or message["kind"] for message in sent]
        of_one = ["generate", "descriptor", "model", "files", "directory", "compile", "load",
                  "strides", "surface", "surface", "request", "surface"]
        self.assertEqual(words[0], "machine")
        self.assertEqual(words[1:25], of_one * 2)
        self.assertEqual(words[25:28], ["warm-up"] * 3)
        rounds = [message for message in sent if "number" in message]
        self.assertEqual((rounds[0]["number"], rounds[0]["variant"]), (1, "fp16,w8a8"))
        # Figures come before the check, and all cells before anything is unloaded.
        rest = [word for word in words[28:] if word != "evaluate"]
        self.assertEqual(rest, ["cell", "cell", "verify", "verify", "cell", "cell",
                                *["unload", "purge"] * 2, "end"])
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
                Worker(PATIENCE, job(seconds=15.0)) as worker:
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
        refusing = job(rest_until=time.monotonic() + 0.4)
        with support.environment(ANE_BENCH_STANDIN_REST="0.4"):
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
        for settings, last in (({}, None), ({"SYSCTL": "sysctl.proc_translated=1"}, "platform")):
            with self.here(**settings), Worker(PATIENCE) as worker:
                sent = list(worker.messages())
            found = [message["finding"] for message in sent if message["kind"] == "check"]
            self.assertEqual([finding["name"] for finding in found if finding["state"] == "FAIL"],
                             [last] if last else [])
            names = [check.name for check in ane_bench.checks()]
            begun = [message["stage"] for message in sent if message["kind"] == "stage"]
            self.assertEqual(begun, [*names[:names.index(last) + 1 if last else None], "end"])


# --------------------------------------------------------------------------------------------------
# A fault in the first worker
# --------------------------------------------------------------------------------------------------

# The stages that have another name in the record.
RECORDED = {"identifier": "files", "localModelPath": "files", "surfaceobject": "request",
            "lock": "surface"}
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
    which it fails, if it does. `warned` is a warning. With `ends_badly` the worker cannot release
    what it holds; with `waits` the time limit is a short one.
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
        rows = [line for line in finished.output.splitlines() if line.strip().startswith(FAILED_IN)]
        test.assertEqual(len(rows), failed, finished.output)
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
    refused("w8a8/identifier:nil", "files", "expected a directory ''"),
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
        warned = f"^after the figures .*, in stage {stage}: .*{reason.lstrip('^')}"
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
# The temporary directory
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
          "…/[^:]*: (No space left on device|File too large)$", failed=("fp16",),
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
