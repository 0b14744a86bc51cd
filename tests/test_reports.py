"""Section 11: what is printed of a record, what is read back, compared and drawn."""

import contextlib
import copy
import csv
import functools
import io
import itertools
import json
import re
import tempfile
import unittest
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import Cell, Config, Protocol, Result, Run, UsageError
from tests import support
from tests.support import Finished

# A run that takes no time, whose clock shows what it is told to.
EXACT = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a16:1600,w8a8:1000"}
UNCHECKED = ("--verify", "0", "--iters", "10", "--rounds", "5", "--warmup", "1", "--quiet")

Times = Mapping[str, float]
TIMES: Times = {"fp16": 9.876, "w8a16": 8.5, "w8a8": 4.938}
DEFAULTS = ane_bench.DEFAULT_CONFIGS
ONE = DEFAULTS[:1]
PAIR = ("fp16", "w8a8")
ALL = ("fp16", "w8a16", "w8a8")
SHORT = Protocol(iters=5, rounds=5)
ERROR = "com.apple 1: no"


def sweep(channels: Sequence[int] = (256,), spatial: Sequence[int] = (64,), depth: Sequence[int] = (64,)) -> list[Config]:
    """The cross product, as the command line makes it."""
    return [Config(*shape) for shape in itertools.product(channels, spatial, depth)]


