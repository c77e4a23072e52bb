"""What the lines of a batch take while they run, as whoever sends them sees it: time of servers, tokens, dollars.

A server's second belongs to the lines that it works on in it, in equal parts. Whoever sends them sees only its own; so
once the usage tells of nearly all of them, what gateways have counted is what counts, as `cost` has it: then people who
are served beside a batch, and a tier's second server, are in the figures.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from jobs.batches.estimate import total
from jobs.batches.records import BatchUse
from jobs.batches.speed import LineTook, Speed, Speeds
from jobs.core.clock import Clock

EVERY = timedelta(minutes=1)
"""How often it is looked up what gateways have counted."""

KNOWN = 0.9
"""So many of its lines the usage must tell of before that counts: gateways write it every few seconds."""

BEGUN_SECONDS = 0.05
"""A line that was at a server had more time beside its wait at the gateway."""

NO_USE = BatchUse()


class SharedTime(NamedTuple):
    """What a batch took of one tier by its lines to one model, as gateways have counted it.

    Args:
        requests: how many lines that is of; one that was sent twice is two.
        gpu_seconds: of the tier's servers, that went to them.

    """

    requests: int
    gpu_seconds: float


SharedTimes = Callable[[datetime], Mapping[tuple[str, str], SharedTime]]
"""By tier and model, since a moment. Waits for the store.

Raises:
    StoreTrouble: it cannot be read.
"""


@dataclass
class SentLine:
    """A line that was sent. Whoever got its answer says what it took; else only its time counts."""

    tier: str
    model: str
    began: float
    is_early: bool
    """It may have waited for a start or a load: no line had been answered there before it was sent."""
    waited: float = 0.0
    """Of its time, the seconds in which it waited at the gateway for its turn."""
    took: LineTook | None = None

    def answered(
        self, now: float, *, prompt_bytes: int, prompt_tokens: int, output_tokens: int, max_tokens: int | None
    ) -> None:
        """It was, at this time of the monotonic clock."""
        seconds = max(0.0, now - self.began - self.waited)
        self.took = LineTook(prompt_bytes, prompt_tokens, output_tokens, seconds, max_tokens)


@dataclass
class _OnTier:
    """What one model's lines take on one tier."""

    in_flight: int = 0
    shared_seconds: float = 0.0
    early_seconds: float = 0.0
    """Of `shared_seconds`, those before any was answered there."""
    line_seconds: float = 0.0
    """Without the time for which lines waited at the gateway, which is `waited_seconds`."""
    waited_seconds: float = 0.0
    begun: int = 0
    """Lines that were at a server, and are not under way any more."""
    read: int = 0
    made: int = 0
    early: Speed = field(default_factory=Speed)
    later: Speed = field(default_factory=Speed)


class LineMeter:
    """Belongs to the one thread, or the event loop, that sends the lines of a batch, and waits for nothing; but `look`
    waits for the store, in any thread.

    Args:
        clock: the time.
        dollars_per_second: of a server of each tier; empty where nothing is paid by the second.
        before: what earlier attempts took.

    """

    def __init__(self, clock: Clock, dollars_per_second: Mapping[str, float], before: BatchUse = NO_USE) -> None:
        self._clock = clock
        self._dollars_per_second = dollars_per_second
        self._before = before
        self._began = clock.now()
        self._parts: dict[tuple[str, str], _OnTier] = defaultdict(_OnTier)
        #: When lines came or went on a tier last; one of which nothing is in it has not answered yet.
        self._changed: dict[str, float] = {}
        self._answers: set[str] = set()
        #: Put in by `look`, in one step.
        self._shared: Mapping[tuple[str, str], SharedTime] = {}
        self._looked_at = float("-inf")

    @contextmanager
    def line(self, tier: str, model: str) -> Iterator[SentLine]:
        """While a line is under way to a tier."""
        part = self._parts[tier, model]
        self._pass(tier)
        part.in_flight += 1
        sent = SentLine(tier, model, self._clock.monotonic(), tier not in self._answers)
        try:
            yield sent
        finally:
            self._pass(tier)
            part.in_flight -= 1
            took = self._clock.monotonic() - sent.began
            waited = min(took, sent.waited)
            part.line_seconds += took - waited
            part.waited_seconds += waited
            part.begun += took - waited > BEGUN_SECONDS or sent.took is not None
            if sent.took is not None:
                self._answers.add(tier)
                self._note(part, sent.took, is_early=sent.is_early)

    def _note(self, part: _OnTier, took: LineTook, *, is_early: bool) -> None:
        part.read += took.prompt_tokens
        part.made += took.output_tokens
        if is_early:
            part.early += Speed.of(took)
        else:
            part.later += Speed.of(took)

    def _pass(self, tier: str) -> None:
        """Share the time since the last change on a tier among the lines that were under way there."""
        now = self._clock.monotonic()
        passed, self._changed[tier] = now - self._changed.get(tier, now), now
        here = [part for (name, _), part in self._parts.items() if name == tier and part.in_flight]
        flying = sum(part.in_flight for part in here)
        for part in here:
            part.shared_seconds += passed * part.in_flight / flying
            if tier not in self._answers:
                part.early_seconds += passed * part.in_flight / flying

    def look(self, shared_times: SharedTimes, *, is_due: bool = False) -> None:
        """Look up what gateways have counted of it, unless that was done just now and is not due.

        Raises:
            StoreTrouble: it cannot be read.

        """
        now = self._clock.monotonic()
        if self._dollars_per_second and (is_due or now - self._looked_at >= EVERY.total_seconds()):
            self._looked_at = now
            midnight = self._began.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            self._shared = shared_times(midnight)  # the usage's days are those of UTC

    def use(self) -> BatchUse:
        """What the batch took so far: this attempt's lines, and those of the attempts before."""
        return total([self._before, *(self._use_of(where, part) for where, part in self._parts.items())])

    def _use_of(self, where: tuple[str, str], part: _OnTier) -> BatchUse:
        gpu_seconds = self._gpu_seconds(where, part)
        price = self._dollars_per_second.get(where[0])
        dollars = None if price is None else price * gpu_seconds
        return BatchUse(part.read, part.made, part.line_seconds, gpu_seconds, dollars)

    def _gpu_seconds(self, where: tuple[str, str], part: _OnTier) -> float:
        shared = self._shared.get(where)
        if shared is not None and shared.gpu_seconds > 0 and shared.requests >= KNOWN * part.begun:
            return shared.gpu_seconds / shared.requests * part.begun
        waited = part.early_seconds
        if part.later.lines and waited:  # a start or a load was in it, which is no serving: one usual line was
            waited = min(waited, part.later.seconds / part.later.lines)
        worked = part.line_seconds / (part.line_seconds + part.waited_seconds) if part.waited_seconds else 1.0
        return worked * (part.shared_seconds - part.early_seconds) + waited

    def speeds(self) -> Speeds:
        """What the lines that were answered took, for `learn`. Those that may have waited for a start or a load are not
        in it, but where there were no others.
        """
        found = {}
        for (tier, model), part in self._parts.items():
            measured = part.later if part.later.lines else part.early
            everything = part.early.lines + part.later.lines
            if everything:
                gpu_seconds = self._gpu_seconds((tier, model), part) * measured.lines / everything
                found[tier, model] = measured.with_gpu(gpu_seconds)
        return found
