"""Hostile bodies, sent raw to a gateway in a process of its own: nobody else waits, its memory stays, nothing goes on.

The bounds are of a crowded machine. On a quiet one each valid request is answered within 100 ms.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

import httpx
import pytest

from app.gateway.protocol.body import BUDGET, MOST
from jobs.access.keys.proofs import hash_of
from tests.support.gateway_process import Process, gateway_process
from tests.support.scripted_server import Connection, HeardRequest, ScriptedServer
from tests.support.waiting import PATIENCE

MB = 1_000_000

KEYS = f"bob {hash_of('omk_b')} chat models=llama*\nann {hash_of('omk_a')} chat\ncarol {hash_of('omk_c')} chat"
BOB, ANN, CAROL = ({"authorization": f"Bearer omk_{letter}"} for letter in "bac")
FORM = {"content-type": "multipart/form-data; boundary=B"}

AIR = 32 * MB
"""Memory that comes and goes beside bodies: what libraries keep, and what the allocator gives back late."""

LONGEST_WAIT = 0.5
"""Seconds that the gateway may work while somebody waits for an answer: a busy machine makes everybody wait longer."""


def answered(heard: HeardRequest, line: Connection) -> None:
    if heard.path == "/v1/audio/transcriptions":
        line.document({"text": "hello"})
    else:
        line.document({"done": True, "embedding": [1.0], "embeddings": []})


@dataclass
class Target:
    """A gateway, two tiers behind it, and what these got to see."""

    process: Process
    a10g: ScriptedServer
    h100: ScriptedServer

    def heard(self) -> list[HeardRequest]:
        return [*self.a10g.heard, *self.h100.heard]

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """What comes back for this body, byte for byte; without end where it is refused while it is being sent."""
        lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""])
        with socket.create_connection(("127.0.0.1", self.process.port), timeout=PATIENCE) as caller:
            got = b""
            with suppress(ConnectionError):
                caller.sendall(head.encode())
                caller.sendall(body)
            with suppress(ConnectionError):
                while piece := caller.recv(65536):
                    got += piece
            return got

    def status(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        return int(self.post(path, body, headers).split(b" ")[1])

    def chat(self, headers: dict[str, str] = CAROL) -> int:
        return self.status("/api/chat", b'{"model":"llama3.2","messages":[{"role":"user","content":"x"}]}', headers)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with ScriptedServer(answered) as a10g, ScriptedServer(answered) as h100:
        servers = {"a10g": a10g.url, "h100": h100.url}
        with gateway_process(tmp_path_factory.mktemp("gateway"), servers, KEYS) as process:
            found = Target(process, a10g, h100)
            assert found.chat() == 200
            yield found


@dataclass
class Watch:
    """Somebody who asks for /healthz all the time, on a connection of his own."""

    process: Process
    longest: float = 0.0
    worked: float = 0.0
    asked: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._client = httpx.Client(timeout=PATIENCE)
        self._look()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def _ask(self) -> None:
        while not self._over.is_set():
            self._look()
            self._over.wait(0.01)

    def _look(self) -> None:
        began, worked = time.monotonic(), self.process.seconds()
        assert self._client.get(f"{self.process.url}/healthz").status_code == 200
        self.longest = max(self.longest, time.monotonic() - began)
        self.worked = max(self.worked, self.process.seconds() - worked)
        self.asked += 1


@contextmanager
def unharmed(target: Target, *, loop: float, peak: int) -> Iterator[None]:
    """What happens in this block costs the event loop so many seconds at most, and so many bytes while it lasts."""
    process = target.process
    process.forget_most()
    before, worked = process.rss(), process.loop_seconds()
    with Watch(process) as watch:
        yield
    loop_worked = process.loop_seconds() - worked
    said = (
        f"gap {watch.longest * 1000:.0f} ms, {watch.worked:.2f} s of work, in {watch.asked}; loop {loop_worked:.2f} s;"
        f" rss {before // MB} MB, at most {process.most_rss() // MB}, then {process.rss() // MB}"
    )
    print(said)
    assert watch.worked < LONGEST_WAIT, said
    assert loop_worked < loop, said
    assert process.most_rss() < before + peak + AIR, said
    assert process.rss() < before + AIR, said
    worked = process.seconds()
    assert target.chat() == 200
    assert process.seconds() - worked < LONGEST_WAIT


def together(count: int, work: Callable[[], int]) -> list[int]:
    """The statuses that so many get at once."""
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sorted(found)


@contextmanager
def begun(work: Callable[[], list[int]]) -> Iterator[Future[list[int]]]:
    """What is under way while the block runs, and has ended when that has."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def embed(inside: bytes, end: bytes = b"}") -> bytes:
    return b'{"model":"llama3.2","input":' + inside + end


# -- what reaches another model, or another tier -----------------------------------------------------------------------

DECOY, REAL = b"llama3.2\r\n", b"deepseek-r1:32b\r\n"


