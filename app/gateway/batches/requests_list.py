"""The body of a batch of messages, read as it comes: each of its `requests` goes on as soon as it is there.

    {"requests": [{"custom_id": "…", "params": {…}}, …], other members}

So a body of a hundred thousand requests takes no more memory than its largest. Read by one thread at a time; what it
holds never gets into a message.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from app.gateway.protocol.errors import TooLarge
from jobs.core.errors import BadRequest, Corrupt
from jobs.core.foreign import document, fields

MOST_REST = 64 * 1024
"""Bytes of all other members, and of what stands between two requests."""

MOST_DEPTH = 200
"""Lists and objects inside each other."""

_STEP = 64 * 1024
"""Bytes that one search looks at: so long it keeps the interpreter."""

_MARK = re.compile(rb'["\[\]{}]')
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""Of a text, up to its end or half an escape."""

_BEFORE_LIST = re.compile(rb'"requests"[ \t\r\n]*:[ \t\r\n]*\Z')
_BLANKS = b" \t\r\n"


class RequestsList:
    """
    Args:
        take: is handed each request as it stands in the body: what stands in braces, be it JSON or not.
        most_bytes: the most that one of them may have.

    """

    def __init__(self, take: Callable[[bytes], None], *, most_bytes: int) -> None:
        self._take = take
        self._most = most_bytes
        #: All of it belongs to the thread that feeds.
        self.count = 0
        """Requests so far."""
        self._rest = bytearray()
        """The body without its requests."""
        self._kept = bytearray()
        """What came and was not handed on."""
        self._begin = 0
        """Where in that the request begins, or what stands around it."""
        self._at = 0
        """So far it was gone through."""
        self._depth = 0
        self._is_in_text = False
        self._where: Literal["outside", "between", "request"] = "outside"
        self._has_list = False

    def feed(self, piece: bytes) -> None:
        """Read what comes next.

        Raises:
            BadRequest: it is no such body.
            TooLarge: one of the requests has more bytes than it may have.

        """
        for start in range(0, len(piece), _STEP):
            self._kept += piece[start : start + _STEP]
            while self._goes_on():
                pass
            self._forget()

    def members(self) -> Mapping[str, Any]:
        """The other members, when all of it has come.

        Raises:
            BadRequest: it is not whole, or no JSON, or has no request.

        """
        try:
            rest = fields(document(bytes(self._rest), "the body", is_strict=True))
        except Corrupt as error:
            raise BadRequest("the body is no JSON, or not whole", hint=_SEND) from error
        if not self._has_list or self._where != "outside":
            raise BadRequest("the body has no list of `requests`", hint=_SEND)
        if not self.count:
            raise BadRequest("the list of `requests` is empty", hint=_SEND)
        return {name: value for name, value in rest.items() if name != "requests"}

    def _goes_on(self) -> bool:
        """Go on to the next bracket or text; false where there is none yet."""
        if self._is_in_text:
            inside = _INSIDE.match(self._kept, self._at)
            assert inside is not None  # it also matches nothing
            self._at = inside.end()
            if self._kept[self._at : self._at + 1] != b'"':
                return False
            self._at += 1
            self._is_in_text = False
            return True
        found = _MARK.search(self._kept, self._at)
        if found is None:
            self._at = len(self._kept)
            return False
        self._at = found.end()
        if found[0] == b'"':
            self._is_in_text = True
            if self._where == "between":
                raise BadRequest(f"requests[{self.count}] is no object", hint=_SEND)
        elif found[0] in (b"[", b"{"):
            self._open(found[0])
        else:
            self._close(found[0])
        return True

    def _open(self, bracket: bytes) -> None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise BadRequest("the body is nested too deep", hint=f"{MOST_DEPTH} lists and objects are the most")
        if self._where == "between":
            self._need_gap(b"," if self.count else b"")
            if bracket != b"{":
                raise BadRequest(f"requests[{self.count}] is no object", hint=_SEND)
            self._where, self._begin = "request", self._at - 1
        elif self._where == "outside" and bracket == b"[" and self._depth == 2:
            self._keep_rest()
            if _BEFORE_LIST.search(self._rest[:-1]):
                if self._has_list:
                    raise BadRequest("`requests` is there twice", hint=_SEND)
                self._where, self._has_list = "between", True

    def _close(self, bracket: bytes) -> None:
        self._depth -= 1
        if self._where == "request" and self._depth == 2:
            self._need_room()
            self._take(bytes(self._kept[self._begin : self._at]))
            self.count += 1
            self._where, self._begin = "between", self._at
        elif self._where == "between":
            self._need_gap(b"")
            if bracket != b"]":
                raise BadRequest("the list of `requests` does not end as a list", hint=_SEND)
            self._where, self._begin = "outside", self._at - 1
        elif self._depth < 0:
            raise BadRequest("the body is no JSON", hint=_SEND)

    def _need_gap(self, wanted: bytes) -> None:
        if bytes(self._kept[self._begin : self._at - 1]).strip(_BLANKS) != wanted:
            raise BadRequest(f"behind requests[{self.count - 1}] stands something else than a comma", hint=_SEND)

    def _need_room(self) -> None:
        if self._at - self._begin > self._most:
            raise TooLarge(
                f"requests[{self.count}] has more than {self._most:,} bytes", hint="send fewer or smaller images in it"
            )

    def _keep_rest(self) -> None:
        """What was gone through outside the list is kept for the end."""
        self._rest += self._kept[self._begin : self._at]
        self._begin = self._at
        if len(self._rest) > MOST_REST:
            raise BadRequest(f"the members beside `requests` have more than {MOST_REST:,} bytes", hint=_SEND)

    def _forget(self) -> None:
        """Give up what was handed on; what waits for its end is bounded."""
        if self._where == "outside":
            self._keep_rest()
        elif self._where == "request":
            self._need_room()
        elif self._at - self._begin > MOST_REST:
            raise BadRequest(f"behind requests[{self.count - 1}] stands something else than a comma", hint=_SEND)
        del self._kept[: self._begin]
        self._at -= self._begin
        self._begin = 0


_SEND = 'send {"requests": [{"custom_id": "…", "params": {…}}, …]}, as clients of Anthropic do'
