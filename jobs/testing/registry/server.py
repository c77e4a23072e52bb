"""A model registry over real sockets, for tests, benchmarks and the demo: `python -m jobs.testing.registry --port 0`.

    GET, HEAD /v2/…/manifests/<tag or digest>    GET, HEAD /v2/…/blobs/<digest> -> 307 to the CDN
    GET /token (when it asks for one)             GET, HEAD /cdn/<digest>?… on a port of its own, signed, expiring
    POST, DELETE /_faults   GET /_counters

It speaks the protocol of registry.ollama.ai as far as pulling goes, counts what it serves, and misbehaves on demand.
It holds no weights: blobs are made as they are sent, or sent from files. It never listens beyond loopback.
"""

import argparse
import hashlib
import json
import secrets
import signal
import socket
import socketserver
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self, cast
from urllib.parse import parse_qs, urlsplit

from jobs.core.clock import Clock, SystemClock
from jobs.testing.models import LIBRARY, MANIFEST_TYPE, SimLayer, SimModel
from jobs.testing.registry.faults import RegistryFault, RegistryFaults, Throttle

NEWER_OLLAMA = (
    "\n\nThe model you are attempting to pull requires a newer version of Ollama.\n\n"
    "Please download the latest version at:\n\n\thttps://ollama.com/download\n\n"
)

_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}


@dataclass(frozen=True)
class RequestSeen:
    """One request as it came in."""

    method: str
    route: str
    path: str
    range: str | None
    authorization: str | None
    user_agent: str | None


