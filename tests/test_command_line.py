"""The command line: what it refuses, its exit codes, emit, and the reference engine from end to end."""

import hashlib
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import ane_bench
from tests import support
from tests.test_mil import ORIGINAL_TEXTS

RECORD = support.ROOT / "tests" / "golden" / "old-record.json"
QUICK = ("--engine", "reference", "--config", "4x4x2", "--warmup", "1", "--quiet")

# Invalid requests, and what the one line of answer must name.
REFUSED = (
    ("--config 512x64", "'512x64': expected CHANNELSxSPATIALxDEPTH"),
    ("--config 0x64x1", "channels 0: expected a whole number from 1"),
    ("--config abc", "'abc'"),
    ("--config 16384x64x128", "4 GiB"),
    ("--variants fp8", "'fp8': expected some of fp16, w8a16, w8a8"),
    ("--variants fp16,fp16", "'fp16'"),
    ("--variants ,", "''"),
    ("--iters 0", "iters 0"),
    ("--iters 50 --rounds 7", "iters 50: expected a multiple of rounds (7)"),
    ("--iters -5", "expected"),
    ("--iters 1e3", "--iters: invalid int value: '1e3'"),
    ("--rounds 0", "rounds 0"),
    ("--qos 4294967296", "4294967296"),
    ("--verify -1", "verify -1: expected a whole number from 0 to 4096"),
    ("--timeout 0", "timeout 0.0: expected a number from 0.001"),
    ("--timeout nan", "timeout nan: expected a number from 0.001"),
    ("doctor --timeout nan", "timeout nan"),
    ("--seed x", "'x'"),
    ("--input ones", "'ones'"),
    ("--blob new", "'new'"),
    ("--dialect 2.0", "'2.0'"),
    ("--engine gpu", "'gpu'"),
    ("--format xml", "'xml'"),
    ("--no-such-option", "--no-such-option"),
    ("--iter 50", "--iter"),
    ("walk", "'walk'"),
    ("run extra", "extra"),
    ("--channels 64,x", "'64,x': expected whole numbers"),
    ("--channels 0", "channels 0"),
    ("--depth 4 --config 8x8x8", "--config and --depth conflict"),
    ("--kernel 5", "--kernel 5: expected 1, 3 or 1,3"),
    ("--original --iters 50", "--iters cannot be combined with --original (always 50)"),
    ("--original --qos 0", "--qos cannot be combined with --original (always 0)"),
    ("--original --kernel 3", "--kernel cannot be combined with --original (always 1)"),
    ("--original --engine reference", "original and the reference engine conflict"),
    ("--original --config 64x64x2k3", "original and a kernel conflict"),
    ("--original --verify 0", "--verify"),
    ("--original --blob auto", "--blob"),
    ("--save /nowhere/at/all.json", "/nowhere/at/all.json"),
    ("--save /", "/: cannot be written"),
    ("--save=", "the file has no name"),
    ("--save m4.csv", "m4.csv: --save writes json; for that: python3 ane_bench.py show RECORD.json --format csv"),
    ("--save m4.MD", "show RECORD.json --format markdown"),
    ("--save m4.svg", "python3 ane_bench.py chart RECORD.json -o FILE.svg"),
    ("--save m4.pdf", "a browser shows and prints its .svg"),
    ("chart m4.json -o m4.png", "m4.png: chart draws svg"),
    ("chart m4.json -o m4.json", "chart draws svg"),
    ("show m4.json --save x.json", "--save"),
    ("doctor --iters 5", "--iters"),
    ("emit", "DIR"),
    ("--depth= --config 4x4x1", "--depth '': expected whole numbers"),
    ("--kernel 3 --config 4x4x1", "write k3 behind a configuration"),
    ("emit /proc/nowhere --config 4x4x1", "/proc/nowhere"),
    ("emit x --iters 5", "--iters"),
    ("compare one.json", "one.json: cannot be read"),
    ("compare nowhere.json nowhere.json", "nowhere.json: cannot be read: No such file"),
    ("compare a b --fail-if-slower -1", "expected"),
    ("chart nowhere.json", "nowhere.json"),
    ("chart", "RUN.json"),
    ("doctor --format csv", "'csv'"),
)


