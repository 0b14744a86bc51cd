"""Section 3: weights and input."""

import cmath
import hashlib
import itertools
import math
import random
import statistics
import struct
import time
import unittest
from operator import itemgetter, mul

import ane_bench
from ane_bench import Config, chain_weights
from tests import mil_grammar

# SHA-256 of weight files, so that every Python and every machine is held to the same bytes.
HASHES = {
    ("64x4x2", "fp16"): "f73615df775b7c657baae22a6604620b99966a0cadd097e06f8dc3c5309789b9",
    ("64x4x2", "w8a8"): "d2fadacacbd227b0deac50eed7d82d682362851839046abe3d568966c23e250f",
    ("60x4x3", "fp16"): "b19370cbee8936c526a3ee796ecf416b36fa1be0ad38402aa15a5351055e1ec2",
    ("7x4x3", "w8a16"): "23528f5a6eb56f43096f4607a7b04ab0bdc9a51bd114a6d0e1a2af39d4cade3d",
    ("509x4x1", "w8a8"): "7f64c6219bc91ef84583deaae3812e992d982560303546439a27eeb2878497c9",
    ("512x64x128", "fp16"): "763aba81b647d88991345b6e67e041c7278d6df62c2a39adefa39ac63d33f030",
    ("64x4x2k3", "fp16"): "61cef06d0a52105baf80c2f38f8d3833accc7c68381ad801e8f57d310f37afd0",
    ("60x4x3k3", "w8a8"): "0f153c5beaf962211c7bc65a6b0ab2e143c2c310907f566543a09cdfa2e50e16",
    ("2x4x5k3", "w8a8"): "9d8c20cb44bfd1e073b9ac4d53d8a2ae213d8edb9bc0b1c780e5ff2d34b6a627",
    ("256x64x32k3", "w8a8"): "6788982066616d6cf9c19ada5082bced434ff4c576df2793617c3abd582ed1c2",
}
INPUT_HASH = "6c8056557041a475770bcfae3cb750095feb21f5b134b99934c9b74ef95ec4c4"
TRANSPOSE = itemgetter(0, 3, 6, 1, 4, 7, 2, 5, 8)  # of a pattern
SMALL = ("1x4x2", "2x4x2", "3x4x3", "7x4x3", "60x4x2", "1x4x2k3", "2x4x4k3", "60x4x2k3")


def written(name: str, variant: str = "w8a8", seed: int = 0) -> list[list[float]]:
    """Return the numbers of each layer, from the weight file alone."""
    program = ane_bench.build_program(Config.parse(name), variant, seed=seed)
    letter, size = ("e", 2) if variant == "fp16" else ("b", 1)
    return [list(struct.unpack(f"<{len(tensor.data) // size}{letter}", tensor.data))
            for tensor in mil_grammar.read_weight_file(program.blob)]


class ChainWeightsTest(unittest.TestCase):
    """The weights that a default run computes with, for both kernels."""

    def test_same_bytes_everywhere(self) -> None:
        for (name, variant), expected in HASHES.items():
            with self.subTest(name, variant=variant):
                blob = ane_bench.build_program(Config.parse(name), variant).blob
                self.assertEqual(hashlib.sha256(blob).hexdigest(), expected)

    def test_the_seed_changes_them(self) -> None:
        for name in ("16x4x2", "16x4x2k3"):
            seeds = (0, 1, 2, 3, 2 ** 53 - 1)
            self.assertEqual(len({str(written(name, seed=seed)) for seed in seeds}), 5)

    def test_the_file_holds_what_the_structure_says(self) -> None:
        """Row, turns, signs and patterns, one weight after the other."""
        for name in SMALL:
            config = Config.parse(name)
            weights, channels = chain_weights(config, 0), range(config.channels)
            for layer, numbers in enumerate(written(name)):
                expected = [weights.row[(turn + place) % len(channels)] * sign * factor
                            for turn, sign in zip(weights.turns[layer], weights.signs[layer])
                            for place in channels for factor in weights.patterns[layer]]
                self.assertEqual(numbers, expected, name)

    def test_all_variants_have_the_same_numbers_and_none_is_zero(self) -> None:
        for name in SMALL:
            scale = chain_weights(Config.parse(name), 0).scale
            half, byte, mixed = (written(name, variant) for variant in ("fp16", "w8a8", "w8a16"))
            self.assertTrue(all(map(all, byte)))
            self.assertEqual(byte, mixed)
            self.assertEqual(half, [[number * scale for number in layer] for layer in byte])

    def test_rows_are_orthonormal_up_to_rounding(self) -> None:
        for channels in (1, 2, 3, 5, 12, 64, 97, 128):
            weights = chain_weights(Config(channels, 4, 1), 0)
            row = [value * weights.scale for value in weights.row]
            self.assertTrue(63 < max(map(abs, weights.row)) <= 127, channels)
            for turn in range(channels):
                turned = [*row[turn:], *row[:turn]]
                self.assertAlmostEqual(sum(map(mul, row, turned)), turn == 0, delta=0.06)

    def test_each_layer_holds_all_rotations_in_its_own_order_and_signs(self) -> None:
        for name in ("64x4x2", "64x4x2k3"):
            weights = chain_weights(Config.parse(name), 0)
            for turns, signs in zip(weights.turns, weights.signs):
                self.assertEqual(sorted(turns), list(range(64)))
                self.assertEqual(set(signs), {1, -1})
            self.assertNotEqual(*weights.turns)
            self.assertNotEqual(*weights.signs)

    def test_the_sign_of_a_rounded_zero_comes_from_the_seed(self) -> None:
        draw = random.Random(1).random
        signs = [1 if draw() < 0.5 else -1 for _ in range(8)]
        for tiny in (1e-17, -1e-17, 0.0, -0.0):
            found = ane_bench.dense_integers([tiny] * 8, 100, random.Random(1).random)
            self.assertEqual(found, signs)


