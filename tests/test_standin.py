"""The stand-in itself: its settings do as the head of standin/standin.m says. It is driven by hand
(standin/driver.py), with programs from the definitions (standin/programs.py)."""

import base64
import itertools
import json
import math
import os
import re
import shutil
import string
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import support
from tests.standin import programs
from tests.standin.programs import EXACT, M4, Net, Tensor, make_net, reference, write_program

STANDIN = Path(__file__).resolve().parent / "standin"
COMPILER = "com.apple.appleneuralengine.compiler"
ENGINE = "com.apple.appleneuralengine"
REFUSED = [COMPILER, 1, "_ANECompiler : ANECCompile() FAILED"]
INVALID = [COMPILER, 1, "err=(InvalidMILProgram)"]

Program = dict[str, Any]
COMPILED = "make a, compile a"
LOADED = f"{COMPILED}, load a"
ONCE = "start a, poison a, evaluate a, read a"


@support.long_test
class Case(support.DirectoryCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.directory / "log"
        self.library = support.standin_library()

    def start(self, acts: str, *given: Program, **settings: Any) -> support.Started:
        """Start a driver on acts with programs named a, b, …, a small one if none is given. The
        settings are the stand-in's variables without their prefix; None is not set."""
        settings = {"SPEED": 0, "LOG": self.log, **settings}
        own = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.directory),
               "SYSTEM_VERSION_COMPAT": str(settings.pop("COMPAT", 1))}
        own.update({f"STANDIN_{name}": str(value) for name, value in settings.items()
                    if value is not None})
        named = dict(zip(string.ascii_lowercase, given or [write_program(make_net("fp16"))]))
        with tempfile.TemporaryFile("w+") as job:
            json.dump({"programs": named, "acts": acts.split(", ")}, job)
            job.seek(0)
            command = [sys.executable, "-IS", str(STANDIN / "driver.py"), str(self.library)]
            started = support.Started(command, own, stdin=job)
        self.addCleanup(started.end)
        return started

    def results(self, acts: str, *given: Program, **settings: Any) -> list[Any]:
        """Do acts that must all be done; return the result of each."""
        finished = self.start(acts, *given, **settings).finish()
        found = [json.loads(line) for line in finished.output.splitlines()]
        self.assertEqual((finished.code, len(found)), (0, len(acts.split(", "))), finished.errors)
        return found

    def compiled(self, *given: Program, **settings: Any) -> list[Any]:
        """Return True for each program that is compiled, or its chain of errors."""
        names = string.ascii_lowercase[:len(given)]
        acts = ", ".join(f"make {name}, compile {name}" for name in names)
        return self.results(acts, *given, **settings)[1::2]

    def output(self, net: Net, *program: Program, **settings: Any) -> Tensor:
        results = self.results(ONCE, *(program or [write_program(net)]), **settings)
        self.assertEqual(results[0], True)
        return net.decoded(results[3])

    def durations(self, acts: str, **settings: Any) -> dict[str, list[float]]:
        """Return the µs of each evaluate of a program in FP16 (a), and of one in W8A8 (b)."""
        acts = f"start a, start b, {acts}"
        both = [write_program(make_net(variant, depth=2)) for variant in ("fp16", "w8a8")]
        found: dict[str, list[float]] = {"a": [], "b": []}
        settings = {"CLOCK": "virtual", "COMPUTE": "none", "LATENCY": "fp16:1000,w8a8:500",
                    **settings}
        for act, result in zip(acts.split(", "), self.results(acts, *both, **settings)):
            if act.startswith("evaluate"):
                found[act.split()[1]] += [nanoseconds / 1000 for nanoseconds in result]
        return found

    def calls(self, *beginnings: str) -> list[str]:
        text = self.log.read_text() if self.log.exists() else ""
        return [line for line in text.splitlines() if line.startswith(beginnings)]


