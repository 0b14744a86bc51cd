"""Section 4: MIL text."""

import hashlib
import json
import unittest

import ane_bench
from ane_bench import Config, MilError, build_program, parse_mil
from tests import support

# SHA-256 of the original's text for its five configurations (taken by running it), and their lengths.
ORIGINAL_TEXTS = {
    ("512x64x128", "fp16"): (51668, "ad6e4ddffb47a3a68c07895a4a01eca6a29fb400ec1869d74f7844dc34a6a32f"),
    ("512x64x128", "w8a8"): (95009, "6e357066d6d4ae6aec8d3a55469c4ca911299938ed56ed01597a982f40042f7f"),
    ("512x64x64", "fp16"): (26092, "c149a6bd15c68eefe3a233b686d9f820bcf98ad5a5cdc515451139a29a04a5b4"),
    ("512x64x64", "w8a8"): (47639, "bec586df5332f366c14e478c17433ac8f07ce53d873ecc3c802dc077e56667d7"),
    ("256x64x256", "fp16"): (103189, "058cc0341428c6ad2aac291c2e390f4cf46e3054d1fb69e48ded3e53c75d5690"),
    ("256x64x256", "w8a8"): (190498, "9460bfebbf121716411a8c0940a711ea4b0664495a5658d5c9f839afb4e2c4b5"),
    ("256x64x128", "fp16"): (51605, "0d08a5d527b8cc41a410b7a7272d160101a29f2577636d50d23c7e8504cf3e6e"),
    ("256x64x128", "w8a8"): (94907, "96ee329c30ab219006afbf65b67c35415509f0bc341b750c2bd08ca71aa66aa4"),
    ("384x64x128", "fp16"): (51652, "300fd51977606029c6da57a6039e3caaa417d2a0d2daad63b32af5db61312e12"),
    ("384x64x128", "w8a8"): (94977, "4afdea010924398d2fa4d6e189e284f959497c8ed985bca23567fc8a22e44513"),
}

# A whole default program of one layer in the long form, the golden text of that dialect.
LONG_FORM = """program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-component-MIL", "3510.2.1"}, {"coremlc-version", "3505.4.1"}, \
{"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}})]
{
    func main<ios16>(tensor<fp16, [1, 8, 4, 4]> x) {
        tensor<string, []> c_pad_type = const()[name = tensor<string, []>("c_pad_type"), val = tensor<string, []>("valid")];
        tensor<int32, [2]> c_strides = const()[name = tensor<string, []>("c_strides"), val = tensor<int32, [2]>([1, 1])];
        tensor<int32, [4]> c_pad = const()[name = tensor<string, []>("c_pad"), val = tensor<int32, [4]>([0, 0, 0, 0])];
        tensor<int32, [2]> c_dilations = const()[name = tensor<string, []>("c_dilations"), val = tensor<int32, [2]>([1, 1])];
        tensor<int32, []> c_groups = const()[name = tensor<string, []>("c_groups"), val = tensor<int32, []>(1)];
        tensor<fp16, [8, 8, 1, 1]> W0 = constexpr_affine_dequantize()[axis = tensor<int32, []>(0), \
name = tensor<string, []>("W0"), quantized_data = tensor<int8, [8, 8, 1, 1]>(BLOBFILE(\
path = tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64))), \
scale = tensor<fp16, []>(SCALE), zero_point = tensor<int8, []>(0)];
        tensor<fp16, [1, 8, 4, 4]> c0 = conv(dilations = c_dilations, groups = c_groups, pad = c_pad, pad_type = c_pad_type, \
strides = c_strides, weight = W0, x = x)[name = tensor<string, []>("c0")];
    } -> (c0);
}
"""

SMALL = """program(1.3)
[a = string("b\\"\\\\")]
{
    func main<ios18>(tensor<fp16, [1, ?]> x) \
[s = tuple<string, dict<string, tensor<int32, [?]>>>(("q", {{"x", [4]}}))] {
        tensor<fp16, [2]> k = const()[val = tensor<fp16, [2]>([0x1.8p+0, -inf])];
        tensor<fp16, [1]> a, tensor<fp16, [1]> b = split(axis = int32(-1), x = x);
        tensor<fp16, [2]> y = concat(interleave = bool(false), values = (a, b, k));
    } -> (y, k);
}
"""


