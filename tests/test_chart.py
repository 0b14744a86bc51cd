"""Section 16: the chart. Its texts and marks are read back from the SVG: where they stand is
compared with the cells and layers of the runs, and no text may meet another, by the widths of a
real font. `python3 -m tests.test_chart` makes README's pictures anew."""

import functools
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import VARIANTS, Config, Run
from tests import runs, support
from tests.runs import ALL, AS_ORIGINAL, ORIGINAL, PAIR, RESNET, made_run, scattered
from tests.standin import build

SWEEP = [Config(*shape) for shape in itertools.product((64, 128, 256, 512), (16, 32, 64), (32, 128),
                                                       (1, 3))]
SMALL = ("32x8x4", "64x8x4", "64x8x12")
LONGEST = ("1024x1024x128k3", "16x4096x16384", "1x1x16384k3", "16384x16x8")
EDITION = {"chip": "Apple M5 Max Ultra Special Edition (64-core sample of an engineer)",
           "model": "MacBookPro18,3 MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM", "macos": "26.4.1 (beta 3)"}
HOSTILE = ("</title><script>alert(1)</script>\x00\x1b[31m\ud800\ufffe\u202e\"'&<!-- ]]> "
           "href=javascript:alert(1) 漢字🦀 " + "W" * 1000)


def machines(configs: Sequence[Any] = ORIGINAL, count: int = 10, **options: Any) -> list[Run]:
    """Return a run of each of some machines, in an order that is not theirs."""
    return random.Random(1).sample(runs.of_macs(configs, count, **options), count)


@functools.cache
def cases() -> dict[str, list[Run]]:
    """Return runs by what is special about them."""
    some = [(1, "fp16"), (2, "w8a8"), (3, "fp16"), (3, "w8a16"), (3, "w8a8")]
    hostile = {"chip": HOSTILE, "model": HOSTILE, "macos": HOSTILE, "ane_subtype": HOSTILE}
    return {
        "five": [scattered(made_run(ORIGINAL), 0.02)],
        "another baseline": [scattered(made_run(ORIGINAL, ("w8a8", "fp16", "w8a16")), 0.2)],
        "forty-eight": [scattered(made_run(SWEEP), 0.02)],
        "layers": [made_run(RESNET, fixed_ms=0.1)],
        "layers that cannot be told": [scattered(made_run(RESNET, ALL, fixed_ms=1e3), 0.5)],
        "ten machines": machines(),
        "machines with failures": machines(count=4, failed=some[:2], wrong=[(0, "w8a8")]),
        "machines with other configurations": [
            *machines(ORIGINAL[:2], 2), *machines(RESNET, 3, variants=ALL, fixed_ms=0.1)],
        "failures": [scattered(made_run(ORIGINAL, ALL, failed=some,
                                        wrong=[(0, "w8a8"), (4, "fp16")]), 0.02)],
        "only failures": [made_run(ORIGINAL, failed=[*itertools.product(range(5), PAIR)])],
        "broken off": [made_run(ORIGINAL, measured=2)],
        "broken off among others": [made_run(ORIGINAL, measured=2), *machines(count=2)],
        "nothing": [made_run(ORIGINAL, measured=0)],
        "long names": [made_run(LONGEST, ALL, engine="stand-in", system=EDITION)],
        "long names of machines": [made_run(LONGEST, engine="stand-in", system=EDITION)] * 3,
        "from 1e-6 to 100": [made_run(SMALL, ALL, speeds={"fp16": 1e-6, "w8a16": 1, "w8a8": 100})],
        "slow": [made_run(SMALL, ALL, engine="reference",
                          speeds={"fp16": 1.3e-6, "w8a16": 1.5e-6, "w8a8": 2e-6})],
        "wide intervals": [scattered(made_run(ORIGINAL, ALL, spread=3, rounds=6), 0.9)],
        "engines that cannot be compared": [
            *machines(count=2), *machines(count=2, engine="stand-in"),
            made_run(SMALL, ALL, engine="reference", speeds=dict.fromkeys(ALL, 1e-5)),
            made_run(ORIGINAL, settings=AS_ORIGINAL)],
        "hostile": [made_run(ORIGINAL, failed=some, error=HOSTILE * 99, system=hostile)],
        "hostile among others": [made_run(ORIGINAL, failed=some, wrong=[(0, "fp16")],
                                          error=HOSTILE, system=hostile), *machines(count=2)],
    }


