"""Which headers pass. Towards a server only those that we know to be harmless and of use there: what stops here need
not be listed, and a credential that is invented tomorrow stops too. Towards the caller all but those of the connection
itself, and what a proxy on the way might add of its own.
"""

import re
from collections.abc import Iterable, Sequence

Header = tuple[bytes, bytes]

TO_SERVER = frozenset(
    {
        b"accept",
        b"accept-language",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"user-agent",
    }
)

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_OF_A_PROXY = frozenset({b"date", b"server", b"set-cookie", b"set-cookie2", b"www-authenticate", b"via", b"alt-svc"})
_OURS = frozenset({b"x-request-id", b"x-served-model", b"x-served-tier", b"x-context-length", b"x-prompt-truncated"})
_STOP = HOP_BY_HOP | _OF_A_PROXY | _OURS
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
"""A header's name."""

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def to_server(headers: Iterable[Header]) -> list[Header]:
    """What of a caller's headers goes on to the server."""
    passed: list[Header] = []
    named: frozenset[bytes] = frozenset()
    for header in headers:
        if header[0] in TO_SERVER:
            passed.append(header)
        elif header[0] == b"connection":
            named |= _named_in_connection((header,))
    if not named.isdisjoint(TO_SERVER):
        passed = [header for header in passed if header[0] not in named]
    return passed


def written(headers: Iterable[Header]) -> bytes:
    """The headers as they are written."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def to_caller(headers: Sequence[Header]) -> list[Header]:
    """What of a server's headers goes on to the caller."""
    passed: list[Header] = []
    named: frozenset[bytes] = frozenset()
    for header in headers:
        name, value = header
        if name not in _STOP and not name.startswith(b"modal-") and not _CONTROL.search(value):
            passed.append(header)
        elif name == b"connection":
            named |= _named_in_connection((header,))
    return [header for header in passed if header[0] not in named] if named else passed


def _named_in_connection(headers: Iterable[Header]) -> frozenset[bytes]:
    return frozenset(
        word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")
    )
