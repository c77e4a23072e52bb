"""A job's life as server-sent events: each move of its state, and how far it has come in between.

An event's id is derived from the facts alone, `MOVES.MILLISECONDS`: how many claims and ends the job has, and how long
its attempt had run when it last beat. So it means the same to every gateway at any time, and a client that was cut off
goes on after the last one it saw: no move is missed or told twice, of the progress only the newest is told.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from jobs.core.errors import BadRequest
from jobs.core.progress import Reading
from jobs.ledger.job import Job, JobState

STILL_HERE = b": still here\n\n"
"""Lets a proxy know that the stream lives, and us that the reader does."""

COME_BACK = b"retry: 2000\n\n"

ID = r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,11})"


@dataclass(frozen=True, order=True)
class Revision:
    """How far a job's facts had come."""

    moves: int
    beat: int = 0

    @classmethod
    def of(cls, job: Job) -> Self:
        moves = sum(1 if attempt.outcome is None else 2 for attempt in job.attempts)
        if job.state is not JobState.RUNNING:
            return cls(moves)
        last = job.attempts[-1]
        return cls(moves, (last.last_sign - last.started_at) // timedelta(milliseconds=1))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an event's id.

        Raises:
            BadRequest: it is none.

        """
        match = re.fullmatch(ID, text, re.ASCII)
        if match is None:
            raise BadRequest(f"Last-Event-ID {text[:40]!r} is not the id of an event", hint="leave it out to hear all")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.moves}.{self.beat}"


def news(job: Job, seen: Revision | None) -> Iterator[tuple[Revision, Job]]:
    """What has happened after `seen`, or since the job was posted: each move with the job as it stood then."""
    now = Revision.of(job)
    for moves in range(0 if seen is None else seen.moves + 1, now.moves + 1):
        move = Revision(moves)
        yield move, job if move == now else as_it_stood(job, moves)
    if now.beat and (seen is None or now > seen):
        yield now, job


def as_it_stood(job: Job, moves: int) -> Job:
    """The job after so many of its moves; how far it had come is not kept."""
    begun = job.attempts[: (moves + 1) // 2]
    if moves % 2:
        *ended, last = begun
        running = replace(
            last, ended_at=None, outcome=None, failure_class=None, message=None, hint=None, not_before=None
        )
        attempts, state = (*ended, running), JobState.RUNNING
    else:
        attempts, state = begun, JobState.WAITING if moves else JobState.QUEUED
    return replace(job, state=state, attempts=attempts, progress=Reading(), result=None, cancel_asked=False)


def frame(revision: Revision, job: Job) -> bytes:
    """One event. `move` when the state changed, `progress` when only the numbers did."""
    event = "progress" if revision.beat else "move"
    return f"id: {revision}\nevent: {event}\ndata: {json.dumps(job.as_json())}\n\n".encode()
