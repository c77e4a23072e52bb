"""Answers the common request without a task: passed on as it has come, and its answer as that comes, by callbacks.

Common is a small question by a key without limits, with a head that was let in before on its connection, to a model
that a server has in memory and to which a connection is open; whose answer comes whole, and is one, or is a stream that
goes on as it comes to a caller who takes it. Whatever is not, at whatever point that shows, and be it in the middle of
a stream, is handed to the task that answers every other request (`app`, `inference.proxy`): with
what was found out so far, with the connection on which a server was asked, so that nothing is asked twice, and with
what the caller has of the answer, so that nothing is said twice.

So no rule is told here a second time. What is looked at here is whether a rule has anything to say.

What comes in one turn of the event loop is gone through together at its end, step by step: to come back to the same
code for each of them, from the kernel each time, costs half as much again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from loguru import logger

from app.engines.answer_tokens import Tokens
from app.gateway.auth.keys import Key, Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.http_cycle import HttpCycle, header_lines
from app.gateway.inference import abilities, prompt_truncation
from app.gateway.inference.proxy import HeadStart, Proxy
from app.gateway.inference.request_log import RequestEnding, RequestRecord
from app.gateway.inference.routing import Route
from app.gateway.protocol import dialects, refusals
from app.gateway.protocol.body import Budget
from app.gateway.protocol.errors import headers_of, status_of
from app.gateway.protocol.exchange import JSON
from app.gateway.protocol.headers import Header, to_caller, written
from app.gateway.protocol.json_body.edits import BodyEdit, edit
from app.gateway.protocol.request import InferenceRequest, is_encoded, is_small_kind, small_request
from app.gateway.protocol.routes import RouteEntry
from app.gateway.protocol.usage_chunk import UsageFilter
from app.gateway.upstream.connection import Connection
from app.gateway.upstream.passed_chunks import BegunStream, passing
from jobs.access.limits import NO_LIMITS
from jobs.core.errors import Trouble, Unauthorized

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_AT_ONCE = 10
"""Requests, and answers, that are gone through before others get their turn: they take less than a millisecond."""

_MOST_HEADS = 256
"""Heads that are kept for other connections."""

_MOST_WAYS = 64
"""Names of models whose way is kept for one head."""

_MOST_DOCUMENT = 64 * 1024
"""Bytes of an answer that come before its end, and wait for it."""

_REST_SECONDS = 0.05
"""So long they do: servers write the head and the body of a short answer one after the other."""

_MOST_OF_STREAM = 8 * 1024
"""Bytes of a request that may stay until its stream has ended."""

_NOT_COUNTED = Tokens()


@dataclass(frozen=True, slots=True)
class DecidedHead:
    """What follows from a head alone, so that it holds for each request on a connection that has the same one: its key
    was known and might ask for this. What hangs on the moment, as when the key expires, is looked at each time.
    """

    path: str
    found: tuple[RouteEntry, str]
    key: Key
    known: Keys
    """Among which that key was: of others it has to be found anew."""
    id: str
    """That the head gives to each request; empty where it gives none."""
    to_server: bytes


Begin = Callable[[HttpCycle], object]
"""Answers a request, whose body has come, or has a task answer it."""


class DirectAnswers:
    """What all direct answers share. Belongs to one event loop.

    Args:
        proxy: what other requests to models are answered by.
        keys: who may ask.
        budget: what all bodies may take.

    """

    def __init__(self, proxy: Proxy, keys: LiveKeys, budget: Budget) -> None:
        self.proxy = proxy
        self.clock = proxy.clock
        self.keys = keys
        self.admission = proxy.admission
        self.budget = budget
        #: What has come in this turn of the loop: what servers answered, and what callers ask.
        self._answered: deque[_DirectAnswer] = deque()
        self._asked: deque[tuple[_Head, HttpCycle]] = deque()
        #: Whether the loop will go through them.
        self._goes_on = False
        #: The models that servers answered with in this turn.
        self.used: dict[_Way, None] = {}
        self._heads: dict[tuple[str, str, bytes], _Head] = {}

    def of(self, decided: DecidedHead, headers: Iterable[Header], new_id: Callable[[], str]) -> Begin | None:
        """What answers requests with a head that was let in; None where there is something about all of them.

        Args:
            decided: what was found out from the head.
            headers: of it.
            new_id: names a request.

        """
        entry = decided.found[0]
        is_plain = (
            entry.action == "passed"
            and is_small_kind(entry.path)
            and decided.key.caller.limits is NO_LIMITS
            and not is_encoded(headers)
        )
        return partial(self._ask, self._head_of(decided, new_id)) if is_plain else None

    def _head_of(self, decided: DecidedHead, new_id: Callable[[], str]) -> "_Head":
        """One for all connections on which the same comes."""
        if decided.id:
            return _Head(self, decided, new_id)
        of = decided.key.proof, decided.path, decided.to_server
        head = self._heads.get(of)
        if head is None or head.decided.known is not decided.known:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[of] = _Head(self, decided, new_id)
        return head

    def _ask(self, head: "_Head", cycle: HttpCycle) -> None:
        """Begin with it at the end of this turn."""
        self._asked.append((head, cycle))
        if not self._goes_on:
            self._soon()

    def answer(self, answered: "_DirectAnswer") -> None:
        """Have it answered at the end of this turn."""
        self._answered.append(answered)
        if not self._goes_on:
            self._soon()

    def _soon(self) -> None:
        self._goes_on = True
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Go on with what has come; for no longer than a callback may take, and then once more."""
        answered, asked = self._answered, self._asked
        try:
            for _ in range(min(len(answered), _AT_ONCE)):  # before the others, who then find their connections
                answered.popleft().answer()
            used, self.used = self.used, {}
            for way in used:
                way.note_use()
            for _ in range(min(len(asked), _AT_ONCE)):
                head, cycle = asked.popleft()
                if not head.is_begun(cycle):
                    cycle.start_task()
        finally:  # whatever befell one of them, the others have their turn
            self._goes_on = False
            if answered or asked:
                self._soon()


