"""A warm-up proves what a model can do, and waits for who changes the model; through real workers and a simulated
server."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.core.model_name import ModelName
from jobs.core.retry import NEVER
from jobs.ledger.job import Job, JobState
from jobs.ledger.job_text import story
from jobs.models.model_settings import ModelSettings
from jobs.ollama.client import OllamaClient
from jobs.tasks.context import TaskContext
from jobs.testing.models import SimModel, find
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.support.pull_setup import MODEL, Scene, post, worked, working
from tests.support.stores import Store
from tests.support.tiers import A10G
from tests.support.waiting import PATIENCE, until


def known(name: str) -> SimModel:
    model = find(ModelName.parse(name))
    assert model is not None
    return model


EMBEDS = known("nomic-embed-text")
LLAMA = known("llama3.2:1b")
SEES = replace(known("tiny"), name=ModelName.parse("sees"), capabilities=("vision",))


class Bench:
    def __init__(self, scene: Scene, store: Store, registry: RegistryDouble, server: OllamaDouble) -> None:
        self.scene, self.store, self.registry, self.server = scene, store, registry, server

    @contextmanager
    def context(self, **more: Any) -> Iterator[TaskContext]:
        with httpx.Client(timeout=PATIENCE) as client, OllamaClient(self.server.url, policy=NEVER) as ollama:
            yield self.scene.context(client, **{"servers": {A10G.name: ollama}, "tiers": (A10G,)} | more)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with (
        RegistryDouble([MODEL, EMBEDS, LLAMA, SEES]) as registry,
        ExitStack() as closing,
    ):
        scene = Scene(tmp_path, registry.url)
        server = closing.enter_context(OllamaDouble(tmp_path / "models", tokens_per_second=200.0))
        store = scene.store()
        closing.callback(store.close)
        yield Bench(scene, store, registry, server)


def told(job: Job) -> str:
    return "\n".join(story(job, datetime.now(UTC)))


def warmed(bench: Bench, model: SimModel, *, reads_files: bool = True) -> dict[str, Any]:
    name = str(model.name)
    with bench.context() as context:
        worked(bench.store, context, post(bench.store, "pull", model=name))
        here = context if reads_files else replace(context, weights=None)
        job = worked(bench.store, here, post(bench.store, "warm", model=name))
    assert job.state is JobState.SUCCEEDED, told(job)
    assert len(job.attempts) == 1
    assert job.result
    return dict(job.result) | {"told": told(job)}


@pytest.mark.parametrize("reads_files", [True, False])
def test_a_model_that_embeds_is_proved_by_an_embedding(bench: Bench, reads_files: bool) -> None:
    """It is known by its own files, or by what its server shows where they are not ours to read."""
    result = warmed(bench, EMBEDS, reads_files=reads_files)
    assert (result["proved_by"], result["embedding_length"]) == ("an embedding", 768)
    assert result["tokens_per_second"] is None
    assert "and embeds" in result["told"]


@pytest.mark.parametrize("reads_files", [True, False])
def test_a_model_that_generates_is_proved_by_some_tokens(bench: Bench, reads_files: bool) -> None:
    """Its speed is that of several tokens, and the first one is timed by itself."""
    result = warmed(bench, LLAMA, reads_files=reads_files)
    assert result["proved_by"] == "tokens"
    assert 0 < result["tokens_per_second"] < 1000  # a busy machine takes its time; what is not real takes none
    assert 0 < result["first_token_seconds"] < PATIENCE


@pytest.mark.parametrize("model", [LLAMA, EMBEDS], ids=str)
def test_a_model_is_warmed_with_the_context_that_is_set_for_it(bench: Bench, model: SimModel) -> None:
    """It is in memory as callers will have it, who would else load it anew."""
    name = str(model.name)
    with bench.context(settings=lambda _: ModelSettings(context=1024)) as context:
        worked(bench.store, context, post(bench.store, "pull", model=name))
        job = worked(bench.store, context, post(bench.store, "warm", model=name))
        (loaded,) = httpx.get(f"{bench.server.url}/api/ps", timeout=PATIENCE).json()["models"]

    assert (job.state, loaded["context_length"]) == (JobState.SUCCEEDED, 1024)


def test_any_other_model_is_proved_by_its_load(bench: Bench) -> None:
    """A model that neither generates nor embeds is loaded, and asked for nothing."""
    result = warmed(bench, SEES, reads_files=False)
    assert (result["proved_by"], result["tokens_per_second"]) == ("its load", None)
    assert result["size"] > 0


def test_a_warm_up_waits_for_the_pull_of_its_model(bench: Bench) -> None:
    """Posted while the model is on its way, it begins when that is here, and succeeds at its first attempt."""
    bench.registry.throttle.bytes_per_second = MODEL.size // 2
    ledger = bench.store.ledger()
    pull, warm = post(bench.store, "pull"), post(bench.store, "warm")
    with bench.context() as context, working(bench.store, context):
        until(lambda: ledger.reader.get(pull).state is JobState.RUNNING)
        assert ledger.reader.get(warm).state is JobState.QUEUED
        until(lambda: ledger.reader.get(warm).has_ended)
    came, job = ledger.reader.get(pull), ledger.reader.get(warm)
    assert [each.outcome for each in job.attempts] == ["succeeded"], told(job)
    assert came.ended_at
    assert job.attempts[0].started_at >= came.ended_at


def test_a_warm_up_tells_why_its_pull_failed(bench: Bench) -> None:
    """Where the pull that it waited for failed, it says so, with that pull's own reason and remedy, in one attempt."""
    bench.registry.faults.add(RegistryFault("manifest", "status", 404, times=None))
    pull, warm = post(bench.store, "pull"), post(bench.store, "warm")
    with bench.context() as context:
        job = worked(bench.store, context, warm)
    assert [each.failure_class for each in job.attempts] == ["not_found"]
    message, hint = job.attempts[0].message, job.attempts[0].hint
    registry = httpx.URL(bench.registry.url).netloc.decode()
    assert f"is not here, since its pull {pull} failed: {registry} has no walnut:latest" in str(message)
    assert "check the spelling" in str(hint)


def test_a_warm_up_outlives_a_server_that_has_not_seen_its_model_yet(bench: Bench) -> None:
    """Right after a pull a server may still answer that there is no such model: that is worth another attempt."""
    with bench.context() as context:
        worked(bench.store, context, post(bench.store, "pull"))
        manifest = context.require_weights().layout.manifest(MODEL.name)
        aside = manifest.rename(manifest.parent / ".not-seen")
        warm, ledger = post(bench.store, "warm"), bench.store.ledger()
        with working(bench.store, context):
            until(lambda: any(each.ended_at for each in ledger.reader.get(warm).attempts))
            aside.rename(manifest)
            until(lambda: ledger.reader.get(warm).has_ended)
    job = ledger.reader.get(warm)
    assert job.attempts[0].failure_class == "not_found"
    assert "the server has not seen it yet" in str(job.attempts[0].message)
