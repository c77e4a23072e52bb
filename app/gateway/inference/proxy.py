"""Inference, passed on: to the tier that the model belongs to, byte for byte, as it comes.

A request is tried again only as long as not a byte of an answer has come. Whoever leaves ends what the server does for
him at once, but for a load. Each request is recorded once, when it has ended, by what was seen of its end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from app.gateway.inference import operator_options as operators_options
from app.gateway.inference.detached import DetachedRequests
from app.gateway.inference.request_log import Recorder, RequestEnding, RequestRecord
from app.gateway.inference.route_cache import RouteCache
from app.gateway.inference.routing import Route
from app.gateway.protocol import dialects
from app.gateway.protocol import request as asked
from app.gateway.protocol.errors import headers_of, status_of
from app.gateway.protocol.exchange import Exchange
from app.gateway.protocol.headers import Header, to_caller, to_server
from app.gateway.protocol.request import InferenceRequest
from app.gateway.upstream.cold_start import ColdStarts, Expired, LoadFailed, TierUpstream
from app.gateway.upstream.upstream_client import UpstreamAnswer, UpstreamClient
from app.model_server.start_failures import CannotStart
from jobs.core.clock import Clock
from jobs.core.errors import CutShort, NotFound, ServerTrouble, Stalled, Trouble, Unreachable
from jobs.core.model_name import ModelName

T = TypeVar("T")

RESETS = 3
"""Times that a server may close the connection instead of answering: it may be the request that kills it."""

UNSEEN = 2
"""Times that a server may not find a model which it has just loaded: then it is something else that it misses."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0

COMMENT_SECONDS = 5.0
"""Between two comment lines for a caller who waits; proxies on the way forget a connection after a silent minute."""

_MOST_ERROR = 1024 * 1024


@dataclass(frozen=True)
class ProxyContext:
    """What all requests share."""

    upstreams: Mapping[str, TierUpstream]
    wires: Mapping[str, UpstreamClient]
    waking: ColdStarts
    routes: RouteCache
    look: Callable[[], Awaitable[bool]]
    """Has what is known looked up again; false when that was done just now."""
    recorder: Recorder
    clock: Clock
    detached: DetachedRequests
    comment_seconds: float = COMMENT_SECONDS


class Proxy:
    def __init__(self, way: ProxyContext) -> None:
        self._way = way

    async def pass_on(self, exchange: Exchange) -> None:
        """Answer this request by the server it belongs to, and record it."""
        await _ProxiedRequest(self._way, exchange).run()


