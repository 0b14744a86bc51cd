"""Section 9, verification: the check accepts what right engines compute and sees what wrong engines compute.

Engines are simulated with numpy. Margins and rates are printed, and the README's sentences are the claims below. The
long simulations run if ANE_BENCH_TESTS=all is set.
"""

import functools
import itertools
import math
import os
import random
import struct
import unittest
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import Arithmetic, Comparison, Config, Verdict
from tests import support

ALL = os.environ.get("ANE_BENCH_TESTS") == "all"
UNQUANTIZED = Arithmetic(quantizes=False)


class Chain:
    """A chain of one seed with the reference of some pixels.

    These are drawn ones; with 3x3 they are one of the edge (without corners) and one of the inside in turn, those of
    the edge alone, or with a count of 0 all but the corners.
    """

    def __init__(self, config: Config, activations: str, seed: int, count: int, edge: bool = False) -> None:
        from tests import simulation
        self.simulation, self.config = simulation, config
        self.activations, self.int8 = activations, activations == "int8"
        self.layers = simulation.layers_of(config, seed)
        if config.kernel == 1:
            self.places = simulation.np.random.default_rng(seed).permutation(config.pixels)[:count].tolist()
            self.input = simulation.input_of(config, seed, self.places)
            arithmetics = [Arithmetic(rounding, store) for rounding in ("away", "even") for store in ("fp16", "fp32")]
            engines = [self.engine("exact", arithmetic.store, arithmetic.rounding) for arithmetic in arithmetics]
            outputs = simulation.chains(self.layers, self.input, engines)
            self.references = {arithmetic: outputs[engine].T for arithmetic, engine in zip(arithmetics, engines)}
            if self.int8 and config.depth > 1:
                engine = simulation.Engine(False, rounding="away")
                self.references[UNQUANTIZED] = simulation.chain(self.layers, self.input, engine).T
        else:
            self.places = self._places_of_image(count, edge)
            self.input = simulation.input_of(config, seed)
            self.references = {UNQUANTIZED: self._pixels(simulation.unrounded(self.layers, self.input))}

    def _places_of_image(self, count: int, edge: bool) -> list[int]:
        """Return pixels of an image."""
        places = self.simulation.np.arange(self.config.pixels).reshape(self.config.spatial, self.config.spatial)
        border = [*places[0, 1:-1], *places[1:-1, -1], *places[-1, 1:-1], *places[1:-1, 0]]
        inner = [*places[1:-1, 1:-1].ravel()]
        pairs = [place for pair in zip(border, inner) for place in pair]
        return list(map(int, (border if edge else pairs)[:count] if count else [*border, *inner]))

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


@functools.lru_cache(maxsize=2)  # the largest take 130 MB
def chain(name: str, activations: str, seed: int, count: int, edge: bool = False) -> Chain:
    """Return the chain of a configuration, simulated once."""
    return Chain(Config.parse(name), activations, seed, count, edge)


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
            computed = ane_bench.Reference(program.mil, program.blob).compute(data, simulated.places, arithmetics)
            for arithmetic, output in zip(arithmetics, computed):
                self.assertEqual(list(map(list, output)), simulated.references[arithmetic].tolist(), arithmetic)

    def test_the_factored_reference_computes_the_same(self) -> None:
        simulated = chain("32x8x4k3", "fp16", 1, 4)
        program = ane_bench.build_program(simulated.config, "fp16", seed=1)
        computed, = ane_bench.Reference(program.mil, program.blob).compute(
            ane_bench.random_input(simulated.config, 1), simulated.places, [UNQUANTIZED])
        for output, expected in zip(computed, simulated.references[UNQUANTIZED].tolist()):
            for value, should in zip(output, expected):
                self.assertAlmostEqual(value, should, 9)


# Configurations, seeds and pixels of each: always, and with ANE_BENCH_TESTS=all.
SHORT = {"64x8x4": (2, 8), "32x16x32": (1, 8), "512x8x1": (1, 4), "8x8x16": (2, 8)}
LONG = {**{f"{channels}x64x{depth}": (2, 32) for channels in (1, 2, 3, 8, 16, 32, 64) for depth in (1, 2, 8, 32, 128)},
        **{f"{channels}x64x{depth}": (2, 8) for channels in (128, 256) for depth in (1, 2, 8, 32)},
        **{config.name: (1, 4) for config in ane_bench.DEFAULT_CONFIGS}, "512x64x1": (1, 8), "1024x8x2": (1, 4)}
