"""The fault table: whatever goes wrong, the rest is measured, the reason is told, and nothing is left behind.

Each table below holds cases of one form, as data: what goes wrong, and what must come of it. CASES is all of them. Under
`python -X dev -W error -m unittest tests.test_faults` all commands run with these options, too.
"""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Callable, NamedTuple, Optional, Union

import ane_bench
from tests import support
from tests.support import MODULE, SMALL, Finished

# Two configurations; a fault meets the first, and the second must not notice.
BOTH_CONFIGS = ("--config", "64x8x2", "--config", "32x8x2", "--iters", "4", "--rounds", "2", "--warmup", "2")
BOTH = ("fp16", "w8a8")
# Seconds without progress after which a child is given up, where it is to hang: a start on a busy machine takes some tenths.
SHORT = 4
# Seconds within which everything that ends must have ended.
PATIENCE = 40
# Seconds within which a child whose parent is no more must have ended.
ORPHANED = 10
AT_A_TIME = (os.cpu_count() or 1) + 1
AT_A_TIME_WHERE_THEY_WAIT = 7

# What each call of the stand-in's log begins with, by the stage's name in STANDIN_FAULT.
CALLS = {"descriptor": "descriptor fp16", "model": "model fp16", "identifier": "identifier", "localModelPath": "localModelPath",
         "compile": "compile fp16", "load": "load fp16", "surface": "IOSurfaceCreate", "surfaceobject": "surfaceobject",
         "request": "request", "evaluate": "evaluate fp16", "unload": "unload", "purge": "purge", "lock": "lock"}
# The stages under another name in the record.
RECORDED = {"localModelPath": "identifier", "surfaceobject": "request", "lock": "surface"}
# After the figures were taken.
LATE = ("unload", "purge")
# Evaluates of a variant: 1 and 2 warm up, 3 and 6 begin a round uncounted, 4, 5, 7, 8 are timed.
FIRST_TIMED, LAST_TIMED = 4, 8
# How many lines of the log there are when a stage begins, and when it is over, other than 1: evaluates are logged when done.
CALLED = {"evaluate": FIRST_TIMED - 1}
CALLED_IN_ALL = {"evaluate": LAST_TIMED}

# Runs the command line with what the test asks for once the first child has been started.
DRIVER = """
import json, os, sys
sys.path.insert(0, sys.argv.pop(1))
import ane_bench

class Child(ane_bench.Child):
    def __init__(self, *arguments):
        try:
            super().__init__(*arguments)
        finally:
            os.environ.update(json.loads(os.environ["AFTERWARDS"]))
            ane_bench.own_command = own_command

    def __exit__(self, *exception):
        super().__exit__(*exception)
        with open(os.environ["CHILDREN"], "ab") as file:
            file.write(self.error_output)

ane_bench.Child, own_command = Child, ane_bench.own_command
if os.environ["FIRST_CHILD"]:
    ane_bench.own_command = lambda: json.loads(os.environ["FIRST_CHILD"])
sys.exit(ane_bench.main())
"""


def at_stage(stage: str, kind: str) -> str:
    """A fault at a stage, of evaluate the first that is timed."""
    return f"{stage}:{kind}" + (f"@{FIRST_TIMED}" if stage == "evaluate" else "")


class Process(NamedTuple):
    """A process of this machine; state is Z where it is dead and nobody has asked for its exit code."""

    number: int
    parent: int
    group: int
    state: str


def processes() -> list[Process]:
    """All of them."""
    found = []
    if sys.platform == "darwin":
        for line in subprocess.run(["ps", "-axo", "pid=,ppid=,pgid=,stat="], capture_output=True, encoding="utf-8",
                                   check=True).stdout.splitlines():
            number, parent, group, state = line.split()
            found.append(Process(int(number), int(parent), int(group), state[0]))
        return found
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = path.read_text().rpartition(") ")[2].split()[:3]
            found.append(Process(int(path.parent.name), int(parent), int(group), state))
    return found


