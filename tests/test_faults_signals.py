"""Ctrl-C and signals, the parent's end, and two runs at the same time."""

import contextlib
import json
import signal
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

from tests import faults, support
from tests.faults import BOTH_CONFIGS, CALLED, CALLED_IN_ALL, CALLS, SHORT, FaultCase, Step, at_stage, is_table, some_of
from tests.support import AT_A_TIME, PATIENCE, SMALL, Scene, Started
from tests.terminal import Terminal

# Seconds within which a worker whose parent is no more must have exited.
ORPHANED = 10


class Signal(NamedTuple):
    """A signal comes while the stand-in is at a stage, to all processes or to the parent alone.

    It must exit with a code, tell one thing, and leave `which` configurations in the record.
    """

    name: str
    number: int
    to_group: bool
    code: int
    told: str
    stage: str
    which: int = 0
    arguments: Sequence[str] = BOTH_CONFIGS

    def check(self, test: FaultCase, scene: Scene) -> None:
        """Start a run, and send the signal."""
        fault, doctor = at_stage(self.stage, f"slow={PATIENCE}"), self.arguments == ("doctor",)
        if self.which:
            scene.drive({"STANDIN_FAULT": fault})
        else:
            scene.settings["FAULT"] = fault
        run = scene.start(*self.arguments, *(() if doctor else ("--save", str(scene.saved))))
        before = self.which * CALLED_IN_ALL.get(self.stage, 1)
        scene.await_call(run, CALLS[self.stage], before + CALLED.get(self.stage, 1))
        started = time.monotonic()
        (run.signal_group if self.to_group else run.signal)(self.number)
        if self.code < 0:
            run.process.wait(PATIENCE)
            test.assertTrue(run.is_over(PATIENCE / 2), "the worker did not exit")
        finished = scene.finish(run)
        test.assertLess(time.monotonic() - started, PATIENCE / 2)
        test.assertEqual(finished.code, self.code, finished.errors)
        said = [line for line in finished.errors.splitlines() if not line.startswith("[")]
        if self.told:
            place = f": {self.which} of 2 configurations are in {scene.saved}" if self.which else ""
            test.assertEqual(said.pop(), f"ane_bench: {self.told}{place}")
        # The worker, which is within a call, had to be killed.
        cached = [line for line in said if line.startswith(f"ane_bench: {faults.CACHED}")]
        stages = tuple(CALLS)
        purges = not doctor and self.code > 0 and "--original" not in self.arguments
        compiled = stages.index(self.stage) >= stages.index("compile")
        test.assertEqual(len(cached), 1 if purges and compiled else 0, said)
        test.assertTrue(self.which or said == cached, said)
        test.assertEqual(len(scene.record()["results"]) if scene.saved.exists() else 0, self.which)
        if self.which:
            test.assertTrue(is_table(finished.output, results=self.which), finished.output)
        elif not doctor:
            test.assertEqual(finished.output, "")
        test.check_clean(scene, finished)


def signals(number: signal.Signals, to_group: bool, code: int, told: str, stages: Sequence[str]) -> list[Signal]:
    """Return a case for each of these stages."""
    to = "all" if to_group else "the parent"
    return [Signal(f"{number.name} to {to} at {stage}", number, to_group, code, told, stage) for stage in stages]


INTERRUPTED, TERMINATED = faults.INTERRUPTED, faults.TERMINATED
SIGNALS = [
    *signals(signal.SIGINT, True, 130, INTERRUPTED, tuple(CALLS)),
    *some_of(signals(signal.SIGTERM, False, 143, TERMINATED, tuple(CALLS)), "descriptor load evaluate purge",
             "stages at which SIGTERM comes"),
    *signals(signal.SIGINT, False, 130, INTERRUPTED, ("compile",)),
    *signals(signal.SIGTERM, True, 143, TERMINATED, ("compile", "evaluate")),
    *signals(signal.SIGHUP, True, 129, TERMINATED, ("compile", "evaluate")),  # a terminal is closed
    # Ctrl-\: the parent just dies; the worker cleans up.
    *signals(signal.SIGQUIT, True, -signal.SIGQUIT, "", ("compile",)),
    Signal("SIGINT in the second configuration", signal.SIGINT, True, 130, INTERRUPTED, "compile", which=1),
    Signal("SIGTERM in the second configuration", signal.SIGTERM, False, 143, TERMINATED, "evaluate", which=1),
    Signal("SIGINT in --original", signal.SIGINT, True, 130, INTERRUPTED, "load",
           arguments=("--original", "--config", "512x64x2", "--config", "64x8x2")),
    Signal("SIGINT in doctor", signal.SIGINT, True, 130, INTERRUPTED, "compile", arguments=("doctor",)),
    Signal("SIGTERM in doctor", signal.SIGTERM, False, 143, TERMINATED, "evaluate", arguments=("doctor",)),
]


