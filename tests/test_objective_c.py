"""Section 7: the Objective-C runtime, over the stand-in's real runtime and Foundation."""

import contextlib
import ctypes
import subprocess
import sys
import unittest

import ane_bench
from ane_bench import Libraries, Pointer, Runtime, Unavailable, parse_encoding
from tests import support


class EncodingTest(unittest.TestCase):
    """Type encodings are read type by type, whatever their offsets and qualifiers."""

    def test_encodings(self) -> None:
        for encoding, codes in (
                ("B36@0:8I16@20^@28", "B@:I@^"), ("v16@0:8", "v@:"), ("^?8@0:8", "^@:"),
                ("@72@0:8@16@24@32@40@48@56@64", "@@:@@@@@@@"), ("C36@0:8I16@20^@28", "C@:I@^"),
                ("@24@0:8^{__IOSurface=}16", "@@:^"), ("Vv16@0:8", "v@:"), ("r*16@0:8", "*@:"),
                ("@40@0:8^@16^@24Q32", "@@:^^Q"), ("@24@0:8r^v16", "@@:^"), ("@?16@0:+8", "@@:"),
                ('@"NSString"16@0:8', "@@:"), ("^^{a=^{b}[4i]}8@0:8", "^@:"), ("", ""),
                ("B24@0:8#16", "B@:#"), ("B@:I@^@", "B@:I@^"),
                # What is passed by value is of a type that no call can pass.
                ("{_NSRange=QQ}16@0:8", "_@:"), ("v@:{CGRect={CGPoint=dd}{CGSize=dd}}", "v@:_"),
                ("v@:@{_NSRange=QQ}@", "v@:@_@"), ("v@:(u=id)", "v@:_"),
                ('v@:{a="b"@"NSString""c"[4i]}', "v@:_"), ("v@:[12^f]", "v@:_")):
            with self.subTest(encoding):
                self.assertEqual("".join(parse_encoding(encoding)), codes)
        self.assertEqual(ane_bench.kind_of("_"), "unknown type _")

    def test_cut_encodings_end(self) -> None:
        for encoding in ("{a", "^", "r", '@"x', "[4{", "+", "9", "{a)", "^^", "]"):
            parse_encoding(encoding)


class RuntimeTest(unittest.TestCase):
    def setUp(self) -> None:
        self.runtime = Runtime(Libraries(str(support.standin_library())))
        pool = contextlib.ExitStack()
        pool.enter_context(self.runtime.pool())
        self.addCleanup(pool.close)

    def test_values_go_there_and_back(self) -> None:
        runtime = self.runtime
        for text in ("", "plain", "ünïcödé ✓ 𝛑"):
            self.assertEqual(runtime.text(runtime.string(text)), text)
        self.assertEqual(runtime.text(Pointer()), "")
        for number in (0, 1, 1 << 40, (1 << 64) - 1):
            self.assertEqual(runtime.send(runtime.number(number), "unsignedLongLongValue"), number)

    def test_collections(self) -> None:
        runtime = self.runtime
        strings = [runtime.string(text) for text in "abc"]
        array, pairs = runtime.array(*strings), runtime.dictionary([(strings[0], strings[1])])
        for found, expected in ((runtime.send(array, "objectAtIndex:", 2), "c"),
                                (runtime.send(pairs, "objectForKey:", runtime.string("a")), "b")):
            self.assertEqual(runtime.text(found), expected)
        for several, count in ((array, 3), (pairs, 1), (runtime.dictionary(), 0)):
            self.assertEqual(runtime.send(several, "count"), count)

    def test_data_share_the_buffer(self) -> None:
        buffer = bytearray(b"0123456789")
        data = self.runtime.data(buffer)
        buffer[0:1] = b"x"
        self.assertEqual(self.runtime.send(data, "length"), 10)
        start = self.runtime.send(data, "bytes").value
        self.assertEqual(ctypes.string_at(start, 10), b"x123456789")

    def test_what_cannot_be_sent_is_a_python_error_that_names_it(self) -> None:
        text, array = self.runtime.string("abc"), self.runtime.array()
        for receiver, selector, arguments, words in (
                ("NoSuchClass", "new", (), r"\AmacOS .* has no class NoSuchClass"),
                (text, "noSuchSelector:", (None,), r"\AmacOS .* has no method noSuchSelector: in "
                                                   r"\w*String"),
                ("NSString", "noSuchSelector", (), "no method noSuchSelector in NSString"),
                (Pointer(), "objectAtIndex:", (0,), "objectAtIndex: cannot be sent to nil"),
                (array, "objectAtIndex:", (), "takes 1 arguments"),
                (array, "objectAtIndex:", (0, 0), "takes 1 arguments"),
                (text, "substringWithRange:", (0,), "cannot be called by this program")):
            send = self.runtime.create if isinstance(receiver, str) else self.runtime.send
            with self.subTest(selector, arguments=arguments), \
                    self.assertRaisesRegex(Unavailable, words):
                send(receiver, selector, *arguments)  # type: ignore[arg-type]
        with self.assertRaises(ctypes.ArgumentError):
            self.runtime.send(array, "objectAtIndex:", "zero")

    def test_encodings_of_methods(self) -> None:
        runtime = self.runtime
        number, array = runtime.find_class("NSNumber"), runtime.array()
        for selector, own in (("numberWithUnsignedLongLong:", True), ("intValue", False)):
            self.assertEqual(runtime.encoding_in(number, selector) is None, not own)
            self.assertEqual(runtime.encoding_of(number, selector) is None, own)
        for receiver, selector in ((Pointer(), "count"), (array, "noSuchSelector")):
            self.assertIsNone(runtime.encoding_in(receiver, selector))
        self.assertEqual(parse_encoding(runtime.encoding_in(array, "count") or "")[0], "Q")

    def test_ownership_is_balanced(self) -> None:
        runtime = self.runtime
        with contextlib.ExitStack() as owner:
            kept = runtime.retain(runtime.create("NSMutableArray", "array"), owner)
            before = runtime.send(kept, "retainCount")
            with contextlib.ExitStack() as other:
                runtime.retain(kept, other)
                self.assertEqual(runtime.send(kept, "retainCount"), before + 1)
            self.assertEqual(runtime.send(kept, "retainCount"), before)


class LibrariesTest(unittest.TestCase):
    def test_each_is_named(self) -> None:
        libraries = Libraries(str(support.standin_library()))
        for words, get in (
                ("the library libobjc cannot be opened: .*nowhere",
                 lambda: Libraries("/nowhere/lib.so").open("libobjc")),
                ("libSystem has no function no_such_function",
                 lambda: libraries.function("libSystem", "no_such_function", None)),
                ("IOSurface has no constant kNoSuchKey",
                 lambda: libraries.constant("IOSurface", "kNoSuchKey"))):
            self.assertRaisesRegex(Unavailable, words, get)

    def test_nothing_is_opened_on_import(self) -> None:
        program = ("import ctypes\ndef refuse(*a, **k): raise SystemExit('opened')\n"
                   "ctypes.CDLL.__init__ = refuse\nimport ane_bench\nprint('fine')")
        done = subprocess.run([sys.executable, "-c", program], cwd=support.ROOT,
                              capture_output=True, check=False)
        self.assertEqual(done.stdout, b"fine\n", done.stderr)