class Started:
    """A command that is running, in a process group of its own."""

    def __init__(self, scene: "Scene", process: "subprocess.Popen[str]") -> None:
        self.scene, self.process = scene, process

    def await_call(self, beginning: str, times: int = 1) -> None:
        """Waits until the stand-in's log has that many lines of that beginning."""
        deadline = time.monotonic() + PATIENCE
        while sum(line.startswith(beginning) for line in self.scene.calls()) < times:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"there was no {beginning}: {self.finish()}")
            time.sleep(0.01)

    def child(self) -> int:
        """The child that measures; waits for it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = [process.number for process in processes() if process.parent == self.process.pid and process.state != "Z"]
            if found:
                return found[0]
            time.sleep(0.01)
        raise AssertionError("there is no child")

    def signal(self, number: int) -> None:
        """To the process alone, as `kill` does."""
        self.process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """To all of its processes, as a terminal does."""
        os.killpg(self.process.pid, number)

    def is_over(self, seconds: float = 0) -> bool:
        """Whether no process of its group lives, or will soon."""
        deadline = time.monotonic() + seconds
        while any(process.group == self.process.pid and process.state != "Z" for process in processes()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def end(self) -> None:
        """Ends whatever of it is left, where a test failed."""
        if not self.is_over():
            self.signal_group(signal.SIGKILL)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        self.process.wait(PATIENCE)

    def finish(self) -> Finished:
        """Waits until it ends by itself, and says what came of it. No child may be left then."""
        try:
            output, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError("it did not end") from None
        if not self.is_over():
            raise AssertionError("a child is left")
        self.scene.finished.append(Finished(self.process.returncode, output or "", errors or ""))
        return self.scene.finished[-1]


def limited(longest_file: int) -> Sequence[str]:
    """What makes a command one that can write no file longer than that."""
    code = ("import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1]))); "
            "os.execv(sys.argv[2], sys.argv[2:])")
    return sys.executable, "-I", "-c", code, str(longest_file)


class Scene:
    """A directory of its own for a run, and what the run is given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        (directory / "other").mkdir()
        self.log = directory / "log"
        self.saved = directory / "record.json"
        self.standin: Union[str, Path] = support.standin_library()
        self.python: Sequence[str] = support.own_python()
        self.file = support.compiled_module()
        self.driver: Sequence[str] = ()
        self.prefix: Sequence[str] = ()
        self.settings: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.closing = contextlib.ExitStack()
        self.finished: list[Finished] = []

    def drive(self, afterwards: Mapping[str, str], first_child: Sequence[str] = ()) -> None:
        """From when the first child has been started, these variables hold, and children are real ones."""
        self.driver = ("-c", DRIVER, str(self.file.parent))
        self.environment.update(AFTERWARDS=json.dumps(afterwards), FIRST_CHILD=json.dumps(first_child) if first_child else "",
                                CHILDREN=str(self.directory / "children"))

    def start(self, *arguments: str, **options: Any) -> Started:
        """Starts a run."""
        # Where tests run, Python may be told not to buffer, and what goes wrong with buffers would not be seen.
        whole = {name: value for name, value in os.environ.items() if not name.startswith(("STANDIN_", "PYTHON"))}
        whole.update({ane_bench.STANDIN_VARIABLE: str(self.standin), "TMPDIR": str(self.temporary), "STANDIN_LOG": str(self.log),
                      "TEMP": str(self.directory / "other")})  # where the lock goes when TMPDIR cannot be used
        whole.update({f"STANDIN_{name}": value for name, value in self.settings.items()})
        whole.update(self.environment)
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True,
                   "encoding": "utf-8", "errors": "replace", **options}
        command = [*self.prefix, *self.python, *(self.driver or (str(self.file),)), *arguments]
        started = Started(self, subprocess.Popen(command, env=whole, **options))
        self.closing.callback(started.end)
        return started

    def run(self, *arguments: str, **options: Any) -> Finished:
        """A run from its start to its end."""
        return self.start(*arguments, **options).finish()

    def calls(self) -> list[str]:
        """The stand-in's log."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def record(self) -> dict[str, Any]:
        """The record that was saved."""
        return ane_bench.read_record(str(self.saved))

    def models(self) -> list[Path]:
        """What lies in the temporary directory."""
        return sorted(self.temporary.iterdir()) if self.temporary.is_dir() else []

    def children_said(self) -> str:
        """What the children of a driven run wrote to standard error."""
        path = self.directory / "children"
        return path.read_text(errors="replace") if path.exists() else ""

    def small_disk(self, path: Path, size: int, longest_file: int) -> None:
        """Makes a directory a disk of that size, or, where that is not permitted, lets no file become longer."""
        path.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        if sys.platform == "linux" and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            # At once, though another thread may just be starting a process that has a file there.
            self.closing.callback(subprocess.run, ["umount", "-l", str(path)], check=True)
            return
        self.prefix = limited(longest_file)

    def read_only(self, path: Path) -> None:
        """Makes a directory one that cannot be written. Root can write everywhere, until it gives that right away."""
        path.mkdir(exist_ok=True)
        path.chmod(0o500)
        self.closing.callback(path.chmod, 0o700)
        if os.geteuid() == 0:
            # prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)
            code = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
            self.prefix = (sys.executable, "-I", "-c", code)
            probe = subprocess.run([*self.prefix, sys.executable, "-I", "-c", f"import os; os.mkdir({str(path / 'x')!r})"],
                                   capture_output=True, check=False)
            if probe.returncode != 1:
                raise unittest.SkipTest("root can write everywhere here")


# ----------------------------------------------------------------------------------------------------------------------
# Faults of the engine, the child, and the temporary directory: they meet the first of two configurations
# ----------------------------------------------------------------------------------------------------------------------

class Fault(NamedTuple):
    """What goes wrong while the first configuration is measured: the stand-in's `fault`, or what `act` does when the
    stand-in is `at` a call for the `times`-th time; `prepare` comes before. What must come of it: the variants that
    `failed`, in a stage, for a reason (a pattern); `later`, the reason for which the second configuration fails, if it does;
    a warning; what is `left` in the temporary directory."""

    name: str
    stage: str = ""
    reason: str = ""
    failed: Sequence[str] = BOTH
    fault: str = ""
    at: str = ""
    times: int = 1
    act: Optional[Callable[[Started], None]] = None
    prepare: Optional[Callable[[Scene], None]] = None
    later: str = ""
    warned: str = ""
    ends_badly: bool = False
    left: Sequence[str] = ()


def refused(fault: str, stage: str, reason: str, **more: Any) -> Fault:
    """W8A8 alone fails."""
    return Fault(fault, stage, reason, failed=("w8a8",), fault=fault, **more)


REFUSALS = [
    refused("w8a8/descriptor:nil", "descriptor", "^standard/1.3: nil was returned; standard/1.0: nil .*; original/1.3: nil"),
    refused("w8a8/model:nil", "model", "^standard/1.3: nil was returned; standard/1.0: nil .*; original/1.3: nil"),
    refused("w8a8/identifier:nil", "identifier", "hexStringIdentifier is ''"),
    refused("w8a8/compile:no", "compile", r"^standard/1\.3: com\.apple\.\w+\.compiler 1: .* refuse at compile; standard/1\.0: .*; "
                                          r"original/1\.3: com\.apple"),
    refused("w8a8/compile:silent", "compile", "^standard/1.3: no NSError was given; standard/1.0: no .*; original/1.3: no NSError"),
    refused("w8a8/compile:unicode", "compile", "le modèle « x » a été refusé — 失敗 ✗ 𝛑"),
    refused("w8a8/load:no", "load", r"^standard/1\.3: com\.apple\.\w+ 8: .* refuse at load; standard/1\.0: .*; original/1\.3: com"),
    refused("w8a8/load:silent", "load", "^standard/1.3: no NSError was given; standard/1.0: no .*; original/1.3: no NSError"),
    refused("w8a8/load:unicode", "load", "le modèle « x » a été refusé — 失敗 ✗ 𝛑"),
    refused("surface:nil@3", "surface", "IOSurfaceCreate gave no surface of 8192 bytes"),
    refused("surface:nil@4", "surface", "IOSurfaceCreate gave no surface of 8192 bytes"),
    refused("surfaceobject:nil@3", "request", "^nil was returned"),
    refused("surfaceobject:nil@4", "request", "^nil was returned"),
    refused("request:nil@2", "request", "^nil was returned"),
    refused("w8a8/evaluate:no", "warm-up", r"^evaluate said NO: com\.apple\.\w+ 8: .* refuse at evaluate$"),
    refused("w8a8/evaluate:silent", "warm-up", "^evaluate said NO: no NSError was given$"),
    refused("w8a8/evaluate:no@2", "warm-up", "^evaluate said NO: com"),
    refused("w8a8/evaluate:silent@2", "warm-up", "^evaluate said NO: no NSError"),
    refused("w8a8/evaluate:no@3", "evaluate", "^evaluate said NO: com"),
    refused(f"w8a8/evaluate:no@{FIRST_TIMED}", "evaluate", "^evaluate said NO: com"),
    refused(f"w8a8/evaluate:silent@{FIRST_TIMED}", "evaluate", "^evaluate said NO: no NSError"),
    refused(f"w8a8/evaluate:no@{LAST_TIMED}", "evaluate", "^evaluate said NO: com"),
    refused(f"w8a8/evaluate:silent@{LAST_TIMED}", "evaluate", "^evaluate said NO: no NSError"),
    refused(f"w8a8/evaluate:unicode@{LAST_TIMED}", "evaluate", "le modèle « x » a été refusé — 失敗 ✗ 𝛑"),
    Fault("lock:no", "surface", "^IOSurfaceLock returned 0xe00002c2$", fault="lock:no"),
    Fault("lock:no@7", "read", "^IOSurfaceLock returned 0xe00002c2$", fault="lock:no@7"),
    # A run can do without it: the model's directory is then made from the identifier.
    Fault("localModelPath:nil", fault="localModelPath:nil", failed=()),
    Fault("unload:no", fault="unload:no", failed=(), warned=r"unloading w8a8 failed \(com\.apple.* 8: .*refuse at unload\)"),
    Fault("unload:silent", fault="unload:silent", failed=(), warned=r"unloading w8a8 failed \(no NSError was given\)"),
    Fault("unload:unicode", fault="unload:unicode", failed=(), warned="le modèle « x » a été refusé — 失敗 ✗ 𝛑"),
    Fault("purge:nil", fault="purge:nil", failed=()),
]

# How a child ends at each stage, and what is then told.
ENDS = {"raise": "(was killed by SIGABRT|ended with exit code 1): .*reason: *the stand-in was told to raise at {stage}",
        "crash": "was killed by SIGSEGV", "exit": "ended without a result"}
HANGS = f"said nothing for {SHORT} s in this stage and was stopped"


def ending(stage: str, kind: str, told: str) -> Fault:
    """The child ends while it is at a stage, or hangs."""
    fault = at_stage(stage, kind)
    reason = told.format(stage=stage)
    if stage in LATE:
        return Fault(fault, fault=fault, failed=(), ends_badly=True,
                     warned="" if kind == "exit" else f"64x8x2: after its figures were taken, in stage {stage}: .*{reason}")
    return Fault(fault, RECORDED.get(stage, stage), reason, fault=fault, ends_badly=True)


ENDINGS = [ending(stage, kind, told) for stage in CALLS for kind, told in ENDS.items()]


def sent(number: signal.Signals, stage: str, reason: str) -> Fault:
    """Somebody else sends the child a signal."""
    return Fault(f"{stage}: {number.name} from outside", RECORDED.get(stage, stage), reason, ends_badly=True,
                 fault=at_stage(stage, f"slow={PATIENCE}"), at=CALLS[stage], times=CALLED.get(stage, 1),
                 act=lambda run: os.kill(run.child(), number))


KILLS = [sent(number, stage, f"^the child was killed by {number.name}")
         for number in (signal.SIGKILL, signal.SIGTERM) for stage in ("identifier", "compile", "evaluate")]
STOPPED = sent(signal.SIGSTOP, "compile", HANGS)
HANGING = [*(ending(stage, "hang", HANGS) for stage in CALLS), STOPPED]
RUBBISH = [Fault(f"{stage}:rubbish", fault=f"{stage}:rubbish", failed=()) for stage in ("compile", "evaluate", "unload")]


def remove_temporary(run: Started) -> None:
    shutil.rmtree(run.scene.temporary)


def make_file(scene: Scene) -> None:
    scene.temporary.rmdir()
    scene.temporary.write_text("no directory")


def make_missing(scene: Scene) -> None:
    scene.temporary.rmdir()


def make_read_only(scene: Scene) -> None:
    scene.read_only(scene.temporary)


def make_full(scene: Scene) -> None:
    """Too small for the first configuration's fp16 weights of 16.2 KiB; all else fits."""
    scene.small_disk(scene.temporary, 20 << 10, 16 << 10)


# The record names the temporary directory by an ellipsis, if it was one when the run began.
NOWHERE = "(tmp|…)/[0-9a-f_]+: No such file or directory$"
DIRECTORIES = [
    Fault("TMPDIR read-only", "files", "tmp/.*: (Permission denied|Read-only file system)$", prepare=make_read_only,
          later="Permission denied|Read-only"),
    Fault("TMPDIR full", "files", "/weights/weight.bin: (No space left on device|File too large)$", failed=("fp16",),
          prepare=make_full),
    Fault("TMPDIR missing", "files", NOWHERE, prepare=make_missing, later=NOWHERE),
    Fault("TMPDIR a file", "files", "tmp/.*: Not a directory$", prepare=make_file, later="Not a directory$"),
    Fault("TMPDIR deleted at compile", "files", NOWHERE, fault="fp16/compile:slow=1", at="compile fp16", act=remove_temporary,
          later=NOWHERE),
    Fault("TMPDIR deleted at load", "files", NOWHERE, failed=("w8a8",), fault="fp16/load:slow=1", at="load fp16",
          act=remove_temporary, later=NOWHERE),
    Fault("TMPDIR deleted at evaluate", failed=(), fault="fp16/evaluate:slow=0.1", at="evaluate fp16", act=remove_temporary,
          later=NOWHERE),
    refused("w8a8/compile:killdir", "compile", "^standard/1.3: .*InvalidMILProgram.*; original/1.3: .*InvalidMILProgram"),
    *(Fault(f"{stage}:killdir", fault=f"{stage}:killdir", failed=()) for stage in ("load", "evaluate", "unload", "purge")),
]


_identifiers: list[str] = []


def identifier() -> str:
    """The name of the model directory of the first configuration's W8A8."""
    return _identifiers[-1]


