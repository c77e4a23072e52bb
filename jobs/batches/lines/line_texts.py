"""Reads the lines that go next, some at once, where they stand beside one another in the file."""

import asyncio

from jobs.batches.lines.line_index import InputLine, Lines

READ_AHEAD = 64
"""Lines that are read in one step; what is read of them is some megabytes at most (`line_index.MOST_READ`)."""


class LineTexts:
    """Belongs to the event loop. What was read ahead and is not asked for in turn is forgotten."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._read: dict[int, InputLine] = {}

    async def line(self, number: int, following: int) -> InputLine:
        """A line, by its number; so many that follow are asked for next, most likely."""
        found = self._read.pop(number, None)
        if found is None:
            first, *rest = await asyncio.to_thread(self._lines.read, number, following)
            if rest:
                self._read = {each.number: each for each in rest}
            found = first
        return found
