"""Section 11: what a record holds, what is read of it, and what is refused. Damaged ones never give a traceback."""

import base64
import copy
import functools
import json
import os
import random
import re
import signal
import stat
import subprocess
import unittest
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ane_bench
from ane_bench import Config, OutputError, Run, Settings, UsageError, read_record
from tests import support
from tests.runs import (
    ALL,
    KERNEL3,
    ORIGINAL,
    as_before,
    block_of,
    command,
    made_run,
    random_run,
    sweep,
    written,
)

SEED = os.environ.get("ANE_BENCH_FUZZ_SEED", "1")
EXACT: Mapping[str, Any] = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a16:1600,w8a8:1000"}
UNCHECKED = ("--verify", "0", "--iters", "10", "--rounds", "5", "--warmup", "1", "--quiet")


class DirectoryCase(support.DirectoryCase):
    """A test with a directory of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "run.json"

    def read(self, record: Any) -> Run:
        """Return what is read of a record's text."""
        return read_record(written(self.path, record))


class SavedTest(support.StandinCase):
    """The record on standard output, in the file, and read back."""

    def test_standard_output_is_the_file_and_what_is_read_of_it(self) -> None:
        path = self.directory / "run.json"
        two = ("--config", "64x8x2", "--config", "32x8x2")
        for settings in (EXACT, {"COMPUTE": "none", "LATENCY": "fp16:200,w8a8:100"}):
            finished = self.run_standin(*two, *UNCHECKED, "--format", "json", "--save", str(path), **settings)
            self.assertEqual(finished.code, 0, finished.output + finished.errors)
            self.assertEqual(path.read_text(), finished.output)
            run = read_record(str(path))
            self.assertEqual(run.to_dict(), json.loads(finished.output))
            self.assertEqual([config.name for config, _ in run.results], ["64x8x2", "32x8x2"])
            self.assertTrue(run.ok and run.complete and run.asked)

    def test_the_order_of_the_design(self) -> None:
        record = self.run_record("--config", "64x8x2", *UNCHECKED, **EXACT)
        self.assertEqual(" ".join(record), "schema version started engine command system protocol asked complete "
                                           "results warnings notes")
        self.assertEqual(record["asked"], {"configs": ["64x8x2"], "variants": ["fp16", "w8a8"]})
        self.assertEqual(list(record["results"][0]), ["config", "gop", "variants", "ratio"])
        self.assertEqual(record["results"][0]["config"], {"channels": 64, "spatial": 8, "depth": 2})
        self.assertEqual(list(record["results"][0]["ratio"]), ["w8a8"])


class PrivacyTest(support.StandinCase):
    """No record, and nothing made of one, names the user, the host or a path."""

    SECRET = "zaphod"

    def test_such_names_everywhere(self) -> None:
        home = self.directory / f"home-{self.SECRET}"
        places = {name: home / f"{name}-{self.SECRET}" for name in ("tmp", "work", "python", "saved", "standin")}
        for place in places.values():
            place.mkdir(parents=True)
        module = places["python"] / "ane_bench.py"
        module.write_bytes(support.MODULE.read_bytes())
        library = places["standin"] / support.standin_library().name
        library.write_bytes(support.standin_library().read_bytes())
        names = {"HOME": str(home), "USER": self.SECRET, "LOGNAME": self.SECRET, "HOSTNAME": self.SECRET,
                 "TMPDIR": str(places["tmp"]), "PWD": str(places["work"]), "ANE_BENCH_STANDIN": str(library)}
        record = places["saved"] / "record.json"
        kinds = ("", "w8a8/compile:no", "w8a8/load:nil", "w8a8/evaluate:no", "w8a8/compile:crash", "compile:killdir")
        configs = [f"64x8x{depth}" for depth in range(1, len(kinds) + 1)]
        faults = ";".join(f"{config}/{kind}" for config, kind in zip(configs, kinds) if kind)
        run = [word for config in configs for word in ("--config", config)]
        done = support.run_command(
            *run, "--save", str(record), "--format", "markdown", *UNCHECKED, module=module, cwd=places["work"],
            environment={**names, "STANDIN_FAULT": faults, "STANDIN_COMPUTE": "none", "STANDIN_CLOCK": "virtual"})
        self.assertEqual((done.code, done.output.count("failed in stage")), (1, 6), done.errors)
        # A model's directory below what is a file cannot be made, and the error names it.
        refused = support.run_command("--config", "64x8x1", *UNCHECKED, "--format", "json", module=module, cwd=home,
                                      environment={**names, "STANDIN_TEMPORARY": str(module)})
        self.assertIn("Not a directory", refused.output)
        texts = [refused.output, done.output, record.read_text(encoding="utf-8"), ane_bench.chart(read_record(record))]
        for form in ("table", "markdown", "csv", "json"):
            texts.append(command("show", str(record), "--format", form).output)
        texts.append(command("compare", str(record), str(record)).output)
        packed = [text.split("```ane-bench-record")[1].split("```")[0] for text in texts
                  if "```ane-bench-record" in text]
        self.assertEqual(len(packed), 2)
        for text in [*texts, *(zlib.decompress(base64.b64decode(block)).decode() for block in packed)]:
            self.assertNotIn(self.SECRET, text.lower())
            self.assertNotIn(str(self.directory), text)
            self.assertNotIn(os.uname().nodename, re.split(r"[^\w.-]", text))


    def test_warnings_are_masked(self) -> None:
        run = made_run()
        with support.environment(HOME=f"/home/{self.SECRET}"):
            run.warn("cache", f"/home/{self.SECRET}/Library: cannot be read")
        self.assertEqual(run.warnings[-1]["message"], "…/Library: cannot be read")


