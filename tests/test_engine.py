"""Sections 7 to 10 over the stand-in: the calls of a run, what it leaves behind, what each failure looks like."""

import collections
import json
import os
import re
from pathlib import Path
from typing import Any

import ane_bench
from tests import support
from tests.support import SMALL


class OriginalTest(support.StandinCase):
    """--original does what the original does, to the call."""

    def test_the_five_configurations(self) -> None:
        finished = self.run_standin("--original", "--quiet", COMPUTE="none", LATENCY="fp16:2000,w8a8:1000", CLOCK="virtual",
                                    SYSCTL="machdep.cpu.brand_string=Apple M4")
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(re.sub(r"[0-9]", "#", finished.output), re.sub(r"[0-9]", "#", ORIGINAL_TABLE))
        lines = finished.output.splitlines()
        self.assertEqual(lines[:4], ORIGINAL_TABLE.splitlines()[:4])
        self.assertEqual([line[:46] for line in lines[4:6]], [line[:46] for line in ORIGINAL_TABLE.splitlines()[4:6]])

    def test_every_call_and_every_object_released(self) -> None:
        finished = self.run_standin("--original", "--quiet", COMPUTE="none")
        self.assertEqual(finished.code, 0, finished.errors)
        expected = []
        for config in ane_bench.DEFAULT_CONFIGS:
            surface = f"IOSurfaceCreate {config.tensor_bytes}"
            for variant in ("fp16", "w8a8"):
                expected += [f"descriptor {variant}", f"model {variant}", "identifier", "localModelPath",
                             f"compile {variant} qos=0", f"load {variant} qos=0", surface, surface, "surfaceobject",
                             "surfaceobject", "request",
                             *[f"evaluate {variant} qos=0 -> YES"] * 60, f"unload {variant}"]
        self.assertEqual([line for line in self.calls() if not line.startswith(("alloc ", "dealloc "))], expected)
        alive = collections.Counter(line.split(" ", 1)[1] for line in self.calls() if line.startswith("alloc "))
        alive.subtract(line.split(" ", 1)[1] for line in self.calls() if line.startswith("dealloc "))
        self.assertEqual({name: count for name, count in alive.items() if count}, {})
        self.assertGreaterEqual(sum(line.startswith("dealloc ") for line in self.calls()), 10 * 7)

    def test_a_failure_prints_the_originals_lines(self) -> None:
        for stage, word, code in (("descriptor", "desc", "-1.0"), ("model", "mdl", "-2.0"), ("compile", "compile", "-3.0"),
                                  ("load", "load", "-4.0")):
            finished = self.run_standin("--original", "--quiet", "--config", "512x64x2", COMPUTE="none",
                                        FAULT=f"w8a8/{stage}:silent")
            self.assertEqual(finished.code, 1)
            self.assertRegex(finished.output, rf"\n  W8A8 2x conv 512ch: {word} FAIL: .*\n"
                                              rf"  2x conv 512ch: FP16=[0-9.]+ INT8={code} \(FAIL\)\n")


ORIGINAL_TABLE = """\
=== ANE INT8 W8A8 Benchmark (stand-in library, M4, h16g) ===

Config                           W(MB)     GOP   ms/eval    TOPS   Ratio
--------------------------------------------------------------------------------
FP16 128x conv 512ch 64x64       64.0  274.88    2.000 ms 137.44
W8A8 128x conv 512ch 64x64       32.0  274.88    1.000 ms 274.88  2.00x

FP16 64x conv 512ch 64x64        32.0  137.44    2.000 ms  68.72
W8A8 64x conv 512ch 64x64        16.0  137.44    1.000 ms 137.44  2.00x

FP16 256x conv 256ch 64x64       32.0  137.44    2.000 ms  68.72
W8A8 256x conv 256ch 64x64       16.0  137.44    1.000 ms 137.44  2.00x

FP16 128x conv 256ch 64x64       16.0   68.72    2.000 ms  34.36
W8A8 128x conv 256ch 64x64        8.0   68.72    1.000 ms  68.72  2.00x

FP16 128x conv 384ch 64x64       36.0  154.62    2.000 ms  77.31
W8A8 128x conv 384ch 64x64       18.0  154.62    1.000 ms 154.62  2.00x

=== Done ===
"""


