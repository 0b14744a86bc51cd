"""Section 9, verification: the check accepts what right engines compute and sees what wrong engines compute.

Engines are simulated with numpy. Margins and rates are printed, and the README's sentences are the claims below. The long
simulations run if ANE_BENCH_TESTS=all is set.
"""

import functools
import math
import os
import unittest
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import Arithmetic, Comparison, Config, Verdict
from tests import support

ALL = os.environ.get("ANE_BENCH_TESTS") == "all"
UNQUANTIZED = Arithmetic(quantizes=False)


class Chain:
    """A chain of one seed with the reference of some pixels: drawn ones, or with 3x3 the edge without corners, then inner
    ones."""

    def __init__(self, config: Config, activations: str, seed: int, count: int) -> None:
        from tests import simulation
        self.simulation, self.config, self.activations, self.int8 = simulation, config, activations, activations == "int8"
        self.layers = simulation.layers_of(config, seed)
        draw = simulation.np.random.default_rng(seed)
        self.channels = draw.permutation(config.channels)  # that a defect picks
        if config.kernel == 1:
            self.places = draw.permutation(config.pixels)[:count]
            self.input = simulation.input_of(config, seed, self.places)
            arithmetics = [Arithmetic(rounding, store) for rounding in ("away", "even") for store in ("fp16", "fp32")]
            engines = {arithmetic: self.engine("exact", arithmetic.store, arithmetic.rounding) for arithmetic in arithmetics}
            outputs = simulation.chains(self.layers, self.input, list(engines.values()))
            self.references = {arithmetic: outputs[engine].T for arithmetic, engine in engines.items()}
            if self.int8 and config.depth > 1:
                engine = simulation.Engine(False, rounding="away")
                self.references[UNQUANTIZED] = simulation.chain(self.layers, self.input, engine).T
        else:
            self.places = self._places_of_image(count)
            self.input = simulation.input_of(config, seed)
            self.references = {UNQUANTIZED: self._pixels(simulation.unrounded(self.layers, self.input))}

    def _places_of_image(self, count: int) -> Any:
        """Return pixels of the edge and of the inside in turn, or all."""
        places = self.simulation.np.arange(self.config.pixels).reshape(self.config.spatial, self.config.spatial)
        edge = [*places[0, 1:-1], *places[1:-1, -1], *places[-1, 1:-1], *places[1:-1, 0]]
        inner = places[1:-1, 1:-1].ravel()[:len(edge) if count else None]
        pairs = [place for pair in zip(edge, inner) for place in pair]
        return pairs[:count] if count else [*edge, *inner]

    def engine(self, sums: str = "exact", store: str = "fp16", rounding: str = "away", steps: int = 32) -> Any:
        """Return an engine for these activations; that of an M4 if nothing is given and there are int8 activations."""
        return self.simulation.Engine(self.int8, sums, store, rounding, steps)

    def run(self, engine: Any) -> Any:
        """Return an engine's output, [pixel][channel]."""
        return self._pixels(self.simulation.chain(self.layers, self.input, engine))

    def _pixels(self, output: Any) -> Any:
        """Return an output as [pixel][channel] of the places."""
        return output.T if self.config.kernel == 1 else output.reshape(self.config.channels, -1)[:, self.places].T

    def verdicts(self, output: Any, size: int = 1, known: bool = False) -> Iterator[Verdict]:
        """Yield the verdict on each group of so many pixels."""
        for start in range(0, len(output) - size + 1, size):
            references = {arithmetic: reference[start:start + size].tolist()
                          for arithmetic, reference in self.references.items()}
            yield ane_bench.judge(self.config, self.activations, output[start:start + size].tolist(), references, known)

    def seen(self, output: Any, size: int = 1, known: bool = False) -> list[bool]:
        """Return whether a problem or a warning names each group of so many pixels."""
        return [bool(verdict.problem or verdict.warnings) for verdict in self.verdicts(output, size, known)]

    def damaged(self, engine: Any, defect: str, draw: int = 0) -> Any:
        """Return an engine's output, [pixel][channel], with a defect; `draw` picks its channels."""
        channels = self.simulation.np.random.default_rng(draw).permutation(self.config.channels)
        return self._pixels(self.simulation.damaged(self.layers, self.input, engine, defect, channels))


@functools.lru_cache(maxsize=4)
def chain(name: str, activations: str, seed: int, count: int) -> Chain:
    """Return the chain of a configuration, simulated once."""
    return Chain(Config.parse(name), activations, seed, count)


