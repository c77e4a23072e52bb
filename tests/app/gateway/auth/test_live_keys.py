"""The keys that count now: what is made, changed or revoked counts in time; a store that is away or lost opens nothing
and locks nobody out who is on a line.
"""

import asyncio
import base64
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.gateway.auth.key_lines import FixedLines, KeyFile
from app.gateway.auth.keys import ANYONE, Keys
from app.gateway.auth.live_keys import AGAIN, EVERY, LASTS, TRUSTED, LiveKeys
from app.gateway.auth.signatures import SignedRequest
from jobs.access.keys.key_copy import KeysCopy, copy_at, keep_keys, read_copy
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore, read_keys
from jobs.access.keys.proofs import hash_of, proof_of
from jobs.access.limits import Limits
from jobs.core.errors import BadRequest, NotWritable, StoreUnavailable, Unauthorized
from jobs.testing.clock import HandClock
from tests.support.failing_stores import MemoryDict, TroubledDict, While
from tests.support.waiting import until

ROOT, ALICE, BOB = "omk_root", "omk_alice", "omk_bob"
LINES = f"root {hash_of(ROOT)} chat admin"


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {key}".encode())]


class Gateway:
    """A gateway's keys on a store that others use as well, with every call of it counted."""

    def __init__(self, world: "World", *, lines: Any = None, may_be_open: bool = False) -> None:
        self.world = world
        self.calls: list[str] = []
        self.away = While(trouble=StoreUnavailable("the store is away"))

        def meet(doing: str) -> None:
            self.calls.append(doing)
            self.away(doing)

        self.keys = LiveKeys(
            lines or FixedLines(Keys.parse(LINES)),
            TroubledDict(world.facts, meet),
            world.clock,
            copy=world.copy,
            may_be_open=may_be_open,
        )

    def asks(self, key: str | None) -> str:
        """Whose key it is, or why it is refused."""
        headers = bearer(key) if key else []
        try:
            return asyncio.run(self.keys.identify(headers, self.world.clock.now())).name
        except (Unauthorized, StoreUnavailable) as refusal:
            return str(refusal)


class World:
    def __init__(self) -> None:
        self.clock, self.facts, self.copy = HandClock(), MemoryDict(), KeysCopy()

    @property
    def store(self) -> KeyStore:
        return KeyStore(self.facts, self.clock)

    def make(self, name: str, key: str, **settings: Any) -> None:
        self.store.make(name, hash_of(key), KeySettings(**settings), by="root")


@pytest.fixture
def world() -> World:
    return World()


def test_a_revoked_key_is_refused_everywhere_within_ten_seconds(world: World) -> None:
    """Two gateways know it a moment before; ten seconds later both refuse it, each by one round trip."""
    world.make("alice", ALICE)
    gateways = [Gateway(world), Gateway(world)]
    assert [each.asks(ALICE) for each in gateways] == ["alice", "alice"]
    world.clock.tick(5)
    world.store.revoke("alice", by="root")
    for each in gateways:
        each.calls.clear()
    assert gateways[0].asks(ALICE) == "alice", "it is trusted for ten seconds, so this costs no trip"
    world.clock.tick(TRUSTED.total_seconds() - 4.9)
    for each in gateways:
        assert "key 'alice' was revoked" in each.asks(ALICE)
        assert each.calls == ["items"]


def test_a_key_costs_no_trip_while_what_is_known_is_new(world: World) -> None:
    """A hundred requests within ten seconds of a look are answered by it; with a line's key nothing is ever asked."""
    world.make("alice", ALICE)
    gateway = Gateway(world)
    gateway.asks(ALICE)
    gateway.calls.clear()
    for _ in range(100):
        assert gateway.asks(ALICE) == "alice"
    world.clock.tick(3600)
    assert gateway.asks(ROOT) == "root"
    assert gateway.calls == []


def test_a_new_key_is_let_in_at_once(world: World) -> None:
    """A key that is not known is looked for; but not again and again, however often somebody asks with none."""
    gateway = Gateway(world)
    assert "not known" in gateway.asks(ALICE)
    world.make("alice", ALICE)
    world.clock.tick(AGAIN.total_seconds())
    assert gateway.asks(ALICE) == "alice"
    gateway.calls.clear()
    for _ in range(100):
        gateway.asks("omk_guessed")
    assert gateway.calls == []
    assert "no key was sent" in gateway.asks(None)


