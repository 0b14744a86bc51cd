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
                ("B24@0:8#16", "B@:#"), ("B@:I@^@", "B@:I@^")):
            with self.subTest(encoding):
                self.assertEqual("".join(parse_encoding(encoding)), codes)

    def test_structs_that_are_passed_by_value_are_types_that_no_call_can_pass(self) -> None:
        for encoding in ("{_NSRange=QQ}16@0:8", "v@:{CGRect={CGPoint=dd}{CGSize=dd}}",
                         "v@:@{_NSRange=QQ}@", "v@:(u=id)",
                         'v@:{a="b"@"NSString""c"[4i]}', "v@:[12^f]"):
            with self.subTest(encoding):
                codes = parse_encoding(encoding)
                self.assertEqual(codes.count("_"), 1, codes)
                self.assertTrue(ane_bench.kind_of("_").startswith("unknown type"))
        self.assertEqual("".join(parse_encoding("v@:@{_NSRange=QQ}@")), "v@:@_@")

    def test_cut_encodings_end(self) -> None:
        for encoding in ("{a", "^", "r", '@"x', "[4{", "+", "9", "{a)", "^^", "]"):
            parse_encoding(encoding)


class RuntimeTest(unittest.TestCase):
    """Messages to real objects."""

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
        array = runtime.array(*strings)
        self.assertEqual(runtime.send(array, "count"), 3)
        self.assertEqual(runtime.text(runtime.send(array, "objectAtIndex:", 2)), "c")
        dictionary = runtime.dictionary([(strings[0], strings[1])])
        found = runtime.send(dictionary, "objectForKey:", runtime.string("a"))
        self.assertEqual(runtime.text(found), "b")
        self.assertEqual(runtime.send(runtime.dictionary(), "count"), 0)

    def test_data_share_the_buffer(self) -> None:
        buffer = bytearray(b"0123456789")
        data = self.runtime.data(buffer)
        buffer[0:1] = b"x"
        self.assertEqual(self.runtime.send(data, "length"), 10)
        start = self.runtime.send(data, "bytes").value
        self.assertEqual(ctypes.string_at(start, 10), b"x123456789")

    def test_a_missing_class_or_method_is_a_python_error_that_names_it(self) -> None:
        runtime = self.runtime
        with self.assertRaisesRegex(Unavailable, r"macOS .* has no class NoSuchClass"):
            runtime.create("NoSuchClass", "new")
        words = r"macOS .* has no method noSuchSelector: in \w*String"
        with self.assertRaisesRegex(Unavailable, words):
            runtime.send(runtime.string("a"), "noSuchSelector:", None)
        with self.assertRaisesRegex(Unavailable, "no method noSuchSelector in NSString"):
            runtime.create("NSString", "noSuchSelector")
        with self.assertRaisesRegex(Unavailable, "objectAtIndex: cannot be sent to nil"):
            runtime.send(Pointer(), "objectAtIndex:", 0)
        self.assertIsNone(runtime.encoding_in(Pointer(), "count"))
        number = runtime.find_class("NSNumber")
        for selector, own in (("numberWithUnsignedLongLong:", True), ("intValue", False)):
            self.assertEqual(runtime.encoding_in(number, selector) is None, not own)
            self.assertEqual(runtime.encoding_of(number, selector) is None, own)
        self.assertIsNone(runtime.encoding_in(runtime.array(), "noSuchSelector"))
        count = runtime.encoding_in(runtime.array(), "count") or ""
        self.assertEqual(parse_encoding(count)[0], "Q")

    def test_argument_counts_are_checked(self) -> None:
        array = self.runtime.array()
        for arguments in ((), (0, 0)):
            with self.subTest(arguments), self.assertRaisesRegex(Unavailable, "takes 1 arguments"):
                self.runtime.send(array, "objectAtIndex:", *arguments)

    def test_wrong_arguments_are_python_errors(self) -> None:
        with self.assertRaises(ctypes.ArgumentError):
            self.runtime.send(self.runtime.array(), "objectAtIndex:", "zero")

    def test_a_struct_by_value_is_refused(self) -> None:
        with self.assertRaisesRegex(Unavailable, "cannot be called by this program"):
            self.runtime.send(self.runtime.string("abc"), "substringWithRange:", 0)

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
    """Libraries, functions and constants that are missing."""

    def test_a_missing_library(self) -> None:
        with self.assertRaisesRegex(Unavailable, "the library libobjc cannot be opened: .*nowhere"):
            Libraries("/nowhere/lib.so").open("libobjc")

    def test_a_missing_symbol(self) -> None:
        libraries = Libraries(str(support.standin_library()))
        with self.assertRaisesRegex(Unavailable, "libSystem has no function no_such_function"):
            libraries.function("libSystem", "no_such_function", None)
        with self.assertRaisesRegex(Unavailable, "IOSurface has no constant kNoSuchKey"):
            libraries.constant("IOSurface", "kNoSuchKey")

    def test_nothing_is_opened_on_import(self) -> None:
        program = ("import ctypes\ndef refuse(*a, **k): raise SystemExit('opened')\n"
                   "ctypes.CDLL.__init__ = refuse\nimport ane_bench\nprint('fine')")
        done = subprocess.run([sys.executable, "-c", program], cwd=support.ROOT,
                              capture_output=True, check=False)
        self.assertEqual(done.stdout, b"fine\n", done.stderr)
        self.assertEqual(ane_bench.__name__, "ane_bench")
