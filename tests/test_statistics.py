"""Section 8, statistics: simulated intervals cover what they say; the ratio is fair; patterns are seen."""

import math
import os
import random
import statistics
import unittest
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Optional

import ane_bench
from tests import noise

ALL = os.environ.get("ANE_BENCH_TESTS") == "all"
RUNS = 4000 if ALL else 250
SLACK = 0.0 if ALL else 4.0  # what 250 runs scatter beyond the limits, in percent
PATTERN_RUNS = 400 if ALL else 50

Levels = Callable[[int, random.Random], list[float]]


def covers(interval: Optional[Sequence[float]], truth: float) -> bool:
    """Return whether an interval holds the truth. An interval that cannot be told claims nothing that is false."""
    return interval is None or interval[0] <= truth <= interval[1]


def coverage(kind: str, count: int, correlation: float) -> dict[str, float]:
    """Return in how many percent of simulated runs each interval covers, and how many verdicts are right."""
    source, middle, found = random.Random(f"{kind} {count} {correlation}"), noise.MEDIANS[kind], Counter[str]()
    orders = {size: [ane_bench.turn_order(number, size)[0] for number in range(count)] for size in (2, 3)}
    for _ in range(RUNS):
        base, new = (noise.rounds(kind, count, source, correlation) for _ in range(2))
        speed, interval = ane_bench.speed_estimate(base, new)
        rate = ane_bench.marginal(noise.scaled(base, 1e6), noise.scaled(new, 1.5e6), 10, 20)  # 20 TOPS and 0.5 ms
        found["median"] += covers(ane_bench.median_interval(base), middle)
        found["ratio"] += covers(ane_bench.ratio_estimate(base, new, orders[2])["ci95"], 1)
        found["ratio of three"] += covers(ane_bench.ratio_estimate(base, new, orders[3])["ci95"], 1)
        found["speed"] += covers(interval, 1)
        found["tops"] += covers(rate.get("tops_interval"), 20 / middle)
        found["fixed"] += covers(rate.get("fixed_interval"), 0.5 * middle)
        found["verdict"] += covers(interval and ane_bench.verdict_interval(speed, interval), 1)
        found["told"] += interval is not None
    return {name: number * 100 / RUNS for name, number in found.items()}


class Coverage(unittest.TestCase):
    """Intervals of 95 % of all figures, for three kinds of noise."""

    def check(self, counts: Sequence[int], correlation: float, low: float, high: float, verdict: float) -> None:
        """Simulate runs, print how many intervals cover, and compare with the limits."""
        for kind in noise.MEDIANS:
            for count in counts:
                found = coverage(kind, count, correlation)
                text = ", ".join(f"{name} {share:.1f}" for name, share in found.items())
                print(f"{kind} noise, {count} rounds, correlation {correlation}: {text}")
                with self.subTest(kind=kind, count=count):
                    self.assertGreaterEqual(found.pop("verdict"), verdict - SLACK)
                    self.assertGreaterEqual(found.pop("told"), 90 - SLACK)
                    self.assertGreaterEqual(min(found.values()), low - SLACK, found)
                    self.assertLessEqual(max(found.values()), high + SLACK, found)

    def test_independent_rounds(self) -> None:
        self.check((5, 7, 10, 20) if ALL else (5, 10), 0, 92.5, 97, 99)

    def test_rounds_that_resemble_their_neighbours(self) -> None:
        self.check((10, 20) if ALL else (10,), 0.5, 85, 97, 95)

    def test_few_rounds_that_resemble_their_neighbours(self) -> None:
        self.check((5, 7) if ALL else (5,), 0.5, 82, 97, 95)

    def test_exactly_equal_times_have_an_interval_of_no_width(self) -> None:
        self.assertEqual(ane_bench.median_interval([[3.0, 3.0]] * 5), [3, 3])

    def test_fewer_than_five_rounds_tell_nothing(self) -> None:
        four = [[1.0, 2.0]] * 4
        self.assertIsNone(ane_bench.median_interval(four))
        self.assertEqual(ane_bench.ratio_estimate(four, four, [0] * 4), {"value": 1})
        self.assertEqual(ane_bench.speed_estimate(four, four), (1, None))
        rate = ane_bench.marginal(four, noise.scaled(four, 2), 1, 2)
        self.assertEqual((rate["tops_interval"], rate["fixed_interval"]), (None, None))

    def test_the_interval_holds_its_own_median(self) -> None:
        source = random.Random(1)
        for _ in range(200):
            times = [[source.expovariate(1) for _ in range(4)] for _ in range(9)]
            self.assertTrue(covers(ane_bench.median_interval(times), statistics.median(sum(times, []))))
        times = [[1.0] * 5] * 2 + [[1.0, 1.0, 10.0, 10.0, 10.0]] * 8  # 26 of 50 are 1, but 8 of 10 medians are 10
        self.assertEqual((ane_bench.median_interval(times) or [0])[0], 1)

    def test_five_rounds_give_their_extremes(self) -> None:
        self.assertEqual(ane_bench.median_interval([[value] for value in (3.0, 1.0, 5.0, 2.0, 4.0)]), [1, 5])

    def test_ten_rounds_give_the_second_and_third_from_either_end(self) -> None:
        low, high = ane_bench.median_interval([[value] for value in (8.0, 1, 10, 3, 6, 5, 4, 7, 2, 9)]) or (0, 0)
        self.assertAlmostEqual(low, 2.657657657657658)  # 146/222 between the levels of 97.9 % and 89.1 %
        self.assertAlmostEqual(high, 11 - 2.657657657657658)

    def test_many_rounds_agree_with_the_normal_limit(self) -> None:
        for count in (999, 1000, 1001, 1002):
            times = [[float(value)] for value in range(count)]
            times.sort(key=lambda samples: -abs(samples[0] - (count - 1) / 2))  # neighbours do not resemble each other
            low, high = ane_bench.median_interval(times) or (0, 0)
            self.assertAlmostEqual(low, (count - 1) / 2 - 0.98 * count ** 0.5, delta=0.5)
            self.assertAlmostEqual(high, (count - 1) / 2 + 0.98 * count ** 0.5, delta=0.5)