def test_what_a_key_may_is_changed_while_it_runs(world: World) -> None:
    """Scopes, models, limits and its end count as they are after the next look."""
    world.make("alice", ALICE)
    gateway = Gateway(world)
    gateway.asks(ALICE)
    ends = world.clock.now() + timedelta(minutes=1)
    changed = KeySettings(("admin",), ("llama*",), Limits(rpm=3), ends)
    world.store.change("alice", lambda _: changed, by="root")
    gateway.keys.refresh()
    caller = asyncio.run(gateway.keys.identify(bearer(ALICE), world.clock.now()))
    assert (caller.scopes, caller.models, caller.limits.rpm) == (frozenset({"admin"}), ("llama*",), 3)
    world.clock.tick(60)
    assert "expired" in gateway.asks(ALICE)


def test_old_and_new_are_let_in_for_as_long_as_they_overlap(world: World) -> None:
    """After that the old one has expired."""
    world.make("alice", ALICE)
    world.store.rotate("alice", hash_of(BOB), timedelta(hours=1), by="root")
    gateway = Gateway(world)
    assert [gateway.asks(ALICE), gateway.asks(BOB)] == ["alice", "alice"]
    world.clock.tick(3601)
    assert "expired" in gateway.asks(ALICE)
    assert gateway.asks(BOB) == "alice"


def test_a_public_key_is_a_key_as_well(world: World) -> None:
    """Who signs is let in from the ledger as from a line, and refused when it is revoked."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    world.store.make("alice", proof_of(public), KeySettings(), by="root")
    gateway = Gateway(world)

    def asks() -> str:
        ts = int(world.clock.now().timestamp())
        request = SignedRequest("GET", "/api/tags", f"ts={ts}")
        signature = private.sign(f"GET,/api/tags?ts={ts}".encode())
        value = f"{public.split()[1]}:{base64.b64encode(signature).decode()}".encode()
        headers = [(b"authorization", value)]
        try:
            return asyncio.run(gateway.keys.identify(headers, world.clock.now(), lambda: request)).name
        except Unauthorized as refusal:
            return str(refusal)

    assert asks() == "alice"
    world.store.revoke("alice", by="root")
    world.clock.tick(TRUSTED.total_seconds() + 1)
    assert "was revoked" in asks()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer omk_alice")],
        [(b"x-api-key", b"omk_alice")],
        [(b"authorization", b"Basic dTpvbWtfYWxpY2U=")],
    ],
)
def test_a_key_of_the_ledger_comes_in_every_header(world: World, headers: list[tuple[bytes, bytes]]) -> None:
    """As a bearer's, in x-api-key, as a password."""
    world.make("alice", ALICE)
    keys = Gateway(world).keys
    assert asyncio.run(keys.identify(headers, world.clock.now())).name == "alice"


# -- a store that is away, empty or lost ---------------------------------------------------------------------------


def test_while_the_store_is_away_the_last_known_keys_count_and_then_none(world: World) -> None:
    """For ten minutes; after that the ledger's keys are answered with 503, and those of lines go on."""
    world.make("alice", ALICE)
    gateway = Gateway(world)
    gateway.asks(ALICE)
    gateway.away.begin()
    world.clock.tick(LASTS.total_seconds() - 1)
    assert gateway.asks(ALICE) == "alice"
    assert gateway.keys.problems()[0].startswith("the keys of the ledger cannot be read")
    world.clock.tick(2)
    assert gateway.asks(ALICE) == "the keys of the ledger cannot be read"
    assert gateway.asks(ROOT) == "root"
    gateway.away.end()
    world.clock.tick(1)
    assert (gateway.asks(ALICE), gateway.keys.problems()) == ("alice", ())


def test_a_store_that_was_never_read_lets_in_those_of_lines_alone(world: World) -> None:
    """A gateway that starts while the store is away knows no key of it, and says that it cannot read them."""
    world.make("alice", ALICE)
    gateway = Gateway(world)
    gateway.away.begin()
    assert gateway.asks(ROOT) == "root"
    assert "not known" in gateway.asks(ALICE)


def test_a_store_that_was_emptied_gets_its_keys_back_from_a_gateway(world: World) -> None:
    """What it knew a moment ago is put back: alice is let in, and bob, who was revoked, is not."""
    world.make("alice", ALICE)
    world.make("bob", BOB)
    world.store.revoke("bob", by="root")
    gateway = Gateway(world)
    gateway.asks(ALICE)
    for key in list(world.facts.keys()):
        world.facts.pop(key)
    world.clock.tick(TRUSTED.total_seconds() + 1)
    assert gateway.asks(ALICE) == "alice"
    assert "was revoked" in gateway.asks(BOB)
    assert {name: each.is_revoked for name, each in read_keys(world.facts).records.items()} == {
        "alice": False,
        "bob": True,
    }


