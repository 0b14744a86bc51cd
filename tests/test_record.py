"""Section 12: what a record holds, what is read of it, and what is refused; layers. Damaged records
never give a traceback."""

import base64
import copy
import functools
import json
import math
import os
import random
import re
import time
import unittest
import unittest.mock
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import ane_bench
from ane_bench import Config, OutputError, Run, UsageError, read_record
from tests import runs, support
from tests.runs import ALL, AS_ORIGINAL, KERNEL3, ORIGINAL, VERIFIED, command, made_run, written
from tests.test_fuzz import limited_memory

SEED = os.environ.get("ANE_BENCH_FUZZ_SEED", "1")


class DirectoryCase(support.DirectoryCase):
    """A test with a directory of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "run.json"

    def read(self, record: Any) -> Run:
        """Return what is read of a record's text."""
        return read_record(written(self.path, record))


class RunTest(unittest.TestCase):
    """What a run says about itself; its record is that of the design, to the letter."""

    def test_the_whole_record(self) -> None:
        run = made_run(["64x8x2", "64x8x6", "8x8x2k3"], failed=[(2, "w8a8")], each=2, rounds=5,
                       fixed_ms=0.1, measured=3)
        run.version = "VERSION"
        run.warn("noise", "FP16 64x8x2: times changed by +5 %")
        run.cells[0].note(refused=["standard/1.3: no"], form="standard/1.3-early")
        run.cells[2].note(samples_ns=[[median] for median in run.cells[2].medians_ns],
                          condensed=True)
        run.cells[3].note(apart=True)
        run.warn("cache", "[\n 1,\n 2\n] [ 1, 2 ]")  # which are no rounds
        self.assertEqual(json.loads(ane_bench.record_text(run)), run.to_dict())
        text = re.sub(r"[0-9]+[.][0-9]{5,}(e-[0-9]+)?", lambda found: f"{float(found[0]):.5g}",
                      ane_bench.record_text(run))
        self.assertEqual(*runs.golden("record.json", text))

    def test_complete(self) -> None:
        run = made_run(ORIGINAL[:2])
        self.assertTrue(run.complete)
        self.assertFalse(made_run(ORIGINAL[:2], measured=1).complete)
        run.broken_off = True  # in the rounds of the last configuration
        self.assertFalse(run.complete or ane_bench.run_of(run.to_dict()).complete)

    def test_cells(self) -> None:
        run = made_run(ORIGINAL[:2], failed=[(1, "w8a8")])
        self.assertFalse(run.ok)
        for config in ("512x64x64", Config(512, 64, 64)):
            cell = run.cell(config, "w8a8")
            self.assertEqual((cell.status, cell.baseline), ("failed", run.cells[2]))
        with self.assertRaisesRegex(KeyError, "w8a16 at 512x64x64"):
            run.cell("512x64x64", "w8a16")

    def test_a_layer_is_told_if_its_interval_is_within_a_fifth_of_it(self) -> None:
        for error, told in ((0.0017, True), (0.0019, False)):  # "surely slower" to 0.009
            chains = {depth: {"fp16": ane_bench.Estimate(math.log(ns), error, 11)}
                      for depth, ns in ((64, 105_000), (192, 108_000))}
            layer = ane_bench.layer_of(Config(64, 7, 1), chains, "fp16")
            self.assertEqual("fp16" in layer.variants, told)

    def test_warnings_stand_once_and_name_no_user(self) -> None:
        run = made_run()
        with support.environment(HOME="/home/zaphod"):
            for _ in range(2):
                run.warn("cache", "/home/zaphod/Library: cannot be read")
        self.assertEqual(run.warnings, [{"code": "cache", "message": "…/Library: cannot be read"}])