SHORT3 = {"64x16x8k3": (1, 0), "32x8x2k3": (1, 0)}
LONG3 = {**{f"{channels}x16x{depth}k3": (2, 0) for channels in (32, 64) for depth in (1, 2, 4, 8, 16, 32, 64)},
         **dict.fromkeys(("128x16x2k3", "128x16x16k3", "128x16x64k3", "256x16x32k3", "512x16x16k3"), (1, 0))}


class Margins(NamedTuple):
    """The nearest that right outputs come to the limits: 1 is at the limit."""

    relative: float = 0.0
    slope: float = 0.0

    def __str__(self) -> str:
        return f"right outputs reach {self.relative:.0%} of the limit of relative L2, {self.slope:.0%} of the slope's"

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

    def check_any_arithmetic(self, activations: str) -> None:
        """Fail if what some right engine computes is not accepted on an unknown chip."""
        from tests import simulation
        for name, (seeds, count) in (LONG if ALL else SHORT).items():
            margins = Margins()
            for seed in range(seeds):
                chosen = chain(name, activations, seed, count)
                for engine in simulation.legitimate(chosen.int8):
                    for size in (1, 4):
                        margins = self.assert_right(chosen, engine, size, False, margins)
            print(f"\n{name} {activations}: {margins}", end="")

    def test_any_arithmetic_in_fp16(self) -> None:
        self.check_any_arithmetic("fp16")

    def test_any_arithmetic_in_int8(self) -> None:
        self.check_any_arithmetic("int8")

    def check_m4(self, activations: str) -> Iterator[Verdict]:
        """Yield the verdicts on an M4's outputs, which are accepted on a chip that is known."""
        for name, (seeds, count) in (LONG if ALL else SHORT).items():
            for seed in range(seeds):
                chosen = chain(name, activations, seed, count)
                output = chosen.run(chosen.engine("fixed"))
                for size in (1, 4):
                    for verdict in chosen.verdicts(output, size, True):
                        self.assertEqual((verdict.problem, verdict.warnings), (None, []), (name, seed))
                        if chosen.config.channels <= 512:
                            yield verdict

    def test_an_m4_in_fp16(self) -> None:
        """It rounds each product, so it differs from the reference."""
        self.assertGreater(max(verdict.verified["relative_l2"] for verdict in self.check_m4("fp16")), 0)

    def test_an_m4_in_int8(self) -> None:
        """It is equal to the reference."""
        for verdict in self.check_m4("int8"):
            self.assertEqual(verdict.verified["equal"], 1.0)
            self.assertEqual(verdict.verified["arithmetic"], "halves away, fp16 stores")

    def test_no_false_alarm_in_many_outputs(self) -> None:
        """400,000 outputs of one pixel each; without ANE_BENCH_TESTS=all 2,000."""
        from tests import simulation
        counted, alarms = 0, []
        for seed, name, activations in itertools.product(
                range(20 if ALL else 1), ("64x64x2", "32x64x16", "48x64x8", "32x64x4"), ("fp16", "int8")):
            chosen = chain(name, activations, seed, 320 if ALL else 32)
            for engine in simulation.engines(chosen.int8, ("exact", "groups")):
                for verdict in chosen.verdicts(chosen.run(engine)):
                    counted += 1
                    alarms += [(name, seed, engine, verdict)] if verdict.problem or verdict.warnings else []
        print(f"\n{counted} right outputs, {len(alarms)} alarms", end="")
        self.assertGreaterEqual(counted, 400_000 if ALL else 2_000)
        self.assertEqual(alarms, [])

    def test_3x3(self) -> None:
        from tests import simulation
        for name, (seeds, count) in (LONG3 if ALL else SHORT3).items():
            for activations in ("fp16", "int8"):
                margins = Margins()
                for seed in range(seeds):
                    chosen = chain(name, activations, seed, count)
                    small = chosen.config.channels * chosen.config.depth <= 128
                    for engine in simulation.engines(chosen.int8, ("exact", "winograd", *(["fp16"] if small else []))):
                        margins = self.assert_right(chosen, engine, 1, False, margins)
                print(f"\n{name} {activations}: {margins}", end="")


