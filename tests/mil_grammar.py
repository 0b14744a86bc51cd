"""Read the general grammar of MIL texts: an oracle for the writer and the reader of ane_bench.

It reads every program of Apple's compiler in the shared folder, with all of their types, literals and attributes.
Whatever the writer writes goes through it, and must then mean what ane_bench's own reader says.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Union

from ane_bench import MilError


class Type(NamedTuple):
    """A MIL type: `fp16` is Type("fp16"); a tensor has its element as parameter and a shape, None for each `?`."""

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
    """A typed literal: a number, string or bool; a list for a tensor or list; Pairs; a tuple; a BlobFile."""

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

    Raises MilError with the line of bad grammar, of a literal that does not fit its type, of a name that is undefined
    or defined twice, of text after the program, and of nesting that exhausts Python's stack.
    """
    parser = _MilParser(text)
    try:
        return parser.program()
    except RecursionError:
        raise MilError(parser.line, "nested too deeply") from None


_TOKEN = re.compile(r"""(?P<space>[\ \t\r\n]+)
    | (?P<string>"(?:[^"\\\n]|\\["\\nt])*")
    | (?P<number>-?(?:0x[0-9a-f]+(?:\.[0-9a-f]+)?p[+-]?[0-9]{1,5}|[0-9]{1,20}(?:\.[0-9]{1,9})?|inf|nan)(?![\w.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>->|[\[\](){}<>=,;?])""", re.VERBOSE)
_ESCAPES = {"n": "\n", "t": "\t"}
_PYTHON_TYPES = {"string": str, "bool": bool, "fp16": float, "fp32": float, "fp64": float, "bf16": float}
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
        """Return the items between commas up to a closing mark, which is taken too; there may be none."""
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
        if len(place) != 2 or not scalars or path.type.element != "string" or offset.type.element != "uint64":
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
            return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), self._take("string")[1:-1])
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
