#!/usr/bin/env python3
"""How fast is Apple's Neural Engine, and does INT8 help?

Copy this one file to a Mac with Apple silicon and run it. It needs Python 3.9
or later and nothing else. It times chains of convolutions on the Neural Engine
in FP16 and in W8A8 (INT8 weights, INT8 activations between layers), checks what
the engine computed, and prints the comparison:

    Config            W(MB)    GOP ms/eval  ±95%    TOPS Ratio  ±95% Check
    512x64x128  FP16   64.0 274.88  14.870 ±0.2%   18.48                ok
                W8A8   32.0 274.88   7.733 ±0.1%   35.55 1.92x ±0.2%    ok

    INT8 (W8A8) is 1.92x as fast as FP16 on this M4.

Config is channels, pixels along each side, layers. W(MB) is the size of the
weights in MiB, GOP the nominal work of one evaluate (2 per multiply-add),
ms/eval its time, TOPS the rate. Ratio is how many times faster than the first
variant, each ±95% half the 95 % interval of the figure before it, Check the
result of comparing outputs with what the weights must give. A ratio near 1 is a
result: what INT8 gains depends on the chip and on the shape.

Commands

    python3 ane_bench.py [run] [options]      the comparison; `run` is implied
    python3 ane_bench.py doctor [options]     what this Mac has, check by check
    python3 ane_bench.py emit DIR [options]   the files of each program
    python3 ane_bench.py show RECORD...       saved records again, in one table
    python3 ane_bench.py compare BASE NEW [options]
    python3 ane_bench.py chart RECORD...      one picture of all of them

Options of run and emit

    --config CHxSPxDEPTH     channels, pixels along each side, layers; with k3
                             behind it 3x3 convolutions; may be repeated
                             (default the original's five: 512x64x128,
                             512x64x64, 256x64x256, 256x64x128, 384x64x128)
    --config 128,256x64x32   each number may be a list: all their combinations
    --config 256x56k3        a layer, without a depth: it is measured at two
                             depths, which tell the time of one layer
    --variants LIST          of fp16, w8a16 (INT8 weights only), w8a8; the first
                             is the baseline of Ratio (default fp16,w8a8)
    --seed N                 of weights and input (default 0)
    --form auto|standard/1.3|standard/1.3-early|standard/1.0|original/1.3
                             layout of the weight file and dialect of the text
                             (default auto: the first that the system accepts)
    --original               measure as the original benchmark does: its
                             programs and layout, zero input, QoS 0, 10 + 50
                             evaluates one variant after the other, the mean,
                             its table; nothing is verified. It goes with
                             --config (1x1, with a depth), --variants, --seed,
                             --timeout, --save, --format and --quiet

Options of run

    --seconds N              how long each configuration is timed at least, from
                             0 to 3600 (default 1)
    --verify N               pixels of each output that are checked (default 8;
                             0 is off)
    --qos N                  quality of service of evaluates, such as 0, 9, 17,
                             21, 25 or 33 (default 21)
    --timeout SECONDS        without progress, after which a worker is killed
                             (default 120)
    --engine ane|reference   reference computes in plain Python on any machine
                             (default ane)
    --format table|markdown|csv|json      to standard output (default table)
    --save FILE.json         the record of the run, a new file, written anew
                             after each configuration
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

    -o FILE.svg              written over whatever is there (default: a new file
                             beside the record, if there is only one)

show, compare and chart also read texts in which markdown reports stand, such as
a saved issue thread. Every command has -h, and --version prints the version.

Exit codes: 0 every cell measured and verified; 1 some cell failed and the rest
is reported, or the output could not be written (of compare: NEW is slower or
failed, and nothing else); 2 usage, or a file that cannot be read or written;
3 no usable Neural Engine (of doctor: some check failed); 130 interrupted.

As a library

    import ane_bench
    run = ane_bench.run(["512x64x128", "256x56k3"], ["fp16", "w8a8"], seconds=2)
    print(run.table(), run.cell("512x64x128", "w8a8").ratio["value"])
    print(run.layers[0].variants["w8a8"]["us"])
    run.save("m4.json")
    base = ane_bench.read_record("base.json")
    print([change.verdict for change in ane_bench.compare(base, run)])
    program = ane_bench.build_program(ane_bench.Config(64, 64, 2), "w8a8")
    program.write("somewhere")                  # model.mil, weights/weight.bin

The environment variable ANE_BENCH_STANDIN names a library that takes the place
of all of Apple's; the tests use it.

The file reads from top to bottom, which is also the way of the data:
1 constants and errors, 2 configurations, 3 weights, 4 programs, 5 reference,
6 verification, 7 Objective-C runtime, 8 Neural Engine, 9 statistics,
10 measurement, 11 machine, 12 record, 13 worker, 14 parent, 15 reports,
16 chart, 17 command line. Each uses only those above it, but for Run.table.
"""

import os
import sys

if (__name__ == "__main__" and "__file__" in globals()
        and sys.path[:1] == [os.path.dirname(os.path.realpath(__file__))]):
    del sys.path[0]  # files beside this one may be named like modules, such as statistics.py

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C during the imports ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

try:
    if sys.version_info < (3, 9):  # noqa: UP036
        raise ImportError(f"this is {sys.version_info[0]}.{sys.version_info[1]}")
    import ctypes
except (ImportError, MemoryError) as problem:  # ctypes may lack memory that can be executed
    unfit = (f"ane_bench needs Python 3.9 or later, with ctypes ({str(problem) or 'no memory'}); "
             "use another Python, such as /usr/bin/python3 of Xcode's command line tools, or "
             "python.org's")
    if __name__ != "__main__":
        raise ImportError(unfit) from None
    sys.stderr.write(f"{unfit}\n")
    sys.exit(3)

import argparse
import base64
import cmath
import contextlib
import csv
import datetime
import functools
import gc
import html
import io
import itertools
import json
import marshal
import math
import random
import re
import selectors
import shlex
import shutil
import statistics
import struct
import subprocess
import tempfile
import textwrap
import threading
import time
import typing
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from operator import add, eq, mul, sub
from typing import Any, Callable, NamedTuple, NoReturn, Optional, TextIO, Union

__version__ = "0.2.0"
__all__ = [
    "AneBenchError", "Cell", "Config", "Difference", "Layer", "OutputError", "Program", "Run",
    "Settings", "StageError", "Unavailable", "UsageError", "VARIANTS", "Variant", "build_program",
    "compare", "main", "read_record", "run"]


# ==================================================================================================
# 1. Constants and errors
#
# Used below: Facts, PROGRAM_NAME, STANDIN_VARIABLE, MIL_FILE, WEIGHT_FILE, WEIGHT_PATH,
# LARGEST_DIMENSION, LARGEST_BYTES, UsageError, Unavailable, OutputError, StageError, printable,
# shown, few_of.
# ==================================================================================================

Facts = dict[str, Any]  # an object of JSON: of a record, of a machine, an event

PROGRAM_NAME = "ane_bench"
STANDIN_VARIABLE = "ANE_BENCH_STANDIN"

# Where a program's text names its weights, and where both files lie in a model's directory. The
# path prefix is Apple's own, seen in every compiled program that has weights.
MIL_FILE = "model.mil"
WEIGHT_FILE = os.path.join("weights", "weight.bin")
WEIGHT_PATH = "@model_path/weights/weight.bin"
LARGEST_DIMENSION = 16384
LARGEST_BYTES = 1 << 32


class AneBenchError(Exception):
    """The base of this module's errors; the text is one line for the user."""


class UsageError(AneBenchError, ValueError):
    """An invalid request: a bad value, an unknown name, conflicting options (exit 2)."""


class Unavailable(AneBenchError):
    """No usable Neural Engine (exit 3). The text says what is missing."""


class OutputError(AneBenchError):
    """The results cannot be written (exit 1)."""


class StageError(AneBenchError):
    """A failed stage of a program, and so a failed cell; `stage` is its name in the record."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


def printable(text: str) -> str:
    """Return text as one line for any terminal and file: what cannot be printed, such as control
    characters and lone surrogates, becomes `?`."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def shown(value: Any) -> str:
    """Return a value as a message shows it: one line of at most 60 letters."""
    return printable(repr(value))[:60]


