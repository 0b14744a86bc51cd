"""The parent: signals, the lock, the compile service, files and names; runs from Python."""

import contextlib
import functools
import json
import random
import re
import shutil
import signal
import time
import unittest.mock
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ane_bench
from ane_bench import Config, UsageError
from tests import faults, support
from tests.faults import BOTH_CONFIGS, CALLS, SHORT, WITHOUT_RESULT, FaultCase, rows, slow
from tests.support import PATIENCE, ROUNDS, SMALL, Scene, Started
from tests.test_worker import REAL, cells_of, warnings_of

RESTS = "wait for the compile service"  # the stage after a refused compile
ORPHANED = 10  # seconds within which a worker whose parent is no more must have exited


# Signals.

class Signal(NamedTuple):
    """A signal comes while the stand-in is at a stage, to all processes or to the parent alone;
    `which` configurations must be left in the record."""

    name: str
    stage: str
    number: int = signal.SIGINT
    to_group: bool = True
    which: int = 0
    arguments: Sequence[str] = (*BOTH_CONFIGS, "--save", "record.json")

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Start a run, and send the signal; in rounds Ctrl-C a second time."""
        fault = "32x8x2/" * self.which + faults.at_stage(self.stage, f"slow={PATIENCE}")
        run = scene.start(*self.arguments, settings={"FAULT": fault}, cwd=scene.directory)
        # Each evaluate of the first configuration, and of the second those before the slow one.
        seen = {"evaluate": faults.LAST_TIMED}.get(self.stage, 1) * self.which
        scene.await_call(run, CALLS[self.stage], seen + faults.CALLED.get(self.stage, 1))
        started, typed = time.monotonic(), self.number == signal.SIGINT
        run.signal(self.number, self.to_group)
        if typed and self.stage in ("evaluate", "unload", "purge"):
            time.sleep(0.3)
            test.assertIsNone(run.process.poll(), "it waits for the end of the round")
            run.signal(self.number, self.to_group)
        # A parent that is ended by a signal does not wait for its worker.
        finished = scene.finish(run, alone=0 if typed else ORPHANED)
        test.assertLess(time.monotonic() - started, PATIENCE / 2)
        test.assertEqual(finished.code, 130 if typed else -self.number, finished.errors)
        said = [line for line in finished.errors.splitlines() if not line.startswith("[")]
        if typed:
            place = ": 1 of 2 configurations are in record.json" if self.which else ""
            test.assertEqual(said.pop(), f"ane_bench: interrupted{place}")
        known = ("warning (", "No output was checked", "measuring two small programs")
        test.assertEqual([line for line in said if not any(part in line for part in known)], [])
        test.assertEqual(len(scene.record()["results"]) if scene.saved.exists() else 0, self.which)
        if self.which:
            test.assertFalse(scene.record()["complete"])
        if self.arguments != ("doctor",):
            test.assertEqual(rows(finished.output), ["FP16", "W8A8"] * self.which)
            test.assertEqual(bool(finished.output), bool(self.which))


SIGNALS = [
    *(Signal(f"{number.name} to {'all' if to_group else 'the parent'} at {stage}", stage, number,
             to_group)
      for number, to_group, stages in (
          (signal.SIGINT, True, [stage for stage in CALLS if stage != "lock"]),
          (signal.SIGTERM, False, CALLS), (signal.SIGKILL, False, CALLS),
          (signal.SIGHUP, True, ["compile"]),  # a terminal is closed
          (signal.SIGQUIT, True, ["compile"]))  # Ctrl-\
      for stage in stages),
    Signal("SIGINT in the second configuration", "compile", which=1),
    Signal("SIGINT twice in the second configuration", "evaluate", which=1),
    Signal("SIGINT in --original", "load", arguments=("--original", "--config", "64,32x32x2")),
    Signal("SIGINT in doctor", "compile", arguments=("doctor",)),
]


def within_compile(test: FaultCase, scene: Scene) -> None:
    """A program is purged, too, if the signal comes while it is compiled, for a second."""
    scene.settings["FAULT"] = slow("w8a8/compile", 1)
    run = scene.start(*SMALL)
    scene.await_call(run, "compile w8a8")
    run.signal(signal.SIGINT)
    finished = scene.finish(run)
    test.assertEqual((finished.code, finished.output), (130, ""), finished.errors)
    calls = [call.split()[0] for call in scene.calls()]
    test.assertEqual((calls.count("unload"), calls.count("purge")), (1, 2))
    test.assertNotIn(faults.CACHED, finished.errors)


def again_and_again(test: FaultCase, scene: Scene) -> None:
    """The first Ctrl-C starts cleaning up, and the next do not stop that."""
    scene.settings["FAULT"] = slow("compile")
    run = scene.start(*BOTH_CONFIGS)
    scene.await_call(run, "compile fp16")
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError):
            run.signal(signal.SIGINT)
        time.sleep(0.002)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 130, finished.errors)
    test.assertEqual(finished.errors.count("ane_bench: interrupted"), 1)
    test.assertEqual(finished.errors.count(faults.CACHED), 1, "the compile goes on without us")


def in_the_background(test: FaultCase, scene: Scene) -> None:
    """As a shell starts it there: Ctrl-C is for another process."""
    scene.prefix = faults.shell('trap "" INT; exec "$@"')
    scene.settings["FAULT"] = slow("fp16/compile", 0.5)
    run = scene.start(*BOTH_CONFIGS)
    scene.await_call(run, "compile fp16")
    run.signal(signal.SIGINT)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertEqual(rows(finished.output), ["FP16", "W8A8"] * 2)


def after_evaluates(test: FaultCase, scene: Scene, count: int) -> None:
    """Ctrl-C when FP16 has made so many evaluates, of 1 ms on the stand-in's own clock: what was
    measured is kept, checked and saved if there are 12 rounds, and nothing is left in the cache."""
    cache = scene.directory / "cache"
    cache.mkdir()
    run = scene.start("--config", "64x8x2", "--seconds", "3600", "--save", str(scene.saved),
                      settings={"CACHE": cache, "LATENCY": "fp16:1000,w8a8:1000"})
    scene.await_call(run, "evaluate fp16", count)
    began = time.monotonic()
    run.signal(signal.SIGINT)
    finished = scene.finish(run)
    test.assertLess(time.monotonic() - began, 5)
    test.assertEqual(finished.code, 130, finished.errors)
    test.assertEqual(list(cache.iterdir()), [])
    saved = scene.saved.exists()
    test.assertTrue(saved or count < WHOLE, finished.errors)
    test.assertEqual("interrupted: 1 of 1 configurations are in " in finished.errors, saved)
    for cell in cells_of(scene.record()) if saved else ():
        test.assertEqual((cell["status"], cell["verified"]["ok"]), ("ok", True))
        test.assertGreaterEqual(len(cell["samples_ns"]), ROUNDS)
        test.assertFalse(scene.record()["complete"])


# Evaluates of 1 ms after which a configuration has 12 rounds: three slices of an eighth of a second
# at most warm a variant up, and a round is 25 evaluates and one that is not counted.
WHOLE = 3 * 125 + 12 * 26
MOMENTS = [3 * WHOLE, *(random.Random(seed).randrange(1, 2 * WHOLE) for seed in range(10))]


# Two runs at the same time, and one that stands still.

def at_once(scene: Scene, seconds: float, *arguments: str) -> tuple[Started, Started]:
    """Start a run that takes that long, and another, which says that it waits."""
    first = scene.start(*SMALL, settings={"FAULT": slow("fp16/load", seconds)})
    scene.await_call(first, "load fp16")
    second = scene.start(*arguments)
    assert second.process.stderr
    assert second.process.stderr.readline() == f"{faults.WAITS}{scene.temporary})\n"
    return first, second


def second_waits(test: FaultCase, scene: Scene) -> None:
    """Wait longer than its own time limit, which does not run meanwhile; say so even with --quiet,
    or it would seem to hang."""
    options = ("--timeout", "1", "--quiet", "--format", "json")
    first, second = at_once(scene, 2.5, *SMALL, *options)
    finished = scene.finish(second)
    test.assertEqual((finished.code, finished.errors), (0, ""))
    record = json.loads(finished.output)
    test.assertEqual([cell["status"] for cell in cells_of(record)], ["ok", "ok"])
    ended = scene.finish(first)
    test.assertEqual(ended.code, 0, ended.errors)
    test.assertNotIn("waiting", ended.errors)
    # No call of the second comes before the last of the first.
    calls = [call.split()[0] for call in scene.calls() if re.match("compile fp16|purge", call)]
    test.assertEqual(calls, ["compile", "purge", "purge"] * 2)


def second_interrupted(test: FaultCase, scene: Scene) -> None:
    """Interrupt it while it waits; the first does not notice."""
    first, second = at_once(scene, 1.5, *SMALL)
    second.signal(signal.SIGINT)
    test.assertEqual(scene.finish(second), (130, "", "ane_bench: interrupted\n"))
    test.assertEqual(scene.finish(first).code, 0)
    test.assertEqual(sum(call.startswith("compile fp16") for call in scene.calls()), 1)


def first_killed(test: FaultCase, scene: Scene) -> None:
    """Go on at once: the lock is not a file that a killed run leaves behind."""
    first, second = at_once(scene, PATIENCE, *SMALL)
    first.signal(signal.SIGKILL, to_group=False)
    test.assertEqual(scene.finish(first, alone=ORPHANED).code, -signal.SIGKILL)
    test.assertEqual(scene.finish(second).code, 0)


def stopped(test: FaultCase, scene: Scene, to_group: bool) -> None:
    """A run that is stopped for longer than its limit, as by Ctrl-Z."""
    run = scene.start(*SMALL, "--timeout", "1", settings={"FAULT": slow("fp16/compile", 0.5)})
    scene.await_call(run, "compile fp16")
    run.signal(signal.SIGSTOP, to_group)
    time.sleep(1.5)
    run.signal(signal.SIGCONT, to_group)
    test.assertEqual(scene.finish(run).code, 0)


TIMES: list[faults.Case] = [
    ("Ctrl-C within a compile", within_compile),
    ("Ctrl-C again and again", again_and_again),
    ("Ctrl-C for another", in_the_background),
    *((f"Ctrl-C after {count} evaluates", functools.partial(after_evaluates, count=count))
      for count in MOMENTS),
    ("two runs: the second waits, and its time limit with it", second_waits),
    ("two runs: Ctrl-C while it waits", second_interrupted),
    ("two runs: the first is killed", first_killed),
    ("stopped for longer than the limit", functools.partial(stopped, to_group=True)),
    ("the parent alone stopped for so long", functools.partial(stopped, to_group=False)),
]


# The compile service, and the room of the engine.

def two_hangs(test: FaultCase, scene: Scene) -> None:
    """The second hang ends the run: what was not measured fails, and says so."""
    record = test.record_in(
        scene, "--config", "64,32,16x8x2", *SMALL[2:], "--timeout", str(SHORT), code=1,
        FAULT="64x8x2/w8a8/load:hang", DAEMON=scene.directory / "daemon")
    failed = [(cell["stage"], cell["error"]) for cell in cells_of(record)]
    # After a hang all compiles and loads hang, so in the second configuration FP16 does.
    stages = ["start", "load", "compile", "start", "start", "start"]
    test.assertEqual([stage for stage, _ in failed], stages)
    for stage, error in failed:
        hung = f"^{faults.HANGS}; {faults.SERVICE}: sudo killall aned ANECompilerService, or "
        test.assertRegex(error, f"^{faults.NOT_MEASURED}" if stage == "start" else hung)
    test.assertEqual(sum(bool(re.match("compile .*qos", call)) for call in scene.calls()), 3)
    test.assertTrue(record["complete"])
    test.assertEqual([re.sub(": the worker ended before it could purge its compiled .*", "", text)
                      for text in warnings_of(record, "cache")], ["64x8x2", "32x8x2"])


def refused_for_good(test: FaultCase, scene: Scene) -> None:
    """If a variant was refused in every form, later configurations try the first form only."""
    record = test.record_in(scene, *BOTH_CONFIGS, code=1, FAULT="w8a8/compile:no")
    _, first, _, second = (str(cell.get("error")) for cell in cells_of(record))
    test.assertRegex(first, faults.in_every_form(".* refuse at compile"))
    test.assertNotRegex(second, "|".join(map(re.escape, faults.FORMS)))
    tried = [call for call in scene.calls() if call.startswith("compile w8a8")]
    test.assertEqual(len(tried), len(faults.FORMS) + 1)
    test.assertEqual(warnings_of(record, "cache"), [], "a refused compile leaves nothing")


def what_worked_is_tried_first(test: FaultCase, scene: Scene) -> None:
    cells = cells_of(test.record_in(scene, *BOTH_CONFIGS, REFUSE="standard"))
    test.assertEqual([len(cell.get("refused", [])) for cell in cells], [3, 3, 0, 0])
    test.assertEqual({cell["form"] for cell in cells}, {"original/1.3"})


def apart(test: FaultCase, scene: Scene, limits: str, reason: str) -> None:
    """On a machine that has room for one program each variant is measured alone."""
    record = test.record_in(scene, *SMALL, "--form", "standard/1.3", LIMITS=limits)
    test.assertEqual([cell["apart"] for cell in cells_of(record)], [True, True])
    test.assertAlmostEqual(record["results"][0]["ratio"]["w8a8"]["value"], 2, places=4)
    told, = warnings_of(record, "apart")
    test.assertRegex(told, rf"^W8A8 64x8x2: failed in stage \S+ \({reason}\) with all variants")
    test.assertRegex(told, "; close other programs .*, or choose fewer channels or layers$")
    loads = [call.split()[0] for call in scene.calls() if call.startswith(("load", "unload"))]
    test.assertEqual(loads[-4:], ["load", "unload"] * 2)
    test.check_balance(scene)


def apart_only_once(test: FaultCase, scene: Scene) -> None:
    """If it does not help, the cell has failed; and a crash then is that of the one at work."""
    for fault, expected in (("w8a8/evaluate:no", ["ok", "failed"]),
                            ("fp16/evaluate:crash;w8a8/evaluate:no", ["failed", "failed"])):
        scene.log.unlink(missing_ok=True)
        record = test.record_in(scene, *SMALL, code=1, FAULT=fault, REASON="evaluate:0x16")
        cells = cells_of(record)
        test.assertEqual([cell["status"] for cell in cells], expected)
        test.assertEqual(cells[1].get("apart"), True)
        test.assertLessEqual(sum(call.startswith("compile w8a8") for call in scene.calls()), 3)


def not_apart(test: FaultCase, scene: Scene) -> None:
    """Neither one variant alone, nor the original, nor another failure is measured again."""
    for arguments, reason in (((*SMALL, "--variants", "fp16"), "evaluate:0x16"),
                              (("--original", "--config", "64x32x2"), "evaluate:0x16"),
                              (SMALL, "evaluate:0x1600")):
        scene.log.unlink(missing_ok=True)
        record = test.record_in(scene, *arguments, code=1, FAULT="fp16/evaluate:no", REASON=reason)
        test.assertEqual(warnings_of(record, "apart"), [])
        test.assertEqual(sum(call.startswith("compile fp16") for call in scene.calls()), 1)


SERVICE: list[faults.Case] = [
    ("two hangs end the run", two_hangs),
    ("refused for good", refused_for_good),
    ("what worked is tried first", what_worked_is_tried_first),
    *((f"apart: {limits}", functools.partial(apart, limits=limits, reason=reason))
      for limits, reason in (("resident:1", "0x50004"), ("working:1", "0x16"),
                             ("writing:1", "did not write the output"))),
    ("apart: once", apart_only_once),
    ("apart: not for this", not_apart),
]


# Files, standard output and error, names.

def at_first_compile(scene: Scene, *arguments: str) -> Started:
    """Start a run, and return when it compiles, which takes half a second."""
    run = scene.start(*arguments, settings={"FAULT": slow("fp16/compile", 0.5)})
    scene.await_call(run, "compile fp16")
    return run


def save_directory_gone(test: FaultCase, scene: Scene, back: bool) -> None:
    """The record's directory goes away, and comes back or not."""
    home, away = scene.directory / "home", scene.directory / "away"
    home.mkdir()
    scene.saved = home / "r.json"
    run = at_first_compile(scene, *BOTH_CONFIGS, "--save", str(scene.saved))
    home.rename(away)
    if back:
        scene.await_call(run, "compile fp16", 2)
        away.rename(home)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 0 if back else 1, finished.errors)
    test.assertEqual(rows(finished.output), ["FP16", "W8A8"] * 2)
    told = finished.errors.count("r.json: cannot be written: No such file or directory\n")
    test.assertEqual(told, 1 if back else 2, finished.errors)
    if back:
        test.assertEqual([cell["status"] for cell in cells_of(scene.record())], ["ok"] * 4)


