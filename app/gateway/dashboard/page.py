"""The status page at `/ui`: a few files, served as they lie in `ui/`, with headers that let them do little.

The page reads `/ops/v1` with the key that its reader types in. The files themselves tell nothing, so they need no key.
Nothing comes from another host, nothing runs that is not one of these files, and nobody may frame them.

All addresses in them are relative, so the page works below whatever folder a proxy puts it: there is one address at
which its first file is read, and the others that people type lead to it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import Receive, Scope, Send

from app.gateway.protocol.headers import Header

PREFIX = "/ui"
INDEX = "index.html"
FOLDER = Path(__file__).with_name("ui")

TYPES: Mapping[str, bytes] = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

RULES: Mapping[str, str] = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",  # and as no policy is allowed, no text ever becomes markup or code
    "trusted-types": "'none'",
}

POLICY = "; ".join(f"{what} {where}" for what, where in RULES.items())

HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    # Kept, but asked about each time: after an update no browser mixes old files with new ones.
    (b"cache-control", b"no-cache"),
)


@dataclass(frozen=True)
class File:
    body: bytes
    headers: tuple[Header, ...]
    tag: bytes

    @classmethod
    def read(cls, path: Path) -> "File":
        body = path.read_bytes()
        tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
        return cls(body, ((b"content-type", TYPES[path.suffix]), (b"etag", tag), *HEADERS), tag)


class Page:
    """An ASGI application for `/ui` and what is below it. It holds all files in memory: they are small, and few."""

    def __init__(self, folder: Path = FOLDER) -> None:
        files = {path.name: File.read(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES}
        self._files = {PREFIX: files.pop(INDEX), **{f"{PREFIX}/{name}": file for name, file in files.items()}}

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._files)

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Answer a request; its body, if it has one, is left unread."""
        method = scope["method"]
        file = self._files.get(scope["path"])
        if method not in {"GET", "HEAD"}:
            await _answer(send, 405, b"the page is only read\n", (*_TEXT, (b"allow", b"GET, HEAD")), method)
        elif scope["path"] in _TYPED:
            await _answer(send, 308, b"", (*HEADERS, (b"location", b"../ui")), method)
        elif file is None:
            await _answer(send, 404, b"there is no such part of the page; it begins at /ui\n", _TEXT, method)
        elif _has(file.tag, scope["headers"]):
            await _answer(send, 304, b"", file.headers, method)
        else:
            await _answer(send, 200, file.body, file.headers, method)


_TYPED = frozenset({f"{PREFIX}/", f"{PREFIX}/{INDEX}"})
"""Where the first file would be found by other rules than ours; relative to both, it is at `../ui`."""

_TEXT: tuple[Header, ...] = ((b"content-type", b"text/plain; charset=utf-8"), *HEADERS)


def _has(tag: bytes, headers: Sequence[Header]) -> bool:
    """Whether the browser has these very bytes already."""
    tags = b",".join(value for name, value in headers if name.lower() == b"if-none-match")
    return any(each.strip().removeprefix(b"W/") in {tag, b"*"} for each in tags.split(b","))


async def _answer(send: Send, status: int, body: bytes, headers: Sequence[Header], method: str) -> None:
    length = () if status == 304 else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
