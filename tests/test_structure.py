"""The module's sections: each uses only those above it, and its banner lists the names that those
below it use; functions are short, and what is public is documented."""

import ast
import functools
import re
import unittest
from typing import NamedTuple

from tests import support

SOURCE = support.MODULE.read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
RULE = "# " + "=" * 98


class Section(NamedTuple):
    """A section: its title, the names that its banner lists, that it defines, and that it uses."""

    title: str
    listed: list[str]
    defined: list[str]
    used: set[str]


@functools.cache
def sections() -> list[Section]:
    """Return the sections in order; the first is the manual and the imports."""
    found = [Section("", [], [], set())]
    starts = [(int(match[1]), SOURCE[:match.start()].count("\n"), " ".join(match[2].split("\n# ")))
              for match in re.finditer(rf"(?m)^{RULE}\n# ([0-9]+)\. ((?:.*\n)*?){RULE}\n", SOURCE)]
    for number, _, banner in starts:
        assert number == len(found)
        title, _, listed = banner.partition("Used below: ")
        found.append(Section(title.strip("# \n"), re.findall(r"\w+", listed), [], set()))
    for node in TREE.body:
        section = found[sum(line < node.lineno for _, line, _ in starts)]
        section.defined.extend(defined_names(node))
        section.used.update(used_names(node))
    return found


def defined_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top level defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return [name.id for target in targets for name in ast.walk(target)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]


def used_names(node: ast.stmt) -> set[str]:
    """Return the names that a statement uses, those in quoted annotations too, but not its own."""
    annotations = [getattr(part, name, None) for part in ast.walk(node)
                   for name in ("annotation", "returns")]
    quoted = [part.value for annotation in annotations if annotation
              for part in ast.walk(annotation)
              if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    parts = [node, *(ast.parse(text, mode="eval") for text in quoted)]
    names = [name for part in parts for name in ast.walk(part) if isinstance(name, ast.Name)]
    own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    own |= {argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)}
    return {name.id for name in names} - own


class SectionsTest(unittest.TestCase):
    """A stranger finds the line to change, and knows what it may touch."""

    def test_sections_are_those_that_the_manual_lists(self) -> None:
        manual = " ".join((ast.get_docstring(TREE) or "").split())
        self.assertEqual(len(sections()), 1 + 17)
        for number, section in enumerate(sections()[1:], 1):
            self.assertRegex(manual, rf"(?i) {number} {section.title}[,.]")

    def test_each_name_is_defined_once(self) -> None:
        names = [name for section in sections() for name in section.defined]
        self.assertEqual({name for name in names if names.count(name) > 1}, set())

    def test_each_uses_only_those_above_it(self) -> None:
        below = {(name, number) for number, section in enumerate(sections())
                 for later in sections()[number + 1:] for name in section.used & {*later.defined}}
        self.assertEqual(below, {("report", 12)})  # Run.table prints what section 15 makes

    def test_each_banner_lists_what_those_below_use(self) -> None:
        for number, section in enumerate(sections()[1:], 1):
            below = {name for later in sections()[number + 1:] for name in later.used}
            self.assertEqual(sorted(section.listed), sorted(below & {*section.defined}))


class ManuscriptTest(unittest.TestCase):
    """Lines and functions are short, and what is public has a docstring."""

    def test_lines_and_functions_are_short(self) -> None:
        self.assertEqual([line for line in SOURCE.split("\n") if len(line) > 100], [])
        manual = SOURCE.split('"""')[1]  # which a terminal of 80 columns shows
        self.assertEqual([line for line in manual.split("\n") if len(line) > 80], [])
        self.assertEqual([node.name for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)
                          and (node.end_lineno or 0) - node.lineno >= 40], [])

    def test_what_is_public_has_a_docstring(self) -> None:
        inner = {part for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)
                 for part in ast.walk(node) if part is not node}
        self.assertEqual([node.name for node in ast.walk(TREE)
                          if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node not in inner
                          and not node.name.startswith("_") and not ast.get_docstring(node)], [])