def closed(test: FaultCase, scene: Scene, redirection: str) -> None:
    """Descriptors are closed by the shell that starts the run; without output it fails."""
    scene.prefix = faults.shell(f'exec "$@" {redirection}')
    finished = scene.run(*SMALL, "--format", "json")
    test.assertEqual(finished.code, 1 if ">&- " in redirection else 0, finished)
    if "2>&-" in redirection:
        test.assertEqual(finished.errors, "")
    if finished.code == 0:
        test.assertEqual(json.loads(finished.output)["schema"], "ane-bench/2")


def named(test: FaultCase, scene: Scene, where: str) -> None:
    """Names that are not ASCII, with spaces and quotes."""
    place = scene.directory / "Ünï «cödé» 'q' \"r\" 測試 𝛑"
    place.mkdir()
    if where == "TMPDIR":
        scene.temporary = place
    elif where == "module":
        scene.module = Path(shutil.copy(support.MODULE, place / "bänch.py"))
    elif where == "library":
        scene.standin = Path(shutil.copy(scene.standin, place / "ständ.so"))
    scene.saved = (place if where == "--save" else scene.directory) / "récord.json"
    finished = scene.run(*SMALL, "--save", str(scene.saved))
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertEqual(rows(finished.output), ["FP16", "W8A8"])
    test.assertIn("récord.json", scene.record()["command"])
    if where == "library":
        scene.standin = place / "nöne"
        test.assertIn("nöne", scene.run(*SMALL).errors)


