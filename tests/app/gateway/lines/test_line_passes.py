"""What lets a line of a batch in, with keys of lines, of the ledger and without any, and what does not."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from app.fleet.file import read
from app.fleet.schema import parse
from app.gateway.auth.line_troubles import LineNotNow, LineRefused
from app.gateway.auth.passes import LASTS, TRUSTED, Passes
from jobs.access.keys.key_records import KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.proofs import hash_of, new_key
from jobs.batches.passes import WAITED, BatchPass, new_pass
from jobs.batches.records import ENDPOINTS, new_batch_id
from jobs.core.clock import SystemClock
from jobs.core.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.container_time import Metered, TimeShare
from jobs.testing.clock import HandClock
from tests.support.batch_lines import CHAT, Batch, HeldAnswers, Senders, body, room, told
from tests.support.gateways import A10G_TIER, RunningGateway, gateway
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE, until

ANN, BOB = new_key(), new_key()
LINES = f"ann {hash_of(ANN)} chat admin\nbob {hash_of(BOB)} chat models=qwen*"


@contextmanager
def running(folder: Path, script: Any, *, lines: str = LINES, **more: Any) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(script) as server,
        gateway(folder, {"a10g": server.url}, keys=lines, live_keys=True, tiers=[A10G_TIER], **more) as found,
    ):
        yield found


@pytest.fixture
def held() -> HeldAnswers:
    return HeldAnswers()


@pytest.fixture
def free(held: HeldAnswers) -> HeldAnswers:
    held.free()
    return held


@pytest.fixture
def senders(held: HeldAnswers) -> Iterator[Senders]:
    found = Senders()
    try:
        yield found
    finally:
        held.free()
        found.close()


# -- who is let in -----------------------------------------------------------------------------------------------------


def test_the_owner_may_be_a_key_of_the_ledger(tmp_path: Path, free: HeldAnswers) -> None:
    """Its rights are those of the lines, as they are now."""
    with running(tmp_path, free) as found:
        store = KeyStore(found.facts, SystemClock())
        store.make("carl", hash_of(new_key()), KeySettings(models=("qwen*",)), by="somebody")
        answer = Batch(found.facts, "carl").send(found.url)
        assert told(answer) == (403, None)
        assert "may not use" in answer.text
        store.make("dora", hash_of(new_key()), KeySettings(), by="somebody")
        until(lambda: told(Batch(found.facts, "dora").send(found.url)) == (200, None))


def test_where_there_are_no_keys_a_pass_is_one_all_the_same(
    tmp_path: Path, held: HeldAnswers, senders: Senders
) -> None:
    """On a gateway that lets everybody in, a line is a line, which people do not wait for, and no person."""
    with running(tmp_path, held, lines="") as found:
        batch = Batch(found.facts)
        lines = [senders.line(batch, found.url, f"line {number}") for number in range(5)]
        until(lambda: found.composed.line_gates["a10g"].figures().waiting == 1)
        until(lambda: len(held.open) == 4)
        held.free()
        assert {told(each.result(PATIENCE)) for each in lines} == {(200, None)}
        assert {row.about.key for row in found.rows(5)} == {"anyone"}
        wrong = {"authorization": "Bearer omb_x"}
        answer = httpx.post(f"{found.url}{CHAT}", json=body(), headers=wrong, timeout=PATIENCE)
        assert told(answer) == (401, "refused")


def test_a_batch_that_was_posted_without_a_key(tmp_path: Path, free: HeldAnswers) -> None:
    """Whoever runs this needs none to post one, and no key's limits hold for it."""
    with running(tmp_path, free) as found:
        assert told(Batch(found.facts, "").send(found.url)) == (200, None)
        assert found.row().about.key == ""


@pytest.mark.parametrize("path", ENDPOINTS)
def test_all_endpoints_of_batches_are_open(tmp_path: Path, path: str) -> None:
    """Each of them, and the answer is the server's own."""
    with running(tmp_path, lambda _, line: line.document({"object": "whatever"})) as found:
        answer = Batch(found.facts, "ann").send(found.url, path, input="hello", prompt="hello", max_tokens=5)
        assert told(answer)[1] is None
        assert answer.status_code in {200, 501}, answer.text  # whatever this engine speaks
        assert room(answer) == 4 or answer.status_code == 501


# -- limits ------------------------------------------------------------------------------------------------------------