def find_identifier(scene: Scene) -> None:
    """Asks the stand-in for it: in the middle of a run it is the only directory whose text quantizes."""
    scene.settings["FAULT"] = f"w8a8/load:slow={PATIENCE}"
    run = scene.start(*SMALL)
    run.await_call("load w8a8")
    name, = (path.name for path in scene.models() if "quantize(input" in (path / "model.mil").read_text())
    _identifiers.append(name)
    run.signal(signal.SIGTERM)
    run.finish()


def precious(scene: Scene, name: str = "precious") -> Path:
    """A directory that is somebody's."""
    path = scene.directory / name
    (path / "weights").mkdir(parents=True)
    for file in ("model.mil", "weights/weight.bin", "diary"):
        (path / file).write_text("precious")
    return path


def make_link(scene: Scene) -> None:
    (scene.temporary / identifier()).symlink_to(precious(scene), target_is_directory=True)


def make_dangling_link(scene: Scene) -> None:
    (scene.temporary / identifier()).symlink_to(scene.directory / "nowhere", target_is_directory=True)


def make_link_of_weights(scene: Scene) -> None:
    (scene.temporary / identifier()).mkdir()
    (scene.temporary / identifier() / "weights").symlink_to(precious(scene) / "weights", target_is_directory=True)


def make_link_of_text(scene: Scene) -> None:
    (scene.temporary / identifier()).mkdir()
    (scene.temporary / identifier() / "model.mil").symlink_to(precious(scene) / "model.mil")


def make_file_of_name(scene: Scene) -> None:
    precious(scene)
    (scene.temporary / identifier()).write_text("precious")


def make_stale(scene: Scene) -> None:
    shutil.copytree(precious(scene), scene.temporary / identifier())


LINKED = f"/%s: (is a symbolic link, and a directory was expected|{os.strerror(62 if sys.platform == 'darwin' else 40)})$"
PLACES = [
    Fault("model directory a symbolic link", "files", LINKED % "[0-9a-f_]+", failed=("w8a8",), prepare=make_link, left=("link",)),
    Fault("model directory a dangling link", "files", LINKED % "[0-9a-f_]+", failed=("w8a8",), prepare=make_dangling_link,
          left=("link",)),
    Fault("its weights a symbolic link", "files", LINKED % "weights", failed=("w8a8",), prepare=make_link_of_weights),
    Fault("its text a symbolic link", "files", LINKED % "model.mil", failed=("w8a8",), prepare=make_link_of_text),
    Fault("model directory a file", "files", "/[0-9a-f_]+/model.mil: Not a directory$", failed=("w8a8",), prepare=make_file_of_name,
          left=("file",)),
    Fault("model directory of a run that died", failed=(), prepare=make_stale),
]


def sends(*lines: Any) -> Callable[[Scene], None]:
    """The first child is one that only writes these: bytes as they are, all else as JSON."""
    data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    return runs(f"import os, sys; sys.stdin.readline(); sys.stdout.buffer.write({data!r})")


def runs(code: str) -> Callable[[Scene], None]:
    """The first child is one that runs this."""
    return lambda scene: scene.drive({}, (sys.executable, "-I", "-c", code))


def diary(scene: Scene) -> Path:
    """A directory that holds no program."""
    path = precious(scene)
    (path / "model.mil").rename(path / "weights" / "model.mil")
    return path


def cell(variant: str = "fp16", samples: Any = ((1000.0, 1000.0), (1000.0, 1000.0)), **more: Any) -> dict[str, Any]:
    """A child's message of a cell."""
    return {"kind": "cell", "cell": {"variant": variant, "status": "ok", "samples_ns": samples, **more}}


NO_MESSAGE = "^the child sent what is no message: b"
MESSAGES = [
    Fault("message: no JSON", "message", NO_MESSAGE, prepare=sends(b"{ this is not JSON\n")),
    Fault("message: no text", "message", NO_MESSAGE, prepare=sends(b"\xff\xfe\x80\n")),
    Fault("message: empty", "message", NO_MESSAGE, prepare=sends(b"\n")),
    Fault("message: half a line", "message", NO_MESSAGE, prepare=sends(b'{"kind": "stage", "stage": "co')),
    Fault("message: no object", "message", NO_MESSAGE, prepare=sends(["stage"])),
    Fault("message: of no kind", "message", NO_MESSAGE, prepare=sends({"kind": "gossip"})),
    Fault("message: without its parts", "message", NO_MESSAGE, prepare=sends({"kind": "stage", "stage": "compile"})),
    Fault("message: of other types", "message", NO_MESSAGE,
          prepare=sends({"kind": "stage", "stage": 1, "variant": [], "limit": "x"})),
    Fault("message: a limit without end", "message|compile", NO_MESSAGE + "|without a result",
          prepare=sends({"kind": "stage", "stage": "compile", "variant": "fp16", "limit": 1e299})),
    Fault("message: round 1 of 0", "message|evaluate", NO_MESSAGE + "|without a result",
          prepare=sends({"kind": "stage", "stage": "evaluate", "variant": "fp16", "limit": 0, "number": 1, "of": 0})),
    Fault("message: a machine of other types", "message", NO_MESSAGE, prepare=sends(
        {"kind": "machine", "machine": {"python": "3", "cpus": [], "load_average": "much", "memory_bytes": {}, "chip": 5}})),
    Fault("message: a machine without its parts", "message", NO_MESSAGE, prepare=sends({"kind": "machine", "machine": {}})),
    Fault("message: a directory that is somebody's", "start", "ended without a result",
          prepare=lambda scene: sends({"kind": "directory", "path": str(diary(scene))})(scene)),
    Fault("message: nested deeply", "message", NO_MESSAGE, prepare=sends(b"[" * 100000 + b"\n")),
    Fault("message: 5000 digits", "message", NO_MESSAGE, prepare=sends(b'{"kind": "stage", "limit": ' + b"9" * 5000 + b"}\n")),
    Fault("cell: of another variant", "message", "a cell that cannot be: 'w8a16', 'ok'", prepare=sends(cell("w8a16"))),
    Fault("cell: of no variant", "message", "a cell that cannot be: 'fp17', 'ok'", prepare=sends(cell("fp17"))),
    Fault("cell: without samples", "message", "a cell that cannot be", prepare=sends(cell(samples=[]))),
    Fault("cell: with too few", "message", "a cell that cannot be", prepare=sends(cell(samples=[[1000.0, 1000.0]]))),
    Fault("cell: with none above 0", "message", "a cell that cannot be", prepare=sends(cell(samples=[[0.0, 1.0], [1.0, -1.0]]))),
    Fault("cell: with times that cannot be", "message", "a cell that cannot be|" + NO_MESSAGE,
          prepare=sends(cell(samples=[[1e-320, 1.0], [1.0, 1e299]]))),
    Fault("cell: with NaN", "message", NO_MESSAGE, prepare=sends(cell(samples=[[float("nan"), 1.0], [1.0, 1.0]]))),
    Fault("cell: with infinity", "message", NO_MESSAGE, prepare=sends(cell(samples=[[float("inf"), 1.0], [1.0, 1.0]]))),
    Fault("cell: failed, with a number for its stage", "message", NO_MESSAGE,
          prepare=sends(cell(samples=[], status="failed", stage=5))),
    Fault("cell: one of two", "start", "ended without a result", failed=("w8a8",), prepare=sends(cell())),
    Fault("child: says nothing and ends", "start", "^the child ended without a result: it wrote nothing to standard error$",
          prepare=runs("")),
    Fault("child: ends with an exit code", "start", "^the child ended with exit code 5: last words$",
          prepare=runs("import sys; print('first words\\nlast words\\n', file=sys.stderr); sys.exit(5)"), ends_badly=True),
    Fault("child: writes much to standard error", "start", "^the child ended with exit code 1: the end$", ends_badly=True,
          prepare=runs("import sys; sys.stderr.write('x' * 10000000 + '\\nthe end'); sys.exit(1)")),
    Fault("child: a line that never ends", "message", NO_MESSAGE + "'xxx",
          prepare=runs("import os\nfor _ in range(70 << 4): os.write(1, b'x' * (1 << 16))")),
    Fault("child: closes its output and stays", "start", "the child did not end", ends_badly=True,
          prepare=runs(f"import os, time; os.close(1); os.close(2); time.sleep({PATIENCE})")),
    Fault("child: cannot be started", "start", "/nowhere/python: No such file or directory",
          prepare=lambda scene: scene.drive({}, ("/nowhere/python",))),
]
# Those that last as long as the time limit.
WAITING = {"child: closes its output and stays", *(fault.name for fault in HANGING)}


# ----------------------------------------------------------------------------------------------------------------------
# What is missing, or other than known: the run cannot be made, or does without it
# ----------------------------------------------------------------------------------------------------------------------

class Lack(NamedTuple):
    """What this machine lacks. Where `told` (a pattern): exit 3 with that. Where `lost`: the run goes on, and neither its
    calls nor its record have that word, which they have where nothing is missing."""

    name: str
    settings: Mapping[str, str]
    told: str = ""
    lost: str = ""
    library: str = ""


# What of a run's calls and its record shows that a method was used. For the two that are never recorded the stand-in
# gives the answer with which there would be no run.
TRACES = {"localModelPath": "localModelPath", "compiledModelExists": "compiled", "purgeCompiledModel": "purge",
          "aneSubType": "ane_subtype", "numANEs": "ane_count", "numANECores": "ane_cores", "processInfo": "thermal_state",
          "thermalState": "thermal_state", "isLowPowerModeEnabled": "low_power_mode", "_ANEDeviceInfo": "ane_subtype",
          "NSProcessInfo": "low_power_mode"}
