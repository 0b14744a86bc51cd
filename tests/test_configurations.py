"""Section 2: configurations, their notation, and variants."""

import copy
import pickle
import unittest
from collections import Counter

from ane_bench import DEFAULTS, VARIANTS, Config, UsageError, configs_of, variants_of


def names(given: object, engine: str = "ane", original: bool = False) -> list[str]:
    """Return the names of the configurations that are asked for."""
    return [config.name for config in configs_of(given, engine, original)]


class ConfigTest(unittest.TestCase):
    """What a configuration counts, and which are valid."""

    def test_operations_and_weights(self) -> None:
        config = Config.parse("512x64x128")
        self.assertEqual(config, Config(512, 64, 128))
        self.assertAlmostEqual(config.gop, 274.877906944)
        self.assertEqual([kind.weights_mib(config) for kind in VARIANTS.values()], [64, 32, 32])
        self.assertEqual(config.tensor_bytes, 512 * 64 * 64 * 2)
        square = Config.parse("512x64x128k3")
        self.assertEqual(square, Config(512, 64, 128, kernel=3))
        self.assertEqual((square.weights, square.tensor_bytes),
                         (9 * config.weights, config.tensor_bytes))
        self.assertAlmostEqual(square.gop, 9 * config.gop)

    def test_names_are_read_again(self) -> None:
        for config in (Config(1, 2, 3), Config(16384, 1, 8), Config(256, 64, 32, 3)):
            self.assertEqual(Config.parse(config.name), config)
        self.assertEqual(Config.parse("512x64x128k1"), Config(512, 64, 128))
        self.assertEqual([Config(512, 64, 64).shape, Config(64, 56, 56, 3).shape],
                         ["512x64", "64x56k3"])

    def test_refused_texts(self) -> None:
        for text in ("512x64", "0x64x1", "abc", "", "1x2x3x4", "-1x2x3", "1x2x3 ", "16385x1x1",
                     "１x２x３", "1x2x9999999999", "64x8x2k", "64x8x2k2", "64x8x2k0", "64x8x2K3",
                     "64x8x2k3k3", "64,128x8x2", "64,64x8x2", "64x8x2,", "x" * 9999, None, 512,
                     b"64x8x2", Config(8, 8, 8), ",".join("1" * 9999) + "x1x1"):
            with self.subTest(text), self.assertRaises(UsageError) as raised:
                Config.parse(text)  # type: ignore[arg-type]
            self.assertRegex(str(raised.exception), r"\A.{1,160}\Z")

    def test_refused_numbers(self) -> None:
        for shape in ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1.0, 1, 1), (16384, 1, 16),
                      (16384, 1024, 1), (True, True, True), ("8", 8, 8), (8, 8, 8, 2),
                      (8, 8, 8, True), (8, 8, 8, None), (16384, 1, 1, 3)):
            with self.subTest(shape), self.assertRaises(UsageError):
                Config(*shape)

    def test_copies_are_checked_configurations(self) -> None:
        config = Config(64, 8, 2, 3)
        for same in (copy.copy(config), pickle.loads(pickle.dumps(config)), config._replace()):
            self.assertEqual((same, type(same)), (config, Config))
            self.assertEqual(hash(same), hash(config))
        self.assertEqual(config._replace(depth=4, kernel=1), Config(64, 8, 4))
        for change in ({"depth": 0}, {"kernel": 2}, {"spatial": 16384, "channels": 16384}):
            with self.subTest(change), self.assertRaises(UsageError):
                config._replace(**change)