class ErrorTest(Case):
    """Refusals carry their reason as Apple's do; faults come at the calls that they are set to."""

    def test_the_reason_is_below(self) -> None:
        told = "the stand-in was told to refuse at compile"
        for settings, reason in (
                ({"FAULT": "compile:no"}, told), ({"REFUSE": "short"}, INVALID[2]),
                ({"FAULT": "compile:no", "REASON": "Cause"}, f"{told} err=(Cause)"),
                ({"REFUSE": "short", "REASON": "compile:0x20004"}, "(0x20004)"),
                ({"REFUSE": "short", "REASON": "load:0x20004"}, INVALID[2]),
                ({"REFUSE": "short", "REASON": "w8a8/compile:X;Y"}, "err=(Y)")):
            self.assertEqual(self.results(COMPILED, **settings)[-1],
                             [REFUSED, [COMPILER, 1, reason]], settings)
        self.assertEqual(self.results(LOADED, FAULT="load:no", REASON="load:0x50004")[-1],
                         [[ENGINE, 6, "Program load failure"],
                          [ENGINE, 6, "the stand-in was told to refuse at load (0x50004)"]])
        self.assertEqual(self.results(COMPILED, FAULT="compile:unicode")[-1],
                         [[ENGINE, 8, "le modèle « x » a été refusé — 失敗 ✗ 𝛑"]])

    def test_shapes(self) -> None:
        levels = [[COMPILER, 1, f"error {level} below the outermost"] for level in (1, 2)]
        for shape, expected in (
                ("0", [[*REFUSED[:2], f"{REFUSED[2]} {INVALID[2]}"]]), ("1", [REFUSED, INVALID]),
                ("3", [REFUSED, *levels, INVALID]), ("loop", [REFUSED, INVALID, "again 1"]),
                ("pair", [REFUSED, INVALID, "again 0"]), ("nil", [REFUSED, "nil"]),
                ("text", [REFUSED, "text err=(InvalidMILProgram)"])):
            found = self.results(COMPILED, REFUSE="short", CHAIN=shape)
            self.assertEqual(found[-1], expected, shape)

    def test_calls_that_a_fault_meets(self) -> None:
        program, acts = write_program(make_net("fp16", 3)), "make a" + 6 * ", compile a"
        for when, refused in (
                ("compile:once", [1]), ("compile:once@3", [3]), ("compile:no@5", [5, 6]),
                ("compile:no@2-3", [2, 3]), ("compile:no@3+1", [1, 4]),
                ("6x3x3k3/fp16/compile:no@6", [6]), ("6x3x3k3/w8a8/compile:no", []),
                ("6x3x2k3/compile:no", []), ("6x3x3/compile:no", [])):
            results = self.results(acts, program, FAULT=when)
            self.assertEqual([call for call in range(1, 7) if results[call] is not True], refused,
                             when)

    def test_the_engine_is_busy_for_a_moment(self) -> None:
        busy = [[ENGINE, 54, "Program load failure (0x5)"], [ENGINE, 54, "no ANE resources"]]
        for fault, expected in (("load:busy@1-2", [busy, busy, None, True]),
                                ("load:busy=0.4", [busy, busy, None, True]),
                                ("w8a8/load:busy", [True, True, None, True])):
            results = self.results(f"{LOADED}, load a, sleep 500, load a", FAULT=fault)
            self.assertEqual(results[2:], expected, fault)


