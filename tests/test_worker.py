"""The worker: what it sends, and faults of engine, worker, temporary directory and machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import unittest
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple

import ane_bench
from ane_bench import Config, Job, Settings, Worker
from tests import faults, support
from tests.faults import BOTH, CALLS, FAILED_IN, FIRST_TIMED, LAST_TIMED, FaultCase, in_every_form
from tests.support import PATIENCE, ROUNDS, SMALL, Finished, Scene, Started

# The real clock, and evaluates so short that rounds take 0.05 s: for what takes time.
REAL = {"CLOCK": "real", "LATENCY": "fp16:2000,w8a16:2000,w8a8:1000"}


def job(config: str = "64x8x2", forms: Sequence[str] = faults.FORMS, seconds: float = 0,
        apart: bool = False, original: bool = False) -> Job:
    """Return a job of the Neural Engine."""
    settings = ane_bench.ORIGINAL_SETTINGS if original else Settings(seconds=seconds)
    return Job("ane", Config.parse(config), BOTH, settings, dict.fromkeys(BOTH, forms),
               apart=apart or original)


class MessagesTest(support.StandinCase):
    """What a worker sends of a job, and what it does if it is asked to stop."""

    def sent(self, job: Job, stop: Callable[[dict[str, Any]], bool] = lambda message: False,
             **settings: Any) -> list[dict[str, Any]]:
        """Return all messages of a worker with this job but ticks; ask it to stop after some."""
        found = []
        with self.here(**settings), Worker(PATIENCE, job) as worker:
            for message in worker.messages():
                found += [message] if message["kind"] != "tick" else []
                if stop(message):
                    worker._write(b"\n")
        return found

    def cells(self, sent: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the cells among messages."""
        return [message["cell"] for message in sent if message["kind"] == "cell"]

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
        _, first, _, last = self.cells(sent)
        self.assertEqual((len(first["samples_ns"]), first.get("verified")), (ROUNDS, None))
        self.assertEqual((last["samples_ns"], last["verified"]["ok"]), (first["samples_ns"], True))

    def test_rounds_are_not_all_reported(self) -> None:
        sent = self.sent(job(seconds=1000))  # of a clock that jumps
        rounds = [message["number"] for message in sent if "number" in message]
        count = len(self.cells(sent)[0]["samples_ns"])
        self.assertGreater(count, 500)
        self.assertLess(len(rounds), count / 10)
        self.assertEqual(rounds, sorted(set(rounds)))

    def test_it_stops_before_there_are_enough_rounds(self) -> None:
        cells = self.cells(self.sent(job(seconds=15), lambda message: message.get("number") == 1,
                                     **REAL))
        self.assertEqual({cell["status"] for cell in cells}, {"failed"})
        self.assertRegex(cells[0]["error"], f"^interrupted after [0-9]+ of {ROUNDS} rounds$")
        self.assertNotIn("samples_ns", cells[0])

    def test_variants_of_the_original_are_loaded_one_after_the_other(self) -> None:
        sent = self.sent(job(config="64x32x2", original=True, forms=["original/1.3"]))
        words = [call.split()[0] for call in self.calls()]
        self.assertEqual([word for word in words if word in ("load", "unload")],
                         ["load", "unload"] * 2)
        self.assertEqual({(cell["status"], cell.get("apart")) for cell in self.cells(sent)},
                         {("ok", None)})

    def test_asked_to_stop_between_variants_it_loads_no_more(self) -> None:
        sent = self.sent(job(apart=True), lambda message: message["kind"] == "cell",
                         FAULT="fp16/unload:slow=0.5")
        self.assertEqual({message["variant"] for message in sent if message["kind"] == "cell"},
                         {"fp16"})
        self.assertEqual(sum(call.startswith("compile ") for call in self.calls()), 1)

    def test_it_cleans_up_when_its_parent_is_gone(self) -> None:
        cache = self.directory / "cache"
        cache.mkdir()
        with self.here(CACHE=cache, **REAL), Worker(PATIENCE, job(seconds=15)) as worker:
            next(message for message in worker.messages() if message.get("number"))
            self.assertEqual(len(list(cache.iterdir())), 2)
            assert worker._process.stdin
            worker._process.stdin.close()
            self.assertEqual(worker._process.wait(PATIENCE), 128 + signal.SIGTERM)
        self.assertEqual(list(cache.iterdir()), [])
        self.assertEqual(sum(call.startswith("unload") for call in self.calls()), 2)
        self.assertEqual(self.scene.models(), [])


