"""Section 7 over the stand-in, in this process and through the command line: calls, errors, files, failures."""

import collections
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
import unittest
import unittest.mock
from pathlib import Path
from typing import Any, Callable, Optional

import ane_bench
from ane_bench import Config, Libraries, NeuralEngine, Pointer, StageError, Unavailable
from tests import support
from tests.support import SMALL

CONFIG = Config(64, 8, 2)  # that of SMALL


class Recorder:
    """Events that are remembered; one stage may raise, as if the engine refused the program there."""

    current = ""

    def __init__(self, refused: str = "", act: Callable[[str], None] = lambda path: None) -> None:
        self.stages: list[str] = []
        self.loads: list[float] = []  # when
        self.directories: list[str] = []
        self.warnings: list[str] = []
        self.refused_stage, self.act = refused, act

    def stage(self, name: str, variant: str, limit: float = 0) -> None:
        self.stages.append(name)
        if name == "load":
            self.loads.append(time.monotonic())
        if name == self.refused_stage:
            self.act(self.directories[-1])
            raise StageError(name, "refused by the test")

    def directory(self, path: str) -> None:
        self.stages.append("existed" if os.path.lexists(path) else "announced")
        self.directories.append(path)

    def warn(self, code: str, message: str) -> None:
        self.warnings.append(f"{code}: {message}")

    def rest(self, variant: str) -> None:
        pass

    def refused(self) -> None:
        pass

    def round(self, variants: str, limit: float, number: int, of: int) -> None:
        pass

    def turn(self, variant: str) -> None:
        pass


class EngineCase(support.StandinCase):
    """Tests of an engine in this process: the stand-in without settings."""

    def setUp(self) -> None:
        super().setUp()
        self.libraries = Libraries(str(support.standin_library()))
        patch = unittest.mock.patch.dict(os.environ, {"TMPDIR": str(self.temporary)})
        patch.start()
        self.addCleanup(patch.stop)
        self.program = ane_bench.build_program(CONFIG, "fp16")

    def load(self, engine: Optional[NeuralEngine] = None, events: Optional[Recorder] = None) -> ane_bench.Executable:
        """Return the program, loaded until the test ends."""
        engine = engine or NeuralEngine(self.libraries)
        pools, owner = contextlib.ExitStack(), contextlib.ExitStack()
        pools.enter_context(engine.pool())
        self.addCleanup(pools.close)
        self.addCleanup(owner.close)
        return engine.load(self.program, 21, events or Recorder(), owner)

    def identifier(self) -> str:
        """Return the name of the program's directory."""
        events = Recorder()
        with contextlib.ExitStack() as owner:
            NeuralEngine(self.libraries).load(self.program, 21, events, owner)
        return os.path.basename(events.directories[0])

    def files(self) -> dict[str, Optional[bytes]]:
        """Return all below the test's own directory: content of files, target of links, None of directories."""
        found: dict[str, Optional[bytes]] = {}
        for path in sorted(self.directory.rglob("*")):
            content = os.readlink(path).encode() if path.is_symlink() else None if path.is_dir() else path.read_bytes()
            found[str(path)] = content
        return found


