"""Section 5: what a program computes."""

import math
import random
import struct
import unittest
from collections.abc import Sequence
from fractions import Fraction

import ane_bench
from ane_bench import Arithmetic, Config, MilError, Reference, build_program

ARITHMETICS = [Arithmetic(store, rounding) for store in ("fp16", "fp32") for rounding in ("even", "away")]


def stored(value: Fraction, letter: str) -> Fraction:
    """A number as fp16 (`e`) or fp32 (`f`) holds it."""
    return Fraction(struct.unpack(letter, struct.pack(letter, value))[0])


def exact_chain(program: ane_bench.Program, pixel: Sequence[float], arithmetic: Arithmetic) -> list[float]:
    """The same by fractions, one term after the other, from the weight file alone."""
    channels, size = program.config.channels, ane_bench.DATA_TYPES[program.variant.weights].size
    exponent = 0 if size == 2 else ane_bench.orthogonal_weights(channels, 1, 0).exponent
    values = [Fraction(value) for value in pixel]
    tensors = ane_bench.read_weight_file(program.blob)
    for layer, tensor in enumerate(tensors):
        weights = [Fraction(weight) / 2 ** exponent for weight in struct.unpack(f"<{channels ** 2}{'be'[size - 1]}", tensor.data)]
        rows = [weights[start:start + channels] for start in range(0, channels ** 2, channels)]
        sums = [sum((weight * value for weight, value in zip(row, values)), Fraction(0)) for row in rows]
        last = layer == len(tensors) - 1
        values = [stored(one, "e" if last or arithmetic.store == "fp16" else "f") for one in sums]
        if program.variant.activations == "int8" and not last:
            values = [Fraction(max(-128, min(127, step(value * 32, arithmetic.rounding)))) / 32 for value in values]
    return [float(value) for value in values]


def step(value: Fraction, rounding: str) -> int:
    """The nearest integer, halves to even or away from zero."""
    return round(value) if rounding == "even" else int(math.copysign(int(abs(value) + Fraction(1, 2)), value))


def custom(weights: Sequence[float], exponent_of_two: bool = False, statements: str = "") -> Reference:
    """A program of one 2x2 convolution with these fp16 weights, or of other statements."""
    program = build_program(Config(2, 1, 1), "fp16")
    program.blob[128:136] = struct.pack("<4e", *weights)
    return Reference(program.mil, program.blob)


class ChainTest(unittest.TestCase):
    """The programs of this benchmark."""

    def test_equals_exact_arithmetic(self) -> None:
        draw = random.Random(5)
        for name in ("1x2x3", "2x2x4", "7x2x3", "24x2x5"):
            config = Config.parse(name)
            pixels = [ane_bench.round_to("e", [draw.gauss(0, 1.5) for _ in range(config.channels)]) for _ in range(3)]
            for variant in ane_bench.VARIANTS:
                program = build_program(config, variant)
                computed = Reference(program.mil, program.blob).compute(pixels, ARITHMETICS)
                for arithmetic, outputs in zip(ARITHMETICS, computed):
                    with self.subTest(name, variant=variant, arithmetic=arithmetic):
                        expected = [exact_chain(program, pixel, arithmetic) for pixel in pixels]
                        self.assertEqual([list(output) for output in outputs], expected)

    def test_rounding_and_stores_can_be_told_apart(self) -> None:
        config = Config(64, 2, 6)
        pixel = ane_bench.pixel_of(ane_bench.random_input(config, 0), config, 3)
        program = build_program(config, "w8a8")
        outputs = Reference(program.mil, program.blob).compute([pixel], ARITHMETICS)
        self.assertEqual(len({tuple(output[0]) for output in outputs}), 4)

    def test_layouts_and_dialects_mean_the_same(self) -> None:
        pixel = [0.5 * index - 3 for index in range(12)]
        for variant in ane_bench.VARIANTS:
            outputs = []
            for blob, dialect in (("standard", "1.3"), ("original", "1.3"), ("standard", "1.0")):
                program = build_program(Config(12, 2, 3), variant, blob=blob, dialect=dialect)
                outputs.append(Reference(program.mil, program.blob).compute([pixel]))
            self.assertEqual(outputs[0], outputs[1])
            self.assertEqual(outputs[0], outputs[2])

    def test_int8_saturates(self) -> None:
        program = build_program(Config(1, 1, 2), "w8a8")
        (output,), = Reference(program.mil, program.blob).compute([[100.0]])
        self.assertIn(abs(output[0]), (127 / 32, 4.0))

    def test_original_programs(self) -> None:
        program = build_program(Config(60, 2, 2), "w8a8", original=True)
        (output,), = Reference(program.mil, program.blob).compute([[0.0] * 60])
        self.assertEqual(set(output), {0.0})


