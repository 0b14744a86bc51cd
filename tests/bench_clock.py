"""How well a rising clock is measured: `python3 tests/bench_clock.py [--runs N]`.

Programs of 0.2, 2 and 15 ms are measured on the stand-in, where an evaluate takes 2.8 times as long
from idle and the excess falls with a time constant of 60 or 250 ms of work. For each the script
prints by how much both times and the ratio differ from the final ones (those of a run whose clock
does not rise), and the longest gap before an evaluate in the rounds.

The stand-in's clock jumps: evaluates take exactly as long as they should, and whatever passes
between them is the program's own, or the machine's. Interruptions by the machine only ever make
gaps longer and times later, and fall elsewhere in each run: of some runs the one with the least
errors counts, and at each place among the evaluates the least gap. A busy machine still shows in
programs of 0.2 ms, since an interruption of 1 ms is five of their evaluates.

Exit code 0 if all is within a hundredth and 100 µs, else 1; 2 if the stand-in cannot be built.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.standin.build import Unavailable, build  # noqa: E402  # found only now

PROGRAMS_MS, CONSTANTS_S, RISE, TIMES_FASTER = (0.2, 2.0, 15.0), (0.06, 0.25), 2.8, 2
MOST_OFF, MOST_GAP_US = 0.01, 100.0


class Found(NamedTuple):
    """Of one run: the ms of both variants, the ratio, and the µs before each evaluate, by turns."""

    fp16: float
    w8a8: float
    ratio: float
    gaps_us: Sequence[Sequence[float]]


def measure(standin: Path, program_ms: float, rise: str, directory: Path) -> Found:
    """Run once, on a clock that rises so or, if `rise` is empty, does not."""
    gaps = directory / "gaps"
    gaps.unlink(missing_ok=True)
    latency = f"fp16:{program_ms * 1e3:g},w8a8:{program_ms * 1e3 / TIMES_FASTER:g}"
    environment = {**os.environ, "ANE_BENCH_STANDIN": str(standin), "TMPDIR": str(directory),
                   "STANDIN_CLOCK": "jump", "STANDIN_LATENCY": latency, "STANDIN_RISE": rise,
                   "STANDIN_GAPS": str(gaps)}
    done = subprocess.run([sys.executable, str(ROOT / "ane_bench.py"), "--config", "64x32x2",
                           "--seconds", "0", "--format", "json", "--quiet"],
                          env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    result, = json.loads(done.stdout)["results"]
    cells = [result["variants"][name] for name in ("fp16", "w8a8")]
    fp16, w8a8 = (cell["ms"]["value"] for cell in cells)
    lines = gaps.read_text(encoding="utf-8").split("\n")[:-1]
    return Found(fp16, w8a8, result["ratio"]["w8a8"]["value"],
                 gaps_of(lines, [cell["samples_ns"] for cell in cells]))


def gaps_of(lines: Sequence[str], cells: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Return the gaps in µs of each turn of the rounds, which end a process's lines. The first gap
    of the rounds is left out: it belongs to the warm-up."""
    turns = [1 + len(samples) for number, both in enumerate(zip(*cells))
             for samples in (both[::-1] if number % 2 else both)]
    gaps = [0.0 if " - " in line else float(line.split()[1]) / 1e3 for line in lines[-sum(turns):]]
    gaps[0] = 0.0
    ends = itertools.accumulate(turns)
    return [gaps[end - turn:end] for turn, end in zip(turns, ends)]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each program (default 5)")
    runs = range(parser.parse_args().runs)
    with tempfile.TemporaryDirectory(prefix="ane_bench_clock_") as holder:
        directory = Path(holder)
        try:
            standin = build(directory)
        except Unavailable as reason:
            print(f"bench_clock: {reason}", file=sys.stderr)
            return 2
        print(f"{'ms':>5} {'tau ms':>6}     FP16     W8A8    Ratio   gap µs")
        well = True
        for program_ms, constant_s in itertools.product(PROGRAMS_MS, CONSTANTS_S):
            flat, rising = ([measure(standin, program_ms, rise, directory) for _ in runs]
                            for rise in ("", f"{RISE}:{constant_s}"))
            final = min(flat)[:3]
            errors = min(([own / other - 1 for own, other in zip(run[:3], final)]
                          for run in rising), key=lambda errors: max(map(abs, errors)))
            gap = max(min(places) for turns in zip(*(run.gaps_us for run in rising))
                      for places in zip(*turns))  # the longest that the program makes
            well = well and max(map(abs, errors)) <= MOST_OFF and gap <= MOST_GAP_US
            print(f"{program_ms:5g} {constant_s * 1e3:6g} "
                  + " ".join(f"{error:+8.2%}" for error in errors) + f" {gap:8.1f}", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
