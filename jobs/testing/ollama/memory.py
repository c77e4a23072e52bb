"""What the simulator holds in memory: one load at a time, kept alive, dropped when whoever asked for it leaves.

Each load is told on stderr with the words and options of ollama's own line (llm/llama_server.go), as far as we read it.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from jobs.core.clock import Clock
from jobs.core.model_name import ModelName
from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.go_formats import rfc3339
from jobs.testing.ollama.store import StoredModel

FOREVER = timedelta(days=106_751)  # Go's longest duration, some 292 years
BUSY = "server busy, please try again.  maximum pending requests exceeded"
STEP_SECONDS = 0.02

AS_MANY_AS_FIT = -1
"""The `num_gpu` of whoever names none; a model that is in memory with another stays as it is for him."""


@dataclass
class Runner:
    """A model in memory."""

    model: StoredModel
    size_vram: int
    keep_alive: timedelta
    context_length: int
    expires_at: datetime
    slots: threading.Semaphore
    num_gpu: int = AS_MANY_AS_FIT
    users: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "name": str(self.model.name),
            "model": str(self.model.name),
            "size": self.model.size,
            "digest": self.model.digest,
            "details": self.model.details(),
            "expires_at": rfc3339(self.expires_at),
            "size_vram": self.size_vram,
            "context_length": self.context_length,
        }


class Runners:
    """The models in memory.

    Args:
        vram: GPU memory in bytes; None is as much as it takes, 0 is none.
        load_rate: bytes per second of a load; 0 loads at once.
        placing_seconds: from its last byte until the model is in memory.
        keep_alive: for models that nobody named one for.
        max_queue: requests that may wait for a load.
        parallel: requests that one model answers at a time.
        most: models in memory at once; 0 is as many as fit.
        clock: for expiry.
        stopping: set when the server goes down.

    """

    def __init__(
        self,
        *,
        vram: int | None,
        load_rate: int,
        placing_seconds: float,
        keep_alive: timedelta,
        max_queue: int,
        parallel: int,
        most: int,
        clock: Clock,
        stopping: threading.Event,
    ) -> None:
        self._vram = vram
        self._load_rate = load_rate
        self._placing_seconds = placing_seconds
        self._keep_alive = keep_alive
        self._max_queue = max_queue
        self._parallel = parallel
        self._most = most
        self._clock = clock
        self._stopping = stopping
        #: Held by the one request that loads; taken before `_lock`, never while that is held.
        self._loading = threading.Lock()
        #: Guards what follows, and every runner's users and expiry: each request has a thread of its own.
        self._lock = threading.Lock()
        self._pending = 0
        self._loaded: dict[ModelName, Runner] = {}

    def listed(self) -> list[dict[str, Any]]:
        """Longest remaining first; what is loading is not in it."""
        with self._lock:
            self._expire()
            runners = sorted(self._loaded.values(), key=lambda runner: runner.expires_at, reverse=True)
            return [runner.as_json() for runner in runners]

    def unload(self, name: ModelName) -> None:
        """Out of memory at once, or as soon as nobody uses it."""
        with self._lock:
            runner = self._loaded.get(name)
            if runner is not None and runner.users:
                runner.keep_alive = timedelta(0)
            else:
                self._loaded.pop(name, None)

    @contextmanager
    def using(
        self,
        model: StoredModel,
        keep_alive: timedelta | None,
        *,
        context: int,
        gone: Callable[[], bool],
        on_cpu: bool,
        num_gpu: int = AS_MANY_AS_FIT,
    ) -> Iterator[float]:
        """Have the model in memory while inside; what comes out is the seconds its load took."""
        started = self._clock.monotonic()
        runner = self._find(model, context, num_gpu) or self._load(model, context, gone, on_cpu=on_cpu, num_gpu=num_gpu)
        took = self._clock.monotonic() - started
        if keep_alive is not None:
            runner.keep_alive = keep_alive
        try:
            yield took
        finally:
            self._let_go(runner)

    @contextmanager
    def slot(self, model: StoredModel, gone: Callable[[], bool]) -> Iterator[None]:
        """One of the requests that the model answers at a time. Any number may wait, and leave."""
        with self._lock:
            runner = self._loaded.get(model.name)
        if runner is None:
            yield
            return
        while not runner.slots.acquire(timeout=STEP_SECONDS):
            _stay(gone, self._stopping)
        try:
            yield
        finally:
            runner.slots.release()

    def _find(self, model: StoredModel, context: int, num_gpu: int) -> Runner | None:
        with self._lock:
            self._expire()
            runner = self._loaded.get(model.name)
            if runner is None or runner.model.digest != model.digest or runner.context_length != context:
                return None  # another context length is a reload
            if num_gpu not in (AS_MANY_AS_FIT, runner.num_gpu):
                return None
            runner.users += 1
            return runner

    def _load(
        self, model: StoredModel, context: int, gone: Callable[[], bool], *, on_cpu: bool, num_gpu: int
    ) -> Runner:
        with self._lock:
            if self._pending >= self._max_queue:
                raise SimError(BUSY, 503)
            self._pending += 1
        try:
            self._await_turn(gone)
            try:
                return self._find(model, context, num_gpu) or self._load_now(
                    model, context, gone, on_cpu=on_cpu, num_gpu=num_gpu
                )
            finally:
                self._loading.release()
        finally:
            with self._lock:
                self._pending -= 1

    def _await_turn(self, gone: Callable[[], bool]) -> None:
        while not self._loading.acquire(timeout=STEP_SECONDS):
            _stay(gone, self._stopping)

    def _load_now(
        self, model: StoredModel, context: int, gone: Callable[[], bool], *, on_cpu: bool, num_gpu: int
    ) -> Runner:
        self._make_place(model, gone)
        began = self._clock.monotonic()
        _log_start(model, context, num_gpu)
        if self._load_rate:
            self.pass_time(model.size / self._load_rate, gone)
        _log_bytes_read()
        self.pass_time(self._placing_seconds, gone)
        _log_end(self._clock.monotonic() - began)
        with self._lock:
            self._loaded.pop(model.name, None)
            size_vram = 0 if on_cpu or num_gpu == 0 else self._room_for(model)
            runner = Runner(
                model,
                size_vram,
                self._keep_alive,
                context,
                self._clock.now() + min(self._keep_alive, FOREVER),
                threading.Semaphore(self._parallel),
                num_gpu=num_gpu,
                users=1,
            )
            self._loaded[model.name] = runner
            return runner

    def pass_time(self, seconds: float, gone: Callable[[], bool]) -> None:
        """So long something takes, unless whoever wants it leaves."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            _stay(gone, self._stopping)
            self._clock.wait(min(STEP_SECONDS, left))

    def _make_place(self, model: StoredModel, gone: Callable[[], bool]) -> None:
        """Unload idle models, soonest to expire first, until one more may be in memory; wait while all are in use."""
        while True:
            with self._lock:
                self._expire()
                others = [each for each in self._loaded.values() if each.model.name != model.name]
                idle = sorted((each for each in others if not each.users), key=lambda each: each.expires_at)
                surplus = len(others) + 1 - self._most if self._most else 0
                for each in idle[:surplus]:
                    del self._loaded[each.model.name]
                if surplus <= len(idle):
                    return
            _stay(gone, self._stopping)
            self._clock.wait(STEP_SECONDS)

    def _room_for(self, model: StoredModel) -> int:
        """GPU memory for it, after idle models have made room, soonest to expire first."""
        if self._vram is None:
            return model.size
        idle = sorted((each for each in self._loaded.values() if not each.users), key=lambda each: each.expires_at)
        while self._free() < model.size and idle:
            del self._loaded[idle.pop(0).model.name]
        return max(0, min(model.size, self._free()))

    def _free(self) -> int:
        return (self._vram or 0) - sum(runner.size_vram for runner in self._loaded.values())

    def _let_go(self, runner: Runner) -> None:
        with self._lock:
            runner.users -= 1
            runner.expires_at = self._clock.now() + runner.keep_alive
            self._expire()

    def _expire(self) -> None:
        now = self._clock.now()
        for name, runner in list(self._loaded.items()):
            if not runner.users and runner.expires_at <= now:
                del self._loaded[name]


def _log_start(model: StoredModel, context: int, num_gpu: int) -> None:
    weights = model.layer_of("model") or {}
    blob = str(weights.get("digest", "")).replace(":", "-")
    layers = "" if num_gpu == AS_MANY_AS_FIT else f" -ngl {num_gpu}"
    command = f"llama-server --model blobs/{blob} --port 0 -c {context}{layers}"
    print(
        f'level=INFO source=llama_server.go:431 msg="starting llama-server" cmd="{command}"',
        file=sys.stderr,
        flush=True,
    )


def _log_bytes_read() -> None:
    """As llama.cpp says that all tensors are there."""
    print("0.00.010.000 I cmn          init: llama threadpool init, n_threads = 1", file=sys.stderr, flush=True)


def _log_end(took: float) -> None:
    """As Ollama says that its runner answers."""
    line = f'level=INFO source=llama_server.go:1362 msg="llama-server started in {took:.2f} seconds"'
    print(line, file=sys.stderr, flush=True)


def _stay(gone: Callable[[], bool], stopping: threading.Event) -> None:
    if gone() or stopping.is_set():
        raise SimError("request canceled", 499)