class WriterTest(unittest.TestCase):
    """What is written."""

    def test_the_original_to_the_byte(self) -> None:
        for (name, variant), (length, digest) in ORIGINAL_TEXTS.items():
            with self.subTest(name, variant=variant):
                text = build_program(Config.parse(name), variant, original=True).mil.encode()
                self.assertEqual((len(text), hashlib.sha256(text).hexdigest()), (length, digest))

    def test_the_originals_samples(self) -> None:
        for variant in ("fp16", "w8a8"):
            expected = support.shared("original", f"64x4x2-{variant}.mil").read_text()
            self.assertEqual(build_program(Config(64, 4, 2), variant, original=True).mil, expected)

    def test_the_pinned_hashes_are_those_of_the_original(self) -> None:
        pinned = json.loads(support.shared("original", "programs.json").read_text())
        self.assertEqual({(one["config"], one["variant"]): (one["mil_bytes"], one["mil_sha256"]) for one in pinned}, ORIGINAL_TEXTS)
        for one in pinned:
            blob = build_program(Config.parse(one["config"]), one["variant"], original=True).blob
            self.assertEqual(len(blob), one["blob_bytes"])
            start = [bytes.fromhex(one[key]).ljust(64, b"\0") for key in ("blob_header_hex", "record_hex")]
            self.assertEqual(blob[:128], b"".join(start))

    def test_long_form(self) -> None:
        scale = ane_bench.hexadecimal(2.0 ** -ane_bench.orthogonal_weights(8, 1, 0).exponent)
        self.assertEqual(build_program(Config(8, 4, 1), "w8a16", dialect="1.0").mil, LONG_FORM.replace("SCALE", scale))

    def test_scales_and_opsets(self) -> None:
        exponent = ane_bench.orthogonal_weights(64, 2, 0).exponent
        for dialect, scalar in (("1.3", "fp16({})"), ("1.0", "tensor<fp16, []>({})")):
            text = build_program(Config(64, 4, 2), "w8a8", dialect=dialect).mil
            self.assertIn("scale = " + scalar.format(f"0x1p-{exponent}"), text)
            self.assertIn("val = " + scalar.format("0x1p-5"), text)
            opsets = [parse_mil(build_program(Config(64, 4, 2), variant, dialect=dialect).mil).functions[0].opset
                      for variant in ("fp16", "w8a16", "w8a8")]
            self.assertEqual(opsets, ["ios18"] * 3 if dialect == "1.3" else ["ios16", "ios16", "ios17"])

    def test_w8a16_is_w8a8_without_quantize_and_dequantize(self) -> None:
        mixed, byte = (build_program(Config(8, 4, 3), variant) for variant in ("w8a16", "w8a8"))
        self.assertEqual(mixed.blob, byte.blob)
        kept = [line for line in byte.mil.splitlines()
                if "quantize(" not in line.replace("affine_dequantize(", "") and "q_" not in line]
        self.assertEqual(mixed.mil.splitlines(), [line.replace("x = dq", "x = c") for line in kept])

    def test_hexadecimal(self) -> None:
        for value, text in ((0.125, "0x1p-3"), (1.5, "0x1.8p+0"), (0.0, "0x0p+0"), (-2.5, "-0x1.4p+1")):
            self.assertEqual(ane_bench.hexadecimal(value), text)

    def test_what_does_not_exist_is_refused(self) -> None:
        for arguments in ({"variant": "fp8"}, {"variant": "fp16", "blob": "auto"}, {"variant": "fp16", "dialect": "1.2"}):
            with self.subTest(arguments), self.assertRaises(ane_bench.UsageError):
                build_program(Config(8, 4, 1), **arguments)  # type: ignore[arg-type]


