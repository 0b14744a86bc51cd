"""Drive a stand-in library by hand: `python3 tests/standin/driver.py LIBRARY < JOB`.

Bare ctypes, without ane_bench, so that the stand-in can be tested by itself. JOB is JSON:
`programs` maps a name to a program ({"mil": text, "blob": base64, "input": base64, "channels": N,
"input_bytes" and "output_bytes": sizes of the surfaces}), `acts` is a list of acts, such as
`evaluate a 30`: a method of `Driver`, its arguments. Each act's result is a line of JSON.
"""

import base64
import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Optional, Union

QOS = 21
NAN = b"\0\x7e"
REQUEST = ("requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:"
           "procedureIndex:")


class Driver:
    """One worker's acts, in the order of the job. Every call is typed by hand."""

    def __init__(self, path: str, programs: dict[str, Any]) -> None:
        self.c = ctypes.CDLL(path)
        lock = (c_void_p, c_uint32, c_void_p)
        for name, result, *arguments in (
                ("objc_getClass", c_void_p, c_char_p), ("sel_registerName", c_void_p, c_char_p),
                ("objc_autoreleasePoolPush", c_void_p), ("NSTemporaryDirectory", c_void_p),
                ("class_getInstanceMethod", c_void_p, c_void_p, c_void_p),
                ("mach_absolute_time", c_uint64), ("IOSurfaceCreate", c_void_p, c_void_p),
                ("IOSurfaceGetBaseAddress", c_void_p, c_void_p),
                ("IOSurfaceLock", c_int, *lock), ("IOSurfaceUnlock", c_int, *lock),
                ("sysctlbyname", c_int, c_char_p, c_void_p, c_void_p, c_void_p, c_size_t)):
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments
        self.c.objc_autoreleasePoolPush()
        self.programs = programs
        self.models: dict[str, int] = {}
        self.surfaces: dict[str, list[int]] = {}
        self.requests: dict[str, int] = {}

    def send(self, receiver: Union[int, str, None], selector: str, *arguments: Any,
             result: Any = c_void_p) -> Any:
        """Send a message, to a class if it is a name; integers are pointers, other arguments are
        ctypes values."""
        if isinstance(receiver, str):
            receiver = self.c.objc_getClass(receiver.encode())
            assert receiver, selector
        types = [c_void_p if argument is None or isinstance(argument, int) else type(argument)
                 for argument in arguments]
        function = ctypes.CFUNCTYPE(result, c_void_p, c_void_p, *types)(("objc_msgSend", self.c))
        return function(receiver, self.c.sel_registerName(selector.encode()), *arguments)

    def string(self, text: str) -> Any:
        return self.send("NSString", "stringWithUTF8String:", c_char_p(text.encode()))

    def text(self, string: Optional[int]) -> Optional[str]:
        found = self.send(string, "UTF8String", result=c_char_p) if string else None
        return None if found is None else found.decode()

    def number(self, value: int) -> Any:
        return self.send("NSNumber", "numberWithUnsignedLongLong:", c_uint64(value))

    def data(self, content: bytes) -> Any:
        return self.send("NSData", "dataWithBytes:length:", c_char_p(content),
                         c_uint64(len(content)))

    def dictionary(self, pairs: dict[str, int]) -> Any:
        found = self.send("NSMutableDictionary", "dictionary")
        for key, value in pairs.items():
            self.send(found, "setObject:forKey:", value, self.string(key), result=None)
        return found

    def array(self, item: int) -> Any:
        return self.send("NSArray", "arrayWithObject:", item)

    def is_a(self, thing: int, name: str) -> bool:
        kind = self.c.objc_getClass(name.encode())
        return bool(self.send(thing, "isKindOfClass:", kind, result=c_bool))

    def value(self, thing: int) -> Any:
        """Return a dictionary, array, number or string of Foundation's as Python's."""
        if self.is_a(thing, "NSNumber"):
            return self.send(thing, "unsignedLongLongValue", result=c_uint64)
        if self.is_a(thing, "NSString"):
            return self.text(thing)
        keys = self.send(thing, "allKeys") if self.is_a(thing, "NSDictionary") else thing
        items = [self.send(keys, "objectAtIndex:", c_uint64(index))
                 for index in range(self.send(keys, "count", result=c_uint64))]
        if keys == thing:
            return [self.value(item) for item in items]
        return {self.text(key): self.value(self.send(thing, "objectForKey:", key))
                for key in items}

    def chain(self, slot: c_void_p) -> list[Any]:
        """Return domain, code, text of each NSError from the outermost on, then what ends it."""
        error, found, seen = slot.value, list[Any](), list[int]()
        while error and len(found) < 12:
            if error in seen:
                return [*found, f"again {seen.index(error)}"]
            seen.append(error)
            if not self.is_a(error, "NSError"):
                return [*found, f"text {self.text(error)}"]
            domain, text = (self.text(self.send(error, name))
                            for name in ("domain", "localizedDescription"))
            found.append([domain, self.send(error, "code", result=ctypes.c_long), text])
            info = self.send(error, "userInfo")
            if not info:
                return [*found, "nil"]
            error = self.send(info, "objectForKey:", self.string("NSUnderlyingError"))
        return found

    # From a program to its evaluates. A stage returns True or the chain of errors.

    def make(self, name: str) -> None:
        program = self.programs[name]
        blob = base64.b64decode(program["blob"])
        entry = self.dictionary({"data": self.data(blob)})
        descriptor = self.send(
            "_ANEInMemoryModelDescriptor", "modelWithMILText:weights:optionsPlist:",
            self.data(program["mil"].encode()),
            self.dictionary({"@model_path/weights/weight.bin": entry}), None)
        model = self.send("_ANEInMemoryModel", "inMemoryModelWithDescriptor:", descriptor)
        self.models[name] = self.send(model, "retain")
        directory = Path(str(self.path(name)))
        (directory / "weights").mkdir(parents=True, exist_ok=True)
        (directory / "model.mil").write_text(program["mil"])
        (directory / "weights/weight.bin").write_bytes(blob)

    def path(self, name: str) -> Optional[str]:
        return self.text(self.send(self.models[name], "localModelPath"))

    def identifier(self, name: str) -> Optional[str]:
        return self.text(self.send(self.models[name], "hexStringIdentifier"))

    def _stage(self, name: str, selector: str, *options: int) -> Any:
        slot = c_void_p()
        done = self.send(self.models[name], selector, c_uint32(QOS), *options,
                         ctypes.addressof(slot), result=c_bool)
        return True if done else self.chain(slot)

    def compile(self, name: str) -> Any:
        return self._stage(name, "compileWithQoS:options:error:", self.dictionary({}))

    def load(self, name: str) -> Any:
        return self._stage(name, "loadWithQoS:options:error:", self.dictionary({}))

    def unload(self, name: str) -> Any:
        return self._stage(name, "unloadWithQoS:error:")

    def start(self, name: str) -> Any:
        """Make, compile, load, write the input: return True or the chain of errors."""
        self.make(name)
        for stage in (self.compile, self.load):
            done = stage(name)
            if done is not True:
                return done
        program = self.programs[name]
        self.surfaces[name] = [self._surface(program[size])
                               for size in ("input_bytes", "output_bytes")]
        given, written = (self.array(self.send("_ANEIOSurfaceObject", "objectWithIOSurface:", each))
                          for each in self.surfaces[name])
        zero = self.number(0)
        request = self.send("_ANERequest", REQUEST, given, self.array(zero), written,
                            self.array(zero), None, None, zero)
        self.requests[name] = self.send(request, "retain")
        content = base64.b64decode(program["input"])
        with self._mapped(name, 0) as address:
            ctypes.memmove(address, content, len(content))
        return True

    def attributes(self, name: str, inner: bool = True) -> Any:
        """Return modelAttributes of the inner or the outer model; None if there is none."""
        model = self.models[name]
        for selector in ("model", "modelAttributes")[0 if inner else 1:]:
            found = self.c.sel_registerName(selector.encode())
            if not self.c.class_getInstanceMethod(self.send(model, "class"), found):
                return None
            model = self.send(model, selector)
            if not model:
                return None
        return self.value(model)

    def evaluate(self, name: str, times: int = 1) -> list[Any]:
        """Evaluate; return of each the ns by the library's clock, or the chain of errors."""
        found, slot, options, ratio = [], c_void_p(), self.dictionary({}), (c_uint32 * 2)()
        self.c.mach_timebase_info(ratio)
        call = ctypes.CFUNCTYPE(c_bool, c_void_p, c_void_p, c_uint32, c_void_p, c_void_p, c_void_p)(
            ("objc_msgSend", self.c))
        selector = self.c.sel_registerName(b"evaluateWithQoS:options:request:error:")
        for _ in range(times):
            before = self.c.mach_absolute_time()
            done = call(self.models[name], selector, QOS, options, self.requests[name],
                        ctypes.addressof(slot))
            ticks = self.c.mach_absolute_time() - before
            found.append(ticks * ratio[0] / ratio[1] if done else self.chain(slot))
        return found

    def purge(self, name: str) -> None:
        self.send(self.models[name], "purgeCompiledModel", result=None)

    def compiled(self, name: str) -> bool:
        return bool(self.send(self.models[name], "compiledModelExists", result=c_bool))

    def _surface(self, size: int) -> int:
        values = {"Width": size, "Height": 1, "BytesPerElement": 1, "BytesPerRow": size,
                  "AllocSize": size, "PixelFormat": 0}
        found: int = self.c.IOSurfaceCreate(self.dictionary(
            {f"IOSurface{key}": self.number(value) for key, value in values.items()}))
        assert found, "IOSurfaceCreate"
        return found

    @contextlib.contextmanager
    def _mapped(self, name: str, index: int, options: int = 0) -> Iterator[int]:
        """Lock a program's input (0) or output (1), and yield its address."""
        surface = self.surfaces[name][index]
        assert self.c.IOSurfaceLock(surface, options, None) == 0
        yield self.c.IOSurfaceGetBaseAddress(surface)
        self.c.IOSurfaceUnlock(surface, options, None)

    def poison(self, name: str) -> None:
        with self._mapped(name, 1) as address:
            size = self.programs[name]["output_bytes"]
            ctypes.memmove(address, NAN * (size // 2), size)

    def poke(self, name: str, channel: int, pixel: int) -> None:
        """Write NaN over one place of a channel of the output, given in elements of its surface."""
        plane = self.programs[name]["output_bytes"] // self.programs[name]["channels"]
        with self._mapped(name, 1) as address:
            ctypes.memmove(address + channel * plane + 2 * pixel, NAN, 2)

    def read(self, name: str) -> str:
        with self._mapped(name, 1, 1) as address:  # read-only
            content = ctypes.string_at(address, self.programs[name]["output_bytes"])
        return base64.b64encode(content).decode()

    def clock(self, times: int) -> list[int]:
        return [self.c.mach_absolute_time() for _ in range(times)]

    def sleep(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)

    def temporary(self) -> Optional[str]:
        return self.text(self.c.NSTemporaryDirectory())

    def system(self, name: str) -> str:
        buffer, size = ctypes.create_string_buffer(256), c_size_t(256)
        self.c.sysctlbyname(name.encode(), buffer, ctypes.addressof(size), None, 0)
        return buffer.value.decode()


if __name__ == "__main__":
    os.umask(0o077)
    job = json.load(sys.stdin)
    driver = Driver(sys.argv[1], job["programs"])
    for act in job["acts"]:  # each result at once, so that a crash loses none
        method, *words = act.split()
        operands = [int(word) if word.isdigit() else word for word in words]
        print(json.dumps(getattr(driver, method)(*operands)), flush=True)
