"""Section 6: the check accepts what right engines compute and sees what wrong ones compute.

Engines are simulated with numpy. README's sentences on what the check sees are the claims below.
Longer simulations run if ANE_BENCH_TESTS=all is set; `python3 -m tests.simulation SECONDS` runs
the longest, and prints how near right outputs come to each limit.
"""

import itertools
import math
import random
import unittest
import unittest.mock
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import ARITHMETICS, VARIANTS, Comparison, Config, Reference, Verdict, Weights
from tests import support


class SimulatedCase(unittest.TestCase):
    """A test that needs simulated engines, and so numpy."""

    simulation: Any

    @classmethod
    def setUpClass(cls) -> None:
        cls.simulation = support.need("tests.simulation")

    def chain(self, name: str, variant: str, seed: int, count: int) -> Any:
        """Return a simulated chain with the reference of its pixels."""
        return self.simulation.Chain(Config.parse(name), variant, seed, count)


class SimulationTest(SimulatedCase):
    """The simulation is right itself: it agrees with the module's reference."""

    def test_winograd_is_the_same_convolution(self) -> None:
        chosen = self.chain("32x7x1k3", "fp16", 0, 8)
        plain, fast = (self.simulation.totals(chosen.layers[0], chosen.input, sums)
                       for sums in ("exact", "winograd32"))
        self.assertLess(abs(plain - fast).max(), 0.01)
        self.assertGreater(abs(plain).max(), 1)

    def test_the_reference_computes_the_same(self) -> None:
        for name, variant in (("64x8x4", "fp16"), ("48x8x8", "w8a8")):
            simulated = self.chain(name, variant, 1, 4)
            reference = Reference(simulated.config, 1)
            for arithmetic, quantizes in itertools.product(ARITHMETICS, {False, simulated.int8}):
                computed = reference.compute(simulated.places, arithmetic, quantizes)
                self.assertEqual(list(map(list, computed)),
                                 simulated.compute(simulated.places, arithmetic, quantizes))
        simulated = self.chain("32x8x4k3", "fp16", 1, 6)
        computed = Reference(simulated.config, 1).compute(simulated.places)
        for pair in zip(computed, simulated.compute(simulated.places)):
            self.assertLess(max(abs(one - other) for one, other in zip(*pair)), 1e-9)


class RightOutputsTest(SimulatedCase):
    """What a right engine computes passes, without a warning, 1.15 times below each limit."""

    def check(self, known: bool, seed: int) -> list[Verdict]:
        """Fail if a verdict is more than silence, or if a margin is small; return the verdicts."""
        found = []
        names = self.simulation.LONG if support.ALL else self.simulation.SHORT
        with self.simulation.margins() as nearest:
            for what, verdict in self.simulation.right_verdicts(names, (seed,), known):
                self.assertEqual((verdict.problem, verdict.warnings), (None, []), what)
                found.append(verdict)
        self.assertLess(max(nearest.values()), 1 / 1.15, nearest)
        return found

    def test_any_arithmetic_on_an_unknown_chip(self) -> None:
        self.assertGreater(len(self.check(False, 0)), 100_000 if support.ALL else 7_000)

    def test_values_that_int8_cuts_off(self) -> None:
        """With this seed a deep chain grows to 8 here and there: wrong by limits that do not."""
        chosen = self.chain("32x16x64k3", "w8a8", 2, 48)
        output = self.simulation.chain(chosen.layers, chosen.input, self.simulation.Engine(True))
        for depth, right in ((ane_bench.CUT_OFF_DEPTH, True), (1e9, False)):
            with unittest.mock.patch.object(ane_bench, "CUT_OFF_DEPTH", depth):
                verdicts = chosen.verdicts(chosen.pixels(output), 8)
                self.assertEqual({verdict.problem for verdict in verdicts} == {None}, right)

    def test_an_m4(self) -> None:
        """It rounds each product, so in FP16 it differs from the reference; quantized not."""
        verdicts = self.check(True, 1)
        named = [verdict.verified for verdict in verdicts if "equal" in verdict.verified]
        self.assertTrue(any(verified["relative_l2"] > 0 for verified in named))
        self.assertTrue(any(verified["equal"] == 1.0 for verified in named))


class Claim(NamedTuple):
    """At least this share of outputs with a defect is seen, by a problem or a warning, in these
    configurations (the first always unless it is empty, all with ANE_BENCH_TESTS=all)."""

    least: float
    defects: str
    variants: str
    # known: an M4; unknown: sums and roundings of an M1, whose W8A8 is far from every reference
    chips: str
    names: str
    pixels: int = 8


