"""Follows a batch to its end: a bar on a terminal, else a line per ten per cent. It only reads; whoever stops following
leaves the batch as it is.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Protocol

from jobs.cli.batches.batch_words import Document, ended_lines, has_ended, headline, progress, state_of
from jobs.cli.follow import AWAY_AT_MOST
from jobs.cli.output import is_terminal, say
from jobs.core.clock import Clock
from jobs.core.errors import NetworkTrouble, StoreUnavailable
from jobs.core.sanitize import plain
from jobs.core.units import human_bytes

MANY_BYTES = 16 << 20
"""To read so many takes longer than anybody likes to see nothing."""

DRAWN_BYTES = 1 << 20
"""Between two looks of a bar."""

POLL_EVERY = timedelta(seconds=1)
"""Whoever works on a batch tells every few seconds how it stands."""


class BatchView(Protocol):
    """How a batch is shown while it goes on."""

    def show(self, batch: Document, now: datetime) -> None:
        """This is how it stands now."""

    def print_line(self, line: str) -> None:
        """A line that stays."""


def follow_batch(
    read: Callable[[], Document],
    *,
    clock: Clock,
    is_worked: Callable[[], bool],
    idle: Sequence[str],
    every: timedelta = POLL_EVERY,
    view: BatchView | None = None,
) -> Document:
    """Show a batch until it has ended, and answer with it.

    Args:
        read: it as it stands.
        clock: for waiting.
        is_worked: whether anybody works the queue; when not, that is said once.
        idle: in these lines.
        every: how often to read it.
        view: shows it, instead of a bar or lines.

    Raises:
        StoreUnavailable: it could not be read for long.

    """
    with _view() if view is None else nullcontext(view) as seen:
        told = _Told(seen, idle)
        seen_at = clock.monotonic()
        while True:
            try:
                batch = read()
            except (StoreUnavailable, NetworkTrouble) as trouble:
                if clock.monotonic() - seen_at > AWAY_AT_MOST.total_seconds():
                    raise
                told.away(trouble)
            else:
                seen_at = clock.monotonic()
                told.here(batch, is_worked=has_ended(batch) or is_worked())
                seen.show(batch, clock.now())
                if has_ended(batch):
                    return batch
            clock.wait(every.total_seconds())


def shown(pieces: Iterable[bytes], name: str, total: int | None) -> Generator[bytes, None, None]:
    """The same pieces, with a bar on a terminal where there are so many that whoever waits wonders."""
    done = 0
    waiting = iter(pieces)
    for piece in waiting:
        done += len(piece)
        yield piece
        if done >= MANY_BYTES:
            break
    if done < MANY_BYTES or not is_terminal():
        yield from waiting
        return
    from jobs.cli.progress_bar import bars  # noqa: PLC0415 - rich takes longer to import than most commands to run

    with bars() as drawn:
        drawn_to = 0
        for piece in waiting:
            done += len(piece)
            if done - drawn_to >= DRAWN_BYTES:
                drawn_to = done
                drawn.draw(name, name, min(done, total or done), total, [human_bytes(done)])
            yield piece


class _Told:
    """What was said so far, so that it is said once."""

    def __init__(self, view: BatchView, idle: Sequence[str]) -> None:
        self._view = view
        self._idle_lines = idle
        self._idle = False
        self._is_away = False
        self._note = ""

    def away(self, trouble: Exception) -> None:
        if not self._is_away:
            self._view.print_line(f"how it stands cannot be read now, and is asked for again: {plain(trouble)}")
        self._is_away = True

    def here(self, batch: Document, *, is_worked: bool) -> None:
        self._is_away = False
        if self._idle == is_worked:
            self._idle = not is_worked
            for line in self._idle_lines if self._idle else ("the queue is being worked now",):
                self._view.print_line(line)
        if batch["note"] and batch["note"] != self._note:
            self._view.print_line(f"note: {plain(batch['note'])}")
        self._note = batch["note"]


@contextmanager
def _view() -> Iterator[BatchView]:
    if not is_terminal():
        yield BatchTenths()
        return
    from jobs.cli.progress_bar import bars  # noqa: PLC0415 - rich takes longer to import than most commands to run

    with bars() as drawn:
        yield _Bar(drawn)


class _Bar:
    def __init__(self, bars: "_Drawn") -> None:
        self._bars = bars

    def show(self, batch: Document, now: datetime) -> None:
        total = int(batch["lines"]["total"])
        words = progress(batch, now)
        self._bars.draw("batch", "batch", ended_lines(batch), total or None, [*words, state_of(batch)])

    def print_line(self, line: str) -> None:
        self._bars.print_line(line)


class _Drawn(Protocol):
    def draw(self, id: str, name: str, done: int, total: int | None, words: Sequence[str]) -> None: ...
    def print_line(self, line: str) -> None: ...


class BatchTenths:
    """A line per ten per cent, and one when the status changes."""

    def __init__(self, write: Callable[[str], None] = say) -> None:
        self._write = write
        self._shown: tuple[str, int] | None = None

    def show(self, batch: Document, now: datetime) -> None:
        total = int(batch["lines"]["total"])
        tenth = 10 * ended_lines(batch) // total if total else 0
        if (batch["status"], tenth) != self._shown:
            self._shown = batch["status"], tenth
            self._write("  ".join(headline(batch, now)))

    def print_line(self, line: str) -> None:
        self._write(line)
