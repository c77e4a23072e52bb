"""A gateway that takes batches, and a hand in place of the worker that would run them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anthropic
import openai

from app.gateway.batches.parts import BatchParts
from jobs.batches.batch_store import BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.limits import USUAL, BatchLimits
from jobs.batches.records import BatchEnd, BatchState, BatchUse, EndStatus, LineCounts, LineError
from jobs.core.clock import Clock, SystemClock
from jobs.ledger.ledger import Ledger
from jobs.store.sqlite import SqliteQueue
from tests.support.gateways import RunningGateway, gateway
from tests.support.waiting import PATIENCE

CLOCK = SystemClock()


@dataclass
class BatchGateway:
    """A gateway that takes batches; nobody runs them."""

    running: RunningGateway
    storage: BatchStorage
    store: BatchStore
    #: The lanes for which a worker was sent. The gateway's threads append, the test reads.
    sent: list[str] = field(default_factory=list)
    clock: Clock = CLOCK
    stack: ExitStack = field(default_factory=ExitStack)

    def openai(self, key: str) -> openai.OpenAI:
        """OpenAI's client with this key; closed with the gateway."""
        http = openai.DefaultHttpxClient(verify=False)  # no certificates: half of what a client takes to start
        made = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=PATIENCE, max_retries=0, http_client=http)
        return self.stack.enter_context(made)

    def anthropic(self, key: str) -> anthropic.Anthropic:
        """Anthropic's client with this key; closed with the gateway."""
        http = anthropic.DefaultHttpxClient(verify=False)
        made = anthropic.Anthropic(base_url=self.url, api_key=key, timeout=PATIENCE, max_retries=0, http_client=http)
        return self.stack.enter_context(made)

    @property
    def url(self) -> str:
        return self.running.url

    def say(self, id: str, **said: Any) -> BatchState:
        """Stand in for the worker: say how the batch stands."""
        state = BatchState(status="in_progress", holder="test", at=self.clock.now(), **said)
        self.store.say(id, state)
        return state

    def end(
        self,
        id: str,
        status: EndStatus = "completed",
        *,
        results: Sequence[Any] = (),
        failed: Sequence[Any] = (),
        errors: Sequence[LineError] = (),
        total: int | None = None,
    ) -> datetime:
        """Stand in for the worker: keep these results and failed lines, and end the batch."""
        batch, now = self.store.get(id), self.clock.now()
        owner = batch.record.owner
        kept = [
            self.storage.save(owner, f"{id}.jsonl", [_lines(each)], purpose="batch_output").id if each else None
            for each in (results, failed)
        ]
        counts = LineCounts(len(results) + len(failed) if total is None else total, len(results), len(failed))
        state = BatchState(
            status="finalizing",
            holder="test",
            at=now,
            counts=counts,
            use=BatchUse(prompt_tokens=5, output_tokens=7, line_seconds=1.5, gpu_seconds=1.0, dollars=0.01),
            in_progress_at=now,
            finalizing_at=now,
        )
        self.store.end(id, BatchEnd(status, now, state, tuple(errors), kept[0], kept[1]))
        return now


def _lines(documents: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)


@contextmanager
def batch_gateway(
    folder: Path, limits: BatchLimits = USUAL, *, quota_bytes: int | None = None, **more: Any
) -> Iterator[BatchGateway]:
    """A gateway that takes batches.

    Args:
        folder: of its ledger and its files.
        limits: what is declared of batches.
        quota_bytes: for all files.
        more: of `gateway`.

    """
    storage = BatchStorage(folder / "batches", CLOCK, quota_bytes=quota_bytes)
    sent: list[str] = []
    with gateway(folder, {}, batches=BatchParts(storage, limits), send_worker=sent.append, **more) as running:
        ledger = Ledger(SqliteQueue(running.path, clock=CLOCK), running.facts, CLOCK)
        with ExitStack() as stack:
            yield BatchGateway(running, storage, BatchStore(running.facts, ledger, CLOCK), sent, stack=stack)


def uploads(storage: BatchStorage) -> list[str]:
    """What lies there of files that are on their way in."""
    folder = storage.root / "uploads"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