FLAT, DEEP = "64x64x8,64x64x32,128x64x32,512x64x8", "64x64x32,512x64x128"
SQUARE, DEEP_SQUARE = "64x16x8k3,64x16x16k3,128x16x16k3,256x16x16k3", "64x16x64k3,64x28x192k3"
ALL_FLAT, ALL_SQUARE = f"{FLAT},{DEEP}", f"{SQUARE},{DEEP_SQUARE}"
HALF, BYTE, BOTH = "fp16,w8a16", "w8a8", "known,unknown"
CLAIMS = (
    # README: seen in every one with eight pixels.
    Claim(1.0, "aliased,swapped", f"{HALF},{BYTE}", BOTH, ALL_FLAT),
    Claim(1.0, "unquantized", BYTE, BOTH, f"{ALL_FLAT},{ALL_SQUARE}"),
    Claim(1.0, "scaled,shrunk", HALF, BOTH, ALL_FLAT),
    Claim(1.0, "scaled,shrunk,coarse", BYTE, "unknown", FLAT),
    Claim(1.0, "scaled,shrunk,coarse,floor,dead,exchanged,dropped", BYTE, "known", ALL_FLAT),
    Claim(1.0, "bf16,dead,exchanged,dropped", HALF, "known", ALL_FLAT),
    Claim(1.0, "dead,exchanged", HALF, "unknown", ALL_FLAT),
    Claim(1.0, "aliased,swapped,scaled,shrunk,transposed,one transposed,border", HALF, "unknown",
          ALL_SQUARE),
    Claim(1.0, "aliased,swapped,scaled,shrunk,coarse,transposed,one transposed", BYTE, "unknown",
          SQUARE),
    Claim(1.0, "aliased,swapped", BYTE, "unknown", DEEP_SQUARE),
    # In 9 of 10 and in 19 of 20 with eight pixels.
    Claim(0.9, "border", BYTE, "unknown", SQUARE),
    Claim(0.95, "dead,exchanged,dropped,floor", BYTE, "unknown", FLAT),
    Claim(0.95, "dropped", HALF, "unknown", FLAT),
    Claim(0.95, "dead,exchanged", f"{HALF},{BYTE}", "unknown", SQUARE),
    # In every one with --verify 16.
    Claim(1.0, "dead", BYTE, "unknown", DEEP, 16),
    Claim(1.0, "dropped", HALF, "unknown", DEEP, 16))
# README: not seen; with no number of pixels in half of the outputs.
NEVER = (Claim(0.5, "bf16", HALF, "unknown", f"64x64x8,{DEEP},{SQUARE}", 16),
         Claim(0.5, "dropped", BYTE, "unknown", ",512x64x128", 16),
         Claim(0.5, "scaled,shrunk,dropped,coarse", BYTE, "unknown", DEEP_SQUARE, 16))


class ClaimsTest(SimulatedCase):
    """What README says that the check sees."""

    def rates(self, claim: Claim) -> Iterator[tuple[str, float]]:
        """Yield each case of a claim, and the share of its outputs that is seen."""
        names = filter(None, claim.names.split(",")[:None if support.ALL else 1])
        for name, defect, variant, chip in itertools.product(
                names, claim.defects.split(","), claim.variants.split(","), claim.chips.split(",")):
            if variant == "w8a16" and name != claim.names.split(",")[0]:
                continue  # it computes as FP16 does
            yield (f"{name} {variant} {chip} {defect} {claim.pixels}",
                   self.simulation.rate(name, variant, defect, chip == "known", claim.pixels))

    def test_what_is_seen(self) -> None:
        for claim in CLAIMS:
            for case, found in self.rates(claim):
                self.assertGreaterEqual(found, claim.least, case)

    def test_what_is_not_seen(self) -> None:
        """Else README says too little."""
        for claim in NEVER:
            for case, found in self.rates(claim):
                self.assertLessEqual(found, claim.least, case)


