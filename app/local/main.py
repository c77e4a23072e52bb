"""One machine, end to end: `ollama-modal up` runs servers, workers and the ledger until it is told to stop.

The entry point of the command is here, because `up` may know both `app` and `jobs`; `app.local.stack` composes the
parts.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app.local.commands import (  # noqa: F401 - they add theirs, as this file adds `up`
    audit_command,
    batch_commands,
    key_commands,
    report_commands,
)
from jobs.cli.job_commands import Preview
from jobs.cli.main import KeyOption, Url, app, commands_at, done, remote_at, run, this_machine
from jobs.cli.models import commands as model_commands  # noqa: F401 - as above
from jobs.cli.output import say
from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest, NetworkTrouble, Refused, Unauthorized
from jobs.core.units import parse_bytes
from jobs.home.home import Stack, home_of
from jobs.http.libraries_alone import import_libraries_alone

if TYPE_CHECKING:
    from app.fleet.schema import Fleet

PORT = 11500
HOST = "127.0.0.1"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@app.command()
def up(
    *,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="The gateway's; 0 picks one")] = PORT,
    host: Annotated[str, typer.Option(metavar="HOST", help="Where the gateway listens; others need keys")] = HOST,
    simulate: Annotated[bool, typer.Option("--simulate", help="With servers and a registry that only pretend")] = False,
    tier: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A server of its own, not those of the fleet; may be repeated"),
    ] = None,
    models: Annotated[Path | None, typer.Option(metavar="DIR", help="The models directory; else OLLAMA_MODELS")] = None,
    quota: Annotated[str | None, typer.Option(metavar="SIZE", help="Refuse pulls beyond so much, like 200GB")] = None,
    rate_limit: Annotated[str | None, typer.Option(metavar="SIZE", help="For pulls that name none, like 20MB")] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Pulls side by side")] = 2,
    fleet: Annotated[Path | None, typer.Option(metavar="FILE", help="What should be here, seen to each night")] = None,
) -> None:
    """Run the stack on this machine: servers, workers, ledger, gateway.

    Prints `ready URL` on stdout when all of it answers, which is the gateway's, and `page URL` of its page.
    """
    import_libraries_alone()
    from app.fleet.schema import load  # noqa: PLC0415
    from app.gateway.cross_origin import allowed_origins  # noqa: PLC0415
    from app.local.plan import StackPlan, allowed_registries  # noqa: PLC0415
    from app.local.stack import run_stack  # noqa: PLC0415 - every command imports this file, and only this one needs httpx
    from app.logs import on_terminal  # noqa: PLC0415
    from jobs.core.retention import RetentionRules  # noqa: PLC0415
    from jobs.registry.allowlist import is_loopback  # noqa: PLC0415

    fleet_file = fleet.absolute() if fleet is not None else None
    declared = load(fleet_file) if fleet_file is not None else None
    retention = declared.retention() if declared else RetentionRules()
    stack = StackPlan(
        simulate=simulate,
        tiers=tuple(tier or ()),
        models=models,
        host=host,
        port=port,
        origins=allowed_origins(os.environ, declared),
        registries=allowed_registries(os.environ, declared, is_loopback=is_loopback(host)),
        retention=retention if quota is None else replace(retention, quota_bytes=parse_bytes(quota, "--quota")),
        rate_limit=parse_bytes(rate_limit, "--rate-limit") if rate_limit is not None else None,
        concurrency=concurrency,
        fleet=declared,
        fleet_file=fleet_file,
        fleet_text=fleet_file.read_text("utf-8") if fleet_file is not None else None,
    )
    clock = SystemClock()
    home = home_of(os.environ)
    with home.held(clock), stop_signals() as signals:
        on_terminal(home.logs / "up.log")
        raise typer.Exit(run_stack(stack, home, clock, signals))


@app.command()
def plan(
    fleet: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of the one that `up` was given")] = None,
    url: Url = None,
    key: KeyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout")] = False,
) -> None:
    """Tell what the next night will do, and why. Posts nothing.

    By the fleet that the night follows: the one that `up` was started with, or with a URL the one there; or by that of
    `--fleet`.
    """
    if url and fleet is not None:
        raise BadRequest("--fleet is of this machine, and --url of another", hint="leave one of them out")
    if fleet is None and (preview := _planned_by_gateway(url, key)) is not None:
        done(commands_at(url, key).show_preview(preview, json=json))
    at = this_machine()
    if fleet is None and at.home.need_stack().fleet is None:
        raise Refused(
            "no fleet file says what should be here",
            hint="name one: `ollama-modal plan --fleet FILE`; `ollama-modal up --fleet FILE` sees to it each night",
        )
    from app.fleet.schema import load  # noqa: PLC0415 - takes as long as two whole commands
    from app.local.coming_night import coming_night  # noqa: PLC0415

    declared = load(fleet.absolute()) if fleet is not None else None
    stack = at.home.need_stack()
    if declared is None:
        declared, wanted = _followed(stack, is_up=at.home.up_pid() is not None), stack.retention
    else:
        wanted = replace(declared.retention(), quota_bytes=stack.retention.quota_bytes)
    found = coming_night(at.home, replace(stack, retention=wanted), declared, at.commands.clock)
    done(at.commands.show_preview(found, json=json))


def _planned_by_gateway(url: str | None, key: str | None) -> Preview | None:
    """What a gateway plans: the one that is named, else that of a running `up`, which will do it as well.

    None when there is neither, or the key does not open our own: then the plan is made here.
    """
    from jobs.cli.remote_status import RemotePreview  # noqa: PLC0415 - listing jobs is to feel instant without it

    if url:
        say("note: this is by the fleet that the nights there follow")
        return RemotePreview(remote_at(url, key).plan())
    home = home_of(os.environ)
    stack = home.read_stack()
    if stack is None or stack.pid != home.up_pid() or stack.gateway is None or stack.fleet is None:
        return None
    try:
        preview = RemotePreview(remote_at(stack.gateway, key).plan())
    except (Unauthorized, NetworkTrouble):
        return None
    _note_changes(stack)
    return preview


def _followed(stack: Stack, *, is_up: bool) -> "Fleet":
    """The fleet that the nights of `up` follow: while it runs, as its file was when it was read."""
    from app.fleet.file import parsed  # noqa: PLC0415
    from app.fleet.schema import load, parse  # noqa: PLC0415

    assert stack.fleet is not None
    if not is_up or stack.fleet_text is None:
        return load(stack.fleet)
    _note_changes(stack)
    return parse(parsed(stack.fleet_text, stack.fleet), str(stack.fleet))


def _note_changes(stack: Stack) -> None:
    """Say that the fleet's file is not what a running `up` has read."""
    if stack.fleet is None or stack.fleet_text is None:
        return
    if not stack.fleet.exists() or stack.fleet.read_text("utf-8", "replace") != stack.fleet_text:
        say(f"note: {stack.fleet} has changed since `up` read it; this is by what it said then. Start `up` again")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
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


def main() -> NoReturn:
    """`ollama-modal`."""
    run(app)
