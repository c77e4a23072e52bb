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
"""Bytes that come under one search: so long it keeps the interpreter."""

_UP_TO_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*"[^"\[\]{}]*+)*', re.DOTALL)
"""Whole texts, and what stands around them, up to a bracket or a text that has not ended."""

_QUOTE, _LIST, _OBJECT, _END_OF_LIST = b'"[{]'
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
            rest = fields(document(bytes(self._rest + self._kept), "the body", is_strict=True))
        except Corrupt as error:
            raise BadRequest("the body is no JSON, or not whole", hint=_SEND) from error
        if not self._has_list or self._where != "outside":
            raise BadRequest("the body has no list of `requests`", hint=_SEND)
        if not self.count:
            raise BadRequest("the list of `requests` is empty", hint=_SEND)
        return {name: value for name, value in rest.items() if name != "requests"}

    def _goes_on(self) -> bool:
        """Go on to the next bracket; false where there is none yet."""
        found = _UP_TO_BRACKET.match(self._kept, self._at)
        assert found is not None  # it also matches nothing
        self._at = at = found.end()
        if at == len(self._kept) or self._kept[at] == _QUOTE:
            return False
        bracket = self._kept[at]
        self._at += 1
        if bracket in {_LIST, _OBJECT}:
            self._open(bracket)
        else:
            self._close(bracket)
        return True

    def _open(self, bracket: int) -> None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise BadRequest("the body is nested too deep", hint=f"{MOST_DEPTH} lists and objects are the most")
        if self._where == "between":
            self._need_gap(b"," if self.count else b"")
            if bracket != _OBJECT:
                raise self._no_object()
            self._where, self._begin = "request", self._at - 1
        elif self._where == "outside" and bracket == _LIST and self._depth == 2:
            self._keep_rest()
            if _BEFORE_LIST.search(self._rest[:-1]):
                if self._has_list:
                    raise BadRequest("`requests` is there twice", hint=_SEND)
                self._where, self._has_list = "between", True

    def _close(self, bracket: int) -> None:
        self._depth -= 1
        if self._where == "request" and self._depth == 2:
            self._need_room(self._at - self._begin)
            self._take(bytes(self._kept[self._begin : self._at]))
            self.count += 1
            self._where, self._begin = "between", self._at
        elif self._where == "between":
            self._need_gap(b"")
            if bracket != _END_OF_LIST:
                raise BadRequest("the list of `requests` does not end as a list", hint=_SEND)
            self._where, self._begin = "outside", self._at - 1
        elif self._depth < 0:
            raise BadRequest("the body is no JSON", hint=_SEND)

    def _need_gap(self, wanted: bytes) -> None:
        if bytes(self._kept[self._begin : self._at - 1]).strip(_BLANKS) != wanted:
            raise self._no_object()

    def _no_object(self) -> BadRequest:
        return BadRequest(f"requests[{self.count}] is no object", hint=_SEND)

    def _need_room(self, size: int) -> None:
        if size > self._most:
            raise TooLarge(
                f"requests[{self.count}] has more than {self._most:,} bytes", hint="send fewer or smaller images in it"
            )

    def _keep_rest(self) -> None:
        """What was gone through outside the list is kept for the end."""
        self._rest += self._kept[self._begin : self._at]
        self._begin = self._at

    def _forget(self) -> None:
        """Give up what was handed on; what waits for its end is bounded."""
        if self._where == "outside":
            self._keep_rest()
        waiting = len(self._kept) - self._begin
        if self._where == "request":
            self._need_room(waiting)
        elif self._where == "between" and waiting > MOST_REST:
            raise self._no_object()
        elif len(self._rest) + waiting > MOST_REST:
            raise BadRequest(f"the members beside `requests` have more than {MOST_REST:,} bytes", hint=_SEND)
        del self._kept[: self._begin]
        self._at -= self._begin
        self._begin = 0


_SEND = 'send {"requests": [{"custom_id": "…", "params": {…}}, …]}, as clients of Anthropic do'
