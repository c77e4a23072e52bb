"""Batches on one machine: posted, worked on in a process of their own beside `up`, killed, read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.batches.batch_store import Batch, BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.records import BatchRecord
from jobs.core.clock import SystemClock
from tests.support.batch_files import documents, line, packed, posted
from tests.support.batch_runs import ids
from tests.support.killed_batches import is_kept, kill_through, running
from tests.support.local_stack import Shell, Up, up
from tests.support.processes import is_running
from tests.support.waiting import until

KILLS, LINES = 8, 300
"""`scripts/kill_batches` goes further."""


class Batches:
    """Those of a home, as whoever posts them sees them."""

    def __init__(self, shell: Shell) -> None:
        self.store = shell.store()
        self.storage = BatchStorage(shell.home / "om" / "batches", SystemClock())
        self.batches = BatchStore(self.store.facts, self.store.ledger(), self.store.clock)

    def post(self, count: int, owner: str = "") -> BatchRecord:
        body = {"model": "tiny", "max_tokens": 3}
        said = ({**body, "messages": [{"role": "user", "content": f"line {n}"}]} for n in range(1, count + 1))
        texts = packed(line(n, body=each) for n, each in enumerate(said, 1))
        record = posted(self.storage, self.storage.save(owner, "lines.jsonl", texts))
        self.batches.post(record)
        return record

    def ended(self, record: BatchRecord) -> Batch:
        until(lambda: self.batches.get(record.id).has_ended, shows=lambda: self.batches.get(record.id))
        return self.batches.get(record.id)

    def output(self, batch: Batch) -> list[str]:
        assert batch.end is not None
        id = batch.end.output_file_id
        return ids(documents(self.storage, self.storage.file(id))) if id else []


@contextmanager
def simulated(shell: Shell) -> Iterator[tuple[Up, Batches]]:
    """`up` with simulated servers and a model."""
    with up(shell, "--simulate") as at:
        assert shell.run("pull", "tiny").returncode == 0
        batches = Batches(shell)
        try:
            yield at, batches
        finally:
            batches.store.close()


def test_a_batch_runs_beside_up(tmp_path: Path) -> None:
    """No process works on batches before there is one; it is `up`'s child, and gone when that is."""
    shell = Shell(tmp_path)
    with simulated(shell) as (at, batches):
        assert running(at, "app.local.batches") == []
        batch = batches.ended(batches.post(60))
        assert (batch.status, batches.output(batch)) == ("completed", [f"id-{n}" for n in range(1, 61)])
        (pid,) = running(at, "app.local.batches")
        again = batches.ended(batches.post(5))
        assert (again.status, running(at, "app.local.batches")) == ("completed", [pid])
        assert batch.estimate is not None
        assert batch.estimate.basis == "guess"
        at.stop()
        assert not is_running(pid)


def test_a_batch_runs_with_the_key_of_its_owner(tmp_path: Path) -> None:
    """Where there are keys its lines go by its owner's limits, in its owner's name; nobody's are refused."""
    shell = Shell(tmp_path)
    assert shell.run("keys", "new", "alice", "--scope", "chat").returncode == 0
    with simulated(shell) as (_, batches):
        batch = batches.ended(batches.post(10, owner="alice"))
        assert (batch.status, len(batches.output(batch))) == ("completed", 10)
        used = json.dumps(dict(batches.store.facts.items("usage/")))
        nobodys = batches.ended(batches.post(10, owner="bob"))
        assert (nobodys.status, nobodys.errors[0].code) == ("failed", "key_revoked")
        assert batches.output(nobodys) == []
        assert "alice" in used or until(lambda: "alice" in json.dumps(dict(batches.store.facts.items("usage/"))))


def test_kills_lose_no_line_and_double_none(tmp_path: Path) -> None:
    """Worker, gateway and server are killed over and over: each line has one result, and few were asked for twice."""
    found = kill_through(tmp_path, kills=KILLS, lines=LINES, pause=0.3)
    assert found.kills.total() == KILLS
    assert is_kept(found, LINES) == []