class ReadTest(DirectoryCase):
    """Figures are worked out anew; what contradicts itself is refused with a reason; what is unknown is ignored."""

    def test_what_is_written_is_read(self) -> None:
        count = support.reduced(1000, 120, "random records")
        for number in range(count):
            with self.subTest(number, seed=SEED):
                run = random_run(random.Random(f"{SEED}/{number}"))
                record = run.to_dict()
                found = self.read(record)
                self.assertEqual(found.to_dict(), json.loads(json.dumps(record)))
                self.assertEqual(found.table(), run.table())
                old = as_before(record) if not run.condensed else record
                again = self.read(old).to_dict()
                self.assertEqual(self.read(again).to_dict(), again)

    def test_figures_that_stand_there_are_ignored(self) -> None:
        run = made_run(ORIGINAL[:2], ALL)
        record = run.to_dict()
        for result in record["results"]:
            result["gop"], result["ratio"] = 1, {"w8a8": {"value": 99, "ci95": [98, 100]}}
            for cell in result["variants"].values():
                cell.update(tops=99, weights_mib=99, ms={"median": 99, "mean": "none"})
        self.assertEqual(self.read(record).to_dict(), run.to_dict())

    def test_unknown_fields_and_facts_are_ignored(self) -> None:
        run = made_run(ORIGINAL[:1])
        record = run.to_dict()
        new = {"a": [1], "b": None}
        cell = record["results"][0]["variants"]["fp16"]
        result = record["results"][0]
        for place in (record, record["protocol"], record["asked"], result, result["config"]):
            place["new"] = place["self"] = new
        cell.update(dict.fromkeys(("new", "self", "config", "variant", "settings", "tick_ns", "facts"), new))
        record["system"] = {**record["system"], "nested": {"chip": "Apple M9"}}
        self.assertEqual(self.read(record).to_dict(), run.to_dict())

    def test_another_order_is_read(self) -> None:
        run = made_run(KERNEL3, ALL)
        sorted_text = json.dumps(run.to_dict(), sort_keys=True)
        self.assertEqual(self.read(sorted_text).to_dict(), run.to_dict())
        self.assertEqual(self.read(sorted_text).variants, list(ALL))

    def test_what_contradicts_itself_is_refused_with_a_reason(self) -> None:
        good = made_run(ORIGINAL[:2], ALL, failed=[(1, "fp16")]).to_dict()
        cell, failed = ("results", 0, "variants", "w8a8"), ("results", 1, "variants", "fp16")
        cases: Sequence[tuple[str, tuple[Any, ...], Sequence[Any]]] = (
                ("a field is missing", ("schema",), (1, None)),
                ("a field is missing", ("results",), ({}, None)),
                ("a field is missing", ("protocol",), (None, [])),
                ("a field is missing", ("protocol", "iters"), (None, 1.5, True, "10")),
                ("a field is missing", ("protocol", "tick_ns"), ("1", True)),
                ("a field is missing", ("warnings",), ([{"code": 1}], None)),
                ("a field is missing", ("system", "cpus"), ("8", 1.5)),
                ("a field is missing", ("asked", "variants"), ("fp16", None)),
                ("a field is missing", (*cell, "status"), (1, None)),
                ("a field is missing", (*cell, "samples_ns"), ([["1"] * 2] * 5, [1], {"1": 1})),
                ("a field is missing", (*cell, "verified"), ({}, {"pixels": 1})),
                ("not finite", ("protocol", "timeout"), (float("nan"), float("inf"))),
                ("not finite", (*cell, "compile_ms"), (float("nan"), -float("inf"))),
                ("a field is missing", (*cell, "compile_ms"), (1e301, "1")),
                ("iters 10", ("protocol", "rounds"), (3, 7)),
                ("rounds 0", ("protocol", "rounds"), (0,)),
                ("warmup", ("protocol", "warmup"), (-1, "1", {"a": 1})),
                ("input 'ones'", ("protocol", "input"), ("ones",)),
                ("nested", ("system", "deep"), (json.loads("[" * 40 + "]" * 40),)),
                ("engine", ("engine",), ("", "gpu")),
                ("clock", ("protocol", "tick_ns"), (-1, 1e20)),
                ("configurations", ("results",), ([], good["results"][1:], good["results"][::-1])),
                ("configurations", ("asked", "configs"), (["512x64x128"] * 2, ["64x8x2", "512x64x64"], [])),
                ("expected CHANNELS", ("asked", "configs"), (["512x64"], ["x"])),
                ("complete", ("complete",), (False,)),
                ("complete", ("asked", "configs"), (["512x64x128", "512x64x64", "4x4x4"],)),
                ("variants", ("asked", "variants"), (["fp16", "w8a8"], ["fp8", "fp16", "w8a8"], [], [*ALL, "fp16"])),
                ("variants", ("results", 1, "variants"), ({}, {"fp16": good["results"][1]["variants"]["fp16"]})),
                ("channels 0", ("results", 0, "config", "channels"), (0,)),
                ("4 GiB", ("results", 0, "config", "channels"), (16384,)),
                ("kernel 2", ("results", 0, "config", "kernel"), (2,)),
                ("W8A8 .* contradict", (*cell, "status"), ("maybe", "failed", "")),
                ("W8A8 .* contradict", (*cell, "samples_ns"),
                 (None, [], [[]], [[1e6] * 2] * 4, [[1e6]] * 5, [[1e6] * 10],
                  *([[ns] * 2] * 5 for ns in (0.0, -1.0, 1e15)))),
                ("W8A8 .* contradict", (*cell, "turns"), ([0], [0] * 11)),
                ("W8A8 .* contradict", (*cell, "verified", "ok"), (False,)),
                ("FP16 .* contradict", (*failed, "status"), ("ok",)),
                ("FP16 .* contradict", (*failed, "error"), (None, "")),
                ("FP16 .* contradict", (*failed, "stage"), (None, "")))
        for reason, way, values in cases:
            for value in values:
                words = rf"^\S*run\.json: expected a record .*: .*{reason}"
                with self.subTest(way, value=str(value)[:60]), self.assertRaisesRegex(UsageError, words):
                    self.read(altered(good, way, value))

    def test_what_is_not_json_is_refused(self) -> None:
        good = json.dumps(made_run().to_dict())
        for text in ("", "{", "[]", "null", "1", '"text"', "\0\xff", good[:-9], good + "}", "[" * 100_000, "9" * 9999):
            with self.subTest(text[:40]):
                self.path.write_text(text, encoding="latin-1")
                with self.assertRaisesRegex(UsageError, r"run\.json: expected a record as --save writes it"):
                    read_record(self.path)

    def test_another_schema_is_refused_by_name(self) -> None:
        with self.assertRaisesRegex(UsageError, "of schema ane-bench/1: it has schema 'ane-bench/2'"):
            self.read({**made_run().to_dict(), "schema": "ane-bench/2"})

    def test_files_that_cannot_be_read(self) -> None:
        for path, reason in ((self.directory, "Is a directory"), (self.directory / "none", "No such file"),
                             ("a\0b", "null"), ("\ud800", "surrogates not allowed"), (None, "NoneType")):
            with self.subTest(path), self.assertRaisesRegex(UsageError, f"cannot be read: .*{reason}"):
                read_record(path)

    def test_paths_of_any_kind(self) -> None:
        written(self.path, made_run())
        self.assertEqual(read_record(os.fsencode(self.path)).to_dict(), read_record(self.path).to_dict())

    def test_repeated_configurations_of_the_first_version(self) -> None:
        run = made_run(ORIGINAL[:2])
        old = as_before(run.to_dict())
        repeated = copy.deepcopy(old["results"][0])
        repeated["variants"]["fp16"]["samples_ns"] = [[1e6] * 2] * 5
        old["results"].append(repeated)
        self.assertEqual(self.read(old).table(), run.table())

    def test_configurations_that_were_asked_for_twice(self) -> None:
        record = made_run(ORIGINAL[:3], measured=2).to_dict()
        record["asked"]["configs"][2] = record["asked"]["configs"][1]
        with self.assertRaisesRegex(UsageError, "its configurations are not those that were asked for"):
            self.read(record)

    def test_texts_are_made_printable(self) -> None:
        found = self.read(made_run(system={"chip": "a\x1b[2J\nb", "ane_subtype": "\ud800\u202e"}))
        self.assertEqual(found.system, {"chip": "a?[2J?b", "ane_subtype": "??"})

    def test_a_baseline_is_the_first_that_was_asked_for(self) -> None:
        found = self.read(json.dumps(made_run(variants=("w8a8", "fp16")).to_dict(), sort_keys=True))
        self.assertEqual(found.cell("512x64x128", "w8a8").ratio, {})
        self.assertAlmostEqual(found.cell("512x64x128", "fp16").ratio["value"], 18.6 / 35.1)


