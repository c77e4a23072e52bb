"""One machine, end to end: `ollama-modal up` runs servers, workers and the ledger until it is told to stop.

The entry point of the command is here, because `up` may know both `app` and `jobs`; `app.stack` composes the parts.
"""

import json
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from loguru import logger

from app import commands, night_commands  # noqa: F401 - add theirs to the command line, as this file adds `up`
from jobs.cli import app, done, here, run
from jobs.clock import SystemClock, isoformat
from jobs.errors import Refused
from jobs.home import Home, home_of
from jobs.terminal import say
from jobs.units import parse_bytes

PORT = 11500
HOST = "127.0.0.1"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@app.command()
def up(
    *,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="The gateway's; 0 picks one")] = PORT,
    host: Annotated[str, typer.Option(metavar="HOST", help="Where the gateway listens; others need keys")] = HOST,
    simulate: Annotated[bool, typer.Option("--simulate", help="With servers and a registry that only pretend")] = False,
    tier: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A server of its own; may be repeated")] = None,
    models: Annotated[Path | None, typer.Option(metavar="DIR", help="The models directory; else OLLAMA_MODELS")] = None,
    quota: Annotated[str | None, typer.Option(metavar="SIZE", help="Refuse pulls beyond so much, like 200GB")] = None,
    rate_limit: Annotated[str | None, typer.Option(metavar="SIZE", help="For pulls that name none, like 20MB")] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Pulls side by side")] = 2,
    fleet: Annotated[Path | None, typer.Option(metavar="FILE", help="What should be here, seen to each night")] = None,
) -> None:
    """Run the stack on this machine: servers, workers, ledger, gateway.

    Prints `ready URL` on stdout when all of it answers; the URL is the gateway's.
    """
    from app.allowed import allowed  # noqa: PLC0415
    from app.fleet import load  # noqa: PLC0415
    from app.servers import Wishes  # noqa: PLC0415 - every command imports this file, and only this one needs httpx
    from app.stack import Declared, Limits, Plan, live  # noqa: PLC0415
    from jobs.pruning import Retention  # noqa: PLC0415
    from jobs.registries import is_loopback  # noqa: PLC0415

    wishes = Wishes(simulate, tuple(tier or ()), models)
    declared = Declared(load(fleet.absolute()), fleet.absolute()) if fleet is not None else None
    retention = declared.fleet.retention() if declared else Retention()
    limits = Limits(
        replace(retention, quota_bytes=parse_bytes(quota, "--quota")) if quota is not None else retention,
        parse_bytes(rate_limit, "--rate-limit") if rate_limit is not None else None,
        concurrency,
    )
    registries = allowed(os.environ, declared.fleet if declared else None, is_loopback=is_loopback(host))
    clock = SystemClock()
    home = home_of(os.environ)
    with home.held(clock), signalled() as asked:
        log_to(home)
        raise typer.Exit(live(Plan(wishes, limits, host, port, registries, declared), home, clock, asked))


@app.command()
def plan(
    fleet: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of the one that `up` was given")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout")] = False,
) -> None:
    """Tell what the next night would do, and why. Posts nothing."""
    from app.fleet import load  # noqa: PLC0415 - takes as long as a whole command
    from app.nights import coming_night  # noqa: PLC0415
    from jobs.tending import stack_of  # noqa: PLC0415

    at = here()
    stack = stack_of(at.home)
    path = fleet or stack.fleet
    if path is None:
        raise Refused(
            "no fleet file says what should be here",
            hint="name one: `ollama-modal plan --fleet FILE`; `ollama-modal up --fleet FILE` sees to it each night",
        )
    declared = load(path.absolute())
    wanted = replace(declared.retention(), quota_bytes=stack.retention.quota_bytes) if fleet else stack.retention
    found = coming_night(at.home, replace(stack, retention=wanted), declared, at.clock)
    done(at.desk.outlook(found, json=json))


@contextmanager
def signalled() -> Iterator[list[int]]:
    """The signals that asked us to stop, as they come.

    A handler that only notes the number cannot deadlock with whatever it interrupts, as one that sets an event could.
    """
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_to(home: Home) -> None:
    """A readable line on stderr, a JSON line in the log. Never with the values of variables: they may be secrets."""
    home.logs.mkdir(exist_ok=True)
    logger.remove()
    logger.add(lambda line: say(str(line).rstrip("\n")), level="INFO", format=_line, diagnose=False, backtrace=False)
    logger.add(
        home.logs / "up.log", level="DEBUG", format=_json_line, diagnose=False, backtrace=False,
        rotation="10 MB", retention=5, encoding="utf-8",
    )  # fmt: skip


def _line(record: Any) -> str:
    extra = record["extra"]
    about = f" ({extra['kind']} {extra['subject']}, job {extra['job']}.{extra['attempt']})" if "job" in extra else ""
    record["extra"]["_about"] = about
    return "{time:HH:mm:ss} {level.name: <7} {message}{extra[_about]}\n"


def _json_line(record: Any) -> str:
    told = {
        "at": isoformat(record["time"]),
        "level": record["level"].name,
        "message": record["message"],
        "where": f"{record['name']}:{record['line']}",
        **{key: value for key, value in record["extra"].items() if not key.startswith("_")},
    }
    if (failure := record["exception"]) is not None:
        told["exception"] = "".join(traceback.format_exception(failure.type, failure.value, failure.traceback))
    record["extra"]["_json"] = json.dumps(told, default=str)
    return "{extra[_json]}\n"


def main() -> NoReturn:
    """`ollama-modal`."""
    run(app)


if __name__ == "__main__":
    main()
