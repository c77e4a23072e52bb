"""Claim, run, beat, end: the loop that works one lane.

A worker dies as it likes: what it held runs out of lease and a sweep gives it to the next one. It stops politely too:
every attempt is handed back. A ledger that fails is asked again; one that answered nothing but errors for a lease ends
the worker. This is the one place that catches whatever a task throws, and records it.
"""

import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loguru import logger

from jobs.core import errors
from jobs.core.clock import Clock
from jobs.ledger.attempts import Claim
from jobs.ledger.job import Backoff, Ending, Job, after_trouble
from jobs.ledger.ledger import Ledger
from jobs.store.outage import StoreOutage
from jobs.worker.attempt import RunningAttempt
from jobs.worker.silence import LedgerSilence

_LONGEST_PAUSE = 5.0
"""Seconds between two tries at a ledger that fails: what waits for it should go on soon after it is back."""

Perform = Callable[[RunningAttempt], Mapping[str, Any]]
"""Does the work of one attempt and returns the job's result; raises `Trouble` or `Interrupted` instead."""


@dataclass(frozen=True)
class Timing:
    """How a worker keeps time. The defaults suit one machine."""

    lease: timedelta = timedelta(seconds=30)
    """A dead worker's job waits this long. Fifteen beats fit in, so a busy disk does not cost an attempt."""
    beat: timedelta = timedelta(seconds=2)
    sweep: timedelta = timedelta(seconds=5)
    poll: timedelta = timedelta(milliseconds=500)
    """The longest wait for an id, hence for noticing a stop."""
    grace: timedelta = timedelta(seconds=10)
    """How long a stop waits for tasks to notice; what has not by then is handed back over their heads."""


