"""An ops API on a store of its own: called directly, or served on a real socket by uvicorn in a thread."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI

from app.fleet.schema import load
from app.gateway.auth.fair_shares import SoMany
from app.gateway.auth.keys import Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.auth.rate_limits import RateLimits
from app.gateway.dashboard import audit, keys, plans
from app.gateway.dashboard import cost as costs
from app.gateway.dashboard import daily as days
from app.gateway.dashboard import nightly as nights
from app.gateway.dashboard import overview as board
from app.gateway.dashboard.batches import batch_list, estimates
from app.gateway.inference.metrics import Metrics, Readings
from app.gateway.inference.request_log import RequestRecord
from app.gateway.ops.app import create
from app.gateway.ops.context import OpsContext
from app.gateway.ops.ledger_pool import LedgerPool
from jobs.access.audit import Audit
from jobs.access.keys.proofs import hash_of, new_key
from jobs.archive.archived import JOBS, ArchivedJobs, archive_at
from jobs.archive.audited import no_archive, page
from jobs.batches.start_rules import TierNow
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName
from jobs.core.retention import RetentionRules
from jobs.ledger.job import Job
from jobs.ledger.ledger import Ledger
from jobs.weights.history import Memory
from jobs.weights.prune_plan import PrunePlan, plan
from jobs.weights.survey import Survey
from tests.support.stores import Store, open_store
from tests.support.waiting import PATIENCE, until

ADMIN_KEY, CHAT_KEY, LLAMA_KEY = new_key(), new_key(), new_key()
KEYS = "\n".join(
    [
        f"root {hash_of(ADMIN_KEY)} chat admin",
        f"alice {hash_of(CHAT_KEY)}",
        f"larry {hash_of(LLAMA_KEY)} admin models=llama*",
    ]
)

MODELS: list[dict[str, Any]] = [
    {
        "name": "llama3.2:latest",
        "size": 2_019_393_189,
        "digest": "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72",
        "modified_at": "2026-09-15T08:00:00.000Z",
        "details": {"family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"},
    }
]
TIERS: list[dict[str, Any]] = [
    {"tier": "a10g", "state": "asleep", "since": "2026-09-15T08:00:00.000Z", "why": "nobody asks", "held": 0}
]
USAGE: list[dict[str, Any]] = [
    {
        "day": "2026-09-15",
        "model": "llama3.2:latest",
        "key": key,
        "tier": "a10g",
        "ending": "success",
        "count": 3,
        "prompt_tokens": 21,
        "output_tokens": 400,
    }
    for key in ("alice", "root")
]


def route(model: str, context: int | None, may_see: Callable[[ModelName], bool]) -> dict[str, Any]:
    name = ModelName.parse(model).folded()
    if str(name) != "llama3.2:latest" or not may_see(name):
        raise NotFound(f"model {model!r} not found", hint=f"pull it: `ollama-modal pull {name}`")
    return {"model": str(name), "tier": "a10g", "facts": [f"asked for a context of {context}"], "warning": None}


async def usage(since: date | None) -> list[dict[str, Any]]:
    return [row for row in USAGE if since is None or row["day"] >= date.isoformat(since)]


def archive_of(folder: Path, *jobs: Job) -> ArchivedJobs:
    """An archive of these jobs."""
    archive = archive_at(folder / "archived")
    archive.append(JOBS, (job.as_json() for job in sorted(jobs, key=lambda job: job.age)))
    return ArchivedJobs(archive)


@dataclass
class OpsApi:
    """A folder with a ledger in it, and an ops API over it. Every store that was opened is closed with it."""

    folder: Path
    clock: Clock = field(default_factory=SystemClock)
    sent_lanes: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    age: timedelta | None = timedelta(seconds=2)
    listed_for: timedelta = timedelta(0)
    """By default each list is a reading of its own: tests write to the ledger past the gateway."""
    stores: list[Store] = field(default_factory=list)
    ledger_pool: list[LedgerPool] = field(default_factory=list)

    def store(self) -> Store:
        store = open_store(self.folder / "ledger.sqlite", self.clock)
        self.stores.append(store)
        return store

    def ledger(self) -> Ledger:
        return self.store().ledger()

    def ops_context(self, keys: str = KEYS, **changes: Any) -> OpsContext:
        known = Keys.parse(keys)
        metrics = Metrics(lambda: known.names, ["a10g"], lambda name: name == "llama3.2:latest")
        metrics.watch(
            Readings(
                held=lambda: {"a10g": 0},
                detached=lambda: 0,
                weights_bytes=lambda: 2_019_393_189,
                usage_dropped=lambda: 0,
                log_dropped=lambda: 0,
                known_state_seconds=lambda: 2.0,
            )
        )
        ops_context = OpsContext(
            open_ledger=self.ledger,
            keys=LiveKeys.fixed(known),
            limits=RateLimits(self.clock),
            clock=self.clock,
            audit=Audit(self.store().facts, self.clock),
            metrics=metrics,
            models=lambda: MODELS,
            route=route,
            tiers=lambda: TIERS,
            usage=usage,
            age=lambda: self.age,
            send_worker=self.sent_lanes.append,
            changed=lambda: self.changes.append("changed"),
        )
        return replace(ops_context, **changes)

    def app(self, ops_context: OpsContext | None = None, *, followers: int = 100) -> FastAPI:
        ops_context = ops_context or self.ops_context()
        staff = LedgerPool(
            ops_context.open_ledger,
            every=timedelta(milliseconds=50),
            listed_for=self.listed_for,
            kinds=ops_context.kinds,
        )
        self.ledger_pool.append(staff)
        return create(ops_context, ledger_pool=staff, followers=followers, more=self.more(staff, ops_context))

    def more(self, staff: LedgerPool, ops_context: OpsContext) -> tuple[APIRouter, ...]:
        """What a gateway tells beside, of the same ledger."""

        async def entries() -> dict[str, Any]:
            return dict(self.store().facts.items())

        async def last_used() -> dict[str, datetime]:
            return {}

        def pruning(_: object = None) -> PrunePlan:
            return plan(Survey((), (), (), (), (), 0), Memory().weights_use([]), RetentionRules(), self.clock.now())

        fleet = load()
        return (
            board.router(board.Overview(self.clock, tuple, fleet=fleet), last_used),
            days.router(days.Days(self.clock, fleet), entries),
            costs.router(costs.Costs(self.clock, fleet), entries),
            nights.router(entries, staff),
            plans.router(plans.Plans(pruning, pruning), SoMany(1)),
            keys.router(
                keys.KeyActs(ops_context.keys, self.store().facts, ops_context.audit, self.clock, lambda: None),
                object,
            ),
            estimates.router(
                estimates.Estimates(
                    clock=self.clock,
                    fleet=fleet,
                    rented=True,
                    limits=fleet.batches.limits,
                    where=lambda caller: lambda model: (route(model, None, caller.may_use)["model"], "a10g"),
                    tiers=lambda names, _: [TierNow(name) for name in names],
                ),
                entries,
            ),
            batch_list.router(
                batch_list.BatchList(self.store().facts, staff, self.clock, ops_context.audit, ops_context.send_worker)
            ),
            audit.router(
                lambda query: page(self.store().facts, no_archive, query, self.clock.now()), self.clock, object
            ),
        )

    def close(self) -> None:
        for ledger_pool in self.ledger_pool:
            ledger_pool.close()
        for store in self.stores:
            store.close()


@contextmanager
def ops_api(folder: Path, clock: Clock | None = None) -> Iterator[OpsApi]:
    folder.mkdir(parents=True, exist_ok=True)
    found = OpsApi(folder, clock or SystemClock())
    try:
        yield found
    finally:
        found.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The application on a free port of loopback; its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), name="uvicorn")
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=PATIENCE)
        listening.close()
        assert not thread.is_alive()


ENDED_REQUEST = RequestRecord(
    request_id="r1",
    at=datetime(2026, 9, 15, 8, tzinfo=UTC),
    key="alice",
    model="llama3.2:latest",
    tier="a10g",
    route="/api/chat",
    dialect="ollama",
    ending="success",
    status=200,
    prompt_tokens=7,
    output_tokens=40,
    first_byte_seconds=0.3,
    seconds=1.0,
    held_seconds=0.0,
    woke=False,
)
