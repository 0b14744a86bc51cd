"""Warnings: each with the case that brings it out, its whole text, and the cases that must not bring it out."""

import re
import unittest
import unittest.mock
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import ane_bench
from ane_bench import Cell, Config, Settings
from tests import support
from tests.support import SMALL, Scene

CONFIG = Config(512, 64, 128)
ROUNDS, EACH = 10, 5
STEADY = {"COMPUTE": "none", "CLOCK": "virtual", "LATENCY": "fp16:2000,w8a16:1500,w8a8:1000"}
UNCHECKED = ("--config", "64x32x2", "--verify", "0", "--iters", "10", "--rounds", "5", "--warmup", "2")
# Options of run that are not allowed with --original.
FIXED = {f"--{name}" for name in (
    "iters", "rounds", "warmup", "qos", "input", "verify", "blob", "dialect", "kernel", "engine")}

Found = dict[str, str]


def machine(**facts: Any) -> Found:
    """Return the warnings about a machine."""
    return dict(ane_bench.warnings_about_machine(facts))


def before(config: Config = CONFIG, chip: str = "Apple M4", free: int = 1 << 40) -> Found:
    """Return the warnings about a configuration that is about to be compiled, if so many bytes are free."""
    with unittest.mock.patch("shutil.disk_usage", lambda path: unittest.mock.Mock(free=free)):
        return dict(ane_bench.warnings_before(config, ("fp16", "w8a8"), {"chip": chip}))


def cell(times: Sequence[float] = (15.0,) * EACH * ROUNDS, *, engine: str = "ane", chip: str = "Apple M4",
         config: Config = CONFIG, variant: str = "fp16", base: Sequence[float] = (), tick_ns: float = 0,
         protocol: Optional[Settings] = None, **facts: Any) -> Found:
    """Return the warnings about a cell with these times in ms, on a machine with a chip. `base` is the baseline's."""
    settings = protocol or Settings(iters=len(times) or 1, rounds=ROUNDS if len(times) >= ROUNDS else 1)

    def make(name: str, ms: Sequence[float], **facts: Any) -> Cell:
        each = len(ms) // settings.rounds or 1
        rounds = [[time * 1e6 for time in ms[start:start + each]] for start in range(0, len(ms), each)]
        return Cell(config, name, settings, tick_ns, samples_ns=rounds, **facts)

    made = make(variant, times, **facts)
    made.baseline = make("w8a16", base) if base else None
    return dict(ane_bench.warnings_about_cell(made, engine, {"chip": chip}))


def rate(tops: float, **options: Any) -> Found:
    """Return the warnings about a cell of a rate."""
    return cell([CONFIG.gop / tops] * EACH * ROUNDS, **options)


def drifting(change: float) -> list[float]:
    """Return times that change evenly by a share."""
    return [15 * (1 + change * number / 49) for number in range(50)]


def scattered(share: float, count: int = 20) -> list[float]:
    """Return times that lie at the median and on both sides of it."""
    return [15.0, 15 * (1 + share), 15 * (1 - share)] * count


