"""A server that batches woke leaves when they are over, and only if nobody else has any use for it."""

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from jobs.batches.woken_tiers import WokenTier
from jobs.store import keys
from jobs.telemetry.usage import UsageRecorder, Use
from tests.app.model_server.test_supervisor import LLAMA, Case
from tests.support.moved_clock import MovedClock
from tests.support.processes import is_running
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until

MINUTE = timedelta(minutes=1)


class ShortWaits(MovedClock):
    """Does not wait for what has to settle, and goes on by as much."""

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        if 10 < seconds < 60:
            self.tick(seconds)
            seconds = 0
        return super().wait(seconds, wake)


class WokenCase(Case):
    """A server that was woken a moment before it began to start."""

    def __init__(self, folder: Path, store: Store) -> None:
        super().__init__(folder, store)
        self.clock = ShortWaits()

    def woken(self, *, ago: timedelta = timedelta(seconds=1), over: timedelta | None = None) -> None:
        now = self.clock.now()
        WokenTier(now - ago, None if over is None else now - over).say(self.facts, "a10g")

    def over(self) -> None:
        woken = WokenTier.of(self.facts, "a10g")
        assert woken is not None
        WokenTier(woken.woken_at, self.clock.now()).say(self.facts, "a10g")

    def used_by(self, key: str, *, tier: str = "a10g", ago: timedelta = timedelta(0)) -> None:
        """As a gateway counts it."""
        recorder = UsageRecorder(self.facts, self.clock, f"gateway-{key}")
        recorder.add(Use(self.clock.now() - ago, "llama3.2:latest", key, tier, "done"))
        assert recorder.flush()

    def has_left(self) -> bool:
        return self.taken_out.is_set()


@pytest.fixture
def case(tmp_path: Path, live_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[WokenCase]:
    case = WokenCase(tmp_path, live_store)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    case.publish(LLAMA, generation=1)
    yield case
    if case.server is not None:
        case.server.stop()


def test_it_leaves_when_its_batches_are_over(case: WokenCase) -> None:
    """At the first look after that, in order: what it runs ends, and it is told as a server that ended."""
    case.woken()
    server = case.start(warmed=("llama3.2",))
    case.chat("llama3.2")
    server.check()
    server.check()
    assert not case.has_left()
    [child] = case.children()

    case.over()
    server.check()

    assert case.has_left()
    assert not is_running(child)
    report = case.report()
    assert (report["state"], report["why"]) == (
        "ended",
        "the batches that woke it are over, and nobody else has used it",
    )


def test_it_stays_for_a_person_who_used_it(case: WokenCase) -> None:
    """Whoever used the tier since it was woken may come again, so it stays for its idle time; who used another, or this
    one before, counts for nothing."""
    case.woken()
    case.used_by("anna", tier="h100")
    case.used_by("berta", ago=MINUTE)
    server = case.start()
    case.used_by("carla")
    case.over()
    server.check()
    server.check()
    assert not case.has_left()

    case.facts.pop(keys.usage(case.clock.now().date().isoformat(), "gateway-carla"))
    case.clock.tick(1)
    case.over()  # a later batch
    server.check()
    assert case.has_left()


def test_it_stays_in_a_window(case: WokenCase) -> None:
    """What keeps the tier up keeps it up."""
    case.woken()
    server = case.start()
    case.facts.put(keys.window("a10g"), True)
    case.over()
    server.check()

    assert not case.has_left()


@pytest.mark.parametrize("telling", ["before it started", "of a tier that was up", "never"])
def test_only_what_is_meant_for_it_counts(case: WokenCase, telling: str) -> None:
    """A server that was there when the batch woke the tier, or that came after those batches, was not woken by them."""
    if telling == "before it started":
        case.woken(ago=2 * MINUTE, over=MINUTE)
    server = case.start()
    if telling == "of a tier that was up":
        case.clock.tick(60)
        case.woken(over=timedelta(0))
    server.check()

    assert not case.has_left()


def test_it_stays_for_an_answer_that_goes_on(case: WokenCase) -> None:
    """Somebody who came just then has her whole answer, and the model is still in memory afterwards."""
    case.variables["OLLAMA_SIM_TOKENS_PER_SECOND"] = "1"
    case.woken()
    server = case.start(warmed=("llama3.2",))
    server.check()
    case.over()
    body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
    with httpx.stream("POST", f"{case.host.url}/api/chat", json=body, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.check()
        assert not case.has_left()
        assert '"done":true' in list(lines)[-1].replace(" ", "")
    server.check()

    assert not case.has_left()
    assert case.loaded() == ["llama3.2:latest"]


def test_a_connection_that_carries_nothing_keeps_nobody(case: WokenCase) -> None:
    """Whoever stands between may hold some open: a server with nothing in use leaves all the same."""
    case.woken()
    server = case.start(warmed=("llama3.2",))
    with httpx.Client(base_url=case.host.url, timeout=PATIENCE) as client:
        client.get("/api/version")
        until(lambda: case.report()["requests"]["in_flight"] is not None)
        server.check()
        case.over()
        server.check()

    assert case.has_left()