def made(configs: Sequence[Config] = ONE, variants: Sequence[str] = PAIR, *, ms: Times = TIMES, engine: str = "ane",
         system: Optional[Mapping[str, Any]] = None, failed: Sequence[tuple[int, str]] = (),
         wrong: Sequence[tuple[int, str]] = (), protocol: Protocol = SHORT, spread: float = 0.002,
         error: str = ERROR) -> dict[str, Any]:
    """The record of a run in which a variant takes `ms` of the first configuration, of others by their work; cells named by
    the configuration's place failed, or gave a wrong output. The times grow by `spread` from the first round on."""
    run = Run(engine, protocol, configs, variants)
    run.command = ["ane_bench.py", "--quiet"]
    run.system = {"chip": "Apple M4", "ane_subtype": "h16g", "macos": "26.4", **(system or {})}
    for place, config in enumerate(configs):
        cells = {}
        for variant in variants:
            time = ms[variant] * 1e6 * config.gop / configs[0].gop
            rounds = [[time * (1 + spread * number / protocol.rounds)] * (protocol.iters // protocol.rounds)
                      for number in range(protocol.rounds)]
            cell = Cell(variant, samples_ns=rounds, blob="standard", dialect="1.3")
            if protocol.verify:
                cell = cell._replace(verified={"pixels": 1, "ok": (place, variant) not in wrong})
            if (place, variant) in failed:
                cell = Cell(variant, "failed", "compile", error)
            elif (place, variant) in wrong:
                cell = cell._replace(status="failed", stage="verify", error=error)
            cells[variant] = cell
        run.results.append(Result(config, cells))
        run.warnings.extend(ane_bench.examine(run, run.results[-1]))
    record: dict[str, Any] = json.loads(ane_bench.record_text(run.to_dict()))
    return record


def table(record: Mapping[str, Any]) -> list[str]:
    """The lines of a record's table."""
    view = ane_bench.view_of(record)
    rows = "".join(ane_bench.table_rows(result, view) for result in record["results"])
    return (ane_bench.table_head(record, view) + rows).splitlines()


def notes(record: Mapping[str, Any]) -> list[str]:
    """The lines below a record's table."""
    return ane_bench.footnotes(record, ane_bench.view_of(record))


def main(*arguments: str) -> Finished:
    """The command line, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = ane_bench.main(arguments)
    return Finished(code, output.getvalue(), errors.getvalue())


SMALL_TABLE = """\
=== ane_bench VERSION (stand-in library, Stand-in, h16g, macOS 0.0) ===

Config                           W(MB)     GOP   ms/eval    TOPS   Ratio    ±95%  Check
---------------------------------------------------------------------------------------
FP16 2x conv 512ch 8x8            1.0    0.07    2.000 ms   0.03           ±0.0%
W8A8 2x conv 512ch 8x8            0.5    0.07    1.000 ms   0.07  2.00x    ±0.0%

FP16 4x conv 256ch 16x16          0.5    0.13    2.000 ms   0.07           ±0.0%
W8A8 4x conv 256ch 16x16          0.2    0.13    1.000 ms   0.13  2.00x    ±0.0%

"""


class TableTest(support.StandinCase):
    """The original's columns to the character, then the module's own."""

    def test_the_originals_columns(self) -> None:
        text = support.shared("original", "README.md").read_text()
        title, headings, rule, *samples = [line[4:] for line in text.splitlines() if re.match(" {4}[^ (]", line)][:5]
        self.assertTrue(title.startswith("=== ") and samples[1].startswith("W8A8 "))
        original, own = made(protocol=ane_bench.ORIGINAL_PROTOCOL), made()
        self.assertEqual([line for line in table(original) if line][:3], [title, headings, rule])
        self.assertEqual(table(own)[2][:len(headings)], headings)
        place = samples[0].index("#.###")
        for record in (original, own):
            for sample, line in zip(samples, table(record)[4:6]):
                self.assertEqual(line[:place], sample[:place])
                self.assertEqual(re.sub("[0-9]", "#", line[place:len(sample)]), sample[place:])
                self.assertEqual(line[len(sample):].split(), [] if record is original else ["±0.1%", "ok"])
        self.assertEqual(table(original)[6:], [""])

    def test_a_whole_run(self) -> None:
        finished = self.run_standin("--config", "512x8x2", "--config", "256x16x4", *UNCHECKED, **EXACT)
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(finished.output, SMALL_TABLE.replace("VERSION", ane_bench.__version__))

    def test_columns_line_up_with_their_headings(self) -> None:
        for spread, slow in ((0.002, 1.0), (0.4, 1.0), (0.002, 12.0)):
            lines = table(made(ms={"fp16": 9.876 * slow, "w8a8": 4.938}, spread=spread))
            headings, rule, rows = lines[2], lines[3], lines[4:6]
            self.assertEqual(len(rule), len(headings))
            for heading, shown in (("±95%", "±[0-9.]+%"), ("Check", "ok")):
                end = headings.index(heading) + len(heading)
                for row in rows:
                    self.assertRegex(row[:end], f" {shown}$")
            ratio = f"{2 * slow:.2f}x"
            start = rows[1].index(f" {ratio} ") + 1
            self.assertLessEqual(headings.index("TOPS") + len("TOPS"), start)
            self.assertLessEqual(abs(headings.index("Ratio") + len("Ratio") - (start + len(ratio))), 1)

    def test_a_failed_row(self) -> None:
        lines = table(made(failed=[(0, "w8a8")]))
        self.assertEqual(lines[5], "W8A8 128x conv 512ch 64x64     failed in stage compile: com.apple 1: no")
        self.assertEqual(lines[4], table(made())[4])

    def test_a_row_of_wrong_output_keeps_its_figures(self) -> None:
        right, lines = table(made()), table(made(wrong=[(0, "w8a8")]))
        self.assertEqual(lines[4], right[4])
        self.assertTrue(right[5].endswith("   ok"))
        self.assertEqual(lines[5], re.sub("   ok$", "WRONG", right[5]))
        self.assertEqual(lines[6], "     failed in stage verify: com.apple 1: no")

    def test_the_original_fails_as_the_original_does(self) -> None:
        lines = table(made(failed=[(0, "w8a8")], protocol=ane_bench.ORIGINAL_PROTOCOL))
        self.assertEqual(lines[4:], ["  W8A8 128x conv 512ch: compile FAIL: com.apple 1: no",
                                     "  128x conv 512ch: FP16=9.9 INT8=-3.0 (FAIL)"])

    def test_the_reference_says_what_it_is(self) -> None:
        title = "reference engine in plain Python, which says nothing about a Neural Engine"
        self.assertEqual(table(made(engine="reference"))[0], f"=== ane_bench {ane_bench.__version__} ({title}) ===")


class SweepTest(support.StandinCase):
    """In the table only what varies gets in the way of the eye."""

    def swept(self, *arguments: str) -> tuple[list[str], str]:
        """The first column of each line of a run, and what stands below the table."""
        finished = self.run_standin(*arguments, **EXACT)
        self.assertEqual(finished.code, 0, finished.output + finished.errors)
        rows = [line[:30].rstrip() for line in finished.output.splitlines() if re.match("FP16|W8A", line)]
        return rows, finished.output.split("\n\n")[-1]

    def test_a_cross_product(self) -> None:
        rows, below = self.swept("--channels", "64,32", "--spatial", "8,16", "--depth", "2", *UNCHECKED)
        self.assertEqual(rows, [f"{variant} {channels}ch {size}" for channels in (64, 32) for size in ("8x8", "16x16")
                                for variant in ("FP16", "W8A8")])
        self.assertEqual(below, "All: 2x conv.\n")

    def test_one_dimension(self) -> None:
        lists = ("--channels", "64", "--spatial", "8", "--depth", "1,2,3", "--variants", "fp16,w8a16")
        rows, below = self.swept(*lists, *UNCHECKED)
        self.assertEqual(rows, [f"{variant} {depth}x conv" for depth in (1, 2, 3) for variant in ("FP16", "W8A16")])
        self.assertEqual(below, "All: 64ch 8x8.\n")

    def test_all_three(self) -> None:
        rows, below = self.swept("--channels", "16,32", "--spatial", "8,4", "--depth", "1,2", "--variants", "w8a8", *UNCHECKED)
        self.assertEqual(rows, [f"W8A8 {depth}x conv {channels}ch {size}x{size}" for channels in (16, 32) for size in (8, 4)
                                for depth in (1, 2)])
        self.assertEqual(below, "")

    def test_full_labels(self) -> None:
        rows, below = self.swept("--channels", "64", "--spatial", "64", "--depth", "1,2,3", "--original", "--quiet")
        self.assertEqual(rows[::2], [f"FP16 {depth}x conv 64ch 64x64" for depth in (1, 2, 3)])
        self.assertEqual(below, "=== Done ===\n")
        for configs in (DEFAULTS, DEFAULTS[:1], DEFAULTS[:2], sweep(depth=(1, 2))):
            record = made(configs)
            rows = [line[:30].rstrip() for line in table(record) if line.startswith("FP16")]
            self.assertEqual(rows, [f"FP16 {config.label()}" for config in configs])
            self.assertFalse([note for note in notes(record) if note.startswith("All")])


class FallbackTest(support.StandinCase):
    """A program that is refused is tried again, and that is said wherever its figures are."""

    TWO = ("--config", "64x8x2", "--config", "32x8x2")
    LOUD = UNCHECKED[:-1]

    def compiles(self) -> list[str]:
        """The variants of all compiles, in order."""
        return [found.group(1) for line in self.calls() for found in [re.fullmatch(r"compile (\w+) qos=21", line)] if found]

    def check_fallback(self, refuse: str, blob: str, dialect: str, attempts: int) -> None:
        """A run where only the last of so many attempts works."""
        path = self.directory / "run.json"
        finished = self.run_standin(*self.TWO, *self.LOUD, "--save", str(path), REFUSE=refuse, **EXACT)
        self.assertEqual(finished.code, 0, finished.output + finished.errors)
        self.assertEqual(len(re.findall("^(?:FP16|W8A8) .* ms ", finished.output, re.MULTILINE)), 4)
        self.assertEqual(finished.output.splitlines()[-1], "Fallback: FP16 and W8A8, refused as standard/1.3, measured with the "
                                                           f"{blob} weight file and dialect {dialect}.")
        self.assertRegex(finished.errors, r"warning \(fallback\) fp16 at 64x8x2: refused as standard/1\.3: .*"
                                          rf"; taken as {blob}/{dialect}, which --blob {blob} --dialect {dialect} asks for at once")
        record = ane_bench.read_record(str(path))
        for expected, result in zip((ane_bench.ATTEMPTS[:attempts - 1], ()), record["results"]):
            for cell in result["variants"].values():
                self.assertEqual((cell["status"], cell["blob"], cell["dialect"]), ("ok", blob, dialect))
                tried = [text.split(":")[0] for text in cell.get("refused", [])]
                self.assertEqual(tried, ["/".join(attempt) for attempt in expected])
        messages = [warning["message"] for warning in record["warnings"] if warning["code"] == "fallback"]
        self.assertEqual([message.split(":")[0] for message in messages], ["fp16 at 64x8x2", "w8a8 at 64x8x2"])
        # What worked is tried first for the second configuration.
        self.assertEqual(self.compiles(), ["fp16"] * attempts + ["w8a8"] * attempts + ["fp16", "w8a8"])

    def test_another_layout(self) -> None:
        self.check_fallback("standard", "original", "1.3", 3)

    def test_another_dialect(self) -> None:
        self.check_fallback("short", "standard", "1.0", 2)

    def test_what_is_asked_for_is_no_fallback(self) -> None:
        finished = self.run_standin(*self.TWO, *self.LOUD, "--blob", "original", REFUSE="standard", **EXACT)
        self.assertEqual(finished.code, 0, finished.output + finished.errors)
        self.assertNotIn("allback", finished.output + finished.errors)
        self.assertEqual(self.compiles(), ["fp16", "w8a8"] * 2)

    def test_nothing_works(self) -> None:
        record = self.run_record(*self.TWO, *UNCHECKED, code=1, REFUSE="standard,short", **EXACT)
        cells = [cell for result in record["results"] for cell in result["variants"].values()]
        self.assertEqual(len(cells), 4)
        for cell in cells:
            self.assertEqual((cell["status"], cell["stage"]), ("failed", "compile"))
            self.assertEqual({"blob", "ms", "samples_ns", "tops"} & set(cell), set())
            self.assertRegex(cell["error"], r"^standard/1\.3: com\.apple.*; standard/1\.0: com\.apple.*; original/1\.3: com\.apple")
        self.assertEqual(self.compiles(), (["fp16"] * 3 + ["w8a8"] * 3) * 2)
        self.assertNotIn("fallback", [warning["code"] for warning in record["warnings"]])
        self.assertEqual(notes(record), [])

    def test_a_single_attempt_is_told_as_it_is(self) -> None:
        fixed = ("--blob", "original", "--dialect", "1.3")
        record = self.run_record(*self.TWO[:2], *UNCHECKED, *fixed, code=1, REFUSE="original", **EXACT)
        self.assertEqual(len(record["results"][0]["variants"]), 2)
        for cell in record["results"][0]["variants"].values():
            self.assertRegex(cell["error"], r"^com\.apple")

    def test_a_refused_variant_does_not_cost_the_other_its_figures(self) -> None:
        record = self.run_record(*self.TWO, *UNCHECKED, code=1, FAULT="w8a8/compile:no", **EXACT)
        self.assertEqual(len(record["results"]), 2)
        for result in record["results"]:
            fp16, w8a8 = (result["variants"][variant] for variant in PAIR)
            self.assertEqual((fp16["status"], fp16["blob"], fp16["dialect"]), ("ok", "standard", "1.3"))
            self.assertAlmostEqual(fp16["ms"]["median"], 2, delta=0.001)
            self.assertEqual((w8a8["status"], result["ratio"]), ("failed", {}))


def published_by_facts() -> list[tuple[str, Config, float, float, str]]:
    """The rows of facts/results.md that are of one chip, each configuration by itself; all are of 64x64 pixels."""
    rows = []
    for line in support.shared("facts", "results.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("chip", "---"):
            continue
        chip, _, shapes = cells[0].partition(", ")
        several = re.findall(r"([0-9]+)×([0-9]+)", shapes)
        depth = re.findall(r"depth ([0-9]+)", shapes) or ["128"]
        figures = [re.findall(r"[0-9]+\.[0-9]+", re.sub(r"\([^)]*\)", "", cell)) for cell in cells[2:4]]
        if " / " not in chip:
            chip = re.sub(r" \(h[0-9a-z]+\)", "", chip)
            rows += [(chip, Config(int(channels), 64, int(layers)), float(fp16), float(w8a8), cells[4])
                     for (layers, channels), fp16, w8a8 in zip(several or [(depth[0], "512")], *figures)]
    return rows


class PublishedTest(support.StandinCase):
    """The run is put beside what is published for its chip and configuration."""

    def test_a_run(self) -> None:
        settings = {**EXACT, "LATENCY": "fp16:14800,w8a8:7800", "SYSCTL": "machdep.cpu.brand_string=Apple M4"}
        finished = self.run_standin("--config", "512x64x128", *UNCHECKED, **settings)
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(finished.output.splitlines()[-1], "M4 at 512x64x128: FP16 18.6 TOPS here, 18.6 published; W8A8 35.2 TOPS "
                                                           "here, 35.1 published (maderix/ANE README).")

    def test_one_line_for_the_first_configuration_that_is_known(self) -> None:
        note, = notes(made([Config(64, 8, 2), *DEFAULTS[2:]], system={"chip": "Apple M2 Max"}, failed=[(1, "w8a8")]))
        self.assertRegex(note, r"^M2 Max at 256x64x256: FP16 [0-9.]+ TOPS here, 13\.4 published \(a public notebook .*\)\.$")

    def test_none(self) -> None:
        self.assertEqual(len(notes(made(DEFAULTS, system={"chip": "Apple M4"}))), 1)
        for chip in ("Apple M9", "Apple M4 Pro", "Stand-in", ""):
            self.assertEqual(notes(made(DEFAULTS, system={"chip": chip})), [])
        self.assertEqual(notes(made([Config(512, 32, 128)])), [])
        self.assertEqual(notes(made(failed=[(0, "fp16"), (0, "w8a8")])), [])
        record = made(DEFAULTS)
        del record["system"]["chip"]
        self.assertEqual(notes(record), [])

    def test_the_table_is_the_facts(self) -> None:
        # The Air's chip is an M4 too, and best of N is no median; an iPhone does not run this.
        left_out = {"M4 (Air)", "A19 (iPhone 17)"}
        facts = published_by_facts()
        self.assertEqual(len(facts), 11)
        self.assertLessEqual(left_out, {row[0] for row in facts})
        own = {(row.chip, row.config, row.fp16, row.w8a8) for row in ane_bench.PUBLISHED}
        self.assertEqual(own, {row[:4] for row in facts if row[0] not in left_out})

    def test_each_figure_has_its_source(self) -> None:
        source = ""
        for chip, config, _, _, named in published_by_facts():
            source = source if named == "same" else "notebook" if "notebook" in named else named
            for row in ane_bench.PUBLISHED:
                if (row.chip, row.config) == (chip, config):
                    self.assertIn(source, row.source)


def blocks(text: str) -> dict[str, list[str]]:
    """The lines of a markdown text by the kind of block that they make."""
    kinds: dict[str, list[str]] = {"table": [], "item": [], "code": [], "text": []}
    for line in filter(None, text.splitlines()):
        kinds[{"|": "table", "-": "item", "`": "code"}.get(line[0], "text")].append(line)
    return kinds


def unescaped(text: str) -> str:
    """What markdown shows of a text, in which nothing may be left that it takes for its own signs."""
    assert not re.search(r"[`*_<>|\[\]~&#]", re.sub(r"\\.", "", text)), text
    return re.sub(r"\\(.)", r"\1", text)


class MarkdownTest(unittest.TestCase):
    """A block to paste into an issue."""

    def test_the_blocks(self) -> None:
        system = {"model": "Mac16,1", "memory_bytes": 16 << 30, "power_source": "Battery Power"}
        record = made(variants=ALL, failed=[(0, "w8a8")], system=system)
        found = blocks(ane_bench.markdown(record))
        machine = f"M4, h16g, macOS 26.4, Mac16,1, Battery Power, 16 GiB, {record['started']}"
        self.assertEqual(found["text"], [f"**ane_bench {ane_bench.__version__}**: {machine}"])
        self.assertEqual(found["code"], ["`python3 ane_bench.py --quiet`"])
        head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found["table"]]
        self.assertEqual(head, ["Config", "W(MB)", "GOP", "ms/eval", "TOPS", "Ratio", "±95%", "Check"])
        self.assertTrue(all(re.fullmatch(":--|--:", cell) for cell in rule))
        self.assertEqual([len(row) for row in (rule, *rows)], [8] * 4)
        self.assertEqual(rows[0], ["FP16 128x conv 512ch 64x64", "64.0", "274.88", "9.884 ms", "27.81", "", "±0.1%", "ok"])
        self.assertEqual(rows[1][5], "1.16x")
        self.assertEqual(rows[2], ["W8A8 128x conv 512ch 64x64", "32.0", "274.88", *[""] * 5])
        items = [unescaped(line[2:]) for line in found["item"]]
        self.assertEqual(len(items), 3)
        self.assertEqual(items[0], f"W8A8 128x conv 512ch 64x64 failed in stage compile: {ERROR}")
        self.assertTrue(items[1].startswith("M4 at 512x64x128: FP16 27.8 TOPS here"))
        self.assertRegex(items[2], r"^warning \(battery\) the Mac runs on battery")

    def test_special_characters(self) -> None:
        error = "a|b *c* _d_ `e` <f> [g](h) i\\j ~k~ &amp; #6"
        found = blocks(ane_bench.markdown(made(failed=[(0, "w8a8")], error=error, system={"model": "<b>|x"})))
        self.assertEqual(unescaped(found["item"][0][2:]), f"W8A8 128x conv 512ch 64x64 failed in stage compile: {error}")
        self.assertIn(", <b>|x, ", unescaped(found["text"][0].split("**", 2)[2]))

    def test_a_command_with_fences(self) -> None:
        record = {**made(), "command": ["ane_bench.py", "--save", "a`b``.json"]}
        self.assertEqual(ane_bench.markdown(record).splitlines()[-1], "```python3 ane_bench.py --save 'a`b``.json'```")

    def test_a_sweep_and_its_note(self) -> None:
        found = blocks(ane_bench.markdown(made(sweep(depth=(1, 2, 3)))))
        first = [line.split("|")[1].strip() for line in found["table"][2:]]
        self.assertEqual(first, [f"{name} {depth}x conv" for depth in (1, 2, 3) for name in ("FP16", "W8A8")])
        self.assertEqual(found["item"][0], "- All: 256ch 64x64.")


class CsvTest(unittest.TestCase):
    """One header line, one line per cell, nothing else."""

    ERROR = 'said "NO", twice; 5,5'

    def lines(self, record: Mapping[str, Any]) -> list[dict[str, str]]:
        """A record's csv, read back."""
        text = ane_bench.comma_separated(record)
        lines = list(csv.DictReader(io.StringIO(text)))
        self.assertEqual(len(text.splitlines()), 1 + len(lines))
        for line in lines:
            self.assertEqual(list(line), [field.name for field in ane_bench.FIELDS])
            self.assertNotIn(None, line.values())
        return lines

    def test_read_back(self) -> None:
        record = made(DEFAULTS[:2], ALL, failed=[(1, "w8a8")], wrong=[(0, "w8a16")], error=self.ERROR)
        lines = self.lines(record)
        self.assertEqual([(line["config"], line["variant"]) for line in lines],
                         [(config.name, variant) for config in DEFAULTS[:2] for variant in ALL])
        self.assertEqual([line["check"] for line in lines], ["ok", "WRONG", "ok", "ok", "ok", ""])
        self.assertEqual([line["status"] for line in lines], ["ok", "failed", "ok", "ok", "ok", "failed"])
        self.assertEqual({line["chip"] for line in lines}, {"Apple M4"})
        names = ("mean", "min", "p95", "mad")
        cells = [(result, *item) for result in record["results"] for item in result["variants"].items()]
        for line, (result, variant, cell) in zip(lines[:5], cells):
            self.assertEqual([int(line[name]) for name in Config._fields], list(result["config"].values()))
            self.assertEqual([float(line[name]) for name in ("gop", "tops", "weights_mib")],
                             [result["gop"], cell["tops"], cell["weights_mib"]])
            self.assertEqual([float(line[f"ms_{name}"]) for name in names], [cell["ms"][name] for name in names])
            self.assertEqual([float(line["ms"]), float(line["ms_low"]), float(line["ms_high"])],
                             [cell["ms"]["median"], *cell["ms"]["ci95"]])
            self.assertEqual(line["ratio"], str(result["ratio"][variant]["value"]) if variant != "fp16" else "")

    def test_failed_cells(self) -> None:
        lines = self.lines(made(ONE, failed=[(0, "w8a8")], wrong=[(0, "fp16")], error=self.ERROR))
        names = ("status", "stage", "error")
        self.assertEqual([lines[0][name] for name in names], ["failed", "verify", self.ERROR])
        self.assertGreater(float(lines[0]["tops"]), 0)
        self.assertEqual([lines[1][name] for name in names], ["failed", "compile", self.ERROR])
        self.assertEqual({lines[1][name] for name in ("ms", "tops", "ratio", "ms_low", "ms_mean", "check", "blob")}, {""})

    def test_the_originals_time_is_the_mean(self) -> None:
        # Within its one round the times are equal but for the first.
        record = made(protocol=ane_bench.ORIGINAL_PROTOCOL)
        cell = record["results"][0]["variants"]["fp16"]
        cell["ms"]["mean"] += 1
        self.assertEqual(float(self.lines(record)[0]["ms"]), cell["ms"]["median"] + 1)


class RecordTest(support.StandinCase):
    """The record on standard output, in the file, and read back."""

    def test_standard_output_is_the_file(self) -> None:
        path = self.directory / "run.json"
        two = ("--config", "64x8x2", "--config", "32x8x2")
        finished = self.run_standin(*two, *UNCHECKED, "--format", "json", "--save", str(path), **EXACT)
        self.assertEqual(finished.code, 0, finished.output + finished.errors)
        self.assertEqual(path.read_text(), finished.output)
        record = ane_bench.read_record(str(path))
        self.assertEqual(record, json.loads(finished.output))
        self.assertEqual(len(record["results"]), 2)

    def test_what_is_no_record(self) -> None:
        good = made(failed=[(0, "fp16")])
        path = self.directory / "run.json"

        def without(*way: Any) -> str:
            """The good record without one part."""
            return altered(way, None)

        def altered(way: Sequence[Any], to: Any) -> str:
            """The good record with another value in one place."""
            record = copy.deepcopy(good)
            place = functools.reduce(lambda part, name: part[name], way[:-1], record)
            self.assertIn(way[-1], place)
            place[way[-1]] = to
            if to is None:
                del place[way[-1]]
            return json.dumps(record)

        result: tuple[Any, ...] = ("results", 0)
        cell = (*result, "variants", "w8a8")
        bad = ["", "{", "[]", "null", "\x00\xff", json.dumps(good)[:-9], "[" * 100000, without("schema"), without("protocol"),
               without(*cell, "status"), without(*cell, "ms"), without(*cell, "tops"), without(*cell, "samples_ns")]
        for way, values in {
            ("schema",): (1,), ("results",): ({},), ("warnings",): ([{"code": 1}],), ("protocol", "iters"): (10 ** 30, 1.5, True),
            (*result, "config", "depth"): (0, "1"), (*result, "gop"): (0, -1, "1", True, 1e30),
            (*result, "variants"): ({"fp8": good["results"][0]["variants"]["w8a8"]},), (*result, "ratio"): ({"fp8": {"value": 1}},),
            (*result, "variants", "fp16", "status"): ("ok",), (*cell, "status"): ("maybe", 1),
            (*cell, "tops"): (True, float("nan"), float("inf"), 1e200, 5e-324, 0, -1), (*cell, "ms", "median"): (0, -1),
            (*cell, "ms", "mean"): (0,), (*cell, "ms", "ci95"): ([1], [-1, 1], [0, 1], [1, 2, 3], ["a", "b"]),
            (*cell, "samples_ns"): ([], [[]], [[0]], [["1"]], [1], [[1e300]]),
        }.items():
            bad += [altered(way, value) for value in values]
        path.write_text(json.dumps(good))
        self.assertEqual(ane_bench.read_record(str(path)), good)
        for text in bad:
            with self.subTest(text[:60]):
                path.write_text(text, encoding="latin-1")
                with self.assertRaisesRegex(UsageError, r"run\.json: expected a record as --save writes it"):
                    ane_bench.read_record(str(path))

    def test_another_schema_is_refused_by_name(self) -> None:
        path = self.directory / "run.json"
        path.write_text(json.dumps({**made(), "schema": "ane-bench/2"}))
        with self.assertRaisesRegex(UsageError, "is of schema 'ane-bench/2'; expected ane-bench/1"):
            ane_bench.read_record(str(path))

    def test_unknown_fields_are_ignored(self) -> None:
        record = made()
        record["results"][0]["variants"]["fp16"]["new"] = record["new"] = {"a": [1]}
        path = self.directory / "run.json"
        path.write_text(json.dumps(record))
        self.assertEqual(ane_bench.read_record(str(path)), record)


class WarningLinesTest(unittest.TestCase):
    """A line for each code."""

    def test_grouped(self) -> None:
        seen = (("drift", "one"), ("spread", "two"), ("drift", "three"), ("drift", "four"))
        warnings = [{"code": code, "message": message} for code, message in seen]
        self.assertEqual(ane_bench.grouped(warnings), ["(drift) one (seen 3 times)", "(spread) two"])
        self.assertEqual(ane_bench.grouped([]), [])


class CompareTest(support.StandinCase):
    """Known latencies give known verdicts."""

    THREE = ("--config", "64x8x2", "--variants", ",".join(ALL))
    LONG = (*THREE, "--iters", "50", "--rounds", "10", "--warmup", "10")
    EQUAL = "fp16:1000,w8a16:1000,w8a8:1000"
    UNSTEADY: Mapping[str, Any] = {"DRIFT": "1", "SPIKE": "17x10"}

    def record(self, name: str, *arguments: str, ok: bool = True, **settings: Any) -> str:
        """The path of a run's record."""
        path = str(self.directory / f"{name}.json")
        finished = self.run_standin(*UNCHECKED, "--save", path, *(arguments or self.THREE), **{**EXACT, **settings})
        self.assertEqual(finished.code, 0 if ok else 1, finished.output + finished.errors)
        return path

    def verdicts(self, *paths: str) -> dict[str, tuple[str, str]]:
        """Speed and verdict of each cell of two records of one configuration."""
        output = main("compare", *paths).output
        lines = re.findall("^(?:FP16|W8A16|W8A8) .*", output, re.MULTILINE)
        found = [re.fullmatch(r"(\w+) .* ([0-9.]+)x +(?:[0-9.]+-[0-9.]+ +)?(\w+)", line) for line in lines]
        cells = {match.group(1): (match.group(2), match.group(3)) for match in found if match}
        self.assertEqual(len(cells), len(lines), output)
        return cells

    def test_faster_slower_same(self) -> None:
        base, new = self.record("base", LATENCY=self.EQUAL), self.record("new", LATENCY="fp16:750,w8a16:1200,w8a8:1000")
        same = {"W8A8": ("1.00", "same")}
        self.assertEqual(self.verdicts(base, new), {"FP16": ("1.33", "faster"), "W8A16": ("0.83", "slower"), **same})
        self.assertEqual(self.verdicts(new, base), {"FP16": ("0.75", "slower"), "W8A16": ("1.20", "faster"), **same})
        finished = main("compare", base, new)
        self.assertEqual((finished.code, finished.errors), (0, ""))
        lines = finished.output.splitlines()
        self.assertEqual((lines[3], lines[5]), (
            "Cell                             BASE ms    NEW ms  BASE TOPS  NEW TOPS   Speed  95%           Verdict",
            "FP16 2x conv 64ch 8x8              1.000     0.750       0.00      0.00   1.33x  1.333-1.333   faster"))
        self.assertEqual(lines[-1], f"geometric mean over 3 cells: {(1 / 0.75 / 1.2) ** (1 / 3):.3f}x")
        self.assertNotIn("differs", finished.output)

    def test_undecided(self) -> None:
        base = self.record("base", LATENCY="fp16:2000,w8a16:1000,w8a8:1000")
        new = self.record("new", *self.LONG, LATENCY="fp16:1550,w8a16:1000,w8a8:300", **self.UNSTEADY)
        self.assertEqual({name: verdict for name, (_, verdict) in self.verdicts(base, new).items()},
                         {"FP16": "undecided", "W8A16": "slower", "W8A8": "faster"})
        self.assertEqual(set(self.verdicts(new, new).values()), {("1.00", "undecided")})

    def test_few_rounds_decide_nothing(self) -> None:
        few = ("--config", "64x8x2", "--iters", "8", "--rounds", "4")
        enough = ("--config", "64x8x2", "--iters", "10", "--rounds", "5")
        fast = "fp16:200,w8a8:1000"
        few_base, few_new = self.record("few_base", *few), self.record("few_new", *few, LATENCY=fast)
        base, new = self.record("base", *enough), self.record("new", *enough, LATENCY=fast)
        nothing = {"FP16": ("10.00", "undecided"), "W8A8": ("1.00", "undecided")}
        self.assertEqual(self.verdicts(few_base, few_new), nothing)
        self.assertEqual(self.verdicts(few_base, new), nothing)
        self.assertEqual(self.verdicts(base, new), {"FP16": ("10.00", "faster"), "W8A8": ("1.00", "same")})
        self.assertEqual(main("compare", few_new, few_base, "--fail-if-slower", "5").code, 0)
        self.assertEqual(main("compare", new, base, "--fail-if-slower", "5").code, 1)

    def test_thresholds(self) -> None:
        for low, high, verdict in ((0.981, 1.019, "same"), (1.001, 1.019, "same"), (0.981, 0.999, "same"),
                                   (0.99, 1.021, "undecided"), (0.979, 1.0, "undecided"), (0.5, 2.0, "undecided"),
                                   (1.001, 1.021, "faster"), (0.9, 0.999, "slower")):
            self.assertEqual(ane_bench.verdict_of(low, high), verdict, (low, high))

    def test_differing_machines_and_protocols_are_named_first(self) -> None:
        small = ("--config", "64x8x2")
        base = self.record("base", *small, SYSCTL="machdep.cpu.brand_string=Apple M4;kern.osproductversion=26.4")
        new = self.record("new", *small, "--iters", "20", "--qos", "9",
                          SYSCTL="machdep.cpu.brand_string=Apple M5 Max;kern.osproductversion=")
        lines = main("compare", base, new).output.splitlines()
        self.assertRegex(lines[0], r"^BASE  stand-in library, M4, h16g, macOS 26\.4, 20[0-9-]+T[0-9:+]+$")
        self.assertRegex(lines[1], r"^NEW   stand-in library, M5 Max, h16g, 20[0-9-]+T[0-9:+]+$")
        self.assertEqual(lines[2:7], ["differs in chip: Apple M4 / Apple M5 Max", "differs in macos: 26.4 / unknown",
                                      "differs in iters: 10 / 20", "differs in qos: 21 / 9", ""])
        self.assertEqual([line.split()[0] for line in lines[7:-1] if line[0] != "-"], ["Cell", "FP16", "W8A8"])
        self.assertEqual(set(self.verdicts(base, new).values()), {("1.00", "same")})

    def test_cells_in_one_only_and_failed_ones(self) -> None:
        base = self.record("base", "--config", "64x8x2", "--config", "32x8x2")
        new = self.record("new", "--config", "64x8x2", "--config", "16x8x2", ok=False, FAULT="w8a8/load:silent")
        self.assertEqual(self.verdicts(base, new), {"FP16": ("1.00", "same")})
        output = main("compare", base, new).output
        told = [line.split(": ", 1) for line in output.splitlines()[6:]]
        self.assertEqual([name for name, _ in told],
                         ["fp16 at 32x8x2", "w8a8 at 32x8x2", "w8a8 at 64x8x2", "fp16 at 16x8x2", "w8a8 at 16x8x2"])
        self.assertEqual([told[place][1] for place in (0, 1, 3)], ["only in BASE", "only in BASE", "only in NEW"])
        for place in (2, 4):
            self.assertRegex(told[place][1], r"^failed in stage load: .*no NSError.* \(in NEW\)$")
        self.assertNotIn("geometric", output)

    def test_fail_if_slower(self) -> None:
        base = self.record("base", LATENCY=self.EQUAL)
        for latency, allowed, words in (("fp16:1000,w8a16:1000,w8a8:1000", "5", ""), ("fp16:500,w8a16:1040,w8a8:900", "5", ""),
                                        ("fp16:1000,w8a16:900,w8a8:1060", "5", "ane_bench: w8a8 at 64x8x2: takes 6.0% longer\n"),
                                        ("fp16:1000,w8a16:900,w8a8:1060", "6.5", ""),
                                        # What counts is the limit that was given, though the table calls 1.5 % the same.
                                        ("fp16:1015,w8a16:1000,w8a8:1000", "1", "ane_bench: fp16 at 64x8x2: takes 1.5% longer\n")):
            with self.subTest(latency, allowed=allowed):
                new = self.record("new", LATENCY=latency)
                finished = main("compare", base, new, "--fail-if-slower", allowed)
                self.assertEqual((finished.code, finished.errors), (1 if words else 0, words))
                self.assertEqual(main("compare", base, new).code, 0)

    def test_fail_if_slower_without_doubt(self) -> None:
        # It seems 15 % slower, and is so beyond doubt, but not beyond doubt by more than 5 %.
        base = self.record("base", LATENCY="fp16:2000,w8a16:9000,w8a8:9000")
        new = self.record("new", *self.LONG, LATENCY="fp16:1800,w8a16:900,w8a8:1000", **self.UNSTEADY)
        speed, verdict = self.verdicts(base, new)["FP16"]
        self.assertEqual(verdict, "slower")
        self.assertLess(float(speed), 0.93)
        self.assertEqual(main("compare", base, new, "--fail-if-slower", "5").code, 0)
        self.assertEqual(main("compare", base, new, "--fail-if-slower", "2").code, 1)

    def test_what_cannot_be_told(self) -> None:
        one, other = self.record("one"), self.record("other", "--config", "32x8x2")
        finished = main("compare", one, other, "--fail-if-slower", "5")
        self.assertEqual((finished.code, finished.errors), (1, "ane_bench: no cell has figures in both records\n"))
        few = self.record("few", "--iters", "4", "--rounds", "4")
        finished = main("compare", few, few, "--fail-if-slower", "5")
        self.assertEqual(finished.code, 0)
        self.assertIn("fewer than 5 rounds", finished.errors)

    def test_a_cell_that_fails_only_now(self) -> None:
        base, failed = self.record("base"), self.record("failed", ok=False, FAULT="w8a8/compile:silent")
        finished = main("compare", base, failed, "--fail-if-slower", "5")
        self.assertEqual(finished.code, 1)
        self.assertRegex(finished.errors, r"\Aane_bench: w8a8 at 64x8x2: failed in stage compile: [^\n]*\n\Z")
        for pair in ((failed, base), (failed, failed)):
            finished = main("compare", *pair, "--fail-if-slower", "5")
            self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(main("compare", base, failed).code, 0)

    def test_no_record_exits_with_2_in_one_line(self) -> None:
        good, bad = self.directory / "good.json", self.directory / "bad.json"
        good.write_text(json.dumps(made()))
        for text, words in ((None, "cannot be read: No such file"), ("{", "expected a record"),
                            ('{"schema": "other/1"}', "is of schema 'other/1'"),
                            ('{"schema": "ane-bench/1"}', "expected a record")):
            if text is not None:
                bad.write_text(text)
            for pair in ((good, bad), (bad, good)):
                finished = main("compare", *map(str, pair), "--fail-if-slower", "5")
                self.assertEqual((finished.code, finished.output), (2, ""))
                self.assertRegex(finished.errors, rf"\Aane_bench: [^\n]*bad\.json: {words}[^\n]*\n\Z")
        finished = main("compare", str(good), str(self.directory))
        self.assertRegex(finished.errors, r"\Aane_bench: .*cannot be read: Is a directory\n\Z")


SVG = "{http://www.w3.org/2000/svg}"
LETTER = 0.62  # a letter's width in font sizes, generously
Element = xml.etree.ElementTree.Element


class Box(NamedTuple):
    """Where a text is, as far as that can be told without a browser."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether the two overlap."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


def boxes(root: Element) -> list[Box]:
    """The texts of a drawing."""
    found = []
    for element in root.iter(f"{SVG}text"):
        x, y, size = (float(element.attrib[name]) for name in ("x", "y", "font-size"))
        text = element.text or ""
        width = LETTER * size * len(text)
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[element.attrib["text-anchor"]] * width
        found.append(Box(text, left, y - 0.8 * size, left + width, y + 0.2 * size))
    return found


def overlaps(root: Element) -> Iterator[tuple[str, str]]:
    """The texts that run into one another."""
    return ((one.text, other.text) for one, other in itertools.combinations(boxes(root), 2) if one.meets(other))


def points(element: Element) -> list[tuple[float, float]]:
    """The points of a line."""
    pairs = [point.split(",") for point in element.attrib["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def corners(element: Element) -> list[tuple[float, float]]:
    """Two corners of a rectangle."""
    x, y, width, height = (float(element.attrib[name]) for name in ("x", "y", "width", "height"))
    return [(x, y), (x + width, y + height)]


TWELVE = [*DEFAULTS, *(Config(*shape) for shape in ((16384, 64, 8), (64, 4096, 2), (128, 1024, 128), (2048, 64, 16), (768, 64, 12),
                                                    (512, 32, 8), (320, 32, 8)))]
LONG = {"chip": "Apple M5 Max Ultra Special Edition (64-core <engineering> sample)", "ane_subtype": "h17sextended",
        "macos": "26.4.1 (beta 3)"}
HERE_AND_THERE = [(1, "fp16"), (1, "w8a8"), (4, "w8a16"), (25, "w8a8")]


@functools.cache
def charts() -> dict[str, dict[str, Any]]:
    """Records to draw, by what is special about them."""
    return {
        "one": made(),
        "five": made(DEFAULTS),
        "five in three variants": made(DEFAULTS, ALL),
        "twelve": made(TWELVE, spread=0.5),
        "twelve of a sweep": made(sweep(channels=(128, 256, 384, 512), spatial=(32, 64, 128)), ALL),
        "failed": made(DEFAULTS, failed=[(1, "fp16"), (2, "w8a8"), (3, "fp16"), (3, "w8a8")], wrong=[(0, "w8a8")]),
        "all failed": made(failed=[(0, "fp16"), (0, "w8a8")]),
        "a long name": made(DEFAULTS, engine="stand-in", system=LONG),
        "the longest name": made(engine="stand-in", system={"chip": "M" * 1000}),
        "characters that XML cannot hold": made(system={"chip": "a\x00\x1b\ud800<&>\n"}),
        "the reference": made([Config(32, 8, 4), Config(64, 8, 4)], engine="reference", ms={"fp16": 900, "w8a8": 400}),
        "the original": made(DEFAULTS, protocol=ane_bench.ORIGINAL_PROTOCOL),
        "few rounds": made(DEFAULTS[:2], protocol=Protocol(iters=4, rounds=2)),
        "figures that cannot be": made(ms={"fp16": 1e9, "w8a8": 1e-6}),
        "a sweep of 3": made(sweep(depth=(32, 64, 128)), ALL),
        "a sweep of 12": made(sweep(channels=range(64, 832, 64)), ALL, ms={"fp16": 0.5, "w8a16": 0.45, "w8a8": 0.3}),
        "a sweep of 12 large ones": made(sweep(channels=range(1024, 13312, 1024), depth=(2,)), ALL),
        "a sweep of 18": made(sweep(depth=range(1, 19))),
        "a sweep of 40": made(sweep(depth=range(100, 140))),
        "a sweep that failed here and there": made(sweep(depth=range(100, 126)), ALL, failed=HERE_AND_THERE, wrong=[(6, "w8a8")]),
        "a sweep that failed": made(sweep(depth=(1, 2, 3)), failed=[*itertools.product(range(3), PAIR)]),
        "a sweep with one value twice": made(sweep(depth=(1, 2, 3, 3))),
        "nothing": made([]),
    }


def drawing(name: str) -> Element:
    """A chart, which must be well-formed."""
    return xml.etree.ElementTree.fromstring(ane_bench.chart(charts()[name]))


def texts(name: str) -> list[str]:
    """The texts of a chart."""
    return [box.text for box in boxes(drawing(name))]


class ChartTest(unittest.TestCase):
    """An SVG that is readable at 700 pixels. Screenshots were looked at; what can be computed is computed here."""

    def test_form(self) -> None:
        allowed = {f"{SVG}{tag}" for tag in ("svg", "title", "text", "rect", "polyline")}
        for name in charts():
            with self.subTest(name):
                root = drawing(name)
                self.assertEqual((root.tag, root.attrib["width"]), (f"{SVG}svg", "700"))
                self.assertEqual(root.attrib["viewBox"], f"0 0 700 {root.attrib['height']}")
                elements = list(root.iter())
                self.assertEqual({element.tag for element in elements} - allowed, set())
                for element in elements:
                    self.assertFalse([key for key in element.attrib if "href" in key or key.startswith("on") or key == "style"])
                    self.assertNotRegex(" ".join(element.attrib.values()), "url|:|@")
                ground = elements[2]
                self.assertEqual((ground.tag, ground.attrib["fill"]), (f"{SVG}rect", "#ffffff"))
                self.assertEqual((ground.attrib["width"], ground.attrib["height"]), ("700", root.attrib["height"]))

    def test_texts_do_not_overlap_nor_leave_the_drawing(self) -> None:
        for name in charts():
            with self.subTest(name):
                root = drawing(name)
                found, height = boxes(root), float(root.attrib["height"])
                self.assertGreaterEqual(len(found), 4)
                self.assertEqual(list(overlaps(root)), [])
                self.assertGreaterEqual(min(min(box.left, box.top) for box in found), 0)
                self.assertLessEqual(max(box.right for box in found), 700)
                self.assertLessEqual(max(box.bottom for box in found), height)
                self.assertGreaterEqual(min(float(element.attrib["font-size"]) for element in root.iter(f"{SVG}text")), 8)

    def test_the_overlap_test_sees_one(self) -> None:
        text = re.sub(r'y="45\.0"', 'y="30.0"', ane_bench.chart(charts()["five"]))
        self.assertEqual(len(list(overlaps(xml.etree.ElementTree.fromstring(text)))), 1)

    def test_shapes_stay_in_the_drawing(self) -> None:
        for name in charts():
            with self.subTest(name):
                root = drawing(name)
                shapes = [corners(element) for element in list(root.iter(f"{SVG}rect"))[1:]]
                shapes += [points(element) for element in root.iter(f"{SVG}polyline")]
                height = float(root.attrib["height"])
                self.assertTrue(shapes)
                for shape in shapes:
                    self.assertTrue(shape and all(0 <= x <= 700 and 0 <= y <= height for x, y in shape), shape)

    def test_what_bars_say(self) -> None:
        found = texts("failed")
        subtitle = f"TOPS, more is better, with 95 % intervals and ratio to FP16 (ane_bench {ane_bench.__version__})"
        self.assertEqual(found[:4], ["Neural Engine throughput: M4, h16g, macOS 26.4", subtitle, "FP16", "W8A8"])
        self.assertEqual([text for text in found if "conv" in text], [config.label() for config in DEFAULTS])
        self.assertEqual(found.count("failed in stage compile"), 4)
        self.assertEqual(len([text for text in found if re.fullmatch(r"[0-9.]+ \([0-9.]+x\) WRONG", text)]), 1)
        for result in charts()["five"]["results"]:
            tops, ratio = result["variants"]["w8a8"]["tops"], result["ratio"]["w8a8"]["value"]
            self.assertIn(f"{tops:.2f} ({ratio:.2f}x)", texts("five"))

    def test_bars_and_intervals_are_as_long_as_their_figures(self) -> None:
        root = drawing("twelve")
        bars = [corners(element) for element in root.iter(f"{SVG}rect") if element.attrib["height"] == "14.0"]
        intervals = [points(element) for element in root.iter(f"{SVG}polyline") if element.attrib["stroke"] == ane_bench.INK]
        cells = [(result["gop"], cell) for result in charts()["twelve"]["results"] for cell in result["variants"].values()]
        self.assertEqual((len(bars), len(intervals), len(cells)), (24, 24, 24))
        left = bars[0][0][0]
        scale = (bars[0][1][0] - left) / cells[0][1]["tops"]
        for bar, interval, (gop, cell) in zip(bars, intervals, cells):
            low, high = cell["ms"]["ci95"]
            for (x, _), figure in zip((bar[1], interval[0], interval[1]), (cell["tops"], gop / high, gop / low)):
                self.assertAlmostEqual(x - left, figure * scale, delta=0.4)
        self.assertGreater(max(bar[1][0] for bar in bars) - left, 150)

    def test_titles(self) -> None:
        self.assertEqual(texts("the original")[0], "Neural Engine throughput: M4, h16g, macOS 26.4")
        for name, words in (("five", True), ("the original", False), ("few rounds", False), ("a sweep that failed", False)):
            self.assertEqual("interval" in texts(name)[1], words, name)
        self.assertIn("stand-in library, M5 Max Ultra Special Edition (64-core <engineering> sample), h17", texts("a long name")[0])
        self.assertIn("a???<&>?", texts("characters that XML cannot hold")[0])
        self.assertRegex(texts("the reference")[0], "^reference engine in plain Python, which says nothing")
        self.assertIn(", 256ch 64x64 (", texts("a sweep of 3")[1])

    def test_small_rates_have_a_smaller_unit(self) -> None:
        found = texts("the reference")
        self.assertTrue(found[1].startswith("MOPS, "))
        for result in charts()["the reference"]["results"]:
            self.assertIn(f"{result['variants']['fp16']['tops'] * 1e6:.2f}", found)

    def test_what_lines_say(self) -> None:
        results = charts()["a sweep of 12"]["results"]
        found = texts("a sweep of 12")
        start = found.index("channels")
        self.assertEqual(found[start + 1:start + 13], [str(result["config"]["channels"]) for result in results])
        for place, variant in enumerate(ALL[1:], 1):
            own = start + 13 * place
            ratios = [f"{result['ratio'][variant]['value']:.2f}x" for result in results]
            self.assertEqual(found[own:own + 13], [variant.upper(), *ratios])
        self.assertEqual(len(found), start + 39)

    def test_points_are_as_high_as_their_figures(self) -> None:
        results = charts()["a sweep of 12"]["results"]
        lines = [element for element in drawing("a sweep of 12").iter(f"{SVG}polyline") if len(points(element)) == 12]
        self.assertEqual([line.attrib["stroke"] for line in lines], [ane_bench.COLORS[variant] for variant in ALL])
        grid = [points(element)[0][1] for element in drawing("a sweep of 12").iter(f"{SVG}polyline")
                if element.attrib["stroke"] == ane_bench.FAINT]
        figures = [float(text) for text in texts("a sweep of 12") if re.fullmatch("[0-9.]+", text)][:len(grid)]
        self.assertEqual(figures[0], 0)
        scale = (grid[0] - grid[-1]) / figures[-1]
        for variant, line in zip(ALL, lines):
            for (_, y), result in zip(points(line), results):
                self.assertAlmostEqual(grid[0] - y, result["variants"][variant]["tops"] * scale, delta=0.2)

    def test_points_that_failed_are_marked_and_lines_are_broken(self) -> None:
        name = "a sweep that failed here and there"
        self.assertIn("× failed, □ wrong output", texts(name))
        self.assertEqual(texts(name).count("WRONG"), 1)
        root, color = drawing(name), ane_bench.COLORS["w8a8"]
        lines = [points(element) for element in root.iter(f"{SVG}polyline") if element.attrib["stroke"] == color]
        # A point alone, a cross of two lines, 23 points in a row, another cross.
        self.assertEqual([len(line) for line in lines], [1, 2, 2, 23, 2, 2])
        squares = [element.attrib["fill"] for element in root.iter(f"{SVG}rect") if element.attrib.get("stroke") == color]
        self.assertEqual((squares.count(color), squares.count("#ffffff")), (23, 1))
        self.assertEqual(texts("a sweep that failed").count("failed"), 6)
        self.assertNotIn("failed", " ".join(texts("a sweep of 12")))

    def test_the_verb(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run one.json"
            path.write_text(json.dumps(charts()["five"]))
            finished = main("chart", str(path))
            self.assertEqual((finished.code, finished.errors, finished.output), (0, "", f"{directory}/run one.svg\n"))
            self.assertEqual((path.parent / "run one.svg").read_text(encoding="utf-8"), ane_bench.chart(charts()["five"]))
            self.assertEqual(main("chart", str(path), "-o", f"{directory}/other").output, f"{directory}/other\n")
            self.assertEqual(main("chart", str(path), "-o", f"{directory}/none/other").code, 2)
            path.write_text("{}")
            self.assertEqual(main("chart", str(path), "-o", f"{directory}/third").code, 2)
            self.assertEqual(sorted(found.name for found in path.parent.iterdir()), ["other", "run one.json", "run one.svg"])
