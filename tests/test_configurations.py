"""Section 2: configurations and variants."""

import unittest

from ane_bench import DEFAULT_CONFIGS, VARIANTS, Config, UsageError


class ConfigTest(unittest.TestCase):
    """What a configuration counts, and which there can be."""

    def test_the_original_five(self) -> None:
        names = [config.name for config in DEFAULT_CONFIGS]
        self.assertEqual(names, ["512x64x128", "512x64x64", "256x64x256", "256x64x128", "384x64x128"])

    def test_operations_and_weights(self) -> None:
        config = Config.parse("512x64x128")
        self.assertEqual(config, Config(512, 64, 128))
        self.assertAlmostEqual(config.gop, 274.877906944)
        self.assertEqual(config.label(), "128x conv 512ch 64x64")
        self.assertEqual([VARIANTS[name].weights_mib(config) for name in ("fp16", "w8a16", "w8a8")], [64.0, 32.0, 32.0])
        self.assertEqual(config.tensor_bytes, 512 * 64 * 64 * 2)

    def test_refused_texts(self) -> None:
        for text in ("512x64", "0x64x1", "abc", "", "1x2x3x4", "-1x2x3", "1x2x3 ", "16385x1x1", "1x2x9999999999", "１x２x３"):
            with self.subTest(text), self.assertRaises(UsageError) as raised:
                Config.parse(text)
            self.assertNotIn("\n", str(raised.exception))

    def test_refused_numbers(self) -> None:
        for shape in ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1.0, 1, 1), (16384, 1, 16), (16384, 1024, 1)):
            with self.subTest(shape), self.assertRaises(UsageError):
                Config(*shape)
