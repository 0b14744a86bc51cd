"""Section 8: settings, warm-up, rounds and the clock, on an engine whose time passes in evaluates alone."""

import contextlib
import gc
import math
import unittest
import unittest.mock
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

import ane_bench
from ane_bench import Cell, Config, Settings, StageError, UsageError

CONFIG = Config(8, 2, 2)
BOTH = ("fp16", "w8a8")
Latency = Callable[[str, int], float]


def steady(variant: str, count: int) -> float:
    """Return 2 ms for FP16, 1 ms for W8A8, whatever the count of evaluates."""
    return 2e6 if variant == "fp16" else 1e6


class FakeEngine:
    """An engine whose evaluates take the ns that `latency` returns, by variant and the count of evaluates before.

    Its clock moves in steps of `tick_ns`. It tells the order of calls in `log`. Programs whose variant, layout and
    dialect hold a word of `refuse` are refused; evaluates of a variant fail from the `fail_from`-th on.
    """

    def __init__(self, latency: Latency = steady, tick_ns: float = 1.0, refuse: str = "",
                 fail_from: float = math.inf) -> None:
        self.latency, self.tick_ns, self.refuse, self.fail_from = latency, tick_ns, refuse.split(), fail_from
        self.ns, self.count = 0.0, 0
        self.log: list[str] = []
        self.loaded: list[str] = []
        self.now: Callable[[], int] = self.reading

    def reading(self) -> int:
        """Return the clock's reading."""
        return int(self.ns // self.tick_ns)

    @contextlib.contextmanager
    def pool(self) -> Iterator[None]:
        """Log that a pool was opened."""
        self.log.append("pool")
        yield

    def load(self, program: ane_bench.Program, qos: int, events: Any, owner: contextlib.ExitStack) -> "FakeExecutable":
        """Return the program, or refuse it."""
        form = f"{program.variant.name}:{program.layout}/{program.dialect}"
        self.loaded.append(form)
        if any(word in form for word in self.refuse):
            raise StageError("compile", f"refused {form}")
        owner.callback(self.log.append, f"unload {program.variant.name}")
        return FakeExecutable(self, program)


class FakeExecutable:
    """A program that is right at once, and takes its time."""

    def __init__(self, engine: FakeEngine, program: ane_bench.Program) -> None:
        self.facts = {"compile_ms": 1.5}
        self.engine, self.program, self.count, self.data = engine, program, 0, b""
        self.name = program.variant.name

    def write_input(self, data: bytes) -> None:
        """Keep the input."""
        self.data = data
        self.engine.log.append(f"input {self.name}{'' if any(data) else ' zeros'}")

    def evaluate(self) -> bool:
        """Let time pass."""
        self.engine.log.append(self.name)
        self.engine.ns += self.engine.latency(self.name, self.engine.count)
        self.engine.count += 1
        self.count += 1
        return self.count < self.engine.fail_from

    def failure(self) -> str:
        """Return the reason of a failed evaluate."""
        return "told to fail"

    def poison(self, pixels: Sequence[int]) -> None:
        """Log it."""
        self.engine.log.append(f"poison {self.name}")

    def read_pixels(self, pixels: Sequence[int]) -> Any:
        """Return what the program computes."""
        self.engine.log.append(f"read {self.name}")
        reference = ane_bench.Reference(self.program.mil, self.program.blob)
        return reference.compute(self.data, pixels, [ane_bench.Arithmetic()])[0]


class FakeLink:
    """What a worker tells its parent."""

    def __init__(self) -> None:
        self.current = "start"
        self.stages: list[tuple[str, str, float]] = []
        self.refusals = 0
        self.cells: dict[str, dict[str, Any]] = {}

    def stage(self, name: str, variant: str, limit: float = 0) -> None:
        """Note a stage."""
        self.current = name
        self.stages.append((name, variant, limit))

    def round(self, variants: str, limit: float, number: int, of: int) -> None:
        """Note a round as a stage."""
        self.stage("evaluate", variants, limit)

    def turn(self, variant: str) -> None:
        """Ignore the variant at work."""

    def refused(self) -> None:
        """Note that a compile was refused."""
        self.refusals += 1

    def rest(self, variant: str) -> None:
        """Ignore that a compile follows."""

    def directory(self, path: str) -> None:
        """Ignore a directory."""

    def warn(self, code: str, message: str) -> None:
        """Ignore a warning."""

    def send(self, kind: str, **content: Any) -> None:
        """Keep the last facts of each cell."""
        self.cells[content["variant"]] = content["cell"]


def measured(engine: FakeEngine, variants: Sequence[str] = BOTH, *, link: Optional[FakeLink] = None,
             forms: Sequence[tuple[str, str]] = (), **settings: Any) -> list[Cell]:
    """Return the cells of one configuration; the first is the baseline."""
    link = link or FakeLink()
    checked = Settings(**settings).check() if settings else ane_bench.ORIGINAL_SETTINGS
    every = dict.fromkeys(variants, forms or ane_bench.attempts(checked))
    job = ane_bench.Job("ane", CONFIG, variants, checked, every)
    ane_bench.measure(engine, job, True, link)  # type: ignore[arg-type]
    run = ane_bench.Run("ane", checked, [CONFIG], variants)
    run.tick_ns = ane_bench.observed_tick_ns(engine) if engine.tick_ns > 1 else 0
    run.add([ane_bench.read_cell(run, CONFIG, variant, link.cells[variant]) for variant in variants])
    return run.cells


class RoundsTest(unittest.TestCase):
    """What runs in which order."""

    def test_rounds_alternate_and_each_begins_with_an_uncounted_evaluate(self) -> None:
        engine = FakeEngine()
        fp16, w8a8 = measured(engine, iters=6, rounds=3, warmup=2)
        expected = ["input fp16", "input w8a8", *["pool", "fp16", "pool", "w8a8"] * 2]
        poisoned = ane_bench.poisoned_rounds(Settings(iters=6, rounds=3))
        for number, order in enumerate((BOTH, BOTH[::-1], BOTH)):
            for name in order:
                poison, read = ([f"{verb} {name}"] * (number in poisoned) for verb in ("poison", "read"))
                expected += ["pool", name, *poison, name, name, *read]
        self.assertEqual(engine.log, [*expected, "unload w8a8", "unload fp16"])
        self.assertEqual((fp16.samples_ns, w8a8.samples_ns), ([[2e6] * 2] * 3, [[1e6] * 2] * 3))
        self.assertEqual((fp16.turns, w8a8.turns), ([0, 1, 0], [1, 0, 1]))
        self.assertEqual([(cell.status, cell.check, cell.compile_ms, cell.first_ms) for cell in (fp16, w8a8)],
                         [("ok", "ok", 1.5, 2.0), ("ok", "ok", 1.5, 1.0)])

    def test_two_rounds_are_verified_and_the_seed_draws_the_first(self) -> None:
        drawn = {ane_bench.poisoned_rounds(Settings(seed=seed))[0] for seed in range(100)}
        self.assertEqual(drawn, set(range(9)))
        self.assertEqual({ane_bench.poisoned_rounds(Settings(seed=seed))[1] for seed in range(100)}, {9})
        self.assertEqual(ane_bench.poisoned_rounds(Settings(rounds=1)), [0])

    def test_the_original_is_sequential(self) -> None:
        engine = FakeEngine()
        fp16, w8a8 = measured(engine)
        calls = [entry for entry in engine.log if entry != "pool"]
        self.assertEqual(calls, [*["fp16"] * 60, "unload fp16", *["w8a8"] * 60, "unload w8a8"])
        self.assertEqual([len(cell.samples) for cell in (fp16, w8a8)], [50, 50])
        self.assertEqual((fp16.check, w8a8.check), ("", ""))

    def test_within_rounds_no_stage_is_announced(self) -> None:
        link = FakeLink()
        measured(FakeEngine(), link=link, iters=2000, rounds=2, warmup=5)
        names = [name for name, _, _ in link.stages]
        self.assertEqual(names[names.index("evaluate"):], ["evaluate", "evaluate", "verify", "verify"])
        limits = [limit for name, _, limit in link.stages if name == "evaluate"]
        self.assertEqual([round(limit, 6) for limit in limits], [10 * 1001 * 0.003] * 2)

    def test_the_collector_is_off(self) -> None:
        seen: list[bool] = []
        with unittest.mock.patch.object(ane_bench, "measure", lambda *_: seen.append(gc.isenabled())):
            try:
                ane_bench.measure_task(FakeLinkOfWorker(), *ane_bench.Job(  # type: ignore[arg-type]
                    "reference", CONFIG, BOTH, Settings(), {}))
            finally:
                gc.enable()
        self.assertEqual(seen, [False])

    def test_zeros_are_written_and_not_verified(self) -> None:
        engine = FakeEngine()
        cells = measured(engine, iters=2, rounds=1, input="zeros")
        self.assertIn("input fp16 zeros", engine.log)
        self.assertEqual([cell.check for cell in cells], ["", ""])


class FakeLinkOfWorker(FakeLink):
    """One that takes every message."""

    rest_s = 0.0

    def send(self, kind: str, **content: Any) -> None:
        """Take a message."""


class FailureTest(unittest.TestCase):
    """A failed evaluate is a failed cell, whenever it fails."""

    def test_first_warm_up_timed_last(self) -> None:
        for fail_from, stage in ((1, "warm-up"), (4, "warm-up"), (5, "evaluate"), (8, "evaluate"), (12, "evaluate")):
            with self.subTest(fail_from):
                for cell in measured(FakeEngine(fail_from=fail_from), iters=6, rounds=2, warmup=4):
                    self.assertEqual((cell.status, cell.stage, cell.samples), ("failed", stage, []))
                    self.assertEqual(cell.error, "evaluate returned NO: told to fail")
        cells = measured(FakeEngine(fail_from=13), iters=6, rounds=2, warmup=4)
        self.assertEqual({cell.status for cell in cells}, {"ok"})

    def test_one_refused_variant_does_not_cost_the_other(self) -> None:
        link = FakeLink()
        fp16, w8a8 = measured(FakeEngine(refuse="w8a8"), link=link, iters=2, rounds=1)
        self.assertEqual((fp16.status, len(fp16.samples)), ("ok", 2))
        self.assertEqual((w8a8.status, w8a8.stage), ("failed", "compile"))
        for layout, dialect in ane_bench.ATTEMPTS:
            self.assertIn(f"{layout}/{dialect}: refused", w8a8.error or "")
        self.assertEqual(link.refusals, 4, "a rest follows each refused compile")

    def test_an_error_while_verifying_keeps_the_figures(self) -> None:
        with unittest.mock.patch.object(ane_bench, "verify", side_effect=MemoryError):
            for cell in measured(FakeEngine(), iters=10, rounds=5, warmup=1):
                self.assertEqual((cell.status, cell.stage, cell.error), ("failed", "verify", "MemoryError: "))
                self.assertEqual(len(cell.samples), 10)
                self.assertEqual(cell.ratio, {}, "no ratio of a cell that failed")


class AttemptsTest(unittest.TestCase):
    """Forms that are tried if a program is refused."""

    def test_in_order(self) -> None:
        for refuse, layout, dialect in (("", "standard", "1.3"), ("standard/1.3", "standard", "1.0"),
                                        ("standard", "original", "1.3")):
            cells = measured(FakeEngine(refuse=refuse), iters=1, rounds=1)
            self.assertEqual({(cell.blob, cell.dialect) for cell in cells}, {(layout, dialect)})

    def test_the_form_that_worked_is_tried_first(self) -> None:
        engine = FakeEngine(refuse="standard")
        measured(engine, iters=1, rounds=1, forms=[("original", "1.3"), ("standard", "1.3")])
        self.assertEqual(engine.loaded, ["fp16:original/1.3", "w8a8:original/1.3"])

    def test_fixed_ones(self) -> None:
        dialects = ("1.3", "1.0", "1.3-long")
        for blob, dialect, expected in (
                ("auto", "auto", [*(("standard", name) for name in dialects), ("original", "1.3")]),
                ("standard", "auto", [("standard", name) for name in ane_bench.DIALECTS]),
                ("auto", "1.0", [("standard", "1.0"), ("original", "1.0")]),
                ("original", "1.3-long", [("original", "1.3-long")])):
            with self.subTest(blob=blob, dialect=dialect):
                self.assertEqual(ane_bench.attempts(Settings(blob=blob, dialect=dialect)), expected)


class Rising:
    """Latencies in ns under a clock that rises: `factor` times as long at first, less by e in each `tau_s` of work."""

    def __init__(self, ms: dict[str, float], factor: float, tau_s: float) -> None:
        self.ms, self.excess, self.tau_ns = ms, factor - 1, tau_s * 1e9

    def __call__(self, variant: str, count: int) -> float:
        ns = self.ms[variant] * 1e6 * (1 + self.excess)
        self.excess *= math.exp(-ns / self.tau_ns)
        return ns


class WarmupTest(unittest.TestCase):
    """The warm-up lasts until times are steady, or exactly as long as it was told."""

    def test_a_rising_clock_changes_times_and_ratio_by_less_than_a_hundredth(self) -> None:
        for ms in (0.2, 2.0, 15.0):
            for tau_s in (0.06, 0.25):
                for variants in (BOTH, ("fp16",), ("fp16", "w8a16", "w8a8")):
                    with self.subTest(ms=ms, tau_s=tau_s, variants=variants):
                        times = {"fp16": ms, "w8a16": ms / 1.5, "w8a8": ms / 2}
                        cells = measured(FakeEngine(Rising(times, 2.8, tau_s)), variants, iters=50)
                        for cell in cells:
                            self.assertAlmostEqual(cell.ms["median"] / times[cell.variant], 1, delta=0.01)
                        for cell in cells[1:]:
                            self.assertAlmostEqual(cell.ratio["value"] * times[cell.variant] / ms, 1, delta=0.01)

    def test_a_short_warm_up_would_not_do(self) -> None:
        cell, _ = measured(FakeEngine(Rising({"fp16": 0.2, "w8a8": 0.1}, 2.8, 0.25)), iters=50, warmup=10)
        self.assertGreater(cell.ms["median"], 0.2 * 1.5)

    def test_it_takes_half_a_second_to_three_seconds(self) -> None:
        for latency, least, most in ((steady, 0.5, 0.8), (lambda _, count: 1e6 * 1.001 ** count, 3.0, 3.6)):
            engine = FakeEngine(latency)
            measured(engine, ("fp16",), iters=1, rounds=1, verify=0)
            timed = sum(engine.latency("fp16", engine.count - back) for back in (1, 2))
            self.assertTrue(least <= (engine.ns - timed) / 1e9 <= most, engine.ns)

    def test_exactly_as_many_as_asked(self) -> None:
        for warmup in (0, 1, 2, 7):
            engine = FakeEngine()
            cells = measured(engine, iters=2, rounds=1, warmup=warmup)
            self.assertEqual([engine.log.count(name) for name in BOTH], [warmup + 3] * 2)
            self.assertEqual([cell.first_ms for cell in cells], [2.0, 1.0] if warmup else [None, None])


class ClockTest(unittest.TestCase):
    """A clock that is coarse, stands still, or runs backwards."""

    def test_no_interval_is_narrower_than_the_tick_allows(self) -> None:
        for fp16_ms, w8a8_ms in ((2.5, 1.25), (7.3, 5.9), (0.4, 0.7)):
            with self.subTest(fp16_ms):
                times = {"fp16": fp16_ms * 1e6, "w8a8": w8a8_ms * 1e6}
                cells = measured(FakeEngine(lambda variant, _, times=times: times[variant],  # type: ignore[misc]
                                            tick_ns=1e6), iters=50, warmup=5)
                for cell, truth in zip(cells, (fp16_ms, w8a8_ms)):
                    low, high = cell.ms["ci95"]
                    self.assertLessEqual(low, truth)
                    self.assertGreaterEqual(high, truth)
                if "ci95" in cells[1].ratio:
                    low, high = cells[1].ratio["ci95"]
                    self.assertTrue(low <= fp16_ms / w8a8_ms <= high)

    def test_an_evaluate_below_a_tick_did_something(self) -> None:
        cells = measured(FakeEngine(lambda *_: 3e5, tick_ns=1e6), iters=100, rounds=5, warmup=5)
        for cell in cells:
            self.assertEqual(cell.status, "ok", cell.error)
            self.assertAlmostEqual(cell.ms["mean"], 0.3, delta=0.1)
            self.assertEqual(len(cell.samples), 100)

    def test_a_round_within_a_tick_cannot_be_told(self) -> None:
        for cell in measured(FakeEngine(lambda *_: 100, tick_ns=1e9), iters=10, rounds=5, warmup=5):
            self.assertEqual((cell.status, cell.stage, cell.samples, cell.turns), ("failed", "evaluate", [], []))
            self.assertRegex(cell.error or "", "^the clock stood still over 2 evaluates in a row: .*more --iters")

    def test_backwards(self) -> None:
        for start, stage in ((0, "warm-up"), (12, "evaluate"), (25, "evaluate")):
            with self.subTest(start):
                engine = FakeEngine(lambda _, count, start=start: -1e6 if count >= start else 1e6)  # type: ignore[misc]
                cell = measured(engine, iters=10, rounds=5, warmup=4)[1]
                self.assertEqual((cell.status, cell.stage, cell.samples), ("failed", stage, []))
                self.assertRegex(cell.error or "", "^the clock ran backwards by 1000000 ticks")


class OrderTest(unittest.TestCase):
    """The place of a variant in its rounds leaks into no ratio."""

    def ratios(self, variants: Sequence[str], slower: float, rounds: int = 12) -> list[float]:
        """Return the ratios if each place but the first in a round is slower by that factor."""
        each, times = 6, {"fp16": 2e6, "w8a16": 1.5e6, "w8a8": 1e6}

        def latency(variant: str, count: int) -> float:
            place = count // each % len(variants)
            return times[variant] * (1 if place == 0 else slower)

        cells = measured(FakeEngine(latency), variants, iters=5 * rounds, rounds=rounds, warmup=0)
        return [cell.ratio["value"] for cell in cells[1:]]

    def test_two_and_three_variants(self) -> None:
        for slower in (1.1, 1.2, 1.5):
            for rounds in (5, 7, 12):  # also if one order has more rounds than the other
                self.assertAlmostEqual(self.ratios(BOTH, slower, rounds)[0], 2)
                self.assertAlmostEqual(self.ratios(BOTH[::-1], slower, rounds)[0], 0.5)
            first, second = self.ratios(("fp16", "w8a16", "w8a8"), slower)
            self.assertAlmostEqual(first, 2 / 1.5)
            self.assertAlmostEqual(second, 2)

    def test_exchanging_the_variants_gives_the_inverse(self) -> None:
        def latency(variant: str, count: int) -> float:
            return (2e6 if variant == "fp16" else 1e6) * (1 + 0.3 * (count * 7919 % 101) / 101)

        one, other = (measured(FakeEngine(latency), BOTH, iters=50, warmup=0) for _ in range(2))
        self.assertEqual([cell.samples_ns for cell in one], [cell.samples_ns for cell in other])
        one[0].baseline = one[1]
        forth, back = other[1].ratio, one[0].ratio
        self.assertAlmostEqual(forth["value"] * back["value"], 1)
        self.assertAlmostEqual(forth["ci95"][0] * back["ci95"][1], 1)


class SettingsTest(unittest.TestCase):
    """Settings that are refused before anything is measured."""

    def test_refused(self) -> None:
        for given in ({"iters": 0}, {"rounds": 0}, {"iters": 7}, {"warmup": -1}, {"seed": -1}, {"seed": 1 << 53},
                      {"qos": 1 << 32},
                      {"input": "ones"}, {"blob": "new"}, {"dialect": "1.2"}, {"timeout": 0}, {"verify": -1},
                      {"iters": 10.0}, {"iters": True, "rounds": 1}, {"seed": 10 ** 25}, {"original": "yes"},
                      {"original": 1}, {"original": 0}, {"timeout": math.nan}, {"timeout": math.inf}, {"timeout": True},
                      {"input": ["random"]}, {"verify": None}, {"iters": 5_000_000, "rounds": 1}):
            with self.subTest(given), self.assertRaises(UsageError):
                Settings(**given).check()

    def test_the_largest_and_the_least(self) -> None:
        for given in ({"iters": 1, "rounds": 1}, {"iters": 1_000_000, "rounds": 1}, {"warmup": 0}, {"warmup": None},
                      {"seed": (1 << 53) - 1}, {"qos": 0}, {"timeout": 1}, {"timeout": 0.5}, {"verify": 0}):
            with self.subTest(given):
                self.assertEqual(Settings(**given).check(), Settings(**given))


if __name__ == "__main__":
    unittest.main()