PICTURES = ("chart.svg", "machines.svg")  # of README
SVG = "{http://www.w3.org/2000/svg}"
# Advance widths of DejaVu Sans 2.37 in thousandths of the font size, rounded up, by the font's
# tables hmtx and cmap; a letter that is none of these is taken to be a Chinese one or an emoji.
ADVANCES = {letter: width / 1000 for width, letters in (
    (275, "'"), (278, "ijl"), (295, "IJ"), (318, " ,.·"), (337, "/:;\\|"), (353, "f"), (361, "-"),
    (391, "()[]"), (393, "t"), (401, "!"), (412, "r"), (460, '"'), (500, "*_`"), (521, "s"),
    (525, "z"), (531, "?"), (550, "c"), (558, "L"), (576, "F"), (580, "k"), (592, "vxy"),
    (604, "P"), (611, "TY"), (612, "o"), (613, "a"), (616, "e"), (632, "E"), (634, "hnu"),
    (635, "Sbdgpq"), (637, "$0123456789{}"), (656, "K"), (685, "AV"), (686, "XZ"), (687, "B"),
    (695, "R"), (699, "C"), (732, "U"), (749, "N"), (752, "H"), (771, "D"), (775, "G"), (780, "&"),
    (788, "OQ"), (818, "w"), (838, "#+<=>^~±×"), (863, "M"), (951, "%"), (975, "m"), (989, "W"),
    (1000, "@…")) for letter in letters}


class Box(NamedTuple):
    """A rectangle that holds a text or a mark; of a text also its anchor and its size."""

    name: str
    left: float
    top: float
    right: float
    bottom: float
    x: float = 0
    anchor: str = ""
    size: float = 0

    def meets(self, other: "Box") -> bool:
        """Return whether the two overlap."""
        return (self.left < other.right and other.left < self.right
                and self.top < other.bottom and other.top < self.bottom)

    def within(self, top: float, bottom: float) -> bool:
        """Return whether it stands between two heights."""
        return top < self.top and self.bottom < bottom


class Marks(NamedTuple):
    """What is drawn of a variant in a row; intervals are [left, right]."""

    tip: str
    stroke: str
    fill: str
    boxes: list[Box]
    intervals: list[list[float]]


def text_of(element: xml.etree.ElementTree.Element) -> Box:
    """Return the box of a text, by the widths above."""
    facts, text = element.attrib, element.text or ""
    x, y, size = float(facts["x"]), float(facts["y"]), float(facts["font-size"])
    width = size * sum(ADVANCES.get(letter, 1.4) for letter in text)
    left = x - width * {"start": 0, "middle": 0.5, "end": 1}[facts["text-anchor"]]
    return Box(text, left, y - 0.76 * size, left + width, y + 0.24 * size, x,
               facts["text-anchor"], size)


def marks_of(group: xml.etree.ElementTree.Element) -> Marks:
    """Return the marks of a group."""
    tip = group.findtext(f"{SVG}title") or ""
    boxes = []
    for shape in group.iter(f"{SVG}polygon"):
        points = [pair.split(",") for pair in shape.attrib["points"].split()]
        across, down = zip(*(map(float, point) for point in points))
        boxes.append(Box(tip, min(across), min(down), max(across), max(down)))
    lines = [re.findall("[MH]([0-9.]+)", path.attrib["d"]) for path in group.iter(f"{SVG}path")]
    return Marks(tip, group.attrib["stroke"], group.attrib["fill"], boxes,
                 [sorted(map(float, line)) for line in lines])


