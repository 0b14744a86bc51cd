"""Programs for the stand-in's own tests, and what they compute, from the definitions alone."""

import base64
import itertools
import math
import operator
import random
import re
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

SCALE = 2.0 ** -5  # of quantize and dequantize
# Of weights in int8: all 11 bits of an fp16, so that dequantized weights are rounded.
WEIGHT_SCALE = 1331 * 2.0 ** -17

Tensor = list[list[float]]  # [channel][pixel]
Layer = list[list[list[float]]]  # [output][input][tap]


class Net(NamedTuple):
    """A chain of convolutions: weights as numbers (levels in W8A16 and W8A8), and an input."""

    variant: str
    layers: list[Layer]
    height: int
    width: int
    kernel: int
    input: Tensor
    scale: float = WEIGHT_SCALE

    def decoded(self, content: str) -> Tensor:
        surface, pixels = base64.b64decode(content), self.height * self.width
        row = len(surface) // (len(self.input) * self.height)
        values = [value for first in range(0, len(surface), row)
                  for value in struct.unpack_from(f"<{self.width}e", surface, first)]
        return [list(values[first:first + pixels]) for first in range(0, len(values), pixels)]


def make_net(variant: str, kernel: int = 1, *, channels: int = 6, height: int = 3, width: int = 4,
             depth: int = 3, scale: float = WEIGHT_SCALE) -> Net:
    """Draw dense weights and an input of all sizes: an M4 drops products, and ties are rounded."""
    source = random.Random(0)
    taps = kernel * kernel

    def weight() -> float:
        if variant != "fp16":
            return source.choice((-1, 1)) * source.randint(1, 127)
        return as_half(source.gauss(0, 1) * 2.0 ** -source.randint(0, 8) / math.sqrt(taps))

    layers = [[[[weight() for _ in range(taps)] for _ in range(channels)] for _ in range(channels)]
              for _ in range(depth)]
    pixels = [[as_half(source.gauss(0, 1) * 2.0 ** -source.randint(0, 9))
               for _ in range(height * width)] for _ in range(channels)]
    return Net(variant, layers, height, width, kernel, pixels, scale)


def write_mil(net: Net, form: str, step: int) -> str:
    """Return the text in a form; records lie `step` bytes apart."""
    def constant(kind: str, name: str, value: object) -> str:
        return f'{kind} {name} = const()[name = string("{name}"), val = {kind}({value})];'

    channels, pad = len(net.layers[0]), net.kernel // 2
    shape = f"[1, {channels}, {net.height}, {net.width}]"
    weights = f"[{channels}, {channels}, {net.kernel}, {net.kernel}]"
    opset = 18 if form in ("short", "original") else 17 if net.variant == "w8a8" else 16
    lines = [f"program({'1.0' if form == 'long' else '1.3'})", "{",
             f"func main<ios{opset}>(tensor<fp16, {shape}> x) {{",
             constant("string", "pad_type", '"custom"' if pad else '"valid"'),
             constant("tensor<int32, [2]>", "strides", [1, 1]),
             constant("tensor<int32, [4]>", "pad", [pad] * 4),
             constant("tensor<int32, [2]>", "dilations", [1, 1]),
             constant("int32", "groups", 1), constant("fp16", "scale", SCALE.hex()),
             constant("string", "dtype", '"int8"')]
    last = "x"
    for index in range(len(net.layers)):
        name, file = f'name = string("w{index}")', (
            'BLOBFILE(path = string("@model_path/weights/weight.bin"), '
            f"offset = uint64({64 + index * step}))")
        value = f"const()[{name}, val = tensor<fp16, {weights}>({file})]"
        if net.variant != "fp16":
            value = (f"constexpr_affine_dequantize()[axis = int32(0), {name}, "
                     f"quantized_data = tensor<int8, {weights}>({file}), "
                     f"scale = fp16({net.scale.hex()}), zero_point = int8(0)]")
        lines.append(f"tensor<fp16, {weights}> w{index} = {value};")
        operations = [("fp16", "c", "conv(dilations = dilations, groups = groups, pad = pad, "
                       f"pad_type = pad_type, strides = strides, weight = w{index}, x = {last})")]
        if net.variant == "w8a8" and index < len(net.layers) - 1:
            operations += [
                ("int8", "q", f"quantize(input = c{index}, output_dtype = dtype, scale = scale)"),
                ("fp16", "d", f"dequantize(input = q{index}, scale = scale)")]
        for kind, letter, call in operations:
            last = f"{letter}{index}"
            lines.append(f'tensor<{kind}, {shape}> {last} = {call}[name = string("{last}")];')
    text = "\n".join([*lines, f"}} -> ({last});", "}"])
    scalars = r"(?<![<\w])(string|fp16|int8|int32|uint64)(?=[( ])"
    return re.sub(scalars, r"tensor<\1, []>", text) if form == "long" else text