class SimulationTest(unittest.TestCase):
    """The simulation is right itself: it agrees with numpy, and with the module's reference."""

    @classmethod
    def setUpClass(cls) -> None:
        support.need("numpy")

    def test_fp16_is_rounded_as_by_numpy(self) -> None:
        from tests import simulation
        numpy = simulation.np
        every = numpy.arange(1 << 16, dtype=numpy.uint16).view(numpy.float16)
        values = every[numpy.abs(every) < 128]  # a product of two is finite
        draw = numpy.random.default_rng(1)
        for operation, rounded in ((numpy.add, simulation.eleven_bits), (numpy.multiply, simulation.half)):
            for _ in range(20):
                others = draw.permutation(values)
                computed = rounded(operation(values.astype(numpy.float32), others.astype(numpy.float32)))
                self.assertTrue(numpy.array_equal(computed, operation(values, others)))

    def test_stores_round_halves_as_they_say(self) -> None:
        from tests import simulation
        values = simulation.np.array([1 + 2.0 ** -11, 1 + 3 * 2.0 ** -11, -1 - 2.0 ** -11, 2.0 ** -25, 3 * 2.0 ** -25])
        even, away = (simulation.stored(values, "fp16", rounding).tolist() for rounding in ("even", "away"))
        self.assertEqual(even, [1.0, 1 + 2.0 ** -9, -1.0, 0.0, 2.0 ** -23])
        self.assertEqual(away, [1 + 2.0 ** -10, 1 + 2.0 ** -9, -1 - 2.0 ** -10, 2.0 ** -24, 2.0 ** -23])
        self.assertEqual(simulation.stored(simulation.np.array([1 + 2.0 ** -8]), "bf16").tolist(), [1.0])

    def test_winograd_is_the_same_convolution(self) -> None:
        from tests import simulation
        chosen = chain("32x8x1k3", "fp16", 0, 0)
        plain, fast = (simulation.totals(chosen.layers[0], chosen.input, sums) for sums in ("exact", "winograd32"))
        self.assertLess(abs(plain - fast).max(), 0.01)
        self.assertGreater(abs(plain).max(), 1)

    def test_the_reference_computes_the_same(self) -> None:
        for name, activations in (("64x8x4", "fp16"), ("64x8x4", "int8"), ("48x8x8", "int8")):
            simulated = chain(name, activations, 1, 4)
            program = ane_bench.build_program(simulated.config, "w8a8" if simulated.int8 else "fp16", seed=1)
            data, arithmetics = ane_bench.random_input(simulated.config, 1), list(simulated.references)
            computed = ane_bench.Reference(program.mil, program.blob).compute(data, simulated.places.tolist(), arithmetics)
            for arithmetic, output in zip(arithmetics, computed):
                self.assertEqual(list(map(list, output)), simulated.references[arithmetic].tolist(), arithmetic)

    def test_the_factored_reference_computes_the_same(self) -> None:
        simulated = chain("32x8x4k3", "fp16", 1, 4)
        program = ane_bench.build_program(simulated.config, "fp16", seed=1)
        places = list(map(int, simulated.places))
        computed, = ane_bench.Reference(program.mil, program.blob).compute(
            ane_bench.random_input(simulated.config, 1), places, [UNQUANTIZED])
        self.assertEqual(list(map(list, computed)), simulated.references[UNQUANTIZED].tolist())


# Configurations, seeds and pixels of each: always, and with ANE_BENCH_TESTS=all.
SHORT = {"64x8x4": (2, 16), "128x8x8": (2, 8), "32x16x32": (2, 16), "512x8x1": (1, 4), "8x8x16": (2, 16)}
LONG = {**{f"{channels}x64x{depth}": (4, 64) for channels in (1, 2, 3, 8, 16, 32, 64) for depth in (1, 2, 8, 32, 128)},
        **{f"{channels}x64x{depth}": (3, 32) for channels in (128, 256) for depth in (1, 2, 8, 32)},
        **{config.name: (2, 4) for config in ane_bench.DEFAULT_CONFIGS}, "512x64x1": (2, 16), "1024x8x2": (1, 4)}
SHORT3 = {"64x16x8k3": (1, 0), "32x8x2k3": (1, 0)}
LONG3 = {**{f"{channels}x16x{depth}k3": (3, 0) for channels in (32, 64, 128) for depth in (1, 2, 4, 8, 16, 32, 64)},
         **{name: (2, 0) for name in ("256x16x8k3", "256x16x32k3", "512x16x16k3")}}


