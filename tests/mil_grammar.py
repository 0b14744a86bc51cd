"""Read MIL texts and weight files without ane_bench: an oracle for what its writer writes.

The grammar is the general one: with all of their types, literals and attributes it read eight
programs of Apple's compiler, of both dialects, from the repositories of coremltools, FluidAudio,
ironmill and mlmodelc-export. `steps` then tells what a chain of convolutions
computes, and refuses what Apple's compiler would refuse or read otherwise.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Union

Blob = Union[bytes, bytearray]


class MilError(Exception):
    """A MIL text that is damaged, or no chain. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


class BlobError(Exception):
    """A weight file that is damaged, or that does not hold what a text says."""


class Tensor(NamedTuple):
    """A tensor of a weight file: the offset of its record, its data type, its bytes."""

    offset: int
    data_type: str
    data: bytes


# Codes and bytes of an element: BlobDataType.hpp of apple/coremltools.
ELEMENTS = {1: ("fp16", 2), 2: ("fp32", 4), 3: ("uint8", 1), 4: ("int8", 1)}


def read_weight_file(blob: Blob) -> list[Tensor]:
    """Return all tensors of a file of Apple's layout, in order. Raise BlobError with the offset of
    what Apple's writer would not write."""
    if len(blob) < 64:
        raise BlobError(f"{len(blob)} bytes: no header")
    count, version, *reserved = struct.unpack_from("<II7Q", blob)
    if version != 2 or any(reserved):
        raise BlobError(f"offset 4: version {version}, reserved {reserved}")
    tensors: list[Tensor] = []
    end = 64
    for _ in range(count):
        record = -(-end // 64) * 64
        if any(blob[end:record]):
            raise BlobError(f"offset {end}: a gap that is not zero")
        tensors.append(read_tensor(blob, record))
        end = record + 64 + len(tensors[-1].data)
    if end != len(blob):
        raise BlobError(f"offset {end}: {len(blob) - end} bytes follow the last tensor")
    return tensors


def read_tensor(blob: Blob, offset: int) -> Tensor:
    """Return the tensor whose record is at an offset, or raise BlobError."""
    if offset % 64 or not 0 <= offset <= len(blob) - 64:
        raise BlobError(f"offset {offset}: no record of a file of {len(blob)} bytes")
    sentinel, code, size, data, *reserved = struct.unpack_from("<IIQQQ4Q", blob, offset)
    name, element = ELEMENTS.get(code, ("", 1))
    if sentinel != 0xDEADBEEF or not name or data != offset + 64 or any(reserved):
        raise BlobError(f"offset {offset}: sentinel {sentinel:#x}, type {code}, data at {data}")
    if size % element or size > len(blob) - data:
        raise BlobError(f"offset {offset}: {size} bytes of {name} in a file of {len(blob)} bytes")
    return Tensor(offset, name, bytes(blob[data:data + size]))


class Type(NamedTuple):
    """A MIL type: `fp16` is Type("fp16"); a tensor has its element as parameter and a shape, None
    for each `?`."""

    name: str
    parameters: tuple["Type", ...] = ()
    shape: Optional[tuple[Optional[int], ...]] = None

    @property
    def element(self) -> str:
        """Return the data type of a scalar or tensor."""
        return self.parameters[0].name if self.name == "tensor" else self.name


class BlobFile(NamedTuple):
    """A literal that stands in a weight file, at the record at `offset`."""

    path: str
    offset: int


class Pairs(tuple[tuple[Any, Any], ...]):
    """The literal of a dict, keys and values in order."""


class Value(NamedTuple):
    """A typed literal: a number, string or bool; a list for a tensor or list; Pairs; a tuple; a
    BlobFile."""

    type: Type
    literal: Any


class Name(str):
    """An argument that names an earlier value."""


class Statement(NamedTuple):
    """`type name, … = operation(arguments)[attributes];` and the line it begins on."""

    line: int
    results: tuple[tuple[Type, str], ...]
    operation: str
    arguments: dict[str, Any]
    attributes: dict[str, Value]


class Function(NamedTuple):
    """`func name<opset>(inputs) [attributes] { statements } -> (outputs);`"""

    name: str
    opset: str
    inputs: tuple[tuple[Type, str], ...]
    attributes: dict[str, Value]
    statements: tuple[Statement, ...]
    outputs: tuple[str, ...]


class MilProgram(NamedTuple):
    """A whole text: its version (`1.3`), its attributes (buildInfo), its functions."""

    version: str
    attributes: dict[str, Value]
    functions: tuple[Function, ...]


def parse(text: str) -> MilProgram:
    """Return the program that a MIL text holds.

    Raises MilError with the line of bad grammar, of a literal that does not fit its type, of a name
    that is undefined or defined twice, of text after the program, and of nesting that exhausts
    Python's stack.
    """
    parser = _MilParser(text)
    try:
        return parser.program()
    except RecursionError:
        raise MilError(parser.line, "nested too deeply") from None


_TOKEN = re.compile(r"""(?P<space>[\ \t\r\n]+)
    | (?P<string>"(?:[^"\\\n]|\\["\\nt])*")
    | (?P<number>-?(?:0x[0-9a-f]+(?:\.[0-9a-f]+)?p[+-]?[0-9]{1,5}
                     |[0-9]{1,20}(?:\.[0-9]{1,9})?|inf|nan)(?![\w.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>->|[\[\](){}<>=,;?])""", re.VERBOSE)
_ESCAPES = {"n": "\n", "t": "\t"}
_PYTHON_TYPES = {"string": str, "bool": bool, "fp16": float, "fp32": float, "fp64": float,
                 "bf16": float}
_INTEGER_TYPE = re.compile(r"(u?)int(4|8|16|32|64)")


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


class _MilParser:
    """Recursive descent over the tokens, one method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._tokens = list(self._scan(text))
        self._place = 0

    @staticmethod
    def _scan(text: str) -> Iterator[_Token]:
        line, place = 1, 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise MilError(line, f"{text[place:place + 20]!r} is not part of a MIL text")
            kind, found, place = str(match.lastgroup), match.group(), match.end()
            if kind != "space":
                yield _Token(kind, found, line)
            line += found.count("\n")
        yield _Token("end", "the end of the text", line)

    @property
    def line(self) -> int:
        """Return the line of the token to be read next."""
        return self._next.line

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _fail(self, expected: str) -> NoReturn:
        raise MilError(self._next.line, f"found {self._next.text[:40]!r}; expected {expected}")

    def _take(self, kind: str, expected: str = "") -> str:
        """Return the next token's text and go on; raise MilError if it is of another kind."""
        token = self._next
        if token.kind != kind:
            self._fail(expected or f"a {kind}")
        self._place += 1
        return token.text

    def _at(self, text: str) -> bool:
        return self._next.text == text and self._next.kind in ("mark", "name")

    def _expect(self, *texts: str) -> None:
        for text in texts:
            if not self._at(text):
                self._fail(repr(text))
            self._place += 1

    def _accept(self, text: str) -> bool:
        found = self._at(text)
        self._place += found
        return found

    def _several(self, close: str, item: Callable[[], Any]) -> list[Any]:
        """Return the items between commas up to a closing mark, which is taken too; there may be
        none."""
        items: list[Any] = []
        while not self._accept(close):
            if items:
                self._expect(",")
            items.append(item())
        return items

    def _pairs(self, close: str, value: Callable[[], Any]) -> dict[str, Any]:
        """Return the pairs `name = value` between commas up to a closing mark."""
        pairs: dict[str, Any] = {}

        def pair() -> None:
            line, name = self._next.line, self._take("name")
            if name in pairs:
                raise MilError(line, f"{name!r} is given twice")
            self._expect("=")
            pairs[name] = value()

        self._several(close, pair)
        return pairs

    def program(self) -> MilProgram:
        """Return the program of the whole text."""
        self._expect("program", "(")
        version = self._take("number", "a version such as 1.3")
        if not re.fullmatch(r"1\.[0-9]", version):
            self._place -= 1
            self._fail("a version such as 1.3")
        self._expect(")")
        attributes = self._attributes()
        self._expect("{")
        functions: list[Function] = []
        while not self._accept("}"):
            line, function = self._next.line, self._function()
            if any(function.name == other.name for other in functions):
                raise MilError(line, f"function {function.name!r} is defined twice")
            functions.append(function)
        if self._next.kind != "end":
            self._fail("nothing after the program")
        return MilProgram(version, attributes, tuple(functions))

    def _attributes(self) -> dict[str, Value]:
        return self._pairs("]", self._value) if self._accept("[") else {}

    def _function(self) -> Function:
        self._expect("func")
        name = self._take("name")
        self._expect("<")
        opset = self._take("name")
        self._expect(">", "(")
        defined: dict[str, Type] = {}
        inputs = self._several(")", lambda: self._definition(defined))
        attributes = self._attributes()
        self._expect("{")
        statements: list[Statement] = []
        while not self._accept("}"):
            statements.append(self._statement(defined))
        self._expect("->", "(")
        outputs = self._several(")", lambda: self._known(defined))
        if not outputs or len(set(outputs)) < len(outputs):
            self._fail("one output or several, each once, before it")
        self._expect(";")
        return Function(name, opset, tuple(inputs), attributes, tuple(statements), tuple(outputs))

    def _definition(self, defined: dict[str, Type]) -> tuple[Type, str]:
        type_, line, name = self._type(), self._next.line, self._take("name")
        if name in defined:
            raise MilError(line, f"{name!r} is defined twice")
        defined[name] = type_
        return type_, name

    def _known(self, defined: dict[str, Type]) -> Name:
        line, name = self._next.line, self._take("name")
        if name not in defined:
            raise MilError(line, f"{name!r} is not defined")
        return Name(name)

    def _statement(self, defined: dict[str, Type]) -> Statement:
        line = self._next.line
        own: dict[str, Type] = {}
        results = [self._definition(own)]
        while self._accept(","):
            results.append(self._definition(own))
        self._expect("=")
        operation = self._take("name")
        self._expect("(")
        arguments = self._pairs(")", lambda: self._argument(defined))
        attributes = self._attributes()
        self._expect(";")
        for name in own:
            if name in defined:
                raise MilError(line, f"{name!r} is defined twice")
        defined.update(own)
        return Statement(line, tuple(results), operation, arguments, attributes)

    def _argument(self, defined: dict[str, Type]) -> Any:
        """Return a typed literal, a name, or a tuple of these."""
        if self._accept("("):
            return tuple(self._several(")", lambda: self._argument(defined)))
        following = self._tokens[self._place + 1].text if self._next.kind == "name" else ""
        return self._value() if following in ("(", "<") else self._known(defined)

    def _type(self) -> Type:
        name = self._take("name", "a type")
        if name not in ("tensor", "list") and not self._at("<"):
            if name not in _PYTHON_TYPES and not _INTEGER_TYPE.fullmatch(name):
                self._place -= 1
                self._fail("a type")
            return Type(name)
        self._expect("<")
        parameters, shape = [self._type()], None
        while shape is None and self._accept(","):
            if name == "tensor":
                self._expect("[")
                shape = tuple(self._several("]", self._dimension))
            elif name == "list":
                shape = (self._dimension(),)
            else:
                parameters.append(self._type())
        self._expect(">")
        if (name in ("tensor", "list")) != (shape is not None):
            self._fail(f"a complete {name} type before it")
        return Type(name, tuple(parameters), shape)

    def _dimension(self) -> Optional[int]:
        if self._accept("?"):
            return None
        text = self._take("number", "a dimension")
        if not text.isdigit():
            self._place -= 1
            self._fail("a dimension")
        return int(text)

    def _value(self) -> Value:
        line, type_ = self._next.line, self._type()
        self._expect("(")
        literal = self._blob_file() if self._accept("BLOBFILE") else self._literal()
        self._expect(")")
        if not isinstance(literal, BlobFile) and not _fits(type_, literal):
            raise MilError(line, f"a literal does not fit its type {type_.name} of {type_.element}")
        return Value(type_, literal)

    def _blob_file(self) -> BlobFile:
        line = self._next.line
        self._expect("(")
        place = self._pairs(")", lambda: self._value())
        path, offset = (place.get(key, Value(Type(""), None)) for key in ("path", "offset"))
        scalars = isinstance(path.literal, str) and isinstance(offset.literal, int)
        elements = [path.type.element, offset.type.element]
        if len(place) != 2 or not scalars or elements != ["string", "uint64"]:
            raise MilError(line, "BLOBFILE takes path = string(…) and offset = uint64(…)")
        return BlobFile(path.literal, offset.literal)

    def _literal(self) -> Any:
        if self._accept("["):
            return self._several("]", self._literal)
        if self._accept("("):
            return tuple(self._several(")", self._literal))
        if self._accept("{"):
            return Pairs(self._several("}", self._entry))
        if self._next.kind == "string":
            return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]),
                          self._take("string")[1:-1])
        if self._next.kind == "number":
            return self._number()
        for text, value in (("true", True), ("false", False)):
            if self._accept(text):
                return value
        return self._fail("a literal")

    def _number(self) -> Union[int, float]:
        text = self._take("number")
        if text.lstrip("-").isdigit():
            return int(text)
        try:
            return float.fromhex(text) if "x" in text else float(text)
        except OverflowError:
            self._place -= 1
            return self._fail("a number in the range of a float")

    def _entry(self) -> tuple[Any, Any]:
        self._expect("{")
        items = self._several("}", self._literal)
        if len(items) != 2:
            self._fail("a key and a value before it")
        return items[0], items[1]


