"""What only all jobs together tell."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.core.errors import BadRequest
from jobs.core.progress import Reading
from jobs.ledger.all_jobs import AllJobs, JobFilter, before_cursor, waits_for
from jobs.ledger.dead_letters import FOLDED_FROM, dead, groups
from jobs.ledger.job import Ending, Job, JobState
from jobs.ledger.kinds import KINDS
from tests.support.stores import Store, claimed

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
FAILED = Ending("failed", "network", "cut")


def job(
    id: str, at: float = 0, *, kind: str = "pull", subject: str = "a:latest", state: JobState = JobState.SUCCEEDED
) -> Job:
    posted_at = EPOCH + timedelta(seconds=at)
    return Job(id, kind, subject, KINDS[kind].lane, state, {}, 3, posted_at, "test")


def end(store: Store, kind: str, subject: str, ending: Ending) -> Job:
    ledger = store.ledger()
    id = ledger.post(kind, subject, {"model": subject}, by="test").job.id
    store.clock.wait(1)
    return ledger.end(claimed(ledger, id), ending, Reading())


def test_what_nothing_supersedes_is_current(store: Store) -> None:
    """Of the jobs of a kind about a model the last one is current; what changed its weights supersedes the others."""
    old, verify = end(store, "pull", "a:latest", FAILED), end(store, "verify", "a:latest", FAILED)
    new = end(store, "pull", "a:latest", FAILED)
    other = end(store, "delete", "b:latest", FAILED)
    jobs = store.ledger().reader.jobs()
    told = AllJobs.of(jobs)

    assert told.current == {new.id, other.id}
    assert not {old.id, verify.id} & told.current
    assert [(each.kind, len(each.jobs)) for each in groups(dead(jobs))] == [("delete", 1), ("pull", 1)]


def test_failures_are_grouped_by_kind_and_class(store: Store) -> None:
    """The largest group first, with its newest job; many are folded, few are not, and a group has its remedy."""
    lost = [end(store, "pull", f"m{number}:latest", FAILED) for number in range(FOLDED_FROM)]
    end(store, "pull", "x:latest", Ending("failed", "not_found", "no such model"))
    end(store, "delete", "y:latest", FAILED)
    network, *few = groups(dead(store.ledger().reader.jobs()))

    assert (network.kind, network.failure_class, network.newest.id) == ("pull", "network", lost[-1].id)
    assert (network.is_folded, network.is_worth_retrying()) == (True, True)
    assert "retry them all" in network.remedy
    assert {(each.kind, each.failure_class): (each.is_folded, each.is_worth_retrying()) for each in few} == {
        ("pull", "not_found"): (False, False),
        ("delete", "network"): (False, False),  # it takes weights away
    }
    assert "ollama-modal retry" not in "".join(each.remedy for each in few)


def test_what_waits_names_what_it_waits_for(store: Store) -> None:
    """A warm-up waits for the pull of its model, as long as that goes on, and for that of no other one."""
    ledger = store.ledger()
    warm, other = (ledger.post("warm", f"{name}:latest", {}, by="test").job for name in "ab")
    pull = ledger.post("pull", "a:latest", {}, by="test").job

    told = waits_for(ledger.reader.jobs(), KINDS)
    assert {id: job.id for id, job in told.items()} == {warm.id: pull.id}
    assert other.id not in told
    ledger.end(claimed(ledger, pull.id), Ending("succeeded"), Reading())
    assert waits_for(ledger.reader.jobs(), KINDS) == {}


@pytest.mark.parametrize(
    ("fitting", "expected"),
    [
        (JobFilter(text="LLAMA"), ["b-1", "a-1"]),
        (JobFilter(text="llama pull"), ["a-1"]),
        (JobFilter(text="c-"), ["c-1"]),
        (JobFilter(states=frozenset({JobState.RUNNING})), ["b-1"]),
        (JobFilter(kind="verify", begin="c"), ["c-1"]),
        (JobFilter(ids=frozenset({"a-1"})), ["a-1"]),
        (JobFilter(text="llama nothing"), []),
    ],
)
def test_a_filter_fits_what_it_says(fitting: JobFilter, expected: list[str]) -> None:
    """Words are looked for in kind, subject and id, in capitals or not; each condition narrows further."""
    jobs = [
        job("c-1", 3, kind="verify", subject="qwen3:latest"),
        job("b-1", 2, kind="warm", subject="llama3.2:latest", state=JobState.RUNNING),
        job("a-1", 1, subject="llama3.2:latest"),
    ]
    assert [each.id for each in jobs if fitting.fits(each)] == expected


@pytest.mark.parametrize("cursor", ["", "x", ".a-1", "12", "12.", "٣.a-1", "123456789012345.a-1"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    """A cursor that no page gave is a mistake of the caller."""
    with pytest.raises(BadRequest, match="is no cursor"):
        before_cursor(cursor)