def few_of(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ==================================================================================================
# 2. Configurations
#
# Used below: Config, DATA_TYPES, Variant, VARIANTS, DEFAULT_VARIANTS, configs_of, variants_of.
# ==================================================================================================

NUMBERS = "([0-9]{1,9}(?:,[0-9]{1,9})*)"
NOTATION = re.compile(f"{NUMBERS}x{NUMBERS}(?:x{NUMBERS})?(?:k{NUMBERS})?")

# A layer is measured in two chains, the deeper of which holds at most so many MiB of FP16 weights
# and takes at most so many GOP, unless it has fewer than 12 layers: 3 ms on an M4.
LAYER_MIB, LAYER_GOP = 256, 60


class _Shape(NamedTuple):
    channels: int
    spatial: int
    depth: int
    kernel: int = 1


class Config(_Shape):
    """A chain of `depth` convolutions, each `channels` to `channels`, over `spatial` x `spatial`
    pixels. The `kernel` is 1x1, or 3x3 with one pixel of zeros around the image. Raises UsageError
    if a number is not an int from 1 to 16384, or if the fp16 weights or one activation would take
    more than 4 GiB."""

    __slots__ = ()

    def __new__(cls, channels: int, spatial: int, depth: int, kernel: int = 1) -> "Config":
        config = super().__new__(cls, channels, spatial, depth, kernel)
        for name, value in zip(cls._fields, config):
            if type(value) is not int or not 1 <= value <= LARGEST_DIMENSION:
                raise UsageError(f"{name} {shown(value)}: expected a whole number from 1 to "
                                 f"{LARGEST_DIMENSION}")
        if kernel not in (1, 3):
            raise UsageError(f"kernel {kernel}: expected 1 or 3")
        if max(2 * config.weights, config.tensor_bytes) > LARGEST_BYTES:
            raise UsageError(f"{config.name}: weights or activations exceed "
                             f"{LARGEST_BYTES >> 30} GiB")
        return config

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> "Config":  # type: ignore[override]
        """Return a configuration of these numbers; `_replace` calls this, so it is checked too."""
        return cls(*iterable)

    @classmethod
    def parse(cls, text: str) -> "Config":
        """Return the configuration that a text such as `512x64x128` or `256x56x16k3` names. Raise
        UsageError if it names none or, as a list or a layer, several."""
        configs = [] if "," in str(text) else configs_named(text)  # lists may be long
        if len(configs) != 1:
            raise UsageError(f"{shown(text)}: expected one configuration, such as 512x64x128")
        return configs[0]

    @property
    def shape(self) -> str:
        """Return the name of its layer, such as `512x64` or `256x56k3`."""
        return f"{self.channels}x{self.spatial}" + "k3" * (self.kernel == 3)

    @property
    def name(self) -> str:
        """Return the text that `parse` reads, such as `512x64x128` or `256x56x16k3`."""
        return f"{self.channels}x{self.spatial}x{self.depth}" + "k3" * (self.kernel == 3)

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
        """Return the bytes of the packed fp16 input, which are those of the output too."""
        return 2 * self.channels * self.pixels

    @property
    def gop(self) -> float:
        """Return the operations of one evaluate in units of 10**9; a multiply-add counts as two.
        For 3x3 they are nominal: an engine that computes by Winograd's method needs fewer."""
        return 2 * self.weights * self.pixels / 1e9


class DataType(NamedTuple):
    """A tensor's element: its code in a weight file's record, bytes, and letter in `struct`."""

    code: int
    size: int
    letter: str


# Codes: BlobDataType in apple/coremltools, mlmodel/src/MILBlob/Blob/BlobDataType.hpp.
DATA_TYPES = {
    "fp16": DataType(1, 2, "e"),
    "int8": DataType(4, 1, "b"),
}


class Variant(NamedTuple):
    """All that differs between variants of a program: the data types of the weights and of the
    activations between layers, each `fp16` or `int8`; `opset`, the first that has the program's
    operations; how sentences name it; its color and the corners of its mark in charts, in pixels
    from the middle."""

    name: str
    weights: str
    activations: str
    opset: str
    spoken: str
    color: str
    mark: tuple[tuple[int, int], ...]

    @property
    def label(self) -> str:
        """Return the name in tables, such as `W8A8`."""
        return self.name.upper()

    @property
    def quantizes(self) -> bool:
        """Return whether the activations between layers are INT8."""
        return self.activations == "int8"

    def weights_mib(self, config: Config) -> float:
        """Return the MiB of weights, without header and records, as the original counts them."""
        return config.weights * DATA_TYPES[self.weights].size / (1 << 20)


# constexpr_affine_dequantize came with ios16, quantize and dequantize with ios17 (coremltools' op
# definitions). The marks are a square, a triangle and a diamond: colors are not for everyone.
VARIANTS = {variant.name: variant for variant in (
    Variant("fp16", "fp16", "fp16", "ios16", "FP16", "#52617a",
            ((-4, -4), (4, -4), (4, 4), (-4, 4))),
    Variant("w8a16", "int8", "fp16", "ios16", "INT8 for weights alone (W8A16)", "#23857a",
            ((0, -5), (5, 5), (-5, 5))),
    Variant("w8a8", "int8", "int8", "ios17", "INT8 (W8A8)", "#c8551b",
            ((0, -6), (6, 0), (0, 6), (-6, 0))))}
DEFAULT_VARIANTS = ("fp16", "w8a8")


def configs_named(item: Any, engine: str = "ane", original: bool = False) -> list[Config]:
    """Return the configurations that a Config or a text names, such as `64,128x56k3` (two layers,
    each at two depths) or `256x64x32,64k1,3` (four). Raise UsageError if it names none, or what the
    original does not measure."""
    text = item.name if isinstance(item, Config) else item
    match = NOTATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UsageError(f"{shown(text)}: expected CHANNELSxSPATIALxDEPTH, such as 512x64x128 or "
                         "256x56x16k3, or a layer, such as 256x56k3")
    if original and (not match[3] or "3" in (match[4] or "")):
        raise UsageError(f"{text} cannot be combined with --original, which measures 1x1 "
                         f"convolutions at a depth, such as {match[1]}x{match[2]}x16")
    channels, sides, depths, kernels = ([int(number) for number in (part or "1").split(",")]
                                        for part in match.groups())
    layers = itertools.starmap(Config, itertools.product(channels, sides, [1], kernels))
    return [layer._replace(depth=depth) for layer in layers
            for depth in (depths if match[3] else layer_depths(layer, engine))]


def layer_depths(layer: Config, engine: str) -> tuple[int, int]:
    """Return the two depths at which a layer, given as a chain of depth 1, is measured."""
    if engine == "reference":
        return 2, 4
    most = min((LAYER_MIB << 20) / (2 * layer.weights), LAYER_GOP / layer.gop)
    depth = next((depth for depth in (64, 32, 16, 8, 4) if 3 * depth <= most), 2)
    return depth, 3 * depth


# By engine; those of the original for the Neural Engine.
DEFAULTS = {engine: [Config.parse(name) for name in names.split()] for engine, names in (
    ("ane", "512x64x128 512x64x64 256x64x256 256x64x128 384x64x128"),
    ("reference", "32x8x4 64x8x4"))}


def configs_of(given: Any, engine: str, original: bool = False) -> list[Config]:
    """Return the configurations that are asked for, each once: those of a Config, of a text (one
    configuration, a list in any place, a layer), or of an iterable of these; the engine's defaults
    for None. Raise UsageError if that is something else, or nothing, or if the original does not
    measure it."""
    if given is None:
        return list(DEFAULTS[engine])
    several = isinstance(given, Iterable) and not isinstance(given, (str, Config))
    configs = dict.fromkeys(config for item in (given if several else [given])
                            for config in configs_named(item, engine, original))
    if not configs:
        raise UsageError("no configurations: expected at least one, such as 512x64x128")
    return list(configs)


def variants_of(given: Any) -> list[str]:
    """Return the names of variants, given as a text such as `fp16,w8a8` or as a list of names; the
    first is the baseline. Raise UsageError if one is unknown or repeated, or if there is none."""
    names = given.split(",") if isinstance(given, str) else given
    if (not isinstance(names, (list, tuple)) or not names
            or any(str(name) not in VARIANTS or names.count(name) > 1 for name in names)):
        raise UsageError(f"variants {shown(given)}: expected some of {', '.join(VARIANTS)}, each "
                         "once")
    return list(names)


# ==================================================================================================
# 3. Weights
#
# Used below: Vector, DATA_REVISION, LARGEST_SEED, ORIGINAL_SCALE, ACTIVATION_SCALE, PATTERN_MIDDLE,
# Weights, chain_weights, original_weights, random_input, pixel_of.
# ==================================================================================================

Vector = Sequence[float]
Draw = Callable[[], float]  # of numbers from 0 to less than 1

# The revision of weights and input: 1 had zeros among the weights, and an input of finer steps.
DATA_REVISION = 2
LARGEST_SEED = (1 << 53) - 1  # beyond it other readers of JSON lose digits

# The original's scale, for weights and activations in int8.
ORIGINAL_SCALE = 2.0 ** -3

# By data type of the weights, the original's levels, the middle one of which is 0, and their scale;
# that of fp16 is the float32 next to 0.001, as the original computes.
ORIGINAL_LEVELS = {"fp16": (1000, float.fromhex("0x1.0624dep-10")), "int8": (256, ORIGINAL_SCALE)}

# The step of activations in int8, which so reach +-4. Layers keep the input's size, so few
# activations are clipped.
ACTIVATION_SCALE = 2.0 ** -5

# The input's step is 2**-7 or, with 1x1 weights of a finer step than 2**-9, so large that products
# are multiples of 2**-16, to which an M4 rounds each (751K/Apple-Neural-Engine-Microarchitecture-
# Study-M6): its rounding changes nothing.
INPUT_STEPS, PRODUCT_STEPS = 1 << 7, 1 << 16
LARGEST_INPUT = 3.9  # less than the 4 at which int8 activations are clipped

# The middle of a 3x3 pattern, and the largest channel weight that it leaves room for in int8: 112.
PATTERN_MIDDLE = 16
LARGEST_FACTOR = 7
PATTERN_POWER = PATTERN_MIDDLE ** 2 + 8  # a pattern's sum of squares
FACTOR_TOLERANCE = 0.001
MOST_DRAWS = 100


class Weights(NamedTuple):
    """The weights of a chain: rotations of one row of integers.

    Output `o` of a layer weighs input `i` by row[(turns[layer][o] + i) % len(row)] times
    signs[layer][o]. A kernel is that value times the layer's pattern ([row][column], flat), and all
    weights are times the scale. The row is as long as there are channels, or longer.
    """

    row: Sequence[int]
    scale: float
    turns: Sequence[Sequence[int]]
    signs: Sequence[Sequence[int]]
    patterns: Sequence[tuple[int, ...]]

    def layers(self, channels: int, data_type: str) -> Iterator[bytes]:
        """Yield the bytes of each layer, [output][input][row][column], as `fp16`, or as `int8`
        (then without the scale)."""
        _, size, letter = DATA_TYPES[data_type]
        size *= len(self.patterns[0])

        @functools.cache
        def kernels(pattern: Sequence[int], factor: float) -> bytes:
            """Return the kernels of the row, twice, so that each rotation is a slice."""
            values = [value * factor * part for value in self.row for part in pattern]
            return 2 * struct.pack(f"<{len(values)}{letter}", *values)

        scale = 1 if data_type == "int8" else self.scale
        for turns, signs, pattern in zip(self.turns, self.signs, self.patterns):
            yield b"".join([kernels(pattern, sign * scale)[turn * size:(turn + channels) * size]
                            for turn, sign in zip(turns, signs)])


@functools.lru_cache(maxsize=1)  # the variants of a configuration share them
def chain_weights(config: Config, seed: int) -> Weights:
    """Return layers that are orthogonal up to rounding: activations neither grow nor die with
    depth.

    The rotations of a row of integers with a flat spectrum are orthonormal. Each layer holds all of
    them, in its own order and with its own signs. No weight is zero, since engines skip zeros. The
    integers are exact in fp16 and int8, so all variants have the same weights.
    """
    channels, depth = config.channels, config.depth
    draw = random.Random(seed).random
    row, scale = (integer_row if config.kernel == 1 else factor_row)(channels, draw)
    turns, signs = [], []
    for _ in range(depth):
        keys = [draw() for _ in range(channels)]
        signs.append(drawn_signs(channels, draw))
        turns.append(sorted(range(channels), key=keys.__getitem__))
    patterns = [(1,)] * depth if config.kernel == 1 else draw_patterns(depth, draw)
    return Weights(row, scale, turns, signs, patterns)


def drawn_signs(count: int, draw: Draw) -> list[int]:
    """Return so many numbers that are 1 or -1."""
    return [1 if draw() < 0.5 else -1 for _ in range(count)]


def integer_row(length: int, draw: Draw) -> tuple[list[int], float]:
    """Return a flat-spectrum row divided by a scale, the least power of two that keeps it within
    +-127, and the scale."""
    row = flat_spectrum_row(length, draw)
    amplitude = 2 ** int(math.log2(127 / max(map(abs, row))))
    return dense_integers(row, amplitude, draw), 1 / amplitude


def dense_integers(row: Vector, amplitude: float, draw: Draw) -> list[int]:
    """Return a row times an amplitude, rounded to integers; a zero becomes 1 or -1."""
    # Drawn, not taken from the value, whose last bits differ between systems.
    signs = drawn_signs(len(row), draw)
    return [round(value * amplitude) or sign for value, sign in zip(row, signs)]


def factor_row(length: int, draw: Draw) -> tuple[list[int], float]:
    """Return a dense flat-spectrum row within +-7, and the scale with which a 3x3 layer keeps the
    size of its input.

    The scale is a power of two only if the row's sum of squares, times the pattern's, is a power of
    four. Amplitudes and rows are tried until it is within 0.1 %; if none is, as with few channels,
    the nearest is returned.
    """
    best: tuple[float, list[int], float] = (math.inf, [], 0)
    for _ in range(MOST_DRAWS):
        row = flat_spectrum_row(length, draw)
        largest = LARGEST_FACTOR / max(map(abs, row))
        # Of an odd number: no value of 1 or 2 channels is halfway between integers.
        for step in range(201, 100, -1):
            integers = dense_integers(row, largest * step / 201, draw)
            power = PATTERN_POWER * sum(map(mul, integers, integers))
            scale = 2.0 ** -round(math.log(power, 4))
            best = min(best, (abs(power * scale * scale - 1), integers, scale))
            if best[0] <= FACTOR_TOLERANCE:
                return best[1:]
    return best[1:]


def draw_patterns(depth: int, draw: Draw) -> list[tuple[int, ...]]:
    """Return a 3x3 pattern for each layer, [row][column] flat: 16 in the middle, opposite
    neighbours 1 and -1.

    Antisymmetric neighbours leave the spectrum nearly flat; signs drawn for each layer keep the
    image from drifting. Patterns commute, so a transposed chain must differ as a whole: the sign
    across the anti-diagonal is the product of the horizontal and the vertical one, so no pattern is
    the transpose of another, and a chain whose first-order differences from its transpose cancel is
    drawn again.
    """
    while True:
        signs = [drawn_signs(3, draw) for _ in range(depth)]
        turned = abs(sum(x * y for x, y, _ in signs)) + abs(sum(x - y for x, y, _ in signs)) / 2
        if 4 * turned ** 2 >= depth:
            return [(d, y, x * y, x, PATTERN_MIDDLE, -x, -x * y, -y, -d) for x, y, d in signs]


def flat_spectrum_row(length: int, draw: Draw) -> Vector:
    """Return a real row of Euclidean length 1 whose Fourier coefficients all have magnitude 1 and
    random phases."""
    spectrum = [0j] * length
    for index in range(length // 2 + 1):
        half_turns = round(draw()) if 2 * index in (0, length) else 2 * draw()  # 1 or -1 is real
        spectrum[index] = cmath.rect(1, math.pi * half_turns)
        spectrum[-index] = spectrum[index].conjugate()
    return [value.real / length for value in inverse_transform(spectrum)]


def inverse_transform(values: Sequence[complex]) -> list[complex]:
    """Return the unscaled inverse Fourier transform of any length, by Bluestein's method: with jk =
    (j**2 + k**2 - (j - k)**2) / 2 it is a convolution, which takes transforms of a power of two."""
    length = len(values)
    size = 1 << (2 * length - 2).bit_length()
    chirp = [cmath.rect(1, math.pi * (index * index % (2 * length)) / length)
             for index in range(length)]
    turned = [value.conjugate() for value in chirp]
    padded = [*map(mul, values, chirp), *[0j] * (size - length)]
    kernel = [*turned, *[0j] * (size - 2 * length + 1), *turned[:0:-1]]
    # A second transform is the inverse, backwards and times the size.
    sums = transform(list(map(mul, transform(padded), transform(kernel))))
    return [sums[-index] * factor / size for index, factor in enumerate(chirp)]


def transform(values: Sequence[complex]) -> Sequence[complex]:
    """Return the Fourier transform of a length that is a power of two."""
    size = len(values)
    if size == 1:
        return values
    even, odd = transform(values[::2]), transform(values[1::2])
    turned = [value * cmath.rect(1, -2 * math.pi * index / size) for index, value in enumerate(odd)]
    return [*map(add, even, turned), *map(sub, even, turned)]


def original_weights(config: Config, seed: int, data_type: str) -> Weights:
    """Return random levels of the original's ranges: INT8 all 256, FP16 the thousand from -0.5 to
    0.499. The original draws each weight by itself; here rows begin at random places of a long
    one."""
    draw = random.Random(seed).random
    channels, depth = config.channels, config.depth
    levels, scale = ORIGINAL_LEVELS[data_type]
    row = [int(draw() * levels) - levels // 2 for _ in range(8192 + channels)]
    turns = [[int(draw() * 8192) for _ in range(channels)] for _ in range(depth)]
    return Weights(row, scale, turns, [[1] * channels] * depth, [(1,)] * depth)


@functools.lru_cache(maxsize=1)  # the variants of a configuration share it
def random_input(config: Config, seed: int) -> bytes:
    """Return the fp16 input [channels][pixels]: normal of variance 1 (3x3: 0.4), in steps of 2**-7
    or more, clipped to +-3.9. Each channel begins at its own place of one pool of values, each the
    sum of twelve uniform integers: normal, and the same on every system."""
    draw = random.Random(seed).random
    period, one = 8191, 1 << 16
    size, steps = 0.625, INPUT_STEPS  # 3x3 chains grow in places; int8 must not clip there
    if config.kernel == 1:
        size, steps = 1.0, min(steps, int(PRODUCT_STEPS * chain_weights(config, seed).scale))
    most, scale = int(LARGEST_INPUT * steps), steps / one * size
    levels = [round((sum([int(draw() * one) for _ in range(12)]) - 6 * one) * scale)
              for _ in range(period)]
    pool = struct.pack(f"<{period}e", *[max(-most, min(most, level)) / steps for level in levels])
    pool *= 2 + config.pixels // period
    starts = [2 * int(draw() * period) for _ in range(config.channels)]
    return b"".join([pool[start:start + 2 * config.pixels] for start in starts])


def pixel_of(tensor: bytes, config: Config, index: int) -> Vector:
    """Return the channels of one pixel of an fp16 tensor [channels][pixels]."""
    values = memoryview(tensor).cast("H")[index::config.pixels]
    return struct.unpack(f"<{config.channels}e", values.tobytes())


# ==================================================================================================
# 4. Programs
#
# Used below: FORMS, Program, build_program.
# ==================================================================================================

# Forms of a program, in the order in which they are tried: the layout of the weight file (Apple's,
# or the original's records) and the dialect of the text. 1.3 has short scalars and ios18; 1.3-early
# the same with the first opset that has the operations, as coremlc has printed it since 3520; 1.0
# has that opset and all scalars in long form. Spellings may not be mixed.
FORMS = ("standard/1.3", "standard/1.3-early", "standard/1.0", "original/1.3")

# Little endian, from apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp (version 2). The
# header: count of tensors, version, zeros. A record: sentinel, data type, bytes of data, offset of
# the data, padding in bits, zeros.
HEADER = struct.Struct("<II7Q")
RECORD = struct.Struct("<IIQQQ4Q")
BLOB_VERSION = 2
SENTINEL = 0xDEADBEEF
ALIGNMENT = 64

# The only sizes that the original writes (byte 10 of the record), for any shape.
ORIGINAL_SIZES = {"fp16": 0x100000, "int8": 0x080000}

# The original's; nothing is known to read it.
BUILD_INFO = ('{{"coremlc-component-MIL", "3510.2.1"}, {"coremlc-version", "3505.4.1"}, '
              '{"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}}')

# Scalar types in short form: not a tensor's elements, nor the name of a type in quotes. In long
# form they are tensors without dimensions.
SCALARS = re.compile(r'(?<!tensor<)(?<!")\b(string|uint64|int32|int8|fp16)\b')


class Program(NamedTuple):
    """A configuration in a variant, as an engine takes it: the MIL text, the bytes of the weight
    file, their form (one of FORMS), and the weights that both were written from."""

    config: Config
    variant: Variant
    mil: str
    blob: bytearray
    form: str
    weights: Weights

    def write(self, directory: str) -> None:
        """Write `model.mil` and `weights/weight.bin` below a directory, which is made if it is
        missing. Raise OSError."""
        os.makedirs(os.path.join(directory, os.path.dirname(WEIGHT_FILE)), exist_ok=True)
        for name, content in ((MIL_FILE, self.mil.encode()), (WEIGHT_FILE, self.blob)):
            with open(os.path.join(directory, name), "wb") as file:
                file.write(content)


def build_program(config: Config, variant: str, *, seed: int = 0, original: bool = False,
                  form: str = FORMS[0]) -> Program:
    """Return the program of a configuration in a variant of VARIANTS; equal arguments give equal
    bytes everywhere. Its input `x` and its output are fp16 [1, channels, spatial, spatial].

    The seed, from 0 to 2**53 - 1, draws the weights. `original` gives the original's text, records,
    scales and ranges, whatever the form. Raise UsageError if an argument is invalid.
    """
    check_arguments(config, variant, seed, original, form)
    kind, activation_scale, alignment = VARIANTS[variant], ACTIVATION_SCALE, ALIGNMENT
    if original:
        form, activation_scale, alignment = "original/1.3", ORIGINAL_SCALE, 1
        weights = original_weights(config, seed, kind.weights)
    else:
        weights = chain_weights(config, seed)
    layout, dialect = form.split("/")
    blob, records = write_weight_file(config, kind.weights, weights, layout, alignment)
    mil = "".join(write_mil(config, kind, dialect, records, weights.scale, activation_scale))
    if dialect == "1.0":
        mil = SCALARS.sub(r"tensor<\1, []>", mil)
    return Program(config, kind, mil, blob, form, weights)


def check_arguments(config: Any, variant: Any, seed: Any, original: Any, form: Any) -> None:
    """Raise UsageError if build_program cannot take these arguments."""
    variants_of([variant])
    for name, value, valid, expected in (
            ("config", config, isinstance(config, Config), "a Config"),
            ("seed", seed, type(seed) is int and 0 <= seed <= LARGEST_SEED,
             "a whole number from 0 to 2**53 - 1"),
            ("original", original, type(original) is bool, "True or False"),
            ("form", form, form in FORMS, f"one of {', '.join(FORMS)}")):
        if not valid:
            raise UsageError(f"{name} {shown(value)}: expected {expected}")
    if original and config.kernel != 1:
        raise UsageError(f"{config.name}: the original has 1x1 convolutions only")


def write_weight_file(config: Config, data_type: str, weights: Weights, layout: str,
                      alignment: int) -> tuple[bytearray, Sequence[int]]:
    """Return a weight file with a tensor for each layer, and the offsets of their records.

    The layout `standard` is that of Apple's writer. `original` has the same offsets but the
    original's records: count 1, type 1, its one size, data offset 0.
    """
    size = config.weights // config.depth * DATA_TYPES[data_type].size
    gap = -size % alignment
    stride = RECORD.size + size + gap
    blob = bytearray(HEADER.size + stride * config.depth - gap)
    records = range(HEADER.size, len(blob), stride)
    standard = layout == "standard"
    HEADER.pack_into(blob, 0, config.depth if standard else 1, BLOB_VERSION, *[0] * 7)
    code = DATA_TYPES[data_type if standard else "fp16"].code
    view = memoryview(blob)  # a bytearray would copy what it is given once more
    for record, layer in zip(records, weights.layers(config.channels, data_type)):
        data = record + RECORD.size
        stated = (size, data) if standard else (ORIGINAL_SIZES[data_type], 0)
        RECORD.pack_into(blob, record, SENTINEL, code, *stated, *[0] * 5)
        view[data:data + size] = layer
    return blob, records


def write_mil(config: Config, variant: Variant, dialect: str, records: Iterable[int], scale: float,
              activation_scale: float) -> Iterator[str]:
    """Yield the statements of a chain, in short form. `records` are the offsets of its weights'
    records; the scales are those of int8 weights and activations. All names are the original's."""
    image = [1, config.channels, config.spatial, config.spatial]
    half, byte = f"tensor<fp16, {image}>", f"tensor<int8, {image}>"
    yield (f"program({dialect[:3]})\n[buildInfo = dict<string, string>({BUILD_INFO})]\n{{\n"
           f"    func main<{'ios18' if dialect == '1.3' else variant.opset}>({half} x) {{\n")
    pad = config.kernel // 2
    yield constant("string", "c_pad_type", '"custom"' if pad else '"valid"')
    yield constant("tensor<int32, [2]>", "c_strides", "[1, 1]")
    yield constant("tensor<int32, [4]>", "c_pad", f"{[pad] * 4}")
    yield constant("tensor<int32, [2]>", "c_dilations", "[1, 1]")
    yield constant("int32", "c_groups", "1")
    if variant.quantizes:
        yield constant("fp16", "q_scale", hexadecimal(activation_scale))
        yield constant("string", "q_dtype", '"int8"')
        yield constant("fp16", "dq_scale", hexadecimal(activation_scale))
    x = "x"
    for layer, record in enumerate(records):
        if variant.quantizes and layer:
            yield operation(byte, f"q{layer - 1}",
                            f"quantize(input = {x}, output_dtype = q_dtype, scale = q_scale)")
            x = f"dq{layer - 1}"
            yield operation(half, x, f"dequantize(input = q{layer - 1}, scale = dq_scale)")
        yield weight(config, variant, f"W{layer}", record, scale)
        call = ("conv(dilations = c_dilations, groups = c_groups, pad = c_pad, pad_type = "
                f"c_pad_type, strides = c_strides, weight = W{layer}, x = {x})")
        x = f"c{layer}"
        yield operation(half, x, call)
    yield f"    }} -> ({x});\n}}\n"


def weight(config: Config, variant: Variant, name: str, record: int, scale: float) -> str:
    """Return the statement that reads the weights of a layer from their record."""
    kernel = [config.channels] * 2 + [config.kernel] * 2
    data = f'BLOBFILE(path = string("{WEIGHT_PATH}"), offset = uint64({record}))'
    if variant.weights == "fp16":
        return constant(f"tensor<fp16, {kernel}>", name, data)
    # Parameters are attributes: as arguments they give InvalidMILProgram.
    return (f"        tensor<fp16, {kernel}> {name} = constexpr_affine_dequantize()[axis = "
            f'int32(0), name = string("{name}"), quantized_data = tensor<int8, {kernel}>({data}), '
            f"scale = fp16({hexadecimal(scale)}), zero_point = int8(0)];\n")


def constant(kind: str, name: str, literal: str) -> str:
    """Return the statement of a constant."""
    return f'        {kind} {name} = const()[name = string("{name}"), val = {kind}({literal})];\n'


def operation(kind: str, name: str, call: str) -> str:
    """Return the statement of an operation that has no attribute but its name."""
    return f'        {kind} {name} = {call}[name = string("{name}")];\n'


def hexadecimal(scale: float) -> str:
    """Return a power of two as a literal, such as 0x1p-3."""
    return f"0x1p{round(math.log2(scale)):+d}"


# ==================================================================================================
# 5. Reference
#
# Used below: Events, Arithmetic, ARITHMETICS, concatenated, Reference, ReferenceEngine,
# ReferenceExecutable.
# ==================================================================================================

class Events(typing.Protocol):
    """The events that a worker sends to its parent; Link (section 13) sends them. `current` is the
    latest stage; `stopping`: whether the user interrupted, so that rounds end after this one."""

    current: str
    stopping: bool

    def stage(self, name: str, variant: str, limit: float = 0.0) -> None:
        """Report the stage that begins; it may take `limit` seconds beyond the time limit."""

    def directory(self, path: str) -> None:
        """Report the directory that is about to be made."""

    def warn(self, code: str, message: str) -> None:
        """Report a warning."""

    def refused(self) -> None:
        """Note that a compile was refused."""

    def rest(self, variant: str) -> None:
        """Rest before a compile if the last one was refused."""

    def round(self, variants: str, limit: float, number: int,
              paces: Mapping[str, Sequence[float]]) -> None:
        """Report a round without waiting; paces are [ns at first, ns now] by variant."""

    def turn(self, variant: str) -> None:
        """Note which variant is at work within a round."""


class Arithmetic(NamedTuple):
    """The choices that a program leaves to an engine; sums are exact in all of them.

    Between layers, convolutions store results in fp16 or fp32 (`store`), after the `last` in fp16.
    `rounding` of halves, in these stores and in quantize, is `away` from zero (M4 and later) or to
    `even` (M1).
    """

    rounding: str
    store: str
    last: str = "fp16"

    @property
    def name(self) -> str:
        """Return the text of the record, such as `halves away, fp16 stores`."""
        halves = "away" if self.rounding == "away" else "to even"
        return f"halves {halves}, {self.store} stores"

    @property
    def nudge(self) -> float:
        """Return a factor by which rounding to even becomes this rounding. To round away, it moves
        each half away from zero, and no other value past one; that is exact for values of at most
        50 significant bits."""
        return 1 + 2.0 ** -52 if self.rounding == "away" else 1.0


# Of an M4 first.
ARITHMETICS = tuple(Arithmetic(rounding, store)
                    for rounding in ("away", "even") for store in ("fp16", "fp32"))

# No engine's: in steps so fine that errors stay below 1e-10.
UNROUNDED = Arithmetic("even", "fp64", "fp64")
FINE_EXPONENT = 40

# Of a store: the letter in `struct`, the bits of a significand, the largest value.
STORES = {"fp16": ("e", 11, 65504.0), "fp32": ("f", 24, float.fromhex("0x1.fffffep+127")),
          "fp64": ("d", 53, sys.float_info.max)}


def concatenated(vectors: Iterable[Vector]) -> Vector:
    """Return the values of several vectors as one."""
    return list(itertools.chain.from_iterable(vectors))


def stored(values: Vector, store: str) -> Vector:
    """Return values rounded to the store's type, halves to even; too large ones become its
    largest."""
    letter, _, largest = STORES[store]
    form = f"<{len(values)}{letter}"
    try:
        return struct.unpack(form, struct.pack(form, *values))
    except OverflowError:
        return stored([max(-largest, min(largest, value)) for value in values], store)


def as_integers(image: Sequence[Vector], store: str) -> tuple[list[list[int]], float]:
    """Return an image of stored values as integers, and the unit that they are times."""
    least = min(filter(None, map(abs, concatenated(image))), default=1.0)
    exponent = FINE_EXPONENT if store == "fp64" else STORES[store][1] - math.frexp(least)[1]
    scale = 2.0 ** exponent
    return [[round(value * scale) for value in vector] for vector in image], 1 / scale


def quantized(values: Vector, nudge: float) -> list[int]:
    """Return the nearest int8 steps of ACTIVATION_SCALE, clipped to -128 to 127."""
    factor = nudge / ACTIVATION_SCALE
    steps = [round(value * factor) for value in values]
    if min(steps) < -128 or max(steps) > 127:
        return [max(-128, min(127, step)) for step in steps]
    return steps


class Circulant:
    """The matrix whose rows are the rotations of a row of integers.

    Its product with a vector is a circular correlation, and so the product of two long integers:
    each holds a lane for each value, the row backwards. The least value is subtracted first, so
    that no lane is negative. Lanes are as many bytes wide as the largest sum needs.
    """

    def __init__(self, row: Sequence[int]) -> None:
        self._least, self._sum = min(row), sum(row)
        self._row = [value - self._least for value in reversed(row)]
        self._norm = sum(self._row) or 1

    def product(self, vector: Sequence[int]) -> list[int]:
        """Return the exact sums of row[(turn + i) % n] * vector[i], for each turn."""
        length, least = len(vector), min(vector)
        values = [value - least for value in vector]
        width = max(1, ((self._norm * max(values)).bit_length() + 7) // 8)
        if width > 8:
            high, low = (self.product([value >> 32 for value in vector]),
                         self.product([value & 0xFFFFFFFF for value in vector]))
            return [(upper << 32) + lower for upper, lower in zip(high, low)]
        form, bits = f"<{length}Q", 8 * width * length
        row, column = (int.from_bytes(spaced(struct.pack(form, *each), 8, width), "little")
                       for each in (self._row, values))
        whole = row * column
        lanes = (whole >> bits) + (whole & ((1 << bits) - 1))  # the matrix is circular
        sums = struct.unpack(form, spaced(lanes.to_bytes(width * length, "little"), width, 8))
        subtracted = least * self._sum + self._least * sum(values)
        return [lane + subtracted for lane in reversed(sums)]


def spaced(data: bytes, width: int, new_width: int) -> bytes:
    """Return little-endian lanes of a width with another one."""
    lanes = bytearray(len(data) // width * new_width)
    for byte in range(min(width, new_width)):
        lanes[byte::new_width] = data[byte::width]
    return bytes(lanes)


def chain_outputs(weights: Weights, image: Sequence[Vector], arithmetic: Arithmetic,
                  quantizes: bool) -> list[Vector]:
    """Return the output of a chain, [pixel][channel], from fp16 inputs: of all pixels of a square
    image or, with 1x1 kernels, of any pixels. `quantizes`: whether activations are int8 between
    layers."""
    matrix, store = Circulant(weights.row), arithmetic.last
    outputs, steps, depth = list(image), None, len(weights.turns)
    for layer, (turns, signs, pattern) in enumerate(zip(*weights[2:]), 1):
        integers, unit = steps or as_integers(outputs, store)
        if len(pattern) > 1:
            integers = mixed(integers, pattern)
        scale = unit * weights.scale * arithmetic.nudge
        store = arithmetic.store if layer < depth else arithmetic.last
        outputs = []
        for vector in integers:
            sums = matrix.product(vector)
            outputs.append(stored([sums[turn] * sign * scale for turn, sign in zip(turns, signs)],
                                  store))
        if quantizes:
            steps = [quantized(vector, arithmetic.nudge) for vector in outputs], ACTIVATION_SCALE
    return outputs


def mixed(image: Sequence[Vector], pattern: Vector) -> list[Any]:
    """Return a square image, [pixel][channel], with each pixel the sum of its 3x3 neighbours times
    a pattern. Outside of the image they are zero."""
    side, count = math.isqrt(len(image)), len(image[0])
    width = side + 1  # a pixel of zeros ends each row, and so begins the next
    zeros: list[Vector] = [[0] * count]
    framed = zeros * (width + 1)
    for start in range(0, len(image), side):
        framed += [*image[start:start + side], *zeros]
    values = concatenated(framed + zeros * width)
    products = {factor: [factor * value for value in values] for factor in set(pattern)}
    total: Iterable[float] = itertools.repeat(0)
    for place in reversed(range(9)):
        start = count * (place // 3 * width + place % 3)
        total = map(add, total, products[pattern[place]][start:])
    sums = list(total)
    return [sums[start:start + count] for row in range(0, side * width, width)
            for start in range(row * count, (row + side) * count, count)]


class Reference:
    """The right outputs of a configuration's programs, from the structure of its weights: not from
    their text or weight file, so a mistake of the writer shows. Keeps what it has computed, for all
    variants."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config = config
        self._weights = chain_weights(config, seed)
        self._data = random_input(config, seed)
        self._outputs: dict[Any, dict[int, Vector]] = {}

    def compute(self, pixels: Sequence[int], arithmetic: Arithmetic = ARITHMETICS[0],
                quantizes: bool = False) -> list[Vector]:
        """Return the output of some pixels, [pixel][channel]. `quantizes`: whether activations are
        int8 between layers. Of a 3x3 chain it is the same whatever is chosen: without any
        rounding."""
        chosen = (arithmetic, quantizes) if self.config.kernel == 1 else None
        ready = self._outputs.setdefault(chosen, {})
        missing = [pixel for pixel in pixels if pixel not in ready]
        if missing and chosen:
            image = [pixel_of(self._data, self.config, pixel) for pixel in missing]
            ready.update(zip(missing, chain_outputs(self._weights, image, arithmetic, quantizes)))
        elif missing:
            ready.update(zip(missing, self._unrounded(missing)))
        return [ready[pixel] for pixel in pixels]

    def _unrounded(self, pixels: Sequence[int]) -> list[Vector]:
        """Return the outputs of a 3x3 chain: the patterns mix the pixels of each channel, then the
        rotations mix the channels."""
        config, weights, side = self.config, self._weights, self.config.spatial
        # A pixel depends on a square around it, as wide as two layers for each; near an edge it is
        # moved into the image. Shares: how much each place there adds, from the output backwards.
        width = min(side, 2 * config.depth + 1)
        corners = [[min(max(place - config.depth, 0), side - width)
                    for place in divmod(pixel, side)] for pixel in pixels]
        own = [(pixel // side - top) * width + pixel % side - left
               for pixel, (top, left) in zip(pixels, corners)]
        shares = [[float(place == chosen) for chosen in own] for place in range(width * width)]
        for pattern in reversed(weights.patterns):
            shares = mixed(shares, [value / PATTERN_MIDDLE for value in reversed(pattern)])
        images = [struct.unpack_from(f"<{config.pixels}e", self._data, start)
                  for start in range(0, len(self._data), 2 * config.pixels)]
        mean = []
        for (top, left), share in zip(corners, zip(*shares)):
            starts = [(top + row) * side + left for row in range(width)]
            mean.append([math.fsum(map(mul, share, concatenated(
                [image[start:start + width] for start in starts]))) for image in images])
        rotations = weights._replace(scale=PATTERN_MIDDLE * weights.scale,
                                     patterns=[(1,)] * config.depth)
        return chain_outputs(rotations, mean, UNROUNDED, False)


class ReferenceEngine:
    """The reference as an engine, used like NeuralEngine: small programs on any machine. Its times
    say nothing about a Neural Engine."""

    def __init__(self) -> None:
        self.now, self.tick_ns = time.perf_counter_ns, 1.0
        self.pool = nullcontext

    def load(self, program: Program, qos: int, events: Events,
             owner: ExitStack) -> "ReferenceExecutable":
        """Take the program; nothing is compiled."""
        events.stage("load", program.variant.name)
        return ReferenceExecutable(program)


class ReferenceExecutable:
    """A program that is computed in the first arithmetic, layer by layer with either kernel; it is
    used like LoadedModel."""

    def __init__(self, program: Program) -> None:
        self.facts: Facts = {}
        self._program = program
        self._image: list[Vector] = []
        self._output: list[Vector] = []

    def write_input(self, data: bytes) -> None:
        """Take the whole fp16 input, [channels][pixels]."""
        config = self._program.config
        self._image = [pixel_of(data, config, pixel) for pixel in range(config.pixels)]

    def evaluate(self) -> bool:
        """Compute every pixel of the output; this does not fail."""
        self._output = chain_outputs(self._program.weights, self._image, ARITHMETICS[0],
                                     self._program.variant.quantizes)
        return True

    def failure(self) -> str:
        """Return a text: an evaluate never fails."""
        return "the reference does not fail"

    def poison(self, pixels: Sequence[int]) -> None:
        """Make the channels of these output pixels NaN."""
        for pixel in pixels:
            self._output[pixel] = [math.nan] * self._program.config.channels

    def read_pixels(self, pixels: Sequence[int]) -> list[Vector]:
        """Return the channels of these output pixels."""
        return [self._output[pixel] for pixel in pixels]


# ==================================================================================================
# 6. Verification
#
# Used below: chosen_pixels, verify.
# ==================================================================================================

# Limits are 1.15 times what right engines of any arithmetic reach in the simulations of
# tests/test_verification.py, or more (1.08 with other seeds). By whether activations are quantized,
# and by kernel: the relative L2, and the distance of the slope from 1, per square root of the
# depth, with as many channels. Sums in fp16 lose more if they have more terms.
LIMITS = {(False, 1): (0.0055, 0.0012, 512), (True, 1): (0.020, 0.0085, 512),
          (False, 3): (0.0095, 0.0040, 128), (True, 3): (0.021, 0.009, 512)}
MAX_RELATIVE_L2 = 1.2
# Deep 3x3 chains grow here and there to more than 4, at which int8 cuts values off and the
# reference does not: what is right with quantization is farther off by 1 + (depth / 40)**8.
CUT_OFF_DEPTH = 40
MOST = 0.5  # a larger share of equal values shows the arithmetic
UNRELATED = 0.5  # a lower cosine means another computation, not another rounding

# The largest relative L2 if the arithmetic is known: it is exact if activations are quantized.
# Otherwise (per square root of the depth) it reaches 0.0005; with bf16 stores it would be 0.0010 or
# more.
KNOWN_LIMITS = {False: 0.0007, True: 0.02}

# Below, n is the number of values or pixels compared: the more there are, the nearer to 1 an
# average is. The distance from an output without quantization, if 1 is what quantization usually
# causes, may be base + part / sqrt(n).
NOISE_LIMITS = {1: ((0.7, -4.0), (1.22, 5.0)), 3: ((0.45, -2.0), (1.4, 7.0))}  # by kernel
QUANTIZATION_NOISE = ACTIVATION_SCALE / math.sqrt(12)  # the rms of one rounding

# The largest and the third largest error of a channel, if 1 is usual, may be 1 + so much / n**0.7.
ERROR_LIMITS = {False: ((1, 7.0), (3, 5.0)), True: ((1, 5.5), (3, 3.8))}
FEWEST_CHANNELS = 32  # with fewer, the usual error is uncertain


class Comparison(NamedTuple):
    """How an output differs from the expected values. `equal`: the share that is equal to the last
    bit. `floor`: their rms, at most 1: a relative error times it is relative to values as large as
    the input's."""

    equal: float
    cosine: float
    relative_l2: float
    slope: float
    max_error: float
    floor: float


class Excess(NamedTuple):
    """How many times its limit a figure is, and what it means if that is more than once."""

    times: float
    text: str


class Verdict(NamedTuple):
    """The fields of a cell's `verified`, the reason why the output is wrong (or None), warnings as
    (code, text)."""

    verified: Facts
    problem: Optional[str]
    warnings: list[tuple[str, str]]


def compare_vectors(values: Vector, expected: Vector) -> Comparison:
    """Return how finite values, or the first of them, differ from the expected ones."""
    values = values[:len(expected)]
    pairs = ((values, expected), (values, values), (expected, expected))
    dot, own, power = (sum(map(mul, *pair)) or 1e-12 for pair in pairs)
    errors = list(map(sub, values, expected))
    return Comparison(sum(map(eq, values, expected)) / len(expected), dot / math.sqrt(own * power),
                      math.sqrt(sum(map(mul, errors, errors)) / power), dot / power,
                      max(map(abs, errors)), min(1.0, math.sqrt(power / len(expected))))


def chosen_pixels(config: Config, seed: int, count: int) -> list[int]:
    """Return the indices of the pixels to verify, drawn by the seed. With a kernel of 3 every other
    one, the first too, lies on an edge but in no corner, where the padding shows, and the others
    inside; small images have any when these run out."""
    draw = random.Random(seed).random
    last = config.spatial - 1
    chosen: dict[int, None] = {}
    while len(chosen) < min(count, config.pixels):
        index = int(draw() * config.pixels)
        edges = sum(place in (0, last) for place in divmod(index, config.spatial))
        free = config.kernel == 1 or len(chosen) >= 2 * (last - 1)
        if free or edges == (1, 0)[len(chosen) % 2]:
            chosen[index] = None
    return list(chosen)


def verify(reference: Reference, variant: Variant, pixels: Sequence[int],
           outputs: Sequence[Sequence[Vector]], known: bool) -> Verdict:
    """Return the verdict on the worst of the outputs, [round][pixel][channel], compared with the
    reference. `known`: whether the chip's arithmetic is."""
    # A chain of one layer quantizes nothing: it is judged by the arithmetic that it has.
    quantizes = variant.quantizes and reference.config.depth > 1
    verdicts = [judge(reference, quantizes, pixels, output, known) for output in outputs]
    wrong = [verdict for verdict in verdicts if verdict.problem]
    worst = max(wrong or verdicts,
                key=lambda verdict: verdict.verified.get("relative_l2", math.inf))
    problem = worst.problem
    if problem and len(wrong) < len(outputs):
        problem = f"in {len(wrong)} of {len(outputs)} rounds verified, {problem}"
    warnings = {code: text for verdict in verdicts for code, text in verdict.warnings}
    verified = {"pixels": len(pixels) * len(outputs), **worst.verified, "ok": problem is None}
    return Verdict(verified, problem, list(warnings.items()))


def judge(reference: Reference, quantizes: bool, pixels: Sequence[int], output: Sequence[Vector],
          known: bool) -> Verdict:
    """Return the verdict on the output of one round, [pixel][channel]."""
    config, values = reference.config, concatenated(output)
    first = concatenated(reference.compute(pixels, ARITHMETICS[0], quantizes))
    problem = output_defect(values, first)
    if problem:
        return Verdict({}, problem, [])
    references = {ARITHMETICS[0]: first}
    if config.kernel == 1 and values != first:  # 3x3 has one; an M4's that is met needs no other
        references = all_references(reference, pixels, quantizes)
    (nearest, arithmetic), *others = sorted(
        (compare_vectors(values, vector).relative_l2, arithmetic)
        for arithmetic, vector in references.items())
    expected = reference.compute(pixels, arithmetic, quantizes)
    difference = compare_vectors(values, concatenated(expected))
    verified = difference._asdict()
    del verified["floor"]
    if config.kernel == 3:
        del verified["equal"]
    elif difference.equal > MOST or nearest <= others[0][0] / 2:
        verified = {"arithmetic": arithmetic.name, **verified}
    problems = [mismatch(compare_vectors(*pair), len(pair[0]), config, quantizes)
                for pair in [(values, concatenated(expected)), *zip(output, expected)]]
    problems += large_errors(output, expected, config, quantizes, difference.equal > MOST)
    doubts = {}
    if quantizes and config.channels >= FEWEST_CHANNELS:
        little, much = quantization_noise(values, list(references.values()),
                                          concatenated(reference.compute(pixels)), config)
        problems += [little, much] if known else [little]
        doubts["quantization"] = much
    if known and config.kernel == 1:
        doubts["unknown-rounding"] = unknown_rounding(difference, config, quantizes)
    problem = next((excess.text for excess in problems if excess.times > 1), None)
    warnings = [(code, excess.text) for code, excess in doubts.items() if excess.times > 1]
    return Verdict(verified, problem, [] if problem else warnings)


def all_references(reference: Reference, pixels: Sequence[int],
                   quantizes: bool) -> dict[Arithmetic, Vector]:
    """Return the references in all arithmetics, of which the nearest counts: of all pixels if
    activations are quantized, since that is exact, else of the first."""
    some = pixels if quantizes else pixels[:1]
    return {arithmetic: concatenated(reference.compute(some, arithmetic, quantizes))
            for arithmetic in ARITHMETICS}


def output_defect(values: Vector, expected: Vector) -> Optional[str]:
    """Return the obvious defect of an output, and what can cause it; None if it must be
    compared."""
    unwritten = sum(map(math.isnan, values))
    if unwritten == len(values):
        return ("evaluate returned YES and did not write the output: NaN was put there before; the "
                "engine did no work, or writes elsewhere than the strides say; try another --qos, "
                "and send the output of doctor, which shows strides")
    if unwritten:
        return (f"evaluate returned YES and did not write {unwritten} of {len(values)} values of "
                "the output: NaN was put there before; the engine writes elsewhere than the "
                "strides say, or left out work: send the output of doctor, which shows strides")
    if not all(map(math.isfinite, values)):
        return "the output holds infinities: weights or scales were misread; try another --form"
    if len(values) < FEWEST_CHANNELS:
        return None  # a few values may well be equal
    if not any(values) and any(expected):
        return ("the output is all zeros: the engine did no work, or read the input elsewhere than "
                "the strides say; try another --form, and send the output of doctor")
    if min(values) == max(values) and min(expected) != max(expected):
        return (f"the output is {values[0]} everywhere: the weights were not read; try another "
                "--form")
    return None


def verification_limits(count: int, config: Config, quantizes: bool) -> tuple[float, float]:
    """Return the largest relative L2 and distance of the slope from 1 that rounding explains in
    `count` values."""
    relative, slope, channels = LIMITS[quantizes, config.kernel]
    depth, terms = math.sqrt(config.depth), max(1.0, math.sqrt(config.channels / channels))
    depth *= cut_off(config) if quantizes else 1.0
    few, fewer = (4, 16) if config.kernel == 1 else (16, 32)  # values scatter more if they are few
    return (min(MAX_RELATIVE_L2, relative * depth * (1 + few / count) * terms),
            slope * depth * (1 + fewer / count))


def cut_off(config: Config) -> float:
    """Return the factor by which limits of quantized chains grow with depth."""
    return 1.0 if config.kernel == 1 else 1 + (config.depth / CUT_OFF_DEPTH) ** 8


def mismatch(difference: Comparison, count: int, config: Config, quantizes: bool) -> Excess:
    """Return how much more an output differs over `count` values than rounding explains."""
    limit, slope_limit = verification_limits(count, config, quantizes)
    floor = difference.floor if quantizes else 1.0  # the error of fp16 is relative
    # A pixel alone may be small by chance; several together resemble what they should be.
    many = count > max(config.channels, FEWEST_CHANNELS)
    unrelated = many * (1 - difference.cosine) / (1 - UNRELATED)
    turned = math.sqrt(max(0.0, 1 - difference.cosine ** 2)) * floor  # what is not a scale
    misscaled = abs(difference.slope - 1) * floor ** 2 / slope_limit
    if difference.cosine < UNRELATED:
        meaning = ("a wrong layer, or pixels elsewhere than the strides say; try another --form, "
                   "and send the output of doctor, which shows strides")
    elif misscaled > 1 and turned <= limit:
        meaning = "it has the wrong scale; try another --form"
    else:
        meaning = "more than rounding explains, so work is left out; try more --verify"
    return Excess(max(difference.relative_l2 * floor / limit, misscaled, unrelated), (
        f"the output is not what the program should compute (cosine {difference.cosine:.4f}, "
        f"relative L2 {difference.relative_l2:.3f}, at most {limit:.3f}, slope "
        f"{difference.slope:.3f}, within {slope_limit:.3f} of 1): {meaning}"))


def large_errors(output: Sequence[Vector], expected: Sequence[Vector], config: Config,
                 quantizes: bool, equal: bool) -> list[Excess]:
    """Return how much more few channels of [pixel][channel] differ than the others.

    A pixel's usual error is estimated from the median, plus a part of the limit of the relative L2,
    since the median may be zero; if most values are equal, that is the limit of a known arithmetic.
    Large values may differ more.
    """
    channels = config.channels
    if channels < FEWEST_CHANNELS:
        return []
    limit, _ = verification_limits(len(output) * channels, config, quantizes)
    if quantizes and equal:
        limit = KNOWN_LIMITS[True]
    relative = []
    for values, should in zip(output, expected):
        size = math.sqrt(sum(map(mul, should, should)) / channels) or 1.0
        errors = list(map(abs, map(sub, values, should)))
        usual = (statistics.median(errors) / 0.6745
                 + limit / 8 * (max(1.0, size) if quantizes else size))
        relative.append([error / usual / max(1.0, abs(value) / size)
                         for error, value in zip(errors, should)])
    largest = sorted([math.hypot(*errors) / math.sqrt(len(output)) for errors in zip(*relative)])
    excesses = []
    for rank, excess in ERROR_LIMITS[quantizes]:
        most = 1 + excess / len(output) ** 0.7
        excesses.append(Excess(largest[-rank] / most, (
            f"{rank} of {channels} channels differ {largest[-rank]:.1f} times as much as usual "
            f"or more, at most {most:.1f} is right: channels are left out or exchanged; try "
            "another --form, and send the output of doctor")))
    return excesses


def quantization_noise(values: Vector, references: Sequence[Vector], unquantized: Vector,
                       config: Config) -> tuple[Excess, Excess]:
    """Return by how much quantizing activations changed the output too little, and too much."""
    usual = QUANTIZATION_NOISE * math.sqrt((config.depth - 1) * len(values))
    if config.kernel == 1:
        usual = math.sqrt(statistics.fmean([math.dist(vector, unquantized) ** 2
                                            for vector in references]))
    change = math.dist(values, unquantized) / usual
    least, most = (base + part / math.sqrt(len(values))
                   for base, part in NOISE_LIMITS[config.kernel])
    most *= cut_off(config)
    figures = f"quantizing activations changed the output by {change:.2f} of the usual amount"
    little = (f"{figures}, at least {least:.2f} is right: quantize and dequantize are left out, so "
              "this is not W8A8; its figures are those of --variants w8a16")
    much = (f"{figures}, at most {most:.2f} is right: the steps are too coarse, or values are cut "
            "off instead of rounded; try another --form, and send the output of doctor")
    return Excess(least / (change or 1e-9), little), Excess(change / most, much)


def unknown_rounding(difference: Comparison, config: Config, quantizes: bool) -> Excess:
    """Return how much farther an output is from the reference than a chip's known arithmetic."""
    limit = KNOWN_LIMITS[quantizes] * (1 if quantizes else math.sqrt(config.depth))
    return Excess(difference.relative_l2 * difference.floor / limit, (
        f"the output is {difference.relative_l2:.4f} (relative L2) from the reference; this chip's "
        f"known arithmetic stays within {limit:.4f}. It is accepted only as an unknown rounding, "
        "in which small mistakes may hide: compare more pixels with a larger --verify, and send "
        "the output of doctor"))


# ==================================================================================================
# 7. Objective-C runtime
#
# Used below: Pointer, Libraries, parse_encoding, kind_of, Runtime.
# ==================================================================================================

# The ownership rule: we own the results of `new` and of Create functions, and whatever we retain.
# Each is released exactly once, by the ExitStack that it was put on when we came to own it. All
# else is borrowed until the pool drains.

# Since macOS 11 these are not files on disk: dlopen knows them, os.path.exists does not.
FRAMEWORKS = "/System/Library/Frameworks"
ENGINE_FRAMEWORK = "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework"
LIBRARIES = {
    "libobjc": "/usr/lib/libobjc.A.dylib",
    "libSystem": "/usr/lib/libSystem.B.dylib",
    "Foundation": f"{FRAMEWORKS}/Foundation.framework/Foundation",
    "CoreFoundation": f"{FRAMEWORKS}/CoreFoundation.framework/CoreFoundation",
    "IOSurface": f"{FRAMEWORKS}/IOSurface.framework/IOSurface",
    "IOKit": f"{FRAMEWORKS}/IOKit.framework/IOKit",
    "AppleNeuralEngine": f"{ENGINE_FRAMEWORK}/AppleNeuralEngine",
}


class Pointer(ctypes.c_void_p):
    """Any pointer that a call returns; false if nil.

    A subclass, because ctypes turns a plain c_void_p into an int.
    """


class Libraries:
    """The system's libraries, each opened on first use, or one stand-in in place of all."""

    def __init__(self, standin: Optional[str] = None) -> None:
        self.standin = standin
        self._opened: dict[str, ctypes.CDLL] = {}

    def open(self, name: str) -> ctypes.CDLL:
        """Return the library of a name in LIBRARIES; raise Unavailable if it cannot be opened."""
        if name not in self._opened:
            try:
                self._opened[name] = ctypes.CDLL(self.standin or LIBRARIES[name])
            except OSError as error:
                raise Unavailable(f"the library {name} cannot be opened: {error}") from None
        return self._opened[name]

    def function(self, library: str, symbol: str, result: Any,
                 *arguments: Any) -> Callable[..., Any]:
        """Return a C function with its exact prototype; raise Unavailable if it is absent."""
        try:
            return ctypes.CFUNCTYPE(result, *arguments)((symbol, self.open(library)))
        except AttributeError:
            raise Unavailable(f"{library} has no function {symbol} here") from None

    def constant(self, library: str, symbol: str) -> Pointer:
        """Return an exported pointer variable, such as a CFStringRef; raise Unavailable if it is
        absent."""
        try:
            return Pointer.in_dll(self.open(library), symbol)
        except ValueError:
            raise Unavailable(f"{library} has no constant {symbol} here") from None

    def system_value(self, name: str, kind: Any = None) -> Any:
        """Return a value of sysctlbyname, text or an integer of ctypes type `kind`; None if the
        name is unknown."""
        # int sysctlbyname(const char *name, void *old, size_t *oldlen, void *new, size_t newlen)
        sysctlbyname = self.function(
            "libSystem", "sysctlbyname", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p,
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        value = kind() if kind else ctypes.create_string_buffer(256)
        size = ctypes.c_size_t(ctypes.sizeof(value))
        if sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) != 0:
            return None
        return value.value if kind else value.value.decode(errors="replace") or None


# Type codes of method_getTypeEncoding that a call here may meet (the Objective-C Runtime
# Programming Guide, "Type Encodings"). BOOL is B on arm64, c on Intel Macs, C on GNUstep.
_CODES = {
    "@": Pointer, "#": Pointer, ":": Pointer, "^": Pointer, "*": ctypes.c_char_p, "v": None,
    "B": ctypes.c_bool, "c": ctypes.c_byte, "C": ctypes.c_ubyte,
    "s": ctypes.c_short, "S": ctypes.c_ushort, "i": ctypes.c_int, "I": ctypes.c_uint,
    "l": ctypes.c_long, "L": ctypes.c_ulong, "q": ctypes.c_longlong, "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float, "d": ctypes.c_double,
}

# A struct, union or array without another inside; and one type: qualifiers, `^` and its target or
# a code, frame offset.
_AGGREGATE = re.compile(r"[{(\[][^{}()\[\]]*[})\]]")
_TYPE = re.compile(r'[rnNoORVA]*(?:(\^)[\^rnNoORVA]*)?(@\?|@"[^"]*"|.)[-+0-9]*', re.DOTALL)


def parse_encoding(encoding: str) -> list[str]:
    """Return one code per type of a method's encoding, result first.

    `B36@0:8I16@20^@28` gives B @ : I @ ^. Qualifiers, frame offsets and targets of pointers are
    left out, since they differ between runtimes; an aggregate gives `_`.
    """
    replaced = 1
    while replaced:  # innermost first
        encoding, replaced = _AGGREGATE.subn("_", encoding)
    return [match[1] or match[2][0] for match in _TYPE.finditer(encoding)]


def kind_of(code: str) -> str:
    """Return how a value of a type is passed: pointer, text, BOOL, nothing, or an integer or float
    of some width."""
    kind = _CODES.get(code)
    if kind is None:
        return "nothing" if code == "v" else f"unknown type {code}"
    if kind is Pointer or code == "*":
        return "text" if code == "*" else "pointer"
    if code in "BcC":
        return "BOOL"
    return f"{8 * ctypes.sizeof(kind)}-bit {'float' if code in 'fd' else 'integer'}"


class Runtime:
    """Objective-C by typed senders. Every method is looked up first: an unknown selector would end
    the process."""

    def __init__(self, libraries: Libraries) -> None:
        """Raise Unavailable if libobjc, or a function of it, is missing."""
        self.libraries = libraries
        libobjc = functools.partial(libraries.function, "libobjc")
        one, two = (ctypes.c_void_p,), (ctypes.c_void_p, ctypes.c_void_p)
        # Class objc_getClass(const char *name); Class object_getClass(id object)
        self._get_class = libobjc("objc_getClass", Pointer, ctypes.c_char_p)
        self._class_of = libobjc("object_getClass", Pointer, *one)
        # SEL sel_registerName(const char *name)
        self._selector = libobjc("sel_registerName", Pointer, ctypes.c_char_p)
        # Method class_getInstanceMethod(Class class, SEL selector); a class is an instance too
        self._find_method = libobjc("class_getInstanceMethod", Pointer, *two)
        # const char *method_getTypeEncoding(Method method)
        self._encoding = libobjc("method_getTypeEncoding", ctypes.c_char_p, *one)
        # id objc_retain(id object); void objc_release(id object)
        self._retain = libobjc("objc_retain", Pointer, *one)
        self._release = libobjc("objc_release", None, *one)
        # void *objc_autoreleasePoolPush(void); void objc_autoreleasePoolPop(void *pool)
        self._push_pool = libobjc("objc_autoreleasePoolPush", Pointer)
        self._pop_pool = libobjc("objc_autoreleasePoolPop", None, *one)
        self._senders: dict[str, tuple[int, Callable[..., Any]]] = {}

    def macos_version(self) -> str:
        """Return the system's name and version, such as `macOS 26.1`."""
        version = self.libraries.system_value("kern.osproductversion")
        return f"macOS {version or '(version unknown)'}"

    def find_class(self, name: str) -> Pointer:
        """Return the class, or a nil Pointer."""
        kind: Pointer = self._get_class(name.encode())
        return kind

    def encoding_of(self, kind: Pointer, selector: str) -> Optional[str]:
        """Return the type encoding of the method that a class's instances have for a selector;
        None if they have none."""
        method = self._find_method(kind, self._selector(selector.encode()))
        return self._encoding(method).decode() if method else None

    def encoding_in(self, receiver: Pointer, selector: str) -> Optional[str]:
        """Return the same of the method that an object, or a class itself, has; None for nil."""
        return self.encoding_of(self._class_of(receiver), selector) if receiver else None

    def bind(self, receiver: Pointer, selector: str, *arguments: Any) -> Callable[[], Any]:
        """Return a message ready to be sent many times; its arguments must outlive it.

        Raise Unavailable naming the selector if the receiver lacks the method, or it takes another
        number of arguments.
        """
        if not receiver:
            raise Unavailable(f"{selector} cannot be sent to nil")
        encoding = self.encoding_in(receiver, selector)
        if encoding is None:
            named = self.encoding_in(receiver, "className")
            name = self.text(self.send(receiver, "className")) if named else "its class"
            raise Unavailable(f"{self.macos_version()} has no method {selector} in {name}")
        expected, send = self._sender(encoding)
        if len(arguments) != expected:
            raise Unavailable(f"{selector} takes {expected} arguments on {self.macos_version()}, "
                              f"not {len(arguments)}")
        return functools.partial(send, receiver, self._selector(selector.encode()), *arguments)

    def send(self, receiver: Pointer, selector: str, *arguments: Any) -> Any:
        """Send a message and return its result; see bind."""
        return self.bind(receiver, selector, *arguments)()

    def create(self, class_name: str, selector: str, *arguments: Any) -> Pointer:
        """Return a borrowed object from a class method, or a nil Pointer. Raise Unavailable if this
        macOS lacks the class."""
        kind = self.find_class(class_name)
        if not kind:
            raise Unavailable(f"{self.macos_version()} has no class {class_name}")
        created: Pointer = self.send(kind, selector, *arguments)
        return created

    def _sender(self, encoding: str) -> tuple[int, Callable[..., Any]]:
        """Return the number of arguments of a method of that encoding, and objc_msgSend with its
        exact prototype."""
        # Exact, since arm64 passes variadic arguments elsewhere. The number, since ctypes accepts
        # surplus arguments silently.
        if encoding not in self._senders:
            codes = parse_encoding(encoding)
            if len(codes) < 3 or any(code not in _CODES for code in codes):
                raise Unavailable(f"a method of type {encoding} cannot be called by this program")
            result, *arguments = (_CODES[code] for code in codes)
            types = [ctypes.c_void_p if kind is Pointer else kind for kind in arguments]
            send = self.libraries.function("libobjc", "objc_msgSend", result, *types)
            self._senders[encoding] = len(codes) - 3, send
        return self._senders[encoding]

    @contextmanager
    def pool(self) -> Iterator[None]:
        """Hold an autorelease pool."""
        pool = self._push_pool()
        try:
            yield
        finally:
            self._pop_pool(pool)

    def retain(self, borrowed: Pointer, owner: ExitStack) -> Pointer:
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
        """Return a borrowed NSData over the buffer's own bytes, which must stay in place while the
        NSData lives."""
        start = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
        selector = "dataWithBytesNoCopy:length:freeWhenDone:"
        return self.create("NSData", selector, start, len(buffer), False)

    def array(self, *items: Pointer) -> Pointer:
        """Return a borrowed NSArray."""
        return self.create("NSArray", "arrayWithObjects:count:", _pointers(items), len(items))

    def dictionary(self, items: Sequence[tuple[Pointer, Pointer]] = ()) -> Pointer:
        """Return a borrowed NSDictionary of (key, value) pairs."""
        keys, values = (_pointers([pair[side] for pair in items]) for side in (0, 1))
        selector = "dictionaryWithObjects:forKeys:count:"
        return self.create("NSDictionary", selector, values, keys, len(items))


def _pointers(items: Sequence[Pointer]) -> Any:
    """Return a C array of pointers."""
    return (ctypes.c_void_p * len(items))(*[item.value for item in items])


# ==================================================================================================
# 8. Neural Engine
#
# Used below: NO_ROOM, Method, METHODS, advice_for, foundation_directory, remove_model_directory,
# NeuralEngine, LoadedModel.
# ==================================================================================================

# A row of a tensor takes a multiple of 64 bytes: Apple's compiler library (decompiled), and every
# compiled program that eiln/anecc met.
ROW_GRANULE = 64
# Larger surfaces are harmless (ANEDVD on an A18 Pro, macOS 27.0.1).
SURFACE_GRANULE = 1 << 16
LOCK_READ_ONLY = 1  # kIOSurfaceLockReadOnly, IOSurfaceRef.h

# A NaN in fp16. Engines write infinity in its place, so an output that holds it was never written.
UNWRITTEN = b"\x00\x7e"

# QOS_CLASS_DEFAULT, sys/qos.h. The compile service inherits the QoS: a compile at background takes
# three times as long (751K/Apple-Neural-Engine-Microarchitecture-Study-M6).
COMPILE_QOS = 21
# While other programs hold the engine, loads fail for a moment on macOS 27 (ANEDVD).
RETRIES_S = (0.1, 0.4, 1.6)
ERROR_LEVELS = 4  # of NSErrors under NSErrors
UNDER = ("NSUnderlyingError", "NSUnderlyingErrorKey")  # Apple's value of the key, GNUstep's
KEEP_AWAKE = 0xFF00FFFFFF  # NSActivityUserInteractive, NSProcessInfo.h
USER_TEMPORARY_DIRECTORY = 65537  # _CS_DARWIN_USER_TEMP_DIR, unistd.h

# hexStringIdentifier: a content hash, which names a model's directory.
IDENTIFIER = re.compile(r"[0-9A-Za-z_-]{1,255}")
# What programs and the framework write there. Left behind, `data` and `net.plist` shadow the text
# (qwen-ane, rvllm).
MODEL_FILES = {MIL_FILE, os.path.dirname(WEIGHT_FILE), WEIGHT_FILE, "data", "net.plist"}

NO_ROOM = "(0x50004|no ANE resources)"  # others hold the engine: another form does not help

# Reasons in a chain of NSErrors (reported from hardware), and what helps.
ADVICE = {
    "InvalidMILProgram": "try another --form",
    "CompilationFailure": "try a smaller program or another --seed",
    "0x20004": "try fewer channels or layers",
    NO_ROOM: "close other programs that use the Neural Engine",
    "status=0x1d": "a surface is smaller than the engine's layout: send the output of doctor",
}


# Of modelAttributes, as printed by owners of M1, M3 and M5.
STRIDES = ("RowStride", "PlaneStride", "BatchStride")


class Method(NamedTuple):
    """A method that this module calls. `kinds`: the codes of result and arguments. `needed`: no
    run without it."""

    name: str  # as in Objective-C: -[Class selector], + for one of the class
    class_name: str
    selector: str
    kinds: str
    needed: bool

    @classmethod
    def parse(cls, line: str) -> "Method":
        """Return the method of a line such as `+[NSNumber numberWithUnsignedLongLong:] @Q`."""
        match = re.fullmatch(r"(.\[(\w+) (\S+)\]) (\S+)( optional)?", line)
        assert match
        return cls(match[1], match[2], match[3], match[4], not match[5])

    @property
    def of_class(self) -> bool:
        """Return whether it is a method of the class itself."""
        return self.name.startswith("+")

    def matches(self, encoding: str) -> bool:
        """Return whether a type encoding found at run time has the expected kinds."""
        result, *arguments = parse_encoding(encoding)
        return list(map(kind_of, [result, *arguments[2:]])) == list(map(kind_of, self.kinds))


_SURFACE_OBJECT = "objectWithIOSurface:"
_REQUEST = ("requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:"
            "procedureIndex:")

# Each method with the codes of its result and arguments; a run can do without the optional ones.
# The private ones by public header dumps (yuzhouheike/iOS15.3.1-Runtime-Headers,
# MTACS/iOS-17-Runtime-Headers); the rest is Foundation's, by Apple's documentation.
METHODS = tuple(map(Method.parse, f"""\
-[NSObject isKindOfClass:] B# optional
+[NSString stringWithUTF8String:] @*
-[NSString UTF8String] *
+[NSNumber numberWithUnsignedLongLong:] @Q
-[NSNumber unsignedLongLongValue] Q optional
+[NSArray arrayWithObjects:count:] @^Q
-[NSArray objectAtIndex:] @Q
-[NSArray count] Q optional
+[NSDictionary dictionaryWithObjects:forKeys:count:] @^^Q
-[NSDictionary allKeys] @
-[NSDictionary objectForKey:] @@ optional
+[NSData dataWithBytesNoCopy:length:freeWhenDone:] @^QB
-[NSError domain] @
-[NSError code] q
-[NSError localizedDescription] @
-[NSError userInfo] @ optional
+[NSProcessInfo processInfo] @ optional
-[NSProcessInfo thermalState] q optional
-[NSProcessInfo isLowPowerModeEnabled] B optional
-[NSProcessInfo beginActivityWithOptions:reason:] @Q@ optional
-[NSProcessInfo endActivity:] v@ optional
+[_ANEInMemoryModelDescriptor modelWithMILText:weights:optionsPlist:] @@@@
+[_ANEInMemoryModel inMemoryModelWithDescriptor:] @@
-[_ANEInMemoryModel hexStringIdentifier] @
-[_ANEInMemoryModel compileWithQoS:options:error:] BI@^
-[_ANEInMemoryModel loadWithQoS:options:error:] BI@^
-[_ANEInMemoryModel evaluateWithQoS:options:request:error:] BI@@^
-[_ANEInMemoryModel unloadWithQoS:error:] BI^
-[_ANEInMemoryModel localModelPath] @ optional
-[_ANEInMemoryModel compiledModelExists] B optional
-[_ANEInMemoryModel purgeCompiledModel] v optional
-[_ANEInMemoryModel model] @ optional
-[_ANEInMemoryModel modelAttributes] @ optional
-[_ANEModel modelAttributes] @ optional
+[_ANEIOSurfaceObject {_SURFACE_OBJECT}] @^
+[_ANERequest {_REQUEST}] @@@@@@@@
+[_ANEDeviceInfo hasANE] B optional
+[_ANEDeviceInfo isVirtualMachine] B optional
+[_ANEDeviceInfo aneSubType] @ optional
+[_ANEDeviceInfo aneArchitectureType] @ optional
+[_ANEDeviceInfo numANEs] I optional
+[_ANEDeviceInfo numANECores] I optional""".split("\n")))
_OPTIONAL = {method.selector: method for method in METHODS if not method.needed}


def advice_for(error: str) -> str:
    """Return what to do about the errors named in a text, such as `try another --form`; empty if
    unknown."""
    return ", or ".join(advice for reason, advice in ADVICE.items()
                        if re.search(rf"\b{reason}\b", error))


def foundation_directory() -> str:
    """Return Foundation's directory of temporary files, without opening any library.

    On a Mac it is private to the user, whatever TMPDIR says; elsewhere, and with a stand-in, it is
    TMPDIR.
    """
    if sys.platform == "darwin" and not os.environ.get(STANDIN_VARIABLE):
        with suppress(OSError, ValueError):
            return os.confstr(USER_TEMPORARY_DIRECTORY) or "/tmp"
    # Even if it cannot be written: all users share /tmp, and no run should wait for others' runs.
    with suppress(OSError):  # a relative one, in a directory that is gone
        return os.path.abspath(os.environ.get("TMPDIR") or "/tmp")
    return "/tmp"


def is_model_directory(path: str, temporary: str) -> bool:
    """Return whether a path can be a model's directory: absolute, named like an identifier,
    directly below `temporary` and not a symbolic link."""
    parent, name = os.path.split(path)
    return bool(os.path.isabs(path) and os.path.isabs(temporary)
                and os.pardir not in path.split(os.sep)
                and IDENTIFIER.fullmatch(name) and not os.path.islink(path)
                and os.path.realpath(parent) == os.path.realpath(temporary))


def remove_model_directory(path: str, temporary: str) -> None:
    """Remove a model's directory with all that is in it. Errors are ignored: there is nowhere to
    report them."""
    with suppress(OSError, ValueError):  # ValueError: not a path at all
        # The path comes from a library, or from a message that can be damaged.
        if is_model_directory(path, temporary):
            shutil.rmtree(path, ignore_errors=True)


def foreign_name(path: str) -> Optional[str]:
    """Return a name in a model's directory that no program of this API writes; None if all
    belong there."""
    for parent, directories, files in os.walk(path):
        for name in [*directories, *files]:
            whole = os.path.join(parent, name)
            if os.path.relpath(whole, path) not in MODEL_FILES or os.path.islink(whole):
                return os.path.relpath(whole, path)
    return None


class Strides(NamedTuple):
    """How an fp16 tensor [1, channels, side, side] lies in a surface: the bytes from one row, one
    plane (a channel) and one batch to the next."""

    config: Config
    row: int
    plane: int
    batch: int

    @classmethod
    def of_rows(cls, config: Config, granule: int) -> "Strides":
        """Return the strides of rows that take a multiple of so many bytes, with nothing between
        rows or planes."""
        row = -(-2 * config.spatial // granule) * granule
        return cls(config, row, row * config.spatial, row * config.spatial * config.channels)

    @property
    def possible(self) -> bool:
        """Return whether the tensor can lie so: each stride holds what it must, in whole halves."""
        side, channels = self.config.spatial, self.config.channels
        return (2 * side <= self.row and self.row * side <= self.plane
                and self.plane * channels <= self.batch <= LARGEST_BYTES
                and not (self.row | self.plane | self.batch) % 2)

    @property
    def facts(self) -> dict[str, int]:
        """Return the strides in bytes, as a record holds them."""
        return {"row": self.row, "plane": self.plane, "batch": self.batch}

    def laid_out(self, data: bytes) -> bytes:
        """Return a packed tensor, [channels][pixels], as it lies in a surface; padding is zero."""
        side = self.config.spatial
        if (self.row, self.plane) == (2 * side, 2 * side * side):
            return data
        rows = [data[start:start + 2 * side].ljust(self.row, b"\0")
                for start in range(0, len(data), 2 * side)]
        planes = [b"".join(rows[first:first + side]).ljust(self.plane, b"\0")
                  for first in range(0, len(rows), side)]
        return b"".join(planes)

    def channels_at(self, pixel: int) -> slice:
        """Return the slice of a surface's halves that holds the channels of one pixel."""
        row, column = divmod(pixel, self.config.spatial)
        start, step = row * self.row // 2 + column, self.plane // 2
        return slice(start, start + (self.config.channels - 1) * step + 1, step)


class NeuralEngine:
    """Apple's engine: the private in-memory model API and IOSurface. Its clock is `now`, in ticks
    of `tick_ns`; evaluates run within its `pool`."""

    def __init__(self, libraries: Libraries, original: bool = False) -> None:
        """Raise Unavailable if a library, or a function of it, is missing. `original`: make the
        original's calls."""
        libraries.open("Foundation")
        libraries.open("AppleNeuralEngine")
        self.runtime = Runtime(libraries)
        self.original = original
        # A model keeps its descriptor's data, which are these very buffers, for an unknown time:
        # keep them until the process exits.
        self.pinned_buffers: list[bytearray] = []
        iosurface, system = (functools.partial(libraries.function, name)
                             for name in ("IOSurface", "libSystem"))
        # IOSurfaceRef IOSurfaceCreate(CFDictionaryRef properties)
        self.create_surface = iosurface("IOSurfaceCreate", Pointer, ctypes.c_void_p)
        # void *IOSurfaceGetBaseAddress(IOSurfaceRef surface)
        self._base_address = iosurface("IOSurfaceGetBaseAddress", ctypes.c_void_p, ctypes.c_void_p)
        # int IOSurfaceLock(IOSurfaceRef, uint32_t options, uint32_t *seed), and IOSurfaceUnlock
        lock = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
        self._lock = iosurface("IOSurfaceLock", *lock)
        self._unlock = iosurface("IOSurfaceUnlock", *lock)
        # void CFRelease(CFTypeRef object)
        self.cf_release = libraries.function("CoreFoundation", "CFRelease", None, ctypes.c_void_p)
        # uint64_t mach_absolute_time(void)
        self.now = system("mach_absolute_time", ctypes.c_uint64)
        # int mach_timebase_info(struct { uint32_t numer, denom; } *info)
        fraction = (ctypes.c_uint32 * 2)()
        status = system("mach_timebase_info", ctypes.c_int, ctypes.c_void_p)(fraction)
        numerator, denominator = fraction
        if status or not numerator or not denominator:
            raise Unavailable(f"mach_timebase_info returned {status} and {numerator}/{denominator}:"
                              " no unit of time")
        self.tick_ns = numerator / denominator

    def pool(self) -> contextlib.AbstractContextManager[None]:
        """Hold an autorelease pool."""
        return self.runtime.pool()

    def load(self, program: Program, qos: int, events: Events, owner: ExitStack) -> "LoadedModel":
        """Return a program ready to evaluate at that QoS; its owner unloads it and removes its
        files. Raise StageError naming the stage that failed."""
        # A refused program too is cleaned up when the owner closes: that can crash, and comes last.
        with self.pool():
            own = owner.enter_context(ExitStack())
            return LoadedModel(self, program, qos, events, own)

    def keep_awake(self, owner: ExitStack) -> None:
        """Keep the Mac from sleeping until the owner closes, if this macOS can."""
        with self.pool():
            process = self.send_optional(self.runtime.find_class("NSProcessInfo"), "processInfo")
            activity = self.send_optional(
                process, "beginActivityWithOptions:reason:", KEEP_AWAKE,
                self.runtime.string("measuring the Neural Engine"))
            if activity:
                self.runtime.retain(activity, owner)
                owner.callback(self.send_optional, process, "endActivity:", activity)

    def temporary_directory(self) -> str:
        """Return Foundation's directory of temporary files, as Foundation itself says."""
        # NSString *NSTemporaryDirectory(void)
        function = self.runtime.libraries.function("Foundation", "NSTemporaryDirectory", Pointer)
        with self.pool():
            return self.runtime.text(function())

    def send_optional(self, receiver: Optional[Pointer], selector: str, *arguments: Any) -> Any:
        """Send a message that a run can do without. Return None if the receiver is nil or None, or
        has no such method, or one of unexpected types."""
        encoding = self.runtime.encoding_in(receiver, selector) if receiver else None
        if receiver and encoding and _OPTIONAL[selector].matches(encoding):
            return self.runtime.send(receiver, selector, *arguments)
        return None

    def is_kind(self, value: Optional[Pointer], class_name: str) -> bool:
        """Return whether an object is of a class; nil is of none."""
        kind = self.runtime.find_class(class_name)
        return bool(kind and self.send_optional(value, "isKindOfClass:", kind))

    def value_in(self, dictionary: Optional[Pointer], key: str, class_name: str) -> Pointer:
        """Return a dictionary's value, borrowed; nil if it is absent or of another class, and if
        the dictionary is none."""
        if self.is_kind(dictionary, "NSDictionary"):
            value = self.send_optional(dictionary, "objectForKey:", self.runtime.string(key))
            return value if self.is_kind(value, class_name) else Pointer()
        return Pointer()

    def attribute(self, dictionary: Pointer, name: str) -> Union[int, str, None]:
        """Return a number or text in a dictionary; None for anything else."""
        number = self.value_in(dictionary, name, "NSNumber")
        if number:
            value: Optional[int] = self.send_optional(number, "unsignedLongLongValue")
            return value
        text = self.value_in(dictionary, name, "NSString")
        return printable(self.runtime.text(text)) if text else None

    def first_in(self, array: Optional[Pointer]) -> Pointer:
        """Return an array's first object, borrowed; nil if it is empty or no array."""
        if self.is_kind(array, "NSArray") and self.send_optional(array, "count"):
            first: Pointer = self.runtime.send(array or Pointer(), "objectAtIndex:", 0)
            return first
        return Pointer()

    def describe_error(self, error: ctypes.c_void_p) -> str:
        """Return domain, code and text of an NSError and of its underlying errors, on one line; a
        remark if it is nil. The outer text of a refused compile is always the same: the reason is
        in an underlying error."""
        runtime, current = self.runtime, Pointer(error.value)
        chain: dict[Optional[int], str] = {}
        while (len(chain) < ERROR_LEVELS and current.value not in chain
               and runtime.encoding_in(current, "domain")):
            domain, text = (runtime.text(runtime.send(current, name))
                            for name in ("domain", "localizedDescription"))
            code = runtime.send(current, "code")
            chain[current.value] = f"{domain} {code}: {' '.join(text.split())}"
            details = self.send_optional(current, "userInfo")
            under = (self.send_optional(details, "objectForKey:",
                                        runtime.string(key)) for key in UNDER)
            current = next(filter(None, under), Pointer())
        return ", caused by ".join(chain.values()) or "no NSError was given"

    def surface_keys(self) -> list[Pointer]:
        """Return the keys of a surface's properties; raise Unavailable if one is missing."""
        return [self.runtime.libraries.constant("IOSurface", f"kIOSurface{name}")
                for name in ("Width", "Height", "BytesPerElement", "BytesPerRow", "AllocSize",
                             "PixelFormat")]

    @contextmanager
    def mapped(self, surface: Pointer, size: int, stage: str,
               options: int = 0) -> Iterator[memoryview]:
        """Lock a surface and yield its first `size` bytes, valid until it is unlocked. Raise
        StageError if it fails."""
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


class LoadedModel:
    """A program, compiled and loaded: an _ANEInMemoryModel from descriptor to bound evaluate, with
    its input and output. Its owner undoes all, in reverse. `facts`: those that are known of the
    cell's compile_ms, load_ms, compiled_before and strides."""

    def __init__(self, engine: NeuralEngine, program: Program, qos: int, events: Events,
                 owner: ExitStack) -> None:
        self.facts: Facts = {}
        self._engine, self._runtime, self._events = engine, engine.runtime, events
        self._config, self._variant, self._stage = program.config, program.variant, ""
        self._qos = qos if engine.original else COMPILE_QOS  # of compile, load and unload
        self._error = ctypes.c_void_p()
        # Objects are released last, after the model was unloaded and purged and its directory
        # removed.
        self._objects = owner.enter_context(ExitStack())
        self._options = self._runtime.retain(self._runtime.dictionary(), self._objects)
        self._model = self._create_model(bytearray(program.mil.encode()), program.blob)
        self._write_files(program, owner)
        self._compile(owner)
        self._load(owner)
        self._lie_in, self._lie_out = self._find_strides()
        self._input = self._create_surface(self._lie_in.batch)
        self._output = self._create_surface(self._lie_out.batch)
        request = self._create_request()
        self._evaluate = self._runtime.bind(
            self._model, "evaluateWithQoS:options:request:error:", qos, self._options, request,
            ctypes.byref(self._error))

    def _begin(self, stage: str) -> None:
        self._stage = stage
        self._events.stage(stage, self._variant.name)

    def _retained(self, result: Pointer) -> Pointer:
        """Return a result, retained; raise StageError if it is nil."""
        if not result:
            raise StageError(self._stage, "the result is nil")
        return self._runtime.retain(result, self._objects)

    def _ask(self, selector: str) -> Any:
        """Return the model's answer to an optional message; None if it has no such method."""
        return self._engine.send_optional(self._model, selector)

    def _create_model(self, mil: bytearray, blob: bytearray) -> Pointer:
        runtime = self._runtime
        self._engine.pinned_buffers += [mil, blob]
        self._begin("descriptor")
        entry = self._weights_entry(blob)
        weights = runtime.dictionary([(runtime.string(WEIGHT_PATH), entry)])
        descriptor = self._retained(runtime.create(
            "_ANEInMemoryModelDescriptor", "modelWithMILText:weights:optionsPlist:",
            runtime.data(mil), weights, None))
        self._begin("model")
        return self._retained(runtime.create(
            "_ANEInMemoryModel", "inMemoryModelWithDescriptor:", descriptor))

    def _weights_entry(self, blob: bytearray) -> Pointer:
        """Return the dictionary of the weights' data and offset."""
        # The framework takes the value of the first key as the data (decompile): if `offset` is
        # first, leave it out; 0 is the default.
        runtime = self._runtime
        data = (runtime.string("data"), runtime.data(blob))
        entry = runtime.dictionary([data, (runtime.string("offset"), runtime.number(0))])
        first = runtime.send(runtime.send(entry, "allKeys"), "objectAtIndex:", 0)
        return entry if runtime.text(first) == "data" else runtime.dictionary([data])

    def _write_files(self, program: Program, owner: ExitStack) -> None:
        """Write the program where the framework looks for it, into a directory of its own: what
        was left in it would be taken for the program. Other things there fail the stage."""
        self._begin("files")
        identifier = self._runtime.text(self._runtime.send(self._model, "hexStringIdentifier"))
        temporary = self._engine.temporary_directory()
        local = self._runtime.text(self._ask("localModelPath"))
        path = (local or os.path.join(temporary, identifier)).rstrip(os.sep)
        if os.path.basename(path) != identifier or not is_model_directory(path, temporary):
            raise StageError("files", f"{path!r}: expected a directory {identifier!r}, not a link, "
                                      f"in {temporary!r}")
        foreign = foreign_name(path)
        if foreign:
            raise StageError("files", f"{path} holds {foreign}, which is not of a program: move it "
                                      "away, or remove that directory")
        remove_model_directory(path, temporary)
        self._events.directory(path)
        owner.callback(remove_model_directory, path, temporary)
        try:
            program.write(path)
        except OSError as error:
            remove_model_directory(path, temporary)  # now, since the disk may be full
            place = error.filename or path
            raise StageError("files", f"{place}: {error.strerror}") from None

    def _compile(self, owner: ExitStack) -> None:
        exists = None if self._engine.original else self._ask("compiledModelExists")
        if exists is not None:
            self.facts["compiled_before"] = bool(exists)
        compiled = not self._engine.original
        try:
            self.facts["compile_ms"] = self._send(
                "compile", "compileWithQoS:options:error:", self._options)
        except StageError:
            compiled = False
            raise
        finally:
            if compiled:  # also if a signal ends this method as soon as the call has returned
                owner.callback(self._purge)

    def _load(self, owner: ExitStack) -> None:
        """Load the model; if that fails, try again after some pauses."""
        pauses = iter(() if self._engine.original else RETRIES_S)
        while "load_ms" not in self.facts:
            try:
                self.facts["load_ms"] = self._send(
                    "load", "loadWithQoS:options:error:", self._options)
            except StageError:
                pause = next(pauses, None)
                if pause is None:
                    raise
                self._events.stage("pause", self._variant.name, pause)
                time.sleep(pause)
        owner.callback(self._unload)

    def _send(self, stage: str, selector: str, *arguments: Any) -> float:
        """Send a message that is a stage of its own; return its duration in ms. Raise StageError
        if the answer is NO."""
        self._begin(stage)
        self._error.value = None
        started = time.perf_counter()
        if not self._runtime.send(self._model, selector, self._qos, *arguments,
                                  ctypes.byref(self._error)):
            raise StageError(stage, self._engine.describe_error(self._error))
        return (time.perf_counter() - started) * 1e3

    def _purge(self) -> None:
        """Drop the program from the system's cache, which would fill the disk."""
        self._begin("purge")
        with self._engine.pool():
            self._ask("purgeCompiledModel")

    def _unload(self) -> None:
        with self._engine.pool():
            try:
                self._send("unload", "unloadWithQoS:error:")
            except StageError as error:
                self._warn("unload", f"unloading failed ({error}), after its figures were taken; "
                                     "if later programs fail to load, restart the Mac")

    def _warn(self, code: str, text: str) -> None:
        self._events.warn(code, f"{self._variant.label} {self._config.name}: {text}")

    def _find_strides(self) -> tuple[Strides, Strides]:
        """Return the strides of input and output; the original's are packed. Raise StageError if
        the engine reads more than the original's surface holds."""
        rule, packed = (Strides.of_rows(self._config, granule) for granule in (ROW_GRANULE, 2))
        if not self._engine.original:
            self._begin("strides")
            with self._engine.pool():
                lies = self._strides_told(rule)
        elif packed.batch == rule.batch:
            lies = packed, packed
        else:
            raise StageError("surface", (
                f"the original's surface holds {packed.batch} bytes, and the engine reads "
                f"{rule.batch}, since rows take a multiple of {ROW_GRANULE} bytes; choose a side "
                "that is a multiple of 32, or measure without --original"))
        self.facts["strides"] = lies[0].facts
        if lies[1] != lies[0]:
            self.facts["strides"]["output"] = lies[1].facts
        return lies

    def _strides_told(self, rule: Strides) -> tuple[Strides, Strides]:
        """Return the strides of input and output that the network's status tells; those of the
        rule where it tells none, and where it tells what cannot be right, with a warning."""
        status = self._engine.first_in(self._engine.value_in(
            self._attributes(), "NetworkStatusList", "NSArray"))
        lies, wrong = [rule, rule], []
        for place, side in enumerate(("input", "output")):
            tensor = self._engine.first_in(self._engine.value_in(
                status, f"Live{side.title()}List", "NSArray"))
            told, contradictions = self._strides_in(tensor)
            if contradictions:
                wrong.append(f"its {side} by {', '.join(contradictions)}")
            elif told:
                lies[place] = told
        if wrong:
            self._warn("strides", (
                f"the model describes {' and '.join(wrong)}, which is not this program's; rows of "
                f"a multiple of {ROW_GRANULE} bytes are assumed, which is right if the check is "
                "ok; send the output of doctor"))
        return lies[0], lies[1]

    def _attributes(self) -> Any:
        """Return what the framework tells of the loaded model, borrowed; None or nil if nothing."""
        # The outer getter raised an exception for somebody (pmetal), so it is the last resort.
        inner = self._ask("model")
        if inner and self._runtime.encoding_in(inner, "modelAttributes"):
            return self._engine.send_optional(inner, "modelAttributes")
        return self._ask("modelAttributes")

    def _strides_in(self, tensor: Pointer) -> tuple[Optional[Strides], list[str]]:
        """Return the strides in a tensor's attributes, None if they are not there, and what else
        they say that this program's tensors are not."""
        row, plane, batch = (self._engine.attribute(tensor, name) for name in STRIDES)
        if not (isinstance(row, int) and isinstance(plane, int) and isinstance(batch, int)):
            return None, []
        told, side = Strides(self._config, row, plane, batch), self._config.spatial
        expected = {"Type": "Float16", "Channels": self._config.channels, "Height": side,
                    "Width": side, "Interleave": 1}
        attributes = {name: self._engine.attribute(tensor, name) for name in expected}
        wrong = [f"{name} {value}" for name, value in attributes.items()
                 if type(value) is type(expected[name]) and value != expected[name]]
        if not told.possible:
            wrong += [f"{name} {value}" for name, value in zip(STRIDES, told[1:])]
        return told, wrong

    def _create_surface(self, size: int) -> Pointer:
        """Return a surface of one row of at least so many bytes; the original's, of so many."""
        self._begin("surface")
        engine, number = self._engine, self._runtime.number
        if not engine.original:
            size = -(-size // SURFACE_GRANULE) * SURFACE_GRANULE
        values = map(number, (size, 1, 1, size, size, 0))
        properties = self._runtime.dictionary(list(zip(engine.surface_keys(), values)))
        surface: Pointer = engine.create_surface(properties)
        if not surface:
            raise StageError(self._stage, f"IOSurfaceCreate failed for {size} bytes")
        self._objects.callback(engine.cf_release, surface)
        return surface

    def _create_request(self) -> Pointer:
        runtime = self._runtime
        self._begin("request")
        given, written = (
            runtime.array(self._retained(runtime.create(
                "_ANEIOSurfaceObject", _SURFACE_OBJECT, surface)))
            for surface in (self._input, self._output))
        zero = runtime.number(0)
        indices = runtime.array(zero)
        return self._retained(runtime.create(
            "_ANERequest", _REQUEST, given, indices, written, indices, None, None, zero))

    def write_input(self, data: bytes) -> None:
        """Write the packed fp16 input, [channels][pixels]. Raise ValueError for another size."""
        if len(data) != self._config.tensor_bytes:
            raise ValueError(f"{len(data)} bytes of input; expected {self._config.tensor_bytes}")
        self._begin("surface")
        tensor = self._lie_in.laid_out(data)
        with self._engine.mapped(self._input, len(tensor), self._stage) as surface:
            surface[:] = tensor

    def evaluate(self) -> bool:
        """Compute the output from the input; return whether that worked."""
        self._error.value = None
        return bool(self._evaluate())

    def failure(self) -> str:
        """Return the NSErrors of the last evaluate, and what helps if that is known. Call it
        before the pool drains."""
        error = self._engine.describe_error(self._error)
        return "; ".join(filter(None, (error, advice_for(error))))

    def poison(self, pixels: Sequence[int]) -> None:
        """Write NaN into all channels of these output pixels. A pixel's channels are one stride:
        8 µs."""
        channels = memoryview(UNWRITTEN * self._config.channels).cast("H")
        with self._engine.mapped(self._output, self._lie_out.batch, "surface") as surface:
            halves = surface.cast("H")
            for pixel in pixels:
                halves[self._lie_out.channels_at(pixel)] = channels

    def read_pixels(self, pixels: Sequence[int]) -> list[Vector]:
        """Return the channels of each of these output pixels."""
        shape = struct.Struct(f"<{self._config.channels}e")
        with self._engine.mapped(self._output, self._lie_out.batch, "read",
                                 LOCK_READ_ONLY) as surface:
            halves = surface.cast("H")
            return [shape.unpack(halves[self._lie_out.channels_at(pixel)].tobytes())
                    for pixel in pixels]


# ==================================================================================================
# 9. Statistics
#
# Used below: FEWEST_ROUNDS, Amount, Estimate, estimate, paired_ratio, combined.
# ==================================================================================================

# Evaluates of one round are alike, so a figure is made of the medians of rounds, and its interval
# of how much these differ. "95 %" means that intervals cover the truth in 92.5 to 97.5 % of
# simulated runs of independent rounds (tests/test_statistics.py).

FEWEST_ROUNDS = 5  # for an interval: fewer do not tell how much they differ
CLIPPED = 10  # one value in so many is clipped at either end
MOST_CORRELATION = 0.9  # a few rounds do not tell more


class Amount(NamedTuple):
    """A figure in its unit: the value, its standard error, the degrees of freedom (0 if values are
    too few for an interval)."""

    value: float
    error: float
    freedom: int

    @property
    def interval(self) -> Optional[list[float]]:
        """Return the 95 % interval [low, high], by Student's t; None if it cannot be told."""
        if not self.freedom:
            return None
        quantile = 0.0
        for coefficient in (1.8, 2.55585, 2.82250, 2.37227):  # within 0.003 % from 4 degrees on
            quantile = (quantile + coefficient) / self.freedom
        half = (1.95996 + quantile) * self.error
        return [self.value - half, self.value + half]

    def over(self, other: "Amount") -> "Amount":
        """Return the quotient of two independent amounts that are not zero."""
        value = self.value / other.value
        error = math.hypot(self.error / self.value, other.error / other.value)
        return Amount(value, abs(value) * error, min(self.freedom, other.freedom))


class Estimate(NamedTuple):
    """A positive figure by its logarithm: the centre, its standard error, the degrees of freedom,
    as in Amount."""

    centre: float
    error: float
    freedom: int

    @property
    def value(self) -> float:
        """Return the figure, in the unit of the values it was made of."""
        return math.exp(self.centre)

    @property
    def interval(self) -> Optional[list[float]]:
        """Return the 95 % interval [low, high]; None if it cannot be told."""
        logarithms = Amount(*self).interval
        return list(map(math.exp, logarithms)) if logarithms else None

    def over(self, other: "Estimate") -> "Estimate":
        """Return the quotient of two independent estimates."""
        return Estimate(self.centre - other.centre, math.hypot(self.error, other.error),
                        min(self.freedom, other.freedom))


def estimate(values: Sequence[float]) -> Estimate:
    """Return what the medians of rounds, in their order, tell: the mean of the logarithms.

    The most extreme tenth at either end is clipped to its neighbour (Winsor), which the error takes
    into account (Dixon and Tukey 1968); and the error is widened by the correlation of neighbours,
    as in a first-order autoregression. Raise ValueError for a value that is not positive."""
    logarithms = [math.log(value) for value in values]
    count, cut = len(logarithms), len(logarithms) // CLIPPED
    ordered = sorted(logarithms)
    low, high = ordered[cut], ordered[-1 - cut]
    clipped = [min(max(value, low), high) for value in logarithms]
    centre = statistics.fmean(clipped)
    if count < FEWEST_ROUNDS:
        return Estimate(centre, 0.0, 0)
    deviations = [value - centre for value in clipped]
    squares = sum(map(mul, deviations, deviations))
    # A mean that is taken from the values themselves makes neighbours look less alike by 1 / count.
    correlation = sum(map(mul, deviations, deviations[1:])) / (squares or 1) + 1 / count
    correlation = min(max(correlation, 0.0), MOST_CORRELATION)
    variance = squares * (count - 1) / count * (1 + correlation) / (1 - correlation)
    freedom = count - 2 * cut - 1
    return Estimate(centre, math.sqrt(variance) / freedom, freedom)


def paired_ratio(base: Sequence[float], own: Sequence[float]) -> Estimate:
    """Return how many times faster `own` is than `base`, measured in the same rounds: the quotient
    of their estimates, with the error of the rounds' quotients."""
    quotients = [one / other for one, other in zip(base, own)]
    return estimate(quotients)._replace(centre=estimate(base).centre - estimate(own).centre)


def combined(terms: Sequence[tuple[float, Estimate]]) -> Amount:
    """Return the sum of independent estimates, each times a factor (delta method)."""
    values = [factor * term.value for factor, term in terms]
    errors = [value * term.error for value, (_, term) in zip(values, terms)]
    return Amount(sum(values), math.hypot(*errors), min(term.freedom for _, term in terms))


# ==================================================================================================
# 10. Measurement
#
# Used below: LARGEST_NUMBER, without_paths, made, Settings, ORIGINAL_SETTINGS, REFUSALS,
# SECONDS_PER_WEIGHT, SUSTAINED_S, Engine, Cell, Trial, attempts, each_reason_once, load_program,
# measure_rounds.
# ==================================================================================================

LARGEST_NUMBER = 1e300  # of a JSON file: figures made of larger ones would overflow
SHORTEST_NS, LONGEST_NS = 1e-2, 1e14  # of an evaluate: no machine is outside of them


def without_paths(text: str) -> str:
    """Return a text without the directories that may name a user: of temporary files, this file,
    Python, the home."""
    for path in (foundation_directory(), os.environ.get("TMPDIR", ""),
                 os.path.dirname(globals().get("__file__") or ""),
                 os.path.dirname(sys.executable or ""), os.path.expanduser("~")):
        if len(path) > 1:
            for name in (os.path.realpath(path), path.rstrip(os.sep)):
                # Whole names: /tmp is not in /tmpfs.
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", "…", text)
    return text


JSON_TYPES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number",
              list: "a list", dict: "an object"}


def made(kind: Any, value: Any, path: str = "") -> Any:
    """Return a value of JSON, of a record or a worker's message, as it is used here: texts as one
    printable line. Raise ValueError if it is of another kind; its `path` stands before the error.

    A kind is a type of JSON_TYPES; [kind], a list of such values; {name: kind}, an object with some
    of these members, of which others are left out; or a function that makes the value. Numbers must
    be finite, and not too large to compute with."""
    form = kind if isinstance(kind, type) else type(kind)
    if form not in JSON_TYPES:
        return kind(value)
    if (type(value) is not form and (form, type(value)) != (float, int)
            or form in (int, float) and not abs(value) < LARGEST_NUMBER):
        raise ValueError(f"{path}{value!r:.40}: expected {JSON_TYPES[form]}")
    if isinstance(kind, list):
        return [made(kind[0], item, path) for item in value]
    if isinstance(kind, dict):
        return {name: made(kind[name], value[name], f"{path}{name}: ")
                for name in kind if name in value}
    return printable(value) if form is str else form(value)


def as_samples(value: Any) -> list[list[float]]:
    """Return the times of rounds in ns, one or more of each."""
    rounds: list[list[float]] = made([[float]], value, "samples_ns: ")
    if not all(samples and min(samples) > SHORTEST_NS and max(samples) < LONGEST_NS
               for samples in rounds):
        raise ValueError("samples_ns: expected rounds of times in ns")
    return rounds


class Settings(NamedTuple):
    """How a configuration is measured; in a record, the `protocol`.

    Rounds go on for `seconds` at least; `qos` of evaluates; `seed` of weights, input and pixels;
    `verify` pixels are compared; `form` of the programs, or auto; `original` measures as the
    original does; at most `timeout` seconds pass without progress."""

    seconds: float = 1.0
    qos: int = 21
    seed: int = 0
    verify: int = 8
    form: str = "auto"
    original: bool = False
    timeout: float = 120.0

    def check(self) -> "Settings":
        """Return self; raise UsageError if a setting is invalid."""
        for name, (least, most) in SETTING_RANGES.items():
            value, kind = getattr(self, name), type(Settings._field_defaults[name])
            if type(value) not in (kind, int) or not least <= value <= most:
                raise UsageError(f"{name} {value!r}: expected {JSON_TYPES[kind]} from {least} to "
                                 f"{most}")
        if self.form not in ("auto", *FORMS):
            raise UsageError(f"form {self.form!r}: expected one of {', '.join(('auto', *FORMS))}")
        if not isinstance(self.original, bool):
            raise UsageError(f"original {self.original!r}: expected True or False")
        return self

    @property
    def verifies(self) -> bool:
        """Return whether outputs are compared with the reference."""
        return self.verify > 0 and not self.original


SETTING_RANGES: dict[str, tuple[float, float]] = {
    "seconds": (0, 3600), "qos": (0, (1 << 32) - 1), "seed": (0, LARGEST_SEED), "verify": (0, 4096),
    "timeout": (0.001, 1_000_000)}
ORIGINAL_SETTINGS = Settings(seconds=0, qos=0, verify=0, form="original/1.3", original=True)

# The stages that may refuse a form of a program; then the next is tried.
REFUSALS = ("descriptor", "model", "compile", "load")
NO_FORM = "no form of the program is accepted; send the output of doctor"

# The engine's clock takes up to 0.8 s of work to rise, and falls within 100 ms of idling (facts of
# M4 and M6 by 751K/Apple-Neural-Engine-Microarchitecture-Study-M6): all variants are warmed up in
# turn, in slices, until the medians of their last two slices differ by less than STEADY.
SLICE_S, SHORTEST_WARMUP_S, LONGEST_WARMUP_S, STEADY = 0.125, 0.5, 3.0, 0.005

# A turn holds so many timed evaluates, and takes 25 ms if that lets it: slow noise is seen then.
FEWEST_EVALUATES, MOST_EVALUATES, TURN_S = 5, 500, 0.025
ROUNDS = 12  # of each configuration, or more
ORIGINAL_WARMUP, ORIGINAL_EVALUATES = 10, 50
MOST_SAMPLES = 100_000  # of a cell with more, the medians of rounds are kept

# The time of an evaluate before one was timed, and how much slower than its pace one may be before
# it counts as hung.
DEFAULT_PACE_S, HANG_FACTOR = 0.1, 10

# The most that generating a weight may take in plain Python; or, for one pixel that is checked,
# computing with a weight, or with a pixel of a layer.
SECONDS_PER_WEIGHT = 1e-6

# Rounds of 30 s tell what the machine sustains; if it becomes slower by over 5 %, and surely so, it
# is throttled. How much tenths of the time differ by chance is seen from neighbours among them,
# which a step, a ramp or a decay changes least: four times the median of their nine steps covers
# the difference of two tenths in 94 to 97 % of simulated runs of 600 s, also if noise wanders over
# 10 s, which the correlation of neighbouring rounds does not show.
SUSTAINED_S, THROTTLED, STEPS = 30.0, 0.05, 4


# A way to run programs, and a program that it has compiled and loaded: of either there are two.
Engine = Union[NeuralEngine, ReferenceEngine]
Executable = Union[LoadedModel, ReferenceExecutable]


class Cell:
    """One configuration in one variant: the facts that were measured, and the figures made of them.

    `samples_ns` holds the times of each round in ns, and `rounds_s` when each round began, in
    seconds from the first; if it is `condensed`, only the median of each round. A failed cell has a
    stage and an error, and samples only if it failed after it was timed. Ratio compares it with its
    `baseline`; `apart`: they were measured one after the other."""

    FACTS = {
        "status": str, "stage": str, "error": str, "form": str, "refused": [str],
        "compile_ms": float, "load_ms": float, "first_ms": float, "compiled_before": bool,
        "strides": {"row": int, "plane": int, "batch": int,
                    "output": {"row": int, "plane": int, "batch": int}},
        "samples_ns": as_samples, "rounds_s": [float], "condensed": bool, "apart": bool,
        "verified": {"pixels": int, "arithmetic": str, "equal": float, "cosine": float,
                     "relative_l2": float, "slope": float, "max_error": float, "ok": bool}}

    # What facts are until they are noted, which replaces them.
    status: str = "ok"
    stage: Optional[str] = None
    error: Optional[str] = None
    form: Optional[str] = None
    refused: list[str] = []
    compile_ms: Optional[float] = None
    load_ms: Optional[float] = None
    first_ms: Optional[float] = None
    compiled_before: Optional[bool] = None
    strides: Facts = {}
    samples_ns: list[list[float]] = []
    rounds_s: list[float] = []
    condensed: Optional[bool] = None
    apart: Optional[bool] = None
    verified: Facts = {}

    def __init__(self, config: Config, variant: str, settings: Settings, **facts: Any) -> None:
        self.config, self.variant, self.settings = config, variant, settings
        self.baseline: Optional[Cell] = None
        self.note(**facts)

    def note(self, **facts: Any) -> None:
        """Add facts that are named in FACTS; ignore others. Raise ValueError if one is of another
        kind. Figures are computed from then on: add no samples later."""
        vars(self).update(made(self.FACTS, facts))

    def fail(self, stage: str, error: str) -> None:
        """Make the cell a failed one. Samples that it has stay."""
        self.note(status="failed", stage=stage, error=without_paths(error))

    def facts(self) -> Facts:
        """Return the known facts as JSON: what a worker sends of a cell, and a record holds."""
        facts = {name: getattr(self, name) for name in self.FACTS}
        return {name: value for name, value in facts.items() if value or value == 0}

    @property
    def name(self) -> str:
        """Return the name in messages, such as `W8A8 512x64x128`."""
        return f"{VARIANTS[self.variant].label} {self.config.name}"

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
        return "" if not self.verified else "ok" if self.verified.get("ok") else "WRONG"

    @property
    def weights_mib(self) -> float:
        """Return the MiB of weights, without header and records."""
        return VARIANTS[self.variant].weights_mib(self.config)

    @functools.cached_property
    def medians_ns(self) -> list[float]:
        """Return the median time of each round in ns; of the original's one the mean."""
        middle = statistics.fmean if self.settings.original else statistics.median
        return list(map(middle, self.samples_ns))

    @functools.cached_property
    def estimate(self) -> Optional[Estimate]:
        """Return the time of an evaluate in ns; None without samples."""
        return estimate(self.medians_ns) if self.medians_ns else None

    @functools.cached_property
    def ms(self) -> Facts:
        """Return the figures of the times in ms: value, ci95 if there is an interval, and mean, min
        and p95 unless only medians are known; {} without samples."""
        if not self.estimate:
            return {}
        interval = self.estimate.interval
        figures: Facts = {"value": self.estimate.value / 1e6}
        if interval:
            figures["ci95"] = [end / 1e6 for end in interval]
        if not self.condensed:
            samples = sorted(sample / 1e6 for samples in self.samples_ns for sample in samples)
            figures.update(mean=statistics.fmean(samples), min=samples[0],
                           p95=samples[(19 * len(samples) - 1) // 20])
        return figures

    @property
    def milliseconds(self) -> Optional[float]:
        """Return the time that is shown; None without samples."""
        return self.ms.get("value")

    @property
    def tops(self) -> Optional[float]:
        """Return the rate in 10**12 operations a second; None without samples."""
        return self.config.gop / self.milliseconds if self.milliseconds else None

    @functools.cached_property
    def ratio(self) -> Facts:
        """Return how many times faster than the baseline the cell is: value, and ci95 if there is
        an interval; {} if either cell failed."""
        base = self.baseline
        if (base is None or base is self or not (base.ok and self.ok)
                or not (base.estimate and self.estimate)):
            return {}
        ratio = (base.estimate.over(self.estimate) if self.apart
                 else paired_ratio(base.medians_ns, self.medians_ns))
        return {"value": ratio.value, **({"ci95": ratio.interval} if ratio.interval else {})}

    @functools.cached_property
    def sustained(self) -> Facts:
        """Return what the machine sustained over rounds of 30 s or more, {} if they took less or
        none began in a tenth of that: `seconds`; `tops` of each tenth of the time; `change`, by
        which part the rate of the last tenth of the rounds, 5 or more, differs from that of the
        first; `half` the width of its 95 % interval, from the usual step between tenths; whether
        it is `throttled`."""
        medians, starts, count = self.medians_ns, self.rounds_s, len(self.rounds_s)
        seconds = starts[-1] * count / (count - 1) if count > 1 else 0
        ends = [sum(start < seconds * tenth / 10 for start in starts) for tenth in range(11)]
        if seconds < SUSTAINED_S or len(set(ends)) < len(ends):
            return {}
        tops = [self.config.gop * 1e6 / estimate(medians[start:end]).value
                for start, end in zip(ends, ends[1:])]
        few = max(FEWEST_ROUNDS, count // 10)
        change = estimate(medians[:few]).value / estimate(medians[-few:]).value - 1
        half = STEPS * statistics.median(abs(new / old - 1) for old, new in zip(tops, tops[1:]))
        return {"seconds": seconds, "tops": tops, "change": change, "half": half,
                "throttled": change + half < 0 and change < -THROTTLED}


class Trial:
    """A variant while it is measured: its cell, its loaded program, and what was seen of it.
    `turns`: what the clock read between the timed evaluates of each round, or 0 and their median if
    these are too many; `outputs` of the rounds that are verified, [round][pixel][channel]."""

    executable: Executable  # once it is loaded

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.pace_s = DEFAULT_PACE_S  # of an evaluate, by the latest slice of the warm-up
        self.evaluates = ORIGINAL_EVALUATES  # timed ones of a turn
        self.turns: list[Sequence[float]] = []
        self.outputs: list[list[Vector]] = []

    @contextmanager
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

    def keep(self, readings: Sequence[float]) -> None:
        """Keep what the clock read in a turn. The next turn waits, and the engine's clock falls
        after 100 µs: all that can be is done in the end."""
        self.turns.append(readings)
        if self.evaluates * len(self.turns) > MOST_SAMPLES:
            self.cell.condensed = True
            self.turns[-1] = (0, statistics.median(ticks_between("evaluate", readings)))

    def paces(self, tick_ns: float) -> list[float]:
        """Return the ns of an evaluate in the first round and in the latest."""
        return [(readings[-1] - readings[0]) / (len(readings) - 1) * tick_ns
                for readings in (self.turns[0], self.turns[-1])]

    def note_samples(self, tick_ns: float, rounds_s: Sequence[float]) -> None:
        """Note the times of all rounds, or the median of each if there are too many. Raise
        StageError if they mean nothing."""
        turns = [ticks_between("evaluate", readings) for readings in self.turns]
        if self.cell.condensed:
            turns = [[statistics.median(turn)] for turn in turns]
        self.cell.note(samples_ns=[[round(ticks * tick_ns, 1) for ticks in turn] for turn in turns],
                       rounds_s=[round(start, 4) for start in rounds_s])


def attempts(settings: Settings) -> Sequence[str]:
    """Return the forms of a program to try, in order."""
    return FORMS if settings.form == "auto" else (settings.form,)


def each_reason_once(refused: Sequence[str]) -> str:
    """Return texts such as `standard/1.3: reason` as one text with each reason once, after all its
    forms."""
    forms: dict[str, list[str]] = {}
    for form, _, reason in (text.partition(": ") for text in refused):
        forms.setdefault(reason, []).append(form)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in forms.items())


def load_program(engine: Engine, trial: Trial, forms: Sequence[str], events: Events,
                 owner: ExitStack) -> None:
    """Load a variant's program in the first form that is not refused. Raise StageError naming all
    that were tried."""
    cell, settings = trial.cell, trial.cell.settings
    refused: list[str] = []
    for form in forms:
        events.stage("generate", cell.variant, SECONDS_PER_WEIGHT * cell.config.weights)
        program = build_program(cell.config, cell.variant, seed=settings.seed,
                                original=settings.original, form=form)
        try:
            events.rest(cell.variant)
            trial.executable = engine.load(program, settings.qos, events, owner)
        except StageError as error:
            refused.append(without_paths(f"{form}: {error}"))
            if error.stage == "compile":
                events.refused()
            full = re.search(NO_ROOM, refused[-1])
            if error.stage in REFUSALS and len(refused) < len(forms) and not full:
                continue
            cell.note(refused=refused[:-1])
            text = each_reason_once(refused) if cell.refused else str(error)
            advice = advice_for(text if len(refused) == len(forms) else str(error))
            if settings.original:
                advice = advice.replace("another --form", "it without --original")
            elif settings.form == "auto":  # all were tried, now or before
                advice = advice.replace("try another --form", NO_FORM)
            raise StageError(error.stage, f"{text}; {advice}" if advice else text) from None
        cell.note(form=form, refused=refused, **trial.executable.facts)
        return


def measure_rounds(engine: Engine, trials: Sequence[Trial], pixels: Sequence[int],
                   events: Events) -> None:
    """Warm all loaded programs up, then time them in rounds, in which they take turns in changing
    order, with no computations in between. In two rounds, one that the seed draws and the last,
    `pixels` of the outputs are poisoned after the uncounted evaluate, and read at the end.

    Rounds are 12 or more, a multiple of the variants, so that their order cancels out, and go on
    for the `seconds` of the settings, or until `events.stopping`: then fewer than 12 fail. The
    original has one round. Whether a round is the last is decided when it begins."""
    settings, rounds_s, last = trials[0].cell.settings, list[float](), False
    least = 1 if settings.original else ROUNDS
    drawn = int(random.Random(settings.seed).random() * (least - 1))
    running, started = warmed_up(engine, trials, events), engine.now()
    while running and not last:
        done = len(rounds_s)
        if events.stopping and done < least:
            for trial in running:
                trial.cell.fail("evaluate", f"interrupted after {done} of {least} rounds")
            return
        rounds_s.append((engine.now() - started) * engine.tick_ns / 1e9 if done else 0.0)
        ends_s = 2 * rounds_s[-1] - rounds_s[done - 1]  # if it takes as long as the one before
        last = (done + 1 >= least and (done + 1) % len(running) == 0
                and (events.stopping or ends_s >= settings.seconds))
        limit = HANG_FACTOR * sum(trial.pace_s * (trial.evaluates + 1) for trial in running)
        events.round(",".join(trial.cell.variant for trial in running), limit, done + 1, {
            trial.cell.variant: trial.paces(engine.tick_ns) for trial in running if done})
        turn = done % len(running)
        for trial in running[turn:] + running[:turn]:
            events.turn(trial.cell.variant)
            with trial.guarded(events):
                measure_turn(engine, trial, pixels if last or done == drawn else ())
        running = [trial for trial in running if trial.cell.ok]
    for trial in trials if last else ():
        if len(trial.turns) == len(rounds_s):  # also if its last output could not be read
            with trial.guarded(events):
                trial.note_samples(engine.tick_ns, rounds_s)


def measure_turn(engine: Engine, trial: Trial, pixels: Sequence[int]) -> None:
    """Time one variant in a round: an uncounted evaluate, which takes the switch, then the timed
    ones. Raise StageError if one fails."""
    with engine.pool():
        if not trial.cell.settings.original:
            timed_evaluates(engine, trial, "evaluate", 1)
        if pixels:
            trial.executable.poison(pixels)
        readings = timed_evaluates(engine, trial, "evaluate", trial.evaluates)
    trial.keep(readings)
    if pixels:
        trial.outputs.append(trial.executable.read_pixels(pixels))


def warmed_up(engine: Engine, trials: Sequence[Trial], events: Events) -> list[Trial]:
    """Evaluate uncounted, each variant in turn, until for each the medians of its last two slices
    are alike; then its turns are as long as these tell. The original evaluates 10 times. Return
    those that have not failed."""
    original = trials[0].cell.settings.original
    for trial in trials:  # first by itself: it tells how long all may take
        if trial.cell.ok:
            events.stage("warm-up", trial.cell.variant, HANG_FACTOR * DEFAULT_PACE_S)
            warm_up_slice(engine, trial, ORIGINAL_WARMUP if original else 1, 0, events)
    running = [trial for trial in trials if trial.cell.ok]
    if original or not running:
        return running
    events.stage("warm-up", ",".join(trial.cell.variant for trial in running), LONGEST_WARMUP_S
                 + 2 * HANG_FACTOR * sum(trial.pace_s for trial in running))
    started, elapsed, steady = engine.now(), 0.0, False
    while running and not events.stopping and elapsed < (
            SHORTEST_WARMUP_S if steady else LONGEST_WARMUP_S):
        before = [trial.pace_s for trial in running]
        for trial in running:
            warm_up_slice(engine, trial, 2, SLICE_S, events)
        steady = all(abs(trial.pace_s - pace_s) <= STEADY * trial.pace_s
                     for trial, pace_s in zip(running, before))
        elapsed = (engine.now() - started) * engine.tick_ns / 1e9
        running = [trial for trial in running if trial.cell.ok]
    for trial in running:
        count = math.ceil(TURN_S / trial.pace_s)
        trial.evaluates = min(max(FEWEST_EVALUATES, count), MOST_EVALUATES)
    return running


def warm_up_slice(engine: Engine, trial: Trial, count: int, seconds: float, events: Events) -> None:
    """Evaluate `count` times, and again until some seconds are over; the median is the pace, and
    the first time of all the cell's `first_ms`."""
    ticks: list[float] = []
    until = engine.now() + seconds * 1e9 / engine.tick_ns
    events.turn(trial.cell.variant)
    with trial.guarded(events), engine.pool():
        while not ticks or engine.now() < until:
            ticks += ticks_between("warm-up", timed_evaluates(engine, trial, "warm-up", count))
        trial.pace_s = statistics.median(ticks) * engine.tick_ns / 1e9
        trial.cell.first_ms = trial.cell.first_ms or ticks[0] * engine.tick_ns / 1e6


def timed_evaluates(engine: Engine, trial: Trial, stage: str, count: int) -> list[int]:
    """Evaluate `count` times back to back; return what the clock read before, between and after.
    Raise StageError if an evaluate fails."""
    run_once, now = trial.executable.evaluate, engine.now
    readings = [now()]
    for _ in range(count):
        if not run_once():
            raise StageError(stage, f"evaluate returned NO: {trial.executable.failure()}")
        readings.append(now())
    return readings


def ticks_between(stage: str, readings: Sequence[float]) -> list[float]:
    """Return the ticks between readings of the clock. Raise StageError if it did not move on over
    one of the evaluates."""
    ticks = list(map(sub, readings[1:], readings))
    if min(ticks) <= 0:
        raise StageError(stage, f"the clock moved on by {min(ticks)} ticks over an evaluate, so "
                                "its times mean nothing: try again, or more layers, and if it "
                                "stays so, send the output of doctor")
    return ticks


# ==================================================================================================
# 11. Machine
#
# Used below: chip_of, describe_machine, merged_facts, thermal_state, warnings_about_machine,
# warnings_before, warnings_about_cell, implausible, Finding, Probe, checks, require_engine.
# ==================================================================================================

# Names of sysctlbyname, and the type of those that are not text.
SYSTEM_VALUES: dict[str, tuple[str, Any]] = {
    "chip": ("machdep.cpu.brand_string", None), "model": ("hw.model", None),
    "macos": ("kern.osproductversion", None), "build": ("kern.osversion", None),
    "memory_bytes": ("hw.memsize", ctypes.c_uint64)}
# Class methods of _ANEDeviceInfo, which came with different releases.
DEVICE_VALUES = {"ane_subtype": "aneSubType", "ane_architecture": "aneArchitectureType",
                 "ane_count": "numANEs", "ane_cores": "numANECores"}
THERMAL_STATES = ("nominal", "fair", "serious", "critical")  # NSProcessInfoThermalState
# The framework guesses the cores of a sub-type that it does not know (decompile of macOS 26.1's).
KNOWN_SUBTYPE = re.compile(r"h1[3-8][a-z]?")


class Chip(NamedTuple):
    """The facts of a chip: the least ms ever seen of an evaluate, rated TOPS, whether its
    arithmetic is known, the most layers that its compiler takes."""

    dispatch_ms: float
    rated_tops: float = math.inf
    known_arithmetic: bool = False
    deepest: int = LARGEST_DIMENSION


# Least times of an evaluate from hardware (sbryngelson/ane-guide: M1, M5; 751K's M6 study: M4, M6;
# ANEDVD: A18 Pro), ratings from Apple's announcements (M4: INT8; none for M5, M6 and A18 Pro).
# Arithmetic: 751K's M6 study for M4 and M6, which are identical; cadamcat's
# llms-on-apple-neural-engine for M5, whose 128 layers are within a relative L2 of 0.0001.
# 387 layers crash the compiler of M6 (751K's M6 study).
CHIPS = {"M1": Chip(0.19, 11), "M2": Chip(0.06, 15.8), "M3": Chip(0.06, 18),
         "M4": Chip(0.09, 38, True), "M5": Chip(0.06, known_arithmetic=True),
         "M6": Chip(0.16, known_arithmetic=True, deepest=384), "A18": Chip(0.07)}
UNKNOWN_CHIP = Chip(0.05)

BUSY = 0.5  # load per processor
OVER_RATED = 1.15
DRIFT, SPREAD, WIDE = 0.05, 0.03, 0.05
OUTLIER, MANY_OUTLIERS = 1.5, 0.05
# The framework writes the weights again, and the daemon copies the directory (decompile of 26.1).
FREE_PER_WEIGHT = 5


def chip_of(system: Facts) -> Chip:
    """Return the facts of a machine's chip, such as those of M4 for an `Apple M4 Pro`."""
    words = str(system.get("chip", "")).split()
    return next((CHIPS[word] for word in words if word in CHIPS), UNKNOWN_CHIP)


def describe_machine(engine: Engine) -> Facts:
    """Return the record's facts of this machine, each absent if unknown."""
    facts: Facts = {"python": ".".join(map(str, sys.version_info[:3])), "cpus": os.cpu_count()}
    with suppress(OSError):
        facts["load_average"] = os.getloadavg()[0]
    if isinstance(engine, NeuralEngine):
        libraries = engine.runtime.libraries
        facts.update({name: libraries.system_value(*value)
                      for name, value in SYSTEM_VALUES.items()})
        facts.update({name: reported(engine, "_ANEDeviceInfo", selector)
                      for name, selector in DEVICE_VALUES.items()})
        low_power = reported(engine, "NSProcessInfo", "isLowPowerModeEnabled")
        facts.update(power_source=power_source(engine.runtime), thermal_state=thermal_state(engine),
                     low_power_mode=None if low_power is None else bool(low_power))
        if not KNOWN_SUBTYPE.fullmatch(str(facts["ane_subtype"])):
            del facts["ane_cores"]
    return {name: value for name, value in facts.items() if value not in (None, "")}


def merged_facts(system: Facts, latest: Facts) -> Facts:
    """Return the facts of a run's machine: those that its first worker found, but the latest of
    those that change."""
    facts = dict(latest)
    if "thermal_state" in facts:
        facts["thermal_state_before"] = facts.pop("thermal_state")
    changing = ("power_source", "low_power_mode", "load_average")
    return {**facts, **system, **{name: facts[name] for name in changing if name in facts}}


def reported(engine: NeuralEngine, class_name: str, selector: str) -> Union[str, int, None]:
    """Return text or a number from a class, or from the process's NSProcessInfo; None if this
    macOS lacks it. The method's encoding tells which: to take a number for an object would end the
    process."""
    receiver = engine.runtime.find_class(class_name)
    if class_name == "NSProcessInfo":
        receiver = engine.send_optional(receiver, "processInfo")
    value = engine.send_optional(receiver, selector)
    return engine.runtime.text(value) if isinstance(value, Pointer) else value


def thermal_state(engine: Engine) -> Optional[str]:
    """Return the machine's thermal state; None if it is unknown."""
    if isinstance(engine, NeuralEngine):
        state = reported(engine, "NSProcessInfo", "thermalState")
        if isinstance(state, int) and 0 <= state < len(THERMAL_STATES):
            return THERMAL_STATES[state]
    return None


def power_source(runtime: Runtime) -> Optional[str]:
    """Return `AC Power` or `Battery Power`; None if IOKit does not say."""
    try:
        # CFTypeRef IOPSCopyPowerSourcesInfo(void)
        iokit = functools.partial(runtime.libraries.function, "IOKit")
        snapshot = iokit("IOPSCopyPowerSourcesInfo", Pointer)()
        # CFStringRef IOPSGetProvidingPowerSourceType(CFTypeRef snapshot)
        provider = iokit("IOPSGetProvidingPowerSourceType", Pointer, ctypes.c_void_p)
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


# Warnings. Each is a code and a text: the observation, the likely cause, what to do.

def warnings_about_machine(system: Facts) -> Iterator[tuple[str, str]]:
    """Yield warnings about facts of a machine that may change the figures."""
    if system.get("power_source") == "Battery Power":
        yield "battery", ("the Mac runs on battery, which may slow the engine; connect it to power")
    if system.get("low_power_mode") is True:
        yield "low-power", ("low-power mode is on, which slows the engine; switch it off in System "
                            "Settings, Battery")
    for moment in ("before", "after"):
        state = system.get(f"thermal_state_{moment}", "unknown")
        if state not in ("nominal", "unknown"):
            yield f"heat-{moment}", (
                f"the machine's thermal state was {state} {moment} measuring, and a hot machine "
                "is slow; let it cool, and measure fewer configurations at a time")
    if system.get("load_average", 0) > BUSY * (system.get("cpus") or 1):
        yield "busy", (f"other programs keep this machine busy (load "
                       f"{system['load_average']:.1f}), which makes times longer; close them")


def warnings_before(config: Config, variants: Sequence[str],
                    system: Facts) -> Iterator[tuple[str, str]]:
    """Yield warnings about a configuration that is about to be compiled."""
    deepest = chip_of(system).deepest
    weights_mib = sum(VARIANTS[variant].weights_mib(config) for variant in variants)
    needed = int(FREE_PER_WEIGHT * weights_mib) << 20
    if config.depth > deepest:
        yield "depth", (
            f"{config.name}: over {deepest} layers have crashed the compiler of this chip, and may "
            f"stop the compile service; choose a depth of at most {deepest}")
    with suppress(OSError):
        free = shutil.disk_usage(foundation_directory()).free
        if free < needed:
            yield "room", (
                f"{config.name}: compiling may take {amount(needed)} of temporary files, and "
                f"{amount(free)} are free; free some space, or choose a smaller configuration")


def warnings_about_cell(cell: Cell, system: Facts) -> Iterator[tuple[str, str]]:
    """Yield warnings about a cell that is done, without its name."""
    if cell.refused and cell.form:
        yield "fallback", (f"refused as {each_reason_once(cell.refused)}; accepted as {cell.form}; "
                           f"ask for that at once with --form {cell.form}")
    quantizes = VARIANTS[cell.variant].quantizes and not cell.settings.original
    if cell.samples_ns and quantizes and cell.config.depth == 1:
        yield "one-layer", (
            "a chain of one layer has nothing to quantize between layers, so these are the figures "
            "of w8a16; choose a depth of 2 or more")
    seen = list(noise_in(cell))
    if seen:
        seconds = min(3600, max(4, 4 * cell.settings.seconds))
        longer = f", or measure longer, such as --seconds {seconds:g}"
        yield "noise", (f"times are uncertain: {', '.join(seen)}; other programs, heat or the "
                        "clock, most likely: close what else runs"
                        f"{'' if cell.settings.original else longer}")
    strange = implausible(cell, system)
    if strange:
        yield strange


def noise_in(cell: Cell) -> Iterator[str]:
    """Yield each thing seen in a cell's times that makes its figures less certain."""
    samples = [sample for samples in cell.samples_ns for sample in samples]
    if len(samples) < 3:
        return
    middle, third = statistics.median(samples), len(samples) // 3
    drift = statistics.median(samples[-third:]) / statistics.median(samples[:third]) - 1
    if abs(drift) > DRIFT and not cell.sustained:
        yield f"they changed by {drift:+.0%} from the first third to the last"
    spread = 1.4826 * statistics.median([abs(sample - middle) for sample in samples]) / middle
    if spread > SPREAD:
        yield f"they scatter by {spread:.0%}"
    outliers = sum(sample > OUTLIER * middle for sample in samples)
    if outliers > MANY_OUTLIERS * len(samples):
        yield f"{outliers} of {len(samples)} samples are over {OUTLIER} times the median"
    low, high = cell.ms.get("ci95", (1, 1))
    if (high - low) / 2 > WIDE * cell.ms["value"]:
        yield f"the interval is ±{(high - low) / 2 / cell.ms['value']:.0%}"


def implausible(cell: Cell, system: Facts,
                layer_tops: Optional[float] = None) -> Optional[tuple[str, str]]:
    """Return the warning that an engine of this chip cannot have a cell's figures, or the rate of
    its layer; None if it can.

    The code is `floor` for a time below the chip's least, `rate` for one above its rating. Unknown
    chips have the least floor; without a name of the chip nothing is known to be impossible.
    """
    chip, settings, tops = chip_of(system), cell.settings, layer_tops or cell.tops
    if not (tops and cell.milliseconds and "chip" in system):  # the reference has no chip
        return None
    look = "measure without --original, so that outputs are compared"
    if not settings.original:
        look = f"compare more pixels with --verify {min(4096, max(16, 4 * settings.verify))}"
    rated = chip.rated_tops * (2 if "Ultra" in str(system.get("chip")) else 1)
    # An engine may compute 3x3 convolutions in fewer operations than are counted.
    if cell.config.kernel == 1 and tops > OVER_RATED * rated:
        return "rate", (f"{tops:.1f} TOPS is more than {system.get('chip')} is rated for "
                        f"({rated:g}): evaluate may do less than it should; {look}")
    if cell.milliseconds < chip.dispatch_ms:
        return "floor", (f"{cell.milliseconds:.3f} ms is below the dispatch overhead "
                         f"({chip.dispatch_ms} ms): evaluate may do nothing; {look}")
    return None


# Checks: a run makes those that it needs before it measures, and `doctor` shows them all.

class Finding(NamedTuple):
    """A result of a check: `state` is ok, FAIL, note (a run can do without it) or skip."""

    name: str
    state: str
    value: str
    advice: str = ""


class Probe:
    """What checks look at: libraries and engine, each made when a check first needs it."""

    def __init__(self, standin: Optional[str]) -> None:
        self.libraries = Libraries(standin)

    @functools.cached_property
    def engine(self) -> NeuralEngine:
        """Return the engine. Raise Unavailable if a library, or a function of one, is missing."""
        return NeuralEngine(self.libraries)


class Check(NamedTuple):
    """A check, which may find several things. If it fails and is `needed`, no run is possible; if
    it is `first`, no later check is possible either."""

    name: str
    look: Callable[[Probe], Iterable[Finding]]
    needed: bool = False
    first: bool = False

    def findings(self, probe: Probe) -> list[Finding]:
        """Return the results; a part that is missing is a failure that names it."""
        try:
            pool = probe.engine.pool() if "engine" in vars(probe) else nullcontext()
            with pool:
                return list(self.look(probe))
        except Unavailable as error:
            return [missing(self.name, str(error), needed=True)]


APPLE_SILICON = "use a Mac with Apple silicon"


def checks() -> list[Check]:
    """Return all checks, in the order in which they build on one another."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(method.class_name for method in METHODS):
        groups.setdefault("Foundation" if name.startswith("NS") else name, []).append(name)
    return [
        Check("platform", check_platform, needed=True, first=True),
        Check("machine", check_machine),
        Check("libraries", check_libraries, needed=True, first=True),
        Check("virtual machine", check_virtual_machine, needed=True),
        *(Check(name, functools.partial(check_classes, name, classes), needed=True)
          for name, classes in groups.items()),
        Check("Neural Engine", check_engine, needed=True),
        Check("temporary directory", check_temporary_directory),
        Check("conditions", check_conditions),
    ]


def require_engine(probe: Probe) -> None:
    """Raise Unavailable with the first reason why a run is not possible here."""
    for check in checks():
        for finding in check.findings(probe) if check.needed else ():
            if finding.state == "FAIL":
                part = "" if finding.name == check.name else f"{finding.name} "
                raise Unavailable(f"{part}{finding.value}; {finding.advice}")


def missing(name: str, what: str, needed: bool) -> Finding:
    """Return the finding about something that this macOS lacks."""
    if needed:
        return Finding(name, "FAIL", what, "this macOS is older or newer than this program knows; "
                                           "look for a newer version of either")
    return Finding(name, "note", what, "a run can do without it")


def check_platform(probe: Probe) -> Iterator[Finding]:
    """Check for macOS on Apple silicon, which alone has the engine, or for the stand-in."""
    standin, processor = probe.libraries.standin, os.uname().machine
    if standin:
        try:
            probe.libraries.open("libobjc")
        except Unavailable as error:
            reason = str(error).partition("libobjc ")[2]
            yield Finding("platform", "FAIL", f"the library that {STANDIN_VARIABLE} names {reason}",
                          f"unset {STANDIN_VARIABLE}, or name a library that can be opened")
            return
    elif sys.platform != "darwin":
        yield Finding("platform", "FAIL", f"this is {sys.platform}, and the engine is reached from "
                                          "macOS only", APPLE_SILICON)
        return
    # A Python that Rosetta translates says that it is on an Intel Mac.
    if probe.libraries.system_value("sysctl.proc_translated", ctypes.c_int) == 1:
        own = os.path.basename(__file__)
        yield Finding("platform", "FAIL", "this Python is translated by Rosetta, from where the "
                                          "engine cannot be reached",
                      f"run the arm64 one: arch -arm64 /usr/bin/python3 {own}")
    elif standin or processor == "arm64":
        yield Finding("platform", "ok", f"stand-in library {standin}" if standin else "macOS")
    else:
        yield Finding("platform", "FAIL", f"the processor is {processor}, and only Apple silicon "
                                          "has a Neural Engine", APPLE_SILICON)


def check_machine(probe: Probe) -> Iterator[Finding]:
    """Look up what the record says of the machine. It is there before any framework is."""
    facts = {name: probe.libraries.system_value(*value) for name, value in SYSTEM_VALUES.items()}
    values = [f"{name} {'unknown' if value is None else value}" for name, value in facts.items()]
    values.append(f"Python {'.'.join(map(str, sys.version_info[:3]))}")
    state, advice = ("note", "the record goes without") if None in facts.values() else ("ok", "")
    yield Finding("machine", state, ", ".join(values), advice)


def check_libraries(probe: Probe) -> Iterator[Finding]:
    """Check that the libraries open, and have every C function and constant that a run needs."""
    probe.engine.surface_keys()
    yield Finding("libraries", "ok", "all functions and constants are there")


def check_virtual_machine(probe: Probe) -> Iterator[Finding]:
    """Check that this is not a guest: guests have no engine, and compile has hung in one."""
    guest = probe.libraries.system_value("kern.hv_vmm_present", ctypes.c_int) == 1
    if guest or reported(probe.engine, "_ANEDeviceInfo", "isVirtualMachine"):
        yield Finding("virtual machine", "FAIL", "this is a virtual machine, which has no Neural "
                                                 "Engine", "run it on the Mac itself")
    else:
        yield Finding("virtual machine", "ok", "not one")


def check_classes(name: str, classes: Sequence[str], probe: Probe) -> Iterator[Finding]:
    """Check that classes exist, with methods of the types that our calls are made for: one finding
    for all that are right, and one for each that is not."""
    right, runtime = 0, probe.engine.runtime
    for class_name in classes:
        methods = [method for method in METHODS if method.class_name == class_name]
        kind = runtime.find_class(class_name)
        if not kind:
            yield missing(class_name, f"{runtime.macos_version()} has no class {class_name} (left "
                                      f"out: its methods, {len(methods)})",
                          any(method.needed for method in methods))
            continue
        wrong = [finding for method in methods for finding in check_method(method, kind, runtime)]
        right += len(methods) - len(wrong)
        yield from wrong
    if right:
        count = f"{len(classes)} classes, " if len(classes) > 1 else ""
        yield Finding(name, "ok", f"{count}{right} method{'s' if right > 1 else ''}")


def check_method(method: Method, kind: Pointer, runtime: Runtime) -> Iterator[Finding]:
    """Yield what is wrong with a method of a class; nothing if it is right."""
    find = runtime.encoding_in if method.of_class else runtime.encoding_of
    encoding = find(kind, method.selector)
    if not encoding:
        yield missing(method.name, f"is absent; expected {spoken_kinds(method.kinds)}",
                      method.needed)
    elif not method.matches(encoding):
        result, *arguments = parse_encoding(encoding)
        yield missing(method.name, f"has type {encoding}: "
                                   f"{spoken_kinds([result, *arguments[2:]])}; "
                                   f"expected {spoken_kinds(method.kinds)}", method.needed)


def spoken_kinds(codes: Sequence[str]) -> str:
    """Return the kinds of a result and arguments, such as `BOOL from (pointer)`."""
    return f"{kind_of(codes[0])} from ({', '.join(map(kind_of, codes[1:]))})"


def check_engine(probe: Probe) -> Iterator[Finding]:
    """Check that the framework reports an engine, and look up what it says of it."""
    present = reported(probe.engine, "_ANEDeviceInfo", "hasANE")
    values = ((name, reported(probe.engine, "_ANEDeviceInfo", selector))
              for name, selector in DEVICE_VALUES.items())
    facts = [f"{name.replace('ane_', '')} {value}" for name, value in values if value]
    if present is None:
        yield Finding("Neural Engine", "note", ", ".join([
            "the framework does not say whether there is one", *facts]), "a run will show it")
    elif present:
        yield Finding("Neural Engine", "ok", ", ".join(["present", *facts]))
    else:
        yield Finding("Neural Engine", "FAIL", "the framework says that this Mac has no Neural "
                                               "Engine", APPLE_SILICON)


def check_temporary_directory(probe: Probe) -> Iterator[Finding]:
    """Check that programs can be written to the directory in which the framework looks."""
    path, name = probe.engine.temporary_directory(), "temporary directory"
    aside = os.path.join(path, f"{PROGRAM_NAME}-{os.getpid()}")
    try:
        os.mkdir(aside)
        os.rmdir(aside)
        free = shutil.disk_usage(path).free
    except OSError as error:
        yield Finding(name, "FAIL", f"{path}: {error.strerror}",
                      "check its permissions, and whether that disk is full")
        return
    yield Finding(name, "ok", f"{path}, {amount(free)} free")


def check_conditions(probe: Probe) -> Iterator[Finding]:
    """Look up power, heat and load, with the warnings that a run would give."""
    system = merged_facts({}, describe_machine(probe.engine))
    value = (f"{system.get('power_source', 'power unknown')}, "
             f"thermal state {system.get('thermal_state_before', 'unknown')}, "
             f"load {system.get('load_average', math.nan):.1f}")
    warnings = [message for _, message in warnings_about_machine(system)]
    yield Finding("conditions", "note" if warnings else "ok", value, "; ".join(warnings))


# ==================================================================================================
# 12. Record
#
# Used below: LARGEST_RECORD, Layer, Run, record_text, condensed, unique, read_bounded,
# parse_records, refuse_any, write_file.
# ==================================================================================================

SCHEMA = "ane-bench/2"

# Limits of a record that is read: a day of rounds has fewer values. One with more samples than are
# kept holds the medians of rounds alone.
LARGEST_RECORD, MOST_VALUES, KEPT_SAMPLES = 1 << 27, 12_000_000, 2_000_000


class Layer(NamedTuple):
    """What one layer of a `shape`, such as 256x56k3, costs, told from chains of two `depths`.

    `variants` holds by name {"us", "tops", "fixed_ms"}, the last the cost of an evaluate whatever
    it computes, and beside each its 95 % interval: "ci95", "tops_ci95", "fixed_ci95". A variant
    is absent if its deeper chain is not surely slower, by four fifths of what it seems. `ratio`
    holds {"value", "ci95"} by name.
    """

    shape: str
    depths: tuple[int, int]
    variants: dict[str, Facts]
    ratio: dict[str, Facts]


def layer_of(one: Config, chains: Mapping[int, Mapping[str, Estimate]], baseline: str) -> Layer:
    """Return what the deepest two of its chains tell of a layer, itself given as a chain of one.
    `chains` holds by depth and variant, the baseline first, the time of an evaluate in ns, which is
    taken to be a fixed cost and a time for each layer."""
    shallow, deep = sorted(chains)[-2:]
    step, gop = deep - shallow, 1e3 * one.gop
    layer, times = Layer(one.shape, (shallow, deep), {}, {}), dict[str, Amount]()
    for name, short in chains[shallow].items():
        long = chains[deep].get(name, short)  # without a deeper chain it is not slower
        time = combined([(1e-3 / step, long), (-1e-3 / step, short)])
        fixed = combined([(1e-6 * deep / step, short), (-1e-6 * shallow / step, long)])
        if time.interval and time.interval[0] > 0.8 * time.value:
            layer.variants[name] = {
                "us": time.value, "ci95": time.interval, "tops": gop / time.value,
                "tops_ci95": [gop / end for end in time.interval[::-1]],
                "fixed_ms": fixed.value, "fixed_ci95": fixed.interval}
            times[name] = time
            if baseline in times and name != baseline:
                ratio = times[baseline].over(time)
                layer.ratio[name] = {"value": ratio.value, "ci95": ratio.interval}
    return layer


class Run:
    """A run, going on or read from a record: what was asked, the machine, the cells, the warnings.

    `engine` is ane, reference or stand-in; `system` holds the known facts of the machine. The first
    of the `variants` is the baseline of Ratio. `broken_off` says that the run ended before its end;
    `other_settings` are those of a record's protocol that this version does not know.
    """

    def __init__(self, engine: str, settings: Settings, configs: Sequence[Config],
                 variants: Sequence[str]) -> None:
        self.engine, self.settings = engine, settings
        self.configs, self.variants = list(configs), list(variants)
        self.schema, self.version, self.data = SCHEMA, __version__, DATA_REVISION
        now = datetime.datetime.now(datetime.timezone.utc)
        self.started = now.isoformat(timespec="seconds")
        self.command: list[str] = []
        self.system: Facts = {}
        self.other_settings: Facts = {}
        self.cells: list[Cell] = []
        self.warnings: list[dict[str, str]] = []
        self.broken_off = False

    def warn(self, code: str, message: str) -> None:
        """Add a warning, once: a worker that measures again warns again."""
        warning = {"code": code, "message": without_paths(message)}
        if warning not in self.warnings:
            self.warnings.append(warning)

    def add(self, cells: Sequence[Cell]) -> None:
        """Add the cells of one configuration, one of each variant in their order."""
        for cell in cells:
            cell.baseline = cells[0]
        self.cells += cells

    @property
    def results(self) -> list[tuple[Config, list[Cell]]]:
        """Return the configurations that were measured, each with its cells."""
        return [(config, list(cells)) for config, cells
                in itertools.groupby(self.cells, lambda cell: cell.config)]

    def cell(self, config: Union[Config, str], variant: str) -> Cell:
        """Return the cell of a configuration, such as "512x64x128", in a variant. Raise KeyError
        if there is none."""
        name = getattr(config, "name", config)
        for cell in self.cells:
            if (cell.config.name, cell.variant) == (name, variant):
                return cell
        raise KeyError(f"{variant} at {name}")

    @property
    def ok(self) -> bool:
        """Return whether every cell was measured, and verified if that was asked."""
        return bool(self.cells) and all(cell.ok for cell in self.cells)

    @property
    def complete(self) -> bool:
        """Return whether all that was asked for was measured: not while the run goes on, nor if it
        was broken off."""
        return not self.broken_off and len(self.results) == len(self.configs)

    @property
    def layers(self) -> list[Layer]:
        """Return a layer for each shape that was measured at two depths or more, told from the
        deepest two. W8A8 of one layer quantizes nothing, so it is none of them; the original's
        means tell no layers."""
        layers: dict[Config, dict[int, dict[str, Estimate]]] = {}
        for cell in self.cells if not self.settings.original else ():
            depth, quantizes = cell.config.depth, VARIANTS[cell.variant].quantizes
            if cell.ok and cell.estimate and (depth > 1 or not quantizes):
                chains = layers.setdefault(cell.config._replace(depth=1), {})
                chains.setdefault(depth, {})[cell.variant] = cell.estimate
        return [layer_of(one, chains, self.variants[0]) for one, chains in layers.items()
                if len(chains) > 1]

    def to_dict(self) -> Facts:
        """Return the record, schema ane-bench/2: samples, and the unrounded figures computed from
        them."""
        return {
            **{name: getattr(self, name) for name in PLAIN_FIELDS},
            "protocol": {**self.settings._asdict(), "data": self.data, **self.other_settings},
            "asked": {"configs": [config.name for config in self.configs],
                      "variants": self.variants},
            "complete": self.complete,
            "results": [{
                "config": config.name, "gop": config.gop,
                "variants": {cell.variant: {
                    "weights_mib": cell.weights_mib,
                    **({"ms": cell.ms, "tops": cell.tops} if cell.ms else {}),
                    **cell.facts()} for cell in cells},
                "ratio": {cell.variant: cell.ratio for cell in cells if cell.ratio}}
                for config, cells in self.results],
            "layers": [{"layer": layer.shape, "depths": list(layer.depths),
                        "variants": layer.variants, "ratio": layer.ratio} for layer in self.layers],
            "warnings": self.warnings}

    def save(self, path: Any) -> None:
        """Write the record to a file, in place of one that is there, whole or not at all. Raise
        OutputError if it cannot be written."""
        write_file(path, record_text(self))

    def table(self) -> str:
        """Return the run as the table that the command line prints."""
        return report(self, "table")


def record_text(run: Run) -> str:
    """Return the record as JSON, a round on a line: samples of an hour would take millions."""
    count = sum(len(samples) for cell in run.cells for samples in cell.samples_ns)
    kept = condensed(run) if count > KEPT_SAMPLES else run
    text = json.dumps(kept.to_dict(), indent=1, allow_nan=False)
    return re.sub(r"(?<=[\[,])\n *(?=[-0-9])|(?<=[0-9])\n *(?=])", "", text) + "\n"


def condensed(run: Run) -> Run:
    """Return a run with the medians of its rounds as samples: itself if it holds no others, and if
    it is the original's, which shows their mean."""
    if run.settings.original or all(cell.condensed for cell in run.cells):
        return run
    record = run.to_dict()
    for result in record["results"]:
        for cell in result["variants"].values():
            if "samples_ns" in cell:
                medians = [[statistics.median(samples)] for samples in cell["samples_ns"]]
                cell.update(samples_ns=medians, condensed=True)
    return run_of(record)


def unique(runs: Iterable[Run]) -> list[Run]:
    """Return runs, of those whose records are the same but for what condensing leaves out only
    one."""
    return list({json.dumps(condensed(run).to_dict()): run for run in runs}.values())


# Reading. What is unknown is ignored, and figures are worked out again from the samples.

def as_schema(value: Any) -> str:
    """Make sure of the schema."""
    if value != SCHEMA:
        raise ValueError(f"it has schema {value!r}")
    return SCHEMA


def as_moment(value: Any) -> str:
    """Make sure of an RFC 3339 time in seconds; return it in UTC, as `started` is written, so that
    two of them compare as their texts do."""
    return datetime.datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z").astimezone(
        datetime.timezone.utc).isoformat()


def as_facts(value: Any) -> Facts:
    """Make sure of an object of facts: numbers that can be computed with, or else texts."""
    return {printable(name): fact if isinstance(fact, (int, float)) and abs(fact) < LARGEST_NUMBER
            else printable(str(fact)) for name, fact in made(dict, value).items()}


# What stands in a record as it does in a Run.
PLAIN_FIELDS = {"schema": as_schema, "version": str, "started": as_moment, "engine": str,
                "command": [str], "system": as_facts}
RECORD_KIND = {
    **PLAIN_FIELDS, "protocol": as_facts, "complete": bool,
    "asked": {"configs": [Config.parse], "variants": [str]},
    "results": [{"config": Config.parse, "variants": dict.fromkeys(VARIANTS, Cell.FACTS)}],
    "warnings": [{"code": str, "message": str}]}


def read_record(path: Any) -> Run:
    """Return the run of a saved record. Raise UsageError if the file cannot be read, or is not such
    a record."""
    runs = parse_records(read_bounded(path), str(path))
    if len(runs) > 1:
        raise UsageError(printable(f"{path}: holds {len(runs)} records; expected one"))
    return runs[0]


def read_bounded(path: Any) -> bytes:
    """Return the bytes of a file that may hold records. Raise UsageError if it cannot be read, or
    is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_RECORD + 1)
        if len(data) > LARGEST_RECORD:
            raise ValueError(f"over {LARGEST_RECORD >> 20} MiB, and no record is so large")
        return data
    except (OSError, ValueError) as error:
        raise UsageError(printable(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")) from None


def parse_records(data: bytes, origin: str) -> list[Run]:
    """Return the runs of a record's text, or of a list of records, as `show --format json` prints
    it; `origin` names it in errors. Raise UsageError if it is neither, whatever is wrong."""
    try:
        if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise ValueError("more values than any run has")
        # Python 3.9.6 takes hours for millions of digits; 400 are too many for any number here.
        content = json.loads(data, parse_int=lambda digits: int(digits[:400]))
        return list(map(run_of, content if content and isinstance(content, list) else [content]))
    except Exception as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(printable(
            f"{origin}: expected a record of schema {SCHEMA}, as --save writes it: "
            f"{reason or 'it does not fit into the memory':.200}")) from None


def run_of(record: Any) -> Run:
    """Return the run of a record. Raise KeyError if a field is missing, ValueError if one has the
    wrong type, or contradicts others."""
    fields = made(RECORD_KIND, record)
    protocol, asked, results = fields["protocol"], fields["asked"], fields["results"]
    settings = Settings(**{name: protocol.pop(name) for name in Settings._fields}).check()
    run = Run(fields["engine"], settings, asked["configs"], variants_of(asked["variants"]))
    for name in PLAIN_FIELDS:
        setattr(run, name, fields[name])
    run.data, run.other_settings = made(int, protocol.pop("data")), protocol
    run.broken_off = not fields["complete"]
    run.warnings = [{name: warning[name] for name in ("code", "message")}
                    for warning in fields["warnings"]]
    measured = [result["config"] for result in results]
    refuse_any({
        f"its engine {run.engine!r} is unknown": run.engine not in ("ane", "reference", "stand-in"),
        "its configurations are not those that were asked for":
            not measured or measured != run.configs[:len(measured)]
            or len(set(run.configs)) < len(run.configs),
        "`complete` contradicts its results":
            fields["complete"] and len(measured) < len(run.configs),
        "its variants are not those that were asked for":
            any(result["variants"].keys() != set(run.variants) for result in results)})
    for result in results:
        run.add([cell_of(result["config"], name, settings, result["variants"][name])
                 for name in run.variants])
    return run


def cell_of(config: Config, variant: str, settings: Settings, facts: Facts) -> Cell:
    """Return the cell of some facts. Raise ValueError if one has the wrong type, or contradicts
    others."""
    cell = Cell(config, variant, settings, **facts)
    rounds, lengths = len(cell.samples_ns), set(map(len, cell.samples_ns))
    refuse_any({
        f"{cell.name}: its status, stage and error contradict one another":
            (cell.status, bool(cell.stage), bool(cell.error))
            not in (("ok", False, False), ("failed", True, True)),
        f"{cell.name}: its status contradicts its samples or its check":
            cell.ok and (not rounds or cell.check == "WRONG"),
        f"{cell.name}: its rounds have different numbers of samples, or are condensed and have "
        "several": len(lengths) > 1 or bool(cell.condensed and lengths - {1}),
        f"{cell.name}: `rounds_s` contradicts its rounds":
            len(cell.rounds_s) not in (0, rounds) or cell.rounds_s[:1] not in ([], [0])
            or cell.rounds_s != sorted(cell.rounds_s)})
    return cell


def refuse_any(claims: Mapping[str, bool]) -> None:
    """Raise UsageError with the first of some claims that is true, if one is."""
    for text, is_true in claims.items():
        if is_true:
            raise UsageError(text)


def write_file(path: Any, text: str) -> None:
    """Write a text to a file, whole or not at all: to a file beside it, then renamed. A link stays
    one. Raise OutputError if it cannot be written."""
    try:
        target = os.path.realpath(path)
        if os.path.exists(target) and not os.path.isfile(target):
            raise ValueError("it is not a regular file")  # renaming would replace it by one
        beside = f"{target}.{os.getpid()}.partial"
        try:
            with open(beside, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(beside, target)
        finally:
            with suppress(OSError):
                os.unlink(beside)
    except (OSError, ValueError) as error:
        raise OutputError(printable(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}")) from None


# ==================================================================================================
# 13. Worker
#
# Used below: WORKER_ARGUMENT, STOP_S, TURN_BYTES, Notify, Job, work, standin_library.
# ==================================================================================================

WORKER_ARGUMENT = "--measure-one-configuration"  # private: makes a run of this file a worker
REPORT_EVERY_S = 0.25  # the least time between two reports of rounds
STOP_S = 2.0  # the time for a worker that must end to unload and purge its programs
TURN_BYTES = 16  # of the names of the variants at work, in the file that outlives a crash
# After a refused compile the service restarts for up to 10 to 15 s, and what it compiles meanwhile
# fails or hangs (sbryngelson/ane-guide; ANEForge rests as long). For a stand-in tests say how long.
REST_S = 15.0
REST_VARIABLE = f"{STANDIN_VARIABLE}_REST"

# Takes an event: what a worker sends to its parent, which hands it on to `on_event` (see run).
Notify = Callable[[Facts], None]


class Job(NamedTuple):
    """A configuration for a worker to measure.

    `engine` is that of the run. `forms`: those to try for each variant, in order. Nothing is
    compiled before `rest_until`, of time.monotonic, which all processes share. `apart`: load one
    variant at a time.
    """

    engine: str
    config: Config
    variants: Sequence[str]
    settings: Settings
    forms: Mapping[str, Sequence[str]]
    rest_until: float = 0
    apart: bool = False


class Link:
    """The Events of a worker: it sends each to its parent, as a line of JSON.

    It listens to the parent too: a byte asks for an end after the current round (`stopping`), and
    the end of the pipe says that the parent is gone.
    """

    def __init__(self, sink: int, turn_file: int) -> None:
        self.current, self.stopping = "start", False
        self.rest_until = 0.0  # as in Job
        self._sink, self._turn_file = sink, turn_file
        self._directories: list[str] = []
        self._reported_at = 0.0
        signal.signal(signal.SIGTERM, self._end)
        threading.Thread(target=self._listen, daemon=True).start()

    def _end(self, number: int, frame: Any) -> None:
        """Unwind the main thread when the current call returns: programs are unloaded, purged. What
        that reports must not be taken for the work that was ended."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._sink = self._turn_file = os.open(os.devnull, os.O_WRONLY)
        sys.exit(128 + number)

    def _listen(self) -> None:
        """End the worker if the parent is gone, whatever the worker is doing."""
        while os.read(0, 1):
            self.stopping = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_S)
        for path in self._directories:
            remove_model_directory(path, foundation_directory())
        os._exit(1)

    def send(self, kind: str, **content: Any) -> None:
        """Send an event."""
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        with suppress(BrokenPipeError):  # the parent is gone, as _listen notices
            while line:
                line = line[os.write(self._sink, line):]

    def stage(self, name: str, variant: str, limit: float = 0.0, **more: Any) -> None:
        """Report that a stage begins. It may take `limit` seconds beyond --timeout."""
        self.current = name
        self.turn(variant)
        self.send("stage", stage=name, variant=variant, limit=limit, **more)

    def round(self, variants: str, limit: float, number: int,
              paces: Mapping[str, Sequence[float]]) -> None:
        """Report a round, but not every one: that would disturb the times."""
        now = time.monotonic()
        if number == 1 or now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self.stage("evaluate", variants, limit + REPORT_EVERY_S, number=number, paces=paces)

    def turn(self, variant: str) -> None:
        """Write which variant is at work to a file that outlives a crash; it takes 2 µs."""
        with suppress(OSError):
            os.pwrite(self._turn_file, variant.encode().ljust(TURN_BYTES), 0)

    def directory(self, path: str) -> None:
        """Report a model's directory before it is made: the parent removes it if need be."""
        self._directories.append(path)
        self.send("directory", path=path)

    def warn(self, code: str, message: str) -> None:
        """Report a warning."""
        self.send("warning", code=code, message=message)

    def refused(self) -> None:
        """Report that a compile was refused: the compile service restarts."""
        rest_s = float(os.environ.get(REST_VARIABLE, 0)) if standin_library() else REST_S
        self.rest_until = time.monotonic() + rest_s
        self.send("refused", until=self.rest_until)

    def rest(self, variant: str) -> None:
        """Rest before a compile until the compile service has restarted."""
        seconds = self.rest_until - time.monotonic()
        if seconds > 0:
            self.stage("wait for the compile service", variant, seconds)
            time.sleep(seconds)


def work() -> int:
    """Run as a worker: measure the job that the parent sends, or examine the machine if it sends
    none, and send the results; return the exit code."""
    # The parent answers the terminal's signals; the worker must survive them to clean up.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sink = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not end up among the events
    turn_file, job = json.loads(io.FileIO(0, closefd=False).readline())
    link = Link(sink, turn_file)
    try:
        if job:
            measure_job(link, Job(*job))
        else:
            examine_machine(link)
        link.stage("end", "")
    except Unavailable as error:
        link.send("unavailable", reason=str(error))
    return 0


def standin_library() -> Optional[str]:
    """Return the library that takes the place of Apple's, if the environment names one."""
    return os.environ.get(STANDIN_VARIABLE)


def measure_job(link: Link, job: Job) -> None:
    """Measure one configuration; tuples within the job came as lists. Raise Unavailable if there is
    no usable engine."""
    job = job._replace(config=Config(*job.config), settings=Settings(*job.settings))
    link.rest_until = job.rest_until
    gc.disable()  # a collection would take longer than an evaluate
    with ExitStack() as owner:
        engine = opened_engine(job, owner)
        system = describe_machine(engine)
        link.send("machine", system=system)
        if isinstance(engine, NeuralEngine):
            for warning in warnings_before(job.config, job.variants, system):
                link.warn(*warning)
        for group in [[variant] for variant in job.variants] if job.apart else [job.variants]:
            if not link.stopping:
                measure_group(engine, job, group, chip_of(system).known_arithmetic, link)


def opened_engine(job: Job, owner: ExitStack) -> Engine:
    """Return the engine of a job, awake until the owner closes. Raise Unavailable."""
    if job.engine == "reference":
        return ReferenceEngine()
    probe = Probe(standin_library())
    require_engine(probe)
    engine = NeuralEngine(probe.libraries, job.settings.original)
    owner.enter_context(engine.pool())
    engine.keep_awake(owner)
    return engine


def measure_group(engine: Engine, job: Job, variants: Sequence[str], known: bool,
                  link: Link) -> None:
    """Measure variants that are loaded together, and send the cells before they are unloaded.

    `known`: whether the chip's arithmetic is. The original writes no input and reads no output.
    """
    settings, config = job.settings, job.config
    trials = [Trial(Cell(config, variant, settings)) for variant in variants]
    pixels = chosen_pixels(config, settings.seed, settings.verify) if settings.verifies else ()
    with ExitStack() as owner:
        for trial in trials:
            if job.apart and not settings.original:
                trial.cell.note(apart=True)
            with trial.guarded(link):
                load_program(engine, trial, job.forms[trial.cell.variant], link, owner)
                if not settings.original:
                    trial.executable.write_input(random_input(config, settings.seed))
            if not trial.cell.ok:  # the parent will not try it again if another one crashes
                send_cells(link, engine, [trial])
        measure_rounds(engine, trials, pixels, link)
        send_cells(link, engine, trials)
        if pixels:
            verify_trials(trials, pixels, known, link)
            send_cells(link, engine, trials)


def verify_trials(trials: Sequence[Trial], pixels: Sequence[int], known: bool, link: Link) -> None:
    """Compare pixels of each output with the reference; fail the cells whose outputs differ."""
    first = trials[0].cell
    config, reference = first.config, Reference(first.config, first.settings.seed)
    limit = SECONDS_PER_WEIGHT * (config.weights + config.pixels * config.depth) * len(pixels)
    for trial in trials:
        if not trial.cell.ok:
            continue
        variant = VARIANTS[trial.cell.variant]
        link.stage("verify", variant.name, limit)
        with trial.guarded(link):
            verdict = verify(reference, variant, pixels, trial.outputs, known)
            trial.cell.note(verified=verdict.verified)
            for code, text in verdict.warnings:
                link.warn(code, f"{trial.cell.name}: {text}")
            if verdict.problem:
                raise StageError("verify", verdict.problem)


def send_cells(link: Link, engine: Engine, trials: Sequence[Trial]) -> None:
    """Send the cells as they are now, so that figures survive later failures."""
    state = thermal_state(engine)
    for trial in trials:
        link.send("cell", variant=trial.cell.variant, cell=trial.cell.facts(), thermal_state=state)


def examine_machine(link: Link) -> None:
    """Run the checks of doctor, until one fails that all later ones need."""
    probe = Probe(standin_library())
    for check in checks():
        link.stage(check.name, "")
        for finding in check.findings(probe):
            link.send("check", needed=check.needed, finding=finding._asdict())
            if check.first and finding.state == "FAIL":
                return


# ==================================================================================================
# 14. Parent
#
# Used below: NOT_MEASURED, plan_run, perform_run, DOCTOR_S, REPORT_ADVICE, run_checks,
# check_programs.
# ==================================================================================================

ENGINES = ("ane", "reference")

TICK_S = 0.5  # the longest time between two events
KILL_S = 10.0  # a process that is stuck in the kernel cannot be killed, and must not be waited for
KEPT_BYTES = 1 << 20  # of what a worker writes to standard error
MOST_HANGS = 2
SERVICE_ADVICE = ("the system's compile service may hang for every program now: sudo killall aned "
                  "ANECompilerService, or restart the Mac")
NOT_MEASURED = "not measured, since a compile or load hung"

# What fails if programs cannot be loaded together: a load beyond the machine's residents (KinoVSR
# found room for one large program), or an evaluate that fails or writes nothing.
CROWDED = re.compile(r"\b0x(50004|16)\b|did not write the output")

# Compiling this file takes longer than all else that a worker does before it measures, so workers
# get it compiled, from the file in which they write which variant is at work.
MODULE_CODE = sys._getframe().f_code
RUN_CODE = """import marshal, sys
__file__ = sys.argv.pop()
with open(int(sys.argv.pop()), "rb", closefd=False) as file:
    code = file.read()
if code:
    exec(marshal.loads(code))
else:  # the disk was full
    import runpy
    runpy.run_path(__file__, run_name="__main__")"""


def worker_command(shared: int) -> list[str]:
    """Return the command of a worker, which runs the code in an open file. Raise UsageError if this
    Python cannot start one."""
    if "__file__" not in globals() or not sys.executable:
        raise UsageError(f"{PROGRAM_NAME} measures in processes of its own, for which Python must "
                         f"know its own file and this one: save it as {PROGRAM_NAME}.py, and run "
                         f"python3 {PROGRAM_NAME}.py, or import it")
    checking = ["-X", "dev"] if sys.flags.dev_mode else []
    # -I and -S: neither PYTHON* variables nor modules beside the file nor installed packages change
    # what a worker runs.
    return [sys.executable, "-I", "-S", *checking, *map("-W{}".format, sys.warnoptions),
            "-c", RUN_CODE, WORKER_ARGUMENT, str(shared), os.path.abspath(__file__)]


def shared_file(owner: ExitStack) -> int:
    """Return the descriptor of a nameless file with this module's code, for a worker to inherit; an
    empty one if there is no room for that."""
    with suppress(OSError), ExitStack() as opened:
        file = opened.enter_context(tempfile.TemporaryFile())
        file.write(bytes(TURN_BYTES) + marshal.dumps(MODULE_CODE))
        file.seek(TURN_BYTES)  # which writes all of it
        owner.push(opened.pop_all())  # else it is closed: it may have filled the disk
        return file.fileno()
    return owner.enter_context(open(os.devnull, "r+b")).fileno()


class Worker:
    """A process that measures a job or, without one, examines the machine. Iterate over messages();
    leaving the context ends the process and removes its files.

    `stage` and `at_work`: its last stage and variant. `problem`: why it did not end well, if it did
    not. `hung`: whether a compile or load made no progress. `stopping`: whether Ctrl-C asked it to
    stop after its round. `unpurged`: whether programs of it may still be in the system's cache.
    `rest_until`: as in Job.
    """

    def __init__(self, timeout: float, job: Optional[Job] = None) -> None:
        self.stage, self.at_work, self.problem = "start", "", ""
        self.hung, self.stopping, self.unpurged = False, False, False
        self.rest_until = 0.0
        self._timeout, self._job = timeout, job
        self._measures, self._ending = False, False
        self._sent, self._said = bytearray(), bytearray()  # on standard output and error
        self._directories: list[str] = []

    def __enter__(self) -> "Worker":
        with ExitStack() as owner:
            self._start(owner)
            self._owner = owner.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ending = True
        self._owner.close()

    def _start(self, owner: ExitStack) -> None:
        """Start the process and give it its job."""
        if (threading.current_thread() is threading.main_thread()
                and signal.getsignal(signal.SIGINT) == signal.default_int_handler):
            owner.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGINT, self._interrupt)
        self._shared = shared_file(owner)
        command, pipe = worker_command(self._shared), subprocess.PIPE
        # macOS tells its true version to a Python built with an older SDK (XNU source;
        # python/cpython issue 135675).
        variables = {**os.environ, "SYSTEM_VERSION_COMPAT": "0"}
        variables.pop("__PYVENV_LAUNCHER__", None)  # it would name another Python to the worker
        try:
            process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe,
                                       env=variables, pass_fds=[self._shared])
        except OSError as error:
            self.problem = f"{command[0]}: {error.strerror}"
            return
        streams = filter(None, (process.stdin, process.stdout, process.stderr))
        self._input, output, errors = map(owner.enter_context, streams)
        self._process, self._selector = process, owner.enter_context(selectors.DefaultSelector())
        self._selector.register(output, selectors.EVENT_READ, self._sent)
        self._selector.register(errors, selectors.EVENT_READ, self._said)
        owner.callback(self._end)
        self._write(json.dumps([self._shared, self._job]).encode() + b"\n")

    def _interrupt(self, number: int, frame: Any) -> None:
        """Ask a worker that measures to stop after its round; else, and the second time, end it."""
        again, self.stopping = self.stopping, True
        if self._ending:  # Ctrl-C does not keep it from cleaning up
            return
        if again or not self._measures:
            self._ending = True
            signal.default_int_handler(number, frame)
        self._write(b"\n")

    def _write(self, data: bytes) -> None:
        """Write to the worker. If it is gone, its messages end, which is noticed there."""
        with suppress(BrokenPipeError):
            self._input.write(data)

    def _end(self) -> None:
        """End the process as if its parent were gone: it unloads and purges its programs, if it
        still can. Note what is known of it then, and remove its files."""
        for act, seconds in ((self._input.close, STOP_S), (self._process.kill, KILL_S)):
            act()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        while self._receive(0):
            pass
        for _ in self._read():  # a directory may be named there
            pass
        self.at_work = os.pread(self._shared, TURN_BYTES, 0).decode().strip(" \0")
        self.unpurged &= self.stage != "end" and self._process.returncode != 128 + signal.SIGTERM
        for path in self._directories:
            remove_model_directory(path, foundation_directory())

    def messages(self) -> Iterator[Facts]:
        """Yield its messages, and a tick if none comes for half a second. They end when the worker
        does, or makes no progress within the time limit, which is then its problem."""
        limit, spent = self._timeout, 0.0
        while not self.problem and self._selector.get_map():
            began, step = time.monotonic(), min(TICK_S, limit / 4)
            self._receive(step)
            # Time in which this process slept or was stopped does not count.
            spent += min(time.monotonic() - began, step)
            for message in self._read():
                limit, spent = self._timeout + message.get("limit", 0.0), 0.0
                yield {**message, "stopping": self.stopping}
            if spent >= limit:
                self.hung = self.stage in ("compile", "load")
                self.problem = (f"no progress for {limit:.0f} s, so the worker was killed; if this "
                                "stage needs longer, raise --timeout")
            elif spent:
                yield {"kind": "tick", "stopping": self.stopping}
        self.problem = self.problem or self._bad_end()

    def _receive(self, seconds: float) -> bool:
        """Take what the worker writes within some seconds; return whether anything happened."""
        ready = self._selector.select(seconds)
        for key, _ in ready:
            data = os.read(key.fd, 1 << 16)
            key.data.extend(data)
            if not data:
                self._selector.unregister(key.fd)
        del self._said[:-KEPT_BYTES]
        return bool(ready)

    def _read(self) -> Iterator[Facts]:
        """Yield the messages that came; note what the worker does, and what it may leave behind."""
        while b"\n" in self._sent:
            end = self._sent.index(b"\n") + 1
            message = json.loads(self._sent[:end])
            del self._sent[:end]
            if message["kind"] == "stage":
                self.stage = message["stage"]
                self._measures |= self.stage == "warm-up"
                self.unpurged |= self.stage == "compile"
            elif message["kind"] == "refused":
                self.rest_until = message["until"]
            elif message["kind"] == "directory":
                self._directories.append(message["path"])
            yield message

    def _bad_end(self) -> str:
        """Return how the worker ended, with the last line that it wrote to standard error, or the
        one with the reason of an uncaught exception: a Mac writes the stack below it. Return
        nothing if it ended well."""
        try:
            code = self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            return "the worker did not exit"
        if self.stage == "end" and not code:
            return ""
        how = f"exited with code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        said = self._said.decode(errors="replace").splitlines()
        lines = ["it wrote nothing to standard error; try again, and if it stays so, send the "
                 "output of doctor", *filter(str.strip, said)]
        reasons = [line for line in lines if "reason:" in line]
        return printable(f"the worker {how}: {(reasons or lines)[-1].strip()}")


def run(configs: Any = None, variants: Any = DEFAULT_VARIANTS, *, engine: str = "ane",
        on_event: Optional[Notify] = None, **settings: Any) -> Run:
    """Measure configurations in variants, one worker process for each configuration.

    `configs` are Configs, or texts such as "512x64x128", lists ("128,256x64x32") and layers
    ("256x56k3") among them; None stands for the defaults of the engine ("ane" or "reference").
    `variants` are names in VARIANTS; the first is the baseline of Ratio. Settings have the names of
    the command line: seconds=1.0, qos=21, seed=0, verify=8, form="auto", original=False,
    timeout=120.0.

    `on_event` is called with each event, a dict with its "kind": `wait` (another run holds the lock
    on "path"), `configuration` (one begins: "config", "number", "of"), `machine` ("system": an
    engine was found), `directory` ("path"), `stage` ("stage", "variant", "limit" in seconds beyond
    the timeout, in rounds "number" and "paces"), `refused` (a compile was), `warning` ("code",
    "message"), `cell` ("variant", "cell": the facts of the record, as known by then), `tick` (half
    a second without another event), `unavailable` ("reason"). Those of a worker say whether Ctrl-C
    asked it to end after its round ("stopping").

    A configuration that fails gives failed cells. Raise UsageError for an invalid request and
    Unavailable if there is no usable Neural Engine.
    """
    result = plan_run(configs, variants, engine, settings)
    for _ in perform_run(result, on_event or (lambda message: None)):
        pass
    return result


def plan_run(configs: Any, variants: Any, engine: str, settings: Facts) -> Run:
    """Return the run that is asked for, with nothing measured yet. Raise UsageError if the request
    is invalid."""
    if engine not in ENGINES:
        raise UsageError(f"engine {shown(engine)}: expected one of {', '.join(ENGINES)}")
    chosen = settings_of(settings)
    if chosen.original and engine == "reference":
        raise UsageError("original and the reference engine conflict: the original's programs are "
                         "too large for it")
    name = "stand-in" if engine == "ane" and standin_library() else engine
    return Run(name, chosen, configs_of(configs, engine, chosen.original), variants_of(variants))


def settings_of(given: Facts) -> Settings:
    """Return settings with defaults for those not given, the original's if `original` is. Raise
    UsageError if one is unknown, invalid, or fixed by the original."""
    original = given.get("original") is True
    defaults = ORIGINAL_SETTINGS if original else Settings()
    for name in given:
        if name not in Settings._fields:
            names = ", ".join(Settings._fields)
            raise UsageError(f"unknown setting {name}: expected one of {names}")
        if original and name not in ("original", "seed", "timeout"):
            raise UsageError(f"--{name} cannot be combined with --original (always "
                             f"{getattr(defaults, name)})")
    return defaults._replace(**given).check()


def perform_run(run: Run, notify: Notify) -> Iterator[list[Cell]]:
    """Measure a planned run: yield the cells of each configuration when they and their warnings are
    in the run. Raise Unavailable if the first worker finds no usable engine; KeyboardInterrupt, if
    Ctrl-C ended a configuration early, when its cells were yielded."""
    every = attempts(run.settings)
    forms: dict[str, Sequence[str]] = dict.fromkeys(run.variants, every)
    hangs, rest_until = 0, 0.0
    with nullcontext() if run.engine == "reference" else machine_lock(notify):
        for number, config in enumerate(run.configs, 1):
            cells = {variant: Cell(config, variant, run.settings) for variant in run.variants}
            if hangs < MOST_HANGS:
                notify({"kind": "configuration", "config": config.name, "number": number,
                        "of": len(run.configs)})
                job = Job(run.engine, config, run.variants, run.settings, forms, rest_until,
                          run.settings.original)
                worker = measure_in_workers(run, job, cells, notify)
                hangs, rest_until = hangs + worker.hung, worker.rest_until
                run.broken_off = worker.stopping
            else:
                for cell in cells.values():
                    cell.fail("start", NOT_MEASURED)
            for variant, cell in cells.items():
                forms[variant] = next_forms(cell, every, forms[variant])
            results = list(cells.values())
            if not run.broken_off or any(cell.samples_ns for cell in results):
                run.add(results)
                add_warnings(run, results)
                yield results
            if run.broken_off:
                raise KeyboardInterrupt


def add_warnings(run: Run, cells: Sequence[Cell]) -> None:
    """Add the warnings about a configuration that is done; those about the machine only once."""
    given = {warning["code"] for warning in run.warnings}
    for code, text in warnings_about_machine(run.system):
        if code not in given:
            run.warn(code, text)
    for cell in cells:
        for code, text in warnings_about_cell(cell, run.system):
            run.warn(code, f"{cell.name}: {text}")


def next_forms(cell: Cell, every: Sequence[str], tried: Sequence[str]) -> Sequence[str]:
    """Return the forms to try for the next configuration: first the one that worked; only one if
    all were refused."""
    if cell.form:
        return sorted(every, key=lambda form: form != cell.form)
    all_refused = cell.stage in REFUSALS and len(cell.refused) + 1 == len(tried)
    return tried[:1] if all_refused else tried


def measure_in_workers(run: Run, job: Job, cells: dict[str, Cell], notify: Notify) -> Worker:
    """Measure the cells of a configuration, one worker after the other; return the last.

    If a worker dies, the variant at work has failed; the others are measured again without it,
    unless the compile service hung. Variants that cannot be resident together are all measured
    again, one at a time, once.
    """
    while True:
        worker = run_worker(run, job, cells, notify)
        left = fail_culprits(run, cells, worker)
        if not left and not (job.apart or worker.hung or worker.stopping):
            left = crowded_variants(run, cells)
            job = job._replace(apart=True)
        if not left:
            return worker
        job = job._replace(variants=left, rest_until=worker.rest_until)


def run_worker(run: Run, job: Job, cells: dict[str, Cell], notify: Notify) -> Worker:
    """Run one worker, put what it sends into run and cells, and return it. Raise Unavailable if the
    run's first worker finds no usable engine."""
    worker = Worker(job.settings.timeout, job)
    worker.rest_until = job.rest_until
    try:
        with worker:
            for message in worker.messages():
                kind = message["kind"]
                if kind == "machine":
                    run.system = merged_facts(run.system, message["system"])
                elif kind == "warning":
                    run.warn(message["code"], message["message"])
                elif kind == "cell":
                    cells[message["variant"]] = Cell(job.config, message["variant"], run.settings,
                                                     **message["cell"])
                    if message.get("thermal_state"):
                        run.system["thermal_state_after"] = message["thermal_state"]
                elif kind == "unavailable":
                    worker.problem = message["reason"]
                    if not run.system:
                        raise Unavailable(worker.problem)
                notify(message)
    finally:
        if worker.unpurged and not run.settings.original:
            run.warn("cache", f"{job.config.name}: the worker ended before it could purge its "
                     "compiled programs: they stay in the system's cache and take up disk space "
                     "until they are measured again")
    if worker.hung:
        worker.problem += f"; {SERVICE_ADVICE}"
    return worker


def fail_culprits(run: Run, cells: Mapping[str, Cell], worker: Worker) -> list[str]:
    """Fail the cell that a worker was at when it ended; return the variants to measure again."""
    left = [cell for cell in cells.values() if cell.ok and not (
        cell.samples_ns and (cell.verified or not run.settings.verifies))]
    if worker.problem and not left:
        run.warn("unload", f"after the figures of {few_of([cell.name for cell in cells.values()])} "
                 f"were taken, in stage {worker.stage}: {worker.problem}; if later programs fail "
                 "to load, restart the Mac")
    # Nothing tells which variant it was if the worker was between two.
    culprits = [cell for cell in left if cell.variant == worker.at_work] or left
    for cell in left:
        if worker.problem and cell in culprits:
            cell.fail(worker.stage, worker.problem)
        elif worker.hung or worker.stopping or not worker.problem:
            cell.fail("start", NOT_MEASURED if worker.hung else "interrupted")
    return [cell.variant for cell in left if cell.ok]


def crowded_variants(run: Run, cells: dict[str, Cell]) -> list[str]:
    """Return the variants to measure one at a time, with new cells, if some of them cannot be
    resident together."""
    for cell in cells.values():
        match = CROWDED.search(cell.error or "")
        if match and len(cells) > 1:
            run.warn("apart", f"{cell.name}: failed in stage {cell.stage} ({match[0]}) with all "
                     "variants loaded, for which the engine may lack room: each was measured "
                     "again, alone, and Ratio compares independent runs; close other programs that "
                     "use the Neural Engine, or choose fewer channels or layers")
            cells.update((name, Cell(cell.config, name, run.settings)) for name in cells)
            return list(cells)
    return []


@contextmanager
def machine_lock(notify: Notify) -> Iterator[None]:
    """Hold the lock that keeps runs from disturbing each other's figures, or go on without if none
    is possible. Report if another run holds it."""
    directory = foundation_directory()  # a lock on the directory itself leaves no file behind
    with ExitStack() as owner:
        with suppress(OSError, ImportError):
            import fcntl  # missing on systems that can still read records and write programs

            descriptor = os.open(directory, os.O_RDONLY)
            owner.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                notify({"kind": "wait", "path": directory})
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


# Doctor

DOCTOR_S = 30.0  # the default of its --timeout: a small program takes a second
# One whose rows are as long as their data, and one whose rows are padded.
TEST_CONFIGS = "64x64,7x2"
REPORT_ADVICE = "send this output to the issues of the repository that this file came from"


def run_checks(tell: Callable[[Finding], None], seconds: float) -> bool:
    """Run all checks in a worker, and call `tell` with each result at once. Return whether a
    program can be measured. A check that ends its worker fails."""
    worker, ready = Worker(seconds), True
    with worker:
        for message in worker.messages():
            if message["kind"] == "check":
                finding = Finding(**message["finding"])
                ready = ready and not (message["needed"] and finding.state == "FAIL")
                tell(finding)
    if worker.problem:
        tell(Finding(worker.stage, "FAIL", worker.problem, REPORT_ADVICE))
    if worker.problem or not ready:
        tell(Finding("not reached", "skip",
                     "programs, and what is not named above: a check above must pass first"))
    return ready and not worker.problem


def check_programs(tell: Callable[[Finding], None], seconds: float) -> None:
    """Measure and verify small programs in each default variant; call `tell` with the results."""
    run = plan_run(TEST_CONFIGS, DEFAULT_VARIANTS, "ane", {"seconds": 0, "timeout": seconds})

    def listen(message: Facts) -> None:
        """Tell that another run is waited for."""
        if message["kind"] == "wait":
            tell(Finding("lock", "note", f"another run holds {message['path']}",
                         "waiting for it to end"))

    for cells in perform_run(run, listen):
        tell(program_finding(cells))
    for warning in run.warnings:
        if warning["code"] in ("apart", "cache", "strides"):
            tell(Finding(warning["code"], "note", warning["message"]))


def program_finding(cells: Sequence[Cell]) -> Finding:
    """Return what doctor says of a program: its times, form and strides, or why it failed."""
    name = f"program {cells[0].config.name}"
    # Without advice on options that doctor does not have.
    failures = [f"{VARIANTS[cell.variant].label} {re.sub('; try [^;]*', '', cell.failure)}"
                for cell in cells if not cell.ok]
    if failures:
        return Finding(name, "FAIL", "; ".join(failures), REPORT_ADVICE)
    times = [f"{VARIANTS[cell.variant].label} {cell.milliseconds:.2f} ms" for cell in cells]
    facts = dict.fromkeys(f"{cell.form}, " + ", in the output ".join(
        f"rows of {lies['row']}, planes of {lies['plane']} bytes"
        for lies in (cell.strides, cell.strides.get("output")) if lies) for cell in cells)
    return Finding(name, "ok", ", ".join([*times, "verified", *facts]))


# ==================================================================================================
# 15. Reports
#
# Used below: DEFAULT_COLUMNS, figure, machine_name, machine_names, groups_of, coverage,
# grouped_warnings, Table, clock_time, footnotes, report, rendered, read_records, show, comparison,
# gate.
# ==================================================================================================

DEFAULT_COLUMNS = 80
LONGEST_FACT = 40  # letters of a fact about a machine: a record from elsewhere may hold anything
SAME = 0.02  # what lies within this of 1, with its whole interval, makes no difference


def figure(value: Optional[float], decimals: int, room: int = 9) -> str:
    """Return a figure in at most `room` letters; empty for None. If it would be too long, or read
    0.00, it has three significant digits or fewer, as a power of ten if need be."""
    if value is None:
        return ""
    kinds = [*(f".{digits}f" for digits in range(decimals, -1, -1)), ".3g", ".2g", ".3f", ".1e",
             ".0e"]
    forms = [re.sub("e[+]?(-?)0*", r"e\1", format(value, kind)) for kind in kinds]
    return next((form for form in forms if len(form) <= room and (float(form) or not value)),
                forms[-1])


def half_width(figures: Facts) -> str:
    """Return half of the 95 % interval as a share of its value, such as ±0.4%; empty if there is
    none."""
    if not figures.get("ci95"):
        return ""
    share = (figures["ci95"][1] - figures["ci95"][0]) / 2 / figures["value"]
    return f"±{share:.{0 if share >= 0.0995 else 1}%}" if share < 9.995 else "±>10x"


def ratio_text(ratio: Facts) -> str:
    """Return a ratio as text; empty if it is unknown."""
    return f"{figure(ratio['value'], 2, 4)}x" if ratio else ""


def span(values: Sequence[float], unit: str) -> str:
    """Return from where to where values lie, such as `1.84x to 1.91x`; one if both read alike."""
    ends = (min(values), max(values))
    return " to ".join(dict.fromkeys(f"{figure(end, 2)}{unit}" for end in ends))


# A run in words: its machine, how it measured and how much, what failed, warnings.

def chip_name(run: Run) -> str:
    """Return the chip's name without its maker's, such as `M4 Max`."""
    return str(run.system.get("chip", "unknown chip")).replace("Apple ", "", 1)[:LONGEST_FACT]


def engine_name(run: Run) -> str:
    """Return what computed: the chip, if need be after a stand-in's name, or the reference."""
    reference = "reference engine in plain Python, which says nothing about a Neural Engine"
    return {"ane": chip_name(run), "reference": reference}.get(
        run.engine, f"{run.engine} library, {chip_name(run)}")


def machine_name(run: Run) -> str:
    """Return what measured: engine, model and macOS, such as `M4, Mac16,1, macOS 26.0`."""
    facts = [f"{prefix}{run.system[name]}"[:LONGEST_FACT]
             for name, prefix in (("model", ""), ("macos", "macOS ")) if name in run.system]
    return ", ".join([engine_name(run), *facts])


def machine_names(runs: Sequence[Run]) -> list[str]:
    """Return the machine of each run; where two would be alike, with the date, or with the time."""
    names = [machine_name(run) for run in runs]
    for length in (10, 19):
        names = [f"{machine_name(run)}, {run.started[:length]}" if names.count(name) > 1 else name
                 for run, name in zip(runs, names)]
    return names


def protocol_text(run: Run) -> str:
    """Return how a run measured, such as `1 s, 8 pixels verified, data 2`."""
    settings = run.settings
    if settings.original:
        return f"as the original measures, data {run.data}"
    rare = [f"{name} {value}, " for name, value in settings._asdict().items()
            if name in ("qos", "form") and value != getattr(Settings(), name)]
    return (f"{settings.seconds:g} s, {settings.verify or 'no'} pixels verified, "
            f"{''.join(rare)}data {run.data}")


def groups_of(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Return the runs that measured the same variants alike, each group with how: for how long,
    what was verified, by which engine, version and data. Machines are in order of chip, M2 before
    M10, then of date."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (int("0" + re.sub("[^0-9]", "", chip_name(run))),
                                             chip_name(run), run.started)):
        engine = "" if run.engine == "ane" else f"{run.engine} engine, "
        how = (f"{protocol_text(run)}, {engine}{PROGRAM_NAME} {run.version}, TOPS, "
               f"Ratio to {VARIANTS[run.variants[0]].label}")
        groups.setdefault((how, *run.variants), []).append(run)
    return [(how, group) for (how, *_), group in groups.items()]


def coverage(run: Run) -> str:
    """Return how much of a run that was broken off was measured, such as `2 of 5 configurations`;
    empty for whole runs."""
    return "" if run.complete else f"{len(run.results)} of {len(run.configs)} configurations"


def remarks(run: Run) -> list[str]:
    """Return the remark that must stand wherever the figures of a run that was broken off do."""
    return [] if run.complete else [f"The run was broken off: {coverage(run)}."]


def failures(run: Run) -> list[str]:
    """Return a line for each cell that failed."""
    return [f"{cell.name} {cell.failure}" for cell in run.cells if not cell.ok]


def grouped_warnings(run: Run) -> list[str]:
    """Return a line for each code of warning: the first message, then the names of the other cells
    or configurations with the same, which stand before a colon."""
    groups: dict[str, list[str]] = {}
    for warning in run.warnings:
        groups.setdefault(warning["code"], []).append(warning["message"])
    lines = []
    for code, messages in groups.items():
        _, *others = dict.fromkeys(message.partition(": ")[0] for message in messages)
        also = f" (also {few_of(others)})" if others else ""
        lines.append(f"warning ({code}) {messages[0]}{also}")
    return lines


# Tables. A column is its heading and its width, with the space before it; it has the width 0 if it
# is left out. The first is aligned to the left.

Columns = Sequence[tuple[str, int]]
COLUMNS = (("", 7), ("W(MB)", 6), ("GOP", 7), ("ms/eval", 8), ("±95%", 6), ("TOPS", 8),
           ("Ratio", 6), ("±95%", 6), ("Check", 6))
# Which columns are left out, in turn, if a table would be too wide: with headings that end so.
SPARE = (" Ratio", "±95%", "W(MB)", "GOP", "TOPS")


def fitting(columns: Columns, room: int) -> Columns:
    """Return columns of which so many are left out that the others fit into `room` letters."""
    for spare in SPARE:
        if sum(width for _, width in columns) > room:
            columns = [(heading, 0 if heading.endswith(spare) else width)
                       for heading, width in columns]
    return columns


def headings_of(columns: Columns) -> list[str]:
    """Return the headings of columns."""
    return [heading for heading, _ in columns]


def row_text(columns: Columns, texts: Sequence[str]) -> str:
    """Return a line of a table; a name that is too long for its column has a line of its own."""
    name, width = texts[0], columns[0][1]
    name = f"{name}\n{'':{width}}" if len(name) > width else f"{name:{width}}"
    return (name + "".join(f"{text:>{room}}" for text, (_, room)
                           in zip(texts[1:], columns[1:]) if room)).rstrip()


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    """Return the lines of a table with columns of the least width that fit into `room` letters. If
    need be columns are left out, then names have lines of their own."""
    first, *widths = (max(map(len, texts)) for texts in zip(headings, *rows))
    columns = fitting([(headings[0], first), *(
        (heading, width + 1) for heading, width in zip(headings[1:], widths))], room)
    left = room - sum(width for _, width in columns[1:])
    columns = [(headings[0], max(len(headings[0]), min(first, left))), *columns[1:]]
    lines = [row_text(columns, texts) for texts in (headings, *rows)]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def cell_texts(cell: Cell) -> list[str]:
    """Return a cell's texts: name in the first of its configuration's rows, variant, COLUMNS."""
    return [cell.config.name * (cell.baseline is cell), f"{VARIANTS[cell.variant].label:5}",
            figure(cell.weights_mib, 1, 5), figure(cell.config.gop, 2, 6),
            figure(cell.milliseconds, 3, 7) or "failed", half_width(cell.ms),
            figure(cell.tops, 2, 7), ratio_text(cell.ratio), half_width(cell.ratio), cell.check]


class Table:
    """A run as a table of at most `room` columns from 60 on, and never more than 80. Its parts are
    those that a run prints one by one."""

    def __init__(self, run: Run, room: int = DEFAULT_COLUMNS) -> None:
        self.run, self.room = run, min(room, DEFAULT_COLUMNS)
        longest = max(map(len, ["Config", *(config.name for config in run.configs)]))
        self.columns = fitting([("Config", longest), *COLUMNS], self.room)

    def head(self) -> str:
        """Return title, headings and rule."""
        if self.run.settings.original:
            return original_head(self.run)
        heading = row_text(self.columns, headings_of(self.columns))
        return (f"=== {PROGRAM_NAME} {self.run.version} ({machine_name(self.run)}) ===\n\n"
                f"{heading}\n{'-' * len(heading)}\n")

    def rows(self, cells: Sequence[Cell]) -> str:
        """Return the lines of one configuration, and a blank one. A row that failed says why in the
        line below."""
        lines = list(map(original_row, cells))
        if not self.run.settings.original:
            lines = []
            for cell in cells:
                lines.append(row_text(self.columns, cell_texts(cell)))
                lines += [] if cell.ok else [f"    {cell.failure}"]
        return "\n".join([*lines, "", ""])

    def end(self) -> str:
        """Return the lines below the rows: layers, what was sustained, the answer, footnotes; for
        the original its own last line."""
        run, layers = self.run, []
        if run.settings.original:
            return f"=== {coverage(run) or 'Done'} ===\n"
        if run.layers:
            columns = fitting(layer_columns(run), self.room)
            layers = [row_text(columns, texts)
                      for texts in (headings_of(columns), *layer_rows(run))] + layer_notes(run)
        return rendered([layers, sustained_lines(run), answers(run), footnotes(run)], "table")

    def text(self) -> str:
        """Return the whole table."""
        rows = "".join(self.rows(cells) for _, cells in self.run.results)
        return self.head() + rows + self.end()


# The original's names and table, as its printf writes them.

def original_head(run: Run) -> str:
    """Return the original's title, with the real chip in it, its headings and its rule."""
    subtype = run.system.get("ane_architecture", run.system.get("ane_subtype", "unknown"))
    title = f"=== ANE INT8 W8A8 Benchmark ({engine_name(run)}, {subtype}) ==="
    heading = f"{'Config':<30} {'W(MB)':>7} {'GOP':>7} {'ms/eval':>9} {'TOPS':>7} {'Ratio':>7}"
    return f"{title}\n\n{heading}\n{'-' * 80}\n"


def original_row(cell: Cell) -> str:
    """Return the original's line for a cell, or why it failed."""
    channels, side, depth, _ = cell.config
    label = f"{VARIANTS[cell.variant].label:<4} {depth}x conv {channels}ch {side}x{side}"
    if not cell.samples_ns:
        return f"{label}: {cell.failure}"
    ratio = f"  {cell.ratio['value']:.2f}x" if cell.ratio else ""
    return (f"{label:<30} {cell.weights_mib:6.1f}  {cell.config.gop:6.2f}  "
            f"{cell.milliseconds:7.3f} ms {cell.tops:6.2f}{ratio}")


# Layers, and what the machine sustained.

def layer_columns(run: Run) -> Columns:
    """Return the columns of layers: time and rate in each variant, and the ratio to the first."""
    return [("One layer", 13), *(column for place, name in enumerate(run.variants) for column in (
        (VARIANTS[name].label, 10), ("TOPS", 7), ("Ratio", 6), ("±95%", 6))[:4 if place else 2])]


def layer_rows(run: Run) -> list[list[str]]:
    """Return each layer's texts in these columns: times with four digits, a dash for one that
    cannot be told."""
    rows = []
    for layer in run.layers:
        rows.append([layer.shape])
        for place, name in enumerate(run.variants):
            times, ratio = layer.variants.get(name, {}), layer.ratio.get(name, {})
            rows[-1] += [f"{figure(times['us'], 3, 5)} µs" if times else "–",
                         figure(times.get("tops"), 2, 6), ratio_text(ratio),
                         half_width(ratio)][:4 if place else 2]
    return rows


def layer_notes(run: Run) -> list[str]:
    """Return lines about the fixed cost of an evaluate, as far as there surely is one, and about
    layers whose time cannot be told though nothing failed."""
    costs, notes = [], []
    for name in run.variants:
        fixed = [figures["fixed_ms"] for layer in run.layers
                 for variant, figures in layer.variants.items()
                 if variant == name and figures["fixed_ci95"][0] > 0]
        costs += [f"{span(fixed, '')} ms ({VARIANTS[name].label})"] if fixed else []
    if costs:
        notes.append(f"beside a fixed cost of {' and '.join(costs)} for each evaluate")
    for layer in run.layers:
        cells = [cell for cell in run.cells
                 if cell.config.shape == layer.shape and cell.config.depth in layer.depths]
        told = {*layer.variants, *(cell.variant for cell in cells if not cell.ok)}
        untold = [VARIANTS[name].label for name in run.variants if name not in told]
        if untold:
            notes.append(f"{layer.shape}: the time of a layer in {' and '.join(untold)} cannot be "
                         f"told from {' and '.join(map(str, layer.depths))} layers; "
                         f"{cure_of_layer(run, layer)}")
    return notes


def cure_of_layer(run: Run, layer: Layer) -> str:
    """Return what helps if the time of a layer is not told: larger depths, if there can be any."""
    (shape, kernel, _), more = layer.shape.partition("k3"), sum(layer.depths)
    deeper = f"name larger depths, as in --config {shape}x{more},{4 * more}{kernel}, or "
    return deeper * (4 * more <= chip_of(run.system).deepest) + "measure longer"


def clock_time(seconds: float) -> str:
    """Return minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def sustained_lines(run: Run) -> list[str]:
    """Return what became of the rate of each cell over a long time."""
    lines = []
    for cell in run.cells:
        sustained = cell.sustained
        if sustained:
            lines.append(
                f"{cell.name} over {clock_time(sustained['seconds'])}, TOPS by tenths of the time: "
                f"{' '.join(figure(tops, 1) for tops in sustained['tops'])}; the last is "
                f"{100 * abs(sustained['change']):.1f} % ±{100 * sustained['half']:.1f} % "
                f"{'below' if sustained['change'] < 0 else 'above'} the first"
                f"{': throttled' * sustained['throttled']}")
    return lines


# The answer: a sentence made only of what is right and can be what it says.

def answers(run: Run) -> list[str]:
    """Return what is to be said of a run: the answer, which the original has not, and remarks."""
    return [*([answer(run)] if run.cells and not run.settings.original else []), *remarks(run)]


def answer(run: Run) -> str:
    """Return what a run found, or why nothing can be said: of layers if possible, of the last
    variant that can be compared, else of the fastest."""
    where = f"on this {engine_name(run)}"
    said = [cell for cell in run.cells if not unsaid(run, cell)]
    if not said:
        cell = next((cell for cell in run.cells if cell.error != NOT_MEASURED), run.cells[0])
        doctor = "" if cell.ok else f" See what this Mac has: python3 {PROGRAM_NAME}.py doctor"
        reason = unsaid(run, cell).partition(";")[0]
        return f"Nothing can be said of the speed {where}; {cell.name}: {reason}.{doctor}"
    layers = layers_said(run)
    rows: list[tuple[str, str, Any, Facts]] = [
        (layer.shape, name, figures["tops"], layer.ratio.get(name, {}))
        for layer in layers for name, figures in layer.variants.items()] or [
        (cell.config.name, cell.variant, cell.tops, cell.ratio if cell.baseline in said else {})
        for cell in said]
    best, fastest = max((rate, variant) for _, variant, rate, _ in rows)
    most = f"at most {figure(best, 2, 4)} TOPS"
    # Names sort as VARIANTS do.
    variant = max((variant for _, variant, _, ratio in rows if ratio), default="")
    ratios = {name: ratio for name, own, _, ratio in rows if ratio and own == variant}
    if ratios:
        text = f"{VARIANTS[variant].spoken} {compared(run, ratios, bool(layers), where)}; {most}"
    else:
        text = f"{VARIANTS[fastest].label} reaches {most} {where}"
    used = [cell for cell in said if not ratios or cell.config.name in ratios]
    sentence = f"A layer in {text}." if layers else f"{text}{fixed_cost_hint(run, used)}."
    left = [cell.name for cell in run.cells if cell not in said]
    fell = [f"{cell.name} from {figure(cell.sustained['tops'][0], 1)} to "
            f"{figure(cell.sustained['tops'][-1], 1)} TOPS"
            for cell in run.cells if cell.sustained.get("throttled")]
    return (sentence + f" Left out, as rows or warnings tell: {few_of(left)}." * bool(left)
            + f" Throttled: {few_of(fell)}." * bool(fell))


def unsaid(run: Run, cell: Cell) -> str:
    """Return why a cell must not enter the answer; empty if it may."""
    if not cell.ok:
        return cell.failure
    if cell.config.depth == 1 and VARIANTS[cell.variant].quantizes:
        return "a chain of one layer quantizes nothing, so choose a depth of 2 or more"
    warning = implausible(cell, run.system)
    return warning[1].partition(":")[0] if warning else ""


def layers_said(run: Run) -> list[Layer]:
    """Return the layers if the answer may speak of them: if each cell that is right may enter it
    and has a partner of another depth, from which its layer could be told, at a rate that can
    be."""
    told = {(layer.shape, name): figures["tops"] for layer in run.layers
            for name, figures in layer.variants.items()}
    for cell in run.cells:
        tops = told.get((cell.config.shape, cell.variant))
        if cell.ok and (not tops or unsaid(run, cell) or implausible(cell, run.system, tops)):
            return []
    return run.layers


def compared(run: Run, ratios: Mapping[str, Facts], layers: bool, where: str) -> str:
    """Return what is said of a variant against the baseline, from the ratios of configurations or
    layers by name."""
    base = "in " * layers + VARIANTS[run.variants[0]].label
    values = [ratio["value"] for ratio in ratios.values()]
    lows, highs = zip(*(ratio.get("ci95", (0, math.inf)) for ratio in ratios.values()))
    seen = f"{span(values, 'x')} over {len(values)} {'layers' if layers else 'configurations'}"
    interval = f"95 % interval {span(lows + highs, 'x')} at {few_of(list(ratios))}"
    seen = interval if len(values) == 1 else seen
    if max(lows) > 1 or min(highs) < 1:
        return f"is {statistics.geometric_mean(values):.2f}x as fast as {base} {where} ({seen})"
    if min(lows) > 1 - SAME and max(highs) < 1 + SAME:
        return f"is as fast as {base} {where}: no difference ({seen})"
    return (f"may be faster or slower than {base} {where}, which cannot be told ({interval}): "
            "close other programs, and measure longer, as with --seconds "
            f"{min(3600, max(10, 4 * run.settings.seconds)):g}")


def fixed_cost_hint(run: Run, cells: Sequence[Cell]) -> str:
    """Return what is to be said if the fixed cost of an evaluate is over a fifth of a baseline's
    time that the answer rests on."""
    least, shapes = chip_of(run.system).dispatch_ms, [config.shape for config in run.configs]
    short = [cell.config.shape for cell in cells
             if cell.baseline is cell and cell.ms["value"] < 5 * least]
    cures = (f": ask for layers, such as --config {shape}" for shape in short
             if shapes.count(shape) == 1)
    return f", partly the fixed cost of an evaluate{next(cures, '')}" if short else ""


# Notes below a table.

def footnotes(run: Run) -> list[str]:
    """Return notes: fallbacks in use, no check, published results for this chip."""
    asked = attempts(run.settings)[0]
    notes = [f"Fallback: {VARIANTS[cell.variant].label}, refused as {asked}, measured as "
             f"{cell.form}." for cell in run.cells if cell.form not in (asked, None)]
    notes += [] if run.settings.verifies else ["No output was checked."]
    return [*dict.fromkeys(notes), *published_note(run)]


# What the original printed, by chip: the source, and TOPS in FP16 and W8A8 by configuration.
PUBLISHED: dict[str, tuple[str, dict[str, tuple[float, float]]]] = {
    "M4": ("maderix/ANE README, macOS not stated", {
        "512x64x128": (18.6, 35.1), "512x64x64": (18.4, 34.1)}),
    "M4 Pro": ("public notes that ran the original, Darwin 25.2", {
        "512x64x128": (18.51, 34.90), "512x64x64": (18.15, 34.05), "256x64x256": (16.49, 30.70),
        "256x64x128": (16.02, 29.54), "384x64x128": (18.24, 33.02)}),
    "M5": ("Anemll gist 49e219448ad350ef67ff4bfdcb9ebd8c, macOS not stated", {
        "512x64x128": (18.22, 34.22)}),
    "M5 Max": ("maderix/ANE pull request 50, macOS 26.4.1", {"512x64x128": (19.27, 35.61)}),
    "M2 Max": ("a public notebook that ran the original, macOS 26.4", {
        "512x64x128": (16.31, 16.36), "512x64x64": (16.10, 16.16), "256x64x256": (13.40, 15.64),
        "256x64x128": (13.22, 15.32), "384x64x128": (15.87, 16.08)})}


def published_note(run: Run) -> list[str]:
    """Return the published result for the first configuration that has one; none for other chips,
    and for a stand-in."""
    chip = chip_name(run) if run.engine == "ane" else ""
    source, results = PUBLISHED.get(chip, ("", {}))
    return [f"Published for {chip} at {config.name}: FP16 {results[config.name][0]} and W8A8 "
            f"{results[config.name][1]} TOPS, measured as --original measures ({source})."
            for config, _ in run.results if config.name in results][:1]


def report(run: Run, form: str, room: int = DEFAULT_COLUMNS) -> str:
    """Return a run as `table` of at most `room` columns, `markdown`, `csv` or `json`."""
    if form == "table":
        return Table(run, room).text()
    if form == "json":
        return record_text(run)
    return markdown(run) if form == "markdown" else comma_separated([run])


# Markdown and csv.

LONGEST_COMMENT = 65536  # letters; GitHub's limit
# What GitHub would take for a user, an issue or an address, as methods' types such as
# `B36@0:8I16@20^@28` are. Escaping such signs does not help, a code span does.
CODE = re.compile(r"([-+]\[[^\]`]{1,200}\][^\s`]*|"
                  r"(?<![^\s`])[^\s`]*(?:@|#[0-9]|://|www\.|GH-[0-9])[^\s`]*)")
# A part of a report: a title, a list, or a table's headings and rows.
Part = Union[str, list[str], tuple[list[str], list[list[str]]]]


def rendered(parts: Iterable[Part], form: str, room: int = sys.maxsize) -> str:
    """Return the parts of a report as `markdown`, or else as plain text with tables of at most
    `room` columns. Empty ones are left out."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, tuple):
            lines += markdown_table(*part) if form == "markdown" else aligned(*part, room)
        elif form == "markdown":
            texts, sign = ([part], "**{}**") if isinstance(part, str) else (part, "- {}")
            lines += [sign.format(markdown_escaped(text)) for text in texts]
        else:
            lines += [part] if isinstance(part, str) else part
        lines += [""] if part else []
    return "\n".join(lines)


def markdown_table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a markdown table, in which a bar ends even a code span."""
    lines = []
    for row in (headings, ["---"] * len(headings), *rows):
        texts = [markdown_escaped(text.strip()).replace("|", r"\|") for text in row]
        lines.append(f"| {' | '.join(texts)} |")
    return lines


def markdown_escaped(text: str) -> str:
    """Return text with markdown's signs escaped, and code in code spans."""
    return "".join(f"`{part}`" if place % 2 else re.sub(r"([\\`*_<>\[\]~&#])", r"\\\1", part)
                   for place, part in enumerate(CODE.split(text)))


def markdown(run: Run) -> str:
    """Return a block to paste into an issue: machine, answer, tables, the exact command, notes and
    warnings, the record."""
    command = [f"python3 {shlex.join(run.command)}"] if run.command else []
    parts: list[Part] = [
        f"{PROGRAM_NAME} {run.version}: {machine_name(run)}, {run.started}", answers(run),
        (["Config", *headings_of(COLUMNS)], list(map(cell_texts, run.cells)))]
    if run.layers:
        parts.append((headings_of(layer_columns(run)), layer_rows(run)))
    parts.append([*command, protocol_text(run), *failures(run), *layer_notes(run),
                  *sustained_lines(run), *footnotes(run), *grouped_warnings(run)])
    return with_records(rendered(parts, "markdown"), [run])


def csv_fields(run: Run, cell: Cell) -> Facts:
    """Return a cell's values in csv by the names in its header; unknown ones are None. A text that
    a spreadsheet would compute gets an apostrophe before it."""
    fields = {"config": cell.config.name, "variant": cell.variant, **cell.config._asdict(),
              "weights_mib": cell.weights_mib, "gop": cell.config.gop, "tops": cell.tops}
    for name, figures in (("ms", cell.ms), ("ratio", cell.ratio)):
        low, high = figures.get("ci95", (None, None))
        fields.update({name: figures.get("value"), f"{name}_low": low, f"{name}_high": high})
    fields.update(
        {name: getattr(cell, name) for name in ("compile_ms", "load_ms", "check", "status", "stage",
                                                "error", "form")},
        **{name: run.system.get(name) for name in ("chip", "model", "macos")},
        engine=run.engine, version=run.version, started=run.started, protocol=protocol_text(run))
    return {name: re.sub(r"\A(?=[=+@\t-])", "'", value) if isinstance(value, str) else value
            for name, value in fields.items()}


def comma_separated(runs: Sequence[Run]) -> str:
    """Return csv: a header, and a line for each cell."""
    text = io.StringIO()
    rows = [csv_fields(run, cell) for run in runs for cell in run.cells]
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# A record to send is a block of compressed text, so an issue thread, saved as text, is a set of
# records.

BLOCK = "```ane-bench-record"


def record_block(run: Run) -> str:
    """Return a run's record as a block of text."""
    packed = base64.encodebytes(zlib.compress(json.dumps(run.to_dict()).encode(), 9)).decode()
    name = f"<code>{html.escape(machine_name(run))}</code>"  # as code it mentions no user
    return (f"<details><summary>The record of {name}, for show, compare and chart.</summary>\n\n"
            f"{BLOCK}\n{packed}```\n\n</details>\n")


def with_records(text: str, runs: Sequence[Run]) -> str:
    """Return markdown, and below it the records of runs, with their samples condensed if they do
    not fit into a comment."""
    for kept in (runs, map(condensed, runs)):
        whole = "\n".join([text, *map(record_block, kept)])
        if len(whole) <= LONGEST_COMMENT:
            return whole
    return f"{whole}\n**Too long for a comment: attach this as a file.**\n"


def read_records(path: str, complain: Callable[[str], None]) -> list[Run]:
    """Return the runs in a file: a record, a list of records, or a text with blocks of markdown
    reports, quoted or not. Call `complain` for each damaged block, and leave it out. Raise
    UsageError if there is no record."""
    data, room = read_bounded(path), LARGEST_RECORD
    blocks = re.sub(r"(?m)^[ \t>]+", "", data.decode("utf-8", "replace")).split(BLOCK)[1:]
    if not blocks:
        return parse_records(data, path)
    runs: list[Run] = []
    for number, block in enumerate(blocks, 1):
        try:
            unpacked = unpack("".join(block.split("`")[0].split()), room)
            room -= len(unpacked)
            runs += parse_records(unpacked, "the text in it")
        except (ValueError, zlib.error) as error:
            complain(printable(f"{path}: block {number} of {len(blocks)} is damaged and left out: "
                               f"{error}"))
    if not runs:
        raise UsageError(printable(f"{path}: every record in it is damaged"))
    return runs


def unpack(packed: str, room: int) -> bytes:
    """Return the bytes in a block. Raise ValueError or zlib.error if it is damaged, or larger than
    `room`."""
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(packed, validate=True), room + 1)
    if len(data) > room or not unpacker.eof:
        raise ValueError("it ends too early, or the records in one file have over "
                         f"{LARGEST_RECORD >> 20} MiB")
    return data


# Several records.

def show(runs: Sequence[Run], form: str, room: int = sys.maxsize) -> str:
    """Return saved runs in a format of `run`: one as it was printed, several side by side. A table
    is of at most `room` columns from 60 on."""
    if form == "csv":
        return comma_separated(runs)
    if len(runs) == 1:
        return report(runs[0], form, room)
    if form == "json":
        return f"[{','.join(record_text(run).rstrip() for run in runs)}]\n"
    text = rendered(side_by_side(runs), form, room)
    return with_records(text, runs) if form == "markdown" else text


def side_by_side(runs: Sequence[Run]) -> Iterator[Part]:
    """Yield several runs: for each configuration a table with a row for each machine; then what is
    said of each machine, and notes, each once. Runs that measured differently stand apart."""
    for how, group in groups_of(runs):
        names = machine_names(group)
        for config in dict.fromkeys(cell.config for run in group for cell in run.cells):
            yield f"{config.name}, {how}"
            yield machine_table(names, group, config)
        for shape in dict.fromkeys(layer.shape for run in group for layer in run.layers):
            yield f"One layer of {shape}, {how}"
            yield (["Machine", *headings_of(layer_columns(group[0]))[1:]],
                   [[name, *texts] for name, run in zip(names, group)
                    for own, *texts in layer_rows(run) if own == shape])
        said: dict[str, list[str]] = {}
        for told in (answers, failures, sustained_lines, grouped_warnings):
            for name, run in zip(names, group):
                for text in told(run):
                    said.setdefault(text, []).append(name)
        yield [f"{'; '.join(own)}: {text}" for text, own in said.items()]


def machine_table(names: Sequence[str], runs: Sequence[Run],
                  config: Config) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for a configuration: each machine's rates, ratios and check."""
    base, *others = (VARIANTS[name].label for name in runs[0].variants)
    headings = ["Machine", base, *(heading for label in others
                                   for heading in (label, "Ratio", "±95%")), "Check"]
    rows = []
    for name, run in zip(names, runs):
        cells = dict(run.results).get(config, [])
        texts = [text for cell in cells for text in (
            figure(cell.tops, 2) or "failed", ratio_text(cell.ratio), half_width(cell.ratio))]
        check = min((cell.check for cell in cells if cell.check), default="")  # WRONG before ok
        rows += [[name, texts[0], *texts[3:], check]] if cells else []
    return headings, rows


# Compare.

class Difference(NamedTuple):
    """A cell in two records: how many times faster the new one is, and the 95 % interval of that or
    None. It is that within a run; two runs of one machine may differ by more."""

    base: Cell
    new: Cell
    speed: float
    ci95: Optional[list[float]]

    @property
    def widened(self) -> tuple[float, float]:
        """Return the interval twice as wide on a logarithmic scale, for verdicts: if it excludes 1,
        that is wrong for less than 5 % of equal runs, even if rounds correlate by 0.5."""
        low, high = self.ci95 or (0, math.inf)
        return low * low / self.speed, high * high / self.speed

    @property
    def verdict(self) -> str:
        """Return faster, slower, same or undecided."""
        low, high = self.widened
        same = low > 1 - SAME and high < 1 + SAME
        return "same" if same else "faster" if low > 1 else "slower" if high < 1 else "undecided"


def compare(base: Run, new: Run) -> list[Difference]:
    """Return the differences between two runs, one for each cell that is right in both. Raise
    UsageError if there is none."""
    for side, run in (("BASE", base), ("NEW", new)):
        if not any(cell.ok for cell in run.cells):
            raise UsageError(f"nothing to compare: every cell of {side} failed: "
                             f"{failures(run)[0]}; record {side} again")
    changes = differences(base, new)
    if not changes:
        raise UsageError("nothing to compare: no cell is right in both BASE and NEW; record both "
                         "with the same --config and --variants")
    return changes


def differences(base: Run, new: Run) -> list[Difference]:
    """Return the differences between all cells that are right in both of two runs."""
    others = {cell.name: cell for cell in new.cells if cell.ok}
    changes = []
    for cell in base.cells:
        other = others.get(cell.name)
        if cell.ok and cell.estimate and other and other.estimate:
            quotient = cell.estimate.over(other.estimate)
            changes.append(Difference(cell, other, quotient.value, quotient.interval))
    return changes


def differing(base: Run, new: Run) -> dict[str, str]:
    """Return in what program, machine and protocol of two runs differ, with both values; and all
    settings that this version does not know."""
    one, other = ({
        "engine": run.engine, "version": run.version, "data": run.data,
        "baseline": run.variants[0], **run.system, **run.settings._asdict(),
        **{f"{name} (unknown setting)": value for name, value in run.other_settings.items()}}
        for run in (base, new))
    return {name: f"{one.get(name, 'unknown')!s:.40} / {other.get(name, 'unknown')!s:.40}"
            for name in {**one, **other} if name.endswith("(unknown setting)")
            or one.get(name) != other.get(name)
            and name not in ("thermal_state_before", "thermal_state_after", "load_average")}


def comparison(base: Run, new: Run, form: str, gated: Sequence[Sequence[str]] = ((), ()),
               room: int = sys.maxsize) -> str:
    """Return the comparison of two runs as table (if possible of `room` columns), markdown or json,
    which holds what the gate found, too. Raise UsageError as compare does, except if something
    does not pass the gate."""
    changes = differences(base, new) if gated[0] else compare(base, new)
    head, notes = [], []
    for side, own, other in (("BASE", base, new), ("NEW", new, base)):
        head.append(f"{side:<5} {machine_name(own)}, {own.started}")
        others = {cell.name for cell in other.cells}
        alone = [f"only here: {cell.name}" for cell in own.cells if cell.name not in others]
        notes += [f"{side}: {line}"
                  for line in (*alone, *failures(own), *remarks(own), *grouped_warnings(own))]
    head += [f"{name}: {values}" for name, values in differing(base, new).items()]
    notes.append("Intervals are those within a run; two runs of one machine may differ by more, so "
                 "verdicts take them twice as wide.")
    verdicts = [item.verdict for item in changes]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
    notes += [f"Speed of NEW, by cells: {', '.join(counts)}."] * bool(changes)
    if form == "json":
        cells = [{"config": item.base.config.name, "variant": item.base.variant, **item._asdict(),
                  "verdict": item.verdict, "base": {"ms": item.base.ms, "ratio": item.base.ratio},
                  "new": {"ms": item.new.ms, "ratio": item.new.ratio}} for item in changes]
        record = {"schema": "ane-bench-compare/1", "head": head, "cells": cells, "notes": notes,
                  "failed": gated[0], "undecided": gated[1]}
        return json.dumps(record, indent=1, allow_nan=False) + "\n"
    headings = ["Cell", "BASE ms", "NEW ms", "Speed", "±95%", "Verdict", "BASE Ratio", "NEW Ratio"]
    rows = [[item.base.name, figure(item.base.milliseconds, 3), figure(item.new.milliseconds, 3),
             f"{figure(item.speed, 2, 4)}x",
             half_width({"value": item.speed, "ci95": item.ci95}),
             item.verdict, ratio_text(item.base.ratio), ratio_text(item.new.ratio)]
            for item in changes]
    return rendered([head, (headings, rows), notes], form, room)


# The gate.

def check_gate(base: Run, new: Run) -> None:
    """Raise UsageError, saying what to record instead, if two records allow no verdict."""
    unlike = differing(base, new)
    refuse_any({
        "BASE and NEW are the same record; record NEW after the change":
            len(unique([base, new])) == 1,
        **{f"the records differ in {name} ({unlike.get(name)}); record both on one machine, with "
           "the same options and version": name in unlike
           for name in ("engine", "chip", "model", "data", "qos", "baseline")},
        f"NEW ({new.started}) is older than BASE ({base.started}): swapped?":
            new.started < base.started,
        "both records have no intervals; record them without --original": base.settings.original,
        "the records do not name their chip; record both on one machine that does":
            base.engine != "reference" and "chip" not in base.system,
        "NEW was not verified, and BASE was; record NEW without --verify 0":
            base.settings.verifies and not new.settings.verifies,
        f"BASE is not whole ({coverage(base)}); record it to its end": not base.complete})


def gate(base: Run, new: Run, slower: Optional[float],
         ratio_drops: Optional[float]) -> tuple[list[str], list[str]]:
    """Return the reasons why NEW does not pass, and lines about what is undecided or left out.

    A cell does not pass if it surely takes more than `slower` percent longer, if it is right in
    BASE and not in NEW, or if its ratio is surely lower by more than `ratio_drops` percent. Raise
    UsageError if the records do not tell.
    """
    check_gate(base, new)
    failed, notes, pairs = gated_pairs(base, new)
    missing_ratios = "; ".join([*notes, *failures(base)]) or "record both with a second variant"
    if not failed and not pairs:
        compare(base, new)  # says so if all of BASE failed
        raise UsageError(f"nothing is left to compare: {notes[0]}")
    if not all(item.ci95 for item in pairs):
        raise UsageError("a cell has too few rounds for an interval; record both again")
    for what, limit, changes in (
            ("speed", slower and 1 / (1 + slower / 100), pairs),
            ("ratio", ratio_drops and 1 - ratio_drops / 100, ratio_changes(pairs))):
        if not limit:
            continue
        if not failed and not changes:
            raise UsageError(f"--fail-if-ratio-drops has nothing to compare; {missing_ratios}")
        for item in changes:
            least, most = item.widened
            if most < limit:
                failed.append(f"{item.base.name}: its {what} is {item.speed:.3f}x that of BASE; "
                              f"the limit is {limit:.3f}x")
            elif least < limit:
                notes.append(f"{item.base.name}: undecided: its {what} may be {least:.3f}x that of "
                             f"BASE; the limit is {limit:.3f}x, and more --seconds in both records "
                             "tell more")
    return failed, notes


def gated_pairs(base: Run, new: Run) -> tuple[list[str], list[str], list[Difference]]:
    """Return reasons why NEW does not pass whatever its times, lines about cells that are left out,
    and the differences between all others."""
    notes, pairs, unverified = [], [], "was not verified in NEW, which says that it was"
    reasons = {cell.name: cell.failure or unverified * (new.settings.verifies and not cell.verified)
               for cell in new.cells}
    failed = [f"{cell.name}: {reasons.get(cell.name, 'missing from NEW')}"
              for cell in base.cells if cell.ok and reasons.get(cell.name, "missing")]
    for item in differences(base, new):
        faster = item.new if item.speed > 1 else item.base
        code, text = implausible(faster, new.system) or ("", "")
        if code == "rate":
            notes.append(f"{faster.name}: left out: {text}")
        else:
            pairs.append(item)
    return failed, notes, pairs


def ratio_changes(pairs: Sequence[Difference]) -> list[Difference]:
    """Return how ratios changed, as differences of speed: for cells whose baseline is among these
    pairs, too. The half-widths of both ratios' logarithms are added as squares."""
    changes, bases = [], [item.base for item in pairs]
    for item in pairs:
        old, new = item.base.ratio, item.new.ratio
        if old and item.base.baseline in bases:
            change = new["value"] / old["value"]
            width = math.exp(math.hypot(*(math.log(ratio["ci95"][1] / ratio["value"])
                                          for ratio in (old, new))))
            changes.append(item._replace(speed=change, ci95=[change / width, change * width]))
    return changes


# ==================================================================================================
# 16. Chart
#
# Used below: chart.
# ==================================================================================================

# Sizes in pixels.
CHART_WIDTH, MARGIN, SPACE = 800, 20, 12
FONT, HEADING_FONT, TITLE_FONT = 14, 16, 18
LINE, LANE, PADDING = 18, 15, 2  # heights: of a text, of a variant, above and below in a row
WIDEST_NAME, RATIO_WIDTH, COLUMN, SHORT_PANEL = 260, 140, 70, 500
INK, QUIET, RULE, GROUND = "#1f2430", "#4a5261", "#d5d9e0", "#ffffff"
MOST_STEPS = 5  # of an axis
FARTHEST = 1.5  # how far beyond the largest figure an interval may lengthen an axis
LONGEST_TEXT = 300  # letters: a record's texts may be of any length
# Upper bounds of letters' widths in font sizes, those of DejaVu Sans, a wide font; 1 for others.
LETTER_WIDTHS = {"[ fijlrt.,:;/()-]": 0.42, "[a-eghkn-qsuvx-z0-9]": 0.65, "[A-LN-VX-Z]": 0.8,
                 "[^ -~]": 1.75}
CHART_KEY = "lines: 95% intervals · hollow: wrong output"
ONE_LAYER = "One layer, without the fixed cost of an evaluate"


class Lane(NamedTuple):
    """A variant within a row: TOPS and ratio, each followed by the ends of its interval if it has
    one, and why it failed. If it has TOPS nevertheless, its output was wrong."""

    variant: Variant
    rate: list[float]
    ratio: list[float]
    failure: str


Row = tuple[str, list[Lane]]  # the name, then a lane for each variant


class Axis(NamedTuple):
    """A horizontal axis: its title, its ends in pixels, its ticks from 0 on."""

    title: str
    left: float
    right: float
    ticks: list[float]

    def place(self, value: float) -> float:
        """Return the x of a value, that of an end for values beyond it."""
        return self.left + (self.right - self.left) * min(max(value / self.ticks[-1], 0), 1)


def text_width(text: str) -> float:
    """Return an upper bound of a text's width in font sizes."""
    return len(text) + sum((width - 1) * len(re.findall(letters, text))
                           for letters, width in LETTER_WIDTHS.items())


def wrapped(text: str, width: float) -> list[str]:
    """Return a text in lines of at most `width` font sizes; words that are longer are cut."""
    lines = [""]
    for word in text[:LONGEST_TEXT].split():
        word = word if text_width(word) <= width else f"{word[:int(width / 1.75) - 1]}…"
        longer = f"{lines[-1]} {word}".lstrip()
        lines[-1:] = [longer] if text_width(longer) <= width else [lines[-1], word]
    return lines


def axis_of(title: str, left: float, right: float, figures: Sequence[Sequence[float]]) -> Axis:
    """Return an axis that holds figures, and of their intervals what is not far away."""
    high = min(max(map(max, figures)), FARTHEST * max(value for value, *_ in figures))
    least = high / MOST_STEPS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= least)
    ticks = [step * number for number in range(math.ceil(high / step - 0.001) + 1)]
    return Axis(title, left, right, ticks)


def with_ends(figures: Optional[Facts], value: str = "value", ends: str = "ci95") -> list[float]:
    """Return a figure and the ends of its interval if it has one; [] if there is no figure."""
    return [figures[value], *(figures.get(ends) or ())] if figures else []


def cell_lane(cell: Cell) -> Lane:
    """Return the lane of a cell."""
    ends = [cell.config.gop / end for end in cell.ms.get("ci95", ())]
    rate = [cell.tops, *ends] if cell.tops and (cell.ok or cell.check == "WRONG") else []
    return Lane(VARIANTS[cell.variant], rate, with_ends(cell.ratio), cell.failure[:LONGEST_TEXT])


def layer_lane(layer: Layer, variant: str) -> Lane:
    """Return the lane of a variant of a layer."""
    rate = with_ends(layer.variants.get(variant), "tops", "tops_ci95")
    return Lane(VARIANTS[variant], rate, with_ends(layer.ratio.get(variant)),
                "" if rate else "has no time that can be told")


def sections_of(runs: Sequence[Run], alone: bool) -> dict[str, list[Row]]:
    """Return rows by their headings: of a run that is alone its configurations, then its layers; of
    others a heading for each of these, and a row for each machine."""
    named = list(zip(machine_names(runs), runs))
    entries = [("", config.name, machine, list(map(cell_lane, cells)))
               for machine, run in named for config, cells in run.results]
    entries += [(ONE_LAYER, layer.shape, machine,
                 [layer_lane(layer, name) for name in run.variants])
                for machine, run in named for layer in run.layers]
    sections: dict[str, list[Row]] = {}
    for kind, name, machine, lanes in entries:
        heading = kind if alone else f"{name}: {kind}".rstrip(": ")
        sections.setdefault(heading, []).append((name if alone else machine, lanes))
    return sections


def marks(variant: Variant, tip: str, hollow: bool, y: float,
          places: Sequence[Sequence[float]]) -> str:
    """Return a variant's marks, each at the first x of a place; a line joins the others."""
    shapes, fill = [], GROUND if hollow else variant.color
    for x, *ends in places:
        corners = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in variant.mark)
        shapes += [f'<path d="M{ends[0]:.1f},{y:.1f}H{ends[1]:.1f}"/>'] if ends else []
        shapes.append(f'<polygon points="{corners}"/>')
    return (f'<g stroke="{variant.color}" stroke-width="2" fill="{fill}">'
            f'<title>{html.escape(printable(tip))}</title>{"".join(shapes)}</g>')


class Chart:
    """SVG elements from the top down, all of them texts and plain shapes; `y` is where they end.
    The rows of a panel have their marks from `left` to `right`, along `axes`."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.y: float = MARGIN - SPACE

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = FONT,
             color: str = INK) -> None:
        """Write a text whose middle is at y."""
        self.elements.append(
            f'<text x="{x:.1f}" y="{y + 0.36 * size:.1f}" text-anchor="{anchor}" '
            f'font-size="{size}" fill="{color}">{html.escape(printable(text))}</text>')

    def paragraph(self, text: str, size: int = FONT, color: str = INK) -> None:
        """Write a text below a space, in as many lines as it takes."""
        self.y += SPACE
        for line in wrapped(text, (CHART_WIDTH - 2 * MARGIN) / size):
            self.text(MARGIN, self.y + 0.65 * size, line, "start", size, color)
            self.y += 1.3 * size

    def legend(self, runs: Sequence[Run]) -> None:
        """Explain the marks."""
        x, y = MARGIN + SPACE / 2, self.y + SPACE
        for name, variant in VARIANTS.items():
            if any(name in run.variants for run in runs):
                self.elements.append(marks(variant, variant.spoken, False, y, [[x]]))
                self.text(x + SPACE, y, variant.label)
                x += 3 * SPACE + FONT * text_width(variant.label)
        self.text(x, y, CHART_KEY, color=QUIET)
        self.y += LINE

    def panel(self, runs: Sequence[Run], alone: bool) -> None:
        """Draw the rows of runs that can be compared, beside axes that they share; if they are
        many, the ticks stand below them, too."""
        self.y += SPACE / 2
        sections, top = sections_of(runs, alone), self.y
        self.frame([row for rows in sections.values() for row in rows], runs)
        for axis in self.axes:
            self.text(axis.left, top + LINE / 2, axis.title, color=QUIET)
            self.y = top + LINE
        self.ticks()
        for heading, rows in sections.items():
            if heading:
                self.paragraph(heading, HEADING_FONT)
            start, edges = len(self.elements), [self.y]
            for name, lanes in rows:
                self.row(name, lanes, f"{heading}, {name}".lstrip(", "))
                edges.append(self.y)
            self.elements[start:start] = self.grid(edges)
        if self.y - top > SHORT_PANEL:
            self.ticks()

    def frame(self, rows: Sequence[Row], runs: Sequence[Run]) -> None:
        """Divide the width among names, axes and ratios as texts."""
        lanes = [lane for _, lanes in rows for lane in lanes]
        rates = [lane.rate for lane in lanes if lane.rate]
        ratios = [lane.ratio for lane in lanes if lane.ratio]
        widest = FONT * max((text_width(name) for name, _ in rows), default=0)
        self.left = MARGIN + min(WIDEST_NAME, widest) + 2 * SPACE
        self.right = CHART_WIDTH - MARGIN - (COLUMN if ratios else SPACE)
        split = self.right - RATIO_WIDTH
        self.axes = [axis_of("TOPS, more is better", self.left, split - 3 * SPACE if ratios else
                             self.right, rates)] if rates else []
        if ratios:
            self.axes.append(axis_of(f"Ratio to {VARIANTS[runs[0].variants[0]].label}", split,
                                     self.right, [[1], *ratios]))

    def ticks(self) -> None:
        """Write the values of ticks that have room."""
        y = self.y + LINE / 2
        for axis in self.axes:
            free = 0.0
            for tick in axis.ticks:
                x, half = axis.place(tick), FONT * text_width(f"{tick:g}") / 2
                if x - half > free:
                    self.text(x, y, f"{tick:g}", "middle", color=QUIET)
                    free = x + half
        self.y += LINE

    def grid(self, edges: Sequence[float]) -> list[str]:
        """Return lines between rows and at ticks, heavier ones at 0 TOPS and at a ratio of 1."""
        rows = "".join(f"M{MARGIN},{y:.1f}H{CHART_WIDTH - MARGIN}" for y in edges)
        span = f",{edges[0]:.1f}V{edges[-1]:.1f}"
        ticks = "".join(f"M{axis.place(tick):.1f}{span}" for axis in self.axes
                        for tick in axis.ticks)
        bases = "".join(f"M{axis.place(base):.1f}{span}" for base, axis in enumerate(self.axes))
        return [f'<path d="{rows}{ticks}" stroke="{RULE}"/>',
                f'<path d="{bases}" stroke="{QUIET}"/>']

    def row(self, name: str, lanes: Sequence[Lane], about: str) -> None:
        """Draw a row: its name, and its lanes one below the other."""
        lines = wrapped(name, WIDEST_NAME / FONT)
        height = max(LANE * len(lanes), LINE * len(lines)) + 2 * PADDING
        middle = self.y + height / 2
        for number, line in enumerate(lines):
            self.text(MARGIN, middle + LINE * (number + 0.5 - len(lines) / 2), line)
        for number, lane in enumerate(lanes):
            self.lane(lane, middle + LANE * (number + 0.5 - len(lanes) / 2), about)
        self.y += height

    def lane(self, lane: Lane, y: float, about: str) -> None:
        """Draw marks and intervals and write the ratio, or write why there are none."""
        if lane.rate:
            places = [[axis.place(value) for value in values]
                      for axis, values in zip(self.axes, (lane.rate, lane.ratio)) if values]
            tip = f"{lane.variant.label} {about}: {figure(lane.rate[0], 2)} TOPS"
            for ratio in lane.ratio[:1]:
                tip += f", {figure(ratio, 2)}x"
                self.text(CHART_WIDTH - MARGIN, y, f"{figure(ratio, 2, 4)}x", "end")
            self.elements.append(marks(lane.variant, f"{tip} {lane.failure}".rstrip(),
                                       bool(lane.failure), y, places))
            return
        words, *more = wrapped(f"{lane.variant.label} {lane.failure}",
                               (self.right - self.left) / FONT - 1)
        words += "…" * bool(more)
        self.elements.append(
            f"<g><title>{html.escape(printable(lane.failure))}</title>"
            f'<rect x="{self.left:.1f}" y="{y - LANE / 2:.1f}" height="{LANE}" '
            f'width="{FONT * text_width(words):.1f}" fill="{GROUND}"/>')
        self.text(self.left, y, words)
        self.elements.append("</g>")

    def svg(self, title: str) -> str:
        """Return the whole drawing as the text of a file."""
        height = f"{self.y + MARGIN:.0f}"
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{CHART_WIDTH}" height="{height}" '
            f'viewBox="0 0 {CHART_WIDTH} {height}" role="img" '
            'font-family="Helvetica, Arial, sans-serif">',
            f"<title>{html.escape(printable(title))}</title>",
            f'<rect width="{CHART_WIDTH}" height="{height}" fill="{GROUND}"/>', *self.elements,
            "</svg>", ""])


def chart(runs: Sequence[Run]) -> str:
    """Return the SVG of runs: TOPS and ratios to the baseline with their 95 % intervals, a row for
    each configuration of one run, or for each machine below each configuration of several."""
    drawing, alone = Chart(), len(runs) == 1
    title = f"Throughput of convolutions: {machine_name(runs[0]) if alone else f'{len(runs)} runs'}"
    drawing.paragraph(title, TITLE_FONT)
    drawing.legend(runs)
    for words, alike in groups_of(runs):
        drawing.y += SPACE
        gaps = [f"{name}: {coverage(run)}" for name, run in zip(machine_names(alike), alike)
                if coverage(run)]
        drawing.paragraph(" · ".join([words, *gaps]), FONT, QUIET)
        drawing.panel(alike, alone)
    return drawing.svg(title)


# ==================================================================================================
# 17. Command line
# ==================================================================================================

FORMATS = ("table", "markdown", "csv", "json")
WITHOUT_ENGINE = ("Without one, --engine reference runs small programs in plain Python; emit, "
                  "show, compare and chart work anywhere.")
REPORT_IT = (f"If this Mac has one, please send the output of python3 {PROGRAM_NAME}.py doctor to "
             "the issues of the repository that this file came from.")
PLAIN_S = 10.0  # the least time between two lines of progress that are not live


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, and whose help is this file's docstring."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message)

    def format_help(self) -> str:
        """Return the manual, or its part about one command: usage, options and exit codes."""
        command = self.prog.split()[-1]
        sections = re.split(r"\n\n(?=\S)", str(__doc__).strip())
        usage = re.findall(rf"(?m)^ +python3 {PROGRAM_NAME}\.py \[?{command}\b.*", str(__doc__))
        own = [section for section in sections
               if re.match(rf"(Options of .*\b{command}\b|Exit codes)", section)]
        return "\n\n".join(["\n".join(usage), *own] if usage else sections) + "\n"

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version with write_stdout, which finds at once if it cannot."""
        write_stdout(message)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: verbs and their options."""
    parser = Parser(prog=PROGRAM_NAME, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{PROGRAM_NAME} {__version__}")
    subparsers = parser.add_subparsers(dest="command")
    parsers = {verb: subparsers.add_parser(verb, allow_abbrev=False) for verb in VERBS}

    def add(verbs: str, *names: str, **settings: Any) -> None:
        """Add arguments, all with the same settings, to some verbs."""
        for verb in verbs.split():
            for name in names:
                parsers[verb].add_argument(name, **settings)

    add("run emit", "--config", action="append", dest="configs")
    add("run emit", "--variants", default=DEFAULT_VARIANTS)
    add("run emit", "--original", action="store_true", default=None)
    add("run emit", "--seed", type=int)
    add("run emit", "--form")
    add("emit", "directory", metavar="DIR")
    add("run", "--verify", "--qos", type=int)
    add("run", "--seconds", type=float)
    add("run", "--engine", "--save")
    add("run", "--quiet", action="store_true")
    add("run", "--timeout", type=float)
    add("doctor", "--timeout", type=float, default=DOCTOR_S)
    add("run show", "--format", choices=FORMATS, default="table")
    add("doctor compare", "--format", choices=("table", "markdown", "json"), default="table")
    add("show compare chart", "records", nargs="+", metavar="RECORD")
    add("compare", "--fail-if-slower", "--fail-if-ratio-drops", type=float)
    add("chart", "-o", dest="output")
    return parser


def run_asked(options: argparse.Namespace) -> Run:
    """Return the run that the options ask for. Raise UsageError if it is invalid."""
    if options.original and options.engine:
        raise UsageError("--engine cannot be combined with --original")
    settings = {name: value for name, value in vars(options).items()
                if name in Settings._fields and value is not None}
    return plan_run(options.configs, options.variants, options.engine or "ane", settings)


def write_stdout(text: str, form: str = "table") -> None:
    """Print to standard output; of the formats, only the table is fitted into a terminal. Raise
    OutputError if that fails, without a text if the reader went away."""
    try:
        write_stream(sys.stdout, fit_terminal(text, sys.stdout) if form == "table" else text)
    except BrokenPipeError:
        raise OutputError from None
    except Exception as error:  # of a host's own stream
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"standard output: cannot be written: {reason}") from None


def print_error(text: str) -> None:
    """Print a line to standard error; errors are ignored: there is nowhere to report them."""
    with suppress(Exception):
        write_stream(sys.stderr, fit_terminal(f"{PROGRAM_NAME}: {text}\n", sys.stderr))


def write_stream(stream: Optional[TextIO], text: str) -> None:
    """Print a text at once, with `?` for letters that the stream's encoding lacks."""
    if stream is None:
        raise ValueError("it is closed")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="", file=stream, flush=True)


