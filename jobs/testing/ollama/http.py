"""The simulator's HTTP front: finds the route, lets faults strike, sends answers piece by piece.

It refuses what the real one refuses before any route is reached: foreign Host and Origin headers on loopback.
"""

import ipaddress
import json
import os
import re
import select
import socket
import threading
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from jobs.testing.http_server import DoubleHandler, DoubleServer, HangUp
from jobs.testing.ollama import anthropic_routes as anthropic
from jobs.testing.ollama import native_routes as native
from jobs.testing.ollama import openai_routes as openai
from jobs.testing.ollama import responses_routes as responses
from jobs.testing.ollama.faults import OllamaFault, OllamaFaultKind, SimError
from jobs.testing.ollama.go_formats import SAYS
from jobs.testing.ollama.requests import Reply, Request, SimulatorAnswer, SimulatorParts, Stream, as_json

SimulatorRoute = Callable[[SimulatorParts, Request], SimulatorAnswer]

ROUTES: dict[str, dict[str, SimulatorRoute]] = {
    "/": {"HEAD": native.root, "GET": native.root},
    "/api/version": {"HEAD": native.version, "GET": native.version},
    "/api/status": {"GET": native.status},
    "/api/tags": {"HEAD": native.tags, "GET": native.tags},
    "/api/ps": {"GET": native.ps},
    "/api/show": {"POST": native.show},
    "/api/pull": {"POST": native.pull},
    "/api/push": {"POST": native.push},
    "/api/create": {"POST": native.create},
    "/api/copy": {"POST": native.copy},
    "/api/delete": {"DELETE": native.delete},
    "/api/generate": {"POST": native.generate},
    "/api/chat": {"POST": native.chat},
    "/api/embed": {"POST": native.embed},
    "/api/embeddings": {"POST": native.embeddings},
    "/api/me": {"POST": native.account},
    "/api/signout": {"POST": native.signout},
    "/api/experimental/web_search": {"POST": native.web},
    "/api/experimental/web_fetch": {"POST": native.web},
    "/api/experimental/model-recommendations": {"GET": native.recommendations},
    "/v1/models": {"GET": openai.models},
    "/v1/chat/completions": {"POST": openai.chat_completions},
    "/v1/completions": {"POST": openai.completions},
    "/v1/embeddings": {"POST": openai.embeddings},
    "/v1/responses": {"POST": responses.responses},
    "/v1/messages": {"POST": anthropic.messages},
}
_BELOW: dict[str, dict[str, SimulatorRoute]] = {
    "/api/blobs/": {"HEAD": native.head_blob},
    "/v1/models/": {"GET": openai.model},
}
_PREFLIGHT = {
    "Access-Control-Allow-Headers": "Authorization,Content-Type,User-Agent,Accept,X-Requested-With",
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Max-Age": "43200",
}
_LOCAL_ENDINGS = (".localhost", ".local", ".internal")
_APP_ORIGINS = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")


class SimServer(DoubleServer):
    def __init__(self, address: tuple[str, int], parts: SimulatorParts) -> None:
        self.parts = parts
        super().__init__(address, _Handler)

    @property
    def is_on_loopback(self) -> bool:
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback


