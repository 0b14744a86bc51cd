"""Every form in which the file reaches people: copied, vendored, sdist, wheel, installed. Each makes a whole run."""

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

HARD_NAME = "ein Pfad mit Lücken ✓"


@functools.cache
def built(kind: str) -> Path:
    """Return the wheel or the sdist, built once by flit_core; skip the test if that is not installed."""
    backend = support.need("flit_core.buildapi")
    directory = tempfile.mkdtemp(prefix="built_", dir=support.WORKSHOP)
    before = os.getcwd()
    os.chdir(support.ROOT)
    try:
        name = (backend.build_wheel if kind == "wheel" else backend.build_sdist)(directory)
    finally:
        os.chdir(before)
    return Path(directory) / str(name)


class FormsTest(support.StandinCase):
    """The same run, however the file got there."""

    def setUp(self) -> None:
        super().setUp()
        self.place = self.directory / HARD_NAME

    def assert_runs(self, command: Sequence[str], **variables: str) -> None:
        """Check a whole run, workers included, that leaves nothing behind."""
        whole = [*command, *support.SMALL, "--quiet"]
        run = support.Started(whole, {**self.environment(), **variables}, cwd=self.directory)
        self.addCleanup(run.end)
        done = run.finish(120)
        self.assertEqual((done.code, done.errors), (0, ""))
        self.assertEqual(len(re.findall(r"(?m)^(?:FP16|W8A8)\b.* ok\*?$", done.output)), 2, done.output)
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_copied(self) -> None:
        self.place.mkdir()
        copy = self.place / "bénch mark.py"
        copy.write_bytes(support.MODULE.read_bytes())
        self.assert_runs([sys.executable, str(copy)])
        self.assertEqual(list(self.place.iterdir()), [copy])

    def test_as_a_module(self) -> None:
        self.assert_runs([sys.executable, "-m", "ane_bench"], PYTHONPATH=str(support.ROOT))

    def test_vendored(self) -> None:
        package = self.place / "project" / "vendor"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "neural.py").write_bytes(support.MODULE.read_bytes())
        (package / "json.py").write_text("raise SystemExit('a module beside the file was imported')\n")
        program = ("import sys\nfrom project.vendor import neural\nfound = neural.run([neural.Config(64, 8, 2)])\n"
                   "for cell in found.to_dict()['results'][0]['variants']: print(cell.upper(), found.ok and 'ok')\n")
        self.assert_runs([sys.executable, "-c", program], PYTHONPATH=str(self.place))

    def test_sdist(self) -> None:
        with tarfile.open(built("sdist")) as archive:
            archive.extractall(self.place)
        root, = self.place.iterdir()
        self.assertTrue((root / "tests" / "standin" / "standin.m").is_file())
        self.assertTrue((root / "tests" / "__init__.py").is_file())
        self.assert_runs([sys.executable, str(root / "ane_bench.py")])

    def test_wheel(self) -> None:
        with zipfile.ZipFile(built("wheel")) as archive:
            self.assertEqual([name for name in archive.namelist() if "dist-info" not in name], ["ane_bench.py"])
            archive.extractall(self.place)
            metadata = archive.read(f"ane_bench-{ane_bench.__version__}.dist-info/METADATA").decode()
        self.assertIn("Requires-Python: >=3.9", metadata)
        self.assertNotIn("Requires-Dist", metadata)
        self.assert_runs([sys.executable, "-m", "ane_bench"], PYTHONPATH=str(self.place))

    def test_installed(self) -> None:
        support.need("pip")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.place)], check=True)
        options = ["--python", str(self.place / "bin" / "python"), "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "pip", *options, "install", "-q", "--no-index", str(built("wheel"))],
                       check=True, capture_output=True)
        self.assert_runs([str(self.place / "bin" / "ane-bench")])

    @support.long_test
    def test_pipx(self) -> None:
        support.need("pipx")
        homes = {"PIPX_HOME": str(self.directory / "pipx"), "XDG_CACHE_HOME": str(self.directory / "cache")}
        command = [sys.executable, "-m", "pipx", "run", "--spec", str(support.ROOT), "ane-bench"]
        # The first time it also tells what it installs.
        subprocess.run([*command, "--version"], env={**os.environ, **homes}, check=True, capture_output=True)
        self.assert_runs(command, **homes)


class TestsTest(unittest.TestCase):
    """`python3 -m unittest` says in the end what it left out, and why."""

    def test_without_a_compiler_and_without_the_long_tests(self) -> None:
        environment = {**os.environ, "PATH": "/nowhere", "ANE_BENCH_TESTS": ""}
        chosen = ["-k", "DoctorTest.test_all_is_well", "-k", "FormsTest", "-k", "test_the_version"]
        done = subprocess.run([sys.executable, "-m", "unittest", *chosen], cwd=support.ROOT, env=environment,
                              capture_output=True, encoding="utf-8", check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        results, told = done.stderr.split("Left out:\n")
        self.assertRegex(results, r"\nRan [89] tests in .*\n\nOK \(skipped=8\)\n$")
        self.assertIn("  1 test: long; ANE_BENCH_TESTS=all runs it (FormsTest.test_pipx)\n", told)
        compiler = "the command line tools" if sys.platform == "darwin" else "gcc"
        self.assertRegex(told, f"  7 tests: there is no .* install .*{compiler}.*\\(DoctorTest.test_all_is_well, ")
        self.assertIn("  2,800 of 3,000 damaged inputs of each kind: long; ANE_BENCH_TESTS=all runs them\n", told)


class ImportTest(unittest.TestCase):
    """What an import costs others."""

    def test_nothing_but_the_standard_library_is_imported(self) -> None:
        program = ("import sys\nbefore = set(sys.modules)\nimport ane_bench\n"
                   "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))")
        done = subprocess.run([sys.executable, "-c", program], cwd=support.ROOT, capture_output=True, encoding="utf-8",
                              check=True)
        names = set(done.stdout.split()) - {"ane_bench"}
        known = getattr(sys, "stdlib_module_names", names)  # from Python 3.10 on
        self.assertEqual({name for name in names if name not in known and not name.startswith("_sysconfig")}, set())
        self.assertIn("ctypes", names)
        self.assertNotIn("socket", names)