UNASKED = {"hasANE": {"DEVICE": "hasANE=0"}, "isVirtualMachine": {"DEVICE": "isVirtualMachine=1"}}
NEEDED_CLASSES = tuple(dict.fromkeys(method.class_name for method in ane_bench.METHODS if method.needed))
OTHER_CLASSES = tuple(dict.fromkeys(method.class_name for method in ane_bench.METHODS if method.class_name not in NEEDED_CLASSES))
# GNUstep looks for these by the function that hides them here, and does not get as far as to say so.
GNUSTEPS_OWN = () if sys.platform == "darwin" else ("NSString", "NSData")


def encoded(codes: Sequence[str]) -> str:
    """An encoding with codes of the result and the arguments, with offsets."""
    result, *arguments = (code + ("v" if code == "^" else "") for code in codes)
    return f"{result}{16 + 8 * len(arguments)}@0:8" + "".join(f"{code}{16 + 8 * index}" for index, code in enumerate(arguments))


def other_encodings(method: ane_bench.Method) -> Iterator[tuple[str, str]]:
    """A method's encoding with another result, another last argument, an argument more, and what is none."""
    result, arguments = method.kinds[0], list(method.kinds[1:])
    yield "another result", encoded(["@" if result != "@" else "Q", *arguments])
    yield ("another argument", encoded([result, *arguments[:-1], "i"])) if arguments else ("an argument", encoded([result, "@"]))


def spellings() -> dict[str, dict[str, str]]:
    """The kinds of every private method in other spellings."""
    private = [method for method in ane_bench.METHODS if method.class_name.startswith("_")]
    found: dict[str, Callable[[ane_bench.Method], str]] = {
        f"BOOL as {code}": lambda method, code=code: encoded(method.kinds.replace("B", code)) for code in "BcC"}  # type: ignore[misc]
    found["no offsets"] = lambda method: encoded(method.kinds).translate({ord(digit): None for digit in "0123456789"})
    found["other offsets"] = lambda method: re.sub("[0-9]+", lambda number: str(2 * int(number[0]) + 1), encoded(method.kinds))
    found["qualifiers"] = lambda method: "V" + re.sub(r"\^v", "r^{Name={Inner=^i[4c]}@?}", encoded(method.kinds))
    found["class names"] = lambda method: re.sub("@(?!0)", '@"NSDictionary"', encoded(method.kinds))
    return {name: {method.selector: spell(method) for method in private} for name, spell in found.items()}


def listed(encodings: Mapping[str, str]) -> dict[str, str]:
    """As the stand-in is told of them."""
    return {"ENCODING": " ".join(f"{selector}={encoding}" for selector, encoding in encodings.items())}


LACKS = [
    Lack("library missing", {}, told="cannot be opened: .*nowhere", library="/nowhere/library.so"),
    Lack("library a text file", {}, told=r"cannot be opened: .*\.py", library=__file__),
    Lack("library without the functions", {}, told="has no function (sysctlbyname|objc_getClass) here", library="ctypes"),
    *(Lack(f"class {name} missing", {"MISSING": name}, told=rf"no class {name};") for name in NEEDED_CLASSES),
    *(Lack(f"class {name} missing", {"MISSING": name}, lost=TRACES[name]) for name in OTHER_CLASSES),
    *(Lack(f"{method.name} missing", {"MISSING": method.selector}, told=rf"{re.escape(method.name)} is absent; expected ")
      for method in ane_bench.METHODS if method.needed),
    *(Lack(f"{method.name} missing", {"MISSING": method.selector, **UNASKED.get(method.selector, {})},
           lost=TRACES.get(method.selector, "")) for method in ane_bench.METHODS if not method.needed),
    *(Lack(f"{method.name} with {what}", listed({method.selector: encoding}),
           told=rf"{re.escape(method.name)} is of type {re.escape(encoding)}; expected ")
      for method in ane_bench.METHODS if method.needed and method.class_name.startswith("_")
      for what, encoding in other_encodings(method)),
    *(Lack(f"{method.name} with {what}", {**listed({method.selector: encoding}), **UNASKED.get(method.selector, {})},
           lost=TRACES.get(method.selector, ""))
      for method in ane_bench.METHODS if not method.needed for what, encoding in list(other_encodings(method))[:1]),
    *(Lack(f"encodings with {name}", listed(encodings)) for name, encodings in spellings().items()),
    Lack("no engine", {"DEVICE": "hasANE=0"}, told="the framework says that there is no Neural Engine"),
    Lack("a virtual machine, says the framework", {"DEVICE": "isVirtualMachine=1"}, told="this is a virtual machine"),
    Lack("a virtual machine, says the kernel", {"SYSCTL": "kern.hv_vmm_present=1"}, told="this is a virtual machine"),
    Lack("Rosetta", {"SYSCTL": "sysctl.proc_translated=1"},
         told="translated by Rosetta.*run the arm64 one: arch -arm64 /usr/bin/python3"),
    Lack("no sysctl", {"SYSCTL": "machdep.cpu.brand_string=;hw.model=;kern.osproductversion=;kern.osversion=;hw.memsize=;"
                                 "sysctl.proc_translated=;kern.hv_vmm_present="}, lost='"chip"'),
    Lack("no power source", {"POWER": ""}, lost="power_source"),
]


# ----------------------------------------------------------------------------------------------------------------------
# Ctrl-C and signals; the parent's end
# ----------------------------------------------------------------------------------------------------------------------

class Signal(NamedTuple):
    """A signal comes while the stand-in is at a stage, to all processes or to the parent alone; the exit code and the one
    line that must come of it, and how many configurations the record then holds."""

    name: str
    number: int
    to_group: bool
    code: int
    told: str
    stage: str
    which: int = 0
    arguments: Sequence[str] = BOTH_CONFIGS


def signals(number: signal.Signals, to_group: bool, code: int, told: str, stages: Sequence[str]) -> list[Signal]:
    """One at each of these stages."""
    to = "all" if to_group else "the parent"
    return [Signal(f"{number.name} to {to} at {stage}", number, to_group, code, told, stage) for stage in stages]


SIGNALS = [
    *signals(signal.SIGINT, True, 130, "interrupted", tuple(CALLS)),
    *signals(signal.SIGTERM, False, 143, "terminated", tuple(CALLS)),
    *signals(signal.SIGINT, False, 130, "interrupted", ("compile",)),
    *signals(signal.SIGTERM, True, 143, "terminated", ("compile", "evaluate")),
    # A terminal that is closed, and Ctrl-\: the parent just ends; the child cleans up.
    *signals(signal.SIGHUP, True, -signal.SIGHUP, "", ("compile", "evaluate")),
    *signals(signal.SIGQUIT, True, -signal.SIGQUIT, "", ("compile",)),
    Signal("SIGINT in the second configuration", signal.SIGINT, True, 130, "interrupted", "compile", which=1),
    Signal("SIGTERM in the second configuration", signal.SIGTERM, False, 143, "terminated", "evaluate", which=1),
    Signal("SIGINT in --original", signal.SIGINT, True, 130, "interrupted", "load",
           arguments=("--original", "--config", "512x64x2", "--config", "64x8x2")),
    Signal("SIGINT in doctor", signal.SIGINT, True, 130, "interrupted", "compile", arguments=("doctor",)),
    Signal("SIGTERM in doctor", signal.SIGTERM, False, 143, "terminated", "evaluate", arguments=("doctor",)),
]


class Orphan(NamedTuple):
    """The parent is killed while the stand-in is at a stage."""

    name: str
    stage: str


ORPHANS = [Orphan(f"parent killed at {stage}", stage) for stage in CALLS]


# ----------------------------------------------------------------------------------------------------------------------
# Output: files, standard output and error, terminals, names
# ----------------------------------------------------------------------------------------------------------------------

class Unsaved(NamedTuple):
    """A file that cannot be written, as is seen at the start: exit 2, one line, nothing measured."""

    name: str
    prepare: Callable[[Scene], str]
    told: str


def read_only_home(scene: Scene) -> str:
    scene.read_only(scene.directory / "home")
    return str(scene.directory / "home" / "r.json")


def read_only_record(scene: Scene) -> str:
    """A file is replaced, not written into: what counts is its directory."""
    path = read_only_home(scene)
    (scene.directory / "home").chmod(0o700)
    Path(path).write_text("old")
    (scene.directory / "home").chmod(0o500)
    return path


def fifo(scene: Scene) -> str:
    os.mkfifo(scene.directory / "fifo")
    return str(scene.directory / "fifo")


def file_as_home(scene: Scene) -> str:
    (scene.directory / "home").write_text("")
    return str(scene.directory / "home" / "r.json")


UNSAVED = [
    Unsaved("--save in no directory", lambda scene: str(scene.directory / "none" / "r.json"), "No such file or directory"),
    Unsaved("--save a directory", lambda scene: str(scene.temporary), "it is a directory"),
    Unsaved("--save no file", fifo, "it is no regular file"),
    Unsaved("--save below a file", file_as_home, "Not a directory"),
    Unsaved("--save of a name too long", lambda scene: str(scene.directory / ("n" * 300)), "File name too long"),
    Unsaved("--save in a read-only directory", read_only_home, "Permission denied"),
    Unsaved("--save over a file in a read-only directory", read_only_record, "Permission denied"),
]


