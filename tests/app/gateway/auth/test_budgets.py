"""What keys may take, held by gateways that answer: over real sockets, with the clients that people have."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from jobs.access.keys.proofs import hash_of
from jobs.core.errors import StoreUnavailable
from jobs.store import keys
from tests.support.dialects import ANTHROPIC, OLLAMA, Dialect, each_dialect, whole_answer
from tests.support.failing_stores import While
from tests.support.gateways import RunningGateway, gateway
from tests.support.moved_clock import MovedClock
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

BOB, ANN = "omk_of_bob", "omk_of_ann"


def lines(bob: str = "", ann: str = "admin chat") -> str:
    return f"bob {hash_of(BOB)} chat {bob}\nann {hash_of(ANN)} {ann}"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(whole_answer) as server:
        yield server


def ask(running: RunningGateway, dialect: Dialect = OLLAMA, key: str = BOB, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    body = {**dialect.body, **more}
    return httpx.post(running.url + dialect.path, json=body, headers=headers, timeout=PATIENCE)


def limits_of(running: RunningGateway, shown: str = BOB, **query: str) -> dict[str, Any]:
    answer = httpx.get(f"{running.url}/ops/v1/limits", params=query, headers={"x-api-key": shown}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def settled(running: RunningGateway, **used: float) -> dict[str, Any]:
    """How it stands, once this much is used."""

    def told() -> dict[str, Any] | None:
        budgets = {each["unit"]: each for each in limits_of(running)["budgets"]}
        return budgets if all(budgets[unit]["used"] == amount for unit, amount in used.items()) else None

    found: dict[str, Any] = until(told, f"{used} to be told")
    return found


# -- what a budget lets through ----------------------------------------------------------------------------------------


@each_dialect
def test_a_spent_budget_is_told_in_the_callers_shape(tmp_path: Path, server: ScriptedServer, dialect: Dialect) -> None:
    """Beyond a budget is 429 in the caller's own shape, which says what is spent and when it begins anew, and no server
    is asked."""
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=2/month")) as running:
        assert [ask(running, dialect).status_code for _ in range(2)] == [200, 200]
        refused = ask(running, dialect)

    assert refused.status_code == 429
    assert "key 'bob' has spent its budget of 2 requests a month: nothing of it is left until" in refused.text
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(server.asked) == 2


def test_openais_client_reads_what_is_left(tmp_path: Path, server: ScriptedServer) -> None:
    """`openai` raises its RateLimitError with the headers that it knows, at once: it does not try again for a month."""
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("rpm=50 requests=1/day tokens=100/day")) as running:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key=BOB) as client:
            chat = client.chat.completions.with_raw_response
            whole = chat.create(model="llama3.2", messages=[{"role": "user", "content": "hello"}], stream=True)
            list(whole.parse())  # to its end, where its tokens are counted
            settled(running, tokens=10)
            with pytest.raises(openai.RateLimitError, match="spent its budget of 1 request a day") as limited:
                client.chat.completions.create(model="llama3.2", messages=[{"role": "user", "content": "hello"}])

        told = limited.value.response.headers
        assert whole.headers["x-ratelimit-limit-requests"] == "1"
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("1", "0")
        assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("100", "90")
        assert told["x-ratelimit-reset-requests"].endswith("s")
        assert len(server.asked) == 1


def test_anthropics_client_reads_what_is_left(tmp_path: Path, server: ScriptedServer) -> None:
    """`anthropic` raises its RateLimitError, and its own headers tell what is left."""
    with (
        gateway(tmp_path, {"a10g": server.url}, keys=lines("tokens=9/day")) as running,
        anthropic.Anthropic(base_url=running.url, api_key=BOB) as client,
    ):
        assert ask(running, ANTHROPIC).status_code == 200
        settled(running, tokens=10)
        with pytest.raises(anthropic.RateLimitError, match="spent its budget of 9 tokens a day") as limited:
            client.messages.create(model="llama3.2", max_tokens=9, messages=[{"role": "user", "content": "hello"}])

    told = limited.value.response.headers
    assert told["anthropic-ratelimit-tokens-limit"] == "9"
    assert told["anthropic-ratelimit-tokens-remaining"] == "0"
    assert told["anthropic-ratelimit-tokens-reset"].endswith("Z")


def test_ollamas_client_says_it(tmp_path: Path, server: ScriptedServer) -> None:
    """`ollama` raises its ResponseError with the words."""
    with (
        gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=1/day")) as running,
        ollama.Client(running.url, headers={"Authorization": f"Bearer {BOB}"}) as client,
    ):
        assert ask(running).status_code == 200
        with pytest.raises(ollama.ResponseError, match="spent its budget of 1 request a day") as limited:
            client.chat("llama3.2", [{"role": "user", "content": "hello"}])

    assert limited.value.status_code == 429


def test_every_answer_tells_what_is_left(tmp_path: Path, server: ScriptedServer) -> None:
    """So do lists, errors, and the ops API's jobs; a key without limits is told nothing."""
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("rpm=10")) as running:
        left = []
        for path in ("/api/tags", "/v1/models", "/v1/models/nonesuch", "/nowhere", "/ops/v1/models"):
            answer = httpx.get(running.url + path, headers={"x-api-key": BOB}, timeout=PATIENCE)
            left.append(answer.headers["x-ratelimit-remaining-requests"])
            assert answer.headers["x-ratelimit-limit-requests"] == "10"
            assert re.fullmatch("1m0s|[0-9]{1,2}s", answer.headers["x-ratelimit-reset-requests"])
        other = httpx.get(f"{running.url}/api/tags", headers={"x-api-key": ANN}, timeout=PATIENCE)

    assert left == ["9", "8", "7", "6", "5"]
    assert not [name for name in other.headers if name.startswith("x-ratelimit")]


