"""Draws what imports what: `python -m tests.house.draw [FOLDER] [--at REVISION]`.

A row a room, from the top floor down: a folder, or a file that stands in the root of app or jobs.
"""

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.house.drawing import Drawing, circles, code_lines, floors
from tests.support.checkout import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.house.draw", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, metavar="FOLDER", help="a checkout; this one")
    parser.add_argument("--at", metavar="REVISION", help="as it was at a git revision")
    asked = parser.parse_args()
    drawing = Drawing.at(asked.at, asked.folder) if asked.at else Drawing.of(asked.folder)
    print("\n".join(drawn(drawing)))


def drawn(drawing: Drawing) -> Iterator[str]:
    lines = {name: code_lines(drawing.files[path]) for name, path in drawing.paths.items()}
    between = sum(map(len, drawing.imports.values()))
    yield f"{len(drawing.modules)} modules, {between} imports among them, {sum(lines.values())} lines of code"
    yield f"{len(drawing.rooms)} rooms, {sum(map(len, drawing.arrows.values()))} arrows between them"
    yield from (f"a circle of rooms: {', '.join(nodes)}" for nodes in circles(drawing.arrows))
    yield from (f"a circle of modules: {', '.join(nodes)}" for nodes in circles(drawing.imports))
    if not circles(drawing.arrows) and not circles(drawing.imports):
        yield "no circle"

    yield ""
    width = max(map(len, drawing.rooms))
    yield f"floor  {'room':{width}}  modules   lines  imports from"
    level = floors(drawing.arrows)
    for room in sorted(drawing.rooms, key=lambda room: (-level[room], room)):
        modules = drawing.rooms[room]
        total = sum(lines[module] for module in modules)
        targets = sorted(drawing.arrows[room], key=lambda target: (-level[target], target))
        yield from row(f"{level[room]:5}  {room:{width}}  {len(modules):7} {total:7}  ", targets)

    yield ""
    yield "inside the folders, floor by floor from the ground:"
    for room in sorted(drawing.rooms):
        if not room.endswith(".py"):
            yield from row(f"{room:{width}}  ", [" | ".join(inside(drawing, room))])


def row(head: str, words: list[str]) -> list[str]:
    """Lines of a page's width, those after the first below the first one's words."""
    return textwrap.wrap(" ".join(words), 120, initial_indent=head, subsequent_indent=" " * len(head)) or [
        head.rstrip()
    ]


def inside(drawing: Drawing, room: str) -> Iterator[str]:
    """The modules on each floor of a folder."""
    level = floors(drawing.inside(room))
    for floor in range(max(level.values()) + 1):
        yield " ".join(module.rpartition(".")[2] for module in level if level[module] == floor)


if __name__ == "__main__":
    main()
