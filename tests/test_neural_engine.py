"""Section 8 over the stand-in, in this process and through the command line."""

import contextlib
import itertools
import math
import os
import struct
import subprocess
import sys
import unittest
import unittest.mock
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import ane_bench
from ane_bench import Config, Libraries, LoadedModel, NeuralEngine, Pointer, StageError, Strides
from tests import support
from tests.support import SMALL

CONFIG = Config(64, 8, 2)  # that of SMALL


class Recorder:
    """Events that are remembered. With `look`, which is given the directory, compile is refused."""

    current, stopping = "", False

    def __init__(self, look: Optional[Callable[[str], None]] = None) -> None:
        self.stages: list[str] = []
        self.directories: list[str] = []
        self.look = look

    def stage(self, name: str, variant: str, limit: float = 0) -> None:
        self.stages.append(name)
        if name == "compile" and self.look:
            self.look(self.directories[-1])
            raise StageError(name, "refused by the test")

    def directory(self, path: str) -> None:
        self.stages.append("existed" if os.path.lexists(path) else "announced")
        self.directories.append(path)

    def _nothing(self, *arguments: Any) -> None:
        pass

    warn = rest = refused = round = turn = _nothing


def cells(record: dict[str, Any]) -> list[dict[str, Any]]:
    return list(record["results"][0]["variants"].values())


class EngineCase(support.StandinCase):
    """Tests of an engine in this process: the stand-in without settings. A pool is open."""

    def setUp(self) -> None:
        super().setUp()
        self.libraries = Libraries(str(support.standin_library()))
        self.engine = NeuralEngine(self.libraries)
        self.program = ane_bench.build_program(CONFIG, "fp16")
        holder = contextlib.ExitStack()
        holder.enter_context(support.environment(TMPDIR=str(self.temporary)))
        holder.enter_context(self.engine.pool())
        self.addCleanup(holder.close)

    @contextlib.contextmanager
    def loaded(self, events: Optional[Recorder] = None) -> Iterator[LoadedModel]:
        with contextlib.ExitStack() as owner:
            yield self.engine.load(self.program, 21, events or Recorder(), owner)

    def identifier(self) -> str:
        events = Recorder()
        with self.loaded(events):
            return os.path.basename(events.directories[0])

    def files(self) -> dict[str, Optional[bytes]]:
        """Return all below the test's own directory: content of files, target of links, None of
        directories."""
        return {str(path): os.readlink(path).encode() if path.is_symlink()
                else None if path.is_dir() else path.read_bytes()
                for path in sorted(self.directory.rglob("*"))}


