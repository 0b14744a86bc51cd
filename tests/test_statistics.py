"""Section 9: simulated intervals cover what they say, ratios are fair, and throttling is told."""

import itertools
import math
import random
import statistics
import unittest
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Optional

from ane_bench import (
    Amount,
    Cell,
    Config,
    Difference,
    Estimate,
    Settings,
    combined,
    estimate,
    paired_ratio,
)
from tests.support import ALL

RUNS = 4000 if ALL else 300
SLACK = 0.6 if ALL else 3.5  # what so many runs scatter beyond the limits, in percent
LONG_RUNS = 200 if ALL else 12
COUNTS = (5, 7, 12, 24, 60) if ALL else (5, 12)

# The median of all times of each kind. Two exponential terms add up to a gamma distribution of
# shape 2; a drift is centred.
MEDIANS = {"gaussian": 1.0, "lognormal": 1.0, "exponential": 1 + 0.05 * 1.6783469900166612,
           "outliers": 1.0, "drift": 1.0}

# How the time of an evaluate changes over a run, by the part of it that is over: 10 % of the speed
# are lost at once in the middle, evenly, or at first, with a time constant of a fifth of the run.
SHAPES: dict[str, Callable[[float], float]] = {
    "flat": lambda part: 1.0, "step": lambda part: 1 / 0.9 if part >= 0.5 else 1.0,
    "ramp": lambda part: 1 / (1 - 0.1 * part),
    "decay": lambda part: 1 / (1 - 0.1 * (1 - math.exp(-5 * part)))}


def autoregression(count: int, correlation: float, source: random.Random) -> list[float]:
    """Return normal deviates whose neighbours correlate."""
    values, rest = [source.gauss(0, 1)], math.sqrt(1 - correlation ** 2)
    for _ in range(count - 1):
        values.append(correlation * values[-1] + rest * source.gauss(0, 1))
    return values


def medians(kind: str, count: int, source: random.Random, correlation: float = 0) -> list[float]:
    """Return the medians of rounds of five evaluates of about 1. Rounds differ by as much as
    evaluates within a round, and by the correlation resemble their neighbours."""
    found = []
    for number, outer in enumerate(autoregression(count, correlation, source)):
        inner = [source.gauss(0, 1) for _ in range(5)]
        if kind == "exponential":  # of the same quantile as the normal deviate
            outer = -math.log(max(1e-12, math.erfc(outer / math.sqrt(2)) / 2))
            times = [1 + 0.05 * (outer + source.expovariate(1)) for _ in inner]
        elif kind == "lognormal":
            times = [math.exp(0.15 * (outer + each)) for each in inner]
        else:
            shift = 0.1 * (number / (count - 1) - 0.5) if kind == "drift" else 0.0
            times = [(10 if kind == "outliers" and source.random() < 0.02 else 1)
                     * (1 + shift + 0.05 * (outer + each)) for each in inner]
        found.append(statistics.median(times))
    return found


def covers(interval: Optional[Sequence[float]], truth: float) -> bool:
    """Return whether there is an interval that holds the truth."""
    return interval is not None and interval[0] <= truth <= interval[1]


def difference(quotient: Estimate) -> Difference:
    """Return what `compare` finds of two cells, whose times have that quotient."""
    cell = Cell(Config(64, 64, 2), "fp16", Settings())
    return Difference(cell, cell, quotient.value, quotient.interval)


def simulate(kind: str, count: int, correlation: float = 0) -> tuple[dict[str, float], float]:
    """Return in how many percent of simulated runs each interval covers, how many verdicts are
    right, and by which part the centre differs from the median of all times. The truth of a time
    is what its centre is on average."""
    source, found = random.Random(f"{kind} {count} {correlation}"), Counter[str]()
    pairs = [[medians(kind, count, source, correlation) for _ in range(2)] for _ in range(RUNS)]
    times = [[estimate(values) for values in pair] for pair in pairs]
    truth = math.exp(statistics.fmean(each.centre for pair in times for each in pair))
    for (base, new), (one, other) in zip(pairs, times):
        # 20 TOPS beside a fixed cost of 0.5 ms: 10 operations take 1, and 20 take 1.5.
        deep = other._replace(centre=other.centre + math.log(1.5))
        rate, fixed = combined([(1, deep), (-1, one)]), combined([(2, one), (-1, deep)])
        found["time"] += covers(one.interval, truth)
        found["ratio"] += covers(paired_ratio(base, new).interval, 1)
        found["speed"] += covers(one.over(other).interval, 1)
        found["layer"] += covers(rate.interval, 0.5 * truth)
        found["fixed"] += covers(fixed.interval, 0.5 * truth)
        found["verdict"] += covers(difference(one.over(other)).widened, 1)
    return ({name: number * 100 / RUNS for name, number in found.items()},
            truth / MEDIANS[kind] - 1)


