"""What runs on the event loop does not grow with models, keys and containers, nor takes long where there are many.

Each kind of request is asked of a gateway of a large house, and of one twice as large, whose loop counts what each of
its callbacks calls. Calls are the same on a busy machine as on a quiet one; seconds are not, not even those that the
thread worked, so these are held to ten times what they may be.
"""

import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from app.gateway.event_loop.callbacks import Callback, WrappingLoop
from app.gateway.event_loop.watch import name_of
from tests.support.call_counts import uncollected
from tests.support.dialects import DIALECTS, OLLAMA
from tests.support.gateways import RunningGateway
from tests.support.large_gateway import ADMIN_KEY, BATCH, CHAT_KEY, NARROW_KEY, Size, large_gateway, models_of, name
from tests.support.waiting import PATIENCE

LARGE = Size(models=500, keys=50, containers=50)
LARGER = Size(models=1_000, keys=100, containers=100)

WORK_SECONDS = 0.002
"""What a callback may take."""

MORE_CALLS = 40
"""What may come from how an answer was cut into pieces on its way. Each model more would be a call at least, or five
hundred; each container, key or tier one of fifty."""

FOLLOWERS = 50

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Asked:
    """One kind of request."""

    label: str
    path: str
    key: str
    body: Mapping[str, Any] | None = None
    times: int = 3


def kinds() -> Iterator[Asked]:
    for key in (CHAT_KEY, NARROW_KEY):
        for path in ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models", f"/v1/models/{name(5)}", "/ui"):
            yield Asked(f"{path} with {key}", path, key)
    for path in ("/api/tags", "/api/ps", "/v1/models"):
        yield Asked(f"{path} after many chats", path, CHAT_KEY)
    for dialect in DIALECTS:
        for model in (name(3), "made-3", "gpt-x"):
            yield Asked(f"{dialect.name} {model}", dialect.path, CHAT_KEY, {**dialect.body, "model": model})
        yield Asked(f"{dialect.name} unknown", dialect.path, CHAT_KEY, {**dialect.body, "model": "modell-12"})
        yield Asked(f"{dialect.name} unknown, narrow", dialect.path, NARROW_KEY, {**dialect.body, "model": "mode-1"})
    yield Asked("show", "/api/show", CHAT_KEY, {"model": name(7)})
    for key in (ADMIN_KEY, NARROW_KEY):
        for path in (
            "models", "tiers", "health", "board", "jobs", "jobs?limit=1000", "jobs?dead=true&folded=true",
            "jobs/summary", "usage", "days", "cost", "night", f"route?model={name(9)}", "openapi.json",
        ):  # fmt: skip
            yield Asked(f"{path} with {key}", f"/ops/v1/{path}", key)
    for path in ("/metrics", "/readyz", "/healthz"):
        yield Asked(path, path, ADMIN_KEY)
    for path in ("/v1/files", "/v1/batches", "/v1/batches?limit=100", f"/v1/batches/{BATCH}", "/v1/messages/batches"):
        yield Asked(path, path, CHAT_KEY)
    yield Asked("a job", "/ops/v1/jobs", ADMIN_KEY, {"kind": "verify", "model": name(11)})


@dataclass
class CallbackMeter:
    """Counts what each callback of a loop calls, and how long its thread works for it."""

    #: All of it is the loop's own, between two requests read by the test.
    calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    is_within: bool = False

    def wrap(self, callback: Callback) -> Callback:
        def run_counted(*args: Any) -> Any:
            if self.is_within:
                return callback(*args)
            self.is_within = True
            count = 0

            def note(_: FrameType, event: str, __: Any) -> None:
                nonlocal count
                count += event in {"call", "c_call"}

            began = time.thread_time()
            sys.setprofile(note)
            try:
                return callback(*args)
            finally:
                sys.setprofile(None)
                self.is_within = False
                what, seconds = name_of(callback), time.thread_time() - began
                self.calls[what] = max(count, self.calls.get(what, 0))
                self.seconds[what] = max(seconds, self.seconds.get(what, 0.0))

        return run_counted


@dataclass(frozen=True)
class Cost:
    """The most that one callback called, and worked; and the least that this was of several requests."""

    calls: int
    seconds: float
    least_calls: int


def chat(model: str) -> Asked:
    return Asked("", OLLAMA.path, CHAT_KEY, {**OLLAMA.body, "model": model})


