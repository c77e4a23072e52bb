"""A stderr that nobody reads holds up nobody."""

import concurrent.futures
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.checkout import ROOT
from tests.support.local_stack import Shell, up
from tests.support.waiting import PATIENCE

CHATS = 2_000


def test_chats_are_answered_and_a_stop_is_obeyed_though_nobody_reads_stderr(tmp_path: Path) -> None:
    """With its stderr unread `up` answers 2,000 chats and obeys SIGTERM; the lines that waited are told in the end."""
    with up(Shell(tmp_path), "--simulate") as running, httpx.Client(base_url=running.url, timeout=PATIENCE) as client:
        assert running.shell.run("pull", "tiny").returncode == 0
        talk = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}

        def chat(_: int) -> int:
            return client.post("/api/chat", json=talk).status_code

        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            assert set(callers.map(chat, range(CHATS))) == {200}
        assert client.get("/healthz").status_code == 200
        code, said = running.stop()
    assert code == 0
    assert said.count("/api/chat tiny:latest on local for anyone: success 200") == CHATS


def test_an_end_waits_for_no_reader(tmp_path: Path) -> None:
    """With a stderr that is never read, not even at the end, `up` ends at SIGTERM with 0 all the same."""
    with up(Shell(tmp_path), "--simulate") as running, httpx.Client(base_url=running.url, timeout=PATIENCE) as client:
        for _ in range(600):  # more than a pipe holds
            assert client.get("/api/show").status_code in {404, 405}
        for _ in range(600):
            client.post("/api/chat", json={"model": "nonesuch"})
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
        running.process.communicate()


CONTAINER = """
import logging
from loguru import logger
from app.logs import in_container
in_container({"MODAL_TASK_ID": "ta-1"})
for number in range(2_000):
    logger.info("line {} of a lane that nobody reads", number)
    logging.getLogger("asyncio").error("line %s of the library's own log", number)
print("done", flush=True)
"""


def test_a_container_works_and_ends_though_nobody_reads_its_stderr() -> None:
    """In a container neither our log nor the standard library's waits for a reader, and neither does its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONTAINER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    assert process.wait(PATIENCE) == 0
    process.communicate()
