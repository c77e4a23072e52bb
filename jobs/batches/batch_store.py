"""Posts, finds, lists and cancels batches: each is the fold of what was written down of it and of its job.

A batch has a record, written once; a job of the ledger, whose subject is its id; how it stands, by the attempt that
works on it; and its end, written once. To list batches costs two listings, however many there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from jobs.batches.records import (
    KIND,
    BatchDialect,
    BatchEnd,
    BatchRecord,
    BatchState,
    BatchStatus,
    BatchUse,
    EndStatus,
    Estimate,
    LineCounts,
    LineError,
)
from jobs.core.clock import Clock, parse_moment
from jobs.core.errors import NotFound
from jobs.ledger.job import Job, JobState
from jobs.ledger.ledger import Ledger
from jobs.ledger.open_jobs import OpenJobs
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

ORPHAN_AFTER = timedelta(hours=1)
"""A record for which nobody posted a job by then was broken off."""


@dataclass(frozen=True)
class Batch:
    """A batch as it stands.

    Args:
        record: as it was posted.
        state: by whoever works on it; None while nobody has.
        end: how it ended; None while it goes on.
        job_id: of its job; None where there is none, or none any more.
        cancel_asked: somebody asked for it to stop.
        cancelling_at: when; None where nobody did.
        broke: why its job ended without it, where it did.

    """

    record: BatchRecord
    state: BatchState | None = None
    end: BatchEnd | None = None
    job_id: str | None = None
    cancel_asked: bool = False
    broke: LineError | None = None
    cancelling_at: datetime | None = None

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def status(self) -> BatchStatus:
        if self.end is not None:
            return self.end.status
        if self.broke is not None:
            return "cancelled" if self.cancel_asked and self.broke.code == "cancelled" else "failed"
        if self.cancel_asked:
            return "cancelling"
        return self.state.status if self.state else "validating"

    @property
    def has_ended(self) -> bool:
        return self.end is not None or self.broke is not None

    @property
    def last_state(self) -> BatchState | None:
        """How it stood last."""
        return self.end.state if self.end else self.state

    @property
    def counts(self) -> LineCounts:
        return self.last_state.counts if self.last_state else LineCounts()

    @property
    def use(self) -> BatchUse:
        return self.last_state.use if self.last_state else BatchUse()

    @property
    def estimate(self) -> Estimate | None:
        return self.last_state.estimate if self.last_state else None

    @property
    def errors(self) -> tuple[LineError, ...]:
        if self.end is not None:
            return self.end.errors
        return (self.broke,) if self.broke else ()

    @property
    def note(self) -> str:
        return self.last_state.note if self.last_state else ""

    @property
    def ended_at(self) -> datetime | None:
        return self.end.at if self.end else None


class BatchPage(NamedTuple):
    """Some batches, the newest first, and whether others come after them."""

    batches: list[Batch]
    has_more: bool


class BatchStore:
    """Threads may share one: it remembers nothing. Each method raises `StoreTrouble` when the store fails."""

    def __init__(self, facts: ShrinkingDict, ledger: Ledger, clock: Clock) -> None:
        self._facts = facts
        self._ledger = ledger
        self._open = OpenJobs(facts, clock)
        self._clock = clock

    # -- what people do ------------------------------------------------------------------------------------------------

    def post(self, record: BatchRecord) -> Batch:
        """Write a batch down, and post its job. Once this has returned, it ends, whatever happens. Posted again under
        the same id, it is the one that is there."""
        self._facts.put(keys.batch(record.id), record.as_json(), skip_if_exists=True)
        posted = self._ledger.post(KIND, record.id, {}, by=record.posted_by)
        return Batch(record, job_id=posted.job.id)

    def find(self, id: str) -> Batch | None:
        """The batch of this id; None where there is none. Five reads while it goes on, two once it has ended."""
        written = self._facts.get(keys.batch(id))
        if written is None:
            return None
        record = BatchRecord.from_json(written)
        end = _end(self._facts.get(keys.batch_end(id)))
        if end is not None:
            return Batch(record, end=end)
        state = _state(self._facts.get(keys.batch_state(id)))
        pointer = self._facts.get(keys.live(KIND, id))
        entry = self._open.find(f"{pointer['line']}-{pointer['generation']}") if pointer else None
        if entry is not None and entry.is_posted:
            return self._with_cancel(Batch(record, state, None, entry.id, entry.cancel_asked))
        job = self._ledger.reader.latest(KIND, id) if pointer else None
        if job is None and self._clock.now() - record.created_at < ORPHAN_AFTER:
            return Batch(record, state)
        return _broken(record, state, _end(self._facts.get(keys.batch_end(id))), job)  # written before its job ended

    def get(self, id: str) -> Batch:
        """The batch of this id.

        Raises:
            NotFound: there is none.

        """
        found = self.find(id)
        if found is None:
            raise NotFound(f"there is no batch {id!r}", hint="`ollama-modal batches` lists them")
        return found

    def list(
        self,
        owner: str | None = None,
        *,
        dialect: BatchDialect | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
    ) -> BatchPage:
        """Batches, or those of one owner, the newest first.

        Args:
            owner: whose; None for all.
            dialect: of their lines; None for all.
            after: the id of the last one that is known already.
            before: instead, the id of the first one that is known already: those right before it.
            limit: so many at most.

        Raises:
            NotFound: there is no batch of that id among them.

        """
        facts = dict(self._facts.items(keys.BATCH, keys.BATCH_STATE, keys.BATCH_END))
        jobs = {entry.subject: entry for entry in self._open.all().jobs if entry.kind == KIND}
        records = [BatchRecord.from_json(value) for key, value in facts.items() if key.startswith(keys.BATCH)]
        mine = [each for each in records if owner in {None, each.owner} and dialect in {None, each.dialect}]
        mine.sort(key=lambda each: (each.created_at, each.id), reverse=True)
        first, last = 0, limit
        if (known := after or before) is not None:
            place = next((n for n, each in enumerate(mine) if each.id == known), None)
            if place is None:
                raise NotFound(f"there is no batch {known[:64]!r} to go on from")
            first, last = (place + 1, place + 1 + limit) if after else (max(0, place - limit), place)
        batches = []
        for record in mine[first:last]:
            end = _end(facts.get(keys.batch_end(record.id)))
            entry = jobs.get(record.id)
            if end is None and entry is None:  # ended just now, or broke
                batches.append(self.find(record.id) or Batch(record))
                continue
            state = _state(facts.get(keys.batch_state(record.id)))
            batch = Batch(record, state, end, entry.id if entry else None, bool(entry and entry.cancel_asked))
            batches.append(self._with_cancel(batch))
        return BatchPage(batches, first > 0 if before and not after else last < len(mine))

    def cancel(self, id: str, *, by: str) -> Batch:
        """Ask for a batch to stop: what is done is kept, and can be read once it has ended. One that has ended stays.

        Raises:
            NotFound: there is none.

        """
        batch = self.get(id)
        if batch.has_ended or batch.job_id is None:
            return batch
        job = self._ledger.cancel(batch.job_id, by=by)
        return self.get(id) if job.has_ended else self._with_cancel(replace(batch, cancel_asked=True))

    # -- what the attempt does that holds it ---------------------------------------------------------------------------

    def say(self, id: str, state: BatchState) -> None:
        """Write down how it stands; whoever does so knows that it holds the batch."""
        self._facts.put(keys.batch_state(id), state.as_json())

    def end(self, id: str, end: BatchEnd) -> BatchEnd:
        """Write down how it ended; the answer is how it did, by whoever was first."""
        if self._facts.put(keys.batch_end(id), end.as_json(), skip_if_exists=True):
            return end
        return _end(self._facts.get(keys.batch_end(id))) or end

    def needs_file(self, file_id: str) -> Batch | None:
        """A batch that has not ended and reads its lines from this file; None where none does. Two listings."""
        return next((b for b in self.all().values() if b.record.input_file_id == file_id and not b.has_ended), None)

    # -- what the night does -------------------------------------------------------------------------------------------

    def all(self) -> Mapping[str, Batch]:
        """All batches, by their ids."""
        return {each.id: each for each in self.list(limit=1 << 40).batches}

    def settle(
        self, batch: Batch, output: str | None = None, errors: str | None = None, *, counts: LineCounts | None = None
    ) -> BatchEnd | None:
        """Write down that a batch ended whose job ended without saying so. None for others.

        Args:
            batch: as it was found.
            output: the id of the file of its results.
            errors: of what failed.
            counts: of its lines, where somebody counted them anew.

        """
        if batch.broke is None:
            return None
        now = self._clock.now()
        status: EndStatus = "cancelled" if batch.status == "cancelled" else "failed"
        state = (batch.state or BatchState(status, "", now)).with_status(status, now)
        if counts is not None and counts.total:
            state = replace(state, counts=counts)
        said = () if status == "cancelled" else (batch.broke,)
        return self.end(batch.id, BatchEnd(status, now, state, said, output, errors))

    def remove(self, id: str) -> None:
        """Forget a batch that has ended."""
        self._facts.remove_all([keys.batch_pass(id), keys.batch_state(id), keys.batch_end(id), keys.batch(id)])

    def _with_cancel(self, batch: Batch) -> Batch:
        """With the time at which somebody asked for it to stop: of those that somebody did, and that have not ended."""
        if not batch.cancel_asked or batch.end is not None or batch.job_id is None:
            return batch
        asked = self._facts.get(keys.cancel(batch.job_id))
        return replace(batch, cancelling_at=parse_moment(asked["at"])) if asked else batch


def _state(document: Any) -> BatchState | None:
    return None if document is None else BatchState.from_json(document)


def _end(document: Any) -> BatchEnd | None:
    return None if document is None else BatchEnd.from_json(document)


def _broken(record: BatchRecord, state: BatchState | None, end: BatchEnd | None, job: Job | None) -> Batch:
    """A batch that no open job works on, as far as is known."""
    broke = None
    if end is None and job is None:
        broke = LineError("lost", "nothing is known any more of the job that ran it")
    elif end is None and job is not None and job.has_ended:
        last = job.attempts[-1]
        code = "cancelled" if job.state is JobState.CANCELLED else last.failure_class or "bug"
        broke = LineError(code, last.message or f"its job ended as {job.state}")
    return Batch(record, state, end, job.id if job else None, bool(job and job.cancel_asked), broke)
