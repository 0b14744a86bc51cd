"""Section 4: MIL texts, their writer and reader, and programs."""

import errno
import hashlib
import json
import os
import random
import re
import stat
import tempfile
import unittest
from pathlib import Path
from typing import Any

import ane_bench
from ane_bench import Config, MilError, UsageError, build_program, parse_mil
from tests import mil_grammar, support

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
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-component-MIL", "3510.2.1"}, \
{"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}})]
{
    func main<ios16>(tensor<fp16, [1, 8, 4, 4]> x) {
        tensor<string, []> c_pad_type = const()[name = tensor<string, []>("c_pad_type"), \
val = tensor<string, []>("valid")];
        tensor<int32, [2]> c_strides = const()[name = tensor<string, []>("c_strides"), \
val = tensor<int32, [2]>([1, 1])];
        tensor<int32, [4]> c_pad = const()[name = tensor<string, []>("c_pad"), val = tensor<int32, [4]>([0, 0, 0, 0])];
        tensor<int32, [2]> c_dilations = const()[name = tensor<string, []>("c_dilations"), \
val = tensor<int32, [2]>([1, 1])];
        tensor<int32, []> c_groups = const()[name = tensor<string, []>("c_groups"), val = tensor<int32, []>(1)];
        tensor<fp16, [8, 8, 1, 1]> W0 = constexpr_affine_dequantize()[axis = tensor<int32, []>(0), \
name = tensor<string, []>("W0"), quantized_data = tensor<int8, [8, 8, 1, 1]>(BLOBFILE(\
path = tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64))), \
scale = tensor<fp16, []>(SCALE), zero_point = tensor<int8, []>(0)];
        tensor<fp16, [1, 8, 4, 4]> c0 = conv(dilations = c_dilations, groups = c_groups, pad = c_pad, \
pad_type = c_pad_type, strides = c_strides, weight = W0, x = x)[name = tensor<string, []>("c0")];
    } -> (c0);
}
"""

# A text of much that the general grammar has and the writer does not.
GENERAL = """program(1.3)
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



def programs(names: tuple[str, ...] = ("8x4x3", "8x4x1", "1x1x2", "4x4x2k3")) -> list[ane_bench.Program]:
    """Return small programs of every kind."""
    return [build_program(Config.parse(name), variant, dialect=dialect)
            for name in names for variant in ane_bench.VARIANTS for dialect in ane_bench.DIALECTS]


def scale_of(config: Config) -> str:
    """Return the scale of a configuration's int8 weights, as a text has it."""
    return f"0x1p-{ane_bench.chain_weights(config, 0).exponent}"


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
        self.assertEqual({(one["config"], one["variant"]): (one["mil_bytes"], one["mil_sha256"]) for one in pinned},
                         ORIGINAL_TEXTS)
        for one in pinned:
            blob = build_program(Config.parse(one["config"]), one["variant"], original=True).blob
            self.assertEqual(len(blob), one["blob_bytes"])
            start = [bytes.fromhex(one[key]).ljust(64, b"\0") for key in ("blob_header_hex", "record_hex")]
            self.assertEqual(blob[:128], b"".join(start))

    def test_long_form(self) -> None:
        config = Config(8, 4, 1)
        expected = LONG_FORM.replace("SCALE", scale_of(config))
        self.assertEqual(build_program(config, "w8a16", dialect="1.0").mil, expected)
        mixed = build_program(config, "w8a16", dialect="1.3-long").mil
        self.assertEqual(mixed, expected.replace("program(1.0)", "program(1.3)"))

    def test_scales_and_opsets(self) -> None:
        for dialect, scalar in (("1.3", "fp16({})"), ("1.0", "tensor<fp16, []>({})"),
                                ("1.3-long", "tensor<fp16, []>({})")):
            texts = [build_program(Config(64, 4, 2), variant,
                                   dialect=dialect).mil for variant in ("fp16", "w8a16", "w8a8")]
            self.assertIn("scale = " + scalar.format(scale_of(Config(64, 4, 2))), texts[2])
            self.assertIn("val = " + scalar.format("0x1p-5"), texts[2])
            opsets = [match[1] for text in texts for match in re.finditer("main<(.*?)>", text)]
            self.assertEqual(opsets, ["ios18"] * 3 if dialect == "1.3" else ["ios16", "ios16", "ios17"])

    def test_a_kernel_of_three_changes_padding_and_weights_alone(self) -> None:
        for variant in ane_bench.VARIANTS:
            for dialect in ane_bench.DIALECTS:
                point, square = (build_program(Config(8, 4, 3, kernel), variant,
                                               dialect=dialect).mil for kernel in (1, 3))
                changed = point.replace('"valid"', '"custom"').replace("[0, 0, 0, 0]", "[1, 1, 1, 1]")
                changed = changed.replace("[8, 8, 1, 1]", "[8, 8, 3, 3]").replace(scale_of(Config(8, 4, 3)),
                                                                                  scale_of(Config(8, 4, 3, 3)))
                plain = re.compile(r"\(([0-9]+)\)\)\)")  # offsets differ too: the weights are nine times as large
                self.assertEqual(plain.sub("(N)))", square), plain.sub("(N)))", changed))

    def test_w8a16_is_w8a8_without_quantize_and_dequantize(self) -> None:
        mixed, byte = (build_program(Config(8, 4, 3), variant) for variant in ("w8a16", "w8a8"))
        self.assertEqual(mixed.blob, byte.blob)
        kept = [line for line in byte.mil.splitlines()
                if "quantize(" not in line.replace("affine_dequantize(", "") and "q_" not in line]
        self.assertEqual(mixed.mil.splitlines(), [line.replace("x = dq", "x = c") for line in kept])

    def test_everything_written_is_in_the_general_grammar(self) -> None:
        for program in programs():
            with self.subTest(program.config.name, variant=program.variant.name, dialect=program.dialect):
                found = parse_mil(program.mil)
                self.assertEqual((found.config, found.dialect, found.variant.weights),
                                 (program.config, program.dialect, program.variant.weights))
                check_by_oracle(self, program.mil)


