"""Follows jobs to their end: a bar each on a terminal, else a line per ten per cent. Both tell of each failed attempt.

It only reads. Whoever stops following (Ctrl-C) leaves the jobs as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Protocol

from jobs.cli.output import is_terminal, say
from jobs.core.clock import Clock
from jobs.core.errors import StoreUnavailable
from jobs.core.sanitize import plain
from jobs.core.units import human_span
from jobs.ledger.job import Attempt, Job, JobState
from jobs.ledger.job_text import headline, trouble

POLL_EVERY = timedelta(milliseconds=200)
"""Smooth enough for a bar; a poll reads four small entries."""


AWAY_AT_MOST = timedelta(minutes=10)
"""So long a job that cannot be read is followed all the same: it goes on without us."""


class View(Protocol):
    """How jobs are shown while they go on."""

    def show(self, job: Job) -> None:
        """This job has changed."""

    def print_line(self, line: str) -> None:
        """A line that stays."""


def follow(
    ids: Sequence[str],
    read: Callable[[str], Job],
    *,
    clock: Clock,
    is_worked: Callable[[], bool],
    idle: Sequence[str],
    every: timedelta = POLL_EVERY,
    worded: Callable[[str], str] = str,
) -> list[Job]:
    """Show these jobs until all of them have ended, and answer with them, in their order.

    Args:
        ids: of the jobs.
        read: a job as it stands.
        clock: for waiting.
        is_worked: whether anybody works the queue; when not, that is said once.
        idle: in these lines.
        every: how often to read them.
        worded: turns the commands in a hint into those of this place.

    Raises:
        StoreUnavailable: a job could not be read for long.

    """
    with _view() as view:
        announcers = {id: _Announcer(view, worded, names_it=len(ids) > 1) for id in ids}
        common, jobs = _Common(view, idle), dict[str, Job]()
        seen_at = clock.monotonic()
        while True:
            try:
                for id in ids:
                    if id not in jobs or not jobs[id].has_ended:
                        jobs[id] = read(id)
            except StoreUnavailable as trouble:
                if clock.monotonic() - seen_at > AWAY_AT_MOST.total_seconds():
                    raise
                common.announce_away(trouble)
            else:
                seen_at = clock.monotonic()
                common.announce(all(job.has_ended for job in jobs.values()), is_worked)
                for id, announcer in announcers.items():
                    announcer.announce(jobs[id], clock.now())
                if all(job.has_ended for job in jobs.values()):
                    return [jobs[id] for id in ids]
            clock.wait(every.total_seconds())


class _Common:
    """What was said so far of what concerns all of the jobs, so that it is said once."""

    def __init__(self, view: View, idle: Sequence[str]) -> None:
        self._view = view
        self._idle_lines = idle
        self._idle = False
        self._is_away = False

    def announce_away(self, trouble: StoreUnavailable) -> None:
        if not self._is_away:
            self._view.print_line(f"how it stands cannot be read now, and is asked for again: {plain(trouble)}")
        self._is_away = True

    def announce(self, is_over: bool, is_worked: Callable[[], bool]) -> None:
        self._is_away = False
        if self._idle == (not is_over and not is_worked()):
            return
        self._idle = not self._idle
        for line in self._idle_lines if self._idle else ("the queue is being worked now",):
            self._view.print_line(line)


class _Announcer:
    """What was said so far of one job, so that everything is said once; of several each line names its job."""

    def __init__(self, view: View, worded: Callable[[str], str], *, names_it: bool) -> None:
        self._view = view
        self._worded = worded
        self._names_it = names_it
        self._seen: Job | None = None
        self._attempts = 0
        self._hint: str | None = None

    def announce(self, job: Job, now: datetime) -> None:
        if job == self._seen:
            return
        for attempt in job.attempts[self._attempts :]:
            if attempt.outcome is None:
                break
            self._attempts = attempt.n
            is_last = job.has_ended and attempt is job.attempts[-1]  # whoever follows tells how it all ended
            if attempt.outcome in {"retry", "lost"} and not is_last:
                self._announce_failed(job, attempt, now)
        self._view.show(job)
        self._seen = job

    def _announce_failed(self, job: Job, attempt: Attempt, now: datetime) -> None:
        left = attempt.not_before - now if attempt.not_before else timedelta(0)
        after = f"next try in {human_span(left)}" if left > timedelta(0) else "next try now"
        again = "" if job.has_ended else f"; {after} ({attempt.n + 1} of {job.attempts_allowed})"
        whose = f"{plain(f'{job.kind} {job.subject}')}: " if self._names_it else ""
        self._view.print_line(f"{whose}attempt {attempt.n} failed because of {trouble(attempt)}{again}")
        if attempt.hint and attempt.hint != self._hint:
            self._view.print_line(f"hint: {self._worded(plain(attempt.hint))}")
        self._hint = attempt.hint


@contextmanager
def _view() -> Iterator[View]:
    if not is_terminal():
        yield Lines()
        return
    from jobs.cli.progress_bar import bars  # noqa: PLC0415 - rich takes longer to import than most commands to run

    with bars() as drawn:
        yield drawn


class Lines:
    """Of each job a line per ten per cent of each phase, and one when the state changes."""

    def __init__(self, write: Callable[[str], None] = say) -> None:
        self._write = write
        #: Of each job that was shown: its state, its phase, and the tenths that were told of that.
        self._shown: dict[str, tuple[JobState, str, int]] = {}

    def show(self, job: Job) -> None:
        reading = job.progress
        tenth = min(10, 10 * reading.completed // reading.total) if reading.total else -1
        state, status, told = self._shown.get(job.id, (None, "", -1))
        if (state, status) == (job.state, reading.status) and tenth <= told:
            return
        self._shown[job.id] = job.state, reading.status, tenth
        self._write("  ".join(headline(job)))

    def print_line(self, line: str) -> None:
        self._write(line)
