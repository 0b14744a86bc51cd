"""Section 3: weights, input, weight files."""

import cmath
import hashlib
import math
import random
import struct
import tempfile
import time
import unittest
from collections.abc import Sequence
from operator import mul
from pathlib import Path

import ane_bench
from ane_bench import BlobError, Config, build_program, read_weight_file
from tests import support

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


def integers(program: ane_bench.Program) -> list[list[int]]:
    """Return the weights of each layer as integers, in units of the chain's scale."""
    exponent = ane_bench.chain_weights(program.config, 0).exponent
    if program.variant.weights == "int8":
        return [list(struct.unpack(f"<{len(tensor.data)}b", tensor.data)) for tensor in read_weight_file(program.blob)]
    layers = [struct.unpack(f"<{len(tensor.data) // 2}e", tensor.data) for tensor in read_weight_file(program.blob)]
    scaled = [[value * 2 ** exponent for value in layer] for layer in layers]
    assert all(map(float.is_integer, [value for layer in scaled for value in layer]))
    return [list(map(int, layer)) for layer in scaled]


def rows(values: Sequence[int], columns: int) -> list[Sequence[int]]:
    """Return the rows of a matrix."""
    return [values[start:start + columns] for start in range(0, len(values), columns)]


class ChainWeightsTest(unittest.TestCase):
    """The weights that a default run computes with, for both kernels."""

    def test_same_bytes_everywhere(self) -> None:
        for (name, variant), expected in HASHES.items():
            with self.subTest(name, variant=variant):
                blob = build_program(Config.parse(name), variant).blob
                self.assertEqual(hashlib.sha256(blob).hexdigest(), expected)

    def test_the_seed_changes_them(self) -> None:
        for name in ("16x4x2", "16x4x2k3"):
            blobs = {bytes(build_program(Config.parse(name), "w8a8", seed=seed).blob) for seed in range(5)}
            self.assertEqual(len(blobs), 5)

    def test_no_weight_is_zero(self) -> None:
        for name in ("1x4x2", "2x4x2", "3x4x3", "7x4x3", "60x4x2", "256x4x1", "512x4x1", "1x4x2k3", "2x4x4k3",
                     "60x4x2k3",
                     "256x4x1k3"):
            for variant in ("fp16", "w8a8"):
                with self.subTest(name, variant=variant):
                    self.assertTrue(all(map(all, integers(build_program(Config.parse(name), variant)))))

    def test_all_variants_have_the_same_integers(self) -> None:
        for name in ("60x4x3", "60x4x3k3", "3x4x2k3"):
            config = Config.parse(name)
            half, byte, mixed = (integers(build_program(config, variant)) for variant in ("fp16", "w8a8", "w8a16"))
            self.assertEqual(byte, mixed)
            self.assertEqual(half, byte)

    def test_rows_are_orthonormal_up_to_rounding(self) -> None:
        for channels in (1, 2, 3, 5, 12, 64, 97, 128):
            with self.subTest(channels):
                config = Config(channels, 4, 2)
                scale = 2 ** -ane_bench.chain_weights(config, 0).exponent
                for layer in integers(build_program(config, "w8a8")):
                    matrix = [[value * scale for value in row] for row in rows(layer, channels)]
                    for index, row in enumerate(matrix):
                        for other_index, other in enumerate(matrix):
                            self.assertAlmostEqual(sum(map(mul, row, other)), index == other_index, delta=0.06)

    def test_the_largest_power_of_two_is_used(self) -> None:
        for channels in (1, 2, 64, 100, 512):
            with self.subTest(channels):
                largest = max(map(abs, ane_bench.chain_weights(Config(channels, 1, 1), 0).pool))
                self.assertTrue(63 < largest <= 127, largest)

    def test_each_layer_has_its_own_order_and_signs(self) -> None:
        for name in ("64x4x2", "64x4x2k3"):
            config = Config.parse(name)
            first, second = (rows(layer, 64 * config.kernel ** 2) for layer in integers(build_program(config, "w8a8")))
            self.assertNotEqual(first, second)
            magnitudes = [sorted(sorted(map(abs, row)) for row in layer) for layer in (first, second)]
            self.assertEqual(*magnitudes)
            sums = [sum(row) for row in first]
            self.assertTrue(any(value > 0 for value in sums) and any(value < 0 for value in sums))

    def test_the_sign_of_a_rounded_zero_comes_from_the_seed(self) -> None:
        draw = random.Random(1).random
        signs = [1 if draw() < 0.5 else -1 for _ in range(8)]
        for tiny in (1e-17, -1e-17, 0.0, -0.0):
            found = ane_bench.dense_integers([tiny] * 8, 100, random.Random(1).random)
            self.assertEqual(found, signs)


