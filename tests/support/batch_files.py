"""Files, lines and results of batches, as tests need them."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.batches.files.storage import BatchStorage
from jobs.batches.lines.line_check import Checked, LineRules, read_through
from jobs.batches.lines.line_index import InputLine, Lines
from jobs.batches.lines.result_lines import answered
from jobs.batches.lines.segments import Kind, Result
from jobs.batches.records import BatchDialect, BatchRecord, FileRecord, new_batch_id
from jobs.core.clock import Clock
from jobs.core.errors import NetworkTrouble
from jobs.testing.clock import HandClock

CHAT = "/v1/chat/completions"
GB = 10**9


def storage_at(folder: Path, clock: Clock | None = None, **more: Any) -> BatchStorage:
    return BatchStorage(folder / "batches", clock or HandClock(), **more)


def line(number: int, **changes: Any) -> dict[str, Any]:
    """A line as OpenAI's clients write it."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"line {number}"}], "max_tokens": 5}
    return {"custom_id": f"id-{number}", "method": "POST", "url": CHAT, "body": body, **changes}


def packed(lines: Iterable[Any]) -> Iterator[bytes]:
    """Each as a line of a file."""
    return (json.dumps(each).encode() + b"\n" for each in lines)


def posted(storage: BatchStorage, file: FileRecord, dialect: BatchDialect = "openai", **more: Any) -> BatchRecord:
    """A batch of this file."""
    now = storage.clock.now()
    return BatchRecord(
        id=more.pop("id", new_batch_id(dialect)),
        dialect=dialect,
        owner=file.owner,
        input_file_id=file.id,
        endpoint=more.pop("endpoint", CHAT),
        completion_window="24h",
        created_at=more.pop("created_at", now),
        expires_at=now + timedelta(hours=24),
        **more,
    )


def batch_of(storage: BatchStorage, count: int, owner: str = "ann") -> BatchRecord:
    """A batch of so many lines."""
    return posted(storage, storage.save(owner, "lines.jsonl", packed(line(n) for n in range(1, count + 1))))


def checked(storage: BatchStorage, record: BatchRecord, **rules: Any) -> Checked:
    return read_through(storage, record, LineRules.of(record, **rules))


def lines_of(storage: BatchStorage, record: BatchRecord) -> Lines:
    """Its lines, once they are read through."""
    found = checked(storage, record)
    return Lines(storage, record, [each.model for each in found.models], found.lines)


def every_line(lines: Lines, at_once: int = 64) -> Iterator[InputLine]:
    """All of them, so many of which are read in one step."""
    number = 1
    while number <= lines.lines:
        for each in lines.read(number, at_once):
            yield each
            number = each.number + 1


def result(record: BatchRecord, number: int, said: str = "hello", kind: Kind = "o") -> Result:
    """What became of a line: it was answered with this."""
    status = 200 if kind == "o" else 400
    body = json.dumps({"said": said}).encode()
    document = answered(
        record.dialect, record.id, number, f"id-{number}", status=status, request_id=f"r{number}", body=body
    )
    return Result(number, kind, 0.5, 3, 4, document)


def documents(storage: BatchStorage, file: FileRecord | None) -> list[dict[str, Any]]:
    """What a file of results has, line by line."""
    if file is None:
        return []
    raw = storage.read(file.id, 0, file.bytes + 1)
    assert len(raw) == file.bytes
    assert raw.endswith(b"\n")
    return [json.loads(each) for each in raw.splitlines()]


def nothing(*_: Any) -> None:
    """For whoever has to be told of something."""


class SharedVolume:
    """A volume: containers that mount it have a copy each. What one committed another has after a reload; of a file
    that both changed, the last commit counts.

    Attributes:
        reloads: how many were asked for.
        refusals: so many of the next ones fail, as while a file is open.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._committed: dict[Path, bytes] = {}
        self.reloads = 0
        self.refusals = 0

    def mount(
        self, name: str, clock: Clock | None = None, *, before_commit: Callable[[], None] = nothing
    ) -> BatchStorage:
        """Another container's."""
        root = self._folder / name / "batches"
        known: dict[Path, bytes] = {}

        def here() -> dict[Path, bytes]:
            return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}

        def commit() -> None:
            before_commit()
            now = here()
            self._committed.update({path: raw for path, raw in now.items() if known.get(path) != raw})
            for path in known.keys() - now.keys():
                self._committed.pop(path, None)
            known.clear()
            known.update(now)

        def reload() -> None:
            self.reloads += 1
            if self.refusals:
                self.refusals -= 1
                raise NetworkTrouble("there are open files")
            known.clear()
            known.update(self._committed)
            for path in here().keys() - known.keys():
                (root / path).unlink()
            for path, raw in known.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(raw)

        return storage_at(root.parent, clock, persist=commit, refresh=reload)
