"""Where log lines go: one JSON object a line in containers, a readable line on a terminal.

Each line says what it belongs to: the container with its tier or lane, the job with its attempt, the request. None has
the values of variables, which loguru would print with an exception: they may be keys or prompts. Whoever logs never
waits for whoever reads (`app.log_queue`), the standard library's own log included.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from loguru import logger

from app.log_queue import LineQueue, RotatedFile, to_descriptor
from jobs.cli.output import talk_through
from jobs.core.clock import isoformat
from jobs.core.sanitize import plain
from jobs.store.private_files import FOLDER

if TYPE_CHECKING:
    from loguru import Record


T = TypeVar("T")

About = tuple[tuple[str, object], ...]
"""What a line belongs to: names and values."""

request_of_lines: ContextVar[str] = ContextVar("request_of_lines", default="")
"""The id of the request that lines belong to, for whatever is done for it; set by whoever answers it."""

SAID = "_said"
"""Bound to a line that a person at the terminal is told in other words: the file alone has it."""

LONGEST_LINE = 2_000
"""Characters of a message on a terminal; the file has all of it."""


def in_container(environ: Mapping[str, str] = os.environ, **about: str) -> None:
    """JSON lines on stderr, which Modal keeps with the app.

    Args:
        environ: the container's; MODAL_TASK_ID, its name, stands in each line.
        about: what is true of all that happens in it: a tier, a lane, a schedule.

    """
    _start({"container": environ.get("MODAL_TASK_ID", "local"), **about})
    _add(_to_stderr(_notice_json), level="INFO", form=as_json, late=late_json)


def on_stderr() -> None:
    """Lines as they are said, on stderr: whoever started us reads them, or keeps them in a file."""
    _start({})
    _add(_to_stderr(_notice_text), level="INFO", form=as_said, late=late_text)


def on_terminal(log: Path) -> None:
    """Readable lines on stderr, talk among them, and JSON lines in a file that is rotated. Nothing is told twice."""
    log.parent.mkdir(mode=FOLDER, exist_ok=True)
    _start({})
    screen = _to_stderr(_notice_text)
    _add(screen, level="INFO", form=as_text, late=late_text, only=lambda record: SAID not in record["extra"])
    _add(LineQueue(RotatedFile(log).write_lines, _notice_json), level="DEBUG", form=as_json, late=late_json)
    talk_through(screen.write)


class Line:
    """A line that is worded by whoever writes it, and not by whoever has something to say.

    Args:
        values: what it is made of; they must not change.
        words: the message that they come to, and what it belongs to. Called in a thread.
        where: the module and line that says it.
        request: that it belongs to.

    """

    __slots__ = ("_told", "_values", "_words", "at", "request", "where")

    def __init__(
        self, values: T, words: "Callable[[T], tuple[str, About]]", where: str, request: str | None = None
    ) -> None:
        self.at = time.time()
        self.request = request_of_lines.get() if request is None else request
        self.where = where
        self._values = values
        self._words = words
        #: Put here by the first thread that writes it; another one may put the same.
        self._told: tuple[str, About] | None = None

    def told(self) -> tuple[str, About]:
        """The message, and what it belongs to."""
        if self._told is None:
            self._told = self._words(self._values)
        return self._told


def tell_later(line: Line) -> None:
    """Have it written at INFO, behind what was said before; it costs the caller next to nothing."""
    has_queue = False
    for queue, form in _queues.items():
        if not queue.is_stopping:
            has_queue = True
            queue.write_later(partial(form, line))
    if not has_queue:  # nobody has set the log up, or somebody otherwise
        message, about = line.told()
        logger.opt(depth=1).bind(**dict(about)).info("{}", message)


def dropped_lines() -> int:
    """How many lines of this process's log were lost because nobody took them."""
    return sum(queue.dropped for queue in _queues)


#: What is true of all lines. Written by whoever sets the log up, before any other thread; read by everybody.
_about: dict[str, str] = {}

#: Written likewise.
_queues: dict[LineQueue, Callable[[Line], str]] = {}
"""Each with how a line is made for it that comes as values."""


def _start(about: Mapping[str, str]) -> None:
    logger.remove()
    _queues.clear()
    _about.clear()
    _about.update(about)
    _inside_json.cache_clear()
    logger.configure(extra=dict(about))
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


def _add(
    queue: LineQueue,
    *,
    level: str,
    form: "Callable[[Record], str]",
    late: Callable[[Line], str],
    only: "Callable[[Record], bool] | None" = None,
) -> None:
    _queues[queue] = late
    # The end of the process removes all sinks, which stops the queue and with it writes what is left.
    logger.add(queue, level=level, format=form, filter=only, colorize=False, diagnose=False, backtrace=False)


