"""What the host answers, as an ASGI application: llama.cpp's routes for any model of the directory, and what is loaded.

    POST /v1/chat/completions, ...     go to the engine of the model that the body names; it is loaded first
    GET  /health /v1/models            by the host: no engine is started
    GET  /api/version /api/tags /api/ps   likewise, in Ollama's words, for probes
    POST /api/generate /api/embed      without a prompt only, which is how Ollama is asked to load or unload a model

An answer passes as the engine makes it. A caller who leaves ends what the engine does for it; an engine that dies ends
the answer without its end. It listens on loopback for the gateway: a page in a browser is refused.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from loguru import logger

from app.engines.llama_server import LLAMA_SERVER
from app.gateway.protocol.dialects import words_of
from app.gateway.protocol.errors import status_of
from app.gateway.protocol.headers import Header, to_caller
from app.gateway.upstream.upstream_client import UpstreamAnswer
from app.llama_host import conversations
from app.llama_host.engines import Engines, LoadedModel, expires_at, memory_of
from app.llama_host.models import HostedModel, HostedModels
from app.llama_host.process import EngineProcess
from app.llama_host.settings import keep_alive_seconds
from jobs.core import foreign
from jobs.core.clock import isoformat
from jobs.core.errors import BadRequest, Corrupt, CutShort, NetworkTrouble, NotFound, ServerTrouble, Trouble

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_BODY = 256 << 20
"""Bytes of a request: the gateway before us has limits of its own."""

_PASSED = frozenset({b"content-type", b"accept"})

_CLOSED_TIMES = 2
"""So often a connection may be closed in place of an answer."""


class NoRoute(NotFound):
    """The engine has no such route."""


class CallerGone(Exception):
    """The caller has left."""


class LlamaHost:
    """The application. Belongs to one event loop.

    Args:
        models: of the directory.
        engines: those in memory.
        version: of the engine.

    """

    def __init__(self, models: HostedModels, engines: Engines, version: Callable[[], Awaitable[str]]) -> None:
        self._models = models
        self._engines = engines
        self._version = version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = asyncio.ensure_future(_Request(self, scope, receive, send).answer())
        try:
            await answer
        finally:
            answer.cancel()

    async def version(self) -> str:
        return await self._version()

    def find(self, document: Any) -> HostedModel:
        name = document.get("model") if isinstance(document, dict) else None
        if not isinstance(name, str) or not name:
            raise BadRequest("model is required", hint="name it in the field `model` of a JSON body")
        return self._models.find(name)

    def all(self) -> list[HostedModel]:
        return self._models.all()

    @property
    def engines(self) -> Engines:
        return self._engines


class _Request:
    """One request and its answer."""

    def __init__(self, host: LlamaHost, scope: Scope, receive: Receive, send: Send) -> None:
        self._host = host
        self._method: str = scope["method"]
        self._path: str = scope["path"].rstrip("/") or "/"
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self._receive = receive
        self._send = send
        self._status = 0
        """Of the answer; 0 until it has begun."""

    async def answer(self) -> None:
        try:
            await self._answered()
        finally:
            if self._method == "POST":
                logger.info("llama-host: answered {} {} {}", self._status or _LEFT, self._method, self._path)

    async def _answered(self) -> None:
        try:
            await self._answer()
        except CallerGone:
            return
        except Trouble as trouble:
            if self._status:  # left without its end, so nobody takes it for whole
                logger.warning("llama-host: {} {}: {}", self._method, self._path, trouble)
                return
            await self._fail(trouble)

    async def _answer(self) -> None:
        if any(name == b"origin" for name, _ in self._headers):
            await self._json(403, {"error": "this host answers programs of this machine, not pages"})
            return
        match self._method, self._path:
            case "GET" | "HEAD", "/" | "/health" | "/v1/health":
                await self._json(200, {"status": "ok"})
            case "GET", "/api/version":
                await self._json(200, {"version": await self._host.version(), "engine": LLAMA_SERVER.name})
            case "GET", "/api/tags":
                await self._json(200, {"models": [_listed(each) for each in self._host.all()]})
            case "GET", "/api/ps":
                await self._json(200, {"models": [_running(each) for each in self._host.engines.loaded()]})
            case "GET", "/v1/models":
                data = [_openai(each) for each in self._host.all()]
                await self._json(200, {"object": "list", "data": data})
            case "POST", "/api/generate" | "/api/embed":
                await self._while_here(self._lifecycle(await self._body()))
            case "POST", path if LLAMA_SERVER.speaks(path):
                await self._while_here(self._inference(await self._body()))
            case _:
                raise NoRoute(f"this engine has no {self._method} {self._path}")

    # Loading and unloading

    async def _lifecycle(self, raw: bytes) -> None:
        """A request for nothing, which is how Ollama is asked to have a model in memory, or out of it."""
        document = _document(raw)
        if document.get("prompt") or document.get("input") or document.get("images"):
            raise NoRoute(
                f"this engine has no POST {self._path} but to load a model; {LLAMA_SERVER.instead[self._path]}"
            )
        model, keep = self._host.find(document), keep_alive_seconds(document.get("keep_alive"))
        options = document.get("options")
        done = {"model": str(model.name), "created_at": isoformat(datetime.now(UTC)), "done": True}
        if keep == 0:
            self._host.engines.unload(model)
            await self._json(200, {**done, "response": "", "done_reason": "unload"})
            return
        began = asyncio.get_running_loop().time()
        wanted = options if isinstance(options, dict) and options else None
        async with self._host.engines.lent(model, options=wanted, keep_seconds=keep):
            took = round(1e9 * (asyncio.get_running_loop().time() - began))
        answer: dict[str, Any] = {"response": "", "done_reason": "load"}
        if self._path == "/api/embed":
            answer = {"embeddings": []}
        await self._json(200, {**done, **answer, "load_duration": took, "total_duration": took})

    # Inference

    async def _inference(self, raw: bytes) -> None:
        document = _document(raw)
        model = self._host.find(document)
        body = conversations.with_own(self._path, raw, document, system=model.card.system, messages=model.card.messages)
        headers = [header for header in self._headers if header[0] in _PASSED]
        async with self._host.engines.lent(model) as loaded:
            process = loaded.process
            assert process is not None
            try:
                await self._pass(loaded, headers, body)
            except NetworkTrouble as trouble:
                if (how := await process.how_it_ended()) is None:
                    raise
                raise CutShort(f"the engine of {str(model.name)!r} ended {how} while it answered") from trouble

    async def _asked(self, process: EngineProcess, headers: list[Header], body: bytes) -> UpstreamAnswer:
        """The head of an answer. llama.cpp ends a connection after some requests, and with it one that has just come;
        as long as it runs itself, that one is asked again."""
        for _ in range(_CLOSED_TIMES):
            try:
                return await process.client.ask("POST", self._path, headers, body)
            except CutShort:
                if process.has_ended:
                    raise
        return await process.client.ask("POST", self._path, headers, body)

    async def _pass(self, loaded: LoadedModel, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        assert loaded.process is not None
        answer = await self._asked(loaded.process, headers, body)
        try:
            await self._begin(answer.status, [(name, value) for name, value in to_caller(answer.headers)])
            while piece := await answer.read():
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            answer.close()  # of a caller who has left, this ends what the engine does

    async def _while_here(self, work: Any) -> None:
        """Do it for as long as the caller is there."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                raise CallerGone
            await task
        finally:
            for each in (task, gone):
                each.cancel()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # What goes out

    async def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _json(self, status: int, document: Any) -> None:
        body = json.dumps(document, ensure_ascii=False).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._begin(status, fields)
        await self._send({"type": "http.response.body", "body": b"" if self._method == "HEAD" else body})

    async def _fail(self, trouble: Trouble) -> None:
        status = _status_of(trouble)
        if status >= 500:
            logger.warning("llama-host: {} {}: {}", self._method, self._path, trouble)
        text = words_of(trouble)
        if self._path.startswith("/api/"):
            await self._json(status, {"error": text})
        else:
            await self._json(status, {"error": {"code": status, "message": text, "type": _TYPES.get(status, _OTHER)}})

    async def _body(self) -> bytes:
        pieces, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGone
            piece = message.get("body", b"")
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BODY:
                raise BadRequest(f"the body has more than {MOST_BODY:,} bytes")
            if not message.get("more_body", False):
                return b"".join(pieces)


