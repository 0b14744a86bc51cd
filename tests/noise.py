"""Simulates times of evaluates, about 1: noise between rounds and within, neighbours that resemble
each other, and what a machine does over minutes."""

import math
import random
from collections.abc import Callable

Rounds = list[list[float]]

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
    values = [source.gauss(0, 1)]
    for _ in range(count - 1):
        values.append(correlation * values[-1]
                      + math.sqrt(1 - correlation ** 2) * source.gauss(0, 1))
    return values


def rounds(kind: str, count: int, source: random.Random, correlation: float = 0,
           length: int = 5) -> Rounds:
    """Return the times of `count` rounds. Rounds differ by as much as evaluates within a round."""
    found = []
    for number, outer in enumerate(autoregression(count, correlation, source)):
        inner = [source.gauss(0, 1) for _ in range(length)]
        if kind == "exponential":  # of the same quantile as the normal deviate
            outer = -math.log(max(1e-12, math.erfc(outer / math.sqrt(2)) / 2))
            found.append([1 + 0.05 * (outer + source.expovariate(1)) for _ in inner])
        elif kind == "lognormal":
            found.append([math.exp(0.15 * (outer + each)) for each in inner])
        else:
            shift = 0.1 * (number / (count - 1) - 0.5) if kind == "drift" else 0.0
            found.append([(10 if kind == "outliers" and source.random() < 0.02 else 1)
                          * (1 + shift + 0.05 * (outer + each)) for each in inner])
    return found


def medians(shape: str, seconds: float, spacing_s: float, white: float, wander: float,
            source: random.Random, constant_s: float = 10) -> list[float]:
    """Return the medians of the rounds of a long run that begin every `spacing_s`: its shape, white
    noise, and noise that wanders with a time constant; both as standard deviations."""
    count = round(seconds / spacing_s)
    slow = autoregression(count, math.exp(-spacing_s / constant_s), source)
    return [SHAPES[shape](number / count) * math.exp(white * source.gauss(0, 1) + wander * each)
            for number, each in enumerate(slow)]