# A fault in the first worker.

# The stages that have another name in the record.
RECORDED = {"identifier": "files", "localModelPath": "files", "surfaceobject": "request",
            "lock": "surface"}
LATE = ("unload", "purge")  # after the figures were taken
ONE_FORM = ("--form", "standard/1.3")  # a load is tried again for two seconds in each form


class Fault(NamedTuple):
    """A fault that the first worker meets, and what must come of it.

    `fault` is the stand-in's; `act` is called when the stand-in is `at` a stage, `prepare` before
    all. The variants that `failed` do so in a stage (of `A|B` the first in A), for a reason (a
    pattern); the others are measured. A second configuration follows if nothing else shows that the
    run goes on; it fails if there is a reason for that, `later`. `warned` is a warning. With
    `ends_badly` the worker cannot release what it holds; with `waits` the time limit is short.
    """

    name: str
    stage: str = ""
    reason: str = ""
    failed: Sequence[str] = BOTH
    fault: str = ""
    at: str = ""
    act: Callable[[Scene, Started], None] = lambda scene, run: None
    prepare: Callable[[Scene], None] = lambda scene: None
    later: str = ""
    warned: str = ""
    ends_badly: bool = False
    waits: bool = False
    options: Sequence[str] = ()

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Run with the fault in the first worker."""
        scene.drive({"STANDIN_FAULT": ""})
        self.prepare(scene)
        limit = ("--timeout", str(faults.SHORT)) if self.waits else ()
        has_second = self.later or tuple(self.failed) == BOTH
        run = scene.start(*(faults.BOTH_CONFIGS if has_second else SMALL), "--save",
                          str(scene.saved), *limit, *self.options, settings={"FAULT": self.fault})
        if self.at:
            scene.await_call(run, CALLS[self.at], faults.CALLED.get(self.at, 1))
            self.act(scene, run)
        finished = scene.finish(run)
        test.assertEqual(finished.code, 1 if self.failed or self.later else 0, finished.errors)
        results = scene.record()["results"]
        names = ["64x8x2", "32x8x2"] if has_second else ["64x8x2"]
        test.assertEqual([result["config"] for result in results], names)
        self.check_result(test, finished, results[0], self.failed, self.stage, self.reason)
        for second in results[1:]:
            self.check_result(test, finished, second, BOTH if self.later else (), "files",
                              self.later)
        failed = re.findall(f"(?m)^ *{FAILED_IN}", finished.output)
        test.assertEqual(len(failed), len(self.failed) + (2 if self.later else 0), finished.output)
        if self.fault.startswith("w8a8/evaluate:"):
            refused = sum(call.endswith("-> NO") for call in scene.calls())
            test.assertEqual(refused, 1, "it went on after a NO")
        warnings = warnings_of(scene.record(), "unload")
        test.assertEqual(bool(warnings), bool(self.warned), warnings)
        test.assertRegex("\n".join(warnings), self.warned or "^$")
        if not self.ends_badly:
            test.check_balance(scene)
            said = re.sub("(?m)^.*NSData.m.*$", "", scene.workers_said.read_text(errors="replace"))
            test.assertRegex(said, "this is not JSON" if "rubbish" in self.name else r"\A\s*\Z")

    def check_result(self, test: FaultCase, finished: Finished, result: Mapping[str, Any],
                     failed: Sequence[str], stage: str, reason: str) -> None:
        """Check the cells of a configuration, by the record and by the table."""
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


# The engine refuses.

def refused(fault: str, stage: str, reason: str, **more: Any) -> Fault:
    """Return a case in which W8A8 alone fails."""
    return Fault(fault, stage, reason, failed=("w8a8",), fault=fault, **more)


NIL, NO_ERROR, SAID_NO = "the result is nil", "no NSError was given", "evaluate returned NO: "
UNICODE = "le modèle « x » a été refusé — 失敗 ✗ 𝛑"
REFUSALS = [
    refused("w8a8/descriptor:nil", "descriptor", in_every_form(NIL)),
    refused("w8a8/model:nil", "model", in_every_form(NIL)),
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
    refused("surfaceobject:nil@3", "request", f"^{NIL}"),
    refused("request:nil@2", "request", f"^{NIL}"),
    refused("w8a8/evaluate:no", "warm-up", rf"^{SAID_NO}com\.apple\.\w+ 8: .* refuse at evaluate$"),
    refused("w8a8/evaluate:silent", "warm-up", f"^{SAID_NO}{NO_ERROR}$"),
    refused(f"w8a8/evaluate:no@{FIRST_TIMED - 1}", "evaluate", f"^{SAID_NO}com"),
    refused(f"w8a8/evaluate:silent@{FIRST_TIMED}", "evaluate", f"^{SAID_NO}{NO_ERROR}"),
    refused(f"w8a8/evaluate:no@{LAST_TIMED}", "evaluate", f"^{SAID_NO}com"),
    Fault("lock:no", "surface", "^IOSurfaceLock returned 0xe00002c2$", fault="lock:no"),
    # A run can do without it: the model's directory is then made from the identifier.
    Fault("localModelPath:nil", fault="localModelPath:nil", failed=()),
    Fault("unload:no", fault="unload:no", failed=(),
          warned=r"W8A8 .*\(com.apple.* 8: .*refuse at unload\)"),
    Fault("unload:silent", fault="unload:silent", failed=(), warned=rf"W8A8 .*\({NO_ERROR}\)"),
    Fault("unload:unicode", fault="unload:unicode", failed=(), warned=UNICODE),
    Fault("purge:nil", fault="purge:nil", failed=()),
    # What a library prints is no message.
    *(Fault(f"{stage}:rubbish", fault=f"{stage}:rubbish", failed=())
      for stage in ("compile", "evaluate", "unload")),
]

# The worker exits, is killed, or hangs.

KILLED_BY, EXITED_WITH = "was killed by ", "exited with code "
# How a worker ends at each stage, and what is then told.
ENDS = {"raise": f"({KILLED_BY}SIGABRT|{EXITED_WITH}1): .*"
                 "reason: *the stand-in was told to raise at {stage}",
        "crash": f"{KILLED_BY}SIGSEGV", "exit": faults.WITHOUT_RESULT}
HUNG = f"{faults.HANGS}; {faults.SERVICE}|^{faults.NOT_MEASURED}"


def ending(stage: str, kind: str, told: str) -> Fault:
    """Return a case in which the worker exits at a stage, or hangs there."""
    fault, reason, waits = faults.at_stage(stage, kind), told.format(stage=stage), kind == "hang"
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
    """Return a case in which somebody sends the worker a signal during a call of some seconds."""
    stops, ends_badly = number == signal.SIGSTOP, number != signal.SIGTERM
    stages = f"{stage}|start" if stops else RECORDED.get(stage, stage)
    return Fault(f"{stage}: {number.name}", stages, reason, ends_badly=ends_badly,
                 failed=BOTH if stops else ("fp16",), waits=stops, at=stage,
                 fault=faults.at_stage(stage, f"slow={seconds}"),
                 act=lambda scene, run: os.kill(run.worker(), number))


ENDINGS = [
    *(ending(stage, "hang", faults.HANGS) for stage in CALLS),
    sent(signal.SIGSTOP, "compile", HUNG),
    *(ending(stage, kind, told) for stage in CALLS for kind, told in ENDS.items()),
    # SIGTERM is answered when the call returns: the worker cleans up.
    *(sent(number, stage, f"^the worker {how}", seconds)
      for stage in ("identifier", "compile", "evaluate")
      for number, how, seconds in ((signal.SIGKILL, f"{KILLED_BY}SIGKILL", PATIENCE),
                                   (signal.SIGTERM, f"{EXITED_WITH}143", 1)))]

# The temporary directory.

def make_file(scene: Scene) -> None:
    scene.temporary.rmdir()
    scene.temporary.write_text("no directory")


def make_small(scene: Scene) -> None:
    """Let no file hold the first configuration's fp16 weights of 16.2 KiB."""
    scene.prefix = faults.limited(16 << 10)


