"""Section 17: what the command line refuses, its exit codes, what it writes where."""

import contextlib
import io
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import ane_bench
from ane_bench import Run, read_record
from tests import runs, support
from tests.runs import command
from tests.support import Finished
from tests.test_terminal import Going

# What lies in the directory of each request.
HERE = {"m4.json": json.dumps(runs.made_run().to_dict()), "m4.svg": "<svg/>", "m4-2.json": "",
        "other.json": json.dumps(runs.made_run(["64x8x2"]).to_dict())}

# Invalid requests, and what the one line of answer must name.
REFUSED = (
    ("--config 512x64xx", "'512x64xx': expected CHANNELSxSPATIALxDEPTH, such as 512x64x128"),
    ("--config 0x64x1", "channels 0: expected a whole number from 1"),
    ("--config 16384x64x128", "4 GiB"),
    ("--variants fp8", "variants 'fp8': expected some of fp16, w8a16, w8a8, each once"),
    ("--seconds -1", "seconds"),
    ("--verify -1", "verify -1: expected a whole number from 0"),
    ("doctor --timeout 0", "timeout 0"),
    ("--seed x", "'x'"),
    ("--form new", "'new'"),
    ("--engine gpu", "'gpu'"),
    ("--format xml", "'xml'"),
    ("--iters 50", "unrecognized arguments: --iters 50"),
    ("--second 5", "--second"),
    ("walk", "'walk'"),
    ("--original --seconds 1", "--seconds cannot be combined with --original"),
    ("--original --verify 0", "--verify cannot be combined with --original"),
    ("--original --form auto", "--form cannot be combined with --original"),
    ("--original --engine ane", "--engine cannot be combined with --original"),
    ("--original --config 64x64x2k3", "64x64x2k3 cannot be combined with --original"),
    ("--original --config 64x64", "1x1 convolutions at a depth, such as 64x64x16"),
    ("emit d --original --form original/1.3", "--form cannot be combined with --original"),
    ("--save /nowhere/at/all.json", "--save /nowhere/at/all.json: cannot be written: No such file"),
    ("--save=", "--save writes json; name one such as m4.json"),
    ("--save out/m4", "--save writes json; name one such as out/m4.json"),
    ("--save m4.json", "--save m4.json: the file exists; name a new one, such as m4-3.json"),
    ("show", "RECORD"),
    ("show m4.txt", "m4.txt: cannot be read: No such file"),
    ("doctor --format csv", "'csv'"),
    ("emit", "DIR"),
    ("emit /proc/nowhere --config 4x4x1", "/proc/nowhere"),
    ("compare one.json", "one.json: cannot be read"),
    ("compare a b --fail-if-slower 0", "0 percent: expected a number above 0"),
    ("compare a b --fail-if-ratio-drops 100", "100 percent: expected a number above"),
    ("compare m4.json m4.json m4.json", "compare takes two records, BASE and NEW; 3 were given"),
    ("chart m4.json", "m4.svg: the file exists; write over it with -o m4.svg"),
    ("chart m4.json other.json", "a chart of 2 records needs -o FILE.svg"),
    ("chart m4.json -o m4.png", "chart writes svg; name one such as m4.svg"),
    ("chart m4.json -o no/m4.svg", "no/m4.svg: cannot be written"),
)


