"""What the caller of a passed request is sent: a server's answer as it comes, or an error in the caller's own shape.

An answer that has begun cannot take its status back: what goes wrong then is its last event or line, where the dialect
has one. `ending` is what was seen of its end.
"""

from collections.abc import Callable
from functools import lru_cache, partial

from app.engines.answer_tokens import Tokens
from app.gateway.auth.admission import BYTES_A_TOKEN
from app.gateway.inference.answer_name import AnswerName
from app.gateway.inference.request_log import RequestEnding
from app.gateway.inference.routing import Route
from app.gateway.protocol import dialects
from app.gateway.protocol.errors import headers_of, status_of
from app.gateway.protocol.exchange import Exchange
from app.gateway.protocol.headers import Header, to_caller
from app.gateway.protocol.usage_chunk import UsageFilter
from app.gateway.upstream.holding import Expired, LoadFailed
from app.gateway.upstream.passed_chunks import BegunStream, passing
from app.gateway.upstream.upstream_client import UpstreamAnswer
from app.model_server.start_failures import CannotStart
from jobs.core.clock import Clock
from jobs.core.errors import CutShort, ServerTrouble, Stalled, Trouble, Unreachable

_ENDED_EARLY = frozenset({"client_gone", "upstream_cut", "timeout"})

MOST_GUESSED = 8_192
"""Tokens of a prompt, where nobody counted them: in a picture there are many bytes, and few tokens."""

LengthsLeft = Callable[[], frozenset[int]]

_MOST_DOCUMENT = 64 * 1024
"""Bytes of a document whose end is waited for."""

MOST_ERROR = 1024 * 1024
"""Bytes that are read of a server's error."""