def altered(record: Mapping[str, Any], way: Sequence[Any], to: Any) -> str:
    """Return a record's text with another value in one place; None leaves the place out."""
    changed = copy.deepcopy(record)
    place: Any = functools.reduce(lambda part, name: part[name], way[:-1], changed)
    if to is None:
        del place[way[-1]]
    else:
        place[way[-1]] = to
    return json.dumps(changed)


class OldRecordTest(DirectoryCase):
    """A record that the first version wrote is still read: golden/old-record.json came from its stand-in."""

    OLD = str(Path(__file__).parent / "golden" / "old-record.json")

    def test_it_is_read_and_claims_nothing_that_is_not_known(self) -> None:
        run = read_record(self.OLD)
        self.assertEqual((run.asked, run.complete, run.data, run.variants), (False, None, 1, ["fp16", "w8a8"]))
        self.assertFalse({"asked", "complete"} & set(run.to_dict()))
        written_then = json.loads(Path(self.OLD).read_text())
        for config, cells in run.results:
            for cell in cells:
                then = next(result for result in written_then["results"] if Config(**result["config"]) == config)
                for name in ("median", "mean", "min", "mad"):
                    self.assertAlmostEqual(cell.ms[name], then["variants"][cell.variant]["ms"][name])
                self.assertAlmostEqual(cell.tops or 0, then["variants"][cell.variant]["tops"])

    def test_it_is_shown_compared_and_charted(self) -> None:
        for form in ("table", "markdown", "csv", "json"):
            done = command("show", self.OLD, "--format", form)
            self.assertEqual(done.code, 0, done.errors)
            self.assertNotIn("of 2 configurations", done.output)
        new = written(self.path, made_run([Config(64, 8, 2), Config(32, 8, 4)], engine="stand-in"))
        done = command("compare", self.OLD, new)
        self.assertEqual(done.code, 0)
        self.assertIn("differs in data: 1 / 2 (revisions of weights and input: other programs were timed)", done.output)
        self.assertEqual(len([line for line in done.output.splitlines() if line.startswith(("FP16", "W8A8"))]), 4)
        done = command("chart", self.OLD, "-o", str(self.directory / "old.svg"))
        self.assertEqual(done.code, 0)
        self.assertNotIn("configurations", (self.directory / "old.svg").read_text().split("channels x")[0])

    def test_the_gate_does_not_take_it(self) -> None:
        done = command("compare", self.OLD, self.OLD, "--fail-if-slower", "5")
        self.assertEqual((done.code, done.output), (2, ""))
        self.assertIn("BASE is not known to be whole (an old record); record it to its end", done.errors)