class CoverageTest(unittest.TestCase):
    """Intervals of 95 %, of each figure."""

    def test_independent_rounds(self) -> None:
        """A combination of two runs has the freedom of one: its interval may be too wide."""
        for kind, count in itertools.product(("gaussian", "lognormal", "exponential"), COUNTS):
            found, bias = simulate(kind, count)
            with self.subTest(kind=kind, count=count, found=found):
                for name in ("time", "ratio"):
                    self.assertGreaterEqual(found[name], 92.5 - SLACK)
                    self.assertLessEqual(found[name], 97.5 + SLACK)
                for name in ("speed", "layer", "fixed"):
                    self.assertGreaterEqual(found[name], 93.5 - SLACK)
                self.assertGreaterEqual(found["verdict"], 99.5 - SLACK)
                self.assertLess(abs(bias), 0.006)

    def test_outliers_and_drift(self) -> None:
        for kind in ("outliers", "drift"):
            found, bias = simulate(kind, 12)
            with self.subTest(kind=kind, found=found):
                self.assertGreaterEqual(min(found.values()), 92.5 - SLACK)
                self.assertLess(abs(bias), 0.006)

    def test_rounds_that_resemble_their_neighbours(self) -> None:
        """Few rounds do not show all of a correlation of 0.5; verdicts are made for it."""
        for count in COUNTS:
            found, _ = simulate("gaussian", count, 0.5)
            with self.subTest(count=count, found=found):
                self.assertGreaterEqual(min(found.values()), 82 - SLACK)
                self.assertGreaterEqual(found["verdict"], 97 - SLACK)


class EstimateTest(unittest.TestCase):
    """The estimator, by hand."""

    def test_the_mean_of_logarithms_with_its_error(self) -> None:
        found = estimate([math.exp(value) for value in (1, 5, 3, 4, 2)])
        # Residuals -2, 2, 0, 1, -1: squares 10, lag 1 -5 in all, so no widening.
        self.assertAlmostEqual(found.centre, 3)
        self.assertAlmostEqual(found.error, math.sqrt(10 * 4 / 5) / 4)
        self.assertEqual(found.freedom, 4)
        low, _ = found.interval or [0, 0]
        self.assertAlmostEqual(math.log(low), 3 - 2.776445 * math.sqrt(0.5), delta=0.002)
        # In order the lag 1 is 4 of 10, and one of 5 is missing: widened by 1.6 / 0.4.
        found = estimate([math.exp(value) for value in (1, 2, 3, 4, 5)])
        self.assertAlmostEqual(found.error, math.sqrt(10 * 4 / 5 * 1.6 / 0.4) / 4)

    def test_the_most_extreme_tenth_is_clipped(self) -> None:
        values = [1.0, 1.2, 1.1, 1.3, 1.1, 1.2, 1.3, 1.1, 1.2, 1.2]
        wild = [1e-3, *values[1:3], 1e3, *values[4:]]
        self.assertTrue(1.15 < estimate(wild).value < 1.25)
        self.assertEqual(estimate(wild).freedom, 7)
        self.assertEqual(estimate(values * 2 + [1e9] * 2).freedom, 22 - 4 - 1)

    def test_neighbours_that_resemble_each_other_widen_it_by_at_most_0_9(self) -> None:
        steep = [1 + 0.01 * number for number in range(1000)]
        squares = sum((math.log(value) - estimate(steep).centre) ** 2 for value in steep)
        self.assertLess(estimate(steep).error, math.sqrt(19 * squares) / 799)

    def test_equal_times_have_an_interval_of_no_width(self) -> None:
        for end in estimate([3.0] * 7).interval or [0]:
            self.assertAlmostEqual(end, 3.0, places=12)

    def test_fewer_than_five_rounds_tell_no_interval(self) -> None:
        four, five = estimate([1.0, 2.0, 2.0, 1.0]), estimate([1.0, 2.0, 2.0, 1.0, 2.0])
        self.assertAlmostEqual(four.value, math.sqrt(2))
        self.assertIsNotNone(five.interval)
        for found in (four, five.over(four), paired_ratio([1.0] * 4, [2.0] * 4),
                      combined([(1, five), (-1, four)])):
            self.assertIsNone(found.interval)

    def test_the_quantile_of_t(self) -> None:
        for freedom, table in ((4, 2.776445), (7, 2.364624), (9, 2.262157), (15, 2.131450),
                               (30, 2.042272), (1000, 1.962339)):
            low, high = Amount(0.0, 1.0, freedom).interval or [0, 0]
            self.assertAlmostEqual(high / table, 1, delta=0.00003)
            self.assertEqual(low, -high)

    def test_a_verdict_takes_twice_the_width(self) -> None:
        one = Estimate(0.1, 0.01, 10)
        (_, high), (_, twice) = one.interval or [0, 0], difference(one).widened
        self.assertAlmostEqual(math.log(twice) - 0.1, 2 * (math.log(high) - 0.1))


