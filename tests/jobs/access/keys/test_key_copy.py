"""The copy of the keys: what a lost store gets back, and what it never does."""

import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.access.keys.key_copy import REWRITTEN_AFTER, KeysCopy, copy_at, keep_keys, read_copy
from jobs.access.keys.key_records import REVOKED_FOR, KeySettings
from jobs.access.keys.key_store import SUPERSEDED_FOR, KeyStore, read_keys
from jobs.access.keys.proofs import hash_of
from jobs.core.errors import StoreTrouble, StoreUnavailable
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict, TroubledDict


class Home:
    """A store, a copy, and the time."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.facts = HandClock(), MemoryDict()
        self.copy = copy_at(folder)
        self.commits = 0

    @property
    def store(self) -> KeyStore:
        return KeyStore(self.facts, self.clock)

    def make(self, *names: str) -> None:
        for name in names:
            self.store.make(name, hash_of(name), KeySettings(), by="root")

    def keep(self, facts: Any = None) -> list[str]:
        def commit() -> None:
            self.commits += 1

        return keep_keys(facts or self.facts, self.copy, self.clock.now(), commit)

    def states(self) -> dict[str, str]:
        return {name: each.state(self.clock.now()) for name, each in read_keys(self.facts).records.items()}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_where_no_key_ever_was_there_is_no_copy(home: Home) -> None:
    """So a home without keys is not told from a new one, and stays open on loopback."""
    assert home.keep() == []
    assert (read_copy(home.copy), home.commits) == (KeysCopy(), 0)


def test_a_lost_store_gets_its_keys_back(home: Home) -> None:
    """All of them, as they were; and revoked ones revoked."""
    home.make("alice", "bob")
    home.store.revoke("bob", by="root")
    home.keep()
    home.facts = MemoryDict()
    assert sorted(home.keep()) == ["alice", "bob"]
    assert home.states() == {"alice": "active", "bob": "revoked"}


def test_a_copy_that_is_behind_revives_nothing(home: Home) -> None:
    """What the store knows to be revoked stays so, though the copy has the key as it was; and then the copy has it."""
    home.make("alice")
    home.keep()
    home.store.revoke("alice", by="root")
    assert home.keep() == []
    assert home.states() == {"alice": "revoked"}
    assert read_copy(home.copy).found.records["alice"].is_revoked


def test_a_half_lost_store_is_mended(home: Home) -> None:
    """Each key by itself: what is there and later counts, what is gone comes back."""
    home.make("alice", "bob")
    home.store.revoke("alice", by="root")
    home.keep()
    home.facts.pop("key/alice/2")
    home.facts.pop("key/bob/1")
    assert sorted(home.keep()) == ["alice", "bob"]
    assert home.states() == {"alice": "revoked", "bob": "active"}


def test_a_copy_is_written_when_something_has_changed_and_each_night(home: Home) -> None:
    """And each night the entries are written anew, so that a Dict keeps them."""
    home.make("alice")
    home.keep()
    assert (home.keep(), home.commits) == ([], 1)
    home.store.change("alice", lambda now: KeySettings(scopes=("admin",)), by="root")
    home.keep()
    assert home.commits == 2
    written: list[str] = []
    home.clock.tick(REWRITTEN_AFTER.total_seconds() + 1)
    home.keep(TroubledDict(home.facts, written.append))
    assert (home.commits, written) == (3, ["items", "update key/alice/2"])


def test_what_is_superseded_goes_and_what_is_revoked_is_forgotten_late(home: Home) -> None:
    """Older versions go after a day, revoked keys after ninety; neither comes back from the copy."""
    home.make("alice")
    home.store.revoke("alice", by="root")
    home.keep()
    assert sorted(home.facts.keys()) == ["key/alice/1", "key/alice/2"]
    home.clock.tick((SUPERSEDED_FOR + timedelta(seconds=1)).total_seconds())
    home.keep()
    assert sorted(home.facts.keys()) == ["key/alice/2"]
    home.clock.tick(REVOKED_FOR.total_seconds())
    assert home.keep() == []
    assert (list(home.facts.keys()), read_copy(home.copy).found.is_empty, home.keep()) == ([], True, [])
    assert read_copy(home.copy).is_there


def test_a_damaged_copy_says_that_there_were_keys(home: Home) -> None:
    """It gives nothing back, is written anew from the store, and is kept as it is where the store is empty as well."""
    home.make("alice")
    home.keep()
    home.copy.write_text('{"v": 1, "keys": {')
    lost = MemoryDict()
    assert keep_keys(lost, home.copy, home.clock.now(), lambda: None) == []
    assert (read_copy(home.copy).is_there, read_copy(home.copy).at) == (True, None)
    home.keep()
    assert set(read_copy(home.copy).found.records) == {"alice"}


def test_the_copy_is_its_owners_alone(home: Home) -> None:
    """It holds hashes and no key; nobody else reads even those, and no draft is left."""
    home.make("alice")
    home.keep()
    assert stat.S_IMODE(home.copy.stat().st_mode) == 0o600
    assert sorted(each.name for each in home.copy.parent.iterdir()) == ["keys.json", "keys.lock"]


def test_a_record_of_a_later_version_survives_the_copy(home: Home) -> None:
    """It is copied and put back as it was found, by a version that cannot read it."""
    home.make("alice")
    later = {"v": 9, "name": "alice", "news": ["what", "ever"]}
    home.facts.put("key/alice/2", later)
    home.keep()
    home.facts = MemoryDict()
    assert home.keep() == ["alice"]
    assert home.facts.get("key/alice/2") == later


@pytest.mark.parametrize("at", range(1, 5))
def test_wherever_the_store_fails_nothing_is_worse(home: Home, at: int) -> None:
    """The next time all of it is done."""
    home.make("alice", "bob")
    home.store.revoke("bob", by="root")
    home.keep()
    home.facts.pop("key/alice/1")
    home.clock.tick((SUPERSEDED_FOR * 2).total_seconds())
    count = 0

    def meet(doing: str) -> None:
        nonlocal count
        count += 1
        if count >= at:
            raise StoreUnavailable(f"{doing}: away")

    with pytest.raises(StoreTrouble):
        home.keep(TroubledDict(home.facts, meet))
    home.keep()
    assert home.states() == {"alice": "active", "bob": "revoked"}
    assert sorted(home.facts.keys()) == ["key/alice/1", "key/bob/2"]
