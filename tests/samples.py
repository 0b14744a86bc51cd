"""The outputs that README shows, its chart and the golden files: `python3 tests/samples.py` makes them all anew.

All come from the stand-in, set to the speed of an M4 as it was reported, on a virtual clock, so they are the same on
every machine. tests/test_readme.py compares them with what is there.
"""

import re
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ane_bench  # noqa: E402
from tests import support  # noqa: E402

README = support.ROOT / "README.md"
CHART = support.ROOT / ".github" / "chart.svg"
GOLDEN = support.ROOT / "tests" / "golden"

# The drawn pixel is the same in all configurations of 64x64 pixels.
PIXEL, = ane_bench.chosen_pixels(ane_bench.Config(512, 64, 128), seed=0, count=1)

# 14.8 and 7.8 ms for 512x64x128, 7.5 and 4.0 ms for 512x64x64 (maderix/ANE, README).
M4 = {"CLOCK": "virtual", "COMPUTE": str(PIXEL), "ARITHMETIC": "m4", "SPEED": "fp16:240+18.9,w8a8:240+36.4,w8a16:240+18.9",
      "NOISE": "random:0.004", "SYSCTL": "machdep.cpu.brand_string=Apple M4;hw.model=;kern.osproductversion=26.0;"
                                         "kern.osversion="}
# 24.6 ms for 512x64x128 in both variants, as in notes of the M1 family.
M1 = {**M4, "ARITHMETIC": "m1", "SPEED": "fp16:240+11.2,w8a8:240+11.0", "DEVICE": "aneSubType=h13g,aneArchitectureType=h13g",
      "SYSCTL": M4["SYSCTL"].replace("M4", "M1")}
SLOWER = {**M4, "SPEED": "fp16:240+18.9,w8a8:240+33.1"}
REFUSED = {**M4, "FAULT": "w8a8/compile:no", "REASON": "compile:CompilationFailure"}

TWO = "--config 512x64x16 --config 512x64x32"
# What is measured first, by the name of its record, and how. The first is README's sample.
RECORDS = {"m4.json": ("", M4), "before.json": (TWO, M4), "after.json": (TWO, SLOWER), "m1.json": (TWO, M1)}
# The command behind each golden file, and the machine that it runs on. Only the form of some counts.
GOLDEN_FILES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "run.md": ("show m4.json --format markdown", M4),
    "run.csv": ("show m4.json --format csv", M4),
    "record.json": ("--config 256x64x4 --config 256x64x8 --iters 10 --rounds 5 --format json", M4),
    "sweep.txt": ("--channels 64,128 --spatial 64 --depth 4,8 --variants fp16,w8a16,w8a8", M4),
    "original.txt": ("--original --config 512x64x16 --config 512x64x32", M4),
    "refused.txt": ("--config 512x64x16", REFUSED),
    "machines.txt": ("show before.json m1.json", M4),
    "compare.txt": ("compare before.json after.json", M4),
    "doctor.md": ("doctor --format markdown", M4),
}


def output_of(arguments: str, settings: Mapping[str, str], directory: Path) -> str:
    """Return the standard output of a command in a directory, without the warning that the machine is busy."""
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    standin = {f"STANDIN_{name}": value for name, value in settings.items()}
    done = support.run_command(*shlex.split(arguments), cwd=directory, environment={
        **standin, ane_bench.STANDIN_VARIABLE: str(support.standin_library()), "TMPDIR": str(temporary)})
    if "Traceback" in done.errors or done.code not in (0, 1):
        raise AssertionError(f"{arguments} exited with {done.code}: {done.errors}")
    return re.sub(r"- warning \\?\(busy.*\n", "", done.output)


def measured(directory: Path) -> str:
    """Measure all records in a directory; return the output of the first run."""
    outputs = [output_of(f"{arguments} --save {name}", settings, directory)
               for name, (arguments, settings) in RECORDS.items()]
    return outputs[0]


def drawn(directory: Path) -> str:
    """Return the chart of the first record."""
    output_of("chart m4.json -o chart.svg", M4, directory)
    return (directory / "chart.svg").read_text(encoding="utf-8")


def with_sample(text: str, output: str) -> str:
    """Return README's text with another sample."""
    return re.sub(r"(?<=^```console\n\$ python3 ane_bench\.py\n).*?(?=^```$)", lambda match: output, text, count=1,
                  flags=re.DOTALL | re.MULTILINE)


def form(text: str) -> str:
    """Return a text in which numbers, widths and a compressed record do not count."""
    text = re.sub(r"```ane-bench-record\n.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r" *\{\s*\"code\": \"busy\",[^}]*\},?\n", "", text)
    return re.sub(r"[ -]+", " ", re.sub(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", "#", text))


def main() -> None:
    """Write README's sample, the chart and the golden files."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        README.write_text(with_sample(README.read_text(encoding="utf-8"), measured(directory)), encoding="utf-8")
        CHART.write_text(drawn(directory), encoding="utf-8")
        GOLDEN.mkdir(exist_ok=True)
        for file, (arguments, settings) in GOLDEN_FILES.items():
            (GOLDEN / file).write_text(output_of(arguments, settings, directory), encoding="utf-8")


if __name__ == "__main__":
    main()
