"""Section 15: tables, answers, notes, markdown and csv of a run, several runs side by side, and
records that are sent in texts.

ANE_BENCH_GOLDEN=write writes the files in golden/ anew; look at them before they are committed.
"""

import base64
import csv
import io
import itertools
import json
import random
import re
import statistics
import tempfile
import unittest
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Union

import ane_bench
from ane_bench import Config, Run, Settings, Table
from tests import support
from tests.runs import (
    ALL,
    AS_ORIGINAL,
    ERROR,
    KERNEL3,
    M4,
    ORIGINAL,
    PAIR,
    command,
    golden,
    made_run,
    written,
)

# ResNet-50's four 3x3 stages, each at two depths, as `--config 64x56k3` and so on ask for them.
RESNET = ("64x56x64k3", "64x56x192k3", "128x28x32k3", "128x28x96k3", "256x14x16k3",
          "256x14x48k3", "512x7x16k3", "512x7x48k3")
# Ten Macs: chip, model, macOS, TOPS in FP16 and W8A8 (the first seven as published or near it).
TEN = (("M10", "Mac30,1", "31.0", 40.0, 41.0), ("M1", "MacBookPro17,1", "15.7.3", 10.88, 10.66),
       ("M2 Max", "Mac14,6", "26.4", 16.31, 16.36), ("M3", "Mac15,3", "26.3.1", 18.59, 18.6),
       ("M4", "Mac16,12", "26.4", 18.26, 34.56), ("M4", "Mac16,1", "26.4", 18.6, 35.1),
       ("M4 Pro", "Mac16,11", "26.2", 18.51, 34.9), ("M5", "Mac17,2", "26.4", 18.22, 34.22),
       ("M5 Max", "Mac17,7", "26.4.1", 19.27, 35.61), ("M4", "Mac16,1", "26.4", 18.5, 34.0))


def lines_of(run: Run, room: int = 80) -> list[str]:
    """Return the lines of a run's table."""
    return Table(run, room).text().splitlines()


def rows_of(run: Run) -> list[str]:
    """Return the rows of a run's table."""
    return [line for line in lines_of(run) if re.match(r"([0-9]\S* +| {6,})(FP16|W8A)", line)]


def scattered(run: Run, share: float = 0.002, seed: int = 0) -> Run:
    """Return the run after its rounds and its evaluates scattered by a share of their times."""
    draw = random.Random(seed)
    for cell in run.cells:
        cell.samples_ns = [[sample * (1 + slow + share * draw.gauss(0, 1)) for sample in samples]
                           for samples in cell.samples_ns
                           for slow in [share * draw.gauss(0, 1)]]
    return run


