"""The tests, one file per section of ane_bench.py, in its order. `python3 -m unittest` runs them,
on all processors.

With ANE_BENCH_TESTS=all the long ones run, too. The last lines tell what was left out, and why.
"""

import atexit
import contextlib
import io
import multiprocessing
import os
import sys
import unittest
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, Optional

LISTS = ("errors", "failures", "skipped", "expectedFailures", "unexpectedSuccesses",
         "collectedDurations")


class _Told:
    """A test, or a part of one, in the words of the process that ran it."""

    def __init__(self, name: str, description: str) -> None:
        self._name, self._description = name, description

    def id(self) -> str:
        return self._name

    def shortDescription(self) -> None:
        return None

    def __str__(self) -> str:
        return self._description


class _Outcome(NamedTuple):
    """What a test printed, how many tests that were, its entries for the result's LISTS, and what
    it left out."""

    text: str
    tests: int
    lists: dict[str, list[Any]]
    reductions: list[str]


class _Suite(unittest.TestSuite):
    """All tests; what they left out is told when Python exits, below the results."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        from tests import support

        atexit.register(lambda: sys.stderr.writelines(support.closing_lines(result.skipped)))
        processors = os.cpu_count() or 1
        if processors == 1 or not isinstance(result, unittest.TextTestResult) or debug:
            return super().run(result, debug)
        with contextlib.suppress(unittest.SkipTest):
            support.standin_library()  # now: one for all processes
        support.compiled_module()
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy, in each process
        tests = list(flat(self))[::-1]  # the longest are in the last files, so they begin first
        _Process.tests, _Process.result = tests, result
        with ProcessPoolExecutor(processors + 1, multiprocessing.get_context("fork")) as pool:
            for outcome in pool.map(_Process.run, range(len(tests))):
                result.stream.write(outcome.text)
                result.stream.flush()
                result.testsRun += outcome.tests
                support.reductions += outcome.reductions
                for name, entries in outcome.lists.items():
                    getattr(result, name).extend(entries)
                if result.failfast and not result.wasSuccessful():
                    break
        return result


class _Process:
    """A process that runs single tests; it was forked, so it has these from its parent."""

    tests: list[unittest.TestCase]
    result: unittest.TextTestResult

    @classmethod
    def run(cls, number: int) -> _Outcome:
        """Run a test as a part of the parent's result."""
        from tests import support

        stream, before = io.StringIO(), len(support.reductions)
        part = unittest.TextTestResult(type(cls.result.stream)(stream), cls.result.descriptions,
                                       2 if cls.result.showAll else int(cls.result.dots))
        with contextlib.redirect_stdout(stream):
            unittest.TestSuite([cls.tests[number]]).run(part)
        lists = {name: [_told(part, entry) for entry in getattr(part, name)]
                 for name in LISTS if hasattr(part, name)}
        return _Outcome(stream.getvalue(), part.testsRun, lists, support.reductions[before:])


def _told(part: unittest.TextTestResult, entry: Any) -> Any:
    """Return an entry of a result's list with its test in words; the test alone, or with a text."""
    if isinstance(entry, tuple):
        return (_told(part, entry[0]), *entry[1:]) if not isinstance(entry[0], str) else entry
    return _Told(entry.id(), part.getDescription(entry))


def flat(suite: Iterable[Any]) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite, one by one."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite,
               pattern: Optional[str]) -> Any:
    """Return the tests of this package, as unittest's discovery asks for them."""
    return _Suite([tests, loader.discover(os.path.dirname(__file__), pattern or "test*.py")])