class RefusedTest(support.DirectoryCase):
    """An invalid request is answered by one line that names the value, and by exit code 2."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        for name, text in HERE.items():
            Path(name).write_text(text)

    def test_one_line_and_exit_code_2(self) -> None:
        for arguments, expected in REFUSED:
            with self.subTest(arguments):
                done = command(*arguments.split())
                self.assertEqual((done.code, done.output), (2, ""), done.errors)
                self.assertRegex(done.errors, r"\Aane_bench: [^\n]+\n\Z")
                self.assertIn(expected, done.errors)
                self.assertEqual({name: Path(name).read_text() for name in os.listdir()}, HERE)

    def test_charts(self) -> None:
        """A chart is a new file beside its record, or the one that -o names, whatever is there."""
        Path("new.json").write_text(HERE["m4.json"])
        for arguments, path in ((("new.json",), "new.svg"), (("m4.json", "-o", "m4.svg"), "m4.svg"),
                                (("m4.json", "new.json", "-o", "both.svg"), "both.svg")):
            self.assertEqual(command("chart", *arguments)[:2], (0, f"{path}\n"))
            self.assertTrue(Path(path).read_text().startswith("<svg "))

    def test_a_damaged_record_is_left_out_and_named(self) -> None:
        good = ane_bench.report(runs.made_run(), "markdown")
        Path("thread.md").write_text("\n".join([good, "```ane-bench-record\n```"]))
        for arguments, code in ((("show",), 0), (("compare",), 2), (("compare", "m4.json"), 0)):
            done = command(*arguments, "thread.md")
            self.assertEqual((done.code, bool(done.output)), (code, code == 0), done.errors)
            self.assertRegex(done.errors, r"\Aane_bench: thread.md: block 2 of 2 is damaged")

    def test_compare_exits_with_1_for_its_verdict_alone(self) -> None:
        errors = io.StringIO()
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(errors):
            self.assertEqual(ane_bench.main(["compare", "m4.json", "m4.json"]), 2)
        self.assertIn("standard output: cannot be written: it is closed", errors.getvalue())


class RunTest(support.DirectoryCase):
    """What a run writes while it goes on, with made-up measurements."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "m4.json"
        self.save = ("--save", str(self.path))

    def measure(self, *arguments: str, **options: Any) -> Finished:
        """Run three configurations; what is measured is made up."""
        going = Going(runs.made_run(runs.ORIGINAL[:3]), **options)
        asked = [f"--config={config.name}" for config in going.made.configs]
        with unittest.mock.patch.object(ane_bench, "perform_run", going):
            return command(*asked, *arguments)

    def test_all_is_well(self) -> None:
        """The record is written anew after each configuration."""
        seen: list[Optional[bool]] = []

        def look(number: int) -> None:
            seen.append(read_record(self.path).complete if self.path.exists() else None)
        done = self.measure(*self.save, "--quiet", between=look)
        self.assertEqual((done.code, done.errors, seen), (0, "", [None, False, False]))
        self.assertIs(read_record(self.path).complete, True)
        for name in ("512x64x128", "512x64x64", "256x64x256"):
            self.assertIn(f"\n{name} ", done.output)

    def test_a_name_that_another_run_took(self) -> None:
        def take(number: int) -> None:
            self.path.write_text("mine")
        done = self.measure(*self.save, between=take)
        other = self.directory / "m4-2.json"
        self.assertIn(f"the record is in {other}: the other name", done.errors)
        self.assertEqual((done.code, self.path.read_text()), (0, "mine"))
        self.assertEqual(len(read_record(other).results), 3)

    def test_interrupted(self) -> None:
        """What was measured is printed in every format, and the last line says where it is."""
        starts = {"table": "=== ane_bench", "markdown": "**ane", "csv": "config,", "json": "{"}
        for form, start in starts.items():
            path = self.directory / f"{form}.json"
            save = ("--save", str(path)) if form != "csv" else ()
            done = self.measure("--format", form, *save, broken=1)
            self.assertEqual((done.code, done.output[:len(start)]), (130, start))
            place = f"are in {path}" if save else "were measured"
            self.assertEqual(done.errors.splitlines()[-1],
                             f"ane_bench: interrupted: 2 of 3 configurations {place}")
            if save:
                self.assertFalse(read_record(path).complete)

    def test_interrupted_while_the_first_rows_are_printed(self) -> None:
        """The record that was just saved is the run's own."""
        heads = [KeyboardInterrupt, ""]
        with unittest.mock.patch.object(ane_bench.Table, "head", side_effect=heads):
            self.assertEqual(self.measure(*self.save).code, 130)
        self.assertEqual([path.name for path in self.directory.iterdir()], [self.path.name])

    def test_interrupted_while_it_saves(self) -> None:
        save, paths = Run.save, []

        def interrupt(run: Run, path: str) -> None:
            paths.append(path)
            if len(paths) == 2:
                raise KeyboardInterrupt
            save(run, path)
        with unittest.mock.patch.object(Run, "save", interrupt):
            done = self.measure(*self.save)
        self.assertRegex(done.errors, f"interrupted: 2 of 3 configurations are in {self.path}\n")
        self.assertEqual(len(read_record(self.path).results), 2)

    def test_a_closed_output_ends_the_run_unless_it_saves(self) -> None:
        closed = io.StringIO()
        closed.close()
        for stream, save in itertools.product((None, closed), (False, True)):
            errors, path = io.StringIO(), self.directory / f"{stream is None}.json"
            begun: list[int] = []
            going = Going(runs.made_run(runs.ORIGINAL[:2]), between=begun.append)
            with unittest.mock.patch.object(ane_bench, "perform_run", going), \
                    contextlib.redirect_stdout(stream), contextlib.redirect_stderr(errors):
                code = ane_bench.main(["--quiet", "--config=512x64x128,64",
                                       *(["--save", str(path)] if save else [])])
            self.assertEqual((code, begun), (1, [1, 2] if save else [1]))
            goes_on = "; nothing more is printed" if save else ""
            self.assertRegex(errors.getvalue(), r"\Aane_bench: standard output: cannot be written: "
                                                rf"[^;]*{goes_on}\n\Z")
            self.assertEqual(path.exists() and len(read_record(path).results), save and 2)

    def test_letters_that_a_stream_cannot_take(self) -> None:
        data = io.BytesIO()
        with contextlib.redirect_stdout(io.TextIOWrapper(data, "ascii")) as stream:
            ane_bench.write_stdout("±95% ✓ \ud800\n")
            stream.flush()
        self.assertEqual(data.getvalue(), b"?95% ? ?\n")


