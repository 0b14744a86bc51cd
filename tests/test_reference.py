"""Section 5: what a program computes. The oracle here takes its weights from the weight file, and
adds fractions one by one."""

import contextlib
import itertools
import math
import random
import struct
import time
import unittest
import unittest.mock
from collections.abc import Sequence
from fractions import Fraction

import ane_bench
from ane_bench import ARITHMETICS, VARIANTS, Circulant, Config, Program, Reference, build_program
from tests import mil_grammar


def weights_of(program: Program) -> list[list[Fraction]]:
    """Return the weights of each layer, from text and weight file alone."""
    layers = []
    for step in mil_grammar.steps(program.mil, program.blob):
        if step.weights:
            letter, size = ("e", 2) if step.weights.data_type == "fp16" else ("b", 1)
            numbers = struct.unpack(f"<{len(step.weights.data) // size}{letter}", step.weights.data)
            layers.append([Fraction(number) * Fraction(step.scale) for number in numbers])
    return layers


def nearest(value: Fraction, rounding: str) -> int:
    """Return the nearest integer; halves go to even or away from zero."""
    if rounding == "even":
        return round(value)
    return int(math.copysign(int(abs(value) + Fraction(1, 2)), value))


def stored(value: Fraction, store: str, rounding: str) -> Fraction:
    """Return a number as fp16 or fp32 holds it, by exact arithmetic."""
    bits, least = (11, -24) if store == "fp16" else (24, -149)
    size = value.numerator.bit_length() - value.denominator.bit_length()
    size -= abs(value) < Fraction(2) ** size
    unit = Fraction(2) ** max(least, size + 1 - bits)
    return nearest(value / unit, rounding) * unit


def exact_chain(program: Program, image: Sequence[Sequence[float]],
                arithmetic: ane_bench.Arithmetic, quantizes: bool) -> list[list[float]]:
    """Return the output channels of each pixel by fractions, one term after the other."""
    values = [list(map(Fraction, pixel)) for pixel in image]
    for layer, weights in enumerate(weights_of(program), 1):
        last = layer == program.config.depth
        store = "fp16" if last else arithmetic.store
        values = [[stored(value, store, arithmetic.rounding) for value in sums]
                  for sums in convolved(program.config, weights, values)]
        if quantizes and not last:
            values = [[Fraction(max(-128, min(127, nearest(value * 32, arithmetic.rounding)))) / 32
                       for value in pixel] for pixel in values]
    return [list(map(float, pixel)) for pixel in values]


