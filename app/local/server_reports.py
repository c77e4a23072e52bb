"""The servers of this machine, reported to the ledger as those of a deployment report themselves.

A thread asks each one what it has loaded; on one machine that costs and wakes nothing. So whoever wants to know how the
servers are reads the same facts as of a deployment.
"""

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from loguru import logger

from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.model_server.report import Loaded, Report
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, Trouble
from jobs.core.retry import NEVER
from jobs.ollama.client import OllamaClient
from jobs.store import keys
from jobs.store.outage import StoreOutage
from jobs.store.sqlite import SqliteDict

EVERY = timedelta(seconds=5)

CONTAINER = "local"
"""Each tier of one machine is one server."""

_TIMEOUT = timedelta(seconds=5)


class ServerReporter:
    """Writes down what each server of this machine has loaded, from a thread of its own.

    Args:
        urls: where each tier's server answers.
        facts: the ledger's dict.
        clock: for times and pauses.
        engines: what answers on each tier; Ollama where nothing is said.

    """

    def __init__(
        self, urls: Mapping[str, str], facts: SqliteDict, clock: Clock, engines: Mapping[str, Engine] | None = None
    ) -> None:
        self._engines = engines or {}
        self._servers = {
            tier: OllamaClient(url, policy=NEVER, stall=_TIMEOUT, clock=clock) for tier, url in urls.items()
        }
        self._facts = facts
        self._clock = clock
        self._started_at = clock.now()
        #: Held by whoever writes a report. None is written behind the last ones, which `stop` writes.
        self._writing = threading.Lock()
        #: The last report of each tier; guarded by `_writing`. Only the thread that reports reads it without.
        self._last: dict[str, Report] = {}
        self._outage = StoreOutage("the ledger of the servers' reports", clock)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server-reports", daemon=True)

    def start(self) -> None:
        """Report once, then keep reporting in a thread. What an earlier stack reported is over."""
        self._end_earlier()
        self.report_all()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _TIMEOUT.total_seconds())
        try:
            with self._writing:
                for report in self._last.values():
                    self._put(replace(report, state="ended", at=self._clock.now(), loaded=()))
        except StoreTrouble as trouble:  # the next stack says so as it starts
            logger.warning("that the servers have ended could not be written down: {}", trouble)
        for server in self._servers.values():
            server.close()

    def report_all(self) -> None:
        """One round: ask each server, and write down what it says.

        Raises:
            StoreTrouble: it cannot be written down.

        """
        for tier, server in self._servers.items():
            try:
                report = self._report_of(tier, server)
            except Trouble as trouble:
                logger.warning("the server of tier {} did not say how it is: {}", tier, trouble)
                continue
            with self._writing:
                if self._stopping.is_set():
                    return
                self._last[tier] = report
                self._put(report)

    def _report_of(self, tier: str, server: OllamaClient) -> Report:
        known = self._last.get(tier)
        return Report(
            tier=tier,
            container=CONTAINER,
            state="serving",
            at=self._clock.now(),
            started_at=self._started_at,
            engine=self._engines.get(tier, OLLAMA).name,
            version=known.version if known else server.version(),
            models=tuple(sorted(each.name for each in server.tags())),
            loaded=tuple(map(Loaded.of, server.ps())),
        )

    def _put(self, report: Report) -> None:
        self._facts.put(report.key, report.as_json())

    def _end_earlier(self) -> None:
        for _, value in list(self._facts.items(keys.SERVER)):
            report = Report.from_json(value)
            if not report.is_final:
                self._put(replace(report, state="ended", why="its stack is over", loaded=()))

    def _run(self) -> None:
        while not self._clock.wait(EVERY.total_seconds(), self._stopping):
            try:
                self.report_all()
                self._outage.passed("report")
            except StoreTrouble as trouble:
                self._outage.met("report", trouble)
            except Exception as error:  # noqa: BLE001 - one bad round must not end the thread that watches
                logger.warning("a report of the servers failed: {}: {}", type(error).__name__, error)
