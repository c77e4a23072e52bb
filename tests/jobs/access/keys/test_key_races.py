"""Keys under any order of steps: admins who change, rotate and revoke at once, nights that copy and clear, kills, lost
replies; and what a gateway that reads meanwhile is told.
"""

import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.access.keys.key_copy import copy_at, keep_keys, read_copy
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore, read_keys
from jobs.access.keys.proofs import hash_of
from jobs.core.errors import Refused, StoreUnavailable
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict
from tests.support.interleaving import Actor, TurnDict


def limited(now: KeySettings, **limits: int) -> KeySettings:
    return replace(now, limits=replace(now.limits, **limits))  # type: ignore[arg-type]  # these two are numbers


class World:
    """Three admins and a night on one store; what each was told that it had done."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.real = HandClock(), MemoryDict()
        self.copy = copy_at(folder)
        KeyStore(self.real, self.clock).make("alice", hash_of("first"), KeySettings(), by="root")
        self.rpm = self.concurrent = 0
        self.is_revoked = False
        self.revived_at = 0
        self.seen = 0
        self.proofs: list[str] = []
        self.actors = [
            Actor("counts requests", self.change_rpm),
            Actor("counts at once", self.change_concurrent),
            Actor("rotates", self.rotate),
            Actor("revokes", self.revoke),
            Actor("night", self.night),
        ]

    def store(self) -> KeyStore:
        return KeyStore(TurnDict(self.real), self.clock)

    def change_rpm(self) -> None:
        for number in (1, 2, 3):
            with suppress(Refused):
                self.store().change("alice", partial(limited, rpm=number), by="ann")
                self.rpm = number

    def change_concurrent(self) -> None:
        for number in (1, 2, 3):
            with suppress(Refused):
                self.store().change("alice", partial(limited, concurrent=number), by="bob")
                self.concurrent = number

    def rotate(self) -> None:
        for number in (1, 2):
            with suppress(Refused):
                self.store().rotate("alice", hash_of(str(number)), timedelta(hours=1), by="eve")
                self.proofs.append(hash_of(str(number)))

    def revoke(self) -> None:
        self.store().revoke("alice", by="root")
        self.is_revoked = True

    def night(self) -> None:
        for _ in range(2):
            keep_keys(TurnDict(self.real), self.copy, self.clock.now(), lambda: None)

    def check(self) -> None:
        """What was told holds, for whoever reads now."""
        record = read_keys(self.real).records["alice"]
        assert record.n >= self.seen, "a reader was told of a later version before"
        self.seen = record.n
        limits = record.settings.limits
        assert (limits.rpm or 0) >= self.rpm
        assert (limits.concurrent or 0) >= self.concurrent
        assert set(self.proofs) <= {each.text for each in record.proofs}
        assert record.is_revoked or not self.is_revoked
        copied = read_copy(self.copy).found.records.get("alice")
        assert copied is None or copied.n <= record.n


STEPS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["step", "step", "step", "lose", "kill"])), max_size=60)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.booleans())
def test_what_an_admin_was_told_holds(steps: list[tuple[int, str]], loses_all: bool) -> None:
    """Neither a change, nor a new key, nor a revocation is lost to another's, or to a night, wherever one is killed."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for number, how in steps:
            actor = world.actors[number]
            if how == "kill" and number != 4:
                actor.kill()
            else:
                actor.step(loses_reply=how == "lose")
            world.check()
        for actor in world.actors:
            while not actor.done:
                actor.step()
                world.check()
        failures = [each.failure for each in world.actors if each.failure is not None]
        assert all(isinstance(each, StoreUnavailable) for each in failures), failures
        if loses_all:  # after a night that was whole, a loss is none
            keep_keys(world.real, world.copy, world.clock.now(), lambda: None)
            world.real = MemoryDict()
            keep_keys(world.real, world.copy, world.clock.now(), lambda: None)
            world.check()
