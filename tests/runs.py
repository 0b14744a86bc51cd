"""Made-up runs for the tests of records, reports and comparisons, and the command line within this process."""

import base64
import contextlib
import io
import itertools
import json
import os
import random
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import ane_bench
from ane_bench import Cell, Config, Run, Settings
from tests.support import Finished

ORIGINAL = tuple(map(Config.parse, ("512x64x128", "512x64x64", "256x64x256", "256x64x128", "384x64x128")))
KERNEL3 = tuple(map(Config.parse, ("256x64x32k3", "512x32x16k3")))
PAIR = ("fp16", "w8a8")
ALL = ("fp16", "w8a16", "w8a8")
# TOPS, about those of an M4.
SPEEDS = {"fp16": 18.6, "w8a16": 18.6, "w8a8": 35.1}
M4 = {"chip": "Apple M4", "ane_subtype": "h16g", "macos": "26.4", "python": "3.12.1"}
SETTINGS = Settings(iters=10, rounds=5)
AS_ORIGINAL = Settings(rounds=1, warmup=10, qos=0, input="zeros", verify=0, blob="original", dialect="1.3",
                       original=True)
ERROR = "com.apple.appleneuralengine 9: no; com.apple 1: a reason"


def made_run(configs: Sequence[Config] = ORIGINAL[:1], variants: Sequence[str] = PAIR, *, engine: str = "ane",
             speeds: Optional[Mapping[str, float]] = None, settings: Settings = SETTINGS,
             system: Mapping[str, Any] = M4, failed: Collection[tuple[int, str]] = (),
             wrong: Collection[tuple[int, str]] = (), spread: float = 0.002, measured: Optional[int] = None,
             error: str = ERROR) -> Run:
    """Return a run in which variants compute at some TOPS, their times growing by `spread` from the first round to the
    last. Cells are named by the place of their configuration; `measured` breaks the run off."""
    run = Run(engine, settings, configs, variants)
    run.system, run.started, run.tick_ns = dict(system), "2026-01-02T03:04:05+00:00", 125 / 3
    run.command = ["ane_bench.py", "--save", "run.json"]
    each, rounds = settings.iters // settings.rounds, settings.rounds
    for place, config in enumerate(configs[:measured]):
        cells = []
        for turn, variant in enumerate(variants):
            ns = 1e6 * config.gop / {**SPEEDS, **(speeds or {})}[variant]
            cell = Cell(config, variant, settings, run.tick_ns, compile_ms=12.5, load_ms=1.5, dialect="1.3",
                        blob="original" if settings.original else "standard",
                        samples_ns=[[ns * (1 + spread * number / rounds)] * each for number in range(rounds)],
                        turns=[(turn + number) % len(variants) for number in range(rounds)])
            if settings.verify and settings.input != "zeros":
                right = (place, variant) not in wrong
                cell.note(verified={"pixels": 2, "ok": right, "cosine": 0.9999, "relative_l2": 1e-3})
            if (place, variant) in wrong:
                cell.fail("verify", error)
            if (place, variant) in failed:
                cell = Cell(config, variant, settings, run.tick_ns)
                cell.fail("compile", error)
            cells.append(cell)
        run.add(cells)
    return run


def sweep(channels: Sequence[int] = (256,), spatial: Sequence[int] = (64,), depth: Sequence[int] = (64,),
          kernel: Sequence[int] = (1,)) -> list[Config]:
    """Return a cross product, as the command line makes it."""
    return [Config(*shape) for shape in itertools.product(channels, spatial, depth, kernel)]


