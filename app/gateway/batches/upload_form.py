"""The form of an upload, read as it comes: its fields are kept, and its one file goes on piece by piece.

Read by one thread at a time. Nobody but us reads it, so that it does not matter who would read it in another way; what
the form may have is bounded all the same, and what it holds never gets into a message.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.gateway.protocol.errors import TooLarge
from jobs.core.errors import BadRequest
from jobs.core.foreign import encodable
from jobs.core.sanitize import plain

MOST_PARTS = 32
"""An upload has two to four."""

MOST_LINES = 8
MOST_LINE = 2 * 1024
"""Of the head of a part: how many, and bytes of each. A name of a file has at most 255 bytes, each perhaps escaped."""

MOST_VALUE = 1024
"""Bytes of a field."""

LONGEST_NAME = 255
"""Characters of a file's name that are kept."""

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would log what it cannot read


class FileContent(Protocol):
    """Takes the content of the file."""

    def write(self, piece: bytes, /) -> None: ...


class UploadForm:
    """
    Args:
        content_type: of the request.
        begin: makes what takes the content of the file of this name. Called once at most.
        field: the name of the field that is the file.
        most_bytes: the most that it may have.

    Raises:
        BadRequest: it is no form.

    """

    def __init__(
        self, content_type: bytes, begin: Callable[[str], FileContent], *, field: str = "file", most_bytes: int
    ) -> None:
        kind, options = parse_options_header(content_type[:MOST_LINE])
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise BadRequest("the body is no form", hint=_SEND)
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_begin": self._begin_line,
                    "on_header_field": self._add_name,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_line,
                    "on_headers_finished": self._end_head,
                    "on_part_data": self._add_content,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
                max_header_count=MOST_LINES,
                max_header_size=MOST_LINE,
            )
        except FormParserError as error:
            raise BadRequest("the boundary of the form is too long", hint=_SEND) from error
        self._open = begin
        self._file_field = field
        self._most = most_bytes
        #: All of it belongs to the thread that feeds.
        self.fields: dict[str, str] = {}
        self.has_file = False
        self.size = 0
        self._parts = 0
        self._line: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._content: FileContent | None = None
        self._is_ended = False

    def feed(self, piece: bytes) -> None:
        """Read what comes next. What comes behind the form's end is nobody's.

        Raises:
            BadRequest: it is no such form, or has more than one may have.
            TooLarge: the file has more bytes than it may have.

        """
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise BadRequest("the form cannot be read", hint=_SEND) from error

    def need_end(self) -> None:
        """Insist that it has ended, and that the file was in it.

        Raises:
            BadRequest: it has not, or it was not.

        """
        if not self._is_ended:
            raise BadRequest("the form ends before its last boundary", hint="send all of it")
        if not self.has_file:
            raise BadRequest(f"the form has no {self._file_field!r}", hint=_SEND)

    # What the parser calls

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise BadRequest(f"the form has more than {MOST_PARTS} parts", hint=_SEND)
        self._disposition = b""
        self._value = bytearray()
        self._content = None

    def _begin_line(self) -> None:
        self._line = bytearray(), bytearray()

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._line[0].extend(data[start:end])

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._line[1].extend(data[start:end])

    def _end_line(self) -> None:
        name, value = self._line
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)

    def _end_head(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or not options.get(b"name"):
            raise BadRequest("a part of the form has no name", hint=_SEND)
        self._name = options[b"name"].decode("utf-8", "replace")
        if self._name != self._file_field:
            return
        if self.has_file:
            raise BadRequest(f"the form has more than one {self._file_field!r}", hint="send one file at a time")
        self.has_file = True
        self._content = self._open(_name_of(options.get(b"filename", b"")))

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._content is None:
            if len(self._value) + end - start > MOST_VALUE:
                raise BadRequest(f"a field of the form has more than {MOST_VALUE:,} bytes", hint=_SEND)
            self._value += data[start:end]
            return
        self.size += end - start
        if self.size > self._most:
            raise too_large(self._most)
        self._content.write(data[start:end])

    def _end_part(self) -> None:
        if self._content is None:
            if self._name in self.fields:
                raise BadRequest("a field of the form is there twice", hint=_SEND)
            self.fields[self._name] = encodable(self._value.decode("utf-8", "replace"))

    def _end(self) -> None:
        self._is_ended = True


def too_large(most: int) -> TooLarge:
    return TooLarge(f"the file has more than {most:,} bytes", hint="cut it in several files and batches")


def _name_of(said: bytes) -> str:
    """The file's name, without its folders, as it may be shown; `upload` where it has none."""
    name = encodable(said.decode("utf-8", "replace")).replace("\\", "/").rsplit("/", 1)[-1]
    return plain(name, LONGEST_NAME) or "upload"


_SEND = "send multipart/form-data with `purpose` and `file`, as clients of OpenAI's files do"
