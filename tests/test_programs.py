"""Section 4: programs, their MIL text and weight file, held to three independent readers: that of
tests/mil_grammar.py, Apple's own library (coremltools), and the stand-in elsewhere."""

import hashlib
import itertools
import os
import re
import tempfile
import types
import unittest
from pathlib import Path
from typing import Any

import ane_bench
from ane_bench import FORMS, Config, UsageError, build_program
from tests import mil_grammar, support
from tests.mil_grammar import MilError

# SHA-256 of the original's text for its five configurations and a small one (taken by running it).
ORIGINAL_TEXTS = {
    ("512x64x128", "fp16"): "ad6e4ddffb47a3a68c07895a4a01eca6a29fb400ec1869d74f7844dc34a6a32f",
    ("512x64x128", "w8a8"): "6e357066d6d4ae6aec8d3a55469c4ca911299938ed56ed01597a982f40042f7f",
    ("512x64x64", "fp16"): "c149a6bd15c68eefe3a233b686d9f820bcf98ad5a5cdc515451139a29a04a5b4",
    ("512x64x64", "w8a8"): "bec586df5332f366c14e478c17433ac8f07ce53d873ecc3c802dc077e56667d7",
    ("256x64x256", "fp16"): "058cc0341428c6ad2aac291c2e390f4cf46e3054d1fb69e48ded3e53c75d5690",
    ("256x64x256", "w8a8"): "9460bfebbf121716411a8c0940a711ea4b0664495a5658d5c9f839afb4e2c4b5",
    ("256x64x128", "fp16"): "0d08a5d527b8cc41a410b7a7272d160101a29f2577636d50d23c7e8504cf3e6e",
    ("256x64x128", "w8a8"): "96ee329c30ab219006afbf65b67c35415509f0bc341b750c2bd08ca71aa66aa4",
    ("384x64x128", "fp16"): "300fd51977606029c6da57a6039e3caaa417d2a0d2daad63b32af5db61312e12",
    ("384x64x128", "w8a8"): "4afdea010924398d2fa4d6e189e284f959497c8ed985bca23567fc8a22e44513",
    ("64x4x2", "fp16"): "b31ff6ae1e7bcee0b2a2868a497ac25c1c8b63bec49730a50a4b7f21eb2d55b4",
    ("64x4x2", "w8a8"): "21836760ef91df014701fcee921220e7bbda0bf143f15497bf1996e93197673c",
}

# The sizes of the original's weight files, in FP16 and in INT8.
ORIGINAL_SIZES = {"512x64x128": (67_117_120, 33_562_688), "512x64x64": (33_558_592, 16_781_376),
                  "256x64x256": (33_570_880, 16_793_664), "256x64x128": (16_785_472, 8_396_864),
                  "384x64x128": (37_756_992, 18_882_624), "60x4x3": (21_856, 11_056)}


