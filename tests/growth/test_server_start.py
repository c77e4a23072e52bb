"""What a wake and a server's start ask of the ledger, counted: a caller waits for each that is in a row."""

import asyncio
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.gateway.upstream.cold_records import ColdRecords
from app.model_server.settings import ServerHost, TierSettings
from app.model_server.starting.wanted import MOST, want, wanted
from app.model_server.supervisor import ServerSupervisor
from jobs.core.clock import SystemClock
from jobs.models import index
from jobs.ollama.host import OllamaHost
from jobs.store import keys
from jobs.store.by_sort import DictBySort
from jobs.weights import survey
from tests.support.counting_stores import CountingStore
from tests.support.models_directory import put, sample, weights_at
from tests.support.ollama_servers import SIMULATOR
from tests.support.processes import free_port


class InARow:
    """A deployment's ledger that tells what the thread which starts the server asked of it itself."""

    def __init__(self, store: CountingStore) -> None:
        self._facts = store.facts
        self.asked: list[str] = []

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        self._note(f"put {key}")
        return self._facts.put(key, value, skip_if_exists=skip_if_exists)

    def get(self, key: Any, default: Any = None) -> Any:
        self._note(f"get {key}")
        return self._facts.get(key, default)

    def pop(self, key: Any, default: Any = None) -> Any:
        self._note(f"pop {key}")
        return self._facts.pop(key, default)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        self._note("keys")
        return self._facts.keys(*prefixes)

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        self._note("items")
        return self._facts.items(*prefixes)

    def _note(self, what: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self.asked.append(what)


@pytest.mark.parametrize("models", [1, 8])
def test_a_start_waits_for_no_trip_to_the_ledger_in_a_row(tmp_path: Path, models: int) -> None:
    """Until a server is ready it makes no trip itself: which generation of the weights is wanted, which model is waited
    for, and what it tells of itself, goes on beside what it does. In all they are five, for any number of models; and
    weights that are there as they are wanted are not fetched again."""
    store = CountingStore(SystemClock())
    facts = InARow(store)
    weights = weights_at(tmp_path)
    for number in range(models):
        put(weights, sample(f"m{number}", b"weights" * 1000))
    index.write(weights.layout, index.Index.of(survey.read_models(weights.layout)), "1")
    store.facts.put(keys.WEIGHTS_GENERATION, "1")
    reloads: list[timedelta | None] = []
    now = SystemClock().now()
    want(store.facts, "a10g", "m0:latest", now, since=now)
    server = ServerSupervisor(
        TierSettings("a10g", gpu_promised=False, environ={}, startup=timedelta(seconds=60)),
        ServerHost(
            volume=tmp_path / "models",
            disk=tmp_path / "disk",
            container="ta-1",
            facts=facts,
            reload=reloads.append,
            end_container=lambda: None,
            address=OllamaHost(port=free_port()),
            inherited=os.environ,
            clock=SystemClock(),
            command=SIMULATOR,
        ),
    )
    store.trips.begin()
    try:
        server.start()
        in_a_row, trips = list(facts.asked), list(store.trips.asked)
    finally:
        server.stop()

    assert in_a_row == []
    asked = {f"get {keys.WEIGHTS_GENERATION}", f"get {keys.wanted('a10g')}"}
    assert asked <= set(trips)
    assert len(trips) <= 5, trips
    assert not reloads


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_wake_is_told_in_one_trip(*, is_moved: bool) -> None:
    """Before a gateway asks a tier for the first time it writes down what that is for, in one trip: however many models
    are waited for, and as well while an older version may have written elsewhere. Who comes meanwhile is behind."""
    store = CountingStore(SystemClock())
    facts = store.facts if is_moved else DictBySort(store.jobs, store.sorts, SystemClock())
    store.jobs.kept.pop(keys.SORTS_MOVED, None)

    async def woken() -> None:
        async def nothing() -> bool:
            return False

        records = ColdRecords(
            facts,
            SystemClock(),
            "test",
            reports=lambda _: (),
            refresh=nothing,
            observe=lambda _: None,
            size_of=lambda _: None,
        )
        models = {}
        for number in range(MOST):
            models[f"m{number}:latest"] = SystemClock().now()
            store.trips.begin()
            await records.want("a10g", models)
            assert store.trips.asked == [f"put {keys.wanted('a10g')}"]
        await records.close()

    asyncio.run(woken())
    store.trips.begin()
    assert len(wanted(facts, "a10g", SystemClock().now())) == MOST
    assert store.trips.asked == [f"get {keys.wanted('a10g')}"]
