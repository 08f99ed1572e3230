"""Who imports whom, read from the source: also imports within functions and those for type checkers alone."""

import ast
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


@dataclass(frozen=True)
class Import:
    """An import: the module that has it, the line, and the module or name that it asks for (`a.b` or `a.b.name`)."""

    importer: str
    line: int
    imported: str


def module_name(path: Path) -> str:
    """Return the name of a module from its path relative to the root of the packages."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_below(root: Path, *packages: str) -> list[Import]:
    """Return all imports of all modules of packages."""
    return [
        found
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        for found in imports_of(path, module_name(path.relative_to(root)))
    ]


def imports_of(path: Path, module: str) -> Iterable[Import]:
    """Return the imports of a file; of `from a import b` both are one, `a.b`."""
    return _imports_of_text(path.read_text(encoding="utf-8"), module)


@cache
def _imports_of_text(text: str, module: str) -> tuple[Import, ...]:
    """Return the imports of a text, which is parsed once: several tests ask for all of our files."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [Import(module, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*module.split(".")[: -node.level], node.module or ""]) if node.level else node.module or ""
            found += [Import(module, node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return tuple(found)


def modules_named_in_texts(path: Path, module: str, package: str) -> list[Import]:
    """Return the modules of a package whose names a file holds as texts, for `python -m` and the like."""
    pattern = re.compile(rf"{package}(\.\w+)+")
    return [
        Import(module, node.lineno, node.value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value)
    ]


def graph(imports: Iterable[Import], modules: Iterable[str]) -> dict[str, set[str]]:
    """Return module to the modules that it imports, of those that are given."""
    known = set(modules)
    result: dict[str, set[str]] = {module: set() for module in known}
    for found in imports:
        name = found.imported
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name and name != found.importer:
            result[found.importer].add(name)
    return result


def circles(edges: Mapping[Node, Iterable[Node]]) -> list[list[Node]]:
    """Return circles, each as the nodes on its way; at least one through every node that is on any."""
    found: list[list[Node]] = []
    on_a_circle: set[Node] = set()
    for start in edges:
        if start in on_a_circle:
            continue
        came_from: dict[Node, Node] = {}
        waiting = [start]
        while waiting:
            node = waiting.pop()
            for following in edges.get(node, ()):
                if following not in came_from:
                    came_from[following] = node
                    waiting.append(following)
        if start in came_from:
            way = [start]
            while (node := came_from[way[-1]]) != start:
                way.append(node)
            found.append(way[::-1])
            on_a_circle.update(way)
    return found
