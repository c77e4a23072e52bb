"""What Ollama's own command sends instead of a key, when OLLAMA_AUTH is set: a signature by its `id_ed25519`.

    Authorization: <public key>:<signature>        both base64; the request's query gains `ts=<unix seconds>`

It signs `METHOD,/path?ts=SECONDS` (ollama api/client.go and auth/auth.go), so neither the host nor the body: a
reader of the traffic can use it again for some minutes, as any key that comes in clear. TLS is what prevents that.
"""

import base64
import importlib
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from urllib.parse import parse_qs

from jobs.access.keys.proofs import raw_public_key
from jobs.core.errors import Unauthorized

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
        key = Ed25519PublicKey.from_public_bytes(raw_public_key(public))
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
