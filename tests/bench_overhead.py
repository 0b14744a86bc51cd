"""What Python costs: `python3 tests/bench_overhead.py` runs ane_bench.py beside its compiled equivalent, tests/standin/baseline.m.

Both run against the stand-in, whose evaluates cost nothing here, so that nothing hides what is measured; once more they take as
long as an M4's would on average. The two do the same work but for this: the baseline makes weights and input for each program,
ane_bench once for the variants of a configuration. Exit code 0 where all figures are within their targets, 1 where one is not or
where the two do not do the same work, 2 where nothing can be built.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from operator import sub, truediv
from pathlib import Path
from typing import Callable, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ane_bench
from tests.standin.build import Unavailable, build

# Runs a command in a process of its own: what the one that asks has in memory would count as the command's own.
MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(code, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Target(NamedTuple):
    """How a figure is compared with the baseline's, what that is called, and the most that it may be."""

    compare: Callable[[float, float], float]
    words: str
    most: float


TIME, MEMORY, EVALUATE = Target(truediv, "times", 1.3), Target(truediv, "times", 1.5), Target(sub, "µs more than", 2.0)


# µs of an evaluate: the mean over the default configurations, were they as fast as 512x64x128 is reported to be on an M4.
REAL_LATENCY = "fp16:8300,w8a8:4400"


class Cost(NamedTuple):
    """Of a run: wall time, and the most that any one of its processes had in memory."""

    seconds: float
    mib: float


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Builds, compares, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7, help="how many times the two are measured side by side")
    parser.add_argument("--evaluates", type=int, default=200000, help="how many evaluates are timed at a time")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ane_bench_overhead_") as name:
        directory = Path(name)
        try:
            library = build(directory)
            baseline = build(directory, source="baseline.m", shared=False, libraries=[library])
        except Unavailable as reason:
            print(f"nothing was measured: {reason}", file=sys.stderr)
            return 2
        set_environment(directory, library)
        difference = next(differences(baseline), None)
        if difference:
            print(f"the two do not do the same work: {difference}", file=sys.stderr)
            return 1
        within = [compare_runs(baseline, options.pairs, "a run"),
                  compare_evaluates(baseline, library, options.pairs, options.evaluates)]
        os.environ["STANDIN_LATENCY"] = REAL_LATENCY
        return 0 if all([*within, compare_runs(baseline, options.pairs, "a run at the speed of an M4")]) else 1


def set_environment(directory: Path, library: Path) -> None:
    """What this process and all that it starts find: the stand-in, at no cost for evaluates, and a place for files."""
    for variable in [variable for variable in os.environ if variable.startswith("STANDIN_")]:
        del os.environ[variable]
    os.environ.update({ane_bench.STANDIN_VARIABLE: str(library), "STANDIN_COMPUTE": "none", "TMPDIR": str(directory)})


def differences(baseline: Path) -> Iterator[str]:
    """Each program of which the two make something else."""
    hashed = subprocess.run([baseline, "--hash"], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=True)
    found = hashed.stdout.splitlines()
    programs = [(config, variant) for config in ane_bench.DEFAULT_CONFIGS for variant in ane_bench.DEFAULT_VARIANTS]
    if len(found) != len(programs):
        yield f"{len(found)} programs, and {len(programs)} were expected"
    for (config, variant), line in zip(programs, found):
        program = ane_bench.build_program(config, variant)
        parts = (program.mil.encode(), program.blob, ane_bench.random_input(config, 0))
        expected = f"{config.name} {variant} {' '.join(format(zlib.crc32(part), '08x') for part in parts)}"
        if line != expected:
            yield f"CRC-32 of text, weights and input are {expected}, and those of the baseline {line}"


def compare_runs(baseline: Path, pairs: int, what: str) -> bool:
    """Whether whole runs take no more time and memory than they may."""
    own_command = [sys.executable, ane_bench.__file__, "--verify", "0", "--quiet"]
    own: list[Cost] = []
    compiled: list[Cost] = []
    for number in range(pairs):
        for costs, command in ((own, own_command), (compiled, [str(baseline)]))[::1 if number % 2 == 0 else -1]:
            costs.append(measure(command))
    return all([tell(f"time of {what}", "s", [cost.seconds for cost in own], [cost.seconds for cost in compiled], TIME),
                tell(f"peak memory of {what}", "MiB", [cost.mib for cost in own], [cost.mib for cost in compiled], MEMORY)])


def measure(command: Sequence[str]) -> Cost:
    """What one run of a command costs; ends this one where it fails."""
    done = subprocess.run([sys.executable, "-IS", "-c", MEASURE, *command], stdout=subprocess.PIPE, encoding="utf-8", check=True)
    code, seconds, maximum = done.stdout.split()
    if code != "0":
        sys.exit(f"{' '.join(command)} ended with {code}")
    return Cost(float(seconds), int(maximum) * MAXRSS_UNIT / (1 << 20))


def compare_evaluates(baseline: Path, library: Path, pairs: int, count: int) -> bool:
    """Whether an evaluate from Python takes no longer than it may."""
    own, compiled = [], []
    for _ in range(pairs):
        own.append(evaluate_microseconds(library, count))
        done = subprocess.run([baseline, "--evaluate", str(count)], stdout=subprocess.PIPE, encoding="utf-8", check=True)
        compiled.append(float(done.stdout))
    return tell("one evaluate", "µs", own, compiled, EVALUATE)


def evaluate_microseconds(library: Path, count: int) -> float:
    """µs of one evaluate as ane_bench times it, the mean of `count` back to back."""
    engine = ane_bench.NeuralEngine(ane_bench.Libraries(str(library)))
    trial = ane_bench.Trial("fp16")
    program = ane_bench.build_program(ane_bench.Config(64, 32, 2), "fp16")
    with contextlib.ExitStack() as owner, ane_bench.collector_off():
        trial.executable = engine.load(program, ane_bench.DEFAULT_PROTOCOL.qos, ane_bench.Session(), owner)
        return statistics.fmean(ane_bench.timed_evaluates(engine, trial, "evaluate", count, 1)) / 1e3


def tell(what: str, unit: str, own: Sequence[float], compiled: Sequence[float], target: Target) -> bool:
    """Prints the median over pairs beside its target, and says whether it is within."""
    figure = statistics.median(map(target.compare, own, compiled))
    middles = [statistics.median(values) for values in (own, compiled)]
    print(f"{what}: {figure:.2f} {target.words} the baseline's ({middles[0]:.2f} {unit} and {middles[1]:.2f} {unit}), "
          f"at most {target.most}: {'within' if figure <= target.most else 'over'}", flush=True)
    return figure <= target.most


if __name__ == "__main__":
    sys.exit(main())
