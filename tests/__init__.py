"""The tests, one file per section of ane_bench.py, in its order: `python3 -m unittest` runs them.

With ANE_BENCH_TESTS=all the long ones run, too. The last lines tell what was left out, and why.
"""

import atexit
import os
import sys
import unittest
from typing import Any, Optional


class _Suite(unittest.TestSuite):
    """All tests; what they left out is told when Python exits, below the results."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        from tests import support

        atexit.register(lambda: sys.stderr.writelines(support.closing_lines(result.skipped)))
        return super().run(result, debug)


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: Optional[str]) -> Any:
    """Return the tests of this package, as unittest's discovery asks for them."""
    return _Suite([tests, loader.discover(os.path.dirname(__file__), pattern or "test*.py")])
