"""Every form in which the file reaches people, and every place in which they run it."""

import ast
import functools
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from collections.abc import Sequence
from pathlib import Path

import ane_bench
from tests import support

UNFIT = (r"ane_bench needs Python 3\.9 or later, with ctypes \(%s\); use another Python, such as "
         r"/usr/bin/python3 of Xcode's command line tools, or python\.org's\n")
NO_FILE = r"ane_bench: .*: save it as ane_bench\.py, and run python3 ane_bench\.py, or import it\n"


@functools.cache
def built(kind: str) -> Path:
    """Return the wheel or the sdist, built once by flit_core; skip the test if that is missing."""
    backend = support.need("flit_core.buildapi")
    directory = tempfile.mkdtemp(prefix="built_", dir=support.WORKSHOP)
    before = os.getcwd()
    os.chdir(support.ROOT)
    try:
        build = backend.build_wheel if kind == "wheel" else backend.build_sdist
        return Path(directory) / str(build(directory))
    finally:
        os.chdir(before)


class FormsTest(support.StandinCase):
    """The same run, however the file got there."""

    def setUp(self) -> None:
        super().setUp()
        self.place = self.directory / "ein Pfad mit Lücken ✓"

    def assert_runs(self, command: Sequence[str], **variables: str) -> None:
        """Check a whole run, workers included, that leaves nothing behind."""
        run = support.Started([*command, *support.SMALL, "--quiet"],
                              {**self.environment(), **variables}, cwd=self.directory)
        self.addCleanup(run.end)
        done = run.finish(120)
        self.assertEqual((done.code, done.errors), (0, ""))
        rows = re.findall(r"(?m)^(?:64x8x2)? +(?:FP16|W8A8)\b.* ok\*?$", done.output)
        self.assertEqual(len(rows), 2, done.output)
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_copied(self) -> None:
        """Files beside it that are named like modules are left alone."""
        self.place.mkdir()
        copy = self.place / "bénch mark.py"
        copy.write_bytes(support.MODULE.read_bytes())
        beside = [self.place / f"{name}.py" for name in
                  ("statistics", "select", "json", "ctypes", "signal", "random", "encodings")]
        for path in beside:
            path.write_text("raise SystemExit('a module beside the file was imported')\n")
        self.assert_runs([sys.executable, str(copy)])
        self.assertEqual(sorted(self.place.iterdir()), sorted([copy, *beside]))

    def test_as_a_module_and_isolated(self) -> None:
        self.assert_runs([sys.executable, "-m", "ane_bench"], PYTHONPATH=str(support.ROOT))
        self.assert_runs([sys.executable, "-I", str(support.MODULE)])

    def test_vendored(self) -> None:
        package = self.place / "project" / "vendor"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "neural.py").write_bytes(support.MODULE.read_bytes())
        (package / "json.py").write_text("raise SystemExit('a module beside it was imported')\n")
        program = ("import sys\nfrom project.vendor import neural\nbefore = list(sys.path)\n"
                   "print(neural.run([neural.Config(64, 8, 2)]).table())\n"
                   "assert sys.path == before\n")
        self.assert_runs([sys.executable, "-c", program], PYTHONPATH=str(self.place))

    def test_sdist(self) -> None:
        with tarfile.open(built("sdist")) as archive:
            archive.extractall(self.place)
        root, = self.place.iterdir()
        for name in ("standin/standin.m", "__init__.py"):
            self.assertTrue((root / "tests" / name).is_file(), name)
        self.assert_runs([sys.executable, str(root / "ane_bench.py")])

    def test_wheel(self) -> None:
        about = f"ane_bench-{ane_bench.__version__}.dist-info/METADATA"
        with zipfile.ZipFile(built("wheel")) as archive:
            names = [name for name in archive.namelist() if "dist-info" not in name]
            self.assertEqual(names, ["ane_bench.py"])
            metadata = archive.read(about).decode()
            archive.extractall(self.place)
        self.assertIn("Requires-Python: >=3.9", metadata)
        self.assertNotIn("Requires-Dist", metadata)
        self.assert_runs([sys.executable, "-m", "ane_bench"], PYTHONPATH=str(self.place))

    def test_installed(self) -> None:
        support.need("pip")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.place)], check=True)
        options = ["--python", str(self.place / "bin" / "python"), "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "pip", *options, "install", "-q", "--no-index",
                        str(built("wheel"))], check=True, capture_output=True)
        self.assert_runs([str(self.place / "bin" / "ane-bench")])


