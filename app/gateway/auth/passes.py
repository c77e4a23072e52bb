"""The passes of batches that count now: what their lines show in place of a key.

A pass is read when a line first shows it, and again and again while lines do, as the keys of the ledger are: one that
is replaced or removed is refused within `TRUSTED`, and while the store is away the one that was known last counts for
`LASTS`. None is refused by what was read before it came: its batch may have made it a moment ago.
"""

import asyncio
import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.gateway.auth.line_troubles import LineNotNow, LineRefused
from jobs.access.keys.proofs import hash_of
from jobs.batches.passes import BatchPass, batch_of
from jobs.core.clock import Clock, isoformat
from jobs.store import keys
from jobs.store.protocols import ReadableDict

TRUSTED = timedelta(seconds=10)
"""For so long what was read counts without another look."""

LASTS = timedelta(minutes=10)
"""For so long a pass counts while the store is away."""

AGAIN = 1.0
"""Seconds between two looks for one batch: nobody makes the store busy by showing a pass that is none."""

WAIT = 5.0
"""Seconds that a line waits for its pass to be read."""

MOST_LOOKS = 16
"""At once; a line that comes beyond that comes again."""

MOST = 1024
"""Batches of which something is remembered."""

COME_AGAIN = timedelta(seconds=2)


@dataclass(frozen=True)
class _Seen:
    """What was read of a batch's pass, by a look that began then on the clock that never goes back; None is none."""

    found: BatchPass | None
    at: float


class Passes:
    """The event loop asks; `refresh` is any thread's to call.

    Args:
        facts: the ledger's dict.
        clock: the time.

    """

    def __init__(self, facts: ReadableDict, clock: Clock) -> None:
        self._facts = facts
        self._clock = clock
        self._noting = threading.Lock()
        #: What was read, by batch; under `_noting` where it is changed. Any thread may read it: values are whole.
        self._seen: dict[str, _Seen] = {}
        #: When a line last showed a good one, by batch. The event loop puts in, and the thread that refreshes copies.
        self._used: dict[str, float] = {}
        #: The looks under way, by batch. The event loop's own.
        self._looking: dict[str, asyncio.Task[None]] = {}
        #: Why the last look for a batch failed. The event loop's own.
        self._trouble = ""

    async def find(self, shown: str, now: Callable[[], datetime]) -> BatchPass:
        """The pass that was shown.

        Raises:
            LineRefused: it is none, has ended, or was replaced.
            LineNotNow: it cannot be read now.

        """
        batch, proof, came = batch_of(shown), hash_of(shown), self._clock.monotonic()
        if batch is None:
            raise LineRefused("this is no pass of a batch")
        while True:
            seen = self._seen.get(batch)
            moment = self._clock.monotonic()
            if seen is not None and self._is_good(seen, proof, now()) and moment - seen.at <= TRUSTED.total_seconds():
                assert seen.found is not None
                self._used[batch] = moment
                return seen.found
            if seen is not None and seen.at >= came:
                raise _refusal(seen.found, batch, proof)
            if await self._look(batch, came):
                continue
            if seen is not None and self._is_good(seen, proof, now()) and moment - seen.at <= LASTS.total_seconds():
                assert seen.found is not None
                return seen.found
            raise LineNotNow(
                f"the pass of {batch} cannot be read now: {self._trouble or 'the store does not answer'}",
                hint="nothing says that it is not good; come again soon",
                retry_after=COME_AGAIN,
            )

    def proof_of(self, batch: str) -> str | None:
        """What proves the pass of this batch, as it was read last; None where nothing is known to have replaced it."""
        seen = self._seen.get(batch)
        return None if seen is None else seen.found.proof if seen.found is not None else ""

    def refresh(self) -> None:
        """Read those anew that lines have shown lately. Any thread may."""
        now = self._clock.monotonic()
        for batch, used in self._used.copy().items():
            if now - used > LASTS.total_seconds():
                self._used.pop(batch, None)
                with self._noting:
                    self._seen.pop(batch, None)
            elif now - used <= 2 * TRUSTED.total_seconds():
                try:
                    self._read(batch)
                except Exception:  # noqa: BLE001 - whatever it is, what is known counts, as for the keys
                    return

    def keep(self, batch: str) -> None:
        """A line of this batch is under way, so its pass is read on."""
        self._used[batch] = self._clock.monotonic()

    @staticmethod
    def _is_good(seen: _Seen, proof: str, now: datetime) -> bool:
        found = seen.found
        return found is not None and hmac.compare_digest(found.proof.encode(), proof.encode()) and now < found.until

    async def _look(self, batch: str, came: float) -> bool:
        """Have it read, once for all who wait; false when that did not come to anything in time."""
        if (looking := self._looking.get(batch)) is None:
            if len(self._looking) >= MOST_LOOKS:
                self._trouble = "too many are read at once"
                return False
            seen = self._seen.get(batch)
            pause = 0.0 if seen is None else max(0.0, seen.at + AGAIN - came)
            looking = self._looking[batch] = asyncio.create_task(self._looked(batch, pause), name=f"pass of {batch}")
            looking.add_done_callback(lambda task: self._ended(batch, task))
        await asyncio.wait({looking}, timeout=WAIT)
        return looking.done() and not looking.cancelled() and looking.exception() is None

    async def _looked(self, batch: str, pause: float) -> None:
        if pause:
            await asyncio.sleep(pause)
        await asyncio.to_thread(self._read, batch)

    def _ended(self, batch: str, task: "asyncio.Task[None]") -> None:
        self._looking.pop(batch, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble = f"{type(error).__name__}: {error}"

    def _read(self, batch: str) -> None:
        at = self._clock.monotonic()
        document = self._facts.get(keys.batch_pass(batch))
        found = None
        if document is not None:
            try:
                found = BatchPass.from_json(document)
            except (KeyError, TypeError, ValueError):
                found = None  # nobody can show what proves this
        with self._noting:
            before = self._seen.get(batch)
            if before is None or before.at <= at:
                self._seen.pop(batch, None)
                self._seen[batch] = _Seen(found, at)
            while len(self._seen) > MOST:
                del self._seen[next(iter(self._seen))]


def _refusal(found: BatchPass | None, batch: str, proof: str) -> LineRefused:
    if found is None:
        why = f"{batch} has no pass"
    elif found.proof != proof:
        why = f"{batch} has another pass by now"
    else:
        why = f"the pass of {batch} ended at {isoformat(found.until)}"
    return LineRefused(why, hint="whoever holds the batch makes a new one")