class ServiceTest(Case):
    def test_after_a_hang_all_later_processes_hang(self) -> None:
        state = self.directory / "daemon"
        first = self.start(LOADED, DAEMON=state, FAULT="load:hang")
        first.wait_until(state.exists, "state")
        first.end()
        second = self.start(LOADED, DAEMON=state)
        self.results("make a", DAEMON=state)
        second.wait_until(lambda: self.calls("compile waits") == ["compile waits for ever"], "wait")
        self.assertRaises(subprocess.TimeoutExpired, second.process.wait, 0.5)
        state.unlink()
        self.assertEqual(second.finish().code, 0)
        for stage, remains in (("evaluate", False), ("compile", True)):
            crashing = self.start(ONCE, DAEMON=state, FAULT=f"{stage}:crash")
            self.assertLess(crashing.finish().code, 0)
            self.assertEqual(state.exists(), remains)

    def test_compiles_fail_for_the_wrong_reason_while_it_restarts(self) -> None:
        wrong, right = [REFUSED, [COMPILER, 1, "err=(CompilationFailure)"]], [REFUSED, INVALID]
        program = write_program(make_net("fp16"))
        for settings in ({}, {"DAEMON": self.directory / "daemon"}):
            results = self.results("make a, make b, compile a, compile b, sleep 400, compile b",
                                   {**program, "mil": "no program"}, program, RESTART=0.3,
                                   **settings)
            self.assertEqual(results[2:], [right, wrong, None, True])


class ClockTest(Case):
    def test_without_settings_an_m4_in_real_time(self) -> None:
        mega = 2 * 64 ** 2 * 64 ** 2 * 96 / 1e6
        for variant, least, latency in (("fp16", 100 + mega / 18.6, None),
                                        ("w8a8", 100 + mega / 36, None), ("w8a8", 400, "w8a8:400")):
            net = make_net(variant, channels=64, height=64, width=64, depth=96)
            times = self.results("start a, evaluate a 30", write_program(net), SPEED=None,
                                 LOG=None, LATENCY=latency)[1]
            self.assertTrue(-0.1 < min(times) / 1000 - least < 12, (variant, min(times), least))

    def test_speed(self) -> None:
        operations = 2 * 6 * 6 * 2 * 12
        found = self.durations("evaluate a 3, evaluate b", SPEED="fp16:100+1e-6,w8a8:7+1",
                               LATENCY="fp16:10")
        for time_taken, expected in zip(found["a"] + found["b"], [110 + operations] * 3 + [7]):
            self.assertAlmostEqual(time_taken, expected, delta=0.1)

    def test_throttle_drift_and_spikes(self) -> None:
        found = self.durations("evaluate a 100", THROTTLE="0.2@0.05")["a"]
        self.assertEqual([round(value) for value in found], [1000] * 50 + [1250] * 50)
        found = self.durations("evaluate a 100", SPIKE="30x3")["a"]
        self.assertEqual([index for index in range(100) if round(found[index]) == 3000],
                         [29, 59, 89])
        found = self.durations("evaluate a 100", DRIFT="2")["a"]
        self.assertAlmostEqual(found[99], 1000 * 1.002 ** 99, delta=2)

    def test_the_clock_rises_and_idling_brings_it_back(self) -> None:
        # A lock that is slow moves the virtual clock on: the idling is known exactly.
        for milliseconds, excess in ((0.09, 0), (20.1, 0.2), (60.1, 0.6), (200, 1)):
            found = self.durations("evaluate a 600, poison a, evaluate b", RISE="2.8:0.06",
                                   LATENCY="fp16:1000,w8a8:10",
                                   FAULT=f"lock:slow={milliseconds / 1000}@3")
            self.assertAlmostEqual(found["b"][0], 10 * (1 + 1.8 * excess), delta=0.05)
            times = found["a"]
            self.assertAlmostEqual(times[0], 2800, delta=45)
            self.assertAlmostEqual(times[599], 1000, delta=1)
            # After 60 ms the excess has fallen by the factor e.
            later = next(index for index in range(600) if sum(times[:index]) >= 60e3)
            self.assertAlmostEqual(times[later], 1000 + 1800 / math.e, delta=25)

    def test_jump_takes_exactly_the_latency_and_sees_idling(self) -> None:
        gaps = self.directory / "gaps"
        found = self.durations("evaluate a 1200, sleep 150, evaluate a", CLOCK="jump",
                               COMPUTE="all", RISE="2:0.5", GAPS=gaps, LATENCY="fp16:50000")["a"]
        self.assertAlmostEqual(min(found), 50000, delta=200)
        self.assertGreater(found[-1], 90000)
        lines = [line.split() for line in gaps.read_text().splitlines()]
        self.assertEqual((lines[0][:2], len(lines)), (["fp16", "-"], 1201))
        self.assertGreater(float(lines[-1][1]), 150e6)
        self.assertAlmostEqual(float(lines[-1][2]) / 1000, found[-1], delta=2000)

    def test_readings(self) -> None:
        for setting, signs in (("", [1, 1, 1]), ("still@3", [1, 1, 0]), ("still", [0, 0, 0]),
                               ("backwards", [-1, -1, -1]), ("backwards@3", [1, 1, -1])):
            for clock in ("real", "virtual"):
                readings, = self.results("clock 4", READING=setting, CLOCK=clock)
                steps = [second - first for first, second in zip(readings, readings[1:])]
                self.assertEqual([(step > 0) - (step < 0) for step in steps], signs, setting)

    def test_noise_has_its_width_and_correlation(self) -> None:
        for rho in (0, 0.8):
            found = self.durations("evaluate a 20000", NOISE=f"random:0.05,{rho}")
            logs = [math.log(value / 1000) for value in found["a"]]
            square = math.fsum(value * value for value in logs)
            self.assertAlmostEqual(math.sqrt(square / len(logs)), 0.05, delta=0.004)
            products = math.fsum(one * other for one, other in zip(logs, logs[1:]))
            self.assertAlmostEqual(products / square, rho, delta=0.05)