def ask(running: RunningGateway, asked: Asked) -> bytes:
    line = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    body = None if asked.body is None else json.dumps(asked.body)
    line.request("GET" if body is None else "POST", asked.path, body, {"authorization": f"Bearer {asked.key}", **JSON})
    answer = line.getresponse()
    said = answer.read()
    line.close()
    assert answer.status in {200, 201, 403, 404}, (asked, answer.status, said[:200])
    return said


def follow(running: RunningGateway, id: str) -> None:
    """Hear the first event of a job, and leave."""
    line = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    line.request("GET", f"/ops/v1/jobs/{id}/events", headers={"authorization": f"Bearer {ADMIN_KEY}"})
    answer = line.getresponse()
    while not answer.readline().startswith(b"data:"):
        pass
    line.close()


def costs(folder: Path, size: Size) -> Mapping[str, Cost]:
    """What each kind of request costs the loop of such a gateway."""
    meter, found = CallbackMeter(), dict[str, Cost]()

    def count(label: str, work: Callable[[], object], times: int) -> None:
        """What so many goes of this call, and work, at most; and at least."""
        tries = []
        for _ in range(times):
            meter.calls, meter.seconds = {}, {}
            work()
            tries.append((max(meter.calls.values()), max(meter.seconds.values())))
        calls, seconds = zip(*tries, strict=True)
        found[label] = Cost(max(calls), max(seconds), min(calls))

    def change_models() -> None:
        source.models = [*source.models[1:], source.models[0]]
        running.known_state.refresh()
        ask(running, chat(name(3)))
        ask(running, Asked("", "/api/tags", NARROW_KEY))

    folder.mkdir()
    source = models_of(size)
    with (
        large_gateway(folder, size, source=source, new_loop=lambda: WrappingLoop(meter.wrap)) as running,
        uncollected(),
    ):
        for asked in kinds():
            if asked.label.endswith("after many chats"):
                for number in range(40):
                    ask(running, chat(name(number)))
            count(asked.label, partial(ask, running, asked), asked.times)
        count("after other models came", change_models, 3)
        content = b"x" * (size.models << 13)
        count("an upload and a download", lambda: send_and_get(running, content), 3)
        id = json.loads(ask(running, Asked("", "/ops/v1/jobs?limit=1", ADMIN_KEY)))["jobs"][0]["id"]
        with ThreadPoolExecutor(FOLLOWERS) as crowd:
            count("followers of one job", lambda: list(crowd.map(lambda _: follow(running, id), range(FOLLOWERS))), 2)
    return found


def send_and_get(running: RunningGateway, content: bytes) -> None:
    """A file of megabytes, there and back."""
    with httpx.Client(base_url=running.url, headers={"x-api-key": CHAT_KEY}, timeout=PATIENCE) as client:
        file = client.post("/v1/files", files={"file": content}, data={"purpose": "batch"}).json()
        assert client.get(f"/v1/files/{file['id']}/content").content == content
        assert client.delete(f"/v1/files/{file['id']}").status_code == 200


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Cost]:
    return costs(tmp_path_factory.mktemp("large") / "gateway", LARGE)


def test_nothing_on_the_loop_grows(large: Mapping[str, Cost], tmp_path: Path) -> None:
    """With twice as many models, keys and containers each callback calls as much as before.

    The least of several requests there beside the most here: what is met by chance, as a refresh that is due, is no
    growth, and what goes through all models is met each time.
    """
    larger = costs(tmp_path / "gateway", LARGER)
    grown = {
        label: (cost.calls, larger[label].least_calls)
        for label, cost in large.items()
        if larger[label].least_calls > 1.1 * cost.calls + MORE_CALLS
    }
    assert not grown


def test_nothing_holds_the_loop_up(large: Mapping[str, Cost]) -> None:
    """Five hundred models, fifty keys, fifty containers, fifty followers: no callback works for ten times its share."""
    long = {label: cost.seconds for label, cost in large.items() if cost.seconds > 10 * WORK_SECONDS}
    assert not long


def test_what_grows_is_seen(tmp_path: Path) -> None:
    """The counting finds a callback that goes through all models."""
    meter = CallbackMeter()
    with large_gateway(tmp_path, Size(40, 5, 5), new_loop=lambda: WrappingLoop(meter.wrap)) as running:
        known = running.known_state
        loop_wide = meter.wrap(lambda: [str(model.name) for model in known.models()])
        loop_wide()
    assert max(meter.calls.values()) > 40
