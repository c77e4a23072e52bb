"""Whoever only reads changes nothing: no folder is made, no byte and no time of any file."""

import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.home.home import Home, Stack
from jobs.ledger.job import Ending
from jobs.store.sqlite_reader import SqliteReader
from jobs.testing.models import find
from tests.support.local_stack import COMMAND, Shell
from tests.support.models_directory import lay
from tests.support.stores import ended_job
from tests.support.waiting import PATIENCE

FLEET = str(Path("app/fleet.toml").absolute())
LINES = str(Path("tests/support/lines_of_a_batch.jsonl").absolute())
READING = (
    "jobs", "jobs --dead", "jobs --since 7d", "job nope", "models", "list", "ps", "status", "plan",
    f"plan --fleet {FLEET}", "route tiny", "cost", "night", "windows", "show tiny", "prune --dry-run", "help",
    "batches", "batch batch_000000000000000000000000", f"batch {LINES} --dry-run",
    "keys new bob --line", "keys list", "keys show bob",
)  # fmt: skip


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every entry below, with its mode, the time of its last change, and what is in it."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"",
        )
        for path in [root, *sorted(root.rglob("*"))]
    }  # fmt: skip


@pytest.mark.parametrize("line", READING)
def test_a_home_that_is_not_there_is_not_made(tmp_path: Path, line: str) -> None:
    """Reading where nobody ever wrote makes no home; it answers with nothing, or says what is missing."""
    shell = Shell(tmp_path / "user")
    shell.home.mkdir()
    done = shell.run(*line.split())
    assert done.returncode in {0, 2}, done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(shell.home).keys() == {"."}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A home that `up` has left: jobs, a stack that is written down, and a model."""
    shell = Shell(tmp_path_factory.mktemp("left"))
    models = shell.home / "models"
    found = find(ModelName.parse("tiny"))
    assert found is not None
    lay(models, found)
    store = shell.store()
    ended_job(store, "a:latest", Ending("failed", "network", "cut"))
    store.ledger().post("pull", "b:latest", {"model": "b"}, by="t")
    store.close()
    home = Home(shell.home / "om")
    clock = SystemClock()
    home.write_stack(Stack(pid=1, started_at=clock.now(), simulated=True, servers=(), models=models, fleet=Path(FLEET)))
    return shell


@pytest.mark.parametrize("line", READING)
def test_a_home_that_is_there_stays_as_it_is(left: Shell, line: str) -> None:
    """The ledger, what `up` wrote down, and the models directory are what they were, to the byte and the second."""
    before = snapshot(left.home)
    done = left.run(*line.split())
    assert "Traceback" not in done.stderr
    assert snapshot(left.home) == before


WITHOUT_PRIVILEGE = """
import ctypes, os, sys
if os.getuid() == 0:  # a superuser whom modes do not bind is bound by them from the next program on
    assert ctypes.CDLL(None).prctl(24, 1) == 0, "PR_CAPBSET_DROP of CAP_DAC_OVERRIDE"
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_home_that_cannot_be_written_is_read(left: Shell) -> None:
    """Where whoever asks may only read, jobs are listed all the same."""
    home = left.home / "om"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [*home.rglob("*"), home]}
    try:
        for path in modes:
            path.chmod(0o555 if path.is_dir() else 0o444)
        listed, posted = (
            subprocess.run(
                [sys.executable, "-c", WITHOUT_PRIVILEGE, *COMMAND[1:], *words],
                env=left.environ, capture_output=True, text=True, timeout=PATIENCE, check=False,
            )
            for words in (["jobs"], ["pull", "c", "--no-wait"])
        )  # fmt: skip
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert listed.returncode == 0, listed.stderr
    assert "b:latest" in listed.stdout
    assert (posted.returncode, "the ledger cannot be used" in posted.stderr) == (1, True), posted.stderr


def test_a_crashed_writer_leaves_what_it_wrote_to_be_read(tmp_path: Path) -> None:
    """What lies in the log beside the file is read, and stays there: who writes next puts it where it belongs."""
    shell = Shell(tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path; from jobs.core.clock import SystemClock;"
        "from jobs.home.home import Home; ledger = Home(Path(sys.argv[1])).ledger(SystemClock());"
        "ledger.post('pull', 'a:latest', {'model': 'a'}, by='t'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "om")], check=False)
    assert (tmp_path / "om" / "ledger.sqlite-wal").stat().st_size > 0
    before = snapshot(tmp_path)
    assert [job["subject"] for job in shell.ask("jobs")] == ["a:latest"]
    assert snapshot(tmp_path) == before


def test_what_is_written_meanwhile_is_seen(tmp_path: Path) -> None:
    """A reader and a writer of one file at once: no read fails, and none goes back behind what was seen before."""
    shell = Shell(tmp_path)
    store = shell.store()
    reader = SqliteReader(tmp_path / "om" / "ledger.sqlite")
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            store.facts.put("job/x", number)
            if number % 50 == 0:
                store.facts.put(f"job/{number}", {"n": number})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [-1]
    while not done.is_set():
        seen.append(reader.get("job/x", -1))
    writer.join()
    assert seen == sorted(seen)
    assert reader.get("job/x") == 299
    store.close()
    assert reader.get("job/x") == 299
    assert dict(reader.items())["job/250"] == {"n": 250}


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    """A file that was made and not yet written to is as good as none."""
    (tmp_path / "ledger.sqlite").touch()
    reader = SqliteReader(tmp_path / "ledger.sqlite")
    assert (list(reader.keys()), list(reader.items()), reader.get("x", 1)) == ([], [], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]
