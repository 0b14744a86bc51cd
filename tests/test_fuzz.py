"""Every reader under 3,000 damaged inputs of its kind: it refuses each with an error of the project's own, or gives a
right answer. Without ANE_BENCH_TESTS=all there are 200.

ANE_BENCH_FUZZ_SEED chooses other inputs. `python3 -m tests.test_fuzz KIND NUMBER` makes one input again, shows what was
done to it, and lets its exception out; KIND is weights, mil, records or messages.
"""

import collections
import contextlib
import copy
import csv
import functools
import io
import itertools
import json
import math
import os
import random
import re
import signal
import struct
import sys
import tempfile
import traceback
import unittest
import unittest.mock
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import ane_bench
from ane_bench import Arithmetic, BlobError, Config, MilError, Run, Settings, Unavailable, UsageError
from tests import runs, support
from tests.test_mil import check_by_oracle

SEED = os.environ.get("ANE_BENCH_FUZZ_SEED", "1")
COUNT = support.reduced(3_000, 200, "damaged inputs of each kind")
SECONDS = 20.0  # for one input; the usual one takes a millisecond, where nothing else runs
MEMORY = 1 << 30  # that all may take in addition to what Python has when they begin
FEWEST = COUNT // 200  # of each verdict, or the inputs are no test of it
MOST_SHOWN = 5


class TooLong(BaseException):
    """An input took more time than any may."""


class Subject(NamedTuple):
    """A kind of input: how a damaged one is drawn, its changes noted in a list; the result, a verdict or an exception;
    and the verdicts of which there must be some."""

    draw: Callable[[random.Random, list[str]], Any]
    verdict: Callable[[Any], str]
    verdicts: Sequence[str]


def generator(kind: str, number: int) -> random.Random:
    """Return what one input is drawn with, whichever were drawn before it."""
    return random.Random(f"{SEED}/{kind}/{number}")


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise TooLong within when the time is over."""
    def stop(number: int, frame: Any) -> None:
        raise TooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let requests for much more memory raise MemoryError, if the system can tell how much is in use."""
    size = Path("/proc/self/statm")
    if not size.exists():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(size.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ----------------------------------------------------------------------------------------------------------------------
# Damage
# ----------------------------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 63, 64, 65, 127, 128, 129, 192, 255, 256, 32767, 65504, 65535, 65536,
           (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
STRINGS = ("", "x", "fp16", "w8a16", "w8a8", "W8A8", "int4", "ok", "failed", "auto", "original", "1.3", "compile",
           "Apple M4", "nominal", "\0", "\n", "\r\n\t", "\x1b[2J\x07", "\x7f\x85\xa0", "\ud800", "\udfff\ud800",
           "\ufffe\uffff", "\u2028\u202e",
           "ü✓𝛑", "]]>", "&<>\"'`|*_", "<!--", "%s%n{}", "../../nowhere", "a" * 100_000, "|" * 5000, "🙂" * 3000)


def damage_bytes(draw: random.Random, data: bytearray) -> str:
    """Make one change to bytes, in place, and return which."""
    place, length = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 3, 4, 8, 16, 64, 100))
    place = place - place % draw.choice((1, 1, 4, 8, 64))
    kind = draw.randrange(8)
    if kind == 0 and data:
        place = min(place, len(data) - 1)
        data[place] ^= 1 << draw.randrange(8)
    elif kind == 1 and data:
        odd = (0, 1, 9, 10, 32, 34, 45, 46, 48, 57, 91, 93, 123, 125, 127, 128, 192, 255)
        data[min(place, len(data) - 1)] = draw.choice(odd)
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        del data[place:place + length]
    elif kind == 4:
        data[place:place] = bytes(draw.choice((0, draw.randrange(256))) for _ in range(length))
    elif kind == 5:
        start = draw.randrange(len(data) + 1)
        data[place:place] = data[start:start + length]
    elif kind == 6:
        number = draw.choice((*NUMBERS, len(data), len(data) - place, place, place + 64))
        packed = struct.pack("<Q", number)[:draw.choice((1, 2, 4, 8))]
        data[place:place + len(packed)] = packed
    else:
        start = draw.randrange(len(data) + 1)
        one, other = data[place:place + length], data[start:start + length]
        data[place:place + length], data[start:start + length] = other, one
    return f"bytes, kind {kind} at {place}, {length} long"