def part(head: bytes, content: bytes, end: bytes = b"\r\n\r\n") -> bytes:
    return b"--B\r\nContent-Disposition: " + head + end + content


HIDDEN = part(b'form-data; name="model"', REAL, b"\n\n")


@pytest.mark.parametrize(
    "form",
    [
        HIDDEN + b"--B--\r\n" + part(b'form-data; name="model"', DECOY) + b"--B--\r\n",
        part(b'attachment; name="model"', DECOY) + HIDDEN + b"--B--\r\n",
        part(b'form-data; name="model"; filename="a"', DECOY) + HIDDEN + b"--B--\r\n",
        part(b'form-data; name="model"; name="x"', DECOY) + HIDDEN + b"--B--\r\n",
        part(b'form-data; name="model"\r\nContent-Transfer-Encoding: quoted-printable', b"deepseek-r1:32=62\r\n")
        + b"--B--\r\n",
    ],
    ids=["behind the end", "attachment", "file", "two names", "encoded"],
)
def test_a_key_for_some_models_reaches_no_other_by_a_form(target: Target, form: bytes) -> None:
    """A form in which another reader would find another model is a 400; as clients write it, it passes."""
    before = len(target.heard())
    assert target.status("/v1/audio/transcriptions", form, BOB | FORM) == 400
    assert len(target.heard()) == before
    plain = part(b'form-data; name="model"', DECOY) + b"--B--\r\n"
    assert target.status("/v1/audio/transcriptions", plain, BOB | FORM) == 200
    assert target.status("/v1/audio/transcriptions", plain.replace(DECOY, REAL), BOB | FORM) == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/show", b'{"model":"deepseek-r1:32b","model":null,"name":"llama3.2","verbose":true}'),
        ("/api/generate", b'{"model":"deepseek-r1:32b","model":null,"Model":"llama3.2"}'),
        ("/api/generate", b'{"model":"llama3.2","_debug_render_only":true,"_debug_render_only":null}'),
        ("/api/generate", b'{"model":"llama3.2","options":{"num_ctx":100000},"options":{}}'),
        ("/api/generate", b'{"model":"llama3.2","options":{"num_ctx":100000,"num_ctx":null}}'),
        ("/api/generate", '{"model":"llama3.2","options":{"num_ctx":100000},"option\u017f":{}}'.encode()),
    ],
)
def test_what_is_said_twice_reaches_nobody(target: Target, path: str, body: bytes) -> None:
    """A name that stands twice where we look, in any spelling that Go takes for the same, is a 400."""
    before = len(target.heard())
    assert target.status(path, body, BOB) == 400
    assert len(target.heard()) == before


@pytest.mark.parametrize("number", [b"100000", b"1e5", b"100000.0", b"0.1E+6", b"100000.7"])
def test_a_context_counts_by_its_value(target: Target, number: bytes) -> None:
    """However its number is written, a long context goes to the tier that has room for it."""
    before = len(target.h100.asked), len(target.a10g.asked)
    body = b'{"model":"llama3.2","prompt":"x","options":{"num_ctx":%b}}' % number
    assert target.status("/api/generate", body, ANN) == 200
    assert (len(target.h100.asked), len(target.a10g.asked)) == (before[0] + 1, before[1])
    assert target.h100.asked[-1].body == body
    assert target.h100.loads[-1].json["options"] == {"num_ctx": 100000}


@pytest.mark.parametrize("option", ["num_ctx", "temperature", "seed", "num_predict", "top_k", "num_gpu", "use_mmap"])
def test_options_that_nobody_set_pass(target: Target, option: str) -> None:
    """Libraries send null for an option that is not set, and it goes on as it is."""
    body = json.dumps({"model": "llama3.2", "prompt": "x", "options": {option: None}}).encode()
    assert target.status("/api/generate", body, BOB) == 200
    assert target.a10g.asked[-1].body == body


# -- what would hold up everybody, or take all the memory --------------------------------------------------------------