class Ratio(unittest.TestCase):
    """How many times faster a variant is than the baseline."""

    def test_quotients_in_two_groups_are_averaged_as_logarithms(self) -> None:
        base, own = [[2.0], [1.0]] * 5, [[1.0], [2.0]] * 5
        for classes in ([0] * 10, [0, 1] * 5, [0, 0, 1, 1, 0, 0, 1, 1, 0, 1]):
            self.assertAlmostEqual(ane_bench.ratio_estimate(base, own, classes)["value"], 1, places=12)

    def test_exchanged_variants_give_the_inverse(self) -> None:
        source = random.Random(2)
        for count in (5, 7, 10, 11):
            base, own = noise.rounds("exponential", count, source), noise.rounds("lognormal", count, source)
            classes = [number % 2 for number in range(count)]
            one = ane_bench.ratio_estimate(base, own, classes, tick=0.01)
            other = ane_bench.ratio_estimate(own, base, classes, tick=0.01)
            for value, inverse in zip([one["value"], *one["ci95"]], [other["value"], *reversed(other["ci95"])]):
                self.assertAlmostEqual(value * inverse, 1, places=14)

    def test_the_order_of_two_does_not_leak_into_it(self) -> None:
        for slower in (1.1, 1.2, 1.5):
            for count in (2, 5, 7, 9, 10, 11):
                orders = [ane_bench.turn_order(number, 2) for number in range(count)]
                base, own = ([[time * (slower if order[1] == variant else 1)] * 3 for order in orders]
                             for variant, time in enumerate((2.0, 1.0)))
                found = ane_bench.ratio_estimate(base, own, [order[0] for order in orders])
                for value in [found["value"], *found.get("ci95", [])]:
                    self.assertAlmostEqual(value, 2, places=12)

    def test_the_order_of_three_does_not_leak_into_it(self) -> None:
        for count in (3, 5, 10, 11):
            orders = [ane_bench.turn_order(number, 3) for number in range(count)]
            base, own = ([[time * (1, 1.1, 1.5)[order.index(variant)]] for order in orders]
                         for variant, time in ((0, 2.0), (2, 1.0)))
            found = ane_bench.ratio_estimate(base, own, [order[0] for order in orders])
            self.assertAlmostEqual(found["value"], 2, places=12)

    def test_each_variant_stands_in_each_place(self) -> None:
        for count in (1, 2, 3, 4):
            orders = [ane_bench.turn_order(number, count) for number in range(5 * count, 6 * count)]
            for place in zip(*orders):
                self.assertEqual(sorted(place), list(range(count)))

    def test_an_order_of_its_own_kind_in_every_round_has_no_interval(self) -> None:
        times = [[1.0]] * 5
        self.assertEqual(ane_bench.ratio_estimate(times, times, range(5)), {"value": 1})

    def test_the_t_quantile(self) -> None:
        """Tables give 3.182446 for 3 degrees of freedom, 2.306004 for 8, 2.100922 for 18."""
        for count, table in ((5, 3.182446), (10, 2.306004), (20, 2.100922)):
            quotients = [math.exp(value % 5 - 2) if value % 2 else math.exp(2 - value % 5) for value in range(count)]
            classes = [value % 2 for value in range(count)]
            logarithms = [[math.log(quotient) for quotient in quotients[start::2]] for start in (0, 1)]
            squares = sum(statistics.pvariance(part) * len(part) for part in logarithms)
            half = table * math.sqrt(squares / (count - 2) * sum(1 / len(part) for part in logarithms)) / 2
            found = ane_bench.ratio_estimate([[quotient] for quotient in quotients], [[1.0]] * count, classes)
            self.assertAlmostEqual(math.log(found["ci95"][1] / found["value"]) / half, 1, delta=0.0015)

    def test_means_if_asked_for(self) -> None:
        found = ane_bench.ratio_estimate([[1.0, 1.0, 7.0]], [[1.0, 1.0, 1.0]], [0], average=statistics.fmean)
        self.assertAlmostEqual(found["value"], 3, places=12)


