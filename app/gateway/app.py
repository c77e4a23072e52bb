"""The gateway as one ASGI callable: it identifies the caller, looks the path up in the table of routes, and hands on.

Nothing is answered without a key but /healthz, HEAD / and the page's files; where no keys are configured, which only
loopback allows, everybody is let in.
The path that a server is asked for is the table's own, never the caller's. The ops API is an app of its own below it.
"""

import asyncio
import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from loguru import logger
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.gateway.auth.admission import Admission
from app.gateway.auth.keys import Caller
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.auth.signatures import SignedRequest
from app.gateway.dashboard.page import PREFIX as PAGE
from app.gateway.direct.heads import DecidedHead, DirectAnswers
from app.gateway.http_cycle import CALLER
from app.gateway.inference.request_log import Recorder, RequestEnding, turned_away
from app.gateway.protocol import body as bodies
from app.gateway.protocol import dialects
from app.gateway.protocol.errors import WrongMethod, headers_of, status_of
from app.gateway.protocol.exchange import Exchange, Handler
from app.gateway.protocol.headers import to_server, written
from app.gateway.protocol.routes import RouteEntry, base_url_hint, clean, find, meant_by, speech_of
from app.logs import request_of_lines
from jobs.access.acts import act_of
from jobs.access.audit import Audit
from jobs.access.limits import NO_LIMITS
from jobs.batches.records import ENDPOINTS
from jobs.core.clock import Clock
from jobs.core.errors import Bug, Forbidden, NotFound, Trouble, Unauthorized, Unsupported

OWN = ("/ops/", "/healthz", "/readyz", "/metrics")
"""What the ops API answers."""

HEARTBEAT = ("HEAD", "/")
"""What Ollama's own command asks before anything else. Refused, it has no body that could tell the command why
(cmd.checkServerHeartbeat), so it is answered without a key, as `/healthz` is; what is asked next is refused."""

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_PROCESS = secrets.token_hex(4)
"""Tells the ids that this process makes from those of others."""

_NOBODY = Caller("", frozenset())
"""The caller of a request that was not let in."""

_WITH_BODY = frozenset({"POST", "DELETE", "PUT", "PATCH"})