class Orphan(NamedTuple):
    """The parent is killed while the stand-in is at a stage."""

    name: str
    stage: str

    def check(self, test: FaultCase, scene: Scene) -> None:
        """The worker must notice, remove its files and exit."""
        scene.settings["FAULT"] = at_stage(self.stage, "hang")
        run = scene.start(*BOTH_CONFIGS)
        scene.await_call(run, CALLS[self.stage], CALLED.get(self.stage, 1))
        stages = tuple(CALLS)
        test.assertEqual(bool(scene.models()), stages.index(self.stage) >= stages.index("compile"))
        test.assertGreater(run.worker(), 0)
        run.signal(signal.SIGKILL)
        run.process.communicate(timeout=PATIENCE)
        test.assertEqual(run.process.returncode, -signal.SIGKILL)
        test.assertTrue(run.is_over(ORPHANED), "the worker did not exit")
        test.assertEqual(scene.models(), [])


ORPHANS = some_of([Orphan(f"parent killed at {stage}", stage) for stage in CALLS], "descriptor compile evaluate purge",
                  "stages at which the parent is killed")


def typed_on_a_terminal(test: FaultCase, scene: Scene) -> None:
    """Ctrl-C as a person types it."""
    scene.settings["FAULT"] = faults.slow("compile")
    terminal = Terminal(scene, *BOTH_CONFIGS)
    scene.await_call(terminal.run, "compile fp16")
    terminal.type(b"\x03")
    test.assertEqual(terminal.finish().code, 130)
    test.assertEqual([line for line in terminal.screen.lines if line][-1], f"ane_bench: {INTERRUPTED}")


def between_evaluates(number: signal.Signals, code: int) -> Callable[[FaultCase, Scene], None]:
    """Return a check of a signal that comes when no call hangs: the worker unloads and purges its programs."""
    def check(test: FaultCase, scene: Scene) -> None:
        scene.settings["FAULT"] = "w8a8/evaluate:slow=0.2"
        run = scene.start(*SMALL)
        scene.await_call(run, "evaluate w8a8")
        run.signal(number)
        finished = scene.finish(run)
        test.assertEqual((finished.code, finished.output), (code, ""), finished.errors)
        calls = [call.split()[0] for call in scene.calls()]
        test.assertEqual((calls.count("unload"), calls.count("purge")), (2, 2))
        test.assertNotIn(faults.CACHED, finished.errors)
        test.check_balance(scene)
    return check


def within_compile(test: FaultCase, scene: Scene) -> None:
    """A program is purged, too, if the signal comes while it is compiled, which is done within two seconds."""
    scene.settings["FAULT"] = faults.slow("w8a8/compile", 1)
    run = scene.start(*SMALL)
    scene.await_call(run, "compile w8a8")
    run.signal_group(signal.SIGINT)
    finished = scene.finish(run)
    test.assertEqual((finished.code, finished.output), (130, ""), finished.errors)
    calls = [call.split()[0] for call in scene.calls()]
    test.assertEqual((calls.count("unload"), calls.count("purge")), (1, 2))
    test.assertNotIn(faults.CACHED, finished.errors)


def again_and_again(test: FaultCase, scene: Scene) -> None:
    """The first Ctrl-C starts cleaning up, and the next do not stop that."""
    scene.settings["FAULT"] = faults.slow("compile")
    run = scene.start(*BOTH_CONFIGS)
    scene.await_call(run, "compile fp16")
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError):
            run.signal_group(signal.SIGINT)
        time.sleep(0.002)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 130, finished.errors)
    test.assertEqual(finished.errors.count(f"ane_bench: {INTERRUPTED}"), 1)


def in_the_background(test: FaultCase, scene: Scene) -> None:
    """As a shell starts it there: Ctrl-C is for another process."""
    scene.prefix = faults.shell('trap "" INT; exec "$@"')
    scene.settings["FAULT"] = faults.slow("fp16/compile", 0.5)
    run = scene.start(*BOTH_CONFIGS)
    scene.await_call(run, "compile fp16")
    run.signal_group(signal.SIGINT)
    finished = scene.finish(run)
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertTrue(is_table(finished.output), finished.output)


