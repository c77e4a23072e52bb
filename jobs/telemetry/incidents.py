"""What somebody should know of: opened once, ended once, told once each, whoever looks and however often.

They are facts, as in the ledger; `jobs.store.keys` lists them. What comes and goes within minutes is one incident.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.store import keys
from jobs.store.protocols import DictLike

PASSED_AFTER = timedelta(minutes=12)
"""Without it, two ticks in a row, before it counts as passed: what flaps is told once."""

TRY_AGAIN = timedelta(minutes=4)
"""An attempt at sending has long ended by then, one way or the other."""

TRIES = 60
"""Some hours of a webhook that does not answer; then nobody is told of this any more."""

IncidentChange = Literal["opened", "recovered"]


@dataclass(frozen=True)
class Incident:
    """Something that is wrong now.

    Args:
        kind: what sort of thing, as the fleet's alerts name it.
        subject: which one.
        message: what is wrong, in words.
        hint: what to do about it.

    """

    kind: str
    subject: str
    message: str
    hint: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.subject}"


@dataclass(frozen=True)
class Case:
    """One incident, from when it came up to when it had passed and was told of."""

    incident: Incident
    n: int
    opened_at: datetime
    seen_at: datetime
    recovered_at: datetime | None = None
    delivered: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        return f"{self.incident.key}/{self.n}"

    @property
    def is_open(self) -> bool:
        return self.recovered_at is None

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            **asdict(self.incident),
            "opened_at": isoformat(self.opened_at),
            "recovered_at": isoformat(self.recovered_at) if self.recovered_at else None,
            "told": sorted(self.delivered),
        }


@dataclass(frozen=True)
class Alert:
    """A message that is due: that a case has come up, or has passed."""

    case: Case
    change: IncidentChange

    @property
    def id(self) -> str:
        return f"{self.case.id}/{self.change}"

    @property
    def text(self) -> str:
        incident = self.case.incident
        if self.change == "opened":
            return f"{incident.message}" + (f"\n{incident.hint}" if incident.hint else "")
        return f"passed: {incident.message}"


def cases(entries: Mapping[str, Any]) -> list[Case]:
    """All cases that the entries tell of, oldest first."""
    found = []
    for key, fact in entries.items():
        if key.startswith(keys.INCIDENT):
            incident = Incident(fact["kind"], fact["subject"], fact["message"], fact.get("hint", ""))
            found.append(_case(incident, key.removeprefix(keys.INCIDENT), fact, entries))
    return sorted(found, key=lambda case: (case.opened_at, case.id))


def _case(incident: Incident, id: str, fact: Mapping[str, Any], entries: Mapping[str, Any]) -> Case:
    opened_at = parse_moment(fact["at"])
    seen, passed = entries.get(keys.seen(incident.key)), entries.get(keys.recovered(id))
    still = (entries.get(keys.STILL_OPEN) or {}).get("keys", {}).get(incident.key)
    seen_at = [parse_moment(seen["at"])] if seen else []
    seen_at += [parse_moment(still)] if still else []
    return Case(
        incident=incident,
        n=int(id.rpartition("/")[2]),
        opened_at=opened_at,
        seen_at=max([opened_at, *seen_at]),
        recovered_at=parse_moment(passed["at"]) if passed else None,
        delivered=frozenset(change for change in ("opened", "recovered") if keys.told(id, change) in entries),
    )


def record(facts: DictLike, known: Iterable[Case], incidents: Iterable[Incident], now: datetime) -> list[Case]:
    """Write down what has come up and what has passed; the cases that are open now, or were just closed.

    That those which are known go on is one write for all of them.
    """
    latest = {case.incident.key: case for case in known}  # oldest first, so the last one stays
    current = {incident.key: incident for incident in incidents}
    after = [_opened(facts, latest.get(key), incident, now) for key, incident in current.items()]
    after += [_recovered(facts, case, now) for key, case in latest.items() if key not in current and case.is_open]
    still = {case.incident.key: isoformat(case.seen_at) for case in after if case.is_open}
    if still:
        facts.put(keys.STILL_OPEN, {"v": 1, "keys": still})
    return after


def _opened(facts: DictLike, case: Case | None, incident: Incident, now: datetime) -> Case:
    if case is not None and case.is_open:
        return replace(case, seen_at=now)
    n = case.n + 1 if case else 1
    fact = {"v": 1, "at": isoformat(now), **asdict(incident)}
    facts.put(keys.incident(f"{incident.key}/{n}"), fact, skip_if_exists=True)
    return Case(incident, n, now, now)


def _recovered(facts: DictLike, case: Case, now: datetime) -> Case:
    if now - case.seen_at < PASSED_AFTER:
        return case
    facts.put(keys.recovered(case.id), {"v": 1, "at": isoformat(now)}, skip_if_exists=True)
    return replace(case, recovered_at=now)


def due_alerts(known: Iterable[Case]) -> Iterator[Alert]:
    """What is to be sent next, at most one of each key, so that a reader hears the story in its order."""
    pending: set[str] = set()
    for case in known:
        unsent = [change for change in _changes(case) if change not in case.delivered]
        if unsent and case.incident.key not in pending:
            pending.add(case.incident.key)
            yield Alert(case, unsent[0])


def _changes(case: Case) -> tuple[IncidentChange, ...]:
    return ("opened",) if case.is_open else ("opened", "recovered")


class AlertDelivery:
    """Sees to it that each alert is sent once, though several try.

    Args:
        facts: where tries and tellings are written down.
        clock: the time.
        entries: what was in `facts` when the delivery began: which tries there were is not read one by one.

    """

    def __init__(self, facts: DictLike, clock: Clock, entries: Mapping[str, Any]) -> None:
        self._facts = facts
        self._clock = clock
        self._tries: dict[str, int] = {}
        for key in entries:
            if key.startswith(keys.TELLING):
                id, _, attempt = key.removeprefix(keys.TELLING).rpartition("/")
                self._tries[id] = max(self._tries.get(id, 0), int(attempt))
        self._entries = entries

    def may_send(self, alert: Alert) -> bool:
        """Whether it is ours to send now: nobody has, nobody is at it, and it was not tried too often.

        It costs a read and a write when it is, and nothing while the last try is too young.
        """
        tries = self._tries.get(alert.id, 0)
        if tries:
            last = self._entries[keys.telling(alert.case.id, alert.change, tries)]
            if self._clock.now() - parse_moment(last["at"]) < TRY_AGAIN:
                return False
        if tries >= TRIES:
            self.settle(alert, "given up")
            return False
        # Whoever has begun since then wrote the same key, and one of us loses.
        if self._facts.get(keys.told(alert.case.id, alert.change)) is not None:
            return False
        return self._begin(keys.telling(alert.case.id, alert.change, tries + 1))

    def settle(self, alert: Alert, how: str = "told") -> None:
        fact = {"v": 1, "at": isoformat(self._clock.now()), "how": how}
        self._facts.put(keys.told(alert.case.id, alert.change), fact, skip_if_exists=True)

    def _begin(self, key: str) -> bool:
        token = secrets.token_hex(8)
        fact = {"v": 1, "at": isoformat(self._clock.now()), "token": token}
        return self._facts.put(key, fact, skip_if_exists=True) or (self._facts.get(key) or {}).get("token") == token
