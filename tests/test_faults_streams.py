"""Faults of what is written: files, standard output and error, terminals, names."""

import json
import os
import re
import shutil
import signal
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Callable, NamedTuple

from tests import faults, support
from tests.faults import BOTH_CONFIGS, FAILED_IN, NOT_WRITTEN, FaultCase, Step, is_table
from tests.support import MODULE, SMALL, Scene, Started
from tests.terminal import Screen, Terminal

Check = Callable[[FaultCase, Scene], None]
FORMATS = ("table", "markdown", "csv", "json")


class Unsaved(NamedTuple):
    """A file that cannot be written, as is seen at the start: exit 2, one line, nothing measured."""

    name: str
    prepare: Callable[[Scene], str]
    told: str

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Run, and save there."""
        path = self.prepare(scene)
        finished = scene.run(*BOTH_CONFIGS, "--save", path)
        test.assertEqual((finished.code, finished.output), (2, ""))
        test.assertRegex(finished.errors, rf"^ane_bench: (--save )?{re.escape(path)}: {self.told}\n$")
        test.assertEqual(scene.calls(), [])
        test.check_clean(scene, finished)


def read_only_home(scene: Scene) -> str:
    faults.read_only(scene, scene.directory / "home")
    return str(scene.directory / "home" / "r.json")


def read_only_record(scene: Scene) -> str:
    """A file is replaced, not written into: its directory counts."""
    path = read_only_home(scene)
    (scene.directory / "home").chmod(0o700)
    Path(path).write_text("old")
    (scene.directory / "home").chmod(0o500)
    return path


def fifo(scene: Scene) -> str:
    os.mkfifo(scene.directory / "fifo")
    return str(scene.directory / "fifo")


def file_as_home(scene: Scene) -> str:
    (scene.directory / "home").write_text("")
    return str(scene.directory / "home" / "r.json")


def other_file(scene: Scene) -> str:
    (scene.directory / "letter.txt").write_text("Dear Sir")
    return str(scene.directory / "letter.txt")


UNSAVED = [
    Unsaved("--save in no directory", lambda scene: f"{scene.directory}/none/r.json",
            f"{NOT_WRITTEN}No such file or directory"),
    Unsaved("--save a directory", lambda scene: str(scene.temporary), f"{NOT_WRITTEN}it is not a regular file"),
    Unsaved("--save no file", fifo, f"{NOT_WRITTEN}it is not a regular file"),
    Unsaved("--save below a file", file_as_home, f"{NOT_WRITTEN}Not a directory"),
    Unsaved("--save of a name too long", lambda scene: str(scene.directory / ("n" * 300)),
            f"{NOT_WRITTEN}File name too long"),
    Unsaved("--save in a read-only directory", read_only_home, f"{NOT_WRITTEN}Permission denied"),
    Unsaved("--save over a file in a read-only directory", read_only_record, f"{NOT_WRITTEN}Permission denied"),
    Unsaved("--save over another file", other_file, "the file exists and is not a record .*; choose another name, .*"),
    Unsaved("--save as csv", lambda scene: str(scene.directory / "r.csv"), ".*show RECORD.json --format csv"),
]


# ----------------------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------------------

def statuses(path: Path, variant: str = "w8a8") -> list[str]:
    """Return the status of a variant in each configuration of a record."""
    return [result["variants"][variant]["status"] for result in json.loads(path.read_text())["results"]]


def at_first_compile(scene: Scene, *arguments: str) -> Started:
    """Start a run, and return when it compiles, which takes a second."""
    run = scene.start(*arguments, settings={"FAULT": faults.slow("fp16/compile", 1)})
    scene.await_call(run, "compile fp16")
    return run


def save_directory_gone(test: FaultCase, scene: Scene) -> None:
    home = scene.directory / "home"
    home.mkdir()
    scene.drive({"STANDIN_FAULT": ""})
    run = at_first_compile(scene, *BOTH_CONFIGS, "--save", str(home / "r.json"))
    shutil.rmtree(home)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 1)
    test.assertTrue(is_table(finished.output), finished.output)
    test.assertEqual(finished.errors.count(f"r.json: {NOT_WRITTEN}No such file or directory\n"), 2)


def save_directory_back(test: FaultCase, scene: Scene) -> None:
    home, away = scene.directory / "home", scene.directory / "away"
    home.mkdir()
    run = at_first_compile(scene, *BOTH_CONFIGS, "--save", str(home / "record.json"))
    home.rename(away)
    scene.await_call(run, "compile fp16", 2)
    away.rename(home)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertEqual(finished.errors.count(f"record.json: {NOT_WRITTEN}No such file or directory\n"), 1)
    test.assertEqual(statuses(home / "record.json"), ["ok", "ok"])


def save_disk_full(test: FaultCase, scene: Scene) -> None:
    """The first configuration's record fits, the record of both does not."""
    home = scene.directory / "home"
    faults.small_disk(scene, home, 12 << 10, 6 << 10)
    path = home / "r.json"
    finished = scene.run("--config", "8x8x2", "--config", "8x4x2", *SMALL[2:], "--save", str(path))
    test.assertEqual(finished.code, 1)
    rows = re.findall(r"^(FP16|W8A8) 2x conv 8ch .* ok[*]?$", finished.output, re.MULTILINE)
    test.assertEqual(len(rows), 4, finished.output)
    test.assertRegex(finished.errors, f"r.json: {NOT_WRITTEN}(No space left on device|File too large)\n")
    test.assertEqual(statuses(path), ["ok"])
    test.assertEqual([file.name for file in home.iterdir()], ["r.json"])