class BrokenOffTest(support.StandinCase):
    """A run of six configurations that was broken off in the third."""

    PART = "2 of 6 configurations"

    def test_wherever_it_is_used_it_says_so(self) -> None:
        configs = [word for depth in range(1, 7) for word in ("--config", f"64x8x{depth}")]
        started = self.scene.start(*configs, *UNCHECKED, "--save", str(self.scene.saved),
                                   settings={**EXACT, "CLOCK": "real", "FAULT": "64x8x3/evaluate:slow=30@4"})
        self.scene.await_call(started, "evaluate fp16", 2 * 16 + 3)  # uncounted ones are a warm-up, and one a round
        started.signal(signal.SIGINT)
        done, saved = self.scene.finish(started), str(self.scene.saved)
        self.assertEqual(done.code, 130)
        self.assertIn(f"{self.PART} are in {saved}", done.errors)
        self.assertIn(f"The run was broken off: {self.PART}.", done.output)
        self.check_reports(saved)
        self.check_gate(saved)

    def check_reports(self, saved: str) -> None:
        """Every report names what part of the run there is."""
        record = self.scene.record()
        self.assertEqual((record["complete"], len(record["asked"]["configs"]), len(record["results"])), (False, 6, 2))
        whole = written(self.directory / "whole.json", made_run(sweep((64,), (8,), range(1, 7)), engine="stand-in"))
        for arguments in (("show", saved), ("show", saved, "--format", "markdown"), ("show", saved, whole),
                          ("show", whole, saved, "--format", "markdown"), ("compare", whole, saved),
                          ("compare", saved, whole, whole), ("compare", whole, saved, "--format", "json"),
                          ("compare", whole, saved, "--format", "markdown")):
            with self.subTest(arguments):
                done = command(*arguments)
                self.assertEqual(done.code, 0, done.errors)
                self.assertIn(f"The run was broken off: {self.PART}.", done.output)
        self.assertEqual(len(command("show", saved, "--format", "csv").output.splitlines()), 1 + 4)
        self.assertEqual(json.loads(command("show", saved, "--format", "json").output), record)
        drawing = self.directory / "run.svg"
        self.assertEqual(command("chart", saved, "-o", str(drawing)).code, 0)
        self.assertIn(self.PART, drawing.read_text())

    def check_gate(self, saved: str) -> None:
        """The gate takes it as NEW alone."""
        done = command("compare", saved, saved, "--fail-if-slower", "5")
        self.assertEqual((done.code, done.output), (2, ""))
        self.assertIn(f"BASE is not known to be whole ({self.PART}); record it to its end", done.errors)
        configs = [Config(64, 8, depth) for depth in range(1, 7)]
        base = made_run(configs, engine="stand-in", settings=read_record(saved).settings,
                        system=read_record(saved).system)
        done = command("compare", written(self.directory / "base.json", base), saved, "--fail-if-slower", "1e5")
        self.assertEqual(done.code, 1)
        self.assertEqual(done.errors.count("missing from NEW"), 8)


