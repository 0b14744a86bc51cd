"""Section 3: weights, input, weight files."""

import hashlib
import struct
import tempfile
import unittest
from operator import mul
from pathlib import Path

import ane_bench
from ane_bench import BlobError, Config, build_program, read_weight_file
from tests import support

# SHA-256 of weight files, so that every Python and every machine is held to the same bytes.
HASHES = {
    ("64x4x2", "fp16"): "2f31c561eae5abb9d49dce2a8d23f712bde61e2d9858f355e0b88aee711bc1ad",
    ("64x4x2", "w8a8"): "305dd547355e8d7674c9ac954aa41203ba138531508b998eb0d6a8059e43e294",
    ("60x4x3", "fp16"): "fb228e7165c93099bed49264f5e30de6e5e731f8c4b48c430e82a0acb51339ea",
    ("7x4x3", "w8a16"): "98a22ea6137059c2a437c0fcc136b4778e3274a8bc4509c61a415b8417abe418",
    ("509x4x1", "w8a8"): "4674589606097aaa45ae692c15d6e454f9c836eb875acc53a1fc2f3369cce7c4",
    ("512x64x128", "fp16"): "de47fe0310dae1b3af455860dc1f0bd22f7ddadec55848c8a2cbf979bd4fc460",
}


def rows(program: ane_bench.Program) -> list[list[list[float]]]:
    """The weights of a program as numbers: [layer][output][input]."""
    channels, letter = program.config.channels, ane_bench.DATA_TYPES[program.variant.weights].letter
    layers = [struct.unpack(f"<{channels ** 2}{letter}", tensor.data) for tensor in read_weight_file(program.blob)]
    return [[list(layer[start:start + channels]) for start in range(0, channels ** 2, channels)] for layer in layers]


class OrthogonalWeightsTest(unittest.TestCase):
    """The weights that a default run computes with."""

    def test_same_bytes_everywhere(self) -> None:
        for (name, variant), expected in HASHES.items():
            with self.subTest(name, variant=variant):
                blob = build_program(Config.parse(name), variant).blob
                self.assertEqual(hashlib.sha256(blob).hexdigest(), expected)

    def test_the_seed_changes_them(self) -> None:
        config = Config(16, 4, 2)
        blobs = {bytes(build_program(config, "w8a8", seed=seed).blob) for seed in range(5)}
        self.assertEqual(len(blobs), 5)

    def test_rows_are_orthonormal_up_to_rounding(self) -> None:
        for channels in (1, 2, 3, 5, 12, 64, 97, 128):
            with self.subTest(channels):
                weights = ane_bench.orthogonal_weights(channels, 2, 1)
                for layer in rows(build_program(Config(channels, 4, 2), "w8a8", seed=1)):
                    scaled = [[value / 2 ** weights.exponent for value in row] for row in layer]
                    for index, row in enumerate(scaled):
                        for other_index, other in enumerate(scaled):
                            self.assertAlmostEqual(sum(map(mul, row, other)), index == other_index, delta=0.06)

    def test_each_layer_has_its_own_order_and_signs(self) -> None:
        first, second = rows(build_program(Config(64, 4, 2), "w8a8"))
        self.assertNotEqual(first, second)
        magnitudes = [sorted(sorted(map(abs, row)) for row in layer) for layer in (first, second)]
        self.assertEqual(*magnitudes)
        sums = [sum(row) for row in first]
        self.assertTrue(any(value > 0 for value in sums) and any(value < 0 for value in sums))

    def test_all_variants_have_the_same_integers(self) -> None:
        config = Config(60, 4, 3)
        exponent = ane_bench.orthogonal_weights(60, 3, 7).exponent
        half, byte, mixed = (rows(build_program(config, variant, seed=7)) for variant in ("fp16", "w8a8", "w8a16"))
        self.assertEqual(byte, mixed)
        self.assertEqual([[[value * 2 ** exponent for value in row] for row in layer] for layer in half], byte)

    def test_the_largest_power_of_two_is_used(self) -> None:
        for channels in (1, 2, 64, 100, 512):
            with self.subTest(channels):
                largest = max(map(abs, ane_bench.orthogonal_weights(channels, 1, 0).pool))
                self.assertTrue(63 < largest <= 127, largest)


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

    def test_same_bytes_everywhere(self) -> None:
        self.assertEqual(hashlib.sha256(ane_bench.random_input(Config(64, 128, 1), 0)).hexdigest(), INPUT_HASH)


INPUT_HASH = "80fe275c8123bcba8a48d216877499c37a07240309e1c82c09ebdf3d33c8224e"


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
        damages = {"count": (0, 3), "version": (4, 1), "reserved": (9, 1), "sentinel": (64, 0), "type": (68, 9), "size": (72, 255),
                   "odd size": (72, 97), "offset": (80, 0), "padding": (88, 1), "gap": (128 + 98, 1), "second sentinel": (256, 1)}
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
            for name in ("64x4x2", "60x4x3", "7x4x3", "1x4x2", "512x64x64"):
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
                self.assertEqual(blob[start:start + 64], bytes.fromhex(f"efbeadde010000000000{size[2:]}").ljust(64, b"\0"))

    def test_the_layout_changes_only_the_records(self) -> None:
        for variant in ("fp16", "w8a8"):
            standard, original = (build_program(Config(60, 4, 2), variant, blob=blob) for blob in ("standard", "original"))
            self.assertEqual(standard.mil, original.mil)
            for tensor in read_weight_file(standard.blob):
                self.assertEqual(tensor.data, original.blob[tensor.offset + 64:tensor.offset + 64 + len(tensor.data)])
