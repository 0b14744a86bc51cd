"""Section 10: settings, cells, warm-up and rounds, on an engine whose time passes in evaluates."""

import contextlib
import itertools
import json
import math
import os
import unittest
import unittest.mock
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Optional

import ane_bench
from ane_bench import Cell, Config, Settings, StageError, Trial, UsageError

CONFIG = Config(8, 2, 2)
BOTH = ("fp16", "w8a8")
ALL_THREE = ("fp16", "w8a16", "w8a8")
Latency = Callable[[str, int], float]


def steady(variant: str, count: int) -> float:
    """Return 2 ms for FP16, 1 ms for others, whatever the count of evaluates."""
    return 2e6 if variant == "fp16" else 1e6


def lasting(ms: float) -> Latency:
    """Return a latency of so many ms in any variant."""
    return lambda variant, count: ms * 1e6


def rising(ms: Mapping[str, float], factor: float, tau_s: float) -> Latency:
    """Return latencies under a clock that rises: `factor` times as long at first, the excess less
    by e in each `tau_s` of work."""
    excess = factor - 1

    def latency(variant: str, count: int) -> float:
        nonlocal excess
        ns = ms[variant] * 1e6 * (1 + excess)
        excess *= math.exp(-ns / (tau_s * 1e9))
        return ns

    return latency


class FakeEngine:
    """An engine whose evaluates take the ns that `latency` returns, by variant and the count of
    evaluates before. It tells the order of calls in `log`. Programs whose variant and form hold a
    word of `refuse` are refused; evaluates of a variant fail from the `fail_from`-th on, and
    reading pixels from the `unreadable`-th time on."""

    tick_ns = 1.0

    def __init__(self, latency: Latency = steady, refuse: str = "", fail_from: float = math.inf,
                 unreadable: float = math.inf) -> None:
        self.latency, self.refuse = latency, refuse.split()
        self.fail_from, self.unreadable = fail_from, unreadable
        self.ns, self.count = 0.0, 0
        self.reasons: dict[str, str] = {}  # by form
        self.log: list[str] = []
        self.now: Callable[[], int] = lambda: int(self.ns)

    @contextlib.contextmanager
    def pool(self) -> Iterator[None]:
        self.log.append("pool")
        yield

    def load(self, program: ane_bench.Program, qos: int, events: ane_bench.Events,
             owner: contextlib.ExitStack) -> "FakeExecutable":
        name = f"{program.variant.name}:{program.form}"
        self.log.append(f"load {name}")
        if any(word in name for word in self.refuse):
            reason = self.reasons.get(program.form, "err=(InvalidMILProgram)")
            raise StageError("compile", f"refused {name}: {reason}")
        return FakeExecutable(self, program.variant.name)


class FakeExecutable:
    """A program that takes its time, and whose pixels tell their number and that of the read."""

    def __init__(self, engine: FakeEngine, name: str) -> None:
        self.facts: dict[str, Any] = {"compile_ms": 1.5}
        self.engine, self.name, self.count, self.reads = engine, name, 0, 0

    def write_input(self, data: bytes) -> None:
        """Take the input."""

    def evaluate(self) -> bool:
        self.engine.log.append(self.name)
        self.engine.ns += self.engine.latency(self.name, self.engine.count)
        self.engine.count += 1
        self.count += 1
        return self.count < self.engine.fail_from

    def failure(self) -> str:
        return "told to fail"

    def poison(self, pixels: Sequence[int]) -> None:
        self.engine.log.append(f"poison {self.name}")

    def read_pixels(self, pixels: Sequence[int]) -> list[ane_bench.Vector]:
        self.engine.log.append(f"read {self.name}")
        self.reads += 1
        if self.reads >= self.engine.unreadable:
            raise StageError("read", "told to fail")
        return [[float(pixel), float(self.reads)] for pixel in pixels]


