"""README, docstring, help and code say the same, and what README shows is what its commands print."""

import json
import re
import shlex
import tempfile
import unittest
from pathlib import Path

import ane_bench
from tests import support

README = (support.ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = ane_bench.Config(512, 64, 128)
# README's stand-in: an M4 as published, that warms up.
SETTINGS = {"CLOCK": "virtual", "LATENCY": "fp16:14800,w8a8:7800", "DRIFT": "0.01",
            "SYSCTL": "machdep.cpu.brand_string=Apple M4;kern.osproductversion=",
            "COMPUTE": ",".join(map(str, {ane_bench.chosen_pixels(ane_bench.Config(64, 64, 2), ane_bench.Protocol())[0]}))}


def examples() -> list[list[tuple[str, str, str]]]:
    """Every block of commands that README shows, each command with its output: how exact it is, the command, the output."""
    blocks = re.findall(r"<!-- output: ([a-z ]+) -->\n```console\n(.*?)```", README, re.DOTALL)
    return [[(kind, part.split("\n", 1)[0], part.split("\n", 1)[1]) for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
            for kind, block in blocks]


def typed(command: str, directory: str) -> str:
    """What a command prints in a directory; all but a warning that comes and goes with what else the machine does."""
    words = shlex.split(command)
    assert words[:2] == ["python3", "ane_bench.py"], command
    environment = {f"STANDIN_{name}": value for name, value in SETTINGS.items()}
    done = support.run_command(*words[2:], cwd=directory,
                               environment={**environment, ane_bench.STANDIN_VARIABLE: str(support.standin_library())})
    assert done.code == 0, done.errors
    output = re.sub(r'^- warning \\\(busy.*\n|^  \{\n   "code": "busy",\n.*\n  \},?\n', "", done.output, flags=re.MULTILINE)
    return output.replace('"warnings": [\n ]', '"warnings": []')


def digits_masked(text: str) -> str:
    """A text of which only the form counts."""
    return re.sub(r" +", " ", re.sub(r"[0-9]+", "#", text))


class ReadmeTest(unittest.TestCase):
    """A newcomer types what README shows."""

    def test_commands_print_what_is_shown(self) -> None:
        self.assertGreaterEqual(sum(map(len, examples())), 9)
        for block in examples():
            with tempfile.TemporaryDirectory() as directory:
                for kind, command, output in block:
                    with self.subTest(command):
                        shown = typed(command, directory)
                        self.assertEqual(*((shown, output) if kind == "exact" else map(digits_masked, (shown, output))))

    def test_the_manuals_sample_is_one_of_them(self) -> None:
        lines = [line[4:] for line in (ane_bench.__doc__ or "").splitlines() if re.match("    (Config|FP16|W8A8) ", line)]
        self.assertEqual(len(lines), 3)
        self.assertTrue(set(lines) <= set(examples()[0][0][2].splitlines()), lines)

    def test_the_bare_command_is_the_first(self) -> None:
        self.assertIn("\n    python3 ane_bench.py\n", README[:400])

    def test_every_command_is_understood(self) -> None:
        commands = re.findall(r"^ {4}(?:caffeinate -i )?python3 ane_bench\.py(.*)$", README, re.MULTILINE)
        self.assertGreaterEqual(len(commands), 7)
        for command in commands:
            words = shlex.split(command)
            arguments = words if words and words[0] in ane_bench.VERBS else ["run", *words]
            ane_bench.build_parser().parse_args(arguments)


class ManualTest(unittest.TestCase):
    """The docstring is the manual, and -h prints it."""

    def options(self) -> set[str]:
        """Every option of every verb."""
        found = {"--version", "--help"}
        parser = ane_bench.build_parser()
        for action in parser._actions:
            for verb in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
                found.update(word for option in verb._actions for word in option.option_strings)
        return found - {"--help", "-h", "--version"}

    def test_help_is_the_docstring(self) -> None:
        for arguments in ("-h", "--help", "run -h", "doctor --help", "emit -h", "compare -h", "chart -h"):
            done = support.run_command(*arguments.split())
            self.assertEqual((done.code, done.output, done.errors), (0, (ane_bench.__doc__ or "").strip() + "\n", ""))

    def test_every_option_is_described_and_exists(self) -> None:
        described = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", ane_bench.__doc__ or "")) - {"-h", "--version"}
        self.assertEqual(described, self.options())

    def test_defaults_are_described(self) -> None:
        manual = ane_bench.__doc__ or ""
        for name in ("iters", "rounds", "warmup", "qos", "seed", "input", "verify", "timeout", "blob", "dialect"):
            default = getattr(ane_bench.DEFAULT_PROTOCOL, name)
            default = f"{default:g}" if isinstance(default, float) else default
            self.assertRegex(manual, rf"--{name} [^\n]*(\n +[a-z][^\n]*)*default {default}\b")

    def test_verbs_and_sections_are_described(self) -> None:
        manual = ane_bench.__doc__ or ""
        for verb in set(ane_bench.VERBS) - {"run"}:
            self.assertIn(f"python3 ane_bench.py {verb}", manual)
        source = support.MODULE.read_text(encoding="utf-8")
        sections = re.findall(r"^# ([0-9]+)\. ([^:,\n]+)", source, re.MULTILINE)
        self.assertEqual([int(number) for number, _ in sections], list(range(1, 13)))
        for number, name in sections:
            self.assertRegex(" ".join(manual.split()), rf"{number} (?i:{re.escape(name)})")

    def test_exit_codes_are_described(self) -> None:
        told = (ane_bench.__doc__ or "").split("Exit codes: ")[1].split("doctor:")[0]
        codes = re.findall(r"(?:^|; )([0-9]+) ", told.replace("\n", " "))
        source = support.MODULE.read_text(encoding="utf-8")
        returned = set(re.findall(r"^        return ([0-9]+)$", source[source.index("def main("):], re.MULTILINE))
        self.assertEqual(set(codes), returned | {"0"})

    def test_public_names_exist_and_are_documented(self) -> None:
        for name in ane_bench.__all__:
            found = getattr(ane_bench, name)
            self.assertTrue(name == "VARIANTS" or found.__doc__, name)

    def test_the_record_is_as_described(self) -> None:
        done = support.run_command("--engine", "reference", "--config", "4x4x2", "--format", "json", "--quiet")
        record = json.loads(done.output)
        self.assertEqual(" ".join(record), "schema version started engine command system protocol results warnings")
        cell = record["results"][0]["variants"]["w8a8"]
        for name in ("status", "weights_mib", "ms", "tops", "samples_ns", "verified"):
            self.assertIn(name, cell)
        for name in ("verified.matches", "verified.from_fp16", "compile_ms", "load_ms"):
            self.assertIn(name, README)


class VendoredTest(unittest.TestCase):
    """The file alone is enough, under any name."""

    def test_a_copied_file(self) -> None:
        with tempfile.TemporaryDirectory(prefix="eine Kopie ✓ ") as directory:
            copy = Path(directory) / "bénch mark.py"
            copy.write_bytes(support.MODULE.read_bytes())
            done = support.run_command("--engine", "reference", "--config", "4x4x2", "--quiet", module=copy)
            self.assertEqual(done.code, 0, done.errors)
            self.assertEqual(list(Path(directory).iterdir()), [copy])
