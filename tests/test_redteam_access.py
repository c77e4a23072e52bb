"""What somebody with an ordinary key, or with none, may try at the door, raw where it must be; after each, others get in.

Heads that two programs read in two ways, keys that reach for what is not theirs, and one key that wants every place.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.fleet import load
from app.gateway.keys import hash_of
from app.gateway.lingering import Lingering
from app.report import Loaded, Report
from jobs.ledger import Ledger
from jobs.night import NIGHT_RAN, Posted, Ran
from jobs.usage import Use
from tests.conftest import open_store
from tests.gateways import CLOCK, OLLAMA, PATIENCE, Heard, Line, Running, Scripted, Shelf, gateway, model, until
from tests.offices import ADMIN_KEY, CHAT_KEY, MODELS, Place, place, served
from tests.test_gateway_proxy import played

KEY, OTHER = "omk_k", "omk_o"
KEYS = f"key {hash_of(KEY)} chat rpm=1000000\nother {hash_of(OTHER)}"
BODY = json.dumps({"model": "llama3.2", "messages": [], "stream": False}).encode()
SIZE = f"Content-Length: {len(BODY)}"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with Scripted(played) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def running(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway(tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=KEYS, body_seconds=1.0) as found:
        assert is_well(found)
        yield found


def is_well(running: Running, key: str = OTHER) -> bool:
    """Whether somebody else's plain request is answered."""
    headers = {"x-api-key": key}
    return httpx.post(running.url + OLLAMA.path, content=BODY, headers=headers, timeout=PATIENCE).status_code == 200


def request(
    *lines: str, body: bytes = b"", first: str = "POST /api/chat HTTP/1.1", host: str = "Host: gateway", key: str = KEY
) -> bytes:
    """A request as its bytes."""
    named = [first, *([host] if host else []), *([f"x-api-key: {key}"] if key else []), *lines, "", ""]
    return "\r\n".join(named).encode("latin-1") + body


def said(running: Running, *pieces: bytes) -> bytes:
    """All that comes back for these bytes, sent one after the other has had its effect, until we are let go."""
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)) as caller:
        for piece in pieces:
            caller.sendall(piece)
            CLOCK.wait(0.02 if len(pieces) > 1 else 0)
        caller.settimeout(0.5)
        got = b""
        try:
            while piece := caller.recv(65536):
                got += piece
        except TimeoutError:
            return got + b"<open>"
        except ConnectionResetError:
            pass
        return got


