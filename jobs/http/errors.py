"""httpx's errors in our words, in one table: every request of ours is made inside `translated`."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from jobs.core.errors import (
    CutShort,
    Misconfigured,
    NetworkTrouble,
    ServerTrouble,
    Stalled,
    Trouble,
    Unreachable,
    Unsupported,
)
from jobs.core.sanitize import plain

_LONGEST = 300
"""Characters of a library's words, which may be the other side's own."""

MEANING: dict[type[Exception], type[Trouble]] = {
    httpx.ConnectTimeout: Unreachable,
    httpx.PoolTimeout: Unreachable,
    httpx.ConnectError: Unreachable,
    httpx.ProxyError: Unreachable,
    httpx.ReadTimeout: Stalled,
    httpx.WriteTimeout: Stalled,
    httpx.ReadError: CutShort,
    httpx.WriteError: CutShort,
    httpx.CloseError: CutShort,
    httpx.RemoteProtocolError: CutShort,
    httpx.LocalProtocolError: ServerTrouble,
    httpx.DecodingError: ServerTrouble,
    httpx.TooManyRedirects: ServerTrouble,
    httpx.HTTPStatusError: ServerTrouble,
    httpx.UnsupportedProtocol: Unsupported,
    httpx.InvalidURL: Unsupported,
}
"""What each means for whoever asked. A class that is not here is what its nearest ancestor here is."""

LOOPBACK_IS_DIRECT: dict[str, httpx.BaseTransport | None] = dict.fromkeys(
    ("all://127.0.0.1", "all://localhost", "all://[::1]")
)
"""`mounts` of a client: a proxy that the environment names cannot reach our loopback (Go asks none for it either)."""


CERTIFICATE_HINT = "name the file with the certificates to trust in SSL_CERT_FILE, or have that one renewed"
PLAIN_HINT = "it speaks http there: write its address with http://, or its entry among the registries that are listed"

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
"""What OpenSSL calls an answer that is no TLS; which one depends on its version."""


def as_it_is(response: httpx.Response) -> Iterator[bytes]:
    """The body of an answer that was asked for as it is.

    Raises:
        httpx.DecodingError: it came encoded: a few bytes that would stand for any number.

    """
    named = response.headers.get("Content-Encoding", "identity").strip().lower()
    if named not in ("", "identity"):
        raise httpx.DecodingError(f"the answer is encoded as {named!r}, which was not asked for")
    return response.iter_bytes()


def meaning(error: Exception) -> type[Trouble]:
    return next((MEANING[each] for each in type(error).__mro__ if each in MEANING), NetworkTrouble)


def _misconfigured(error: BaseException, said: str) -> Misconfigured | None:
    """What asking again would not change: a certificate that nobody here trusts, or https where http is spoken."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Misconfigured(said, hint=CERTIFICATE_HINT)
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return Misconfigured(said, hint=PLAIN_HINT)
        cause = cause.__cause__ or cause.__context__  # some of httpcore's are raised while the other is handled
    return None


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise our own error, from httpx's, for what goes wrong inside.

    Args:
        doing: what was going on, as in "asking registry.ollama.ai for llama3.2".

    """
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = f"{doing}: {plain(str(error))[:_LONGEST] or type(error).__name__}"
        raise _misconfigured(error, said) or meaning(error)(said) from error
