"""Lines of batches through a gateway, beside people, over real sockets."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.access.keys.proofs import hash_of, new_key
from jobs.testing.models import LIBRARY
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.server import RegistryDouble
from tests.support.batch_lines import CHAT, Batch, HeldAnswers, Senders, answers, body, room, told
from tests.support.gateways import A10G_TIER, ModelList, RunningGateway, gateway, model
from tests.support.moved_clock import StandingClock
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE, until

ANN = new_key()
KEYS = f"ann {hash_of(ANN)} chat admin"

ONE = replace(A10G_TIER, parallel=1)


@contextmanager
def running(
    folder: Path, script: Any, *, keys: str = KEYS, tier: Any = A10G_TIER, **more: Any
) -> Iterator[RunningGateway]:
    given = {"clock": StandingClock(), **more}
    with (
        ScriptedServer(script) as server,
        gateway(folder, {"a10g": server.url}, keys=keys, live_keys=True, tiers=[tier], **given) as found,
    ):
        yield found


class PushedClock(StandingClock):
    """One on which only that lasts what a test says."""

    pushed = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.pushed


@pytest.fixture
def held() -> HeldAnswers:
    return HeldAnswers()


@pytest.fixture
def senders(held: HeldAnswers) -> Iterator[Senders]:
    found = Senders()
    try:
        yield found
    finally:
        held.free()
        found.close()


def figures(found: RunningGateway) -> tuple[int, int]:
    now = found.composed.line_gates["a10g"].figures()
    return now.in_flight, now.waiting


def outcomes(found: RunningGateway) -> dict[str, int]:
    outcomes = found.composed.line_gates["a10g"].figures().outcomes
    return {outcome: count for outcome, count in outcomes.items() if count}


def test_a_line_is_answered_as_its_owner_is(tmp_path: Path, held: HeldAnswers) -> None:
    """A pass lets a line in with its owner's rights; its answer is a person's, with how many lines there is room
    for."""
    held.free()
    with running(tmp_path, held) as found:
        answer = Batch(found.facts, "ann").send(found.url)
        assert told(answer) == (200, None), answer.text
        assert answer.json()["choices"]
        assert room(answer) == 4
        assert found.row().about.key == "ann"


def test_one_slot_is_left_for_a_person(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """Of four slots lines take three while people come; the others wait, and whoever comes next is answered beside
    them."""
    with running(tmp_path, held) as found:
        first = senders.person(found.url, "first", ANN)
        until(lambda: "first" in held.open)
        held.answer("first")
        assert first.result(PATIENCE).status_code == 200
        batch = Batch(found.facts, "ann")
        lines = [senders.line(batch, found.url, f"line {number}") for number in range(5)]
        until(lambda: figures(found) == (3, 2), shows=lambda: figures(found))
        until(lambda: len(held.open) == 3)
        person = senders.person(found.url, "person", ANN)
        until(lambda: "person" in held.open)
        assert len(held.open) == 4
        assert not held.left
        held.answer("person")
        assert person.result(PATIENCE).status_code == 200
        held.free()
        assert [told(each) for each in answers(lines)] == [(200, None)] * 5


def test_where_nobody_comes_lines_take_all(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """Nobody came for minutes, so of four slots lines take four; the person who comes then has the place of one."""
    with running(tmp_path, held) as found:
        batch = Batch(found.facts, "ann")
        lines = [senders.line(batch, found.url, f"line {number}") for number in range(4)]
        until(lambda: figures(found) == (4, 0), shows=lambda: figures(found))
        person = senders.person(found.url, "person", ANN)
        until(lambda: "person" in held.open)
        held.answer("person")
        assert person.result(PATIENCE).status_code == 200
        held.free()
        assert sorted(told(each) for each in answers(lines)) == [(200, None)] * 3 + [(503, "not-now")]


def test_what_lines_used_is_written_down(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """Three lines that are answered beside one another for nine seconds have used their server for nine, and not for
    twenty-seven: so it is in the usage."""
    clock = PushedClock()
    with running(tmp_path, held, clock=clock) as found:
        batch = Batch(found.facts, "ann")
        lines = [senders.line(batch, found.url, f"line {number}") for number in range(3)]
        until(lambda: len(held.open) == 3)
        clock.pushed = 9.0
        held.free()
        assert {told(each) for each in answers(lines)} == {(200, None)}
        [row] = found.rows(3)
        assert (row.about.batch, row.about.key) == (batch.id, "ann")
        assert row.sums.seconds == pytest.approx(9.0)


def test_the_line_that_began_last_gives_way(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """When a person comes and no slot is left, the line that began last is cut: its request to the server ends, and
    its batch is told to send it again."""
    with running(tmp_path, held) as found:
        batch = Batch(found.facts, "ann")
        lines = []
        for number in range(3):
            lines.append(senders.line(batch, found.url, f"line {number}"))
            until(lambda: len(held.open) == len(lines))
        people = [senders.person(found.url, f"person {number}", ANN) for number in range(2)]
        cut = lines[2].result(PATIENCE)
        assert told(cut) == (503, "not-now")
        assert cut.headers["retry-after"] == "1"
        until(lambda: held.left == ["line 2"])
        held.await_open("line 0", "line 1", "person 0", "person 1")
        held.free()
        assert {each.status_code for each in answers(people)} == {200}
        assert [told(each) for each in answers(lines[:2])] == [(200, None)] * 2
        assert outcomes(found) == {"cut": 1, "answered": 2}


def test_with_one_slot_a_line_begins_only_while_nobody_is_there(
    tmp_path: Path, held: HeldAnswers, senders: Senders
) -> None:
    """Where a server answers one at a time, a line waits until the person has her answer, and is cut when she comes."""
    with running(tmp_path, held, tier=ONE) as found:
        batch = Batch(found.facts, "ann")
        first = senders.person(found.url, "first", ANN)
        held.await_open("first")
        line = senders.line(batch, found.url, "line")
        until(lambda: figures(found) == (0, 1))
        held.answer("first")
        assert first.result(PATIENCE).status_code == 200
        held.await_open("line")
        second = senders.person(found.url, "second", ANN)
        assert told(line.result(PATIENCE)) == (503, "not-now")
        held.await_open("second")
        held.answer("second")
        assert second.result(PATIENCE).status_code == 200


def test_a_person_on_a_connection_that_is_kept_is_one(tmp_path: Path, held: HeldAnswers, senders: Senders) -> None:
    """However little is done for a request whose head came before, lines wait for it, and begin when it ends."""
    with (
        running(tmp_path, held, tier=ONE) as found,
        httpx.Client(base_url=found.url, headers={"authorization": f"Bearer {ANN}"}, timeout=PATIENCE) as client,
        ThreadPoolExecutor(1) as person,
    ):
        for number in range(4):
            text = f"person {number}"
            asking = person.submit(lambda text=text: client.post(CHAT, json=body(text)))  # type: ignore[misc]
            held.await_open(text)
            line = senders.line(Batch(found.facts, "ann"), found.url, f"line {number}")
            until(lambda: figures(found) == (0, 1))
            held.answer(text)
            assert asking.result(PATIENCE).status_code == 200
            held.await_open(f"line {number}")
            held.answer(f"line {number}")
            assert told(line.result(PATIENCE)) == (200, None)
            until(lambda: figures(found) == (0, 0))


def test_a_tier_that_sleeps_is_left_asleep(tmp_path: Path, held: HeldAnswers) -> None:
    """A line whose pass does not say that it may wake its tier is sent back, and nothing is asked of the tier; one
    whose pass does wakes it, which counts as a batch's wake."""
    held.free()
    with (
        ScriptedServer(held) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS, live_keys=True, tiers=[A10G_TIER]) as found,
    ):
        answer = Batch(found.facts, "ann", may_wake=False).send(found.url)
        assert told(answer) == (503, "not-now")
        assert not server.heard
        server._asleep = 1
        assert told(Batch(found.facts, "ann").send(found.url)) == (200, None)
        page = httpx.get(f"{found.url}/metrics", headers={"x-api-key": ANN}, timeout=PATIENCE).text
        assert 'ollama_modal_wakes_total{cause="batch",tier="a10g"} 1.0' in page


