"""What one caller can have loaded, and who goes when too many wait: loads, kinds of options, places, in shares."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gateway.auth.keys import Caller
from app.gateway.inference.operator_options import PLACEMENT
from app.gateway.upstream.loads import LoadLimits, Loads, TooManyLoads
from jobs.access.keys.proofs import PREFIX, hash_of
from jobs.core.errors import TooManyRequests
from jobs.testing.clock import HandClock
from tests.support.dialects import DIALECTS, OLLAMA, Dialect, whole_answer
from tests.support.gateways import QUICK, ModelList, RunningGateway, asked, gateway, held_callers, model
from tests.support.scripted_server import HeldServer, ScriptedServer
from tests.support.waiting import PATIENCE, until

ABORTED = 3000

ALICE, BOB, BOSS = (PREFIX + letter * 43 for letter in "abo")
KEYS = f"alice {hash_of(ALICE)} chat\nbob {hash_of(BOB)} chat\nboss {hash_of(BOSS)} chat admin\n"


@pytest.fixture
def many() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(24) as pool:
        yield pool


def loads(running: RunningGateway) -> Loads:
    return running.composed.cold_starts["a10g"].loads


def ask(running: RunningGateway, dialect: Dialect, key: str, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(running.url + dialect.path, json={**dialect.body, **more}, headers=headers, timeout=PATIENCE)


def abort(running: RunningGateway, key: str, options: dict[str, Any]) -> None:
    """Ask, and be gone."""
    body = json.dumps({**OLLAMA.body, "options": options}).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)) as caller:
        caller.sendall(head.encode() + body)


def test_who_left_is_not_loaded_for(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """Thousands of aborted requests with ever new options leave nothing to load for a tier that wakes, and little to
    remember; who asks meanwhile is answered, and his is the only load."""
    held_server = HeldServer(awake=False)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS, startup=60) as running,
    ):
        list(many.map(lambda n: abort(running, ALICE, {"num_ctx": 2048 + n}), range(ABORTED)))
        until(lambda: held_callers(running) == 0)
        waiting = many.submit(ask, running, OLLAMA, BOB)
        until(lambda: held_callers(running) == 1)
        assert len(loads(running)) == 1
        assert loads(running).kinds <= 4
        held_server.awake.set()
        assert waiting.result().status_code == 200
        assert [load.json.get("options") for load in server.loads] == [None]


def test_kinds_of_options_are_few(tmp_path: Path) -> None:
    """A key that asks for one model with ever new options is told so after some kinds, in words that help; the usual
    options and those it asked for before go on, and so do others'."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}, keys=KEYS) as running:
        statuses = [ask(running, OLLAMA, ALICE, options={"num_ctx": 1024 * n}).status_code for n in (*range(1, 9), 1)]
        assert statuses == [200] * 4 + [429] * 4 + [200]
        refused = ask(running, OLLAMA, ALICE, options={"num_ctx": 9})
        assert "has asked for 'llama3.2:latest' with 4 kinds of options" in refused.json()["error"]
        assert "use one of these again: num_ctx=1024; num_ctx=2048" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) == 300
        assert ask(running, OLLAMA, ALICE).status_code == 200
        assert ask(running, OLLAMA, BOB, options={"num_ctx": 77}).status_code == 200
        assert len(server.loads) <= 7


def test_kinds_are_forgotten_and_bounded() -> None:
    """A kind counts for five minutes after it was last asked for; all keys together have a bound as well."""
    clock = HandClock()
    loads = Loads("a10g", LoadLimits(most_loads=100, most_kinds=4), clock.monotonic)
    callers = [Caller(name, frozenset({"chat"})) for name in ("a", "b", "c", "d", "e")]

    def admit(caller: Caller, context: int) -> None:
        loads.drop(loads.admit(caller, "m", (("num_ctx", context),)))

    for n, caller in enumerate(callers[:4]):
        admit(caller, n)
    with pytest.raises(TooManyRequests, match="key 'a' has asked for 'm' with 1 kind"):
        admit(callers[0], 9)
    with pytest.raises(TooManyLoads, match="asked for with 4 kinds"):
        admit(callers[4], 9)
    clock.tick(200)
    admit(callers[4], 2)
    clock.tick(200)
    admit(callers[4], 9)
    assert loads.kinds == 2


