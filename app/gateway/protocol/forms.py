r"""The one way in which a form may be written here, so that no two readers can cut it differently.

    --B CRLF  (head line CRLF)+  CRLF  content  (CRLF --B CRLF …)*  CRLF --B--  CRLF?

with nothing before, between or behind; CRLF --B inside a content ends it, whatever follows. Go's mime/multipart takes
far more: line feeds alone, folded heads, text around the parts, encoded contents. Such forms are refused, and what
passes it reads as we do. Clients write what stands here.
"""

import re
from collections.abc import Iterable

from app.gateway.protocol.headers import Header
from app.gateway.protocol.json_body.edits import Body, ValueSpan
from jobs.core.errors import BadRequest
from jobs.core.units import counted

MOST_PARTS = 64
"""Go takes a thousand; a transcription has ten fields."""

MOST_HEAD = 2 * 1024
"""Bytes of a part's head."""

MOST_VALUE = 1024
"""Bytes of a field that decides something."""

_STEP = 1 << 20
"""Bytes that one search looks at: so long it keeps the interpreter."""

_CHARSET = rb"(?:; ?charset=[0-9A-Za-z_-]{1,40})?"
_TYPE = re.compile(
    rb"multipart/form-data"
    + _CHARSET
    + rb"; ?boundary=(?:([0-9A-Za-z'+_.-]{1,70})|\"([0-9A-Za-z'()+_,./:=?-]{1,70})\")"
    + _CHARSET,
    re.IGNORECASE,
)
_TOKEN = rb"[0-9A-Za-z_.\[\]-]{1,100}"
_QUOTED = rb'"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"'
_DISPOSITION = re.compile(
    rb"form-data; ?name=(?:([0-9A-Za-z_.-]{1,100})|\"(" + _TOKEN + rb")\")"
    rb"(; ?filename=(?:[0-9A-Za-z_.-]+|" + _QUOTED + rb"))?(; ?filename\*=[0-9A-Za-z!#$&+.^_`|~%'-]+)?"
)
_LINE = re.compile(rb"([A-Za-z-]{1,40}): ?([^\x00-\x08\x0a-\x1f\x7f]*)")
_HARMLESS = {
    b"content-type": re.compile(rb"[^\x80-\xff]{1,300}"),
    b"content-length": re.compile(rb"[0-9]{1,20}"),
    b"content-transfer-encoding": re.compile(rb"(?:binary|8bit|7bit)"),  # Go would decode quoted-printable
}


def field_of(body: Body, headers: Iterable[Header], field: str) -> tuple[str, ValueSpan]:
    """The one field of this name in a form, and where its content stands.

    Raises:
        BadRequest: there is none, or more than one, or the form is not written as it may be.

    """
    types = [value for name, value in headers if name == b"content-type"]
    form_type = _TYPE.fullmatch(types[0]) if len(types) == 1 else None
    if form_type is None:
        raise BadRequest(
            "the body is no form", hint=f"send multipart/form-data with {field!r} and `file`, and a boundary"
        )
    values = []
    for name, is_file, start, end in _parts(body, b"--" + (form_type[1] or form_type[2])):
        if name == field:
            if is_file or end - start > MOST_VALUE:
                raise BadRequest(f"{field!r} of the form is a file, or too long", hint="send it as a plain field")
            values.append((start, end))
    if len(values) != 1:
        raise BadRequest(f"the form has {counted(len(values), 'field')} {field!r}", hint="send one")
    ((start, end),) = values
    return bytes(body[start:end]).decode("utf-8", "replace"), (start, end)


def _parts(body: Body, boundary: bytes) -> Iterable[tuple[str, bool, int, int]]:
    """Name, whether it is a file, and where its content stands, of each part."""
    if not body.startswith(boundary + b"\r\n"):
        raise BadRequest("the form does not begin with its boundary")
    at = len(boundary)
    delimiter = b"\r\n" + boundary
    for _ in range(MOST_PARTS):
        head, start = _head(body, at + 2)
        # From the empty line's own end: a boundary right behind it would end the part before it has a content.
        end = _find(body, delimiter, start - 2)
        if end < start:
            raise BadRequest("a part of the form has no end" if end < 0 else "a part of the form has no content")
        yield (*_named(head), start, end)
        at = end + len(delimiter)
        if body[at : at + 2] != b"\r\n":
            if bytes(body[at : at + 5]) in {b"--", b"--\r\n"}:
                return
            raise BadRequest("the form does not end with its boundary", hint="nothing may come behind it")
    raise BadRequest(f"the form has more than {MOST_PARTS} parts", hint="send fewer fields")


def _head(body: Body, start: int) -> tuple[bytes, int]:
    """The head that begins there, and where what follows it begins."""
    end = body.find(b"\r\n\r\n", start, start + MOST_HEAD)
    if end < 0:
        raise BadRequest("a part of the form has no head, or too long a head")
    return bytes(body[start:end]), end + 4


def _named(head: bytes) -> tuple[str, bool]:
    """Whose content it is, and whether it is a file."""
    lines = [_LINE.fullmatch(line) for line in head.split(b"\r\n")]
    fields = {line[1].lower(): line[2] for line in lines if line}
    disposition = _DISPOSITION.fullmatch(fields.pop(b"content-disposition", b""))
    if (
        len(fields) + 1 != len(lines)  # each line is one, and none is said twice
        or disposition is None
        or not all(name in _HARMLESS and _HARMLESS[name].fullmatch(value) for name, value in fields.items())
    ):
        raise BadRequest(
            "the head of a part of the form is not as clients write it",
            hint='send `Content-Disposition: form-data; name="…"`, for a file with a filename, and a Content-Type',
        )
    return (disposition[1] or disposition[2]).decode(), bool(disposition[3] or disposition[4])


def _find(body: Body, what: bytes, start: int) -> int:
    """As `bytes.find`, but other threads get the interpreter after each step."""
    while start < len(body):
        if (at := body.find(what, start, start + _STEP + len(what))) >= 0:
            return at
        start += _STEP
    return -1
