"""Keys as facts: what is made, changed and revoked stays so, whoever races, wherever the process ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobs.access.keys.key_copy import copy_at, keep_keys, read_copy
from jobs.access.keys.key_records import KeyRecord, KeySettings
from jobs.access.keys.key_store import MOST, SUPERSEDED_FOR, KeysFound, KeyStore, read_keys, restore
from jobs.access.keys.proofs import hash_of, proof_of
from jobs.access.limits import Limits
from jobs.core.errors import BadRequest, NotFound, Refused, StoreUnavailable
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict, TroubledDict

PROOF, OTHER, THIRD = (hash_of(f"omk_{name}") for name in ("one", "two", "three"))
SIGNER = proof_of("AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f")


def made(*names: str) -> tuple[KeyStore, MemoryDict, HandClock]:
    clock, facts = HandClock(), MemoryDict()
    store = KeyStore(facts, clock)
    for name in names:
        store.make(name, hash_of(name), KeySettings(), by="root")
    return store, facts, clock


# -- one admin ---------------------------------------------------------------------------------------------------------


def test_a_key_is_made_changed_and_revoked() -> None:
    """Each act is a version of the whole; the last one counts, and who did what is told."""
    store, facts, clock = made()
    store.make("alice", PROOF, KeySettings(models=("llama*",)), by="root")
    clock.tick(60)
    changed = store.change("alice", lambda now: replace(now, limits=Limits(rpm=60)), by="ann")
    assert (changed.settings.models, changed.settings.limits.rpm, changed.made_by, changed.changed_by) == (
        ("llama*",),
        60,
        "root",
        "ann",
    )
    revoked = store.revoke("alice", by="bob")
    assert (revoked.state(clock.now()), revoked.revoked_by) == ("revoked", "bob")
    assert sorted(facts.keys()) == ["key/alice/1", "key/alice/2", "key/alice/3"]
    assert store.get("alice") == revoked


def test_no_version_holds_a_key() -> None:
    """What is kept are hashes; what is told are not even those."""
    store, facts, clock = made("alice")
    assert "omk_" not in str(dict(facts.items()))
    assert "sha256" not in str(store.get("alice").about(clock.now()))


def test_asking_twice_does_it_once() -> None:
    """The same make, rotate or revoke again changes nothing and tells what is there."""
    store, facts, _ = made()
    first = store.make("alice", PROOF, KeySettings(), by="root")
    assert store.make("alice", PROOF, KeySettings(), by="root") == first
    rotated = store.rotate("alice", OTHER, timedelta(hours=1), by="root")
    assert store.rotate("alice", OTHER, timedelta(hours=1), by="root") == rotated
    assert store.revoke("alice", by="root") == store.revoke("alice", by="bob")
    assert len(list(facts.keys())) == 3


def test_another_key_of_a_name_is_refused() -> None:
    """A name that is taken, and a proof that is another's, are refused; a revoked one is free again."""
    store, _, _ = made("alice")
    with pytest.raises(Refused, match="there is a key 'alice' already"):
        store.make("alice", OTHER, KeySettings(), by="root")
    with pytest.raises(Refused, match="that proof is key 'alice'"):
        store.make("bob", hash_of("alice"), KeySettings(), by="root")
    store.revoke("alice", by="root")
    assert store.make("alice", OTHER, KeySettings(), by="root").n == 3
    assert store.make("bob", hash_of("alice"), KeySettings(), by="root").n == 1


def test_what_is_revoked_cannot_be_changed() -> None:
    """Neither changed nor rotated: it is made anew, with another key."""
    store, _, _ = made("alice")
    store.revoke("alice", by="root")
    with pytest.raises(Refused, match="is revoked"):
        store.change("alice", lambda now: replace(now, scopes=("admin",)), by="root")
    with pytest.raises(Refused, match="is revoked"):
        store.rotate("alice", OTHER, timedelta(0), by="root")
    with pytest.raises(NotFound, match="there is no key 'bob'"):
        store.revoke("bob", by="root")


def test_old_and_new_overlap_for_as_long_as_was_said() -> None:
    """After that, and at once with no overlap, only the new one is good; a second rotation never makes one longer."""
    store, _, clock = made("alice")
    store.rotate("alice", OTHER, timedelta(hours=1), by="root")
    record = store.get("alice")
    assert [each.is_good(clock.now()) for each in record.proofs] == [True, True]
    store.rotate("alice", SIGNER, timedelta(hours=24), by="root")
    clock.tick(3601)
    assert [each.text for each in store.get("alice").proofs if each.is_good(clock.now())] == [SIGNER, OTHER]
    store.rotate("alice", THIRD, timedelta(0), by="root")
    assert [each.text for each in store.get("alice").proofs] == [THIRD]
    with pytest.raises(BadRequest, match="0s to 30d"):
        store.rotate("alice", PROOF, timedelta(days=31), by="root")