class GeneralWeightsTest(unittest.TestCase):
    """Weights that are no 8-bit integers times one power of two, and inputs that are not finite."""

    def test_any_fp16_weights(self) -> None:
        weights = [1.0009765625, -0.333251953125, 6e-8, 1234.0]
        (output,), = custom(weights).compute([[0.75, 3.0]])
        exact = [Fraction(weights[0]) * Fraction(3, 4) + Fraction(weights[1]) * 3, Fraction(weights[2]) * Fraction(3, 4) + 3702]
        self.assertEqual(list(output), [float(stored(one, "e")) for one in exact])

    def test_overflow_is_infinite(self) -> None:
        (output,), = custom([64.0, 0.0, 64.0, -64.0]).compute([[60000.0, 60000.0]])
        self.assertEqual(list(output), [math.inf, 0.0])

    def test_what_is_not_finite(self) -> None:
        (output,), = custom([1.0, 1.0, 1.0, -1.0]).compute([[math.inf, math.inf]])
        self.assertEqual(output[0], math.inf)
        self.assertTrue(math.isnan(output[1]))
        (output,), = custom([1.0, 1.0, 1.0, -1.0]).compute([[math.nan, 1.0]])
        self.assertTrue(all(map(math.isnan, output)))

    def test_scale_and_zero_point(self) -> None:
        program = build_program(Config(2, 1, 1), "w8a16")
        exponent = ane_bench.orthogonal_weights(2, 1, 0).exponent
        program.blob[128:132] = struct.pack("<4b", 127, -128, 3, 0)
        mil = program.mil.replace(f"fp16(0x1p-{exponent})", "fp16(0x1.998p-4)")
        mil = mil.replace("zero_point = int8(0)", "zero_point = int8(3)")
        (output,), = Reference(mil, program.blob).compute([[1.0, 0.5]])
        scale = Fraction(float.fromhex("0x1.998p-4"))
        first, second, third, fourth = (stored(scale * (level - 3), "e") for level in (127, -128, 3, 0))
        self.assertEqual(list(output), [float(stored(first + second / 2, "e")), float(stored(third + fourth / 2, "e"))])

    def test_halves(self) -> None:
        values = [0.5, 1.5, -0.5, -2.5, 0.49, 300.0, -300.0]
        self.assertEqual(ane_bench.quantized(values, 1.0, 0, "even"), [0, 2, 0, -2, 0, 127, -128])
        self.assertEqual(ane_bench.quantized(values, 1.0, 0, "away"), [1, 2, -1, -3, 0, 127, -128])
        self.assertEqual(ane_bench.quantized([0.5, 300.0], 0.5, -5, "even"), [-4, 127])


class RefusalTest(unittest.TestCase):
    """What the reference does not compute is said, with its line."""

    def test_other_programs(self) -> None:
        program = build_program(Config(2, 1, 2), "w8a8")
        for old, new in (("= conv(", "= convolve("), ("[1, 1])]", "[2, 1])]"), ("int32(1)]", "int32(2)]"), ('"valid"', '"same"'),
                         ("int8, [2, 2, 1, 1]>(B", "int8, [2, 2, 1, 2]>(B"), ("weight = W0", "weight = x"), ("x = x", "x = W0"),
                         ("scale = q_scale", "scale = q_dtype"), ("-> (c1)", "-> (W1)"), ("val = fp16(0x1p-5)", "val = fp16(inf)"),
                         ("weight = W0", "weight = tensor<fp16, [1]>([0x1p+0])")):
            with self.subTest(new):
                self.assertIn(old, program.mil)
                with self.assertRaises(MilError):
                    Reference(program.mil.replace(old, new), program.blob).compute([[1.0, 1.0]])

    def test_weights_for_other_channels(self) -> None:
        program = build_program(Config(2, 1, 2), "w8a8")
        for pixel in ([1.0], [1.0, 1.0, 1.0]):
            with self.assertRaisesRegex(MilError, "weights for 2 channels"):
                Reference(program.mil, program.blob).compute([pixel])

    def test_weights_that_are_not_there(self) -> None:
        program = build_program(Config(2, 1, 2), "w8a8")
        for old, new in (("uint64(64)", "uint64(128)"), ("uint64(64)", "uint64(63)"), ("[2, 2, 1, 1]", "[4, 2, 1, 1]"),
                         ("uint64(192)", "uint64(18446744073709551615)")):
            with self.subTest(new), self.assertRaises(ane_bench.BlobError):
                Reference(program.mil.replace(old, new), program.blob).compute([[1.0, 1.0]])
