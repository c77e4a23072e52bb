"""A hand in place of the worker that runs batches: it says how one stands, keeps its results and ends it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.batches.batch_store import BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import BatchEnd, BatchState, BatchUse, EndStatus, LineCounts, LineError
from jobs.core.clock import SystemClock
from jobs.ledger.ledger import Ledger
from jobs.store.sqlite import SqliteDict, SqliteQueue

CLOCK = SystemClock()


@dataclass
class BatchHand:
    """It has the ledger and the files of a machine, or of a gateway."""

    store: BatchStore
    storage: BatchStorage

    def lines(self, id: str) -> list[dict[str, Any]]:
        """The lines of a batch, as they were posted."""
        file = self.storage.file(self.store.get(id).record.input_file_id)
        assert file is not None
        return [json.loads(line) for line in self.storage.read(file.id, 0, file.bytes).splitlines()]

    def say(
        self, id: str, *, total: int, completed: int = 0, failed: int = 0, note: str = "", seconds: int = 60
    ) -> None:
        """So many of its lines have ended, and it has worked for so long."""
        now = CLOCK.now()
        began = now - timedelta(seconds=seconds)
        use = BatchUse(100 * completed, 50 * completed, 0.5 * completed, 0.1 * completed, 0.001 * completed)
        counts = LineCounts(total, completed, failed)
        self.store.say(id, BatchState("in_progress", "hand", now, counts, use, None, began, None, None, note))

    def end(
        self, id: str, status: EndStatus = "completed", *, failed: Sequence[str] = (), errors: Sequence[LineError] = ()
    ) -> None:
        """Answer each line with what it asked, but for those that fail, and end it."""
        now, owner = CLOCK.now(), self.store.get(id).record.owner
        lines = self.lines(id)
        good = [_answered(each) for each in lines if each["custom_id"] not in failed]
        bad = [_failed(each) for each in lines if each["custom_id"] in failed]
        kept = [
            self.storage.save(owner, f"{id}.jsonl", (_line(each) for each in some), purpose="batch_output").id
            if some
            else None
            for some in (good, bad)
        ]
        use = BatchUse(100 * len(good), 50 * len(good), 0.5 * len(good), 0.1 * len(good), 0.001 * len(good))
        counts = LineCounts(len(lines), len(good), len(bad))
        state = BatchState("finalizing", "hand", now, counts, use, None, now - timedelta(seconds=60), now)
        self.store.end(id, BatchEnd(status, now, state, tuple(errors), kept[0], kept[1]))


def _answered(line: dict[str, Any]) -> dict[str, Any]:
    said = line["body"].get("messages", [{}])[-1].get("content", "")
    body = {"choices": [{"message": {"role": "assistant", "content": f"You said: {said}"}}]}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}


def _failed(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "x",
        "custom_id": line["custom_id"],
        "response": None,
        "error": {"code": "timeout", "message": "no answer came"},
    }


def _line(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


@contextmanager
def batch_hand(ledger: Path, files: Path) -> Iterator[BatchHand]:
    """One that has this ledger, by its file, and the folder of these files."""
    with closing(SqliteDict(ledger)) as facts, closing(SqliteQueue(ledger, clock=CLOCK)) as queue:
        yield BatchHand(BatchStore(facts, Ledger(queue, facts, CLOCK), CLOCK), BatchStorage(files, CLOCK))
