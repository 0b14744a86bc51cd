"""How much processor time the check of a default run takes: `python3 tests/bench_verification.py`.

The targets are the design's. One pixel of 512x64x128 takes 0.5 s in INT8 and 1 s in FP16, twice that with every
arithmetic; a pixel of 256x64x32k3 takes 3 s in both variants; a default run takes 5 s.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ane_bench  # noqa: E402

CHAIN_3X3 = ane_bench.Config(256, 64, 32, 3)
ONE_TARGETS = {("512x64x128", "fp16"): 1.0, ("512x64x128", "w8a8"): 0.5}
ALL_TARGETS = {key: 2 * seconds for key, seconds in ONE_TARGETS.items()}
TOTAL_TARGET, TARGET_3X3 = 5.0, 3.0


class Seconds(NamedTuple):
    """Of one program: of its reference in one arithmetic, and of the whole check. Both read the text and the file."""

    one: float
    whole: float


def least_seconds(work: Callable[[], object]) -> float:
    """Return the least of three processor times of some work."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def seconds(config: ane_bench.Config, variant: str) -> Seconds:
    """Return the times of a program's check of one pixel in two rounds, as a default run does it."""
    data, pixels = ane_bench.random_input(config, 0), ane_bench.chosen_pixels(config, 0, 1)
    program = ane_bench.build_program(config, variant)
    reference = ane_bench.Reference(program.mil, program.blob)
    arithmetic = ane_bench.Arithmetic()
    outputs = reference.compute(data, pixels, [arithmetic])
    rounds = [*outputs, *outputs]

    def compute() -> object:
        return ane_bench.Reference(program.mil, program.blob).compute(data, pixels, [arithmetic])

    return Seconds(least_seconds(compute), least_seconds(lambda: ane_bench.verify(program, data, pixels, rounds, True)))


def main() -> int:
    """Print every time and its target; return 1 if a target is missed."""
    missed, total, total_3x3 = 0, 0.0, 0.0
    for config in (*ane_bench.DEFAULT_CONFIGS, CHAIN_3X3):
        for variant in ane_bench.DEFAULT_VARIANTS:
            found, key = seconds(config, variant), (config.name, variant)
            missed += found.one > ONE_TARGETS.get(key, found.one) or found.whole > ALL_TARGETS.get(key, found.whole)
            aim = f" (targets {ONE_TARGETS[key]} s and {ALL_TARGETS[key]} s)" if key in ONE_TARGETS else ""
            print(f"{config.name} {variant}: {found.one:.2f} s in one arithmetic, {found.whole:.2f} s the check{aim}",
                  flush=True)
            if config == CHAIN_3X3:
                total_3x3 += found.whole
            else:
                total += found.whole
    print(f"a default run: {total:.2f} s, target {TOTAL_TARGET} s; {CHAIN_3X3.name}: {total_3x3:.2f} s, target "
          f"{TARGET_3X3} s (Python {sys.version.split()[0]})")
    return int(missed or total > TOTAL_TARGET or total_3x3 > TARGET_3X3)


if __name__ == "__main__":
    sys.exit(main())
