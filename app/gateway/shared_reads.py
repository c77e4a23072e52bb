"""What pages and commands are told of the ledger's dict: each sort of entries is read once for all who ask within a few
seconds, and nothing else with it."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from app.gateway.catalog.shared_answer import SharedAnswer
from jobs.store import keys
from jobs.store.protocols import ReadableDict
from jobs.telemetry.nightly_report import OF_NIGHTS
from jobs.telemetry.usage import last_used_in

Entries = Mapping[str, Any]


class SharedReads:
    """Belongs to one event loop; what it reads, threads beside it read.

    Args:
        facts: the ledger's dict.
        past: what has left it for the archive, by the keys that it had there.
        write_usage: writes down what this process has counted so far.

    """

    def __init__(self, facts: ReadableDict, past: Callable[[], Entries], write_usage: Callable[[], object]) -> None:
        self._facts = facts
        self._write_usage = write_usage
        self._archived = SharedAnswer(lambda: asyncio.to_thread(past))
        self._turns = SharedAnswer(lambda: asyncio.to_thread(self._listed, keys.HEALTH))
        self._last_used = SharedAnswer(self._ask_last_used)
        self.usage = SharedAnswer(lambda: asyncio.to_thread(self._read_usage))
        """Who used what, and what containers counted, as the dict has it: what was counted here until now is in it."""
        self._speeds = SharedAnswer(lambda: asyncio.to_thread(self._listed, keys.BATCH_SPEED))
        self.night = SharedAnswer(lambda: asyncio.to_thread(self._listed, *OF_NIGHTS))
        """What the last night wrote down, and the incidents."""

    async def of_cost(self) -> Entries:
        """What costs are estimated by: of the dict, and of the archive."""
        return {**await self._archived(), **await self.usage()}

    async def of_days(self) -> Entries:
        """The same, and how each tier was."""
        return {**await self.of_cost(), **await self._turns()}

    async def of_batches(self) -> Entries:
        """What batches are estimated by: the same as costs, and what finished ones measured."""
        return {**await self.of_cost(), **await self._speeds()}

    async def last_used(self) -> Mapping[str, datetime]:
        """When each model was, by its folded name."""
        return await self._last_used()

    async def _ask_last_used(self) -> Mapping[str, datetime]:
        entries = await self.usage()
        return await asyncio.to_thread(last_used_in, entries)

    def _read_usage(self) -> Entries:
        self._write_usage()  # so that what has just happened is in it
        return self._listed(*keys.SORTS["usage"])

    def _listed(self, *prefixes: str) -> Entries:
        return dict(self._facts.items(*prefixes))