class LoadedTest(EngineCase):
    def test_stages_in_order_and_undone_in_reverse(self) -> None:
        events = Recorder()
        with self.loaded(events) as executable:
            self.assertEqual(events.stages, [
                "descriptor", "model", "files", "announced", "compile", "load", "strides",
                "surface", "surface", "request"])
            self.assertEqual({name: type(value) for name, value in executable.facts.items()},
                             {"compiled_before": bool, "compile_ms": float, "load_ms": float,
                              "strides": dict})
            self.assertEqual(list(map(str, self.temporary.iterdir())), events.directories)
        self.assertEqual(events.stages[10:], ["unload", "purge"])
        buffers = [self.program.mil.encode(), self.program.blob]
        self.assertEqual(self.engine.pinned_buffers, buffers, "a model may read them until the end")
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_only_the_pixels_that_were_named_are_poisoned(self) -> None:
        events, pixels = Recorder(), range(CONFIG.pixels)[::-1]
        with self.loaded(events) as executable:
            before = list(events.stages)
            executable.poison([3, 60])
            found = executable.read_pixels(pixels)
            self.assertEqual(events.stages, before, "poisoning and reading are no stages")
        for pixel, channels in zip(pixels, found):
            self.assertEqual(len(channels), CONFIG.channels)
            self.assertEqual({math.isnan(value) for value in channels}, {pixel in (3, 60)}, pixel)

    def test_what_a_surface_cannot_take(self) -> None:
        with self.loaded() as executable:
            for size in (0, CONFIG.tensor_bytes - 2, CONFIG.tensor_bytes + 2):
                self.assertRaises(ValueError, executable.write_input, bytes(size))
            acts: tuple[tuple[str, Callable[[Any], Any], Any], ...] = (
                ("surface", executable.write_input, bytes(CONFIG.tensor_bytes)),
                ("surface", executable.poison, [0]), ("read", executable.read_pixels, [0]))
            for (name, answer, words), (stage, act, given) in itertools.product(
                    (("_lock", -0x1ffffd3b, "IOSurfaceLock returned 0xe00002c5"),
                     ("_base_address", None, "IOSurfaceGetBaseAddress returned NULL")), acts):
                with self.subTest(stage, name=name), \
                        unittest.mock.patch.object(self.engine, name, return_value=answer), \
                        self.assertRaisesRegex(StageError, words) as caught:
                    act(given)
                self.assertEqual(caught.exception.stage, stage)

    def test_a_failed_load_is_tried_again_after_pauses_but_for_the_original(self) -> None:
        send = self.engine.runtime.send
        answers: list[bool] = []

        def refuse(receiver: Pointer, selector: str, *arguments: Any) -> Any:
            refused = answers and selector.startswith("load")
            return answers.pop() if refused else send(receiver, selector, *arguments)

        for original, failures, pauses in (
                (False, 0, []), (False, 1, [0.1]), (False, 4, [0.1, 0.4, 1.6]), (True, 1, [])):
            self.engine.original, answers[:] = original, [False] * failures
            events = Recorder()
            with self.subTest(failures, original=original), \
                    unittest.mock.patch.object(self.engine.runtime, "send", refuse), \
                    unittest.mock.patch("time.sleep") as slept:
                if failures <= len(pauses):
                    with self.loaded(events):
                        pass
                else:
                    with self.assertRaisesRegex(StageError, "no NSError was given") as caught, \
                            self.loaded(events):
                        pass
                    self.assertEqual(caught.exception.stage, "load")
                self.assertEqual(events.stages.count("load"), len(pauses) + 1)
                self.assertEqual([call.args[0] for call in slept.call_args_list], pauses)

    def test_a_clock_without_a_unit_is_unavailable(self) -> None:
        real, answer = Libraries.function, [0, 0, 0]

        def timebase(target: Any) -> int:
            target[:] = answer[1:]
            return answer[0]

        def function(*arguments: Any) -> Any:
            return timebase if "mach_timebase_info" in arguments else real(*arguments)

        with unittest.mock.patch.object(Libraries, "function", function):
            for answer in ([0, 125, 0], [0, 0, 3], [0, 0, 0], [5, 125, 3]):
                with self.subTest(answer), \
                        self.assertRaisesRegex(ane_bench.Unavailable, "mach_timebase_info"):
                    NeuralEngine(self.libraries)
            answer = [0, 1, 1]
            self.assertEqual(NeuralEngine(self.libraries).tick_ns, 1)
        self.assertAlmostEqual(self.engine.tick_ns, 125 / 3)


class StridesTest(unittest.TestCase):
    """How tensors lie: the rule, places of pixels, padding. Facts: neural-engine.md, section 10."""

    def test_the_rule(self) -> None:
        for config, strides in (
                (Config(256, 56, 2), (128, 7168, 1835008)), (Config(64, 7, 2), (64, 448, 28672)),
                (Config(512, 28, 2), (64, 1792, 917504)), (Config(2048, 1, 2), (64, 64, 131072)),
                (Config(64, 32, 2), (64, 2048, 131072)), (Config(1, 33, 2), (128, 4224, 4224))):
            found = Strides.of_rows(config, 64)
            self.assertEqual((found[1:], found.possible), (strides, True))

    def test_every_value_stands_at_its_place_and_nothing_else_but_zeros(self) -> None:
        for (channels, side), row, more in itertools.product(
                ((1, 1), (3, 7), (5, 33), (2, 64)), (0, 64), (0, 128)):
            config, pixels = Config(channels, side, 2), side * side
            row += Strides.of_rows(config, 64).row
            plane = row * side + more
            strides = Strides(config, row, plane, plane * channels)
            data = struct.pack(f"<{channels * pixels}H", *range(1, channels * pixels + 1))
            laid_out = strides.laid_out(data)
            laid = memoryview(laid_out).cast("H")
            with self.subTest(strides):
                self.assertEqual(laid_out is data, strides.batch == len(data), "nothing to copy")
                self.assertEqual(2 * len(laid), strides.batch)
                for pixel in range(pixels):
                    self.assertEqual(list(laid[strides.channels_at(pixel)]),
                                     list(range(1 + pixel, 1 + channels * pixels, pixels)))
                self.assertEqual(sum(map(bool, laid)), channels * pixels, "the padding is zero")

    def test_what_cannot_be_right(self) -> None:
        config = Config(4, 7, 2)
        right = Strides(config, 64, 448, 1792)
        self.assertTrue(right.possible)
        for wrong in (right._replace(row=12), right._replace(row=65), right._replace(plane=446),
                      right._replace(plane=449, batch=1796), right._replace(batch=1791),
                      right._replace(batch=1793),
                      right._replace(batch=(1 << 32) + 2), right._replace(row=0)):
            self.assertFalse(wrong.possible, wrong)


