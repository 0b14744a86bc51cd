"""Section 17: what a person sees on a terminal while a run goes on, and what the live line says.

ANE_BENCH_GOLDEN=write writes the recorded terminals anew: read what changed.
"""

import codecs
import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
import unittest
import unittest.mock
from collections.abc import Iterator
from typing import Any, Callable

import ane_bench
from ane_bench import Cell, Run
from tests import faults, runs, support
from tests.support import PATIENCE, Finished, Scene


class Screen:
    """What a terminal shows: `lines`; `live`, lines that were erased; `wrapped`, those that were
    too long; `received`, all of it. It knows line feed, carriage return and "erase to the end of
    the line", and characters of one column; anything else is an error."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.live: list[str] = []
        self.wrapped: list[str] = []
        self.received = ""
        self._rows, self._column, self._pending = [""], 0, ""

    @property
    def lines(self) -> list[str]:
        """The lines on the screen, without spaces at their ends."""
        return [row.rstrip() for row in self._rows]

    def feed(self, text: str) -> None:
        """Show a text."""
        self.received += text
        text = self._pending + text
        whole = re.sub(r"\x1b(\[[0-9;]*)?\Z", "", text)  # an escape sequence may come in two parts
        self._pending = text[len(whole):]
        for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.", whole, re.DOTALL):
            row = self._rows[-1]
            if part == "\r":
                self._column = 0
            elif part == "\n":
                self._rows.append(" " * self._column)
            elif part == "\x1b[K":
                self.live += [row] if self._column == 0 and row else []
                self._rows[-1] = row[:self._column]
            elif part.isprintable():
                self._rows[-1] = row[:self._column] + part + row[self._column + 1:]
                self._column += 1
                self.wrapped += [row] if self._column > self.columns else []
            else:
                raise AssertionError(f"a terminal may not know {part!r}, in {text[:100]!r}")


class Terminal:
    """A run on a terminal of its own, whose `screen` shows all that it writes."""

    def __init__(self, scene: Scene, *arguments: str, columns: int = 80, **settings: Any) -> None:
        self.scene, self.screen = scene, Screen(columns)
        self.main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        # It is the controlling one, so that its Ctrl-C reaches the run.
        scene.prefix = faults.through("fcntl.ioctl(0, termios.TIOCSCTTY, 0)")
        self.run = scene.start(*arguments, settings=settings, stdin=side, stdout=side, stderr=side)
        os.close(side)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        """Show what arrives. At the end Linux raises an error, macOS returns nothing."""
        decoder, data = codecs.getincrementaldecoder("utf-8")(errors="replace"), b"-"
        with contextlib.suppress(OSError):
            while data and select.select([self.main], [], [], PATIENCE)[0]:
                data = os.read(self.main, 1 << 16)
                self.screen.feed(decoder.decode(data))

    def finish(self) -> Finished:
        """Wait until the run exits. Standard output and error are on the screen, together."""
        finished = self.scene.finish(self.run)
        self._reader.join(PATIENCE)
        os.close(self.main)
        return finished


class Going:
    """A made-up run in the place of `measured`: it tells what that tells, by a clock of its own.
    `between` is called within each configuration; before the last `broken` of them the run is
    interrupted."""

    def __init__(self, made: Run, broken: int = 0,
                 between: Callable[[int], None] = lambda number: None) -> None:
        self.made, self.broken, self.between, self.now = made, broken, between, 1000.0

    def __call__(self, run: Run, notify: Callable[[Any], None]) -> Iterator[list[Cell]]:
        run.system, run.warnings = self.made.system, self.made.warnings
        run.version, run.started = self.made.version, self.made.started
        for number, (config, cells) in enumerate(self.made.results, 1):
            notify({"kind": "configuration", "config": config.name, "number": number})
            notify({"kind": "machine", "system": run.system})
            self.between(number)
            for stage in ("compile", "load", "warm-up"):
                self.now += 0.4
                notify({"kind": "stage", "stage": stage, "variant": "fp16", "limit": 0})
            for place in range(1, 13):
                notify({"kind": "stage", "stage": "evaluate", "variant": "fp16,w8a8", "limit": 0,
                        "number": place, "paces": {}})
                self.now += max(1, config.gop / 150) / 12
            run.add(cells)
            run.broken_off = number + self.broken == len(run.configs) > number
            yield cells
            if run.broken_off:
                raise KeyboardInterrupt


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
        self.shown = Run("ane", ane_bench.Settings(**given), asked, ("fp16", "w8a8"))
        self.progress = ane_bench.Progress(self.shown, self.stream, lambda: self.now)

    def tell(self, seconds: float, kind: str, **content: Any) -> str:
        """Let some seconds pass, tell of an event, and return what is written."""
        self.now += seconds
        before = len(self.stream.getvalue())
        self.progress({"kind": kind, **content})
        return self.stream.getvalue()[before:].replace("\r\x1b[K", "")

    def configuration(self, number: int) -> str:
        """Tell that a configuration begins, and that the first worker has found the engine."""
        begun = self.tell(0, "configuration", number=number)
        if number > 1:
            return begun
        self.assertEqual(begun, "")
        self.shown.system = {"chip": "Apple M4"}
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
        self.assertEqual(self.stage(0, "wait for the compile service", "w8a8"), "[1/2] 512x64x128, "
                         "W8A8 wait for the compile service, 0:01, about 0:13 left")
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
        self.assertEqual(self.configuration(2), "[2/2] 512x64x128, start, 0:04, about 0:14 left")

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

    def test_ctrl_c_is_answered(self) -> None:
        self.begin(80)
        self.configuration(1)
        self.assertEqual(self.tell(1, "stage", stage="verify", variant="fp16", stopping=True),
                         "[1/2] 512x64x128, FP16 verify, 0:01, Ctrl-C again loses it, about 0:13 "
                         "left")
        self.assertNotIn("Ctrl-C", self.tell(0, "tick", stopping=False))

    def test_plain_lines(self) -> None:
        self.begin(sys.maxsize)
        self.assertEqual(self.configuration(1), "[1/2] 512x64x128, start, 0:00, about 0:14 left\n")
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

    def screen(self, made: Run, columns: int, *arguments: str) -> Screen:
        """Return what a terminal shows of a made-up run; nothing may be wider than it."""
        going, screen, progress = Going(made), Screen(columns), ane_bench.Progress
        stream = unittest.mock.Mock(write=lambda text: screen.feed(text.replace("\n", "\r\n")),
                                    encoding="utf-8")
        with unittest.mock.patch.multiple(
                ane_bench, perform_run=going, terminal_columns=lambda _: columns,
                Progress=lambda run, stream: progress(run, stream, lambda: going.now)), \
                unittest.mock.patch.multiple("sys", stdout=stream, stderr=stream):
            self.assertEqual(ane_bench.main(arguments), 0)
        self.assertEqual(screen.wrapped, [])
        return screen

    def test_as_recorded(self) -> None:
        resnet = ("64x56k3", "128x28k3", "256x14k3", "512x7k3")
        layers = runs.made_run(ane_bench.configs_of(resnet, "ane"), fixed_ms=0.1)
        made = {"the default run": (runs.made_run(runs.ORIGINAL, fixed_ms=0.1), []),
                "ResNet-50's stages": (layers, [f"--config={layer}" for layer in resnet])}
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
        terminal = Terminal(self.scene, *support.SMALL, FAULT="fp16/compile:slow=3")
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
                            str(self.scene.saved), columns=60, FAULT="64x8x4/compile:hang")
        self.scene.await_call(terminal.run, "compile fp16", 2)
        os.write(terminal.main, b"\x03")  # Ctrl-C
        self.assertEqual(terminal.finish().code, 130)
        self.assertEqual(terminal.screen.wrapped, [])
        shown = " ".join(" ".join(terminal.screen.lines).split())
        self.assertRegex(shown, "interrupted: 1 of 2 configurations are in "
                                rf"{self.scene.saved}\Z".replace(" ", " ?"))
