"""Promises of app.gateway.catalog.state and of where it learns the models from, and of the reports it reads."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.catalog.sources import Directory, Listing, Mounted
from app.gateway.catalog.state import KnownState
from app.model_server.gpu import Gpu
from app.model_server.report import REPORT_STALE, Loaded, Report
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.models.card import KnownModel
from jobs.ollama.client import OllamaClient
from jobs.store import keys
from jobs.testing.clock import HandClock
from jobs.testing.models import find
from jobs.testing.ollama.server import OllamaDouble
from jobs.weights.layout import Layout
from jobs.weights.removal import remove
from tests.support.models_directory import lay, publish, put, put_blob, put_manifest, sample, weights_at
from tests.support.stores import Store
from tests.support.waiting import until


def names(known_state: KnownState) -> list[str]:
    return [str(model.name) for model in known_state.models()]


def directory(tmp_path: Path) -> Directory:
    return Directory(Layout(tmp_path / "models"))


def known_state_on(store: Store, source: Any) -> KnownState:
    known_state = KnownState(store.facts, source, store.clock)
    assert known_state.refresh(), known_state.trouble
    return known_state


def report(store: Store, name: str, **fields: Any) -> None:
    told = Report("a10g", name, **{"state": "serving", "at": store.clock.now(), **fields})
    store.facts.put(told.key, told.as_json())


# -- models ------------------------------------------------------------------------------------------------------------


def test_only_whole_models_stand(store: Store, tmp_path: Path) -> None:
    """A model is known when all of it is there, found in any case, and known under the spelling it is stored with."""
    weights = weights_at(tmp_path)
    put(weights, sample("Mixed:Case"))
    put_manifest(weights, "half", sample("half").manifest.raw)
    put_manifest(weights, "torn", b"{")

    known_state = known_state_on(store, directory(tmp_path))

    assert names(known_state) == ["Mixed:Case"]
    found = known_state.find(ModelName.parse("mixed:CASE"))
    assert found is not None
    assert str(found.name) == "Mixed:Case"
    assert known_state.find(ModelName.parse("half")) is None


def test_what_changes_on_the_disk_is_noticed(store: Store, tmp_path: Path) -> None:
    """A model that comes, goes or is replaced is seen at the next refresh, and one whose last blob comes late too."""
    weights = weights_at(tmp_path)
    known_state = known_state_on(store, directory(tmp_path))
    assert names(known_state) == []

    publish(weights, sample("one"))
    late = sample("late", b"late weights")
    put_manifest(weights, late.name, late.manifest.raw)
    assert known_state.refresh()
    assert names(known_state) == ["one:latest"]

    for content in late.contents.values():
        put_blob(weights, content)
    assert known_state.refresh()
    assert set(names(known_state)) == {"one:latest", "late:latest"}

    remove(weights, ModelName.parse("one"), still_ours=lambda: None)
    publish(weights, replace(sample("other", b"new"), name=late.name))
    assert known_state.refresh()
    assert [model.digest for model in known_state.models()] == [sample("other", b"new").manifest.digest]


class Counted:
    """A source that counts how often it is read, and fails when it is told to."""

    def __init__(self, inner: Directory) -> None:
        self.inner = inner
        self.reads = 0
        self.fails = False

    def stamp(self, generation: Any) -> Any:
        return self.inner.stamp(generation)

    def read(self) -> Sequence[KnownModel]:
        if self.fails:
            raise OSError(5, "the disk is gone")
        self.reads += 1
        return self.inner.read()


def test_an_unchanged_directory_is_not_read_again(store: Store, tmp_path: Path) -> None:
    """Refreshes in which nothing changed read no manifest and no blob."""
    put(weights_at(tmp_path), sample("one"))
    source = Counted(directory(tmp_path))
    known_state = known_state_on(store, source)

    for _ in range(5):
        known_state.refresh()

    assert source.reads == 1


def test_a_card_is_read_once_for_each_manifest(store: Store, tmp_path: Path) -> None:
    """When another model comes, the files of those that are known are not read anew."""
    tiny = find(ModelName.parse("tiny"))
    assert tiny is not None
    lay(tmp_path / "models", tiny)
    source = directory(tmp_path)
    (known,) = known_state_on(store, source).models()
    assert known.card is not None
    put(weights_at(tmp_path), sample("two"))

    again = {str(model.name): model.card for model in source.read()}

    assert again["tiny:latest"] is known.card
    assert len(again) == 2


def test_on_a_volume_the_generation_tells_when_to_read(store: Store, tmp_path: Path) -> None:
    """The volume is reloaded and read at the start and when the generation moved, and never in between."""
    reloads: list[int] = []
    weights = weights_at(tmp_path)
    known_state = known_state_on(store, Mounted(Layout(tmp_path / "models"), lambda: reloads.append(1)))
    put(weights, sample("one"))
    known_state.refresh()
    assert (names(known_state), len(reloads)) == ([], 1)

    store.facts.put(keys.WEIGHTS_GENERATION, "g2")
    known_state.refresh()
    known_state.refresh()

    assert (names(known_state), len(reloads), known_state.generation) == (["one:latest"], 2, "g2")


def test_a_volume_that_cannot_be_reloaded_is_tried_again(store: Store, tmp_path: Path) -> None:
    """While a file is open the models stay as known, and the refresh after it brings the new ones."""
    is_open = False

    def reload() -> None:
        if is_open:
            raise RuntimeError("there are open files")

    known_state = known_state_on(store, Mounted(Layout(tmp_path / "models"), reload))
    put(weights_at(tmp_path), sample("one"))
    store.facts.put(keys.WEIGHTS_GENERATION, "g2")
    is_open = True
    assert not known_state.refresh()
    assert names(known_state) == []
    assert known_state.trouble == "which models there are cannot be learnt: RuntimeError: there are open files"
    is_open = False

    assert known_state.refresh()
    assert names(known_state) == ["one:latest"]
    assert not known_state.trouble


def test_models_of_a_server_that_is_not_ours_come_from_its_list(tmp_path: Path, store: Store) -> None:
    """Where the directory is not ours to read, the loopback server's own list is what there is; it has no cards."""
    with OllamaDouble(tmp_path / "models") as double:
        put(weights_at(tmp_path), sample("one"))
        with OllamaClient(double.url) as client:
            known_state = known_state_on(store, Listing(client))
            (model,) = known_state.models()
            assert (str(model.name), model.digest) == ("one:latest", sample("one").manifest.digest)
            assert (model.card, model.facts) == (None, None)
            put(weights_at(tmp_path), sample("two"))
            known_state.refresh()
            assert set(names(known_state)) == {"one:latest", "two:latest"}


