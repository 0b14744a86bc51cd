"""Section 8: rounds, statistics, and what is done with what was measured, on an engine with a clock of its own."""

import contextlib
import gc
import random
import struct
import unittest
from collections.abc import Iterator
from typing import Any, Callable, Optional

import ane_bench
from ane_bench import Cell, Config, Engine, Executable, Job, Program, Protocol, Session, StageError, UsageError

CONFIG = Config(8, 2, 2)


class FakeEngine(Engine):
    """Evaluates take what `latency` says, in ticks of 100 ns, and tell what happens in which order."""

    def __init__(self, latency: Callable[[str, int], int], refuse: str = "", fail_from: Optional[int] = None) -> None:
        self.ticks = 0
        self.latency, self.refuse, self.fail_from = latency, refuse, fail_from
        self.log: list[str] = []
        self.loaded: list[str] = []
        self.now = self._now

    def _now(self) -> int:
        return self.ticks

    def nanoseconds(self, ticks: int) -> float:
        return ticks * 100

    @contextlib.contextmanager
    def pool(self) -> Iterator[None]:
        self.log.append("pool")
        yield

    def load(self, program: Program, qos: int, session: Session, owner: contextlib.ExitStack) -> Executable:
        attempt = f"{program.variant.name}:{program.layout}/{program.dialect}"
        self.loaded.append(attempt)
        if any(word and word in attempt for word in self.refuse.split()):
            raise StageError("compile", f"refused {attempt}")
        owner.callback(self.log.append, f"unload {program.variant.name}")
        return FakeExecutable(self, program)


class FakeExecutable(Executable):
    """Computes nothing; counts its evaluates."""

    def __init__(self, engine: FakeEngine, program: Program) -> None:
        self.facts = {"compile_ms": 1.5}
        self.engine, self.program, self.count = engine, program, 0

    def write_input(self, data: bytes) -> None:
        self.engine.log.append(f"input {self.program.variant.name}{' zeros' if not any(data) else ''}")

    def clear_output(self) -> None:
        self.engine.log.append(f"clear {self.program.variant.name[:3]}")

    def evaluate(self) -> bool:
        self.engine.log.append(f"{self.program.variant.name[:3]}{'' if not gc.isenabled() else ' collector'}")
        self.engine.ticks += self.engine.latency(self.program.variant.name, self.engine.ticks)
        self.count += 1
        return self.engine.fail_from is None or self.count < self.engine.fail_from

    def failure(self) -> str:
        return "no NSError was given"

    def read_output(self) -> bytes:
        data = ane_bench.random_input(self.program.config, 0)
        pixels = [ane_bench.pixel_of(data, self.program.config, index) for index in range(self.program.config.pixels)]
        outputs, = ane_bench.Reference(self.program.mil, self.program.blob).compute(pixels)
        channels = [channel for values in zip(*outputs) for channel in values]
        return struct.pack(f"<{len(channels)}e", *channels)