def check_by_oracle(case: unittest.TestCase, text: str) -> None:
    """Check that the general grammar finds in a text what the reader finds."""
    general, found = mil_grammar.parse(text), parse_mil(text)
    function, = general.functions
    config = found.config
    case.assertEqual((general.version, function.name, len(function.inputs)), (found.dialect[:3], "main", 1))
    case.assertEqual((function.inputs[0][0].shape, function.inputs[0][1]),
                     ((1, config.channels, *[config.spatial] * 2), "x"))
    statements = {statement.results[0][1]: statement for statement in function.statements}
    case.assertEqual(len(found.layers), sum(statement.operation == "conv" for statement in function.statements))
    name, = function.outputs
    for layer in reversed(found.layers):
        convolution = statements[name]
        case.assertEqual((convolution.operation, convolution.line), ("conv", layer.line))
        check_convolution(case, convolution, statements, found)
        check_weight(case, statements[convolution.arguments["weight"]], layer, found)
        name = convolution.arguments["x"]
        if found.scales and layer is not found.layers[0]:
            dequantize = statements[name]
            quantize = statements[dequantize.arguments["input"]]
            name = quantize.arguments["input"]
            case.assertEqual((quantize.operation, dequantize.operation), ("quantize", "dequantize"))
            exponents = [statements[one.arguments["scale"]].attributes["val"].literal for one in (quantize, dequantize)]
            case.assertEqual(exponents, [2.0 ** exponent for exponent in found.scales])
            case.assertEqual(statements[quantize.arguments["output_dtype"]].attributes["val"].literal, "int8")
    case.assertEqual(name, "x")


