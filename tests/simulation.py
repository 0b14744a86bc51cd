"""Simulates with numpy what an engine may legitimately compute, and what a broken one would, for the verification's limits."""

import itertools
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import ane_bench
from tests import support

np = support.need("numpy")


class Engine(NamedTuple):
    """One arithmetic: how sums are taken (`exact`, `fp32` or `fp16`), how results are stored, how halves are rounded."""

    sums: str = "exact"
    store: str = "fp16"
    rounding: str = "even"


LEGITIMATE = [Engine(*choices) for choices in itertools.product(("exact", "fp32", "fp16"), ("fp16", "fp32"), ("even", "away"))]

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
    total = np.zeros((weights.shape[0], values.shape[1]), dtype=np.float16)
    halves, columns = values.astype(np.float16), weights.astype(np.float16)
    for index in range(weights.shape[1]):
        total += np.multiply.outer(columns[:, index], halves[index])
    return total.astype(np.float64)


def chain(layers: Layers, values: Any, engine: Engine, int8: bool) -> Any:
    """The output, [channel][pixel]."""
    for index, weights in enumerate(layers):
        last = index == len(layers) - 1
        values = product(weights, values, engine.sums)
        values = values.astype(np.float16 if last or engine.store == "fp16" else np.float32).astype(np.float64)
        if int8 and not last:
            steps = values * 32
            steps = np.rint(steps) if engine.rounding == "even" else np.trunc(steps + np.copysign(0.5, steps))
            values = np.clip(steps, -128, 127) / 32
    return values


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
