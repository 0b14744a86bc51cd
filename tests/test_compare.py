"""Section 14: records compared, and the gate for CI, which passes nothing that it has not compared."""

import json
import math
import random
import re
import unittest
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

import ane_bench
from ane_bench import Config, Run, Settings
from tests import support
from tests.runs import ALL, AS_ORIGINAL, M4, ORIGINAL, as_before, block_of, command, made_run, written
from tests.support import Finished

SMALL = (Config(64, 8, 2),)
LONG = Settings(iters=50, rounds=10)


def timed(ms: Mapping[str, float], *, spread: float = 0.0, settings: Settings = LONG,
          configs: Sequence[Config] = SMALL, **options: Any) -> Run:
    """Return a run whose evaluates take some ms, exactly unless rounds differ by `spread`. The clock ticks in ns."""
    run = made_run(configs, tuple(ms), settings=settings, **options)
    draw = random.Random(7)
    run.tick_ns = 1.0
    for cell in run.cells:
        cell.tick_ns = 1.0
        cell.samples_ns = [[ms[cell.variant] * 1e6 * (1 + spread * draw.uniform(-1, 1))] * len(samples)
                           for samples in cell.samples_ns]
    return run


class CompareCase(support.DirectoryCase):
    """A test that saves runs and compares them by the command line."""

    def compare(self, *records: Any, options: Sequence[str] = ()) -> Finished:
        """Compare runs, records or texts."""
        paths = [written(self.directory / f"{number}.json", record) for number, record in enumerate(records)]
        done = command("compare", *paths, *options)
        self.assertNotIn("Traceback", done.errors)
        return done

    def verdicts(self, base: Run, new: Run) -> dict[str, tuple[str, str]]:
        """Return speed and verdict of each variant of two runs of one configuration, as the table says them."""
        output = self.compare(base, new).output
        lines = re.findall("^(?:FP16|W8A16|W8A8) .*", output, re.MULTILINE)
        found = [re.match(r"(\w+) .*? ([0-9.]+)x +(?:[0-9.]+-[0-9.]+ +)?([a-z]+)", line) for line in lines]
        return {match[1]: (match[2], match[3]) for match in found if match}