class ReaderTest(unittest.TestCase):
    """What is read, and what is refused."""

    def test_programs_of_apples_compiler(self) -> None:
        files = sorted(support.shared("mil").glob("*.mil"))
        self.assertGreaterEqual(len(files), 8)
        for file in files:
            with self.subTest(file.name):
                self.assertTrue(parse_mil(file.read_text()).functions[0].statements)

    def test_everything_written_is_read(self) -> None:
        for variant in ane_bench.VARIANTS:
            for dialect in ane_bench.DIALECTS:
                with self.subTest(variant, dialect=dialect):
                    program = parse_mil(build_program(Config(8, 4, 3), variant, dialect=dialect).mil)
                    self.assertEqual(program.version, dialect)
                    convolutions = [one for one in program.functions[0].statements if one.operation == "conv"]
                    self.assertEqual([one.arguments["weight"] for one in convolutions], ["W0", "W1", "W2"])

    def test_values(self) -> None:
        program = parse_mil(SMALL)
        function = program.functions[0]
        self.assertEqual(program.attributes["a"].literal, 'b"\\')
        self.assertEqual(function.inputs, ((ane_bench.Type("tensor", (ane_bench.Type("fp16"),), (1, None)), "x"),))
        self.assertEqual(function.attributes["s"].literal, ("q", (("x", [4]),)))
        constant, split, joined = function.statements
        self.assertEqual(constant.attributes["val"].literal, [1.5, float("-inf")])
        self.assertEqual([name for _, name in split.results], ["a", "b"])
        self.assertEqual(joined.arguments["values"], ("a", "b", "k"))
        self.assertEqual((constant.line, split.line, joined.line, function.outputs), (5, 6, 7, ("y", "k")))

    def test_damage_is_refused_with_its_line(self) -> None:
        parse_mil(SMALL)
        damages = {
            "cut": (SMALL[:-4], 8), "after the program": (SMALL + "x", 10), "second program": (SMALL + SMALL, 10),
            "undefined name": (SMALL.replace("b, k)", "b, z)"), 7), "undefined output": (SMALL.replace("(y, k);", "(y, z);"), 8),
            "repeated name": (SMALL.replace("> y =", "> k ="), 7), "repeated in one": (SMALL.replace("> b =", "> a ="), 6),
            "name of the input": (SMALL.replace("> y =", "> x ="), 7), "used before": (SMALL.replace("x = x", "x = y"), 6),
            "repeated argument": (SMALL.replace("axis =", "x ="), 6), "no comma": (SMALL.replace("bool(false),", "bool(false)"), 7),
            "no semicolon": (SMALL.replace("-inf])];", "-inf])]"), 6),
            "shape": (SMALL.replace("-inf]", "-inf, 0x1p+0]"), 5), "kind": (SMALL.replace("0x1.8p+0", "1"), 5),
            "bool": (SMALL.replace("bool(false)", "bool(0)"), 7), "range": (SMALL.replace("int32(-1)", "int32(2147483648)"), 6),
            "stray": (SMALL.replace("split", "split!"), 6), "string": (SMALL.replace('string("b', 'string(b'), 2),
            "deep": (SMALL.replace("[4]", "[" * 3000 + "]" * 3000), 4), "deep type": (SMALL.replace("bool(", "list<" * 3000), 7),
            "dimension": (SMALL.replace("[1, ?]", "[1, -1]"), 4), "large": (SMALL.replace("0x1.8p+0", "0x1p+99999"), 5),
            "blob": (SMALL.replace("[0x1.8p+0, -inf]", "BLOBFILE(path = 1)"), 5),
            "blob in blobs": (SMALL.replace("[0x1.8p+0, -inf]", "BLOBFILE(path = string(" * 999), 5),
            "blob at a list": (SMALL.replace("[0x1.8p+0, -inf]",
                                             'BLOBFILE(path = string("p"), offset = tensor<uint64, [1]>([0]))'), 5),
            "deep arguments": (SMALL.replace("(a, b, k)", "(" * 999), 7), "bare tensor": (SMALL.replace("bool(", "tensor("), 7),
            "bare list": (SMALL.replace("fp16, [1, ?]", "list, [1, ?]"), 4),
            "two shapes": (SMALL.replace("[1, ?]", "[1, ?], [1, ?]"), 4),
            "digits": (SMALL.replace("int32(-1)", "int32(" + "1" * 5000 + ")"), 6),
            "function twice": (SMALL[:-2] + SMALL[SMALL.index("    func"):], 9), "nothing": ("", 1),
        }
        for name, (text, line) in damages.items():
            with self.subTest(name):
                self.assertNotEqual(text, SMALL)
                with self.assertRaises(MilError) as raised:
                    parse_mil(text)
                self.assertEqual(raised.exception.line, line, raised.exception)
                self.assertTrue(str(raised.exception).startswith(f"line {line}: "))
