"""The keys of a gateway anywhere, over HTTP: as documents, as it tells them. A key that is made never travels."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from jobs.access.keys.key_change import KeyChange
from jobs.access.keys.key_words import parse_name
from jobs.access.keys.proofs import SIGNER

Document = Mapping[str, Any]


class RemoteKeys:
    """All of it raises what the gateway says: Unauthorized, Refused, NotFound; NotFound as well where it is older.

    Asking twice for the same does no harm: whoever asks makes the key, and it is one.

    Args:
        ask: asks it for an answer that is no failure, by method and path.

    """

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def all(self) -> Document:
        return self._document("GET", "/keys")

    def get(self, name: str) -> Document:
        return self._document("GET", _path(name))

    def make(self, name: str, proof: str, change: KeyChange) -> Document:
        body = {"name": parse_name(name), **_proof(proof), **change.as_json()}
        return self._entry("POST", "/keys", body)

    def change(self, name: str, change: KeyChange) -> Document:
        return self._document("PATCH", _path(name), json=change.as_json())

    def rotate(self, name: str, proof: str, overlap: timedelta) -> Document:
        body = {"overlap_seconds": int(overlap.total_seconds()), **_proof(proof)}
        return self._entry("POST", f"{_path(name)}/rotate", body)

    def revoke(self, name: str) -> Document:
        return self._document("DELETE", _path(name))

    def _entry(self, method: str, path: str, body: Document) -> Document:
        entry: Document = self._document(method, path, json=body)["entry"]
        return entry

    def _document(self, method: str, path: str, **options: Any) -> Document:
        document: Document = self._ask(method, path, **options).json()
        return document


def _path(name: str) -> str:
    return f"/keys/{parse_name(name)}"


def _proof(proof: str) -> dict[str, str]:
    return {"public_key": proof.removeprefix(SIGNER)} if proof.startswith(SIGNER) else {"hash": proof}