def write_blob(net: Net, form: str) -> tuple[bytes, int]:
    """Return the weight file, and how many bytes its records lie apart."""
    element, kind = ("e", 1) if net.variant == "fp16" else ("b", 4)
    planes = []
    for layer in net.layers:
        taps = [tap if kind == 1 else int(tap) for row in layer for taps in row for tap in taps]
        planes.append(struct.pack(f"<{len(taps)}{element}", *taps))
    step = 64 + (len(planes[0]) + 63) // 64 * 64
    whole = struct.pack("<II", len(planes), 2).ljust(64, b"\0")
    for index, plane in enumerate(planes):
        described = (kind, len(plane), 64 + index * step + 64)
        record = struct.pack("<IIQQ", 0xDEADBEEF, *(
            (1, 0x100000, 0) if form == "original" else described))
        whole += record.ljust(64, b"\0") + plane.ljust(step - 64, b"\0")
    return whole, step


def write_program(net: Net, form: str = "short") -> dict[str, Any]:
    """Return a program as the driver takes it, its input padded to rows of 64 bytes. The forms are
    short, early, long, and original: short, with the original's weight records."""
    blob, step = write_blob(net, form)
    row = 64 * math.ceil(net.width * 2 / 64)
    content = b"".join(
        struct.pack(f"<{net.width}e", *channel[first:first + net.width]).ljust(row, b"\0")
        for channel in net.input for first in range(0, net.height * net.width, net.width))
    return {"mil": write_mil(net, form, step), "blob": base64.b64encode(blob).decode(),
            "input": base64.b64encode(content).decode(), "channels": len(net.input),
            "input_bytes": len(content), "output_bytes": len(content)}


class How(NamedTuple):
    """An arithmetic, and what may be wrong with it."""

    m4: bool = True
    store_away: bool = True
    quantize_away: bool = True
    stores_fp32: bool = False
    quantizes: bool = True
    replicates: bool = False


M4, EXACT = How(), How(False, False, False)


def nearest(value: float, unit: float, away: bool) -> float:
    """Return the multiple of a power of two that is nearest to a value."""
    whole, rest = divmod(abs(value) / unit, 1)
    whole += rest > 0.5 or (rest == 0.5 and (away or whole % 2 == 1))
    return math.copysign(whole * unit, value)


def as_half(value: float, away: bool = False) -> float:
    """Return the nearest fp16, or an infinity."""
    if value == 0 or not math.isfinite(value):
        return value
    found = nearest(value, 2.0 ** max(math.frexp(value)[1] - 11, -24), away)
    return math.copysign(math.inf, found) if abs(found) > 65504 else found


def sum_m4(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the sum of products as an M4 does it."""
    total = 0.0
    for one, other in pairs:
        if one and other and math.frexp(one)[1] + math.frexp(other)[1] - 2 > -17:
            total += nearest(one * other, 2.0 ** -16, True)
        if abs(total) >= 32768:
            return math.copysign(math.inf, total)
    return total


def around(net: Net, channel: Sequence[float], pixel: int, replicates: bool) -> list[float]:
    """Return the pixels that a kernel covers, of one channel."""
    found, reach = [], range(-(net.kernel // 2), net.kernel // 2 + 1)
    for down, right in itertools.product(reach, reach):
        row, column = pixel // net.width + down, pixel % net.width + right
        inside = 0 <= row < net.height and 0 <= column < net.width
        row, column = min(max(row, 0), net.height - 1), min(max(column, 0), net.width - 1)
        found.append(channel[row * net.width + column] if inside or replicates else 0.0)
    return found


def reference(net: Net, how: How = M4) -> Tensor:
    values = net.input
    for index, layer in enumerate(net.layers):
        last = index == len(net.layers) - 1
        # An M4 multiplies the integers, if both sides are quantized.
        integers = how.m4 and net.variant == "w8a8" and index > 0 and how.quantizes
        factor = SCALE * net.scale if integers else 1
        weights = [[tap for taps in row for tap in taps] for row in layer]
        if net.variant != "fp16" and not integers:
            weights = [[as_half(tap * net.scale) for tap in taps] for taps in weights]
        results: Tensor = [[0.0] * len(values[0]) for _ in layer]
        for pixel in range(len(values[0])):
            patch = [value for channel in values
                     for value in around(net, channel, pixel, how.replicates)]
            for taps, result in zip(weights, results):
                if how.m4 and not integers:
                    total = sum_m4(list(zip(taps, patch)))
                else:
                    total = math.fsum(map(operator.mul, taps, patch)) * factor
                if how.stores_fp32 and not last:
                    result[pixel], = struct.unpack("f", struct.pack("f", total))
                else:
                    result[pixel] = as_half(total, how.store_away)
        values = results
        if net.variant == "w8a8" and not last and how.quantizes:
            values = [[requantized(value, how) for value in channel] for channel in values]
    return values


def requantized(value: float, how: How) -> float:
    """Return a value after quantize and, unless it stays whole, dequantize."""
    level = min(max(nearest(value / SCALE, 1, how.quantize_away), -128.0), 127.0)
    return level if how.m4 else as_half(level * SCALE, how.store_away)
