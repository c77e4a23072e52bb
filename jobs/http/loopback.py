"""Asks a server of this machine over plain HTTP, with what the standard library has: httpx takes longer to import than
such an answer takes. One question, one connection; no proxy, no redirect, no encoding.
"""

import json as json_of
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage
from socket import create_connection
from typing import Any
from urllib.parse import urlencode, urlsplit

from jobs.core.errors import CutShort, Stalled, Unreachable

HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""Those that `jobs.http.errors.LOOPBACK_IS_DIRECT` names."""


def is_plain_loopback(url: str) -> bool:
    """Whether it can be asked from here in this way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in HOSTS and not parts.username


@dataclass(frozen=True)
class Headers:
    """Of an answer; their case does not matter."""

    message: HTTPMessage

    def get(self, name: str, default: Any = None, /) -> Any:
        return self.message.get(name, default)


@dataclass(frozen=True)
class Answer:
    """What came, in the words of `httpx.Response`."""

    status_code: int
    headers: Headers
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        return json_of.loads(self.content)


class LoopbackClient:
    """What is asked of `httpx.Client` for short answers. Threads may share one: it keeps nothing.

    Args:
        patience: how many seconds a server may be silent.

    """

    def __init__(self, patience: float) -> None:
        self._patience = patience

    def close(self) -> None:
        """Nothing stays open between two requests."""

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Answer:
        """The whole answer, whatever its status.

        Raises:
            Unreachable: nothing listens there, or it takes no connection in time.
            Stalled: it says nothing for so long.
            CutShort: what came is no whole answer.

        """
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{urlencode(params)}" if params else "")
        body = None if json is None else json_of.dumps(json).encode()
        typed = {} if body is None else {"content-type": "application/json"}
        patience = timeout or self._patience
        connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=patience)
        try:
            try:
                # As bytes: a name in text would be encoded by rules that take long to import, and loopback has none.
                address: Any = ((parts.hostname or "").encode(), parts.port or 80)
                connection.sock = create_connection(address, patience)
            except OSError as error:
                raise Unreachable(error.strerror or str(error)) from error
            try:
                connection.request(method, target, body, {"accept": "*/*", **(headers or {}), **typed})
                answer = connection.getresponse()
                return Answer(answer.status, Headers(answer.headers), answer.read())
            except TimeoutError as error:
                raise Stalled(f"it has said nothing for {patience:g} s") from error
            except (OSError, HTTPException) as error:
                raise CutShort(str(error) or type(error).__name__) from error
        finally:
            connection.close()
