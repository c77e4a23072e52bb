"""Attempts at batches against a scripted gateway: posted, worked on by a real worker, read when they have ended."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.batches.batch_store import Batch, BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.passes import LINE, ROOM
from jobs.batches.records import BatchRecord
from jobs.batches.running.batch_context import BatchContext, ModelRoute, Pace
from jobs.core.clock import SystemClock
from jobs.core.errors import NotFound
from jobs.ledger.job import Backoff
from jobs.registry.client import Registry
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform
from jobs.worker.worker import Timing, Worker
from tests.support.batch_files import documents, line, packed, posted
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until
from tests.support.workers import AT_ONCE

SOON = Backoff(first=timedelta(milliseconds=20), longest=timedelta(milliseconds=50))
QUICK = Pace(
    look=timedelta(milliseconds=20),
    say=timedelta(milliseconds=50),
    backoff=SOON,
    polite=timedelta(seconds=1),
    unkept=timedelta(seconds=PATIENCE),
    turned_away=timedelta(milliseconds=200),
)
TIMING = Timing(
    lease=timedelta(seconds=120),
    beat=timedelta(seconds=0.05),
    sweep=timedelta(seconds=0.2),
    poll=timedelta(seconds=0.05),
    grace=timedelta(seconds=5),
)


@dataclass(frozen=True)
class Said:
    """What a gateway is to say of a line."""

    status: int = 200
    body: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()
    cut: bool = False


GOOD = Said()


def not_now(seconds: float = 0.05) -> Said:
    error = {"error": {"message": "no room beside the people"}}
    return Said(503, error, (f"{LINE}: not-now", f"Retry-After: {seconds}"))


def failed(status: int, message: str = "no", *headers: str) -> Said:
    return Said(status, {"error": {"message": message}}, headers)


@dataclass
class Gateway:
    """Speaks to lines as a gateway does. A test says what becomes of the `n`th try of a line.

    Args:
        says: of a line's number and of how often it has come, this time included.
        room: what it tells of the tier's room.

    """

    says: Callable[[int, int], Said] = lambda *_: GOOD
    room: int = 4
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: The numbers of the lines as they came, and how many are being answered; under `lock`.
    came: list[int] = field(default_factory=list)
    passes: list[str] = field(default_factory=list)
    beside: int = 0
    most_beside: int = 0

    def __call__(self, heard: HeardRequest, connection: Connection) -> None:
        if heard.path == "/healthz":
            connection.document({"status": "ok"})
            return
        number = int(heard.header("x-request-id").split(".")[1])
        with self.lock:
            self.came.append(number)
            self.passes.append(heard.header("authorization").removeprefix("Bearer "))
            self.beside += 1
            self.most_beside = max(self.most_beside, self.beside)
            times = self.came.count(number) if self.says is not _GOOD else 1
        try:
            said = self.says(number, times)
        finally:
            with self.lock:
                self.beside -= 1
        if said.cut:
            connection.reset()
            return
        body = json.dumps(said.body if said.body is not None else answer(heard.json)).encode()
        kind = "application/json"
        room = f"{ROOM}: {self.room}"
        connection.head(said.status, kind, f"Content-Length: {len(body)}", room, *said.headers)
        connection.send(body)

    def times(self, number: int) -> int:
        with self.lock:
            return self.came.count(number)


_GOOD = Gateway.says


def answer(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says to a line: the same, always."""
    return {
        "object": "chat.completion",
        "model": body["model"],
        "choices": [{"message": {"role": "assistant", "content": f"you said {body['messages'][0]['content']}"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }


def route_all(model: str) -> ModelRoute:
    if model.startswith("gone"):
        raise NotFound(f"there is no model {model!r}")
    return ModelRoute(model, "a10g")


class Runs:
    """Batches on a store and a storage of their own, and who works on them."""

    def __init__(self, store: Store, folder: Path, gateway: str, **more: Any) -> None:
        self.store = store
        self.storage: BatchStorage = more.pop("storage", None) or BatchStorage(folder / "batches", SystemClock())
        self.batches = BatchStore(store.facts, store.ledger(), store.clock)
        given = {"route": route_all, "pace": QUICK, **more}
        self.context = BatchContext(
            clock=SystemClock(),
            storage=self.storage,
            store=self.batches,
            facts=store.facts,
            gateway=gateway,
            **given,
        )

    def changed(self, **changes: Any) -> None:
        self.context = replace(self.context, **changes)

    def post(self, lines: int | Iterable[Mapping[str, Any]] = 10, **more: Any) -> BatchRecord:
        texts = [line(n) for n in range(1, lines + 1)] if isinstance(lines, int) else lines
        file = self.storage.save("", "lines.jsonl", packed(texts))
        expires_in = more.pop("expires_in", None)
        record = posted(self.storage, file, **more)
        if expires_in is not None:
            record = replace(record, expires_at=record.created_at + expires_in)
        self.batches.post(record)
        return record

    def worker(self) -> Worker:
        context = TaskContext(clock=SystemClock(), registry=Registry(clock=SystemClock()), batches=self.context)
        return Worker(
            self.store.ledger(),
            "batches",
            lambda run: perform(run, context),
            clock=SystemClock(),
            timing=TIMING,
            backoff=AT_ONCE,
            early=True,
        )

    @contextmanager
    def working(self) -> Iterator[threading.Event]:
        stop = threading.Event()
        thread = threading.Thread(target=self.worker().run, args=(stop,))
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def ended(self, record: BatchRecord) -> Batch:
        until(lambda: self.batches.get(record.id).has_ended, shows=lambda: self.batches.get(record.id))
        return self.batches.get(record.id)

    def run(self, record: BatchRecord) -> Batch:
        """Work on it until it has ended."""
        with self.working():
            return self.ended(record)

    def output(self, batch: Batch) -> list[dict[str, Any]]:
        end = batch.end
        return documents(self.storage, self.storage.file(end.output_file_id)) if end and end.output_file_id else []

    def errors(self, batch: Batch) -> list[dict[str, Any]]:
        end = batch.end
        return documents(self.storage, self.storage.file(end.error_file_id)) if end and end.error_file_id else []


@contextmanager
def runs(store: Store, folder: Path, gateway: Gateway | None = None, **more: Any) -> Iterator[tuple[Runs, Gateway]]:
    """Against a scripted gateway."""
    speaks = gateway or Gateway()
    with ScriptedServer(speaks) as server:
        yield Runs(store, folder, server.url, **more), speaks


def ids(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return [each["custom_id"] for each in found]
