"""Section 17: what a person sees on a terminal while a run goes on, and what the live line says.

`ANE_BENCH_GOLDEN=write python3 -m unittest tests.test_terminal` writes the recorded terminals anew;
read what changed.
"""

import io
import sys
import unittest
import unittest.mock
from typing import Any

import ane_bench
from tests import runs, support
from tests.terminal import Going, Screen, Terminal

RESNET = ("64x56k3", "128x28k3", "256x14k3", "512x7k3")


class ProgressTest(unittest.TestCase):
    """Progress by a clock of the test's own, told of events as a run tells of them."""

    def setUp(self) -> None:
        patch = unittest.mock.patch.object(ane_bench, "terminal_columns", lambda _: self.columns)
        patch.start()
        self.addCleanup(patch.stop)

    def begin(self, columns: int, configs: Any = "512x64x128,64", **given: Any) -> None:
        """Begin a run on a terminal of so many columns; sys.maxsize is not a terminal."""
        self.now, self.columns, self.stream = 1000.0, columns, io.StringIO()
        asked = ane_bench.configs_of(configs, "ane")
        run = ane_bench.Run("ane", ane_bench.Settings(**given), asked, ("fp16", "w8a8"))
        self.run_shown = run
        self.progress = ane_bench.Progress(run, self.stream, lambda: self.now)

    def tell(self, seconds: float, kind: str, **content: Any) -> str:
        """Let some seconds pass, tell of an event, and return what is written."""
        self.now += seconds
        before = len(self.stream.getvalue())
        self.progress({"kind": kind, **content})
        return self.stream.getvalue()[before:].replace("\r\x1b[K", "")

    def configuration(self, number: int) -> str:
        """Tell that a configuration begins, and that its worker has found the engine."""
        begun = self.tell(0, "configuration", number=number)
        if number > 1:
            return begun
        self.run_shown.system = {"chip": "Apple M4"}
        self.assertEqual(begun, "")
        return self.tell(0, "machine", system={})

    def stage(self, seconds: float, name: str, variant: str = "fp16") -> str:
        """Tell that a stage begins."""
        return self.tell(seconds, "stage", stage=name, variant=variant, limit=0)

    def round(self, seconds: float, number: int, **paces: tuple[float, float]) -> str:
        """Tell that a round begins."""
        return self.tell(seconds, "stage", stage="evaluate", variant="fp16,w8a8", limit=0,
                         number=number, paces=paces)

    def test_nothing_before_the_engine_is_found(self) -> None:
        self.begin(80)
        self.assertEqual(self.stage(0, "start", "") + self.tell(9, "tick"), "")
        self.assertEqual(self.configuration(1), "[1/2] 512x64x128, start, 0:00, about 0:14 left")

    def test_the_stage_and_the_time_left(self) -> None:
        self.begin(80)
        self.configuration(1)
        # Of an M4: 8.5 s for this configuration, two thirds of that for the other.
        self.assertEqual(self.stage(1, "compile"),
                         "[1/2] 512x64x128, FP16 compile, 0:01, about 0:13 left")
        self.assertEqual(self.stage(0, "rest", "w8a8"), "[1/2] 512x64x128, W8A8 waits for the "
                                                        "compile service, 0:01, about 0:13 left")
        self.assertEqual(self.stage(0, "warm-up", "fp16,w8a8"),
                         "[1/2] 512x64x128, FP16,W8A8 warm-up, 0:01, about 0:13 left")
        self.assertEqual(self.stage(15, "start", ""),
                         "[1/2] 512x64x128, start, 0:16, about 0:05 left")
        self.tell(1, "tick")
        self.configuration(2)  # which takes twice as long too
        self.assertEqual(self.round(1, 3), "[2/2] 512x64x64, round 3, 0:18, about 0:10 left")
        self.assertEqual(self.tell(60, "tick"), "[2/2] 512x64x64, round 3, 1:18")

    def test_the_time_left_follows_the_operations(self) -> None:
        self.begin(80, ["16x8x2", "512x64x128"], seconds=0)
        self.configuration(1)
        self.tell(4, "tick")
        # 275 GOP are 5.5 s beside 2 s for anything, and the first took twice as long as that.
        self.assertEqual(self.configuration(2),
                         "[2/2] 512x64x128, start, 0:04, about 0:14 left")

    def test_rates_of_a_long_run(self) -> None:
        paces = {"fp16": (15e6, 15.1e6), "w8a8": (7.8e6, 8.8e6)}
        self.begin(120, "512x64x128", seconds=29)
        self.configuration(1)
        self.assertNotIn("TOPS", self.round(1, 1, **paces))
        self.begin(120, "512x64x128", seconds=600)
        self.configuration(1)
        self.assertEqual(self.round(31, 10, **paces), (
            "[1/1] 512x64x128, round 10, 0:31, about 9:36 left, W8A8 31.2 TOPS, first 35.2, "
            "FP16 18.2 TOPS, first 18.3"))
        for columns, line in ((80, "[1/1] 512x64x128, round 10, 0:31, about 9:36 left, W8A8 31.2 "
                                   "TOPS, first 35.2"),
                              (60, "[1/1] 512x64x128, round 10, 0:31, about 9:36 left"),
                              (40, "[1/1] 512x64x128, round 10, 0:31"), (10, "")):
            self.columns = columns
            self.assertEqual(self.tell(0, "tick"), line)

    def test_plain_lines(self) -> None:
        self.begin(sys.maxsize)
        self.assertEqual(self.configuration(1),
                         "[1/2] 512x64x128, start, 0:00, about 0:14 left\n")
        times = [self.now for _ in range(400) if self.tell(0.125, "tick")]
        self.assertEqual(times, [1010.0, 1020.0, 1030.0, 1040.0, 1050.0])
        self.configuration(2)
        self.assertNotRegex(self.stream.getvalue(), "[\r\x1b]")
        self.assertEqual(len(self.stream.getvalue().splitlines()), 6)

    def test_a_stream_that_is_gone(self) -> None:
        self.begin(80)
        self.stream.close()
        self.progress({"kind": "configuration", "number": 1})
        self.progress.clear()