def old_record_survives(end: Callable[[FaultCase, Scene, Started], None]) -> Check:
    """Return a check of a run that is ended while it compiles for the first time."""
    def check(test: FaultCase, scene: Scene) -> None:
        old = faults.save_record(scene.saved)
        run = scene.start(*BOTH_CONFIGS, "--save", str(scene.saved), settings={"FAULT": faults.slow("compile")})
        scene.await_call(run, "compile fp16")
        end(test, scene, run)
        test.assertEqual(scene.saved.read_text(), old)
    return check


def interrupted(test: FaultCase, scene: Scene, run: Started) -> None:
    run.signal_group(signal.SIGINT)
    test.assertEqual(scene.finish(run).code, 130)


def killed(test: FaultCase, scene: Scene, run: Started) -> None:
    run.kill()


def save_survives_no_engine(test: FaultCase, scene: Scene) -> None:
    old = faults.save_record(scene.saved)
    scene.settings["MISSING"] = "_ANERequest"
    test.assertEqual(scene.run(*BOTH_CONFIGS, "--save", str(scene.saved)).code, 3)
    test.assertEqual(scene.saved.read_text(), old)


def save_survives_usage(test: FaultCase, scene: Scene) -> None:
    old = faults.save_record(scene.saved)
    for words in (("--iters", "3"), ("--nonsense",), ("--variants", "fp17"), ("--seed", "-1")):
        test.assertEqual(scene.run(*BOTH_CONFIGS, "--save", str(scene.saved), *words).code, 2)
    test.assertEqual((scene.saved.read_text(), scene.calls()), (old, []))


FILES = [
    Step("--save: directory gone during the run", save_directory_gone),
    Step("--save: directory gone and back", save_directory_back),
    Step("--save: disk full later", save_disk_full),
    Step("--save: an old record survives Ctrl-C", old_record_survives(interrupted)),
    Step("--save: an old record survives the parent's death", old_record_survives(killed)),
    Step("--save: an old record survives exit 3", save_survives_no_engine),
    Step("--save: an old record survives exit 2", save_survives_usage),
]


# ----------------------------------------------------------------------------------------------------------------------
# Standard output and error
# ----------------------------------------------------------------------------------------------------------------------

NO_OUTPUT = f"ane_bench: standard output: {NOT_WRITTEN}"


def head(test: FaultCase, scene: Scene) -> None:
    """`| head -1` goes away when it has its line. What was measured by then is saved."""
    scene.drive({"STANDIN_FAULT": faults.slow("fp16/compile", 1)})  # so that it is gone before there is more
    run = scene.start(*BOTH_CONFIGS, "--save", str(scene.saved), bufsize=0)
    assert run.process.stdout
    test.assertRegex(os.read(run.process.stdout.fileno(), 20).decode(), "^=== ane_bench ")
    run.process.stdout.close()
    run.process.stdout = None
    test.assertEqual(scene.finish(run).code, 1)
    test.assertEqual(statuses(scene.saved), ["ok", "ok"])


