"""What is said about a run beside its figures: warnings (sections 8 to 10), progress (12), and what a killed run leaves."""

import contextlib
import fcntl
import io
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import tempfile
import time
import unittest
import unittest.mock
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

import ane_bench
from ane_bench import Cell, Config, Progress, Protocol, Result, Run, Watcher
from tests import support

CONFIG = Config(512, 64, 128)
SMALL = ("--config", "64x32x2", "--verify", "0", "--iters", "10", "--rounds", "5")
STEADY: dict[str, Any] = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a8:1000"}


def codes(found: Iterable[tuple[str, str]]) -> list[str]:
    """The codes of warnings."""
    return [code for code, _ in found]


def timed(ms: Sequence[float], **facts: Any) -> Cell:
    """A cell of one round with these times."""
    return Cell("fp16", samples_ns=[[time * 1e6 for time in ms]], **facts)


def a_run(chip: str = "Apple M4", engine: str = "ane", **system: Any) -> Run:
    """A run on a machine."""
    run = Run(engine, Protocol(), [CONFIG], ["fp16"])
    run.system = {"chip": chip, **system}
    return run


class CodesTest(support.StandinCase):
    """Each code fires where it should, and is quiet where it should be; a method's name is the code's."""

    def examine(self, cell: Cell, config: Config = CONFIG, run: Optional[Run] = None) -> list[str]:
        """The codes of warnings about a configuration of one cell."""
        return [warning["code"] for warning in ane_bench.examine(run or a_run("unknown"), Result(config, {"fp16": cell}))]

    def run_codes(self, *arguments: str, **settings: Any) -> list[str]:
        """The codes of a run, but for what the machine of the test does."""
        record = self.run_record(*SMALL, *arguments, **{**STEADY, **settings})
        return [warning["code"] for warning in record["warnings"] if warning["code"] != "busy"]

    def test_a_good_run_has_none(self) -> None:
        self.assertEqual(self.examine(timed([2.0] * 50, first_ms=3.0, compiled_before=False)), [])
        self.assertEqual(self.run_codes(), [])

    def test_battery(self) -> None:
        self.assertEqual(codes(ane_bench.examine_machine({"power_source": "Battery Power"})), ["battery"])
        for system in ({"power_source": "AC Power"}, {"power_source": "UPS Power"}, {}):
            self.assertEqual(codes(ane_bench.examine_machine(system)), [])
        self.assertEqual(self.run_codes(POWER="Battery Power"), ["battery"])

    def test_low_power(self) -> None:
        self.assertEqual(codes(ane_bench.examine_machine({"low_power_mode": True})), ["low-power"])
        for system in ({"low_power_mode": False}, {}):
            self.assertEqual(codes(ane_bench.examine_machine(system)), [])
        self.assertEqual(self.run_codes(LOW_POWER="1"), ["low-power"])

    def test_heat_before(self) -> None:
        for state in ("fair", "serious", "critical"):
            (code, message), = ane_bench.examine_machine({"thermal_state_before": state, "thermal_state_after": "nominal"})
            self.assertEqual(code, "heat-before")
            self.assertIn(f"{state} before measuring", message)
        self.assertEqual(codes(ane_bench.examine_machine({"thermal_state_before": "nominal"})), [])
        self.assertEqual(self.run_codes(THERMAL="1,0"), ["heat-before"])

    def test_heat_after(self) -> None:
        for state in ("fair", "serious", "critical"):
            (code, message), = ane_bench.examine_machine({"thermal_state_before": "nominal", "thermal_state_after": state})
            self.assertEqual(code, "heat-after")
            self.assertIn(f"{state} after measuring", message)
        for system in ({"thermal_state_after": "nominal"}, {"thermal_state_after": None}):
            self.assertEqual(codes(ane_bench.examine_machine(system)), [])
        self.assertEqual(self.run_codes(THERMAL="0,2"), ["heat-after"])

    def test_busy(self) -> None:
        for load, processors, expected in ((4.1, 8, ["busy"]), (4.0, 8, []), (0.51, 1, ["busy"]), (0.5, 1, [])):
            self.assertEqual(codes(ane_bench.examine_machine({"load_average": load, "cpus": processors})), expected)
        self.assertEqual(codes(ane_bench.examine_machine({"load_average": 0.51})), ["busy"])
        self.assertEqual(codes(ane_bench.examine_machine({"cpus": 8})), [])

    def test_spatial(self) -> None:
        cell = timed([2.0] * 50)
        for spatial, engine, expected in ((48, "ane", ["spatial"]), (8, "stand-in", ["spatial"]), (64, "ane", []), (96, "ane", []),
                                          (48, "reference", [])):
            self.assertEqual(self.examine(cell, Config(64, spatial, 2), a_run("unknown", engine)), expected, (spatial, engine))

    def test_cached(self) -> None:
        for before, expected in ((True, ["cached"]), (False, []), (None, [])):
            self.assertEqual(codes(ane_bench.examine_cell(timed([2.0] * 50, compiled_before=before))), expected)
        cache = self.directory / "cache"
        cache.mkdir()
        # A run that cannot purge what it compiled leaves it to the next.
        self.assertEqual(self.run_codes(CACHE=str(cache), FAULT="purge:no"), [])
        self.assertEqual(self.run_codes(CACHE=str(cache)), ["cached"] * 2)
        self.assertEqual(self.run_codes(CACHE=str(cache)), [])

    def test_drift(self) -> None:
        for change, expected in ((0.10, ["drift"]), (-0.10, ["drift"]), (0.06, []), (-0.06, []), (0.0, [])):
            cell = timed([2.0 * (1 + change * number / 49) for number in range(50)])
            found = dict(ane_bench.examine_cell(cell))
            self.assertEqual([code for code in found if code == "drift"], expected, change)
            if expected:
                self.assertIn(f"changed by {'+' if change > 0 else '-'}7%", found["drift"])
        self.assertEqual(codes(ane_bench.examine_cell(timed([1.0, 9.0]))), [], "too few to tell")
        self.assertIn("drift", self.run_codes("--iters", "50", DRIFT="1"))

    def test_spread(self) -> None:
        for scatter, expected in ((0.05, ["spread"]), (0.021, ["spread"]), (0.019, []), (0.0, [])):
            cell = timed([2.0, 2.0 * (1 + scatter), 2.0 * (1 - scatter)] * 20)
            self.assertEqual(codes(ane_bench.examine_cell(cell)), expected, scatter)

    def test_outliers(self) -> None:
        for late, factor, expected in ((3, 1.6, ["outliers"]), (3, 1.4, []), (2, 9.0, []), (0, 1.0, [])):
            cell = timed([2.0] * (50 - late) + [2.0 * factor] * late)
            self.assertEqual(codes(ane_bench.examine_cell(cell)), expected, (late, factor))
        self.assertEqual(self.run_codes("--iters", "50", SPIKE="11x10"), ["outliers"] * 2)

    def test_first(self) -> None:
        for first, expected in ((20.1, ["first"]), (19.9, []), (None, [])):
            self.assertEqual(codes(ane_bench.examine_cell(timed([2.0] * 50, first_ms=first))), expected, first)

    def test_floor(self) -> None:
        tiny = Config(64, 32, 2)
        for chip, ms, expected in (("Apple M4 Max", 0.094, ["floor"]), ("Apple M4 Max", 0.096, []), ("Apple M1", 0.229, ["floor"]),
                                   ("Apple M1", 0.231, []), ("Apple M9", 0.049, ["floor"]), ("Apple M9", 0.051, [])):
            self.assertEqual(codes(ane_bench.examine_rate(a_run(chip), tiny, timed([ms] * 50))), expected, (chip, ms))
        self.assertEqual(codes(ane_bench.examine_rate(a_run(engine="reference"), tiny, timed([0.01] * 50))), [])
        self.assertEqual(codes(ane_bench.examine_rate(a_run(), tiny, Cell("fp16", "failed", "load", "no"))), [])

    def test_rate(self) -> None:
        # 1.15 times 38, 18 and twice 18 TOPS; M5 and unknown chips have no rating.
        for chip, tops, expected in (("Apple M4", 43.8, ["rate"]), ("Apple M4", 43.6, []), ("Apple M4 Pro", 43.8, ["rate"]),
                                     ("Apple M3", 20.8, ["rate"]), ("Apple M3 Max", 20.8, ["rate"]), ("Apple M3 Ultra", 20.8, []),
                                     ("Apple M3 Ultra", 41.3, []), ("Apple M3 Ultra", 41.5, ["rate"]), ("Apple M5", 1000.0, []),
                                     ("Apple M9", 1000.0, [])):
            cell = timed([CONFIG.gop / tops] * 50)
            self.assertEqual(codes(ane_bench.examine_rate(a_run(chip), CONFIG, cell)), expected, (chip, tops))
        self.assertEqual(codes(ane_bench.examine_rate(a_run(engine="reference"), CONFIG, timed([1.0] * 50))), [])

    def test_fallback(self) -> None:
        taken = timed([15.0] * 50, blob="standard", dialect="1.0")
        refused = ["standard/1.3: no"]
        warning, = ane_bench.examine(a_run(), Result(CONFIG, {"fp16": taken._replace(refused=refused)}))
        self.assertEqual(warning["code"], "fallback")
        self.assertRegex(warning["message"], "^fp16 at 512x64x128: refused as standard/1.3: no; taken as standard/1.0, "
                                             "which --blob standard --dialect 1.0 asks for at once$")
        self.assertEqual(self.examine(taken), [])
        self.assertEqual(self.examine(Cell("fp16", "failed", "compile", "standard/1.3: no", refused=refused)), [])

    def test_unload(self) -> None:
        # One that the engine answers with NO, and one that ends the child when the figures are there already.
        self.assertEqual(self.run_codes(FAULT="fp16/unload:no"), ["unload"])
        self.assertEqual(self.run_codes(FAULT="fp16/unload:crash"), ["unload"])
        self.assertEqual(self.run_codes(FAULT="fp16/purge:no"), [])

    def test_there_is_a_test_of_each(self) -> None:
        source = support.MODULE.read_text(encoding="utf-8")
        found = re.findall(r'\b(?:yield|found\.append\(|\.warn\(|_session\.warn\()\s*\(?f?"([a-z][a-z{}-]+)", ', source)
        emitted = {code.replace("{moment}", moment) for code in found for moment in ("before", "after")}
        tested = {name[len("test_"):].replace("_", "-") for name in dir(self) if name.startswith("test_")}
        self.assertEqual(emitted, tested - {"a-good-run-has-none", "there-is-a-test-of-each"})
        self.assertEqual(len(emitted), 15)


