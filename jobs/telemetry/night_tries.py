"""How often the night that is due was tried, and when it is tried again: with growing pauses, and with an end.

Kept under `NIGHT_TRIES`, of the night that was due last. Who tries, and who sends for a try, is not decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import Trouble
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict

MOST = 8
"""Tries of one night: some four hours, by then its morning has come."""

FIRST, LONGEST = timedelta(minutes=5), timedelta(hours=1)
"""The pause after a try that failed doubles from the one to the other."""

SILENT = timedelta(minutes=15)
"""A try that said nothing for so long has ended: on a platform it is killed after ten minutes."""

ALERTED_FROM = 3
"""So many failures are no hiccough."""

TryState = Literal["none", "sent", "begun", "failed", "ran"]


@dataclass(frozen=True)
class Tries:
    """Of one night.

    Args:
        due: when it was due.
        count: how often it was tried; one that was sent for and has not begun counts.
        at: when that happened last.
        state: how the last one stands. One that was killed stays `begun`.
        trouble: what the last one met that said so.

    """

    due: datetime
    count: int = 0
    at: datetime | None = None
    state: TryState = "none"
    trouble: str = ""

    def as_json(self) -> dict[str, Any]:
        when = {"due": isoformat(self.due), "count": self.count, "at": self.at and isoformat(self.at)}
        return {"v": 1, **when, "state": self.state, "trouble": self.trouble}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        at = document.get("at")
        return cls(
            parse_moment(document["due"]),
            int(document.get("count", 0)),
            parse_moment(at) if at else None,
            document.get("state", "none"),
            document.get("trouble", ""),
        )

    # -- what happens --------------------------------------------------------------------------------------------------

    def sent(self, now: datetime) -> "Tries":
        """Somebody was sent to try."""
        return replace(self._anew(), count=self._anew().count + 1, at=now, state="sent")

    def begun(self, now: datetime) -> "Tries":
        """Somebody tries; whoever was sent for that is counted already."""
        tries = self if self.state == "sent" else replace(self._anew(), count=self._anew().count + 1)
        return replace(tries, at=now, state="begun")

    def failed(self, error: Exception) -> "Tries":
        said = str(error) if isinstance(error, Trouble) else f"{type(error).__name__}: {error}"
        return replace(self, state="failed", trouble=said)

    def ran(self) -> "Tries":
        return replace(self, state="ran")

    def _anew(self) -> "Tries":
        """A night that ran and is run once more is counted from the beginning."""
        return Tries(self.due) if self.state == "ran" else self

    # -- what follows --------------------------------------------------------------------------------------------------

    @property
    def next_at(self) -> datetime | None:
        """When it may be tried again; None before the first try, after one that ran, and when it is given up."""
        if self.at is None or self.state in {"none", "ran"} or self.count >= MOST:
            return None
        pause = min(LONGEST, FIRST * (1 << (self.count - 1)))
        return self.at + (pause if self.state == "failed" else max(pause, SILENT))

    @property
    def is_given_up(self) -> bool:
        return self.state not in {"none", "ran"} and self.count >= MOST

    @property
    def has_failed(self) -> bool:
        """The last one failed, or nothing was heard of it, and it was not the first."""
        return self.state == "failed" or (self.state in {"sent", "begun"} and self.count > 1)

    def is_due(self, now: datetime) -> bool:
        """Whether to try now. A last try in the future is one before the clock was set back."""
        if self.at is None or self.state in {"none", "ran"}:
            return True
        return self.next_at is not None and not self.at <= now < self.next_at


def tries_of(entries: ReadableDict | Mapping[str, Any], due: datetime) -> Tries:
    """The tries of the night that was due then."""
    known = last_tries(entries)
    return known if known is not None and known.due == due else Tries(due)


def last_tries(entries: ReadableDict | Mapping[str, Any]) -> Tries | None:
    """The tries that were written down last, of whichever night."""
    fact = entries.get(keys.NIGHT_TRIES)
    return Tries.from_json(fact) if fact else None


def write_down(facts: DictLike, tries: Tries) -> None:
    facts.put(keys.NIGHT_TRIES, tries.as_json())
