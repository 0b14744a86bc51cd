"""Section 15: the chart, by its geometry: where texts, marks, intervals and lines are, over records of every kind."""

import contextlib
import itertools
import math
import random
import re
import shutil
import subprocess
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import ane_bench
from tests import support

# ----------------------------------------------------------------------------------------------------------------------
# Runs to draw
# ----------------------------------------------------------------------------------------------------------------------


class Config(NamedTuple):
    channels: int
    spatial: int
    depth: int
    kernel: int = 1

    @property
    def name(self) -> str:
        return f"{self.channels}x{self.spatial}x{self.depth}{'k3' if self.kernel == 3 else ''}"

    @property
    def gop(self) -> float:
        return 2e-9 * self.channels ** 2 * self.kernel ** 2 * self.depth * self.spatial ** 2

    def label(self, dimensions: Sequence[str] = ("channels", "spatial", "depth", "kernel")) -> str:
        parts = {"depth": f"{self.depth}x conv{'3x3' if self.kernel == 3 else ''}", "channels": f"{self.channels}ch",
                 "spatial": f"{self.spatial}x{self.spatial}"}
        return " ".join(part for name, part in parts.items() if name in dimensions)


class Cell:
    """What the chart asks of a cell."""

    def __init__(self, config: Config, variant: str, baseline: Optional["Cell"] = None, ms: float = 0, noise: float = 0.01,
                 stage: str = "", wrong: bool = False, mixed: float = 0) -> None:
        self.config, self.variant, self.baseline = config, variant, baseline
        self.status = "failed" if stage or wrong else "ok"
        self.stage = stage or ("verify" if wrong else None)
        self.error = "no reason" if self.stage else None
        self.ms: dict[str, Any] = {"median": ms, "ci95": [ms * (1 - noise), ms * (1 + noise)]} if ms else {}
        if not noise:
            self.ms.pop("ci95", None)
        self.tops = config.gop / ms if ms else None
        self.check = "WRONG" if wrong else "ok" if ms else ""
        self.ok = self.status == "ok"
        self.name = f"{variant} at {config.name}"
        self.failure = f"failed in stage {self.stage}: {self.error}" if self.stage else ""
        self.ratio: dict[str, Any] = {}
        if baseline and baseline.ok and self.ok:
            value = baseline.ms["median"] / ms
            self.ratio = {"value": value, "ci95": [value * (1 - noise), value * (1 + noise)]} if noise else {"value": value}


class Run:
    """What the chart asks of a run."""

    def __init__(self, configs: Sequence[Config], variants: Sequence[str], cells: Sequence[Cell], *, complete: bool = True,
                 machine: str = "M4, h16g, macOS 26.4", engine: str = "ane", version: str = "0.1.0") -> None:
        self.configs, self.variants, self.cells, self.complete = configs, variants, cells, complete
        self.engine, self.version, self.machine = engine, version, machine

    @property
    def results(self) -> list[tuple[Config, list[Cell]]]:
        return [(config, [cell for cell in self.cells if cell.config == config]) for config in self.configs]


def varying(configs: Sequence[Config]) -> list[str]:
    values = {name: {getattr(config, name) for config in configs} for name in Config._fields}
    swept = len(set(configs)) == math.prod(map(len, values.values())) >= 3
    return [name for name in Config._fields if len(values[name]) > 1 or not swept]


def draw(run: Run) -> str:
    with unittest.mock.patch.multiple(ane_bench, varying=varying, machine_name=lambda run: run.machine):
        return ane_bench.chart(run)  # type: ignore[arg-type]
