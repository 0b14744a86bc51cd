"""What a person sees on a terminal while a run goes on, and the estimates of its progress line."""

import io
import re
import statistics
import unittest
import unittest.mock
from typing import Any, Optional

import ane_bench
from ane_bench import Config
from tests import support
from tests.terminal import Terminal

# Seconds that a compile takes here, and between two renewals of the line: half a second, and more on a busy machine.
SLOW, RENEWED = 6, 0.9
STEADY = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:20000,w8a8:10000"}
LONG_NAMES = ("--config", "512x32x2", "--config", "64x32x2", "--verify", "0", "--iters", "10", "--rounds", "5",
              "--warmup", "1")


class TerminalTest(support.StandinCase):
    """Runs on pseudo-terminals, whose text a small emulator shows."""

    def on_terminal(self, columns: int, *arguments: str, code: int = 0, **settings: Any) -> Terminal:
        """Run to the end on a terminal; nothing may be wrapped by the terminal, and the live line must be gone."""
        terminal = Terminal(self.scene, *arguments, columns=columns, settings=settings)
        self.assertEqual(terminal.finish().code, code, terminal.screen.lines)
        self.assertEqual(terminal.screen.wrapped, [])
        self.assertEqual([line for line in terminal.screen.lines if line.startswith("[")], [])
        return terminal

    def test_a_slow_compile(self) -> None:
        screen = self.on_terminal(80, *support.SMALL, FAULT=f"fp16/compile:slow={SLOW}").screen
        lines = [line for line in screen.live if ": FP16 compile" in line.text]
        gaps = [after.seconds - before.seconds for before, after in zip(lines, lines[1:])]
        self.assertGreater(len(lines), SLOW)
        self.assertLess(statistics.median(gaps), RENEWED)
        self.assertEqual(lines[0].text, "[1/1] 2x conv 64ch 8x8: FP16 compile, 0:00 elapsed")
        self.assertRegex(lines[-1].text,
                         r"\A\[1/1\] 2x conv 64ch 8x8: FP16 compile, 0:0[56] of at most 2:00, 0:0\d elapsed\Z")

    def test_nothing_wraps_and_the_table_is_the_one_without_a_terminal(self) -> None:
        plain = self.run_standin(*LONG_NAMES, **STEADY).output.split("\n\n")[1].splitlines()[-2:]
        for columns in (80, 60):
            settings = {**STEADY, "FAULT": "64x32x2/w8a8/compile:no"}
            screen = self.on_terminal(columns, *LONG_NAMES, code=1, **settings).screen
            self.assertIn("[2/2] 2x conv 64ch 32x32: ", "\n".join(line.text for line in screen.live))
            self.assertLess(max(map(len, screen.lines)), columns + 1)
            rows = [line for line in screen.lines if re.match(r"(FP16|W8A8) 2x conv", line)]
            self.assertEqual(len(rows), 4, screen.lines)
            if columns == 80:
                self.assertEqual(rows[:2], plain)
            else:  # the least telling columns are left out
                self.assertRegex(rows[1], r"\AW8A8 2x conv 512ch 32x32 +10\.000 ±0\.0% +[0-9.]+ 2\.00x\Z")
            self.assertRegex("".join(screen.lines), r"W8A8 2x conv 64ch 32x32: +failed in stage compile")

    def test_what_a_terminal_cannot_do(self) -> None:
        self.scene.variables["TERM"] = "dumb"
        terminal = Terminal(self.scene, *LONG_NAMES, settings=STEADY)
        self.assertEqual(terminal.finish().code, 0)
        self.assertNotIn("\x1b", terminal.screen.received)
        self.assertEqual(terminal.screen.live, [])
        plain = [line for line in terminal.screen.lines if line.startswith("[")]
        self.assertGreaterEqual(len(plain), 2)
        self.assertTrue(plain[0].startswith("[1/2] 2x conv 512ch 32x32: start, "), plain)

    def test_interrupted_on_a_terminal(self) -> None:
        terminal = Terminal(self.scene, *LONG_NAMES, "--save", str(self.scene.saved), columns=60,
                            settings={**STEADY, "FAULT": "64x32x2/compile:hang"})
        self.scene.await_call(terminal.run, "compile fp16", 2)
        terminal.type(b"\x03")
        self.assertEqual(terminal.finish().code, 130)
        self.assertEqual(terminal.screen.wrapped, [])
        shown = " ".join(" ".join(terminal.screen.lines).split())
        self.assertIn("The run was broken off: 1 of 2 configurations.", shown)
        self.assertRegex(shown, rf"ane_bench: interrupted: 1 of 2 configurations are in {self.scene.saved}\Z")