class FakeEvents:
    """What a worker tells its parent; the user interrupts in round `stop_at`, or before any."""

    def __init__(self, engine: FakeEngine, stop_at: float = math.inf) -> None:
        self.engine, self.stop_at = engine, stop_at
        self.current, self.refusals, self.stopping = "start", 0, stop_at <= 0
        self.stages: list[str] = []
        self.rounds: list[tuple[str, float, int, Mapping[str, Sequence[float]]]] = []

    def stage(self, name: str, variant: str, limit: float = 0.0) -> None:
        self.current = name
        self.stages.append(name)

    def round(self, variants: str, limit: float, number: int,
              paces: Mapping[str, Sequence[float]]) -> None:
        self.current, self.stopping = "evaluate", number >= self.stop_at
        self.engine.log.append(f"round {number}")
        self.rounds.append((variants, limit, number, paces))

    def refused(self) -> None:
        self.refusals += 1

    def ignored(self, *_: str) -> None:
        """Ignore what else a worker tells."""

    turn = rest = directory = warn = ignored


def measure(engine: Any, variants: Sequence[str] = BOTH, pixels: Sequence[int] = (0, 3), *,
            events: Optional[FakeEvents] = None, forms: Sequence[str] = (),
            settings: Optional[Settings] = None, **given: Any) -> list[Trial]:
    """Return the trials of variants that were loaded and measured together."""
    settings = settings or Settings(**given).check()
    events = events or FakeEvents(engine)
    trials = [Trial(Cell(CONFIG, variant, settings)) for variant in variants]
    with contextlib.ExitStack() as owner:
        for trial in trials:
            with trial.guarded(events):
                ane_bench.load_program(engine, trial, forms or ane_bench.attempts(settings),
                                       events, owner)
        ane_bench.measure_rounds(engine, trials, pixels, events)
    return trials


def measured(*arguments: Any, **given: Any) -> list[Cell]:
    """Return the cells of one configuration; the first is the baseline."""
    cells = [trial.cell for trial in measure(*arguments, **given)]
    for cell in cells:
        cell.baseline = cells[0]
    return cells


def rounds_of(engine: FakeEngine) -> list[list[str]]:
    """Return the calls of each round."""
    rounds: list[list[str]] = []
    for entry in engine.log:
        if entry.startswith("round "):
            rounds.append([])
        elif rounds:
            rounds[-1].append(entry)
    return rounds