def test_a_name_that_is_none_is_left_out(store: Store) -> None:
    """A server that lists something that is no model's name does not spoil the rest."""
    listed = {"models": [{"name": "a b"}, {"name": "fine:latest", "size": 7}]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=listed))
    with httpx.Client(transport=transport) as http:
        known_state = known_state_on(store, Listing(OllamaClient("http://there", client=http)))
    assert names(known_state) == ["fine:latest"]


# -- reports -----------------------------------------------------------------------------------------------------------


def test_reports_are_those_of_the_ledger(store: Store, tmp_path: Path) -> None:
    """Reports come newest first, by tier when asked; those that serve are up and were heard of not long ago."""
    now = store.clock.now()
    report(store, "a", at=now - timedelta(seconds=30))
    report(store, "b", at=now - REPORT_STALE - timedelta(seconds=1))
    report(store, "c", state="ended")
    store.facts.put("server/h100/d", {"tier": "h100", "container": "d", "state": "serving", "at": "nonsense"})
    store.facts.put("job/1", {"kind": "pull"})

    known_state = known_state_on(store, directory(tmp_path))

    assert [each.container for each in known_state.reports()] == ["c", "a", "b", "d"]
    assert [each.container for each in known_state.reports("h100")] == ["d"]
    assert [each.container for each in known_state.serving()] == ["a"]


class Watched:
    """A dict that tells which keys were read."""

    def __init__(self, store: Store) -> None:
        self.facts = store.facts
        self.read: list[str] = []

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        return self.facts.put(key, value, skip_if_exists=skip_if_exists)

    def get(self, key: Any, default: Any = None) -> Any:
        self.read.append(key)
        return self.facts.get(key, default)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        raise AssertionError((prefixes, "reports are listed with their entries"))

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        self.read.append(" ".join(prefixes))
        return self.facts.items(*prefixes)


def test_a_refresh_reads_the_reports_alone(store: Store, tmp_path: Path) -> None:
    """However many servers report, they are listed at once, with no job among them, and none is read by its key: what
    is final a platform's dict may forget."""
    report(store, "up")
    report(store, "gone", state="ended")
    store.facts.put("job/1", {"kind": "pull"})
    facts = Watched(store)
    known_state = KnownState(facts, directory(tmp_path), store.clock)

    for _ in range(3):
        assert known_state.refresh()

    assert facts.read == [keys.WEIGHTS_GENERATION, keys.ALIASES, keys.SERVER] * 3
    assert len(known_state.reports()) == 2


