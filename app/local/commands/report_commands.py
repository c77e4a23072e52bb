"""`ollama-modal night`, `cost`, `cold` and `windows`: the last night, what was used, cold starts, what windows cost."""

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.main import Json, KeyOption, Url, app, commands_at, remote_at, this_machine
from jobs.cli.output import say, screen_width, show
from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest
from jobs.core.since import parse_since
from jobs.home.home import Home, home_of
from jobs.store import keys

if TYPE_CHECKING:
    from app.fleet.schema import Fleet

SinceOption = Annotated[str, typer.Option(metavar="WHEN", help="From when on, like 7d, 12h or 2026-09-15")]
FleetFile = Annotated[Path | None, typer.Option("--fleet", metavar="FILE", help="Else that of `up`, or app/fleet.toml")]


@app.command()
def night(url: Url = None, key: KeyOption = None, json: Json = False) -> None:
    """Tell what the last night did. Its jobs and how they ended, what it moved, what it left alone."""
    from jobs.telemetry.nightly_report import lines  # noqa: PLC0415 - every command imports this file

    if url:
        commands = commands_at(url, key)
        last_night = remote_at(url, key).night()
    else:
        from jobs.home.status import local_night  # noqa: PLC0415

        at = this_machine()
        commands, last_night = at.commands, local_night(at.home, at.commands.clock)
    show(last_night, (commands.worded(line) for line in lines(last_night, commands.now, screen_width())), json=json)


@app.command()
def cost(
    since: SinceOption = "7d",
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell what each model and key took on this machine. With a URL, what a deployment has cost."""
    from jobs.telemetry.cold_starts import cold_starts  # noqa: PLC0415 - every command imports this file
    from jobs.telemetry.cost import Cost, owned  # noqa: PLC0415
    from jobs.telemetry.usage import usage_in  # noqa: PLC0415

    if url:
        answer = remote_at(url, key).cost(parse_since(since, "--since", SystemClock().now()))
        show(answer, Cost.from_json(answer).lines(screen_width()), json=json)
        return
    at = this_machine()
    began = parse_since(since, "--since", at.commands.now)
    recorded = _recorded(at.home, keys.USAGE, keys.COLD)
    rows = usage_in(recorded, since=began.date())
    owned_cost = owned(rows, began, at.commands.now, cold_starts(recorded, began))
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
    since: SinceOption = "7d",
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell how cold starts and loads went, phase by phase, and how fast the bytes came."""
    from jobs.telemetry.cold_starts import ColdStart, cold_starts  # noqa: PLC0415 - every command imports this file
    from jobs.telemetry.cold_table import lines  # noqa: PLC0415

    older = 0
    if url:
        now = SystemClock().now().astimezone()
        answer = remote_at(url, key).cold(parse_since(since, "--since", now))
        starts, older = ColdStart.listed(answer)
    else:
        at = this_machine()
        now = at.commands.now
        starts = cold_starts(_recorded(at.home, keys.COLD), parse_since(since, "--since", now))
    show([each.as_json() for each in starts], lines(starts, now, screen_width(), older), json=json)
    if not starts and not json:
        say("nobody has waited for a server or a load since then")


@app.command()
def windows(  # noqa: PLR0917 - typer reads options from parameters
    fleet: FleetFile = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="Propose windows, by when callers asked")] = False,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="With --suggest: from when on, like 8w or 2026-09-15")
    ] = "8w",
    worth: Annotated[
        int,
        typer.Option(
            metavar="MINUTES", min=1, max=1440, help="With --suggest: of a GPU, for a cold start that nobody meets"
        ),
    ] = 60,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Tell what declared windows cost in a month, and from how many cold starts on they pay; or propose some."""
    if suggest:
        _suggest_windows(fleet, since, timedelta(minutes=worth), url, key, json=json)
        return
    if url:
        raise BadRequest("windows --url needs --suggest", hint="what declared windows cost is told from the fleet file")
    from app.accounting.window_cost import offers  # noqa: PLC0415

    at = this_machine()
    offered = offers(_fleet_of(fleet), _recorded(at.home, keys.COLD), at.commands.clock.now())
    show([each.as_json() for each in offered], (line for each in offered for line in each.lines()), json=json)
    if not offered:
        say("the fleet declares no windows")


def _suggest_windows(
    fleet: Path | None, since: str, worth: timedelta, url: str | None, key: str | None, *, json: bool
) -> None:
    from app.accounting.window_suggestions import Recorded, Suggestion, suggestions  # noqa: PLC0415

    if url:
        began = parse_since(since, "--since", SystemClock().now())
        told = remote_at(url, key).suggested_windows(began, worth)["suggestions"]
        found = [Suggestion.from_json(each) for each in told]
    else:
        at = this_machine()
        began = parse_since(since, "--since", at.commands.now)
        recorded = _recorded(at.home, keys.USAGE, keys.COLD)
        found = suggestions(_fleet_of(fleet), Recorded.of(recorded, began, at.commands.now), worth)
        told = [each.as_json() for each in found]
    show(told, (line for each in found for line in each.lines()), json=json)
    if not found and not json:
        say("no caller has asked a tier of the fleet since then")


def _recorded(home: Home, *begin: str) -> dict[str, Any]:
    """The entries of this machine whose keys begin so: those of the ledger, and those that have left it."""
    past: dict[str, Any] = {}
    if home.archive.is_dir():  # what reads archives takes long to import
        from jobs.archive.archived import COLD, USAGE, archive_at, archived_facts  # noqa: PLC0415

        sorts = {keys.COLD: COLD, keys.USAGE: USAGE}
        for each in begin:
            past |= archived_facts(archive_at(home.root), sorts[each])
    return {**past, **dict(home.read_facts().items(*begin))}


def _fleet_of(file: Path | None) -> "Fleet":
    from app.fleet.file import FLEET_FILE  # noqa: PLC0415
    from app.fleet.schema import load  # noqa: PLC0415

    stack = home_of(os.environ).read_stack()
    return load(file or (stack.fleet if stack and stack.fleet else FLEET_FILE))
