"""What the command line writes: data to stdout, talk to stderr. Nobody else prints.

A reader that has gone away is no failure: what it would have read is dropped. Nothing is written in colour, and what
is in a line can neither move the cursor nor begin another line, whoever's words they are.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

from jobs.core.errors import Trouble, os_trouble
from jobs.core.sanitize import plain, visible

if TYPE_CHECKING:
    from loguru import Record


def put(line: str) -> None:
    """A line of data."""
    _write(sys.stdout, visible(line))


def put_lines(lines: Iterable[str]) -> None:
    for line in lines:
        put(line)


def put_json(document: Any) -> None:
    _write(sys.stdout, json.dumps(document, indent=2))  # in plain ASCII, with escapes of its own


def show(document: Any, lines: Iterable[str], *, json: bool) -> None:
    """For a program, or for a person."""
    if json:
        put_json(document)
    else:
        put_lines(lines)


def put_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be; numbers stand right."""
    cells = [list(head), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        padded = [
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for cell, width, name in zip(row, widths, head, strict=True)
        ]
        put("  ".join(padded).rstrip())


_NUMBERS = frozenset({"SIZE", "TRIES", "DONE"})


def say(line: str = "") -> None:
    """A line of talk."""
    if _talk is None:
        _write(sys.stderr, visible(line))
    else:
        _talk(f"{visible(line)}\n")


#: Where talk goes instead of stderr itself; set once, by an entry point, before any other thread.
_talk: Callable[[str], object] | None = None


def talk_through(write: Callable[[str], object] | None) -> None:
    """From now on hand talk to `write`, in whole lines: a service may not wait until somebody reads its stderr."""
    global _talk  # noqa: PLW0603 - as stderr itself, there is one in a process
    _talk = write


def log_warnings() -> None:
    """Of what happens inside, tell warnings alone, never with the values of variables: they may be secrets."""
    logger.remove()
    logger.add(
        lambda line: say(str(line).rstrip()), level="WARNING", format=_as_warning, diagnose=False, backtrace=False,
    )  # fmt: skip


def _as_warning(record: "Record") -> str:
    """The message alone; an exception's trace is for the log."""
    record["extra"]["_said"] = plain(record["message"])
    return "warning: {extra[_said]}"


def complain(trouble: Trouble, worded: Callable[[str], str] = str) -> None:
    """Say what happened and, on lines of their own, each thing that is wrong and what to do about it, in the words of
    the place."""
    happened = trouble.args[0] if trouble.problems else trouble
    say(f"error: {worded(plain(happened).rstrip('.'))}")
    for problem in trouble.problems:  # none is cut: who mends one file wants to mend it once
        say(f"  {worded(plain(problem, longest=len(problem)))}")
    if trouble.hint:
        say(f"hint: {worded(plain(trouble.hint))}")


def _write(stream: TextIO | None, line: str) -> None:
    if stream is None:  # closed before we started
        return
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except OSError as error:
        silence(stream)
        # Talk may be lost, and a reader may leave; data that found no room is a failure.
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
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
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    say(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def is_terminal() -> bool:
    """Whether the talk goes to a screen that can redraw a line."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
