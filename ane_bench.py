#!/usr/bin/env python3
"""How fast is Apple's Neural Engine, and does INT8 help?

Copy this one file to a Mac with Apple silicon and run it. It needs Python 3.9
or later and nothing else. It times chains of convolutions on the Neural Engine
in FP16 and in W8A8 (INT8 weights, INT8 activations between layers), checks the
outputs, and prints the comparison:

 Config                     W(MB)    GOP ms/eval  ±95%    TOPS Ratio  ±95% Check
 FP16 128x conv 512ch 64x64  64.0 274.88  14.782 ±0.3%   18.60                ok
 W8A8 128x conv 512ch 64x64  32.0 274.88   7.789 ±0.1%   35.29 1.90x ±0.2%    ok

W(MB) is the size of the weights in MiB, GOP the nominal work of one evaluate
(2 per multiply-add), ms/eval its median time, TOPS the rate. Ratio is how many
times faster than the first variant, each ±95% half the 95 % interval of the
figure before it, Check the result of comparing the output with the program.
* marks a row that a warning below the table names. A ratio near 1 is a result:
what INT8 gains depends on the chip and on the shape.

Commands

    python3 ane_bench.py [run] [options]      the comparison; `run` is implied
    python3 ane_bench.py doctor [options]     what this Mac has, check by check
    python3 ane_bench.py emit DIR [options]   the files of each program
    python3 ane_bench.py show RECORD.json...  saved records again, in one table
    python3 ane_bench.py compare BASE.json NEW.json [MORE.json...] [options]
    python3 ane_bench.py chart RUN.json [-o FILE.svg]

Options of run and emit

    --config CHxSPxDEPTH     channels, pixels along each side, layers; with k3
                             behind it 3x3 convolutions; may be repeated
                             (default the original's five: 512x64x128,
                             512x64x64, 256x64x256, 256x64x128, 384x64x128)
    --channels LIST          a sweep instead: all combinations of these lists,
    --spatial LIST           such as --channels 256,512 --depth 64,128; a list
    --depth LIST             that is not given has the value of the first
    --kernel LIST            default configuration of its kernel (1 or 3);
                             --kernel 3 alone: 256x64x32k3, 512x32x16k3
    --variants LIST          of fp16, w8a16 (INT8 weights only), w8a8; the first
                             is the baseline of Ratio (default fp16,w8a8)
    --seed N                 of weights and input (default 0)
    --blob auto|standard|original         layout of the weight file (default
                             auto: the first that the system accepts)
    --dialect auto|1.3|1.0|1.3-long       of the MIL text (default auto)
    --original               measure as the original benchmark does: its
                             programs and layout, zero input, QoS 0, 10 + 50
                             evaluates one variant after the other, the mean,
                             its table; nothing is verified

Options of run

    --iters N                timed evaluates of each variant, a multiple of
                             --rounds (default 50)
    --rounds N               rounds in which the variants take turns; fewer than
                             5 give no intervals (default 10)
    --warmup N               uncounted evaluates before them (default: until
                             times are steady)
    --qos N                  quality of service of evaluates, such as 0, 9, 17,
                             21, 25 or 33 (default 21)
    --input random|zeros     zeros run faster, and cannot be checked (default
                             random)
    --verify N               pixels of each output that are checked (default 1;
                             0 is off)
    --timeout SECONDS        without progress, after which a worker is killed
                             (default 120)
    --engine ane|reference   reference computes in plain Python on any machine
                             (default ane)
    --format table|markdown|csv|json      to standard output (default table)
    --save FILE.json         the record of the run, written anew after each
                             configuration, over an earlier record only
    --quiet                  no progress and no warnings on standard error,
                             except a line if it must wait for another run

Options of doctor

    --timeout SECONDS        without progress, after which a check fails
                             (default 30)
    --format table|markdown|json          default table

Options of show

    --format table|markdown|csv|json      default table

Options of compare

    --fail-if-slower PERCENT       exit with 1 if a cell surely takes that much
                                   longer, or is right in BASE alone
    --fail-if-ratio-drops PERCENT  the same for ratios, which depend less on the
                                   machine's state
    --format table|markdown|json   default table

Options of chart

    -o FILE.svg              default: beside the record

show, compare and chart also read texts in which markdown reports stand, such as
a saved issue thread. Every command has -h, and --version prints the version.

Exit codes: 0 every cell measured and verified; 1 some cell failed and the rest
is reported, or the output could not be written (of compare: NEW is slower or
failed, and nothing else); 2 usage, or a file that cannot be read or written;
3 no usable Neural Engine (of doctor: some check failed); 129 hung up;
130 interrupted; 143 terminated.

As a library

    import ane_bench
    run = ane_bench.run(["512x64x128"], ["fp16", "w8a8"], iters=50)
    print(run.table(), run.cell("512x64x128", "w8a8").ratio["value"])
    run.save("m4.json")
    base = ane_bench.read_record("base.json")
    print([change.verdict for change in ane_bench.compare(base, run)])
    program = ane_bench.build_program(ane_bench.Config(64, 64, 2), "w8a8")
    ane_bench.parse_mil(program.mil)            # the text, read strictly
    ane_bench.read_weight_file(program.blob)    # the weight file's tensors

The environment variable ANE_BENCH_STANDIN names a library that takes the place
of all of Apple's; the tests use it.

The file reads from top to bottom, which is also the way of the data:
1 constants and errors, 2 configurations, 3 weights and weight file, 4 MIL text
and programs, 5 reference, 6 Objective-C runtime, 7 Neural Engine,
8 measurement, 9 verification, 10 machine, warnings and checks, 11 record,
12 worker, 13 doctor, 14 reports, 15 chart, 16 command line. Each uses only
those above it.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends the process without a traceback

import argparse
import array
import base64
import cmath
import codecs
import contextlib
import csv
import datetime
import errno
import functools
import gc
import html
import io
import itertools
import json
import marshal
import math
import os
import random
import re
import select
import selectors
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import typing
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import add, eq, mul, sub
from string import Formatter
from typing import Any, Callable, NamedTuple, NoReturn, Optional, TextIO, Union

__version__ = "0.1.0"
__all__ = [
    "AneBenchError", "BlobError", "Cell", "Config", "Difference", "Layer", "MilError", "MilProgram", "OutputError",
    "Program", "Run", "Settings", "StageError", "Tensor", "Unavailable", "UsageError", "VARIANTS", "Variant",
    "build_program", "compare", "main", "parse_mil", "read_record", "read_weight_file", "run"]


# ======================================================================================================================
# 1. Constants and errors
#
# Used below: PROGRAM_NAME, STANDIN_VARIABLE, MIL_FILE, WEIGHT_FILE, WEIGHT_PATH, LARGEST_DIMENSION, LARGEST_BYTES,
# UsageError, MilError, BlobError, Unavailable, OutputError, StageError, Terminated, printable, few_of.
# ======================================================================================================================

PROGRAM_NAME = "ane_bench"
STANDIN_VARIABLE = "ANE_BENCH_STANDIN"

# Where a program's text names its weights, and where both files lie in a model's directory. The path prefix is
# Apple's own, seen in every compiled program that has weights.
MIL_FILE = "model.mil"
WEIGHT_FILE = os.path.join("weights", "weight.bin")
WEIGHT_PATH = "@model_path/weights/weight.bin"
LARGEST_DIMENSION = 16384
LARGEST_BYTES = 1 << 32


class AneBenchError(Exception):
    """The base of this module's errors; the text is one line for the user."""


class UsageError(AneBenchError, ValueError):
    """An invalid request: a bad value, an unknown name, conflicting options (exit 2)."""


class MilError(AneBenchError):
    """A MIL text that is damaged, or that the reference cannot compute. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


class BlobError(AneBenchError):
    """A weight file that is damaged."""


class Unavailable(AneBenchError):
    """No usable Neural Engine (exit 3). The text says what is missing."""


class OutputError(AneBenchError):
    """The results cannot be written (exit 1)."""


class StageError(AneBenchError):
    """A failed stage of a program, and so a failed cell; `stage` is its name in the record."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class Terminated(BaseException):
    """A signal asks the process to end; `signal` is its number (exit 128 + signal)."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def printable(text: str) -> str:
    """Return text as one line for any terminal and file: control characters and lone surrogates become `?`."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def few_of(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ======================================================================================================================
# 2. Configurations
#
# Used below: KERNELS, Config, DATA_TYPES, Variant, VARIANTS, DEFAULT_VARIANTS, DEFAULT_CONFIGS, DEFAULTS.
# ======================================================================================================================

KERNELS = (1, 3)


class _Shape(NamedTuple):
    channels: int
    spatial: int
    depth: int
    kernel: int = 1


class Config(_Shape):
    """A chain of `depth` convolutions, each `channels` to `channels`, over `spatial` x `spatial` pixels. The `kernel`
    is 1x1, or 3x3 with one pixel of zeros around the image. Raises UsageError if a number is not an int from 1 to
    16384, or if the fp16 weights or one activation would take more than 4 GiB."""

    __slots__ = ()

    def __new__(cls, channels: int, spatial: int, depth: int, kernel: int = 1) -> "Config":
        config = super().__new__(cls, channels, spatial, depth, kernel)
        for name, value in zip(cls._fields, config):
            if type(value) is not int or not 1 <= value <= LARGEST_DIMENSION:
                raise UsageError(f"{name} {value!r}: expected a whole number from 1 to {LARGEST_DIMENSION}")
        if kernel not in KERNELS:
            raise UsageError(f"kernel {kernel}: expected 1 or 3")
        if max(2 * config.weights, config.tensor_bytes) > LARGEST_BYTES:
            raise UsageError(f"{config.name}: weights or activations exceed {LARGEST_BYTES >> 30} GiB")
        return config

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> "Config":  # type: ignore[override]
        """Return a configuration of these numbers; `_replace` calls this, so it is checked too."""
        return cls(*iterable)

    @classmethod
    def parse(cls, text: str) -> "Config":
        """Return the configuration named by a text such as `512x64x128` or `256x64x32k3`, or raise UsageError."""
        number = "([0-9]{1,9})"
        found = re.fullmatch(f"{number}x{number}x{number}(?:k{number})?", text) if isinstance(text, str) else None
        if found is None:
            raise UsageError(f"{text!r}: expected CHANNELSxSPATIALxDEPTH, such as 512x64x128, or 256x64x32k3")
        return cls(*map(int, filter(None, found.groups())))

    @property
    def name(self) -> str:
        """Return the text that `parse` reads, such as `512x64x128` or `256x64x32k3`."""
        name = f"{self.channels}x{self.spatial}x{self.depth}"
        return name if self.kernel == 1 else f"{name}k{self.kernel}"

    def label(self, dimensions: Sequence[str] = _Shape._fields) -> str:
        """Return the original's name, such as `128x conv 512ch 64x64` or `32x conv3x3 256ch 64x64`, or its parts for
        some dimensions only."""
        operation = "conv3x3" if self.kernel == 3 and "kernel" in dimensions else "conv"
        parts = {"depth": f"{self.depth}x {operation}", "kernel": operation, "channels": f"{self.channels}ch",
                 "spatial": f"{self.spatial}x{self.spatial}"}
        if "depth" in dimensions:
            del parts["kernel"]
        return " ".join(part for dimension, part in parts.items() if dimension in dimensions)

    @property
    def pixels(self) -> int:
        """Return the number of pixels of one channel."""
        return self.spatial * self.spatial

    @property
    def weights(self) -> int:
        """Return the number of weights of all layers together."""
        return self.channels * self.channels * self.kernel * self.kernel * self.depth

    @property
    def tensor_bytes(self) -> int:
        """Return the bytes of the fp16 input, which are those of the output too."""
        return 2 * self.channels * self.pixels

    @property
    def gop(self) -> float:
        """Return the operations of one evaluate in units of 10**9; a multiply-add counts as two. For 3x3 they are
        nominal: an engine that computes by Winograd's method needs fewer."""
        return 2 * self.weights * self.pixels / 1e9


class DataType(NamedTuple):
    """A tensor's element: its code in a weight file's record, its bytes, and its letter in `struct`."""

    code: int
    size: int
    letter: str


# Codes: BlobDataType in apple/coremltools, mlmodel/src/MILBlob/Blob/BlobDataType.hpp.
DATA_TYPES = {
    "fp16": DataType(1, 2, "e"),
    "fp32": DataType(2, 4, "f"),
    "uint8": DataType(3, 1, "B"),
    "int8": DataType(4, 1, "b"),
}


class Variant(NamedTuple):
    """The data types of a program's weights and of the activations between its layers, each `fp16` or `int8`; `opset`
    is the first that has the program's operations."""

    name: str
    weights: str
    activations: str
    opset: str

    @property
    def label(self) -> str:
        """Return the name in tables, such as `W8A8`."""
        return self.name.upper()

    def weights_mib(self, config: Config) -> float:
        """Return the MiB of weights, without header and records, as the original counts them."""
        return config.weights * DATA_TYPES[self.weights].size / (1 << 20)


# constexpr_affine_dequantize came with ios16, quantize and dequantize with ios17 (coremltools' op definitions).
VARIANTS = {
    "fp16": Variant("fp16", "fp16", "fp16", "ios16"),
    "w8a16": Variant("w8a16", "int8", "fp16", "ios16"),
    "w8a8": Variant("w8a8", "int8", "int8", "ios17"),
}
DEFAULT_VARIANTS = ("fp16", "w8a8")
DEFAULT_CONFIGS = tuple(map(Config.parse, ("512x64x128", "512x64x64", "256x64x256", "256x64x128", "384x64x128")))
DEFAULTS = {  # by engine and kernel; those of the original for the engine with 1x1 convolutions
    ("ane", 1): DEFAULT_CONFIGS,
    ("ane", 3): tuple(map(Config.parse, ("256x64x32k3", "512x32x16k3"))),
    ("reference", 1): tuple(map(Config.parse, ("32x8x4", "64x8x4"))),
    ("reference", 3): tuple(map(Config.parse, ("8x8x2k3", "16x8x2k3")))}


# ======================================================================================================================
# 3. Weights and weight file
#
# Used below: Vector, DATA_REVISION, ORIGINAL_EXPONENT, ACTIVATION_EXPONENT, INPUT_EXPONENT, PATTERN_MIDDLE,
# chain_weights, original_weights, random_input, pixel_of, HEADER, LAYOUTS, tensor_stride, write_weight_file,
# weight_data.
# ======================================================================================================================

Vector = Sequence[float]

# The revision of weights and input: 1 had zeros among the weights, and an input of finer steps.
DATA_REVISION = 2

# The original's scale of 2**-3, for weights and activations in int8.
ORIGINAL_EXPONENT = 3

# Activations in int8 step by 2**-5 and so reach +-4. Layers keep the input's size, so few activations are clipped.
ACTIVATION_EXPONENT = 5

# The input's step. A multiple of 2**-7 times a weight of at least 2**-9 is a multiple of 2**-16, to which an M4 rounds
# each product (751K/Apple-Neural-Engine-Microarchitecture-Study-M6): its rounding changes nothing.
INPUT_EXPONENT = 7
LARGEST_INPUT = 499  # steps; 3.9 is less than the 4 at which int8 activations are clipped

# The middle of a 3x3 pattern, and the largest channel weight that it leaves room for in int8: 16 * 7 = 112.
PATTERN_MIDDLE = 16
LARGEST_FACTOR = 7
PATTERN_POWER = PATTERN_MIDDLE ** 2 + 8  # a pattern's sum of squares
FACTOR_TOLERANCE = 0.001
MOST_DRAWS = 100


class Weights(NamedTuple):
    """The weights of a chain. Row `o` of a layer begins in the pool at `starts[layer][o]` and has a value for each
    input channel. A kernel is that value times the layer's pattern ([row][column], flat), times 2**-exponent."""

    pool: Sequence[float]
    exponent: int
    starts: Sequence[Sequence[int]]
    patterns: Sequence[tuple[int, ...]]

    def layers(self, channels: int, data_type: str) -> Iterator[bytes]:
        """Yield the bytes of each layer, [output][input][row][column], as `fp16` or `int8` (then without the scale)."""
        size = DATA_TYPES[data_type].size * len(self.patterns[0])
        pools = {pattern: self._encode(pattern, data_type) for pattern in set(self.patterns)}
        for starts, pattern in zip(self.starts, self.patterns):
            pool = pools[pattern]
            yield b"".join([pool[start * size:(start + channels) * size] for start in starts])

    def _encode(self, pattern: Sequence[int], data_type: str) -> bytes:
        scale = 1 if data_type == "int8" else 2.0 ** -self.exponent
        values = [value * scale * factor for value in self.pool for factor in pattern]
        return struct.pack(f"<{len(values)}{DATA_TYPES[data_type].letter}", *values)


@functools.lru_cache(maxsize=1)  # the variants of a configuration share them
def chain_weights(config: Config, seed: int) -> Weights:
    """Return layers that are orthogonal up to rounding, so that activations neither grow nor die at any depth.

    The rotations of one row of integers with a flat spectrum are orthonormal. Each layer holds all of them, in its own
    order and with its own signs. No weight is zero, since engines skip zeros. The integers are exact in fp16 and int8,
    so all variants have the same weights. With a kernel of 3, these are the channels' part of the weights.
    """
    draw = random.Random(seed).random
    row, exponent = integer_row(config.channels, draw) if config.kernel == 1 else factor_row(config.channels, draw)
    starts = []
    for _ in range(config.depth):
        keys = [draw() for _ in range(config.channels)]
        signs = [draw() for _ in range(config.channels)]
        order = sorted(range(config.channels), key=keys.__getitem__)
        starts.append([turn if sign < 0.5 else turn + 2 * config.channels for turn, sign in zip(order, signs)])
    patterns: list[tuple[int, ...]] = [(1,)] * config.depth if config.kernel == 1 else draw_patterns(config.depth, draw)
    return Weights(2 * row + [-value for value in 2 * row], exponent, starts, patterns)


def integer_row(length: int, draw: Callable[[], float]) -> tuple[list[int], int]:
    """Return a flat-spectrum row times the largest 2**exponent that keeps it within +-127, and the exponent."""
    row = flat_spectrum_row(length, draw)
    exponent = 0
    while max(map(abs, row)) * 2 ** (exponent + 1) <= 127:
        exponent += 1
    return dense_integers(row, 2 ** exponent, draw), exponent


def dense_integers(row: Vector, amplitude: float, draw: Callable[[], float]) -> list[int]:
    """Return a row times an amplitude, rounded to integers; a zero becomes 1 or -1."""
    # Drawn, not taken from the value, whose last bits differ between systems.
    signs = [1 if draw() < 0.5 else -1 for _ in row]
    return [round(value * amplitude) or sign for value, sign in zip(row, signs)]


def factor_row(length: int, draw: Callable[[], float]) -> tuple[list[int], int]:
    """Return a dense flat-spectrum row within +-7, and the exponent of the scale with which a 3x3 layer keeps its size.

    That scale is a power of two only if the row's sum of squares, times the pattern's, is a power of four. Amplitudes
    and rows are tried until it is within 0.1 %; if none is, as with few channels, the nearest is returned.
    """
    best: tuple[float, list[int], int] = (math.inf, [], 0)
    for _ in range(MOST_DRAWS):
        row = flat_spectrum_row(length, draw)
        largest = LARGEST_FACTOR / max(map(abs, row))
        for step in range(201, 100, -1):  # of an odd number: no value of 1 or 2 channels is halfway between integers
            integers = dense_integers(row, largest * step / 201, draw)
            power = PATTERN_POWER * sum(map(mul, integers, integers))
            exponent = round(math.log(power, 4))
            best = min(best, (abs(power / 4 ** exponent - 1), integers, exponent))
            if best[0] <= FACTOR_TOLERANCE:
                return best[1:]
    return best[1:]


def draw_patterns(depth: int, draw: Callable[[], float]) -> list[tuple[int, ...]]:
    """Return a 3x3 pattern for each layer, [row][column] flat: 16 in the middle, opposite neighbours 1 and -1.

    Antisymmetric neighbours leave the spectrum nearly flat; signs drawn for each layer keep the image from drifting.
    Patterns commute, so a transposed chain must differ as a whole: the sign across the anti-diagonal is the product of
    the horizontal and the vertical one, so no pattern is the transpose of another, and a chain whose first-order
    differences from its transpose cancel is drawn again.
    """
    while True:
        signs = [[1 if draw() < 0.5 else -1 for _ in range(3)] for _ in range(depth)]
        turned = abs(sum(x * y for x, y, _ in signs)) + abs(sum(x - y for x, y, _ in signs)) / 2
        if 4 * turned ** 2 >= depth:
            return [(d, y, x * y, x, PATTERN_MIDDLE, -x, -x * y, -y, -d) for x, y, d in signs]


