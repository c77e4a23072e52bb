"""The three dialects: how each words an error, and how the end of a whole answer is recognised.

An answer is never parsed while it passes. What is kept of it is its tail, and that is read once, at the end: the
terminator, and the engine's own counts of tokens.
"""

import json
import re
from typing import Any, Literal, Protocol

from app.engines.answer_tokens import Tokens, last_count
from app.engines.engine import Engine
from app.engines.ollama import OLLAMA
from app.gateway.protocol.routes import Speech
from jobs.core.errors import Trouble

NDJSON = b"application/x-ndjson"
SSE = b"text/event-stream"
JSON = b"application/json"

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def words_of(trouble: Trouble) -> str:
    """What happened and what to do, in one line: the dialects have no field for a hint."""
    return f"{trouble}; {trouble.hint}" if trouble.hint else str(trouble)


# -- what went wrong ---------------------------------------------------------------------------------------------------


def error(speech: Speech, status: int, text: str, request_id: str) -> dict[str, Any]:
    """The body of an answer that is an error."""
    match speech:
        case "ollama":
            # Of a 401 Ollama's own command reads `status` and nothing else (api/client.go, checkError).
            return {"error": text, "status": text} if status == 401 else {"error": text}
        case "openai":
            kind = _OPENAI_TYPES.get(status, "api_error")
            return {"error": {"message": text, "type": kind, "param": None, "code": None}}
        case "anthropic":
            kind = _ANTHROPIC_TYPES.get(status, "api_error")
            return {"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id}


def written_error(speech: Speech, status: int, text: str, request_id: str) -> bytes:
    """The same as it is written."""
    return _dumped(error(speech, status, text, request_id))


def error_in_stream(
    path: str, speech: Speech, status: int, text: str, request_id: str, *, sequence_number: int = 0
) -> bytes:
    """An error where the status was sent long ago: a last line, or an event that every client takes for an error.

    The events of `/v1/responses` are counted; there it bears this number.
    """
    document = error(speech, status, text, request_id)
    if speech == "ollama":
        return _dumped(document) + b"\n"
    if speech == "anthropic":
        return b"event: error\ndata: " + _dumped(document) + b"\n\n"
    if path == "/v1/responses":
        said = {"type": "error", "code": "server_error", "message": text, "param": None}
        event = {**said, "sequence_number": sequence_number}
        return b"event: error\ndata: " + _dumped(event) + b"\n\n"
    return b"data: " + _dumped(document) + b"\n\n"


def error_text(body: bytes) -> str:
    """What an error of a server says, whatever its shape."""
    try:
        text = json.loads(body)
        while isinstance(text, dict):
            text = text.get("error") or text.get("message") or ""
    except ValueError:
        text = body.decode(errors="replace")
    return str(text).strip()


def comment(text: str) -> bytes:
    """A line of an event stream that clients pass over."""
    return f": {text}\n\n".encode()


def _dumped(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


# -- the end of an answer ----------------------------------------------------------------------------------------------

Verdict = Literal["whole", "error", "cut"]


class Tail(Protocol):
    """The last bytes of an answer, fed piece by piece."""

    kept: bytearray | None
    """Where a piece but the first may be put in place of feeding it: behind what is there, which then is cut to the
    last `LEAST_KEPT` bytes if it has more than `MOST_KEPT`. None where each piece is looked at."""

    def feed(self, piece: bytes) -> None: ...
    def verdict(self) -> Verdict: ...
    def tokens(self) -> Tokens: ...
    def ends_inside(self) -> bool:
        """Whether a line was begun and not ended."""

    def next_sequence_number(self) -> int:
        """The number of the event that comes next, where events are counted."""


_IN_LINES = frozenset({"/api/generate", "/api/chat"})
"""Paths whose answers are lines, one or more."""


def tail_of(path: str, content_type: bytes, engine: Engine = OLLAMA) -> Tail:
    """What to keep of an answer of this type on this route, by what answers."""
    if content_type.startswith(SSE):
        return EventTail(engine)
    if path in _IN_LINES:
        return LineTail()  # streamed or not: the last line says done
    return WholeTail(engine, is_json=content_type.startswith(JSON))


def read_whole(path: str, content_type: bytes, document: bytes, engine: Engine) -> tuple[Verdict, Tokens]:
    """How an answer ended that came in one piece, and what it cost."""
    if path in _IN_LINES or not content_type.startswith(JSON):
        tail = tail_of(path, content_type, engine)
        tail.feed(document)
        return tail.verdict(), tail.tokens()
    if len(document) <= LEAST_KEPT:
        return _document_verdict(document), engine.tokens(document, document)
    return _document_verdict(document[-LEAST_KEPT:]), engine.tokens(document[:LEAST_KEPT], document[-LEAST_KEPT:])


_MOST_LINE = 4 * 1024 * 1024
"""The last frame of /api/generate holds every token of the conversation as a number."""


class LineTail:
    """NDJSON: the last line, whole."""

    kept: bytearray | None = None

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._size = 0
        self._is_ended = False

    def feed(self, piece: bytes) -> None:
        cut = piece.rfind(b"\n", 0, len(piece) - 1)
        if cut >= 0 or self._is_ended:
            self._line = [piece[cut + 1 :]]
            self._size = len(piece)
        elif self._size < _MOST_LINE:
            self._line.append(piece)
            self._size += len(piece)
        self._is_ended = piece.endswith(b"\n")

    def verdict(self) -> Verdict:
        line = b"".join(self._line)
        if len(line) > _LONG_LINE:
            return _long_verdict(line)
        try:
            frame = json.loads(line)
        except ValueError:
            return "cut"
        if not isinstance(frame, dict):
            return "cut"
        if frame.get("error"):
            return "error"
        return "whole" if frame.get("done") is True else "cut"

    def tokens(self) -> Tokens:
        return OLLAMA.tokens(b"", b"".join(self._line)[-LEAST_KEPT:])

    def ends_inside(self) -> bool:
        return bool(self._line) and not self._is_ended

    def next_sequence_number(self) -> int:
        return 0


_LONG_LINE = 64 * 1024
"""Bytes above which a line is searched and not built: that would hold up all others."""


def _long_verdict(line: bytes) -> Verdict:
    """By the quoted name that cannot stand in a text; nothing that long is an error."""
    is_one = line.startswith(b"{") and line.rstrip().endswith(b"}")
    return "whole" if is_one and re.search(rb'"done":true[,}]', line) else "cut"


LEAST_KEPT = 16 * 1024

MOST_KEPT = 24 * 1024
"""Bytes: it is not cut for each piece."""


class _Kept:
    """The first piece and the last bytes, some kilobytes of them; they are not read before the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._first = b""
        self._last = bytearray()
        self.kept: bytearray | None = self._last

    def feed(self, piece: bytes) -> None:
        if not self._first:
            self._first = piece[:LEAST_KEPT]
        self._last += piece
        if len(self._last) > MOST_KEPT:
            del self._last[:-LEAST_KEPT]

    def last(self) -> bytes:
        return bytes(self._last[-LEAST_KEPT:])

    def tokens(self) -> Tokens:
        return self._engine.tokens(self._first, self.last())


_LAST_EVENT = re.compile(rb"(?:^event: (?P<event>[\w.]+)\n)?^data: (?P<data>[^\n]*)\n*\Z", re.MULTILINE)


class EventTail(_Kept):
    """Server-sent events: the last one has to be the one that ends its protocol."""

    def verdict(self) -> Verdict:
        last = self.last()
        if last.endswith((b"data: [DONE]\n\n", b"data: [DONE]")):
            return "whole"
        match = _LAST_EVENT.search(last)
        if match is None:  # one event, longer than what is kept
            return "whole" if self._engine.long_end.search(last) else "cut"
        kind = match["event"] or b""
        if kind in {b"message_stop", b"response.completed"}:
            return "whole"
        is_error = kind in {b"error", b"response.failed"} or match["data"].startswith(b'{"error"')
        return "error" if is_error else "cut"

    def ends_inside(self) -> bool:
        last = self.last()
        return bool(last) and not last.endswith(b"\n\n")

    def next_sequence_number(self) -> int:
        last = last_count(self.last(), (b'"sequence_number":',))
        return 0 if last is None else last + 1


def _document_verdict(last: bytes) -> Verdict:
    return "whole" if last.rstrip().endswith((b"}", b"]")) else "cut"


class WholeTail(_Kept):
    """One document: the framing of HTTP tells whether it is whole, the last byte whether it is one."""

    def __init__(self, engine: Engine, *, is_json: bool) -> None:
        super().__init__(engine)
        self._is_json = is_json

    def verdict(self) -> Verdict:
        return _document_verdict(self.last()) if self._is_json else "whole"

    def ends_inside(self) -> bool:
        return True

    def next_sequence_number(self) -> int:
        return 0
