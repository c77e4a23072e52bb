"""The gateway as one ASGI callable: who asks, what the table says about the path, and who answers.

Nothing is answered without a key but /healthz; with none configured, everybody is let in, which only loopback allows.
The path that a server is asked for is the table's own, never the caller's. The ops API is an app of its own below it.
"""

import asyncio
import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from loguru import logger

from app.gateway.auth.keys import Caller, Keys
from app.gateway.auth.rate_limits import RateLimits
from app.gateway.auth.signatures import SignedRequest
from app.gateway.dashboard.page import PREFIX as PAGE
from app.gateway.inference.request_log import Recorder, RequestEnding, turned_away
from app.gateway.protocol import body as bodies
from app.gateway.protocol import dialects
from app.gateway.protocol.errors import WrongMethod, headers_of, status_of
from app.gateway.protocol.exchange import Exchange, Handler, Message, Receive, Send
from app.gateway.protocol.routes import RouteEntry, clean, find, speech_of
from jobs.core.clock import Clock
from jobs.core.errors import Bug, Forbidden, NotFound, Trouble

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OWN = ("/ops/", "/healthz", "/readyz", "/metrics")
"""What the mounted app answers."""

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_PROCESS = secrets.token_hex(4)
"""Tells the ids that this process makes from those of others."""

_NOBODY = Caller("", frozenset())
"""Whoever has not been let in."""

_WITH_BODY = frozenset({"POST", "DELETE", "PUT", "PATCH"})