class LayersTest(unittest.TestCase):
    """The time of a layer and the fixed cost of an evaluate, from two depths."""

    def test_what_a_layer_costs(self) -> None:
        run = made_run(["256x56x4k3", "256x56x12k3", "512x64x64", "512x64x128"], ALL, fixed_ms=0.1,
                       spread=0)
        self.assertEqual([layer.shape for layer in run.layers], ["256x56k3", "512x64"])
        self.assertEqual([layer.depths for layer in run.layers], [(4, 12), (64, 128)])
        for layer, config in zip(run.layers, (Config(256, 56, 1, 3), Config(512, 64, 1))):
            for variant, found in layer.variants.items():
                us = 1e3 * config.gop / runs.SPEEDS[variant]
                self.assertAlmostEqual(found["us"], us)
                self.assertAlmostEqual(found["tops"], runs.SPEEDS[variant])
                self.assertAlmostEqual(found["fixed_ms"], 0.1)
                for name in ("ci95", "tops_ci95", "fixed_ci95"):
                    self.assertLess(found[name][0] - 1e-9, found[name][1])
            self.assertEqual(list(layer.ratio), ["w8a16", "w8a8"])
            self.assertAlmostEqual(layer.ratio["w8a8"]["value"], 35.1 / 18.6)

    def test_intervals_hold_the_truth(self) -> None:
        count, draw, right = support.reduced(4000, 800, "layers"), random.Random(3), [0] * 4
        for _ in range(count):
            run = made_run(["64x56x4", "64x56x12"], fixed_ms=0.1)
            for cell, ms in zip(run.cells, (0.2, 0.15, 0.4, 0.25)):
                cell.samples_ns = [[1e6 * ms * draw.lognormvariate(0, 0.01)] for _ in range(12)]
            layer, = run.layers  # 25 µs and 12.5 µs, 0.1 ms both
            found, int8 = layer.variants["fp16"], layer.variants["w8a8"]
            for place, (truth, (low, high)) in enumerate((
                    (25, found["ci95"]), (0.1, found["fixed_ci95"]), (12.5, int8["ci95"]),
                    (2, layer.ratio["w8a8"]["ci95"]))):
                right[place] += low < truth < high
        for hits in right:
            self.assertGreater(hits / count, 0.925)

    def test_the_deepest_two_and_no_int8_of_one_layer(self) -> None:
        run = made_run(["64x8x16", "64x8x1", "64x8x4", "32x8x1", "32x8x2", "16x8x2"])
        self.assertEqual([layer.depths for layer in run.layers], [(4, 16), (1, 2)])
        self.assertEqual((list(run.layers[1].variants), run.layers[1].ratio), (["fp16"], {}))
        self.assertEqual(made_run(["32x8x1", "32x8x2"], ["w8a8"]).layers, [])
        run = made_run(["64x8x2", "64x8x4", "64x8x8"], failed=[(2, "fp16"), (2, "w8a8")])
        self.assertEqual([layer.depths for layer in run.layers], [(2, 4)])

    def test_a_time_that_cannot_be_told(self) -> None:
        rows: Sequence[tuple[dict[str, Any], list[tuple[list[str], list[str]]]]] = (
            ({"fixed_ms": 10}, [([], [])]),  # a ten-thousandth, and times drift
            ({"speeds": {"fp16": 1e-3}, "fixed_ms": 10}, [(["fp16"], [])]),
            ({"speeds": {"w8a8": 1e-3}, "fixed_ms": 10}, [(["w8a8"], [])]),
            ({"rounds": 4}, [([], [])]), ({"failed": [(1, "fp16")]}, [(["w8a16", "w8a8"], [])]),
            ({"wrong": [(0, "w8a8")]}, [(["fp16", "w8a16"], ["w8a16"])]),
            ({"failed": [(0, variant) for variant in ALL]}, []), ({"measured": 1}, []),
            ({"settings": AS_ORIGINAL}, []))
        for options, told in rows:
            run = made_run(["64x8x2", "64x8x4"], ALL, **options)
            found = [(list(layer.variants), list(layer.ratio)) for layer in run.layers]
            self.assertEqual(found, told, options)


def altered(record: Mapping[str, Any], way: Sequence[Any], to: Any) -> str:
    """Return a record's text with another value in one place; None leaves the place out."""
    changed = copy.deepcopy(record)
    place: Any = functools.reduce(lambda part, name: part[name], way[:-1], changed)
    if to is None:
        del place[way[-1]]
    else:
        place[way[-1]] = to
    return json.dumps(changed)


