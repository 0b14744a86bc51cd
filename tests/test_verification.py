"""Section 8, verification: what the check lets pass and what it does not, simulated with numpy, with the margins printed."""

import functools
import math
import struct
import unittest
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import Comparison, Config
from tests import support

SHALLOW = [Config.parse(name) for name in ("64x8x4", "128x8x8", "64x8x8", "256x8x8", "512x8x2")]
SMALL = [Config.parse(name) for name in ("1x8x8", "2x8x2", "3x8x8", "8x8x4", "16x8x8", "16x8x64", "16x8x256", "64x8x1")]


class Simulated(NamedTuple):
    """What was simulated of one seed, with int8 activations or without, [channel][pixel]: the reference, what each engine gives
    that does nothing wrong, and what each defect gives."""

    int8: bool
    seed: int
    reference: Any
    legitimate: dict[Any, Any]
    defects: dict[str, Any]


@functools.cache
def simulated(config: Config) -> list[Simulated]:
    """Every seed: two of the largest configurations, which take the most time, and six of others."""
    from tests import simulation
    deep, found = config in ane_bench.DEFAULT_CONFIGS, []
    for seed in range(2 if deep else 6):
        layers = simulation.layers_of(config, seed)
        pixels = simulation.pixels_of(config, seed, range(4 if deep else 8))
        legitimate = simulation.chains(layers, pixels[:, :2] if deep else pixels, simulation.LEGITIMATE)
        damaged = {name: defect(layers) for name, defect in simulation.DEFECTS.items()} if config not in SMALL and seed < 4 else {}
        for int8 in (False, True):
            exact = simulation.Engine(int8)
            found.append(Simulated(int8, seed, simulation.chain(layers, pixels, exact),
                                   {engine: output for engine, output in legitimate.items() if engine.int8 == int8},
                                   {name: simulation.chain(wrong, pixels[:, :4], exact) for name, wrong in damaged.items()}))
    return found


class Verdict(NamedTuple):
    """What the module says of an output, and how near that comes to the limits of relative L2 and of slope: 1 is at the limit."""

    problem: Optional[str]
    relative: float
    slope: float


def judged(config: Config, int8: bool, output: Any, reference: Any) -> Verdict:
    """The verdict on a simulated output, [channel][pixel]."""
    variant = ane_bench.VARIANTS["w8a8" if int8 else "fp16"]
    values, expected = (list(map(float, one.T.ravel())) for one in (output, reference))
    found = ane_bench.compare_vectors(values, expected)
    limits = ane_bench.verification_limits(len(values), config, variant)
    problem = ane_bench.useless(values, expected) or ane_bench.judge(found, len(values), config, variant)
    floor = found.floor if int8 else 1.0
    return Verdict(problem, found.relative_l2 * floor / limits[0], abs(found.slope - 1) * floor ** 2 / limits[1])


class SimulatedTest(unittest.TestCase):
    """Everything that an engine may do passes; what it must not do does not."""

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

    def test_legitimate_arithmetics_pass(self) -> None:
        worst_of_all = 0.0
        for config in [*ane_bench.DEFAULT_CONFIGS, *SHALLOW, *SMALL]:
            for int8 in (False, True):
                worst = (0.0, 0.0)
                for one in simulated(config):
                    for engine, output in one.legitimate.items() if one.int8 == int8 else ():
                        for pixel in range(output.shape[1]):
                            verdict = judged(config, int8, output[:, [pixel]], one.reference[:, [pixel]])
                            self.assertIsNone(verdict.problem, (config, one.seed, engine))
                            worst = max(worst[0], verdict.relative), max(worst[1], verdict.slope)
                print(f"\n{config.name} {'int8' if int8 else 'fp16'}: legitimate arithmetics reach {worst[0]:.0%} of the limit of "
                      f"relative L2, {worst[1]:.0%} of the slope's", end="")
                worst_of_all = max(worst_of_all, *worst)
        self.assertTrue(0.5 < worst_of_all < 1, worst_of_all)

    def test_defects_fail(self) -> None:
        for config in [*ane_bench.DEFAULT_CONFIGS, *SHALLOW]:
            for one in simulated(config):
                for name, output in one.defects.items():
                    count = 4 if name == "dropped" else 1
                    verdict = judged(config, one.int8, output[:, :count], one.reference[:, :count])
                    seen, margin = verdict.problem is not None, max(verdict.relative, verdict.slope)
                    if must_be_seen(name, config, one.int8):
                        self.assertTrue(seen, (config, one.int8, one.seed, name, margin))
                    elif one.seed == 0:
                        print(f"\n{config.name} {'int8' if one.int8 else 'fp16'}: {name} with {count} pixel(s) is at {margin:.0%} "
                              f"of the limit: {'seen' if seen else 'not seen'}", end="")


def must_be_seen(defect: str, config: Config, int8: bool) -> bool:
    """What the README promises."""
    if defect == "scaled":
        return not int8 or config.depth <= 8
    if defect == "dropped":
        return config.depth <= 8 and config.channels <= (128 if int8 else 256)
    return True


class UselessTest(unittest.TestCase):
    """Outputs that need no comparison, for every configuration and variant."""

    def test_each_is_named(self) -> None:
        for values, word in (([math.nan] * 9, "did nothing"), ([1.0, math.nan], "NaN"), ([1.0, math.inf], "infinities"),
                             ([0.0, -0.0, 0.0], "zeros"), ([2.5] * 8, "everywhere")):
            problem = ane_bench.useless(values, [1.0, 2.0])
            self.assertIn(word, problem or "")
            self.assertIn("try ", problem or "")
        self.assertIsNone(ane_bench.useless([1.0, 2.0], [1.0, 2.0]))
        self.assertIsNone(ane_bench.useless([0.0, 0.0], [0.0, 0.0]))

    def test_the_pattern_of_what_is_not_written_is_nan(self) -> None:
        self.assertTrue(math.isnan(struct.unpack("<e", ane_bench.UNWRITTEN)[0]))

    def test_messages(self) -> None:
        config, variant = Config(64, 64, 8), ane_bench.VARIANTS["fp16"]
        good = Comparison(1.0, 0.0, 1.0, 0.0, 1.0)
        for found, words in ((good._replace(cosine=0.1, relative_l2=1.4), "wrong layer"),
                             (good._replace(slope=1.1, relative_l2=0.1), "wrong scale"),
                             (good._replace(cosine=0.999, relative_l2=0.05), "left out")):
            problem = ane_bench.judge(found, 64, config, variant)
            self.assertIn(words, problem or "")
            self.assertIn("try ", problem or "")
        self.assertIsNone(ane_bench.judge(good, 64, config, variant))


class ComparisonTest(unittest.TestCase):
    """The figures by hand."""

    def test_figures(self) -> None:
        found = ane_bench.compare_vectors([3.0, 4.0, 0.0], [3.0, 0.0, 4.0])
        self.assertEqual([round(value, 6) for value in found], [0.36, round(math.sqrt(32) / 5, 6), 0.36, 4.0, 1.0])

    def test_chosen_pixels(self) -> None:
        config = Config(8, 4, 1)
        for count in (1, 3, 16, 99):
            chosen = ane_bench.chosen_pixels(config, ane_bench.Protocol(verify=count))
            self.assertEqual(len(set(chosen)), min(count, 16))
            self.assertTrue(all(0 <= index < 16 for index in chosen))