class Claim(NamedTuple):
    """At least this share of outputs with a defect is seen, by a problem or a warning, in these configurations."""

    least: float
    defects: str
    variant: str
    chip: str  # known: an M4; unknown: sums and roundings of an M1, whose W8A8 is far from every reference
    pixels: int
    names: str
    long_names: str = ""


# Defects that pick no channels.
EVERYWHERE = ("aliased", "swapped", "scaled", "shrunk", "transposed", "one transposed", "border", "unquantized",
              "coarse", "floor", "bf16")

# The README's paragraph on what the check cannot see is worded by these. First another layer's weights, or a scale that
# is 10 % off.
LAYER_CLAIMS = (
    Claim(1.0, "aliased,swapped", "fp16,int8", "known,unknown", 1, "16x64x8,64x64x32", "512x64x8,512x64x128"),
    Claim(1.0, "scaled,shrunk", "fp16", "known,unknown", 1, "16x64x8,64x64x32", "512x64x8,512x64x128"),
    Claim(1.0, "scaled,shrunk", "int8", "known", 1, "16x64x8,64x64x32", "512x64x8,512x64x128"),
    Claim(0.9, "scaled,shrunk", "int8", "unknown", 1, "16x64x8,64x64x32", "512x64x8,128x64x32"),
)

# Channels of the output that are zero or exchanged.
CHANNEL_CLAIMS = (
    Claim(1.0, "8 dead", "fp16,int8", "known,unknown", 1, "64x64x8", "128x64x8,512x64x8,128x64x32"),
    Claim(0.9, "dead,exchanged", "fp16", "known,unknown", 1, "64x64x8", "128x64x8,512x64x8,512x64x128"),
    Claim(0.9, "dead,exchanged", "int8", "known", 1, "64x64x8", "128x64x8,512x64x8,512x64x128"),
    Claim(1.0, "8 dead", "int8", "known", 1, "", "512x64x128"),
    Claim(0.95, "dead,exchanged", "fp16,int8", "known,unknown", 4, "64x64x8", "128x64x8,512x64x8,128x64x32"),
)

# An input channel that one layer leaves out.
INPUT_CLAIMS = (
    Claim(0.9, "dropped", "int8", "known", 1, "64x64x8", "128x64x8,512x64x8,512x64x128"),
    Claim(0.8, "dropped", "fp16", "known", 1, "64x64x8", "128x64x8,512x64x8,512x64x128"),
    Claim(0.9, "dropped", "fp16", "unknown", 4, "64x64x8", "128x64x8,512x64x8,128x64x32"),
    Claim(0.9, "dropped", "int8", "unknown", 4, "64x64x8", "128x64x8"),
)

# Quantize and dequantize left out, in steps of 2**-4, cut off instead of rounded; FP16 stored as bf16.
ROUNDING_CLAIMS = (
    Claim(1.0, "unquantized", "int8", "known,unknown", 1, "32x64x8,64x64x32", "512x64x2,512x64x8,512x64x128"),
    Claim(1.0, "coarse,floor", "int8", "known", 1, "32x64x8,64x64x32", "512x64x8,512x64x128"),
    Claim(0.9, "coarse,floor", "int8", "unknown", 4, "64x64x8,64x64x32", "512x64x8,128x64x32"),
    Claim(1.0, "bf16", "fp16", "known", 1, "32x64x8,64x64x32", "512x64x8,512x64x128"),
)

