"""Section 5: what a program computes."""

import contextlib
import itertools
import math
import random
import struct
import time
import unittest
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Optional

import ane_bench
from ane_bench import Arithmetic, Config, MilError, Program, Reference, build_program
from tests import support

ARITHMETICS = [Arithmetic(rounding, store, quantizes) for quantizes in (True, False) for store in ("fp16", "fp32")
               for rounding in ("away", "even")]


def weights_of(program: Program) -> list[list[Fraction]]:
    """Return the weights of each layer, from the weight file alone."""
    exponent = 0 if program.variant.weights == "fp16" else ane_bench.chain_weights(program.config, 0).exponent
    form = f"<{program.config.weights // program.config.depth}{ane_bench.DATA_TYPES[program.variant.weights].letter}"
    return [[Fraction(weight) / 2 ** exponent for weight in struct.unpack(form, tensor.data)]
            for tensor in ane_bench.read_weight_file(program.blob)]


def nearest(value: Fraction, rounding: str) -> int:
    """Return the nearest integer; halves go to even or away from zero."""
    return round(value) if rounding == "even" else int(math.copysign(int(abs(value) + Fraction(1, 2)), value))


def stored(value: Fraction, store: str, rounding: str) -> Fraction:
    """Return a number as fp16 or fp32 holds it, by exact arithmetic."""
    bits, least = (11, -24) if store == "fp16" else (24, -149)
    size = value.numerator.bit_length() - value.denominator.bit_length()  # from 2**(size - 1) to 2**(size + 1)
    size -= abs(value) < Fraction(2) ** size
    unit = Fraction(2) ** max(least, size + 1 - bits)
    return nearest(value / unit, rounding) * unit


def exact_chain(program: Program, image: Sequence[Sequence[float]], arithmetic: Arithmetic) -> list[list[float]]:
    """Return the output channels of each pixel by fractions, one term after the other, with either kernel."""
    config = program.config
    values = [list(map(Fraction, pixel)) for pixel in image]
    layers = weights_of(program)
    for layer, weights in enumerate(layers):
        last = layer == len(layers) - 1
        sums = [one_pixel(config, weights, values, pixel) for pixel in range(len(image))]
        store = "fp16" if last else arithmetic.store
        values = [[stored(value, store, arithmetic.rounding) for value in pixel] for pixel in sums]
        if program.variant.activations == "int8" and not last and arithmetic.quantizes:
            values = [[Fraction(max(-128, min(127, nearest(value * 32, arithmetic.rounding)))) / 32 for value in pixel]
                      for pixel in values]
    return [list(map(float, pixel)) for pixel in values]


def one_pixel(config: Config, weights: Sequence[Fraction], values: Sequence[Sequence[Fraction]],
              pixel: int) -> list[Fraction]:
    """Return the sums of a convolution at one pixel."""
    places = neighbours(config, pixel)
    inputs = [values[place][channel] if place is not None else Fraction(0)
              for channel in range(config.channels) for place in places]
    size = len(inputs)
    return [sum((weight * value for weight, value in zip(weights[row * size:(row + 1) * size], inputs)), Fraction(0))
            for row in range(config.channels)]


def neighbours(config: Config, pixel: int) -> list[Optional[int]]:
    """Return the pixels below a kernel, None outside of the image."""
    row, column = divmod(pixel, config.spatial)
    reach, side = config.kernel // 2, config.spatial
    places = itertools.product(range(row - reach, row + reach + 1), range(column - reach, column + reach + 1))
    return [y * side + x if 0 <= y < side and 0 <= x < side else None for y, x in places]


def packed(image: Sequence[Sequence[float]]) -> bytes:
    """Return pixels as an fp16 tensor [channel][pixel]."""
    values = [value for channel in zip(*image) for value in channel]
    return struct.pack(f"<{len(values)}e", *values)


def custom(weights: Sequence[float], pixel: Sequence[float],
           arithmetic: Arithmetic = ane_bench.DEFAULT_ARITHMETIC) -> list[float]:
    """Return the output of one 1x1 convolution of two channels with these fp16 weights, for one pixel."""
    program = build_program(Config(2, 1, 1), "fp16")
    program.blob[128:136] = struct.pack("<4e", *weights)
    (output,), = Reference(program.mil, program.blob).compute(packed([pixel]), [0], [arithmetic])
    return list(output)


