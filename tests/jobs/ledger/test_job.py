"""The fold from facts to a job: the arrows of the diagram in `jobs/ledger/job.py`, by their letters."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.errors import BadName, Corrupt, Killed, NotFound, TooManyRequests, Trouble, Unreachable
from jobs.ledger.job import OUTCOMES, Attempt, Backoff, IllegalMove, Job, JobFacts, JobState, after_trouble, fold, move

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AT = "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("letter", "state", "event", "to"),
    [
        ("a", JobState.QUEUED, "claim", JobState.RUNNING),
        ("b", JobState.RUNNING, "succeeded", JobState.SUCCEEDED),
        ("c", JobState.RUNNING, "failed", JobState.FAILED),
        ("d", JobState.RUNNING, "retry", JobState.WAITING),
        ("d", JobState.RUNNING, "lost", JobState.WAITING),
        ("e", JobState.WAITING, "claim", JobState.RUNNING),
        ("f", JobState.RUNNING, "cancelled", JobState.CANCELLED),
    ],
)
def test_each_arrow_leads_where_it_is_drawn(letter: str, state: JobState, event: str, to: JobState) -> None:
    """Every arrow of the diagram is a move."""
    assert move(state, event) is to, letter


def test_nothing_moves_but_along_the_arrows() -> None:
    """Seven pairs of a state and an event are moves; every other one is illegal, and ended states have none."""
    pairs = [(state, event) for state in JobState for event in ("claim", *OUTCOMES)]
    legal = [pair for pair in pairs if is_move(*pair)]
    assert len(legal) == 7
    assert {state for state, _ in legal} == {JobState.QUEUED, JobState.RUNNING, JobState.WAITING}
    with pytest.raises(IllegalMove, match="a job that is succeeded cannot move by 'claim'"):
        move(JobState.SUCCEEDED, "claim")


def is_move(state: JobState, event: str) -> bool:
    try:
        move(state, event)
    except IllegalMove:
        return False
    return True


def facts(*outcomes: str | None, allowed: int = 5) -> JobFacts:
    """A job with one attempt for each outcome; None is an attempt that still runs."""
    told: dict[str, Any] = {"id": "x-1", "kind": "pull", "subject": "m", "lane": "weights", "posted_at": AT}
    return JobFacts(
        job={**told, "attempts_allowed": allowed},
        claims={n: {"at": AT, "lease_seconds": 30, "worker": "w"} for n in range(1, len(outcomes) + 1)},
        ends={n: {"at": AT, "outcome": outcome} for n, outcome in enumerate(outcomes, 1) if outcome},
    )


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ((), JobState.QUEUED),
        ((None,), JobState.RUNNING),
        (("retry",), JobState.WAITING),
        (("lost",), JobState.WAITING),
        (("retry", "lost", None), JobState.RUNNING),
        (("retry", "succeeded"), JobState.SUCCEEDED),
        (("lost", "failed"), JobState.FAILED),
        (("retry", "cancelled"), JobState.CANCELLED),
        (("lost", "lost", "lost", "lost", "lost"), JobState.FAILED),
    ],
)
def test_facts_fold_to_a_state(outcomes: tuple[str | None, ...], state: JobState) -> None:
    """The state follows from the attempts and how they ended; losing the last attempt allowed is a failure."""
    job = fold(facts(*outcomes))
    assert job.state is state
    assert [attempt.outcome for attempt in job.attempts] == list(outcomes)


@given(st.lists(st.sampled_from([*OUTCOMES, None]), max_size=6), st.integers(1, 6))
def test_folding_tells_a_job_or_refuses(outcomes: list[str | None], allowed: int) -> None:
    """Any facts fold to a job whose end agrees with its last attempt, or are refused as an illegal move."""
    try:
        job = fold(facts(*outcomes, allowed=allowed))
    except IllegalMove:
        return
    assert job.has_ended == (job.ended_at is not None)
    assert len(job.attempts) == len(outcomes)
    assert job.as_json()["state"] == str(job.state)


@given(st.lists(st.sampled_from(["retry", "lost"]), max_size=3), st.sampled_from(["succeeded", "failed", "cancelled"]))
def test_an_ended_job_is_read_back(before: list[str], last: str) -> None:
    """What an ended job tells as JSON makes a job that tells the same."""
    told = fold(facts(*before, last)).as_json()
    assert Job.from_json(told).as_json() == told
    assert Job.from_json(told).lane == "weights"


def test_a_hole_in_the_claims_is_refused() -> None:
    """Attempt 2 without attempt 1 is no history."""
    broken = facts("retry", None)
    del broken.claims[1]
    broken.claims[3] = broken.claims[2]
    with pytest.raises(IllegalMove, match="has no claim 1"):
        fold(broken)


def running(n: int, *, allowed: int, earlier: str | None = None) -> Job:
    attempt = Attempt(
        n=1, started_at=NOW, worker="w", lease=timedelta(seconds=30), last_sign=NOW, failure_class=earlier
    )
    return Job(
        id="x-1",
        kind="pull",
        subject="m",
        lane="weights",
        state=JobState.RUNNING,
        request={},
        attempts_allowed=allowed,
        posted_at=NOW,
        posted_by="test",
        attempts=(attempt,) * n,
    )


@pytest.mark.parametrize(
    ("trouble", "n", "earlier", "outcome"),
    [
        (Unreachable("x"), 1, None, "retry"),
        (Unreachable("x"), 7, "network", "retry"),
        (Unreachable("x"), 8, "network", "failed"),
        (Corrupt("x"), 1, None, "retry"),
        (Corrupt("x"), 2, "corrupt", "failed"),
        (Corrupt("x"), 5, "network", "retry"),
        (NotFound("x"), 1, None, "failed"),
        (BadName("x"), 1, None, "failed"),
        (Killed("x"), 7, "killed", "retry"),
        (Killed("x"), 8, "killed", "failed"),
    ],
)
def test_trouble_ends_an_attempt_as_it_is_worth(trouble: Trouble, n: int, earlier: str | None, outcome: str) -> None:
    """What can pass is tried again while attempts are left, damage once more, what cannot pass never."""
    ending = after_trouble(running(n, allowed=8, earlier=earlier), trouble, now=NOW, backoff=Backoff(), spread=0.5)
    assert (ending.outcome, ending.failure_class) == (outcome, trouble.failure_class)
    assert (ending.not_before is not None) == (outcome == "retry")


@given(st.integers(1, 200), st.floats(0, 1))
def test_waits_grow_and_stay_bounded(n: int, spread: float) -> None:
    """The wait doubles from five seconds to five minutes, less at most a quarter, however many attempts there were."""
    wait = Backoff().delay(n, spread)
    assert timedelta(seconds=3.75) <= wait <= timedelta(minutes=5)
    assert Backoff().delay(n + 1, spread) >= wait


def test_the_other_sides_wish_is_kept() -> None:
    """A Retry-After decides the wait instead of our own backoff."""
    trouble = TooManyRequests("slow down", retry_after=timedelta(seconds=77))
    ending = after_trouble(running(1, allowed=3), trouble, now=NOW, backoff=Backoff(), spread=0.5)
    assert ending.not_before == NOW + timedelta(seconds=77)
