"""Results in the shapes that OpenAI's and Anthropic's clients read. Pure.

OpenAI: developers.openai.com, Batch, "request output object". Anthropic: the results of `/v1/messages/batches`.
"""

import json
from typing import Any, NoReturn

from jobs.batches.records import BatchDialect
from jobs.core import foreign
from jobs.core.errors import Corrupt

_ANTHROPIC_STATES = {"batch_expired": "expired", "batch_cancelled": "canceled"}
"""What a line that was never answered is called there, by our code; any other is an error."""

_ANTHROPIC_ERRORS = {"invalid_request": "invalid_request_error"}
"""What kind of error its clients take it for; any other code is the fault of nobody who asked."""

_ENDS_OF_LINES = (
    (b"\r", b" "),
    (b"\n", b" "),
    ("\x85".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)
"""What Python's `str.splitlines` and others take for the end of a line, and how JSON says the same in one line. The
first two stand between its parts alone, the others in texts alone."""


def line_id(batch_id: str, line: int) -> str:
    """The id of a line's result: the same whenever it is made."""
    return f"batch_req_{batch_id.rpartition('_')[2]}{line:08x}"


def answered(
    dialect: BatchDialect, batch_id: str, line: int, custom_id: str, *, status: int, request_id: str, body: bytes
) -> bytes:
    """The result of a line that was answered, whatever the answer was. The body stays as it came where it is JSON."""
    said = _json_of(body)
    if dialect == "anthropic":
        if status < 400:
            result = b'{"type":"succeeded","message":%b}' % said
        else:
            result = b'{"type":"errored","error":%b}' % said
        return b'{"custom_id":%b,"result":%b}' % (_text(custom_id), result)
    return b'{"id":%b,"custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}' % (
        _text(line_id(batch_id, line)),
        _text(custom_id),
        status,
        _text(request_id),
        said,
    )


def unanswered(dialect: BatchDialect, batch_id: str, line: int, custom_id: str, *, code: str, message: str) -> bytes:
    """The result of a line that has no answer: it was cancelled, the time was over, or nobody could answer it."""
    document: dict[str, Any]
    if dialect == "anthropic":
        state = _ANTHROPIC_STATES.get(code)
        error = {"type": "error", "error": {"type": _ANTHROPIC_ERRORS.get(code, "api_error"), "message": message}}
        document = {
            "custom_id": custom_id,
            "result": {"type": state} if state else {"type": "errored", "error": error},
        }
    else:
        document = {
            "id": line_id(batch_id, line),
            "custom_id": custom_id,
            "response": None,
            "error": {"code": code, "message": message},
        }
    return json.dumps(document, separators=(",", ":")).encode()


def _text(text: str) -> bytes:
    return json.dumps(text).encode()


def _json_of(body: bytes) -> bytes:
    """The body, in one line whoever reads it. What is no JSON by the letter is made such: NaN becomes null, halves of
    characters whole ones; what is none at all is the message of an error."""
    try:
        json.loads(body.decode(), parse_constant=_refused)
    except (ValueError, RecursionError):
        return _mended(body)
    line = body.strip()
    for ends, instead in _ENDS_OF_LINES:
        line = line.replace(ends, instead)
    return line


def _mended(body: bytes) -> bytes:
    try:
        return json.dumps(foreign.document(body, "the answer"), separators=(",", ":")).encode()
    except Corrupt:
        text = body[:1000].decode("utf-8", "replace")
        return json.dumps({"error": {"message": text, "type": "server_error", "param": None, "code": None}}).encode()


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