class CallerReply:
    """The answer to one request."""

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self.ending: RequestEnding = "error"
        self.first_byte_seconds: float | None = None
        self.pieces = 0
        """Of the server's answer, so far; while a model writes, each is a token or more."""
        self.is_prompt_truncated = False
        """Whether the model was given less than the prompt, as far as it is known."""
        self.lengths_left: LengthsLeft = frozenset
        """Counts of prompt tokens that give away a prompt that was cut, where there are such."""
        self._exchange = exchange
        self._clock = clock
        self._tail: dialects.Tail | None = None
        self._content_type = b""
        self._is_uncut = False
        """That nothing of the prompt was cut is known."""
        self.context_length: int | None = None
        """The context that the request got from the operator, in place of its own or of none."""
        self._name: AnswerName | None = None
        self._usage_filter: UsageFilter | None = None
        self._begun: BegunStream | None = None

    @property
    def tokens(self) -> Tokens:
        return self._tail.tokens() if self._tail else Tokens()

    def tokens_about(self, size: int) -> int:
        """How many tokens an answer took whose end, which counts them, never came; `size` is that of the request. Else
        whoever leaves just before the end would never use any up.
        """
        pieces = self.pieces + (self._begun.pieces if self._begun is not None else 0)
        is_left = self.ending != "success" and (pieces or self.ending in _ENDED_EARLY)
        prompt, output = self.tokens
        if output or not is_left:  # at its beginning Anthropic's dialect counts none yet
            return 0
        return pieces + (min(size // BYTES_A_TOKEN, MOST_GUESSED) if prompt is None else prompt)

    def caller_left(self) -> None:
        """Some clients leave as soon as they have read the terminator; then all of the answer was theirs."""
        is_whole = self._tail is not None and self._tail.verdict() == "whole"
        self.ending = "success" if is_whole else "client_gone"

    def take_usage_out(self) -> None:
        """Keep the usage of the stream from its caller, who has not asked for it."""
        if self._begun is None:
            self._usage_filter = UsageFilter(self._exchange.entry.path)

    def go_on(self, begun: BegunStream) -> None:
        """Go on from there, whatever becomes of it."""
        self._begun = begun
        self._content_type, self._tail, self._usage_filter = begun.content_type, begun.tail, begun.usage_filter
        self.first_byte_seconds = begun.first_byte_seconds

    async def comment(self, text: str, route: Route) -> None:
        """A comment line of an event stream, which begins with it if need be."""
        await self._begin(200, [(b"content-type", dialects.SSE)], route)
        await self._exchange.write(dialects.comment(text))

    def name_as(self, served: str, asked: str) -> None:
        """Have the model's name in the answer be the one that was asked for."""
        self._name = AnswerName(served, asked)

    async def pass_on(self, answer: UpstreamAnswer, route: Route) -> None:
        """Pass on what a server answers.

        Raises:
            ServerTrouble: it is not what an Ollama answers.
            CutShort: it ended before its end.

        """
        if answer.status >= 400:
            await self._refuse(answer, route)
        else:
            await self._relay(answer, route)

    async def fail(self, trouble: Trouble) -> None:
        """Say what went wrong."""
        self.ending = _ending_of(trouble)
        status = trouble.status if isinstance(trouble, LoadFailed) else status_of(trouble)
        more = [(name.encode(), value.encode()) for name, value in headers_of(trouble).items()]
        await self._error(status, dialects.words_of(trouble), more)

    async def _begin(self, status: int, headers: list[Header], route: Route) -> None:
        """The head, unless it has been sent already."""
        if self._exchange.status:
            return
        for name, value in headers:
            if name == b"content-type":
                self._content_type = value
                break
        told = [*headers, *route.told]
        if self.context_length is not None:
            told.append((b"x-context-length", b"%d" % self.context_length))
        if self.is_prompt_truncated:
            told.append((b"x-prompt-truncated", b"true"))
        await self._exchange.begin(status, told)

    async def _relay(self, answer: UpstreamAnswer, route: Route) -> None:
        """Pass an answer on as it comes, then look at how it ended."""
        if self._begun is not None:
            await self._pass_stream_on(answer, self._begun.tail, self._begun.usage_filter)
            return
        content_type, path = answer.header(b"content-type"), self._exchange.entry.path
        is_stream = content_type.startswith(dialects.SSE)
        if not _is_ollamas(content_type, path) or (self._exchange.status and not is_stream):
            shown = content_type.decode("latin-1") or "no type"
            raise ServerTrouble(f"the server answered {answer.status} with {shown!r}")
        tail = self._tail = dialects.tail_of(path, content_type, route.engine)
        usage_filter = self._usage_filter if is_stream else None
        headers = to_caller(answer.headers)
        if usage_filter is not None or self._name is not None:  # which change its length
            headers = [header for header in headers if header[0] != b"content-length"]
        if content_type.startswith(dialects.JSON):
            if self.lengths_left():
                await self._pass_document_on(answer, tail, headers, route)
                return
            self._is_uncut = True
        await self._begin(answer.status, headers, route)
        await self._pass_stream_on(answer, tail, usage_filter)

    async def _pass_stream_on(
        self, answer: UpstreamAnswer, tail: dialects.Tail, usage_filter: UsageFilter | None
    ) -> None:
        """Pass on what comes behind the head, and look at how it ended."""
        answer.pass_to(partial(self._pass_piece, tail, usage_filter, answer))
        while piece := await self._read(answer, tail):  # the first, those that were not taken, and the last
            if usage_filter is not None:
                piece = usage_filter.passed(piece)  # from here on, what the caller is sent
            if answer.is_over and self._is_ended(tail):  # the last piece and the end go out as one packet
                await self._exchange.end(self._named(piece + self._rest(), is_last=True))
                return
            if piece := self._named(piece):
                await self._exchange.write(piece)
        if held := self._named(b"", is_last=True):
            await self._exchange.write(held)
        self._need_end(tail)
        await self._exchange.end(self._named(self._rest(), is_last=True))

    def _pass_piece(
        self,
        tail: dialects.Tail,
        usage_filter: UsageFilter | None,
        answer: UpstreamAnswer,
        piece: bytes,
        chunk: bytes,
    ) -> bool:
        """Pass on a piece that is not the last, unless the caller has to take others before; `chunk` is the same as one
        chunk, where it came as that."""
        connection = self._exchange.connection
        if self._name is not None or (
            usage_filter is not None and (usage_filter.held or not piece.endswith(usage_filter.passes))
        ):
            return self._pass_changed(tail, usage_filter, piece)
        if not connection.write_chunk(piece, chunk):  # as nearly all
            return False
        self.pieces += 1
        self._note(piece, tail)
        if chunk and (caller := connection.chunks_to()) is not None:
            answer.receive_by(passing(caller, answer.connection, tail, usage_filter, self))
        return True

    def _pass_changed(self, tail: dialects.Tail, usage_filter: UsageFilter | None, piece: bytes) -> bool:
        """The same of a piece of which the caller may be sent something else."""
        connection = self._exchange.connection
        if connection.is_full:
            return False
        self.pieces += 1
        self._note(piece, tail)
        if usage_filter is not None:
            piece = usage_filter.passed(piece)
        if self._name is not None:
            piece = self._name.feed(piece)
        if piece:
            connection.write(piece)
        return True

    async def _pass_document_on(
        self, answer: UpstreamAnswer, tail: dialects.Tail, headers: list[Header], route: Route
    ) -> None:
        """Pass on one document, its end before its head: what its end tells stands there. A long one does not wait."""
        whole = b""
        while len(whole) < _MOST_DOCUMENT and (piece := await self._read(answer, tail)):
            whole += piece
            if answer.is_over:
                break
        is_ended = answer.is_over and self._is_ended(tail)
        await self._begin(answer.status, headers, route)
        if is_ended:
            await self._exchange.end(self._named(whole, is_last=True))
            return
        await self._exchange.write(self._named(whole))
        while piece := await self._read(answer, tail):
            await self._exchange.write(self._named(piece))
        if held := self._named(b"", is_last=True):
            await self._exchange.write(held)
        self._need_end(tail)
        await self._exchange.end()

    def _named(self, piece: bytes, *, is_last: bool = False) -> bytes:
        """A piece with the name that was asked for; of one that is not the last, what can go on now."""
        if self._name is None:
            return piece
        return self._name.feed(piece) + (self._name.rest() if is_last else b"")

    async def _read(self, answer: UpstreamAnswer, tail: dialects.Tail) -> bytes:
        piece = answer.take() or await answer.read()
        if piece:
            self.pieces += 1
            self._note(piece, tail)
        return piece

    def _note(self, piece: bytes, tail: dialects.Tail) -> None:
        if self.first_byte_seconds is None:
            self.first_byte_seconds = self._clock.monotonic() - self._exchange.began
        tail.feed(piece)

    def _need_end(self, tail: dialects.Tail) -> None:
        if not self._is_ended(tail):
            raise CutShort("the server ended its answer before the end")

    def _rest(self) -> bytes:
        """What of the answer has come and was not passed on."""
        return self._usage_filter.rest() if self._usage_filter is not None else b""

    def _is_ended(self, tail: dialects.Tail) -> bool:
        """Whether the answer ended as its protocol wants it to, well or not; and notes which."""
        verdict = tail.verdict()
        self.ending = "success" if verdict == "whole" else "error"
        self._count(tail)
        return verdict != "cut"

    def _count(self, tail: dialects.Tail) -> None:
        """Note what the count of its tokens tells of the prompt."""
        if not self._is_uncut and (lengths := self.lengths_left()):
            self.is_prompt_truncated = tail.tokens().prompt in lengths

    async def _refuse(self, answer: UpstreamAnswer, route: Route) -> None:
        """Pass a server's own refusal on as it is, where it is in the caller's shape."""
        body = await answer.whole(MOST_ERROR)
        text = dialects.error_text(body) or f"the server answered {answer.status}"
        if answer.status in {401, 407}:  # meant for us, from a proxy on the way
            raise ServerTrouble(f"the way to the server is closed to the gateway: {text[:200]}")
        self.ending = "refused" if answer.status < 500 else "error"
        if self._exchange.status or not self._is_in_the_callers_shape(answer, route):
            await self._error(answer.status, text[:500])
            return
        headers = [header for header in to_caller(answer.headers) if header[0] != b"content-length"]
        await self._begin(answer.status, [*headers, (b"content-length", b"%d" % len(body))], route)
        await self._exchange.write(body)
        await self._exchange.end()

    def _is_in_the_callers_shape(self, answer: UpstreamAnswer, route: Route) -> bool:
        words_in = route.engine.errors_in
        is_own = words_in is None or words_in == self._exchange.entry.speech
        return is_own and answer.header(b"content-type").startswith(dialects.JSON)

    async def _error(self, status: int, text: str, more: list[Header] | None = None) -> None:
        """An error in the caller's own shape: as the answer, or as the end of one that has begun."""
        exchange, entry = self._exchange, self._exchange.entry
        if not exchange.status:
            await exchange.answer(dialects.error(entry.speech, status, text, exchange.id), status, more=more or ())
        elif self._content_type.startswith((dialects.SSE, dialects.NDJSON)):
            tail = self._tail
            if rest := self._rest():
                await exchange.write(rest)
            if tail is not None and tail.ends_inside():
                await exchange.write(b"\n\n" if self._content_type.startswith(dialects.SSE) else b"\n")
            number = tail.next_sequence_number() if tail is not None else 0
            told = dialects.error_in_stream(entry.path, entry.speech, status, text, exchange.id, sequence_number=number)
            await exchange.write(told)
            await exchange.end()
        # else one document was cut: nothing can be added to it, and its missing end shows it


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


@lru_cache(256)
def _is_ollamas(content_type: bytes, path: str) -> bool:
    """Whether Ollama answers so; else it is some other program's page."""
    if path == "/v1/audio/transcriptions" and content_type.startswith(b"text/"):
        return True
    return content_type.startswith((dialects.JSON, dialects.NDJSON, dialects.SSE))
