"""What each of httpx's errors means here: one table, for every client that speaks HTTP.

`translated` stands around whatever may raise them; nothing from httpx passes beyond it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from jobs.errors import BadRequest, Bug, CutShort, ServerTrouble, Stalled, Trouble, Unreachable

HTTP_ERRORS: dict[type[Exception], type[Trouble]] = {
    # no answer began
    httpx.ConnectError: Unreachable,
    httpx.ConnectTimeout: Unreachable,
    httpx.PoolTimeout: Unreachable,
    httpx.ProxyError: Unreachable,
    # silence
    httpx.ReadTimeout: Stalled,
    httpx.WriteTimeout: Stalled,
    # the connection ended before the answer was whole
    httpx.ReadError: CutShort,
    httpx.WriteError: CutShort,
    httpx.CloseError: CutShort,
    httpx.RemoteProtocolError: CutShort,
    # an answer that makes no sense
    httpx.DecodingError: ServerTrouble,
    httpx.TooManyRedirects: ServerTrouble,
    httpx.HTTPStatusError: ServerTrouble,
    # an address that makes no sense
    httpx.InvalidURL: BadRequest,
    httpx.UnsupportedProtocol: BadRequest,
    # wrong use of httpx by us
    httpx.LocalProtocolError: Bug,
    httpx.CookieConflict: Bug,
    httpx.StreamConsumed: Bug,
    httpx.StreamClosed: Bug,
    httpx.ResponseNotRead: Bug,
    httpx.RequestNotRead: Bug,
}


def http_trouble(error: Exception, *, doing: str) -> Trouble:
    """The Trouble that an error of httpx's means; raise it `from` that error.

    Args:
        error: as httpx raised it.
        doing: what was going on and with whom, as in "asking http://127.0.0.1:11434 for its version".

    """
    for kind in type(error).__mro__:
        if kind in HTTP_ERRORS:
            said = str(error) or type(error).__name__
            return HTTP_ERRORS[kind](f"{doing}: {said}")
    return Bug(f"{doing}: {error!r}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn whatever httpx raises inside into Trouble; anything else passes."""
    try:
        yield
    except tuple(HTTP_ERRORS) as error:
        raise http_trouble(error, doing=doing) from error
