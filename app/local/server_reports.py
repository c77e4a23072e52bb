"""The servers of this machine, reported to the ledger as those of a deployment report themselves.

A thread asks each one what it has loaded; on one machine that costs and wakes nothing. So whoever wants to know how the
servers are reads the same facts as of a deployment. That a server starts, and how that went, is told as well; its loads
are told by the gateway, which waits for them.
"""

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from loguru import logger

from app.local.servers import begun_start
from app.model_server.report import Loaded, Report
from app.model_server.starting.phases import Phases
from app.model_server.starting.start_reports import cold_start
from jobs.core.clock import Clock
from jobs.core.errors import StoreTrouble, Trouble
from jobs.core.retry import NEVER
from jobs.ollama.client import OllamaClient
from jobs.store import keys
from jobs.store.outage import StoreOutage
from jobs.store.sqlite import SqliteDict

EVERY = timedelta(seconds=5)

_LOOK_SECONDS = 0.25
"""Between two looks at a server that starts."""

CONTAINER = "local"
"""Each tier of one machine is one server."""

_TIMEOUT = timedelta(seconds=5)


class ServerReporter:
    """Writes down what each server of this machine has loaded, from a thread of its own.

    Args:
        urls: where each tier's server answers.
        facts: the ledger's dict.
        clock: for times and pauses.
        starts: how each server's start went, where it is we who started it.

    """

    def __init__(
        self, urls: Mapping[str, str], facts: SqliteDict, clock: Clock, starts: Mapping[str, Phases] | None = None
    ) -> None:
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
        #: How each tier's server started last, and those of them that are not written down yet. Under `_starting`, held
        #: by the main thread as it says that one begins, and by the thread that reports.
        self._starts = dict(starts or {})
        self._unwritten = list(self._starts.items())
        self._starting = threading.Lock()
        #: Set by whoever has something to be looked at now.
        self._wake = threading.Event()
        self._outage = StoreOutage("the ledger of the servers' reports", clock)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server-reports", daemon=True)

    def start(self) -> None:
        """Report once, then keep reporting in a thread. What an earlier stack reported is over."""
        self._end_earlier()
        self.report_all()
        self._thread.start()

    def began(self, tier: str) -> None:
        """The server of a tier is started again, just now."""
        with self._starting:
            self._starts[tier] = phases = begun_start(self._clock)
            phases.ended("weights")  # they are there
            self._unwritten.append((tier, phases))
        self._wake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
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
        self._write_starts()

    def _report_of(self, tier: str, server: OllamaClient) -> Report:
        """What a server says; one that starts is not asked, as it may take its time to answer."""
        if (phases := self._going_on().get(tier)) is not None:
            return Report(tier, CONTAINER, "waking", self._clock.now(), progress=(phases.progress(),))
        known = self._last.get(tier)
        with self._starting:
            started = self._starts.get(tier)
        return Report(
            tier=tier,
            container=CONTAINER,
            state="serving",
            at=self._clock.now(),
            started_at=self._started_at if started is None else started.at,
            version=(known.version if known else "") or server.version(),
            models=tuple(sorted(each.name for each in server.tags())),
            loaded=tuple(map(Loaded.of, server.ps())),
            progress=() if started is None else (started.progress(),),
        )

    def _going_on(self) -> dict[str, Phases]:
        with self._starting:
            return {tier: phases for tier, phases in self._starts.items() if not phases.is_over}

    def _write_starts(self) -> None:
        """Write the facts of the starts that are over, unless a gateway has said more already."""
        with self._starting:
            over = [(tier, phases) for tier, phases in self._unwritten if phases.is_over]
        for tier, phases in over:
            fact = cold_start(tier, CONTAINER, phases.progress())
            self._facts.put(fact.key, fact.as_json(), skip_if_exists=True)
        with self._starting:
            self._unwritten = [each for each in self._unwritten if each not in over]

    def _put(self, report: Report) -> None:
        self._facts.put(report.key, report.as_json())

    def _end_earlier(self) -> None:
        for _, value in list(self._facts.items(keys.SERVER)):
            report = Report.from_json(value)
            if not report.is_final:
                self._put(replace(report, state="ended", why="its stack is over", loaded=()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._has_watched_starts():
                self._clock.wait(EVERY.total_seconds(), self._wake)
            self._wake.clear()
            if self._stopping.is_set():
                return
            try:
                self.report_all()
                self._outage.passed("report")
            except StoreTrouble as trouble:
                self._outage.met("report", trouble)
            except Exception as error:  # noqa: BLE001 - one bad round must not end the thread that watches
                logger.warning("a report of the servers failed: {}: {}", type(error).__name__, error)

    def _has_watched_starts(self) -> bool:
        """Look often at the servers that start, until one answers or the next report is due; false where none does."""
        starting = self._going_on()
        until = self._clock.monotonic() + EVERY.total_seconds()
        while starting and self._clock.monotonic() < until and not self._clock.wait(_LOOK_SECONDS, self._stopping):
            for tier, phases in starting.items():
                with suppress(Trouble):
                    self._servers[tier].version()
                    phases.ended("engine")
                    phases.over()
                    return True
        return bool(starting)