def random_run(draw: random.Random) -> Run:
    """Return a run as it may come out: of any settings, whole or broken off, with cells that failed in any stage."""
    rounds, each = draw.choice(((1, 1), (1, 5), (4, 2), (5, 1), (5, 3), (7, 2), (10, 1)))
    settings = Settings(
        iters=rounds * each, rounds=rounds, warmup=draw.choice((None, 0, 7)), qos=draw.choice((0, 21, 33)),
        seed=draw.randrange(1 << 53), input=draw.choice(("random", "zeros")), verify=draw.choice((0, 1, 4)),
        blob=draw.choice(("auto", "standard", "original")), dialect=draw.choice(("auto", "1.3", "1.0")),
        original=draw.random() < 0.1, timeout=draw.choice((0.5, 120.0, 3600)))
    pool = [*sweep((4, 64, 512), (8, 32), (1, 2, 16)), *KERNEL3, *ORIGINAL]
    configs = draw.choice((draw.sample(pool, draw.randrange(1, 7)), sweep((64, 128), (8,), (2, 4)),
                           sweep(depth=(1, 2, 4))))
    variants = draw.sample(ALL, draw.randrange(1, 4))
    cells = list(itertools.product(range(len(configs)), variants))
    run = made_run(
        configs, variants, engine=draw.choice(("ane", "reference", "stand-in")), settings=settings,
        speeds={variant: 10 ** draw.uniform(-3, 2) for variant in variants},
        failed=draw.sample(cells, draw.randrange(len(cells) + 1)) if draw.random() < 0.5 else (),
        wrong=draw.sample(cells, 1) if draw.random() < 0.3 else (), spread=draw.choice((0, 0.01, 3)),
        measured=draw.randrange(1, len(configs)) if len(configs) > 1 and draw.random() < 0.3 else None)
    run.condensed = each == 1 and draw.random() < 0.5
    for cell in run.cells:
        cell.samples_ns = [[sample * draw.lognormvariate(0, 0.05) for sample in samples] for samples in cell.samples_ns]
        if draw.random() < 0.2:
            cell.note(turns=[], refused=["standard/1.3: no"], compiled_before=True, measured_again=True)
    for name in draw.sample(list(run.system), draw.randrange(len(run.system))):
        del run.system[name]
    if draw.random() < 0.5:
        run.warn("drift", f"{run.cells[0].name}: times changed")
        run.warn("first", f"{run.cells[0].name}: the first took long")
    return run


def as_before(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as the first version wrote it: without what was asked, and more."""
    old: dict[str, Any] = json.loads(json.dumps(record))
    for name in ("asked", "complete", "notes", "condensed"):
        old.pop(name, None)
    for name in ("data", "tick_ns"):
        del old["protocol"][name]
    old["protocol"]["warmup"] = 10
    for result in old["results"]:
        for cell in result["variants"].values():
            cell.pop("turns", None)
    return old


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


def block_of(data: bytes) -> str:
    """Return a block such as markdown reports end with, around any bytes."""
    packed = base64.b64encode(zlib.compress(data)).decode()
    return "```ane-bench-record\n" + re.sub("(.{76})", "\\1\n", packed) + "\n```\n"


def varying_facts(text: str) -> str:
    """Return a report without what differs from run to run: version, time, load, times by another clock."""
    text = re.sub(r"ane(\\?)_bench [0-9]+\.[0-9]+\.[0-9]+", r"ane\1_bench VERSION", text)
    text = re.sub(r'("version": "|,)[0-9]+\.[0-9]+\.[0-9]+(?=[",])', r"\1VERSION", text)
    text = re.sub(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\+00:00", "STARTED", text)
    text = re.sub(r'("(?:python|cpus|load_average|compile_ms|load_ms)": )[^,\n]+', r"\1…", text)
    text = re.sub(r'^- warning \(busy.*\n|^  \{\n   "code": "busy",\n.*\n  \},?\n', "", text, flags=re.MULTILINE)
    return text.replace('"warnings": [\n ]', '"warnings": []')


def golden(name: str, text: str) -> tuple[str, str]:
    """Return a text and that of the golden file to compare it with; ANE_BENCH_GOLDEN=write writes the file anew."""
    path = Path(__file__).parent / "golden" / name
    if os.environ.get("ANE_BENCH_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    return text, path.read_text(encoding="utf-8")