class ComputedTest(support.StandinCase):
    """The stand-in computes what the files say, and so does the reference."""

    def test_equal_bit_by_bit_in_every_arithmetic(self) -> None:
        for store in ("fp16", "fp32"):
            for rounding in ("even", "away"):
                record = self.run_record("--config", "64x8x6", "--config", "12x4x3", "--variants", "fp16,w8a16,w8a8",
                                         "--iters", "2", "--rounds", "1", "--verify", "16", STORE=store, ROUNDING=rounding)
                for result in record["results"]:
                    for variant, cell in result["variants"].items():
                        halves = f", halves {rounding}" if variant == "w8a8" else ""
                        self.assertTrue(cell["verified"]["ok"])
                        if result["config"]["channels"] == 64:
                            self.assertEqual(cell["verified"]["matches"], f"{store} stores{halves}")
                self.assertEqual(record["results"][0]["variants"]["w8a16"]["verified"]["from_fp16"]["relative_l2"], 0)
                self.assertGreater(record["results"][0]["variants"]["w8a8"]["verified"]["from_fp16"]["relative_l2"], 0.001)

    def test_dialects_and_layouts(self) -> None:
        for blob in ("standard", "original"):
            for dialect in ("1.3", "1.0"):
                record = self.run_record(*SMALL, "--blob", blob, "--dialect", dialect, "--variants", "fp16,w8a16,w8a8")
                for cell in record["results"][0]["variants"].values():
                    self.assertEqual((cell["status"], cell["blob"], cell["dialect"]), ("ok", blob, dialect))

    def test_wrong_outputs_are_failed_cells(self) -> None:
        for output, words in (("nan", "NaN"), ("inf", "infinities"), ("zeros", "zeros"), ("constant", "everywhere"),
                              ("noop", "did nothing"), ("aliased", "wrong layer"), ("swapped", "wrong layer"),
                              ("scale:1.1", "wrong scale"), ("drop:3", "left out")):
            with self.subTest(output):
                record = self.run_record("--config", "64x8x8", "--iters", "2", "--rounds", "1", "--verify", "4", code=1,
                                         OUTPUT=output)
                for cell in record["results"][0]["variants"].values():
                    self.assertEqual((cell["status"], cell["stage"], cell["verified"]["ok"]), ("failed", "verify", False))
                    self.assertIn(words, cell["error"])
                    self.assertIn("median", cell["ms"])

    def test_a_real_configuration_is_verified(self) -> None:
        config, protocol = ane_bench.Config(512, 64, 128), ane_bench.Protocol(iters=5, rounds=5, warmup=1)
        pixel, = ane_bench.chosen_pixels(config, protocol)
        record = self.run_record("--config", config.name, "--iters", "5", "--rounds", "5", "--warmup", "1", COMPUTE=str(pixel))
        for variant, cell in record["results"][0]["variants"].items():
            self.assertEqual(cell["verified"]["matches"], "fp16 stores" + (", halves even" if variant == "w8a8" else ""))


class FailureTest(support.StandinCase):
    """Each failure is a failed cell that names its stage; the other configuration goes on."""

    def failed(self, fault: str, *arguments: str, **settings: str) -> dict[str, Any]:
        """The first configuration's w8a8 cell, after its fault; the second configuration must be fine."""
        record = self.run_record(*SMALL, *arguments, code=1, FAULT=fault, **settings)
        cell: dict[str, Any] = record["results"][0]["variants"]["w8a8"]
        self.assertEqual(cell["status"], "failed")
        self.assertNotIn("ms", cell)
        return cell

    def test_stages(self) -> None:
        for fault, stage, words in (("descriptor:nil", "descriptor", "nil"), ("model:nil", "model", "nil"),
                                    ("identifier:nil", "identifier", "hexString"),
                                    ("compile:no", "compile", r"com\.apple.* [0-9]+: "),
                                    ("compile:silent", "compile", "no NSError"),
                                    ("load:no", "load", r"com\.apple"), ("load:silent", "load", "no NSError"),
                                    ("surface:nil", "surface", "IOSurfaceCreate"),
                                    ("surfaceobject:nil", "request", "nil"), ("request:nil", "request", "nil"),
                                    ("w8a8/evaluate:no", "warm-up", "said NO: com"),
                                    ("w8a8/evaluate:silent@2", "warm-up", "no NSError"),
                                    ("w8a8/evaluate:no@3", "evaluate", "said NO"), ("w8a8/evaluate:no@8", "evaluate", "said NO"),
                                    ("lock:no", "surface", "IOSurfaceLock"), ("w8a8/compile:unicode", "compile", "[^\\x00-\\x7f]")):
            with self.subTest(fault):
                cell = self.failed(fault)
                self.assertEqual(cell["stage"], stage, cell["error"])
                self.assertRegex(cell["error"], words)

    def test_children_that_end(self) -> None:
        for fault, stage, words in (("w8a8/compile:crash", "compile", "SIGSEGV"), ("w8a8/load:raise", "load", "ended|killed"),
                                    ("w8a8/evaluate:exit", "warm-up", "without a result"),
                                    ("w8a8/evaluate:crash@4", "evaluate", "SIGSEGV"),
                                    ("w8a8/model:hang", "model", "said nothing for 1 s")):
            with self.subTest(fault):
                cell = self.failed(fault, "--timeout", "1")
                self.assertEqual(cell["stage"], stage, cell["error"])
                self.assertRegex(cell["error"], words)

    def test_what_comes_after_the_figures_costs_nothing(self) -> None:
        for fault in ("unload:no", "unload:silent", "unload:crash", "unload:hang", "unload:exit"):
            with self.subTest(fault):
                record = self.run_record(*SMALL, "--timeout", "1", FAULT=fault)
                self.assertEqual({cell["status"] for cell in record["results"][0]["variants"].values()}, {"ok"})
                self.assertEqual("unload" in [warning["code"] for warning in record["warnings"]], fault != "unload:exit")

    def test_a_refusal_that_cannot_be_undone_costs_nothing_else(self) -> None:
        for end in ("crash", "hang", "raise"):
            for stage, undone in (("load", "purge"), ("surface", "unload")):
                with self.subTest(end, stage=stage):
                    fault = f"w8a8/load:no;w8a8/purge:{end}" if stage == "load" else f"surface:nil@4;w8a8/unload:{end}"
                    record = self.run_record(*SMALL, "--config", "32x8x2", "--timeout", "1", code=1, FAULT=fault)
                    for result in record["results"]:
                        cells = result["variants"]
                        self.assertEqual((cells["fp16"]["status"], cells["w8a8"]["status"]), ("ok", "failed"), undone)
                        self.assertEqual(cells["w8a8"]["stage"], stage)

    def test_an_exceptions_reason_is_told(self) -> None:
        cell = self.failed("w8a8/compile:raise")
        self.assertRegex(cell["error"], "(?i)exception|reason")


