"""What Python costs: `python3 tests/bench_overhead.py` runs ane_bench.py beside its compiled
equivalent.

The equivalent is tests/standin/baseline.m. Both do what `--original` does, against the stand-in, in
pairs, one after the other. A whole run is measured twice: with evaluates that cost nothing, so that
nothing hides the difference, and at the stand-in's own speed, an M4's. On a busy machine only the
processor times mean something. How long the gaps between evaluates are, tests/bench_clock.py tells.

The exit code is 0 if all figures meet their targets, 1 if one does not or if the two do not do the
same work, 2 if nothing can be built.
"""

import argparse
import contextlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import unittest.mock
import zlib
from collections.abc import Sequence
from operator import sub, truediv
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ane_bench  # noqa: E402
from tests.standin.build import Unavailable, build  # noqa: E402

# Runs a command in a small process of its own: the memory of a process counts as its child's until
# that has begun.
MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

# A run may take so many times as long and as much memory; an evaluate so many µs more.
MOST_TIME, MOST_MEMORY, MOST_EVALUATE, NO_LIMIT = 1.35, 1.5, 2.5, math.inf


def main() -> int:
    """Build, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7, help="how often the two are measured")
    parser.add_argument("--evaluates", type=int, default=200000, help="timed at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ane_bench_overhead_") as name:
        directory = Path(name)
        try:
            library = build(directory)
            baseline = build(directory, source="baseline.m", shared=False, libraries=[library])
        except Unavailable as reason:
            print(f"nothing was measured: {reason}", file=sys.stderr)
            return 2
        set_environment(directory, library)
        differing = difference(baseline)
        if differing:
            print(f"the two do not do the same work: {differing}", file=sys.stderr)
            return 1
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, "
              f"load {os.getloadavg()[0]:.1f}")
        pairs = options.pairs
        met = [compare_runs(baseline, pairs, "a run without the time of evaluates", NO_LIMIT),
               compare_evaluates(baseline, library, pairs, options.evaluates)]
        del os.environ["STANDIN_SPEED"]
        met.append(compare_runs(baseline, pairs, "a run at the speed of an M4", MOST_TIME))
        return 0 if all(met) else 1


def set_environment(directory: Path, library: Path) -> None:
    """Name the stand-in, which computes nothing and takes no time, and the place for files."""
    for variable in [variable for variable in os.environ if variable.startswith("STANDIN_")]:
        del os.environ[variable]
    os.environ.update({ane_bench.STANDIN_VARIABLE: str(library), "STANDIN_COMPUTE": "none",
                       "STANDIN_SPEED": "0", "TMPDIR": str(directory)})


def difference(baseline: Path) -> str:
    """Return the CRC-32 of texts and weights of the programs that are not the same in both."""
    found = subprocess.check_output([baseline, "--hash"], encoding="utf-8").splitlines()
    expected = []
    for config, variant in itertools.product(ane_bench.DEFAULTS["ane"], ("fp16", "w8a8")):
        program = ane_bench.build_program(config, variant, original=True)
        sums = [format(zlib.crc32(part), "08x") for part in (program.mil.encode(), program.blob)]
        expected.append(" ".join([config.name, variant, *sums]))
    return "; ".join(f"{one}, not the baseline's {other}" for one, other in itertools.zip_longest(
        expected, found) if one != other)


def compare_runs(baseline: Path, pairs: int, what: str, most_time: float) -> bool:
    """Compare whole runs; return whether they take no more time and memory than they may."""
    commands = ([sys.executable, str(ane_bench.__file__), "--original", "--quiet"], [str(baseline)])
    costs: tuple[list[list[float]], list[list[float]]] = ([], [])
    for number in range(pairs):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            costs[which].append(measure(commands[which]))
    figures = (("time", "s", most_time), ("processor time", "s", NO_LIMIT),
               ("peak memory", "MiB", MOST_MEMORY))
    met = [tell(f"{name} of {what}", unit, own, compiled, truediv, most)
           for (name, unit, most), own, compiled in zip(figures, zip(*costs[0]), zip(*costs[1]))]
    return all(met)


def measure(command: Sequence[str]) -> list[float]:
    """Return the cost of a run: time, processor time, the most MiB that one of its processes had;
    exit if it fails."""
    output = subprocess.check_output([sys.executable, "-IS", "-c", MEASURE, *command])
    code, seconds, processor_seconds, most = map(float, output.split())
    if code:
        sys.exit(f"{' '.join(command)} ended with {code:g}")
    return [seconds, processor_seconds, most * MAXRSS_UNIT / (1 << 20)]


def compare_evaluates(baseline: Path, library: Path, pairs: int, count: int) -> bool:
    """Compare evaluates back to back; return whether one from Python is within its limit."""
    own, compiled = [], []
    for _ in range(pairs):
        own.append(evaluate_microseconds(library, count))
        compiled.append(float(subprocess.check_output([baseline, "--evaluate", str(count)])))
    return tell("one evaluate", "µs", own, compiled, sub, MOST_EVALUATE)


def evaluate_microseconds(library: Path, count: int) -> float:
    """Return the µs of one evaluate as ane_bench times it, the mean of `count` back to back."""
    engine = ane_bench.NeuralEngine(ane_bench.Libraries(str(library)), original=True)
    program = ane_bench.build_program(ane_bench.Config(512, 32, 2), "fp16", original=True)
    with contextlib.ExitStack() as owner:
        cell = ane_bench.Cell(program.config, "fp16", ane_bench.ORIGINAL_SETTINGS)
        trial = ane_bench.Trial(cell)
        trial.executable = engine.load(program, 0, unittest.mock.MagicMock(), owner)
        marks = ane_bench.timed_evaluates(engine, trial, "evaluate", count)
        return (marks[-1] - marks[0]) * engine.tick_ns / count / 1e3


def tell(what: str, unit: str, own: Sequence[float], compiled: Sequence[float],
         compare: Callable[[float, float], float], most: float) -> bool:
    """Print the median over pairs beside its limit; return whether it is met."""
    figure = statistics.median(map(compare, own, compiled))
    middles = [statistics.median(values) for values in (own, compiled)]
    words = "times" if compare is truediv else f"{unit} more than"
    verdict = f", at most {most:g}: {'met' if figure <= most else 'missed'}"
    print(f"{what}: {figure:.2f} {words} the baseline's ({middles[0]:.2f} {unit} and "
          f"{middles[1]:.2f} {unit}){verdict if most < NO_LIMIT else ''}", flush=True)
    return figure <= most


if __name__ == "__main__":
    sys.exit(main())
