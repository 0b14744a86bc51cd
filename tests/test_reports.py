"""Section 14: tables, answers, notes, markdown and csv of a run, and records that are sent in texts.

ANE_BENCH_GOLDEN=write writes the files in golden/ anew; they are to be looked at before they are committed.
"""

import base64
import csv
import io
import itertools
import json
import re
import statistics
import tempfile
import unittest
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ane_bench
from ane_bench import Config, Run, Settings, read_record
from tests import support
from tests.runs import (
    ALL,
    AS_ORIGINAL,
    ERROR,
    KERNEL3,
    M4,
    ORIGINAL,
    PAIR,
    block_of,
    command,
    golden,
    made_run,
    sweep,
    varying_facts,
    written,
)

# A run that takes no time, whose clock shows what it is told to.
EXACT: Mapping[str, Any] = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a16:1600,w8a8:1000"}
UNCHECKED = ("--verify", "0", "--iters", "10", "--rounds", "5", "--warmup", "1", "--quiet")
# An engine with the published rates of an M4, a fixed cost of 0.11 ms, and times that scatter a little.
LIKE_M4: Mapping[str, Any] = {
    "CLOCK": "virtual",
    "SPEED": "fp16:110+18.8,w8a8:110+36.2",
    "NOISE": "random:0.002",
    "SYSCTL": "machdep.cpu.brand_string=Apple M4;kern.osproductversion=26.4",
}


def lines_of(run: Run) -> list[str]:
    """Return the lines of a run's table."""
    return run.table().splitlines()


def rows_of(run: Run) -> list[str]:
    """Return the rows of a run's table."""
    return [line for line in lines_of(run) if re.match(r"(FP16|W8A8|W8A16) +(conv|[0-9])", line)]


def below(run: Run) -> list[str]:
    """Return the lines below the rows of a run's table."""
    return [line for line in run.table().rpartition("\n\nINT8")[2].splitlines() if line]


class GoldenTest(support.StandinCase):
    """The whole output of a run, in every format, as it stands in golden/."""

    maxDiff = None

    def test_a_run_in_every_format(self) -> None:
        path = self.directory / "run.json"
        run = ("--config", "64x64x4", "--config", "64x64x16", "--warmup", "10", "--quiet", "--save", str(path))
        self.module = support.MODULE
        for printed in ("table", "markdown"):
            finished = self.run_standin(*run, "--format", printed, **LIKE_M4)
            self.assertEqual((finished.code, finished.errors), (0, ""))
            self.assertEqual(command("show", str(path), "--format", printed).output, finished.output)
        for form, name in (("table", "run.txt"), ("markdown", "run.md"), ("csv", "run.csv"), ("json", "run.json")):
            output = command("show", str(path), "--format", form).output
            if form == "markdown":
                output = re.sub(r"(```ane-bench-record\n)[^`]*", r"\1…\n", output)
            if form == "csv":
                output = re.sub(r"^((?:[^,]*,){19})[0-9.]+,[0-9.]+,", r"\1…,…,", output, flags=re.MULTILINE)
            self.assertEqual(*golden(name, varying_facts(output)))

    def test_the_original(self) -> None:
        run = ("--config", "512x64x128", "--config", "256x64x8", "--original")
        finished = self.run_standin(*run, **{**LIKE_M4, "COMPUTE": "none"})
        self.assertEqual(finished.code, 0)
        self.assertEqual(*golden("original.txt", varying_facts(finished.output)))

    def test_records_of_eight_chips_in_one_table(self) -> None:
        speeds = {
            "M1": (10.88, 10.66),
            "M2 Max": (16.31, 16.36),
            "M3": (18.6, 18.6),
            "M4": (18.6, 35.1),
            "M4 Pro": (18.5, 34.9),
            "M5": (18.22, 34.22),
            "M5 Max": (19.27, 35.61),
            "M10": (40, 41),
        }
        thread: list[str] = []
        gop = Config(256, 64, 64).gop
        for chip, (fp16, w8a8) in reversed(speeds.items()):
            finished = self.run_standin(
                "--config",
                "256x64x64",
                *UNCHECKED,
                "--format",
                "markdown",
                COMPUTE="none",
                CLOCK="virtual",
                LATENCY=f"fp16:{gop / fp16 * 1e3:.0f},w8a8:{gop / w8a8 * 1e3:.0f}",
                NOISE="random:0.002",
                SYSCTL=f"machdep.cpu.brand_string=Apple {chip};kern.osproductversion=26.{len(thread)}",
            )
            self.assertEqual(finished.code, 0, finished.errors)
            thread.append(finished.output)
        path = self.directory / "thread.txt"
        path.write_text(
            "\n> A quoted line.\n\n".join(re.sub(r"^- warning.*\n", "", text, flags=re.M) for text in thread)
        )
        shown = re.sub(r"^M.*: warning \(busy\).*\n", "", command("show", str(path)).output, flags=re.MULTILINE)
        self.assertEqual(*golden("eight-chips.txt", re.sub("20[0-9-]{8}", "STARTED...", varying_facts(shown))))
        self.assertEqual([line.split(",")[0] for line in shown.splitlines() if re.match("M.*FP16", line)], list(speeds))
        compared = command("compare", str(path)).output
        self.assertEqual(
            len(re.findall(r"^(?:FP16|W8A8) .*?(?: +[0-9.]+ TOPS [0-9.]+x){8}$", compared, re.MULTILINE)), 2
        )
        self.assertEqual(len(re.findall(r"^W8A8 .* Ratio(?: +[0-9.]+x){8}$", compared, re.MULTILINE)), 1)
        arrays = json.loads(command("show", str(path), "--format", "json").output)
        self.assertEqual(
            [record["system"]["chip"] for record in arrays], [f"Apple {chip}" for chip in reversed(speeds)]
        )


