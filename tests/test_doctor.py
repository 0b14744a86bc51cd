"""doctor, and what a run checks before it measures: sections 9 and 10."""

import json
import sys
import unittest
import unittest.mock
from typing import Any

import ane_bench
from tests import support

# What is taken away, and the line that must fail or note it.
FAILING = (
    ({"SYSCTL": "sysctl.proc_translated=1"}, "Rosetta", "arch -arm64"),
    ({"SYSCTL": "kern.hv_vmm_present=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "isVirtualMachine=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "hasANE=0"}, "Neural Engine", "Apple silicon"),
)
NOTED = (
    ({"POWER": "Battery Power"}, "power", "connect it to power"),
    ({"LOW_POWER": "1"}, "power", "low-power mode"),
    ({"THERMAL": "2"}, "heat", "let it cool"),
    ({"SYSCTL": "hw.memsize=1073741824"}, "memory", "smaller"),
    ({"SYSCTL": "kern.osversion="}, "build", "without it"),
    ({"DEVICE": "aneSubType="}, "ane_subtype", "without it"),
    ({"MISSING": "hasANE"}, "Neural Engine", "a run will show it"),
)


class DoctorTest(support.StandinCase):
    """One line for each check."""

    def findings(self, code: int, **settings: Any) -> dict[str, tuple[str, str, str]]:
        """State, value and advice by check, from the JSON form; the command must end with an exit code."""
        done = self.run_standin("doctor", "--format", "json", **settings)
        self.assertEqual(done.code, code, done.output)
        report = json.loads(done.output)
        self.assertEqual((report["schema"], report["ok"]), ("ane_bench-doctor/1", code == 0))
        return {check["name"]: (check["state"], check["value"], check["advice"]) for check in report["checks"]}

    def failed(self, found: dict[str, tuple[str, str, str]]) -> list[str]:
        """The names of those that fail."""
        return [name for name, (state, _, _) in found.items() if state == "FAIL"]

    def test_all_is_well(self) -> None:
        done = self.run_standin("doctor")
        self.assertEqual((done.code, done.errors), (0, ""))
        lines = done.output.splitlines()
        checks = [line for line in lines if line[:5] in ("ok   ", "FAIL ", "note ")]
        self.assertEqual({line[:5] for line in checks if not line.startswith("note  load")}, {"ok   "}, done.output)
        self.assertEqual(len(checks), len(ane_bench.checks()) + len(ane_bench.DEFAULT_VARIANTS))
        for name in ("platform", "Rosetta", "virtual machine", "library AppleNeuralEngine", "class _ANERequest",
                     "-[_ANEInMemoryModel evaluateWithQoS:options:request:error:]", "temporary directory", "memory", "power",
                     "heat", "program w8a8 64x64x2"):
            self.assertRegex(done.output, rf"(?m)^ok    {name.replace('[', '.')[:20]}")
        self.assertTrue(all(": " in line for line in checks))

    def test_what_is_taken_away_fails(self) -> None:
        for settings, name, advice in FAILING:
            with self.subTest(settings):
                found = self.findings(3, **settings)
                self.assertEqual(self.failed(found), [name])
                self.assertIn(advice, found[name][2])
                run = self.run_standin(*support.SMALL, **settings)
                self.assertEqual((run.code, run.output), (3, ""))
                self.assertIn(found[name][1], run.errors)
                self.assertIn("doctor", run.errors)

    def test_what_a_run_can_do_without_is_noted(self) -> None:
        for settings, name, advice in NOTED:
            with self.subTest(settings):
                found = self.findings(0, **settings)
                self.assertEqual(found[name][0], "note")
                self.assertIn(advice, found[name][2])

    def test_each_class_and_each_selector(self) -> None:
        for method in ane_bench.METHODS:
            if method.class_name.startswith("_ANE"):
                with self.subTest(method.name):
                    found = self.findings(3 if method.needed else 0, MISSING=f"{method.class_name}.{method.selector}")
                    self.assertEqual(found[method.name][0], "FAIL" if method.needed else "note")
                    self.assertEqual(self.failed(found), [method.name] if method.needed else [])
                    self.assertIn(f"{method.name} is absent; expected", found[method.name][1])

    def test_a_class_fails_with_all_its_methods(self) -> None:
        found = self.findings(3, MISSING="_ANERequest")
        own = [method.name for method in ane_bench.METHODS if method.class_name == "_ANERequest"]
        self.assertEqual(self.failed(found), ["class _ANERequest", *own])

    def test_kinds_of_arguments_are_compared_and_not_strings(self) -> None:
        name = "-[_ANEInMemoryModel loadWithQoS:options:error:]"
        for encoding, state in (("B36@0:8I16@20^@28", "ok"), ("c99@0:8i1@2^@3", "ok"), ("B@:@@^@", "FAIL"), ("v@:I@^@", "FAIL"),
                                ("B@:I@", "FAIL"), ("B@:Q@^@", "FAIL"), ("B@:f@^@", "FAIL"), ("?", "FAIL")):
            with self.subTest(encoding):
                found = self.findings(3 if state == "FAIL" else 0, ENCODING=f"loadWithQoS:options:error:={encoding}")
                self.assertEqual(found[name][0], state)
                self.assertIn(encoding, found[name][1])

    def told_by(self, program: str, seconds: float) -> dict[str, ane_bench.Finding]:
        """What is told, and that not all is well, where each child runs a program of ours instead of the module."""
        told: dict[str, ane_bench.Finding] = {}
        command = [sys.executable, "-c", program, str(support.ROOT)]
        with support.environment(**self.environment()), unittest.mock.patch("ane_bench.own_command", lambda: command):
            self.assertFalse(ane_bench.examine_in_children(told.__setitem__, seconds))
        return told

    def test_a_check_that_crashes_or_hangs_fails_alone(self) -> None:
        told = self.told_by(
            "import os, signal, sys, time; sys.path.insert(0, sys.argv[1]); import ane_bench\n"
            "ane_bench.check_memory = lambda probe: os.kill(os.getpid(), signal.SIGSEGV)\n"
            "ane_bench.check_virtual_machine = lambda probe: time.sleep(3)\n"
            "ane_bench.work()", 1.0)
        self.assertEqual([name for name, finding in told.items() if finding.state == "FAIL"], ["virtual machine", "memory"])
        self.assertIn("said nothing for 1 s", told["virtual machine"].value)
        self.assertIn("SIGSEGV", told["memory"].value)
        self.assertEqual(len(told), len(ane_bench.checks()) + 2)

    def test_a_child_that_says_more_and_dies_after_the_last_check(self) -> None:
        told = self.told_by(
            "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import ane_bench\n"
            "def more(link, *arguments):\n"
            "    ane_bench.examine_task(link, *arguments)\n"
            "    link.send('check', name='more', state='ok', value='', advice='')\n"
            "    os.kill(os.getpid(), signal.SIGSEGV)\n"
            "ane_bench.TASKS['examine'] = more\n"
            "ane_bench.work()", 10.0)
        self.assertEqual([name for name, finding in told.items() if finding.state == "FAIL"], ["end of the checks"])
        self.assertIn("SIGSEGV", told["end of the checks"].value)
        self.assertEqual(len(told), len(ane_bench.checks()) + 3)

    def test_a_library_that_ends_the_process_is_told_where_it_does(self) -> None:
        done = self.run_standin("doctor", FAULT="rubbish that the stand-in refuses")
        self.assertEqual(done.code, 3)
        self.assertRegex(done.output, r"(?m)^ok    platform")
        self.assertRegex(done.output, r"(?m)^FAIL  Rosetta: the child ended with exit code 70: standin: STANDIN_FAULT")
        self.assertRegex(done.output, r"(?m)^FAIL  library AppleNeuralEngine: ")

    def test_a_child_that_does_not_start_is_told_once(self) -> None:
        told: list[ane_bench.Finding] = []
        with support.environment(**self.environment()), unittest.mock.patch("ane_bench.own_command", lambda: ["false"]):
            self.assertFalse(ane_bench.examine_in_children(lambda name, finding: told.append(finding), 1.0))
        self.assertEqual([finding.state for finding in told], ["FAIL"])

    def test_a_program_that_fails_is_told(self) -> None:
        found = self.findings(3, FAULT="w8a8/compile:no")
        self.assertEqual(self.failed(found), ["program w8a8 64x64x2"])
        self.assertIn("in stage compile", found["program w8a8 64x64x2"][1])

    def test_a_library_that_cannot_be_opened(self) -> None:
        done = support.run_command("doctor", environment={ane_bench.STANDIN_VARIABLE: "/nowhere/lib.so"})
        self.assertEqual(done.code, 3)
        self.assertRegex(done.output, r"(?m)^FAIL  Rosetta: the library libSystem cannot be opened: /nowhere/lib.so")


class ElsewhereTest(unittest.TestCase):
    """Where there is no macOS, that is said, and nothing else is tried."""

    def test_linux(self) -> None:
        if sys.platform == "darwin":
            raise unittest.SkipTest("this is a Mac")
        done = support.run_command("doctor")
        self.assertEqual(done.code, 3)
        self.assertEqual(len([line for line in done.output.splitlines() if line.startswith("FAIL")]), 1)
        self.assertRegex(done.output, r"\AFAIL  platform: this is linux")