class Stream(NamedTuple):
    """A way to be run, and a check of what comes of it."""

    name: str
    check: Callable[["FaultTest", Scene], None]


def is_table(output: str, results: int = 2) -> bool:
    """Whether the whole table of the two configurations was printed."""
    return [len(re.findall(rf"^{label} 2x conv {channels}ch 8x8 .* ok$", output, re.MULTILINE))
            for channels in (64, 32)[:results] for label in ("FP16", "W8A8")] == [1] * 2 * results


def save_directory_gone(test: "FaultTest", scene: Scene) -> None:
    home = scene.directory / "home"
    home.mkdir()
    scene.drive({"STANDIN_FAULT": ""})
    scene.settings["FAULT"] = "fp16/compile:slow=1"
    run = scene.start(*BOTH_CONFIGS, "--save", str(home / "r.json"))
    run.await_call("compile fp16")
    shutil.rmtree(home)
    finished = run.finish()
    test.assertEqual(finished.code, 1)
    test.assertTrue(is_table(finished.output), finished.output)
    test.assertEqual(finished.errors.count("r.json: cannot be written: No such file or directory\n"), 2)


def save_directory_back(test: "FaultTest", scene: Scene) -> None:
    home, away = scene.directory / "home", scene.directory / "away"
    home.mkdir()
    scene.settings["FAULT"] = "fp16/compile:slow=1"
    run = scene.start(*BOTH_CONFIGS, "--save", str(home / "record.json"))
    run.await_call("compile fp16", 1)
    home.rename(away)
    run.await_call("compile fp16", 2)
    away.rename(home)
    finished = run.finish()
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertEqual(finished.errors.count("record.json: cannot be written: No such file or directory\n"), 1)
    test.assertEqual(len(ane_bench.read_record(str(home / "record.json"))["results"]), 2)


def save_disk_full(test: "FaultTest", scene: Scene) -> None:
    """The first configuration's record fits, that of both does not."""
    home = scene.directory / "home"
    scene.small_disk(home, 12 << 10, 6 << 10)
    path = home / "r.json"
    finished = scene.run("--config", "8x8x2", "--config", "8x4x2", *SMALL[2:], "--save", str(path))
    test.assertEqual(finished.code, 1)
    test.assertEqual(len(re.findall(r"^(FP16|W8A8) 2x conv 8ch .* ok$", finished.output, re.MULTILINE)), 4, finished.output)
    test.assertRegex(finished.errors, "r.json: cannot be written: (No space left on device|File too large)\n")
    test.assertEqual([result["config"]["spatial"] for result in ane_bench.read_record(str(path))["results"]], [8])
    test.assertEqual([file.name for file in home.iterdir()], ["r.json"])


def save_survives_interrupt(test: "FaultTest", scene: Scene) -> None:
    scene.saved.write_text("old")
    scene.settings["FAULT"] = f"compile:slow={PATIENCE}"
    run = scene.start(*BOTH_CONFIGS, "--save", str(scene.saved))
    run.await_call("compile fp16")
    run.signal_group(signal.SIGINT)
    test.assertEqual(run.finish().code, 130)
    test.assertEqual(scene.saved.read_text(), "old")


def save_survives_kill(test: "FaultTest", scene: Scene) -> None:
    scene.saved.write_text("old")
    scene.settings["FAULT"] = f"compile:slow={PATIENCE}"
    run = scene.start(*BOTH_CONFIGS, "--save", str(scene.saved))
    run.await_call("compile fp16")
    run.signal(signal.SIGKILL)
    run.process.communicate()
    test.assertTrue(run.is_over(PATIENCE))
    test.assertEqual(scene.saved.read_text(), "old")


def save_survives_no_engine(test: "FaultTest", scene: Scene) -> None:
    scene.saved.write_text("old")
    scene.settings["MISSING"] = "_ANERequest"
    test.assertEqual(scene.run(*BOTH_CONFIGS, "--save", str(scene.saved)).code, 3)
    test.assertEqual(scene.saved.read_text(), "old")


def save_survives_usage(test: "FaultTest", scene: Scene) -> None:
    scene.saved.write_text("old")
    for words in (("--iters", "3"), ("--nonsense",), ("--variants", "fp17"), ("--seed", "-1")):
        test.assertEqual(scene.run(*BOTH_CONFIGS, "--save", str(scene.saved), *words).code, 2)
    test.assertEqual((scene.saved.read_text(), scene.calls()), ("old", []))


def head(test: "FaultTest", scene: Scene) -> None:
    """`| head -1`, which goes away when it has its line. What was measured by then is saved."""
    scene.drive({"STANDIN_FAULT": "fp16/compile:slow=1"})  # so that it is gone before there is more
    run = scene.start(*BOTH_CONFIGS, "--save", str(scene.saved), bufsize=0)
    assert run.process.stdout
    test.assertRegex(os.read(run.process.stdout.fileno(), 20).decode(), "^=== ane_bench ")
    run.process.stdout.close()
    run.process.stdout = None
    finished = run.finish()
    test.assertEqual(finished.code, 1)
    test.assertEqual([result["config"]["channels"] for result in scene.record()["results"]], [64, 32])


def reader_gone(format_: str, *arguments: str) -> Callable[["FaultTest", Scene], None]:
    """Nobody reads standard output from the start."""
    def check(test: "FaultTest", scene: Scene) -> None:
        for words in ((*arguments, "--format", format_), ("--version",), ("--help",)):
            reading, writing = os.pipe()
            os.close(reading)
            run = scene.start(*words, stdout=writing)
            os.close(writing)
            finished = run.finish()
            test.assertEqual(finished.code, 1, finished.errors)
            test.assertNotRegex(finished.errors, "cannot be written|Error")
    return check


NO_OUTPUT = "ane_bench: standard output: cannot be written: "


def full() -> BinaryIO:
    """A file that takes nothing."""
    return open("/dev/full", "wb") if os.path.exists("/dev/full") else open(os.devnull, "rb")


def device_full(*arguments: str) -> Callable[["FaultTest", Scene], None]:
    """Standard output on a full disk."""
    def check(test: "FaultTest", scene: Scene) -> None:
        for words in (arguments, ("--version",), ("--help",)):
            with full() as target:
                finished = scene.run(*words, stdout=target)
            test.assertEqual(finished.code, 1, finished.errors)
            test.assertRegex(finished.errors, f"{NO_OUTPUT}(No space left on device|Bad file descriptor)\n$")
    return check


def closed(redirection: str, *arguments: str, code: int, told: str = ".*",
           says: str = ".*") -> Callable[["FaultTest", Scene], None]:
    """Started by a shell that closes descriptors."""
    def check(test: "FaultTest", scene: Scene) -> None:
        scene.prefix = ("/bin/sh", "-c", f'exec "$@" {redirection}', "sh")
        finished = scene.run(*arguments)
        test.assertEqual(finished.code, code, finished)
        test.assertRegex(finished.errors, told)
        test.assertRegex(finished.output, says)
        if "2>&-" in redirection:
            test.assertEqual(finished.errors, "")
        if "json" in arguments and code == 0:
            test.assertEqual(json.loads(finished.output)["schema"], "ane-bench/1")
    return check


def errors_full(test: "FaultTest", scene: Scene) -> None:
    """Standard error takes nothing: neither the results nor the exit code suffer."""
    with full() as target:
        finished = scene.run(*BOTH_CONFIGS, stderr=target)
    test.assertEqual(finished.code, 0)
    test.assertTrue(is_table(finished.output), finished.output)


def errors_reader_gone(test: "FaultTest", scene: Scene) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = scene.start(*BOTH_CONFIGS, stderr=writing)
    os.close(writing)
    finished = run.finish()
    test.assertEqual(finished.code, 0)
    test.assertTrue(is_table(finished.output), finished.output)


