"""Inference, passed on: to the tier that the model belongs to, byte for byte, as it comes.

What is added to a request, so that tokens are counted and cut prompts are told, is taken out of the answer again. A
request is tried again only as long as not a byte of an answer has come. When its caller leaves, what the server does
for it is ended at once, but for a load. Each request is recorded once, when it has ended.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from app.engines.engine import Engine
from app.gateway.auth.admission import NOT_HELD, Admission, Admitted
from app.gateway.catalog.loaded_models import LoadedModels
from app.gateway.catalog.state import KnownState
from app.gateway.inference import abilities, operator_options, prompt_truncation
from app.gateway.inference.detached import DetachedRequests
from app.gateway.inference.reply import MOST_ERROR, CallerReply
from app.gateway.inference.request_log import Recorder, RequestRecord
from app.gateway.inference.route_cache import RouteCache
from app.gateway.inference.routing import Route
from app.gateway.lines.line_gate import LineGate
from app.gateway.lines.line_turn import LineTurn
from app.gateway.protocol import dialects, model_defaults
from app.gateway.protocol.errors import InvalidOption
from app.gateway.protocol.exchange import Exchange
from app.gateway.protocol.headers import written
from app.gateway.protocol.json_body.edits import BodyEdit, edit
from app.gateway.protocol.request import InferenceRequest, naming, read_request, with_context
from app.gateway.upstream.cold_start import ColdStarts, Ready
from app.gateway.upstream.connection import Connection
from app.gateway.upstream.holding import Expired
from app.gateway.upstream.upstream_client import TierUpstream, UpstreamAnswer, UpstreamClient
from jobs.access.budgets import NOTHING, Taken
from jobs.core.clock import Clock
from jobs.core.errors import CutShort, NotFound, ServerTrouble, TooManyRequests, Trouble, Unreachable
from jobs.core.model_name import ModelName

if TYPE_CHECKING:
    from app.gateway.upstream.passed_chunks import BegunStream

T = TypeVar("T")

RESETS = 3
"""Times that a server may close the connection instead of answering: it may be the request that kills it."""

UNSEEN = 2
"""Times that a server may not find a model which it has just loaded: then it is something else that it misses."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0

COMMENT_SECONDS = 5.0
"""Between two comment lines for a caller who waits; proxies on the way forget a connection after a silent minute."""


@dataclass(frozen=True)
class Proxy:
    """What all requests to models share. Belongs to one event loop."""

    upstreams: Mapping[str, TierUpstream]
    upstream_clients: Mapping[str, UpstreamClient]
    cold_starts: Mapping[str, ColdStarts]
    known: KnownState
    loaded: LoadedModels
    route_cache: RouteCache
    refresh: Callable[[], Awaitable[bool]]
    """Has what is known looked up again; false when that was done just now."""
    recorder: Recorder
    clock: Clock
    detached: DetachedRequests
    admission: Admission
    line_gates: Mapping[str, LineGate]
    lengths_left: Callable[[Route, int], frozenset[int]]
    """What is left of a prompt that is cut there; see `prompt_truncation`. Costs nothing worth the name."""
    comment_seconds: float = COMMENT_SECONDS
    settings_in_manifests: bool = False
    """The servers know by themselves what is set for models: what a route has no field for counts there too."""

    @cached_property
    def is_all_ollama(self) -> bool:
        """Whether it does not matter on which tier a body is refused as Ollama refuses it."""
        return all(each.engine.refuses_as_ollama for each in self.upstreams.values())

    @staticmethod
    def passes_as_it_came(route: Route, request: InferenceRequest, path: str) -> bool:
        """Whether nothing of the body changes on this route, but for usage and prompts that may be cut."""
        return not route.settings and not _has_other_name(route, request, path)

    async def pass_on(self, exchange: Exchange) -> None:
        """Answer this request by the server it belongs to, and record it."""
        await _ProxiedRequest(self, exchange).run()