def test_there_is_an_end_to_how_many_keys_there_are() -> None:
    """Beyond the most, one has to be revoked first."""
    store, facts, clock = made("alice")
    record = store.get("alice")
    entries = [replace(record, name=f"k{n}", proofs=()) for n in range(MOST - 1)]
    facts.update({each.key: each.as_json() for each in entries})
    with pytest.raises(Refused, match="no more than that"):
        store.make("one-more", OTHER, KeySettings(), by="root")
    store.revoke("k1", by="root")
    assert store.make("one-more", OTHER, KeySettings(), by="root").state(clock.now()) == "active"


@pytest.mark.parametrize(
    "damage",
    [
        {"v": 2},
        {"name": "bob"},
        {"expires": "soon"},
        {"models": ["llama*", 7]},
        {"models": [""]},
        {"scopes": ["root"]},
        {"limits": {"rpm": "many"}},
        {"limits": {"new-limit": "1"}},
        {"made_at": None},
        {"revoked_at": "yes"},
    ],
)
def test_what_is_not_understood_lets_nobody_in(damage: dict[str, Any]) -> None:
    """A record of a later version, or a damaged one, is no key, though an older version could be read; it is told."""
    store, facts, _ = made("alice")
    facts.put("key/alice/2", {**facts.get("key/alice/1"), **damage})
    found = store.all()
    assert ("alice" in found.records, found.unreadable["alice"][0]) == (False, 2)
    with pytest.raises(Refused, match="a later version wrote it"):
        store.change("alice", lambda now: now, by="root")


def test_a_proof_that_is_none_is_left_out() -> None:
    """Whatever stands in a proof's place proves nothing."""
    store, facts, _ = made("alice")
    facts.put("key/alice/2", {**facts.get("key/alice/1"), "proofs": [{"proof": "omk_one"}, 7, {"proof": PROOF}]})
    assert [each.text for each in store.get("alice").proofs] == [PROOF]


@given(st.text(max_size=20), st.text(max_size=5))
def test_no_entry_hurts(name: str, number: str) -> None:
    """Whatever lies among the keys, those that are right are read."""
    store, facts, _ = made("alice")
    facts.put(f"key/{name}/{number}", {"v": 1})
    assert store.get("alice").n == 1


# -- several -----------------------------------------------------------------------------------------------------------


