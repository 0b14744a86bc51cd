"""Drive a stand-in library by hand: `python3 tests/standin/driver.py LIBRARY < JOB`.

Bare ctypes, without ane_bench, so that the stand-in can be tested by itself. JOB is JSON:
`programs` maps a name to a program ({"mil": text, "blob": base64, "input": base64, "channels": N,
"input_bytes" and "output_bytes": sizes of the surfaces}), `acts` is a list of acts, each a list
whose first item names a method of `Driver`. It prints one line of JSON per act: its result.
"""

import base64
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from ctypes import c_bool, c_char_p, c_int, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Optional

QOS = 21
KEY = "@model_path/weights/weight.bin"
LOCK_READ_ONLY = 1
DEEPEST = 12  # levels of NSErrors that are read


class Library:
    """Messages to the library's objects; every call is typed by hand."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        pointer, pointers = [c_void_p], [c_void_p, c_void_p]
        for name, result, arguments in (
                ("objc_getClass", c_void_p, [c_char_p]), ("sel_registerName", c_void_p, [c_char_p]),
                ("objc_autoreleasePoolPush", c_void_p, []), ("NSTemporaryDirectory", c_void_p, []),
                ("class_getClassMethod", c_void_p, pointers), ("mach_absolute_time", c_uint64, []),
                ("class_getInstanceMethod", c_void_p, pointers),
                ("IOSurfaceCreate", c_void_p, pointer),
                ("IOSurfaceGetBaseAddress", c_void_p, pointer),
                ("IOSurfaceLock", c_int, [c_void_p, c_uint32, c_void_p]),
                ("IOSurfaceUnlock", c_int, [c_void_p, c_uint32, c_void_p]),
                ("sysctlbyname", c_int, [c_char_p, c_void_p, c_void_p, c_void_p, ctypes.c_size_t])):
            function = getattr(self.library, name)
            function.restype, function.argtypes = result, arguments
        self.library.objc_autoreleasePoolPush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)

    def named(self, name: str) -> int:
        """Return a class."""
        found: Optional[int] = self.objc_getClass(name.encode())
        assert found, name
        return found

    def send(self, receiver: Optional[int], selector: str, *arguments: Any,
             result: Any = c_void_p) -> Any:
        """Send a message; integers are pointers, other arguments are ctypes values."""
        types = [c_void_p if argument is None or isinstance(argument, int) else type(argument)
                 for argument in arguments]
        kind = ctypes.CFUNCTYPE(result, c_void_p, c_void_p, *types)
        function = kind(("objc_msgSend", self.library))
        return function(receiver, self.sel_registerName(selector.encode()), *arguments)

    def string(self, text: str) -> int:
        """Return an NSString."""
        found: int = self.send(self.named("NSString"), "stringWithUTF8String:",
                               c_char_p(text.encode()))
        return found

    def text(self, string: Optional[int]) -> Optional[str]:
        """Return an NSString's text."""
        found = self.send(string, "UTF8String", result=c_char_p) if string else None
        return None if found is None else found.decode()

    def number(self, value: int) -> int:
        """Return an NSNumber."""
        found: int = self.send(self.named("NSNumber"), "numberWithUnsignedLongLong:",
                               c_uint64(value))
        return found

    def data(self, content: bytes) -> int:
        """Return an NSData with a copy of bytes."""
        found: int = self.send(self.named("NSData"), "dataWithBytes:length:", c_char_p(content),
                               c_uint64(len(content)))
        return found

    def dictionary(self, *pairs: tuple[int, int]) -> int:
        """Return an NSDictionary of pairs of key and value."""
        found: int = self.send(self.named("NSMutableDictionary"), "dictionary")
        for key, value in pairs:
            self.send(found, "setObject:forKey:", value, key, result=None)
        return found

    def array(self, item: int) -> int:
        """Return an NSArray of one object."""
        found: int = self.send(self.named("NSArray"), "arrayWithObject:", item)
        return found

    def is_a(self, thing: int, name: str) -> bool:
        """Return whether an object is of a class."""
        return bool(self.send(thing, "isKindOfClass:", self.named(name), result=c_bool))