# All of these for 3x3; pixels: 1 is one of an edge, 2 another of the inside too. No chip is known there.
CLAIMS_3X3 = (
    Claim(1.0, "aliased,swapped,transposed,one transposed,border,scaled,shrunk", "fp16", "unknown", 1, "64x16x8k3",
          "128x16x16k3,256x16x32k3,512x16x16k3"),
    Claim(1.0, "aliased,swapped", "int8", "unknown", 1, "64x16x8k3", "128x16x16k3,256x16x32k3,512x16x16k3"),
    Claim(1.0, "unquantized", "int8", "unknown", 1, "64x16x8k3", "128x16x16k3,256x16x32k3,512x16x16k3"),
    Claim(0.95, "transposed", "int8", "unknown", 1, "64x16x8k3", "128x16x16k3,256x16x32k3,512x16x16k3"),
    Claim(0.8, "border", "int8", "unknown", 1, "64x16x8k3", "128x16x16k3,256x16x32k3,512x16x16k3"),
    Claim(0.9, "one transposed", "int8", "unknown", 2, "64x16x8k3", "128x16x16k3,512x16x16k3"),
    Claim(0.75, "scaled,shrunk", "int8", "unknown", 2, "64x16x8k3", "256x16x8k3"),
    Claim(1.0, "8 dead", "fp16,int8", "unknown", 1, "64x16x8k3", "128x16x16k3,256x16x32k3,512x16x16k3"),
)


class ClaimsTest(unittest.TestCase):
    """What the README says that the check sees."""

    @classmethod
    def setUpClass(cls) -> None:
        support.need("numpy")

    def check_claims(self, claims: Sequence[Claim]) -> None:
        """Simulate every claim, print its rates and fail if one is lower than claimed."""
        missed = []
        for claim in claims:
            chosen = f"{claim.names},{claim.long_names}" if ALL else claim.names.partition(",")[0]
            names = list(filter(None, chosen.split(",")))
            for defect, activations, chip, name in itertools.product(
                    claim.defects.split(","), claim.variant.split(","), claim.chip.split(","), names):
                rate, count = self.rate(name, activations, defect, chip == "known", claim.pixels)
                print(f"\n{name} {activations}, {chip} chip, {claim.pixels} pixels: {defect} is seen in {rate:.1%} of "
                      f"{count}, claimed {claim.least:.0%}", end="")
                missed += [(rate, claim, name, defect)] if rate < claim.least else []
        self.assertEqual(missed, [])

    def rate(self, name: str, activations: str, defect: str, known: bool, pixels: int) -> tuple[float, int]:
        """Return the share of outputs with a defect that are seen, and their number.

        They differ in seeds, in pixels, and in the channels that the defect picks.
        """
        config = Config.parse(name)
        large = config.weights >= 1 << 21
        groups = 8 if large else 32 if ALL else 16
        draws = range(1 if defect in EVERYWHERE else 2 if large or not ALL else 4)
        seen: list[bool] = []
        for seed in range(100, 104 if ALL and not large else 102):
            chosen = chain(name, activations, seed, groups * pixels, config.kernel == 3 and pixels == 1)
            engine = chosen.engine()
            if not known:
                engine = chosen.engine("groups" if config.kernel == 1 else "winograd", "fp16", "even")
            for draw in draws:
                seen += chosen.seen(chosen.damaged(engine, defect, draw), pixels, known)
        return sum(seen) / len(seen), len(seen)

    def test_layers(self) -> None:
        self.check_claims(LAYER_CLAIMS)

    def test_channels(self) -> None:
        self.check_claims(CHANNEL_CLAIMS)

    def test_inputs(self) -> None:
        self.check_claims(INPUT_CLAIMS)

    def test_roundings(self) -> None:
        self.check_claims(ROUNDING_CLAIMS)

    def test_3x3(self) -> None:
        self.check_claims(CLAIMS_3X3)

    def test_a_dead_channel_is_seen_beyond_averages(self) -> None:
        """One channel of 512 that is zero stays within the limits of averages in FP16, in all of 16 pixels."""
        draw, config = random.Random(1).gauss, Config(512, 64, 128)
        expected = [[draw(0, 1) if channel != 7 else 1.0 for channel in range(512)] for _ in range(16)]
        output = [[value + draw(0, 0.003) for value in vector] for vector in expected]
        self.assertIsNone(ane_bench.judge(config, "fp16", output, {Arithmetic(): expected}, False).problem)
        for vector in output:
            vector[7] = 0.0
        for values, should in zip(output, expected):
            found = ane_bench.compare_vectors(values, should)
            limit, _ = ane_bench.verification_limits(512, config, "fp16")
            self.assertLess(found.relative_l2, limit)
        for count in (1, 16):
            problem = ane_bench.judge(config, "fp16", output[:count], {Arithmetic(): expected[:count]}, False).problem
            self.assertIn("1 of 512 channels differ", problem or "")
            self.assertIn("channels are left out or exchanged", problem or "")


    def test_a_small_error_among_equal_values_is_seen(self) -> None:
        """INT8 is exact: where most values are equal, a channel that is off by 0.1 is no rounding, on any chip."""
        draw, config = random.Random(1).gauss, Config(512, 64, 128)
        expected = [[draw(0, 1) for _ in range(512)] for _ in range(2)]
        output = [[value + (0.1 if channel == 7 else 0) for channel, value in enumerate(vector)] for vector in expected]
        references = {Arithmetic(): expected}
        self.assertIsNone(ane_bench.judge(config, "int8", expected, references, False).problem)
        problem = ane_bench.judge(config, "int8", output, references, False).problem
        self.assertIn("1 of 512 channels differ", problem or "")

    def test_a_wrong_pixel_is_seen_among_right_ones(self) -> None:
        """Right pixels do not lessen what a wrong one weighs."""
        draw, config = random.Random(1).gauss, Config(512, 64, 128)
        expected = [[draw(0, 1) for _ in range(512)] for _ in range(16)]
        limit, _ = ane_bench.verification_limits(512, config, "fp16")
        output = [[value + draw(0, 1.3 * limit if pixel == 5 else 0.003) for value in vector]
                  for pixel, vector in enumerate(expected)]
        verdict = ane_bench.judge(config, "fp16", output, {Arithmetic(): expected}, False)
        self.assertLess(verdict.verified["relative_l2"], limit / 2)
        self.assertIn("differs more than rounding explains", verdict.problem or "")