class RegistryDouble:
    """The registry and its CDN, each on a port of its own. Start it, or use it as a context manager.

    Args:
        models: what it holds.
        port: the registry's; 0 picks a free one.
        redirect: blobs are answered with 307 to a signed address on the CDN, as the real one does.
        token: manifests and blobs want a bearer token, which anyone gets from `/token`.
        realm: where the challenge points to, when not to this registry's own `/token`.
        signature_seconds: how long a signed address is good.
        throttle: bytes per second, shared by all answers.
        files: a folder where blobs lie as `sha256-<hex>`; those found are sent by the kernel.

    """

    def __init__(
        self,
        models: Iterable[SimModel] = LIBRARY,
        *,
        port: int = 0,
        redirect: bool = True,
        token: bool = False,
        realm: str | None = None,
        signature_seconds: float = 3600,
        throttle: int | None = None,
        files: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.redirect = redirect
        self.wants_token = token
        self.realm = realm
        self.signature_seconds = signature_seconds
        self.throttle = Throttle(throttle, self.clock)
        self.files = files
        self.faults = RegistryFaults()
        self.token = secrets.token_hex(16)
        self.stopping = threading.Event()
        self._models = {(model.name.repository, model.name.tag): model for model in models}
        self._blobs: dict[str, SimLayer] = {}
        self._manifests: dict[str, bytes] = {}
        self._key = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._port = port
        self._servers: list[_Server] = []
        self._threads: list[threading.Thread] = []
        self.reset()

    # What it holds

    def put(self, model: SimModel) -> None:
        """Publish a model, or a newer version of one: its tag moves."""
        with self._lock:
            self._models[model.name.repository, model.name.tag] = model

    def manifest(self, repository: str, reference: str) -> bytes | None:
        """By tag, or by digest within the repository."""
        if not reference.startswith("sha256:"):
            model = self._models.get((repository, reference))
            return model.manifest if model else None
        of_repository = (model for (name, _), model in self._models.items() if name == repository)
        return next((model.manifest for model in of_repository if f"sha256:{model.digest}" == reference), None)

    def blob(self, digest: str) -> SimLayer | None:
        with self._lock:
            if digest not in self._blobs:  # hashing the stock takes a moment, so it waits for the first question
                for model in self._models.values():
                    self._blobs.update(model.blobs)
            return self._blobs.get(digest)

    def write_files(self, folder: Path) -> None:
        """Put every blob into `folder`, to be sent from there by the kernel."""
        for model in self._models.values():
            for digest, layer in model.blobs.items():
                with (folder / digest.replace(":", "-")).open("wb") as file:
                    file.writelines(layer.chunks())
        self.files = folder

    # Signed addresses

    def signed(self, digest: str) -> str:
        expires = self.clock.now().timestamp() + self.signature_seconds
        return f"{self.cdn_url}/cdn/{digest}?expires={expires}&signature={self._signature(digest, str(expires))}"

    def is_signed(self, digest: str, query: str) -> bool:
        given = {key: values[0] for key, values in parse_qs(query).items()}
        expires = given.get("expires", "0")
        in_time = self.clock.now().timestamp() < float(expires)
        return in_time and given.get("signature") == self._signature(digest, expires)

    def expire(self) -> None:
        """Refuse every address signed so far."""
        self._key = secrets.token_hex(16)

    def _signature(self, digest: str, expires: str) -> str:
        return hashlib.sha256(f"{self._key} {digest} {expires}".encode()).hexdigest()

    # What it counts

    def reset(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self.served: Counter[str] = Counter()
            self.requests: Counter[str] = Counter()
            self.seen: deque[RequestSeen] = deque(maxlen=10_000)
            self.connections = 0

    def count(
        self, *, seen: RequestSeen | None = None, served: tuple[str, int] | None = None, connections: int = 0
    ) -> None:
        with self._lock:
            self.connections += connections
            if seen:
                self.seen.append(seen)
                self.requests[seen.route] += 1
            if served and served[0]:  # manifests are no blobs
                self.served[served[0]] += served[1]

    def counters(self) -> dict[str, Any]:
        with self._lock:
            return {
                "served": dict(self.served),
                "requests": dict(self.requests),
                "connections": self.connections,
            }

    # Start and stop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def start(self) -> Self:
        self.stopping.clear()
        self._servers = [_Server(self, self._port), _Server(self, 0)]
        self._threads = [threading.Thread(target=each.serve_forever, args=(0.02,)) for each in self._servers]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Close every connection and join every thread."""
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
        self.hang_up()
        for server in self._servers:
            server.server_close()
        for thread in self._threads:
            thread.join()

    def hang_up(self) -> None:
        """Close every connection that is open, as a restarted registry would; new ones are welcome."""
        for server in self._servers:
            server.hang_up()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close joins them
    request_queue_size = 128

    def __init__(self, double: RegistryDouble, port: int) -> None:
        self.double = double
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _RegistryHandler)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.double.count(connections=1)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _HangUp(Exception):
    """Close this connection now."""


class _RegistryHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "jobs.testing.registry"
    quiet: ClassVar[bool] = True

    @property
    def double(self) -> RegistryDouble:
        return cast("_Server", self.server).double

    def handle(self) -> None:
        with suppress(ConnectionError, _HangUp):
            super().handle()

    def log_message(self, *_: Any) -> None:
        """The counters tell more."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if urlsplit(self.path).path != "/_faults":
            return self._send(404)
        try:
            self.double.faults.add(RegistryFault.from_json(json.loads(body)))
        except (ValueError, TypeError) as error:
            return self._send_json(400, {"error": str(error)})
        return self._send(204)

    def do_DELETE(self) -> None:
        self.double.faults.clear()
        self._send(204)

    def _answer(self) -> None:
        address = urlsplit(self.path)
        match address.path.strip("/").split("/"):
            case ["v2"]:
                self._seen("v2")
                if self._is_allowed():
                    self._send_json(200, {})
            case ["v2", *repository, "manifests", reference]:
                self._manifest("/".join(repository), reference)
            case ["v2", *_, "blobs", digest]:
                self._blob(digest)
            case ["cdn", digest]:
                self._cdn(digest, address.query)
            case ["token"]:
                self._token()
            case ["_counters"]:
                self._send_json(200, self.double.counters())
            case _:
                self._send(404, b"404 page not found\n")

    # Routes

    def _manifest(self, repository: str, reference: str) -> None:
        faults = self._seen("manifest", reference)
        if self._is_struck(faults) or not self._is_allowed(repository):
            return
        raw = self.double.manifest(repository, reference)
        if raw is None:
            self._send_error(404)
            return
        headers = {
            "Content-Type": MANIFEST_TYPE,
            "Docker-Content-Digest": f"sha256:{hashlib.sha256(raw).hexdigest()}",
        }
        layer = SimLayer(MANIFEST_TYPE, len(raw), text=raw)
        self._send_body(layer, headers, faults)

    def _blob(self, digest: str) -> None:
        faults = self._seen("blob", digest)
        repository = self.path.removeprefix("/v2/").rpartition("/blobs/")[0]
        if self._is_struck(faults) or not self._is_allowed(repository):
            return
        layer = self.double.blob(digest)
        if layer is None:
            self._send_error(404, "BLOB_UNKNOWN")
        elif self.double.redirect:
            self._send(307, headers={"Location": self.double.signed(digest), "Docker-Content-Digest": digest})
        else:
            self._send_body(layer, {"Docker-Content-Digest": digest}, faults, digest)

    def _cdn(self, digest: str, query: str) -> None:
        faults = self._seen("cdn", digest)
        layer = self.double.blob(digest)
        if self._is_struck(faults):
            return
        if layer is None or not self.double.is_signed(digest, query):
            self._send(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
            return
        if "expire" in faults:
            self.double.expire()
        self._send_body(layer, {}, faults, digest)

    def _token(self) -> None:
        if not self._is_struck(self._seen("token")):
            self._send_json(200, {"token": self.double.token, "expires_in": 300})

    def _seen(self, route: str, digest: str | None = None) -> dict[str, RegistryFault]:
        get = self.headers.get
        seen = RequestSeen(self.command, route, self.path, get("Range"), get("Authorization"), get("User-Agent"))
        self.double.count(seen=seen)
        return self.double.faults.strike(route, digest)

    def _is_struck(self, faults: dict[str, RegistryFault]) -> bool:
        if "silent" in faults:
            self.double.stopping.wait()
            raise _HangUp
        if fault := faults.get("status"):
            challenge = self._challenge() if fault.challenge else None
            self._send_error(fault.value, retry_after=fault.retry_after, challenge=challenge)
            return True
        return False

    def _is_allowed(self, repository: str = "") -> bool:
        double = self.double
        if not double.wants_token or self.headers.get("Authorization") == f"Bearer {double.token}":
            return True
        self._send_error(401, challenge=self._challenge(repository))
        return False

    def _challenge(self, repository: str = "") -> str:
        realm = self.double.realm or f"{self.double.url}/token"
        scope = f',scope="repository:{repository}:pull"' if repository else ""
        return f'Bearer realm="{realm}",service="double"{scope}'

    # Answers

    def _send_body(
        self, layer: SimLayer, headers: dict[str, str], faults: dict[str, RegistryFault], digest: str = ""
    ) -> None:
        start, stop = 0, layer.size
        asked = None if "whole" in faults else _parse_range(self.headers.get("Range"), layer.size)
        if asked is not None:
            start, stop = asked
            if start >= layer.size:
                self._send(416, headers={"Content-Range": f"bytes */{layer.size}"})
                return
            shift = faults["shift"].value if "shift" in faults else 0
            headers["Content-Range"] = f"bytes {start + shift}-{stop - 1 + shift}/{layer.size}"
        if "short" in faults:
            stop -= faults["short"].value
        self.send_response(200 if asked is None else 206)
        headers |= {"Content-Length": str(stop - start), "Accept-Ranges": "bytes"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send_bytes(layer, start, stop, faults, digest)

    def _send_bytes(
        self, layer: SimLayer, start: int, stop: int, faults: dict[str, RegistryFault], digest: str
    ) -> None:
        file = self.double.files / digest.replace(":", "-") if self.double.files and digest else None
        if file and not faults and not self.double.throttle.bytes_per_second and file.exists():
            with file.open("rb") as opened:
                self.connection.sendfile(opened, start, stop - start)
            self.double.count(served=(digest, stop - start))
            return
        sent = 0
        for chunk in self._spoilt(layer.chunks(start, stop), faults):
            self.double.clock.wait(self.double.throttle.delay(len(chunk)), self.double.stopping)
            self.wfile.write(chunk)
            sent += len(chunk)
            self.double.count(served=(digest, len(chunk)))
        if "hang" in faults and sent < stop - start:
            self.double.stopping.wait()
        if sent < stop - start:
            raise _HangUp

    def _spoilt(self, chunks: Iterator[bytes], faults: dict[str, RegistryFault]) -> Iterator[bytes]:
        """The body's chunks as the faults leave them, in pieces that suit a slow or cut answer."""
        at = 0
        limits = [faults[kind].value for kind in ("cut", "hang") if kind in faults]
        for piece in self._pieces(chunks, faults):
            here, chunk = at, piece
            at += len(chunk)
            if "flip" in faults and here <= faults["flip"].value < at:
                place = faults["flip"].value - here
                chunk = chunk[:place] + bytes([chunk[place] ^ 0xFF]) + chunk[place + 1 :]
            if limits and at >= min(limits):
                yield chunk[: min(limits) - here]
                return
            yield chunk

    def _pieces(self, chunks: Iterator[bytes], faults: dict[str, RegistryFault]) -> Iterator[bytes]:
        crawl = faults["crawl"].value if "crawl" in faults else None
        rate = crawl or self.double.throttle.bytes_per_second
        size = max(1, rate // 20) if rate else 1 << 20
        for chunk in chunks:
            for at in range(0, len(chunk), size):
                if crawl:
                    self.double.clock.wait(min(size, len(chunk) - at) / crawl, self.double.stopping)
                yield chunk[at : at + size]

    def _send_error(
        self, status: int, code: str | None = None, *, retry_after: int | None = None, challenge: str | None = None
    ) -> None:
        headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        if challenge:
            headers["WWW-Authenticate"] = challenge
        if status == 412:
            self._send(412, NEWER_OLLAMA.encode(), headers | {"Content-Type": "text/plain; charset=utf-8"})
            return
        reason = HTTPStatus(status).phrase.lower()
        error = {"code": code or _CODES.get(status, "UNKNOWN"), "message": reason, "detail": {}}
        self._send_json(status, {"errors": [error]}, headers)

    def _send_json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(document).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and body:
            self.wfile.write(body)


def _parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a single `bytes=a-b`; None when there is none we honour."""
    unit, _, span = (header or "").partition("=")
    first, dash, last = span.partition("-")
    if unit != "bytes" or not dash or not first.isdecimal() or not (last.isdecimal() or not last):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def main() -> None:
    """Serve until a signal; the address stands on stdout's first line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.testing.registry", description="A registry that simulates.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--throttle", type=int, metavar="BYTES", help="bytes per second, all answers together")
    parser.add_argument("--files", type=Path, help="a folder with blobs as sha256-<hex>, sent by the kernel")
    parser.add_argument("--token", action="store_true", help="ask for a bearer token")
    given = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with RegistryDouble(port=given.port, throttle=given.throttle, files=given.files, token=given.token) as double:
        print(double.url, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