GOOD = made_run(ORIGINAL[:2], ALL, failed=[(1, "fp16")]).to_dict()
CELL, FAILED = ("results", 0, "variants", "w8a8"), ("results", 1, "variants", "fp16")
ROUNDS = [[1e6] * 5] * 12
# What is wrong, where, and values there that are so.
WRONG: Sequence[tuple[str, tuple[Any, ...], Sequence[Any]]] = (
    ("it has schema", ("schema",), (1, ["ane-bench/2"], "", "ane-bench/1", "ane-bench/2.1")),
    *((f"'{name}' is missing", (name,), (None,)) for name in GOOD if name != "layers"),
    *((f"'{name}' is missing", ("protocol", name), (None,)) for name in GOOD["protocol"]),
    *((f"'{name}' is missing", ("asked", name), (None,)) for name in GOOD["asked"]),
    *((f"'{name}' is missing", ("results", 0, name), (None,)) for name in ("config", "variants")),
    ("expected a list", ("results",), ({}, "x", 1)), ("an object", ("protocol",), ([], 3)),
    ("expected a list", ("warnings",), ({}, "text")), ("an object", ("warnings",), ([1],)),
    ("'code' is missing", ("warnings",), ([{"message": "x"}],)),
    ("expected a text", ("warnings",), ([{"code": 1, "message": "x"}],)),
    ("expected a text", ("command",), ([1],)), ("expected a list", ("command",), ("ane",)),
    ("expected a text", ("version",), (1, [], True)),
    ("does not match format", ("started",),
     ("yesterday", "2026-01-02T03:04:05", "2026-13-01T03:04:05Z", "")),
    ("out of range", ("started",), ("0001-01-01T00:00:00+23:59",)),
    ("expected a list", ("asked", "variants"), ("fp16", {})),
    ("expected true or false", ("complete",), (1, "true")),
    ("verify", ("protocol", "verify"), (1.5, True, "8", -1, 4097)),
    ("seconds", ("protocol", "seconds"), (-1, 3601, "1")), ("qos", ("protocol", "qos"), (-1, 0.5)),
    ("form", ("protocol", "form"), ("standard", 1)), ("seed", ("protocol", "seed"), (-1,)),
    ("original", ("protocol", "original"), (1, "no")), ("whole", ("protocol", "data"), (1.5, "2")),
    ("expected a number", ("protocol", "timeout"), (float("nan"), float("inf"))),
    ("engine", ("engine",), ("", "gpu")), ("expected a text", ("engine",), (1,)),
    ("configurations", ("results",), ([], GOOD["results"][1:], GOOD["results"][::-1],
                                      [GOOD["results"][0]] * 2)),
    ("configurations", ("asked", "configs"), (["512x64x128"] * 2, ["64x8x2", "512x64x64"], [],
                                                ["512x64x128", *["512x64x64"] * 2])),
    ("expected ", ("asked", "configs"), (["512x64"], ["x"], [1], [["512x64x128"]])),
    ("complete", ("asked", "configs"), (["512x64x128", "512x64x64", "4x4x4"],)),
    ("variant", ("asked", "variants"), (["fp16", "w8a8"], ["fp8", "fp16", "w8a8"], [],
                                        [*ALL, "fp16"])),
    ("variants", ("results", 1, "variants"), ({}, {"fp16": {}})),
    ("expected", ("results", 0, "config"), ("0x64x128", "512x64x128k2", {"channels": 512}, 5)),
    ("4 GiB", ("results", 0, "config"), ("16384x16384x1",)),
    ("an object", CELL, ([], 1, "ok")),
    ("expected a text", (*CELL, "status"), (1, ["ok"])),
    ("stage and error contradict", (*CELL, "status"), ("failed", "maybe", "")),
    ("stage and error contradict", (*FAILED, "status"), ("ok", "maybe")),
    ("stage and error contradict", (*CELL, "error"), ("no",)),
    ("stage and error contradict", (*CELL, "stage"), ("compile",)),
    ("stage and error contradict", (*FAILED, "error"), (None, "")),
    ("stage and error contradict", (*FAILED, "stage"), (None, "")),
    ("status contradicts its samples", (*CELL, "samples_ns"), (None, [])),
    ("samples_ns: ", (*CELL, "samples_ns"),
     ([["1"] * 2] * 5, [1], {"1": 1}, [[]], [[0.0] * 5] * 12, [[-1.0] * 5] * 12,
      [[1e15] * 5] * 12)),
    ("different numbers of samples", (*CELL, "samples_ns"), ([[1e6]] + ROUNDS[1:],)),
    ("condensed and have several", (*CELL, "condensed"), (True,)),
    ("condensed: ", (*CELL, "condensed"), (1, "yes")),
    ("rounds_s", (*CELL, "rounds_s"), ([0.0], [0.0] * 13)),
    ("rounds_s: ", (*CELL, "rounds_s"), (["0"] * 12, 12)),
    ("`rounds_s` contradicts", (*CELL, "rounds_s"), ([1.0, *[0.5] * 11], [-1.0] * 12)),
    ("compile_ms: ", (*CELL, "compile_ms"), ("1", True, [])),
    ("strides: ", (*CELL, "strides"), ([128], {"row": 1.5}, {"output": {"row": "128"}})),
    ("refused: ", (*CELL, "refused"), ("no", [1])),
    ("contradicts .* its check", (*CELL, "verified", "ok"), (False, None)),
    ("verified: ", (*CELL, "verified"), ([], {**VERIFIED, "ok": 1}, {**VERIFIED, "slope": "1"})))