def convolved(config: Config, weights: Sequence[Fraction],
              values: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    """Return the sums of a convolution, [pixel][channel]; outside of the image all is zero."""
    outputs, side, reach = [], config.spatial, range(-(config.kernel // 2), config.kernel // 2 + 1)
    for row, column in itertools.product(range(side), repeat=2):
        places = [(row + y, column + x) for y, x in itertools.product(reach, repeat=2)]
        inputs = [values[y * side + x][channel] if 0 <= y < side and 0 <= x < side else Fraction(0)
                  for channel in range(config.channels) for y, x in places]
        outputs.append([sum(map(Fraction.__mul__, weights[start:start + len(inputs)], inputs),
                            Fraction(0)) for start in range(0, len(weights), len(inputs))])
    return outputs


def image_of(config: Config, seed: int) -> list[ane_bench.Vector]:
    """Return the pixels of the input."""
    data = ane_bench.random_input(config, seed)
    return [ane_bench.pixel_of(data, config, place) for place in range(config.pixels)]


def lists(output: Sequence[ane_bench.Vector]) -> list[list[float]]:
    """Return an output that can be compared."""
    return list(map(list, output))


class ChainTest(unittest.TestCase):
    """Chains of both kernels, in all arithmetics."""

    def test_equals_exact_arithmetic(self) -> None:
        names = ("1x2x3", "2x2x4", "7x2x3", "16x2x3", "8x1x12", "1x3x3k3", "2x4x3k3", "3x2x2k3")
        for name, variant, arithmetic in itertools.product(names, VARIANTS.values(), ARITHMETICS):
            with self.subTest(name, variant=variant.name, arithmetic=arithmetic.name):
                config, how = Config.parse(name), (arithmetic, variant.quantizes)
                program, image = build_program(config, variant.name, seed=5), image_of(config, 5)
                expected = exact_chain(program, image, *how)
                found = ane_bench.chain_outputs(program.weights, image, *how)
                self.assertEqual(lists(found), expected)
                if config.kernel == 1:
                    pixels = range(config.pixels)[::-2]
                    computed = Reference(config, 5).compute(pixels, *how)
                    self.assertEqual(lists(computed), [expected[pixel] for pixel in pixels])

    def test_tiny_and_large_inputs(self) -> None:
        """fp32 stores beside a tiny value need lanes of over 8 bytes; int8 cuts large ones off."""
        config = Config(5, 2, 3)
        image = [[2.0 ** -24, 60.0, -1.5, 0.0, 3.0],
                 [2.0 ** -14, -900.0, 1.0, 2.0 ** -20, 0.25]] * 2
        program = build_program(config, "w8a8")
        for arithmetic, quantizes in itertools.product(ARITHMETICS, (True, False)):
            found = ane_bench.chain_outputs(program.weights, image, arithmetic, quantizes)
            self.assertEqual(lists(found), exact_chain(program, image, arithmetic, quantizes))

    def test_arithmetics_can_be_told_apart(self) -> None:
        reference = Reference(Config(64, 2, 6), 0)
        for quantizes, number in ((True, 4), (False, 3)):
            outputs = {tuple(reference.compute([3], arithmetic, quantizes)[0])
                       for arithmetic in ARITHMETICS}
            self.assertGreaterEqual(len(outputs), number)

    def test_names(self) -> None:
        self.assertEqual([arithmetic.name for arithmetic in ARITHMETICS], [
            "halves away, fp16 stores", "halves away, fp32 stores",
            "halves to even, fp16 stores", "halves to even, fp32 stores"])


class UnroundedTest(unittest.TestCase):
    """The shortcut through 3x3 chains, without rounding between layers."""

    def test_equals_exact_sums(self) -> None:
        for name in ("3x4x3k3", "2x3x5k3", "5x1x2k3", "2x9x2k3"):
            config = Config.parse(name)
            values = [list(map(Fraction, pixel)) for pixel in image_of(config, 2)]
            for weights in weights_of(build_program(config, "w8a8", seed=2)):
                values = convolved(config, weights, values)
            found = ane_bench.concatenated(Reference(config, 2).compute(range(config.pixels)))
            for value, exact in zip(found, itertools.chain(*values)):
                self.assertAlmostEqual(value, float(exact), delta=1e-10)

    def test_fp16_differs_from_it_by_the_rounding_of_stores_alone(self) -> None:
        for name, most in (("4x5x1k3", 2 ** -11), ("1x4x3k3", 0.002), ("16x6x8k3", 0.003),
                           ("12x9x16k3", 0.004)):
            config = Config.parse(name)
            weights = ane_bench.chain_weights(config, 1)
            plain = ane_bench.chain_outputs(weights, image_of(config, 1), ARITHMETICS[0], False)
            found = ane_bench.concatenated(Reference(config, 1).compute(range(config.pixels)))
            distance = math.dist(found, ane_bench.concatenated(plain))
            self.assertLess(distance / math.hypot(*found), most, name)

    def test_pixels_are_computed_once_for_variants_and_rounds(self) -> None:
        for name in ("12x4x3", "12x4x3k3"):
            reference = Reference(Config.parse(name), 0)
            first = reference.compute([1, 5])
            with unittest.mock.patch.object(Circulant, "product", side_effect=AssertionError):
                self.assertEqual(reference.compute([5, 1, 5]), [first[1], first[0], first[1]])
                if "k3" in name:
                    self.assertEqual(reference.compute([1], ARITHMETICS[2], True), first[:1])
            self.assertEqual(lists(reference.compute([1, 2])),
                             lists(Reference(Config.parse(name), 0).compute([1, 2])))


class ArithmeticTest(unittest.TestCase):
    """The product of two long integers, stores and quantize."""

    def test_a_product_equals_the_plain_definition(self) -> None:
        """With lanes of 1 to 8 bytes, and with vectors that are split."""
        draw = random.Random(4)
        for length in (1, 2, 3, 7, 16, 61):
            row = [draw.randrange(-128, 128) for _ in range(length)]
            matrix = Circulant(row)
            for bits in (0, 1, 5, 8, 15, 22, 30, 40, 48, 60, 100, 150):
                vector = [draw.randrange(-(1 << bits), 1 + (1 << bits)) for _ in range(length)]
                plain = [sum(row[(turn + place) % length] * value
                             for place, value in enumerate(vector)) for turn in range(length)]
                self.assertEqual(matrix.product(vector), plain, (length, bits))

    def test_the_largest_sums_fit_their_lanes(self) -> None:
        for size, row in itertools.product((1, 127, 128, 2 ** 15, 2 ** 55 - 1),
                                           ([-128] * 3, [127, -1], [1], [-1])):
            for sign in (1, -1):
                expected = [sum(row) * sign * size] * len(row)
                self.assertEqual(Circulant(row).product([sign * size] * len(row)), expected)

    def test_stores_equal_exact_ones(self) -> None:
        draw = random.Random(9)
        for arithmetic in ARITHMETICS:
            bits = 11 if arithmetic.store == "fp16" else 24
            for _ in range(500):
                # half of a unit, or near it
                whole = draw.getrandbits(bits) * 2 + draw.choice((0, 1, 1))
                nearly = whole * 256 + draw.choice((0, 0, 1, -1))
                value = draw.choice((1, -1)) * nearly * 2.0 ** draw.randrange(-30, -20)
                found, = ane_bench.stored([value * arithmetic.nudge], arithmetic.store)
                expected = stored(Fraction(value), arithmetic.store, arithmetic.rounding)
                self.assertEqual(Fraction(found), expected, value)

    def test_no_value_but_a_half_is_moved_past_one(self) -> None:
        nearly = 1 + 2.0 ** -11 - 2.0 ** -49
        for value, expected in ((nearly, 1.0), (1 + 2.0 ** -11, 1 + 2.0 ** -10)):
            self.assertEqual(list(ane_bench.stored([value * ARITHMETICS[0].nudge], "fp16")),
                             [expected])

    def test_stores_saturate(self) -> None:
        self.assertEqual(list(ane_bench.stored([1.0, 65519.0, 65520.0, -1e30], "fp16")),
                         [1.0, 65504.0, 65504.0, -65504.0])
        largest = float.fromhex("0x1.fffffep+127")
        self.assertEqual(list(ane_bench.stored([1e39, -1e300], "fp32")), [largest, -largest])

    def test_quantized_halves(self) -> None:
        steps = (0.5, 1.5, -0.5, -2.5, 0.49, 300.0, -300.0, 126.5, 127.5, -128.5)
        for step, expected in ((127, 127), (128, 127), (-128, -128), (-129, -128)):
            self.assertEqual(ane_bench.quantized([step / 32, 0.0], 1.0), [expected, 0])
        found = [ane_bench.quantized([step / 32 for step in steps], arithmetic.nudge)
                 for arithmetic in ARITHMETICS[::2]]
        self.assertEqual(found, [[1, 2, -1, -3, 0, 127, -128, 127, 127, -128],
                                 [0, 2, 0, -2, 0, 127, -128, 126, 127, -128]])


class EngineTest(unittest.TestCase):
    """The reference as an engine."""

    def load(self, program: Program) -> ane_bench.ReferenceExecutable:
        """Return the loaded program."""
        engine, events = ane_bench.ReferenceEngine(), unittest.mock.Mock()
        with engine.pool(), contextlib.ExitStack() as owner:
            executable = engine.load(program, 21, events, owner)
        loading = unittest.mock.call.stage("load", program.variant.name)
        self.assertEqual(events.mock_calls, [loading])
        self.assertIsInstance(engine.now(), int)
        return executable

    def outputs(self, config: Config, variant: str) -> list[list[float]]:
        """Return the whole output of a program, [pixel][channel]."""
        executable = self.load(build_program(config, variant))
        executable.write_input(ane_bench.random_input(config, 0))
        self.assertTrue(executable.evaluate())
        return lists(executable.read_pixels(range(config.pixels)))

    def test_evaluates_every_pixel_of_both_kernels(self) -> None:
        for name in ("6x3x3", "4x3x3k3"):
            config = Config.parse(name)
            for variant in VARIANTS.values():
                program, image = build_program(config, variant.name), image_of(config, 0)
                expected = exact_chain(program, image, ARITHMETICS[0], variant.quantizes)
                self.assertEqual(self.outputs(config, variant.name), expected)

    def test_poisoned_pixels_are_written_again(self) -> None:
        config = Config(4, 2, 2)
        executable = self.load(build_program(config, "w8a8"))
        executable.write_input(ane_bench.random_input(config, 0))
        executable.evaluate()
        before = executable.read_pixels(range(4))
        executable.poison([2])
        nan = [any(map(math.isnan, pixel)) for pixel in executable.read_pixels(range(4))]
        self.assertEqual(nan, [False, False, True, False])
        executable.evaluate()
        self.assertEqual(executable.read_pixels(range(4)), before)

    def test_its_defaults_take_no_time(self) -> None:
        """0.02 s of processor time for 64x8x4, and 0.1 s for a 3x3 layer at depth 4."""
        for name in ("64x8x4", "16x16x4k3"):
            began = time.process_time()
            self.outputs(Config.parse(name), "w8a8")
            self.assertLess(time.process_time() - began, 1, name)

    def test_a_variant_more_is_a_line_in_variants(self) -> None:
        """Of known data types: it is written, computed and verified as any other's."""
        config, variant = Config(32, 4, 3), VARIANTS["w8a8"]._replace(name="w16a8", weights="fp16")
        with unittest.mock.patch.dict(VARIANTS, {"w16a8": variant}):
            program = build_program(config, "w16a8")
            output = self.outputs(config, "w16a8")
        self.assertEqual(output, exact_chain(program, image_of(config, 0), ARITHMETICS[0], True))
        outputs = [[output[3], output[9]]]
        verdict = ane_bench.verify(Reference(config, 0), variant, [3, 9], outputs, True)
        self.assertEqual((verdict.problem, verdict.warnings, verdict.verified["equal"]),
                         (None, [], 1.0))
        self.assertNotEqual(output, self.outputs(config, "fp16"))