def every_disk_full(test: FaultCase, scene: Scene) -> None:
    """Workers then get their code from the file, and write no turns."""
    scene.prefix = faults.limited(0)
    scene.variables["STANDIN_LOG"] = ""
    finished = scene.run(*SMALL)
    test.assertEqual(finished.code, 1, finished.errors)
    told = re.findall(f"(?m){faults.FAILED_IN}files: .*: File too large$", finished.output)
    test.assertEqual(len(told), 2, finished.output)


def module_gone(test: FaultCase, scene: Scene) -> None:
    """The file is deleted while the first configuration is measured: workers have its code."""
    scene.module = Path(shutil.copy(support.MODULE, scene.directory / "copy.py"))
    run = at_first_compile(scene, *BOTH_CONFIGS)
    scene.module.unlink()
    finished = scene.finish(run)
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertEqual(rows(finished.output), ["FP16", "W8A8"] * 2)


def engine_gone(test: FaultCase, scene: Scene) -> None:
    """What is missing only when the second configuration begins is a failure of the second."""
    scene.drive({"STANDIN_MISSING": "_ANERequest"})
    finished = scene.run(*BOTH_CONFIGS, "--save", str(scene.saved))
    test.assertEqual(finished.code, 1, finished.errors)
    test.assertEqual(rows(finished.output), ["FP16", "W8A8"])
    test.assertIn("failed in stage start: macOS 26.0 has no class _ANERequest", finished.output)
    test.assertEqual([cell["status"] for cell in cells_of(scene.record())],
                     ["ok", "ok", "failed", "failed"])