class CoarseClock(unittest.TestCase):
    """Times of 2.5 and 1.25 ms on a clock that ticks once in a millisecond, and others."""

    @staticmethod
    def read(time: float, start: float = 0, count: int = 10, length: int = 5) -> noise.Rounds:
        """Return the ticks that a clock counts between evaluates of a time."""
        marks = [math.floor(start + time * number) for number in range(count * length + 1)]
        ticks = [float(end - begin) for begin, end in zip(marks, marks[1:])]
        return [ticks[number * length:(number + 1) * length] for number in range(count)]

    def test_every_interval_holds_the_truth(self) -> None:
        source = random.Random(3)
        for _ in range(200):
            slow, fast = source.uniform(3.5, 9), source.uniform(3.5, 9)
            base, new = (self.read(time, source.random()) for time in (slow, fast))
            self.assertTrue(covers(ane_bench.median_interval(base, 1), slow))
            self.assertTrue(covers(ane_bench.ratio_estimate(base, new, [0, 1] * 5, tick=1)["ci95"], slow / fast))
            self.assertTrue(covers(ane_bench.speed_estimate(base, new, 1)[1], slow / fast))

    def test_a_rate_and_a_fixed_cost_hold_the_truth(self) -> None:
        source = random.Random(4)
        for _ in range(200):
            fixed, work = source.uniform(0, 3), source.uniform(3, 9)
            shallow, deep = (self.read(fixed + times * work, source.random()) for times in (1, 2))
            found = ane_bench.marginal(noise.scaled(shallow, 1e6), noise.scaled(deep, 1e6), 10, 20, 1e6)
            self.assertTrue(covers(found["tops_interval"], 10 / work))
            self.assertTrue(covers(found["fixed_interval"], fixed))

    def test_readings_that_all_err_alike(self) -> None:
        """A clock may read 2 of 2.99 and 3 of 2.01, if all evaluates begin at the same part of a tick."""
        two, three = [[2.0] * 5] * 10, [[3.0] * 5] * 10
        self.assertEqual(ane_bench.median_interval(two, 1), [1, 3])
        for found in (ane_bench.speed_estimate([[20.0] * 5] * 10, [[21.0] * 5] * 10, 1)[1],
                      ane_bench.ratio_estimate([[20.0] * 5] * 10, [[21.0] * 5] * 10, [0, 1] * 5, tick=1)["ci95"]):
            self.assertTrue(covers(found, 20.99 / 20.01))
        self.assertIsNone(ane_bench.speed_estimate(two, three, 1)[1])

    def test_times_within_a_tick_tell_nothing(self) -> None:
        still = [[0.0, 0.0, 1.0]] * 6
        self.assertEqual(ane_bench.median_interval(still, 1), [0, 1])
        self.assertEqual(ane_bench.ratio_estimate(still, still, [0, 1] * 3, tick=1), {})
        self.assertEqual(ane_bench.ratio_estimate(still, still, [0, 1] * 3), {})
        self.assertIsNone(ane_bench.bimodality(sum(still, []) * 2, 1))
        self.assertIsNone(ane_bench.within_rounds_pattern([[3.0, 0.0, 0.0]] * 10))

    def test_neighbouring_ticks_are_not_two_levels_or_a_pattern(self) -> None:
        times = [[3.0, 2, 2, 2, 2]] * 6 + [[2.0, 3, 3, 2, 2]] * 4
        self.assertIsNone(ane_bench.bimodality([2.0, 3.0] * 25, 1))
        self.assertIsNotNone(ane_bench.bimodality([2.0, 3.0] * 25, 0.01))
        self.assertIsNone(ane_bench.within_rounds_pattern(times[:6], 1))
        self.assertIsNotNone(ane_bench.within_rounds_pattern(times[:6], 0.01))


