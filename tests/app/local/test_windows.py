"""Windows on one machine: what they want stays loaded while they are open, and nothing is loaded after it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.fleet.file import read
from app.fleet.schema import Fleet, parse
from app.local.windows import LocalWindows
from jobs.home.home import LocalServer
from jobs.ollama.client import OllamaClient
from jobs.testing.clock import HandClock
from jobs.testing.models import arbitrary
from jobs.testing.ollama.server import OllamaDouble
from tests.support.models_directory import lay
from tests.support.stores import Store

TINY = arbitrary("tiny", 1_000)


def fleet() -> Fleet:
    window = {"tier": "a10g", "start": "0 8 * * *", "hours": 2, "models": ["tiny"]}
    return parse({**read(), "windows": [window, {**window, "tier": "h100"}]}, "test")


@pytest.fixture
def clock() -> HandClock:
    return HandClock(datetime(2026, 1, 5, 6, 30, tzinfo=UTC))  # half past seven in Berlin


@pytest.fixture
def server(tmp_path: Path, clock: HandClock) -> Iterator[OllamaDouble]:
    lay(tmp_path / "models", TINY)
    with OllamaDouble(tmp_path / "models", clock=clock) as double:
        yield double


def run(store: Store, server: OllamaDouble, *ids: str) -> None:
    """As the worker does."""
    for id in ids:
        name = store.ledger().reader.get(id).request["model"]
        OllamaClient(server.url).load(name, keep_alive=timedelta(minutes=30))
        store.ledger().cancel(id, by="test")


def test_a_window_keeps_its_models_loaded(store: Store, server: OllamaDouble, clock: HandClock) -> None:
    """As it opens its model is warmed, while that stays nothing more is done, before it goes it is warmed again; a
    restart in the middle warms what is missing; before and after the window nothing is posted."""
    posted: list[int] = []
    for minute, before in pairwise([30, 29, 0, -1, -20, -26, -27, -45, -52, -80, -119, -121]):  # to its opening
        clock.wait((minute - before) * 60)
        windows = LocalWindows(fleet(), [LocalServer("a10g", server.url)], clock)
        ids = windows.post_warmups(store.ledger(), store.facts)
        posted += [before for _ in ids]
        run(store, server, *ids)
    assert posted == [0, -26, -52, -80, -119]


def test_what_cannot_be_loaded_is_not_asked_for_all_the_time(
    store: Store, server: OllamaDouble, clock: HandClock
) -> None:
    """A model that does not stay is warmed once a quarter of an hour, not every minute."""
    windows = LocalWindows(fleet(), [LocalServer("a10g", server.url)], clock)
    clock.wait(31 * 60)
    ids: list[Any] = []
    for _ in range(30):
        for id in windows.post_warmups(store.ledger(), store.facts):
            store.ledger().cancel(id, by="test")
            ids.append(id)
        clock.wait(60)
    assert len(ids) == 2


def test_a_server_without_a_tiers_name_stands_for_all(store: Store, server: OllamaDouble, clock: HandClock) -> None:
    """Windows of every tier have their models loaded by the one server that is here without a tier's name."""
    windows = LocalWindows(fleet(), [LocalServer("local", server.url)], clock)
    clock.wait(31 * 60)
    [id] = windows.post_warmups(store.ledger(), store.facts)
    assert store.ledger().reader.get(id).request == {"model": "tiny:latest", "tier": "local"}


def test_a_window_of_no_server_here_loads_nothing(store: Store, server: OllamaDouble, clock: HandClock) -> None:
    """A window of a tier that has no server here posts nothing, while another that has one does."""
    clock.wait(31 * 60)
    assert LocalWindows(fleet(), [LocalServer("l4", server.url)], clock).post_warmups(store.ledger(), store.facts) == []
