"""Who did what: each act of an admin is a line, written before the act and again with its outcome.

So whoever is killed in between leaves a line that says what he was about to do (`begun`), and none is lost. An act that
cannot be written down is not done: the store that keeps the lines keeps what is acted on as well. Of requests that are
refused for who asks, a line counts as many as came: a hostile caller fills nothing.

No key and no prompt is ever handed in here: an act, the name of what it was done to, and who did it.
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from loguru import logger

from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.core.errors import StoreTrouble, Trouble
from jobs.core.sanitize import plain
from jobs.store import keys
from jobs.store.patient_calls import Calls, PatientDict
from jobs.store.protocols import DictLike

VERSION = 1

LONGEST = 200
"""Characters of a subject or a name that are kept: a request may bring any text as one."""

COUNTED_FOR = timedelta(minutes=1)
"""How often at most a line that counts refused requests is written again."""

Outcome = Literal["begun", "done", "posted", "attached", "refused", "failed"]
"""`begun`: nothing more was heard. `posted`: its job tells how it ends. `attached`: to a job that was under way.
`refused`: nothing was changed. `failed`: whether something was changed is not known."""

Later = Callable[[Callable[[], None]], object]
"""Has something done that its caller does not wait for."""


@dataclass(frozen=True)
class AuditLine:
    """One act.

    Args:
        id: names it, and sorts as its time.
        at: when it was begun.
        who: the name of a key, a user of this machine, or a schedule.
        request: the id of the request, or the command, by which it came.
        act: what was done: `pull`, `cancel`, `key-revoke`.
        subject: what it was done to: a model, a job, the name of a key; empty where that was not read.
        outcome: how it went.
        why: the class of the refusal or failure.
        job: the job that does it.
        count: requests that this line stands for.

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
        return keys.audit(self.id[:10], self.id[11:])

    def as_json(self) -> dict[str, Any]:
        about = {"act": self.act, "subject": self.subject, "outcome": self.outcome, "why": self.why, "job": self.job}
        return {"at": isoformat(self.at), "who": self.who, "request": self.request, **about, "count": self.count}

    def as_fact(self) -> dict[str, Any]:
        return {"v": VERSION, **self.as_json()}

    @classmethod
    def from_fact(cls, key: str, fact: Mapping[str, Any]) -> Self:
        return cls(
            key.removeprefix(keys.AUDIT),
            parse_moment(fact["at"]),
            *(str(fact.get(name, "")) for name in ("who", "request", "act", "subject")),
            outcome=fact.get("outcome", "begun"),
            why=str(fact.get("why", "")),
            job=str(fact.get("job", "")),
            count=int(fact.get("count", 1)),
        )


class Act:
    """One that is under way; its thread says how it went."""

    def __init__(self, line: AuditLine) -> None:
        self.line = line

    def posted(self, job: str, *, attached: bool = False) -> None:
        """It is this job's now."""
        self.line = replace(self.line, outcome="attached" if attached else "posted", job=job)

    def about(self, subject: str) -> None:
        """What it is done to, where that is known only now."""
        self.line = replace(self.line, subject=plain(subject, LONGEST))


def at_once(work: Callable[[], None]) -> None:
    """Do it now."""
    work()


class Audit:
    """Writes the lines. Any thread may.

    Args:
        facts: where the lines are kept.
        clock: the time.
        later: has the outcome written; at once where nobody waits for an answer meanwhile.

    """

    def __init__(self, facts: DictLike, clock: Clock, later: Later = at_once) -> None:
        self._facts = PatientDict(facts, Calls(clock))
        self._clock = clock
        self._later = later
        self._lock = threading.Lock()
        #: By who and act, the line that counts what is refused today, and when it was written. Under `_lock`.
        self._counted: dict[tuple[str, str], tuple[AuditLine, float]] = {}

    def record(
        self,
        *,
        who: str,
        request: str,
        act: str,
        subject: str,
        outcome: Outcome = "done",
        why: str = "",
        job: str = "",
    ) -> AuditLine:
        """Write the line of an act that is over, or about to be; one trip.

        Raises:
            StoreTrouble: it is not written.

        """
        line = self._line(who, request, act, subject, outcome)
        line = replace(line, why=why, job=job)
        self._facts.put(line.key, line.as_fact())
        return line

    @contextmanager
    def act(self, *, who: str, request: str, act: str, subject: str) -> Iterator[Act]:
        """Do something that is written down before, and with its outcome after: what is raised inside is told by its
        class and raised on.

        Raises:
            StoreTrouble: it cannot be written down before, so nothing was done.

        """
        doing = Act(self.record(who=who, request=request, act=act, subject=subject, outcome="begun"))
        try:
            yield doing
        except BaseException as error:
            is_refusal = isinstance(error, Trouble) and not isinstance(error, StoreTrouble)
            outcome: Outcome = "refused" if is_refusal else "failed"
            self._end(replace(doing.line, outcome=outcome, why=type(error).__name__))
            raise
        line = doing.line
        self._end(replace(line, outcome="done") if line.outcome == "begun" else line)

    def _line(self, who: str, request: str, act: str, subject: str, outcome: Outcome) -> AuditLine:
        now = self._clock.now()
        day, _, time = isoformat(now).partition("T")
        named = f"{day}/{time}-{secrets.token_hex(4)}"
        said = (plain(text, LONGEST) for text in (who, request, act, subject))
        return AuditLine(named, now, *said, outcome=outcome)

    def _end(self, line: AuditLine) -> None:
        def write() -> None:
            try:
                self._facts.put(line.key, line.as_fact())
            except StoreTrouble as trouble:  # the act is done, and its line says that it was begun
                logger.warning("the outcome of an act is not written down: {}: {}", line.as_json(), trouble)

        self._later(write)
