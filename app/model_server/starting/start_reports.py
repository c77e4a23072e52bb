"""Tells of the starts and loads of one server: how far they have come, while they go on, and how they went.

Nobody who works waits for the ledger: a thread writes, at most once in `TELL_EVERY`, what is news, and in
`TELL_AT_LEAST_EVERY` that it is still at work. When one is over, its fact is written once; where a gateway waited for
it, that has more to say and writes the same key later.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import timedelta

from loguru import logger

from app.model_server.starting.bytes_read import BytesRead
from app.model_server.starting.phases import Phases
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble
from jobs.store.protocols import DictLike
from jobs.telemetry.cold_starts import TELL_AT_LEAST_EVERY, ColdStart, Progress

TELL_EVERY = timedelta(seconds=2)
"""A start of twenty seconds writes ten times at most; who waits is told every five."""

_MOST_UNWRITTEN = 64
"""Facts that wait for a ledger which is away."""

GIVEN_UP_AFTER = timedelta(minutes=30)
"""A load of which nothing more was heard has failed: its caller was told why."""


@dataclass(frozen=True)
class Weights:
    """What is known of a model by one of its blobs."""

    name: str
    size: int


class StartReports:
    """The server's own thread tells of its start, the one that reads the engine's output of loads; any may ask.

    Args:
        facts: the ledger's dict.
        clock: for what each phase takes.
        tier: of the server.
        container: names it.
        tell: writes a report of the server, with `progress`.
        weights_of: what a blob belongs to; asked in a thread of our own, as it looks at files.
        engines_bytes: how many bytes the engine has taken in; None where nobody knows.
        read_ahead: how many bytes were brought ahead of it, and how fast; None where nobody reads ahead.

    """

    def __init__(
        self,
        facts: DictLike,
        clock: Clock,
        tier: str,
        container: str,
        *,
        tell: Callable[[], None],
        weights_of: Callable[[str], Weights | None],
        engines_bytes: Callable[[], int | None],
        read_ahead: Callable[[], BytesRead | None],
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._tier = tier
        self._container = container
        self._tell = tell
        self._weights_of = weights_of
        self._engines_bytes = engines_bytes
        self._read_ahead = read_ahead
        self._lock = threading.Lock()
        #: The server's start, and the load that began last. Under `_lock`, as those below.
        self._start: Phases | None = None
        self._load: Phases | None = None
        self._count = 0
        #: Whether the engine has said that it loads the model of the start; and the blobs of it, where the server
        #: answered before the engine's output was read so far.
        self._has_start_begun_load = False
        self._late: Collection[str] = ()
        #: The blobs that loads began with, until somebody has looked what they belong to.
        self._unnamed: list[tuple[Phases, str]] = []
        #: Those that have ended and are not written down yet.
        self._ended: list[Phases] = []
        self._news = threading.Event()
        self._stopping = threading.Event()
        #: What was told last, and when. The thread's own.
        self._told: tuple[Progress, ...] = ()
        self._told_at = clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="start reports", daemon=True)

    # Whoever works says

    def begin_start(self, ago: float = 0.0) -> Phases:
        """The server begins to start, or did so many seconds ago."""
        with self._lock:
            self._start = Phases(self._clock, 0, "start", began_ago=ago)
        self._thread.start()
        return self._start

    def end_start(self, blobs: Callable[[], Collection[str]]) -> None:
        """The server answers, and what it loads from now on it loads while it serves. A model that was on its way is in
        memory, whether the engine has said so or not.

        Args:
            blobs: of that model: where the engine's output is read late, what it says of them is of the start.

        """
        late = () if self._has_start_begun_load else blobs()
        with self._lock:
            self._late = () if self._has_start_begun_load else late
            if self._start is not None:
                if self._start.has_model:
                    self._start.ended("memory")
                self._start.over()
                self._ended.append(self._start)
        self._news.set()

    def load_began(self, blob: str) -> None:
        """The engine begins to load the model of this blob."""
        with self._lock:
            phases, is_late = self._start, blob in self._late
            self._late = ()  # the engine says one thing after the other
            self._has_start_begun_load = True
            if not is_late and (phases is None or phases.is_over):
                self._count += 1
                phases = self._load = Phases(self._clock, self._count, "load")
            if phases is not None:
                self._unnamed.append((phases, blob))
        self._news.set()

    def bytes_are_read(self) -> None:
        """All bytes of the model that is being loaded have come in."""
        if (phases := self._current()) is not None:
            self._note_read_ahead(phases)
            phases.ended("bytes")
            self._news.set()

    def load_ended(self) -> None:
        """The model is in memory."""
        if (phases := self._current()) is not None:
            self._note_read_ahead(phases)
        with self._lock:
            load = self._load
            if self._start is not None and not self._start.is_over:
                self._start.ended("memory")
            elif load is not None and not load.is_over:
                load.ended("memory")
                self._ended.append(load)
        self._news.set()

    def stop(self) -> None:
        """Tell no more, but for what has ended."""
        self._stopping.set()
        self._news.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=2)

    # What is told

    def progress(self) -> tuple[Progress, ...]:
        """Of the server's start and of the load that began last."""
        with self._lock:
            return tuple(each.progress() for each in (self._start, self._load) if each is not None)

    def _current(self) -> Phases | None:
        with self._lock:
            return next((each for each in (self._start, self._load) if each is not None and not each.is_over), None)

    def _has_more_to_do(self) -> bool:
        with self._lock:
            is_left = bool(self._ended)
        return is_left or self._current() is not None

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(TELL_EVERY.total_seconds())
            self._news.wait(TELL_EVERY.total_seconds() if self._has_more_to_do() else None)
            self._news.clear()
            if not self._stopping.is_set():
                self._guarded(self.look)
        self._guarded(self._write_ended)

    @staticmethod
    def _guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - what is told of a start must never spoil it
            logger.warning("how far the start has come is not told: {}: {}", type(error).__name__, error)

    def look(self) -> None:
        """Tell what is news."""
        self._name()  # first, as the size says how much of it has come
        phases = self._current()
        if phases is not None:
            self._note_read_ahead(phases)
            if phases.is_reading and (taken := self._engines_bytes()) is not None:
                phases.read(taken)
        if phases is not None and self._clock.now() - phases.at > GIVEN_UP_AFTER and phases is self._load:
            phases.over()
        self._write_ended()
        now = tuple(replace(each, in_phase=0.0) for each in self.progress())
        is_due = phases is not None and self._clock.monotonic() - self._told_at >= TELL_AT_LEAST_EVERY.total_seconds()
        if now != self._told or is_due:
            self._told, self._told_at = now, self._clock.monotonic()
            self._tell()

    def _note_read_ahead(self, phases: Phases) -> None:
        ahead = self._read_ahead()
        if ahead is not None:
            phases.read(ahead.done, ahead.per_second)

    def _name(self) -> None:
        """Find out which models they are that the engine loads; one that cannot be found out stays without a name."""
        with self._lock:
            unnamed, self._unnamed = self._unnamed, []
        for phases, blob in unnamed:
            try:
                known = self._weights_of(blob)
            except OSError as error:
                logger.warning("which model is loaded is not known, as its file {} cannot be found: {}", blob, error)
                continue
            if known is not None:
                phases.of(known.name, known.size)

    def _write_ended(self) -> None:
        """Write the facts of what has ended, unless a gateway has said more already; what the ledger does not take is
        written at the next look."""
        self._name()
        with self._lock:
            ended, self._ended = self._ended, []
        while ended:
            fact = cold_start(self._tier, self._container, ended[0].progress())
            try:
                self._facts.put(fact.key, fact.as_json(), skip_if_exists=True)
            except StoreTrouble:
                with self._lock:
                    self._ended = [*ended, *self._ended][-_MOST_UNWRITTEN:]
                raise
            del ended[0]


def cold_start(tier: str, container: str, progress: Progress) -> ColdStart:
    """What a server alone knows of one that is over."""
    return ColdStart(
        tier=tier,
        container=container,
        n=progress.n,
        kind=progress.kind,
        at=progress.at,
        model=progress.model,
        size=progress.size,
        seconds=progress.seconds,
        bytes_per_second=progress.bytes_per_second,
    )