def with_ratios(ratios: Sequence[float], spread: float = 0.0,
                configs: Iterable[Union[Config, str]] = ORIGINAL, **options: Any) -> Run:
    """Return a run in which the last variant has these ratios, exactly, unless its rounds differ by
    a factor of 1 + `spread`."""
    run = made_run([config for config, _ in zip(configs, ratios)], **options)
    for (config, cells), ratio in zip(run.results, ratios):
        base = 1e6 * config.gop / 16
        cells[0].samples_ns = [[base] * 5 for _ in range(12)]
        cells[-1].samples_ns = [[base / ratio * (1 + spread) ** (number // 3 % 2 - 0.5)] * 5
                                for number in range(12)]
    return run


def too_fast_deeper() -> Run:
    """Return a run whose deeper chains take so little more time that a layer would do 60 TOPS and
    more."""
    run = made_run(("512x64x64", "512x64x66"))
    for cell, ms in zip(run.cells, (7.5, 4.0, 7.57, 4.035)):
        cell.samples_ns = [[1e6 * ms] * 5 for _ in range(12)]
    return run


def long_run(rates: Sequence[float], every_s: float = 5.0) -> Run:
    """Return a run of one variant whose rounds begin every 5 s, with these TOPS in turn."""
    run = made_run(ORIGINAL[:1], ("fp16",))
    run.cells[0].samples_ns = [[1e6 * ORIGINAL[0].gop / rate] * 5 for rate in rates]
    run.cells[0].rounds_s = [every_s * number for number in range(len(rates))]
    return run


def ten_macs() -> list[Run]:
    """Return the default run of ten Macs, two of which are one machine on two days, one of which
    failed in part, and one computed wrong outputs."""
    runs = []
    for place, (chip, model, macos, *rates) in enumerate(TEN):
        system = {**M4, "chip": f"Apple {chip}", "model": model, "macos": macos}
        failed = [(4, "w8a8")] if chip == "M5" else []
        wrong = [(3, "fp16")] if chip == "M3" else []
        runs.append(scattered(made_run(ORIGINAL, system=system, speeds=dict(zip(PAIR, rates)),
                                       failed=failed, wrong=wrong), seed=place))
        runs[-1].started, runs[-1].version = f"2026-03-{place + 1:02d}T03:04:05+00:00", "0.2.0"
        if place in (1, 4):
            runs[-1].warn("battery", "the Mac runs on battery; connect it to power")
    return runs


def without_records(text: str) -> str:
    """Return markdown without what stands in its records."""
    return re.sub(r"(```ane-bench-record\n)[^`]*", r"\1…\n", text)


def block_of(data: bytes) -> str:
    """Return a block such as markdown reports end with, around any bytes."""
    packed = base64.b64encode(zlib.compress(data)).decode()
    return "```ane-bench-record\n" + re.sub("(.{76})", "\\1\n", packed) + "\n```\n"


class GoldenTest(unittest.TestCase):
    """Whole reports, as they stand in golden/."""

    maxDiff = None

    def test_a_run_in_every_format(self) -> None:
        run = scattered(made_run([*ORIGINAL[:2], *RESNET[:2]], fixed_ms=0.1, failed=[(1, "w8a8")],
                                 wrong=[(3, "w8a8")]))
        run.version = "0.2.0"
        run.warn("noise", f"{run.cells[0].name}: times scatter by 4 %; close other programs")
        for form, name in (("table", "run.txt"), ("markdown", "run.md"), ("csv", "run.csv")):
            text = without_records(ane_bench.report(run, form))
            if form == "csv":  # the last digits of logarithms differ from machine to machine
                text = re.sub(r"[0-9]+\.[0-9]{8,}", lambda found: f"{float(found[0]):.8g}", text)
            self.assertEqual(*golden(name, text))
        self.assertEqual(Table(run).text(), ane_bench.report(run, "table"))
        self.assertEqual(run.table(), ane_bench.report(run, "table"))

    def test_the_original(self) -> None:
        run = made_run(("512x64x128", "256x64x8"), settings=AS_ORIGINAL, engine="stand-in")
        self.assertEqual(*golden("original.txt", run.table()))

    def test_layers(self) -> None:
        run = scattered(made_run(RESNET, fixed_ms=0.1), 0.0002)
        run.version = "0.2.0"
        self.assertEqual(*golden("layers.txt", run.table()))

    def test_ten_macs(self) -> None:
        runs = ten_macs()
        for name, text in (("ten-macs.txt", ane_bench.show(runs, "table", 80)),
                           ("ten-macs-60.txt", ane_bench.show(runs, "table", 60)),
                           ("ten-macs.md", ane_bench.show(runs, "markdown"))):
            self.assertEqual(*golden(name, without_records(text)))


class TableTest(unittest.TestCase):
    """The original's columns, then the module's own, in 80 columns or fewer."""

    def test_the_designs_example(self) -> None:
        own = [re.sub("[0-9]", "#", line)
               for line in lines_of(made_run(("512x64x128", "512x64x64"), fixed_ms=0.103))]
        self.assertEqual([*own[:6], *own[10:14]], [
            "=== ane_bench #.#.# (M#, Mac##,#, macOS ##.#) ===", "",
            "Config            W(MB)    GOP ms/eval  ±##%    TOPS Ratio  ±##% Check",
            "----------------------------------------------------------------------",
            "###x##x###  FP##   ##.# ###.##  ##.### ±#.#%   ##.##                ok",
            "            W#A#   ##.# ###.##   #.### ±#.#%   ##.## #.##x ±#.#%    ok",
            "One layer          FP##   TOPS      W#A#   TOPS Ratio  ±##%",
            "###x##         ###.# µs  ##.##  ##.## µs  ##.## #.##x ±#.#%",
            "beside a fixed cost of #.## ms (FP##) and #.## ms (W#A#) for each evaluate", ""])

    def test_the_manuals_sample_has_these_columns(self) -> None:
        found = re.findall(r"(?m)^ *(Config +W.*|512x64x128  FP16.*|(?<= {4}) {12}W8A8 .*)$",
                           ane_bench.__doc__ or "")
        own = lines_of(made_run(spread=0.001))
        self.assertEqual([re.sub("[0-9]", "#", line) for line in found],
                         [re.sub("[0-9]", "#", line) for line in (own[2], own[4], own[5])])

    def test_what_fails_under_the_original(self) -> None:
        run = made_run(settings=AS_ORIGINAL, failed=[(0, "w8a8")])
        self.assertEqual(lines_of(run)[5:], [
            f"W8A8 128x conv 512ch 64x64: failed in stage compile: {ERROR}", "", "=== Done ==="])
        run = made_run(ORIGINAL, settings=AS_ORIGINAL, measured=2)
        self.assertEqual(lines_of(run)[-1], "=== 2 of 5 configurations ===")

    def test_nothing_is_wider_than_80_or_60_columns(self) -> None:
        names: tuple[str, ...] = ("4x8x1", "16384x16x1", "128x4096x14000k3", "1024x128x4",
                                  "1024x128x12")
        every: Sequence[Sequence[Union[Config, str]]] = (ORIGINAL, KERNEL3, names, RESNET)
        for configs, variants in itertools.product(every, (PAIR, ALL)):
            for spread, speed in ((0.002, 1.0), (0.4, 1e-3), (1e-9, 1e-6), (3, 1e3)):
                if configs is names and speed < 1:
                    continue  # such times are none
                run = made_run(configs, variants, spread=spread, fixed_ms=0.1,
                               speeds=dict.fromkeys(variants, 19 * speed))
                for room in (80, 60):
                    lines = lines_of(run, room)
                    rows = [line for line in lines if line.endswith("ok")]
                    layers = [line for line in lines if " µs" in line or "One layer" in line]
                    self.assertEqual(len(rows), len(run.cells))
                    self.assertLessEqual(max(map(len, [*lines[2:4], *rows, *layers])), room)
                    self.assertEqual(len(lines[2]), len(lines[3]))
                    for row in rows:
                        self.assertNotRegex(row, r" 0\.0+ ")
                self.assertRegex(lines_of(run)[2], r"W\(MB\)    GOP ms/eval  ±95%    TOPS Ratio")

    def test_what_is_left_out_where_the_table_is_too_wide(self) -> None:
        for room, headings in (
                (200, "W(MB) GOP ms/eval ±95% TOPS Ratio ±95% Check"),
                (69, "W(MB) GOP ms/eval TOPS Ratio Check"), (57, "GOP ms/eval TOPS Ratio Check"),
                (51, "ms/eval TOPS Ratio Check")):
            heading = Table(made_run(ORIGINAL), room).head().splitlines()[2]
            self.assertEqual(heading.split(), ["Config", *headings.split()])
            self.assertLessEqual(len(heading), room)
        columns = [("Cell", 9), ("Speed", 6), ("BASE Ratio", 12), ("NEW Ratio", 12)]
        self.assertEqual([width for _, width in ane_bench.fitting(columns, 30)], [9, 6, 0, 0])

    def test_three_digits_where_a_figure_would_read_zero(self) -> None:
        for tops, shown in ((18.6, "18.60"), (0.123456, "0.12"), (0.00765, "0.01"),
                            (0.00312, "0.00312"), (3.1234e-5, "3.12e-5"), (1234.5, "1234.50")):
            run = made_run(("512x64x8",), ("fp16",), speeds={"fp16": tops}, spread=0)
            self.assertEqual(rows_of(run)[0].split()[-2], shown)
        for name, weights, gop in (("64x8x2", "0.016", "0.001"), ("4x4x1", "3e-5", "5.1e-7"),
                                   ("256x8x2", "0.2", "0.02"), ("16384x128x8", "4096", "70369"),
                                   ("16x4x1", "5e-4", "8.2e-6")):
            self.assertEqual(rows_of(made_run((name,), ("fp16",)))[0].split()[2:4], [weights, gop])

    def test_half_widths(self) -> None:
        for low, high, shown in ((1.99, 2.01, "±0.5%"), (1.9, 2.1, "±5.0%"),
                                 (1.8, 2.2, "±10%"), (0.0, 50, "±>10x")):
            self.assertEqual(ane_bench.half_width({"value": 2.0, "ci95": [low, high]}), shown)
        self.assertEqual(ane_bench.half_width({"value": 2.0}), "")

    def test_titles(self) -> None:
        nothing = "reference engine in plain Python, which says nothing about a Neural Engine"
        for run, title in (
                (made_run(), "M4, Mac16,1, macOS 26.4"), (made_run(system={}), "unknown chip"),
                (made_run(engine="stand-in"), "stand-in library, M4, Mac16,1, macOS 26.4"),
                (made_run(engine="reference", system={}), nothing),
                (made_run(system={"chip": "M" * 999, "model": "X"}), "M" * 40 + ", X")):
            self.assertEqual(lines_of(run)[0], f"=== ane_bench {run.version} ({title}) ===")


class LayersTest(unittest.TestCase):
    """Of shapes measured at two depths: time and rate of a layer, beside a fixed cost."""

    def block(self, run: Run, room: int = 80) -> list[str]:
        """Return the lines about layers."""
        text = Table(run, room).text()
        found = re.search(r"(?ms)^One layer.*?(?=\n\n|\Z)", text)
        return found[0].splitlines() if found else []

    def test_the_deepest_two_of_each_shape_in_each_variant(self) -> None:
        run = made_run([*RESNET[:4], "64x56x2k3", "64x64x128"], fixed_ms=0.1, spread=0)
        heading, *rows, fixed = self.block(run)
        self.assertEqual(re.split(" +", heading)[2:],
                         ["FP16", "TOPS", "W8A8", "TOPS", "Ratio", "±95%"])
        self.assertEqual([row.split() for row in rows], [
            [name, "12.43", "µs", "18.60", "6.587", "µs", "35.10", "1.89x", "±0.0%"]
            for name in ("64x56k3", "128x28k3")])
        self.assertEqual(fixed, "beside a fixed cost of 0.10 ms (FP16) and 0.10 ms (W8A8) for each "
                                "evaluate")
        report = ane_bench.report(run, "markdown")
        self.assertIn("| 128x28k3 | 12.43 µs | 18.60 | 6.587 µs | 35.10 | 1.89x | ±0.0% |", report)
        self.assertIn(f"- {fixed}\n", report)

    def test_no_layers(self) -> None:
        for run in (made_run(ORIGINAL[::2]), made_run(ORIGINAL, settings=AS_ORIGINAL),
                    made_run(RESNET[:2], measured=1)):
            self.assertEqual(self.block(run), [])
            self.assertNotIn("One layer", ane_bench.report(run, "markdown"))

    def test_three_variants_in_fewer_columns(self) -> None:
        run = made_run(RESNET[:2], ALL, fixed_ms=0.1)
        for room, headings in ((80, "One layer FP16 TOPS W8A16 TOPS Ratio W8A8 TOPS Ratio"),
                               (60, "One layer FP16 W8A16 Ratio W8A8 Ratio")):
            self.assertEqual(self.block(run, room)[0].split(), headings.split())

    def test_the_fixed_cost_from_least_to_most(self) -> None:
        run = made_run(RESNET[:4], fixed_ms=0.1, spread=0)
        for cell in run.cells[4::2]:  # FP16 of the second shape
            cell.samples_ns = [[sample + 2e4 for sample in samples] for samples in cell.samples_ns]
        self.assertIn("beside a fixed cost of 0.10 to 0.12 ms (FP16) and 0.10 ms (W8A8) for",
                      self.block(run)[-1])
        run = made_run(RESNET[:2], fixed_ms=0.0, spread=0.01)
        self.assertNotIn("fixed cost", "\n".join(self.block(run)))

    def test_a_time_that_cannot_be_told_says_so_and_what_helps(self) -> None:
        for names, depths, cure in ((("256x56x4k3", "256x56x12k3"), "4 and 12", "256x56x16,64k3"),
                                    (("64x64x1", "64x64x64"), "1 and 64", "64x64x65,260")):
            run = scattered(made_run(names, fixed_ms=100), 0.2)
            shape = ane_bench.Config.parse(names[0]).shape
            self.assertEqual(self.block(run)[1].split(), [shape, "–", "–"])
            self.assertEqual(self.block(run)[2:], [
                f"{shape}: the time of a layer in FP16 and W8A8 cannot be told from {depths} "
                f"layers; name larger depths, as in --config {cure}, or measure longer"])
            self.assertIn(f"- {self.block(run)[2]}\n", ane_bench.report(run, "markdown"))

    def test_a_variant_that_failed_is_not_said_to_be_untold(self) -> None:
        run = made_run(RESNET[:2], fixed_ms=0.1, failed=[(1, "w8a8")])
        self.assertEqual(self.block(run)[1].split(), ["64x56k3", "12.44", "µs", "18.58", "–"])
        self.assertNotIn("cannot be told", run.table())


class SustainedTest(unittest.TestCase):
    """Over rounds of 30 s and more: what became of the rate."""

    def test_a_rate_that_falls(self) -> None:
        run = long_run([18.6] * 60 + [16.4] * 60)
        (line,) = [line for line in lines_of(run) if "tenths" in line]
        self.assertEqual(line, (
            "FP16 512x64x128 over 10:00, TOPS by tenths of the time: 18.6 18.6 18.6 18.6 18.6 16.4 "
            "16.4 16.4 16.4 16.4; the last is 11.8 % ±0.0 % below the first: throttled"))
        self.assertIn(f"- {line}\n", ane_bench.report(run, "markdown"))

    def test_a_rate_that_rises_and_a_short_run(self) -> None:
        run = long_run([18.6 + 0.01 * number for number in range(120)])
        self.assertRegex(run.table(), r"; the last is 5\.8 % ±[0-9]\.[0-9] % above the first\n")
        self.assertNotIn("tenths", long_run([18.6] * 120, every_s=0.2).table())


# A run by a name, whose sentence stands in golden/sentences.txt.
ANSWERS: dict[str, Run] = {
    "the default run": with_ratios([1.88, 1.88, 1.92, 1.84, 1.88]),
    "one configuration, an exact ratio": with_ratios([2.0]),
    "slower": with_ratios([0.5, 0.5]),
    "one value instead of two that read alike": with_ratios([1.041, 1.042]),
    "no difference": with_ratios([1.0, 1.001], spread=0.01),
    "faster here, slower there": with_ratios([0.97, 1.34, 1.2]),
    "an interval from 0.38x to 20.6x": with_ratios([2.8], spread=15.0, system={}),
    "too few rounds for an interval": made_run(rounds=4),
    "two wide intervals": with_ratios([0.9, 1.1], spread=0.5, configs=ORIGINAL[::2]),
    "a cell that failed": with_ratios([2.0, 3.0], failed=[(1, "w8a8")]),
    "a baseline that failed": made_run(failed=[(0, "fp16")]),
    "FP16 against W8A8": with_ratios([2.0], variants=("w8a8", "fp16")),
    "three variants": with_ratios([2.0], variants=ALL),
    "one variant": made_run(variants=("fp16",)),
    "one variant in layers": made_run(RESNET, ("fp16",), fixed_ms=0.1),
    "W8A8 wrong": made_run(wrong=[(0, "w8a8")]),
    "1x1 and 3x3": made_run([ORIGINAL[0], KERNEL3[0]]),
    "a stand-in": made_run(engine="stand-in"),
    "the reference engine": made_run(("32x8x2", "32x8x4"), ("fp16",), engine="reference",
                                     speeds={"fp16": 4e-4}, system={}),
    "everything failed": made_run(ORIGINAL[:2], wrong=[(1, "fp16")], failed=[
        (0, "fp16"), (0, "w8a8"), (1, "w8a8")]),
    "broken off": made_run(ORIGINAL, measured=1),
    "ResNet-50's stages": scattered(made_run(RESNET, fixed_ms=0.1, speeds=dict(zip(
        PAIR, (18.0, 36.0)))), 0.0005),
    "one layer": made_run(RESNET[:2], fixed_ms=0.1),
    "layers of which one cannot be told": made_run(RESNET[:4], fixed_ms=0.1, failed=[(1, "w8a8")]),
    "layers that cannot be told": scattered(made_run(("64x56x4k3", "64x56x12k3"), fixed_ms=0.1,
                                                     speeds=dict.fromkeys(PAIR, 400.0)), 0.2),
    "a shape without a partner beside layers": made_run([*RESNET[:2], "128x28x32k3"], fixed_ms=0.1),
    "a layer faster than the chip": too_fast_deeper(),
    "a fixed cost is no gain": made_run(("64x64x4", "64x64x4k3", "256x64x8"), fixed_ms=0.09),
    "W8A8 of one layer": made_run(("512x64x1",), fixed_ms=0.3),
    "W8A8 of one layer among others": made_run(("512x64x1", "512x32x64"), fixed_ms=0.3),
    "nothing but W8A8 of one layer": made_run(("512x64x1",), ("w8a8",), fixed_ms=0.3),
    "85.9 TOPS on a chip of 38": made_run(speeds={"w8a8": 85.9}),
    "a baseline above what the chip can": made_run(speeds={"fp16": 85.9, "w8a8": 30.0}),
    "a layer with a chain below the least dispatch": made_run(("64x64x16", "64x64x160")),
    "below the least dispatch": made_run(("64x64x16",), speeds=dict.fromkeys(PAIR, 30.0)),
}
SAID = {name: ane_bench.answers(run) for name, run in ANSWERS.items()}


class AnswerTest(unittest.TestCase):
    """A sentence says what was found, made only of what is right and can be what it says."""

    maxDiff = None

    def test_the_golden_table(self) -> None:
        text = "".join(f"{name}:\n{''.join(f'  {line}{chr(10)}' for line in said)}"
                       for name, said in SAID.items())
        self.assertEqual(*golden("sentences.txt", text))

    def test_it_stands_below_the_table_and_in_markdown(self) -> None:
        for name, run in ANSWERS.items():
            with self.subTest(name):
                self.assertIn("\n\n" + "\n".join(SAID[name]) + "\n", run.table())
                items = [f"- {ane_bench.markdown_escaped(text)}\n" for text in SAID[name]]
                report = ane_bench.report(run, "markdown").partition("\n\n")[2]
                self.assertTrue(report.startswith("".join([*items, "\n"])), report[:300])

    def test_a_fixed_cost_is_not_taken_for_a_gain(self) -> None:
        self.assertRegex(SAID["a fixed cost is no gain"][0],
                         r"; at most 20\.[0-9] TOPS, partly the fixed cost of an evaluate: ask for "
                         r"layers, such as --config 64x64\.$")
        for fixed_ms, hint in ((0.5, False), (0.3, True)):  # of an M4's 0.09, a fifth is 0.45
            run = made_run(("64x64x4k3", "64x32x4"), fixed_ms=fixed_ms)
            self.assertEqual(", such as --config 64x64k3." in ane_bench.answers(run)[0], hint)

    def test_w8a8_of_one_layer_does_not_count(self) -> None:
        self.assertRegex(SAID["W8A8 of one layer"][0], r"^FP16 reaches at most [0-9.]+ TOPS on "
                                                       r"this M4, partly .* --config 512x64\.$")
        self.assertRegex(SAID["W8A8 of one layer among others"][0], " at 512x32x64[)]; [^;,]*$")
        self.assertEqual(SAID["nothing but W8A8 of one layer"], [
            "Nothing can be said of the speed on this M4; W8A8 512x64x1: a chain of one layer "
            "quantizes nothing, so choose a depth of 2 or more."])
        w8a16 = ane_bench.answers(made_run(("512x64x1",), ("fp16", "w8a16"), spread=0))[0]
        self.assertRegex(w8a16, r"^INT8 for weights alone \(W8A16\) is as fast .* no difference ")

    def test_a_wide_interval_is_no_difference_that_was_not_seen(self) -> None:
        for name in ("an interval from 0.38x to 20.6x", "two wide intervals"):
            self.assertRegex(SAID[name][0],
                             r"^INT8 \(W8A8\) may be faster or slower than FP16 on this [\w ]+, "
                             r"which cannot be told \(95 % interval [0-9.]+x to [0-9.]+x at .*\): "
                             r"close other programs, and measure longer, as with --seconds 10; ")
        for ratio, spread, words in (
                (1, 0.01, "no difference"), (1, 0.05, "cannot be told"),
                (0.985, 0.025, "cannot be told"), (1.015, 0.025, "cannot be told")):
            self.assertIn(words, ane_bench.answers(with_ratios([ratio], spread=spread))[0])

    def test_figures_that_cannot_be_are_left_out(self) -> None:
        for name, start in (
                ("85.9 TOPS on a chip of 38", r"FP16 reaches at most 18\.6 TOPS on this M4\.$"),
                ("a baseline above what the chip can", "W8A8 reaches at most 30.0 TOPS on this M"),
                ("below the least dispatch", "Nothing can be said of the speed on this M4; FP16 "
                                             "64x64x16: 0.018 ms is below the dispatch overhead"),
                ("a layer faster than the chip", r"INT8 \(W8A8\) is 1\.88x .* 2 configurations"),
                ("a layer with a chain below the least dispatch", "INT8 .* at 64x64x160")):
            self.assertRegex(SAID[name][0], f"^{start}")
        reference = made_run(("32x8x4",), engine="reference", system=M4, speeds={"w8a8": 85.9})
        self.assertRegex(ane_bench.answers(reference)[0], "^INT8 .* is 4.62x as fast as FP16")

    def test_layers(self) -> None:
        self.assertRegex(SAID["ResNet-50's stages"][0],
                         r"^A layer in INT8 \(W8A8\) is 2\.00x as fast as in FP16 on this M4 "
                         r"\((1\.99x to )?2\.0[0-9]x over 4 layers\); at most 3[56]\.[0-9] TOPS\.$")
        self.assertRegex(SAID["layers that cannot be told"][0],
                         r"TOPS, partly the fixed cost of an evaluate: name larger depths, as in "
                         r"--config 64x56x16,64k3, or measure longer\.$")
        for name in ("layers of which one cannot be told",
                     "a shape without a partner beside layers"):
            self.assertIn("over 3 configurations", SAID[name][0])

    def test_the_original_has_none(self) -> None:
        run = made_run(settings=AS_ORIGINAL)
        self.assertEqual(ane_bench.answers(run), [])
        self.assertNotIn("INT8 (", run.table() + ane_bench.report(run, "markdown"))


class FootnotesTest(unittest.TestCase):
    """Fallbacks, missing checks, and what is published of this chip."""

    def test_fallbacks(self) -> None:
        run = made_run(ORIGINAL[2:4], engine="stand-in")
        for cell in run.cells:
            cell.note(form="standard/1.0" if cell.variant == "fp16" else "original/1.3",
                      refused=["standard/1.3: no"])
        self.assertEqual(ane_bench.footnotes(run), [
            "Fallback: FP16, refused as standard/1.3, measured as standard/1.0.",
            "Fallback: W8A8, refused as standard/1.3, measured as original/1.3."])
        run = made_run(settings=Settings(form="standard/1.0"), engine="stand-in")
        for cell in run.cells:
            cell.note(form="standard/1.0")
        self.assertEqual(ane_bench.footnotes(run), [])

    def test_no_check(self) -> None:
        self.assertIn("No output was checked.", lines_of(made_run(settings=Settings(verify=0))))
        notes = ane_bench.footnotes(made_run(settings=AS_ORIGINAL))
        self.assertEqual(notes[0], "No output was checked.")

    def test_the_published_result_of_the_first_configuration_that_has_one(self) -> None:
        for run in (made_run(ORIGINAL), made_run(ORIGINAL, settings=AS_ORIGINAL)):
            self.assertEqual(ane_bench.footnotes(run)[-1], (
                "Published for M4 at 512x64x128: FP16 18.6 and W8A8 35.1 TOPS, measured as "
                "--original measures (maderix/ANE README, macOS not stated)."))
        run = made_run(("64x8x2", *ORIGINAL[2:]), system={"chip": "Apple M2 Max"})
        self.assertRegex(lines_of(run)[-1], "^Published for M2 Max at 256x64x256: FP16 13.4 and ")

    def test_nothing_published(self) -> None:
        for run in (
                *(made_run(ORIGINAL, system={"chip": chip})
                  for chip in ("Apple M9", "Stand-in", "", "Apple M4 Ultra", "Apple M5 Pro")),
                made_run(("512x32x128",)), made_run(system={}), made_run(engine="stand-in")):
            self.assertNotIn("Published", run.table())


def unescaped(text: str) -> str:
    """Return what markdown shows of a text, in which nothing may be left that it takes for its own
    signs, and outside of code nothing that GitHub takes for a user, an issue or an address."""
    parts = re.split(r"(?<!\\)`([^`]*)`", text)
    for part in parts[::2]:
        assert not re.search(r"[`*_<>\[\]~&#]", re.sub(r"\\.", "", part)), text
        assert not re.search(r"@|#[0-9]|://|www\.|GH-[0-9]", part), text
    return "".join(re.sub(r"\\(.)", r"\1", part) if place % 2 == 0 else part
                   for place, part in enumerate(parts))


class MarkdownTest(unittest.TestCase):
    """A block to paste into an issue."""

    def test_the_parts_in_order(self) -> None:
        run = made_run(variants=ALL, failed=[(0, "w8a8")])
        run.warn("battery", "the Mac runs on battery")
        title, answer, table, items, *record = ane_bench.report(run, "markdown").split("\n\n")
        self.assertEqual(unescaped(title.strip("*")),
                         f"ane_bench {run.version}: M4, Mac16,1, macOS 26.4, {run.started}")
        self.assertTrue(answer.startswith("- INT8 for weights alone (W8A16) is as fast as FP16 on"))
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")]
                          for line in table.splitlines()]
        self.assertEqual(head, ["Config", "", "W(MB)", "GOP", "ms/eval", "±95%", "TOPS", "Ratio",
                                "±95%", "Check"])
        self.assertEqual(rows[0], ["512x64x128", "FP16", "64.0", "274.88", "14.792", "±0.2%",
                                   "18.58", "", "", "ok"])
        self.assertEqual(rows[2], ["", "W8A8", "32.0", "274.88", "failed", *[""] * 5])
        found = [unescaped(line[2:]) for line in items.splitlines()]
        self.assertEqual([*found[:3], *found[4:]], [
            "python3 ane_bench.py --save run.json", "1 s, 8 pixels verified, data 2",
            f"W8A8 512x64x128 failed in stage compile: {ERROR}",
            "warning (battery) the Mac runs on battery"])
        self.assertTrue(found[3].startswith("Published for M4 at 512x64x128: FP16 18.6 and "))
        run.command = []  # called from Python
        self.assertNotIn("python3", ane_bench.report(run, "markdown"))
        self.assertEqual(record[0], "<details><summary>The record of <code>M4, Mac16,1, macOS 26.4"
                                    "</code>, for show, compare and chart.</summary>")

    def test_special_characters(self) -> None:
        error = ("a|b *c* _d_ `e` <f> [g](h) i\\j ~k~ &amp; #6 @16 `@x` x@y.z|w http://a.b www.c "
                 "GH-1")
        run = made_run(failed=[(0, "w8a8")], error=error, system={**M4, "model": "<b>@me|x"})
        run.command = ["ane_bench.py", "--save", "a`b``.json"]
        run.warn("noise", f"{run.cells[0].name}: {error}")
        report = ane_bench.report(run, "markdown")
        title, _, _, items, summary, *_ = report.split("\n\n")
        self.assertIn(", <b>@me|x, ", unescaped(title.strip("*")))
        found = [unescaped(line[2:]) for line in items.splitlines()]
        self.assertEqual(found[0], "python3 ane_bench.py --save 'a`b``.json'")
        self.assertEqual(found[2], f"W8A8 512x64x128 failed in stage compile: {error}")
        self.assertIn("<code>M4, &lt;b&gt;@me|x, macOS 26.4</code>", summary)
        row = ane_bench.rendered([(["A", "B"], [["x@y|z", "|"]])], "markdown").splitlines()[2]
        self.assertEqual(row, r"| `x@y\|z` | \| |")

    def test_code_is_set_in_code_spans(self) -> None:
        for text, shown in (
                ("-[_ANEInMemoryModel loadWithQoS:options:error:] has type B36@0:8I16@20^@28; ok",
                 r"`-[_ANEInMemoryModel loadWithQoS:options:error:]` has type "
                 r"`B36@0:8I16@20^@28;` ok"),
                ("8 methods, 3-4 [x]", r"8 methods, 3-4 \[x\]"), ("see #12.", "see `#12.`")):
            self.assertEqual(ane_bench.markdown_escaped(text), shown)
        for text in ("x" * 300_000, "-[" * 300_000):  # in a moment
            self.assertEqual(ane_bench.markdown_escaped(text).replace("\\", ""), text)


class CsvTest(unittest.TestCase):
    """One header line, one line per cell, nothing else."""

    ERROR = 'said "NO", twice; 5,5'

    def rows(self, *runs: Run) -> list[dict[str, str]]:
        """Return the lines of csv of some runs, read back."""
        text = ane_bench.show(runs, "csv")
        rows = list(csv.DictReader(io.StringIO(text)))
        self.assertEqual(len(text.splitlines()), 1 + len(rows))
        self.assertFalse([row for row in rows if None in row or None in row.values()])
        return rows

    def test_read_back(self) -> None:
        run = made_run(ORIGINAL[:2], ALL, failed=[(1, "w8a8")], wrong=[(0, "w8a16")],
                       error=self.ERROR)
        rows = self.rows(run)
        self.assertEqual([(row["config"], row["variant"]) for row in rows],
                         [(config.name, name) for config in ORIGINAL[:2] for name in ALL])
        self.assertEqual([row["check"] for row in rows], ["ok", "WRONG", "ok", "ok", "ok", ""])
        self.assertEqual([row["status"] == "failed" for row in rows],
                         [False, True, False, False, False, True])
        for row, cell in zip(rows[:5], run.cells):
            self.assertEqual([int(row[name]) for name in Config._fields], list(cell.config))
            self.assertEqual([float(row[name]) for name in ("gop", "tops", "weights_mib")],
                             [cell.config.gop, cell.tops, cell.weights_mib])
            self.assertEqual([float(row[f"ms{name}"])
                              for name in ("", "_low", "_high")],
                             [cell.ms["value"], *cell.ms["ci95"]])
            self.assertEqual(row["ratio"], str(cell.ratio["value"]) if cell.ratio else "")
            self.assertEqual(row["form"], "standard/1.3")
        self.assertEqual([rows[2]["ratio_low"], rows[2]["ratio_high"]],
                         list(map(str, run.cells[2].ratio["ci95"])))
        self.assertEqual([rows[1][name] for name in ("stage", "error")], ["verify", self.ERROR])
        self.assertEqual({rows[5][name] for name in ("ms", "tops", "ratio", "ms_low", "check",
                                                     "form")}, {""})

    def test_machines_are_told_apart(self) -> None:
        one, other = made_run(engine="stand-in", system={"chip": "X"}), made_run(
            settings=AS_ORIGINAL)
        rows = self.rows(one, other)
        self.assertEqual([row["engine"] for row in rows], ["stand-in"] * 2 + ["ane"] * 2)
        self.assertEqual([row["protocol"] for row in rows[1:3]], [
            "1 s, 8 pixels verified, data 2", "as the original measures, data 2"])
        self.assertEqual([[row[name] for name in ("chip", "model", "macos")] for row in rows[1:3]],
                         [["X", "", ""], ["Apple M4", "Mac16,1", "26.4"]])

    def test_no_text_is_computed_by_a_spreadsheet(self) -> None:
        for first in "=+-@\t":
            run = made_run(failed=[(0, "fp16")], error=f"{first}1+1")
            run.system["model"] = f"{first}cmd|' /C calc'!A0"
            row = self.rows(run)[0]
            self.assertEqual(row["model"], f"'{first}cmd|' /C calc'!A0")
            if first != "\t":  # errors are printable
                self.assertEqual(row["error"], f"'{first}1+1")
            self.assertEqual([row["stage"], row["ms"], row["chip"]], ["compile", "", "Apple M4"])


class WarningLinesTest(unittest.TestCase):
    """A line for each code, which names cells in few words."""

    def test_grouped(self) -> None:
        run = made_run(ORIGINAL)
        run.warn("busy", "other programs (load 5)")
        for cell in run.cells[:5]:
            run.warn("noise", f"{cell.name}: times changed: by 10 %")
        run.warn("depth", f"{ORIGINAL[2].name}: over 384 layers")
        names = [cell.name for cell in run.cells]
        self.assertEqual(ane_bench.grouped_warnings(run), [
            "warning (busy) other programs (load 5)",
            f"warning (noise) {names[0]}: times changed: by 10 % (also {', '.join(names[1:4])} and "
            "1 more)", "warning (depth) 256x64x256: over 384 layers"])


class SentTest(support.DirectoryCase):
    """A record in a text: pasted, quoted, among others, damaged, too large."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "thread.txt"
        self.complaints: list[str] = []

    def read(self, text: str) -> list[dict[str, Any]]:
        """Return the records that are read of a text."""
        self.path.write_bytes(text.encode())
        self.complaints.clear()
        found = ane_bench.read_records(str(self.path), self.complaints.append)
        return [json.loads(json.dumps(run.to_dict())) for run in found]

    def test_a_pasted_comment_read_back_equals_the_record(self) -> None:
        run = made_run(ORIGINAL, ALL, failed=[(2, "w8a8")])
        report, record = ane_bench.report(run, "markdown"), json.loads(json.dumps(run.to_dict()))
        self.assertTrue(all(len(line) <= 76 for line in report.split("```")[1].splitlines()))
        for text in (report, report.replace("\n", "\r\n"), re.sub("(?m)^", "> ", report),
                     re.sub("(?m)^", ">", report), re.sub("(?m)^", "> > ", report),
                     re.sub("(?m)^", "    ", report), re.sub("(?m)$", "  ", report),
                     "\ufeff" + report, f"Hello\n\n{report}\nThanks!\n", f"[link]\n{report}"):
            self.assertEqual(self.read(text), [record])
            self.assertEqual(self.complaints, [])

    def test_a_record_and_a_list_of_records(self) -> None:
        runs = [made_run(system={**M4, "chip": f"Apple M{number}"}) for number in range(1, 9)]
        records = [json.loads(json.dumps(run.to_dict())) for run in runs]
        self.assertEqual(self.read(ane_bench.show(runs[:1], "json")), records[:1])
        self.assertEqual(self.read(ane_bench.show(runs, "json")), records)
        self.assertEqual(self.read("\n".join(
            f"**user{number}** commented\n\n{ane_bench.report(run, 'markdown')}"
            for number, run in enumerate(runs))), records)
        self.assertEqual(self.read(ane_bench.show(runs, "markdown")), records)

    def test_damaged_blocks_are_named_and_left_out(self) -> None:
        good = ane_bench.report(made_run(), "markdown")
        record = json.dumps(made_run().to_dict()).encode()
        compressed = [zlib.compress(record)[:-cut] for cut in (2, 20)]
        damaged = (
            good.replace("eN", "e\u2026", 1), good[: len(good) // 2],
            "```ane-bench-record\n```", block_of(b"{}"), block_of(b"[]"),
            block_of(record.replace(b'"ok"', b'"fine"')), block_of(record[:-2]),
            block_of(record.replace(b"[[", b"[[[")),
            re.sub(r"(?m)^(.{70}).{3}(.{3})$", r"\1AAA\2", good, count=1),
            "```ane-bench-record\n!!!\n```",
            *(f"```ane-bench-record\n{base64.b64encode(data).decode()}\n```"
              for data in compressed))
        for text in damaged:
            with self.subTest(text[-80:]):
                self.assertEqual(len(self.read(f"{good}\n{text}\n\n{good}")), 2)
                (complaint,) = self.complaints
                self.assertRegex(complaint, r"\A\S+thread\.txt: block 2 of 3 is damaged and left "
                                            r"out: [^\n]+\Z")
                with self.assertRaisesRegex(ane_bench.UsageError, "every record in it is damaged"):
                    self.read(text)

    def test_no_record(self) -> None:
        for text in ("", "Hello", "# A table\n| a |\n", "[", "[1]", "[]", "{"):
            with self.assertRaisesRegex(ane_bench.UsageError, r"thread\.txt: .*ane-bench/2"):
                self.read(text)

    def test_what_does_not_fit_into_a_comment_is_condensed(self) -> None:
        run = scattered(made_run(ORIGINAL, each=500))
        report = ane_bench.report(run, "markdown")
        self.assertLessEqual(len(report), 65_536)
        self.path.write_text(report)
        (kept,) = ane_bench.read_records(str(self.path), self.fail)
        for cell, whole in zip(kept.cells, run.cells):
            self.assertEqual((cell.condensed, cell.ms["ci95"]), (True, whole.ms["ci95"]))
            self.assertEqual(cell.samples_ns,
                             [[statistics.median(samples)] for samples in whole.samples_ns])

    def test_the_originals_means_stay_when_condensed(self) -> None:
        run = made_run(settings=AS_ORIGINAL)
        run.cells[0].samples_ns = [[1e6] * 49 + [51e6]]
        self.assertAlmostEqual(ane_bench.condensed(run).cells[0].milliseconds or 0, 2.0)


class ShowTest(unittest.TestCase):
    """Saved records again: several side by side, and what was measured in other ways apart."""

    def titles(self, *runs: Run) -> dict[str, None]:
        """Return how the runs of each group measured."""
        return dict.fromkeys(re.findall(r"(?m)^[0-9]+x\S+, (.*, TOPS, Ratio to .*)$",
                                        ane_bench.show(runs, "table")))

    def blocks(self, text: str) -> dict[str, list[str]]:
        """Return the rows of each configuration's block."""
        found = re.findall(r"(?m)^(\S+), .*, TOPS, Ratio .*\n\n.*\n-+\n((?:.+\n)+)", text)
        return {name: rows.splitlines() for name, rows in found}

    def test_a_row_for_each_machine_below_each_configuration(self) -> None:
        shown = ane_bench.show(ten_macs(), "table")
        blocks = self.blocks(shown)
        self.assertEqual(list(blocks), [config.name for config in ORIGINAL])
        names = ["M1, MacBookPro17,1, macOS 15.7.3", "M2 Max, Mac14,6, macOS 26.4",
                 "M3, Mac15,3, macOS 26.3.1", "M4, Mac16,12, macOS 26.4",
                 "M4, Mac16,1, macOS 26.4, 2026-03-06", "M4, Mac16,1, macOS 26.4, 2026-03-10",
                 "M4 Pro, Mac16,11, macOS 26.2", "M5, Mac17,2, macOS 26.4",
                 "M5 Max, Mac17,7, macOS 26.4.1", "M10, Mac30,1, macOS 31.0"]
        for rows in blocks.values():
            self.assertEqual([re.split(r" +[0-9]+\.[0-9]{2} ", row)[0] for row in rows], names)
        self.assertRegex(blocks["384x64x128"][7], r" +18\.[12][0-9] +failed +ok$")
        self.assertRegex(blocks["256x64x128"][2], r" +18\.[0-9]+ +18\.[0-9]+ +WRONG$")
        self.assertRegex(blocks["512x64x128"][3],
                         r" +18\.2[0-9] +34\.[45][0-9] +1\.89x +±0\.[0-9]% +ok$")
        for name in names:
            self.assertEqual(len(re.findall(f"(?m)^{re.escape(name)}: .* TOPS\\.", shown)), 1)
        self.assertIn(f"{names[0]}; {names[3]}: warning (battery) the Mac runs on battery; "
                      "connect it to power\n", shown)
        self.assertIn(f"{names[7]}: W8A8 384x64x128 failed in stage compile: ", shown)

    def test_markdown_holds_the_records(self) -> None:
        runs = ten_macs()
        report = ane_bench.show(runs, "markdown")
        self.assertLessEqual(len(report), 65_536)
        with tempfile.TemporaryDirectory() as directory:
            path = written(Path(directory) / "thread.md", f"> Hello\n\n{report}\n\n{report}")
            back = ane_bench.read_records(path, self.fail)
        self.assertEqual(len(back), 20)
        self.assertEqual(ane_bench.show(ane_bench.unique(back), "table"),
                         ane_bench.show(runs, "table"))
        self.assertEqual(report.count("<details>"), 10)
        for line in without_records(report).splitlines():
            if not line.startswith(("<", "```", "|")):
                unescaped(re.sub(r"^\*\*|\*\*$", "", line))

    def test_a_record_that_stands_twice_is_shown_and_drawn_once(self) -> None:
        run, other = made_run(), made_run(ORIGINAL[1:2])
        run.warn("busy", "other programs")
        with tempfile.TemporaryDirectory() as directory:
            one, two = (written(Path(directory) / f"{number}.json", record)
                        for number, record in enumerate((run, other)))
            self.assertEqual(command("show", one, one), command("show", one))
            for form in ("table", "csv", "markdown", "json"):
                self.assertEqual(command("show", one, two, one, "--format", form).output,
                                 ane_bench.show([run, other], form))
            drawing = Path(directory) / "both.svg"
            command("chart", one, two, one, "-o", str(drawing))
            self.assertEqual(drawing.read_text(), ane_bench.chart([run, other]))

    def test_what_is_measured_in_other_ways_stands_apart(self) -> None:
        self.assertEqual(len(self.titles(made_run(), made_run(
            system={**M4, "chip": "Apple M5"}, settings=Settings(seed=7, timeout=9)))), 1)
        self.assertEqual(len(ane_bench.groups_of([made_run(), made_run(variants=ALL)])), 2)
        newer, revised = made_run(), made_run()
        newer.version, revised.data = "9.9.9", 9
        for other, words in (
                (newer, "1 s, 8 pixels verified, data 2, ane_bench 9.9.9, TOPS, Ratio to FP16"),
                (revised, "1 s, 8 pixels verified, data 9, ane_bench"),
                (made_run(engine="stand-in"), "pixels verified, data 2, stand-in engine, ane_"),
                (made_run(engine="reference"), "verified, data 2, reference engine, ane_bench"),
                (made_run(settings=AS_ORIGINAL), "as the original measures"),
                (made_run(settings=Settings(seconds=60)), "60 s, 8 pixels verified"),
                (made_run(settings=Settings(verify=0)), "1 s, no pixels verified"),
                (made_run(settings=Settings(qos=9)), "1 s, 8 pixels verified, qos 9"),
                (made_run(settings=Settings(form="standard/1.0")), "verified, form standard/1.0"),
                (made_run(variants=("w8a8", "fp16")), "TOPS, Ratio to W8A8")):
            titles = self.titles(made_run(), other)
            self.assertEqual(len(titles), 2)
            self.assertIn(words, "\n".join(titles))
            self.assertEqual([len(group) for _, group in ane_bench.groups_of([other, other])], [2])

    def test_machines_are_sorted_by_chip_then_by_date(self) -> None:
        runs = []
        for chip, started in (("M10", "2026-01"), ("M2 Max", "2026-03"), ("M2", "2026-02"),
                              ("M2 Max", "2026-01"), ("M1", "2026-09"), ("\u0663", "2026-01")):
            runs.append(made_run(variants=("fp16",), system={"chip": f"Apple {chip}"}))
            runs[-1].started = f"{started}-01T00:00:00+00:00"
        (rows,) = self.blocks(ane_bench.show(runs, "table")).values()
        self.assertEqual([re.split(r" +[0-9]+\.[0-9]{2} ", row)[0] for row in rows], [
            "\u0663", "M1", "M2", "M2 Max, 2026-01-01", "M2 Max, 2026-03-01", "M10"])

    def test_machine_names(self) -> None:
        runs = [made_run() for _ in range(4)]
        runs[1].started, runs[3].started = "2026-01-02T09:00:00+00:00", "2026-01-03T09:00:00+00:00"
        runs[2].system["model"] = "Mac16,12"
        self.assertEqual(ane_bench.machine_names(runs), [
            "M4, Mac16,1, macOS 26.4, 2026-01-02T03:04:05",
            "M4, Mac16,1, macOS 26.4, 2026-01-02T09:00:00", "M4, Mac16,12, macOS 26.4",
            "M4, Mac16,1, macOS 26.4, 2026-01-03"])

    def test_narrow_terminals(self) -> None:
        runs = [*ten_macs(), made_run(ORIGINAL[:1], ALL)]
        runs[-1].system["model"] = "MacBookPro18,18, with a name as long as they get"
        for room, count, told in ((80, 10, True), (60, 10, False), (60, 11, False)):
            text = ane_bench.show(runs[:count], "table", room)
            for rows in re.findall(r"Ratio to FP16\n\n((?:.+\n)+)", text):
                self.assertLessEqual(max(map(len, rows.splitlines()[:2])), room)
                self.assertLessEqual(max(len(row) for row in rows.splitlines()
                                         if row.endswith("ok")), room)
            self.assertEqual("±95%" in text, told)

    def test_machines_that_did_not_measure_a_configuration_have_no_row(self) -> None:
        runs = [made_run(ORIGINAL[:2]), made_run(ORIGINAL[1:3], system={"chip": "Apple M5"})]
        blocks = self.blocks(ane_bench.show(runs, "table"))
        self.assertEqual([[row[:2] for row in rows] for rows in blocks.values()],
                         [["M4"], ["M4", "M5"], ["M5"]])

    def test_one_is_shown_as_it_was_printed(self) -> None:
        run = made_run()
        run.warn("busy", "other programs")
        for form in ("table", "markdown", "csv", "json"):
            self.assertEqual(ane_bench.show([run], form), ane_bench.report(run, form))
        with tempfile.TemporaryDirectory() as directory:
            done = command("show", written(Path(directory) / "run.json", run))
        self.assertEqual((done.output, done.errors),
                         (run.table(), "ane_bench: warning (busy) other programs\n"))


if __name__ == "__main__":
    unittest.main()
