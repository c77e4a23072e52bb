"""A worker in a process of its own, which kills itself at the chosen moment, or lives until the job has ended.

Started from a fork server that has imported this module, so that hundreds of them cost little. Everything with a
thread or a file in it is opened after the fork.
"""

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import httpx
from loguru import logger

from jobs.core.clock import SystemClock
from jobs.core.errors import StoreUnavailable
from jobs.ledger.ledger import Ledger
from jobs.store.sqlite import SqliteDict, SqliteQueue
from tests.support.pull_setup import Scene, worker
from tests.support.waiting import PATIENCE, WHOLE

FILE_STEPS = frozenset({"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"})

_CLIENT = httpx.Client(timeout=PATIENCE)  # reads the certificates, once for all children; it has no connection yet
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "tests.support.killed_worker"])
_ONE = threading.Lock()
"""Whoever starts or ends a child looks after all of them, and two at once would read one's end twice."""


class Death:
    """Counts the points at which a process could die; at the chosen one it does."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self._seen = 0
        self._lock = threading.Lock()

    def point(self) -> None:
        with self._lock:
            self._seen += 1
            if self._seen == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()

    def audit(self, event: str, _: tuple[Any, ...]) -> None:
        if event in FILE_STEPS:
            self.point()


class MortalDict(SqliteDict):
    """Each fact is a point before it is written and one after."""

    death: Death

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        self.death.point()
        is_new = super().put(key, value, skip_if_exists=skip_if_exists)
        self.death.point()
        return is_new


class MortalQueue(SqliteQueue):
    """Each id is a point before it is put, after that, and after it was taken."""

    death: Death

    def put(self, *args: Any, **named: Any) -> None:
        self.death.point()
        super().put(*args, **named)
        self.death.point()

    def get(self, *args: Any, **named: Any) -> Any:
        item = super().get(*args, **named)
        if item is not None:
            self.death.point()
        return item


def work(scene: Scene, id: str, dies_at: int | None) -> None:
    """Be a worker until this job has ended."""
    logger.remove()
    death = Death(dies_at)
    sys.addaudithook(death.audit)
    clock = SystemClock()
    queue, facts = MortalQueue(scene.ledger_path, clock=clock), MortalDict(scene.ledger_path)
    queue.death = facts.death = death
    stop = threading.Event()
    threading.Thread(target=_await_end, args=(scene, id, stop), daemon=True).start()
    while not stop.is_set():
        with suppress(StoreUnavailable):  # a machine too busy to answer in time: another one comes, as in `up`
            worker(Ledger(queue, facts, clock), scene.context(_CLIENT, persist=death.point)).run(stop)


def _await_end(scene: Scene, id: str, stop: threading.Event) -> None:
    try:
        ledger, clock = scene.store().ledger(), SystemClock()
        while not ledger.reader.get(id).has_ended:
            clock.wait(0.02)
    finally:
        stop.set()


def started(scene: Scene, id: str, dies_at: int | None = None) -> ForkServerProcess:
    child = _FORKS.Process(target=work, args=(scene, id, dies_at))
    with _ONE:
        child.start()
    return child


def lived(child: ForkServerProcess, *, for_seconds: float | None = None) -> bool:
    """Wait for a child; kill it after so many seconds. Whether it lived until its job had ended."""
    if not connection.wait([child.sentinel], for_seconds if for_seconds is not None else WHOLE):
        child.kill()
    connection.wait([child.sentinel])
    with _ONE:
        child.join()
        code = child.exitcode
        child.close()
    assert code in {0, -signal.SIGKILL}, f"a worker ended with {code}"
    return code == 0