class Stages(Session):
    """Remembers the stages."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str, float]] = []

    def stage(self, name: str, variant: str, limit: float = 0, **details: Any) -> None:
        self.stages.append((name, variant, limit))


def measured(engine: FakeEngine, variants: tuple[str, ...] = ("fp16", "w8a8"), session: Optional[Session] = None,
             preferred: tuple[str, ...] = (), **protocol: Any) -> dict[str, Cell]:
    """The cells of one configuration."""
    cells: dict[str, Cell] = {}
    job = Job("ane", None, CONFIG, variants, Protocol(**protocol).check(), dict.fromkeys(variants, preferred))
    ane_bench.measure(engine, job, session or Stages(), lambda cell: cells.update({cell.variant: cell}))
    return cells


def steady(variant: str, ticks: int) -> int:
    """2 ms and 1 ms."""
    return 20000 if variant == "fp16" else 10000


class RoundsTest(unittest.TestCase):
    """In which order what is run."""

    def test_rounds_alternate_and_each_begins_with_an_uncounted_evaluate(self) -> None:
        engine = FakeEngine(steady)
        cells = measured(engine, iters=6, rounds=3, warmup=2)
        warm = ["pool", "fp1", "pool", "fp1", "pool", "w8a", "pool", "w8a"]
        first, second = ["pool", "fp1", "fp1", "fp1"], ["pool", "w8a", "w8a", "w8a"]
        last = ["clear fp1", *first, "clear w8a", *second]  # what the last round leaves is what is verified
        self.assertEqual(engine.log, ["input fp16", "clear fp1", "input w8a8", "clear w8a", *warm, *first, *second, *second, *first,
                                      *last, "unload w8a8", "unload fp16"])
        self.assertEqual([list(map(list, cell.samples_ns)) for cell in cells.values()], [[[2e6, 2e6]] * 3, [[1e6, 1e6]] * 3])
        self.assertEqual([(cell.status, cell.compile_ms, cell.first_ms) for cell in cells.values()],
                         [("ok", 1.5, 2.0), ("ok", 1.5, 1.0)])

    def test_the_original_is_sequential(self) -> None:
        engine = FakeEngine(steady)
        cells: dict[str, Cell] = {}
        job = Job("ane", None, CONFIG, ["fp16", "w8a8"], ane_bench.ORIGINAL_PROTOCOL)
        ane_bench.measure(engine, job, Stages(), lambda cell: cells.update({cell.variant: cell}))
        calls = [entry for entry in engine.log if entry != "pool"]
        self.assertEqual(calls, ["fp1"] * 60 + ["unload fp16"] + ["w8a"] * 60 + ["unload w8a8"])
        self.assertEqual([len(cell.samples) for cell in cells.values()], [50, 50])
        self.assertEqual(cells["fp16"].verified, None)

    def test_the_collector_is_off_and_restored(self) -> None:
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            try:
                engine = FakeEngine(steady)
                measured(engine, iters=2, rounds=1, warmup=1)
                self.assertEqual(gc.isenabled(), enabled)
                self.assertFalse([entry for entry in engine.log if "collector" in entry])
            finally:
                gc.enable()

    def test_limits_grow_with_the_evaluates(self) -> None:
        session = Stages()
        measured(FakeEngine(steady), session=session, iters=2000, rounds=2, warmup=5)
        rounds = [limit for name, _, limit in session.stages if name == "evaluate"]
        self.assertEqual(rounds, [10 * 1001 * 0.003] * 2)

    def test_zeros_are_written_and_not_verified(self) -> None:
        engine = FakeEngine(steady)
        cells = measured(engine, iters=2, rounds=1, input="zeros")
        self.assertIn("input fp16 zeros", engine.log)
        self.assertEqual([cell.verified for cell in cells.values()], [None, None])


class FailureTest(unittest.TestCase):
    """A failed evaluate is a failed cell, whenever it fails."""

    def test_first_warm_up_timed_last(self) -> None:
        for fail_from, stage in ((1, "warm-up"), (4, "warm-up"), (5, "evaluate"), (8, "evaluate"), (12, "evaluate")):
            with self.subTest(fail_from):
                cells = measured(FakeEngine(steady, fail_from=fail_from), iters=6, rounds=2, warmup=4)
                for cell in cells.values():
                    self.assertEqual((cell.status, cell.stage, cell.samples), ("failed", stage, []))
                    self.assertIn("said NO: no NSError", cell.error or "")
        cells = measured(FakeEngine(steady, fail_from=13), iters=6, rounds=2, warmup=4)
        self.assertEqual({cell.status for cell in cells.values()}, {"ok"})

    def test_one_refused_variant_does_not_cost_the_other(self) -> None:
        cells = measured(FakeEngine(steady, refuse="w8a8"), iters=2, rounds=1)
        self.assertEqual((cells["fp16"].status, len(cells["fp16"].samples)), ("ok", 2))
        self.assertEqual((cells["w8a8"].status, cells["w8a8"].stage), ("failed", "compile"))
        for attempt in ("standard/1.3", "standard/1.0", "original/1.3"):
            self.assertIn(f"{attempt}: refused", cells["w8a8"].error or "")


class AttemptsTest(unittest.TestCase):
    """What is tried when a program is refused."""

    def test_in_order(self) -> None:
        for refuse, worked in (("", ("standard", "1.3")), ("/1.3", ("standard", "1.0")), ("standard", ("original", "1.3"))):
            engine = FakeEngine(steady, refuse=refuse)
            cells = measured(engine, iters=1, rounds=1)
            self.assertEqual({(cell.blob, cell.dialect) for cell in cells.values()}, {worked})

    def test_what_worked_is_tried_first(self) -> None:
        engine = FakeEngine(steady, refuse="standard")
        measured(engine, iters=1, rounds=1, preferred=("original", "1.3"))
        self.assertEqual(engine.loaded, ["fp16:original/1.3", "w8a8:original/1.3"])

    def test_fixed_ones(self) -> None:
        for blob, dialect, expected in (("standard", "auto", [("standard", "1.3"), ("standard", "1.0")]),
                                        ("original", "auto", [("original", "1.3"), ("original", "1.0")]),
                                        ("auto", "1.0", [("standard", "1.0"), ("original", "1.0")]),
                                        ("auto", "auto", list(ane_bench.ATTEMPTS)),
                                        ("auto", "1.3", [("standard", "1.3"), ("original", "1.3")]),
                                        ("original", "1.0", [("original", "1.0")])):
            self.assertEqual(ane_bench.attempts(Protocol(blob=blob, dialect=dialect)), expected)


class StatisticsTest(unittest.TestCase):
    """Figures that can be checked by hand, and the interval's coverage."""

    def test_times(self) -> None:
        cell = Cell("fp16", samples_ns=[[1e6, 3e6], [2e6, 10e6]])
        figures = ane_bench.times_ms(cell, 0)
        self.assertEqual({name: round(value, 9) for name, value in figures.items()},
                         {"median": 2.5, "mean": 4.0, "min": 1.0, "p95": 8.95, "mad": 1.0})

    def test_no_interval_below_five_rounds(self) -> None:
        for rounds in (1, 4, 5):
            cell = Cell("fp16", samples_ns=[[1e6]] * rounds)
            self.assertEqual("ci95" in ane_bench.times_ms(cell, 0), rounds == 5)
            self.assertEqual("ci95" in ane_bench.ratio(cell, cell, Protocol()), rounds == 5)

    def test_the_ratio_is_taken_round_by_round(self) -> None:
        slow, fast = Cell("fp16", samples_ns=[[2e6], [4e6], [8e6]]), Cell("w8a8", samples_ns=[[1e6], [2e6], [4e6]])
        self.assertEqual(ane_bench.ratio(slow, fast, Protocol())["value"], 2.0)
        self.assertEqual(ane_bench.ratio(slow, fast, ane_bench.ORIGINAL_PROTOCOL)["value"], 2.0)

    def test_the_interval_is_seeded(self) -> None:
        rounds = [[float(value), value + 0.5] for value in range(10)]
        self.assertEqual(ane_bench.bootstrap(rounds, 1), ane_bench.bootstrap(rounds, 1))
        self.assertNotEqual(ane_bench.bootstrap(rounds, 1), ane_bench.bootstrap(rounds, 2))

    def test_coverage(self) -> None:
        draw = random.Random(11)
        covered = {"median": 0, "ratio": 0}
        for run in range(200):
            samples: dict[str, list[list[float]]] = {}
            for variant, truth in (("fp16", 2e6), ("w8a8", 1e6)):
                samples[variant] = []
                for _ in range(10):
                    level = truth * (1 + 0.01 * draw.gauss(0, 1))
                    samples[variant].append([level * (1 + 0.01 * draw.gauss(0, 1)) for _ in range(5)])
            cells = [Cell(variant, samples_ns=rounds) for variant, rounds in samples.items()]
            low, high = ane_bench.times_ms(cells[0], run)["ci95"]
            covered["median"] += low <= 2 <= high
            low, high = ane_bench.ratio(cells[0], cells[1], Protocol(seed=run))["ci95"]
            covered["ratio"] += low <= 2 <= high
        for name, count in covered.items():
            with self.subTest(name):
                self.assertTrue(180 <= count <= 198, count)


class ProtocolTest(unittest.TestCase):
    """What cannot be asked."""

    def test_refused(self) -> None:
        for given in ({"iters": 0}, {"rounds": 0}, {"iters": 7}, {"warmup": -1}, {"seed": -1}, {"qos": 1 << 32}, {"input": "ones"},
                      {"blob": "new"}, {"dialect": "1.2"}, {"timeout": 0}, {"verify": -1}, {"iters": 10.0}):
            with self.subTest(given), self.assertRaises(UsageError):
                Protocol(**given).check()
