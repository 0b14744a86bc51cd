"""Simulates with numpy what an engine may legitimately compute, and what a broken one would, for the verification's limits."""

import itertools
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import ane_bench
from tests import support

np = support.need("numpy")


class Engine(NamedTuple):
    """One arithmetic: whether activations between layers are int8, how sums are taken (`exact`, `fp32` or `fp16`), how results
    are stored, how halves are rounded where there are int8 activations."""

    int8: bool
    sums: str = "exact"
    store: str = "fp16"
    rounding: str = "even"


LEGITIMATE = [engine for engine in itertools.starmap(Engine, itertools.product(
    (False, True), ("exact", "fp32", "fp16"), ("fp16", "fp32"), ("even", "away"))) if engine.int8 or engine.rounding == "even"]

Layers = list[Any]


def layers_of(config: ane_bench.Config, seed: int) -> Layers:
    """The float64 weights of each layer, [output][input]."""
    weights = ane_bench.orthogonal_weights(config.channels, config.depth, seed)
    return [np.frombuffer(data, dtype=np.int8).reshape(config.channels, config.channels) * 2.0 ** -weights.exponent
            for data in weights.layers(config.channels, "int8")]


def pixels_of(config: ane_bench.Config, seed: int, indices: Sequence[int]) -> Any:
    """The input, [channel][pixel]."""
    data = np.frombuffer(ane_bench.random_input(config, seed), dtype=np.float16).reshape(config.channels, config.pixels)
    return data[:, list(indices)].astype(np.float64)


def product(weights: Any, values: Any, sums: str) -> Any:
    """The sums of one layer."""
    if sums == "exact":
        return weights @ values
    if sums == "fp32":
        return (weights.astype(np.float32) @ values.astype(np.float32)).astype(np.float64)
    total = np.zeros((weights.shape[0], values.shape[1]), dtype=np.float32)
    halves, columns = values.astype(np.float16).astype(np.float32), weights.T.astype(np.float32, order="C")
    for column, row in zip(columns, halves):
        total = eleven_bits(total + half(np.multiply.outer(column, row)))  # what is less than normal adds up exactly
    return total.astype(np.float64)


# Of float32's bits: those that fp16 has no place for, and half of the last that it has, less one.
PLACES, LESS_THAN_HALF, KEPT = np.uint32(13), np.uint32(0xfff), np.uint32(0xffffe000)
LEAST_NORMAL = np.float32(2 ** -14)
SAME_STEP = np.float32(0.75)  # float32's step here is fp16's least


def eleven_bits(values: Any) -> Any:
    """float32 rounded to as many bits as a normal fp16 has, half to even, and kept as float32."""
    bits = values.view(np.uint32)
    rounded = bits >> PLACES
    rounded &= np.uint32(1)
    rounded += bits
    rounded += LESS_THAN_HALF
    rounded &= KEPT
    return rounded.view(np.float32)


def half(values: Any) -> Any:
    """float32 rounded to fp16 and kept as float32: what numpy's own float16 gives, in a fraction of the time."""
    rounded = eleven_bits(values)
    small = np.abs(values) < LEAST_NORMAL
    if small.any():
        rounded[small] = (values[small] + SAME_STEP) - SAME_STEP
    return rounded


def chain(layers: Layers, pixels: Any, engine: Engine) -> Any:
    """The output, [channel][pixel]."""
    return chains(layers, pixels, [engine])[engine]


def chains(layers: Layers, pixels: Any, engines: Sequence[Engine]) -> dict[Engine, Any]:
    """The output of each engine. Those that take sums alike do so together, which takes less time."""
    outputs: dict[Engine, Any] = {}
    for sums in dict.fromkeys(engine.sums for engine in engines):
        alike = [engine for engine in engines if engine.sums == sums]
        values = [pixels] * len(alike)
        for index, weights in enumerate(layers):
            totals = np.split(product(weights, np.hstack(values), sums), len(alike), axis=1)
            values = [passed_on(total, engine, index == len(layers) - 1) for total, engine in zip(totals, alike)]
        outputs.update(zip(alike, values))
    return outputs


def passed_on(totals: Any, engine: Engine, last: bool) -> Any:
    """What the next layer gets of a layer's sums."""
    values = totals.astype(np.float16 if last or engine.store == "fp16" else np.float32).astype(np.float64)
    if not engine.int8 or last:
        return values
    steps = values * 32
    steps = np.rint(steps) if engine.rounding == "even" else np.trunc(steps + np.copysign(0.5, steps))
    return np.clip(steps, -128, 127) / 32


def aliased(layers: Layers) -> Layers:
    """Every layer has the first one's weights."""
    return [layers[0]] * len(layers)


def swapped(layers: Layers) -> Layers:
    """Two middle layers in the other's place."""
    middle = len(layers) // 2
    return [*layers[:middle - 1], layers[middle], layers[middle - 1], *layers[middle + 1:]]


def scaled(layers: Layers) -> Layers:
    """The middle layer ten percent too large."""
    middle = len(layers) // 2
    return [*layers[:middle], layers[middle] * 1.1, *layers[middle + 1:]]


def dropped(layers: Layers, channel: int = 0) -> Layers:
    """One input channel of the middle layer ignored."""
    middle = len(layers) // 2
    changed = layers[middle].copy()
    changed[:, channel] = 0
    return [*layers[:middle], changed, *layers[middle + 1:]]


DEFECTS: dict[str, Callable[[Layers], Layers]] = {"aliased": aliased, "swapped": swapped, "scaled": scaled, "dropped": dropped}
