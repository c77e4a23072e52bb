"""Promises of jobs.weights.history: what is remembered of uses and jobs when those are forgotten."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.core.model_name import ModelName
from jobs.ledger.job import Attempt, Job, JobState
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.clock import HandClock
from jobs.weights.history import LeftModel, Memory, recall, remember
from jobs.weights.staging import slug
from tests.support.stores import Store

NOW = datetime(2026, 6, 10, tzinfo=UTC)
A, B = (ModelName.parse(name) for name in "ab")


def job(
    kind: str,
    subject: str,
    result: Mapping[str, Any] | None = None,
    *,
    days: float = 0,
    state: JobState = JobState.SUCCEEDED,
) -> Job:
    """One that ended so many days ago."""
    at = NOW - timedelta(days=days)
    attempt = Attempt(1, at, "w", timedelta(minutes=1), at, ended_at=at)
    return Job(f"{kind}-{subject}-{days}", kind, subject, "weights", state, {}, 1, at, "me", (attempt,), result=result)


def used(store: Store, model: str, days: int) -> None:
    usage_recorder = UsageRecorder(store.facts, HandClock(NOW), "test")
    usage_recorder.add(Use(NOW - timedelta(days=days), model, "key", "a10g", "success"))
    assert usage_recorder.flush()


def test_uses_and_jobs_are_recalled(store: Store) -> None:
    """When each model was last used, came and was read in full: by a pull of ours or by a verification of all."""
    used(store, "a:latest", 3)
    used(store, "A", 2)
    jobs = [
        job("pull", "a:latest", {"way": "registry", "digest": "1"}, days=5),
        job("pull", "b:latest", {"way": "server", "digest": "2"}, days=4),
        job("verify", "*", {"models": ["b:latest"]}, days=1),
        job("verify", "a:latest", {"models": ["a:latest"]}, state=JobState.FAILED),
    ]
    memory = recall(store.facts, jobs)
    assert memory.used == {A.folded(): NOW - timedelta(days=2)}
    assert memory.used_since == datetime(2026, 6, 7, tzinfo=UTC)
    assert memory.came == {A: NOW - timedelta(days=5), B: NOW - timedelta(days=4)}
    assert memory.verified == {A: NOW - timedelta(days=5), B: NOW - timedelta(days=1)}


def test_what_is_remembered_outlives_its_sources(store: Store) -> None:
    """Once written down, uses and jobs may be forgotten; recalled and written again, nothing changes."""
    used(store, "a:latest", 3)
    jobs = [job("pull", "a:latest", {"way": "registry", "digest": "1"}), job("rollback", "b:latest", {"left": "2"})]
    before = recall(store.facts, jobs)
    remember(store.facts, before)
    for key in [key for key in store.facts.keys() if key.startswith("usage/")]:  # noqa: SIM118 - no dict
        store.facts.put(key, {})
    assert recall(store.facts, []) == before
    assert recall(store.facts, jobs) == before


def test_without_any_use_nothing_is_known(store: Store) -> None:
    """No record is no record of no use."""
    assert recall(store.facts, []) == Memory()


def test_a_rollback_is_remembered_until_somebody_pulls_that_version(store: Store) -> None:
    """The version that was rolled back from is kept in mind; a later pull of it says that it is wanted after all."""
    pulled = job("pull", "a:latest", {"way": "registry", "digest": "bad"}, days=3)
    left = job("rollback", "a:latest", {"left": "bad"}, days=2)
    assert recall(store.facts, [pulled, left]).left == {A: LeftModel("bad", NOW - timedelta(days=2))}
    again = job("pull", "a:latest", {"way": "registry", "digest": "bad"}, days=1)
    assert recall(store.facts, [pulled, left, again]).left == {}
    other = job("pull", "a:latest", {"way": "registry", "digest": "better"}, days=1)
    assert set(recall(store.facts, [pulled, left, other]).left) == {A}


def test_live_jobs_are_told_with_their_stagings() -> None:
    """What is pulled is safe, and so is what verifications gather; ended jobs are no reason to keep anything."""
    jobs = [
        job("pull", "a:latest", state=JobState.RUNNING),
        job("verify", "*", state=JobState.WAITING),
        job("pull", "b:latest"),
        job("warm", "b:latest", state=JobState.RUNNING),
    ]
    use = Memory().weights_use(jobs, ["B", "not a name"])
    assert use.pulling == {A}
    assert use.staging == {slug("pull a:latest"), slug("verify *")}
    assert use.loaded == {B}


moments = st.dictionaries(
    st.sampled_from([A, B]), st.integers(-2000, 2000).map(lambda hours: NOW + timedelta(hours=hours, seconds=0.001))
)


@given(used=moments, came=moments, verified=moments, left=moments)
def test_a_memory_reads_back_what_was_written(used: Any, came: Any, verified: Any, left: Any) -> None:
    """To the millisecond, whatever it holds."""
    kept = {name: LeftModel("digest", at) for name, at in left.items()}
    whole = Memory(used, min(used.values(), default=None), came, verified, kept)
    assert Memory.from_json(whole.as_json()) == whole
