"""Lines of batches as a worker sends them: with a pass that lies in the ledger, over real sockets."""

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx

from jobs.batches.passes import LINE, ROOM, BatchPass, new_pass
from jobs.batches.records import new_batch_id
from jobs.core.clock import SystemClock
from jobs.store import keys
from jobs.store.protocols import DictLike
from tests.support.dialects import TALK
from tests.support.scripted_server import Connection, HeardRequest
from tests.support.waiting import PATIENCE, until

CHAT = "/v1/chat/completions"

ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}


def body(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "llama3.2", "messages": [{**TALK[0], "content": text}]} | more


class Batch:
    """One that a worker holds, as far as a gateway knows of it."""

    def __init__(
        self, facts: DictLike, owner: str = "", *, may_wake: bool = True, lasts: timedelta = timedelta(hours=1)
    ) -> None:
        self.id = new_batch_id("openai")
        self._facts = facts
        self._owner = owner
        self._number = 0
        self.renew(may_wake=may_wake, lasts=lasts)

    def renew(self, *, may_wake: bool = True, lasts: timedelta = timedelta(hours=1)) -> None:
        """Have another pass from now on."""
        self.shown = new_pass(self.id)
        self.beat(may_wake=may_wake, lasts=lasts)

    def beat(self, *, may_wake: bool = True, lasts: timedelta = timedelta(hours=1)) -> None:
        """Write the same pass down again."""
        until = SystemClock().now() + lasts
        written = BatchPass.of(self.shown, self._owner, until, may_wake=may_wake)
        self._facts.put(keys.batch_pass(self.id), written.as_json())

    def send(self, url: str, path: str = CHAT, *, text: str = "hello", **more: Any) -> httpx.Response:
        """Send a line, and wait for what becomes of it."""
        self._number += 1
        headers = {"authorization": f"Bearer {self.shown}", "x-request-id": f"{self.id}.{self._number}.1"}
        return httpx.post(f"{url}{path}", json=body(text, **more), headers=headers, timeout=PATIENCE)


def told(answer: httpx.Response) -> tuple[int, str | None]:
    """What a batch reads of an answer first."""
    return answer.status_code, answer.headers.get(LINE)


def room(answer: httpx.Response) -> int:
    return int(answer.headers[ROOM])


class HeldAnswers:
    """A server that answers when a test lets it, each request by its text; it knows which were left before."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: The texts of those that are not answered yet, in the order in which they came; all under `_changed`.
        self._open: list[str] = []
        self._may: set[str] = set()
        self._left: list[str] = []
        self._is_free = False

    def __call__(self, heard: HeardRequest, line: Connection) -> None:
        text = json.loads(heard.body)["messages"][0]["content"]
        with self._changed:
            self._open.append(text)
        while True:
            with self._changed:
                if self._is_free or text in self._may:
                    self._may.discard(text)
                    self._open.remove(text)
                    break
                self._changed.wait(0.01)
            if line.is_left():
                with self._changed:
                    self._open.remove(text)
                    self._left.append(text)
                return
        with suppress(OSError):
            line.document(ANSWER)

    def answer(self, *texts: str) -> None:
        with self._changed:
            self._may.update(texts)
            self._changed.notify_all()

    def free(self) -> None:
        """Answer at once, from now on."""
        with self._changed:
            self._is_free = True
            self._changed.notify_all()

    @property
    def open(self) -> list[str]:
        with self._changed:
            return list(self._open)

    @property
    def left(self) -> list[str]:
        with self._changed:
            return list(self._left)

    def await_open(self, *texts: str) -> None:
        until(lambda: sorted(self.open) == sorted(texts), f"{texts} at the server", shows=lambda: self.open)


class Senders:
    """Threads, each of which waits for one answer."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(32)

    def line(self, batch: Batch, url: str, text: str, **more: Any) -> "Future[httpx.Response]":
        return self._threads.submit(lambda: batch.send(url, text=text, **more))

    def person(self, url: str, text: str, key: str = "", **more: Any) -> "Future[httpx.Response]":
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return self._threads.submit(
            lambda: httpx.post(f"{url}{CHAT}", json=body(text, **more), headers=headers, timeout=PATIENCE)
        )

    def close(self) -> None:
        self._threads.shutdown()


def answers(futures: "list[Future[httpx.Response]]") -> list[httpx.Response]:
    return [each.result(PATIENCE) for each in futures]