class Gateway:
    """
    Args:
        keys: who may ask.
        limits: how often.
        passes: answers what the table calls passed.
        handlers: answer what the table calls here, by the entry's path.
        ops: answers below `OWN`, where it lets callers in itself, and what the table calls job.
        page: answers at `PAGE`, whoever asks: its files tell nothing.
        recorder: told of what should have been passed on and came no farther than here.
        clock: the time.
        begin: run in the event loop before the first request.
        end: run there after the last.
        body_seconds: how long a body may take that hardly comes.
        budget: what all bodies may take.

    """

    def __init__(
        self,
        *,
        keys: Keys,
        limits: RateLimits,
        passes: Handler,
        handlers: Mapping[str, Handler],
        ops: App,
        page: App,
        recorder: Recorder,
        clock: Clock,
        begin: Callable[[], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
        body_seconds: float = bodies.SECONDS,
        budget: bodies.Budget | None = None,
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._passes = passes
        self._handlers = handlers
        self._ops = ops
        self._page = page
        self._recorder = recorder
        self._count = itertools.count(1)
        self._clock = clock
        self._begin = begin
        self._end = end
        self._body_seconds = body_seconds
        self._budget = budget or bodies.Budget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._begin()
        except Trouble as trouble:
            await send({"type": "lifespan.startup.failed", "message": dialects.words_of(trouble)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._end()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = clean(scope["path"])
        exchange = self._exchange(scope, path, send)
        with logger.contextualize(request=exchange.id):
            if path.startswith(OWN):
                await self._ops(_at(path, scope), receive, _naming(exchange, send))
            elif path == PAGE or path.startswith(f"{PAGE}/"):
                await self._page(_at(path, scope), receive, _naming(exchange, send))
            else:
                await self._told(scope, path, exchange, receive)

    async def _told(self, scope: Scope, path: str, exchange: Exchange, receive: Receive) -> None:
        """Answer, whatever happens; and see to the record of what came no farther than here."""
        ending: RequestEnding = "refused"
        try:
            await self._answer(scope, path, exchange, receive)
        except bodies.Gone:
            ending = "client_gone"
        except Trouble as trouble:
            await _refuse(exchange, trouble)
        except Exception as error:  # noqa: BLE001 - the gateway's edge: one request must not end more than itself
            logger.opt(exception=error).error("the request to {} failed", path)
            if not exchange.status:
                await _refuse(exchange, Bug("the gateway failed to answer", hint=f"its log tells why: {exchange.id}"))
        if exchange.entry.what == "passed" and not exchange.is_recorded:
            self._recorder.add(turned_away(exchange, ending, self._clock.monotonic() - exchange.began))

    async def _answer(self, scope: Scope, path: str, exchange: Exchange, receive: Receive) -> None:
        found = find(path)
        if found is not None:
            exchange.entry, exchange.below = found
        exchange.caller = self._keys.identify(scope["headers"], self._clock.now(), SignedRequest.of(scope))
        leave = self._limits.enter(exchange.caller)  # before all else: what ends in 404 was asked, too
        try:
            _refuse_wrong(exchange, path, is_known=found is not None)
            await self._let_in(scope, path, exchange, receive)
        finally:
            exchange.forget_body()
            leave()

    async def _let_in(self, scope: Scope, path: str, exchange: Exchange, receive: Receive) -> None:
        entry = exchange.entry
        if entry.what == "job":
            inner = _at(path, scope)
            inner["state"] = {**scope.get("state", {}), "caller": exchange.caller}
            await self._ops(inner, receive, _naming(exchange, exchange.send))
            return
        if exchange.method in _WITH_BODY:
            said = next((value for name, value in exchange.headers if name == b"content-length"), b"0")
            held = self._budget.hold(exchange.caller.name)
            exchange.keep, exchange.drop = held.keep, held.keep()
            exchange.body = await bodies.whole(receive, said, held, seconds=self._body_seconds)
        handler = self._passes if entry.what == "passed" else self._handlers[entry.path]
        await _while_present(handler(exchange), exchange, receive)

    def _exchange(self, scope: Scope, path: str, send: Send) -> Exchange:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        return Exchange(
            id=given.decode() if _ID.fullmatch(given) else f"{_PROCESS}{next(self._count):08x}",
            entry=RouteEntry((), path, "refused"),
            below="",
            method=scope["method"],
            headers=scope["headers"],
            body=b"",
            caller=_NOBODY,
            at=self._clock.now(),
            began=self._clock.monotonic(),
            send=send,
        )


def _refuse_wrong(exchange: Exchange, path: str, *, is_known: bool) -> None:
    """Refuse what the table does not have, or not for this method, or not for this caller."""
    entry = exchange.entry
    if not is_known:
        raise NotFound(f"{path[:200]!r} is not here")
    if exchange.method not in entry.methods:
        raise WrongMethod(f"{entry.path} does not take {exchange.method}", hint=f"use {' or '.join(entry.methods)}")
    exchange.caller.need(*_scopes(entry))
    if entry.what == "refused":
        raise Forbidden(f"{entry.path} is not served here: {entry.why}")


def _scopes(entry: RouteEntry) -> tuple[str, ...]:
    """Any of these will do: whoever may change things may also look at them, but not infer."""
    return ("chat", "admin") if entry.scope == "chat" and entry.what != "passed" else (entry.scope,)


def _at(path: str, scope: Scope) -> Scope:
    """The request for another app, at the clean path."""
    return {**scope, "path": path, "raw_path": path.encode()}


async def _while_present(work: Awaitable[None], exchange: Exchange, receive: Receive) -> None:
    """Do it for as long as the caller is there; when he leaves, cancel it, with `gone` set."""
    task = asyncio.current_task()
    assert task is not None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        exchange.gone.set()
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if not exchange.gone.is_set():
            raise
    finally:
        watching.cancel()


async def _refuse(exchange: Exchange, trouble: Trouble) -> None:
    status, speech = status_of(trouble), speech_of(exchange.entry.path)
    more = [(name.encode(), value.encode()) for name, value in headers_of(trouble).items()]
    # After a 413 the rest still arrives and is thrown away: closing at once would reset the caller before he can read.
    if status == 405:
        more.append((b"allow", ", ".join(exchange.entry.methods).encode()))
    document = dialects.error(speech, status, dialects.words_of(trouble), exchange.id)
    await exchange.answer(document, status, more=more)


def _naming(exchange: Exchange, send: Send) -> Send:
    """The same, with the request's id among the headers."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]}
        await send(message)

    return named
