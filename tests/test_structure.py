"""The module's sections: each uses only those above it, and its banner lists the names that those
below it use; functions are short, and what is public is documented."""

import ast
import functools
import re
import unittest
from typing import NamedTuple

from tests import support

SOURCE = support.MODULE.read_text(encoding="utf-8")
RULE = "# " + "=" * 98
TITLES = ("Constants and errors", "Configurations", "Weights", "Programs", "Reference",
          "Verification", "Objective-C runtime", "Neural Engine", "Statistics", "Measurement",
          "Machine", "Record", "Worker", "Parent", "Reports", "Chart", "Command line")
# The one name that a section takes from below: Run.table prints what section 15 makes.
FROM_BELOW = {("report", 12)}
LONGEST_FUNCTION = 40  # lines


class Section(NamedTuple):
    """A section: its number and title, the names that its banner lists, and its lines."""

    number: int
    title: str
    listed: list[str]
    first: int
    last: int


@functools.cache
def sections() -> list[Section]:
    """Return the sections in order."""
    lines = SOURCE.split("\n")
    starts = [index for index, line in enumerate(lines)
              if re.match(r"# [0-9]+\. ", line) and lines[index - 1] == RULE]
    found = []
    for start, following in zip(starts, [*starts[1:], len(lines)]):
        banner = " ".join(line.lstrip("# ") for line in lines[start:lines.index(RULE, start)])
        parts = re.fullmatch(r"([0-9]+)\. (.*?)(?: +Used below: (.*)\.)?", banner)
        assert parts, banner
        found.append(Section(int(parts[1]), parts[2], re.findall(r"\w+", parts[3] or ""), start,
                             following))
    return found


def section_of(line: int) -> int:
    """Return the number of the section that a line belongs to; 0 for the manual and the imports."""
    return max([section.number for section in sections() if section.first < line <= section.last],
               default=0)


def definitions(tree: ast.Module) -> list[tuple[str, int]]:
    """Return the names that are defined at the top level, each with its section."""
    found = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append((node.name, section_of(node.lineno)))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found += [(name.id, section_of(node.lineno)) for name in ast.walk(target)
                          if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
    return found


def used_names(tree: ast.Module) -> dict[int, set[str]]:
    """Return the names that each section uses, those in quoted annotations too."""
    used: dict[int, set[str]] = {}
    for node in tree.body:
        if not section_of(node.lineno):
            continue
        annotations = [getattr(part, name, None) for part in ast.walk(node)
                       for name in ("annotation", "returns")]
        quoted = [part.value for annotation in annotations if annotation
                  for part in ast.walk(annotation)
                  if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        parts = [node, *(ast.parse(text, mode="eval") for text in quoted)]
        names = [name for part in parts for name in ast.walk(part) if isinstance(name, ast.Name)]
        own = {name.id for name in names if isinstance(name.ctx, ast.Store)}  # of the same name
        own |= {argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)}
        used.setdefault(section_of(node.lineno), set()).update({name.id for name in names} - own)
    return used


class SectionsTest(unittest.TestCase):
    """A stranger finds the line to change, and knows what it may touch."""

    def setUp(self) -> None:
        self.tree = ast.parse(SOURCE)
        self.defined, self.used = dict(definitions(self.tree)), used_names(self.tree)

    def test_sections_are_those_that_the_manual_lists(self) -> None:
        manual = " ".join((ast.get_docstring(self.tree) or "").split())
        self.assertEqual([section.title for section in sections()], list(TITLES))
        for number, title in enumerate(TITLES, 1):
            name = title if title.startswith(("Objective-C", "Neural")) else title.lower()
            self.assertRegex(manual, rf" {number} {name}[,.]")

    def test_each_name_is_defined_once(self) -> None:
        names = [name for name, _ in definitions(self.tree)]
        self.assertEqual({name for name in names if names.count(name) > 1}, set())

    def test_each_uses_only_those_above_it(self) -> None:
        below = {(name, number) for number, names in self.used.items() for name in names
                 if self.defined.get(name, 0) > number}
        self.assertEqual(below, FROM_BELOW)

    def test_each_banner_lists_what_those_below_use(self) -> None:
        for section in sections():
            below = {name for number, names in self.used.items() if number > section.number
                     for name in names}
            needed = [name for name, number in self.defined.items()
                      if number == section.number and name in below]
            self.assertEqual(sorted(section.listed), sorted(needed), section.title)


class ManuscriptTest(unittest.TestCase):
    """Lines and functions are short, and what is public has a docstring."""

    def setUp(self) -> None:
        self.nodes = list(ast.walk(ast.parse(SOURCE)))
        self.functions = [node for node in self.nodes if isinstance(node, ast.FunctionDef)]

    def test_lines_and_functions_are_short(self) -> None:
        self.assertEqual([line for line in SOURCE.split("\n") if len(line) > 100], [])
        manual = SOURCE.split('"""')[1]  # which a terminal of 80 columns shows
        self.assertEqual([line for line in manual.split("\n") if len(line) > 80], [])
        self.assertEqual([node.name for node in self.functions
                          if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION], [])

    def test_what_is_public_has_a_docstring(self) -> None:
        public = [node for node in self.nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                  and not node.name.startswith("_")]
        inner = {part for node in self.functions for part in ast.walk(node) if part is not node}
        self.assertEqual([node.name for node in public
                          if node not in inner and not ast.get_docstring(node)], [])
