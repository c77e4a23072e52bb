"""Who did what, as it is read: page by page, the newest first, from the ledger's dict and then from the archive."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, Self

from jobs.access.acts import ACTS
from jobs.access.audit_line import AuditLine, id_at
from jobs.archive.archive_files import Archive
from jobs.archive.archived import AFTER, AUDIT
from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import BadRequest
from jobs.store import keys
from jobs.store.in_order import in_order
from jobs.store.protocols import ReadableDict

AT_ONCE = 200
"""Lines that are read by one question where the store has them in their order."""


@dataclass(frozen=True)
class AuditQuery:
    """Which lines.

    Args:
        since: begun then or later.
        who: by this one alone; by anyone, where empty.
        act: of this kind alone.
        before: those that come after the line of this id in the list: `next` of the page before.
        limit: so many at most; None for all.

    """

    since: datetime
    who: str = ""
    act: str = ""
    before: str = ""
    limit: int | None = None

    @property
    def first(self) -> str:
        """What the ids of all these lines do not come before."""
        return id_at(self.since)

    def fits(self, line: AuditLine) -> bool:
        return self.who in {"", line.who} and self.act in {"", line.act}

    def as_json(self) -> dict[str, Any]:
        words = {"who": self.who, "act": self.act, "before": self.before}
        return {"since": isoformat(self.since), **words, "limit": self.limit}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        return cls(**{**document, "since": parse_moment(document["since"])})


@dataclass(frozen=True)
class AuditPage:
    """Some lines, the newest first, and where the list goes on; None at its end."""

    lines: Sequence[AuditLine]
    next: str | None

    def as_json(self) -> dict[str, Any]:
        return {"lines": [line.as_json() for line in self.lines], "next": self.next}


Archived = Callable[[AuditQuery], Iterable[AuditLine]]
"""The lines that have left the ledger, of those that fit, the newest first."""


def no_archive(_: AuditQuery) -> Iterable[AuditLine]:
    """Nothing ever leaves the ledger."""
    return ()


def need_act(act: str) -> None:
    """Insist that there is such an act.

    Raises:
        BadRequest: there is none.

    """
    if act and act not in ACTS:
        raise BadRequest(f"there is no act {act[:64]!r}", hint=f"acts are {', '.join(ACTS)}")


def page(facts: ReadableDict, archived: Archived, query: AuditQuery, now: datetime) -> AuditPage:
    """The lines that fit: those of the ledger, and where some may be there, those of the archive."""
    most = None if query.limit is None else query.limit + 1
    kept = list(islice(_kept(facts, query), most))
    found = {line.id: line for line in kept}
    if (most is None or len(kept) < most) and query.since < now - AFTER:
        left = None if most is None else most - len(kept) + AT_ONCE  # some of them may not be removed yet
        for line in islice(archived(replace(query, limit=left)), left):
            found.setdefault(line.id, line)
    lines = [found[id] for id in sorted(found, reverse=True)]
    shown = lines if query.limit is None else lines[: query.limit]
    return AuditPage(shown, shown[-1].id if shown and len(lines) > len(shown) else None)


def archived_lines(archive: Archive, query: AuditQuery) -> list[AuditLine]:
    """The lines that have left the ledger; no file is read that is older than what was asked for, or than a page."""
    found: dict[str, AuditLine] = {}
    for records in archive.read_back(AUDIT):
        lines = [line for record in records if (line := AuditLine.of_entry(_key(record), record.get("fact")))]
        found |= {line.id: line for line in lines if _is_asked(line, query) and line.id not in found}
        is_past = bool(lines) and min(line.id for line in lines) < query.first
        if is_past or (query.limit is not None and len(found) >= query.limit):
            break
    return [found[id] for id in sorted(found, reverse=True)][: query.limit]


def _kept(facts: ReadableDict, query: AuditQuery) -> Iterator[AuditLine]:
    for key, fact in _entries(facts, query):
        line = AuditLine.of_entry(key, fact)
        if line is not None and line.id < query.first:
            return
        if line is not None and _is_asked(line, query):
            yield line


def _entries(facts: ReadableDict, query: AuditQuery) -> Iterator[tuple[str, Any]]:
    """The entries, the last first: a page at a time where the store has them in their order."""
    if (order := in_order(facts)) is None:
        yield from sorted(facts.items(keys.AUDIT), reverse=True)
        return
    before = f"{keys.AUDIT}{query.before}" if query.before else f"{keys.AUDIT}:"  # which comes after every day
    while entries := order.last(keys.AUDIT, before, AT_ONCE):
        yield from entries
        before = entries[-1][0]


def _is_asked(line: AuditLine, query: AuditQuery) -> bool:
    is_before = not query.before or line.id < query.before
    return is_before and line.id >= query.first and query.fits(line)


def _key(record: dict[str, Any]) -> str:
    return str(record.get("key", ""))
