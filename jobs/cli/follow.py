"""Follows a job to its end: a bar on a terminal, else a line per ten per cent. Both tell of every attempt that failed.

It only reads. Whoever stops following (Ctrl-C) leaves the job as it is.
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
from jobs.ledger.job import Job, JobState
from jobs.ledger.job_text import headline, trouble

POLL_EVERY = timedelta(milliseconds=200)
"""Smooth enough for a bar; a poll reads four small entries."""


AWAY_AT_MOST = timedelta(minutes=10)
"""So long a job that cannot be read is followed all the same: it goes on without us."""


class View(Protocol):
    """How a job is shown while it goes on."""

    def show(self, job: Job) -> None:
        """The job has changed."""

    def print_line(self, line: str) -> None:
        """A line that stays."""


def follow(
    read: Callable[[], Job],
    *,
    clock: Clock,
    is_worked: Callable[[], bool],
    idle: Sequence[str],
    every: timedelta = POLL_EVERY,
) -> Job:
    """Show the job until it has ended, and answer with it.

    Args:
        read: the job as it stands.
        clock: for waiting.
        is_worked: whether anybody works the queue; when not, that is said once.
        idle: in these lines.
        every: how often to read it.

    Raises:
        StoreUnavailable: the job could not be read for long.

    """
    with _view() as view:
        announcer = _Announcer(view, idle)
        seen_at = clock.monotonic()
        while True:
            try:
                job = read()
            except StoreUnavailable as trouble:
                if clock.monotonic() - seen_at > AWAY_AT_MOST.total_seconds():
                    raise
                announcer.announce_away(trouble)
            else:
                seen_at = clock.monotonic()
                announcer.announce(job, clock.now(), is_worked)
                if job.has_ended:
                    return job
            clock.wait(every.total_seconds())


class _Announcer:
    """What was said so far, so that everything is said once."""

    def __init__(self, view: View, idle: Sequence[str]) -> None:
        self._view = view
        self._idle_lines = idle
        self._seen: Job | None = None
        self._attempts = 0
        self._idle = False
        self._is_away = False

    def announce_away(self, trouble: StoreUnavailable) -> None:
        if not self._is_away:
            self._view.print_line(f"how it stands cannot be read now, and is asked for again: {plain(trouble)}")
        self._is_away = True

    def announce(self, job: Job, now: datetime, is_worked: Callable[[], bool]) -> None:
        self._is_away = False
        if self._idle != (not job.has_ended and not is_worked()):
            self._idle = not self._idle
            self._announce_idle()
        if job == self._seen:
            return
        for attempt in job.attempts[self._attempts :]:
            if attempt.outcome is None:
                break
            self._attempts = attempt.n
            if attempt.outcome in {"retry", "lost"}:
                left = attempt.not_before - now if attempt.not_before else timedelta(0)
                after = f"next try in {human_span(left)}" if left > timedelta(0) else "next try now"
                again = "" if job.has_ended else f"; {after} ({attempt.n + 1} of {job.attempts_allowed})"
                self._view.print_line(f"attempt {attempt.n} failed because of {trouble(attempt)}{again}")
                if attempt.hint:
                    self._view.print_line(f"hint: {plain(attempt.hint)}")
        self._view.show(job)
        self._seen = job

    def _announce_idle(self) -> None:
        if self._idle:
            for line in self._idle_lines:
                self._view.print_line(line)
        else:
            self._view.print_line("the queue is being worked now")


@contextmanager
def _view() -> Iterator[View]:
    if not is_terminal():
        yield Lines()
        return
    from jobs.cli.progress_bar import bar  # noqa: PLC0415 - rich takes longer to import than most commands to run

    with bar() as drawn:
        yield drawn


class Lines:
    """A line per ten per cent of each phase, and one when the state changes."""

    def __init__(self, write: Callable[[str], None] = say) -> None:
        self._write = write
        self._state: JobState | None = None
        self._status = ""
        self._tenth = -1

    def show(self, job: Job) -> None:
        reading = job.progress
        tenth = min(10, 10 * reading.completed // reading.total) if reading.total else -1
        is_new = job.state is not self._state or reading.status != self._status
        if not is_new and tenth <= self._tenth:
            return
        self._state, self._status, self._tenth = job.state, reading.status, tenth
        self._write("  ".join(headline(job)))

    def print_line(self, line: str) -> None:
        self._write(line)