def make_read_only(scene: Scene) -> None:
    """Let the temporary directory be one that cannot be written. Root can write everywhere, until
    it gives that right away."""
    scene.temporary.chmod(0o500)
    scene.closing.callback(scene.temporary.chmod, 0o700)
    if os.geteuid() == 0:
        scene.prefix = faults.through("ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)")  # CAP_DAC_OVERRIDE
        make = f"import os; os.mkdir({str(scene.temporary / 'x')!r})"
        probe = subprocess.run([*scene.prefix, sys.executable, "-I", "-c", make],
                               capture_output=True, check=False)
        if probe.returncode != 1:
            raise unittest.SkipTest("root can write everywhere here")


# The record names the temporary directory by an ellipsis. One that is missing is made.
DIRECTORIES = [
    Fault("TMPDIR read-only", "files", "…/.*: (Permission denied|Read-only file system)$",
          prepare=make_read_only, later="Permission denied|Read-only"),
    Fault("TMPDIR full", "files", "…/[^:]*: File too large$", failed=("fp16",),
          prepare=make_small),
    Fault("TMPDIR missing", prepare=lambda scene: scene.temporary.rmdir(), failed=()),
    Fault("TMPDIR a file", "files", "…/.*: Not a directory$", prepare=make_file,
          later="Not a directory$"),
    *(Fault(f"TMPDIR deleted at {stage}", failed=(), fault=faults.slow(f"fp16/{stage}", 0.5),
            at=stage, act=lambda scene, run: shutil.rmtree(scene.temporary))
      for stage in ("compile", "load")),
    refused("w8a8/compile:killdir", "compile", in_every_form(".*InvalidMILProgram")),
    *(Fault(f"{stage}:killdir", fault=f"{stage}:killdir", failed=())
      for stage in ("load", "evaluate", "unload", "purge")),
]


