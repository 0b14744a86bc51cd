"""Section 15: the chart. Its geometry is read back from the SVG and compared with the cells of the run."""

import contextlib
import functools
import html
import io
import itertools
import json
import math
import os
import random
import re
import shutil
import subprocess
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import VARIANTS, Cell, Config, Run, Settings

PAIR, ALL = ("fp16", "w8a8"), ("fp16", "w8a16", "w8a8")
THOROUGH = os.environ.get("ANE_BENCH_TESTS") == "all"
Element = xml.etree.ElementTree.Element
Place = tuple[int, str]  # a cell: the number of its configuration, its variant

# ----------------------------------------------------------------------------------------------------------------------
# Runs to draw
# ----------------------------------------------------------------------------------------------------------------------

SPEEDS = {"fp16": 18.0, "w8a16": 18.3, "w8a8": 34.5}
WRONG = {"pixels": 1, "ok": False}


def made_cell(run: Run, config: Config, variant: str, tops: float, spread: float, draw: random.Random) -> Cell:
    """Return a cell that was measured at about a rate, its times scattered by a share."""
    ns = config.gop / tops * 1e6
    rounds = [
        [ns * (1 + spread * draw.uniform(-1, 1)) for _ in range(run.settings.iters // run.settings.rounds)]
        for _ in range(run.settings.rounds)
    ]
    return Cell(config, variant, run.settings, samples_ns=rounds)


def made(
    configs: Sequence[Config] = (Config(512, 64, 128),),
    variants: Sequence[str] = PAIR,
    *,
    speeds: Mapping[str, float] = SPEEDS,
    failed: Iterable[Place] = (),
    wrong: Iterable[Place] = (),
    measured: Optional[int] = None,
    spread: float = 0.02,
    rounds: int = 5,
    engine: str = "ane",
    seed: int = 0,
    stage: str = "compile",
    error: str = "refused",
    system: Optional[Mapping[str, Any]] = None,
) -> Run:
    """Return a run of some configurations, in which some cells failed or are wrong. `measured` breaks it off."""
    draw, failed, wrong = random.Random(seed), set(failed), set(wrong)
    run = Run(engine, Settings(iters=2 * rounds, rounds=rounds), configs, variants)
    run.system = {"chip": "Apple M4", "ane_subtype": "h16g", "macos": "26.4", **(system or {})}
    for number, config in enumerate(configs[:measured]):
        cells = [
            made_cell(run, config, variant, speeds[variant] * draw.uniform(0.6, 1), spread, draw)
            for variant in variants
        ]
        for cell in cells:
            if (number, cell.variant) in failed:
                cell.samples_ns = []
                cell.fail(stage, error)
            elif (number, cell.variant) in wrong:
                cell.note(verified=WRONG)
                cell.fail("verify", "the output is wrong")
        run.add(cells)
    return run


def sweep(
    channels: Sequence[int] = (512,),
    spatial: Sequence[int] = (64,),
    depth: Sequence[int] = (128,),
    kernel: Sequence[int] = (1,),
) -> list[Config]:
    """Return a cross product."""
    return [Config(*shape) for shape in itertools.product(channels, spatial, depth, kernel)]


FIVE = [Config(*shape) for shape in ((512, 64, 128), (512, 64, 64), (256, 64, 256), (256, 64, 128), (384, 64, 128))]
TWELVE = [
    *FIVE,
    *map(
        Config.parse, ("16384x64x8", "64x4096x2", "128x1024x128", "2048x64x16", "768x64x12k3", "512x32x8", "320x32x8")
    ),
]
TWENTY_FOUR = sweep((128, 256, 512, 1024), (32, 64), (16, 32, 64))
CHANNELS = sweep(range(64, 832, 64))
LONG = {
    "chip": "Apple M5 Max Ultra Special Edition (64-core <engineering> sample)",
    "ane_subtype": "h17sextended",
    "macos": "26.4.1 (beta 3)",
}
ODD = {"chip": "a\x00\x1b\ud800<&>\"'\n\ufffe\u202e漢字🦀", "macos": "]]>\x85"}


@functools.cache
def runs() -> dict[str, Run]:
    """Return runs by what is special about them."""
    some = [(1, "fp16"), (2, "w8a8"), (3, "fp16"), (3, "w8a8")]
    return {
        "one": made(),
        "one variant": made(FIVE, ("w8a8",)),
        "five": made(FIVE),
        "five in three variants": made(FIVE, ALL, spread=0.3),
        "twelve": made(TWELVE),
        "twenty-four": made(TWENTY_FOUR),
        "twenty-four in three variants": made(TWENTY_FOUR, ALL),
        "failures": made(FIVE, failed=some, wrong=[(0, "w8a8")]),
        "a failed baseline": made(FIVE, failed=[(number, "fp16") for number in range(5)]),
        "only failures": made(FIVE, failed=itertools.product(range(5), PAIR)),
        "only wrong outputs": made(FIVE, wrong=itertools.product(range(5), PAIR)),
        "nothing": made([]),
        "no variants": made([], ()),
        "broken off": made(FIVE, measured=2),
        "broken off at once": made(FIVE, measured=0),
        "long names": made(FIVE, engine="stand-in", system=LONG),
        "the longest name": made(engine="stand-in", system={"chip": "MW" * 1000}),
        "odd letters": made(FIVE, failed=[(1, "fp16")], error=ODD["chip"], system=ODD),
        "odd letters in failures": made(failed=[(0, "fp16"), (0, "w8a8")], stage=ODD["macos"], error=ODD["chip"]),
        "the reference": made(
            [Config(32, 8, 4), Config(64, 8, 4)], engine="reference", speeds={"fp16": 2e-6, "w8a8": 3e-6}
        ),
        "a sweep with intervals from 0": made(sweep(depth=(1, 2, 4)), spread=0.9, seed=2),
        "few rounds": made(FIVE, rounds=2),
        "no scatter": made(FIVE, ALL, spread=0, speeds=dict.fromkeys(ALL, 18)),
        "slow": made(FIVE, speeds={"fp16": 1e-17, "w8a8": 3e-17}),
        "fast": made(FIVE, speeds={"fp16": 1e12, "w8a8": 3e12}),
        "slow and fast": made(FIVE, ALL, speeds={"fp16": 1e-5, "w8a16": 1, "w8a8": 1e12}),
        "a sweep of 3": made(sweep(depth=(32, 64, 128)), ALL),
        "a sweep of 12": made(CHANNELS, ALL),
        "a sweep of 40": made(sweep(depth=range(100, 140))),
        "a sweep from 1 to 16384": made(sweep((16,), (8,), (1, 2, 3, 1000, 16384))),
        "a sweep with failures": made(
            CHANNELS,
            ALL,
            failed=[(1, "fp16"), (1, "w8a8"), (4, "w8a16"), (11, "w8a8")],
            wrong=[(6, "w8a8")],
            spread=0.2,
        ),
        "a sweep that failed": made(sweep(depth=(1, 2, 3)), failed=itertools.product(range(3), PAIR)),
        "a sweep broken off": made(sweep(depth=(1, 2, 4, 8, 16)), measured=2),
        "two dimensions": made(sweep((128, 256, 384, 512), depth=(32, 64, 128)), ALL),
        "two dimensions with failures": made(
            sweep((64, 128, 256, 512), (16, 32, 64, 128, 256)), failed=some, wrong=[(7, "w8a8")]
        ),
        "two dimensions broken off": made(sweep((128, 256, 512), depth=(32, 64)), measured=3),
        "two dimensions hardly begun": made(sweep((128, 256, 512), depth=(32, 64)), measured=1),
        "two dimensions that failed": made(sweep((128, 256), depth=(32, 64)), failed=itertools.product(range(4), PAIR)),
        "kernels": made(sweep((64, 128, 256, 512), depth=(8,), kernel=(1, 3))),
        "three dimensions": made(sweep((128, 256), depth=(32, 64), kernel=(1, 3)), ALL),
    }


def random_run(draw: random.Random) -> Run:
    """Return any run."""

    def values(most: int, largest: int) -> list[int]:
        return draw.sample(range(1, largest), draw.randint(1, most))

    variants = draw.sample(ALL, draw.randint(1, 3))
    kernels = draw.choice([(1,), (1,), (3,), (1, 3)])
    configs = draw.choice(
        [
            sweep(values(12, 512), depth=values(1, 32), kernel=kernels),
            sweep(values(5, 512), values(5, 128), values(1, 32), kernels),
            sweep(values(3, 512), values(3, 128), values(2, 32), kernels),
            draw.sample(TWELVE, draw.randint(1, 12)),
        ]
    )
    everywhere = list(itertools.product(range(len(configs)), variants))
    share = draw.choice([0, 0.1, 0.5, 1])
    return made(
        configs,
        variants,
        seed=draw.randrange(1 << 30),
        spread=draw.choice([0, 0.001, 0.05, 0.9]),
        rounds=draw.choice([1, 2, 5, 10]),
        measured=draw.choice([None, None, draw.randint(0, len(configs))]),
        failed={place for place in everywhere if draw.random() < share},
        wrong={place for place in everywhere if draw.random() < 0.1},
        speeds={variant: 10 ** draw.choice([1, 1, draw.uniform(-12, 12)]) for variant in ALL},
        system={"chip": "".join(draw.choice("Apple M4 <&>\x00é漢") for _ in range(draw.choice([0, 9, 200])))},
    )


# ----------------------------------------------------------------------------------------------------------------------
# Charts read back
# ----------------------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"
LETTER = 0.62  # a letter's width in font sizes, generously for Helvetica


class Box(NamedTuple):
    """A rectangle that holds a text or a shape."""

    name: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Return whether the two overlap."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Shape(NamedTuple):
    """A line or, with a fill, what it encloses."""

    points: list[tuple[float, float]]
    fill: str
    color: str
    width: float
    tip: str

    @property
    def box(self) -> Box:
        """Return the rectangle around it."""
        across, down = zip(*self.points)
        return Box(self.tip, min(across), min(down), max(across), max(down))

    @property
    def middle(self) -> tuple[float, float]:
        """Return the middle of that rectangle."""
        return (self.box.left + self.box.right) / 2, (self.box.top + self.box.bottom) / 2


class Frame(NamedTuple):
    """A vertical axis: title and rectangle beside it, the values at its ends, the height of the heavier line."""

    box: Box
    least: float
    most: float
    base: float

    def value(self, y: float) -> float:
        """Return the value at a height."""
        return self.least + (self.box.bottom - y) / (self.box.bottom - self.box.top) * (self.most - self.least)

    def holds(self, place: tuple[float, float]) -> bool:
        """Return whether a point is within."""
        return self.box.left <= place[0] <= self.box.right and self.box.top - 0.1 <= place[1] <= self.box.bottom + 0.1


def text_box(element: Element) -> Box:
    """Return the rectangle of a text, as far as it can be known without a browser."""
    x, y, size = (float(element.attrib[name]) for name in ("x", "y", "font-size"))
    text = element.text or ""
    width = LETTER * size * len(text)
    left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[element.attrib["text-anchor"]] * width
    if "transform" not in element.attrib:
        return Box(text, left, y - 0.8 * size, left + width, y + 0.2 * size)
    assert element.attrib["transform"] == f"rotate(-90 {x:.2f} {y:.2f})"
    return Box(text, x - 0.8 * size, y - (left + width - x), x + 0.2 * size, y - (left - x))


class Picture:
    """A chart, read back."""

    def __init__(self, text: str) -> None:
        self.root = xml.etree.ElementTree.fromstring(text.encode())
        self.width, self.height = (float(self.root.attrib[name]) for name in ("width", "height"))
        self.texts = [text_box(element) for element in self.root.iter(f"{SVG}text")]
        self.shapes = [
            self._shape(element) for element in self.root if element.tag in (f"{SVG}polyline", f"{SVG}polygon")
        ]
        filled = [shape for shape in self.shapes if shape.fill != "none"]
        self.bars = [shape for shape in filled if shape.tip and shape.width == 1]
        self.marks = [shape for shape in filled if shape.tip and shape.width == 1.5]
        self.signs = [shape for shape in filled if not shape.tip and shape.width == 1.5]
        self.strips = [shape for shape in filled if shape.fill == ane_bench.STRIP]
        self.crosses = [shape for shape in self.shapes if shape.fill == "none" and shape.tip]
        self.lines = [shape for shape in self.shapes if shape.fill == "none" and shape.width == 2 and not shape.tip]
        self.intervals = [shape for shape in self.shapes if shape.color == ane_bench.INK and shape.fill == "none"]
        self.frames = list(self._frames())
        self.rates = [frame for frame in self.frames if frame.box.name == "TOPS, more is better"]
        self.ratios = [frame for frame in self.frames if frame.box.name.startswith("times as fast as ")]

    @staticmethod
    def _shape(element: Element) -> Shape:
        points = [tuple(map(float, pair.split(","))) for pair in element.attrib["points"].split()]
        title = element.find(f"{SVG}title")
        return Shape(
            [(x, y) for x, y in points],
            element.attrib["fill"],
            element.attrib["stroke"],
            float(element.attrib["stroke-width"]),
            "" if title is None else title.text or "",
        )

    def _frames(self) -> Iterator[Frame]:
        """Find the axes: lines with a figure at their left end, then the heavier line."""
        ticks: list[tuple[float, float, Shape]] = []
        for shape in self.shapes:
            if shape.color == ane_bench.RULE:
                left, y = shape.points[0]
                (label,) = (
                    box.name for box in self.texts if abs(box.right - left + 8) < 0.1 and box.top < y < box.bottom
                )
                ticks.append((y, float(label), shape))
            elif shape.color == ane_bench.QUIET and shape.width == 1.5:
                (bottom, least, line), (top, most, _) = ticks[0], ticks[-1]
                title = max(
                    (text for text in self.texts if text.left == line.box.left and text.bottom < bottom),
                    key=lambda text: text.bottom,
                )
                yield Frame(
                    Box(title.name, line.box.left, top, line.box.right, bottom), least, most, shape.points[0][1]
                )
                ticks = []

    def named(self, shapes: Iterable[Shape], cell: Cell) -> list[Shape]:
        """Return the shapes that belong to a cell."""
        return [shape for shape in shapes if shape.tip.startswith(f"{cell.name}: ")]

    def say(self, text: str) -> bool:
        """Return whether a text stands there as a whole."""
        return any(box.name == text for box in self.texts)


@functools.cache
def picture(name: str) -> Picture:
    """Return the chart of one of the runs above."""
    return Picture(ane_bench.chart(runs()[name]))


def drawn(cell: Cell) -> bool:
    """Return whether the chart has a place among the data for a cell."""
    return bool(cell.samples) and (cell.ok or cell.check == "WRONG")


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, from 1 to 21, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


class ChartCase(unittest.TestCase):
    """What holds for every chart."""

    def check_form(self, text: str) -> None:
        """Check that it is plain SVG that refers to nothing, on a ground of its own."""
        root = xml.etree.ElementTree.fromstring(text.encode())
        self.assertEqual(
            {element.tag for element in root.iter()}
            - {f"{SVG}{tag}" for tag in ("svg", "title", "rect", "text", "polyline", "polygon")},
            set(),
        )
        for element in root.iter():
            self.assertFalse(
                [name for name in element.attrib if "href" in name or name.startswith("on") or name == "style"]
            )
            self.assertNotRegex(" ".join(element.attrib.values()), r"url|:|@|\bnan\b|\binf\b")
        size = {name: root.attrib[name] for name in ("width", "height")}
        self.assertEqual(root.attrib["viewBox"], f"0 0 {size['width']} {size['height']}")
        self.assertEqual(root[1].attrib, {**size, "fill": "#ffffff"})
        self.assertNotRegex(text, "[^\n\x20-\x7e\xa0-\U0010ffff]|[\ud800-\udfff\ufffe]")

    def check_texts(self, drawing: Picture) -> None:
        """Check that no text overlaps another or a shape, leaves the drawing, or is small."""
        for one, other in itertools.combinations(drawing.texts, 2):
            self.assertFalse(one.meets(other), (one, other))
        solid = [
            shape.box
            for shape in (
                *drawing.marks,
                *drawing.signs,
                *drawing.bars,
                *drawing.crosses,
                *drawing.strips,
                *drawing.intervals,
            )
        ]
        for box in drawing.texts:
            self.assertTrue(
                box.left >= 0 and box.top >= 0 and box.right <= drawing.width and box.bottom <= drawing.height, box
            )
            self.assertEqual([other for other in solid if box.meets(other._replace(top=other.top + 0.5))], [], box)
        self.assertGreaterEqual(
            min(float(element.attrib["font-size"]) for element in drawing.root.iter(f"{SVG}text")), 12
        )
        for shape in drawing.shapes:
            box = shape.box
            self.assertTrue(
                box.left >= 0 and box.top >= 0 and box.right <= drawing.width and box.bottom <= drawing.height, box
            )

    def check_figures(self, run: Run, drawing: Picture) -> None:
        """Check that each cell is drawn at its rate and ratio, with intervals; a failed one in a strip of its own."""
        intervals = 0
        for cell in run.cells:
            bars, marks, crosses = (
                drawing.named(shapes, cell) for shapes in (drawing.bars, drawing.marks, drawing.crosses)
            )
            color = ane_bench.COLORS[cell.variant]
            self.assertEqual({shape.color for shape in (*bars, *marks, *crosses)}, {color})
            if not drawn(cell):
                self.assertEqual((len(bars), len(marks), len(crosses)), (0, 0, 1), cell.name)
                self.assertTrue(
                    any(
                        strip.box.left < crosses[0].middle[0] < strip.box.right
                        and strip.box.top < crosses[0].middle[1] < strip.box.bottom
                        for strip in drawing.strips
                    )
                )
                continue
            self.assertEqual((len(marks), len(crosses)), (2 if cell.ratio else 1, 0), cell.name)
            fill = ane_bench.GROUND if cell.check == "WRONG" else color
            self.assertEqual({shape.fill for shape in (*bars, *marks)}, {fill})
            assert cell.tops
            times = cell.ms.get("ci95", ())
            ends = [cell.config.gop / end for end in times if min(times) > 0]  # else the rate has no upper end to draw
            bar = bars[0].points[0] if bars else marks[0].middle
            intervals += self.check_figure(drawing, drawing.rates, (marks[0].middle[0], bar[1]), cell.tops, ends)
            if cell.ratio:
                intervals += self.check_figure(
                    drawing, drawing.ratios, marks[1].middle, cell.ratio["value"], cell.ratio.get("ci95", [])
                )
        self.assertEqual(len(drawing.intervals), intervals)
        self.assertEqual(
            len(drawing.marks) + len(drawing.crosses),
            len(run.cells) + sum(1 for cell in run.cells if cell.ratio),
            "marks of no cell",
        )
        for frame, base in (*zip(drawing.rates, itertools.repeat(0)), *zip(drawing.ratios, itertools.repeat(1))):
            self.assertAlmostEqual(frame.value(frame.base), base, delta=0.001 * (frame.most - frame.least))
        for strip, frame in itertools.product(drawing.strips, drawing.frames):
            self.assertFalse(strip.box.meets(frame.box), "a strip among the data")

    def check_figure(
        self,
        drawing: Picture,
        frames: Sequence[Frame],
        place: tuple[float, float],
        figure: float,
        ends: Sequence[float],
    ) -> int:
        """Check that a figure and its interval stand at their heights, with caps; return how many intervals it has."""
        (frame,) = (frame for frame in frames if frame.holds(place))
        near = 0.02 / (frame.box.bottom - frame.box.top) * (frame.most - frame.least) + 1e-5 * max(
            abs(frame.least), abs(frame.most)
        )
        self.assertAlmostEqual(frame.value(place[1]), figure, delta=near)
        found = [
            shape.points
            for shape in drawing.intervals
            if abs(shape.middle[0] - place[0]) < 0.02 and frame.holds(shape.points[2]) and frame.holds(shape.points[3])
        ]
        if not ends:
            return 0
        heights = [sorted((frame.value(points[0][1]), frame.value(points[-1][1]))) for points in found]
        self.assertTrue(
            any(abs(low - min(ends)) < near and abs(high - max(ends)) < near for low, high in heights), (heights, ends)
        )
        for points in found:
            for cap in (points[:2], points[-2:]):
                self.assertEqual(cap[0][1], cap[1][1])
                self.assertAlmostEqual(abs(cap[0][0] - cap[1][0]), 14, delta=0.02)
            self.assertEqual((points[2][1], points[3][1]), (points[0][1], points[-1][1]))
        return 1

    def check_order(self, run: Run, drawing: Picture) -> None:
        """Check the order of bars; of a sweep the logarithmic distances, and the order in which points are joined."""
        dimensions = ane_bench.varying(run.configs)
        if len(dimensions) > 2:
            self.assertEqual(drawing.lines, [])
            places = [drawing.named([*drawing.bars, *drawing.crosses], cell)[0].middle[0] for cell in run.cells]
            self.assertEqual(places, sorted(places))
            self.assertGreaterEqual(min((b - a for a, b in zip(places, places[1:])), default=99), 12)
            return
        self.assertEqual(drawing.bars, [])
        along, *others = sorted(dimensions, key=lambda name: -len({getattr(config, name) for config in run.configs}))
        panels: dict[Any, list[tuple[float, float]]] = {}
        for cell in run.cells:
            x = drawing.named([*drawing.marks, *drawing.crosses], cell)[0].middle[0]
            panel = tuple(getattr(cell.config, name) for name in others)
            panels.setdefault(panel, []).append((math.log(getattr(cell.config, along)), x))
        for points in panels.values():
            (low, left), (high, right) = min(points), max(points)
            for logarithm, x in points:
                self.assertAlmostEqual(
                    (logarithm - low) * (right - left), (x - left) * (high - low), delta=0.02 * (high - low) + 1e-9
                )
        corners = [point for line in drawing.lines for point in line.points]
        middles = [mark.middle for mark in drawing.marks]
        self.assertEqual(len(corners), len(middles))
        for line in drawing.lines:
            self.assertEqual(line.points, sorted(line.points, key=lambda point: point[0]))
        for x, y in corners:
            self.assertTrue(
                any(abs(x - across) < 0.02 and abs(y - down) < 0.6 for across, down in middles),
                "a line beside its marks",
            )

    def check(self, run: Run) -> None:
        """Check all of this."""
        text = ane_bench.chart(run)
        self.check_form(text)
        drawing = Picture(text)
        self.check_texts(drawing)
        if run.cells:
            self.check_figures(run, drawing)
            self.check_order(run, drawing)


class EveryChartTest(ChartCase):
    """Charts of every kind of run, made by hand and at random."""

    def test_each(self) -> None:
        for name, run in runs().items():
            with self.subTest(name):
                self.check(run)

    def test_at_random(self) -> None:
        for seed in range(2000 if THOROUGH else 100):
            with self.subTest(seed=seed):
                self.check(random_run(random.Random(seed)))

    def test_faults_are_seen(self) -> None:
        run = runs()["a sweep with failures"]
        text = ane_bench.chart(run)
        interval = re.findall(r'<polyline points="([^"]*)" [^>]*stroke="#1f2430"[^>]*>', text)[0]
        cross = re.findall(r'<polyline points="([^"]*)" [^>]*><title>', text)[0]
        mark, points = re.findall(r'(<polygon points="([^"]*)" [^>]*><title>.*?</polygon>)', text)[0]

        def moved(points: str, right: float, down: float) -> str:
            pairs = [pair.split(",") for pair in points.split()]
            return " ".join(f"{float(x) + right:.2f},{float(y) + down:.2f}" for x, y in pairs)

        across = interval.split()[2].split(",")[0]
        for what, old, new in (
            ("a text on another", 'y="57.00"', 'y="50.00"'),
            ("a text that is cut", 'x="20.00" y="57.00"', 'x="700.00" y="57.00"'),
            ("an interval at another figure", interval, moved(interval, 0, 3)),
            ("an interval without caps", interval, re.sub(r"[0-9.]+,", f"{across},", interval)),
            ("no interval", f'<polyline points="{interval}"', f'<polyline points="{interval.split()[0]}"'),
            ("a mark at another figure", points, moved(points, 0, 2)),
            ("a mark at another value", points, moved(points, 3, 0)),
            ("a mark of another color", f'{points}" fill="#52617a"', f'{points}" fill="#ffffff"'),
            ("no mark", mark, ""),
            ("a mark twice", mark, mark * 2),
            ("a cross among the data", cross, moved(cross, 0, -200)),
            ("an act", "<svg ", '<svg onload="0" '),
        ):
            with self.subTest(what):
                self.assertIn(old, text)
                changed = text.replace(old, new, 1)
                with unittest.mock.patch.object(ane_bench, "chart", return_value=changed):
                    self.assertRaises((AssertionError, ValueError, LookupError), self.check, run)

    def test_the_order_of_the_bars_is_seen(self) -> None:
        run = made(FIVE)
        text = ane_bench.chart(run)
        run.cells.reverse()
        with unittest.mock.patch.object(ane_bench, "chart", return_value=text):
            self.assertRaises(AssertionError, self.check, run)


class FormTest(ChartCase):
    """Which chart a run gets, and what it says."""

    def panels(self, name: str) -> int:
        """Return how many panels of rates a chart has."""
        return len(picture(name).rates)

    def test_bars_unless_it_is_a_sweep_over_one_or_two_dimensions(self) -> None:
        for name in runs():
            swept = "sweep" in name or "two dimensions" in name or name == "kernels"
            with self.subTest(name):
                self.assertEqual(bool(picture(name).bars), not swept and any(map(drawn, runs()[name].cells)))
        for name in ("five", "twenty-four", "three dimensions"):
            self.assertEqual(len(picture(name).bars), len(runs()[name].cells))
            for config in runs()[name].configs:
                self.assertTrue(picture(name).say(config.name))
            self.assertTrue(picture(name).say("channels x side in pixels x layers"))

    def test_a_sweep_has_a_logarithmic_axis(self) -> None:
        drawing = Picture(ane_bench.chart(made(sweep((64, 128, 512)))))
        first, second, third = (drawing.lines[0].points[number][0] for number in range(3))
        self.assertAlmostEqual((third - second) / (second - first), 2, places=3)
        self.assertTrue(drawing.say("channels, logarithmic"))
        for value, x in zip(("64", "128", "512"), (first, second, third)):
            (label,) = (box for box in drawing.texts if box.name == value)
            self.assertAlmostEqual((label.left + label.right) / 2, x, delta=0.02)
        for name, title in (("a sweep of 3", "layers, logarithmic"), ("a sweep of 40", "layers, logarithmic")):
            self.assertTrue(picture(name).say(title))

    def test_labels_give_way_but_the_first_and_the_last(self) -> None:
        found = [box.name for box in picture("a sweep of 40").texts]
        self.assertLess({"100", "139"}, set(found))
        self.assertLess(len(set(found) & {str(value) for value in range(100, 140)}), 35)
        ticks = [
            shape
            for shape in picture("a sweep of 40").shapes
            if shape.color == ane_bench.QUIET and shape.points[0][0] == shape.points[1][0]
        ]
        self.assertEqual(len(ticks), 40)

    def test_two_dimensions_have_a_panel_for_each_value_of_the_second(self) -> None:
        for name, second, values in (
            ("two dimensions", "layers", (32, 64, 128)),
            ("kernels", "kernel", (1, 3)),
            # The dimension with more values lies along the axis.
            ("two dimensions with failures", "channels", (64, 128, 256, 512)),
            ("two dimensions broken off", "layers", (32, 64)),
            # A value that was not measured has no panel.
            ("two dimensions hardly begun", "layers", (32,)),
        ):
            with self.subTest(name):
                drawing = picture(name)
                self.assertEqual(len(drawing.rates), len(values))
                self.assertEqual(len(drawing.ratios), len(values))
                for value in values:
                    self.assertTrue(drawing.say(f"{second}: {value}"))
                self.assertEqual(
                    len({(frame.least, frame.most) for frame in drawing.rates}), 1, "one scale for all panels"
                )
        drawing = picture("two dimensions")
        for cell in runs()["two dimensions"].cells:
            frame = next(frame for frame in drawing.rates if frame.holds(drawing.named(drawing.marks, cell)[0].middle))
            heading = min(
                (box for box in drawing.texts if box.name.startswith("layers: ") and box.bottom < frame.box.top),
                key=lambda box: math.hypot(box.left - frame.box.left, box.bottom - frame.box.top),
            )
            self.assertEqual(heading.name, f"layers: {cell.config.depth}")

    def test_a_line_is_interrupted_by_failures_only(self) -> None:
        drawing = picture("a sweep with failures")
        rates = drawing.rates[0]
        lengths = {
            variant: [
                len(line.points)
                for line in drawing.lines
                if line.color == ane_bench.COLORS[variant] and rates.holds(line.points[0])
            ]
            for variant in ALL
        }
        self.assertEqual(lengths, {"fp16": [1, 10], "w8a16": [4, 7], "w8a8": [1, 9]})

    def test_ratios_below_the_rates(self) -> None:
        for name in runs():
            drawing = picture(name)
            with self.subTest(name):
                compared = [cell for cell in runs()[name].cells if cell.ratio]
                self.assertEqual(len(drawing.ratios), len(drawing.rates) if compared else 0)
                for rates, ratios in zip(drawing.rates, drawing.ratios):
                    self.assertGreater(ratios.box.top, rates.box.bottom)
                    self.assertEqual((ratios.box.left, ratios.box.right), (rates.box.left, rates.box.right))
                    self.assertLess(ratios.box.bottom - ratios.box.top, (rates.box.bottom - rates.box.top) / 2)
                    self.assertLessEqual(ratios.least, 1)
                    self.assertEqual((rates.least, ratios.box.name), (0, "times as fast as FP16"))
        self.assertEqual(picture("one variant").ratios, [])
        self.assertEqual(picture("a failed baseline").ratios, [])
        drawing = Picture(ane_bench.chart(made(FIVE, ("w8a8", "fp16"))))
        self.assertEqual(drawing.ratios[0].box.name, "times as fast as W8A8")

    def test_figures_above_bars(self) -> None:
        for name in ("five", "twenty-four in three variants", "slow", "fast", "slow and fast", "the reference"):
            for cell in runs()[name].cells:
                drawing = picture(name)
                (bar,) = drawing.named(drawing.bars, cell)
                above = [
                    box for box in drawing.texts if box.left < bar.middle[0] < box.right and box.bottom < bar.box.top
                ]
                figure = max(above, key=lambda box: box.bottom).name
                assert cell.tops
                self.assertAlmostEqual(
                    float(figure), cell.tops, delta=0.00501 * (cell.tops if not 0.1 <= cell.tops < 1e5 else 1)
                )

    def test_legend(self) -> None:
        for name in runs():
            labels = [
                VARIANTS[variant].label
                for variant in runs()[name].variants
                if any(cell.variant == variant for cell in runs()[name].cells)
            ]
            wrong = any(cell.check == "WRONG" for cell in runs()[name].cells)
            with self.subTest(name):
                drawing = picture(name)
                self.assertEqual(len(drawing.signs), len(labels) + wrong)
                for label, sign in zip([*labels, *(["hollow: wrong output"] if wrong else [])], drawing.signs):
                    (text,) = (
                        box for box in drawing.texts if box.name == label and box.top < sign.middle[1] < box.bottom
                    )
                    self.assertLess(sign.box.right, text.left)
                    self.assertEqual(sign.fill == ane_bench.GROUND, label.startswith("hollow"))

    def test_variants_differ_without_color(self) -> None:
        drawing = picture("a sweep of 3")
        outlines = {
            tuple((round(x - mark.middle[0]), round(y - mark.middle[1])) for x, y in mark.points)
            for mark in drawing.marks
        }
        self.assertEqual(len(outlines), 3)
        for color in ane_bench.COLORS.values():
            self.assertGreater(contrast(color, ane_bench.GROUND), 3)
        for color in (ane_bench.INK, ane_bench.QUIET):
            self.assertGreater(contrast(color, ane_bench.GROUND), 4.5)
        self.assertEqual(set(ane_bench.COLORS), set(VARIANTS))
        self.assertLessEqual(set(VARIANTS), set(ane_bench.SHAPES))

    def test_failures_are_named(self) -> None:
        drawing = picture("failures")
        self.assertEqual(len(drawing.crosses), 4)
        for cross in drawing.crosses:
            self.assertTrue(cross.tip.endswith(": failed in stage compile: refused"), cross.tip)
        self.assertTrue(drawing.say("failed"))
        self.assertFalse(picture("five").say("failed"))
        self.assertEqual(picture("five").strips, [])

    def test_nothing_to_draw(self) -> None:
        for name, text in (
            ("only failures", "All cells failed (10), most often in stage compile."),
            ("a sweep that failed", "All cells failed (6), most often in stage compile."),
            ("two dimensions that failed", "All cells failed (8), most often in stage compile."),
            ("nothing", "No configuration was measured."),
            ("no variants", "No configuration was measured."),
            ("broken off at once", "No configuration was measured."),
        ):
            with self.subTest(name):
                self.assertTrue(picture(name).say(text))
                self.assertEqual(picture(name).frames, [])
        self.assertEqual(len(picture("only failures").crosses), 10)

    def test_an_interval_that_reaches_0_is_not_drawn(self) -> None:
        run = runs()["a sweep with intervals from 0"]
        self.assertEqual([cell.name for cell in run.cells if cell.ms["ci95"][0] == 0], ["W8A8 4x conv 512ch 64x64"])
        self.assertEqual(
            sum(1 for cell in run.cells for figures in (cell.ms, cell.ratio) if "ci95" in figures) - 1,
            len(picture("a sweep with intervals from 0").intervals),
        )

    def test_a_failed_cell_with_times_is_not_among_the_data(self) -> None:
        run = made(FIVE)
        run.cells[3].note(status="failed", stage="unload", error="it hung")
        self.assertTrue(run.cells[3].tops)
        self.check(run)

    def test_what_was_measured(self) -> None:
        for name, start in (
            ("broken off", "2 of 5 configurations · "),
            ("broken off at once", "0 of 5 configurations · "),
            ("a sweep broken off", "2 of 5 configurations · all conv 512ch 64x64 · "),
            ("five", "95 % intervals · "),
            ("a sweep of 3", "all conv 512ch 64x64 · 95 % intervals · "),
            ("kernels", "all 8x conv 64x64 · "),
            ("few rounds", f"ane_bench {ane_bench.__version__}"),
        ):
            with self.subTest(name):
                self.assertTrue(any(box.name.startswith(start) for box in picture(name).texts), picture(name).texts[:3])
        self.assertTrue(picture("five").say("Neural Engine throughput: M4, h16g, macOS 26.4"))
        self.assertTrue(picture("the reference").texts[0].name.startswith("reference engine in plain Python"))

    def test_long_names_are_shortened(self) -> None:
        text = " ".join(box.name for box in picture("long names").texts)
        self.assertIn(f"stand-in library, {LONG['chip'][len('Apple ') :][:40].strip()}", text)


class CommandTest(unittest.TestCase):
    """`chart RUN.json [-o FILE.svg]`."""

    def run_chart(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, output and errors."""
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = ane_bench.main(["chart", *arguments])
        return code, output.getvalue(), errors.getvalue()

    def test_files(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run one.json"
            runs()["five"].save(str(path))
            self.assertEqual(self.run_chart(str(path)), (0, f"{directory}/run one.svg\n", ""))
            drawn = ane_bench.chart(ane_bench.read_record(str(path)))
            self.assertEqual((path.parent / "run one.svg").read_text(encoding="utf-8"), drawn)
            self.assertEqual(drawn, ane_bench.chart(runs()["five"]))
            self.assertEqual(self.run_chart(str(path), "-o", f"{directory}/other.svg")[0], 0)
            self.assertEqual(self.run_chart(str(path), "-o", f"{directory}/none/other.svg")[0], 2)
            path.write_text("{}")
            self.assertEqual(self.run_chart(str(path), "-o", f"{directory}/third.svg")[0], 2)
            self.assertEqual(
                sorted(found.name for found in path.parent.iterdir()), ["other.svg", "run one.json", "run one.svg"]
            )


# ----------------------------------------------------------------------------------------------------------------------
# In a browser
# ----------------------------------------------------------------------------------------------------------------------

# Writes down where each text of each chart stands, from the edge of its chart.
MEASURE = """<pre id="found"></pre><script>
const found = [...document.querySelectorAll("svg")].map(svg => {
  const edge = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].map(text => {
    const box = text.getBoundingClientRect();
    return [text.textContent, box.left - edge.left, box.top - edge.top, box.right - edge.left, box.bottom - edge.top];
  });
});
document.getElementById("found").textContent = JSON.stringify(found);
</script>"""
FAMILIES = ("Helvetica, Arial, sans-serif", "DejaVu Sans, Verdana, sans-serif")


class BrowserTest(unittest.TestCase):
    """Where texts really are, in Chromium, in the font that most have and in one of the widest."""

    def measured(self, page: str) -> list[list[Box]]:
        """Return the texts of each chart of a page, as the browser lays them out."""
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            self.skipTest("no Chromium is installed")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "charts.html"
            path.write_text(page, encoding="utf-8")
            options = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-sync",
                "--disable-background-networking",
                "--disable-component-update",
                f"--user-data-dir={directory}/profile",
            ]
            done = subprocess.run(
                [browser, *options, "--dump-dom", path.as_uri()],
                capture_output=True,
                encoding="utf-8",
                timeout=120,
                check=False,
            )
        found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, f"{browser} ended with {done.returncode}: {done.stderr[-2000:]}"
        return [[Box(*text) for text in texts] for texts in json.loads(html.unescape(found[1]))]

    def test_no_text_overlaps_or_is_cut(self) -> None:
        charts = {
            f"{name} in {family}": ane_bench.chart(run).replace(FAMILIES[0], family)
            for family in FAMILIES
            for name, run in runs().items()
        }
        charts["README"] = (Path(__file__).parent.parent / ".github" / "chart.svg").read_text(encoding="utf-8")
        page = f'<!DOCTYPE html><meta charset="utf-8"><body>{"<hr>".join(charts.values())}{MEASURE}'
        measured = self.measured(page)
        self.assertEqual(len(measured), len(charts))
        for (name, chart), texts in zip(charts.items(), measured):
            drawing = Picture(chart)
            self.assertEqual(len(texts), len(drawing.texts))
            for box in texts:
                with self.subTest(name, text=box.name):
                    self.assertTrue(box.left >= -0.5 and box.right <= drawing.width + 0.5, box)
                    self.assertTrue(box.top >= -0.5 and box.bottom <= drawing.height + 0.5, box)
            # A line's box has room above capitals and below the baseline, which may meet.
            inner = [
                box._replace(top=box.top + 2, bottom=box.bottom - 2, left=box.left + 0.5, right=box.right - 0.5)
                if box.right - box.left > box.bottom - box.top
                else box._replace(left=box.left + 2, right=box.right - 2, top=box.top + 0.5, bottom=box.bottom - 0.5)
                for box in texts
            ]
            for one, other in itertools.combinations(inner, 2):
                self.assertFalse(one.meets(other), (name, one, other))