def terminal_columns(stream: Optional[TextIO]) -> int:
    """Return how many columns a terminal has; without end if the stream does not lead to one."""
    with suppress(Exception):  # of a host's own stream
        if stream and stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    return sys.maxsize


def fit_terminal(text: str, stream: Optional[TextIO]) -> str:
    """Return text whose lines fit the terminal; as it is for other streams."""
    columns = terminal_columns(stream)
    return "\n".join(line if len(line) <= columns else textwrap.fill(
        line, columns, subsequent_indent="    ", break_on_hyphens=False)
        for line in text.split("\n"))


class Progress:
    """Show how far a run is, once it has found its engine: on a terminal by a live line, renewed
    with every event; elsewhere by a line every ten seconds."""

    def __init__(self, run: Run, stream: Optional[TextIO],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._stream, self._clock = run, stream, clock
        self._live = terminal_columns(stream) < sys.maxsize and os.environ.get("TERM") != "dumb"
        self._printed, self._began, self._config_began = -math.inf, 0.0, 0.0
        self._number, self._step, self._stopping = 0, "start", False
        self._paces: dict[str, Sequence[float]] = {}

    def __call__(self, event: Facts) -> None:
        now, self._stopping = self._clock(), event.get("stopping", False)
        if event["kind"] == "wait":
            print_error("waiting for another run on this machine to end (it holds the lock on "
                        f"{event['path']})")
        elif event["kind"] == "configuration":
            self._began = self._began if self._number else now
            self._number, self._step, self._config_began = event["number"], "start", now
        elif event["kind"] == "stage":
            self._step = (f"round {event['number']}" if "number" in event
                          else f"{event['variant'].upper()} {event['stage']}".strip())
            self._paces = event.get("paces", {})
        if self._run.system and (self._live or now - self._printed >= PLAIN_S):
            self._printed = now
            with suppress(Exception):
                line = self.line(now)
                write_stream(self._stream, f"\r\x1b[K{line}" if self._live else f"{line}\n")

    def line(self, now: float) -> str:
        """Return the line: as many of its parts, from the first, as the terminal has room for."""
        config, left = self._run.configs[self._number - 1], self._left(now)
        parts = [f"[{self._number}/{len(self._run.configs)}] {config.name}", self._step,
                 clock_time(now - self._began)] + ["Ctrl-C again loses it"] * self._stopping
        parts += [f"about {clock_time(left)} left"] if left >= 1 else []
        if self._run.settings.seconds >= SUSTAINED_S:
            parts += [f"{name.upper()} {figure(1e6 * config.gop / last, 1)} TOPS, first "
                      f"{figure(1e6 * config.gop / first, 1)}"
                      for name, (first, last) in reversed(self._paces.items())]
        while len(", ".join(parts)) >= terminal_columns(self._stream):
            parts.pop()
        return ", ".join(parts)

    def _effort(self, configs: Sequence[Config]) -> float:
        """Return about how many seconds an M4 takes for configurations: for starting, compiling,
        warming up and checking two seconds and what grows with the work, and for the rounds."""
        return sum(2 + self._run.settings.seconds + config.gop / 50 for config in configs)

    def _left(self, now: float) -> float:
        """Return about how many seconds are left. What is done tells how fast the machine is."""
        configs, done = self._run.configs, self._number - 1
        spent = self._config_began - self._began
        factor = spent / self._effort(configs[:done]) if done else 1.0
        own, others = (factor * self._effort(part)
                       for part in (configs[done:self._number], configs[self._number:]))
        return max(0.0, own - (now - self._config_began)) + others

    def clear(self) -> None:
        """Clear the live line."""
        with suppress(Exception):
            if self._live:
                write_stream(self._stream, "\r\x1b[K")


class Output:
    """What `run` writes while it goes on: the record, if it is to be saved, and the table, row by
    row. If the one cannot be written, the other still is; `unsaved` and `closed` say so."""

    def __init__(self, run: Run, options: argparse.Namespace) -> None:
        self._run, self._form, self.path = run, options.format, options.save
        self._table = Table(run, terminal_columns(sys.stdout))
        self.unsaved: Optional[bool] = None  # until it was tried
        self._printed, self.closed = 0, False

    def update(self) -> None:
        """Save the run, and print the rows that have not been printed."""
        if self.path is not None:
            if self.unsaved is None and os.path.lexists(self.path):  # since it was checked
                self.path = free_name(self.path)
                print_error(f"the record is in {printable(self.path)}: the other name was taken")
            self._save()
        for _, cells in self._run.results[self._printed:]:
            if self._form == "table":
                self._print(("" if self._printed else self._table.head()) + self._table.rows(cells))
            self._printed += 1

    def finish(self) -> None:
        """Print the rest, below a table or as a whole report."""
        self._print(self._table.end() if self._form == "table" else report(self._run, self._form))

    def _save(self) -> None:
        try:
            self._run.save(self.path)
            self.unsaved = False
        except OutputError as error:  # the rest is still measured
            self.unsaved = True
            print_error(str(error))

    def _print(self, text: str) -> None:
        try:
            if not self.closed:
                write_stdout(text, self._form)
        except OutputError as error:
            if self.path is None:
                raise
            self.closed = True
            print_error(f"{str(error) or 'nobody reads the output any more'}; nothing more is "
                        "printed")


def run_verb(options: argparse.Namespace) -> int:
    """Run the comparison: save and print each configuration as soon as it is measured."""
    run = run_asked(options)
    run.command = options.words
    if options.save is not None:
        check_save(options.save)
    progress = Progress(run, None if options.quiet else sys.stderr)
    output = Output(run, options)
    try:
        for _ in perform_run(run, progress):
            progress.clear()
            output.update()
    except KeyboardInterrupt:
        run.broken_off = True
    finally:
        progress.clear()
    if run.cells:
        if run.broken_off:
            output.update()  # with what was not yet written when Ctrl-C came
        output.finish()
    if not options.quiet:
        print_warnings(run)
    lost = output.unsaved or output.closed
    if run.broken_off:
        place = "were measured" if lost or not output.path else f"are in {printable(output.path)}"
        return interrupted(f": {coverage(run)} {place}" if run.cells else "")
    return 0 if run.ok and not lost else 1


def interrupted(result: str = "") -> int:
    """Print the last line of a command that Ctrl-C ended, and return its exit code."""
    print_error(f"interrupted{result}")
    return 128 + signal.SIGINT


def print_warnings(run: Run) -> None:
    """Print the warnings of a run, and the notes that have no place in the original's table."""
    for line in [*(footnotes(run) if run.settings.original else ()), *grouped_warnings(run)]:
        print_error(line)


def check_suffix(path: str, suffix: str, writer: str) -> None:
    """Raise UsageError if a file's name does not end as the format does that `writer` writes."""
    stem, own = os.path.splitext(path)
    if own.lower() != f".{suffix}":
        raise UsageError(f"{writer} writes {suffix}; name one such as {stem or 'm4'}.{suffix}")


def check_save(path: str) -> None:
    """Raise UsageError if no new record can be saved under this name."""
    check_suffix(path, "json", "--save")
    if os.path.lexists(path):
        raise UsageError(f"--save {path}: the file exists; name a new one, such as "
                         f"{free_name(path)}")
    try:
        tempfile.TemporaryFile(dir=os.path.dirname(path) or os.curdir).close()
    except OSError as error:
        raise UsageError(f"--save {path}: cannot be written: {error.strerror}") from None


def free_name(path: str) -> str:
    """Return the first of m4-2.json, m4-3.json, … that does not exist, for m4.json."""
    stem, suffix = os.path.splitext(path)
    names = (f"{stem}-{number}{suffix}" for number in itertools.count(2))
    return next(name for name in names if not os.path.lexists(name))


def doctor_verb(options: argparse.Namespace) -> int:
    """Run all checks, and print each result with what to do if it is a failure."""
    findings: list[Finding] = []
    seconds = Settings(timeout=options.timeout).check().timeout

    def tell(finding: Finding) -> None:
        """Keep a result, and print it at once if it is to be read, not sent."""
        if options.format == "table":
            write_stdout(doctor_line(finding))
        else:  # made to be sent
            finding = finding._replace(value=without_paths(finding.value))
        findings.append(finding)

    if run_checks(tell, seconds):
        print_error(f"measuring two small programs, up to {seconds:.0f} s for each stage, as soon "
                    "as no other run measures")
        check_programs(tell, seconds)
    write_stdout(doctor_report(findings, options.format), options.format)
    return 3 if any(finding.state == "FAIL" for finding in findings) else 0


def doctor_line(finding: Finding) -> str:
    """Return the line of a check's result."""
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{finding.state:<5} {finding.name}: {finding.value}{advice}\n"


def doctor_report(findings: Sequence[Finding], form: str) -> str:
    """Return the whole of what `doctor` found; as a table, what stands below its lines."""
    failed = [finding for finding in findings if finding.state == "FAIL"]
    result = f"{len(failed)} of {len(findings)} checks failed" if failed else "all checks passed"
    if form == "json":
        content = {"schema": "ane-bench-doctor/1", "version": __version__, "ok": not failed,
                   "checks": [finding._asdict() for finding in findings]}
        return json.dumps(content, indent=1) + "\n"
    if form == "markdown":
        rows = [list(finding) for finding in findings]
        return rendered([f"{PROGRAM_NAME} {__version__} doctor: {result}",
                         (["Check", "State", "Found", "What to do"], rows)], form)
    ask = f"If this Mac has a Neural Engine, please {REPORT_ADVICE}.\n"
    return (f"\n{result}\n" + "".join(map(doctor_line, failed))
            + (ask if sys.platform == "darwin" else ""))


def emit_verb(options: argparse.Namespace) -> int:
    """Write each program's two files below a directory."""
    run = run_asked(options)
    form = FORMS[0] if run.settings.form == "auto" else run.settings.form
    for config in run.configs:
        for variant in run.variants:
            program = build_program(config, variant, seed=run.settings.seed,
                                    original=run.settings.original, form=form)
            path = os.path.join(options.directory, f"{config.name}-{variant}")
            try:
                program.write(path)
            except OSError as error:
                raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
            write_stdout(f"{path}\n")
    return 0


def records_of(paths: Sequence[str]) -> list[Run]:
    """Return the runs of all records in some files; name damaged ones on standard error."""
    return [run for path in paths for run in read_records(path, print_error)]


def show_verb(options: argparse.Namespace) -> int:
    """Print saved records again; if there is only one, also its warnings, as `run` does."""
    runs = unique(records_of(options.records))
    write_stdout(show(runs, options.format, terminal_columns(sys.stdout)), options.format)
    if len(runs) == 1:
        print_warnings(runs[0])
    return 0


def compare_verb(options: argparse.Namespace) -> int:
    """Compare two records cell by cell; with a limit, exit with 1 if NEW does not pass."""
    limits = (options.fail_if_slower, options.fail_if_ratio_drops)
    for limit in limits:
        if limit is not None and not 0 < limit < 100:
            raise UsageError(f"{limit:g} percent: expected a number above 0 and below 100, such as "
                             "5")
    runs = records_of(options.records)
    if len(runs) != 2:
        raise UsageError(f"compare takes two records, BASE and NEW; {len(runs)} were given")
    base, new = runs
    failed, undecided = gated = gate(base, new, *limits) if any(limits) else ([], [])
    write_stdout(comparison(base, new, options.format, gated, terminal_columns(sys.stdout)),
                 options.format)
    for line in [*undecided, *failed]:
        print_error(line)
    return 1 if failed else 0


def chart_verb(options: argparse.Namespace) -> int:
    """Draw records as one SVG."""
    runs, path = unique(records_of(options.records)), options.output
    if path is None:
        if len(runs) > 1:
            raise UsageError(f"a chart of {len(runs)} records needs -o FILE.svg")
        path = f"{os.path.splitext(options.records[0])[0]}.svg"
        if os.path.lexists(path):
            raise UsageError(f"{path}: the file exists; write over it with -o {path}")
    check_suffix(path, "svg", "chart")
    try:
        write_file(path, chart(runs))
    except OutputError as error:
        raise UsageError(str(error)) from None
    write_stdout(f"{path}\n")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run_verb, "doctor": doctor_verb, "emit": emit_verb, "show": show_verb,
    "compare": compare_verb, "chart": chart_verb}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line (sys.argv if `argv` is None) and return the exit code. Print no
    traceback for mistakes of the user, failures of the machine, or Ctrl-C; leave the host's streams
    and signal handlers as they were."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    file = globals().get("__file__", f"{PROGRAM_NAME}.py")
    # Without directories, which may name the user.
    words = [word if word.rpartition("=")[2] in FORMS
             else re.sub(r"^(--[a-z-]+=)?.*/", r"\1", printable(word))
             for word in (file, *arguments)]
    first = (arguments or ["-"])[0]
    if first.startswith("-") and first not in ("-h", "--help", "--version"):
        arguments.insert(0, "run")
    try:
        options = build_parser().parse_args(arguments, argparse.Namespace(words=words, engine=""))
        return VERBS[options.command](options)
    except UsageError as error:
        print_error(printable(str(error)))
        return 2
    except Unavailable as error:
        ask = f"\n{REPORT_IT}" if sys.platform == "darwin" else ""
        print_error(f"no usable Neural Engine: {error}.\n{WITHOUT_ENGINE}{ask}")
        return 3
    except OutputError as error:
        if str(error):
            print_error(str(error))
        # Of compare, 1 means that NEW is slower or failed, and nothing else.
        return 2 if first == "compare" else 1
    except KeyboardInterrupt:
        return interrupted()
    except SystemExit as stop:  # argparse ends so after --help and --version
        return int(stop.code or 0)


def script() -> int:
    """Run as a program of its own, or as a worker, and return the exit code."""
    while os.open(os.devnull, os.O_RDWR) < 3:  # no file may get the number of a closed stream
        pass
    code = work() if sys.argv[1:] == [WORKER_ARGUMENT] else main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code is fixed
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except Exception:  # what it still holds must not fail again when Python ends
        os._exit(code)
    return code


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # since the imports began
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(sys, "ps1") and "__file__" not in globals():
        main([])  # pasted into a prompt or a notebook, which goes on: says that it needs a file
    else:
        sys.exit(script())
