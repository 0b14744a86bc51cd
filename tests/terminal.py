"""A terminal for tests: a run's output on a pseudo-terminal of so many columns, as a person would see it."""

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
import time
import unicodedata
from typing import Any, NamedTuple

from tests.support import PATIENCE, Finished, Scene

# Makes the terminal the controlling one, so that its Ctrl-C reaches the run.
CONTROL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Shown(NamedTuple):
    """A line that was shown from a time on and then erased, such as a progress line."""

    seconds: float
    text: str

    def startswith(self, text: str) -> bool:
        """Return whether the line begins so."""
        return self.text.startswith(text)


class Screen:
    """What a terminal shows: `lines`; `live`, what was erased; `wrapped`, what was too long; `received`, all of it.

    It knows line feed, carriage return and "erase to the end of the line"; anything else is an error.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.live: list[Shown] = []
        self.received = ""
        self._continued: set[int] = set()
        self._rows: list[list[str]] = [[]]
        self._column = 0
        self._pending = ""
        self._began = 0.0

    @property
    def lines(self) -> list[str]:
        """The lines on the screen, without spaces at their ends."""
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def wrapped(self) -> list[str]:
        """The lines that took more than one line of the screen, each whole."""
        found: list[str] = []
        for number, row in enumerate(self._rows):
            if number in self._continued and number - 1 in self._continued:
                found[-1] += "".join(row)
            elif number in self._continued:
                found.append("".join([*self._rows[number - 1], *row]))
        return found

    def feed(self, text: str, seconds: float = 0.0) -> None:
        """Show a text that arrives at a time."""
        self.received += text
        text = self._pending + text
        whole = re.sub(r"\x1b(\[[0-9;]*)?\Z", "", text)  # an escape sequence may come in two parts
        self._pending = text[len(whole):]
        for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.", whole, re.DOTALL):
            if part == "\r":
                self._column = 0
            elif part == "\n":
                self._rows.append([" "] * self._column)
            elif part in ("\x1b[K", "\x1b[0K"):
                self._erase()
            elif part.isprintable():
                self._put(part, seconds)
            else:
                raise AssertionError(f"a terminal may not know {part!r}, in {text[:100]!r}")

    def _erase(self) -> None:
        """Erase from the cursor on."""
        row = self._rows[-1]
        if self._column == 0 and row:
            self.live.append(Shown(self._began, "".join(row)))
        del row[self._column:]

    def _put(self, character: str, seconds: float) -> None:
        """Show one character, on the next line if this one is full."""
        width = 2 if unicodedata.east_asian_width(character) in "WF" else 0 if unicodedata.combining(character) else 1
        if self._column + width > self.columns:
            self._continued.add(len(self._rows))
            self._rows.append([])
            self._column = 0
        if self._column == 0:
            self._began = seconds
        self._rows[-1][self._column:self._column + 1] = [character]
        self._column += width


class Terminal:
    """A run on a terminal of its own, whose `screen` shows all that it writes."""

    def __init__(self, scene: Scene, *arguments: str, columns: int = 80, settings: Any = None) -> None:
        self.scene, self.screen = scene, Screen(columns)
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        scene.prefix = (sys.executable, "-I", "-c", CONTROL)
        self.run = scene.start(*arguments, settings=settings, stdin=side, stdout=side, stderr=side)
        self._started = time.monotonic()
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
                self.screen.feed(decoder.decode(data), time.monotonic() - self._started)

    def type(self, keys: bytes) -> None:
        """Type as a person does."""
        os.write(self._main, keys)

    def finish(self) -> Finished:
        """Wait until the run exits. Standard output and error are on the screen, together."""
        finished = self.scene.finish(self.run)
        self._reader.join(PATIENCE)
        os.close(self._main)
        return finished