def statuses(answer: bytes) -> list[int]:
    """The status of each answer in what came back."""
    return [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# -- heads that can be read in two ways --------------------------------------------------------------------------------

REFUSED: dict[str, bytes] = {
    "gzip under chunked": request("Transfer-Encoding: gzip, chunked", body=CHUNKED),
    "gzip over chunked": request("Transfer-Encoding: chunked, gzip", body=CHUNKED),
    "gzip alone": request("Transfer-Encoding: gzip", body=BODY),
    "identity": request("Transfer-Encoding: identity", SIZE, body=BODY),
    "coding-twice": request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED),
    "coding-listed-twice": request("Transfer-Encoding: chunked, chunked", body=CHUNKED),
    "coding-with-a-tab": request("Transfer-Encoding: \x0bchunked", body=CHUNKED),
    "coding-misspelt": request("Transfer-Encoding: xchunked", SIZE, body=BODY),
    "coding-empty": request("Transfer-Encoding:", SIZE, body=BODY),
    "coding-before-a-space": request("Transfer-Encoding : chunked", body=CHUNKED),
    "coding-and-length": request("Transfer-Encoding: chunked", SIZE, body=CHUNKED),
    "length-and-coding": request(SIZE, "Transfer-Encoding: chunked", body=CHUNKED),
    "coding-of-1.0": request("Transfer-Encoding: chunked", body=CHUNKED, first="POST /api/chat HTTP/1.0"),
    "coding-folded": request("Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "length-twice": request(SIZE, SIZE, body=BODY),
    "two-lengths": request("Content-Length: 5", SIZE, body=BODY),
    "length-listed": request(f"{SIZE}, {len(BODY)}", body=BODY),
    "length-signed": request(f"Content-Length: +{len(BODY)}", body=BODY),
    "length-negative": request("Content-Length: -5", body=BODY),
    "length-in-hex": request("Content-Length: 0x31", body=BODY),
    "length-empty": request("Content-Length:", body=BODY),
    "length-beyond-numbers": request("Content-Length: 99999999999999999999999", body=BODY),
    "bare-lf": request(SIZE).replace(b"\r\n", b"\n") + BODY,
    "one-bare-lf": request(SIZE, body=BODY).replace(b"gateway\r\n", b"gateway\n"),
    "one-bare-cr": request(SIZE, body=BODY).replace(b"gateway\r\n", b"gateway\r"),
    "ends-in-lf-lf": request(SIZE).replace(b"\r\n\r\n", b"\n\n") + BODY,
    "folded": request("X-A: 1\r\n folded", SIZE, body=BODY),
    "begins-with-a-space": request(SIZE, body=BODY, host=" Host: gateway"),
    "nul-in-a-value": request("X-A: a\0b", SIZE, body=BODY),
    "nul-in-a-name": request("X\0A: b", SIZE, body=BODY),
    "control-character": request("X-A: a\x01b", SIZE, body=BODY),
    "without-a-name": request(": b", SIZE, body=BODY),
    "without-a-colon": request("abc", SIZE, body=BODY),
    "no-host": request(SIZE, body=BODY, host=""),
    "two-hosts": request("Host: other", SIZE, body=BODY),
    "another-host-in-the-address": request(SIZE, body=BODY, first="POST http://evil.example/api/chat HTTP/1.1"),
    "an-address-without-a-path": request(SIZE, body=BODY, first="POST http://gateway HTTP/1.1"),
    "no-address": request(SIZE, body=BODY, first="POST api/chat HTTP/1.1"),
    "tunnel": request(first="CONNECT evil.example:443 HTTP/1.1"),
    "letters-beyond-ascii": request(SIZE, body=BODY, first="POST /api/chat\xff HTTP/1.1"),
    "nul-in-the-address": request(SIZE, body=BODY, first="POST /api/chat\0 HTTP/1.1"),
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version-2.0": request(SIZE, body=BODY, first="POST /api/chat HTTP/2.0"),
    "version-0.9": request(SIZE, body=BODY, first="POST /api/chat HTTP/0.9"),
    "version-1.2": request(SIZE, body=BODY, first="POST /api/chat HTTP/1.2"),
    "small-letters": request(SIZE, body=BODY, first="post /api/chat HTTP/1.1"),
    "long-head": request("X-A: " + "a" * 70_000, SIZE, body=BODY),
    "long-address": request(SIZE, body=BODY, first=f"POST /{'a' * 70_000} HTTP/1.1"),
    "many-lines": request(*["a:"] * 300, SIZE, body=BODY),
    "many-trailers": request("Transfer-Encoding: chunked", body=CHUNKED[:-2] + b"a:\r\n" * 300 + b"\r\n"),
    "body-before-another-protocol": request("Connection: Upgrade", "Upgrade: h2c", SIZE, body=BODY),
    "chunk-without-a-size": request("Transfer-Encoding: chunked", body=b"zz\r\n"),
    "chunk-below-nothing": request("Transfer-Encoding: chunked", body=b"-1\r\n"),
    "chunk-in-0x": request("Transfer-Encoding: chunked", body=b"0x" + CHUNKED),
    "chunk-beyond-numbers": request("Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n"),
    "chunk-with-lf": request("Transfer-Encoding: chunked", body=CHUNKED.replace(b"\r\n", b"\n")),
    "chunk-that-spills": request("Transfer-Encoding: chunked", body=CHUNKED.replace(b"\r\n0", b"XX0")),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=[name.replace(" ", "-") for name in REFUSED])
def test_what_can_be_read_in_two_ways_is_refused(running: Running, server: Scripted, raw: bytes) -> None:
    """400 and the end of the connection; no server hears of it, and the next request is answered."""
    before = len(server.heard)
    answer = said(running, raw)
    assert (statuses(answer), b"<open>" in answer) == ([400], False)
    assert len(server.heard) == before
    assert is_well(running)


@pytest.mark.parametrize(
    "raw",
    [
        request(f"{SIZE} \t", body=BODY),
        request(SIZE, body=BODY, first="POST http://gateway/api/chat HTTP/1.1"),
        request("Transfer-Encoding: Chunked", body=CHUNKED.replace(b"\r\n", b";an=extension\r\n", 1)),
        request(SIZE, body=BODY, first="POST /api/chat HTTP/1.0", host=""),
        request("X-A: \xff", SIZE, body=BODY),
        b"\r\n" + request(SIZE, body=BODY),
    ],
    ids=["spaces-at-the-end", "whole-address", "extension", "1.0", "latin-1", "an-empty-line-before"],
)
def test_what_only_looks_odd_is_answered(running: Running, raw: bytes) -> None:
    """What the standard allows is no fault."""
    assert statuses(said(running, raw)) == [200]


def test_trailers_are_no_headers(running: Running, server: Scripted) -> None:
    """A key in a trailer lets nobody in; nor does one name the request, or reach a server."""

    def ending_in(*trailers: bytes) -> bytes:
        return CHUNKED[:-2] + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"

    late = ending_in(b"x-api-key: " + KEY.encode())
    assert statuses(said(running, request("Transfer-Encoding: chunked", body=late, key=""))) == [401]
    odd = ending_in(b"x-request-id: trailed", b"user-agent: trailed", b"content-type: trailed")
    answer = said(running, request("Transfer-Encoding: chunked", body=odd))
    assert (statuses(answer), b"trailed" in answer) == ([200], False)
    assert "trailed" not in str(server.asked[-1].headers)


def test_what_comes_behind_a_request_is_not_read(running: Running, server: Scripted) -> None:
    """One request is answered at a time: another or garbage behind it neither reaches a server nor harms its answer."""
    for behind in (request(SIZE, body=BODY), b"\0garbage\r\n\r\n", b"GET /api/tags HTTP/1.1\r\nX: y\r\n\r\n"):
        before = len(server.asked)
        answer = said(running, request(SIZE, body=BODY) + behind)
        assert (statuses(answer), b"<open>" in answer) == ([200], False)
        assert answer.rstrip().endswith(b"0")  # the last chunk: all of it came
        assert len(server.asked) - before == 1
        assert is_well(running)


def test_requests_one_after_the_other_share_a_connection(running: Running) -> None:
    """Whoever waits for each answer is answered on one connection for as long as he likes."""
    with httpx.Client(base_url=running.url, headers={"x-api-key": KEY}) as client:
        for path in ("/api/version", "/nowhere", "/api/tags", "/ops/v1/tiers", "/api/version"):
            client.head(path)
            answer = client.get(path)
            assert "close" not in answer.headers.get("connection", "")
        assert client.post(OLLAMA.path, content=BODY).status_code == 200
        local = {connection.info for connection in client._transport._pool.connections}  # type: ignore[attr-defined]
    assert len(local) == 1


def test_who_leaves_with_a_request_behind_is_noticed(tmp_path: Path) -> None:
    """A caller who sends a second request and goes ends what the server does for the first."""

    def script(_: Heard, line: Line) -> None:
        line.begin(OLLAMA.kind)
        line.chunk(OLLAMA.pieces[0])
        line.await_end()

    with Scripted(script) as slow, gateway(tmp_path, {"a10g": slow.url}) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as caller:
            caller.sendall(2 * request(SIZE, body=BODY))
            assert caller.recv(12) == b"HTTP/1.1 200"
            assert running.open_exchanges() == 1
        until(lambda: running.open_exchanges() == 0)
        assert len(slow.asked) == 1


def test_a_body_that_was_not_asked_for_is_no_request(running: Running, server: Scripted) -> None:
    """Refused before its body was asked for, a request ends its connection: what comes next could be either."""
    before = len(server.heard)
    head = request("Expect: 100-continue", "Content-Length: 500", key="")
    answer = said(running, head, request(SIZE, body=BODY))
    assert (statuses(answer), b"<open>" in answer) == ([401], False)
    assert len(server.heard) == before
    whole = said(running, request("Expect: 100-continue", SIZE), BODY)
    assert statuses(whole) == [100, 200]
    old = said(running, request("Expect: 100-continue", SIZE, body=BODY, first="POST /api/chat HTTP/1.0"))
    assert statuses(old) == [200]


def test_another_protocol_is_not_spoken(running: Running, server: Scripted) -> None:
    """An offer to speak another one is passed over, and what follows the request is not taken for one."""
    before = len(server.heard)
    offer = request("Connection: Upgrade", "Upgrade: h2c", first="GET /api/version HTTP/1.1")
    for pieces in ([offer + request(SIZE, body=BODY)], [offer, request(SIZE, body=BODY)]):
        answer = said(running, *pieces)
        assert (statuses(answer), b"<open>" in answer) == ([200], False)
    assert len(server.heard) == before
    assert is_well(running)


def test_what_is_not_there_counts_in_the_minute(tmp_path: Path, server: Scripted) -> None:
    """Unknown paths, wrong methods, and what is not served use up a key's minute as everything else does."""
    keys = f"few {hash_of(KEY)} rpm=3\nother {hash_of(OTHER)}"
    with (
        gateway(tmp_path, {"a10g": server.url}, keys=keys) as running,
        httpx.Client(base_url=running.url, headers={"x-api-key": KEY}) as client,
    ):
        asked = [("GET", "/nowhere"), ("PUT", "/api/chat"), ("POST", "/api/me"), ("GET", "/nowhere")]
        answers = [client.request(*each) for each in asked]
        assert [each.status_code for each in answers] == [404, 405, 403, 429]
        assert int(answers[-1].headers["retry-after"]) > 0
        assert is_well(running)


# -- what a key may be told --------------------------------------------------------------------------------------------

SECRET = "deepseek-r1:32b"


@pytest.fixture(scope="module")
def narrow(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway where everything that can name a model names one that two of its keys may not use."""
    window = {"tier": "h100", "start": "0 8 * * *", "hours": 1, "models": [SECRET]}
    fleet = load()
    fleet = fleet.model_copy(update={"windows": [type(fleet).model_fields["windows"].annotation.__args__[0](**window)]})  # type: ignore[union-attr]
    keys = "\n".join(
        [
            f"llama {hash_of('omk_l')} chat models=llama*",
            f"boss {hash_of('omk_b')} chat admin models=llama*",
            f"root {hash_of('omk_r')} chat admin",
        ]
    )
    shelf = Shelf([model("llama3.2"), model(SECRET)])
    folder = tmp_path_factory.mktemp("narrow")
    with gateway(folder, {"a10g": server.url}, keys=keys, shelf=shelf, fleet=fleet) as found:
        now = CLOCK.now()
        loaded = (Loaded(SECRET, 1, 1, 1), Loaded("llama3.2:latest", 1, 1, 1))
        report = Report("a10g", "c1", "serving", now, loaded=loaded)
        found.facts.put(report.key, report.as_json())
        found.standing.refresh()
        store = open_store(folder / "gateway.sqlite", CLOCK)
        ledger = store.ledger()
        jobs = [ledger.post("pull", name, {"model": name}, by="root").job for name in (SECRET, "llama3.2:latest")]
        jobs.append(ledger.post("verify", "*", {"model": None}, by="root").job)
        posted = tuple(Posted(job.id, job.kind, job.subject, f"why {job.subject}") for job in jobs)
        ran = Ran(now, now, posted, (f"{SECRET} is left alone",))
        found.facts.put(NIGHT_RAN, ran.as_json())
        for key in ("root", "llama"):
            for name in (SECRET, "llama3.2:latest"):
                found.composed.books.add(Use(now, name, f"{key}" if name != SECRET else "root", "a10g", "success"))
        yield found
        store.close()


def told(running: Running, key: str, path: str, **more: Any) -> httpx.Response:
    method = more.pop("method", "GET")
    return httpx.request(method, running.url + path, headers={"x-api-key": key}, timeout=PATIENCE, **more)


@pytest.mark.parametrize("key", ["omk_l", "omk_b"], ids=["chat", "admin"])
def test_a_key_for_some_models_hears_of_no_other(narrow: Running, key: str) -> None:
    """Lists, boards, jobs, nights, usage, cost, routes and what is near: nothing names a model that is not the key's."""
    document = told(narrow, "omk_r", "/ops/v1/openapi.json").json()
    paths = [path for path, operations in document["paths"].items() if "get" in operations and "{" not in path]
    paths += ["/api/tags", "/api/ps", "/v1/models", "/metrics", "/readyz", "/ops/v1/jobs?since=2020-01-01T00:00:00Z"]
    assert len(paths) >= 15
    for path in paths:
        mine = told(narrow, key, path)
        assert "deepseek" not in mine.text, path
    for path in ("/api/tags", "/v1/models", "/ops/v1/models", "/ops/v1/board", "/ops/v1/jobs", "/ops/v1/night"):
        assert "llama3.2" in told(narrow, key, path).text, path
        assert "deepseek" in told(narrow, "omk_r", path).text, path
    near = told(narrow, key, "/api/chat", method="POST", json={"model": "llama-deepseek-r1", "messages": []})
    assert (near.status_code, "r1:32b" in near.text) == (404, False)
    near = told(narrow, key, "/ops/v1/route?model=llamaseek-r1:32b")
    assert (near.status_code, "deepseek" in near.text) == (404, False)


@pytest.mark.parametrize("key", ["omk_l", "omk_b"], ids=["chat", "admin"])
def test_a_key_for_some_models_asks_for_no_other(narrow: Running, key: str) -> None:
    """Its route, its job's story and events, its card: 403, and plans and meters, which name all of them, as well."""
    ids = {job["subject"]: job["id"] for job in told(narrow, "omk_r", "/ops/v1/jobs").json()["jobs"]}
    closed = ["/ops/v1/plan", "/ops/v1/plan/prune", "/metrics", f"/ops/v1/route?model={SECRET}"]
    closed += [f"/ops/v1/jobs/{ids[about]}{more}" for about in (SECRET, "*") for more in ("", "/events")]
    for path in closed:
        assert told(narrow, key, path).status_code == 403, path
    assert told(narrow, key, "/api/show", method="POST", json={"model": SECRET}).status_code == 403
    assert told(narrow, key, f"/v1/models/{SECRET}").status_code == 404
    assert told(narrow, key, f"/ops/v1/jobs/{ids['llama3.2:latest']}").status_code == 200
    assert told(narrow, key, "/ops/v1/jobs").json()["total"] == 1
    assert told(narrow, key, "/ops/v1/route?model=llama3.2").json()["tier"] == "a10g"


# -- one key wants every place -----------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as found:
        yield found


@pytest.fixture
def ledger(here: Place) -> Ledger:
    return here.ledger()


def follow(stack: ExitStack, url: str, id: str, key: str) -> httpx.Response:
    """Somebody who follows a job, until the stack ends."""
    client = stack.enter_context(httpx.Client(headers={"x-api-key": key}, timeout=PATIENCE))
    return stack.enter_context(client.stream("GET", f"{url}/ops/v1/jobs/{id}/events"))


def test_one_key_never_follows_in_all_places(here: Place, ledger: Ledger) -> None:
    """Of eight places and three keys one key has two, by events or by pulls; beyond that it is told when to come again."""
    id = ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="t").job.id
    with served(here.app(followers=8)) as url, ExitStack() as stack:
        assert follow(stack, url, id, ADMIN_KEY).status_code == 200
        puller = stack.enter_context(httpx.Client(headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE))
        pull = stack.enter_context(puller.stream("POST", f"{url}/api/pull", json={"model": "qwen3"}))
        assert pull.status_code == 200
        refused = follow(stack, url, id, ADMIN_KEY)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert "key 'root' has 2 followers of jobs" in json.loads(refused.read())["error"]
        with httpx.Client(headers={"x-api-key": ADMIN_KEY}, timeout=PATIENCE) as client:
            again = client.post(f"{url}/api/pull", json={"model": "other"})
            assert (again.status_code, again.headers["retry-after"]) == (429, "10")
            assert client.request("DELETE", f"{url}/api/delete", json={"model": "qwen3"}).status_code == 429
        assert {job.subject for job in ledger.jobs()} == {"llama3.2:latest", "qwen3:latest"}
        assert follow(stack, url, id, CHAT_KEY).status_code == 200


def test_no_two_followers_take_the_last_place(here: Place, ledger: Ledger) -> None:
    """Of twelve who come at once for one key's two places two get one, and each of the others hears so."""
    id = ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="t").job.id

    async def all_at_once(url: str) -> list[int]:
        async with httpx.AsyncClient(headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE) as client:
            enough = asyncio.Event()
            seen: list[int] = []

            async def one() -> None:
                async with client.stream("GET", f"{url}/ops/v1/jobs/{id}/events") as answer:
                    seen.append(answer.status_code)
                    if len(seen) == 12:
                        enough.set()
                    await enough.wait()

            await asyncio.wait_for(asyncio.gather(*(one() for _ in range(12))), PATIENCE)
            return sorted(seen)

    with served(here.app(followers=8)) as url:
        assert asyncio.run(all_at_once(url)) == [200] * 2 + [429] * 10
        until(lambda: asyncio.run(all_at_once(url)) == [200] * 2 + [429] * 10, "the places given back")