def test_two_gateways_never_let_more_through(tmp_path: Path, server: ScriptedServer) -> None:
    """Of 200 callers of two gateways on one store, a budget of 100 requests lets 100 through, and never one more."""
    with ExitStack() as both, ThreadPoolExecutor(16) as callers:
        found = [
            both.enter_context(
                gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=100/month"), writer=f"g{number}")
            )
            for number in range(2)
        ]
        clients = [both.enter_context(httpx.Client(base_url=each.url, timeout=PATIENCE)) for each in found]

        def call(number: int) -> int:
            headers = {"authorization": f"Bearer {BOB}"}
            return clients[number % 2].post(OLLAMA.path, json=dict(OLLAMA.body), headers=headers).status_code

        statuses = list(callers.map(call, range(200)))

    assert statuses.count(200) == len(server.asked) <= 100
    assert statuses.count(200) + statuses.count(429) == 200
    assert statuses.count(200) >= 90  # what one has left in its hands when the other asks may be a slice


def test_sums_survive_a_restart(tmp_path: Path, server: ScriptedServer) -> None:
    """What was used counts in the next process; what was granted and not used is free again."""
    for _ in range(2):
        with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=4/month tokens=1000/month")) as running:
            assert ask(running).status_code == ask(running).status_code == 200
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=4/month tokens=1000/month")) as running:
        assert ask(running).status_code == 429
        told = {each["unit"]: each for each in limits_of(running)["budgets"]}

    assert (told["requests"]["used"], told["requests"]["held"], told["requests"]["left"]) == (4, 0, 0)
    assert (told["tokens"]["used"], told["tokens"]["held"], told["tokens"]["left"]) == (40, 0, 960)


def test_a_refused_request_takes_nothing(tmp_path: Path, server: ScriptedServer) -> None:
    """What is refused before a server is asked is no request of the budget."""
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=1/day")) as running:
        assert ask(running, model="nonesuch").status_code == 404
        assert ask(running, OLLAMA, messages="none").status_code == 400
        assert ask(running).status_code == 200
        assert ask(running).status_code == 429


def test_a_budget_begins_anew(tmp_path: Path, server: ScriptedServer) -> None:
    """Where one is spent, the next day lets in again."""
    clock = MovedClock()
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=1/day"), clock=clock) as running:
        assert [ask(running).status_code for _ in range(2)] == [200, 429]
        clock.tick(86400)
        assert [ask(running).status_code for _ in range(2)] == [200, 429]


