"""Section 8, verification: what the check lets pass and what it does not, simulated with numpy, with the margins printed."""

import math
import struct
import unittest
from typing import Any, Optional

import ane_bench
from ane_bench import Comparison, Config

SHALLOW = [Config.parse(name) for name in ("64x8x4", "128x8x8", "64x8x8", "256x8x8", "512x8x2")]
SMALL = [Config.parse(name) for name in ("1x8x8", "2x8x2", "3x8x8", "8x8x4", "16x8x8", "16x8x64", "64x8x1")]


def judged(config: Config, int8: bool, output: Any, reference: Any) -> Optional[str]:
    """What the module says of a simulated output, [channel][pixel]."""
    variant = ane_bench.VARIANTS["w8a8" if int8 else "fp16"]
    values, expected = (list(map(float, one.T.ravel())) for one in (output, reference))
    return ane_bench.useless(values, expected) or ane_bench.judge(ane_bench.compare_vectors(values, expected), len(values), config, variant)


class SimulatedTest(unittest.TestCase):
    """Everything that an engine may do passes; what it must not do does not."""

    def setUp(self) -> None:
        from tests import simulation
        self.simulation: Any = simulation

    def margins(self, config: Config, int8: bool, output: Any, reference: Any) -> tuple[float, float]:
        """How near an output comes to the limits of relative L2 and of slope: 1 is at the limit."""
        values, expected = (list(map(float, one.T.ravel())) for one in (output, reference))
        found = ane_bench.compare_vectors(values, expected)
        limits = ane_bench.verification_limits(len(values), config, ane_bench.VARIANTS["w8a8" if int8 else "fp16"])
        return found.relative_l2 * found.floor / limits[0], abs(found.slope - 1) * found.floor ** 2 / limits[1]

    def test_legitimate_arithmetics_pass(self) -> None:
        simulation = self.simulation
        worst_of_all = 0.0
        for config in [*ane_bench.DEFAULT_CONFIGS, *SHALLOW, *SMALL]:
            deep = config in ane_bench.DEFAULT_CONFIGS
            for int8 in (False, True):
                worst = (0.0, 0.0)
                for seed in range(2 if deep else 6):
                    layers = simulation.layers_of(config, seed)
                    pixels = simulation.pixels_of(config, seed, range(2 if deep else 8))
                    reference = simulation.chain(layers, pixels, simulation.Engine(), int8)
                    for engine in simulation.LEGITIMATE:
                        if int8 or engine.rounding == "even":
                            output = simulation.chain(layers, pixels, engine, int8)
                            for pixel in range(pixels.shape[1]):
                                one, other = output[:, [pixel]], reference[:, [pixel]]
                                worst = tuple(map(max, worst, self.margins(config, int8, one, other)))  # type: ignore[assignment]
                                self.assertIsNone(judged(config, int8, one, other), (config, int8, seed, engine))
                print(f"\n{config.name} {'int8' if int8 else 'fp16'}: legitimate arithmetics reach {worst[0]:.0%} of the limit of "
                      f"relative L2, {worst[1]:.0%} of the slope's", end="")
                worst_of_all = max(worst_of_all, *worst)
        self.assertTrue(0.5 < worst_of_all < 1, worst_of_all)

    def test_defects_fail(self) -> None:
        simulation = self.simulation
        for config in [*ane_bench.DEFAULT_CONFIGS, *SHALLOW]:
            deep = config in ane_bench.DEFAULT_CONFIGS
            for int8 in (False, True):
                for seed in range(2 if deep else 4):
                    layers = simulation.layers_of(config, seed)
                    pixels = simulation.pixels_of(config, seed, range(4))
                    reference = simulation.chain(layers, pixels, simulation.Engine(), int8)
                    for name, defect in simulation.DEFECTS.items():
                        output = simulation.chain(defect(layers), pixels, simulation.Engine(), int8)
                        count = 4 if name == "dropped" else 1
                        seen = judged(config, int8, output[:, :count], reference[:, :count]) is not None
                        margin = max(self.margins(config, int8, output[:, :count], reference[:, :count]))
                        if must_be_seen(name, config, int8):
                            self.assertTrue(seen, (config, int8, seed, name, margin))
                        elif seed == 0:
                            print(f"\n{config.name} {'int8' if int8 else 'fp16'}: {name} with {count} pixel(s) is at {margin:.0%} of "
                                  f"the limit: {'seen' if seen else 'not seen'}", end="")


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
        for found, words in ((good._replace(cosine=0.1, relative_l2=1.4), "wrong layer"), (good._replace(slope=1.1, relative_l2=0.1), "wrong scale"),
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