def test_one_key_never_has_all_who_work(here: Place) -> None:
    """A key with its share of requests under way is told to wait; others are worked for meanwhile."""
    gate, entered = threading.Event(), threading.Semaphore(0)

    def slow() -> list[dict[str, Any]]:
        entered.release()
        gate.wait(PATIENCE)
        return MODELS

    def asked(key: str, path: str) -> httpx.Response:
        return httpx.get(f"{url}/ops/v1{path}", headers={"x-api-key": key}, timeout=PATIENCE)

    app = here.app(here.office(models=slow))
    with served(app) as url, ThreadPoolExecutor(40) as callers:
        answers = [callers.submit(asked, CHAT_KEY, "/models") for _ in range(40)]
        try:
            refused = until(
                lambda: [each for each in answers if each.done()][23:] and [each for each in answers if each.done()]
            )
            assert {each.result().status_code for each in refused} == {429}
            assert {each.result().headers["retry-after"] for each in refused} == {"1"}
            assert asked(ADMIN_KEY, "/jobs").status_code == 200
            assert asked(CHAT_KEY, "/tiers").status_code == 429
        finally:
            gate.set()
        assert [each.result().status_code for each in answers].count(200) == 16
        assert asked(CHAT_KEY, "/models").status_code == 200


def test_one_key_never_lingers_in_all_places() -> None:
    """Of the requests that go on without a caller a key has a share: what is beyond ends at once, others' goes on."""

    async def trial() -> tuple[list[bool], bool]:
        lingering = Lingering(most=8, keys=3)
        asking = [asyncio.create_task(asyncio.Event().wait()) for _ in range(6)]
        for each in asking[:5]:
            lingering.keep(each, 60, "greedy")  # type: ignore[arg-type]  # it never has an answer
        lingering.keep(asking[5], 60, "other")  # type: ignore[arg-type]
        await asyncio.wait(asking, timeout=0.2)
        ended = [each.done() for each in asking]
        await lingering.close()
        return ended[:5], ended[5]

    assert asyncio.run(trial()) == ([False, False, True, True, True], False)


