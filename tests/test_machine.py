"""Section 11: what is told of a machine, warnings, and the checks that doctor shows."""

import fcntl
import json
import os
import re
import unittest
import unittest.mock
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import ane_bench
from ane_bench import Cell, Config, Finding, Settings
from tests import support
from tests.support import SMALL, Scene

CONFIG, TINY, ONE = Config(512, 64, 128), Config(64, 32, 2), Config(64, 32, 1)
ORIGINAL, USUAL = ane_bench.ORIGINAL_SETTINGS, Settings()
Texts = dict[str, str]


def machine(**facts: Any) -> Texts:
    return dict(ane_bench.warnings_about_machine(facts))


def before(config: Config = CONFIG, chip: str = "Apple M4", free: int = 1 << 40) -> Texts:
    """Return the warnings about a configuration that is about to be compiled."""
    with unittest.mock.patch("shutil.disk_usage", lambda path: unittest.mock.Mock(free=free)):
        return dict(ane_bench.warnings_before(config, ("fp16", "w8a8"), {"chip": chip}))


def cell(rounds: Sequence[Sequence[float]] = ((15.0,) * 5,) * 12, *, chip: str = "Apple M4",
         config: Config = CONFIG, variant: str = "fp16", settings: Settings = USUAL,
         **facts: Any) -> Texts:
    """Return the warnings about a cell whose rounds took these times in ms."""
    samples = [[time * 1e6 for time in times] for times in rounds]
    made = Cell(config, variant, settings, samples_ns=samples, **facts)
    return dict(ane_bench.warnings_about_cell(made, {"chip": chip} if chip else {}))


def of_rounds(*factors: float) -> list[list[float]]:
    """Return rounds whose times are 15 ms times a factor each."""
    return [[15 * factor] * 5 for factor in factors]


def rate(tops: float, config: Config = CONFIG, **options: Any) -> Texts:
    return cell([[config.gop / tops] * 5] * 12, config=config, **options)


def took(ms: float, **options: Any) -> Texts:
    return cell([[ms] * 5] * 12, config=TINY, **options)


RISING = [1 + 0.1 * place / 11 for place in range(12)]
LATE = [[15.0] * 4 + [15.0 * (1.6 if number < 4 else 1.0)] for number in range(12)]
SCATTERED = [[15.0, 15.51, 14.49, 15.51, 14.49]] * 12
CLOSE = "other programs, heat or the clock, most likely: close what else runs"
LONGER = ", or measure longer, such as --seconds 4"


