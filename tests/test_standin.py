"""The stand-in itself: each of its settings does as the comment at the head of tests/standin/standin.m says.

It is driven by hand (tests/standin/driver.py), with programs and a reference written here from the definitions alone.
"""

import base64
import json
import math
import random
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests import support
from tests.standin.build import build

STANDIN = Path(__file__).resolve().parent / "standin"
SCALE = 2.0 ** -5  # of quantize and dequantize
WEIGHT_SCALE = 1331 * 2.0 ** -17  # of weights in int8: all 11 bits of an fp16, so that dequantized weights are rounded
COMPILER = "com.apple.appleneuralengine.compiler"
ENGINE = "com.apple.appleneuralengine"
REFUSED = [COMPILER, 1, "_ANECompiler : ANECCompile() FAILED"]

Tensor = list[list[float]]  # [channel][pixel]
Layer = list[list[list[float]]]  # [output][input][tap]
Acts = Sequence[Sequence[Any]]


# ======================================================================================================================
# Programs
# ======================================================================================================================

class Net(NamedTuple):
    """A chain of convolutions: weights as numbers (int8 levels in W8A16 and W8A8), and an input."""

    variant: str
    layers: list[Layer]
    height: int
    width: int
    kernel: int
    input: Tensor
    scale: float = WEIGHT_SCALE

    @property
    def channels(self) -> int:
        """Return the channels of each layer."""
        return len(self.layers[0])


def fp16(value: float) -> float:
    """Return the nearest fp16, ties to even."""
    found: float = struct.unpack("<e", struct.pack("<e", value))[0]
    return found


def make_net(variant: str, kernel: int = 1, *, channels: int = 6, height: int = 3, width: int = 4, depth: int = 3,
             seed: int = 0, scale: float = WEIGHT_SCALE) -> Net:
    """Draw weights and an input: dense, of all sizes, with products that an M4 drops and ties that are rounded."""
    source = random.Random(seed)
    taps = kernel * kernel

    def weight() -> float:
        if variant != "fp16":
            return source.choice((-1, 1)) * source.randint(1, 127)
        return fp16(source.gauss(0, 1) * 2.0 ** -source.randint(0, 8) / math.sqrt(taps))

    layers = [[[[weight() for _ in range(taps)] for _ in range(channels)] for _ in range(channels)]
              for _ in range(depth)]
    pixels = [[fp16(source.gauss(0, 1) * 2.0 ** -source.randint(0, 9)) for _ in range(height * width)]
              for _ in range(channels)]
    return Net(variant, layers, height, width, kernel, pixels, scale)


def scalar(kind: str, value: str, dialect: str) -> str:
    """Return a typed literal of a dialect."""
    return f"{kind}({value})" if dialect == "short" else f"tensor<{kind}, []>({value})"


def write_mil(net: Net, dialect: str, step: int) -> str:
    """Return the text; records lie `step` bytes apart."""
    def constant(kind: str, name: str, value: str) -> str:
        declared = kind if dialect == "short" else f"tensor<{kind}, []>"
        return f"{declared} {name} = const()[name = {scalar('string', quoted(name), dialect)}, " \
               f"val = {scalar(kind, value, dialect)}];"

    def several(name: str, number: int, count: int) -> str:
        kind = f"tensor<int32, [{count}]>"
        return f"{kind} {name} = const()[name = {scalar('string', quoted(name), dialect)}, " \
               f"val = {kind}([{', '.join([str(number)] * count)}])];"

    def quoted(text: str) -> str:
        return f'"{text}"'

    def operation(kind: str, name: str, called: str) -> str:
        return f"tensor<{kind}, [1, {net.channels}, {net.height}, {net.width}]> {name} = {called}" \
               f"[name = {scalar('string', quoted(name), dialect)}];"

    int8, padded = net.variant != "fp16", net.kernel == 3
    opset = {"fp16": 16, "w8a16": 16, "w8a8": 17}[net.variant]
    lines = [f"program({'1.0' if dialect == 'long' else '1.3'})", "{",
             f"func main<ios{opset}>(tensor<fp16, [1, {net.channels}, {net.height}, {net.width}]> x) {{",
             constant("string", "pad_type", quoted("custom" if padded else "valid")), several("strides", 1, 2),
             several("pad", int(padded), 4), several("dilations", 1, 2), constant("int32", "groups", "1"),
             constant("fp16", "scale", SCALE.hex()), constant("string", "dtype", quoted("int8"))]
    last = "x"
    for index in range(len(net.layers)):
        shape = f"[{net.channels}, {net.channels}, {net.kernel}, {net.kernel}]"
        path, offset = quoted("@model_path/weights/weight.bin"), str(64 + index * step)
        file = f"BLOBFILE(path = {scalar('string', path, dialect)}, offset = {scalar('uint64', offset, dialect)})"
        name = scalar("string", quoted(f"w{index}"), dialect)
        if int8:
            zero, scale = scalar("int8", "0", dialect), scalar("fp16", net.scale.hex(), dialect)
            lines.append(f"tensor<fp16, {shape}> w{index} = constexpr_affine_dequantize()[axis = "
                         f"{scalar('int32', '0', dialect)}, name = {name}, quantized_data = "
                         f"tensor<int8, {shape}>({file}), scale = {scale}, zero_point = {zero}];")
        else:
            lines.append(f"tensor<fp16, {shape}> w{index} = const()[name = {name}, "
                         f"val = tensor<fp16, {shape}>({file})];")
        lines.append(operation("fp16", f"c{index}", "conv(dilations = dilations, groups = groups, pad = pad, "
                               f"pad_type = pad_type, strides = strides, weight = w{index}, x = {last})"))
        last = f"c{index}"
        if net.variant == "w8a8" and index < len(net.layers) - 1:
            lines.append(operation("int8", f"q{index}",
                                   f"quantize(input = {last}, output_dtype = dtype, scale = scale)"))
            lines.append(operation("fp16", f"d{index}", f"dequantize(input = q{index}, scale = scale)"))
            last = f"d{index}"
    return "\n".join([*lines, f"}} -> ({last});", "}"])


def write_blob(net: Net, layout: str) -> tuple[bytes, int]:
    """Return the weight file, and how many bytes its records lie apart."""
    element = "e" if net.variant == "fp16" else "b"
    planes = [struct.pack(f"<{len(net.layers[0]) ** 2 * net.kernel ** 2}{element}",
                          *(int(tap) if element == "b" else tap for row in layer for taps in row for tap in taps))
              for layer in net.layers]
    step = 64 + (len(planes[0]) + 63) // 64 * 64
    whole = bytearray(struct.pack("<II", len(planes), 2).ljust(64, b"\0"))
    for index, plane in enumerate(planes):
        place = 64 + index * step
        record = struct.pack("<IIQQ", 0xDEADBEEF, 1 if element == "e" else 4, len(plane), place + 64)
        if layout == "original":
            record = struct.pack("<IIQQ", 0xDEADBEEF, 1, 0x100000, 0)
        whole += record.ljust(64, b"\0") + plane.ljust(step - 64, b"\0")
    return bytes(whole), step


