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


class _Told(NamedTuple):
    """A test, or a part of one, in the words of the process that ran it."""

    name: str
    description: str

    def id(self) -> str:
        return self.name

    def shortDescription(self) -> None:
        """The description has it."""

    def __str__(self) -> str:
        return self.description


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
        _Process.result = result
        _Process.tests = list(flat(self))[::-1]  # the longest are in the last files: they go first
        with ProcessPoolExecutor(processors + 1, multiprocessing.get_context("fork")) as pool:
            for text, count, lists, left_out in pool.map(_Process.run, range(len(_Process.tests))):
                result.stream.write(text)
                result.stream.flush()
                result.testsRun += count
                support.reductions += left_out
                for name, entries in lists.items():
                    getattr(result, name).extend(entries)
                if result.failfast and not result.wasSuccessful():
                    break
        return result


class _Process:
    """A process that runs single tests; it was forked, so it has these from its parent."""

    tests: list[unittest.TestCase]
    result: unittest.TextTestResult

    @classmethod
    def run(cls, number: int) -> tuple[str, int, dict[str, Any], list[str]]:
        """Run a test; return what it prints, its count, entries of lists, and what it left out."""
        from tests import support

        stream, before = io.StringIO(), len(support.reductions)
        part = unittest.TextTestResult(type(cls.result.stream)(stream), cls.result.descriptions,
                                       2 if cls.result.showAll else int(cls.result.dots))
        with contextlib.redirect_stdout(stream):
            unittest.TestSuite([cls.tests[number]]).run(part)
        lists = {name: [(_Told(test.id(), part.getDescription(test)), text)
                        for test, text in getattr(part, name)]
                 for name in ("errors", "failures", "skipped")}
        return stream.getvalue(), part.testsRun, lists, support.reductions[before:]


def flat(suite: Iterable[Any]) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite, one by one."""
    for test in suite:
        yield from flat(test) if isinstance(test, unittest.TestSuite) else [test]


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite,
               pattern: Optional[str]) -> Any:
    """Return the tests of this package, as unittest's discovery asks for them."""
    return _Suite([tests, loader.discover(os.path.dirname(__file__), pattern or "test*.py")])