class TableTest(unittest.TestCase):
    """The original's columns, then the module's own, in 80 columns."""

    def test_the_originals_table_to_the_character(self) -> None:
        text = support.shared("original", "README.md").read_text()
        title, headings, rule, *samples = [line[4:] for line in text.splitlines() if re.match(" {4}[^ (]", line)][:5]
        lines = lines_of(made_run(ORIGINAL, settings=AS_ORIGINAL, speeds={"fp16": 30, "w8a8": 60}))
        self.assertEqual(lines[:4], [title, "", headings, rule])
        for sample, line in zip(samples, lines[4:6]):
            place = sample.index("#.###")
            self.assertEqual(line[:place] + re.sub("[0-9]", "#", line[place:]), sample)
        self.assertEqual([index for index, line in enumerate(lines) if not line], [1, 6, 9, 12, 15, 18])
        self.assertEqual(lines[19:], ["=== Done ==="])

    def test_a_stage_that_fails_under_the_original_is_reported_as_in_every_run(self) -> None:
        run = made_run(settings=AS_ORIGINAL, failed=[(0, "w8a8")])
        self.assertEqual(
            lines_of(run)[5:], [f"W8A8 128x conv 512ch 64x64: failed in stage compile: {ERROR}", "", "=== Done ==="]
        )
        self.assertEqual(
            lines_of(made_run(ORIGINAL, settings=AS_ORIGINAL, measured=2))[-1], "=== 2 of 5 configurations ==="
        )

    def test_eighty_columns_for_the_defaults_and_every_sweep(self) -> None:
        sweeps = [
            sweep((64, 1024), (8, 64, 128), (1, 256)),
            sweep((64,), (32, 64, 128)),
            sweep(depth=(1, 2, 512)),
            sweep((64, 1024), kernel=(1, 3)),
            sweep((16384,), (8, 16, 32), (1,)),
            sweep((4,), (8,), (1, 2, 3)),
        ]
        for configs, variants in itertools.product((ORIGINAL, KERNEL3, (*ORIGINAL, *KERNEL3), *sweeps), (PAIR, ALL)):
            for spread, speed in ((0.002, 1.0), (0.4, 1e-3), (1e-9, 1e-6), (3, 1e3)):
                run = made_run(configs, variants, spread=spread, speeds=dict.fromkeys(variants, 19 * speed))
                for cell in run.cells:
                    run.warn("drift", f"{cell.name}: times changed")
                lines = lines_of(run)
                top = next(index for index, line in enumerate(lines) if line.startswith("Config"))
                for heading in ("W(MB)", "GOP", "ms/eval", "±95%", "TOPS", "Ratio", "±95%", "Check"):
                    self.assertIn(f" {heading}", lines[top])
                self.assertEqual(len(lines[top]), len(lines[top + 1]))
                for line in (lines[top], *rows_of(run)):
                    self.assertLessEqual(len(line), 80, line)
                figures = [line for line in lines if line.endswith("ok*")]
                self.assertEqual(len(figures), len(run.cells))
                for line in figures:
                    self.assertLessEqual(len(line), 80, line)
                    self.assertRegex(line, r" +[^ ]+ +[^ ]+ +[^ ]+ +±[^ ]+ +[^ ]+ +([^ ]+x +±[^ ]+ +|– +)?ok\*$")
                    self.assertNotRegex(line, r" 0\.0+ ")

    def test_the_manuals_sample_has_these_columns(self) -> None:
        heading, *rows = re.findall("^ ((?:Config|FP16|W8A8) .*)$", ane_bench.__doc__ or "", re.MULTILINE)
        own = lines_of(made_run(spread=0.0005))
        self.assertEqual(heading, own[2])
        self.assertEqual([re.sub("[0-9]", "#", row) for row in rows], [re.sub("[0-9]", "#", row) for row in own[4:6]])

    def test_narrow_terminals_lose_what_the_configuration_tells(self) -> None:
        run = made_run(ORIGINAL)
        for columns, headings in (
            (200, "W(MB) GOP ms/eval ±95% TOPS Ratio ±95% Check"),
            (80, "W(MB) GOP ms/eval ±95% TOPS Ratio ±95% Check"),
            (72, "GOP ms/eval ±95% TOPS Ratio ±95% Check"),
            (60, "ms/eval ±95% TOPS Ratio Check"),
            (50, "ms/eval TOPS Ratio Check"),
        ):
            lines = ane_bench.Table(run, columns).head().splitlines()
            self.assertEqual(lines[2].split(), ["Config", *headings.split()])
            self.assertTrue(columns < 60 or len(lines[2]) <= columns)

    def test_texts_stand_below_their_headings(self) -> None:
        for spread, slow in ((0.002, 1.0), (0.4, 1.0), (0.002, 12.0)):
            run = made_run(speeds={"fp16": 18.6 / slow, "w8a8": 35.1}, spread=spread)
            headings, (first, second) = lines_of(run)[2], rows_of(run)
            for heading, shown in (
                ("GOP", "274.88"),
                ("ms/eval", "[0-9.]+"),
                ("±95%", "±[0-9.]+%"),
                ("TOPS", "[0-9.]+"),
                ("Check", "ok"),
            ):
                end = headings.index(heading) + len(heading)
                for row in (first, second):
                    self.assertRegex(row[:end], f" {shown}$")
            end = headings.index("Ratio") + len("Ratio")
            self.assertTrue(first[:end].endswith("     "))
            self.assertRegex(second[:end], r" [0-9.]+x$")

    def test_three_digits_where_a_figure_would_read_zero(self) -> None:
        for tops, shown in (
            (18.6, "18.60"),
            (0.123456, "0.12"),
            (0.00765, "0.01"),
            (0.00312, "0.00312"),
            (3.1234e-5, "3.12e-5"),
            (1234.5, "1234.50"),
        ):
            row = rows_of(made_run([Config(512, 64, 8)], ("fp16",), speeds={"fp16": tops}, spread=0))[0]
            self.assertEqual(row.split()[-2], shown)
        for name, weights, gop in (
            ("64x8x2", "0.016", "0.001"),
            ("4x4x1", "3e-5", "5.1e-7"),
            ("16384x128x8", "4096", "70369"),
        ):
            self.assertEqual(rows_of(made_run([Config.parse(name)], ("fp16",)))[0].split()[5:7], [weights, gop])

    def test_a_failed_row(self) -> None:
        run = made_run(failed=[(0, "w8a8")])
        self.assertEqual(
            rows_of(run), [rows_of(made_run())[0], f"W8A8 128x conv 512ch 64x64: failed in stage compile: {ERROR}"]
        )

    def test_a_row_of_wrong_output_keeps_its_figures_and_has_no_ratio(self) -> None:
        right, lines = rows_of(made_run()), lines_of(made_run(wrong=[(0, "w8a8")]))
        self.assertEqual(lines[4], right[0])
        self.assertEqual(lines[5].split(), [*right[1].split()[:10], "–", "WRONG"])
        self.assertEqual(lines[6], f"     failed in stage verify: {ERROR}")
        self.assertEqual(rows_of(made_run(wrong=[(0, "fp16")]))[1].split(), [*right[1].split()[:10], "–", "ok"])

    def test_a_star_marks_what_a_warning_names(self) -> None:
        run = made_run(ORIGINAL[:2])
        run.warn("busy", "other programs keep this machine busy")
        run.warn("drift", f"{run.cells[3].name}: times changed")
        self.assertEqual([row.endswith("ok*") for row in rows_of(run)], [False, False, False, True])
        self.assertEqual(ane_bench.markdown(run).count("ok\\* |"), 1)

    def test_titles(self) -> None:
        version = ane_bench.__version__
        for run, title in (
            (made_run(), "M4, h16g, macOS 26.4"),
            (made_run(system={}), "unknown chip, unknown"),
            (made_run(system={**M4, "ane_architecture": "h16"}), "M4, h16, macOS 26.4"),
            (made_run(engine="stand-in"), "stand-in library, M4, h16g, macOS 26.4"),
            (
                made_run(engine="reference"),
                "reference engine in plain Python, which says nothing about a Neural Engine",
            ),
            (made_run(system={"chip": "M" * 999}), "M" * 40 + ", unknown"),
        ):
            self.assertEqual(lines_of(run)[0], f"=== ane_bench {version} ({title}) ===")


