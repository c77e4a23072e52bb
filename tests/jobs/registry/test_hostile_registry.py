"""A registry that does as it likes on the wire: it ends its own attempt, by a name, in a time, and nothing else."""

import gzip
import json
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core.clock import SystemClock
from jobs.core.errors import Cancelled, Corrupt, NetworkTrouble, ServerTrouble, Stalled, Trouble, Unsupported
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.core.retry import NEVER
from jobs.registry.allowlist import ANYWHERE, Registries
from jobs.registry.client import Registry
from jobs.registry.egress import Egress, flaw, is_public
from jobs.testing.clock import HandClock
from jobs.weights.manifest import Layer
from tests.support.models_directory import sample
from tests.support.waiting import PATIENCE

MODEL = sample("walnut")
NAME = MODEL.name
OK = b"HTTP/1.1 200 OK\r\n"

Script = Callable[[socket.socket, str], None]


@dataclass
class Raw:
    """Listens on loopback, and hands every connection and the path it asks for to a script."""

    script: Script
    paths: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    port: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def answering(self) -> Iterator["Raw"]:
        threads: list[threading.Thread] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            listener.settimeout(0.05)

            def accept() -> None:
                while not self.stopping.is_set():
                    with suppress(TimeoutError):
                        threads.append(threading.Thread(target=self._serve, args=(listener.accept()[0],)))
                        threads[-1].start()

            acceptor = threading.Thread(target=accept)
            acceptor.start()
            try:
                yield self
            finally:
                self.stopping.set()
                acceptor.join()
                for thread in threads:
                    thread.join(PATIENCE)
                assert not [thread for thread in threads if thread.is_alive()]

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := connection.recv(65_536)):
                    return
                head += more
            self.heads.append(head.decode("latin-1"))
            self.paths.append(self.heads[-1].split(" ")[1])
            self.script(connection, self.paths[-1])


def registry_of(url: str, *, registries: Registries = ANYWHERE, **more: Any) -> Registry:
    usual: dict[str, Any] = {"policy": NEVER, "requests": NEVER, "stall": timedelta(seconds=PATIENCE)}
    return Registry(mirrors={"*": url}, registries=registries, **{**usual, **more})


def sends(*parts: bytes) -> Script:
    def script(connection: socket.socket, _: str) -> None:
        for part in parts:
            connection.sendall(part)

    return script


def answer(body: bytes, *headers: str, status: bytes = OK) -> bytes:
    lines = "".join(f"{each}\r\n" for each in (*headers, f"Content-Length: {len(body)}", "Connection: close"))
    return status + lines.encode("latin-1") + b"\r\n" + body


def after_a_challenge(token: bytes) -> Script:
    """401 with the address of a token, and this answer there."""

    def script(connection: socket.socket, path: str) -> None:
        if path.startswith("/token"):
            connection.sendall(token)
        else:
            host = f"127.0.0.1:{connection.getsockname()[1]}"
            challenge = f'WWW-Authenticate: Bearer realm="http://{host}/token",service="x"'
            connection.sendall(answer(b"", challenge, status=b"HTTP/1.1 401 Unauthorized\r\n"))

    return script


def redirect(location: str) -> bytes:
    return answer(b"", f"Location: {location}", status=b"HTTP/1.1 307 Temporary Redirect\r\n")


BOMB = gzip.compress(gzip.compress(bytes(64 << 20), 1), 9)
"""1 kB that stands for 64 MB."""

TWICE = "Content-Encoding: gzip, gzip"


@dataclass(frozen=True)
class Case:
    name: str
    script: Script
    trouble: type[Trouble]
    says: str

    def __str__(self) -> str:
        return self.name


