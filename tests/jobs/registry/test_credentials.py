"""A token of the operator's, registries that refuse us in words of their own, and TLS that does not fit; over real
sockets, with a certificate made here."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest, Misconfigured, Trouble, Unauthorized
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.core.retry import AT_ONCE
from jobs.registry.allowlist import Registries
from jobs.registry.client import Registry
from jobs.registry.mirror import tokens
from jobs.testing.models import SimModel, arbitrary
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.tls import self_signed, tls_before
from tests.support.waiting import PATIENCE

TOKEN = "hf_aSecretOfTheOperator"
HOSTS = ("hf.test", "cdn.test")


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosts of these tests are this machine."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host in HOSTS else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def port_of(url: str) -> int:
    return httpx.URL(url).port or 0


class Bench:
    """A registry at https://hf.test:PORT, whose blobs come from https://cdn.test:PORT."""

    def __init__(self, double: RegistryDouble, model: SimModel, port: int, cdn_port: int) -> None:
        self.double, self.model = double, model
        self.host = f"hf.test:{port}"
        self.name = ModelName.parse(f"{self.host}/library/odd")
        self.listed = Registries.of([self.host, f"cdn.test:{cdn_port}"])
        double.cdn_url = f"https://cdn.test:{cdn_port}"

    def registry(self, **more: Any) -> Registry:
        usual: dict[str, Any] = {"registries": self.listed, "requests": AT_ONCE, "policy": AT_ONCE}
        return Registry(**usual | more)

    def sent(self, *routes: str) -> set[str | None]:
        return {each.authorization for each in self.double.seen if each.route in routes}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path, HOSTS)


