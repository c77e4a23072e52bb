"""Keeps web pages of others out where no key does: a gateway on loopback that asks for none.

A browser on this machine can be made to ask it, by a page that posts here, or by a name that is turned to this address
once the page is open. Ollama's server refuses both (server/routes.go:1803-1839), and so does this: by the name in
`Host`, and by who asks in `Origin`. Programs send no `Origin`, and are not hindered.
"""

import ipaddress
import json
import socket
from collections.abc import Callable, Iterable
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from app.gateway.cross_origin import Origins, host_name
from app.gateway.protocol import dialects
from app.gateway.protocol.exchange import JSON
from app.gateway.protocol.headers import Header
from app.gateway.protocol.routes import clean, speech_of

LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


class OriginGuard:
    """Stands before an application, and lets through what comes from this machine or from a listed origin.

    Args:
        inside: the application.
        origins: the listed ones.
        is_needed: whether it lets everybody in; else whoever comes shows a key.

    """

    def __init__(self, inside: ASGIApp, origins: Origins, is_needed: Callable[[], bool] = lambda: True) -> None:
        self._inside = inside
        self._origins = origins
        self._is_needed = is_needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_looked_at = scope["type"] == "http" and self._is_needed()
        why = _foreign(scope["headers"], self._origins) if is_looked_at else None
        if why is None:
            await self._inside(scope, receive, send)
        else:
            await _refuse(scope, send, why)


def _foreign(headers: Iterable[Header], origins: Origins) -> str | None:
    """Why a request comes from elsewhere; None when it may come from this machine."""
    for name, value in headers:
        if name == b"host" and value and not _names_this_machine(value.decode("latin-1")):
            return f"it was asked for by the name {value.decode('latin-1')[:100]!r}"
        if name == b"origin" and value and not origins.allow(value.decode("latin-1")):
            return f"a page of {value.decode('latin-1')[:100]!r} asked"
    return None


@lru_cache(256)
def _names_this_machine(host: str) -> bool:
    """Whether a `Host` is that of this machine. Nearly all requests have the same one."""
    return is_local(host_name(f"//{host}"))


def is_local(name: str) -> bool:
    """Whether a name can only mean this machine or its own network: nobody else can turn it to another address."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in {"localhost", socket.gethostname().lower()} or name.endswith(LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


async def _refuse(scope: Scope, send: Send, why: str) -> None:
    hint = (
        "ask by the address that `up` printed; or configure keys, which let in whoever has one: `ollama-modal keys new`"
    )
    words = f"without keys this gateway answers its own machine only, and {why}; {hint}"
    speech = speech_of(clean(scope["path"]))
    body = json.dumps(dialects.error(speech, 403, words, "")).encode()
    head = [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 403, "headers": head})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