class GatewayApp:
    """Belongs to one event loop.

    Args:
        keys: who may ask.
        admission: how much.
        passes: answers routes whose action is `passed`.
        direct: answers those of their requests that are common, before they have a task.
        handlers: answer routes whose action is `here`, by the entry's path.
        ops: answers below `OWN`, where it lets callers in itself, and routes whose action is `job`.
        page: answers at `PAGE` without a key: its files hold nothing secret.
        recorder: takes the records of requests to models that are refused here.
        audit: where it is written down who tried to change something and may not.
        clock: the time.
        begin: run in the event loop before the first request.
        end: run there after the last.
        body_seconds: how long a body may take beside the time for its bytes.
        budget: what all bodies may take.

    """

    def __init__(
        self,
        *,
        keys: LiveKeys,
        admission: Admission,
        passes: Handler,
        direct: DirectAnswers,
        handlers: Mapping[str, Handler],
        ops: ASGIApp,
        page: ASGIApp,
        recorder: Recorder,
        audit: Audit,
        clock: Clock,
        begin: Callable[[], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
        body_seconds: float,
        budget: bodies.Budget,
    ) -> None:
        self._keys = keys
        self._admission = admission
        self._limits = admission.rates
        self._passes = passes
        self._direct = direct
        self._handlers = handlers
        self._ops = ops
        self._page = page
        self._recorder = recorder
        self._audit = audit
        self._count = itertools.count(1)
        self._clock = clock
        self._begin = begin
        self._end = end
        self._body_seconds = body_seconds
        self._budget = budget

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
        if scope["extensions"][CALLER].decided is not None:
            await self._again(scope, receive, send)
            return
        path = clean(scope["path"])
        found = find(path)
        own = found or (RouteEntry((), path, "refused"), "")
        exchange = self._exchange(scope, own, send, _id_in(scope), written(to_server(scope["headers"])))
        request_of_lines.set(exchange.id)  # each request has a task, and with it a context, of its own
        if found is not None:
            await self._respond(scope, path, exchange, receive, is_known=True)
        elif path.startswith(OWN):
            await _with_head(self._ops, _at(path, scope), receive, _with_request_id(exchange, send))
        elif path == PAGE or path.startswith(f"{PAGE}/"):
            slash = "/" if path == PAGE and scope["path"].endswith("/") else ""
            await self._page(_at(f"{path}{slash}", scope), receive, _with_request_id(exchange, send))
        else:
            await self._respond(scope, path, exchange, receive, is_known=False)

    async def _again(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose head was let in before."""
        decided: DecidedHead = scope["extensions"][CALLER].decided
        exchange = self._exchange(scope, decided.found, send, decided.id, decided.to_server)
        if (start := scope["extensions"][CALLER].head_start) is not None:
            exchange.id, exchange.at, exchange.began, exchange.head_start = start.id, start.at, start.began, start
            exchange.status = 0 if start.stream is None else 200
        request_of_lines.set(exchange.id)
        await self._respond(scope, decided.path, exchange, receive, is_known=True)

    async def _respond(self, scope: Scope, path: str, exchange: Exchange, receive: Receive, *, is_known: bool) -> None:
        """Answer, whatever happens, and record a request to a model that is refused here."""
        ending: RequestEnding = "refused"
        try:
            await self._answer(scope, path, exchange, receive, is_known=is_known)
        except asyncio.CancelledError:
            if exchange.ended_for is not None:
                await _refuse(exchange, exchange.ended_for)
            elif not exchange.is_gone:
                raise
        except bodies.Gone:
            ending = "client_gone"
        except Trouble as trouble:
            await _refuse(exchange, trouble)
        except Exception as error:  # noqa: BLE001 - the gateway's edge: one request must not end more than itself
            logger.opt(exception=error).error("the request to {} failed", path)
            await _refuse(exchange, Bug("the gateway failed to answer", hint=f"its log tells why: {exchange.id}"))
        if exchange.entry.action == "passed" and not exchange.is_recorded:
            self._recorder.add(turned_away(exchange, ending, self._clock.monotonic() - exchange.began))

    async def _answer(self, scope: Scope, path: str, exchange: Exchange, receive: Receive, *, is_known: bool) -> None:
        decided: DecidedHead | None = exchange.connection.decided
        keys, known = self._keys, self._keys.known  # a thread may replace what is known at any moment
        keys.is_used = True
        try:
            if (
                decided is not None
                and decided.known is known
                and (not decided.key.is_of_ledger or exchange.began <= keys.trusted_until)
            ):
                key = decided.key
            else:
                decided = None  # what it may is looked at again as well: it may be another one's by now, or a narrower
                signed = partial(SignedRequest.of, scope)
                key = await keys.key_of(exchange.headers, exchange.at, signed, takes_passes=True)
                exchange.batch_line = key.batch_line
            exchange.caller = key.caller_at(exchange.at)
        except Unauthorized:
            if (exchange.method, path) != HEARTBEAT:
                raise
            await self._handlers[path](exchange)
            return
        task = asyncio.current_task()
        assert task is not None

        def stop(why: Unauthorized) -> None:
            """End this request: its key is good no more."""
            exchange.ended_for = why
            task.cancel()

        caller, speech = exchange.caller, exchange.entry.speech
        exchange.told = None if caller.limits is NO_LIMITS else self._admission.told(caller, speech)
        # Before all else: a request that ends in 404 counts, too. A line counts once it begins.
        leave = self._limits.enter(caller) if exchange.batch_line is None else _nothing
        keys.under_way[stop] = key
        try:
            entry = exchange.entry
            if decided is None:
                self._need_right(exchange, path, is_known=is_known)
                if key.is_shown_again:
                    said = _id_in(scope), exchange.to_server
                    self._keep(DecidedHead(path, (entry, exchange.below), key, known, *said), exchange)
            if entry.action == "job":
                inner = _at(path, scope)
                inner["state"] = {**scope.get("state", {}), "caller": exchange.caller}
                await self._ops(inner, receive, _with_request_id(exchange, exchange.send))
                return
            if exchange.method in _WITH_BODY:
                await self._read(exchange, receive)
            if exchange.receive is None:  # else whoever reads its body hears of a caller who leaves
                exchange.connection.cancel_when_gone()
            await (self._passes if entry.action == "passed" else self._handlers[entry.path])(exchange)
        finally:
            del keys.under_way[stop]
            exchange.forget_body()
            leave()

    def _keep(self, decided: DecidedHead, exchange: Exchange) -> None:
        """Keep what follows from a head, for the next request that has the same."""
        if exchange.is_direct:
            begin = self._direct.of(decided, exchange.headers, self._new_id)
            exchange.connection.decide(decided, self._again, begin)
        else:
            exchange.connection.decide(decided)

    def _need_right(self, exchange: Exchange, path: str, *, is_known: bool) -> None:
        """Refuse what is wrong, and write down that somebody tried to change something and may not, or nobody may."""
        try:
            _refuse_wrong(exchange, path, is_known=is_known)
        except Forbidden as refusal:
            if (act := act_of(exchange.method, exchange.entry.path)) is not None:
                name = exchange.caller.name
                self._audit.refused(who=name, request=exchange.id, act=act, subject="", error=refusal)
            raise

    async def _read(self, exchange: Exchange, receive: Receive) -> None:
        """Read its body, for which there is nothing to wait where all of it has come, if it is not to be streamed."""
        if exchange.entry.is_streamed:
            exchange.receive = receive
            return
        held = self._budget.hold(exchange.caller.name)
        exchange.keep, exchange.drop = held.keep, held.keep()
        come = exchange.connection.take()
        if come is not None and len(come) <= bodies.MOST:
            held.add(come)
            exchange.body = held.data
            return
        length = next((value for name, value in exchange.headers if name == b"content-length"), b"0")
        exchange.body = await bodies.whole(receive, length, held, seconds=self._body_seconds)

    def _new_id(self) -> str:
        return f"{_PROCESS}{next(self._count):08x}"

    def _exchange(
        self, scope: Scope, found: tuple[RouteEntry, str], send: Send, given_id: str, to_server: bytes
    ) -> Exchange:
        return Exchange(
            id=given_id or self._new_id(),
            entry=found[0],
            below=found[1],
            method=scope["method"],
            headers=scope["headers"],
            body=b"",
            caller=_NOBODY,
            at=self._clock.now(),
            began=self._clock.monotonic(),
            send=send,
            connection=scope["extensions"][CALLER],
            to_server=to_server,
        )


def _id_in(scope: Scope) -> str:
    """The id that a caller gives a request; empty where it gives none, or something else."""
    given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _ID.fullmatch(given) else ""


def _refuse_wrong(exchange: Exchange, path: str, *, is_known: bool) -> None:
    """Refuse a path that is not in the table, or not for this method, or not for this caller."""
    entry = exchange.entry
    if not is_known:
        meant = meant_by(path)
        if meant:
            exchange.entry = replace(exchange.entry, path=meant)  # so that the client can read the answer
        raise NotFound(f"{path[:200]!r} is not here", hint=base_url_hint(meant) if meant else None)
    if exchange.method not in entry.methods:
        raise WrongMethod(f"{entry.path} does not take {exchange.method}", hint=f"use {' or '.join(entry.methods)}")
    if entry.action == "refused":  # to any caller: another key would not help
        raise Forbidden(f"{entry.path} is not served here: {entry.why}")
    if entry.action == "unserved":
        raise Unsupported(f"{entry.path} is not served here: {entry.why}")
    if exchange.batch_line is not None and entry.path not in ENDPOINTS:
        raise Forbidden(f"the pass of a batch does not open {entry.path}", hint=f"it opens {', '.join(ENDPOINTS)}")
    exchange.caller.need(*_scopes(entry))


def _scopes(entry: RouteEntry) -> tuple[str, ...]:
    """Any of these will do: a key that may change things may also read, but not infer."""
    return ("chat", "admin") if entry.scope == "chat" and entry.action != "passed" else (entry.scope,)


def _at(path: str, scope: Scope) -> Scope:
    """The request for another app, at the clean path."""
    return {**scope, "path": path, "raw_path": path.encode()}


async def _with_head(inside: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Have an application that only knows GET answer HEAD as well."""
    if scope["method"] != "HEAD":
        await inside(scope, receive, send)
        return
    is_begun = False

    async def send_head(message: Message) -> None:
        """The head and an empty body; with that the answer has ended, which also ends a stream that would go on."""
        nonlocal is_begun
        if message["type"] == "http.response.start":
            await send(message)
        elif not is_begun:
            is_begun = True
            await send({"type": "http.response.body", "body": b""})

    await inside({**scope, "method": "GET"}, receive, send_head)


async def _refuse(exchange: Exchange, trouble: Trouble) -> None:
    """Say why, unless a part of the answer is sent; that then ends without its end."""
    if exchange.status:
        return
    status, speech = status_of(trouble), speech_of(exchange.entry.path)
    more = [(name.encode(), value.encode()) for name, value in headers_of(trouble).items()]
    # After a 413 the rest still arrives and is thrown away: closing at once would reset the caller before this is read.
    if status == 405:
        more.append((b"allow", ", ".join(exchange.entry.methods).encode()))
    document = dialects.error(speech, status, dialects.words_of(trouble), exchange.id)
    await exchange.answer(document, status, more=more)


def _nothing() -> None:
    """In place of what gives back what was not taken."""


def _with_request_id(exchange: Exchange, send: Send) -> Send:
    """`send`, with the request's id among the headers of the answer."""

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            told = exchange.told() if exchange.told is not None else ()
            headers = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode()), *told]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_id
