"""Read MIL texts and weight files without ane_bench: an oracle for what its writer writes.

The grammar is that of Apple's compiler, in both of its dialects, as far as a chain of convolutions
needs it. `steps` then tells what the chain computes, and refuses what Apple's compiler would refuse
or read otherwise.
"""

import math
import re
import struct
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, NoReturn, Optional


class MilError(Exception):
    """A text or a weight file that is damaged, or no chain, or does not fit the other."""


class Tensor(NamedTuple):
    """A tensor of a weight file: the offset of its record, its data type, its bytes."""

    offset: int
    data_type: str
    data: bytes


# Codes and bytes of an element: BlobDataType.hpp of apple/coremltools.
ELEMENTS = {1: ("fp16", 2), 2: ("fp32", 4), 3: ("uint8", 1), 4: ("int8", 1)}


def read_weight_file(blob: bytearray) -> list[Tensor]:
    """Return all tensors of a file of Apple's layout, in order. Raise MilError with the offset of
    what Apple's writer would not write."""
    if len(blob) < 64:
        raise MilError(f"{len(blob)} bytes: no header")
    count, version, *reserved = struct.unpack_from("<II7Q", blob)
    if version != 2 or any(reserved):
        raise MilError(f"offset 4: version {version}, reserved {reserved}")
    tensors: list[Tensor] = []
    end = 64
    for _ in range(count):
        record = -(-end // 64) * 64
        if any(blob[end:record]):
            raise MilError(f"offset {end}: a gap that is not zero")
        tensors.append(read_tensor(blob, record))
        end = record + 64 + len(tensors[-1].data)
    if end != len(blob):
        raise MilError(f"offset {end}: {len(blob) - end} bytes follow the last tensor")
    return tensors


def read_tensor(blob: bytearray, offset: int) -> Tensor:
    """Return the tensor whose record is at an offset, or raise MilError."""
    if offset % 64 or not 0 <= offset <= len(blob) - 64:
        raise MilError(f"offset {offset}: no record of a file of {len(blob)} bytes")
    sentinel, code, size, data, *reserved = struct.unpack_from("<IIQQQ4Q", blob, offset)
    name, element = ELEMENTS.get(code, ("", 1))
    if sentinel != 0xDEADBEEF or not name or data != offset + 64 or any(reserved):
        raise MilError(f"offset {offset}: sentinel {sentinel:#x}, type {code}, data at {data}")
    if size % element or size > len(blob) - data:
        raise MilError(f"offset {offset}: {size} bytes of {name} in a file of {len(blob)} bytes")
    return Tensor(offset, name, bytes(blob[data:data + size]))


class Type(NamedTuple):
    """A MIL type: `fp16` is Type("fp16"); a tensor has its element as parameter, and a shape."""

    name: str
    parameters: tuple["Type", ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def element(self) -> str:
        """Return the data type of a scalar or tensor."""
        return self.parameters[0].name if self.name == "tensor" else self.name


class Value(NamedTuple):
    """A typed literal: a number, text, list or dict; for a BLOBFILE the tuple (path, offset)."""

    type: Type
    literal: Any


class Statement(NamedTuple):
    """`type name = operation(arguments)[attributes];`"""

    type: Type
    operation: str
    arguments: dict[str, str]
    attributes: dict[str, Value]


class Program(NamedTuple):
    """A whole text: the types of all names, and the statements that define all but the input."""

    version: str
    opset: str
    input: str
    types: dict[str, Type]
    statements: dict[str, Statement]
    output: str


TOKEN = re.compile(r"""(?P<space>\s+) | (?P<string>"[^"\\\n]*") | (?P<version>1\.[0-9])
    | (?P<number>-?(?:0x[0-9a-f]+(?:\.[0-9a-f]+)?p[+-]?[0-9]{1,5}|[0-9]{1,20})(?![\w.]))
    | (?P<name>[A-Za-z_]\w*) | (?P<mark>->|[\[\](){}<>=,;]) | (?P<end>\Z) | (?P<other>.)""",
                   re.VERBOSE | re.ASCII)
INTEGERS = re.compile(r"(u?)int(8|32|64)")
PYTHON_TYPES = {"string": str, "fp16": float}


class Parser:
    """Recursive descent over the tokens of a text. Raises MilError for bad grammar, a literal that
    does not fit its type, and a name that is undefined or defined twice."""

    def __init__(self, text: str) -> None:
        self._text, self._place = text, 0
        self._tokens = [one for one in TOKEN.finditer(text) if one.lastgroup != "space"]

    def _fail(self, message: str) -> NoReturn:
        token = self._tokens[self._place]
        line = 1 + self._text.count("\n", 0, token.start())
        raise MilError(f"line {line}: {message} at {token.group()[:40]!r}")

    def _take(self, kind: str) -> str:
        """Return the next token's text and go on; raise MilError if it is of another kind."""
        token = self._tokens[self._place]
        if token.lastgroup != kind:
            self._fail(f"expected a {kind}")
        self._place += 1
        return token.group()

    def _accept(self, text: str) -> bool:
        found = self._tokens[self._place].group() == text
        self._place += found
        return found

    def _expect(self, *texts: str) -> None:
        for text in texts:
            if not self._accept(text):
                self._fail(f"expected {text!r}")

    def _several(self, close: str, item: Callable[[], Any]) -> list[Any]:
        """Return the items between commas up to a closing mark; there may be none."""
        items: list[Any] = []
        while not self._accept(close):
            if items:
                self._expect(",")
            items.append(item())
        return items

    def _pairs(self, close: str, value: Callable[[], Any]) -> dict[str, Any]:
        """Return the pairs `name = value` between commas up to a closing mark."""
        def pair() -> tuple[str, Any]:
            name = self._take("name")
            self._expect("=")
            return name, value()

        items = self._several(close, pair)
        if len(dict(items)) < len(items):
            self._fail("a name is given twice before it,")
        return dict(items)

    def program(self) -> Program:
        """Return the program of the whole text."""
        self._expect("program", "(")
        version = self._take("version")
        self._expect(")", "[")
        self._pairs("]", self._value)
        self._expect("{", "func", "main", "<")
        opset = self._take("name")
        self._expect(">", "(")
        image, x = self._type(), self._take("name")
        self._expect(")", "{")
        types, statements = {x: image}, {}
        while not self._accept("}"):
            name, statement = self._statement(types)
            types[name], statements[name] = statement.type, statement
        self._expect("->", "(")
        output = self._known(types)
        self._expect(")", ";", "}")
        self._take("end")
        return Program(version, opset, x, types, statements, output)

    def _statement(self, types: dict[str, Type]) -> tuple[str, Statement]:
        own, name = self._type(), self._take("name")
        if name in types:
            self._fail(f"{name!r} is defined twice,")
        self._expect("=")
        operation = self._take("name")
        self._expect("(")
        arguments = self._pairs(")", lambda: self._known(types))
        self._expect("[")
        attributes = self._pairs("]", self._value)
        self._expect(";")
        return name, Statement(own, operation, arguments, attributes)

    def _known(self, types: dict[str, Type]) -> str:
        name = self._take("name")
        if name not in types:
            self._fail(f"{name!r} is not defined,")
        return name

    def _type(self) -> Type:
        name = self._take("name")
        if name in PYTHON_TYPES or INTEGERS.fullmatch(name):
            return Type(name)
        if name not in ("tensor", "dict"):
            self._fail(f"{name!r} is no type,")
        self._expect("<")
        parameters, shape = [self._type()], ()
        self._expect(",")
        if name == "dict":
            parameters.append(self._type())
        else:
            self._expect("[")
            shape = tuple(self._several("]", lambda: int(self._take("number"))))
        self._expect(">")
        return Type(name, tuple(parameters), shape)

    def _value(self) -> Value:
        own = self._type()
        self._expect("(")
        literal = self._blob_file() if self._accept("BLOBFILE") else self._literal()
        self._expect(")")
        if not isinstance(literal, tuple) and not fits(own, literal):
            self._fail(f"a literal does not fit its type {own} before it,")
        return Value(own, literal)

    def _blob_file(self) -> tuple[str, int]:
        self._expect("(")
        found = self._pairs(")", self._value)
        elements = {key: value.type.element for key, value in found.items()}
        if elements != {"path": "string", "offset": "uint64"}:
            self._fail("expected path = string(…) and offset = uint64(…) before it,")
        return found["path"].literal, found["offset"].literal

    def _literal(self) -> Any:
        if self._accept("["):
            return self._several("]", self._literal)
        if self._accept("{"):
            return dict(self._several("}", self._entry))
        if self._tokens[self._place].lastgroup == "string":
            return self._take("string")[1:-1]
        text = self._take("number")
        return float.fromhex(text) if "x" in text else int(text)

    def _entry(self) -> tuple[Any, Any]:
        self._expect("{")
        pair = self._several("}", self._literal)
        if len(pair) != 2:
            self._fail("expected a key and a value before it,")
        return pair[0], pair[1]


def fits(own: Type, literal: Any) -> bool:
    """Return whether an untyped literal can be a value of a type."""
    if own.name == "dict":
        return isinstance(literal, dict) and all(
            all(map(fits, own.parameters, pair)) for pair in literal.items())
    if own.name == "tensor" and own.shape:
        return (isinstance(literal, list) and len(literal) == own.shape[0]
                and all(fits(own._replace(shape=own.shape[1:]), item) for item in literal))
    integer = INTEGERS.fullmatch(own.element)
    if integer:
        bits, signed = int(integer[2]), not integer[1]
        least = -(1 << bits - 1) if signed else 0
        return type(literal) is int and least <= literal < least + (1 << bits)
    return type(literal) is PYTHON_TYPES.get(own.element)


class Step(NamedTuple):
    """A step of a chain: conv with the padding of each side and its weights ([output, input, rows,
    columns] of fp16, or of int8 times the scale); quantize or dequantize with its scale."""

    operation: str
    scale: float = 1.0
    pad: int = 0
    shape: Sequence[int] = ()
    weights: Optional[Tensor] = None


# The first opset of each operation, by apple/coremltools, converters/mil/mil/ops/defs.
FIRST_OPSETS = {"const": 15, "conv": 15, "constexpr_affine_dequantize": 16, "quantize": 17,
                "dequantize": 17}
# The elements of what an operation takes and gives.
OPERANDS = {"conv": ["fp16", "fp16"], "quantize": ["fp16", "int8"], "dequantize": ["int8", "fp16"]}


def steps(text: str, blob: bytearray) -> list[Step]:
    """Return what a chain computes, from its input to its output. Raise MilError for another
    program, or weights that are not in the file as the text says."""
    program = Parser(text).program()
    short, long = re.search(r"[= (](string|fp16|u?int[0-9]+)\(", text), "tensor<string, []>" in text
    if bool(short) == long or long != (program.version == "1.0"):
        raise MilError("short and long spellings, or a version that does not have them")
    for name, one in program.statements.items():
        if f"ios{FIRST_OPSETS.get(one.operation, 99)}" > program.opset:
            raise MilError(f"{name}: {one.operation} is not in {program.opset}")
        if one.attributes["name"].literal != name:
            raise MilError(f"{name}: a name that is not its result's")
    name, found = program.output, []
    while name != program.input:
        one = program.statements[name]
        conv = one.operation == "conv"
        found.append(convolution(one, program, blob) if conv else quantization(one, program))
        name = one.arguments["x" if conv else "input"]
        elements = [program.types[name].element, one.type.element]
        if (elements != OPERANDS[one.operation]
                or one.type.shape != program.types[program.input].shape):
            raise MilError(f"after {name}: types {elements}, or another shape than the input's")
    return found[::-1]


def convolution(one: Statement, program: Program, blob: bytearray) -> Step:
    """Return a convolution with its weights."""
    settings = {key: program.statements[name].attributes["val"].literal
                for key, name in one.arguments.items() if key not in ("weight", "x")}
    pads, kind = settings.pop("pad"), settings.pop("pad_type")
    if settings != {"strides": [1, 1], "dilations": [1, 1], "groups": 1} or len(set(pads)) > 1:
        raise MilError(f"a convolution with {settings} and padding {pads}")
    weight = program.statements[one.arguments["weight"]]
    key = {"const": "val", "constexpr_affine_dequantize": "quantized_data"}[weight.operation]
    value, scale = weight.attributes[key], 1.0
    if key != "val":
        zero, axis = (weight.attributes[name].literal for name in ("zero_point", "axis"))
        if zero or axis:
            raise MilError(f"zero point {zero}, axis {axis}")
        scale = weight.attributes["scale"].literal
    path, offset = value.literal
    if path != "@model_path/weights/weight.bin":
        raise MilError(f"a weight file {path}")
    tensor, shape = read_tensor(blob, offset), value.type.shape
    size = {"fp16": 2, "int8": 1}[value.type.element] * math.prod(shape)
    if (tensor.data_type, len(tensor.data)) != (value.type.element, size):
        raise MilError(f"offset {offset}: {len(tensor.data)} bytes of {tensor.data_type}")
    if weight.type != value.type._replace(parameters=(Type("fp16"),)):
        raise MilError("a weight of another type than its data's")
    pad = pads[0] if kind == "custom" else 0
    if shape[2:] != (2 * pad + 1, 2 * pad + 1):
        raise MilError("an image of another size than its type's")
    return Step("conv", scale, pad, shape, tensor)


def quantization(one: Statement, program: Program) -> Step:
    """Return a quantize or a dequantize."""
    given = {key: program.statements[name].attributes["val"].literal
             for key, name in one.arguments.items() if key != "input"}
    if given.get("output_dtype", "int8") != "int8":
        raise MilError(f"{one.operation} with {given}")
    return Step(one.operation, given["scale"])