class _Handler(DoubleHandler):
    _headers: dict[str, str]
    """Headers of this answer beside the usual ones."""

    @property
    def sim(self) -> SimServer:
        return cast("SimServer", self.server)

    def _serve(self) -> None:
        self._headers = {}
        body = self._body()
        path = urlsplit(self.path).path
        if path == "/_faults":
            self._send(self._set_faults(body))
        elif not self._is_allowed():
            self._send(Reply(403, b"", ""))
        elif self.command == "OPTIONS" and "Origin" in self.headers:
            self._send(Reply(204, b"", ""))
        elif (target := _redirect(path)) is not None:
            self._send_redirect(target, clean=path.rstrip("/") == target)
        else:
            self._route(path, body)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = _serve  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return whole

    def _route(self, path: str, body: bytes) -> None:
        methods = _methods(path)
        if methods is None:
            self._send(Reply(404, b"404 page not found", "text/plain"))
            return
        route = methods.get(self.command)
        if route is None:
            self._headers = {"Allow": ", ".join(methods)}
            self._send(Reply(405, b"405 method not allowed", "text/plain"))
            return
        faults = self.sim.parts.faults.strike(path)
        request = Request(self.command, path, dict(self.headers.items()), body, self._is_gone, faults)
        try:
            status = faults.get("status")
            refused = status and _refusal(path, SimError(status.text, int(status.value)))
            answer = refused or route(self.sim.parts, request)
        except SimError as error:
            answer = _refusal(path, error)
        self._send(answer, faults)

    def _set_faults(self, body: bytes) -> Reply:
        """POST adds one, DELETE clears them all."""
        if self.command == "DELETE":
            self.sim.parts.faults.clear()
            return Reply(204, b"", "")
        try:
            self.sim.parts.faults.add(OllamaFault.from_json(json.loads(body)))
        except (ValueError, TypeError) as error:
            return as_json({"error": str(error)}, 400)
        return Reply(204, b"", "")

    # Before any route

    def _is_allowed(self) -> bool:
        origin = self.headers.get("Origin")
        if origin and not self._is_known_origin(origin):
            return False
        if origin:
            self._headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
            if self.command == "OPTIONS":
                self._headers |= _PREFLIGHT
        return not self.sim.is_on_loopback or _is_local_host(self.headers.get("Host", ""))

    def _is_known_origin(self, origin: str) -> bool:
        host = urlsplit(origin).hostname or ""
        allowed = self.sim.parts.settings.origins
        if origin in allowed or "*" in allowed or origin.startswith(_APP_ORIGINS):
            return True
        own = origin.partition("://")[2] == self.headers.get("Host")
        return own or host in {"localhost", "127.0.0.1", "0.0.0.0"}  # noqa: S104 - nothing is bound here

    def _is_gone(self) -> bool:
        """Whether the other side has closed: there is something to read, and it is nothing."""
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    # Answering

    def _send(self, answer: SimulatorAnswer, faults: dict[OllamaFaultKind, OllamaFault] | None = None) -> None:
        faults = faults or {}
        if isinstance(answer, Stream):
            self._send_stream(answer, faults)
            return
        if self._is_silenced(faults, 0):
            raise HangUp
        body = answer.body
        self._begin(answer.status, answer.content_type)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: int(faults["cut"].value)] if "cut" in faults else body)
        if "cut" in faults:
            raise HangUp

    def _begin(self, status: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("X-Simulated", SAYS)
        if content_type:
            self.send_header("Content-Type", content_type)
        for name, value in self._headers.items():
            self.send_header(name, value)

    def _send_redirect(self, target: str, *, clean: bool) -> None:
        """A slash too many at the end is moved for good, one inside for now."""
        status, word = (301, "Moved Permanently") if clean and self.command == "GET" else (307, "Temporary Redirect")
        self._headers |= {"Location": target}
        self._send(Reply(status, f'<a href="{target}">{word}</a>.\n\n'.encode(), "text/html; charset=utf-8"))

    def _send_stream(self, answer: Stream, faults: dict[OllamaFaultKind, OllamaFault]) -> None:
        self._begin(200, answer.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = answer.pieces
        sent = 0
        try:
            for count, piece in enumerate(pieces):
                if self._is_silenced(faults, count):
                    raise HangUp
                if "cut" in faults and sent + len(piece) > faults["cut"].value:
                    self._chunk(piece[: max(0, int(faults["cut"].value) - sent)])
                    raise HangUp
                self._chunk(piece)
                sent += len(piece)
        finally:
            close = getattr(pieces, "close", None)
            if close:
                close()
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, piece: bytes) -> None:
        if piece:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _is_silenced(self, faults: dict[OllamaFaultKind, OllamaFault], count: int) -> bool:
        """Let `slow`, `die` and `hang` strike before frame `count`; true when nothing more is to be sent."""
        stopping = self.sim.parts.stopping
        if "slow" in faults:
            stopping.wait(faults["slow"].value)
        if "die" in faults and count >= faults["die"].value:
            os._exit(1)
        if "hang" in faults and count >= faults["hang"].value:
            while not stopping.wait(0.05) and not self._is_gone():
                pass
            return True
        return stopping.is_set()


def _redirect(path: str) -> str | None:
    """Where a path that is not clean belongs, if anywhere."""
    clean = re.sub(r"/+", "/", path)
    if clean != path:
        return clean
    shorter = path.rstrip("/")
    return shorter if shorter != path and shorter in ROUTES else None


def _methods(path: str) -> dict[str, SimulatorRoute] | None:
    if path in ROUTES:
        return ROUTES[path]
    for prefix, methods in _BELOW.items():
        rest = path.removeprefix(prefix)
        if rest and rest != path and "/" not in rest and "%2f" not in rest.lower():
            return methods
    return None


def _refusal(path: str, error: SimError) -> Reply:
    """The error in the shape of the route's interface; a refused cloud model is native everywhere."""
    if path.startswith("/v1/") and error.status != 403:
        return anthropic.anthropic_error(error) if path == "/v1/messages" else openai.error_reply(error)
    return as_json({"error": error.text}, error.status)


def _is_local_host(header: str) -> bool:
    host = urlsplit(f"//{header}").hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in {"", "localhost", socket.gethostname().lower()} or host.endswith(_LOCAL_ENDINGS)
    return address.is_loopback or address.is_private or address.is_unspecified


def serving(server: SimServer) -> threading.Thread:
    return threading.Thread(target=server.serve_forever, args=(0.02,), name="ollama simulator", daemon=True)