class JudgeTest(unittest.TestCase):
    """What single values weigh, on outputs made by hand."""

    def setUp(self) -> None:
        self.draw = random.Random(1).gauss
        self.expected = [[self.draw(0, 1) for _ in range(512)] for _ in range(16)]

    def judged(self, variant: str, depth: int, output: Sequence[Sequence[float]],
               expected: Sequence[Sequence[float]]) -> str:
        """Return the problem of an output of 512 channels, if the reference computes what is
        expected in every arithmetic, and without quantization something farther away."""
        reference = unittest.mock.Mock(config=Config(512, 64, depth))
        off = [[value + (-1) ** place * 0.1 for place, value in enumerate(vector)]
               for vector in expected]
        reference.compute = lambda pixels, arithmetic=None, quantizes=False: (
            off if variant == "w8a8" and not quantizes else expected)[:len(pixels)]
        pixels = range(len(output))
        return ane_bench.verify(reference, VARIANTS[variant], pixels, [output], False).problem or ""

    def test_a_dead_channel_is_seen_beyond_averages(self) -> None:
        """In FP16 one of 512 that is zero in all of 16 pixels is within the limits of averages."""
        expected = [[*vector[:7], 1.0, *vector[8:]] for vector in self.expected]
        output = [[value + self.draw(0, 0.003) for value in vector] for vector in expected]
        self.assertEqual(self.judged("fp16", 128, output, expected), "")
        for vector in output:
            vector[7] = 0.0
        for values, should in zip(output, expected):
            found = ane_bench.compare_vectors(values, should)
            self.assertLess(ane_bench.mismatch(found, 512, Config(512, 64, 128), False).times, 1)
        for count in (1, 16):
            problem = self.judged("fp16", 128, output[:count], expected[:count])
            self.assertIn("1 of 512 channels differ", problem)
            self.assertIn("channels are left out or exchanged", problem)

    def test_a_small_error_among_equal_values_is_seen(self) -> None:
        """INT8 is exact: where most values are equal, 0.1 is no rounding, on any chip."""
        expected = self.expected[:2]
        output = [[*vector[:7], vector[7] + 0.1, *vector[8:]] for vector in expected]
        self.assertEqual(self.judged("w8a8", 128, expected, expected), "")
        self.assertIn("1 of 512 channels differ", self.judged("w8a8", 128, output, expected))

    def test_a_wrong_pixel_is_seen_among_right_ones(self) -> None:
        """Right pixels do not lessen what a wrong one weighs."""
        limit, _ = ane_bench.verification_limits(512, Config(512, 64, 128), False)
        output = [[value + self.draw(0, 1.3 * limit if pixel == 5 else 0.003) for value in vector]
                  for pixel, vector in enumerate(self.expected)]
        problem = self.judged("fp16", 128, output, self.expected)
        self.assertIn("more than rounding explains", problem)