_LEFT = 499
"""As which the answer is told that nobody waited for, as Ollama does."""

_TYPES = {400: "invalid_request_error", 404: "not_found_error", 503: "unavailable_error"}
_OTHER = "server_error"
"""As llama.cpp's server words them (tools/server/server-common.cpp, format_error_response)."""


def _status_of(trouble: Trouble) -> int:
    """As Ollama has it: a model that cannot be loaded is 500, which nobody takes for a server that is away."""
    return 500 if type(trouble) is ServerTrouble else status_of(trouble)


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = foreign.document(raw, "the body")
    except Corrupt as error:
        raise BadRequest(str(error)) from error
    if not isinstance(document, dict):
        raise BadRequest("the body is no JSON object")
    return document


def _listed(model: HostedModel) -> dict[str, Any]:
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": isoformat(model.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": dict(model.details),
    }


def _running(loaded: LoadedModel) -> dict[str, Any]:
    size, on_gpu = memory_of(loaded)
    now = asyncio.get_running_loop().time()
    return {
        **{key: value for key, value in _listed(loaded.model).items() if key != "modified_at"},
        "size": size,
        "size_vram": on_gpu,
        "expires_at": isoformat(expires_at(loaded, datetime.now(UTC), now)),
        "context_length": loaded.launch.context,
    }


def _openai(model: HostedModel) -> dict[str, Any]:
    created = int(model.modified_at.timestamp())
    return {"id": str(model.name), "object": "model", "created": created, "owned_by": "library"}