FILES: list[faults.Case] = [
    ("--save: directory gone", functools.partial(save_directory_gone, back=False)),
    ("--save: directory gone and back", functools.partial(save_directory_gone, back=True)),
    *((f"closed: {closing}", functools.partial(closed, redirection=closing))
      for closing in ("2>&-", "<&-", "<&- >&- 2>&-")),
    *((f"{where} not ASCII", functools.partial(named, where=where))
      for where in ("TMPDIR", "--save", "module", "library")),
    ("every disk full", every_disk_full),
    ("module deleted during the run", module_gone),
    ("engine gone during the run", engine_gone),
]


class ParentFaultTest(FaultCase):
    """All of these tables."""

    def test_signals(self) -> None:
        self.check_table([(case.name, case.check) for case in SIGNALS],
                         "INT.*(descriptor|original|twice)|TERM.*load|(KILL|HUP|QUIT).*compile", 3)

    def test_times(self) -> None:
        self.check_table(TIMES, f"within|another|its time limit|^stopped|after {MOMENTS[0]} ", 3)

    def test_service(self) -> None:
        self.check_table(SERVICE, at_a_time=4)

    def test_files(self) -> None:
        self.check_table(FILES)


@support.long_test
class SecondPassTest(ParentFaultTest):
    """The same under `-X dev -W error`."""

    options = faults.STRICT