class HeadStart:
    """What was done for a request before its task: it was read, and perhaps a server was asked.

    Args:
        id: names it.
        at: when it came.
        began: the same on the clock that never goes back.
        request: what it asks for.

    """

    __slots__ = ("_client", "_connection", "at", "began", "id", "request", "stream")

    def __init__(self, id: str, at: datetime, began: float, request: InferenceRequest) -> None:
        self.id = id
        self.at = at
        self.began = began
        self.request = request
        self.stream: BegunStream | None = None
        """What its caller has of the answer, where that has begun."""
        self._connection: Connection | None = None
        self._client: UpstreamClient | None = None

    def asked(self, connection: Connection, client: UpstreamClient) -> None:
        """A server was asked on this connection of these."""
        self._connection, self._client = connection, client

    def take(self, client: UpstreamClient) -> Connection | None:
        """The connection on which it was asked, once, if it is one of these; else that is closed."""
        if client is not self._client:
            self.drop()
        connection, self._connection = self._connection, None
        return connection

    def drop(self) -> None:
        """End what a server does for it, if nobody has taken it."""
        if self._connection is not None and self._client is not None:
            self._client.give_back(self._connection)
        self._connection = None


class _ProxiedRequest:
    """One request on its way."""

    def __init__(self, proxy: Proxy, exchange: Exchange) -> None:
        self._proxy = proxy
        self._exchange = exchange
        exchange.is_recorded = True
        self._reply = CallerReply(exchange, proxy.clock)
        self._route: Route | None = None
        self._held = 0.0
        self._woke = False
        self._readied = _NOT_WAITED
        self._uncut: prompt_truncation.UncutPrompt | None = None
        self._admitted: Admitted | None = None
        self._gate: LineGate | None = None
        """Of the tier where it counts as a person's."""
        self._line = None if exchange.batch_line is None else LineTurn(exchange, exchange.batch_line, proxy.clock)
        self._is_asked = False
        """Whether a server was asked."""
        self._size = 0
        """Of the body of a request that was admitted."""

    async def run(self) -> None:
        try:
            await self._pass()
        except asyncio.CancelledError:
            if self._exchange.ended_for is not None:
                await self._reply.fail(self._exchange.ended_for)
            elif not self._exchange.is_gone:
                raise
            else:
                self._reply.caller_left()
        except Trouble as trouble:
            await self._reply.fail(trouble if self._line is None else self._line.told(trouble, is_asked=self._is_asked))
        finally:
            record = self._record()
            if (gate := self._gate) is not None:
                assert self._route is not None
                gate.people -= 1
                gate.used[self._route.served_name] = self._exchange.began + record.seconds
                if gate.waiting:
                    gate.look()
            if self._line is None or self._line.ended(record.ending):
                self._proxy.recorder.add(record)
            if self._admitted is not None:
                least = self._reply.tokens_about(self._size) if self._is_asked else 0
                idle = self._proxy.admission.idle_seconds
                self._admitted.settle(taken_by(record, idle, is_asked=self._is_asked, least_tokens=least))

    async def _pass(self) -> None:
        start: HeadStart | None = self._exchange.head_start
        request = start.request if start is not None else await read_request(self._exchange)
        if start is not None and start.stream is not None:
            self._reply.go_on(start.stream)
        if request.malformed is not None and self._proxy.is_all_ollama:
            raise request.malformed
        operator_options.refuse(request, self._exchange.caller)
        route = await self._routed(request)
        gate = self._proxy.line_gates[route.tier]
        if self._line is not None:
            rates, is_streamed = self._proxy.admission.rates, request.streams
            await self._line.begin(gate, rates, route.served_name, route.weighed, is_streamed=is_streamed)
        if self._proxy.admission.concerns(self._exchange.caller):
            await self._admit(route)
        self._route = route  # from here on its time counts for the tier
        if self._line is None:
            self._gate = gate
            gate.people += 1
            gate.used[route.served_name] = self._exchange.began
            if gate.lines:
                await self._make_room(gate, route)
        if route.engine.cuts_prompts and self._exchange.entry.path in prompt_truncation.COUNTED:
            size = len(self._exchange.body)
            self._reply.lengths_left = partial(self._proxy.lengths_left, route, size)  # without us: that were a circle
        self._refuse(request, route)
        if route.alias:
            self._reply.name_as(route.served_name, request.model)
        request, body = await self._prepared(request, route)
        answer = await self._answered(request, route, body)
        self._reply.is_prompt_truncated = self._uncut is not None and self._uncut.is_cut and answer.status < 400
        try:
            if answer.is_request_sent:  # and the answer may take minutes
                self._exchange.forget_body()
            with self._in_memory(request, route, answer):
                await self._reply.pass_on(answer, route)
        finally:
            answer.close()

    async def _admit(self, route: Route) -> None:
        """Keep to the limits of the key, and to the budget of the fleet."""
        exchange, admission = self._exchange, self._proxy.admission
        self._size = len(exchange.body)
        self._admitted = await admission.admit(exchange.caller, route.tier, len(exchange.body), exchange.at)

    def _in_memory(
        self, request: InferenceRequest, route: Route, answer: UpstreamAnswer
    ) -> AbstractContextManager[None]:
        """Note what the server has in memory for this answer."""
        loaded, (tier, name) = self._proxy.loaded, (route.tier, route.served_name)
        if answer.status == 200 and request.needs_load:
            keep = request.keep_seconds
            return loaded.used(tier, name, dict(request.settings), None if keep is None else timedelta(seconds=keep))
        if answer.status == 200 and request.unloads:
            loaded.unloaded(tier, name)
        return nullcontext()

    def _refuse(self, request: InferenceRequest, route: Route) -> None:
        """Refuse what Ollama would refuse once it has found the model, in its order: options come last."""
        if not route.engine.refuses_as_ollama:
            return
        if request.malformed is not None:
            raise request.malformed
        refusal = request.refusal
        if refusal is None or isinstance(refusal, InvalidOption):
            abilities.refuse(request.wants, request.model, self._proxy.known.find(route.model))
        if refusal is not None:
            raise refusal

    async def _routed(self, request: InferenceRequest) -> Route:
        """Where it goes. A model that is not known may have come a moment ago: that is looked up once."""
        caller, cache, path = self._exchange.caller, self._proxy.route_cache, self._exchange.entry.path
        try:
            return cache.route(caller, request.model, request.context, path)
        except NotFound:
            if not await self._proxy.refresh():
                raise
            return cache.route(caller, request.model, request.context, path)

    async def _prepared(self, request: InferenceRequest, route: Route) -> tuple[InferenceRequest, bytearray]:
        """The request and its body as the server gets them: as they came, where neither has to say something else."""
        exchange, path, engine = self._exchange, self._exchange.entry.path, route.engine
        edits: list[BodyEdit] = []
        if _has_other_name(route, request, path):
            edits.append(naming(request, route.served_name))
        asking_for_usage = None if engine.tells_usage else request.asking_for_usage
        if asking_for_usage is not None:
            edits.append(asking_for_usage)
        if route.settings and request.needs_load:
            context = _context_of(request, route)
            says_it = model_defaults.takes_options(path)
            if path in model_defaults.LOOKED_AT:
                edits += await request.with_defaults(exchange, route.settings, context if says_it else None)
            if context is not None and (says_it or self._proxy.settings_in_manifests):
                self._reply.context_length = context
                if engine.loads_by_request:
                    request = replace(request, settings=with_context(request.settings, context))
        assert isinstance(exchange.body, bytearray)
        if edits:
            edit(exchange.body, edits)
        if asking_for_usage is not None:
            self._reply.take_usage_out()
        if engine.cuts_prompts and prompt_truncation.may_cut(path, len(exchange.body), request):
            self._uncut = prompt_truncation.UncutPrompt(exchange.body)
        request.forget_fields()
        return request, exchange.body

    async def _answered(self, request: InferenceRequest, route: Route, body: bytearray) -> UpstreamAnswer:
        """The head of an answer, from a server that is awake and has the model loaded."""
        cold_starts = self._proxy.cold_starts[route.tier]
        began, until = self._proxy.clock.monotonic(), 0.0
        headers = b"%bx-request-id: %b\r\n" % (self._exchange.to_server, self._exchange.id.encode())
        engine = route.engine
        resets, unseen, pause = 0, 0, FIRST_PAUSE_SECONDS
        while True:
            if not cold_starts.is_ready(route.served_name if request.needs_load else "", request.settings):
                until = until or self._until(route, began)
                await self._ready(request, route, until)
            try:
                session = self._readied.session
                answer = await self._asked(request, route, headers + written(session) if session else headers, body)
            except Unreachable as trouble:
                cold_starts.lost(str(trouble))
                last: Trouble = trouble
            except CutShort as trouble:
                resets += 1
                cold_starts.lost(str(trouble))
                if resets >= RESETS:
                    raise
                last = trouble
            else:
                unseen += answer.status == engine.no_model
                is_final = answer.status != engine.no_model and answer.status not in engine.not_yet
                if is_final or unseen > UNSEEN or not _is_about_a_model(answer, engine):
                    self._note_load(request, route, answer)
                    return answer
                last = await self._not_yet(answer, route)
            until = until or self._until(route, began)
            if _now() + pause > until:
                raise last
            await self._waiting(asyncio.sleep(pause), request, route)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _until(self, route: Route, began: float) -> float:
        """Until when a request is tried again, on the event loop's clock; nearly none needs to know."""
        lasted = self._proxy.clock.monotonic() - began
        return _now() + self._proxy.upstreams[route.tier].startup.total_seconds() - lasted

    def _note_load(self, request: InferenceRequest, route: Route, answer: UpstreamAnswer) -> None:
        """What an answer tells of the model's place in memory, and of how long it was waited for."""
        if (wait := self._readied.wait) is not None and answer.status == 200:
            wait.first_token(is_streamed=request.streams)
        cold_starts = self._proxy.cold_starts[route.tier]
        if request.needs_load and request.is_kept:
            cold_starts.answered(route.served_name, request.settings)
        elif not request.is_kept:
            cold_starts.forget(route.served_name)

    async def _asked(
        self, request: InferenceRequest, route: Route, headers: bytes, body: bytes | bytearray
    ) -> UpstreamAnswer:
        """The head of an answer; where a prompt is refused because it does not fit, of that to what is cut of it."""
        answer = await self._begun(request, route, headers, body)
        if self._uncut is None:
            return answer
        if await self._uncut.is_refused(answer):
            answer = await self._begun(request, route, headers, body)
        return answer

    async def _begun(
        self, request: InferenceRequest, route: Route, headers: bytes, body: bytes | bytearray
    ) -> UpstreamAnswer:
        """The head of an answer. A caller who leaves before it ends the request, unless a load may hang on it."""
        proxy, self._is_asked = self._proxy, True
        client, start = proxy.upstream_clients[route.tier], self._exchange.head_start
        begun = start.take(client) if start is not None else None
        if begun is None and start is not None and start.stream is not None:
            raise ServerTrouble("the answer that has begun is to come from another server now")
        asking = client.ask("POST", self._exchange.entry.path, headers, body, begun=begun)
        is_loaded = proxy.cold_starts[route.tier].is_everywhere(route.served_name, request.settings)
        if not request.needs_load or is_loaded:
            return await asking
        task = asyncio.create_task(asking)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._exchange.is_gone:
                seconds = proxy.upstreams[route.tier].startup.total_seconds()
                proxy.detached.keep(task, seconds, self._exchange.caller.name, self._exchange.keep())
            else:
                task.cancel()
            raise

    async def _not_yet(self, answer: UpstreamAnswer, route: Route) -> Trouble:
        """A server that is not up, or does not know yet what is here: the next try may find it."""
        try:
            text = dialects.error_text(await answer.whole(MOST_ERROR))
        finally:
            answer.close()
        cold_starts = self._proxy.cold_starts[route.tier]
        if answer.status == route.engine.no_model:
            cold_starts.forget(route.served_name)
        else:
            cold_starts.lost(text)
        return Expired(f"tier {route.tier!r} answers {answer.status}: {text}", hint="ask again soon")

    @staticmethod
    async def _make_room(gate: LineGate, route: Route) -> None:
        """Cut lines whose place a person needs, and let their requests to the server end before hers begins."""
        gate.person_came(route.served_name, route.weighed.parallel, route.weighed.tier.parallel)
        await asyncio.sleep(0)

    async def _ready(self, request: InferenceRequest, route: Route, until: float) -> None:
        model, caller = route.served_name if request.needs_load else "", self._exchange.caller
        cold_starts, admission = self._proxy.cold_starts[route.tier], self._proxy.admission
        if self._line is not None:
            self._line.insist_on_waking()
        elif (gate := self._proxy.line_gates[route.tier]).lines:
            await self._make_room(gate, route)  # there may be fewer servers by now
            gate.person_waits(route.served_name)
        if admission.concerns(caller) and cold_starts.is_asleep:
            await admission.insist_on_waking(caller, route.tier)
        if caller.limits.may_hold is False:
            until = min(until, _now() + NOT_HELD)
        is_person = self._line is None
        ready = cold_starts.ready(model, request.settings, until, caller, "request" if is_person else "batch")
        try:
            with nullcontext() if self._line is None else self._line.held():
                self._readied = await self._waiting(ready, request, route)
        except Expired as expired:
            if caller.limits.may_hold is not False:
                raise
            raise TooManyRequests(
                f"key {caller.name!r} may not be held: {expired}", hint=expired.hint, retry_after=expired.retry_after
            ) from expired
        self._woke |= self._readied.woke

    async def _waiting(self, event: Awaitable[T], request: InferenceRequest, route: Route) -> T:
        """Wait for it, telling a caller who reads an event stream what for."""
        began = self._proxy.clock.monotonic()
        try:
            if self._exchange.entry.speech == "ollama" or not request.streams:
                return await event
            return await self._with_comments(asyncio.ensure_future(event), route)
        finally:
            self._held += self._proxy.clock.monotonic() - began

    async def _with_comments(self, event: asyncio.Future[T], route: Route) -> T:
        try:
            while not (await asyncio.wait({event}, timeout=self._proxy.comment_seconds))[0]:
                waits_for = self._proxy.cold_starts[route.tier].waits_for(route.served_name, self._exchange.caller)
                await self._reply.comment(waits_for, route)
            return event.result()
        finally:
            event.cancel()

    def _record(self) -> RequestRecord:
        exchange, reply, route = self._exchange, self._reply, self._route
        tokens = reply.tokens
        return RequestRecord(
            request_id=exchange.id,
            at=exchange.at,
            key=exchange.caller.name,
            model=str(route.model) if route else "",
            tier=route.tier if route else "",
            route=exchange.entry.path,
            dialect=exchange.entry.speech,
            ending=reply.ending,
            status=exchange.status or (499 if reply.ending == "client_gone" else 500),
            prompt_tokens=tokens.prompt,
            output_tokens=tokens.output,
            first_byte_seconds=reply.first_byte_seconds,
            seconds=self._proxy.clock.monotonic() - exchange.began,
            held_seconds=self._held,
            woke=self._woke,
            is_prompt_truncated=reply.is_prompt_truncated,
            alias=route.alias if route else "",
            batch="" if exchange.batch_line is None else exchange.batch_line.batch,
            shared_seconds=None if self._line is None else self._line.shared_seconds,
        )