def place(value: float, axis: Sequence[tuple[float, float]]) -> float:
    """Return the x of a value on an axis, of which the labelled ticks are known as (x, value)."""
    (left, least), (right, most) = axis[0], axis[-1]
    return left + (right - left) * (value - least) / (most - least)


class Picture:
    """A chart, read back: `rows` are heading, name, upper and lower edge of each."""

    def __init__(self, text: str) -> None:
        self.root = xml.etree.ElementTree.fromstring(text.encode())
        self.texts = [text_of(element) for element in self.root.iter(f"{SVG}text")]
        found = [marks_of(group) for group in self.root.iter(f"{SVG}g") if group.attrib]
        spoken = [variant.spoken for variant in VARIANTS.values()]
        self.signs = [marks for marks in found if marks.tip in spoken]
        self.marks = found[len(self.signs):]
        self.bases = [[float(x) for x in re.findall("M([0-9.]+)", path.attrib["d"])]
                      for path in self.root.findall(f"{SVG}path")]
        sections = [[float(y) for y in re.findall(r"M20,([\d.]+)H780", path.attrib["d"])]
                    for path in self.root.findall(f"{SVG}path") if "M20," in path.attrib["d"]]
        self.rows = [(" ".join(text.name for text in self.texts if text.size == 16
                               and 0 <= edges[0] - text.bottom < 6),
                      " ".join(text.name for text in self.texts
                               if text.x == 20 and text.within(top, bottom)), top, bottom)
                     for edges in sections for top, bottom in zip(edges, edges[1:])]

    def axes(self, title: str) -> list[list[tuple[float, float]]]:
        """Return the axes of a title, panel by panel: their labelled ticks as (x, value)."""
        heads = [text for text in self.texts if text.x > 20
                 and re.match("TOPS, more|Ratio to", text.name)]
        found = []
        for head in heads:
            end = min((other.x for other in heads if other.top == head.top and other.x > head.x),
                      default=799)
            found.append([(tick.x, float(tick.name)) for tick in self.texts
                          if tick.anchor == "middle" and abs(tick.top - head.top - 18) < 0.2
                          and head.x <= tick.x < end])
        return [axis for head, axis in zip(heads, found) if head.name.startswith(title)]


@functools.cache
def picture(name: str) -> Picture:
    """Return the chart of one of the cases."""
    return Picture(ane_bench.chart(cases()[name]))


class Lane(NamedTuple):
    """What a chart must show of a variant in a row: TOPS and ratio, each before its interval."""

    heading: str
    row: str
    variant: str
    rates: list[float]
    ratios: list[float]
    failure: str


def lanes_of(run: Run, machine: Optional[str]) -> Iterator[Lane]:
    """Yield what a chart must show of a run; of several runs each row is named by its machine."""
    for cell in run.cells:
        heading, row = (cell.config.name, machine) if machine else ("", cell.config.name)
        shown = cell.samples_ns and (cell.ok or cell.check == "WRONG")
        rates = [cell.tops or 0, *(cell.config.gop / end for end in cell.ms.get("ci95", ())[::-1])]
        yield Lane(heading, row, cell.variant, rates if shown else [],
                   [cell.ratio["value"], *cell.ratio.get("ci95", ())] if cell.ratio else [],
                   cell.failure)
    for layer, variant in itertools.product(run.layers, run.variants):
        told, ratio = layer.variants.get(variant), layer.ratio.get(variant)
        kind = ane_bench.ONE_LAYER
        heading, row = (f"{layer.shape}: {kind}", machine) if machine else (kind, layer.shape)
        yield Lane(heading, row, variant, [told["tops"], *told["tops_ci95"]] if told else [],
                   [ratio["value"], *(ratio["ci95"] or ())] if ratio else [],
                   "" if told else "has no time that can be told")