class TwoTest(CompareCase):
    """Two records: times, speeds, verdicts and ratios, and first what differs."""

    def test_faster_slower_same(self) -> None:
        base, new = timed(dict.fromkeys(ALL, 1.0)), timed({"fp16": 0.75, "w8a16": 1.2, "w8a8": 1.0})
        self.assertEqual(self.verdicts(base, new),
                         {"FP16": ("1.33", "faster"), "W8A16": ("0.83", "slower"), "W8A8": ("1.00", "same")})
        self.assertEqual(self.verdicts(new, base),
                         {"FP16": ("0.75", "slower"), "W8A16": ("1.20", "faster"), "W8A8": ("1.00", "same")})

    def test_the_whole_table(self) -> None:
        base = timed({"fp16": 2.0, "w8a8": 1.0}, configs=ORIGINAL[:2])
        new = timed({"fp16": 2.0, "w8a8": 0.9}, configs=ORIGINAL[:2])
        new.warn("busy", "other programs")
        done = self.compare(base, new)
        self.assertEqual((done.code, done.errors), (0, ""))
        self.assertEqual(done.output, """\
BASE  M4, h16g, macOS 26.4, 2026-01-02T03:04:05+00:00
NEW   M4, h16g, macOS 26.4, 2026-01-02T03:04:05+00:00

Cell                        BASE ms  NEW ms  Speed          95%  Verdict  BASE Ratio  NEW Ratio
-----------------------------------------------------------------------------------------------
FP16 128x conv 512ch 64x64    2.000   2.000  1.00x  1.000-1.000     same
W8A8 128x conv 512ch 64x64    1.000   0.900  1.11x  1.111-1.111   faster       2.00x      2.22x
FP16 64x conv 512ch 64x64     2.000   2.000  1.00x  1.000-1.000     same
W8A8 64x conv 512ch 64x64     1.000   0.900  1.11x  1.111-1.111   faster       2.00x      2.22x

NEW: FP16 is 1.000x as fast (geometric mean of 2 cells)
NEW: W8A8 is 1.111x as fast (geometric mean of 2 cells)
NEW: warning (busy) other programs
Intervals are those within a run; two runs of one machine may differ by more, so verdicts take them twice as wide.
""")

    def test_undecided(self) -> None:
        base = timed({"fp16": 2.0, "w8a16": 1.0, "w8a8": 1.0})
        noisy = timed({"fp16": 2.0, "w8a16": 1.0, "w8a8": 0.3}, spread=0.2)
        self.assertEqual({name: verdict for name, (_, verdict) in self.verdicts(base, noisy).items()},
                         {"FP16": "undecided", "W8A16": "undecided", "W8A8": "faster"})
        self.assertEqual(set(self.verdicts(noisy, noisy).values()), {("1.00", "undecided")})

    def test_what_has_no_interval_decides_nothing(self) -> None:
        enough, fast = timed({"fp16": 2.0, "w8a8": 1.0}), {"fp16": 0.2, "w8a8": 1.0}
        few = timed(fast, settings=Settings(iters=8, rounds=4))
        nothing = {"FP16": ("10.00", "undecided"), "W8A8": ("1.00", "undecided")}
        self.assertEqual(self.verdicts(enough, few), nothing)
        self.assertEqual(self.verdicts(few, few), {"FP16": ("1.00", "undecided"), "W8A8": ("1.00", "undecided")})
        original = timed(fast, settings=AS_ORIGINAL)
        self.assertEqual(self.verdicts(enough, original), nothing)
        coarse = timed(fast)
        coarse.tick_ns = 2e6
        self.assertEqual({verdict for _, verdict in self.verdicts(enough, coarse).values()}, {"undecided"})

    def test_the_originals_means_are_compared(self) -> None:
        base, new = (made_run(settings=AS_ORIGINAL) for _ in range(2))
        new.cells[0].samples_ns[0][0] *= 51
        self.assertEqual(self.verdicts(base, new)["FP16"], ("0.50", "undecided"))
        usual = made_run(spread=0)
        self.assertEqual(self.verdicts(usual, new)["FP16"], ("0.50", "undecided"))

    def test_a_verdict_needs_twice_the_interval(self) -> None:
        # Rounds alternate between two speeds; the 95 % interval lies within them, and verdicts go by one twice as wide.
        for low, high, verdict in ((0.99, 1.01, "same"), (1.001, 1.009, "same"), (0.99, 1.02, "undecided"),
                                   (0.98, 1.0, "undecided"), (0.7, 1.4, "undecided"), (1.003, 1.03, "undecided"),
                                   (0.97, 0.998, "undecided"), (1.012, 1.03, "faster"), (0.9, 0.95, "slower")):
            base, new = (timed({"fp16": 1.0}, settings=Settings(iters=20, rounds=20)) for _ in range(2))
            for number, samples in enumerate(new.cells[0].samples_ns):
                samples[0] = 1e6 / (low, high)[number // 2 % 2]
            item, = ane_bench.compare(base, new)
            assert item.interval
            self.assertTrue(low < item.interval[0] < item.speed < item.interval[1] < high)
            self.assertEqual(item.verdict, verdict, (low, high))

    def test_the_gate_fails_nothing_whose_verdict_is_undecided(self) -> None:
        draw = random.Random(11)
        for _ in range(300):
            base, new = run_of(), run_of()
            for cell in new.cells:
                cell.samples_ns = [[sample[0] * draw.lognormvariate(0.05, 0.08)] * 5 for sample in cell.samples_ns]
            failed, _ = ane_bench.gate([base, new], 0.1, None)
            slower = [item.new.name for item in ane_bench.compare(base, new) if item.verdict == "slower"]
            self.assertLessEqual({line.split(":")[0] for line in failed}, set(slower))

    def test_false_verdicts_of_equal_runs_are_rare(self) -> None:
        draw, false, count = random.Random(3), 0, support.reduced(4000, 400, "comparisons of equal runs")
        for _ in range(count):
            pair = [timed({"fp16": 1.0}) for _ in range(2)]
            for run in pair:
                run.cells[0].samples_ns = [[1e6 * draw.lognormvariate(0, 0.1)] * 5 for _ in range(10)]
            item, = ane_bench.compare(*pair)
            false += item.verdict in ("faster", "slower")
        self.assertLess(false / count, 0.05 + 2 * math.sqrt(0.05 * 0.95 / count))

    def test_differing_machines_and_protocols_are_named_first(self) -> None:
        base = timed({"fp16": 1.0, "w8a8": 1.0})
        system = {"chip": "Apple M5 Max", "python": "3.12.1", "ane_subtype": "h16g", "load_average": 9.5}
        new = timed({"w8a8": 1.0, "fp16": 1.0}, system=system, engine="stand-in",
                    settings=Settings(iters=20, rounds=5, qos=9, input="zeros", verify=0))
        new.version, new.data = "9.9.9", 1
        lines = self.compare(base, new).output.splitlines()
        self.assertEqual(lines[:15], [
            "BASE  M4, h16g, macOS 26.4, 2026-01-02T03:04:05+00:00",
            "NEW   stand-in library, M5 Max, h16g, 2026-01-02T03:04:05+00:00",
            "differs in engine: ane / stand-in",
            f"differs in version: {ane_bench.__version__} / 9.9.9",
            "differs in data: 2 / 1 (revisions of weights and input: other programs were timed)",
            "differs in baseline: fp16 / w8a8",
            "differs in chip: Apple M4 / Apple M5 Max",
            "differs in macos: 26.4 / unknown",
            "differs in iters: 50 / 20", "differs in rounds: 10 / 5", "differs in qos: 21 / 9",
            "differs in input: random / zeros (zeros run faster)", "differs in verify: 1 / 0", "",
            "Cell                   BASE ms  NEW ms  Speed          95%  Verdict  BASE Ratio  NEW Ratio"])
        self.assertEqual(set(self.verdicts(base, new).values()), {("1.00", "same")})

    def test_cells_in_one_only_and_failed_ones(self) -> None:
        base = timed({"fp16": 1.0, "w8a8": 1.0}, configs=(Config(64, 8, 2), Config(32, 8, 2)))
        new = timed({"fp16": 1.0, "w8a8": 1.0}, configs=(Config(64, 8, 2), Config(16, 8, 2)), wrong=[(0, "w8a8")],
                    error="it is off")
        self.assertEqual(self.verdicts(base, new), {"FP16": ("1.00", "same")})
        self.assertEqual(self.compare(base, new).output.split("\n\n")[2].splitlines(), [
            "only in BASE, not in NEW: FP16 2x conv 32ch 8x8, W8A8 2x conv 32ch 8x8",
            "only in NEW: FP16 2x conv 16ch 8x8, W8A8 2x conv 16ch 8x8",
            "NEW: W8A8 2x conv 64ch 8x8: failed in stage verify: it is off",
            "Intervals are those within a run; two runs of one machine may differ by more, so verdicts take "
            "them twice as wide."])

    def test_json(self) -> None:
        base, new = timed({"fp16": 2.0, "w8a8": 1.0}), timed({"fp16": 2.0, "w8a8": 0.5})
        found = json.loads(self.compare(base, new, options=("--format", "json")).output)
        self.assertEqual(found["schema"], "ane-bench-compare/1")
        names = ("record", "config", "variant", "verdict")
        self.assertEqual([[cell[name] for name in names] for cell in found["cells"]],
                         [["NEW", "64x8x2", "fp16", "same"], ["NEW", "64x8x2", "w8a8", "faster"]])
        cell = found["cells"][1]
        self.assertAlmostEqual(cell["speed"], 2.0)
        self.assertTrue(cell["ci95"][0] <= 2 <= cell["ci95"][1])
        self.assertEqual([cell[name] for name in ("base_ms", "new_ms")], [1.0, 0.5])
        self.assertEqual([round(cell[name]["value"], 3) for name in ("base_ratio", "new_ratio")], [2.0, 4.0])
        self.assertIn("Intervals are those within a run", found["notes"][-1])
        self.assertNotIn("failed", found)

    def test_json_of_the_gate(self) -> None:
        base, new = timed({"fp16": 2.0, "w8a8": 1.0}), timed({"fp16": 2.0, "w8a8": 1.5})
        done = self.compare(base, new, options=("--format", "json", "--fail-if-slower", "5"))
        found = json.loads(done.output)
        self.assertEqual((done.code, found["undecided"]), (1, []))
        self.assertEqual(found["failed"], ["W8A8 2x conv 64ch 8x8: takes 50.0% longer"])
        self.assertEqual(done.errors, f"ane_bench: {found['failed'][0]}\n")

    def test_markdown(self) -> None:
        output = self.compare(timed({"fp16": 2.0}), timed({"fp16": 1.0}), options=("--format", "markdown")).output
        lines = output.splitlines()
        self.assertEqual(lines[3:6], [
            "| Cell | BASE ms | NEW ms | Speed | 95% | Verdict | BASE Ratio | NEW Ratio |",
            "|:--|--:|--:|--:|--:|--:|--:|--:|",
            "| FP16 2x conv 64ch 8x8 | 2.000 | 1.000 | 2.00x | 2.000-2.000 | faster |  |  |"])
        self.assertTrue(lines[-1].startswith("- Intervals are those within a run"))

    def test_from_python(self) -> None:
        base, new = timed({"fp16": 2.0, "w8a8": 1.0}), timed({"fp16": 1.0, "w8a8": 1.0}, wrong=[(0, "w8a8")])
        item, = ane_bench.compare(base, new)
        self.assertEqual((item.base, item.new, item.verdict), (base.cells[0], new.cells[0], "faster"))
        self.assertAlmostEqual(item.speed, 2.0)


class ManyTest(CompareCase):
    """Three records and more: a column for each."""

    def test_the_whole_table(self) -> None:
        runs = [timed({"fp16": 20.0, "w8a8": 10.0}, configs=ORIGINAL[:1]),
                timed({"fp16": 10.0, "w8a8": 2.0}, configs=ORIGINAL[:1]),
                timed({"fp16": 20.0}, configs=ORIGINAL[:1], system={**M4, "chip": "Apple M1"})]
        done = self.compare(*runs)
        self.assertEqual((done.code, done.errors), (0, ""))
        self.assertEqual(done.output, """\
BASE  M4, h16g, macOS 26.4, 2026-01-02T03:04:05+00:00
NEW1  M4, h16g, macOS 26.4, 2026-01-02T03:04:05+00:00
NEW2  M1, h16g, macOS 26.4, 2026-01-02T03:04:05+00:00
NEW2 differs in chip: Apple M4 / Apple M1

Cell                                          BASE               NEW1              NEW2
---------------------------------------------------------------------------------------
FP16 128x conv 512ch 64x64        13.74 TOPS 1.00x   27.49 TOPS 2.00x  13.74 TOPS 1.00x
W8A8 128x conv 512ch 64x64        27.49 TOPS 1.00x  137.44 TOPS 5.00x                 –
W8A8 128x conv 512ch 64x64 Ratio             2.00x              5.00x                 –

only in BASE, not in NEW2: W8A8 128x conv 512ch 64x64
Intervals are those within a run; two runs of one machine may differ by more, so verdicts take them twice as wide.
""")

    def test_json_has_the_cells_of_all(self) -> None:
        runs = [timed({"fp16": 2.0, "w8a8": 1.0}) for _ in range(4)]
        found = json.loads(self.compare(*runs, options=("--format", "json")).output)
        self.assertEqual([cell["record"] for cell in found["cells"]], ["NEW1"] * 2 + ["NEW2"] * 2 + ["NEW3"] * 2)

    def test_one_record_is_not_enough(self) -> None:
        done = self.compare(timed({"fp16": 2.0}))
        self.assertEqual((done.code, done.output), (2, ""))
        self.assertIn("compare needs at least two records, BASE and NEW; 1 was given", done.errors)


class Gated(NamedTuple):
    """A use of the gate: two records or other ones, the exit code, and what is said."""

    what: str
    code: int
    words: str = ""
    base: Any = None
    new: Any = None
    others: Sequence[Any] = ()
    options: Sequence[str] = ("--fail-if-slower", "5")


RATIO = ("--fail-if-ratio-drops", "3")
BOTH = ("--fail-if-slower", "5", *RATIO)
USUAL: Mapping[str, float] = {"fp16": 2.0, "w8a8": 1.0}
TWO = (Config(64, 8, 2), Config(32, 8, 2))
FEW = Settings(iters=40, rounds=4)


def run_of(ms: Optional[Mapping[str, float]] = None, change: Optional[Callable[[Run], Any]] = None,
           **options: Any) -> Run:
    """Return a run that is usual but for some times, options, or a change to it."""
    run = timed({**USUAL, **(ms or {})}, **options)
    if change:
        change(run)
    return run


def without_variant(name: str) -> Run:
    """Return a usual run of the other variant."""
    return timed({variant: ms for variant, ms in USUAL.items() if variant != name})


def with_other_rounds(rounds: int) -> dict[str, Any]:
    """Return a record that states as many rounds, whatever its samples say."""
    record = run_of().to_dict()
    record["protocol"]["rounds"] = rounds
    return record


def coarse(run: Run) -> None:
    """Give a run a clock whose tick is longer than an evaluate."""
    run.tick_ns = 4e6


def verdictless(record: dict[str, Any], cells: str = "samples_ns") -> dict[str, Any]:
    """Return a record in which every cell is said to be right, and has no samples."""
    for result in record["results"]:
        for cell in result["variants"].values():
            cell.pop(cells, None)
    return record


NOTHING_RIGHT = [(0, "fp16"), (0, "w8a8")]
UNVERIFIED, ZEROS = LONG._replace(verify=0), LONG._replace(input="zeros")
BLOCK = block_of(json.dumps(run_of().to_dict()).encode())
OLD = as_before(run_of().to_dict())

# All ways to pass, to fail, and to be refused.
GATE: Sequence[Gated] = (
    # What passes.
    Gated("a record against itself", 0, base=run_of(), new=run_of(), options=BOTH),
    Gated("a noisy record against itself", 0, "undecided, takes at most", run_of(spread=0.2), run_of(spread=0.2)),
    Gated("faster", 0, base=run_of(), new=run_of({"fp16": 1.0, "w8a8": 0.5}), options=BOTH),
    Gated("slower within the limit", 0, base=run_of(), new=run_of({"fp16": 2.08, "w8a8": 1.04})),
    Gated("slower within a wider limit", 0, base=run_of(), new=run_of({"w8a8": 1.4}),
          options=("--fail-if-slower", "50")),
    Gated("both slower, the ratio stays", 0, base=run_of(), new=run_of({"fp16": 4.0, "w8a8": 2.0}), options=RATIO),
    Gated("a cell that failed before, too", 0, base=run_of(failed=[(0, "w8a8")]), new=run_of(failed=[(0, "w8a8")])),
    Gated("a cell that failed before alone", 0, base=run_of(failed=[(0, "w8a8")]), new=run_of()),
    Gated("more cells than before", 0, base=run_of(), new=run_of(configs=TWO)),
    Gated("NEW broken off, but with all of BASE", 0, base=run_of(), new=run_of(configs=TWO, measured=1)),
    Gated("condensed", 0, base=run_of(), new=ane_bench.condensed(run_of())),
    Gated("other rounds and iters", 0, base=run_of(), new=run_of(settings=Settings(iters=20, rounds=5))),
    Gated("another seed and timeout", 0, base=run_of(), new=run_of(settings=LONG._replace(seed=7, timeout=9.0))),
    Gated("reference engines, which have no chip", 0, base=run_of(engine="reference", system={}),
          new=run_of(engine="reference", system={})),
    Gated("neither was verified", 0, base=run_of(settings=UNVERIFIED), new=run_of(settings=UNVERIFIED)),
    Gated("two in one text", 0, base=2 * BLOCK),
    # What fails.
    Gated("slower", 1, "W8A8 2x conv 64ch 8x8: takes 6.0% longer", run_of(), run_of({"w8a8": 1.06})),
    Gated("slower than a narrow limit", 1, "FP16 2x conv 64ch 8x8: takes 1.5% longer", run_of(), run_of({"fp16": 2.03}),
          options=("--fail-if-slower", "1")),
    Gated("much slower beyond noise", 1, "longer", run_of(spread=0.05), run_of({"w8a8": 2.0}, spread=0.05)),
    Gated("the ratio drops", 1, "W8A8 2x conv 64ch 8x8: has a ratio that is 50.0% lower", run_of(),
          run_of({"fp16": 1.0}), options=RATIO),
    Gated("the ratio drops, and times are within the limit", 1, "ratio that is 3.8% lower", run_of(),
          run_of({"w8a8": 1.04}), options=BOTH),
    Gated("fails now", 1, "W8A8 2x conv 64ch 8x8: failed in stage compile", run_of(), run_of(failed=[(0, "w8a8")])),
    Gated("fails now, for the ratio", 1, "failed in stage compile", run_of(), run_of(failed=[(0, "fp16")]),
          options=RATIO),
    Gated("is wrong now", 1, "failed in stage verify", run_of(), run_of({"w8a8": 0.1}, wrong=[(0, "w8a8")]),
          options=BOTH),
    Gated("everything fails now", 1, "failed in stage", run_of(), run_of(failed=NOTHING_RIGHT), options=BOTH),
    Gated("a variant is missing", 1, "W8A8 2x conv 64ch 8x8: missing from NEW", run_of(), without_variant("w8a8")),
    Gated("a variant is missing, for the ratio", 1, "missing from NEW", run_of(), without_variant("w8a8"),
          options=RATIO),
    Gated("a configuration is missing", 1, "W8A8 2x conv 32ch 8x8: missing from NEW", run_of(configs=TWO), run_of()),
    Gated("all configurations are missing", 1, "missing from NEW", run_of(), run_of(configs=TWO[1:]), options=BOTH),
    Gated("NEW broken off", 1, "missing from NEW", run_of(configs=TWO), run_of(configs=TWO, measured=1)),
    Gated("the kernel differs", 1, "missing from NEW", run_of(), run_of(configs=[Config(64, 8, 2, 3)])),
    # What allows no verdict.
    Gated("one record", 2, "needs at least two records", run_of()),
    Gated("three records", 2, "3 records", run_of(), run_of(), [run_of()]),
    Gated("no such file", 2, "cannot be read", run_of(), others=["/nowhere/at/all.json"]),
    Gated("not a record", 2, "expected a record", run_of(), "{}"),
    Gated("an empty file", 2, "is neither a record", run_of(), ""),
    Gated("three in one text", 2, "3 records", 3 * BLOCK),
    Gated("three in one text, one of them damaged", 2, "damaged",
          block_of(b"{}") + 2 * BLOCK),
    Gated("another engine", 2, "different engines (ane and stand-in)", run_of(), run_of(engine="stand-in")),
    Gated("another chip", 2, "different chips (M4 and M4 Pro)", run_of(),
          run_of(system={**M4, "chip": "Apple M4 Pro"})),
    Gated("unknown chips", 2, "BASE does not name its chip", run_of(system={}), run_of(system={})),
    Gated("another input", 2, "different inputs (random and zeros)", run_of(), run_of(settings=ZEROS)),
    Gated("another revision of the data", 2, "different data revisions (1 and 2)",
          run_of(change=lambda run: setattr(run, "data", 1)), run_of()),
    Gated("another quality of service", 2, "different QoS (21 and 9)", run_of(), run_of(settings=LONG._replace(qos=9))),
    Gated("another baseline", 2, "different baselines (fp16 and w8a8)", run_of(), timed({"w8a8": 1.0, "fp16": 2.0})),
    Gated("NEW is not verified", 2, "NEW was not verified, and BASE was", run_of(), run_of(settings=UNVERIFIED)),
    Gated("few rounds in BASE", 2, "BASE has no intervals; record it without --original, with --rounds 5 or more",
          run_of(settings=FEW), run_of()),
    Gated("few rounds in NEW", 2, "NEW has no intervals", run_of(), run_of(settings=FEW)),
    Gated("rounds that are stated, and not there", 2, "contradict", with_other_rounds(5), run_of()),
    Gated("the original", 2, "BASE has no intervals", run_of(settings=AS_ORIGINAL), run_of(settings=AS_ORIGINAL)),
    Gated("BASE broken off", 2, "BASE is not known to be whole (1 of 2 configurations)",
          run_of(configs=TWO, measured=1), run_of(configs=TWO)),
    Gated("BASE of the first version", 2, "revisions (1 and 2)", OLD, run_of()),
    Gated("both of the first version", 2, "not known to be whole (an old record)", OLD,
          OLD),
    Gated("nothing is right in BASE", 2, "--fail-if-slower has nothing to compare", run_of(failed=NOTHING_RIGHT),
          run_of()),
    Gated("nothing is right in either", 2, "has nothing to compare", run_of(failed=NOTHING_RIGHT),
          run_of(failed=NOTHING_RIGHT)),
    Gated("no samples", 2, "contradict", verdictless(run_of().to_dict()), run_of()),
    Gated("one variant has no ratio", 2, "--fail-if-ratio-drops has nothing to compare", timed({"fp16": 2.0}),
          timed({"fp16": 2.0}), options=BOTH),
    Gated("no ratio was right in BASE", 2, "--fail-if-ratio-drops has nothing to compare",
          run_of(failed=[(0, "fp16")]), run_of(), options=RATIO),
    Gated("a clock that is too coarse", 2, "has nothing to compare", run_of(change=coarse), run_of(change=coarse)),
    Gated("a limit of nothing", 2, "expected a number above 0", run_of(), run_of(),
          options=("--fail-if-slower", "0")),
    Gated("a limit that is not a number", 2, "nan percent", run_of(), run_of(), options=("--fail-if-slower", "nan")),
    Gated("a limit below nothing", 2, "-5 percent", run_of(), run_of(), options=("--fail-if-slower=-5",)),
    Gated("a limit that nothing reaches", 2, "inf percent", run_of(), run_of(), options=("--fail-if-slower", "inf")),
    Gated("a ratio that may drop to nothing", 2, "100 percent", run_of(), run_of(),
          options=("--fail-if-ratio-drops", "100")),
    Gated("a limit that is missing", 2, "expected one argument", run_of(), run_of(), options=("--fail-if-slower",)),
    Gated("an option that does not exist", 2, "--fail-if-slow", run_of(), run_of(), options=("--fail-if-slow", "5")),
)


class GateTest(CompareCase):
    """The gate: 1 means slower, failed or missing, 2 that nothing can be told, and 0 that all was compared."""

    def test_every_way(self) -> None:
        for way in GATE:
            with self.subTest(way.what):
                found = [record for record in (way.base, way.new) if record is not None]
                paths = [written(self.directory / f"{number}.json", record) for number, record in enumerate(found)]
                paths += [other if isinstance(other, str) else written(self.directory / "other.json", other)
                          for other in way.others]
                for form in ("table", "json", "markdown"):
                    done = command("compare", *paths, *way.options, "--format", form)
                    self.assertEqual(done.code, way.code, done.errors)
                    self.assertIn(way.words, done.errors)
                    self.assertEqual(bool(done.output), way.code != 2)
                    self.assertTrue(way.words or not done.errors, done.errors)
                    self.assertRegex(done.errors, r"\A(ane_bench: [^\n]+\n)*\Z")

    def test_without_a_limit_nothing_fails(self) -> None:
        for way in GATE:
            if way.code == 1:
                self.assertEqual(self.compare(way.base, way.new).code, 0, way.what)

    def test_what_no_number_of_rounds_would_tell(self) -> None:
        done = self.compare(run_of(spread=0.3), run_of(spread=0.3), options=("--fail-if-slower", "1"))
        self.assertEqual(done.code, 0)
        self.assertIn("longer; it would take over 1000 rounds to tell: close other programs", done.errors)

    def test_a_terminal_of_80_columns(self) -> None:
        base, new = made_run(ORIGINAL, settings=LONG), made_run(ORIGINAL, settings=LONG, speeds={"w8a8": 20})
        wide, narrow = (ane_bench.comparison([base, new], "table", None, room) for room in (1000, 80))
        self.assertIn(" 95% ", wide)
        self.assertNotIn(" 95% ", narrow)
        shown = ane_bench.show([base, new], "table", 80)
        self.assertIn("Started", ane_bench.show([base, new], "table"))
        for text, beginnings, count in ((narrow, ("Cell", "FP16", "W8A8"), 11), (shown, ("Machine", "M4, "), 21)):
            rows = [line for line in text.splitlines() if line.startswith(beginnings)]
            self.assertEqual(len(rows), count)
            self.assertLessEqual(max(map(len, rows)), 80)

    def test_no_cell_in_both(self) -> None:
        done = self.compare(run_of(), run_of(configs=TWO[1:]))
        self.assertIn("\nnothing to compare: no cell is right in both BASE and NEW\n", done.output)

    def test_what_stays_undecided_says_how_much_slower_it_could_be_and_what_would_tell(self) -> None:
        for spread in (0.02, 0.06):
            base, new = run_of(spread=spread), run_of({"fp16": 2.0 * 1.02, "w8a8": 1.02}, spread=spread)
            done = self.compare(base, new, options=("--fail-if-slower", "2.5"))
            self.assertEqual(done.code, 0)
            for line in done.errors.splitlines():
                found = re.fullmatch(r"ane_bench: \w+ 2x conv 64ch 8x8: undecided, takes at most ([0-9.]+)% longer; "
                                     r"(?:about --rounds ([0-9]+) --iters ([0-9]+) in both records would tell|it .*)",
                                     line)
                assert found, line
                item = next(item for item in ane_bench.compare(base, new) if item.new.name in line)
                assert item.interval
                widest = 100 / (item.interval[0] ** 2 / item.speed) - 100
                self.assertAlmostEqual(float(found[1]), widest, delta=0.06)
                if not found[2]:
                    continue
                rounds, iters = int(found[2]), int(found[3])
                Settings(iters=iters, rounds=rounds).check()
                self.assertEqual(iters, 5 * rounds)

    @support.long_test
    def test_the_rounds_that_would_tell_do(self) -> None:
        def noisy(ms: float, settings: Settings, draw: random.Random) -> Run:
            run = timed({"fp16": ms}, settings=settings)
            run.cells[0].samples_ns = [[1e6 * ms * draw.lognormvariate(0, 0.05)] * 5 for _ in range(settings.rounds)]
            return run

        told = asked = 0
        for seed in range(20):
            draw, options = random.Random(seed), ("--fail-if-slower", "5")
            done = self.compare(noisy(1.0, LONG, draw), noisy(1.02, LONG, draw), options=options)
            found = re.search("--rounds ([0-9]+) --iters ([0-9]+)", done.errors)
            if found:
                more = Settings(iters=int(found[2]), rounds=int(found[1]))
                asked += 1
                pair = (noisy(1.0, more, draw), noisy(1.02, more, draw))
                told += "undecided" not in self.compare(*pair, options=options).errors
        self.assertGreater(asked, 8)
        self.assertGreater(told, 0.65 * asked, (told, asked))

    def test_equal_runs_fail_rarely(self) -> None:
        draw, false, count = random.Random(5), 0, support.reduced(2000, 300, "gates of equal runs")
        for _ in range(count):
            pair = [run_of() for _ in range(2)]
            for run in pair:
                for cell in run.cells:
                    cell.samples_ns = [[sample[0] * draw.lognormvariate(0, 0.05)] * 5 for sample in cell.samples_ns]
            false += bool(ane_bench.gate(pair, 0.1, 0.1)[0])
        self.assertLess(false / count, 4 * 0.025 + 2 * math.sqrt(0.1 * 0.9 / count))

    def test_output_that_cannot_be_written_is_not_slower(self) -> None:
        base = written(self.directory / "base.json", run_of())
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = support.run_command("compare", base, base, "--fail-if-slower", "5", stdout=full)
        self.assertEqual(done.code, 2, done.errors)
        self.assertIn("standard output: cannot be written: No space left on device", done.errors)


if __name__ == "__main__":
    unittest.main()
