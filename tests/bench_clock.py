"""How well a rising clock is measured: `python3 tests/bench_clock.py [--before COMMIT]`.

Programs of 0.2, 2 and 15 ms are measured on the stand-in, where an evaluate takes 2.8 times as long from idle and the
excess falls with a time constant of 60 or 250 ms of work. For each the script prints by how much both times and the
ratio differ from the final ones (those of a run whose clock does not rise), for ane_bench.py of a commit before and as
it is now, side by side; and the longest gap between two evaluates in the rounds.

The stand-in's clock jumps: evaluates take exactly as long as they should, and whatever passes between them is the
program's own, or the machine's. Interruptions by the machine only ever make gaps longer and times later, and fall
elsewhere in each run: of some runs the one with the least errors counts, and at each place among the evaluates the
least gap. A busy machine still shows in programs of 0.2 ms, since an interruption of 1 ms is five of their evaluates.

Exit code 0 if all is within a hundredth and 100 µs now, else 1; 2 if the stand-in cannot be built.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.standin.build import Unavailable, build  # noqa: E402  # a script finds the package only now

BEFORE = "4da32a0"
PROGRAMS_MS, CONSTANTS_S, RISE, TIMES_FASTER = (0.2, 2.0, 15.0), (0.06, 0.25), 2.8, 2
ITERS, ROUNDS = 50, 10
EVALUATES = 2 * (ITERS + ROUNDS)  # in the rounds; each begins with one that is not counted
MOST_OFF, MOST_GAP_US = 0.01, 100.0


class Found(NamedTuple):
    """Of one run: the ms of both variants, the ratio, and the µs before each evaluate of the rounds."""

    fp16: float
    w8a8: float
    ratio: float
    gaps_us: Sequence[float]

    def errors(self, final: "Found") -> list[float]:
        """Return by how much times and ratio differ from the final ones, as parts of these."""
        return [own / other - 1 for own, other in zip(self[:3], final[:3])]


def measure(module: Path, standin: Path, program_ms: float, rise: str, directory: Path) -> Found:
    """Run a module once, on a clock that rises so or, if `rise` is empty, does not."""
    gaps = directory / "gaps"
    gaps.unlink(missing_ok=True)
    latency = f"fp16:{program_ms * 1e3:g},w8a8:{program_ms * 1e3 / TIMES_FASTER:g}"
    environment = {**os.environ, "ANE_BENCH_STANDIN": str(standin), "TMPDIR": str(directory), "STANDIN_CLOCK": "jump",
                   "STANDIN_LATENCY": latency, "STANDIN_RISE": rise, "STANDIN_GAPS": str(gaps)}
    arguments = ["--config", "64x32x2", "--iters", str(ITERS), "--rounds", str(ROUNDS), "--format", "json", "--quiet"]
    done = subprocess.run([sys.executable, str(module), *arguments], env=environment, stdout=subprocess.PIPE,
                          encoding="utf-8", check=True)
    result, = json.loads(done.stdout)["results"]
    fp16, w8a8 = (result["variants"][name]["ms"]["median"] for name in ("fp16", "w8a8"))
    lines = gaps.read_text(encoding="utf-8").split("\n")[:-1]
    # The first gap of the rounds is left out: it belongs to the warm-up.
    found = [float(line.split()[1]) / 1e3 for line in lines[1 - EVALUATES:]]
    return Found(fp16, w8a8, result["ratio"]["w8a8"]["value"], found)


def least(runs: Sequence[Found], final: Found) -> tuple[list[float], float]:
    """Return the errors of the run with the least, and the longest gap that the program itself makes."""
    errors = min((run.errors(final) for run in runs), key=lambda errors: max(map(abs, errors)))
    return errors, max(min(places) for places in zip(*(run.gaps_us for run in runs)))


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, help=f"the commit to compare with (default {BEFORE})")
    parser.add_argument("--runs", type=int, default=5, help="runs of each program, with either (default 5)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ane_bench_clock_") as holder:
        directory = Path(holder)
        try:
            standin = build(directory)
        except Unavailable as reason:
            print(f"bench_clock: {reason}", file=sys.stderr)
            return 2
        before = directory / "before.py"
        before.write_bytes(subprocess.run(["git", "-C", str(ROOT), "show", f"{options.before}:ane_bench.py"],
                                          stdout=subprocess.PIPE, check=True).stdout)
        heading = " ".join(f"{name:>8}" for name in ("FP16", "W8A8", "Ratio", "gap µs"))
        print(f"{'ms':>5} {'tau ms':>6}  {'before: ' + options.before:^35}  {'now':^35}\n{'':12}  {heading}  {heading}")
        well = True
        for program_ms in PROGRAMS_MS:
            for constant_s in CONSTANTS_S:
                line = f"{program_ms:5g} {constant_s * 1e3:6g}"
                for module in (before, ROOT / "ane_bench.py"):
                    flat, rising = ([measure(module, standin, program_ms, rise, directory)
                                     for _ in range(options.runs)] for rise in ("", f"{RISE}:{constant_s}"))
                    errors, gap = least(rising, min(flat))
                    line += "  " + " ".join(f"{error:+8.2%}" for error in errors) + f" {gap:8.1f}"
                well = well and max(map(abs, errors)) <= MOST_OFF and gap <= MOST_GAP_US
                print(line, flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