class LoadedTest(EngineCase):
    """A loaded program: its stages, its input and output, its end."""

    def test_stages_in_order_and_undone_in_reverse(self) -> None:
        engine, events = NeuralEngine(self.libraries), Recorder()
        with contextlib.ExitStack() as owner:
            executable = engine.load(self.program, 21, events, owner)
            self.assertEqual(events.stages, ["descriptor", "model", "identifier", "files", "announced", "compile",
                                             "load", "surface", "surface", "request"])
            self.assertEqual({name: type(value) for name, value in executable.facts.items()},
                             {"compiled_before": bool, "compile_ms": float, "load_ms": float})
            self.assertEqual(list(map(str, self.temporary.iterdir())), events.directories)
        self.assertEqual(events.stages[10:], ["unload", "purge"])
        buffers = [self.program.mil.encode(), self.program.blob]
        self.assertEqual(engine.pinned_buffers, buffers, "a model may read them until the process exits")
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_only_the_pixels_that_were_named_are_poisoned(self) -> None:
        events = Recorder()
        executable = self.load(events=events)
        before = list(events.stages)
        executable.poison([3, 60])
        for pixel, channels in enumerate(executable.read_pixels(range(CONFIG.pixels))):
            self.assertEqual(len(channels), CONFIG.channels)
            self.assertEqual({math.isnan(value) for value in channels}, {pixel in (3, 60)}, pixel)
        self.assertEqual(events.stages, before, "poisoning and reading are not stages of their own")

    def test_what_an_evaluate_writes_is_read(self) -> None:
        executable = self.load()
        with contextlib.ExitStack() as owner:
            reference = ane_bench.ReferenceEngine().load(self.program, 21, Recorder(), owner)
            for loaded in (executable, reference):
                loaded.write_input(ane_bench.random_input(CONFIG, 0))
                loaded.poison(range(CONFIG.pixels))
                self.assertTrue(loaded.evaluate())
            pixels = [63, 0, 5]
            for own, expected in zip(executable.read_pixels(pixels), reference.read_pixels(pixels)):
                self.assertGreater(max(expected), 0.5)
                for value, other in zip(own, expected):
                    self.assertAlmostEqual(value, other, delta=0.02)

    def test_an_input_of_another_size_is_refused(self) -> None:
        executable = self.load()
        for size in (0, CONFIG.tensor_bytes - 2, CONFIG.tensor_bytes + 2):
            with self.subTest(size), self.assertRaises(ValueError):
                executable.write_input(bytes(size))

    def test_surfaces_that_cannot_be_locked(self) -> None:
        engine = NeuralEngine(self.libraries)
        executable = self.load(engine)
        acts: dict[Callable[[], Any], str] = {
            lambda: executable.write_input(bytes(CONFIG.tensor_bytes)): "surface",
            lambda: executable.poison([0]): "surface", lambda: executable.read_pixels([0]): "read"}
        for name, answer, words in (("_lock", -0x1ffffd3b, "IOSurfaceLock returned 0xe00002c5"),
                                    ("_base_address", None, "IOSurfaceGetBaseAddress returned NULL")):
            with unittest.mock.patch.object(engine, name, return_value=answer):
                for act, stage in acts.items():
                    with self.subTest(stage, name=name), self.assertRaisesRegex(StageError, words) as caught:
                        act()
                    self.assertEqual(caught.exception.stage, stage)

    def test_a_failed_load_is_tried_once_more_after_a_pause(self) -> None:
        for failures, loads in ((0, 1), (1, 2), (2, 2)):
            with self.subTest(failures), contextlib.ExitStack() as owner:
                engine, events = self.refusing_engine(failures), Recorder()
                if failures < 2:
                    engine.load(self.program, 21, events, owner)
                else:
                    with self.assertRaisesRegex(StageError, "no NSError was given") as caught:
                        engine.load(self.program, 21, events, owner)
                    self.assertEqual(caught.exception.stage, "load")
                self.assertEqual(len(events.loads), loads)
                self.assertGreaterEqual(events.loads[-1] - events.loads[0], 0.1 * (loads - 1))

    def refusing_engine(self, failures: int) -> NeuralEngine:
        """Return an engine that answers NO to its first loads."""
        engine = NeuralEngine(self.libraries)
        send, answers = engine.runtime.send, [False] * failures

        def refuse(receiver: Pointer, selector: str, *arguments: Any) -> Any:
            return answers.pop() if answers and selector.startswith("load") else send(receiver, selector, *arguments)

        patch = unittest.mock.patch.object(engine.runtime, "send", refuse)
        patch.start()
        self.addCleanup(patch.stop)
        return engine

    def test_a_clock_without_a_unit_is_unavailable(self) -> None:
        class Broken(Libraries):
            """A system whose mach_timebase_info gives what the test says."""

            status, fraction = 0, (0, 0)

            def function(self, library: str, symbol: str, result: Any, *arguments: Any) -> Callable[..., Any]:
                def timebase(target: Any) -> int:
                    target[:] = self.fraction
                    return self.status
                if symbol == "mach_timebase_info":
                    return timebase
                return super().function(library, symbol, result, *arguments)

        libraries = Broken(str(support.standin_library()))
        for status, fraction in ((0, (125, 0)), (0, (0, 3)), (0, (0, 0)), (5, (125, 3))):
            libraries.status, libraries.fraction = status, fraction
            with self.subTest(status, fraction=fraction), self.assertRaisesRegex(Unavailable, "mach_timebase_info"):
                NeuralEngine(libraries)
        libraries.status, libraries.fraction = 0, (1, 1)
        self.assertEqual(NeuralEngine(libraries).tick_ns, 1)
        self.assertAlmostEqual(NeuralEngine(self.libraries).tick_ns, 125 / 3)


