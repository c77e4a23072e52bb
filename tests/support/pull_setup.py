"""A pull from a loopback registry through ledger and worker, as `up` composes them, with times of tenths of a second.

Scenes can be sent to other processes: whoever gets one opens the stores for itself.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import httpx

from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.core.retry import AT_ONCE, NEVER, Policy
from jobs.ledger.job import Backoff, Job
from jobs.ledger.kinds import LANES, WEIGHTS_LANE
from jobs.ledger.ledger import Ledger
from jobs.registry.client import Registry
from jobs.tasks.context import TaskContext
from jobs.tasks.table import perform
from jobs.testing.models import arbitrary
from jobs.weights.directory import ModelsDirectory
from jobs.weights.manifest import Manifest
from jobs.weights.staging import staging_subject
from jobs.weights.survey import BlobState
from jobs.worker.attempt import RunningAttempt
from jobs.worker.worker import Timing, Worker
from tests.support.stores import Store, open_store
from tests.support.waiting import PATIENCE, until

MODEL = arbitrary("walnut", 600_000, layers=2)
SUBJECT = str(MODEL.name.folded())
CONNECTIONS = 3
RANGE_BYTES = 32 * 1024
ATTEMPTS = 100
TIMING = Timing(
    lease=timedelta(seconds=0.5),
    beat=timedelta(seconds=0.05),
    sweep=timedelta(seconds=0.05),
    poll=timedelta(seconds=0.05),
    grace=timedelta(seconds=5),
)
NO_WAIT = Backoff(first=timedelta(0), longest=timedelta(0))


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Scene:
    """One models directory, one ledger, one registry."""

    folder: Path
    registry: str

    @property
    def ledger_path(self) -> Path:
        return self.folder / "ledger.sqlite"

    def store(self) -> Store:
        return open_store(self.ledger_path, SystemClock())

    def weights(self, persist: Callable[[], None] = nothing) -> ModelsDirectory:
        folder = self.folder
        return ModelsDirectory(
            folder / "models", lock=folder / "weights.lock", persist=persist, clock=SystemClock(), disk_counts=False
        )

    def context(
        self,
        client: httpx.Client,
        *,
        persist: Callable[[], None] = nothing,
        stall: float = PATIENCE,
        policy: Policy = AT_ONCE,
        **more: Any,
    ) -> TaskContext:
        registry = Registry(
            client=client,
            mirrors={"registry.ollama.ai": self.registry},
            connections=CONNECTIONS,
            range_bytes=RANGE_BYTES,
            stall=timedelta(seconds=stall),
            policy=policy,
            requests=NEVER,
        )
        return TaskContext(SystemClock(), registry, self.weights(persist), **more)


def worker(ledger: Ledger, context: TaskContext, *, lane: str = WEIGHTS_LANE, timing: Timing = TIMING) -> Worker:
    """A worker as `app.local.workers` composes it, which waits for nothing between two attempts."""

    def fence(job: Job) -> None:
        if context.weights is not None:
            context.weights.release(staging_subject(job))

    def work(run: RunningAttempt) -> Mapping[str, Any]:
        return perform(run, context)

    return Worker(ledger, lane, work, clock=SystemClock(), timing=timing, backoff=NO_WAIT, before_lost=fence)


@contextmanager
def working(store: Store, context: TaskContext) -> Iterator[None]:
    """Workers of both lanes at work, patient enough for a busy machine."""
    stop = threading.Event()
    patient = replace(TIMING, lease=timedelta(seconds=PATIENCE))
    threads = [
        threading.Thread(target=worker(store.ledger(), context, lane=lane, timing=patient).run, args=(stop,))
        for lane in LANES
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def worked(store: Store, context: TaskContext, id: str) -> Job:
    """The job, after a worker has brought it to its end."""
    ledger = store.ledger()
    with working(store, context):
        until(lambda: ledger.reader.get(id).has_ended)
    return ledger.reader.get(id)


def post(store: Store, kind: str = "pull", *, attempts: int | None = None, **request: Any) -> str:
    asked = {"model": str(MODEL.name)} | request
    subject = str(ModelName.parse(asked["model"]).folded())
    return store.ledger().post(kind, subject, asked, by="test", attempts=attempts).job.id


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below, and what is in it."""
    return {
        str(path.relative_to(folder)): "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


class Reader:
    """Looks at models directories all the time: whatever is listed must be whole, byte for byte."""

    def __init__(self) -> None:
        self.reads = 0
        self.models_seen = 0
        self._watched: list[ModelsDirectory] = []
        self._hashed: set[tuple[str, int, int]] = set()
        self._wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="reader")

    def watch(self, weights: ModelsDirectory) -> None:
        self._watched.append(weights)

    def leave(self, weights: ModelsDirectory) -> None:
        self._look_at(weights)
        self._watched.remove(weights)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._wrong, self._wrong[:3]

    def _look_on(self) -> None:
        while not self._stop.wait(0.005):
            for weights in list(self._watched):
                self._look_at(weights)

    def _look_at(self, weights: ModelsDirectory) -> None:
        self.reads += 1
        for file in weights.layout.manifest_files():
            self.models_seen += 1
            for layer in Manifest.parse(file.path.read_bytes()).blobs:
                if weights.blob_state(layer) is not BlobState.PRESENT or not self._is_sound(weights, layer.digest):
                    self._wrong.append(f"{file.name} is listed, and {layer.digest} is {weights.blob_state(layer)}")

    def _is_sound(self, weights: ModelsDirectory, digest: str) -> bool:
        """Hashed once for each file that stands under this name."""
        path = weights.layout.blob(digest)
        stat = path.stat()
        known = (str(path), stat.st_ino, stat.st_mtime_ns)
        if known not in self._hashed:
            if f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" != digest:
                return False
            self._hashed.add(known)
        return True