class Margins(NamedTuple):
    """The nearest that right outputs come to the limits: 1 is at the limit."""

    relative: float = 0.0
    slope: float = 0.0

    def and_of(self, chosen: Chain, verdict: Verdict, size: int, floor: float) -> "Margins":
        """Return the margins if this verdict is taken in; `floor` is that of the expected values."""
        found, floor = verdict.verified, floor if chosen.int8 else 1.0
        limits = ane_bench.verification_limits(size * chosen.config.channels, chosen.config, chosen.activations)
        return Margins(max(self.relative, found["relative_l2"] * floor / limits[0]),
                       max(self.slope, abs(found["slope"] - 1) * floor ** 2 / limits[1]))


class RightOutputsTest(unittest.TestCase):
    """What a right engine of any arithmetic computes passes, without a warning."""

    @classmethod
    def setUpClass(cls) -> None:
        support.need("numpy")

    def assert_right(self, chosen: Chain, engine: Any, size: int, known: bool, margins: Margins) -> Margins:
        """Fail if a verdict is more than silence; return the margins."""
        expected = next(iter(chosen.references.values()))
        for group, verdict in enumerate(chosen.verdicts(chosen.run(engine), size, known)):
            self.assertEqual((verdict.problem, verdict.warnings), (None, []), (chosen.config.name, engine, size, known))
            rms = float((expected[group * size:(group + 1) * size] ** 2).mean()) ** 0.5
            margins = margins.and_of(chosen, verdict, size, min(1.0, rms))
        return margins

    def test_any_arithmetic_on_an_unknown_chip(self) -> None:
        from tests import simulation
        for name, (seeds, count) in (LONG if ALL else SHORT).items():
            for activations in ("fp16", "int8"):
                margins = Margins()
                for seed in range(seeds):
                    chosen = chain(name, activations, seed, count)
                    for engine in simulation.legitimate(chosen.int8):
                        for size in (1, 4):
                            margins = self.assert_right(chosen, engine, size, False, margins)
                print(f"\n{name} {activations}: right outputs reach {margins.relative:.0%} of the limit of relative L2, "
                      f"{margins.slope:.0%} of the slope's", end="")

    def test_an_m4_on_a_known_chip(self) -> None:
        """W8A8 is equal to the reference; FP16 differs, since an M4 rounds each product."""
        for name, (seeds, count) in (LONG if ALL else SHORT).items():
            for activations in ("fp16", "int8"):
                for seed in range(seeds):
                    chosen = chain(name, activations, seed, count)
                    output = chosen.run(chosen.engine("fixed"))
                    for size in (1, 4):
                        for verdict in chosen.verdicts(output, size, True):
                            self.assertEqual((verdict.problem, verdict.warnings), (None, []), (name, activations, seed))
                            if activations == "int8" and chosen.config.channels <= 512:
                                self.assertEqual(verdict.verified["equal"], 1.0)
                                self.assertEqual(verdict.verified["arithmetic"], "halves away, fp16 stores")

    def test_no_false_alarm_in_many_outputs(self) -> None:
        """400,000 outputs of one pixel each; without ANE_BENCH_TESTS=all 4,000."""
        from tests import simulation
        counted, alarms = 0, []
        for name, seed in ((name, seed) for seed in range(20 if ALL else 1) for name in ("64x64x2", "32x64x16", "64x64x8", "128x64x4")):
            for activations in ("fp16", "int8"):
                chosen = chain(name, activations, seed, 512 if ALL else 64)
                for engine in simulation.engines(chosen.int8, ("exact", "groups")):
                    for verdict in chosen.verdicts(chosen.run(engine)):
                        counted += 1
                        alarms += [(name, seed, engine, verdict)] if verdict.problem or verdict.warnings else []
        print(f"\n{counted} right outputs, {len(alarms)} alarms", end="")
        self.assertGreaterEqual(counted, 400_000 if ALL else 4_000)
        self.assertEqual(alarms, [])

    def test_3x3(self) -> None:
        from tests import simulation
        for name, (seeds, count) in (LONG3 if ALL else SHORT3).items():
            for activations in ("fp16", "int8"):
                margins = Margins()
                for seed in range(seeds):
                    chosen = chain(name, activations, seed, count)
                    small = chosen.config.channels * chosen.config.depth <= 256
                    for engine in simulation.engines(chosen.int8, ("exact", "winograd", *(["fp16"] if small else []))):
                        margins = self.assert_right(chosen, engine, 1, False, margins)
                print(f"\n{name} {activations}: right outputs reach {margins.relative:.0%} of the limit of relative L2, "
                      f"{margins.slope:.0%} of the slope's", end="")


class Claim(NamedTuple):
    """At least this share of wrong outputs is seen."""

    least: float
    defect: str
    activations: str
    names: str
    pixels: int = 1
    known: bool = False


CLAIMS: list[Claim] = []