# A warning's code, its whole text, the case that brings it out, cases that must not.
CASES: tuple[tuple[str, str, Callable[[], Texts], Sequence[Callable[[], Texts]]], ...] = (
    ("battery", "the Mac runs on battery, which may slow the engine; connect it to power",
     lambda: machine(power_source="Battery Power"),
     [machine, lambda: machine(power_source="AC Power")]),
    ("low-power", "low-power mode is on, which slows the engine; switch it off in System "
     "Settings, Battery", lambda: machine(low_power_mode=True),
     [machine, lambda: machine(low_power_mode=False)]),
    ("heat-before", "the machine's thermal state was serious before measuring, and a hot "
     "machine is slow; let it cool, and measure fewer configurations at a time",
     lambda: machine(thermal_state_before="serious", thermal_state_after="nominal"),
     [machine, lambda: machine(thermal_state_before="nominal")]),
    ("heat-after", "the machine's thermal state was fair after measuring, and a hot machine "
     "is slow; let it cool, and measure fewer configurations at a time",
     lambda: machine(thermal_state_before="nominal", thermal_state_after="fair"),
     [machine, lambda: machine(thermal_state_after="unknown")]),
    ("busy", "other programs keep this machine busy (load 4.1), which makes times longer; "
     "close them", lambda: machine(load_average=4.1, cpus=8),
     [machine, lambda: machine(load_average=4.0, cpus=8), lambda: machine(cpus=8)]),
    ("depth", "512x64x387: over 384 layers have crashed the compiler of this chip, and may "
     "stop the compile service; choose a depth of at most 384",
     lambda: before(CONFIG._replace(depth=387), "Apple M6"),
     [lambda: before(CONFIG._replace(depth=384), "Apple M6"),
      lambda: before(CONFIG._replace(depth=387))]),
    ("room", "512x64x128: compiling may take 480 MiB of temporary files, and 479 MiB are "
     "free; free some space, or choose a smaller configuration",
     lambda: before(free=(480 << 20) - 1), [lambda: before(free=480 << 20)]),
    ("fallback", "refused as standard/1.3: no; accepted as standard/1.0; ask for that at once "
     "with --form standard/1.0",
     lambda: cell(refused=["standard/1.3: no"], form="standard/1.0"),
     [lambda: cell(form="standard/1.0"), lambda: cell([], refused=["standard/1.3: no"])]),
    ("one-layer", "a chain of one layer has nothing to quantize between layers, so these are "
     "the figures of w8a16; choose a depth of 2 or more",
     lambda: cell(variant="w8a8", config=ONE),
     [lambda: cell(variant="w8a8", config=TINY), lambda: cell(config=ONE),
      lambda: cell(variant="w8a8", config=ONE, settings=ORIGINAL)]),
    ("noise", "times are uncertain: they changed by +7% from the first third to the last, they "
     f"scatter by 4%, the interval is ±9%; {CLOSE}{LONGER}", lambda: cell(of_rounds(*RISING)),
     [cell, lambda: cell(of_rounds(*[1 + (f - 1) / 3 for f in RISING]))]),
    ("noise", f"times are uncertain: they changed by +7% from the first third to the last, "
     f"they scatter by 4%; {CLOSE}",
     lambda: cell([[15 * factor for factor in RISING]], settings=ORIGINAL),
     [lambda: cell(settings=ORIGINAL)]),
    ("noise", f"times are uncertain: they scatter by 5%; {CLOSE}, or measure longer, such as "
     "--seconds 3600", lambda: cell(SCATTERED, chip="", settings=Settings(seconds=901)),
     [lambda: cell(chip="")]),
    ("noise", "times are uncertain: 4 of 60 samples are over 1.5 times the median; "
     f"{CLOSE}{LONGER}", lambda: cell(LATE), [lambda: cell(LATE[2:])]),
    ("noise", "times are uncertain: they scatter by 15%, the interval is ±8%; "
     f"{CLOSE}{LONGER}", lambda: cell(of_rounds(*[0.9, 1.1] * 6)),
     [lambda: cell(of_rounds(*[0.99, 1.01] * 6))]),
    ("floor", "0.089 ms is below the dispatch overhead (0.09 ms): evaluate may do nothing; "
     "compare more pixels with --verify 32", lambda: took(0.089),
     [lambda: took(0.091), lambda: took(0.071, chip="Apple A18 Pro"),
      lambda: took(0.051, chip="Apple M9"), lambda: took(0.01, chip=""),
      lambda: cell([], config=TINY, status="failed", stage="load", error="no")]),
    ("floor", "0.010 ms is below the dispatch overhead (0.19 ms): evaluate may do nothing; "
     "measure without --original, so that outputs are compared",
     lambda: took(0.01, chip="Apple M1", settings=ORIGINAL), []),
    ("floor", "0.069 ms is below the dispatch overhead (0.07 ms): evaluate may do nothing; "
     "compare more pixels with --verify 32", lambda: took(0.069, chip="Apple A18 Pro"), []),
    ("rate", "43.8 TOPS is more than Apple M4 is rated for (38): evaluate may do less than it "
     "should; compare more pixels with --verify 32", lambda: rate(43.8),
     [lambda: rate(43.6), lambda: rate(41.3, chip="Apple M3 Ultra"),
      lambda: rate(1000, chip="Apple M5"), lambda: rate(99, chip=""),
      lambda: rate(43.8, config=CONFIG._replace(kernel=3))]),
)


class WarningTest(unittest.TestCase):
    """Each warning fires where it should, with its whole text, and nowhere else."""

    def test_each(self) -> None:
        for code, text, fires, others in CASES:
            with self.subTest(text):
                self.assertEqual(fires().get(code), text)
                for number, quiet in enumerate(others):
                    self.assertNotIn(code, quiet(), f"quiet case {number}")

    def test_a_good_cell_has_none(self) -> None:
        for found in (cell(), cell(chip=""), cell(settings=ORIGINAL), before()):
            self.assertEqual(found, {})

    def test_hints_name_options_that_the_command_has(self) -> None:
        options = set(re.findall(r"--[a-z]+", ane_bench.__doc__ or ""))
        for _, text, *_ in CASES:
            self.assertLessEqual(set(re.findall(r"--[a-z]+", text)), options, text)


