"""One answer on its way without a task: from a server that was asked, to the caller, or to the task that goes on."""

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

from loguru import logger

from app.engines.answer_tokens import Tokens
from app.gateway.auth.keys import Key
from app.gateway.direct.shared import CallerCycle, Shared
from app.gateway.direct.ways import Way, asking_for_usage
from app.gateway.inference.proxy import HeadStart
from app.gateway.inference.request_log import RequestEnding, RequestRecord
from app.gateway.protocol import dialects
from app.gateway.protocol.errors import headers_of, status_of
from app.gateway.protocol.exchange import JSON
from app.gateway.protocol.header_lines import header_lines
from app.gateway.protocol.headers import Header, to_caller
from app.gateway.protocol.routes import RouteEntry
from app.gateway.protocol.usage_chunk import UsageFilter
from app.gateway.upstream.connection import Connection
from app.gateway.upstream.passed_chunks import BegunStream, passing
from jobs.core.errors import Unauthorized

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_MOST_DOCUMENT = 64 * 1024
"""Bytes of an answer that come before its end, and wait for it."""

_REST_SECONDS = 0.05
"""So long they do: servers write the head and the body of a short answer one after the other."""

_MOST_OF_STREAM = 8 * 1024
"""Bytes of a request that may stay until its stream has ended."""

_NOT_COUNTED = Tokens()
_STREAMS = (dialects.SSE, dialects.NDJSON)


@lru_cache(64)
def _passed(*headers: Header) -> tuple[bytes, bytes]:
    """The type of a server's answer, and what of these headers goes on to the caller, as it is written."""
    content_type = next((value for name, value in headers if name == b"content-type"), b"")
    return content_type, header_lines(*to_caller(headers))


_OF_EACH = frozenset({b"content-length", b"date"})
"""Headers that are others with each answer: nobody is told of one, and the other is told of each."""


class DirectAnswer:
    """One request that a server was asked."""

    __slots__ = (
        "_connection", "_cycle", "_entry", "_is_late_set", "_key", "_shared", "_size", "_start", "_use", "_way",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - made for each request, and by name it would take longer
        self,
        shared: Shared,
        key: Key,
        entry: RouteEntry,
        cycle: CallerCycle,
        start: HeadStart,
        way: Way,
        connection: Connection,
    ) -> None:
        self._shared = shared
        self._key = key
        self._entry = entry
        self._cycle = cycle
        self._start = start
        self._way = way
        self._connection = connection
        self._is_late_set = False
        self._use: AbstractContextManager[None] | None = None
        """Of the model, by a stream."""
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
                logger.opt(exception=error).error("the request to {} failed", self._entry.path)
                goes_on = False
            if not goes_on and self._cycle.direct is self:
                self.hand_over()
        elif connection.is_complete:
            connection.watcher = None  # nothing more may come
            self._shared.answer(self.answer)
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
            logger.opt(exception=error).error("the request to {} failed", self._entry.path)
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
        start, way, path = self._start, self._way, self._entry.path
        content_type, lines = _passed(*[each for each in connection.headers if each[0] not in _OF_EACH])
        is_sent_as_it_is = connection.is_sent and not connection.header(b"content-length")
        if not content_type.startswith(_STREAMS) or not is_sent_as_it_is or self._cycle.flow.write_paused:
            return False
        piece, seconds = connection.take(), self._seconds
        tail = dialects.tail_of(path, content_type, way.route.engine)
        tail.feed(piece)
        usage_filter = None
        if content_type.startswith(dialects.SSE) and asking_for_usage(start.request, way) is not None:
            usage_filter = UsageFilter(path)
            piece = usage_filter.passed(piece)
        self._cycle.begin_stream(b"%b%bx-request-id: %b\r\n" % (lines, way.told, start.id.encode()), piece)
        stream = start.stream = BegunStream(content_type, tail, usage_filter, seconds)
        if self._size > _MOST_OF_STREAM:  # a task forgets it once it is sent
            return False
        way.cold_starts.answered(way.route.served_name, ())
        self._use = self._shared.proxy.loaded.used(way.route.tier, way.route.served_name, {}, None)
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
        way, cycle = self._way, self._cycle
        route, path = way.route, self._entry.path
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
        self._shared.used[way] = None
        self._record("success" if verdict == "whole" else "error", 200, seconds, tokens, seconds)
        return True

    def _is_truncated(self, tokens: Tokens) -> bool:
        """Whether the count of a prompt tells that it was cut."""
        way = self._way
        if not way.counts_prompts or not (lengths := self._shared.proxy.lengths_left(way.route, self._size)):
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
        document = dialects.written_error(self._entry.speech, status, dialects.words_of(why), request_id)
        more = [(name.encode(), value.encode()) for name, value in headers_of(why).items()]
        lines = header_lines((b"content-type", JSON), *more, (b"x-request-id", request_id.encode()))
        self._cycle.answer(status, lines, document)
        self._record("refused", status, self._seconds)

    def _stop_stream(self, stream: BegunStream, status: int, why: Unauthorized) -> None:
        """Say it where the answer has begun: as its end."""
        entry, tail, is_sse = self._entry, stream.tail, stream.content_type.startswith(dialects.SSE)
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
        shared, key, cycle = self._shared, self._key, self._cycle
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
        return self._shared.clock.monotonic() - self._start.began

    def _record(
        self,
        ending: RequestEnding,
        status: int,
        seconds: float,
        tokens: Tokens = _NOT_COUNTED,
        first_byte_seconds: float | None = None,
    ) -> None:
        start, way, entry = self._start, self._way, self._entry
        record = RequestRecord(
            start.id,
            start.at,
            self._key.caller.name,
            way.model,
            way.route.tier,
            entry.path,
            entry.speech,
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
        self._shared.proxy.recorder.add(record)
