"""What a job is: the fold from write-once facts to a state. Pure: neither waits nor reads a clock.

      (a) claim              (b) succeeded
  queued ─────────▶ running ───────────────▶ succeeded
                     │ ▲ │ │ (c) failed, or lost at the last attempt
          (d) retry, │ │ │ └───────────────▶ failed
              lost   ▼ │ │ (f) cancelled
                 waiting └─────────────────▶ cancelled
                     (e) claim

Cancelling a job nobody runs claims its next attempt and ends it, so (a) or (e) is followed by (f): the end of an
attempt stays the one place where a job is decided. Where a worker has something to finish before (`ended_by_worker`),
the claim is left to one, at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self, get_args

from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import Trouble
from jobs.core.progress import Reading
from jobs.ledger.kinds import KINDS

VERSION = 1
"""Written into every fact. Readers take missing fields as their defaults, so last month's records still open."""


BY_NIGHTLY = "nightly"
"""Who posts what a night posts."""


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

Outcome = Literal["succeeded", "failed", "retry", "cancelled", "lost"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_MOVES: dict[tuple[JobState, str], JobState] = {
    (JobState.QUEUED, "claim"): JobState.RUNNING,  # a
    (JobState.RUNNING, "succeeded"): JobState.SUCCEEDED,  # b
    (JobState.RUNNING, "failed"): JobState.FAILED,  # c
    (JobState.RUNNING, "retry"): JobState.WAITING,  # d
    (JobState.RUNNING, "lost"): JobState.WAITING,  # d
    (JobState.WAITING, "claim"): JobState.RUNNING,  # e
    (JobState.RUNNING, "cancelled"): JobState.CANCELLED,  # f
}


class IllegalMove(Exception):
    """The facts tell of a move that the table does not have: a second writer, or a damaged ledger."""


def move(state: JobState, event: str) -> JobState:
    """Where `event` leads from `state`.

    Raises:
        IllegalMove: the table has no such arrow.

    """
    try:
        return _MOVES[state, event]
    except KeyError:
        raise IllegalMove(f"a job that is {state} cannot move by {event!r}") from None


class Place(NamedTuple):
    """Where a job stands among all, as `Job.age` has it: by when it was posted, in milliseconds."""

    posted: int
    generation: int
    id: str

    @classmethod
    def of(cls, posted: int, id: str) -> Self:
        return cls(posted, generation_of(id), id)


def milliseconds(moment: datetime) -> int:
    """Since 1970, which is as exactly as a posting is written down."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment_at(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Attempt:
    n: int
    started_at: datetime
    worker: str
    lease: timedelta
    last_sign: datetime
    """When its holder was last heard of: its claim, or its latest beat."""
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    failure_class: str | None = None
    message: str | None = None
    hint: str | None = None
    not_before: datetime | None = None

    def is_lost(self, now: datetime) -> bool:
        """Its lease ran out and nobody ended it."""
        return self.outcome is None and now > self.last_sign + self.lease

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "worker": self.worker,
            "started_at": isoformat(self.started_at),
            "ended_at": isoformat(self.ended_at) if self.ended_at else None,
            "outcome": self.outcome,
            "class": self.failure_class,
            "message": self.message,
            "hint": self.hint,
            "not_before": isoformat(self.not_before) if self.not_before else None,
            "last_sign": isoformat(self.last_sign),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """An attempt, as `as_json` wrote it; of its lease nothing is known any more."""
        ended_at = _moment(document.get("ended_at"))
        started_at = parse_moment(document["started_at"])
        return cls(
            n=int(document["n"]),
            started_at=started_at,
            worker=document.get("worker", ""),
            lease=timedelta(0),
            last_sign=_moment(document.get("last_sign")) or ended_at or started_at,
            ended_at=ended_at,
            outcome=document.get("outcome"),
            failure_class=document.get("class"),
            message=document.get("message"),
            hint=document.get("hint"),
            not_before=_moment(document.get("not_before")),
        )


@dataclass(frozen=True)
class Job:
    id: str
    kind: str
    subject: str
    lane: str
    state: JobState
    request: Mapping[str, Any]
    attempts_allowed: int
    posted_at: datetime
    posted_by: str
    attempts: tuple[Attempt, ...] = ()
    progress: Reading = field(default_factory=Reading)
    result: Mapping[str, Any] | None = None
    cancel_asked: bool = False
    dismissed: bool = False
    """It failed for good, and somebody said that nobody needs to hear of it any more."""

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def ended_at(self) -> datetime | None:
        return self.attempts[-1].ended_at if self.has_ended else None

    @property
    def age(self) -> tuple[datetime, int, str]:
        """Sorts jobs, the oldest first; of those of one line that were posted in one moment, by their generation."""
        return self.posted_at, generation_of(self.id), self.id

    @property
    def place(self) -> Place:
        """The same for a list that goes on another time."""
        return Place.of(milliseconds(self.posted_at), self.id)

    @property
    def not_before(self) -> datetime | None:
        """Until when a waiting job waits. One that somebody asked to cancel waits for nothing but its end."""
        is_waiting = self.state is JobState.WAITING and not self.cancel_asked
        return self.attempts[-1].not_before if is_waiting else None

    def is_due(self, now: datetime) -> bool:
        """Its next attempt may be claimed."""
        if self.state is JobState.QUEUED:
            return True
        return self.state is JobState.WAITING and (self.not_before is None or self.not_before <= now)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "subject": self.subject,
            "state": str(self.state),
            "progress": self.progress.as_json(),
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "attempts_allowed": self.attempts_allowed,
            "request": dict(self.request),
            "posted_at": isoformat(self.posted_at),
            "posted_by": self.posted_by,
            "ended_at": isoformat(self.ended_at) if self.ended_at else None,
            "result": dict(self.result) if self.result is not None else None,
            "cancel_asked": self.cancel_asked,
            "dismissed": self.dismissed,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """A job, as `as_json` wrote it."""
        kind = KINDS.get(document["kind"])
        return cls(
            id=document["id"],
            kind=document["kind"],
            subject=document["subject"],
            lane=kind.lane if kind else "",
            state=JobState(document["state"]),
            request=document.get("request", {}),
            attempts_allowed=int(document.get("attempts_allowed", 1)),
            posted_at=parse_moment(document["posted_at"]),
            posted_by=document.get("posted_by", ""),
            attempts=tuple(Attempt.from_json(each) for each in document.get("attempts", ())),
            progress=_reading(document.get("progress")),
            result=document.get("result"),
            cancel_asked=bool(document.get("cancel_asked")),
            dismissed=bool(document.get("dismissed")),
        )

    def __str__(self) -> str:
        attempts = " ".join(f"{attempt.n}:{attempt.outcome or 'open'}" for attempt in self.attempts)
        return f"{self.id} {self.kind} {self.subject} {self.state} [{attempts}]"


def generation_of(id: str) -> int:
    """Where in its line the job of this id stands; 0 for an id that does not say."""
    generation = id.rpartition("-")[2]
    return int(generation) if generation.isascii() and generation.isdecimal() else 0


@dataclass
class JobFacts:
    """What the ledger holds of one job, as plain dicts, by attempt number where there are several."""

    job: Mapping[str, Any]
    claims: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    beats: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    ends: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    cancel: Mapping[str, Any] | None = None
    dismissed: Mapping[str, Any] | None = None


def fold(facts: JobFacts) -> Job:
    """The job that these facts tell of.

    Raises:
        IllegalMove: the facts contradict each other.

    """
    allowed = int(facts.job.get("attempts_allowed", 1))
    state = JobState.QUEUED
    attempts = []
    for n in range(1, len(facts.claims) + 1):
        if n not in facts.claims:
            raise IllegalMove(f"job {facts.job.get('id')!r} has no claim {n}, but a later one")
        state = move(state, "claim")
        end = facts.ends.get(n)
        attempts.append(_attempt(n, facts.claims[n], None if end else facts.beats.get(n), end))
        if end is not None:
            state = move(state, _event(end, n, allowed))
    last = len(attempts)
    latest = facts.ends.get(last) or facts.beats.get(last) or {}  # the end tells the last progress itself
    return Job(
        id=facts.job["id"],
        kind=facts.job["kind"],
        subject=facts.job["subject"],
        lane=facts.job["lane"],
        state=state,
        request=facts.job.get("request", {}),
        attempts_allowed=allowed,
        posted_at=parse_moment(facts.job["posted_at"]),
        posted_by=facts.job.get("posted_by", ""),
        attempts=tuple(attempts),
        progress=_reading(latest.get("progress")),
        result=facts.ends.get(last, {}).get("result"),
        cancel_asked=facts.cancel is not None,
        dismissed=facts.dismissed is not None,
    )


def after_beat(job: Job, beat: Mapping[str, Any]) -> Job:
    """A running job once its holder was heard of."""
    last = job.attempts[-1]
    heard = replace(last, last_sign=max(last.started_at, parse_moment(beat["at"])))
    return replace(job, attempts=(*job.attempts[:-1], heard), progress=_reading(beat.get("progress")))


def after_end(job: Job, end: Mapping[str, Any]) -> Job:
    """A running job once this fact has ended its attempt."""
    n = len(job.attempts)
    last = job.attempts[-1]
    ended = replace(
        last,
        ended_at=parse_moment(end["at"]),
        outcome=end["outcome"],
        failure_class=end.get("class"),
        message=end.get("message"),
        hint=end.get("hint"),
        not_before=_moment(end.get("not_before")),
    )
    return replace(
        job,
        state=move(job.state, _event(end, n, job.attempts_allowed)),
        attempts=(*job.attempts[:-1], ended),
        progress=_reading(end.get("progress")),
        result=end.get("result"),
    )


def _event(end: Mapping[str, Any], n: int, allowed: int) -> str:
    """What an end does to its job: who loses the last attempt has failed."""
    return "failed" if end["outcome"] == "lost" and n >= allowed else str(end["outcome"])


def _reading(document: Mapping[str, Any] | None) -> Reading:
    known = document or {}
    return Reading(**{name: known[name] for name in Reading.__dataclass_fields__ if name in known})


def _moment(text: str | None) -> datetime | None:
    return parse_moment(text) if text else None


def _attempt(
    n: int, claim: Mapping[str, Any], beat: Mapping[str, Any] | None, end: Mapping[str, Any] | None
) -> Attempt:
    started_at = parse_moment(claim["at"])
    ending = end or {}
    return Attempt(
        n=n,
        started_at=started_at,
        worker=claim.get("worker", ""),
        lease=timedelta(seconds=claim["lease_seconds"]),
        last_sign=max(started_at, parse_moment(beat["at"])) if beat else started_at,
        ended_at=parse_moment(end["at"]) if end else None,
        outcome=ending.get("outcome"),
        failure_class=ending.get("class"),
        message=ending.get("message"),
        hint=ending.get("hint"),
        not_before=_moment(ending.get("not_before")),
    )


@dataclass(frozen=True)
class Ending:
    """How an attempt ends; `not_before` only with `retry`."""

    outcome: Outcome
    failure_class: str | None = None
    message: str | None = None
    hint: str | None = None
    not_before: datetime | None = None
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Backoff:
    """How long a job waits between two attempts: doubling from `first` to `longest`, spread by up to a quarter."""

    first: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(minutes=5)

    def delay(self, n: int, spread: float) -> timedelta:
        """After attempt `n`; `spread` is a random number from 0 to 1 so that many jobs do not return at once."""
        whole = min(self.longest.total_seconds(), self.first.total_seconds() * 2.0 ** min(n - 1, 30))
        return timedelta(seconds=whole * (0.75 + 0.25 * spread))


def after_trouble(job: Job, trouble: Trouble, *, now: datetime, backoff: Backoff, spread: float) -> Ending:
    """How the running attempt of `job` ends when it met `trouble`: tried again, or failed for good.

    It is tried again while the job has attempts left and this class of failure has not used up the tries it is worth.
    """
    n = len(job.attempts)
    same = 1 + sum(1 for attempt in job.attempts[:-1] if attempt.failure_class == trouble.failure_class)
    worth = job.attempts_allowed if trouble.tries is None else min(trouble.tries, job.attempts_allowed)
    ending = Ending("failed", trouble.failure_class, str(trouble), trouble.hint)
    if n >= job.attempts_allowed or same >= worth:
        return ending
    wait = trouble.retry_after if trouble.retry_after is not None else backoff.delay(n, spread)
    return replace(ending, outcome="retry", not_before=now + wait)


@dataclass(frozen=True)
class Posted:
    """The job that a post came to, and whether it was there before (then the caller shares it)."""

    job: Job
    attached: bool