class ProgressTest(unittest.TestCase):
    """Progress by a clock of the test's own, told of events as a run tells of them."""

    CONFIGS = (Config(512, 64, 128), Config(512, 64, 64), Config(256, 64, 256))

    def setUp(self) -> None:
        patch = unittest.mock.patch.object(ane_bench, "terminal_columns", lambda stream: self.columns)
        patch.start()
        self.addCleanup(patch.stop)
        self.begin(80)

    def begin(self, columns: Optional[int]) -> None:
        """Begin anew, on a terminal of so many columns; None is not a terminal."""
        self.now, self.columns, self.stream = 1000.0, columns, io.StringIO()
        run = ane_bench.Run("ane", ane_bench.Settings(), self.CONFIGS, ("fp16", "w8a8"))
        self.progress = ane_bench.Progress(run, self.stream, lambda: self.now)
        self.shown: list[str] = []

    def tell(self, seconds: float, kind: str, **content: Any) -> str:
        """Let some seconds pass, tell of an event, and return what is written."""
        self.now += seconds
        before = len(self.stream.getvalue())
        self.progress({"kind": kind, "wait": False, **content})
        written = self.stream.getvalue()[before:]
        self.shown += [written] if written else []
        return written

    def configuration(self, seconds: float, number: int) -> str:
        """Tell that a configuration begins."""
        return self.tell(seconds, "configuration", number=number, of=3, config=self.CONFIGS[number - 1].name)

    def stage(self, seconds: float, name: str, variant: str = "fp16", limit: float = 0) -> str:
        """Tell that a stage begins."""
        return self.tell(seconds, "stage", stage=name, variant=variant, limit=limit)

    def round(self, seconds: float, number: int, of: int = 10) -> str:
        """Tell that a round begins."""
        return self.tell(seconds, "stage", stage="evaluate", variant="fp16,w8a8", limit=0, number=number, of=of)

    def left(self, text: str) -> float:
        """Return the seconds left that a line tells."""
        minutes, seconds = re.findall(r", (\d+):(\d\d) left$", text.strip())[0]
        return 60 * int(minutes) + int(seconds)

    def measure(self, number: int, compiling: float = 10, rounds: float = 10, ending: float = 10) -> None:
        """Tell of a whole configuration: its compiling, ten rounds, verification and unloading take so long."""
        self.configuration(0, number)
        self.stage(0, "compile")
        for place in range(1, 11):
            self.round(compiling if place == 1 else rounds / 10, place)
        self.stage(rounds / 10, "verify")
        self.stage(ending / 2, "unload")
        self.tell(ending / 2, "tick")

    def test_the_stage_and_its_limit(self) -> None:
        self.assertEqual(self.configuration(0, 1), "\r\x1b[K[1/3] 128x conv 512ch 64x64: start, 0:00 elapsed")
        self.assertEqual(self.stage(1, "compile"), "\r\x1b[K[1/3] 128x conv 512ch 64x64: FP16 compile, 0:01 elapsed")
        self.assertEqual(self.tell(42, "tick"),
                         "\r\x1b[K[1/3] 128x conv 512ch 64x64: FP16 compile, 0:42 of at most 2:00, 0:43 elapsed")
        self.stage(0, "rest", "w8a8", 15)
        self.assertIn("W8A8 waiting for the compile service", self.tell(5, "tick"))

    def test_the_time_left_is_cut_last(self) -> None:
        widths = {}
        for columns in (120, 80, 60, 40, 20):
            self.begin(columns)
            self.measure(1)
            self.configuration(0, 2)
            self.stage(0, "compile")
            widths[columns] = self.tell(5, "tick").replace("\r\x1b[K", "")
            self.assertLess(len(widths[columns]), columns)
            self.assertTrue(widths[columns].endswith(", 0:55 left"), widths)
        self.assertIn("FP16 compile, 0:05 of at most 2:00, 0:35 elapsed, ", widths[120])
        self.assertIn("FP16 compile, 0:05 of at most 2:00, 0:55 left", widths[80])
        self.assertIn("FP16 compile, 0:55 left", widths[60])

    def test_the_time_left_counts_verification_and_unloading(self) -> None:
        self.measure(1, compiling=10, rounds=10, ending=40)
        self.assertEqual(self.left(self.configuration(0, 2)), 120)
        self.begin(80)
        self.measure(1, compiling=10, rounds=10, ending=40)
        self.configuration(0, 2)
        self.stage(0, "compile")
        self.round(10, 1)
        # Five rounds are left, then 40 s of verification and unloading, then a configuration of 60 s.
        self.assertEqual(self.left(self.round(5, 6)), 5 + 40 + 60)
        self.stage(5, "verify")
        self.assertEqual(self.left(self.tell(30, "tick")), 10 + 60)

    def test_of_the_first_configuration(self) -> None:
        self.begin(80)
        self.configuration(0, 1)
        self.assertNotIn("left", self.stage(0, "compile"))
        self.assertNotIn("left", self.round(20, 1))
        # Five rounds took 10 s. Its end is taken to last as long as its beginning: 20 s.
        self.assertEqual(self.left(self.round(10, 6)), 10 + 20 + 2 * (20 + 20 + 20))

    def test_the_time_left_never_grows_without_news(self) -> None:
        self.begin(80)
        self.measure(1)
        self.configuration(0, 2)
        latest = self.left(self.stage(0, "compile"))
        for seconds, name in ((0.5, "tick"), (300, "tick"), (1, "load"), (200, "tick"), (1, "surface"), (1, "tick")):
            told = self.tell(seconds, "tick") if name == "tick" else self.stage(seconds, name)
            self.assertLessEqual(self.left(told), latest - seconds + 1 if latest > seconds else 0)
            latest = self.left(told)
        self.assertEqual(latest, 0)

    def test_the_time_left_grows_by_what_was_learnt_at_most(self) -> None:
        self.begin(80)
        for number in (1, 2, 3):
            self.measure(number)
        for before, after in zip(self.shown, self.shown[1:]):
            if " left" in before:  # everything takes as long as before: nothing is learnt
                self.assertLessEqual(self.left(after), self.left(before) + 1)
        self.begin(80)
        self.measure(1)
        self.configuration(0, 2)
        self.round(10, 1)
        latest = self.left(self.round(1, 2))
        # The second round took 4 s longer than the first: each of the eight to come may, on the average, take 2 s more.
        self.assertLessEqual(self.left(self.round(5, 3)), latest - 1 + 8 * 2 + 1)

    def test_plain_lines(self) -> None:
        times = []
        self.begin(None)
        self.configuration(0, 1)
        for _ in range(400):
            if self.tell(0.125, "tick"):
                times.append(self.now)
        self.assertEqual(times, [1010.0, 1020.0, 1030.0, 1040.0, 1050.0])
        self.assertEqual(self.shown[0], "[1/3] 128x conv 512ch 64x64: start, 0:00 elapsed\n")
        self.assertEqual(self.configuration(1, 2), "[2/3] 64x conv 512ch 64x64: start, 0:51 elapsed, 1:42 left\n")
        self.assertNotRegex(self.stream.getvalue(), "[\r\x1b]")

    def test_a_stream_that_is_gone(self) -> None:
        self.stream.close()
        self.progress({"kind": "configuration", "config": "64x8x2", "number": 1, "of": 1, "wait": False})
        self.progress.clear()
