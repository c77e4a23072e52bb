"""`ollama-modal night`, `cost`, `cold` and `windows`: the last night, what was used, cold starts, what windows cost."""

import os
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.main import Json, KeyOption, Url, app, commands_at, remote_at, this_machine
from jobs.cli.output import say, screen_width, show
from jobs.core.clock import SystemClock
from jobs.core.since import parse_since
from jobs.home.home import home_of

FleetFile = Annotated[Path | None, typer.Option("--fleet", metavar="FILE", help="Else that of `up`, or app/fleet.toml")]


@app.command()
def night(url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """Tell what the last night did. Its jobs and how they ended, what it moved, what it left alone."""
    from jobs.telemetry.nightly_report import OF_NIGHTS, lines, report  # noqa: PLC0415 - every command imports this file

    if url:
        commands = commands_at(url, key)
        last_night = remote_at(url, key).night()
    else:
        at = this_machine()
        entries = dict(at.home.read_facts().items(*OF_NIGHTS))
        commands, last_night = at.commands, report(entries, at.commands.reader.select()[0])
    show(last_night, (commands.worded(line) for line in lines(last_night, commands.now, screen_width())), json=json)


@app.command()
def cost(
    since: Annotated[str, typer.Option(metavar="WHEN", help="From when on, like 7d, 12h or 2026-09-15")] = "7d",
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell what each model and key took on this machine. With a URL, what a deployment has cost."""
    from jobs.telemetry.cold_starts import read_cold_starts  # noqa: PLC0415 - every command imports this file
    from jobs.telemetry.cost import Cost, owned  # noqa: PLC0415
    from jobs.telemetry.usage import usage  # noqa: PLC0415

    if url:
        answer = remote_at(url, key).cost(parse_since(since, "--since", SystemClock().now()))
        show(answer, Cost.from_json(answer).lines(screen_width()), json=json)
        return
    at = this_machine()
    began = parse_since(since, "--since", at.commands.now)
    rows = usage(at.home.read_facts(), since=began.date())
    facts = at.home.read_facts()
    owned_cost = owned(rows, began, at.commands.now, read_cold_starts(facts, began))
    told = (*owned_cost.use_lines(screen_width()), *owned_cost.cold_lines())
    show(owned_cost.as_json(), told, json=json)
    if json:
        return
    if not rows:
        say("nothing was asked of the gateway since then")
    say("nothing here is paid by the second: this machine is yours")
    say("hint: what a deployment has cost: `ollama-modal cost --url URL`, or `modal run -m app.jobs::cost --since 7d`")


@app.command()
def cold(
    since: Annotated[str, typer.Option(metavar="WHEN", help="From when on, like 7d, 12h or 2026-09-15")] = "7d",
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell how cold starts and loads went, phase by phase, and how fast the bytes came."""
    from jobs.telemetry.cold_starts import ColdStart, read_cold_starts  # noqa: PLC0415 - every command imports this file
    from jobs.telemetry.cold_table import lines  # noqa: PLC0415

    if url:
        now = SystemClock().now().astimezone()
        told = remote_at(url, key).cold(parse_since(since, "--since", now))["starts"]
        starts = [ColdStart.from_json(each) for each in told]
    else:
        at = this_machine()
        now = at.commands.now
        starts = read_cold_starts(at.home.read_facts(), parse_since(since, "--since", now))
        told = [each.as_json() for each in starts]
    show(told, lines(starts, now, screen_width()), json=json)
    if not starts and not json:
        say("nobody has waited for a server or a load since then")


@app.command()
def windows(fleet: FleetFile = None, json: Json = False) -> None:
    """Tell what declared windows cost in a month, and from how many cold starts on they pay."""
    from app.accounting.window_cost import offers  # noqa: PLC0415
    from app.fleet.file import FLEET_FILE  # noqa: PLC0415
    from app.fleet.schema import load  # noqa: PLC0415

    at = this_machine()
    stack = home_of(os.environ).read_stack()
    offered = offers(load(fleet or (stack.fleet if stack and stack.fleet else FLEET_FILE)), {}, at.commands.clock.now())
    show([each.as_json() for each in offered], (line for each in offered for line in each.lines()), json=json)
    if not offered:
        say("the fleet declares no windows")
