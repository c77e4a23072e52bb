"""The copy of the keys on the volume, while the worker that writes it is busy for hours."""

from pathlib import Path

from app.deployment.weights_worker import COPIED_EVERY, KeysCopied
from jobs.access.keys.key_copy import copy_at, read_copy
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.proofs import hash_of
from jobs.core.errors import StoreTrouble
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict, TroubledDict


def test_what_is_revoked_during_a_long_pull_is_copied_within_a_minute(tmp_path: Path) -> None:
    """Each minute by one listing, and by nothing in between; it goes out with the commit that comes next."""
    clock, facts, trips = HandClock(), MemoryDict(), list[str]()
    store = KeyStore(facts, clock)
    store.make("alice", hash_of("omk_alice"), KeySettings(), by="root")
    copied = KeysCopied(TroubledDict(facts, trips.append), tmp_path, clock)
    copied.if_due()
    store.revoke("alice", by="root")
    trips.clear()
    for _ in range(11):
        clock.tick(COPIED_EVERY.total_seconds() / 12)
        copied.if_due()
    assert trips == []
    clock.tick(COPIED_EVERY.total_seconds() / 12)
    copied.if_due()
    assert trips == ["items"]
    assert read_copy(copy_at(tmp_path)).found.records["alice"].is_revoked


def test_what_is_revoked_while_a_worker_is_about_to_leave_is_copied_as_it_leaves(tmp_path: Path) -> None:
    """Who revoked a key while a worker was there sent for no other one; a store that is away then ends no work."""
    clock, facts = HandClock(), MemoryDict()
    store = KeyStore(facts, clock)
    store.make("alice", hash_of("omk_alice"), KeySettings(), by="root")
    copied = KeysCopied(facts, tmp_path, clock)
    copied.if_due()
    store.revoke("alice", by="root")

    copied.once_more()

    assert read_copy(copy_at(tmp_path)).found.records["alice"].is_revoked

    def away(_: str) -> None:
        raise StoreTrouble("away")

    KeysCopied(TroubledDict(facts, away), tmp_path, clock).once_more()