class DoctorTest(support.StandinCase):
    """Checks that end the others; test_machine.py has the rest."""

    def test_the_check_that_ends_its_worker_is_named(self) -> None:
        names = [check.name for check in ane_bench.checks()][:3]
        messages: list[dict[str, Any]] = []
        for name in names:
            passed = {"name": name, "state": "ok", "value": ""}
            messages += [{"kind": "stage", "stage": name, "variant": ""},
                         {"kind": "check", "needed": True, "finding": passed}]
        said = "\n".join(map(json.dumps, messages[:-1]))
        for act, told in (("os.kill(os.getpid(), 11)", "^the worker was killed by SIGSEGV: "),
                          ("os._exit(0)", WITHOUT_RESULT),
                          ("time.sleep(9)", f"^no progress for {SHORT} s, so the worker was k")):
            script = "import os, sys, time; sys.stdin.readline(); print(%r, flush=True); %s"
            found: list[ane_bench.Finding] = []
            with self.subTest(act), self.here(), support.runs_as_worker(script % (said, act)):
                self.assertFalse(ane_bench.run_checks(found.append, SHORT))
                self.assertEqual([(finding.name, finding.state) for finding in found], [
                    *zip(names, ("ok", "ok", "FAIL")), ("not reached", "skip")])
                self.assertRegex(found[2].value, told)
                self.assertIn("a check above must pass first", found[3].value)

    def test_nothing_comes_after_one_that_all_others_need(self) -> None:
        found: list[ane_bench.Finding] = []
        with self.here(SYSCTL="sysctl.proc_translated=1"):
            self.assertFalse(ane_bench.run_checks(found.append, PATIENCE))
        self.assertEqual([finding.name for finding in found], ["platform", "not reached"])