class QuotientTest(unittest.TestCase):
    """How many times faster a variant is than the baseline, in the same rounds; and what two depths
    tell, by the delta method."""

    def test_exchanged_variants_give_the_inverse(self) -> None:
        source = random.Random(2)
        base, own = (medians(kind, 12, source) for kind in ("gaussian", "lognormal"))
        forth, back = paired_ratio(base, own), paired_ratio(own, base)
        self.assertAlmostEqual(forth.centre, -back.centre)
        self.assertAlmostEqual(forth.error, back.error)
        self.assertAlmostEqual(forth.value, estimate(base).value / estimate(own).value)

    def test_noise_that_both_share_cancels_out(self) -> None:
        base = medians("gaussian", 12, random.Random(3), 0.5)
        for end in paired_ratio(base, [value / 2 for value in base]).interval or [0]:
            self.assertAlmostEqual(end, 2)

    def test_the_order_of_turns_does_not_leak_into_it(self) -> None:
        """With rounds that are a multiple of the variants; 5 rounds of two gave 1.96 for 2."""
        for slower, variants in itertools.product((1.01, 1.1, 1.5), (2, 3)):
            for count in (12, 12 + variants):
                orders = [[(number + place) % variants for place in range(variants)]
                          for number in range(count)]
                base, own = ([time * (1 if order[0] == variant else slower) for order in orders]
                             for variant, time in ((0, 2.0), (variants - 1, 1.0)))
                with self.subTest(slower=slower, variants=variants, count=count):
                    found = paired_ratio(base, own)
                    self.assertAlmostEqual(found.value, 2, places=6)
                    self.assertTrue(covers(found.interval, 2))

    def test_two_depths_tell_both_figures(self) -> None:
        shallow, deep = estimate([1.1] * 12), estimate([2.1] * 12)
        layer = combined([(1, deep), (-1, shallow)])
        self.assertAlmostEqual(layer.value, 1)
        self.assertAlmostEqual(combined([(2.1, shallow), (-1.1, deep)]).value, 0)
        self.assertAlmostEqual(layer.over(Amount(0.5, 0, 11)).value, 2)

    def test_errors_add_up_as_squares(self) -> None:
        found = combined([(3, Estimate(0, 0.1, 9)), (-1, Estimate(math.log(2), 0.2, 7))])
        self.assertAlmostEqual(found.value, 1)
        self.assertAlmostEqual(found.error, 0.5)  # of 0.3 and 0.4
        self.assertEqual(found.freedom, 7)
        quotient = Amount(6, 0.3, 9).over(Amount(2, 0.2, 5))
        self.assertAlmostEqual(quotient.error, 3 * math.hypot(0.05, 0.1))
        self.assertEqual(quotient.freedom, 5)


