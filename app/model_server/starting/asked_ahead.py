"""What a start has to know of the ledger, asked for as soon as a container can ask; the weights that are read by it.

A ledger is tens of milliseconds away, and what is imported meanwhile takes longer. So nobody waits for it: who comes to
need an answer has it already, and the bytes of the model that is waited for have been coming since.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from app.model_server.starting.blob_readers import BlobReaders
from app.model_server.starting.bytes_read import bytes_read
from app.model_server.starting.engine import MODELS, StartedEngine
from app.model_server.starting.wanted import wanted
from jobs.core.clock import Clock, SystemClock
from jobs.core.model_name import ModelName
from jobs.store import keys
from jobs.store.protocols import DictLike


class AskedAhead:
    """Both questions of one start, each in a thread of its own from the moment that this is made.

    Args:
        facts: the ledger's dict.
        clock: the time, by which what is waited for counts.
        tier: of the server.
        readers: begin with the first model that is waited for, else with the first that is warmed, as the volume shows
            it then.
        warmed: the models that the tier keeps in memory.

    """

    def __init__(
        self, facts: DictLike, clock: Clock, tier: str, *, readers: BlobReaders, warmed: Sequence[ModelName]
    ) -> None:
        self._facts, self._clock, self._tier, self._warmed = facts, clock, tier, warmed
        self.readers = readers
        pool = ThreadPoolExecutor(2, thread_name_prefix="start")
        self.generation: Future[Any] = pool.submit(facts.get, keys.WEIGHTS_GENERATION)
        """Of the weights: read before any of these is looked at, so that it is never ahead of them."""
        self._waited_for = pool.submit(self._begin)
        pool.shutdown(wait=False)

    @classmethod
    def beside(cls, engine: StartedEngine, facts: DictLike, volume: Path = Path(MODELS)) -> Self:
        """For the server of an engine that was started at the first line of its container."""
        clock, group, settings = SystemClock(), engine.child.pid, engine.settings
        readers = BlobReaders(clock, volume, readers=settings["readers_ahead"], taken_in=lambda: bytes_read(group))
        warmed = tuple(map(ModelName.parse, settings["warmed"]))
        return cls(facts, clock, settings["tier"], readers=readers, warmed=warmed)

    def waited_for(self) -> list[ModelName]:
        """What callers wait for, first come first. Whatever the ledger's failure was is raised."""
        return self._waited_for.result()

    def _begin(self) -> list[ModelName]:
        try:
            names = wanted(self._facts, self._tier, self._clock.now())
        except BaseException:
            self.readers.begin(self._warmed)
            raise
        self.readers.begin([*names, *self._warmed])
        return names