class _ToLoguru(logging.Handler):
    """Passes to loguru what is logged by the standard library, as by asyncio: that would write to stderr itself."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong line harms nobody but itself, as in the standard library
            text = f"{record.msg} % {record.args}"
        logger.opt(exception=record.exc_info).log(record.levelno, "{}: {}", record.name, text)


def _to_stderr(notice: Callable[[int], str]) -> LineQueue:
    """A queue with a descriptor of its own for what is stderr now, which nobody else closes or turns elsewhere."""
    descriptor = os.dup(sys.stderr.fileno() if sys.stderr is not None else 2)
    return LineQueue(to_descriptor(descriptor), notice, close=lambda: os.close(descriptor))


def _missing(count: int) -> str:
    return f"{count:,} log lines are missing here: they were not taken in time"


def _notice_text(count: int) -> str:
    return f"{datetime.now(UTC).astimezone():%H:%M:%S} WARNING {_missing(count)}\n"


def _notice_json(count: int) -> str:
    fields = {"at": isoformat(datetime.now(UTC)), "level": "WARNING", "message": _missing(count), "where": __name__}
    return f"{json.dumps(fields)}\n"


def as_text(record: "Record") -> str:
    """The time of day, the level, the message, and in brackets what it belongs to: one line, whatever is in it."""
    extra = record["extra"]
    request = extra.get("request") or request_of_lines.get()
    if {"job", "attempt", "kind", "subject"} <= extra.keys():
        about = f" ({extra['kind']} {extra['subject']}, job {extra['job']}.{extra['attempt']})"
    elif request:
        about = f" (request {request})"
    else:
        about = ""
    extra["_about"] = f" {plain(about)}" if about else ""
    extra["_message"] = plain(record["message"], LONGEST_LINE)
    return "{time:HH:mm:ss} {level.name: <7} {extra[_message]}{extra[_about]}\n"


def as_said(record: "Record") -> str:
    """The message alone."""
    record["extra"]["_message"] = plain(record["message"], LONGEST_LINE)
    return "{extra[_message]}\n"


def as_json(record: "Record") -> str:
    """Everything about it, in plain ASCII: whatever is in a message, the line is one line and valid."""
    about = {key: _plain(value) for key, value in record["extra"].items() if not key.startswith("_")}
    fields: dict[str, object] = {
        "at": isoformat(record["time"]),
        "level": record["level"].name,
        "message": record["message"],
        "where": f"{record['name']}:{record['line']}",
    }
    if request := request_of_lines.get():
        about.setdefault("request", request)
    fields = {**fields, **about, **fields}
    if (failure := record["exception"]) is not None:
        fields["exception"] = "".join(traceback.format_exception(failure.type, failure.value, failure.traceback))
    record["extra"]["_json"] = json.dumps(fields)
    return "{extra[_json]}\n"


def late_text(line: Line) -> str:
    """As `as_text` has it."""
    message, _ = line.told()
    about = plain(f" (request {line.request})") if line.request else ""
    return f"{_second_here(int(line.at))} INFO    {plain(message, LONGEST_LINE)}{f' {about}' if about else ''}\n"


def late_json(line: Line) -> str:
    """As `as_json` has it."""
    message, about = line.told()
    at = f"{_second_in_utc(int(line.at))}.{int(line.at * 1000) % 1000:03d}Z"
    request = f', "request": {_quoted(line.request)}' if line.request else ""
    more = _inside_json(about)
    return f'{{"at": "{at}", "level": "INFO", "message": {_quoted(message)}, "where": "{line.where}"{request}{more}}}\n'


@lru_cache(256)
def _inside_json(about: About) -> str:
    """What a line belongs to, as it stands in its object; nearly all lines belong to what others did."""
    every = {**_about, **dict(about)}
    return "".join(f", {_quoted(name)}: {json.dumps(value)}" for name, value in every.items() if name not in _FIELDS)


_FIELDS = frozenset({"at", "level", "message", "where", "request"})


@lru_cache(2)
def _second_here(second: int) -> str:
    """The time of day; of all lines of a second it is worded once."""
    return time.strftime("%H:%M:%S", time.localtime(second))


@lru_cache(2)
def _second_in_utc(second: int) -> str:
    """As `isoformat` has it, but for what is below a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _plain(value: object) -> object:
    """A word, a number or nothing stays what it is; anything else is its text."""
    return value if value is None or isinstance(value, str | int) else str(value)