class OptionalTest(EngineCase):
    """Methods that a run can do without."""

    def test_sent_only_if_they_are_there_with_the_expected_types(self) -> None:
        engine = NeuralEngine(self.libraries)
        device = engine.runtime.find_class("_ANEDeviceInfo")
        with engine.pool():
            self.assertTrue(engine.send_optional(device, "_ANEDeviceInfo", "hasANE"))
            self.assertIsNone(engine.send_optional(None, "_ANEDeviceInfo", "hasANE"))
            self.assertIsNone(engine.send_optional(Pointer(), "_ANEDeviceInfo", "hasANE"))
            self.assertIsNone(engine.send_optional(engine.runtime.string("a"), "NSDictionary", "objectForKey:", None))
            for encoding in ("@16@0:8", "B20@0:8i16", "", "{a=i}16@0:8"):
                patch = unittest.mock.patch.object(engine.runtime, "method_encoding", return_value=encoding)
                with self.subTest(encoding), patch:
                    self.assertIsNone(engine.send_optional(device, "_ANEDeviceInfo", "hasANE"))

    def test_kinds_of_every_method_match_their_own_spelling_and_no_other(self) -> None:
        for method in ane_bench.METHODS:
            own = "".join(f"{code}8" for code in method.kinds[0] + "@:" + method.kinds[1:])
            with self.subTest(method.name):
                self.assertTrue(method.matches(own))
                self.assertTrue(method.matches(own.replace("B", "c")))
                self.assertFalse(method.matches(own + "i40"))
                self.assertFalse(method.matches("f" + own[1:]))

    def test_both_names_of_the_engine(self) -> None:
        engine = NeuralEngine(self.libraries)
        device = engine.runtime.find_class("_ANEDeviceInfo")
        with engine.pool():
            for selector in ("aneSubType", "aneArchitectureType"):
                self.assertEqual(engine.runtime.text(engine.send_optional(device, "_ANEDeviceInfo", selector)), "h16g")

    def test_the_mac_is_kept_awake_until_the_owner_closes(self) -> None:
        begin = "beginActivityWithOptions:reason:"
        for settings, begun in (({}, True), ({"MISSING": begin}, False), ({"MISSING": "NSProcessInfo"}, False),
                                ({"ENCODING": f"{begin}=@32@0:8i16@24"}, False)):
            with self.subTest(settings):
                calls = self.calls_while_awake(**settings)
                self.assertEqual([call for call in calls if call.split()[0].endswith("Activity")], begun * [
                    "beginActivity 0xff00ffffff measuring the Neural Engine", "endActivity StandInActivity"])
                self.assertEqual([call.split()[0] for call in calls if "lloc" in call], ["alloc", "dealloc"] * begun)

    def calls_while_awake(self, **settings: str) -> list[str]:
        """Return the stand-in's log of a process that keeps the Mac awake, and ends that."""
        program = ("import ane_bench, contextlib, os\n"
                   "engine = ane_bench.NeuralEngine(ane_bench.Libraries(os.environ['ANE_BENCH_STANDIN']))\n"
                   "with engine.pool(), contextlib.ExitStack() as owner:\n    engine.keep_awake(owner)\n")
        self.log.write_text("")
        subprocess.run([*support.own_python(), "-c", program], cwd=support.ROOT, check=True,
                       env={**os.environ, **self.environment(**settings)})
        return self.calls()


