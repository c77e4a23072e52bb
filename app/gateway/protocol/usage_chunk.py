"""The usage of an OpenAI stream: asked for on the caller's behalf, counted, and taken out again.

Without `stream_options.include_usage` Ollama's `/v1/chat/completions` and `/v1/completions` say of a stream nothing
that could be counted. With it they send one chunk more before `[DONE]`, without choices; those of `/v1/completions`
have a usage of zeros in every other chunk as well (middleware/openai.go). Without these a stream is, byte for byte,
the one that was asked for. A quoted name with a colon behind it cannot stand inside a JSON text.
"""

from app.gateway.protocol.json_body.edits import BodyEdit
from app.gateway.protocol.json_body.fields import Fields

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})

_ASKED = b'"include_usage":true'
_USAGE_CHUNK = b'"choices":[],'
_ZEROS = b',"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}'
_END = b"\n\n"

_MOST_HELD = 64 * 1024
"""Bytes of an event that is not whole yet; the chunk we look for is far shorter."""


def asking(fields: Fields, body: bytes | bytearray) -> BodyEdit | None:
    """How the body of a streamed request asks for the usage; None where it does already, or is no request for one."""
    if not fields.is_there("stream_options"):
        end = body.rindex(b"}")
        return (end, end), b',"stream_options":{%b}' % _ASKED
    options = fields.span("stream_options")
    assert options is not None
    inside = fields.inside("stream_options")
    said = inside.span("include_usage")
    match fields.kind("stream_options"), inside.kind("include_usage"):
        case "null", _:
            return options, b"{%b}" % _ASKED
        case "object", "null" if said is None:
            start = options[0] + 1
            return (start, start), _ASKED + (b"," if fields.is_set("stream_options") else b"")
        case "object", "null" | "bool" if said is not None and not inside.scalar("include_usage"):
            return said, b"true"
        case _:
            return None


class UsageFilter:
    """Takes the usage out of a stream that goes by. Of an event that is not whole yet, its beginning waits here."""

    def __init__(self, path: str) -> None:
        #: What nearly every piece ends with: chunks that have choices, and no usage chunk among them, since that is the
        #: last but `[DONE]`.
        self._plain_end = _ZEROS + _END if path == "/v1/completions" else b"}]}" + _END
        self._has_zeros = path == "/v1/completions"
        self.passes = (self._plain_end,) if not self._has_zeros else ()
        """A piece with one of these ends goes on as it is, while nothing is `held`."""
        self.held = b""
        self.searched = 0
        """Pieces that were searched for the usage chunk; the others were recognised by their end."""

    def passed(self, piece: bytes) -> bytes:
        """What of this piece, and of what waits, goes on now."""
        if not self.held and piece.endswith(self._plain_end):
            return piece.replace(_ZEROS, b"}") if self._has_zeros else piece
        self.searched += 1
        said = self.held + piece
        cut = said.rfind(_END) + len(_END) if _END in said else 0
        whole, self.held = said[:cut], said[cut:]
        if len(self.held) > _MOST_HELD:
            whole, self.held = said, b""
        return _without_usage(whole, has_zeros=self._has_zeros)

    def rest(self) -> bytes:
        """What waits, where a stream ends inside an event."""
        rest, self.held = self.held, b""
        return b"" if _USAGE_CHUNK in rest else rest


def _without_usage(events: bytes, *, has_zeros: bool) -> bytes:
    at = events.find(_USAGE_CHUNK)
    if at >= 0:
        before = events.rfind(_END, 0, at)
        start = before + len(_END) if before >= 0 else 0
        end = events.find(_END, at)
        events = events[:start] + (events[end + len(_END) :] if end >= 0 else b"")
    return events.replace(_ZEROS, b"}") if has_zeros else events