def limited(bytes_in_all: int) -> Mapping[str, Any]:
    """Return options of a command that may not take more memory."""
    import resource

    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (bytes_in_all, bytes_in_all))}


class BombTest(DirectoryCase):
    """What is far larger than any record is refused in little time and memory."""

    def check_refused(self, reason: str) -> None:
        """Commands that read records refuse the file, in a gigabyte of memory."""
        path = str(self.path)
        for arguments in (("show", path), ("compare", path, path, "--fail-if-slower", "5")):
            done = subprocess.run([*support.own_python(), str(support.compiled_module()), *arguments], check=False,
                                  capture_output=True, encoding="utf-8", timeout=60, **limited(1 << 30))
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr[:500])
            self.assertRegex(done.stderr, reason)
            self.assertNotIn("Traceback", done.stderr)

    def test_a_block_of_ten_gigabytes(self) -> None:
        packer = zlib.compressobj(9)
        piece = b"[" + b"0," * (1 << 19)
        first = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
        later = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself after a full flush
        packed = base64.b64encode(first + later * (10 << 10)).decode()
        self.assertEqual(len(zlib.decompressobj().decompress(first + later * 3)), 4 * len(piece))
        self.path.write_text(f"```ane-bench-record\n{packed}\n```\n")
        self.check_refused("block 1 of 1 is damaged and left out: the records in one file have over 64 MiB")

    def test_many_blocks_that_are_large_together(self) -> None:
        record = json.dumps(made_run().to_dict())
        large = block_of((record[:-1] + ', "new": "' + "x" * (20 << 20) + '"}').encode())
        self.path.write_text(block_of(record.encode()) + large * 100)
        done = command("show", str(self.path), "--format", "json")
        self.assertEqual((done.code, len(json.loads(done.output))), (0, 4))
        self.assertEqual(done.errors.count("is damaged and left out: the records in one file have over 64 MiB"), 97)

    def test_many_values(self) -> None:
        beginning = json.dumps(made_run().to_dict())[:-1]
        for item, count in (("[]", 4_000_000), ('{"":0}', 2_000_000), ("0", 4_000_000)):
            self.path.write_text(f'{beginning}, "new": [{",".join([item] * count)}]}}')
            self.check_refused("more values than any run has")

    def test_a_large_file(self) -> None:
        with open(self.path, "wb") as file:
            file.write(b'{"schema": "')
            file.truncate(1 << 40)
        self.check_refused("over 64 MiB, and no record is that large")

    @support.long_test
    def test_the_largest_run_is_read(self) -> None:
        configs = [Config(64, 8, depth) for depth in range(1, 6)]
        run = made_run(configs, settings=Settings(iters=100_000, rounds=100_000), spread=0.1)
        run.save(self.path)
        self.assertEqual(len(read_record(self.path).cells), 10)