def without_reader() -> int:
    """Return a descriptor of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def reader_gone(*arguments: str) -> Check:
    """Return a check of standard output that nobody reads from the start."""
    def check(test: FaultCase, scene: Scene) -> None:
        for words in (arguments, ("--version",), ("--help",)):
            writing = without_reader()
            run = scene.start(*words, stdout=writing)
            os.close(writing)
            finished = scene.finish(run)
            test.assertEqual(finished.code, 1, finished.errors)
            test.assertNotRegex(finished.errors, f"{NOT_WRITTEN}|Error")
    return check


def full() -> BinaryIO:
    """Open a file that takes nothing."""
    return open("/dev/full", "wb") if os.path.exists("/dev/full") else open(os.devnull, "rb")


def device_full(*arguments: str) -> Check:
    """Return a check of standard output on a full disk."""
    def check(test: FaultCase, scene: Scene) -> None:
        for words in (arguments, ("--version",), ("--help",)):
            with full() as target:
                finished = scene.run(*words, stdout=target)
            test.assertEqual(finished.code, 1, finished.errors)
            test.assertRegex(finished.errors, f"{NO_OUTPUT}(No space left on device|Bad file descriptor)\n$")
    return check


def closed(redirection: str, *arguments: str, code: int, told: str = ".*", says: str = ".*") -> Check:
    """Return a check of a run whose descriptors are closed by the shell that starts it."""
    def check(test: FaultCase, scene: Scene) -> None:
        scene.prefix = faults.shell(f'exec "$@" {redirection}')
        finished = scene.run(*arguments)
        test.assertEqual(finished.code, code, finished)
        test.assertRegex(finished.errors, told)
        test.assertRegex(finished.output, says)
        if "2>&-" in redirection:
            test.assertEqual(finished.errors, "")
        if "json" in arguments and code == 0:
            test.assertEqual(json.loads(finished.output)["schema"], "ane-bench/1")
    return check


def errors_full(test: FaultCase, scene: Scene) -> None:
    """Standard error takes nothing: neither the results nor the exit code suffer."""
    with full() as target:
        finished = scene.run(*BOTH_CONFIGS, stderr=target)
    test.assertEqual(finished.code, 0)
    test.assertTrue(is_table(finished.output), finished.output)


def errors_reader_gone(test: FaultCase, scene: Scene) -> None:
    writing = without_reader()
    run = scene.start(*BOTH_CONFIGS, stderr=writing)
    os.close(writing)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 0)
    test.assertTrue(is_table(finished.output), finished.output)


def ascii_only(fault: str) -> Check:
    """Return a check of each format on a terminal of long ago."""
    def check(test: FaultCase, scene: Scene) -> None:
        scene.variables.update(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        scene.settings["FAULT"] = fault
        signs = {"table": r" \?95%", "markdown": r"\?95%", "csv": "^config,", "json": "ane-bench/1"}
        for format_ in FORMATS:
            finished = scene.run(*SMALL, "--format", format_)
            test.assertEqual(finished.code, 1 if fault else 0, finished.errors)
            test.assertTrue((finished.output + finished.errors).isascii())
            test.assertRegex(finished.output, signs[format_])
            if fault:
                test.assertRegex(finished.output, r"le mod\?le \? x|le mod\\u00e8le \\u00ab x")
    return check


def no_terminal(test: FaultCase, scene: Scene) -> None:
    """Plain lines, and few."""
    finished = scene.run(*BOTH_CONFIGS)
    test.assertEqual(finished.code, 0)
    test.assertTrue(is_table(finished.output), finished.output)
    test.assertNotRegex(finished.output + finished.errors, "[\r\x1b]")
    lines = [line.partition(", ")[0] for line in finished.errors.splitlines() if line.startswith("[")]
    test.assertEqual(lines, ["[1/2] 2x conv 64ch 8x8: start", "[2/2] 2x conv 32ch 8x8: start"])


def on_terminal(test: FaultCase, scene: Scene) -> None:
    """The live line is drawn again and again, and cleared before each result."""
    terminal = Terminal(scene, *BOTH_CONFIGS, columns=100)
    test.assertEqual(terminal.finish().code, 0)
    screen = terminal.screen
    test.assertGreater(len([line for line in screen.live if line.startswith("[1/2] 2x conv 64ch 8x8: ")]), 5)
    last = "[2/2] 2x conv 32ch 8x8: FP16,W8A8 round 1 of 2"
    test.assertTrue([line for line in screen.live if line.startswith(last)])
    test.assertTrue(is_table("\n".join(screen.lines)), screen.lines)
    test.assertEqual([line for line in screen.lines if line.startswith("[")], [])
    test.assertEqual([line for line in screen.wrapped if not line.startswith("ane_bench: warning")], [])


def every_verb(test: FaultCase, scene: Scene) -> None:
    """Where nothing is wrong, nothing is said."""
    test.assertEqual(scene.run(*BOTH_CONFIGS, "--save", str(scene.saved), "--quiet")._replace(output=""), (0, "", ""))
    record = str(scene.saved)
    for words in (("compare", record, record), ("chart", record), ("doctor",), ("--help",),
                  ("emit", str(scene.directory / "programs"), "--config", "64x8x2"),
                  ("--engine", "reference", *SMALL, "--quiet")):
        finished = scene.run(*words)
        test.assertEqual((finished.code, finished.errors), (0, ""), words)


STREAMS = [
    Step("| head -1", head),
    Step("standard output: reader gone, table", reader_gone(*BOTH_CONFIGS)),
    Step("standard output: reader gone, json", reader_gone(*BOTH_CONFIGS, "--format", "json")),
    Step("standard output: reader gone, doctor", reader_gone("doctor")),
    Step("standard output: closed", closed(">&-", *BOTH_CONFIGS, code=1, told=NO_OUTPUT)),
    Step("standard output: closed, json", closed(">&-", *SMALL, "--format", "json", code=1, told=NO_OUTPUT)),
    Step("standard output: closed, doctor", closed(">&-", "doctor", code=1, told=NO_OUTPUT)),
    Step("standard output: closed, usage", closed(">&-", "--nonsense", code=2, told="^ane_bench: .*nonsense")),
    Step("standard output: /dev/full", device_full(*BOTH_CONFIGS)),
    Step("standard output: /dev/full, json", device_full(*SMALL, "--format", "json")),
    Step("standard output: not UTF-8", ascii_only("")),
    Step("standard output: not UTF-8, and an error that is not ASCII", ascii_only("w8a8/compile:unicode")),
    Step("standard error: closed", closed("2>&-", *SMALL, "--format", "json", code=0)),
    Step("standard error: closed, usage", closed("2>&-", "--nonsense", code=2, says="^$")),
    Step("standard error: /dev/full", errors_full),
    Step("standard error: reader gone", errors_reader_gone),
    Step("standard input: closed", closed("<&-", *SMALL, "--format", "json", code=0)),
    Step("all three closed", closed("<&- >&- 2>&-", *SMALL, code=1)),
    Step("no terminal", no_terminal),
    Step("a terminal", on_terminal),
    Step("every verb", every_verb),
]


# ----------------------------------------------------------------------------------------------------------------------
# Names, and what goes away during a run
# ----------------------------------------------------------------------------------------------------------------------

def named(where: str) -> Check:
    """Return a check of a name that is not ASCII, with spaces and quotes."""
    def check(test: FaultCase, scene: Scene) -> None:
        place = scene.directory / "Ünï «cödé» 'q' \"r\" 測試 𝛑"
        place.mkdir()
        if where == "TMPDIR":
            scene.temporary = place
        elif where == "module":
            scene.module = place / "bänch.py"
            shutil.copy(MODULE, scene.module)
        elif where == "library":
            shutil.copy(scene.standin, place / "ständ.so")
            scene.standin = place / "ständ.so"
        scene.saved = (place if where == "--save" else scene.directory) / "récord.json"
        finished = scene.run(*BOTH_CONFIGS, "--save", str(scene.saved))
        test.assertEqual(finished.code, 0, finished.errors)
        test.assertTrue(is_table(finished.output), finished.output)
        test.assertEqual(statuses(scene.saved), ["ok", "ok"])
        test.assertIn("récord.json", scene.record()["command"])
        if where == "library":
            scene.standin = place / "nöne"
            finished = scene.run(*BOTH_CONFIGS)
            test.assertEqual(finished.code, 3)
            test.assertIn("nöne", finished.errors)
        if where == "TMPDIR":
            scene.temporary.rmdir()
            finished = scene.run(*SMALL)
            test.assertEqual(finished.code, 1)
            test.assertIn("No such file or directory", finished.output)
    return check


def every_disk_full(test: FaultCase, scene: Scene) -> None:
    """Python then finds no directory for temporary files, either."""
    scene.prefix = faults.limited(0)
    scene.variables["STANDIN_LOG"] = ""
    finished = scene.run(*BOTH_CONFIGS)
    test.assertEqual(finished.code, 1, finished.errors)
    rows = rf"^(FP16|W8A8) 2x conv (64|32)ch 8x8: {FAILED_IN}files: .*: File too large$"
    test.assertEqual(len(re.findall(rows, finished.output, re.MULTILINE)), 4, finished.output)


def module_gone(test: FaultCase, scene: Scene) -> None:
    """The file is deleted while the first configuration is measured: workers have its code, and the run goes on."""
    scene.module = scene.directory / "copy.py"
    shutil.copy(MODULE, scene.module)
    run = at_first_compile(scene, *BOTH_CONFIGS, "--save", str(scene.saved))
    scene.module.unlink()
    finished = scene.finish(run)
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertTrue(is_table(finished.output), finished.output)
    test.assertEqual(statuses(scene.saved, "fp16"), ["ok", "ok"])


def engine_gone(test: FaultCase, scene: Scene) -> None:
    """What is missing only when the second configuration begins is a failure of the second."""
    scene.drive({"STANDIN_MISSING": "_ANERequest"})
    finished = scene.run(*BOTH_CONFIGS, "--save", str(scene.saved))
    test.assertEqual(finished.code, 1, finished.errors)
    test.assertTrue(is_table(finished.output, results=1), finished.output)
    test.assertRegex(finished.output, f"(?m)^W8A8 2x conv 32ch 8x8: {FAILED_IN}.*{faults.NO_CLASS}_ANERequest")
    test.assertEqual(statuses(scene.saved), ["ok", "failed"])


NAMES = [
    Step("TMPDIR not ASCII", named("TMPDIR")),
    Step("--save not ASCII", named("--save")),
    Step("module not ASCII", named("module")),
    Step("library not ASCII", named("library")),
    Step("every disk full", every_disk_full),
    Step("module deleted during the run", module_gone),
    Step("engine gone during the run", engine_gone),
]


class ScreenTest(unittest.TestCase):
    """The terminal that the tests look at shows what a real one does."""

    def test_lines_live_lines_and_wrapped_ones(self) -> None:
        screen = Screen(10)
        parts = ("one\r\n\r\x1b[Ktwo", "\r\x1b", "[Kthree\r\x1b[K", "0123456789\r\n", "0123456789ab",
                 "失敗失敗失敗\r\nend\ndown")
        for seconds, text in enumerate(parts):
            screen.feed(text, seconds)
        self.assertEqual(screen.lines, ["one", "0123456789", "0123456789", "ab失敗失敗", "失敗", "end", "   down"])
        self.assertEqual(screen.live, [(0, "two"), (2, "three")])
        self.assertEqual(screen.wrapped, ["0123456789ab失敗失敗失敗"])
        with self.assertRaises(AssertionError):
            screen.feed("\x1b[2J")


class StreamFaultTest(FaultCase):
    """All of these tables."""

    def check_tables(self, *tables: Sequence[faults.Case]) -> None:
        self.check_table([case for table in tables for case in table], support.AT_A_TIME + 1)

    def test_files(self) -> None:
        self.check_tables(UNSAVED, FILES)

    def test_streams(self) -> None:
        self.check_tables(STREAMS)

    def test_names(self) -> None:
        self.check_tables(NAMES)


@support.long_test
class SecondPassTest(faults.SecondPass, StreamFaultTest):
    """The same under `-X dev -W error`."""