class NotationTest(unittest.TestCase):
    """What can be asked for: configurations, lists in any place, layers."""

    def test_defaults(self) -> None:
        self.assertEqual(names(None), ["512x64x128", "512x64x64", "256x64x256", "256x64x128",
                                       "384x64x128"])
        self.assertEqual(configs_of(None, "reference"), [Config(32, 8, 4), Config(64, 8, 4)])
        self.assertIsNot(configs_of(None, "ane"), DEFAULTS["ane"])

    def test_a_list_in_any_place(self) -> None:
        self.assertEqual(names("128,256x64x32,128k1,3"), [
            "128x64x32", "128x64x128", "128x64x32k3", "128x64x128k3",
            "256x64x32", "256x64x128", "256x64x32k3", "256x64x128k3"])
        self.assertEqual(names("8x4,4x1"), ["8x4x1"])

    def test_a_layer_is_measured_at_two_depths(self) -> None:
        for layer, shallow in (
                ("64x56k3", 64), ("256x56k3", 4), ("512x7k3", 16), ("2048x1", 8), ("256x112k3", 2),
                ("128x28k3", 64), ("256x14k3", 64), ("768x14", 64), ("4096x1k1", 2)):
            found = configs_of(layer, "ane")
            self.assertEqual([config.depth for config in found], [shallow, 3 * shallow], layer)
            self.assertEqual({config.shape for config in found}, {layer.replace("k1", "")})
            self.assertEqual([config.depth for config in configs_of(layer, "reference")], [2, 4])
        shapes = Counter(config.shape for config in configs_of("64,128x56,28k1,3", "ane"))
        expected = ["64x56", "64x56k3", "64x28", "64x28k3", "128x56", "128x56k3", "128x28",
                    "128x28k3"]
        self.assertEqual(shapes, dict.fromkeys(expected, 2))

    def test_every_kind_of_request(self) -> None:
        config = Config(64, 8, 2)
        for given in (config, "64x8x2", [config], ["64x8x2"], (config,), ("64x8x2",),
                      iter([config]), [config, "64x8x2"], "64,64x8x2"):
            self.assertEqual(configs_of(given, "ane"), [config])
        self.assertEqual(names([config, "8x8x1", "64x8k3"]),
                         ["64x8x2", "8x8x1", "64x8x64k3", "64x8x192k3"])

    def test_refused_requests(self) -> None:
        for given in ([], (), "", [""], [None], 5, [5], [(64, 8)], (64, 8, 2), {1: 2}, [b"8x8x8"],
                      "64x", "64x8x2 ", "64x8x2,k3", "16384x1k3"):
            with self.subTest(given), self.assertRaises(UsageError) as raised:
                configs_of(given, "ane")
            self.assertNotIn("\n", str(raised.exception))

    def test_the_original_has_neither_layers_nor_3x3(self) -> None:
        self.assertEqual(names(["64x32x2,4"], original=True), ["64x32x2", "64x32x4"])
        for given in ("256x56k3", "256x56", "256x56x4k1,3", Config(256, 56, 2, 3)):
            name = given if isinstance(given, str) else given.name
            told = rf"\A{name} cannot be combined with --original, .* such as 256x56x16\Z"
            with self.assertRaisesRegex(UsageError, told):
                configs_of(given, "ane", original=True)


class VariantsTest(unittest.TestCase):
    """Variants and how they are asked for."""

    def test_all_that_differs(self) -> None:
        kinds = VARIANTS.values()
        self.assertEqual([kind.label for kind in kinds], ["FP16", "W8A16", "W8A8"])
        self.assertEqual([kind.quantizes for kind in kinds], [False, False, True])
        for told in ("name", "spoken", "color", "mark"):
            self.assertEqual(len({getattr(kind, told) for kind in kinds}), 3, told)

    def test_a_list_of_names_whose_first_is_the_baseline(self) -> None:
        for names in ("w8a8,fp16", ["w8a8", "fp16"], ("w8a8", "fp16")):
            self.assertEqual(variants_of(names), ["w8a8", "fp16"])
        for given in ("", "fp8", "fp16,", "fp16,fp16", [], {"fp16"}, 5, None, [5], [["fp16"]]):
            with self.subTest(given), self.assertRaisesRegex(UsageError, r"\Avariants .{1,130}\Z"):
                variants_of(given)