class ErrorTest(EngineCase):
    """What NSErrors say, and what helps."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = NeuralEngine(self.libraries)
        pools = contextlib.ExitStack()
        pools.enter_context(self.engine.pool())
        self.addCleanup(pools.close)

    def error(self, code: int, text: str, under: Optional[Pointer] = None) -> Pointer:
        """Return an NSError."""
        runtime = self.engine.runtime
        info = [(runtime.libraries.constant("Foundation", "NSLocalizedDescriptionKey"), runtime.string(text))]
        if under:
            info.append((runtime.string("NSUnderlyingError"), under))
        return runtime.create("NSError", "errorWithDomain:code:userInfo:", runtime.string("some.domain"), code,
                              runtime.dictionary(info))

    def test_one_error(self) -> None:
        self.assertEqual(self.engine.describe_error(Pointer()), "no NSError was given")
        self.assertEqual(self.engine.describe_error(self.error(-7, "it\nbröke")), "some.domain -7: it bröke")

    def test_errors_under_errors(self) -> None:
        error = self.error(1, "failed", self.error(22, "err=(InvalidMILProgram)"))
        self.assertEqual(self.engine.describe_error(error),
                         "some.domain 1: failed, caused by some.domain 22: err=(InvalidMILProgram)")

    def test_four_levels(self) -> None:
        error = None
        for code in range(6, 0, -1):
            error = self.error(code, f"e{code}", error)
        assert error
        self.assertEqual(self.engine.describe_error(error),
                         ", caused by ".join(f"some.domain {code}: e{code}" for code in range(1, 5)))

    def test_what_lies_under_an_error_need_not_be_one(self) -> None:
        runtime = self.engine.runtime
        for other in (runtime.string("text"), runtime.number(3), runtime.array()):
            self.assertEqual(self.engine.describe_error(self.error(1, "failed", other)), "some.domain 1: failed")
        bare = runtime.create("NSError", "errorWithDomain:code:userInfo:", runtime.string("bare"), 5, None)
        self.assertTrue(self.engine.describe_error(bare).startswith("bare 5: "))

    def test_without_optional_methods(self) -> None:
        error = self.error(1, "failed", self.error(2, "reason"))
        send = self.engine.send_optional
        for missing in ("userInfo", "objectForKey:"):
            def send_all_but_one(receiver: Optional[Pointer], class_name: str, selector: str, *arguments: Any,
                                 missing: str = missing) -> Any:
                return None if selector == missing else send(receiver, class_name, selector, *arguments)

            with unittest.mock.patch.object(self.engine, "send_optional", send_all_but_one):
                self.assertEqual(self.engine.describe_error(error), "some.domain 1: failed")

    def test_advice(self) -> None:
        for text, advice in (("x 1: err=(InvalidMILProgram)", "try another --dialect"),
                             ("err=(CompilationFailure)", "try a smaller program or another --seed"),
                             ("Program load failure (0x20004)", "try fewer channels or layers"),
                             ("Program load failure (0x50004)", "close other programs that use the Neural Engine"),
                             ("InvalidMILProgram; InvalidMILProgram", "try another --dialect"),
                             ("0x200041", ""), ("NotInvalidMILProgram", ""), ("", "")):
            self.assertEqual(ane_bench.advice_for(text), advice, text)
        self.assertEqual(ane_bench.advice_for("CompilationFailure, InvalidMILProgram"),
                         "try another --dialect, or try a smaller program or another --seed")

    def test_of_a_run(self) -> None:
        for stage, reason, advice in (("compile", "InvalidMILProgram", "; try another --dialect"),
                                      ("compile", "CompilationFailure", "; try a smaller program or another --seed"),
                                      ("load", "0x20004", "; try fewer channels or layers"),
                                      ("load", "0x50004", "; close other programs that use the Neural Engine"),
                                      ("compile", "InvalidCompilationParam", "")):
            for chain in ("1", "3") if reason == "InvalidMILProgram" else ("1",):
                with self.subTest(reason, chain=chain):
                    error = self.refusal(stage, reason, chain)
                    self.assertRegex(error, rf"com\.apple\S* [0-9]+: .*, caused by \S+ [0-9]+: .*{reason}\b.*{advice}$")
                    self.assertEqual(error.count(advice), 1 if advice else len(error) + 1, error)
        for chain in ("loop", "pair"):
            self.assertRegex(self.refusal("compile", "InvalidMILProgram", chain), "Invalid.*; try another --dialect$")
        for chain in ("nil", "text", "5"):
            self.assertNotIn("InvalidMILProgram", self.refusal("compile", "InvalidMILProgram", chain))

    def refusal(self, stage: str, reason: str, chain: str) -> str:
        """Return the error of a cell that was refused."""
        record = self.run_record(*SMALL, "--blob", "standard", "--dialect", "1.3", code=1, FAULT=f"w8a8/{stage}:no",
                                 REASON=f"w8a8/{stage}:{reason}", CHAIN=chain)
        cell = record["results"][0]["variants"]["w8a8"]
        self.assertEqual(cell["stage"], stage)
        return str(cell["error"])


class DirectoryTest(EngineCase):
    """Where a program is written, and what is removed.

    Broken code must not be able to harm the machine: programs are written below the test's own directory only, which is
    the working directory too, and whatever else is refused is only asked about.
    """

    def setUp(self) -> None:
        super().setUp()
        os.chdir(self.directory)
        self.addCleanup(os.chdir, support.ROOT)

    def test_paths_of_model_directories(self) -> None:
        temporary, name = str(self.temporary), "0f_1-A"
        (self.directory / "home").mkdir()
        (self.temporary / "link").symlink_to(self.directory / "home")
        (self.directory / "other").symlink_to(self.temporary)
        for path, below in ((f"{temporary}/{name}", temporary), (f"{temporary}/{name}", f"{temporary}/"),
                            (f"{temporary}//{name}", temporary), (f"{self.directory}/other/{name}", temporary),
                            (f"{temporary}/{name}", f"{self.directory}/other")):
            with self.subTest(path):
                self.assertTrue(ane_bench.is_model_directory(path, below))
        for path, below in (("/", temporary), ("", temporary), (".", temporary), (name, temporary),
                            (temporary, temporary), (f"/{name}", temporary), (f"{temporary}/{name}/", temporary),
                            (f"tmp/{name}", "tmp"),
                            (f"{temporary}/{name}", ""), (f"{self.directory}/{name}", ""),
                            (f"{temporary}/link", temporary), (f"{temporary}/..", temporary),
                            (f"{temporary}/home/../{name}", temporary),
                            (f"{temporary}/not a name", temporary), (f"{temporary}/model.mil", temporary),
                            (f"{temporary}/{'a' * 256}", temporary), (f"{temporary}/link/{name}", temporary),
                            (f"{temporary}/ü", temporary), (f"{temporary}/{name}\n", temporary)):
            with self.subTest(path):
                self.assertFalse(ane_bench.is_model_directory(path, below))

    def test_foundations_directory(self) -> None:
        own = str(self.temporary)
        with support.environment(ANE_BENCH_STANDIN="", TMPDIR=own):
            self.assertEqual(ane_bench.foundation_directory(), own)
            with unittest.mock.patch.object(sys, "platform", "darwin"):
                for answer, expected in (("/var/folders/x/T/", "/var/folders/x/T/"), (None, "/tmp")):
                    with unittest.mock.patch.object(os, "confstr", return_value=answer) as confstr:
                        self.assertEqual(ane_bench.foundation_directory(), expected)
                        confstr.assert_called_once_with(65537)
                with unittest.mock.patch.object(os, "confstr", side_effect=ValueError):
                    self.assertEqual(ane_bench.foundation_directory(), own)
                with support.environment(ANE_BENCH_STANDIN="/some/library"), \
                        unittest.mock.patch.object(os, "confstr", return_value="/var"):
                    self.assertEqual(ane_bench.foundation_directory(), own)
        with support.environment(TMPDIR=""):
            self.assertEqual(ane_bench.foundation_directory(), "/tmp")

    def test_a_wrong_place_is_refused_before_a_byte_is_written(self) -> None:
        name, home, elsewhere = self.identifier(), self.directory / "home", self.directory / "elsewhere"
        (home / name).mkdir(parents=True)
        (home / "model.mil").write_text("the user's own")
        (elsewhere / "weights").mkdir(parents=True)
        (self.temporary / "other").mkdir()
        (self.temporary / "other" / "model.mil").write_text("another's")
        (self.temporary / "link").symlink_to(home)
        temporary = str(self.temporary)
        places = [str(home), str(home / name), ".", f"./{name}", name, f"tmp/{name}", temporary, f"{temporary}/"]
        places += [f"{temporary}/{place}" for place in (
            "other", f"other/{name}", f"link/{name}", f"{name}/..", f"../{self.temporary.name}/{name}",
            f"other/../{name}", f"{name}x", f"{name}/{name}", f"missing/{name}", name[:-1])]
        for place in places:
            with self.subTest(place):
                self.refused(place)
        os.symlink(elsewhere, self.temporary / name)
        with self.subTest("symbolic link"):
            self.refused(f"{temporary}/{name}")

    def refused(self, place: str) -> None:
        """Load with that localModelPath, which must be refused and change nothing."""
        class Misplaced(NeuralEngine):
            """An engine whose localModelPath is the place."""

            def send_optional(self, receiver: Optional[Pointer], class_name: str, selector: str,
                              *arguments: Any) -> Any:
                if selector == "localModelPath":
                    return self.runtime.string(place)
                return super().send_optional(receiver, class_name, selector, *arguments)

        before, events = self.files(), Recorder()
        with contextlib.ExitStack() as owner, self.assertRaisesRegex(StageError, "expected .* in ") as caught:
            Misplaced(self.libraries).load(self.program, 21, events, owner)
        self.assertEqual(caught.exception.stage, "files")
        self.assertEqual(events.directories, [])
        self.assertEqual(self.files(), before)

    def test_a_directory_that_this_program_made_is_removed_with_all_that_others_put_there(self) -> None:
        self.assertEqual(self.left_after(lambda path: (Path(path) / "net.plist").write_text("the framework's")), {})

    def test_of_one_that_was_there_only_a_programs_files_are_removed(self) -> None:
        directory = self.temporary / self.identifier()
        (directory / "weights").mkdir(parents=True)
        (directory / "net.plist").write_text("left by a killed run")
        (directory / "model.mil").write_text("left by a killed run")
        self.assertEqual(self.left_after(),
                         {str(directory): None, str(directory / "net.plist"): b"left by a killed run"})
        (directory / "weights").mkdir()
        (directory / "weights" / "others").write_text("theirs")
        left = self.left_after()
        self.assertEqual(left[str(directory / "weights" / "others")], b"theirs")
        self.assertNotIn(str(directory / "weights" / "weight.bin"), left)

    def left_after(self, act: Callable[[str], Any] = lambda path: None) -> dict[str, Optional[bytes]]:
        """Return what a program that is refused at compile leaves in the temporary directory."""
        written: list[bytes] = []

        def look(path: str) -> None:
            written.append((Path(path) / "model.mil").read_bytes())
            act(path)

        with contextlib.ExitStack() as owner, self.assertRaises(StageError):
            NeuralEngine(self.libraries).load(self.program, 21, Recorder("compile", look), owner)
        self.assertEqual(written, [self.program.mil.encode()])
        return {path: content for path, content in self.files().items() if path.startswith(f"{self.temporary}/")}

    def test_links_in_one_that_was_there_are_not_followed(self) -> None:
        directory, home = self.temporary / self.identifier(), self.directory / "home"
        home.mkdir()
        for name in ("weight.bin", "model.mil"):
            (home / name).write_text("the user's own")
        directory.mkdir()
        (directory / "weights").symlink_to(home)
        before = self.files()
        with contextlib.ExitStack() as owner, self.assertRaisesRegex(StageError, "link"):
            NeuralEngine(self.libraries).load(self.program, 21, Recorder(), owner)
        after = self.files()
        self.assertEqual({path: content for path, content in after.items() if path in before}, before)

    def test_the_parent_removes_by_the_same_rule(self) -> None:
        directory, name = self.temporary / self.identifier(), self.program.config.name
        finished = self.run_standin("--config", name, "--iters", "2", "--rounds", "1", FAULT="fp16/compile:crash")
        self.assertEqual(finished.code, 1)  # and run_standin has seen that nothing is left
        directory.mkdir()
        (directory / "notes").write_text("the user's own")
        support.run_command("--config", name, "--iters", "2", "--rounds", "1", "--variants", "fp16",
                            module=self.module, environment=self.environment(FAULT="fp16/compile:crash"))
        self.assertEqual([path.name for path in directory.iterdir()], ["notes"])
        self.assertIn("compile fp16 qos=21", self.calls())

    def test_of_a_run(self) -> None:
        home = self.directory / "home"
        (home / "weights").mkdir(parents=True)
        for name in ("model.mil", "weights/weight.bin", "letter"):
            (home / name).write_text("the user's own")
        before = self.files()
        for path in (home, f"{home}/%", ".", "./%", f"{self.temporary}/../home", self.temporary):
            with self.subTest(path):
                record = self.run_record(*SMALL, code=1, MODEL_PATH=path)
                self.assertEqual({cell["stage"] for cell in record["results"][0]["variants"].values()}, {"files"})
                self.log.unlink()
                self.assertEqual(self.files(), before)
        self.run_record(*SMALL, MODEL_PATH=f"{self.temporary}/%")  # nothing is left

    def test_other_paths_are_left_alone(self) -> None:
        home = self.directory / "home"
        home.mkdir()
        (home / "model.mil").write_text("the user's own")
        (self.temporary / "model.mil").mkdir()
        (self.temporary / "link").symlink_to(home)
        before, temporary = self.files(), str(self.temporary)
        for path in (str(home), "home", ".", temporary, f"{temporary}/link", f"{temporary}/model.mil",
                     f"{temporary}/x/../../home", f"{temporary}\0/home", f"{temporary}\ud800/home", f"{temporary}/\0"):
            for existed in (False, True):
                with self.subTest(path, existed=existed):
                    ane_bench.remove_model_directory(path, existed, temporary)
                    self.assertEqual(self.files(), before)

    def test_a_program_that_cannot_be_written_is_removed_at_once(self) -> None:
        class Hindering(Recorder):
            """Puts a file where the weights' directory goes."""

            def directory(self, path: str) -> None:
                super().directory(path)
                os.mkdir(path)
                (Path(path) / "weights").write_text("in the way")

        with contextlib.ExitStack() as owner:
            with self.assertRaisesRegex(StageError, "weight.bin: Not a directory"):
                NeuralEngine(self.libraries).load(self.program, 21, Hindering(), owner)
            self.assertEqual(list(self.temporary.iterdir()), [])


