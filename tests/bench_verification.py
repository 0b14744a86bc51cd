"""How much processor time the check takes: `python3 tests/bench_verification.py`.

Prints each goal of the design and what was found: all checks of a default run, eight pixels in two
rounds, on a chip in an M4's arithmetic and on an unknown one; and ResNet-50's four stages of 3x3.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ane_bench  # noqa: E402

DEFAULT = ane_bench.DEFAULTS["ane"]
RESNET = [ane_bench.Config(*shape, 16, 3) for shape in ((64, 56), (128, 28), (256, 14), (512, 7))]
PIXELS = 8
# Goal, what is checked, configurations, whether in an M4's arithmetic, seconds at most.
GOALS = (("a default run, M4", DEFAULT, True, 5.0),
         ("a default run, unknown chip", DEFAULT, False, 10.0),
         ("ResNet-50's stages of 3x3", RESNET, False, 4.0))


def seconds(config: ane_bench.Config, m4: bool) -> float:
    """Return the processor time of the checks of FP16 and W8A8, which share a reference."""
    ane_bench.build_program(config, "fp16")  # the worker has made weights and input before
    pixels = ane_bench.chosen_pixels(config, 0, PIXELS)
    other = ane_bench.Reference(config, 0)
    arithmetic = ane_bench.ARITHMETICS[0 if m4 else 3]
    rounds = {}
    for name in ("fp16", "w8a8"):
        variant = ane_bench.VARIANTS[name]
        output = [list(vector) for vector in other.compute(pixels, arithmetic, variant.quantizes)]
        if not m4 or not variant.quantizes:  # no engine meets FP16 to the last bit
            output[0][0] += 2.0 ** -10
        rounds[name] = [output, output]
    reference = ane_bench.Reference(config, 0)
    began = time.process_time()
    for name, outputs in rounds.items():
        ane_bench.verify(reference, ane_bench.VARIANTS[name], pixels, outputs, False)
    return time.process_time() - began


def main() -> int:
    """Print every time and its goal; return 1 if a goal is missed."""
    missed = 0
    for what, configs, m4, goal in GOALS:
        times = [min(seconds(config, m4) for _ in range(2)) for config in configs]
        each = ", ".join(f"{one.name} {taken:.2f}" for one, taken in zip(configs, times))
        print(f"{what}: {sum(times):.2f} s, goal {goal} s ({each})", flush=True)
        missed += sum(times) > goal
    print(f"Python {sys.version.split()[0]}, {PIXELS} pixels, two rounds, FP16 and W8A8")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
