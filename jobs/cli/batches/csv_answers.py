"""A batch's answers as the CSV file of which its lines were made: each row as it was, answer and error behind it."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.batches.csv_lines import BOM, CsvForm

ANSWER, ERROR = "answer", "error"


def answer_of(body: Any) -> str:
    """The text of an answer in any of the dialects; of embeddings the numbers, as JSON; empty where there is none."""
    match body:
        case {"choices": [{"message": {"content": str(text)}}, *_]} | {"choices": [{"text": str(text)}, *_]}:
            return text
        case {"choices": [{"message": {"tool_calls": [*calls]}}, *_]}:
            return json.dumps(calls, ensure_ascii=False)
        case {"data": [{"embedding": vector}, *_]}:
            return vector if isinstance(vector, str) else json.dumps(vector)
        case {"output": [*parts]}:
            return "".join(map(_text, (part.get("content") for part in parts if isinstance(part, Mapping))))
        case {"content": [*_] as pieces}:
            return _text(pieces)
    return ""


def _text(pieces: Any) -> str:
    """What the pieces of a message say that say something."""
    known = (piece for piece in pieces or () if isinstance(piece, Mapping))
    return "".join(str(piece.get("text", "")) for piece in known)


def columns_after(form: CsvForm) -> tuple[str, ...]:
    """The columns of a file with answers: those of the input, one for the answer and one for the error."""
    columns = list(form.columns)
    for name in (ANSWER, ERROR):
        taken = {column.strip() for column in columns}
        number = 2
        free = name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        columns.append(free)
    return tuple(columns)


class CsvAnswers:
    """Writes rows with their answers, as the input was written; bytes come out as they are made.

    Args:
        form: of the input.

    """

    def __init__(self, form: CsvForm) -> None:
        self._form = form
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text, delimiter=form.delimiter, lineterminator=form.ends_with)

    def head(self) -> bytes:
        return (BOM if self._form.has_bom else b"") + self._written(columns_after(self._form))

    def row(self, cells: Iterable[str], answer: str, error: str) -> bytes:
        return self._written([*cells, answer, error])

    def _written(self, cells: Iterable[str]) -> bytes:
        self._text.seek(0)
        self._text.truncate()
        self._writer.writerow(cells)
        return self._text.getvalue().encode("utf-8", "backslashreplace")