def sustained(medians: Sequence[float], seconds: float) -> dict[str, Any]:
    """Return what a cell of these rounds, evenly begun, says of a run."""
    starts = [seconds * number / len(medians) for number in range(len(medians))]
    return Cell(Config(8, 2, 2), "fp16", Settings(), rounds_s=starts,
                samples_ns=[[1e6 * value] for value in medians]).sustained


class ThrottlingTest(unittest.TestCase):
    """What a machine sustains: told if it slows down, and not if it is noisy."""

    def told(self, shape: str, seconds: float, spacing_s: float, white: float, wander: float,
             constant_s: float = 10) -> tuple[float, float]:
        """Return in how many percent of runs throttling is told, and how many changes of runs
        without any lie within their intervals. Rounds begin every `spacing_s`; noise is white, and
        wanders with a time constant; both as standard deviations."""
        source, told, held = random.Random(f"{shape} {seconds} {wander}"), 0, 0
        count, correlation = round(seconds / spacing_s), math.exp(-spacing_s / constant_s)
        for _ in range(LONG_RUNS):
            slow = autoregression(count, correlation, source)
            found = sustained([SHAPES[shape](number / count)
                               * math.exp(white * source.gauss(0, 1) + wander * each)
                               for number, each in enumerate(slow)], seconds)
            told += found["throttled"]
            held += abs(found["change"]) <= found["half"]
        return told * 100 / LONG_RUNS, held * 100 / LONG_RUNS

    def test_step_ramp_and_decay_are_told(self) -> None:
        for shape, (seconds, spacing_s, white, wander) in itertools.product(
                ("step", "ramp", "decay"), ((600, 0.2, 0.006, 0), (600, 0.2, 0.006, 0.01),
                                            (120, 0.05, 0.003, 0), (30, 0.05, 0.003, 0))):
            with self.subTest(shape=shape, seconds=seconds, wander=wander):
                self.assertEqual(self.told(shape, seconds, spacing_s, white, wander)[0], 100)

    def test_white_and_wandering_noise_are_not(self) -> None:
        for seconds, spacing_s, white, wander, constant_s in (
                (600, 0.2, 0.03, 0, 10), (30, 0.5, 0.02, 0, 10), (600, 0.2, 0.006, 0.01, 10),
                (600, 0.2, 0.006, 0.02, 10), (600, 0.2, 0.006, 0.02, 3),
                (30, 0.05, 0.003, 0.01, 1)):
            told, held = self.told("flat", seconds, spacing_s, white, wander, constant_s)
            with self.subTest(seconds=seconds, white=white, wander=wander, constant_s=constant_s):
                self.assertEqual(told, 0)
                self.assertGreaterEqual(held, 91 if ALL else 75)

    def test_the_figures(self) -> None:
        found, tops = sustained([1.0] * 300 + [1 / 0.88] * 300, 60), Config(8, 2, 2).gop
        for own, expected in zip(found["tops"], [tops] * 5 + [0.88 * tops] * 5):
            self.assertAlmostEqual(own / expected, 1)
        for name, value in (("seconds", 60), ("change", -0.12), ("half", 0)):
            self.assertAlmostEqual(found[name], value)
        self.assertIs(found["throttled"], True)

    def test_a_change_of_four_percent_or_one_that_is_not_sure_is_none(self) -> None:
        self.assertFalse(sustained([1.0] * 300 + [1.04] * 300, 60)["throttled"])
        self.assertFalse(sustained([1.0, 0.8, 1.2] * 4 + [1.1] * 3, 60)["throttled"])
        self.assertFalse(sustained([1 / 0.88] * 300 + [1.0] * 300, 60)["throttled"], "faster")

    def test_less_than_half_a_minute_tells_nothing(self) -> None:
        self.assertEqual(sustained([1.0] * 100, 29), {})
        self.assertEqual(sustained([1.0], 60), {})

    def test_a_tenth_of_the_time_without_a_round_tells_nothing(self) -> None:
        """As when a Mac sleeps: what it sustained meanwhile is not known."""
        for pause, told in ((2.9, True), (13, False)):
            starts = [0.5 * number + pause * (number > 40) for number in range(100)]
            cell = Cell(Config(8, 2, 2), "fp16", Settings(), samples_ns=[[1e6]] * 100,
                        rounds_s=starts)
            self.assertEqual(bool(cell.sustained), told)
