"""Retry policies: bounded by count and by time, patient as the other side asks, and only on trouble that can pass."""

from datetime import timedelta

import pytest

from jobs.core.errors import NotFound, TooManyRequests, Trouble, Unreachable
from jobs.core.retry import AT_ONCE, NEVER, Policy


class FailingCalls:
    """Fails with each of these troubles in turn, then answers; notes how long it was waited for."""

    def __init__(self, *troubles: Trouble) -> None:
        self.troubles = list(troubles)
        self.calls = 0
        self.waits: list[float] = []

    def ask(self) -> str:
        self.calls += 1
        if self.troubles:
            raise self.troubles.pop(0)
        return "answer"

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_trouble_that_passes_is_outlasted() -> None:
    """The answer comes when one try succeeds; each failure before it is told."""
    told: list[Trouble] = []
    failing = FailingCalls(Unreachable("a"), Unreachable("b"))
    assert AT_ONCE.call(failing.ask, sleep=failing.sleep, before_retry=told.append) == "answer"
    assert [str(trouble) for trouble in told] == ["a", "b"]


def test_the_last_trouble_is_raised() -> None:
    """When the count is used up, the last error itself is raised."""
    failing = FailingCalls(*(Unreachable(str(n)) for n in range(9)))
    with pytest.raises(Unreachable, match=r"^2$"):
        AT_ONCE.call(failing.ask, sleep=failing.sleep)
    assert failing.calls == 3


@pytest.mark.parametrize("policy", [AT_ONCE, NEVER])
def test_what_cannot_pass_is_not_tried_again(policy: Policy) -> None:
    """An error that trying again cannot help is raised at once."""
    failing = FailingCalls(NotFound("gone"))
    with pytest.raises(NotFound):
        policy.call(failing.ask, sleep=failing.sleep)
    assert failing.calls == 1


def test_waits_grow_to_the_longest() -> None:
    """Waits grow exponentially with jitter and never pass the longest by more than the jitter."""
    failing = FailingCalls(*(Unreachable("x") for _ in range(7)))
    policy = Policy(8, timedelta(hours=1), first=timedelta(seconds=1), longest=timedelta(seconds=4))
    policy.call(failing.ask, sleep=failing.sleep)
    assert failing.waits[-1] <= 5
    assert 1 <= failing.waits[0] <= 2
    assert max(failing.waits) >= 4


def test_the_other_sides_wish_is_kept_to() -> None:
    """A Retry-After is waited for as it was asked."""
    failing = FailingCalls(TooManyRequests("slow", retry_after=timedelta(seconds=7)))
    Policy(3, timedelta(minutes=1)).call(failing.ask, sleep=failing.sleep)
    assert failing.waits == [7.0]


def test_a_wait_past_the_limit_is_not_begun() -> None:
    """When the wait would pass the time limit, the error is raised instead of slept on."""
    failing = FailingCalls(TooManyRequests("slow", retry_after=timedelta(minutes=5)))
    with pytest.raises(TooManyRequests):
        Policy(3, timedelta(minutes=1)).call(failing.ask, sleep=failing.sleep)
    assert failing.waits == []