CASES = (
    Case("an encoded manifest", sends(answer(BOMB, TWICE)), Unsupported, "encoded as 'gzip, gzip'"),
    Case("an encoded error", sends(answer(BOMB, TWICE, status=b"HTTP/1.1 500 No\r\n")), ServerTrouble, "answers 500"),
    Case("an encoded token", after_a_challenge(answer(BOMB, TWICE)), Unsupported, "encoded as"),
    Case(
        "an encoded redirect",
        sends(answer(BOMB, TWICE, "Location: /again", status=b"HTTP/1.1 302 Found\r\n")),
        ServerTrouble,
        "redirects in circles",
    ),
    Case("an endless error", sends(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 9_000_000), ServerTrouble, "answers 500"),
    Case("an endless manifest", sends(OK + b"\r\n", b"x" * 9_000_000), Unsupported, "longer than"),
    Case("an endless token", after_a_challenge(OK + b"\r\n" + b"x" * 3_000_000), ServerTrouble, "token answer"),
    Case("two lengths", sends(answer(b"{}", "Content-Length: 7")), NetworkTrouble, "ength"),
    Case("a length of words", sends(OK + b"Content-Length: many\r\n\r\n{}"), NetworkTrouble, "ength"),
    Case("a line feed in a token", after_a_challenge(answer(b'{"token":"a\\r\\nX: y"}')), ServerTrouble, "no token"),
    Case("a token of other letters", after_a_challenge(answer(b'{"token":"\\u20ac"}')), ServerTrouble, "no token"),
    Case("a token that is a list", after_a_challenge(answer(b"[]")), ServerTrouble, "no token"),
    Case("a token too deep", after_a_challenge(answer(b"[" * 99_999)), ServerTrouble, "token answer"),
    Case("a folded redirect", sends(redirect("http://a\r\n b/")), NetworkTrouble, "asking 127.0.0.1|no address"),
    Case("a redirect nowhere", sends(redirect("http://[")), ServerTrouble, "no address"),
    Case("a redirect to no port", sends(redirect("http://127.0.0.1:99999/")), ServerTrouble, "no address"),
    Case("a redirect to no host", sends(redirect("http://" + "a" * 300 + "/")), ServerTrouble, "no address"),
    Case("a redirect to a file", sends(redirect("file:///etc/passwd")), ServerTrouble, "no address"),
    Case("a redirect of a megabyte", sends(redirect("/" + "a" * 60_000)), ServerTrouble, "no address"),
    Case("another protocol", sends(b"SSH-2.0-OpenSSH\r\n"), NetworkTrouble, "asking 127.0.0.1"),
    Case("headers without end", sends(OK, b"a: b\r\n" * 5_000), NetworkTrouble, "asking 127.0.0.1"),
    Case("a header without end", sends(OK, b"a" * 200_000), NetworkTrouble, "asking 127.0.0.1"),
    Case("chunks of no size", sends(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), NetworkTrouble, "asking 127"),
    Case("a wish beyond time", sends(answer(b"", "Retry-After: Mon, 01 Jan 1 00:00:00 +99999999999999999999",
                                            status=b"HTTP/1.1 429 No\r\n")), Trouble, "answers 429"),
    Case("a challenge of one word", sends(answer(b"", "WWW-Authenticate: Bearer " + "a" * 60_000,
                                                 status=b"HTTP/1.1 401 No\r\n")), Trouble, "wants a login"),
    Case("a page", sends(answer(b"<html>Sign in</html>")), Unsupported, "a web page"),
    Case("a torn manifest", sends(answer(MODEL.manifest.raw[:-9])), Corrupt, "torn"),
)  # fmt: skip