def taken_by(
    record: RequestRecord, idle_seconds: Mapping[str, float], *, is_asked: bool, least_tokens: int = 0
) -> Taken:
    """What a request took of its key's budgets; by tier, for how long a server waits on that it has woken."""
    if not (tier := record.tier):
        return NOTHING
    tokens = max((record.prompt_tokens or 0) + (record.output_tokens or 0), least_tokens)
    held = {tier: record.held_seconds} if record.held_seconds else {}
    idle = {tier: idle_seconds.get(tier, 0.0)} if record.woke else {}
    cold = held if record.woke else {}
    if record.shared_seconds is not None:  # of a line; while it waited for a server it shared none
        return Taken(int(is_asked), tokens, cold=cold, idle=idle, lines={tier: record.shared_seconds})
    return Taken(int(is_asked), tokens, {tier: record.seconds}, held, cold, idle)


_NOT_WAITED = Ready(woke=False)


def _has_other_name(route: Route, request: InferenceRequest, path: str) -> bool:
    """Whether a server is asked for another name than the request says: for aliases, and where Ollama finds models by
    their exact spelling alone."""
    return bool(route.alias) or (path == "/api/embeddings" and ModelName.parse(request.model) != route.model)


def _context_of(request: InferenceRequest, route: Route) -> int | None:
    """The context that a request gets because one is set for the model; None where it says or gets its own."""
    wanted = route.settings.context_for(request.context)
    return None if wanted == request.context else wanted


def _is_about_a_model(answer: UpstreamAnswer, engine: Engine) -> bool:
    """Whether a 404 is of a model, and not of a path. A 503 counts in any shape: that of Modal's router is text."""
    return answer.status in engine.not_yet or answer.header(b"content-type").startswith(dialects.JSON)


def _now() -> float:
    return asyncio.get_running_loop().time()
