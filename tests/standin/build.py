"""Build the stand-in library: `python3 tests/standin/build.py [DIRECTORY]` prints its path.

Without DIRECTORY it is kept in the user's directory for caches, one build for each checkout, which
is made anew if its source is newer. On Linux it needs gobjc and libgnustep-base-dev, on a Mac the
command line tools.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = "gobjc and libgnustep-base-dev (apt-get install gobjc libgnustep-base-dev)"
# Of gnustep-config: these write dependency files beside the object, or are for debugging.
UNWANTED = {"-MMD", "-MP", "-g", "-O2", "-DGSWARN", "-DGSDIAGNOSE", "-Wall", "-I."}


class Unavailable(Exception):
    """A tool or header is not installed; the text says how to install it."""


def cached_build() -> Path:
    """Return the stand-in, built if the cache holds none, or one that is older than its source or
    this file. Raise as `build`, and OSError if the cache cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = root / "ane_bench" / f"standin-{hashlib.sha256(str(HERE).encode()).hexdigest()[:12]}"
    target = place / _library_name("standin")
    changed = max(path.stat().st_mtime_ns for path in (HERE / "standin.m", Path(__file__)))
    if not target.exists() or target.stat().st_mtime_ns < changed:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="new_", dir=place) as name:
            os.replace(build(Path(name)), target)
    return target


def build(directory: Path, *, source: str = "standin.m", shared: bool = True,
          defines: Sequence[str] = (), libraries: Sequence[Path] = ()) -> Path:
    """Compile a source (beside this file, or a whole path) to a library or program in a directory,
    and return its path. `defines` are NAME or NAME=VALUE; `libraries` are linked to by their paths.
    Raise Unavailable if compiler or headers are missing, RuntimeError with the compiler's messages
    if it refuses the source."""
    path = HERE / source
    target = directory / (_library_name(path.stem) if shared else path.stem)
    front, back = _mac_command(shared) if sys.platform == "darwin" else _gnustep_command(shared)
    # Without fused multiply-adds results are the same on every processor.
    command = [*front, "-std=gnu11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra",
               "-Wno-expansion-to-defined", *(f"-D{define}" for define in defines), str(path),
               "-o", str(target), *back]
    for library in libraries:
        command += [str(library), f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
                          errors="replace", check=False)
    missing = re.search(r"cc1obj|\S+\.h(?=: No such file)|(?<=cannot find )-l\S+|"
                        r"(?<=file not found: )\S+", done.stderr)
    if done.returncode and missing:
        raise Unavailable(f"Objective-C cannot be compiled here ({missing[0]} is missing): "
                          f"install {PACKAGES}")
    if done.returncode:
        raise RuntimeError(f"the compiler refuses the source:\n{done.stderr}")
    return target


def _library_name(stem: str) -> str:
    return stem + (".dylib" if sys.platform == "darwin" else ".so")


def _mac_command(shared: bool) -> tuple[list[str], list[str]]:
    """Return the command before and after source and target."""
    if not shutil.which("clang"):
        raise Unavailable("there is no clang: install the command line tools "
                          "(xcode-select --install)")
    return ["clang", "-fno-objc-arc", "-fobjc-exceptions", *["-dynamiclib"] * shared], \
        ["-framework", "Foundation", "-framework", "CoreFoundation", "-lobjc"]


def _gnustep_command(shared: bool) -> tuple[list[str], list[str]]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise Unavailable(f"there is no C compiler: install gcc, {PACKAGES}")
    if not shutil.which("gnustep-config"):
        raise Unavailable(f"there is no gnustep-config: install {PACKAGES}")
    flags, libraries = (shlex.split(subprocess.check_output(["gnustep-config", option], text=True))
                        for option in ("--objc-flags", "--base-libs"))
    kept = [flag for flag in flags if flag not in UNWANTED]
    return [compiler, "-x", "objective-c", *kept, "-fPIC", *["-shared"] * shared], \
        ["-x", "none", *libraries, "-ldl"]


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1])) if len(sys.argv) > 1 else cached_build())
    except Unavailable as reason:
        sys.exit(str(reason))
