"""Which model a server takes into memory before it answers, and what it tells of its start, on a real simulator."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.model_server.starting.wanted import want
from jobs.core.clock import SystemClock
from jobs.core.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.cold_starts import OF_THE_SERVER, Progress, read_cold_starts
from tests.app.model_server.test_supervisor import LLAMA, OTHER, Case
from tests.support.models_directory import sample
from tests.support.stores import Store
from tests.support.waiting import until

THIRD = sample("third", b"third" * 1000)
NAMES = ("llama3.2:latest", "other:latest", "third:latest")


@pytest.fixture
def case(tmp_path: Path, live_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    case = Case(tmp_path, live_store)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    case.publish(LLAMA, OTHER, THIRD, generation=1)
    yield case
    if case.server is not None:
        case.server.stop()


def asked_for(case: Case, *names: str) -> None:
    for name in names:
        now = SystemClock().now()
        want(case.facts, "a10g", name, now, since=now)


def first_loaded(case: Case) -> list[str]:
    """What is in memory at the moment when the server is ready."""
    case.start(warmed=("other", "third"))
    return [model["name"] for model in case.report()["loaded"]]


def test_without_a_caller_one_warmed_model_is_loaded_before_it_is_ready(case: Case) -> None:
    """Of all that are warmed the first is in memory when the server answers; the others come while it serves."""
    assert first_loaded(case) == ["other:latest"]
    until(lambda: case.loaded() == ["other:latest", "third:latest"], "the other warmed model")


def test_the_model_that_is_waited_for_comes_first(case: Case) -> None:
    """It is the one load before the server is ready, though others are warmed: these come afterwards, and it stays."""
    asked_for(case, "llama3.2:latest")

    assert first_loaded(case) == ["llama3.2:latest"]
    until(lambda: case.loaded() == list(NAMES), "the warmed models")


def test_several_that_are_waited_for_come_in_their_order(case: Case) -> None:
    """First come first; each is loaded once, whether it is warmed as well or not."""
    asked_for(case, "third:latest", "llama3.2:latest")

    assert first_loaded(case) == ["third:latest"]
    until(lambda: case.loaded() == list(NAMES), "the others")
    loads = until(lambda: len(found := kinds(case, "load")) == 2 and found, "the facts of the loads")
    assert sorted(each.model for each in loads) == ["llama3.2:latest", "other:latest"]


def test_a_model_that_is_not_here_stops_no_start(case: Case) -> None:
    """What is waited for and not served, or was waited for by an earlier wake, leaves the warmed ones."""
    asked_for(case, "absent:latest")
    assert first_loaded(case) == ["other:latest"]


def test_what_does_not_fit_beside_the_first_does_not_take_its_place(case: Case) -> None:
    """Where memory is for one model, the one that is waited for is there in the end, and no more are loaded."""
    asked_for(case, "llama3.2:latest")
    case.variables["OLLAMA_MAX_LOADED_MODELS"] = "1"

    assert first_loaded(case) == ["llama3.2:latest"]
    until(lambda: len(kinds(case, "load")) == 2, "another, and the first again")
    assert case.loaded() == ["llama3.2:latest"]


def test_a_ledger_that_does_not_tell_stops_no_start(case: Case) -> None:
    """Which model is waited for cannot be read: the server starts with what is warmed."""

    class Away(SqliteDict):
        def get(self, key: Any, default: Any = None) -> Any:
            if key == keys.wanted("a10g"):
                raise StoreUnavailable("the ledger is away")
            return super().get(key, default)

    case.facts = Away(case.folder / "away.sqlite")
    assert first_loaded(case) == ["other:latest"]
    case.facts.close()


def test_a_start_is_told_by_its_phases(case: Case) -> None:
    """While it starts its reports tell the phase that goes on; in the end each is a fact. Together they are the time
    that the start took: no less than what its ledger and its engine are known to have taken, and no more than whoever
    started it waited."""
    seen: list[str] = []
    far = 300.0

    class Recorder(SqliteDict):
        def get(self, key: Any, default: Any = None) -> Any:
            if key == keys.WEIGHTS_GENERATION and not case.clock.passed:
                case.clock.tick(far)  # before anything can be seen of the weights
            return super().get(key, default)

        def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
            if key.startswith(keys.SERVER):
                seen.extend(each["phase"] or "over" for each in value["progress"])
            return super().put(key, value, skip_if_exists=skip_if_exists)

    case.variables["OLLAMA_SIM_LOAD_BYTES_PER_SECOND"] = "1500"
    case.variables["OLLAMA_SIM_PLACING_MILLISECONDS"] = "50"  # else nothing is between the last two phases
    case.facts = Recorder(case.folder / "recorded.sqlite")
    asked_for(case, "llama3.2:latest")
    began = time.monotonic()
    case.start()
    took = time.monotonic() - began
    (start,) = until(lambda: kinds(case, "start"), "the fact")

    assert seen == sorted(seen, key=[*OF_THE_SERVER, "over"].index)  # the first report is made beside the start
    assert seen[-1] == "over"
    assert "bytes" in seen
    assert (start.model, set(start.seconds)) == ("llama3.2:latest", set(OF_THE_SERVER))
    assert start.seconds["bytes"] > 3
    assert all(start.seconds[each] > 0 for each in OF_THE_SERVER)
    assert start.seconds["weights"] >= far
    assert far + 3 < start.total <= far + took
    assert start.size == len(b"llama" * 1000)
    case.facts.close()


def test_a_load_in_a_server_that_runs_is_told_as_well(case: Case) -> None:
    """Whoever has it loaded: the engine's own log says when, of which model, and the report tells it."""
    case.start()
    case.chat("third")

    (load,) = until(lambda: kinds(case, "load"), "the fact")
    assert (load.n, load.model, set(load.seconds)) == (1, "third:latest", {"bytes", "memory"})

    def told() -> list[tuple[str, bool]]:
        progress = map(Progress.from_json, case.report()["progress"])
        return [(each.kind, each.is_over) for each in progress if each]

    until(lambda: told() == [("start", True), ("load", True)], "a report of the load")


def kinds(case: Case, kind: str) -> list[Any]:
    return [each for each in read_cold_starts(case.facts) if each.kind == kind]