class MeasuredTest(support.StandinCase):
    """What the figures say where the truth is known."""

    def test_ratio_under_drift_and_spikes(self) -> None:
        for drift in ("0.05", "0.3"):
            for fp16, truth in ((2000, 2.0), (1000, 1.0)):
                with self.subTest(drift, truth=truth):
                    settings: dict[str, Any] = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": f"fp16:{fp16},w8a8:1000",
                                                "DRIFT": drift, "SPIKE": "17x10"}
                    record = self.run_record("--config", "64x8x2", "--verify", "0", **settings)
                    ratio = record["results"][0]["ratio"]["w8a8"]
                    low, high = ratio["ci95"]
                    self.assertAlmostEqual(ratio["value"], truth, delta=truth * 0.01)
                    self.assertTrue(low * 0.99 <= truth <= high * 1.01, ratio)
                    original = self.run_record("--original", "--config", "512x64x2", **settings)
                    sequential = original["results"][0]["ratio"]["w8a8"]["value"]
                    print(f"\ndrift {drift}/s, true ratio {truth}: interleaved medians {ratio['value'] / truth - 1:+.2%}, "
                          f"sequential means {sequential / truth - 1:+.2%}", end="")
                    self.assertGreater(abs(sequential / truth - 1), abs(ratio["value"] / truth - 1))

    def test_the_clock_is_converted(self) -> None:
        record = self.run_record(*SMALL, "--verify", "0", COMPUTE="none", CLOCK="virtual", LATENCY="fp16:2000,w8a8:500")
        medians = [cell["ms"]["median"] for cell in record["results"][0]["variants"].values()]
        self.assertAlmostEqual(medians[0], 2.0, delta=0.001)
        self.assertAlmostEqual(medians[1], 0.5, delta=0.001)

    def test_the_system(self) -> None:
        sysctl = "machdep.cpu.brand_string=Apple M9;hw.model=Mac99,1;kern.osproductversion=27.1;kern.osversion="
        system = self.run_record(*SMALL, SYSCTL=sysctl, DEVICE="aneSubType=h99,numANEs=2", POWER="Battery Power", THERMAL="0,2",
                                 LOW_POWER="1")["system"]
        expected = {"chip": "Apple M9", "model": "Mac99,1", "macos": "27.1", "build": None, "memory_bytes": 8 << 30,
                    "ane_subtype": "h99", "ane_count": 2, "power_source": "Battery Power", "low_power_mode": True,
                    "thermal_state_before": "nominal", "thermal_state_after": "serious"}
        self.assertEqual({name: system.get(name) for name in expected}, expected)

    def test_no_names_of_users_or_hosts(self) -> None:
        target = self.directory / "some one" / "r.json"
        target.parent.mkdir()
        self.module = support.MODULE
        self.assertEqual(self.run_standin(*SMALL, "--save", str(target)).code, 0)
        text = target.read_text()
        for word in (os.uname().nodename, str(self.directory), str(Path.home())):
            self.assertNotIn(word, text)
        self.assertEqual(json.loads(text)["command"], ["ane_bench.py", *SMALL, "--save", "r.json"])
