"""Section 15, second half: records compared, and the gate for CI, which passes nothing that it has
not compared."""

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

import ane_bench
from ane_bench import Config, Run, Settings
from tests import support
from tests.runs import ALL, AS_ORIGINAL, M4, ORIGINAL, command, golden, made_run, written
from tests.support import Finished

SMALL = (Config(64, 8, 2),)
LATER = "2026-01-03T03:04:05+00:00"


def timed(ms: Mapping[str, float], *, spread: float = 0.0, configs: Sequence[Config] = SMALL,
          started: str = "2026-01-02T03:04:05+00:00", **options: Any) -> Run:
    """Return a run whose evaluates take some ms, exactly unless rounds differ by `spread`."""
    run = made_run(configs, tuple(ms), **options)
    run.started = started
    draw = random.Random(7)
    for cell in run.cells:
        cell.samples_ns = [[ms[cell.variant] * 1e6 * (1 + spread * draw.uniform(-1, 1))]
                           * len(samples) for samples in cell.samples_ns]
    return run


def noisy(draw: random.Random, noise: float, ms: float = 1.0, started: str = LATER) -> Run:
    """Return a run of both variants, the rounds of which scatter."""
    run = timed({"fp16": 2 * ms, "w8a8": ms}, started=started)
    for cell in run.cells:
        cell.samples_ns = [[samples[0] * draw.lognormvariate(0, noise)] * 5
                           for samples in cell.samples_ns]
    return run


def verdicts(base: Run, new: Run) -> list[tuple[str, str]]:
    """Return speed and verdict of each cell of two runs."""
    return [(f"{item.speed:.2f}", item.verdict) for item in ane_bench.compare(base, new)]