# Attributes that a model may tell (STANDIN_ATTRIBUTES), and what the warning names, if any.
ATTRIBUTES = {
    "": "", "none": "", "inner": "", "outer": "", "empty": "", "text": "", "lists": "",
    "NetworkStatusList=[]": "", "LiveInputList=": "", "LiveOutputList=[]": "", "RowStride=": "",
    "Type=Float32": "Type Float32", "Interleave=4": "Interleave 4", "Channels=5": "Channels 5",
    "Height=9": "Height 9", "Width=64": "Width 64", "RowStride=8": "RowStride 8",
    "PlaneStride=64": "PlaneStride 64", "BatchStride=448": "BatchStride 448",
    "BatchStride=99999999999": "BatchStride 99999999999"}


class ShapesTest(support.StandinCase):
    """Every shape is right, on rows of 64 bytes and on rows that only the model tells."""

    def verified(self, scene: support.Scene, configs: Sequence[str],
                 **settings: Any) -> dict[str, Any]:
        """Measure configurations in all variants; each cell must be right. Return the record."""
        options = [word for name in configs for word in ("--config", name)]
        record = self.record_in(scene, *options, *SMALL[2:], "--variants", "fp16,w8a16,w8a8",
                                **settings)
        for result in record["results"]:
            for cell in result["variants"].values():
                self.assertTrue(cell["verified"]["ok"], (result["config"], settings))
        self.assertEqual(len(record["results"]), len(configs))
        return record

    def test_sides_and_channels(self) -> None:
        sides = (1, 3, 7, 14, 28, 31, 32, 33, 56, 64, 65, 112)
        shapes = list(itertools.product((1, 3, 64, 256), sides, (1, 3)))
        small = [shape for shape in shapes if shape[0] * shape[1] <= 64 * 14]
        if support.reduced(len(shapes), len(small), "shapes of surfaces") == len(small):
            shapes = small

        def check(scene: support.Scene, row: int) -> None:
            for start in range(0, len(shapes), 24):
                names = [Config(channels, side, 2, kernel).name
                         for channels, side, kernel in shapes[start:start + 24]]
                record = self.verified(scene, names, ROW=row)
                for result in record["results"]:
                    side = int(result["config"].split("x")[1])
                    strides = result["variants"]["fp16"]["strides"]
                    self.assertEqual(strides["row"], -(-2 * side // row) * row)
        self.each((64, 128), check)

    def test_whatever_the_model_tells(self) -> None:
        def check(scene: support.Scene, attributes: str) -> None:
            record = self.verified(scene, ["64x7x2"], ATTRIBUTES=attributes)
            warnings = [warning["message"] for warning in record["warnings"]
                        if warning["code"] == "strides"]
            words = ATTRIBUTES[attributes]
            self.assertEqual(len(warnings), 3 * bool(words), warnings)
            for warning in warnings:
                self.assertRegex(warning, rf" 64x7x2: the model describes its .*\b{words}\b.*, "
                                          "which is not this program's; rows of a multiple of 64")
        self.each(ATTRIBUTES, check)

    def test_rows_that_only_the_model_knows(self) -> None:
        for attributes in ("inner", "outer"):
            self.verified(self.scene, ["64x7x2", "3x33x2k3"], ROW=128, ATTRIBUTES=attributes)
        record = self.run_record("--config", "64x7x2", *SMALL[2:], code=1, ROW=128,
                                 ATTRIBUTES="none")
        for cell in cells(record):  # the rule is wrong there
            self.assertEqual((cell["status"], cell["stage"]), ("failed", "verify"))

    def test_the_original_is_packed_and_says_where_that_is_not_enough(self) -> None:
        for cell in cells(self.run_record("--original", "--config", "64x32x2", COMPUTE="none")):
            self.assertEqual(cell["strides"], {"row": 64, "plane": 2048, "batch": 131072})
        for cell in cells(self.run_record("--original", "--config", "64x7x2", code=1)):
            self.assertEqual((cell["stage"], cell["error"]), ("surface", (
                "the original's surface holds 6272 bytes, and the engine reads 28672, since rows "
                "take a multiple of 64 bytes; choose a side that is a multiple of 32, or measure "
                "without --original")))


class OptionalTest(EngineCase):
    def test_sent_only_if_they_are_there_with_the_expected_types(self) -> None:
        runtime, send = self.engine.runtime, self.engine.send_optional
        device = runtime.find_class("_ANEDeviceInfo")
        self.assertTrue(send(device, "hasANE"))
        for receiver in (None, Pointer()):
            self.assertIsNone(send(receiver, "hasANE"))
        self.assertIsNone(send(runtime.string("a"), "objectForKey:", None))
        for encoding in ("@16@0:8", "B20@0:8i16", "", "{a=i}16@0:8"):
            with self.subTest(encoding), \
                    unittest.mock.patch.object(runtime, "encoding_in", return_value=encoding):
                self.assertIsNone(send(device, "hasANE"))

    def test_collections_of_the_wrong_class_count_as_absent(self) -> None:
        engine, runtime = self.engine, self.engine.runtime
        text, number = runtime.string("text"), runtime.number(5)
        mapping = runtime.dictionary([(runtime.string("n"), number)])
        self.assertTrue(engine.value_in(mapping, "n", "NSNumber"))
        for given in ((mapping, "n", "NSString"), (mapping, "m", "NSNumber"),
                      (text, "n", "NSNumber"), (None, "n", "NSNumber"),
                      (mapping, "n", "NoSuchClass")):
            self.assertFalse(engine.value_in(*given))
        for array in (text, None, runtime.array()):
            self.assertFalse(engine.first_in(array))
        self.assertEqual(runtime.text(engine.first_in(runtime.array(text))), "text")

    def test_kinds_of_every_method_match_their_own_spelling_and_no_other(self) -> None:
        for method in ane_bench.METHODS:
            own = "".join(f"{code}8" for code in method.kinds[0] + "@:" + method.kinds[1:])
            with self.subTest(method.name):
                self.assertTrue(method.matches(own))
                self.assertTrue(method.matches(own.replace("B", "c")))
                self.assertFalse(method.matches(own + "i40"))
                self.assertFalse(method.matches("f" + own[1:]))

    def test_the_mac_is_kept_awake_until_the_owner_closes(self) -> None:
        begin = "beginActivityWithOptions:reason:"
        program = (
            "import ane_bench, contextlib, os\n"
            "libraries = ane_bench.Libraries(os.environ['ANE_BENCH_STANDIN'])\n"
            "engine = ane_bench.NeuralEngine(libraries)\n"
            "with engine.pool(), contextlib.ExitStack() as owner:\n    engine.keep_awake(owner)\n")
        for settings, begun in (({}, True), ({"MISSING": begin}, False),
                                ({"MISSING": "NSProcessInfo"}, False),
                                ({"ENCODING": f"{begin}=@32@0:8i16@24"}, False)):
            self.log.write_text("")
            subprocess.run([*support.own_python(), "-c", program], cwd=support.ROOT, check=True,
                           env={**os.environ, **self.environment(**settings)})
            with self.subTest(settings):
                activities = [call for call in self.calls() if "Activity" in call.split()[0]]
                self.assertEqual(activities, begun * [
                    "beginActivity 0xff00ffffff measuring the Neural Engine",
                    "endActivity StandInObject"])
                objects = [call.split()[0] for call in self.calls() if "lloc" in call]
                self.assertEqual(objects, begun * ["alloc", "dealloc"])


class ErrorTest(EngineCase):
    def error(self, code: int, text: str, under: Optional[Pointer] = None) -> Pointer:
        runtime = self.engine.runtime
        key = runtime.libraries.constant("Foundation", "NSLocalizedDescriptionKey")
        info = [(key, runtime.string(text))]
        if under:
            info.append((runtime.string("NSUnderlyingError"), under))
        return runtime.create("NSError", "errorWithDomain:code:userInfo:",
                              runtime.string("some.domain"), code, runtime.dictionary(info))

    def test_chains(self) -> None:
        describe = self.engine.describe_error
        self.assertEqual(describe(Pointer()), "no NSError was given")
        self.assertEqual(describe(self.error(-7, "it\nbröke")), "some.domain -7: it bröke")
        error = self.error(1, "failed", self.error(22, "err=(InvalidMILProgram)"))
        self.assertEqual(describe(error), "some.domain 1: failed, caused by some.domain 22: "
                                          "err=(InvalidMILProgram)")
        deep = None
        for code in range(6, 0, -1):
            deep = self.error(code, f"e{code}", deep)
        assert deep
        self.assertEqual(describe(deep), ", caused by ".join(
            f"some.domain {code}: e{code}" for code in range(1, 5)))

    def test_what_lies_under_an_error_need_not_be_one(self) -> None:
        runtime = self.engine.runtime
        for other in (runtime.string("text"), runtime.number(3), runtime.array()):
            error = self.error(1, "failed", other)
            self.assertEqual(self.engine.describe_error(error), "some.domain 1: failed")
        bare = runtime.create("NSError", "errorWithDomain:code:userInfo:", runtime.string("bare"),
                              5, None)
        self.assertTrue(self.engine.describe_error(bare).startswith("bare 5: "))

    def test_without_optional_methods(self) -> None:
        error = self.error(1, "failed", self.error(2, "reason"))
        for missing in ("userInfo", "objectForKey:"):
            other = {missing: ane_bench._OPTIONAL[missing]._replace(kinds="v")}
            with unittest.mock.patch.dict(ane_bench._OPTIONAL, other):
                self.assertEqual(self.engine.describe_error(error), "some.domain 1: failed")

    def test_advice(self) -> None:
        for text, advice in (
                ("x 1: err=(InvalidMILProgram)", "try another --form"),
                ("err=(CompilationFailure)", "try a smaller program or another --seed"),
                ("Program load failure (0x20004)", "try fewer channels or layers"),
                ("load failure (0x50004)", "close other programs that use the Neural Engine"),
                ("54: no ANE resources", "close other programs that use the Neural Engine"),
                ("Failed with status=0x1d : statusType=0x9",
                 "a surface is smaller than the engine's layout: send the output of doctor"),
                ("InvalidMILProgram; InvalidMILProgram", "try another --form"),
                ("CompilationFailure, InvalidMILProgram",
                 "try another --form, or try a smaller program or another --seed"),
                ("0x200041", ""), ("NotInvalidMILProgram", ""), ("", "")):
            self.assertEqual(ane_bench.advice_for(text), advice, text)

    def test_of_a_run(self) -> None:
        program, form = "InvalidMILProgram", "; try another --form"
        for stage, reason, chain, advice in (
                ("compile", program, "1", form), ("compile", program, "3", form),
                ("compile", program, "loop", form), ("compile", program, "pair", form),
                ("compile", "CompilationFailure", "1", "; try a smaller program or another --seed"),
                ("load", "0x20004", "1", "; try fewer channels or layers"),
                ("compile", "InvalidCompilationParam", "1", ""), ("compile", program, "nil", None),
                ("compile", program, "text", None), ("compile", program, "5", None)):
            record = self.run_record(*SMALL, "--form", "standard/1.3", code=1, CHAIN=chain,
                                     FAULT=f"w8a8/{stage}:no", REASON=f"w8a8/{stage}:{reason}")
            cell = record["results"][0]["variants"]["w8a8"]
            with self.subTest(reason, chain=chain):
                self.assertEqual(cell["stage"], stage)
                if advice is None:
                    self.assertNotIn(reason, cell["error"])
                else:
                    self.assertRegex(cell["error"], rf"com\.apple\S* [0-9]+: [^;]*, caused by \S+ "
                                                    rf"[0-9]+: [^;]*{reason}\b[^;]*{advice}$")


class DirectoryTest(EngineCase):
    """Where a program is written, and what is removed. Broken code must not be able to harm the
    machine: what is refused lies below the test's own directory, which is the working directory
    too, or is only asked about."""

    def setUp(self) -> None:
        super().setUp()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, support.ROOT)
        self.home = self.directory / "home"
        (self.home / "weights").mkdir(parents=True)
        for name in ("model.mil", "weight.bin", "weights/weight.bin", "letter"):
            (self.home / name).write_text("the user's own")

    def test_paths_of_model_directories(self) -> None:
        temporary, name = str(self.temporary), "0f_1-A"
        (self.temporary / "link").symlink_to(self.home)
        (self.directory / "other").symlink_to(self.temporary)
        for path, below in (
                (f"{temporary}/{name}", temporary), (f"{temporary}/{name}", f"{temporary}/"),
                (f"{temporary}//{name}", temporary), (f"{self.directory}/other/{name}", temporary),
                (f"{temporary}/{name}", f"{self.directory}/other")):
            with self.subTest(path):
                self.assertTrue(ane_bench.is_model_directory(path, below))
        outside = ["/", "", ".", name, f"./{name}", f"tmp/{name}", temporary, f"/{name}",
                   str(self.home), str(self.home / name)]
        wrong = [f"{name}/", "link", "..", f"home/../{name}", "not a name", "model.mil", "a" * 256,
                 f"link/{name}", "ü", f"{name}\n", "", f"other/{name}", f"other/../{name}",
                 f"{name}/..", f"{name}/{name}", f"missing/{name}", f"../tmp/{name}"]
        for path, below in (
                *((path, temporary) for path in outside),
                *((f"{temporary}/{place}", temporary) for place in wrong),
                (f"tmp/{name}", "tmp"), (f"{temporary}/{name}", ""),
                (f"{self.directory}/{name}", "")):
            with self.subTest(path):
                self.assertFalse(ane_bench.is_model_directory(path, below))

    def test_foundations_directory(self) -> None:
        own = str(self.temporary)
        answers: tuple[tuple[str, str, Any, str, str], ...] = (
            ("linux", "", ["/var"], own, own), ("linux", "", ["/var"], "", "/tmp"),
            ("darwin", "", ["/var/x/T/"], own, "/var/x/T/"), ("darwin", "", [None], own, "/tmp"),
            ("darwin", "", ValueError, own, own), ("darwin", "/some/library", ["/var"], own, own))
        for platform, standin, answer, variable, expected in answers:
            with support.environment(ANE_BENCH_STANDIN=standin, TMPDIR=variable), \
                    unittest.mock.patch.object(sys, "platform", platform), \
                    unittest.mock.patch.object(os, "confstr", side_effect=answer) as asked:
                self.assertEqual(ane_bench.foundation_directory(), expected)
            self.assertIn(asked.mock_calls, ([], [unittest.mock.call(65537)]))

    def test_a_wrong_place_is_refused_before_a_byte_is_written(self) -> None:
        name, home = self.identifier(), self.home
        (home / name).mkdir()
        (self.temporary / "other").mkdir()
        (self.temporary / "other" / "model.mil").write_text("another's")
        (self.temporary / "link").symlink_to(home)
        for place in (str(home), str(home / name), ".", f"tmp/{name}", str(self.temporary),
                      *(f"{self.temporary}/{place}" for place in (
                          "", "other", f"link/{name}", f"{name}/..", f"{name}x", name[:-1]))):
            with self.subTest(place):
                self.refused(place)
        (self.temporary / name).symlink_to(home)
        self.refused(f"{self.temporary}/{name}")

    def refused(self, place: str, words: str = "expected ") -> None:
        """Load with that localModelPath, which must be refused and change nothing."""
        real = self.engine.send_optional

        def send_optional(receiver: Optional[Pointer], selector: str, *arguments: Any) -> Any:
            if selector == "localModelPath":
                return self.engine.runtime.string(place)
            return real(receiver, selector, *arguments)

        before, events = self.files(), Recorder()
        with unittest.mock.patch.object(self.engine, "send_optional", send_optional), \
                self.assertRaisesRegex(StageError, words) as caught, self.loaded(events):
            pass
        self.assertEqual(caught.exception.stage, "files")
        self.assertEqual(events.directories, [])
        self.assertEqual(self.files(), before)

    def test_leftovers_are_removed_first_and_all_that_was_made_in_the_end(self) -> None:
        directory = self.temporary / self.identifier()
        (directory / "weights").mkdir(parents=True)
        for name in ("model.mil", "weights/weight.bin", "net.plist", "data"):
            (directory / name).write_text("left by a killed run")

        def look(path: str) -> None:
            names = sorted(str(found.relative_to(path)) for found in Path(path).rglob("*"))
            self.assertEqual(names, ["model.mil", "weights", "weights/weight.bin"])
            self.assertEqual((directory / "model.mil").read_text(), self.program.mil)
            (directory / "net.plist").write_text("the framework's")

        with self.assertRaises(StageError), self.loaded(Recorder(look)):
            pass
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_anything_else_there_fails_the_stage_and_is_named(self) -> None:
        directory = self.temporary / self.identifier()
        for name in ("notes", "weights/others", "data", "weights"):
            place = directory / name
            place.parent.mkdir(parents=True)
            if name in ("data", "weights"):
                place.symlink_to(self.home)
            else:
                place.write_text("mine")
            with self.subTest(name):
                self.refused(str(directory), f"holds {name}, which is not of a program")
            place.unlink()
            place.parent.rmdir()
            if directory.exists():
                directory.rmdir()

    def test_the_parent_removes_by_the_same_rule(self) -> None:
        self.run_record(*SMALL, code=1, FAULT="fp16/compile:crash")  # has seen: nothing is left
        directory = self.temporary / self.identifier()
        directory.mkdir()
        (directory / "notes").write_text("the user's own")
        support.run_command(*SMALL, "--variants", "fp16", module=self.module,
                            environment=self.environment(FAULT="fp16/compile:crash"))
        self.assertEqual([path.name for path in directory.iterdir()], ["notes"])

    def test_of_a_run(self) -> None:
        before = self.files()
        for path in (self.home, f"{self.home}/%", "."):
            for cell in cells(self.run_record(*SMALL, code=1, MODEL_PATH=path)):
                self.assertEqual(cell["stage"], "files")
            self.log.unlink()
            self.assertEqual(self.files(), before)
        self.run_record(*SMALL, MODEL_PATH=f"{self.temporary}/%")  # nothing is left

    def test_other_paths_are_left_alone(self) -> None:
        (self.temporary / "model.mil").mkdir()
        (self.temporary / "link").symlink_to(self.home)
        before, temporary = self.files(), str(self.temporary)
        for path in (str(self.home), "home", ".", temporary, f"{temporary}/link",
                     f"{temporary}/model.mil", f"{temporary}/x/../../home",
                     f"{temporary}\0/home", f"{temporary}\ud800/home", f"{temporary}/\0"):
            with self.subTest(path):
                ane_bench.remove_model_directory(path, temporary)
                self.assertEqual(self.files(), before)

    def test_a_program_that_cannot_be_written_is_removed_at_once(self) -> None:
        def hinder(path: str) -> None:
            os.mkdir(path)
            (Path(path) / "weights").write_text("in the way")

        with contextlib.ExitStack() as owner, \
                unittest.mock.patch.object(Recorder, "directory", side_effect=hinder):
            with self.assertRaisesRegex(StageError, "weights.*: (Not a directory|File exists)"):
                self.engine.load(self.program, 21, Recorder(), owner)
            self.assertEqual(list(self.temporary.iterdir()), [])


class RunTest(support.StandinCase):
    def test_compile_and_load_are_at_21_and_what_is_locked_is_unlocked(self) -> None:
        record = self.run_record(*SMALL, "--qos", "9")
        self.assertEqual(record["command"],
                         [self.module.name, *SMALL, "--qos", "9", "--format", "json"])
        calls = {line.split(" -> ")[0] for line in self.calls() if " qos=" in line}
        self.assertEqual(calls, {
            f"{stage} {variant} qos={qos}" for variant in ("fp16", "w8a8")
            for stage, qos in (("compile", 21), ("load", 21), ("evaluate", 9))})
        locks = [line for line in self.calls() if line.startswith(("lock ", "unlock "))]
        self.assertEqual([f"un{line}" for line in locks[::2]], locks[1::2])
        self.assertEqual(set(locks[::2]), {"lock 0", "lock 1"})

    def test_every_call_of_the_original_and_every_object_released(self) -> None:
        finished = self.run_standin("--original", "--quiet", COMPUTE="none")
        self.assertEqual(finished.code, 0, finished.errors)
        expected = []
        for config in ane_bench.DEFAULTS["ane"]:
            surface = f"IOSurfaceCreate {config.tensor_bytes}"
            for variant in ("fp16", "w8a8"):
                expected += [
                    f"descriptor {variant}", f"model {variant}", "identifier", "localModelPath",
                    f"compile {variant} qos=0", f"load {variant} qos=0", surface, surface,
                    "surfaceobject", "surfaceobject", "request",
                    *[f"evaluate {variant} qos=0 -> YES"] * 60, f"unload {variant}"]
        others = ("alloc ", "dealloc ", "beginActivity ", "endActivity ")
        calls = [line for line in self.calls() if not line.startswith(others)]
        self.assertEqual(calls, expected)
        made, gone = (sorted(line.split(" ", 1)[1] for line in self.calls()
                             if line.startswith(word)) for word in ("alloc ", "dealloc "))
        self.assertEqual(made, gone)
        self.assertGreaterEqual(len(made), 70)

    def test_equal_bit_by_bit_in_every_form_and_arithmetic(self) -> None:
        arithmetics = itertools.product(("fp16", "fp32"), ("even", "away"))
        for form, (store, rounding) in zip(ane_bench.FORMS, arithmetics):
            record = self.run_record("--config", "64x8x6", "--config", "12x4x3", *SMALL[2:],
                                     "--variants", "fp16,w8a16,w8a8", "--form", form, STORE=store,
                                     ROUNDING=rounding, ARITHMETIC="exact")
            larger, smaller = (result["variants"] for result in record["results"])
            for variant, cell in larger.items():
                verified = cell["verified"]
                self.assertEqual((cell["status"], cell["form"]), ("ok", form))
                self.assertTrue(verified["ok"] and smaller[variant]["verified"]["ok"], variant)
                self.assertEqual(verified["equal"], 1, variant)
                self.assertIn(f", {store} stores", verified["arithmetic"])
                # Sums in fp32 hardly ever end on a half.
                if store == "fp16" or variant == "w8a8":
                    words = {"even": "halves to even", "away": "halves away"}[rounding]
                    self.assertIn(words, verified["arithmetic"])

    def test_int8_is_exact_on_an_m4_however_wide(self) -> None:
        """Its products are rounded to multiples of 2**-16: the input's steps follow the weights."""
        record = self.run_record("--config", "520,768,2048x2x2", "--variants", "w8a8", *SMALL[2:])
        self.assertEqual([result["variants"]["w8a8"]["verified"]["equal"]
                          for result in record["results"]], [1, 1, 1])
        self.assertNotIn("unknown-rounding", [given["code"] for given in record["warnings"]])

    def test_wrong_outputs_are_failed_cells(self) -> None:
        for output, words in (
                ("nan", "NaN"), ("inf", "infinit"), ("zeros", "zeros"), ("constant", "everywhere"),
                ("noop", "not write"), ("aliased", "wrong layer"), ("swapped", "wrong layer"),
                ("scale:1.1", "wrong scale"), ("drop:3", "left out")):
            with self.subTest(output):
                for cell in cells(self.run_record("--config", "64x8x8", *SMALL[2:], code=1,
                                                  OUTPUT=output)):
                    self.assertEqual((cell["status"], cell["stage"]), ("failed", "verify"))
                    self.assertFalse(cell["verified"]["ok"])
                    self.assertIn(words, cell["error"])
                    self.assertIn("value", cell["ms"])

    @support.long_test
    def test_a_refusal_that_cannot_be_undone_costs_nothing_else(self) -> None:
        def check(scene: support.Scene, fault: tuple[str, str]) -> None:
            record = self.record_in(scene, *SMALL, "--config", "32x8x2", "--timeout", "1", code=1,
                                    FAULT=fault[1])
            for result in record["results"]:
                right, wrong = result["variants"].values()
                self.assertEqual((right["status"], wrong["status"]), ("ok", "failed"))
                self.assertEqual(wrong["stage"], fault[0])

        faults = (("load", "w8a8/load:no;w8a8/purge:{}"),
                  ("surface", "surface:nil@4;w8a8/unload:{}"))
        self.each([(stage, fault.format(end)) for stage, fault in faults
                   for end in ("crash", "hang", "raise")], check)

    def test_ratio_under_drift_and_spikes(self) -> None:
        for drift, truth in itertools.product(("0.05", "0.3"), (2, 1)):
            settings: dict[str, Any] = {"COMPUTE": "none", "DRIFT": drift, "SPIKE": "17x10",
                                        "LATENCY": f"fp16:{1000 * truth},w8a8:1000"}
            with self.subTest(drift, truth=truth):
                record = self.run_record(*SMALL, "--verify", "0", **settings)
                ratio = record["results"][0]["ratio"]["w8a8"]
                low, high = ratio["ci95"]
                self.assertAlmostEqual(ratio["value"], truth, delta=truth * 0.01)
                self.assertTrue(low * 0.99 <= truth <= high * 1.01, ratio)
                record = self.run_record("--original", "--config", "512x64x2", **settings)
                one_by_one = record["results"][0]["ratio"]["w8a8"]["value"]
                self.assertGreater(abs(one_by_one / truth - 1), abs(ratio["value"] / truth - 1))
