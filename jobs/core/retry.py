"""Retry policies as values. tenacity lives here and nowhere else.

A policy retries trouble that lasts seconds: it is bounded by count *and* by time, waits exponentially with jitter, and
honours the other side's `retry_after`. Trouble that lasts longer ends the attempt, and the ledger tries again later.
Tests pass `AT_ONCE`, which never waits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from jobs.core.errors import NetworkTrouble, Trouble

if TYPE_CHECKING:
    import tenacity  # noqa: TID251 - the one place

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """Try `attempts` times `within` this long, waiting from `first` to at most `longest` between two tries."""

    attempts: int
    within: timedelta
    first: timedelta = timedelta(milliseconds=250)
    longest: timedelta = timedelta(seconds=8)
    on: tuple[type[Trouble], ...] = (NetworkTrouble,)

    def call(
        self,
        function: Callable[[], T],
        *,
        sleep: Callable[[float], object],
        before_retry: Callable[[Trouble], None] = lambda _: None,
    ) -> T:
        """Call `function` until it answers or the policy gives up.

        Args:
            function: called without arguments.
            sleep: waits that many seconds; may raise to give up the wait (a cancelled job).
            before_retry: called with each error that will be tried again.

        Raises:
            Trouble: the last error, when the count or the time is used up or trying again cannot help.

        """
        if self.attempts == 1:
            return function()
        import tenacity  # noqa: PLC0415, TID251 - the one place; who is content with one try needs none of it

        def before_sleep(state: tenacity.RetryCallState) -> None:
            outcome = state.outcome
            error = outcome.exception() if outcome else None
            if isinstance(error, Trouble):
                before_retry(error)

        def wait(seconds: float) -> None:
            sleep(seconds)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts) | tenacity.stop_before_delay(self.within.total_seconds()),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(self.on),
            sleep=wait,
            before_sleep=before_sleep,
            reraise=True,
        )
        return retrying(function)

    def _wait(self, state: "tenacity.RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Trouble) and error.retry_after is not None:
            return error.retry_after.total_seconds()
        import tenacity  # noqa: PLC0415, TID251 - as above

        growing = tenacity.wait_exponential(self.first.total_seconds(), max=self.longest.total_seconds())
        return (growing + tenacity.wait_random(0, self.first.total_seconds()))(state)


REQUESTS = Policy(attempts=4, within=timedelta(seconds=30))
"""For one short request: a manifest, a version, a list."""

RANGES = Policy(attempts=6, within=timedelta(minutes=2))
"""For one range of a blob: a dropped connection costs a range, not the attempt."""

AT_ONCE = Policy(attempts=3, within=timedelta(minutes=5), first=timedelta(0), longest=timedelta(0))
"""For tests: tries again without waiting."""

NEVER = Policy(attempts=1, within=timedelta(minutes=5))
"""One try: the caller is retried elsewhere."""
