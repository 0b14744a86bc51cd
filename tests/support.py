"""What several tests need: the stand-in built once, a run of the command line, optional material."""

import atexit
import contextlib
import functools
import importlib
import json
import logging
import os
import py_compile
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import ane_bench
from tests.standin import build as standin_build

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "ane_bench.py"
SHARED = ROOT.parent / "shared"

# A run that takes no time.
SMALL = ("--config", "64x8x2", "--iters", "4", "--rounds", "2", "--warmup", "2")

# One directory for all that the tests build; removed when Python ends.
_WORKSHOP = tempfile.TemporaryDirectory(prefix="ane_bench_tests_")
atexit.register(_WORKSHOP.cleanup)


class Finished(NamedTuple):
    """A command that ended."""

    code: int
    output: str
    errors: str


def own_python() -> list[str]:
    """This Python, with the options for finding faults that it was started with: they then hold for whatever the tests start."""
    return [sys.executable, *(["-X", "dev"] if sys.flags.dev_mode else []), *(f"-W{option}" for option in sys.warnoptions)]


def run_command(*arguments: str, environment: Optional[Mapping[str, str]] = None, module: Path = MODULE,
                **options: Any) -> Finished:
    """Runs ane_bench.py as a user does, with no stand-in but the one that the environment here names."""
    whole: dict[str, str] = {**os.environ, ane_bench.STANDIN_VARIABLE: "", **(environment or {})}
    options.setdefault("timeout", 120)
    done = subprocess.run([*own_python(), str(module), *arguments], env=whole, stdin=subprocess.DEVNULL, capture_output=True,
                          encoding="utf-8", errors="replace", check=False, **options)
    return Finished(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets variables of this process for a while."""
    with unittest.mock.patch.dict(os.environ, variables):
        yield


@functools.cache
def compiled_module() -> Path:
    """The module as bytecode, which starts in half the time."""
    target = Path(_WORKSHOP.name) / "compiled" / "ane_bench.pyc"
    py_compile.compile(str(MODULE), str(target), doraise=True)
    return target


@functools.cache
def standin_library(defines: Sequence[str] = ()) -> Path:
    """The stand-in, built on first use; the test is skipped where it cannot be."""
    try:
        directory = Path(_WORKSHOP.name) / f"standin{len(list(Path(_WORKSHOP.name).iterdir()))}"
        directory.mkdir()
        return standin_build.build(directory, defines=defines)
    except standin_build.Unavailable as reason:
        raise unittest.SkipTest(str(reason)) from None


def shared(*parts: str) -> Path:
    """A file beside the repository; the test is skipped where it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        raise unittest.SkipTest(f"{path} is not here")
    return path


def need(module: str) -> Any:
    """A module that need not be installed; the test is skipped where it is not."""
    logging.disable()  # coremltools tells of the parts that exist on a Mac only
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise unittest.SkipTest(f"{module} is not installed") from None
    finally:
        logging.disable(logging.NOTSET)


class StandinCase(unittest.TestCase):
    """A temporary directory of its own for each test, which every run must leave as it was."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory(prefix="ane_bench_")
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self.log = self.directory / "log"
        self.module = compiled_module()

    def environment(self, **settings: Any) -> dict[str, str]:
        """The variables of a run against the stand-in."""
        return {**{f"STANDIN_{name}": str(value) for name, value in settings.items()}, "STANDIN_LOG": str(self.log),
                ane_bench.STANDIN_VARIABLE: str(standin_library()), "TMPDIR": str(self.temporary)}

    def run_standin(self, *arguments: str, **settings: Any) -> Finished:
        """A run against the stand-in; settings are its variables without the prefix."""
        finished = run_command(*arguments, environment=self.environment(**settings), module=self.module)
        self.assertEqual(list(self.temporary.iterdir()), [], "something was left behind")
        self.assertNotIn("Traceback", finished.errors)
        return finished

    def run_record(self, *arguments: str, code: int = 0, **settings: Any) -> dict[str, Any]:
        """The record of a run, which must end with an exit code."""
        finished = self.run_standin(*arguments, "--format", "json", **settings)
        self.assertEqual(finished.code, code, finished.errors)
        record: dict[str, Any] = json.loads(finished.output)
        return record

    def calls(self) -> list[str]:
        """The stand-in's log."""
        return self.log.read_text().splitlines()