class ChainTest(unittest.TestCase):
    """The programs of this benchmark with 1x1 convolutions."""

    def test_equals_exact_arithmetic(self) -> None:
        draw = random.Random(5)
        for name in ("1x2x3", "2x2x4", "7x2x3", "16x2x3"):
            config = Config.parse(name)
            image = struct_rounded([[draw.gauss(0, 1.5) for _ in range(config.channels)] for _ in range(4)])
            for variant in ane_bench.VARIANTS:
                program = build_program(config, variant)
                computed = Reference(program.mil, program.blob).compute(packed(image), [3, 0, 2], ARITHMETICS)
                for arithmetic, outputs in zip(ARITHMETICS, computed):
                    with self.subTest(name, variant=variant, arithmetic=arithmetic.name):
                        expected = exact_chain(program, image, arithmetic)
                        self.assertEqual([list(output) for output in outputs], [expected[place] for place in (3, 0, 2)])

    def test_default_input_at_depth(self) -> None:
        config = Config(8, 2, 12)
        data = ane_bench.random_input(config, 3)
        image = [ane_bench.pixel_of(data, config, place) for place in range(4)]
        for variant in ("fp16", "w8a8"):
            program = build_program(config, variant, seed=0)
            computed = Reference(program.mil, program.blob).compute(data, range(4), ARITHMETICS)
            self.assertEqual([[list(pixel) for pixel in outputs] for outputs in computed],
                             [exact_chain(program, image, arithmetic) for arithmetic in ARITHMETICS])

    def test_arithmetics_can_be_told_apart(self) -> None:
        config = Config(64, 2, 6)
        for variant, number in (("w8a8", 6), ("fp16", 3)):
            program = build_program(config, variant)
            outputs = Reference(program.mil, program.blob).compute(ane_bench.random_input(config, 0), [3], ARITHMETICS)
            self.assertGreaterEqual(len({tuple(output[0]) for output in outputs}), number)

    def test_without_quantize_w8a8_equals_fp16(self) -> None:
        config = Config(24, 2, 5)
        data, arithmetic = ane_bench.random_input(config, 0), Arithmetic(quantizes=False)
        outputs = [Reference(program.mil, program.blob).compute(data, [1], [arithmetic])
                   for program in (build_program(config, variant) for variant in ("fp16", "w8a8", "w8a16"))]
        self.assertEqual(outputs[0], outputs[1])
        self.assertEqual(outputs[0], outputs[2])

    def test_layouts_and_dialects_mean_the_same(self) -> None:
        for name in ("12x2x3", "12x2x3k3"):
            config = Config.parse(name)
            data = ane_bench.random_input(config, 0)
            for variant in ane_bench.VARIANTS:
                outputs = []
                for layout, dialect in itertools.product(ane_bench.LAYOUTS, ane_bench.DIALECTS):
                    program = build_program(config, variant, blob=layout, dialect=dialect)
                    outputs.append(Reference(program.mil, program.blob).compute(data, [2]))
                self.assertTrue(all(output == outputs[0] for output in outputs))

    def test_int8_saturates(self) -> None:
        program = build_program(Config(1, 1, 2), "w8a8")
        (output,), = Reference(program.mil, program.blob).compute(packed([[100.0]]), [0])
        self.assertIn(abs(output[0]), (127 / 32, 4.0))

    def test_quantize_and_dequantize_have_scales_of_their_own(self) -> None:
        program = build_program(Config(1, 1, 2), "w8a8")
        changed = program.mil.replace('dq_scale"), val = fp16(0x1p-5)', 'dq_scale"), val = fp16(0x1p-3)')
        self.assertNotEqual(changed, program.mil)
        (plain,), = Reference(program.mil, program.blob).compute(packed([[1.046875]]), [0])
        (scaled,), = Reference(changed, program.blob).compute(packed([[1.046875]]), [0])
        self.assertEqual((abs(plain[0]), abs(scaled[0])), (1.0625, 4.25))

    def test_original_programs(self) -> None:
        config = Config(60, 2, 2)
        for variant in ("fp16", "w8a8"):
            program = build_program(config, variant, original=True)
            zeros, = Reference(program.mil, program.blob).compute(bytes(config.tensor_bytes), [0])[0]
            self.assertEqual(set(zeros), {0.0})
            output, = Reference(program.mil, program.blob).compute(ane_bench.random_input(config, 0), [0])[0]
            self.assertTrue(any(output) and all(map(math.isfinite, output)))

    def test_kept_weights_change_nothing(self) -> None:
        config = Config(12, 2, 3)
        data = ane_bench.random_input(config, 0)
        program = build_program(config, "w8a8")
        kept = Reference(program.mil, program.blob, keep=True)
        self.assertEqual([kept.compute(data, [1, 2]) for _ in range(2)],
                         [Reference(program.mil, program.blob).compute(data, [1, 2])] * 2)


