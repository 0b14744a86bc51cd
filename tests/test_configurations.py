"""Section 2: configurations and variants."""

import copy
import pickle
import unittest

from ane_bench import DEFAULT_CONFIGS, DEFAULTS, VARIANTS, Config, UsageError


class ConfigTest(unittest.TestCase):
    """What a configuration counts, and which are valid."""

    def test_the_original_five(self) -> None:
        names = [config.name for config in DEFAULT_CONFIGS]
        self.assertEqual(names, ["512x64x128", "512x64x64", "256x64x256", "256x64x128", "384x64x128"])

    def test_defaults_by_kernel(self) -> None:
        self.assertEqual(DEFAULTS["ane", 1], DEFAULT_CONFIGS)
        self.assertEqual([config.name for config in DEFAULTS["ane", 3]], ["256x64x32k3", "512x32x16k3"])

    def test_operations_and_weights(self) -> None:
        config = Config.parse("512x64x128")
        self.assertEqual(config, Config(512, 64, 128))
        self.assertAlmostEqual(config.gop, 274.877906944)
        self.assertEqual([VARIANTS[name].weights_mib(config) for name in ("fp16", "w8a16", "w8a8")], [64.0, 32.0, 32.0])
        self.assertEqual(config.tensor_bytes, 512 * 64 * 64 * 2)

    def test_a_kernel_of_three_has_nine_times_the_weights(self) -> None:
        config, other = Config.parse("256x64x32k3"), Config.parse("256x64x32")
        self.assertEqual(config, Config(256, 64, 32, kernel=3))
        self.assertEqual(config.weights, 9 * other.weights)
        self.assertAlmostEqual(config.gop, 9 * other.gop)
        self.assertEqual(config.tensor_bytes, other.tensor_bytes)
        self.assertAlmostEqual(VARIANTS["fp16"].weights_mib(config), 36.0)

    def test_names_are_read_again(self) -> None:
        for config in (Config(1, 2, 3), Config(16384, 1, 8), Config(256, 64, 32, 3)):
            self.assertEqual(Config.parse(config.name), config)
        self.assertEqual(Config.parse("512x64x128k1"), Config(512, 64, 128))
        self.assertEqual(Config(512, 64, 128).name, "512x64x128")

    def test_labels(self) -> None:
        point, square = Config(512, 64, 128), Config(512, 64, 128, 3)
        self.assertEqual(point.label(), "128x conv 512ch 64x64")
        self.assertEqual(square.label(), "128x conv3x3 512ch 64x64")
        self.assertEqual(point.label(["depth", "channels"]), "128x conv 512ch")
        self.assertEqual(square.label(["channels", "kernel"]), "conv3x3 512ch")
        self.assertEqual([config.label(["kernel"]) for config in (point, square)], ["conv", "conv3x3"])
        self.assertEqual(square.label([]), "")

    def test_refused_texts(self) -> None:
        texts = ("512x64", "0x64x1", "abc", "", "1x2x3x4", "-1x2x3", "1x2x3 ", "16385x1x1", "1x2x9999999999",
                 "１x２x３", "64x8x2k", "64x8x2k2", "64x8x2k5", "64x8x2k0", "64x8x2K3", "64x8x2k3k3",
                 None, 512, b"64x8x2")
        for text in texts:
            with self.subTest(text), self.assertRaises(UsageError) as raised:
                Config.parse(text)  # type: ignore[arg-type]
            self.assertNotIn("\n", str(raised.exception))

    def test_refused_numbers(self) -> None:
        shapes = ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1.0, 1, 1), (16384, 1, 16), (16384, 1024, 1), (True, True, True),
                  ("8", 8, 8),
                  (8, 8, 8, 2), (8, 8, 8, True), (8, 8, 8, None), (16384, 1, 1, 3))
        for shape in shapes:
            with self.subTest(shape), self.assertRaises(UsageError):
                Config(*shape)

    def test_a_changed_copy_is_checked_too(self) -> None:
        config = Config(64, 8, 2)
        self.assertEqual(config._replace(depth=4, kernel=3), Config(64, 8, 4, 3))
        for change in ({"depth": 0}, {"channels": True}, {"kernel": 2}, {"spatial": 16384, "channels": 16384}):
            with self.subTest(change), self.assertRaises(UsageError):
                config._replace(**change)
        with self.assertRaises(UsageError):
            Config._make([64, 8, -1])

    def test_copies_are_configurations(self) -> None:
        config = Config(64, 8, 2, 3)
        for same in (copy.copy(config), pickle.loads(pickle.dumps(config)), config._replace()):
            self.assertEqual((same, type(same)), (config, Config))
            self.assertEqual(hash(same), hash(config))
