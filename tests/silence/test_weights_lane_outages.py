"""The weights worker on a volume and a Dict that fail: it begins with what it has, and ends as its work ended."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.deployment.weights_worker import MountedWeights, performing
from app.fleet.schema import declared
from app.platform.errors import NotReloaded
from jobs.core.errors import ServerTrouble, StoreUnavailable
from jobs.registry.client import Registry
from jobs.store.sqlite import SqliteDict
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until


class Moody:
    """A volume that fails as it is told to."""

    def __init__(self) -> None:
        self.commits = 0
        self.fails = False

    def commit(self) -> None:
        self.commits += 1
        if self.fails:
            raise ServerTrouble("committing the volume: Modal did not answer within 600 s")

    def reload(self) -> None:
        if self.fails:
            raise NotReloaded("reloading the volume: Modal did not answer within 120 s")


class Forgetful(SqliteDict):
    """A dict that takes nothing."""

    def put(self, key: str, value: object, *, skip_if_exists: bool = False) -> bool:
        raise StoreUnavailable(f"writing {key} to the ledger: Modal did not answer within 10 s")


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[SqliteDict]:
    facts = Forgetful(tmp_path / "facts.sqlite")
    yield facts
    facts.close()


def test_a_worker_begins_though_the_platform_is_away(store: Store, tmp_path: Path, facts: SqliteDict) -> None:
    """With a volume that is not reloaded, and a Dict that takes nothing, it works on what it has."""
    volume = Moody()
    volume.fails = True
    mounted = MountedWeights(volume, tmp_path / "models", facts, store.clock)
    registry = Registry(clock=store.clock)
    with performing(store.ledger(), facts, mounted, registry=registry, fleet=declared(), clock=store.clock) as perform:
        assert callable(perform)
    assert volume.commits >= 1


def test_how_the_work_ended_is_what_counts(store: Store, tmp_path: Path, facts: SqliteDict) -> None:
    """A last commit that fails hides nothing: a container that is taken away says so to the platform."""
    volume = Moody()
    mounted = MountedWeights(volume, tmp_path / "models", facts, store.clock)
    with pytest.raises(KeyboardInterrupt), mounted.committing():  # noqa: PT012 - what is inside is what fails
        volume.fails = True
        raise KeyboardInterrupt
    assert volume.commits == 1


@pytest.mark.parametrize("leaving", [StoreUnavailable, KeyboardInterrupt])
def test_a_silent_commit_holds_up_nobody_who_leaves(
    store: Store, tmp_path: Path, facts: SqliteDict, leaving: type[BaseException]
) -> None:
    """A commit that runs and is not answered is waited for a while, then left to itself; none is made behind it."""
    began, answered = threading.Event(), threading.Event()

    class Silent(Moody):
        def commit(self) -> None:
            super().commit()
            began.set()
            answered.wait(PATIENCE)

    volume = Silent()
    mounted = MountedWeights(volume, tmp_path / "models", facts, store.clock)
    started = time.monotonic()
    moment = timedelta(seconds=0.01)
    with pytest.raises(leaving), mounted.committing(every=moment, last_within=moment):  # noqa: PT012 - as above
        until(began.is_set)
        raise leaving
    assert time.monotonic() - started < PATIENCE
    assert volume.commits == 1
    answered.set()


def test_no_last_commit_when_the_store_has_ended_the_work(store: Store, tmp_path: Path, facts: SqliteDict) -> None:
    """A worker that takes itself out because the ledger is silent asks the same platform for nothing more."""
    volume = Moody()
    mounted = MountedWeights(volume, tmp_path / "models", facts, store.clock)
    with pytest.raises(StoreUnavailable), mounted.committing():
        raise StoreUnavailable("the ledger has answered nothing for 61 s")
    assert volume.commits == 0
    with mounted.committing():
        pass
    assert volume.commits == 1