def test_an_empty_store_is_filled_from_the_copy_at_the_start(world: World, tmp_path: Path) -> None:
    """A gateway that starts after the loss has what the volume knew; what was revoked stays revoked."""
    world.make("alice", ALICE)
    world.make("bob", BOB)
    world.store.revoke("bob", by="root")
    keep_keys(world.facts, copy_at(tmp_path), world.clock.now(), lambda: None)
    lost = World()
    lost.copy = read_copy(copy_at(tmp_path))
    gateway = Gateway(lost)
    assert gateway.asks(ALICE) == "alice"
    assert "was revoked" in gateway.asks(BOB)
    assert gateway.asks(ROOT) == "root"


def test_a_store_that_takes_nothing_back_is_read_all_the_same(world: World) -> None:
    """What it has lost counts as it was known, and is put back once it takes it."""
    world.make("alice", ALICE)
    gateway = Gateway(world)
    gateway.asks(ALICE)
    world.facts.pop("key/alice/1")
    refusing = While(lambda doing: doing.startswith("put"), StoreUnavailable("the disk is full"))
    gateway.keys._facts = TroubledDict(world.facts, refusing)
    refusing.begin()
    for _ in range(100):
        world.clock.tick(TRUSTED.total_seconds())
        assert gateway.asks(ALICE) == "alice"
    refusing.end()
    gateway.keys.refresh()
    assert list(world.facts.keys()) == ["key/alice/1"]


def test_an_empty_store_opens_no_door(world: World) -> None:
    """With keys on lines or none at all, deployed or where there ever were some, nobody comes in without one."""
    assert "no key was sent" in Gateway(world).asks(None)
    assert "no key was sent" in Gateway(world, lines=FixedLines(Keys())).asks(None)
    world.copy = KeysCopy(is_there=True)
    assert "no key was sent" in Gateway(world, lines=FixedLines(Keys()), may_be_open=True).asks(None)


def test_without_any_key_one_machine_is_open_until_there_is_one(world: World) -> None:
    """The first key closes the door within ten seconds, and it stays closed when that is revoked."""
    gateway = Gateway(world, lines=FixedLines(Keys()), may_be_open=True)
    assert gateway.asks(None) == ANYONE.name
    world.make("alice", ALICE)
    world.clock.tick(TRUSTED.total_seconds() + 1)
    assert "no key was sent" in gateway.asks(None)
    assert gateway.asks(ALICE) == "alice"
    world.store.revoke("alice", by="root")
    gateway.keys.refresh()
    assert "no key was sent" in gateway.asks(None)


def test_a_store_that_cannot_be_read_opens_no_door(world: World) -> None:
    """Whether there are keys is not known then."""
    gateway = Gateway(world, lines=FixedLines(Keys()), may_be_open=True)
    gateway.away.begin()
    assert "no key was sent" in gateway.asks(None)
    gateway.away.end()
    world.clock.tick(5)
    gateway.keys.refresh()
    assert gateway.asks(None) == ANYONE.name


# -- lines ---------------------------------------------------------------------------------------------------------


def test_a_file_that_changes_is_read_again(world: World, tmp_path: Path) -> None:
    """A line that was taken out lets nobody in any more, and one that was added does, after the next look."""
    file = tmp_path / "keys"
    file.write_text(f"alice {hash_of(ALICE)}\n")
    gateway = Gateway(world, lines=KeyFile(file, {}))
    assert gateway.asks(ALICE) == "alice"
    file.write_text(f"bob {hash_of(BOB)}\n")
    gateway.keys.refresh()
    assert "not known" in gateway.asks(ALICE)
    assert gateway.asks(BOB) == "bob"


def test_a_file_that_changes_while_nobody_asks_is_read_again(world: World, tmp_path: Path) -> None:
    """Whoever asks next is not let in by a line that was taken out meanwhile; and the store is not asked for that."""

    class Hurried(HandClock):
        """Four seconds are over soon."""

        def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
            self.tick(seconds)
            return wake is not None and wake.wait(0.01)

    world.clock = Hurried()
    file = tmp_path / "keys"
    file.write_text(f"alice {hash_of(ALICE)}\n")
    gateway = Gateway(world, lines=KeyFile(file, {}))

    async def play() -> None:
        gateway.keys.begin()
        file.write_text(f"bob {hash_of(BOB)}\n")
        await asyncio.to_thread(until, lambda: gateway.keys.names == ("bob",), "the file to be read again")
        gateway.keys.end()

    asyncio.run(play())
    assert "not known" in gateway.asks(ALICE)