@pytest.mark.parametrize("client", ["our own", "httpx"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_odd_answer_is_trouble_with_a_name(case: Case, client: str) -> None:
    """Never a bug, never more than a bound in memory, and in its message no character that could do anything."""
    with Raw(case.script).answering() as double, httpx.Client(timeout=PATIENCE) as plain_client:
        more: dict[str, Any] = {"client": plain_client} if client == "httpx" else {}
        with pytest.raises(case.trouble, match=case.says) as raised:
            registry_of(double.url, **more).manifest(NAME)
    assert raised.value.failure_class in {"network", "refused", "corrupt", "auth"}
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1_500
    assert all("accept-encoding: identity" in head.lower() for head in double.heads)


def test_an_encoded_answer_is_not_decoded() -> None:
    """A kilobyte that stands for 64 MB takes no more memory than any other kilobyte."""
    with Raw(sends(answer(BOMB, TWICE))).answering() as double:
        tracemalloc.start()
        try:
            with pytest.raises(Unsupported):
                registry_of(double.url).manifest(NAME)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def drips(double: Raw, *parts: bytes) -> Script:
    """Something every moment, until nobody listens."""

    def script(connection: socket.socket, _: str) -> None:
        connection.sendall(parts[0])
        while not double.stopping.wait(0.02):
            connection.sendall(parts[1])

    return script


@pytest.mark.parametrize(
    "parts",
    [(OK + b"\r\n", b" "), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (OK, b"a: b\r\n"),
     (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n")],
    ids=["a body", "continue", "headers", "trailers"],
)  # fmt: skip
def test_a_manifest_in_drops_has_a_limit_for_the_whole(parts: tuple[bytes, bytes]) -> None:
    """A byte each moment is no stall; a minute after it was asked for, the manifest is given up: its slot is free."""
    clock = HandClock()
    double = Raw(lambda *_: None)
    double.script = drips(double, *parts)

    def pass_on() -> None:
        if double.paths:
            clock.tick(20)

    with double.answering(), pytest.raises(Trouble) as raised:
        registry_of(double.url, clock=clock).manifest(NAME, check=pass_on)
    assert raised.value.failure_class == "network"
    # A hundred headers are the most that is read of an answer, which may come first.
    assert isinstance(raised.value, Stalled) or parts[0] == OK


def test_a_blob_in_drops_is_given_up(tmp_path: Path) -> None:
    """Bytes that come one by one are no fetch: it ends like one that stalls, and keeps what came."""
    clock = HandClock()
    double = Raw(lambda *_: None)
    size = 40 << 20
    double.script = drips(double, OK + f"Content-Length: {size}\r\n\r\n".encode(), b"x")

    def pass_on() -> None:
        clock.tick(2 if double.paths else 0)

    layer = Layer("m", f"sha256:{'0' * 64}", size)
    with double.answering():
        fetch = registry_of(double.url, clock=clock, stall=timedelta(seconds=10)).fetch_all
        with pytest.raises(Stalled, match=r"only \d+ bytes came within \d+ seconds"):
            fetch(NAME, [layer], lambda _: tmp_path / "blob", progress=Progress(clock), check=pass_on)


def test_a_cancel_is_obeyed_while_it_drips() -> None:
    """Whatever comes, whoever cancels is heard within a moment."""
    double = Raw(lambda *_: None)
    double.script = drips(double, OK + b"\r\n", b" ")

    def cancel() -> None:
        if double.paths:
            raise Cancelled

    with double.answering(), pytest.raises(Cancelled):
        registry_of(double.url).manifest(NAME, check=cancel)


# -- where it sends us -------------------------------------------------------------------------------------------------

PRIVATE = ("127.0.0.2", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
           "[::1]", "[fe80::1]", "[fd00::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[2002:a00:1::]",
           "224.0.0.1", "localhost")  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_a_redirect_into_a_private_network_is_refused(host: str) -> None:
    """A plain registry cannot have a worker ask what stands beside it, by whatever number."""
    with Raw(sends(redirect(f"http://{host}:9/latest/meta-data"))).answering() as double:
        with pytest.raises(Unsupported, match="is no public address") as raised:
            registry_of(double.url, registries=Registries.of(["hf.co"], "in fleet.toml")).manifest(
                ModelName.parse("hf.co/a/b")
            )
        assert len(double.paths) == 1
    assert "list it" in str(raised.value.hint)


@pytest.mark.parametrize("name", ["127.1", "2130706434", "0x7f000002"])
@pytest.mark.parametrize("client", ["our own", "httpx"])
def test_a_name_that_leads_there_is_found_out_before_a_byte_is_sent(name: str, client: str) -> None:
    """What a resolver makes of a name counts, and not how it looks; nothing is said to who is there."""
    with Raw(sends(answer(b"secret"))).answering() as inside:
        location = f"http://{name}:{inside.port}/secret"
        with socket.create_server(("127.0.0.2", 0)) as other:
            target = location if name == "127.1" else f"http://{name}:{other.getsockname()[1]}/secret"
            with Raw(sends(redirect(target))).answering() as double, httpx.Client(timeout=PATIENCE) as plain_client:
                more: dict[str, Any] = {"client": plain_client} if client == "httpx" else {}
                with pytest.raises(Unsupported, match="is no public address"):
                    registry_of(double.url, **more).manifest(NAME)
        assert inside.heads == []


def test_what_is_listed_and_the_registry_itself_may_be_private() -> None:
    """A registry in a private network redirects to another port of its own, or to what the operator lists beside it."""
    base = httpx.URL("http://10.0.0.1:5000")
    egress = Egress(base, Registries.of(["10.0.0.1:5000", "http://store.lan:9000", "10.0.0.3"]))
    for allowed in ("http://10.0.0.1:6000/x", "http://store.lan:9000/x", "https://10.0.0.3/x", "https://8.8.8.8/x"):
        egress.need(httpx.URL(allowed))
        egress.need_peer(httpx.URL(allowed), "8.8.8.8" if "8.8" in allowed else "10.0.0.9")
    for refused in ("http://store.lan/x", "http://store.lan:9001/x", "https://elsewhere.example/x"):
        egress.need(httpx.URL(refused))
        with pytest.raises(Unsupported):
            egress.need_peer(httpx.URL(refused), "10.0.0.9")
    Egress(base, ANYWHERE, sees_peers=False).need_peer(httpx.URL("https://elsewhere.example/"), "10.0.0.9")


@given(st.ip_addresses())
def test_what_is_public_is_public_to_the_library_too(address: object) -> None:
    """No address that the library calls private, local or reserved passes for a public one."""
    if is_public(str(address)):
        assert not any(getattr(address, f"is_{kind}") for kind in ("private", "loopback", "link_local", "multicast"))


@pytest.mark.parametrize("text", ["http://a..b/", "ftp://a/", "http://a:0/", "https://" + "a." * 150 + "b/"])
def test_an_address_has_flaws(text: str) -> None:
    """What no resolver takes is told before one is asked."""
    assert flaw(httpx.URL(text))


def test_a_name_too_long_for_a_resolver_is_no_bug() -> None:
    """The grammar of names allows hosts that no resolver takes; they are refused as names."""
    name = ModelName.parse(f"{'a' * 100}.example/b/c")
    with pytest.raises(Trouble) as raised:
        Registry(requests=NEVER).manifest(name)
    assert raised.value.failure_class == "refused"


def test_no_cookie_is_kept(tmp_path: Path) -> None:
    """A registry that sets cookies with every answer gets none back."""
    body = b"walnut"
    layer = Layer("m", f"sha256:{'0' * 64}", len(body))
    with Raw(sends(answer(body, "Set-Cookie: a=b", f"Docker-Content-Digest: {layer.digest}"))).answering() as double:
        for _ in range(2):
            with suppress(Trouble):
                registry_of(double.url).fetch_all(
                    NAME, [layer], lambda _: tmp_path / "blob", progress=Progress(SystemClock())
                )
    assert len(double.heads) == 2
    assert not [head for head in double.heads if "cookie" in head.lower()]


def _lengths(values: Sequence[str]) -> bytes:
    return "".join(f"Content-Length: {each}\r\n" for each in values).encode()


@pytest.mark.parametrize("values", [["6", "7"], ["6", "6"], ["-1"], ["6 "], ["9" * 30], ["+6"]])
def test_a_blob_with_an_odd_length_is_trouble(tmp_path: Path, values: list[str]) -> None:
    """Whatever stands for a length, a blob's answer ends in trouble that can be tried again, or in its bytes."""
    layer = Layer("m", f"sha256:{'0' * 64}", 6)
    script = sends(OK + _lengths(values) + b"Connection: close\r\n\r\nwalnut")
    with Raw(script).answering() as double, pytest.raises(Trouble) as raised:
        registry_of(double.url).fetch_all(NAME, [layer], lambda _: tmp_path / "blob", progress=Progress(SystemClock()))
    assert raised.value.failure_class in {"network", "corrupt"}
    assert json.dumps(str(raised.value)).isascii()