class RoundsTest(unittest.TestCase):
    """What runs in which order, and for how long."""

    def test_turns_change_order_and_begin_with_an_uncounted_evaluate(self) -> None:
        engine = FakeEngine()
        fp16, w8a8 = measured(engine, seconds=0, seed=1)
        verified = [1, 11]  # the first is drawn by the seed
        turns = {"fp16": 13, "w8a8": 25}  # the fewest that take 25 ms
        for number, calls in enumerate(rounds_of(engine)):
            expected = []
            for name in BOTH if number % 2 == 0 else BOTH[::-1]:
                poison, read = ([f"{verb} {name}"] * (number in verified)
                                for verb in ("poison", "read"))
                expected += ["pool", name, *poison, *[name] * turns[name], *read]
            self.assertEqual(calls, expected, number)
        self.assertEqual((fp16.samples_ns, w8a8.samples_ns), ([[2e6] * 13] * 12, [[1e6] * 25] * 12))
        self.assertEqual(fp16.rounds_s, [round(0.054 * number, 4) for number in range(12)])
        self.assertEqual([(cell.ok, cell.form, cell.compile_ms, cell.first_ms, cell.condensed)
                          for cell in (fp16, w8a8)],
                         [(True, "standard/1.3", 1.5, ms, None) for ms in (2.0, 1.0)])

    def test_the_first_round_begins_at_0_however_late_its_clock_is_read(self) -> None:
        engine, late = FakeEngine(), itertools.count(0, 200_000)
        engine.now = lambda: int(engine.ns) + next(late)
        self.assertEqual(measured(engine, seconds=0)[0].rounds_s[0], 0)

    def test_a_turn_has_5_to_500_evaluates_and_takes_25_ms(self) -> None:
        for ms, count in ((0.01, 500), (0.05, 500), (0.1, 250), (0.3, 84), (5, 5), (200, 5)):
            for cell in measured(FakeEngine(lasting(ms)), seconds=0):
                self.assertEqual({len(samples) for samples in cell.samples_ns}, {count}, ms)

    def test_rounds_are_12_last_so_many_seconds_and_are_a_multiple_of_the_variants(self) -> None:
        for (ms, seconds), variants in itertools.product(
                ((1, 0), (1, 1), (1, 1.3), (30, 1), (30, 10)), (("fp16",), BOTH, ALL_THREE)):
            cell = measured(FakeEngine(lasting(ms)), variants, seconds=seconds)[0]
            count = len(cell.samples_ns)
            with self.subTest(ms=ms, seconds=seconds, variants=variants):
                pace = cell.rounds_s[-1] / (count - 1)
                fewest = max(12, math.ceil(round(seconds / pace, 6)))
                self.assertEqual(count, -(-fewest // len(variants)) * len(variants))
                self.assertEqual(len(cell.rounds_s), count)

    def test_whether_a_round_is_the_last_is_known_when_it_begins(self) -> None:
        """By the round before it; so a faster last round ends early, and it is verified."""
        engine = FakeEngine(lambda variant, count: 1e6 if count < 1800 else 1e4)
        cell, = measured(engine, ("fp16",), seconds=1)
        read = ["read fp16" in calls for calls in rounds_of(engine)]
        self.assertEqual((read[-1], sum(read), len(read)), (True, 2, len(cell.samples_ns)))

    def test_the_first_verified_round_is_drawn_among_eleven(self) -> None:
        drawn = set()
        for seed in range(60):
            engine = FakeEngine(lasting(20))
            trial, = measure(engine, ("fp16",), (0, 3), seconds=0, seed=seed)
            first, last = (number for number, calls in enumerate(rounds_of(engine))
                           if "read fp16" in calls)
            drawn.add((first, last))
            self.assertEqual(trial.outputs, [[[0, 1], [3, 1]], [[0, 2], [3, 2]]])
        self.assertEqual(drawn, {(first, 11) for first in range(11)})

    def test_a_round_tells_its_limit_and_the_paces(self) -> None:
        engine = FakeEngine(lambda variant, count: steady(variant, count) * (1 + (count > 600)))
        events = FakeEvents(engine)
        measured(engine, seconds=0, events=events)
        self.assertNotIn("evaluate", events.stages)
        for number, (variants, limit, told, _) in enumerate(events.rounds, 1):
            self.assertEqual((variants, told), ("fp16,w8a8", number))
            self.assertAlmostEqual(limit, 10 * (14 * 0.002 + 26 * 0.001))
        paces = [paces for _, _, _, paces in events.rounds]
        self.assertEqual(paces[:2], [{}, {"fp16": [2e6, 2e6], "w8a8": [1e6, 1e6]}])
        self.assertEqual(paces[-1], {"fp16": [2e6, 4e6], "w8a8": [1e6, 2e6]})

    def test_the_original_evaluates_10_and_50_times_in_one_round(self) -> None:
        for variant in BOTH:
            engine = FakeEngine()
            cell, = measured(engine, (variant,), (), settings=ane_bench.ORIGINAL_SETTINGS)
            self.assertEqual(engine.log, [f"load {variant}:original/1.3", "pool", *[variant] * 10,
                                          "round 1", "pool", *[variant] * 50])
            self.assertAlmostEqual(cell.first_ms or 0, cell.milliseconds or 0)
            self.assertEqual((len(cell.samples_ns), len(cell.samples_ns[0])), (1, 50))
            self.assertNotIn("ci95", cell.ms)

    def test_interrupted_before_twelve_rounds_the_cells_fail(self) -> None:
        for stop_at in (0, 1, 11):
            engine = FakeEngine()
            for cell in measured(engine, seconds=60, events=FakeEvents(engine, stop_at)):
                self.assertEqual((cell.failure, cell.samples_ns), (
                    f"failed in stage evaluate: interrupted after {stop_at} of 12 rounds", []))
            self.assertLess(engine.ns, 2e9 if stop_at else 1e7, "the warm-up ends, too")

    def test_interrupted_later_they_are_kept_and_their_last_round_is_verified(self) -> None:
        """The number of rounds still is a multiple of the variants, so at most one more follows."""
        for stop_at, count in ((12, 14), (13, 14), (20, 22), (21, 22)):
            engine = FakeEngine()
            for trial in measure(engine, seconds=3600, events=FakeEvents(engine, stop_at)):
                self.assertTrue(trial.cell.ok, trial.cell.failure)
                self.assertEqual((len(trial.cell.samples_ns), len(trial.outputs)), (count, 2))
            self.assertIn("read fp16", rounds_of(engine)[-1])

    def test_of_too_many_samples_only_the_medians_are_kept(self) -> None:
        def latency(variant: str, count: int) -> float:
            return 1e6 + 1000 * (count * 7919 % 101)

        whole, = measured(FakeEngine(latency), ("fp16",), seconds=1)
        with unittest.mock.patch.object(ane_bench, "MOST_SAMPLES", 400):
            trial, = measure(FakeEngine(latency), ("fp16",), seconds=1)
        cell = trial.cell
        self.assertEqual(cell.samples_ns, [[median] for median in whole.medians_ns])
        self.assertEqual((cell.condensed, whole.condensed), (True, None))
        self.assertEqual([len(marks) for marks in trial.turns], [25] * 16 + [2] * 23)
        self.assertEqual(trial.paces(1), [(trial.turns[0][-1] - trial.turns[0][0]) / 24,
                                          cell.medians_ns[-1]])
        self.assertEqual(cell.ms, {name: whole.ms[name] for name in ("value", "ci95")})
        self.assertEqual(set(whole.ms), {"value", "ci95", "mean", "min", "p95"})

    def test_the_place_of_a_variant_in_its_rounds_leaks_into_no_ratio(self) -> None:
        times = {"fp16": 10e6, "w8a16": 7.5e6, "w8a8": 5e6}

        def latency(variant: str, count: int) -> float:
            began = max((place for place, entry in enumerate(engine.log)
                         if entry.startswith("round")), default=0)
            return times[variant] * (slower if "pool" in engine.log[began + 2:] else 1)

        for variants, slower in itertools.product((BOTH, BOTH[::-1], ALL_THREE), (1.1, 1.5)):
            engine = FakeEngine(latency)
            for cell in measured(engine, variants, (), seconds=0)[1:]:
                with self.subTest(cell.name, variants=variants, slower=slower):
                    true = times[variants[0]] / times[cell.variant]
                    self.assertAlmostEqual(cell.ratio["value"], true, places=6)
                    self.assertTrue(cell.ratio["ci95"][0] <= true <= cell.ratio["ci95"][1])


class WarmupTest(unittest.TestCase):
    """The warm-up lasts until times are steady."""

    def test_a_rising_clock_changes_times_and_ratio_by_less_than_a_hundredth(self) -> None:
        for ms, tau_s, variants in itertools.product((0.2, 2.0, 15.0), (0.06, 0.25),
                                                     (BOTH, ("fp16",), ALL_THREE)):
            with self.subTest(ms=ms, tau_s=tau_s, variants=variants):
                times = {"fp16": ms, "w8a16": ms / 1.5, "w8a8": ms / 2}
                cells = measured(FakeEngine(rising(times, 2.8, tau_s)), variants)
                for cell in cells:
                    self.assertAlmostEqual(cell.ms["value"] / times[cell.variant], 1, delta=0.01)
                for cell in cells[1:]:
                    ratio = cell.ratio["value"] * times[cell.variant] / ms
                    self.assertAlmostEqual(ratio, 1, delta=0.01)

    def test_it_takes_half_a_second_to_three_seconds(self) -> None:
        for latency, least, most in ((steady, 0.5, 0.8),
                                     (lambda _, count: 1e6 * 1.001 ** count, 3.0, 3.6)):
            engine = FakeEngine(latency)
            trial, = measure(engine, ("fp16",), seconds=0)
            began = trial.turns[0][0] - engine.latency("fp16", 0)  # the uncounted evaluate
            self.assertTrue(least <= began / 1e9 <= most, began)


class FailureTest(unittest.TestCase):
    """A failed evaluate is a failed cell, whenever it fails."""

    def test_in_the_first_in_the_warm_up_timed_and_last(self) -> None:
        total = measure(FakeEngine(), ("fp16",), seconds=0)[0].executable.count  # type: ignore
        timed = total - 12 * 14
        for fail_from, stage in ((1, "warm-up"), (9, "warm-up"), (timed + 1, "evaluate"),
                                 (timed + 2, "evaluate"), (total, "evaluate")):
            with self.subTest(fail_from):
                cell, = measured(FakeEngine(fail_from=fail_from), ("fp16",), seconds=0)
                self.assertEqual((cell.failure, cell.samples_ns, cell.rounds_s), (
                    f"failed in stage {stage}: evaluate returned NO: told to fail", [], []))
                self.assertEqual(cell.first_ms, None if fail_from == 1 else 2.0)
        self.assertTrue(measured(FakeEngine(fail_from=total + 1), ("fp16",), seconds=0)[0].ok)

    def test_an_output_that_cannot_be_read_in_the_end_keeps_the_figures(self) -> None:
        for unreadable, count in ((1, 0), (2, 12)):
            for cell in measured(FakeEngine(unreadable=unreadable), seconds=0):
                self.assertEqual(cell.failure, "failed in stage read: told to fail")
                self.assertEqual((len(cell.samples_ns), cell.ratio), (count, {}))

    def test_an_error_of_another_kind_fails_its_own_variant(self) -> None:
        def latency(variant: str, count: int) -> float:
            return 1e6 if variant == "fp16" else 1e6 / (count < 900)

        fp16, w8a8 = measured(FakeEngine(latency), seconds=0)
        self.assertTrue(fp16.ok)
        self.assertRegex(w8a8.failure, "^failed in stage evaluate: ZeroDivisionError: ")

    def test_a_clock_that_stands_still_or_runs_backwards(self) -> None:
        """For good, or once, which is seen in the end."""
        def latency(variant: str, count: int) -> float:
            return ns if start <= count < start + times else 1e6

        for (start, times, stage), ns in itertools.product(
                ((0, math.inf, "warm-up"), (500, math.inf, "warm-up"),
                 (1100, math.inf, "evaluate"), (1100, 1, "evaluate")), (-1e6, 0)):
            with self.subTest(start=start, times=times, ns=ns):
                cell, = measured(FakeEngine(latency), ("fp16",), seconds=2)
                self.assertEqual((cell.status, cell.stage, cell.samples_ns), ("failed", stage, []))
                self.assertRegex(cell.error or "", f"^the clock moved on by {ns:.0f} ticks ")


class FormsTest(unittest.TestCase):
    """Forms that are tried if a program is refused."""

    def test_in_order(self) -> None:
        every, forms = ane_bench.FORMS, ("original/1.3", "standard/1.3")  # which worked before
        for refuse, given, worked in (("", every, 0), ("standard/1.3", every, 2),
                                      ("standard", every, 3), ("standard", forms, 0)):
            engine = FakeEngine(refuse=refuse)
            events = FakeEvents(engine)
            cell, = measured(engine, ("w8a8",), seconds=0, forms=given, events=events)
            self.assertEqual(cell.form, given[worked])
            loads = [entry for entry in engine.log if entry.startswith("load")]
            self.assertEqual(events.refusals, worked, "a rest follows a refused compile")
            self.assertEqual(loads, [f"load w8a8:{form}" for form in given[:worked + 1]])
            self.assertEqual([text.partition(": ")[0] for text in cell.refused],
                             list(given[:worked]))

    def test_all_are_named_if_none_is_accepted(self) -> None:
        for form, forms, advice in (
                ("auto", ane_bench.FORMS,
                 "no form of the program is accepted; send the output of doctor"),
                ("standard/1.0", ("standard/1.0",), "try another --form")):
            engine = FakeEngine(refuse="fp16")
            cell, = measured(engine, ("fp16",), form=form)
            self.assertEqual((cell.status, cell.stage, cell.samples_ns), ("failed", "compile", []))
            self.assertEqual(engine.log, [f"load fp16:{tried}" for tried in forms])
            for text in (*forms, advice):
                self.assertIn(text, cell.error or "")

    def test_no_other_form_makes_room(self) -> None:
        """Nor is it said that none is accepted: two were not tried."""
        for reason in ("(0x50004)", "no ANE resources"):
            engine = FakeEngine(refuse="fp16")
            engine.reasons["standard/1.3-early"] = reason
            cell, = measured(engine, ("fp16",), seconds=0)
            self.assertEqual([entry[-len("1.3-early"):] for entry in engine.log],
                             ["ndard/1.3", "1.3-early"])
            self.assertRegex(cell.error or "", "InvalidMILProgram.*; close other programs that use "
                                               "the Neural Engine$")

    def test_the_original_has_one(self) -> None:
        cell, = measured(FakeEngine(refuse="fp16"), ("fp16",), settings=ane_bench.ORIGINAL_SETTINGS)
        self.assertIn("try it without --original", cell.error or "")

    def test_if_a_variant_is_refused_the_others_go_on(self) -> None:
        engine = FakeEngine(refuse="w8a16")
        events = FakeEvents(engine)
        cells = measured(engine, ALL_THREE, seconds=0, events=events)
        self.assertEqual([cell.ok for cell in cells], [True, False, True])
        self.assertEqual({variants for variants, _, _, _ in events.rounds}, {"fp16,w8a8"})
        self.assertEqual(len(cells[2].samples_ns), 12)


class CellTest(unittest.TestCase):
    """The hub: facts, and figures made of them."""

    def cell(self, variant: str = "w8a8", **facts: Any) -> Cell:
        """Return a cell of facts."""
        return Cell(CONFIG, variant, Settings(), **facts)

    def test_facts_survive_json_and_unknown_ones_are_ignored(self) -> None:
        facts = {
            "status": "ok", "form": "standard/1.3", "refused": ["standard/1.0: no"],
            "compile_ms": 1.5, "load_ms": 2.0, "first_ms": 3.0, "compiled_before": False,
            "strides": {"row": 64, "plane": 128, "batch": 1024, "output": {"row": 64}},
            "samples_ns": [[1e6, 3e6], [2e6, 2e6]], "rounds_s": [0.0, 0.5], "apart": True,
            "verified": {"pixels": 8, "arithmetic": "halves away", "equal": 1.0, "ok": True}}
        sent = json.loads(json.dumps({**facts, "turns": [1], "tick_ns": 1}))
        sent["strides"]["depth"] = sent["verified"]["from_fp16"] = {}
        self.assertEqual(self.cell(**sent).facts(), facts)
        self.assertEqual(self.cell().facts(), {"status": "ok"})

    def test_a_fact_of_another_type_is_refused_by_name(self) -> None:
        wrong: dict[str, Sequence[Any]] = {
            "status": [1], "stage": [None], "error": [["x"]], "refused": ["x", [1]],
            "compile_ms": ["1", True], "load_ms": [math.nan, math.inf], "first_ms": [10 ** 400],
            "compiled_before": [1], "strides": [[], {"row": 64.0}, {"output": 1}],
            "samples_ns": [[1.0], [[]], [[0.0]], [[-1.0]], [[1e15]], [["1"]]], "rounds_s": [["1"]],
            "condensed": ["yes"], "verified": [{"ok": 1}, {"equal": {}}]}
        for name, value in ((name, value) for name, values in wrong.items() for value in values):
            with self.subTest(name=name, value=str(value)[:20]):
                self.assertRaisesRegex(ValueError, f"^{name}: .{{1,80}}$", self.cell,
                                       **{name: value})

    def test_facts_can_have_any_name_and_texts_become_printable(self) -> None:
        self.assertEqual(self.cell(form="a\x1b[2J\nb").form, "a?[2J?b")
        self.assertEqual(ane_bench.made(Cell.FACTS, {"self": 1, "config": 2, "form": "x"}),
                         {"form": "x"})
        self.assertRaisesRegex(ValueError, "^strides: output: row: 'x': expected a whole number$",
                               ane_bench.made, Cell.FACTS, {"strides": {"output": {"row": "x"}}})

    def test_the_figures(self) -> None:
        cell = self.cell(samples_ns=[[2e6, 1e6, 9e6]] * 12)
        cell.baseline = base = self.cell("fp16", samples_ns=[[4e6]] * 12)
        for name, value in (("value", 2), ("mean", 4), ("min", 1), ("p95", 9)):
            self.assertAlmostEqual(cell.ms[name], value)
        self.assertAlmostEqual(cell.milliseconds or 0, 2)
        self.assertAlmostEqual(cell.tops or 0, CONFIG.gop / 2)
        self.assertAlmostEqual(cell.ratio["value"], 2)
        self.assertEqual((cell.name, cell.check, cell.failure), ("W8A8 8x2x2", "", ""))
        self.assertEqual(base.ratio, {})

    def test_a_ratio_of_cells_apart_is_one_of_independent_runs(self) -> None:
        shared = [1 + 0.1 * (number * 5 % 12) for number in range(12)]
        width = {}
        for apart in (False, True):
            cell = self.cell(samples_ns=[[1e6 * each] for each in shared], apart=apart)
            cell.baseline = self.cell("fp16", samples_ns=[[2e6 * each] for each in shared])
            self.assertAlmostEqual(cell.ratio["value"], 2)
            width[apart] = cell.ratio["ci95"][1] - cell.ratio["ci95"][0]
        self.assertAlmostEqual(width[False], 0)
        self.assertGreater(width[True], 0.3)

    def test_the_original_shows_means(self) -> None:
        cells = [Cell(CONFIG, variant, ane_bench.ORIGINAL_SETTINGS, samples_ns=[[1e6, 1e6, each]])
                 for variant, each in (("fp16", 10e6), ("w8a8", 4e6))]
        cells[1].baseline = cells[0]
        self.assertAlmostEqual(cells[0].milliseconds or 0, 4)
        self.assertAlmostEqual(cells[1].ratio["value"], 2)
        self.assertEqual((list(cells[1].ratio), cells[1].sustained), (["value"], {}))

    def test_a_failed_cell_names_no_path_and_keeps_its_samples(self) -> None:
        cell = self.cell(samples_ns=[[1e6]] * 12, verified={"ok": False})
        cell.fail("verify", f"{os.path.expanduser('~')}/x differs")
        self.assertEqual(cell.failure, "failed in stage verify: …/x differs")
        self.assertEqual((cell.ok, cell.check, len(cell.medians_ns)), (False, "WRONG", 12))

    def test_without_samples_there_are_no_figures(self) -> None:
        cell = self.cell()
        cell.baseline = self.cell("fp16", samples_ns=[[1e6]])
        self.assertEqual((cell.ms, cell.tops, cell.ratio, cell.sustained, cell.estimate),
                         ({}, None, {}, {}, None))


class SettingsTest(unittest.TestCase):
    """Settings that are refused before anything is measured."""

    def test_refused(self) -> None:
        wrong: dict[str, Sequence[Any]] = {
            "seconds": [-1, 3601, "1", math.nan], "seed": [-1, 1 << 53, 1.0], "qos": [1 << 32],
            "verify": [-1, True, None], "form": ["1.3", None], "timeout": [0, math.inf, True],
            "original": [1, "yes"]}
        for name, value in ((name, value) for name, values in wrong.items() for value in values):
            with self.subTest(name=name, value=value), self.assertRaises(UsageError):
                Settings(**{name: value}).check()

    def test_the_largest_and_the_least(self) -> None:
        for given in ({"seconds": 0}, {"seconds": 0.5}, {"seconds": 3600}, {"seed": (1 << 53) - 1},
                      {"qos": 0}, {"timeout": 1}, {"verify": 0}, {"form": "original/1.3"}):
            self.assertEqual(Settings(**given).check(), Settings(**given))
        every = [Settings(), Settings(verify=0), Settings(original=True)]
        self.assertEqual([one.verifies for one in every], [True, False, False])
