"""What all bodies take together: counted from the first byte until nobody needs them, and never more than there is."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from app.gateway.auth.fair_shares import ONE
from app.gateway.protocol.body import Budget, Crowded, HeldBody, whole
from jobs.access.keys.proofs import hash_of
from tests.support.dialects import OLLAMA
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE, until

MIB = 1 << 20
KEYS = f"ann {hash_of('omk_a')} chat\nbob {hash_of('omk_b')} chat"
ANN, BOB = {"authorization": "Bearer omk_a"}, {"authorization": "Bearer omk_b"}

MOST, RESERVE, SMALL = 1000, 200, 20

steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "add", "keep", "drop"]),
        st.sampled_from("abc"),
        st.integers(0, 5),
        st.integers(0, 400),
    ),
    max_size=60,
)


@given(steps)
def test_what_is_counted_is_what_is_there(steps: list[tuple[str, str, int, int]]) -> None:
    """After any steps the budget knows the bytes of all that are kept, within its bounds; at the end it is as new."""
    budget = Budget(MOST, RESERVE, SMALL)
    live: list[tuple[str, HeldBody, list[Callable[[], None]]]] = []
    for what, key, which, amount in steps:
        if what == "begin":
            held = budget.hold(key)
            live.append((key, held, [held.keep()]))
        elif live:
            whose, held, drops = live[which % len(live)]
            if what == "keep":
                drops.append(held.keep())
            elif what == "drop":
                drop = drops.pop()
                drop()
                drop()
                if not drops:
                    assert not held.data
                    live.remove((whose, held, drops))
            else:
                with suppress(Crowded):
                    held.add(b"x" * amount)
        sizes = [len(held.data) for _, held, _ in live]
        assert budget.taken == sum(sizes) <= MOST + RESERVE
        assert sum(size for size in sizes if size > SMALL) <= MOST
        for each in "abc":
            assert sum(len(held.data) for key, held, _ in live if key == each) <= (MOST + RESERVE) // 2
    for _, _, drops in live:
        for drop in drops:
            drop()
    assert budget.taken == 0
    assert not budget._of_key


def test_one_key_leaves_room_for_the_others() -> None:
    """However much one key has under way, another has as much, and questions of two lines pass beside the largest."""
    budget = Budget(MOST, RESERVE, SMALL)
    budget.hold("a").add(b"x" * 500)
    with pytest.raises(Crowded, match="of this key take 500 bytes"):
        budget.hold("a").add(b"x" * 21)
    budget.hold("a").add(b"x" * 20)
    budget.hold("b").add(b"x" * 480)
    with pytest.raises(Crowded, match="all the memory"):
        budget.hold("c").add(b"x" * 21)
    budget.hold("c").add(b"x" * 20)


def test_the_only_key_may_have_all_the_room() -> None:
    """Where nobody else could come, half of the room is not kept free for him; questions still pass beside the rest."""
    budget = Budget(MOST, RESERVE, SMALL, keys=ONE)
    budget.hold("a").add(b"x" * MOST)
    with pytest.raises(Crowded):
        budget.hold("a").add(b"x" * (SMALL + 1))
    budget.hold("a").add(b"x" * SMALL)


def test_a_body_that_is_announced_and_does_not_fit_is_not_begun() -> None:
    """What is said of its length is enough to refuse it, and takes no room."""

    async def receive() -> Message:
        raise AssertionError

    budget = Budget(MOST, RESERVE, SMALL)
    with pytest.raises(Crowded):
        asyncio.run(whole(receive, b"501", budget.hold("a")))
    assert budget.taken == 0


# -- with a gateway ----------------------------------------------------------------------------------------------------


def large(size: int = 10 * MIB, **more: object) -> bytes:
    return json.dumps({"model": "llama3.2", "messages": [], **more, "x": "a" * size}).encode()


def uncut(body: bytes) -> bytes:
    """A body as it goes to the server first: its prompt, which may not fit, shall not be cut."""
    return body[:-1] + b',"truncate":false}'


def post(running: RunningGateway, body: bytes, headers: dict[str, str], path: str = "/api/chat") -> httpx.Response:
    return httpx.post(running.url + path, content=body, headers=headers, timeout=PATIENCE)


def begun(running: RunningGateway, body: bytes, length: int | None = None, path: str = "/api/chat") -> socket.socket:
    """Ann, who has sent this much of a body and waits."""
    caller = socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {ANN['authorization']}\r\nContent-Length: "
    caller.sendall(f"{head}{length or len(body)}\r\n\r\n".encode() + body)
    return caller


def is_released(running: RunningGateway) -> bool:
    return bool(until(lambda: running.composed.budget.taken == 0, "the release"))


@contextmanager
def stage(folder: Path, server: ScriptedServer) -> Iterator[RunningGateway]:
    with server, gateway(folder, {"a10g": server.url}, keys=KEYS, startup=PATIENCE) as running:
        yield running


def played(_: HeardRequest, line: Connection) -> None:
    OLLAMA.play(line)


def test_whatever_becomes_of_a_request_its_body_is_released(tmp_path: Path) -> None:
    """Answered, refused, unknown, half sent, or left by its caller: nothing of it stays counted."""
    with stage(tmp_path, ScriptedServer(played)) as running:
        for body, status in (
            (large(MIB), 200),
            (large(MIB)[:-1], 400),
            (large(MIB).replace(b"llama3.2", b"other"), 404),
            (b"[]," * MIB, 400),
            (large(MIB, options={"num_ctx": 1e300}), 400),
        ):
            assert post(running, body, ANN).status_code == status
            assert is_released(running)
        assert post(running, large(MIB), ANN, "/api/show").status_code == 413
        assert post(running, large(MIB), {}).status_code == 401
        assert is_released(running)
        for left in (b" " * MIB, large(MIB)):
            caller = begun(running, left, 2 * MIB)
            until(lambda: running.composed.budget.taken >= MIB, "the half of it")
            caller.close()
            assert is_released(running)


def test_a_body_is_gone_when_its_answer_begins(tmp_path: Path) -> None:
    """An answer may take minutes; what was asked is not kept for so long."""
    go_on = threading.Event()

    def slow(_: HeardRequest, line: Connection) -> None:
        line.begin(OLLAMA.kind)
        line.chunk(OLLAMA.pieces[0])
        go_on.wait(PATIENCE)
        for piece in OLLAMA.pieces[1:]:
            line.chunk(piece)
        line.end()

    with stage(tmp_path, ScriptedServer(slow)) as running:
        caller = begun(running, large())
        assert caller.recv(100).startswith(b"HTTP/1.1 200 ")
        assert is_released(running)
        assert len(running.composed.upstream_clients["a10g"]._busy) == 1
        go_on.set()
        caller.close()


def test_who_waits_for_a_server_holds_his_body(tmp_path: Path) -> None:
    """The bodies of callers who are held count; who comes when they have used it up is told when to come again."""
    with stage(tmp_path, ScriptedServer(played, asleep=10**9)) as running:
        held = [begun(running, large(30 * MIB)) for _ in range(3)]
        until(lambda: running.composed.cold_starts["a10g"].state().held == 3, "the three")
        assert running.composed.budget.taken > 90 * MIB
        refused = post(running, large(30 * MIB), ANN)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "the bodies of this key take" in refused.json()["error"]
        others = [begun(running, large(10), path="/api/chat") for _ in range(2)]
        until(lambda: running.composed.cold_starts["a10g"].state().held == 5, "the small ones")
        for caller in (*held, *others):
            caller.close()
        assert is_released(running)


def test_what_goes_on_without_its_caller_keeps_its_body(tmp_path: Path) -> None:
    """A request that may be what loads a model goes on when its caller leaves, whole; then its body is gone too."""
    answer = threading.Event()

    def loads(_: HeardRequest, line: Connection) -> None:
        answer.wait(PATIENCE)
        OLLAMA.play(line)

    server = ScriptedServer(loads)
    with server, gateway(tmp_path, {"a10g": server.url}, keys=KEYS, most_containers=2) as running:
        body = large(MIB)
        caller = begun(running, body)
        until(lambda: server.asked, "the request")
        caller.close()
        until(lambda: len(running.composed.detached) == 1, "its going on")
        assert running.composed.budget.taken == len(body)
        answer.set()
        assert is_released(running)
        assert server.asked[-1].body == uncut(body)


class Peeking(ScriptedServer):
    """A server that does something with a chat before it reads it; true when that was all."""

    def __init__(self, before: Callable[[Connection], bool]) -> None:
        self._before = before
        super().__init__(played)

    def _serve(self, line: Connection) -> None:
        with suppress(OSError):
            while first := line.sock.recv(14, socket.MSG_PEEK):
                if first == b"POST /api/chat" and self._before(line):
                    break
                heard = line.heard()
                assert heard is not None
                self.heard.append(heard)
                (played if heard.path == "/api/chat" else self._opens)(heard, line)
        line.close()


def test_a_server_that_answers_before_it_has_read_all(tmp_path: Path) -> None:
    """Its refusal is the caller's, the rest is sent to nobody, and the next request has a connection of its own."""

    def refuses(line: Connection) -> bool:
        line.sock.recv(1000)
        line.document({"error": "too much"}, 413)
        line.await_end()
        return True

    with stage(tmp_path, Peeking(refuses)) as running:
        for _ in range(2):
            refused = post(running, large(), ANN)
            assert (refused.status_code, refused.json()) == (413, {"error": "too much"})
            assert is_released(running)
        assert running.open_exchanges() == 0


def test_a_large_body_arrives_whole_at_a_server_that_reads_slowly(tmp_path: Path) -> None:
    """It is handed on piece by piece as the server takes it, and others are answered meanwhile."""
    go_on = threading.Event()
    server = Peeking(lambda _: not go_on.wait(PATIENCE))
    with stage(tmp_path, server) as running:
        body = large()
        caller = begun(running, body)
        until(running.open_exchanges, "the request")
        assert httpx.get(f"{running.url}/healthz", timeout=PATIENCE).status_code == 200
        assert running.composed.budget.taken == len(body)
        go_on.set()
        assert caller.recv(100).startswith(b"HTTP/1.1 200 ")
        assert is_released(running)
        caller.close()
        assert server.heard[-1].body == uncut(body)
