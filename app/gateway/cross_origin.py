"""Lets pages of other origins ask the gateway: which of them may, what they are told before, and what they may read.

A browser asks first, by a preflight that has no key, and shows a page an answer only where its headers allow it, errors
included. Those of Ollama's own default may always (envconfig/config.go, AllowedOrigins): pages of the machine that
shows them, and programs with pages. Where keys are configured, each of them needs one. What a browser keeps by itself,
as cookies, is never allowed along, so no page can use what another one was given.
"""

import ipaddress
import json
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.fleet.schema import Fleet
from app.fleet.values import ORIGIN, ORIGIN_FORM
from app.gateway.protocol import dialects
from app.gateway.protocol.exchange import JSON
from app.gateway.protocol.headers import TOKEN, Header
from app.gateway.protocol.routes import clean, speech_of
from jobs.core.errors import BadRequest

VARIABLE = "OLLAMA_ORIGINS"

PROGRAMS = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
"""Schemes of programs that show pages of their own."""

METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"

EXPOSED = b", ".join(
    (
        *(b"x-request-id", b"x-served-model", b"x-served-tier", b"x-context-length", b"x-prompt-truncated"),
        *(b"x-simulated", b"retry-after", b"www-authenticate"),
    )
)
"""Beside what browsers always show: of these clients make something."""

SECONDS = 43_200
"""How long a browser may remember the answer to a preflight: as with Ollama."""

_MOST_NAMED = 2048


class Origins:
    """Which origins may ask.

    Args:
        listed: beside Ollama's own default; in each `*` may stand once, for anything.

    """

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self._listed = tuple(text.lower().partition("*") for text in listed)

    def allow(self, origin: str) -> bool:
        """Whether a page of this origin may ask."""
        return is_local_page(origin) or any(_fits(each, origin.lower()) for each in self._listed)


def _fits(pattern: tuple[str, str, str], origin: str) -> bool:
    begin, star, end = pattern
    if not star:
        return origin == begin
    return len(origin) >= len(begin) + len(end) and origin.startswith(begin) and origin.endswith(end)


def allowed_origins(environ: Mapping[str, str], fleet: Fleet | None) -> Origins:
    """The origins that the fleet lists and those of OLLAMA_ORIGINS, together.

    Raises:
        BadRequest: an entry of the variable is no origin.

    """
    said = [entry.strip().rstrip("/") for entry in environ.get(VARIABLE, "").strip("\"' ").split(",")]
    said = [entry for entry in said if entry]
    for entry in said:
        if not ORIGIN.fullmatch(entry):
            raise BadRequest(f"{VARIABLE}: {entry[:100]!r} is no origin", hint=ORIGIN_FORM)
    return Origins([*said, *(fleet.gateway.origins if fleet is not None else ())])


def is_local_page(origin: str) -> bool:
    """Whether a page came from this very machine: the others of its network may show what they like."""
    name = host_name(origin)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return origin.partition("://")[0] in PROGRAMS or name == "localhost" or name.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def host_name(address: str) -> str:
    """The host in an address, in small letters; empty for what is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


class CrossOrigin:
    """Stands before an application. What no page sent passes as it is, and so does what a page asks its own server."""

    def __init__(self, inside: ASGIApp, origins: Origins) -> None:
        self._inside = inside
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _header(scope, b"origin") if scope["type"] == "http" else b""
        if not origin or origin.partition(b"://")[2] == _header(scope, b"host"):
            await self._inside(scope, receive, send)
            return
        is_allowed = self._origins.allow(origin.decode("latin-1"))
        if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method"):
            if is_allowed:
                await _answer(send, 204, _preflight(scope, origin))
            else:
                await _refuse(scope, send, origin)
        else:
            await self._inside(scope, receive, _shared(send, origin) if is_allowed else send)


def _header(scope: Scope, wanted: bytes) -> bytes:
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value)
    return b""


def _preflight(scope: Scope, origin: bytes) -> list[Header]:
    """What may be sent: whatever headers the page names, since those that mean nothing here change nothing."""
    named = _header(scope, b"access-control-request-headers")
    names = [name.strip() for name in named[:_MOST_NAMED].split(b",")]
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", b", ".join(name for name in names if TOKEN.fullmatch(name))),
        (b"access-control-max-age", b"%d" % SECONDS),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    ]


def _shared(send: Send, origin: bytes) -> Send:
    """The same, with what lets a page of this origin read the answer."""

    async def send_shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [each for each in message.get("headers", ()) if not each[0].startswith(b"access-control-")]
            more = [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", EXPOSED),
                (b"vary", b"Origin"),
            ]
            message = {**message, "headers": [*own, *more]}
        await send(message)

    return send_shared


async def _refuse(scope: Scope, send: Send, origin: bytes) -> None:
    """For whoever looks into the browser's tools: the page itself learns nothing but that it may not."""
    text = f"a page of {origin[:100].decode('latin-1')!r} may not ask here"
    words = f"{text}; list it under `origins` of [gateway] in the fleet file, or in {VARIABLE}, and start again"
    body = json.dumps(dialects.error(speech_of(clean(scope["path"])), 403, words, "")).encode()
    await _answer(send, 403, [(b"content-type", JSON), (b"vary", b"Origin")], body)


async def _answer(send: Send, status: int, headers: list[Header], body: bytes = b"") -> None:
    length = [(b"content-length", b"%d" % len(body))] if status != 204 else []
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