class ChartTest(unittest.TestCase):
    """What holds for every chart, what single ones say, and README's pictures."""

    def check_form(self, text: str) -> Picture:
        """Check that a chart is SVG that refers to nothing and does nothing, on its own ground, and
        that no text meets another text, a mark or the edge; return the picture."""
        self.assertLess(len(text), 150_000)
        self.assertNotRegex(text, "[^\n\x20-\x7e\xa0-\U0010ffff]|[\ud800-\udfff\ufffe]")
        drawing = Picture(text)
        root = drawing.root
        self.assertLessEqual({element.tag.replace(SVG, "") for element in root.iter()}, {
            "svg", "title", "rect", "text", "path", "polygon", "g"})
        self.assertLessEqual({name for element in root.iter() for name in element.attrib}, {
            "width", "height", "viewBox", "role", "font-family", "font-size", "text-anchor", "fill",
            "stroke", "stroke-width", "x", "y", "d", "points"})
        for element in root.iter():
            self.assertRegex(" ".join(element.attrib.values()), r"^[\w .,#-]*$")
        width, height = root.attrib["width"], root.attrib["height"]
        self.assertEqual((width, root.attrib["viewBox"]), ("800", f"0 0 800 {height}"))
        self.assertEqual((root.attrib["role"], root[0].tag), ("img", f"{SVG}title"))
        self.assertEqual(root[1].attrib, {"width": "800", "height": height, "fill": "#ffffff"})
        for _, ground, words in (group for group in root.iter(f"{SVG}g") if not group.attrib):
            box = text_of(words)
            self.assertLess(box.right, box.left + float(ground.attrib["width"]))
        marks = [box for marks in [*drawing.signs, *drawing.marks] for box in marks.boxes]
        for number, box in enumerate(drawing.texts):
            met = [other for other in [*drawing.texts[number + 1:], *marks] if box.meets(other)]
            self.assertEqual(met, [], box)
        for box in [*drawing.texts, *marks]:
            self.assertTrue(box.left >= 0 and box.right <= 800, box)
            self.assertTrue(box.top > 10 and box.bottom < float(height) - 10, box)
        return drawing

    def check_lane(self, drawing: Picture, lane: Lane, axes: Sequence[Any]) -> None:
        """Check that a lane is drawn at its figures, or that its failure is said in its row."""
        variant = VARIANTS[lane.variant]
        tops = [row[2:] for row in drawing.rows if row[:2] == (lane.heading, lane.row)]
        about = f"{variant.label} {lane.heading}, {lane.row}: ".replace(" , ", " ")
        drawn = [marks for marks in drawing.marks if marks.tip.startswith(about)]
        if not lane.rates:
            self.assertEqual(drawn, [])
            left = axes[0][0][0] if axes else None
            words = [text.name for text in drawing.texts for top, bottom in tops
                     if text.within(top, bottom) and left in (text.x, None)]
            self.assertTrue(any(word.startswith(f"{variant.label} {lane.failure[:20]}")
                                for word in words), (lane, words))
            return
        (marks,), ((top, bottom),) = drawn, tops
        self.assertTrue(all(box.within(top - 2, bottom + 2) for box in marks.boxes))
        self.assertEqual(marks.stroke, variant.color)
        self.assertEqual(marks.fill, "#ffffff" if lane.failure else variant.color)
        self.assertIn(f"{ane_bench.figure(lane.rates[0], 2)} TOPS", marks.tip)
        figures = [values for values in (lane.rates, lane.ratios) if values]
        self.assertEqual(len(marks.boxes), len(figures))
        self.assertEqual(len(marks.intervals), sum(len(values) == 3 for values in figures))
        intervals = iter(marks.intervals)
        for box, values, axis in zip(marks.boxes, figures, axes):
            self.assertAlmostEqual((box.left + box.right) / 2, place(values[0], axis), delta=0.15)
            for end, value in zip(next(intervals) if values[1:] else (), values[1:]):
                cut = place(value, axis) > end > axis[-1][0] - 0.15  # at the end of the axis
                self.assertTrue(cut or abs(end - place(max(value, 0), axis)) < 0.15, (lane, end))
        if lane.ratios:
            ratio = f"{ane_bench.figure(lane.ratios[0], 2, 4)}x"
            self.assertIn(f", {ane_bench.figure(lane.ratios[0], 2)}x", marks.tip)
            self.assertTrue(any(text.name == ratio and text.anchor == "end" and text.within(
                top, bottom) for text in drawing.texts), lane)

    def check(self, runs: Sequence[Run]) -> None:
        """Check the form, the order of rows, and each figure."""
        drawing = self.check_form(ane_bench.chart(runs))
        self.assertTrue(all(bottom - top >= 16 for *_, top, bottom in drawing.rows))
        rates, ratios = drawing.axes("TOPS"), drawing.axes("Ratio")
        rows: dict[tuple[str, str], None] = {}
        count = 0
        for _, alike in ane_bench.groups_of(runs):
            lanes = [lane for name, run in zip(ane_bench.machine_names(alike), alike)
                     for lane in lanes_of(run, name if len(runs) > 1 else None)]
            axes = [rates.pop(0)] if any(lane.rates for lane in lanes) else []
            axes += [ratios.pop(0)] if any(lane.ratios for lane in lanes) else []
            bases = [place(base, axis) for base, axis in enumerate(axes)]
            self.assertTrue(not lanes or any(len(found) == len(bases) and all(
                abs(x - y) < 0.15 for x, y in zip(found, bases)) for found in drawing.bases))
            for lane in lanes:
                self.check_lane(drawing, lane, axes)
                count += bool(lane.rates)
            lanes.sort(key=lambda lane: ane_bench.ONE_LAYER in lane.heading)
            headings = list(dict.fromkeys(lane.heading for lane in lanes))
            lanes.sort(key=lambda lane: headings.index(lane.heading))
            rows.update(dict.fromkeys((lane.heading, lane.row) for lane in lanes))
        self.assertEqual(list(dict.fromkeys(row[:2] for row in drawing.rows)), list(rows))
        self.assertEqual((rates, ratios, len(drawing.marks)), ([], [], count))
        self.assertEqual([sign.tip for sign in drawing.signs], [
            variant.spoken for name, variant in VARIANTS.items()
            if any(name in run.variants for run in runs)])

    def test_each(self) -> None:
        for name, made in cases().items():
            with self.subTest(name):
                if "hostile" in name or "long" in name:  # their names are cut
                    self.check_form(ane_bench.chart(made))
                else:
                    self.check(made)

    def test_at_random(self) -> None:
        for seed in range(support.reduced(1000, 60, "random charts")):
            draw = random.Random(seed)
            made = [runs.random_run(draw) for _ in range(draw.choice((1, 1, 2, 5)))]
            for number, run in enumerate(made[1:]):  # whose names differ
                run.engine, run.system["chip"] = "ane", f"Apple M{number}"
            with self.subTest(seed=seed):
                self.check(made)

    def test_lines_hold_what_fits(self) -> None:
        for letter, width in ADVANCES.items():
            self.assertLessEqual(width, ane_bench.text_width(letter), letter)
        self.assertEqual(ane_bench.wrapped("", 9), [""])
        self.assertEqual(ane_bench.wrapped("aa bb cc", 5 * 0.65 + 0.42), ["aa bb", "cc"])
        self.assertEqual(ane_bench.wrapped("W" * 99 + " b", 8.75), ["WWWW… b"])
        self.assertTrue(any(text.name.endswith(" no;…") for text in picture("failures").texts))

    def test_an_axis_holds_figures_and_what_is_near(self) -> None:
        axis = ane_bench.axis_of("", 100, 200, [[1, -9, 99], [0.5]])
        self.assertEqual((axis.ticks[0], axis.ticks[-1]), (0, 1.5))
        self.assertEqual([axis.place(value) for value in (-9, 0, 0.75, 99)], [100, 100, 150, 200])

    def test_title_and_groups(self) -> None:
        for name, title in (("five", "Throughput of convolutions: M4, Mac16,1, macOS 26.4"),
                            ("ten machines", "Throughput of convolutions: 10 runs")):
            self.assertEqual([picture(name).root[0].text, picture(name).texts[0].name], [title] * 2)
        groups = ane_bench.groups_of(cases()["engines that cannot be compared"])
        said = [text.name for text in picture("engines that cannot be compared").texts]
        self.assertEqual([sum(line.startswith(words[:60]) for line in said)
                          for words, _ in groups], [1] * 4)

    def test_what_was_measured_is_said_and_ticks_stand_below_many_rows(self) -> None:
        for name in ("broken off", "broken off among others"):
            self.assertIn("M4, Mac16,1, macOS 26.4: 2 of 5 configurations",
                          " ".join(text.name for text in picture(name).texts))
        self.assertNotIn("configurations", str(picture("five").texts))
        for name, count in (("five", 1), ("forty-eight", 2)):
            self.assertEqual(sum(text.name == "40" for text in picture(name).texts), count)

    def test_variants_differ_without_color(self) -> None:
        self.assertEqual(len({variant.mark for variant in VARIANTS.values()}), len(VARIANTS))
        for color in [ane_bench.INK, ane_bench.QUIET, *(v.color for v in VARIANTS.values())]:
            light = sum(weight * (int(color[start:start + 2], 16) / 255) ** 2.2
                        for start, weight in ((1, 0.2126), (3, 0.7152), (5, 0.0722)))
            self.assertGreater(1.05 / (light + 0.05), 4)  # the contrast with white, of WCAG 2

    def test_readme_shows_pictures_of_the_standin(self) -> None:
        for name in PICTURES:
            text = (support.ROOT / ".github" / name).read_text(encoding="utf-8")
            self.check_form(text)
            self.assertLess(len(text.encode()), 30_000)
            self.assertIn("stand-in library", text)


