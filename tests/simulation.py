"""Simulate with numpy what an engine may legitimately compute, and what a broken engine would
compute. The limits of the verification come from here.

A chain is a list of layers, read from the weight file of a program. Activations are arrays
[channel][pixel] for 1x1 convolutions and [channel][row][column] for 3x3 convolutions.
"""

import collections
import contextlib
import functools
import itertools
import sys
import time
import unittest.mock
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple, cast

import ane_bench
from tests import mil_grammar, support

np = support.need("numpy")
np.seterr(over="ignore", invalid="ignore")  # some broken engines overflow

STEPS = 32  # quantized activations are multiples of 1/32


class Engine(NamedTuple):
    """An arithmetic.

    sums: exact; fp32; fp16 (each addition rounded); groups (four products added, then rounded to
    fp16, as an M1 does); fixed (products rounded to multiples of 2**-16, as an M4 does); winograd
    (a 3x3 convolution by F(2x2, 3x3), every intermediate in fp16); winograd32 (the same with sums
    in fp32). store: how activations are stored between layers: fp16, fp32, bf16, or fp64, which
    rounds nothing. rounding: of stores and of quantize: even, away, or floor, only of quantize.
    steps: quantized activations are multiples of 1/steps; 0 leaves quantize and dequantize out.
    border: of an image: of zeros (constant), or its outermost pixels again (edge)."""

    int8: bool
    sums: str = "exact"
    store: str = "fp16"
    rounding: str = "even"
    steps: int = STEPS
    border: str = "constant"


class Layer(NamedTuple):
    """The weights of a convolution: float32 [output][input], times a 3x3 pattern if it has one."""

    matrix: Any
    pattern: Any = None


Layers = Sequence[Layer]


def legitimate(int8: bool, kernel: int, large: bool) -> list[Engine]:
    """Return every arithmetic that a right engine may have; of large chains, which take long, a
    choice: both stores, both roundings, the sums that are fast to simulate."""
    sums = {1: ("exact", "groups", "fp32", "fixed", "fp16"), 3: ("exact", "winograd", "fp16")}
    found = [Engine(int8, *rest) for rest in itertools.product(
        sums[kernel][:2 if large else None], ("fp16", "fp32"), ("even", "away"))]
    return found[::3] if large else found


@functools.lru_cache(maxsize=2)  # the largest take 130 MB
def layers_of(config: ane_bench.Config, seed: int) -> list[Layer]:
    """Return the layers as text and weight file of the FP16 program have them; the other variants
    have the same numbers."""
    program = ane_bench.build_program(config, "fp16", seed=seed)
    layers = []
    for step in mil_grammar.steps(program.mil, program.blob):
        weights = kernels(step)
        layer = Layer(weights[:, :, 0, 0])
        if config.kernel == 3:
            pattern = np.rint(weights[0, 0] / weights[0, 0, 1, 1] * 16)
            layer = Layer(weights[:, :, 1, 1] / 16, pattern)
            assert np.array_equal(np.multiply.outer(*layer), weights)
        layers.append(layer)
    return layers


def kernels(step: mil_grammar.Step) -> Any:
    """Return the weights of a convolution, float32 [output][input][row][column]."""
    assert step.weights is not None
    kind = np.float16 if step.weights.data_type == "fp16" else np.int8
    numbers = np.frombuffer(step.weights.data, kind)
    return numbers.astype(np.float32).reshape(step.shape) * np.float32(step.scale)


def executed(program: ane_bench.Program, values: Any) -> Any:
    """Return the output of an image, [channel][row][column], by text and weight file alone: what an
    engine with exact sums that rounds halves away computes of a program, right or wrong."""
    for step in mil_grammar.steps(program.mil, program.blob):
        if step.operation == "conv":
            weights = kernels(step).astype(np.float64)
            values = stored(convolved(weights, values, step.pad), "fp16", "away")
        elif step.operation == "quantize":
            values = np.clip(rounded(values / step.scale, "away"), -128, 127)
        else:
            values = stored(values * step.scale, "fp16", "away")
    return values


