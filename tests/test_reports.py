"""Section 11: what is printed of a record, what is read back, compared and drawn."""

import contextlib
import copy
import csv
import functools
import io
import json
import re
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
PAIR = ("fp16", "w8a8")
ALL = ("fp16", "w8a16", "w8a8")


def sweep(channels: Sequence[int] = (256,), spatial: Sequence[int] = (64,), depth: Sequence[int] = (64,)) -> list[Config]:
    """The cross product, as the command line makes it."""
    return [Config(*shape) for shape in ane_bench.itertools.product(channels, spatial, depth)]


def made(configs: Sequence[Config] = DEFAULTS[:1], variants: Sequence[str] = PAIR, *, ms: Times = TIMES, engine: str = "ane",
         system: Optional[Mapping[str, Any]] = None, failed: Sequence[tuple[int, str]] = (), wrong: Sequence[tuple[int, str]] = (),
         protocol: Protocol = Protocol(iters=5, rounds=5), spread: float = 0.002, error: str = "com.apple 1: no") -> dict[str, Any]:
    """The record of a run in which a variant takes `ms` of the first configuration, of others by their work; cells named by
    the configuration's place failed, or gave a wrong output. The last round is slower by `spread`."""
    run = Run(engine, protocol, configs, variants)
    run.command = ["ane_bench.py", "--quiet"]
    run.system = {"chip": "Apple M4", "ane_subtype": "h16g", "macos": "26.4", **(system or {})}
    for place, config in enumerate(configs):
        cells = {}
        for variant in variants:
            time = ms[variant] * 1e6 * config.gop / configs[0].gop
            cell = Cell(variant, samples_ns=[[time * (1 + spread * number / protocol.rounds)] * (protocol.iters // protocol.rounds)
                                             for number in range(protocol.rounds)], blob=protocol.blob, dialect=protocol.dialect)
            cell = cell._replace(verified={"pixels": 1, "ok": True} if protocol.verify else None)
            if (place, variant) in failed:
                cell = Cell(variant, "failed", "compile", error)
            elif (place, variant) in wrong:
                cell = cell._replace(status="failed", stage="verify", error=error, verified={"pixels": 1, "ok": False})
            cells[variant] = cell._replace(blob="standard", dialect="1.3") if cell.blob == "auto" else cell
        run.results.append(Result(config, cells))
        run.warnings.extend(ane_bench.examine(run, run.results[-1]))
    record: dict[str, Any] = json.loads(ane_bench.record_text(run.to_dict()))
    return record


def table(record: Mapping[str, Any]) -> list[str]:
    """The lines of a record's table."""
    view = ane_bench.view_of(record)
    return (ane_bench.table_head(record, view) + "".join(ane_bench.table_rows(result, view) for result in record["results"])).splitlines()


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
        lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
        title, headings, rule, *samples = [line for line in lines if line][:5]
        original = made(ms={"fp16": 9.876, "w8a8": 4.938}, protocol=ane_bench.ORIGINAL_PROTOCOL)
        own = made()
        self.assertEqual([line for line in table(original) if line][:3], [title, headings, rule])
        self.assertEqual([line for line in table(own) if line][1][:len(headings)], headings)
        self.assertEqual(len(samples), 2)
        for record in (original, own):
            for sample, line in zip(samples, table(record)[4:6]):
                self.assertEqual(line[:len(sample[:47].rstrip("# "))], sample[:47].rstrip("# "))
                self.assertEqual(re.sub("[0-9]", "#", line[46:len(sample)]), sample[46:])
                if record is original:
                    self.assertEqual(len(line), len(sample))
        self.assertEqual(table(original)[6:], [""])

    def test_a_whole_run(self) -> None:
        finished = self.run_standin("--config", "512x8x2", "--config", "256x16x4", *UNCHECKED, **EXACT)
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(finished.output, SMALL_TABLE.replace("VERSION", ane_bench.__version__))

    def test_columns_line_up_with_their_headings(self) -> None:
        for spread, slow in ((0.002, 1.0), (0.4, 1.0), (0.002, 12.0)):
            _, _, headings, rule, *rows = table(made(ms={"fp16": 9.876 * slow, "w8a8": 4.938}, spread=spread))[:6]
            self.assertEqual(len(rule), len(headings))
            for heading, shown in (("±95%", "±[0-9.]+%"), ("Check", "ok")):
                end = headings.index(heading) + len(heading)
                for row in rows:
                    self.assertRegex(row[:end], f" {shown}$")
            ratio = re.search(r"[0-9.]+x ", rows[1][64:])
            assert ratio
            left, right = 64 + ratio.start(), 64 + ratio.end() - 1
            self.assertLessEqual(abs(headings.index("Ratio") + len("Ratio") - right), 1)
            self.assertLessEqual(headings.index("TOPS") + len("TOPS"), left)
            self.assertEqual(ratio.group(), f"{2 * slow:.2f}x ")

    def test_a_failed_row(self) -> None:
        lines = table(made(failed=[(0, "w8a8")]))
        self.assertEqual(lines[5], "W8A8 128x conv 512ch 64x64     failed in stage compile: com.apple 1: no")
        self.assertEqual(lines[4], table(made())[4])

    def test_a_row_of_wrong_output_keeps_its_figures(self) -> None:
        right, lines = table(made()), table(made(wrong=[(0, "w8a8")]))
        self.assertEqual(lines[4], right[4])
        self.assertEqual(lines[5], re.sub("   ok$", "WRONG", right[5]))
        self.assertEqual(lines[6], "     failed in stage verify: com.apple 1: no")

    def test_the_original_fails_as_the_original_does(self) -> None:
        lines = table(made(failed=[(0, "w8a8")], protocol=ane_bench.ORIGINAL_PROTOCOL))
        self.assertEqual(lines[4:], ["  W8A8 128x conv 512ch: compile FAIL: com.apple 1: no", "  128x conv 512ch: FP16=9.9 INT8=-3.0 (FAIL)"])

    def test_the_reference_says_what_it_is(self) -> None:
        self.assertEqual(table(made(engine="reference"))[0],
                         f"=== ane_bench {ane_bench.__version__} (reference engine in plain Python, which says nothing about a Neural Engine) ===")


class SweepTest(support.StandinCase):
    """In the table only what varies gets in the way of the eye."""

    def first_columns(self, *arguments: str) -> tuple[list[str], str]:
        """The first column of each line of a run, and what stands below the table."""
        finished = self.run_standin(*arguments, **EXACT)
        self.assertEqual(finished.code, 0, finished.errors)
        rows = [line[:30].rstrip() for line in finished.output.splitlines() if re.match("FP16|W8A", line)]
        return rows, finished.output.split("\n\n")[-1]

    def test_a_cross_product(self) -> None:
        rows, below = self.first_columns("--channels", "64,32", "--spatial", "8,16", "--depth", "2", *UNCHECKED)
        self.assertEqual(rows, [f"{variant} {channels}ch {size}" for channels in (64, 32) for size in ("8x8", "16x16")
                                for variant in ("FP16", "W8A8")])
        self.assertEqual(below, "All: 2x conv.\n")

    def test_one_dimension(self) -> None:
        rows, below = self.first_columns("--channels", "64", "--spatial", "8", "--depth", "1,2,3", "--variants", "fp16,w8a16", *UNCHECKED)
        self.assertEqual(rows, [f"{variant} {depth}x conv" for depth in (1, 2, 3) for variant in ("FP16", "W8A16")])
        self.assertEqual(below, "All: 64ch 8x8.\n")

    def test_all_three(self) -> None:
        rows, below = self.first_columns("--channels", "16,32", "--spatial", "4,8", "--depth", "1,2", "--variants", "fp16", *UNCHECKED)
        self.assertEqual(rows, [f"FP16 {depth}x conv {channels}ch {size}x{size}" for channels in (16, 32) for size in (4, 8) for depth in (1, 2)])
        self.assertEqual(below, "")

    def test_full_labels(self) -> None:
        rows, below = self.first_columns("--channels", "64", "--spatial", "64", "--depth", "1,2,3", "--original", "--quiet")
        self.assertEqual(rows[::2], [f"FP16 {depth}x conv 64ch 64x64" for depth in (1, 2, 3)])
        self.assertEqual(below, "=== Done ===\n")
        for configs in (DEFAULTS, DEFAULTS[:1], DEFAULTS[:2], sweep(depth=(1, 2))):
            record = made(configs)
            self.assertEqual([line[:30].rstrip() for line in table(record) if line.startswith("FP16")], [f"FP16 {config.label()}" for config in configs])
            self.assertFalse([note for note in ane_bench.footnotes(record, ane_bench.view_of(record)) if note.startswith("All")])


class FallbackTest(support.StandinCase):
    """A program that is refused is tried again, and that is said wherever its figures are."""

    TWO = ("--config", "64x8x2", "--config", "32x8x2")

    def compiles(self) -> list[str]:
        """The variants of all compiles, in order."""
        return [found.group(1) for line in self.calls() for found in [re.fullmatch(r"compile (\w+) qos=21", line)] if found]

    def test_each_fallback(self) -> None:
        first = ane_bench.ATTEMPTS[0]
        for refuse, blob, dialect, attempts in (("standard", "original", "1.3", 3), ("short", "standard", "1.0", 2)):
            with self.subTest(refuse):
                self.log.unlink(missing_ok=True)
                path = self.directory / "run.json"
                finished = self.run_standin(*self.TWO, *UNCHECKED[:-1], "--save", str(path), REFUSE=refuse, **EXACT)
                self.assertEqual(finished.code, 0, finished.errors)
                self.assertEqual(finished.output.count("ms"), 1 + 4)
                self.assertIn(f"\nFallback: FP16 and W8A8, refused as {'/'.join(first)}, measured with the {blob} weight file and dialect "
                              f"{dialect}.\n", finished.output)
                self.assertRegex(finished.errors, rf"warning \(fallback\) fp16 at 64x8x2: refused as standard/1\.3: .*--blob {blob} --dialect {dialect}")
                record = ane_bench.read_record(str(path))
                for place, result in enumerate(record["results"]):
                    for cell in result["variants"].values():
                        self.assertEqual((cell["status"], cell["blob"], cell["dialect"]), ("ok", blob, dialect))
                        tried = [text.split(":")[0] for text in cell.get("refused", [])]
                        self.assertEqual(tried, [] if place else ["/".join(attempt) for attempt in ane_bench.ATTEMPTS[:attempts - 1]])
                self.assertEqual([warning["message"].split(":")[0] for warning in record["warnings"] if warning["code"] == "fallback"],
                                 ["fp16 at 64x8x2", "w8a8 at 64x8x2"])
                self.assertEqual(self.compiles(), ["fp16"] * attempts + ["w8a8"] * attempts + ["fp16", "w8a8"])

    def test_what_is_asked_for_is_no_fallback(self) -> None:
        finished = self.run_standin(*self.TWO, *UNCHECKED[:-1], "--blob", "original", REFUSE="standard", **EXACT)
        self.assertEqual(finished.code, 0, finished.errors)
        self.assertNotIn("allback", finished.output + finished.errors)
        self.assertEqual(self.compiles(), ["fp16", "w8a8"] * 2)

    def test_nothing_works(self) -> None:
        record = self.run_record(*self.TWO, *UNCHECKED, code=1, REFUSE="standard,short", **EXACT)
        cells = [cell for result in record["results"] for cell in result["variants"].values()]
        self.assertEqual(len(cells), 4)
        for cell in cells:
            self.assertEqual((cell["status"], cell["stage"], "blob" in cell, "ms" in cell), ("failed", "compile", False, False))
            self.assertRegex(cell["error"], r"^standard/1\.3: com\.apple.*; standard/1\.0: com\.apple.*; original/1\.3: com\.apple")
        self.assertEqual(self.compiles(), (["fp16"] * 3 + ["w8a8"] * 3) * 2)
        self.assertNotIn("fallback", [warning["code"] for warning in record["warnings"]])

    def test_a_single_attempt_is_told_as_it_is(self) -> None:
        record = self.run_record(*self.TWO[:2], *UNCHECKED, "--blob", "original", "--dialect", "1.3", code=1, REFUSE="original", **EXACT)
        for cell in record["results"][0]["variants"].values():
            self.assertRegex(cell["error"], r"^com\.apple")

    def test_a_refused_variant_does_not_cost_the_other_its_figures(self) -> None:
        record = self.run_record(*self.TWO, *UNCHECKED, code=1, FAULT="w8a8/compile:no", **EXACT)
        for result in record["results"]:
            fp16, w8a8 = (result["variants"][variant] for variant in PAIR)
            self.assertEqual((fp16["status"], fp16["blob"], fp16["dialect"]), ("ok", "standard", "1.3"))
            self.assertAlmostEqual(fp16["ms"]["median"], 2, delta=0.001)
            self.assertEqual((w8a8["status"], result["ratio"]), ("failed", {}))


def published_by_facts() -> list[tuple[str, Config, float, float, str]]:
    """The rows of facts/results.md with one configuration each, at 64x64 pixels."""
    rows = []
    for line in support.shared("facts", "results.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("chip", "---"):
            continue
        chip, _, shapes = cells[0].partition(", ")
        shape = [(int(depth), int(channels)) for depth, channels in re.findall(r"([0-9]+)×([0-9]+)", shapes)]
        depths = re.findall(r"depth ([0-9]+)", shapes)
        shape = shape or [(int(depths[0]) if depths else 128, 512)]
        figures = [re.findall(r"[0-9]+\.[0-9]+", re.sub(r"\([^)]*\)", "", cell)) for cell in cells[2:4]]
        if " / " not in chip:
            rows += [(re.sub(r" \(h[0-9a-z]+\)", "", chip), Config(channels, 64, depth), float(fp16), float(w8a8), cells[4])
                     for (depth, channels), fp16, w8a8 in zip(shape, *figures)]
    return rows


class PublishedTest(support.StandinCase):
    """The run is put beside what is published for its chip and configuration."""

    def notes(self, chip: str, configs: Sequence[Config] = DEFAULTS, **details: Any) -> list[str]:
        """The lines below a table."""
        record = made(configs, system={"chip": chip}, **details)
        return ane_bench.footnotes(record, ane_bench.view_of(record))

    def test_a_run(self) -> None:
        settings = {**EXACT, "LATENCY": "fp16:14800,w8a8:7800", "SYSCTL": "machdep.cpu.brand_string=Apple M4"}
        finished = self.run_standin("--config", "512x64x128", *UNCHECKED, **settings)
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(finished.output.splitlines()[-1], "M4 at 512x64x128: FP16 18.6 TOPS here, 18.6 published; W8A8 35.2 TOPS here, "
                                                           "35.1 published (maderix/ANE README).")

    def test_one_line_for_the_first_configuration_that_is_known(self) -> None:
        note, = self.notes("Apple M2 Max", [Config(64, 8, 2), *DEFAULTS[2:]], failed=[(1, "w8a8")])
        self.assertRegex(note, r"^M2 Max at 256x64x256: FP16 [0-9.]+ TOPS here, 13\.4 published \(a public notebook .*\)\.$")

    def test_none(self) -> None:
        for chip in ("Apple M9", "Apple M4 Pro", "Stand-in", ""):
            self.assertEqual(self.notes(chip), [])
        self.assertEqual(self.notes("Apple M4", [Config(512, 32, 128)]), [])
        self.assertEqual(self.notes("Apple M4", DEFAULTS[:1], failed=[(0, "fp16"), (0, "w8a8")]), [])
        record = made(DEFAULTS)
        del record["system"]["chip"]
        self.assertEqual(ane_bench.footnotes(record, ane_bench.view_of(record)), [])

    def test_the_table_is_the_facts(self) -> None:
        # The Air's chip is an M4 too, and best of N is no median; an iPhone runs no Python; the rest of the rows stand for
        # several chips and are second-hand.
        left_out = {"M4 (Air)", "A19 (iPhone 17)"}
        facts = published_by_facts()
        self.assertEqual(len(facts), 11)
        self.assertLessEqual(left_out, {row[0] for row in facts})
        own = {(row.chip, row.config, row.fp16, row.w8a8) for row in ane_bench.PUBLISHED}
        self.assertEqual(own, {row[:4] for row in facts if row[0] not in left_out})
        for row in ane_bench.PUBLISHED:
            source = next(fact[4] for fact in facts if fact[:2] == (row.chip, row.config) or fact[4] == "same" and fact[0] == row.chip)
            source = "notebook" if source == "same" else source
            self.assertTrue(source in row.source or "notebook" in source and "notebook" in row.source, row)


def blocks(text: str) -> dict[str, list[str]]:
    """The lines of a markdown text by the kind of block that they make."""
    kinds: dict[str, list[str]] = {"table": [], "item": [], "code": [], "text": []}
    for line in filter(None, text.splitlines()):
        kind = {"|": "table", "-": "item", "`": "code"}.get(line[0], "text")
        kinds[kind].append(line)
    return kinds


def unescaped(text: str) -> str:
    """What markdown shows of a text, in which nothing may be left that it takes for its own signs."""
    assert not re.search(r"[`*_<>|\[\]~&#]", re.sub(r"\\.", "", text)), text
    return re.sub(r"\\(.)", r"\1", text)


class MarkdownTest(unittest.TestCase):
    """A block to paste into an issue."""

    def test_the_blocks(self) -> None:
        record = made(failed=[(0, "w8a8")], variants=ALL, system={"model": "Mac16,1", "memory_bytes": 16 << 30, "power_source": "Battery Power"})
        found = blocks(ane_bench.markdown(record))
        self.assertEqual(found["text"], [f"**ane_bench {ane_bench.__version__}**: M4, h16g, macOS 26.4, Mac16,1, Battery Power, 16 GiB, {record['started']}"])
        self.assertEqual(found["code"], ["`python3 ane_bench.py --quiet`"])
        head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found["table"]]
        self.assertEqual(head, ["Config", "W(MB)", "GOP", "ms/eval", "TOPS", "Ratio", "±95%", "Check"])
        self.assertTrue(all(re.fullmatch(":--|--:", cell) for cell in rule))
        self.assertEqual([len(row) for row in (rule, *rows)], [8] * 4)
        self.assertEqual(rows[0], ["FP16 128x conv 512ch 64x64", "64.0", "274.88", "9.884 ms", "27.81", "", "±0.1%", "ok"])
        self.assertEqual(rows[1][5], "1.16x")
        self.assertEqual(rows[2], ["W8A8 128x conv 512ch 64x64", "32.0", "274.88", *[""] * 5])
        items = [unescaped(line[2:]) for line in found["item"]]
        self.assertEqual(items[0], "W8A8 128x conv 512ch 64x64 failed in stage compile: com.apple 1: no")
        self.assertTrue(items[1].startswith("M4 at 512x64x128: FP16 27.8 TOPS here"))
        self.assertRegex(items[2], r"^warning \(battery\) the Mac runs on battery")
        self.assertEqual(len(items), 3)

    def test_special_characters(self) -> None:
        error = "a|b *c* _d_ `e` <f> [g](h) i\\j ~k~ &amp; #6"
        found = blocks(ane_bench.markdown(made(failed=[(0, "w8a8")], error=error, system={"model": "<b>|x"})))
        self.assertEqual(unescaped(found["item"][0][2:]), f"W8A8 128x conv 512ch 64x64 failed in stage compile: {error}")
        self.assertIn(", <b>|x, ", unescaped(found["text"][0].replace("**", "").replace("_", "\\_", 1)))

    def test_a_command_with_fences(self) -> None:
        record = {**made(), "command": ["ane_bench.py", "--save", "a`b``.json"]}
        self.assertEqual(ane_bench.markdown(record).splitlines()[-1], "```python3 ane_bench.py --save 'a`b``.json'```")

    def test_a_sweep_and_its_note(self) -> None:
        found = blocks(ane_bench.markdown(made(sweep(depth=(1, 2, 3)))))
        self.assertEqual([line.split("|")[1].strip() for line in found["table"][2:]], [f"{name} {depth}x conv" for depth in (1, 2, 3) for name in ("FP16", "W8A8")])
        self.assertEqual(found["item"][0], "- All: 256ch 64x64.")


class CsvTest(unittest.TestCase):
    """One header line, one line per cell, nothing else."""

    def test_read_back(self) -> None:
        error = 'said "NO", twice; 5,5'
        record = made(DEFAULTS[:2], ALL, failed=[(1, "w8a8")], wrong=[(0, "w8a16")], error=error)
        text = ane_bench.comma_separated(record)
        self.assertEqual(len(text.splitlines()), 1 + 6)
        lines = list(csv.DictReader(io.StringIO(text)))
        self.assertEqual(list(lines[0]), [field.name for field in ane_bench.FIELDS])
        self.assertTrue(all(None not in line and None not in line.values() for line in lines))
        self.assertEqual([(line["config"], line["variant"]) for line in lines], [(config.name, variant) for config in DEFAULTS[:2] for variant in ALL])
        for line in lines:
            result = record["results"][[config.name for config in DEFAULTS].index(line["config"])]
            cell = result["variants"][line["variant"]]
            self.assertEqual(line["status"], cell["status"])
            self.assertEqual(line["chip"], "Apple M4")
            self.assertEqual([int(line[name]) for name in ("channels", "spatial", "depth")], list(result["config"].values()))
            if "ms" in cell:
                self.assertEqual([float(line[f"ms_{name}"]) for name in ("mean", "min", "p95", "mad")], [cell["ms"][name] for name in ("mean", "min", "p95", "mad")])
                self.assertEqual((float(line["ms"]), float(line["tops"])), (cell["ms"]["median"], cell["tops"]))
                self.assertEqual([float(line["ms_low"]), float(line["ms_high"])], cell["ms"]["ci95"])
                self.assertEqual(line["ratio"], str(result["ratio"][line["variant"]]["value"]) if line["variant"] in result["ratio"] else "")
        self.assertEqual([line["check"] for line in lines], ["ok", "WRONG", "ok", "ok", "ok", ""])
        self.assertEqual((lines[1]["stage"], lines[1]["error"]), ("verify", error))
        self.assertEqual([lines[5][name] for name in ("status", "stage", "error", "ms", "tops", "ms_low")], ["failed", "compile", error, "", "", ""])

    def test_the_originals_time_is_the_mean(self) -> None:
        record = made(protocol=ane_bench.ORIGINAL_PROTOCOL)
        line = next(csv.DictReader(io.StringIO(ane_bench.comma_separated(record))))
        self.assertEqual(float(line["ms"]), record["results"][0]["variants"]["fp16"]["ms"]["mean"])


class RecordTest(support.StandinCase):
    """The record on standard output, in the file, and read back."""

    def test_standard_output_is_the_file(self) -> None:
        path = self.directory / "run.json"
        finished = self.run_standin("--config", "64x8x2", "--config", "32x8x2", *UNCHECKED, "--format", "json", "--save", str(path), **EXACT)
        self.assertEqual(finished.code, 0, finished.errors)
        self.assertEqual(path.read_text(), finished.output)
        record = ane_bench.read_record(str(path))
        self.assertEqual(record, json.loads(finished.output))
        self.assertEqual(len(record["results"]), 2)

    def test_what_is_no_record(self) -> None:
        good = made(failed=[(0, "fp16")])
        path = self.directory / "run.json"

        def changed(*way: Any, to: Any = None) -> str:
            record = copy.deepcopy(good)
            place = record
            for name in way[:-1]:
                place = place[name]
            self.assertIn(way[-1], place if isinstance(place, dict) else range(len(place)))
            if to is None:
                del place[way[-1]]
            else:
                place[way[-1]] = to
            return json.dumps(record)

        cell = ("results", 0, "variants", "w8a8")
        bad = ["", "{", "[]", "null", "\x00\xff", json.dumps(good)[:-9], "[" * 100000, changed("schema"), changed("schema", to=1),
               changed("protocol"), changed("results", to={}), changed("results", 0, "config", "depth", to=0), changed("results", 0, "gop", to="1"),
               changed("results", 0, "gop", to=0), changed("results", 0, "variants", to={"fp8": good["results"][0]["variants"]["w8a8"]}),
               changed(*cell, "status"), changed(*cell, "status", to="maybe"), changed("results", 0, "variants", "fp16", "status", to="ok"),
               changed(*cell, "ms"), changed(*cell, "tops"), changed(*cell, "tops", to=True), changed(*cell, "tops", to=float("nan")),
               changed(*cell, "tops", to=1e200), changed(*cell, "tops", to=5e-324), changed(*cell, "ms", "median", to=0),
               changed(*cell, "ms", "ci95", to=[1]), changed(*cell, "ms", "ci95", to=[-1, 1]), changed(*cell, "samples_ns", to=[]),
               changed(*cell, "samples_ns", to=[[]]), changed(*cell, "samples_ns", to=[[0]]), changed(*cell, "samples_ns", to=[["1"]]),
               changed("warnings", to=[{"code": 1}]), changed("protocol", "iters", to=10 ** 30)]
        path.write_text(json.dumps(good))
        self.assertEqual(main("compare", str(path), str(path)).code, 0)
        for text in bad:
            with self.subTest(text[:60]):
                path.write_text(text, encoding="latin-1")
                with self.assertRaisesRegex(UsageError, "expected a record as --save writes it"):
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
        warnings = [{"code": code, "message": message} for code, message in (("drift", "one"), ("spread", "two"), ("drift", "three"), ("drift", "four"))]
        self.assertEqual(ane_bench.grouped(warnings), ["(drift) one (seen 3 times)", "(spread) two"])
        self.assertEqual(ane_bench.grouped([]), [])


class CompareTest(support.StandinCase):
    """Known latencies give known verdicts."""

    def record(self, name: str, *arguments: str, code: int = 0, **settings: str) -> str:
        """The path of a run's record."""
        path = self.directory / f"{name}.json"
        finished = self.run_standin("--verify", "0", "--quiet", "--save", str(path), *(arguments or ("--config", "64x8x2", "--variants", ",".join(ALL))),
                                    **{**EXACT, **settings})
        self.assertEqual(finished.code, code, finished.errors)
        return str(path)

    def verdicts(self, finished: Finished) -> dict[str, tuple[str, str]]:
        """Speed and verdict of each cell."""
        cells = re.findall(r"^(FP16|W8A16|W8A8) .{25}.* ([0-9.]+)x +([0-9.]*-?[0-9.]*) +(\w+)$", finished.output, re.MULTILINE)
        self.assertEqual(len(cells), len(re.findall("^FP16 |^W8A", finished.output, re.MULTILINE)))
        return {name: (speed, verdict) for name, speed, _, verdict in cells}

    def test_every_verdict(self) -> None:
        base = self.record("base", LATENCY="fp16:2000,w8a16:1000,w8a8:1000")
        new = self.record("new", LATENCY="fp16:1500,w8a16:1200,w8a8:1000")
        finished = main("compare", base, new)
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(self.verdicts(finished), {"FP16": ("1.33", "faster"), "W8A16": ("0.83", "slower"), "W8A8": ("1.00", "same")})
        self.assertIn("\nFP16 2x conv 64ch 8x8              2.000     1.500       0.00      0.00   1.33x  1.333-1.333   faster\n", finished.output)
        self.assertEqual(finished.output.splitlines()[-1], "geometric mean over 3 cells: 1.036x")
        self.assertNotIn("differs", finished.output)
        back = main("compare", new, base)
        self.assertEqual(self.verdicts(back), {"FP16": ("0.75", "slower"), "W8A16": ("1.20", "faster"), "W8A8": ("1.00", "same")})

    def test_undecided(self) -> None:
        base = self.record("base", LATENCY="fp16:2000,w8a16:1000,w8a8:1000")
        new = self.record("new", LATENCY="fp16:1550,w8a16:1000,w8a8:300", DRIFT="1", SPIKE="17x10")
        self.assertEqual({name: verdict for name, (_, verdict) in self.verdicts(main("compare", base, new)).items()},
                         {"FP16": "undecided", "W8A16": "slower", "W8A8": "faster"})
        self.assertEqual({verdict for _, verdict in self.verdicts(main("compare", new, new)).values()}, {"undecided"})

    def test_few_rounds_decide_nothing(self) -> None:
        few = ("--config", "64x8x2", "--iters", "8", "--rounds", "4")
        enough = ("--config", "64x8x2", "--iters", "10", "--rounds", "5")
        base, new = self.record("base", *few), self.record("new", *few, LATENCY="fp16:200,w8a8:1000")
        more, less = self.record("more", *enough), self.record("less", *enough, LATENCY="fp16:200,w8a8:1000")
        self.assertEqual(self.verdicts(main("compare", base, new)), {"FP16": ("10.00", "undecided"), "W8A8": ("1.00", "undecided")})
        self.assertEqual(self.verdicts(main("compare", base, less)), {"FP16": ("10.00", "undecided"), "W8A8": ("1.00", "undecided")})
        self.assertEqual(self.verdicts(main("compare", more, less)), {"FP16": ("10.00", "faster"), "W8A8": ("1.00", "same")})
        self.assertEqual(main("compare", new, base, "--fail-if-slower", "5").code, 0)
        self.assertEqual(main("compare", less, more, "--fail-if-slower", "5").code, 1)

    def test_thresholds(self) -> None:
        for low, high, verdict in ((0.981, 1.019, "same"), (1.001, 1.019, "same"), (0.99, 1.021, "undecided"), (0.979, 1.0, "undecided"),
                                   (1.001, 1.021, "faster"), (0.9, 0.999, "slower"), (0.5, 2.0, "undecided")):
            self.assertEqual(ane_bench.verdict_of(low, high), verdict, (low, high))

    def test_differing_machines_and_protocols_are_named_first(self) -> None:
        small = ("--config", "64x8x2")
        base = self.record("base", *small, SYSCTL="machdep.cpu.brand_string=Apple M4;kern.osproductversion=26.4")
        new = self.record("new", *small, "--iters", "100", "--qos", "9", SYSCTL="machdep.cpu.brand_string=Apple M5 Max;kern.osproductversion=")
        lines = main("compare", base, new).output.splitlines()
        self.assertRegex(lines[0], r"^BASE  stand-in library, M4, h16g, macOS 26\.4, 20[0-9-]+T[0-9:+]+$")
        self.assertRegex(lines[1], r"^NEW   stand-in library, M5 Max, h16g, 20[0-9-]+T[0-9:+]+$")
        self.assertEqual(lines[2:6], ["differs in chip: Apple M4 / Apple M5 Max", "differs in macos: 26.4 / unknown", "differs in iters: 50 / 100",
                                      "differs in qos: 21 / 9"])
        self.assertTrue(lines[7].startswith("Cell  "), lines)

    def test_cells_in_one_only_and_failed_ones(self) -> None:
        base = self.record("base", "--config", "64x8x2", "--config", "32x8x2")
        new = self.record("new", "--config", "64x8x2", "--config", "16x8x2", code=1, FAULT="w8a8/load:silent")
        finished = main("compare", base, new)
        self.assertEqual(self.verdicts(finished), {"FP16": ("1.00", "same")})
        told = finished.output.splitlines()[6:]
        self.assertEqual([line.split(":")[0] for line in told], ["fp16 at 32x8x2", "w8a8 at 32x8x2", "w8a8 at 64x8x2", "fp16 at 16x8x2", "w8a8 at 16x8x2"])
        self.assertEqual([told[place].split(": ", 1)[1] for place in (0, 1, 3)], ["only in BASE", "only in BASE", "only in NEW"])
        self.assertRegex(told[2], r": failed in stage load: .*no NSError.* \(in NEW\)$")
        self.assertNotIn("geometric", finished.output)

    def test_fail_if_slower(self) -> None:
        base = self.record("base")
        for name, latency, settings, code, words in (
                ("same", "fp16:2000,w8a16:1600,w8a8:1000", {}, 0, ""), ("4", "fp16:2080,w8a16:1600,w8a8:1000", {}, 0, ""),
                ("6", "fp16:2000,w8a16:1600,w8a8:1060", {}, 1, "ane_bench: w8a8 at 64x8x2: takes 6.0% longer\n"),
                ("faster", "fp16:1000,w8a16:800,w8a8:500", {}, 0, ""),
                # Slower beyond doubt and by more than 5 % as it looks, but not beyond doubt by more than 5 %.
                ("doubt", "fp16:1800,w8a16:800,w8a8:500", {"DRIFT": "1", "SPIKE": "17x10"}, 0, "")):
            with self.subTest(name):
                new = self.record("new", LATENCY=latency, **settings)
                finished = main("compare", base, new, "--fail-if-slower", "5")
                self.assertEqual((finished.code, finished.errors), (code, words))
                self.assertEqual(main("compare", base, new).code, 0)
                if name == "doubt":
                    speed, verdict = self.verdicts(finished)["FP16"]
                    self.assertEqual(verdict, "slower")
                    self.assertLess(float(speed), 0.94)
                if name == "6":
                    self.assertEqual(main("compare", base, new, "--fail-if-slower", "6.5").code, 0)

    def test_a_cell_that_fails_only_now(self) -> None:
        base, failed = self.record("base"), self.record("failed", code=1, FAULT="w8a8/compile:silent")
        for pair, code in (((base, failed), 1), ((failed, base), 0), ((failed, failed), 0)):
            finished = main("compare", *pair, "--fail-if-slower", "5")
            self.assertEqual(finished.code, code)
            self.assertEqual(re.findall("^ane_bench: w8a8 at 64x8x2: failed in stage compile: ", finished.errors, re.MULTILINE), finished.errors.splitlines() and
                             ["ane_bench: w8a8 at 64x8x2: failed in stage compile: "])
            self.assertEqual(bool(finished.errors), code == 1)
        self.assertEqual(main("compare", base, failed).code, 0)

    def test_no_record_exits_with_2_in_one_line(self) -> None:
        good, bad = self.directory / "good.json", self.directory / "bad.json"
        good.write_text(json.dumps(made()))
        for text, words in ((None, "cannot be read: No such file"), ("{", "expected a record"), ('{"schema": "other/1"}', "is of schema 'other/1'"),
                            ('{"schema": "ane-bench/1"}', "expected a record")):
            if text is not None:
                bad.write_text(text)
            for pair in ((good, bad), (bad, good)):
                finished = main("compare", str(pair[0]), str(pair[1]), "--fail-if-slower", "5")
                self.assertEqual((finished.code, finished.output), (2, ""))
                self.assertRegex(finished.errors, rf"\Aane_bench: .*bad\.json: {words}[^\n]*\n\Z")
        self.assertRegex(main("compare", str(good), str(self.directory)).errors, r"\Aane_bench: .*cannot be read: Is a directory\n\Z")


SVG = "{http://www.w3.org/2000/svg}"
LETTER = 0.62  # a letter's width in font sizes, generously


class Box(NamedTuple):
    """Where a text is, as far as that can be told without a browser."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


def boxes(root: xml.etree.ElementTree.Element) -> list[Box]:
    """The texts of a drawing."""
    found = []
    for element in root.iter(f"{SVG}text"):
        x, y, size = (float(element.attrib[name]) for name in ("x", "y", "font-size"))
        text = element.text or ""
        width = LETTER * size * len(text)
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[element.attrib["text-anchor"]] * width
        found.append(Box(text, left, y - 0.8 * size, left + width, y + 0.2 * size))
    return found


def overlaps(found: Sequence[Box]) -> Iterator[tuple[str, str]]:
    """The texts that run into one another."""
    for number, one in enumerate(found):
        for other in found[:number]:
            if one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom:
                yield one.text, other.text


TWELVE = sweep(channels=(128, 256, 384, 512), spatial=(32, 64, 128))
MIXED = [*DEFAULTS, Config(16384, 64, 8), Config(64, 4096, 2), Config(128, 1024, 128), Config(2048, 64, 16), Config(768, 64, 12),
         Config(512, 32, 8), Config(320, 32, 8)]
LONG = {"chip": "Apple M5 Max Ultra Special Edition (64-core <engineering> sample)", "ane_subtype": "h17sextended", "macos": "26.4.1 (beta 3)"}


@functools.cache
def charts() -> dict[str, dict[str, Any]]:
    """Records to draw, by what is special about them."""
    return {
        "one": made(),
        "five": made(DEFAULTS),
        "five in three variants": made(DEFAULTS, ALL),
        "twelve": made(MIXED, spread=0.5),
        "twelve of a sweep": made(TWELVE, ALL),
        "failed": made(DEFAULTS, failed=[(1, "fp16"), (2, "w8a8"), (3, "fp16"), (3, "w8a8")], wrong=[(0, "w8a8")]),
        "all failed": made(DEFAULTS[:1], failed=[(0, "fp16"), (0, "w8a8")]),
        "a long name": made(DEFAULTS, engine="stand-in", system=LONG),
        "the longest name": made(DEFAULTS, engine="stand-in", system={"chip": "M" * 1000}),
        "characters that XML cannot hold": made(system={"chip": "a\x00\x1b\ud800<&>\n"}),
        "the reference": made([Config(32, 8, 4), Config(64, 8, 4)], engine="reference", ms={"fp16": 900, "w8a8": 400}),
        "the original": made(DEFAULTS, protocol=ane_bench.ORIGINAL_PROTOCOL),
        "few rounds": made(DEFAULTS[:2], protocol=Protocol(iters=4, rounds=2)),
        "slow and fast": made(DEFAULTS[:1], ms={"fp16": 1e9, "w8a8": 1e-6}),
        "a sweep of 3": made(sweep(depth=(32, 64, 128)), ALL, ms={"fp16": 9, "w8a16": 8, "w8a8": 5}),
        "a sweep of 12": made(sweep(channels=range(64, 832, 64)), ALL, ms={"fp16": 0.5, "w8a16": 0.45, "w8a8": 0.3}),
        "a sweep of 12 large ones": made(sweep(channels=range(1024, 13312, 1024), depth=(2,)), ALL),
        "a sweep of 40": made(sweep(depth=range(100, 140))),
        "a sweep that failed here and there": made(sweep(depth=range(100, 126)), ALL, failed=[(1, "fp16"), (1, "w8a8"), (4, "w8a16"), (25, "w8a8")], wrong=[(6, "w8a8")]),
        "a sweep that failed": made(sweep(depth=(1, 2, 3)), failed=[(place, variant) for place in range(3) for variant in PAIR]),
        "a sweep with one value twice": made(sweep(depth=(1, 2, 3, 3))),
        "nothing": made([]),
    }


class ChartTest(unittest.TestCase):
    """An SVG that is readable at 700 pixels. Screenshots were looked at; what can be computed is computed here."""

    def drawing(self, record: Mapping[str, Any]) -> xml.etree.ElementTree.Element:
        """A record's chart, which must be well-formed."""
        return xml.etree.ElementTree.fromstring(ane_bench.chart(record))

    def texts(self, record: Mapping[str, Any]) -> list[str]:
        """The texts of a record's chart."""
        return [box.text for box in boxes(self.drawing(record))]

    def test_form(self) -> None:
        for name, record in charts().items():
            with self.subTest(name):
                root = self.drawing(record)
                self.assertEqual((root.tag, root.attrib["width"]), (f"{SVG}svg", "700"))
                self.assertEqual(root.attrib["viewBox"], f"0 0 700 {root.attrib['height']}")
                elements = list(root.iter())
                self.assertEqual({element.tag for element in elements} - {f"{SVG}{tag}" for tag in ("svg", "title", "text", "rect", "polyline")}, set())
                for element in elements:
                    self.assertFalse([key for key in element.attrib if "href" in key or key.startswith("on") or key == "style"])
                    self.assertNotRegex(" ".join(element.attrib.values()), "url|:|@")
                ground = elements[2]
                self.assertEqual((ground.tag, ground.attrib["fill"], ground.attrib["width"], ground.attrib["height"]), (f"{SVG}rect", "#ffffff", "700", root.attrib["height"]))

    def test_texts_do_not_overlap_nor_leave_the_drawing(self) -> None:
        for name, record in charts().items():
            with self.subTest(name):
                root = self.drawing(record)
                found = boxes(root)
                self.assertGreaterEqual(len(found), 4)
                self.assertEqual(list(overlaps(found)), [])
                self.assertEqual([box for box in found if box.left < 0 or box.right > 700 or box.top < 0 or box.bottom > float(root.attrib["height"])], [])
                self.assertGreaterEqual(min(float(element.attrib["font-size"]) for element in root.iter(f"{SVG}text")), 8)

    def test_shapes_stay_in_the_drawing(self) -> None:
        for name, record in charts().items():
            with self.subTest(name):
                root = self.drawing(record)
                height = float(root.attrib["height"])
                for element in list(root.iter(f"{SVG}rect"))[1:]:
                    x, y, width, tall = (float(element.attrib[key]) for key in ("x", "y", "width", "height"))
                    self.assertTrue(0 <= x <= x + width <= 700 and 0 <= y <= y + tall <= height, element.attrib)
                for element in root.iter(f"{SVG}polyline"):
                    points = [tuple(map(float, point.split(","))) for point in element.attrib["points"].split()]
                    self.assertTrue(points and all(0 <= x <= 700 and 0 <= y <= height for x, y in points), element.attrib)

    def test_the_overlap_test_sees_one(self) -> None:
        root = xml.etree.ElementTree.fromstring(re.sub(r'y="[0-9.]+" text-anchor="start"', 'y="40" text-anchor="start"', ane_bench.chart(charts()["five"])))
        self.assertTrue(list(overlaps(boxes(root))))

    def test_what_bars_say(self) -> None:
        texts = self.texts(charts()["failed"])
        self.assertEqual(texts[0], "Neural Engine throughput: M4, h16g, macOS 26.4")
        self.assertEqual(texts[1], f"TOPS, more is better, with 95 % intervals and ratio to FP16 (ane_bench {ane_bench.__version__})")
        self.assertEqual(texts[2:4], ["FP16", "W8A8"])
        self.assertEqual([text for text in texts if "conv" in text], [config.label() for config in DEFAULTS])
        self.assertEqual(texts.count("failed in stage compile"), 4)
        self.assertEqual(len([text for text in texts if re.fullmatch(r"[0-9.]+ \([0-9.]+x\) WRONG", text)]), 1)
        result = charts()["five"]["results"][0]
        self.assertIn(f"{result['variants']['w8a8']['tops']:.2f} ({result['ratio']['w8a8']['value']:.2f}x)", self.texts(charts()["five"]))

    def test_bars_are_as_long_as_their_figures(self) -> None:
        record = charts()["twelve"]
        bars = [element for element in self.drawing(record).iter(f"{SVG}rect") if element.attrib["height"] == "14.0"]
        tops = [cell["tops"] for result in record["results"] for cell in result["variants"].values()]
        self.assertEqual(len(bars), 24)
        pixels_per_tops = float(bars[0].attrib["width"]) / tops[0]
        for bar, figure in zip(bars, tops):
            self.assertAlmostEqual(float(bar.attrib["width"]), figure * pixels_per_tops, delta=0.2)
        self.assertGreater(max(float(bar.attrib["width"]) for bar in bars), 150)

    def test_titles(self) -> None:
        self.assertEqual(self.texts(charts()["the original"])[0], "Neural Engine throughput: M4, h16g, macOS 26.4")
        self.assertNotIn("interval", self.texts(charts()["the original"])[1])
        self.assertNotIn("interval", self.texts(charts()["few rounds"])[1])
        self.assertIn("stand-in library, M5 Max Ultra Special Edition (64-core <engineering> sample), h17sextended", self.texts(charts()["a long name"])[0])
        self.assertIn("a???<&>?", self.texts(charts()["characters that XML cannot hold"])[0])
        self.assertRegex(self.texts(charts()["the reference"])[0], "^reference engine in plain Python, which says nothing")
        self.assertIn(", 256ch 64x64 (", self.texts(charts()["a sweep of 3"])[1])

    def test_small_rates_have_a_smaller_unit(self) -> None:
        texts = self.texts(charts()["the reference"])
        self.assertTrue(texts[1].startswith("MOPS, "))
        cell = charts()["the reference"]["results"][0]["variants"]["fp16"]
        self.assertIn(f"{cell['tops'] * 1e6:.2f}", texts)
        self.assertNotIn("0.00", texts)

    def test_what_lines_say(self) -> None:
        record = charts()["a sweep of 12"]
        texts = self.texts(record)
        for result in record["results"]:
            self.assertIn(str(result["config"]["channels"]), texts)
        ratios = [f"{result['ratio'][variant]['value']:.2f}x" for variant in ALL[1:] for result in record["results"]]
        self.assertEqual([text for text in texts if text.endswith("x") and text[0].isdigit()], ratios)
        lines = [element for element in self.drawing(record).iter(f"{SVG}polyline") if len(element.attrib["points"].split()) == 12]
        self.assertEqual([line.attrib["stroke"] for line in lines], [ane_bench.COLORS[variant] for variant in ALL])
        heights = [float(point.split(",")[1]) for point in lines[0].attrib["points"].split()]
        tops = [result["variants"]["fp16"]["tops"] for result in record["results"]]
        for height, figure in zip(heights, tops):
            self.assertAlmostEqual((heights[0] - height) / ((heights[0] - heights[-1]) or 1), (figure - tops[0]) / ((tops[-1] - tops[0]) or 1), delta=1)

    def test_points_that_failed_are_marked_and_lines_are_broken(self) -> None:
        texts = self.texts(charts()["a sweep that failed here and there"])
        self.assertIn("× failed, □ wrong output", texts)
        self.assertIn("WRONG", texts)
        elements = list(self.drawing(charts()["a sweep that failed here and there"]).iter())
        color = ane_bench.COLORS["w8a8"]
        runs = [len(element.attrib["points"].split()) for element in elements if element.tag == f"{SVG}polyline" and element.attrib["stroke"] == color]
        self.assertEqual(runs, [1, 2, 2, 23, 2, 2])
        hollow = [element for element in elements if element.tag == f"{SVG}rect" and element.attrib.get("stroke") == color and element.attrib["fill"] == "#ffffff"]
        self.assertEqual(len(hollow), 1)
        self.assertEqual(self.texts(charts()["a sweep that failed"]).count("failed"), 6)

    def test_the_verb(self) -> None:
        with support.tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run one.json"
            path.write_text(json.dumps(charts()["five"]))
            finished = main("chart", str(path))
            self.assertEqual((finished.code, finished.errors, finished.output), (0, "", f"{directory}/run one.svg\n"))
            self.assertEqual((path.parent / "run one.svg").read_text(encoding="utf-8"), ane_bench.chart(charts()["five"]))
            self.assertEqual(main("chart", str(path), "-o", f"{directory}/other").output, f"{directory}/other\n")
            self.assertEqual(main("chart", str(path), "-o", f"{directory}/none/other").code, 2)
            self.assertEqual(sorted(found.name for found in path.parent.iterdir()), ["other", "run one.json", "run one.svg"])
