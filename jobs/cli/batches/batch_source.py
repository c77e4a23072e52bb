"""The file of a batch as it is named to the command: the lines that it has, or those that are made of its rows.

It is read as it is streamed, once to be checked and once to be posted, and never whole.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from jobs.batches.csv_lines import BOM, DEFAULT_ENDPOINT, CsvBatch, Template, need_text
from jobs.batches.lines.line_check import MOST_LINE_BYTES
from jobs.batches.records import ENDPOINTS
from jobs.core.errors import BadRequest, NotFound
from jobs.store.files import translated

LINE_ENDPOINTS = tuple(each for each in ENDPOINTS if each != "/v1/messages")
"""What lines of OpenAI's shape ask for."""

CSV_ENDINGS = frozenset({".csv", ".tsv"})
LINE_ENDINGS = frozenset({".jsonl", ".ndjson", ".json"})

PIECE = 1 << 20
"""So much of a file is read at once."""


class BatchSource(Protocol):
    """Lines of a batch, wherever they come from."""

    @property
    def name(self) -> str:
        """Of the file, as the batch's input is called."""

    @property
    def endpoint(self) -> str:
        """What each line asks for."""

    @property
    def has_rows(self) -> bool:
        """Whether they are made of rows, which answers can be put beside."""

    @property
    def size(self) -> int | None:
        """Of all lines, in bytes, about; None where that is not known before."""

    def pieces(self) -> Iterator[bytes]:
        """All lines from the first on, in pieces of any size; each call begins anew.

        Raises:
            BadRequest: the file cannot be read so; the line is told.

        """

    def place(self, line: int) -> int:
        """Where in the file, by its line, the batch's line of this number begins."""


def source_of(
    path: Path, *, endpoint: str | None, model: str | None, prompt: str | None, system: str | None
) -> BatchSource:
    """The lines of a file, or those that are made of its rows where it is CSV.

    Args:
        path: of the file.
        endpoint: what each line asks for; what the first does, where it is left out.
        model: that answers all of them.
        prompt: what is asked of each row.
        system: what is said before.

    Raises:
        NotFound: there is no such file.
        BadRequest: it is none that can be read twice; or what is asked does not go with it.

    """
    if not path.exists():
        raise NotFound(f"there is no file {str(path)!r}")
    if not path.is_file():
        raise BadRequest(f"{str(path)!r} is no file", hint="it is read twice, so it has to lie on a disk")
    if endpoint is not None and endpoint not in LINE_ENDPOINTS:
        raise BadRequest(f"no line asks for {endpoint!r}", hint=f"endpoints are {', '.join(LINE_ENDPOINTS)}")
    ending = path.suffix.lower()
    if prompt is not None and ending in LINE_ENDINGS:
        raise BadRequest(f"--prompt is for CSV, and {path.name!r} has lines of its own", hint="leave it out")
    if prompt is not None:
        if not model:
            raise BadRequest("which model answers?", hint="name it: --model llama3.2")
        template = Template(prompt)
        said = Template(system, "--system") if system is not None else None
        return CsvSource(path, CsvBatch(endpoint or DEFAULT_ENDPOINT, model, template, said))
    if ending in CSV_ENDINGS:
        raise BadRequest(
            f"{path.name!r} is CSV, and nothing says what to ask", hint='as in --prompt "Summarise: {text}"'
        )
    if system is not None:
        raise BadRequest("--system goes with --prompt and a CSV file", hint="lines have their own")
    with translated(f"reading {str(path)!r}"), path.open("rb") as file:
        return LineSource(path, endpoint or _endpoint_of(file), model)


def _endpoint_of(file: BinaryIO) -> str:
    """What the first line asks for; what is usual, where it does not say."""
    need_text(file.read(4))
    file.seek(0)
    for raw in iter(lambda: file.readline(MOST_LINE_BYTES), b""):
        if raw.removeprefix(BOM).strip():
            document = _object(raw.removeprefix(BOM))
            if document and "params" in document and "body" not in document:
                raise BadRequest(
                    "the lines have the shape of Anthropic's batches",
                    hint="post them by Anthropic's own client: client.messages.batches.create(...)",
                )
            url = document.get("url") if document else None
            return url if url in LINE_ENDPOINTS else DEFAULT_ENDPOINT
    return DEFAULT_ENDPOINT


@dataclass(frozen=True)
class LineSource:
    """A file of lines.

    Args:
        path: of it.
        endpoint: what each line asks for.
        model: that answers instead of those that the lines name; None where these do.

    """

    path: Path
    endpoint: str
    model: str | None
    has_rows: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int | None:
        return self.path.stat().st_size

    def place(self, line: int) -> int:
        return line

    def pieces(self) -> Iterator[bytes]:
        with translated(f"reading {str(self.path)!r}"), self.path.open("rb") as file:
            if file.read(len(BOM)) != BOM:
                file.seek(0)
            if self.model is None:
                yield from iter(lambda: file.read(PIECE), b"")
                return
            for raw in iter(lambda: file.readline(MOST_LINE_BYTES), b""):
                yield self._with_model(raw)

    def _with_model(self, raw: bytes) -> bytes:
        """A line that asks this model; one that cannot be read stays as it is, and whoever checks it says why."""
        document = _object(raw)
        if document is None or not isinstance(document.get("body"), dict):
            return raw
        document["body"]["model"] = self.model
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


@dataclass(frozen=True)
class CsvSource:
    """A CSV file.

    Args:
        path: of it.
        batch: what is asked about each row.

    """

    path: Path
    batch: CsvBatch
    has_rows: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"{self.path.stem}.jsonl"

    @property
    def endpoint(self) -> str:
        return self.batch.endpoint

    @property
    def size(self) -> int | None:
        return None

    def place(self, line: int) -> int:
        with translated(f"reading {str(self.path)!r}"), self.path.open("rb") as file:
            return self.batch.line_of_row(file, line) or line

    def pieces(self) -> Iterator[bytes]:
        with translated(f"reading {str(self.path)!r}"), self.path.open("rb") as file:
            yield from self.batch.lines(file)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