class Marginal(unittest.TestCase):
    """The rate between two depths and the fixed cost."""

    def test_both_are_recovered(self) -> None:
        shallow, deep = [[1.1e6] * 5] * 10, [[2.1e6] * 5] * 10
        found = ane_bench.marginal(shallow, deep, 20, 40)
        self.assertAlmostEqual(found["tops"], 20)
        self.assertAlmostEqual(found["fixed_ms"], 0.1)
        for name, value in (("tops_interval", 20), ("fixed_interval", 0.1)):
            self.assertAlmostEqual(found[name][0], value)
            self.assertAlmostEqual(found[name][1], value)

    def test_no_fixed_cost_at_all(self) -> None:
        found = ane_bench.marginal([[1e6]] * 6, [[2e6]] * 6, 20, 40)
        self.assertAlmostEqual(found["fixed_ms"], 0)
        self.assertTrue(covers(found["fixed_interval"], 0))

    def test_a_deeper_program_that_is_not_slower(self) -> None:
        self.assertEqual(ane_bench.marginal([[2.0]] * 6, [[2.0]] * 6, 20, 40), {})

    def test_a_rate_that_may_be_infinite_has_no_interval(self) -> None:
        source = random.Random(5)
        shallow, deep = (noise.rounds("gaussian", 5, source) for _ in range(2))
        found = ane_bench.marginal(shallow, deep, 20, 40) or ane_bench.marginal(deep, shallow, 20, 40)
        self.assertIsNone(found["tops_interval"])
        self.assertTrue(covers(found["fixed_interval"], 1e-6))


def correlated(correlation: float) -> Levels:
    """Return a source of times whose neighbours correlate."""
    return lambda count, source: [math.exp(0.1 * value) for value in noise.autoregression(count, correlation, source)]


INNOCENT: dict[str, Levels] = {
    "gaussian": lambda count, source: [1 + 0.05 * source.gauss(0, 1) for _ in range(count)],
    "lognormal": lambda count, source: [math.exp(0.3 * source.gauss(0, 1)) for _ in range(count)],
    "exponential": lambda count, source: [1 + 0.3 * source.expovariate(1) for _ in range(count)],
    "correlation 0.5": correlated(0.5), "correlation 0.9": correlated(0.9), "correlation 0.97": correlated(0.97),
    "drift": lambda count, source: [1 + number / count + 0.01 * source.gauss(0, 1) for number in range(count)],
    "settling": lambda count, source: [1 + 0.5 * math.exp(-5 * number / count) + 0.01 * source.gauss(0, 1)
                                       for number in range(count)],
    "outliers": lambda count, source: [(10 if source.random() < 0.05 else 1) + 0.02 * source.gauss(0, 1)
                                       for _ in range(count)]}


