"""A batch is the fold of its record, its state, its end and its job; to list many takes two trips."""

from datetime import timedelta
from typing import Any

import pytest

from jobs.batches.batch_store import ORPHAN_AFTER, Batch, BatchStore
from jobs.batches.records import (
    BatchEnd,
    BatchRecord,
    BatchState,
    BatchStatus,
    BatchUse,
    EndStatus,
    LineCounts,
    LineError,
    new_batch_id,
    new_file_id,
)
from jobs.core.errors import NotFound, StoreUnavailable
from jobs.core.progress import Reading
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.batch_files import CHAT
from tests.support.counting_stores import CountingStore
from tests.support.failing_stores import TroubledDict

LEASE = timedelta(minutes=1)
ENDS: tuple[EndStatus, ...] = ("completed", "failed", "expired", "cancelled")


class Scene:
    """A deployment's store, whose trips are counted, with batches in it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.kept = CountingStore(self.clock)
        self.ledger = Ledger(self.kept.queue, self.kept.facts, self.clock)
        self.store = BatchStore(self.kept.facts, self.ledger, self.clock)

    def record(self, owner: str = "ann", **more: Any) -> BatchRecord:
        now = self.clock.now()
        return BatchRecord(
            id=new_batch_id("openai"),
            dialect="openai",
            owner=owner,
            input_file_id=more.pop("input_file_id", None) or new_file_id(),
            endpoint=CHAT,
            completion_window="24h",
            created_at=now,
            expires_at=now + timedelta(hours=24),
            posted_by="test",
            **more,
        )

    def posted(self, owner: str = "ann", **more: Any) -> Batch:
        self.clock.tick(1)
        return self.store.post(self.record(owner, **more))

    def claimed(self, batch: Batch) -> Claim:
        assert batch.job_id is not None
        claim = self.ledger.claim(batch.job_id, worker="w", lease=LEASE)
        assert claim is not None
        return claim

    def state(self, status: BatchStatus = "in_progress", **more: Any) -> BatchState:
        return BatchState(status, "w", self.clock.now(), LineCounts(10, 4, 1), BatchUse(30, 40, 5.0), **more)

    def ended(self, batch: Batch, status: EndStatus = "completed") -> BatchEnd:
        """It ends as an attempt ends it."""
        claim = self.claimed(batch)
        end = BatchEnd(status, self.clock.now(), self.state(), output_file_id="file-1")
        self.store.end(batch.id, end)
        self.ledger.end(claim, Ending("cancelled" if status == "cancelled" else "succeeded"), Reading())
        return end


@pytest.fixture
def scene() -> Scene:
    return Scene()


# -- its states --------------------------------------------------------------------------------------------------------


def test_from_its_post_to_its_end(scene: Scene) -> None:
    """It is validating until an attempt says more, then what that says, and in the end what was written of the end."""
    batch = scene.posted(metadata={"a": "b"})
    assert (batch.status, batch.counts, batch.has_ended) == ("validating", LineCounts(), False)
    assert scene.store.get(batch.id) == batch

    claim = scene.claimed(batch)
    scene.store.say(batch.id, scene.state(note="waits for its window"))
    found = scene.store.get(batch.id)
    assert (found.status, found.counts, found.use) == ("in_progress", LineCounts(10, 4, 1), BatchUse(30, 40, 5.0))
    assert found.note == "waits for its window"

    end = BatchEnd("completed", scene.clock.now(), scene.state("completed"), output_file_id="file-1")
    assert scene.store.end(batch.id, end) == end
    scene.ledger.end(claim, Ending("succeeded"), Reading())
    found = scene.store.get(batch.id)
    assert (found.status, found.end, found.ended_at) == ("completed", end, end.at)
    assert found.record == batch.record


def test_it_has_one_end(scene: Scene) -> None:
    """Whoever ends it second is told how it ended."""
    batch = scene.posted()
    first, second = (BatchEnd(each, scene.clock.now(), scene.state()) for each in ("completed", "failed"))

    assert scene.store.end(batch.id, first) == first
    assert scene.store.end(batch.id, second) == first
    assert scene.store.get(batch.id).end == first


def test_posted_twice_it_is_one(scene: Scene) -> None:
    """Whoever got no answer may ask again with the same id."""
    record = scene.record()

    assert scene.store.post(record).job_id == scene.store.post(record).job_id
    assert len(scene.store.list().batches) == 1


def test_it_is_cancelled_in_two_steps(scene: Scene) -> None:
    """It is cancelling until a worker has ended it, since when is told; what is done is kept. Then a cancel is
    nothing."""
    batch = scene.posted()
    scene.clock.tick(5)
    asked = scene.store.cancel(batch.id, by="ann")
    for found in (asked, scene.store.get(batch.id), *scene.store.list().batches):
        assert (found.status, found.cancelling_at) == ("cancelling", scene.clock.now())
    scene.clock.tick(5)

    end = scene.ended(batch, "cancelled")
    for found in (scene.store.cancel(batch.id, by="ann"), scene.store.get(batch.id), *scene.store.list().batches):
        assert (found.status, found.end) == ("cancelled", end)


def test_none_of_that_id(scene: Scene) -> None:
    """It is told."""
    assert scene.store.find("batch_1") is None
    with pytest.raises(NotFound, match="batch_1"):
        scene.store.get("batch_1")
    with pytest.raises(NotFound, match="batch_1"):
        scene.store.cancel("batch_1", by="ann")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_job_that_failed_without_a_word(scene: Scene) -> None:
    """Its batch has failed for the reason that its job has; whoever settles that writes it down, once."""
    batch = scene.posted()
    scene.store.say(batch.id, scene.state())
    scene.ledger.end(scene.claimed(batch), Ending("failed", "bug", "a line kills its worker"), Reading())

    for found in (scene.store.get(batch.id), *scene.store.list().batches):
        assert (found.status, found.has_ended) == ("failed", True)
        assert found.errors == (LineError("bug", "a line kills its worker"),)
        assert found.counts == LineCounts(10, 4, 1)
    end = scene.store.settle(scene.store.get(batch.id))
    found = scene.store.get(batch.id)

    assert found.end == end is not None
    assert (found.status, found.errors) == ("failed", (LineError("bug", "a line kills its worker"),))
    assert found.counts == LineCounts(10, 4, 1)
    assert scene.store.settle(found) is None


def test_a_post_that_broke_off(scene: Scene) -> None:
    """A record without a job is on its way for an hour; after that it is lost, and says so."""
    record = scene.record()
    scene.kept.facts.put(keys.batch(record.id), record.as_json())

    for found in (scene.store.get(record.id), *scene.store.list().batches):
        assert found.status == "validating"
    scene.clock.tick(ORPHAN_AFTER.total_seconds() + 1)
    for found in (scene.store.get(record.id), *scene.store.list().batches):
        assert (found.status, found.errors[0].code) == ("failed", "lost")
    assert scene.store.post(record).status == "validating"


@pytest.mark.parametrize("step", range(1, 9))
def test_a_store_that_fails_at_any_step(step: int) -> None:
    """A post whose store fails in between is an error; asked again, it is one batch with one job."""
    scene = Scene()
    asked = 0

    def meet(_: str) -> None:
        nonlocal asked
        asked += 1
        if asked == step:
            raise StoreUnavailable("not now")

    facts = TroubledDict(scene.kept.facts, meet)
    store = BatchStore(facts, Ledger(scene.kept.queue, facts, scene.clock), scene.clock)
    record = scene.record()
    try:
        batch = store.post(record)
    except StoreUnavailable:
        batch = store.post(record)

    assert [each.id for each in scene.store.list().batches] == [record.id]
    assert scene.claimed(batch).n == 1


# -- lists -------------------------------------------------------------------------------------------------------------


def test_a_page_after_the_other(scene: Scene) -> None:
    """The newest first; each owner sees its own."""
    ids = [scene.posted("ann" if n % 3 else "bob").id for n in range(9)][::-1]
    mine = [id for n, id in enumerate(ids) if (8 - n) % 3]

    assert [each.id for each in scene.store.list().batches] == ids
    first = scene.store.list("ann", limit=4)
    rest = scene.store.list("ann", after=first.batches[-1].id, limit=4)
    assert [each.id for each in first.batches] == mine[:4]
    assert [each.id for each in rest.batches] == mine[4:]
    assert (first.has_more, rest.has_more) == (True, False)
    back = scene.store.list("ann", before=rest.batches[0].id, limit=3)
    assert [each.id for each in back.batches] == mine[1:4]
    assert back.has_more


def test_to_list_many_is_two_trips(scene: Scene) -> None:
    """One to the batches, one to the open jobs; of those that go on and of those that ended."""
    for n in range(6):
        batch = scene.posted()
        if n % 2:
            scene.ended(batch)
        scene.kept.trips.begin()
        assert len(scene.store.list(limit=100).batches) == n + 1
        assert len(scene.kept.trips) == 2, scene.kept.trips.asked


def test_to_look_at_one_is_few_trips(scene: Scene) -> None:
    """Five while it goes on, two when it has ended."""
    batch = scene.posted()
    scene.kept.trips.begin()
    scene.store.get(batch.id)
    assert len(scene.kept.trips) == 5, scene.kept.trips.asked

    scene.ended(batch)
    scene.kept.trips.begin()
    scene.store.get(batch.id)
    assert len(scene.kept.trips) == 2, scene.kept.trips.asked


# -- what the night asks -----------------------------------------------------------------------------------------------


def test_a_file_is_needed_until_its_batches_have_ended(scene: Scene) -> None:
    """By any of them."""
    first, second = (scene.posted(input_file_id="file-1") for _ in range(2))
    scene.ended(first)
    needs = scene.store.needs_file("file-1")
    assert needs is not None
    assert needs.id == second.id
    scene.ended(second)

    assert scene.store.needs_file("file-1") is None


@pytest.mark.parametrize("status", ENDS)
def test_a_batch_is_forgotten(status: EndStatus, scene: Scene) -> None:
    """Nothing of it is left among batches."""
    batch = scene.posted()
    scene.store.say(batch.id, scene.state())
    scene.ended(batch, status)
    assert scene.store.all().keys() == {batch.id}
    scene.store.remove(batch.id)

    assert scene.store.find(batch.id) is None
    assert scene.kept.sorts["batches"].kept == {}