class VerifyTest(unittest.TestCase):
    """The whole of `verify`: rounds, figures, texts; outputs are computed by the module's own
    reference."""

    def setUp(self) -> None:
        self.reference = Reference(Config(64, 8, 4), 0)
        self.pixels = ane_bench.chosen_pixels(self.reference.config, 0, 2)

    def output(self, place: int, quantizes: bool) -> list[list[float]]:
        """Return what an engine of an arithmetic computes, [pixel][channel]."""
        return list(map(list, self.reference.compute(self.pixels, ARITHMETICS[place], quantizes)))

    def verify(self, variant: str, *outputs: Sequence[Sequence[float]],
               known: bool = False) -> Verdict:
        """Return the verdict on the outputs of rounds."""
        return ane_bench.verify(self.reference, VARIANTS[variant], self.pixels, outputs, known)

    def test_every_arithmetic_is_named(self) -> None:
        """Some compute the same here: then the name of another may stand for both."""
        for variant, place in itertools.product(("fp16", "w8a16", "w8a8"), range(4)):
            output = self.output(place, variant == "w8a8")
            verdict = self.verify(variant, output, output)
            name = verdict.verified["arithmetic"]
            self.assertEqual(verdict.verified, {
                "pixels": 4, "arithmetic": name, "equal": 1.0, "cosine": verdict.verified["cosine"],
                "relative_l2": 0.0, "slope": 1.0, "max_error": 0.0, "ok": True})
            named = [one.name for one in ARITHMETICS].index(name)
            self.assertEqual(self.output(named, variant == "w8a8"), output)
            self.assertEqual((verdict.problem, verdict.warnings), (None, []))

    def test_an_arithmetic_is_not_named_if_it_is_not_clearly_nearest(self) -> None:
        away, even = self.output(0, True), self.output(2, True)
        between = [[(one + other) / 2 for one, other in zip(*pair)] for pair in zip(away, even)]
        verified = self.verify("w8a8", between).verified
        self.assertNotIn("arithmetic", verified)
        self.assertLess(verified["equal"], 0.5)
        self.assertTrue(verified["ok"])

    def test_only_what_is_needed_is_computed(self) -> None:
        """FP16 tries the other arithmetics on one pixel; W8A8 that an M4's meets exactly tries
        none, and takes what it needs without quantization from FP16."""
        fp16, w8a8 = self.output(0, False), self.output(0, True)
        fp16[1][0] += 2.0 ** -10
        self.reference = Reference(self.reference.config, 0)
        computed: list[tuple[int, str, bool]] = []

        def spy(weights: Weights, image: Any, arithmetic: Any, quantizes: bool) -> Any:
            computed.append((len(image), arithmetic.name, quantizes))
            return chain_outputs(weights, image, arithmetic, quantizes)

        chain_outputs = ane_bench.chain_outputs
        with unittest.mock.patch.object(ane_bench, "chain_outputs", spy):
            self.assertIsNone(self.verify("fp16", fp16, fp16, known=True).problem)
            self.assertEqual(computed, [(2, ARITHMETICS[0].name, False),
                                        *[(1, one.name, False) for one in ARITHMETICS[1:]]])
            self.assertIsNone(self.verify("w8a8", w8a8, w8a8, known=True).problem)
            self.assertEqual(computed[4:], [(2, ARITHMETICS[0].name, True)])

    def test_the_figures_are_those_of_the_worse_round(self) -> None:
        right = self.output(0, False)
        worse = [[value * 1.001 for value in vector] for vector in right]
        for rounds in ((right, worse), (worse, right)):
            verdict = self.verify("fp16", *rounds)
            self.assertAlmostEqual(verdict.verified["slope"], 1.001, 6)
            self.assertIsNone(verdict.problem)

    def test_a_round_that_was_not_written_fails(self) -> None:
        right, unwritten = self.output(0, True), [[math.nan] * 64] * 2
        for rounds in ((right, unwritten), (unwritten, right)):
            verdict = self.verify("w8a8", *rounds)
            self.assertFalse(verdict.verified["ok"])
            self.assertIn("in 1 of 2 rounds verified, evaluate returned YES and did not write",
                          verdict.problem or "")
        verdict = self.verify("w8a8", unwritten, unwritten)
        self.assertRegex(verdict.problem or "", "^evaluate returned YES")
        part = [[*right[0][:60], *[math.nan] * 4], right[1]]
        self.assertIn("did not write 4 of 128 values", self.verify("w8a8", part).problem or "")

    def test_quantization_left_out_fails_on_every_chip(self) -> None:
        for name in ("64x8x4", "64x8x4k3"):
            self.reference = Reference(Config.parse(name), 0)
            self.pixels = ane_bench.chosen_pixels(self.reference.config, 0, 2)
            for known in (True, False):
                verdict = self.verify("w8a8", self.output(0, False), known=known)
                self.assertIn("quantize and dequantize are left out", verdict.problem or "")
                self.assertFalse(verdict.verified["ok"])
                self.assertIsNone(self.verify("w8a16", self.output(0, False), known=known).problem)

    def test_coarse_steps_fail_on_known_chips_and_are_warned_of_on_others(self) -> None:
        exact, right = self.output(0, False), self.output(0, True)
        coarse = [[one + 2.2 * (other - one) for one, other in zip(*pair)]
                  for pair in zip(exact, right)]
        (code, text), = self.verify("w8a8", coarse).warnings
        self.assertEqual((code, "steps are too coarse" in text), ("quantization", True))
        self.assertIn("steps are too coarse", self.verify("w8a8", coarse, known=True).problem or "")

    def test_a_chain_of_one_layer_quantizes_nothing(self) -> None:
        """So W8A8 is judged as W8A16."""
        self.reference = Reference(Config(64, 8, 1), 0)
        output = self.output(0, False)
        output[0][0] += 2.0 ** -11
        one, other = (self.verify(variant, output, known=True) for variant in ("w8a16", "w8a8"))
        self.assertEqual((one, one.problem), (other, None))

    def test_an_unknown_rounding_on_a_known_chip_is_warned_of(self) -> None:
        self.reference = Reference(Config(64, 8, 16), 0)
        right = self.output(0, True)
        noisy = [[value + (-1) ** place * 0.025 for place, value in enumerate(vector)]
                 for vector in right]
        self.assertEqual(self.verify("w8a8", right, known=True).warnings, [])
        self.assertEqual(self.verify("w8a8", noisy).warnings, [])
        (code, text), = self.verify("w8a8", noisy, known=True).warnings
        self.assertEqual((code, "a larger --verify" in text), ("unknown-rounding", True))

    def test_3x3_has_no_arithmetic(self) -> None:
        self.reference = Reference(Config(64, 8, 4, 3), 0)
        for variant in ("fp16", "w8a16"):
            verdict = self.verify(variant, self.output(0, False), known=True)
            self.assertEqual(sorted(verdict.verified),
                             ["cosine", "max_error", "ok", "pixels", "relative_l2", "slope"])
            self.assertEqual((verdict.problem, verdict.warnings), (None, []))