class WorkerFaultTest(FaultCase):
    """All of these tables."""

    def check_faults(self, cases: Sequence[Fault], usually: str, at_a_time: int = 2) -> None:
        """Check all faults of a table, or usually those with such a name."""
        self.check_table([(case.name, case.check) for case in cases], usually, at_a_time)

    def test_refusals(self) -> None:
        self.check_faults(REFUSALS, "descriptor|silent|unicode|@2|@3|compile:rubbish")

    def test_endings(self) -> None:
        self.check_faults(ENDINGS, "compile:hang|SIGSTOP|evaluate:raise|unload:crash|purge:exit",
                          at_a_time=8)  # those that hang leave the machine idle

    def test_directories(self) -> None:
        self.check_faults(DIRECTORIES, "read-only|full|deleted at compile|evaluate:killdir")


@support.long_test
class SecondPassTest(WorkerFaultTest):
    """The same under `-X dev -W error`."""

    options = faults.STRICT


# What was measured survives, and what was not is seen.

def cells_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all cells of a record."""
    return [cell for result in record["results"] for cell in result["variants"].values()]


def warnings_of(record: Mapping[str, Any], code: str) -> list[str]:
    """Return the texts of a record's warnings of a kind."""
    return [warning["message"] for warning in record["warnings"] if warning["code"] == code]


class SurvivalTest(support.StandinCase):
    """The stage at work is told, and what was measured survives what fails after it."""

    def test_failures_while_verifying(self) -> None:
        def check(scene: Scene, code: str) -> None:
            text = support.MODULE.read_text(encoding="utf-8")
            end = text.rindex('if __name__ == "__main__":')
            scene.module = scene.directory / "patched.py"
            scene.module.write_text(f"{text[:end]}def verify(*_):\n    {code}\n\n\n{text[end:]}",
                                    encoding="utf-8")
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