class VerifyTest(unittest.TestCase):
    """The whole of `verify`: rounds, figures, texts; outputs are computed by the module's own reference."""

    def setUp(self) -> None:
        self.config = Config(64, 8, 4)
        self.data = ane_bench.random_input(self.config, 0)
        self.pixels = ane_bench.chosen_pixels(self.config, 0, 2)

    def program(self, variant: str, config: Optional[Config] = None) -> ane_bench.Program:
        """Return a program of this configuration."""
        return ane_bench.build_program(config or self.config, variant)

    def output(self, program: ane_bench.Program, arithmetic: Arithmetic) -> list[list[float]]:
        """Return what an engine of an arithmetic computes, [pixel][channel]."""
        reference = ane_bench.Reference(program.mil, program.blob)
        return [list(vector) for vector in reference.compute(self.data, self.pixels, [arithmetic])[0]]

    def verify(self, program: ane_bench.Program, *outputs: Sequence[Sequence[float]], known: bool = False) -> Verdict:
        """Return the verdict on the outputs of rounds."""
        return ane_bench.verify(program, self.data, self.pixels, outputs, known)

    def test_every_arithmetic_is_named(self) -> None:
        """Some compute the same here: then the name of another may stand for both."""
        for variant, rounding, store in itertools.product(("fp16", "w8a8"), ("away", "even"), ("fp16", "fp32")):
            program = self.program(variant)
            output = self.output(program, Arithmetic(rounding, store))
            verdict = self.verify(program, output, output)
            name = verdict.verified["arithmetic"]
            self.assertEqual(verdict.verified, {
                "pixels": 4, "arithmetic": name, "equal": 1.0, "cosine": verdict.verified["cosine"],
                "relative_l2": 0.0, "slope": 1.0, "max_error": 0.0, "ok": True})
            named = Arithmetic("away" if "away" in name else "even", "fp16" if "fp16" in name else "fp32")
            self.assertEqual((name, self.output(program, named)), (named.name, output))
            self.assertEqual((verdict.problem, verdict.warnings), (None, []))

    def test_an_arithmetic_is_not_named_if_it_is_not_clearly_nearest(self) -> None:
        program = self.program("w8a8")
        away, even = (self.output(program, Arithmetic(rounding)) for rounding in ("away", "even"))
        between = [[(one + other) / 2 for one, other in zip(*pair)] for pair in zip(away, even)]
        verified = self.verify(program, between).verified
        self.assertNotIn("arithmetic", verified)
        self.assertLess(verified["equal"], 0.5)
        self.assertTrue(verified["ok"])

    def test_the_figures_are_those_of_the_worse_round(self) -> None:
        program = self.program("fp16")
        right = self.output(program, Arithmetic())
        worse = [[value * 1.001 for value in vector] for vector in right]
        for rounds in ((right, worse), (worse, right)):
            verdict = self.verify(program, *rounds)
            self.assertAlmostEqual(verdict.verified["slope"], 1.001, 6)
            self.assertIsNone(verdict.problem)

    def test_a_round_that_was_not_written_fails(self) -> None:
        program = self.program("w8a8")
        right, unwritten = self.output(program, Arithmetic()), [[math.nan] * 64] * 2
        for rounds in ((right, unwritten), (unwritten, right)):
            verdict = self.verify(program, *rounds)
            self.assertFalse(verdict.verified["ok"])
            self.assertIn("in 1 of 2 rounds verified, evaluate returned YES and did not write the output",
                          verdict.problem or "")
        self.assertTrue((self.verify(program, unwritten, unwritten).problem or "").startswith("evaluate returned YES"))
        part = [[*right[0][:60], *[math.nan] * 4], right[1]]
        self.assertIn("did not write 4 of 128 values", self.verify(program, part).problem or "")

    def test_quantization_left_out(self) -> None:
        program = self.program("w8a8")
        output = self.output(program, Arithmetic(quantizes=False))
        known, unknown = self.verify(program, output, known=True), self.verify(program, output)
        self.assertIn("quantize and dequantize are left out", known.problem or "")
        self.assertIsNone(unknown.problem)
        self.assertEqual([code for code, _ in unknown.warnings], ["quantization"])
        self.assertIn("quantize and dequantize are left out", unknown.warnings[0][1])

    def test_an_unknown_rounding_on_a_known_chip_is_warned_of(self) -> None:
        program = self.program("w8a8", Config(64, 8, 16))
        right = self.output(program, Arithmetic())
        noisy = [[value + (-1) ** place * 0.025 for place, value in enumerate(vector)] for vector in right]
        self.assertEqual(self.verify(program, right, known=True).warnings, [])
        self.assertEqual(self.verify(program, noisy).warnings, [])
        (code, text), = self.verify(program, noisy, known=True).warnings
        self.assertEqual(code, "unknown-rounding")
        self.assertIn("--verify 16", text)

    def test_3x3_has_no_arithmetic(self) -> None:
        config = Config(64, 8, 4, 3)
        self.data, self.pixels = ane_bench.random_input(config, 0), ane_bench.chosen_pixels(config, 0, 2)
        for variant in ("fp16", "w8a16"):
            program = self.program(variant, config)
            output = self.output(program, Arithmetic(quantizes=False))
            verdict = self.verify(program, output, known=True)
            self.assertEqual(sorted(verdict.verified), ["cosine", "max_error", "ok", "pixels", "relative_l2", "slope"])
            self.assertEqual((verdict.problem, verdict.warnings), (None, []))
        program = self.program("w8a8", config)
        verdict = self.verify(program, self.output(program, Arithmetic(quantizes=False)), known=True)
        self.assertIn("quantize and dequantize are left out", verdict.problem or "")