class Worker:
    """Works one lane, `concurrency` jobs side by side.

    Everything that asks the ledger does so in threads of its own: one takes jobs and sweeps, each attempt has one that
    works and one that beats. So an answer that never comes holds up nobody else, and `run` itself asks nothing.

    Args:
        ledger: where jobs come from and go to.
        lane: whose jobs it works on.
        perform: does the work of one attempt.
        before_lost: told of a job before a sweep of ours gives its attempt up for lost.
        name: under which attempts tell who worked on them; where every machine has the same name and the same process
            ids, as containers do, something better has to be handed in.
        early: jobs that wait until later are claimed when their ids come, and keep nobody here while they do not. So it
            is for lanes where somebody else sees to it that there is a worker when one of them is due.

    """

    def __init__(
        self,
        ledger: Ledger,
        lane: str,
        perform: Perform,
        *,
        clock: Clock,
        concurrency: int = 2,
        timing: Timing | None = None,
        backoff: Backoff | None = None,
        before_lost: Callable[[Job], None] = lambda _: None,
        name: str | None = None,
        early: bool = False,
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._ledger = ledger
        self._lane = lane
        self._perform = perform
        self._clock = clock
        self._concurrency = concurrency
        self._timing = timing or Timing()
        self._backoff = backoff or Backoff()
        self._before_lost = before_lost
        self._early = early
        self._outage = StoreOutage(f"the ledger of lane {lane}", clock)
        self._changed = threading.Condition()
        # All times are seconds of the monotonic clock: a clock that is set must not stop a sweep.
        #: Added to by the taking thread, removed from by each working one, read by the one in `run`; under `_changed`.
        self._running: dict[RunningAttempt, threading.Event] = {}
        #: Set by the taking thread, and by a working one whose job is due again; under `_changed`.
        self._sweep_at = clock.monotonic()
        #: Set by the taking thread and by each working one; under `_changed`.
        self._busy_at = clock.monotonic()
        #: Set once, by the thread in `run` as it leaves; the working threads read it.
        self._give_up_at = float("inf")
        #: The three of the taking thread alone.
        self._taken_id: tuple[str, str] | None = None
        self._has_open_jobs = True
        self._offset = 0.0
        #: Set by the taking thread as it ends; read by the one in `run`, which has waited for that.
        self._failure: BaseException | None = None

    @property
    def trouble(self) -> errors.StoreTrouble | None:
        """What keeps it from its ledger now, if anything does."""
        return self._outage.trouble

    def run(self, stop: threading.Event, *, idle_after: timedelta | None = None) -> None:
        """Work until `stop` is set, or nothing was to do for `idle_after`; then hand back what is running.

        There is something to do as long as the lane has a job that has not ended: one that waits for its next try
        (unless `early`), or one whose worker was killed and whose lease still runs. A ledger that fails is asked again,
        for a lease at most.

        Raises:
            StoreUnavailable: the ledger has answered nothing for as long as a lease, so everybody takes this worker for
                dead. All its attempts are stopped; whoever runs it starts another one.

        """
        over = threading.Event()
        taker = threading.Thread(
            target=self._take_until, args=(stop, over, idle_after), name=f"take-{self._lane}", daemon=True
        )
        taker.start()
        try:
            self._attend(taker, stop)
        except errors.StoreUnavailable as silent:
            over.set()
            for run in self._attempts():
                run.stop(errors.Fenced("the ledger does not answer"))
            logger.error("{}", silent)
            raise
        finally:
            if not over.is_set():
                over.set()
                self._hand_back()
        if self._failure is not None:
            raise self._failure

    def _attend(self, taker: threading.Thread, stop: threading.Event) -> None:
        """Stay while it is at it, and see that the ledger answers."""
        silence = LedgerSilence(self._timing.lease, self._timing.beat)
        while taker.is_alive() and not stop.is_set():
            taker.join(self._timing.poll.total_seconds())
            for run in self._attempts():
                run.stop_if_late()
            heard = self._ledger.heard()
            if silence.is_too_long(heard, self._clock.monotonic()):
                raise errors.StoreUnavailable(
                    f"the ledger has answered nothing for {heard.seconds:.0f} s, longer than a lease, so worker"
                    f" {self.name} of lane {self._lane} takes itself out; it waits for a {heard.waits_for or 'beat'}",
                    hint="its jobs go on elsewhere, from where they were; see why the store does not answer",
                )
        self._ask_back()  # before the one who takes has ended: he may wait for an answer
        taker.join(self._timing.grace.total_seconds())

    def _ask_back(self) -> None:
        """Have every attempt hand itself back."""
        for run in self._attempts():
            run.stop(errors.HandedBack("the worker is stopping"))

    def _attempts(self) -> list[RunningAttempt]:
        with self._changed:
            return list(self._running)

    # The thread that takes

    def _take_until(self, stop: threading.Event, over: threading.Event, idle_after: timedelta | None) -> None:
        looked = self._looked_at_clocks()
        self._offset = looked[1] if looked else 0.0
        misses = 0
        try:
            while not (stop.is_set() or over.is_set() or self._is_idle(idle_after)):
                # One after the other, whether the first fails or not: each may work while the other does not. What is
                # in the queue comes first: whoever sent us did so for that.
                done = [self._met_no_trouble("claim", lambda: self._take_one(stop, over))]
                done.append(self._met_no_trouble("sweep", self._sweep_if_due))
                misses = 0 if all(done) else misses + 1
                if misses:
                    self._clock.wait(self._pause(misses), stop)
        except BaseException as failure:  # noqa: BLE001 - a thread's edge: `run` raises it
            self._failure = failure

    def _met_no_trouble(self, doing: str, work: Callable[[], bool]) -> bool:
        """Do `work`, which tells whether it had to ask the ledger at all."""
        try:
            if work():
                self._outage.passed(doing)
        except errors.StoreTrouble as trouble:
            self._outage.met(doing, trouble)
            return False
        return True

    def _pause(self, misses: int) -> float:
        """Seconds to wait after so many tries that failed: growing, but well within a lease."""
        longest = min(self._timing.lease.total_seconds() / 8, _LONGEST_PAUSE)
        return min(longest, self._timing.poll.total_seconds() * 2.0 ** min(misses - 1, 10))

    def _take_one(self, stop: threading.Event, over: threading.Event) -> bool:
        with self._changed:
            if len(self._running) >= self._concurrency:
                # An id taken now would find nobody free; other workers may be.
                self._changed.wait(self._timing.poll.total_seconds())
                return False
            until_sweep = timedelta(seconds=max(0.0, self._sweep_at - self._clock.monotonic()))
        if self._taken_id is None:
            id = self._ledger.next_id(self._lane, min(self._timing.poll, until_sweep))
            if id is None:
                return True
            self._taken_id = id, secrets.token_hex(8)
        id, token = self._taken_id  # kept until it is answered: the id is out of the queue, and nobody else has it
        if stop.is_set():
            self._ledger.enqueue(id)
        elif claim := self._ledger.claim(
            id, worker=self.name, lease=self._timing.lease, token=token, early=self._early
        ):
            self._start(claim, over)
        self._taken_id = None
        return True

    def _sweep_if_due(self) -> bool:
        now = self._clock.monotonic()
        looked = self._looked_at_clocks()
        if looked is None:
            return False  # nobody can tell whether the clock was set meanwhile; we come again at once
        moment, offset = looked
        ahead, self._offset = offset - self._offset, offset
        if ahead > self._timing.lease.total_seconds() / 2:
            # All beats look old now. Whoever lives, of this machine at least, has beaten again before a lease is over.
            logger.warning("the clock was set forward; silent attempts are given up a lease later")
            self._sweep_not_before(now + self._timing.lease.total_seconds())
        with self._changed:
            if now < self._sweep_at:
                return False
            self._sweep_at = now + self._timing.sweep.total_seconds()
        # By the moment that was looked at: the clock may be set from here on, and beats are older than it says then.
        swept = self._ledger.sweep(self._before_lost, now=moment)
        busy = swept.due_lanes | swept.running_lanes if self._early else swept.open_lanes
        self._has_open_jobs = self._lane in busy
        for id in swept.lost:
            logger.warning("gave up a silent attempt of job {}", id)
        if swept.next_due is not None:
            self._sweep_by(swept.next_due)
        return True

    def _sweep_by(self, due: datetime) -> None:
        at = self._clock.monotonic() + max(0.0, (due - self._clock.now()).total_seconds())
        with self._changed:
            self._sweep_at = min(self._sweep_at, at)

    def _sweep_not_before(self, at: float) -> None:
        with self._changed:
            self._sweep_at = max(self._sweep_at, at)

    def _looked_at_clocks(self) -> tuple[datetime, float] | None:
        """The wall clock, and how far it is ahead of the monotonic one; None when we were held up between the two."""
        before = self._clock.monotonic()
        moment = self._clock.now()
        return (moment, moment.timestamp() - before) if self._clock.monotonic() - before < 1 else None

    def _is_idle(self, idle_after: timedelta | None) -> bool:
        now = self._clock.monotonic()
        with self._changed:
            if self._running or self._has_open_jobs:
                self._busy_at = now
            return idle_after is not None and now - self._busy_at >= idle_after.total_seconds()

    def _start(self, claim: Claim, over: threading.Event) -> None:
        run = RunningAttempt(claim, self._ledger, self._clock)
        if over.is_set():  # the answer came when we had left
            self._end_now(run, self._handed_back(run))
            return
        done = threading.Event()
        with self._changed:
            self._running[run] = done
        for work, name in ((self._work, f"job-{run.holder}"), (self._beat_until, f"beat-{run.holder}")):
            threading.Thread(target=work, args=(run, done), name=name, daemon=True).start()

    # The threads of an attempt

    def _beat_until(self, run: RunningAttempt, done: threading.Event) -> None:
        doing = f"beat of attempt {run.holder}"
        while not self._clock.wait(self._timing.beat.total_seconds(), done):
            try:
                run.beat()
            except errors.StoreTrouble as trouble:
                self._outage.met(doing, trouble)
            except Exception as error:  # noqa: BLE001 - a thread's edge; the lease decides, not we
                logger.opt(exception=error).error("could not beat for attempt {}; its lease runs on", run.holder)
            else:
                self._outage.passed(doing)
        self._outage.left_to("sweep", doing)

    def _work(self, run: RunningAttempt, done: threading.Event) -> None:
        with logger.contextualize(job=run.job.id, attempt=run.n, kind=run.job.kind, subject=run.job.subject):
            logger.info("attempt started")
            try:
                ending = self._ending_of(run)
                if ending is not None:
                    self._end(run, ending)
            finally:
                done.set()
                with self._changed:
                    self._running.pop(run, None)
                    self._busy_at = self._clock.monotonic()
                    self._changed.notify_all()

    def _ending_of(self, run: RunningAttempt) -> Ending | None:
        try:
            return Ending("succeeded", result=self._perform(run))
        except errors.Fenced as fenced:
            logger.warning("attempt stopped: {}", fenced)
            return None
        except errors.Cancelled:
            return Ending("cancelled")
        except errors.HandedBack as back:
            return _put_off(run, back) if isinstance(back, errors.PutOff) else self._handed_back(run)
        except (errors.Trouble, OSError) as error:
            return self._after(run, _trouble_of(run, error))
        except Exception as bug:  # noqa: BLE001 - the worker's edge: whatever a task throws becomes the job's story
            logger.opt(exception=bug).error("attempt ended by a bug")
            return _by_bug(bug)

    def _after(self, run: RunningAttempt, trouble: errors.Trouble) -> Ending:
        now = self._clock.now()
        return after_trouble(run.job, trouble, now=now, backoff=self._backoff, spread=random.random())

    def _handed_back(self, run: RunningAttempt) -> Ending:
        return self._after(run, errors.Killed("the worker was asked to stop", retry_after=timedelta(0)))

    def _end(self, run: RunningAttempt, ending: Ending) -> None:
        """Write the end down. A ledger that fails is asked again for as long as the attempt is ours, or we stay."""
        token, doing, misses = secrets.token_hex(8), f"end of attempt {run.holder}", 0
        try:
            while not self._ended(run, ending, token, doing):
                misses += 1
                if self._clock.monotonic() >= self._give_up_at:
                    logger.error("attempt is left as it is: its end cannot be written down, and its lease runs out")
                    return
                self._clock.wait(self._pause(misses))
        except Exception as bug:  # noqa: BLE001 - an end that the ledger does not take, like a result that is no JSON
            logger.opt(exception=bug).error("the end of the attempt was refused")
            self._end_now(run, _by_bug(bug))
        finally:
            self._outage.left_to("sweep", doing)

    def _end_now(self, run: RunningAttempt, ending: Ending) -> None:
        """The same in one try."""
        doing = f"end of attempt {run.holder}"
        self._ended(run, ending, secrets.token_hex(8), doing)
        self._outage.left_to("sweep", doing)

    def _ended(self, run: RunningAttempt, ending: Ending, token: str, doing: str) -> bool:
        """Whether it is ended, by us or by somebody else; false when the ledger fails."""
        try:
            job = self._ledger.end(run.claim, ending, run.progress.read(), token=token)
        except errors.Fenced as fenced:
            logger.warning("attempt came too late to end: {}", fenced)
            return True
        except errors.StoreTrouble as trouble:
            self._outage.met(doing, trouble)
            return False
        self._outage.passed(doing)
        logger.info("attempt ended: {}, job {}", ending.outcome, job.state)
        if job.not_before is not None:
            self._sweep_by(job.not_before)
        return True

    # The end of us

    def _hand_back(self) -> None:
        deadline = self._clock.monotonic() + self._timing.grace.total_seconds()
        self._give_up_at = deadline
        self._ask_back()
        with self._changed:
            while self._running and self._clock.monotonic() < deadline:
                self._changed.wait(0.1)
        left = self._attempts()
        for run in left:
            # Its thread hangs in something that cannot be interrupted. From here on it can no longer publish (P4).
            run.stop(errors.Fenced("handed back over its head"))
        if left:
            ending = threading.Thread(target=self._hand_over, args=(left,), name=f"end-{self._lane}", daemon=True)
            ending.start()
            ending.join(self._timing.grace.total_seconds())

    def _hand_over(self, left: Iterable[RunningAttempt]) -> None:
        for run in left:
            self._end_now(run, self._handed_back(run))


def _trouble_of(run: RunningAttempt, error: errors.Trouble | OSError) -> errors.Trouble:
    """What a task met, as trouble; what the system said is to be translated nearer to where it said so."""
    if isinstance(error, errors.StoreUnusable):  # for good only until somebody mends it, and no fault of the job
        error = errors.StoreUnavailable(str(error), hint=error.hint)
    if isinstance(error, errors.Trouble):
        logger.warning("attempt met trouble: {}", error)
        return error
    trouble = errors.os_trouble(error, doing=f"the {run.job.kind} of {run.job.subject}")
    logger.opt(exception=error).error("attempt met trouble: {}", trouble)
    return trouble


def _put_off(run: RunningAttempt, later: errors.PutOff) -> Ending:
    if run.n >= run.job.attempts_allowed:
        return Ending("failed", "refused", f"{later}, and it has no attempt left", "post it again, to start earlier")
    return Ending("retry", message=str(later), not_before=later.until)


def _by_bug(bug: Exception) -> Ending:
    return Ending("failed", "bug", f"{type(bug).__name__}: {bug}", "this is our mistake: please report it")