class SweepTest(support.StandinCase):
    """A sweep says first what stays the same, and names rows by what varies."""

    def labels(self, run: Run) -> tuple[str, list[str]]:
        """Return the line about what all share, and the names of the rows of the first variant."""
        lines = lines_of(run)
        return lines[2], [re.split(" {2,}(?=[0-9])", row)[0] for row in rows_of(run) if row.startswith("FP16")]

    def test_what_varies(self) -> None:
        for configs, common, first, last in (
            (sweep((64, 32), (8, 16), (2,)), "All: 2x conv", "FP16 64ch 8x8", "FP16 32ch 16x16"),
            (sweep((64,), (8,), (1, 2, 3)), "All: 64ch 8x8", "FP16 1x conv", "FP16 3x conv"),
            (sweep((64,), (8, 16, 32), (4,), (3,)), "All: 4x conv3x3 64ch", "FP16 8x8", "FP16 32x32"),
            (sweep((64, 128), (8,), (4,), (1, 3)), "All: 64ch", "", ""),
        ):
            run = made_run(configs)
            if first:
                self.assertEqual(
                    (lambda found: (found[0], found[1][0], found[1][-1]))(self.labels(run)), (common, first, last)
                )
            self.assertIn(f"- {ane_bench.markdown_escaped(lines_of(run)[2])}", ane_bench.markdown(run).splitlines())

    def test_whole_names_in_other_runs(self) -> None:
        for configs in (
            ORIGINAL,
            ORIGINAL[:1],
            ORIGINAL[:2],
            sweep(depth=(1, 2)),
            sweep((16, 32), (8, 4), (1, 2)),
            KERNEL3,
        ):
            run = made_run(configs)
            self.assertEqual(self.labels(run)[1], [f"FP16 {config.label()}" for config in configs])
            self.assertNotIn("All:", run.table())

    def test_from_the_command_line(self) -> None:
        lists = ("--channels", "64", "--spatial", "8", "--depth", "1,2,3", "--variants", "fp16,w8a16")
        lines = self.run_standin(*lists, *UNCHECKED, **EXACT).output.splitlines()
        self.assertEqual(lines[2], "All: 64ch 8x8")
        self.assertEqual(
            [line[:13].rstrip() for line in lines if re.match("FP16|W8A", line)],
            [f"{name} {depth}x conv" for depth in (1, 2, 3) for name in ("FP16", "W8A16")],
        )