class M4Test(support.StandinCase):
    """The default configurations on a stand-in that computes as an M4 does."""

    def test_the_default_configurations_are_right(self) -> None:
        if not ALL:
            self.skipTest("long; ANE_BENCH_TESTS=all runs it")
        if "ARITHMETIC" not in (support.ROOT / "tests" / "standin" / "standin.m").read_text():
            self.skipTest("the stand-in computes in one arithmetic only")
        for config in ane_bench.DEFAULT_CONFIGS:
            pixels = ",".join(map(str, ane_bench.chosen_pixels(config, 0, 2)))
            record = self.run_record("--config", config.name, "--iters", "1", "--rounds", "1", "--warmup", "1",
                                     "--verify", "2", ARITHMETIC="m4", COMPUTE=pixels)
            fp16, w8a8 = (record["results"][0]["variants"][variant]["verified"] for variant in ("fp16", "w8a8"))
            print(f"\n{config.name} on an M4's arithmetic: relative L2 {fp16['relative_l2']:.5f} in FP16, "
                  f"{w8a8['relative_l2']:.5f} in W8A8", end="")
            self.assertEqual((w8a8["arithmetic"], w8a8["equal"]), ("halves away, fp16 stores", 1.0))
            self.assertLess(w8a8["relative_l2"], 0.001)
            self.assertLess(fp16["relative_l2"], 0.0007 * math.sqrt(config.depth))