def _fits(type_: Type, literal: Any) -> bool:
    """Return whether an untyped literal can be a value of a type."""
    if type_.name in ("tensor", "list"):
        return _fits_shape(type_.parameters[0], type_.shape or (), literal)
    if type_.name == "tuple":
        return (isinstance(literal, tuple) and len(literal) == len(type_.parameters)
                and all(map(_fits, type_.parameters, literal)))
    if type_.name == "dict":
        return (isinstance(literal, Pairs) and len(type_.parameters) == 2
                and all(all(map(_fits, type_.parameters, pair)) for pair in literal))
    integer = _INTEGER_TYPE.fullmatch(type_.name)
    if integer:
        bits, signed = int(integer[2]), not integer[1]
        least = -(1 << bits - 1) if signed else 0
        return type(literal) is int and least <= literal < least + (1 << bits)
    return type(literal) is _PYTHON_TYPES.get(type_.name)


def _fits_shape(element: Type, shape: Sequence[Optional[int]], literal: Any) -> bool:
    if not shape:
        return _fits(element, literal)
    return (isinstance(literal, list) and shape[0] in (None, len(literal))
            and all(_fits_shape(element, shape[1:], item) for item in literal))


class Step(NamedTuple):
    """A step of a chain: conv with the padding of each side and the weights ([output, input, rows,
    columns], a tensor of fp16, or of int8 times the scale); quantize or dequantize with its
    scale."""

    operation: str
    scale: float = 1.0
    pad: int = 0
    shape: Sequence[Optional[int]] = ()
    weights: Optional[Tensor] = None