def test_one_key_makes_one_plan_at_a_time(tmp_path: Path, server: Scripted) -> None:
    """A second plan of the same key is refused while the first is made, in the words of the ops API."""
    gate = threading.Event()
    keys = "\n".join(f"k{number} {hash_of(f'omk_{number}')} admin" for number in range(4))

    def night() -> Any:
        gate.wait(PATIENCE)
        raise AssertionError("nobody reads it")

    with gateway(tmp_path, {"a10g": server.url}, keys=keys, plan=night) as running, ThreadPoolExecutor(2) as callers:
        first = callers.submit(told, running, "omk_0", "/ops/v1/plan")
        try:
            answer = until(lambda: (found := told(running, "omk_0", "/ops/v1/tiers")).status_code == 200 and found)
            assert answer
            second = until(lambda: (found := told(running, "omk_0", "/ops/v1/plan")).status_code == 429 and found)
            assert (second.headers["retry-after"], "plans being made" in second.json()["error"]) == ("10", True)
        finally:
            gate.set()
        first.result()


# -- what has left the ledger ------------------------------------------------------------------------------------------


def test_an_archived_job_is_as_good_as_another(here: Place, ledger: Ledger) -> None:
    """Over HTTP it is told, followed to its end, tried again, and stays as it is when it is cancelled."""
    job = ledger.cancel(
        ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="t", attempts=5).job.id, by="t"
    )
    old = replace(job, id="old-1", posted_at=job.posted_at - timedelta(days=40))
    office = here.office(archived=lambda _: [old])
    with served(here.app(office)) as url:

        def ask(method: str, path: str, key: str = ADMIN_KEY) -> httpx.Response:
            return httpx.request(method, f"{url}/ops/v1/jobs/{path}", headers={"x-api-key": key}, timeout=PATIENCE)

        events = ask("GET", "old-1/events").text
        assert events.count("event: move") == 3
        cancelled = ask("POST", "old-1/cancel")
        assert (cancelled.status_code, cancelled.json()) == (200, old.as_json())
        again = ask("POST", "old-1/retry")
        assert (again.status_code, again.json()["request"]) == (201, {"model": "llama3.2"})
        assert again.json()["attempts_allowed"] == 5
        assert again.json()["id"] not in {"old-1", job.id}
        assert ask("POST", "old-2/retry").status_code == 404
        assert ask("POST", "old-1/retry", CHAT_KEY).status_code == 403