class ReadTest(DirectoryCase):
    """Figures are worked out anew; what contradicts itself is refused with a reason; what is
    unknown is ignored."""

    def test_what_is_written_is_read(self) -> None:
        for number in range(support.reduced(1000, 150, "random records")):
            with self.subTest(number, seed=SEED):
                run = runs.random_run(random.Random(f"{SEED}/{number}"))
                found = self.read(run)
                self.assertEqual(ane_bench.record_text(found), ane_bench.record_text(run))
                self.assertEqual(found.table(), run.table())

    def test_figures_and_unknown_fields_are_ignored(self) -> None:
        run, new = made_run(ORIGINAL[:2], ALL), {"a": [1], "b": None}
        record = copy.deepcopy(run.to_dict())
        record["layers"] = [{"layer": 1}]
        record["new"] = record["self"] = record["asked"]["new"] = new
        for result in record["results"]:
            ratio = {"w8a8": {"value": 99, "ci95": [98, 100]}}
            result.update(gop=1, ratio=ratio, new=new)
            for cell in result["variants"].values():
                cell.update(dict.fromkeys(("new", "self", "config", "variant", "settings"), new),
                            tops=99, weights_mib=99, ms={"value": 99, "mean": "none"}, facts=new)
                cell["verified"]["new"] = new
        self.assertEqual(self.read(record).to_dict(), run.to_dict())

    def test_unknown_settings_are_kept(self) -> None:
        record = made_run().to_dict()
        record["protocol"].update({"warp": 9, "x\x1b": "a\nb", "nested": [1, {"a": None}]})
        found = self.read(record)
        self.assertEqual(found.other_settings,
                         {"warp": 9, "x?": "a?b", "nested": "[1, {'a': None}]"})
        self.assertEqual(found.to_dict()["protocol"]["warp"], 9)
        self.assertEqual(self.read(found.to_dict()).other_settings, found.other_settings)

    def test_another_order_is_read_and_the_baseline_is_the_first_asked_for(self) -> None:
        run = made_run(KERNEL3, ("w8a8", "fp16"))
        found = self.read(json.dumps(run.to_dict(), sort_keys=True))
        self.assertEqual(found.to_dict(), run.to_dict())
        self.assertEqual([cell.ratio == {} for cell in found.cells], [True, False] * 2)
        self.assertAlmostEqual(found.cells[1].ratio["value"], 18.6 / 35.1)

    def test_what_is_wrong_is_refused_with_a_reason(self) -> None:
        for reason, way, values in WRONG:
            for value in values:
                words = rf"^\S*run\.json: expected a record of schema ane-bench/2, .*: .*{reason}"
                with self.subTest(way, value=str(value)[:60]), \
                        self.assertRaisesRegex(UsageError, words):
                    self.read(altered(GOOD, way, value))

    def test_cells_may_differ_in_rounds(self) -> None:
        for apart in (True, False):
            record = made_run().to_dict()
            cell = record["results"][0]["variants"]["w8a8"]
            cell.update(samples_ns=ROUNDS * 2, rounds_s=[], apart=apart)
            self.assertIn("ci95", self.read(record).cells[1].ratio)

    def test_what_is_not_json_is_refused(self) -> None:
        good = json.dumps(GOOD)
        for text in ("", "{", "[]", "null", "1", '"text"', "\0\xff", good[:-9], good + "}",
                     "[" * 100_000, "9" * 9999, '{"schema": ' + "9" * 9999 + "}", "[[]]", "[1]"):
            with self.subTest(text[:40]):
                self.path.write_text(text, encoding="latin-1")
                with self.assertRaisesRegex(UsageError, r"run\.json: expected a record of schema"):
                    read_record(self.path)

    def test_another_schema_and_lists_of_records_are_refused(self) -> None:
        with self.assertRaisesRegex(UsageError, ": it has schema 'ane-bench/1'$"):
            self.read({"schema": "ane-bench/1", "results": {}, "version": 1})
        with self.assertRaisesRegex(UsageError, "run.json: holds 2 records; expected one"):
            self.read(json.dumps([GOOD, GOOD]))

    def test_files_that_cannot_be_read(self) -> None:
        for path, reason in ((self.directory, "Is a directory"), ("a\0b", "null"),
                             (self.directory / "none", "No such file"),
                             ("\ud800", "surrogates not allowed")):
            with self.subTest(path), \
                    self.assertRaisesRegex(UsageError, f"cannot be read: .*{reason}"):
                read_record(path)

    def test_facts_are_printable_texts_or_numbers_and_times_are_utc(self) -> None:
        found = self.read(made_run(system={
            "chip": "a\x1b[2J\nb", "ane_\r": "\ud800\u202e", "a": float("nan"), "b": -1e301, "c": 7,
            "d": True}))
        self.assertEqual(found.system, {"chip": "a?[2J?b", "ane_?": "??", "a": "nan",
                                        "b": "-1e+301", "c": 7, "d": True})
        for text in ("2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05Z"):
            self.assertEqual(self.read(altered(GOOD, ("started",), text)).started, GOOD["started"])