def flat_spectrum_row(length: int, draw: Callable[[], float]) -> Vector:
    """Return a real row of Euclidean length 1 whose Fourier coefficients all have magnitude 1 and random phases."""
    spectrum = [0j] * length
    for index in range(length // 2 + 1):
        real = index == 0 or 2 * index == length
        spectrum[index] = complex(1 - 2 * round(draw())) if real else cmath.rect(1, 2 * math.pi * draw())
        spectrum[-index] = spectrum[index].conjugate()
    return [value.real / length for value in inverse_transform(spectrum)]


def inverse_transform(values: Sequence[complex]) -> list[complex]:
    """Return the unscaled inverse Fourier transform of any length, by Bluestein's method: with
    jk = (j**2 + k**2 - (j - k)**2) / 2 it is a convolution, which takes a transform of a power of two."""
    length = len(values)
    size = 1 << (2 * length - 2).bit_length()
    chirp = [cmath.rect(1, math.pi * (index * index % (2 * length)) / length) for index in range(length)]
    turned = [value.conjugate() for value in chirp]
    padded = [*map(mul, values, chirp), *[0j] * (size - length)]
    kernel = [*turned, *[0j] * (size - 2 * length + 1), *turned[:0:-1]]
    roots = [cmath.rect(1, -2 * math.pi * index / size) for index in range(size // 2)]
    product = map(mul, _transform(padded, roots), _transform(kernel, roots))
    convolution = _transform([value.conjugate() for value in product], roots)
    return [value.conjugate() * factor / size for value, factor in zip(convolution, chirp)]


def _transform(values: Sequence[complex], roots: Sequence[complex]) -> Sequence[complex]:
    """Return the Fourier transform of a length that is a power of two."""
    if len(values) == 1:
        return values
    even, odd = _transform(values[::2], roots[::2]), _transform(values[1::2], roots[::2])
    turned = list(map(mul, odd, roots))
    return [*map(add, even, turned), *map(sub, even, turned)]


def original_weights(config: Config, seed: int, data_type: str) -> Weights:
    """Return random levels of the original's ranges: INT8 all 256, FP16 the thousand from -0.5 to 0.499. The original
    draws each weight by itself; here rows begin at random places of one pool of drawn levels."""
    draw = random.Random(seed).random
    size = 8192 + config.channels
    if data_type == "int8":
        pool: list[float] = [int(draw() * 256) - 128 for _ in range(size)]
    else:  # in float32, as the original computes them
        thousandth, = struct.unpack("f", struct.pack("f", 0.001))
        pool = list(array.array("f", [(int(draw() * 1000) - 500) * thousandth for _ in range(size)]))
    starts = [[int(draw() * 8192) for _ in range(config.channels)] for _ in range(config.depth)]
    return Weights(pool, ORIGINAL_EXPONENT if data_type == "int8" else 0, starts, [(1,)] * config.depth)


@functools.lru_cache(maxsize=1)  # the variants of a configuration share it
def random_input(config: Config, seed: int) -> bytes:
    """Return the fp16 input [channels][pixels]: normal of variance 1, in multiples of 2**-7, clipped to +-3.9. Each
    channel begins at its own place of one pool of values, each the sum of twelve uniform integers: normal, and the same
    on every system."""
    draw = random.Random(seed).random
    period, one = 8191, 1 << 16
    size = 1.0 if config.kernel == 1 else 0.625  # 3x3 chains grow in places, and their reference does not clip
    sums = [sum([int(draw() * one) for _ in range(12)]) - 6 * one for _ in range(period)]
    steps = [max(-LARGEST_INPUT, min(LARGEST_INPUT, round(value * size / (one >> INPUT_EXPONENT)))) for value in sums]
    pool = struct.pack(f"<{period}e", *[step / (1 << INPUT_EXPONENT) for step in steps])
    pool *= 2 + config.pixels // period
    starts = [2 * int(draw() * period) for _ in range(config.channels)]
    return b"".join([pool[start:start + 2 * config.pixels] for start in starts])


def pixel_of(tensor: bytes, config: Config, index: int) -> Vector:
    """Return the channels of one pixel of an fp16 tensor [channels][pixels]."""
    return struct.unpack(f"<{config.channels}e", memoryview(tensor).cast("H")[index::config.pixels].tobytes())


# Little endian, from apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp (version 2). The header: count of
# tensors, version, zeros. A record: sentinel, data type, bytes of data, offset of the data, padding in bits, zeros.
HEADER = struct.Struct("<II7Q")
RECORD = struct.Struct("<IIQQQ4Q")
BLOB_VERSION = 2
SENTINEL = 0xDEADBEEF
ALIGNMENT = 64

# Forms of a weight file: Apple's, and the original's records.
LAYOUTS = ("standard", "original")

# The only sizes that the original writes (byte 10 of the record), for any shape.
ORIGINAL_SIZES = {"fp16": 0x100000, "int8": 0x080000}


def tensor_stride(size: int, aligned: bool = True) -> int:
    """Return the bytes from one record to the next, for tensors of `size` bytes each."""
    return RECORD.size + (-(-size // ALIGNMENT) * ALIGNMENT if aligned else size)


def write_weight_file(data_type: str, count: int, size: int, tensors: Iterable[bytes], layout: str = "standard",
                      aligned: bool = True) -> bytearray:
    """Return a weight file of `count` tensors of `size` bytes each, the first record at 64.

    The layout `standard` is that of Apple's writer. `original` has the same offsets but the original's records: count
    1, type 1, its one size, data offset 0 (the data follow). The original's own files are not `aligned`.
    """
    stride = tensor_stride(size, aligned)
    blob = bytearray(HEADER.size + stride * (count - 1) + RECORD.size + size)
    standard = layout == "standard"
    HEADER.pack_into(blob, 0, count if standard else 1, BLOB_VERSION, *[0] * 7)
    code = DATA_TYPES[data_type if standard else "fp16"].code
    view = memoryview(blob)  # a bytearray would copy what it is given once more
    for index, tensor in enumerate(tensors):
        record = HEADER.size + index * stride
        data = record + RECORD.size
        stated = (size, data) if standard else (ORIGINAL_SIZES[data_type], 0)
        RECORD.pack_into(blob, record, SENTINEL, code, *stated, *[0] * 5)
        view[data:data + size] = tensor
    return blob


class Tensor(NamedTuple):
    """A tensor of a weight file: the offset of its record, which BLOBFILE names, its data type, its bytes."""

    offset: int
    data_type: str
    data: memoryview


def read_weight_file(data: Union[bytes, bytearray, memoryview]) -> list[Tensor]:
    """Return the tensors of a weight file of the standard layout, in order; their data are views of the file. Raise
    BlobError with the offset of the first violation."""
    view = memoryview(data).cast("B")
    if len(view) < HEADER.size:
        raise BlobError(f"a weight file has a header of {HEADER.size} bytes; this file has {len(view)} bytes in all")
    count, version, *reserved = HEADER.unpack_from(view)
    if version != BLOB_VERSION:
        raise BlobError(f"offset 4: version {version}; expected {BLOB_VERSION}")
    if any(reserved):
        raise BlobError("offset 8: the header's reserved bytes are not zero")
    tensors, end = [], HEADER.size
    for _ in range(count):
        record = -(-end // ALIGNMENT) * ALIGNMENT
        if any(view[end:record]):
            raise BlobError(f"offset {end}: the gap before the record at {record} is not zero")
        tensors.append(read_tensor(view, record))
        end = record + RECORD.size + len(tensors[-1].data)
    if end != len(view):
        raise BlobError(f"offset {end}: {len(view) - end} bytes follow the last tensor")
    return tensors


def read_tensor(view: memoryview, offset: int) -> Tensor:
    """Return the tensor whose record is at `offset`. Raise BlobError if that does not describe data in the file."""
    if offset % ALIGNMENT or not 0 <= offset <= len(view) - RECORD.size:
        raise BlobError(f"offset {offset}: no record fits there in a file of {len(view)} bytes")
    sentinel, code, size, data, *reserved = RECORD.unpack_from(view, offset)
    if sentinel != SENTINEL:
        raise BlobError(f"offset {offset}: sentinel {sentinel:#010x}; expected {SENTINEL:#010x}")
    name = next((name for name, data_type in DATA_TYPES.items() if data_type.code == code), None)
    if name is None:
        raise BlobError(f"offset {offset}: data type {code}; expected one of {[t.code for t in DATA_TYPES.values()]}")
    if data != offset + RECORD.size or any(reserved):
        raise BlobError(f"offset {offset}: data offset {data}; expected {offset + RECORD.size}, then zeros")
    if size % DATA_TYPES[name].size or size > len(view) - data:
        raise BlobError(f"offset {offset}: {size} bytes of {name} do not fit in a file of {len(view)} bytes")
    return Tensor(offset, name, view[data:data + size])


def weight_data(blob: memoryview, offset: int, data_type: str, size: int) -> memoryview:
    """Return the bytes of the tensor that BLOBFILE names at `offset`, in either layout. Raise BlobError if the file
    does not hold `size` such bytes."""
    if 0 <= offset <= len(blob) - RECORD.size - size:
        sentinel, _, _, data, *_ = RECORD.unpack_from(blob, offset)
        if sentinel == SENTINEL and data == 0:  # a record of the original, which its data follow
            return blob[offset + RECORD.size:offset + RECORD.size + size]
    tensor = read_tensor(blob, offset)
    if (tensor.data_type, len(tensor.data)) != (data_type, size):
        raise BlobError(f"offset {offset}: {len(tensor.data)} bytes of {tensor.data_type}; "
                        f"the text says {size} bytes of {data_type}")
    return tensor.data


# ======================================================================================================================
# 4. MIL text and programs
#
# Used below: DIALECTS, LARGEST_SEED, Layer, MilProgram, parse_mil, Program, build_program.
# ======================================================================================================================

# Short scalars with ios18, everything in long form with the first opset that has the operations, and a mixture of both
# that some systems take: the head of 1.3, long-form scalars.
DIALECTS = ("1.3", "1.0", "1.3-long")
LARGEST_SEED = (1 << 53) - 1  # beyond it other readers of JSON lose digits

# Every line of a program, for the writer and for the reader. {string}, {fp16}, {int32}, {int8} and {uint64} are scalar
# types in the form of the dialect. buildInfo is the original's; nothing is known to read it.
HEAD_LINES = (
    "program({version})",
    '[buildInfo = dict<{string}, {string}>({{{{"coremlc-component-MIL", "3510.2.1"}}, '
    '{{"coremlc-version", "3505.4.1"}}, {{"coremltools-component-milinternal", ""}}, '
    '{{"coremltools-version", "9.0"}}}})]',
    "{{",
    "    func main<{opset}>(tensor<fp16, [1, {channels}, {side}, {side}]> x) {{",
)
SETTING_LINES = (
    '{string} c_pad_type = const()[name = {string}("c_pad_type"), val = {string}("{pad_type}")];',
    'tensor<int32, [2]> c_strides = const()[name = {string}("c_strides"), val = tensor<int32, [2]>([1, 1])];',
    'tensor<int32, [4]> c_pad = const()[name = {string}("c_pad"), '
    "val = tensor<int32, [4]>([{pad}, {pad}, {pad}, {pad}])];",
    'tensor<int32, [2]> c_dilations = const()[name = {string}("c_dilations"), val = tensor<int32, [2]>([1, 1])];',
    '{int32} c_groups = const()[name = {string}("c_groups"), val = {int32}(1)];',
)
SCALE_LINES = (
    '{fp16} q_scale = const()[name = {string}("q_scale"), val = {fp16}(0x1p{exponent})];',
    '{string} q_dtype = const()[name = {string}("q_dtype"), val = {string}("int8")];',
    '{fp16} dq_scale = const()[name = {string}("dq_scale"), val = {fp16}(0x1p{exponent})];',
)
BLOB_FILE = f'BLOBFILE(path = {{string}}("{WEIGHT_PATH}"), offset = {{uint64}}({{offset}}))'
# The parameters of constexpr_affine_dequantize are attributes: as arguments they give InvalidMILProgram.
WEIGHT_LINES = {
    "fp16": 'tensor<fp16, [{channels}, {channels}, {kernel}, {kernel}]> {name} = const()[name = {string}("{name}"), '
            f"val = tensor<fp16, [{{channels}}, {{channels}}, {{kernel}}, {{kernel}}]>({BLOB_FILE})];",
    "int8": "tensor<fp16, [{channels}, {channels}, {kernel}, {kernel}]> {name} = constexpr_affine_dequantize()["
            'axis = {int32}(0), name = {string}("{name}"), '
            f"quantized_data = tensor<int8, [{{channels}}, {{channels}}, {{kernel}}, {{kernel}}]>({BLOB_FILE}), "
            "scale = {fp16}(0x1p{exponent}), zero_point = {int8}(0)];",
}
CONVOLUTION_LINE = (
    "tensor<fp16, [1, {channels}, {side}, {side}]> {name} = conv(dilations = c_dilations, groups = c_groups, "
    "pad = c_pad, pad_type = c_pad_type, strides = c_strides, weight = {weight}, x = {x})"
    '[name = {string}("{name}")];')
QUANTIZE_LINE = (
    "tensor<int8, [1, {channels}, {side}, {side}]> {name} = quantize(input = {x}, output_dtype = q_dtype, "
    'scale = q_scale)[name = {string}("{name}")];')
DEQUANTIZE_LINE = (
    "tensor<fp16, [1, {channels}, {side}, {side}]> {name} = dequantize(input = {x}, scale = dq_scale)"
    '[name = {string}("{name}")];')
END_LINES = ("    }} -> ({x});", "}}")

# The forms of fields, for the reader; all others are names. Scales are powers of two of which fp16 holds 128.
FIELD_FORMS = {"opset": "ios1[678]", "channels": "[1-9][0-9]{0,8}", "side": "[1-9][0-9]{0,8}", "offset": "[0-9]{1,20}",
               "exponent": r"-(?:[1-9]|1[0-9]|2[0-4])|\+[0-8]"}
NAME = "[A-Za-z_][A-Za-z0-9_]{0,63}"


def indented(form: str) -> str:
    """Return the form of a line with its indentation, which those of head and end contain."""
    return form if form in HEAD_LINES + END_LINES else " " * 8 + form


def fixed_fields(dialect: str, kernel: int) -> dict[str, str]:
    """Return the fields that dialect and kernel decide; scalar types are such as `fp16`, or long `tensor<fp16, []>`."""
    form = "{}" if dialect == "1.3" else "tensor<{}, []>"
    scalars = {name: form.format(name) for name in ("string", "fp16", "int32", "int8", "uint64")}
    padding = {"pad_type": "valid" if kernel == 1 else "custom", "pad": str(kernel // 2)}
    return {"version": dialect[:3], "kernel": str(kernel), **padding, **scalars}


def write_mil(config: Config, variant: Variant, dialect: str, stride: int, exponent: int,
              activation_exponent: int) -> str:
    """Return the text of a chain whose weights lie `stride` bytes apart; int8 values are times 2**-exponent. All names
    are the original's."""
    fixed = {**fixed_fields(dialect, config.kernel), "channels": config.channels, "side": config.spatial,
             "opset": opset_of(dialect, variant)}
    lines: list[str] = []

    def write(form: str, **fields: Any) -> None:
        lines.append(indented(form).format(**fixed, **fields) + "\n")

    for form in (*HEAD_LINES, *SETTING_LINES):
        write(form)
    for form in SCALE_LINES if variant.activations == "int8" else ():
        write(form, exponent=f"{-activation_exponent:+d}")
    x = "x"
    for layer in range(config.depth):
        write(WEIGHT_LINES[variant.weights], name=f"W{layer}", offset=HEADER.size + layer * stride,
              exponent=f"{-exponent:+d}")
        write(CONVOLUTION_LINE, name=f"c{layer}", weight=f"W{layer}", x=x)
        x = f"c{layer}"
        if variant.activations == "int8" and layer < config.depth - 1:
            write(QUANTIZE_LINE, name=f"q{layer}", x=x)
            write(DEQUANTIZE_LINE, name=f"dq{layer}", x=f"q{layer}")
            x = f"dq{layer}"
    for form in END_LINES:
        write(form, x=x)
    return "".join(lines)


def opset_of(dialect: str, variant: Variant) -> str:
    """Return the opset that a program's function names."""
    return "ios18" if dialect == "1.3" else variant.opset


class Layer(NamedTuple):
    """A convolution: its line, and its weights' offset in the weight file; those in int8 are times 2**exponent."""

    line: int
    offset: int
    exponent: int


class MilProgram(NamedTuple):
    """A program as read from its text. `scales`: the exponents of the scales of quantize and dequantize, powers of two,
    which W8A8 alone has."""

    dialect: str
    config: Config
    variant: Variant
    layers: Sequence[Layer]
    scales: Sequence[int]


def parse_mil(text: str) -> MilProgram:
    """Return the program of a text in any dialect, as write_mil writes it; names, offsets and scales may differ.

    Raise MilError with the line of anything else: another form, a name that is undefined or defined twice, a literal or
    a shape that does not fit the chain, a text that is cut off or goes on.
    """
    return _MilReader(text).program()


@functools.lru_cache(maxsize=100)
def _pattern(form: str, fixed: tuple[tuple[str, str], ...]) -> "re.Pattern[str]":
    """Return the regular expression of a line; a field that is not fixed must have the same value in all its places."""
    pattern, known = "", {name: re.escape(value) for name, value in fixed}
    for literal, field, _, _ in Formatter().parse(indented(form)):
        pattern += re.escape(literal)
        if field and field not in known:
            pattern += f"(?P<{field}>{FIELD_FORMS.get(field, NAME)})"
            known[field] = f"(?P={field})"
        elif field:
            pattern += known[field]
    return re.compile(pattern)


class _MilReader:
    """Read a program line by line, as the writer writes it."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._line = 1
        kernel = 3 if '"custom"' in text else 1
        self._dialect = max(DIALECTS, key=lambda dialect: self._head_matches(fixed_fields(dialect, kernel)))
        self._fixed = fixed_fields(self._dialect, kernel)
        self._names = {"x", "c_pad_type", "c_strides", "c_pad", "c_dilations", "c_groups", "q_scale", "q_dtype",
                       "dq_scale"}

    def program(self) -> MilProgram:
        """Return the program of the whole text."""
        for form in HEAD_LINES:
            self._fixed.update(self._take(form))
        for form in SETTING_LINES:
            self._take(form)
        scales = [self._take(form).get("exponent") for form in SCALE_LINES] if self._found(SCALE_LINES[0]) else []
        variant = VARIANTS["w8a8" if scales else "w8a16" if self._found(WEIGHT_LINES["int8"]) else "fp16"]
        layers: list[Layer] = []
        x = "x"
        while not layers or self._found(END_LINES[0]) is None:
            if layers and scales:
                x = self._take(QUANTIZE_LINE, x=x)["name"]
                x = self._take(DEQUANTIZE_LINE, x=x)["name"]
            weight = self._take(WEIGHT_LINES[variant.weights])
            # The line is now that of the convolution.
            layers.append(Layer(self._line, int(weight["offset"]), int(weight.get("exponent", 0))))
            x = self._take(CONVOLUTION_LINE, x=x, weight=weight["name"])["name"]
        self._take(END_LINES[0], x=x)
        self._take(END_LINES[1])
        if self._lines[self._line - 1:] != [""]:
            self._fail("expected a newline and the end of the text")
        exponents = [int(scale) for scale in scales if scale]
        return MilProgram(self._dialect, self._config(variant, len(layers)), variant, layers, exponents)

    def _config(self, variant: Variant, depth: int) -> Config:
        """Return the configuration, if it is valid and the opset is that of the program."""
        self._line = len(HEAD_LINES)
        if self._fixed["opset"] != opset_of(self._dialect, variant):
            self._fail(f"{self._fixed['opset']}; expected {opset_of(self._dialect, variant)}")
        try:
            return Config(int(self._fixed["channels"]), int(self._fixed["side"]), depth, int(self._fixed["kernel"]))
        except UsageError as error:
            return self._fail(str(error))

    def _head_matches(self, fixed: dict[str, str]) -> int:
        """Return how many of the first two lines, which tell the dialect, have the form of a dialect's fields."""
        lines = zip(HEAD_LINES[:2], self._lines)
        return sum(bool(_pattern(form, tuple(fixed.items())).fullmatch(line)) for form, line in lines)

    def _found(self, form: str) -> Optional[dict[str, str]]:
        """Return the fields of the present line, or None if it has another form."""
        line = self._lines[self._line - 1] if self._line <= len(self._lines) else ""
        match = _pattern(form, tuple(self._fixed.items())).fullmatch(line)
        return match and match.groupdict()

    def _take(self, form: str, **expected: str) -> dict[str, str]:
        """Return the fields of the present line, which must have a form and the expected names, and go on."""
        fields = self._found(form)
        if fields is None:
            found = "".join(self._lines[self._line - 1:self._line]).strip()
            self._fail(f"found {found[:60]!r}; expected the form {form[:60]!r}")
        for field, name in expected.items():
            if fields[field] != name:
                known = "" if fields[field] in self._names else ", which is not defined"
                self._fail(f"{field} is {fields[field]}{known}; expected {name}")
        if fields.get("name") in self._names:
            self._fail(f"{fields['name']} is defined twice")
        self._names.add(fields.get("name", "x"))
        self._line += 1
        return fields

    def _fail(self, message: str) -> NoReturn:
        raise MilError(min(self._line, len(self._lines)), message)


class Program(NamedTuple):
    """A configuration in a variant, as an engine takes it: MIL text in one of DIALECTS, and the bytes of the weight
    file in one of LAYOUTS."""

    config: Config
    variant: Variant
    mil: str
    blob: bytearray
    layout: str
    dialect: str

    def write(self, directory: str) -> None:
        """Write `model.mil` and `weights/weight.bin` below a directory, made if it is missing; all are private (0700,
        0600). Raise OSError, also for a symbolic link in the place of a directory or file."""
        for name, content in ((MIL_FILE, self.mil.encode()), (WEIGHT_FILE, self.blob)):
            path = os.path.join(directory, name)
            parent = os.path.dirname(path)
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, 0o700)
            if os.path.islink(parent):
                raise NotADirectoryError(errno.ENOTDIR, "is a symbolic link; expected a directory", parent)
            _write_file(path, content)


def _write_file(path: str, content: Union[bytes, bytearray]) -> None:
    """Write a private file, in several parts if the system asks for that, as it does over 2 GiB."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    view = memoryview(content)
    try:
        with open(os.open(path, flags, 0o600), "wb", buffering=0) as file:
            while view:
                view = view[file.write(view):]
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def build_program(config: Config, variant: str, *, seed: int = 0, original: bool = False, blob: str = "standard",
                  dialect: str = "1.3") -> Program:
    """Return the program of a configuration in a variant of VARIANTS; equal arguments give equal bytes everywhere.

    Input `x` and the output are fp16 [1, channels, spatial, spatial]. The seed, from 0 to 2**53 - 1, draws the weights.
    `blob` is the weight file's layout. `original` gives the original's text, records, scales and ranges, and overrides
    `blob` and `dialect`. Raise UsageError if an argument is invalid.
    """
    _check_choices(config, variant, seed, original, blob, dialect)
    kind = VARIANTS[variant]
    if original:
        blob, dialect = "original", "1.3"
        weights = original_weights(config, seed, kind.weights)
    else:
        weights = chain_weights(config, seed)
    size = config.weights // config.depth * DATA_TYPES[kind.weights].size
    data = write_weight_file(kind.weights, config.depth, size, weights.layers(config.channels, kind.weights), blob,
                             not original)
    text = write_mil(config, kind, dialect, tensor_stride(size, not original), weights.exponent,
                     ORIGINAL_EXPONENT if original else ACTIVATION_EXPONENT)
    return Program(config, kind, text, data, blob, dialect)


def _check_choices(config: Any, variant: Any, seed: Any, original: Any, blob: Any, dialect: Any) -> None:
    """Raise UsageError if build_program cannot take these arguments."""
    if not isinstance(config, Config):
        raise UsageError(f"{config!r}: expected a Config")
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed {seed!r}: expected a whole number from 0 to 2**53 - 1")
    choices_of = {"variant": tuple(VARIANTS), "blob": LAYOUTS, "dialect": DIALECTS, "original": (False, True)}
    for value, (name, choices) in zip((variant, blob, dialect, original), choices_of.items()):
        if type(value) is not type(choices[0]) or value not in choices:
            raise UsageError(f"{name} {value!r}: expected one of {', '.join(map(str, choices))}")
    if original and config.kernel != 1:
        raise UsageError(f"{config.name}: the original has 1x1 convolutions only")


# ======================================================================================================================
# 5. Reference
#
# Used below: Events, Executable, Engine, Arithmetic, Reference, ReferenceEngine.
# ======================================================================================================================

class Events(typing.Protocol):
    """The events that a worker sends to its parent; Link (section 12) sends them. `current`: the latest stage."""

    current: str

    def stage(self, name: str, variant: str, limit: float = 0) -> None:
        """Report the stage that begins; it may take `limit` seconds beyond the time limit."""

    def directory(self, path: str) -> None:
        """Report the directory that is about to be made."""

    def warn(self, code: str, message: str) -> None:
        """Report a warning."""

    def refused(self) -> None:
        """Note that a compile was refused."""

    def rest(self, variant: str) -> None:
        """Rest before a compile if the last one was refused."""

    def round(self, variants: str, limit: float, number: int, of: int) -> None:
        """Report a round without waiting."""

    def turn(self, variant: str) -> None:
        """Note which variant is at work within a round."""


class Executable(typing.Protocol):
    """A loaded program with its input and output; ReferenceExecutable and _LoadedModel (section 7) are such. `facts`:
    the known ones of the cell's compile_ms, load_ms and compiled_before."""

    facts: dict[str, Any]

    def write_input(self, data: bytes) -> None:
        """Write the whole fp16 input, [channels][pixels]."""

    def evaluate(self) -> bool:
        """Compute the output; return whether that worked."""
        ...

    def failure(self) -> str:
        """Return why the last evaluate failed."""
        ...

    def poison(self, pixels: Sequence[int]) -> None:
        """Make all channels of these output pixels NaN."""

    def read_pixels(self, pixels: Sequence[int]) -> list[Vector]:
        """Return the channels of each of these output pixels."""
        ...


class Engine(typing.Protocol):
    """A way to run programs: ReferenceEngine and NeuralEngine (section 7). Its clock is `now`, in ticks of `tick_ns`.

    Evaluates run in the context that `pool` returns, and at the `qos` of `load`, which raises StageError if the program
    is refused. The program is unloaded when its owner closes.
    """

    now: Callable[[], int]
    tick_ns: float

    def pool(self) -> typing.ContextManager[None]:
        """Return the context in which evaluates run."""
        ...

    def load(self, program: Program, qos: int, events: Events, owner: contextlib.ExitStack) -> Executable:
        """Return the program, compiled and loaded; raise StageError if it is refused."""
        ...


class Arithmetic(NamedTuple):
    """The choices that a program leaves to an engine; sums are exact in all of them.

    Between layers, convolutions store results in fp16 or fp32 (`store`), after the last in fp16. `rounding` of halves,
    in these stores and in quantize, is `away` from zero (M4 and later) or to `even` (M1). Without `quantizes`, quantize
    and dequantize return their input: the verification compares with that to see that an engine does quantize.
    """

    rounding: str = "away"
    store: str = "fp16"
    quantizes: bool = True

    @property
    def name(self) -> str:
        """Return the text of the record, such as `halves away, fp16 stores`."""
        halves = "away" if self.rounding == "away" else "to even"
        return f"halves {halves}, {self.store} stores" + ("" if self.quantizes else ", not quantized")

    @property
    def nudge(self) -> float:
        """Return a factor by which rounding to even becomes this rounding. To round away, it moves each half away from
        zero, and no other value past one; that is exact for values of at most 50 significant bits."""
        return 1 + 2.0 ** -52 if self.rounding == "away" else 1.0


DEFAULT_ARITHMETIC = Arithmetic()


def store(values: Vector, arithmetic: Arithmetic, letter: str = "") -> Vector:
    """Return values rounded to the store's type, or to that of a `struct` letter; too large ones become infinite."""
    letter = letter or ("e" if arithmetic.store == "fp16" else "f")
    nudge, form = arithmetic.nudge, f"<{len(values)}{letter}"
    try:
        return struct.unpack(form, struct.pack(form, *[value * nudge for value in values]))
    except OverflowError:  # fp16 ends at 65504, and 65520 rounds to infinity; so in fp32
        limit = 65520.0 if letter == "e" else float.fromhex("0x1.ffffffp+127")
        return store([math.copysign(math.inf, value) if abs(value) >= limit else value for value in values],
                     arithmetic, letter)


def quantize(values: Vector, exponent: int, arithmetic: Arithmetic) -> Vector:
    """Return the int8 steps of 2**exponent that are nearest to values, clipped to -128 to 127."""
    factor = 2.0 ** -exponent * arithmetic.nudge
    return [round(max(-128.0, min(127.0, value * factor))) for value in values]


class Matrix:
    """The weights of a convolution, [output][input and place in the kernel], and their product with a vector.

    If all weights are 8-bit integers times one power of two, the product is exact and fast: one big integer for each
    column holds a lane for each row, and one multiplication computes all lanes.
    """

    def __init__(self, integers: Optional[bytes], exponent: int, rows: int, values: Vector = ()) -> None:
        self.integers, self.exponent, self.rows = integers, exponent, rows
        self._values = values  # in the place of integers
        self._packed: dict[int, list[int]] = {}

    @classmethod
    def read(cls, layer: Layer, program: MilProgram, blob: memoryview) -> "Matrix":
        """Return a layer's weights, or raise BlobError if the file does not hold them."""
        config, data_type = program.config, program.variant.weights
        count = config.weights // config.depth
        data = weight_data(blob, layer.offset, data_type, count * DATA_TYPES[data_type].size)
        if data_type == "int8":
            return cls(bytes(data), layer.exponent, config.channels)
        integers, exponent = halves_as_integers(data)
        values = () if integers else struct.unpack(f"<{count}e", data)
        return cls(integers, exponent, config.channels, values)

    def product(self, vector: Vector) -> Vector:
        """Return the sums, exact before they become floats; NaN and infinities as in IEEE 754."""
        common = common_integers(vector) if self.integers else None
        if common is None:
            return self._float_product(vector)
        multipliers, exponent = common
        scale = 2.0 ** (exponent + self.exponent)
        return [total * scale for total in self._integer_product(multipliers)]

    def _integer_product(self, multipliers: Sequence[int]) -> list[int]:
        """Return exact sums. The weights are biased by 128, so that no lane is negative; half a lane is added, so that
        no sum is."""
        bits = (max(map(abs, multipliers)) * 255 * len(multipliers)).bit_length() + 1
        width = next((width for width in (4, 8) if bits <= 8 * width), bits // 8 + 1)
        if width not in self._packed:
            self._packed[width] = self._pack(width, len(multipliers))
        half = 1 << 8 * width - 1
        halves = int.from_bytes(half.to_bytes(width, "little") * self.rows, "little")
        total = sum(map(mul, self._packed[width], multipliers), halves).to_bytes(self.rows * width, "little")
        bias = 128 * sum(multipliers) + half
        if width in (4, 8):
            return [lane - bias for lane in struct.unpack(f"<{self.rows}{'I' if width == 4 else 'Q'}", total)]
        return [int.from_bytes(total[lane:lane + width], "little") - bias for lane in range(0, len(total), width)]

    def _pack(self, width: int, columns: int) -> list[int]:
        """Return a big integer for each column: the lane of a row, `width` bytes, is its weight plus 128."""
        assert self.integers is not None
        biased = self.integers.translate(BIASED)
        packed = []
        for column in range(columns):
            lanes = bytearray(self.rows * width)
            lanes[::width] = biased[column::columns]
            packed.append(int.from_bytes(lanes, "little"))
        return packed

    def _float_product(self, vector: Vector) -> Vector:
        if self.integers:
            self._values = [SIGNED[level] * 2.0 ** self.exponent for level in self.integers]
        columns = len(vector)
        rows = [self._values[start:start + columns] for start in range(0, len(self._values), columns)]
        return [float_sum(map(mul, row, vector)) for row in rows]


# Of a byte that is an int8: its value, and the byte that is its value plus 128.
SIGNED = [byte - 256 * (byte > 127) for byte in range(256)]
BIASED = bytes(value + 128 for value in SIGNED)


def common_integers(vector: Vector) -> Optional[tuple[list[int], int]]:
    """Return integers and an exponent, each float an integer times 2**exponent; None if a float is not finite."""
    # Those of the input and of quantized values, of fp16, and then down to fp32's least.
    for bits in (INPUT_EXPONENT, 24, 32, 36, 40, 44, 48, 64, 149):
        scaled = [value * 2.0 ** bits for value in vector]
        if all(map(float.is_integer, scaled)):
            return list(map(int, scaled)), -bits
    return None


def float_sum(products: Iterable[float]) -> float:
    """Return the sum rounded once, or NaN if infinities of both signs meet."""
    try:
        return math.fsum(products)
    except (ValueError, OverflowError):
        return math.nan


def halves_as_integers(data: memoryview) -> tuple[Optional[bytes], int]:
    """Return fp16 values as int8 bytes and an exponent, each value a byte times 2**exponent; None if there are none."""
    with contextlib.suppress(UnicodeDecodeError):
        characters = codecs.utf_16_le_decode(data)[0]  # a codec does in C what would take a loop seconds
        for exponent in range(-24, 1):
            with contextlib.suppress(UnicodeEncodeError):
                level_map = _level_map(exponent)
                codecs.charmap_encode(characters[:256], "strict", level_map)  # first a few: a failure scans all
                return codecs.charmap_encode(characters, "strict", level_map)[0], exponent
    return None, 0


@functools.cache
def _level_map(exponent: int) -> Any:
    """Return the codec's map from each fp16 of an int8 times 2**exponent, taken as a character, to that int8."""
    halves = struct.pack("<256e", *[value * 2.0 ** exponent for value in SIGNED])
    return codecs.charmap_build("".join(map(chr, struct.unpack("<256H", halves))))


# For the factors of a 3x3 kernel: bytes of multiples of 16, and maps from these to a sixteenth and to its negative.
MULTIPLES = bytes(byte for byte in range(256) if byte % PATTERN_MIDDLE == 0)
SIXTEENTHS = {sign: bytes(sign * value // PATTERN_MIDDLE % 256 for value in SIGNED) for sign in (1, -1)}


def factors(matrix: Matrix) -> Optional[tuple[Vector, Matrix]]:
    """Return the factors of 3x3 weights, a pattern of middle 1 and a matrix of channels. Return None if there are none:
    each of the nine planes of the kernels must be a sixteenth of the middle plane or its negative."""
    integers = matrix.integers or b""
    middle = integers[4::9]  # planes lie interleaved
    if not middle or middle.translate(None, MULTIPLES):
        return None
    pattern = [1.0] * 9
    for place in (0, 1, 2, 3, 5, 6, 7, 8):
        signs = [sign for sign, table in SIXTEENTHS.items() if integers[place::9] == middle.translate(table)]
        if not signs:
            return None
        pattern[place] = signs[0] / PATTERN_MIDDLE
    return pattern, Matrix(middle, matrix.exponent, matrix.rows)


def pixel_weights(patterns: Sequence[Vector], side: int, pixel: int) -> Vector:
    """Return how much each pixel of the input adds to one pixel of the output, through 3x3 patterns in turn. From the
    output backwards, each layer spreads the weights over the neighbours, and drops those in the border."""
    width = side + 2
    row, column = divmod(pixel, side)
    inside = ([0.0] * width + [0.0, *[1.0] * side, 0.0] * side + [0.0] * width)
    weights = [0.0] * len(inside)
    weights[(row + 1) * width + column + 1] = 1.0
    margin = [0.0] * (width + 1)
    for pattern in reversed(patterns):
        padded = [*margin, *weights, *margin]
        starts = [len(margin) - (dy - 1) * width - (dx - 1) for dy in range(3) for dx in range(3)]
        neighbours = zip(*[padded[start:start + len(weights)] for start in starts])
        weights = [sum(map(mul, pattern, values)) for values in neighbours]
        weights = list(map(mul, weights, inside))
    return [weights[start + place] for start in range(width + 1, width * (side + 1), width) for place in range(side)]


def neighbourhoods(image: Sequence[Vector], side: int) -> Iterator[Vector]:
    """Yield for each pixel its 3x3 neighbours' values, [channel][row][column]; outside of the image they are zero."""
    width = side + 2
    padded: list[Vector] = [(0.0,) * len(image[0])] * (width * width)
    for row in range(side):
        padded[(row + 1) * width + 1:(row + 1) * width + 1 + side] = image[row * side:(row + 1) * side]
    for row, column in itertools.product(range(side), range(side)):
        nine = [padded[(row + dy) * width + column + dx] for dy in range(3) for dx in range(3)]
        yield list(itertools.chain.from_iterable(zip(*nine)))


# Steps of 1 in which values pass between the layers of a factored chain: errors stay below 1e-10.
FACTORED_STEPS = 2.0 ** 40


class Reference:
    """A program's right outputs, computed from its text and the bytes of its weight file alone.

    Raises MilError for a text that parse_mil refuses, BlobError if the weight file does not hold the weights. `keep`
    keeps the packed weights between calls: fast, and large.
    """

    def __init__(self, mil: str, blob: Union[bytes, bytearray], keep: bool = False) -> None:
        self._program = parse_mil(mil)
        self._config = self._program.config
        self._blob = memoryview(blob)
        self._keep = keep
        self._matrices: dict[int, Matrix] = {}

    def compute(self, data: bytes, pixels: Sequence[int],
                arithmetics: Sequence[Arithmetic] = (DEFAULT_ARITHMETIC,)) -> list[list[Vector]]:
        """Return the output channels of some pixels, from the whole fp16 input: [arithmetic][pixel][channel].

        A 3x3 chain is computed by the factors of its weights, without rounding between layers, so there is one result
        for all arithmetics. Raise MilError if its weights have no factors.
        """
        if self._config.kernel == 3:
            return [self._factored(data, pixels)]
        # A pixel of a 1x1 chain depends on that pixel of the input alone.
        return self._chain([pixel_of(data, self._config, index) for index in pixels], arithmetics)

    def evaluate(self, data: bytes, arithmetic: Arithmetic = DEFAULT_ARITHMETIC) -> list[Vector]:
        """Return the output channels of all pixels, layer by layer as the program says, with either kernel."""
        pixels = [pixel_of(data, self._config, index) for index in range(self._config.pixels)]
        return self._chain(pixels, [arithmetic])[0]

    def _chain(self, inputs: list[Vector], arithmetics: Sequence[Arithmetic]) -> list[list[Vector]]:
        """Return the outputs for each arithmetic; a layer's weights are read and packed once for all."""
        states = [arithmetic for arithmetic in arithmetics for _ in inputs]
        values: Iterable[Vector] = list(inputs) * len(arithmetics)
        for index in range(self._config.depth):
            matrix, last = self._matrix(index), index == self._config.depth - 1
            if self._config.kernel == 3:
                values = neighbourhoods(list(values), self._config.spatial)
            values = [store(matrix.product(vector), arithmetic, "e" if last else "")
                      for vector, arithmetic in zip(values, states)]
            if self._program.scales and not last:
                values = [self._requantized(vector, arithmetic) for vector, arithmetic in zip(values, states)]
        outputs = list(values)
        return [outputs[start:start + len(inputs)] for start in range(0, len(outputs), len(inputs))]

    def _requantized(self, vector: Vector, arithmetic: Arithmetic) -> Vector:
        """Return values after quantize and dequantize."""
        if not arithmetic.quantizes:
            return vector
        quantizing, dequantizing = self._program.scales
        return [step * 2.0 ** dequantizing for step in quantize(vector, quantizing, arithmetic)]

    def _matrix(self, index: int) -> Matrix:
        """Return the weights of a layer."""
        matrix = self._matrices.get(index) or Matrix.read(self._program.layers[index], self._program, self._blob)
        if self._keep:
            self._matrices[index] = matrix
        return matrix

    def _factored(self, data: bytes, pixels: Sequence[int]) -> list[Vector]:
        """Return the outputs of a 3x3 chain: the patterns mix a channel's pixels, then the matrices the channels."""
        patterns, matrices = [], []
        for index, layer in enumerate(self._program.layers):
            found = factors(self._matrix(index))
            if found is None:
                raise MilError(layer.line, "3x3 weights without factors: a program that the reference does not compute")
            patterns.append(found[0])
            matrices.append(found[1])
        rows = [pixel_weights(patterns, self._config.spatial, pixel) for pixel in pixels]
        size = 2 * self._config.pixels
        images = (struct.unpack(f"<{size // 2}e", data[start:start + size]) for start in range(0, len(data), size))
        mixed = [[float_sum(map(mul, row, image)) for row in rows] for image in images]
        outputs: list[Vector] = list(zip(*mixed))
        for matrix in matrices:
            fixed_point = [[round(value * FACTORED_STEPS) / FACTORED_STEPS for value in vector] for vector in outputs]
            outputs = [matrix.product(vector) for vector in fixed_point]
        return outputs


class ReferenceEngine:
    """The reference as an engine: small programs on any machine. Its times say nothing about a Neural Engine."""

    def __init__(self) -> None:
        self.now: Callable[[], int] = time.perf_counter_ns
        self.tick_ns = 1.0

    def pool(self) -> typing.ContextManager[None]:
        """Return an empty context."""
        return contextlib.nullcontext()

    def load(self, program: Program, qos: int, events: Events, owner: contextlib.ExitStack) -> Executable:
        """Read the program; nothing is compiled."""
        events.stage("load", program.variant.name)
        return ReferenceExecutable(program)


class ReferenceExecutable:
    """A program that the reference computes in its default arithmetic, with either kernel by the plain definition."""

    def __init__(self, program: Program) -> None:
        self.facts: dict[str, Any] = {}
        self._reference = Reference(program.mil, program.blob, keep=True)
        self._unwritten = [math.nan] * program.config.channels
        self._input = bytes(program.config.tensor_bytes)
        self._output: list[Vector] = [self._unwritten] * program.config.pixels

    def write_input(self, data: bytes) -> None:
        """Store the input."""
        self._input = data

    def evaluate(self) -> bool:
        """Compute every pixel of the output; this does not fail."""
        self._output = self._reference.evaluate(self._input)
        return True

    def failure(self) -> str:
        """Return a text: an evaluate never fails."""
        return "the reference does not fail"

    def poison(self, pixels: Sequence[int]) -> None:
        """Make the channels of these output pixels NaN."""
        for pixel in pixels:
            self._output[pixel] = self._unwritten

    def read_pixels(self, pixels: Sequence[int]) -> list[Vector]:
        """Return the channels of these output pixels."""
        return [self._output[pixel] for pixel in pixels]


# ======================================================================================================================
# 6. Objective-C runtime
#
# Used below: CTYPES_PROBLEM, LIBRARIES, Pointer, Libraries, parse_encoding, kind_of, Runtime.
# ======================================================================================================================

# The ownership rule: we own the results of `new` and of Create functions, and whatever we retain. Each is released
# exactly once, by the ExitStack that it was put on when we came to own it. All else is borrowed until the pool drains.


class _NoTypes:
    """A substitute for ctypes while classes are defined, if it cannot be imported: each of its types is `object`."""

    def __getattr__(self, name: str) -> type:
        return object


CTYPES_PROBLEM = ""
try:
    import ctypes
except (ImportError, MemoryError) as _error:  # in some signed or stripped Pythons
    ctypes = _NoTypes()  # type: ignore[assignment]
    CTYPES_PROBLEM = f"{type(_error).__name__}: {_error}".rstrip(": ")

# Since macOS 11 these are not files on disk: dlopen knows them, os.path.exists does not.
FRAMEWORKS = "/System/Library/Frameworks"
LIBRARIES = {
    "libobjc": "/usr/lib/libobjc.A.dylib",
    "libSystem": "/usr/lib/libSystem.B.dylib",
    "Foundation": f"{FRAMEWORKS}/Foundation.framework/Foundation",
    "CoreFoundation": f"{FRAMEWORKS}/CoreFoundation.framework/CoreFoundation",
    "IOSurface": f"{FRAMEWORKS}/IOSurface.framework/IOSurface",
    "IOKit": f"{FRAMEWORKS}/IOKit.framework/IOKit",
    "AppleNeuralEngine": "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine",
}


class Pointer(ctypes.c_void_p):
    """Any pointer that a call returns; false if nil. A subclass, because ctypes turns a plain c_void_p into an int."""


class Libraries:
    """The system's libraries, each opened on first use, or one stand-in library in place of all of them."""

    def __init__(self, standin: Optional[str] = None) -> None:
        """Raise Unavailable if this Python has no ctypes."""
        if CTYPES_PROBLEM:
            raise Unavailable(f"this Python cannot call libraries: import ctypes failed ({CTYPES_PROBLEM}); use "
                              "another Python: /usr/bin/python3 (xcode-select --install installs it), or python.org's")
        self._standin = standin
        self._opened: dict[str, ctypes.CDLL] = {}

    def open(self, name: str) -> "ctypes.CDLL":
        """Return the library of a name in LIBRARIES; raise Unavailable if it cannot be opened."""
        if name not in self._opened:
            try:
                self._opened[name] = ctypes.CDLL(self._standin or LIBRARIES[name])
            except OSError as error:
                raise Unavailable(f"the library {name} cannot be opened: {error}") from None
        return self._opened[name]

    def function(self, library: str, symbol: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """Return a C function with its exact prototype; raise Unavailable if the library lacks it."""
        try:
            return ctypes.CFUNCTYPE(result, *arguments)((symbol, self.open(library)))
        except AttributeError:
            raise Unavailable(f"{library} has no function {symbol} here") from None

    def constant(self, library: str, symbol: str) -> Pointer:
        """Return an exported pointer variable, such as a CFStringRef; raise Unavailable if the library lacks it."""
        try:
            return Pointer.in_dll(self.open(library), symbol)
        except ValueError:
            raise Unavailable(f"{library} has no constant {symbol} here") from None

    def system_value(self, name: str, kind: Any = None) -> Any:
        """Return a value of sysctlbyname, text or an integer of ctypes type `kind`; None if the name is unknown."""
        # int sysctlbyname(const char *name, void *old, size_t *oldlen, void *new, size_t newlen)
        sysctlbyname = self.function("libSystem", "sysctlbyname", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p,
                                     ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        value = kind() if kind else ctypes.create_string_buffer(256)
        size = ctypes.c_size_t(ctypes.sizeof(value))
        if sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) != 0:
            return None
        return value.value if kind else value.value.decode(errors="replace") or None


# Type codes of method_getTypeEncoding that a call here may meet. BOOL is B on arm64, c on Intel Macs, C on GNUstep.
_CODES = {
    "@": Pointer, "#": Pointer, ":": Pointer, "^": Pointer, "*": ctypes.c_char_p, "v": None,
    "B": ctypes.c_bool, "c": ctypes.c_byte, "C": ctypes.c_ubyte, "s": ctypes.c_short, "S": ctypes.c_ushort,
    "i": ctypes.c_int, "I": ctypes.c_uint, "l": ctypes.c_long, "L": ctypes.c_ulong,
    "q": ctypes.c_longlong, "Q": ctypes.c_ulonglong, "f": ctypes.c_float, "d": ctypes.c_double,
}

# A struct, union or array without another inside; and one type: qualifiers, `^` and its target or a code, frame offset.
_AGGREGATE = re.compile(r"[{(\[][^{}()\[\]]*[})\]]")
_TYPE = re.compile(r'[rnNoORVA]*(?:(\^)[\^rnNoORVA]*)?(@\?|@"[^"]*"|.)[-+0-9]*', re.DOTALL)


def parse_encoding(encoding: str) -> list[str]:
    """Return one code per type of a method's encoding, result first: `B36@0:8I16@20^@28` gives B @ : I @ ^. Qualifiers,
    frame offsets and targets of pointers are left out, as they differ between runtimes; an aggregate gives `_`."""
    found = 1
    while found:  # innermost first
        encoding, found = _AGGREGATE.subn("_", encoding)
    return [match[1] or match[2][0] for match in _TYPE.finditer(encoding)]


def kind_of(code: str) -> str:
    """Return how a value of a type is passed: pointer, text, BOOL, nothing, or an integer or float of some width."""
    kind = _CODES.get(code)
    if kind is None:
        return "nothing" if code == "v" else f"unknown type {code}"
    if kind is Pointer or code == "*":
        return "text" if code == "*" else "pointer"
    if code in "BcC":
        return "BOOL"
    return f"{8 * ctypes.sizeof(kind)}-bit {'float' if code in 'fd' else 'integer'}"


class Runtime:
    """Objective-C by typed senders. Every method is looked up first: an unknown selector would end the process."""

    def __init__(self, libraries: Libraries) -> None:
        """Raise Unavailable if libobjc, or a function of it, is missing."""
        self.libraries = libraries
        libobjc = functools.partial(libraries.function, "libobjc")
        # Class objc_getClass(const char *name); Class object_getClass(id object); SEL sel_registerName(const char *)
        self._get_class = libobjc("objc_getClass", Pointer, ctypes.c_char_p)
        self._class_of = libobjc("object_getClass", Pointer, ctypes.c_void_p)
        self._selector = libobjc("sel_registerName", Pointer, ctypes.c_char_p)
        # Method class_getInstanceMethod(Class class, SEL selector); const char *method_getTypeEncoding(Method method)
        self._find_method = libobjc("class_getInstanceMethod", Pointer, ctypes.c_void_p, ctypes.c_void_p)
        self._find_class_method = libobjc("class_getClassMethod", Pointer, ctypes.c_void_p, ctypes.c_void_p)
        self._encoding = libobjc("method_getTypeEncoding", ctypes.c_char_p, ctypes.c_void_p)
        # id objc_retain(id object); void objc_release(id object)
        self._retain = libobjc("objc_retain", Pointer, ctypes.c_void_p)
        self._release = libobjc("objc_release", None, ctypes.c_void_p)
        # void *objc_autoreleasePoolPush(void); void objc_autoreleasePoolPop(void *pool)
        self._push_pool = libobjc("objc_autoreleasePoolPush", Pointer)
        self._pop_pool = libobjc("objc_autoreleasePoolPop", None, ctypes.c_void_p)
        self._senders: dict[str, tuple[int, Callable[..., Any]]] = {}

    def macos_version(self) -> str:
        """Return the system's name and version, such as `macOS 26.1`."""
        return f"macOS {self.libraries.system_value('kern.osproductversion') or '(version unknown)'}"

    def find_class(self, name: str) -> Pointer:
        """Return the class, or a nil Pointer."""
        found: Pointer = self._get_class(name.encode())
        return found

    def get_class(self, name: str) -> Pointer:
        """Return the class; raise Unavailable if this macOS lacks it."""
        found = self.find_class(name)
        if not found:
            raise Unavailable(f"{self.macos_version()} has no class {name}")
        return found

    def method_encoding(self, class_name: str, selector: str, of_class: bool) -> Optional[str]:
        """Return the type encoding of a class or instance method; None if the class lacks it. Raise Unavailable if this
        macOS lacks the class."""
        find = self._find_class_method if of_class else self._find_method
        method = find(self.get_class(class_name), self._selector(selector.encode()))
        return self._encoding(method).decode() if method else None

    def responds(self, receiver: Pointer, selector: str) -> bool:
        """Return whether an object, or a class, has a method for a selector; nil has none."""
        return bool(receiver and self._find_method(self._class_of(receiver), self._selector(selector.encode())))

    def bind(self, receiver: Pointer, selector: str, *arguments: Any) -> Callable[[], Any]:
        """Return a message ready to be sent many times; its arguments must outlive it. Raise Unavailable naming the
        selector if the receiver lacks the method, or it takes another number of arguments."""
        if not receiver:
            raise Unavailable(f"{selector} cannot be sent to nil")
        name = self._selector(selector.encode())
        method = self._find_method(self._class_of(receiver), name)
        if not method:
            named = self.responds(receiver, "className")
            class_name = self.text(self.send(receiver, "className")) if named else "its class"
            raise Unavailable(f"{self.macos_version()} has no method {selector} in {class_name}")
        expected, send = self._sender(self._encoding(method).decode())
        if len(arguments) != expected:
            raise Unavailable(f"{selector} takes {expected} arguments on {self.macos_version()}, not {len(arguments)}")
        return functools.partial(send, receiver, name, *arguments)

    def send(self, receiver: Pointer, selector: str, *arguments: Any) -> Any:
        """Send a message and return its result; see bind."""
        return self.bind(receiver, selector, *arguments)()

    def create(self, class_name: str, selector: str, *arguments: Any) -> Pointer:
        """Return a borrowed object from a class method, or a nil Pointer."""
        created: Pointer = self.send(self.get_class(class_name), selector, *arguments)
        return created

    def _sender(self, encoding: str) -> tuple[int, Callable[..., Any]]:
        """Return the number of arguments of a method of that encoding, and objc_msgSend with its exact prototype."""
        # Exact: arm64 passes variadic arguments elsewhere. The number: ctypes accepts surplus arguments silently.
        if encoding not in self._senders:
            codes = parse_encoding(encoding)
            if len(codes) < 3 or any(code not in _CODES for code in codes):
                raise Unavailable(f"a method of type {encoding} cannot be called by this program")
            result, *arguments = (_CODES[code] for code in codes)
            types = [ctypes.c_void_p if argument is Pointer else argument for argument in arguments]
            self._senders[encoding] = len(codes) - 3, self.libraries.function("libobjc", "objc_msgSend", result, *types)
        return self._senders[encoding]

    @contextlib.contextmanager
    def pool(self) -> Iterator[None]:
        """Hold an autorelease pool."""
        pool = self._push_pool()
        try:
            yield
        finally:
            self._pop_pool(pool)

    def retain(self, borrowed: Pointer, owner: contextlib.ExitStack) -> Pointer:
        """Retain an object until its owner closes; return it."""
        owner.callback(self._release, self._retain(borrowed))
        return borrowed

    def string(self, text: str) -> Pointer:
        """Return a borrowed NSString."""
        return self.create("NSString", "stringWithUTF8String:", text.encode())

    def text(self, string: Pointer) -> str:
        """Return the text of an NSString; empty for nil."""
        return (self.send(string, "UTF8String") or b"").decode(errors="replace") if string else ""

    def number(self, value: int) -> Pointer:
        """Return a borrowed NSNumber of unsigned long long."""
        return self.create("NSNumber", "numberWithUnsignedLongLong:", value)

    def data(self, buffer: bytearray) -> Pointer:
        """Return a borrowed NSData over the buffer's own bytes, which must stay in place while the NSData lives."""
        start = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
        return self.create("NSData", "dataWithBytesNoCopy:length:freeWhenDone:", start, len(buffer), False)

    def array(self, *items: Pointer) -> Pointer:
        """Return a borrowed NSArray."""
        return self.create("NSArray", "arrayWithObjects:count:", _pointers(items), len(items))

    def dictionary(self, items: Sequence[tuple[Pointer, Pointer]] = ()) -> Pointer:
        """Return a borrowed NSDictionary of (key, value) pairs."""
        keys, values = (_pointers([pair[side] for pair in items]) for side in (0, 1))
        return self.create("NSDictionary", "dictionaryWithObjects:forKeys:count:", values, keys, len(items))


def _pointers(items: Sequence[Pointer]) -> Any:
    """Return a C array of pointers."""
    return (ctypes.c_void_p * len(items))(*[item.value for item in items])


# ======================================================================================================================
# 7. Neural Engine
#
# Used below: Method, METHODS, advice_for, foundation_directory, remove_model_directory, NeuralEngine.
# ======================================================================================================================

# Evaluate fails with status 0x1d on smaller surfaces; reports of the least size differ: 16, 48, 64 KiB.
SURFACE_GRANULE = 1 << 16
LOCK_READ_ONLY = 1  # kIOSurfaceLockReadOnly, IOSurfaceRef.h

# A NaN in fp16. Engines write infinity in its place, so an output that holds it was never written.
UNWRITTEN = b"\x00\x7e"

# QOS_CLASS_DEFAULT, sys/qos.h. The compile service inherits the QoS: a compile at background takes three times as long.
COMPILE_QOS = 21
RETRY_SECONDS = 0.1  # after a failed load, as in tmc/apple
ERROR_LEVELS = 4  # of NSErrors under NSErrors
UNDER = ("NSUnderlyingError", "NSUnderlyingErrorKey")  # the value of NSUnderlyingErrorKey: Apple's, GNUstep's
KEEP_AWAKE = 0xFF00FFFFFF  # NSActivityUserInteractive, NSProcessInfo.h
USER_TEMPORARY_DIRECTORY = 65537  # _CS_DARWIN_USER_TEMP_DIR, unistd.h

# hexStringIdentifier: the content hash that names a model's directory.
IDENTIFIER = re.compile(r"[0-9A-Za-z_-]{1,255}")

# Reasons in a chain of NSErrors (reported from hardware), and what helps.
ADVICE = {
    "InvalidMILProgram": "try another --dialect",
    "CompilationFailure": "try a smaller program or another --seed",
    "0x20004": "try fewer channels or layers",
    "0x50004": "close other programs that use the Neural Engine",
}


class Method(NamedTuple):
    """A method that this module calls. `kinds`: the codes of result and arguments. `needed`: no run without it."""

    class_name: str
    selector: str
    kinds: str
    of_class: bool = False
    needed: bool = True

    @property
    def name(self) -> str:
        """Return the name as in Objective-C: `-[Class selector]`."""
        return f"{'+' if self.of_class else '-'}[{self.class_name} {self.selector}]"

    def matches(self, encoding: str) -> bool:
        """Return whether a type encoding found at run time has the expected kinds."""
        result, *arguments = parse_encoding(encoding)
        return list(map(kind_of, [result, *arguments[2:]])) == list(map(kind_of, self.kinds))


_SURFACE_OBJECT = "objectWithIOSurface:"
_REQUEST = "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:"

# The private ones as read at run time on macOS 27 and in header dumps of earlier systems; the rest is Foundation's.
METHODS = (
    Method("NSString", "stringWithUTF8String:", "@*", of_class=True),
    Method("NSString", "UTF8String", "*"),
    Method("NSNumber", "numberWithUnsignedLongLong:", "@Q", of_class=True),
    Method("NSArray", "arrayWithObjects:count:", "@^Q", of_class=True),
    Method("NSArray", "objectAtIndex:", "@Q"),
    Method("NSDictionary", "dictionaryWithObjects:forKeys:count:", "@^^Q", of_class=True),
    Method("NSDictionary", "allKeys", "@"),
    Method("NSData", "dataWithBytesNoCopy:length:freeWhenDone:", "@^QB", of_class=True),
    Method("NSError", "domain", "@"),
    Method("NSError", "code", "q"),
    Method("NSError", "localizedDescription", "@"),
    Method("_ANEInMemoryModelDescriptor", "modelWithMILText:weights:optionsPlist:", "@@@@", of_class=True),
    Method("_ANEInMemoryModel", "inMemoryModelWithDescriptor:", "@@", of_class=True),
    Method("_ANEInMemoryModel", "hexStringIdentifier", "@"),
    Method("_ANEInMemoryModel", "compileWithQoS:options:error:", "BI@^"),
    Method("_ANEInMemoryModel", "loadWithQoS:options:error:", "BI@^"),
    Method("_ANEInMemoryModel", "evaluateWithQoS:options:request:error:", "BI@@^"),
    Method("_ANEInMemoryModel", "unloadWithQoS:error:", "BI^"),
    Method("_ANEIOSurfaceObject", _SURFACE_OBJECT, "@^", of_class=True),
    Method("_ANERequest", _REQUEST, "@@@@@@@@", of_class=True),
    Method("NSError", "userInfo", "@", needed=False),
    Method("NSDictionary", "objectForKey:", "@@", needed=False),
    Method("_ANEInMemoryModel", "localModelPath", "@", needed=False),
    Method("_ANEInMemoryModel", "compiledModelExists", "B", needed=False),
    Method("_ANEInMemoryModel", "purgeCompiledModel", "v", needed=False),
    Method("_ANEDeviceInfo", "hasANE", "B", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "isVirtualMachine", "B", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "aneSubType", "@", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "aneArchitectureType", "@", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "numANEs", "I", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "numANECores", "I", of_class=True, needed=False),
    Method("NSProcessInfo", "processInfo", "@", of_class=True, needed=False),
    Method("NSProcessInfo", "thermalState", "q", needed=False),
    Method("NSProcessInfo", "isLowPowerModeEnabled", "B", needed=False),
    Method("NSProcessInfo", "beginActivityWithOptions:reason:", "@Q@", needed=False),
    Method("NSProcessInfo", "endActivity:", "v@", needed=False),
)
_OPTIONAL = {(method.class_name, method.selector): method for method in METHODS if not method.needed}


def advice_for(error: str) -> str:
    """Return what to do about the errors named in a text, such as `try another --dialect`; empty if unknown."""
    return ", or ".join(advice for reason, advice in ADVICE.items() if re.search(rf"\b{reason}\b", error))


def foundation_directory() -> str:
    """Return Foundation's directory of temporary files, without opening any library. On a Mac it is private to the
    user, whatever TMPDIR says; elsewhere, and with a stand-in, it is TMPDIR."""
    if sys.platform == "darwin" and not os.environ.get(STANDIN_VARIABLE):
        with contextlib.suppress(OSError, ValueError):
            return os.confstr(USER_TEMPORARY_DIRECTORY) or "/tmp"
    # Even if it cannot be written: all users share /tmp, and no run should wait for those of others.
    with contextlib.suppress(OSError):  # a relative one, in a directory that is gone
        return os.path.abspath(os.environ.get("TMPDIR") or "/tmp")
    return "/tmp"


def is_model_directory(path: str, temporary: str) -> bool:
    """Return whether a path can be a model's directory: absolute, named like an identifier, directly below `temporary`
    and not a symbolic link."""
    parent, name = os.path.split(path)
    return bool(os.path.isabs(path) and os.path.isabs(temporary) and os.pardir not in path.split(os.sep)
                and IDENTIFIER.fullmatch(name) and not os.path.islink(path)
                and os.path.realpath(parent) == os.path.realpath(temporary))


def remove_model_directory(path: str, existed: bool, temporary: str) -> None:
    """Remove a model's directory, or only a program's files from it if it `existed` before they were written. Errors
    are ignored: there is nowhere to report them."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: not a path at all
        if not is_model_directory(path, temporary):  # it comes from a library, or from a message that can be damaged
            return
        if not existed:
            shutil.rmtree(path, ignore_errors=True)
            return
        files = [(os.unlink, MIL_FILE), (os.unlink, WEIGHT_FILE), (os.rmdir, os.path.dirname(WEIGHT_FILE))]
        linked = os.path.islink(os.path.join(path, os.path.dirname(WEIGHT_FILE)))  # then the weights are elsewhere
        for remove, name in files[:1] if linked else files:
            with contextlib.suppress(OSError):
                remove(os.path.join(path, name))


class NeuralEngine:
    """Apple's engine, an Engine: the private in-memory model API and IOSurface."""

    def __init__(self, libraries: Libraries, original: bool = False) -> None:
        """Raise Unavailable if a library, or a function of it, is missing. `original`: make the original's calls."""
        libraries.open("Foundation")
        libraries.open("AppleNeuralEngine")
        self.runtime = Runtime(libraries)
        self.original = original
        # A model keeps its descriptor's data, which are these very buffers, for an unknown time: keep them until exit.
        self.pinned_buffers: list[bytearray] = []
        iosurface, system = (functools.partial(libraries.function, name) for name in ("IOSurface", "libSystem"))
        # IOSurfaceRef IOSurfaceCreate(CFDictionaryRef properties); void *IOSurfaceGetBaseAddress(IOSurfaceRef surface)
        self.create_surface = iosurface("IOSurfaceCreate", Pointer, ctypes.c_void_p)
        self._base_address = iosurface("IOSurfaceGetBaseAddress", ctypes.c_void_p, ctypes.c_void_p)
        # int IOSurfaceLock(IOSurfaceRef surface, uint32_t options, uint32_t *seed), and IOSurfaceUnlock
        lock = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
        self._lock, self._unlock = iosurface("IOSurfaceLock", *lock), iosurface("IOSurfaceUnlock", *lock)
        # void CFRelease(CFTypeRef object)
        self.cf_release = libraries.function("CoreFoundation", "CFRelease", None, ctypes.c_void_p)
        # uint64_t mach_absolute_time(void); int mach_timebase_info(struct { uint32_t numer, denom; } *info)
        self.now = system("mach_absolute_time", ctypes.c_uint64)
        fraction = (ctypes.c_uint32 * 2)()
        status = system("mach_timebase_info", ctypes.c_int, ctypes.c_void_p)(fraction)
        numerator, denominator = fraction
        if status or not numerator or not denominator:
            raise Unavailable(f"mach_timebase_info returned {status} and {numerator}/{denominator}: no unit of time")
        self.tick_ns = numerator / denominator

    def pool(self) -> contextlib.AbstractContextManager[None]:
        """Hold an autorelease pool."""
        return self.runtime.pool()

    def load(self, program: Program, qos: int, events: Events, owner: contextlib.ExitStack) -> Executable:
        """Return a program ready to evaluate at that QoS; its owner unloads it and removes its files. Raise StageError
        naming the stage that failed."""
        with self.pool():  # a refused program too is cleaned up when the owner closes: that can crash, and comes last
            return _LoadedModel(self, program, qos, events, owner.enter_context(contextlib.ExitStack()))

    def keep_awake(self, owner: contextlib.ExitStack) -> None:
        """Keep the Mac from sleeping until the owner closes, if this macOS can."""
        with self.pool():
            process = self.send_optional(self.runtime.find_class("NSProcessInfo"), "NSProcessInfo", "processInfo")
            activity = self.send_optional(process, "NSProcessInfo", "beginActivityWithOptions:reason:", KEEP_AWAKE,
                                          self.runtime.string("measuring the Neural Engine"))
            if activity:
                self.runtime.retain(activity, owner)
                owner.callback(self.send_optional, process, "NSProcessInfo", "endActivity:", activity)

    def temporary_directory(self) -> str:
        """Return Foundation's directory of temporary files, as Foundation itself says."""
        # NSString *NSTemporaryDirectory(void)
        function = self.runtime.libraries.function("Foundation", "NSTemporaryDirectory", Pointer)
        with self.pool():
            return self.runtime.text(function())

    def send_optional(self, receiver: Optional[Pointer], class_name: str, selector: str, *arguments: Any) -> Any:
        """Send a message that a run can do without. Return None if the receiver is nil or None, or if this macOS has no
        such method, or one of unexpected types."""
        method = _OPTIONAL[class_name, selector]
        if not receiver or not self.runtime.find_class(class_name) or not self.runtime.responds(receiver, selector):
            return None
        encoding = self.runtime.method_encoding(class_name, selector, method.of_class)
        return self.runtime.send(receiver, selector, *arguments) if encoding and method.matches(encoding) else None

    def describe_error(self, error: "ctypes.c_void_p") -> str:
        """Return domain, code and text of an NSError and of its underlying errors, on one line; a remark if it is nil.
        The outer text of a refused compile is always the same: the reason is in an underlying error."""
        runtime, current, chain = self.runtime, Pointer(error.value), dict[Optional[int], str]()
        while len(chain) < ERROR_LEVELS and current.value not in chain and runtime.responds(current, "domain"):
            domain, text = (runtime.text(runtime.send(current, name)) for name in ("domain", "localizedDescription"))
            chain[current.value] = f"{domain} {runtime.send(current, 'code')}: {' '.join(text.split())}"
            details = self.send_optional(current, "NSError", "userInfo")
            under = (self.send_optional(details, "NSDictionary", "objectForKey:", runtime.string(key)) for key in UNDER)
            current = next(filter(None, under), Pointer())
        return ", caused by ".join(chain.values()) or "no NSError was given"

    def surface_keys(self) -> list[Pointer]:
        """Return the keys of a surface's properties; raise Unavailable if one is missing."""
        return [self.runtime.libraries.constant("IOSurface", f"kIOSurface{name}")
                for name in ("Width", "Height", "BytesPerElement", "BytesPerRow", "AllocSize", "PixelFormat")]

    @contextlib.contextmanager
    def mapped(self, surface: Pointer, size: int, stage: str, options: int = 0) -> Iterator[memoryview]:
        """Lock a surface and yield its first `size` bytes, valid until it is unlocked. Raise StageError if it fails."""
        status = self._lock(surface, options, None)
        if status:
            raise StageError(stage, f"IOSurfaceLock returned {status & 0xffffffff:#x}")
        try:
            address = self._base_address(surface)
            if not address:
                raise StageError(stage, "IOSurfaceGetBaseAddress returned NULL")
            yield memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")
        finally:
            self._unlock(surface, options, None)


class _LoadedModel:
    """An _ANEInMemoryModel as an Executable, from descriptor to bound evaluate; its owner undoes all, in reverse."""

    def __init__(self, engine: NeuralEngine, program: Program, qos: int, events: Events,
                 owner: contextlib.ExitStack) -> None:
        self.facts: dict[str, Any] = {}
        self._engine, self._runtime, self._events, self._config = engine, engine.runtime, events, program.config
        self._variant, self._stage = program.variant.name, ""
        self._qos = qos if engine.original else COMPILE_QOS  # of compile, load and unload
        self._error = ctypes.c_void_p()
        # All objects are released last, after the model was unloaded and purged and its directory removed.
        self._objects = owner.enter_context(contextlib.ExitStack())
        self._options = self._runtime.retain(self._runtime.dictionary(), self._objects)
        self._model = self._create_model(bytearray(program.mil.encode()), program.blob)
        self._write_files(program, owner)
        self._compile(owner)
        self._load(owner)
        self._input, self._output = self._create_surface(), self._create_surface()
        request = self._create_request()
        self._evaluate = self._runtime.bind(self._model, "evaluateWithQoS:options:request:error:", qos, self._options,
                                            request, ctypes.byref(self._error))

    def _begin(self, stage: str) -> None:
        self._stage = stage
        self._events.stage(stage, self._variant)

    def _retained(self, result: Pointer) -> Pointer:
        """Return a result, retained; raise StageError if it is nil."""
        if not result:
            raise StageError(self._stage, "the result is nil")
        return self._runtime.retain(result, self._objects)

    def _create_model(self, mil: bytearray, blob: bytearray) -> Pointer:
        runtime = self._runtime
        self._engine.pinned_buffers += [mil, blob]
        self._begin("descriptor")
        weights = runtime.dictionary([(runtime.string(WEIGHT_PATH), self._weights_entry(blob))])
        descriptor = self._retained(runtime.create(
            "_ANEInMemoryModelDescriptor", "modelWithMILText:weights:optionsPlist:", runtime.data(mil), weights, None))
        self._begin("model")
        return self._retained(runtime.create("_ANEInMemoryModel", "inMemoryModelWithDescriptor:", descriptor))

    def _weights_entry(self, blob: bytearray) -> Pointer:
        """Return the dictionary of the weights' data and offset."""
        # The framework takes the value of the first key as the data: if `offset` is first, leave it out (0 by default).
        runtime = self._runtime
        data = (runtime.string("data"), runtime.data(blob))
        entry = runtime.dictionary([data, (runtime.string("offset"), runtime.number(0))])
        first = runtime.send(runtime.send(entry, "allKeys"), "objectAtIndex:", 0)
        return entry if runtime.text(first) == "data" else runtime.dictionary([data])

    def _write_files(self, program: Program, owner: contextlib.ExitStack) -> None:
        """Write the program where the framework looks for it, if that is a model's directory: it will be removed."""
        self._begin("identifier")
        identifier = self._runtime.text(self._runtime.send(self._model, "hexStringIdentifier"))
        if not IDENTIFIER.fullmatch(identifier):
            raise StageError(self._stage, f"hexStringIdentifier is {identifier!r}: expected the name of a directory")
        temporary = self._engine.temporary_directory()
        local_path = self._runtime.text(self._engine.send_optional(self._model, "_ANEInMemoryModel", "localModelPath"))
        path = (local_path or os.path.join(temporary, identifier)).rstrip(os.sep)
        self._begin("files")
        if os.path.basename(path) != identifier or not is_model_directory(path, temporary):
            raise StageError(self._stage, f"{path!r}: expected a directory {identifier}, not a link, in {temporary!r}")
        existed = os.path.lexists(path)
        self._events.directory(path)
        owner.callback(remove_model_directory, path, existed, temporary)
        try:
            program.write(path)
        except OSError as error:
            remove_model_directory(path, existed, temporary)  # now, since the disk may be full
            raise StageError(self._stage, f"{error.filename or path}: {error.strerror}") from None

    def _compile(self, owner: contextlib.ExitStack) -> None:
        exists = None
        if not self._engine.original:
            exists = self._engine.send_optional(self._model, "_ANEInMemoryModel", "compiledModelExists")
        if exists is not None:
            self.facts["compiled_before"] = bool(exists)
        compiled = not self._engine.original
        try:
            self.facts["compile_ms"] = self._send("compile", "compileWithQoS:options:error:", self._options)
        except StageError:
            compiled = False
            raise
        finally:
            if compiled:  # also if a signal ends this method as soon as the call has returned
                owner.callback(self._purge)

    def _load(self, owner: contextlib.ExitStack) -> None:
        load = functools.partial(self._send, "load", "loadWithQoS:options:error:", self._options)
        try:
            self.facts["load_ms"] = load()
        except StageError:
            if self._engine.original:
                raise
            time.sleep(RETRY_SECONDS)
            self.facts["load_ms"] = load()
        owner.callback(self._unload)

    def _send(self, stage: str, selector: str, *arguments: Any) -> float:
        """Send a message that is a stage of its own; return its duration in ms. Raise StageError if the answer is
        NO."""
        self._begin(stage)
        self._error.value = None
        started = time.perf_counter()
        if not self._runtime.send(self._model, selector, self._qos, *arguments, ctypes.byref(self._error)):
            raise StageError(stage, self._engine.describe_error(self._error))
        return (time.perf_counter() - started) * 1e3

    def _purge(self) -> None:
        """Drop the program from the system's cache, which would fill the disk."""
        self._begin("purge")
        with self._engine.pool():
            self._engine.send_optional(self._model, "_ANEInMemoryModel", "purgeCompiledModel")

    def _unload(self) -> None:
        with self._engine.pool():
            try:
                self._send("unload", "unloadWithQoS:error:")
            except StageError as error:
                self._events.warn("unload", f"{VARIANTS[self._variant].label} {self._config.label()}: unloading failed "
                                            f"({error}), after its figures were taken; if later programs fail to load, "
                                            "restart the Mac")

    def _create_surface(self) -> Pointer:
        """Return a surface that is one row of bytes."""
        self._begin("surface")
        engine, number, size = self._engine, self._runtime.number, self._config.tensor_bytes
        if not engine.original:
            size = -(-size // SURFACE_GRANULE) * SURFACE_GRANULE
        values = map(number, (size, 1, 1, size, size, 0))
        surface: Pointer = engine.create_surface(self._runtime.dictionary(list(zip(engine.surface_keys(), values))))
        if not surface:
            raise StageError(self._stage, f"IOSurfaceCreate failed for {size} bytes")
        self._objects.callback(engine.cf_release, surface)
        return surface

    def _create_request(self) -> Pointer:
        runtime = self._runtime
        self._begin("request")
        given, found = (runtime.array(self._retained(runtime.create("_ANEIOSurfaceObject", _SURFACE_OBJECT, surface)))
                        for surface in (self._input, self._output))
        zero = runtime.number(0)
        indices = runtime.array(zero)
        return self._retained(runtime.create("_ANERequest", _REQUEST, given, indices, found, indices, None, None, zero))

    def write_input(self, data: bytes) -> None:
        """Write the fp16 input, [channels][pixels], of exactly the tensor's size."""
        self._begin("surface")
        with self._engine.mapped(self._input, self._config.tensor_bytes, self._stage) as surface:
            surface[:] = data

    def evaluate(self) -> bool:
        """Compute the output from the input; return whether that worked."""
        self._error.value = None
        return bool(self._evaluate())

    def failure(self) -> str:
        """Return the NSErrors of the last evaluate. Call it before the pool drains."""
        return self._engine.describe_error(self._error)

    def poison(self, pixels: Sequence[int]) -> None:
        """Write NaN into all channels of these output pixels. A pixel's channels are one stride: 8 µs."""
        channel = memoryview(UNWRITTEN * self._config.channels).cast("H")
        with self._engine.mapped(self._output, self._config.tensor_bytes, "surface") as surface:
            halves = surface.cast("H")
            for pixel in pixels:
                halves[pixel::self._config.pixels] = channel

    def read_pixels(self, pixels: Sequence[int]) -> list[Vector]:
        """Return the channels of each of these output pixels."""
        shape, config = struct.Struct(f"<{self._config.channels}e"), self._config
        with self._engine.mapped(self._output, config.tensor_bytes, "read", LOCK_READ_ONLY) as surface:
            halves = surface.cast("H")
            return [shape.unpack(halves[pixel::config.pixels].tobytes()) for pixel in pixels]


# ======================================================================================================================
# 8. Measurement
#
# Used below: without_paths, Settings, MOST_SAMPLES, SETTING_CHOICES, ORIGINAL_SETTINGS, REFUSALS, SECONDS_PER_WEIGHT,
# Cell, Trial, Forms, attempts, each_reason_once, load_program, measure_rounds, observed_tick_ns, flat, FEWEST_ROUNDS,
# speed_estimate, verdict_interval, marginal, within_rounds_pattern, bimodality.
# ======================================================================================================================

def without_paths(text: str) -> str:
    """Return a text without the directories that may name a user: of temporary files, this file, Python, the home."""
    for path in (foundation_directory(), os.environ.get("TMPDIR", ""), os.path.dirname(os.path.abspath(__file__)),
                 os.path.dirname(sys.executable), os.path.expanduser("~")):
        if len(path) > 1:
            for name in (os.path.realpath(path), path):
                # Whole names: /tmp is not in /tmpfs.
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", "…", text)
    return text


class Settings(NamedTuple):
    """How a configuration is measured; in a record, the `protocol`.

    `iters` timed evaluates of each variant, in `rounds`, after `warmup` evaluates (None: until times are steady);
    `input` random or zeros; `verify` pixels compared; `blob` and `dialect` auto or a fixed one; at most `timeout`
    seconds without progress; `original` measures as the original does, one variant after the other.
    """

    iters: int = 50
    rounds: int = 10
    warmup: Optional[int] = None
    qos: int = 21
    seed: int = 0
    input: str = "random"
    verify: int = 1
    blob: str = "auto"
    dialect: str = "auto"
    original: bool = False
    timeout: float = 120.0

    def check(self) -> "Settings":
        """Return self; raise UsageError if a setting is invalid."""
        for name, (least, most) in SETTING_RANGES.items():
            value = getattr(self, name)
            if name == "warmup" and value is None:
                continue
            types: tuple[type, ...] = (int, float) if name == "timeout" else (int,)
            if type(value) not in types or not least <= value <= most:
                kind = "a number" if name == "timeout" else "a whole number"
                raise UsageError(f"{name} {value!r}: expected {kind} from {least} to {most}")
        if self.iters % self.rounds:
            raise UsageError(f"iters {self.iters}: expected a multiple of rounds ({self.rounds})")
        for name, choices in SETTING_CHOICES.items():
            if getattr(self, name) not in choices or type(getattr(self, name)) is not type(choices[0]):  # 1 is not True
                raise UsageError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(map(str, choices))}")
        return self

    @property
    def verifies(self) -> bool:
        """Return whether outputs are compared with the reference: zeros give zeros and prove nothing."""
        return self.verify > 0 and self.input != "zeros"


# A worker sends the samples of a cell in one message, and a record must stay one that read_record reads.
MOST_ITERS, MOST_SAMPLES = 1_000_000, 2_000_000
SETTING_RANGES: dict[str, tuple[float, float]] = {
    "iters": (1, MOST_ITERS), "rounds": (1, 100_000), "warmup": (0, MOST_ITERS), "qos": (0, (1 << 32) - 1),
    "seed": (0, LARGEST_SEED), "verify": (0, 4096), "timeout": (0.001, 1_000_000)}
SETTING_CHOICES: dict[str, tuple[Any, ...]] = {
    "input": ("random", "zeros"), "blob": ("auto", *LAYOUTS), "dialect": ("auto", *DIALECTS), "original": (False, True)}

# The original's own: QoS 0, zeros, one sequence of 50 evaluates after 10.
ORIGINAL_SETTINGS = Settings(rounds=1, warmup=10, qos=0, input="zeros", verify=0, blob="original", dialect="1.3",
                             original=True)

# The order in which a refused program is tried again (DESIGN.md, "Fallbacks"): the original's layout comes last, since
# macOS 15 enforces the sizes that it states wrongly.
ATTEMPTS = (("standard", "1.3"), ("standard", "1.0"), ("standard", "1.3-long"), ("original", "1.3"))
REFUSALS = ("descriptor", "model", "compile", "load")

# The engine's clock takes up to 0.8 s of work to rise, and falls within 100 ms of idling (facts of M4 and M6 by
# 751K/Apple-Neural-Engine-Microarchitecture-Study-M6): all variants are warmed up in turn, in slices.
SLICE_S, SHORTEST_WARMUP_S, LONGEST_WARMUP_S = 0.125, 0.5, 3.0
STEADY = 0.005

# The time of an evaluate before one was timed, and how much slower than its pace one may be before it counts as hung.
DEFAULT_PACE_S = 0.1
HANG_FACTOR = 10

# The most that generating a weight, or computing with it for one pixel, may take in plain Python.
SECONDS_PER_WEIGHT = 1e-6


class Cell:
    """One configuration in one variant: the facts that were measured, and the figures computed from them.

    `samples_ns` holds the times of each round in ns; `turns` the place of the variant in each round. A failed cell
    has a stage and an error, and samples only if it failed after it was timed. Ratio compares it with `baseline`.
    """

    # The facts, with their types in JSON (see matches_form).
    FORM: dict[str, Any] = {
        "status": str, "stage?": str, "error?": str, "compile_ms?": float, "load_ms?": float, "first_ms?": float,
        "compiled_before?": bool, "blob?": str, "dialect?": str, "refused?": [str], "measured_again?": bool,
        "turns?": [int], "samples_ns?": [[float]],
        "verified?": {"pixels": int, "ok": bool, "arithmetic?": str, "equal?": float, "cosine?": float,
                      "relative_l2?": float, "slope?": float, "max_error?": float,
                      "from_fp16?": {"cosine": float, "relative_l2": float}}}

    def __init__(self, config: Config, variant: str, settings: Settings, tick_ns: float = 0, **facts: Any) -> None:
        self.config, self.variant, self.settings, self.tick_ns = config, variant, settings, tick_ns
        self.baseline: Optional[Cell] = None
        self.status = "ok"
        self.stage: Optional[str] = None
        self.error: Optional[str] = None
        self.samples_ns: list[list[float]] = []
        self.turns: list[int] = []
        self.compile_ms: Optional[float] = None
        self.load_ms: Optional[float] = None
        self.first_ms: Optional[float] = None
        self.compiled_before: Optional[bool] = None
        self.blob: Optional[str] = None
        self.dialect: Optional[str] = None
        self.refused: list[str] = []
        self.verified: dict[str, Any] = {}
        self.measured_again: Optional[bool] = None
        self.note(**facts)

    def note(self, /, **facts: Any) -> None:
        """Add facts that are named in FORM; ignore others."""
        for name in self.FORM:
            if name.rstrip("?") in facts:
                setattr(self, name.rstrip("?"), facts[name.rstrip("?")])

    def fail(self, stage: str, error: str) -> None:
        """Make the cell a failed one. Its samples stay if all were taken."""
        self.note(status="failed", stage=stage, error=without_paths(error))
        if len(self.samples_ns) < self.settings.rounds:
            self.samples_ns, self.turns = [], []

    def facts(self) -> dict[str, Any]:
        """Return the known facts as JSON: the form in which a worker sends a cell, and a record holds it."""
        found = {name.rstrip("?"): getattr(self, name.rstrip("?")) for name in self.FORM}
        return {name: value for name, value in found.items() if value is not None and value not in ([], {})}

    @property
    def name(self) -> str:
        """Return the name in tables and messages, such as `W8A8 128x conv 512ch 64x64`."""
        return f"{VARIANTS[self.variant].label} {self.config.label()}"

    @property
    def ok(self) -> bool:
        """Return whether the cell was measured, and verified if that was asked."""
        return self.status == "ok"

    @property
    def failure(self) -> str:
        """Return why the cell failed; empty if it did not."""
        return "" if self.ok else f"failed in stage {self.stage}: {self.error}"

    @property
    def check(self) -> str:
        """Return the result of the verification: ok, WRONG, or empty if there was none."""
        return "" if not self.verified else "ok" if self.verified["ok"] else "WRONG"

    @property
    def weights_mib(self) -> float:
        """Return the MiB of weights, without header and records."""
        return VARIANTS[self.variant].weights_mib(self.config)

    @property
    def samples(self) -> list[float]:
        """Return all timed evaluates in ns, in the order in which they were made."""
        return [sample for samples in self.samples_ns for sample in samples]

    @functools.cached_property
    def ms(self) -> dict[str, Any]:
        """Return the figures of the times in ms: median, mean, min, p95, mad, and ci95 of the median if there is an
        interval; empty if there are no samples."""
        samples = [sample / 1e6 for sample in self.samples]
        if not samples:
            return {}
        median = statistics.median(samples)
        figures: dict[str, Any] = {
            "median": median, "mean": statistics.fmean(samples), "min": min(samples),
            "p95": statistics.quantiles(samples * 2 if len(samples) == 1 else samples, n=20, method="inclusive")[-1],
            "mad": statistics.median([abs(sample - median) for sample in samples])}
        interval = median_interval(self.samples_ns, self.tick_ns)
        return {**figures, "ci95": [end / 1e6 for end in interval]} if interval else figures

    @property
    def milliseconds(self) -> Optional[float]:
        """Return the time that is shown: the median, or the original's mean."""
        return self.ms.get("mean" if self.settings.original else "median")

    @property
    def tops(self) -> Optional[float]:
        """Return the rate in 10**12 operations a second; None without samples."""
        return self.config.gop / self.milliseconds if self.milliseconds else None

    @functools.cached_property
    def ratio(self) -> dict[str, Any]:
        """Return how many times faster than the baseline the cell is: value, and ci95 if there is an interval; empty if
        either cell failed."""
        base = self.baseline
        if base is None or base is self or not (base.ok and self.ok and base.samples and self.samples):
            return {}
        average = statistics.fmean if self.settings.original else statistics.median
        alternating = [number % 2 for number in range(len(self.samples_ns))]  # as in records without `turns`
        classes: list[Any] = list(zip(self.turns, base.turns)) or alternating
        return ratio_estimate(base.samples_ns, self.samples_ns, classes, average, self.tick_ns)


class Trial:
    """A variant while it is measured: its cell, its loaded program, and by rounds the clock's marks, its turns, and
    outputs."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.program: Optional[Program] = None
        self.executable: Optional[Executable] = None
        self.pace_s = DEFAULT_PACE_S
        self.marks: list[list[int]] = []
        self.turns: list[int] = []
        self.outputs: list[list[Vector]] = []

    @property
    def runs(self) -> bool:
        """Return whether the variant is loaded and has not failed."""
        return self.cell.ok and self.executable is not None

    @contextlib.contextmanager
    def guarded(self, events: Events) -> Iterator[None]:
        """Turn an error within into a failure of this variant alone."""
        try:
            yield
        except StageError as error:
            self.cell.fail(error.stage, str(error))
        except Unavailable:
            raise
        except Exception as error:
            self.cell.fail(events.current, f"{type(error).__name__}: {error}")


Forms = Sequence[tuple[str, str]]  # weight-file layouts and dialects


def attempts(settings: Settings) -> Forms:
    """Return the weight-file layouts and dialects to try, in order."""
    layouts = LAYOUTS if settings.blob == "auto" else (settings.blob,)
    dialects = DIALECTS if settings.dialect == "auto" else (settings.dialect,)
    every = [(layout, dialect) for layout in layouts for dialect in dialects]
    return list(ATTEMPTS) if len(layouts) > 1 and len(dialects) > 1 else every


def each_reason_once(refused: Sequence[str]) -> str:
    """Return texts such as `standard/1.3: reason` as one text with each reason once, after all its forms."""
    forms: dict[str, list[str]] = {}
    for form, _, reason in (text.partition(": ") for text in refused):
        forms.setdefault(reason, []).append(form)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in forms.items())


def load_program(engine: Engine, trial: Trial, forms: Forms, events: Events, owner: contextlib.ExitStack) -> None:
    """Load a variant's program in the first form that is not refused. Raise StageError naming all that were tried."""
    cell, settings = trial.cell, trial.cell.settings
    refused: list[str] = []
    for layout, dialect in forms:
        events.stage("generate", cell.variant, SECONDS_PER_WEIGHT * cell.config.weights)
        program = build_program(cell.config, cell.variant, seed=settings.seed, original=settings.original,
                                blob=layout, dialect=dialect)
        try:
            events.rest(cell.variant)
            executable = engine.load(program, settings.qos, events, owner)
        except StageError as error:
            refused.append(without_paths(f"{layout}/{dialect}: {error}"))
            if error.stage == "compile":
                events.refused()
            if error.stage in REFUSALS and len(refused) < len(forms):
                continue
            cell.refused = refused[:-1]
            text = each_reason_once(refused) if cell.refused else str(error)
            advice = advice_for(text)
            if settings.original:
                advice = advice.replace("another --dialect", "it without --original")
            if "--dialect" in advice and (len(forms) > 1 or settings.dialect == "auto"):  # now, or before
                advice = "no form of the program is accepted; send the output of doctor"
            raise StageError(error.stage, f"{text}; {advice}" if advice else text) from None
        cell.note(blob=layout, dialect=dialect, refused=refused, **executable.facts)
        trial.program, trial.executable = program, executable
        return


def measure_rounds(engine: Engine, trials: Sequence[Trial], pixels: Sequence[int], events: Events) -> None:
    """Warm all loaded programs up, then time them in rounds of changing order, with no computations in between. In two
    rounds, `pixels` of the outputs are poisoned after the uncounted evaluate, and read at the end."""
    settings = trials[0].cell.settings
    warm_up(engine, trials, events)
    poisoned = poisoned_rounds(settings) if pixels else ()
    for number in range(settings.rounds):
        turns = [trials[place] for place in turn_order(number, len(trials)) if trials[place].runs]
        if not turns:
            return
        seconds = HANG_FACTOR * sum(trial.pace_s for trial in turns) * (settings.iters // settings.rounds + 1)
        events.round(",".join(trial.cell.variant for trial in turns), seconds, number + 1, settings.rounds)
        for turn, trial in enumerate(turns):
            events.turn(trial.cell.variant)
            trial.turns.append(turn)
            with trial.guarded(events):
                measure_round(engine, trial, pixels if number in poisoned else ())
    for trial in trials:
        if len(trial.marks) == settings.rounds:  # also if its output could not be read in the end
            with trial.guarded(events):
                trial.cell.note(samples_ns=samples_of(engine, trial.marks), turns=trial.turns)


def measure_round(engine: Engine, trial: Trial, pixels: Sequence[int]) -> None:
    """Time one round of one variant: an uncounted evaluate, which takes the switch, then the timed ones."""
    settings, executable = trial.cell.settings, trial.executable
    assert executable
    with engine.pool():
        if not settings.original:
            timed_evaluates(engine, executable, "evaluate", 1)
        if pixels:
            executable.poison(pixels)
        trial.marks.append(timed_evaluates(engine, executable, "evaluate", settings.iters // settings.rounds))
    if pixels:
        trial.outputs.append(executable.read_pixels(pixels))


def poisoned_rounds(settings: Settings) -> Sequence[int]:
    """Return the rounds whose outputs are verified: the last, and one before it, drawn by the seed."""
    last = settings.rounds - 1
    return sorted({last, int(random.Random(settings.seed).random() * max(last, 1))})


def warm_up(engine: Engine, trials: Sequence[Trial], events: Events) -> None:
    """Evaluate uncounted, each variant in turn: `warmup` times, or until the times of all are steady."""
    count = trials[0].cell.settings.warmup
    running = [trial for trial in trials if trial.runs and count != 0]
    for trial in running:  # the first by itself: it tells how long the others may take
        events.turn(trial.cell.variant)
        events.stage("warm-up", trial.cell.variant, HANG_FACTOR * DEFAULT_PACE_S)
        with trial.guarded(events):
            warm_up_slice(engine, trial, 1)
            trial.cell.note(first_ms=trial.pace_s * 1e3)
    running = [trial for trial in running if trial.runs]
    paces = HANG_FACTOR * sum(trial.pace_s for trial in running)
    if running:
        limit = paces * count if count is not None else LONGEST_WARMUP_S + 2 * paces
        events.stage("warm-up", ",".join(trial.cell.variant for trial in running), limit)
        warm_up_in_slices(engine, running, events, None if count is None else count - 1)


def warm_up_in_slices(engine: Engine, running: Sequence[Trial], events: Events, count: Optional[int]) -> None:
    """Evaluate each variant `count` times, or in slices until for each the medians of its last two differ by less than
    half a percent."""
    started, spent_ns, previous = time.monotonic(), 0.0, [math.inf] * len(running)
    while True:
        latest = []
        for trial in running:
            events.turn(trial.cell.variant)
            samples = [0.0]
            with trial.guarded(events):
                samples = warm_up_slice(engine, trial, count) if trial.cell.ok else samples
            latest.append(statistics.median(samples))
            spent_ns += sum(samples)
        steady = all(abs(new - old) <= STEADY * new for old, new in zip(previous, latest))
        elapsed = max(spent_ns / 1e9, time.monotonic() - started)  # one of the clocks may stand still
        if count is not None or elapsed >= (SHORTEST_WARMUP_S if steady else LONGEST_WARMUP_S):
            return
        previous = latest


def warm_up_slice(engine: Engine, trial: Trial, count: Optional[int]) -> list[float]:
    """Evaluate `count` times, or for a slice of time; note the pace, and return the times in ns (of many the last)."""
    assert trial.executable
    samples: list[float] = []
    spent_ns, until = 0.0, time.monotonic() + SLICE_S
    with engine.pool():
        if count is not None:
            samples = durations(engine, "warm-up", timed_evaluates(engine, trial.executable, "warm-up", count)[-9:])
        while count is None and spent_ns < SLICE_S * 1e9 and time.monotonic() < until:
            samples += durations(engine, "warm-up", timed_evaluates(engine, trial.executable, "warm-up", 2))
            spent_ns += samples[-1] + samples[-2]
    trial.pace_s = max(samples[-8:], default=trial.pace_s * 1e9) / 1e9
    return samples or [0.0]


def timed_evaluates(engine: Engine, executable: Executable, stage: str, count: int) -> list[int]:
    """Evaluate `count` times back to back; return what the clock read before, between and after. Raise StageError if an
    evaluate fails."""
    run_once, now = executable.evaluate, engine.now
    marks = [now()]
    for _ in range(count):
        if not run_once():
            raise StageError(stage, f"evaluate returned NO: {executable.failure()}")
        marks.append(now())
    return marks


def durations(engine: Engine, stage: str, marks: Sequence[int]) -> list[float]:
    """Return the ns between readings of the clock. If it is so coarse that it stood still over one evaluate, they share
    the time of all. Raise StageError if it ran backwards."""
    ticks: list[float] = list(map(sub, marks[1:], marks))
    if min(ticks, default=0) < 0:
        raise StageError(stage, f"the clock ran backwards by {-min(ticks):.0f} ticks, so its times mean nothing")
    if not all(ticks):
        ticks = [sum(ticks) / len(ticks)] * len(ticks)
    return [tick * engine.tick_ns for tick in ticks]


def samples_of(engine: Engine, rounds: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the ns of each timed evaluate, by rounds. Raise StageError if the clock stood still over a round."""
    samples = [durations(engine, "evaluate", marks) for marks in rounds]
    if not all(map(all, samples)):
        raise StageError("evaluate", f"the clock stood still over {len(samples[0])} evaluates in a row: they took less "
                                     "than its tick, or did nothing; try more --iters in as many --rounds")
    return samples


def observed_tick_ns(engine: Engine) -> float:
    """Return the step of the clock in ns, which may be coarser than its unit: the common divisor of steps observed."""
    steps: list[int] = []
    last, until = engine.now(), time.monotonic() + 0.5
    while len(steps) < 5 and time.monotonic() < until:
        mark = engine.now()
        steps += [mark - last] if mark > last else []
        last = mark
    return math.gcd(*steps) * engine.tick_ns if steps else engine.tick_ns


def flat(vectors: Iterable[Vector]) -> list[float]:
    """Return the values of vectors, one vector after the other."""
    return [value for vector in vectors for value in vector]


# Statistics
#
# Evaluates of one round are alike, so intervals come from rounds; fewer than five cannot tell how much they vary.
# "95 %" means that intervals cover the truth in 92.5 to 97 % of simulated runs of independent rounds. A coarse clock
# gives a time as one of the two whole numbers of ticks next to it, so a median is wrong by less than a tick: intervals
# are wider by a tick at each end. Figures named "simulated" come from tests/test_statistics.py.

FEWEST_ROUNDS = 5
TWO_TICKS = 2  # the errors of two readings may add up, but Estimate.less adds squares: 2 is over sqrt(2) / 0.78
LEAST_FACTOR = 1.05  # patterns below this matter less than what differs between runs


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval, which are infinite if it cannot be told."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> Optional[list[float]]:
        """Return [low, high], or None if it cannot be told."""
        return [self.low, self.high] if math.isfinite(self.high - self.low) else None

    def times(self, factor: float) -> "Estimate":
        """Return the estimate times a positive number."""
        return Estimate(*(factor * value for value in self))

    def less(self, other: "Estimate") -> "Estimate":
        """Return the difference of independent estimates. Distances to the ends add up as squares, each side by
        itself (Zou and Donner 2008); two sign intervals so combined cover 98 %, hence 0.78 (simulated)."""
        value = self.value - other.value
        return Estimate(value, value - 0.78 * math.hypot(self.value - self.low, other.high - other.value),
                        value + 0.78 * math.hypot(self.high - self.value, other.value - other.low))


def turn_order(number: int, count: int) -> list[int]:
    """Return the order of `count` variants in round `number`: in `count` rounds each has each place once."""
    return [(number + place) % count for place in range(count)]


def student_quantile(confidence: float, freedom: int) -> float:
    """Return the quantile of Student's t for a two-sided interval: Abramowitz and Stegun 26.7.5, too small by 0.1 %
    for three degrees of freedom, by 1 % for two."""
    x = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    return (x + (x ** 3 + x) / 4 / freedom + (5 * x ** 5 + 16 * x ** 3 + 3 * x) / 96 / freedom ** 2
            + (3 * x ** 7 + 19 * x ** 5 + 17 * x ** 3 - 15 * x) / 384 / freedom ** 3
            + (79 * x ** 9 + 776 * x ** 7 + 1482 * x ** 5 - 1920 * x ** 3 - 945 * x) / 92160 / freedom ** 4)


@functools.cache
def sign_interval(count: int) -> tuple[int, float]:
    """Return depth and share: the 95 % interval of a median of `count` values begins this share of the way from the
    value of rank `depth` to the next, and ends alike, counted from above (Hettmansperger and Sheather 1986). Five
    values reach 93.75 %, with their extremes."""
    if count > 1000:  # the normal limit
        rank = (count + 1) / 2 - 0.98 * math.sqrt(count)
        return int(rank), rank % 1
    depth, outside, term, total = 1, 1, count, 2 ** count  # a binomial's tail, in units of 2**-count
    while 40 * (outside + term) <= total:
        outside, term, depth = outside + term, term * (count - depth) // (depth + 1), depth + 1
    part = max(0.0, (total / 40 - outside) / term)
    return depth, (count - depth) * part / (depth + (count - 2 * depth) * part)


def centred_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of each value, less the mean; equal values share theirs."""
    ordered = sorted(values)
    last = {value: place for place, value in enumerate(ordered)}
    last_of_reversed = {value: place for place, value in enumerate(reversed(ordered))}
    return [last[value] - last_of_reversed[value] for value in values]


def widening(values: Sequence[float], means: int = 1) -> float:
    """Return how many times wider an interval is because neighbouring rounds resemble each other, as in a first-order
    autoregression: from the lag-1 correlation of ranks, without its bias in short series (Kendall 1954: -(1 + 4r) /
    n). `means` is how many were subtracted from the values."""
    count, ranks = len(values), centred_ranks(values)
    correlation = sum(map(mul, ranks, ranks[1:])) / (sum(map(mul, ranks, ranks)) or 1)
    if correlation < 0.7 / math.sqrt(count - means):  # may be chance
        return 1.0
    correlation = min(0.9, (count * correlation + 1) / (count - 4))  # few rounds do not tell more
    return math.sqrt((1 + correlation) / (1 - correlation))


def median_estimate(rounds: Sequence[Sequence[float]], tick: float = 0) -> Estimate:
    """Return the median of all samples, its interval from the medians of rounds; all in the unit of the tick."""
    median, middles = statistics.median(flat(rounds)), [statistics.median(samples) for samples in rounds]
    if len(rounds) < FEWEST_ROUNDS:
        return Estimate(median, -math.inf, math.inf)
    (depth, share), ordered, wider = sign_interval(len(rounds)), sorted(middles), widening(middles)
    low = ordered[depth - 1] + share * (ordered[depth] - ordered[depth - 1])
    high = ordered[-depth] - share * (ordered[-depth] - ordered[-depth - 1])
    bias = (median - statistics.median(middles)) / 2  # of medians of skewed times; the other half may be chance
    return Estimate(median, max(0.0, median - wider * max(0.0, median - min(low, low + bias)) - tick),
                    median + wider * max(0.0, max(high, high + bias) - median) + tick)


def median_interval(rounds: Sequence[Sequence[float]], tick: float = 0) -> Optional[list[float]]:
    """Return the 95 % interval [low, high] of the median of all samples; None below FEWEST_ROUNDS."""
    return median_estimate(rounds, tick).interval


def ratio_estimate(baseline: Sequence[Sequence[float]], rounds: Sequence[Sequence[float]], classes: Sequence[Any],
                   average: Callable[[Sequence[float]], float] = statistics.median, tick: float = 0) -> dict[str, Any]:
    """Return {"value", "ci95"}: how many times faster than the baseline. Logarithms of each round's quotient are
    averaged over the rounds of a class (those with the same order of variants), then over classes, so that effects of
    the order cancel out; exchanging the variants gives the inverse. Without ci95 if rounds are too few; {} if the
    average of one is not over a tick."""
    pairs = [(average(base), average(own)) for base, own in zip(baseline, rounds)]
    if min(map(min, pairs)) <= tick:
        return {}
    logarithms = [math.log(base) - math.log(own) for base, own in pairs]
    groups = [[value for value, own in zip(logarithms, classes) if own == group] for group in dict.fromkeys(classes)]
    means = dict(zip(dict.fromkeys(classes), map(statistics.fmean, groups)))
    centre, freedom = statistics.fmean(means.values()), len(pairs) - len(groups)
    if len(pairs) < FEWEST_ROUNDS or freedom < 2:
        return {"value": math.exp(centre)}
    rest = [value - means[group] for value, group in zip(logarithms, classes)]
    error = math.sqrt(sum(map(mul, rest, rest)) / freedom * sum(1 / len(group) for group in groups)) / len(groups)
    ticks = max(-math.log1p(-tick / base) - math.log1p(-tick / own) for base, own in pairs)
    half = student_quantile(0.95, freedom) * error * widening(rest, len(groups)) + ticks
    return {"value": math.exp(centre), "ci95": [math.exp(centre - half), math.exp(centre + half)]}


def speed_estimate(base: Sequence[Sequence[float]], new: Sequence[Sequence[float]],
                   tick: float = 0) -> tuple[float, Optional[list[float]]]:
    """Return how many times faster the new of two independent runs is, and its 95 % interval [low, high] or None."""
    estimates = [median_estimate(rounds, TWO_TICKS * tick) for rounds in (base, new)]
    logarithms = [Estimate(*(math.log(value) if value > 0 else -math.inf for value in estimate))
                  for estimate in estimates]
    quotient = logarithms[0].less(logarithms[1])
    return math.exp(quotient.value), list(map(math.exp, quotient.interval)) if quotient.interval else None


def verdict_interval(value: float, interval: Sequence[float]) -> list[float]:
    """Return a speed's interval made twice as wide, on a logarithmic scale. Runs differ if it excludes 1: that is
    wrong for less than 5 % of equal runs even if neighbouring rounds correlate by 0.5, which few rounds do not show."""
    return [end * end / value for end in interval]


def marginal(shallow: Sequence[Sequence[float]], deep: Sequence[Sequence[float]], shallow_gop: float, deep_gop: float,
             tick: float = 0) -> dict[str, Any]:
    """Return {"tops", "tops_interval", "fixed_ms", "fixed_interval"}, intervals of 95 % or None, from the times in ns
    of two depths measured independently, as if each were fixed + GOP / rate; {} if the deeper is not the slower one."""
    more = deep_gop - shallow_gop
    less_ms, more_ms = (median_estimate(rounds, TWO_TICKS * tick).times(1e-6) for rounds in (shallow, deep))
    time, fixed = more_ms.less(less_ms), less_ms.times(deep_gop / more).less(more_ms.times(shallow_gop / more))
    if time.value <= 0:
        return {}
    return {"tops": more / time.value, "tops_interval": [more / time.high, more / time.low] if time.low > 0 else None,
            "fixed_ms": fixed.value, "fixed_interval": fixed.interval}


def within_rounds_pattern(rounds: Sequence[Sequence[float]], tick: float = 0) -> Optional[tuple[int, float]]:
    """Return how many first evaluates of rounds differ from the others, and by which factor; or None. Ranks within
    rounds must not be explained by chance, and the factor must be alike in all rounds and exceed the scatter of
    rounds, or it is drift or correlated noise."""
    count, length = len(rounds), min(map(len, rounds), default=0)
    if count < FEWEST_ROUNDS or length < 2:
        return None
    sums: Iterable[float] = itertools.accumulate(map(sum, zip(*map(centred_ranks, rounds))))
    scores = [abs(total) / math.sqrt(count * first * (length - first) * (length + 1) / 3)  # Wilcoxon's rank sums
              for first, total in zip(range(1, length), sums)]
    first = 1 + scores.index(max(scores))
    starts, ends = ([statistics.median(samples[part]) for samples in rounds]
                    for part in (slice(first), slice(first, None)))
    if max(scores) < statistics.NormalDist().inv_cdf(1 - 0.004 / length) or min(starts + ends) <= 0:
        return None
    steps: list[float] = [math.log(start / end) for start, end in zip(starts, ends)]
    error = student_quantile(0.995, count - 1) * statistics.stdev(steps) / math.sqrt(count)
    least = max(error, statistics.stdev(map(math.log, ends)), math.log(LEAST_FACTOR), 2 * tick / min(starts + ends))
    step = statistics.fmean(steps)
    return (first, math.exp(step)) if abs(step) > least else None


def bimodality(samples: Sequence[float], tick: float = 0) -> Optional[tuple[float, float, float]]:
    """Return the two levels that samples lie on, as low, high, and the share on the low one; or None. Each holds a
    fifth of them or more, and they lie six times as far apart, on a logarithmic scale, as samples of a level scatter:
    one peak, a long tail or a drift does so in less than 1 % of runs (simulated)."""
    ordered = sorted(samples)
    if len(ordered) < 25 or ordered[0] <= 0:
        return None
    values = [math.log(sample) for sample in ordered[:len(ordered) - len(ordered) // 20]]  # without outliers
    fifth = math.ceil(len(values) / 5)
    split = max(range(fifth, len(values) - fifth + 1), key=lambda place: values[place] - values[place - 1])
    parts = values[:split], values[split:]
    means = [statistics.fmean(part) for part in parts]
    scatter = math.hypot(*(math.dist(part, [mean] * len(part)) / math.sqrt(len(part) - 1)
                           for part, mean in zip(parts, means))) / math.sqrt(2)
    low, high = statistics.median(ordered[:split]), statistics.median(ordered[split:])
    found = means[1] - means[0] > 6 * scatter and high > max(LEAST_FACTOR * low, low + 2 * tick)
    return (low, high, split / len(ordered)) if found else None


# ======================================================================================================================
# 9. Verification
#
# Used below: Verdict, distance_from_fp16, chosen_pixels, verify.
# ======================================================================================================================

# Limits are 1.3 times what right engines of any arithmetic reach in the simulations of tests/test_verification.py, or
# more. By activations and kernel: the relative L2, and the distance of the slope from 1, per square root of the depth,
# with as many channels. Sums in fp16 lose more if they have more terms.
LIMITS = {("fp16", 1): (0.0055, 0.0012, 512), ("int8", 1): (0.020, 0.0085, 512),
          ("fp16", 3): (0.0095, 0.0028, 128), ("int8", 3): (0.021, 0.009, 512)}
MAX_RELATIVE_L2 = 1.2
MOST = 0.5  # a larger share of equal values shows the arithmetic
UNRELATED = 0.5  # a lower cosine means another computation, not another rounding

# The largest relative L2 if the arithmetic is known: INT8 is exact then. FP16 (per square root of the depth) reaches
# 0.0005; with bf16 stores it would be 0.0010 or more.
KNOWN_LIMITS = {"fp16": 0.0007, "int8": 0.02}

# Below, n is the number of values or pixels compared: the more there are, the nearer to 1 an average is.
# The distance from an output without quantization, if 1 is what quantization usually causes: right engines stay above
# 1 - 2.7 / sqrt(n) and below 1.2 + 2.7 / sqrt(n); with 3x3, for which the usual is estimated, above 0.34.
NOISE_LIMITS = {1: ((1.0, -4.0), (1.3, 4.0)), 3: ((0.2, 0.0), (math.inf, 0.0))}
QUANTIZATION_NOISE = 2.0 ** -ACTIVATION_EXPONENT / math.sqrt(12)  # the rms of one rounding

# The largest and the third largest error of a channel, if 1 is usual, may be 1 + so much / sqrt(n).
ERROR_LIMITS = {"fp16": ((1, 7.0), (3, 4.5)), "int8": ((1, 5.5), (3, 3.5))}
FEWEST_CHANNELS = 32  # with fewer, the usual error is uncertain


class Comparison(NamedTuple):
    """How an output differs from the expected values. `floor` is their rms, at most 1: a relative error times it is
    relative to values as large as the input's."""

    cosine: float
    relative_l2: float
    slope: float
    max_error: float
    floor: float


class Verdict(NamedTuple):
    """The fields of a cell's `verified`, the reason why the output is wrong (or None), warnings as (code, text)."""

    verified: dict[str, Any]
    problem: Optional[str]
    warnings: list[tuple[str, str]]


def compare_vectors(values: Vector, expected: Vector) -> Comparison:
    """Return how finite values differ from the expected ones."""
    pairs = ((values, expected), (values, values), (expected, expected))
    dot, own, power = (sum(map(mul, *pair)) or 1e-12 for pair in pairs)
    errors = list(map(sub, values, expected))
    return Comparison(dot / math.sqrt(own * power), math.sqrt(sum(map(mul, errors, errors)) / power), dot / power,
                      max(map(abs, errors)), min(1.0, math.sqrt(power / len(expected))))


def distance_from_fp16(output: Sequence[Vector], fp16: Sequence[Vector]) -> dict[str, float]:
    """Return cosine and relative L2 of an output, [pixel][channel], against the FP16 variant's output."""
    found = compare_vectors(flat(output), flat(fp16))
    return {"cosine": found.cosine, "relative_l2": found.relative_l2}


def chosen_pixels(config: Config, seed: int, count: int) -> list[int]:
    """Return the indices of the pixels to verify, drawn by the seed. With a kernel of 3 the first lies on an edge,
    where the padding shows, but not in a corner; the second lies inside."""
    draw = random.Random(seed).random
    last = config.spatial - 1
    chosen: dict[int, None] = {}
    while len(chosen) < min(count, config.pixels):
        index = int(draw() * config.pixels)
        edges = sum(place in (0, last) for place in divmod(index, config.spatial))
        if config.kernel == 1 or last < 2 or len(chosen) >= 2 or edges == (1, 0)[len(chosen)]:
            chosen[index] = None
    return list(chosen)


def verify(program: Program, data: bytes, pixels: Sequence[int], outputs: Sequence[Sequence[Vector]],
           known: bool) -> Verdict:
    """Return the verdict on the worst of the outputs, [round][pixel][channel], compared with the reference. `data` is
    the whole fp16 input; `known`: whether the chip's arithmetic is. Raise MilError or BlobError if the reference cannot
    compute the program."""
    references = compute_references(program, data, pixels, outputs)
    verdicts = [judge(program.config, program.variant.activations, output, references, known) for output in outputs]
    wrong = [verdict for verdict in verdicts if verdict.problem]
    worst = max(wrong or verdicts, key=lambda verdict: verdict.verified.get("relative_l2", math.inf))
    problem = worst.problem
    if problem and len(wrong) < len(outputs):
        problem = f"in {len(wrong)} of {len(outputs)} rounds verified, {problem}"
    warnings = {code: (code, text) for verdict in verdicts for code, text in verdict.warnings}
    verified = {"pixels": len(pixels) * len(outputs), **worst.verified, "ok": problem is None}
    return Verdict(verified, problem, list(warnings.values()))


def compute_references(program: Program, data: bytes, pixels: Sequence[int],
                       outputs: Sequence[Sequence[Vector]]) -> Mapping[Arithmetic, Sequence[Vector]]:
    """Return the reference of these pixels, [pixel][channel], in each arithmetic; of W8A8 also without quantization.
    For 3x3 there is one, without rounding."""
    reference = Reference(program.mil, program.blob)
    first, *others = [Arithmetic(rounding, store) for rounding in ("away", "even") for store in ("fp16", "fp32")]
    unquantized = Arithmetic(quantizes=False)
    if program.config.kernel == 3:
        return {unquantized: reference.compute(data, pixels, [unquantized])[0]}
    quantizes = program.variant.activations == "int8" and program.config.depth > 1
    chosen = [first, unquantized] if quantizes else [first, *others]
    found = dict(zip(chosen, reference.compute(data, pixels, chosen)))
    # INT8 is exact: if the outputs equal the reference in an M4's arithmetic, the others need not be computed.
    if quantizes and any(equal_share(output, found[first]) < 1 for output in outputs):
        found.update(zip(others, reference.compute(data, pixels, others)))
    return found


def equal_share(output: Sequence[Vector], expected: Sequence[Vector]) -> float:
    """Return the share of values of [pixel][channel] that are equal to the last bit."""
    return statistics.fmean(map(eq, flat(output), flat(expected)))


def judge(config: Config, activations: str, output: Sequence[Vector],
          references: Mapping[Arithmetic, Sequence[Vector]], known: bool) -> Verdict:
    """Return the verdict on the output of one round, [pixel][channel], given the references of these pixels."""
    rounded = {arithmetic: vectors for arithmetic, vectors in references.items() if arithmetic.quantizes} or references
    problem = output_defect(flat(output), flat(next(iter(rounded.values()))), config)
    if problem:
        return Verdict({}, problem, [])
    compared = {arithmetic: compare_vectors(flat(output), flat(vectors)) for arithmetic, vectors in rounded.items()}
    nearest, *others = sorted(compared, key=lambda arithmetic: compared[arithmetic].relative_l2)
    found, expected = compared[nearest], rounded[nearest]
    equal = equal_share(output, expected)
    verified: dict[str, Any] = {}
    if config.kernel == 1:
        if equal > MOST or others and found.relative_l2 <= compared[others[0]].relative_l2 / 2:
            verified["arithmetic"] = nearest.name
        verified["equal"] = equal
    verified.update(cosine=found.cosine, relative_l2=found.relative_l2, slope=found.slope, max_error=found.max_error)
    pixels = [compare_vectors(*pair) for pair in zip(output, expected)]
    mismatches = [explain_mismatch(found, len(output) * config.channels, config, activations),
                  *[explain_mismatch(pixel, config.channels, config, activations) for pixel in pixels],
                  explain_large_errors(output, expected, config, activations, equal > MOST)]
    problem = next(filter(None, mismatches), None)
    warnings = []
    unquantized = next((vectors for arithmetic, vectors in references.items() if not arithmetic.quantizes), None)
    if unquantized and activations == "int8" and config.depth > 1 and config.channels >= FEWEST_CHANNELS:
        noise = explain_noise(flat(output), list(map(flat, rounded.values())), flat(unquantized), config)
        if known:
            problem = problem or noise
        elif noise and not problem:
            warnings.append(("quantization", noise))
    if known and config.kernel == 1 and not problem:
        warnings += warnings_about_rounding(found, config, activations)
    return Verdict(verified, problem, warnings)


def warnings_about_rounding(found: Comparison, config: Config, activations: str) -> list[tuple[str, str]]:
    """Return the warning that an output is farther from the reference than the chip's known arithmetic, if it is."""
    limit = KNOWN_LIMITS[activations] * (math.sqrt(config.depth) if activations == "fp16" else 1)
    if found.relative_l2 * found.floor <= limit:
        return []
    return [("unknown-rounding", (
        f"the output is {found.relative_l2:.4f} (relative L2) from the reference; this chip's known arithmetic stays "
        f"within {limit:.4f}. It is accepted only as an unknown rounding, in which small mistakes may hide: compare "
        "more pixels with --verify 16, and send the output of doctor"))]


def output_defect(values: Vector, expected: Vector, config: Config) -> Optional[str]:
    """Return the obvious defect of an output, and its usual cause; None if the output must be compared."""
    unwritten = sum(map(math.isnan, values))
    if unwritten:
        part = "the output" if unwritten == len(values) else f"{unwritten} of {len(values)} values of the output"
        return (f"evaluate returned YES and did not write {part}: NaN was put there before; try another --qos or "
                "--dialect")
    if not all(map(math.isfinite, values)):
        return "the output holds infinities: weights or scales were misread; try another --blob"
    if not any(values) and any(expected):
        spatial = "a spatial that is a multiple of 32, or " if config.spatial % 32 else ""
        return f"the output is all zeros: the engine did no work; try {spatial}another --dialect"
    if min(values) == max(values) and min(expected) != max(expected):
        return f"the output is {values[0]} everywhere: the weights were not read; try another --blob"
    return None


def verification_limits(count: int, config: Config, activations: str) -> tuple[float, float]:
    """Return the largest relative L2 and distance of the slope from 1 that rounding explains in `count` values."""
    relative, slope, channels = LIMITS[activations, config.kernel]
    depth, terms = math.sqrt(config.depth), max(1.0, math.sqrt(config.channels / channels))
    few, fewer = (4, 16) if config.kernel == 1 else (16, 32)  # values scatter more if they are few
    return min(MAX_RELATIVE_L2, relative * depth * (1 + few / count) * terms), slope * depth * (1 + fewer / count)


def explain_mismatch(found: Comparison, count: int, config: Config, activations: str) -> Optional[str]:
    """Return what is wrong with an output that differs so over `count` values; None if rounding explains it."""
    limit, slope_limit = verification_limits(count, config, activations)
    figures = (f"cosine {found.cosine:.4f}, relative L2 {found.relative_l2:.3f}, at most {limit:.3f}, "
               f"slope {found.slope:.3f}, within {slope_limit:.3f} of 1")
    floor = found.floor if activations == "int8" else 1.0  # the error of fp16 is relative, whatever the size
    turned = math.sqrt(max(0.0, 1 - found.cosine ** 2)) * floor  # the part of the difference that is not a scale
    misscaled = abs(found.slope - 1) * floor ** 2 > slope_limit
    if found.relative_l2 * floor <= limit and not misscaled:
        return None
    if found.cosine < UNRELATED:
        return f"the output is unrelated to the right one ({figures}): often a wrong layer; try another --blob"
    if misscaled and turned <= limit:
        return f"the output has the wrong scale ({figures}): often a misread scale; try another --dialect"
    return f"the output differs more than rounding explains ({figures}): work is left out; try more --verify"


def explain_large_errors(output: Sequence[Vector], expected: Sequence[Vector], config: Config, activations: str,
                         equal: bool) -> Optional[str]:
    """Return what is wrong if few channels of [pixel][channel] differ much more than the others; None otherwise.

    A pixel's usual error is estimated from the median, plus a part of the limit of the relative L2, since the median
    may be zero; if most values are equal, that is the limit of a known arithmetic. Large values may differ more.
    """
    channels = config.channels
    if channels < FEWEST_CHANNELS:
        return None
    limit, _ = verification_limits(len(output) * channels, config, activations)
    if activations == "int8" and equal:
        limit = KNOWN_LIMITS["int8"]
    powers = [0.0] * channels
    for values, should in zip(output, expected):
        size = math.sqrt(sum(map(mul, should, should)) / channels) or 1.0
        errors = list(map(abs, map(sub, values, should)))
        usual = statistics.median(errors) / 0.6745 + limit / 8 * (max(1.0, size) if activations == "int8" else size)
        powers = [power + (error / usual / max(1.0, abs(value) / size)) ** 2
                  for power, error, value in zip(powers, errors, should)]
    largest = sorted((math.sqrt(power / len(output)) for power in powers), reverse=True)
    for rank, excess in ERROR_LIMITS[activations]:
        most = 1 + excess / math.sqrt(len(output))
        if largest[rank - 1] > most:
            return (f"{rank} of {channels} channels differ {largest[rank - 1]:.1f} times as much as usual or "
                    f"more, at most {most:.1f} is right: channels are left out or exchanged; try another --blob")
    return None


def explain_noise(values: Vector, references: Sequence[Vector], unquantized: Vector, config: Config) -> Optional[str]:
    """Return what is wrong if quantizing activations changed the output too little or too much; None otherwise."""
    usual = QUANTIZATION_NOISE * math.sqrt((config.depth - 1) * len(values))
    if config.kernel == 1:
        usual = math.sqrt(sum(math.dist(vector, unquantized) ** 2 for vector in references) / len(references))
    noise = math.dist(values, unquantized) / usual
    least, most = (base + part / math.sqrt(len(values)) for base, part in NOISE_LIMITS[config.kernel])
    figures = f"quantizing activations changed the output by {noise:.2f} of the usual amount"
    if noise < least:
        return (f"{figures}, at least {least:.2f} is right: quantize and dequantize are left out, so this is not W8A8; "
                "its figures are those of --variants w8a16")
    if noise > most:
        return (f"{figures}, at most {most:.2f} is right: the steps are too coarse, or values are cut off instead of "
                "rounded; try another --dialect")
    return None


# ======================================================================================================================
# 10. Machine, warnings and checks
#
# Used below: SYSTEM_FORM, NOTE_CODES, chip_of, describe_machine, merged_facts, thermal_state, warnings_about_machine,
# warnings_before, warnings_about_cell, Finding, Probe, Check, checks, require_engine.
# ======================================================================================================================

# Names of sysctlbyname, and the type of those that are not text.
SYSTEM_VALUES: dict[str, tuple[str, Any]] = {
    "chip": ("machdep.cpu.brand_string", None), "model": ("hw.model", None), "macos": ("kern.osproductversion", None),
    "build": ("kern.osversion", None), "memory_bytes": ("hw.memsize", ctypes.c_uint64)}
# Class methods of _ANEDeviceInfo, which came with different releases.
DEVICE_VALUES = {"ane_subtype": "aneSubType", "ane_architecture": "aneArchitectureType", "ane_count": "numANEs",
                 "ane_cores": "numANECores"}
THERMAL_STATES = ("nominal", "fair", "serious", "critical")  # NSProcessInfoThermalState
# The facts that are figures, in JSON; the others are shown as they are.
SYSTEM_FORM = {"cpus?": int, "load_average?": float, "memory_bytes?": int}
# The framework guesses the cores of a sub-type that it does not know (decompile of the framework of macOS 26.1).
KNOWN_SUBTYPE = re.compile(r"h1[3-8][a-z]?")


class Chip(NamedTuple):
    """The facts of a chip: the least ms ever seen of an evaluate, rated TOPS, the most layers its compiler takes."""

    dispatch_ms: float
    rated_tops: float = math.inf
    known_arithmetic: bool = False
    deepest: int = LARGEST_DIMENSION


# Dispatch floors from hardware (sbryngelson/ane-guide: M1, M5; 751K's M6 study: M4, M6), ratings from Apple's
# announcements (M4: INT8; none for M5 and M6). Arithmetic: 751K's M6 study for M4 and M6, which are identical;
# cadamcat/llms-on-apple-neural-engine for M5, whose 128 layers are within a relative L2 of 0.0001. 387 layers crash the
# compiler of M6 (751K's M6 study).
CHIPS = {"M1": Chip(0.19, 11), "M2": Chip(0.06, 15.8), "M3": Chip(0.06, 18), "M4": Chip(0.09, 38, True),
         "M5": Chip(0.06, known_arithmetic=True), "M6": Chip(0.16, known_arithmetic=True, deepest=384)}
UNKNOWN_CHIP = Chip(0.05)

BUSY = 0.5  # load per processor
OVER_RATED = 1.15
DRIFT, SPREAD, SLOW_FIRST, WIDE = 0.05, 0.03, 10, 0.05
OUTLIER, MANY_OUTLIERS = 1.5, 0.05
FREE_PER_WEIGHT = 5  # the framework writes weights again, and the daemon copies the directory (decompile of 26.1)

NOTE_CODES = {"first", "cached", "repeated"}  # they ask for nothing: notes in the record, not printed


def chip_of(system: Mapping[str, Any]) -> Chip:
    """Return the facts of a machine's chip, such as those of M4 for an `Apple M4 Pro`."""
    return next((CHIPS[word] for word in str(system.get("chip", "")).split() if word in CHIPS), UNKNOWN_CHIP)


def describe_machine(engine: Engine) -> dict[str, Any]:
    """Return the record's facts of this machine, each absent if unknown."""
    facts: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3])), "cpus": os.cpu_count()}
    with contextlib.suppress(OSError, AttributeError):
        facts["load_average"] = os.getloadavg()[0]
    if isinstance(engine, NeuralEngine):
        libraries = engine.runtime.libraries
        facts.update({name: libraries.system_value(*value) for name, value in SYSTEM_VALUES.items()})
        facts.update({name: reported(engine, "_ANEDeviceInfo", selector) for name, selector in DEVICE_VALUES.items()})
        low_power = reported(engine, "NSProcessInfo", "isLowPowerModeEnabled")
        facts.update(power_source=power_source(engine.runtime), thermal_state=thermal_state(engine),
                     low_power_mode=None if low_power is None else bool(low_power))
        if not KNOWN_SUBTYPE.fullmatch(str(facts["ane_subtype"])):
            del facts["ane_cores"]
    return {name: value for name, value in facts.items() if value not in (None, "")}


def merged_facts(system: Mapping[str, Any], latest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a run's machine: those that its first worker found, but the latest of those that change."""
    facts = {name: value for name, value in latest.items() if isinstance(value, (str, int, float))}
    if "thermal_state" in facts:
        facts["thermal_state_before"] = facts.pop("thermal_state")
    changing = ("power_source", "low_power_mode", "load_average")
    return {**facts, **system, **{name: facts[name] for name in changing if name in facts}}


def reported(engine: NeuralEngine, class_name: str, selector: str) -> Union[str, int, None]:
    """Return text or a number from a class, or from the process's NSProcessInfo; None if this macOS lacks it. The
    method's encoding tells which: to take a number for an object would end the process."""
    receiver = engine.runtime.find_class(class_name)
    if class_name == "NSProcessInfo":
        receiver = engine.send_optional(receiver, class_name, "processInfo")
    value = engine.send_optional(receiver, class_name, selector)
    return engine.runtime.text(value) if isinstance(value, Pointer) else value


def thermal_state(engine: Engine) -> Optional[str]:
    """Return the machine's thermal state; None if it is unknown."""
    state = reported(engine, "NSProcessInfo", "thermalState") if isinstance(engine, NeuralEngine) else None
    return THERMAL_STATES[state] if isinstance(state, int) and 0 <= state < len(THERMAL_STATES) else None


def power_source(runtime: Runtime) -> Optional[str]:
    """Return `AC Power` or `Battery Power`; None if IOKit does not say."""
    try:
        # CFTypeRef IOPSCopyPowerSourcesInfo(void); CFStringRef IOPSGetProvidingPowerSourceType(CFTypeRef snapshot)
        snapshot = runtime.libraries.function("IOKit", "IOPSCopyPowerSourcesInfo", Pointer)()
        provider = runtime.libraries.function("IOKit", "IOPSGetProvidingPowerSourceType", Pointer, ctypes.c_void_p)
        release = runtime.libraries.function("CoreFoundation", "CFRelease", None, ctypes.c_void_p)
    except Unavailable:
        return None
    if not snapshot:
        return None
    try:
        return runtime.text(provider(snapshot))
    finally:
        release(snapshot)


def amount(size: int) -> str:
    """Return a number of bytes as text, in MiB or GiB."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def room_bytes(config: Config, variants: Iterable[str]) -> int:
    """Return the bytes on the startup disk that the programs of a configuration take, loaded together."""
    return int(FREE_PER_WEIGHT * sum(VARIANTS[variant].weights_mib(config) for variant in variants) * (1 << 20))


LARGEST_ROOM = max(room_bytes(config, DEFAULT_VARIANTS) for config in DEFAULT_CONFIGS)  # of a default run


# Warnings. Each is a code and a text: the observation, the likely cause, what to do.

def warnings_about_machine(system: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield warnings about facts of a machine that may change the figures."""
    if system.get("power_source") == "Battery Power":
        yield "battery", "the Mac runs on battery, which may slow the engine; connect it to power"
    if system.get("low_power_mode") is True:
        yield "low-power", "low-power mode is on, which slows the engine; switch it off in System Settings, Battery"
    for moment in ("before", "after"):
        state = system.get(f"thermal_state_{moment}", "unknown")
        if state not in ("nominal", "unknown"):
            yield f"heat-{moment}", (f"the machine's thermal state was {state} {moment} measuring, and a hot machine "
                                     "is slow; let it cool, and measure fewer configurations at a time")
    if system.get("load_average", 0) > BUSY * (system.get("cpus") or 1):
        yield "busy", (f"other programs keep this machine busy (load {system['load_average']:.1f}), which makes times "
                       "longer; close them")


def warnings_before(config: Config, variants: Sequence[str], system: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield warnings about a configuration that is about to be compiled."""
    deepest, needed = chip_of(system).deepest, room_bytes(config, variants)
    if config.depth > deepest:
        yield "depth", (f"{config.label()}: over {deepest} layers have crashed the compiler of this chip, and may stop "
                        f"the compile service; choose a depth of at most {deepest}")
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(foundation_directory()).free
        if free < needed:
            yield "room", (f"{config.label()}: compiling may take {amount(needed)} of temporary files, and "
                           f"{amount(free)} are free; free some space, or choose a smaller configuration")


def warnings_about_cell(cell: Cell, engine: str, system: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield warnings about a cell that is done, without its name."""
    if cell.config.spatial % 32 and cell.samples and not cell.check and engine != "reference":
        yield "spatial", "spatial is not a multiple of 32, and some engines then give zeros; choose one that is"
    if cell.refused and cell.blob:
        yield "fallback", (f"refused as {each_reason_once(cell.refused)}; accepted as {cell.blob}/{cell.dialect}; ask "
                           f"for that at once with --blob {cell.blob} --dialect {cell.dialect}")
    if cell.variant == "w8a8" and cell.config.depth == 1 and cell.samples and not cell.settings.original:
        yield "one-layer", ("a chain of one layer has nothing to quantize between layers, so these are the figures of "
                            "w8a16; choose a depth of 2 or more")
    if len(cell.samples) >= 3:
        yield from warnings_about_times(cell, engine)
        if not cell.settings.original:
            yield from warnings_about_rounds(cell, engine)
    if cell.samples and engine != "reference":
        yield from warnings_about_rate(cell, system)


def warnings_about_times(cell: Cell, engine: str) -> Iterator[tuple[str, str]]:
    """Yield warnings about anything in a cell's own times that makes them less certain."""
    samples, median = cell.samples, statistics.median(cell.samples)
    more = "" if cell.settings.original else ", or try more --iters"
    wake, user = ": the engine's wake-up (50 to 260 ms), most likely", "engine"
    if engine == "reference":
        wake, user = "", "processor"
    if cell.compiled_before:
        yield "cached", "the program was in the system's cache, so compile_ms does not measure a compile"
    third = len(samples) // 3
    drift = statistics.median(samples[-third:]) / statistics.median(samples[:third]) - 1
    if abs(drift) > DRIFT:
        cause = "heat, or the engine's clock; let the Mac cool"
        if engine == "reference":
            cause = "other programs, most likely; close them"
        elif drift < 0:
            cause = "the engine's clock was still rising; let nothing else use the engine"
        yield "drift", f"times changed by {drift:+.0%} from the first third to the last: {cause}{more}"
    spread = 1.4826 * statistics.median([abs(sample - median) for sample in samples]) / median
    if spread > SPREAD:
        yield "spread", (f"times scatter by {spread:.0%} about the median: another program uses the {user} or the "
                         f"memory; close other programs{more}")
    outliers = sum(sample > OUTLIER * median for sample in samples)
    if outliers > MANY_OUTLIERS * len(samples):
        yield "outliers", (f"{outliers} of {len(samples)} evaluates took over {OUTLIER} times the median: other work "
                           "came between; the median ignores them, the mean does not; close other programs")
    if cell.first_ms is not None and cell.first_ms > SLOW_FIRST * median / 1e6:
        yield "first", f"the first evaluate took {cell.first_ms * 1e6 / median:.0f} times the median{wake}; not counted"


def warnings_about_rounds(cell: Cell, engine: str) -> Iterator[tuple[str, str]]:
    """Yield warnings about patterns in the times of rounds, and about intervals that say little or contradict."""
    levels = bimodality(cell.samples, cell.tick_ns)
    # Of two variants, the last of a round is also the first of the next one, without a switch: so compare rounds with
    # the same turns too.
    groups = [[samples for samples, own in zip(cell.samples_ns, cell.turns) if own == turn] for turn in set(cell.turns)]
    patterns = (within_rounds_pattern(rounds, cell.tick_ns) for rounds in (cell.samples_ns, *groups))
    pattern = next(filter(None, patterns), None)
    if pattern:
        which = "evaluate" if pattern[0] == 1 else f"{pattern[0]} evaluates"
        yield "switch", (f"the first {which} of rounds took {pattern[1]:.2f} times as long as the others: the cost of "
                         "switching between variants; more --iters in as many --rounds dilute it")
    if levels:
        cause = "" if engine == "reference" else "an engine's clock that switches, or "
        yield "bimodal", (f"times fall into two groups, {levels[2]:.0%} near {levels[0] / 1e6:.3f} ms and the others "
                          f"near {levels[1] / 1e6:.3f} ms: {cause}another program; more --iters, --rounds average it")
    low, high = cell.ms.get("ci95", (1, 1))
    if (high - low) / 2 > WIDE * cell.ms["median"]:
        yield "noise", (f"the interval is ±{(high - low) / 2 / cell.ms['median']:.0%}: too noisy to tell small "
                        "differences; close other programs, or try more --rounds and --iters")
    base = cell.baseline
    if base and "ci95" in cell.ratio and "ci95" in base.ms:
        least, most = base.ms["ci95"][0] / high, base.ms["ci95"][1] / low if low else math.inf
        if most < cell.ratio["ci95"][0] or least > cell.ratio["ci95"][1]:
            yield "ratio", (f"Ratio is {cell.ratio['value']:.2f}, the quotient of the times shown "
                            f"{base.ms['median'] / cell.ms['median']:.2f}: times drifted or scattered; trust Ratio, "
                            "which is taken round by round, or try more --rounds")


def warnings_about_rate(cell: Cell, system: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield warnings about figures that an engine of this chip cannot have. Unknown chips have the least floor."""
    chip, settings, tops = chip_of(system), cell.settings, float(cell.tops or 0)
    look = "compare its outputs with random --input and --verify 4"
    if settings.original:
        look = "measure without --original, so that outputs are compared"
    elif settings.verifies:
        look = f"compare more pixels with --verify {4 * settings.verify}"
    if cell.ms["median"] < chip.dispatch_ms:
        yield "floor", (f"{cell.ms['median']:.3f} ms is below the dispatch overhead ({chip.dispatch_ms} ms): evaluate "
                        f"may do nothing; {look}")
    rated = chip.rated_tops * (2 if "Ultra" in str(system.get("chip")) else 1)
    if cell.config.kernel == 1 and tops > OVER_RATED * rated:
        yield "rate", (f"{tops:.1f} TOPS is more than {system.get('chip')} is rated for ({rated:g}): evaluate may do "
                       f"less than it should; {look}")


# Checks: a run makes those that it needs before it measures, and `doctor` shows them all.

class Finding(NamedTuple):
    """The result of a check: `state` is ok, FAIL, note (a run can do without it) or skip (an earlier check failed)."""

    state: str
    value: str
    advice: str = ""


class Probe:
    """What checks look at: libraries, engine and facts of the machine, each made when a check first needs it."""

    def __init__(self, standin: Optional[str]) -> None:
        self.standin = standin

    @functools.cached_property
    def libraries(self) -> Libraries:
        """Return the libraries. Raise Unavailable if this Python has no ctypes."""
        return Libraries(self.standin)

    @functools.cached_property
    def engine(self) -> NeuralEngine:
        """Return the engine. Raise Unavailable if a library, or a function of one, is missing."""
        return NeuralEngine(self.libraries)

    @functools.cached_property
    def system(self) -> dict[str, Any]:
        """Return the facts of the machine; see describe_machine."""
        return merged_facts({}, describe_machine(self.engine))


class Check(NamedTuple):
    """A check. If it fails and is `needed`, no run is possible; if it is `first`, no later check is possible either."""

    name: str
    look: Callable[[Probe], Finding]
    needed: bool = False
    first: bool = False

    def finding(self, probe: Probe) -> Finding:
        """Return the result; a part that is missing is a failure that names it."""
        try:
            with probe.engine.pool() if "engine" in vars(probe) else contextlib.nullcontext():
                return self.look(probe)
        except Unavailable as error:
            return missing(str(error), needed=True)


APPLE_SILICON = "use a Mac with Apple silicon"


def checks() -> list[Check]:
    """Return all checks, in the order in which they build on one another."""
    needed = {method.class_name for method in METHODS if method.needed}
    return [
        Check("stand-in", check_standin, needed=True, first=True),
        Check("platform", check_platform, needed=True, first=True),
        Check("processor", check_processor, needed=True, first=True),
        *(Check(name, functools.partial(check_fact, name)) for name in ("chip", "model", "macos", "build")),
        Check("libraries", check_libraries, needed=True, first=True),
        Check("virtual machine", check_virtual_machine, needed=True),
        *(Check(f"class {name}", functools.partial(check_class, name), name in needed)
          for name in dict.fromkeys(method.class_name for method in METHODS)),
        *(Check(method.name, functools.partial(check_method, method), method.needed) for method in METHODS),
        Check("Neural Engine", check_engine, needed=True),
        *(Check(name, functools.partial(check_fact, name)) for name in ("python", *DEVICE_VALUES)),
        Check("temporary directory", check_temporary_directory),
        Check("memory", check_memory),
        *(Check(name, functools.partial(check_condition, fact, codes)) for name, fact, codes in (
            ("power", "power_source", ("battery", "low-power")), ("heat", "thermal_state_before", ("heat-before",)),
            ("load", "load_average", ("busy",)))),
    ]


def require_engine(probe: Probe) -> None:
    """Raise Unavailable with the first reason why a run is not possible here."""
    for check in checks():
        finding = check.finding(probe) if check.needed else None
        if finding and finding.state == "FAIL":
            raise Unavailable("; ".join(filter(None, finding[1:])))


def missing(what: str, needed: bool) -> Finding:
    """Return the finding about something that this macOS lacks."""
    if needed:
        return Finding("FAIL", what, "this macOS is older or newer than this program knows; look for a newer version "
                       "of either")
    return Finding("note", what, "a run can do without it")


def check_standin(probe: Probe) -> Finding:
    """Check that this Python has ctypes, and that a library that the environment names can be opened."""
    try:
        libraries = probe.libraries
        if probe.standin:
            libraries.open("libobjc")
    except Unavailable as error:
        if CTYPES_PROBLEM:
            return Finding("FAIL", str(error))
        return Finding("FAIL", f"the library that {STANDIN_VARIABLE} names {str(error).partition('libobjc ')[2]}",
                       f"unset {STANDIN_VARIABLE}, or name a library that can be opened")
    return Finding("ok", probe.standin or "none: Apple's libraries are used")


def check_platform(probe: Probe) -> Finding:
    """Check for macOS, which alone has the engine's libraries."""
    if probe.standin or sys.platform == "darwin":
        return Finding("ok", "stand-in library" if probe.standin else "macOS")
    return Finding("FAIL", f"this is {sys.platform}, and the engine is reached from macOS only", APPLE_SILICON)


def check_processor(probe: Probe) -> Finding:
    """Check for Apple silicon, which alone has the engine. A Python that Rosetta translates does not find it there."""
    machine = os.uname().machine
    if probe.libraries.system_value("sysctl.proc_translated", ctypes.c_int) == 1:
        return Finding("FAIL", "this Python is translated by Rosetta, from where the engine cannot be reached",
                       f"run the arm64 one: arch -arm64 /usr/bin/python3 {os.path.basename(__file__)}")
    if probe.standin or machine == "arm64":
        return Finding("ok", machine)
    return Finding("FAIL", f"the processor is {machine}, and only Apple silicon has a Neural Engine", APPLE_SILICON)


def check_fact(name: str, probe: Probe) -> Finding:
    """Look up a fact that the record holds if it is known. Those of SYSTEM_VALUES are there before any framework is."""
    system = SYSTEM_VALUES.get(name)
    value = probe.libraries.system_value(*system) if system else probe.system.get(name)
    return Finding("ok", str(value)) if value is not None else Finding("note", "unknown", "the record goes without it")


def check_libraries(probe: Probe) -> Finding:
    """Check that the libraries open, and have every C function and constant that a run needs."""
    probe.engine.surface_keys()
    try:
        probe.libraries.open("IOKit")
    except Unavailable as error:
        return missing(str(error), needed=False)
    return Finding("ok", f"{', '.join(LIBRARIES)}, with all functions and constants")


def check_virtual_machine(probe: Probe) -> Finding:
    """Check that this is not a guest: guests have no engine, and compile has been seen to hang in one."""
    guest = probe.libraries.system_value("kern.hv_vmm_present", ctypes.c_int) == 1
    if guest or reported(probe.engine, "_ANEDeviceInfo", "isVirtualMachine"):
        return Finding("FAIL", "this is a virtual machine, which has no Neural Engine", "run it on the Mac itself")
    return Finding("ok", "not one")


def check_class(name: str, probe: Probe) -> Finding:
    """Check that a class exists."""
    runtime, methods = probe.engine.runtime, [method for method in METHODS if method.class_name == name]
    if runtime.find_class(name):
        return Finding("ok", "found")
    return missing(f"{runtime.macos_version()} has no class {name} (left out: its methods, {len(methods)})",
                   any(method.needed for method in methods))


def check_method(method: Method, probe: Probe) -> Finding:
    """Check that a method exists, and has the types that our calls are made for."""
    runtime = probe.engine.runtime
    if not runtime.find_class(method.class_name):
        return Finding("skip", "")
    encoding = runtime.method_encoding(method.class_name, method.selector, method.of_class)
    if encoding and method.matches(encoding):
        return Finding("ok", encoding)
    kinds = f"{kind_of(method.kinds[0])} from ({', '.join(map(kind_of, method.kinds[1:]))})"
    found = f"has type {encoding}" if encoding else "is absent"
    return missing(f"{method.name} {found}; expected {kinds}", method.needed)


def check_engine(probe: Probe) -> Finding:
    """Check that the framework reports an engine."""
    found = reported(probe.engine, "_ANEDeviceInfo", "hasANE")
    if found is None:
        return Finding("note", "the framework does not say whether there is an engine", "a run will show it")
    if found:
        return Finding("ok", "present")
    return Finding("FAIL", "the framework says that this Mac has no Neural Engine", APPLE_SILICON)


def check_temporary_directory(probe: Probe) -> Finding:
    """Check that programs can be written to the directory in which the framework looks for them."""
    path, needed = probe.engine.temporary_directory(), LARGEST_ROOM
    aside = os.path.join(path, f"{PROGRAM_NAME}-{os.getpid()}")
    try:
        os.mkdir(aside, 0o700)
        os.rmdir(aside)
        free = shutil.disk_usage(path).free
    except OSError as error:
        other = "" if sys.platform == "darwin" else ", or set TMPDIR to another directory"  # a Mac ignores TMPDIR
        return Finding("FAIL", f"{path}: {error.strerror}", f"check its permissions{other}")
    value = f"{path}, {amount(free)} free, of which a run takes up to {amount(needed)}"
    return Finding("ok", value) if free >= needed else Finding("FAIL", value, "free some space on that disk")


def check_memory(probe: Probe) -> Finding:
    """Check that the memory is enough for programs and their copies."""
    size = probe.system.get("memory_bytes")
    if size is None:
        return check_fact("memory_bytes", probe)
    if size >= 4 * LARGEST_ROOM:
        return Finding("ok", amount(size))
    return Finding("note", amount(size), "measure smaller programs: run --config 256x64x64")


def check_condition(name: str, codes: Sequence[str], probe: Probe) -> Finding:
    """Look up a fact that may change the figures, with the warnings that a run would give."""
    value = probe.system.get(name, "unknown")
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    warnings = [message for code, message in warnings_about_machine(probe.system) if code in codes]
    return Finding("note", text, "; ".join(warnings)) if warnings else Finding("ok", text)


# ======================================================================================================================
# 11. Record
#
# Used below: SCHEMA, LARGEST_RECORD, LONGEST_NS, REPORTS, Run, record_text, read_record, read_bounded, parse_record,
# run_of, read_cell, matches_form, parse_json, plain, write_file, check_writable.
# ======================================================================================================================

SCHEMA = "ane-bench/1"

# Limits of a record that is read. The largest run that plan_run allows (MOST_SAMPLES) stays within them.
LARGEST_RECORD, MOST_VALUES = 1 << 26, 4_000_000
LARGEST_NUMBER = 1e300
DEEPEST_JSON = 32
SHORTEST_NS, LONGEST_NS = 1e-2, 1e14  # of an evaluate: no machine is outside of them, and figures would overflow

# The part of a record that is read; other fields are ignored. Figures are computed again from the samples.
RECORD_FORM: dict[str, Any] = {
    "schema": str, "version": str, "started": str, "engine": str, "command": [str], "system": SYSTEM_FORM,
    "protocol": {"iters": int, "rounds": int, "warmup": object, "qos": int, "seed": int, "input": str, "verify": int,
                 "blob": str, "dialect": str, "original": bool, "timeout": float, "data?": int, "tick_ns?": float},
    "asked?": {"configs": [str], "variants": [str]}, "complete?": bool, "condensed?": bool,
    "results": [{"config": {"channels": int, "spatial": int, "depth": int, "kernel?": int},
                 "variants": {str: Cell.FORM}}],
    "warnings": [{"code": str, "message": str}], "notes?": [{"code": str, "message": str}],
}

# Section 14 fills in the reports of a run by their formats.
REPORTS: dict[str, Callable[["Run"], str]] = {}


class Run:
    """A run, going on or read from a record: what was asked, the machine, the cells, the warnings.

    `engine` is ane, reference or stand-in; `system` holds the known facts of the machine. The first of the `variants`
    is the baseline of Ratio. Records of the first version do not say what was asked: then `asked` is False, `complete`
    is None, and `configs` and `variants` are those that were measured.
    """

    def __init__(self, engine: str, settings: Settings, configs: Sequence[Config], variants: Sequence[str]) -> None:
        self.engine, self.settings = engine, settings
        self.configs, self.variants = list(configs), list(variants)
        self.asked = True
        self.version = __version__
        self.started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.command: list[str] = []
        self.system: dict[str, Any] = {}
        self.data: int = DATA_REVISION
        self.tick_ns: float = 0
        self.condensed = False
        self.cells: list[Cell] = []
        self.warnings: list[dict[str, str]] = []
        self.notes: list[dict[str, str]] = []

    def warn(self, code: str, message: str) -> None:
        """Add a warning, or a note if it asks for nothing."""
        remark = {"code": code, "message": without_paths(message)}
        found = self.notes if code in NOTE_CODES else self.warnings
        found += [remark] if remark not in found else []  # a worker that measures again warns again

    def add(self, cells: Sequence[Cell]) -> None:
        """Add the cells of one configuration."""
        for cell in cells:
            cell.baseline = next((other for other in cells if other.variant == self.variants[0]), None)
        self.cells += cells

    @property
    def results(self) -> list[tuple[Config, list[Cell]]]:
        """Return the configurations that were measured, each with its cells."""
        found: dict[Config, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.config, []).append(cell)
        return list(found.items())

    def cell(self, config: Union[Config, str], variant: str) -> Cell:
        """Return the cell of a configuration, such as "512x64x128", in a variant. Raise KeyError if there is none."""
        config = Config.parse(config) if isinstance(config, str) else Config(*config)
        for cell in self.cells:
            if (cell.config, cell.variant) == (config, variant):
                return cell
        raise KeyError(f"{variant} at {config.name}")

    @property
    def ok(self) -> bool:
        """Return whether every cell was measured, and verified if that was asked."""
        return bool(self.cells) and all(cell.ok for cell in self.cells)

    @property
    def complete(self) -> Optional[bool]:
        """Return whether all configurations that were asked for were measured; None if it is unknown what was asked."""
        return len(self.results) == len(self.configs) if self.asked else None

    def to_dict(self) -> dict[str, Any]:
        """Return the record, schema ane-bench/1: samples, and the unrounded figures computed from them."""
        asked = {"configs": [config.name for config in self.configs], "variants": self.variants}
        results: list[dict[str, Any]] = []
        for config, cells in self.results:
            shape = {name: value for name, value in config._asdict().items() if (name, value) != ("kernel", 1)}
            variants = {cell.variant: {**cell.facts(), "weights_mib": cell.weights_mib} for cell in cells}
            for cell in cells:
                if cell.samples:
                    variants[cell.variant].update(ms=cell.ms, tops=cell.tops)
            results.append({"config": shape, "gop": config.gop, "variants": variants,
                            "ratio": {cell.variant: cell.ratio for cell in cells if cell.ratio}})
        return {
            "schema": SCHEMA, "version": self.version, "started": self.started, "engine": self.engine,
            "command": self.command, "system": self.system,
            "protocol": {**self.settings._asdict(), "data": self.data, "tick_ns": self.tick_ns},
            **({"asked": asked, "complete": self.complete} if self.asked else {}),
            **({"condensed": True} if self.condensed else {}),
            "results": results, "warnings": self.warnings, "notes": self.notes}

    def save(self, path: Any) -> None:
        """Write the record to a file, whole or not at all. Raise OutputError if it cannot be written."""
        write_file(path, record_text(self))

    def table(self) -> str:
        """Return the run as the table that the command line prints."""
        return REPORTS["table"](self)


def record_text(run: Run) -> str:
    """Return the record as JSON."""
    return json.dumps(run.to_dict(), indent=1, allow_nan=False) + "\n"


def read_record(path: Any) -> Run:
    """Return the run of a saved record. Raise UsageError if the file cannot be read, or is not such a record."""
    return parse_record(read_bounded(path), str(path))


def read_bounded(path: Any) -> bytes:
    """Return the bytes of a file that may hold records. Raise UsageError if it cannot be read, or is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_RECORD + 1)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(printable(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")) from None
    if len(data) > LARGEST_RECORD:
        raise UsageError(printable(f"{path}: over {LARGEST_RECORD >> 20} MiB, and no record is that large"))
    return data


def parse_record(data: bytes, origin: str) -> Run:
    """Return the run of a record's text; `origin` names it in errors. Raise UsageError if it is not a record."""
    try:
        if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise ValueError("more values than any run has")
        record = plain(parse_json(data))
        schema = record.get("schema") if isinstance(record, dict) else None
        if isinstance(schema, str) and schema != SCHEMA:
            raise ValueError(f"it has schema {schema[:40]!r}")
        if not matches_form(record, RECORD_FORM):
            raise ValueError("a field is missing, or has the wrong type")
        return run_of(record)
    except (ValueError, MemoryError) as error:
        raise UsageError(printable(f"{origin}: expected a record as --save writes it, of schema {SCHEMA}: "
                                   f"{error or 'it does not fit into the memory'}")) from None


def run_of(record: Mapping[str, Any]) -> Run:
    """Return the run of a record that has RECORD_FORM. Raise UsageError if its parts contradict one another."""
    protocol, asked = record["protocol"], record.get("asked")
    settings = Settings(**{name: protocol[name] for name in Settings._fields}).check()
    found: dict[Config, Mapping[str, Any]] = {}
    for result in record["results"]:
        shape = {name: value for name, value in result["config"].items() if name in Config._fields}
        found.setdefault(Config(**shape), result["variants"])  # the first version measured repeated ones again
    configs = [Config.parse(name) for name in asked["configs"]] if asked else list(found)
    variants = asked["variants"] if asked else list(next(iter(found.values()), ()))
    run = Run(record["engine"], settings, configs, variants)
    run.asked, run.condensed = bool(asked), record.get("condensed", False)
    run.version, run.started, run.command = record["version"], record["started"], record["command"]
    run.data, run.tick_ns = protocol.get("data", 1), protocol.get("tick_ns", 0)
    run.system = {name: value for name, value in record["system"].items() if isinstance(value, (str, int, float))}
    run.warnings, run.notes = record["warnings"], record.get("notes", [])
    if run.engine not in ("ane", "reference", "stand-in") or not 0 <= run.tick_ns <= LONGEST_NS:
        raise UsageError("its engine or the step of its clock is unknown")
    if not found or list(found) != configs[:len(found)] or len(set(configs)) < len(configs):
        raise UsageError("its configurations are not those that were asked for")
    if record.get("complete") not in (None, len(found) == len(configs)):
        raise UsageError("`complete` contradicts its results")
    for config, cells in found.items():
        if sorted(cells) != sorted(variants) or not set(variants) <= set(VARIANTS) or not variants:
            raise UsageError(f"{config.name}: its variants are not those that were asked for")
        run.add([read_cell(run, config, variant, cells[variant]) for variant in variants])
    return run


def read_cell(run: Run, config: Config, variant: str, facts: Mapping[str, Any]) -> Cell:
    """Return a cell of facts from a record or a worker. Raise UsageError if they contradict one another."""
    cell = Cell(config, variant, run.settings, run.tick_ns)
    cell.note(**facts)
    rounds = run.settings.rounds
    each = 1 if run.condensed else run.settings.iters // rounds
    whole = [len(samples) for samples in cell.samples_ns] == [each] * rounds
    right = cell.ok and whole and len(cell.turns) in (0, rounds) and cell.verified.get("ok", True)
    failed = cell.status == "failed" and cell.stage and cell.error and (whole or not cell.samples_ns)
    if not (right or failed) or not all(SHORTEST_NS < sample < LONGEST_NS for sample in cell.samples):
        raise UsageError(f"{cell.name}: its status, rounds, times or check contradict one another")
    return cell


def matches_form(value: Any, form: Any) -> bool:
    """Return whether a JSON value has a form: a type (float: any finite number); [form], a list; {str: form}, an object
    with any names; {"name": form}, an object with at least these names, of which `name?` may be missing."""
    if isinstance(form, list):
        return isinstance(value, list) and all(matches_form(item, form[0]) for item in value)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        if str in form:
            return all(matches_form(item, form[str]) for item in value.values())
        return all(matches_form(value[name.rstrip("?")], inner) if name.rstrip("?") in value else name.endswith("?")
                   for name, inner in form.items())
    if isinstance(value, bool):
        return form is bool
    return isinstance(value, (int, float)) and abs(value) < LARGEST_NUMBER if form is float else isinstance(value, form)


def parse_json(text: Union[str, bytes]) -> Any:
    """Return a JSON value. Raise ValueError if it is not one, or holds numbers outside any plausible range."""
    try:
        return json.loads(text, parse_int=_parse_number, parse_float=_parse_number, parse_constant=_parse_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return int(text) if text.lstrip("-").isdigit() else value


def plain(value: Any, levels: int = DEEPEST_JSON) -> Any:
    """Return a JSON value with its texts made printable. Raise ValueError if it is nested too deeply."""
    if isinstance(value, str):
        return printable(value)
    if not isinstance(value, (dict, list)):
        return value
    if not levels:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [plain(item, levels - 1) for item in value]
    return {printable(name): plain(item, levels - 1) for name, item in value.items()}


def write_file(path: Any, text: Optional[str]) -> None:
    """Write a text to a file, whole or not at all: to a file beside it, then renamed. Links and permissions are kept.
    If the text is None, only check that the file can be written. Raise OutputError if it cannot."""
    try:
        target = os.path.realpath(os.fsdecode(path))
        beside = f"{target}.{os.getpid()}.partial"
        if os.path.exists(target) and not os.path.isfile(target):
            raise ValueError("it is not a regular file")  # renaming would replace it by one
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8") as file:
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(beside, os.stat(target).st_mode & 0o7777)
                file.write(text or "")
                file.flush()
                os.fsync(file.fileno())
            if text is not None:
                os.replace(beside, target)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(printable(f"{path}: cannot be written: {reason}")) from None


def check_writable(path: Any) -> None:
    """Raise UsageError if a file cannot be written."""
    try:
        write_file(path, None)
    except OutputError as error:
        raise UsageError(str(error)) from None


# ======================================================================================================================
# 12. Worker
#
# Used below: WORKER_ARGUMENT, ENGINES, NOT_MEASURED, Message, work, Worker, plan_run, standin_library, measured.
# ======================================================================================================================

WORKER_ARGUMENT = "--measure-one-configuration"  # private: makes a run of this file a worker
ENGINES = ("ane", "reference")
REST_VARIABLE = f"{STANDIN_VARIABLE}_REST"  # seconds of rest after a refused compile, for a stand-in

LONGEST_MESSAGE = 1 << 26  # bytes of a line of JSON; the longest carries the samples
KEPT_ERROR_OUTPUT = 1 << 14
TICK_S = 0.5  # the longest time that the parent waits for a worker without sending a tick
REPORT_EVERY_S = 0.25  # the least time between two reports of rounds
STOP_S = 2.0  # the time for a worker that was asked to end to unload and purge its programs
KILL_S = 10.0  # a process that is stuck in the kernel cannot be killed, and must not be waited for
# After a refused compile the service restarts for up to 10 to 15 s, and what it compiles meanwhile fails or hangs
# (sbryngelson/ane-guide; ANEForge rests as long).
REST_S = 15.0
MOST_HANGS = 2
SERVICE_ADVICE = ("the system's compile service may hang for every program now: sudo killall aned ANECompilerService, "
                  "or restart the Mac")

# Compiling this file takes longer than all else that a worker does before it measures, so workers get it compiled.
MODULE_CODE = sys._getframe().f_code
RUN_CODE = """import marshal, sys
__file__ = sys.argv.pop()
with open(int(sys.argv.pop()), "rb") as file:
    code = marshal.loads(file.read())
exec(code)"""
NOT_MEASURED = "not measured, since a compile or load hung"

Message = dict[str, Any]
# All events, from the worker to the parent and on to `on_event`. The parent adds `configuration` (one begins: config,
# number, of), `wait` (another run holds the lock on path) and `tick` (half a second passes).
MESSAGES: dict[str, dict[str, Any]] = {
    "machine": {"system": {**SYSTEM_FORM, "python": str}, "tick_ns": float},
    "stage": {"stage": str, "variant": str, "limit": float, "number?": int, "of?": int},
    "directory": {"path": str},
    "warning": {"code": str, "message": str},
    "cell": {"variant": str, "cell": Cell.FORM, "thermal_state?": str},
    "check": {"name": str, "state": str, "value": str, "advice": str},
    "unavailable": {"reason": str},
}


class Job(NamedTuple):
    """One configuration to be measured. `engine` is that of the run. `forms` holds the (layout, dialect) pairs to try
    for each variant. No compile begins within `rest_s` seconds of a refused one; `refused_at` is when that was, by
    time.monotonic, which all processes share."""

    engine: str
    config: Config
    variants: Sequence[str]
    settings: Settings
    forms: Mapping[str, Forms]
    rest_s: float = 0
    refused_at: float = 0


def read_message(line: bytes) -> Message:
    """Return a worker's message. Raise StageError if it is invalid."""
    with contextlib.suppress(ValueError):
        message = parse_json(line)
        kind = message.get("kind") if isinstance(message, dict) else None
        if isinstance(kind, str) and kind in MESSAGES and matches_form(message, {**MESSAGES[kind], "wait": bool}):
            found: Message = message if kind == "directory" else plain(message)  # a path may hold any character
            return found
    raise StageError("message", f"the worker sent an invalid message: {line[:60]!r}")


class Link:
    """The worker's side of the pipes to its parent: sends events as lines of JSON."""

    def __init__(self, source: io.FileIO, sink: int, turn_file: Optional[int]) -> None:
        self.current = "start"
        self.rest_s, self.refused_at = 0.0, 0.0  # as in Job
        self._source, self._sink, self._turn_file = source, sink, turn_file
        self._answers = threading.Semaphore(0)
        self._directories: list[tuple[str, bool]] = []
        self._reported_at = 0.0
        self._closing = False
        signal.signal(signal.SIGTERM, self._stop)
        threading.Thread(target=self._watch, daemon=True).start()

    def _stop(self, number: int, frame: Any) -> None:
        """Unwind the main thread when the current call returns, so that programs are unloaded and purged."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._closing = True
        raise Terminated(number)

    def _watch(self) -> None:
        """Read the answers; end the worker if the parent is gone, whatever the worker is doing."""
        while self._source.read(1):
            self._answers.release()
        self._closing = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_S)
        for path, existed in self._directories:
            remove_model_directory(path, existed, foundation_directory())
        os._exit(1)

    def send(self, kind: str, wait: bool = True, **content: Any) -> None:
        """Send a message and, if `wait`, wait until the parent has processed it."""
        if self._closing:
            return
        line = json.dumps({"kind": kind, "wait": wait, **content}).encode() + b"\n"
        while line:
            line = line[os.write(self._sink, line):]
        if wait:
            self._answers.acquire()

    def stage(self, name: str, variant: str, limit: float = 0) -> None:
        """Report that a stage begins, and wait, so that the parent knows which stage hangs. It may take `limit` seconds
        beyond --timeout."""
        self.current = name
        self.send("stage", stage=name, variant=variant, limit=limit)

    def round(self, variants: str, limit: float, number: int, of: int) -> None:
        """Report a round, but not every one, without waiting: that would disturb the times."""
        self.current = "evaluate"
        now = time.monotonic()
        if number == 1 or now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self.send("stage", wait=False, stage="evaluate", variant=variants, limit=limit + REPORT_EVERY_S,
                      number=number, of=of)

    def turn(self, variant: str) -> None:
        """Write which variant is at work to a file that outlives a crash; it takes 2 µs."""
        if self._turn_file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._turn_file, f"{variant:<8}".encode(), 0)

    def directory(self, path: str) -> None:
        """Report a model's directory before it exists; the parent removes it if the worker cannot."""
        self._directories.append((path, os.path.lexists(path)))
        self.send("directory", path=path)

    def warn(self, code: str, message: str) -> None:
        """Report a warning."""
        self.send("warning", code=code, message=message)

    def refused(self) -> None:
        """Note that a compile was refused: the compile service restarts."""
        self.refused_at = time.monotonic()

    def rest(self, variant: str) -> None:
        """Rest before a compile until the compile service has restarted."""
        seconds = self.refused_at + self.rest_s - time.monotonic()
        if self.refused_at and seconds > 0:
            self.stage("rest", variant, seconds)
            time.sleep(seconds)


def work() -> int:
    """Run as a worker: read a task, do it, send the results; return the exit code."""
    # The parent handles terminal signals; the worker must survive to clean up.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    source = io.FileIO(0, closefd=False)
    sink = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not end up among the messages
    task = source.readline()
    if not task:
        return 1  # the parent was gone before it could say what to do
    name, turn_file, *arguments = json.loads(task)
    try:
        TASKS[name](Link(source, sink, turn_file), *arguments)
    except Terminated as stop:
        return 128 + stop.signal
    return 0


def measure_task(link: Link, *arguments: Any) -> None:
    """Measure one configuration; the arguments are those of a Job."""
    job = Job(*arguments)
    job = job._replace(config=Config(*job.config), settings=Settings(*job.settings))
    link.rest_s, link.refused_at = job.rest_s, job.refused_at
    try:
        reference = job.engine == "reference"
        if not reference:
            require_engine(Probe(standin_library()))
        gc.disable()  # a collection would take longer than an evaluate
        chosen = ReferenceEngine() if reference else NeuralEngine(Libraries(standin_library()), job.settings.original)
        with chosen.pool(), contextlib.ExitStack() as owner:
            if isinstance(chosen, NeuralEngine):
                chosen.keep_awake(owner)
            system = describe_machine(chosen)
            link.send("machine", system=system, tick_ns=observed_tick_ns(chosen))
            for code, text in warnings_before(job.config, job.variants, system) if not reference else ():
                link.warn(code, text)
            measure(chosen, job, chip_of(system).known_arithmetic, link)
    except Unavailable as error:
        link.send("unavailable", reason=str(error))


def measure(engine: Engine, job: Job, known: bool, link: Link) -> None:
    """Measure a configuration in each variant, and send the cells before anything is unloaded. `known`: whether the
    chip's arithmetic is. The original loads one variant at a time, writes no input and reads no output."""
    settings = job.settings
    data = random_input(job.config, settings.seed) if settings.input == "random" else bytes(job.config.tensor_bytes)
    pixels = chosen_pixels(job.config, settings.seed, settings.verify) if settings.verifies else ()
    for group in [[variant] for variant in job.variants] if settings.original else [job.variants]:
        trials = [Trial(Cell(job.config, variant, settings)) for variant in group]
        with contextlib.ExitStack() as owner:
            for trial in trials:
                with trial.guarded(link):
                    load_program(engine, trial, job.forms[trial.cell.variant], link, owner)
                    if trial.executable and not settings.original:
                        trial.executable.write_input(data)
                if not trial.cell.ok:  # the parent will not try it again if another one crashes
                    send_cells(link, engine, [trial])
            measure_rounds(engine, trials, pixels, link)
            send_cells(link, engine, trials)
            if pixels:
                verify_trials(trials, data, pixels, known, link)
                send_cells(link, engine, trials)


def verify_trials(trials: Sequence[Trial], data: bytes, pixels: Sequence[int], known: bool, link: Link) -> None:
    """Compare pixels of each output with the reference; an output that differs too much fails its cell."""
    base = next((trial.outputs[-1] for trial in trials if trial.cell.variant == "fp16" and trial.cell.ok), None)
    for trial in trials:
        if not trial.cell.ok or trial.program is None:
            continue
        link.stage("verify", trial.cell.variant, SECONDS_PER_WEIGHT * trial.cell.config.weights * len(pixels))
        with trial.guarded(link):
            verdict = verify(trial.program, data, pixels, trial.outputs, known)
            trial.cell.note(verified=verdict.verified)
            for code, text in verdict.warnings:
                link.warn(code, f"{trial.cell.name}: {text}")
            if verdict.problem:
                raise StageError("verify", verdict.problem)
            if base and trial.cell.variant != "fp16":
                trial.cell.verified["from_fp16"] = distance_from_fp16(trial.outputs[-1], base)


def send_cells(link: Link, engine: Engine, trials: Sequence[Trial]) -> None:
    """Send the cells as they are now, so that figures survive later failures."""
    state = thermal_state(engine)
    known: dict[str, Any] = {"thermal_state": state} if state else {}
    for trial in trials:
        link.send("cell", variant=trial.cell.variant, cell=trial.cell.facts(), **known)


def examine_task(link: Link, first: int) -> None:
    """Run the checks from number `first` on, until one fails that all later ones need."""
    probe = Probe(standin_library())
    for check in checks()[first:]:
        link.stage(check.name, "")
        finding = check.finding(probe)
        link.send("check", name=check.name, **finding._asdict())
        if check.first and finding.state == "FAIL":
            return


TASKS: dict[str, Callable[..., None]] = {"measure": measure_task, "examine": examine_task}


def own_command(code: Optional[int]) -> list[str]:
    """Return the command of a worker, which runs compiled code from an open file, or this file if there is none."""
    path = os.path.abspath(globals().get("__file__", PROGRAM_NAME))
    # -I and -S: neither PYTHON* variables nor modules beside the file nor installed packages change what a worker runs.
    options = [*(["-X", "dev"] if sys.flags.dev_mode else []), *(f"-W{option}" for option in sys.warnoptions)]
    start = [path, WORKER_ARGUMENT] if code is None else ["-c", RUN_CODE, WORKER_ARGUMENT, str(code), path]
    return [sys.executable, "-I", "-S", *options, *start]


class Worker:
    """A process with one task. Iterate over messages(); leaving the context ends the process and removes its files.

    `stage` and `at_work`: its last stage and variant. `problem`: why it did not end well. `hung`: whether a compile or
    load made no progress. `cached`: the variants that it compiled, each with whether it may have left the program in
    the system's cache. `refused_at`: when it was last refused a compile, by time.monotonic.
    """

    def __init__(self, task: Sequence[Any], timeout: float) -> None:
        self.stage, self.at_work, self.problem, self.hung = "start", "", "", False
        self.cached: dict[str, bool] = {}
        self.refused_at = 0.0
        self._task, self._timeout = task, timeout
        self._directories: list[tuple[str, bool]] = []
        self._output, self._error_output = bytearray(), bytearray()
        self._owner = contextlib.ExitStack()

    def __enter__(self) -> "Worker":
        self._turn_file, code = self._share(), self._share(marshal.dumps(MODULE_CODE))
        command = own_command(code)
        shared = [file for file in (self._turn_file, code) if file is not None]
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("PYTHON") and name != "__PYVENV_LAUNCHER__"}
        # macOS tells its true version to a Python built with an older SDK (XNU source; python/cpython issue 135675).
        environment["SYSTEM_VERSION_COMPAT"] = "0"
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE, bufsize=0, env=environment, pass_fds=shared)
        except OSError as error:
            self._owner.close()
            raise StageError(self.stage, f"{command[0]}: {error.strerror}") from None
        assert self._process.stdin and self._process.stdout and self._process.stderr
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            self._owner.enter_context(stream)
        self._selector = self._owner.enter_context(selectors.DefaultSelector())
        self._selector.register(self._process.stdout, selectors.EVENT_READ, self._output)
        self._selector.register(self._process.stderr, selectors.EVENT_READ, self._error_output)
        name, *arguments = self._task
        self._write(json.dumps([name, self._turn_file, *arguments]).encode() + b"\n")
        return self

    def __exit__(self, *exception: Any) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        with contextlib.ExitStack() as owner:
            owner.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
            owner.enter_context(self._owner)
            if self.stage in ("evaluate", "warm-up") and self._turn_file is not None:
                named = os.pread(self._turn_file, 8, 0)  # within rounds, `at_work` names all their variants
                self.at_work = named.decode(errors="replace").strip() or self.at_work
            if self._process.poll() is None:
                self._process.terminate()  # it unloads and purges its programs, if it still can
                if self._wait(STOP_S) is None:
                    self._process.kill()
                    self._wait(KILL_S)
            if self._process.returncode == 128 + signal.SIGTERM:
                self.cached = dict.fromkeys(self.cached, False)
            elif self.stage == "purge" and self._process.returncode:
                self.cached[self.at_work] = True
            for path, existed in self._directories:
                remove_model_directory(path, existed, foundation_directory())

    def messages(self) -> Iterator[Message]:
        """Yield the messages, each answered when the next is asked for, and a tick every half second. Raise StageError
        if the worker makes no progress within the time limit, or ends badly."""
        limit, spent = self._timeout, 0.0
        while True:
            began, step = time.monotonic(), min(TICK_S, limit / 4)
            line = self._line(step)
            spent += min(time.monotonic() - began, step)  # time that this process slept or was stopped does not count
            if line is None:
                if spent >= limit:
                    self.hung = self.stage in ("compile", "load")
                    raise StageError(self.stage, f"no progress for {limit:.0f} s, so the worker was killed; if this "
                                                 "stage needs longer, raise --timeout")
                yield {"kind": "tick"}
                continue
            if not line:
                return self._check_end()
            message = read_message(line)
            spent = 0.0
            limit = self._timeout + max(0.0, message.get("limit", 0.0))
            self._note(message)
            waits = message["wait"]  # the host may change the message
            yield message
            if waits:
                self._write(b"\n")

    def _note(self, message: Message) -> None:
        """Note what the worker is doing, and what must be cleaned up after it."""
        if message["kind"] == "directory":
            self._directories.append((message["path"], os.path.lexists(message["path"])))
        if self.stage == "compile" and message.get("stage") != "load" and message["kind"] in ("stage", "cell"):
            self.cached[self.at_work] = False  # it was refused
            self.refused_at = time.monotonic()
        if message["kind"] == "stage":
            self.stage, self.at_work = message["stage"], message["variant"]
            if self.stage in ("compile", "purge"):
                self.cached[self.at_work] = self.stage == "compile"

    def _share(self, data: bytes = b"") -> Optional[int]:
        """Return the descriptor of a nameless file with these data, which the worker inherits; None if that fails."""
        with contextlib.suppress(OSError), contextlib.ExitStack() as owner:
            file = owner.enter_context(tempfile.TemporaryFile(buffering=0))
            if file.write(data) == len(data):
                file.seek(0)
                self._owner.push(owner.pop_all())  # else it is closed at once: it may have filled the disk
                return file.fileno()
        return None

    def _write(self, data: bytes) -> None:
        """Write to the worker. If it is gone, its messages end, which is noticed there."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)

    def _line(self, seconds: float) -> Optional[bytes]:
        """Return the next line, empty at the end of output; None if none is complete within some seconds."""
        if b"\n" not in self._output and self._selector.get_map():
            for key, _ in self._selector.select(seconds):
                data = os.read(key.fd, 1 << 20)
                key.data.extend(data)
                if not data:
                    self._selector.unregister(key.fileobj)
            del self._error_output[:-KEPT_ERROR_OUTPUT]
        end = self._output.find(b"\n") + 1
        if not end and self._selector.get_map() and len(self._output) < LONGEST_MESSAGE:
            return None
        line = bytes(self._output[:end or None])
        del self._output[:end or None]
        return line

    def _wait(self, seconds: float) -> Optional[int]:
        """Return the exit code; None if the worker does not exit within some seconds in which this process runs."""
        for _ in range(math.ceil(seconds / TICK_S)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(TICK_S)
        return None

    def _check_end(self) -> None:
        """Raise StageError if the worker did not exit by itself and well."""
        code = self._wait(self._timeout)
        if code is None:
            raise StageError(self.stage, "the worker did not exit")
        if code:
            names = {number.value: number.name for number in signal.Signals}  # real-time signals have none
            how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"exited with code {code}"
            raise StageError(self.stage, f"the worker {how}: {self.last_line()}")

    def last_line(self) -> str:
        """Return the last line that the worker wrote to standard error, or the one with the reason of an uncaught
        exception: a Mac writes the stack below it."""
        lines = [line.strip() for line in self._error_output.decode(errors="replace").split("\n") if line.strip()]
        last = lines[-1] if lines else "it wrote nothing to standard error"
        return printable(next((line for line in lines if "reason:" in line), last))


def run(configs: Any = None, variants: Any = DEFAULT_VARIANTS, *, engine: str = "ane",
        on_event: Optional[Callable[[Message], None]] = None, **settings: Any) -> Run:
    """Measure configurations in variants, one worker process for each configuration.

    `configs` are Configs, their names ("512x64x128") or tuples of numbers; None stands for the defaults of the engine
    ("ane" or "reference"). `variants` are names in VARIANTS; the first is the baseline of Ratio. Settings have the
    names of the command line: iters=50, rounds=10, warmup, qos, seed, input, verify, blob, dialect, timeout, original.
    `on_event` is called with each event (see MESSAGES). A configuration that fails gives failed cells. Raise UsageError
    for an invalid request and Unavailable if there is no usable Neural Engine.
    """
    result = plan_run(configs, variants, engine, settings)
    if not (on_event is None or callable(on_event)):
        raise UsageError(f"on_event {on_event!r}: expected a function that takes an event")
    for _ in measured(result, on_event or (lambda message: None)):
        pass
    return result


def plan_run(configs: Any, variants: Any, engine: str, settings: Mapping[str, Any]) -> Run:
    """Return the run that is asked for, with nothing measured yet. Raise UsageError if the request is invalid."""
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: expected one of {', '.join(ENGINES)}")
    unknown = [name for name in settings if name not in Settings._fields]
    if unknown:
        raise UsageError(f"unknown setting {unknown[0]!r}: expected one of {', '.join(Settings._fields)}")
    chosen = settings_of(settings)
    if engine == "reference" and chosen.original:
        raise UsageError("original and the reference engine conflict: the original's programs are too large for it")
    asked = configs_of(configs, engine)
    unique = list(dict.fromkeys(asked))
    name = "stand-in" if engine == "ane" and standin_library() else engine
    planned = Run(name, chosen, unique, variants_of(variants))
    if len(unique) < len(asked):
        planned.warn("repeated", f"{len(asked) - len(unique)} repeated configurations were left out")
    if chosen.original and any(config.kernel != 1 for config in unique):
        raise UsageError("original and a kernel conflict: the original has 1x1 convolutions only")
    count = chosen.iters * len(unique) * len(planned.variants)
    if count > MOST_SAMPLES:
        raise UsageError(f"{count} timed evaluates in all: expected at most {MOST_SAMPLES}; lower --iters")
    return planned


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return settings with defaults for those not given, the original's if `original` is. Raise UsageError."""
    if given.get("original") is not True:
        return Settings(**given).check()
    for name in given:
        if name not in ("original", "seed", "timeout"):
            raise UsageError(f"--{name} cannot be combined with --original (always {getattr(ORIGINAL_SETTINGS, name)})")
    return ORIGINAL_SETTINGS._replace(**given).check()


def configs_of(given: Any, engine: str) -> list[Config]:
    """Return configurations as Configs; those of the engine's defaults if none are given."""
    if given is None:
        return list(DEFAULTS[engine, 1])
    try:
        items = [given] if isinstance(given, (str, Config)) else list(given)
        found = [Config(*item) if isinstance(item, (tuple, list)) else Config.parse(item) for item in items]
    except TypeError:
        text = printable(repr(given))[:60]
        raise UsageError(f"configurations {text}: expected a list such as ['512x64x128']") from None
    if not found:
        raise UsageError("no configurations: expected at least one")
    return found


def variants_of(given: Any) -> list[str]:
    """Return variants as a list of names, each once."""
    names = given.split(",") if isinstance(given, str) else given
    if isinstance(names, (set, frozenset)) or not isinstance(names, Iterable):
        raise UsageError(f"variants {given!r}: expected a list, whose first item is the baseline")
    names = list(names)
    for name in names:
        if not isinstance(name, str) or name not in VARIANTS or names.count(name) > 1:
            raise UsageError(f"variant {name!r}: expected some of {', '.join(VARIANTS)}, each once")
    if not names:
        raise UsageError(f"no variants: expected some of {', '.join(VARIANTS)}")
    return names


def standin_library() -> Optional[str]:
    """Return the library that takes the place of Apple's, if the environment names one."""
    return os.environ.get(STANDIN_VARIABLE) or None


def rest_seconds() -> float:
    """Return how long to rest after a refused compile; for a stand-in, what the environment says, or 0."""
    try:
        return float(os.environ.get(REST_VARIABLE, "0")) if standin_library() else REST_S
    except ValueError:
        raise UsageError(f"{REST_VARIABLE}={os.environ[REST_VARIABLE]}: expected seconds") from None


def measured(run: Run, notify: Callable[[Message], None]) -> Iterator[list[Cell]]:
    """Measure a planned run: yield the cells of each configuration when they and their warnings are in the run. Raise
    Unavailable if the first worker finds no usable engine."""
    every, hangs, refused_at = attempts(run.settings), 0, 0.0
    forms: dict[str, Forms] = dict.fromkeys(run.variants, every)
    with contextlib.nullcontext() if run.engine == "reference" else machine_lock(notify):
        for number, config in enumerate(run.configs, 1):
            notify({"kind": "configuration", "config": config.name, "number": number, "of": len(run.configs)})
            cells = [Cell(config, variant, run.settings) for variant in run.variants]
            for cell in cells:
                cell.fail("start", NOT_MEASURED)
            if hangs < MOST_HANGS:
                job = Job(run.engine, config, run.variants, run.settings, forms, rest_seconds(), refused_at)
                cells, hung, refused_at = measure_configuration(run, job, notify)
                hangs += hung
            forms.update({cell.variant: next_forms(cell, every, forms[cell.variant]) for cell in cells})
            run.add(cells)
            note_warnings(run, cells)
            yield cells


def note_warnings(run: Run, cells: Sequence[Cell]) -> None:
    """Add the warnings about a configuration that is done; those about the machine only once."""
    known = {remark["code"] for remark in run.warnings}
    found = [(code, text) for code, text in warnings_about_machine(run.system) if code not in known]
    for cell in cells:
        found += [(code, f"{cell.name}: {text}") for code, text in warnings_about_cell(cell, run.engine, run.system)]
    for code, text in found:
        run.warn(code, text)


def next_forms(cell: Cell, every: Forms, tried: Forms) -> Forms:
    """Return the forms to try for the next configuration: first the one that worked; only one if all were refused."""
    if cell.blob:
        return sorted(every, key=lambda form: form != (cell.blob, cell.dialect))
    return tried[:1] if cell.stage in REFUSALS and len(cell.refused) + 1 == len(tried) else tried


def measure_configuration(run: Run, job: Job, notify: Callable[[Message], None]) -> tuple[list[Cell], bool, float]:
    """Return the cells of one configuration, always one per variant, whether the compile service hung, and when a
    compile was last refused.

    If a worker dies, the variant at work has failed; the others are measured again without it, unless the compile
    service hung.
    """
    cells: dict[str, Cell] = {}
    cached: dict[str, bool] = {}
    left = list(job.variants)

    def fail(variants: Sequence[str], stage: str, problem: str) -> None:
        for variant in variants:
            cells.setdefault(variant, Cell(job.config, variant, run.settings)).fail(stage, problem)

    try:
        while True:
            worker = measure_in_worker(run, job._replace(variants=left), cells, cached, notify)
            job = job._replace(refused_at=max(job.refused_at, worker.refused_at))
            left = [variant for variant in left if variant not in cells
                    or cells[variant].ok and not cells[variant].verified and run.settings.verifies]
            if worker.problem and not left:
                run.warn("unload", f"{job.config.label()}: after its figures were taken, in stage {worker.stage}: "
                                   f"{worker.problem}; if later programs fail to load, restart the Mac")
            # Nothing tells which variant it was if the worker was between two.
            culprits = [worker.at_work] if worker.at_work in left else left
            fail(culprits, worker.stage, worker.problem or f"the worker ended without a result: {worker.last_line()}")
            left = [variant for variant in left if variant not in culprits]
            if worker.hung:
                fail(left, "start", NOT_MEASURED)
            if worker.hung or not left:
                return [cells[variant] for variant in job.variants], worker.hung, job.refused_at
    finally:
        unpurged = sorted(variant for variant, may_be_left in cached.items() if may_be_left)
        if unpurged and not run.settings.original:
            run.warn("cache", f"{job.config.label()}: the worker ended before it could purge its compiled programs "
                              f"({', '.join(unpurged)}): they stay in the system's cache and take up disk space until "
                              "this configuration is measured again")


def measure_in_worker(run: Run, job: Job, cells: dict[str, Cell], cached: dict[str, bool],
                      notify: Callable[[Message], None]) -> Worker:
    """Run one worker, put what it sends into run and cells, and return it. `cached` is as in Worker, for all workers of
    the configuration. Raise Unavailable if it finds no usable engine before anything was measured."""
    again = {"measured_again": True} if cells else {}
    worker = Worker(["measure", *job], job.settings.timeout)
    try:
        with worker:
            for message in worker.messages():
                if message["kind"] == "cell":
                    if "thermal_state" in message:
                        run.system["thermal_state_after"] = message["thermal_state"]
                    cells[message["variant"]] = take_cell(run, job, message["variant"], {**message["cell"], **again})
                elif message["kind"] == "machine":
                    tick_ns = max(0.0, min(message["tick_ns"], LONGEST_NS))
                    run.tick_ns = run.tick_ns or tick_ns  # one for all, as a record has it
                    run.system = merged_facts(run.system, message["system"])
                elif message["kind"] == "warning":
                    run.warn(message["code"], message["message"])
                elif message["kind"] == "unavailable":
                    raise Unavailable(message["reason"])
                notify(message)
    except StageError as error:
        worker.stage, worker.problem = error.stage, str(error)
    except Unavailable as error:
        if not run.cells and not cells:
            raise
        worker.problem = str(error)
    finally:
        cached.update(worker.cached)
    if worker.hung:
        worker.problem += f"; {SERVICE_ADVICE}"
    return worker


def take_cell(run: Run, job: Job, variant: str, facts: Mapping[str, Any]) -> Cell:
    """Return a cell that a worker sent. Raise StageError if it is not one of this job's, or lacks samples."""
    with contextlib.suppress(UsageError):
        if variant in job.variants:
            return read_cell(run, job.config, variant, facts)
    raise StageError("message", f"the worker sent an impossible cell: {variant[:20]!r}, {facts['status'][:20]!r}")


@contextlib.contextmanager
def machine_lock(notify: Callable[[Message], None]) -> Iterator[None]:
    """Hold the lock that keeps runs from disturbing each other's figures, or go on without if none is possible. Report
    if another run holds it."""
    directory = foundation_directory()  # a lock on the directory itself leaves no file behind
    with contextlib.ExitStack() as owner:
        with contextlib.suppress(OSError, ImportError):
            import fcntl  # missing on systems that can still read records and write programs

            descriptor = os.open(directory, os.O_RDONLY)
            owner.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                notify({"kind": "wait", "path": directory})
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


# ======================================================================================================================
# 13. Doctor
#
# Used below: DOCTOR_S, REPORT_ADVICE, run_checks, check_programs.
# ======================================================================================================================

DOCTOR_S = 30.0  # the default of its --timeout: a small program takes a second
TEST_CONFIG = Config(64, 64, 2)
TEST_SETTINGS = Settings(iters=5, rounds=1, warmup=1, verify=4)
REPORT_ADVICE = "send this output to the issues of the repository that this file came from"


def run_checks(tell: Callable[[str, Finding], None], seconds: float) -> bool:
    """Run every check, and call `tell` with each result at once. Return whether a program can be measured. If a check
    crashes its worker, another one goes on with the next."""
    every = checks()
    found: list[Finding] = []

    def take(finding: Finding) -> None:
        found.append(finding)
        if finding.state != "skip":
            tell(every[len(found) - 1].name, finding)

    def done() -> bool:
        """Return whether no check is left, or the last one failed and all later ones need it."""
        return len(found) == len(every) or bool(found) and every[len(found) - 1].first and found[-1].state == "FAIL"

    while not done():
        try:
            with Worker(["examine", len(found)], seconds) as worker:
                for message in worker.messages():
                    if message["kind"] == "check" and len(found) < len(every):
                        take(Finding(message["state"], message["value"], message["advice"]))
            if not done():
                raise StageError(worker.stage, "the worker exited with code 0 before the check was done")
        except StageError as error:
            finding = Finding("FAIL", str(error), REPORT_ADVICE)
            if error.stage == "start" or len(found) == len(every):
                tell("worker", finding)
                break
            take(finding)
    left = [check.name for check in every[len(found):]]
    ready = not left and not any(check.needed and finding.state == "FAIL" for check, finding in zip(every, found))
    if not ready:
        tell("left out", Finding("skip", f"{few_of(['program', *left])}: a check above must pass first"))
    return ready


def check_programs(tell: Callable[[str, Finding], None], seconds: float) -> None:
    """Compile, load, evaluate and verify a small program in each default variant; call `tell` with the results."""
    settings = TEST_SETTINGS._replace(timeout=seconds)
    run = Run("stand-in" if standin_library() else "ane", settings, [TEST_CONFIG], DEFAULT_VARIANTS)

    def waiting(message: Message) -> None:
        if message["kind"] == "wait":
            tell("lock", Finding("note", f"another run holds {message['path']}", "waiting for it to end"))

    try:
        for _ in measured(run, waiting):
            pass
    except Unavailable as error:
        tell("program", Finding("FAIL", str(error), REPORT_ADVICE))
    for cell in run.cells:
        reason = re.sub("; try [^;]*", "", cell.failure)  # options of run
        value = f"{cell.ms['median']:.3f} ms, verified, {cell.blob}/{cell.dialect}" if cell.ok else reason
        tell(f"program {cell.name}", Finding("ok", value) if cell.ok else Finding("FAIL", value, REPORT_ADVICE))
    for warning in run.warnings:
        if warning["code"] == "cache":
            tell("cache", Finding("note", warning["message"]))


# ======================================================================================================================
# 14. Reports
#
# Used below: DEFAULT_COLUMNS, figure, varying, machine_name, coverage, grouped_warnings, Table, usual_failure,
# footnotes, markdown_table, read_records, show, comparison, gate.
# ======================================================================================================================

DEFAULT_COLUMNS = 80
NARROWEST_LABEL = 26  # letters, those of `W8A8 128x conv 512ch 64x64`
FEWEST_SWEPT = 3  # configurations
LONGEST_FACT = 40  # letters of a fact about a machine: a record from elsewhere may hold anything


def figure(value: Optional[float], decimals: int, room: int = 9) -> str:
    """Return a figure in at most `room` letters; empty for None. If it would read 0.00 it has three significant digits,
    and if it would be too long, as many as there is room for, as a power of ten if need be."""
    if value is None:
        return ""
    powers = [re.sub("e[+]?(-?)0*", r"e\1", f"{value:.{digits}e}") for digits in (2, 1, 0)]
    forms = [*(f"{value:.{number}f}" for number in range(decimals, -1, -1)), *powers]
    if value and not float(forms[0]):
        most = 2 - math.floor(math.log10(abs(value)))
        forms = [form for less, power in enumerate(powers) for form in (f"{value:.{most - less}f}", power)]
    return next((form for form in forms if len(form) <= room), forms[-1])


def exact_figure(value: float, decimals: int, room: int = 9) -> str:
    """Return a figure that is not measured: with three decimals if it is below 1, so that half of it reads so."""
    return figure(value, decimals if value >= 1 else 3, room)


def half_width(figures: Mapping[str, Any], middle: str) -> str:
    """Return half of the 95 % interval as a share of its figure, such as ±0.4%; empty if there is none."""
    if "ci95" not in figures:
        return ""
    share = (figures["ci95"][1] - figures["ci95"][0]) / 2 / figures[middle]
    return f"±{share:.{0 if share >= 0.0995 else 1}%}" if share < 9.995 else "±>10x"


def ratio_text(cell: Cell) -> str:
    """Return the ratio as text; a dash if it is unknown because one of the two cells failed."""
    if cell.ratio:
        return f"{figure(cell.ratio['value'], 2, 4)}x"
    return "–" if cell.baseline not in (None, cell) and cell.samples else ""


def varying(configs: Sequence[Config]) -> list[str]:
    """Return the dimensions that vary in a sweep, which is a cross product of three or more configurations; for other
    runs, all dimensions."""
    values = {name: {getattr(config, name) for config in configs} for name in Config._fields}
    swept = len(set(configs)) == math.prod(map(len, values.values())) >= FEWEST_SWEPT
    return [name for name in Config._fields if len(values[name]) > 1 or not swept]


def chip_name(run: Run) -> str:
    """Return the chip's name without its maker's, such as `M4 Max`."""
    return str(run.system.get("chip", "unknown chip")).replace("Apple ", "", 1)[:LONGEST_FACT]


def machine_facts(run: Run, macos: bool = True) -> str:
    """Return chip, its engine's sub-type and, if `macos`, macOS; the Python version for a reference engine."""
    if run.engine == "reference":
        return f"Python {run.system.get('python', 'unknown')}"[:LONGEST_FACT]
    facts = [chip_name(run), str(run.system.get("ane_architecture", run.system.get("ane_subtype", "unknown")))]
    facts += [f"macOS {run.system['macos']}"] if macos and "macos" in run.system else []
    return ", ".join(fact[:LONGEST_FACT] for fact in facts)


def machine_name(run: Run, macos: bool = True) -> str:
    """Return a description of the engine: the machine's, the stand-in's or the reference's."""
    if run.engine == "reference":
        return "reference engine in plain Python, which says nothing about a Neural Engine"
    return ("stand-in library, " if run.engine == "stand-in" else "") + machine_facts(run, macos)


def coverage(run: Run) -> str:
    """Return how much of an interrupted run was measured, such as `2 of 5 configurations`; empty for whole runs."""
    return f"{len(run.results)} of {len(run.configs)} configurations" if run.complete is False else ""


def protocol_text(run: Run) -> str:
    """Return how a run measured, in a few words."""
    settings, how = run.settings, ["as the original"]
    if not settings.original:
        warmup = "until steady" if settings.warmup is None else f"{settings.warmup} evaluates"
        how = [f"input {settings.input}", f"warm-up {warmup}", f"QoS {settings.qos}"]
        how += [f"blob {settings.blob}"] if settings.blob != "auto" else []
        how += [f"dialect {settings.dialect}"] if settings.dialect != "auto" else []
    rounds = f"{settings.rounds} round{'s' if settings.rounds > 1 else ''}"
    return ", ".join([*how, f"{settings.iters} evaluates in {rounds}", f"data {run.data}"])


def grouped_warnings(run: Run) -> list[str]:
    """Return a line for each code of warning: the first message, then the names of the other cells with the same."""
    groups: dict[str, list[str]] = {}
    for warning in run.warnings:
        groups.setdefault(warning["code"], []).append(warning["message"])
    return [f"warning ({code}) {found[0]}{others_named(run, found)}" for code, found in groups.items()]


def others_named(run: Run, messages: Sequence[str]) -> str:
    """Return the cells or configurations that messages after the first one name, each configuration once."""
    names = [message.split(": ")[0] for message in messages]
    if len(run.cells) > 2 and {cell.name for cell in run.cells} <= set(names):
        return f" (and all {len(run.cells) - 1} other cells)"
    cells = {cell.name: (VARIANTS[cell.variant].label, cell.config.label()) for cell in run.cells}
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names[1:]):
        variant, config = cells.get(name, ("", name))
        groups.setdefault(config, []).append(variant)
    listed = "; ".join(f"{', '.join(found)} {config}".strip() for config, found in groups.items())
    return f" (also {listed})" if listed else ""


def remarks(run: Run) -> list[str]:
    """Return the remarks that must stand wherever a run's figures are shown."""
    return [*([f"The run was broken off: {coverage(run)}."] if coverage(run) else []),
            *(["Samples are condensed to the medians of rounds."] if run.condensed else [])]


# The table. Headings and their order are the original's, with intervals and the check added. A line has up to 80
# letters, 29 of them for the name; beside shorter names TOPS takes two more, for three digits of small rates.

class Column(NamedTuple):
    """A column: its field in csv, heading, width with a space, and function from cell and room to text."""

    field: str
    heading: str
    width: int
    text: Callable[[Cell, int], str]


COLUMNS = (
    Column("weights_mib", "W(MB)", 6, lambda cell, room: exact_figure(cell.weights_mib, 1, room)),
    Column("gop", "GOP", 7, lambda cell, room: exact_figure(cell.config.gop, 2, room)),
    Column("ms", "ms/eval", 8, lambda cell, room: figure(cell.milliseconds, 3, room)),
    Column("ms_low", "±95%", 6, lambda cell, room: half_width(cell.ms, "median")),
    Column("tops", "TOPS", 6, lambda cell, room: figure(cell.tops, 2, room)),
    Column("ratio", "Ratio", 6, lambda cell, room: ratio_text(cell)),
    Column("ratio_low", "±95%", 6, lambda cell, room: half_width(cell.ratio, "value")),
    Column("check", "Check", 6, lambda cell, room: cell.check))
WIDE_COLUMNS = [column._replace(width=10) for column in COLUMNS]


def cell_texts(run: Run, cell: Cell, columns: Sequence[Column] = WIDE_COLUMNS) -> list[str]:
    """Return a cell's text in each column; a star after the check marks a cell that a warning names."""
    mark = "*" if any(warning["message"].startswith(f"{cell.name}: ") for warning in run.warnings) else ""
    return [column.text(cell, column.width - 1) + (mark if column.field == "check" else "") for column in columns]


class Table:
    """A run as a table of at most so many columns. In a sweep, rows are named by the dimensions that vary."""

    def __init__(self, run: Run, columns: int = DEFAULT_COLUMNS) -> None:
        self.run, self.columns = run, list(COLUMNS)
        self.dimensions = list(Config._fields) if run.settings.original else varying(run.configs)
        names = [self.label(config, variant) for config in run.configs for variant in run.variants]
        longest = max(map(len, names), default=0)
        room = columns - sum(column.width for column in COLUMNS)
        self.width = max(NARROWEST_LABEL, min(longest, room))
        for field in ("weights_mib", "gop", "ratio_low", "ms_low"):  # the configuration tells the first two
            if self.width > room:
                room += sum(column.width for column in self.columns if column.field == field)
                self.columns = [column for column in self.columns if column.field != field]
        wider = min(2, max(0, room - self.width))
        self.columns = [column._replace(width=column.width + wider) if column.field == "tops" else column
                        for column in self.columns]

    def label(self, config: Config, variant: str) -> str:
        """Return a row's name."""
        return f"{VARIANTS[variant].label:<4} {config.label(self.dimensions)}".rstrip()

    def common(self) -> list[str]:
        """Return a line about what all configurations of a sweep share; none for other runs."""
        same = [name for name in Config._fields if name not in self.dimensions]
        if "kernel" in same and self.run.configs[0].kernel == 1:
            same.remove("kernel")
        return [f"All: {self.run.configs[0].label(same)}"] if same else []

    def head(self) -> str:
        """Return title, headings and rule; for a sweep first what stays the same."""
        if self.run.settings.original:
            heading = f"{'Config':<30} {'W(MB)':>7} {'GOP':>7} {'ms/eval':>9} {'TOPS':>7} {'Ratio':>7}"
            return f"=== ANE INT8 W8A8 Benchmark ({machine_name(self.run, macos=False)}) ===\n\n{heading}\n{'-' * 80}\n"
        heading = f"{'Config':<{self.width}}" + "".join(f"{column.heading:>{column.width}}" for column in self.columns)
        title = f"=== {PROGRAM_NAME} {self.run.version} ({machine_name(self.run)}) ==="
        return "\n".join([title, "", *(f"{line}\n" for line in self.common()), heading, "-" * len(heading), ""])

    def rows(self, cells: Sequence[Cell]) -> str:
        """Return the lines of one configuration, and a blank one. A name that is too long has a line of its own; a cell
        that failed says why, below its figures if it has any."""
        lines = []
        for cell in cells:
            label = self.label(cell.config, cell.variant)
            if not cell.samples:
                lines.append(f"{label}: {cell.failure}")
                continue
            if self.run.settings.original:  # as its printf writes them
                ratio = f"  {cell.ratio['value']:.2f}x" if cell.ratio else ""
                line = (f"{label:<30} {cell.weights_mib:6.1f}  {cell.config.gop:6.2f}  {cell.milliseconds:7.3f} ms "
                        f"{cell.tops:6.2f}{ratio}")
            else:
                if len(label) > self.width:
                    lines.append(label)
                    label = ""
                texts = zip(cell_texts(self.run, cell, self.columns), self.columns)
                line = f"{label:<{self.width}}" + "".join(f"{text:>{column.width}}" for text, column in texts)
            lines += [line.rstrip()] if cell.ok else [line.rstrip(), f"     {cell.failure}"]
        return "".join(f"{line}\n" for line in [*lines, ""])

    def end(self) -> str:
        """Return the lines below the rows: the answer, then notes; for the original its own last line."""
        if self.run.settings.original:
            return f"=== {coverage(self.run) or 'Done'} ===\n"
        return "\n".join([*answers(self.run), "", *footnotes(self.run)]).rstrip() + "\n"

    def text(self) -> str:
        """Return the whole table."""
        return self.head() + "".join(self.rows(cells) for _, cells in self.run.results) + self.end()


# The answer in a sentence for each kernel.

SPOKEN = {"fp16": "FP16", "w8a16": "INT8 for weights alone (W8A16)", "w8a8": "INT8 (W8A8)"}


def answers(run: Run) -> list[str]:
    """Return what the run found, in sentences; none for the original."""
    if run.settings.original:
        return []
    groups = [[cell for cell in run.cells if cell.config.kernel == kernel] for kernel in KERNELS]
    return [*(answer_of(run, cells) for cells in groups if cells), *remarks(run)]


def answer_of(run: Run, cells: Sequence[Cell]) -> str:
    """Return what was found in the cells of one kernel, or what failed most often."""
    where = {"reference": "in plain Python, which says nothing about a Neural Engine",
             "stand-in": "on this stand-in library"}.get(run.engine, f"on this {chip_name(run)}")
    where += " with 3x3 convolutions" if cells[0].config.kernel == 3 else ""
    right = [cell for cell in cells if cell.ok]
    if not right:
        failure = usual_failure(cells)
        reason = str(failure.error).split(";")[0]
        doctor = "" if run.engine == "reference" else f" See what this Mac has: python3 {PROGRAM_NAME}.py doctor"
        which = f"All {len(cells)} cells" if len(cells) > 1 else "The only cell"
        return f"{which} failed {where}, most often in stage {failure.stage} ({reason}).{doctor}"
    best = max(right, key=lambda cell: cell.tops or 0)
    wrong = [VARIANTS[variant].label for variant in run.variants if all(cell.variant != variant for cell in right)]
    most = f"at most {figure(best.tops, 1 if (best.tops or 0) >= 1 else 2)} TOPS"
    failed = f"; every {' and '.join(wrong)} cell failed" if wrong else ""
    for variant in reversed(SPOKEN):
        pairs = [cell for cell in right if cell.variant == variant and cell.ratio]
        if pairs:
            return f"{ratio_sentence(pairs, where)}; {most}{failed}."
    return f"{VARIANTS[best.variant].label} reaches {most} {where}{failed}."


def usual_failure(cells: Sequence[Cell]) -> Cell:
    """Return a cell that failed in the stage in which most failed; those that were not even tried hardly count."""
    tried = [cell for cell in cells if cell.error != NOT_MEASURED] or cells
    stage = statistics.mode(cell.stage for cell in tried)
    return next(cell for cell in tried if cell.stage == stage)


def ratio_sentence(pairs: Sequence[Cell], where: str) -> str:
    """Return the sentence about one variant against the baseline, from the cells that have a ratio."""
    pairs = sorted(pairs, key=lambda cell: float(cell.ratio["value"]))
    least = pairs[0]
    name, base = SPOKEN[least.variant], VARIANTS[least.baseline.variant].label if least.baseline else ""
    values = [cell.ratio["value"] for cell in pairs]
    ends, kind = (values, "") if len(pairs) > 1 else (least.ratio.get("ci95", ()), "95 % interval ")
    spread = f"{kind}{ends[0]:.2f}x to {ends[-1]:.2f}x " if ends else ""
    spread += f"over {len(pairs)} configurations" if len(pairs) > 1 else f"at {least.config.label()}"
    intervals = {cell.config.label(): cell.ratio["ci95"] for cell in pairs if "ci95" in cell.ratio}
    slower = [label for label, (_, high) in intervals.items() if high < 1]
    faster = [label for label, (low, _) in intervals.items() if low > 1]
    if faster and slower:
        return (f"Whether {name} is faster than {base} {where} depends on the configuration: slower at "
                f"{few_of(slower)}, faster at {few_of(faster[::-1])}, from {values[0]:.2f}x to {values[-1]:.2f}x")
    if len(intervals) == len(pairs) and not faster and not slower:
        return f"No difference in speed between {name} and {base} was seen {where} ({spread})"
    spread += "" if intervals else f"; an interval takes {FEWEST_ROUNDS} rounds"
    return f"{name} is {statistics.geometric_mean(values):.2f}x as fast as {base} {where} ({spread})"


# Notes below a table.

def footnotes(run: Run) -> list[str]:
    """Return notes: fallbacks in use, no check, rates without the fixed cost, published results for this chip."""
    asked = attempts(run.settings)[0]
    taken: dict[tuple[str, str], dict[str, None]] = {}
    for cell in run.cells:
        if cell.blob and cell.dialect and (cell.blob, cell.dialect) != asked:
            taken.setdefault((cell.blob, cell.dialect), {})[VARIANTS[cell.variant].label] = None
    notes = [f"Fallback: {' and '.join(labels)}, refused as {'/'.join(asked)}, measured with the {layout} weight file "
             f"and dialect {dialect}." for (layout, dialect), labels in taken.items()]
    if not run.settings.verifies and run.cells:
        reason = "an input of zeros proves nothing" if run.settings.input == "zeros" else "--verify 0"
        notes.append(f"No output was checked: {reason}.")
    return [*notes, *marginal_notes(run), *published_note(run)]


MARGINAL_FIELDS = ("marginal_from", "marginal_tops", "marginal_low", "marginal_high", "fixed_ms", "fixed_low",
                   "fixed_high")


def marginal_fields(run: Run, cell: Cell) -> dict[str, Any]:
    """Return the rate without the fixed cost of an evaluate, and that cost, with intervals, by the fields of csv: for
    the deepest of cells that differ in depth alone, from it and the next one. All are None for other cells, or if they
    cannot be told."""
    channels, spatial, _, kernel = cell.config
    alike = [other for other in run.cells if other.ok and other.variant == cell.variant
             and other.config == (channels, spatial, other.config.depth, kernel)
             and (other.variant, other.config.depth) != ("w8a8", 1)]  # which quantizes nothing
    alike.sort(key=lambda other: other.config.depth)
    if len(alike) < 2 or alike[-1] is not cell or run.settings.original:
        return dict.fromkeys(MARGINAL_FIELDS)
    other = alike[-2]
    found = marginal(other.samples_ns, cell.samples_ns, other.config.gop, cell.config.gop, cell.tick_ns)
    if not found:
        return dict.fromkeys(MARGINAL_FIELDS)
    rates, times = found["tops_interval"] or (None, None), found["fixed_interval"] or (None, None)
    return dict(zip(MARGINAL_FIELDS, (other.config.depth, found["tops"], *rates, found["fixed_ms"], *times)))


def marginal_notes(run: Run) -> list[str]:
    """Return a line for each pair of depths about the rate without the fixed cost of an evaluate."""
    lines: dict[str, list[str]] = {}
    for cell in run.cells:
        depth, rate, slow, fast, fixed, least, most = marginal_fields(run, cell).values()
        if slow is None:
            continue
        text = f"{figure(rate, 1)} TOPS ({figure(slow, 1)}-{figure(fast, 1)}) and "
        text += (f"{figure(fixed, 2)} ms ({figure(least, 2)}-{figure(most, 2)}) for each evaluate whatever it computes"
                 if least > 0 else "a fixed cost that cannot be told")
        shape = cell.config.label(["channels", "spatial", *(["kernel"] if cell.config.kernel != 1 else [])])
        lines.setdefault(f"{shape}, from {depth} to {cell.config.depth} layers", []).append(
            f"{VARIANTS[cell.variant].label} {text}")
    return [f"{beginning}: {'; '.join(texts)}." for beginning, texts in lines.items()]


class Published(NamedTuple):
    """A published result: the chip, its source, how it was measured, and TOPS in FP16 and W8A8 by configuration."""

    chip: str
    source: str
    how: str
    rates: Mapping[str, tuple[str, str]]


AS_ORIGINAL = "on zeros, one variant after the other"
PUBLISHED = (
    Published("M4", "maderix/ANE README, macOS not stated", AS_ORIGINAL, {
        "512x64x128": ("18.6", "35.1"), "512x64x64": ("18.4", "34.1")}),
    Published("M4 Pro", "public notes that ran the original, Darwin 25.2", AS_ORIGINAL, {
        "512x64x128": ("18.51", "34.90"), "512x64x64": ("18.15", "34.05"), "256x64x256": ("16.49", "30.70"),
        "256x64x128": ("16.02", "29.54"), "384x64x128": ("18.24", "33.02")}),
    Published("M5", "Anemll gist 49e219448ad350ef67ff4bfdcb9ebd8c, macOS not stated", AS_ORIGINAL, {
        "512x64x128": ("18.22", "34.22")}),
    Published("M5 Pro", "cadamcat/llms-on-apple-neural-engine, macOS 27.0", "through Core ML and Core AI", {
        "512x64x128": ("18.19-18.79", "34.14-35.06")}),
    Published("M5 Max", "maderix/ANE pull request 50, macOS 26.4.1", AS_ORIGINAL, {"512x64x128": ("19.27", "35.61")}),
    Published("M2 Max", "a public notebook that ran the original, macOS 26.4", AS_ORIGINAL, {
        "512x64x128": ("16.31", "16.36"), "512x64x64": ("16.10", "16.16"), "256x64x256": ("13.40", "15.64"),
        "256x64x128": ("13.22", "15.32"), "384x64x128": ("15.87", "16.08")}),
    Published("M1", "freedomtan/measure_ane_capacity", "through MPSGraph, on zeros", {
        "128x256x20k3": ("10.83", "11.36")}),
    Published("M4 Pro", "freedomtan/measure_ane_capacity", "through MPSGraph, on zeros", {
        "128x256x20k3": ("18.50", "35.91")}),
)


def published_note(run: Run) -> list[str]:
    """Return a line that sets a published result beside the first configuration that has one, and says how it was
    measured; none for other chips, and for a stand-in."""
    own_way = AS_ORIGINAL if run.settings.original else f"in turns, on {run.settings.input} input"
    for (config, cells), known in itertools.product(run.results, PUBLISHED if run.engine == "ane" else ()):
        rates = zip(("fp16", "w8a8"), known.rates.get(config.name, ()) if known.chip == chip_name(run) else ())
        own = {cell.variant: cell.tops for cell in cells if cell.ok}
        pairs = [f"{VARIANTS[variant].label} {own[variant]:.1f} TOPS here, {rate} published"
                 for variant, rate in rates if variant in own]
        if pairs:
            differs = "" if known.how == own_way else f"; measured there {known.how}, here {own_way}"
            return [f"{known.chip} at {config.label()}: {'; '.join(pairs)} ({known.source}{differs})."]
    return []


# Markdown and csv.

def markdown(run: Run) -> str:
    """Return a block to paste into an issue: machine, answer, table, exact command, notes and warnings, the record."""
    whole, names = Table(run), ("model", "build", "power_source")
    machine = [machine_name(run), *(str(run.system[name])[:LONGEST_FACT] for name in names if name in run.system)]
    machine += [f"{run.system['memory_bytes'] / (1 << 30):.0f} GiB"] if "memory_bytes" in run.system else []
    title = f"{PROGRAM_NAME} {run.version}: {', '.join([*machine, run.started])}"
    rows = [[whole.label(cell.config, cell.variant), *cell_texts(run, cell)] for cell in run.cells]
    failures = [f"{whole.label(cell.config, cell.variant)}: {cell.failure}" for cell in run.cells if not cell.ok]
    notes = [*whole.common(), protocol_text(run), *failures, *footnotes(run), *grouped_warnings(run)]
    report = "\n".join([f"**{markdown_escaped(title)}**\n", *(f"{markdown_escaped(text)}\n" for text in answers(run)),
                        markdown_table(["Config", *(column.heading for column in COLUMNS)], rows),
                        *([f"    python3 {shlex.join(run.command)}", ""] if run.command else []),
                        *markdown_items(notes), ""])
    return report + record_block(run, LONGEST_COMMENT - len(report))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], figures: bool = True) -> str:
    """Return a markdown table; columns of figures are aligned to the right."""
    lines = [f"| {' | '.join(headings)} |", "|:--" + ("|--:" if figures else "|:--") * (len(headings) - 1) + "|"]
    lines += [f"| {' | '.join(markdown_escaped(text.strip()) for text in row)} |" for row in rows]
    return "\n".join([*lines, ""])


def markdown_items(texts: Iterable[str]) -> list[str]:
    """Return the lines of a markdown list, and a blank one."""
    return [*(f"- {markdown_escaped(text)}" for text in texts), ""]


def markdown_escaped(text: str) -> str:
    """Return text with markdown's signs escaped."""
    return re.sub(r"([\\`*_<>|\[\]~&#])", r"\\\1", text)


def csv_fields(run: Run, cell: Cell) -> dict[str, Any]:
    """Return a cell's values in csv by the names in its header; unknown ones are None."""
    (ms_low, ms_high), (ratio_low, ratio_high) = (found.get("ci95", (None, None)) for found in (cell.ms, cell.ratio))
    facts = ("compile_ms", "load_ms", "check", "status", "stage", "error", "blob", "dialect")
    return {
        "config": cell.config.name, "variant": cell.variant, **cell.config._asdict(),
        "weights_mib": cell.weights_mib, "gop": cell.config.gop,
        "ms": cell.milliseconds, "ms_low": ms_low, "ms_high": ms_high, "tops": cell.tops,
        "ratio": cell.ratio.get("value"), "ratio_low": ratio_low, "ratio_high": ratio_high,
        **{f"ms_{name}": cell.ms.get(name) for name in ("mean", "min", "p95", "mad")},
        **{name: getattr(cell, name) for name in facts},
        **marginal_fields(run, cell),
        **{name: run.system.get(name) for name in ("chip", "ane_subtype", "macos", "model")},
        "engine": run.engine, "version": run.version, "started": run.started, "protocol": protocol_text(run)}


def comma_separated(runs: Sequence[Run]) -> str:
    """Return csv: a header, and a line for each cell."""
    text = io.StringIO()
    rows = [csv_fields(run, cell) for run in runs for cell in run.cells]
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


REPORTS.update(table=lambda run: Table(run).text(), markdown=markdown, csv=lambda run: comma_separated([run]),
               json=record_text)

# A record to send is a block of compressed text, so an issue thread, saved as text, is a set of records.
LONGEST_COMMENT = 65536  # letters; GitHub's limit
BLOCK = "```ane-bench-record"


def record_block(run: Run, room: int) -> str:
    """Return a run's record as a block of text, its samples condensed to the medians of rounds if it does not fit."""
    packed = base64.b64encode(zlib.compress(json.dumps(run.to_dict()).encode(), 9)).decode()
    lines = "\n".join(packed[start:start + 76] for start in range(0, len(packed), 76))
    summary = " ".join(["The record, for show, compare and chart.", *remarks(run)])
    block = f"<details><summary>{summary}</summary>\n\n{BLOCK}\n{lines}\n```\n\n</details>\n"
    if len(block) <= room:
        return block
    if not run.condensed:
        return record_block(condensed(run), room)
    return f"This text is longer than a comment may be ({LONGEST_COMMENT} letters): attach it as a file.\n\n{block}"


def condensed(run: Run) -> Run:
    """Return a copy of a run whose samples are the medians of its rounds; the original's are their means."""
    average = statistics.fmean if run.settings.original else statistics.median
    record = {**run.to_dict(), "condensed": True}
    for result in record["results"]:
        for cell in result["variants"].values():
            cell["samples_ns"] = [[average(samples)] for samples in cell.get("samples_ns", ())]
    return run_of(record)


def read_records(path: str, complain: Callable[[str], None]) -> list[Run]:
    """Return the runs in a file: a record, or a text with blocks of markdown reports, quoted or not. Call `complain`
    for each damaged block, and leave it out. Raise UsageError if there is no record."""
    data = read_bounded(path)
    text = re.sub(r"(?m)^[ \t>]+", "", data.decode("utf-8", "replace"))
    blocks = text.split(BLOCK)[1:]
    if data.lstrip().startswith(b"{"):
        return [parse_record(data, path)]
    if not blocks:
        raise UsageError(printable(f"{path}: is neither a record of schema {SCHEMA} nor a text with markdown reports"))
    found: list[Run] = []
    room = LARGEST_RECORD
    for number, block in enumerate(blocks, 1):
        try:
            unpacked = unpack("".join(block.split("`")[0].split()), room)
            room -= len(unpacked)
            found.append(parse_record(unpacked, "the text in it"))
        except (ValueError, zlib.error) as error:
            complain(printable(f"{path}: block {number} of {len(blocks)} is damaged and left out: {error}"))
    if not found:
        raise UsageError(printable(f"{path}: every record in it is damaged"))
    return found


def unpack(packed: str, room: int) -> bytes:
    """Return the bytes in a block. Raise ValueError or zlib.error if it is damaged, or larger than `room`."""
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(packed, validate=True), room + 1)
    if len(data) > room:
        raise ValueError(f"the records in one file have over {LARGEST_RECORD >> 20} MiB")
    if not unpacker.eof:
        raise ValueError("it ends too early")
    return data


# Several records.

SPARE_HEADINGS = ("±95%", "95%", "Started")


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> str:
    """Return a table with columns of the least width; the first is aligned to the left, the others to the right. If it
    is wider than `room`, columns with SPARE_HEADINGS are left out, then gaps are made narrow."""
    columns, gap = list(zip(headings, *rows)), " "
    for spare in (None, *SPARE_HEADINGS):
        columns = [column for column in columns if column[0] != spare]
        widths = [max(map(len, column)) for column in columns]
        if sum(widths) + 2 * len(widths) - 2 <= room:
            gap = "  "
            break
    lines = [gap.join(f"{text:{'>' if place else '<'}{width}}" for place, (text, width) in enumerate(zip(row, widths)))
             for row in zip(*columns)]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:], ""])


def show(runs: Sequence[Run], form: str, room: int = sys.maxsize) -> str:
    """Return saved runs in a format of `run`: one as it was printed, several as a table with the machine as a column,
    if possible of `room` columns. Runs that measured differently are in separate tables, each below what its cells have
    in common."""
    if form == "csv":
        return comma_separated(runs)
    if len(runs) == 1:
        return REPORTS[form](runs[0])
    if form == "json":
        return json.dumps([run.to_dict() for run in runs], indent=1, allow_nan=False) + "\n"
    runs = sorted(runs, key=lambda run: ([int(part) if place % 2 else part for place, part in  # M2 before M10
                                          enumerate(re.split("([0-9]+)", chip_name(run)))], run.started))
    columns = [column for column in WIDE_COLUMNS if column.field not in ("weights_mib", "gop")]
    groups: dict[str, list[list[str]]] = {}
    for run in runs:
        for cell in run.cells:
            *texts, check = cell_texts(run, cell, columns)
            common = (f"{run.engine}, {PROGRAM_NAME} {run.version}, {protocol_text(run)}, "
                      f"{cell.config.kernel}x{cell.config.kernel} convolutions")
            if run.variants[0] != DEFAULT_VARIANTS[0]:
                common += f", Ratio to {VARIANTS[run.variants[0]].label}"
            groups.setdefault(common, []).append([machine_facts(run), run.started[:10], cell.name, *texts,
                                                  check if cell.ok else f"failed: {cell.stage}"])
    headings = ["Machine", "Started", "Cell", *(column.heading for column in columns)]
    notes = [f"{machine_facts(run)}, {run.started[:10]}: {line}" for run in runs
             for line in [*remarks(run), *grouped_warnings(run)]]
    if form == "markdown":
        parts = [f"{markdown_escaped(common)}:\n\n{markdown_table(headings, rows)}" for common, rows in groups.items()]
        return "\n".join([*parts, *markdown_items(notes)])
    tables = [f"{common}:\n\n{text_table(headings, rows, room)}" for common, rows in groups.items()]
    return "\n".join([*tables, *notes, ""])


# Compare.

MOST_ROUNDS = 1000  # that are advised
SAME = 0.02  # speeds whose intervals lie within this of 1 are the same


class Difference(NamedTuple):
    """A cell in two records: how many times faster the new one is, the 95 % interval if there is one, and the verdict:
    faster, slower, same or undecided."""

    base: Cell
    new: Cell
    speed: float
    interval: Optional[Sequence[float]]
    verdict: str


def compare(base: Run, new: Run) -> list[Difference]:
    """Return the differences between two runs, one for each cell that is right in both. Intervals are those within a
    run; two runs of one machine may differ by more."""
    others = {cell.name: cell for cell in new.cells if cell.ok}
    return [difference(cell, others[cell.name]) for cell in base.cells if cell.ok and cell.name in others]


def difference(base: Cell, new: Cell) -> Difference:
    """Compare the times of two cells. The original's means have no intervals."""
    speed, interval = speed_estimate(base.samples_ns, new.samples_ns, max(base.tick_ns, new.tick_ns))
    if base.settings.original or new.settings.original:
        speed, interval = base.ms["mean"] / new.ms["mean"], None
    low, high = verdict_interval(speed, interval) if interval else (0, math.inf)
    same = low > 1 - SAME and high < 1 + SAME
    verdict = "same" if same else "faster" if low > 1 else "slower" if high < 1 else "undecided"
    return Difference(base, new, speed, interval, verdict)


def differing(base: Run, new: Run) -> list[str]:
    """Return lines about how program, machine and protocol of two runs differ."""
    ignored = ("thermal_state_before", "thermal_state_after", "load_average")
    meaning = {"data": " (revisions of weights and input: other programs were timed)", "input": " (zeros run faster)"}
    one, other = ({"engine": run.engine, "version": run.version, "data": run.data, "baseline": run.variants[0],
                   **run.system, **run.settings._asdict()} for run in (base, new))
    return [f"differs in {name}: {one.get(name, 'unknown')} / {other.get(name, 'unknown')}{meaning.get(name, '')}"
            for name in dict.fromkeys([*one, *other]) if name not in ignored and one.get(name) != other.get(name)]


def comparison(runs: Sequence[Run], form: str, gated: Optional[tuple[list[str], list[str]]] = None,
               room: int = sys.maxsize) -> str:
    """Return a comparison of two runs or more with the first, as table (if possible of `room` columns), markdown or
    json. `gated` is what the gate found, which json holds too."""
    names = ["BASE", "NEW"] if len(runs) == 2 else ["BASE", *(f"NEW{number}" for number in range(1, len(runs)))]
    changes = [compare(runs[0], run) for run in runs]
    others = list(zip(names, runs, changes))[1:]
    head = [f"{name:<5} {machine_name(run)}, {run.started}" for name, run in zip(names, runs)]
    prefix = "{} " if len(runs) > 2 else ""
    head += [prefix.format(name) + line for name, run, _ in others for line in differing(runs[0], run)]
    tail = [line for name, run, found in others for line in comparison_notes(runs[0], run, name, found)]
    tail += [f"{name}: {line}" for name, run in zip(names, runs) for line in [*remarks(run), *grouped_warnings(run)]]
    tail.append("Intervals are those within a run; two runs of one machine may differ by more, so verdicts take "
                "them twice as wide.")
    if form == "json":
        cells = [{"record": name, "config": item.base.config.name, "variant": item.base.variant, "speed": item.speed,
                  "ci95": item.interval, "verdict": item.verdict, "base_ms": item.base.milliseconds,
                  "new_ms": item.new.milliseconds, "base_ratio": item.base.ratio, "new_ratio": item.new.ratio}
                 for name, _, found in others for item in found]
        report = {"schema": "ane-bench-compare/1", "head": head, "cells": cells, "notes": tail,
                  **dict(zip(("failed", "undecided"), gated or ()))}
        return json.dumps(report, indent=1, allow_nan=False) + "\n"
    headings, rows = comparison_of_two(changes[1]) if len(runs) == 2 else comparison_of_many(names, runs, changes)
    if form == "markdown":
        return "\n".join([*markdown_items(head), markdown_table(headings, rows), *markdown_items(tail)])
    return "\n".join([*head, "", text_table(headings, rows, room), *tail, ""])


def comparison_of_two(found: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: times, speed and verdict of each cell, with the ratio on either side."""
    rows = []
    for item in found:
        interval = "-".join(f"{end:.3f}" for end in item.interval or ())
        rows.append([item.base.name, figure(item.base.milliseconds, 3), figure(item.new.milliseconds, 3),
                     f"{item.speed:.2f}x", interval, item.verdict, ratio_text(item.base), ratio_text(item.new)])
    return ["Cell", "BASE ms", "NEW ms", "Speed", "95%", "Verdict", "BASE Ratio", "NEW Ratio"], rows


def comparison_of_many(names: Sequence[str], runs: Sequence[Run],
                       changes: Sequence[Sequence[Difference]]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: each cell's rate in every run and its speed against the first, then the ratios."""
    right = [{cell.name: cell for cell in run.cells if cell.ok} for run in runs]
    speeds = [{item.new.name: f" {item.speed:.2f}x" for item in found} for found in changes]
    rates, ratios = [], []
    for name in dict.fromkeys(cell.name for run in runs for cell in run.cells):
        cells = [found.get(name) for found in right]
        rates.append([name, *(f"{figure(cell.tops, 2)} TOPS{speed.get(name, '')}" if cell else "–"
                              for cell, speed in zip(cells, speeds))])
        if any(cell and cell.ratio for cell in cells):
            ratios.append([f"{name} Ratio", *(ratio_text(cell) if cell else "–" for cell in cells)])
    return ["Cell", *names], [*rates, *ratios]


def comparison_notes(base: Run, new: Run, name: str, found: Sequence[Difference]) -> list[str]:
    """Return lines about cells that failed or have no counterpart, and each variant's geometric mean of speeds."""
    lines = [] if found else [f"nothing to compare: no cell is right in both BASE and {name}"]
    for side, own, other, apart in (("BASE", base, new, f", not in {name}"), (name, new, base, "")):
        others = {cell.name for cell in other.cells}
        only = [cell.name for cell in own.cells if cell.name not in others]
        lines += [f"only in {side}{apart}: {', '.join(only)}"] if only else []
        lines += [f"{side}: {cell.name}: {cell.failure}" for cell in own.cells if not cell.ok]
    for variant in VARIANTS:
        speeds = [item.speed for item in found if item.new.variant == variant]
        if len(speeds) > 1:
            lines.append(f"{name}: {VARIANTS[variant].label} is {statistics.geometric_mean(speeds):.3f}x as fast "
                         f"(geometric mean of {len(speeds)} cells)")
    return lines


# The gate.

def check_gate(base: Run, new: Run) -> None:
    """Raise UsageError, saying what to record instead, if two records allow no verdict."""
    facts = [{"engines": run.engine, "chips": chip_name(run), "inputs": run.settings.input, "data revisions": run.data,
              "QoS": run.settings.qos, "baselines": run.variants[0]} for run in (base, new)]
    for name, one in facts[0].items():
        if one != facts[1][name]:
            raise UsageError(f"the records have different {name} ({one} and {facts[1][name]}); record both on one "
                             "machine, with the same options and the same version")
    for side, run in (("BASE", base), ("NEW", new)):
        if run.settings.original or run.settings.rounds < FEWEST_ROUNDS:
            raise UsageError(f"{side} has no intervals; record it without --original, with --rounds {FEWEST_ROUNDS} or "
                             "more")
        if run.engine != "reference" and "chip" not in run.system:
            raise UsageError(f"{side} does not name its chip; record both on one machine that does")
    if base.settings.verifies and not new.settings.verifies:
        raise UsageError("NEW was not verified, and BASE was; record NEW without --verify 0")
    if base.complete is not True:
        raise UsageError(f"BASE is not known to be whole ({coverage(base) or 'an old record'}); record it to its end")


def gate(runs: Sequence[Run], slower: Optional[float], ratio_drops: Optional[float]) -> tuple[list[str], list[str]]:
    """Return the reasons why NEW does not pass, and lines about what stays undecided.

    A cell does not pass if it surely takes more than `slower` percent longer, if it is right in BASE and not in NEW, or
    if its ratio is surely lower by more than `ratio_drops` percent. Raise UsageError if the records do not tell.
    """
    if len(runs) != 2:
        raise UsageError(f"{len(runs)} records: --fail-if-slower and --fail-if-ratio-drops take two, BASE and NEW")
    base, new = runs
    check_gate(base, new)
    pairs = compare(base, new)
    now = {**{cell.name: "missing from NEW" for cell in base.cells}, **{cell.name: cell.failure for cell in new.cells}}
    failed = [f"{cell.name}: {now[cell.name]}" for cell in base.cells if cell.ok and now[cell.name]]
    times = [(item.new, item.speed, item.interval) for item in pairs]
    ratios = [(item.new, *ratio_change(item)) for item in pairs if item.base.ratio]
    undecided: list[str] = []
    checks: list[tuple[str, Optional[float], Any, Callable[[float], float], str]] = [
        ("slower", slower, times, lambda speed: 1 / speed - 1, "takes {}{:.1%} longer"),
        ("ratio-drops", ratio_drops, ratios, lambda change: 1 - change, "has a ratio that is {}{:.1%} lower")]
    for option, percent, changes, loss_of, text in checks:
        if percent is None:
            continue
        if not failed and not any(interval for _, _, interval in changes):
            raise UsageError(f"--fail-if-{option} has nothing to compare: no cell has that interval in both records; "
                             "record both with a second variant and more --iters")
        for cell, change, interval in changes:
            limit, loss = percent / 100, loss_of(change)
            if not interval:
                undecided.append(f"{cell.name}: undecided, since it has no interval in one of the records")
                continue
            least, most = sorted(map(loss_of, verdict_interval(change, interval)))
            if least > limit:
                failed.append(f"{cell.name}: {text.format('', loss)}")
            elif most > limit:
                advice = rounds_needed(new.settings, (most - least) / 2, abs(limit - loss))
                undecided.append(f"{cell.name}: undecided, {text.format('at most ', most)}; {advice}")
    return failed, undecided


def ratio_change(item: Difference) -> tuple[float, Optional[list[float]]]:
    """Return the factor by which a ratio changed, and its 95 % interval: the half-widths of both ratios' logarithms
    are added as squares."""
    base, new = item.base.ratio, item.new.ratio
    if "ci95" not in base or "ci95" not in new:
        return 1.0, None
    change = new["value"] / base["value"]
    half = math.hypot(*(math.log(ratio["ci95"][1] / ratio["ci95"][0]) / 2 for ratio in (base, new)))
    return change, [change * math.exp(-half), change * math.exp(half)]


def rounds_needed(settings: Settings, half: float, distance: float) -> str:
    """Return the advice to record so many rounds that half an interval is less than its distance from the limit: three
    times as many, since that is uncertain too. In simulation 82 % of cases are then decided."""
    rounds = math.ceil(settings.rounds * 3 * min(half / max(distance, 1e-9), 20) ** 2)
    if rounds > MOST_ROUNDS:
        return f"it would take over {MOST_ROUNDS} rounds to tell: close other programs, or choose another limit"
    return f"about --rounds {rounds} --iters {rounds * (settings.iters // settings.rounds)} in both records would tell"


# ======================================================================================================================
# 15. Chart
#
# Used below: chart.
# ======================================================================================================================

# Sizes in pixels.
CHART_WIDTH, MARGIN, SPACE, INSET, CAP, FONT, TITLE_FONT = 800, 20, 8, 22, 7, 12, 15
HEADING, RATE_HEIGHT, RATIO_HEIGHT, STRIP_ROW = 32, 230, 84, 17
NARROWEST_BAR, WIDEST_BAR, GROUP_GAP = 16, 60, 16
PANELS_ABREAST = 3
LONGEST_TEXT = 1000  # letters: a record's texts may be of any length
INK, QUIET, RULE, STRIP, GROUND = "#1f2430", "#4a5261", "#d5d9e0", "#f1f3f6", "#ffffff"
COLORS = {"fp16": "#52617a", "w8a16": "#23857a", "w8a8": "#c8551b"}
# Shapes tell variants apart without color. Their corners, in pixels from the middle.
SHAPES = {"fp16": ((-4, -4), (4, -4), (4, 4), (-4, 4)), "w8a16": ((0, -5), (5, 5), (-5, 5)),
          "w8a8": ((0, -6), (6, 0), (0, 6), (-6, 0)), "failed": ((-4, -4), (4, 4), (0, 0), (4, -4), (-4, 4))}
AXIS_TITLES = {"channels": "channels", "spatial": "side in pixels", "depth": "layers", "kernel": "kernel"}
CONFIG_TITLE = "channels x side in pixels x layers"

Points = Sequence[tuple[float, Cell]]  # cells, each with its place along the horizontal axis


def text_width(text: str) -> float:
    """Return an upper bound of a text's width in font sizes, that of DejaVu Sans, the widest of the usual fonts."""
    return sum(1.3 if letter > "\u2e7f" else 1.0 if letter in "MWmw@%" or letter > "~" else
               0.8 if letter.isupper() else 0.65 for letter in text)


def wrapped(text: str, width: float) -> list[str]:
    """Return a text in lines of at most `width` font sizes. A word is broken only if it may be longer than a line."""
    lines, most = [""], int(width / text_width("漢"))
    for word in text[:LONGEST_TEXT].split():
        for piece in (word[start:start + most] for start in range(0, len(word), most)):
            longer = f"{lines[-1]} {piece}".lstrip()
            lines[-1:] = [longer] if text_width(longer) <= width else [lines[-1], piece]
    return lines


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return equidistant round numbers from at most `low` to at least `high`, with up to `most` steps."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * power for size in (1, 2, 5, 10) if size * power * most >= (high - low) * (1 - 1e-9))
    return [step * number for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def rates_of(cell: Cell) -> list[float]:
    """Return TOPS of a cell and the ends of its interval; empty for a failed cell, unless its output was wrong."""
    if cell.tops is None or not (cell.ok or cell.check == "WRONG"):
        return []
    return [cell.tops, *(cell.config.gop / end for end in cell.ms.get("ci95", ()) if end > 0)]


def ratios_of(cell: Cell) -> list[float]:
    """Return the ratio of a cell and the ends of its interval, if it has any."""
    return [cell.ratio["value"], *cell.ratio.get("ci95", ())] if cell.ratio else []


def tip_of(cell: Cell) -> str:
    """Return name and figures of a cell, and why it failed if it did."""
    figures = [f"{figure(rate, 2)} TOPS" for rate in rates_of(cell)[:1]]
    figures += [f"{figure(ratio, 2)}x" for ratio in ratios_of(cell)[:1]]
    return f"{cell.name}: {', '.join(filter(None, (*figures, cell.failure[:LONGEST_TEXT])))}"


class Drawing:
    """SVG elements on a light ground, all of them texts and lines. A `tip` is shown when the pointer rests there."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = FONT, color: str = INK,
             upright: bool = False) -> None:
        """Write a text with its baseline at y; an upright one reads from the bottom to the top."""
        turn = f' transform="rotate(-90 {x:.2f} {y:.2f})"' if upright else ""
        halo = f'stroke="{GROUND}" stroke-width="3" paint-order="stroke"'  # keeps lines off the letters
        self._elements.append(f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" font-size="{size}" fill="{color}" '
                              f"{halo}{turn}>{html.escape(printable(text))}</text>")

    def line(self, points: Iterable[tuple[float, float]], color: str, width: float = 1, fill: str = "none",
             tip: str = "") -> None:
        """Draw a line through points; if there is a fill, a filled polygon."""
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        tag, title = "polyline" if fill == "none" else "polygon", html.escape(printable(tip))
        self._elements.append(f'<{tag} points="{path}" fill="{fill}" stroke="{color}" stroke-width="{width}">'
                              f"{title and f'<title>{title}</title>'}</{tag}>")

    def box(self, left: float, top: float, right: float, bottom: float, color: str, fill: str, tip: str = "") -> None:
        """Draw a rectangle."""
        self.line([(left, top), (right, top), (right, bottom), (left, bottom)], color, 1, fill, tip)

    def mark(self, x: float, y: float, variant: str, fill: str, tip: str = "") -> None:
        """Draw a variant's mark."""
        self.line([(x + right, y + down) for right, down in SHAPES[variant]], COLORS[variant], 1.5, fill, tip)

    def svg(self, title: str, width: float, height: float) -> str:
        """Return the whole drawing as the text of a file."""
        size, title = f'width="{width:.0f}" height="{height:.0f}"', html.escape(printable(title))
        return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" {size} '
                          'role="img" font-family="Helvetica, Arial, sans-serif">', f"<title>{title}</title>",
                          f'<rect {size} fill="{GROUND}"/>', *self._elements, "</svg>", ""])


class Chart:
    """The drawing of a run from the top down: a sweep over one dimension as lines, over two as panels, others as
    bars."""

    def __init__(self, run: Run) -> None:
        self.run, self.drawing = run, Drawing()
        self.results, self.cells = run.results, run.cells
        self.variants = run.variants if run.cells else []
        failed = {cell.variant for cell in self.cells if not rates_of(cell)}
        self.failed = [variant for variant in self.variants if variant in failed]
        rates = [rate for cell in self.cells for rate in rates_of(cell)]
        ratios = [ratio for cell in self.cells for ratio in ratios_of(cell)]
        self.rate_ticks = round_ticks(0, max(rates), 6) if rates else []
        self.ratio_ticks = round_ticks(min(1, *ratios), max(1.05, *ratios), 4) if ratios else []
        # The dimension with the most values lies along the axis; each value of a second one has a panel.
        self.dimensions = sorted(varying(run.configs), key=lambda name: -len(self.values(name)))
        self.swept = len(self.dimensions) in (1, 2)
        self.y = float(MARGIN)  # the lower end of what is drawn
        self._measure()

    def _measure(self) -> None:
        """Compute the room for labels at the left, the widths of all, a group and a bar, and the room for figures."""
        labels = [f"{tick:g}" for tick in (*self.rate_ticks, *self.ratio_ticks)]
        labels += [VARIANTS[variant].label for variant in self.failed]
        self.room = SPACE + FONT * max(map(text_width, labels), default=0)
        groups, bars = max(1, len(self.results)), max(1, len(self.variants))
        least = 0 if self.swept else groups * (bars * NARROWEST_BAR + GROUP_GAP)
        self.width = max(CHART_WIDTH, 2 * MARGIN + self.room + least)
        self.left, self.right = MARGIN + self.room, self.width - MARGIN
        self.group = (self.right - self.left) / groups
        self.bar = 0.0 if self.swept else min((self.group - GROUP_GAP) / bars, WIDEST_BAR)
        figures = [found[0] for cell in self.cells for found in (rates_of(cell), ratios_of(cell)) if found]
        widest = FONT * max((text_width(figure(value, 2)) for value in figures), default=0)
        self.upright = widest > self.bar
        self.headroom = 0 if self.swept else SPACE + (widest if self.upright else FONT)

    def values(self, dimension: str) -> list[int]:
        """Return the values of a dimension in rising order."""
        return sorted({getattr(config, dimension) for config in self.run.configs})

    def svg(self) -> str:
        """Draw everything; return the text of the file."""
        title = f"{'' if self.run.engine == 'reference' else 'Neural Engine throughput: '}{machine_name(self.run)}"
        self.head(title)
        if self.results and len(self.dimensions) == 2:
            self.panels()
        elif self.results:
            self.panel(self.results)
        return self.drawing.svg(title, self.width, self.y + MARGIN)

    def head(self, title: str) -> None:
        """Write the title, facts of the whole run, a legend, and a sentence if there is no rate."""
        same = [name for name in AXIS_TITLES if name not in self.dimensions]
        facts = [coverage(self.run), f"all {self.run.configs[0].label(same)}" if self.swept else "",
                 "95 % intervals" if any(len(rates_of(cell)) > 1 for cell in self.cells) else "",
                 f"{PROGRAM_NAME} {self.run.version}"]
        self.paragraph(title, TITLE_FONT, INK)
        self.paragraph(" · ".join(filter(None, facts)), FONT, QUIET)
        signs = [(variant, COLORS[variant], VARIANTS[variant].label) for variant in self.variants]
        wrong = [cell.variant for cell in self.cells if cell.check == "WRONG" and rates_of(cell)]
        signs += [(variant, GROUND, "hollow: wrong output") for variant in wrong[:1]]
        x, self.y = float(MARGIN + SPACE), self.y + 3 * SPACE
        for variant, fill, text in signs:
            self.drawing.mark(x, self.y - 4, variant, fill)
            self.drawing.text(x + 12, self.y, text)
            x += 12 + FONT * text_width(text) + 2 * SPACE
        if not self.cells:
            self.paragraph("No configuration was measured.", FONT, INK)
        elif not self.rate_ticks:
            stage = usual_failure(self.cells).stage
            self.paragraph(f"All cells failed ({len(self.cells)}), most often in stage {stage}.", FONT, INK)

    def paragraph(self, text: str, size: int, color: str) -> None:
        """Write a text in as many lines as it takes."""
        for line in wrapped(text, (self.width - 2 * MARGIN) / size):
            self.y += size + 5
            self.drawing.text(MARGIN, self.y, line, size=size, color=color)

    def panels(self) -> None:
        """Draw a panel for each value of a sweep's second dimension that was measured, in rows."""
        second = self.dimensions[1]
        values = sorted({getattr(config, second) for config, _ in self.results})
        abreast = min(PANELS_ABREAST, len(values))
        width = (self.width - 2 * MARGIN + SPACE) / abreast
        for number, value in enumerate(values):
            if number % abreast == 0:
                top = self.y + 4 * SPACE
            self.y = top
            self.left = MARGIN + number % abreast * width + self.room
            self.right = self.left - self.room + width - SPACE
            self.drawing.text((self.left + self.right) / 2, self.y, f"{AXIS_TITLES[second]}: {value}", "middle")
            self.panel([result for result in self.results if getattr(result[0], second) == value])

    def panel(self, results: Sequence[tuple[Config, Sequence[Cell]]]) -> None:
        """Draw rates, ratios and failures of some results above one horizontal axis."""
        labels, points = self.places(results)
        baseline = VARIANTS[self.run.variants[0]].label if self.ratio_ticks else ""
        for title, figures_of, ticks, base, height in (
                ("TOPS, more is better", rates_of, self.rate_ticks, 0, RATE_HEIGHT),
                (f"times as fast as {baseline}", ratios_of, self.ratio_ticks, 1, RATIO_HEIGHT)):
            if ticks:
                place = self.frame(title, ticks, base, height)
                for variant in self.variants:
                    self.series([point for point in points if point[1].variant == variant], figures_of, place, base)
                self.y += 0 if self.swept or base else 2 * SPACE  # the marks below bars
        if self.failed:
            self.strip([(x, cell) for x, cell in points if not rates_of(cell)])
        self.axis(labels)

    def places(self, results: Sequence[tuple[Config, Sequence[Cell]]]) -> tuple[list[tuple[float, str]], Points]:
        """Return labels of the horizontal axis, and cells with their places on it; the axis of a sweep is
        logarithmic."""
        name, values = self.dimensions[0], self.values(self.dimensions[0])
        labels = [(self.left + self.group * (number + 0.5), config.name) for number, (config, _) in enumerate(results)]
        middles = [x for x, _ in labels]
        if self.swept:
            unit = (self.right - self.left - 2 * INSET) / math.log(values[-1] / values[0])
            scale = {value: self.left + INSET + math.log(value / values[0]) * unit for value in values}
            labels = [(x, str(value)) for value, x in scale.items()]
            middles = [scale[getattr(config, name)] for config, _ in results]
        first = (1 - len(self.variants)) / 2
        aside = {variant: (first + number) * self.bar for number, variant in enumerate(self.variants)}
        points = [(x + aside[cell.variant], cell) for x, (_, cells) in zip(middles, results) for cell in cells]
        return labels, sorted(points, key=lambda point: point[0])

    def frame(self, title: str, ticks: Sequence[float], base: float, height: float) -> Callable[[float], float]:
        """Draw a vertical axis with its title, and lines for ticks and base; return a function from value to place."""
        self.drawing.text(self.left, self.y + HEADING - 10, title, color=QUIET)
        self.y += HEADING + self.headroom + height
        bottom, unit = self.y, height / (ticks[-1] - ticks[0])

        def place(value: float) -> float:
            return bottom - (value - ticks[0]) * unit

        for tick in ticks:
            self.drawing.line([(self.left, place(tick)), (self.right, place(tick))], RULE)
            self.drawing.text(self.left - SPACE, place(tick) + 4, f"{tick:g}", "end", color=QUIET)
        self.drawing.line([(self.left, place(base)), (self.right, place(base))], QUIET, 1.5)
        return place

    def series(self, points: Points, figures_of: Callable[[Cell], list[float]], place: Callable[[float], float],
               base: float) -> None:
        """Draw figures of one variant: marks; in a sweep also a line, with gaps for failed cells; else bars from 0."""
        for known, group in itertools.groupby(points, lambda point: bool(figures_of(point[1]))):
            if not known:
                continue
            stretch = [(x, cell, [place(value) for value in figures_of(cell)]) for x, cell in group]
            if self.swept:
                self.drawing.line([(x, heights[0]) for x, _, heights in stretch], COLORS[stretch[0][1].variant], 2)
            for x, cell, heights in stretch:
                y, tip, color = heights[0], tip_of(cell), COLORS[cell.variant]
                fill = GROUND if cell.check == "WRONG" else color
                if not self.swept and base == 0:
                    self.drawing.box(x - self.bar / 2 + 1, y, x + self.bar / 2 - 1, self.y, color, fill, tip)
                    y = self.y + SPACE  # the mark stands below the bar
                if len(heights) == 3:
                    ends = [[(x - CAP, end), (x + CAP, end), (x, end)] for end in heights[1:]]
                    self.drawing.line(ends[0] + ends[1][::-1], INK)
                self.drawing.mark(x, y, cell.variant, fill, tip)
                if not self.swept:
                    self.drawing.text(x + 4 * self.upright, min(heights) - SPACE, figure(figures_of(cell)[0], 2),
                                      "start" if self.upright else "middle", upright=self.upright)

    def strip(self, points: Points) -> None:
        """Draw a cross for each failed cell, with a row for each variant that has any."""
        self.drawing.text(self.left, self.y + HEADING - 10, "failed", color=QUIET)
        top = self.y + HEADING
        self.y = top + STRIP_ROW * len(self.failed)
        self.drawing.box(self.left, top, self.right, self.y, STRIP, STRIP)
        rows = {variant: top + (number + 0.5) * STRIP_ROW for number, variant in enumerate(self.failed)}
        for variant, y in rows.items():
            self.drawing.text(self.left - SPACE, y + 4, VARIANTS[variant].label, "end", color=QUIET)
        for x, cell in points:
            cross = [(x + right, rows[cell.variant] + down) for right, down in SHAPES["failed"]]
            self.drawing.line(cross, COLORS[cell.variant], 2, tip=tip_of(cell))

    def axis(self, labels: Sequence[tuple[float, str]]) -> None:
        """Draw the horizontal axis with its title, and as many labels as have room."""
        widths = [FONT * text_width(label) for _, label in labels]
        upright = not self.swept and max(widths) > self.group - SPACE
        free, last = 0.0, labels[-1][0] - widths[-1] / 2 - SPACE
        for (x, label), width in zip(labels, widths):
            self.drawing.line([(x, self.y), (x, self.y + 5)], QUIET)
            if upright:
                self.drawing.text(x + 4, self.y + SPACE, label, "end", upright=True)
            elif x - width / 2 >= free and (x + width / 2 <= last or x == labels[-1][0]):
                self.drawing.text(x, self.y + SPACE + FONT, label, "middle")
                free = x + width / 2 + SPACE
        self.y += SPACE + (max(widths) if upright else FONT) + 3 * SPACE
        title = f"{AXIS_TITLES[self.dimensions[0]]}, logarithmic" if self.swept else CONFIG_TITLE
        self.drawing.text((self.left + self.right) / 2, self.y, title, "middle", color=QUIET)


def chart(run: Run) -> str:
    """Return the SVG of a run: rates in TOPS, failures, and ratios to the baseline, each with its 95 % interval."""
    return Chart(run).svg()


# ======================================================================================================================
# 16. Command line
# ======================================================================================================================

FORMATS = ("table", "markdown", "csv", "json")
WITHOUT_ENGINE = ("Without one, --engine reference runs small programs in plain Python; emit, show, compare and chart "
                  "work anywhere.")
REPORT_IT = (f"If this machine has one, please send the output of python3 {PROGRAM_NAME}.py doctor to the issues of "
             "the repository that this file came from.")
PLAIN_S = 10.0  # the least time between two lines of progress that are not live
SHORT_STAGE_S = 2.0  # shorter stages are shown without their limit


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, and whose help is this file's docstring."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message)

    def format_help(self) -> str:
        """Return the manual, or the part of it that is about one command. Python under -OO has neither."""
        return manual(self.prog.split()[-1]) if __doc__ else super().format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version with write_stdout, which finds at once if it cannot."""
        write_stdout(message)


def manual(command: str) -> str:
    """Return the docstring, or the part of it about one command: its usage, its options and the exit codes."""
    sections = re.split(r"\n\n(?=\S)", (__doc__ or "").strip())
    lines = (__doc__ or "").split("\n")
    usage = [line for line in lines if re.match(rf" +python3 {PROGRAM_NAME}\.py \[?{command}\b", line)]
    own = [section for section in sections if re.match(rf"(Options of .*\b{command}\b|Exit codes)", section)]
    return "\n\n".join(["\n".join(usage), *own] if usage else sections) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: verbs and their options."""
    parser = Parser(prog=PROGRAM_NAME, allow_abbrev=False, description=f"Commands: {', '.join(VERBS)}.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM_NAME} {__version__}")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    parsers = {verb: subparsers.add_parser(verb, allow_abbrev=False) for verb in VERBS}

    def add(verbs: str, *names: str, **settings: Any) -> None:
        for verb in verbs.split():
            for name in names:
                parsers[verb].add_argument(name, **settings)

    add("run emit", "--config", action="append", dest="configs")
    add("run emit", *(f"--{name}" for name in Config._fields))
    add("run emit", "--variants", default=",".join(DEFAULT_VARIANTS))
    add("run emit", "--original", action="store_true", default=None)
    add("run emit", "--seed", type=int)
    add("run emit", "--blob", choices=SETTING_CHOICES["blob"])
    add("run emit", "--dialect", choices=SETTING_CHOICES["dialect"])
    add("emit", "directory", metavar="DIR")
    add("run", "--iters", "--rounds", "--warmup", "--qos", "--verify", type=int)
    add("run", "--input", choices=SETTING_CHOICES["input"])
    add("run", "--engine", choices=ENGINES, default="ane")
    add("run", "--save")
    add("run", "--quiet", action="store_true")
    add("run doctor", "--timeout", type=float)
    add("run show", "--format", choices=FORMATS, default="table")
    add("doctor compare", "--format", choices=[name for name in FORMATS if name != "csv"], default="table")
    add("show compare", "records", nargs="+", metavar="RECORD.json")
    add("compare", "--fail-if-slower", "--fail-if-ratio-drops", type=float)
    add("chart", "record", metavar="RUN.json")
    add("chart", "-o", dest="output")
    return parser


def configs_asked(options: argparse.Namespace, engine: str) -> Optional[list[Config]]:
    """Return the configurations that the options ask for: named ones, or a sweep's cross product; None if neither. A
    sweep takes the dimensions that it does not name from the first default configuration of its kernel."""
    lists = {name: getattr(options, name) for name in Config._fields}
    given = {name: dimensions(name, text) for name, text in lists.items() if text is not None}
    if options.configs and given:
        name = next(iter(given))
        cure = "write k3 behind a configuration" if name == "kernel" else "ask for configurations, or for a sweep"
        raise UsageError(f"--config and --{name} conflict: {cure}")
    if not given:
        return [Config.parse(text) for text in options.configs] if options.configs else None
    kernels = given.pop("kernel", [1])
    if not set(kernels) <= set(KERNELS):
        raise UsageError(f"--kernel {options.kernel}: expected 1, 3 or 1,3")
    found: list[Config] = []
    for kernel in kernels:
        defaults = DEFAULTS[engine, kernel]
        values = [given.get(name, [value]) for name, value in defaults[0]._asdict().items()]
        found += itertools.starmap(Config, itertools.product(*values)) if given else defaults
    return found


def run_asked(options: argparse.Namespace, engine: str) -> Run:
    """Return the run that the options ask for. Raise UsageError if it is invalid."""
    if options.original and options.kernel is not None:
        raise UsageError("--kernel cannot be combined with --original (always 1)")
    given = {name: getattr(options, name, None) for name in Settings._fields}
    settings = {name: value for name, value in given.items() if value is not None}
    return plan_run(configs_asked(options, engine), options.variants, engine, settings)


def dimensions(name: str, text: str) -> list[int]:
    """Return the numbers of a list such as `256,512`, each once. Raise UsageError if it is not one."""
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise UsageError(f"--{name} {text!r}: expected whole numbers separated by commas, such as 256,512")
    return list(dict.fromkeys(map(int, text.split(","))))


def write_stdout(text: str, form: str = "table") -> None:
    """Write to standard output; of the formats, only the table is fitted into a terminal. Raise OutputError if that
    fails, and BrokenPipeError if the reader went away."""
    if not sys.stdout:
        raise OutputError("standard output: cannot be written: it is closed")
    try:
        write_stream(sys.stdout, fit_terminal(text, sys.stdout) if form == "table" else text)
    except BrokenPipeError:
        raise
    except Exception as error:  # of a host's own stream
        raise OutputError(f"standard output: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def print_error(text: str) -> None:
    """Write a line to standard error, if that is possible."""
    write_if_possible(sys.stderr, fit_terminal(f"{PROGRAM_NAME}: {text}\n", sys.stderr))


def write_if_possible(stream: Optional[TextIO], text: str) -> None:
    """Write to a stream, if there is one. Errors are ignored: there is nowhere to report them."""
    with contextlib.suppress(Exception):  # of a host's own stream
        if stream:
            write_stream(stream, text)


def write_stream(stream: TextIO, text: str) -> None:
    """Write a text, with question marks for characters that the stream's encoding lacks."""
    # Past Python's buffers: what they hold at exit could fail then, and a non-blocking pipe may take a part only.
    getattr(stream, "flush", lambda: None)()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    data = text.encode(encoding, "replace")
    try:
        descriptor = stream.fileno()
    except Exception:  # the host's own stream, such as io.StringIO
        stream.write(data.decode(encoding))
        return
    while data:
        try:
            data = data[os.write(descriptor, data):]
        except BlockingIOError:
            select.select([], [descriptor], [])


def terminal_columns(stream: Optional[TextIO]) -> Optional[int]:
    """Return how many columns a terminal has; None if the stream does not lead to one."""
    with contextlib.suppress(Exception):  # of a host's own stream
        if stream and stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    return None


def fit_terminal(text: str, stream: Optional[TextIO]) -> str:
    """Return text whose lines fit the terminal; as it is for other streams."""
    columns = terminal_columns(stream) or sys.maxsize
    lines = []
    for line in text.split("\n"):
        long = len(line) > columns
        lines += textwrap.wrap(line, columns, subsequent_indent="    ", break_on_hyphens=False) if long else [line]
    return "\n".join(lines)


class Progress:
    """Show the progress of a run: on a terminal a live line, renewed with every event; elsewhere a line for each
    configuration, and at most every ten seconds. The time left is estimated after each round and configuration."""

    def __init__(self, run: Run, stream: Optional[TextIO], clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._stream, self._clock = run, stream, clock
        self._live = terminal_columns(stream) is not None and os.environ.get("TERM") != "dumb"
        self._printed = -math.inf
        self._began = self._config_began = self._stage_began = clock()
        self._rounds_began: Optional[float] = None
        self._rounds_ended: Optional[float] = None
        self._each_s: Optional[float] = None  # of the configurations that are done, on the average
        self._tail_s: Optional[float] = None  # the last configuration's verification and unloading
        self._end: Optional[float] = None
        self._number, self._config, self._step, self._limit = 0, "", "", 0.0

    def __call__(self, message: Message) -> None:
        now = self._clock()
        if message["kind"] == "wait":
            print_error(f"waiting for another run on this machine to end (it holds the lock on {message['path']})")
        elif message["kind"] == "configuration":
            self._note_configuration(message, now)
        elif message["kind"] == "stage":
            self._note_stage(message, now)
        if self._config and (self._live or now - self._printed >= PLAIN_S):
            self._printed = now
            write_if_possible(self._stream, f"\r\x1b[K{self._line(now)}" if self._live else f"{self._line(now)}\n")

    def _note_configuration(self, message: Message, now: float) -> None:
        """Note the next configuration; estimate the end from those that are done."""
        if self._rounds_ended:
            self._tail_s = now - self._rounds_ended
        if self._number:
            self._each_s = (now - self._began) / self._number
            self._end = now + self._each_s * (len(self._run.configs) - self._number)
        self._number, self._config = message["number"], Config.parse(message["config"]).label()
        self._step, self._limit = "start", self._run.settings.timeout
        self._config_began = self._stage_began = now
        self._rounds_began = self._rounds_ended = None
        self._printed = -math.inf

    def _note_stage(self, message: Message, now: float) -> None:
        """Note the stage; estimate the end if it is a round."""
        labels = ",".join(VARIANTS[name].label for name in message["variant"].split(",") if name in VARIANTS)
        stage = "waiting for the compile service" if message["stage"] == "rest" else message["stage"]
        step = f"{labels} {stage}".strip()
        number, of = message.get("number", 0), message.get("of", 0)
        if number and of:
            step = f"{labels} round {number} of {of}"
            self._note_round(number - 1, of, now)
        elif self._rounds_began and not self._rounds_ended:
            self._rounds_ended = now
        if step != self._step:
            self._step, self._stage_began = step, now
        self._limit = message["limit"] + self._run.settings.timeout

    def _note_round(self, done: int, count: int, now: float) -> None:
        """Estimate the end when some rounds are done. The first configuration's verification and unloading are taken to
        last as long as its compiling and loading; later configurations, as long as earlier ones."""
        if not done or self._rounds_began is None:
            self._rounds_began, self._rounds_ended = now, None
            return
        tail = self._rounds_began - self._config_began if self._tail_s is None else self._tail_s
        rest = (now - self._rounds_began) / done * (count - done) + tail
        each = now - self._config_began + rest if self._each_s is None else self._each_s
        self._end = now + rest + each * (len(self._run.configs) - self._number)

    def _line(self, now: float) -> str:
        """Return the line. If it is too long, the time elapsed is left out, then the stage's; never the time left."""
        lasting = now - self._stage_began
        parts = [f"[{self._number}/{len(self._run.configs)}] {self._config}: {self._step}",
                 f", {clock_time(lasting)} of at most {clock_time(self._limit)}" if lasting >= SHORT_STAGE_S else "",
                 f", {clock_time(now - self._began)} elapsed"]
        left = "" if self._end is None else f", {clock_time(max(0.0, self._end - now))} left"
        room = (terminal_columns(self._stream) or sys.maxsize) - 1 - len(left)
        while len(parts) > 1 and len("".join(parts)) > room:
            parts.pop()
        return ("".join(parts)[:max(0, room)] + left)[:room + len(left)]

    def clear(self) -> None:
        """Clear the live line."""
        if self._live:
            write_if_possible(self._stream, "\r\x1b[K")


def clock_time(seconds: float) -> str:
    """Return minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run the comparison: save and print each configuration as soon as it is measured."""
    run = run_asked(options, options.engine)
    run.command = list(command)
    if options.save is not None:
        check_save(options.save)
    progress = Progress(run, None if options.quiet else sys.stderr)
    table, printed, unsaved = Table(run, terminal_columns(sys.stdout) or DEFAULT_COLUMNS), 0, False

    def save_and_print() -> None:
        """Save the run, and print the rows that have not been printed."""
        nonlocal printed, unsaved
        if options.save:
            unsaved = False
            try:
                run.save(options.save)
            except OutputError as error:  # the rest is still measured
                unsaved = True
                print_error(str(error))
        for _, cells in run.results[printed:] if options.format == "table" else ():
            write_stdout(("" if printed else table.head()) + table.rows(cells))
            printed += 1

    try:
        for _ in measured(run, progress):
            progress.clear()
            save_and_print()
    except (KeyboardInterrupt, Terminated) as stop:
        progress.clear()
        if not run.cells:
            if not options.quiet:
                print_warnings(run)
            return broken_off(stop)
        save_and_print()  # once more, with the last warnings
        finish_report(run, options)
        place = "were measured" if unsaved or not options.save else f"are in {printable(options.save)}"
        return broken_off(stop, f": {len(run.results)} of {len(run.configs)} configurations {place}")
    finally:
        progress.clear()
    finish_report(run, options)
    return 0 if run.ok and not unsaved else 1


def broken_off(stop: BaseException, result: str = "") -> int:
    """Print the last line of a command that a signal interrupted, and return its exit code."""
    number = stop.signal if isinstance(stop, Terminated) else signal.SIGINT
    print_error(("interrupted" if number == signal.SIGINT else "terminated") + result)
    return 128 + number


def finish_report(run: Run, options: argparse.Namespace) -> None:
    """Print the rest of a run: below a table the answer and notes, otherwise the whole report; then the warnings."""
    write_stdout(Table(run).end() if options.format == "table" else REPORTS[options.format](run), options.format)
    if not options.quiet:
        print_warnings(run)


def print_warnings(run: Run) -> None:
    """Print the warnings of a run, and the notes that have no place in the original's table."""
    for line in [*(footnotes(run) if run.settings.original else ()), *grouped_warnings(run)]:
        print_error(line)


def check_save(path: str) -> None:
    """Raise UsageError if no record can be saved under this name, or the file is something else than a record."""
    check_suffix(path, "json", "--save writes json")
    check_writable(path)
    if os.path.exists(path) and os.path.getsize(path):
        try:
            read_record(path)
        except UsageError:
            raise UsageError(f"--save {path}: the file exists and is not a record of this program; choose another "
                             "name, or remove it") from None


def check_suffix(path: str, own: str, wrong: str) -> None:
    """Raise UsageError if a file's name is empty, or has the suffix of another format than `own`."""
    suffix = os.path.splitext(path)[1][1:].lower()
    if not path:
        raise UsageError(f"{wrong}, and the file has no name; name one such as m4.{own}")
    cures = {"csv": "show RECORD.json --format csv", "md": "show RECORD.json --format markdown",
             "svg": "chart RECORD.json -o FILE.svg", "png": "chart RECORD.json (a browser shows and prints its .svg)",
             "json": "run --save FILE.json"}
    cures.update(markdown=cures["md"], pdf=cures["png"], jpg=cures["png"])
    if suffix in cures and suffix != own:
        raise UsageError(f"{path}: {wrong}; for that: python3 {PROGRAM_NAME}.py {cures[suffix]}")


def doctor_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run all checks, and print each result with what to do if it is a failure."""
    found: list[dict[str, str]] = []
    seconds = Settings(timeout=DOCTOR_S if options.timeout is None else options.timeout).check().timeout

    def tell(name: str, finding: Finding) -> None:
        if options.format != "table":  # made to be sent
            finding = finding._replace(value=without_paths(finding.value))
        found.append({"name": name, **finding._asdict()})
        if options.format == "table":
            write_stdout(doctor_line(found[-1]))
        elif name == "lock":
            print_error(f"{finding.value}: {finding.advice}")

    if run_checks(tell, seconds):
        text = f"compiling and measuring a small program, up to {seconds:.0f} s for each stage"
        if options.format == "table":
            write_stdout(f"      {text}\n")
        else:
            print_error(text)
        check_programs(tell, seconds)
    failed = [check for check in found if check["state"] == "FAIL"]
    well = not failed
    count = f"{len(failed)} check{'' if len(failed) == 1 else 's'} failed"
    ask = f"{'Please' if well else 'If this Mac has a Neural Engine, please'} {REPORT_ADVICE}.\n"
    if failed and failed[0]["name"] == "stand-in":
        ask = ""
    if options.format == "json":
        report = {"schema": "ane-bench-doctor/1", "version": __version__, "ok": well, "checks": found}
        write_stdout(json.dumps(report, indent=1) + "\n", options.format)
    elif options.format == "markdown":
        rows = [[check["state"], check["name"], check["value"], check["advice"]] for check in found]
        write_stdout(f"**{PROGRAM_NAME} {__version__} doctor: {count}**\n\n"
                     + markdown_table(["State", "Check", "Found", "What to do"], rows, figures=False), options.format)
        if ask:
            print_error(ask.strip())
    else:
        result = f"{count}:\n{''.join(map(doctor_line, failed))}"
        if well:
            result = f"All checks passed: python3 {PROGRAM_NAME}.py will measure.\n"
        write_stdout(f"\n{result}{ask}")
    return 0 if well else 3


def doctor_line(check: Mapping[str, str]) -> str:
    """Return the line of a check."""
    advice = f" -> {check['advice']}" if check["advice"] else ""
    return f"{check['state']:<5} {check['name']}: {check['value']}{advice}\n"


def emit_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Write each program's two files below a directory."""
    run = run_asked(options, "ane")
    if not options.directory:
        raise UsageError("the directory has no name; name one such as programs")
    layout, dialect = attempts(run.settings)[0]
    for config in run.configs:
        for variant in run.variants:
            program = build_program(config, variant, seed=run.settings.seed, original=run.settings.original,
                                    blob=layout, dialect=dialect)
            path = os.path.join(options.directory, f"{config.name}-{variant}")
            try:
                os.makedirs(path, exist_ok=True)
                program.write(path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                place = getattr(error, "filename", None) or path
                raise UsageError(printable(f"{place}: cannot be written: {reason}")) from None
            write_stdout(f"{path}\n")
    return 0


def show_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Print saved records again; if there is only one, also its warnings, as `run` does."""
    runs = records_of(options.records)
    write_stdout(show(runs, options.format, terminal_columns(sys.stdout) or sys.maxsize), options.format)
    if len(runs) == 1:
        print_warnings(runs[0])
    return 0


def records_of(paths: Sequence[str], complain: Callable[[str], None] = print_error) -> list[Run]:
    """Return the runs of all records in some files; name damaged ones to `complain`."""
    return [run for path in paths for run in read_records(path, complain)]


def refuse(text: str) -> NoReturn:
    """Raise UsageError."""
    raise UsageError(text)


def compare_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Compare records cell by cell; with a limit, exit with 1 if NEW does not pass."""
    limits = (options.fail_if_slower, options.fail_if_ratio_drops)
    for limit, most in zip(limits, (1e6, 100)):
        if limit is not None and not 0 < limit < most:
            raise UsageError(f"{limit:g} percent: expected a number above 0 and below {most:g}, such as 5")
    gated = limits != (None, None)
    runs = records_of(options.records, refuse if gated else print_error)
    if len(runs) < 2:
        raise UsageError(f"compare needs at least two records, BASE and NEW; {len(runs)} was given")
    found = gate(runs, *limits) if gated else None
    room = terminal_columns(sys.stdout) or sys.maxsize
    write_stdout(comparison(runs, options.format, found, room), options.format)
    failed, undecided = found or ([], [])
    for line in [*undecided, *failed]:
        print_error(line)
    return 1 if failed else 0


def chart_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Draw a record as an SVG."""
    path = f"{os.path.splitext(options.record)[0]}.svg" if options.output is None else options.output
    check_suffix(path, "svg", "chart draws svg")
    runs = records_of([options.record])
    if len(runs) > 1:
        raise UsageError(f"{options.record}: holds {len(runs)} records, and a chart shows one; copy one report to a "
                         "file of its own")
    check_writable(path)
    if os.path.realpath(path) == os.path.realpath(options.record):
        raise UsageError(f"{path}: the chart would replace the record; name another file with -o")
    if os.path.exists(path) and os.path.getsize(path):
        with open(path, "rb") as file:
            if file.read(4) != b"<svg":
                raise UsageError(f"-o {path}: the file exists and is not a chart; choose another name, or remove it")
    write_file(path, chart(runs[0]))
    write_stdout(f"{path}\n")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "run": run_verb, "doctor": doctor_verb, "emit": emit_verb, "show": show_verb, "compare": compare_verb,
    "chart": chart_verb}


def ending_signals() -> list[int]:
    """Return the signals that end a command; Windows has no SIGHUP."""
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def answering_signals() -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into an exception, so that cleaning up is done, and ignore later ones. A
    signal that is ignored, as Ctrl-C is in the background, stays so."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield
        return
    answered = False

    def answer(number: int, frame: Any) -> None:
        nonlocal answered
        if not answered:
            answered = True
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    answers: dict[int, Any] = dict.fromkeys(ending_signals(), answer)
    children = getattr(signal, "SIGCHLD", None)
    if children is not None:
        answers[children] = signal.SIG_DFL  # if it is ignored, the exit code of a worker is lost
    before = {number: signal.getsignal(number) for number in answers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN or number in (signal.SIGTERM, children):
            signal.signal(number, answers[number])
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def main(argv: Optional[Sequence[Any]] = None) -> int:
    """Run the command line (sys.argv if `argv` is None) and return the exit code. Print no traceback for mistakes of
    the user or failures of the machine; leave the host's streams and signal handlers as they were."""
    try:
        if isinstance(argv, (str, bytes)):
            raise UsageError(f"{argv!r}: expected a list of arguments")
        arguments = [os.fsdecode(word) for word in (sys.argv[1:] if argv is None else argv)]
    except (UsageError, TypeError) as error:
        print_error(printable(str(error)))
        return 2
    # Without directories, which may name the user.
    command = [re.sub(r"^(--[a-z-]+=)?.*/", r"\1", printable(word)) for word in (__file__, *arguments)]
    if not arguments or arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        arguments.insert(0, "run")
    with answering_signals():
        return exit_code_of(arguments, command)


def exit_code_of(arguments: Sequence[str], command: Sequence[str]) -> int:
    """Run a command and return its exit code; print the error if it fails."""
    unwritten = 2 if arguments[0] == "compare" else 1  # there 1 means slower or failed, and nothing else
    try:
        options = build_parser().parse_args(arguments)
        return VERBS[options.verb](options, command)
    except UsageError as error:
        print_error(printable(str(error)))
        return 2
    except Unavailable as error:
        more = "" if CTYPES_PROBLEM else f"\n{WITHOUT_ENGINE}\n{REPORT_IT}"  # the cure is another Python
        print_error(f"no usable Neural Engine: {error}.{more}")
        return 3
    except (OutputError, MemoryError) as error:
        print_error(str(error) or "out of memory; ask for less, or close other programs")
        return unwritten
    except BrokenPipeError:
        return unwritten
    except (KeyboardInterrupt, Terminated) as stop:
        return broken_off(stop)
    except SystemExit as stop:  # argparse ends so after --help and --version
        return int(stop.code or 0)


if __name__ == "__main__":
    exit_code = work() if sys.argv[1:] == [WORKER_ARGUMENT] else main()
    for late in ending_signals():  # the exit code is fixed
        signal.signal(late, signal.SIG_IGN)
    sys.exit(exit_code)
