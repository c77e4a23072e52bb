"""The ledger in every order of steps, as far as a suite has time for it; `scripts/prove` goes further."""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from jobs.core.clock import Clock, isoformat
from jobs.ledger.attempts import Attempts, Claim
from jobs.ledger.job import Job, JobFacts, JobState
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.protocols import QueueLike, ShrinkingDict
from tests.support.exhaustive import Search, quiet
from tests.support.exhaustive_programs import View, Violation
from tests.support.ledger_proof import OpenLedger, scenario


@pytest.mark.parametrize(("sweepers", "lost_replies"), [(1, 0), (0, 1)])
def test_a_worker_and_those_around_him_keep_every_promise(sweepers: int, lost_replies: int) -> None:
    """P1 to P4 hold in each state to the end of all work, in all orders with one switch in the midst of somebody's.

    A lease runs out anywhere, a worker meets a sweeper, or a reply is lost.
    """
    with quiet():
        found = Search(scenario(workers=1, sweepers=sweepers, lost_replies=lost_replies)).run(switches=1)
    assert found.is_complete
    assert found.states > 5_000


@pytest.mark.parametrize(("sweepers", "posts"), [(0, 2), (1, 1)])
def test_who_posts_several_at_once_keeps_every_promise(sweepers: int, posts: int) -> None:
    """P1 to P4 hold in each state where the same job is posted by itself and as one of several, in all orders with one
    switch in the midst of somebody's."""
    tried = scenario(workers=0, sweepers=sweepers, posts=posts, lost_replies=0, together=True)
    with quiet():
        found = Search(tried).run(switches=1)
    assert found.is_complete
    assert found.states > 10_000


@pytest.mark.parametrize(("times", "sweepers", "switches"), [(2, 0, 2), (1, 1, 1)])
def test_what_a_worker_alone_ends_keeps_every_promise(times: int, sweepers: int, switches: int) -> None:
    """P1 to P4 hold where a cancel leaves the end to a worker, who puts the job off for hours or finishes it.

    Once who cancels and who puts off are through, in whatever order, the job does not wait.
    """
    tried = scenario(workers=1, sweepers=sweepers, times=times, lost_replies=0, kind="batch")
    with quiet():
        found = Search(tried).run(switches=switches)
    assert found.is_complete
    assert found.states > 10_000


def test_everybody_together_keeps_every_promise_at_first() -> None:
    """P1 to P4 hold in each state of three workers, two sweepers, a poster and a canceller, in all orders of the first
    steps."""
    with quiet():
        found = Search(scenario(workers=3, sweepers=2, posts=2)).run(depth=7)
    assert (found.depth, found.is_complete) == (7, False)
    assert found.states > 10_000


class _WithoutFence(Attempts):
    """Whoever is late goes on."""

    def still_held(self, claim: Claim) -> datetime:
        return self._clock.now()


class _BlindClaims(Attempts):
    """A claim is written over another one."""

    def claim(self, facts: JobFacts, worker: str, lease: timedelta, token: str) -> Claim | None:
        key = keys.claim(str(facts.job["id"]), len(facts.claims) + 1)
        self._facts.put(
            key, {"at": isoformat(self._clock.now()), "worker": worker, "lease_seconds": 30.0, "token": token}
        )
        return super().claim(facts, worker, lease, token)


class _ForgetfulEnds(Attempts):
    """An end is written over another one."""

    def write_once(self, key: str, fact: dict[str, Any], token: str | None = None) -> bool:
        if not key.startswith(keys.END):
            return super().write_once(key, fact, token)
        self._facts.put(key, {"v": 1, **fact, "token": token or secrets.token_hex(8)})
        return True


class _Deaf(Attempts):
    """Who puts a job off does not look whether somebody asks to cancel it."""

    def _say_open(self, job: Job, *, puts: bool) -> None:
        if not (job.state is JobState.WAITING and job.cancel_asked):
            super()._say_open(job, puts=puts)


class _DoublePosts(Ledger):
    """Each post begins a line of its own."""

    def _line(self, kind: str, subject: str, pointer: Mapping[str, Any] | None) -> tuple[str, int]:
        return f"line-{secrets.token_hex(8)}", 1


def _with(attempts: type[Attempts]) -> type[Ledger]:
    """A ledger whose attempts are such."""

    class Broken(Ledger):
        def __init__(self, queue: QueueLike, facts: ShrinkingDict, clock: Clock) -> None:
            super().__init__(queue, facts, clock)
            self._attempts = attempts(self._facts, self._queue, clock)

    return Broken


def _open(ledger: type[Ledger]) -> OpenLedger:
    def opened(view: View) -> Ledger:
        return ledger(view.queue, view.facts, view.clock)

    return opened


@pytest.mark.parametrize(
    ("ledger", "workers", "sweepers", "promise"),
    [
        (_with(_WithoutFence), 1, 0, "P4"),
        (_with(_BlindClaims), 2, 0, "P[34]"),
        (_with(_ForgetfulEnds), 1, 1, "P3"),
        (_DoublePosts, 0, 0, "P2"),
    ],
    ids=["without a fence", "blind claims", "forgetful ends", "double posts"],
)
def test_a_ledger_that_breaks_a_promise_is_found(
    ledger: type[Ledger], workers: int, sweepers: int, promise: str
) -> None:
    """A ledger without a fence, with blind claims, double posts, or ends that can be written over, breaks a promise.

    The search says which one, and the steps that lead there.
    """
    tried = scenario(
        workers=workers, sweepers=sweepers, posts=2 - workers % 2, ledger=_open(ledger), lost_replies=0, once=()
    )
    with quiet(), pytest.raises(Violation, match=f"^{promise}: .*; after\n  "):
        Search(tried).run(switches=2)


def test_a_holder_who_does_not_look_for_the_wish_is_found() -> None:
    """A ledger in which a cancel that comes with the end of an attempt is heard hours later is told from ours."""
    tried = scenario(workers=1, sweepers=0, lost_replies=0, kind="batch", ledger=_open(_with(_Deaf)))
    with quiet(), pytest.raises(Violation, match="is to be cancelled, and waits until later"):
        Search(tried).run(switches=2)