def few(draw: random.Random) -> range:
    """Return one change mostly, a few sometimes."""
    return range(draw.choice((1, 1, 1, 1, 1, 1, 2, 2, 3, 5)))


# ----------------------------------------------------------------------------------------------------------------------
# Weight files
# ----------------------------------------------------------------------------------------------------------------------

@functools.cache
def programs() -> Sequence[ane_bench.Program]:
    """Return small programs of every kind."""
    return [ane_bench.build_program(Config.parse(name), variant, blob=blob, dialect=dialect, seed=len(name))
            for name in ("2x2x1", "3x2x2", "5x2x1", "4x2x2k3") for variant in ane_bench.VARIANTS
            for blob in ane_bench.LAYOUTS for dialect in ane_bench.DIALECTS]


def draw_weight_file(draw: random.Random, changes: list[str]) -> bytes:
    """Return a damaged weight file; header and records, where everything is decided, are hit as often as all data."""
    data = bytearray(draw.choice(programs()).blob)
    for _ in few(draw):
        if draw.random() < 0.4:
            records = [(at, (0, 4, 8, 12, 16, 24, 32)) for at in (64, 128, 192, 256)]
            start, places = draw.choice([(0, (0, 4, 8, 16, 56)), *records])
            place, form = start + draw.choice(places), draw.choice("IQ")
            number = draw.choice((*NUMBERS, *range(0, 400, 64), len(data) - place))
            if place + struct.calcsize(form) <= len(data):
                struct.pack_into(f"<{form}", data, place, number % (1 << 32 if form == "I" else 1 << 64))
                changes.append(f"{number} at {place}")
        else:
            changes.append(damage_bytes(draw, data))
    return bytes(data)


def check_text(error: Exception) -> None:
    """Fail unless an error's text is one line that can be printed."""
    text = str(error)
    if not text or not text.isprintable():
        raise AssertionError(f"the text of an error is not one line: {text!r}") from error


