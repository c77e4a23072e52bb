"""What a gateway has for batches, and what every route of them needs."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, timedelta, tzinfo
from typing import Any, Protocol, TypeVar

from loguru import logger

from app.gateway.auth.fair_shares import KeyCount, Shares, Turns
from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.batches.received import in_thread
from app.gateway.protocol import body as bodies
from app.gateway.protocol.exchange import Exchange
from jobs.access.audit import Audit
from jobs.access.keys.key_words import ADMIN
from jobs.batches.batch_store import Batch, BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.limits import USUAL, BatchLimits
from jobs.batches.records import BatchDialect, FileRecord, new_batch_id
from jobs.core.clock import Clock
from jobs.core.errors import NotFound
from jobs.ledger.kinds import BATCHES_LANE
from jobs.ledger.ledger import Ledger
from jobs.store.protocols import ShrinkingDict

THREADS = 4
"""That read and write pieces of files; and as many others that look for files. Neither waits for the store, nor for one
another: a disk that hangs holds up nobody else, and who looks for what is not there holds up no upload."""

TURNS = 2
"""Questions about files and batches that one key has at once: on a platform each may list a Dict or reload a volume."""

UPLOADS = 8
"""At once: each takes some megabytes while it comes."""

_T = TypeVar("_T")


class LedgerThreads(Protocol):
    """The threads that ask the ledger."""

    async def do(self, work: Callable[[Ledger], _T], /) -> _T:
        """Have a thread do this with its ledger."""


@dataclass(frozen=True)
class BatchParts:
    """What a gateway that takes batches has for them.

    Args:
        storage: where files lie.
        limits: what is declared of them.
        zone: of times of day that name none; None for that of this machine.

    """

    storage: BatchStorage
    limits: BatchLimits = USUAL
    zone: tzinfo | None = UTC


@dataclass(frozen=True)
class BatchContext:
    """What every route of batches needs.

    Args:
        parts: what this gateway has for them.
        facts: the ledger's dict.
        ledger_pool: asks the ledger.
        clock: the time.
        audit: writes down what an administrator does.
        send_worker: starts a worker for a lane.
        keys: how many there are.
        body_seconds: how long nothing of an upload may come.

    """

    parts: BatchParts
    facts: ShrinkingDict
    ledger_pool: LedgerThreads
    clock: Clock
    audit: Audit
    send_worker: Callable[[str], object]
    keys: KeyCount
    body_seconds: float = bodies.SECONDS
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="pieces")
    )
    lookers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="files"))
    turns: Turns = field(default_factory=lambda: Turns(TURNS))
    uploads: Shares = field(init=False)

    def __post_init__(self) -> None:
        shares = Shares(
            "uploads under way",
            UPLOADS,
            keys=self.keys,
            hint="wait for one of them to end",
            retry_after=timedelta(seconds=10),
        )
        object.__setattr__(self, "uploads", shares)

    @property
    def storage(self) -> BatchStorage:
        return self.parts.storage

    def close(self) -> None:
        """Let what was begun end, and take nothing more."""
        self.threads.shutdown()
        self.lookers.shutdown()

    async def pieces(self, work: Callable[..., _T], *args: Any) -> _T:
        """What this answers, in a thread that reads or writes a piece of a file."""
        return await in_thread(self.threads, work, *args)

    async def files(self, caller: Caller, work: Callable[[BatchStorage], _T]) -> _T:
        """What this answers for a caller whose turn it is, in a thread that may wait for files."""
        async with self.turns.of(caller.name):
            return await in_thread(self.lookers, work, self.storage)

    async def batches(self, caller: Caller, work: Callable[[BatchStore], _T]) -> _T:
        """What this answers for a caller whose turn it is, in a thread that may wait for the ledger."""
        async with self.turns.of(caller.name):
            return await self.ledger_pool.do(lambda ledger: work(BatchStore(self.facts, ledger, self.clock)))

    def send(self) -> None:
        """Start a worker. One that cannot be sent now loses nothing: the next sweep sends again."""
        try:
            self.send_worker(BATCHES_LANE)
        except Exception as error:  # noqa: BLE001 - the batch is posted, whatever the platform says now
            logger.warning("lane {} could not be sent a worker: {}", BATCHES_LANE, type(error).__name__)

    def act(self, exchange: Exchange, act: str, subject: str) -> AbstractContextManager[object]:
        """Write down what is done inside, if an administrator does it. For a thread that may wait for the store."""
        caller = exchange.caller
        if not caller.may(ADMIN):
            return nullcontext()
        return self.audit.act(who=caller.name, request=exchange.id, act=act, subject=subject)


# -- whose -------------------------------------------------------------------------------------------------------------


def owner_of(caller: Caller) -> str:
    """Whom it belongs to, what this caller brings: nobody, where there are no keys."""
    return "" if caller is ANYONE else caller.name


def lists_of(caller: Caller) -> str | None:
    """Whose a list has: a caller's own; all where there are no keys."""
    return None if caller is ANYONE else caller.name


def is_own(caller: Caller, owner: str) -> bool:
    """Whether a caller may read what stands in it."""
    return caller is ANYONE or owner == caller.name


def looks_after(caller: Caller, owner: str) -> bool:
    """Whether a caller is told of it and may end it: always of his own; as an administrator of all models, of others'
    as well."""
    return is_own(caller, owner) or (caller.may(ADMIN) and not caller.models)


def find_file(storage: BatchStorage, caller: Caller, id: str, *, for_content: bool = False) -> FileRecord:
    """The file of this id. An administrator may look at others', and remove them, but not read what stands in them.

    Raises:
        NotFound: there is none, or it is another's.

    """
    found = storage.file(id)
    if found is None or not (is_own if for_content else looks_after)(caller, found.owner):
        raise NotFound(f"there is no file {id[:64]!r}", hint="GET /v1/files lists those of this key")
    return found


def find_batch(
    store: BatchStore, caller: Caller, id: str, dialect: BatchDialect, *, for_content: bool = False
) -> Batch:
    """The batch of this id. An administrator may look at others', and end them, but not read what stands in them.

    Raises:
        NotFound: there is none, or it is another's, or of the other dialect.

    """
    found = store.find(id)
    may = is_own if for_content else looks_after
    if found is None or found.record.dialect != dialect or not may(caller, found.record.owner):
        path = "/v1/batches" if dialect == "openai" else "/v1/messages/batches"
        raise NotFound(f"there is no batch {id[:64]!r}", hint=f"GET {path} lists those of this key")
    return found


def batch_id(exchange: Exchange, dialect: BatchDialect) -> str:
    """The id of a batch that is posted: where the caller names his request by an `Idempotency-Key`, the same again."""
    named = next((value for name, value in exchange.headers if name == b"idempotency-key"), b"")
    if not named:
        return new_batch_id(dialect)
    said = b"\0".join((owner_of(exchange.caller).encode(), dialect.encode(), named))
    return f"{new_batch_id(dialect).partition('_')[0]}_{hashlib.sha256(said).hexdigest()[:24]}"