def ascii_only(fault: str) -> Callable[["FaultTest", Scene], None]:
    """A terminal of long ago, in each format."""
    def check(test: "FaultTest", scene: Scene) -> None:
        scene.environment.update(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        scene.settings["FAULT"] = fault
        signs = {"table": r" \?95%", "markdown": r"\?95%", "csv": "^config,", "json": "ane-bench/1"}
        for format_ in ane_bench.FORMATS:
            finished = scene.run(*SMALL, "--format", format_)
            test.assertEqual(finished.code, 1 if fault else 0, finished.errors)
            test.assertTrue((finished.output + finished.errors).isascii())
            test.assertRegex(finished.output, signs[format_])
            if fault:
                test.assertRegex(finished.output, r"le mod\?le \? x|le mod\\u00e8le \\u00ab x")
    return check


class Terminal:
    """What a run on a terminal of its own shows."""

    def __init__(self, scene: Scene, *arguments: str) -> None:
        self.shown = bytearray()
        self._main, side = pty.openpty()
        # The terminal becomes the controlling one, so that its Ctrl-C reaches the run.
        code = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        scene.prefix = (sys.executable, "-I", "-c", code)
        self.run = scene.start(*arguments, stdin=side, stdout=side, stderr=side)
        os.close(side)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        """Linux says by an error that nobody holds the other side any more, macOS by an end."""
        with contextlib.suppress(OSError):
            while select.select([self._main], [], [], PATIENCE)[0]:
                data = os.read(self._main, 1 << 16)
                if not data:
                    break
                self.shown += data

    def type(self, keys: bytes) -> None:
        """As a person does."""
        os.write(self._main, keys)

    def close(self) -> int:
        """Waits for the end; the exit code."""
        finished = self.run.finish()
        self._reader.join(PATIENCE)
        os.close(self._main)
        return finished.code


def terminal(test: "FaultTest", scene: Scene) -> None:
    """The live line is drawn again and again, and gone before each result."""
    screen = Terminal(scene, *BOTH_CONFIGS)
    test.assertEqual(screen.close(), 0)
    shown = screen.shown.decode().replace("\r\n", "\n")
    test.assertGreater(shown.count("\r\x1b[K[1/2] 64x8x2 "), 5)
    test.assertIn("\r\x1b[K[2/2] 32x8x2 fp16,w8a8: round 2 of 2", shown)
    test.assertEqual(len(re.findall("\r\x1b\\[K(?==== ane_bench|FP16 2x conv 32ch)", shown)), 2)
    test.assertTrue(is_table(re.sub("[^\n]*\r\x1b\\[K", "", shown)), shown)


def terminal_interrupted(test: "FaultTest", scene: Scene) -> None:
    """Ctrl-C as it is typed."""
    scene.settings["FAULT"] = f"compile:slow={PATIENCE}"
    screen = Terminal(scene, *BOTH_CONFIGS)
    screen.run.await_call("compile fp16")
    screen.type(b"\x03")
    test.assertEqual(screen.close(), 130)
    test.assertEqual(screen.shown.decode().count("ane_bench: interrupted"), 1)
    test.assertNotIn("Traceback", screen.shown.decode())


def no_terminal(test: "FaultTest", scene: Scene) -> None:
    """Plain lines, and few."""
    finished = scene.run(*BOTH_CONFIGS)
    test.assertEqual(finished.code, 0)
    test.assertTrue(is_table(finished.output), finished.output)
    test.assertNotRegex(finished.output + finished.errors, "[\r\x1b]")
    test.assertIn("[1/2] 64x8x2 fp16: ", finished.errors)


def named(where: str) -> Callable[["FaultTest", Scene], None]:
    """A name that is not ASCII, with spaces and quotes."""
    def check(test: "FaultTest", scene: Scene) -> None:
        place = scene.directory / "Ünï «cödé» 'q' \"r\" 測試 𝛑"
        place.mkdir()
        if where == "TMPDIR":
            scene.temporary = place
        elif where == "module":
            scene.file = place / "bänch.py"
            shutil.copy(MODULE, scene.file)
        elif where == "library":
            shutil.copy(scene.standin, place / "ständ.so")
            scene.standin = place / "ständ.so"
        scene.saved = (place if where == "--save" else scene.directory) / "récord.json"
        finished = scene.run(*BOTH_CONFIGS, "--save", str(scene.saved))
        test.assertEqual(finished.code, 0, finished.errors)
        test.assertTrue(is_table(finished.output), finished.output)
        test.assertEqual(len(scene.record()["results"]), 2)
        test.assertIn("récord.json", scene.record()["command"])
        if where == "library":
            scene.standin = place / "nöne"
            finished = scene.run(*BOTH_CONFIGS)
            test.assertEqual(finished.code, 3)
            test.assertIn("nöne", finished.errors)
        if where == "TMPDIR":
            scene.temporary.rmdir()
            finished = scene.run(*SMALL)
            test.assertEqual(finished.code, 1)
            test.assertIn(f"{place.name}/", finished.output)
    return check


def every_disk_full(test: "FaultTest", scene: Scene) -> None:
    """Python then finds no directory for temporary files, either."""
    scene.prefix = limited(0)
    scene.environment["STANDIN_LOG"] = ""
    finished = scene.run(*BOTH_CONFIGS)
    test.assertEqual(finished.code, 1, finished.errors)
    test.assertEqual(len(re.findall(r"^(FP16|W8A8) 2x conv (64|32)ch 8x8 .*failed in stage files: .*: File too large$",
                                    finished.output, re.MULTILINE)), 4, finished.output)


def module_gone(test: "FaultTest", scene: Scene) -> None:
    """The file is deleted while the first configuration is measured: there is no second child, and the first's figures stay."""
    scene.file = scene.directory / "copy.py"
    shutil.copy(MODULE, scene.file)
    scene.settings["FAULT"] = "fp16/compile:slow=1"
    run = scene.start(*BOTH_CONFIGS, "--save", str(scene.saved))
    run.await_call("compile fp16")
    scene.file.unlink()
    finished = run.finish()
    test.assertEqual(finished.code, 1, finished.errors)
    test.assertTrue(is_table(finished.output, results=1), finished.output)
    test.assertRegex(finished.output, "(?m)^W8A8 2x conv 32ch 8x8 .*failed in stage start: .*copy.py")
    test.assertEqual([result["variants"]["fp16"]["status"] for result in scene.record()["results"]], ["ok", "failed"])


def engine_gone(test: "FaultTest", scene: Scene) -> None:
    """What is missing only when the second configuration begins is that one's failure."""
    scene.drive({"STANDIN_MISSING": "_ANERequest"})
    finished = scene.run(*BOTH_CONFIGS, "--save", str(scene.saved))
    test.assertEqual(finished.code, 1, finished.errors)
    test.assertTrue(is_table(finished.output, results=1), finished.output)
    test.assertRegex(finished.output, "(?m)^W8A8 2x conv 32ch 8x8 .*failed in stage .*no class _ANERequest")
    test.assertEqual([result["variants"]["w8a8"]["status"] for result in scene.record()["results"]], ["ok", "failed"])


def again_and_again(test: "FaultTest", scene: Scene) -> None:
    """Cleaning up is done by the first Ctrl-C, and not broken off by the next."""
    scene.settings["FAULT"] = f"compile:slow={PATIENCE}"
    run = scene.start(*BOTH_CONFIGS)
    run.await_call("compile fp16")
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError):
            run.signal_group(signal.SIGINT)
        time.sleep(0.002)
    finished = run.finish()
    test.assertEqual(finished.code, 130, finished.errors)
    test.assertEqual(finished.errors.count("ane_bench: interrupted"), 1)


def in_the_background(test: "FaultTest", scene: Scene) -> None:
    """As a shell starts it there: Ctrl-C is for somebody else."""
    scene.prefix = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")
    scene.settings["FAULT"] = "fp16/compile:slow=0.5"
    run = scene.start(*BOTH_CONFIGS)
    run.await_call("compile fp16")
    run.signal_group(signal.SIGINT)
    finished = run.finish()
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertTrue(is_table(finished.output), finished.output)


def every_verb(test: "FaultTest", scene: Scene) -> None:
    """Where nothing is wrong, nothing is said."""
    test.assertEqual(scene.run(*BOTH_CONFIGS, "--save", str(scene.saved), "--quiet")._replace(output=""), (0, "", ""))
    for words in (("compare", str(scene.saved), str(scene.saved)), ("chart", str(scene.saved)), ("doctor",), ("--help",),
                  ("emit", str(scene.directory / "programs"), "--config", "64x8x2"), ("--engine", "reference", *SMALL, "--quiet")):
        finished = scene.run(*words)
        test.assertEqual((finished.code, finished.errors), (0, ""), words)


STREAMS = [
    Stream("--save: directory gone during the run", save_directory_gone),
    Stream("--save: directory gone and back", save_directory_back),
    Stream("--save: disk full later", save_disk_full),
    Stream("--save: an old record survives Ctrl-C", save_survives_interrupt),
    Stream("--save: an old record survives the parent's death", save_survives_kill),
    Stream("--save: an old record survives exit 3", save_survives_no_engine),
    Stream("--save: an old record survives exit 2", save_survives_usage),
    Stream("| head -1", head),
    Stream("standard output: reader gone, table", reader_gone("table", *BOTH_CONFIGS)),
    Stream("standard output: reader gone, json", reader_gone("json", *BOTH_CONFIGS)),
    Stream("standard output: reader gone, doctor", reader_gone("table", "doctor")),
    Stream("standard output: closed", closed(">&-", *BOTH_CONFIGS, code=1, told=NO_OUTPUT)),
    Stream("standard output: closed, json", closed(">&-", *SMALL, "--format", "json", code=1, told=NO_OUTPUT)),
    Stream("standard output: closed, doctor", closed(">&-", "doctor", code=1, told=NO_OUTPUT)),
    Stream("standard output: closed, usage", closed(">&-", "--nonsense", code=2, told="^ane_bench: .*nonsense")),
    Stream("standard output: /dev/full", device_full(*BOTH_CONFIGS)),
    Stream("standard output: /dev/full, json", device_full(*SMALL, "--format", "json")),
    Stream("standard output: not UTF-8", ascii_only("")),
    Stream("standard output: not UTF-8, and an error that is not ASCII", ascii_only("w8a8/compile:unicode")),
    Stream("standard error: closed", closed("2>&-", *SMALL, "--format", "json", code=0)),
    Stream("standard error: closed, usage", closed("2>&-", "--nonsense", code=2, says="^$")),
    Stream("standard error: /dev/full", errors_full),
    Stream("standard error: reader gone", errors_reader_gone),
    Stream("standard input: closed", closed("<&-", *SMALL, "--format", "json", code=0)),
    Stream("all three closed", closed("<&- >&- 2>&-", *SMALL, code=1)),
    Stream("no terminal", no_terminal),
    Stream("a terminal", terminal),
    Stream("Ctrl-C on a terminal", terminal_interrupted),
    Stream("Ctrl-C again and again", again_and_again),
    Stream("Ctrl-C for another", in_the_background),
    Stream("TMPDIR not ASCII", named("TMPDIR")),
    Stream("--save not ASCII", named("--save")),
    Stream("module not ASCII", named("module")),
    Stream("library not ASCII", named("library")),
    Stream("every disk full", every_disk_full),
    Stream("module deleted during the run", module_gone),
    Stream("engine gone during the run", engine_gone),
]


