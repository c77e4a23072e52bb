"""Warm jobs of a deployment: whom they may wake, how often, and what the containers are told of it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.fleet import Fleet, parse
from app.fleet_file import read
from app.report import Report
from app.servers_lane import Warming
from app.wakes import Wakes
from jobs.clock import SystemClock, parse_moment
from jobs.ollama import Ollama
from jobs.record import SERVERS_LANE, Job, State
from jobs.registry import Registry
from jobs.retrying import NEVER
from jobs.tasks import Workshop
from jobs.testing.ollama import OllamaDouble
from jobs.testing.registry import RegistryDouble
from jobs.worker import Timing, Worker
from tests.conftest import Store


def fleet_with(wakes: int) -> Fleet:
    document = read()
    document["tiers"]["a10g"]["own_wakes_per_day"] = wakes
    return parse(document, "test")


@dataclass
class Case:
    store: Store
    server: Ollama

    def warm(self, by: str, *, wakes: int) -> Job:
        fleet = fleet_with(wakes)
        shop = Workshop(
            clock=SystemClock(),
            registry=Registry(clock=SystemClock()),
            servers={"a10g": self.server},
            tiers=fleet.catalog_tiers(),
            belongs=lambda _: "a10g",
        )
        request = {"model": "llama3.2", "tier": "a10g"}
        ledger = self.store.ledger()
        id = ledger.post("warm", "llama3.2:latest", request, by=by, attempts=1).job.id
        warming = Warming(shop, fleet, self.store.facts, SystemClock())
        timing = Timing(sweep=timedelta(seconds=0.1), poll=timedelta(seconds=0.1))
        worker = Worker(ledger, SERVERS_LANE, warming.perform, clock=SystemClock(), timing=timing)
        worker.run(threading.Event(), idle_after=timedelta(seconds=0.3))
        return ledger.get(id)

    def used(self) -> int:
        return Wakes(self.store.facts, fleet_with(9)).used("a10g", SystemClock().now())

    def warming(self) -> Any:
        return self.store.facts.get("warming/a10g")


@pytest.fixture(scope="module")
def server() -> Iterator[Ollama]:
    with RegistryDouble() as registry, OllamaDouble(registry=registry.url) as double:
        httpx.post(f"{double.url}/api/pull", json={"model": "llama3.2", "stream": False}, timeout=60)
        with Ollama(double.url, policy=NEVER) as ollama:
            yield ollama


@pytest.fixture
def case(live_store: Store, server: Ollama) -> Case:
    return Case(live_store, server)


def test_a_person_wakes_as_often_as_she_likes(case: Case) -> None:
    """What a person asks for is done, with no wake of our own to spend on it, and the containers know till when."""
    assert case.warm("anna@laptop", wakes=0).state is State.SUCCEEDED
    assert case.used() == 0
    assert parse_moment(case.warming()["until"]) <= SystemClock().now()


def test_our_own_wakes_are_counted(case: Case) -> None:
    """What nobody asked for takes one of the day's wakes, and is refused with the remedy when none is left."""
    assert case.warm("nightly", wakes=1).state is State.SUCCEEDED
    assert case.used() == 1
    refused = case.warm("nightly", wakes=1)
    assert refused.state is State.FAILED
    assert refused.attempts[-1].failure_class == "refused"
    assert "its 1 wakes of our own for today are used up" in str(refused.attempts[-1].message)
    assert "own_wakes_per_day" in str(refused.attempts[-1].hint)


def test_a_tier_that_is_up_need_not_be_woken(case: Case) -> None:
    """Warming a tier that serves already takes no wake."""
    report = Report("a10g", "ta-1", "serving", SystemClock().now())
    case.store.facts.put(report.key, report.as_json())
    assert case.warm("nightly", wakes=0).state is State.SUCCEEDED
    assert case.used() == 0


def test_a_window_wakes_once_for_all_its_models(case: Case) -> None:
    """The warm-ups of a window ride on its own wake, however many models it names; without one they are refused."""
    assert case.warm("window", wakes=0).state is State.FAILED
    assert [case.warm("window", wakes=1).state for _ in range(2)] == [State.SUCCEEDED] * 2
    assert case.used() == 1