class LargeTest(DirectoryCase):
    """What is far larger than any record is refused in little time and memory."""

    def check_refused(self, reason: str) -> None:
        """The file is refused, in a gigabyte of memory."""
        with limited_memory(1 << 30), self.assertRaisesRegex(UsageError, reason):
            read_record(self.path)

    def test_many_values(self) -> None:
        beginning = json.dumps(GOOD)[:-1]
        for item, count in (("[]", 6_100_000), ('{"":0}', 6_100_000), ("0", 12_100_000)):
            self.path.write_text(f'{beginning}, "new": [{",".join([item] * count)}]}}')
            self.check_refused("more values than any run has")

    def test_a_large_file(self) -> None:
        with open(self.path, "wb") as file:
            file.write(b'{"schema": "')
            file.truncate(1 << 40)
        self.check_refused("over 128 MiB, and no record is so large")

    def test_a_long_number(self) -> None:
        self.path.write_text(f'{{"schema": {"9" * 30_000_000}}}')
        started = time.process_time()
        with self.assertRaisesRegex(UsageError, "it has schema"):
            read_record(self.path)
        self.assertLess(time.process_time() - started, 5)

    def test_what_is_written_is_not_too_large_to_be_read(self) -> None:
        """A day of rounds, all condensed, of which a 200th is made here."""
        run = made_run(rounds=8640)
        for cell in run.cells:
            cell.note(condensed=True, samples_ns=[[104123.1]] * 8640,
                      rounds_s=[round(start, 4) for start in cell.rounds_s])
        text = ane_bench.record_text(run)
        self.assertLess(200 * sum(map(text.count, ",[{")), ane_bench.MOST_VALUES)
        self.assertLess(200 * len(text), ane_bench.LARGEST_RECORD)

    def test_a_cell_that_failed_after_it_was_condensed_is_read(self) -> None:
        run = made_run(failed=[(0, "w8a8")])
        run.cells[1].note(condensed=True)
        run.save(self.path)
        self.assertTrue(read_record(self.path).cells[0].ok)

    def test_of_too_many_samples_the_medians_are_kept(self) -> None:
        run = made_run(rounds=20, each=7, spread=0.1)
        for most, kept in ((280, 7), (279, 1)):
            with unittest.mock.patch.object(ane_bench, "KEPT_SAMPLES", most):
                run.save(self.path)
            for old, new in zip(run.cells, read_record(self.path).cells):
                self.assertEqual((new.ms["value"], new.ms["ci95"], len(new.samples_ns[0])),
                                 (old.ms["value"], old.ms["ci95"], kept))
        run.cells[0].note(samples_ns=[samples[:1] for samples in run.cells[0].samples_ns],
                          condensed=True)
        self.assertTrue(all(cell.condensed for cell in ane_bench.condensed(run).cells))

    def test_an_hour_is_read_in_two_seconds(self) -> None:
        run = made_run(["64x8x2"], rounds=72_000, each=1, spread=0.01,
                       settings=ane_bench.Settings(seconds=3600))
        for cell in run.cells:
            cell.note(condensed=True)
        run.save(self.path)
        self.assertLess(self.path.stat().st_size, 16 << 20)
        started = time.process_time()
        self.assertEqual(len(ane_bench.compare(run, read_record(self.path))), 2)
        self.assertLess(time.process_time() - started, 2 * (1 if support.ALL else 2))