# ----------------------------------------------------------------------------------------------------------------------
# Two runs at the same time
# ----------------------------------------------------------------------------------------------------------------------

WAITS = "ane_bench: waiting for another run on this machine to end (it holds the lock on "


def at_once(scene: Scene, seconds: float, *arguments: str) -> tuple[Started, Started]:
    """A run that takes that long, and another that was started while it measures."""
    scene.settings["FAULT"] = f"fp16/load:slow={seconds}"
    first = scene.start(*SMALL)
    first.await_call("load fp16")
    scene.settings["FAULT"] = ""
    return first, scene.start(*arguments)


def second_waits(test: "FaultTest", scene: Scene) -> None:
    """Longer than its own time limit, which does not run meanwhile."""
    first, second = at_once(scene, SHORT + 1.5, *SMALL, "--timeout", str(SHORT), "--format", "json")
    started = time.monotonic()
    finished = second.finish()
    test.assertGreater(time.monotonic() - started, SHORT)
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertEqual(finished.errors.splitlines()[0], f"{WAITS}{scene.temporary})")
    test.assertEqual(json.loads(finished.output)["results"][0]["variants"]["w8a8"]["status"], "ok")
    ended = first.finish()
    test.assertEqual(ended.code, 0, ended.errors)
    test.assertNotIn("waiting", ended.errors)
    # No call of the second before the last of the first.
    calls = scene.calls()
    test.assertEqual(len([call for call in calls if call.startswith("purge")]), 4)
    test.assertLess([index for index, call in enumerate(calls) if call.startswith("purge")][1],
                    [index for index, call in enumerate(calls) if call.startswith("compile fp16")][1])


def second_waits_quietly(test: "FaultTest", scene: Scene) -> None:
    first, second = at_once(scene, 1, *SMALL, "--quiet")
    finished = second.finish()
    test.assertEqual((finished.code, finished.errors), (0, f"{WAITS}{scene.temporary})\n"))  # else it would seem to hang
    test.assertEqual(first.finish().code, 0)


def second_interrupted(test: "FaultTest", scene: Scene) -> None:
    """While it waits; the first does not notice."""
    first, second = at_once(scene, 3, *SMALL)
    assert second.process.stderr
    test.assertIn(WAITS, second.process.stderr.readline())
    second.signal_group(signal.SIGINT)
    finished = second.finish()
    test.assertEqual((finished.code, finished.output, finished.errors), (130, "", "ane_bench: interrupted\n"))
    test.assertEqual(first.finish().code, 0)
    test.assertEqual(len([call for call in scene.calls() if call.startswith("compile fp16")]), 1)


def first_killed(test: "FaultTest", scene: Scene) -> None:
    """The second goes on at once: the lock is no file that a run which died leaves behind."""
    first, second = at_once(scene, PATIENCE, *SMALL)
    assert second.process.stderr
    test.assertIn(WAITS, second.process.stderr.readline())
    first.signal(signal.SIGKILL)
    first.process.communicate()
    finished = second.finish()
    test.assertEqual(finished.code, 0, finished.errors)
    test.assertTrue(first.is_over(PATIENCE))


TOGETHER = [
    Stream("two runs: the second waits, and its time limit with it", second_waits),
    Stream("two runs: --quiet waits, too", second_waits_quietly),
    Stream("two runs: Ctrl-C while it waits", second_interrupted),
    Stream("two runs: the first is killed", first_killed),
]

TABLES: dict[str, Sequence[Any]] = {
    "refusals": REFUSALS, "endings": ENDINGS, "hanging": HANGING, "kills": KILLS, "rubbish": RUBBISH, "directories": DIRECTORIES,
    "places": PLACES, "messages": MESSAGES, "lacks": LACKS, "signals": SIGNALS, "orphans": ORPHANS, "unsaved": UNSAVED,
    "streams": STREAMS, "together": TOGETHER}
# Every case of this file. README tells how many there are.
CASES: list[Any] = [case for table in TABLES.values() for case in table]
# Those that are run once more with everything on that Python has to find faults in a program.
DEVELOPMENT = {
    "w8a8/compile:no", "w8a8/evaluate:no@8", "load:raise", "evaluate:crash@4", "unload:no", "compile:rubbish", "TMPDIR full",
    "evaluate: SIGKILL from outside", "message: no JSON", "cell: without samples", "child: ends with an exit code",
    "class _ANERequest missing", "-[_ANEInMemoryModel purgeCompiledModel] missing", "SIGINT to all at evaluate",
    "SIGTERM to the parent at compile", "parent killed at load", "--save in no directory", "--save: disk full later", "| head -1",
    "standard output: closed", "standard output: /dev/full", "standard error: closed", "a terminal",
    "two runs: Ctrl-C while it waits"}


