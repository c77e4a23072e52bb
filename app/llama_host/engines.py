"""The models in memory, each in an engine process of its own: started on demand, kept for a while, started again.

    asked for ─▶ loading ─▶ ready ─▶ idle for its keep-alive, or room is wanted ─▶ ended
                    │         │            never while it answers
                    └─────────┴─ died: told of, and started again by the next request

At most so many are in memory; for another one the idle one that was used longest ago goes, else the request waits. A
model whose weights changed is loaded anew for the next request, beside the old one until that has answered. A load goes
on though whoever asked for it has left.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from loguru import logger

from app.llama_host.launch import Launch
from app.llama_host.models import HostedModel
from app.llama_host.process import EngineProcess
from app.llama_host.settings import HostSettings
from jobs.core.errors import ServerTrouble
from jobs.models.placement import LOCAL, weigh

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)

_STARTS = 3
"""Tries of one load, where somebody else took the port that was free a moment before."""


@dataclass(eq=False)
class LoadedModel:
    """A model in memory, or on its way."""

    model: HostedModel
    launch: Launch
    keep_seconds: float
    busy: int = 0
    """Requests that it answers, or that wait for its load."""
    used_at: float = 0.0
    process: EngineProcess | None = None
    load: asyncio.Task[None] | None = field(default=None, repr=False)
    is_leaving: bool = False
    """No further request gets it."""
    end: asyncio.Task[None] | None = field(default=None, repr=False)
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)
    why_ended: str = ""

    @property
    def is_ready(self) -> bool:
        return self.load is not None and self.load.done() and not self.is_leaving

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.busy


class Engines:
    """Belongs to one event loop.

    Args:
        command: starts an engine; llama-server's arguments follow.
        settings: of the host.
        environ: what engines inherit.

    """

    def __init__(self, command: Sequence[str], settings: HostSettings, environ: Mapping[str, str]) -> None:
        self._command = command
        self._settings = settings
        self._environ = environ
        self._all: list[LoadedModel] = []
        self._changed = asyncio.Event()
        self._is_closed = False

    def loaded(self) -> list[LoadedModel]:
        """Those in memory, the last used first; one that is still loading is not among them."""
        return sorted((each for each in self._all if each.is_ready), key=lambda each: -each.used_at)

    @asynccontextmanager
    async def lent(
        self, model: HostedModel, *, options: Mapping[str, Any] | None = None, keep_seconds: float | None = None
    ) -> AsyncIterator[LoadedModel]:
        """The model in memory, for one request; it stays at least so long.

        Args:
            model: as its files are now.
            options: with which it is to be loaded; None takes it as it is loaded.
            keep_seconds: how long it stays after its last use, from now on.

        Raises:
            Trouble: it could not be loaded.

        """
        loaded = await self._placed(model, options)
        loaded.busy += 1
        if loaded.timer is not None:
            loaded.timer.cancel()
            loaded.timer = None
        if keep_seconds is not None:
            loaded.keep_seconds = keep_seconds
        try:
            assert loaded.load is not None
            await asyncio.shield(loaded.load)
            yield loaded
        finally:
            self._give_back(loaded)

    def unload(self, model: HostedModel) -> None:
        """Have it out of memory as soon as it has answered."""
        for loaded in self._all:
            if loaded.model.name == model.name and not loaded.is_leaving:
                self._retire(loaded, "somebody asked for it")

    async def close(self) -> None:
        """End all of them."""
        self._is_closed = True
        for loaded in list(self._all):
            loaded.is_leaving = True
            self._end(loaded)
        await asyncio.gather(*(each.end for each in self._all if each.end is not None), return_exceptions=True)

    # Where a request goes

    async def _placed(self, model: HostedModel, options: Mapping[str, Any] | None) -> LoadedModel:
        """The model, loaded or loading; waits while there is no room for it."""
        while True:
            if self._is_closed:
                raise ServerTrouble("the host is ending")
            if (loaded := self._current(model, options)) is not None:
                return loaded
            if len(self._all) < self._settings.most_loaded:
                return self._begin(model, options)
            idle = min((each for each in self._all if each.is_idle), key=lambda each: each.used_at, default=None)
            if idle is not None:
                self._retire(idle, f"{model.name} wants its room")
            self._changed.clear()
            await self._changed.wait()

    def _current(self, model: HostedModel, options: Mapping[str, Any] | None) -> LoadedModel | None:
        """The one that may answer; one that no longer may is sent away."""
        for loaded in self._all:
            if loaded.model.name != model.name or loaded.is_leaving:
                continue
            if loaded.model.digest != model.digest:
                self._retire(loaded, "its weights have changed")
            elif options is not None and model.launch(self._settings, options) != loaded.launch:
                self._retire(loaded, "it is asked for with other options")
            else:
                return loaded
        return None

    def _begin(self, model: HostedModel, options: Mapping[str, Any] | None) -> LoadedModel:
        launch = model.launch(self._settings, options)
        loaded = LoadedModel(model, launch, self._settings.keep_alive_seconds, used_at=self._now())
        self._all.append(loaded)
        loaded.load = asyncio.create_task(self._load(loaded))
        loaded.load.add_done_callback(lambda task: task.cancelled() or task.exception())  # told to whoever waits
        if launch.note:
            logger.warning("llama-host: {}: {}", model.name, launch.note)
        return loaded

    async def _load(self, loaded: LoadedModel) -> None:
        began = self._now()
        try:
            for start in range(1, _STARTS + 1):
                process = EngineProcess(
                    self._command, loaded.launch.arguments, name=str(loaded.model.name), environ=self._environ
                )
                await process.start(self._told_of_end(loaded, process))
                loaded.process = process
                try:
                    await process.wait_ready(self._settings.load_timeout_seconds)
                    break
                except ServerTrouble:
                    if not process.lost_its_port or start == _STARTS:
                        raise
        except BaseException:
            loaded.is_leaving = True
            self._end(loaded)
            raise
        logger.info("llama-host: loaded {} in {:.2f} s", loaded.model.name, self._now() - began)
        loaded.used_at = self._now()
        self._set_timer(loaded)
        self._notify()

    def _told_of_end(self, loaded: LoadedModel, process: EngineProcess) -> Callable[[str], None]:
        def ended(how: str) -> None:
            if process.is_stopping or loaded.process is not process or loaded.is_leaving:
                return
            loaded.why_ended = f"the engine of {str(loaded.model.name)!r} ended {how}"
            logger.error("llama-host: {}; the next request starts it again", loaded.why_ended)
            if loaded.is_ready:  # else whoever loads it is told
                loaded.is_leaving = True
                self._end(loaded)

        return ended

    # Where it goes when nobody needs it

    def _give_back(self, loaded: LoadedModel) -> None:
        loaded.busy -= 1
        loaded.used_at = self._now()
        if loaded.is_leaving:
            if not loaded.busy:
                self._end(loaded)
        else:
            self._set_timer(loaded)
            self._notify()

    def _set_timer(self, loaded: LoadedModel) -> None:
        """Have an idle one end when its time is over."""
        if loaded.timer is not None:
            loaded.timer.cancel()
            loaded.timer = None
        if not loaded.is_idle or math.isinf(loaded.keep_seconds):
            return
        if loaded.keep_seconds <= 0:
            self._retire(loaded, "it was not to be kept")
            return
        loop = asyncio.get_running_loop()
        loaded.timer = loop.call_later(loaded.keep_seconds, self._retire, loaded, "nobody has used it for a while")

    def _retire(self, loaded: LoadedModel, why: str) -> None:
        """Send it away: at once, or when it has answered."""
        if loaded.is_leaving:
            return
        logger.info("llama-host: unloading {}: {}", loaded.model.name, why)
        loaded.is_leaving = True
        if not loaded.busy:
            self._end(loaded)

    def _end(self, loaded: LoadedModel) -> None:
        if loaded.timer is not None:
            loaded.timer.cancel()
        if loaded.end is None:
            loaded.end = asyncio.create_task(self._stop(loaded))

    async def _stop(self, loaded: LoadedModel) -> None:
        current = asyncio.current_task()
        if loaded.load is not None and not loaded.load.done() and loaded.load is not current and self._is_closed:
            loaded.load.cancel()
        if loaded.process is not None:
            await loaded.process.stop()
        if loaded in self._all:
            self._all.remove(loaded)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def memory_of(loaded: LoadedModel) -> tuple[int, int]:
    """The bytes that it takes, as far as its files tell, and how many of them on a GPU."""
    tier = replace(LOCAL, parallel=loaded.launch.parallel)
    weighed = weigh(loaded.model.size, tier, facts=loaded.model.card.facts, context=loaded.launch.context)
    total = loaded.model.size + (weighed.cache_bytes or 0)
    share = loaded.process.gpu_share if loaded.process is not None else 0.0
    return total, round(total * share)


def expires_at(loaded: LoadedModel, now: datetime, monotonic: float) -> datetime:
    """When it leaves memory if nobody uses it until then."""
    if math.isinf(loaded.keep_seconds):
        return FOREVER
    idle = 0.0 if loaded.busy else monotonic - loaded.used_at
    return now + timedelta(seconds=max(0.0, loaded.keep_seconds - idle))
