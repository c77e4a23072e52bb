"""What a start asks of the ledger, and reads, before anything else of it is there."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.model_server.starting.asked_ahead import AskedAhead
from app.model_server.starting.blob_readers import BlobReaders
from app.model_server.starting.wanted import want
from jobs.core.clock import SystemClock
from jobs.core.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.sqlite import SqliteDict
from tests.support.checkout import ROOT
from tests.support.models_directory import Sample, put, sample, weights_at
from tests.support.stores import Store
from tests.support.waiting import PATIENCE, until

WARMED, WANTED = sample("warmed", b"w" * 1000), sample("wanted", b"a" * 9_000_000)
CLOCK = SystemClock()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    weights = weights_at(tmp_path)
    for each in (WARMED, WANTED):
        put(weights, each)
    return weights.layout.root


@pytest.fixture
def readers(volume: Path) -> Iterator[BlobReaders]:
    readers = BlobReaders(CLOCK, volume, readers=4, taken_in=lambda: None)
    yield readers
    readers.release()


def asked(facts: Any, readers: BlobReaders) -> AskedAhead:
    return AskedAhead(facts, CLOCK, "a10g", readers=readers, warmed=(WARMED.name,))


def size(model: Sample) -> int:
    return sum(layer.size for layer in model.manifest.blobs)


def is_read(readers: BlobReaders, model: Sample) -> bool:
    progress = readers.progress()
    return progress is not None and progress.done == size(model)


BEFORE = """
import sys
import modal
from app.model_server.starting.asked_ahead import AskedAhead
from app.resources import ledger
print(*sys.modules)
"""


def test_the_ledger_is_asked_before_a_server_is_imported() -> None:
    """What a container imports before it can ask has nothing of the server, of its view of the weights, nor of who asks
    the engine: these come while the ledger is asked."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    parts = ("supervisor", "settings", "models_view", "weights_reload", "process", "report")
    assert not {"httpx", *(f"app.model_server.{part}" for part in parts)} & set(done.stdout.split())
    lines = (ROOT / "app/endpoint.py").read_text("utf-8").splitlines()
    asked, rest = (next(n for n, line in enumerate(lines) if line.startswith(begin)) for begin in ORDER)
    assert asked < rest


ORDER = ("AHEAD = AskedAhead", "from app.deployment.server_container import")


def opened() -> list[str]:
    return [str(each) for each in Path("/proc/self/fd").iterdir()]


def test_what_is_waited_for_is_read_before_anybody_asks(store: Store, readers: BlobReaders) -> None:
    """Both answers are fetched by themselves, and the bytes of the first model that is waited for come at once: when
    the start comes to read them, they go on."""
    store.facts.put(keys.WEIGHTS_GENERATION, 7)
    want(store.facts, "a10g", str(WANTED.name), CLOCK.now(), since=CLOCK.now())

    ahead = asked(store.facts, readers)

    until(lambda: is_read(readers, WANTED))
    assert ahead.generation.result(PATIENCE) == 7
    assert ahead.waited_for() == [WANTED.name]
    readers.begin([*ahead.waited_for(), WARMED.name])
    assert is_read(readers, WANTED)


def test_without_a_caller_what_is_warmed_is_read(store: Store, readers: BlobReaders) -> None:
    """A start that nobody waits for loads the first warmed model, so that is read."""
    assert asked(store.facts, readers).waited_for() == []
    until(lambda: is_read(readers, WARMED))


def test_a_ledger_that_is_away_is_told_to_who_asks(tmp_path: Path, readers: BlobReaders) -> None:
    """Each failure is raised where its answer is needed, and what is warmed is read all the same."""

    class Away(SqliteDict):
        def get(self, key: Any, default: Any = None) -> Any:
            raise StoreUnavailable(f"{key} cannot be read, not even {default}")

    facts = Away(tmp_path / "away.sqlite")
    ahead = asked(facts, readers)
    with pytest.raises(StoreUnavailable):
        ahead.waited_for()
    with pytest.raises(StoreUnavailable):
        ahead.generation.result(PATIENCE)
    until(lambda: is_read(readers, WARMED))
    facts.close()


def test_both_are_asked_at_once(tmp_path: Path, readers: BlobReaders) -> None:
    """Neither waits for the other: two trips take the time of one."""
    both = threading.Barrier(2)

    class Meeting(SqliteDict):
        def get(self, key: Any, default: Any = None) -> Any:
            both.wait(PATIENCE)
            return super().get(key, default)

    facts = Meeting(tmp_path / "meeting.sqlite")
    ahead = asked(facts, readers)
    assert (ahead.waited_for(), ahead.generation.result(PATIENCE)) == ([], None)
    facts.close()


def test_what_is_read_leaves_no_file_open_where_that_is_wanted(volume: Path, readers: BlobReaders) -> None:
    """A volume cannot be reloaded while a file of it is open: readers let go of theirs, and begin anew afterwards."""
    readers.begin([WANTED.name])
    readers.release()
    assert not [path for path in map(os.path.realpath, opened()) if path.startswith(str(volume))]

    readers.begin([WANTED.name])
    until(lambda: is_read(readers, WANTED))