# Where and why both cells fail if all workers write this to output and error, and exit with that.
WORDS: dict[str, tuple[Any, ...]] = {
    "half a message": ("start", WITHOUT_RESULT, b'{"kind": "stage", "stage": "co'),
    "nothing": ("start", f"{WITHOUT_RESULT}it wrote nothing to standard error; try again"),
    "a stage that does not end": (
        "compile", WITHOUT_RESULT,
        b'{"kind": "stage", "stage": "compile", "variant": "fp16,w8a8", "limit": 1e299}\n'),
    "another's directory": ("start", WITHOUT_RESULT, b'{"kind": "directory", "path": "/etc"}\n'),
    "an exit code": ("start", "^the worker exited with code 5: last words$", b"",
                     b"first words\nlast words\n\n", 5),
    "much on standard error": ("start", "^the worker exited with code 1: the end$", b"",
                               b"x" * 10_000_000 + b"\nthe end", 1),
    "a Mac's exception": (
        "start", "code 1: reason: 'no such method'$", b"",
        b"*** Terminating app\nreason: 'no such method'\n0 CoreFoundation\n1 libobjc\n", 1),
}


def once(what: str, act: Callable[[Any], Any], first: int = 0) -> Callable[[Any], None]:
    """Return a listener that acts once, at an event of a kind or stage, at the `first` round."""
    left = [act]

    def listen(event: dict[str, Any]) -> None:
        if what in (event["kind"], event.get("stage")) and event.get("number", 0) >= first and left:
            left.pop()(event)
    return listen


