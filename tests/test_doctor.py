"""doctor: one line for each check, advice for each that fails, and a run on the same machine agrees."""

import json
import sys
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests import support
from tests.faults import METHODS
from tests.standin import build as standin_build
from tests.support import Finished, Scene

Settings = Mapping[str, str]
# What a machine lacks, the check that must fail or note it, and words of the advice.
FAILING: tuple[tuple[Settings, str, str], ...] = (
    ({"SYSCTL": "sysctl.proc_translated=1"}, "Rosetta", "arch -arm64"),
    ({"SYSCTL": "kern.hv_vmm_present=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "isVirtualMachine=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "hasANE=0"}, "Neural Engine", "Apple silicon"),
)
NOTED: tuple[tuple[Settings, str, str], ...] = (
    ({"POWER": "Battery Power"}, "power", "connect it to power"),
    ({"LOW_POWER": "1"}, "power", "low-power mode"),
    ({"THERMAL": "2"}, "heat", "let it cool"),
    ({"SYSCTL": "hw.memsize=1073741824"}, "memory", "smaller"),
    ({"SYSCTL": "kern.osversion="}, "build", "without it"),
    ({"DEVICE": "aneSubType="}, "ane_subtype", "without it"),
    ({"MISSING": "hasANE"}, "Neural Engine", "a run will show it"),
)
# A method's type encodings, and what doctor thinks of each: kinds of arguments count, not strings.
LOAD = "-[_ANEInMemoryModel loadWithQoS:options:error:]"
ENCODINGS = {"B36@0:8I16@20^@28": "ok", "c99@0:8i1@2^@3": "ok", "B@:@@^@": "FAIL", "v@:I@^@": "FAIL", "B@:I@": "FAIL",
             "B@:Q@^@": "FAIL", "B@:f@^@": "FAIL", "?": "FAIL"}
PROGRAMS = ("program fp16 64x64x2", "program w8a8 64x64x2")
# Exit codes, and words of the module's own.
WELL, NOT_WELL = 0, 3
HUNG = "said nothing for 30 s"
KILLED = "the child was killed by SIGSEGV"
EXITED = "the child ended with exit code 70"
AFTER_CHECKS = "end of the checks"

# The stand-in, but for a sysctl that kills the process the first time, one that hangs the first time, and an end that
# kills the first process.
FAULTY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// A linker leaves out a library of which nothing is used.
extern unsigned long long mach_absolute_time(void);
unsigned long long use(void) { return mach_absolute_time(); }

// Whether a variable has a value, and nobody asked before.
static int isFirst(const char *variable, const char *value)
{
    const char *set = getenv(variable);
    return set && !strcmp(set, value) && !chdir(getenv("FAULTY_DIRECTORY")) && !mkdir(variable, 0700);
}

int sysctlbyname(const char *name, void *old, size_t *oldSize, void *new, size_t newSize)
{
    if (isFirst("FAULTY_CRASH", name))
        raise(SIGSEGV);
    if (isFirst("FAULTY_HANG", name))
        pause();
    int (*next)(const char *, void *, size_t *, void *, size_t) = dlsym(RTLD_NEXT, "sysctlbyname");  // the stand-in's
    return next(name, old, oldSize, new, newSize);
}

__attribute__((destructor)) static void end(void)
{
    if (isFirst("FAULTY_CRASH", "at exit"))
        raise(SIGSEGV);
}
"""


class Found(NamedTuple):
    """A check's outcome, as the JSON form has it."""

    state: str
    value: str
    advice: str


