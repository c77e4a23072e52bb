"""Which line goes next to a tier: those of one model after the other, so that models do not push each other out.

Four bytes a line, whatever a line is like.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from jobs.batches.lines.line_index import Lines

AT_ONCE = 1 << 16
"""Lines of which the models are looked up in one step."""


class Turn(NamedTuple):
    """A line that is to be sent now.

    Args:
        line: its number.
        tries: how often it was tried before.

    """

    line: int
    tries: int


def by_model(lines: Lines, is_done: Callable[[int], bool]) -> dict[str, "array[int]"]:
    """The numbers of the lines that are not done, by their models, in the order of first mention."""
    found: dict[str, array[int]] = {}
    first = 1
    while first <= lines.lines:
        models = lines.models(first, AT_ONCE)
        for number, model in enumerate(models, first):
            if not is_done(number):
                numbers = found.get(model)
                if numbers is None:
                    numbers = found[model] = array("I")
                numbers.append(number)
        first += len(models)
    return found


def only(groups: Mapping[str, "array[int]"], lines: AbstractSet[int]) -> dict[str, "array[int]"]:
    """These lines alone, by their models."""
    if not lines:
        return {}
    found = {model: array("I", (line for line in numbers if line in lines)) for model, numbers in groups.items()}
    return {model: numbers for model, numbers in found.items() if numbers}


class LineOrder:
    """Of one tier. Belongs to the event loop.

    Args:
        groups: the lines of each of its models.

    """

    def __init__(self, groups: Iterable["array[int]"]) -> None:
        self._groups = [each for each in groups if each]
        self._group = 0
        self._at = 0
        self._waiting: list[tuple[float, int, Turn]] = []
        self._ties = count()
        self.left = sum(map(len, self._groups))
        """Lines that have no result yet, those under way among them."""

    def next(self, now: float) -> Turn | None:
        """The line that goes now; None when none does. One that waited for another try goes first."""
        if self._waiting and self._waiting[0][0] <= now:
            return heappop(self._waiting)[2]
        while self._group < len(self._groups):
            numbers = self._groups[self._group]
            if self._at < len(numbers):
                self._at += 1
                return Turn(numbers[self._at - 1], 0)
            self._group, self._at = self._group + 1, 0
        return None

    def following(self, line: int, most: int) -> int:
        """How many of the lines that come next stand right after this one in the file, this one among them."""
        numbers = self._groups[self._group] if self._group < len(self._groups) else ()
        run = 1
        while run < most and self._at + run - 1 < len(numbers) and numbers[self._at + run - 1] == line + run:
            run += 1
        return run

    def again(self, turn: Turn, at: float) -> None:
        """Have a line go again, not before this time."""
        heappush(self._waiting, (at, next(self._ties), turn))

    @property
    def due(self) -> float | None:
        """When a line that waits goes; None when none does."""
        return self._waiting[0][0] if self._waiting else None
