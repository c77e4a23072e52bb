"""One act of an admin, as it is written down: who, when, by which request, what, to what, with what outcome. Pure."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast, get_args

from jobs.core import foreign
from jobs.core.clock import isoformat, parse_moment
from jobs.core.sanitize import plain
from jobs.store import keys

VERSION = 1

HERE = "ollama-modal"
"""The command of this machine, as a line's request names it before the act."""

LONGEST = 200
"""Characters of a name that are kept: a request may bring any text as one."""

Outcome = Literal["begun", "done", "posted", "attached", "refused", "failed"]
"""`begun`: nothing more was heard. `posted`: its job tells how it ends. `attached`: to a job that was under way.
`refused`: nothing was changed. `failed`: whether something was changed is not known."""

_TEXTS = ("who", "request", "act", "subject", "class", "job")

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class AuditLine:
    """One act.

    Args:
        id: names it: `<day>/<time>-<random>`, so that ids sort as their times do.
        at: when it was begun; of several refusals, when the first came.
        who: the name of a key, a user of this machine, or a schedule.
        request: the id of the request, or the command, by which it came; of several, the last.
        act: what was done, one of `jobs.access.acts.ACTS`.
        subject: what it was done to: a model, a key, what a job is about; empty where that was not read.
        outcome: how it went.
        why: the class of the refusal or failure.
        job: the job that does it, or to which it was done.
        count: how many requests it stands for.

    """

    id: str
    at: datetime
    who: str
    request: str
    act: str
    subject: str
    outcome: Outcome
    why: str = ""
    job: str = ""
    count: int = 1

    @property
    def key(self) -> str:
        return f"{keys.AUDIT}{self.id}"

    def as_json(self) -> dict[str, Any]:
        by = {"who": self.who, "request": self.request}
        about = {"act": self.act, "subject": self.subject, "outcome": self.outcome, "class": self.why, "job": self.job}
        return {"id": self.id, "at": isoformat(self.at), **by, **about, "count": self.count}

    def as_fact(self) -> dict[str, Any]:
        return {"v": VERSION, **{name: value for name, value in self.as_json().items() if name != "id"}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read a line as `as_json` writes it.

        Raises:
            ValueError: it makes no sense.
            KeyError: it lacks what every line has.

        """
        outcome = document["outcome"]
        if outcome not in OUTCOMES:
            raise ValueError(f"{outcome!r} is no outcome")
        who, request, act, subject, why, job = (str(document.get(name, "")) for name in _TEXTS)
        at, count = parse_moment(document["at"]), int(document.get("count", 1))
        return cls(str(document["id"]), at, who, request, act, subject, cast("Outcome", outcome), why, job, count)

    @classmethod
    def of_entry(cls, key: str, fact: object) -> Self | None:
        """The line of an entry; None where that makes no sense."""
        try:
            return cls.from_json({**foreign.fields(fact), "id": key.removeprefix(keys.AUDIT)})
        except (KeyError, TypeError, ValueError):
            return None


def id_at(moment: datetime, rest: str = "") -> str:
    """The id of a line of that moment; without a rest, what those of then and later do not come before."""
    day, _, time = isoformat(moment).partition("T")
    key = keys.audit(day, f"{time}-{rest}" if rest else time)
    return key.removeprefix(keys.AUDIT)


class Act:
    """One that is under way; whoever does it says how it went."""

    def __init__(self, line: AuditLine) -> None:
        self.line = line

    def posted(self, job: str, *, attached: bool = False) -> None:
        """It is this job's now."""
        self.line = replace(self.line, outcome="attached" if attached else "posted", job=job)

    def about(self, subject: str, *, job: str = "") -> None:
        """What it is done to, where that is known only now."""
        self.line = replace(self.line, subject=plain(subject, LONGEST), job=job or self.line.job)


@contextmanager
def not_written(act: str, subject: str) -> Iterator[Act]:
    """An act that others write down: the gateway that it is asked of."""
    yield Act(AuditLine("", datetime.min.replace(tzinfo=UTC), "", "", act, subject, "begun"))