def convolved(weights: Any, values: Any, pad: int) -> Any:
    """Return the exact sums of a convolution; without padding the image shrinks."""
    padded = np.pad(values, ((0, 0), (pad, pad), (pad, pad)))
    size = weights.shape[2]
    rows, columns = (length - size + 1 for length in padded.shape[1:])
    return sum(np.tensordot(weights[:, :, y, x], padded[:, y:y + rows, x:x + columns], 1)
               for y in range(size) for x in range(size))


def input_of(config: ane_bench.Config, seed: int) -> Any:
    """Return the input as an image."""
    data = np.frombuffer(ane_bench.random_input(config, seed), dtype=np.float16).astype(np.float64)
    return data.reshape(config.channels, config.spatial, config.spatial)


def rounded(values: Any, rounding: str) -> Any:
    """Return whole numbers."""
    if rounding == "away":
        return np.trunc(values + np.copysign(0.5, values))
    return np.floor(values) if rounding == "floor" else np.rint(values)


def stored(values: Any, store: str, rounding: str = "even") -> Any:
    """Return float64 values rounded to a format, and kept as float64."""
    if store == "fp64":
        return values
    if store == "fp32":
        return values.astype(np.float32).astype(np.float64)
    if store == "fp16" and rounding != "away":
        return values.astype(np.float16).astype(np.float64)
    # The significand's bits, and the least exponent of a normal number.
    bits, least = (11, -14) if store == "fp16" else (8, -126)
    exponent = np.maximum(np.frexp(values)[1] - 1, least)
    step = np.ldexp(1.0, exponent - bits + 1)
    return rounded(values / step, "away" if rounding == "away" else "even") * step


def totals(layer: Layer, values: Any, sums: str, border: str = "constant") -> Any:
    """Return the sums of a convolution."""
    if sums.startswith("winograd"):
        return winograd(layer, values, sums == "winograd", border)
    if layer.pattern is None and sums == "exact":
        return layer.matrix @ values
    if layer.pattern is None and sums == "fp32":
        return (layer.matrix.astype(np.float32) @ values.astype(np.float32)).astype(np.float64)
    if layer.pattern is None:
        return one_by_one(layer.matrix, values, sums)
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode=border)
    rows, columns = values.shape[1:]
    parts = [(layer.pattern[y, x], padded[:, y:y + rows, x:x + columns])
             for y in range(3) for x in range(3)]
    if sums == "exact":
        mixed = sum(factor * part for factor, part in parts)
        return (layer.matrix @ mixed.reshape(len(mixed), -1)).reshape(values.shape)
    weights = np.hstack([layer.matrix * factor for factor, _ in parts])
    inputs = np.concatenate([part for _, part in parts])
    return one_by_one(weights, inputs.reshape(len(inputs), -1), sums).reshape(values.shape)


def one_by_one(weights: Any, values: Any, sums: str) -> Any:
    """Return sums that depend on the order of the additions or on each product."""
    weights, values = weights.astype(np.float32), values.astype(np.float32)
    total = np.zeros((len(weights), values.shape[1]), np.float16 if sums == "fp16" else np.float64)
    if sums == "groups":
        for first in range(0, len(values), 64):  # sixteen groups at a time
            part, own = values[first:first + 64], weights[:, first:first + 64]
            rest = -len(part) % 4
            part, own = np.pad(part, ((0, rest), (0, 0))), np.pad(own, ((0, 0), (0, rest)))
            own = own.reshape(len(weights), -1, 4).transpose(1, 0, 2)
            sums_of_four = (own @ part.reshape(-1, 4, part.shape[1])).astype(np.float16)
            total += sums_of_four.sum(0, np.float64)
        return total
    for column, row in zip(np.ascontiguousarray(weights.T), values):
        product = np.multiply.outer(column, row)
        if sums == "fp16":
            total += product.astype(np.float16)
        else:  # frexp's exponents are 1 larger
            kept = np.add.outer(np.frexp(column)[1], np.frexp(row)[1]) > -17 + 2
            total += rounded(product * np.float32(65536), "away") * kept / 65536
    return total.astype(np.float64)


# Winograd's F(2x2, 3x3): the transforms of input, weights and output.
INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=np.float64)
WEIGHT = np.array([[1, 0, 0], [.5, .5, .5], [.5, -.5, .5], [0, 0, 1]])
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=np.float64)