# The first opset of each operation, by apple/coremltools, converters/mil/mil/ops/defs.
FIRST_OPSETS = {"const": 15, "conv": 15, "constexpr_affine_dequantize": 16, "quantize": 17,
                "dequantize": 17}


def steps(text: str, blob: Blob) -> list[Step]:
    """Return what a chain computes, from its input to its output. Raise MilError or BlobError for
    another program, or weights that are not in the file as the text says."""
    program = parse(text)
    function, = program.functions
    check_spelling(program, text)
    for statement in function.statements:
        if f"ios{FIRST_OPSETS.get(statement.operation, 99)}" > function.opset:
            raise MilError(statement.line, f"{statement.operation} is not in {function.opset}")
        if statement.attributes["name"].literal != statement.results[0][1]:
            raise MilError(statement.line, "a name that is not its result's")
    types = {name: type_ for type_, name in function.inputs}
    types.update({name: type_ for one in function.statements for type_, name in one.results})
    statements = {one.results[0][1]: one for one in function.statements}
    (image, x), name, found = function.inputs[0], function.outputs[0], []
    while name != x:
        statement = statements[name]
        step = _STEPS[statement.operation](statement, statements, types, blob)
        name = statement.arguments["x" if step.operation == "conv" else "input"]
        elements = [types[place].element for place in (name, statement.results[0][1])]
        expected = {"quantize": ["fp16", "int8"], "dequantize": ["int8", "fp16"]}
        if (elements != expected.get(step.operation, ["fp16", "fp16"])
                or types[statement.results[0][1]].shape != image.shape):
            raise MilError(statement.line, f"types {elements}, or another shape than the input's")
        found.append(step)
    return found[::-1]


