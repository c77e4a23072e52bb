"""What the command line writes: data to stdout, talk to stderr. Nobody else prints.

A reader that has gone away is no failure: what it would have read is dropped. Only states are in colour, on a terminal,
and what is in a line can neither move the cursor nor begin another line, whoever's words they are.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from jobs.cli.terminal.screen import folded, has_colour, is_screen, painted, width_of
from jobs.cli.terminal.table import GiveWay, table
from jobs.core.errors import Trouble, os_trouble
from jobs.core.sanitize import plain, visible


def put(line: str) -> None:
    """A line of data."""
    _write(sys.stdout, visible(line))


def put_text(piece: str) -> None:
    """A piece of a text that comes in pieces: as it is in a pipe; on a screen it cannot move the cursor."""
    _write(sys.stdout, "\n".join(map(_tabbed, piece.split("\n"))) if is_screen(sys.stdout) else piece, end="")


def _tabbed(line: str) -> str:
    return "\t".join(map(visible, line.split("\t")))


def put_bytes(line: bytes) -> None:
    """A line of data as it is; on a screen it cannot move the cursor."""
    if is_screen(sys.stdout):
        put(line.decode("utf-8", "replace").rstrip("\n"))
    elif sys.stdout is not None:
        _write_bytes(sys.stdout, line)


def put_lines(lines: Iterable[str]) -> None:
    """For a person, who sees states in colour and lines that are broken between words."""
    width = width_of(sys.stdout)
    for line in lines:
        for piece in folded(visible(line), width):
            _write(sys.stdout, _painted(sys.stdout, piece))


def screen_width() -> int | None:
    """How wide a line of data may be; None in a pipe."""
    return width_of(sys.stdout)


def _painted(stream: TextIO | None, line: str) -> str:
    return painted(line) if has_colour(stream) else line


def put_json(document: Any) -> None:
    _write(sys.stdout, json.dumps(document, indent=2))  # in plain ASCII, with escapes of its own


def show(document: Any, lines: Iterable[str], *, json: bool) -> None:
    """For a program, or for a person."""
    if json:
        put_json(document)
    else:
        put_lines(lines)


def put_table(
    head: Sequence[str], rows: Sequence[Sequence[object]], steps: Sequence[GiveWay] = (), *, folds: bool = False
) -> None:
    """Columns that fit the terminal by these steps; in a pipe as wide as they need to be."""
    for line in table(head, rows, width_of(sys.stdout), steps, folds=folds):
        _write(sys.stdout, _painted(sys.stdout, visible(line)))


def say(line: str = "") -> None:
    """A line of talk, which a screen that is too narrow for it has broken between words."""
    if _talk is not None:
        _talk(f"{visible(line)}\n")
        return
    for piece in folded(visible(line), width_of(sys.stderr)):
        word, colon, rest = piece.partition(": ")
        _write(sys.stderr, f"{_painted(sys.stderr, word)}{colon}{rest}" if word in _SAID else piece)


_SAID = frozenset({"error", "warning", "hint"})
"""What a line of talk may begin with."""

#: Where talk goes instead of stderr itself; set once, by an entry point, before any other thread.
_talk: Callable[[str], object] | None = None


def talk_through(write: Callable[[str], object] | None) -> None:
    """From now on hand talk to `write`, in whole lines: a service may not wait until somebody reads its stderr."""
    global _talk  # noqa: PLW0603 - as stderr itself, there is one in a process
    _talk = write


def complain(trouble: Trouble, worded: Callable[[str], str] = str) -> None:
    """Say what happened and, on lines of their own, each thing that is wrong and what to do about it, in the words of
    the place."""
    happened = trouble.args[0] if trouble.problems else trouble
    say(f"error: {worded(plain(happened).rstrip('.'))}")
    for problem in trouble.problems:  # none is cut: who mends one file wants to mend it once
        say(f"  {worded(plain(problem, longest=len(problem)))}")
    if trouble.hint:
        say(f"hint: {worded(plain(trouble.hint))}")


def _write(stream: TextIO | None, line: str, end: str = "\n") -> None:
    if stream is None:  # closed before we started
        return
    try:
        stream.write(f"{line}{end}")
        stream.flush()
    except OSError as error:
        silence(stream)
        # Talk may be lost, and a reader may leave; data that found no room is a failure.
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise os_trouble(error, doing="writing to stdout") from error


def _write_bytes(stream: TextIO, line: bytes) -> None:
    try:
        stream.buffer.write(line)
        stream.flush()
    except OSError as error:
        silence(stream)
        if not isinstance(error, BrokenPipeError):
            raise os_trouble(error, doing="writing to stdout") from error


def silence(stream: TextIO) -> None:
    """Send what is still to come, and what is flushed at exit, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def settle_streams() -> None:
    """Make writing safe whatever we were started with: closed descriptors, or an encoding that lacks characters."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would take its number, and what is printed would go there
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes; yes where there is no terminal, and nobody to ask."""
    if not can_ask():
        return True
    say(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def can_ask() -> bool:
    """Whether a person is there who reads what is said and can answer."""
    return sys.stdin is not None and sys.stderr is not None and sys.stdin.isatty() and sys.stderr.isatty()


def is_terminal() -> bool:
    """Whether the talk goes to a screen that can redraw a line."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
