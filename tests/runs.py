"""Made-up runs for the tests of records, reports and comparisons, and the command line within this
process."""

import contextlib
import io
import itertools
import json
import os
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import ane_bench
from ane_bench import Cell, Config, Run, Settings
from tests.support import Finished

ORIGINAL = tuple(map(Config.parse, ("512x64x128", "512x64x64", "256x64x256", "256x64x128",
                                    "384x64x128")))
KERNEL3 = tuple(map(Config.parse, ("256x64x32k3", "512x32x16k3")))
PAIR = ("fp16", "w8a8")
ALL = ("fp16", "w8a16", "w8a8")
# TOPS, about those of an M4.
SPEEDS = {"fp16": 18.6, "w8a16": 18.6, "w8a8": 35.1}
M4 = {"chip": "Apple M4", "model": "Mac16,1", "ane_subtype": "h16g", "macos": "26.4",
      "python": "3.12.1"}
# Ten Macs, of which two are one on two days: chip, model, macOS, TOPS in FP16 and W8A8.
MACS = (("M10", "Mac30,1", "31.0", 40.0, 41.0), ("M1", "MacBookPro17,1", "15.7.3", 10.88, 10.66),
        ("M2 Max", "Mac14,6", "26.4", 16.31, 16.36), ("M3", "Mac15,3", "26.3.1", 18.59, 18.6),
        ("M4", "Mac16,12", "26.4", 18.26, 34.56), ("M4", "Mac16,1", "26.4", 18.6, 35.1),
        ("M4 Pro", "Mac16,11", "26.2", 18.51, 34.9), ("M5", "Mac17,2", "26.4", 18.22, 34.22),
        ("M5 Max", "Mac17,7", "26.4.1", 19.27, 35.61), ("M4", "Mac16,1", "26.4", 18.5, 34.0))
# ResNet-50's four 3x3 stages, each at two depths, as `--config 64x56k3` and so on ask for them.
RESNET = ("64x56x64k3", "64x56x192k3", "128x28x32k3", "128x28x96k3", "256x14x16k3",
          "256x14x48k3", "512x7x16k3", "512x7x48k3")
SETTINGS = Settings()
AS_ORIGINAL = ane_bench.ORIGINAL_SETTINGS
ERROR = "com.apple.appleneuralengine 9: no; com.apple 1: a reason"
VERIFIED = {"pixels": 8, "arithmetic": "away, fp16 stores", "equal": 1.0, "cosine": 0.9999,
            "relative_l2": 1e-3, "slope": 1.0, "max_error": 0.01, "ok": True}


def made_run(configs: Sequence[Union[Config, str]] = ORIGINAL[:1], variants: Sequence[str] = PAIR,
             *, engine: str = "ane", speeds: Optional[Mapping[str, float]] = None,
             settings: Settings = SETTINGS, system: Mapping[str, Any] = M4,
             failed: Collection[tuple[int, str]] = (), wrong: Collection[tuple[int, str]] = (),
             spread: float = 0.002, measured: Optional[int] = None, error: str = ERROR,
             fixed_ms: float = 0.0, rounds: int = 12, each: int = 5) -> Run:
    """Return a run in which variants compute at some TOPS beside a fixed cost, their times growing
    by `spread` from the first round to the last. Cells are named by the place of their
    configuration; `measured` breaks the run off."""
    chains = [Config.parse(config) if isinstance(config, str) else config for config in configs]
    run = Run(engine, settings, chains, variants)
    run.system, run.started = dict(system), "2026-01-02T03:04:05+00:00"
    run.command = ["ane_bench.py", "--save", "run.json"]
    if settings.original:
        rounds, each = 1, 50
    for place, config in enumerate(chains[:measured]):
        cells = []
        paces = {variant: 1e6 * (config.gop / {**SPEEDS, **(speeds or {})}[variant] + fixed_ms)
                 for variant in variants}
        round_s = 1e-9 * sum(paces.values()) * (each + 1)
        for variant, ns in paces.items():
            times = [ns * (1 + spread * number / rounds) for number in range(rounds)]
            cell = Cell(config, variant, settings, compile_ms=12.5, load_ms=1.5, first_ms=20.0,
                        compiled_before=False, samples_ns=[[time] * each for time in times],
                        rounds_s=[number * round_s for number in range(rounds)],
                        form="original/1.3" if settings.original else "standard/1.3",
                        strides={"row": 128, "plane": 8192, "batch": 4194304})
            if settings.verifies:
                right = (place, variant) not in wrong
                cell.note(verified={**VERIFIED, "pixels": settings.verify, "ok": right})
            if (place, variant) in wrong:
                cell.fail("verify", error)
            if (place, variant) in failed:
                cell = Cell(config, variant, settings)
                cell.fail("compile", error)
            cells.append(cell)
        run.add(cells)
    run.broken_off = measured is not None and measured < len(chains)
    return run