class OriginalTest(unittest.TestCase):
    """What `original` gives."""

    def test_texts_to_the_byte(self) -> None:
        for (name, variant), digest in ORIGINAL_TEXTS.items():
            with self.subTest(name, variant=variant):
                text = build_program(Config.parse(name), variant, original=True).mil.encode()
                self.assertEqual(hashlib.sha256(text).hexdigest(), digest)

    def test_weight_files(self) -> None:
        """Sizes, header and records are what the original's own run left."""
        for name, sizes in ORIGINAL_SIZES.items():
            config = Config.parse(name)
            for variant, size, code in zip(("fp16", "w8a8"), sizes, ("10", "08")):
                blob = build_program(config, variant, original=True).blob
                self.assertEqual((len(blob), blob[:64].hex()),
                                 (size, "0100000002".ljust(128, "0")))
                for start in range(64, size, (size - 64) // config.depth):
                    self.assertEqual(blob[start:start + 64].hex(),
                                     f"efbeadde010000000000{code}".ljust(128, "0"))


class TextTest(unittest.TestCase):
    """The text in each form."""

    def test_the_forms_differ_in_spelling_opset_and_records_alone(self) -> None:
        for variant, opset in (("fp16", "ios16"), ("w8a16", "ios16"), ("w8a8", "ios17")):
            new, early, long, records = (build_program(Config(8, 4, 3), variant, form=form)
                                         for form in FORMS)
            self.assertEqual([each.form for each in (new, early, long, records)], list(FORMS))
            self.assertIn("main<ios18>", new.mil)
            self.assertEqual(early.mil, new.mil.replace("main<ios18>", f"main<{opset}>"))
            self.assertNotRegex(long.mil, r'(?<!")\b(string|uint64|int32|int8|fp16)\b(?!, \[)')
            short = re.sub(r"tensor<(\w+), \[\]>", r"\1", long.mil)
            self.assertEqual(short.replace("program(1.0)", "program(1.3)"), early.mil)
            self.assertEqual((early.blob, long.blob, records.mil), (new.blob, new.blob, new.mil))
            self.assertEqual(len(records.blob), len(new.blob))
            for tensor in mil_grammar.read_weight_file(new.blob):
                start = tensor.offset + 64
                self.assertEqual(records.blob[start:start + len(tensor.data)], tensor.data)

    def test_what_is_written_means_the_chain(self) -> None:
        """By the independent reader of texts and weight files."""
        names = ("8x4x3", "8x4x1", "1x1x2", "60x4x3", "4x4x2k3", "7x3x3k3")
        for name, variant, form in itertools.product(names, ane_bench.VARIANTS.values(), FORMS[:3]):
            with self.subTest(name, variant=variant.name, form=form):
                program = build_program(Config.parse(name), variant.name, form=form)
                config, weights = program.config, ane_bench.chain_weights(program.config, 0)
                steps = mil_grammar.steps(program.mil, program.blob)
                between = [("quantize", 2.0 ** -5), ("dequantize", 2.0 ** -5)] * variant.quantizes
                scale = weights.scale if variant.weights == "int8" else 1.0
                expected = [("conv", scale), *[*between, ("conv", scale)] * (config.depth - 1)]
                self.assertEqual([(step.operation, step.scale) for step in steps], expected)
                tensors = [step.weights for step in steps if step.weights]
                self.assertEqual(tensors, mil_grammar.read_weight_file(program.blob))
                self.assertEqual([tensor.data for tensor in tensors],
                                 list(weights.layers(config.channels, variant.weights)))

    def test_w8a16_is_w8a8_without_quantize_and_dequantize(self) -> None:
        mixed, byte = (build_program(Config(8, 4, 3), variant) for variant in ("w8a16", "w8a8"))
        kept = [line for line in byte.mil.splitlines()
                if "quantize(" not in line.replace("affine_dequantize(", "") and "q_" not in line]
        self.assertEqual(mixed.mil.splitlines(), [line.replace("x = dq", "x = c") for line in kept])

    def test_apples_reader_and_writer_agree(self) -> None:
        storage = support.need("coremltools.libmilstoragepython")
        numpy = support.need("numpy")
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        path, copy = Path(holder.name) / "ours.bin", Path(holder.name) / "theirs.bin"
        names = ("64x4x2", "60x4x3", "7x4x3", "1x4x2", "512x64x16", "64x4x2k3", "7x4x3k3")
        for name, variant in itertools.product(names, ane_bench.VARIANTS):
            blob = build_program(Config.parse(name), variant).blob
            path.write_bytes(blob)
            reader = storage._BlobStorageReader(str(path))
            writer = storage._BlobStorageWriter(str(copy))
            for tensor in mil_grammar.read_weight_file(blob):
                kind = f"{tensor.data_type}_data"
                ours = numpy.frombuffer(tensor.data, {"fp16": "u2", "int8": "i1"}[tensor.data_type])
                theirs = getattr(reader, f"read_{kind}")(tensor.offset)
                self.assertTrue(numpy.array_equal(ours, theirs))
                self.assertEqual(getattr(writer, f"write_{kind}")(ours), tensor.offset)
            del writer
            self.assertEqual(copy.read_bytes(), blob, (name, variant))
            copy.unlink()


# Mistakes of the writer, as a change of its source, and what finds each: a reader refuses the
# program, or the check fails what an engine computes of it.
MISTAKES = {
    "all layers at the first offset": ("offset = uint64({record})", "offset = uint64(64)", "check"),
    "a weight of the layer before": ("weight = W{layer},", "weight = W{layer and layer - 1},",
                                     "check"),
    "layers backwards in the file": ("zip(records, weights.layers",
                                     "zip(records[::-1], weights.layers", "check"),
    "a scale of weights": ("fp16({hexadecimal(scale)})", "fp16({hexadecimal(scale / 2)})", "check"),
    "a scale of activations": ('"dq_scale", hexadecimal(activation_scale)',
                               '"dq_scale", hexadecimal(2 * activation_scale)', "check"),
    "no quantization": ("if variant.quantizes and layer", "if False and layer", "check"),
    "no signs": ("kernels(pattern, sign * scale)", "kernels(pattern, scale)", "check"),
    "rotations by one more": ("[turn * size:(turn + channels) * size]",
                              "[(turn + 1) * size:(turn + 1 + channels) * size]", "check"),
    "patterns turned around": ("for part in pattern]", "for part in pattern[::-1]]", "check"),
    "no padding": ("pad = config.kernel // 2", "pad = 0", "reader"),
    "padding that is not used": ('"custom"', '"valid"', "reader"),
    "an opset without the operations": ("{'ios18' if dialect == '1.3' else variant.opset}", "ios16",
                                        "reader"),
    "a size in the record": ("stated = (size, data)", "stated = (size - 2, data)", "reader"),
    "an offset in the record": ("stated = (size, data)", "stated = (size, 0)", "reader"),
    "a data type in the record": ('DATA_TYPES[data_type if standard else "fp16"]',
                                  'DATA_TYPES["fp16"]', "reader"),
    "records that are not aligned": ("gap = -size % alignment", "gap = 0", "reader"),
    "a name that is not defined": ("(input = q{layer - 1}", "(input = q", "reader"),
    "a name that is another's": ('{call}[name = string("{name}")', '{call}[name = string("c0")',
                                 "reader"),
    "spellings mixed": (r'(?<!")\b(string|', r'(?<!")\b(', "reader"),
    "a path": ('path = string("{WEIGHT_PATH}")', 'path = string("weight.bin")', "reader"),
    "quantize of the layer's input": ("quantize(input = {x},", "quantize(input = x,", "check"),
}


class MistakesTest(unittest.TestCase):
    """A mistake of the writer does not reach the reference, so the check sees it."""

    def test_each_is_found(self) -> None:
        support.need("numpy")
        source = support.MODULE.read_text()
        self.assertEqual(self.finder(source), "")
        for mistake, (old, new, finder) in MISTAKES.items():
            with self.subTest(mistake):
                self.assertEqual(source.count(old), 1)
                self.assertEqual(self.finder(source.replace(old, new)), finder)

    def finder(self, source: str) -> str:
        """Return what finds a mistake in the programs that a module's source builds: a reader,
        which is asked first, or the check; nothing if none does."""
        module = types.ModuleType("mutant")
        exec(compile(source, "mutant", "exec"), module.__dict__)
        chains = (("64x8x4", "fp16"), ("64x8x4", "w8a8"), ("60x8x4", "w8a8"), ("64x8x4k3", "w8a8"))
        found = [self.found(module, *one, form) for one in chains for form in FORMS[1:3]]
        return max(found, key=("", "check", "reader").index)

    def found(self, module: Any, name: str, variant: str, form: str) -> str:
        """Return what finds a mistake in one program."""
        from tests import simulation
        config = Config.parse(name)
        program = module.build_program(module.Config(*config), variant, form=form)
        try:
            mil_grammar.read_weight_file(program.blob)
            output = simulation.executed(program, simulation.input_of(config, 0))
        except MilError:
            return "reader"
        pixels = ane_bench.chosen_pixels(config, 0, 8)
        values = output.reshape(config.channels, -1)[:, pixels].T.tolist()
        verdict = ane_bench.verify(ane_bench.Reference(config, 0), ane_bench.VARIANTS[variant],
                                   pixels, [values], False)
        return "check" if verdict.problem else ""


class GrammarTest(unittest.TestCase):
    """The oracle itself."""

    def test_damage_is_refused(self) -> None:
        program = build_program(Config(8, 4, 2), "w8a8")
        mil_grammar.steps(program.mil, program.blob)
        for old, new in (
                ("(c1);", "(c2);"), ("> c1 =", "> c0 ="), ("x = x", "x = y"), ("(c1);\n}", "(c1);"),
                ("= int32(0),", "= int32(0)"), ("[1, 1])];", "[1, 1])]"), ("[1, 1]", "[1, 1, 1]"),
                ("[1, 1]", "[1, 1.5]"), ("(0x1p-5)", "(1)"), ("int32(0)", "int32(2147483648)"),
                ("point = int8(0)", "point = int8(1)"), ("uint64(64)", "uint64(128)")):
            with self.subTest(old, new=new), self.assertRaises(MilError):
                self.assertIn(old, program.mil)
                mil_grammar.steps(program.mil.replace(old, new), program.blob)


class ProgramTest(unittest.TestCase):
    """Programs are built from valid arguments, and written to files."""

    def test_invalid_arguments(self) -> None:
        config = Config(8, 4, 1)
        options: tuple[dict[str, Any], ...] = (
            {"form": "auto"}, {"form": "1.3"}, {"form": 1.3}, {"seed": -1}, {"seed": True},
            {"seed": 1.0}, {"seed": 1 << 53}, {"original": "yes"}, {"original": 1})
        calls: list[tuple[Any, Any, dict[str, Any]]] = [
            ((8, 4, 1), "fp16", {}), ("8x4x1", "fp16", {}), (config, "fp8", {}),
            (config, ["fp16"], {}), (config, None, {}),
            (Config(8, 4, 1, 3), "fp16", {"original": True}),
            *[(config, "fp16", option) for option in options]]
        for first, second, option in calls:
            with self.subTest((first, second, option)), self.assertRaises(UsageError) as raised:
                build_program(first, second, **option)
            self.assertTrue(str(raised.exception).isprintable())

    def test_written_files(self) -> None:
        program = build_program(Config(8, 4, 2, 3), "w8a8")
        with tempfile.TemporaryDirectory() as holder:
            directory = Path(holder) / "new"
            program.write(str(directory))
            program.write(str(directory))
            self.assertEqual((directory / "model.mil").read_text(), program.mil)
            self.assertEqual((directory / "weights" / "weight.bin").read_bytes(), program.blob)
            mask = os.umask(0)
            os.umask(mask)
            modes = {path.name: path.stat().st_mode & 0o777 for path in directory.rglob("*")}
            self.assertEqual(modes, {"weights": 0o777 & ~mask, "model.mil": 0o666 & ~mask,
                                     "weight.bin": 0o666 & ~mask})
            self.assertEqual(directory.stat().st_mode & 0o777, 0o777 & ~mask)