class ManyTest(support.StandinCase):
    """Several warnings in one run."""

    def test_of_the_machine_once_of_each_cell_apart(self) -> None:
        run = a_run(power_source="Battery Power")
        result = Result(CONFIG, {name: timed([15.0] * 47 + [90.0] * 3)._replace(variant=name) for name in ("fp16", "w8a8")})
        for _ in range(2):
            run.results.append(result)
            run.warnings.extend(ane_bench.examine(run, result))
        self.assertEqual([warning["code"] for warning in run.warnings], ["battery"] + ["outliers"] * 4)
        self.assertEqual([warning["message"].split(": ")[0] for warning in run.warnings[1:3]],
                         ["fp16 at 512x64x128", "w8a8 at 512x64x128"])

    def test_on_standard_error_and_in_the_record(self) -> None:
        path = self.directory / "run.json"
        settings = {**STEADY, "POWER": "Battery Power", "SPIKE": "4x2", "THERMAL": "0,1"}
        finished = self.run_standin(*SMALL, "--save", str(path), **settings)
        shown = re.findall(r"^ane_bench: warning \(([a-z-]+)\) (.*)$", finished.errors, re.MULTILINE)
        recorded = ane_bench.read_record(str(path))["warnings"]
        self.assertEqual([code for code, _ in shown if code != "busy"], ["battery", "heat-after", "outliers"])
        self.assertEqual([code for code, _ in shown], list(dict.fromkeys(warning["code"] for warning in recorded)))
        self.assertTrue(shown[-1][1].endswith(" (seen 2 times)"), shown)
        quiet = self.run_standin(*SMALL, "--quiet", "--save", str(path), **settings)
        self.assertEqual(quiet.errors, "")
        self.assertIn("outliers", [warning["code"] for warning in ane_bench.read_record(str(path))["warnings"]])