class ArithmeticTest(Case):
    def test_each_arithmetic(self) -> None:
        for kernel, variant in itertools.product((1, 3), ("fp16", "w8a16", "w8a8")):
            net = make_net(variant, kernel)
            self.assertEqual(self.output(net), reference(net, M4), (variant, kernel))
            self.assertEqual(self.output(net, ARITHMETIC="exact"), reference(net, EXACT))
            self.assertNotEqual(reference(net, M4), reference(net, M4._replace(m4=False)))

    def test_roundings_and_stores(self) -> None:
        # A weight scale that is a power of two makes ties for quantize, the other one does not.
        nets = [make_net("w8a8", channels=16, depth=6, scale=2.0 ** -7),
                make_net("w8a8", channels=16, depth=6)]
        seen = [[reference(net, how) for net in nets] for how in (EXACT, M4)]
        for settings, how in (
                ("ARITHMETIC=exact ROUNDING=away", M4._replace(m4=False)),
                ("ARITHMETIC=exact QUANTIZE=away", EXACT._replace(quantize_away=True)),
                ("ARITHMETIC=exact ROUNDING=away QUANTIZE=even", EXACT._replace(store_away=True)),
                ("ARITHMETIC=exact STORE=fp32", EXACT._replace(stores_fp32=True)),
                ("ROUNDING=even", M4._replace(store_away=False, quantize_away=False))):
            chosen = dict(setting.split("=") for setting in settings.split())
            expected = [reference(net, how) for net in nets]
            self.assertEqual([self.output(net, **chosen) for net in nets], expected, settings)
            self.assertNotIn(expected, seen, "there is no difference")
            seen.append(expected)

    def test_overflow_is_for_good_and_nan_a_large_number(self) -> None:
        # 4 x 120 x 120 is beyond 32768; what is subtracted afterwards does not undo it.
        layer = [[[120.0]] * 3 + [[-120.0]] * 3 for _ in range(6)]
        net = Net("fp16", [layer], 1, 3, 1, [[120.0, 60.0, math.nan], *[[120.0, 60.0, 0.0]] * 5])
        self.assertEqual(self.output(net), [[math.inf, 0.0, math.inf]] * 6)
        self.assertEqual(self.output(net, ARITHMETIC="exact")[0][:2], [0.0, 0.0])

    def test_of_large_programs_the_pixels_are_computed_that_were_overwritten(self) -> None:
        for kernel in (1, 3):
            net = make_net("w8a8", kernel, channels=32, height=70, width=70, depth=4)
            results = self.results(
                "start a, evaluate a, poke a 7 5, poke a 1 150, evaluate a, read a, poke a 2 200, "
                "evaluate a, read a", write_program(net))
            whole = self.output(net, COMPUTE="all")
            # Elements of rows of 96: those of the second row begin at 96.
            for content, chosen in ((results[5], {5, 70 + 54}), (results[8], {5, 124, 140 + 8})):
                self.assertEqual(net.decoded(content),
                                 [[value if pixel in chosen else 0.0
                                   for pixel, value in enumerate(channel)] for channel in whole])