class WriteTest(DirectoryCase):
    """A record is written whole or not at all."""

    def test_kinds_of_paths(self) -> None:
        run = made_run()
        for path in (self.path, str(self.path), os.fsencode(self.path)):
            run.save(path)
            self.assertEqual(read_record(self.path).to_dict(), run.to_dict())
            self.assertEqual(list(self.directory.iterdir()), [self.path])
            self.path.unlink()

    def test_permissions_are_those_of_the_umask_or_of_the_file_before(self) -> None:
        run, before = made_run(), os.umask(0o027)
        self.addCleanup(os.umask, before)
        run.save(self.path)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)
        self.path.chmod(0o604)
        run.save(self.path)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o604)

    def test_a_link_stays_a_link(self) -> None:
        target, link = self.directory / "target.json", self.directory / "link.json"
        target.write_text("old")
        link.symlink_to(target)
        made_run().save(link)
        self.assertTrue(link.is_symlink() and read_record(target))

    def test_what_cannot_be_written_leaves_nothing_behind(self) -> None:
        for path, reason in ((self.directory, "not a regular file"), ("/dev/null", "not a regular file"),
                             (self.directory / "no" / "file", "No such file"), ("a\0b", "null"),
                             ("\ud800", "surrogates")):
            with self.subTest(path), self.assertRaisesRegex(OutputError, f"cannot be written: .*{reason}"):
                made_run().save(path)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_a_directory_that_is_gone(self) -> None:
        gone = self.directory / "gone"
        gone.mkdir()
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(gone)
        gone.rmdir()
        with self.assertRaisesRegex(OutputError, "run.json: cannot be written: No such file"):
            made_run().save("run.json")

    def test_a_failure_keeps_what_was_there(self) -> None:
        written(self.path, made_run())
        before = self.path.read_text()
        run = made_run()
        run.command = [object()]  # type: ignore[list-item]
        with self.assertRaises(TypeError):
            run.save(self.path)
        self.assertEqual((self.path.read_text(), list(self.directory.iterdir())), (before, [self.path]))


if __name__ == "__main__":
    unittest.main()