def test_limits_of_the_owners_key_hold(tmp_path: Path, free: HeldAnswers) -> None:
    """A limit of the minute is told as to anybody, and a budget that is spent by a word of its own."""
    lines = "\n".join(
        f"{name} {hash_of(new_key())} chat {limit}" for name, limit in (("ann", "rpm=2"), ("bob", "requests=2/day"))
    )
    with running(tmp_path, free, lines=lines) as found:
        for owner, word in (("ann", None), ("bob", "spent")):
            batch = Batch(found.facts, owner)
            answers = [batch.send(found.url) for _ in range(3)]
            assert [told(each) for each in answers] == [(200, None), (200, None), (429, word)]
            assert "retry-after" in answers[-1].headers
            assert room(answers[-1]) == 4


def test_people_find_none_of_their_places_taken_by_lines(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """Of the requests that a key may have under way, its lines take what people leave, and wait for their turn without
    taking any."""
    with running(tmp_path, held, lines=f"ann {hash_of(ANN)} chat concurrent=1") as found:
        batch = Batch(found.facts, "ann")
        line = senders.line(batch, found.url, "line")
        held.await_open("line")
        person = senders.person(found.url, "person", ANN)
        held.await_open("line", "person")
        held.answer("line")
        assert told(line.result(PATIENCE)) == (200, None)
        assert told(batch.send(found.url)) == (429, None)
        held.answer("person")
        assert person.result(PATIENCE).status_code == 200


def test_the_months_budget_of_the_fleet_stops_lines(tmp_path: Path, free: HeldAnswers) -> None:
    """Once it is spent, a line is told so by the word that ends its batch."""
    document = read()
    document["alerts"] |= {"monthly_budget_dollars": 1.0, "on_budget": "no_wakes"}
    now = SystemClock().now()
    seconds: Mapping[TimeShare, float] = {"cold": 0.0, "warming": 0.0, "serving": 3_600_000.0, "idle": 0.0}
    count = Metered("h100", "c", now - timedelta(seconds=1), now, seconds)
    facts = SqliteDict(tmp_path / "gateway.sqlite")
    facts.put(count.key, count.as_json())
    facts.close()
    lines = f"ann {hash_of(ANN)} chat"  # an administrator passes
    with running(tmp_path, free, lines=lines, fleet=parse(document, "test")) as found:
        answer = Batch(found.facts, "ann").send(found.url)
        assert told(answer) == (429, "spent")
        assert "month's budget of the fleet" in answer.text


# -- when it is good no more -------------------------------------------------------------------------------------------


def test_a_line_ends_when_its_owners_key_is_revoked(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """With 401 and the word for it, and what the server does for it ends; no line of that batch is let in any more."""
    with running(tmp_path, held) as found:
        store = KeyStore(found.facts, SystemClock())
        store.make("carl", hash_of(new_key()), KeySettings(), by="somebody")
        batch = Batch(found.facts, "carl")
        line = senders.line(batch, found.url, "line")
        held.await_open("line")
        store.revoke("carl", by="somebody")
        answer = line.result(PATIENCE)
        assert told(answer) == (401, "refused")
        assert "carl" in answer.text
        until(lambda: held.left == ["line"])
        assert told(batch.send(found.url)) == (401, "refused")
        assert found.composed.line_gates["a10g"].figures().outcomes["refused"] == 1


def test_another_pass_counts_at_once(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """Whoever takes a batch over makes a pass, which is good from the first line on, however lately the one before was
    looked at; that one is good no more, and lines that it let in end."""
    with running(tmp_path, held) as found:
        batch = Batch(found.facts, "ann")
        old = senders.line(batch, found.url, "old")
        held.await_open("old")
        before = batch.shown
        batch.renew()
        new = senders.line(batch, found.url, "new")
        until(lambda: "new" in held.open)
        assert told(old.result(PATIENCE)) == (401, "refused")
        headers = {"authorization": f"Bearer {before}"}
        assert told(httpx.post(f"{found.url}{CHAT}", json=body(), headers=headers, timeout=PATIENCE)) == (
            401,
            "refused",
        )
        held.answer("new")
        assert told(new.result(PATIENCE)) == (200, None)


def test_a_pass_that_was_removed_lets_nobody_in(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """Nor does what it had let in go on."""
    with running(tmp_path, held) as found:
        batch = Batch(found.facts, "ann")
        line = senders.line(batch, found.url, "line")
        held.await_open("line")
        found.facts.pop(keys.batch_pass(batch.id))
        assert told(line.result(PATIENCE)) == (401, "refused")
        assert told(batch.send(found.url)) == (401, "refused")


def test_no_pass_is_told_or_logged(tmp_path: Path, free: HeldAnswers) -> None:
    """Of what is logged, answered and written down nothing lets a line in."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="TRACE")
    try:
        with running(tmp_path, free) as found:
            batch = Batch(found.facts, "ann")
            answers = [batch.send(found.url).text, batch.send(found.url, "/api/pull").text]
            found.row()
            secret = batch.shown.partition(".")[2]
            kept = str(list(found.facts.items()))
    finally:
        logger.remove(sink)
    assert any(batch.id in line for line in lines)  # whose line it was is told
    assert secret not in "".join([*lines, *answers, kept])


# -- several gateways --------------------------------------------------------------------------------------------------


def test_two_gateways_let_the_same_lines_in(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """Either knows a pass by the ledger, each has the slots that it knows of, and both end a revoked owner's lines."""
    with (
        ScriptedServer(held) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=LINES, live_keys=True, tiers=[A10G_TIER]) as one,
        gateway(tmp_path, {"a10g": server.url}, keys=LINES, live_keys=True, tiers=[A10G_TIER], writer="2") as two,
    ):
        store = KeyStore(one.facts, SystemClock())
        store.make("carl", hash_of(new_key()), KeySettings(), by="somebody")
        batch = Batch(one.facts, "carl")
        both = (one, two)
        lines = [
            senders.line(batch, each.url, f"{name} {number}")
            for name, each in zip("12", both, strict=True)
            for number in range(5)
        ]
        for each in both:
            until(lambda each=each: each.composed.line_gates["a10g"].figures().waiting == 1)  # type: ignore[misc]
        until(lambda: len(held.open) == 8)
        store.revoke("carl", by="somebody")
        assert {told(each.result(PATIENCE)) for each in lines} <= {(401, "refused")}
        until(lambda: not held.open)


# -- the store ---------------------------------------------------------------------------------------------------------


class Facts:
    """A dict of the ledger that counts what is asked of it, and is away when a test says so."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.gets = 0
        self.is_away = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def get(self, key: Any, default: Any = None) -> Any:
        self.gets += 1
        assert self.may_answer.wait(PATIENCE)
        if self.is_away:
            raise StoreUnavailable("the store is away")
        return self.entries.get(key, default)

    def keys(self, *_: str) -> Iterator[Any]:
        raise AssertionError("a pass is read by its key")

    items = keys


class Shown:
    """A batch's pass in such a dict, and who looks it up."""

    def __init__(self) -> None:
        self.clock, self.facts = HandClock(), Facts()
        self.passes = Passes(self.facts, self.clock)
        self.batch = new_batch_id("openai")
        self.write(new_pass(self.batch))

    def write(self, shown: str, lasts: timedelta = timedelta(hours=1)) -> None:
        self.shown = shown
        written = BatchPass.of(shown, "ann", self.clock.now() + lasts)
        self.facts.entries[keys.batch_pass(self.batch)] = written.as_json()

    async def find(self, shown: str = "") -> str:
        return (await self.passes.find(shown or self.shown, self.clock.now)).owner

    async def refused(self, shown: str = "") -> bool:
        try:
            await self.find(shown)
        except LineRefused:
            return True
        return False


def on_loop(trial: Callable[[Shown], Any]) -> None:
    asyncio.run(trial(Shown()))


def test_a_pass_is_read_once_for_many_lines() -> None:
    """A thousand lines that come within `TRUSTED` cost one look, those that come at once share it."""

    async def trial(of: Shown) -> None:
        assert set(await asyncio.gather(*(of.find() for _ in range(100)))) == {"ann"}
        for _ in range(1000):
            await of.find()
        assert of.facts.gets == 1
        of.clock.tick(TRUSTED.total_seconds() + 1)
        await of.find()
        assert of.facts.gets == 2

    on_loop(trial)


def test_a_pass_ends_unless_it_is_written_again() -> None:
    """What was read is not believed beyond its end, and what was written meanwhile is found."""

    async def trial(of: Shown) -> None:
        of.write(of.shown, timedelta(seconds=5))
        assert await of.find() == "ann"
        of.clock.tick(4)
        of.write(of.shown, timedelta(seconds=5))
        of.clock.tick(2)
        assert await of.find() == "ann"
        of.clock.tick(6)
        assert await of.refused()

    on_loop(trial)


def test_while_the_store_is_away_the_pass_that_is_known_counts() -> None:
    """For so long and no longer; then, and where none is known, a line is sent back and not refused."""

    async def trial(of: Shown) -> None:
        assert await of.find() == "ann"
        of.facts.is_away = True
        of.clock.tick(LASTS.total_seconds() - 1)
        assert await of.find() == "ann"
        of.clock.tick(2)
        for shown in ("", new_pass(of.batch), new_pass(new_batch_id("anthropic"))):
            with pytest.raises(LineNotNow, match="store is away"):
                await of.find(shown)
        of.facts.is_away = False
        of.clock.tick(2)
        assert await of.find() == "ann"

    on_loop(trial)


def test_what_is_no_pass_costs_no_look() -> None:
    """Nothing that is not written as one is looked for."""

    async def trial(of: Shown) -> None:
        for shown in (
            "omb_",
            "omb_x.y",
            f"omb_{of.batch}",
            f"omb_{of.batch}.{'x' * 42}",
            f"omb_../key/ann.{'x' * 43}",
            f"{of.shown}x",
            f"{of.shown}\udcff",
        ):
            assert await of.refused(shown)
        assert of.facts.gets == 0

    on_loop(trial)


def test_wrong_passes_do_not_keep_the_store_busy() -> None:
    """Of one batch there is a look a second, for all who show wrong ones; of many batches some at once, and whoever
    comes beyond that is told to come again; and what is remembered of all of them is bounded."""

    async def trial(of: Shown) -> None:
        async def wrong(batch: str) -> str:
            try:
                await of.find(new_pass(batch))
            except LineRefused:
                return "refused"
            except LineNotNow:
                return "not now"
            raise AssertionError

        assert set(await asyncio.gather(*(wrong(of.batch) for _ in range(50)))) == {"refused"}
        assert of.facts.gets == 1
        of.facts.may_answer.clear()
        asking = [asyncio.create_task(wrong(new_batch_id("openai"))) for _ in range(100)]
        await asyncio.sleep(0)
        of.facts.may_answer.set()
        found = await asyncio.gather(*asking)
        assert found.count("not now") == 84
        assert of.facts.gets == 17
        for _ in range(1100):
            await wrong(new_batch_id("openai"))
        assert len(of.passes._seen) <= 1024
        before = of.facts.gets
        of.passes.refresh()
        assert of.facts.gets == before  # none of those is read on
        assert await of.find() == "ann"

    on_loop(trial)


def test_a_pass_that_makes_no_sense_lets_nobody_in() -> None:
    """Whatever has come into the ledger there."""

    async def trial(of: Shown) -> None:
        entries: list[Any] = ["", [], {"proof": 3}, {"batch": "x", "proof": "é", "until": "soon"}, 7]
        for entry in entries:
            of.facts.entries[keys.batch_pass(of.batch)] = entry
            of.clock.tick(TRUSTED.total_seconds() + 1)
            assert await of.refused()

    on_loop(trial)


def test_lines_wait_while_the_store_is_away(tmp_path: Path, free: HeldAnswers) -> None:
    """A line whose pass cannot be read is sent back, and told when to come again; people do not notice."""
    is_away = threading.Event()

    def meet(operation: str) -> None:
        if is_away.is_set() and operation.startswith(f"get {keys.BATCH_PASS}"):
            raise StoreUnavailable("the store is away")

    with running(tmp_path, free, meet=meet) as found:
        known = Batch(found.facts, "ann")
        answer = known.send(found.url)
        assert told(answer) == (200, None)
        assert 0 <= float(answer.headers[WAITED]) < PATIENCE
        is_away.set()
        answer = Batch(found.facts, "ann").send(found.url)
        assert told(answer) == (503, "not-now")
        assert answer.headers["retry-after"] == "2"
        assert told(known.send(found.url)) == (200, None)
        assert (
            httpx.post(f"{found.url}{CHAT}", json=body(), headers={"x-api-key": ANN}, timeout=PATIENCE).status_code
            == 200
        )