def write_program(net: Net, *, dialect: str = "short", layout: str = "standard") -> dict[str, Any]:
    """Return a program as the driver takes it."""
    blob, step = write_blob(net, layout)
    row = 64 * math.ceil(net.width * 2 / 64)
    content = b"".join(struct.pack(f"<{net.width}e", *channel[first:first + net.width]).ljust(row, b"\0")
                       for channel in net.input for first in range(0, net.height * net.width, net.width))
    return {"mil": write_mil(net, dialect, step), "blob": base64.b64encode(blob).decode(),
            "input": base64.b64encode(content).decode(), "output_bytes": row * net.height * net.channels,
            "channels": net.channels}


# ======================================================================================================================
# Reference: what a program computes, from the definitions
# ======================================================================================================================

class How(NamedTuple):
    """An arithmetic, and what may be wrong with it."""

    kind: str = "exact"
    store_away: bool = False
    quantize_away: bool = False
    store: str = "fp16"
    quantizes: bool = True
    floors: bool = False
    step: float = 1
    replicates: bool = False


EXACT, M4 = How(), How("m4", True, True)


def nearest(value: float, unit: float, away: bool) -> float:
    """Return the multiple of a power of two that is nearest to a value."""
    steps = abs(value) / unit
    whole = math.floor(steps)
    rest = steps - whole
    whole += rest > 0.5 or (rest == 0.5 and (away or whole % 2 == 1))
    return math.copysign(whole * unit, value)


def rounded(value: float, bits: int, least: int, away: bool) -> float:
    """Return a value of so many significant bits, the least unit being 2 to the power of `least`."""
    if value == 0 or not math.isfinite(value):
        return value
    return nearest(value, max(2.0 ** (math.frexp(value)[1] - bits), 2.0 ** least), away)


def as_half(value: float, away: bool) -> float:
    """Return the nearest fp16, or an infinity."""
    found = rounded(value, 11, -24, away)
    return math.copysign(math.inf, found) if abs(found) > 65504 else found


def store(value: float, last: bool, how: How) -> float:
    """Return a result as it is stored."""
    if how.store == "bf16":
        return rounded(value, 8, -133, False)
    if how.store == "fp32" and not last:
        return rounded(value, 24, -149, False)
    return as_half(value, how.store_away)


