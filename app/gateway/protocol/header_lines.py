"""Headers of an answer as they are written to its caller; one that cannot be a header is refused."""

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE

from app.gateway.protocol.headers import Header


def header_line(name: bytes, value: bytes) -> bytes:
    """A header as it is written.

    Raises:
        RuntimeError: it cannot be one.

    """
    if HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if HEADER_VALUE_RE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    return b"%b: %b\r\n" % (name, value)


def header_lines(*headers: Header) -> bytes:
    """Headers as they are written.

    Raises:
        RuntimeError: one cannot be one.

    """
    return b"".join([header_line(name, value) for name, value in headers])