class _ProxiedRequest:
    """One request on its way."""

    def __init__(self, way: ProxyContext, exchange: Exchange) -> None:
        self._way = way
        self._exchange = exchange
        self._began = exchange.began
        exchange.is_recorded = True
        self._first_byte: float | None = None
        self._held = 0.0
        self._woke = False
        self._asked: InferenceRequest | None = None
        self._route: Route | None = None
        self._tail: dialects.Tail | None = None
        self._ending: RequestEnding = "error"
        self._type = b""

    async def run(self) -> None:
        try:
            await self._pass()
        except asyncio.CancelledError:
            if not self._exchange.gone.is_set():
                raise
            # Some clients leave as soon as they have read the terminator; then all of the answer was theirs.
            seen = self._tail is not None and self._tail.verdict() == "whole"
            self._ending = "success" if seen else "client_gone"
        except Trouble as trouble:
            self._ending = _ending_of(trouble)
            await self._tell(trouble)
        finally:
            self._way.recorder.add(self._served())

    async def _pass(self) -> None:
        self._asked = await asked.read(self._exchange)
        operators_options.refuse(self._asked, self._exchange.caller)
        self._route = await self._routed(self._asked)
        answer = await self._answered(self._asked, self._route)
        try:
            if answer.is_asked:  # and the answer may take minutes
                self._exchange.forget_body()
            if answer.status >= 400:
                await self._refuse(answer)
            else:
                await self._relay(answer)
        finally:
            answer.close()

    async def _routed(self, wanted: InferenceRequest) -> Route:
        """Where it goes. A model that nobody has heard of may have come a moment ago: that is looked up once."""
        caller, routes = self._exchange.caller, self._way.routes
        try:
            return routes.route(caller, wanted.model, wanted.context)
        except NotFound:
            if not await self._way.look():
                raise
            return routes.route(caller, wanted.model, wanted.context)

    # Until there is an answer

    async def _answered(self, wanted: InferenceRequest, route: Route) -> UpstreamAnswer:
        """The head of an answer, from a server that is awake and has the model loaded."""
        way, exchange = self._way, self._exchange
        until = _now() + way.upstreams[route.tier].startup.total_seconds()
        headers = to_server(exchange.headers, exchange.id)
        body = _body_for(exchange, wanted, route)
        resets, unseen, pause = 0, 0, FIRST_PAUSE_SECONDS
        while True:
            await self._ready(wanted, route, until)
            try:
                answer = await self._begun(wanted, route, headers, body)
            except Unreachable as trouble:
                way.waking.lost(route.tier, str(trouble))
                last: Trouble = trouble
            except CutShort as trouble:
                resets += 1
                way.waking.lost(route.tier, str(trouble))
                if resets >= RESETS:
                    raise
                last = trouble
            else:
                unseen += answer.status == 404
                if answer.status not in {404, 503} or unseen > UNSEEN or not _is_json(answer):
                    if wanted.needs_load and wanted.is_kept:
                        way.waking.answered(route.tier, route.served_name, wanted.settings)
                    elif not wanted.is_kept:
                        way.waking.forget(route.tier, route.served_name)
                    return answer
                last = await self._not_yet(answer, route)
            if _now() + pause > until:
                raise last
            await self._waiting(asyncio.sleep(pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _begun(
        self, wanted: InferenceRequest, route: Route, headers: list[Header], body: bytes | bytearray
    ) -> UpstreamAnswer:
        """The beginning of an answer. Who leaves before ends the request, unless it may be what loads the model."""
        way = self._way
        asking = way.wires[route.tier].ask("POST", self._exchange.entry.path, headers, body)
        if not wanted.needs_load or way.waking.is_everywhere(route.tier, route.served_name, wanted.settings):
            return await asking
        task = asyncio.create_task(asking)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._exchange.gone.is_set():
                seconds = way.upstreams[route.tier].startup.total_seconds()
                way.detached.keep(task, seconds, self._exchange.caller.name, self._exchange.keep())
            else:
                task.cancel()
            raise

    async def _not_yet(self, answer: UpstreamAnswer, route: Route) -> Trouble:
        """A server that is not up, or does not know yet what is here: whoever waits will see it."""
        try:
            text = dialects.error_text(await answer.whole(_MOST_ERROR))
        finally:
            answer.close()
        if answer.status == 404:
            self._way.waking.forget(route.tier, route.served_name)
        else:
            self._way.waking.lost(route.tier, text)
        return Expired(f"tier {route.tier!r} answers {answer.status}: {text}", hint="ask again soon")

    async def _ready(self, wanted: InferenceRequest, route: Route, until: float) -> None:
        waking = self._way.waking
        model = route.served_name if wanted.needs_load else ""
        if not waking.is_ready(route.tier, model, wanted.settings):
            self._woke |= await self._waiting(
                waking.ready(route.tier, model, wanted.settings, until, self._exchange.caller)
            )

    async def _waiting(self, event: Awaitable[T]) -> T:
        """Wait for it, telling a caller who reads an event stream what for."""
        began = self._way.clock.monotonic()
        try:
            if self._exchange.entry.speech == "ollama" or self._asked is None or not self._asked.streams:
                return await event
            return await self._with_comments(asyncio.ensure_future(event))
        finally:
            self._held += self._way.clock.monotonic() - began

    async def _with_comments(self, event: asyncio.Future[T]) -> T:
        assert self._route is not None
        try:
            while not (await asyncio.wait({event}, timeout=self._way.comment_seconds))[0]:
                await self._begin(200, [(b"content-type", dialects.SSE)])
                await self._exchange.write(dialects.comment(self._way.waking.waits_for(self._route.tier)))
            return event.result()
        finally:
            event.cancel()

    # The answer

    async def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head, unless it has been said already."""
        if self._exchange.status:
            return
        assert self._route is not None
        self._type = next((value for name, value in headers if name == b"content-type"), b"")
        served = [(b"x-served-model", str(self._route.model).encode()), (b"x-served-tier", self._route.tier.encode())]
        await self._exchange.begin(status, [*headers, *served])

    async def _relay(self, answer: UpstreamAnswer) -> None:
        """Pass an answer on as it comes, then look at how it ended."""
        kind, path = answer.header(b"content-type"), self._exchange.entry.path
        if not _is_speech(kind, path) or (self._exchange.status and not kind.startswith(dialects.SSE)):
            raise ServerTrouble(f"the server answered {answer.status} with {kind.decode('latin-1') or 'no type'!r}")
        tail = self._tail = dialects.tail_of(path, kind)
        await self._begin(answer.status, to_caller(answer.headers))
        while piece := await answer.read():
            if self._first_byte is None:
                self._first_byte = self._way.clock.monotonic() - self._began
            tail.feed(piece)
            if answer.is_over and self._is_well(tail):  # saves whoever listens a packet
                await self._exchange.end(piece)
                return
            await self._exchange.write(piece)
        if not self._is_well(tail):
            raise CutShort("the server ended its answer before the end")
        await self._exchange.end()

    def _is_well(self, tail: dialects.Tail) -> bool:
        """Whether the answer ended as its protocol wants it to, well or not; and notes which."""
        verdict = tail.verdict()
        self._ending = "success" if verdict == "whole" else "error"
        return verdict != "cut"

    async def _refuse(self, answer: UpstreamAnswer) -> None:
        """Pass a server's own refusal on as it is, where it is in the caller's shape."""
        body = await answer.whole(_MOST_ERROR)
        text = dialects.error_text(body) or f"the server answered {answer.status}"
        if answer.status in {401, 407}:  # said to us, by a door on the way
            raise ServerTrouble(f"the way to the server is closed to the gateway: {text[:200]}")
        self._ending = "refused" if answer.status < 500 else "error"
        kind = answer.header(b"content-type")
        if self._exchange.status or not kind.startswith(dialects.JSON):
            await self._say(answer.status, text[:500])
            return
        headers = [header for header in to_caller(answer.headers) if header[0] != b"content-length"]
        await self._begin(answer.status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._exchange.write(body)
        await self._exchange.end()

    # What went wrong

    async def _tell(self, trouble: Trouble) -> None:
        status = trouble.status if isinstance(trouble, LoadFailed) else status_of(trouble)
        more = [(name.encode(), value.encode()) for name, value in headers_of(trouble).items()]
        await self._say(status, dialects.words_of(trouble), more)

    async def _say(self, status: int, text: str, more: list[tuple[bytes, bytes]] | None = None) -> None:
        """An error in the caller's own shape: as the answer, or as the end of one that has begun."""
        exchange, entry = self._exchange, self._exchange.entry
        if not exchange.status:
            await exchange.answer(dialects.error(entry.speech, status, text, exchange.id), status, more=more or ())
        elif self._type.startswith((dialects.SSE, dialects.NDJSON)):
            if self._tail is not None and self._tail.ends_inside():
                await exchange.write(b"\n\n" if self._type.startswith(dialects.SSE) else b"\n")
            await exchange.write(dialects.error_in_stream(entry.path, entry.speech, status, text, exchange.id))
            await exchange.end()
        # else one document was cut: nothing can be added to it, and its missing end says so

    def _served(self) -> RequestRecord:
        exchange = self._exchange
        tokens = self._tail.tokens() if self._tail else dialects.Tokens()
        return RequestRecord(
            request_id=exchange.id,
            at=exchange.at,
            key=exchange.caller.name,
            model=str(self._route.model) if self._route else "",
            tier=self._route.tier if self._route else "",
            route=exchange.entry.path,
            dialect=exchange.entry.speech,
            ending=self._ending,
            status=exchange.status or (499 if self._ending == "client_gone" else 500),
            prompt_tokens=tokens.prompt,
            output_tokens=tokens.output,
            first_byte_seconds=self._first_byte,
            seconds=self._way.clock.monotonic() - self._began,
            held_seconds=self._held,
            woke=self._woke,
        )


def _ending_of(trouble: Trouble) -> RequestEnding:
    match trouble:
        case Stalled() | Expired():
            return "timeout"
        case CutShort():
            return "upstream_cut"
        case LoadFailed():
            return "refused" if trouble.status < 500 else "error"
        case Unreachable() | ServerTrouble() | CannotStart():
            return "error"
        case _:
            return "refused"


def _body_for(exchange: Exchange, wanted: InferenceRequest, route: Route) -> bytes | bytearray:
    """The body as it came. Only /api/embeddings finds names by their exact spelling, so only there it may change."""
    if exchange.entry.path == "/api/embeddings" and ModelName.parse(wanted.model) != route.model:
        assert isinstance(exchange.body, bytearray)
        asked.rename(exchange.body, wanted, route.served_name)
    return exchange.body


def _is_json(answer: UpstreamAnswer) -> bool:
    """Whether a model is what it does not find. A 503 means the same in any shape: Modal's router says it in text."""
    return answer.status == 503 or answer.header(b"content-type").startswith(dialects.JSON)


def _is_speech(kind: bytes, path: str) -> bool:
    """Whether Ollama could have said it; else it is some other program's page."""
    if path == "/v1/audio/transcriptions" and kind.startswith(b"text/"):
        return True
    return kind.startswith((dialects.JSON, dialects.NDJSON, dialects.SSE))


def _now() -> float:
    return asyncio.get_running_loop().time()