def test_a_person_is_answered_though_a_line_would_go_on_for_long(tmp_path: Path, senders: Senders) -> None:
    """On a simulator that answers one at a time: the line that a person finds there ends, in the server as well, and
    her answer is whole; then the line goes again, from its beginning."""
    with RegistryDouble(LIBRARY) as registry, OllamaDouble(tmp_path, registry=registry.url) as double:
        pulled = httpx.post(f"{double.url}/api/pull", json={"model": "tiny", "stream": False}, timeout=PATIENCE)
        assert pulled.json() == {"status": "success"}
    with (
        OllamaDouble(tmp_path, tokens_per_second=10.0) as slow,
        gateway(
            tmp_path,
            {"a10g": slow.url},
            source=ModelList([model("tiny")]),
            keys=KEYS,
            live_keys=True,
            tiers=[ONE],
            clock=StandingClock(),
        ) as found,
    ):
        batch = Batch(found.facts, "ann")
        endless = senders.line(batch, found.url, "word " * 3500, model="tiny")
        until(lambda: figures(found) == (1, 0))
        person = senders.person(found.url, "hi", ANN, model="tiny").result(PATIENCE)
        assert person.status_code == 200
        assert "simulator" in person.text
        assert told(endless.result(PATIENCE)) == (503, "not-now")
        assert told(batch.send(found.url, text="hi", model="tiny")) == (200, None)


def test_a_pass_opens_nothing_else(tmp_path: Path, held: HeldAnswers) -> None:
    """Routes that no batch asks for, the ops API among them, are shut to a pass."""
    held.free()
    with running(tmp_path, held) as found:
        batch = Batch(found.facts, "ann")
        headers = {"authorization": f"Bearer {batch.shown}"}
        for method, path in (("GET", "/api/tags"), ("POST", "/api/chat"), ("POST", "/api/pull"), ("GET", "/v1/models")):
            answer = httpx.request(method, f"{found.url}{path}", headers=headers, timeout=PATIENCE)
            assert answer.status_code == 403, path
        for path in ("/ops/v1/jobs", "/metrics"):
            assert httpx.get(f"{found.url}{path}", headers=headers, timeout=PATIENCE).status_code == 401, path
        assert (
            httpx.post(f"{found.url}{CHAT}", json=body(stream=True), headers=headers, timeout=PATIENCE).status_code
            == 400
        )
