"""Each act is written down, before it and again with its outcome: whoever dies, is refused, or finds the store away."""

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from jobs.access.audit import COUNTED_FOR, MOST_COUNTED, Audit, PostedAct, entry_of, record_posted
from jobs.access.audit_line import LONGEST, AuditLine
from jobs.access.audit_thread import AuditThread
from jobs.access.keys.proofs import new_key
from jobs.core.errors import Forbidden, NotFound, Refused, StoreUnavailable
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.counting_stores import CountingStore
from tests.support.failing_stores import TroubledDict, TroubledQueue
from tests.support.stores import Store
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

BY = {"who": "alice", "request": "r-1", "act": "pull", "subject": "llama3.2:latest"}


class Died(BaseException):
    """A kill: nothing of ours may catch it."""


def lines(store: Store) -> list[AuditLine]:
    found = [AuditLine.of_entry(key, fact) for key, fact in sorted(store.facts.items(keys.AUDIT))]
    assert all(found)
    return [line for line in found if line]


def told(store: Store) -> list[tuple[str, str, str]]:
    return [(line.act, line.outcome, line.why) for line in lines(store)]


def test_an_act_is_written_before_it_is_done_and_again_with_its_outcome(store: Store) -> None:
    """While it is under way its line says that it was begun; then who did what, by which request, and how it went."""
    audit = Audit(store.facts, store.clock)
    with audit.act(**BY) as act:
        assert told(store) == [("pull", "begun", "")]
        act.posted("abc-1", attached=True)
    (line,) = lines(store)
    assert (line.who, line.request, line.subject) == ("alice", "r-1", "llama3.2:latest")
    assert (line.outcome, line.job, line.at) == ("attached", "abc-1", store.clock.now())
    with audit.act(**BY):
        pass
    assert [outcome for _, outcome, _ in told(store)].count("done") == 1


@pytest.mark.parametrize(
    ("error", "outcome"), [(Refused("no"), "refused"), (StoreUnavailable("away"), "failed"), (OSError("x"), "failed")]
)
def test_what_goes_wrong_is_told_by_its_class(store: Store, error: Exception, outcome: str) -> None:
    """A refusal is told as one, anything else as an act of which nobody knows what it did; both are raised on."""
    with pytest.raises(type(error)), Audit(store.facts, store.clock).act(**BY):
        raise error
    assert told(store) == [("pull", outcome, type(error).__name__)]


def test_an_act_that_cannot_be_written_down_is_not_done(store: Store) -> None:
    """With the store away, what was to be done is not begun."""
    clock = HandClock()

    def away(_: str) -> None:
        raise StoreUnavailable("away")

    done: list[str] = []
    with pytest.raises(StoreUnavailable), Audit(TroubledDict(store.facts, away), clock).act(**BY):
        done.append("done")
    assert done == []
    assert told(store) == []


def test_an_outcome_that_cannot_be_written_is_written_when_it_can(store: Store) -> None:
    """The act is done and its caller is answered; its line says that it was begun, until the store is back."""
    is_away: list[bool] = []

    def meet(_: str) -> None:
        if is_away:
            raise StoreUnavailable("away")

    audit = Audit(TroubledDict(store.facts, meet), HandClock())
    with audit.act(**BY) as act:
        act.posted("abc-1")
        is_away.append(True)
    assert told(store) == [("pull", "begun", "")]
    is_away.clear()
    audit.write_rest()
    assert told(store) == [("pull", "posted", "")]


@pytest.mark.parametrize("step", [*range(1, 12), 100])
def test_whoever_dies_leaves_no_job_without_a_line(store: Store, step: int) -> None:
    """Killed before any operation of the store, a post that can be found has a line that says who was about to."""
    left = [step]

    def meet(_: str) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Died

    facts = TroubledDict(store.facts, meet)
    ledger = Ledger(TroubledQueue(store.queue, meet), facts, store.clock)
    audit = Audit(facts, store.clock)
    with suppress(Died), audit.act(**BY) as act:
        act.posted(ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="alice").job.id)
    is_posted = bool(list(store.facts.keys(keys.JOB)))
    outcomes = [line.outcome for line in lines(store)]
    assert outcomes in (["begun"], ["posted"]) or (not is_posted and outcomes == [])
    assert step < 100 or outcomes == ["posted"]


def test_an_act_costs_its_caller_one_trip() -> None:
    """The line before is one round trip; what comes after, nobody waits for, and is one more."""
    clock = HandClock()
    store = CountingStore(clock)
    waiting: list[Callable[[], None]] = []
    audit = Audit(store.facts, clock, waiting.append)
    with audit.act(**BY):
        pass
    assert len(store.trips.asked) == 1
    for work in waiting:
        work()
    assert len(store.trips.asked) == 2