def sum_m4(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the sum of products as an M4 does it."""
    total = 0.0
    for one, other in pairs:
        if one == 0 or other == 0 or math.frexp(one)[1] + math.frexp(other)[1] - 2 <= -17:
            continue
        total += nearest(one * other, 2.0 ** -16, True)
        if abs(total) >= 32768:
            return math.copysign(math.inf, total)
    return total


def sum_m1(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the sum of products as an M1 is said to do it."""
    groups = [math.fsum(one * other for one, other in pairs[first:first + 4]) for first in range(0, len(pairs), 4)]
    return math.fsum(as_half(group, False) for group in groups)


def sum_exactly(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the exact sum of products."""
    return math.fsum(one * other for one, other in pairs)


def around(net: Net, channel: Sequence[float], pixel: int, replicates: bool) -> list[float]:
    """Return the pixels that a kernel covers, of one channel."""
    if net.kernel == 1:
        return [channel[pixel]]
    found = []
    for tap in range(9):
        row, column = pixel // net.width + tap // 3 - 1, pixel % net.width + tap % 3 - 1
        inside = 0 <= row < net.height and 0 <= column < net.width
        row, column = min(max(row, 0), net.height - 1), min(max(column, 0), net.width - 1)
        found.append(channel[row * net.width + column] if inside or replicates else 0.0)
    return found


def reference(net: Net, how: How = EXACT) -> Tensor:
    """Return the output."""
    adds: Callable[[Sequence[tuple[float, float]]], float] = {"m1": sum_m1, "m4": sum_m4}.get(how.kind, sum_exactly)
    values, scale = net.input, SCALE * how.step
    for index, layer in enumerate(net.layers):
        last = index == len(net.layers) - 1
        # An M4 multiplies the integers, if both sides are quantized.
        integers = how.kind == "m4" and net.variant == "w8a8" and index > 0 and how.quantizes
        factor = scale * net.scale if integers else 1
        weights = layer if net.variant == "fp16" or integers \
            else [[[as_half(tap * net.scale, False) for tap in taps] for taps in row] for row in layer]
        results: Tensor = [[0.0] * len(values[0]) for _ in layer]
        for pixel in range(len(values[0])):
            patch = [value for channel in values for value in around(net, channel, pixel, how.replicates)]
            for kernels, result in zip(weights, results):
                pairs = list(zip([tap for kernel in kernels for tap in kernel], patch))
                total = sum_exactly(pairs) if integers else adds(pairs)
                result[pixel] = store(total * factor, last, how)
        values = results
        if net.variant == "w8a8" and not last and how.quantizes:
            whole = how.kind == "m4"  # stays integer
            values = [[requantized(value, scale, whole, how) for value in channel] for channel in values]
    return [[as_half(value, how.store_away) for value in channel] for channel in values]


def requantized(value: float, scale: float, whole: bool, how: How) -> float:
    """Return a value after quantize and, unless it stays whole, dequantize."""
    steps = value / scale
    level = math.floor(steps) if how.floors else nearest(steps, 1, how.quantize_away) if math.isfinite(steps) else steps
    level = min(max(level, -128.0), 127.0)
    return level if whole else as_half(level * scale, how.store_away)


# ======================================================================================================================
# Tests
# ======================================================================================================================

PATIENCE = 60  # seconds within which everything that ends must have ended


class Driven(NamedTuple):
    """What a driver printed, and how it ended."""

    code: int
    results: list[Any]
    errors: str


@support.long_test
class Case(support.DirectoryCase):
    """A temporary directory for each test."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.directory / "log"
        self.library = support.standin_library()

    def popen(self, nets: dict[str, dict[str, Any]], acts: Acts,
              settings: dict[str, Any]) -> subprocess.Popen[str]:
        """Start a driver."""
        plain = {"TMPDIR": str(self.directory), "PATH": "/usr/bin:/bin", "STANDIN_LOG": str(self.log)}
        own = {name if name.isupper() and name.startswith("SYSTEM") else f"STANDIN_{name}": str(value)
               for name, value in settings.items()}
        started = subprocess.Popen([sys.executable, "-IS", str(STANDIN / "driver.py"), str(self.library)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   encoding="utf-8", env={**plain, **own})
        assert started.stdin
        started.stdin.write(json.dumps({"programs": nets, "acts": acts}))
        started.stdin.close()
        started.stdin = None
        return started

    def drive(self, nets: dict[str, dict[str, Any]], acts: Acts, **settings: Any) -> Driven:
        """Do acts in a process of their own, under settings (variables without their prefix)."""
        with self.popen(nets, acts, settings) as started:
            output, errors = started.communicate(timeout=PATIENCE)
        return Driven(started.returncode, [json.loads(line) for line in output.splitlines()], errors)

    def results(self, nets: dict[str, dict[str, Any]], acts: Acts, **settings: Any) -> list[Any]:
        """Do acts that must all be done."""
        driven = self.drive(nets, acts, **settings)
        self.assertEqual((driven.code, len(driven.results)), (0, len(acts)), driven.errors)
        return driven.results

    def outputs(self, nets: Sequence[Net], **settings: Any) -> list[Tensor]:
        """Return the outputs of programs after one evaluate each of a poisoned surface, in one process."""
        programs = {str(number): write_program(net) for number, net in enumerate(nets)}
        acts: Acts = [[act, name] for name in programs for act in ("start", "poison", "evaluate", "read")]
        results = self.results(programs, acts, **settings)
        self.assertEqual(results[::4], [True] * len(nets))
        return [decoded(net, content) for net, content in zip(nets, results[3::4])]

    def output(self, net: Net, **settings: Any) -> Tensor:
        """Return the output of one program."""
        found, = self.outputs([net], **settings)
        return found

    def durations(self, acts: Acts, **settings: Any) -> dict[str, list[float]]:
        """Return the µs of each evaluate by variant, of acts with programs named by their variants."""
        nets = {variant: write_program(make_net(variant, depth=2)) for variant in ("fp16", "w8a8")}
        whole = [["start", "fp16"], ["start", "w8a8"], *acts]
        found: dict[str, list[float]] = {"fp16": [], "w8a8": []}
        settings = {"CLOCK": "virtual", "COMPUTE": "none", **settings}
        for act, result in zip(whole, self.results(nets, whole, **settings)):
            if act[0] == "evaluate":
                found[act[1]] += [nanoseconds / 1000 for nanoseconds in result]
        return found

    def calls(self, *beginnings: str) -> list[str]:
        """Return lines of the log."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line for line in text.splitlines() if line.startswith(beginnings)]


def decoded(net: Net, content: str) -> Tensor:
    """Return an output surface as numbers."""
    surface = base64.b64decode(content)
    row = len(surface) // (net.channels * net.height)
    values = [value for first in range(0, len(surface), row)
              for value in struct.unpack_from(f"<{net.width}e", surface, first)]
    pixels = net.height * net.width
    return [list(values[first:first + pixels]) for first in range(0, len(values), pixels)]


class ErrorTest(Case):
    """Refusals carry their reason as Apple's do; faults come at the calls that they are set to."""

    def chain(self, stage: str = "compile", **settings: Any) -> Any:
        """Return the chain of errors of one stage."""
        acts: Acts = [["make", "a"], ["compile", "a"], ["load", "a"]][:3 if stage == "load" else 2]
        return self.results({"a": write_program(make_net("fp16"))}, acts, **settings)[-1]

    def test_the_reason_is_below(self) -> None:
        told = "the stand-in was told to refuse at compile"
        for settings, reason in (({"FAULT": "compile:no"}, told), ({"REFUSE": "short"}, "err=(InvalidMILProgram)"),
                                 ({"FAULT": "compile:no", "REASON": "Cause"}, f"{told} err=(Cause)"),
                                 ({"REFUSE": "short", "REASON": "compile:0x20004"}, "(0x20004)"),
                                 ({"REFUSE": "short", "REASON": "load:0x20004"}, "err=(InvalidMILProgram)"),
                                 ({"REFUSE": "short", "REASON": "w8a8/compile:X;Y"}, "err=(Y)")):
            with self.subTest(settings):
                self.assertEqual(self.chain(**settings), [REFUSED, [COMPILER, 1, reason]])

    def test_of_load_and_evaluate(self) -> None:
        self.assertEqual(self.chain("load", FAULT="load:no", REASON="load:0x50004"),
                         [[ENGINE, 6, "Program load failure"],
                          [ENGINE, 6, "the stand-in was told to refuse at load (0x50004)"]])
        acts: Acts = [["start", "a"], ["evaluate", "a", 2]]
        refused, done = self.results({"a": write_program(make_net("fp16"))}, acts, FAULT="evaluate:once",
                                     REASON="evaluate:0x1d")[1]
        self.assertEqual(refused[0], [ENGINE, 8, "Program Inference error"])
        self.assertIn("Failed with status=0x1d : statusType=0x9", refused[1][2])
        self.assertIsInstance(done, float)

    def test_shapes(self) -> None:
        reason = [COMPILER, 1, "err=(InvalidMILProgram)"]
        for shape, expected in (("0", [[*REFUSED[:2], f"{REFUSED[2]} {reason[2]}"]]), ("1", [REFUSED, reason]),
                                ("3", [REFUSED, [COMPILER, 1, "error 1 below the outermost"],
                                       [COMPILER, 1, "error 2 below the outermost"], reason]),
                                ("loop", [REFUSED, reason, "again 1"]), ("pair", [REFUSED, reason, "again 0"]),
                                ("nil", [REFUSED, "nil"]), ("text", [REFUSED, "text err=(InvalidMILProgram)"])):
            with self.subTest(shape):
                self.assertEqual(self.chain(REFUSE="short", CHAIN=shape), expected)

    def test_calls_that_a_fault_meets(self) -> None:
        acts: Acts = [["make", "a"], *[["compile", "a"]] * 6]
        for when, refused in (("compile:once", [1]), ("compile:once@3", [3]), ("compile:no@5", [5, 6]),
                              ("compile:no@2-3", [2, 3]), ("compile:no@3+1", [1, 4]), ("6x3x3/compile:no@6", [6]),
                              ("6x3x3/fp16/compile:no@6", [6]), ("6x3x3/w8a8/compile:no", []), ("6x3x2/compile:no", []),
                              ("6x3x3k3/compile:no", [])):
            with self.subTest(when):
                results = self.results({"a": write_program(make_net("fp16"))}, acts, FAULT=when)[1:]
                self.assertEqual([index for index, done in enumerate(results, 1) if done is not True], refused)

    def test_a_shape_has_its_kernel(self) -> None:
        acts: Acts = [["make", "a"], ["compile", "a"]]
        found = self.results({"a": write_program(make_net("fp16", 3))}, acts, FAULT="6x3x3k3/compile:no")[1]
        self.assertEqual(found[0], REFUSED)


class ServiceTest(Case):
    """The compile service's state outlives processes."""

    def setUp(self) -> None:
        super().setUp()
        self.state = self.directory / "daemon"
        self.nets = {"a": write_program(make_net("fp16"))}

    def start(self, *acts: Sequence[Any], **settings: Any) -> subprocess.Popen[str]:
        """Start a driver; it is killed after the test."""
        started = self.popen(self.nets, acts or [["make", "a"], ["compile", "a"], ["load", "a"]],
                             {"DAEMON": self.state, **settings})
        self.addCleanup(started.communicate)
        self.addCleanup(started.kill)
        return started

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        until = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), until, "nothing happens")
            time.sleep(0.01)

    def test_after_a_hang_all_later_processes_hang(self) -> None:
        first = self.start(FAULT="load:hang")
        self.wait_for(self.state.exists)
        first.kill()
        second, third = self.start(), self.start(["make", "a"])
        self.assertEqual(third.wait(PATIENCE), 0)
        self.wait_for(lambda: self.calls("compile waits") == ["compile waits for ever"])
        with self.assertRaises(subprocess.TimeoutExpired):
            second.wait(0.5)
        self.state.unlink()
        self.assertEqual(second.wait(PATIENCE), 0)

    def test_after_a_crash_too(self) -> None:
        self.assertLess(self.start(FAULT="compile:crash").wait(PATIENCE), 0)
        self.start()
        self.wait_for(lambda: bool(self.calls("compile waits")))

    def test_a_crash_elsewhere_harms_nobody(self) -> None:
        acts: Acts = [["start", "a"], ["evaluate", "a"]]
        self.assertLess(self.start(*acts, FAULT="evaluate:crash").wait(PATIENCE), 0)
        self.assertEqual(self.start(*acts).wait(PATIENCE), 0)

    def test_a_killed_compile_goes_on(self) -> None:
        first = self.start(FAULT="compile:slow=4")
        self.wait_for(lambda: bool(list(self.directory.glob("daemon.busy"))))
        until = time.monotonic() + 3.9
        first.kill()
        self.assertEqual(self.start().wait(PATIENCE), 0)
        self.assertGreater(time.monotonic(), until, "it did not wait")

    def test_compiles_fail_for_the_wrong_reason_while_it_restarts(self) -> None:
        wrong = [REFUSED, [COMPILER, 1, "err=(CompilationFailure)"]]
        right = [REFUSED, [COMPILER, 1, "err=(InvalidMILProgram)"]]
        refused = {"a": {**self.nets["a"], "mil": "no program"}, "b": self.nets["a"]}
        acts: list[list[Any]] = [["make", "a"], ["make", "b"], ["compile", "a"], ["compile", "b"], ["sleep", 0.4],
                                 ["compile", "b"]]
        for settings in ({}, {"DAEMON": self.state}):
            with self.subTest(settings):
                self.assertEqual(self.results(refused, acts, RESTART=0.3, **settings)[2:], [right, wrong, None, True])
        self.results(refused, acts[:3], RESTART=30, DAEMON=self.state)
        self.assertEqual(self.results(refused, acts[1:2] + acts[3:4], RESTART=30, DAEMON=self.state)[1], wrong)


class ClockTest(Case):
    """Times are what the settings say."""

    LATENCY = "fp16:1000,w8a8:500"

    def test_speed(self) -> None:
        net = make_net("fp16", depth=2)
        operations = 2 * 6 * 6 * 2 * net.height * net.width
        found = self.durations([["evaluate", "fp16", 3], ["evaluate", "w8a8"]], SPEED="fp16:100+1e-6,w8a8:7+1",
                               LATENCY="fp16:10")
        for time_taken in found["fp16"]:
            self.assertAlmostEqual(time_taken, 110 + operations / 1e6 * 1e6 / 1, delta=0.1)
        self.assertAlmostEqual(found["w8a8"][0], 7, delta=0.1)

    def risen(self, works: Sequence[tuple[float, float]], factor: float, scale: float) -> list[float]:
        """Return how long pieces of work take, each after some idling, by small steps; all in µs."""
        excess, found = 1.0, []
        for idle, work in works:
            excess = min(1, excess + max(0, idle - 100) / 100e3)
            taken = 0.0
            step = work / 2000
            while work > 1e-9:
                speed = 1 / (1 + (factor - 1) * excess)
                part = min(step, work / speed)
                taken, work = taken + part, work - part * speed
                excess *= math.exp(-part / scale)
            found.append(taken)
        return found

    def test_rise(self) -> None:
        for scale in (0.06, 0.25):
            with self.subTest(scale):
                acts: Acts = [["evaluate", "fp16", 60], ["evaluate", "w8a8", 60]]
                found = self.durations(acts, RISE=f"2.8:{scale}", LATENCY="fp16:2000,w8a8:1000")
                expected = self.risen([(0, 2000)] * 60 + [(0, 1000)] * 60, 2.8, scale * 1e6)
                for one, other in zip(found["fp16"] + found["w8a8"], expected):
                    self.assertAlmostEqual(one, other, delta=0.003 * other)

    def test_idling_brings_it_back(self) -> None:
        # A lock that is slow moves the virtual clock on: the idling is known exactly.
        for milliseconds in (0.09, 20, 60, 200):
            with self.subTest(milliseconds):
                acts: Acts = [["evaluate", "fp16", 400], ["poison", "fp16"], ["evaluate", "fp16", 1]]
                found = self.durations(acts, RISE="2.8:0.06", LATENCY=self.LATENCY,
                                       FAULT=f"lock:slow={milliseconds / 1000}@3")["fp16"]
                self.assertAlmostEqual(found[399], 1000, delta=5)
                expected, = self.risen([(0, 1000)] * 400 + [(milliseconds * 1000, 1000)], 2.8, 60e3)[400:]
                self.assertAlmostEqual(found[400], expected, delta=0.004 * expected)

    def test_jump_takes_exactly_the_latency_and_sees_idling(self) -> None:
        started = time.monotonic()
        acts: Acts = [["evaluate", "fp16", 1200], ["sleep", 0.15], ["evaluate", "fp16", 1]]
        found = self.durations(acts, CLOCK="jump", COMPUTE="all", RISE="2:0.05", LATENCY="fp16:50000")["fp16"]
        self.assertLess(time.monotonic() - started, PATIENCE, "1200 evaluates of 50 ms took their time")
        self.assertAlmostEqual(min(found), 50000, delta=200)
        self.assertAlmostEqual(found[-1], self.risen([(0, 50000)], 2, 50e3)[0], delta=2000)

    def test_jump_does_not_count_the_time_of_computing(self) -> None:
        net = make_net("fp16", channels=48, height=16, width=16, depth=12)
        acts: Acts = [["start", "a"], *[["write", "a"], ["evaluate", "a"]] * 5]
        taken = {}
        for clock in ("real", "jump"):
            results = self.results({"a": write_program(net)}, acts, CLOCK=clock, LATENCY="fp16:100")
            taken[clock] = sorted(result[0] for result in results[2::2])[2]
        self.assertGreater(taken["real"], 2e6, "this program takes no time")
        self.assertLess(taken["jump"], 1e6)

    def test_real(self) -> None:
        for time_taken in self.durations([["evaluate", "fp16", 5]], CLOCK="real", LATENCY="fp16:3000")["fp16"]:
            self.assertGreaterEqual(time_taken, 3000)

    def test_gaps(self) -> None:
        gaps = self.directory / "gaps"
        acts: Acts = [["evaluate", "fp16", 2], ["sleep", 0.02], ["evaluate", "w8a8", 2], ["unload", "fp16"],
                      ["evaluate", "w8a8"]]
        self.durations(acts, CLOCK="jump", GAPS=gaps, LATENCY=self.LATENCY)
        lines = [line.split() for line in gaps.read_text().splitlines()]
        self.assertEqual([variant for variant, _, _ in lines], ["fp16", "fp16", "w8a8", "w8a8", "w8a8"])
        self.assertEqual(lines[0][1], "-")
        self.assertGreater(float(lines[2][1]), 20e6)
        self.assertLess(min(float(lines[1][1]), float(lines[3][1])), 20e6)
        for variant, latency in (("fp16", 1000), ("w8a8", 500)):
            self.assertAlmostEqual(min(float(took) for name, _, took in lines if name == variant) / 1000, latency,
                                   delta=200)

    def test_ticks_and_steps(self) -> None:
        nets = {"a": write_program(make_net("fp16"))}
        acts: Acts = [["start", "a"], ["tick"], ["evaluate", "a", 40], ["clock", 3]]
        _, tick, times, _ = self.results(nets, acts, CLOCK="virtual", LATENCY="fp16:2500", TICK_NS=1000000)
        self.assertEqual((tick, set(times)), (1e6, {2e6, 3e6}))
        _, tick, times, _ = self.results(nets, acts, CLOCK="virtual", LATENCY="fp16:2500", STEP_NS=1000000)
        self.assertAlmostEqual(tick, 125 / 3)
        self.assertEqual({round(time_taken / 1e6, 3) for time_taken in times}, {2, 3})

    def test_readings(self) -> None:
        for setting, signs in (("", [1, 1, 1, 1]), ("still@3", [1, 1, 0, 0]), ("still", [0, 0, 0, 0]),
                               ("backwards", [-1, -1, -1, -1]), ("backwards@3", [1, 1, -1, -1])):
            for clock in ("real", "virtual"):
                with self.subTest(setting, clock=clock):
                    readings, = self.results({}, [["clock", 5]], READING=setting, CLOCK=clock)
                    steps = [second - first for first, second in zip(readings, readings[1:])]
                    self.assertEqual([(step > 0) - (step < 0) for step in steps], signs, readings)

    def test_noise(self) -> None:
        acts: Acts = [["evaluate", "fp16", 6], ["evaluate", "w8a8", 6]] * 3
        found = self.durations(acts, LATENCY=self.LATENCY, NOISE="w8a8/switch:4x3")
        self.assertEqual([round(value, -1) for value in found["w8a8"]], [1500, 1500, 1500, 1500, 500, 500] * 3)
        self.assertEqual({round(value, -1) for value in found["fp16"]}, {1000})
        found = self.durations(acts, LATENCY=self.LATENCY, NOISE="second:6x1.5,12")
        self.assertEqual([round(value, -1) for value in found["fp16"]], [1000] * 18)
        self.assertEqual([round(value, -1) for value in found["w8a8"]], [500] * 6 + [750] * 12)
        found = self.durations([["evaluate", "fp16", 2000]], LATENCY=self.LATENCY, NOISE="bimodal:0.4x1.2")
        self.assertAlmostEqual(sum(value > 1100 for value in found["fp16"]) / 2000, 0.4, delta=0.04)

    def test_random_noise_has_its_width_and_correlation(self) -> None:
        for rho in (0, 0.8):
            with self.subTest(rho):
                found = self.durations([["evaluate", "fp16", 20000]], LATENCY=self.LATENCY, NOISE=f"random:0.05,{rho}")
                logs = [math.log(value / 1000) for value in found["fp16"]]
                square = math.fsum(value * value for value in logs)
                product = math.fsum(one * other for one, other in zip(logs, logs[1:]))
                self.assertAlmostEqual(math.sqrt(square / len(logs)), 0.05, delta=0.004)
                self.assertAlmostEqual(product / square, rho, delta=0.05)

    def test_a_slow_fault_wakes_the_engine(self) -> None:
        for clock in ("real", "virtual", "jump"):
            found = self.durations([["evaluate", "fp16", 3]], CLOCK=clock, LATENCY=self.LATENCY,
                                   FAULT="evaluate:slow=0.05@1-1")["fp16"]
            self.assertGreater(found[0], 50000)
            self.assertLess(min(found[1:]), 40000)


class ArithmeticTest(Case):
    """Outputs are equal to the definition's, bit by bit."""

    def assert_equal(self, nets: Sequence[Net], how: How, **settings: Any) -> None:
        """Raise unless the outputs of programs are the reference's."""
        for net, found in zip(nets, self.outputs(nets, **settings)):
            self.assertEqual(found, reference(net, how), (net.variant, net.kernel))

    def test_each_arithmetic(self) -> None:
        nets = [make_net(variant, kernel) for kernel in (1, 3) for variant in ("fp16", "w8a16", "w8a8")]
        self.assert_equal(nets, EXACT)
        self.assert_equal(nets, M4, ARITHMETIC="m4")
        self.assert_equal(nets, How("m1"), ARITHMETIC="m1")
        for net in nets:
            self.assertNotEqual(reference(net, M4), reference(net, M4._replace(kind="exact")), "there is no difference")

    def test_roundings_and_stores(self) -> None:
        # A weight scale that is a power of two makes ties for quantize, the other one does not.
        nets = [make_net("w8a8", channels=16, depth=6, scale=scale) for scale in (2.0 ** -7, WEIGHT_SCALE)]
        seen = [[reference(net, how) for net in nets] for how in (EXACT, M4)]
        for settings, how in (({"ROUNDING": "away"}, How(store_away=True, quantize_away=True)),
                              ({"QUANTIZE": "away"}, How(quantize_away=True)),
                              ({"ROUNDING": "away", "QUANTIZE": "even"}, How(store_away=True)),
                              ({"STORE": "fp32"}, How(store="fp32")),
                              ({"ARITHMETIC": "m4", "ROUNDING": "even"}, How("m4"))):
            with self.subTest(settings):
                self.assert_equal(nets, how, **settings)
                self.assertNotIn([reference(net, how) for net in nets], seen, "there is no difference")
                seen.append([reference(net, how) for net in nets])

    def test_overflow_is_for_good(self) -> None:
        # 4 x 120 x 120 is beyond 32768; what is subtracted afterwards does not undo it.
        layer = [[[120.0], [120.0], [120.0], [-120.0], [-120.0], [-120.0]] for _ in range(6)]
        net = Net("fp16", [layer], 1, 2, 1, [[120.0, 60.0]] * 6)
        self.assertEqual(self.output(net, ARITHMETIC="m4"), [[math.inf, 0.0]] * 6)
        self.assertEqual(self.output(net), [[0.0, 0.0]] * 6)

    def test_nan_is_read_as_a_large_number(self) -> None:
        net = make_net("fp16", depth=1)
        spoilt = net._replace(input=[[math.nan, *channel[1:]] if index == 0 else channel
                                     for index, channel in enumerate(net.input)])
        for row, expected in zip(self.output(spoilt, ARITHMETIC="m4"), reference(net, M4)):
            self.assertTrue(math.isinf(row[0]))
            self.assertEqual(row[1:], expected[1:])

    def test_chosen_pixels(self) -> None:
        for kernel in (1, 3):
            net = make_net("w8a8", kernel, height=5, width=5, depth=2)
            found = self.output(net, COMPUTE="0,7,7,24,99")
            for channel, expected in zip(found, reference(net)):
                self.assertEqual(channel, [expected[pixel] if pixel in (0, 7, 24) else 0 for pixel in range(25)])

    def test_an_output_that_was_locked_for_writing_is_written_again(self) -> None:
        net = make_net("fp16")
        acts: Acts = [["start", "a"], *[["poison", "a"], ["read", "a"], ["evaluate", "a"], ["read", "a"]] * 2]
        results = self.results({"a": write_program(net)}, acts)
        for poisoned, written in (results[2::2][:2], results[2::2][2:]):
            self.assertTrue(all(math.isnan(value) for channel in decoded(net, poisoned) for value in channel))
            self.assertEqual(decoded(net, written), reference(net))


class StridesTest(Case):
    """Rows of tensors are padded in surfaces; a loaded model tells how."""

    START: Acts = [["start", "a"], ["poison", "a"], ["evaluate", "a"], ["read", "a"]]

    def test_a_surface_holds_the_batch(self) -> None:
        for net in (make_net("fp16"), make_net("w8a8", 3, height=4, width=33, depth=2)):
            program = write_program(net)
            size = len(base64.b64decode(program["input"]))
            self.assertEqual(size, (64 if net.width < 32 else 128) * net.height * net.channels)
            self.assertEqual(decoded(net, self.results({"a": program}, self.START)[3]), reference(net))
            for change in ({"input_bytes": size - 1, "input": ""}, {"output_bytes": size - 64}):
                chain, = self.results({"a": {**program, **change}}, self.START)[2]
                self.assertIn("Failed with status=0x1d : statusType=0x9", chain[1][2])

    def test_packed_data_are_wrong(self) -> None:
        net = make_net("fp16")
        program = write_program(net)
        packed = b"".join(struct.pack(f"<{len(channel)}e", *channel) for channel in net.input)
        size = len(base64.b64decode(program["input"]))
        program["input"] = base64.b64encode(packed.ljust(size, b"\0")).decode()
        found = decoded(net, self.results({"a": program}, self.START)[3])
        self.assertNotEqual(found, reference(net))
        self.assertTrue(all(math.isfinite(value) for channel in found for value in channel))

    def test_the_padding_is_read(self) -> None:
        net = make_net("fp16")
        program = write_program(net)
        content = bytearray(base64.b64decode(program["input"]))
        content[64 * 2 + 62:64 * 3] = struct.pack("<e", 0.5)  # at the end of the first channel's last row
        program["input"] = base64.b64encode(content).decode()
        added = [value + 0.5 * (index >= 8) for index, value in enumerate(net.input[0])]
        expected = reference(net._replace(input=[list(map(fp16, added)), *net.input[1:]]))
        self.assertEqual(decoded(net, self.results({"a": program}, self.START)[3]), expected)

    def test_of_large_programs_the_pixels_are_computed_that_were_overwritten(self) -> None:
        net = make_net("w8a8", channels=16, height=128, width=128, depth=65)
        acts: Acts = [["start", "a"], ["evaluate", "a"], ["poke", "a", 7, 5], ["poke", "a", 1, 130], ["evaluate", "a"],
                      ["read", "a"], ["poke", "a", 2, 200], ["evaluate", "a"], ["read", "a"]]
        results = self.results({"a": write_program(net)}, acts)
        for content, pixels in ((results[5], [5, 130]), (results[8], [5, 130, 200])):
            chosen = [[channel[pixel] for pixel in pixels] for channel in net.input]
            expected = reference(net._replace(input=chosen, height=1, width=len(pixels)))
            for channel, own in zip(decoded(net, content), expected):
                self.assertEqual([channel[pixel] for pixel in pixels], own)
                self.assertLessEqual({pixel for pixel, value in enumerate(channel) if value}, set(pixels))

    def attributes(self, inner: bool = True, **settings: Any) -> Any:
        """Return modelAttributes after load, of a chain of two layers of 6 channels, 3 by 40."""
        net = make_net("fp16", height=3, width=40, depth=2)
        acts: Acts = [["start", "a"], ["attributes", "a", inner]]
        return self.results({"a": write_program(net)}, acts, **settings)[1]

    def test_attributes(self) -> None:
        strides = {"RowStride": 128, "PlaneStride": 384, "BatchStride": 2304, "DepthStride": 2304}
        both = {**strides, "Type": "Float16", "Batches": 1, "Channels": 6, "Depth": 1, "Height": 3, "Width": 40,
                "Interleave": 1, "PlaneCount": 6}
        expected = {"NetworkStatusList": [{"LiveInputList": [{**both, "Name": "x", "Symbol": "x"}],
                                           "LiveOutputList": [{**both, "Name": "c1@output", "Symbol": "c1"}]}]}
        self.assertEqual(self.attributes(), expected)
        self.assertEqual(self.attributes(inner=False), expected)
        acts: Acts = [["make", "a"], ["attributes", "a"], ["compile", "a"], ["attributes", "a", False], ["load", "a"],
                      ["unload", "a"], ["attributes", "a"]]
        self.assertEqual(self.results({"a": write_program(make_net("fp16"))}, acts)[1::2], [{}, {}, True])

    def test_wider_rows(self) -> None:
        found, = self.attributes(ROW=192, PLANE=1024)["NetworkStatusList"][0]["LiveOutputList"]
        self.assertEqual([found[f"{name}Stride"] for name in ("Row", "Plane", "Batch")], [192, 1024, 6144])
        net = make_net("fp16")
        program = write_program(net)
        chain, = self.results({"a": program}, self.START, ROW=128)[2]
        self.assertIn("status=0x1d", chain[1][2])
        self.assertIsInstance(self.results({"a": program}, self.START, ROW=64)[2][0], float)

    def test_attributes_that_are_wrong(self) -> None:
        self.assertIsNone(self.attributes(ATTRIBUTES="none"))
        self.assertIsNone(self.attributes(inner=False, ATTRIBUTES="none"))
        self.assertIsNone(self.attributes(ATTRIBUTES="outer"))
        right = self.attributes()
        self.assertEqual(self.attributes(inner=False, ATTRIBUTES="outer"), right)
        self.assertEqual(self.attributes(ATTRIBUTES="inner"), right)
        driven = self.drive({"a": write_program(make_net("fp16"))}, [["start", "a"], ["attributes", "a", False]],
                            ATTRIBUTES="inner")
        self.assertIn("-externConstants: unrecognized selector", driven.errors)
        self.assertEqual(self.attributes(ATTRIBUTES="empty"), {})
        lists, = self.attributes(ATTRIBUTES="lists")["NetworkStatusList"]
        self.assertEqual(sorted("c1@output" in surface for surface, in lists), [False, True])

    def test_attributes_that_contradict_the_program(self) -> None:
        for setting, change in (("text", {"RowStride": "128", "Channels": "6", "Type": "Float16"}),
                                ("Channels=7;Type=Float32", {"Channels": 7, "Type": "Float32", "Height": 3}),
                                ("Interleave=4", {"Interleave": 4}), ("BatchStride=5000000000",
                                {"BatchStride": 5000000000}), ("RowStride=", {"RowStride": None}),
                                ("Name=[]", {"Name": []})):
            for place in ("LiveInputList", "LiveOutputList"):
                found, = self.attributes(ATTRIBUTES=setting)["NetworkStatusList"][0][place]
                self.assertEqual({name: found.get(name) for name in change}, change)
        self.assertEqual(self.attributes(ATTRIBUTES="NetworkStatusList=[]"), {"NetworkStatusList": []})
        self.assertEqual(list(self.attributes(ATTRIBUTES="LiveInputList=")["NetworkStatusList"][0]), ["LiveOutputList"])


class OutputTest(Case):
    """Wrong outputs are wrong as they were asked to be."""

    def assert_output(self, net: Net, kind: str, expected: Tensor, **settings: Any) -> None:
        """Raise unless a wrong output is as expected, and differs from the right one."""
        with self.subTest(kind, variant=net.variant, kernel=net.kernel):
            self.assertEqual(self.output(net, OUTPUT=kind, **settings), expected)
            self.assertNotEqual(expected, reference(net), "that is right")

    def test_arithmetic(self) -> None:
        net = make_net("w8a8", channels=16, depth=4)
        for kind, how in (("unquantized", How(quantizes=False)), ("step:2", How(step=2)), ("floor", How(floors=True)),
                          ("bf16", How(store="bf16"))):
            self.assert_output(net, kind, reference(net, how))
        self.assert_output(net, "step:2", reference(net, M4._replace(step=2)), ARITHMETIC="m4")
        self.assert_output(net, "unquantized", reference(net, M4._replace(quantizes=False)), ARITHMETIC="m4")
        self.assert_output(make_net("fp16"), "bf16", reference(make_net("fp16"), How(store="bf16")))

    def test_weights(self) -> None:
        for kernel in (1, 3):
            net = make_net("fp16", kernel, depth=4)
            one, two, three, four = net.layers
            for kind, layers in (("aliased", [one] * 4), ("swapped", [one, three, two, four]),
                                 ("swapped:0,3", [four, two, three, one]),
                                 ("scale:1.5", [one, two, scaled(three, 1.5), four]),
                                 ("scale:0.5,0", [scaled(one, 0.5), two, three, four]),
                                 ("drop:2", [one, two, without(three, 2), four]),
                                 ("drop:1,3", [one, two, three, without(four, 1)]),
                                 ("drop:1,3;scale:0.5,0", [scaled(one, 0.5), two, three, without(four, 1)])):
                self.assert_output(net, kind, reference(net._replace(layers=layers)))

    def test_3x3(self) -> None:
        net = make_net("w8a8", 3, depth=3)
        turned = [[[[taps[3 * (tap % 3) + tap // 3] for tap in range(9)] for taps in row] for row in layer]
                  for layer in net.layers]
        self.assert_output(net, "transposed", reference(net._replace(layers=turned)))
        one_turned = [net.layers[0], turned[1], net.layers[2]]
        self.assert_output(net, "transposed:1", reference(net._replace(layers=one_turned)))
        self.assert_output(net, "border", reference(net, How(replicates=True)))

    def test_channels(self) -> None:
        net = make_net("fp16", depth=2)
        right, zeros = reference(net), [0.0] * 12
        self.assert_output(net, "dead:3", [*right[:3], zeros, *right[4:]])
        self.assert_output(net, "dead:2,3", [*right[:2], zeros, zeros, zeros, right[5]])
        self.assert_output(net, "exchanged", [right[1], right[0], *right[2:]])
        self.assert_output(net, "exchanged:1,4", [right[0], right[4], *right[2:4], right[1], right[5]])

    def test_without_the_program(self) -> None:
        net = make_net("fp16")
        for kind, value in (("inf", math.inf), ("zeros", 0.0), ("constant", 0.5)):
            self.assert_output(net, kind, [[value] * 12] * 6)
        for kind in ("nan", "noop", "works:2", "every:2+0", "noop@1"):
            found = self.output(net, OUTPUT=kind)
            self.assertTrue(all(math.isnan(value) for channel in found for value in channel), kind)
        for kind in ("w8a8/nan", "works:1-1", "every:2+1", "nan@2", "7x3x3/nan"):
            self.assertEqual(self.output(net, OUTPUT=kind), reference(net), kind)

    def test_evaluates_that_work(self) -> None:
        net = make_net("fp16")
        acts: Acts = [["start", "a"], *[["poison", "a"], ["evaluate", "a"], ["read", "a"]] * 7]
        right, zeros = reference(net), [[0.0] * 12] * 6
        for kind, works, wrong in (("works:2-3", "23", ""), ("works:7", "7", ""), ("every:3+1", "147", ""),
                                   ("works:1-2;every:3+0", "1236", ""), ("noop@3", "12", ""),
                                   ("zeros@4-5", "1234567", "45"), ("works:3;zeros@3+2", "34567", "5")):
            with self.subTest(kind):
                results = self.results({"a": write_program(net)}, acts, OUTPUT=kind)[3::3]
                for number, content in enumerate(results, 1):
                    found = decoded(net, content)
                    if str(number) in works:
                        self.assertEqual(found, zeros if str(number) in wrong else right, number)
                    else:
                        self.assertTrue(math.isnan(found[0][0]), number)


def scaled(layer: Layer, factor: float) -> Layer:
    """Return a layer with all weights larger."""
    return [[[tap * factor for tap in taps] for taps in row] for row in layer]


def without(layer: Layer, channel: int) -> Layer:
    """Return a layer that leaves out an input channel."""
    return [[[0.0 if index == channel else tap for tap in taps] for index, taps in enumerate(row)] for row in layer]


class DialectTest(Case):
    """Each form of a program can be refused, and be the only one that is not."""

    def test_forms(self) -> None:
        forms = ("short", "long", "1.3-long")
        nets = {}
        for variant, kernel in (("fp16", 1), ("w8a16", 1), ("w8a8", 1), ("w8a8", 3)):
            net = make_net(variant, kernel, depth=2)
            nets.update({(variant, kernel, form): write_program(net, dialect=form) for form in forms})
            nets[variant, kernel, "original"] = write_program(net, layout="original")
        programs = {"/".join(map(str, name)): program for name, program in nets.items()}
        acts: Acts = [[act, name] for name in programs for act in ("make", "compile")]
        everything = {"short", "long", "1.3-long", "original"}
        for refused, left in (("", everything), ("short", {"long", "1.3-long"}),
                              ("long", {"short", "1.3-long", "original"}), ("1.3-long", {"short", "long", "original"}),
                              ("short,long", {"1.3-long"}), ("standard", {"original"}), ("original", set(forms))):
            with self.subTest(refused):
                compiled = self.results(programs, acts, REFUSE=refused)[1::2]
                for (variant, kernel, form), done in zip(nets, compiled):
                    self.assertEqual(done is True, form in left, (variant, kernel, form))
        compiled = self.results(programs, acts, REFUSE="w8a8/short,6x3x2k3/long,8x3x2/1.3-long")[1::2]
        self.assertEqual({name for name, done in zip(nets, compiled) if done is not True},
                         {("w8a8", 1, "short"), ("w8a8", 1, "original"), ("w8a8", 3, "short"),
                          ("w8a8", 3, "original"), ("w8a8", 3, "long")})

    def test_all_forms_compute_the_same(self) -> None:
        net = make_net("w8a8", depth=3)
        for form in ("long", "1.3-long"):
            acts = [["start", "a"], ["evaluate", "a"], ["read", "a"]]
            content = self.results({"a": write_program(net, dialect=form)}, acts)[2]
            self.assertEqual(decoded(net, content), reference(net))

    def test_other_convolutions_are_refused(self) -> None:
        text = write_program(make_net("fp16", 3))
        changes = (('"custom"', '"valid"'), ("[1, 1, 1, 1]", "[0, 0, 0, 0]"), ("[1, 1, 1, 1]", "[1, 1, 1, 0]"),
                   ('"custom"', '"same"'), ("groups = groups", "groups = pad"), ("program(1.3)", "program(1.0)"))
        programs = {f"{old} {new}": {**text, "mil": text["mil"].replace(old, new)} for old, new in changes}
        results = self.results(programs, [[act, name] for name in programs for act in ("make", "compile")])
        for name, done in zip(programs, results[1::2]):
            self.assertNotEqual(programs[name]["mil"], text["mil"])
            self.assertEqual(done[0], REFUSED, name)


class SurroundingsTest(Case):
    """What is around the engine."""

    def setUp(self) -> None:
        super().setUp()
        self.nets = {"a": write_program(make_net("fp16"))}

    def test_device(self) -> None:
        acts: Acts = [["device", name] for name in ("aneArchitectureType", "aneSubType", "numANEs")]
        self.assertEqual(self.results({}, acts), ["h16g", "h16g", 1])
        for settings, values in (({"DEVICE": "aneArchitectureType=h18g,aneSubType=h18,numANEs=2"}, ["h18g", "h18", 2]),
                                 ({"DEVICE": "aneArchitectureType=", "MISSING": "numANEs"}, [None, "h16g", None])):
            self.assertEqual(self.results({}, acts, **settings), values)

    def test_activity(self) -> None:
        self.results({}, [["activity"]])
        self.assertEqual([line.split(" 0x7")[0] for line in self.calls("beginActivity", "endActivity")],
                         ["beginActivity 0xff00ffffff a run", "endActivity StandInActivity"])

    def test_directories(self) -> None:
        elsewhere = self.directory / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "own").write_text("mine")
        acts: Acts = [[act, "a"] for act in ("make", "path", "identifier", "compile", "load", "unload")]
        path, identifier, *done = self.results(self.nets, acts)[1:]
        self.assertEqual((path, done), (str(self.directory / identifier), [True] * 3))
        self.assertFalse(Path(path).exists())
        for setting, expected in ((elsewhere, elsewhere), (f"{elsewhere}/%", elsewhere / identifier)):
            path, _, *done = self.results(self.nets, acts, MODEL_PATH=setting, FAULT="load:killdir")[1:]
            self.assertEqual((path, done), (str(expected), [True] * 3))
            self.assertEqual((elsewhere / "own").read_text(), "mine")
            self.assertTrue((expected / "model.mil").exists(), "removed by the stand-in")
        self.assertEqual(self.results({}, [["temporary"]], TEMPORARY="/somewhere"), ["/somewhere/"])

    def test_compiles_show_before_they_work_and_programs_stay_until_purged(self) -> None:
        cache = self.directory / "cache"
        cache.mkdir()
        settings = {"FAULT": "compile:hang", "CACHE": cache}
        with self.popen(self.nets, [["make", "a"], ["compile", "a"]], settings) as started:
            until = time.monotonic() + PATIENCE
            while not self.calls("compile") and time.monotonic() < until:
                time.sleep(0.01)
            started.kill()
        self.assertEqual((self.calls("compile"), list(cache.iterdir())), (["compile fp16 qos=21"], []))
        acts: Acts = [[act, "a"] for act in ("make", "compiled", "compile", "compiled", "load", "unload")]
        self.assertEqual(self.results(self.nets, acts, CACHE=cache)[1:4], [False, True, True])
        self.assertEqual([file.read_text() for file in cache.iterdir()], ["fp16\n"])
        self.results(self.nets, [["make", "a"], ["purge", "a"]], CACHE=cache)
        self.assertEqual(list(cache.iterdir()), [])
        self.assertEqual(self.calls("unload", "purge"), ["unload fp16", "purge"])

    def test_limits(self) -> None:
        acts: Acts = [["make", "a"], ["compile", "a"], ["load", "a"]]
        self.assertEqual(self.results(self.nets, acts, LIMITS="layers:3,resident:1")[1:], [True, True])
        self.assertLess(self.drive(self.nets, acts, LIMITS="layers:2").code, 0)
        for limits, reason in (("bytes:600", "(0x20004)"), ("resident:0", "(0x50004)")):
            self.assertEqual(self.results(self.nets, acts, LIMITS=limits)[2][1][2], reason)

    def test_compatible_version(self) -> None:
        acts: Acts = [["system", "kern.osproductversion"]]
        for settings, version in (({}, "26.1"), ({"COMPATIBLE": "16.1"}, "16.1"),
                                  ({"COMPATIBLE": "16.1", "SYSTEM_VERSION_COMPAT": "0"}, "26.1")):
            self.assertEqual(self.results({}, acts, SYSCTL="kern.osproductversion=26.1", **settings), [version])


# Values of each setting that end the process.
UNREADABLE = {
    "FAULT": ("compile", "compile:no@0", "compile:no@3-2", "compile:slow=x", "w9/compile:no", "compile:no@2x"),
    "REASON": ("model:X", "compile:"), "CHAIN": ("21", "-1", "deep"), "RESTART": ("soon",),
    "OUTPUT": ("scale", "nan:1", "works", "every:2", "works:2+1", "dead:1,2,3", "wrong", "scale:1x"),
    "REFUSE": ("1.4", "w9/short"), "ARITHMETIC": ("m9",), "ROUNDING": ("up",), "QUANTIZE": ("up",), "STORE": ("bf16",),
    "LATENCY": ("fp16:fast",), "SPEED": ("fp16:100", "fp16:100+0"), "RISE": ("2.8", "0.5:1"),
    "NOISE": ("switch:4", "switch:4x2,3", "random:0.1,1", "hum:1x1"), "CLOCK": ("fast",),
    "READING": ("sideways", "still@x"), "TICK_NS": ("0.5",), "STEP_NS": ("x",), "DRIFT": ("x",), "SPIKE": ("5", "0x2"),
    "LIMITS": ("rows:1", "layers"), "GAPS": ("/nowhere/file",), "COMPUTE": ("1,x",), "LOG": ("/nowhere/file",)}


class SettingsTest(Case):
    """Settings are documented, and refused if they cannot be read."""

    def test_values_that_cannot_be_read(self) -> None:
        host = self.directory / "host.m"
        host.write_text("unsigned long long mach_absolute_time(void);\n"
                        "int main(void) { return !mach_absolute_time(); }\n")
        program = build(self.directory, source=str(host), shared=False, libraries=[self.library])
        for name, values in UNREADABLE.items():
            for value in values:
                with self.subTest(name, value=value):
                    done = subprocess.run([program], env={f"STANDIN_{name}": value}, capture_output=True,
                                          encoding="utf-8", timeout=PATIENCE, check=False)
                    self.assertEqual(done.returncode, 70)
                    self.assertRegex(done.stderr, rf"^standin: STANDIN_{name}: cannot read ")
        self.assertEqual(subprocess.run([program], env={}, timeout=PATIENCE, check=False).returncode, 0)

    def test_every_setting_is_documented(self) -> None:
        source = (STANDIN / "standin.m").read_text()
        head = source[:source.index("\n\n#")]
        documented = re.findall(r"(?m)^//   STANDIN_(\w+)=", head)
        self.assertEqual(sorted(documented), sorted(set(re.findall(r'"STANDIN_(\w+)"', source))))
        for kinds in re.findall(r"const (?:fault|output|noise)Names\[\w+\] = \{(.*?)\};", source, re.DOTALL):
            for kind in re.findall(r'"(\w+)"', kinds):
                self.assertRegex(head, rf"\b{kind}\b")

    def test_no_line_is_longer_than_120(self) -> None:
        for file in STANDIN.iterdir():
            if file.suffix in (".m", ".py"):
                long = [number for number, line in enumerate(file.read_text().splitlines(), 1) if len(line) > 120]
                self.assertEqual(long, [], file.name)