class Stream(io.StringIO):
    """A terminal, or none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Broken(Stream):
    """One that takes nothing."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


CONFIGS = (Config(512, 64, 128), Config(512, 64, 64), Config(256, 64, 256))


class ProgressTest(unittest.TestCase):
    """What is told while a run goes on, by a clock of the test's own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.run_ = Run("ane", Protocol(), CONFIGS, ("fp16", "w8a8"))
        self.stream = Stream(False)
        self.use(terminal=False)

    def use(self, terminal: bool) -> None:
        """Starts anew, on a terminal or elsewhere."""
        self.stream = Stream(terminal)
        self.progress = Progress(self.stream, self.clock)

    def tell(self, seconds: float, stage: str = "compile", variant: str = "fp16", **details: Any) -> str:
        """What is written when a stage begins so many seconds later."""
        self.clock.now += seconds
        return self.told({"kind": "stage", "stage": stage, "variant": variant, "limit": 0, **details})

    def round(self, seconds: float, number: int, of: int = 10) -> str:
        """What is written when a round begins."""
        return self.tell(seconds, "evaluate", "fp16,w8a8", number=number, of=of)

    def told(self, message: dict[str, Any]) -> str:
        """What is written for a message."""
        before = len(self.stream.getvalue())
        self.progress.message(self.run_, message)
        return self.stream.getvalue()[before:]

    def finish(self, seconds: float = 0) -> str:
        """What is written when a configuration is done."""
        self.clock.now += seconds
        before = len(self.stream.getvalue())
        self.run_.results.append(Result(CONFIGS[len(self.run_.results)], {}))
        self.progress.result(self.run_, self.run_.results[-1])
        return self.stream.getvalue()[before:]

    def test_a_live_line_on_a_terminal(self) -> None:
        self.use(terminal=True)
        self.assertEqual(self.tell(0, "generate"), "\r\x1b[K[1/3] 512x64x128 fp16: generate, 0:00 elapsed")
        self.assertEqual(self.tell(0.1), "\r\x1b[K[1/3] 512x64x128 fp16: compile, 0:00 elapsed")
        self.assertEqual(self.round(61, 1), "\r\x1b[K[1/3] 512x64x128 fp16,w8a8: round 1 of 10, 1:01 elapsed")
        self.assertEqual(self.finish(), "\r\x1b[K")
        self.assertTrue(self.tell(1, variant="w8a8").startswith("\r\x1b[K[2/3] 512x64x64 w8a8: compile, 1:02 elapsed"))
        self.assertNotIn("\n", self.stream.getvalue())

    def test_a_live_line_fits_the_terminal(self) -> None:
        self.use(terminal=True)
        for columns in ("20", "40"):
            with support.environment(COLUMNS=columns):
                self.assertEqual(self.tell(0), "\r\x1b[K" + "[1/3] 512x64x128 fp16: compile, 0:00 elapsed"[:int(columns) - 1])

    def test_plain_lines_at_most_one_a_second(self) -> None:
        times = []
        for number in range(100):
            if self.tell(0.0625):
                times.append(self.clock.now)
            if number in (30, 31, 60):
                self.assertEqual(self.finish(), "" if number else "\n")
                self.run_.results = self.run_.results[:2]
        self.assertEqual(len(times), 7)
        self.assertTrue(all(after - before >= 1 for before, after in zip(times, times[1:])))
        lines = self.stream.getvalue().splitlines()
        self.assertEqual(len(lines), 7)
        self.assertEqual(lines[0], "[1/3] 512x64x128 fp16: compile, 0:00 elapsed")
        self.assertRegex(lines[3], r"^\[3/3\] 256x64x256 fp16: compile, 0:0[23] elapsed")
        self.assertNotIn("\r", self.stream.getvalue())
        self.assertNotIn("\x1b", self.stream.getvalue())

    def test_elapsed_and_left(self) -> None:
        self.assertNotIn("left", self.tell(0, "generate"))
        self.assertNotIn("left", self.round(20, 1))
        # Five rounds took 10 s, so five more do; then two configurations like this one, of 40 s.
        self.assertIn("round 6 of 10, 0:30 elapsed, about 1:30 left", self.round(10, 6))
        self.assertIn("round 10 of 10, 0:38 elapsed, about 1:22 left", self.round(8, 10))
        self.finish(2)
        self.assertIn("[2/3] 512x64x64 fp16: generate, 0:40 elapsed, about 1:20 left", self.tell(0, "generate"))
        self.assertIn("0:55 elapsed, about 1:05 left", self.tell(15))
        self.assertIn("round 1 of 10, 1:00 elapsed, about 1:00 left", self.round(5, 1))
        self.assertIn("round 6 of 10, 1:05 elapsed, about 0:45 left", self.round(5, 6))
        self.finish(15)
        self.assertIn("[3/3] 256x64x256 fp16: compile, 1:20 elapsed, about 0:40 left", self.tell(0))
        self.assertIn("2:30 elapsed, about 0:00 left", self.tell(70), "it took longer than the others")

    def test_what_is_no_stage_says_nothing(self) -> None:
        for message in ({"kind": "machine", "machine": {"python": "3"}}, {"kind": "directory", "path": "/tmp/x"},
                        {"kind": "warning", "code": "unload", "message": "no"}):
            self.assertEqual(self.told(message), "")
        self.assertNotEqual(self.tell(0), "")

    def test_the_time_before_the_first_stage_does_not_count(self) -> None:
        for terminal in (False, True):
            self.use(terminal)
            self.assertIn(" compile, 0:00 elapsed", self.tell(600))

    def test_a_stream_that_is_gone(self) -> None:
        self.stream = Broken(True)
        self.progress = Progress(self.stream, self.clock)
        self.assertEqual(self.tell(0), "")
        self.finish()

    def test_times(self) -> None:
        for seconds, text in ((0, "0:00"), (59.9, "0:59"), (60, "1:00"), (3601, "60:01")):
            self.assertEqual(ane_bench.clock_time(seconds), text)


class Lingering(Watcher):
    """Takes its time over each message, and notes how many evaluates there were before and after."""

    def __init__(self, case: support.StandinCase) -> None:
        self.case = case
        self.noted: list[tuple[str, int, int]] = []

    def evaluates(self) -> int:
        """How many there were so far."""
        return sum(line.startswith("evaluate ") for line in self.case.calls()) if self.case.log.exists() else 0

    def message(self, run: Run, message: dict[str, Any]) -> None:
        before = self.evaluates()
        time.sleep(0.01)
        self.noted.append((message["kind"], before, self.evaluates()))


class ProgressOfRunsTest(support.StandinCase):
    """The same over the stand-in."""

    @contextlib.contextmanager
    def started(self, *arguments: str, errors: int = subprocess.PIPE, **settings: Any) -> Iterator["subprocess.Popen[bytes]"]:
        """A run that goes on meanwhile."""
        command = [*support.own_python(), str(support.MODULE), *arguments]
        process = subprocess.Popen(command, env={**os.environ, **self.environment(**settings)}, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()

    def test_it_never_runs_during_a_timed_round(self) -> None:
        # The child goes on only when the parent has dealt with a message, however long that takes.
        watcher = Lingering(self)
        protocol = Protocol(iters=20, rounds=5, warmup=2, verify=0)
        settings = self.environment(COMPUTE="none", LATENCY="fp16:100,w8a8:100")
        with support.environment(**settings), unittest.mock.patch.object(tempfile, "tempdir", str(self.temporary)):
            run = ane_bench.run([Config(64, 32, 2)], ["fp16", "w8a8"], protocol, watcher=watcher)
        self.assertTrue(run.ok)
        self.assertEqual([note for note in watcher.noted if note[1] != note[2]], [])
        # Each of these is the count when a round was announced: 4 timed ones and an uncounted one for each variant.
        counts = sorted({before for kind, before, _ in watcher.noted if kind == "stage"})
        self.assertEqual(counts[-6:], [4, 14, 24, 34, 44, 54])
        self.assertEqual({kind for kind, _, _ in watcher.noted}, {"machine", "stage", "directory", "cell"})

    def test_nothing_with_quiet(self) -> None:
        self.assertEqual(self.run_standin(*SMALL, "--quiet", **STEADY).errors, "")
        self.assertRegex(self.run_standin(*SMALL, **STEADY).errors, r"\A\[1/1\] 64x32x2 fp16: generate, 0:00 elapsed\n")

    def terminal_output(self, stop_at: Optional[str] = None) -> str:
        """What a run writes to a terminal, where it may be interrupted when it comes to something."""
        ours, theirs = pty.openpty()
        text = b""
        settings = {"COMPUTE": "none", "LATENCY": "fp16:2000,w8a8:2000"}
        with open(ours, "rb", buffering=0) as terminal, self.started(*SMALL, errors=theirs, **settings) as process:
            os.close(theirs)
            with contextlib.suppress(OSError):  # Linux's word for the end
                while True:
                    piece = terminal.read(1 << 12)
                    if not piece:
                        break
                    text += piece
                    if stop_at and stop_at.encode() in text:
                        process.send_signal(signal.SIGINT)
                        stop_at = None
            self.code = process.wait(60)
        return re.sub("ane_bench: warning .*\r\n", "", text.decode()).replace("\r\n", "\n")

    def test_a_terminal_is_left_clean(self) -> None:
        text = self.terminal_output()
        self.assertEqual(self.code, 0)
        lines = text.split("\r\x1b[K")
        self.assertEqual(lines[:2], ["", "[1/1] 64x32x2 fp16: generate, 0:00 elapsed"])
        self.assertIn("round 5 of 5", text)
        self.assertEqual(set(lines[-2:]), {""})
        self.assertNotIn("\n", text)

    def test_an_interrupted_line_is_cleared(self) -> None:
        text = self.terminal_output("round 2 of 5")
        self.assertEqual(self.code, 130)
        self.assertEqual(text.split("\r\x1b[K")[-1], "ane_bench: interrupted\n")
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_a_second_run_says_that_it_waits(self) -> None:
        descriptor = os.open(self.temporary, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with self.started(*SMALL, **STEADY) as process:
            assert process.stderr
            self.assertEqual(process.stderr.readline().decode(), "ane_bench: waiting for another run on this machine to end "
                                                                 f"(it holds the lock on {self.temporary})\n")
            self.assertFalse(self.log.exists())
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            self.assertRegex(process.stderr.readline().decode(), r"^\[1/1\] 64x32x2 fp16: generate, 0:00 elapsed$")
            process.stderr.read()
            self.assertEqual(process.wait(60), 0)

    def test_a_killed_run_leaves_a_record_of_what_was_finished(self) -> None:
        path = self.directory / "run.json"
        names = ("64x32x2", "64x64x2", "64x96x2")
        configs = itertools.chain.from_iterable(("--config", name) for name in names)
        with self.started("--iters", "10", "--rounds", "5", "--warmup", "2", "--verify", "0", "--save", str(path), *configs,
                          COMPUTE="none", LATENCY="fp16:20000,w8a8:20000") as process:
            deadline = time.monotonic() + 60
            while not path.exists():
                self.assertIsNone(process.poll())
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            self.assertEqual(process.wait(60), -signal.SIGKILL)
        record = ane_bench.read_record(str(path))
        self.assertEqual([ane_bench.config_of(result).name for result in record["results"]], list(names[:1]))
        for cell in record["results"][0]["variants"].values():
            self.assertEqual((cell["status"], len(cell["samples_ns"])), ("ok", 5))
            self.assertGreaterEqual(cell["ms"]["min"], 20)
        self.assertEqual(record["system"]["chip"], "Stand-in")
        self.assertEqual(json.loads(path.read_text()), record)
        self.assertTrue(ane_bench.chart(record))
        # The child sees that its parent is gone, and cleans up.
        while list(self.temporary.iterdir()):
            self.assertLess(time.monotonic(), deadline, list(self.temporary.iterdir()))
            time.sleep(0.01)
        self.assertEqual(sorted(found.name for found in self.directory.iterdir()), ["log", "run.json", "tmp"])