def late(count: int, factor: float) -> list[float]:
    """Return 50 times of which the last of some rounds are longer."""
    return [15 * factor if place % EACH == EACH - 1 and place // EACH < count else 15.0 for place in range(50)]


def switching(factor: float) -> list[float]:
    """Return times of which the first of each round is longer."""
    return [(15 * factor if place % EACH == 0 else 15.0) + 0.001 * (place * 7 % 5) for place in range(50)]


def levels(factor: float) -> list[float]:
    """Return 100 times in two groups, in no order, of 60 and 40."""
    return [15 * (factor if place * 37 % 100 < 40 else 1) + 0.001 * (place * 7 % 5) for place in range(100)]


def noisy(share: float) -> list[float]:
    """Return times of which rounds differ by a share, one by one."""
    return [15 * (1 + share * (place // EACH % 3 - 1)) for place in range(50)]


ORIGINAL = ane_bench.ORIGINAL_SETTINGS
ZEROS = Settings(input="zeros")
TINY = Config(64, 32, 2)


class Case(NamedTuple):
    """A warning: its code, its whole text, the case that brings it out, and cases that must not."""

    code: str
    text: str
    fires: Callable[[], Found]
    quiet: Sequence[Callable[[], Found]]


CASES = (
    Case("battery", "the Mac runs on battery, which may slow the engine; connect it to power",
         lambda: machine(power_source="Battery Power"),
         [machine, lambda: machine(power_source="AC Power"), lambda: machine(power_source="UPS Power")]),
    Case("low-power", "low-power mode is on, which slows the engine; switch it off in System Settings, Battery",
         lambda: machine(low_power_mode=True), [machine, lambda: machine(low_power_mode=False)]),
    Case("heat-before", "the machine's thermal state was serious before measuring, and a hot machine is slow; let it "
         "cool, and measure fewer configurations at a time",
         lambda: machine(thermal_state_before="serious", thermal_state_after="nominal"),
         [machine, lambda: machine(thermal_state_before="nominal"), lambda: machine(thermal_state_after="fair")]),
    Case("heat-after", "the machine's thermal state was fair after measuring, and a hot machine is slow; let it cool, "
         "and measure fewer configurations at a time",
         lambda: machine(thermal_state_before="nominal", thermal_state_after="fair"),
         [machine, lambda: machine(thermal_state_after="nominal"), lambda: machine(thermal_state_after="unknown")]),
    Case("busy", "other programs keep this machine busy (load 4.1), which makes times longer; close them",
         lambda: machine(load_average=4.1, cpus=8),
         [machine, lambda: machine(load_average=4.0, cpus=8), lambda: machine(cpus=8)]),
    Case("depth", "387x conv 512ch 64x64: over 384 layers have crashed the compiler of this chip, and may stop the "
         "compile service; choose a depth of at most 384",
         lambda: before(CONFIG._replace(depth=387), "Apple M6"),
         [lambda: before(CONFIG._replace(depth=384), "Apple M6"), lambda: before(CONFIG._replace(depth=387)),
          lambda: before(CONFIG._replace(depth=387), "Apple M9")]),
    Case("room", "128x conv 512ch 64x64: compiling may take 480 MiB of temporary files, and 479 MiB are free; free "
         "some space, or choose a smaller configuration",
         lambda: before(free=(480 << 20) - 1), [lambda: before(free=480 << 20)]),
    Case("spatial", "spatial is not a multiple of 32, and some engines then give zeros; choose one that is",
         lambda: cell(config=Config(64, 48, 2)),
         [cell, lambda: cell(config=Config(64, 96, 2)), lambda: cell(config=Config(64, 48, 2), engine="reference"),
          lambda: cell([], config=Config(64, 48, 2), status="failed", stage="load", error="no")]),
    Case("fallback", "refused as standard/1.3: no; accepted as standard/1.0; ask for that at once with --blob standard "
         "--dialect 1.0",
         lambda: cell(refused=["standard/1.3: no"], blob="standard", dialect="1.0"),
         [lambda: cell(blob="standard", dialect="1.0"),
          lambda: cell([], status="failed", stage="load", error="no", refused=["standard/1.3: no"])]),
    Case("one-layer", "a chain of one layer has nothing to quantize between layers, so these are the figures of w8a16; "
         "choose a depth of 2 or more",
         lambda: cell(variant="w8a8", config=Config(64, 32, 1)),
         [lambda: cell(variant="w8a8", config=TINY), lambda: cell(variant="fp16", config=Config(64, 32, 1)),
          lambda: cell(variant="w8a8", config=Config(64, 32, 1), protocol=ORIGINAL)]),
    Case("cached", "the program was in the system's cache, so compile_ms does not measure a compile",
         lambda: cell(compiled_before=True), [cell, lambda: cell(compiled_before=False)]),
    Case("drift", "times changed by +7% from the first third to the last: heat, or the engine's clock; let the Mac "
         "cool, or try more --iters",
         lambda: cell(drifting(0.10)), [cell, lambda: cell(drifting(0.06)), lambda: cell([15.0, 90.0])]),
    Case("drift", "times changed by -7% from the first third to the last: the engine's clock was still rising; let "
         "nothing else use the engine, or try more --iters",
         lambda: cell(drifting(-0.10)), [lambda: cell(drifting(-0.06))]),
    Case("drift", "times changed by -7% from the first third to the last: other programs, most likely; close them, or "
         "try more --iters",
         lambda: cell(drifting(-0.10), engine="reference"), [lambda: cell(engine="reference")]),
    Case("drift", "times changed by +7% from the first third to the last: heat, or the engine's clock; let the Mac "
         "cool",
         lambda: cell(drifting(0.10), protocol=ORIGINAL), [lambda: cell(protocol=ORIGINAL)]),
    Case("spread", "times scatter by 5% about the median: another program uses the engine or the memory; close other "
         "programs, or try more --iters",
         lambda: cell(scattered(0.034)), [cell, lambda: cell(scattered(0.019))]),
    Case("spread", "times scatter by 5% about the median: another program uses the processor or the memory; close "
         "other programs, or try more --iters",
         lambda: cell(scattered(0.034), engine="reference"), []),
    Case("outliers", "3 of 50 evaluates took over 1.5 times the median: other work came between; the median ignores "
         "them, the mean does not; close other programs",
         lambda: cell(late(3, 1.6)), [cell, lambda: cell(late(3, 1.4)), lambda: cell(late(2, 9))]),
    Case("first", "the first evaluate took 11 times the median: the engine's wake-up (50 to 260 ms), most "
         "likely; not counted",
         lambda: cell(first_ms=165), [cell, lambda: cell(first_ms=149)]),
    Case("first", "the first evaluate took 11 times the median; not counted",
         lambda: cell(first_ms=165, engine="reference"), []),
    Case("switch", "the first evaluate of rounds took 1.10 times as long as the others: the cost of switching "
         "between variants; more --iters in as many --rounds dilute it",
         lambda: cell(switching(1.1)),
         [cell, lambda: cell(switching(1.0)), lambda: cell(switching(1.1), protocol=ORIGINAL)]),
    Case("bimodal", "times fall into two groups, 60% near 15.002 ms and the others near 16.502 ms: an engine's clock "
         "that switches, or another program; more --iters, --rounds average it",
         lambda: cell(levels(1.1)), [cell, lambda: cell(levels(1.0)), lambda: cell(levels(1.1), protocol=ORIGINAL)]),
    Case("bimodal", "times fall into two groups, 60% near 15.002 ms and the others near 16.502 ms: another program; "
         "more --iters, --rounds average it",
         lambda: cell(levels(1.1), engine="reference"), []),
    Case("noise", "the interval is ±10%: too noisy to tell small differences; close other programs, or try more "
         "--rounds and --iters",
         lambda: cell(noisy(0.1)), [cell, lambda: cell(noisy(0.02)), lambda: cell(noisy(0.1), protocol=ORIGINAL)]),
    Case("floor", "0.089 ms is below the dispatch overhead (0.09 ms): evaluate may do nothing; compare more pixels "
         "with --verify 4",
         lambda: cell([0.089] * 50, config=TINY),
         [lambda: cell([0.091] * 50, config=TINY), lambda: cell([0.051] * 50, config=TINY, chip="Apple M9"),
          lambda: cell([0.01] * 50, config=TINY, engine="reference"),
          lambda: cell([], config=TINY, status="failed", stage="load", error="no")]),
    Case("floor", "0.010 ms is below the dispatch overhead (0.05 ms): evaluate may do nothing; compare its outputs "
         "with random --input and --verify 4",
         lambda: cell([0.01] * 50, config=TINY, chip="Apple M9", protocol=ZEROS), []),
    Case("floor", "0.010 ms is below the dispatch overhead (0.19 ms): evaluate may do nothing; measure without "
         "--original, so that outputs are compared",
         lambda: cell([0.01] * 50, config=TINY, chip="Apple M1", protocol=ORIGINAL), []),
    Case("rate", "43.8 TOPS is more than Apple M4 is rated for (38): evaluate may do less than it should; compare more "
         "pixels with --verify 4",
         lambda: rate(43.8),
         [lambda: rate(43.6), lambda: rate(43.6, chip="Apple M4 Pro"), lambda: rate(41.3, chip="Apple M3 Ultra"),
          lambda: rate(1000, chip="Apple M5"), lambda: rate(1000, chip="Apple M9"),
          lambda: rate(99, engine="reference"), lambda: rate(43.8, config=CONFIG._replace(kernel=3))]),
    Case("rate", "20.8 TOPS is more than Apple M3 is rated for (18): evaluate may do less than it should; compare more "
         "pixels with --verify 16",
         lambda: rate(20.8, chip="Apple M3", protocol=Settings(verify=4)), []),
)


class TableTest(unittest.TestCase):
    """Each warning fires where it should with its whole text, and nowhere else."""

    def test_each(self) -> None:
        for case in CASES:
            with self.subTest(case.text):
                self.assertEqual(case.fires().get(case.code), case.text)
                for number, quiet in enumerate(case.quiet):
                    self.assertNotIn(case.code, quiet(), f"quiet case {number}")

    def test_a_good_cell_has_none(self) -> None:
        self.assertEqual(cell(), {})
        self.assertEqual(cell(engine="reference"), {})
        self.assertEqual(cell(protocol=ORIGINAL), {})
        self.assertEqual(before(), {})

    def test_every_state_of_heat(self) -> None:
        for state in ("fair", "serious", "critical"):
            for moment in ("before", "after"):
                found = machine(**{f"thermal_state_{moment}": state})
                self.assertIn(f"{state} {moment} measuring", found[f"heat-{moment}"])

    def test_the_ratio_and_the_quotient_of_the_times(self) -> None:
        # In three of ten rounds the baseline takes half as long again: the median is that of the others.
        settings = Settings(iters=200, rounds=40)
        times = [1 + 0.001 * (place % 3) for place in range(200)]
        base = [(3 if place // EACH % 10 < 3 else 2) * time for place, time in enumerate(times)]
        found = cell(times, base=base, protocol=settings)
        self.assertEqual(found.get("ratio"),
                         "Ratio is 2.26, the quotient of the times shown 2.00: times drifted or scattered; trust "
                         "Ratio, which is taken round by round, or try more --rounds")
        self.assertNotIn("ratio", cell(times, base=[2 * time for time in times], protocol=settings))
        # Both drift alike: the ratio and the times agree.
        times = [time * (1 + place / 200) for place, time in enumerate(times)]
        self.assertNotIn("ratio", cell(times, base=[2 * time for time in times], protocol=settings))

    def test_hints_name_options_that_the_command_has(self) -> None:
        run = set(re.findall(r"--[a-z]+", ane_bench.manual("run")))
        for case in CASES:
            named = set(re.findall(r"--[a-z]+", case.text))
            self.assertLessEqual(named, run, case.text)
        original = (cell(times, protocol=ORIGINAL, chip=chip, config=config, first_ms=999, compiled_before=True)
                    for times in (drifting(0.3), scattered(0.2), late(3, 9), [0.001] * 50, switching(2), levels(2))
                    for chip in ("Apple M4", "Apple M9") for config in (CONFIG, TINY, Config(64, 48, 1)))
        texts = [text for found in original for text in found.values()]
        self.assertGreater(len(texts), 20)
        for text in texts:
            self.assertFalse(FIXED & set(re.findall(r"--[a-z]+", text)), text)

    def test_each_code_is_in_a_table(self) -> None:
        source = support.MODULE.read_text(encoding="utf-8")
        found = re.findall(r'(?:\byield |\bwarn\(|\[\(|append\(\()f?"([a-z{}-]+)", (?=\(?f?"|noise|\(\n)', source)
        emitted = {code.replace("{moment}", moment) for code in found for moment in ("before", "after")}
        elsewhere = {*RUNS, "ratio", "unknown-rounding", "quantization"}  # the last two: test_verification.py
        self.assertEqual(emitted, {case.code for case in CASES} | elsewhere)


# What a run must meet for a warning that only a run gives, its text, and runs that must not.
Run = tuple[Sequence[str], dict[str, str]]
RUNS: dict[str, tuple[Run, str, Sequence[Run]]] = {
    "unload": ((UNCHECKED, {"FAULT": "fp16/unload:no"}),
               r"FP16 2x conv 64ch 32x32: unloading failed \(.*told to refuse at unload\), after its figures were "
               r"taken; if later programs fail to load, restart the Mac",
               [(UNCHECKED, {"FAULT": "fp16/purge:no"}), (UNCHECKED, {})]),
    "cache": ((("--config", "64x32x2", *UNCHECKED[2:], "--timeout", "2"), {"FAULT": "w8a8/evaluate:hang@3"}),
              r"2x conv 64ch 32x32: the worker ended before it could purge its compiled programs \(w8a8\): they "
              r"stay in the system's cache and take up disk space until this configuration is measured again",
              [(UNCHECKED, {}), (UNCHECKED, {"FAULT": "w8a8/compile:no"})]),
    "repeated": ((("--config", "64x32x2", *UNCHECKED), {}), "1 repeated configurations were left out",
                 [(UNCHECKED, {})]),
}
NOTES = ("repeated", "first", "cached")


class RunTest(support.StandinCase):
    """What runs against the stand-in say."""

    def remarks(self, scene: Scene, arguments: Sequence[str], settings: dict[str, str]) -> tuple[Found, Found, str]:
        """Return the warnings and notes of a run's record, and what stands on standard error but for progress."""
        finished = scene.run(*arguments, "--save", str(scene.saved), settings={**STEADY, **settings})
        record = ane_bench.read_record(scene.saved)
        warnings, notes = ({remark["code"]: remark["message"] for remark in remarks}
                           for remarks in (record.warnings, record.notes))
        return warnings, notes, finished.errors

    def test_each_of_a_run(self) -> None:
        def check(scene: Scene, code: str) -> None:
            run, text, others = RUNS[code]
            warnings, notes, errors = self.remarks(scene, *run)
            self.assertRegex((notes if code in NOTES else warnings).get(code, ""), rf"\A{text}\Z")
            self.assertNotIn(code, warnings if code in NOTES else notes)
            self.assertEqual(f"warning ({code})" in errors, code not in NOTES, errors)
            for other in others:
                warnings, notes, _ = self.remarks(scene, *other)
                self.assertNotIn(code, {**warnings, **notes})
        self.each(RUNS, check)

    def test_what_machines_and_engines_do(self) -> None:
        """The stand-in does what a machine may do; a run says so."""
        runs: dict[str, dict[str, str]] = {
            "battery": {"POWER": "Battery Power"}, "low-power": {"LOW_POWER": "1"}, "heat-before": {"THERMAL": "1,0"},
            "heat-after": {"THERMAL": "0,2"}, "outliers": {"SPIKE": "11x9"},
            "fallback": {"REFUSE": "short"}, "first": {"FAULT": "evaluate:slow=1@1-1"}}

        def check(scene: Scene, code: str) -> None:
            warnings, notes, errors = self.remarks(scene, UNCHECKED, runs[code])
            self.assertIn(code, notes if code in NOTES else warnings)
            self.assertLessEqual(set(warnings), {code, "busy", "noise"})
            self.assertEqual(f"warning ({code})" in errors, code not in NOTES, errors)
        self.each(runs, check)

    def test_a_cached_program(self) -> None:
        cache = self.directory / "cache"
        cache.mkdir()
        settings = {"CACHE": str(cache)}
        # A run that cannot purge what it compiled leaves it to the next.
        self.assertEqual(self.remarks(self.scene, UNCHECKED, {**settings, "FAULT": "purge:no"})[1], {})
        self.assertEqual(set(self.remarks(self.scene, UNCHECKED, settings)[1]), {"cached"})
        self.assertEqual(self.remarks(self.scene, UNCHECKED, settings)[1], {})

    def test_quiet(self) -> None:
        settings = {**STEADY, "POWER": "Battery Power"}
        finished = self.scene.run(*UNCHECKED, "--quiet", "--save", str(self.scene.saved), settings=settings)
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertIn("battery", {warning["code"] for warning in ane_bench.read_record(self.scene.saved).warnings})

    def test_several_cells_in_one_line_and_marks(self) -> None:
        arguments = ("--config", "64x48x2", "--config", "32x48x2", "--config", "64x32x2",
                     "--variants", "fp16,w8a16,w8a8", *UNCHECKED[2:])
        finished = self.scene.run(*arguments, settings={**STEADY, "POWER": "Battery Power"})
        self.assertEqual(finished.code, 0, finished)
        line, = re.findall(r"(?m)^ane_bench: warning \(spatial\) (.*)$", finished.errors)
        self.assertEqual(line, "FP16 2x conv 64ch 48x48: spatial is not a multiple of 32, and some engines then give "
                               "zeros; choose one that is (also W8A16, W8A8 2x conv 64ch 48x48; FP16, W8A16, W8A8 2x "
                               "conv 32ch 48x48)")
        self.assertEqual(finished.errors.count("warning (battery)"), 1)
        marked = re.findall(r"(?m)^(\S+ +2x conv \S+ \S+) .*\*$", finished.output)
        self.assertEqual([" ".join(name.split()) for name in marked],
                         [f"{label} 2x conv {channels}ch 48x48" for channels in (64, 32)
                          for label in ("FP16", "W8A16", "W8A8")])

    def test_all_cells(self) -> None:
        finished = self.scene.run("--config", "64x48x2", "--config", "32x48x2", *UNCHECKED[2:], settings=STEADY)
        self.assertRegex(finished.errors, r"(?m)\(spatial\) FP16 2x conv 64ch 48x48: .* \(and all 3 other cells\)$")

    def test_only_what_an_engine_can_mend(self) -> None:
        finished = support.run_command("--engine", "reference", *SMALL)
        self.assertEqual(finished.code, 0)
        self.assertNotRegex(finished.errors, "heat|engine's|spatial|dispatch")


class HintTest(unittest.TestCase):
    """What verification says of a wrong output, each with its hint."""

    def test_outputs_that_need_not_be_compared(self) -> None:
        nan, infinite = float("nan"), float("inf")
        for values, config, text in (
                ((nan, nan), TINY, "evaluate returned YES and did not write the output: NaN was put there before; try "
                                   "another --qos or --dialect"),
                ((nan, 1.0), TINY, "evaluate returned YES and did not write 1 of 2 values of the output: NaN was put "
                                   "there before; try another --qos or --dialect"),
                ((infinite, 1.0), TINY,
                 "the output holds infinities: weights or scales were misread; try another --blob"),
                ((0.0, 0.0), TINY, "the output is all zeros: the engine did no work; try another --dialect"),
                ((0.0, 0.0), Config(64, 40, 2), "the output is all zeros: the engine did no work; try a spatial that "
                                                "is a multiple of 32, or another --dialect"),
                ((2.0, 2.0), TINY, "the output is 2.0 everywhere: the weights were not read; try another --blob"),
                ((1.0, 2.0), TINY, None)):
            self.assertEqual(ane_bench.output_defect(values, (1.0, 2.0), config), text)

    def test_outputs_that_differ(self) -> None:
        right = [float(place % 7 - 3) for place in range(64)]
        for values, text in ((right, None), ([2 * value for value in right], "the output has the wrong scale"),
                             (right[5:] + right[:5], "the output is unrelated to the right one"),
                             ([value if place % 9 else 0.0 for place, value in enumerate(right)],
                              "the output differs more than rounding explains")):
            found = ane_bench.explain_mismatch(ane_bench.compare_vectors(values, right), 64, TINY, "fp16") or ""
            self.assertTrue(found.startswith(text) if text else not found, found)
            self.assertLessEqual(set(re.findall("--[a-z]+", found)), {"--blob", "--dialect", "--verify"})
