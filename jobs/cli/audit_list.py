"""Who did what, as a list for a person: the same for this machine, for a gateway and for a deployment."""

from collections.abc import Sequence
from datetime import datetime

from jobs.access.audit_line import AuditLine
from jobs.cli.output import put_json, put_table, say
from jobs.cli.terminal.table import GiveWay
from jobs.core.units import counted, local_time

LISTED = 50
"""Lines that are shown when nobody says how many."""

_HEAD = ("WHEN", "WHO", "ACT", "WHAT", "OUTCOME", "JOB", "BY")

_GIVES_WAY = (
    GiveWay("BY", 12),
    GiveWay("WHEN", lambda moment: moment[5:16]),
    GiveWay("BY", "left out"),
    GiveWay("WHAT", 24, "middle"),
    GiveWay("WHO", 16, "middle"),
    GiveWay("JOB", "left out"),
    GiveWay("WHAT", 12, "middle"),
    GiveWay("WHEN", lambda moment: moment[:5]),
    GiveWay("WHO", 10, "middle"),
    GiveWay("WHEN", "left out"),
    GiveWay("WHAT", 8, "middle"),
    GiveWay("OUTCOME", 10),
)
"""Who did what to what comes last to give way; the request is for whoever reads logs as well."""


def show_audit(lines: Sequence[AuditLine], now: datetime, *, more: bool, json: bool) -> int:
    """Show them.

    Args:
        lines: the newest first.
        now: the time, in the zone of the person who reads.
        more: whether there are more than these.
        json: for a program.

    """
    if json:
        put_json([line.as_json() for line in lines])
    elif lines:
        put_table(_HEAD, [_row(line, now) for line in lines], _GIVES_WAY)
    else:
        say("nobody did anything of the kind since then")
    if more:
        say("there are more; --limit 0 lists all")
    return 0


def _row(line: AuditLine, now: datetime) -> tuple[str, ...]:
    when = local_time(line.at, now)
    return (when, line.who, line.act, line.subject, outcome_of(line), line.job, line.request)


def outcome_of(line: AuditLine) -> str:
    """How it went, in words."""
    why = f": {line.why}" if line.why else ""
    often = f", {counted(line.count, 'time')}" if line.count > 1 else ""
    return f"{line.outcome}{why}{often}"
