"""What several tests need: the stand-in built once, a run of the command line, optional material."""

import functools
import importlib
import logging
import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import ane_bench
from tests.standin import build as standin_build

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "ane_bench.py"
SHARED = ROOT.parent / "shared"

# One directory for all that the tests build; removed when Python ends.
_WORKSHOP = tempfile.TemporaryDirectory(prefix="ane_bench_tests_")


class Finished(NamedTuple):
    """A command that ended."""

    code: int
    output: str
    errors: str


def run_command(*arguments: str, environment: Optional[Mapping[str, str]] = None, module: Path = MODULE, **options: Any) -> Finished:
    """Runs ane_bench.py as a user does, with no stand-in but the one that the environment here names."""
    whole: dict[str, str] = {**os.environ, ane_bench.STANDIN_VARIABLE: "", **(environment or {})}
    options.setdefault("timeout", 120)
    done = subprocess.run([sys.executable, str(module), *arguments], env=whole, stdin=subprocess.DEVNULL, capture_output=True,
                          encoding="utf-8", errors="replace", check=False, **options)
    return Finished(done.returncode, done.stdout, done.stderr)


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
