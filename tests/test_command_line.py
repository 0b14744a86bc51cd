"""The command line: what it refuses, its exit codes, emit, and the reference engine from end to end."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import ane_bench
from tests import support
from tests.test_mil import ORIGINAL_TEXTS

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
    ("--iters 50 --rounds 7", "iters 50: expected a multiple of rounds 7"),
    ("--iters -5", "expected"),
    ("--iters 1e3", "'1e3': expected a whole number"),
    ("--rounds 0", "rounds 0"),
    ("--qos 4294967296", "4294967296"),
    ("--timeout 0", "'0': expected a number above 0"),
    ("--timeout nan", "'nan'"),
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
    ("--depth 4 --config 8x8x8", "--config does not go with --depth"),
    ("--original --iters 50", "--iters does not go with --original"),
    ("--original --qos 0", "--qos does not go with --original"),
    ("--original --verify 0", "--verify"),
    ("--original --blob auto", "--blob"),
    ("--save /nowhere/at/all.json", "/nowhere/at/all.json"),
    ("--save /", "/: cannot be written"),
    ("emit", "DIR"),
    ("emit /proc/nowhere --config 4x4x1", "/proc/nowhere"),
    ("emit x --iters 5", "--iters"),
    ("compare one.json", "NEW.json"),
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
        self.assertEqual(len(done.errors.splitlines()), 3)
        for words in ("this is linux", "--engine reference", "doctor", "emit"):
            self.assertIn(words, done.errors)

    def test_no_record_is_printed_or_touched_without_an_engine(self) -> None:
        if sys.platform == "darwin":
            raise unittest.SkipTest("this may be a Mac that has one")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "old.json"
            path.write_text("old")
            done = support.run_command("--format", "json", "--save", str(path))
            self.assertEqual((done.code, done.output, path.read_text()), (3, "", "old"))
            self.assertEqual(list(Path(directory).iterdir()), [path])


class ReferenceTest(unittest.TestCase):
    """--engine reference runs the whole way anywhere."""

    @support.long_test
    def test_a_default_run(self) -> None:
        done = support.run_command("--engine", "reference")
        self.assertEqual(done.code, 0, done.errors)
        rows = [line for line in done.output.splitlines() if line.startswith(("FP16", "W8A8"))]
        self.assertGreaterEqual(len(rows), 4)
        self.assertTrue(all(row.endswith(" ok") for row in rows), done.output)

    def test_every_format_of_one_run(self) -> None:
        starts = {"table": "=== ane_bench", "markdown": "**ane_bench", "csv": "config,variant,", "json": "{\n"}
        for name, start in starts.items():
            done = support.run_command("--engine", "reference", "--config", "4x4x2", "--format", name, "--quiet")
            self.assertEqual((done.code, done.errors), (0, ""))
            self.assertTrue(done.output.startswith(start), done.output)

    def test_a_link_stays_one_and_the_command_is_whole(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            target, link = Path(directory) / "real.json", Path(directory) / "link.json"
            target.write_text("old")
            link.symlink_to(target)
            done = support.run_command("--engine", "reference", "--config", "4x4x2", "--quiet", f"--save={link}")
            self.assertEqual(done.code, 0, done.errors)
            self.assertTrue(link.is_symlink())
            self.assertEqual(json.loads(target.read_text())["command"][-1], "--save=link.json")
            done = support.run_command("chart", str(target), "-o", str(link))
            self.assertEqual(done.code, 2)
            self.assertIn("take the place of the record", done.errors)

    def test_the_version(self) -> None:
        done = support.run_command("--version")
        self.assertEqual((done.code, done.output), (0, f"ane_bench {ane_bench.__version__}\n"))

    def test_the_module_as_a_module(self) -> None:
        command = [sys.executable, "-m", "ane_bench", "--engine", "reference", "--config", "4x4x2", "--quiet"]
        done = subprocess.run(command, cwd=support.ROOT, capture_output=True, encoding="utf-8", check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_library(self) -> None:
        found = ane_bench.run([ane_bench.Config(4, 4, 2)], ["fp16", "w8a16", "w8a8"],
                              ane_bench.Protocol(iters=6, rounds=6), engine="reference")
        record = found.to_dict()
        self.assertTrue(found.ok)
        self.assertEqual(json.loads(json.dumps(record)), record)
        self.assertEqual(list(record["results"][0]["ratio"]), ["w8a16", "w8a8"])
        for wrong in ({"engine": "gpu"}, {"variants": ["fp8"]}, {"protocol": ane_bench.Protocol(iters=0)}):
            with self.subTest(wrong), self.assertRaises(ane_bench.UsageError):
                ane_bench.run([ane_bench.Config(4, 4, 2)], **wrong)


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