class FactoredWeightsTest(unittest.TestCase):
    """What only weights of 3x3 kernels have."""

    def kernels(self, name: str, seed: int = 0) -> list[tuple[list[int], list[int]]]:
        """Return the channel weights and the pattern of each layer, after a check that each kernel is their product."""
        found = []
        for tensor in read_weight_file(build_program(Config.parse(name), "w8a8", seed=seed).blob):
            values = struct.unpack(f"<{len(tensor.data)}b", tensor.data)
            channels = [value // 16 for value in values[4::9]]
            pattern = [value // channels[0] for value in values[:9]]
            self.assertEqual([factor * place for factor in channels for place in pattern], list(values))
            found.append((channels, pattern))
        return found

    def test_channel_factors_fit_and_their_scale_is_a_power_of_two(self) -> None:
        for name in ("32x4x1k3", "64x4x1k3", "97x4x1k3", "256x4x1k3"):
            for seed in range(2):
                with self.subTest(name, seed=seed):
                    (channels, _), = self.kernels(name, seed)
                    self.assertLessEqual(max(map(abs, channels)), 7)
                    row = channels[:math.isqrt(len(channels))]
                    exponent = ane_bench.chain_weights(Config.parse(name), seed).exponent
                    self.assertAlmostEqual(264 * sum(map(mul, row, row)) / 4 ** exponent, 1, delta=0.001)

    def test_patterns(self) -> None:
        patterns = [pattern for _, pattern in self.kernels("4x4x60k3")]
        for pattern in patterns:
            self.assertEqual(pattern[4], 16)
            self.assertEqual([-value for value in pattern[:4]], pattern[:4:-1])
            self.assertEqual({abs(value) for value in pattern[:4]}, {1})
            transposed = [pattern[3 * column + row] for row in range(3) for column in range(3)]
            self.assertNotIn(transposed, patterns)
        self.assertEqual(len(set(map(tuple, patterns))), 8)

    def test_a_chain_transposed_in_space_computes_something_else(self) -> None:
        for depth in (1, 2, 4, 7):
            for seed in range(5):
                config = Config(16, 8, depth, 3)
                program = build_program(config, "fp16", seed=seed)
                data = ane_bench.random_input(config, seed)
                turned = bytearray(program.blob)
                for tensor in read_weight_file(program.blob):
                    kernels = rows(struct.unpack(f"<{len(tensor.data) // 2}H", tensor.data), 9)
                    values = [kernel[place] for kernel in kernels for place in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
                    struct.pack_into(f"<{len(values)}H", turned, tensor.offset + 64, *values)
                right, wrong = (ane_bench.Reference(program.mil, blob).compute(data, range(0, 64, 5))[0]
                                for blob in (program.blob, turned))
                change = math.sqrt(distance(right, wrong) / distance(right, [[0.0] * 16] * len(right)))
                self.assertGreater(change, 0.1, (depth, seed))

    def test_nothing_grows_or_dies(self) -> None:
        for name, seed in (("64x16x1k3", 0), ("64x16x8k3", 1), ("64x16x64k3", 2), ("128x16x16k3", 3)):
            with self.subTest(name):
                config = Config.parse(name)
                program = build_program(config, "w8a8", seed=seed)
                inside = range(70, 186, 12)
                data = ane_bench.random_input(config, seed)
                outputs, = ane_bench.Reference(program.mil, program.blob).compute(data, inside)
                zeros = [[0.0] * config.channels] * len(inside)
                inputs = [ane_bench.pixel_of(data, config, index) for index in inside]
                growth = math.sqrt(distance(outputs, zeros) / distance(inputs, zeros))
                self.assertTrue(0.75 < growth < 1.3, growth)


def distance(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the sum of squared differences."""
    return sum((a - b) ** 2 for first, second in zip(one, other) for a, b in zip(first, second))


class TransformTest(unittest.TestCase):
    """The transform behind the weights."""

    def test_equals_the_plain_definition(self) -> None:
        draw = random.Random(2).random
        for length in (*range(1, 20), 31, 64, 97, 100):
            values = [complex(draw() - 0.5, draw() - 0.5) for _ in range(length)]
            for index, value in enumerate(ane_bench.inverse_transform(values)):
                plain = sum(term * cmath.rect(1, 2 * math.pi * index * place / length) for place,
                            term in enumerate(values))
                self.assertAlmostEqual(abs(value - plain), 0, delta=1e-12)

    def test_spectrum_is_flat(self) -> None:
        for length in (1, 2, 3, 8, 97, 120):
            row = ane_bench.flat_spectrum_row(length, random.Random(length).random)
            for coefficient in ane_bench.inverse_transform([complex(value) for value in row]):
                self.assertAlmostEqual(abs(coefficient), 1, delta=1e-12)

    def test_prime_lengths_cost_no_more(self) -> None:
        for length in (1021, 16381):
            began = time.process_time()
            row = ane_bench.flat_spectrum_row(length, random.Random(0).random)
            self.assertLess(time.process_time() - began, 3)  # 0.3 s on a quiet machine; the quadratic way takes minutes
            self.assertAlmostEqual(sum(map(mul, row, row)), 1, delta=1e-9)


class OriginalWeightsTest(unittest.TestCase):
    """The levels of --original."""

    def test_ranges(self) -> None:
        data = bytes(build_program(Config(64, 4, 8), "w8a8", original=True).blob[128:128 + 4096])
        self.assertGreater(len(set(data)), 200)
        halves = struct.unpack("<4096e", build_program(Config(64, 4, 8), "fp16", original=True).blob[128:128 + 8192])
        self.assertTrue(-0.5 <= min(halves) < -0.45 and 0.45 < max(halves) < 0.5)
        self.assertTrue(all(abs(value * 1000 - round(value * 1000)) < 0.3 for value in halves))


class InputTest(unittest.TestCase):
    """The random input."""

    def test_normal_and_clipped(self) -> None:
        config = Config(64, 32, 1)
        values = struct.unpack(f"<{64 * 1024}e", ane_bench.random_input(config, 3))
        mean = sum(values) / len(values)
        self.assertAlmostEqual(mean, 0, delta=0.05)
        self.assertAlmostEqual(sum((value - mean) ** 2 for value in values) / len(values), 1, delta=0.05)
        self.assertLessEqual(max(map(abs, values)), 3.90)

    def test_multiples_of_a_128th(self) -> None:
        values = struct.unpack(f"<{8 * 256}e", ane_bench.random_input(Config(8, 16, 1), 1))
        self.assertTrue(all(float(value * 128).is_integer() for value in values))
        self.assertFalse(all(float(value * 64).is_integer() for value in values))
        self.assertEqual(ane_bench.DATA_REVISION, 2)

    def test_same_bytes_everywhere(self) -> None:
        self.assertEqual(hashlib.sha256(ane_bench.random_input(Config(64, 128, 1), 0)).hexdigest(), INPUT_HASH)


class WeightFileTest(unittest.TestCase):
    """The file's writer, and the reader that mirrors it."""

    def test_what_is_written_is_read(self) -> None:
        blob = build_program(Config(7, 4, 3), "w8a8").blob
        tensors = read_weight_file(blob)
        self.assertEqual([(tensor.offset, tensor.data_type, len(tensor.data)) for tensor in tensors],
                         [(64, "int8", 49), (192, "int8", 49), (320, "int8", 49)])
        self.assertEqual(len(blob), 384 + 49)

    def test_damage_is_refused(self) -> None:
        good = build_program(Config(7, 4, 2), "fp16").blob
        read_weight_file(good)
        damages = {"count": (0, 3), "version": (4, 1), "reserved": (9, 1), "sentinel": (64, 0), "type": (68, 9),
                   "size": (72, 255),
                   "odd size": (72, 97), "offset": (80, 0), "padding": (88, 1), "gap": (128 + 98, 1),
                   "second sentinel": (256, 1)}
        for name, (place, value) in damages.items():
            bad = bytearray(good)
            bad[place] = value
            with self.subTest(name), self.assertRaises(BlobError):
                read_weight_file(bad)
        others: dict[str, bytes] = {"empty": b"", "cut": bytes(good[:-1]), "header only": bytes(good[:64]),
                                    "longer": bytes(good) + b"\0"}
        for name, cut in others.items():
            with self.subTest(name), self.assertRaises(BlobError):
                read_weight_file(cut)

    def test_apples_reader_and_writer_agree(self) -> None:
        storage = support.need("coremltools.libmilstoragepython")
        numpy = support.need("numpy")
        with tempfile.TemporaryDirectory() as directory:
            for name in ("64x4x2", "60x4x3", "7x4x3", "1x4x2", "512x64x16", "64x4x2k3", "7x4x3k3", "512x4x2k3"):
                for variant in ane_bench.VARIANTS:
                    with self.subTest(name, variant=variant):
                        program = build_program(Config.parse(name), variant)
                        path, copy = Path(directory) / "ours.bin", Path(directory) / "theirs.bin"
                        path.write_bytes(program.blob)
                        reader, writer = storage._BlobStorageReader(str(path)), storage._BlobStorageWriter(str(copy))
                        for tensor in read_weight_file(program.blob):
                            half = tensor.data_type == "fp16"
                            ours = numpy.frombuffer(tensor.data, dtype=numpy.uint16 if half else numpy.int8)
                            theirs = (reader.read_fp16_data if half else reader.read_int8_data)(tensor.offset)
                            self.assertTrue(numpy.array_equal(ours, theirs))
                            written = (writer.write_fp16_data if half else writer.write_int8_data)(ours)
                            self.assertEqual(written, tensor.offset)
                        del writer
                        self.assertEqual(copy.read_bytes(), program.blob)
                        copy.unlink()

    def test_original_records(self) -> None:
        for variant, size in (("fp16", "0010"), ("w8a8", "0008")):
            blob = build_program(Config(60, 4, 3), variant, original=True).blob
            stride = 64 + 3600 * (2 if variant == "fp16" else 1)
            self.assertEqual(len(blob), 64 + 3 * stride)
            self.assertEqual(blob[:64], bytes.fromhex("0100000002").ljust(64, b"\0"))
            for layer in range(3):
                start = 64 + layer * stride
                self.assertEqual(blob[start:start + 64],
                                 bytes.fromhex(f"efbeadde010000000000{size[2:]}").ljust(64, b"\0"))

    def test_the_layout_changes_only_the_records(self) -> None:
        for variant in ("fp16", "w8a8"):
            for kernel in ane_bench.KERNELS:
                config = Config(60, 4, 2, kernel)
                standard, original = (build_program(config, variant, blob=blob) for blob in ane_bench.LAYOUTS)
                self.assertEqual(standard.mil, original.mil)
                for tensor in read_weight_file(standard.blob):
                    start = tensor.offset + 64
                    self.assertEqual(tensor.data, original.blob[start:start + len(tensor.data)])