def with_ratios(ratios: Sequence[float], spread: float = 0.0, **options: Any) -> Run:
    """Return a run in which W8A8 has these ratios, exactly, unless rounds differ by `spread` of the time."""
    run = made_run([config for config, _ in zip(ORIGINAL, ratios)], **options)
    for (_, cells), ratio in zip(run.results, ratios):
        cells[0].samples_ns = [[1e7] * 2 for _ in range(run.settings.rounds)]
        cells[-1].samples_ns = [
            [1e7 / ratio * (1 + spread * (number % 2))] * 2 for number in range(run.settings.rounds)
        ]
        cells[-1].turns = [number // 2 % 2 for number in range(run.settings.rounds)]
        cells[0].turns = [1 - turn for turn in cells[-1].turns]
    return run


FEW = Settings(iters=8, rounds=4)
# A run, and what is said of it below the table.
ANSWERS: Sequence[tuple[Run, str]] = (
    (
        with_ratios([1.88, 1.88, 1.92, 1.84, 1.88]),
        "INT8 (W8A8) is 1.88x as fast as FP16 on this M4 (1.84x to 1.92x over 5 configurations); at most 51.7 TOPS.",
    ),
    (
        with_ratios([2.0]),
        "INT8 (W8A8) is 2.00x as fast as FP16 on this M4 (95 % interval 2.00x to 2.00x at 128x conv 512ch "
        "64x64); at most 55.0 TOPS.",
    ),
    (
        with_ratios([0.5, 0.5]),
        "INT8 (W8A8) is 0.50x as fast as FP16 on this M4 (0.50x to 0.50x over 2 configurations); at most 27.5 TOPS.",
    ),
    (
        with_ratios([1.0, 1.001], spread=0.05),
        "No difference in speed between INT8 (W8A8) and FP16 was seen on this M4 (0.98x to "
        "0.98x over 2 configurations); at most 27.5 TOPS.",
    ),
    (
        with_ratios([0.97, 1.34, 1.2]),
        "Whether INT8 (W8A8) is faster than FP16 on this M4 depends on the configuration: slower at 128x conv 512ch "
        "64x64, faster at 64x conv 512ch 64x64, 256x conv 256ch 64x64, from 0.97x to 1.34x; at most 27.5 TOPS.",
    ),
    (
        with_ratios([1.5], settings=FEW),
        "INT8 (W8A8) is 1.50x as fast as FP16 on this M4 (at 128x conv 512ch 64x64; an interval takes "
        "5 rounds); at most 41.2 TOPS.",
    ),
    (
        with_ratios([2.0, 3.0], failed=[(1, "w8a8")]),
        "INT8 (W8A8) is 2.00x as fast as FP16 on this M4 (95 % interval 2.00x to 2.00x at 128x conv 512ch "
        "64x64); at most 55.0 TOPS.",
    ),
    (
        with_ratios([2.0], variants=("w8a8", "fp16")),
        "FP16 is 2.00x as fast as W8A8 on this M4 (95 % interval 2.00x to 2.00x at 128x conv 512ch 64x64); at "
        "most 55.0 TOPS.",
    ),
    (
        with_ratios([2.0], variants=("fp16", "w8a16")),
        "INT8 for weights alone (W8A16) is 2.00x as fast as FP16 on this M4 (95 % "
        "interval 2.00x to 2.00x at 128x conv 512ch 64x64); at most 55.0 TOPS.",
    ),
    (
        with_ratios([2.0], variants=ALL),
        "INT8 (W8A8) is 2.00x as fast as FP16 on this M4 (95 % interval 2.00x to 2.00x at 128x conv 512ch "
        "64x64); at most 55.0 TOPS.",
    ),
    (made_run(variants=("fp16",)), "FP16 reaches at most 18.6 TOPS on this M4."),
    (made_run(wrong=[(0, "w8a8")]), "FP16 reaches at most 18.6 TOPS on this M4; every W8A8 cell failed."),
    (
        made_run(KERNEL3),
        "INT8 (W8A8) is 1.89x as fast as FP16 on this M4 with 3x3 convolutions (1.89x to 1.89x over 2 "
        "configurations); at most 35.1 TOPS.",
    ),
    (
        made_run(engine="stand-in"),
        "INT8 (W8A8) is 1.89x as fast as FP16 on this stand-in library (95 % interval 1.89x to 1.89x at 128x "
        "conv 512ch "
        "64x64); at most 35.1 TOPS.",
    ),
    (
        made_run(engine="reference", variants=("fp16",), speeds={"fp16": 4e-4}, system={}),
        "FP16 reaches at most 0.000400 TOPS in plain Python, which says nothing about a Neural Engine.",
    ),
    (
        made_run(ORIGINAL[:2], failed=[(0, "fp16"), (0, "w8a8"), (1, "w8a8")], wrong=[(1, "fp16")]),
        "All 4 cells failed on this M4, most often in stage compile (com.apple.appleneuralengine 9: no). See what this "
        "Mac has: python3 ane_bench.py doctor",
    ),
    (
        made_run(variants=("w8a8",), failed=[(0, "w8a8")], engine="reference"),
        "The only cell failed in plain Python, which says "
        "nothing about a Neural Engine, most often in stage compile (com.apple.appleneuralengine 9: no).",
    ),
    (
        made_run(ORIGINAL, measured=1),
        "INT8 (W8A8) is 1.89x as fast as FP16 on this M4 (95 % interval 1.89x to 1.89x at 128x conv 512ch 64x64); at "
        "most 35.1 TOPS.\nThe run was broken off: 1 of 5 configurations.",
    ),
    (
        made_run([ORIGINAL[0], KERNEL3[0]]),
        "INT8 (W8A8) is 1.89x as fast as FP16 on this M4 (95 % interval 1.89x to 1.89x at 128x conv 512ch "
        "64x64); at most 35.1 "
        "TOPS.\n"
        "INT8 (W8A8) is 1.89x as fast as FP16 on this M4 with 3x3 convolutions (95 % interval 1.89x to 1.89x at "
        "32x conv3x3 256ch "
        "64x64); at most 35.1 TOPS.",
    ),
)


class AnswerTest(unittest.TestCase):
    """One sentence says what was found, whatever was measured."""

    def test_answers(self) -> None:
        for run, expected in ANSWERS:
            with self.subTest(expected):
                self.assertEqual(run.table().split("\n\n")[1 + len(run.results)].strip(), expected)
                report = ane_bench.markdown(run).replace("\\", "").split("\n\n")
                self.assertEqual("\n".join(report[1 : 1 + len(expected.splitlines())]), expected)

    def test_a_run_that_fails_everywhere_ends_with_the_doctor(self) -> None:
        run = made_run(failed=[(0, "fp16"), (0, "w8a8")])
        self.assertTrue(run.table().endswith("See what this Mac has: python3 ane_bench.py doctor\n"))

    def test_the_original_has_none(self) -> None:
        run = made_run(settings=AS_ORIGINAL)
        self.assertNotIn("INT8 (", run.table() + ane_bench.markdown(run))


class FallbackTest(support.StandinCase):
    """A program that is refused is tried again, and that is said wherever its figures are."""

    TWO = ("--config", "64x8x2", "--config", "32x8x2")

    def test_fallbacks_stand_below_the_table_and_in_the_record(self) -> None:
        path = self.directory / "run.json"
        for refuse, layout, dialect, count in (
            ("short,long", "standard", "1.3-long", 2),
            ("standard", "original", "1.3", 3),
        ):
            with self.subTest(refuse):
                finished = self.run_standin(*self.TWO, *UNCHECKED[:-1], "--save", str(path), REFUSE=refuse, **EXACT)
                self.assertEqual(finished.code, 0, finished.output + finished.errors)
                note = (
                    f"Fallback: FP16 and W8A8, refused as standard/1.3, measured with the {layout} weight file and "
                    f"dialect {dialect}."
                )
                self.assertEqual(finished.output.splitlines()[-2], note)
                self.assertIn(
                    f"- {note}".replace("_", "\\_"), command("show", str(path), "--format", "markdown").output
                )
                self.assertRegex(
                    finished.errors,
                    rf"warning \(fallback\) FP16 2x conv 64ch 8x8: refused as standard/1\.3[:,] .*"
                    rf"accepted as {layout}/{dialect}; ask for that at once with --blob {layout} --dialect {dialect}",
                )
                cells = read_record(path).cells
                self.assertEqual([(cell.ok, cell.blob, cell.dialect) for cell in cells], [(True, layout, dialect)] * 4)
                self.assertEqual([len(cell.refused) for cell in cells], [count, count, 0, 0])

    def test_what_is_asked_for_is_not_a_fallback(self) -> None:
        finished = self.run_standin(*self.TWO, *UNCHECKED[:-1], "--blob", "original", REFUSE="standard", **EXACT)
        self.assertEqual(finished.code, 0, finished.output + finished.errors)
        self.assertNotIn("allback", finished.output + finished.errors)


class MarginalTest(support.StandinCase):
    """Where two depths of one shape were measured, the rate behind the fixed cost is told."""

    def deep_run(
        self,
        rates: Mapping[str, float],
        fixed_ms: float,
        depths: Sequence[int] = (64, 128),
        noise: float = 1e-4,
        **options: Any,
    ) -> Run:
        """Return a run whose evaluates take a fixed time and their work at a rate, exactly but for a share of noise."""
        run = made_run(sweep((512,), (64,), depths), tuple(rates), system={**M4, "chip": "Apple M9"}, **options)
        for cell in run.cells:
            ns = 1e6 * (fixed_ms + cell.config.gop / rates[cell.variant])
            rounds = len(cell.samples_ns)
            cell.samples_ns = [
                [ns * (1 + noise * (number - rounds // 2))] * len(samples)
                for number, samples in enumerate(cell.samples_ns)
            ]
        return run

    def test_the_note(self) -> None:
        (note,) = below(self.deep_run({"fp16": 18.8, "w8a8": 36.2}, 0.11))[1:]
        cost = r"0\.11 ms \(0\.(?:09|10)-0\.1[23]\) for each evaluate whatever it computes"
        pattern = (
            rf"512ch 64x64, from 64 to 128 layers: FP16 18\.8 TOPS \(18\.[78]-18\.[89]\) and {cost}; "
            rf"W8A8 36\.2 TOPS \(36\.1-36\.3\) and {cost}\."
        )
        self.assertRegex(note, f"^{pattern}$")
        self.assertIn(f"- {note}", ane_bench.markdown(self.deep_run({"fp16": 18.8, "w8a8": 36.2}, 0.11)).splitlines())

    def test_what_cannot_be_told(self) -> None:
        (note,) = below(self.deep_run({"fp16": 18.8, "w8a8": 36.2}, 0.0, noise=0.01))[1:]
        self.assertEqual(note.count("and a fixed cost that cannot be told"), 2)
        for run in (
            self.deep_run({"fp16": 18.8}, 0.11, noise=0.3),
            self.deep_run({"fp16": 18.8}, 0.11, settings=FEW),
            self.deep_run({"fp16": 18.8}, 0.11, depths=(64,)),
            self.deep_run({"fp16": 18.8}, 0.11, settings=AS_ORIGINAL),
            self.deep_run({"fp16": 18.8}, 0.11, failed=[(0, "fp16")]),
        ):
            self.assertNotIn("layers:", run.table() + ane_bench.markdown(run))

    def test_the_deepest_two_of_each_shape(self) -> None:
        run = self.deep_run({"fp16": 18.8}, 0.11, depths=(256, 4, 64, 128))
        for cell in (run.cells[1], run.cells[2]):
            cell.samples_ns = [[sample / 3 for sample in samples] for samples in cell.samples_ns]
        self.assertIn("512ch 64x64, from 128 to 256 layers: FP16 18.8 TOPS", run.table())
        both = made_run([*sweep((64,), (8,), (2, 8)), *sweep((64,), (8,), (2, 8), (3,))], ("fp16",))
        self.assertEqual(re.findall("^.*(?=, from)", both.table(), re.MULTILINE), ["64ch 8x8", "conv3x3 64ch 8x8"])

    def test_csv(self) -> None:
        run = self.deep_run({"fp16": 18.8, "w8a8": 36.2}, 0.11)
        rows = list(csv.DictReader(io.StringIO(ane_bench.REPORTS["csv"](run))))
        names = ("marginal_tops", "marginal_low", "marginal_high", "fixed_ms", "fixed_low", "fixed_high")
        original = self.deep_run({"fp16": 18.8, "w8a8": 36.2}, 0.11, settings=AS_ORIGINAL)
        for row in [*rows[:2], *csv.DictReader(io.StringIO(ane_bench.REPORTS["csv"](original)))]:
            self.assertEqual({row[name] for name in (*names, "marginal_from")}, {""})
        for row, tops in zip(rows[2:], (18.8, 36.2)):
            rate, slow, fast, fixed, least, most = (float(row[name]) for name in names)
            self.assertEqual(row["marginal_from"], "64")
            self.assertTrue(slow < rate < fast and least < fixed < most)
            self.assertAlmostEqual(rate, tops, delta=tops * 1e-3)
            self.assertAlmostEqual(fixed, 0.11, delta=1e-3)

    def test_the_stand_ins_rate_and_fixed_cost_are_recovered(self) -> None:
        finished = self.run_standin(
            "--channels",
            "512",
            "--spatial",
            "64",
            "--depth",
            "64,128",
            "--verify",
            "0",
            "--quiet",
            "--warmup",
            "1",
            "--format",
            "csv",
            **{**LIKE_M4, "COMPUTE": "none", "NOISE": "random:0.0002"},
        )
        rows = [row for row in csv.DictReader(io.StringIO(finished.output)) if row["marginal_tops"]]
        self.assertEqual([row["variant"] for row in rows], list(PAIR))
        for row, tops in zip(rows, (18.8, 36.2)):
            self.assertAlmostEqual(float(row["marginal_tops"]), tops, delta=0.01 * tops)
            self.assertAlmostEqual(float(row["fixed_ms"]), 0.11, delta=0.01 * 0.11 + 0.003)


def published_by_facts() -> list[tuple[str, str, float, float, str]]:
    """Return the rows of facts/results.md that are of one chip, each configuration by itself; all have 64x64 pixels."""
    rows = []
    for line in support.shared("facts", "results.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("chip", "---"):
            continue
        chip, _, shapes = cells[0].partition(", ")
        several = re.findall(r"([0-9]+)×([0-9]+)", shapes)
        depth = re.findall(r"depth ([0-9]+)", shapes) or ["128"]
        figures = [re.findall(r"[0-9]+\.[0-9]+", re.sub(r"\([^)]*\)", "", cell)) for cell in cells[2:4]]
        if " / " not in chip and "family" not in chip and "paths" not in shapes:
            chip = re.sub(r" \((h[0-9a-z]+|Mac mini)\)", "", chip)
            rows += [
                (chip, f"{channels}x64x{layers}", float(fp16), float(w8a8), cells[4])
                for (layers, channels), fp16, w8a8 in zip(several or [(depth[0], "512")], *figures)
            ]
    return rows


class PublishedTest(unittest.TestCase):
    """A run is put beside what is published for its chip and configuration."""

    def test_one_line_for_the_first_configuration_that_is_known(self) -> None:
        note = below(made_run(ORIGINAL))[-1]
        self.assertEqual(
            note,
            "M4 at 128x conv 512ch 64x64: FP16 18.6 TOPS here, 18.6 published; W8A8 35.1 TOPS here, 35.1 published "
            "(maderix/ANE README, macOS not stated; measured there on zeros, one variant after the other, here in "
            "turns, on random input).",
        )
        run = made_run([Config(64, 8, 2), *ORIGINAL[2:]], system={"chip": "Apple M2 Max"}, failed=[(1, "w8a8")])
        self.assertRegex(
            run.table().splitlines()[-1],
            r"^M2 Max at 256x conv 256ch 64x64: FP16 [0-9.]+ TOPS here, 13\.40 published "
            r"\(a public notebook .*\)\.$",
        )

    def test_the_original_measures_alike(self) -> None:
        note = ane_bench.published_note(made_run(ORIGINAL, settings=AS_ORIGINAL))[0]
        self.assertTrue(note.endswith("(maderix/ANE README, macOS not stated)."), note)

    def test_another_path(self) -> None:
        run = made_run(system={"chip": "Apple M5 Pro"})
        self.assertIn("18.19-18.79 published", run.table())
        self.assertIn("measured there through Core ML and Core AI, here in turns, on random input", run.table())
        run = made_run([Config(128, 256, 20, 3)], system={"chip": "Apple M1"})
        self.assertIn("M1 at 20x conv3x3 128ch 256x256: FP16 18.6 TOPS here, 10.83 published", run.table())

    def test_none(self) -> None:
        for run in (
            *(made_run(ORIGINAL, system={"chip": chip}) for chip in ("Apple M9", "Stand-in", "", "Apple M4 Ultra")),
            made_run([Config(512, 32, 128)]),
            made_run(failed=[(0, "fp16"), (0, "w8a8")]),
            made_run(system={}),
            made_run(variants=("w8a16",)),
            made_run(engine="stand-in"),
        ):
            self.assertNotIn("published", run.table())

    def test_the_table_is_the_facts(self) -> None:
        # The Air's chip is an M4 too, and best of N is not a median; an iPhone does not run this.
        left_out = {"M4 (Air)", "A19 (iPhone 17)"}
        facts = published_by_facts()
        self.assertLessEqual(left_out, {row[0] for row in facts})
        own = {
            (known.chip, name, *map(float, rates)): known.source
            for known in ane_bench.PUBLISHED
            if known.how == ane_bench.AS_ORIGINAL
            for name, rates in known.rates.items()
        }
        self.assertEqual(set(own), {row[:4] for row in facts if row[0] not in left_out})
        source = ""
        for chip, name, fp16, w8a8, named in facts:
            row = (chip, name, fp16, w8a8)
            kinds = [word for word in ("same", "notebook", "public notes") if word in named] or [named]
            source = source if kinds == ["same"] else kinds[0]
            if row in own:
                self.assertIn(source, own[row])
        text = support.shared("facts", "results.md").read_text().replace("–", "-")
        for known in ane_bench.PUBLISHED:
            for rates in known.rates.values() if known.how != ane_bench.AS_ORIGINAL else ():
                self.assertRegex(text, rf"{known.chip}[, ].*{re.escape(rates[0])} [|/] {re.escape(rates[1])}")
                self.assertIn(known.source.partition(",")[0], text)


def unescaped(text: str) -> str:
    """Return what markdown shows of a text, in which nothing may be left that it takes for its own signs."""
    assert not re.search(r"[`*_<>|\[\]~&#]", re.sub(r"\\.", "", text)), text
    return re.sub(r"\\(.)", r"\1", text)


class MarkdownTest(unittest.TestCase):
    """A block to paste into an issue."""

    def test_the_parts_in_order(self) -> None:
        system = {**M4, "model": "Mac16,1", "build": "25E1", "memory_bytes": 16 << 30, "power_source": "Battery Power"}
        run = made_run(variants=ALL, failed=[(0, "w8a8")], system=system)
        run.warn("battery", "the Mac runs on battery")
        title, answer, table, code, items, *record = ane_bench.markdown(run).split("\n\n")
        self.assertEqual(
            unescaped(title.strip("*")),
            f"ane_bench {ane_bench.__version__}: M4, h16g, macOS 26.4, Mac16,1, 25E1, "
            f"Battery Power, 16 GiB, {run.started}",
        )
        self.assertTrue(answer.startswith("No difference in speed between INT8 for weights alone (W8A16) and"), answer)
        head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        self.assertEqual(head, ["Config", "W(MB)", "GOP", "ms/eval", "±95%", "TOPS", "Ratio", "±95%", "Check"])
        self.assertTrue(all(re.fullmatch(":--|--:", cell) for cell in rule))
        self.assertEqual([len(row) for row in (rule, *rows)], [9] * 4)
        self.assertEqual(
            rows[0], ["FP16 128x conv 512ch 64x64", "64.0", "274.88", "14.790", "±0.3%", "18.59", "", "", "ok"]
        )
        self.assertEqual(rows[2], ["W8A8 128x conv 512ch 64x64", "32.0", "274.88", *[""] * 6])
        self.assertEqual(code, "    python3 ane_bench.py --save run.json")
        found = [unescaped(line[2:]) for line in items.splitlines()]
        self.assertEqual(found[1], f"W8A8 128x conv 512ch 64x64: failed in stage compile: {ERROR}")
        self.assertTrue(found[2].startswith("M4 at 128x conv 512ch 64x64: FP16 18.6 TOPS here"))
        self.assertEqual(found[3:], ["warning (battery) the Mac runs on battery"])
        self.assertEqual(record[0], "<details><summary>The record, for show, compare and chart.</summary>")

    def test_special_characters(self) -> None:
        error = "a|b *c* _d_ `e` <f> [g](h) i\\j ~k~ &amp; #6"
        run = made_run(failed=[(0, "w8a8")], error=error, system={**M4, "model": "<b>|x"})
        run.command = ["ane_bench.py", "--save", "a`b``.json"]
        title, _, _, code, items, *_ = ane_bench.markdown(run).split("\n\n")
        self.assertIn(", <b>|x, ", unescaped(title.strip("*")))
        self.assertEqual(code, "    python3 ane_bench.py --save 'a`b``.json'")
        self.assertEqual(
            unescaped(items.splitlines()[1][2:]), f"W8A8 128x conv 512ch 64x64: failed in stage compile: {error}"
        )

    def test_a_run_from_python_has_no_command(self) -> None:
        run = made_run()
        run.command = []
        self.assertNotIn("python3", ane_bench.markdown(run))


class CsvTest(unittest.TestCase):
    """One header line, one line per cell, nothing else."""

    ERROR = 'said "NO", twice; 5,5'

    def rows(self, *runs: Run) -> list[dict[str, str]]:
        """Return the lines of csv of some runs, read back."""
        with tempfile.TemporaryDirectory() as directory:
            paths = [written(Path(directory) / f"{number}.json", run) for number, run in enumerate(runs)]
            text = command("show", *paths, "--format", "csv").output
        rows = list(csv.DictReader(io.StringIO(text)))
        self.assertEqual(len(text.splitlines()), 1 + len(rows))
        self.assertFalse([row for row in rows if None in row or None in row.values()])
        return rows

    def test_read_back(self) -> None:
        run = made_run(ORIGINAL[:2], ALL, failed=[(1, "w8a8")], wrong=[(0, "w8a16")], error=self.ERROR)
        rows = self.rows(run)
        self.assertEqual(
            [(row["config"], row["variant"]) for row in rows],
            [(config.name, variant) for config in ORIGINAL[:2] for variant in ALL],
        )
        self.assertEqual([row["check"] for row in rows], ["ok", "WRONG", "ok", "ok", "ok", ""])
        self.assertEqual([row["status"] for row in rows], ["ok", "failed", "ok", "ok", "ok", "failed"])
        for row, cell in zip(rows[:5], run.cells):
            self.assertEqual([int(row[name]) for name in Config._fields], list(cell.config))
            self.assertEqual(
                [float(row[name]) for name in ("gop", "tops", "weights_mib")],
                [cell.config.gop, cell.tops, cell.weights_mib],
            )
            self.assertEqual(
                [float(row[f"ms_{name}"]) for name in ("mean", "min", "p95", "mad")],
                [cell.ms[name] for name in ("mean", "min", "p95", "mad")],
            )
            self.assertEqual(
                [float(row[name]) for name in ("ms", "ms_low", "ms_high")], [cell.ms["median"], *cell.ms["ci95"]]
            )
            self.assertEqual(row["ratio"], str(cell.ratio["value"]) if cell.ratio else "")
        self.assertEqual([rows[2]["ratio_low"], rows[2]["ratio_high"]], list(map(str, run.cells[2].ratio["ci95"])))
        self.assertEqual([rows[1][name] for name in ("stage", "error")], ["verify", self.ERROR])
        self.assertEqual(
            {rows[5][name] for name in ("ms", "tops", "ratio", "ms_low", "ms_mean", "check", "blob")}, {""}
        )

    def test_machines_are_told_apart(self) -> None:
        one, other = made_run(engine="stand-in"), made_run(settings=AS_ORIGINAL, system={**M4, "model": "Mac16,1"})
        rows = self.rows(one, other)
        for name in ("version", "started", "macos", "model", "engine", "protocol", "chip", "ane_subtype"):
            self.assertIn(name, rows[0])
        self.assertEqual([row["engine"] for row in rows], ["stand-in"] * 2 + ["ane"] * 2)
        self.assertEqual([row["protocol"][:15] for row in rows], ["input random, w"] * 2 + ["as the original"] * 2)
        self.assertEqual([row["model"] for row in rows], [""] * 2 + ["Mac16,1"] * 2)

    def test_the_originals_time_is_the_mean(self) -> None:
        run = made_run(settings=AS_ORIGINAL)
        run.cells[0].samples_ns = [[1e6] * 49 + [51e6]]
        self.assertEqual(float(self.rows(run)[0]["ms"]), 2.0)


class WarningLinesTest(unittest.TestCase):
    """A line for each code, which names all cells in few words."""

    def test_grouped(self) -> None:
        run = made_run(ORIGINAL)
        run.warn("busy", "other programs")
        for cell in run.cells:
            run.warn("drift", f"{cell.name}: times changed: by 10 %")
        for cell in (run.cells[0], run.cells[3]):
            run.warn("noise", f"{cell.name}: too noisy")
        run.warn("first", "the first evaluate took long")
        name = run.cells[0].name
        self.assertEqual(
            ane_bench.grouped_warnings(run),
            [
                "warning (busy) other programs",
                f"warning (drift) {name}: times changed: by 10 % (and all 9 other cells)",
                f"warning (noise) {name}: too noisy (also {run.cells[3].name})",
            ],
        )
        self.assertEqual([note["code"] for note in run.notes], ["first"])


class SentTest(support.DirectoryCase):
    """A record in a text: pasted, quoted, among others, damaged, too large."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "thread.txt"

    def read(self, text: str) -> list[dict[str, Any]]:
        """Return the records that are read of a text."""
        self.path.write_bytes(text.encode())
        done = command("show", str(self.path), "--format", "json")
        self.assertEqual(done.code, 0, done.errors)
        found = json.loads(done.output)
        return found if isinstance(found, list) else [found]

    def test_a_pasted_comment_read_back_equals_the_record(self) -> None:
        run = made_run(ORIGINAL, ALL, failed=[(2, "w8a8")])
        report, record = ane_bench.markdown(run), json.loads(json.dumps(run.to_dict()))
        block = report.split("```")[1]
        self.assertTrue(all(len(line) <= 76 for line in block.splitlines()))
        for text in (
            report,
            report.replace("\n", "\r\n"),
            re.sub("(?m)^", "> ", report),
            re.sub("(?m)^", ">", report),
            re.sub("(?m)^", "> > ", report),
            re.sub("(?m)^", "    ", report),
            re.sub("(?m)$", "  ", report),
            "\ufeff" + report,
            f"Hello\n\n{report}\nThanks!\n",
            report.replace("```ane", "``` ane").replace("``` a", "```a"),
        ):
            self.assertEqual(self.read(text), [record])

    def test_a_thread_of_eight_comments(self) -> None:
        runs = [made_run(system={**M4, "chip": f"Apple M{number}"}) for number in range(1, 9)]
        text = "\n".join(f"**user{number}** commented\n\n{ane_bench.markdown(run)}" for number, run in enumerate(runs))
        self.assertEqual(self.read(text), [json.loads(json.dumps(run.to_dict())) for run in runs])
        shown = command("show", str(self.path)).output
        self.assertEqual(len(re.findall("^M[1-8], h16g, macOS 26.4 .* FP16 ", shown, re.MULTILINE)), 8)
        done = command("compare", str(self.path), "--format", "json")
        self.assertEqual((done.code, len(json.loads(done.output)["cells"])), (0, 14))
        done = command("chart", str(self.path))
        self.assertEqual((done.code, done.output), (2, ""))
        self.assertIn("holds 8 records, and a chart shows one", done.errors)

    def test_damaged_blocks_are_named_and_left_out(self) -> None:
        good = ane_bench.markdown(made_run())
        record = json.dumps(made_run().to_dict()).encode()
        compressed = [zlib.compress(record)[:-cut] for cut in (2, 20)]
        damaged = (
            good.replace("eN", "e\u2026", 1),
            good[: len(good) // 2],
            "```ane-bench-record\n```",
            block_of(b"{}"),
            block_of(record.replace(b'"ok"', b'"fine"')),
            block_of(record[:-2]),
            block_of(record.replace(b"[[", b"[[[")),
            re.sub(r"(?m)^(.{70}).{3}(.{3})$", r"\1AAA\2", good, count=1),
            "```ane-bench-record\n!!!\n```",
            *(f"```ane-bench-record\n{base64.b64encode(data).decode()}\n```" for data in compressed),
        )
        for text in damaged:
            with self.subTest(text[-80:]):
                self.assertEqual(len(self.read(f"{good}\n{text}\n\n{good}")), 2)
                done = command("show", str(self.path))
                self.assertRegex(
                    done.errors, r"\Aane_bench: \S+thread\.txt: block 2 of 3 is damaged and left out: [^\n]+\n\Z"
                )
                done = command("compare", str(self.path), "--fail-if-slower", "5")
                self.assertEqual((done.code, done.output), (2, ""), "the gate takes no file with damage")
                self.path.write_text(text)
                self.assertEqual(command("show", str(self.path)).code, 2)

    def test_what_does_not_fit_into_a_comment_is_condensed_and_says_so(self) -> None:
        def noisy(configs: Sequence[Config], iters: int, rounds: int) -> Run:
            run = made_run(configs, settings=Settings(iters=iters, rounds=rounds))
            for place, cell in enumerate(run.cells):
                cell.samples_ns = [
                    [sample * (1 + ((7919 * number + place) % 1009) / 1e5) for number, sample in enumerate(samples)]
                    for samples in cell.samples_ns
                ]
            return run

        run = noisy(ORIGINAL, 10_000, 10)
        report = ane_bench.markdown(run)
        self.assertLessEqual(len(report), 65_536)
        self.assertIn("Samples are condensed to the medians of rounds.</summary>", report)
        (record,) = self.read(report)
        self.assertTrue(record["condensed"])
        for result, (_, cells) in zip(record["results"], run.results):
            for cell in cells:
                self.assertEqual(
                    result["variants"][cell.variant]["samples_ns"],
                    [[statistics.median(one)] for one in cell.samples_ns],
                )
        for form in ("table", "markdown"):
            self.assertIn(
                "Samples are condensed to the medians of rounds.",
                command("show", str(self.path), "--format", form).output,
            )
        self.assertIn("BASE: Samples are condensed", command("compare", str(self.path), str(self.path)).output)
        self.assertEqual(command("compare", str(self.path), str(self.path), "--fail-if-slower", "5").code, 0)
        short = noisy(ORIGINAL[:1], 50, 10)
        self.assertNotIn("condensed", self.read(ane_bench.markdown(short))[0])

    def test_a_report_that_no_comment_takes_says_so(self) -> None:
        run = made_run(sweep((64, 128), (8,), range(1, 300)), settings=Settings(iters=10, rounds=10))
        report = ane_bench.markdown(run)
        self.assertGreater(len(report), 65_536)
        self.assertIn("This text is longer than a comment may be (65536 letters): attach it as a file.", report)
        self.assertTrue(self.read(report)[0]["condensed"])

    def test_the_originals_means_stay_when_condensed(self) -> None:
        run = made_run(settings=AS_ORIGINAL)
        run.cells[0].samples_ns = [[1e6] * 49 + [51e6]]
        self.assertEqual(ane_bench.condensed(run).cells[0].milliseconds, 2.0)


class ShowTest(unittest.TestCase):
    """Saved records again: what was measured in other ways stands apart."""

    def show(self, *runs: Run, form: str = "table") -> str:
        """Return what is shown of some runs."""
        with tempfile.TemporaryDirectory() as directory:
            paths = [written(Path(directory) / f"{number}.json", run) for number, run in enumerate(runs)]
            done = command("show", *paths, "--format", form)
        self.assertEqual((done.code, done.errors), (0, ""))
        return done.output

    def groups(self, *runs: Run) -> list[int]:
        """Return the number of rows in each table that is shown of some runs."""
        counts = [
            len(re.findall("^.*(?: FP16| W8A).*$", part, re.MULTILINE)) for part in self.show(*runs).split(":\n\n")[1:]
        ]
        marked = [part.count("macOS 26") for part in self.show(*runs, form="markdown").split(":\n\n")[1:]]
        self.assertEqual(counts, marked)
        return counts

    def test_what_is_measured_in_the_same_way_stands_together(self) -> None:
        other = made_run(system={**M4, "chip": "Apple M5"}, settings=Settings(iters=10, rounds=5, seed=7))
        self.assertEqual(self.groups(made_run(), other), [4])

    def test_what_is_measured_in_other_ways_stands_apart(self) -> None:
        newer, revised = made_run(), made_run()
        newer.version, revised.data = "9.9.9", 9
        for other in (
            newer,
            revised,
            made_run(engine="stand-in"),
            made_run(KERNEL3[:1]),
            made_run(settings=AS_ORIGINAL),
            made_run(settings=Settings(iters=10, rounds=5, input="zeros")),
            made_run(settings=Settings(iters=10, rounds=5, qos=9)),
            made_run(settings=Settings(iters=10, rounds=5, warmup=10)),
            made_run(settings=Settings(iters=20, rounds=5)),
        ):
            self.assertEqual(self.groups(made_run(), other), [2, 2])
        self.assertEqual(self.groups(made_run([ORIGINAL[0], KERNEL3[0]]), made_run()), [4, 2])

    def test_chips_with_digits_of_other_scripts_are_sorted_too(self) -> None:
        runs = [made_run(variants=("fp16",), system={**M4, "chip": chip}) for chip in ("Apple M4", "Apple \u0663")]
        self.assertIn("\u0663", self.show(*runs))

    def test_ratios_to_different_baselines_stand_apart(self) -> None:
        runs = [made_run(variants=variants) for variants in (("fp16", "w8a8"), ("w8a8", "fp16"))]
        self.assertEqual(self.show(*runs).count("convolutions, Ratio to W8A8:"), 1)

    def test_machines_are_sorted_by_chip_then_by_date(self) -> None:
        runs = []
        for chip, started in (
            ("M10", "2026-01"),
            ("M2 Max", "2026-03"),
            ("M2", "2026-02"),
            ("M2 Max", "2026-01"),
            ("M1", "2026-09"),
        ):
            runs.append(made_run(variants=("fp16",), system={**M4, "chip": f"Apple {chip}"}))
            runs[-1].started = f"{started}-01T00:00:00+00:00"
        rows = [
            re.split(" {2,}", line)[:2]
            for line in self.show(*runs).splitlines()
            if line.startswith("M") and "FP16" in line
        ]
        self.assertEqual(
            [(machine.split(",")[0], started[:7]) for machine, started in rows],
            [("M1", "2026-09"), ("M2", "2026-02"), ("M2 Max", "2026-01"), ("M2 Max", "2026-03"), ("M10", "2026-01")],
        )

    def test_failures_marks_and_remarks(self) -> None:
        broken = made_run(ORIGINAL, measured=1, system={**M4, "chip": "Apple M5"})
        bad = made_run(failed=[(0, "fp16")], wrong=[(0, "w8a8")])
        bad.warn("drift", f"{bad.cells[1].name}: times changed")
        shown = self.show(bad, broken)
        self.assertRegex(shown, r"M4, h16g, macOS 26\.4 .*FP16 128x conv 512ch 64x64 +failed: compile\n")
        self.assertRegex(shown, r"M4, h16g, macOS 26\.4 .*W8A8 128x conv 512ch 64x64 +7\.[0-9]+ .* failed: verify\n")
        self.assertIn("M5, h16g, macOS 26.4, 2026-01-02: The run was broken off: 1 of 5 configurations.\n", shown)
        self.assertIn(
            "M4, h16g, macOS 26.4, 2026-01-02: warning (drift) W8A8 128x conv 512ch 64x64: times changed\n", shown
        )

    def test_one_is_shown_with_its_warnings_on_standard_error(self) -> None:
        run = made_run()
        run.warn("busy", "other programs")
        with tempfile.TemporaryDirectory() as directory:
            done = command("show", written(Path(directory) / "run.json", run))
        self.assertEqual((done.output, done.errors), (run.table(), "ane_bench: warning (busy) other programs\n"))


if __name__ == "__main__":
    unittest.main()