class StridesTest(Case):
    """Rows of tensors are padded in surfaces; a loaded model tells how."""

    def test_a_surface_holds_the_batch(self) -> None:
        for net in (make_net("fp16"), make_net("w8a8", 3, height=4, width=33, depth=2)):
            program = write_program(net)
            size = program["output_bytes"]
            self.assertEqual(self.output(net), reference(net))
            for change in ({"input_bytes": size - 1, "input": ""}, {"output_bytes": size - 64}):
                chain, = self.results(ONCE, {**program, **change})[2]
                self.assertIn("Failed with status=0x1d : statusType=0x9", chain[1][2])

    def test_the_padding_behind_a_row_is_read(self) -> None:
        net = make_net("fp16")
        program = write_program(net)
        content = bytearray(base64.b64decode(program["input"]))
        content[64 * 3 - 2:64 * 3] = struct.pack("<e", 0.5)  # behind the first channel's last row
        first = [*net.input[0][:8], *(programs.as_half(value + 0.5) for value in net.input[0][8:])]
        self.assertEqual(self.output(net, {**program, "input": base64.b64encode(content).decode()}),
                         reference(net._replace(input=[first, *net.input[1:]])))

    def attributes(self, inner: bool = True, **settings: Any) -> Any:
        """Return modelAttributes after load, of a chain of two layers of 6 channels, 3 by 40."""
        program = write_program(make_net("fp16", width=40, depth=2))
        return self.results(f"start a, attributes a {int(inner)}", program, **settings)[1]

    def test_attributes(self) -> None:
        both = {"RowStride": 128, "PlaneStride": 384, "BatchStride": 2304, "DepthStride": 2304,
                "Type": "Float16", "Batches": 1, "Channels": 6, "Depth": 1, "Height": 3,
                "Width": 40, "Interleave": 1, "PlaneCount": 6}
        expected = {"NetworkStatusList": [
            {"LiveInputList": [{**both, "Name": "x", "Symbol": "x"}],
             "LiveOutputList": [{**both, "Name": "c1@output", "Symbol": "c1"}]}]}
        for inner, kind in ((True, ""), (False, ""), (True, "inner"), (False, "outer")):
            self.assertEqual(self.attributes(inner, ATTRIBUTES=kind), expected, kind)
        for inner, kind in ((True, "none"), (False, "none"), (True, "outer")):
            self.assertIsNone(self.attributes(inner, ATTRIBUTES=kind), kind)
        results = self.results("make a, attributes a, compile a, attributes a 0, load a, unload a, "
                               "attributes a")
        self.assertEqual(results[1:], [{}, True, {}, True, True, {}])
        raising = self.start("start a, attributes a 0", ATTRIBUTES="inner").finish()
        self.assertIn("-externConstants: unrecognized selector", raising.errors)

    def test_wider_rows(self) -> None:
        found, = self.attributes(ROW=192, PLANE=1024)["NetworkStatusList"][0]["LiveOutputList"]
        self.assertEqual([found[f"{name}Stride"] for name in ("Row", "Plane", "Batch")],
                         [192, 1024, 6144])
        chain, = self.results(ONCE, ROW=128)[2]
        self.assertIn("status=0x1d", chain[1][2])

    def test_attributes_that_contradict_the_program(self) -> None:
        for setting, change in (
                ("text", {"RowStride": "128", "Channels": "6", "Type": "Float16"}),
                ("Channels=7;Type=Float32", {"Channels": 7, "Type": "Float32", "Height": 3}),
                ("RowStride=", {"RowStride": None}), ("Name=[]", {"Name": []})):
            network, = self.attributes(ATTRIBUTES=setting)["NetworkStatusList"]
            for tensor, in network.values():
                self.assertEqual({name: tensor.get(name) for name in change}, change)
        self.assertEqual(self.attributes(ATTRIBUTES="empty"), {})
        self.assertEqual(self.attributes(ATTRIBUTES="NetworkStatusList=[]"),
                         {"NetworkStatusList": []})
        network, = self.attributes(ATTRIBUTES="LiveInputList=")["NetworkStatusList"]
        self.assertEqual(list(network), ["LiveOutputList"])
        lists, = self.attributes(ATTRIBUTES="lists")["NetworkStatusList"]
        self.assertEqual(sorted("c1@output" in surface for surface, in lists), [False, True])


