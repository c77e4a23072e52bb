"""Results of a batch in the order of its lines: as JSON lines, or as the CSV file that the lines were made of. Pure."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jobs.batches.csv_lines import FORM, ROW, CsvForm
from jobs.cli.batches.csv_answers import CsvAnswers, answer_of
from jobs.core.errors import BadRequest
from jobs.core.sanitize import plain


class BatchLines(NamedTuple):
    """Three files of a batch, line by line, each in the order of the input; those of results may be empty."""

    input: Iterable[bytes]
    output: Iterable[bytes]
    errors: Iterable[bytes]


def results(lines: BatchLines) -> Iterator[bytes]:
    """All results as they are, in the order of the input."""
    for _, result in _beside(lines):
        if result is not None:
            yield result if result.endswith(b"\n") else result + b"\n"


def csv_rows(lines: BatchLines) -> Iterator[bytes]:
    """The rows that the lines were made of, each with its answer and its error.

    Raises:
        BadRequest: the lines were not made of a CSV file.

    """
    answers: CsvAnswers | None = None
    for line, result in _beside(lines):
        document = _object(line)
        if answers is None:
            if FORM not in document:
                raise BadRequest(
                    "the lines of this batch were not made of a CSV file", hint="name a file that ends in .jsonl"
                )
            answers = CsvAnswers(CsvForm.from_json(document[FORM]))
            yield answers.head()
        yield answers.row(map(str, document.get(ROW, ())), *_told(result))


def _beside(lines: BatchLines) -> Iterator[tuple[bytes, bytes | None]]:
    """Each line of the input with its result."""
    output, errors = _Results(lines.output), _Results(lines.errors)
    for line in lines.input:
        if line.strip():
            named = _object(line).get("custom_id")
            yield line, output.of(named) or errors.of(named)


class _Results:
    """Results in the order of the input, of which some are missing."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._next: tuple[Any, bytes] | None = None

    def of(self, id: Any) -> bytes | None:
        if self._next is None:
            line = next((line for line in self._lines if line.strip()), None)
            if line is None:
                return None
            self._next = _object(line).get("custom_id"), line
        known, line = self._next
        if known != id:
            return None
        self._next = None
        return line


def _told(result: bytes | None) -> tuple[str, str]:
    """The answer, and what went wrong."""
    answer, error = "", "it has no result"
    match _object(result or b""):
        case {"result": {"type": "succeeded", "message": message}}:  # of Anthropic's
            answer, error = answer_of(message), ""
        case {"result": {"type": str(kind)} as ended}:
            error = _error(ended.get("error")) or kind
        case {"response": {"status_code": int(status), "body": body}} if status < 400:
            answer, error = answer_of(body), ""
        case {"response": {"status_code": status, "body": {"error": told}}}:
            error = _error(told) or f"status {status}"
        case {"error": told}:
            error = _error(told) or "it failed"
    return answer, error


def _error(error: Any) -> str:
    """An error of any dialect, in one line."""
    match error:
        case {"error": inner} if inner:  # Anthropic's has one inside
            return _error(inner)
        case {"message": message}:
            code = error.get("code") or error.get("type")
            return plain(f"{code}: {message}" if code else message)
    return plain(error) if error else ""


def _object(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
