"""Reads a file through, and says of each line what is wrong with it, as far as that can be known before it runs.

A file is read piece by piece and never whole; what is kept grows by some forty bytes a line, so that a million lines
take as much memory as their ids. The first `MOST_ERRORS` errors are kept, and all are counted. Lines count from 1.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.custom_ids import CustomIds
from jobs.batches.lines.line_index import MOST_MODELS, IndexWriter
from jobs.batches.records import MOST_ERRORS, BatchDialect, BatchRecord, LineError
from jobs.core import foreign
from jobs.core.errors import Corrupt, NotFound
from jobs.core.sanitize import plain
from jobs.core.units import human_bytes
from jobs.store.files import flush_folder
from jobs.store.private_files import opener

MOST_LINES = 1_000_000
MOST_LINE_BYTES = 4 << 20
MOST_CUSTOM_ID = 512
"""Characters."""

PIECE = 1 << 20
"""So much of a file is read at once."""

_SHOWN = 80
"""Characters of what stands in a line that a message shows."""

_MOST_TOKENS = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}
_PROMPTS = ("messages", "prompt", "input", "system", "instructions")
_NOT_TEXT = frozenset({"url", "data", "image_url", "input_audio", "file_data", "type", "role", "id"})


class LineRefusal(NamedTuple):
    """Why a line cannot run. `param` is where in it, as in "body.model"."""

    code: str
    message: str
    param: str | None = None


def _nothing(_: Any) -> None:
    return None


@dataclass(frozen=True)
class LineRules:
    """What the lines of a batch have to be like.

    Args:
        endpoint: what each asks for.
        dialect: their shape.
        model: for lines that name none; where it `is_for_all`, for all.
        is_for_all: whether `model` goes before what lines name.
        knows: what is wrong with a model; asked once of each.
        shape: what is wrong with a body, as far as bodies are checked.
        most_lines: more are refused.
        most_line_bytes: a longer one is refused.

    """

    endpoint: str
    dialect: BatchDialect = "openai"
    model: str | None = None
    is_for_all: bool = False
    knows: Callable[[str], LineRefusal | None] = _nothing
    shape: Callable[[Mapping[str, Any]], LineRefusal | None] = _nothing
    most_lines: int = MOST_LINES
    most_line_bytes: int = MOST_LINE_BYTES

    @classmethod
    def of(cls, record: BatchRecord, **more: Any) -> Self:
        """The rules of a batch."""
        return cls(record.endpoint, record.dialect, record.model, record.is_for_all, **more)


@dataclass
class ModelLines:
    """What the lines of one model ask for.

    Args:
        model: its name, as lines have it.
        lines: how many.
        prompt_bytes: of the texts that they say.
        max_tokens: of the answers, added up over lines that have a limit.
        unlimited: lines that have none.

    """

    model: str
    lines: int = 0
    prompt_bytes: int = 0
    max_tokens: int = 0
    unlimited: int = 0


@dataclass(frozen=True)
class Checked:
    """What a read through a file found. No content of a line is in it, but for names and ids.

    Args:
        lines: how many there are, those with errors among them.
        bytes: the size of the file.
        models: whom they ask, in the order of first mention.
        errors: the first of them.
        error_count: how many there are.

    """

    lines: int
    bytes: int
    models: tuple[ModelLines, ...]
    errors: tuple[LineError, ...] = ()
    error_count: int = 0

    @property
    def is_good(self) -> bool:
        return not self.error_count

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "lines": self.lines,
            "bytes": self.bytes,
            "models": [asdict(each) for each in self.models],
            "errors": [asdict(each) for each in self.errors],
            "error_count": self.error_count,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            lines=int(document["lines"]),
            bytes=int(document["bytes"]),
            models=tuple(ModelLines(**each) for each in document.get("models", ())),
            errors=tuple(LineError(**each) for each in document.get("errors", ())),
            error_count=int(document.get("error_count", 0)),
        )


def read_through(
    storage: BatchStorage, record: BatchRecord, rules: LineRules, *, progress: Callable[[int], None] = _nothing
) -> Checked:
    """Check all lines of a batch's file, and keep what was found with it. What an earlier attempt found is not found
    again.

    Args:
        storage: where the file is.
        record: the batch.
        rules: what its lines have to be like.
        progress: told how many bytes were read, from time to time; what it raises ends this.

    Raises:
        NotFound: the file is gone.

    """
    storage.refresh()
    known = checked_before(storage, record.id)
    if known is not None:
        return known
    if storage.file(record.input_file_id) is None:
        raise NotFound(f"there is no file {record.input_file_id!r}")
    index = IndexWriter(storage, record.id)
    try:
        checked = check(pieces(storage, record.input_file_id, progress), rules, index)
    finally:
        index.abandon()
    path = storage.work(record.id) / "checked.json"
    with storage.using(f"keeping what was found in {record.input_file_id}"):
        storage.make_folder(path.parent)
        beside = path.with_suffix(f".{secrets.token_hex(4)}.new")
        with open(beside, "w", opener=opener) as file:
            json.dump(checked.as_json(), file)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
        flush_folder(path.parent)
    storage.persist()
    return checked


def checked_before(storage: BatchStorage, batch_id: str) -> Checked | None:
    """What a read through the file of this batch has found; None while none came to its end."""
    with storage.using(f"reading what was found of {batch_id}"):
        try:
            raw = (storage.work(batch_id) / "checked.json").read_bytes()
        except FileNotFoundError:
            return None
    return Checked.from_json(json.loads(raw))


def check(pieces: Iterable[bytes], rules: LineRules, index: IndexWriter | None = None) -> Checked:
    """Check the lines of a file that comes in pieces, wherever it comes from."""
    found = _Check(rules, index)
    for offset, raw in _lines(pieces, rules.most_line_bytes, found):
        if found.lines >= rules.most_lines:
            found.refuse(
                None, LineRefusal("too_many_lines", f"there are more than {rules.most_lines:,} lines: split the file")
            )
            break
        found.line(offset, raw)
    return found.finish()


class _Check:
    def __init__(self, rules: LineRules, index: IndexWriter | None) -> None:
        self._rules = rules
        self._index = index
        self._ids = CustomIds()
        self._models: dict[str, int] = {}
        self._sums: list[ModelLines] = []
        self._refused: dict[str, LineRefusal] = {}
        self._errors: list[LineError] = []
        self._error_count = 0
        self.lines = 0
        self.bytes = 0

    def refuse(self, line: int | None, refusal: LineRefusal) -> None:
        self._error_count += 1
        if len(self._errors) < MOST_ERRORS:
            self._errors.append(LineError(refusal.code, refusal.message, line, refusal.param))

    def line(self, offset: int, raw: bytes | None) -> None:
        """The next line; None stands for one that is too long."""
        self.lines += 1
        model = 0
        try:
            model = self._checked(self._document(raw))
        except _Wrong as wrong:
            self.refuse(self.lines, wrong.refusal)
        if self._index is not None:
            self._index.add(offset, model)

    def finish(self) -> Checked:
        if not self.lines:
            self.refuse(None, LineRefusal("empty_file", "there is no line in the file"))
        if self._index is not None and not self._error_count:
            self._index.finish(self.bytes)
        return Checked(self.lines, self.bytes, tuple(self._sums), tuple(self._errors), self._error_count)

    def _document(self, raw: bytes | None) -> Mapping[str, Any]:
        if raw is None:
            self._ids.skip()
            raise _Wrong("line_too_long", f"the line is longer than {human_bytes(self._rules.most_line_bytes)}")
        try:
            document = foreign.document(raw, "the line", is_strict=True)
        except Corrupt as corrupt:
            self._ids.skip()
            raise _Wrong("invalid_json_line", plain(f"not parseable as JSON: {corrupt}")) from corrupt
        if not isinstance(document, dict):
            self._ids.skip()
            raise _Wrong("invalid_json_line", "this line is no JSON object")
        return document

    def _checked(self, document: Mapping[str, Any]) -> int:
        """Which of the models the line asks."""
        self._check_id(document.get("custom_id"))
        is_anthropic = self._rules.dialect == "anthropic"
        body_name = "params" if is_anthropic else "body"
        if not is_anthropic:
            self._check_address(document)
        body = document.get(body_name)
        if not isinstance(body, dict):
            raise _missing(body_name, "an object", body)
        name = self._rules.model if self._rules.is_for_all else body.get("model") or self._rules.model
        if not isinstance(name, str) or not name:
            raise _missing(f"{body_name}.model", "the name of a model", body.get("model"))
        if body.get("stream"):
            raise _Wrong("invalid_request", "lines are not streamed: leave `stream` out", f"{body_name}.stream")
        model = self._model(name, f"{body_name}.model")
        refusal = self._rules.shape(body)
        if refusal is not None:
            raise _Wrong(refusal.code, refusal.message, body_name if refusal.param == "body" else refusal.param)
        self._sums[model].lines += 1
        self._sums[model].prompt_bytes += prompt_bytes_of(body)
        most = max_tokens_of(body, self._rules.endpoint)
        if most is None:
            self._sums[model].unlimited += 1
        else:
            self._sums[model].max_tokens += most
        return model

    def _check_id(self, id: Any) -> None:
        if not isinstance(id, str) or not 1 <= len(id) <= MOST_CUSTOM_ID:
            self._ids.skip()
            raise _missing("custom_id", f"a text of 1 to {MOST_CUSTOM_ID} characters", id)
        same = self._ids.add(id)
        if same is not None:
            raise _Wrong("duplicate_custom_id", f"line {same:,} has the custom_id {_shown(id)}, too", "custom_id")

    def _check_address(self, document: Mapping[str, Any]) -> None:
        if document.get("method") != "POST":
            raise _Wrong("invalid_method", f"the method is POST, not {_shown(document.get('method'))}", "method")
        if document.get("url") != self._rules.endpoint:
            raise _Wrong(
                "invalid_url",
                f"the url {_shown(document.get('url'))} does not match the endpoint of the batch,"
                f" {self._rules.endpoint}",
                "url",
            )

    def _model(self, name: str, param: str) -> int:
        if name in self._refused:
            raise _Wrong(*self._refused[name])
        known = self._models.get(name)
        if known is not None:
            return known
        if len(self._models) + len(self._refused) >= MOST_MODELS:
            raise _Wrong("too_many_models", f"the lines ask for more than {MOST_MODELS:,} models", param)
        refusal = self._rules.knows(name)
        if refusal is not None:
            self._refused[name] = refusal._replace(param=refusal.param or param)
            raise _Wrong(*self._refused[name])
        self._models[name] = len(self._sums)
        self._sums.append(ModelLines(name))
        return self._models[name]


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(code)
        self.refusal = LineRefusal(code, message, param)


def _missing(param: str, wanted: str, found: Any) -> _Wrong:
    if found is None:
        return _Wrong("missing_required_parameter", f"missing required parameter: {param!r}, {wanted}", param)
    return _Wrong("invalid_type", f"{param!r} is {wanted}, not {_shown(found)}", param)


def _shown(value: Any) -> str:
    """A value in a message: short, and in one line."""
    return plain(json.dumps(value, ensure_ascii=False)[: 4 * _SHOWN], _SHOWN)


def prompt_bytes_of(body: Mapping[str, Any]) -> int:
    """Bytes of the texts that a body says."""
    total, rest = 0, [body[name] for name in _PROMPTS if name in body]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            total += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif isinstance(value, dict):
            rest += [each for name, each in value.items() if name not in _NOT_TEXT]
        elif isinstance(value, list):
            rest += value
    return total


def max_tokens_of(body: Mapping[str, Any], endpoint: str) -> int | None:
    """How long an answer the body allows; None where it sets no limit."""
    for name in _MOST_TOKENS.get(endpoint, ()):
        most = body.get(name)
        if isinstance(most, int) and not isinstance(most, bool) and most > 0:
            return most
    return None


def pieces(storage: BatchStorage, file_id: str, progress: Callable[[int], None]) -> Iterator[bytes]:
    """A file, piece by piece; it is told how many bytes were read."""
    at = 0
    while piece := storage.read(file_id, at, PIECE):
        at += len(piece)
        yield piece
        progress(at)


def _lines(pieces: Iterable[bytes], most: int, found: _Check) -> Iterator[tuple[int, bytes | None]]:
    """The lines with their offsets; None for one that is too long. Blank ones at the end of the file are left out."""
    begin, blank, rest, is_skipping = 0, 0, bytearray(), False

    def made(raw: bytes | None) -> Iterator[tuple[int, bytes | None]]:
        nonlocal blank
        if raw is not None and not raw.strip():
            blank += 1
            return
        for _ in range(blank):  # among others they are errors, so that it does not matter where they begin
            yield begin, b""
        blank = 0
        yield begin, raw

    for piece in pieces:
        at = 0
        while (end := piece.find(b"\n", at)) >= 0:
            length = len(rest) + end - at
            raw = None if is_skipping or length > most else bytes(rest) + piece[at:end]
            yield from made(raw)
            found.bytes += end + 1 - at
            begin, at, is_skipping = found.bytes, end + 1, False
            rest.clear()
        found.bytes += len(piece) - at
        if not is_skipping:
            rest += piece[at:]
            if len(rest) > most:
                rest.clear()
                is_skipping = True
    if rest or is_skipping:
        yield from made(None if is_skipping else bytes(rest))
