"""`ollama-modal audit`: who did what, on this machine or at a gateway."""

from typing import Annotated

import typer

from jobs.cli.audit_list import LISTED
from jobs.cli.main import Json, KeyOption, Url, app, done, remote_at, this_machine
from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest
from jobs.core.since import parse_since


def _acts() -> list[str]:
    from jobs.access.acts import ACTS  # noqa: PLC0415 - every command imports this file

    return list(ACTS)


@app.command()
def audit(  # noqa: PLR0917 - typer reads options from parameters
    since: Annotated[str, typer.Option(metavar="WHEN", help="Begun since then, like 7d, 12h or 2026-09-15")] = "7d",
    who: Annotated[str, typer.Option(metavar="NAME", help="By this key, user or schedule alone")] = "",
    act: Annotated[
        str, typer.Option(metavar="KIND", help="Of this kind alone, like pull or cancel", autocompletion=_acts)
    ] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the newest; 0 for all")] = LISTED,
    url: Url = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """List who did what, newest first: by which request or command, to what, with what outcome."""
    from jobs.archive.archived import archive_at  # noqa: PLC0415 - as above
    from jobs.archive.audited import AuditQuery, archived_lines, need_act, page  # noqa: PLC0415
    from jobs.cli.audit_list import show_audit  # noqa: PLC0415

    if limit < 0:
        raise BadRequest(f"--limit {limit} makes no sense", hint="at least 1, or 0 for all")
    now = SystemClock().now()
    query = AuditQuery(parse_since(since, "--since", now), who, act, limit=limit or None)
    if url:  # which knows its own acts
        found = remote_at(url, key).audit(query)
        done(show_audit(found.lines, now.astimezone(), more=found.next is not None, json=json))
    need_act(act)
    home = this_machine().home
    archive = archive_at(home.root)
    found = page(home.read_facts(), lambda asked: archived_lines(archive, asked), query, now)
    done(show_audit(found.lines, now.astimezone(), more=found.next is not None, json=json))
