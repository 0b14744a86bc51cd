"""Section 12 under 3,000 damaged records: each is refused with an error of the project's own, in
one line, or is a run of which every report can be made. Without ANE_BENCH_TESTS=all there are 300.

ANE_BENCH_FUZZ_SEED chooses other damage. `python3 -m tests.test_fuzz NUMBER` makes one record anew,
shows it, and lets its exception out.
"""

import collections
import contextlib
import copy
import functools
import json
import math
import os
import random
import re
import resource
import signal
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import ane_bench
from ane_bench import Run, UsageError
from tests import runs, support

SEED = os.environ.get("ANE_BENCH_FUZZ_SEED", "1")
COUNT = support.reduced(3_000, 300, "damaged records")
SECONDS = 20  # for one record; the usual one takes milliseconds


class TooLong(BaseException):
    """A record took more time than any may. What catches exceptions does not catch this."""


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let requests for much more memory raise MemoryError, if the system can tell how much is in
    use."""
    size = Path("/proc/self/statm")
    if not size.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(size.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# Damage.

FIGURES = (0.0, -1, -0.0, 0.5, -2.5, 5e-324, 1e-300, 1e-30, 1e-19, 1e13, 1e17, 1e30, 1e200, 1e299,
           1.7e308, math.nan, math.inf, -math.inf, 0, 1, 2, 3, 4, 5, 7, 8, 12, 64, 128, 255, 65535,
           (1 << 31) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, (1 << 64) - 1, 10 ** 20 - 1)
STRINGS = ("", "x", "fp16", "w8a16", "w8a8", "W8A8", "int4", "ok", "failed", "auto", "original",
           "original/1.3", "compile", "Apple M4", "Apple M10 Ultra", "nominal", "0x0x0", "64x8x2",
           "64x8", "64,32x8x2", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "\0", "\n",
           "\r\n\t", "\x1b[2J\x07", "\x7f\x85\xa0", "\ud800", "\udfff\ud800", "\ufffe\uffff",
           "\u2028\u202e", "ü✓𝛑", "]]>", "&<>\"'`|*_", "<!--", "%s%n{}", "../../nowhere", "=1+1",
           "a" * 100_000, "|" * 5000, "🙂" * 3000)
# Keys that an object may be given, or below which all numbers may be changed.
NAMES = ("fp16", "w8a16", "w8a8", "int4", "status", "stage", "error", "ms", "tops", "samples_ns",
         "rounds_s", "condensed", "apart", "verified", "ok", "strides", "output", "config", "chip",
         "memory_bytes", "protocol", "original", "seed", "asked", "complete", "warnings", "layers",
         "system", "compile_ms")
# What json.dumps does not write, by the string that stands for it until then.
RAW = {"@huge": "1e999", "@minus": "-1e999", "@long": "9" * 30, "@longer": "9" * 6000,
       "@deep": "[" * 700 + "]" * 700, "@nested": '{"a":' * 200 + "1" + "}" * 200,
       "@deepest": "[" * 100_000, "@half": '"\\ud800"', "@zero": "\\u0000",
       "@float": "0." + "0" * 400 + "1"}
BYTES = (0, 1, 9, 10, 32, 34, 45, 46, 48, 57, 91, 93, 123, 125, 127, 128, 192, 255)


def damage_bytes(draw: random.Random, data: bytearray) -> None:
    """Cut bytes out, off, or none; put in new ones, others of the same, or none."""
    length = draw.choice((1, 1, 2, 3, 8, 64, 100))
    start, other = (draw.randrange(len(data) + 1) for _ in range(2))
    end = draw.choice((start, start + length, start + length, len(data)))
    new = bytes(draw.choice(BYTES) for _ in range(length))
    data[start:end] = draw.choice((b"", new, data[other:other + length]))


def nasty(draw: random.Random, old: Any) -> Any:
    """Return a value that does not belong in the place of another: of its kind as often as not."""
    if draw.random() < 0.5 and isinstance(old, (int, float, str)):
        flags = (True, False) if isinstance(old, bool) else FIGURES
        return draw.choice(STRINGS if isinstance(old, str) else flags)
    figure, string = draw.choice(FIGURES), draw.choice(STRINGS)
    return draw.choice((figure, figure, string, string, draw.choice((True, False, None)), [], {},
                        draw.choice(tuple(RAW)), [figure], [[figure, figure], [figure, figure]],
                        {draw.choice(NAMES): figure}, {string: string}, [string], [None, {}]))


def random_place(draw: random.Random, value: Any) -> tuple[Any, Any]:
    """Return a container within a JSON value, and a key of it, drawn on the way down; every other
    lies in results."""
    while True:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value, dict) and "results" in value and draw.random() < 0.5:
            key = "results"
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or draw.random() < 0.15:
            return value, key
        value = inner


def refigure(value: Any, name: str, change: Callable[[float], float]) -> Any:
    """Return a JSON value in which all numbers below a name are changed."""
    if isinstance(value, dict):
        return {key: refigure(item, "" if key == name else name, change)
                for key, item in value.items()}
    if isinstance(value, list):
        return [refigure(item, name, change) for item in value]
    return change(value) if not name and type(value) in (int, float) else value


def damage_json(draw: random.Random, value: dict[str, Any]) -> None:
    """Make one change to a parsed value, in place."""
    if draw.random() < 0.15:
        figure, times = draw.choice(FIGURES), draw.random() < 0.5
        name = draw.choice(NAMES)
        value.update(refigure(value, name, lambda old: old * figure if times else figure))
    if not value:
        return
    (container, key), (other, place) = random_place(draw, value), random_place(draw, value)
    old, kind = container[key], draw.choice(("new", "new", "new", "none", "other", "repeated"))
    if kind == "none":
        del container[key]
    elif kind == "other":
        container[key] = copy.deepcopy(other[place])
    elif kind == "repeated" and isinstance(container, list):
        container[key:key] = copy.deepcopy(container[key:]) * draw.choice((1, 1, 7))
    elif kind == "repeated":
        container[draw.choice((*NAMES, *STRINGS))] = container.pop(key)
    elif isinstance(old, (int, float)) and draw.random() < 0.3:
        container[key] = draw.choice((-old, old * 10 ** draw.randrange(20), old / 1e9, str(old)))
    else:
        container[key] = draw.choice((nasty(draw, old), nasty(draw, old), [old]))


@functools.cache
def record_texts() -> Sequence[str]:
    """Return records of every kind, as text."""
    made = [runs.made_run(variants=runs.ALL, wrong=[(0, "w8a16")], each=2,
                          system={**runs.M4, "memory_bytes": 1 << 34, "low_power_mode": False}),
            runs.made_run(["64x8x1", "64x8x2", "64x8x4"], each=1, engine="reference", measured=2),
            runs.made_run(["64x8x2k3", "64x8x6k3"], failed=[(1, "fp16")], fixed_ms=0.1),
            runs.made_run(["8x7x2"], rounds=40, fixed_ms=100.0),  # which spans over 30 s
            *(runs.random_run(random.Random(number)) for number in range(9))]
    made[2].warn("noise", f"{made[2].cells[0].name}: times changed")
    return [json.dumps(run.to_dict()) for run in made]


def damaged(number: int) -> bytes:
    """Return a damaged record: its values, its bytes, or both."""
    draw = random.Random(f"{SEED}/{number}")
    text, where, count = draw.choice(record_texts()), draw.random(), draw.choice((1, 1, 1, 1, 2, 4))
    if where < 0.85:
        value = json.loads(text)
        for _ in range(count):
            damage_json(draw, value)
        text = json.dumps(value)
        for name, raw in RAW.items():
            text = text.replace(f'"{name}"', raw)
    data = bytearray(text.encode())
    if where > 0.8:
        for _ in range(count):
            damage_bytes(draw, data)
    return bytes(data)


# What becomes of them.

PLACE = Path(tempfile.mkdtemp(prefix="fuzz_", dir=support.WORKSHOP)) / "record.txt"


def verdict(data: bytes) -> str:
    """Read a record, make everything of it that can be made, and return what became of it."""
    PLACE.write_bytes(data)
    try:
        run = ane_bench.read_record(PLACE)
    except UsageError as error:
        assert str(error).isprintable() and len(str(error)) < 500, repr(str(error))
        return "refused"
    for text in (*reports(run), *comparisons(run)):
        controls = re.search(r"[^\n\x20-\x7e\xa0-\U0010ffff]|[\ud800-\udfff]", text)
        assert not controls, f"{controls!r} would be printed: {text[:300]!r}"
    return "read"


strict_json = json.JSONDecoder(parse_constant=int).decode  # int() refuses NaN and Infinity


def reports(run: Run) -> list[str]:
    """Return the reports of a run alone and beside others; look at each in its own way."""
    saved = ane_bench.record_text(run)
    assert strict_json(saved) == json.loads(json.dumps(run.to_dict()))
    again, = ane_bench.parse_records(saved.encode(), "the same")
    assert ane_bench.record_text(again) == saved
    markdown = ane_bench.show([run], "markdown")
    PLACE.write_text(markdown, encoding="utf-8")
    back, = ane_bench.read_records(str(PLACE), lambda complaint: None)
    assert [cell.name for cell in back.cells] == [cell.name for cell in run.cells]
    several = [run, runs.made_run(), again]
    strict_json(ane_bench.show(several, "json"))
    drawings = [ane_bench.chart([run]), ane_bench.chart(several)]
    for drawing in drawings:
        xml.etree.ElementTree.fromstring(drawing.encode())
        assert not re.search(r'"[^"<>]*\b(nan|inf)\b[^"<>]*"', drawing), drawing
    return [run.table(), markdown, ane_bench.show([run], "csv"), *drawings,
            *(ane_bench.show(several, form) for form in ("table", "markdown", "csv"))]


def comparisons(run: Run) -> list[str]:
    """Return the comparisons of a run with another on either side, and with itself."""
    texts, usual = [], runs.made_run(variants=runs.ALL)
    for base, new in ((usual, run), (run, usual), (run, run)):
        with contextlib.suppress(UsageError):
            texts += [ane_bench.comparison(base, new, form) for form in ("table", "markdown")]
            strict_json(ane_bench.comparison(base, new, "json"))
    later = copy.copy(run)
    later.started = "9999-01-02T03:04:05+00:00"
    with contextlib.suppress(UsageError):
        failed, notes = ane_bench.gate(run, later, 1.0, 1.0)
        assert not [line for line in failed if "not verified" not in line], "it fails beside itself"
        texts += notes
    return texts


class FuzzTest(unittest.TestCase):
    """No damage leads to an exception that is not the project's own."""

    def test_damaged_records(self) -> None:
        def stop(number: int, frame: Any) -> None:
            raise TooLong(f"more than {SECONDS} s")

        self.addCleanup(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, stop))
        self.addCleanup(signal.alarm, 0)
        verdicts: collections.Counter[str] = collections.Counter()
        with limited_memory(1 << 30):
            for number in range(COUNT):
                signal.alarm(SECONDS)
                try:
                    verdicts[verdict(damaged(number))] += 1
                except (Exception, TooLong) as error:
                    self.fail(f"{error!r:.300}; this makes it again: ANE_BENCH_FUZZ_SEED={SEED} "
                              f"python3 -m tests.test_fuzz {number}")
        for name in ("refused", "read"):  # or they are no test
            self.assertGreaterEqual(verdicts[name], COUNT // 20, name)


if __name__ == "__main__":
    made_anew = damaged(int(sys.argv[1]))
    print(made_anew[:2000])
    print(verdict(made_anew))
