"""Gateways with many jobs behind them: what their lists and their page do when nothing is small any more."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from app.fleet.schema import load
from app.model_server.report import Report
from jobs.core.clock import SystemClock
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, Job
from jobs.ledger.ledger import Ledger
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict
from tests.support.gateways import ModelList, RunningGateway, gateway, model
from tests.support.processes import free_port

FLEET = load()
OUTAGE = "the registry of registry.ollama.ai did not answer within 30 s"


@dataclass
class JobHistory:
    """Writes jobs into a ledger as they came, the oldest first, and the last one now."""

    ledger: Ledger
    facts: MemoryDict
    clock: HandClock

    def succeeded(self, kind: str, model: str) -> Job:
        return self._ended(kind, model, Ending("succeeded", result={"size": 1}))

    def failed(self, kind: str, model: str, failure_class: str, message: str) -> Job:
        return self._ended(kind, model, Ending("failed", failure_class, message))

    def queued(self, kind: str, model: str) -> Job:
        self.clock.tick(10)
        return self.ledger.post(kind, f"{model}:latest", {"model": model}, by="night").job

    def running(self, kind: str, model: str, reading: Reading) -> Job:
        claim = self.ledger.claim(self.queued(kind, model).id, worker="w:1", lease=timedelta(days=1))
        assert claim is not None
        self.ledger.beat(claim, reading)
        return claim.job

    def _ended(self, kind: str, model: str, ending: Ending) -> Job:
        claim = self.ledger.claim(self.queued(kind, model).id, worker="w:1", lease=timedelta(days=1))
        assert claim is not None
        self.clock.tick(2)
        self.ledger.end(claim, ending, Reading())
        return self.ledger.reader.get(claim.job.id)


@contextmanager
def history(path: Path, began: datetime) -> Iterator[JobHistory]:
    """What is written down until the end of this is then put into the file in one go."""
    clock, written = HandClock(began), MemoryDict()
    facts, queue = SqliteDict(path), SqliteQueue(path, clock=clock)
    try:
        yield JobHistory(Ledger(queue, written, clock), written, clock)
        facts.update(dict(written.items()))
    finally:
        queue.close()
        facts.close()


def outage(past: JobHistory, failures: int = 239, total: int = 500) -> None:
    """So many pulls that failed in one way, before that others that went well, and some that go on since."""
    for number in range(total - failures - 5):
        past.succeeded("verify" if number % 7 == 0 else "pull", f"library-{number:03}")
    past.failed("delete", "library-001", "disk", "the models directory cannot be written")
    for number in range(failures):
        past.failed("pull", f"outage-{number:03}", "network", OUTAGE)
    past.failed("pull", "nomic-embed-txt", "not_found", "registry.ollama.ai has no nomic-embed-txt:latest")
    past.running("pull", "qwen3", Reading(11_780_000_000, 18_556_688_736, 204_000_000.0, "pulling"))
    past.queued("warm", "qwen3")
    past.queued("pull", "llama3.3")


@contextmanager
def many_jobs(folder: Path, *, failures: int = 239, total: int = 500, rented: bool = True) -> Iterator[RunningGateway]:
    """A gateway without keys over a ledger after an outage. No servers are behind it."""
    now = SystemClock().now()
    with history(folder / "gateway.sqlite", now - timedelta(seconds=12 * total + 30)) as past:
        if total > 5:
            outage(past, failures, total)
        elif total:
            past.succeeded("pull", "llama3.2")
            past.failed("pull", "nomic-embed-txt", "not_found", "registry.ollama.ai has no nomic-embed-txt:latest")
            past.running("pull", "qwen3", Reading(11_780_000_000, 18_556_688_736, 204_000_000.0, "pulling"))
        report = Report("a10g", "c1", "serving", now, started_at=now - timedelta(minutes=9), dollars_per_hour=1.42)
        past.facts.put(report.key, report.as_json())
    nowhere = {tier: f"http://127.0.0.1:{free_port()}" for tier in FLEET.tiers}
    models = ModelList([model(name) for name in ("llama3.2", "qwen3", "nomic-embed-text", "deepseek-r1:32b")])
    tiers = FLEET.catalog_tiers()
    with gateway(folder, nowhere, source=models, tiers=tiers, fleet=FLEET, rented=rented) as running:
        yield running