def test_a_schedule_writes_all_that_it_posted_by_one_trip() -> None:
    """However many jobs a night posts, who did is one round trip; a night that posts nothing makes none."""
    clock = HandClock()
    store = CountingStore(clock)
    record_posted(store.facts, clock.now(), who="nightly", request="night", posted=())
    assert store.trips.asked == []
    posted = [PostedAct("pull", f"m{n}", f"j-{n}", attached=n == 0) for n in range(30)]
    record_posted(store.facts, clock.now(), who="nightly", request="night", posted=posted)
    assert len(store.trips.asked) == 1
    entry = entry_of(clock.now(), who="window", request="tick", act="window-open", subject="a10g")
    assert [AuditLine.of_entry(key, fact) for key, fact in entry.items()] != [None]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_refusals_are_counted(store: Store) -> None:
    """Ten thousand requests of a caller who may not are one line that says how many, and a handful of writes."""
    clock = HandClock()
    writes: list[str] = []
    audit = Audit(TroubledDict(store.facts, writes.append), clock)
    for _ in range(10_000):
        audit.refused(who="bob", request="r", act="pull", subject="", error=Forbidden("no"))
        clock.wait(0.1)
    audit.write_rest()
    assert [(line.who, line.why, line.count) for line in lines(store)] == [("bob", "Forbidden", 10_000)]
    assert len(writes) <= 10_000 * 0.1 / COUNTED_FOR.total_seconds() + 2


def test_refusals_of_another_day_act_caller_or_class_are_another_line(store: Store) -> None:
    """What is one line is one caller, act and class, of one day."""
    clock = HandClock()
    audit = Audit(store.facts, clock)
    for who, act, error in (("bob", "pull", Forbidden), ("eve", "pull", Forbidden), ("bob", "delete", NotFound)):
        audit.refused(who=who, request="r", act=act, subject="", error=error("no"))
    clock.wait(86_400)
    audit.refused(who="bob", request="r", act="pull", subject="", error=Forbidden("no"))
    assert len(lines(store)) == 4


def test_nobody_fills_the_store_with_subjects(store: Store) -> None:
    """Whatever a caller names, a process tells so many refusals of a day apart; the others are one."""
    audit = Audit(store.facts, HandClock())
    for number in range(MOST_COUNTED + 500):
        audit.refused(who="bob", request="r", act="pull", subject=f"m{number}", error=NotFound("no"))
    audit.write_rest()
    found = lines(store)
    assert len(found) == MOST_COUNTED + 1
    assert sum(line.count for line in found) == MOST_COUNTED + 500


def test_a_name_of_any_length_and_kind_is_kept_short_and_plain(store: Store) -> None:
    """A subject that would move the cursor, or is a megabyte, is a short line that is what it looks like."""
    subject = "\x1b[2J\n" + "x" * 1_000_000
    Audit(store.facts, store.clock).record(who="alice", request="r-1", act="pull", subject=subject)
    (line,) = lines(store)
    assert len(line.subject) <= LONGEST + 8
    assert line.subject.isprintable()


# -- the thread --------------------------------------------------------------------------------------------------------


def test_the_thread_writes_outcomes_and_what_is_left_at_its_end(store: Store) -> None:
    """Nobody waits for an outcome; a count that was not due is written when the thread ends."""
    thread = AuditThread(store.facts, store.clock)
    thread.start()
    with thread.audit.act(**BY):
        pass
    until(lambda: told(store) == [("pull", "done", "")], "the outcome")
    for _ in range(3):
        thread.audit.refused(who="bob", request="r", act="pull", subject="", error=Forbidden("no"))
    thread.stop()
    assert [line.count for line in lines(store) if line.who == "bob"] == [3]
    assert "audit" not in {each.name for each in threading.enumerate()}


def test_what_looks_like_a_key_is_in_no_line(store: Store) -> None:
    """A key that somebody put where a name belongs is cut out of the line, which tells that there was one."""
    key = new_key()
    audit = Audit(store.facts, store.clock)
    audit.record(who="alice", request=f"ollama-modal pull {key}", act="pull", subject=f"hf.co/{key}")
    audit.refused(who="alice", request="r-2", act="delete", subject=key, error=Forbidden("no"))
    audit.write_rest()
    assert sorted(line.subject for line in lines(store)) == ["hf.co/omk_…", "omk_…"]
    assert key not in str(dict(store.facts.items()))