class CompareTest(support.DirectoryCase):
    """Two records: times, speeds, verdicts and ratios, and first what differs."""

    def compare(self, base: Run, new: Run, *options: str) -> Finished:
        """Save two runs and compare them by the command line."""
        paths = [written(self.directory / name, run) for name, run in (("a", base), ("b", new))]
        return command("compare", *paths, *options)

    def test_faster_slower_same(self) -> None:
        base = timed(dict.fromkeys(ALL, 1.0))
        new = timed({"fp16": 0.75, "w8a16": 1.2, "w8a8": 1.0})
        for one, other, found in (
                (base, new, [("1.33", "faster"), ("0.83", "slower"), ("1.00", "same")]),
                (new, base, [("0.75", "slower"), ("1.20", "faster"), ("1.00", "same")])):
            self.assertEqual(verdicts(one, other), found)

    def test_the_whole_comparison(self) -> None:
        base = timed({"fp16": 2.0, "w8a8": 1.0}, configs=ORIGINAL[:2], spread=0.002)
        new = timed({"fp16": 2.0, "w8a8": 0.9}, configs=[*ORIGINAL[:2], *SMALL], started=LATER,
                    failed=[(1, "fp16")], system={**M4, "macos": "26.5", "load_average": 3.0})
        new.warn("busy", "other programs")
        new.cells[3].note(samples_ns=[[9e5]] * 4, rounds_s=[])  # too few for an interval
        base.other_settings, new.other_settings = {"warp": 9}, {"warp": 9, "spin": "up"}
        for form, name in (("table", "compare.txt"), ("markdown", "compare.md"),
                           ("json", "compare.json")):
            done = self.compare(base, new, "--format", form)
            self.assertEqual((done.code, done.errors), (0, ""))
            text = done.output
            if form == "json":  # the last digits of logarithms differ from machine to machine
                text = re.sub(r"[0-9]+\.[0-9]+", lambda found: f"{float(found[0]):.8g}", text)
            self.assertEqual(*golden(name, text))

    def test_undecided(self) -> None:
        base = timed({"fp16": 2.0, "w8a16": 1.0, "w8a8": 1.0})
        wide = timed({"fp16": 2.0, "w8a16": 1.0, "w8a8": 0.3}, spread=0.2)
        self.assertEqual([verdict for _, verdict in verdicts(base, wide)],
                         ["undecided", "undecided", "faster"])
        self.assertEqual(verdicts(wide, wide), [("1.00", "undecided")] * 3)

    def test_what_has_no_interval_decides_nothing(self) -> None:
        base, fast = timed({"fp16": 2.0, "w8a8": 1.0}), {"fp16": 0.2, "w8a8": 1.0}
        for new in (timed(fast, rounds=4), timed(fast, settings=AS_ORIGINAL)):
            self.assertEqual(verdicts(base, new), [("10.00", "undecided"), ("1.00", "undecided")])
            self.assertEqual(verdicts(new, new), [("1.00", "undecided")] * 2)
            self.assertIsNone(ane_bench.compare(base, new)[0].ci95)

    def test_the_originals_means_are_compared(self) -> None:
        base, new = (made_run(settings=AS_ORIGINAL) for _ in range(2))
        new.cells[0].samples_ns[0][0] *= 51
        for other in (base, made_run(spread=0)):
            self.assertEqual(verdicts(other, new)[0], ("0.50", "undecided"))

    def test_a_verdict_needs_twice_the_interval(self) -> None:
        for low, high, verdict in (
                (0.99, 1.01, "same"), (1.001, 1.009, "same"), (0.98, 1.02, "undecided"),
                (0.977, 1.0, "undecided"), (0.7, 1.4, "undecided"), (0.96, 1.01, "undecided"),
                (1.012, 1.03, "faster"), (0.9, 0.95, "slower")):
            base, new = (timed({"fp16": 1.0}, rounds=20, each=1) for _ in range(2))
            for number, samples in enumerate(new.cells[0].samples_ns):
                samples[0] = 1e6 / (low, high)[number // 2 % 2]
            item, = ane_bench.compare(base, new)
            assert item.ci95
            self.assertTrue(low < item.ci95[0] < item.speed < item.ci95[1] < high)
            self.assertEqual(item.verdict, verdict, (low, high))

    def test_false_verdicts_of_equal_runs_are_rare(self) -> None:
        draw, false, failed, told = random.Random(3), 0, 0, 0
        count = support.reduced(4000, 400, "comparisons")
        for _ in range(count):
            base = noisy(draw, 0.1, started="2026-01-01T00:00:00+00:00")
            new = noisy(draw, 0.1)
            items = ane_bench.compare(base, new)
            false += any(item.verdict in ("faster", "slower") for item in items)
            told += sum(item.ci95[0] < 1 < item.ci95[1] for item in items if item.ci95)
            failed += bool(ane_bench.gate(base, new, 0.1, 0.1)[0])
        for hits, share in ((false, 0.01), (failed, 0.02)):
            self.assertLess(hits / count, share + 2 * math.sqrt(share * (1 - share) / count))
        self.assertGreater(told / 2 / count, 0.925)

    def test_differing_machines_and_protocols_are_named_first(self) -> None:
        base = timed({"fp16": 1.0, "w8a8": 1.0})
        new = timed({"w8a8": 1.0, "fp16": 1.0}, engine="stand-in", system={
            "chip": "Apple M5 Max", "python": "3.12.1", "ane_subtype": "h16g", "load_average": 9.5},
            settings=Settings(seconds=2, qos=9, verify=0))
        new.version, new.data = "9.9.9", 1
        lines = self.compare(base, new).output.split("\n\n")[0].splitlines()
        self.assertEqual(lines[2:], [
            "engine: ane / stand-in", f"version: {ane_bench.__version__} / 9.9.9",
            f"data: {base.data} / 1", "baseline: fp16 / w8a8", "chip: Apple M4 / Apple M5 Max",
            "model: Mac16,1 / unknown", "macos: 26.4 / unknown", "seconds: 1.0 / 2", "qos: 21 / 9",
            "verify: 8 / 0"])
        self.assertEqual(verdicts(base, new), [("1.00", "same")] * 2)

    def test_json_holds_what_the_gate_found(self) -> None:
        done = self.compare(was(), was({"w8a8": 1.5}), "--format=json", "--fail-if-slower=5")
        found = json.loads(done.output)
        self.assertEqual((done.code, found["undecided"], found["failed"]), (1, [], [
            "W8A8 64x8x2: its speed is 0.667x that of BASE; the limit is 0.952x"]))
        self.assertEqual(done.errors, f"ane_bench: {found['failed'][0]}\n")
        self.assertNotIn("Speed of NEW", ane_bench.comparison(
            was(), was(failed=NOTHING_RIGHT), "table", (["all failed"], [])))

    def test_no_row_is_wider_than_a_terminal(self) -> None:
        base = made_run(["8x16384x16384", "8x8x2k3"], ALL, speeds={"w8a8": 1.0}, spread=3)
        for room in (200, 80, 60):
            text = ane_bench.comparison(base, base, "table", room=room)
            rows = text.split("\n\n")[1].splitlines()
            self.assertEqual(len(rows), 8)
            self.assertLessEqual(max(map(len, rows)), room)
            self.assertEqual("NEW Ratio" in rows[0], room > 80)
            self.assertIn("Verdict", rows[0])
        usual = was(configs=ORIGINAL)
        self.assertIn(" ±95% Verdict\n", ane_bench.comparison(usual, usual, "table", room=60))


class Gated(NamedTuple):
    """A use of the gate: two records, the exit code, and what is said."""

    what: str
    code: int
    words: str = ""
    base: Any = None
    new: Any = None
    options: Sequence[str] = ("--fail-if-slower", "5")


RATIO = ("--fail-if-ratio-drops", "3")
BOTH = ("--fail-if-slower", "5", *RATIO)
TWO = (Config(64, 8, 2), Config(32, 8, 2))
NOTHING_RIGHT = [(0, "fp16"), (0, "w8a8")]
UNVERIFIED = Settings(verify=0)
# 85.9 TOPS in FP16 on a chip that is rated for 38; of the other variant 17.2.
FAST: Mapping[str, Any] = {"configs": [Config(512, 64, 64)], "ms": {"fp16": 1.6, "w8a8": 8.0}}


def was(ms: Optional[Mapping[str, float]] = None, change: Optional[Callable[[Run], Any]] = None,
        **options: Any) -> Run:
    """Return a run that is usual but for some times, options, or a change to it."""
    run = timed({"fp16": 2.0, "w8a8": 1.0, **(ms or {})}, **options)
    if change:
        change(run)
    return run


def now(ms: Optional[Mapping[str, float]] = None, **options: Any) -> Run:
    """Return such a run of a day later."""
    return was(ms, **{"started": LATER, **options})


# All ways to pass, to fail, and to be refused.
GATE: Sequence[Gated] = (
    # What passes.
    Gated("the same figures", 0, base=was(), new=now(), options=BOTH),
    Gated("noisy ones", 0, "FP16 64x8x2: undecided: its speed may be 0.818x that of BASE; the "
          "limit is 0.952x, and more --seconds in both records tell more\nane_bench: W8A8 64x8x2: ",
          was(spread=0.2), now(spread=0.21)),
    Gated("faster", 0, base=was(), new=now({"fp16": 1.0, "w8a8": 0.5}), options=BOTH),
    Gated("slower within the limit", 0, base=was(), new=now({"fp16": 2.08, "w8a8": 1.04})),
    Gated("both slower, the ratio stays", 0, base=was(), new=now({"fp16": 4.0, "w8a8": 2.0}),
          options=RATIO),
    Gated("a cell that failed before, too", 0, base=was(failed=[(0, "w8a8")]),
          new=now(failed=[(0, "w8a8")])),
    Gated("a cell that failed before alone", 0, base=was(failed=[(0, "w8a8")]), new=now()),
    Gated("more cells than before", 0, base=was(), new=now(configs=TWO)),
    Gated("NEW broken off, but with all of BASE", 0, base=was(), new=now(configs=TWO, measured=1)),
    Gated("other rounds", 0, base=was(), new=now(rounds=30, each=1)),
    Gated("another seed and timeout", 0, base=was(),
          new=now(settings=Settings(seed=7, timeout=9.0))),
    Gated("reference engines, which have no chip", 0, base=was(engine="reference", system={}),
          new=now(engine="reference", system={})),
    Gated("neither was verified", 0, base=was(settings=UNVERIFIED), new=now(settings=UNVERIFIED)),
    Gated("two in one file", 0, base=json.dumps([was().to_dict(), now().to_dict()])),
    Gated("of the same second", 0, base=was(), new=was({"w8a8": 1.001})),
    Gated("an impossible rate", 0, "FP16 512x64x64: left out: 85.9 TOPS is more than Apple M4",
          was(**{**FAST, "ms": {"fp16": 8.0, "w8a8": 8.0}}), now(**FAST)),
    Gated("a ratio that is noisy in NEW", 0, "undecided: its ratio may be", was(),
          now({"w8a8": 1.04}, spread=0.2), RATIO),
    Gated("a ratio that was noisy in BASE", 0, "undecided: its ratio may be", was(spread=0.2),
          now({"w8a8": 1.04}), RATIO),
    # What fails.
    Gated("slower", 1, "W8A8 64x8x2: its speed is 0.943x", was(), now({"w8a8": 1.06})),
    Gated("slower than a narrow limit", 1, "FP16 64x8x2: its speed is 0.985x", was(),
          now({"fp16": 2.03}), ("--fail-if-slower", "1")),
    Gated("much slower beyond noise", 1, "its speed is 0.500x", was(spread=0.05),
          now({"w8a8": 2.0}, spread=0.05)),
    Gated("the ratio drops", 1, "W8A8 64x8x2: its ratio is 0.500x", was(), now({"fp16": 1.0}),
          RATIO),
    Gated("the ratio drops, and times are within the limit", 1, "its ratio is 0.962x", was(),
          now({"w8a8": 1.04}), BOTH),
    Gated("fails now", 1, "W8A8 64x8x2: failed in stage compile", was(), now(failed=[(0, "w8a8")])),
    Gated("fails now, for the ratio", 1, "failed in stage compile", was(),
          now(failed=[(0, "fp16")]), RATIO),
    Gated("is wrong now", 1, "failed in stage verify", was(),
          now({"w8a8": 0.1}, wrong=[(0, "w8a8")]), BOTH),
    Gated("everything fails now", 1, "failed in stage", was(), now(failed=NOTHING_RIGHT), BOTH),
    Gated("says that it verified, and did not", 1, "W8A8 64x8x2: was not verified in NEW", was(),
          now(change=lambda run: run.cells[1].verified.clear())),
    Gated("a variant is missing", 1, "W8A8 64x8x2: missing from NEW", was(),
          timed({"fp16": 2.0}, started=LATER)),
    Gated("NEW broken off", 1, "W8A8 32x8x2: missing from NEW", was(configs=TWO),
          now(configs=TWO, measured=1)),
    Gated("impossible before, and fails now", 1, "failed in stage compile", was(**FAST),
          now(**{**FAST, "failed": [(0, "fp16")]})),
    # What allows no verdict.
    Gated("the same record", 2, "BASE and NEW are the same record", was(), was()),
    Gated("the same record, condensed", 2, "BASE and NEW are the same record", was(),
          ane_bench.condensed(was())),
    Gated("NEW is older", 2,
          f"NEW (2026-01-02T03:04:05+00:00) is older than BASE ({LATER}): swapped?", now(), was()),
    Gated("another engine", 2, "differ in engine (ane / stand-in)", was(), now(engine="stand-in")),
    Gated("another chip", 2, "differ in chip (Apple M4 / Apple M4 Pro)", was(),
          now(system={**M4, "chip": "Apple M4 Pro"})),
    Gated("another model", 2, "differ in model (Mac16,1 / Mac16,12)", was(),
          now(system={**M4, "model": "Mac16,12"})),
    Gated("unknown chips", 2, "records do not name their chip", was(system={}), now(system={})),
    Gated("another revision of the data", 2, "differ in data (1 / ",
          was(change=lambda run: setattr(run, "data", 1)), now()),
    Gated("another QoS", 2, "differ in qos (21 / 9)", was(), now(settings=Settings(qos=9))),
    Gated("another baseline", 2, "differ in baseline (fp16 / w8a8)", was(),
          timed({"w8a8": 1.0, "fp16": 2.0}, started=LATER)),
    Gated("NEW is not verified", 2, "NEW was not verified, and BASE was", was(),
          now(settings=UNVERIFIED)),
    Gated("few rounds", 2, "too few rounds for an interval; record both again", was(rounds=4),
          now(rounds=4)),
    Gated("the original", 2, "records have no intervals", was(settings=AS_ORIGINAL),
          now(settings=AS_ORIGINAL)),
    Gated("BASE broken off", 2, "BASE is not whole (", was(configs=TWO, measured=1),
          now(configs=TWO)),
    Gated("no cell is right in both", 2, "no cell is right in both BASE and NEW; ", was(),
          was(configs=TWO[1:]), ()),
    Gated("nothing is right in NEW", 2, "every cell of NEW failed: FP16", was(),
          was(failed=NOTHING_RIGHT), ()),
    Gated("nothing is right, and BASE comes first", 2,
          "every cell of BASE failed: FP16 64x8x2 failed in stage verify: no;",
          was(wrong=NOTHING_RIGHT, error="no"), was(failed=NOTHING_RIGHT), ()),
    Gated("nothing is right in BASE", 2,
          "every cell of BASE failed: FP16 64x8x2 failed in stage compile",
          was(failed=NOTHING_RIGHT), now()),
    Gated("nothing that is possible", 2, "nothing is left to compare: FP16 512x64x64: left out: 85",
          was(**{**FAST, "failed": [(0, "w8a8")]}), now(**FAST)),
    Gated("an impossible rate, in half of a ratio", 2,
          "has nothing to compare; FP16 512x64x64: left out: 85.9",
          was(**{**FAST, "ms": {"fp16": 8.0, "w8a8": 8.0}}), now(**FAST), RATIO),
    Gated("one variant has no ratio", 2, "nothing to compare; record both with a second variant",
          timed({"fp16": 2.0}), timed({"fp16": 2.0}, started=LATER), BOTH),
    Gated("one variant has no ratio, and is noisy", 2, "; record both with a second variant",
          timed({"fp16": 2.0}, spread=0.2), timed({"fp16": 2.0}, spread=0.2, started=LATER), BOTH),
    Gated("no ratio was right in BASE", 2, "has nothing to compare; FP16 64x8x2 failed in stage",
          was(failed=[(0, "fp16")]), now(), RATIO))


class GateTest(support.DirectoryCase):
    """The gate: 1 means slower, failed or missing, 2 that nothing can be told, and 0 that all was
    compared. Without a limit any two are compared, unless no cell is right in both."""

    def test_every_way(self) -> None:
        for way in GATE:
            with self.subTest(way.what):
                paths = [written(self.directory / f"{number}.json", record)
                         for number, record in enumerate((way.base, way.new)) if record is not None]
                for form in ("table", "json", "markdown"):
                    done = command("compare", *paths, *way.options, "--format", form)
                    self.assertEqual(done.code, way.code, done.errors)
                    self.assertIn(way.words, done.errors)
                    self.assertEqual(bool(done.output), way.code != 2)
                    self.assertTrue(way.words or not done.errors, done.errors)
                    self.assertRegex(done.errors, r"\A(ane_bench: [^\n]+\n)*\Z")
                done = command("compare", *paths)
                self.assertTrue(done.code == 0 or " cell " in done.errors, done.errors)

    def test_it_fails_nothing_whose_verdict_is_undecided(self) -> None:
        draw, failures = random.Random(11), 0
        for _ in range(300):
            base, new = was(), noisy(draw, 0.08, 1.05)
            failed, _ = ane_bench.gate(base, new, 0.1, None)
            slower = [item.new.name for item in ane_bench.compare(base, new)
                      if item.verdict == "slower"]
            self.assertLessEqual({line.split(":")[0] for line in failed}, set(slower))
            failures += len(failed)
        self.assertGreater(failures, 10)