class RunTest(support.StandinCase):
    def test_a_machine_of_which_much_can_be_said(self) -> None:
        record = self.run_record(
            *SMALL, DEVICE="aneSubType=h99,numANEs=2", POWER="Battery Power", THERMAL="1,2",
            LOW_POWER="1", REFUSE="short", SYSCTL="machdep.cpu.brand_string=Apple M9;"
            "hw.model=Mac99,1;kern.osproductversion=27.1;kern.osversion=")
        expected = {"chip": "Apple M9", "model": "Mac99,1", "macos": "27.1", "build": None,
                    "ane_subtype": "h99", "ane_count": 2, "ane_cores": None,
                    "power_source": "Battery Power", "low_power_mode": True,
                    "thermal_state_before": "fair", "thermal_state_after": "serious"}
        self.assertEqual({name: record["system"].get(name) for name in expected}, expected)
        codes = {warning["code"] for warning in record["warnings"]}
        self.assertEqual(codes - {"busy", "noise", "floor"},
                         {"battery", "low-power", "heat-before", "heat-after", "fallback"})
        for code in codes:
            self.assertIn(f"warning ({code})", self.scene.finished[-1].errors)


# What a machine lacks, the check that must fail, and words of the advice.
LACKS: tuple[tuple[Mapping[str, str], str, str], ...] = (
    ({"SYSCTL": "sysctl.proc_translated=1"}, "platform", "arch -arm64"),
    ({"SYSCTL": "kern.hv_vmm_present=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "isVirtualMachine=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "hasANE=0"}, "Neural Engine", "Apple silicon"))
WELL, NOT_WELL = 0, 3