def winograd(layer: Layer, values: Any, fp16: bool, border: str) -> Any:
    """Return the sums by F(2x2, 3x3); with fp16 each transform and each sum is rounded to it."""
    def keep(array: Any) -> Any:
        return stored(array, "fp16") if fp16 else array

    channels, side, _ = values.shape
    rows = columns = side + side % 2
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode=border)
    padded = np.pad(padded, ((0, 0), (0, side % 2), (0, side % 2)))
    tiles = np.stack([np.stack([padded[:, y:y + rows - 1:2, x:x + columns - 1:2]
                                for x in range(4)]) for y in range(4)])
    inputs = keep(np.einsum("ay,yxcrk->axcrk", INPUT, tiles))
    inputs = stored(np.einsum("bx,axcrk->abcrk", INPUT, inputs), "fp16")
    weights = WEIGHT @ layer.pattern @ WEIGHT.T  # times the matrix, exact in fp16
    sums = np.matmul(layer.matrix, inputs.reshape(4, 4, channels, -1))
    sums = keep(sums * weights[:, :, None, None])
    sums = keep(np.einsum("ya,abcp->ybcp", OUTPUT, sums))
    tiles = np.einsum("xb,ybcp->yxcp", OUTPUT, sums).reshape(2, 2, channels, rows // 2,
                                                             columns // 2)
    return tiles.transpose(2, 3, 0, 4, 1).reshape(channels, rows, columns)[:, :side, :side]


def chain(layers: Layers, values: Any, engine: Engine) -> Any:
    """Return the output."""
    for layer in layers[:-1]:
        sums = totals(layer, values, engine.sums, engine.border)
        values = stored(sums, engine.store, engine.rounding)
        if engine.int8 and engine.steps:
            steps = rounded(values * engine.steps, engine.rounding)
            values = np.clip(steps, -128, 127) / engine.steps
    last = "fp16" if engine.store == "fp32" else engine.store
    return stored(totals(layers[-1], values, engine.sums, engine.border), last, engine.rounding)


def swapped(layers: Layers) -> list[Layer]:
    """Return a chain with two middle layers in each other's place."""
    middle = len(layers) // 2
    return [*layers[:middle - 1], layers[middle], layers[middle - 1], *layers[middle + 1:]]


def replaced(layers: Layers, change: Callable[[Layer], Layer]) -> list[Layer]:
    """Return a chain with its middle layer changed."""
    middle = len(layers) // 2
    return [*layers[:middle], change(layers[middle]), *layers[middle + 1:]]


def reweighted(layers: Layers, factors: Any) -> list[Layer]:
    """Return a chain with the weights of its middle layer, or of each input, times a factor."""
    return replaced(layers, lambda layer: layer._replace(
        matrix=layer.matrix * np.asarray(factors, np.float32)))


def transposed(layer: Layer) -> Layer:
    """Return a layer whose 3x3 kernels have rows and columns exchanged."""
    return layer._replace(pattern=layer.pattern.T)


# What a broken engine may do to the layers, to its arithmetic, and to channels.
LAYER_DEFECTS: dict[str, Callable[[Layers], list[Layer]]] = {
    "aliased": lambda layers: [layers[0]] * len(layers), "swapped": swapped,
    "scaled": lambda layers: reweighted(layers, 1.1),
    "shrunk": lambda layers: reweighted(layers, 0.9),
    "transposed": lambda layers: list(map(transposed, layers)),
    "one transposed": lambda layers: replaced(layers, transposed)}
ENGINE_DEFECTS: dict[str, dict[str, Any]] = {
    "unquantized": {"steps": 0}, "coarse": {"steps": STEPS // 2}, "floor": {"rounding": "floor"},
    "bf16": {"store": "bf16"}, "border": {"border": "edge"}}
CHANNEL_DEFECTS = {"dropped": 1, "dead": 1, "exchanged": 2}


class Chain:
    """The chain of one seed, with its reference: `compute` is that of ane_bench.Reference, from the
    simulation. `places` are its pixels: drawn ones; of 3x3 as the check chooses them, one of an
    edge (without corners) and one of the inside in turn, or with a size of 1 edges alone."""

    def __init__(self, config: ane_bench.Config, variant: str, seed: int, count: int,
                 size: int = 8) -> None:
        self.config, self.variant = config, ane_bench.VARIANTS[variant]
        self.int8 = self.variant.quantizes and config.depth > 1
        self.layers = layers_of(config, seed)
        self.input, draw = input_of(config, seed), np.random.default_rng(seed)
        if config.kernel == 1:
            self.places = draw.permutation(config.pixels)[:count].tolist()
            self.input = self.input.reshape(config.channels, -1)[:, self.places]
        else:
            self.places = places_of_image(config.spatial, size, draw)[:count]
        self._row = {place: row for row, place in enumerate(self.places)}
        self._outputs: dict[Any, list[list[float]]] = {}

    def compute(self, pixels: Sequence[int],
                arithmetic: ane_bench.Arithmetic = ane_bench.ARITHMETICS[0],
                quantizes: bool = False) -> list[list[float]]:
        """Return the reference of some places, [pixel][channel]."""
        engines: dict[Any, Engine] = {None: Engine(False, store="fp64")}
        if self.config.kernel == 1:
            engines = {(one, int8): Engine(int8, store=one.store, rounding=one.rounding)
                       for one in ane_bench.ARITHMETICS for int8 in {False, self.int8}}
        self._outputs = self._outputs or {
            key: self.pixels(chain(self.layers, self.input, engine)).tolist()
            for key, engine in engines.items()}
        outputs = self._outputs[(arithmetic, quantizes) if self.config.kernel == 1 else None]
        return [outputs[self._row[pixel]] for pixel in pixels]

    def pixels(self, output: Any) -> Any:
        """Return an engine's output as [pixel][channel] of the places."""
        if self.config.kernel == 1:
            return output.T
        return output.reshape(self.config.channels, -1)[:, self.places].T

    def damaged(self, engine: Engine, defect: str, draw: int = 0) -> Any:
        """Return an engine's output, [pixel][channel], with a defect; `draw` picks its channels."""
        channels = np.random.default_rng(draw).permutation(self.config.channels)
        layers = self.layers
        if defect in LAYER_DEFECTS:
            layers = LAYER_DEFECTS[defect](layers)
        elif defect == "dropped":
            layers = reweighted(layers, np.arange(len(channels)) != channels[0])
        engine = engine._replace(**ENGINE_DEFECTS.get(defect, {}))
        output = self.pixels(chain(layers, self.input, engine))
        if defect in ("dead", "exchanged"):
            chosen = channels[:CHANNEL_DEFECTS[defect]]
            output[:, chosen] = output[:, chosen[::-1]] if defect == "exchanged" else 0
        return output

    def verdicts(self, output: Any, size: int, known: bool = False) -> Iterator[ane_bench.Verdict]:
        """Yield the verdict on each group of so many pixels."""
        values, reference = output.tolist(), cast(ane_bench.Reference, self)
        for start in range(0, len(values) - size + 1, size):
            yield ane_bench.verify(reference, self.variant, self.places[start:start + size],
                                   [values[start:start + size]], known)


def places_of_image(side: int, size: int, draw: Any) -> list[int]:
    """Return pixels of an image as the check chooses them."""
    places = np.arange(side * side).reshape(side, side)
    inside = draw.permutation(places[1:-1, 1:-1].ravel())
    edges = draw.permutation(np.concatenate([places[0, 1:-1], places[-1, 1:-1], places[1:-1, 0],
                                             places[1:-1, -1]]))
    chosen = edges if size == 1 else np.stack([edges, inside[:len(edges)]], 1).ravel()
    return list(map(int, chosen))


# Configurations and pixels of each; the last are the layers that README names, at the deeper of
# their depths.
SHORT = {"64x64x2": 32, "32x64x16": 32, "48x64x8": 16, "512x8x1": 8, "3x64x8": 32, "64x16x8k3": 32,
         "32x16x1k3": 32, "32x16x16k3": 32}
LONG = {name: count for count, names in (
    (320, "64x64x2 32x64x16 48x64x8 32x64x4 64x64x32 16x64x4 8x64x32 1x64x4 2x64x32"),
    (96, "128x64x8"), (48, "96x64x128"), (32, "256x64x16"),
    (16, "512x64x128 256x64x256 384x64x128 512x64x2 1024x8x2"),
    (112, "32x16x2k3 32x16x16k3 64x16x8k3 128x16x4k3 32x16x48k3 64x16x64k3 256x16x16k3"),
    (112, "64x56x192k3"), (96, "128x28x192k3 256x14x48k3"), (40, "512x7x48k3"))
    for name in names.split()}


@contextlib.contextmanager
def margins() -> Iterator[dict[str, float]]:
    """Yield how near outputs that are judged within come to each limit; 1 is at it."""
    nearest: dict[str, float] = collections.defaultdict(float)

    def recorder(name: str) -> Any:
        judged = getattr(ane_bench, name)

        def record(*arguments: Any) -> Any:
            found = judged(*arguments)
            excesses = [found] if isinstance(found, ane_bench.Excess) else found
            for key, excess in zip((f"{name} 0", f"{name} 1"), excesses):
                nearest[key] = max(nearest[key], excess.times)
            return found

        return record

    names = ("mismatch", "large_errors", "quantization_noise", "unknown_rounding")
    with unittest.mock.patch.multiple(ane_bench, **{name: recorder(name) for name in names}):
        yield nearest


def right_verdicts(names: dict[str, int], seeds: Sequence[int],
                   known: bool) -> Iterator[tuple[Any, ane_bench.Verdict]]:
    """Yield the verdicts on what right engines of every arithmetic compute, one and eight pixels
    each, and what they are of. On a known chip it is that of an M4."""
    for seed, (name, count), variant in itertools.product(seeds, names.items(), ("fp16", "w8a8")):
        config = ane_bench.Config.parse(name)
        chains = {size: Chain(config, variant, seed, count, size) for size in (1, 8)}
        chosen = chains[8]
        engines = legitimate(chosen.int8, config.kernel, config.weights >= 1 << 21)
        if known:
            engines = [Engine(chosen.int8, "fixed" if config.kernel == 1 else "exact",
                              rounding="away")]
        for engine in engines:
            output = chain(chosen.layers, chosen.input, engine)
            for size, group in chains.items():
                for verdict in group.verdicts(group.pixels(output), size, known):
                    yield (name, variant, seed, size, engine), verdict


known_chain = functools.lru_cache(maxsize=4)(Chain)  # made once for all defects


def rate(name: str, variant: str, defect: str, known: bool, pixels: int) -> float:
    """Return the share of outputs with a defect that are seen, of drawn seeds, pixels, channels."""
    config = ane_bench.Config.parse(name)
    groups = 4 if config.weights >= 1 << 21 else 8
    seen: list[bool] = []
    for seed in range(100, 101 if groups == 4 else 102):
        chosen = known_chain(config, variant, seed, groups * pixels, pixels)
        engine = Engine(chosen.int8, "groups" if config.kernel == 1 else "winograd")
        if known:
            engine = Engine(chosen.int8, rounding="away")
        for draw in range(3 if defect in CHANNEL_DEFECTS else 1):
            verdicts = chosen.verdicts(chosen.damaged(engine, defect, draw), pixels, known)
            seen += [bool(verdict.problem or verdict.warnings) for verdict in verdicts]
    return sum(seen) / len(seen)


def main(seconds: float) -> int:
    """Simulate right outputs for some time, print alarms and margins; return 1 if any alarm."""
    ends, count, alarms = time.monotonic() + seconds, 0, 0
    every = itertools.chain.from_iterable(
        right_verdicts(LONG, (seed,), False) for seed in itertools.count(1000))
    with margins() as nearest:
        for what, verdict in itertools.takewhile(lambda _: time.monotonic() < ends, every):
            count += 1
            if verdict.problem or verdict.warnings:
                alarms += 1
                print("alarm:", *what, verdict.problem or verdict.warnings, flush=True)
    print(f"{count} right outputs, {alarms} alarms; 1 is at the limit: {dict(nearest)}")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
