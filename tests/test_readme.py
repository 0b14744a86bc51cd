"""README, manual and code say the same, and each command that README shows does what is shown.

The outputs come from the stand-in on a virtual clock, so they are the same everywhere.
ANE_BENCH_GOLDEN=write writes README's sample anew.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import unittest
from collections.abc import Sequence
from pathlib import Path

import ane_bench
from tests import support
from tests.runs import command

README = support.ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
MANUAL = (ane_bench.__doc__ or "").strip() + "\n"
VERBS = ("run", "emit", "doctor", "show", "compare", "chart")
# A Mac that is like an M4, with a little noise.
M4 = {"CLOCK": "virtual", "LATENCY": "", "NOISE": "random:0.004"}


def code_blocks() -> list[str]:
    """Return the Python code of README and manual, for a smaller configuration."""
    manual = re.search(r"As a library\n\n((?: {4}.*\n)+)", MANUAL)
    assert manual
    blocks = [*re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL),
              re.sub("(?m)^ {4}", "", manual[1])]
    return [block.replace("512x64x128", "64x64x4") for block in blocks]


def options_of(verb: str) -> dict[str, argparse.Action]:
    """Return the options of a command."""
    choices = next(action.choices for action in ane_bench.build_parser()._actions
                   if action.dest == "command")
    assert isinstance(choices, dict)
    return {action.option_strings[-1]: action for action in choices[verb]._actions
            if action.option_strings}


def help_of(verb: str) -> str:
    """Return what a command prints with -h."""
    return command(verb, "-h").output


def described(verb: str) -> dict[str, str]:
    """Return the options that the help of a command describes, and what it says of each."""
    found = re.findall(r"(?m)^ {4}(--?[a-z][a-z-]*)(.*\n(?: {8,}.*\n)*)", help_of(verb))
    return {name: " ".join(text.split()) for name, text in found}


class CommandsTest(support.StandinCase):
    """A newcomer types what README shows."""

    maxDiff = None

    def type(self, arguments: Sequence[str], **settings: str) -> support.Finished:
        """Type a command into a Mac that is like an M4; it must succeed."""
        done = self.run_standin(*arguments, **{**M4, **settings})
        self.assertEqual(done.code, 0, (arguments, done.errors))
        return done

    def setUp(self) -> None:
        super().setUp()
        self.module = support.MODULE
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)

    def test_the_sample_is_what_is_printed(self) -> None:
        pattern = r"(```console\n\$ python3 ane_bench\.py(.*)\n)((?:.*\n)*?)```"
        ((command, arguments, shown),) = re.findall(pattern, TEXT)
        printed = self.type(shlex.split(arguments)).output
        if os.environ.get("ANE_BENCH_GOLDEN") == "write":
            README.write_text(TEXT.replace(command + shown, command + printed), encoding="utf-8")
        self.assertEqual(printed, shown)
        self.assertRegex(printed, "^=== .*stand-in library, M4")
        rows = re.findall(r"(?m)^ {4}((?:Config  |512x64x128  | +W8A8  ).*)$", MANUAL)
        self.assertEqual(rows, [line for line in printed.splitlines()
                                if re.match("Config|512x64x128  FP|  +W8A8", line)])

    def test_the_other_commands_do_their_work(self) -> None:
        found = re.findall(r"(?m)^    python3 ane_bench\.py(.*)$|`python3 ane_bench\.py( [^`]+)`",
                           TEXT)
        every = [shlex.split(block or inline, comments=True) for block, inline in found]
        quick = [arguments for arguments in every if set(arguments) & {*VERBS}]
        measuring = [arguments for arguments in every if arguments not in [*quick, []]]
        self.assertEqual((len(quick), len(measuring)), (7, 9))
        for arguments in measuring:  # in any case these are understood
            parsed = ane_bench.build_parser().parse_args(["run", *arguments])
            self.assertTrue(ane_bench.run_asked(parsed).configs)
        count = support.reduced(len(measuring), 0, "runs that README shows")
        for arguments in measuring[:count]:
            unchecked = [] if "--original" in arguments else ["--verify", "0"]
            with self.subTest(" ".join(arguments)):
                self.type([*arguments, *unchecked], COMPUTE="none")
        quiet = ("--config", "64x64x4", "--config", "64x64x8", "--quiet", "--verify", "0")
        self.type([*quiet, "--save", "base.json"], SYSCTL="kern.osversion=25A1")
        for name in ("new.json", "before.json", "after.json", "m1.json", "m4.json"):
            Path(name).unlink(missing_ok=True)  # BASE has these configurations
            self.type([*quiet, "--save", name])
        Path("thread.txt").write_text(self.type([*quiet, "--format", "markdown"]).output)
        for arguments in quick:
            with self.subTest(" ".join(arguments)):
                self.type(arguments)
        self.assertTrue(Path("macs.svg").exists())
        self.assertEqual(len(list(Path("programs").glob("*/model.mil"))), 2)

    @support.long_test
    def test_the_standin_needs_no_settings(self) -> None:
        command, = re.findall(r"(?m)^    (ANE_BENCH_STANDIN=.*)$", TEXT)
        command = command.replace("python3", shlex.quote(sys.executable))
        kept = {name: value for name, value in support.clean_environment().items()
                if not name.startswith("STANDIN_")}
        done = subprocess.run(command, shell=True, cwd=support.ROOT, capture_output=True,
                              encoding="utf-8", timeout=120, check=True,
                              env={**kept, "TMPDIR": str(self.directory)})
        rates = re.findall(r"(?m)^(?:512x64x64  FP16|  +W8A8) .* ([0-9.]+) .*ok\*?$", done.stdout)
        self.assertEqual(len(rates), 2, done.stdout)

    def test_the_library_examples_run(self) -> None:
        self.type(["--config", "64x64x4", "--verify", "0", "--save", "base.json"])
        for code in code_blocks():
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False,
                env={**self.environment(**M4), "PYTHONPATH": str(support.ROOT)})
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, "(?s)^=== .*(same|undecided)")


class TextTest(unittest.TestCase):
    """README for someone who sees it first."""

    def test_it_is_short_begins_with_the_bare_command_and_links_what_exists(self) -> None:
        self.assertLessEqual(len(TEXT.splitlines()), 150)
        self.assertIn("\n    python3 ane_bench.py\n", TEXT[:400])
        linked = re.findall(r"\]\(([^):]+)\)", TEXT)
        self.assertGreaterEqual(len(linked), 4)
        for name in (*linked, *re.findall(r"`(tests/[\w.]+)`", TEXT)):
            self.assertTrue((support.ROOT / name).exists(), name)

    def test_the_record_is_as_described(self) -> None:
        with support.environment(**{ane_bench.STANDIN_VARIABLE: ""}):
            record = ane_bench.run(["4x4"], engine="reference", seconds=0).to_dict()
        part = TEXT[TEXT.index("## Formats"):TEXT.index("## As a library")]
        settings = set(ane_bench.Settings._fields)  # the manual describes them
        described_names = set(re.findall(r"\w+", part))
        own = set(re.findall(r'"(\w+)":', json.dumps({**record, "system": {}})))
        own -= settings | {*ane_bench.VARIANTS}
        own |= {*ane_bench.Cell.FACTS}
        self.assertEqual(own - described_names, set())
        quoted = set(re.findall(r'"(\w+)":', part)) - {"chip", "model", "macos"}
        self.assertEqual(quoted - own - settings - {*ane_bench.VARIANTS}, set())

    def test_columns_are_described(self) -> None:
        heading = next(line for line in MANUAL.splitlines() if "Config  " in line).split()
        rows = re.findall(r"(?m)^\| ([^|`]+) \|", TEXT[:TEXT.index("## Does INT8 help")])
        told = [name for row in rows for name in row.split(", ")]
        self.assertEqual([name for name in told if name not in ("Column", "---")], heading)


class ManualTest(unittest.TestCase):
    """The docstring is the manual, and -h prints it."""

    def test_help_is_the_docstring(self) -> None:
        for option in ("-h", "--help"):
            done = support.run_command(option)
            self.assertEqual((done.code, done.output, done.errors), (0, MANUAL, ""))

    def test_help_of_a_command_is_its_part(self) -> None:
        self.assertEqual(set(VERBS), set(ane_bench.VERBS))
        for verb in VERBS:
            part = help_of(verb)
            self.assertTrue(all(block in MANUAL for block in part.strip().split("\n\n")), part)
            self.assertRegex(part, rf"^ {{4}}python3 ane_bench\.py \[?{verb}\b")
            self.assertIn("Exit codes", part)
            self.assertLess(len(part), len(MANUAL) / 1.5)

    def test_options_choices_and_defaults_are_those_of_the_code(self) -> None:
        told = 0
        for verb in VERBS:
            self.assertEqual(set(described(verb)), {*options_of(verb)} - {"--help"}, verb)
            for name, text in described(verb).items():
                action = options_of(verb)[name]
                if action.choices:
                    self.assertEqual(text.split()[0], "|".join(map(str, action.choices)), name)
                default = action.default
                if default is None:
                    default = getattr(ane_bench.Settings(), action.dest, None)
                if (verb, name) == ("doctor", "--timeout"):
                    default = ane_bench.DOCTOR_S
                if default is not None and not isinstance(default, bool):
                    shown = ",".join(default) if isinstance(default, tuple) else default
                    shown = f"{shown:g}" if isinstance(shown, float) else str(shown)
                    self.assertRegex(text, rf"default {re.escape(shown)}\b", (verb, name))
                    told += 1
        self.assertGreaterEqual(told, 12)
        for config in ane_bench.DEFAULTS["ane"]:
            self.assertIn(config.name, help_of("run"))

    def test_variants_are_described(self) -> None:
        for name, variant in ane_bench.VARIANTS.items():
            self.assertIn(name, described("run")["--variants"])
            self.assertIn(f"`{variant.label}`", TEXT)

    def test_exit_codes_are_described(self) -> None:
        told = " ".join(MANUAL.split("Exit codes: ")[1].split("\n\n")[0].split())
        self.assertEqual(set(re.findall(r"(?:^|; )([0-9]+) ", told)), {"0", "1", "2", "3", "130"})

    def test_methods_named_in_the_examples_are_public(self) -> None:
        for code in code_blocks():
            for name in re.findall(r"ane_bench\.([A-Za-z_]+)", code):
                self.assertIn(name, ane_bench.__all__)