class QualityOfServiceTest(support.StandinCase):
    """The QoS of a run is that of its evaluates."""

    def test_compile_and_load_are_at_21(self) -> None:
        self.run_record(*SMALL, "--qos", "9")
        calls = {line.split(" -> ")[0] for line in self.calls() if " qos=" in line}
        self.assertEqual(calls, {f"{stage} {variant} qos={qos}" for variant in ("fp16", "w8a8")
                                 for stage, qos in (("compile", 21), ("load", 21), ("evaluate", 9))})

    def test_a_load_that_fails_once(self) -> None:
        record = self.run_record(*SMALL, FAULT="fp16/load:once")
        self.assertEqual([cell["status"] for cell in record["results"][0]["variants"].values()], ["ok", "ok"])
        self.assertEqual([line for line in self.calls() if line.startswith("load ")],
                         ["load fp16 qos=21"] * 2 + ["load w8a8 qos=21"])

    def test_the_original_does_not_try_again(self) -> None:
        self.run_record("--original", "--config", "64x8x2", code=1, COMPUTE="none", FAULT="fp16/load:once")
        self.assertEqual(self.calls().count("load fp16 qos=0"), 1)


class OriginalTest(support.StandinCase):
    """--original does what the original does, to the call."""

    @support.long_test
    def test_the_five_configurations(self) -> None:
        finished = self.run_standin("--original", "--quiet", COMPUTE="none", LATENCY="fp16:2000,w8a8:1000",
                                    CLOCK="virtual", SYSCTL="machdep.cpu.brand_string=Apple M4")
        self.assertEqual((finished.code, finished.errors), (0, ""))
        self.assertEqual(re.sub(r"[0-9]", "#", finished.output), re.sub(r"[0-9]", "#", ORIGINAL_TABLE))
        lines = finished.output.splitlines()
        self.assertEqual(lines[:4], ORIGINAL_TABLE.splitlines()[:4])
        self.assertEqual([line[:46] for line in lines[4:6]], [line[:46] for line in ORIGINAL_TABLE.splitlines()[4:6]])

    def test_every_call_and_every_object_released(self) -> None:
        finished = self.run_standin("--original", "--quiet", COMPUTE="none")
        self.assertEqual(finished.code, 0, finished.errors)
        expected = []
        for config in ane_bench.DEFAULT_CONFIGS:
            surface = f"IOSurfaceCreate {config.tensor_bytes}"
            for variant in ("fp16", "w8a8"):
                expected += [f"descriptor {variant}", f"model {variant}", "identifier", "localModelPath",
                             f"compile {variant} qos=0", f"load {variant} qos=0", surface, surface, "surfaceobject",
                             "surfaceobject", "request",
                             *[f"evaluate {variant} qos=0 -> YES"] * 60, f"unload {variant}"]
        others = ("alloc ", "dealloc ", "beginActivity ", "endActivity ")
        self.assertEqual([line for line in self.calls() if not line.startswith(others)], expected)
        alive = collections.Counter(line.split(" ", 1)[1] for line in self.calls() if line.startswith("alloc "))
        alive.subtract(line.split(" ", 1)[1] for line in self.calls() if line.startswith("dealloc "))
        self.assertEqual({name: count for name, count in alive.items() if count}, {})
        self.assertGreaterEqual(sum(line.startswith("dealloc ") for line in self.calls()), 10 * 7)

    def test_a_failure_names_its_stage(self) -> None:
        for stage in ("descriptor", "model", "compile", "load"):
            finished = self.run_standin("--original", "--quiet", "--config", "512x64x2", COMPUTE="none",
                                        FAULT=f"w8a8/{stage}:silent")
            self.assertEqual(finished.code, 1)
            self.assertRegex(finished.output,
                             rf"(?m)^FP16 2x conv 512ch 64x64 .*\nW8A8 .*: failed in stage {stage}: \w")