class _Way:
    """Where requests for a model go, as it was found, for as long as models and aliases stay the same."""

    __slots__ = (
        "_loaded", "beginning", "client", "cold_starts", "counts_prompts", "fit", "gate", "model", "route", "told",
    )  # fmt: skip

    def __init__(self, proxy: Proxy, route: Route, path: str) -> None:
        self.route = route
        self.model = str(route.model)
        self.client = proxy.upstream_clients[route.tier]
        self.beginning = self.client.beginning("POST", path)
        self.counts_prompts = route.engine.cuts_prompts and path in prompt_truncation.COUNTED
        """Whether the count of its prompt may tell that a prompt was cut."""
        self.cold_starts = proxy.cold_starts[route.tier]
        self.gate = proxy.line_gates[route.tier]
        self.told = written(route.told)
        self.fit: refusals.Wants | None = None
        """What the model is known to be able to do."""
        self._loaded = proxy.loaded

    def note_use(self) -> None:
        """A server has just answered with the model."""
        self.cold_starts.answered(self.route.served_name, ())
        self._loaded.answered(self.route.tier, self.route.served_name)


class _Head:
    """Of requests that have the same head: the same key asks for the same path."""

    __slots__ = ("_age", "_new_id", "_ways", "decided", "entry", "key", "shared")

    def __init__(self, shared: DirectAnswers, decided: DecidedHead, new_id: Callable[[], str]) -> None:
        self.shared = shared
        self.entry = decided.found[0]
        self.key = decided.key
        self.decided = decided
        self._new_id = new_id
        self._age = -1
        """Of the routes that `_ways` were made from."""
        self._ways: dict[str, _Way | None] = {}

    def is_begun(self, cycle: HttpCycle) -> bool:
        """Whether a server was asked; else nothing was done, or nothing but what the task goes on from."""
        try:
            return self._is_begun(cycle)
        except Exception as error:  # noqa: BLE001 - a callback's edge: the task, which can tell the caller, goes on
            logger.opt(exception=error).error("the request to {} failed", self.entry.path)
            return cycle.direct is not None

    def _is_begun(self, cycle: HttpCycle) -> bool:
        shared, key, body = self.shared, self.key, cycle.body
        keys, now, at = shared.keys, shared.clock.monotonic(), shared.clock.now()
        if (
            keys.known is not self.decided.known
            or (key.is_of_ledger and now > keys.trusted_until)
            or key.is_over(at)
            or cycle.flow.write_paused
            or cycle.disconnected
            or shared.admission.concerns(key.caller)
            or not shared.budget.has_room(key.caller.name, len(body))
        ):
            return False
        try:
            request = small_request(body, self.entry)
        except Trouble:  # whoever reads it once more says what is wrong with it
            return False
        if request is None:
            return False
        start = cycle.head_start = HeadStart(self.decided.id or self._new_id(), at, now, request)
        if (way := self._way(request, len(body))) is None:
            return False
        headers = b"%bx-request-id: %b\r\n" % (self.decided.to_server, start.id.encode())
        if request.streams and (asking := _asking_for_usage(request, way)) is not None:
            body = body.copy()  # what it came as is for the task
            edit(body, [asking])
        if (connection := way.client.begin(way.beginning, headers, body)) is None:
            return False
        cycle.head_start = None
        keys.is_used = True
        cycle.direct = _DirectAnswer(self, cycle, start, way, connection)
        return True

    def _way(self, request: InferenceRequest, size: int) -> _Way | None:
        """Where it goes now, if no rule has anything to say of it."""
        if not request.is_plain or prompt_truncation.may_cut(self.entry.path, size, request):
            return None
        cache = self.shared.proxy.route_cache
        if cache.age != self._age:
            self._ways.clear()
            self._age = cache.age
        try:
            way = self._ways[request.model]
        except KeyError:
            way = self._ways[request.model] = self._found(request)
            if len(self._ways) > _MOST_WAYS:
                self._ways.clear()
        if way is None or (request.wants is not way.fit and not self._is_fit(way, request)):
            return None
        if way.gate.lines or way.gate.waiting:  # one may have to give way
            return None
        return way if way.cold_starts.is_ready_everywhere(way.route.served_name) else None

    def _found(self, request: InferenceRequest) -> _Way | None:
        proxy = self.shared.proxy
        try:
            route = proxy.route_cache.route(self.key.caller, request.model, None, self.entry.path)
        except Trouble:
            return None
        return _Way(proxy, route, self.entry.path) if proxy.passes_as_it_came(route, request, self.entry.path) else None

    def _is_fit(self, way: _Way, request: InferenceRequest) -> bool:
        if way.route.engine.refuses_as_ollama:
            try:
                abilities.refuse(request.wants, request.model, self.shared.proxy.known.find(way.route.model))
            except Trouble:
                return False
        way.fit = request.wants
        return True


