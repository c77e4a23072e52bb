"""What the terminal can show: how wide it is, and colour. A pipe is as wide as its lines, and has none.

A colour never says what the word in it does not.
"""

import os
import re
import textwrap
from collections.abc import Iterator
from typing import TextIO

LEAST_WIDTH = 40
"""On less, lines are broken by the terminal itself."""

USUAL_WIDTH = 80
"""Of a terminal that does not say."""


def is_screen(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def width_of(stream: TextIO | None) -> int | None:
    """How many characters fit on a line; None where any number does. COLUMNS counts before what the terminal says."""
    if stream is None or not is_screen(stream):
        return None
    said = os.environ.get("COLUMNS", "")
    columns = int(said) if said.isascii() and said.isdigit() else 0
    return max(LEAST_WIDTH, columns or os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH)


def has_colour(stream: TextIO | None) -> bool:
    """Whether it shows colours: a terminal does, unless NO_COLOR is set; with FORCE_COLOR anything does."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") != "0":
        return True
    return is_screen(stream) and os.environ.get("TERM") not in {None, "", "dumb", "unknown"}


_GREEN, _RED, _YELLOW, _CYAN, _DIM = "32", "31", "33", "36", "2"
_COLOURS = {
    "succeeded": _GREEN, "ready": _GREEN, "answers": _GREEN,
    "running": _CYAN, "waking": _CYAN, "warming": _CYAN,
    "queued": _YELLOW, "waiting": _YELLOW, "degraded": _YELLOW, "warning": _YELLOW,
    "failed": _RED, "lost": _RED, "error": _RED, "trouble": _RED,
    "cancelled": _DIM, "asleep": _DIM, "hint": _CYAN,
}  # fmt: skip
_STATE = re.compile(rf"(?<![\w./:'\"`-])({'|'.join(_COLOURS)})(?![\w./'\"`-]|:\S)")
"""As a word of its own, so that no part of a model's name is one."""


def painted(line: str) -> str:
    """With each state in its colour."""
    return _STATE.sub(lambda word: f"\x1b[{_COLOURS[word[0]]}m{word[0]}\x1b[0m", line)


_LABEL = re.compile(r"\s*\S.{0,22}?\s{2,}(?=\S)")


def folded(line: str, width: int | None) -> Iterator[str]:
    """The line, broken between words where it is too long; what follows stands below what follows its label."""
    if width is None or len(line) <= width:
        yield line
        return
    label = _LABEL.match(line)
    begin = len(line) - len(line.lstrip())
    indent = label.end() if label is not None and label.end() <= width // 3 else min(begin + 2, width // 2)
    head, rest = line[:indent], line[indent:]
    if label is None or label.end() != indent:
        head, rest = line[:begin], line[begin:]
    yield from textwrap.wrap(
        rest, width, initial_indent=head, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False, expand_tabs=False, replace_whitespace=False,
        drop_whitespace=True,
    )  # fmt: skip