ORIGINAL_TABLE = """\
=== ANE INT8 W8A8 Benchmark (stand-in library, M4, h16g) ===

Config                           W(MB)     GOP   ms/eval    TOPS   Ratio
--------------------------------------------------------------------------------
FP16 128x conv 512ch 64x64       64.0  274.88    2.000 ms 137.44
W8A8 128x conv 512ch 64x64       32.0  274.88    1.000 ms 274.88  2.00x

FP16 64x conv 512ch 64x64        32.0  137.44    2.000 ms  68.72
W8A8 64x conv 512ch 64x64        16.0  137.44    1.000 ms 137.44  2.00x

FP16 256x conv 256ch 64x64       32.0  137.44    2.000 ms  68.72
W8A8 256x conv 256ch 64x64       16.0  137.44    1.000 ms 137.44  2.00x

FP16 128x conv 256ch 64x64       16.0   68.72    2.000 ms  34.36
W8A8 128x conv 256ch 64x64        8.0   68.72    1.000 ms  68.72  2.00x

FP16 128x conv 384ch 64x64       36.0  154.62    2.000 ms  77.31
W8A8 128x conv 384ch 64x64       18.0  154.62    1.000 ms 154.62  2.00x

=== Done ===
"""


class ComputedTest(support.StandinCase):
    """The stand-in computes what the files say, and so does the reference."""

    def test_equal_bit_by_bit_in_every_arithmetic(self) -> None:
        for store in ("fp16", "fp32"):
            for rounding in ("even", "away"):
                record = self.run_record("--config", "64x8x6", "--config", "12x4x3", "--variants", "fp16,w8a16,w8a8",
                                         "--iters", "2", "--rounds", "1", "--warmup", "1", "--verify", "16",
                                         STORE=store, ROUNDING=rounding)
                for result in record["results"]:
                    for variant, cell in result["variants"].items():
                        self.assertTrue(cell["verified"]["ok"], variant)
                        if result["config"]["channels"] == 64:
                            self.assertEqual(cell["verified"]["equal"], 1, variant)
                            self.assertIn(f", {store} stores", cell["verified"]["arithmetic"])
                            if store == "fp16" or variant == "w8a8":  # sums in fp32 hardly ever end on a half
                                words = {"even": "halves to even", "away": "halves away"}[rounding]
                                self.assertIn(words, cell["verified"]["arithmetic"])
                cells = record["results"][0]["variants"]
                self.assertEqual(cells["w8a16"]["verified"]["from_fp16"]["relative_l2"], 0)
                self.assertGreater(cells["w8a8"]["verified"]["from_fp16"]["relative_l2"], 0.001)

    def test_dialects_and_layouts(self) -> None:
        for blob in ("standard", "original"):
            for dialect in ("1.3", "1.0"):
                record = self.run_record(*SMALL, "--blob", blob, "--dialect", dialect, "--variants", "fp16,w8a16,w8a8")
                for cell in record["results"][0]["variants"].values():
                    self.assertEqual((cell["status"], cell["blob"], cell["dialect"]), ("ok", blob, dialect))

    def test_wrong_outputs_are_failed_cells(self) -> None:
        for output, words in (("nan", "NaN"), ("inf", "infinities"), ("zeros", "zeros"), ("constant", "everywhere"),
                              ("noop", "did not write"), ("aliased", "wrong layer"), ("swapped", "wrong layer"),
                              ("scale:1.1", "wrong scale"), ("drop:3", "left out")):
            with self.subTest(output):
                record = self.run_record("--config", "64x8x8", "--iters", "2", "--rounds", "1", "--warmup", "1",
                                         "--verify", "4", code=1, OUTPUT=output)
                for cell in record["results"][0]["variants"].values():
                    self.assertEqual((cell["status"], cell["stage"]), ("failed", "verify"))
                    self.assertFalse(cell["verified"]["ok"])
                    self.assertIn(words, cell["error"])
                    self.assertIn("median", cell["ms"])

    @support.long_test
    def test_a_real_configuration_is_verified(self) -> None:
        config = ane_bench.Config(512, 64, 128)
        pixel, = ane_bench.chosen_pixels(config, 0, 1)
        record = self.run_record("--config", config.name, "--iters", "5", "--rounds", "5", "--warmup", "1",
                                 COMPUTE=str(pixel))
        for variant, cell in record["results"][0]["variants"].items():
            self.assertEqual(cell["verified"]["arithmetic"], "halves to even, fp16 stores", variant)
            self.assertEqual(cell["verified"]["equal"], 1, variant)


