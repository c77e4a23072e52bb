"""A ledger's file with many jobs that have ended, as the versions before the archive left them: written in one go."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.core.clock import isoformat
from jobs.store import keys
from jobs.store.sqlite import SqliteDict

DICT = "ollama-ledger"

EVERY = timedelta(minutes=1)

MODELS = 500
"""They are about so many."""


def write_past(path: Path, count: int, last: datetime, *, models: str = "library", failed_each: int = 50) -> list[str]:
    """Write so many jobs about these models, one a minute, of which the newest ended then; their ids, the oldest first.

    Of so many each, one has failed; of none, where that is 0.
    """
    SqliteDict(path).close()  # makes the tables
    began = last - EVERY * count
    ids = []
    with sqlite3.connect(path) as connection:
        for number in range(count):
            entries = dict(
                _facts(
                    number, began + EVERY * number, models, has_failed=bool(failed_each) and number % failed_each == 0
                )
            )
            rows = [(DICT, key, json.dumps(value, separators=(",", ":"))) for key, value in entries.items()]
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", rows)
            ids.append(_id(number, models))
    connection.close()
    return ids


def _id(number: int, models: str) -> str:
    generation, line = divmod(number, MODELS)
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    scattered, letters = (line + 1) * 7_919_777_777 % 10**12, models[0]
    for _ in range(9):
        scattered, letter = divmod(scattered, len(alphabet))
        letters += alphabet[letter]
    return f"{letters}-{generation + 1}"


def _facts(number: int, at: datetime, models: str, *, has_failed: bool) -> Iterator[tuple[str, Any]]:
    id, subject = _id(number, models), f"{models}-{number % MODELS}:latest"
    progress = {"completed": 1_000, "total": 1_000, "bytes_per_second": 204_000_000.0, "status": "pulling"}
    token, moments = f"{number:016x}", [isoformat(at + timedelta(seconds=second)) for second in range(4)]
    yield (
        keys.job(id),
        {
            "v": 1,
            "id": id,
            "kind": "pull",
            "subject": subject,
            "lane": "weights",
            "request": {"model": subject, "rate_limit": None},
            "attempts_allowed": 5,
            "posted_by": "test",
            "posted_at": moments[0],
            "token": token,
        },
    )
    claim = {"v": 1, "at": moments[1], "worker": "w:1", "lease_seconds": 20.0, "token": token}
    yield keys.claim(id, 1), claim
    yield keys.beat(id, 1), {"v": 1, "at": moments[2], "progress": progress}
    yield (
        keys.end(id, 1),
        {
            "v": 1,
            "at": moments[3],
            "outcome": "failed" if has_failed else "succeeded",
            "class": "network" if has_failed else None,
            "message": "the registry did not answer within 30 s" if has_failed else None,
            "hint": None,
            "not_before": None,
            "result": None if has_failed else {"digest": f"sha256:{number:064x}", "way": "registry", "size": 1_000},
            "progress": progress,
            "token": token,
        },
    )
    yield keys.live("pull", subject), {"v": 1, "line": id.rpartition("-")[0], "generation": number // MODELS + 2}