def struct_rounded(image: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return values that fp16 holds."""
    return [list(struct.unpack(f"{len(pixel)}e", struct.pack(f"{len(pixel)}e", *pixel))) for pixel in image]


class ArithmeticTest(unittest.TestCase):
    """Rounding."""

    def test_names(self) -> None:
        self.assertEqual([arithmetic.name for arithmetic in ARITHMETICS[:4]],
                         ["halves away, fp16 stores", "halves to even, fp16 stores", "halves away, fp32 stores",
                          "halves to even, fp32 stores"])
        self.assertEqual(len({arithmetic.name for arithmetic in ARITHMETICS}), 8)

    def test_stores_of_halves(self) -> None:
        ulp = 2.0 ** -10
        for value, even, away in ((1 + ulp / 2, 1.0, 1 + ulp), (-1 - ulp / 2, -1.0, -1 - ulp),
                                  (1 + 3 * ulp / 2, 1 + 2 * ulp, 1 + 2 * ulp),
                                  (2.0 ** -25, 0.0, 2.0 ** -24), (-3 * 2.0 ** -25, -(2.0 ** -23), -(2.0 ** -23)),
                                  (1 + ulp / 2 - 2.0 ** -40, 1.0, 1.0), (1 + ulp / 2 + 2.0 ** -40, 1 + ulp, 1 + ulp),
                                  (0.0, 0.0, 0.0)):
            for rounding, expected in (("even", even), ("away", away)):
                self.assertEqual(list(ane_bench.store([value], Arithmetic(rounding))), [expected], (value, rounding))

    def test_stores_equal_exact_ones(self) -> None:
        draw = random.Random(9)
        for arithmetic in ARITHMETICS[:4]:
            bits = 11 if arithmetic.store == "fp16" else 24
            for _ in range(500):
                whole = draw.getrandbits(bits) * 2 + draw.choice((0, 1, 1))  # half of a unit, or near it
                nearly = whole * 256 + draw.choice((0, 0, 1, -1))
                value = draw.choice((1, -1)) * nearly * 2.0 ** draw.randrange(-30, -20)
                found, = ane_bench.store([value], arithmetic)
                self.assertEqual(Fraction(found), stored(Fraction(value), arithmetic.store, arithmetic.rounding), value)

    def test_quantized_halves(self) -> None:
        values = [0.5, 1.5, -0.5, -2.5, 0.49, 300.0, -300.0, 126.5, 127.5, -128.5, math.inf, -math.inf]
        found = [list(ane_bench.quantize(values, 0, Arithmetic(rounding))) for rounding in ("even", "away")]
        self.assertEqual(found, [[0, 2, 0, -2, 0, 127, -128, 126, 127, -128, 127, -128],
                                 [1, 2, -1, -3, 0, 127, -128, 127, 127, -128, 127, -128]])
        self.assertEqual(list(ane_bench.quantize([0.25, -0.25, 0.3], -1, Arithmetic("away"))), [1, -1, 1])


class GeneralWeightsTest(unittest.TestCase):
    """Weights that are not 8-bit integers times one power of two, and inputs that are not finite."""

    def test_any_fp16_weights(self) -> None:
        weights = [1.0009765625, -0.333251953125, 6e-8, 1234.0]
        held = struct.unpack("<4e", struct.pack("<4e", *weights))
        exact = [Fraction(held[0]) * Fraction(3, 4) + Fraction(held[1]) * 3, Fraction(held[2]) * Fraction(3, 4) + 3702]
        for rounding in ("even", "away"):
            self.assertEqual(custom(weights, [0.75, 3.0], Arithmetic(rounding)),
                             [float(stored(value, "fp16", rounding)) for value in exact])

    def test_every_scale_of_8_bit_weights(self) -> None:
        for exponent in range(-24, 9):
            scale = 2.0 ** exponent
            weights = [127 * scale, -128 * scale, 3 * scale, -scale]
            self.assertEqual(custom(weights, [1.0, 0.5]), [63 * scale, 2.5 * scale] if exponent > -23 else
                             [63 * scale, float(stored(Fraction(5, 2) * Fraction(scale), "fp16", "away"))])

    def test_overflow_is_infinite(self) -> None:
        self.assertEqual(custom([64.0, 0.0, 64.0, -64.0], [60000.0, 60000.0]), [math.inf, 0.0])
        self.assertEqual(custom([1.0, 1.0, -1.0, -1.0], [65504.0, 16.0]), [math.inf, -math.inf])
        self.assertEqual(custom([1.0, 1.0, -1.0, -1.0], [65504.0, 15.0]), [65504.0, -65504.0])

    def test_what_is_not_finite(self) -> None:
        first, second = custom([1.0, 1.0, 1.0, -1.0], [math.inf, math.inf])
        self.assertEqual(first, math.inf)
        self.assertTrue(math.isnan(second))
        self.assertTrue(all(map(math.isnan, custom([1.0, 1.0, 1.0, -1.0], [math.nan, 1.0]))))


class FactoredTest(unittest.TestCase):
    """Programs with 3x3 convolutions."""

    def test_plain_definition_equals_exact_arithmetic(self) -> None:
        for name in ("1x3x3k3", "2x4x3k3", "3x1x2k3"):
            config = Config.parse(name)
            data = ane_bench.random_input(config, 4)
            image = [ane_bench.pixel_of(data, config, place) for place in range(config.pixels)]
            for variant in ane_bench.VARIANTS:
                program = build_program(config, variant)
                reference = Reference(program.mil, program.blob)
                for arithmetic in ARITHMETICS:
                    with self.subTest(name, variant=variant, arithmetic=arithmetic.name):
                        found = [list(pixel) for pixel in reference.evaluate(data, arithmetic)]
                        self.assertEqual(found, exact_chain(program, image, arithmetic))

    def test_factored_way_equals_the_plain_definition(self) -> None:
        """In FP16 they differ by the rounding of stores alone, and the exact sums of one layer not at all."""
        for name, most in (("4x5x1k3", 2 ** -11), ("1x4x3k3", 0.002), ("16x6x8k3", 0.003), ("12x9x16k3", 0.004)):
            config = Config.parse(name)
            data = ane_bench.random_input(config, 1)
            program = build_program(config, "fp16")
            reference = Reference(program.mil, program.blob)
            plain, factored = reference.evaluate(data), reference.compute(data, range(config.pixels))
            self.assertEqual((len(factored), len(factored[0])), (1, config.pixels))
            error, power = (math.sqrt(sum((a - b) ** 2 for one, other in zip(plain, others) for a,
                                          b in zip(one, other)))
                            for others in (factored[0], [[0.0] * config.channels] * config.pixels))
            self.assertLess(error / power, most, name)

    def test_factored_way_equals_exact_sums(self) -> None:
        config = Config(3, 4, 3, 3)
        data = ane_bench.random_input(config, 2)
        program = build_program(config, "w8a8")
        values = [list(map(Fraction, ane_bench.pixel_of(data, config, place))) for place in range(16)]
        for weights in weights_of(program):
            values = [one_pixel(config, weights, values, place) for place in range(16)]
        found, = Reference(program.mil, program.blob).compute(data, range(16), ARITHMETICS)
        for pixel, expected in zip(found, values):
            for value, exact in zip(pixel, expected):
                self.assertAlmostEqual(value, float(exact), delta=1e-10)

    def test_all_variants_give_the_same(self) -> None:
        config = Config(12, 6, 4, 3)
        data = ane_bench.random_input(config, 0)
        outputs = [Reference(program.mil, program.blob).compute(data, [0, 17])
                   for program in (build_program(config, variant) for variant in ane_bench.VARIANTS)]
        self.assertEqual(outputs, [outputs[0]] * 3)

    def test_weights_without_factors_are_refused(self) -> None:
        program = build_program(Config(4, 4, 2, 3), "w8a8")
        data = ane_bench.random_input(program.config, 0)
        second = ane_bench.read_weight_file(program.blob)[1].offset + 64
        middle = program.blob[second + 4]
        for place, value in ((5, 0), (4, 1), (4, 16 if middle != 16 else 32), (40, 128), (143, 7)):
            damaged = bytearray(program.blob)
            self.assertNotEqual(damaged[second + place], value)
            damaged[second + place] = value
            with self.subTest(place), self.assertRaisesRegex(MilError, "does not compute") as raised:
                Reference(program.mil, damaged).compute(data, [0])
            self.assertIn(" c1 = conv(", program.mil.splitlines()[raised.exception.line - 1])

    def test_a_middle_that_is_no_multiple_of_16_is_refused(self) -> None:
        program = build_program(Config(1, 4, 1, 3), "w8a8")
        for middle, refused in ((16, False), (21, True)):
            program.blob[128:137] = bytes([1, 1, 1, 1, middle, 1, 1, 1, 1])
            with self.assertRaises(MilError) if refused else contextlib.nullcontext():
                Reference(program.mil, program.blob).compute(bytes(program.config.tensor_bytes), [0])

    def test_any_fp16_weights_are_refused(self) -> None:
        program = build_program(Config(2, 4, 1, 3), "fp16")
        program.blob[128:130] = struct.pack("<e", 0.1)
        with self.assertRaisesRegex(MilError, "does not compute"):
            Reference(program.mil, program.blob).compute(bytes(program.config.tensor_bytes), [0])

    @support.long_test
    def test_time_of_one_pixel(self) -> None:
        config = Config.parse("256x64x32k3")
        data = ane_bench.random_input(config, 0)
        programs = [build_program(config, variant) for variant in ("fp16", "w8a8")]
        began = time.process_time()
        for program in programs:
            Reference(program.mil, program.blob).compute(data, [100])
        self.assertLess(time.process_time() - began, 3)


class RefusalTest(unittest.TestCase):
    """A program that is not of the benchmark, or a weight file without its weights, is refused."""

    def test_other_programs(self) -> None:
        program = build_program(Config(2, 1, 2), "w8a8")
        for old, new in (("= conv(", "= convolve("), ("[1, 1])]", "[2, 1])]"), ('"valid"', '"same"'),
                         ("x = x", "x = W0")):
            with self.subTest(new):
                self.assertIn(old, program.mil)
                with self.assertRaises(MilError):
                    Reference(program.mil.replace(old, new), program.blob)

    def test_weights_that_are_not_there(self) -> None:
        program = build_program(Config(2, 1, 2), "w8a8")
        for old, new in (("uint64(64)", "uint64(128)"), ("uint64(64)", "uint64(63)"),
                         ("uint64(192)", "uint64(18446744073709551615)")):
            with self.subTest(new), self.assertRaises(ane_bench.BlobError):
                Reference(program.mil.replace(old, new), program.blob).compute(packed([[1.0, 1.0]]), [0])


class Stages:
    """Events that are kept."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def stage(self, name: str, variant: str, limit: float = 0) -> None:
        """Keep the stage."""
        self.seen.append((name, variant))

    def directory(self, path: str) -> None:
        """Keep the directory."""
        self.seen.append(("directory", path))

    def warn(self, code: str, message: str) -> None:
        """Keep the warning."""
        self.seen.append((code, message))


class EngineTest(unittest.TestCase):
    """The reference as an engine."""

    def load(self, program: Program) -> ane_bench.Executable:
        """Return the loaded program."""
        engine: ane_bench.Engine = ane_bench.ReferenceEngine()
        events: Any = Stages()
        with engine.pool(), contextlib.ExitStack() as owner:
            executable = engine.load(program, 21, events, owner)
        self.assertEqual(events.seen, [("load", program.variant.name)])
        self.assertIsInstance(engine.now(), int)
        self.assertEqual(engine.tick_ns, 1.0)
        return executable

    def test_evaluates_both_kernels_in_full(self) -> None:
        for name in ("6x3x3", "4x3x3k3"):
            config = Config.parse(name)
            data = ane_bench.random_input(config, 0)
            for variant in ane_bench.VARIANTS:
                program = build_program(config, variant)
                executable = self.load(program)
                executable.write_input(data)
                self.assertTrue(executable.evaluate())
                expected = exact_chain(program, [ane_bench.pixel_of(data, config, place) for place in range(9)],
                                       Arithmetic("away", "fp16"))
                self.assertEqual([list(pixel) for pixel in executable.read_pixels(range(9))], expected)

    def test_poisoned_pixels_are_written_again(self) -> None:
        config = Config(4, 2, 2)
        executable = self.load(build_program(config, "w8a8"))
        self.assertTrue(all(map(math.isnan, executable.read_pixels([0])[0])))
        executable.write_input(ane_bench.random_input(config, 0))
        executable.evaluate()
        before = executable.read_pixels(range(4))
        executable.poison([2])
        self.assertEqual([any(map(math.isnan, pixel)) for pixel in executable.read_pixels(range(4))],
                         [False, False, True, False])
        executable.evaluate()
        self.assertEqual(executable.read_pixels(range(4)), before)
