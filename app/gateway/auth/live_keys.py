"""The keys that count now: those of lines, which no lost store takes away, and those of the ledger, read again and
again.

A key that is revoked is refused within `TRUSTED`: a request that comes with one of the ledger's when that was read
longer ago waits for it to be read. While the store is away the keys that were known last count for `LASTS`, then none
of the ledger's; what the store has lost is put back from what is known here. Where both have a name, the line counts.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Self

from loguru import logger

from app.gateway.auth.key_lines import FixedLines, KeyLines
from app.gateway.auth.keys import BatchLine, Caller, Key, Keys, UnknownKey
from app.gateway.auth.line_troubles import LineNotNow, LineRefused, not_now
from app.gateway.auth.passes import COME_AGAIN, Passes
from app.gateway.auth.signatures import SignedRequest
from jobs.access.keys.key_copy import KeysCopy
from jobs.access.keys.key_records import KeyRecord
from jobs.access.keys.key_store import KeysFound, read_keys, restore
from jobs.access.keys.key_words import CHAT
from jobs.access.limits import NO_LIMITS, Limits
from jobs.batches.passes import PREFIX as PASS
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import StoreTrouble, StoreUnavailable, Unauthorized
from jobs.core.units import human_span
from jobs.store.protocols import DictLike

EVERY = timedelta(seconds=4)
"""How often they are read while somebody asks: by one round trip."""

TRUSTED = timedelta(seconds=10)
"""For so long what was read counts without another look."""

LASTS = timedelta(minutes=10)
"""For so long the keys of the ledger count while it is away."""

WAIT = timedelta(seconds=5)
"""So long a request waits for them to be read."""

AGAIN = timedelta(seconds=1)
"""Between two looks for a key that is not known: nobody makes the store busy by asking with one."""

Stop = Callable[[Unauthorized], None]
"""Ends a request under way, and says why."""

Headers = Iterable[tuple[bytes, bytes]]


class LiveKeys:
    """The event loop of the gateway asks, a thread reads. `known` is replaced as a whole, and never changes itself.

    Args:
        lines: the keys of lines.
        facts: the ledger's dict; None where there are no keys but those.
        clock: the time.
        copy: what a copy of the ledger's keys knew at the start.
        may_be_open: without any key everybody is let in, unless there ever was one.

    """

    def __init__(
        self,
        lines: KeyLines,
        facts: DictLike | None,
        clock: Clock,
        *,
        copy: KeysCopy | None = None,
        may_be_open: bool = False,
    ) -> None:
        self._lines = lines
        self._facts = facts
        self._clock = clock
        #: Held by the one thread that reads.
        self._refreshing = threading.Lock()
        #: The ledger's keys as they were known last. Replaced under `_refreshing`, as all down to `trusted_until`.
        self._found = copy.found if copy is not None else KeysFound()
        self._is_open = may_be_open and not (copy is not None and copy.is_there)
        self._is_read = facts is None
        self._of_lines: Keys | None = None
        #: Why the last reading failed, and what is odd about the keys. Read by any thread.
        self._trouble: str | None = None
        self._notes: tuple[str, ...] = ()
        self._defaults = NO_LIMITS
        self.passes = None if facts is None else Passes(facts, clock)
        """What lines of batches show in place of a key."""
        self.known = Keys(is_open=False)
        """The keys, as they were read last. Any thread may read it."""
        self.trusted_until = float("inf") if facts is None else float("-inf")
        """Until when, on the clock that never goes back, what is known of the ledger needs no other look."""
        self._lasts_until = float("-inf")
        #: Set by the event loop, taken back by the thread that reads.
        self.is_used = False
        #: The requests under way, by what ends them. The event loop's alone; a thread may look whether there are any.
        self.under_way: dict[Stop, Key] = {}
        #: These three are the event loop's alone.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._asked_at = float("-inf")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._publish(self._found)

    @classmethod
    def fixed(cls, keys: Keys) -> Self:
        """Keys that stay as they are."""
        return cls(FixedLines(keys), None, SystemClock(), may_be_open=True)

    def limit(self, defaults: Limits) -> None:
        """Set what a key may take that says nothing of it; before anybody asks."""
        with self._refreshing:
            self._defaults = defaults
            self._publish(self._found)

    # -- what is known -------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many keys there are."""
        return self.known.count

    @property
    def names(self) -> tuple[str, ...]:
        """For labels and lists: nothing here is secret."""
        return self.known.names

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in."""
        return self.known.is_open

    @property
    def of_lines(self) -> tuple[Key, ...]:
        """The keys of lines."""
        return self._lines.read().all if self._of_lines is None else self._of_lines.all

    def named(self, name: str) -> Caller | None:
        """Whose key has this name; None where it is of nobody."""
        return self.known.named(name)

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the keys, in lines for people."""
        return tuple(filter(None, (self._trouble, self._lines.trouble, *self._notes)))

    # -- who asks ------------------------------------------------------------------------------------------------------

    async def key_of(
        self,
        headers: Headers,
        now: datetime,
        signed: Callable[[], SignedRequest] | None = None,
        *,
        takes_passes: bool = False,
    ) -> Key:
        """The key that these headers show, whether it has expired or not; after another look where that is due. Of the
        pass of a batch, where it is taken, one that is good now, with the rights of the batch's owner.

        Raises:
            Unauthorized: no key, or one that is not known; or a signature that does not fit.
            LineRefused: a pass that is not good here.
            LineNotNow: a pass of which that cannot be told now.
            StoreUnavailable: it is the ledger's, which could not be read for too long.

        """
        shown = list(headers)
        for name, value in shown:
            if name == b"authorization" and value.startswith(_PASS):
                return await self._key_of_pass(value[len(_BEARER) :].decode("latin-1"), now, is_taken=takes_passes)
        try:
            key = self.known.key_of(shown, now, signed)
        except Unauthorized as refusal:
            may_be_new = isinstance(refusal, UnknownKey) or not self._is_read
            if self._facts is None or not may_be_new:
                raise
            if self._clock.monotonic() - self._asked_at < AGAIN.total_seconds():
                raise
            await self._look()
            key = self.known.key_of(shown, now, signed)
        if key.is_of_ledger and self._clock.monotonic() > self.trusted_until:
            await self._look()
            key = self.known.key_of(shown, now, signed)
            if key.is_of_ledger and self._clock.monotonic() > self._lasts_until:
                raise _unread()
        return key

    async def _key_of_pass(self, shown: str, now: datetime, *, is_taken: bool) -> Key:
        if self.passes is None or not is_taken:
            raise LineRefused("the pass of a batch opens nothing but what its lines ask", hint="ask with a key")
        found = await self.passes.find(shown, self._clock.now)
        owner = await self._owner(found.owner, now)
        if not owner.caller.may(CHAT):
            raise LineRefused(f"key {found.owner!r}, whose batch this is, may not ask models any more")
        return Key(owner.caller, found.proof, batch_line=BatchLine(found.batch, found.owner, found.may_wake))

    async def _owner(self, name: str, now: datetime) -> Key:
        """The key of this name, which is good; nobody's is refused by what was read before this came."""
        came = self._clock.monotonic()
        owner = self.known.of_owner(name, now)
        if owner is None or not self._is_read or (owner.is_of_ledger and came > self.trusted_until):
            await self._look()
            owner = self.known.of_owner(name, now)
        if owner is None and self._facts is not None and self.trusted_until < came + TRUSTED.total_seconds():
            raise LineNotNow(f"key {name!r} is not known here yet", hint="come again soon", retry_after=COME_AGAIN)
        if owner is None:
            raise LineRefused(f"key {name!r}, whose batch this is, is none any more")
        if owner.is_of_ledger and self._clock.monotonic() > self._lasts_until:
            raise not_now(_unread())
        return owner

    async def identify(
        self, headers: Headers, now: datetime, signed: Callable[[], SignedRequest] | None = None
    ) -> Caller:
        """Who sends these headers, with this request.

        Raises:
            Unauthorized: no key, one that is not known, or one that has expired; or a signature that does not fit.
            StoreUnavailable: the ledger, whose key it is, could not be read for too long.

        """
        self.is_used = True
        return (await self.key_of(headers, now, signed)).caller_at(now)

    async def _look(self) -> None:
        """Have them read, by one thread for all who wait. Who comes when that lasts long does not wait."""
        now = self._clock.monotonic()
        if self._asking is None:
            if now - self._asked_at < AGAIN.total_seconds():
                return
            self._asked_at = now
            self._asking = asyncio.create_task(asyncio.to_thread(self.refresh), name="keys")
            self._asking.add_done_callback(self._looked)
        elif now - self._asked_at > WAIT.total_seconds():
            return
        await asyncio.wait({self._asking}, timeout=WAIT.total_seconds())

    def _looked(self, task: asyncio.Task[bool]) -> None:
        """Also when every caller has left before its end: the next one gets a new look."""
        self._asking = None
        if not task.cancelled():
            task.exception()  # heard, whoever waits or not

    # -- how they stay fresh -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on a thread reads them while somebody asks. In the event loop whose requests it ends."""
        self._loop = asyncio.get_running_loop()
        if self._facts is not None or not isinstance(self._lines, FixedLines):
            self._thread = threading.Thread(target=self._keep_fresh, name="keys", daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._stopping.set()
        self._loop = None

    def refresh(self) -> bool:
        """Read them; false when that failed, and they stay as they were known. Any thread may."""
        with self._refreshing:
            began = self._clock.monotonic()
            is_read = True
            if self._facts is not None:
                try:
                    found = read_keys(self._facts)
                except Exception as error:  # noqa: BLE001 - whatever it is, the gateway goes on with what it knows
                    is_read = False
                    self._failed(error)
                else:
                    self._worked()
                    self._put_back(self._facts, found)
                    self._is_read = True
                    self._found = found.joined(self._found).remembered(self._clock.now())
                    self.trusted_until = began + TRUSTED.total_seconds()
                    self._lasts_until = began + LASTS.total_seconds()
            self._publish(self._found)
        if self.passes is not None:
            self.passes.refresh()
        if self.under_way and self._loop is not None:
            self._loop.call_soon_threadsafe(self.end_refused)
        return is_read

    def end_refused(self) -> None:
        """End what is under way by a key, or by a pass, that is not good any more. In the event loop."""
        now = self._clock.now()
        for stop, key in list(self.under_way.items()):
            why = self._refusal(key, now)
            if why is not None:
                stop(why)

    def _refusal(self, key: Key, now: datetime) -> Unauthorized | None:
        if key.batch_line is not None:
            return self._refusal_of_line(key.batch_line, key.proof, now)
        if not key.proof:
            return None  # whoever was let in without a key, while none was needed
        known = self.known.of_proof(key.proof)
        if known is None or known.caller.name != key.caller.name:
            return Unauthorized(f"key {key.caller.name!r} is none any more", hint="ask for another one")
        try:
            known.caller_at(now)
        except Unauthorized as refusal:
            return refusal
        return None

    def _refusal_of_line(self, line: BatchLine, proof: str, now: datetime) -> LineRefused | None:
        assert self.passes is not None
        self.passes.keep(line.batch)
        if self.passes.proof_of(line.batch) not in {proof, None}:
            return LineRefused(f"{line.batch} has another pass by now, or none")
        if self.known.of_owner(line.owner, now) is None:
            return LineRefused(f"key {line.owner!r}, whose batch this is, is none any more")
        return None

    def _keep_fresh(self) -> None:
        while not self._stopping.is_set():
            self._clock.wait(EVERY.total_seconds(), self._stopping)
            if self._stopping.is_set():
                return
            if self.is_used or self.under_way:
                self.is_used = False
                self.refresh()
            else:
                self._look_at_lines()

    def _look_at_lines(self) -> None:
        """Have a file that has changed count, though nobody asks: who asks next may be one whom it lets in no more."""
        with self._refreshing:
            if self._lines.read() is not self._of_lines:
                self._publish(self._found)

    def _put_back(self, facts: DictLike, found: KeysFound) -> None:
        """Give the store what it has lost, as it was known here; where it takes nothing now, the next time."""
        lost = self._found.beyond(found, self._clock.now())
        if not lost:
            return
        try:
            names = ", ".join(restore(facts, lost))
        except StoreTrouble as trouble:
            logger.warning("the ledger has lost keys, and cannot be given them back now: {}", trouble)
            return
        if names:
            logger.error("the ledger had lost keys, and they are put back as they were known here: {}", names)

    def _failed(self, error: Exception) -> None:
        why = f"the keys of the ledger cannot be read: {type(error).__name__}: {error}"
        if self._trouble is None:
            logger.warning("{}; those that are known count for {} more", why, human_span(LASTS))
        self._trouble = why

    def _worked(self) -> None:
        if self._trouble is not None:
            logger.info("the keys of the ledger are read again")
        self._trouble = None

    def _publish(self, found: KeysFound) -> None:
        """Replace what is known, where it is something else."""
        lines = self._lines.read()
        self._is_open = self._is_open and not lines.all and found.is_empty
        ledger, notes = _of_ledger(found, lines)
        is_open = self._is_open and self._is_read
        known = Keys(
            (*lines.all, *ledger), is_open=is_open, is_of_ledger=self._facts is not None, defaults=self._defaults
        )
        self._of_lines = lines
        if known.all != self.known.all or known.is_open != self.known.is_open:
            self.known = known
        if notes != self._notes:
            self._notes = notes
            for note in notes:
                logger.warning("{}", note)


_BEARER = b"Bearer "
_PASS = _BEARER + PASS.encode()


def _unread() -> StoreUnavailable:
    return StoreUnavailable(
        "the keys of the ledger cannot be read",
        hint=f"for {human_span(LASTS)} those known last count, then only those of lines; ask again soon",
    )


def _of_ledger(found: KeysFound, lines: Keys) -> tuple[list[Key], tuple[str, ...]]:
    """The keys of the ledger beside those of lines, and what is odd about them."""
    notes = [
        f"key {name!r} of the ledger cannot be read by this version, and lets nobody in" for name in found.unreadable
    ]
    names, proofs = set(lines.names) if lines.all else set(), {key.proof for key in lines.all}
    taken: list[Key] = []
    in_order = sorted(found.records.values(), key=lambda each: (each.is_revoked, each.made_at, each.name))
    for record in in_order:
        if record.name in names:
            if not record.is_revoked:
                notes.append(f"key {record.name!r} is in the ledger and on a line, and the line counts; rename one")
            continue
        for key in _keys_of(record):
            if key.proof not in proofs:
                taken.append(key)
                proofs.add(key.proof)
            elif key.revoked_at is None:
                notes.append(f"key {record.name!r} of the ledger has the proof of another key, which counts")
    return taken, tuple(notes)


def _keys_of(record: KeyRecord) -> Iterator[Key]:
    told = record.settings
    caller = Caller(record.name, frozenset(told.scopes), told.models, told.limits)
    for proof in record.proofs:
        ends = min(filter(None, (proof.until, told.expires)), default=None)
        yield Key(caller, proof.text, ends, is_of_ledger=True, revoked_at=record.revoked_at)