class TextsTest(unittest.TestCase):
    """Every problem says what was seen, what can cause it, and what to do."""

    def assert_helps(self, text: Optional[str], *words: str) -> None:
        """Fail if a text lacks these words, names no flag or command, or names one that is gone."""
        for word in words:
            self.assertIn(word, text or "")
        self.assertRegex(text or "", r"\A.*(--form|--verify|--qos|doctor).*\Z")
        self.assertNotRegex(text or "", "--blob|--dialect|multiple of 32|spatial")

    def test_outputs_that_need_no_comparison(self) -> None:
        for values, words in (([math.nan] * 2, ("did not write the output", "strides")),
                              ([1.0, math.nan], ("did not write 1 of 2 values", "strides")),
                              ([1.0, math.inf], ("infinities",)),
                              ([0.0, -0.0] * 16, ("zeros", "strides")),
                              ([2.5] * 32, ("everywhere",))):
            self.assert_helps(ane_bench.output_defect(values, [1.0, 2.0] * 16), *words)
        for right in ([1.0, 2.0] * 16, [0.0] * 32, [2.5] * 31):
            self.assertIsNone(ane_bench.output_defect(right, right))
        self.assertIsNone(ane_bench.output_defect([2.5, 2.5], [2.5, 2.75]), "by chance")

    def test_mismatches(self) -> None:
        config, good = Config(64, 64, 8), Comparison(1.0, 1.0, 0.0, 1.0, 0.0, 1.0)
        for found, words in (
                (good._replace(cosine=0.1, relative_l2=1.4), ("a wrong layer", "strides")),
                (good._replace(slope=1.1, relative_l2=0.1), ("the wrong scale",)),
                (good._replace(cosine=0.999, relative_l2=0.05), ("left out",))):
            excess = ane_bench.mismatch(found, 64, config, False)
            self.assertGreater(excess.times, 1)
            self.assert_helps(excess.text, "not what the program should compute", *words)
        self.assertEqual(ane_bench.mismatch(good, 64, config, False).times, 0)


class ComparisonTest(unittest.TestCase):
    """Figures and pixels by hand."""

    def test_figures(self) -> None:
        found = ane_bench.compare_vectors([3.0, 4.0, 0.0, 9.0], [3.0, 0.0, 4.0])
        self.assertEqual([round(value, 6) for value in found],
                         [round(1 / 3, 6), 0.36, round(math.sqrt(32) / 5, 6), 0.36, 4.0, 1.0])

    def test_chosen_pixels(self) -> None:
        for count in (1, 3, 16, 99):
            chosen = ane_bench.chosen_pixels(Config(8, 4, 1), 0, count)
            self.assertEqual(len(set(chosen)), min(count, 16))
            self.assertTrue(all(0 <= index < 16 for index in chosen))
        config = Config(8, 64, 1)
        self.assertNotEqual(*[ane_bench.chosen_pixels(config, seed, 1) for seed in (0, 1)])

    def test_half_of_the_pixels_of_3x3_lie_on_edges(self) -> None:
        for side, seed in itertools.product((7, 8, 56), range(20)):
            places = [divmod(index, side)
                      for index in ane_bench.chosen_pixels(Config(8, side, 1, 3), seed, 8)]
            edges = [(row in (0, side - 1)) + (column in (0, side - 1)) for row, column in places]
            self.assertEqual(edges, [1, 0] * 4)
        for side in (1, 2, 3, 4):
            found = ane_bench.chosen_pixels(Config(8, side, 1, 3), 0, 99)
            self.assertEqual(sorted(found), list(range(side * side)))
