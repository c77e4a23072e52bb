"""How new weights get into a server that runs: at its start, and later whenever nothing is in use.

The server is frozen while the volume is reloaded and the view copied, so nobody can see a thing half done, and whoever
asks meanwhile waits a moment. When in doubt the weights wait; a request never does.

Connections are the first sign of a request. They are not the last word: whoever stands between may keep some open that
carry nothing. A model that was told to go and is still there is in use beyond doubt, and what is on its way into memory
has a file open, so that the volume cannot be reloaded.
"""

import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from loguru import logger

from app.model_server.connections import callers_of
from app.model_server.models_view import ModelsView
from app.model_server.process import Daemon
from app.model_server.reload_policy import ServerView
from app.model_server.settings import ServerHost
from app.platform.errors import FilesOpen, NotReloaded
from jobs.core.errors import ServerTrouble, Trouble
from jobs.core.model_name import ModelName
from jobs.store import keys

if TYPE_CHECKING:
    from concurrent.futures import Future

    from jobs.ollama.client import OllamaClient

_RELOAD_PAUSES = (0.0, 0.5, 1.0, 2.0)
"""A runner that was told to end needs a moment to close its files."""

_FROZEN_RELOAD = timedelta(seconds=15)
"""A reload takes some seconds; callers wait as long as the server is frozen for it, and notice no more than that."""

_FIRST_BACKOFF = timedelta(minutes=2)
_LONGEST_BACKOFF = timedelta(minutes=30)
"""Between two tries at a reload that the platform leaves unanswered: each costs the callers a frozen server."""

_UNLOADED_PAUSES = (0.1, 0.4, 1.5)
"""And one to be gone from the list, if nobody uses it."""


_UNKNOWN = object()
"""A generation that equals no other."""