def _asking_for_usage(request: InferenceRequest, way: _Way) -> BodyEdit | None:
    """How the body asks for the usage of its stream, where it is asked for on its caller's behalf."""
    return None if way.route.engine.tells_usage else request.asking_for_usage


_STREAMS = (dialects.SSE, dialects.NDJSON)


@lru_cache(64)
def _passed(*headers: Header) -> tuple[bytes, bytes]:
    """The type of a server's answer, and what of these headers goes on to the caller, as it is written."""
    content_type = next((value for name, value in headers if name == b"content-type"), b"")
    return content_type, header_lines(*to_caller(headers))


_OF_EACH = frozenset({b"content-length", b"date"})
"""Headers that are others with each answer: nobody is told of one, and the other is told of each."""


class _DirectAnswer:
    """One request that a server was asked."""

    __slots__ = ("_connection", "_cycle", "_head", "_is_late_set", "_size", "_start", "_use", "_way")

    def __init__(self, head: _Head, cycle: HttpCycle, start: HeadStart, way: _Way, connection: Connection) -> None:
        self._head = head
        self._cycle = cycle
        self._start = start
        self._way = way
        self._connection = connection
        self._is_late_set = False
        self._use: AbstractContextManager[None] | None = None
        """Of the model, by a stream."""
        shared, key = head.shared, head.key
        self._size = len(cycle.body)
        shared.budget.take(key.caller.name, self._size)
        shared.admission.rates.begin(key.caller.name)
        way.gate.people += 1
        shared.keys.under_way[self._stop] = key
        connection.watcher = self._heard

    def _heard(self) -> None:
        """Something came from the server, or nothing will any more."""
        connection = self._connection
        if self._start.request.streams:
            try:
                goes_on = self._goes_on_streaming(connection)
            except Exception as error:  # noqa: BLE001 - a callback's edge, as below
                logger.opt(exception=error).error("the request to {} failed", self._head.entry.path)
                goes_on = False
            if not goes_on and self._cycle.direct is self:
                self.hand_over()
        elif connection.is_complete:
            connection.watcher = None  # nothing more may come
            self._head.shared.answer(self)
        elif connection.has_failed or (connection.has_head and not self._waits_for_rest(connection)):
            self.hand_over()

    def answer(self) -> None:
        """Answer the caller, if this is still for here, and have the task do it where the answer is not for here."""
        cycle = self._cycle
        if cycle.direct is not self:
            return
        try:
            is_answered = self._connection.is_sent and self._is_answered(self._connection)
        except Exception as error:  # noqa: BLE001 - a callback's edge: the task, which can tell the caller, goes on
            logger.opt(exception=error).error("the request to {} failed", self._head.entry.path)
            if cycle.direct is not self:
                cycle.transport.close()
                return
            is_answered = False
        if not is_answered:
            self.hand_over()

    def _waits_for_rest(self, connection: Connection) -> bool:
        """Whether more of a document is about to come, which would cost more to pass on in pieces."""
        if connection.status != 200 or connection.size >= _MOST_DOCUMENT:
            return False
        if not self._is_late_set:
            self._is_late_set = True
            asyncio.get_running_loop().call_later(_REST_SECONDS, self._late)
        return connection.header(b"content-type").startswith(dialects.JSON)

    def _goes_on_streaming(self, connection: Connection) -> bool:
        """Pass on what has come of a stream; false where the task that passes on all others has to go on from here."""
        stream = self._start.stream
        if stream is None:
            is_begun = connection.has_head and self._is_stream_begun(connection)
            return is_begun or not (connection.has_head or connection.has_failed)
        cycle, usage_filter = self._cycle, stream.usage_filter
        if cycle.flow.write_paused or connection.has_failed:
            return False
        if piece := connection.take():
            stream.pieces += 1
            stream.tail.feed(piece)
            if usage_filter is not None:
                piece = usage_filter.passed(piece)
        if not connection.is_complete:
            cycle.write(piece)
            return True
        verdict = stream.tail.verdict()
        if verdict == "cut":
            cycle.write(piece)
            return False
        tokens, seconds = stream.tail.tokens(), self._seconds
        self._end()
        self._way.client.give_back(connection)
        cycle.write(piece + usage_filter.rest() if usage_filter is not None else piece, is_last=True)
        self._record("success" if verdict == "whole" else "error", 200, seconds, tokens, stream.first_byte_seconds)
        return True

    def _is_stream_begun(self, connection: Connection) -> bool:
        """Whether the caller has the beginning of a good stream, and all that follows is passed on as it comes."""
        if connection.status != 200 or not connection.size or connection.is_complete or connection.has_failed:
            return False
        start, way, path = self._start, self._way, self._head.entry.path
        content_type, lines = _passed(*[each for each in connection.headers if each[0] not in _OF_EACH])
        is_sent_as_it_is = connection.is_sent and not connection.header(b"content-length")
        if not content_type.startswith(_STREAMS) or not is_sent_as_it_is or self._cycle.flow.write_paused:
            return False
        piece, seconds = connection.take(), self._seconds
        tail = dialects.tail_of(path, content_type, way.route.engine)
        tail.feed(piece)
        usage_filter = None
        if content_type.startswith(dialects.SSE) and _asking_for_usage(start.request, way) is not None:
            usage_filter = UsageFilter(path)
            piece = usage_filter.passed(piece)
        self._cycle.begin_stream(b"%b%bx-request-id: %b\r\n" % (lines, way.told, start.id.encode()), piece)
        stream = start.stream = BegunStream(content_type, tail, usage_filter, seconds)
        if self._size > _MOST_OF_STREAM:  # a task forgets it once it is sent
            return False
        way.cold_starts.answered(way.route.served_name, ())
        self._use = self._head.shared.proxy.loaded.used(way.route.tier, way.route.served_name, {}, None)
        self._use.__enter__()
        if self._cycle.chunks_to() is not None:
            connection.receive_by(passing(self._cycle, connection, tail, usage_filter, stream))
        connection.is_awaited = True
        return True

    def _late(self) -> None:
        """The rest did not come at once: what there is goes on."""
        if self._cycle.direct is self:
            self.hand_over()

    def _is_answered(self, connection: Connection) -> bool:
        """Whether the caller has the answer, where it was a whole and good one."""
        head, way, cycle = self._head, self._way, self._cycle
        route, path = way.route, head.entry.path
        if connection.status != 200 or cycle.flow.write_paused:
            return False
        content_type, lines = _passed(*[each for each in connection.headers if each[0] not in _OF_EACH])
        if not content_type.startswith(dialects.JSON):
            return False
        document = connection.come()
        verdict, tokens = dialects.read_whole(path, content_type, document, route.engine)
        if verdict == "cut" or self._is_truncated(tokens):
            return False
        seconds = self._seconds
        self._end()
        way.client.give_back(connection)
        cycle.answer(200, b"%b%bx-request-id: %b\r\n" % (lines, way.told, self._start.id.encode()), document)
        head.shared.used[way] = None
        self._record("success" if verdict == "whole" else "error", 200, seconds, tokens, seconds)
        return True

    def _is_truncated(self, tokens: Tokens) -> bool:
        """Whether the count of a prompt tells that it was cut."""
        way = self._way
        if not way.counts_prompts or not (lengths := self._head.shared.proxy.lengths_left(way.route, self._size)):
            return False
        return tokens.prompt in lengths

    def hand_over(self) -> None:
        """Have the task go on from here that answers every other request."""
        cycle, body = self._cycle, self._cycle.body
        self._end()
        cycle.body = body
        self._start.asked(self._connection, self._way.client)
        cycle.head_start = self._start
        cycle.start_task()

    def gone(self) -> None:
        """Its caller has left: what the server does for it ends."""
        seconds, stream = self._seconds, self._start.stream
        self._end()
        self._way.client.give_back(self._connection)
        if stream is None:
            self._record("client_gone", 499, seconds)
        else:  # some leave as soon as they have read the terminator
            is_whole = stream.tail.verdict() == "whole"
            ending: RequestEnding = "success" if is_whole else "client_gone"
            self._record(ending, 200, seconds, stream.tail.tokens(), stream.first_byte_seconds)

    def _stop(self, why: Unauthorized) -> None:
        """Its key is good no more: say so, in the caller's own shape."""
        self._end()
        self._way.client.give_back(self._connection)
        status, request_id, stream = status_of(why), self._start.id, self._start.stream
        if stream is not None:
            self._stop_stream(stream, status, why)
            return
        document = dialects.written_error(self._head.entry.speech, status, dialects.words_of(why), request_id)
        more = [(name.encode(), value.encode()) for name, value in headers_of(why).items()]
        lines = header_lines((b"content-type", JSON), *more, (b"x-request-id", request_id.encode()))
        self._cycle.answer(status, lines, document)
        self._record("refused", status, self._seconds)

    def _stop_stream(self, stream: BegunStream, status: int, why: Unauthorized) -> None:
        """Say it where the answer has begun: as its end."""
        entry, tail, is_sse = self._head.entry, stream.tail, stream.content_type.startswith(dialects.SSE)
        rest = stream.usage_filter.rest() if stream.usage_filter is not None else b""
        if tail.ends_inside():
            rest += b"\n\n" if is_sse else b"\n"
        number, words = tail.next_sequence_number(), dialects.words_of(why)
        told = dialects.error_in_stream(
            entry.path, entry.speech, status, words, self._start.id, sequence_number=number
        )  # fmt: skip
        self._cycle.write(rest + told, is_last=True)
        self._record("refused", 200, self._seconds, tail.tokens(), stream.first_byte_seconds)

    def _end(self) -> None:
        """It is on its way here no longer."""
        shared, key, cycle = self._head.shared, self._head.key, self._cycle
        self._connection.watcher = None
        self._connection.is_awaited = False
        if self._use is not None:
            self._use.__exit__(None, None, None)
            self._use = None
        del shared.keys.under_way[self._stop]
        shared.admission.rates.end(key.caller.name)
        gate = self._way.gate
        gate.people -= 1
        gate.used[self._way.route.served_name] = shared.clock.monotonic()
        if gate.waiting:
            gate.look()
        shared.budget.take(key.caller.name, -self._size)
        cycle.direct = None
        cycle.body = bytearray()

    @property
    def _seconds(self) -> float:
        return self._head.shared.clock.monotonic() - self._start.began

    def _record(
        self,
        ending: RequestEnding,
        status: int,
        seconds: float,
        tokens: Tokens = _NOT_COUNTED,
        first_byte_seconds: float | None = None,
    ) -> None:
        head, start, way = self._head, self._start, self._way
        record = RequestRecord(
            start.id,
            start.at,
            head.key.caller.name,
            way.model,
            way.route.tier,
            head.entry.path,
            head.entry.speech,
            ending,
            status,
            tokens.prompt,
            tokens.output,
            first_byte_seconds,
            seconds,
            0.0,
            woke=False,
            is_prompt_truncated=self._start.stream is not None and self._is_truncated(tokens),
        )
        head.shared.proxy.recorder.add(record)