TYPED = [
    Step("SIGINT between evaluates", between_evaluates(signal.SIGINT, 130)),
    Step("SIGTERM between evaluates", between_evaluates(signal.SIGTERM, 143)),
    Step("SIGINT within a compile", within_compile),
    Step("Ctrl-C on a terminal", typed_on_a_terminal),
    Step("Ctrl-C again and again", again_and_again),
    Step("Ctrl-C for another", in_the_background),
]


# ----------------------------------------------------------------------------------------------------------------------
# Two runs at the same time
# ----------------------------------------------------------------------------------------------------------------------

def at_once(scene: Scene, seconds: float, *arguments: str) -> tuple[Started, Started]:
    """Start a run that takes that long, and another while it measures."""
    first = scene.start(*SMALL, settings={"FAULT": faults.slow("fp16/load", seconds)})
    scene.await_call(first, "load fp16")
    return first, scene.start(*arguments)


def await_waiting(test: FaultCase, run: Started) -> None:
    """Wait until a run says that it waits for another."""
    assert run.process.stderr
    test.assertIn(faults.WAITS, run.process.stderr.readline())


def second_waits(test: FaultCase, scene: Scene) -> None:
    """Wait longer than its own time limit, which does not run meanwhile."""
    first, second = at_once(scene, SHORT + 1.5, *SMALL, "--timeout", str(SHORT), "--format", "json")
    started = time.monotonic()
    finished = scene.finish(second)
    test.assertGreater(time.monotonic() - started, SHORT)
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertEqual(finished.errors.splitlines()[0], f"{faults.WAITS}{scene.temporary})")
    test.assertEqual(json.loads(finished.output)["results"][0]["variants"]["w8a8"]["status"], "ok")
    ended = scene.finish(first)
    test.assertEqual(ended.code, 0, ended.errors)
    test.assertNotIn("waiting", ended.errors)
    # No call of the second before the last of the first.
    calls = scene.calls()
    purges = [index for index, call in enumerate(calls) if call.startswith("purge")]
    compiles = [index for index, call in enumerate(calls) if call.startswith("compile fp16")]
    test.assertEqual(len(purges), 4)
    test.assertLess(purges[1], compiles[1])


def second_waits_quietly(test: FaultCase, scene: Scene) -> None:
    """Say so even with --quiet, or it would seem to hang."""
    first, second = at_once(scene, 1, *SMALL, "--quiet")
    finished = scene.finish(second)
    test.assertEqual((finished.code, finished.errors), (0, f"{faults.WAITS}{scene.temporary})\n"))
    test.assertEqual(scene.finish(first).code, 0)


def second_interrupted(test: FaultCase, scene: Scene) -> None:
    """Interrupt it while it waits; the first does not notice."""
    first, second = at_once(scene, 3, *SMALL)
    await_waiting(test, second)
    second.signal_group(signal.SIGINT)
    test.assertEqual(scene.finish(second), (130, "", f"ane_bench: {INTERRUPTED}\n"))
    test.assertEqual(scene.finish(first).code, 0)
    test.assertEqual(len([call for call in scene.calls() if call.startswith("compile fp16")]), 1)


def first_killed(test: FaultCase, scene: Scene) -> None:
    """Go on at once: the lock is not a file that a killed run leaves behind."""
    first, second = at_once(scene, PATIENCE, *SMALL)
    await_waiting(test, second)
    first.kill()
    finished = scene.finish(second)
    test.assertEqual(finished.code, 0, finished.errors)


TOGETHER = [
    Step("two runs: the second waits, and its time limit with it", second_waits),
    Step("two runs: --quiet waits, too", second_waits_quietly),
    Step("two runs: Ctrl-C while it waits", second_interrupted),
    Step("two runs: the first is killed", first_killed),
]


class SignalFaultTest(FaultCase):
    """All of these tables."""

    def test_signals(self) -> None:
        self.check_table(SIGNALS, AT_A_TIME + 1)

    def test_typed(self) -> None:
        self.check_table(TYPED)

    def test_orphans(self) -> None:
        self.check_table(ORPHANS, AT_A_TIME + 1)

    @support.long_test
    def test_together(self) -> None:
        self.check_table(TOGETHER, len(TOGETHER))


@support.long_test
class SecondPassTest(faults.SecondPass, SignalFaultTest):
    """The same under `-X dev -W error`."""
