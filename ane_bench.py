#!/usr/bin/env python3
"""How fast is Apple's Neural Engine, and does INT8 help?

Copy this one file to a Mac with Apple silicon and run it; it needs Python 3.9 or later and nothing else:

    python3 ane_bench.py

It times chains of 1x1 convolutions on the Neural Engine in FP16 and in W8A8 (INT8 weights, INT8 activations between
layers), checks what comes out, and prints the comparison:

    Config                           W(MB)     GOP   ms/eval    TOPS   Ratio    ±95%  Check
    FP16 128x conv 512ch 64x64       64.0  274.88   14.934 ms  18.41           ±0.4%     ok
    W8A8 128x conv 512ch 64x64       32.0  274.88    7.871 ms  34.92  1.90x    ±0.4%     ok

W(MB) is the size of the weights, GOP what one evaluate computes (2 per multiply-add), ms/eval the median time of one, TOPS
the rate. Ratio is how many times faster than the first variant, ±95% half the 95 % interval of the time, Check whether the
output is what the program means. A ratio near 1 is a result: before M4, INT8 saves memory and no time.

Commands

    python3 ane_bench.py [run] [options]      the comparison; `run` is implied
    python3 ane_bench.py doctor               what this Mac has, check by check, and what to do about each that fails
    python3 ane_bench.py emit DIR [options]   the files of each program: DIR/512x64x128-fp16/model.mil, .../weights/weight.bin
    python3 ane_bench.py compare BASE.json NEW.json [--fail-if-slower PERCENT]
    python3 ane_bench.py chart RUN.json [-o FILE.svg]

Options of run; those with a star also of emit

    --config CHxSPxDEPTH *    channels, pixels along each side, layers; may be given several times (default the original's
                              five: 512x64x128, 512x64x64, 256x64x256, 256x64x128, 384x64x128)
    --channels LIST *         a sweep instead: all combinations of these lists, such as --channels 256,512 --depth 64,128;
    --spatial LIST *          a list that is not given has one value, that of the first default configuration
    --depth LIST *
    --variants LIST *         of fp16, w8a16 (INT8 weights only), w8a8; the first is the baseline of Ratio (default fp16,w8a8)
    --iters N                 timed evaluates of each variant (default 50), a multiple of
    --rounds N                rounds in which the variants take turns (default 10); below 5 there are no intervals
    --warmup N                evaluates before them (default 10)
    --qos N                   quality of service, such as 0, 9, 17, 21, 25 or 33 (default 21)
    --seed N *                of weights and input (default 0)
    --input random|zeros      what is computed on (default random); zeros run faster, and cannot be checked
    --verify N                pixels of each output that are checked (default 1; 0 is off)
    --timeout SECONDS         without any progress, after which a configuration is given up (default 120)
    --blob auto|standard|original *    layout of the weight file (default auto: what the system accepts)
    --dialect auto|1.3|1.0 *  of the MIL text (default auto)
    --engine ane|reference    reference computes in plain Python on any machine, small configurations unless told otherwise
    --format table|markdown|csv|json   to standard output (default table)
    --save FILE.json          the record of the run, written anew after each configuration, in the place of an earlier file
    --quiet                   no progress and no warnings on standard error, but for word of waiting: two runs at a time would
                              disturb each other's figures, so the second waits for the first to end
    --original *              exactly what the original benchmark does: its programs, layout, zero input, QoS 0, 10 + 50 evaluates
                              one variant after the other, the mean, its table; nothing is verified

doctor also takes --format table|json, and every command -h and --version.

Exit codes: 0 every cell measured and verified; 1 some cell failed and the rest is reported, or the output could not be
written, or --fail-if-slower found one slower; 2 usage, or a file that cannot be read or written; 3 no usable Neural Engine;
130 interrupted; 143 terminated. doctor: 0 all is well, 3 not.

As a library

    import ane_bench
    found = ane_bench.run([ane_bench.Config(512, 64, 128)], ["fp16", "w8a8"])
    print(found.to_dict()["results"][0]["ratio"]["w8a8"]["value"])
    program = ane_bench.build_program(ane_bench.Config(64, 64, 2), "w8a8")     # .mil is text, .blob the weight file's bytes
    ane_bench.parse_mil(program.mil)
    ane_bench.read_weight_file(program.blob)

The environment variable ANE_BENCH_STANDIN names a library that takes the place of all of Apple's; tests use it.

The file from top to bottom, which is also the way of the data: 1 constants and errors, 2 configurations, 3 weights and input,
4 MIL text, 5 reference, 6 Objective-C runtime, 7 Neural Engine, 8 measurement, 9 machine, 10 worker, 11 reports,
12 command line. Each uses only those above it.
"""

import argparse
import array
import cmath
import codecs
import contextlib
import csv
import ctypes
import datetime
import errno
import functools
import gc
import html
import io
import itertools
import json
import math
import os
import random
import re
import selectors
import shlex
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import add, eq, mul, sub
from string import Formatter
from typing import Any, Callable, NamedTuple, NoReturn, Optional, TextIO, Union

__version__ = "0.1.0"
__all__ = ["AneBenchError", "BlobError", "Cell", "Config", "MilError", "OutputError", "Program", "Protocol", "Run", "StageError",
           "Unavailable", "UsageError", "VARIANTS", "Watcher", "build_program", "main", "parse_mil", "read_record",
           "read_weight_file", "run"]


# ======================================================================================================================
# 1. Constants and errors
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
    """The base of every error that this module raises on purpose; its text is one line, made for a person."""


class UsageError(AneBenchError):
    """What was asked for cannot be: a bad value, an unknown name, an option that does not go with another (exit 2)."""


class MilError(AneBenchError):
    """A MIL text that is damaged, or that asks for what the reference does not compute. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


class BlobError(AneBenchError):
    """A weight file that is damaged."""


class Unavailable(AneBenchError):
    """There is no usable Neural Engine here (exit 3). The text says what is missing."""


class OutputError(AneBenchError):
    """What was found cannot be written where it was to go (exit 1)."""


class StageError(AneBenchError):
    """One stage of one program failed: a failed cell. `stage` is the name under which it stands in the record."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


# ======================================================================================================================
# 2. Configurations
#
# Used below: Config, DataType, DATA_TYPES, Variant, VARIANTS, KERNELS, DEFAULT_CONFIGS, DEFAULTS_BY_KERNEL,
# DEFAULT_VARIANTS.
# ======================================================================================================================

KERNELS = (1, 3)


class _Shape(NamedTuple):
    channels: int
    spatial: int
    depth: int
    kernel: int = 1


class Config(_Shape):
    """A chain of `depth` convolutions, each `channels` to `channels`, over `spatial` x `spatial` pixels.

    `kernel` is the side of a convolution's kernel: 1, or 3 with one pixel of zeros around the image. Raises UsageError
    if a number is not an int from 1 to 16384, or if the fp16 weights or one activation would take more than 4 GiB.
    """

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
    def _make(cls, iterable: Iterable[Any]) -> "Config":
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
        """Return the original's name, such as `128x conv 512ch 64x64`, or its parts for some dimensions only.

        A kernel of 3 follows the operation: `32x conv3x3 256ch 64x64`.
        """
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
        """Return the operations of one evaluate in units of 10**9; a multiply-add counts as two.

        The number is nominal for 3x3: an engine that computes by Winograd's method needs fewer.
        """
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
    """The data types of a program's weights and of the activations between its layers: each `fp16` or `int8`.

    `opset` is the first that has the program's operations; dialects with long-form scalars name it.
    """

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
DEFAULTS_BY_KERNEL = {1: DEFAULT_CONFIGS, 3: tuple(map(Config.parse, ("256x64x32k3", "512x32x16k3")))}


# ======================================================================================================================
# 3. Weights and weight file
#
# Used below: Vector, Weights, DATA_REVISION, ACTIVATION_EXPONENT, ORIGINAL_EXPONENT, chain_weights, original_weights,
# random_input, pixel_of, ALIGNMENT, LAYOUTS, tensor_stride, write_weight_file, read_weight_file, weight_data.
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
    """The weights of a chain, as integers of one pool and a pattern for each layer.

    Row `o` of a layer begins in the pool at `starts[layer][o]` and has a value for each input channel. A kernel is that
    value times the layer's pattern ([row][column], flat), times 2**-exponent.
    """

    pool: Sequence[float]
    exponent: int
    starts: Sequence[Sequence[int]]
    patterns: Sequence[Sequence[int]]

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

    One row of integers has a flat spectrum, so its rotations are orthonormal. Each layer holds all of them, in an order
    and with signs of its own. No weight is zero, since engines skip zeros. The integers are exact in fp16 and in int8:
    every variant computes with the same weights. With a kernel of 3, these are the channels' part of the weights.
    """
    draw = random.Random(seed).random
    row, exponent = integer_row(config.channels, draw) if config.kernel == 1 else factor_row(config.channels, draw)
    starts = []
    for _ in range(config.depth):
        keys = [draw() for _ in range(config.channels)]
        signs = [draw() for _ in range(config.channels)]
        order = sorted(range(config.channels), key=keys.__getitem__)
        starts.append([turn if sign < 0.5 else turn + 2 * config.channels for turn, sign in zip(order, signs)])
    patterns = [(1,)] * config.depth if config.kernel == 1 else draw_patterns(config.depth, draw)
    return Weights(2 * row + [-value for value in 2 * row], exponent, starts, patterns)


def integer_row(length: int, draw: Callable[[], float]) -> tuple[list[int], int]:
    """Return a flat-spectrum row times the largest 2**exponent that keeps it within +-127, and the exponent."""
    row = flat_spectrum_row(length, draw)
    exponent = 0
    while max(map(abs, row)) * 2 ** (exponent + 1) <= 127:
        exponent += 1
    return dense_integers(row, 2 ** exponent, draw), exponent


def dense_integers(row: Vector, amplitude: float, draw: Callable[[], float]) -> list[int]:
    """Return a row times an amplitude, rounded to integers; a zero becomes 1 or -1.

    That sign is drawn, not taken from the value: its last bits differ between systems.
    """
    signs = [1 if draw() < 0.5 else -1 for _ in row]
    return [round(value * amplitude) or sign for value, sign in zip(row, signs)]


def factor_row(length: int, draw: Callable[[], float]) -> tuple[list[int], int]:
    """Return a dense flat-spectrum row within +-7, and the exponent of the scale that makes a 3x3 layer keep its size.

    That scale is a power of two only if the row's sum of squares, times the pattern's, is a power of four. The
    amplitude is searched for it, and rows are drawn until it is met within 0.5 %. Few channels may never meet it: then
    the nearest is returned.
    """
    best: tuple[float, list[int], int] = (math.inf, [], 0)
    for _ in range(MOST_DRAWS):
        row = flat_spectrum_row(length, draw)
        largest = LARGEST_FACTOR / max(map(abs, row))
        for step in range(201, 100, -1):  # an odd number of steps: no value of 1 or 2 channels is halfway between integers
            integers = dense_integers(row, largest * step / 201, draw)
            power = PATTERN_POWER * sum(map(mul, integers, integers))
            exponent = round(math.log(power, 4))
            best = min(best, (abs(power / 4 ** exponent - 1), integers, exponent))
            if best[0] <= FACTOR_TOLERANCE:
                return best[1:]
    return best[1:]


def draw_patterns(depth: int, draw: Callable[[], float]) -> list[Sequence[int]]:
    """Return a 3x3 pattern for each layer, [row][column] flat: 16 in the middle, opposite neighbours 1 and -1.

    Antisymmetric neighbours leave the spectrum nearly flat. Their signs are drawn for each layer, so that the image does
    not drift. Patterns commute, so a layer alone does not show a transposed kernel. The sign across the anti-diagonal is
    the product of the horizontal and the vertical sign: no pattern is the transpose of another, and the signs stay
    pairwise independent. A chain whose first-order differences from its transpose cancel is drawn again.
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
    """Return the unscaled inverse Fourier transform of any length, by Bluestein's method.

    With jk = (j**2 + k**2 - (j - k)**2) / 2 it is a convolution, taken at a power of two: prime lengths cost no more.
    """
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
    """Return random levels of the original's ranges: INT8 all 256, FP16 the thousand from -0.5 to 0.499.

    The original draws each weight by itself; here rows begin at random places of one pool of drawn levels.
    """
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
    """Return the fp16 input [channels][pixels]: normal of variance 1, in multiples of 2**-7, clipped to +-3.9.

    With a kernel of 3 it is five eighths of that: such chains grow in places, and their reference does not clip.

    A normal value is the sum of twelve uniform ones, in integers, so that it is the same everywhere. Each channel begins
    at its own place of one pool of such values.
    """
    draw = random.Random(seed).random
    period, one, size = 8191, 1 << 16, 1.0 if config.kernel == 1 else 0.625
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

# The only sizes that the original writes (byte 10 of the record), whatever the shape.
ORIGINAL_SIZES = {"fp16": 0x100000, "int8": 0x080000}