class TextsTest(unittest.TestCase):
    """Every problem says what was seen, the usual cause, and a flag that exists."""

    FLAGS = ("--blob", "--dialect", "--verify", "--qos", "--variants", "spatial")

    def assert_helps(self, text: Optional[str], *words: str) -> None:
        """Fail if a text lacks these words or names no flag."""
        for word in words:
            self.assertIn(word, text or "")
        self.assertTrue(any(flag in (text or "") for flag in self.FLAGS), text)

    def test_outputs_that_need_no_comparison(self) -> None:
        for values, word in (
                ([math.nan] * 9, "did not write the output"), ([1.0, math.nan], "did not write 1 of 2 values"),
                ([1.0, math.inf], "infinities"), ([0.0, -0.0, 0.0], "zeros"), ([2.5] * 8, "everywhere")):
            self.assert_helps(ane_bench.output_defect(values, [1.0, 2.0], Config(2, 8, 2)), word)
        self.assertIsNone(ane_bench.output_defect([1.0, 2.0], [1.0, 2.0], Config(2, 8, 2)))
        self.assertIsNone(ane_bench.output_defect([0.0, 0.0], [0.0, 0.0], Config(2, 8, 2)))

    def test_mismatches(self) -> None:
        config, good = Config(64, 64, 8), Comparison(1.0, 0.0, 1.0, 0.0, 1.0)
        for found, words in ((good._replace(cosine=0.1, relative_l2=1.4), "wrong layer"),
                             (good._replace(slope=1.1, relative_l2=0.1), "wrong scale"),
                             (good._replace(cosine=0.999, relative_l2=0.05), "left out")):
            self.assert_helps(ane_bench.explain_mismatch(found, 64, config, "fp16"), words)
        self.assertIsNone(ane_bench.explain_mismatch(good, 64, config, "fp16"))

    def test_what_poison_is(self) -> None:
        self.assertTrue(math.isnan(struct.unpack("<e", ane_bench.UNWRITTEN)[0]))


class ComparisonTest(unittest.TestCase):
    """The figures by hand."""

    def test_figures(self) -> None:
        found = ane_bench.compare_vectors([3.0, 4.0, 0.0], [3.0, 0.0, 4.0])
        self.assertEqual([round(value, 6) for value in found], [0.36, round(math.sqrt(32) / 5, 6), 0.36, 4.0, 1.0])

    def test_distance_from_fp16(self) -> None:
        found = ane_bench.distance_from_fp16([[3.0, 4.0], [0.0, 0.0]], [[3.0, 0.0], [4.0, 0.0]])
        self.assertEqual({key: round(value, 6) for key, value in found.items()}, {
            "cosine": 0.36, "relative_l2": round(math.sqrt(32) / 5, 6)})

    def test_chosen_pixels(self) -> None:
        config = Config(8, 4, 1)
        for count in (1, 3, 16, 99):
            chosen = ane_bench.chosen_pixels(config, 0, count)
            self.assertEqual(len(set(chosen)), min(count, 16))
            self.assertTrue(all(0 <= index < 16 for index in chosen))
        config = Config(8, 64, 1)
        self.assertNotEqual(ane_bench.chosen_pixels(config, 0, 1), ane_bench.chosen_pixels(config, 1, 1))

    def test_chosen_pixels_of_3x3(self) -> None:
        for seed in range(50):
            (row, column), (inner_row, inner_column) = (
                divmod(index, 8) for index in ane_bench.chosen_pixels(Config(8, 8, 1, 3), seed, 2))
            self.assertEqual([row in (0, 7), column in (0, 7)].count(True), 1)
            self.assertTrue(0 < inner_row < 7 and 0 < inner_column < 7)
        for side in (1, 2):
            self.assertEqual(len(ane_bench.chosen_pixels(Config(8, side, 1, 3), 0, 9)), side * side)