class Patterns(unittest.TestCase):
    """Positions within rounds, and times on two levels."""

    def test_false_alarms_are_rare(self) -> None:
        for name, levels in INNOCENT.items():
            for count, length in ((5, 5), (5, 10), (10, 5), (10, 10), (20, 5)) if ALL else ((10, 5),):
                source, positions, bimodal = random.Random(f"{name} {count} {length}"), 0, 0
                for _ in range(RUNS):
                    times = levels(count * length, source)
                    rounds = [times[start:start + length] for start in range(0, count * length, length)]
                    positions += ane_bench.within_rounds_pattern(rounds) is not None
                    bimodal += ane_bench.bimodality(times) is not None
                print(f"{name}, {count} rounds of {length}, false alarms in percent: positions "
                      f"{positions * 100 / RUNS:.2f}, two levels {bimodal * 100 / RUNS:.2f}")
                with self.subTest(name=name, count=count, length=length):
                    self.assertLess(positions, RUNS * (0.01 + SLACK / 400))
                    self.assertLess(bimodal, RUNS * (0.01 + SLACK / 400))

    def test_slow_first_evaluates_are_seen(self) -> None:
        """Rounds also differ from each other, by half as much as evaluates do."""
        for count, length, factor, scatter, least in (
                (10, 5, 3, 0.1, 99), (10, 5, 1.5, 0.1, 99), (10, 5, 1.2, 0.02, 99), (10, 5, 1.1, 0.02, 95),
                (5, 5, 3, 0.02, 95), (5, 10, 3, 0.02, 95), (10, 5, 0.7, 0.02, 99), (10, 2, 1.5, 0.02, 99)):
            for first in range(1, min(length, 5)):
                source, seen, factors = random.Random(6), 0, []
                for _ in range(PATTERN_RUNS):
                    shift = [1 + scatter / 2 * source.gauss(0, 1) for _ in range(count)]
                    found = ane_bench.within_rounds_pattern([
                        [each * (factor if place < first else 1) * math.exp(scatter * source.gauss(0, 1))
                         for place in range(length)] for each in shift])
                    if found and found[0] == first:
                        seen += 1
                        factors.append(found[1])
                print(f"the first {first} of {length} take {factor} times as long, {count} rounds, scatter {scatter}: "
                      f"seen in {seen * 100 / PATTERN_RUNS:.1f} %")
                with self.subTest(count=count, length=length, factor=factor, first=first):
                    self.assertGreaterEqual(seen * 100 / PATTERN_RUNS, least - 5)
                    self.assertAlmostEqual(statistics.fmean(factors), factor, delta=0.03 * factor)

    def test_two_levels_are_seen(self) -> None:
        for count in (25, 50, 100):
            for share, factor, scatter in ((0.6, 1.1, 0), (0.6, 1.1, 0.01), (0.4, 1.3, 0.02), (0.6, 2, 0.05)):
                source, seen = random.Random(7), 0
                for _ in range(PATTERN_RUNS):
                    times = [1.0] * round(count * share) + [float(factor)] * (count - round(count * share))
                    source.shuffle(times)
                    found = ane_bench.bimodality([time * math.exp(scatter * source.gauss(0, 1)) for time in times])
                    seen += found is not None and abs(found[2] - share) < 0.06 and abs(
                        found[1] / found[0] / factor - 1) < 0.1
                print(f"{share:.0%} of {count} take 1, the others {factor}, scatter {scatter}: "
                      f"seen in {seen * 100 / PATTERN_RUNS:.1f} %")
                with self.subTest(count=count, share=share, factor=factor, scatter=scatter):
                    self.assertGreaterEqual(seen * 100 / PATTERN_RUNS, 98)

    def test_two_levels_below_outliers(self) -> None:
        self.assertEqual(ane_bench.bimodality([1.0, 1.0, 1.0, 1.3, 1.3] * 9 + [1.0, 1.0, 1.3, 9.0, 30.0]),
                         (1.0, 1.3, 29 / 50))

    def test_what_does_not_matter_is_not_told(self) -> None:
        self.assertIsNone(ane_bench.bimodality([1.0, 1.04] * 25))
        self.assertIsNone(ane_bench.within_rounds_pattern([[1.04, 1.0, 1.0]] * 10))
        self.assertEqual(ane_bench.within_rounds_pattern([[1.25, 1.0, 1.0]] * 10), (1, 1.25))

    def test_too_few_to_tell(self) -> None:
        self.assertIsNone(ane_bench.bimodality([1.0, 2.0] * 12))
        self.assertIsNone(ane_bench.within_rounds_pattern([[3.0, 1.0]] * 4))
        self.assertIsNone(ane_bench.within_rounds_pattern([[1.0]] * 10))
        self.assertIsNone(ane_bench.within_rounds_pattern([]))


if __name__ == "__main__":
    unittest.main()