class FaultTest(unittest.TestCase):
    """All cases, several at a time."""

    def setUp(self) -> None:
        support.standin_library()
        # A shell in the background, or nohup, has these ignored, and what is ignored stays so in all that is started.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            if signal.getsignal(number) == signal.SIG_IGN:
                self.addCleanup(signal.signal, number, signal.signal(number, lambda *_: None))
        holder = tempfile.TemporaryDirectory(prefix="ane_bench_")
        self.addCleanup(holder.cleanup)
        self.workshop = Path(holder.name)
        self.python, self.file = support.own_python(), support.compiled_module()

    def scene(self) -> Scene:
        """A new one."""
        scene = Scene(Path(tempfile.mkdtemp(dir=self.workshop)))
        scene.python, scene.file = self.python, self.file
        self.addCleanup(scene.closing.close)
        return scene

    def each(self, cases: Sequence[Any], at_a_time: int = AT_A_TIME) -> None:
        """Checks all of some cases, each in a scene of its own."""
        checks: dict[type, Callable[[Scene, Any], None]] = {
            Fault: self.check_fault, Lack: self.check_lack, Signal: self.check_signal, Orphan: self.check_orphan,
            Unsaved: self.check_unsaved, Stream: self.check_stream}

        def outcome(case: Any) -> Optional[Exception]:
            scene = self.scene()
            try:
                with scene.closing:
                    checks[type(case)](scene, case)
            except Exception as error:
                return error
            return None

        with ThreadPoolExecutor(at_a_time) as pool:
            outcomes = list(pool.map(outcome, cases))
        self.assertGreater(len(outcomes), 0)
        for case, error in zip(cases, outcomes):
            with self.subTest(case.name):
                if error:
                    raise error

    def check_clean(self, scene: Scene, finished: Finished) -> None:
        """No traceback, nothing on standard error but what this program says, nothing left behind."""
        self.assertNotIn("Traceback", finished.errors)
        for line in finished.errors.splitlines():
            self.assertRegex(line, r"^(\[[0-9]+/[0-9]+\] |ane_bench: |Without one, |Should this )")
        self.assertEqual([path.name for path in scene.models()], [])
        self.assertEqual(list(scene.directory.rglob("*.partial")), [])

    def check_balance(self, scene: Scene) -> None:
        """Every object and every surface that was made is gone."""
        balance: dict[str, int] = {}
        for line in scene.calls():
            word, _, name = line.partition(" ")
            if word in ("alloc", "dealloc"):
                balance[name] = balance.get(name, 0) + (1 if word == "alloc" else -1)
        self.assertEqual({name: count for name, count in balance.items() if count}, {})

    def check_fault(self, scene: Scene, fault: Fault) -> None:
        """A run of two configurations with a fault in the first."""
        scene.drive({"STANDIN_FAULT": ""})
        if fault.prepare:
            fault.prepare(scene)
        if fault.fault:
            scene.settings["FAULT"] = fault.fault
        limit = ("--timeout", str(SHORT)) if fault.name in WAITING else ()
        run = scene.start(*BOTH_CONFIGS, "--save", str(scene.saved), *limit)
        if fault.act:
            run.await_call(fault.at, fault.times)
            fault.act(run)
        finished = run.finish()
        record = scene.record()
        self.check_results(fault, finished, record)
        warnings = [warning["message"] for warning in record["warnings"] if warning["code"] == "unload"]
        if fault.warned:
            self.assertRegex(warnings[0], fault.warned)
            self.assertRegex(finished.errors, rf"(?m)^ane_bench: warning \(unload\) .*{fault.warned}")
        else:
            self.assertEqual(warnings, [])
        if fault.fault.startswith("w8a8/evaluate:"):
            self.assertEqual(sum(call.endswith("-> NO") for call in scene.calls()), 1, "it went on after a NO")
        if not fault.ends_badly:
            self.check_balance(scene)
            self.check_what_children_said(scene, fault)
        if fault.left:
            self.check_untouched(scene, fault.left[0])
        elif fault.name == "message: a directory that is somebody's":
            self.assertEqual((scene.directory / "precious" / "diary").read_text(), "precious")
        elif (scene.directory / "precious").exists():
            self.check_precious(scene)
        self.check_clean(scene, finished)

    def check_results(self, fault: Fault, finished: Finished, record: Mapping[str, Any]) -> None:
        """Which cells failed and why, by the record and by the table."""
        self.assertEqual(finished.code, 1 if fault.failed or fault.later else 0, finished.errors)
        self.assertEqual([result["config"]["channels"] for result in record["results"]], [64, 32])
        for result, failed, stage, reason in zip(record["results"], (fault.failed, BOTH if fault.later else ()),
                                                 (fault.stage, "files"), (fault.reason, fault.later)):
            self.assertEqual(tuple(result["variants"]), BOTH)
            for variant, found in result["variants"].items():
                if variant in failed:
                    self.assertEqual(found["status"], "failed")
                    self.assertRegex(found["stage"], f"^({stage})$", found)
                    self.assertRegex(found["error"], reason)
                    self.assertLess(len(found["error"]), 1000)
                    self.assertNotIn("ms", found)
                    label = ane_bench.VARIANTS[variant].label
                    line = f"{label} 2x conv {result['config']['channels']}ch 8x8 .*failed in stage {re.escape(found['stage'])}: "
                    self.assertRegex(finished.output, f"(?m)^{line}{re.escape(found['error'])}$")
                else:
                    self.assertEqual((found["status"], found.get("error")), ("ok", None))
                    self.assertEqual(len(found["samples_ns"]), 2)
            self.assertEqual(set(result["ratio"]), {"w8a8"} if not failed else set())
        self.assertEqual(finished.output.count("failed in stage"), len(fault.failed) + (2 if fault.later else 0))

    def check_what_children_said(self, scene: Scene, fault: Fault) -> None:
        """Nothing, but the rubbish that one was told to write."""
        said = scene.children_said()
        if "rubbish" in fault.name:
            self.assertIn("this is not JSON", said)
        else:
            self.assertEqual(said, "")

    def check_untouched(self, scene: Scene, kind: str) -> None:
        """What was in a model directory's place is there as it was."""
        path, = scene.models()
        self.assertEqual(path.name, identifier())
        self.assertEqual(path.is_symlink(), kind == "link")
        if kind == "file":
            self.assertEqual(path.read_text(), "precious")
        if path.exists():
            self.check_precious(scene)
        path.unlink()

    def check_precious(self, scene: Scene) -> None:
        """Somebody's directory is as it was."""
        directory = scene.directory / "precious"
        files = {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}
        self.assertEqual(files, dict.fromkeys(("model.mil", "weights/weight.bin", "diary"), "precious"))

    def check_lack(self, scene: Scene, lack: Lack) -> None:
        """A run on a machine that lacks something."""
        scene.settings.update(lack.settings)
        if lack.library:
            scene.standin = sys.modules["_ctypes"].__file__ or "" if lack.library == "ctypes" else lack.library
        finished = scene.run(*SMALL, "--save", str(scene.saved))
        self.check_clean(scene, finished)
        if lack.told and lack.settings.get("MISSING") in GNUSTEPS_OWN:
            self.assertEqual(finished.code, 1)
            self.assertRegex(finished.output, "failed in stage start: the child was killed by SIGABRT")
        elif lack.told:
            self.assertEqual((finished.code, finished.output), (3, ""), finished.errors)
            first, *others = finished.errors.splitlines()
            self.assertRegex(first, f"^ane_bench: no usable Neural Engine: .*{lack.told}")
            self.assertRegex("\n".join(others), r"^Without one, .*\n.* report it with the output of: python3 ane_bench.py doctor$")
            self.assertFalse(scene.saved.exists())
            self.assertFalse([call for call in scene.calls() if call.startswith(("descriptor", "compile"))])
        else:
            self.assertEqual(finished.code, 0, finished.errors)
            self.assertEqual([cell["status"] for cell in scene.record()["results"][0]["variants"].values()], ["ok", "ok"])
            self.check_balance(scene)
            if lack.lost:
                self.assertNotIn(lack.lost, json.dumps(scene.record()) + "".join(scene.calls()))

    def check_signal(self, scene: Scene, case: Signal) -> None:
        """A run that is broken off."""
        fault = at_stage(case.stage, f"slow={PATIENCE}")
        if case.which:
            scene.drive({"STANDIN_FAULT": fault})
        else:
            scene.settings["FAULT"] = fault
        doctor = case.arguments == ("doctor",)
        run = scene.start(*case.arguments, *(() if doctor else ("--save", str(scene.saved))))
        run.await_call(CALLS[case.stage], CALLED.get(case.stage, 1) + case.which * CALLED_IN_ALL.get(case.stage, 1))
        started = time.monotonic()
        (run.signal_group if case.to_group else run.signal)(case.number)
        if case.code < 0:
            run.process.wait(PATIENCE)
            self.assertTrue(run.is_over(PATIENCE / 2), "the child did not end")
        finished = run.finish()
        self.assertLess(time.monotonic() - started, PATIENCE / 2)
        self.assertEqual(finished.code, case.code, finished.errors)
        said = [line for line in finished.errors.splitlines() if not line.startswith("[")]
        self.assertEqual(said, [f"ane_bench: {case.told}"] if case.told else [])
        self.assertEqual(len(scene.record()["results"]) if scene.saved.exists() else 0, case.which)
        if case.which:
            self.assertTrue(is_table(finished.output, results=case.which), finished.output)
        elif not doctor:
            self.assertEqual(finished.output, "")
        self.check_clean(scene, finished)

    def check_orphan(self, scene: Scene, case: Orphan) -> None:
        """A child whose parent is no more."""
        scene.settings["FAULT"] = at_stage(case.stage, "hang")
        run = scene.start(*BOTH_CONFIGS)
        run.await_call(CALLS[case.stage], CALLED.get(case.stage, 1))
        stages = tuple(CALLS)
        self.assertEqual(bool(scene.models()), stages.index(case.stage) >= stages.index("compile"))
        self.assertGreater(run.child(), 0)
        run.signal(signal.SIGKILL)
        run.process.communicate(timeout=PATIENCE)
        self.assertEqual(run.process.returncode, -signal.SIGKILL)
        self.assertTrue(run.is_over(ORPHANED), "the child did not end")
        self.assertEqual(scene.models(), [])

    def check_unsaved(self, scene: Scene, case: Unsaved) -> None:
        """A run that does not begin."""
        path = case.prepare(scene)
        finished = scene.run(*BOTH_CONFIGS, "--save", path)
        self.assertEqual((finished.code, finished.output), (2, ""))
        self.assertRegex(finished.errors, rf"^ane_bench: {re.escape(path)}: cannot be written: {case.told}\n$")
        self.assertEqual(scene.calls(), [])
        self.check_clean(scene, finished)

    def check_stream(self, scene: Scene, case: Stream) -> None:
        """A case that checks itself, with what holds for all."""
        case.check(self, scene)
        for finished in scene.finished:
            self.check_clean(scene, finished)

    def test_refusals(self) -> None:
        self.each(REFUSALS)

    def test_endings(self) -> None:
        self.each(ENDINGS)

    def test_hanging(self) -> None:
        self.each(HANGING, AT_A_TIME_WHERE_THEY_WAIT)

    def test_kills(self) -> None:
        self.each(KILLS)

    def test_rubbish(self) -> None:
        self.each(RUBBISH)

    def test_directories(self) -> None:
        self.each(DIRECTORIES)

    def test_places(self) -> None:
        find_identifier(self.scene())
        self.each(PLACES)

    def test_messages(self) -> None:
        self.each(MESSAGES)

    def test_lacks(self) -> None:
        self.each(LACKS)

    def test_what_lacks_take_away_is_there(self) -> None:
        """So that its absence means something."""
        scene = self.scene()
        self.assertEqual(scene.run(*SMALL, "--save", str(scene.saved)).code, 0)
        text = json.dumps(scene.record()) + "".join(scene.calls())
        for word in {lack.lost for lack in LACKS} | set(TRACES.values()):
            self.assertIn(word, text)
        for method in ane_bench.METHODS:
            self.assertTrue(method.needed or method.selector in {**TRACES, **UNASKED}, f"what shows that {method.name} is used?")

    def test_signals(self) -> None:
        self.each(SIGNALS, AT_A_TIME + 1)

    def test_orphans(self) -> None:
        self.each(ORPHANS, AT_A_TIME + 1)

    def test_unsaved(self) -> None:
        self.each(UNSAVED)

    def test_streams(self) -> None:
        self.each(STREAMS, AT_A_TIME + 1)

    def test_together(self) -> None:
        self.each(TOGETHER, AT_A_TIME_WHERE_THEY_WAIT)

    def test_with_everything_on(self) -> None:
        """Neither parents nor children have a word of warning to say."""
        self.python, self.file = [sys.executable, "-X", "dev", "-W", "error"], MODULE
        chosen = [case for case in CASES if case.name in DEVELOPMENT]
        self.assertEqual({case.name for case in chosen}, DEVELOPMENT)
        self.each([Stream("every verb", every_verb), *chosen], AT_A_TIME + 1)

    def test_every_case_counts(self) -> None:
        """None is there twice, each is in a test, and README tells how many there are."""
        self.assertEqual(len({case.name for case in CASES}), len(CASES))
        for name in TABLES:
            self.assertTrue(hasattr(self, f"test_{name}"), name)
        readme = support.ROOT / "README.md"
        for count in re.findall(r"(\d+) faults", readme.read_text(encoding="utf-8") if readme.exists() else ""):
            self.assertEqual(int(count), len(CASES))
