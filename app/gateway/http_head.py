"""The head of a request that comes again: on its connection a client sends the same one each time, but for a length.

A head is read by llhttp and judged once. What comes again byte for byte says the same, so it is compared, not read. It
is kept as long as its connection rests or answers, as the last head of a connection is in any case, and nowhere else.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.gateway.direct.shared import Begin

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,10})[ \t]*\r\n", re.IGNORECASE)
_MOST_DIGITS = 10


class ReadHead:
    """A head that was read and let in: with its scope, and what the application found out from it.

    Args:
        before: the bytes before the digits of its `Content-Length`; all of it where it has none.
        after: those behind them; None where it has none.
        scope: as ASGI has it, without what belongs to one request.
        length_at: which of the headers of the scope tells the length.

    """

    __slots__ = ("_after", "_before", "_length_at", "_size", "app", "begin", "decided", "scope")

    def __init__(self, before: bytes, after: bytes | None, scope: dict[str, Any], length_at: int) -> None:
        self._before = before
        self._size = len(before)
        self._after = after
        self._length_at = length_at
        self.scope = scope
        self.decided: Any = None
        """What the application made of the head: for itself, with the next request."""
        self.app: Any = None
        """Answers the next request in place of the whole application, where that has said so."""
        self.begin: Begin | None = None
        """Answers it without a task or has one do it, where the application has said so."""

    @classmethod
    def of(cls, data: bytes, scope: dict[str, Any]) -> "ReadHead | None":
        """The head at the beginning of what came, from which this scope was made; None for one that is not for this.

        That is one whose body comes in chunks, and one whose lines are not simply its headers.
        """
        end = data.find(_END) + len(_END)
        head, headers = data[:end], scope["headers"]
        if head.count(b"\r\n") != len(headers) + 2 or head.count(b"\n") != len(headers) + 2:
            return None
        found = _LENGTH.search(head)
        at = next((at for at, (name, _) in enumerate(headers) if name == b"content-length"), -1)
        own = {name: value for name, value in scope.items() if name not in _OF_ONE_REQUEST}
        if found is None and at < 0 and all(name != b"transfer-encoding" for name, _ in headers):
            return cls(head, None, own, at)
        if found is None or at < 0 or headers[at][1] != found[1]:
            return None
        return cls(head[: found.start(1)], head[found.end(1) :], own, at)

    def again(self, data: bytes) -> tuple[int, bytes] | None:
        """Where the body begins in what came, and its length in digits, if it begins with the same head."""
        if not data.startswith(self._before):
            return None
        if self._after is None:
            return self._size, b""
        end = data.find(b"\r", self._size, self._size + _MOST_DIGITS + 1)
        if end < 0:
            end = data.find(b" ", self._size, self._size + _MOST_DIGITS + 1)
        digits = data[self._size : end]
        if not digits.isdigit() or not data.startswith(self._after, end):
            return None
        return end + len(self._after), digits

    def scope_with(self, length: bytes) -> dict[str, Any]:
        """The scope of a request that has this length."""
        scope = self.scope.copy()
        headers = scope["headers"].copy()
        if self._after is not None:
            headers[self._length_at] = (b"content-length", length)
        scope["headers"] = headers
        return scope


_OF_ONE_REQUEST = frozenset({"state", "extensions"})
