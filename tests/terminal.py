"""What a person sees of a run: a terminal of so many columns, and made-up runs that take time."""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from typing import Any, Callable

from ane_bench import Cell, Run
from tests.support import PATIENCE, Finished, Scene

# Makes the terminal the controlling one, so that its Ctrl-C reaches the run.
CONTROL = ("import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
           "os.execv(sys.argv[1], sys.argv[1:])")


class Screen:
    """What a terminal shows: `lines`; `live`, lines that were erased; `wrapped`, those that were
    too long; `received`, all of it.

    It knows line feed, carriage return and "erase to the end of the line", and characters of one
    column; anything else is an error.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.live: list[str] = []
        self.wrapped: list[str] = []
        self.received = ""
        self._rows = [""]
        self._column = 0
        self._pending = ""

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

    def __init__(self, scene: Scene, *arguments: str, columns: int = 80,
                 settings: Any = None) -> None:
        self.scene, self.screen = scene, Screen(columns)
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        scene.prefix = (sys.executable, "-I", "-c", CONTROL)
        self.run = scene.start(*arguments, settings=settings, stdin=side, stdout=side, stderr=side)
        os.close(side)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        """Show what arrives. At the end Linux raises an error, macOS returns nothing."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with contextlib.suppress(OSError):
            while select.select([self._main], [], [], PATIENCE)[0]:
                data = os.read(self._main, 1 << 16)
                if not data:
                    break
                self.screen.feed(decoder.decode(data))

    def type(self, keys: bytes) -> None:
        """Type as a person does."""
        os.write(self._main, keys)

    def finish(self) -> Finished:
        """Wait until the run exits. Standard output and error are on the screen, together."""
        finished = self.scene.finish(self.run)
        self._reader.join(PATIENCE)
        os.close(self._main)
        return finished


class Going:
    """A made-up run in the place of `measured`: it tells what that tells, by a clock of its own.

    `between` is called within each configuration; the last `broken` of them are not measured, since
    the run is interrupted before.
    """

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
