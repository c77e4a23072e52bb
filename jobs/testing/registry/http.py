"""The registry double's HTTP: finds the route, lets faults strike, sends bodies as the faults leave them."""

import hashlib
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

from jobs.testing.http_server import DoubleHandler, DoubleServer, HangUp
from jobs.testing.models import MANIFEST_TYPE, SimLayer
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.stock import RegistryStock, RequestSeen

NEWER_OLLAMA = (
    "\n\nThe model you are attempting to pull requires a newer version of Ollama.\n\n"
    "Please download the latest version at:\n\n\thttps://ollama.com/download\n\n"
)

_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}


class RegistryServer(DoubleServer):
    def __init__(self, stock: RegistryStock, port: int) -> None:
        self.stock = stock
        super().__init__(("127.0.0.1", port), _RegistryHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.stock.count(connections=1)
        super().process_request(request, client_address)


class _RegistryHandler(DoubleHandler):
    server_version = "jobs.testing.registry"

    @property
    def stock(self) -> RegistryStock:
        return cast("RegistryServer", self.server).stock

    def _add_fault(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if urlsplit(self.path).path != "/_faults":
            return self._send(404)
        try:
            self.stock.faults.add(RegistryFault.from_json(json.loads(body)))
        except (ValueError, TypeError) as error:
            return self._send_json(400, {"error": str(error)})
        return self._send(204)

    def _clear_faults(self) -> None:
        self.stock.faults.clear()
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
                self._send_json(200, self.stock.counters())
            case _:
                self._send(404, b"404 page not found\n")

    do_HEAD = do_GET = _answer  # noqa: N815 - as http.server names them
    do_POST = _add_fault  # noqa: N815
    do_DELETE = _clear_faults  # noqa: N815

    # Routes

    def _manifest(self, repository: str, reference: str) -> None:
        faults = self._seen("manifest", reference)
        if self._is_struck(faults) or not self._is_allowed(repository):
            return
        raw = self.stock.manifest(repository, reference)
        if raw is None:
            self._send_error(404)
            return
        headers = {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": f"sha256:{hashlib.sha256(raw).hexdigest()}"}
        layer = SimLayer(MANIFEST_TYPE, len(raw), text=raw)
        self._send_body(layer, headers, faults)

    def _blob(self, digest: str) -> None:
        faults = self._seen("blob", digest)
        repository = self.path.removeprefix("/v2/").rpartition("/blobs/")[0]
        if self._is_struck(faults) or not self._is_allowed(repository):
            return
        layer = self.stock.blob(digest)
        if layer is None:
            self._send_error(404, "BLOB_UNKNOWN")
        elif self.stock.redirect:
            self._send(307, headers={"Location": self.stock.signed(digest), "Docker-Content-Digest": digest})
        else:
            self._send_body(layer, {"Docker-Content-Digest": digest}, faults, digest)

    def _cdn(self, digest: str, query: str) -> None:
        faults = self._seen("cdn", digest)
        layer = self.stock.blob(digest)
        if self._is_struck(faults):
            return
        if layer is None or not self.stock.is_signed(digest, query):
            self._send(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
            return
        if "expire" in faults:
            self.stock.expire(digest)
        self._send_body(layer, {}, faults, digest)

    def _token(self) -> None:
        if not self._is_struck(self._seen("token")):
            self._send_json(200, {"token": self.stock.token, "expires_in": 300})

    def _seen(self, route: str, digest: str | None = None) -> dict[str, RegistryFault]:
        get = self.headers.get
        seen = RequestSeen(self.command, route, self.path, get("Range"), get("Authorization"), get("User-Agent"))
        self.stock.count(seen=seen)
        return self.stock.faults.strike(route, digest)

    def _is_struck(self, faults: dict[str, RegistryFault]) -> bool:
        if "silent" in faults:
            self.stock.stopping.wait()
            raise HangUp
        if fault := faults.get("status"):
            challenge = self._challenge() if fault.challenge else None
            self._send_error(fault.value, retry_after=fault.retry_after, challenge=challenge)
            return True
        return False

    def _is_allowed(self, repository: str = "") -> bool:
        if not self.stock.wants_token or self.headers.get("Authorization") == f"Bearer {self.stock.token}":
            return True
        self._send_error(401, challenge=self._challenge(repository))
        return False

    def _challenge(self, repository: str = "") -> str:
        realm = self.stock.realm or f"{self.stock.url}/token"
        scope = f',scope="repository:{repository}:pull"' if repository else ""
        return f'Bearer realm="{realm}",service="double"{scope}'

    # Answers

    def _send_body(
        self, layer: SimLayer, headers: dict[str, str], faults: dict[str, RegistryFault], digest: str = ""
    ) -> None:
        start, stop = 0, layer.size
        asked_range = None if "whole" in faults else _parse_range(self.headers.get("Range"), layer.size)
        if asked_range is not None:
            start, stop = asked_range
            if start >= layer.size:
                self._send(416, headers={"Content-Range": f"bytes */{layer.size}"})
                return
            offset = faults["shift"].value if "shift" in faults else 0
            headers["Content-Range"] = f"bytes {start + offset}-{stop - 1 + offset}/{layer.size}"
        if "short" in faults:
            stop -= faults["short"].value
        self.send_response(200 if asked_range is None else 206)
        headers |= {"Content-Length": str(stop - start), "Accept-Ranges": "bytes"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send_bytes(layer, start, stop, faults, digest)

    def _send_bytes(
        self, layer: SimLayer, start: int, stop: int, faults: dict[str, RegistryFault], digest: str
    ) -> None:
        file = self.stock.files / digest.replace(":", "-") if self.stock.files and digest else None
        if file and not faults and not self.stock.throttle.bytes_per_second and file.exists():
            with file.open("rb") as opened:
                self.connection.sendfile(opened, start, stop - start)
            self.stock.count(served=(digest, stop - start))
            return
        sent = 0
        for chunk in self._spoilt(layer.chunks(start, stop), faults):
            self.stock.clock.wait(self.stock.throttle.reserve(len(chunk)), self.stock.stopping)
            self.wfile.write(chunk)
            sent += len(chunk)
            self.stock.count(served=(digest, len(chunk)))
        if "hang" in faults and sent < stop - start:
            self.stock.stopping.wait()
        if sent < stop - start:
            raise HangUp

    def _spoilt(self, chunks: Iterator[bytes], faults: dict[str, RegistryFault]) -> Iterator[bytes]:
        """The body's chunks as the faults leave them, in pieces that suit a slow or cut answer."""
        at = 0
        limits = [faults[kind].value for kind in ("cut", "hang") if kind in faults]
        for piece in self._pieces(chunks, faults):
            start, chunk = at, piece
            at += len(chunk)
            if "flip" in faults and start <= faults["flip"].value < at:
                flipped = faults["flip"].value - start
                chunk = chunk[:flipped] + bytes([chunk[flipped] ^ 0xFF]) + chunk[flipped + 1 :]
            if limits and at >= min(limits):
                yield chunk[: min(limits) - start]
                return
            yield chunk

    def _pieces(self, chunks: Iterator[bytes], faults: dict[str, RegistryFault]) -> Iterator[bytes]:
        crawl = faults["crawl"].value if "crawl" in faults else None
        rate = crawl or self.stock.throttle.bytes_per_second
        size = max(1, rate // 20) if rate else 1 << 20
        for chunk in chunks:
            for at in range(0, len(chunk), size):
                if crawl:
                    self.stock.clock.wait(min(size, len(chunk) - at) / crawl, self.stock.stopping)
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
