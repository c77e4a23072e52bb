"""What a task sees of the attempt it runs: the job, a meter, and whether to go on.

The task calls `check` often and `hold` right before it changes anything that others can see; both raise when the
attempt is no longer to go on. Whoever wants it to stop (the worker at a stop, a beat that was fenced) calls `stop`.
"""

import threading

from jobs.core.clock import Clock
from jobs.core.errors import Cancelled, Fenced, Interrupted, StoreUnavailable
from jobs.core.progress import Progress
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger


class RunningAttempt:
    def __init__(self, claim: Claim, ledger: Ledger, clock: Clock) -> None:
        self.progress = Progress(clock)
        self._claim = claim
        self._ledger = ledger
        self._clock = clock
        #: Set by `stop`, in any thread; read by the task's threads. Of two at once either may stay: the ledger fences.
        self._why: Interrupted | None = None
        self._stopped = threading.Event()
        #: Held by the thread that renews the claim: the one that beats, or the task's before it publishes.
        self._beating = threading.Lock()

    @property
    def job(self) -> Job:
        return self._claim.job

    @property
    def n(self) -> int:
        return self._claim.n

    @property
    def claim(self) -> Claim:
        return self._claim

    @property
    def holder(self) -> str:
        """Names this attempt wherever it leaves a trace on disk."""
        return f"{self.job.id}.{self.n}"

    def latest(self, kind: str) -> Job | None:
        """The newest job of another kind about the same model, if the ledger has one.

        Raises:
            StoreTrouble: the ledger could not be asked.

        """
        return self._ledger.reader.latest(kind, self.job.subject)

    def check(self) -> None:
        """Raise the reason to stop, if there is one. Costs nothing, so call it for every chunk.

        Raises:
            Interrupted: cancelled, fenced, or handed back.

        """
        if self._why is not None:
            raise self._why

    def hold(self, *, to_finish: bool = False) -> None:
        """Make sure, now, that this attempt is still ours: what follows may be seen by others (P4).

        Args:
            to_finish: go on though it was cancelled or is to be handed back: only what has to be done before that.

        Raises:
            Interrupted: cancelled, fenced, or handed back.
            StoreTrouble: nobody can tell now.

        """
        self.beat(before_publishing=True)
        if to_finish:
            self.check_fence()
        else:
            self.check()

    def check_fence(self) -> None:
        """Raise when this attempt is no longer ours, whatever else is a reason to stop.

        Raises:
            Fenced: so it is.

        """
        if isinstance(self._why, Fenced):
            raise self._why

    def beat(self, *, before_publishing: bool = False) -> None:
        """Renew the lease; learn whether to stop, for certain only before publishing.

        Raises:
            StoreTrouble: the ledger could not be asked, or does not answer another thread's beat.

        """
        if not self._beating.acquire(timeout=self._claim.lease.total_seconds()):
            raise StoreUnavailable(
                f"a beat of attempt {self.holder} has not been answered for {self._claim.lease.total_seconds():.0f} s",
                hint="what was fetched so far is kept; the next attempt goes on from there",
            )
        try:
            if self._ledger.beat(self._claim, self.progress.read(), before_publishing=before_publishing):
                self.stop(Cancelled(f"job {self.job.id!r} was cancelled"))
        except Fenced as fenced:
            self.stop(fenced)
        finally:
            self._beating.release()

    def stop_if_late(self) -> None:
        """Stop as fenced when the lease has run out, though no beat came back to say so."""
        if self._clock.monotonic() > self._claim.held_for:
            self.stop(Fenced(f"the lease of attempt {self.holder} ran out, and the ledger did not answer its beats"))

    def stop(self, why: Interrupted) -> None:
        """Let the next `check` raise `why`. Being fenced outranks every other reason; else the first one stays."""
        if self._why is None or isinstance(why, Fenced):
            self._why = why
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        """Wait, but not past a reason to stop.

        Raises:
            Interrupted: cancelled, fenced, or handed back.

        """
        self._clock.wait(seconds, self._stopped)
        self.check()
