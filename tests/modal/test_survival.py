"""What a deployment survives: a redeployment under a running pull, the end of a worker's day, a Dict that forgets."""

import json
from collections.abc import Iterator
from datetime import timedelta

import modal
import pytest
from modal.client import Client

from jobs.core.clock import SystemClock
from jobs.core.progress import Reading
from jobs.ledger.job import Ending, JobState
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.testing.clock import HandClock
from jobs.testing.models import SimModel, arbitrary
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.deployments import (
    APP,
    are_vouched_for,
    ask,
    control_plane,
    deploy,
    deployed_facts,
    deployed_ledger,
    finished,
    has_whole,
    modal_command,
    with_secrets,
)
from tests.support.waiting import until

MODELS = {name: arbitrary(name, 5_000_000, layers=6) for name in ("rolling", "recreate", "evening")}

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryDouble]:
    with RegistryDouble(tuple(MODELS.values())) as registry:
        yield registry


@pytest.fixture(scope="module")
def deployed(registry: RegistryDouble) -> Iterator[Platform]:
    with control_plane(registry) as platform:
        with_secrets(platform)
        deploy(platform)
        yield platform


@pytest.fixture(scope="module")
def client(deployed: Platform) -> Iterator[Client]:
    with deployed.client() as client:
        yield client


def half_pulled(platform: Platform, client: Client, registry: RegistryDouble, model: SimModel) -> str:
    """A pull of which all but the last blob is committed, and the last one hangs; its id."""
    *before, last = model.layers
    registry.faults.add(RegistryFault("cdn", "hang", value=1000, digest=last.digest, times=None))
    registry.reset()
    name = str(model.name)
    id = deployed_ledger(client).post("pull", name, {"model": name}, by="test").job.id
    modal.Function.from_name(APP, "weights_worker", client=client).spawn()
    until(lambda: deployed_ledger(client).reader.get(id).progress.completed >= model.layers[0].size * len(before))
    until(lambda: are_vouched_for(platform, before))
    return id


def end_all(platform: Platform) -> None:
    """No worker is left that knows the settings of before."""
    for worker in platform.containers("weights_worker"):
        platform.kill(worker)


def assert_fetched_once(registry: RegistryDouble, model: SimModel) -> None:
    """Of all but the last blob every byte was served exactly once."""
    served = registry.counters()["served"]
    *before, _ = model.layers
    assert {layer.digest: served[layer.digest] for layer in before} == {layer.digest: layer.size for layer in before}


@pytest.mark.parametrize(("strategy", "outcomes"), [("rolling", ["succeeded"]), ("recreate", ["retry", "succeeded"])])
def test_a_redeployment_under_a_pull_loses_nothing(
    deployed: Platform, client: Client, registry: RegistryDouble, strategy: str, outcomes: list[str]
) -> None:
    """Deployed anew while a pull runs, whether its container may finish or is taken away: the job ends once, and what
    was fetched is not fetched again."""
    model = MODELS[strategy]
    id = half_pulled(deployed, client, registry, model)
    worker = deployed.wait_for("weights_worker")

    # Another spelling of the same mirror: an image with another variable, hence new versions of all functions.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OLLAMA_MODAL_REGISTRY", f"{registry.url}{'/' * len(strategy)}")
        done = modal_command(deployed, "deploy", "--strategy", strategy, "-m", "app.deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    registry.faults.clear()
    registry.hang_up()
    job = finished(deployed_ledger(client), id)

    assert job.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == outcomes
    assert has_whole(deployed, f"{strategy}/latest")
    assert_fetched_once(registry, model)
    versions = [one.version for one in deployed.containers("weights_worker", alive=False)]
    assert versions[-1] > worker.version or strategy == "rolling"


def test_a_pull_outlives_its_workers_day(deployed: Platform, client: Client, registry: RegistryDouble) -> None:
    """A worker whose time is up hands its pull back and calls a fresh one, which goes on from the bytes that are there,
    as often as it takes; nobody else sends a worker."""
    deployed.settings.environ["OLLAMA_MODAL_DAY_SECONDS"] = "3"
    end_all(deployed)
    calls = len(deployed.calls.calls)
    id = half_pulled(deployed, client, registry, MODELS["evening"])
    ledger = deployed_ledger(client)
    until(lambda: len(ledger.reader.get(id).attempts) >= 2)
    registry.faults.clear()
    registry.hang_up()
    job = finished(ledger, id)
    deployed.settings.environ.pop("OLLAMA_MODAL_DAY_SECONDS")
    end_all(deployed)

    assert job.state is JobState.SUCCEEDED
    assert {attempt.message for attempt in job.attempts[:-1]} == {"the worker was asked to stop"}
    assert {attempt.outcome for attempt in job.attempts[:-1]} == {"retry"}
    assert has_whole(deployed, "evening/latest")
    assert_fetched_once(registry, MODELS["evening"])
    assert len(deployed.calls.calls) - calls >= len(job.attempts)


def test_what_ended_long_ago_is_read_from_the_archive(deployed: Platform, client: Client) -> None:
    """A run of the weights worker, an hour after one that did so, takes jobs that ended days ago out of the Dict and
    puts them beside the weights; `jobs --since 90d` finds them there."""
    clock = HandClock(SystemClock().now() - timedelta(days=10))
    facts = deployed_facts(client, clock)
    queue = modal.Queue.from_name("ollama-jobs", client=client, create_if_missing=True)
    old = Ledger(queue, facts, clock)
    id = old.post("pull", "ancient:latest", {"model": "ancient"}, by="somebody").job.id
    claim = old.claim(id, worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    old.end(claim, Ending("failed", "not_found", "there is no such model"), Reading())
    facts.pop(keys.CHANGES_FORGOTTEN)  # which tells when that was last done
    deployed.result(modal.Function.from_name(APP, "weights_worker", client=client).spawn().object_id)

    assert id not in {job.id for job in deployed_ledger(client).reader.jobs()}
    archived = deployed.volume("ollama-model-weights").files()["ops/jobs.jsonl"]
    assert [json.loads(line)["id"] for line in archived.splitlines()] == [id]
    told = ask(deployed, "jobs", "--since", "90d")[-1]
    assert (told["id"], told["attempts"][0]["message"]) == (id, "there is no such model")


def test_a_pull_whose_worker_cannot_start_says_so(registry: RegistryDouble) -> None:
    """With nothing deployed and a container that cannot start, `pull` ends and tells why; the job stays queued."""
    with control_plane(registry) as platform:
        platform.settings.fresh = True  # one that is forked has read all that it would not find
        platform.settings.environ["PYTHONPATH"] = "/nonexistent"
        platform.settings.start_attempts = 1
        done = modal_command(platform, "run", "-m", "app.jobs::pull", "--model", "rolling")
        platform.settings.environ.pop("PYTHONPATH")

        assert done.returncode == 1
        assert "error: the worker of this command ended: " in done.stderr
        assert "hint: why is in its log above; the job stays in the queue" in done.stderr
        [job] = ask(platform, "jobs")
        assert job["state"] == "queued"
