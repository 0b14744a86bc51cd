"""Simulates times of evaluates: three kinds of noise, between rounds and within; rounds that resemble neighbours."""

import math
import random
import statistics

Rounds = list[list[float]]

# The median of all times of each kind. Two exponential terms add up to a gamma distribution of shape 2.
MEDIANS = {"gaussian": 1.0, "lognormal": 1.0, "exponential": 1 + 0.05 * 1.6783469900166612}


def autoregression(count: int, correlation: float, source: random.Random) -> list[float]:
    """Return normal deviates whose neighbours correlate."""
    values = [source.gauss(0, 1)]
    for _ in range(count - 1):
        values.append(correlation * values[-1] + math.sqrt(1 - correlation ** 2) * source.gauss(0, 1))
    return values


def deviate(kind: str, normal: float) -> float:
    """Return a deviate of a kind that has the same quantile as a normal one."""
    if kind == "exponential":
        return -math.log(max(1e-12, 1 - statistics.NormalDist().cdf(normal)))
    return normal


def rounds(kind: str, count: int, source: random.Random, correlation: float = 0, length: int = 5) -> Rounds:
    """Return the times of `count` rounds, about 1. Rounds differ by as much as evaluates within a round."""
    found = []
    for normal in autoregression(count, correlation, source):
        outer = deviate(kind, normal)
        if kind == "exponential":
            found.append([1 + 0.05 * (outer + source.expovariate(1)) for _ in range(length)])
        elif kind == "lognormal":
            found.append([math.exp(0.15 * (outer + source.gauss(0, 1))) for _ in range(length)])
        else:
            found.append([1 + 0.05 * (outer + source.gauss(0, 1)) for _ in range(length)])
    return found


def scaled(times: Rounds, factor: float) -> Rounds:
    """Return times in another unit."""
    return [[factor * time for time in samples] for samples in times]
