"""doctor: one line for each check, advice for each that fails, and a run on the same machine agrees."""

import contextlib
import fcntl
import json
import os
import re
import sys
import unittest
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ane_bench
from tests import support
from tests.faults import METHODS
from tests.standin import build as standin_build
from tests.support import Finished, Scene

Settings = Mapping[str, str]
# What a machine lacks, the check that must fail or note it, and words of the advice.
FAILING: tuple[tuple[Settings, str, str], ...] = (
    ({"SYSCTL": "sysctl.proc_translated=1"}, "processor", "arch -arm64"),
    ({"SYSCTL": "kern.hv_vmm_present=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "isVirtualMachine=1"}, "virtual machine", "run it on the Mac itself"),
    ({"DEVICE": "hasANE=0"}, "Neural Engine", "Apple silicon"),
)
NOTED: tuple[tuple[Settings, str, str], ...] = (
    ({"POWER": "Battery Power"}, "power", "connect it to power"),
    ({"LOW_POWER": "1"}, "power", "low-power mode"),
    ({"THERMAL": "2"}, "heat", "let it cool"),
    ({"SYSCTL": "hw.memsize=1073741824"}, "memory", "run --config 256x64x64"),
    ({"SYSCTL": "hw.memsize="}, "memory", "without it"),
    ({"SYSCTL": "kern.osversion="}, "build", "without it"),
    ({"DEVICE": "aneSubType="}, "ane_subtype", "without it"),
    ({"MISSING": "hasANE"}, "Neural Engine", "a run will show it"),
)
# A method's type encodings, and what doctor thinks of each: kinds of arguments count, not strings.
LOAD = "-[_ANEInMemoryModel loadWithQoS:options:error:]"
ENCODINGS = {"B36@0:8I16@20^@28": "ok", "c99@0:8i1@2^@3": "ok", "B@:@@^@": "FAIL", "v@:I@^@": "FAIL", "B@:I@": "FAIL",
             "B@:Q@^@": "FAIL", "B@:f@^@": "FAIL", "?": "FAIL"}
PROGRAMS = ("program FP16 2x conv 64ch 64x64", "program W8A8 2x conv 64ch 64x64")
LEFT_OUT = "left out"
# Checks without which no other is possible, and exit codes.
FIRST = ("stand-in", "platform", "processor", "libraries")
WELL, NOT_WELL = 0, 3
KILLED = "the worker was killed by SIGSEGV"
ASKED = "send this output to the issues of the repository that this file came from."
ASKED_IF = f"If this Mac has a Neural Engine, please {ASKED}\n"

# The stand-in, but for a sysctl that the first time kills the process, hangs or exits, and an end that kills the first
# process.
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
    if (isFirst("FAULTY_EXIT", name))
        _exit(0);
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
        self.assertEqual((report["schema"], report["ok"]), ("ane-bench-doctor/1", code == WELL))
        return {check["name"]: Found(check["state"], check["value"], check["advice"]) for check in report["checks"]}

    def failed(self, found: Mapping[str, Found]) -> list[str]:
        """Return the names of checks that fail."""
        return [name for name, outcome in found.items() if outcome.state == "FAIL"]

    def test_all_is_well(self) -> None:
        done = self.run_standin("doctor", MISSING="endActivity:")
        self.assertEqual((done.code, done.errors), (WELL, ""))
        lines = [line for line in done.output.splitlines() if not line.startswith("note  load")]
        self.assertEqual([line for line in lines[:-4] if not line.startswith("ok    ")], [
            "note  -[NSProcessInfo endActivity:]: -[NSProcessInfo endActivity:] is absent; expected nothing from "
            "(pointer) -> a run can do without it",
            "      compiling and measuring a small program, up to 30 s for each stage"])
        self.assertEqual(lines[-3:], ["", "All checks passed: python3 ane_bench.py will measure.", f"Please {ASKED}"])
        for name in (*FIRST, "virtual machine", "class _ANERequest", "-[_ANEInMemoryModel evaluateWithQoS",
                     "Neural Engine", "chip",
                     "macos", "ane_subtype", "temporary directory", "memory", "power", "heat", *PROGRAMS):
            self.assertRegex(done.output, rf"(?m)^ok    {re.escape(name)}")
        self.assertRegex(done.output, r"(?m)^ok    temporary directory: \S+, [0-9.]+ [GM]iB free, of which a run takes "
                                      r"up to 480 MiB$")
        self.assertIn("ok    memory: 8.0 GiB\n", done.output)
        self.assertRegex(done.output, rf"(?m)^ok    {PROGRAMS[0]}: [0-9.]{{5,7}} ms, verified, standard/1.3$")

    def test_a_lack_fails(self) -> None:
        def check(scene: Scene, case: tuple[Settings, str, str]) -> None:
            settings, name, advice = case
            found = self.findings(scene, NOT_WELL, **settings)
            self.assertEqual(self.failed(found), [name])
            self.assertIn(advice, found[name].advice)
            self.assertRegex(found[LEFT_OUT].value, r"\Aprogram(, |: a check above must pass first\Z)")
            self.assertEqual(PROGRAMS[0] in found, False)
            run = scene.run(*support.SMALL, settings=settings)
            self.assertEqual((run.code, run.output), (3, ""))
            self.assertIn(found[name].value, run.errors)
            self.assertIn("doctor", run.errors)
        self.each(FAILING, check)

    @support.long_test
    def test_a_lack_that_a_run_can_do_without_is_noted(self) -> None:
        def check(scene: Scene, case: tuple[Settings, str, str]) -> None:
            settings, name, advice = case
            found = self.findings(scene, WELL, **settings)
            self.assertEqual(found[name].state, "note")
            self.assertIn(advice, found[name].advice)
        self.each(NOTED, check)

    def test_each_private_method(self) -> None:
        """All that a run needs are missing, then all that it can do without: none stands for another."""
        for needed in (True, False):
            missing = [method for method in METHODS if method.needed == needed and method.class_name.startswith("_ANE")]
            self.assertGreater(len(missing), 5)
            found = self.findings(self.scene, NOT_WELL if needed else WELL,
                                  MISSING=" ".join(f"{method.class_name}.{method.selector}" for method in missing))
            for method in missing:
                self.assertEqual(found[method.name].state, "FAIL" if needed else "note")
                self.assertIn(f"{method.name} is absent; expected", found[method.name].value)
            self.assertEqual(self.failed(found), [method.name for method in missing] if needed else [])

    def test_a_missing_class_is_told_once(self) -> None:
        done = self.run_standin("doctor", MISSING="_ANERequest _ANEDeviceInfo")
        self.assertEqual(done.code, NOT_WELL)
        self.assertEqual(re.findall(r"(?m)^FAIL .*", done.output), 2 * [
            "FAIL  class _ANERequest: macOS 0.0 has no class _ANERequest (left out: its methods, 1) -> this macOS is "
            "older or newer than this program knows; look for a newer version of either"])
        self.assertEqual(re.findall(r"(?m)^note .*_ANEDeviceInfo.*", done.output), [
            "note  class _ANEDeviceInfo: macOS 0.0 has no class _ANEDeviceInfo (left out: its methods, 6) -> a run can "
            "do without it"])
        self.assertNotIn("[_ANERequest", done.output)
        self.assertNotIn("[_ANEDeviceInfo", done.output)
        self.assertIn("\nskip  left out: program: a check above must pass first\n\n1 check failed:\nFAIL  class",
                      done.output)
        self.assertTrue(done.output.endswith(ASKED_IF))

    @support.long_test
    def test_encodings(self) -> None:
        def check(scene: Scene, encoding: str) -> None:
            state = ENCODINGS[encoding]
            code = NOT_WELL if state == "FAIL" else WELL
            found = self.findings(scene, code, ENCODING=f"loadWithQoS:options:error:={encoding}")
            self.assertEqual(found[LOAD].state, state)
            self.assertIn(encoding, found[LOAD].value)
        self.each(ENCODINGS, check)

    def faulty(self, *arguments: str, **variables: str) -> dict[str, Found]:
        """Return what is found on a library with a fault."""
        source = self.directory / "faulty.c"
        source.write_text(FAULTY)
        library = standin_build.build(self.directory, source=str(source), libraries=[support.standin_library()])
        self.scene.standin = library
        self.scene.variables.update(variables, FAULTY_DIRECTORY=str(self.directory))
        return self.read(self.scene.run("doctor", "--format", "json", *arguments), NOT_WELL)

    def test_a_check_that_crashes_fails_alone(self) -> None:
        everything = self.findings(self.scene, WELL)
        found = self.faulty(FAULTY_CRASH="hw.model")
        self.assertEqual(self.failed(found), ["model"])
        self.assertIn(KILLED, found["model"].value)
        self.assertEqual(list(found), list(everything))

    def test_a_check_that_hangs_fails_alone(self) -> None:
        found = self.faulty("--timeout", "3", FAULTY_HANG="hw.model")
        self.assertEqual(self.failed(found), ["model"])
        self.assertIn("no progress for 3 s, so the worker was killed; if this stage needs longer, raise --timeout",
                      found["model"].value)
        self.assertIn(PROGRAMS[0], found)

    def test_a_check_that_exits_fails_alone(self) -> None:
        found = self.faulty(FAULTY_EXIT="hw.model")
        self.assertEqual(self.failed(found), ["model"])
        self.assertEqual(found["model"].value, "the worker exited with code 0 before the check was done")

    def test_a_worker_that_dies_after_the_last_check(self) -> None:
        found = self.faulty(FAULTY_CRASH="at exit")
        self.assertEqual(self.failed(found), ["worker"])
        self.assertIn(KILLED, found["worker"].value)

    def test_a_library_that_ends_the_process(self) -> None:
        done = self.run_standin("doctor", FAULT="rubbish that the stand-in refuses")
        self.assertEqual(done.code, NOT_WELL)
        self.assertRegex(done.output, r"\AFAIL  stand-in: the worker exited with code 70: standin: STANDIN_FAULT")
        self.assertRegex(done.output, r"\nskip  left out: program, platform, processor and \d+ more: a check "
                                      r"above must pass first\n\n1 check failed:\nFAIL  stand-in: [^\n]+\n\Z")

    def test_a_worker_that_does_not_start(self) -> None:
        self.scene.drive({}, ("false",))
        found = self.findings(self.scene, NOT_WELL)
        self.assertEqual(self.failed(found), ["worker"])
        self.assertEqual(list(found), ["worker", LEFT_OUT])

    def test_a_program_that_fails(self) -> None:
        done = self.run_standin("doctor", FAULT="w8a8/compile:no", REASON="compile:CompilationFailure")
        self.assertEqual(done.code, NOT_WELL)
        last = done.output.split("\n\n1 check failed:\n")[1]
        self.assertRegex(last, rf"\AFAIL  {PROGRAMS[1]}: failed in stage compile: .*\(CompilationFailure\) -> send "
                               r"this output")
        self.assertTrue(last.endswith(ASKED_IF))
        self.assertNotIn("--seed", done.output, "doctor has no such option")
        self.assertIn(f"ok    {PROGRAMS[0]}", done.output)

    def test_a_stand_in_that_is_not_there(self) -> None:
        self.scene.standin = Path("/nowhere/lib.so")
        done = self.run_standin("doctor")
        self.assertEqual(done.code, NOT_WELL)
        self.assertRegex(done.output, r"\AFAIL  stand-in: the library that ANE_BENCH_STANDIN names cannot be opened: "
                                      r"/nowhere/lib.so: .* -> unset ANE_BENCH_STANDIN, or name a library that can be "
                                      r"opened\nskip  left out: ")
        self.assertNotIn("send", done.output)

    def test_a_library_that_is_not_one_of_apples(self) -> None:
        self.scene.standin = "libc.so.6"
        found = self.findings(self.scene, NOT_WELL)
        self.assertEqual(self.failed(found), ["processor"])
        self.assertIn("has no function sysctlbyname", found["processor"].value)

    def test_markdown(self) -> None:
        done = self.run_standin("doctor", "--format", "markdown", FAULT="w8a8/compile:no", MISSING="hasANE")
        self.assertEqual(done.code, NOT_WELL)
        self.assertEqual(done.errors, "ane_bench: compiling and measuring a small program, up to 30 s for each stage\n"
                                      f"ane_bench: {ASKED_IF}")
        title, _, *rows = done.output.splitlines()
        self.assertEqual(title, f"**ane_bench {ane_bench.__version__} doctor: 1 check failed**")
        self.assertEqual(rows[:2], ["| State | Check | Found | What to do |", "|:--|:--|:--|:--|"])
        self.assertTrue(all(re.fullmatch(r"\| (ok|note|FAIL) \|( .* \|| \|){3}", row) for row in rows[2:]), rows)
        self.assertTrue(any(row.startswith("| note | \\+\\[\\_ANEDeviceInfo hasANE\\] ".replace("\\+", "+"))
                            for row in rows), rows)

    def test_the_time_limit(self) -> None:
        done = self.run_standin("doctor", "--timeout", "2", FAULT="compile:hang")
        self.assertEqual(done.code, NOT_WELL)
        self.assertIn("compiling and measuring a small program, up to 2 s for each stage", done.output)
        self.assertRegex(done.output, rf"FAIL  {PROGRAMS[0]}: failed in stage compile: no progress for 2 s.*raise "
                                      r"--timeout; the system's compile service may hang")
        self.assertEqual(self.run_standin("doctor", "--timeout", "0").code, 2)

    def test_it_waits_for_a_run(self) -> None:
        with locked(self.temporary):
            started = self.scene.start("doctor")
            assert started.process.stdout
            told = ""
            while "note  lock: " not in told:
                line = started.process.stdout.readline()
                self.assertTrue(line, told)
                told += line
        self.assertIn(f"another run holds {self.temporary} -> waiting for it to end", told)
        self.assertEqual(self.scene.finish(started).code, WELL)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a run that measures."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class ElsewhereTest(unittest.TestCase):
    """Without macOS, doctor says so, and tries nothing else."""

    def test_linux(self) -> None:
        if sys.platform == "darwin":
            raise unittest.SkipTest("this is a Mac")
        done = support.run_command("doctor")
        self.assertEqual(done.code, NOT_WELL)
        self.assertRegex(done.output, r"\Aok    stand-in: none: Apple's libraries are used\nFAIL  platform: this is "
                                      r"linux, and the engine is reached from macOS only -> use a Mac with Apple "
                                      r"silicon\nskip  left out: program, processor, chip and \d+ more: a check "
                                      r"above must pass first\n\n1 check failed:\nFAIL  platform: [^\n]+\nIf this ")