class DoctorTest(support.StandinCase):
    """A line for each check, and for each thing that is not as it should be."""

    def findings(self, scene: Scene, code: int, **settings: Any) -> dict[str, Finding]:
        """Return what is found, by check; the command must exit with a code."""
        done = scene.run("doctor", "--format", "json", settings=settings)
        self.assertEqual(done.code, code, done)
        report = json.loads(done.output)
        self.assertEqual(report["ok"], code == WELL)
        return {check["name"]: Finding(**check) for check in report["checks"]}

    def failed(self, found: Mapping[str, Finding]) -> list[str]:
        return [name for name, finding in found.items() if finding.state == "FAIL"]

    def test_all_is_well(self) -> None:
        done = self.run_standin("doctor")
        self.assertEqual(done.code, WELL)
        self.assertRegex(done.errors, r"\Aane_bench: measuring two small programs, [^\n]+\n\Z")
        self.assertLessEqual(done.output.count("\n"), 25)
        for name in ("platform", "machine: chip Apple M4, model Mac16,1, macos 26.0", "libraries",
                     "virtual machine", "Foundation: 8 classes, ", "_ANEInMemoryModel: 11 methods",
                     "_ANEModel: 1 method", "_ANERequest: 1 method", "Neural Engine: present, ",
                     "temporary directory"):
            self.assertRegex(done.output, rf"(?m)^ok    {re.escape(name)}")
        for pattern in (
                "program 64x64x2: FP16 [0-9.]+ ms, W8A8 [0-9.]+ ms, verified, standard/1.3, rows of"
                " 128, planes of 8192 bytes",
                "program 64x7x2: .*, rows of 64, planes of 448 bytes"):
            self.assertRegex(done.output, f"(?m)^ok    {pattern}$")

    def test_a_lack_fails(self) -> None:
        def check(scene: Scene, case: tuple[Mapping[str, str], str, str]) -> None:
            settings, name, advice = case
            found = self.findings(scene, NOT_WELL, **settings)
            self.assertEqual(self.failed(found), [name])
            self.assertIn(advice, found[name].advice)
            self.assertNotIn("program 64x64x2", found)
            run = scene.run(*SMALL, settings=settings)
            self.assertEqual((run.code, run.output), (3, ""))
            self.assertIn(found[name].value, " ".join(run.errors.split()))
        self.each(LACKS, check)

    def test_what_a_run_can_do_without_is_noted(self) -> None:
        found = self.findings(self.scene, WELL, POWER="Battery Power", LOW_POWER="1", THERMAL="2",
                              SYSCTL="hw.memsize=;kern.osversion=", MISSING="hasANE")
        for name, value, advice in (
                ("conditions", "Battery Power, thermal state serious, load ",
                 "connect it to power; low-power mode .*; the machine's .* let it cool"),
                ("machine", "build unknown, memory_bytes unknown", "goes without"),
                ("Neural Engine", "does not say whether there is one", "a run will show it")):
            self.assertEqual(found[name].state, "note")
            self.assertIn(value, found[name].value)
            self.assertRegex(found[name].advice, advice)

    def test_each_private_method(self) -> None:
        """All that a run needs are missing, then all that it can do without."""
        for needed in (True, False):
            missing = [method for method in ane_bench.METHODS
                       if method.needed == needed and method.class_name.startswith("_ANE")]
            self.assertGreater(len(missing), 5)
            names = " ".join(f"{method.class_name}.{method.selector}" for method in missing)
            found = self.findings(self.scene, NOT_WELL if needed else WELL, MISSING=names)
            for method in missing:
                self.assertEqual(found[method.name].state, "FAIL" if needed else "note")
                self.assertIn("is absent; expected ", found[method.name].value)
            self.assertEqual(self.failed(found), [method.name for method in missing] * needed)

    def test_a_missing_class_is_told_once(self) -> None:
        found = self.findings(self.scene, NOT_WELL, MISSING="_ANERequest _ANEDeviceInfo")
        self.assertEqual(self.failed(found), ["_ANERequest"])
        self.assertEqual(found["_ANERequest"].value, "macOS 26.0 has no class _ANERequest (left "
                                                     "out: its methods, 1)")
        self.assertEqual(found["_ANEDeviceInfo"].state, "note")
        self.assertFalse(any("[_ANERequest" in name for name in found))

    @support.long_test
    def test_kinds_in_an_encoding_count_and_not_its_text(self) -> None:
        load = "-[_ANEInMemoryModel loadWithQoS:options:error:]"

        def check(scene: Scene, encoding: str) -> None:
            right = encoding == "c99@0:8i1@2^@3"
            found = self.findings(scene, WELL if right else NOT_WELL,
                                  ENCODING=f"loadWithQoS:options:error:={encoding}")
            self.assertEqual(self.failed(found), [] if right else [load])
            if not right:
                self.assertRegex(found[load].value, (
                    rf"\Ahas type {re.escape(encoding)}: .* from .*; expected BOOL from \(32-bit "
                    r"integer, pointer, pointer\)\Z"))
        self.each(("c99@0:8i1@2^@3", "B@:@@^@", "v@:I@^@", "B@:I@", "B@:Q@^@", "?"), check)

    def test_a_library_that_ends_the_process(self) -> None:
        found = self.findings(self.scene, NOT_WELL, FAULT="rubbish that the stand-in refuses")
        self.assertEqual(self.failed(found), ["platform"])
        self.assertRegex(found["platform"].value, r"\Athe worker exited with code 70: standin:")
        self.assertIn("a check above must pass first", found["not reached"].value)

    def test_a_library_that_is_not_one_of_apples(self) -> None:
        for library, value, advice in (
                ("/nowhere/lib.so", "the library that ANE_BENCH_STANDIN names cannot be opened: "
                 "/nowhere/lib.so: ", "unset ANE_BENCH_STANDIN, or name a library that can be "
                 "opened"),
                ("libc.so.6", "libSystem has no function sysctlbyname here", "look for")):
            self.scene.standin = library
            found = self.findings(self.scene, NOT_WELL)
            self.assertEqual(self.failed(found), ["platform"])
            self.assertIn(value, found["platform"].value)
            self.assertIn(advice, found["platform"].advice)

    def test_a_program_that_fails(self) -> None:
        done = self.run_standin("doctor", FAULT="w8a8/compile:no",
                                REASON="compile:CompilationFailure")
        self.assertEqual(done.code, NOT_WELL)
        self.assertRegex(done.output, r"(?m)^FAIL  program 64x64x2: .*W8A8 failed in stage "
                                      r"compile: .*\(CompilationFailure\)")
        self.assertNotIn("--seed", done.output, "doctor has no such option")

    def test_the_time_limit(self) -> None:
        done = self.run_standin("doctor", "--timeout", "2", FAULT="compile:hang")
        self.assertEqual(done.code, NOT_WELL)
        self.assertRegex(done.output, r"FAIL  program 64x64x2: .*no progress for 2 s")

    def test_it_waits_for_a_run(self) -> None:
        other = os.open(self.temporary, os.O_RDONLY)
        self.addCleanup(os.close, other)
        fcntl.flock(other, fcntl.LOCK_EX)
        started = self.scene.start("doctor")
        assert started.process.stdout
        told = next(line for line in started.process.stdout if "lock: " in line)
        fcntl.flock(other, fcntl.LOCK_UN)
        self.assertIn(f"another run holds {self.temporary} -> waiting for it to end", told)
        self.assertEqual(self.scene.finish(started).code, WELL)