class RecordedTest(unittest.TestCase):
    """The whole of what terminals of 80 and 60 columns show of the default run and of layers."""

    def screen(self, made: ane_bench.Run, columns: int, *arguments: str) -> Screen:
        """Return what a terminal shows of a made-up run; nothing may be wider than it."""
        going, screen = Going(made), Screen(columns)

        class Stream(io.StringIO):
            def write(self, text: str) -> int:
                screen.feed(text.replace("\n", "\r\n"))
                return len(text)

        progress = ane_bench.Progress
        with unittest.mock.patch.multiple(
                ane_bench, measured=going, terminal_columns=lambda _: columns,
                Progress=lambda run, stream: progress(run, stream, lambda: going.now)), \
                unittest.mock.patch.multiple("sys", stdout=Stream(), stderr=Stream()):
            self.assertEqual(ane_bench.main(arguments), 0)
        self.assertEqual(screen.wrapped, [])
        return screen

    def test_as_recorded(self) -> None:
        layers = [f"--config={layer}" for layer in RESNET]
        made = {"the default run": (runs.made_run(runs.ORIGINAL, fixed_ms=0.1), ()),
                "ResNet-50's stages": (runs.made_run(ane_bench.configs_of(RESNET, "ane"),
                                                     fixed_ms=0.1), layers)}
        told = []
        for name, (run, arguments) in made.items():
            run.version = "VERSION"
            run.warn("heat-before", "the Mac is warm already, which may make it slow; let it cool")
            for columns in (80, 60):
                screen = self.screen(run, columns, *arguments)
                live = [line for line in screen.live if ", round 6," in line]
                told.append("\n".join([f"## {name}, {columns} columns", *screen.lines,
                                       "-- the live line at times", *live, ""]))
        self.assertEqual(*runs.golden("terminals.txt", "\n".join(told)))


class TerminalTest(support.StandinCase):
    """Runs on pseudo-terminals, whose text a small emulator shows."""

    def test_a_slow_compile(self) -> None:
        terminal = Terminal(self.scene, *support.SMALL, settings={"FAULT": "fp16/compile:slow=3"})
        self.assertEqual(terminal.finish().code, 0, terminal.screen.lines)
        lines = [line for line in terminal.screen.live if ", FP16 compile, " in line]
        self.assertGreater(len(lines), 4)
        self.assertRegex(lines[-1], r"\A\[1/1\] 64x8x2, FP16 compile, 0:0[23]\Z")
        self.assertEqual([line for line in terminal.screen.lines if line.startswith("[")], [])

    def test_what_a_terminal_cannot_do(self) -> None:
        self.scene.variables["TERM"] = "dumb"
        terminal = Terminal(self.scene, *support.SMALL)
        self.assertEqual(terminal.finish().code, 0)
        self.assertNotIn("\x1b", terminal.screen.received)
        self.assertTrue(terminal.screen.lines[0].startswith("[1/1] 64x8x2, "))

    def test_interrupted_on_a_terminal(self) -> None:
        terminal = Terminal(self.scene, "--config=64x8x2,4", *support.SMALL[2:], "--save",
                            str(self.scene.saved), columns=60,
                            settings={"FAULT": "64x8x4/compile:hang"})
        self.scene.await_call(terminal.run, "compile fp16", 2)
        terminal.type(b"\x03")
        self.assertEqual(terminal.finish().code, 130)
        self.assertEqual(terminal.screen.wrapped, [])
        shown = " ".join(" ".join(terminal.screen.lines).split())
        self.assertRegex(shown, "interrupted: 1 of 2 configurations are in "
                                rf"{self.scene.saved}\Z".replace(" ", " ?"))