class DoctorTest(unittest.TestCase):
    """What doctor makes of what it finds."""

    FOUND = (("chip", "ok", "Apple M4", ""),
             ("-[_ANEModel load]", "FAIL", "~/a.dylib: B@:I@16^@24", "update macOS"),
             ("lock", "note", "another run holds it", "waiting for it to end"))

    def doctor(self, *arguments: str, found: Sequence[Sequence[str]] = FOUND,
               platform: str = "linux") -> Finished:
        """Run doctor on a machine of which all this is found."""
        def checks(tell: Callable[[ane_bench.Finding], None], seconds: float) -> bool:
            for finding in found:
                tell(ane_bench.Finding(*map(os.path.expanduser, finding)))
            return True
        with unittest.mock.patch("sys.platform", platform), unittest.mock.patch.multiple(
                ane_bench, run_checks=checks, check_programs=lambda tell, seconds: None):
            return command("doctor", *arguments)

    def test_what_failed_is_repeated_at_the_end(self) -> None:
        done = self.doctor("--timeout", "9")
        path = os.path.expanduser("~/a.dylib")
        failed = f"FAIL  -[_ANEModel load]: {path}: B@:I@16^@24 -> update macOS\n"
        self.assertEqual((done.code, done.errors), (3, (
            "ane_bench: measuring two small programs, up to 9 s for each stage, as soon as no "
            "other run measures\n")))
        self.assertEqual(done.output, (
            f"ok    chip: Apple M4\n{failed}note  lock: another run holds it -> waiting for it to "
            f"end\n\n1 of 3 checks failed\n{failed}"))

    def test_it_asks_for_its_output_on_a_mac(self) -> None:
        ask = ("If this Mac has a Neural Engine, please send this output to the issues of the "
               "repository that this file came from.\n")
        for code, found, told in ((0, self.FOUND[:1], f"\n\nall checks passed\n{ask}"),
                                  (3, self.FOUND, f" -> update macOS\n{ask}")):
            done = self.doctor(found=found, platform="darwin")
            self.assertEqual((done.code, done.output[-len(told):]), (code, told))

    def test_to_be_sent(self) -> None:
        """No path is in it, and nobody on GitHub is mentioned."""
        done = self.doctor("--format", "markdown")
        self.assertEqual(done.code, 3)
        self.assertIn("| FAIL |", done.output)
        self.assertNotIn(os.path.expanduser("~"), done.output)
        self.assertNotRegex(re.sub("`[^`]*`", "", done.output), "@")
        record = json.loads(self.doctor("--format", "json").output)
        self.assertEqual((record["schema"], record["ok"]), ("ane-bench-doctor/1", False))
        self.assertEqual(record["checks"][0],
                         {"name": "chip", "state": "ok", "value": "Apple M4", "advice": ""})
        self.assertNotIn(os.path.expanduser("~"), str(record))