def test_loads_before_a_tier_are_shared(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """A key has its share of the loads that wait for a tier, each told in its dialect; others' loads find room."""
    held_server = HeldServer(awake=False)
    source = ModelList([model(f"m{n}") for n in range(12)])
    pace = replace(QUICK, limits=LoadLimits(most_loads=8))
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS, source=source, pace=pace) as running,
    ):
        answers = [many.submit(ask, running, OLLAMA, ALICE, model=f"m{n}") for n in range(2)]
        until(lambda: held_callers(running) == 2)
        for dialect in DIALECTS:
            refused = ask(running, dialect, ALICE, model="m9")
            assert refused.status_code == 429
            assert "key 'alice' has 2 loads before tier 'a10g'" in refused.text
            assert int(refused.headers["retry-after"]) > 0
        answers += [many.submit(ask, running, OLLAMA, key, model="m0") for key in (ALICE, BOB)]
        answers.append(many.submit(ask, running, OLLAMA, BOB, model="m5"))
        until(lambda: held_callers(running) == 5)
        held_server.awake.set()
        assert {answer.result().status_code for answer in answers} == {200}
        assert sorted(load.json["model"] for load in server.loads) == ["m0:latest", "m1:latest", "m5:latest"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_one_key_leaves_places_for_the_others(tmp_path: Path, many: ThreadPoolExecutor, dialect: Dialect) -> None:
    """A key holds a quarter of the places before a tier, no more, told in its dialect; others' callers wait there."""
    held_server = HeldServer(awake=False)
    pace = replace(QUICK, most_held=8)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=KEYS, pace=pace) as running,
    ):
        answers = [many.submit(ask, running, OLLAMA, ALICE) for _ in range(2)]
        until(lambda: held_callers(running) == 2)
        refused = ask(running, dialect, ALICE)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert "2 callers with key 'alice' wait for tier 'a10g', as many as may: waking a10g" in refused.text
        answers += [many.submit(ask, running, OLLAMA, BOB) for _ in range(2)]
        until(lambda: held_callers(running) == 4)
        held_server.awake.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_without_keys_there_is_one_caller(tmp_path: Path, many: ThreadPoolExecutor) -> None:
    """Where no keys are configured all places are for whoever asks: there is nobody to share them with."""
    held_server = HeldServer(awake=False)
    pace = replace(QUICK, most_held=4)
    with (
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, pace=pace) as running,
    ):
        answers = [many.submit(asked, running, OLLAMA) for _ in range(4)]
        until(lambda: held_callers(running) == 4)
        held_server.awake.set()
        assert {answer.result().status_code for answer in answers} == {200}


# -- what is the operator's to say -------------------------------------------------------------------------------------

HARMFUL = [
    {"options": {"num_gpu": 0}},
    {"options": {"num_gpu": 99}},
    {"options": {"main_gpu": 1}},
    {"options": {"num_thread": 64}},
    {"options": {"use_mmap": False}},
    {"options": {"num_batch": 65536}},
    {"keep_alive": 0},
    {"keep_alive": "1s"},
]

HARMLESS = [
    {"options": {name: value for name, values in PLACEMENT.items() for value in values}},
    {"options": dict.fromkeys(PLACEMENT)},
    {"options": {"num_ctx": 2048, "temperature": 0}},
    {"keep_alive": "5m"},
    {"keep_alive": -1},
    {"keep_alive": None},
]


@pytest.mark.parametrize("more", HARMFUL, ids=json.dumps)
def test_what_all_would_feel_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    """Where a model runs and how soon it goes is no caller's to say: he is told which option, and no server hears it.
    A key of the operator's may."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}, keys=KEYS) as running:
        refused = ask(running, OLLAMA, ALICE, **more)
        assert refused.status_code == 400
        [(option, _)] = more.get("options", more).items()
        assert option in refused.json()["error"]
        assert server.heard == []
        assert ask(running, OLLAMA, BOSS, **more).status_code == 200


@pytest.mark.parametrize("more", HARMLESS, ids=json.dumps)
def test_what_changes_nothing_passes(tmp_path: Path, more: dict[str, Any]) -> None:
    """Defaults that clients send with every request pass as they come, and so does what is a request's own."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}, keys=KEYS) as running:
        assert ask(running, OLLAMA, ALICE, **more).status_code == 200
        assert server.asked[0].json == {**OLLAMA.body, **more}