def judge_weight_file(data: bytes) -> str:
    """Read all tensors, and those that a program might name."""
    for offset in (0, 64, 65, 128, 192, 1 << 63):
        for name, size in (("fp16", 8), ("int8", 9), ("int8", 1 << 62)):
            try:
                found = ane_bench.weight_data(memoryview(data), offset, name, size)
            except BlobError as error:
                check_text(error)
            else:
                assert len(found) == size and bytes(found) == data[offset + 64:offset + 64 + size], (offset, name, size)
    try:
        tensors = ane_bench.read_weight_file(data)
    except BlobError as error:
        check_text(error)
        return "refused"
    end = 64
    for tensor in tensors:
        assert tensor.offset == -(-end // 64) * 64 and not any(data[end:tensor.offset]), tensor
        assert len(tensor.data) % ane_bench.DATA_TYPES[tensor.data_type].size == 0, tensor
        end = tensor.offset + 64 + len(tensor.data)
        assert bytes(tensor.data) == data[tensor.offset + 64:end], tensor
    assert end == len(data) and len(tensors) == int.from_bytes(data[:4], "little")
    return "read"


# ----------------------------------------------------------------------------------------------------------------------
# MIL texts
# ----------------------------------------------------------------------------------------------------------------------

TOKENS = re.compile(r'"[^"\n]*"?|-?[0-9][\w.+-]*|\w+|->|[ ]+|.', re.DOTALL)
WORDS = ("program", "func", "main", "tensor", "list", "tuple", "dict", "string", "bool", "fp16", "fp32", "fp64",
         "bf16", "int4",
         "int8", "int32", "uint8", "uint64", "const", "conv", "quantize", "dequantize", "constexpr_affine_dequantize",
         "BLOBFILE", "x", "W0", "c0", "q0", "val", "name", "weight", "scale", "zero_point", "offset", "path", "true",
         "false",
         "strides", "q_scale", "q_dtype", "c_pad", "inf", "nan", "é", "_")
MARKS = ("(", ")", "[", "]", "{", "}", "<", ">", "=", ",", ";", "?", "->", ".", "-", "@", "\\", '"')
MIL_NUMBERS = (*map(str, NUMBERS), "-1", "-128", "-9223372036854775808", "18446744073709551616", "9" * 20, "9" * 21,
               "9" * 5000,
               "0x1p-3", "0x1p+99999", "-0x1p-99999", "0x1.8p+1023", "0x1p-1074", "0x" + "f" * 300 + "p-9", "0x1p-24",
               "0x1p+15",
               "-0x1p-5", "0x0p+0", "1.5", "-0.0", "inf", "-inf", "nan", "-nan", "1e5", "0x", "00", "1.3", "1.0", "5.")
# Values that are right, or nearly, in the place of others.
VALUES = ("fp16(0x1p-5)", "fp16(0x1p-30)", "fp16(inf)", "fp32(0x1p+127)", "fp64(0x1p-1074)", "fp16(nan)", "int8(-128)",
          "int32(7)",
          "uint64(64)", "bool(true)", 'string("int8")', "tensor(5)", "list(5)", "tensor<fp16, [2]>([0x1p+0, inf])",
          "tensor<fp16>(1)", "tensor<fp16, [1], [1]>([nan])", "tensor<uint64, [2]>([64, 64])",
          "tensor<uint64, []>(64)", "x", "c0",
          "W0", "list<int32, 2>([1, 1])", "(x, x)", 'tuple<int32, string>((1, "a"))', 'dict<string, int32>({{"a", 1}})',
          "dict<string>({})", "int64(-9223372036854775808)", "tensor(BLOBFILE(path = x))",
          "tensor<fp16, [2, 2, 1, 1]>([[[[0x1p+0]], [[0x1p+0]]], [[[0x1p+0]], [[0x1p+0]]]])", "tensor<fp16, [?]>([])",
          'tensor<int8, [2, 2, 1, 1]>(BLOBFILE(path = string("p"), offset = uint64(64)))',
          'fp16(BLOBFILE(path = string("p"), offset = tensor<uint64, [1]>([64])))',
          'uint64(BLOBFILE(path = string(BLOBFILE()), offset = 1))',
          'tensor<fp16, [18446744073709551615, 4294967296, 1, 1]>(BLOBFILE(path = string("p"), offset = uint64(0)))')
NESTS = ("(", "[", "{{", "<", "tensor<", "list<", "dict<string, ", "tuple<fp16, ", "BLOBFILE(path = string(",
         "string(", "x = (",
         "func a<b>(")
# Places and values that leave a text in the reader's form, though not always in its meaning.
READABLE = {"rename": re.compile(r"\b(c0|W1|q0|c_pad)\b"), "offset": re.compile(r"\b(64|128|192)\b"),
            "scale": re.compile(r"0x1p[+-][0-9]+"), "power": re.compile(r"p-5")}
READABLE_VALUES = {"rename": ("c0", "other"), "offset": ("64", "0", "192", "320", "65", str(1 << 63)),
                   "scale": ("0x1p-24", "0x1p+8", "0x1p+9", "0x1p+0"), "power": ("p-4",)}
# A name and what it is given; and what an opening mark is closed by.
ASSIGNED = re.compile(r"(\w+) = (\w+(?:<[^(=]*>)?\([^()=\n]*\)|\w+(?![\w(<]))")
CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def damage_mil(draw: random.Random, text: str, changes: list[str]) -> str:
    """Return a text with one change: to its characters, tokens, values, lines or depth."""
    kind = draw.choice(("bytes", "token", "like", "like", "number", "number", *["value"] * 6, "nested value", "slice",
                        "swap",
                        "lines", "nest", "rename", "offset", "scale", "power"))
    note = kind
    if kind in READABLE:
        text, note = READABLE[kind].sub(lambda match: draw.choice((match[0], *READABLE_VALUES[kind])), text), kind
    elif kind == "bytes":
        data = bytearray(text.encode(errors="surrogateescape"))
        note = damage_bytes(draw, data)
        text = data.decode(errors=draw.choice(("replace", "surrogateescape")))
    elif kind == "lines":
        lines = text.split("\n")
        one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        note = f"line {one}, {other}"
        what = draw.randrange(3)
        if what == 0:
            lines[one], lines[other] = lines[other], lines[one]
        elif what == 1:
            lines.insert(other, lines[one])
        else:
            del lines[one]
        text = "\n".join(lines)
    elif kind in ("value", "nested value"):
        found = list(ASSIGNED.finditer(text))
        if found:
            name = draw.choice(sorted({place[1] for place in found}))
            place = draw.choice([place for place in found if place[1] == name])
            new = draw.choice((*VALUES, *VALUES, draw.choice(found)[2]))
            if kind == "nested value":
                new = draw.choice(NESTS) * draw.choice((2, 20, 40, 400)) + place[2]
            note = f"{place.group()} becomes {new:.80}"
            text = text[:place.start(2)] + new + text[place.end(2):]
    else:
        text, note = damage_tokens(draw, text, kind)
    changes.append(note)
    return text


def damage_tokens(draw: random.Random, text: str, kind: str) -> tuple[str, str]:
    """Return a text with one change to its tokens, and which."""
    tokens = TOKENS.findall(text) or [" "]
    places = [index for index, token in enumerate(tokens) if not token.isspace()] or [0]
    place, other = draw.choice(places), draw.choice(places)
    old, length = tokens[place], draw.choice((1, 2, 3, 8, 30))
    if kind == "token":
        tokens[place] = draw.choice(draw.choice((WORDS, MARKS, MIL_NUMBERS, [tokens[other]], [""],
                                                 ['"é\\n"', '"\\q"', '"'])))
    elif kind == "like":
        like = [token for token in tokens
                if token[0].isalpha() == old[0].isalpha() and token.isdigit() == old.isdigit()]
        tokens[place] = draw.choice(like)
    elif kind == "number":
        numbers = [index for index in places if tokens[index][0] in "-0123456789"] or [place]
        place = draw.choice(numbers)
        old, tokens[place] = tokens[place], draw.choice(MIL_NUMBERS)
    elif kind == "slice":
        tokens[place:place + draw.choice((0, length))] = tokens[other:other + draw.choice((0, length))]
    elif kind == "swap":
        tokens[place], tokens[other] = tokens[other], tokens[place]
    else:
        opening = draw.choice(NESTS)
        tokens[place] = opening * draw.choice((2, 20, 40, 400))
        if draw.random() < 0.5:
            tokens[place] += old + "".join(CLOSING.get(mark, "") for mark in reversed(opening)) * 30
    new = tokens[place][:40] if place < len(tokens) else ""
    return "".join(tokens), f"{kind}: token {place}, {old[:40]!r}, becomes {new!r}"


class Text(NamedTuple):
    """A program's text and weight file."""

    mil: str
    blob: bytes


def draw_mil(draw: random.Random, changes: list[str]) -> Text:
    """Return a damaged text, now and then with a damaged weight file."""
    program = draw.choice(programs())
    text, blob = program.mil, bytes(program.blob)
    for _ in few(draw):
        text = damage_mil(draw, text, changes)
    if draw.random() < 0.1:
        changes.append("and the weight file")
        blob = draw_weight_file(draw, changes)
    return Text(text, blob)


def check_line(error: MilError, text: str) -> None:
    """Fail unless a MilError names a line that the text has."""
    check_text(error)
    assert 1 <= error.line <= text.count("\n") + 1 and str(error).startswith(f"line {error.line}: "), error


def judge_mil(subject: Text) -> str:
    """Read a text, compare what was read with the general grammar, and compute two pixels in two arithmetics."""
    try:
        program = ane_bench.parse_mil(subject.mil)
    except MilError as error:
        check_line(error, subject.mil)
        return "refused"
    check_by_oracle(unittest.TestCase(), subject.mil)
    if program.config.pixels > 64:
        return "parsed"
    data = struct.pack("<8h", *range(0x3c00, 0x3c08)) * (program.config.tensor_bytes // 2)
    try:
        reference = ane_bench.Reference(subject.mil, subject.blob)
        outputs = reference.compute(data[:program.config.tensor_bytes], [0, program.config.pixels - 1],
                                    [Arithmetic("even"), Arithmetic("away", "fp32")])
    except MilError as error:
        check_line(error, subject.mil)
        return "parsed"
    except BlobError as error:
        check_text(error)
        return "parsed"
    assert len(outputs) == (2 if program.config.kernel == 1 else 1)
    for vectors in outputs:
        assert [len(vector) for vector in vectors] == [program.config.channels] * 2
    return "computed"


# ----------------------------------------------------------------------------------------------------------------------
# JSON: records and messages
# ----------------------------------------------------------------------------------------------------------------------

# What json.dumps does not write, by the string that stands for it until then.
RAW = {"@huge": "1e999", "@minus": "-1e999", "@long": "9" * 30, "@longer": "9" * 6000, "@deep": "[" * 700 + "]" * 700,
       "@nested": '{"a":' * 200 + "1" + "}" * 200, "@deepest": "[" * 100_000, "@half": '"\\ud800"', "@zero": "\\u0000",
       "@float": "0." + "0" * 400 + "1"}
FIGURES = (0, -1, 1, 0.0, -0.0, 0.5, -2.5, 5e-324, 1e-300, 1e-30, 1e-19, 1e17, 1e30, 1e200, 1e299, 1.7e308,
           math.nan, math.inf, -math.inf, *NUMBERS, 10 ** 19, 10 ** 20 - 1)
# What an object may be given a key of, and below which all numbers may be changed.
NAMES = ("fp16", "w8a16", "w8a8", "int4", "status", "stage", "error", "ms", "median", "ci95", "tops", "samples_ns",
         "verified", "ok", "kind", "config", "channels", "variant", "value", "ratio", "limit", "chip", "memory_bytes",
         "blob", "protocol", "original", "seed", "asked", "complete", "condensed", "turns", "kernel",
         "tick_ns", "notes")
REFIGURED = ("gop", "variants", "ms", "tops", "samples_ns", "mean", "median", "ci95", "ratio", "value", "weights_mib",
             "verified", "cell", "first_ms", "limit", "load_average", "seed", "protocol", "config", "depth")


def nasty(draw: random.Random, old: Any) -> Any:
    """Return a value that does not belong in the place of another: of its kind as often as not."""
    if draw.random() < 0.5 and isinstance(old, (int, float, str)):
        return draw.choice((True, False) if isinstance(old, bool) else STRINGS if isinstance(old, str) else FIGURES)
    figure, string = draw.choice(FIGURES), draw.choice(STRINGS)
    return draw.choice((figure, figure, string, string, draw.choice((True, False, None)), [], {},
                        draw.choice(tuple(RAW)), [figure], [[figure, figure], [figure, figure]],
                        {draw.choice(NAMES): figure}, {draw.choice(STRINGS): string}, [string], [None, {}]))


def random_place(draw: random.Random, value: Any) -> tuple[Any, Any]:
    """Return a container within a JSON value, and a key of it, drawn on the way down; every other lies in results."""
    while True:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value, dict) and "results" in value and draw.random() < 0.5:
            key = "results"
        if not isinstance(value[key], (dict, list)) or not value[key] or draw.random() < 0.15:
            return value, key
        value = value[key]


def refigure(value: Any, name: str, change: Callable[[float], float]) -> Any:
    """Return a JSON value in which all numbers below a name are changed."""
    if isinstance(value, dict):
        return {key: refigure(item, "" if key == name else name, change) for key, item in value.items()}
    if isinstance(value, list):
        return [refigure(item, name, change) for item in value]
    return change(value) if not name and type(value) in (int, float) else value


def damage_json(draw: random.Random, value: dict[str, Any]) -> str:
    """Make one change to a parsed value, in place, and return which."""
    if not value:
        return "nothing is left"
    if draw.random() < 0.15:
        name, figure, times = draw.choice(REFIGURED), draw.choice(FIGURES), draw.random() < 0.5
        value.update(refigure(value, name, lambda number: number * figure if times else figure))
        return f"all {name} {'times' if times else 'are'} {figure}"
    container, key = random_place(draw, value)
    kinds = ("new", "new", "new", "new", "none", "other", "turned", "repeated", "repeated")
    old, kind = container[key], draw.choice(kinds)
    if kind == "none":
        del container[key]
    elif kind == "other":
        other, place = random_place(draw, value)
        container[key] = copy.deepcopy(other[place])
    elif kind == "repeated" and isinstance(container, list):
        container[key:key] = copy.deepcopy(container[key:]) * draw.choice((1, 1, 7))
    elif kind == "repeated":
        container[draw.choice((*NAMES, *STRINGS))] = container.pop(key)
    elif kind == "turned" and isinstance(old, (int, float)):
        container[key] = draw.choice((-old, old * 10 ** draw.randrange(20), old / 1e9, str(old)))
    elif kind == "turned":
        container[key] = [old]
    else:
        container[key] = nasty(draw, old)
    now = container.get(key, "gone") if isinstance(container, dict) else container
    return f"{kind} at {str(key)!r:.40}, now {now!r:.60}"


def draw_json(draw: random.Random, text: str, changes: list[str]) -> bytes:
    """Return a damaged JSON text: its values, its bytes, or both."""
    where = draw.random()
    if where < 0.85:
        value = json.loads(text)
        changes += [damage_json(draw, value) for _ in few(draw)]
        text = json.dumps(value)
        for name, raw in RAW.items():
            text = text.replace(f'"{name}"', raw)
    data = bytearray(text.encode())
    if where > 0.8:
        changes += [damage_bytes(draw, data) for _ in few(draw)]
    return bytes(data)


# ----------------------------------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------------------------------

PIECES = Settings(iters=2, rounds=2)
VERIFIED = {"pixels": 1, "cosine": 0.9999, "relative_l2": 0.01, "slope": 1.0, "max_error": 0.01, "ok": True,
            "equal": 0.9, "arithmetic": "halves away, fp16 stores", "from_fp16": {"cosine": 0.999, "relative_l2": 0.02}}
SYSTEM = {"python": "3.9.18", "cpus": 8, "load_average": 0.5, "chip": "Apple M4", "model": "Mac16,1", "macos": "15.5",
          "build": "24F74", "memory_bytes": 17179869184, "ane_subtype": "h16g", "ane_count": 1,
          "power_source": "AC Power", "thermal_state": "nominal", "low_power_mode": False}


@functools.cache
def record_texts() -> Sequence[str]:
    """Return records of every kind, as text."""
    made = [runs.made_run(variants=runs.ALL, wrong=[(0, "w8a16")], system={**SYSTEM, "thermal_state_after": "serious"}),
            runs.made_run(runs.sweep((64,), (8,), (1, 2, 4)), settings=PIECES, engine="reference", measured=2),
            runs.made_run(runs.sweep((64,), (8, 16, 32)), settings=PIECES, failed=[(1, "fp16")]),
            runs.made_run(runs.sweep((32, 64), (8,), (1, 2)), runs.ALL, engine="stand-in"),
            runs.made_run(runs.KERNEL3), runs.made_run(runs.ORIGINAL, settings=runs.AS_ORIGINAL),
            *(runs.random_run(random.Random(number)) for number in range(8))]
    for cell in made[0].cells[:1]:
        cell.note(verified=VERIFIED, first_ms=300.0, refused=["standard/1.3: no"], measured_again=True)
    records = [run.to_dict() for run in made]
    return list(map(json.dumps, [*records, *map(runs.as_before, records[:4])]))


def draw_record(draw: random.Random, changes: list[str]) -> bytes:
    """Return a damaged record."""
    return draw_json(draw, draw.choice(record_texts()), changes)


def read_back(text: bytes) -> Run:
    """Return the run of the record that a file with this content holds."""
    path = temporary().with_suffix(".json")
    path.write_bytes(text)
    return ane_bench.read_record(path)


@functools.cache
def first_run() -> Run:
    """Return a run to compare with."""
    return read_back(record_texts()[0].encode())


def judge_record(text: bytes) -> str:
    """Read a record and make everything of it that can be made."""
    try:
        run = read_back(text)
    except UsageError as error:
        check_text(error)
        return "refused"
    make_reports(run)
    return "read"


def make_reports(run: Run) -> None:
    """Make every report of a run, and look at each in its own way."""
    saved = ane_bench.record_text(run)
    assert strict_json(saved) == json.loads(json.dumps(run.to_dict()))
    lines = list(csv.reader(io.StringIO(ane_bench.show([run], "csv"))))
    assert {len(line) for line in lines} == {len(lines[0])} and len(lines) == 1 + len(run.cells), lines
    texts = [run.table(), ane_bench.show([run], "markdown"), *ane_bench.grouped_warnings(run)]
    for others in ([first_run(), run], [run, first_run(), run]):
        texts += [ane_bench.comparison(others, form) for form in ("table", "markdown")]
        texts += [ane_bench.show(others, form) for form in ("table", "markdown")]
        strict_json(ane_bench.comparison(others, "json"))
    sent = temporary().with_suffix(".txt")
    sent.write_text(texts[1], encoding="utf-8")
    back, = ane_bench.read_records(str(sent), lambda complaint: None)
    assert back.condensed or back.to_dict() == run.to_dict()
    with contextlib.suppress(UsageError):
        assert ane_bench.gate([run, run], 1.0, 1.0)[0] == [], "a record against itself does not pass"
    drawing = ane_bench.chart(run)
    xml.etree.ElementTree.fromstring(drawing.encode())
    assert not re.search(r'"[^"<>]*\b(nan|inf)\b[^"<>]*"', drawing), drawing
    for text in [*texts, drawing]:
        controls = re.search(r"[^\n\x20-\x7e\xa0-\U0010ffff]|[\ud800-\udfff]", text)
        assert not controls, f"{controls!r} would be printed: {text[:300]!r}"


def strict_json(text: str) -> Any:
    """Return a JSON value; what Python adds to JSON is an error."""
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ----------------------------------------------------------------------------------------------------------------------
# Messages
# ----------------------------------------------------------------------------------------------------------------------

class Job(NamedTuple):
    """What a run was asked for when a worker said something."""

    config: Config
    variants: Sequence[str]
    settings: Settings

    def run(self, output: bytes, errors: bytes = b"", code: int = 0) -> Run:
        """Return the run in which the first worker writes this and exits.

        Its directory of temporary files is one of these tests, since a message names a directory to remove.
        """
        given = {name: value for name, value in self.settings._asdict().items() if not self.settings.original}
        given.update(original=True) if self.settings.original else None
        progress = ane_bench.Progress(ane_bench.Run("reference", self.settings, [self.config], self.variants),
                                      io.StringIO(), itertools.count().__next__)
        with support.said_by_workers(output, errors, code), \
                support.environment(TMPDIR=str(temporary()), ANE_BENCH_STANDIN=str(temporary())):
            return ane_bench.run([self.config], self.variants, engine="ane", on_event=progress, **given)


@functools.cache
def temporary() -> Path:
    """Return a directory for temporary files."""
    return Path(tempfile.mkdtemp(prefix="fuzz_", dir=support.WORKSHOP))


JOBS = [Job(Config(64, 8, 2), ("fp16", "w8a8"), Settings(iters=4, rounds=2)),
        Job(Config(512, 64, 128), ("fp16", "w8a8"), Settings(iters=5, rounds=5, verify=0)),
        Job(Config(64, 8, 2), ("w8a8", "fp16"), ane_bench.ORIGINAL_SETTINGS)]


class Line(NamedTuple):
    """What a worker says while it does a job."""

    job: Job
    line: bytes


def messages(job: Job) -> Mapping[str, Sequence[dict[str, Any]]]:
    """Return what a worker may say, by kind."""
    rounds, each = job.settings.rounds, job.settings.iters // job.settings.rounds

    def cell(variant: str, **facts: Any) -> dict[str, Any]:
        samples = [[12e6 * (1 + 0.01 * ((3 * number + 2 * one) % 5)) for one in range(each)]
                   for number in range(rounds)]
        found = {"status": "ok", "compile_ms": 12.5, "load_ms": 1.5, "first_ms": 3.0, "compiled_before": False,
                 "blob": "standard", "dialect": "1.3", "samples_ns": samples, "turns": [0, 1] * (rounds // 2),
                 "verified": VERIFIED, **facts}
        return {"variant": variant, "cell": found}

    return {
        "machine": [{"system": SYSTEM, "tick_ns": 41.7}], "directory": [{"path": str(temporary() / "0123abc")}],
        "stage": [{"stage": "evaluate", "variant": "fp16,w8a8", "limit": 2.5, "number": 1, "of": 2},
                  {"stage": "compile", "variant": "w8a8", "limit": 0}],
        "warning": [{"code": "unload", "message": "unload returned NO"}],
        "cell": [cell("fp16"), cell("w8a8"), cell("w8a8", refused=["standard/1.3: no"], blob="original"),
                 {**cell("fp16"), "thermal_state": "serious"},
                 {"variant": "w8a8", "cell": {"status": "failed", "stage": "load", "error": "no"}}],
        "check": [{"name": "memory", "state": "ok", "value": "8 GiB", "advice": ""}],
        "unavailable": [{"reason": "there is no Neural Engine"}],
    }


KINDS = (*["machine"] * 2, *["stage"] * 2, "directory", "warning", *["cell"] * 4, "check", "unavailable")


@functools.cache
def message_texts(kind: str) -> Sequence[tuple[Job, str]]:
    """Return messages of a kind as text, each with the job that it may come from."""
    return [(job, json.dumps({"kind": kind, "wait": True, **message}))
            for job in JOBS for message in messages(job)[kind]]


def draw_message(draw: random.Random, changes: list[str]) -> Line:
    """Return a damaged message. Its end is that of the line, whatever stands in it."""
    job, text = draw.choice(message_texts(draw.choice(KINDS)))
    return Line(job, draw_json(draw, text, changes).replace(b"\n", b"") + b"\n")


def judge_message(subject: Line) -> str:
    """Run with the message; make everything of the run that can be made, whatever the message was."""
    try:
        run = subject.job.run(subject.line)
    except Unavailable as error:
        assert str(error).isprintable(), error
        return "unavailable"
    text = ane_bench.record_text(run)
    assert ane_bench.record_text(read_back(text.encode())) == text
    make_reports(run)
    assert [cell.variant for cell in run.cells] == list(subject.job.variants)
    assert all(cell.ok or cell.stage and cell.error for cell in run.cells), run.cells
    return "refused" if "message" in {cell.stage for cell in run.cells} else "taken"


# ----------------------------------------------------------------------------------------------------------------------

SUBJECTS = {
    "weights": Subject(draw_weight_file, judge_weight_file, ("refused", "read")),
    "mil": Subject(draw_mil, judge_mil, ("refused", "parsed", "computed")),
    "records": Subject(draw_record, judge_record, ("refused", "read")),
    "messages": Subject(draw_message, judge_message, ("refused", "taken", "unavailable")),
}


class FuzzTest(unittest.TestCase):
    """No damage leads to an exception that is not the project's own, or to a wrong answer."""

    def fuzz(self, kind: str) -> None:
        """Try all inputs of a kind; report one that went wrong for each place in which some did."""
        subject = SUBJECTS[kind]
        verdicts: collections.Counter[str] = collections.Counter()
        wrong: dict[str, str] = {}
        with limited_memory(MEMORY):
            for number in range(COUNT):
                changes: list[str] = []
                damaged = subject.draw(generator(kind, number), changes)
                try:
                    with limited_time(SECONDS):
                        verdicts[subject.verdict(damaged)] += 1
                except (Exception, TooLong) as error:
                    verdicts["wrong"] += 1
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    where = f"{type(error).__name__} in {place.name}, line {place.lineno}"
                    wrong.setdefault(where, described(kind, number, error, changes, damaged))
        told = ", ".join(f"{name} {verdicts[name]}" for name in sorted(verdicts))
        print(f"\n{COUNT} damaged {kind} of seed {SEED}: {told}", end="")
        if wrong:
            count = f"{verdicts['wrong']} inputs went wrong in {len(wrong)} places"
            self.fail("\n\n".join([count, *list(wrong.values())[:MOST_SHOWN]]))
        for name in subject.verdicts:
            self.assertGreaterEqual(verdicts[name], FEWEST, name)

    def test_weight_files(self) -> None:
        self.fuzz("weights")

    def test_mil_texts(self) -> None:
        self.fuzz("mil")

    def test_records(self) -> None:
        self.fuzz("records")

    def test_messages(self) -> None:
        self.fuzz("messages")


class LastWordsTest(unittest.TestCase):
    """The last words of a worker that dies are one line of printable text."""

    def test_signals_and_control_characters(self) -> None:
        for errors, code, words in ((b"", -11, "was killed by SIGSEGV: it wrote nothing to standard error"),
                                    (b"\x1b[2Jno\x07 \xff\n", 3, "exited with code 3: ?[2Jno? \ufffd"),
                                    (b"Aborted", -200, "was killed by signal 200: Aborted")):
            self.assertEqual([cell.error for cell in JOBS[0].run(b"", errors, code).cells], [f"the worker {words}"] * 2)


def described(kind: str, number: int, error: BaseException, changes: Sequence[str], damaged: Any) -> str:
    """Return what is needed to make and to understand an input that went wrong."""
    where = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)[-3:]))
    return (f"ANE_BENCH_FUZZ_SEED={SEED} python3 -m tests.test_fuzz {kind} {number}\n"
            f"changes: {'; '.join(changes)}\n{where}{type(error).__name__}: {str(error)[:300]}\n"
            f"input: {repr(damaged)[:300]}")


def main(kind: str, number: str) -> None:
    """Make one input again."""
    changes: list[str] = []
    damaged = SUBJECTS[kind].draw(generator(kind, int(number)), changes)
    print(f"changes: {'; '.join(changes)}\ninput: {damaged!r}")
    print(SUBJECTS[kind].verdict(damaged))


if __name__ == "__main__":
    main(*sys.argv[1:])
