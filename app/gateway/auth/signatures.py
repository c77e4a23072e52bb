"""What Ollama's own command sends instead of a key, when OLLAMA_AUTH is set: a signature by its `id_ed25519`.

    Authorization: <public key>:<signature>        both base64; the request's query gains `ts=<unix seconds>`

It signs `METHOD,/path?ts=SECONDS` (ollama api/client.go and auth/auth.go), so neither the host nor the body: a
reader of the traffic can use it again for some minutes, as any key that comes in clear. TLS is what prevents that.
"""

import base64
import binascii
import importlib
import struct
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from urllib.parse import parse_qs

from jobs.core.errors import BadRequest, Unauthorized

KIND = "ssh-ed25519"

SKEW = timedelta(minutes=5)
"""How far the clocks of a caller and of the gateway may be apart."""


@dataclass(frozen=True)
class SignedRequest:
    """As much of a request as is signed."""

    method: str
    path: str
    query: str

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> Self:
        """From an ASGI scope, whose path is as it came."""
        return cls(scope["method"], scope["path"], scope.get("query_string", b"").decode("latin-1"))

    @property
    def ts(self) -> str:
        return next(iter(parse_qs(self.query).get("ts", ())), "")


def parse_public_key(text: str) -> str:
    """The public key of an `id_ed25519.pub`, in the one spelling that is compared: its base64.

    Raises:
        BadRequest: it is none.

    """
    words = text.split()
    blob = words[1] if len(words) > 1 and words[0] == KIND else words[0] if words else ""
    try:
        _raw(blob)
    except ValueError as error:
        raise BadRequest(
            "this is no public key of Ollama's", hint=f"the text of ~/.ollama/id_ed25519.pub, which begins with {KIND}"
        ) from error
    return blob


def prepare() -> None:
    """Load now what checks signatures: it is 8 MB, of no use to a gateway that has only keys, and takes some tens
    of milliseconds, which must not come to the event loop with the first signature.
    """
    importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")


def is_signature(authorization: str) -> bool:
    """Whether this is what Ollama's command sends, and no scheme with a key."""
    return ":" in authorization and " " not in authorization


def signer(authorization: str, request: SignedRequest, now: datetime) -> str:
    """The public key that signed this request, just now.

    Raises:
        Unauthorized: it is of another request, another time, or another key than the one that is shown.

    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see `prepare`
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    public, _, signature = authorization.partition(":")
    ts = request.ts
    try:
        key = Ed25519PublicKey.from_public_bytes(_raw(public))
        key.verify(base64.b64decode(signature, validate=True), f"{request.method},{request.path}?ts={ts}".encode())
    except (ValueError, InvalidSignature) as error:
        raise Unauthorized(
            "the signature does not fit this request", hint="Ollama signs when OLLAMA_AUTH=1; or send a key"
        ) from error
    if not ts.isascii() or not ts.isdigit() or len(ts) > 12:
        raise Unauthorized("the signature names no moment", hint="it is for Ollama's own command to make")
    apart = abs(now.timestamp() - int(ts))
    if apart > SKEW.total_seconds():
        raise Unauthorized(
            f"the signature was made {apart:.0f} s from now", hint="set the clock of the machine that asks"
        )
    return public


def _raw(blob: str) -> bytes:
    """The 32 bytes of the key in an SSH public key: two strings, each after its length.

    Raises:
        ValueError: it is of another kind, or nothing at all.

    """
    try:
        data = base64.b64decode(blob, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    head = struct.pack(">I", len(KIND)) + KIND.encode() + struct.pack(">I", 32)
    if not data.startswith(head) or len(data) != len(head) + 32:
        raise ValueError(f"no {KIND} key")
    return data[len(head) :]