class Driver:
    """One worker's acts, in the order of the job; each public method is an act."""

    def __init__(self, path: str, programs: dict[str, Any]) -> None:
        self.library = Library(path)
        self.programs = programs
        self.models: dict[str, int] = {}
        self.surfaces: dict[str, tuple[int, int]] = {}
        self.requests: dict[str, int] = {}
        self.descriptors: dict[str, int] = {}
        ratio = (c_uint32 * 2)()
        self.library.library.mach_timebase_info(ratio)
        self.tick_ns = ratio[0] / ratio[1]

    def chain(self, slot: c_void_p) -> Optional[list[Any]]:
        """Return domain, code, text of each NSError from the outermost on, then what ends it."""
        library, error = self.library, slot.value
        found: list[Any] = []
        seen: list[int] = []
        if not error:
            return None
        while error and len(found) < DEEPEST:
            if error in seen:
                return [*found, f"again {seen.index(error)}"]
            seen.append(error)
            if not library.is_a(error, "NSError"):
                return [*found, f"text {library.text(error)}"]
            code = library.send(error, "code", result=ctypes.c_long)
            found.append([library.text(library.send(error, "domain")), code,
                          library.text(library.send(error, "localizedDescription"))])
            info = library.send(error, "userInfo")
            if not info:
                return [*found, "nil"]
            error = library.send(info, "objectForKey:", library.string("NSUnderlyingError"))
        return found

    def make(self, name: str) -> bool:
        """Make the model and write its files."""
        library, program = self.library, self.programs[name]
        blob = base64.b64decode(program["blob"])
        entry = library.dictionary((library.string("data"), library.data(blob)))
        weights = library.dictionary((library.string(KEY), entry))
        self.descriptors[name] = library.send(
            library.named("_ANEInMemoryModelDescriptor"), "modelWithMILText:weights:optionsPlist:",
            library.data(program["mil"].encode()), weights, None)
        if not self.descriptors[name]:
            return False
        model = library.send(library.named("_ANEInMemoryModel"), "inMemoryModelWithDescriptor:",
                             self.descriptors[name])
        if not model:
            return False
        self.models[name] = library.send(model, "retain")
        directory = Path(str(self.path(name)))
        (directory / "weights").mkdir(parents=True, exist_ok=True)
        (directory / "model.mil").write_text(program["mil"])
        (directory / "weights/weight.bin").write_bytes(blob)
        return True

    def path(self, name: str) -> Optional[str]:
        """Return localModelPath."""
        return self.library.text(self.library.send(self.models[name], "localModelPath"))

    def identifier(self, name: str) -> Optional[str]:
        """Return hexStringIdentifier."""
        return self.library.text(self.library.send(self.models[name], "hexStringIdentifier"))

    def _stage(self, name: str, selector: str) -> Any:
        slot = c_void_p()
        done = self.library.send(self.models[name], selector, c_uint32(QOS),
                                 self.library.dictionary(), ctypes.addressof(slot), result=c_bool)
        return True if done else self.chain(slot)

    def compile(self, name: str) -> Any:
        """Compile; return True or the chain of errors."""
        return self._stage(name, "compileWithQoS:options:error:")

    def load(self, name: str) -> Any:
        """Load; return True or the chain of errors."""
        return self._stage(name, "loadWithQoS:options:error:")

    def start(self, name: str) -> Any:
        """Make, compile, load, write the input: return True or what failed."""
        if not self.make(name):
            return "make"
        for stage in (self.compile, self.load):
            done = stage(name)
            if done is not True:
                return done
        program = self.programs[name]
        self._bind(name, program.get("input_bytes") or len(base64.b64decode(program["input"])),
                   program["output_bytes"])
        self.write(name)
        return True

    def attributes(self, name: str, inner: bool = True) -> Any:
        """Return modelAttributes of the inner or the outer model; None if there is none."""
        library, model = self.library, self.models[name]
        for selector in ("model", "modelAttributes")[0 if inner else 1:]:
            found = library.send(model, "class")
            name = library.sel_registerName(selector.encode())
            if not library.class_getInstanceMethod(found, name):
                return None
            model = library.send(model, selector)
            if not model:
                return None
        return self.value(model)

    def value(self, thing: int) -> Any:
        """Return a dictionary, array, number or string of Foundation's as Python's."""
        library = self.library
        if library.is_a(thing, "NSNumber"):
            return library.send(thing, "unsignedLongLongValue", result=c_uint64)
        if library.is_a(thing, "NSString"):
            return library.text(thing)
        keys = library.send(thing, "allKeys") if library.is_a(thing, "NSDictionary") else thing
        items = [library.send(keys, "objectAtIndex:", c_uint64(index))
                 for index in range(library.send(keys, "count", result=c_uint64))]
        if keys == thing:
            return [self.value(item) for item in items]
        return {library.text(key): self.value(library.send(thing, "objectForKey:", key))
                for key in items}

    def _surface(self, size: int) -> int:
        library = self.library
        values = {"Width": size, "Height": 1, "BytesPerElement": 1, "BytesPerRow": size,
                  "AllocSize": size, "PixelFormat": 0}
        pairs = [(library.string(f"IOSurface{key}"), library.number(value))
                 for key, value in values.items()]
        found: int = library.IOSurfaceCreate(library.dictionary(*pairs))
        assert found, "IOSurfaceCreate"
        return found

    def _bind(self, name: str, input_bytes: int, output_bytes: int) -> None:
        library = self.library
        self.surfaces[name] = self._surface(input_bytes), self._surface(output_bytes)
        zero = library.array(library.number(0))
        wrapper = library.named("_ANEIOSurfaceObject")
        ends = [library.array(library.send(wrapper, "objectWithIOSurface:", surface))
                for surface in self.surfaces[name]]
        request = library.send(
            library.named("_ANERequest"), "requestWithInputs:inputIndices:outputs:outputIndices:"
            "weightsBuffer:perfStats:procedureIndex:", ends[0], zero, ends[1], zero, None, None,
            library.number(0))
        self.requests[name] = library.send(request, "retain")

    def _access(self, name: str, index: int, content: Optional[bytes], size: int = 0) -> bytes:
        library, surface = self.library, self.surfaces[name][index]
        options = 0 if content is not None else LOCK_READ_ONLY
        assert library.IOSurfaceLock(surface, options, None) == 0
        address = library.IOSurfaceGetBaseAddress(surface)
        if content is not None:
            ctypes.memmove(address, content, len(content))
        found = ctypes.string_at(address, size)
        library.IOSurfaceUnlock(surface, options, None)
        return found

    def write(self, name: str) -> None:
        """Write the input."""
        self._access(name, 0, base64.b64decode(self.programs[name]["input"]))

    def poison(self, name: str) -> None:
        """Write NaN over the whole output."""
        self._access(name, 1, b"\0\x7e" * (self.programs[name]["output_bytes"] // 2))

    def poke(self, name: str, channel: int, pixel: int) -> None:
        """Write NaN over one place of a channel of the output, given in elements of its surface."""
        program, surface = self.programs[name], self.surfaces[name][1]
        self.library.IOSurfaceLock(surface, 0, None)
        address = self.library.IOSurfaceGetBaseAddress(surface)
        plane = program["output_bytes"] // program["channels"]
        ctypes.memmove(address + channel * plane + 2 * pixel, b"\0\x7e", 2)
        self.library.IOSurfaceUnlock(surface, 0, None)

    def read(self, name: str) -> str:
        """Return the output in base64."""
        content = self._access(name, 1, None, self.programs[name]["output_bytes"])
        return base64.b64encode(content).decode()

    def evaluate(self, name: str, times: int = 1) -> list[Any]:
        """Evaluate; return of each the ns by the library's clock, or the chain of errors."""
        library, found = self.library, []
        slot, options = c_void_p(), library.dictionary()
        call = ctypes.CFUNCTYPE(c_bool, c_void_p, c_void_p, c_uint32, c_void_p, c_void_p, c_void_p)(
            ("objc_msgSend", library.library))
        selector = library.sel_registerName(b"evaluateWithQoS:options:request:error:")
        for _ in range(times):
            before = library.mach_absolute_time()
            done = call(self.models[name], selector, QOS, options, self.requests[name],
                        ctypes.addressof(slot))
            after = library.mach_absolute_time()
            found.append((after - before) * self.tick_ns if done else self.chain(slot))
        return found

    def unload(self, name: str) -> Any:
        """Unload; return True or the chain of errors."""
        slot = c_void_p()
        done = self.library.send(self.models[name], "unloadWithQoS:error:", c_uint32(QOS),
                                 ctypes.addressof(slot), result=c_bool)
        return True if done else self.chain(slot)

    def purge(self, name: str) -> None:
        """Purge the compiled program."""
        self.library.send(self.models[name], "purgeCompiledModel", result=None)

    def compiled(self, name: str) -> bool:
        """Return compiledModelExists."""
        return bool(self.library.send(self.models[name], "compiledModelExists", result=c_bool))

    def clock(self, times: int = 1) -> list[int]:
        """Return successive readings of mach_absolute_time."""
        return [self.library.mach_absolute_time() for _ in range(times)]

    def tick(self) -> float:
        """Return the ns of a tick."""
        return self.tick_ns

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""
        time.sleep(seconds)

    def temporary(self) -> Optional[str]:
        """Return NSTemporaryDirectory."""
        return self.library.text(self.library.NSTemporaryDirectory())

    def device(self, name: str) -> Any:
        """Return a value of _ANEDeviceInfo: text if its name ends like one, else a number."""
        library = self.library
        information = library.named("_ANEDeviceInfo")
        selector = library.sel_registerName(name.encode())
        if not library.class_getClassMethod(information, selector):
            return None
        if name.endswith("Type"):
            return library.text(library.send(information, name))
        return library.send(information, name, result=c_uint32)

    def system(self, name: str) -> str:
        """Return a text of sysctlbyname."""
        buffer, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
        self.library.sysctlbyname(name.encode(), buffer, ctypes.addressof(size), None, 0)
        return buffer.value.decode()


def start(library: Path, programs: dict[str, dict[str, Any]], acts: Sequence[Sequence[Any]],
          variables: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a driver on a job, in an environment of these variables and PATH alone."""
    command = [sys.executable, "-IS", __file__, str(library)]
    started = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", env={"PATH": "/usr/bin:/bin", **variables})
    assert started.stdin
    started.stdin.write(json.dumps({"programs": programs, "acts": acts}))
    started.stdin.close()
    started.stdin = None
    return started


def main() -> None:
    """Do a job's acts; print the result of each at once, so that a crash loses none."""
    job = json.load(sys.stdin)
    driver = Driver(sys.argv[1], job["programs"])
    for name, *arguments in job["acts"]:
        print(json.dumps(getattr(driver, name)(*arguments)), flush=True)


if __name__ == "__main__":
    os.umask(0o077)
    main()