class OutputTest(Case):
    def assert_output(self, net: Net, kind: str, expected: Tensor) -> None:
        self.assertEqual(self.output(net, OUTPUT=kind), expected, (kind, net.kernel))
        self.assertNotEqual(expected, reference(net), f"{kind} is right")

    def test_weights(self) -> None:
        def changed(layer: Any, factor: float, channel: int = -1) -> Any:
            return [[[tap * factor * (index != channel) for tap in taps]
                     for index, taps in enumerate(row)] for row in layer]

        for kernel in (1, 3):
            net = make_net("fp16", kernel, depth=4)
            one, two, three, four = net.layers
            for kind, layers in (
                    ("aliased", [one] * 4), ("swapped", [one, three, two, four]),
                    ("swapped:0,3", [four, two, three, one]),
                    ("scale:1.5", [one, two, changed(three, 1.5), four]),
                    ("drop:2", [one, two, changed(three, 1, 2), four]),
                    ("drop:1,3;scale:0.5,0", [changed(one, 0.5), two, three, changed(four, 1, 1)])):
                self.assert_output(net, kind, reference(net._replace(layers=layers)))

    def test_quantization_and_3x3(self) -> None:
        net = make_net("w8a8", 3)
        turned = [[[[taps[3 * (tap % 3) + tap // 3] for tap in range(9)] for taps in row]
                   for row in layer] for layer in net.layers]
        one_turned = [net.layers[0], turned[1], net.layers[2]]
        for kind, layers, how in (("unquantized", net.layers, M4._replace(quantizes=False)),
                                  ("transposed", turned, M4), ("transposed:1", one_turned, M4),
                                  ("border", net.layers, M4._replace(replicates=True))):
            self.assert_output(net, kind, reference(net._replace(layers=layers), how))

    def test_without_the_program(self) -> None:
        net = make_net("fp16")
        for kind, value in (("inf", math.inf), ("zeros", 0.0), ("constant", 0.5)):
            self.assert_output(net, kind, [[value] * 12] * 6)
        for kind in ("nan", "noop", "works:2", "every:2+0", "noop@1"):
            self.assertTrue(all(map(math.isnan, sum(self.output(net, OUTPUT=kind), []))), kind)
        for kind in ("w8a8/nan", "works:1-1", "every:2+1", "nan@2", "7x3x3/nan"):
            self.assertEqual(self.output(net, OUTPUT=kind), reference(net), kind)

    def test_evaluates_that_work(self) -> None:
        net = make_net("fp16")
        letters = {str(reference(net)): "r", str([[0.0] * 12] * 6): "z"}
        for kind, expected in (("works:2-3", "-rr----"), ("works:7", "------r"),
                               ("works:1-2;every:3+0", "rrr--r-"), ("noop@3", "rr-----"),
                               ("zeros@4-5", "rrrzzrr")):
            results = self.results("start a" + 7 * ", poison a, evaluate a, read a", OUTPUT=kind)
            self.assertEqual("".join(letters.get(str(net.decoded(content)), "-")
                                     for content in results[3::3]), expected, kind)


class FormTest(Case):
    def test_forms(self) -> None:
        forms = ("short", "early", "long", "original")
        kinds = [(variant, kernel, form) for variant, kernel in (
            ("fp16", 1), ("w8a16", 1), ("w8a8", 1), ("w8a8", 3)) for form in forms]
        all_kinds = [write_program(make_net(variant, kernel, depth=2), form)
                     for variant, kernel, form in kinds]
        for refused, taken in (
                ("", forms), ("short", ("early", "long")), ("early,long", ("short", "original")),
                ("standard", ("original",)), ("original", ("short", "early", "long"))):
            self.assertEqual([done is True for done in self.compiled(*all_kinds, REFUSE=refused)],
                             [form in taken for *_, form in kinds], refused)
        done = self.compiled(*all_kinds, REFUSE="w8a8/short,6x3x2k3/long,8x3x2/early")
        self.assertEqual({kind for kind, right in zip(kinds, done) if right is not True},
                         {("w8a8", 1, "short"), ("w8a8", 1, "original"), ("w8a8", 3, "short"),
                          ("w8a8", 3, "original"), ("w8a8", 3, "long")})
        net = make_net("w8a8")
        for form in ("early", "long"):
            self.assertEqual(self.output(net, write_program(net, form)), reference(net))

    def test_others_are_refused(self) -> None:
        net = make_net("fp16", 3)
        program, long = write_program(net), write_program(net, "long")
        texts = [long["mil"].replace("(1.0)", "(1.3)")]
        for old, new in (
                ('"custom"', '"valid"'), ("[1, 1, 1, 1]", "[0, 0, 0, 0]"), ('"custom"', '"same"'),
                ("groups = groups", "groups = pad"), ("program(1.3)", "program(1.0)"),
                ('string("w0")', 'tensor<string, []>("w0")'), ("int32 groups", "string groups"),
                ("uint64(64)", "tensor<uint64, []>(64)"), ("ios18", "ios14"),
                ("int32 groups", "tensor<int32, []> groups")):
            texts.append(program["mil"].replace(old, new))
            self.assertNotEqual(program["mil"], texts[-1])
        for text, done in zip(texts, self.compiled(*({**program, "mil": text} for text in texts))):
            self.assertEqual(done, [REFUSED, INVALID], text)


class SurroundingsTest(Case):
    def test_macos_tells_a_process_its_own_version(self) -> None:
        for settings, version in (({}, "26.0"), ({"COMPATIBLE": "16.1"}, "16.1"),
                                  ({"COMPATIBLE": "16.1", "COMPAT": 0}, "26.0")):
            self.assertEqual(self.results("system kern.osproductversion", **settings), [version])

    def test_directories(self) -> None:
        elsewhere = self.directory / "elsewhere"
        acts = f"{LOADED}, path a, identifier a, unload a"
        path, identifier, unloaded = self.results(acts)[3:]
        self.assertEqual((path, unloaded), (str(self.directory / identifier), True))
        self.assertFalse(Path(path).exists())
        own = elsewhere / identifier
        settings = {"MODEL_PATH": f"{elsewhere}/%", "FAULT": "load:killdir"}
        self.assertEqual(self.results(acts, **settings)[3:], [str(own), identifier, True])
        self.assertTrue((own / "model.mil").exists(), "removed by the stand-in")
        for name in ("net.plist", "data"):
            (own / name).touch()
            self.assertEqual(self.results(COMPILED, **settings)[-1], [REFUSED, INVALID])
            (own / name).unlink()
        self.assertEqual(self.results("temporary", TEMPORARY="/x"), ["/x/"])

    def test_programs_stay_in_the_cache_until_purged(self) -> None:
        cache = self.directory / "cache"
        cache.mkdir()
        self.assertEqual(self.results("make a, compiled a, compile a, compiled a", CACHE=cache)[1:],
                         [False, True, True])
        self.assertEqual([file.read_text() for file in cache.iterdir()], ["fp16\n"])
        self.results("make a, purge a", CACHE=cache)
        self.assertEqual(list(cache.iterdir()), [])

    def test_limits_of_compile_and_load(self) -> None:
        for limits, reason in (("bytes:600", "(0x20004)"), ("resident:0", "(0x50004)")):
            self.assertEqual(self.results(LOADED, LIMITS=limits)[-1][1][2], reason)
        self.assertEqual(self.results(LOADED, LIMITS="layers:3,resident:1")[2], True)
        self.assertLess(self.start(LOADED, LIMITS="layers:2").finish().code, 0)


# Values of each setting that end the process.
UNREADABLE = """
FAULT compile compile:no@0 compile:no@3-2 compile:slow=x w9/compile:no
OUTPUT scale nan:1 works every:2 works:2+1 drop:1,2,3 scale:1x
REASON model:X compile:|CHAIN 21 -1 deep|RESTART soon|REFUSE 1.4 w9/short|COMPUTE 1,2|ROW 0 x
ARITHMETIC m9|ROUNDING up|QUANTIZE up|STORE bf16|LATENCY fp16:fast|SPEED fp16:100 fp16:100+0
RISE 2.8 0.5:1|NOISE random:0.1,1 hum:1|CLOCK fast|READING sideways still@x|DRIFT x|SPIKE 5 0x2
THROTTLE 0.1 1@5|LIMITS rows:1 layers|GAPS /no/file|LOG /no/file|PLANE 1.5|ATTRIBUTES some Size=3
"""


class SettingsTest(Case):
    def test_values_that_cannot_be_read(self) -> None:
        command = [sys.executable, "-ISc", f"import ctypes; ctypes.CDLL({str(self.library)!r})"]
        for line in re.split(r"[|\n]", UNREADABLE.strip()):
            name, *values = line.split()
            for value in values:
                done = subprocess.run(command, env={f"STANDIN_{name}": value}, timeout=60,
                                      capture_output=True, encoding="utf-8", check=False)
                self.assertEqual(done.returncode, 70, (name, value))
                self.assertRegex(done.stderr, rf"^standin: STANDIN_{name}: cannot read ")

    def test_every_setting_is_documented(self) -> None:
        source = (STANDIN / "standin.m").read_text()
        head = source[:source.index("\n\n#")]
        documented = re.findall(r"(?m)^//   STANDIN_(\w+)=", head)
        self.assertEqual(sorted(documented), sorted(set(re.findall(r'"STANDIN_(\w+)"', source))))
        for kinds in re.findall(r"const (?:fault|output)Names\[\w+\] = \{(.*?)\};", source, re.S):
            for kind in re.findall(r'"(\w+)"', kinds):
                self.assertRegex(head, rf"\b{kind}\b")

    def test_one_build_is_kept(self) -> None:
        copy, cache = self.directory / "standin", self.directory / "cache"
        shutil.copytree(STANDIN, copy)

        def built() -> int:
            found = subprocess.check_output([sys.executable, copy / "build.py"], encoding="utf-8",
                                            env={**os.environ, "XDG_CACHE_HOME": str(cache)})
            self.assertEqual(list(cache.rglob("*.*")), [Path(found.strip())])
            return Path(found.strip()).stat().st_mtime_ns

        first = built()
        self.assertEqual(built(), first)
        (copy / "standin.m").touch()
        self.assertGreater(built(), first)