def check_convolution(case: unittest.TestCase, convolution: mil_grammar.Statement,
                      statements: dict[str, mil_grammar.Statement], found: ane_bench.MilProgram) -> None:
    """Check a convolution's settings and its result's shape."""
    settings = {key: statements[name].attributes["val"].literal for key, name in convolution.arguments.items()
                if key not in ("weight", "x")}
    kernel, config = found.config.kernel, found.config
    case.assertEqual(settings, {"pad_type": "valid" if kernel == 1 else "custom", "pad": [kernel // 2] * 4,
                                "strides": [1, 1], "dilations": [1, 1], "groups": 1})
    case.assertEqual(convolution.results[0][0].shape, (1, config.channels, config.spatial, config.spatial))


def check_weight(case: unittest.TestCase, weight: mil_grammar.Statement, layer: ane_bench.Layer,
                 found: ane_bench.MilProgram) -> None:
    """Check a weight's type, shape, place and scale."""
    int8 = weight.operation == "constexpr_affine_dequantize"
    value = weight.attributes["quantized_data" if int8 else "val"]
    config = found.config
    case.assertEqual((value.type.element, value.literal.offset), (found.variant.weights, layer.offset))
    case.assertEqual(value.type.shape, (config.channels, config.channels, config.kernel, config.kernel))
    case.assertEqual(weight.results[0][0], value.type._replace(parameters=(mil_grammar.Type("fp16"),)))
    if int8:
        case.assertEqual((weight.attributes["scale"].literal, weight.attributes["zero_point"].literal,
                          weight.attributes["axis"].literal), (2.0 ** layer.exponent, 0, 0))


class ReaderTest(unittest.TestCase):
    """What is read, and what is refused."""

    def test_names_may_differ(self) -> None:
        for program in programs():
            renamed = re.sub(r"\b(c|q|dq|W)([0-9])", r"other_\1_\2", program.mil)
            self.assertNotEqual(renamed, program.mil)
            self.assertEqual(parse_mil(renamed), parse_mil(program.mil))

    def test_offsets_and_scales_are_those_of_the_text(self) -> None:
        text = build_program(Config(8, 4, 2), "w8a8").mil
        text = text.replace("offset = uint64(192)", "offset = uint64(64)").replace(scale_of(Config(8, 4, 2)), "0x1p+3")
        found = parse_mil(text.replace('dq_scale"), val = fp16(0x1p-5)', 'dq_scale"), val = fp16(0x1p-4)'))
        self.assertEqual([(layer.offset, layer.exponent) for layer in found.layers], [(64, 3), (64, 3)])
        self.assertEqual(list(found.scales), [-5, -4])

    def test_damage_is_refused_with_its_line(self) -> None:
        text = build_program(Config(8, 4, 2), "w8a8").mil
        lines = {name: number for number, line in enumerate(text.splitlines(), 1)
                 for name in re.findall(r"^ *\S*(?:<.*?>)? (\w+) = ", line)}
        last = text.count("\n")
        damages: list[tuple[str, str, int]] = [
            ("program(1.3)", "program(1.4)", 1), ("3510.2.1", "3510.2.2", 2),
            ("dict<string", "dict<tensor<string, []>", 2),
            ("main<ios18>", "main<ios17>", 4), ("[1, 8, 4, 4]> x)", "[2, 8, 4, 4]> x)", 4),
            ("[1, 8, 4, 4]> x)", "[1, 8, 4, 2]> x)", 4),
            ("[1, 8, 4, 4]> x)", "[1, 4, 4, 4]> x)", lines["W0"]),
            ("[1, 8, 4, 4]> x)", "[1, 8, 4]> x)", 4), ("(tensor<fp16, [1", "(tensor<fp32, [1", 4),
            ('"valid"', '"same"', lines["c_pad_type"]), ('string("valid")', "string(valid)", lines["c_pad_type"]),
            ("[0, 0, 0, 0])", "[1, 1, 1, 1])", lines["c_pad"]), ("([1, 1])", "([1, 1, 1, 1])", lines["c_strides"]),
            ("([1, 1])", "([2, 1])", lines["c_strides"]), ("int32(1)", "int32(2)", lines["c_groups"]),
            ("int32(1)", "int8(1)", lines["c_groups"]),
            ("dilations = c_dilations", "dilations = c_pad", lines["c0"]),
            ("groups = c_groups", "groups = c_pad", lines["c0"]),
            ("groups = c_groups, ", "", lines["c0"]),
            ('q_dtype"), val = string("int8")', 'q_dtype"), val = string("uint8")', lines["q_dtype"]),
            ("fp16(0x1p-5)", "fp16(0x1p+9)", lines["q_scale"]), ("fp16(0x1p-5)", "fp16(0x1.8p-5)", lines["q_scale"]),
            ("fp16(0x1p-5)", "fp32(0x1p-5)", lines["q_scale"]), ("fp16(0x1p-5)", "fp16(inf)", lines["q_scale"]),
            ("zero_point = int8(0)", "zero_point = int8(1)", lines["W0"]),
            ("axis = int32(0)", "axis = int32(1)", lines["W0"]),
            ("tensor<int8, [8, 8, 1, 1]>", "tensor<int8, [8, 4, 1, 1]>", lines["W0"]),
            ("[8, 8, 1, 1]", "[8, 4, 1, 1]", lines["W0"]), ("weight.bin", "weights.bin", lines["W0"]),
            ("offset = uint64(64)", "offset = uint64(-64)", lines["W0"]),
            ("weight = W0", "weight = c_pad", lines["c0"]),
            ("weight = W0", "weight = W1", lines["c0"]), ("weight = W1", "weight = W2", lines["c1"]),
            ("x = x)", "x = y)", lines["c0"]), ("x = x)", "x = c1)", lines["c0"]), ("x = dq0", "x = c0", lines["c1"]),
            ("x = dq0", "x = q0", lines["c1"]), ("x = dq0", "x = x", lines["c1"]),
            ("input = c0", "input = x", lines["q0"]),
            ("input = q0", "input = c0", lines["dq0"]), ("scale = q_scale", "scale = q_dtype", lines["q0"]),
            ("output_dtype = q_dtype", "output_dtype = q_scale", lines["q0"]),
            ("[1, 8, 4, 4]> q0", "[1, 8, 4, 2]> q0", lines["q0"]),
            ("[1, 8, 4, 4]> c1", "[1, 4, 4, 4]> c1", lines["c1"]),
            ("tensor<int8, [1, 8, 4, 4]> q0", "tensor<fp16, [1, 8, 4, 4]> q0", lines["q0"]),
            ('name = string("c0")', 'name = string("c9")', lines["c0"]), ("W1", "W0", lines["W1"]),
            ("c1", "c0", lines["c1"]),
            ("c_pad = const", "c_strides = const", lines["c_pad"]), ("W1", "c_pad", lines["W1"]),
            ("= conv(", "= convolve(", lines["c0"]),
            ('")];', '")]', lines["c_pad_type"]), ("        tensor", "    tensor", lines["c_strides"]),
            ("-> (c1)", "-> (c0)", last - 1),
            ("-> (c1)", "-> (dq0)", last - 1), ("-> (c1)", "-> (W1)", last - 1), ("-> (c1);", "-> (c1)", last - 1),
        ]
        for old, new, line in damages:
            with self.subTest(f"{old} becomes {new}"):
                self.assertIn(old, text)
                everywhere = old in ("W1", "c1") and new in ("W0", "c0", "c_pad")
                self.refused(text.replace(old, new, -1 if everywhere else 1), line)
        for name, damaged, line in (
                ("cut at a line", text[:text.index("    } ->")], last - 1),
                ("cut in a line", text[:text.index("weight = W1")], lines["c1"]),
                ("no newline", text[:-1], last), ("no brace", text[:-2], last), ("space after", text + " ", last + 1),
                ("two programs", text + text, last + 1), ("empty", "", 1),
                ("head only", "".join(text.splitlines(True)[:4]), 5),
                ("statement after the output", text.replace("}\n", text.splitlines(True)[lines["c_pad"] - 1] + "}\n"),
                 last),
                ("no operation", "".join(text.splitlines(True)[:4]) + "    } -> (x);\n}\n", 5),
                ("carriage returns", text.replace("\n", "\r\n"), 1),
                ("line twice", re.sub("(        fp16 q_s.*\n)", r"\1\1", text),
                                                                      lines["q_scale"] + 1)):
            with self.subTest(name):
                self.refused(damaged, line)

    def refused(self, text: str, line: int) -> None:
        """Check that a text is refused with the line."""
        with self.assertRaises(MilError) as raised:
            parse_mil(text)
        self.assertEqual(raised.exception.line, line, raised.exception)
        self.assertTrue(str(raised.exception).startswith(f"line {line}: "))
        self.assertTrue(str(raised.exception).isprintable())

    def test_kernels_do_not_mix(self) -> None:
        program = build_program(Config(8, 4, 2, 3), "fp16")
        line = next(number for number, text in enumerate(program.mil.splitlines(), 1) if " W1 = " in text)
        self.refused(program.mil.replace("[8, 8, 3, 3]> W1", "[8, 8, 1, 1]> W1"), line)
        both = re.sub(r"(W1 = .*?\[8, 8, )3, 3", r"\g<1>1, 1",
                      program.mil.replace("[8, 8, 3, 3]> W1", "[8, 8, 1, 1]> W1"))
        self.refused(both, line)

    def test_every_single_character_matters(self) -> None:
        """A text with one character changed is refused, or means exactly what the general grammar reads in it."""
        draw = random.Random(7)
        for program in programs(("2x1x2", "2x1x2k3")):
            for _ in range(60):
                place = draw.randrange(len(program.mil))
                text = program.mil[:place] + draw.choice("x01,;()[]<>\" \n") + program.mil[place + 1:]
                try:
                    parse_mil(text)
                except MilError as error:
                    self.assertGreaterEqual(error.line, program.mil.count("\n", 0, place) + 1)
                else:
                    check_by_oracle(self, text)


class GrammarTest(unittest.TestCase):
    """The oracle itself."""

    def test_programs_of_apples_compiler(self) -> None:
        files = sorted(support.shared("mil").glob("*.mil"))
        self.assertGreaterEqual(len(files), 8)
        for file in files:
            with self.subTest(file.name):
                self.assertTrue(mil_grammar.parse(file.read_text()).functions[0].statements)
                with self.assertRaises(MilError):
                    parse_mil(file.read_text())

    def test_values(self) -> None:
        program = mil_grammar.parse(GENERAL)
        function = program.functions[0]
        self.assertEqual(program.attributes["a"].literal, 'b"\\')
        self.assertEqual(function.inputs, ((mil_grammar.Type("tensor", (mil_grammar.Type("fp16"),), (1, None)), "x"),))
        self.assertEqual(function.attributes["s"].literal, ("q", (("x", [4]),)))
        constant, split, joined = function.statements
        self.assertEqual(constant.attributes["val"].literal, [1.5, float("-inf")])
        self.assertEqual([name for _, name in split.results], ["a", "b"])
        self.assertEqual(joined.arguments["values"], ("a", "b", "k"))
        self.assertEqual((constant.line, split.line, joined.line, function.outputs), (5, 6, 7, ("y", "k")))

    def test_damage_is_refused(self) -> None:
        mil_grammar.parse(GENERAL)
        for old, new in (("b, k)", "b, z)"), ("(y, k);", "(y, z);"), ("> y =", "> k ="), ("> b =", "> a ="),
                         ("x = x", "x = y"),
                         ("bool(false),", "bool(false)"), ("-inf])];", "-inf])]"), ("-inf]", "-inf, 0x1p+0]"),
                         ("0x1.8p+0", "1"), ("int32(-1)", "int32(2147483648)"), ("[4]", "[" * 3000 + "]" * 3000),
                         ("[0x1.8p+0, -inf]", "BLOBFILE(path = 1)"), ("(y, k);\n}", "(y, k);\n}}")):
            with self.subTest(new[:30]), self.assertRaises(MilError):
                self.assertIn(old, GENERAL)
                mil_grammar.parse(GENERAL.replace(old, new))


class ProgramTest(unittest.TestCase):
    """Programs are built from valid arguments, and written privately."""

    def test_invalid_arguments(self) -> None:
        config = Config(8, 4, 1)
        calls: list[tuple[Any, Any, dict[str, Any]]] = [
            (config, "fp8", {}), (config, ["fp16"], {}), (config, None, {}), (config, "fp16", {"blob": "auto"}),
            (config, "fp16", {"dialect": "1.2"}), (config, "fp16", {"dialect": 1.3}), (config, "fp16", {"seed": -1}),
            (config, "fp16", {"seed": True}), (config, "fp16", {"seed": 1.0}), (config, "fp16", {"seed": 10 ** 25}),
            (config, "fp16", {"original": "yes"}), (config, "fp16", {"original": 1}), ((8, 4, 1), "fp16", {}),
            ("8x4x1", "fp16", {}),
            (Config(8, 4, 1, 3), "fp16", {"original": True}),
        ]
        for first, second, options in calls:
            with self.subTest(str((first, second, options))), self.assertRaises(UsageError) as raised:
                build_program(first, second, **options)
            self.assertTrue(str(raised.exception).isprintable())

    def test_the_largest_seed(self) -> None:
        blobs = {bytes(build_program(Config(8, 4, 1), "w8a8", seed=seed).blob) for seed in (0, 1, 2 ** 53 - 1)}
        self.assertEqual(len(blobs), 3)

    def test_written_files(self) -> None:
        program = build_program(Config(8, 4, 2, 3), "w8a8")
        with tempfile.TemporaryDirectory() as holder:
            directory = Path(holder) / "new"
            program.write(str(directory))
            program.write(str(directory))
            self.assertEqual((directory / "model.mil").read_text(), program.mil)
            self.assertEqual((directory / "weights" / "weight.bin").read_bytes(), program.blob)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.rglob("*"))}
            self.assertEqual(modes, {"new": 0o700, "weights": 0o700, "model.mil": 0o600, "weight.bin": 0o600})

    def test_links_are_refused(self) -> None:
        program = build_program(Config(8, 4, 1), "fp16")
        with tempfile.TemporaryDirectory() as holder:
            place = Path(holder)
            (place / "elsewhere").mkdir()
            (place / "link").symlink_to(place / "elsewhere")
            (place / "real").mkdir()
            (place / "real" / "model.mil").symlink_to(place / "elsewhere" / "file")
            for name in ("link", "real"):
                with self.assertRaises(OSError) as raised:
                    program.write(os.path.join(holder, name))
                self.assertIn(raised.exception.errno, (errno.ENOTDIR, errno.ELOOP))
                self.assertTrue(str(raised.exception.filename).startswith(holder))
            self.assertEqual(list((place / "elsewhere").iterdir()), [])
            with self.assertRaises(FileNotFoundError):
                program.write(os.path.join(holder, "missing", "directory"))