# -- a store that is away ----------------------------------------------------------------------------------------------


def is_of_budgets(doing: str) -> bool:
    return doing == "items" or keys.GRANT in doing or keys.TOOK in doing


def test_a_store_that_is_away_closes(tmp_path: Path, server: ScriptedServer) -> None:
    """What is granted lets in while the store is away; then it is closed, and what is told is that nobody could be
    asked, not that it is spent."""
    away = While(is_of_budgets, StoreUnavailable("it is away"))
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=100/day"), meet=away) as running:
        assert ask(running).status_code == 200
        away.begin()
        statuses = [ask(running).status_code for _ in range(10)]
        refused = ask(running)
        away.end()
        after = ask(running)

    let_in = statuses.count(200)
    assert 0 < let_in < 10
    assert statuses == [200] * let_in + [503] * (10 - let_in)
    assert "whether anything is left of the budget of key 'bob' cannot be told" in refused.text
    assert "it is away" in refused.text
    assert "nothing says that it is spent" in refused.text
    assert refused.headers["retry-after"] == "5"
    assert after.status_code == 200


def test_a_store_that_hangs_closes(tmp_path: Path, server: ScriptedServer) -> None:
    """The same of one that does not answer: callers wait for seconds, and those who come later not at all; and others,
    whose keys have no budgets, are answered as ever."""
    hung = While(is_of_budgets)
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=100/day"), meet=hung) as running:
        running.composed.admission.budgets.ask_seconds = 0.2
        hung.begin()
        try:
            first, second = ask(running), ask(running)
            other = ask(running, key=ANN)
        finally:
            hung.end()
        assert until(lambda: ask(running).status_code == 200, "the store's late answer")

    assert first.status_code == second.status_code == 503
    assert "it has not answered for" in first.text
    assert other.status_code == 200


def test_a_killed_gateway_leaves_its_slice_closed(tmp_path: Path, server: ScriptedServer) -> None:
    """What a gateway that was killed may have spent counts as spent: the next one is told that it is held."""
    away = While(lambda doing: keys.TOOK in doing, StoreUnavailable("killed"))
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=100/day"), meet=away) as running:
        away.begin()  # so that it can tell nothing any more, not even at its end
        assert ask(running).status_code == 200
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("requests=100/day")) as running:
        assert ask(running).status_code == 200
        (told,) = settled(running, requests=1).values()

    assert told["held"] >= 1
    assert told["used"] + told["held"] + told["left"] == 100


# -- the other limits --------------------------------------------------------------------------------------------------


def test_tokens_count_by_the_minute(tmp_path: Path, server: ScriptedServer) -> None:
    """A key that has used its tokens of a minute is told when to ask again; and then may."""
    clock = MovedClock()
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("tpm=15"), clock=clock) as running:
        answers = [ask(running)]
        until(lambda: running.composed.admission.rates.left(_bob(running))[0].left == 5, "its tokens to be counted")
        answers.append(ask(running))
        until(lambda: running.composed.admission.rates.left(_bob(running))[0].left == 0, "its tokens to be counted")
        answers.append(ask(running))
        clock.tick(61)
        answers.append(ask(running))

    assert [each.status_code for each in answers] == [200, 200, 429, 200]
    assert "key 'bob' has used 15 tokens within a minute, as many as it may" in answers[2].text
    assert 50 < int(answers[2].headers["retry-after"]) <= 60
    assert answers[2].headers["x-ratelimit-remaining-tokens"] == "0"
    assert [each.headers["x-ratelimit-limit-tokens"] for each in answers] == ["15"] * 4