def test_a_form_of_empty_parts(target: Target) -> None:
    """Three megabytes of parts without a head are refused at once, and a hundred parts with one as well."""
    before = len(target.heard())
    empty = b"--B\r\n" + b"\r\n\r\n--B\r\n" * (3 * MB // 9)
    many = part(b'form-data; name="x"', b"\r\n") * 100 + b"--B--\r\n"
    long = part(b'form-data; name="x"', b"\r\n--A" * (4 * MB)) + b"\r\n--B--\r\n"
    with unharmed(target, loop=1.5, peak=2 * len(long)):
        for form in (empty, many, long):
            assert target.status("/v1/audio/transcriptions", form, ANN | FORM) == 400
    assert len(target.heard()) == before + 1  # the chat after it


@pytest.mark.parametrize(
    "made",
    [
        lambda: embed(b"[" + b'"",' * 6_600_000 + b'""]'),
        lambda: embed(b"[" + b"[]," * 2_600_000 + b"[]]"),
        lambda: embed(b"{" + b'"a":{"b":0},' * 600_000 + b'"a":0}'),
        lambda: embed(b"[" * 7_000_000),
        lambda: embed(b" " * 20_000_000),
        lambda: embed(b"1" * 20_000_000),
        lambda: embed(b'"' + b"\\" * 20_000_001 + b'"'),
        lambda: b'{"' + b"m" * 20_000_000 + b'":1}',
        lambda: b"{" + b",".join(b'"%d":0' % number for number in range(400_000)) + b"}",
    ],
    ids=["texts", "lists", "objects", "depth", "gap", "digits", "backslashes", "name", "names"],
)
def test_a_body_of_structure(target: Target, made: Callable[[], bytes]) -> None:
    """Millions of small things, or one thing without end, are refused, and take no more memory than they have bytes."""
    body = made()
    before = len(target.heard())
    with unharmed(target, loop=1.0, peak=2 * len(body)):
        assert target.status("/api/embed", body, ANN) == 400
    assert len(target.heard()) == before + 1


def test_six_bodies_of_structure_at_once(target: Target) -> None:
    """Those of one key are read one after the other; another key is read beside them."""
    body = embed(b"[" + b"[]," * 2_630_000 + b"[]]")
    large = embed(b'"' + b"a" * MB + b'"')
    with (
        unharmed(target, loop=1.5, peak=2 * 6 * len(body)),
        begun(lambda: together(6, lambda: target.status("/api/embed", body, ANN))) as attack,
    ):
        assert target.status("/api/embed", large, CAROL) == 200
    assert attack.result() == [400] * 6


def test_eight_large_prompts_at_once(target: Target) -> None:
    """As many pass as there is memory for; the others are told when to come again, and other keys are still served."""
    body = b'{"model":"llama3.2","prompt":"' + b"a" * (MOST - 100) + b'"}'
    with (
        unharmed(target, loop=4.0, peak=BUDGET),
        begun(lambda: together(8, lambda: target.status("/api/generate", body, ANN))) as attack,
    ):
        while not attack.done():
            assert target.chat() == 200
    assert set(attack.result()) == {200, 503}
    sent = body[:-1] + b',"truncate":false}'  # so that a cut prompt is told
    assert all(each.body == sent for each in target.a10g.asked if len(each.body) > 50 * MB)


def test_a_large_body_is_renamed_in_its_place(target: Target) -> None:
    """A name in another case is put right inside a body of fifty megabytes, which is there once all the while."""
    body = b'{"model":"nomic-EMBED","prompt":"' + b"a" * (50 * MB) + b'"}'
    with unharmed(target, loop=2.0, peak=2 * len(body)):
        assert target.status("/api/embeddings", body, ANN) == 200
    heard = next(each for each in reversed(target.a10g.asked) if each.path == "/api/embeddings")
    assert heard.body == body.replace(b"nomic-EMBED", b"Nomic-Embed:latest")


@pytest.mark.parametrize(
    ("path", "status"), [("/api/show", 413), ("/ops/v1/jobs", 413), ("/api/chat", 400), ("/api/pull", 403)]
)
def test_other_routes_are_as_narrow(target: Target, path: str, status: int) -> None:
    """Wherever a body is read, a megabyte of structure costs the others nothing."""
    body = b'{"model":"llama3.2","kind":"pull","x":[' + b"[]," * 350_000 + b"[]}"
    with unharmed(target, loop=1.5, peak=20 * len(body)):
        found = together(4, lambda: target.status(path, body, ANN | {"content-type": "application/json"}))
        assert found == [status] * 4


def test_chunks_of_a_byte(target: Target) -> None:
    """A body in millions of chunks costs by its length, and not by the square of it."""
    caller = socket.create_connection(("127.0.0.1", target.process.port), timeout=PATIENCE)
    with unharmed(target, loop=5.0, peak=20 * MB), caller:
        lines = ["POST /api/embed HTTP/1.1", "Host: x", "Connection: close", "Transfer-Encoding: chunked"]
        caller.sendall("\r\n".join([*lines, f"Authorization: {ANN['authorization']}", "", ""]).encode())
        for _ in range(10):
            caller.sendall(b"1\r\nx\r\n" * 100_000)
        caller.sendall(b"0\r\n\r\n")
        assert caller.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_hundred_leave_in_the_middle(target: Target) -> None:
    """What callers sent who hung up before the end is gone with them."""

    def leave() -> int:
        with socket.create_connection(("127.0.0.1", target.process.port), timeout=PATIENCE) as caller:
            head = f"POST /api/embed HTTP/1.1\r\nHost: x\r\nAuthorization: {ANN['authorization']}\r\n"
            caller.sendall(head.encode() + b"Content-Length: 900000\r\n\r\n" + b" " * 800_000)
        return 0

    with unharmed(target, loop=3.0, peak=100 * MB):
        together(100, leave)
    body = b'{"model":"llama3.2","prompt":"' + b"a" * (MOST - 100) + b'"}'
    assert target.status("/api/generate", body, ANN) == 200
