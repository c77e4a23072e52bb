"""A disk that fills under a running stack: it serves on, loses nothing, and goes on by itself once there is space."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from jobs.core.errors import StoreFull
from jobs.store.sqlite import SqliteDict, SqliteQueue
from tests.support.disks import NEEDS_MOUNT, fill, small_disk
from tests.support.local_stack import Shell, Up
from tests.support.waiting import PATIENCE, until

MODEL = "qwen2.5:0.5b"  # 4 MB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 16) as mounted:
        yield mounted


@contextmanager
def up_on(shell: Shell, log: Path) -> Iterator[Up]:
    """`ollama-modal up --simulate`, its talk read into a file of another disk."""
    process = shell.start("up", "--simulate", "--port", "0")
    assert process.stdout is not None
    assert process.stderr is not None
    talk = process.stderr

    def listen() -> None:
        with log.open("w") as kept:
            for line in talk:
                kept.write(line)
                kept.flush()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    line = process.stdout.readline()
    assert line.startswith("ready "), log.read_text()
    try:
        yield Up(shell, process, line.split()[1])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=PATIENCE)
        process.stdout.close()
        listener.join(PATIENCE)
        talk.close()


class Asking:
    """Asks the gateway for all it is good for, again and again, and keeps what went wrong."""

    def __init__(self, url: str) -> None:
        self.wrong: list[str] = []
        self.asked = 0
        self._url = url
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(PATIENCE)

    def _ask(self) -> None:
        talk = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
        with httpx.Client(base_url=self._url, timeout=PATIENCE) as client:
            while not self._done.wait(0.2):
                for method, path, body in (
                    ("GET", "/healthz", None),
                    ("GET", "/ops/v1/jobs", None),
                    ("POST", "/api/chat", talk),
                ):
                    try:
                        answer = client.request(method, path, json=body)
                    except httpx.HTTPError as error:
                        self.wrong.append(f"{path}: {error!r}")
                        continue
                    self.asked += 1
                    if answer.status_code != 200:
                        self.wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")


@NEEDS_MOUNT
def test_a_ledger_is_opened_on_a_full_disk(disk: Path) -> None:
    """To open a ledger that is there, as each thread and command does, writes nothing: it is read on a full disk."""
    file = disk / "ledger.sqlite"
    first = SqliteDict(file)
    first.put("job/a-1", {"at": "2026-11-29T00:00:00.000Z"})
    fill(disk)
    with pytest.raises(StoreFull):
        first.put("job/b-1", {"text": "x" * 100_000})
    second, queue = SqliteDict(file), SqliteQueue(file)
    assert second.get("job/a-1") is not None
    assert queue.len() == 0
    for opened in (first, second, queue):
        opened.close()


@NEEDS_MOUNT
def test_a_disk_that_fills_during_a_pull_ends_nothing(disk: Path, tmp_path: Path) -> None:
    """With home and models on a disk that fills, for longer than a lease, the gateway answers throughout and says what
    is wrong; once there is space the pull ends succeeded, each attempt has one end, and SIGTERM is obeyed."""
    log = tmp_path / "talk"
    shell = Shell(disk)
    with up_on(shell, log) as running:
        shell.ask("pull", "tiny")
        id = shell.run("pull", MODEL, "--rate-limit", "400kB", "--no-wait").stdout.strip()
        until(lambda: job_of(running, id)["progress"]["completed"] > 400_000)
        with Asking(running.url) as asking:
            ballast = fill(disk)
            until(lambda: problems(running))
            refused = httpx.post(f"{running.url}/ops/v1/jobs", json={"kind": "verify"}, timeout=PATIENCE)
            assert (refused.status_code, "the disk is full" in refused.json()["error"]) == (507, True), refused.text
            time.sleep(25)  # a lease, and a sweep of what it left behind
            assert running.process.poll() is None, log.read_text()
            said = "the worker of lane {} goes on once its ledger does: the disk is full"
            assert any(each.startswith(said.format("weights")) for each in problems(running))
            ballast.unlink()
            until(lambda: asking.asked > 50)
            until(lambda: job_of(running, id)["state"] not in {"running", "waiting", "queued"})
        job = job_of(running, id)
        until(lambda: not problems(running))
        assert asking.wrong == []
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=PATIENCE) == 0
    said = log.read_text()
    assert job["state"] == "succeeded", (job, said)
    assert [attempt["outcome"] for attempt in job["attempts"]][-1] == "succeeded"
    assert {attempt["class"] for attempt in job["attempts"]} <= {"disk", "killed", None}, job
    assert said.count("the ledger of lane weights fails, and is asked again") == 1, said
    assert said.count("the ledger of lane weights answers again") == 1, said
    assert "crashed" not in said


@NEEDS_MOUNT
def test_up_is_stopped_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """SIGTERM ends `up` with 0 while its disk is full and a job runs; the next `up` goes on with the job."""
    log = tmp_path / "talk"
    shell = Shell(disk)
    with up_on(shell, log) as running:
        id = shell.run("pull", MODEL, "--rate-limit", "400kB", "--no-wait").stdout.strip()
        until(lambda: job_of(running, id)["progress"]["completed"] > 400_000)
        ballast = fill(disk)
        until(lambda: problems(running))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=PATIENCE) == 0, log.read_text()
        ballast.unlink()
    with up_on(shell, log) as running:
        until(lambda: job_of(running, id)["state"] == "succeeded")


@NEEDS_MOUNT
def test_up_on_a_full_disk_says_so(disk: Path) -> None:
    """`up`, and what posts a job, say on a full disk that it is full and what to do; none shows a traceback."""
    shell = Shell(disk)
    ballast = fill(disk)
    refused = shell.run("up", "--simulate", "--port", "0")
    assert refused.returncode in {1, 2}
    assert "No space left on device" in refused.stderr or "the disk is full" in refused.stderr
    assert "hint: " in refused.stderr
    assert "Traceback" not in refused.stderr
    ballast.unlink()
    assert shell.run("pull", "tiny", "--no-wait").returncode == 0
    fill(disk)
    done = shell.run("pull", "llama3.2", "--no-wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the disk is full, and with it the ledger in" in done.stderr
    assert f"hint: free some space in '{shell.home / 'om'}'" in done.stderr
    assert "Traceback" not in done.stderr


def job_of(running: Up, id: str) -> Any:
    return httpx.get(f"{running.url}/ops/v1/jobs/{id}", timeout=PATIENCE).json()


def problems(running: Up) -> list[str]:
    told: Any = httpx.get(f"{running.url}/ops/v1/health", timeout=PATIENCE).json()
    return list(told["problems"])
