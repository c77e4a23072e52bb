"""Tables that fit. Where there is room, columns are as wide as they need to be; where there is not, they give way in an
order that the table chooses: what is typed again, as ids and names, last. Pure.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Literal

from jobs.core.sanitize import plain

GAP = "  "

LEAST_FOLDED = 24
"""A last column that gets less stands on lines of its own, below its row."""


@dataclass(frozen=True)
class GiveWay:
    """A step that makes a table narrower.

    Args:
        column: by its name.
        how: to a number of characters at the least, by an ellipsis; by another way to say the same; or altogether.
        at: where a text that is made shorter loses what it loses.

    """

    column: str
    how: int | Callable[[str], str] | Literal["left out"]
    at: Literal["end", "middle"] = "end"


RIGHT = frozenset({"SIZE", "TRIES", "DONE", "CONTEXT"})
"""Numbers stand right."""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    width: int | None = None,
    steps: Sequence[GiveWay] = (),
    *,
    folds: bool = False,
) -> Iterator[str]:
    """Its lines.

    Args:
        head: the names of the columns.
        rows: the cells, by column.
        width: of a line at the most.
        steps: are taken one after the other until it fits.
        folds: whether the last column may go on below, word by word.

    """
    for lines in table_rows(head, [head, *rows], width, steps, folds=folds):
        yield from lines


def table_rows(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    width: int | None = None,
    steps: Sequence[GiveWay] = (),
    *,
    folds: bool = False,
) -> Iterator[list[str]]:
    """The lines of each row, for whoever has something to say below one; no row has the names of the columns."""
    columns = {name: [plain(row[at]) for row in rows] for at, name in enumerate(head)}
    last = head[-1]
    for step in steps:
        if width is None or (over := _width(columns, last if folds else None) - width) <= 0:
            break
        _shrink(columns, step, over)
    yield from _rows(columns, width, last if folds and last in columns else None)


def _width(columns: dict[str, list[str]], folded: str | None) -> int:
    wide = [LEAST_FOLDED if name == folded else _longest(cells) for name, cells in columns.items()]
    return sum(wide) + len(GAP) * (len(wide) - 1)


def _longest(cells: Sequence[str]) -> int:
    return max(map(len, cells), default=0)


def _shrink(columns: dict[str, list[str]], step: GiveWay, over: int) -> None:
    cells = columns.get(step.column)
    if cells is None:
        return
    if step.how == "left out":
        del columns[step.column]
    elif isinstance(step.how, int):
        room = max(step.how, _longest(cells) - over)
        columns[step.column] = [shortened(cell, room, step.at) for cell in cells]
    else:
        columns[step.column] = [cell if cell == step.column else step.how(cell) for cell in cells]


def shortened(text: str, room: int, at: Literal["end", "middle"] = "end") -> str:
    """With an ellipsis where it is longer than that; of a name both ends tell it apart."""
    if len(text) <= room:
        return text
    kept = room - 1
    tail = kept // 2 if at == "middle" else 0
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"


def _rows(columns: dict[str, list[str]], width: int | None, folded: str | None) -> Iterator[list[str]]:
    wide = {name: _longest(cells) for name, cells in columns.items()}
    for row in zip(*columns.values(), strict=True):
        cells = dict(zip(columns, row, strict=True))
        fixed = GAP.join(
            cell.rjust(wide[name]) if name in RIGHT else cell.ljust(wide[name])
            for name, cell in cells.items()
            if name != folded
        )
        yield [fixed.rstrip()] if folded is None else list(_folded(fixed, cells[folded], width))


def _folded(fixed: str, text: str, width: int | None) -> Iterator[str]:
    begin = len(fixed) + len(GAP)
    if width is None or begin + len(text) <= width:
        yield f"{fixed}{GAP}{text}".rstrip()
        return
    room = width - begin
    if room < LEAST_FOLDED:
        yield fixed.rstrip()
        begin, room = 4, width - 4
        yield from (" " * begin + line for line in wrap(text, room, break_on_hyphens=False))
        return
    for number, line in enumerate(wrap(text, room, break_on_hyphens=False) or [""]):
        yield ((fixed + GAP if number == 0 else " " * begin) + line).rstrip()