class PrivacyTest(support.StandinCase):
    """No record, and nothing made of one, names the user, the host or a path."""

    def test_temporary_directories_are_left_out_as_a_mac_spells_them(self) -> None:
        """With a slash at the end, behind a link."""
        (self.directory / "private").mkdir()
        link = self.directory / "T"
        link.symlink_to("private")
        with unittest.mock.patch.object(ane_bench, "foundation_directory", lambda: f"{link}/"):
            for place in (link, link.resolve()):
                self.assertEqual(ane_bench.without_paths(f"{place}/01AB/data: full"),
                                 "…/01AB/data: full")

    def test_such_names_everywhere(self) -> None:
        secret = "zaphod"
        home = self.directory / f"home-{secret}"
        tmp, work, python, saved, standin = (
            home / f"{name}-{secret}" for name in ("tmp", "work", "python", "saved", "standin"))
        for place in (tmp, work, python, saved, standin):
            place.mkdir(parents=True)
        library = standin / support.standin_library().name
        module, record = python / "ane_bench.py", saved / "record.json"
        for source, copied in ((support.MODULE, module), (support.standin_library(), library)):
            copied.write_bytes(source.read_bytes())
        faults = ("w8a8/compile:no", "w8a8/load:nil", "w8a8/evaluate:no", "w8a8/compile:crash",
                  "compile:killdir")
        fault = ";".join(f"64x8x{depth}/{kind}" for depth, kind in enumerate(faults, 2))
        done = support.run_command(
            "--config=64x8x1,2,3,4,5,6", "--save", str(record), "--format=markdown", "--verify=0",
            "--seconds=0", "--quiet", module=module, cwd=work,
            environment={**dict.fromkeys(("USER", "LOGNAME", "HOSTNAME"), secret),
                         "HOME": str(home), "TMPDIR": str(tmp), "PWD": str(work),
                         "ANE_BENCH_STANDIN": str(library), "STANDIN_FAULT": fault,
                         "STANDIN_COMPUTE": "none", "STANDIN_CLOCK": "virtual"})
        self.assertEqual((done.code, done.output.count("failed in stage")), (1, 6), done.errors)
        texts = [done.output, record.read_text(encoding="utf-8"),
                 ane_bench.chart([read_record(record)]),
                 command("compare", str(record), str(record)).output,
                 *(command("show", str(record), "--format", form).output
                   for form in ("table", "markdown", "csv", "json"))]
        packed = re.findall("```ane-bench-record([^`]*)```", "".join(texts))
        self.assertEqual(len(packed), 2)
        texts += [zlib.decompress(base64.b64decode(block)).decode() for block in packed]
        for text in texts:
            self.assertNotIn(secret, text.lower())
            self.assertNotIn(str(self.directory), text)
            self.assertNotIn(os.uname().nodename, re.split(r"[^\w.-]", text))


class WriteTest(DirectoryCase):
    """A record is written whole or not at all, and nothing is left behind."""

    def test_kinds_of_paths(self) -> None:
        run, link = made_run(), self.directory / "link.json"
        for path in (self.path, str(self.path)):
            run.save(path)
            self.assertEqual(read_record(path).to_dict(), run.to_dict())
            self.assertEqual(list(self.directory.iterdir()), [self.path])
        link.symlink_to(self.path)
        made_run(KERNEL3).save(link)
        self.assertTrue(link.is_symlink())
        self.assertEqual(read_record(self.path).configs, list(KERNEL3))

    def test_what_cannot_be_written_leaves_nothing_behind(self) -> None:
        for path, reason in ((self.directory, "not a regular file"), ("a\0b", "null"),
                             ("/dev/null", "not a regular file"), ("\ud800", "surrogates"),
                             (self.directory / "no" / "file", "No such file")):
            with self.subTest(path), \
                    self.assertRaisesRegex(OutputError, f"cannot be written: .*{reason}"):
                made_run().save(path)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_a_failure_keeps_what_was_there(self) -> None:
        made_run().save(self.path)
        before = self.path.read_text()
        full = unittest.mock.patch.object(os, "replace", side_effect=OSError(28, "No space left"))
        with full, self.assertRaisesRegex(OutputError, "run.json: cannot be written: No space"):
            made_run(KERNEL3).save(self.path)
        with self.assertRaisesRegex(OutputError, "surrogates"):
            ane_bench.write_file(self.path, "half of it \ud800")
        self.assertEqual((self.path.read_text(), list(self.directory.iterdir())),
                         (before, [self.path]))