class PatternTest(unittest.TestCase):
    """What only weights of 3x3 kernels have."""

    def test_factors_fit_and_their_scale_is_a_power_of_two(self) -> None:
        for channels, seed in itertools.product((32, 64, 97, 256), range(2)):
            weights = chain_weights(Config(channels, 4, 1, 3), seed)
            self.assertLessEqual(max(map(abs, weights.row)), 7)
            power = 264 * sum(map(mul, weights.row, weights.row)) * weights.scale ** 2
            self.assertAlmostEqual(power, 1, delta=0.001)

    def test_patterns(self) -> None:
        patterns = chain_weights(Config.parse("4x4x60k3"), 0).patterns
        for pattern in patterns:
            self.assertEqual(pattern[4], 16)
            self.assertEqual([-value for value in pattern[:4]], list(pattern[:4:-1]))
            self.assertEqual({abs(value) for value in pattern[:4]}, {1})
            self.assertNotIn(TRANSPOSE(pattern), patterns)
        self.assertEqual(len(set(patterns)), 8)

    def test_a_chain_transposed_in_space_computes_something_else(self) -> None:
        for depth, seed in ((1, 0), (2, 1), (2, 2), (4, 3), (7, 4)):
            config = Config(16, 8, depth, 3)
            data, weights = ane_bench.random_input(config, seed), chain_weights(config, seed)
            image = [ane_bench.pixel_of(data, config, place) for place in range(64)]
            turned = weights._replace(patterns=list(map(TRANSPOSE, weights.patterns)))
            right, wrong = (ane_bench.concatenated(ane_bench.chain_outputs(
                each, image, ane_bench.ARITHMETICS[0], False)) for each in (weights, turned))
            self.assertGreater(math.dist(right, wrong) / math.hypot(*right), 0.1, (depth, seed))

    def test_nothing_grows_or_dies(self) -> None:
        for seed, name in enumerate(("64x16x1k3", "64x16x8k3", "64x16x64k3", "128x16x16k3")):
            config, inside = Config.parse(name), range(70, 186, 12)
            data = ane_bench.random_input(config, seed)
            before = [ane_bench.pixel_of(data, config, place) for place in inside]
            after = ane_bench.Reference(config, seed).compute(inside)
            one, other = (math.hypot(*ane_bench.concatenated(each)) for each in (after, before))
            self.assertTrue(0.75 < one / other < 1.3, one / other)


class TransformTest(unittest.TestCase):
    """The transform behind the weights."""

    def test_equals_the_plain_definition(self) -> None:
        draw = random.Random(2).random
        for length in (*range(1, 20), 31, 64, 97, 100):
            values = [complex(draw() - 0.5, draw() - 0.5) for _ in range(length)]
            for index, value in enumerate(ane_bench.inverse_transform(values)):
                plain = sum(term * cmath.rect(1, 2 * math.pi * index * place / length)
                            for place, term in enumerate(values))
                self.assertAlmostEqual(abs(value - plain), 0, delta=1e-12)

    def test_spectrum_is_flat(self) -> None:
        for length in (1, 2, 3, 8, 97, 120):
            row = ane_bench.flat_spectrum_row(length, random.Random(length).random)
            for coefficient in ane_bench.inverse_transform([complex(value) for value in row]):
                self.assertAlmostEqual(abs(coefficient), 1, delta=1e-12)

    def test_prime_lengths_cost_no_more(self) -> None:
        began = time.process_time()
        row = ane_bench.flat_spectrum_row(16381, random.Random(0).random)
        self.assertLess(time.process_time() - began, 3)  # 0.3 s; the quadratic way takes minutes
        self.assertAlmostEqual(sum(map(mul, row, row)), 1, delta=1e-9)


class InputTest(unittest.TestCase):
    """The random input, and the levels of --original."""

    def test_normal_clipped_and_multiples_of_a_128th(self) -> None:
        data = ane_bench.random_input(Config(64, 32, 1), 3)
        values = struct.unpack(f"<{64 * 1024}e", data)
        self.assertAlmostEqual(statistics.fmean(values), 0, delta=0.05)
        self.assertAlmostEqual(statistics.pvariance(values), 1, delta=0.05)
        self.assertLessEqual(max(map(abs, values)), 3.90)
        self.assertTrue(all(float(value * 128).is_integer() for value in values))
        self.assertFalse(all(float(value * 64).is_integer() for value in values))

    def test_same_bytes_everywhere(self) -> None:
        found = hashlib.sha256(ane_bench.random_input(Config(64, 128, 1), 0)).hexdigest()
        self.assertEqual((found, ane_bench.DATA_REVISION), (INPUT_HASH, 2))

    def test_a_pixel_holds_its_channels(self) -> None:
        config = Config(3, 2, 1)
        data = struct.pack("<12e", *range(12))
        self.assertEqual([list(ane_bench.pixel_of(data, config, place)) for place in (0, 3)],
                         [[0, 4, 8], [3, 7, 11]])

    def test_levels_of_the_original(self) -> None:
        half, byte = (ane_bench.build_program(Config(64, 4, 8), name, original=True).blob[128:]
                      for name in ("fp16", "w8a8"))
        self.assertEqual((len(set(byte[:4096])) > 200, 128 in byte[:4096]), (True, True))
        halves = struct.unpack_from("<4096e", half)
        self.assertTrue(-0.5 <= min(halves) < -0.45 and 0.45 < max(halves) < 0.5)
        self.assertTrue(all(abs(value * 1000 - round(value * 1000)) < 0.3 for value in halves))
