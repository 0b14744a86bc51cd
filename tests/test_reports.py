"""Section 15: tables, answers, notes, markdown and csv of a run, several runs side by side, and
records that are sent in texts.

ANE_BENCH_GOLDEN=write writes the files in golden/ anew; look at them before they are committed.
"""

import base64
import csv
import io
import itertools
import json
import re
import statistics
import textwrap
import unittest
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Union

import ane_bench
from ane_bench import Config, Run, Settings, Table
from tests import runs, support
from tests.runs import ALL, AS_ORIGINAL, M4, ORIGINAL, RESNET, command, made_run, scattered, written


def lines_of(run: Run, room: int = 80) -> list[str]:
    """Return the lines of a run's table."""
    return Table(run, room).text().splitlines()


def with_ratios(ratios: Sequence[float], spread: float = 0.0,
                configs: Iterable[Union[Config, str]] = ORIGINAL, **options: Any) -> Run:
    """Return a run in which the last variant has these ratios, exactly, unless its rounds differ by
    a factor of 1 + `spread`. All times drift by so little that no figure shows it."""
    run = made_run([config for config, _ in zip(configs, ratios)], **options)
    for (config, cells), ratio in zip(run.results, ratios):
        paces = [1e6 * config.gop / 16 * (1 + 1e-6 * number) for number in range(12)]
        cells[0].samples_ns = [[pace] * 5 for pace in paces]
        cells[-1].samples_ns = [[pace / ratio * (1 + spread) ** (number // 3 % 2 - 0.5)] * 5
                                for number, pace in enumerate(paces)]
    return run


def long_run(rates: Sequence[float], every_s: float = 5.0) -> Run:
    """Return a run of one variant whose rounds begin every 5 s, with these TOPS in turn."""
    run = made_run(ORIGINAL[:1], ("fp16",))
    run.cells[0].samples_ns = [[1e6 * ORIGINAL[0].gop / rate] * 5 for rate in rates]
    run.cells[0].rounds_s = [every_s * number for number in range(len(rates))]
    return run


def in_forms(run: Run, *forms: str) -> Run:
    """Return the run, on a stand-in, after its cells were measured in these forms in turn."""
    run.engine = "stand-in"
    for cell, form in zip(run.cells, itertools.cycle(forms)):
        cell.note(form=form)
    return run


def ten_macs() -> list[Run]:
    """Return the default run of ten Macs, of which one failed in part, one computed a wrong output,
    and two ran on battery."""
    made = runs.of_macs()
    wrong, failed = made[3].cells[6], made[7].cells[9]
    wrong.note(verified={**wrong.verified, "ok": False})
    wrong.fail("verify", runs.ERROR)
    failed.note(samples_ns=[], rounds_s=[], verified={})
    failed.fail("compile", runs.ERROR)
    for place, run in enumerate(made):
        run.version = "0.2.0"
        if place in (1, 4):
            run.warn("battery", "the Mac runs on battery; connect it to power")
    return made


def without_records(text: str) -> str:
    """Return markdown without what stands in its records."""
    return re.sub(r"(```ane-bench-record\n)[^`]*", r"\1…\n", text)


class TableTest(unittest.TestCase):
    """The original's columns, then the module's own, in 80 columns or fewer."""

    def test_what_fails_under_the_original(self) -> None:
        run = made_run(settings=AS_ORIGINAL, failed=[(0, "w8a8")])
        failed = f"W8A8 128x conv 512ch 64x64: {run.cells[1].failure}"
        self.assertEqual(lines_of(run)[5:], [failed, "", "=== Done ==="])
        run = made_run(ORIGINAL, settings=AS_ORIGINAL, measured=2)
        self.assertEqual(lines_of(run)[-1], "=== 2 of 5 configurations ===")

    def test_nothing_is_wider_than_80_or_60_columns(self) -> None:
        names = ("4x8x1", "16384x16x1", "128x4096x14000k3", "1024x128x4", "1024x128x12")
        paces = ((0.002, 1.0), (0.4, 1e-3), (1e-9, 1e-6), (3, 1e3))
        every: Sequence[Sequence[Union[Config, str]]] = (ORIGINAL, RESNET, names)
        for configs, variants, (spread, speed), room in itertools.product(
                every, (runs.PAIR, ALL), paces, (80, 60)):
            if configs is names and speed < 1:
                continue  # such times are none
            run = made_run(configs, variants, spread=spread, fixed_ms=0.1,
                           speeds=dict.fromkeys(variants, 19 * speed))
            lines = lines_of(run, room)
            rows = [line for line in lines if line.endswith("ok")]
            layers = [line for line in lines if " µs" in line or "One layer" in line]
            self.assertEqual(len(rows), len(run.cells))
            self.assertLessEqual(max(map(len, [*lines[2:4], *rows, *layers])), room)
            self.assertEqual(len(lines[2]), len(lines[3]))
            self.assertNotRegex("\n".join(rows), r" 0\.0+ ")
            if room == 80:
                self.assertRegex(lines[2], r"W\(MB\)    GOP ms/eval  ±95%    TOPS Ratio")

    def test_what_is_left_out_where_the_table_is_too_wide(self) -> None:
        for room, headings in (
                (200, "W(MB) GOP ms/eval ±95% TOPS Ratio ±95% Check"),
                (69, "W(MB) GOP ms/eval TOPS Ratio Check"), (57, "GOP ms/eval TOPS Ratio Check"),
                (51, "ms/eval TOPS Ratio Check")):
            heading = Table(made_run(ORIGINAL), room).head().splitlines()[2]
            self.assertEqual(heading.split(), ["Config", *headings.split()])
            self.assertLessEqual(len(heading), room)
        layers = made_run(RESNET[:2], ALL, fixed_ms=0.1)
        for room, headings in ((80, "One layer FP16 TOPS W8A16 TOPS Ratio W8A8 TOPS Ratio"),
                               (60, "One layer FP16 W8A16 Ratio W8A8 Ratio")):
            self.assertIn(headings, [" ".join(line.split()) for line in lines_of(layers, room)])
        columns = [("Cell", 9), ("Speed", 6), ("BASE Ratio", 12), ("NEW Ratio", 12)]
        self.assertEqual([width for _, width in ane_bench.fitting(columns, 30)], [9, 6, 0, 0])

    def test_figures_and_half_widths_have_the_digits_that_tell_something(self) -> None:
        for tops, shown in ((18.6, "18.60"), (0.123456, "0.12"), (0.00765, "0.01"),
                            (0.00312, "0.00312"), (3.1234e-5, "3.12e-5"), (1234.5, "1234.50")):
            run = made_run(("512x64x8",), ("fp16",), speeds={"fp16": tops}, spread=0)
            self.assertEqual(lines_of(run)[4].split()[-2], shown)
        for name, weights, gop in (("64x8x2", "0.016", "0.001"), ("4x4x1", "3e-5", "5.1e-7"),
                                   ("256x8x2", "0.2", "0.02"), ("16384x128x8", "4096", "70369"),
                                   ("16x4x1", "5e-4", "8.2e-6")):
            row = lines_of(made_run((name,), ("fp16",)))[4]
            self.assertEqual(row.split()[2:4], [weights, gop])
        for low, high, shown in ((1.99, 2.01, "±0.5%"), (1.9, 2.1, "±5.0%"),
                                 (1.8, 2.2, "±10%"), (0.0, 50, "±>10x")):
            self.assertEqual(ane_bench.half_width({"value": 2.0, "ci95": [low, high]}), shown)
        self.assertEqual(ane_bench.half_width({"value": 2.0}), "")


# A run by a name; golden/answers.txt has its machine and what stands below its table.
ANSWERS: dict[str, Run] = {
    "the default run": with_ratios([1.88, 1.88, 1.92, 1.84, 1.88]),
    "one configuration, an exact ratio": with_ratios([2.0]),
    "slower": with_ratios([0.5, 0.5]),
    "one value instead of two that read alike": with_ratios([1.041, 1.042]),
    "no difference": with_ratios([1.0, 1.001], spread=0.01),
    "faster here, slower there": with_ratios([0.97, 1.34, 1.2]),
    "an interval from 0.38x to 20.6x": with_ratios([2.8], spread=15.0, system={}),
    "too few rounds for an interval": made_run(rounds=4),
    "as fast, or not": with_ratios([1], spread=0.05),
    "a little slower, or not": with_ratios([0.985], spread=0.025),
    "a little faster, or not": with_ratios([1.015], spread=0.025),
    "two wide intervals": with_ratios([0.9, 1.1], spread=0.5, configs=ORIGINAL[::2]),
    "a cell that failed": with_ratios([2.0, 3.0], failed=[(1, "w8a8")]),
    "a baseline that failed": made_run(failed=[(0, "fp16")]),
    "FP16 against W8A8": with_ratios([2.0], variants=("w8a8", "fp16")),
    "three variants": with_ratios([2.0], variants=ALL),
    "one variant": made_run(variants=("fp16",)),
    "one variant in layers": made_run(RESNET, ("fp16",), fixed_ms=0.1),
    "W8A8 wrong": made_run(wrong=[(0, "w8a8")]),
    "1x1 and 3x3": made_run([ORIGINAL[0], "256x64x32k3"]),
    "a stand-in": made_run(engine="stand-in"),
    "the reference engine": made_run(("32x8x2", "32x8x4"), ("fp16",), engine="reference",
                                     speeds={"fp16": 4e-4}, system={}),
    "everything failed": made_run(ORIGINAL[:2], wrong=[(1, "fp16")], failed=[
        (0, "fp16"), (0, "w8a8"), (1, "w8a8")]),
    "broken off": made_run(ORIGINAL, measured=1),
    "ResNet-50's stages": scattered(made_run(RESNET, fixed_ms=0.1, speeds={
        "fp16": 18.0, "w8a8": 36.0}), 0.0005),
    "one layer": made_run(RESNET[:2], fixed_ms=0.1),
    "layers of which one cannot be told": made_run(RESNET[:4], fixed_ms=0.1, failed=[(1, "w8a8")]),
    "layers that cannot be told": scattered(made_run(("64x56x4k3", "64x56x12k3"), fixed_ms=0.1,
                                                     speeds={"fp16": 400, "w8a8": 400}), 0.2),
    "1x1 layers that cannot be told": scattered(made_run(("64x64x1", "64x64x64"), fixed_ms=100),
                                                0.2),
    "no fixed cost": made_run(RESNET[:2], spread=0.01),
    "layers as deep as they get": scattered(made_run(("4x4x4096", "4x4x12288"), fixed_ms=9), 0.2),
    "a layer beside a short chain": made_run([*RESNET[:2], "256x8x2"], fixed_ms=0.1),
    "a shape without a partner beside layers": made_run([*RESNET[:2], "128x28x32k3"], fixed_ms=0.1),
    "a layer faster than the chip": made_run(("512x64x64", "512x64x66"), fixed_ms=5, spread=0,
                                             speeds={"fp16": 61, "w8a8": 122}),
    "a fixed cost is no gain": made_run(("64x64x4", "64x64x4k3", "256x64x8"), fixed_ms=0.09),
    "a fixed cost below a fifth": made_run(("64x64x4k3", "64x32x4"), fixed_ms=0.5),
    "a fixed cost above a fifth": made_run(("64x64x4k3", "64x32x4"), fixed_ms=0.3),
    "W8A16 of one layer": made_run(("512x64x1",), ("fp16", "w8a16"), spread=0),
    "W8A8 of one layer": made_run(("512x64x1",), fixed_ms=0.3),
    "W8A8 of one layer among others": made_run(("512x64x1", "512x32x64"), fixed_ms=0.3),
    "nothing but W8A8 of one layer": made_run(("512x64x1",), ("w8a8",), fixed_ms=0.3),
    "85.9 TOPS on a chip of 38": made_run(speeds={"w8a8": 85.9}),
    "85.9 TOPS of the reference engine": made_run(("32x8x4",), engine="reference", system={},
                                                  speeds={"w8a8": 85.9}),
    "a baseline above what the chip can": made_run(speeds={"fp16": 85.9, "w8a8": 30.0}),
    "a layer with a chain below the least dispatch": made_run(("64x64x16", "64x64x160")),
    "below the least dispatch": made_run(("64x64x16",), speeds={"fp16": 30, "w8a8": 30}),
    "a rate that falls": long_run([18.6] * 60 + [16.4] * 60),
    "a rate that rises": long_run([18.6 + 0.01 * number for number in range(120)]),
    "a short run": long_run([18.6] * 120, every_s=0.2),
    "fallbacks": in_forms(made_run(ORIGINAL[2:4]), "standard/1.0", "original/1.3"),
    "no fallback": in_forms(made_run(settings=Settings(form="standard/1.0")), "standard/1.0"),
    "no check": made_run(settings=Settings(verify=0)),
    "the first result that was published": made_run(("64x8x2", *ORIGINAL[2:]),
                                                    system={"chip": "Apple M2 Max"}),
    "a chip without such a result": made_run(ORIGINAL, system={"chip": "Apple M4 Ultra"}),
    "a configuration without such a result": made_run(("512x32x128",)),
    "names that are too long": made_run(system=dict.fromkeys(("chip", "model", "macos"), "M" * 99)),
}


class GoldenTest(unittest.TestCase):
    """Whole reports, as they stand in golden/; below the table a sentence, made only of what is
    right and can be what it says."""

    maxDiff = None

    def test_a_run_in_every_format(self) -> None:
        run = scattered(made_run([*ORIGINAL[:2], *RESNET[:4]], fixed_ms=0.1, failed=[(1, "w8a8")],
                                 wrong=[(3, "w8a8")]))
        run.version = "0.2.0"
        run.warn("noise", f"{run.cells[0].name}: times scatter by 4 %; close other programs")
        for form, name in (("table", "run.txt"), ("markdown", "run.md"), ("csv", "run.csv")):
            text = without_records(ane_bench.report(run, form))
            if form == "csv":  # the last digits of logarithms differ from machine to machine
                text = re.sub(r"[0-9]+\.[0-9]{8,}", lambda found: f"{float(found[0]):.8g}", text)
            self.assertEqual(*runs.golden(name, text))

    def test_the_original_layers_and_ten_macs(self) -> None:
        original = made_run(("512x64x128", "256x64x8"), settings=AS_ORIGINAL, engine="stand-in")
        layers, macs = scattered(made_run(RESNET, fixed_ms=0.1), 0.0002), ten_macs()
        layers.version = "0.2.0"
        for name, text in (("original.txt", original.table()), ("layers.txt", layers.table()),
                           ("ten-macs.txt", ane_bench.show(macs, "table", 80)),
                           ("ten-macs-60.txt", ane_bench.show(macs, "table", 60)),
                           ("ten-macs.md", ane_bench.show(macs, "markdown"))):
            self.assertEqual(*runs.golden(name, without_records(text)))

    def test_what_stands_below_the_table_and_in_markdown(self) -> None:
        text = ""
        for name, run in ANSWERS.items():
            end = textwrap.indent(Table(run).end(), "  ")
            text += f"{name} ({ane_bench.machine_name(run)}):\n{end}\n"
            said = ane_bench.answers(run)
            items = [f"- {ane_bench.markdown_escaped(line)}\n" for line in said]
            report = ane_bench.report(run, "markdown")
            with self.subTest(name):
                self.assertIn("\n\n" + "\n".join(said) + "\n", run.table())
                self.assertTrue(report.partition("\n\n")[2].startswith("".join([*items, "\n"])))
                for line in (*ane_bench.layer_notes(run), *ane_bench.sustained_lines(run),
                             *ane_bench.footnotes(run)):
                    self.assertIn(f"\n- {ane_bench.markdown_escaped(line)}\n", report)
        self.assertEqual(*runs.golden("answers.txt", text))

    def test_the_original_has_none_but_notes(self) -> None:
        run = made_run(ORIGINAL, settings=AS_ORIGINAL)
        self.assertEqual(ane_bench.answers(run), [])
        self.assertNotIn("INT8 (", run.table() + ane_bench.report(run, "markdown"))
        self.assertEqual(ane_bench.footnotes(run), [
            "No output was checked.", "Published for M4 at 512x64x128: FP16 18.6 and W8A8 35.1 "
            "TOPS, measured as --original measures (maderix/ANE README, macOS not stated)."])

    def test_warnings_are_grouped_and_name_cells_in_few_words(self) -> None:
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

    def test_without_command_and_layers(self) -> None:
        run = made_run()
        run.command = []  # called from Python
        self.assertNotRegex(run.table() + ane_bench.report(run, "markdown"), "python3|One layer")

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
                ("8 methods, 3-4 [x]", r"8 methods, 3-4 \[x\]"), ("see #12.", "see `#12.`"),
                ("+[a]@b", "`+[a]@b`")):
            self.assertEqual(ane_bench.markdown_escaped(text), shown)
        for text in ("x" * 300_000, "-[" * 300_000):  # in a moment
            self.assertEqual(ane_bench.markdown_escaped(text).replace("\\", ""), text)


class CsvTest(unittest.TestCase):
    """One header line, one line per cell, nothing else."""

    def rows(self, *runs: Run) -> list[dict[str, str]]:
        """Return the lines of csv of some runs, read back."""
        text = ane_bench.show(runs, "csv")
        rows = list(csv.DictReader(io.StringIO(text)))
        self.assertEqual(len(text.splitlines()), 1 + len(rows))
        self.assertFalse([row for row in rows if None in row or None in row.values()])
        return rows

    def test_read_back(self) -> None:
        error = 'said "NO", twice; 5,5'
        run = made_run(ORIGINAL[:2], ALL, failed=[(1, "w8a8")], wrong=[(0, "w8a16")], error=error)
        rows = self.rows(run)
        self.assertEqual(len(rows), 6)
        names = ("gop", "weights_mib", "tops", "ms", "ms_low", "ms_high", "ratio", "ratio_low",
                 "ratio_high")
        for row, cell in zip(rows[:5], run.cells):
            self.assertEqual([float(row[name] or 0) for name in names], [
                cell.config.gop, cell.weights_mib, cell.tops, cell.ms["value"], *cell.ms["ci95"],
                cell.ratio.get("value", 0), *cell.ratio.get("ci95", (0, 0))])
        self.assertEqual((rows[1]["stage"], rows[1]["error"]), ("verify", error))

    def test_machines_are_told_apart(self) -> None:
        rows = self.rows(made_run(engine="stand-in", system={"chip": "X"}),
                         made_run(settings=AS_ORIGINAL))
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
        made = [made_run(system={**M4, "chip": f"Apple M{number}"}) for number in range(1, 9)]
        records = [json.loads(json.dumps(run.to_dict())) for run in made]
        self.assertEqual(self.read(ane_bench.show(made[:1], "json")), records[:1])
        self.assertEqual(self.read(ane_bench.show(made, "json")), records)
        self.assertEqual(self.read("\n".join(
            f"**user{number}** commented\n\n{ane_bench.report(run, 'markdown')}"
            for number, run in enumerate(made))), records)

    def test_damaged_blocks_are_named_and_left_out(self) -> None:
        def block(packed: bytes) -> str:
            return f"```ane-bench-record\n{base64.b64encode(packed).decode()}\n```"

        good = ane_bench.report(made_run(), "markdown")
        packed = zlib.compress(json.dumps(made_run().to_dict()).encode())
        damaged = (good.replace("eN", "e\u2026", 1), good[: len(good) // 2],
                   re.sub(r"(?m)^(.{70}).{3}(.{3})$", r"\1AAA\2", good, count=1),
                   "```ane-bench-record\n!!!\n```", block(b""), block(zlib.compress(b"{}")),
                   block(packed[:-2]), block(packed[:-20]))
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
        longer = ane_bench.report(scattered(made_run(ORIGINAL, rounds=2000)), "markdown")
        self.assertTrue(longer.endswith("**Too long for a comment: attach this as a file.**\n"))
        run = made_run(settings=AS_ORIGINAL)  # of which the means stay
        run.cells[0].samples_ns = [[1e6] * 49 + [51e6]]
        self.assertAlmostEqual(ane_bench.condensed(run).cells[0].milliseconds or 0, 2.0)


class ShowTest(support.DirectoryCase):
    """Saved records again: several side by side, and what was measured in other ways apart."""

    def test_markdown_holds_the_records(self) -> None:
        made = ten_macs()
        report = ane_bench.show(made, "markdown")
        self.assertLessEqual(len(report), 65_536)
        path = written(self.directory / "thread.md", f"> Hello\n\n{report}\n\n{report}")
        back = ane_bench.read_records(path, self.fail)
        self.assertEqual(len(back), 20)
        self.assertEqual(ane_bench.show(ane_bench.unique(back), "table"),
                         ane_bench.show(made, "table"))
        for line in without_records(report).splitlines():
            if not line.startswith(("<", "```", "|")):
                unescaped(re.sub(r"^\*\*|\*\*$", "", line))

    def test_a_record_that_stands_twice_is_shown_and_drawn_once(self) -> None:
        run, other = made_run(), made_run(ORIGINAL[1:2])
        run.warn("busy", "other programs")
        one, two = (written(self.directory / f"{number}.json", record)
                    for number, record in enumerate((run, other)))
        self.assertEqual(command("show", one, one), command("show", one))
        for form in ("table", "csv", "markdown", "json"):
            self.assertEqual(command("show", one, two, one, "--format", form).output,
                             ane_bench.show([run, other], form))
        drawing = self.directory / "both.svg"
        command("chart", one, two, one, "-o", str(drawing))
        self.assertEqual(drawing.read_text(), ane_bench.chart([run, other]))

    def test_what_several_sustained_is_told_of_each(self) -> None:
        text = ane_bench.show([long_run([18.6] * 60 + [16.4] * 60), long_run([12.0] * 60)], "table")
        self.assertIn("on this M4. Throttled: FP16 512x64x128 from 18.6 to 16.4 TOPS.\n", text)
        self.assertEqual(text.count(": FP16 512x64x128 over "), 2)

    def test_what_is_measured_in_other_ways_stands_apart(self) -> None:
        def titles(*made: Run) -> dict[str, None]:
            return dict.fromkeys(re.findall(r"(?m)^[0-9]+x\S+, (.*, TOPS, Ratio to .*)$",
                                            ane_bench.show(made, "table")))

        self.assertEqual(len(titles(made_run(), made_run(
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
            found = titles(made_run(), other)
            self.assertEqual(len(found), 2)
            self.assertIn(words, "\n".join(found))
            self.assertEqual([len(group) for _, group in ane_bench.groups_of([other, other])], [2])

    def test_machines_are_sorted_by_chip_then_by_date_and_named_by_it_if_need_be(self) -> None:
        made = []
        for chip, started in (("M10", "2026-01-01T03"), ("M2 Max", "2026-03-01T03"),
                              ("M2", "2026-02-01T03"), ("M2 Max", "2026-01-01T09"),
                              ("M2 Max", "2026-01-01T03"), ("\u0663", "2026-01-01T03")):
            made.append(made_run(system={"chip": f"Apple {chip}"}))
            made[-1].started = f"{started}:04:05+00:00"
        ((_, group),) = ane_bench.groups_of(made)
        self.assertEqual(ane_bench.machine_names(group), [
            "\u0663", "M2", "M2 Max, 2026-01-01T03:04:05", "M2 Max, 2026-01-01T09:04:05",
            "M2 Max, 2026-03-01", "M10"])

    def test_a_name_too_long_for_a_terminal(self) -> None:
        made = [*ten_macs(), made_run(ORIGINAL[:1], ALL)]
        made[-1].system["model"] = "MacBookPro18,18, with a name as long as they get"
        text = ane_bench.show(made, "table", 60)
        for rows in re.findall(r"Ratio to FP16\n\n((?:.+\n)+)", text):
            self.assertLessEqual(max(len(row) for number, row in enumerate(rows.splitlines())
                                     if number < 2 or row.endswith("ok")), 60)
        self.assertNotIn("±95%", text)

    def test_machines_that_did_not_measure_a_configuration_have_no_row(self) -> None:
        made = [made_run(ORIGINAL[:2]), made_run(ORIGINAL[1:3], system={"chip": "Apple M5"})]
        found = re.findall(r"(?m)^([0-9x]+), 1 s|^(M[45])\b.* ok$", ane_bench.show(made, "table"))
        self.assertEqual([config or chip for config, chip in found], [
            "512x64x128", "M4", "512x64x64", "M4", "M5", "256x64x256", "M5"])

    def test_one_is_shown_as_it_was_printed(self) -> None:
        run = made_run()
        run.warn("busy", "other programs")
        for form in ("table", "markdown", "csv", "json"):
            self.assertEqual(ane_bench.show([run], form), ane_bench.report(run, form))
        done = command("show", written(self.directory / "run.json", run))
        self.assertEqual((done.output, done.errors),
                         (run.table(), "ane_bench: warning (busy) other programs\n"))
