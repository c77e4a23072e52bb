"""A gateway whose ledger's store is away: it says so to whoever needs the ledger, and answers everybody else."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest
from fastapi.testclient import TestClient
from grpclib import GRPCError, Status

from app.gateway.auth.keys import Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.catalog.state import KnownState
from app.gateway.compose import Composed, GatewayParts
from app.gateway.http_server import HttpServer, listening
from app.gateway.inference.routing import Router
from app.gateway.upstream.upstream_client import TierUpstream
from app.platform.limits import CallLimits
from app.platform.store import LimitedDict, LimitedQueue
from jobs.core.errors import StoreUnavailable
from jobs.core.retry import Policy
from jobs.ledger.ledger import Ledger
from jobs.models.placement import TierCapacity
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock
from tests.modal.platform.plane import Platform
from tests.support.dialects import OLLAMA
from tests.support.gateways import CLOCK, QUICK, ModelList
from tests.support.ops_api import ADMIN_KEY, ops_api
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE, until

LIMIT = timedelta(seconds=0.5)
LIMITS = CallLimits(
    entry=LIMIT,
    listing=LIMIT,
    retry=Policy(attempts=2, within=timedelta(seconds=5), first=timedelta(milliseconds=5)),
)
AWAY = {
    "unavailable": lambda: GRPCError(Status.UNAVAILABLE, "away"),
    "failed precondition": lambda: GRPCError(Status.FAILED_PRECONDITION, "not now"),
    "never": lambda: "never",
}


class Switch:
    """What becomes of all that is asked of the store."""

    def __init__(self) -> None:
        self.answer: Any = None

    def __call__(self, name: str, _: str) -> Any:
        return self.answer() if self.answer and name.startswith(("Dict", "Queue")) else None


@pytest.fixture(scope="module")
def store() -> Switch:
    return Switch()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, store: Switch) -> Iterator[str]:
    """Its address; the store is on a control plane."""
    with (
        Platform() as platform,
        platform.client() as client,
        ScriptedServer(lambda _, line: OLLAMA.play(line)) as server,
    ):
        facts = LimitedDict(modal.Dict.from_name("facts", create_if_missing=True, client=client), LIMITS)
        queue = LimitedQueue(modal.Queue.from_name("queue", create_if_missing=True, client=client), LIMITS)
        platform.wire.meddler = store
        known_state = KnownState(facts, ModelList(), CLOCK, every=timedelta(seconds=0.2))
        composed = Composed(
            GatewayParts(
                upstreams={"a10g": TierUpstream("a10g", server.url, {}, timedelta(seconds=PATIENCE))},
                known_state=known_state,
                router=Router(known_state, [TierCapacity("a10g", None, gpu_promised=False)]),
                keys=LiveKeys.fixed(Keys.parse("")),
                facts=facts,
                open_ledger=lambda: Ledger(queue, facts, CLOCK),
                clock=CLOCK,
                writer="test",
                version="0.0.1",
                hold_timing=QUICK,
            )
        )
        known_state.start()
        front = HttpServer(composed.app, listening("127.0.0.1", 0), CLOCK)
        front.start()
        try:
            yield front.url
        finally:
            store.answer = None
            front.stop()
            known_state.stop()


@pytest.mark.parametrize("away", AWAY)
def test_who_needs_the_ledger_is_told_to_come_again(gateway: str, store: Switch, away: str) -> None:
    """503 with Retry-After in each caller's shape; health is 200, metrics tell what they can, and a chat goes on. Once
    the store is back, all is as before."""
    with httpx.Client(base_url=gateway, timeout=PATIENCE) as ask:
        until(lambda: ask.get("/ops/v1/jobs").status_code == 200, "the ledger")
        store.answer = AWAY[away]
        answers = {
            "post": ask.post("/ops/v1/jobs", json={"kind": "pull", "model": "m"}),
            "jobs": ask.get("/ops/v1/jobs"),  # after what was to be posted it is no list of two seconds ago
            "pull": ask.post("/api/pull", json={"model": "m"}),
            "usage": ask.get("/ops/v1/usage"),
        }
        for name, answer in answers.items():
            assert (name, answer.status_code, answer.headers["retry-after"]) == (name, 503, "5")
            assert re.search("the ledger: Modal (says|did not answer within)", answer.json()["error"])
        missed = ask.post(OLLAMA.path, json={**OLLAMA.body, "model": "unheard-of"})
        assert missed.status_code == 404
        assert ask.get("/healthz").status_code == 200
        assert ask.get("/readyz").status_code == 503
        metrics = ask.get("/metrics")
        assert metrics.status_code == 200
        assert "ollama_modal_requests_total" in metrics.text

        chat = ask.post(OLLAMA.path, json=dict(OLLAMA.body))
        assert chat.status_code == 200
        assert chat.content == b"".join(OLLAMA.pieces)

        store.answer = None
        asked = {"kind": "pull", "model": away.replace(" ", "-")}
        until(lambda: ask.post("/ops/v1/jobs", json=asked).is_success, "a store whose answers come in time again")


def test_metrics_say_whether_the_store_is_up(tmp_path: Path) -> None:
    """What this process knows by itself is told all the same, and the jobs are left out rather than made up."""

    class Moody(SqliteDict):
        is_away = False

        def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
            if self.is_away:
                raise StoreUnavailable("the store is away")
            return super().items(*prefixes)

    clock = HandClock()
    with ops_api(tmp_path, clock) as api:
        facts = Moody(tmp_path / "moody.sqlite")
        queue = SqliteQueue(tmp_path / "moody.sqlite", clock=clock)
        Ledger(queue, facts, clock).post("pull", "m:latest", {"model": "m"}, by="t")
        ops_context = api.ops_context(open_ledger=lambda: Ledger(queue, facts, clock))
        ask = TestClient(api.app(ops_context), headers={"x-api-key": ADMIN_KEY})
        for is_away in (False, True, False):
            facts.is_away = is_away
            clock.wait(120)
            told = ask.get("/metrics")
            assert told.status_code == 200
            assert f"ollama_modal_store_up {float(not is_away)}" in told.text
            assert ('ollama_modal_jobs{kind="pull",state="queued"} 1.0' in told.text) is not is_away
            assert "ollama_modal_weights_bytes" in told.text
        facts.close()
        queue.close()