def tensor_stride(size: int, aligned: bool = True) -> int:
    """Return the bytes from one record to the next, for tensors of `size` bytes each."""
    return RECORD.size + (-(-size // ALIGNMENT) * ALIGNMENT if aligned else size)


def write_weight_file(data_type: str, count: int, size: int, tensors: Iterable[bytes], layout: str = "standard",
                      aligned: bool = True) -> bytearray:
    """Return a weight file of `count` tensors of `size` bytes each, the first record at 64.

    The layout `standard` is that of Apple's writer. `original` has the same offsets but the original's records: count 1,
    type 1, its one size, data offset 0 (the data follow the record). The original does not align either: `aligned` False.
    """
    stride = tensor_stride(size, aligned)
    blob = bytearray(HEADER.size + stride * (count - 1) + RECORD.size + size)
    standard = layout == "standard"
    HEADER.pack_into(blob, 0, count if standard else 1, BLOB_VERSION, *[0] * 7)
    code = DATA_TYPES[data_type if standard else "fp16"].code
    for index, tensor in enumerate(tensors):
        record = HEADER.size + index * stride
        data = record + RECORD.size
        stated = (size, data) if standard else (ORIGINAL_SIZES[data_type], 0)
        RECORD.pack_into(blob, record, SENTINEL, code, *stated, *[0] * 5)
        blob[data:data + size] = tensor
    return blob


class Tensor(NamedTuple):
    """One tensor of a weight file: the offset of its record (which BLOBFILE names), its data type, its bytes."""

    offset: int
    data_type: str
    data: memoryview


def read_weight_file(data: Union[bytes, bytearray, memoryview]) -> list[Tensor]:
    """Return the tensors of a weight file of the standard layout, in order; their data are views of the file.

    Raises BlobError with the offset of the first violation: version, sentinel, type, size, gaps that are not zero, bytes
    after the last tensor.
    """
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
    """Return the tensor whose record is at `offset`. Raises BlobError if the record does not describe data in the file."""
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
    """Return the bytes of the tensor that BLOBFILE names at `offset`, in either layout.

    The data of the original's records follow them. Raises BlobError if the file does not hold `size` bytes of that type.
    """
    if 0 <= offset <= len(blob) - RECORD.size - size:
        sentinel, _, _, data, *_ = RECORD.unpack_from(blob, offset)
        if sentinel == SENTINEL and data == 0:
            return blob[offset + RECORD.size:offset + RECORD.size + size]
    tensor = read_tensor(blob, offset)
    if (tensor.data_type, len(tensor.data)) != (data_type, size):
        raise BlobError(f"offset {offset}: {len(tensor.data)} bytes of {tensor.data_type}; "
                        f"the text says {size} bytes of {data_type}")
    return tensor.data


# ======================================================================================================================
# 4. MIL text and programs
#
# Used below: DIALECTS, MIL_FILE, WEIGHT_FILE, MilWriter, MilProgram, Operation, Weight, parse_mil, Program,
# build_program, LARGEST_SEED.
# ======================================================================================================================

# Short scalars with ios18, everything in long form with the first opset that has the operations, and a mixture of both
# that some systems take: the head of 1.3, long-form scalars.
DIALECTS = ("1.3", "1.0", "1.3-long")
LARGEST_SEED = (1 << 53) - 1  # beyond it other readers of JSON lose digits

# Every line of a program, for the writer and for the reader. {string}, {fp16}, {int32}, {int8} and {uint64} are scalar
# types in the form of the dialect. buildInfo is as in the original; nothing is known to read it.
HEAD_LINES = (
    "program({version})",
    '[buildInfo = dict<{string}, {string}>({{{{"coremlc-component-MIL", "3510.2.1"}}, {{"coremlc-version", "3505.4.1"}}, '
    '{{"coremltools-component-milinternal", ""}}, {{"coremltools-version", "9.0"}}}})]',
    "{{",
    "    func main<{opset}>(tensor<fp16, [{shape}]> x) {{",
)
END_LINES = ("    }} -> ({output});", "}}")
BLOB_FILE = f'BLOBFILE(path = {{string}}("{WEIGHT_PATH}"), offset = {{uint64}}({{offset}}))'
CONSTANTS = {
    "text": '{string} {name} = const()[name = {string}("{name}"), val = {string}("{text}")];',
    "integer": '{int32} {name} = const()[name = {string}("{name}"), val = {int32}({integer})];',
    "integers": 'tensor<int32, [{count}]> {name} = const()[name = {string}("{name}"), '
                "val = tensor<int32, [{count}]>([{integers}])];",
    "exponent": '{fp16} {name} = const()[name = {string}("{name}"), val = {fp16}(0x1p{exponent})];',
}
WEIGHTS = {  # the parameters of constexpr_affine_dequantize are attributes: as arguments they give InvalidMILProgram
    "fp16": 'tensor<fp16, [{shape}]> {name} = const()[name = {string}("{name}"), '
            f"val = tensor<fp16, [{{shape}}]>({BLOB_FILE})];",
    "int8": 'tensor<fp16, [{shape}]> {name} = constexpr_affine_dequantize()[axis = {int32}(0), name = {string}("{name}"), '
            f"quantized_data = tensor<int8, [{{shape}}]>({BLOB_FILE}), scale = {{fp16}}(0x1p{{exponent}}), "
            "zero_point = {int8}(0)];",
}
OPERATIONS = {
    "conv": "tensor<fp16, [{shape}]> {name} = conv(dilations = {dilations}, groups = {groups}, pad = {pad}, "
            'pad_type = {pad_type}, strides = {strides}, weight = {weight}, x = {x})[name = {string}("{name}")];',
    "quantize": "tensor<int8, [{shape}]> {name} = quantize(input = {x}, output_dtype = {output_dtype}, scale = {scale})"
                '[name = {string}("{name}")];',
    "dequantize": 'tensor<fp16, [{shape}]> {name} = dequantize(input = {x}, scale = {scale})[name = {string}("{name}")];',
}
STATEMENTS = {**CONSTANTS, **WEIGHTS, **OPERATIONS}
INDENT = " " * 8

# The forms of fields that are not names, for the reader. Scales are powers of two, and 128 of them are in fp16's range.
FIELD_FORMS = {
    "opset": "ios1[678]", "shape": "[1-9][0-9]{0,8}(?:, [1-9][0-9]{0,8}){3}", "offset": "[0-9]{1,20}", "count": "[24]",
    "text": "[a-z0-9]+", "integer": "[0-9]", "integers": "[0-9](?:, [0-9]){1,3}",
    "exponent": r"-(?:[1-9]|1[0-9]|2[0-4])|\+[0-8]",
}
NAME = "[A-Za-z_][A-Za-z0-9_]*"


def fixed_fields(dialect: str) -> dict[str, str]:
    """Return the fields that a dialect decides: its version, and scalar types as `fp16` or long as `tensor<fp16, []>`."""
    form = "{}" if dialect == "1.3" else "tensor<{}, []>"
    scalars = {name: form.format(name) for name in ("string", "fp16", "int32", "int8", "uint64")}
    return {"version": dialect[:3], **scalars}


class MilWriter:
    """Write a program of one function to a stream, one method for each kind of statement."""

    def __init__(self, stream: TextIO, dialect: str = "1.3") -> None:
        self._stream = stream
        self._fixed = fixed_fields(dialect)

    def begin(self, opset: str, shape: Sequence[int]) -> None:
        """Write the program's head, and that of `main` with one fp16 input, `x`."""
        for line in HEAD_LINES:
            self._line(line, opset=opset, shape=shape)

    def end(self, output: str) -> None:
        """Write the function's output and the end of the program."""
        for line in END_LINES:
            self._line(line, output=output)

    def constant(self, kind: str, name: str, value: Any) -> None:
        """Write a named `text`, `integer`, vector of `integers`, or fp16 of value 2**`exponent`."""
        count = len(value) if kind == "integers" else 1
        self._statement(kind, name, count=count, **{kind: f"{value:+d}" if kind == "exponent" else value})

    def weight(self, name: str, data_type: str, shape: Sequence[int], offset: int, exponent: int) -> None:
        """Write named weights with their record's offset in the weight file; those in int8 are times 2**exponent."""
        self._statement(data_type, name, shape=shape, offset=offset, exponent=f"{exponent:+d}")

    def convolution(self, name: str, shape: Sequence[int], weight: str, x: str, settings: Iterable[str]) -> None:
        """Write a convolution; each setting names the constant `c_` and its own name."""
        self._statement("conv", name, shape=shape, weight=weight, x=x, **{key: f"c_{key}" for key in settings})

    def quantize(self, name: str, shape: Sequence[int], x: str) -> None:
        """Write a quantization to int8."""
        self._statement("quantize", name, shape=shape, x=x, output_dtype="q_dtype", scale="q_scale")

    def dequantize(self, name: str, shape: Sequence[int], x: str) -> None:
        """Write a dequantization to fp16."""
        self._statement("dequantize", name, shape=shape, x=x, scale="dq_scale")

    def _statement(self, kind: str, name: str, **fields: Any) -> None:
        self._line(INDENT + STATEMENTS[kind], name=name, **fields)

    def _line(self, template: str, **fields: Any) -> None:
        lists = {key: ", ".join(map(str, value)) for key, value in fields.items() if isinstance(value, list)}
        self._stream.write(template.format(**self._fixed, **{**fields, **lists}) + "\n")


def write_mil(config: Config, variant: Variant, dialect: str, stride: int, exponent: int, activation_exponent: int) -> str:
    """Return the text of a chain whose weights lie `stride` bytes apart; int8 values are times 2**-exponent.

    All names are the original's.
    """
    stream = io.StringIO()
    writer = MilWriter(stream, dialect)
    shape = [1, config.channels, config.spatial, config.spatial]
    weight_shape = [config.channels, config.channels, config.kernel, config.kernel]
    settings = convolution_settings(config.kernel)
    writer.begin(opset_of(dialect, variant), shape)
    for name, (kind, value) in settings.items():
        writer.constant(kind, f"c_{name}", value)
    if variant.activations == "int8":
        writer.constant("exponent", "q_scale", -activation_exponent)
        writer.constant("text", "q_dtype", "int8")
        writer.constant("exponent", "dq_scale", -activation_exponent)
    previous = "x"
    for layer in range(config.depth):
        writer.weight(f"W{layer}", variant.weights, weight_shape, HEADER.size + layer * stride, -exponent)
        writer.convolution(f"c{layer}", shape, f"W{layer}", previous, settings)
        previous = f"c{layer}"
        if variant.activations == "int8" and layer < config.depth - 1:
            writer.quantize(f"q{layer}", shape, previous)
            writer.dequantize(f"dq{layer}", shape, f"q{layer}")
            previous = f"dq{layer}"
    writer.end(previous)
    return stream.getvalue()


def convolution_settings(kernel: int) -> dict[str, tuple[str, Any]]:
    """Return the kind and value of each constant that all convolutions name, in the original's order."""
    return {"pad_type": ("text", "valid" if kernel == 1 else "custom"), "strides": ("integers", [1, 1]),
            "pad": ("integers", [kernel // 2] * 4), "dilations": ("integers", [1, 1]), "groups": ("integer", [1])}


def opset_of(dialect: str, variant: Variant) -> str:
    """Return the opset that a program's function names."""
    return "ios18" if dialect == "1.3" else variant.opset


class Weight(NamedTuple):
    """Weights that a text names: their type and place in the weight file; those in int8 are times 2**exponent."""

    line: int
    data_type: str
    shape: Sequence[int]
    offset: int
    exponent: int


class Operation(NamedTuple):
    """An operation on the activation before it: `conv` with a weight, `quantize` or `dequantize` with 2**exponent."""

    line: int
    name: str
    kind: str
    weight: Optional[Weight]
    exponent: int


class MilProgram(NamedTuple):
    """A program as its text has it: dialect, configuration, and the chain of operations from `x` to the output."""

    dialect: str
    config: Config
    operations: Sequence[Operation]


def parse_mil(text: str) -> MilProgram:
    """Return the program that a text holds, if it is one that write_mil writes, in any dialect.

    Names, offsets and scales may differ from those of write_mil. Raises MilError with the line of anything else: another
    form, a name that is undefined or defined twice, a literal or a shape that does not fit the chain, a text that is cut
    off or goes on.
    """
    return _MilReader(text).program()


@functools.lru_cache(maxsize=None)
def _pattern(template: str, dialect: str) -> "re.Pattern[str]":
    """Return the expression of a line of the writer's; a field that stands twice must be the same twice."""
    fixed, pattern, seen = fixed_fields(dialect), "", set()
    for literal, field, _, _ in Formatter().parse(template):
        pattern += re.escape(literal)
        if field in fixed:
            pattern += re.escape(fixed[field])
        elif field in seen:
            pattern += f"(?P={field})"
        elif field:
            pattern += f"(?P<{field}>{FIELD_FORMS.get(field, NAME)})"
            seen.add(field)
    return re.compile(pattern)


class _MilReader:
    """Read a program line by line; keep each name with the kind of its value, and with the value of a constant."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._line = 1
        self._dialect = max(DIALECTS, key=lambda dialect: sum(
            bool(_pattern(form, dialect).fullmatch(line)) for form, line in zip(HEAD_LINES[:2], self._lines)))
        self._values: dict[str, tuple[str, Any]] = {"x": ("fp16 activation", None)}
        self._last = "x"
        self._operations: list[Operation] = []

    def program(self) -> MilProgram:
        """Return the program of the whole text."""
        for form in HEAD_LINES:
            head = self._take(form)
        self._shape = _integers(head["shape"])
        end = self._found(END_LINES[0])
        while end is None:
            self._statement()
            end = self._found(END_LINES[0])
        if end["output"] != self._last or not self._operations or self._operations[-1].kind != "conv":
            self._fail(f"the output is {end['output']}; expected the last convolution's")
        self._line += 1
        self._take(END_LINES[1])
        if self._lines[self._line - 1:] != [""]:
            self._fail("expected a newline and the end of the text")
        return MilProgram(self._dialect, self._config(head["opset"]), self._operations)

    def _config(self, opset: str) -> Config:
        """Return the configuration, if the head's shape and opset are those of a program of ours."""
        batch, channels, height, width = self._shape
        kernels = [operation.weight.shape[-1] for operation in self._operations if operation.weight]
        is_w8a8 = any(kind == "exponent" for kind, _ in self._values.values())
        self._line = len(HEAD_LINES)
        if batch != 1 or height != width or opset != opset_of(self._dialect, VARIANTS["w8a8" if is_w8a8 else "w8a16"]):
            self._fail(f"{opset}, input of shape {self._shape}; expected one square image, and the opset of its operations")
        try:
            return Config(channels, height, len(kernels), kernels[0])
        except UsageError as error:
            return self._fail(str(error))

    def _fail(self, message: str) -> NoReturn:
        raise MilError(min(self._line, len(self._lines)), message)

    def _found(self, form: str) -> Optional[dict[str, str]]:
        """Return the fields of the present line, or None if it has another form."""
        line = self._lines[self._line - 1] if self._line <= len(self._lines) else ""
        match = _pattern(form, self._dialect).fullmatch(line)
        return match and match.groupdict()

    def _take(self, form: str) -> dict[str, str]:
        """Return the fields of the present line, which must have a form, and go on to the next."""
        fields = self._found(form)
        if fields is None:
            self._fail(f"expected a line such as {form.strip()[:40]!r}")
        self._line += 1
        return fields

    def _statement(self) -> None:
        """Read one statement and define its name."""
        kinds = ((kind, self._found(INDENT + form)) for kind, form in STATEMENTS.items())
        kind, fields = next(((kind, fields) for kind, fields in kinds if fields), ("", {}))
        if not fields:
            self._fail("expected a statement of ane_bench's, or the end of the function")
        if fields["name"] in self._values:
            self._fail(f"{fields['name']} is defined twice")
        if kind in CONSTANTS:
            value = kind, fields["text"] if kind == "text" else _integers(fields[kind])
        elif kind in WEIGHTS:
            value = "weight", Weight(self._line, kind, _integers(fields["shape"]), int(fields["offset"]),
                                     int(fields.get("exponent", 0)))
        else:
            value = self._operation(kind, fields), None
        if kind == "integers" and len(value[1]) != int(fields["count"]):
            self._fail(f"{len(value[1])} integers; the type says {fields['count']}")
        self._values[fields["name"]] = value
        self._line += 1

    def _operation(self, kind: str, fields: dict[str, str]) -> str:
        """Add an operation to the chain and return the kind of its result."""
        self._value(fields["x"], "int8 activation" if kind == "dequantize" else "fp16 activation")
        if fields["x"] != self._last:
            self._fail(f"{kind} of {fields['x']}; expected the activation before it, {self._last}")
        if _integers(fields["shape"]) != self._shape:
            self._fail(f"a result of shape [{fields['shape']}]; expected {self._shape}")
        weight = self._convolution_weight(fields) if kind == "conv" else None
        exponent = self._value(fields["scale"], "exponent") if kind != "conv" else [0]
        if kind == "quantize" and self._value(fields["output_dtype"], "text") != "int8":
            self._fail("quantize to another type than int8")
        self._last = fields["name"]
        self._operations.append(Operation(self._line, self._last, kind, weight, exponent[0]))
        return "int8 activation" if kind == "quantize" else "fp16 activation"

    def _convolution_weight(self, fields: dict[str, str]) -> Weight:
        """Return the weight of a convolution, if its shape and the convolution's settings are those of the program."""
        weight: Weight = self._value(fields["weight"], "weight")
        first = self._operations[0].weight if self._operations else None
        kernel, channels = (first or weight).shape[-1], self._shape[1]
        if kernel not in KERNELS or weight.shape != [channels, channels, kernel, kernel]:
            self._fail(f"weights of shape {weight.shape} for {channels} channels and a kernel of {kernel}")
        for name, (kind, value) in convolution_settings(kernel).items():
            found = self._value(fields[name], kind)
            if found != value:
                self._fail(f"{name} is {found}; expected {value}")
        return weight

    def _value(self, name: str, kind: str) -> Any:
        """Return the value of a name that is defined before this line, as the given kind."""
        found, value = self._values.get(name, ("not defined", None))
        if found != kind:
            self._fail(f"{name}: {found}; expected {kind}")
        return value


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(", ")]


class Program(NamedTuple):
    """A configuration in a variant, as an engine takes it: MIL text and the bytes of the weight file.

    `layout` is the form of the weight file (LAYOUTS), `dialect` that of the text (DIALECTS).
    """

    config: Config
    variant: Variant
    mil: str
    blob: bytearray
    layout: str
    dialect: str

    def write(self, directory: str) -> None:
        """Write `model.mil` and `weights/weight.bin` below a directory, which is made if it is missing.

        Directories are private (0700), and so are files (0600). Raises OSError; a symbolic link in the place of a
        directory or file is refused.
        """
        for name, content in ((MIL_FILE, self.mil.encode()), (WEIGHT_FILE, self.blob)):
            path = os.path.join(directory, name)
            parent = os.path.dirname(path)
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, 0o700)
            if os.path.islink(parent):
                raise NotADirectoryError(errno.ENOTDIR, "is a symbolic link; expected a directory", parent)
            _write_file(path, content)


def _write_file(path: str, content: Union[bytes, bytearray]) -> None:
    """Write a private file, in as many parts as the system takes: over 2 GiB it takes several."""
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
    """Return the program of a configuration in a variant of VARIANTS; the same arguments give the same bytes everywhere.

    Input `x` and the output are fp16 [1, channels, spatial, spatial]. The weights are drawn by the seed, from 0 to 2**53
    - 1 (chain_weights). `blob` is the weight file's layout. `original` gives the original's text, records, scales and
    ranges instead, and decides on layout and dialect itself. Raises UsageError if an argument is invalid.
    """
    _check_choices(config, variant, seed, original, blob, dialect)
    kind = VARIANTS[variant]
    if original:
        blob, dialect = "original", "1.3"
        weights = original_weights(config, seed, kind.weights)
    else:
        weights = chain_weights(config, seed)
    size = config.weights // config.depth * DATA_TYPES[kind.weights].size
    data = write_weight_file(kind.weights, config.depth, size, weights.layers(config.channels, kind.weights), blob, not original)
    text = write_mil(config, kind, dialect, tensor_stride(size, not original), weights.exponent,
                     ORIGINAL_EXPONENT if original else ACTIVATION_EXPONENT)
    return Program(config, kind, text, data, blob, dialect)


def _check_choices(config: Any, variant: Any, seed: Any, original: Any, blob: Any, dialect: Any) -> None:
    """Raise UsageError for arguments that build_program does not take."""
    if not isinstance(config, Config):
        raise UsageError(f"{config!r}: expected a Config")
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed {seed!r}: expected a whole number from 0 to 2**53 - 1")
    for name, value, choices in (("variant", variant, tuple(VARIANTS)), ("blob", blob, LAYOUTS), ("dialect", dialect, DIALECTS),
                                 ("original", original, (False, True))):
        if type(value) is not type(choices[0]) or value not in choices:
            raise UsageError(f"{name} {value!r}: expected one of {', '.join(map(str, choices))}")
    if original and config.kernel != 1:
        raise UsageError(f"{config.name}: the original has 1x1 convolutions only")


# ======================================================================================================================
# 5. Reference
#
# Used below: Events, Executable, Engine, Arithmetic, DEFAULT_ARITHMETIC, Reference, ReferenceEngine.
# ======================================================================================================================

class Events(typing.Protocol):
    """The worker's side of the events that reach the parent, and from there whoever watches."""

    def stage(self, name: str, variant: str, limit: float = 0) -> None:
        """Announce a stage and wait until the parent has noted it. `limit`: seconds it may take beyond --timeout."""

    def directory(self, path: str) -> None:
        """Announce a model directory before it is made; the parent removes it if the worker cannot."""

    def warn(self, code: str, message: str) -> None:
        """Send a warning."""


class Executable(typing.Protocol):
    """A loaded program with its input and output."""

    facts: dict[str, Any]
    """Facts of the cell: compile_ms, load_ms, compiled_before; those that are known."""

    def write_input(self, data: bytes) -> None:
        """Write the whole fp16 input."""

    def evaluate(self) -> bool:
        """Compute the output from the input; return whether that worked."""

    def failure(self) -> str:
        """Return why the last evaluate failed. Call it before the pool drains."""

    def poison(self, pixels: Sequence[int]) -> None:
        """Write NaN into all channels of these output pixels."""

    def read_pixels(self, pixels: Sequence[int]) -> list[Vector]:
        """Return the channels of these output pixels."""


class Engine(typing.Protocol):
    """A way to run programs. `now` is its clock; a tick of it is `tick_ns` nanoseconds."""

    now: Callable[[], int]
    tick_ns: float

    def pool(self) -> typing.ContextManager[None]:
        """Return the context in which evaluates run."""

    def load(self, program: Program, qos: int, events: Events, owner: contextlib.ExitStack) -> Executable:
        """Load a program, to be unloaded when `owner` closes; evaluates run at `qos`. Raises StageError if refused."""


class Arithmetic(NamedTuple):
    """The choices that a program leaves to an engine; sums are exact in all of them.

    Results of convolutions are stored between layers in fp16 or fp32 (`store`), the last in fp16. `rounding` of halves,
    in these stores and in quantize, is `away` from zero (M4 and later) or to `even` (M1). Without `quantizes`, quantize
    and dequantize pass their input on: no right engine computes so, the check needs it.
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
        """Return a factor by which rounding to even becomes this rounding.

        To round away, it moves each half away from zero and no other value past one. That is exact for values of at most
        50 significant bits.
        """
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

    If each weight is an 8-bit integer times one power of two, the product is taken in packed integers: one big integer
    for each column holds a lane for each row, and one multiplication serves all lanes. It is exact.
    """

    def __init__(self, integers: Optional[bytes], exponent: int, rows: int, values: Vector = ()) -> None:
        self.integers, self.exponent, self.rows = integers, exponent, rows
        self._values = values  # in the place of integers
        self._packed: dict[int, list[int]] = {}

    @classmethod
    def read(cls, weight: Weight, blob: memoryview) -> "Matrix":
        """Return the weights that a text names, or raise BlobError if the file does not hold them."""
        count = math.prod(weight.shape)
        data = weight_data(blob, weight.offset, weight.data_type, count * DATA_TYPES[weight.data_type].size)
        if weight.data_type == "int8":
            return cls(bytes(data), weight.exponent, weight.shape[0])
        integers, exponent = halves_as_integers(data)
        values = () if integers else struct.unpack(f"<{count}e", data)
        return cls(integers, exponent, weight.shape[0], values)

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
    """Return integers and an exponent, each float an integer times 2**exponent; None if a float is not finite.

    The exponents tried are those of the input and of quantized values, of fp16, and then down to fp32's least.
    """
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
    """Return fp16 values as int8 bytes times 2**exponent, or None if they are not all such.

    A codec does in C what would take a loop seconds: characters of 16 bits to bytes.
    """
    with contextlib.suppress(UnicodeDecodeError):
        characters = codecs.utf_16_le_decode(data)[0]
        for exponent in range(-24, 1):
            with contextlib.suppress(UnicodeEncodeError):
                codecs.charmap_encode(characters[:256], "strict", _level_map(exponent))  # a failure scans all that follows
                return codecs.charmap_encode(characters, "strict", _level_map(exponent))[0], exponent
    return None, 0


@functools.lru_cache(maxsize=None)
def _level_map(exponent: int) -> Any:
    """Return the codec's map from each fp16 of an int8 times 2**exponent, taken as a character, to that int8."""
    halves = struct.pack("<256e", *[value * 2.0 ** exponent for value in SIGNED])
    return codecs.charmap_build("".join(map(chr, struct.unpack("<256H", halves))))


# For the factors of a 3x3 kernel: bytes of multiples of 16, and maps from these to a sixteenth and to its negative.
MULTIPLES = bytes(byte for byte in range(256) if byte % PATTERN_MIDDLE == 0)
SIXTEENTHS = {sign: bytes(sign * value // PATTERN_MIDDLE % 256 for value in SIGNED) for sign in (1, -1)}


def factors(matrix: Matrix) -> Optional[tuple[Vector, Matrix]]:
    """Return the factors of 3x3 weights, or None if they have none: a pattern of middle 1, and its matrix of channels.

    The nine planes of the kernels are slices of the file with a stride of nine. Each must be a sixteenth of the middle
    plane or its negative.
    """
    integers = matrix.integers or b""
    middle = integers[4::9]
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
    """Return how much each pixel of the input adds to one pixel of the output, through 3x3 patterns in turn.

    From the output backwards: each layer spreads the weights over the neighbours, and drops those in the border of zeros.
    """
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
    zeros, width = (0.0,) * len(image[0]), side + 2
    padded = [zeros] * (width * width)
    for row in range(side):
        padded[(row + 1) * width + 1:(row + 1) * width + 1 + side] = image[row * side:(row + 1) * side]
    for row, column in itertools.product(range(side), range(side)):
        nine = [padded[(row + dy) * width + column + dx] for dy in range(3) for dx in range(3)]
        yield list(itertools.chain.from_iterable(zip(*nine)))


# Fraction bits of what passes between the layers of a factored chain: errors stay below 1e-10.
FACTORED_BITS = 40


class Reference:
    """Computes what a program means, from its text and the bytes of its weight file alone.

    Raises MilError for a text that parse_mil refuses, BlobError if the weight file does not hold the weights. `keep`
    holds on to the packed weights between calls: fast, and large.
    """

    def __init__(self, mil: str, blob: Union[bytes, bytearray], keep: bool = False) -> None:
        self._program = parse_mil(mil)
        self._config = self._program.config
        self._blob = memoryview(blob)
        self._keep = keep
        self._matrices: dict[str, Matrix] = {}

    def compute(self, data: bytes, pixels: Sequence[int],
                arithmetics: Sequence[Arithmetic] = (DEFAULT_ARITHMETIC,)) -> list[list[Vector]]:
        """Return the output channels of some pixels, from the whole fp16 input: [arithmetic][pixel][channel].

        A pixel of a 1x1 chain depends on that pixel of the input alone. A 3x3 chain is computed by the factors of its
        weights, without any rounding between layers: then there is one result, whatever the arithmetics. Raises MilError
        if its weights have no factors.
        """
        if self._config.kernel == 3:
            return [self._factored(data, pixels)]
        return self._chain([pixel_of(data, self._config, index) for index in pixels], arithmetics)

    def evaluate(self, data: bytes, arithmetic: Arithmetic = DEFAULT_ARITHMETIC) -> list[Vector]:
        """Return the output channels of all pixels, layer by layer as the program says, with either kernel."""
        pixels = [pixel_of(data, self._config, index) for index in range(self._config.pixels)]
        return self._chain(pixels, [arithmetic])[0]

    def _chain(self, inputs: list[Vector], arithmetics: Sequence[Arithmetic]) -> list[list[Vector]]:
        """Return the outputs for each arithmetic; a layer's weights are read and packed once for all."""
        states = [arithmetic for arithmetic in arithmetics for _ in inputs]
        values = list(inputs) * len(arithmetics)
        apply = {"conv": self._convolve, "quantize": self._quantize, "dequantize": self._dequantize}
        for operation in self._program.operations:
            values = apply[operation.kind](operation, values, states)
        return [values[start:start + len(inputs)] for start in range(0, len(values), len(inputs))]

    def _convolve(self, operation: Operation, values: Sequence[Vector], states: Sequence[Arithmetic]) -> list[Vector]:
        matrix = self._matrix(operation)
        letter = "e" if operation is self._program.operations[-1] else ""
        vectors = values if self._config.kernel == 1 else neighbourhoods(values, self._config.spatial)
        return [store(matrix.product(vector), arithmetic, letter) for vector, arithmetic in zip(vectors, states)]

    def _quantize(self, operation: Operation, values: Sequence[Vector], states: Sequence[Arithmetic]) -> list[Vector]:
        return [quantize(vector, operation.exponent, arithmetic) if arithmetic.quantizes else vector
                for vector, arithmetic in zip(values, states)]

    def _dequantize(self, operation: Operation, values: Sequence[Vector], states: Sequence[Arithmetic]) -> list[Vector]:
        scale = 2.0 ** operation.exponent
        return [[step * scale for step in vector] if arithmetic.quantizes else vector
                for vector, arithmetic in zip(values, states)]

    def _matrix(self, operation: Operation) -> Matrix:
        assert operation.weight is not None
        matrix = self._matrices.get(operation.name) or Matrix.read(operation.weight, self._blob)
        if self._keep:
            self._matrices[operation.name] = matrix
        return matrix

    def _factored(self, data: bytes, pixels: Sequence[int]) -> list[Vector]:
        """Return the outputs of a 3x3 chain: its patterns mix the pixels of each channel, then its matrices the channels."""
        patterns, matrices = [], []
        for operation in self._program.operations:
            if operation.kind == "conv":
                found = factors(self._matrix(operation))
                if found is None:
                    raise MilError(operation.line, "3x3 weights without factors: a program that the reference does not compute")
                patterns.append(found[0])
                matrices.append(found[1])
        rows = [pixel_weights(patterns, self._config.spatial, pixel) for pixel in pixels]
        size = 2 * self._config.pixels
        images = (struct.unpack(f"<{size // 2}e", data[start:start + size]) for start in range(0, len(data), size))
        mixed = [[float_sum(map(mul, row, image)) for row in rows] for image in images]
        outputs = [list(vector) for vector in zip(*mixed)]
        for matrix in matrices:
            outputs = [list(matrix.product([round(value * 2 ** FACTORED_BITS) / 2 ** FACTORED_BITS for value in vector]))
                       for vector in outputs]
        return list(outputs)


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
    """A program that the reference computes, in its default arithmetic. Both kernels are computed by the plain definition."""

    def __init__(self, program: Program) -> None:
        self.facts: dict[str, Any] = {}
        self._reference = Reference(program.mil, program.blob, keep=True)
        self._unwritten = [math.nan] * program.config.channels
        self._input = bytes(program.config.tensor_bytes)
        self._output: list[Vector] = [self._unwritten] * program.config.pixels

    def write_input(self, data: bytes) -> None:
        """Keep the input."""
        self._input = data

    def evaluate(self) -> bool:
        """Compute every pixel of the output; this does not fail."""
        self._output = self._reference.evaluate(self._input)
        return True

    def failure(self) -> str:
        """Return why an evaluate failed, which does not happen."""
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
# ======================================================================================================================

# The ownership rule: what comes from `new` or a Create function is ours, and so is what we retain; each is released
# exactly once, by the stack that it was put on when it became ours. All else is borrowed until the pool drains.

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
    """Any pointer that a call returns. A subclass, so that ctypes does not make it an int; false where nil."""


class Libraries:
    """The system's libraries, each opened on first use; or one stand-in library in place of all of them."""

    def __init__(self, standin: Optional[str] = None) -> None:
        self._standin = standin
        self._opened: dict[str, ctypes.CDLL] = {}

    def open(self, name: str) -> ctypes.CDLL:
        """The library of that name in LIBRARIES; raises Unavailable where it cannot be opened."""
        if name not in self._opened:
            path = self._standin or LIBRARIES[name]
            try:
                self._opened[name] = ctypes.CDLL(path)
            except OSError as error:
                raise Unavailable(f"the library {name} cannot be opened: {error}") from None
        return self._opened[name]

    def function(self, library: str, symbol: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """A C function with its exact prototype; raises Unavailable where this system lacks it."""
        try:
            return ctypes.CFUNCTYPE(result, *arguments)((symbol, self.open(library)))
        except AttributeError:
            raise Unavailable(f"{library} has no function {symbol} here") from None

    def constant(self, library: str, symbol: str) -> Pointer:
        """The value of an exported pointer variable, such as a CFStringRef; raises Unavailable where it is missing."""
        try:
            return Pointer.in_dll(self.open(library), symbol)
        except ValueError:
            raise Unavailable(f"{library} has no constant {symbol} here") from None

    def system_value(self, name: str, kind: Any = None) -> Any:
        """What sysctlbyname says of a name: text, or an integer of ctypes type `kind`; None where it says nothing."""
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
_CLOSING = {"{": "}", "(": ")", "[": "]"}


def parse_encoding(encoding: str) -> list[str]:
    """One code per type of a method's encoding, result first: `B36@0:8I16@20^@28` gives B @ : I @ ^.

    Qualifiers, frame offsets, and what a pointer points to are left out: they differ between runtimes.
    """
    codes, place = [], 0
    while place < len(encoding):
        start = place + len(encoding[place:]) - len(encoding[place:].lstrip("rnNoORVA"))
        codes.append(encoding[start:start + 1])
        place = _end_of_type(encoding, start)
        while encoding[place:place + 1].isdigit() or encoding[place:place + 1] in ("+", "-"):
            place += 1
    return codes


def _end_of_type(encoding: str, place: int) -> int:
    """Where the type that begins at `place` ends."""
    while encoding[place:place + 1] in tuple("^rnNoORVA"):
        place += 1
    code = encoding[place:place + 1]
    if code in _CLOSING:
        depth = 0
        while place < len(encoding):
            depth += (encoding[place] == code) - (encoding[place] == _CLOSING[code])
            place += 1
            if not depth:
                break
        return place
    place += 1
    if code == "@" and encoding[place:place + 1] == "?":
        return place + 1
    if code == "@" and encoding[place:place + 1] == '"':
        return encoding.find('"', place + 1) + 1 or len(encoding)
    return place


def kind_of(code: str) -> str:
    """What decides how a value of a type is passed and taken: pointer, text, BOOL, nothing, or an integer or float of a width."""
    kind = _CODES.get(code)
    if kind is None:
        return "nothing" if code == "v" else f"unknown type {code}"
    if kind is Pointer or code == "*":
        return "text" if code == "*" else "pointer"
    if code in "BcC":
        return "BOOL"
    return f"{8 * ctypes.sizeof(kind)}-bit {'float' if code in 'fd' else 'integer'}"


class Runtime:
    """Objective-C by typed senders. Every message is looked up first: an unknown selector would end the process."""

    def __init__(self, libraries: Libraries) -> None:
        self.libraries = libraries
        libobjc = functools.partial(libraries.function, "libobjc")
        # Class objc_getClass(const char *name); Class object_getClass(id object); SEL sel_registerName(const char *name)
        self._get_class = libobjc("objc_getClass", Pointer, ctypes.c_char_p)
        self._class_of = libobjc("object_getClass", Pointer, ctypes.c_void_p)
        self._selector = libobjc("sel_registerName", Pointer, ctypes.c_char_p)
        # Method class_getInstanceMethod(Class class, SEL selector); const char *method_getTypeEncoding(Method method)
        self._find_method = libobjc("class_getInstanceMethod", Pointer, ctypes.c_void_p, ctypes.c_void_p)
        self._find_class_method = libobjc("class_getClassMethod", Pointer, ctypes.c_void_p, ctypes.c_void_p)
        self._encoding = libobjc("method_getTypeEncoding", ctypes.c_char_p, ctypes.c_void_p)
        # id objc_retain(id object); void objc_release(id object)
        self._retain = libobjc("objc_retain", Pointer, ctypes.c_void_p)
        self.release = libobjc("objc_release", None, ctypes.c_void_p)
        # void *objc_autoreleasePoolPush(void); void objc_autoreleasePoolPop(void *pool)
        self._push_pool = libobjc("objc_autoreleasePoolPush", Pointer)
        self._pop_pool = libobjc("objc_autoreleasePoolPop", None, ctypes.c_void_p)
        self._senders: dict[str, tuple[int, Callable[..., Any]]] = {}

    def macos_version(self) -> str:
        """Such as `macOS 26.1`."""
        return f"macOS {self.libraries.system_value('kern.osproductversion') or '(version unknown)'}"

    def find_class(self, name: str) -> Pointer:
        """The class, or a nil Pointer."""
        found: Pointer = self._get_class(name.encode())
        return found

    def get_class(self, name: str) -> Pointer:
        """The class; raises Unavailable where this macOS has none of that name."""
        found = self.find_class(name)
        if not found:
            raise Unavailable(f"{self.macos_version()} has no class {name}")
        return found

    def method_encoding(self, class_name: str, selector: str, of_class: bool) -> Optional[str]:
        """The type encoding of a class or instance method; None where there is no such method. Raises Unavailable where
        there is no such class."""
        find = self._find_class_method if of_class else self._find_method
        method = find(self.get_class(class_name), self._selector(selector.encode()))
        return self._encoding(method).decode() if method else None

    def responds(self, receiver: Pointer, selector: str) -> bool:
        """Whether an object, or a class, has a method for a selector."""
        return bool(self._find_method(self._class_of(receiver), self._selector(selector.encode())))

    def bind(self, receiver: Pointer, selector: str, *arguments: Any) -> Callable[[], Any]:
        """A message ready to be sent many times: method found, argument count checked, types taken from its encoding.

        Raises Unavailable naming the selector where the receiver has no such method. The arguments must outlive it.
        """
        if not receiver:
            raise Unavailable(f"{selector} was about to be sent to nil")
        name = self._selector(selector.encode())
        method = self._find_method(self._class_of(receiver), name)
        if not method:
            raise Unavailable(f"{self.macos_version()} has no method {selector} in {self._class_name(receiver)}")
        expected, send = self._sender(self._encoding(method).decode())
        if len(arguments) != expected:
            raise Unavailable(f"{selector} takes {expected} arguments on {self.macos_version()}, not {len(arguments)}")
        return functools.partial(send, receiver, name, *arguments)

    def send(self, receiver: Pointer, selector: str, *arguments: Any) -> Any:
        """Sends a message now; see bind."""
        return self.bind(receiver, selector, *arguments)()

    def create(self, class_name: str, selector: str, *arguments: Any) -> Pointer:
        """A borrowed object from a class method, or a nil Pointer."""
        created: Pointer = self.send(self.get_class(class_name), selector, *arguments)
        return created

    def _sender(self, encoding: str) -> tuple[int, Callable[..., Any]]:
        """How many arguments a method of that encoding takes, and objc_msgSend with its exact prototype: variadic
        arguments go elsewhere on Apple's arm64, and ctypes takes surplus ones silently."""
        if encoding not in self._senders:
            codes = parse_encoding(encoding)
            if len(codes) < 3 or any(code not in _CODES for code in codes):
                raise Unavailable(f"a method of type {encoding} cannot be called by this program")
            result, *arguments = (_CODES[code] for code in codes)
            types = [ctypes.c_void_p if argument is Pointer else argument for argument in arguments]
            self._senders[encoding] = len(codes) - 3, self.libraries.function("libobjc", "objc_msgSend", result, *types)
        return self._senders[encoding]

    def _class_name(self, receiver: Pointer) -> str:
        return self.text(self.send(receiver, "className")) if self.responds(receiver, "className") else "its class"

    @contextlib.contextmanager
    def pool(self) -> Iterator[None]:
        """An autorelease pool."""
        pool = self._push_pool()
        try:
            yield
        finally:
            self._pop_pool(pool)

    def keep(self, borrowed: Pointer, owner: contextlib.ExitStack) -> Pointer:
        """Retains an object, to be released when its owner closes."""
        owner.callback(self.release, self._retain(borrowed))
        return borrowed

    def string(self, text: str) -> Pointer:
        """A borrowed NSString."""
        return self.create("NSString", "stringWithUTF8String:", text.encode())

    def text(self, string: Pointer) -> str:
        """The text of an NSString; empty for nil."""
        return (self.send(string, "UTF8String") or b"").decode(errors="replace") if string else ""

    def number(self, value: int) -> Pointer:
        """A borrowed NSNumber of unsigned long long."""
        return self.create("NSNumber", "numberWithUnsignedLongLong:", value)

    def data(self, buffer: bytearray) -> Pointer:
        """A borrowed NSData over a buffer's own bytes, which must stay in place for as long as the data do."""
        start = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
        return self.create("NSData", "dataWithBytesNoCopy:length:freeWhenDone:", start, len(buffer), False)

    def array(self, *items: Pointer) -> Pointer:
        """A borrowed NSArray."""
        return self.create("NSArray", "arrayWithObjects:count:", _pointers(items), len(items))

    def dictionary(self, items: Sequence[tuple[Pointer, Pointer]] = ()) -> Pointer:
        """A borrowed NSDictionary of keys and values."""
        keys, values = ([pair[side] for pair in items] for side in (0, 1))
        return self.create("NSDictionary", "dictionaryWithObjects:forKeys:count:", _pointers(values), _pointers(keys), len(items))

    def describe_error(self, error: ctypes.c_void_p) -> str:
        """Domain, code and description of an NSError; says so where there is none."""
        if not error:
            return "no NSError was given"
        receiver = Pointer(error.value)
        domain, described = (self.text(self.send(receiver, selector)) for selector in ("domain", "localizedDescription"))
        return f"{domain} {self.send(receiver, 'code')}: {' '.join(described.split())}"


def _pointers(items: Sequence[Pointer]) -> ctypes.Array:  # type: ignore[type-arg]
    return (ctypes.c_void_p * len(items))(*[item.value for item in items])


# ======================================================================================================================
# 7. Neural Engine
# ======================================================================================================================

# Smaller surfaces fail with status 0x1d on hardware; reports of the least size differ: 16, 48, 64 KiB.
SURFACE_GRANULE = 1 << 16
LOCK_READ_ONLY = 1  # kIOSurfaceLockReadOnly, IOSurfaceRef.h

# A NaN in every output element before evaluates that count: what they never wrote is then seen.
UNWRITTEN = b"\x00\x7e"


class Method(NamedTuple):
    """A method that this module calls; `kinds` are codes of its result and its arguments. No run can do without one that
    is `needed`."""

    class_name: str
    selector: str
    kinds: str
    of_class: bool = False
    needed: bool = True

    @property
    def name(self) -> str:
        """As in Objective-C: `-[Class selector]`."""
        return f"{'+' if self.of_class else '-'}[{self.class_name} {self.selector}]"


# The private ones as others read them at run time on macOS 27, and from header dumps of earlier systems; the rest is Foundation's.
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
    Method("_ANEIOSurfaceObject", "objectWithIOSurface:", "@^", of_class=True),
    Method("_ANERequest", "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:",
           "@@@@@@@@", of_class=True),
    Method("_ANEInMemoryModel", "localModelPath", "@", needed=False),
    Method("_ANEInMemoryModel", "compiledModelExists", "B", needed=False),
    Method("_ANEInMemoryModel", "purgeCompiledModel", "v", needed=False),
    Method("_ANEDeviceInfo", "hasANE", "B", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "isVirtualMachine", "B", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "aneSubType", "@", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "numANEs", "I", of_class=True, needed=False),
    Method("_ANEDeviceInfo", "numANECores", "I", of_class=True, needed=False),
    Method("NSProcessInfo", "processInfo", "@", of_class=True, needed=False),
    Method("NSProcessInfo", "thermalState", "q", needed=False),
    Method("NSProcessInfo", "isLowPowerModeEnabled", "B", needed=False),
)
_OPTIONAL = {(method.class_name, method.selector): method for method in METHODS if not method.needed}


def same_kinds(method: Method, encoding: str) -> bool:
    """Whether a method's encoding, found at run time, has the kinds that the calls here are made for."""
    result, *arguments = parse_encoding(encoding)
    return list(map(kind_of, [result, *arguments[2:]])) == list(map(kind_of, method.kinds))


class Session:
    """Where the work says what it is doing; whoever listens overrides what it wants to hear."""

    def stage(self, name: str, variant: str, limit: float = 0, **details: Any) -> None:
        """A stage begins. `limit` is how many seconds it may take beyond the time limit of every stage."""

    def directory(self, path: str) -> None:
        """A model's directory is about to be made."""

    def warn(self, code: str, message: str) -> None:
        """Something was seen that whoever reads the figures should know."""


class Executable:
    """A program that an engine has loaded: what the measurement needs of it. `facts` go into its cell."""

    facts: dict[str, Any]

    def write_input(self, data: bytes) -> None:
        """Puts the fp16 input in place."""
        raise NotImplementedError

    def clear_output(self) -> None:
        """Makes the output what no evaluate gives, so that one that does nothing is seen."""
        raise NotImplementedError

    def evaluate(self) -> bool:
        """Runs the program once; false where the engine says that it failed."""
        raise NotImplementedError

    def failure(self) -> str:
        """Why the last evaluate failed; to be asked within the same pool."""
        raise NotImplementedError

    def read_output(self) -> bytes:
        """The fp16 output."""
        raise NotImplementedError


class Engine:
    """What runs programs: loads them, and has the clock that they are timed by, `now`, in ticks."""

    now: Callable[[], int]

    def load(self, program: Program, qos: int, session: Session, owner: contextlib.ExitStack) -> Executable:
        """A program ready to evaluate, undone when its owner closes; raises StageError naming the stage that failed."""
        raise NotImplementedError

    def nanoseconds(self, ticks: int) -> float:
        """Ticks as nanoseconds."""
        raise NotImplementedError

    def pool(self) -> contextlib.AbstractContextManager[None]:
        """What evaluates run inside of."""
        return contextlib.nullcontext()


class _Timebase(ctypes.Structure):
    _fields_ = [("numer", ctypes.c_uint32), ("denom", ctypes.c_uint32)]


class NeuralEngine(Engine):
    """Apple's engine, through the private in-memory model API and IOSurface."""

    def __init__(self, libraries: Libraries, original: bool = False) -> None:
        libraries.open("Foundation")
        libraries.open("AppleNeuralEngine")
        self.runtime = Runtime(libraries)
        self.original = original
        # A model keeps its descriptor's data, which are these very buffers, and who knows for how long: until the child ends.
        self.lent: list[bytearray] = []
        iosurface, system = (functools.partial(libraries.function, name) for name in ("IOSurface", "libSystem"))
        # IOSurfaceRef IOSurfaceCreate(CFDictionaryRef properties); void *IOSurfaceGetBaseAddress(IOSurfaceRef surface)
        self._create_surface = iosurface("IOSurfaceCreate", Pointer, ctypes.c_void_p)
        self._base_address = iosurface("IOSurfaceGetBaseAddress", ctypes.c_void_p, ctypes.c_void_p)
        # int IOSurfaceLock(IOSurfaceRef surface, uint32_t options, uint32_t *seed), and IOSurfaceUnlock
        lock = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
        self._lock, self._unlock = iosurface("IOSurfaceLock", *lock), iosurface("IOSurfaceUnlock", *lock)
        # void CFRelease(CFTypeRef object)
        self._cf_release = libraries.function("CoreFoundation", "CFRelease", None, ctypes.c_void_p)
        # uint64_t mach_absolute_time(void); int mach_timebase_info(struct { uint32_t numer, denom; } *info)
        self.now = system("mach_absolute_time", ctypes.c_uint64)
        timebase = _Timebase()
        system("mach_timebase_info", ctypes.c_int, ctypes.c_void_p)(ctypes.byref(timebase))
        self._nanoseconds_per_tick = int(timebase.numer) / int(timebase.denom)

    def nanoseconds(self, ticks: int) -> float:
        """By mach_timebase_info."""
        return ticks * self._nanoseconds_per_tick

    def pool(self) -> contextlib.AbstractContextManager[None]:
        """An autorelease pool."""
        return self.runtime.pool()

    def load(self, program: Program, qos: int, session: Session, owner: contextlib.ExitStack) -> Executable:
        """Descriptor, model, files, compile, load, surfaces and request."""
        # What a refused program leaves is undone with the rest, after the figures were handed over: that may crash.
        with self.pool():
            return _LoadedModel(self, program, qos, session, owner.enter_context(contextlib.ExitStack()))

    def temporary_directory(self) -> str:
        """Foundation's, which need not be Python's."""
        # NSString *NSTemporaryDirectory(void)
        function = self.runtime.libraries.function("Foundation", "NSTemporaryDirectory", Pointer)
        with self.pool():
            return self.runtime.text(function())

    def create_surface(self, size: int, owner: contextlib.ExitStack) -> Pointer:
        """A surface of one row of bytes, released when its owner closes; nil where it cannot be had."""
        size = size if self.original else -(-size // SURFACE_GRANULE) * SURFACE_GRANULE
        values = (size, 1, 1, size, size, 0)
        surface: Pointer = self._create_surface(self.runtime.dictionary(
            [(key, self.runtime.number(value)) for key, value in zip(self.surface_keys(), values)]))
        if surface:
            owner.callback(self._cf_release, surface)
        return surface

    def surface_keys(self) -> list[Pointer]:
        """The keys of a surface's properties; raises Unavailable where one is missing."""
        return [self.runtime.libraries.constant("IOSurface", f"kIOSurface{name}")
                for name in ("Width", "Height", "BytesPerElement", "BytesPerRow", "AllocSize", "PixelFormat")]

    def lend(self, receiver: Pointer, class_name: str, selector: str) -> Optional[Callable[[], Any]]:
        """A message that a run can do without, ready to be sent; None where this macOS has no such method, or one of other
        kinds than expected."""
        if not receiver or not self.runtime.find_class(class_name):
            return None
        method = _OPTIONAL[class_name, selector]
        encoding = self.runtime.method_encoding(class_name, selector, method.of_class)
        return self.runtime.bind(receiver, selector) if encoding and same_kinds(method, encoding) else None

    @contextlib.contextmanager
    def mapped(self, surface: Pointer, stage: str, options: int = 0) -> Iterator[int]:
        """The address of a surface's bytes while it is locked."""
        status = self._lock(surface, options, None)
        if status:
            raise StageError(stage, f"IOSurfaceLock returned {status & 0xffffffff:#x}")
        try:
            address = self._base_address(surface)
            if not address:
                raise StageError(stage, "IOSurfaceGetBaseAddress returned NULL")
            yield address
        finally:
            self._unlock(surface, options, None)


class _LoadedModel(Executable):
    """One _ANEInMemoryModel, from its descriptor to a bound evaluate. What it owns closes with `owner`, in reverse."""

    def __init__(self, engine: NeuralEngine, program: Program, qos: int, session: Session, owner: contextlib.ExitStack) -> None:
        self.facts = {}
        self._variant = program.variant.name
        self._engine, self._runtime, self._session = engine, engine.runtime, session
        self._qos, self._size = qos, program.config.tensor_bytes
        self._error = ctypes.c_void_p()
        self._program, self._mil, self._blob = program, bytearray(program.mil.encode()), program.blob
        engine.lent += [self._mil, self._blob]
        # All objects are released last, after the model was unloaded and its directory removed.
        self._owner = owner.enter_context(contextlib.ExitStack())
        self._options = self._runtime.keep(self._runtime.dictionary(), self._owner)
        self._model = self._create_model()
        self._write_files(owner)
        exists = None if engine.original else engine.lend(self._model, "_ANEInMemoryModel", "compiledModelExists")
        if exists:
            self.facts["compiled_before"] = bool(exists())
        self._call("compile", "compileWithQoS:options:error:", self._options)
        if not engine.original:
            owner.callback(self._purge)
        self._call("load", "loadWithQoS:options:error:", self._options)
        owner.callback(self._unload)
        self._input, self._output = (self._create_surface() for _ in range(2))
        request = self._create_request()
        self._evaluate = self._runtime.bind(self._model, "evaluateWithQoS:options:request:error:", qos, self._options, request,
                                            ctypes.byref(self._error))

    def _stage(self, name: str) -> str:
        self._session.stage(name, self._variant)
        return name

    def _some(self, stage: str, found: Pointer) -> Pointer:
        """A result kept, or the stage's failure where it is nil."""
        if not found:
            raise StageError(stage, "nil was returned")
        return self._runtime.keep(found, self._owner)

    def _create_model(self) -> Pointer:
        runtime, stage = self._runtime, self._stage("descriptor")
        weights = runtime.dictionary([(runtime.string(WEIGHT_PATH), self._weights_entry())])
        descriptor = self._some(stage, runtime.create("_ANEInMemoryModelDescriptor", "modelWithMILText:weights:optionsPlist:",
                                                      runtime.data(self._mil), weights, None))
        stage = self._stage("model")
        return self._some(stage, runtime.create("_ANEInMemoryModel", "inMemoryModelWithDescriptor:", descriptor))

    def _weights_entry(self) -> Pointer:
        """Data and offset of the weights. The framework takes the first key's value as the data, so where Foundation
        puts `offset` first it is left out: 0 is what it would be anyway."""
        runtime = self._runtime
        data = (runtime.string("data"), runtime.data(self._blob))
        entry = runtime.dictionary([data, (runtime.string("offset"), runtime.number(0))])
        first = runtime.send(runtime.send(entry, "allKeys"), "objectAtIndex:", 0)
        return entry if runtime.text(first) == "data" else runtime.dictionary([data])

    def _directory(self) -> str:
        """Where the framework looks for the model's files."""
        stage = self._stage("identifier")
        identifier = self._runtime.text(self._runtime.send(self._model, "hexStringIdentifier"))
        if not re.fullmatch(r"[0-9A-Za-z_-]{1,255}", identifier):
            raise StageError(stage, f"hexStringIdentifier is {identifier!r}: expected a name for a directory")
        local_path = self._engine.lend(self._model, "_ANEInMemoryModel", "localModelPath")
        path = self._runtime.text(local_path()) if local_path else ""
        return path or os.path.join(self._engine.temporary_directory(), identifier)

    def _write_files(self, owner: contextlib.ExitStack) -> None:
        path, stage = self._directory(), self._stage("files")
        self._session.directory(path)
        owner.callback(remove_directory, path)
        try:
            self._program.write(path)
        except OSError as error:
            remove_directory(path)  # now, since the disk may be full
            raise StageError(stage, f"{error.filename or path}: {error.strerror}") from None

    def _call(self, stage: str, selector: str, *arguments: Any) -> None:
        """A stage that answers YES, or NO with or without an NSError."""
        self._stage(stage)
        self._error.value = None
        started = time.perf_counter()
        if not self._runtime.send(self._model, selector, self._qos, *arguments, ctypes.byref(self._error)):
            raise StageError(stage, self._runtime.describe_error(self._error))
        self.facts[f"{stage}_ms"] = (time.perf_counter() - started) * 1e3

    def _purge(self) -> None:
        """Drops the program from the system's cache, or the user's disk fills."""
        with self._engine.pool():
            purge = self._engine.lend(self._model, "_ANEInMemoryModel", "purgeCompiledModel")
            if purge:
                self._stage("purge")
                purge()

    def _unload(self) -> None:
        with self._engine.pool():
            try:
                self._call("unload", "unloadWithQoS:error:")
            except StageError as error:
                self._session.warn("unload", f"unloading {self._variant} failed ({error}); its figures are not touched by that")

    def _create_surface(self) -> Pointer:
        stage = self._stage("surface")
        surface = self._engine.create_surface(self._size, self._owner)
        if not surface:
            raise StageError(stage, f"IOSurfaceCreate gave no surface of {self._size} bytes")
        return surface

    def _create_request(self) -> Pointer:
        runtime, stage = self._runtime, self._stage("request")
        first, second = (self._some(stage, runtime.create("_ANEIOSurfaceObject", "objectWithIOSurface:", surface))
                         for surface in (self._input, self._output))
        zero = runtime.number(0)
        request = runtime.create(
            "_ANERequest", "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:",
            runtime.array(first), runtime.array(zero), runtime.array(second), runtime.array(zero), None, None, zero)
        return self._some(stage, request)

    def write_input(self, data: bytes) -> None:
        """Into the locked input surface."""
        stage = self._stage("surface")
        with self._engine.mapped(self._input, stage) as address:
            ctypes.memmove(address, data, self._size)

    def clear_output(self) -> None:
        """NaN everywhere in the locked output surface."""
        with self._engine.mapped(self._output, self._stage("surface")) as address:
            ctypes.memmove(address, UNWRITTEN * (self._size // 2), self._size)

    def evaluate(self) -> bool:
        """Sends the bound message; the slot for its NSError is emptied first."""
        self._error.value = None
        return bool(self._evaluate())

    def failure(self) -> str:
        """The NSError of the last evaluate."""
        return self._runtime.describe_error(self._error)

    def read_output(self) -> bytes:
        """From the locked output surface."""
        with self._engine.mapped(self._output, "read", LOCK_READ_ONLY) as address:
            return ctypes.string_at(address, self._size)


def remove_directory(path: str) -> None:
    """Removes a model's directory: one that holds a program, or what is left of one. Anything else, a symbolic link too, is
    left alone: a path can be wrong."""
    with contextlib.suppress(OSError, ValueError):  # the latter for what can be no path at all
        names = os.listdir(path)
        if not os.path.islink(path) and (MIL_FILE in names or set(names) <= {os.path.dirname(WEIGHT_FILE)}):
            shutil.rmtree(path, ignore_errors=True)


# ======================================================================================================================
# 8. Measurement
# ======================================================================================================================

class Protocol(NamedTuple):
    """How a configuration is measured.

    `iters` timed evaluates per variant in `rounds`, after `warmup`; `input` random or zeros; `verify` pixels compared;
    `blob` and `dialect` auto or a fixed one; `timeout` seconds without progress; `original` does as the original does,
    one variant after the other.
    """

    iters: int = 50
    rounds: int = 10
    warmup: int = 10
    qos: int = 21
    seed: int = 0
    input: str = "random"
    verify: int = 1
    blob: str = "auto"
    dialect: str = "auto"
    original: bool = False
    timeout: float = 120.0

    def check(self) -> "Protocol":
        """Itself; raises UsageError where it cannot be followed."""
        for name, least in (("iters", 1), ("rounds", 1), ("warmup", 0), ("seed", 0), ("qos", 0), ("verify", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{name} {value!r}: expected a whole number from {least}")
        if self.iters % self.rounds:
            raise UsageError(f"iters {self.iters}: expected a multiple of rounds {self.rounds}")
        if self.qos >= 1 << 32 or not 0 < self.timeout < 1e6:
            raise UsageError(f"qos {self.qos}, timeout {self.timeout}: expected a 32-bit number, and seconds above 0")
        for name, choices in PROTOCOL_CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(choices)}")
        return self


DEFAULT_PROTOCOL = Protocol()
PROTOCOL_CHOICES = {"input": ("random", "zeros"), "blob": ("auto", "standard", "original"), "dialect": ("auto", *DIALECTS)}

# What the original fixes: QoS 0, zeros, one sequence of 50 after 10.
ORIGINAL_PROTOCOL = Protocol(rounds=1, qos=0, input="zeros", verify=0, blob="original", dialect="1.3", original=True)

# In this order a refused program is tried again: long-form scalars for systems that do not take short ones, the
# original's records last.
ATTEMPTS = (("standard", "1.3"), ("standard", "1.0"), ("original", "1.3"))
REFUSALS = ("descriptor", "model", "compile", "load")

# Of an evaluate whose pace is not known yet; and how much slower than its pace one may be before it counts as hanging.
UNKNOWN_PACE = 0.1
SLOWEST = 10

# The most that generating a weight, or computing with it for one pixel, may take in plain Python.
SECONDS_PER_WEIGHT = 1e-6


class Cell(NamedTuple):
    """What was measured of one configuration and variant; times in ns, per round. A failed one names stage and error,
    and has samples only where it was timed before it failed its verification."""

    variant: str
    status: str = "ok"
    stage: Optional[str] = None
    error: Optional[str] = None
    samples_ns: Sequence[Sequence[float]] = ()
    compile_ms: Optional[float] = None
    load_ms: Optional[float] = None
    first_ms: Optional[float] = None
    compiled_before: Optional[bool] = None
    blob: Optional[str] = None
    dialect: Optional[str] = None
    refused: Optional[Sequence[str]] = None
    verified: Optional[dict[str, Any]] = None

    @property
    def samples(self) -> list[float]:
        """All timed evaluates in ns, in the order in which they were made."""
        return [sample for samples in self.samples_ns for sample in samples]


class Job(NamedTuple):
    """One configuration to be measured: by which engine (`standin` names a library), in which variants. The layout and
    dialect that are `preferred` for a variant are tried first."""

    engine: str
    standin: Optional[str]
    config: Config
    variants: Sequence[str]
    protocol: Protocol
    preferred: Mapping[str, Sequence[str]] = {}


class Trial:
    """A variant while it is measured."""

    def __init__(self, variant: str) -> None:
        self.cell = Cell(variant)
        self.program: Optional[Program] = None
        self.executable: Optional[Executable] = None
        self.pace = UNKNOWN_PACE
        self.outputs: list[Vector] = []

    def note(self, **facts: Any) -> None:
        """Adds to what is known of the cell."""
        self.cell = self.cell._replace(**facts)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """A failure within is this variant's alone."""
        try:
            yield
        except StageError as error:
            self.note(status="failed", stage=error.stage, error=str(error), samples_ns=())


def prepare(engine: Engine, job: Job, trial: Trial, session: Session, owner: contextlib.ExitStack) -> None:
    """Loads a variant's program by the first attempt that is not refused, and writes its input."""
    config, protocol = job.config, job.protocol
    refused = []
    preferred = list(job.preferred.get(trial.cell.variant, ()))
    for blob, dialect in sorted(attempts(protocol), key=lambda attempt: list(attempt) != preferred):
        session.stage("generate", trial.cell.variant, SECONDS_PER_WEIGHT * config.weights)
        program = build_program(config, trial.cell.variant, seed=protocol.seed, original=protocol.original,
                                blob=blob, dialect=dialect)
        try:
            executable = engine.load(program, protocol.qos, session, owner)
        except StageError as error:
            refused.append(f"{blob}/{dialect}: {error}")
            if error.stage not in REFUSALS:
                raise
            stage = error.stage
            continue
        trial.note(blob=blob, dialect=dialect, refused=refused or None, **executable.facts)
        if not protocol.original:
            zeros = protocol.input == "zeros"
            executable.write_input(bytes(config.tensor_bytes) if zeros else random_input(config, protocol.seed))
            executable.clear_output()
        trial.program, trial.executable = program, executable
        return
    raise StageError(stage, "; ".join(refused) if len(refused) > 1 else refused[0].split(": ", 1)[1])


def attempts(protocol: Protocol) -> list[tuple[str, str]]:
    """The weight-file layouts and dialects to try, in order."""
    blobs = ("standard", "original") if protocol.blob == "auto" else (protocol.blob,)
    dialects = DIALECTS if protocol.dialect == "auto" else (protocol.dialect,)
    every = [(blob, dialect) for blob in blobs for dialect in dialects]
    return list(ATTEMPTS) if len(every) > 2 else every


def run_rounds(engine: Engine, trials: Sequence[Trial], protocol: Protocol, session: Session) -> None:
    """Warms each variant up, then times all of them in rounds whose order alternates."""
    for trial in trials:
        if trial.executable:
            with trial.guarded(), collector_off():
                warm_up(engine, trial, protocol.warmup, session)
    per_round = protocol.iters // protocol.rounds
    uncounted = 0 if protocol.original else 1
    for number in range(protocol.rounds):
        running = [trial for trial in trials if trial.cell.status == "ok"]
        if not running:
            return
        seconds = sum(trial.pace for trial in running) * (per_round + uncounted)
        session.stage("evaluate", ",".join(trial.cell.variant for trial in running), SLOWEST * seconds,
                      number=number + 1, of=protocol.rounds)
        with collector_off():
            for trial in running if number % 2 == 0 else reversed(running):
                with trial.guarded():
                    if number and number == protocol.rounds - 1 and protocol.verify and trial.executable:
                        trial.executable.clear_output()  # what is verified is what the last round computed
                    samples = timed_evaluates(engine, trial, "evaluate", per_round, uncounted)
                    trial.note(samples_ns=[*trial.cell.samples_ns, samples])


def warm_up(engine: Engine, trial: Trial, count: int, session: Session) -> None:
    """Evaluates that are not counted; the first by itself, since it tells how long the others may take."""
    stage = "warm-up"
    session.stage(stage, trial.cell.variant)
    if count:
        trial.pace = timed_evaluates(engine, trial, stage, 1)[0] / 1e9
        trial.note(first_ms=trial.pace * 1e3)
        session.stage(stage, trial.cell.variant, SLOWEST * trial.pace * count)
        trial.pace = max(timed_evaluates(engine, trial, stage, count - 1), default=trial.pace * 1e9) / 1e9


def timed_evaluates(engine: Engine, trial: Trial, stage: str, count: int, uncounted: int = 0) -> list[float]:
    """ns of each of `count` evaluates, back to back in one pool, after `uncounted`; raises StageError where one fails."""
    assert trial.executable
    evaluate, now = trial.executable.evaluate, engine.now
    with engine.pool():
        for _ in range(uncounted):
            if not evaluate():
                raise StageError(stage, f"evaluate said NO: {trial.executable.failure()}")
        marks = [now()]
        for _ in range(count):
            if not evaluate():
                raise StageError(stage, f"evaluate said NO: {trial.executable.failure()}")
            marks.append(now())
    if any(start == end for start, end in zip(marks, marks[1:])):
        raise StageError(stage, "the clock stood still during an evaluate, which did nothing")
    return [engine.nanoseconds(end - start) for start, end in zip(marks, marks[1:])]


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Python's garbage collector off, and as it was afterwards."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def flat(vectors: Iterable[Vector]) -> list[float]:
    """Vectors one after the other."""
    return [value for vector in vectors for value in vector]


# Statistics. A run of few rounds cannot tell how much they vary.
FEWEST_ROUNDS = 5
RESAMPLES = 2000


def quantile(values: Sequence[float], fraction: float) -> float:
    """A quantile by linear interpolation."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def resampled_medians(rounds: Sequence[Sequence[float]], seed: int) -> list[float]:
    """Medians of all values, of whole rounds drawn with replacement: the evaluates of one round are alike, so they say less
    than as many of different rounds would. None below 5 rounds."""
    if len(rounds) < FEWEST_ROUNDS:
        return []
    draw = random.Random(seed).random
    count = len(rounds)
    return [statistics.median(flat([rounds[int(draw() * count)] for _ in range(count)])) for _ in range(RESAMPLES)]


def bootstrap(rounds: Sequence[Sequence[float]], seed: int) -> Optional[list[float]]:
    """A 95 % interval for the median of all values, seeded; None below 5 rounds."""
    return list(_interval(tuple(map(tuple, rounds)), seed)) or None


@functools.lru_cache(maxsize=4096)
def _interval(rounds: tuple[tuple[float, ...], ...], seed: int) -> Sequence[float]:
    """Kept, since after each configuration the record of all before it is made anew."""
    medians = resampled_medians(rounds, seed)
    return (quantile(medians, 0.025), quantile(medians, 0.975)) if medians else ()


def times_ms(cell: Cell, seed: int) -> dict[str, Any]:
    """The figures of a cell's times in ms: median, mean, min, p95, MAD, and the median's interval where there is one."""
    samples = [sample / 1e6 for sample in cell.samples]
    median = statistics.median(samples)
    figures: dict[str, Any] = {
        "median": median, "mean": statistics.fmean(samples), "min": min(samples), "p95": quantile(samples, 0.95),
        "mad": statistics.median([abs(sample - median) for sample in samples])}
    interval = bootstrap([[sample / 1e6 for sample in samples] for samples in cell.samples_ns], seed)
    return {**figures, "ci95": interval} if interval else figures


def ratio(baseline: Cell, cell: Cell, protocol: Protocol) -> dict[str, Any]:
    """How many times faster than the baseline: the median over rounds of one round's median by the other's in the same
    round, so that what changes slowly cancels out; with its interval where there is one. The original's is of means."""
    average = statistics.fmean if protocol.original else statistics.median
    middles = [[average(samples) for samples in one.samples_ns] for one in (baseline, cell)]
    quotients = [base / own for base, own in zip(*middles)]
    interval = bootstrap([[quotient] for quotient in quotients], protocol.seed)
    value = {"value": statistics.median(quotients)}
    return {**value, "ci95": interval} if interval else value


# ======================================================================================================================
# 9. Verification
#
# Used below: Comparison, compare_vectors, distance_from_fp16, chosen_pixels, Verdict, verify.
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
    """How an output differs from the expected values.

    `floor` is their rms, but at most 1. Times it, a relative error is relative to values as large as the input's.
    """

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
    """Return the indices of the pixels to verify, drawn by the seed.

    With a kernel of 3 the first lies on an edge, where the padding shows, but not in a corner; the second lies inside.
    """
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
    """Compare the outputs of every verified round with the reference; return the verdict on the worst round.

    data: the whole fp16 input. outputs: [round][pixel][channel] of the pixels. known: whether the chip's arithmetic is
    known. Raises MilError or BlobError if the reference cannot compute the program.
    """
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

    INT8 is exact, so a right output equals the reference in its arithmetic: if it equals that of an M4, the others are
    not computed. With 3x3 there is one reference, without rounding.
    """
    reference = Reference(program.mil, program.blob)
    first, *others = [Arithmetic(rounding, store) for rounding in ("away", "even") for store in ("fp16", "fp32")]
    unquantized = Arithmetic(quantizes=False)
    if program.config.kernel == 3:
        return {unquantized: reference.compute(data, pixels, [unquantized])[0]}
    quantizes = program.variant.activations == "int8" and program.config.depth > 1
    chosen = [first, unquantized] if quantizes else [first, *others]
    found = dict(zip(chosen, reference.compute(data, pixels, chosen)))
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
    problem = output_defect(flat(output), flat(next(iter(rounded.values()))))
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
        elif noise:
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


def output_defect(values: Vector, expected: Vector) -> Optional[str]:
    """Return what is wrong with an output that need not be compared, and the usual cause; None if there is nothing."""
    unwritten = sum(map(math.isnan, values))
    if unwritten:
        part = "the output" if unwritten == len(values) else f"{unwritten} of {len(values)} values of the output"
        return (f"evaluate returned YES and did not write {part}: NaN was put there before; try --qos 0, or another "
                "--dialect")
    if not all(map(math.isfinite, values)):
        return "the output holds infinities: weights or scales were misread; try another --blob"
    if not any(values) and any(expected):
        return ("the output is all zeros: the engine did no work; try a spatial that is a multiple of 32, or another "
                "--dialect")
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
    return f"the output differs more than rounding explains ({figures}): part of the work is left out; try --verify 4"


def explain_large_errors(output: Sequence[Vector], expected: Sequence[Vector], config: Config, activations: str,
                         equal: bool) -> Optional[str]:
    """Return what is wrong if few channels of [pixel][channel] differ much more than the others; None otherwise.

    The usual error of a pixel is estimated from the median. That may be zero, so a part of the limit of the relative L2
    is added; if most values are equal, the limit is that of a known arithmetic. Large values may differ more.
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
    figures = f"quantizing activations changed the output {noise:.2f} times as much as it should"
    if noise < least:
        return (f"{figures}, at least {least:.2f} is right: quantize and dequantize are left out, so this is not W8A8; "
                "its figures are those of --variants w8a16")
    if noise > most:
        return (f"{figures}, at most {most:.2f} is right: the steps are too coarse, or values are cut off instead of "
                "rounded; try another --dialect")
    return None


# ======================================================================================================================
# 10. Machine and warnings
# ======================================================================================================================

# Names of sysctlbyname, and the type of those that are not text.
SYSTEM_VALUES: dict[str, tuple[str, Any]] = {
    "chip": ("machdep.cpu.brand_string", None),
    "model": ("hw.model", None),
    "macos": ("kern.osproductversion", None),
    "build": ("kern.osversion", None),
    "memory_bytes": ("hw.memsize", ctypes.c_uint64),
}

# Class methods of _ANEDeviceInfo, which came with different releases.
DEVICE_VALUES = {"ane_subtype": "aneSubType", "ane_count": "numANEs", "ane_cores": "numANECores"}
THERMAL_STATES = ("nominal", "fair", "serious", "critical")  # NSProcessInfoThermalState
BUSY = 0.5  # load per processor


def describe_machine(engine: Engine) -> dict[str, Any]:
    """The record's facts of this machine, each absent where unknown."""
    facts: dict[str, Any] = {"python": ".".join(map(str, sys.version_info[:3])), "cpus": os.cpu_count(),
                             "load_average": os.getloadavg()[0]}
    if isinstance(engine, NeuralEngine):
        libraries = engine.runtime.libraries
        facts.update({name: libraries.system_value(*value) for name, value in SYSTEM_VALUES.items()})
        facts.update({name: device_value(engine, selector) for name, selector in DEVICE_VALUES.items()})
        facts.update(power_source=power_source(engine.runtime), thermal_state=thermal_state(engine),
                     low_power_mode=process_value(engine, "isLowPowerModeEnabled"))
    return {name: value for name, value in facts.items() if value not in (None, "")}


def thermal_state(engine: Engine) -> Optional[str]:
    """How hot the machine says it is; None where it does not say."""
    state = process_value(engine, "thermalState") if isinstance(engine, NeuralEngine) else None
    return THERMAL_STATES[state] if isinstance(state, int) and 0 <= state < len(THERMAL_STATES) else None


def process_value(engine: NeuralEngine, selector: str) -> Union[bool, int, None]:
    """A number from NSProcessInfo; None where this macOS lacks it."""
    find = engine.lend(engine.runtime.find_class("NSProcessInfo"), "NSProcessInfo", "processInfo")
    ask = engine.lend(find(), "NSProcessInfo", selector) if find else None
    value = ask() if ask else None
    return bool(value) if value is not None and selector.startswith("is") else value


def device_value(engine: NeuralEngine, selector: str) -> Union[str, int, None]:
    """Text or number from a class method of _ANEDeviceInfo; None where this macOS lacks it. Its encoding says which: to
    take a number for an object would end the process."""
    ask = engine.lend(engine.runtime.find_class("_ANEDeviceInfo"), "_ANEDeviceInfo", selector)
    value = ask() if ask else None
    return engine.runtime.text(value) if isinstance(value, Pointer) else value


def power_source(runtime: Runtime) -> Optional[str]:
    """`AC Power` or `Battery Power`; None where IOKit does not say."""
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


def examine_machine(system: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Warnings about what, in the record's facts of a machine, may change the figures."""
    if system.get("power_source") == "Battery Power":
        yield "battery", "the Mac runs on battery, which may slow the engine; connect it to power"
    if system.get("low_power_mode"):
        yield "low-power", "low-power mode is on, which slows the engine; switch it off in System Settings, Battery"
    for moment in ("before", "after"):
        state = system.get(f"thermal_state_{moment}")
        if state not in (None, "nominal"):
            yield f"heat-{moment}", (f"the machine's thermal state was {state} {moment} measuring, and a hot machine is slower; "
                                     "let it cool, and measure fewer configurations at a time")
    if system.get("load_average", 0) > BUSY * (system.get("cpus") or 1):
        yield "busy", (f"other programs kept this machine busy (load {system['load_average']:.1f}), which makes times longer; "
                       "close them")


class Chip(NamedTuple):
    """What is known of a chip: ms below which no evaluate was ever seen, and Apple's rated TOPS where there are any."""

    dispatch_ms: float
    rated_tops: Optional[float]


# Dispatch floors reported from hardware; ratings of Apple's announcements (M4: INT8; none was given for M5).
CHIPS = {"M1": Chip(0.23, 11), "M2": Chip(0.06, 15.8), "M3": Chip(0.06, 18), "M4": Chip(0.095, 38), "M5": Chip(0.06, None)}
UNKNOWN_CHIP = Chip(0.05, None)
OVER_RATED = 1.15
DRIFT, SPREAD, SLOW_FIRST = 0.05, 0.03, 10
OUTLIER, MANY_OUTLIERS = 1.5, 0.05


def examine(run: "Run", result: "Result") -> list[dict[str, str]]:
    """Warnings about a configuration that is done: what was seen, why that may be, what to do. Each about the machine once."""
    known = {warning["code"] for warning in run.warnings}
    found = [(code, text) for code, text in examine_machine({**run.system, **run.latest}) if code not in known]
    if result.config.spatial % 32 and run.engine != "reference":
        found.append(("spatial", f"{result.config.name}: spatial is no multiple of 32, where some engines give zeros; choose one"))
    for cell in result.cells.values():
        about = f"{cell.variant} at {result.config.name}: "
        if cell.refused and cell.blob:
            found.append(("fallback", f"{about}refused as {'; '.join(cell.refused)}; taken as {cell.blob}/{cell.dialect}, which "
                                      f"--blob {cell.blob} --dialect {cell.dialect} asks for at once"))
        found.extend((code, about + text) for code, text in [*examine_cell(cell), *examine_rate(run, result.config, cell)])
    return [{"code": code, "message": message} for code, message in found]


def examine_cell(cell: Cell) -> Iterator[tuple[str, str]]:
    """What about a cell's own times may make them less than sure."""
    if cell.compiled_before:
        yield "cached", "the compiled program was in the system's cache, so compile_ms is no time of compiling; try another --seed"
    samples = cell.samples
    if len(samples) < 3:
        return
    median = statistics.median(samples)
    third = len(samples) // 3
    drift = statistics.median(samples[-third:]) / statistics.median(samples[:third]) - 1
    if abs(drift) > DRIFT:
        yield "drift", (f"times changed by {drift:+.0%} from the first third to the last: heat, or the engine's clock; let the Mac "
                        "cool, or try more --warmup; the ratio, taken round by round, suffers least")
    spread = 1.4826 * statistics.median([abs(sample - median) for sample in samples]) / median
    if spread > SPREAD:
        yield "spread", (f"times scatter by {spread:.0%} about the median: something else uses the engine or the memory; "
                         "close other programs, or try more --iters")
    outliers = sum(sample > OUTLIER * median for sample in samples)
    if outliers > MANY_OUTLIERS * len(samples):
        yield "outliers", (f"{outliers} of {len(samples)} evaluates took over {OUTLIER} times the median: other work came between; "
                           "the median ignores them, the mean does not; close other programs")
    if cell.first_ms is not None and cell.first_ms > SLOW_FIRST * median / 1e6:
        yield "first", (f"the first evaluate took {cell.first_ms * 1e6 / median:.0f} times the median: work that load put off; "
                        "it is not counted, and needs no act unless --warmup is 0")


def examine_rate(run: "Run", config: Config, cell: Cell) -> Iterator[tuple[str, str]]:
    """Times and rates that no engine of this chip can have. Unknown chips are held to the least floor."""
    if run.engine == "reference" or not cell.samples:
        return
    words = str(run.system.get("chip", "")).split()
    chip = next((CHIPS[word] for word in words if word in CHIPS), UNKNOWN_CHIP)
    ms = statistics.median(cell.samples) / 1e6
    if ms < chip.dispatch_ms:
        yield "floor", (f"{ms:.3f} ms is less than a mere dispatch takes ({chip.dispatch_ms} ms): evaluate may do nothing; "
                        "look at its check, or try a larger --config")
    if chip.rated_tops and config.gop / ms > OVER_RATED * chip.rated_tops * (2 if "Ultra" in words else 1):
        yield "rate", (f"{config.gop / ms:.1f} TOPS is more than {' '.join(words)} is rated for: evaluate may do less than it "
                       "should; look at its check, and try --verify 4")


class Finding(NamedTuple):
    """What a check found: `state` ok, FAIL, or note where something is absent or amiss that a run can do without; the
    value seen; and, where not ok, what to do."""

    state: str
    value: str
    advice: str = ""


class Probe:
    """What checks look through: the libraries, and over them the engine, made when one first needs it."""

    def __init__(self, standin: Optional[str]) -> None:
        self.standin = standin
        self.libraries = Libraries(standin)

    @functools.cached_property
    def engine(self) -> NeuralEngine:
        """Raises Unavailable where a library, or a function or constant of one, is missing."""
        engine = NeuralEngine(self.libraries)
        engine.surface_keys()
        return engine

    @functools.cached_property
    def system(self) -> dict[str, Any]:
        """See describe_machine."""
        facts = describe_machine(self.engine)
        return {**facts, "thermal_state_before": facts.get("thermal_state")}

    @contextlib.contextmanager
    def pool(self) -> Iterator[None]:
        """An autorelease pool, once there is an engine."""
        with self.engine.pool() if "engine" in vars(self) else contextlib.nullcontext():
            yield


class Check(NamedTuple):
    """One thing to look at. Without one that is `needed` there is no run; without a `first` one nothing else is looked at."""

    name: str
    look: Callable[[Probe], Finding]
    needed: bool = False
    first: bool = False

    def finding(self, probe: Probe) -> Finding:
        """What it finds; a part that is missing is a failure that names it."""
        try:
            with probe.pool():
                return self.look(probe)
        except Unavailable as error:
            return Finding("FAIL", str(error), MISSING_ADVICE)


MISSING_ADVICE = "this macOS is older or newer than this program knows; look for a newer version of either"

# Of doctor's room for files and memory: the largest default program in all its variants, twice, since the system keeps copies.
ROOM_BYTES = 2 * 3 * (64 << 20)


def checks() -> list[Check]:
    """All checks, in the order in which they build on one another."""
    classes = dict.fromkeys(method.class_name for method in METHODS if method.needed)
    facts = ("macos", "build", "python", "chip", "model", *DEVICE_VALUES)
    return [
        Check("platform", check_platform, needed=True, first=True),
        Check("Rosetta", check_rosetta, needed=True, first=True),
        Check("architecture", check_architecture, needed=True, first=True),
        *(Check(f"library {name}", functools.partial(check_library, name), needed=name != "IOKit") for name in LIBRARIES),
        Check("functions", check_functions, needed=True),
        Check("virtual machine", check_virtual_machine, needed=True),
        *(Check(f"class {name}", functools.partial(check_class, name), needed=True) for name in classes),
        *(Check(method.name, functools.partial(check_method, method), needed=method.needed) for method in METHODS),
        Check("Neural Engine", check_engine, needed=True),
        *(Check(name, functools.partial(check_fact, name)) for name in facts),
        Check("temporary directory", check_temporary_directory),
        Check("memory", check_memory),
        Check("power", functools.partial(check_condition, "power_source", ("battery", "low-power"))),
        Check("heat", functools.partial(check_condition, "thermal_state", ("heat-before",))),
        Check("load", functools.partial(check_condition, "load_average", ("busy",))),
    ]


def require_engine(probe: Probe) -> None:
    """Raises Unavailable with the first reason why no run can be made here."""
    for check in checks():
        finding = check.finding(probe) if check.needed else None
        if finding and finding.state == "FAIL":
            raise Unavailable(f"{finding.value}; {finding.advice}")


def check_platform(probe: Probe) -> Finding:
    """Only macOS has the engine's libraries."""
    if probe.standin or sys.platform == "darwin":
        return Finding("ok", "stand-in library" if probe.standin else "macOS")
    return Finding("FAIL", f"this is {sys.platform}, and the engine is reached from macOS only", "use a Mac with Apple silicon")


def check_rosetta(probe: Probe) -> Finding:
    """A translated Python finds the libraries, and no engine."""
    if probe.libraries.system_value("sysctl.proc_translated", ctypes.c_int) != 1:
        return Finding("ok", "not translated")
    return Finding("FAIL", "this Python is translated by Rosetta, from where the engine cannot be reached",
                   f"run the arm64 one: arch -arm64 /usr/bin/python3 {os.path.basename(__file__)}")


def check_architecture(probe: Probe) -> Finding:
    """Only Apple silicon has the engine."""
    machine = os.uname().machine
    if probe.standin or machine == "arm64":
        return Finding("ok", machine)
    return Finding("FAIL", f"this Mac's processor is {machine}, and only Apple silicon has a Neural Engine",
                   "use a Mac of 2020 or later")


def check_library(name: str, probe: Probe) -> Finding:
    """A library opens."""
    try:
        probe.libraries.open(name)
    except Unavailable as error:
        return Finding("note" if name == "IOKit" else "FAIL", str(error), MISSING_ADVICE)
    return Finding("ok", probe.standin or LIBRARIES[name])


def check_functions(probe: Probe) -> Finding:
    """The libraries have every C function and constant that a run needs."""
    assert probe.engine
    return Finding("ok", "all C functions and constants found")


def check_virtual_machine(probe: Probe) -> Finding:
    """Guests have no engine, and compile has been seen to hang in one."""
    guest = probe.libraries.system_value("kern.hv_vmm_present", ctypes.c_int) == 1
    if guest or device_value(probe.engine, "isVirtualMachine"):
        return Finding("FAIL", "this is a virtual machine, which has no Neural Engine", "run it on the Mac itself")
    return Finding("ok", "none")


def check_class(name: str, probe: Probe) -> Finding:
    """A class exists."""
    probe.engine.runtime.get_class(name)
    return Finding("ok", "found")


def check_method(method: Method, probe: Probe) -> Finding:
    """A method exists, and takes and gives the kinds of values that calls here are made for."""
    runtime = probe.engine.runtime
    known = runtime.find_class(method.class_name) or method.needed
    encoding = runtime.method_encoding(method.class_name, method.selector, method.of_class) if known else None
    if encoding and same_kinds(method, encoding):
        return Finding("ok", encoding)
    kinds = f"{kind_of(method.kinds[0])} from ({', '.join(map(kind_of, method.kinds[1:]))})"
    value = f"{method.name} is {f'of type {encoding}' if encoding else 'absent'}; expected {kinds}"
    return Finding("FAIL", value, MISSING_ADVICE) if method.needed else Finding("note", value, "a run can do without it")


def check_engine(probe: Probe) -> Finding:
    """The framework says that there is an engine."""
    found = device_value(probe.engine, "hasANE")
    if found is None:
        return Finding("note", "the framework does not say whether there is one", "a run will show it")
    return Finding("ok", "present") if found else Finding("FAIL", "the framework says that there is no Neural Engine",
                                                          "use a Mac with Apple silicon")


def check_fact(name: str, probe: Probe) -> Finding:
    """A fact that the record holds where it is known."""
    value = probe.system.get(name)
    return Finding("ok", str(value)) if value is not None else Finding("note", "unknown", "the record goes without it")


def check_temporary_directory(probe: Probe) -> Finding:
    """Programs can be written where the framework looks for them."""
    path = probe.engine.temporary_directory()
    aside = os.path.join(path, f"{PROGRAM_NAME}-{os.getpid()}")
    try:
        os.mkdir(aside, 0o700)
        os.rmdir(aside)
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Finding("FAIL", f"{path}: {error.strerror}", "set TMPDIR to a directory that can be written")
    value = f"{path}, {free >> 20} MiB free, of which a run takes up to {ROOM_BYTES >> 20}"
    return Finding("ok", value) if free >= ROOM_BYTES else Finding("FAIL", value, "free some space, or set TMPDIR to another disk")


def check_memory(probe: Probe) -> Finding:
    """Memory enough for programs and their copies."""
    size = probe.system.get("memory_bytes")
    if not size:
        return Finding("note", "unknown", "the record goes without it")
    enough = size >= 4 * ROOM_BYTES
    advice = "" if enough else "measure smaller programs: --config 256x64x64"
    return Finding("ok" if enough else "note", f"{size >> 20} MiB", advice)


def check_condition(name: str, codes: Sequence[str], probe: Probe) -> Finding:
    """What may change the figures, as a run would warn of it."""
    value = str(probe.system.get(name, "unknown"))
    warnings = [message for code, message in examine_machine(probe.system) if code in codes]
    return Finding("note", value, "; ".join(warnings)) if warnings else Finding("ok", value)


# ======================================================================================================================
# 11. Record
# ======================================================================================================================

SCHEMA = "ane-bench/1"
LARGEST_NUMBER = 1e300
DEEPEST_JSON = 32
SHORTEST_NS, LONGEST_NS = 1e-2, 1e14  # of an evaluate; what is worked out from others would be no figures of a record


def conforms(value: Any, form: Any) -> bool:
    """Whether a JSON value is of a form: a type; [form], a list; {str: form}, an object of any names; {"name": form}, an
    object with these names and maybe others, where `name?` may be missing. float is any finite number, and true is none."""
    if isinstance(form, list):
        return isinstance(value, list) and all(conforms(item, form[0]) for item in value)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        if str in form:
            return all(conforms(item, form[str]) for item in value.values())
        return all(conforms(value[name.rstrip("?")], inner) if name.rstrip("?") in value else name.endswith("?")
                   for name, inner in form.items())
    if form is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST_NUMBER < value < LARGEST_NUMBER
    return isinstance(value, form) and isinstance(value, bool) == (form is bool)


def parse_json(text: Union[str, bytes]) -> Any:
    """A JSON value; raises ValueError for anything else, and for numbers that no honest writer writes."""
    try:
        return json.loads(text, parse_int=_parse_integer, parse_float=_parse_float, parse_constant=_parse_float)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number of more than 20 digits")
    return int(digits)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return value


def printable(text: str) -> str:
    """Text as one line that any terminal and file takes: control characters, and halves of characters, become `?`."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def plain(value: Any, levels: int = DEEPEST_JSON) -> Any:
    """A JSON value, its texts printable; raises ValueError where it is nested so deeply that what is made of it could fail."""
    if isinstance(value, str):
        return printable(value)
    if not isinstance(value, (dict, list)):
        return value
    if not levels:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [plain(item, levels - 1) for item in value]
    return {printable(name): plain(item, levels - 1) for name, item in value.items()}


VERIFIED_FORM = {"pixels": int, "ok": bool, "cosine?": float, "relative_l2?": float, "slope?": float, "max_error?": float,
                 "matches?": str, "from_fp16?": {"cosine": float, "relative_l2": float}}

# What a cell has as a child sends it, and in a record.
CELL_FORM = {"status": str, "stage?": str, "error?": str, "compile_ms?": float, "load_ms?": float, "first_ms?": float,
             "compiled_before?": bool, "blob?": str, "dialect?": str, "refused?": [str], "verified?": VERIFIED_FORM}

# The facts of a machine that are figures; the others are shown as they are.
SYSTEM_FORM = {"cpus?": int, "load_average?": float, "memory_bytes?": int}


class Result(NamedTuple):
    """The cells of one configuration, by variant."""

    config: Config
    cells: dict[str, Cell]


class Run:
    """Everything that a run found, and what it was."""

    def __init__(self, engine: str, protocol: Protocol, configs: Sequence[Config], variants: Sequence[str]) -> None:
        self.engine = engine
        self.protocol = protocol
        self.configs = configs
        self.variants = variants
        self.command: Sequence[str] = ()
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.system: dict[str, Any] = {}
        self.latest: dict[str, Any] = {}  # facts of the machine as the last child found it
        self.results: list[Result] = []
        self.warnings: list[dict[str, str]] = []

    def warn(self, code: str, message: str) -> None:
        """Adds a warning."""
        self.warnings.append({"code": code, "message": message})

    @property
    def ok(self) -> bool:
        """Whether every cell was measured, and verified where that was asked."""
        return all(cell.status == "ok" for result in self.results for cell in result.cells.values())

    def to_dict(self) -> dict[str, Any]:
        """The record, schema ane-bench/1: figures unrounded, beside the samples that each can be worked out from."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "started": self.started.isoformat(timespec="seconds"),
            "engine": self.engine,
            "command": list(self.command),
            "system": {name: value for name, value in self.system.items() if value is not None},
            "protocol": self.protocol._asdict(),
            "results": [result_record(result, self.protocol) for result in self.results],
            "warnings": [{name: without_paths(text) for name, text in warning.items()} for warning in self.warnings],
        }


def without_paths(text: str) -> str:
    """A text without the directories that may name a user: of the temporary files, of this file, of Python, and the home."""
    for path in (lock_directory(), os.path.dirname(os.path.abspath(__file__)), os.path.dirname(sys.executable),
                 os.path.expanduser("~")):
        if len(path) > 1:
            for name in (os.path.realpath(path), path):
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", "…", text)  # whole names only: /tmp is not in /tmpfs
    return text


def lock_directory() -> str:
    """Python's directory of temporary files; where it finds none that can be written, as when every disk is full, the usual."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "/tmp"


def result_record(result: Result, protocol: Protocol) -> dict[str, Any]:
    """A configuration's part of the record."""
    cells = list(result.cells.values())
    ratios = {cell.variant: ratio(cells[0], cell, protocol) for cell in cells[1:] if cell.samples and cells[0].samples}
    return {"config": result.config._asdict(), "gop": result.config.gop,
            "variants": {cell.variant: cell_record(result.config, cell, protocol) for cell in cells}, "ratio": ratios}


def cell_record(config: Config, cell: Cell, protocol: Protocol) -> dict[str, Any]:
    """A cell's part of the record. TOPS go by the median; the original's by the mean."""
    record = {name: value for name, value in cell._asdict().items() if value is not None and name not in ("variant", "samples_ns")}
    record.update({name: without_paths(record[name]) for name in ("stage", "error") if name in record})
    if "refused" in record:
        record["refused"] = list(map(without_paths, record["refused"]))
    record["weights_mib"] = VARIANTS[cell.variant].weights_mib(config)
    if cell.samples:
        ms = times_ms(cell, protocol.seed)
        record.update(ms=ms, tops=config.gop / ms["mean" if protocol.original else "median"], samples_ns=cell.samples_ns)
    return record


LARGEST_RECORD = 1 << 28
SMALLEST_FIGURE, LARGEST_FIGURE = 1e-18, 1e18  # of times, rates and ratios; no machine gives others

# What is read of a record; more may stand there.
RECORD_FORM = {
    "schema": str, "version": str, "started": str, "engine": str, "command": [str], "system": SYSTEM_FORM,
    "protocol": {"iters": int, "rounds": int, "warmup": int, "seed": int, "original": bool, "blob?": str, "dialect?": str},
    "results": [{"config": {"channels": int, "spatial": int, "depth": int}, "gop": float,
                 "variants": {str: {**CELL_FORM, "weights_mib": float, "samples_ns?": [[float]], "tops?": float, "ms?": {
                     "median": float, "mean": float, "min": float, "p95": float, "mad": float, "ci95?": [float]}}},
                 "ratio": {str: {"value": float, "ci95?": [float]}}}],
    "warnings": [{"code": str, "message": str}],
}


def read_record(path: str) -> dict[str, Any]:
    """A saved record of this schema; raises UsageError where the file cannot be read, or holds something else."""
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_RECORD + 1)
        record = plain(parse_json(text)) if len(text) <= LARGEST_RECORD else None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        record = None
    if isinstance(record, dict):
        schema = record.get("schema")
        if isinstance(schema, str) and schema != SCHEMA:
            raise UsageError(f"{path}: is of schema {schema[:40]!r}; expected {SCHEMA}")
        if conforms(record, RECORD_FORM) and all(map(_is_whole, record["results"])):
            return record
    raise UsageError(f"{path}: expected a record as --save writes it")


def _is_whole(result: Mapping[str, Any]) -> bool:
    """Whether a result of the right form also makes sense: variants that exist, figures and samples together, each cell measured
    or failed, nothing that overflows."""
    with contextlib.suppress(UsageError):
        Config(**{name: result["config"][name] for name in Config._fields})
        cells = result["variants"].values()
        intervals = [figures["ci95"] for figures in (*(cell.get("ms", {}) for cell in cells), *result["ratio"].values())
                     if "ci95" in figures]
        return (set(result["variants"]) <= set(VARIANTS) and set(result["ratio"]) <= set(VARIANTS)
                and all(("ms" in cell) == ("tops" in cell) == bool(cell.get("samples_ns")) for cell in cells)
                and all(cell["status"] == "failed" or cell["status"] == "ok" and "ms" in cell for cell in cells)
                and all(len(interval) == 2 for interval in intervals)
                and all(samples for cell in cells for samples in cell.get("samples_ns", ()))
                and all(SMALLEST_FIGURE < figure < LARGEST_FIGURE for figure in [*_figures(result), *flat(intervals)]))
    return False


def _figures(result: Mapping[str, Any]) -> Iterator[float]:
    """All figures of a result that are divided by, or set beside one another."""
    yield result["gop"]
    for cell in result["variants"].values():
        if "ms" in cell:
            yield from (cell["tops"], cell["ms"]["median"], cell["ms"]["mean"], *flat(cell["samples_ns"]))
    yield from (figures["value"] for figures in result["ratio"].values())


def write_file(path: str, text: str) -> None:
    """Writes a text aside and renames it, so that there is never half a file. Raises OutputError."""
    path = os.path.realpath(path)  # a link stays one
    with _aside(path) as (file, aside):
        file.write(text)
        file.close()
        os.replace(aside, path)


def check_writable(path: str) -> None:
    """Raises UsageError where a file cannot be written, before the work that is to fill it."""
    try:
        if os.path.isdir(path):
            raise OutputError(f"{path}: cannot be written: it is a directory")
        if os.path.exists(path) and not os.path.isfile(path):
            raise OutputError(f"{path}: cannot be written: it is no regular file")  # and would be replaced by one
        with _aside(os.path.realpath(path)):
            pass
    except OutputError as error:
        raise UsageError(str(error)) from None


@contextlib.contextmanager
def _aside(path: str) -> Iterator[tuple[TextIO, str]]:
    """A private file beside the one meant, gone afterwards unless it was renamed."""
    aside = f"{path}.{os.getpid()}.partial"
    try:
        try:
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                yield file, aside
        finally:
            with contextlib.suppress(OSError):
                os.unlink(aside)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


# ======================================================================================================================
# 12. Worker
# ======================================================================================================================

# Private: the argument that makes a run of this file a child.
WORKER_ARGUMENT = "--measure-one-configuration"
ENGINES = ("ane", "reference")

# A message is a line of JSON of this size at most; the longest carries the samples.
LONGEST_MESSAGE = 1 << 26
KILL_SECONDS = 10.0  # what is stuck in the kernel cannot be killed, and must not be waited for
KEPT_ERROR_OUTPUT = 1 << 14
LONGEST_SLEEP = 3600.0  # a system takes no more than some weeks; a time limit may be longer

# What each kind of message holds.
MESSAGES: dict[str, dict[str, Any]] = {
    "machine": {"machine": {**SYSTEM_FORM, "python": str}},
    "stage": {"stage": str, "variant": str, "limit": float, "number?": int, "of?": int},
    "directory": {"path": str},
    "warning": {"code": str, "message": str},
    "cell": {"cell": {**CELL_FORM, "variant": str, "samples_ns": [[float]]}, "thermal_state?": str},
    "check": {"name": str, "state": str, "value": str, "advice": str},
    "unavailable": {"reason": str},
}


def read_message(line: bytes) -> dict[str, Any]:
    """A child's message; raises StageError where it is none."""
    with contextlib.suppress(ValueError):
        message = parse_json(line)
        kind = message.get("kind") if isinstance(message, dict) else None
        if isinstance(kind, str) and kind in MESSAGES and conforms(message, MESSAGES[kind]):
            return message if kind == "directory" else plain(message)  # type: ignore[no-any-return]  # a path stays what it is
    raise StageError("message", f"the child sent what is no message: {line[:60]!r}")


class _Link(Session):
    """A child's side: a message is sent as a line, and answered by one byte when the parent has dealt with it, so that
    the parent is never at work during a timed round."""

    def __init__(self, source: io.FileIO, sink: int) -> None:
        self._source, self._sink = source, sink
        self._answers = threading.Semaphore(0)
        self._directories: list[str] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Ends the child when the parent is gone, whatever the child is doing."""
        while self._source.read(1):
            self._answers.release()
        for path in self._directories:
            remove_directory(path)
        os._exit(1)

    def send(self, kind: str, **content: Any) -> None:
        """Sends a message and waits for its answer."""
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        while line:
            line = line[os.write(self._sink, line):]
        self._answers.acquire()

    def stage(self, name: str, variant: str, limit: float = 0, **details: Any) -> None:
        """Says it, and waits until the parent has dealt with that."""
        self.send("stage", stage=name, variant=variant, limit=limit, **details)

    def directory(self, path: str) -> None:
        """Known to the parent, and to the watching thread, before it exists."""
        self._directories.append(path)
        self.send("directory", path=path)

    def warn(self, code: str, message: str) -> None:
        """Says it."""
        self.send("warning", code=code, message=message)


def work() -> int:
    """The child: reads its task, does it, sends what it finds. What a terminal sends to both, Ctrl-C and its own end, is the
    parent's to answer: the child must live to clean up."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    source = io.FileIO(0, closefd=False)
    sink = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not end up among the messages
    task = source.readline()
    if not task:
        return 1  # the parent was gone before it could say what to do
    name, *arguments = json.loads(task)
    TASKS[name](_Link(source, sink), *arguments)
    return 0


def measure_task(link: _Link, engine: str, standin: Optional[str], config: Sequence[int], variants: Sequence[str],
                 protocol: Sequence[Any], preferred: Mapping[str, Sequence[str]]) -> None:
    """Measures one configuration; the arguments are those of a Job."""
    job = Job(engine, standin, Config(*config), variants, Protocol(*protocol), preferred)
    try:
        if engine == "ane":
            require_engine(Probe(standin))
        found = ReferenceEngine() if engine == "reference" else NeuralEngine(Libraries(standin), original=job.protocol.original)
        with found.pool():
            link.send("machine", machine=describe_machine(found))
            measure(found, job, link, functools.partial(_send_cell, link, found))
    except Unavailable as error:
        link.send("unavailable", reason=str(error))


def _send_cell(link: _Link, engine: Engine, cell: Cell) -> None:
    state = thermal_state(engine)
    facts = {name: value for name, value in cell._asdict().items() if value is not None}
    link.send("cell", cell=facts, **({"thermal_state": state} if state else {}))


def examine_task(link: _Link, standin: Optional[str], first: int) -> None:
    """Makes the checks from the first on, until one fails without which there is nothing to look at."""
    probe = Probe(standin)
    for check in checks()[first:]:
        link.stage(check.name, "")
        finding = check.finding(probe)
        link.send("check", name=check.name, **finding._asdict())
        if check.first and finding.state == "FAIL":
            return


TASKS: dict[str, Callable[..., None]] = {"measure": measure_task, "examine": examine_task}


def own_command() -> list[str]:
    """What starts a child: this very file, wherever it is and whatever its name. Neither PYTHON* variables nor modules that
    lie beside it (-I) nor installed packages (-S) change what the child runs; the options for finding faults in Python
    programs go along."""
    path = os.path.abspath(globals().get("__file__", ""))
    if not os.path.isfile(path) or not sys.executable:
        raise UsageError(f"{path}: expected to run from a file, which each measuring process runs again")
    options = [*(["-X", "dev"] if sys.flags.dev_mode else []), *(f"-W{option}" for option in sys.warnoptions)]
    return [sys.executable, "-I", "-S", *options, path, WORKER_ARGUMENT]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts off Ctrl-C and SIGTERM, so that cleaning up is done whole."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child:
    """A child process with one task: its messages come out, and on leaving it is gone and so is what it left behind."""

    def __init__(self, task: Sequence[Any], timeout: float) -> None:
        self._timeout = timeout
        self._directories: list[str] = []
        self.stage = "start"
        self.error_output = b""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = own_command()
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                             bufsize=0, env=environment)
        except OSError as error:
            raise StageError(self.stage, f"{command[0]}: {error.strerror}") from None
        self._write(json.dumps(task).encode() + b"\n")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception: Any) -> None:
        with uninterrupted():
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                assert stream
                stream.close()
            for path in self._directories:
                remove_directory(path)

    def _write(self, data: bytes) -> None:
        """A child that is gone is noticed when its messages end."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the child sends, each answered after it was dealt with. Raises StageError where it sends nothing for too
        long, or ends badly."""
        limit = self._timeout
        lines = self._lines()
        while True:
            line = lines(limit)
            if not line:
                break
            message = read_message(line)
            limit = self._timeout
            if message["kind"] == "stage":
                limit, self.stage = limit + max(0.0, message["limit"]), message["stage"]
            elif message["kind"] == "directory":
                self._directories.append(message["path"])
            yield message
            self._write(b"\n")
        self._check_end()

    def _lines(self) -> Callable[[float], bytes]:
        """A function that reads a line, empty at the end, and meanwhile keeps what the child writes to standard error."""
        assert self._process.stdout and self._process.stderr
        output, errors = self._process.stdout.fileno(), self._process.stderr.fileno()
        selector = selectors.DefaultSelector()
        for descriptor in (output, errors):
            selector.register(descriptor, selectors.EVENT_READ)
        pending = bytearray()

        def line(limit: float) -> bytes:
            deadline = time.monotonic() + limit
            while b"\n" not in pending and len(pending) < LONGEST_MESSAGE:
                ready = selector.select(max(0.0, min(deadline - time.monotonic(), LONGEST_SLEEP)))
                if not ready and time.monotonic() >= deadline:
                    raise StageError(self.stage, f"the child said nothing for {limit:.0f} s in this stage and was stopped; if "
                                                 "this takes as long, try a longer --timeout")
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if key.fd == errors:
                        self.error_output = (self.error_output + data)[-KEPT_ERROR_OUTPUT:]
                    elif data:
                        pending.extend(data)
                    if not data:
                        selector.unregister(key.fd)
                if not selector.get_map():
                    break
            end = pending.find(b"\n") + 1 or len(pending)
            found = bytes(pending[:end])
            del pending[:end]
            return found

        return line

    def _check_end(self) -> None:
        """Raises StageError where the child did not end by itself and well."""
        try:
            code = self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            raise StageError(self.stage, "the child did not end") from None
        if code:
            raise StageError(self.stage, self.last_words(code))

    def last_line(self) -> str:
        """The last line that the child wrote to standard error, or the one with an uncaught exception's reason: a Mac writes
        the stack below it."""
        lines = [line.strip() for line in self.error_output.decode(errors="replace").split("\n") if line.strip()]
        last = lines[-1] if lines else "it wrote nothing to standard error"
        return printable(next((line for line in lines if "reason:" in line), last))

    def last_words(self, code: int) -> str:
        """How a child ended, and its last line."""
        names = {number.value: number.name for number in signal.Signals}  # real-time signals have none
        how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"
        return f"the child {how}: {self.last_line()}"


class Watcher:
    """Is told how a run goes; whoever wants to know overrides what it wants to hear."""

    def start(self, run: "Run") -> None:
        """The run begins."""

    def wait(self, run: "Run", path: str) -> None:
        """Another run holds the lock on that directory, and this one waits."""

    def message(self, run: "Run", message: dict[str, Any]) -> None:
        """A child said something."""

    def result(self, run: "Run", result: Result) -> None:
        """A configuration is done."""


def run(configs: Sequence[Config] = DEFAULT_CONFIGS, variants: Sequence[str] = DEFAULT_VARIANTS,
        protocol: Protocol = DEFAULT_PROTOCOL, *, engine: str = "ane", watcher: Optional[Watcher] = None) -> Run:
    """Measures configurations in variants (names in VARIANTS; the first is the baseline), one child process each.

    Where ANE_BENCH_STANDIN names a library in the environment, that takes the place of Apple's. Raises UsageError for
    what cannot be asked, Unavailable where there is no usable Neural Engine. A configuration that fails is a failed cell.
    """
    protocol.check()
    for variant in variants:
        if variant not in VARIANTS:
            raise UsageError(f"variant {variant!r}: expected one of {', '.join(VARIANTS)}")
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: expected one of {', '.join(ENGINES)}")
    standin = standin_library() if engine == "ane" else None
    watcher = watcher or Watcher()
    found = Run("stand-in" if standin else engine, protocol, configs, variants)
    watcher.start(found)
    preferred: dict[str, Sequence[str]] = {}
    if standin is None and engine == "ane":
        require_platform()
    with alone(lambda path: watcher.wait(found, path)) if engine == "ane" else contextlib.nullcontext():
        for config in configs:
            cells = measure_in_child(Job(engine, standin, config, variants, protocol, preferred), found, watcher)
            preferred.update({name: (cell.blob, cell.dialect) for name, cell in cells.items() if cell.blob and cell.dialect})
            found.results.append(Result(config, cells))
            found.warnings.extend(examine(found, found.results[-1]))
            watcher.result(found, found.results[-1])
    return found


def standin_library() -> Optional[str]:
    """The library that takes the place of Apple's, where the environment names one."""
    return os.environ.get(STANDIN_VARIABLE) or None


def require_platform() -> None:
    """Raises Unavailable where no child needs to look further."""
    finding = check_platform(Probe(None))
    if finding.state == "FAIL":
        raise Unavailable(f"{finding.value}; {finding.advice}")


@contextlib.contextmanager
def alone(wait: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock that keeps runs from disturbing each other's figures: an advisory one on the temporary directory itself,
    so that nothing is left behind. Says first that it waits, where it must; goes on without one where there can be none."""
    directory = lock_directory()
    with contextlib.ExitStack() as owner:
        with contextlib.suppress(OSError, ImportError):
            import fcntl  # not on every system that can read and write programs

            descriptor = os.open(directory, os.O_RDONLY)
            owner.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait(directory)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def measure_in_child(job: Job, run: Run, watcher: Watcher) -> dict[str, Cell]:
    """The cells of one configuration, measured by a child; whatever becomes of the child, there is one for each variant.

    Raises Unavailable where the child finds no usable engine before anything was measured.
    """
    cells: dict[str, Cell] = {}
    problem = "the child ended without a result"
    stage = "start"
    try:
        with Child(["measure", *job], job.protocol.timeout) as child:
            for message in child.messages():
                receive(message, job, run, cells)
                watcher.message(run, message)
            stage, problem = child.stage, f"{problem}: {child.last_line()}"
    except StageError as error:
        stage, problem = error.stage, str(error)
        if len(cells) == len(job.variants):
            run.warn("unload", f"{job.config.name}: after its figures were taken, in stage {stage}: {problem}")
    except (Unavailable, UsageError) as error:  # the latter where this very file went away
        if not run.results:
            raise
        problem = str(error)
    return {variant: cells.get(variant, Cell(variant, "failed", stage, problem)) for variant in job.variants}


def receive(message: dict[str, Any], job: Job, run: Run, cells: dict[str, Cell]) -> None:
    """Puts what a child said where it belongs."""
    if message["kind"] == "machine":
        facts = dict(message["machine"])
        run.latest = {name: facts[name] for name in ("power_source", "low_power_mode", "load_average") if name in facts}
        run.system = {"thermal_state_before": facts.pop("thermal_state", None), **facts, **run.system}
    elif message["kind"] == "warning":
        run.warn(message["code"], message["message"])
    elif message["kind"] == "cell":
        cell = read_cell(message["cell"], job)
        cells[cell.variant] = cell
        run.system["thermal_state_after"] = message.get("thermal_state")
    elif message["kind"] == "unavailable":
        raise Unavailable(message["reason"])


def read_cell(facts: Mapping[str, Any], job: Job) -> Cell:
    """A cell as a child sent it; raises StageError where it is none of this job's, or lacks samples."""
    cell = Cell(**{name: facts[name] for name in Cell._fields if name in facts})
    protocol = job.protocol
    whole = [len(samples) for samples in cell.samples_ns] == [protocol.iters // protocol.rounds] * protocol.rounds
    timed = whole and all(SHORTEST_NS < sample < LONGEST_NS for sample in cell.samples)
    known = cell.variant in job.variants and cell.status in ("ok", "failed")
    if not known or not (timed or cell.status == "failed" and not cell.samples_ns):
        raise StageError("message", f"the child sent a cell that cannot be: {cell.variant[:20]!r}, {cell.status[:20]!r}")
    return cell


# ======================================================================================================================
# 13. Doctor
# ======================================================================================================================

# Seconds that a check may take, and what doctor measures at the end.
CHECK_SECONDS = 30.0
TEST_CONFIG = Config(64, 64, 2)
TEST_PROTOCOL = Protocol(iters=5, rounds=1, warmup=1, verify=4)


def examine_in_children(tell: Callable[[str, Finding], None], seconds: float = CHECK_SECONDS) -> bool:
    """Makes every check, each told with its finding as soon as it is made, and at the end a small program; whether all went
    well. A check that ends its child is a failure of that check alone: another child goes on with the next."""
    standin, count, failures = standin_library(), 0, 0
    every = checks()
    while count < len(every):
        try:
            with Child(["examine", standin, count], seconds) as child:
                for message in child.messages():
                    if message["kind"] == "check" and count < len(every):
                        finding = Finding(message["state"], message["value"], message["advice"])
                        tell(every[count].name, finding)
                        failures += finding.state == "FAIL"
                        count += 1
            break
        except StageError as error:
            name = every[count].name if count < len(every) else "end of the checks"
            tell(name, Finding("FAIL", str(error), "please report this with all lines above"))
            if error.stage == "start":
                return False
            failures += 1
            count = min(count + 1, len(every))
    return test_programs(standin, tell) and not failures if count == len(every) else False


def test_programs(standin: Optional[str], tell: Callable[[str, Finding], None]) -> bool:
    """Compiles, loads, evaluates and verifies a small program in each variant of the default; whether all went well."""
    run = Run("stand-in" if standin else "ane", TEST_PROTOCOL, (TEST_CONFIG,), DEFAULT_VARIANTS)
    try:
        with alone(lambda path: tell("lock", Finding("note", f"another run holds {path}", "waiting for it to end"))):
            cells = measure_in_child(Job("ane", standin, TEST_CONFIG, DEFAULT_VARIANTS, TEST_PROTOCOL), run, Watcher())
    except Unavailable:
        return False  # one of the checks has said why
    for variant, cell in cells.items():
        name = f"program {variant} {TEST_CONFIG.name}"
        if cell.status == "ok":
            tell(name, Finding("ok", f"{statistics.median(cell.samples) / 1e6:.3f} ms, verified, {cell.blob}/{cell.dialect}"))
        else:
            tell(name, Finding("FAIL", f"in stage {cell.stage}: {cell.error}", "please report this with all lines above"))
    return all(cell.status == "ok" for cell in cells.values())


# ======================================================================================================================
# 14. Reports
# ======================================================================================================================

class View(NamedTuple):
    """What the rows of a record share: whether they are the original's, which dimensions vary, the machine."""

    original: bool
    varying: Sequence[str]
    chip: str


FEWEST_SWEPT = 3


def view_of(record: Mapping[str, Any], configs: Optional[Sequence[Config]] = None) -> View:
    """The view of a record; of a run that goes on, `configs` are all that it will measure."""
    if configs is None:
        configs = [config_of(result) for result in record["results"]]
    original = record["protocol"]["original"]
    return View(original, Config._fields if original else varying(configs), str(record["system"].get("chip", "")))


def config_of(result: Mapping[str, Any]) -> Config:
    """The configuration of a result."""
    return Config(*(result["config"][name] for name in Config._fields))


def varying(configs: Sequence[Config]) -> list[str]:
    """The dimensions that vary in a sweep, which is three or more configurations that are the cross product of their values;
    all dimensions of what is no sweep."""
    values = {name: {getattr(config, name) for config in configs} for name in Config._fields}
    swept = len(set(configs)) == math.prod(map(len, values.values())) >= FEWEST_SWEPT
    return [name for name in Config._fields if len(values[name]) > 1 or not swept]


class Row(NamedTuple):
    """One cell of a record, with what its line needs of the others."""

    config: Config
    variant: str
    gop: float
    cell: Mapping[str, Any]
    ratio: Mapping[str, Any]
    view: View

    @property
    def times(self) -> Mapping[str, Any]:
        """Times in ms; empty where there are none."""
        times: Mapping[str, Any] = self.cell.get("ms", {})
        return times

    @property
    def milliseconds(self) -> Optional[float]:
        """The time that is shown: the median, or the original's mean."""
        return self.times.get("mean" if self.view.original else "median")

    @property
    def interval(self) -> Sequence[Optional[float]]:
        """The ends of the median's interval."""
        return self.times.get("ci95") or (None, None)

    @property
    def check(self) -> str:
        """What the verification said; empty where there was none."""
        verified = self.cell.get("verified")
        return "" if verified is None else "ok" if verified["ok"] else "WRONG"

    @property
    def failure(self) -> str:
        """Why it failed; empty where it did not."""
        return "" if self.cell["status"] == "ok" else f"failed in stage {self.cell.get('stage')}: {self.cell.get('error')}"


class Field(NamedTuple):
    """A figure of a row: its name and value for csv and, where the table has it, heading and text, widths and spaces included."""

    name: str
    value: Callable[[Row], Any]
    heading: str = ""
    text: Callable[[Row], str] = str


def _ratio(row: Row) -> str:
    return f"{'  ' + format(row.ratio['value'], '.2f') + 'x' if row.ratio else '':<8}"


def _half_width(row: Row) -> str:
    low, high = row.interval
    return f"{'' if low is None or high is None else '±' + format((high - low) / 2 / row.times['median'], '.1%'):>8}"


def _time(name: str) -> Callable[[Row], Any]:
    return lambda row: row.times.get(name)


def _fact(name: str) -> Callable[[Row], Any]:
    return lambda row: row.cell.get(name)


# The table's first six are the original's, to the character, whose figures do not end where their headings do.
FIELDS = (
    Field("config", lambda row: row.config.name, f"{'Config':<30}",
          lambda row: f"{f'{VARIANTS[row.variant].label:<4} {row.config.label(row.view.varying)}':<30}"),
    Field("variant", lambda row: row.variant),
    Field("channels", lambda row: row.config.channels),
    Field("spatial", lambda row: row.config.spatial),
    Field("depth", lambda row: row.config.depth),
    Field("weights_mib", lambda row: row.cell["weights_mib"], f" {'W(MB)':>7}", lambda row: f" {row.cell['weights_mib']:6.1f}"),
    Field("gop", lambda row: row.gop, f" {'GOP':>7}", lambda row: f"  {row.gop:6.2f}"),
    Field("ms", lambda row: row.milliseconds, f" {'ms/eval':>9}", lambda row: f"  {row.milliseconds:7.3f} ms"),
    Field("tops", lambda row: row.cell.get("tops"), f" {'TOPS':>7}", lambda row: f" {row.cell['tops']:6.2f}"),
    Field("ratio", lambda row: row.ratio.get("value"), f" {'Ratio':>7}", _ratio),
    Field("ms_low", lambda row: row.interval[0], f" {'±95%':>7}", _half_width),
    Field("ms_high", lambda row: row.interval[1]),
    Field("ratio_low", lambda row: row.ratio.get("ci95", [None])[0]),
    Field("ratio_high", lambda row: row.ratio.get("ci95", [None])[-1]),
    *(Field(f"ms_{name}", _time(name)) for name in ("mean", "min", "p95", "mad")),
    *(Field(name, _fact(name)) for name in ("compile_ms", "load_ms")),
    Field("check", lambda row: row.check, f" {'Check':>6}", lambda row: f"{row.check:>7}"),
    *(Field(name, _fact(name)) for name in ("status", "stage", "error", "blob", "dialect")),
    Field("chip", lambda row: row.view.chip),
)
TABLE_FIELDS = [field for field in FIELDS if field.heading]
ORIGINAL_FIELDS = TABLE_FIELDS[:6]


def rows_of(result: Mapping[str, Any], view: View) -> list[Row]:
    """The cells of a configuration's part of a record."""
    return [Row(config_of(result), variant, result["gop"], cell, result["ratio"].get(variant, {}), view)
            for variant, cell in result["variants"].items()]


def all_rows(record: Mapping[str, Any]) -> list[Row]:
    """The cells of a record."""
    view = view_of(record)
    return [row for result in record["results"] for row in rows_of(result, view)]


def chip_name(system: Mapping[str, Any]) -> str:
    """The chip as people say it, such as `M4 Max`."""
    chip = str(system.get("chip", "unknown chip"))
    return chip[len("Apple "):] if chip.startswith("Apple ") else chip


def machine_name(record: Mapping[str, Any], macos: bool = True) -> str:
    """Chip, engine and macOS (which the original's title lacks), or what took their place."""
    system = record["system"]
    if record["engine"] == "reference":
        return "reference engine in plain Python, which says nothing about a Neural Engine"
    names = ["stand-in library"] if record["engine"] == "stand-in" else []
    names += [chip_name(system), str(system.get("ane_subtype", "unknown"))]
    if "macos" in system and macos:
        names.append(f"macOS {system['macos']}")
    return ", ".join(names)


def table_head(record: Mapping[str, Any], view: View) -> str:
    """Title, headings and rule."""
    name = "ANE INT8 W8A8 Benchmark" if view.original else f"{PROGRAM_NAME} {record['version']}"
    headings = "".join(field.heading for field in (ORIGINAL_FIELDS if view.original else TABLE_FIELDS))
    machine = machine_name(record, macos=not view.original)
    return f"=== {name} ({machine}) ===\n\n{headings}\n{'-' * max(80, len(headings))}\n"


def table_rows(result: Mapping[str, Any], view: View) -> str:
    """The lines of one configuration, and a blank one."""
    rows = rows_of(result, view)
    if view.original and any(row.failure for row in rows):
        return original_failure(rows)
    return "".join(f"{table_row(row)}\n" for row in rows) + "\n"


def table_row(row: Row) -> str:
    """A variant's line; one that failed says why, below its figures where it has any."""
    if not row.times:
        return f"{FIELDS[0].text(row)} {row.failure}"
    line = "".join(field.text(row) for field in (ORIGINAL_FIELDS if row.view.original else TABLE_FIELDS))
    return line.rstrip() + (f"\n     {row.failure}" if row.failure else "")


# The original prints these for a stage that failed, as if they were milliseconds; all that it does not know is -5.
ORIGINAL_CODES = {"descriptor": -1.0, "model": -2.0, "compile": -3.0, "load": -4.0}
ORIGINAL_STAGES = {"descriptor": "desc", "model": "mdl"}


def original_failure(rows: Sequence[Row]) -> str:
    """The original's lines where a stage failed."""
    lines, figures = [], []
    config = rows[0].config
    for row in rows:
        label, stage = VARIANTS[row.variant].label, row.cell.get("stage", "")
        if row.failure:
            name = f"{label} {config.depth}x conv {config.channels}ch"
            lines.append(f"  {name}: {ORIGINAL_STAGES.get(stage, stage)} FAIL: {row.cell.get('error')}")
        figure = ORIGINAL_CODES.get(stage, -5.0) if row.failure or row.milliseconds is None else row.milliseconds
        figures.append(f"{'INT8' if row.variant == 'w8a8' else label}={figure:.1f}")
    return "\n".join([*lines, f"  {config.depth}x conv {config.channels}ch: {' '.join(figures)} (FAIL)\n"])


def footnotes(record: Mapping[str, Any], view: View) -> list[str]:
    """What stands below the table: what a sweep left the same, fallbacks in use, and what is published for this chip."""
    rows = all_rows(record)
    notes = []
    constant = [name for name in Config._fields if name not in view.varying]
    if rows and constant:
        notes.append(f"All: {rows[0].config.label(constant)}.")
    asked = attempts(Protocol(blob=record["protocol"].get("blob", "auto"), dialect=record["protocol"].get("dialect", "auto")))[0]
    taken: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if {"blob", "dialect"} <= row.cell.keys():
            taken.setdefault((row.cell["blob"], row.cell["dialect"]), {})[VARIANTS[row.variant].label] = None
    notes += [f"Fallback: {' and '.join(labels)}, refused as {'/'.join(asked)}, measured with the {blob} weight file and dialect "
              f"{dialect}." for (blob, dialect), labels in taken.items() if (blob, dialect) != asked]
    return notes + published_note(record["system"], rows)


class Published(NamedTuple):
    """First-hand TOPS of others, by the chip's name."""

    chip: str
    config: Config
    fp16: float
    w8a8: float
    source: str


MADERIX = "maderix/ANE README"
NOTEBOOK = "a public notebook that ran the original, macOS 26.4"
PUBLISHED = (
    Published("M4", Config(512, 64, 128), 18.6, 35.1, MADERIX),
    Published("M4", Config(512, 64, 64), 18.4, 34.1, MADERIX),
    Published("M5", Config(512, 64, 128), 18.22, 34.22, "Anemll gist 49e219448ad350ef67ff4bfdcb9ebd8c"),
    Published("M5 Max", Config(512, 64, 128), 19.27, 35.61, "maderix/ANE pull request 50, macOS 26.4.1"),
    Published("M2 Max", Config(512, 64, 128), 16.31, 16.36, NOTEBOOK),
    Published("M2 Max", Config(512, 64, 64), 16.10, 16.16, NOTEBOOK),
    Published("M2 Max", Config(256, 64, 256), 13.40, 15.64, NOTEBOOK),
    Published("M2 Max", Config(256, 64, 128), 13.22, 15.32, NOTEBOOK),
    Published("M2 Max", Config(384, 64, 128), 15.87, 16.08, NOTEBOOK),
)


def published_note(system: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """A line that puts the first row's configuration of which something is published beside that; none for other chips."""
    for config in dict.fromkeys(row.config for row in rows):
        own = {row.variant: row.cell["tops"] for row in rows if row.config == config and not row.failure}
        for known in PUBLISHED:
            if (known.chip, known.config) == (chip_name(system), config) and own.keys() & {"fp16", "w8a8"}:
                pairs = [f"{VARIANTS[variant].label} {own[variant]:.1f} TOPS here, {getattr(known, variant):.1f} published"
                         for variant in ("fp16", "w8a8") if variant in own]
                return [f"{known.chip} at {config.name}: {'; '.join(pairs)} ({known.source})."]
    return []


def grouped(warnings: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each code: its first message, and of how many more cells the same was seen."""
    groups: dict[str, list[str]] = {}
    for warning in warnings:
        groups.setdefault(warning["code"], []).append(warning["message"])
    return [f"({code}) {found[0]}" + (f" (seen {len(found)} times)" if len(found) > 1 else "") for code, found in groups.items()]


def markdown(record: Mapping[str, Any]) -> str:
    """A block to paste into an issue: machine, table, notes and warnings, the exact command."""
    system, view = record["system"], view_of(record)
    machine = [machine_name(record), *(str(system[name]) for name in ("model", "build", "power_source") if name in system)]
    if "memory_bytes" in system:
        machine.append(f"{system['memory_bytes'] / (1 << 30):.0f} GiB")
    lines = [f"**{PROGRAM_NAME} {record['version']}**: {_markdown_text(', '.join(machine))}, {record['started']}", ""]
    lines += ["| " + " | ".join(field.heading.strip() for field in TABLE_FIELDS) + " |",
              "|:--" + "|--:" * (len(TABLE_FIELDS) - 1) + "|"]
    for row in all_rows(record):
        texts = [field.text(row).strip() for field in (TABLE_FIELDS if row.times else TABLE_FIELDS[:3])]
        texts += [""] * (len(TABLE_FIELDS) - len(texts))
        lines.append("| " + " | ".join(texts) + " |")
    lines.append("")
    failures = [f"{FIELDS[0].text(row).strip()} {row.failure}" for row in all_rows(record) if row.failure]
    notes = [*failures, *footnotes(record, view), *(f"warning {text}" for text in grouped(record["warnings"]))]
    lines += [f"- {_markdown_text(note)}" for note in notes] + ([""] if notes else [])
    return "\n".join([*lines, _markdown_code(f"python3 {shlex.join(record['command'])}"), ""])


def _markdown_text(text: str) -> str:
    """Text that markdown does not take for its own signs."""
    return re.sub(r"([\\`*_<>|\[\]~&#])", r"\\\1", text)


def _markdown_code(text: str) -> str:
    """Text in a fence that is longer than any in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}"


def comma_separated(record: Mapping[str, Any]) -> str:
    """csv: a header, and a line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in FIELDS])
    writer.writerows([field.value(row) for field in FIELDS] for row in all_rows(record))
    return text.getvalue()


def record_text(record: Mapping[str, Any]) -> str:
    """The record as JSON."""
    return json.dumps(record, indent=1) + "\n"


REPORTS: dict[str, Callable[[Mapping[str, Any]], str]] = {"markdown": markdown, "csv": comma_separated, "json": record_text}

# Compare. Speeds that differ by less, surely, are the same.
SAME = 0.02


class Difference(NamedTuple):
    """A cell in two records: how many times faster the new one is, with an interval where there is one, and the verdict."""

    base: Row
    new: Row
    speed: float
    interval: Optional[Sequence[float]]
    verdict: str


def differences(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """The cells that both records have figures of."""
    others = {(row.config, row.variant): row for row in all_rows(new)}
    pairs = [(row, others[row.config, row.variant]) for row in all_rows(base) if (row.config, row.variant) in others]
    return [difference(*pair) for pair in pairs if all(row.times and not row.failure for row in pair)]


def difference(base: Row, new: Row) -> Difference:
    """Compares a cell with its like: both are resampled by rounds, and the interval is that of the quotient of medians."""
    assert base.milliseconds and new.milliseconds
    speed = base.milliseconds / new.milliseconds
    medians = [resampled_medians(row.cell["samples_ns"], seed) for seed, row in enumerate((base, new))]
    if not all(medians):
        return Difference(base, new, speed, None, "undecided")
    quotients = [one / other for one, other in zip(*medians)]
    low, high = quantile(quotients, 0.025), quantile(quotients, 0.975)
    return Difference(base, new, speed, (low, high), verdict_of(low, high))


def verdict_of(low: float, high: float) -> str:
    """What an interval of the speed allows to say."""
    if low > 1 - SAME and high < 1 + SAME:
        return "same"
    return "faster" if low > 1 else "slower" if high < 1 else "undecided"


def differing(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of machine, program and protocol is not the same in two records."""
    ignored = ("thermal_state_before", "thermal_state_after", "load_average")
    lines = [f"{name}: {base[name]} / {new[name]}" for name in ("engine", "version") if base[name] != new[name]]
    for part in ("system", "protocol"):
        names = dict.fromkeys([*base[part], *new[part]])
        lines += [f"{name}: {base[part].get(name, 'unknown')} / {new[part].get(name, 'unknown')}" for name in names
                  if name not in ignored and base[part].get(name) != new[part].get(name)]
    return lines


def comparison(base: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs in machine or protocol, then a line for each cell, those without a counterpart, and the geometric mean."""
    found = differences(base, new)
    lines = [f"BASE  {machine_name(base)}, {base['started']}", f"NEW   {machine_name(new)}, {new['started']}"]
    lines += [f"differs in {line}" for line in differing(base, new)]
    headings = f"{'Cell':<30}{'BASE ms':>10}{'NEW ms':>10}{'BASE TOPS':>11}{'NEW TOPS':>10}{'Speed':>8}  {'95%':<13} Verdict"
    lines += ["", headings, "-" * (len(headings) + 2), *map(difference_line, found)]
    lines += [f"{row.variant} at {row.config.name}: {reason}" for row, reason in unpaired(base, new)]
    if len(found) > 1:
        mean = math.exp(statistics.fmean([math.log(item.speed) for item in found]))
        lines.append(f"geometric mean over {len(found)} cells: {mean:.3f}x")
    return "\n".join([*lines, ""])


def difference_line(item: Difference) -> str:
    """A cell's line."""
    base, new = item.base, item.new
    interval = "-".join(f"{end:.3f}" for end in item.interval) if item.interval else ""
    name = f"{VARIANTS[base.variant].label:<4} {base.config.label()}"
    return (f"{name:<30}{base.milliseconds:10.3f}{new.milliseconds:10.3f}{base.cell['tops']:11.2f}{new.cell['tops']:10.2f}"
            f"{item.speed:7.2f}x  {interval:<13} {item.verdict}")


def unpaired(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[Row, str]]:
    """The cells that have no counterpart with figures, and why."""
    found = []
    for side, own, other in (("BASE", base, new), ("NEW", new, base)):
        others = {(row.config, row.variant) for row in all_rows(other)}
        for row in all_rows(own):
            if row.failure:
                found.append((row, f"{row.failure} (in {side})"))
            elif (row.config, row.variant) not in others:
                found.append((row, f"only in {side}"))
    return found


def slower_cells(base: Mapping[str, Any], new: Mapping[str, Any], percent: float) -> list[str]:
    """The cells that beyond doubt, by all of their interval, take more than `percent` longer, or that fail only now."""
    slower = [f"{item.new.variant} at {item.new.config.name}: takes {1 / item.speed - 1:.1%} longer"
              for item in differences(base, new) if item.interval and 1 / item.interval[1] - 1 > percent / 100]
    fine = {(row.config, row.variant) for row in all_rows(base) if not row.failure}
    return slower + [f"{row.variant} at {row.config.name}: {row.failure}" for row in all_rows(new)
                     if row.failure and (row.config, row.variant) in fine]


# ======================================================================================================================
# 15. Chart
# ======================================================================================================================

# Chart: an SVG of this width; what is in it stands in a grid of these sizes, in pixels.
WIDTH, MARGIN, SPACE = 700, 20, 8
HEAD, BAR, GAP, PLOT_HEIGHT, LINE = 74, 16, 14, 300, 18
FONT_SIZE, SMALLEST_FONT = 12, 8
LETTER = 0.62  # what a letter is wide at most on average, in font sizes; in a browser's usual fonts it is less
MOST_TICKS = 6
COLORS = {"fp16": "#5b6b80", "w8a16": "#2a8f82", "w8a8": "#c8551b"}
INK, FAINT, GROUND = "#1f2430", "#c9ced6", "#ffffff"
SIGNS = {"failed": "× failed", "WRONG": "□ wrong output"}

# In this order the first that makes of the largest figure no less than 0.1, and how many make one TOPS.
UNITS = (("TOPS", 1.0), ("GOPS", 1e3), ("MOPS", 1e6))


def widest(texts: Iterable[str]) -> float:
    """Pixels that the longest of some texts takes at most."""
    return FONT_SIZE * LETTER * max(map(len, texts), default=0)


class Drawing:
    """A list of SVG elements on a light ground, one method per kind."""

    def __init__(self, title: str, subtitle: str, variants: Iterable[str]) -> None:
        self._elements: list[str] = []
        self._title = title
        self.text(MARGIN, 26, title, size=16)
        self.text(MARGIN, 45, subtitle, color="#4a5261")
        for place, variant in enumerate(variants):
            self.rectangle(MARGIN + 90 * place, 54, 11, 11, COLORS[variant])
            self.text(MARGIN + 16 + 90 * place, 64, VARIANTS[variant].label)

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = FONT_SIZE, color: str = INK) -> None:
        """A text whose baseline is at y. One that begins at x gets smaller, and then shorter, where it would leave the drawing."""
        if not text:
            return
        room = WIDTH - MARGIN - x if anchor == "start" else WIDTH
        size = max(SMALLEST_FONT, min(size, math.floor(room / LETTER / len(text))))
        ground = f'stroke="{GROUND}" stroke-width="4" paint-order="stroke"'  # else lines run through letters
        self._elements.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}" {ground}>'
                              f"{xml_text(text[:math.floor(room / LETTER / size)])}</text>")

    def line(self, points: Sequence[tuple[float, float]], color: str = INK, width: float = 1) -> None:
        """A line through points; none where there are none."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        if path:
            self._elements.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>')

    def rectangle(self, x: float, y: float, width: float, height: float, color: str, border: str = "none") -> None:
        """A filled rectangle."""
        self._elements.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}" '
                              f'stroke="{border}"/>')

    def svg(self, height: float) -> str:
        """The whole drawing."""
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
            'font-family="system-ui, Helvetica, Arial, sans-serif">', f"<title>{xml_text(self._title)}</title>",
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="{GROUND}"/>', *self._elements, "</svg>", ""])


def xml_text(text: str) -> str:
    """Text as XML has it; a record's names may hold what XML cannot."""
    return html.escape(printable(text))


class Axis(NamedTuple):
    """The axis of the figures: their unit, how many make one TOPS, and round numbers from 0 to more than any of them."""

    unit: str
    per_tops: float
    ticks: Sequence[float]

    def figure(self, row: Row) -> float:
        """What a row with figures reaches."""
        return float(row.cell["tops"] * self.per_tops)

    def interval(self, row: Row) -> list[float]:
        """The ends of that figure's interval; empty where its time has none."""
        return [row.gop / end * self.per_tops for end in reversed(row.interval) if end is not None]


def axis_of(rows: Sequence[Row]) -> Axis:
    """An axis for all figures of some rows."""
    tops = Axis(*UNITS[0], ())
    largest = max((max([tops.figure(row), *tops.interval(row)]) for row in rows if row.times), default=1.0)
    unit, per_tops = next((found for found in UNITS if largest * found[1] >= 0.1), UNITS[-1])
    return Axis(unit, per_tops, ticks(largest * per_tops))


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 to at least `largest`, six steps at most."""
    power = 10.0 ** math.floor(math.log10(largest / MOST_TICKS))
    step = next(size * power for size in (1, 2, 5, 10) if size * power * MOST_TICKS >= largest)
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def chart(record: Mapping[str, Any]) -> str:
    """An SVG: TOPS with intervals, and the ratio; bars by configuration, or lines over the one dimension that a sweep varies."""
    rows, view = all_rows(record), view_of(record)
    variants = [variant for variant in VARIANTS if any(row.variant == variant for row in rows)]
    constant = [name for name in Config._fields if name not in view.varying]
    throughout = f", {rows[0].config.label(constant)}" if rows and constant else ""
    axis = axis_of(rows)
    shown = ["95 % intervals"] if any(axis.interval(row) for row in rows) else []
    shown += [f"ratio to {VARIANTS[rows[0].variant].label}"] if any(row.ratio for row in rows) else []
    name = "" if record["engine"] == "reference" else "Neural Engine throughput: "
    drawing = Drawing(name + machine_name(record), f"{axis.unit}, more is better{', with ' if shown else ''}{' and '.join(shown)}"
                      f"{throughout} ({PROGRAM_NAME} {record['version']})", variants)
    draw = draw_lines if len(view.varying) == 1 else draw_bars
    return drawing.svg(draw(drawing, rows, axis))


def draw_bars(drawing: Drawing, rows: Sequence[Row], axis: Axis) -> float:
    """A group of bars for each configuration; returns the height of the whole."""
    configs = {row.config: row.config.label(row.view.varying) for row in rows}
    left, y = MARGIN + SPACE + widest(configs.values()), float(HEAD + GAP)
    unit = (WIDTH - MARGIN - SPACE - left - widest(bar_text(row, axis) for row in rows if row.times)) / axis.ticks[-1]
    bottom = y + BAR * len(rows) + GAP * len(configs)
    told = math.ceil((widest(f"{tick:g}" for tick in axis.ticks) + SPACE) / axis.ticks[1] / unit)  # every how many have room
    for number, tick in enumerate(axis.ticks):
        drawing.line([(left + tick * unit, HEAD + 4), (left + tick * unit, bottom)], FAINT)
        drawing.text(left + tick * unit, bottom + LINE, "" if number % told else f"{tick:g}", "middle")
    for config, label in configs.items():
        group = [row for row in rows if row.config == config]
        drawing.text(left - SPACE, y + BAR * len(group) / 2 + 4, label, "end")
        for row in group:
            draw_bar(drawing, row, axis, left, y, unit)
            y += BAR
        y += GAP
    return bottom + LINE + GAP


def draw_bar(drawing: Drawing, row: Row, axis: Axis, left: float, y: float, unit: float) -> None:
    """One bar with its interval and figures; what failed says so instead."""
    if not row.times:
        drawing.text(left + 4, y + BAR - 4, f"failed in stage {row.cell.get('stage')}", color=COLORS[row.variant])
        return
    figure, interval = axis.figure(row), axis.interval(row)
    drawing.rectangle(left, y + 1, figure * unit, BAR - 2, COLORS[row.variant])
    drawing.line([(left + end * unit, y + BAR / 2) for end in interval], INK, 1.5)
    drawing.text(left + max([figure, *interval]) * unit + 5, y + BAR - 4, bar_text(row, axis))


def bar_text(row: Row, axis: Axis) -> str:
    """What stands beside a bar."""
    ratio = f" ({row.ratio['value']:.2f}x)" if row.ratio else ""
    return f"{axis.figure(row):.2f}{ratio}{' WRONG' if row.check == 'WRONG' else ''}"


def point_text(row: Row) -> str:
    """What stands below a point."""
    return "failed" if not row.times else "WRONG" if row.check == "WRONG" else f"{row.ratio['value']:.2f}x" if row.ratio else ""


def draw_lines(drawing: Drawing, rows: Sequence[Row], axis: Axis) -> float:
    """A line for each variant over what the sweep varies, and each ratio below; returns the height of the whole."""
    name, = rows[0].view.varying
    values = sorted({getattr(row.config, name) for row in rows})
    cells: dict[str, dict[int, Row]] = {}
    for row in rows:
        cells.setdefault(row.variant, {})[getattr(row.config, name)] = row
    headings = [name, *(VARIANTS[variant].label for variant in cells), *(f"{tick:g}" for tick in axis.ticks)]
    left, bottom = MARGIN + SPACE + widest(headings), float(HEAD + GAP + PLOT_HEIGHT)
    column = widest([*map(str, values), *map(point_text, rows)]) + SPACE
    unit, step = PLOT_HEIGHT / axis.ticks[-1], (WIDTH - MARGIN - left - column) / (len(values) - 1)
    places = {value: left + column / 2 + step * number for number, value in enumerate(values)}
    for tick in axis.ticks:
        drawing.line([(left, bottom - tick * unit), (WIDTH - MARGIN, bottom - tick * unit)], FAINT)
        drawing.text(left - SPACE, bottom - tick * unit + 4, f"{tick:g}", "end")
    for number, found in enumerate(cells.values()):
        draw_points(drawing, [(places[value], found.get(value)) for value in values], axis, bottom, unit, 9 + 12 * number)
    drawing.text(WIDTH - MARGIN, 64, ", ".join(sign for text, sign in SIGNS.items() if text in set(map(point_text, rows))), "end")
    return draw_columns(drawing, name, cells, {value: places[value] for value in values[::math.ceil(column / step)]}, bottom)


def draw_columns(drawing: Drawing, name: str, cells: Mapping[str, Mapping[int, Row]], places: Mapping[int, float],
                 bottom: float) -> float:
    """The values for which there is a place, each with what its points say below it; returns the height of the whole."""
    lines = {name: {value: str(value) for value in places}}
    for variant, found in cells.items():
        lines[VARIANTS[variant].label] = {value: point_text(row) for value, row in found.items() if value in places}
    y = bottom + 4
    for heading, texts in lines.items():
        if any(texts.values()):
            y += LINE
            drawing.text(MARGIN, y, heading)
            for value, text in texts.items():
                drawing.text(places[value], y, text, "middle")
    return y + LINE


def draw_points(drawing: Drawing, points: Sequence[tuple[float, Optional[Row]]], axis: Axis, bottom: float, unit: float,
                above: float) -> None:
    """The points of a variant, with a line through those that follow one another; a cross `above` the bottom where one failed."""
    for measured, group in itertools.groupby(points, lambda point: bool(point[1] and point[1].times)):
        run = [(x, row) for x, row in group if row]
        if measured:
            drawing.line([(x, bottom - axis.figure(row) * unit) for x, row in run], COLORS[run[0][1].variant], 2)
        for x, row in run:
            draw_point(drawing, row, axis, (x, bottom if measured else bottom - above), unit)


def draw_point(drawing: Drawing, row: Row, axis: Axis, foot: tuple[float, float], unit: float) -> None:
    """A measured point with its interval, hollow where the output was wrong; a cross where it failed."""
    x, y = foot
    color = COLORS[row.variant]
    if not row.times:
        for slope in (-1, 1):
            drawing.line([(x - 4, y - 4 * slope), (x + 4, y + 4 * slope)], color, 2)
        return
    drawing.line([(x, y - end * unit) for end in axis.interval(row)], INK, 1.5)
    drawing.rectangle(x - 3, y - axis.figure(row) * unit - 3, 6, 6, GROUND if row.check == "WRONG" else color, color)


# ======================================================================================================================
# 16. Command line
# ======================================================================================================================

REFERENCE_CONFIGS = (Config(32, 8, 4), Config(64, 8, 4))
FORMATS = ("table", *REPORTS)
WITHOUT_AN_ENGINE = "Without one, --engine reference runs small programs in plain Python; emit, compare and chart work anywhere."
REPORT_IT = f"Should this machine have one, please report it with the output of: python3 {PROGRAM_NAME}.py doctor"

# The least time between two plain lines of progress.
PLAIN_SECONDS = 1.0


class Terminated(BaseException):
    """SIGTERM came (exit 143)."""


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose help is this file's docstring."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, which is one line."""
        raise UsageError(message)

    def format_help(self) -> str:
        """The manual."""
        return f"{(__doc__ or '').strip()}\n"

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version go where all output goes: argparse would leave it to Python's end to find that they cannot."""
        say(message)


def build_parser() -> argparse.ArgumentParser:
    """The command line: verbs and their options."""
    parser = _Parser(prog=PROGRAM_NAME, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{PROGRAM_NAME} {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    run_options, doctor, emit_options, compare, chart = (verbs.add_parser(verb, allow_abbrev=False) for verb in VERBS)
    emit_options.add_argument("directory", metavar="DIR")
    for options in (run_options, emit_options):
        _add_program_options(options)
    for name in ("iters", "rounds", "warmup", "qos", "verify"):
        run_options.add_argument(f"--{name}", type=_value(whole_number))
    run_options.add_argument("--input", choices=PROTOCOL_CHOICES["input"])
    run_options.add_argument("--timeout", type=_value(positive_number))
    run_options.add_argument("--engine", choices=ENGINES, default="ane")
    run_options.add_argument("--format", choices=FORMATS, default="table")
    run_options.add_argument("--save", metavar="FILE.json")
    run_options.add_argument("--quiet", action="store_true")
    doctor.add_argument("--format", choices=("table", "json"), default="table")
    for name in ("base", "new"):
        compare.add_argument(name, metavar=f"{name.upper()}.json")
    compare.add_argument("--fail-if-slower", type=_value(positive_number), metavar="PERCENT")
    chart.add_argument("run", metavar="RUN.json")
    chart.add_argument("-o", dest="output", metavar="FILE.svg")
    return parser


def _add_program_options(options: argparse.ArgumentParser) -> None:
    """What says which programs are meant."""
    options.add_argument("--config", action="append", type=_value(Config.parse), dest="configs", metavar="CHxSPxDEPTH")
    for name in Config._fields:
        options.add_argument(f"--{name}", type=_value(parse_dimensions))
    options.add_argument("--variants", type=_value(parse_variants))
    options.add_argument("--original", action="store_true")
    options.add_argument("--seed", type=_value(whole_number))
    for name in ("blob", "dialect"):
        options.add_argument(f"--{name}", choices=PROTOCOL_CHOICES[name])


def _value(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser of values whose own error argparse prints beside the option's name."""
    def value(text: str) -> Any:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return value


def whole_number(text: str) -> int:
    """A number from 0; raises UsageError where the text is none."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{text!r}: expected a whole number from 0")
    return int(text)


def positive_number(text: str) -> float:
    """A number above 0; raises UsageError where the text is none."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not float(text):
        raise UsageError(f"{text!r}: expected a number above 0, such as 5")
    return float(text)


def parse_dimensions(text: str) -> list[int]:
    """The numbers of a list such as `256,512`, each once; raises UsageError where one is none."""
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise UsageError(f"{text!r}: expected whole numbers separated by commas, such as 256,512")
    return list(dict.fromkeys(map(int, text.split(","))))


def parse_variants(text: str) -> list[str]:
    """Variants in a list such as `fp16,w8a8`; raises UsageError where one does not exist or stands there twice."""
    names = text.split(",")
    for name in names:
        if name not in VARIANTS or names.count(name) > 1:
            raise UsageError(f"{name!r}: expected some of {', '.join(VARIANTS)}, each once")
    return names


def configs_of(options: argparse.Namespace, default: Sequence[Config]) -> Sequence[Config]:
    """The configurations that the options ask for: given ones, a sweep's cross product, or the default ones. What a sweep
    does not name is as in the first of those."""
    given = {name: getattr(options, name) for name in Config._fields if getattr(options, name)}
    if not given:
        return options.configs or default
    if options.configs:
        raise UsageError(f"--config does not go with --{next(iter(given))}: ask for configurations, or for a sweep")
    values = [given.get(name, [getattr(default[0], name)]) for name in Config._fields]
    return list(itertools.starmap(Config, itertools.product(*values)))


def protocol_of(options: argparse.Namespace) -> Protocol:
    """The protocol that the options ask for; raises UsageError for one that --original fixes."""
    given = {name: getattr(options, name) for name in Protocol._fields if getattr(options, name, None) is not None}
    if not options.original:
        return Protocol(**given).check()
    for name in given:
        if name not in ("original", "seed", "timeout"):
            raise UsageError(f"--{name} does not go with --original, which fixes it to {getattr(ORIGINAL_PROTOCOL, name)}")
    return ORIGINAL_PROTOCOL._replace(**given).check()


def say(text: str) -> None:
    """Writes to standard output. Raises OutputError where that cannot be; a reader that went away, as `head` does, raises
    BrokenPipeError."""
    if not sys.stdout:
        raise OutputError("standard output: cannot be written: it is closed")
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot be written: {error.strerror}") from None


def complain(text: str) -> None:
    """Writes a line to standard error, where there is one; there is no telling anybody of what goes wrong there."""
    if sys.stderr:  # else print takes standard output
        try:
            print(f"{PROGRAM_NAME}: {text}", file=sys.stderr, flush=True)
        except OSError:
            give_up(sys.stderr)


def give_up(stream: Optional[TextIO]) -> None:
    """A stream takes no more: what Python still holds of it must not be tried again at the end, and make that exit code 120."""
    with contextlib.suppress(OSError, AttributeError):  # it may be closed, or another's that has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


class Progress(Watcher):
    """Tells how far a run is: one live line on a terminal, plain lines, at most one a second, elsewhere."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._live = stream.isatty()
        self._printed = -math.inf
        self._config = -1
        self._run_start = self._config_start = self._rounds_start = 0.0

    def message(self, run: Run, message: dict[str, Any]) -> None:
        """A line for a stage or a round that begins."""
        if message["kind"] != "stage":
            return
        now, number = self._clock(), len(run.results)
        rounds = "number" in message and "of" in message
        if number != self._config:
            self._config, self._config_start = number, now
            self._run_start = self._run_start if number else now
        if rounds and message["number"] == 1:
            self._rounds_start = now
        if not self._live and now - self._printed < PLAIN_SECONDS:
            return
        self._printed = now
        step = f"round {message['number']} of {message['of']}" if rounds else message["stage"]
        seconds = self._left(len(run.configs), *((message["number"], message["of"]) if rounds else (1, 1)))
        left = "" if seconds is None else f", about {clock_time(seconds)} left"
        line = (f"[{number + 1}/{len(run.configs)}] {run.configs[number].name} {message['variant']}: {step}, "
                f"{clock_time(now - self._run_start)} elapsed{left}")
        # A line that wraps could not be cleared.
        self._write(f"\r\x1b[K{line[:shutil.get_terminal_size().columns - 1]}" if self._live else f"{line}\n")

    def _left(self, configs: int, number: int, of: int) -> Optional[float]:
        """Seconds left when a round begins: this configuration's rounds at the pace of those done, the others as long as those
        done, or as this one. None before there is anything to go by."""
        spent, now = self._printed - self._config_start, self._printed
        rest = (now - self._rounds_start) / (number - 1) * (of - number + 1) if number > 1 else None
        if self._config:
            each = (self._config_start - self._run_start) / self._config
            rest = max(0.0, each - spent) if rest is None else rest
        elif rest is not None:
            each = spent + rest
        return None if rest is None else rest + each * (configs - self._config - 1)

    def result(self, run: Run, result: Result) -> None:
        """What comes next stands by itself."""
        self.clear()

    def clear(self) -> None:
        """Clears the live line."""
        if self._live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        """There is no telling anybody of what goes wrong here."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            give_up(self._stream)


def clock_time(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class _Reporter(Watcher):
    """What a run prints and saves while it goes on."""

    def __init__(self, options: argparse.Namespace, command: Sequence[str]) -> None:
        self._options, self._command = options, command
        self._progress = Watcher() if options.quiet or not sys.stderr else Progress(sys.stderr)
        self.unsaved = False

    def start(self, run: Run) -> None:
        """Names the command, which the record holds."""
        run.command = self._command

    def wait(self, run: Run, path: str) -> None:
        """Said with --quiet too: else it would seem to hang."""
        complain(f"waiting for another run on this machine to end (it holds the lock on {path})")

    def message(self, run: Run, message: dict[str, Any]) -> None:
        """Hands it to the progress."""
        self._progress.message(run, message)

    def result(self, run: Run, result: Result) -> None:
        """Saves before it prints: a reader may have gone away."""
        self._progress.result(run, result)
        record = run.to_dict()
        if self._options.save:
            self._save(record)
        if self._options.format == "table":
            view = view_of(record, run.configs)
            say((table_head(record, view) if len(run.results) == 1 else "") + table_rows(record["results"][-1], view))

    def clear(self) -> None:
        """The run is over, or was broken off in the middle of a line."""
        if isinstance(self._progress, Progress):
            self._progress.clear()

    def _save(self, record: Mapping[str, Any]) -> None:
        """What cannot be saved later than at the start costs the file, and not what is still to be measured."""
        try:
            write_file(self._options.save, record_text(record))
            self.unsaved = False
        except OutputError as error:
            complain(str(error))
            self.unsaved = True


def run_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """`run`: the comparison."""
    configs = configs_of(options, REFERENCE_CONFIGS if options.engine == "reference" else DEFAULT_CONFIGS)
    protocol = protocol_of(options)
    if options.save:
        check_writable(options.save)
    reporter = _Reporter(options, command)
    try:
        found = run(configs, options.variants or DEFAULT_VARIANTS, protocol, engine=options.engine, watcher=reporter)
    finally:
        reporter.clear()
    record = found.to_dict()
    notes = footnotes(record, view_of(record))
    if options.format != "table":
        say(REPORTS[options.format](record))
    elif protocol.original:
        say("=== Done ===\n")
    elif notes:
        say("\n".join([*notes, ""]))
    if not options.quiet:
        for line in [*(notes if protocol.original else ()), *(f"warning {text}" for text in grouped(found.warnings))]:
            complain(line)
    return 0 if found.ok and not reporter.unsaved else 1


def doctor_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """`doctor`: what this machine has, check by check."""
    found: list[dict[str, str]] = []

    def tell(name: str, finding: Finding) -> None:
        found.append({"name": name, **finding._asdict()})
        if options.format == "table":
            advice = f" -> {finding.advice}" if finding.advice else ""
            say(f"{finding.state:<5} {name}: {finding.value}{advice}\n")

    well = examine_in_children(tell)
    if options.format == "json":
        say(record_text({"schema": f"{PROGRAM_NAME}-doctor/1", "version": __version__, "ok": well, "checks": found}))
    else:
        say("\nAll is well: python3 ane_bench.py will measure.\n" if well else
            "\nNot all is well: see the lines that begin with FAIL, and what to do after the arrow.\n")
    return 0 if well else 3


def emit_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """`emit`: each program's two files, below a directory."""
    protocol = protocol_of(options)
    blob, dialect = attempts(protocol)[0]
    for config in configs_of(options, DEFAULT_CONFIGS):
        for variant in options.variants or DEFAULT_VARIANTS:
            program = build_program(config, variant, seed=protocol.seed, original=protocol.original, blob=blob, dialect=dialect)
            path = os.path.join(options.directory, f"{config.name}-{variant}")
            try:
                os.makedirs(path, exist_ok=True)
                program.write(path)
            except OSError as error:
                raise UsageError(f"{error.filename or path}: cannot be written: {error.strerror}") from None
            say(f"{path}\n")
    return 0


def compare_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """`compare`: two records, cell by cell."""
    base, new = read_record(options.base), read_record(options.new)
    say(comparison(base, new))
    if not options.fail_if_slower:
        return 0
    found, slower = differences(base, new), slower_cells(base, new, options.fail_if_slower)
    if not found and not slower:
        slower = ["no cell has figures in both records"]
    if not all(item.interval for item in found):
        complain(f"some cells have fewer than {FEWEST_ROUNDS} rounds: whether they are slower cannot be told")
    for line in slower:
        complain(line)
    return 1 if slower else 0


def chart_verb(options: argparse.Namespace, command: Sequence[str]) -> int:
    """`chart`: a record as an SVG."""
    path = options.output or f"{os.path.splitext(options.run)[0]}.svg"
    record = read_record(options.run)
    check_writable(path)
    if os.path.realpath(path) == os.path.realpath(options.run):
        raise UsageError(f"{path}: the chart would take the place of the record; name another file with -o")
    write_file(path, chart(record))
    say(f"{path}\n")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "run": run_verb, "doctor": doctor_verb, "emit": emit_verb, "compare": compare_verb, "chart": chart_verb}


@contextlib.contextmanager
def answering_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM become exceptions, so that cleaning up is done; the first one only, or who presses Ctrl-C twice would
    break that off. Only the main thread may say so; a Ctrl-C that is ignored, as in the background, stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answered = False

    def answer(number: int, frame: Any) -> None:
        nonlocal answered
        if not answered:
            answered = True
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, answer)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command line (sys.argv where none is given) and returns the exit code; never raises, and prints no traceback
    for what a user or a machine did."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = [re.sub(r"^(--[a-z-]+=)?.*/", r"\1", word) for word in (__file__, *arguments)]  # a path may name its user
    if not arguments or arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        arguments.insert(0, "run")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with answering_signals():
        return _exit_code(arguments, command)


def _exit_code(arguments: Sequence[str], command: Sequence[str]) -> int:
    """What becomes of a command; says why where it does not succeed."""
    try:
        options = build_parser().parse_args(arguments)
        return VERBS[options.verb](options, command)
    except UsageError as error:
        complain(str(error))
        return 2
    except Unavailable as error:
        complain(f"no usable Neural Engine: {error}.\n{WITHOUT_AN_ENGINE}\n{REPORT_IT}")
        return 3
    except OutputError as error:
        complain(str(error))
        give_up(sys.stdout)
        return 1
    except BrokenPipeError:
        give_up(sys.stdout)
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except Terminated:
        complain("terminated")
        return 143
    except SystemExit as stop:  # argparse ends so after --help and --version
        return int(stop.code or 0)


if __name__ == "__main__":
    exit_code = work() if sys.argv[1:] == [WORKER_ARGUMENT] else main()
    for late in (signal.SIGINT, signal.SIGTERM):  # what comes now changes nothing, but Python would show where it was
        signal.signal(late, signal.SIG_IGN)
    sys.exit(exit_code)