@each_dialect
def test_who_leaves_before_the_count_uses_tokens_as_well(tmp_path: Path, dialect: Dialect) -> None:
    """The end of a stream counts its tokens. Of one that is left before, its pieces count, and its prompt about."""

    def endless(_: HeardRequest, line: Connection) -> None:
        line.begin(dialect.kind)
        for _piece in range(5):
            line.chunk(dialect.pieces[0])
        line.await_end()

    with ScriptedServer(endless) as server, gateway(tmp_path, {"a10g": server.url}, keys=lines("tpm=5")) as running:
        with (
            httpx.Client(headers={"authorization": f"Bearer {BOB}"}, timeout=PATIENCE) as client,
            client.stream("POST", running.url + dialect.path, json=dict(dialect.body)) as answer,
        ):
            came, pieces = b"", answer.iter_raw()
            while came.count(dialect.pieces[0]) < 5:  # what he leaves before it came does not count
                came += next(pieces)
        until(lambda: running.composed.admission.rates.left(_bob(running))[0].left == 0, "its tokens to be counted")
        assert ask(running, dialect).status_code == 429


def _bob(running: RunningGateway) -> Any:
    return running.composed._parts.keys.named("bob")


@each_dialect
def test_a_key_keeps_to_its_tiers(tmp_path: Path, server: ScriptedServer, dialect: Dialect) -> None:
    """A model that is answered on another tier is refused, and the key is told which it has."""
    with gateway(tmp_path, {"a10g": server.url}, keys=lines("tiers=h100,l4")) as running:
        refused = ask(running, dialect)
        assert ask(running, dialect, key=ANN).status_code == 200

    assert refused.status_code == 403
    assert "key 'bob' may not use tier 'a10g'" in refused.text
    assert "h100, l4" in refused.text
    assert len(server.asked) == 1


@each_dialect
def test_a_key_may_not_wake(tmp_path: Path, dialect: Dialect) -> None:
    """A key that may not wake is refused while its tier sleeps, and nothing is asked; awake, the tier answers it."""
    with (
        ScriptedServer(whole_answer, asleep=2) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=lines("wake=no")) as running,
    ):
        refused = ask(running, dialect)
        heard = len(server.heard)
        assert ask(running, dialect, key=ANN).status_code == 200
        assert ask(running, dialect).status_code == 200

    assert refused.status_code == 429
    assert "tier 'a10g' is asleep, and key 'bob' may not wake it" in refused.text
    assert refused.headers["retry-after"] == "10"
    assert heard == 0


def test_a_key_may_not_be_held(tmp_path: Path) -> None:
    """A key that may not be held is refused within a second or two while its model loads, though it has woken the tier;
    once that is there, it is answered."""
    loads = threading.Event()

    def opening(heard: HeardRequest, line: Connection) -> None:
        if heard.path != "/api/version":
            assert loads.wait(PATIENCE)
        ScriptedServer._opens(heard, line)

    with (
        ScriptedServer(whole_answer, opening=opening) as server,
        gateway(tmp_path, {"a10g": server.url}, keys=lines("hold=no"), startup=PATIENCE) as running,
    ):
        try:
            refused = ask(running)
        finally:
            loads.set()
        assert until(lambda: ask(running).status_code == 200, "the model to be there")

    assert refused.status_code == 429
    assert "key 'bob' may not be held" in refused.text


def test_what_a_key_may_take_is_told(tmp_path: Path, server: ScriptedServer) -> None:
    """A key is told its own limits, an admin those of any key; one that has none is told so."""
    line = "rpm=9 tpm=900 requests=5/day,50/month wake=no"
    with gateway(tmp_path, {"a10g": server.url}, keys=lines(line)) as running:
        mine, others = limits_of(running), limits_of(running, ANN, key="bob")
        none = limits_of(running, ANN)
        answers = [
            httpx.get(f"{running.url}/ops/v1/limits?key={name}", headers={"x-api-key": key}, timeout=PATIENCE)
            for name, key in (("ann", BOB), ("nobody", ANN))
        ]

    assert mine["limits"] == {"rpm": "9", "tpm": "900", "requests": "5/day,50/month", "wake": "no"}
    assert [(each["unit"], each["limit"]) for each in mine["minute"]] == [("requests", 9), ("tokens", 900)]
    assert [(each["period"], each["left"]) for each in mine["budgets"]] == [("day", 5), ("month", 50)]
    assert others["budgets"] == mine["budgets"]
    assert none == {"key": "ann", "limits": {}, "minute": [], "budgets": []}
    assert [each.status_code for each in answers] == [403, 404]
