"""Lines of a batch from the rows of a CSV file. Pure but for the file that it is handed.

A file is read as it is streamed: a million rows take no more memory than ten. Its rows travel with their lines, so the
answers can be put beside them wherever and whenever they are fetched, and whatever became of the file meanwhile.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Literal, NamedTuple

from jobs.core.errors import BadRequest
from jobs.core.sanitize import plain

ROW = "csv_row"
"""The key, in a line, of the cells that it was made from."""

FORM = "csv_form"
"""The key, in the first line, of how the file was written."""

MOST_CELL = 1 << 20
"""Characters. A quote that nobody closes makes the rest of a file one cell."""

MOST_LINE = 8 << 20
"""Bytes of one line of the file; one with other ends of lines than ours is one line in all."""

DELIMITERS = (",", ";", "\t", "|")

DEFAULT_ENDPOINT = "/v1/chat/completions"

BOM = b"\xef\xbb\xbf"

_NO_TEXT = (
    (b"\xff\xfe", "UTF-16", "save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8"),
    (b"PK\x03\x04", "a ZIP archive, as a workbook of Excel is", "unpack it, or save its sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "a workbook of Excel", "save its sheet as CSV in UTF-8"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first: gunzip -k"),
    (b"%PDF", "a PDF", "its text has to be taken out of it first"),
    (b"PAR1", "a Parquet file", "convert it to CSV first"),
)
"""How files begin that are often taken for such text, what they are, and what to do about it."""

_HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


# -- the template ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A text with the names of columns in braces; a brace itself is written twice.

    Args:
        text: as it was typed.
        option: names it in messages.

    """

    text: str
    option: str = "--prompt"

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it names, each once.

        Raises:
            BadRequest: a brace is alone.

        """
        names = dict[str, None]()
        for found in _HOLE.finditer(self.text):
            if found[0] in {"{", "}"}:
                raise BadRequest(
                    f"a brace of {self.option} is alone, at character {found.start() + 1}",
                    hint=f"a brace itself is written twice: {found[0] * 2}",
                )
            if found[1] is not None:
                names[found[1].strip()] = None
        return tuple(names)

    def filled(self, cells: Mapping[str, str]) -> str:
        """With these cells in the place of their columns."""
        return _HOLE.sub(lambda hole: hole[0][0] if hole[1] is None else cells[hole[1].strip()], self.text)


# -- reading -----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """Cells, and the line of the file at which they begin."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class CsvForm:
    """How a file is written.

    Args:
        columns: the cells of its first row.
        delimiter: between two cells.
        has_bom: whether it begins with the mark by which Excel knows UTF-8.
        ends_with: each of its lines.

    """

    columns: tuple[str, ...]
    delimiter: str = ","
    has_bom: bool = False
    ends_with: Literal["\n", "\r\n"] = "\n"

    def as_json(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "delimiter": self.delimiter,
            "bom": self.has_bom,
            "ends_with": self.ends_with,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "CsvForm":
        return cls(
            columns=tuple(map(str, document["columns"])),
            delimiter=str(document.get("delimiter", ",")),
            has_bom=bool(document.get("bom")),
            ends_with="\r\n" if document.get("ends_with") == "\r\n" else "\n",
        )

    def place(self, name: str) -> int:
        """Of the column of this name; without its spaces where none is called exactly so.

        Raises:
            BadRequest: there is none, or several.

        """
        exact = [at for at, column in enumerate(self.columns) if column == name]
        places = exact or [at for at, column in enumerate(self.columns) if column.strip() == name]
        if len(places) > 1:
            raise BadRequest(f"more than one column is called {name!r}", hint="give each a name of its own")
        if not places:
            raise BadRequest(f"there is no column {plain(name)!r}", hint=f"columns are {_named(self.columns)}")
        return places[0]


def _named(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(plain(each, 40)) for each in columns[:12])
    return f"{shown} and {len(columns) - 12} more" if len(columns) > 12 else shown


def need_text(begin: bytes) -> None:
    """Insist that a file which begins so may be text in UTF-8.

    Raises:
        BadRequest: it is something else.

    """
    for magic, what, hint in _NO_TEXT:
        if begin.startswith(magic):
            raise BadRequest(f"the file is no text in UTF-8: it is {what}", hint=hint)


def form_of(file: BinaryIO, names: Sequence[str]) -> CsvForm:
    """How a file is written, by its first row: with the delimiter that makes these columns of it, else the most.

    Args:
        file: from its beginning to wherever it is read.
        names: of columns that should be there.

    Raises:
        BadRequest: it is no CSV file in UTF-8, or empty.

    """
    file.seek(0)
    begin = file.read(4)
    need_text(begin)
    has_bom = begin.startswith(BOM)
    best: CsvForm | None = None
    trouble: BadRequest | None = None
    for delimiter in DELIMITERS:
        try:
            form = _form_by(file, delimiter, has_bom=has_bom)
        except BadRequest as refusal:
            trouble = trouble or refusal
            continue
        if best is None or _fit(form, names) > _fit(best, names):
            best = form
    if best is None:
        raise trouble or BadRequest("the file is empty")
    return best


def _fit(form: CsvForm, names: Sequence[str]) -> tuple[int, int]:
    known = {column.strip() for column in form.columns}
    return sum(name in known for name in names), len(form.columns)


def _form_by(file: BinaryIO, delimiter: str, *, has_bom: bool) -> CsvForm:
    file.seek(0)
    lines = _Lines(file)
    rows = _rows(lines, delimiter)
    head = next(rows, None)
    if head is None or not any(cell.strip() for cell in head.cells):
        raise BadRequest("the file is empty", hint="its first line names the columns")
    return CsvForm(tuple(head.cells), delimiter, has_bom, "\r\n" if lines.last.endswith("\r\n") else "\n")


def rows_of(file: BinaryIO, form: CsvForm) -> Iterator[Row]:
    """The rows below the first, as they are read; empty ones are left out.

    Raises:
        BadRequest: a row has too many cells or too few, a quote is not closed, a byte is not UTF-8; the line is told.

    """
    file.seek(0)
    rows = _rows(_Lines(file), form.delimiter)
    width = len(form.columns)
    for row in islice(rows, 1, None):
        if len(row.cells) != width:
            raise BadRequest(
                f"line {row.line:,} has {_cells(len(row.cells))}, and the first line has {_cells(width)}",
                hint="a cell that holds the delimiter, a quote or a new line stands in quotes, its quotes doubled",
            )
        yield row


def _cells(count: int) -> str:
    return f"{count:,} cell{'' if count == 1 else 's'}"


class _Lines:
    """The lines of a file as text, with their ends; it counts them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(MOST_LINE + 1):
            self.count += 1
            if len(raw) > MOST_LINE:
                raise BadRequest(
                    f"line {self.count:,} is longer than {MOST_LINE >> 20} MiB",
                    hint="does each row end with a line feed? Save the file with Unix or Windows line ends",
                )
            if self.count == 1:
                raw = raw.removeprefix(BOM)
            self.last = self._text(raw)
            yield self.last

    def _text(self, raw: bytes) -> str:
        if b"\0" in raw:
            raise BadRequest(
                f"line {self.count:,} holds a NUL byte, which no text in UTF-8 does",
                hint="save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8",
            )
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"line {self.count:,} is not UTF-8: byte 0x{raw[error.start]:02x} at its place {error.start + 1:,}",
                hint="save it as UTF-8, or convert it, for example: iconv -f WINDOWS-1252 -t UTF-8",
            ) from error


def _rows(lines: _Lines, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MOST_CELL)  # of the process; nobody else in it reads CSV
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begins_at = lines.count + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _no_row(error, begins_at) from error
        if cells is None:
            return
        if cells:
            yield Row(begins_at, cells)


def _no_row(error: csv.Error, line: int) -> BadRequest:
    said = str(error)
    if "field limit" in said:
        what = f"a cell of line {line:,} is longer than {MOST_CELL:,} characters"
        return BadRequest(what, hint="is a quote before it that nobody closed?")
    if "end of data" in said:
        return BadRequest(f"a quote of line {line:,} is never closed", hint="a quote within a cell is written twice")
    if "new-line" in said:
        return BadRequest(
            f"line {line:,} ends with a carriage return alone", hint="save the file with Unix or Windows line ends"
        )
    return BadRequest(
        f"line {line:,} is no CSV: after a quote that closes a cell comes something else",
        hint="a quote within a cell is written twice",
    )


# -- lines -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CsvBatch:
    """What is asked about each row.

    Args:
        endpoint: what each line asks for.
        model: that answers.
        prompt: what is asked.
        system: what is said before; not of every endpoint.

    """

    endpoint: str
    model: str
    prompt: Template
    system: Template | None = None

    def __post_init__(self) -> None:
        if self.system is not None and self.endpoint in {"/v1/completions", "/v1/embeddings"}:
            raise BadRequest(f"{self.endpoint} takes no --system", hint="say it in --prompt")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that its templates name.

        Raises:
            BadRequest: none; every row would ask the same.

        """
        system = self.system.names if self.system else ()
        names = tuple(dict.fromkeys((*self.prompt.names, *system)))
        if not names:
            raise BadRequest("--prompt names no column", hint='as in --prompt "Summarise: {text}"')
        return names

    def lines(self, file: BinaryIO) -> Iterator[bytes]:
        """A line of a batch for each row, as they are read.

        Raises:
            BadRequest: as `form_of` and `rows_of`; or a template names a column that is not there.

        """
        form = form_of(file, self.names)
        places = {name: form.place(name) for name in self.names}
        for number, row in enumerate(rows_of(file, form), 1):
            cells = {name: row.cells[place] for name, place in places.items()}
            line: dict[str, Any] = {
                "custom_id": f"row-{number}",
                "method": "POST",
                "url": self.endpoint,
                "body": self.body(cells),
                ROW: row.cells,
            }
            if number == 1:
                line[FORM] = form.as_json()
            yield json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def body(self, cells: Mapping[str, str]) -> dict[str, Any]:
        """What a line with these cells asks."""
        prompt = self.prompt.filled(cells)
        system = self.system.filled(cells) if self.system else None
        match self.endpoint:
            case "/v1/completions":
                return {"model": self.model, "prompt": prompt}
            case "/v1/embeddings":
                return {"model": self.model, "input": prompt}
            case "/v1/responses":
                return {"model": self.model, "input": prompt, **({"instructions": system} if system else {})}
        said = [{"role": "system", "content": system}] if system else []
        return {"model": self.model, "messages": [*said, {"role": "user", "content": prompt}]}

    def line_of_row(self, file: BinaryIO, number: int) -> int | None:
        """Where in the file the row of a line begins; None where it is not there any more."""
        found = islice(rows_of(file, form_of(file, self.names)), number - 1, None)
        return next((row.line for row in found), None)
