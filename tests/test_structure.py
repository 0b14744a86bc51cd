"""The module's sections: each uses only those above it, and its banner lists the names that those below it use."""

import ast
import functools
import re
import unittest
from typing import NamedTuple

from tests import support

SOURCE = support.MODULE.read_text(encoding="utf-8")
RULE = "# " + "=" * 118


class Section(NamedTuple):
    """A section: its number and title, the names that its banner lists, and the lines that it takes."""

    number: int
    title: str
    listed: list[str]
    first: int
    last: int


@functools.cache
def sections() -> list[Section]:
    """Return the sections in order."""
    lines = SOURCE.split("\n")
    starts = [index for index, line in enumerate(lines) if re.match(r"# [0-9]+\. ", line) and lines[index - 1] == RULE]
    found = []
    for start, following in zip(starts, [*starts[1:], len(lines)]):
        banner = " ".join(line.lstrip("# ") for line in lines[start:lines.index(RULE, start)])
        number, title, listed = re.fullmatch(r"([0-9]+)\. (.*?)(?: +Used below: (.*)\.)?", banner).groups()  # type: ignore
        found.append(Section(int(number), title, re.findall(r"\w+", listed or ""), start, following))
    return found


def section_of(line: int) -> int:
    """Return the number of the section that a line belongs to; 0 for the manual and the imports."""
    return max([section.number for section in sections() if section.first < line <= section.last], default=0)


def defined_names(tree: ast.Module) -> dict[str, int]:
    """Return each name that is defined at the top level, with its section."""
    names: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node in tree.body:
            names[node.name] = section_of(node.lineno)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        names[name.id] = section_of(node.lineno)
    return names


def used_names(tree: ast.Module) -> dict[int, set[str]]:
    """Return the names that each section uses, those in quoted annotations too."""
    used: dict[int, set[str]] = {}
    for node in tree.body:
        if not section_of(node.lineno):
            continue
        parts = [node, *(ast.parse(part.value, mode="eval") for part in ast.walk(node)
                         if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier()
                         and part.value[:1].isupper())]
        names = [name for part in parts for name in ast.walk(part) if isinstance(name, ast.Name)]
        own = {name.id for name in names if isinstance(name.ctx, ast.Store)}  # a variable of the same name
        own |= {argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)}
        found = {name.id for name in names} - own
        used.setdefault(section_of(node.lineno), set()).update(found)
    return used


class SectionsTest(unittest.TestCase):
    """A stranger finds the line to change, and knows what it may touch."""

    def setUp(self) -> None:
        tree = ast.parse(SOURCE)
        self.defined, self.used = defined_names(tree), used_names(tree)

    def test_sections_are_numbered_and_named_in_the_manual(self) -> None:
        manual = " ".join((ast.get_docstring(ast.parse(SOURCE)) or "").split())
        found = sections()
        self.assertEqual([section.number for section in found], list(range(1, 17)))
        for section in found:
            first = section.title[0] if section.number in (4, 6, 7) else section.title[0].lower()  # names stay large
            self.assertIn(f"{section.number} {first}{section.title[1:]}", manual)

    def test_each_uses_only_those_above_it(self) -> None:
        wrong = [f"{name} of section {self.defined[name]} is used in {number}" for number, names in self.used.items()
                 for name in names if self.defined.get(name, 0) > number]
        self.assertEqual(wrong, [])

    def test_each_banner_lists_what_those_below_use(self) -> None:
        for section in sections():
            below = {name for number, names in self.used.items() if number > section.number for name in names}
            needed = [name for name, number in self.defined.items() if number == section.number and name in below]
            self.assertEqual(sorted(section.listed), sorted(needed), section.title)


if __name__ == "__main__":
    unittest.main()
