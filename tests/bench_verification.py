"""How long checking one pixel of each default program takes: `python3 tests/bench_verification.py`.

The targets are the design's: 0.5 s for 512x64x128 in INT8, 1 s in FP16, 5 s for a default run in all.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ane_bench  # noqa: E402

TARGETS = {("512x64x128", "fp16"): 1.0, ("512x64x128", "w8a8"): 0.5}
TOTAL_TARGET = 5.0


def least_seconds(work: Callable[[], object]) -> float:
    """The least of three processor times that something takes."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def seconds(config: ane_bench.Config, variant: str) -> tuple[float, float]:
    """What the reference takes for one pixel, reading text and file included; and all of verifying it, which also looks for the
    arithmetic that the output equals."""
    protocol = ane_bench.Protocol()
    data = ane_bench.random_input(config, protocol.seed)
    inputs = [ane_bench.pixel_of(data, config, index) for index in ane_bench.chosen_pixels(config, protocol)]
    trial = ane_bench.Trial(variant)
    program = trial.program = ane_bench.build_program(config, variant)
    trial.outputs = inputs
    return (least_seconds(lambda: ane_bench.Reference(program.mil, program.blob).compute(inputs)),
            least_seconds(lambda: ane_bench.verify(trial, inputs)))


def main() -> int:
    """Prints every time and its target; returns 1 where one is missed."""
    total, missed = 0.0, 0
    for config in ane_bench.DEFAULT_CONFIGS:
        for variant in ane_bench.DEFAULT_VARIANTS:
            one, whole = seconds(config, variant)
            total += whole
            target = TARGETS.get((config.name, variant))
            missed += target is not None and one > target
            aim = f" (target {target} s)" if target else ""
            print(f"{config.name} {variant}: {one:.2f} s{aim}, whole verification {whole:.2f} s")
    print(f"a default run: {total:.2f} s, target {TOTAL_TARGET} s (Python {sys.version.split()[0]})")
    return int(missed or total > TOTAL_TARGET)


if __name__ == "__main__":
    sys.exit(main())
