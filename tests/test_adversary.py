"""What an adversary tried: figures, checks, files, streams and processes that it must not fool."""

import contextlib
import inspect
import io
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ane_bench
from ane_bench import Cell, Config, Run, Settings, UsageError
from tests import support
from tests.support import SMALL, Scene

VIRTUAL: dict[str, Any] = {"CLOCK": "virtual", "LATENCY": "fp16:2000,w8a8:1000"}
# Of each variant: 2 evaluates warm up, and each of 5 rounds has one that is not counted and 2 timed ones.
ROUNDS = ("--config", "64x8x2", "--iters", "10", "--rounds", "5", "--warmup", "2")
THREE = ("--config", "64x8x2", "--config", "32x8x2", "--config", "16x8x2", *ROUNDS[2:])


def cells_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all cells of a record."""
    return [cell for result in record["results"] for cell in result["variants"].values()]


def codes_of(record: dict[str, Any]) -> set[str]:
    """Return the codes of warnings, but for what depends on the machine of the test."""
    return {warning["code"] for warning in record["warnings"]} - {"busy", "spatial"}


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
            record = self.record_in(scene, *ROUNDS, code=1, **VIRTUAL)
            for cell in cells_of(record):
                self.assertEqual((cell["status"], cell["stage"]), ("failed", "verify"), cell)
                self.assertEqual(round(cell["ms"]["median"], 3), 2 if cell is cells_of(record)[0] else 1)
            self.assertEqual(record["results"][0]["ratio"], {})

        self.each(("raise MemoryError", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"), check)

    def test_a_crash_within_a_round_names_the_culprit_and_the_other_is_measured_again(self) -> None:
        # Evaluates of W8A8 up to the middle of the drawn round, in which outputs are poisoned and read.
        drawn = ane_bench.poisoned_rounds(Settings(iters=10, rounds=5))[0]
        record = self.run_record(*ROUNDS, code=1, FAULT=f"w8a8/evaluate:crash@{2 + 3 * drawn + 3}", **VIRTUAL)
        fp16, w8a8 = cells_of(record)
        self.assertEqual((fp16["status"], fp16.get("measured_again")), ("ok", True))
        self.assertEqual((w8a8["status"], w8a8["stage"], w8a8.get("measured_again")), ("failed", "evaluate", None))
        self.assertIn("SIGSEGV", w8a8["error"])

    def test_an_output_that_cannot_be_read_in_the_end_costs_no_figures(self) -> None:
        """The last lock of a run is that for reading what the last variant computed."""
        calls = self.run_record(*ROUNDS, **VIRTUAL) and sum(call.startswith("lock") for call in self.calls())
        assert calls
        record = self.record_in(self.new_scene(), *ROUNDS, code=1, FAULT=f"lock:no@{calls}-{calls}", **VIRTUAL)
        failed, = (cell for cell in cells_of(record) if cell["status"] == "failed")
        self.assertEqual((failed["stage"], len(failed["samples_ns"])), ("read", 5))
        self.assertIn("IOSurfaceLock", failed["error"])

    def test_each_of_three_crashes(self) -> None:
        record = self.run_record(*ROUNDS, "--variants", "fp16,w8a16,w8a8", code=1, FAULT="evaluate:crash@4", **VIRTUAL)
        self.assertEqual([cell["stage"] for cell in cells_of(record)], ["evaluate"] * 3)

    def test_a_worker_that_exits_without_a_word(self) -> None:
        record = self.run_record(*ROUNDS, code=1, FAULT="evaluate:exit@5", **VIRTUAL)
        self.assertEqual({cell["stage"] for cell in cells_of(record)}, {"evaluate"})
        self.assertTrue(all("without a result" in cell["error"] for cell in cells_of(record)), cells_of(record))

    def test_after_the_figures(self) -> None:
        def check(scene: Scene, fault: str) -> None:
            record = self.record_in(scene, *ROUNDS, FAULT=fault, **VIRTUAL)
            self.assertEqual({cell["status"] for cell in cells_of(record)}, {"ok"})
            self.assertLessEqual({"unload"}, codes_of(record))

        self.each(("unload:crash", "purge:raise", "fp16/unload:no"), check)

    @support.long_test
    def test_rounds_that_take_longer_than_the_limit(self) -> None:
        cell, = cells_of(self.run_record("--config", "64x32x2", "--variants", "fp16", "--iters", "1000", "--rounds",
                                         "5", "--timeout", "2", LATENCY="fp16:15000"))
        self.assertEqual((cell["status"], len(cell["samples_ns"])), ("ok", 5))

    @support.long_test
    def test_a_round_that_takes_longer_than_the_limit(self) -> None:
        cell, = cells_of(self.run_record("--config", "64x8x2", "--variants", "fp16", "--iters", "100", "--rounds", "1",
                                         "--warmup", "5", "--timeout", "2", LATENCY="fp16:30000"))
        self.assertEqual(cell["status"], "ok", cell)
        self.assertGreater(sum(cell["samples_ns"][0]), 2e9)

    def test_progress_within_rounds_is_not_told_for_each(self) -> None:
        seen: list[dict[str, Any]] = []
        with here(self, self.environment(**VIRTUAL)):
            began = time.monotonic()
            run = ane_bench.run(["64x8x2"], iters=400, rounds=400, warmup=2, on_event=seen.append)
        self.assertTrue(run.ok)
        rounds = [message["number"] for message in seen if "number" in message]
        self.assertEqual(rounds[0], 1)
        self.assertLessEqual(len(rounds), 2 + (time.monotonic() - began) / 0.25)


@contextlib.contextmanager
def here(test: unittest.TestCase, environment: dict[str, str]) -> Iterator[None]:
    """Let runs in this process have an environment, with its directory for temporary files."""
    with unittest.mock.patch.dict(os.environ, environment), \
            unittest.mock.patch.object(tempfile, "tempdir", environment["TMPDIR"]):
        yield


class StaleOutputTest(support.StandinCase):
    """An engine that works at some evaluates only is seen."""

    def check_stale(self, works: str, rounds: int = 5, code: int = 1) -> None:
        """Check that both cells fail, with their figures."""
        scene = self.new_scene()
        arguments = ("--config", "64x8x2", "--iters", str(2 * rounds), "--rounds", str(rounds), "--warmup", "2")
        record = self.record_in(scene, *arguments, code=code, OUTPUT=works, **VIRTUAL)
        for cell in cells_of(record):
            self.assertEqual(cell["status"], "failed" if code else "ok")
            if code:
                self.assertEqual((cell["stage"], cell["verified"]["ok"]), ("verify", False))
                self.assertIn("did not write the output", cell["error"])
                self.assertIn("median", cell["ms"])

    def test_only_in_the_warm_up(self) -> None:
        self.check_stale("works:1-2")
        self.check_stale("works:1-2", rounds=1)

    def test_only_on_the_uncounted_evaluate_of_each_round(self) -> None:
        self.check_stale("every:3+0")
        self.check_stale("every:3+0", rounds=1)

    def test_only_on_the_last_evaluate(self) -> None:
        self.check_stale("works:17")

    def test_only_in_the_last_round(self) -> None:
        self.check_stale("works:15-17")

    def test_all_works(self) -> None:
        self.check_stale("works:1-17", code=0)


class FigureTest(support.StandinCase):
    """Ratios and intervals of whole runs under noise that has a pattern."""

    @support.long_test
    def test_the_second_of_each_round_is_slower(self) -> None:
        def check(scene: Scene, slower: float) -> None:
            for variants, ratio in (("fp16,w8a8", 2.0), ("w8a8,fp16", 0.5)):
                record = self.record_in(scene, *ROUNDS, "--variants", variants, NOISE=f"second:3x{slower},4", **VIRTUAL)
                found, = record["results"][0]["ratio"].values()
                self.assertAlmostEqual(found["value"], ratio, delta=0.001 * ratio)

        self.each((1.1, 1.2, 1.5), check)

    def test_slow_evaluates_after_each_switch_are_warned_of(self) -> None:
        for kinds, codes in (("w8a8/switch:3x3", {"switch"}), ("w8a8/bimodal:0.4x1.5", {"bimodal"}), ("", set())):
            with self.subTest(kinds):
                record = self.run_record("--config", "64x8x2", "--iters", "100", "--rounds", "10", "--warmup", "2",
                                         NOISE=kinds, **VIRTUAL)
                seen = [warning for warning in record["warnings"] if warning["code"] in ("switch", "bimodal")]
                self.assertEqual({warning["code"] for warning in seen}, codes)
                for warning in seen:
                    self.assertRegex(warning["message"], "^W8A8 .*--iters")

    def test_a_coarse_clock(self) -> None:
        record = self.run_record(*ROUNDS, CLOCK="virtual", LATENCY="fp16:2500,w8a8:1250", STEP_NS="1000000")
        self.assertGreaterEqual(record["protocol"]["tick_ns"], 999_000)
        for cell, truth in zip(cells_of(record), (2.5, 1.25)):
            low, high = cell["ms"]["ci95"]
            self.assertTrue(low <= truth <= high, cell["ms"])

    def test_clocks_that_stand_still_or_run_backwards(self) -> None:
        for reading, told in (("still", "the clock stood still over 2 evaluates"),
                              ("backwards@30", "the clock ran backwards")):
            for cell in cells_of(self.run_record(*ROUNDS, code=1, READING=reading, **VIRTUAL)):
                self.assertEqual((cell["status"], cell["stage"]), ("failed", "evaluate"))
                self.assertIn(told, cell["error"])


class StoppedTest(support.StandinCase):
    """Time in which the command did not run does not count as waiting."""

    def test_stopped_for_longer_than_the_limit(self) -> None:
        def check(scene: Scene, group: bool) -> None:
            run = scene.start(*SMALL, "--variants", "fp16", "--timeout", "2", "--save", str(scene.saved),
                              settings={"FAULT": "compile:slow=1", **VIRTUAL})
            scene.await_call(run, "compile fp16")
            send = run.signal_group if group else run.signal
            send(signal.SIGSTOP)
            time.sleep(2.5)
            send(signal.SIGCONT)
            self.assertEqual(scene.finish(run).code, 0)
            self.assertEqual(scene.record()["results"][0]["variants"]["fp16"]["status"], "ok")

        self.each((False, True), check)


class CompileServiceTest(support.StandinCase):
    """Loads that fail once, compiles that are refused, and a compile service that hangs."""

    def test_a_load_that_fails_once(self) -> None:
        for cell in cells_of(self.run_record(*ROUNDS, FAULT="load:once", **VIRTUAL)):
            self.assertEqual((cell["status"], cell.get("refused", [])), ("ok", []))
        self.assertEqual(sum(call.startswith("load fp16") for call in self.calls()), 2)

    def test_a_rest_after_each_refused_compile(self) -> None:
        seen: list[dict[str, Any]] = []
        rest = {"ANE_BENCH_STANDIN_REST": "0.3"}
        # The service refuses whatever it is asked while it restarts, in all processes.
        settings = {"REFUSE": "64x8x2/w8a8/standard,64x8x2/w8a8/original", "RESTART": "0.2",
                    "DAEMON": str(self.directory / "daemon"), **VIRTUAL}
        with here(self, {**self.environment(**settings), **rest}):
            run = ane_bench.run(["64x8x2", "32x8x2"], iters=10, rounds=5, warmup=2, on_event=seen.append)
        self.assertEqual([cell.status for cell in run.cells], ["ok", "failed", "ok", "ok"])
        rests = [message for message in seen if message.get("stage") == "rest"]
        # The last is that of the next configuration's worker, unless it took as long to start.
        self.assertEqual([message["variant"] for message in rests[:3]], ["w8a8"] * 3)
        self.assertIn([message["variant"] for message in rests[3:]], ([], ["fp16"]))
        for message in rests[:3]:
            self.assertAlmostEqual(message["limit"], 0.3, delta=0.1)

    def test_a_rest_is_kept_and_no_form_tried_again_if_the_worker_dies(self) -> None:
        seen: list[dict[str, Any]] = []
        settings = {"REFUSE": "w8a8/standard,w8a8/original", "FAULT": "fp16/evaluate:crash", **VIRTUAL}
        with here(self, {**self.environment(**settings), "ANE_BENCH_STANDIN_REST": "1.5"}):
            run = ane_bench.run(["64x8x2"], iters=10, rounds=5, warmup=2, on_event=seen.append)
        self.assertEqual([cell.stage for cell in run.cells], ["warm-up", "compile"])
        stages = [message["variant"] for message in seen if message.get("stage") == "compile"]
        self.assertEqual(stages, ["fp16"] + ["w8a8"] * 4)
        self.assertEqual([message["variant"] for message in seen if message.get("stage") == "rest"], ["w8a8"] * 3)

    def test_a_rest_is_kept_by_the_worker_that_measures_again(self) -> None:
        seen: list[dict[str, Any]] = []
        settings = {"REFUSE": "w8a16/standard,w8a16/original", "FAULT": "fp16/evaluate:crash", **VIRTUAL}
        with here(self, {**self.environment(**settings), "ANE_BENCH_STANDIN_REST": "2"}):
            run = ane_bench.run(["64x8x2"], ["fp16", "w8a8", "w8a16"], iters=10, rounds=5, warmup=2,
                                on_event=seen.append)
        self.assertEqual([cell.stage for cell in run.cells], ["warm-up", None, "compile"])
        rests = [message for message in seen if message.get("stage") == "rest"]
        self.assertEqual([message["variant"] for message in rests], ["w8a16"] * 3 + ["w8a8"])
        self.assertLess(rests[-1]["limit"], 2, "the time that passed counts")

    def test_later_configurations_try_one_form_if_all_were_refused(self) -> None:
        record = self.run_record(*THREE, code=1, FAULT="w8a8/compile:no", **VIRTUAL)
        tried = [len(cell.get("refused", [])) + 1 for cell in cells_of(record) if cell["status"] == "failed"]
        self.assertEqual(tried, [4, 1, 1])
        self.assertEqual([cell["status"] for cell in cells_of(record)], ["ok", "failed"] * 3)

    def test_the_form_that_worked_is_tried_first(self) -> None:
        record = self.run_record(*THREE, REFUSE="standard", **VIRTUAL)
        self.assertEqual([len(cell.get("refused", [])) for cell in cells_of(record)], [3, 3, 0, 0, 0, 0])

    @support.long_test
    def test_two_hangs_end_the_run(self) -> None:
        def check(scene: Scene, stage: str) -> None:
            cache = scene.directory / "cache"
            cache.mkdir()
            record = self.record_in(scene, *THREE, "--timeout", "2", code=1, FAULT=f"w8a8/{stage}:hang",
                                    DAEMON=str(scene.directory / "daemon"), CACHE=str(cache), **VIRTUAL)
            errors = [(cell["stage"], cell["error"]) for cell in cells_of(record)]
            self.assertEqual({cell["status"] for cell in cells_of(record)}, {"failed"})
            # After a hang all compiles and loads hang, so in the second configuration FP16 does.
            self.assertEqual([name for name, _ in errors], ["start", stage, "compile", "start", "start", "start"])
            for name, error in errors:
                self.assertRegex(error, "^not measured, since" if name == "start" else "^no progress for 2 s")
                self.assertEqual("sudo killall aned ANECompilerService, or restart" in error, name != "start")
            self.assertTrue(record["complete"])
            compiles = [call for call in scene.calls() if call.startswith("compile ") and "qos" in call]
            self.assertEqual(len(compiles), 3)
            told, *_ = [warning["message"] for warning in record["warnings"] if warning["code"] == "cache"]
            self.assertIn("64ch 8x8: the worker ended before it could purge its compiled programs (fp16, w8a8)", told)
            self.assertTrue(any(cache.iterdir()), "nothing is left in the cache, and it was said")

        self.each(("compile", "load"), check)


class CleaningTest(support.StandinCase):
    """Interrupted runs unload and purge, unless the worker cannot."""

    def test_signals(self) -> None:
        def check(scene: Scene, number: int) -> None:
            cache = scene.directory / "cache"
            cache.mkdir()
            run = scene.start("--config", "64x8x2", "--iters", "1000", "--rounds", "1", "--warmup", "2",
                              settings={"LATENCY": "fp16:20000,w8a8:20000", "CACHE": str(cache)})
            scene.await_call(run, "evaluate fp16", 4)
            self.assertEqual(len(list(cache.iterdir())), 2)
            run.signal(number)
            code = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}[number]  # type: ignore[index]
            self.assertEqual(scene.finish(run).code, code)
            self.assertEqual(list(cache.iterdir()), [])
            self.assertEqual(scene.models(), [])
            self.assertEqual(sum(call.startswith("unload") for call in scene.calls()), 2)

        self.each((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), check)

    def test_a_worker_that_hangs_is_killed_after_two_seconds(self) -> None:
        cache = self.directory / "cache"
        cache.mkdir()
        run = self.scene.start(*SMALL, settings={"FAULT": "w8a8/evaluate:hang", "CACHE": str(cache), **VIRTUAL})
        self.scene.await_call(run, "load w8a8")
        time.sleep(0.5)
        began = time.monotonic()
        run.signal(signal.SIGTERM)
        self.assertEqual(self.scene.finish(run).code, 143)
        self.assertGreater(time.monotonic() - began, 1.5)
        self.assertEqual(self.scene.models(), [])

    def test_time_outs(self) -> None:
        cache = self.directory / "cache"
        cache.mkdir()
        record = self.run_record(*SMALL, "--timeout", "1.5", code=1, FAULT="w8a8/evaluate:slow=3@4", CACHE=str(cache),
                                 CLOCK="real")
        self.assertEqual([cell["status"] for cell in cells_of(record)], ["ok", "failed"])
        self.assertEqual(list(cache.iterdir()), [], "an evaluate that ends late is followed by unload and purge")


@contextlib.contextmanager
def streams(**replaced: Any) -> Iterator[None]:
    """Let sys have other streams for a while."""
    with contextlib.ExitStack() as owner:
        for name, stream in replaced.items():
            owner.enter_context(unittest.mock.patch.object(sys, name, stream))
        yield


def called(*arguments: Any) -> tuple[int, str, str]:
    """Return the exit code of main, and what it wrote to both streams."""
    output, errors = io.StringIO(), io.StringIO()
    with streams(stdout=output, stderr=errors):
        code = ane_bench.main(arguments)
    return code, output.getvalue(), errors.getvalue()


def run_with_samples(configs: Any = None, variants: Any = ("fp16", "w8a8"), engine: str = "ane",
                     **settings: Any) -> Run:
    """Return a run that is done, without measuring anything."""
    run = ane_bench.plan_run(configs, variants, engine, settings)
    for _ in fake_measured(run, lambda message: None):
        pass
    return run


def fake_measured(run: Run, notify: Callable[[Any], None]) -> Iterator[list[Cell]]:
    """Stand in for the measurement: every evaluate takes 1 ms."""
    for number, config in enumerate(run.configs, 1):
        notify({"kind": "configuration", "config": config.name, "number": number, "of": len(run.configs)})
        cells = [Cell(config, variant, run.settings, samples_ns=[[1e6] * (run.settings.iters // run.settings.rounds)]
                      * run.settings.rounds, turns=[turn] * run.settings.rounds)
                 for turn, variant in enumerate(run.variants)]
        run.add(cells)
        yield cells


REFERENCE = ("run", "--engine", "reference", "--config", "4x4x2", "--iters", "5", "--rounds", "5", "--warmup", "1")


class StreamTest(support.DirectoryCase):
    """Output that cannot be written as it should be."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "run.json"
        run_with_samples(iters=2000).save(self.path)

    def test_a_pipe_that_does_not_block_gets_all(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        received = bytearray()

        def read() -> None:
            while select.select([], [writing], [], 0)[1]:  # until the pipe is full
                time.sleep(0.01)
            with open(reading, "rb", buffering=0) as source:
                for data in iter(lambda: source.read(5000), b""):
                    received.extend(data)

        reader = threading.Thread(target=read)
        reader.start()
        with open(writing, "w", encoding="utf-8") as sink, streams(stdout=sink):
            code = ane_bench.main(["show", str(self.path), "--format", "json"])
        reader.join()
        self.assertEqual(code, 0)
        self.assertGreater(len(received), 202_000)
        self.assertEqual(received.decode(), called("show", str(self.path), "--format", "json")[1])

    def test_streams_that_take_nothing(self) -> None:
        closed = io.StringIO()
        closed.close()
        for sink in (None, closed, Foreign(OSError("full")), Foreign(ValueError("no")), Foreign(RuntimeError("no")),
                     object()):
            for arguments, code in ((("show", self.path), 1), (("compare", self.path, self.path), 2)):
                with self.subTest(sink=sink, arguments=arguments):
                    errors = io.StringIO()
                    with streams(stdout=sink, stderr=errors):
                        self.assertEqual(ane_bench.main(arguments), code)
                    self.assertRegex(errors.getvalue(), "^ane_bench: standard output: cannot be written: .*\n$")
            with streams(stdout=io.StringIO(), stderr=sink):
                self.assertEqual(ane_bench.main(["show", "nowhere.json"]), 2)

    def test_a_chart_is_written_over_nothing_else(self) -> None:
        drawing = self.directory / "run.svg"
        for _ in range(2):
            self.assertEqual(called("chart", self.path)[0], 0)
        other = self.directory / "notes"
        other.write_text("mine")
        code, _, errors = called("chart", self.path, "-o", other)
        self.assertEqual((code, other.read_text()), (2, "mine"))
        self.assertIn("the file exists and is not a chart", errors)
        drawing.write_text("")
        self.assertEqual(called("chart", self.path)[0], 0)

    def test_csv_and_json_are_never_wrapped(self) -> None:
        whole = [called("show", self.path, "--format", form)[1] for form in ("csv", "json", "markdown", "table")]
        with unittest.mock.patch.object(ane_bench, "terminal_columns", lambda stream: 40):
            narrow = [called("show", self.path, "--format", form)[1] for form in ("csv", "json", "markdown", "table")]
        self.assertEqual(narrow[:3], whole[:3])
        self.assertNotEqual(narrow[3], whole[3])
        self.assertLessEqual(max(map(len, narrow[3].splitlines())), 40)

    def test_a_relative_directory_in_one_that_is_gone(self) -> None:
        gone, before = self.directory / "gone", os.getcwd()
        gone.mkdir()
        self.addCleanup(os.chdir, before)
        os.chdir(gone)
        gone.rmdir()
        with unittest.mock.patch.dict(os.environ, TMPDIR="relative"):
            self.assertEqual(ane_bench.foundation_directory(), "/tmp")

    def test_the_hosts_streams_and_handlers_stay(self) -> None:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
        before = [signal.getsignal(number) for number in numbers]
        output, errors = io.StringIO(), io.StringIO()
        with streams(stdout=output, stderr=errors):
            for arguments in (REFERENCE, ("--nonsense",), ("-h",)):
                ane_bench.main(arguments)
                self.assertIs(sys.stdout, output)
                self.assertIs(sys.stderr, errors)
        self.assertEqual([signal.getsignal(number) for number in numbers], before)
        output.write("still open")

    def test_in_a_thread(self) -> None:
        codes: list[int] = []
        with streams(stdout=io.StringIO(), stderr=io.StringIO()):
            thread = threading.Thread(target=lambda: codes.append(ane_bench.main(["show", self.path])))
            thread.start()
            thread.join()
        self.assertEqual(codes, [0])


class Foreign(io.StringIO):
    """A stream of the host's that fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        """Fail."""
        raise self.error


class ArgumentTest(support.DirectoryCase):
    """Whatever main is given: one line, and the right exit code."""

    def check_usage(self, *arguments: Any) -> None:
        """Check for a usage error."""
        with self.subTest(arguments=arguments):
            code, output, errors = called(*arguments)
            self.assertEqual((code, output), (2, ""))
            self.assertRegex(errors, r"\Aane_bench: [^\n]+\n\Z")

    def test_hostile_words(self) -> None:
        for word in ("a\0b.json", "\ud800.json", "\udcff.json", b"\xff.json", "", "-", "x" * 5000 + ".json", "~/x", 7,
                     None, Path("nowhere.json"), "nowhere\n.json"):
            for arguments in (("show", word), ("chart", word), ("compare", word, word), ("--config", word),
                              ("--variants", word), ("--iters", word), (word,)):
                self.check_usage(*arguments)
            if word not in ("", "-"):
                self.check_usage("--engine", "reference", "--config", "4x4x2", "--save", f"{word!s}/x.json")
        for argv in ("show", b"show", 7, [7], [None]):
            with streams(stderr=io.StringIO()):
                self.assertEqual(ane_bench.main(argv), 2)  # type: ignore[arg-type]

    def test_paths_and_bytes_that_name_files(self) -> None:
        path = self.directory / "run.json"
        self.assertEqual(called(*REFERENCE, b"--save", path)[0], 0)
        self.assertEqual(called("show", os.fsencode(path))[0], 0)
        self.assertEqual(called("chart", path, "-o", self.directory / "x.svg")[0], 0)
        self.assertTrue((self.directory / "x.svg").exists())

    def test_a_working_directory_that_is_gone(self) -> None:
        record = self.directory / "run.json"
        run_with_samples().save(record)
        before, gone = os.getcwd(), self.directory / "gone"
        gone.mkdir()
        os.chdir(gone)
        try:
            gone.rmdir()
            self.check_usage("show", "run.json")
            self.check_usage(*REFERENCE, "--save", "run.json")
            self.check_usage("chart", record, "-o", "x.svg")
            self.check_usage("chart", "run.json")
            self.check_usage("emit", "programs", "--config", "4x4x2")
            code, output, errors = called(*REFERENCE)
            self.assertEqual((code, output.count(" ok")), (0, 2), errors)
        finally:
            os.chdir(before)

    def test_saving_fails_only_later(self) -> None:
        path = self.directory / "saved" / "run.json"
        path.parent.mkdir()

        def failing(run: Run, notify: Any) -> Iterator[list[Cell]]:
            for cells in fake_measured(run, notify):
                path.parent.rmdir()
                yield cells

        with unittest.mock.patch.object(ane_bench, "measured", failing):
            code, output, errors = called("--config", "64x32x2", "--save", path)
        self.assertEqual(code, 1)
        self.assertIn("FP16 2x conv 64ch 32x32", output, "what was measured is printed")
        self.assertRegex(errors, r"(?m)^ane_bench: .*run.json: cannot be written: No such file")


class Option(NamedTuple):
    """An option with a value for each of the tests of pairs."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the option without its value."""
        return self.words[0]


OPTIONS = [Option(tuple(words.split())) for words in (
    "--config 4x4x2", "--config 4x4x2k3", "--channels 4,8", "--spatial 4", "--depth 2,3", "--kernel 3", "--kernel 1,3",
    "--variants w8a8", "--variants w8a16,fp16", "--iters 20", "--iters 7", "--rounds 5", "--rounds 1", "--warmup 0",
    "--qos 9", "--seed 5", "--input zeros", "--input random", "--verify 0", "--verify 4", "--timeout 3",
    "--timeout 0", "--blob original", "--dialect 1.0", "--engine reference", "--engine ane", "--original", "--quiet",
    "--format markdown", "--format csv", "--format json", "--save SAVED", "--save x.svg")]
NEVER = {"--timeout 0", "--iters 7", "--save x.svg"}  # usage errors with every other option
FIXED_BY_ORIGINAL = {"--iters", "--rounds", "--warmup", "--qos", "--input", "--verify", "--blob", "--dialect",
                     "--kernel"}


class PairsTest(unittest.TestCase):
    """All pairs of options of `run`: each gives a result or a usage error."""

    def test_all_pairs(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ane_bench_") as holder, \
                unittest.mock.patch.object(ane_bench, "measured", fake_measured):
            saved = os.path.join(holder, "run.json")
            results = 0
            for pair in itertools.combinations(OPTIONS, 2):
                words = [saved if word == "SAVED" else word for option in pair for word in option.words]
                with self.subTest(words):
                    code, output, errors = called(*words)
                    self.assertIn(code, (0, 2))
                    self.assertEqual(code == 2, self.conflict(pair), errors)
                    self.assertEqual(bool(output), code == 0)
                    if code == 2:
                        self.assertRegex(errors, r"\Aane_bench: [^\n]+\n\Z")
                    elif "--save" in words:
                        ane_bench.read_record(saved)
                        os.unlink(saved)
                    results += code == 0
            self.assertGreater(results, 300)

    def conflict(self, pair: Sequence[Option]) -> bool:
        """Return whether two options cannot stand together."""
        names, texts = {option.name for option in pair}, {" ".join(option.words) for option in pair}
        if texts & NEVER:
            # 7 evaluates go into one round.
            return texts != {"--iters 7", "--rounds 1"}
        if "--config" in names and names & {"--channels", "--spatial", "--depth", "--kernel"}:
            return True
        if "--original" in names:
            return bool(names & FIXED_BY_ORIGINAL or texts & {"--engine reference", "--config 4x4x2k3"})
        return False

    def test_repeated_options_and_files_that_are_not_records(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ane_bench_") as holder, \
                unittest.mock.patch.object(ane_bench, "measured", fake_measured):
            script, other = Path(holder, "script.py"), Path(holder, "other.json")
            for path in (script, other):
                path.write_text("print()\n")
            for name in ("", script, other, "/dev/stdout", holder, f"{holder}/none/x.json"):
                code, output, errors = called("--config", "4x4x2", "--save", name)
                self.assertEqual((code, output), (2, ""), name)
                self.assertRegex(errors, r"\Aane_bench: [^\n]+\n\Z")
            self.assertEqual(script.read_text(), "print()\n")
            saved = Path(holder, "run.json")
            code, _, errors = called("--config", "4x4x2", "--config", "8x4x2", "--config", "4x4x2", "--save", saved)
            self.assertEqual((code, errors.count("repeated configurations were left out")), (0, 0))
            run = ane_bench.read_record(saved)
            self.assertEqual([config.name for config in run.configs], ["4x4x2", "8x4x2"])
            self.assertEqual([note["code"] for note in run.notes], ["repeated"])


class LimitTest(unittest.TestCase):
    """Limits are checked before anything is measured."""

    def test_what_is_too_much_is_refused_at_once(self) -> None:
        for arguments in (("--iters", "5000000", "--rounds", "1"), ("--iters", "1000000", "--rounds", "1000000"),
                          ("--iters", "1000000"), ("--verify", "5000"), ("--seed", str(10 ** 25)),
                          ("--timeout", "1e9"), ("--timeout", "nan"), ("--config", "16385x1x1")):
            with self.subTest(arguments):
                code, output, errors = called(*arguments)
                self.assertEqual((code, output, errors.count("\n")), (2, "", 1), errors)

    def test_the_largest_run_is_read_back(self) -> None:
        most = ane_bench.MOST_SAMPLES
        run = ane_bench.plan_run(["4x4x2"], ["fp16"], "ane", {"iters": min(most, 1_000_000), "rounds": 1})
        count = most // run.settings.iters
        run.configs = [Config(4, 4, depth) for depth in range(1, count + 1)]
        with self.assertRaises(UsageError):
            ane_bench.plan_run([*run.configs, "8x8x2"], ["fp16"], "ane", run.settings._asdict() | {})
        # What a sample takes in the record; each is a number of 18 digits or less.
        sample = 125 / 3 * 7_654_321
        small = run_with_samples(["4x4x2"], ["fp16"], iters=1000, rounds=1)
        small.cells[0].samples_ns = [[sample] * 1000]
        text = ane_bench.record_text(small)
        each = text[text.index("samples_ns"):].count(",") / 1000, len(text) / 1000
        self.assertLess(most * each[0], ane_bench.MOST_VALUES)
        self.assertLess(most * each[1], ane_bench.LARGEST_RECORD)

    def test_a_record_of_brackets_is_refused_in_little_memory(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ane_bench_") as holder:
            path = Path(holder, "x.json")
            path.write_bytes(b'{"a": [' + b"[]," * 8_000_000 + b"[]]}")
            for arguments in (("show", path), ("compare", path, path)):
                code, _, errors = called(*arguments)
                self.assertEqual(code, 2)
                self.assertIn("more values than any run has", errors)

    def test_memory_errors_are_told(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ane_bench_") as holder:
            path = Path(holder, "x.json")
            run_with_samples().save(path)
            for verb, code in (("show", 1), ("compare", 2), ("chart", 1)):
                with self.subTest(verb), unittest.mock.patch.object(ane_bench, "run_of", side_effect=MemoryError):
                    found, _, errors = called(verb, *[path] * (1 + (verb == "compare")))
                    self.assertEqual(found, 2)
                    self.assertEqual(errors.count("\n"), 1)
                with unittest.mock.patch.dict(ane_bench.VERBS, {verb: unittest.mock.Mock(side_effect=MemoryError)}):
                    self.assertEqual(called(verb, *[path] * (1 + (verb == "compare")))[0], code)


class InterpreterTest(support.StandinCase):
    """What an interpreter or a machine may lack."""

    def test_help_without_docstrings(self) -> None:
        for arguments in (("-h",), ("run", "-h")):
            done = subprocess.run([sys.executable, "-OO", str(support.MODULE), *arguments], capture_output=True,
                                  encoding="utf-8", check=True)
            self.assertIn("--config" if "run" in arguments else "compare", done.stdout)
            self.assertEqual(done.stderr, "")

    def test_ignored_signals_of_children(self) -> None:
        prefix = (sys.executable, "-c", "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
                                        "os.execv(sys.argv[1], sys.argv[1:])")
        self.scene.prefix = prefix
        fp16, w8a8 = cells_of(self.run_record(*ROUNDS, code=1, FAULT="w8a8/compile:crash", **VIRTUAL))
        self.assertEqual((w8a8["stage"], fp16["status"]), ("compile", "ok"))
        self.assertIn("SIGSEGV", w8a8["error"])

    def test_no_load_average(self) -> None:
        with unittest.mock.patch.object(os, "getloadavg", side_effect=OSError):
            found = ane_bench.describe_machine(ane_bench.ReferenceEngine())
        self.assertNotIn("load_average", found)
        self.assertIn("python", found)

    def test_ctrl_c_during_the_imports(self) -> None:
        text = support.MODULE.read_text(encoding="utf-8").replace(
            "\nimport zlib\n", "\nimport zlib\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n", 1)
        self.assertIn("signal.SIGINT)\ntime.sleep(5)", text)
        path = self.directory / "interrupted.py"
        path.write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, str(path)], capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (-signal.SIGINT, b"", b""))

    def test_doctor_says_that_it_waits(self) -> None:
        import fcntl

        descriptor = os.open(self.temporary, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        errors = self.directory / "errors"
        with errors.open("w") as sink:
            run = self.scene.start("doctor", "--format", "json", settings=VIRTUAL, stderr=sink)
            run.wait_until(lambda: "another run" in errors.read_text(), "word of waiting")
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            finished = self.scene.finish(run)
        self.assertEqual((finished.code, json.loads(finished.output)["ok"]), (0, True))

    def test_hang_up_while_saving(self) -> None:
        run = run_with_samples()
        path = self.directory / "saved" / "run.json"
        path.parent.mkdir()

        def hang_up(descriptor: int) -> None:
            self.assertEqual([name.name for name in path.parent.iterdir()], [f"run.json.{os.getpid()}.partial"])
            os.kill(os.getpid(), signal.SIGHUP)

        def save(*_: Any) -> int:
            with unittest.mock.patch.object(os, "fsync", hang_up):
                run.save(path)
            return 0

        with unittest.mock.patch.dict(ane_bench.VERBS, {"show": save}):
            code, _, errors = called("show", "x.json")
        self.assertEqual((code, errors), (129, "ane_bench: terminated\n"))
        self.assertEqual(list(path.parent.iterdir()), [])

    def test_the_file_is_on_the_disk_before_it_gets_its_name(self) -> None:
        calls = unittest.mock.Mock()
        with unittest.mock.patch.object(os, "fsync", calls.fsync), \
                unittest.mock.patch.object(os, "replace", calls.replace):
            run_with_samples().save(self.directory / "run.json")
        self.assertEqual([call[0] for call in calls.method_calls], ["fsync", "replace"])


class LibraryTest(unittest.TestCase):
    """Types from Python: accepted rightly, or refused before anything is measured."""

    def test_variants_and_configurations_of_any_iterable(self) -> None:
        names = ["4x4x2", "8x4x2"]
        expected = [Config(4, 4, 2), Config(8, 4, 2)]
        for configs in (names, tuple(names), iter(names), (name for name in names), dict.fromkeys(names),
                        dict.fromkeys(names).keys(), {1: "4x4x2", 2: "8x4x2"}.values(), expected, map(tuple, expected),
                        [(4, 4, 2), [8, 4, 2]], [(4, 4, 2, 1), "8x4x2"]):
            self.assertEqual(run_with_samples(configs).configs, expected)
        for one in ("4x4x2", Config(4, 4, 2)):
            self.assertEqual(run_with_samples(one).configs, expected[:1])
        both = ["w8a8", "fp16"]
        for variants in (both, tuple(both), iter(both), dict.fromkeys(both), dict.fromkeys(both).keys(), "w8a8,fp16"):
            run = run_with_samples(names, variants)
            self.assertEqual((run.variants, run.cells[1].baseline), (both, run.cells[0]))

    def test_refused_at_once(self) -> None:
        bad: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            (([],), {}), ((7,), {}), ((True,), {}), (([7],), {}), ((["4x4"],), {}), (([(4, 4)],), {}),
            ((b"4x4x2",), {}), (([b"abc"],), {}), (([(True, 4, 2)],), {}), (([(4.0, 4, 2)],), {}), (([None],), {}),
            (([{4, 5, 6}],), {}), ((None, []), {}), ((None, {"fp16", "w8a8"}), {}), ((None, ["fp16", "fp16"]), {}),
            ((None, "fp32"), {}), ((None, None), {}), ((None, 7), {}), ((None, [["fp16"]]), {}), ((None, b"fp16"), {}),
            ((), {"engine": "gpu"}), ((), {"engine": None}), ((), {"iters": True}), ((), {"seed": 10 ** 25}),
            ((), {"original": "yes"}), ((), {"original": 1}), ((), {"iter": 5}), ((), {"timeout": "5"}),
            ((), {"original": True, "qos": 0}), ((), {"original": True, "engine": "reference"})]
        with unittest.mock.patch.object(ane_bench, "measured", side_effect=AssertionError("measured")):
            for arguments, settings in bad:
                with self.subTest(arguments=arguments, settings=settings):
                    with self.assertRaises(ValueError) as caught:
                        ane_bench.run(*arguments, **settings)
                    self.assertIsInstance(caught.exception, UsageError)
                    self.assertTrue(str(caught.exception).isprintable())

    def test_a_record_of_whatever_was_accepted_is_read_back(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ane_bench_") as holder:
            path = Path(holder, "run.json")
            accepted: list[dict[str, Any]] = [
                {"seed": (1 << 53) - 1}, {"timeout": 5}, {"timeout": 0.5}, {"original": True}, {"warmup": 0},
                {"original": False}, {"qos": 33}, {"rounds": 1, "iters": 1}]
            for settings in accepted:
                with self.subTest(settings):
                    run = run_with_samples(["4x4x2"], **settings)
                    run.save(path)
                    self.assertEqual(ane_bench.read_record(path).to_dict(), run.to_dict())

    def test_the_reference_engine_from_python(self) -> None:
        seen: list[str] = []
        run = ane_bench.run(["4x4x2"], engine="reference", iters=10, warmup=1,
                            on_event=lambda message: seen.append(message["kind"]))
        self.assertTrue(run.ok and run.complete)
        self.assertEqual([cell.check for cell in run.cells], ["ok", "ok"])
        cell = run.cell("4x4x2", "w8a8")
        self.assertIs(cell, run.cell(Config(4, 4, 2), "w8a8"))
        self.assertEqual(set(cell.ms), {"median", "mean", "min", "p95", "mad", "ci95"})
        self.assertGreater(cell.ratio["value"], 0)
        self.assertGreater(cell.tops or 0, 0)
        self.assertIn("W8A8", run.table())
        self.assertLessEqual(set(seen), {*ane_bench.MESSAGES, "configuration", "wait", "tick"})
        with self.assertRaises(KeyError):
            run.cell("8x8x2", "fp16")

    def test_everything_public_is_documented(self) -> None:
        for name in ane_bench.__all__:
            thing = getattr(ane_bench, name)
            if name != "VARIANTS":
                self.assertTrue(inspect.getdoc(thing), name)
            if not inspect.isclass(thing):
                continue
            for member, value in vars(thing).items():
                function = getattr(value, "func", getattr(value, "fget", getattr(value, "__func__", value)))
                if not member.startswith("_") and inspect.isfunction(function):
                    self.assertTrue(function.__doc__, f"{name}.{member}")

    def test_all_types_that_are_returned_are_public(self) -> None:
        for name in ane_bench.__all__:
            thing = getattr(ane_bench, name)
            if inspect.isfunction(thing):
                for word in re.findall(r"[A-Z]\w+", str(thing.__annotations__["return"]).rpartition("ane_bench.")[2]):
                    self.assertIn(word, {*ane_bench.__all__, "BLOB"}, f"{name} returns {word}")


if __name__ == "__main__":
    unittest.main()