class WeightsReload:
    """The weights of one server.

    Args:
        host: where it runs.
        view: what it sees of the weights.
        daemon: the server's process.
        stopping: set when there is no time left for any of this.

    """

    def __init__(self, host: ServerHost, view: ModelsView, daemon: Daemon, stopping: threading.Event) -> None:
        #: The generation of the weights that are served. Written by the thread that starts the server, later by the
        #: supervisor's; read by whichever thread reports.
        self.current: Any = _UNKNOWN
        #: How many of the server's requests were ours. Counted under `_counting` by the threads that load and unload,
        #: read by whichever thread reports.
        self.own_requests = 0
        self._counting = threading.Lock()
        self._host = host
        self._view = view
        self._daemon = daemon
        self._stopping = stopping
        #: These two are the supervisor thread's own.
        self._unanswered = 0
        self._next_try_at = 0.0

    @property
    def is_backing_off(self) -> bool:
        """Whether the platform failed at the last reload so recently that another try would only freeze the server."""
        return self._host.clock.monotonic() < self._next_try_at

    @property
    def generation(self) -> Any:
        return None if self.current is _UNKNOWN else self.current

    def wanted_generation(self) -> Any:
        return self._host.facts.get(keys.WEIGHTS_GENERATION)

    def prepare(
        self,
        generation: "Future[Any]",
        visible: Callable[[], None],
        before_reload: Callable[[], None] = lambda: None,
    ) -> None:
        """Before anything is loaded: the newest weights.

        Args:
            generation: that is wanted; it is read first, so that it is never ahead of them.
            visible: called as soon as they can be read.
            before_reload: called where the volume has to be reloaded, which fails while a file of it is open.

        """
        try:
            wanted = generation.result()
        except Exception as error:  # noqa: BLE001 - it serves what it has; the thread asks again
            logger.warning("the ledger cannot be asked for the newest weights: {}: {}", type(error).__name__, error)
            wanted = _UNKNOWN
        known = None if wanted is _UNKNOWN else wanted
        found = self._view.current(known)
        try:
            if found is None:  # a volume is mounted as it was committed last, so most often there is nothing to reload
                before_reload()
                self._host.reload(None)
            self.current = wanted
        except RuntimeError as error:
            logger.warning("the volume cannot be reloaded yet: {}", error)
        visible()
        self._view.copy(known, found)

    def refresh(self, wanted: Any, view: ServerView) -> None:
        """Unload what is loaded, take in the generation that is wanted, and load again what is still there."""
        loaded = [ModelName.parse(name) for name in view.names]
        self.unload(loaded)
        try:
            self.reload(wanted)
        finally:
            self.load(loaded)

    def reload(self, wanted: Any, *, ignore_connections: bool = False) -> bool:
        """Take in the generation that is wanted, with nothing in memory; false when something forbade it.

        The server is frozen for one unanswered reload at most; then none is tried again for a while (`is_backing_off`).

        Args:
            wanted: the generation, as it was read before.
            ignore_connections: that some are open does not count, because nothing can be in use (`is_unloaded`).

        """
        if self._reloaded_with_retries(wanted, ignore_connections=ignore_connections):
            self.current = wanted
        return bool(self.current == wanted)

    def unload(self, names: Iterable[ModelName]) -> None:
        """Have these models out of memory; those in use go when their answers have ended."""
        with self._host.ollama() as ollama:
            for name in names:
                ollama.unload(str(name))
                self._count_own()

    def is_unloaded(self) -> bool:
        """Whether nothing is in memory any more, a moment after it was told to go: what is in use stays."""
        with self._host.ollama() as ollama:
            for pause in _UNLOADED_PAUSES:
                if self._host.clock.wait(pause, self._stopping):
                    return False
                if not ollama.ps():
                    return True
        return False

    def served_of(self, names: Iterable[ModelName]) -> list[ModelName]:
        """Those of the models that are served, each once and in their order."""
        served = {name.folded() for name in self._view.names()}
        return list({name.folded(): name for name in names if name.folded() in served}.values())

    def load(self, names: Iterable[ModelName], *, keep_alive: timedelta | None = None) -> list[ModelName]:
        """Have those of the models in memory that are served; those that are now.

        Args:
            names: the models.
            keep_alive: for so long. One that was told to go while it is in use goes all the same unless this is said.

        """
        with self._host.ollama() as ollama:
            return [name for name in self.served_of(names) if self._load(ollama, name, keep_alive)]

    def _reloaded_with_retries(self, wanted: Any, *, ignore_connections: bool) -> bool:
        for pause in _RELOAD_PAUSES:
            if self._host.clock.wait(pause, self._stopping) or self.is_backing_off:
                return False
            if self._reloaded_once(wanted, ignore_connections=ignore_connections):
                return True
        return False

    def _reloaded_once(self, wanted: Any, *, ignore_connections: bool) -> bool:
        with self._daemon.frozen():
            if not ignore_connections and callers_of(self._host.address.port) != 0:
                logger.info("new weights wait: a request came in between")
                return False
            try:
                self._host.reload(_FROZEN_RELOAD)
            except RuntimeError as error:
                logger.info("new weights wait: {}", error)
                if isinstance(error, NotReloaded) and not isinstance(error, FilesOpen):
                    self._back_off()
                return False
            self._view.copy(wanted)
        self._unanswered = 0
        return True

    def _back_off(self) -> None:
        """Leave the volume alone for a while, longer each time."""
        doublings: int = 2 ** min(self._unanswered, 10)
        self._unanswered += 1
        pause = min(_FIRST_BACKOFF * doublings, _LONGEST_BACKOFF).total_seconds()
        self._next_try_at = self._host.clock.monotonic() + pause
        logger.warning("the platform does not reload the volume; new weights wait for {:.0f} s", pause)

    def _load(self, ollama: "OllamaClient", name: ModelName, keep_alive: timedelta | None = None) -> bool:
        try:
            ollama.load(str(name), keep_alive=keep_alive, check=self._require_running)
        except Trouble as trouble:  # it serves the others, and this one may load for whoever asks for it
            logger.warning("{} did not load: {}", name, trouble)
            return False
        self._count_own()
        logger.info("loaded {}", name)
        return True

    def _count_own(self) -> None:
        with self._counting:
            self.own_requests += 1

    def _require_running(self) -> None:
        if self._stopping.is_set():
            raise ServerTrouble("the server is stopping")