def scattered(run: Run, share: float = 0.002, seed: int = 0) -> Run:
    """Return the run after its rounds and its evaluates scattered by a share of their times."""
    draw = random.Random(seed)
    for cell in run.cells:
        cell.samples_ns = [[slow * draw.lognormvariate(0, share) * sample for sample in samples]
                           for samples in cell.samples_ns
                           for slow in [draw.lognormvariate(0, share)]]
    return run


def of_macs(configs: Sequence[Union[Config, str]] = ORIGINAL, count: int = 10,
            **options: Any) -> list[Run]:
    """Return a run of each of the first Macs, on one day after the other."""
    made = []
    for place, (chip, model, macos, *rates) in enumerate(MACS[:count]):
        system = {**M4, "chip": f"Apple {chip}", "model": model, "macos": macos}
        speeds = dict(zip(PAIR, rates))
        made.append(scattered(made_run(configs, system=system, speeds=speeds, **options),
                              seed=place))
        made[-1].started = f"2026-03-{place + 1:02d}T03:04:05+00:00"
    return made


def random_run(draw: random.Random) -> Run:
    """Return a run as it may come out: of any settings, whole or broken off, with cells that failed
    in any stage, were condensed or measured apart."""
    settings = Settings(
        seconds=draw.choice((0, 1.0, 60)), qos=draw.choice((0, 21, 33)),
        seed=draw.randrange(1 << 53), verify=draw.choice((0, 1, 8)),
        form=draw.choice(("auto", *ane_bench.FORMS)), timeout=draw.choice((0.5, 120.0, 3600)))
    settings = AS_ORIGINAL if draw.random() < 0.1 else settings
    pool = [*itertools.starmap(Config, itertools.product((4, 64, 512), (7, 32), (1, 2, 16))),
            *KERNEL3, *ORIGINAL]
    configs = draw.sample(pool, draw.randrange(1, 7))
    variants = draw.sample(ALL, draw.randrange(1, 4))
    cells = list(itertools.product(range(len(configs)), variants))
    run = made_run(
        configs, variants, engine=draw.choice(("ane", "reference", "stand-in")), settings=settings,
        speeds={variant: 10 ** draw.uniform(-3, 2) for variant in variants},
        failed=draw.sample(cells, draw.randrange(len(cells) + 1)) if draw.random() < 0.5 else (),
        wrong=draw.sample(cells, 1) if draw.random() < 0.3 else (),
        spread=draw.choice((0, 0.01, 3)), fixed_ms=draw.choice((0, 0.1)),
        rounds=draw.choice((1, 4, 12, 13)), each=draw.choice((1, 5)),
        measured=draw.randrange(1, len(configs) + 1) if draw.random() < 0.3 else None)
    for cell in run.cells:
        cell.samples_ns = [[sample * draw.lognormvariate(0, 0.05) for sample in samples]
                           for samples in cell.samples_ns]
        if draw.random() < 0.2:
            cell.note(refused=["standard/1.3: no"], compiled_before=True, apart=True)
            cell.strides = {}
        if draw.random() < 0.1 and cell.samples_ns and not settings.original:
            cell.note(samples_ns=[samples[:1] for samples in cell.samples_ns], condensed=True)
    for name in draw.sample(list(run.system), draw.randrange(len(run.system))):
        del run.system[name]
    if draw.random() < 0.5:
        run.warn("noise", f"{run.cells[0].name}: times changed")
    run.broken_off |= draw.random() < 0.1
    return run


def written(path: Path, record: Any) -> str:
    """Write a record, or what is to be none, to a file; return the file's name."""
    record = record.to_dict() if isinstance(record, Run) else record
    path.write_text(record if isinstance(record, str) else json.dumps(record), encoding="utf-8")
    return str(path)


def command(*arguments: str) -> Finished:
    """Run the command line within this process."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = ane_bench.main(arguments)
    return Finished(code, output.getvalue(), errors.getvalue())


def golden(name: str, text: str) -> tuple[str, str]:
    """Return a text and that of the golden file to compare it with; ANE_BENCH_GOLDEN=write writes
    the file anew."""
    path = Path(__file__).parent / "golden" / name
    if os.environ.get("ANE_BENCH_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    return text, path.read_text(encoding="utf-8")
