"""The local home: where it is, who holds it, and what is remembered of the last stack."""

import os
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.archive.archived import archive_at
from jobs.core.clock import SystemClock
from jobs.core.errors import BadRequest, Refused, StoreUnavailable
from jobs.core.retention import RetentionRules
from jobs.home.home import Home, LocalServer, Stack, home_of
from jobs.testing.clock import HandClock
from tests.support.waiting import PATIENCE

HOLD = "import sys, time; from pathlib import Path; from jobs.home.home import Home\n"
HOLD += "from jobs.core.clock import SystemClock\n"
HOLD += "with Home(Path(sys.argv[1])).held(SystemClock()): print('held', flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("environ", "platform", "path"),
    [
        ({"OLLAMA_MODAL_HOME": "/srv/om"}, "linux", "/srv/om"),
        ({"XDG_DATA_HOME": "/data"}, "linux", "/data/ollama-modal"),
        ({"XDG_DATA_HOME": "not/absolute"}, "linux", "~/.local/share/ollama-modal"),
        ({"OLLAMA_MODAL_HOME": ""}, "linux", "~/.local/share/ollama-modal"),
        ({"XDG_DATA_HOME": "/data"}, "darwin", "~/Library/Application Support/ollama-modal"),
    ],
)
def test_the_home_is_where_the_platform_keeps_such_data(environ: dict[str, str], platform: str, path: str) -> None:
    """The variable names the home; without it, it is in the user's data directory, as the platform has it."""
    assert home_of(environ, platform).root == Path(path).expanduser()


@pytest.mark.parametrize("bad", ["file", "file/below", "x" * 300])
def test_a_home_that_cannot_be_is_refused(tmp_path: Path, bad: str) -> None:
    """A home that cannot be made is refused with its path, and with the variable and its value."""
    (tmp_path / "file").write_text("")
    value = str(tmp_path / bad)
    with pytest.raises(BadRequest, match="cannot be used") as refused:
        home_of({"OLLAMA_MODAL_HOME": value}).prepare()
    assert refused.value.hint is not None
    assert f"OLLAMA_MODAL_HOME is {value!r}" in refused.value.hint


def test_a_new_home_is_its_owners_alone(tmp_path: Path) -> None:
    """A home is made for its owner: the ledger tells who asked for what."""
    home = Home(tmp_path / "new")
    home.prepare()
    assert home.root.stat().st_mode & 0o077 == 0


USE = """
import os, sys
from pathlib import Path
from datetime import UTC, datetime
from app.local.processes.server_process import ServerProcess
from app.logs import on_terminal
from jobs.core.clock import SystemClock
from jobs.home.home import Home, Stack
from loguru import logger

os.umask(int(sys.argv[2], 8))
home = Home(Path(sys.argv[1]))
with home.held(SystemClock()):
    on_terminal(home.logs / "up.log")
    logger.info("hello")
    logger.complete()
    home.write_stack(Stack(1, datetime.now(UTC), simulated=True, servers=(), models=None))
    facts = home.facts()
    facts.put("a", 1)
    ServerProcess("child", ["true"], env={}, log=home.logs / "child.log")
    wal = home.root / "ledger.sqlite-wal"
    assert wal.exists()
    for path in (home.root, *home.root.rglob("*")):
        print(path.relative_to(home.root), oct(path.stat().st_mode & 0o777))
    facts.close()
"""


def modes(home: Path, umask: str) -> dict[str, str]:
    """What is there while somebody uses the home, and how open it is."""
    done = subprocess.run(
        [sys.executable, "-c", USE, str(home), umask], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_what_is_in_a_home_is_its_owners_alone(tmp_path: Path, umask: str) -> None:
    """Whatever the umask: folders 0700, files 0600, SQLite's own among them; for they tell who asked for what."""
    found = modes(tmp_path / "new", umask)
    assert {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "up.lock", "stack.json"} <= set(found)
    assert {"weights.lock", "logs/up.log", "logs/child.log"} <= set(found)
    folders = {".", "logs"}
    assert {name: mode for name, mode in found.items() if mode != ("0o700" if name in folders else "0o600")} == {}


def test_a_home_that_is_open_is_closed_and_nothing_else(tmp_path: Path) -> None:
    """What older versions left open is closed at the next start; models, and what is not ours, stay."""
    home = tmp_path / "old"
    modes(home, "022")
    (home / "keys").write_text("")
    (home / "simulated" / "models").mkdir(parents=True)
    (home / "simulated" / "models" / "blob").write_text("")
    (home / "own.sh").write_text("")
    for path in (home, *home.rglob("*")):
        path.chmod(0o755)
    found = modes(home, "022")
    left = {"simulated", "simulated/models", "simulated/models/blob", "own.sh"}
    assert {name for name, mode in found.items() if mode == "0o755"} == left
    assert found["keys"] == "0o600"
    assert found["logs/child.log.1"] == "0o600"


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    """One process holds a home; others see its pid and are refused; a SIGKILL of it frees the home at once."""
    home = Home(tmp_path)
    assert home.up_pid() is None
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert home.up_pid() == holder.pid
        with pytest.raises(Refused, match=f"with pid {holder.pid}"), home.held(HandClock()):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert home.up_pid() is None
    with home.held(SystemClock()):
        assert home.up_pid() == os.getpid()
    assert home.up_pid() is None


def test_asking_does_not_get_in_the_way(tmp_path: Path) -> None:
    """Many who ask at once whether somebody holds the home neither see each other nor keep a holder out."""
    home = Home(tmp_path)
    with home.held(SystemClock()):
        pass
    descriptors = [os.open(home.lock, os.O_RDONLY) for _ in range(5)]
    try:
        assert [home.up_pid() for _ in descriptors] == [None] * 5
        with home.held(SystemClock()):
            assert home.up_pid() == os.getpid()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_the_stack_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What `up` composed is read back whole; a file that is torn or of another shape counts as none."""
    home = Home(tmp_path)
    assert home.read_stack() is None
    stack = Stack(
        pid=7,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        simulated=True,
        servers=(LocalServer("a10g", "http://127.0.0.1:1"), LocalServer("h100", "http://127.0.0.1:2")),
        models=tmp_path / "models",
        retention=RetentionRules(quota_bytes=5),
        rate_limit=6,
        why_by_server=None,
    )
    home.write_stack(stack)
    assert home.read_stack() == stack
    assert [entry.name for entry in tmp_path.iterdir()] == ["stack.json"]
    for torn in ("", "{", "[]", '{"pid": 7}', "null"):
        home.stack_file.write_text(torn)
        assert home.read_stack() is None


def test_a_home_that_cannot_be_opened_for_now_is_tried_again(tmp_path: Path) -> None:
    """With no descriptor left a home is unavailable for now, which is worth another try; nothing is wrong with it."""
    home = Home(tmp_path)
    home.prepare()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(StoreUnavailable, match="cannot be used now: Too many open files"):
            home.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_archive_is_where_the_home_says(tmp_path: Path) -> None:
    """Whoever only asks whether there is one need not read what reads it."""
    archive_at(tmp_path).append("jobs", [{"id": "a-1"}])
    assert Home(tmp_path).archive.is_dir()
    assert [each.parent for each in tmp_path.rglob("*.jsonl")] == [Home(tmp_path).archive]