def make_pictures() -> None:
    """Make README's pictures anew: of a default run, and of four machines, by the stand-in."""
    with tempfile.TemporaryDirectory() as directory:
        library = build.build(Path(directory))
        records: list[str] = []
        own = "M4", "Mac16,1", "26.0", 18.6, 36.0  # as the stand-in has it without settings
        for chip, model, macos, fp16, w8a8 in [own, *runs.MACS[1:8:2]]:
            rates = f"fp16:100+{fp16:.1f},w8a8:100+{w8a8:.1f}"
            system = f"brand_string=Apple {chip};hw.model={model};kern.osproductversion={macos}"
            records.append(f"{directory}/{len(records)}.json")
            configs = ["--config", "512x64x64,128"] if records[1:] else []
            subprocess.run(
                [sys.executable, "ane_bench.py", "--quiet", "--save", records[-1], *configs],
                cwd=support.ROOT, check=True, stdout=subprocess.DEVNULL, env={
                    **os.environ, ane_bench.STANDIN_VARIABLE: str(library),
                    "STANDIN_CLOCK": "virtual", "STANDIN_NOISE": "random:0.004",
                    "STANDIN_SPEED": rates, "STANDIN_SYSCTL": f"machdep.cpu.{system}"})
        for name, drawn in zip(PICTURES, (records[:1], records[1:])):
            subprocess.run([sys.executable, "ane_bench.py", "chart", *drawn, "-o",
                            f".github/{name}"], cwd=support.ROOT, check=True)


if __name__ == "__main__":
    make_pictures()