class Met(MemoryDict):
    """Lets somebody else act just before a conditional write."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[Callable[[], object]] = []

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        while self.others:
            self.others.pop(0)()
        return super().put(key, value, skip_if_exists=skip_if_exists)


def test_of_two_who_change_one_key_both_changes_count() -> None:
    """Whoever loses the race reads again, and applies his change to what is there."""
    clock, facts = HandClock(), Met()
    one, other = KeyStore(facts, clock), KeyStore(facts, clock)
    one.make("alice", PROOF, KeySettings(), by="root")
    facts.others = [lambda: other.change("alice", lambda now: replace(now, models=("llama*",)), by="bob")]
    one.change("alice", lambda now: replace(now, limits=Limits(rpm=1)), by="ann")
    told = one.get("alice").settings
    assert (told.models, told.limits.rpm) == (("llama*",), 1)


def test_who_changes_a_key_while_it_is_revoked_does_not_revive_it() -> None:
    """The change is refused, and the key stays revoked."""
    clock, facts = HandClock(), Met()
    store = KeyStore(facts, clock)
    store.make("alice", PROOF, KeySettings(), by="root")
    facts.others = [lambda: KeyStore(facts, clock).revoke("alice", by="bob")]
    with pytest.raises(Refused, match="is revoked"):
        store.change("alice", lambda now: replace(now, scopes=("admin",)), by="ann")
    assert store.get("alice").is_revoked


def test_who_slept_between_read_and_write_reads_again() -> None:
    """What he read may have been superseded and removed since: he writes nothing by it."""
    clock, facts = HandClock(), MemoryDict()
    store = KeyStore(facts, clock)
    store.make("alice", PROOF, KeySettings(), by="root")
    slept: list[bool] = []

    def change(now: KeySettings) -> KeySettings:
        if not slept:
            slept.append(True)
            other = KeyStore(facts, clock)
            other.change("alice", lambda told: replace(told, models=("llama*",)), by="bob")
            other.revoke("alice", by="bob")
            clock.tick((SUPERSEDED_FOR * 2).total_seconds())
            facts.remove_all(read_keys(facts).older)
        return replace(now, scopes=("admin",))

    with pytest.raises(Refused, match="is revoked"):
        store.change("alice", change, by="ann")


class LostReply(MemoryDict):
    """Writes, and says that it had been written before: as a call that was made twice."""

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        super().put(key, value, skip_if_exists=skip_if_exists)
        return False


def test_a_write_whose_reply_was_lost_is_known_by_its_token() -> None:
    """It is not done a second time."""
    facts = LostReply()
    store = KeyStore(facts, HandClock())
    store.make("alice", PROOF, KeySettings(), by="root")
    store.revoke("alice", by="root")
    assert sorted(facts.keys()) == ["key/alice/1", "key/alice/2"]


def test_who_never_wins_gives_up_and_says_so() -> None:
    """Races have an end."""
    clock, facts = HandClock(), MemoryDict()
    store = KeyStore(facts, clock)
    store.make("alice", PROOF, KeySettings(), by="root")
    count = 0

    def change(now: KeySettings) -> KeySettings:
        nonlocal count
        count += 1
        KeyStore(facts, clock).change("alice", lambda told: replace(told, limits=Limits(tpm=count)), by="bob")
        return replace(now, scopes=("admin",))

    with pytest.raises(StoreUnavailable, match="changed by others again and again"):
        store.change("alice", change, by="ann")


# -- a store that is lost, and a process that ends anywhere ------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


NAMES = st.sampled_from(["alice", "bob"])


class KeysUnderFire(RuleBasedStateMachine):
    """Two admins make, change, rotate and revoke two keys; the process ends before or after any operation of the store;
    the store loses everything, and is put together again from the copy and from what a gateway knew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.kept = MemoryDict()
        self.folder = Path(_folder())
        self.copy = copy_at(self.folder)
        self.gateway = KeysFound()
        self.number = 0
        #: The highest version of each name that somebody was told of, and whether it is revoked.
        self.told: dict[str, KeyRecord] = {}
        #: The same as it was when the copy or a gateway last learnt of it: what a loss may not go behind.
        self.safe: dict[str, KeyRecord] = {}
        self.crash_at = -1
        #: The process ends before it can tell anybody what it has done.
        self.is_silent = False

    def facts(self) -> TroubledDict:
        count = 0

        def meet(_: str) -> None:
            nonlocal count
            count += 1
            if count == self.crash_at:
                raise Crash

        return TroubledDict(self.kept, meet)

    def act(self, do: Callable[[KeyStore], KeyRecord]) -> None:
        try:
            record = do(KeyStore(self.facts(), self.clock))
        except (Refused, NotFound, Crash):
            return
        finally:
            self.crash_at = -1
            self.clock.tick(1)
        if not self.is_silent:
            self.told[record.name] = record
        self.is_silent = False

    def proof(self) -> str:
        self.number += 1
        return hash_of(str(self.number))

    @rule(name=NAMES)
    def make(self, name: str) -> None:
        self.act(lambda store: store.make(name, self.proof(), KeySettings(), by="ann"))

    @rule(name=NAMES, rpm=st.integers(1, 9))
    def change(self, name: str, rpm: int) -> None:
        self.act(lambda store: store.change(name, lambda now: replace(now, limits=Limits(rpm=rpm)), by="bob"))

    @rule(name=NAMES, hours=st.integers(0, 2))
    def rotate(self, name: str, hours: int) -> None:
        self.act(lambda store: store.rotate(name, self.proof(), timedelta(hours=hours), by="ann"))

    @rule(name=NAMES)
    def revoke(self, name: str) -> None:
        self.act(lambda store: store.revoke(name, by="bob"))

    @rule(at=st.integers(1, 4))
    def crash_next(self, at: int) -> None:
        self.crash_at = at

    @rule()
    def crash_after(self) -> None:
        self.is_silent = True

    @rule(days=st.integers(0, 3))
    def night(self, days: int) -> None:
        self.clock.tick(days * 86400)
        crashed = False
        try:
            keep_keys(self.facts(), self.copy, self.clock.now(), lambda: None)
        except Crash:
            crashed = True
        self.crash_at = -1
        if not crashed:
            self.safe = dict(self.told)

    @rule()
    def gateway_reads(self) -> None:
        self.gateway = read_keys(self.kept).joined(self.gateway)
        self.safe = {**self.safe, **self.told}

    @rule(gateway_runs=st.booleans())
    def lose_everything(self, gateway_runs: bool) -> None:
        """Whatever nobody else knew is gone; whatever the copy or a gateway knew is there again."""
        self.kept = MemoryDict()
        if not gateway_runs:
            self.gateway = KeysFound()
            self.safe = {
                name: record
                for name, record in self.safe.items()
                if record.n <= read_copy(self.copy).found.numbers.get(name, 0)
            }
        restore(self.kept, self.gateway.beyond(read_keys(self.kept), self.clock.now()))
        keep_keys(self.kept, self.copy, self.clock.now(), lambda: None)
        self.told = dict(self.safe)

    @precondition(lambda self: self.told)
    @invariant()
    def what_was_told_holds(self) -> None:
        """Nobody is told of a version that another one falls behind of: neither a change nor a revocation is lost."""
        found = read_keys(self.kept)
        for name, record in self.told.items():
            there = found.records[name]
            assert there.n >= record.n
            if record.is_revoked and there.n == record.n:
                assert there.is_revoked
            assert there.n > record.n or there == record

    @invariant()
    def a_key_is_one(self) -> None:
        """No two keys that are good have one proof."""
        proofs = [
            proof.text
            for record in read_keys(self.kept).records.values()
            if not record.is_revoked
            for proof in record.proofs
        ]
        assert len(proofs) == len(set(proofs))


_FOLDERS: list[str] = []


def _folder() -> str:
    import tempfile  # noqa: PLC0415 - hypothesis makes many machines in one test

    _FOLDERS.append(tempfile.mkdtemp(prefix="keys-"))
    return _FOLDERS[-1]


TestKeysUnderFire = KeysUnderFire.TestCase