@contextlib.contextmanager
def nobody_reads() -> Iterator[int]:
    """Yield an output whose reader went away."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


class PlainMachineTest(unittest.TestCase):
    """Commands on any machine."""

    def test_streams_and_handlers_stay(self) -> None:
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD]
        before = [sys.stdout, sys.stderr, *map(signal.getsignal, numbers)]
        for arguments in (["--version"], ["--config", "x"], ["emit", "-h"]):
            command(*arguments)
            self.assertEqual([sys.stdout, sys.stderr, *map(signal.getsignal, numbers)], before)

    @unittest.skipIf(sys.platform == "darwin", "this may be a Mac that has one")
    def test_without_a_neural_engine(self) -> None:
        with tempfile.TemporaryDirectory() as directory:  # in /tmp another run may hold the lock
            done = support.run_command("--save", os.path.join(directory, "m4.json"),
                                       environment={"TMPDIR": directory})
            self.assertEqual((done.code, done.output, os.listdir(directory)), (3, "", []))
        self.assertEqual(done.errors.splitlines(), [
            "ane_bench: no usable Neural Engine: this is linux, and the engine is reached from "
            "macOS only; use a Mac with Apple silicon.", ane_bench.WITHOUT_ENGINE])

    def test_a_layer_on_the_reference_engine(self) -> None:
        done = support.run_command("--engine", "reference", "--config", "4x4k3", "--seconds", "0",
                                   "--format", "json", "--quiet")
        self.assertEqual((done.code, done.errors), (0, ""))
        self.assertEqual(json.loads(done.output)["layers"][0]["depths"], [2, 4])

    def test_a_closed_stream_is_no_file_of_a_worker(self) -> None:
        for streams in (">&-", "<&-", ">&- 2>&- <&-"):
            with self.subTest(streams), tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "run.json"
                command = [sys.executable, "ane_bench.py", "--engine", "reference", "--config",
                           "2x2x2", "--seconds", "0", "--quiet", "--save", str(path)]
                code = subprocess.run(["/bin/sh", "-c", f'exec "$@" {streams}', "sh", *command],
                                      cwd=support.ROOT, check=False, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL).returncode
                self.assertEqual((code, read_record(path).ok), (int(">" in streams), True))

    def test_the_version(self) -> None:
        done = support.run_command("--version")
        self.assertEqual((done.code, done.output), (0, f"ane_bench {ane_bench.__version__}\n"))

    def test_an_output_that_takes_nothing(self) -> None:
        """It is told once, and Python does not try again when it ends."""
        with nobody_reads() as output:
            done = support.run_command("--version", stdout=output)
        self.assertEqual((done.code, done.errors), (1, ""))
        if not os.path.exists("/dev/full"):
            raise unittest.SkipTest("this needs /dev/full")
        with open("/dev/full", "w") as full:
            done = support.run_command("--version", stdout=full)
        self.assertEqual((done.code, done.errors), (1, "ane_bench: standard output: cannot be "
                                                       "written: No space left on device\n"))


class EmitTest(unittest.TestCase):
    """The files of each program."""

    def test_the_files_are_the_programs(self) -> None:
        for given, form in (((), "standard/1.3"), (("--form=standard/1.0",), "standard/1.0"),
                            (("--original",), "original/1.3")):
            program = ane_bench.build_program(ane_bench.Config(8, 4, 2), "w8a8", seed=7, form=form,
                                              original="--original" in given)
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory, "8x4x2-w8a8")
                done = command("emit", directory, "--config", "8x4x2", "--seed", "7", "--variants",
                               "w8a8", *given)
                self.assertEqual(done, (0, f"{path}\n", ""))
                files = {str(file.relative_to(path)): file.read_bytes()
                         for file in path.rglob("*.*")}
                self.assertEqual(files, {"model.mil": program.mil.encode(),
                                         "weights/weight.bin": bytes(program.blob)})


class StandinTest(support.StandinCase):
    """Whole runs against the stand-in."""

    def test_permissions_are_those_of_the_umask(self) -> None:
        for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
            self.addCleanup(os.umask, os.umask(mask))
            path = self.directory / f"{mode}.json"
            for arguments in ((*support.SMALL, "--save", str(path)), ("chart", str(path))):
                self.assertEqual(self.run_standin(*arguments).code, 0)
            for file in (path, path.with_suffix(".svg")):
                self.assertEqual(stat.S_IMODE(file.stat().st_mode), mode)
            self.assertEqual(read_record(path).command[-1], f"{mode}.json")

    def test_a_reader_that_goes_away(self) -> None:
        """A run whose output is closed measures on if it saves."""
        for save in ((), ("--save", str(self.scene.saved))):
            with nobody_reads() as output:
                done = self.scene.run("--config=64x8x1,2", *support.SMALL[2:], "--quiet", *save,
                                      stdout=output)
            self.assertEqual((done.code, bool(done.errors)), (1, bool(save)))
            self.assertEqual(self.scene.saved.exists(), bool(save))
        self.assertTrue(read_record(self.scene.saved).complete)