class FailureTest(support.StandinCase):
    """What a refused program leaves behind; test_faults_engine has each fault by itself."""

    @support.long_test
    def test_a_refusal_that_cannot_be_undone_costs_nothing_else(self) -> None:
        def check(scene: support.Scene, fault: tuple[str, str]) -> None:
            record = self.record_in(scene, *SMALL, "--config", "32x8x2", "--timeout", "1", code=1, FAULT=fault[1])
            for result in record["results"]:
                cells = result["variants"]
                self.assertEqual((cells["fp16"]["status"], cells["w8a8"]["status"]), ("ok", "failed"))
                self.assertEqual(cells["w8a8"]["stage"], fault[0])

        faults = (("load", "w8a8/load:no;w8a8/purge:{}"), ("surface", "surface:nil@4;w8a8/unload:{}"))
        self.each([(stage, fault.format(end)) for stage, fault in faults for end in ("crash", "hang", "raise")], check)


class MeasuredTest(support.StandinCase):
    """What the figures say where the truth is known."""

    def test_ratio_under_drift_and_spikes(self) -> None:
        for drift in ("0.05", "0.3"):
            for fp16, truth in ((2000, 2.0), (1000, 1.0)):
                with self.subTest(drift, truth=truth):
                    settings: dict[str, Any] = {"COMPUTE": "none", "CLOCK": "virtual", "DRIFT": drift,
                                                "LATENCY": f"fp16:{fp16},w8a8:1000", "SPIKE": "17x10"}
                    record = self.run_record("--config", "64x8x2", "--verify", "0", **settings)
                    ratio = record["results"][0]["ratio"]["w8a8"]
                    low, high = ratio["ci95"]
                    self.assertAlmostEqual(ratio["value"], truth, delta=truth * 0.01)
                    self.assertTrue(low * 0.99 <= truth <= high * 1.01, ratio)
                    original = self.run_record("--original", "--config", "512x64x2", **settings)
                    sequential = original["results"][0]["ratio"]["w8a8"]["value"]
                    print(f"\ndrift {drift}/s, true ratio {truth}: rounds {ratio['value'] / truth - 1:+.2%}, "
                          f"sequential means {sequential / truth - 1:+.2%}", end="")
                    self.assertGreater(abs(sequential / truth - 1), abs(ratio["value"] / truth - 1))

    def test_the_clock_is_converted(self) -> None:
        record = self.run_record(*SMALL, "--verify", "0", COMPUTE="none", CLOCK="virtual", LATENCY="fp16:2000,w8a8:500")
        medians = [cell["ms"]["median"] for cell in record["results"][0]["variants"].values()]
        self.assertAlmostEqual(medians[0], 2.0, delta=0.001)
        self.assertAlmostEqual(medians[1], 0.5, delta=0.001)

    def test_the_system(self) -> None:
        sysctl = "machdep.cpu.brand_string=Apple M9;hw.model=Mac99,1;kern.osproductversion=27.1;kern.osversion="
        system = self.run_record(*SMALL, SYSCTL=sysctl, DEVICE="aneSubType=h99,numANEs=2", POWER="Battery Power",
                                 THERMAL="0,2", LOW_POWER="1")["system"]
        expected = {"chip": "Apple M9", "model": "Mac99,1", "macos": "27.1", "build": None, "memory_bytes": 8 << 30,
                    "ane_subtype": "h99", "ane_count": 2, "power_source": "Battery Power", "low_power_mode": True,
                    "thermal_state_before": "nominal", "thermal_state_after": "serious"}
        self.assertEqual({name: system.get(name) for name in expected}, expected)

    def test_no_names_of_users_or_hosts(self) -> None:
        target = self.directory / "some one" / "r.json"
        target.parent.mkdir()
        self.module = support.MODULE
        self.assertEqual(self.run_standin(*SMALL, "--save", str(target)).code, 0)
        text = target.read_text()
        for word in (os.uname().nodename, str(self.directory), str(Path.home())):
            self.assertNotIn(word, text)
        self.assertEqual(json.loads(text)["command"], ["ane_bench.py", *SMALL, "--save", "r.json"])