TEXTS = st.text(max_size=20)
MOMENTS = st.datetimes(timezones=st.just(HandClock().now().tzinfo)).map(lambda at: at.replace(microsecond=0))
COUNTS = st.integers(0, 2**40)
LOADED = st.builds(Loaded, TEXTS, COUNTS, COUNTS, COUNTS, TEXTS, st.none() | MOMENTS)


@given(
    st.builds(
        Report,
        tier=TEXTS,
        container=TEXTS,
        state=TEXTS,
        at=MOMENTS,
        why=TEXTS,
        started_at=st.none() | MOMENTS,
        version=TEXTS,
        gpu=st.none() | st.builds(Gpu, TEXTS, COUNTS, st.integers(1, 8)),
        models=st.lists(TEXTS, max_size=3).map(tuple),
        loaded=st.lists(LOADED, max_size=3).map(tuple),
        served=COUNTS,
        in_flight=st.none() | COUNTS,
        generation=st.none() | TEXTS | COUNTS,
        dollars_per_hour=st.none() | st.floats(0, 100),
    )
)
def test_a_report_opens_as_it_was_written(told: Report) -> None:
    """What a server reports is what everybody reads."""
    assert Report.from_json(told.as_json()) == told


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXTS,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["tier", "at", "gpu", "loaded", "requests", "models", "in_flight", "name", "served"]),
                inner,
            )
        ),
    )
)
def test_any_report_opens(document: Any) -> None:
    """Whatever stands under a server's key is read as far as it makes sense; old reports lack what came later."""
    opened = Report.from_json(document)
    assert Report.from_json(opened.as_json()) == opened


# -- freshness ---------------------------------------------------------------------------------------------------------


def test_age_grows_until_all_was_learnt_again(store: Store, clock: HandClock, tmp_path: Path) -> None:
    """Before the first refresh there is no age; while one part fails, the age is that part's, and the rest goes on."""
    put(weights_at(tmp_path), sample("one"))
    source = Counted(directory(tmp_path))
    known_state = KnownState(store.facts, source, clock)
    assert known_state.age() is None
    assert known_state.refresh()
    assert known_state.age() == timedelta(0)

    clock.tick(7)
    source.fails = True
    os.utime(tmp_path / "models" / "blobs", (1, 1))
    report(store, "new")
    assert not known_state.refresh()

    assert known_state.age() == timedelta(seconds=7)
    assert names(known_state) == ["one:latest"]
    assert [each.container for each in known_state.reports()] == ["new"]
    assert known_state.trouble is not None
    assert "the disk is gone" in known_state.trouble
    source.fails = False
    assert known_state.refresh()
    assert known_state.age() == timedelta(0)


def test_a_ledger_that_fails_leaves_everything_as_it_was(store: Store, tmp_path: Path) -> None:
    """Without an answer from the ledger, the reports stay, and the models are looked at all the same."""
    report(store, "up")
    facts = Failing(store)
    put(weights_at(tmp_path), sample("one"))
    known_state = KnownState(facts, directory(tmp_path), store.clock)
    assert known_state.refresh()
    facts.fails = True
    put(weights_at(tmp_path), sample("two"))

    assert not known_state.refresh()

    assert set(names(known_state)) == {"one:latest", "two:latest"}
    assert [each.container for each in known_state.reports()] == ["up"]
    assert known_state.trouble == "what the ledger tells cannot be learnt: ConnectionError: no ledger"


class Failing(Watched):
    fails = False

    def get(self, key: Any, default: Any = None) -> Any:
        if self.fails:
            raise ConnectionError("no ledger")
        return super().get(key, default)


@contextmanager
def running(known_state: KnownState) -> Iterator[KnownState]:
    known_state.start()
    try:
        yield known_state
    finally:
        known_state.stop()


def test_a_thread_keeps_it_fresh(live_store: Store, tmp_path: Path) -> None:
    """Started, it knows at once what is there, and soon what came; stopped, its thread is gone."""
    put(weights_at(tmp_path), sample("one"))
    source = directory(tmp_path)
    with running(KnownState(live_store.facts, source, SystemClock(), every=timedelta(milliseconds=20))) as known_state:
        assert names(known_state) == ["one:latest"]
        put(weights_at(tmp_path), sample("two"))
        until(lambda: len(names(known_state)) == 2)
    assert not known_state._thread.is_alive()


@pytest.mark.parametrize("started", [False, True])
def test_stopping_twice_or_unstarted_is_fine(live_store: Store, tmp_path: Path, *, started: bool) -> None:
    """Whoever tidies up need not know how far it came."""
    known_state = KnownState(live_store.facts, directory(tmp_path), SystemClock())
    if started:
        known_state.start()
    known_state.stop()
    known_state.stop()
