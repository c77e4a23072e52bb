"""What lines of batches cost the people beside them, counted: there is no clock in it."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jobs.access.keys.proofs import hash_of
from tests.growth.test_hot_path import KEY, OURS, Caller, on_the_loop
from tests.support.batch_lines import ANSWER, Batch, HeldAnswers, Senders, told
from tests.support.call_counts import calls_by_name
from tests.support.checkout import ROOT
from tests.support.gateways import A10G_TIER, RunningGateway, gateway
from tests.support.moved_clock import StandingClock
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, least, until

GATE = (str(ROOT / "app/gateway/lines"), str(ROOT / "app/gateway/auth/passes.py"))
"""What is about lines alone."""

SLOTS = A10G_TIER.parallel

CALLS_BESIDE_LINES = 240
"""Functions of Python that a person's request may call more where lines are in flight and wait: those of the task that
then answers it among them."""


class Server:
    """Answers lines when it is let; and people once all of those who come together are there and have a slot."""

    def __init__(self) -> None:
        self.lines = HeldAnswers()
        #: Set by the test, before they come.
        self.people = threading.Barrier(1)

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        if json.loads(heard.body)["messages"][0]["content"].startswith("line"):
            self.lines(heard, line)
            return
        self.people.wait(PATIENCE)
        until(lambda: self.people.parties + len(self.lines.open) <= SLOTS, "a slot for each person")
        self.people.wait(PATIENCE)  # the first who is answered makes room for a line
        line.document(ANSWER)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def running(server: Server, tmp_path: Path) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(server) as scripted,
        gateway(
            tmp_path,
            {"a10g": scripted.url},
            keys=f"ann {hash_of(KEY)} chat",
            live_keys=True,
            tiers=[A10G_TIER],
            clock=StandingClock(),  # so that no line is sent back because it has waited for long
        ) as found,
    ):
        yield found


@pytest.fixture
def senders(server: Server) -> Iterator[Senders]:
    found = Senders()
    try:
        yield found
    finally:
        server.lines.free()
        found.close()


def calls_of_people(running: RunningGateway, where: tuple[str, ...]) -> Counter[str]:
    """What ten requests of a person call there."""

    async def trial(caller: Caller) -> Counter[str]:
        with calls_by_name(where) as counted:
            for _ in range(10):
                await caller.ask()
        return counted

    return on_the_loop(running, trial)


def test_without_lines_nobody_pays_for_them(running: RunningGateway) -> None:
    """Where no line is there, a person's request calls nothing that is about lines."""
    assert not calls_of_people(running, GATE)
    assert running.composed.line_gates["a10g"].people == 0
    assert set(running.composed.line_gates["a10g"].used) == {"llama3.2:latest"}


def test_beside_a_full_batch_a_person_takes_few_steps(
    running: RunningGateway, server: Server, senders: Senders
) -> None:
    """What her request calls is bounded, with twenty lines that wait as with ten, and no line gives way to her: there
    is a slot for one person."""
    gate, batch, lines = running.composed.line_gates["a10g"], Batch(running.facts, "ann"), 0

    def taken() -> int:
        return calls_of_people(running, OURS).total()

    found: list[float] = [taken()]
    for waiting, more in ((10, 10 * CALLS_BESIDE_LINES), (20, 20 * 10)):
        while lines < SLOTS - 1 + waiting:
            senders.line(batch, running.url, f"line {lines}")
            lines += 1
        until(partial(lambda count: gate.figures().waiting == count, waiting))
        until(lambda: len(server.lines.open) == SLOTS - 1)
        bound = found[-1] + more  # each line looks at the gate now and then by itself
        found.append(least(taken, bound))
        assert found[-1] <= bound, found
    assert not server.lines.left


def test_no_person_is_behind_a_line_at_a_server(running: RunningGateway, server: Server, senders: Senders) -> None:
    """However many people come at once beside a full batch, each is answered though no line is: lines are left, until
    all people have a slot; and each line is told what became of it."""
    batch = Batch(running.facts, "ann")
    lines = [senders.line(batch, running.url, f"line {number}") for number in range(6)]
    until(lambda: len(server.lines.open) == SLOTS)
    for count in (1, 2, SLOTS):
        server.people = threading.Barrier(count)
        people = [senders.person(running.url, f"person {number}", KEY) for number in range(count)]
        assert {each.result(PATIENCE).status_code for each in people} == {200}
    server.lines.free()
    ended = Counter(told(each.result(PATIENCE)) for each in lines)
    assert set(ended) == {(200, None), (503, "not-now")}
    assert ended.total() == len(lines)