class DoctorTest(support.StandinCase):
    """One line for each check."""

    def findings(self, scene: Scene, code: int, **settings: Any) -> dict[str, Found]:
        """Return what is found, by check; the command must exit with a code."""
        return self.read(scene.run("doctor", "--format", "json", settings=settings), code)

    def read(self, done: Finished, code: int) -> dict[str, Found]:
        """Return what is found, by check, from the JSON form."""
        self.assertEqual(done.code, code, done)
        report = json.loads(done.output)
        self.assertEqual((report["schema"], report["ok"]), ("ane_bench-doctor/1", code == WELL))
        return {check["name"]: Found(check["state"], check["value"], check["advice"]) for check in report["checks"]}

    def failed(self, found: Mapping[str, Found]) -> list[str]:
        """Return the names of checks that fail."""
        return [name for name, outcome in found.items() if outcome.state == "FAIL"]

    def test_all_is_well(self) -> None:
        done = self.run_standin("doctor")
        self.assertEqual((done.code, done.errors), (WELL, ""))
        lines = done.output.splitlines()
        checks = [line for line in lines if line[:5] in ("ok   ", "FAIL ", "note ")]
        self.assertEqual({line[:5] for line in checks if not line.startswith("note  load")}, {"ok   "}, done.output)
        self.assertEqual(len(checks), len(self.findings(self.scene, WELL)))
        for name in ("platform", "Rosetta", "virtual machine", "library AppleNeuralEngine", "class _ANERequest",
                     "-[_ANEInMemoryModel evaluateWithQoS:options:request:error:]", "temporary directory", "memory",
                     "power", "heat", *PROGRAMS):
            self.assertRegex(done.output, rf"(?m)^ok    {name.replace('[', '.')[:20]}")
        self.assertTrue(all(": " in line for line in checks))

    def test_a_lack_fails(self) -> None:
        def check(scene: Scene, case: tuple[Settings, str, str]) -> None:
            settings, name, advice = case
            found = self.findings(scene, NOT_WELL, **settings)
            self.assertEqual(self.failed(found), [name])
            self.assertIn(advice, found[name].advice)
            run = scene.run(*support.SMALL, settings=settings)
            self.assertEqual((run.code, run.output), (3, ""))
            self.assertIn(found[name].value, run.errors)
            self.assertIn("doctor", run.errors)
        self.each(FAILING, check)

    def test_a_lack_that_a_run_can_do_without_is_noted(self) -> None:
        def check(scene: Scene, case: tuple[Settings, str, str]) -> None:
            settings, name, advice = case
            found = self.findings(scene, WELL, **settings)
            self.assertEqual(found[name].state, "note")
            self.assertIn(advice, found[name].advice)
        self.each(NOTED, check)

    def test_each_private_method(self) -> None:
        def check(scene: Scene, method: Any) -> None:
            missing = f"{method.class_name}.{method.selector}"
            found = self.findings(scene, NOT_WELL if method.needed else WELL, MISSING=missing)
            self.assertEqual(found[method.name].state, "FAIL" if method.needed else "note")
            self.assertEqual(self.failed(found), [method.name] if method.needed else [])
            self.assertIn(f"{method.name} is absent; expected", found[method.name].value)
        self.each([method for method in METHODS if method.class_name.startswith("_ANE")], check)

    def test_a_class_fails_with_all_its_methods(self) -> None:
        found = self.findings(self.scene, NOT_WELL, MISSING="_ANERequest")
        own = [method.name for method in METHODS if method.class_name == "_ANERequest"]
        self.assertEqual(self.failed(found), ["class _ANERequest", *own])

    def test_encodings(self) -> None:
        def check(scene: Scene, encoding: str) -> None:
            state = ENCODINGS[encoding]
            code = NOT_WELL if state == "FAIL" else WELL
            found = self.findings(scene, code, ENCODING=f"loadWithQoS:options:error:={encoding}")
            self.assertEqual(found[LOAD].state, state)
            self.assertIn(encoding, found[LOAD].value)
        self.each(ENCODINGS, check)

    def faulty(self, **variables: str) -> dict[str, Found]:
        """Return what is found on a library with a fault."""
        source = self.directory / "faulty.c"
        source.write_text(FAULTY)
        library = standin_build.build(self.directory, source=str(source), libraries=[support.standin_library()])
        self.scene.standin = library
        self.scene.variables.update(variables, FAULTY_DIRECTORY=str(self.directory))
        return self.findings(self.scene, NOT_WELL)

    def test_a_check_that_crashes_fails_alone(self) -> None:
        everything = self.findings(self.scene, WELL)
        found = self.faulty(FAULTY_CRASH="hw.memsize")
        self.assertEqual(self.failed(found), ["macos"])  # the first check that asks what machine this is
        self.assertIn(KILLED, found["macos"].value)
        self.assertEqual(list(found), list(everything))

    @support.long_test
    def test_a_check_that_hangs_fails_alone(self) -> None:
        found = self.faulty(FAULTY_HANG="kern.hv_vmm_present")
        self.assertEqual(self.failed(found), ["virtual machine"])
        self.assertIn(HUNG, found["virtual machine"].value)

    def test_a_worker_that_dies_after_the_last_check(self) -> None:
        found = self.faulty(FAULTY_CRASH="at exit")
        self.assertEqual(self.failed(found), [AFTER_CHECKS])
        self.assertIn(KILLED, found[AFTER_CHECKS].value)

    @support.long_test
    def test_a_library_that_ends_the_process(self) -> None:
        done = self.run_standin("doctor", FAULT="rubbish that the stand-in refuses")
        self.assertEqual(done.code, NOT_WELL)
        self.assertRegex(done.output, r"(?m)^ok    platform")
        self.assertRegex(done.output, rf"(?m)^FAIL  Rosetta: {EXITED}: standin: STANDIN_FAULT")
        self.assertRegex(done.output, r"(?m)^FAIL  library AppleNeuralEngine: ")

    def test_a_worker_that_does_not_start(self) -> None:
        self.scene.drive({}, ("false",))
        done = self.run_standin("doctor")
        self.assertEqual(done.code, NOT_WELL)
        self.assertEqual(done.output.count("FAIL "), 1, done.output)

    def test_a_program_that_fails(self) -> None:
        found = self.findings(self.scene, NOT_WELL, FAULT="w8a8/compile:no")
        self.assertEqual(self.failed(found), [PROGRAMS[1]])
        self.assertIn("in stage compile", found[PROGRAMS[1]].value)

    def test_a_library_that_cannot_be_opened(self) -> None:
        self.scene.standin = Path("/nowhere/lib.so")
        done = self.run_standin("doctor")
        self.assertEqual(done.code, NOT_WELL)
        self.assertRegex(done.output, r"(?m)^FAIL  Rosetta: the library libSystem cannot be opened: /nowhere/lib.so")


class ElsewhereTest(unittest.TestCase):
    """Without macOS, doctor says so, and tries nothing else."""

    def test_linux(self) -> None:
        if sys.platform == "darwin":
            raise unittest.SkipTest("this is a Mac")
        done = support.run_command("doctor")
        self.assertEqual(done.code, NOT_WELL)
        self.assertEqual(len([line for line in done.output.splitlines() if line.startswith("FAIL")]), 1)
        self.assertRegex(done.output, r"\AFAIL  platform: this is linux")
