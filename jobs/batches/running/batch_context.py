"""What an attempt at a batch works with. Whoever composes a worker hands it in."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from jobs.batches.batch_store import BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.line_check import Checked, LineRefusal
from jobs.batches.measuring import SharedTime, SharedTimes
from jobs.batches.records import BatchRecord, Estimate
from jobs.batches.start_rules import BatchStarts
from jobs.core.clock import Clock
from jobs.ledger.job import Backoff
from jobs.store.protocols import ShrinkingDict


class ModelRoute(NamedTuple):
    """Where lines of a model go: its name as it is served, and the tier."""

    model: str
    tier: str


@dataclass(frozen=True)
class Pace:
    """How an attempt keeps time. The defaults suit one machine.

    Args:
        look: how often it looks whether it is to stop.
        say: how often it writes down how the batch stands.
        tries: of a line that fails so that another try may help.
        backoff: between them.
        answer: the longest that a line may take.
        polite: how long lines under way may take to end, when it is to stop.
        unkept: how long results may wait to be kept while the disk refuses them, before the attempt ends.
        turned_away: lines that were turned away for so long have it asked again whether the batch may run.

    """

    look: timedelta = timedelta(milliseconds=200)
    say: timedelta = timedelta(seconds=1)
    tries: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    answer: timedelta = timedelta(hours=1)
    polite: timedelta = timedelta(seconds=4)
    unkept: timedelta = timedelta(seconds=30)
    turned_away: timedelta = timedelta(seconds=30)


def _nothing(*_: Any) -> None:
    return None


def _no_times(_: datetime) -> Mapping[tuple[str, str], SharedTime]:
    return {}


class LinesAtOnce:
    """How many lines may be under way, of all batches that one process works on. Threads share one.

    Args:
        most: of all; None for as many as their tiers take.

    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._lock = threading.Lock()
        #: Batches whose lines are sent now; under `_lock`.
        self._batches = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While the lines of one more batch are sent."""
        with self._lock:
            self._batches += 1
        try:
            yield
        finally:
            with self._lock:
                self._batches -= 1

    def of_each(self) -> int:
        """How many each batch may have under way now: at least one."""
        with self._lock:
            batches = self._batches
        return 1_000_000 if self._most is None else max(1, self._most // max(1, batches))


@dataclass(frozen=True)
class BatchContext:
    """Threads may share one.

    Args:
        clock: the time.
        storage: where files and results lie.
        store: of batches.
        facts: where passes and speeds are.
        gateway: its address; lines are sent there.
        route: where lines of a model go. Raises `Trouble` where it is not here, or that cannot be known.
        shape: what is wrong with a body for this endpoint, as far as bodies are checked.
        estimate: what a batch will take; None where nobody can tell.
        starts: whether it may begin; None where everything may at once.
        dollars_per_second: of a server of each tier; empty where nothing is paid by the second.
        shared_times: what `cost` makes of a batch, by tier, since a moment.
        keep: how long files are kept; None for ever.
        at_once: how many lines may be under way, of all batches.
        most_lines: of a file; None for as many as there may be.
        pace: how it keeps time.

    """

    clock: Clock
    storage: BatchStorage
    store: BatchStore
    facts: ShrinkingDict
    gateway: str
    route: Callable[[str], ModelRoute]
    shape: Callable[[str, Mapping[str, Any]], LineRefusal | None] = _nothing
    estimate: Callable[[BatchRecord, Checked], Estimate | None] = _nothing
    starts: BatchStarts | None = None
    dollars_per_second: Mapping[str, float] = field(default_factory=dict)
    shared_times: Callable[[str], SharedTimes] = lambda _: _no_times
    keep: timedelta | None = None
    at_once: LinesAtOnce = field(default_factory=LinesAtOnce)
    most_lines: int | None = None
    pace: Pace = Pace()