@pytest.fixture
def bench(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    model = arbitrary("odd", 200_000, layers=2)
    with ExitStack() as closing:
        double = closing.enter_context(RegistryDouble([model]))
        ports = [closing.enter_context(tls_before(port_of(url), certificate)) for url in (double.url, double.cdn_url)]
        yield Bench(double, model, *ports)


def pull(bench: Bench, registry: Registry, folder: Path) -> None:
    manifest = registry.manifest(bench.name)
    registry.fetch_all(
        bench.name, manifest.blobs, lambda layer: folder / layer.filename, progress=Progress(SystemClock())
    )


# -- a token of the operator's -----------------------------------------------------------------------------------------


def test_a_token_opens_a_gated_model_and_goes_to_its_host_alone(bench: Bench, tmp_path: Path) -> None:
    """With the operator's token the model comes; the host that its blobs are redirected to never sees it, and no log
    does."""
    bench.double.wants_token, bench.double.token = True, TOKEN
    log = io.StringIO()
    sink = logger.add(log, level=0, diagnose=False)
    try:
        pull(bench, bench.registry(tokens={bench.host: TOKEN}), tmp_path)
    finally:
        logger.remove(sink)
    assert bench.sent("manifest", "blob") == {f"Bearer {TOKEN}"}
    assert bench.sent("cdn") == {None}
    assert bench.double.requests["token"] == 0
    assert TOKEN not in log.getvalue()


def test_a_token_is_kept_from_any_other_host(bench: Bench) -> None:
    """Neither another registry, nor a mirror in place of the host, nor the host over http is sent it."""
    other = bench.registry(tokens={"hf.co": TOKEN})
    other.manifest(bench.name)
    plain = f"127.0.0.1:{port_of(bench.double.url)}"
    bench.registry(tokens={plain: TOKEN}, registries=Registries()).manifest(ModelName.parse(f"{plain}/library/odd"))
    mirrored = bench.registry(
        tokens={"hf.co": TOKEN}, mirrors={"*": f"https://{bench.host}"}, registries=Registries.of(["hf.co"])
    )
    mirrored.manifest(ModelName.parse("hf.co/library/odd"))
    assert bench.double.requests["manifest"] == 3
    assert bench.sent("manifest") == {None}


def test_a_token_that_is_refused_leaves_what_is_public(bench: Bench, tmp_path: Path) -> None:
    """A registry that hands out tokens of its own to anybody is asked with one, where it refuses ours."""
    bench.double.wants_token = True
    bench.double.realm = f"https://{bench.host}/token"
    pull(bench, bench.registry(tokens={bench.host: TOKEN}), tmp_path)
    assert bench.sent("token") == {None}


def test_the_environments_token_is_for_hugging_face() -> None:
    """HF_TOKEN counts for both of its names; what can be no token is refused without telling it."""
    assert tokens({}) == tokens({"HF_TOKEN": " "}) == {}
    assert tokens({"HF_TOKEN": f" {TOKEN}\n"}) == {"hf.co": TOKEN, "huggingface.co": TOKEN}
    with pytest.raises(BadRequest, match="HF_TOKEN holds no token") as refused:
        tokens({"HF_TOKEN": "two words"})
    assert "words" not in str(refused.value)


# -- refused in words of their own -------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: bytes, headers: str = "") -> Iterator[int]:
    """A server that has this one answer for everything."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                accepted.recv(65_536)
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
                accepted.sendall(head.encode() + body)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)


OCI = json.dumps({"errors": [{"code": "DENIED", "message": "requested access is denied"}]}).encode()
GATED = b'{"error":"Access to model x/y is restricted. You must be authenticated to access it."}'


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (OCI, "", ": requested access is denied"),
        (GATED, "", ": Access to model x/y is restricted. You must be authenticated to access it."),
        (b"{}", "X-Error-Message: Invalid username or password.\r\n", ": Invalid username or password."),
        (b'{"errors":[{"code":"DENIED"}]}', "", ": DENIED"),
        (b"no entry\n", "", ": no entry"),
        (b"", "", ""),
        (b'{"errors":[7]}', "", ': {"errors":[7]}'),
    ],
)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_in_the_registrys_words(status: int, body: bytes, headers: str, says: str) -> None:
    """Class `auth`, one attempt, with the sentence in which the registry said why."""
    with answering(status, body, headers) as port, pytest.raises(Unauthorized) as refused:
        Registry(requests=AT_ONCE).manifest(ModelName.parse(f"127.0.0.1:{port}/x/y"))
    assert str(refused.value).endswith(f"'127.0.0.1:{port}/x/y:latest'{says}" if status == 401 else f"y:latest{says}")
    assert (refused.value.failure_class, refused.value.can_retry) == ("auth", False)


def test_hugging_face_is_refused_with_its_remedy(bench: Bench) -> None:
    """Whoever has no token is told where one goes and where a gated model's terms are; whoever has one, that it was
    sent."""
    mirrored = {"mirrors": {"*": f"https://{bench.host}"}, "registries": Registries.of(["hf.co"])}
    bench.double.faults.add(RegistryFault("manifest", "status", 403, times=None))
    with pytest.raises(Unauthorized) as refused:
        bench.registry(**mirrored).manifest(ModelName.parse("hf.co/meta/llama-GGUF"))
    assert "HF_TOKEN" in str(refused.value.hint)
    assert "https://huggingface.co/meta/llama-GGUF" in str(refused.value.hint)
    with pytest.raises(Unauthorized) as refused:
        bench.registry(tokens={bench.host: TOKEN}).manifest(bench.name)
    assert "it was sent" in str(refused.value.hint)
    assert TOKEN not in f"{refused.value} {refused.value.hint}"


# -- TLS that does not fit ---------------------------------------------------------------------------------------------


def misconfigured(registry: Registry, name: str) -> Trouble:
    with pytest.raises(Misconfigured) as refused:
        registry.manifest(ModelName.parse(name))
    assert (refused.value.failure_class, refused.value.can_retry) == ("refused", False)
    return refused.value


def test_a_certificate_that_nobody_trusts_is_configuration(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt, with the variable that has us trust it; once that is set, the registry is asked."""
    trusted = bench.registry()
    assert trusted.manifest(bench.name)
    monkeypatch.delenv("SSL_CERT_FILE")
    refused = misconfigured(bench.registry(), str(bench.name))
    assert "certificate" in str(refused)
    assert "SSL_CERT_FILE" in str(refused.hint)


def test_https_to_a_port_that_speaks_http_is_configuration(bench: Bench) -> None:
    """One attempt, with the entry that has the registry asked over http."""
    host = f"hf.test:{port_of(bench.double.url)}"
    refused = misconfigured(bench.registry(registries=Registries.of([host])), f"{host}/library/odd")
    assert "with http://" in str(refused.hint)
    assert bench.registry(registries=Registries.of([f"http://{host}"])).manifest(ModelName.parse(f"{host}/library/odd"))


def test_http_to_a_port_that_speaks_https_is_configuration(bench: Bench) -> None:
    """One attempt, whether the other side hangs up or says so; the entry loses its http://."""
    refused = misconfigured(bench.registry(registries=Registries.of([f"http://{bench.host}"])), str(bench.name))
    assert "take http:// from" in str(refused.hint)
    words = b"Client sent an HTTP request to an HTTPS server.\n"
    with answering(400, words) as port:
        refused = misconfigured(Registry(requests=AT_ONCE), f"127.0.0.1:{port}/x/y")
    assert "HTTPS server" in str(refused)