class RefusedTest(unittest.TestCase):
    """An invalid request is answered by one line that names the value, and by exit code 2."""

    def test_one_line_and_exit_code_2(self) -> None:
        for arguments, expected in REFUSED:
            with self.subTest(arguments), tempfile.TemporaryDirectory() as directory:
                output, errors = io.StringIO(), io.StringIO()
                before = os.getcwd()
                os.chdir(directory)
                try:
                    with redirect_stdout(output), redirect_stderr(errors):
                        code = ane_bench.main(arguments.split())
                finally:
                    os.chdir(before)
                self.assertEqual((code, output.getvalue()), (2, ""), errors.getvalue())
                self.assertRegex(errors.getvalue(), r"\Aane_bench: [^\n]+\n\Z")
                self.assertIn(expected, errors.getvalue())
                self.assertEqual(os.listdir(directory), [])

    def test_without_a_neural_engine(self) -> None:
        if sys.platform == "darwin":
            raise unittest.SkipTest("this may be a Mac that has one")
        done = support.run_command()
        self.assertEqual((done.code, done.output), (3, ""))
        self.assertEqual(len(done.errors.splitlines()), 4)  # the first is progress
        for words in ("this is linux", "--engine reference", "doctor", "emit"):
            self.assertIn(words, done.errors)

    def test_no_record_is_printed_or_touched_without_an_engine(self) -> None:
        if sys.platform == "darwin":
            raise unittest.SkipTest("this may be a Mac that has one")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "old.json"
            path.write_bytes(RECORD.read_bytes())
            done = support.run_command("--format", "json", "--save", str(path))
            self.assertEqual((done.code, done.output, path.read_bytes()), (3, "", RECORD.read_bytes()))
            self.assertEqual(list(Path(directory).iterdir()), [path])