def test_a_file_that_becomes_wrong_counts_as_it_was(world: World, tmp_path: Path) -> None:
    """It is told as a problem, without what stands there; when it is right again, that counts."""
    file = tmp_path / "keys"
    file.write_text(f"alice {hash_of(ALICE)}\n")
    gateway = Gateway(world, lines=KeyFile(file, {}))
    file.write_text("alice hunter2hunter2\n")
    gateway.keys.refresh()
    assert gateway.asks(ALICE) == "alice"
    (problem,) = gateway.keys.problems()
    assert "line 1 of" in problem
    assert "hunter2" not in problem
    file.write_text(f"bob {hash_of(BOB)} # all well\n")
    gateway.keys.refresh()
    assert (gateway.asks(BOB), gateway.keys.problems()) == ("bob", ())


def test_a_line_that_is_taken_out_of_a_wrong_file_lets_nobody_in(world: World, tmp_path: Path) -> None:
    """Nor does one that became a comment; whatever else is wrong there, and what stands beside the file counts on."""
    file = tmp_path / "keys"
    file.write_text(f"alice {hash_of(ALICE)}\nbob {hash_of(BOB)}\ncarl {hash_of('omk_carl')}\n")
    gateway = Gateway(world, lines=KeyFile(file, {"KEYS": LINES}))
    file.write_text(f"alice {hash_of(ALICE)} rpm=many\n# bob {hash_of(BOB)}\n")
    gateway.keys.refresh()
    assert [gateway.asks(key) for key in (ALICE, ROOT)] == ["alice", "root"]
    assert all("not known" in gateway.asks(key) for key in (BOB, "omk_carl"))


def test_a_file_that_is_taken_away_opens_no_door(world: World, tmp_path: Path) -> None:
    """Nobody is let in by its lines any more, and nobody without one either."""
    file = tmp_path / "keys"
    file.write_text(f"alice {hash_of(ALICE)}\n")
    gateway = Gateway(world, lines=KeyFile(file, {}), may_be_open=True)
    file.unlink()
    gateway.keys.refresh()
    assert "not known" in gateway.asks(ALICE)
    assert "no key was sent" in gateway.asks(None)


def test_a_wrong_file_at_the_start_is_refused(tmp_path: Path) -> None:
    """There is nothing before that could count in its place."""
    file = tmp_path / "keys"
    file.write_text("alice\n")
    with pytest.raises(BadRequest, match="line 1 of"):
        KeyFile(file, {})
    file.unlink()
    file.mkdir()
    with pytest.raises((BadRequest, NotWritable, Exception), match="reading the keys"):
        KeyFile(file, {})


def test_where_both_have_a_name_the_line_counts(world: World) -> None:
    """The ledger's key of that name lets nobody in, and it is told; so is a proof that two have."""
    world.make("root", ALICE)
    gateway = Gateway(world)
    gateway.keys.refresh()
    assert gateway.asks(ROOT) == "root"
    assert "not known" in gateway.asks(ALICE)
    assert gateway.keys.problems() == ("key 'root' is in the ledger and on a line, and the line counts; rename one",)


def test_a_key_that_cannot_be_read_lets_nobody_in(world: World) -> None:
    """Not even as its version before was; it is told, and the others go on."""
    world.make("alice", ALICE)
    world.make("bob", BOB)
    world.facts.put("key/alice/2", {"v": 7})
    gateway = Gateway(world)
    assert gateway.asks(BOB) == "bob"
    assert "not known" in gateway.asks(ALICE)
    assert gateway.keys.problems() == ("key 'alice' of the ledger cannot be read by this version, and lets nobody in",)


# -- what is under way ---------------------------------------------------------------------------------------------


def test_what_is_under_way_ends_with_its_key(world: World) -> None:
    """Revoked, expired, rotated out or gone: each is ended with why; others, and who was let in without, go on."""
    for name in ("alice", "bob", "carl", "dora"):
        world.make(name, f"omk_{name}")
    world.store.change("bob", lambda now: replace(now, expires=world.clock.now() + timedelta(seconds=20)), by="root")
    gateway = Gateway(world)
    gateway.keys.refresh()
    ended: dict[str, str] = {}

    def stop(name: str) -> Callable[..., None]:
        return lambda why: ended.update({name: str(why)})

    for key in (*gateway.keys.known.all, Keys()._anyones):
        gateway.keys.under_way[stop(key.caller.name)] = key
    world.store.revoke("alice", by="root")
    world.store.rotate("carl", hash_of("omk_new"), timedelta(0), by="root")
    world.clock.tick(21)
    gateway.keys.refresh()
    gateway.keys.end_refused()
    assert set(ended) == {"alice", "bob", "carl"}
    assert "was revoked" in ended["alice"]
    assert "expired" in ended["bob"]
    assert "none any more" in ended["carl"]


def test_they_are_read_every_few_seconds_while_somebody_asks() -> None:
    """So that a stream ends within thirty seconds, and a revoked key within ten, with a trip to spare."""
    assert EVERY * 2 < TRUSTED
    assert timedelta(seconds=30) > EVERY * 2