def check_spelling(program: MilProgram, text: str) -> None:
    """Raise MilError if short and long spellings are mixed, or long ones are not in
    program(1.0)."""
    short, long = re.search(r"[= (](string|fp16|u?int[0-9]+)\(", text), "tensor<string, []>" in text
    if bool(short) == long or long != (program.version == "1.0"):
        raise MilError(1, "short and long spellings, or a version that does not have them")


def _convolution(statement: Statement, statements: dict[str, Statement], types: dict[str, Type],
                 blob: Blob) -> Step:
    settings = {key: statements[name].attributes["val"].literal
                for key, name in statement.arguments.items() if key not in ("weight", "x")}
    pads, kind = settings.pop("pad"), settings.pop("pad_type")
    if settings != {"strides": [1, 1], "dilations": [1, 1], "groups": 1} or len(set(pads)) > 1:
        raise MilError(statement.line, f"a convolution with {settings} and padding {pads}")
    weight = statements[statement.arguments["weight"]]
    key = {"const": "val", "constexpr_affine_dequantize": "quantized_data"}[weight.operation]
    value, scale = weight.attributes[key], 1.0
    if key != "val":
        zero, axis = (weight.attributes[name].literal for name in ("zero_point", "axis"))
        if zero or axis:
            raise MilError(weight.line, f"zero point {zero}, axis {axis}")
        scale = weight.attributes["scale"].literal
    if value.literal.path != "@model_path/weights/weight.bin":
        raise MilError(weight.line, f"a weight file {value.literal.path}")
    tensor, shape = read_tensor(blob, value.literal.offset), value.type.shape or ()
    elements = 1
    for length in shape:
        elements *= length or 0
    size = {"fp16": 2, "int8": 1}[value.type.element]
    if (tensor.data_type, len(tensor.data)) != (value.type.element, elements * size):
        raise BlobError(f"offset {tensor.offset}: {len(tensor.data)} bytes of {tensor.data_type}")
    if types[statement.arguments["weight"]] != value.type._replace(parameters=(Type("fp16"),)):
        raise MilError(weight.line, "a weight of another type than its data's")
    pad = pads[0] if kind == "custom" else 0
    if shape[2] != 2 * pad + 1 or shape[3] != 2 * pad + 1:
        raise MilError(statement.line, "an image of another size than its type's")
    return Step("conv", scale, pad, shape, tensor)


def _quantization(statement: Statement, statements: dict[str, Statement], types: dict[str, Type],
                  blob: Blob) -> Step:
    kind = statement.arguments.get("output_dtype")
    if kind and statements[kind].attributes["val"].literal != "int8":
        raise MilError(statement.line, "another type than int8")
    scale = statements[statement.arguments["scale"]].attributes["val"].literal
    return Step(statement.operation, scale)


_STEPS = {"conv": _convolution, "quantize": _quantization, "dequantize": _quantization}
