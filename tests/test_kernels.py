"""Chains of both kernels through the whole program, on the stand-in: right ones verified, wrong ones caught."""

import csv
import io

from tests import support

SWEEP = ("--kernel", "1,3", "--channels", "32,64", "--spatial", "16", "--depth", "2,8", "--variants", "fp16,w8a16,w8a8")
SMALL_3X3 = ("--config", "64x16x4k3", "--warmup", "2", "--iters", "10", "--rounds", "5")


class KernelTest(support.StandinCase):
    """What is measured with kernels of 1 and 3."""

    def test_a_sweep_over_both_is_verified(self) -> None:
        record = self.run_record(*SWEEP, CLOCK="virtual", SPEED="fp16:100+18,w8a16:100+18,w8a8:100+36", ARITHMETIC="m4")
        cells = [cell for result in record["results"] for cell in result["variants"].values()]
        self.assertEqual(len(cells), 24)
        self.assertEqual([cell["verified"]["ok"] for cell in cells], [True] * 24)
        kernels = [result["config"].get("kernel", 1) for result in record["results"]]
        self.assertEqual(sorted(kernels), [1] * 4 + [3] * 4)

    def test_wrong_3x3_outputs_are_caught(self) -> None:
        both = ("fp16", "w8a8")
        for kind, wrong in (("transposed", both), ("aliased", both), ("swapped", both), ("zeros", both),
                            ("border", ("fp16",)), ("scale:1.1", ("fp16",))):
            with self.subTest(kind):
                record = self.run_record(*SMALL_3X3, code=1, CLOCK="virtual", LATENCY="fp16:1000,w8a8:500", OUTPUT=kind)
                variants = record["results"][0]["variants"]
                for variant in wrong:
                    self.assertEqual((variants[variant]["status"], variants[variant]["stage"]), ("failed", "verify"))

    def test_quantization_left_out_is_told(self) -> None:
        settings = {"CLOCK": "virtual", "LATENCY": "fp16:1000,w8a8:500", "OUTPUT": "unquantized"}
        finished = self.run_standin(*SMALL_3X3, **settings)
        self.assertRegex(finished.errors, r"warning \(quantization\) W8A8 4x conv3x3 64ch 16x16: quantizing ")
        chip = {"SYSCTL": "machdep.cpu.brand_string=Apple M4"}
        record = self.run_record(*SMALL_3X3, code=1, **settings, **chip)
        self.assertEqual(record["results"][0]["variants"]["w8a8"]["status"], "failed")


class RateTest(support.StandinCase):
    """The rate behind the fixed cost of an evaluate, and a clock that rises."""

    def test_both_are_recovered(self) -> None:
        options = ("--config", "64x16x8", "--config", "64x16x32", "--variants", "fp16", "--format", "csv")
        output = self.run_standin(*options, CLOCK="virtual", SPEED="fp16:100+0.1").output
        shallow, deep = csv.DictReader(io.StringIO(output))
        self.assertEqual((shallow["marginal_tops"], deep["marginal_from"]), ("", "8"))
        self.assertAlmostEqual(float(deep["marginal_tops"]), 0.1, delta=0.001)
        self.assertAlmostEqual(float(deep["fixed_ms"]), 0.1, delta=0.001 + 0.003)  # the call itself is in it
        self.assertLess(float(deep["fixed_low"]), float(deep["fixed_ms"]))

    def test_times_are_final_on_a_rising_clock(self) -> None:
        for seconds in ("0.06", "0.25"):
            record = self.run_record("--config", "32x8x2", CLOCK="virtual", RISE=f"2.8:{seconds}",
                                     LATENCY="fp16:2000,w8a8:1000")
            result = record["results"][0]
            self.assertAlmostEqual(result["variants"]["fp16"]["ms"]["median"], 2.0, delta=0.02)
            self.assertAlmostEqual(result["ratio"]["w8a8"]["value"], 2.0, delta=0.02)
