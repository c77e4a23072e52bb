"""How it is written down what happens: one JSON object a line in containers, a readable line on a terminal.

Each line says what it belongs to: the container with its tier or lane, the job with its attempt, the request. None has
the values of variables, which loguru would print with an exception: they may be keys or prompts.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from jobs.clock import isoformat
from jobs.plain import plain
from jobs.terminal import say

if TYPE_CHECKING:
    from loguru import Record


LONGEST_LINE = 2_000
"""Characters of a message on a terminal; the file has all of it."""


def in_container(environ: Mapping[str, str] = os.environ, **about: str) -> None:
    """JSON lines on stderr, which Modal keeps with the app.

    Args:
        environ: the container's; MODAL_TASK_ID, its name, stands in each line.
        about: what is true of all that happens in it: a tier, a lane, a schedule.

    """
    logger.remove()
    logger.configure(extra={"container": environ.get("MODAL_TASK_ID", "local"), **about})
    logger.add(sys.stderr, level="INFO", format=as_json, colorize=False, diagnose=False, backtrace=False)


def on_terminal(log: Path) -> None:
    """Readable lines on stderr, and JSON lines in a file that is rotated."""
    log.parent.mkdir(exist_ok=True)
    logger.remove()
    logger.add(lambda line: say(str(line).rstrip("\n")), level="INFO", format=as_text, diagnose=False, backtrace=False)
    logger.add(
        log, level="DEBUG", format=as_json, diagnose=False, backtrace=False,
        rotation="10 MB", retention=5, encoding="utf-8",
    )  # fmt: skip


def as_text(record: "Record") -> str:
    """The time of day, the level, the message, and in brackets what it belongs to: one line, whatever is in it."""
    extra = record["extra"]
    if {"job", "attempt", "kind", "subject"} <= extra.keys():
        about = f" ({extra['kind']} {extra['subject']}, job {extra['job']}.{extra['attempt']})"
    elif "request" in extra:
        about = f" (request {extra['request']})"
    else:
        about = ""
    extra["_about"] = f" {plain(about)}" if about else ""
    extra["_said"] = plain(record["message"], LONGEST_LINE)
    return "{time:HH:mm:ss} {level.name: <7} {extra[_said]}{extra[_about]}\n"


def as_json(record: "Record") -> str:
    """Everything about it, in plain ASCII: whatever is in a message, the line is one line and valid."""
    about = {key: _plain(value) for key, value in record["extra"].items() if not key.startswith("_")}
    told: dict[str, object] = {
        "at": isoformat(record["time"]),
        "level": record["level"].name,
        "message": record["message"],
        "where": f"{record['name']}:{record['line']}",
    }
    told = {**told, **about, **told}
    if (failure := record["exception"]) is not None:
        told["exception"] = "".join(traceback.format_exception(failure.type, failure.value, failure.traceback))
    record["extra"]["_json"] = json.dumps(told)
    return "{extra[_json]}\n"


def _plain(value: object) -> object:
    """A word, a number or nothing stays what it is; of anything else its text is told."""
    return value if value is None or isinstance(value, str | int) else str(value)