class UnfitPlacesTest(unittest.TestCase):
    """Where it cannot run, it says so in one line, with what to do."""

    def python(self, *arguments: str, text: str = "",
               python: str = sys.executable) -> support.Finished:
        """Run a Python with arguments, and with a text as standard input."""
        done = subprocess.run([python, *arguments], input=text, capture_output=True,
                              encoding="utf-8", cwd=support.ROOT, env=support.clean_environment(),
                              check=False)
        return support.Finished(done.returncode, done.stdout, done.stderr)

    def assert_refused(self, code: int, told: str, *arguments: str, **options: str) -> None:
        """Check that a command says this and nothing else."""
        done = self.python(*arguments, **options)
        self.assertEqual((done.code, done.output), (code, ""))
        self.assertRegex(done.errors, rf"\A{told}\Z")

    def test_old_versions_can_parse_it(self) -> None:
        ast.parse(support.MODULE.read_text(encoding="utf-8"), feature_version=(3, 6))

    def test_old_versions(self) -> None:
        """Each says it before anything else, as a script and as an import."""
        found = sorted(Path("~/.pyenv/versions").expanduser().glob("3.[678].*/bin/python"))
        if not found:
            self.skipTest("no Python 3.6, 3.7 or 3.8 is installed")
        for path in found:
            told = UNFIT % f"this is 3.{path.parts[-3].split('.')[1]}"
            self.assert_refused(3, told, str(support.MODULE), "--version", python=str(path))
            done = self.python("-c", "import ane_bench", python=str(path))
            self.assertRegex(done.errors, rf"\nImportError: {told}\Z")

    def test_without_ctypes(self) -> None:
        poison = "import runpy, sys; sys.modules['ctypes'] = None; "
        told = UNFIT % "import of ctypes halted; None in sys.modules"
        path = str(support.MODULE)
        self.assert_refused(3, told, "-c", f"{poison}runpy.run_path({path!r}, None, '__main__')")
        done = self.python("-c", f"{poison}import ane_bench")
        self.assertRegex(done.errors, rf"\nImportError: {told}\Z")

    def test_without_a_file(self) -> None:
        execute = f"import sys; source = open({str(support.MODULE)!r}, encoding='utf-8').read(); "
        for arguments in (["--engine", "reference"], ["doctor"]):
            self.assert_refused(2, NO_FILE, "-c",
                                f"{execute}sys.argv[1:] = {arguments}; exec(source)")
        done = self.python("-c", f"{execute}sys.argv[1:] = ['--version']; exec(source)")
        self.assertEqual((done.code, done.errors), (0, ""))
        # A prompt goes on after it, whatever its own arguments are.
        done = self.python("-i", "-q", "-", "-f", "kernel.json",
                           text=f"{execute}exec(source)\nprint(5)\n")
        self.assertEqual((done.code, done.output), (0, "5\n"))
        self.assertRegex(done.errors, NO_FILE)
        self.assertNotIn("Traceback", done.errors)

    def test_without_an_executable(self) -> None:
        self.assert_refused(2, NO_FILE, "-c", "import sys, ane_bench; sys.executable = ''; "
                                              "sys.exit(ane_bench.main(['--engine=reference']))")


class ImportTest(unittest.TestCase):
    """What an import costs others."""

    def test_nothing_but_the_standard_library_is_imported(self) -> None:
        program = ("import sys\nbefore = set(sys.modules)\nimport ane_bench\n"
                   "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))")
        done = subprocess.run([sys.executable, "-c", program], cwd=support.ROOT,
                              capture_output=True, encoding="utf-8", check=True)
        names = set(done.stdout.split()) - {"ane_bench"}
        known = getattr(sys, "stdlib_module_names", names)  # from Python 3.10 on
        self.assertEqual({name for name in names if name not in known
                          and not name.startswith("_sysconfig")}, set())
        self.assertIn("ctypes", names)
        self.assertNotIn("socket", names)