class LibraryTest(support.StandinCase):
    """Runs in a host's process: its signals, threads and mistakes, and workers that are others."""

    def run_here(self, workers: Any = None, variants: str = "fp16,w8a8",
                 **settings: Any) -> ane_bench.Run:
        """Return a small run, with other workers if they are given."""
        with self.here(), workers or contextlib.nullcontext():
            return ane_bench.run(["64x8x2"], variants, seconds=0, **settings)

    def test_refused_at_once(self) -> None:
        bad: list[dict[str, Any]] = [
            {"configs": []}, {"variants": "fp32"}, {"engine": "gpu"}, {"engine": None},
            {"seed": 10 ** 25}, {"original": "yes"}, {"original": 1}, {"second": 5},
            {"timeout": "5"}, {"original": True, "qos": 0},
            {"original": True, "engine": "reference"}, {"original": True, "configs": "64x8k3"}]
        with unittest.mock.patch.object(ane_bench, "perform_run", side_effect=AssertionError):
            for asked in bad:
                with self.subTest(asked), self.assertRaises(UsageError) as caught:
                    ane_bench.run(**asked)
                self.assertTrue(str(caught.exception).isprintable())

    def test_the_reference_engine(self) -> None:
        seen: list[dict[str, Any]] = []
        run = ane_bench.run(["4x4x2"], engine="reference", seconds=0, on_event=seen.append)
        self.assertTrue(run.ok and run.complete)
        cell = run.cell("4x4x2", "w8a8")
        self.assertIs(cell, run.cell(Config(4, 4, 2), "w8a8"))
        self.assertEqual((cell.check, [*cell.ms]), ("ok", ["value", "ci95", "mean", "min", "p95"]))
        self.assertIn("W8A8", run.table())
        kinds = [event["kind"] for event in seen if event["kind"] != "tick"]
        self.assertEqual(kinds[:3], ["configuration", "machine", "stage"])
        self.assertEqual(seen[kinds.index("configuration")],
                         {"kind": "configuration", "config": "4x4x2", "number": 1, "of": 1})

    def test_the_configuration_is_told_once_though_a_worker_dies(self) -> None:
        seen: list[dict[str, Any]] = []
        self.scene.settings["FAULT"] = "fp16/load:crash"
        run = self.run_here(on_event=seen.append)
        self.assertEqual([cell.stage for cell in run.cells], ["load", None])
        kinds = [event["kind"] for event in seen]
        self.assertEqual((kinds.count("configuration"), kinds.count("machine")), (1, 2))

    def handle(self, handler: Any) -> None:
        """Let the host handle Ctrl-C so."""
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, handler))

    def test_ctrl_c_in_the_rounds(self) -> None:
        """It is raised when the cells are in the run, and the handlers are as they were."""
        run = ane_bench.plan_run("64,32x8x2", "fp16,w8a8", "ane", {"seconds": 15})
        yielded, told = list[str](), list[bool]()
        interrupt = once("evaluate", lambda _: signal.raise_signal(signal.SIGINT), ROUNDS + 1)

        def listen(event: dict[str, Any]) -> None:
            told.append(event.get("stopping", False))
            interrupt(event)
        self.handle(signal.default_int_handler)
        with self.here(**REAL), self.assertRaises(KeyboardInterrupt):
            for cells in ane_bench.perform_run(run, listen):
                yielded.append(cells[0].config.name)
        self.assertEqual(told, sorted(told), "all that comes after the interrupt says so")
        self.assertTrue(told[-1])
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)
        self.assertEqual(yielded, ["64x8x2"])
        self.assertEqual((run.broken_off, run.complete, run.ok), (True, False, True))
        for cell in run.cells:
            self.assertEqual((cell.check, len(cell.samples_ns) % 2), ("ok", 0))
            self.assertTrue(ROUNDS <= len(cell.samples_ns) < 100, "of 300 in 15 s")
        self.assertEqual(self.scene.models(), [])

    def test_ctrl_c_of_a_host_that_handles_it_itself(self) -> None:
        """Its handler is called, and the run goes on."""
        called = []
        interrupt = once("evaluate", lambda _: signal.raise_signal(signal.SIGINT))
        self.handle(lambda *_: called.append(1))
        run = self.run_here(on_event=interrupt)
        self.assertEqual((called, run.complete), ([1], True))

    def test_in_a_thread(self) -> None:
        with ThreadPoolExecutor() as pool:
            self.assertTrue(pool.submit(self.run_here).result().ok)

    def test_a_host_whose_listener_raises(self) -> None:
        listen = once("cell", unittest.mock.Mock(side_effect=ValueError("mine")))
        with self.assertRaisesRegex(ValueError, "^mine$"):
            self.run_here(on_event=listen)
        self.assertEqual(sum(call.startswith("purge") for call in self.calls()), 2)
        self.assertEqual(self.scene.models(), [])

    def test_a_directory_is_removed_though_nobody_heard_of_it(self) -> None:
        """The listener fails before the message is read that names it."""
        model = self.temporary / "0123abcd"
        model.mkdir()
        messages = [{"kind": "stage", "stage": "files", "variant": "fp16"},
                    {"kind": "directory", "path": str(model)}]
        lines = "".join(json.dumps(message) + "\n" for message in messages)
        listen = once("stage", unittest.mock.Mock(side_effect=ValueError))
        with self.assertRaises(ValueError):
            self.run_here(support.said_by_workers(lines.encode()), on_event=listen)
        self.assertFalse(model.exists())

    def test_what_workers_say(self) -> None:
        for name, (stage, reason, *said) in WORDS.items():
            with self.subTest(name):
                for cell in self.run_here(support.said_by_workers(*said), timeout=SHORT).cells:
                    self.assertEqual((cell.stage, cell.samples_ns), (stage, []), cell.error)
                    self.assertRegex(str(cell.error), reason)

    def test_a_cell_that_was_sent_stays_whatever_becomes_of_its_worker(self) -> None:
        cell = {"samples_ns": [[1000.0]] * ROUNDS, "verified": {"pixels": 1, "ok": True}}
        message = {"kind": "cell", "variant": "fp16", "cell": {"status": "ok", **cell}}
        run = self.run_here(support.said_by_workers(json.dumps(message).encode() + b"\n"))
        self.assertEqual([cell.status for cell in run.cells], ["ok", "failed"])

    def test_a_worker_that_closes_its_output_and_goes_on(self) -> None:
        script = f"import os, time; os.close(1); os.close(2); time.sleep({PATIENCE})"
        run = self.run_here(support.runs_as_worker(script), timeout=SHORT)
        self.assertEqual({cell.error for cell in run.cells}, {"the worker did not exit"})

    def test_a_worker_that_cannot_be_started(self) -> None:
        run = self.run_here(unittest.mock.patch.object(ane_bench, "worker_command",
                                                       lambda code: ["/no/python"]))
        self.assertEqual({(cell.stage, cell.error) for cell in run.cells},
                         {("start", "/no/python: No such file or directory")})

    def test_the_rest_after_a_refused_compile(self) -> None:
        """The service refuses whatever it is asked while it restarts; no form is tried again."""
        self.scene.settings.update(
            REFUSE="w8a16/standard,w8a16/original", FAULT="fp16/evaluate:crash", RESTART="0.8",
            DAEMON=self.directory / "daemon")
        self.scene.variables["ANE_BENCH_STANDIN_REST"] = "1"
        seen: list[dict[str, Any]] = []
        run = self.run_here(variants="fp16,w8a8,w8a16", on_event=seen.append)
        self.assertEqual([cell.stage for cell in run.cells], ["warm-up", None, "compile"])
        self.assertEqual(run.cells[1].refused, [])
        self.assertEqual(sum(event["kind"] == "refused" for event in seen), 4)
        rests = [event for event in seen if event.get("stage") == RESTS]
        self.assertEqual([event["variant"] for event in rests][:3], ["w8a16"] * 3)
        self.assertTrue(all(0 < event["limit"] <= 1 for event in rests), rests)

    def test_the_worker_that_measures_again_rests_too(self) -> None:
        """The time that passed counts."""
        self.scene.settings.update(REFUSE="w8a16/standard", FAULT="fp16/evaluate:crash")
        self.scene.variables["ANE_BENCH_STANDIN_REST"] = "3600"
        end = unittest.mock.Mock(side_effect=ValueError)
        with self.assertRaises(ValueError):
            self.run_here(variants="fp16,w8a8,w8a16", form="standard/1.3",
                          on_event=once(RESTS, end))
        (rest,) = end.call_args[0]
        self.assertEqual(rest["variant"], "w8a8")
        self.assertTrue(3600 - 2 * PATIENCE < rest["limit"] < 3599.99, rest)
