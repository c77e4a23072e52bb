"""What imports what in app and jobs, as it is in a folder or was at a git revision."""

import ast
import io
import subprocess
import tarfile
import tokenize
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

PACKAGES = ("app", "jobs")


class Drawing:
    """The modules of app and jobs, and their imports; all of them, those inside functions and for types included.

    A room is a folder; of what stands in the root of a package each file is a room of its own.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        """Args:
        files: source by path below the checkout's root, with slashes.
        """
        self.paths = {_name(path): path for path in sorted(files)}
        self.files = files

    @classmethod
    def of(cls, folder: Path) -> "Drawing":
        paths = [path for package in PACKAGES for path in (folder / package).rglob("*.py")]
        return cls({path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths})

    @classmethod
    def at(cls, revision: str, folder: Path) -> "Drawing":
        """As it was at a git revision of the checkout in that folder."""
        command = ["git", "-C", str(folder), "archive", "--format=tar", revision, *PACKAGES]
        packed = subprocess.run(command, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            python = [member for member in archive if member.isfile() and member.name.endswith(".py")]
            contents = [(member.name, archive.extractfile(member)) for member in python]
            return cls({name: content.read().decode() for name, content in contents if content})

    @cached_property
    def all_imports(self) -> dict[str, frozenset[str]]:
        """By module: every module that it imports, ours or not."""
        return {name: frozenset(self._imported(path)) for name, path in self.paths.items()}

    @cached_property
    def imports(self) -> dict[str, frozenset[str]]:
        """By module: those of ours that it imports."""
        return {name: targets & self.paths.keys() for name, targets in self.all_imports.items()}

    def _imported(self, path: str) -> Iterable[str]:
        for node in ast.walk(ast.parse(self.files[path])):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, (
                    f"{path}:{node.lineno}: import by full name, so that a reader sees where it lives"
                )
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if full in self.paths else str(node.module)

    @cached_property
    def modules(self) -> list[str]:
        """All but the packages' own files, which import nothing."""
        return [name for name, path in self.paths.items() if not path.endswith("/__init__.py")]

    def room(self, module: str) -> str:
        folder, _, _ = self.paths[module].rpartition("/")
        return self.paths[module] if folder in PACKAGES else folder

    @cached_property
    def rooms(self) -> dict[str, list[str]]:
        """The modules of each room."""
        rooms: dict[str, list[str]] = {}
        for module in self.modules:
            rooms.setdefault(self.room(module), []).append(module)
        return rooms

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """By room: the rooms that it imports from."""
        arrows: dict[str, set[str]] = {room: set() for room in self.rooms}
        for module in self.modules:
            arrows[self.room(module)] |= {
                self.room(target) for target in self.imports[module] if target in self.modules
            }
        return {room: targets - {room} for room, targets in arrows.items()}

    def inside(self, room: str) -> dict[str, frozenset[str]]:
        """By module of that room: the modules of the same room that it imports."""
        return {module: self.imports[module] & set(self.rooms[room]) for module in self.rooms[room]}


def _name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """What reaches itself: each set of nodes of which every one reaches every other."""
    reached = {node: _reached(node, arrows) for node in arrows}
    sets = {tuple(sorted(each for each in reached[node] if node in reached[each])) for node in arrows}
    return [list(nodes) for nodes in sorted(sets) if nodes]


def _reached(node: str, arrows: Mapping[str, Iterable[str]]) -> set[str]:
    reached: set[str] = set()
    left = list(arrows[node])
    while left:
        if (target := left.pop()) not in reached:
            reached.add(target)
            left.extend(arrows[target])
    return reached


def floors(arrows: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many lie below each node at most; nodes of one circle share a floor."""
    together = {node: tuple(nodes) for nodes in circles(arrows) for node in nodes}
    found: dict[str, int] = {}

    def floor(node: str) -> int:
        if node not in found:
            nodes = together.get(node, (node,))
            below = {target for each in nodes for target in arrows[each]} - set(nodes)
            found.update(dict.fromkeys(nodes, 1 + max(map(floor, below), default=-1)))
        return found[node]

    return {node: floor(node) for node in arrows}


def code_lines(text: str) -> int:
    """Lines that are neither empty, nor comment, nor docstring."""
    silent = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    }  # fmt: skip
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)
