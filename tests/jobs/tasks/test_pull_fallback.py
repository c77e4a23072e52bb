"""A pull that a registry refuses: whether a server may try, and what is told when that fails as well."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.core.retry import NEVER
from jobs.ledger.job import Job, JobState
from jobs.ledger.job_text import story
from jobs.models.placement import TierCapacity
from jobs.ollama.client import OllamaClient
from jobs.testing.ollama.faults import OllamaFault
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.pull_setup import MODEL, Scene, post, worked
from tests.support.waiting import PATIENCE

LOCAL = TierCapacity("local", None, gpu_promised=False)


class Bench:
    """A registry that refuses us; a found server, with a directory of its own, that it lets in."""

    def __init__(self, folder: Path, registry: RegistryDouble, closing: ExitStack) -> None:
        self.registry = registry
        self.scene = Scene(folder, registry.url)
        self.store = self.scene.store()
        closing.callback(self.store.close)
        self.lets_in = closing.enter_context(RegistryDouble([MODEL]))
        self.server = closing.enter_context(OllamaDouble(folder / "server", registry=self.lets_in.url))
        self._client = closing.enter_context(httpx.Client(timeout=PATIENCE))
        self._ollama = closing.enter_context(OllamaClient(self.server.url, policy=NEVER))

    def pull(self, model: str = str(MODEL.name), way: str = "auto", **more: Any) -> Job:
        context = self.scene.context(self._client, servers={"local": self._ollama}, tiers=(LOCAL,), **more)
        return worked(self.store, context, post(self.store, model=model, way=way))

    def asked(self) -> int:
        return sum(self.lets_in.requests.values())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with RegistryDouble([MODEL]) as registry, ExitStack() as closing:
        registry.faults.add(RegistryFault("manifest", "status", 403, times=None))
        yield Bench(tmp_path, registry, closing)


def told(job: Job) -> str:
    return "\n".join(story(job, datetime.now(UTC)))


def test_a_server_pulls_what_its_key_opens(bench: Bench) -> None:
    """Ollama's own registry may know the server's key: the server tries, and the story says why it did."""
    job = bench.pull()
    assert job.state is JobState.SUCCEEDED, told(job)
    assert "pulled by the server of tier local, because the registry refused us" in told(job)
    assert "answers 403 for walnut:latest: forbidden" in told(job)


def test_a_server_that_is_refused_as_well_keeps_the_first_reason(bench: Bench) -> None:
    """Class `auth`, one attempt, with the registry's own sentence before the server's."""
    bench.lets_in.faults.add(RegistryFault("manifest", "status", 401, times=None))
    job = bench.pull()
    assert [each.failure_class for each in job.attempts] == ["auth"], told(job)
    first, _, second = str(job.attempts[0].message).partition("; nor could the server pull it: ")
    assert "answers 403 for walnut:latest: forbidden" in first
    assert "unauthorized" in second


@pytest.mark.parametrize(
    "fault", [OllamaFault("/api/pull", "status", 500, "boom"), OllamaFault("/api/pull", "error", 1, "boom")]
)
def test_a_server_that_cannot_begin_costs_one_attempt(bench: Bench, fault: OllamaFault) -> None:
    """A server that fails before it has fetched a byte does not hide why the registry refused."""
    bench.server.faults.add(fault)
    job = bench.pull()
    assert [each.failure_class for each in job.attempts] == ["auth"], told(job)
    assert "boom" in told(job)


def test_what_a_server_has_begun_is_tried_again(bench: Bench) -> None:
    """Trouble that passes, once the server fetches, is a failure of the network; why the server pulls stays told."""
    bench.lets_in.throttle.bytes_per_second = MODEL.size
    bench.server.faults.add(OllamaFault("/api/pull", "error", 8, "read: connection reset by peer"))
    job = bench.pull()
    assert [each.outcome for each in job.attempts] == ["retry", "succeeded"], told(job)
    assert job.attempts[0].failure_class == "network"
    assert "answers 403 for walnut:latest: forbidden" in str(job.attempts[0].message)


def test_a_server_is_unknown_to_any_other_registry(bench: Bench) -> None:
    """A registry that knows no keys of Ollama refuses a server as it refuses us: none is asked, and the reason is the
    registry's."""
    host = bench.registry.url.removeprefix("http://")
    job = bench.pull(f"{host}/library/walnut")
    assert [each.failure_class for each in job.attempts] == ["auth"]
    assert str(job.attempts[0].message).endswith("walnut:latest: forbidden")
    assert not bench.asked()
    assert [each.route for each in bench.registry.seen] == ["manifest"]


def test_a_server_is_told_that_a_registry_speaks_http(bench: Bench) -> None:
    """What is asked over http by us is asked so by a server; without that word it would speak https."""
    bench.registry.faults.clear()
    host = f"localhost:{httpx.URL(bench.registry.url).port}"  # a blob is redirected to another host, as Ollama wants it
    job = bench.pull(f"{host}/library/walnut", way="server")
    assert job.state is JobState.SUCCEEDED, told(job)