class ReferenceTest(unittest.TestCase):
    """--engine reference runs the whole way anywhere."""

    @support.long_test
    def test_a_default_run(self) -> None:
        done = support.run_command("--engine", "reference")
        self.assertEqual(done.code, 0, done.errors)
        rows = [line for line in done.output.splitlines() if line.startswith(("FP16", "W8A8"))]
        self.assertGreaterEqual(len(rows), 4)
        self.assertTrue(all(row.rstrip("*").endswith(" ok") for row in rows), done.output)

    def test_every_format_of_one_run(self) -> None:
        starts = {"table": "=== ane_bench", "markdown": "**ane\\_bench", "csv": "config,variant,", "json": "{\n"}
        for name, start in starts.items():
            done = support.run_command(*QUICK, "--format", name)
            self.assertEqual((done.code, done.errors), (0, ""))
            self.assertTrue(done.output.startswith(start), done.output)

    def test_a_link_stays_one_and_the_command_is_whole(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            target, link = Path(directory) / "real.json", Path(directory) / "link.json"
            target.write_text("")
            link.symlink_to(target)
            done = support.run_command(*QUICK, f"--save={link}")
            self.assertEqual(done.code, 0, done.errors)
            self.assertTrue(link.is_symlink())
            self.assertEqual(json.loads(target.read_text())["command"][-1], "--save=link.json")
            drawing = Path(directory) / "link.svg"
            drawing.symlink_to(target)
            done = support.run_command("chart", str(target), "-o", str(drawing))
            self.assertEqual(done.code, 2)
            self.assertIn("the chart would replace the record; name another file with -o", done.errors)

    def test_the_version(self) -> None:
        done = support.run_command("--version")
        self.assertEqual((done.code, done.output), (0, f"ane_bench {ane_bench.__version__}\n"))

    def test_the_module_as_a_module(self) -> None:
        command = [sys.executable, "-m", "ane_bench", *QUICK]
        done = subprocess.run(command, cwd=support.ROOT, capture_output=True, encoding="utf-8", check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_library(self) -> None:
        found = ane_bench.run([ane_bench.Config(4, 4, 2)], ["fp16", "w8a16", "w8a8"], engine="reference", iters=6,
                              rounds=6, warmup=1)
        record = found.to_dict()
        self.assertTrue(found.ok)
        self.assertEqual(json.loads(json.dumps(record)), record)
        self.assertEqual(list(record["results"][0]["ratio"]), ["w8a16", "w8a8"])
        for wrong in ({"engine": "gpu"}, {"variants": ["fp8"]}, {"iters": 0}, {"threads": 2}):
            with self.subTest(wrong), self.assertRaises(ane_bench.UsageError):
                ane_bench.run([ane_bench.Config(4, 4, 2)], **wrong)


class FilesTest(support.StandinCase):
    """What --save and chart write, over what, and with which permissions."""

    def measure(self, *arguments: str, **options: Any) -> support.Finished:
        """Run something small."""
        return self.scene.run(*support.SMALL, "--verify", "0", "--quiet", *arguments, settings={"COMPUTE": "none"},
                              **options)

    def test_permissions_are_those_of_the_umask_and_stay(self) -> None:
        path, drawing = self.directory / "m4.json", self.directory / "m4.svg"
        for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
            before = os.umask(mask)
            try:
                self.assertEqual(self.measure("--save", str(path)).code, 0)
                self.assertEqual(self.scene.run("chart", str(path)).code, 0)
            finally:
                os.umask(before)
            for file in (path, drawing):
                self.assertEqual(stat.S_IMODE(file.stat().st_mode), mode)
                file.unlink()
        self.measure("--save", str(path))
        path.chmod(0o640)
        self.assertEqual(self.measure("--save", str(path)).code, 0)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)
        self.assertEqual(sorted(file.name for file in self.directory.iterdir()), ["log", "m4.json", "tmp"])

    def test_only_a_record_or_nothing_is_written_over(self) -> None:
        path = self.directory / "m4.json"
        for data in (b"", RECORD.read_bytes()):
            path.write_bytes(data)
            self.assertEqual(self.measure("--save", str(path)).code, 0)
            self.assertEqual(ane_bench.read_record(path).engine, "stand-in")
        self.log.unlink()
        for data in (b"mine", b"{}", b'{"schema": "ane-bench/9"}', RECORD.read_bytes()[:-20]):
            path.write_bytes(data)
            done = self.measure("--save", str(path))
            self.assertEqual((done.code, done.output), (2, ""))
            self.assertEqual(done.errors, f"ane_bench: --save {path}: the file exists and is not a record of this "
                                          "program; choose another name, or remove it\n")
            self.assertEqual(path.read_bytes(), data)
        self.assertFalse(self.log.exists(), "nothing is measured before")

    def test_interrupted(self) -> None:
        """What was measured is printed in every format, and the last line says where it is."""
        starts = {"table": "=== ane_bench", "markdown": "**ane", "csv": "config,", "json": "{"}

        def check(scene: support.Scene, form: str) -> None:
            scene.settings = {"COMPUTE": "none", "POWER": "Battery Power", "FAULT": "16x8x2/compile:hang"}
            save = ("--save", str(scene.saved)) if form != "csv" else ()
            run = scene.start("--config", "32x8x2", "--config", "32x8x2", "--config", "64x8x2", "--config", "16x8x2",
                              *support.SMALL[2:], "--verify", "0", "--format", form, *save)
            scene.await_call(run, "compile fp16", 3)
            run.signal(signal.SIGTERM if form == "json" else signal.SIGINT)
            done = scene.finish(run)
            self.assertEqual(done.code, 143 if form == "json" else 130)
            self.assertTrue(done.output.startswith(starts[form]), done.output)
            self.assertIn("ane_bench: warning (battery) ", done.errors)
            word, place = "terminated" if form == "json" else "interrupted", f"are in {scene.saved}"
            last = f"ane_bench: {word}: 2 of 3 configurations {place if save else 'were measured'}"
            self.assertEqual(done.errors.splitlines()[-1], last)
            if form == "json":
                record = json.loads(done.output)
                self.assertEqual((record["complete"], len(record["results"])), (False, 2))
                self.assertEqual([note["code"] for note in record["notes"]][:1], ["repeated"])
                self.assertEqual(record, json.loads(scene.saved.read_text()))
            elif form == "csv":
                self.assertEqual(len(done.output.splitlines()), 5)
            else:
                self.assertIn("The run was broken off: 2 of 3 configurations.", done.output)
                self.assertEqual(len(re.findall(r"(?m)^(?:\| )?(?:FP16|W8A8) [0-9]+ch", done.output)), 4)
        self.each(starts, check)

    def test_interrupted_before_anything_was_measured(self) -> None:
        self.scene.settings = {"FAULT": "compile:hang"}
        run = self.scene.start(*support.SMALL, "--save", str(self.scene.saved))
        self.scene.await_call(run, "compile fp16")
        run.signal(signal.SIGINT)
        done = self.scene.finish(run)
        self.assertEqual((done.code, done.output), (130, ""))
        self.assertEqual(done.errors.splitlines()[-1], "ane_bench: interrupted")
        self.assertFalse(self.scene.saved.exists())


class EmitTest(unittest.TestCase):
    """The files of each program."""

    def emitted(self, *arguments: str) -> dict[str, bytes]:
        """Return what a command writes, by path."""
        with tempfile.TemporaryDirectory() as directory:
            done = support.run_command("emit", directory, *arguments)
            self.assertEqual((done.code, done.errors), (0, ""))
            paths = [path for path in Path(directory).rglob("*") if path.is_file()]
            files = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
            self.assertEqual({os.path.join(directory, name.split("/")[0]) for name in files}, set(done.output.split()))
            return files

    def test_the_files_are_the_programs(self) -> None:
        files = self.emitted("--config", "8x4x2", "--seed", "7", "--dialect", "1.0", "--blob", "original",
                             "--variants", "w8a8")
        program = ane_bench.build_program(ane_bench.Config(8, 4, 2), "w8a8", seed=7, blob="original", dialect="1.0")
        self.assertEqual(files, {"8x4x2-w8a8/model.mil": program.mil.encode(),
                                 "8x4x2-w8a8/weights/weight.bin": bytes(program.blob)})

    @support.long_test
    def test_the_original_is_as_pinned(self) -> None:
        files = self.emitted("--original")
        self.assertEqual(len(files), 20)
        self.assertEqual(len(ORIGINAL_TEXTS), 10)
        for (name, variant), (length, digest) in ORIGINAL_TEXTS.items():
            config = ane_bench.Config.parse(name)
            text, blob = (files[f"{name}-{variant}/{file}"] for file in ("model.mil", "weights/weight.bin"))
            self.assertEqual((len(text), hashlib.sha256(text).hexdigest()), (length, digest), name)
            matrix = config.channels * config.channels * (2 if variant == "fp16" else 1)
            self.assertEqual(len(blob), 64 + config.depth * (64 + matrix), name)

    def test_a_sweep(self) -> None:
        files = self.emitted("--channels", "4,8", "--depth", "1,2,1", "--spatial", "4", "--variants", "fp16")
        self.assertEqual({name.split("/")[0] for name in files},
                         {"4x4x1-fp16", "4x4x2-fp16", "8x4x1-fp16", "8x4x2-fp16"})

    def test_a_link_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            elsewhere = Path(directory) / "elsewhere"
            elsewhere.mkdir()
            (Path(directory) / "4x4x1-fp16").symlink_to(elsewhere)
            done = support.run_command("emit", directory, "--config", "4x4x1")
            self.assertEqual(done.code, 2)
            self.assertIn("symbolic link", done.errors)
            self.assertEqual(list(elsewhere.iterdir()), [])
